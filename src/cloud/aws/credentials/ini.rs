//! The INI files of AWS's tools, `~/.aws/credentials` and `~/.aws/config`, read as Amazon's botocore does.

use std::collections::BTreeMap;

use crate::secret::Secret;

/// The values of a section. They may all be secret.
pub(super) type Section = BTreeMap<String, Secret>;

/// Sections and their names as they are written, in the order of the file.
pub(super) type Sections = Vec<(String, Section)>;

/// The section whose values all others have too.
const DEFAULTS: &str = "DEFAULT";

/// Values of these have no blanks in them: what stands behind one, after a blank, may be a comment.
const WORDS: [&str; 9] = [
    "aws_access_key_id",
    "aws_session_token",
    "credential_source",
    "duration_seconds",
    "endpoint_url",
    "region",
    "role_arn",
    "sso_account_id",
    "sso_region",
];

/// Reads a file: `[section]`, `key = value` or `key: value`, lines of comment after `#` or `;`. A line that is
/// indented deeper than the key above it goes on with that key's value; where the value was empty, these are nested
/// settings, which nobody here asks for.
///
/// Kinder than botocore, which refuses such files or makes no use of such values: a byte order mark, sections and keys
/// that come twice (the last value counts), and comments behind values that are one word.
///
/// # Errors
/// What is wrong, with the line's number; never the line itself.
pub(super) fn parse(text: &str) -> Result<Sections, String> {
    let mut sections: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut current: Option<usize> = None;
    // The key that deeper lines belong to, and how deep it stands.
    let mut open: Option<String> = None;
    let mut depth = 0;
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    for (number, line) in text.split(['\n', '\r']).enumerate() {
        let content = line.trim();
        if content.starts_with(['#', ';']) {
            continue;
        }
        let mut values = current.and_then(|at| sections.get_mut(at)).map(|(_, values)| values);
        let indent = line.chars().take_while(|c| c.is_whitespace()).count();
        let continued = open.as_ref().zip(values.as_mut()).and_then(|(key, values)| values.get_mut(key));
        match continued {
            Some(value) if content.is_empty() || indent > depth => {
                value.push('\n');
                value.push_str(content);
                continue;
            }
            _ if content.is_empty() => continue,
            _ => depth = indent,
        }
        if let Some(name) = section(content) {
            let known = sections.iter().position(|(n, _)| n == name);
            current = known.or(Some(sections.len()));
            if known.is_none() {
                sections.push((name.to_owned(), BTreeMap::new()));
            }
            open = None;
            continue;
        }
        let values = values.ok_or_else(|| format!("line {}: a value outside of a section", number + 1))?;
        let (key, value) =
            content.split_once(['=', ':']).filter(|(key, _)| !key.is_empty()).ok_or_else(|| {
                let what = if content.starts_with('[') {
                    "a section without `]`"
                } else {
                    "neither a section nor `key = value`"
                };
                format!("line {}: {what}", number + 1)
            })?;
        let key = key.trim().to_lowercase();
        let value = if WORDS.contains(&&*key) { uncommented(value) } else { value };
        values.insert(key.clone(), value.trim().to_owned());
        open = Some(key);
    }
    Ok(finished(sections))
}

/// What stands between the brackets; text behind the last of them is passed over.
fn section(line: &str) -> Option<&str> {
    let (name, _) = line.strip_prefix('[')?.rsplit_once(']')?;
    Some(name).filter(|n| !n.is_empty())
}

/// The value without a comment behind it.
fn uncommented(value: &str) -> &str {
    let comment = |at: &usize| value[..*at].ends_with([' ', '\t']) && value[*at..].starts_with(['#', ';']);
    let at = value.char_indices().map(|(at, _)| at).find(comment);
    at.map_or(value, |at| &value[..at])
}

/// The sections with the values that stand for all, and without nested settings.
fn finished(mut sections: Vec<(String, BTreeMap<String, String>)>) -> Sections {
    let at = sections.iter().position(|(name, _)| name == DEFAULTS);
    let defaults = at.map(|at| sections.remove(at).1).unwrap_or_default();
    let whole = |values: BTreeMap<String, String>| {
        let mut all = defaults.clone();
        all.extend(values);
        let all = all.into_iter().map(|(key, value)| (key, value.trim_end().to_owned()));
        all.filter(|(_, value)| !value.starts_with('\n')).map(|(key, value)| (key, value.into())).collect()
    };
    sections.into_iter().map(|(name, values)| (name, whole(values))).collect()
}

/// The words of a section's name, with quotes and backslashes as in a shell; `None` when a quote is not closed.
pub(super) fn words(name: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut rest = name.chars();
    while let Some(c) = rest.next() {
        match (quote, c) {
            (Some(q), _) if c == q => quote = None,
            (Some('"'), '\\') => {
                let next = rest.next()?;
                let word = word.get_or_insert_default();
                if !matches!(next, '"' | '\\') {
                    word.push('\\');
                }
                word.push(next);
            }
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '\\') => word.get_or_insert_default().push(rest.next()?),
            (None, ' ' | '\t' | '\r' | '\n') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words).filter(|_| quote.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value<'a>(sections: &'a Sections, section: &str, key: &str) -> Option<&'a str> {
        sections.iter().find(|(name, _)| name == section)?.1.get(key).map(Secret::expose)
    }

    #[test]
    fn sections_values_and_comments() {
        let text = "\u{feff}# top\n[default]\nAWS_Access_Key_Id=AKIA # mine\naws_secret_access_key = a#b/c+d== # e\n\n\
            [profile \"two words\"] text\nregion: eu-west-1 ; there\ns3 =\n  max_concurrent_requests = 20\n\
            credential_process = one\n  # comment\n\n  two\nrole_arn=arn:aws:iam::1:role/r\n\
            [default]\nregion=x\n[empty]\r\n";
        let s = parse(text).unwrap();
        assert_eq!(value(&s, "default", "aws_access_key_id"), Some("AKIA"));
        assert_eq!(value(&s, "default", "aws_secret_access_key"), Some("a#b/c+d== # e"));
        assert_eq!(value(&s, "default", "region"), Some("x"));
        let two = "profile \"two words\"";
        assert_eq!(value(&s, two, "region"), Some("eu-west-1"));
        assert_eq!((value(&s, two, "max_concurrent_requests"), value(&s, two, "s3")), (None, None));
        assert_eq!(value(&s, two, "credential_process"), Some("one\n\ntwo"));
        assert_eq!(value(&s, two, "role_arn"), Some("arn:aws:iam::1:role/r"));
        assert!(s.last().is_some_and(|(name, values)| name == "empty" && values.is_empty()));
    }

    #[test]
    fn names_have_words() {
        for (name, expected) in [
            ("profile x", Some(&["profile", "x"][..])),
            (" profile\t'two words' ", Some(&["profile", "two words"])),
            (r#"profile "a \"b\" \c"x\ y"#, Some(&["profile", r#"a "b" \cx y"#])),
            ("profile ''", Some(&["profile", ""])),
            ("profile Mac's", None),
            ("profile x\\", None),
        ] {
            let expected = expected.map(|e| e.iter().map(|&w| w.to_owned()).collect::<Vec<_>>());
            assert_eq!(words(name), expected, "{name}");
        }
    }

    #[test]
    fn errors_name_the_line_and_not_what_is_in_it() {
        for (text, error) in [
            ("aws_secret_access_key = hidden", "line 1: a value outside of a section"),
            ("[a]\nhidden", "line 2: neither a section nor `key = value`"),
            ("[a]\n[hidden", "line 2: a section without `]`"),
            ("[a]\r= hidden", "line 2: neither a section nor `key = value`"),
        ] {
            assert_eq!(parse(text).unwrap_err(), error);
        }
    }
}
