//! Checking and changing a JSON tree in place, with the path of what is wrong.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::Error;

/// What a place in the tree must hold. All but the last two may also be absent or null.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Object,
    Array,
    Text,
    Flag,
    Number,
    /// Text that must be there and not be empty.
    Name,
    /// An absolute path that must be there.
    Path,
}

/// A place, as keys joined by dots, `[]` meaning every element; and what must be there.
/// A rule for a place inside another follows the rule for that one.
pub(super) type Rule = (&'static str, Want);

impl Want {
    fn name(self) -> &'static str {
        match self {
            Self::Object => "an object",
            Self::Array => "an array",
            Self::Text => "a string",
            Self::Flag => "true or false",
            Self::Number => "a number",
            Self::Name => "a non-empty string",
            Self::Path => "an absolute path",
        }
    }

    fn accepts(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Name, value) => value.as_str().is_some_and(|s| !s.is_empty()),
            (Self::Path, value) => value.as_str().is_some_and(|s| s.starts_with('/')),
            (_, Value::Null) => true,
            (Self::Object, value) => value.is_object(),
            (Self::Array, value) => value.is_array(),
            (Self::Text, value) => value.is_string(),
            (Self::Flag, value) => value.is_boolean(),
            (Self::Number, value) => value.is_number(),
        }
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("{:?}", text.chars().take(60).collect::<String>()),
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "an object".into(),
    }
}

/// The path of a member.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Checks the tree against the rules; the first fault is the error.
pub(super) fn check(root: &Value, rules: &[Rule]) -> Result<(), Error> {
    rules.iter().try_for_each(|&(pattern, want)| visit(root, "", pattern, want))
}

fn visit(value: &Value, path: &str, pattern: &str, want: Want) -> Result<(), Error> {
    if pattern.is_empty() {
        if want.accepts(value) {
            return Ok(());
        }
        return Err(Error::invalid(path, format!("expected {}, found {}", want.name(), describe(value))));
    }
    let (head, rest) = pattern.split_once('.').unwrap_or((pattern, ""));
    let key = head.trim_end_matches("[]");
    let path = join(path, key);
    let member = value.get(key).unwrap_or(&Value::Null);
    if key.len() == head.len() {
        return visit(member, &path, rest, want);
    }
    let elements = member.as_array().into_iter().flatten().enumerate();
    elements.into_iter().try_for_each(|(i, element)| visit(element, &format!("{path}[{i}]"), rest, want))
}

/// Lists (as in [`Rule`], each ending in `[]`) that are counted as one, and the member that tells their elements apart.
pub(super) type Unique = (&'static [&'static str], &'static str);

/// Checks that no two elements have the same; the error names the second one.
pub(super) fn check_unique(root: &Value, rules: &[Unique]) -> Result<(), Error> {
    for (lists, key) in rules {
        let mut elements = Vec::new();
        lists.iter().for_each(|list| collect(root, String::new(), list, &mut elements));
        // Of each group of lists: elements of one parent are compared, which have all but the last index in common.
        let mut seen: HashMap<(String, &str), String> = HashMap::new();
        for (parent, path, element) in elements {
            let Some(id) = element.get(key).and_then(Value::as_str) else { continue };
            if let Some(first) = seen.insert((parent, id), path.clone()) {
                return Err(Error::invalid(
                    &join(&path, key),
                    format!("{id:?} is also the {key} of {first}"),
                ));
            }
        }
    }
    Ok(())
}

/// The elements of a list: the path of the element that the list is in, their own, and they.
fn collect<'a>(value: &'a Value, path: String, pattern: &str, out: &mut Vec<(String, String, &'a Value)>) {
    let (list, rest) = pattern.split_once("[]").unwrap_or((pattern, ""));
    let list = list.trim_start_matches('.');
    let found = list.split('.').try_fold(value, |at, key| at.get(key)).and_then(Value::as_array);
    for (i, element) in found.into_iter().flatten().enumerate() {
        let own = format!("{}[{i}]", join(&path, list));
        if rest.is_empty() {
            out.push((path.clone(), own, element));
        } else {
            collect(element, own, rest, out);
        }
    }
}

/// Calls `see` with the path and value of every member named `key`, at any depth.
pub(super) fn each_member<'a>(
    value: &'a Value,
    path: &str,
    see: &mut dyn FnMut(&str, &str, &'a Value) -> Result<(), Error>,
) -> Result<(), Error> {
    match value {
        Value::Object(map) => map.iter().try_for_each(|(key, member)| {
            let path = join(path, key);
            see(&path, key, member)?;
            each_member(member, &path, see)
        }),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .try_for_each(|(i, element)| each_member(element, &format!("{path}[{i}]"), see)),
        _ => Ok(()),
    }
}

/// The list at `path` (keys joined by dots), made if it is not there.
pub(super) fn list<'a>(root: &'a mut Value, path: &str) -> Result<&'a mut Vec<Value>, Error> {
    let mut at = root;
    for key in path.split('.') {
        if at.is_null() {
            *at = json!({});
        }
        let Value::Object(map) = at else {
            return Err(Error::invalid(path, format!("no object around {key}")));
        };
        at = map.entry(key).or_insert(Value::Null);
    }
    if at.is_null() {
        *at = json!([]);
    }
    match at {
        Value::Array(list) => Ok(list),
        other => Err(Error::invalid(path, format!("expected an array, found {}", describe(other)))),
    }
}

/// The list under `key` of an object, made if it is not there.
pub(super) fn member_list<'a>(
    map: &'a mut Map<String, Value>,
    key: &str,
) -> Result<&'a mut Vec<Value>, Error> {
    let member = map.entry(key).or_insert(Value::Null);
    if member.is_null() {
        *member = json!([]);
    }
    member.as_array_mut().ok_or_else(|| Error::invalid(key, "expected an array"))
}

/// The element of `list` for which all of `ids` hold, added if there is none.
pub(super) fn element<'a>(list: &'a mut Vec<Value>, ids: &[(&str, &str)]) -> &'a mut Map<String, Value> {
    let same = |e: &Value| ids.iter().all(|(key, id)| e.get(key).and_then(Value::as_str) == Some(id));
    let index = list.iter().position(same).unwrap_or_else(|| {
        list.push(
            ids.iter().map(|&(key, id)| (key.to_owned(), Value::from(id))).collect::<Map<_, _>>().into(),
        );
        list.len() - 1
    });
    list[index]
        .as_object_mut()
        .expect("only an object has members to compare, and one was just added if none had")
}
