//! The INI files of AWS's tools: `~/.aws/credentials` and `~/.aws/config`.

use std::collections::BTreeMap;

use crate::secret::Secret;

/// The values of a section. They may all be secret.
pub(super) type Section = BTreeMap<String, Secret>;

/// Sections by name; a section that comes twice is one.
pub(super) type Sections = BTreeMap<String, Section>;

/// Reads a file: sections in brackets, `key = value`, comments after `#` or `;` at the start of a line, or after a
/// blank in a value. Indented lines belong to the value above (nested settings) and are passed over.
///
/// # Errors
/// What is wrong, with the line's number; never the line itself.
pub(super) fn parse(text: &str) -> Result<Sections, String> {
    let mut sections = Sections::new();
    let mut current: Option<String> = None;
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let nested = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(rest) = line.strip_prefix('[') {
            let name = rest.split_once(']').map(|(name, _)| name.trim());
            let name = name.ok_or_else(|| format!("line {}: a section without `]`", number + 1))?;
            let name = name.split_whitespace().collect::<Vec<_>>().join(" ").replace(['"', '\''], "");
            sections.entry(name.clone()).or_default();
            current = Some(name);
        } else if nested {
            // `s3 =` and the like
        } else if let Some((key, value)) = line.split_once('=') {
            let section = current.as_ref().and_then(|name| sections.get_mut(name));
            let section =
                section.ok_or_else(|| format!("line {}: a value outside of a section", number + 1))?;
            section.insert(key.trim().to_ascii_lowercase(), uncommented(value).trim().to_owned().into());
        } else {
            return Err(format!("line {}: neither a section nor `key = value`", number + 1));
        }
    }
    Ok(sections)
}

/// The value without a comment behind it.
fn uncommented(value: &str) -> &str {
    let comment = |at: &usize| value[..*at].ends_with([' ', '\t']) && value[*at..].starts_with(['#', ';']);
    let at = value.char_indices().map(|(at, _)| at).find(comment);
    at.map_or(value, |at| &value[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value<'a>(sections: &'a Sections, section: &str, key: &str) -> Option<&'a str> {
        sections.get(section)?.get(key).map(Secret::expose)
    }

    #[test]
    fn sections_values_and_comments() {
        let text = "\u{feff}# top\n[default]\nAWS_Access_Key_Id=AKIA # mine\naws_secret_access_key = a#b/c+d==\n\n\
            [ profile  \"two words\" ]\nregion = eu-west-1 ; there\ns3 =\n  max_concurrent_requests = 20\n\
            role_arn=arn:aws:iam::1:role/r\n[default]\nregion=x\n[empty]\r\n";
        let s = parse(text).unwrap();
        assert_eq!(value(&s, "default", "aws_access_key_id"), Some("AKIA"));
        assert_eq!(value(&s, "default", "aws_secret_access_key"), Some("a#b/c+d=="));
        assert_eq!(value(&s, "default", "region"), Some("x"));
        assert_eq!(value(&s, "profile two words", "region"), Some("eu-west-1"));
        assert_eq!(value(&s, "profile two words", "max_concurrent_requests"), None);
        assert_eq!(value(&s, "profile two words", "role_arn"), Some("arn:aws:iam::1:role/r"));
        assert!(s["empty"].is_empty());
    }

    #[test]
    fn errors_name_the_line_and_not_what_is_in_it() {
        for (text, error) in [
            ("aws_secret_access_key = hidden", "line 1: a value outside of a section"),
            ("[a]\nhidden", "line 2: neither a section nor `key = value`"),
            ("[hidden", "line 1: a section without `]`"),
        ] {
            assert_eq!(parse(text).unwrap_err(), error);
        }
    }
}
