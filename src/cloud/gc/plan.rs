//! What is to be removed, and its written form: a line of JSON, which people read and a later command carries out.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::de::{self, Deserializer};
use serde::ser::{SerializeMap as _, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The version of the form of plans.
pub const VERSION: u32 = 1;

/// What is to be removed. Written as `version`, the names of the scope with their values, `before` and `items`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Of this form: [`VERSION`].
    pub version: u32,
    /// What it is for: account, region, …, with their values.
    pub scope: Vec<(String, String)>,
    /// Nothing younger is removed.
    pub before: DateTime<Utc>,
    /// The things.
    pub items: Vec<Item>,
}

/// One thing to be removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Its kind, by name.
    pub kind: String,
    /// Unique among its kind.
    pub id: String,
    /// Its name for people; may be empty.
    pub name: String,
    /// When it was made, of uploads when they were last worked on.
    #[serde(with = "stamp")]
    pub created: DateTime<Utc>,
    /// The state in which it was found.
    pub state: String,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.id)?;
        if !self.name.is_empty() {
            write!(f, " ({})", self.name)?;
        }
        Ok(())
    }
}

impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.scope.len() + 3))?;
        map.serialize_entry("version", &self.version)?;
        for (name, value) in &self.scope {
            map.serialize_entry(name, value)?;
        }
        map.serialize_entry("before", &stamp::text(&self.before))?;
        map.serialize_entry("items", &self.items)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Plan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut map = Map::deserialize(deserializer)?;
        let mut take =
            |name: &'static str| map.shift_remove(name).ok_or_else(|| de::Error::missing_field(name));
        let version = serde_json::from_value(take("version")?).map_err(de::Error::custom)?;
        let before = stamp::deserialize(take("before")?).map_err(de::Error::custom)?;
        let items = serde_json::from_value(take("items")?).map_err(de::Error::custom)?;
        let scope = map.into_iter().map(|(name, value)| match value {
            Value::String(value) => Ok((name, value)),
            _ => Err(de::Error::custom(format!("{name} is no text"))),
        });
        Ok(Self { version, scope: scope.collect::<Result<_, _>>()?, before, items })
    }
}

/// Times in plans: RFC 3339.
mod stamp {
    use super::*;

    pub fn text(time: &DateTime<Utc>) -> String {
        time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
    }

    pub fn serialize<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&text(time))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
        let text = String::deserialize(deserializer)?;
        DateTime::parse_from_rfc3339(&text).map(|t| t.to_utc()).map_err(de::Error::custom)
    }
}
