//! Public keys in authorized_keys form (sshd(8)): `[options] <type> <base64> [comment]`.

use std::collections::HashSet;

use serde_json::Value;

/// What makes two lines the same key: type and base64. Every key's base64 starts with `AAAA`, the upper bytes of
/// the length of its type's name (RFC 4253, section 6.6), which tells it from options and comments.
fn identity(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.windows(2).find(|pair| pair[1].starts_with("AAAA")) {
        Some(pair) => pair.join(" "),
        None => words.join(" "),
    }
}

/// The keys, one per item, without blank lines, comments and repetitions; the first of its kind stays.
pub(super) fn unique<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let mut seen = HashSet::new();
    texts
        .into_iter()
        .flat_map(|text| text.lines())
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#') && seen.insert(identity(line)))
        .map(str::to_owned)
        .collect()
}

/// Appends keys to a list of a config, and drops repetitions: Ignition 3 refuses them.
pub(super) fn append(list: &mut Vec<Value>, keys: &[String]) {
    list.extend(keys.iter().map(|key| Value::from(key.as_str())));
    let mut seen = HashSet::new();
    list.retain(|entry| entry.as_str().is_none_or(|line| seen.insert(identity(line))));
}
