//! Reads YAML as the JSON tree the other formats are edited in.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::Error;

/// Bounds what aliases may expand to, in bytes of text plus [`NODE`] for every value.
const BUDGET: usize = 64 << 20;
const NODE: usize = 64;
/// The YAML scanner's time grows with the square of the depth, so absurd depths never reach it.
const MAX_OPEN: usize = 5_000;

/// Reads one document; none at all is null. Aliases and merge keys (`<<`) are resolved. In the top-level
/// `sections`, themselves spelt with `_`, a `-` in a key is read as `_`, as coreos-cloudinit does.
pub(super) fn parse(text: &str, sections: &[&str]) -> Result<Value, Error> {
    let mut open = 0_usize;
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > MAX_OPEN {
            return Err(Error::invalid("", "more open brackets than a config can need"));
        }
    }
    let budget = Cell::new(BUDGET);
    let node = Node { budget: &budget, sections, level: Level::Top };
    node.deserialize(serde_yaml::Deserializer::from_str(text)).map_err(Error::Yaml)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Top,
    Known,
    Other,
}

#[derive(Clone, Copy)]
struct Node<'a> {
    budget: &'a Cell<usize>,
    sections: &'a [&'a str],
    level: Level,
}

impl Node<'_> {
    fn spend<E: serde::de::Error>(&self, cost: usize) -> Result<(), E> {
        let left = self.budget.get().checked_sub(cost);
        self.budget.set(left.ok_or_else(|| E::custom("the document is too large, its aliases counted"))?);
        Ok(())
    }

    /// The key as the tree spells it, and the level of its value.
    fn key(&self, key: String) -> (String, Level) {
        let spelt = key.replace('-', "_");
        match self.level {
            Level::Top if self.sections.contains(&spelt.as_str()) => (spelt, Level::Known),
            Level::Known => (spelt, Level::Known),
            Level::Top | Level::Other => (key, Level::Other),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.spend(NODE)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without a tag of its own")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, flag: bool) -> Result<Value, E> {
        Ok(flag.into())
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Value, E> {
        Number::from_f64(number)
            .map(Value::Number)
            .ok_or_else(|| E::custom(format!("{number} is not a number a config can hold")))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        self.spend(text.len())?;
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let level = if self.level == Level::Known { Level::Known } else { Level::Other };
        let mut out = Vec::new();
        while let Some(element) = list.next_element_seed(Self { level, ..self })? {
            out.push(element);
        }
        Ok(out.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        let mut merged = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            self.spend(key.len())?;
            if key == "<<" {
                // What is merged lands at this level, so it is read as if written here.
                match map.next_value_seed(self)? {
                    Value::Array(list) => merged.extend(list),
                    one => merged.push(one),
                }
                continue;
            }
            let (key, level) = self.key(key);
            let value = map.next_value_seed(Self { level, ..self })?;
            if out.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} occurs twice")));
            }
            out.insert(key, value);
        }
        for source in merged {
            let Value::Object(source) = source else {
                return Err(A::Error::custom("a merge key (<<) takes mappings only"));
            };
            for (key, value) in source {
                out.entry(key).or_insert(value);
            }
        }
        Ok(out.into())
    }
}
