//! Texts for people and for URLs: chains of causes, mistakes in JSON, the nearest name, console excerpts, encodings,
//! tables.

pub mod encoding;
mod escapes;
pub mod percent;
mod table;

pub use escapes::{Stripper, last_lines, strip_escapes};
pub use table::tabbed;

/// An error with all its causes in one line; a cause that its effect has already quoted is not said twice.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = e.source();
    }
    text
}

/// The candidate most like `word`, if one is like enough to be worth a suggestion.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| {
            let alike = strsim::jaro_winkler(word, candidate);
            // One slip of the finger; in short words Jaro does not see it.
            let slip = word.chars().count() > 1 && strsim::osa_distance(word, candidate) == 1;
            (if slip { alike.max(0.8) } else { alike }, candidate)
        })
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `did you mean "…"?`, if one of the candidates is like enough.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, candidates).map(|near| format!("did you mean {near:?}?"))
}

/// Bytes as hexadecimal digits in lower case.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What is wrong with JSON, without what was found in its place: that may be a secret.
pub fn json_mistake(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    // The name is ours.
    match text.strip_prefix("missing field `").and_then(|rest| rest.split_once('`')) {
        Some((name, _)) => {
            format!("not the expected JSON: {name} is missing at line {line}, column {column}")
        }
        None => format!("not the expected JSON at line {line}, column {column}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Step(&'static str, #[source] Option<Box<Step>>);

    #[test]
    fn causes_are_said_once() {
        let cause = Step("no space", None);
        let quoted = Step("cannot write x: no space", Some(Box::new(cause)));
        assert_eq!(chain(&Step("saving", Some(Box::new(quoted)))), "saving: cannot write x: no space");
    }

    #[test]
    fn only_near_names_are_suggested() {
        assert_eq!(did_you_mean("qmeu", ["aws", "qemu"]).as_deref(), Some("did you mean \"qemu\"?"));
        assert_eq!(nearest("rn", ["list", "run", "spawn"]), Some("run"));
        assert_eq!(did_you_mean("xyz", ["aws", "qemu"]), None);
    }
}
