//! Reads a document by what is wanted at each place, and collects what is wrong with it.

use std::cell::RefCell;

use serde_json::{Map, Value as Json};

use super::document::{Entry, Node, Place, Value};
use super::report::Fault;
use crate::conf::tree::join;
use crate::text::did_you_mean;

/// What was found so far.
#[derive(Default)]
pub(super) struct Reader {
    pub faults: RefCell<Vec<Fault>>,
    pub warnings: RefCell<Vec<Fault>>,
}

/// A value at its place.
#[derive(Clone)]
pub(super) struct Spot<'a> {
    reader: &'a Reader,
    pub path: String,
    at: Place,
    node: &'a Node,
}

/// A mapping, which knows the keys it was asked for: the others are unknown.
pub(super) struct Section<'a> {
    pub spot: Spot<'a>,
    map: &'a [Entry],
    asked: RefCell<Vec<&'static str>>,
}

/// What a value must be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Text,
    Flag,
    Whole,
    Texts,
}

impl<'a> Spot<'a> {
    pub fn root(reader: &'a Reader, node: &'a Node) -> Self {
        Self { reader, path: String::new(), at: node.at, node }
    }

    pub fn fault(&self, what: impl Into<String>) {
        let fault = Fault { place: Some(self.at), path: self.path.clone(), what: what.into() };
        self.reader.faults.borrow_mut().push(fault);
    }

    pub fn warn(&self, what: impl Into<String>) {
        let fault = Fault { place: Some(self.at), path: self.path.clone(), what: what.into() };
        self.reader.warnings.borrow_mut().push(fault);
    }

    fn expected(&self, what: &str) {
        let found = match &self.node.value {
            Value::Scalar { text, .. } => format!("{:?}", text.chars().take(60).collect::<String>()),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a mapping".into(),
        };
        self.fault(format!("expected {what}, found {found}"));
    }

    /// A scalar as it is written.
    pub fn text(&self) -> Option<String> {
        match &self.node.value {
            Value::Scalar { text, .. } => Some(text.clone()),
            _ => {
                self.expected("text");
                None
            }
        }
    }

    pub fn flag(&self) -> Option<bool> {
        let Value::Scalar { text, plain: true } = &self.node.value else {
            self.expected("true or false");
            return None;
        };
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "y" => Some(true),
            "false" | "no" | "off" | "n" => Some(false),
            _ => {
                self.expected("true or false");
                None
            }
        }
    }

    /// A whole number; with a leading zero it is octal, as in YAML 1.1.
    pub fn whole(&self) -> Option<i64> {
        let number = match &self.node.value {
            Value::Scalar { text, plain: true } => whole(text),
            _ => None,
        };
        if number.is_none() {
            self.expected("a whole number");
        }
        number
    }

    /// The elements of a list; those that are nothing are faults.
    pub fn items(&self) -> Vec<Self> {
        let Value::List(list) = &self.node.value else {
            self.expected("a list");
            return Vec::new();
        };
        let spots = list.iter().enumerate().map(|(i, node)| Self {
            reader: self.reader,
            path: format!("{}[{i}]", self.path),
            at: node.at,
            node,
        });
        let (null, spots): (Vec<_>, Vec<_>) = spots.partition(|spot| spot.node.is_null());
        null.iter().for_each(|spot| spot.fault("an empty element"));
        spots
    }

    pub fn texts(&self) -> Vec<String> {
        self.items().iter().filter_map(Self::text).collect()
    }

    /// A mapping, read by `read`; keys that `read` did not ask for are warned of.
    pub fn section<T>(&self, read: impl FnOnce(&Section<'a>) -> T) -> Option<T> {
        let Value::Map(map) = &self.node.value else {
            self.expected("a mapping");
            return None;
        };
        let section = Section { spot: self.clone(), map, asked: RefCell::default() };
        let out = read(&section);
        let asked = section.asked.into_inner();
        for entry in map.iter().filter(|e| !asked.contains(&e.key.as_str())) {
            let hint = did_you_mean(&entry.key, asked.iter().copied());
            let hint = hint.map(|text| format!("; {text}")).unwrap_or_default();
            let spot = Spot { at: entry.at, path: join(&self.path, &entry.key), ..self.clone() };
            spot.warn(format!("unknown key{hint}"));
        }
        Some(out)
    }
}

impl<'a> Section<'a> {
    /// The value of a key, if there is one.
    pub fn get(&self, key: &'static str) -> Option<Spot<'a>> {
        self.asked.borrow_mut().push(key);
        let entry = self.map.iter().find(|e| e.key == key)?;
        (!entry.value.is_null()).then(|| Spot {
            reader: self.spot.reader,
            path: join(&self.spot.path, key),
            // A block's own place is its first entry; the key is what people look for.
            at: if matches!(entry.value.value, Value::Scalar { .. }) { entry.value.at } else { entry.at },
            node: &entry.value,
        })
    }

    /// The value of a key that must be there; its absence is a fault of the mapping.
    pub fn required(&self, key: &'static str) -> Option<Spot<'a>> {
        let found = self.get(key);
        if found.is_none() {
            self.spot.fault(format!("{key} is missing"));
        }
        found
    }

    pub fn text(&self, key: &'static str) -> Option<String> {
        self.get(key)?.text()
    }

    pub fn flag(&self, key: &'static str) -> Option<bool> {
        self.get(key)?.flag()
    }

    /// A whole number that is not negative.
    pub fn count(&self, key: &'static str) -> Option<i64> {
        let spot = self.get(key)?;
        let number = spot.whole()?;
        if number < 0 {
            spot.fault("must not be negative");
            return None;
        }
        Some(number)
    }

    pub fn items(&self, key: &'static str) -> Vec<Spot<'a>> {
        self.get(key).map(|spot| spot.items()).unwrap_or_default()
    }

    /// Each element of a list of mappings, read by `read`.
    pub fn each<T>(&self, key: &'static str, read: impl Fn(&Section<'a>) -> T) -> Vec<T> {
        self.items(key).iter().filter_map(|spot| spot.section(&read)).collect()
    }

    /// The mapping under a key, read by `read`.
    pub fn section<T>(&self, key: &'static str, read: impl FnOnce(&Section<'a>) -> T) -> Option<T> {
        self.get(key)?.section(read)
    }

    /// Copies values under other names.
    pub fn copy(&self, out: &mut Map<String, Json>, fields: &[(&'static str, &str, Want)]) {
        for &(key, name, want) in fields {
            let value: Option<Json> = match want {
                Want::Text => self.text(key).map(Into::into),
                Want::Flag => self.flag(key).map(Into::into),
                Want::Whole => self.count(key).map(Into::into),
                Want::Texts => self.get(key).map(|spot| spot.texts().into()),
            };
            put(out, name, value);
        }
    }
}

/// Sets a member, if there is a value.
pub(super) fn put(out: &mut Map<String, Json>, name: &str, value: Option<impl Into<Json>>) {
    if let Some(value) = value {
        out.insert(name.to_owned(), value.into());
    }
}

/// Sets a member, if the list or object has something in it.
pub(super) fn put_filled(out: &mut Map<String, Json>, name: &str, value: impl Into<Json>) {
    let value = value.into();
    let empty = value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty);
    if !empty {
        out.insert(name.to_owned(), value);
    }
}

/// An integer of YAML 1.1: decimal, `0x`, `0b`, and octal with `0` or `0o`; `_` may separate digits.
fn whole(text: &str) -> Option<i64> {
    let text = text.replace('_', "");
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
    };
    let (digits, radix) = if let Some(rest) = digits.strip_prefix("0x") {
        (rest, 16)
    } else if let Some(rest) = digits.strip_prefix("0b") {
        (rest, 2)
    } else if let Some(rest) = digits.strip_prefix("0o") {
        (rest, 8)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (&digits[1..], 8)
    } else {
        (digits, 10)
    };
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    i64::from_str_radix(digits, radix).ok().map(|n| sign * n)
}

#[cfg(test)]
mod tests {
    use super::whole;

    #[test]
    fn numbers_are_those_of_yaml_1_1() {
        let table = [
            ("0", Some(0)),
            ("420", Some(420)),
            ("0644", Some(420)),
            ("0o644", Some(420)),
            ("0x1f", Some(31)),
            ("0b101", Some(5)),
            ("1_000", Some(1000)),
            ("-7", Some(-7)),
            ("+7", Some(7)),
            ("0888", None),
            ("", None),
            ("-", None),
            ("--1", None),
            ("1.5", None),
            ("0x", None),
            ("99999999999999999999", None),
        ];
        for (text, wanted) in table {
            assert_eq!(whole(text), wanted, "{text:?}");
        }
    }
}
