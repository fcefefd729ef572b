//! Parts of a suite, for several machines that know nothing of each other.
//!
//! Each machine is told which part it runs, of how many. From the same names, in whatever order, all of them come to the
//! same result: each test is in exactly one part.

mod engine;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use engine::{ENVIRONMENT, Error as EngineError, Found, SHARDS, found};

/// How tests are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// One after the other, as cards are dealt, in natural order of their names.
    Count,
    /// By a hash of the name: a new test moves no other one.
    Hash,
    /// In pieces of the list, in natural order of names: what has similar names stays together.
    Slice,
    /// By the durations of earlier runs: parts that take the same time.
    Weighted,
}

impl Scheme {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Count, Self::Hash, Self::Slice, Self::Weighted];

    /// Its name on command lines and in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Hash => "hash",
            Self::Slice => "slice",
            Self::Weighted => "weighted",
        }
    }

    /// What it does, in a sentence.
    pub const fn about(self) -> &'static str {
        match self {
            Self::Count => "The tests are dealt like cards, in the order of their names.",
            Self::Hash => "By a hash of the name: a new test moves no other one to another part.",
            Self::Slice => {
                "Pieces of the list in the order of names: tests with similar names stay together."
            }
            Self::Weighted => {
                "By the durations of earlier runs, so that the parts take the same time. A test without one counts as \
                 the median of the others."
            }
        }
    }

    /// The part of each of these names, from 1 to `of`, in their order. `duration` is what is known of how long a test
    /// takes; only [`Scheme::Weighted`] asks. All machines must know the same.
    pub fn parts(self, names: &[&str], of: u32, duration: impl Fn(&str) -> Option<Duration>) -> Vec<u32> {
        if self == Self::Hash {
            return names.iter().map(|name| hashed(name, of)).collect();
        }
        let mut order: Vec<usize> = (0..names.len()).collect();
        order.sort_by(|a, b| crate::natural::compare(names[*a], names[*b]).then(names[*a].cmp(names[*b])));
        let mut parts = vec![1; names.len()];
        if self == Self::Weighted {
            let weights = weights(names, duration);
            // Stable: those that take as long stay in the order of names.
            order.sort_by_key(|at| Reverse(weights[*at]));
            // The longest first, each to the part that has least to do: Graham's LPT rule.
            let lanes = of.min(u32::try_from(names.len()).unwrap_or(u32::MAX));
            let mut lanes: BinaryHeap<Reverse<(u64, u32)>> =
                (1..=lanes).map(|part| Reverse((0, part))).collect();
            for at in order {
                if let Some(mut lane) = lanes.peek_mut() {
                    let Reverse((load, part)) = *lane;
                    parts[at] = part;
                    *lane = Reverse((load + weights[at], part));
                }
            }
            return parts;
        }
        let (tests, of) = (names.len() as u64, u64::from(of));
        for (n, at) in (0..).zip(order) {
            let zero = if self == Self::Count { n % of } else { n * of / tests };
            parts[at] = u32::try_from(zero + 1).unwrap_or(1);
        }
        parts
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Milliseconds for each name, at least one; those without a duration get the median of the others.
fn weights(names: &[&str], duration: impl Fn(&str) -> Option<Duration>) -> Vec<u64> {
    let milliseconds =
        |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX >> 20).clamp(1, u64::MAX >> 20);
    let known: Vec<Option<u64>> = names.iter().map(|name| duration(name).map(milliseconds)).collect();
    let mut sorted: Vec<u64> = known.iter().flatten().copied().collect();
    sorted.sort_unstable();
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(1);
    known.into_iter().map(|weight| weight.unwrap_or(median)).collect()
}

/// The part of a name by its hash.
fn hashed(name: &str, of: u32) -> u32 {
    u32::try_from(fnv1(name.as_bytes()) % u64::from(of) + 1).unwrap_or(1)
}

/// FNV-1, 64 bits: <http://www.isthe.com/chongo/tech/comp/fnv/>.
fn fnv1(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| hash.wrapping_mul(0x0000_0100_0000_01b3) ^ u64::from(*byte))
}

/// One part of a suite: `hash:2/8` is the second of eight, by a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// How the tests are shared out.
    pub by: Scheme,
    /// Which part, from 1 to `of`.
    pub part: u32,
    /// How many there are.
    pub of: u32,
}

impl Partition {
    /// Whether each of these names is in this part; see [`Scheme::parts`].
    pub fn has(self, names: &[&str], duration: impl Fn(&str) -> Option<Duration>) -> Vec<bool> {
        self.by.parts(names, self.of, duration).into_iter().map(|part| part == self.part).collect()
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { by, part, of } = self;
        write!(f, "{by}:{part}/{of}")
    }
}

impl FromStr for Partition {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text.parse()? {
            Asked { by, place: Some((part, of)) } => Ok(Self { by, part, of }),
            Asked { .. } => Err(Malformed::Shape),
        }
    }
}

/// A part as it is asked for: which one of how many may be left to the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// How the tests are shared out.
    pub by: Scheme,
    /// Which part, and of how many.
    pub place: Option<(u32, u32)>,
}

/// Why a text is no part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It has not the form.
    #[error("a part is count:M/N, hash:M/N, slice:M/N or weighted:M/N, such as hash:1/4")]
    Shape,
    /// The numbers do not fit.
    #[error("of M/N, M is from 1 to N")]
    Place,
}

impl FromStr for Asked {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (by, place) = match text.split_once(':') {
            Some((by, place)) => (by, Some(place)),
            None => (text, None),
        };
        let by = Scheme::ALL.into_iter().find(|scheme| scheme.as_str() == by).ok_or(Malformed::Shape)?;
        let Some(place) = place else { return Ok(Self { by, place: None }) };
        let (part, of) = place.split_once('/').ok_or(Malformed::Shape)?;
        let (part, of) = (number(part).ok_or(Malformed::Shape)?, number(of).ok_or(Malformed::Shape)?);
        if !(1..=of).contains(&part) {
            return Err(Malformed::Place);
        }
        Ok(Self { by, place: Some((part, of)) })
    }
}

/// A number in plain digits: no sign, no blank.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}
