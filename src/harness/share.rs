//! What the tests of a process are a part of, where others run the rest.

use openssl::sha::Sha256;
use tokio::sync::mpsc;

use super::Case;
use crate::text::hex;

/// Which part of a run's tests this process has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// How the tests were parted, such as `hash`: other ways give other parts.
    pub by: String,
    /// Which part, from 1.
    pub part: usize,
    /// How many there are.
    pub of: usize,
}

/// What the tests of a process are a part of, and who is told of results.
#[derive(Clone, Debug)]
pub struct Share {
    /// The part; `None` if these tests are all.
    pub part: Option<Part>,
    /// Names of the tests of all parts; the same in each, in any order. `None`: these tests are all.
    pub names: Option<Vec<String>>,
    /// What its user calls the run; may be empty. Parts with different names are not put together.
    pub run: String,
    /// What is tested, besides platform and version; may be empty. Parts of different systems are not put together.
    pub system: String,
    /// Tells this process from others that run the same part, such as one that was killed.
    pub attempt: String,
    /// Hears of results when they are in the output folder.
    pub told: Option<mpsc::UnboundedSender<Told>>,
}

/// All of a run that has no name.
impl Default for Share {
    fn default() -> Self {
        let attempt = uuid::Uuid::new_v4().simple().to_string();
        Self {
            part: None,
            names: None,
            run: String::new(),
            system: String::new(),
            attempt: attempt[..8].to_owned(),
            told: None,
        }
    }
}

/// What is new in the output folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The run has begun.
    Began,
    /// A test has ended, for the first time or again: its folder is complete.
    Ended {
        /// Its name.
        name: String,
        /// As in [`super::Record::attempt`].
        attempt: u32,
    },
}

/// The names of all tests of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Sorted by their bytes.
    pub names: Vec<String>,
    /// SHA-256 of them, a NUL behind each, in hexadecimal digits.
    pub digest: String,
}

impl Selection {
    /// That of these names.
    pub fn of(mut names: Vec<String>) -> Self {
        names.sort_unstable();
        let mut sum = Sha256::new();
        for name in &names {
            sum.update(name.as_bytes());
            sum.update(b"\0");
        }
        Self { names, digest: hex(&sum.finish()) }
    }

    /// As JSON, a name a line.
    pub fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(&self.names).expect("strings are always JSON");
        text.push('\n');
        text
    }
}

impl Share {
    pub(super) fn selection(&self, cases: &[Case]) -> Selection {
        let own = || cases.iter().map(|case| case.name.clone()).collect();
        Selection::of(self.names.clone().unwrap_or_else(own))
    }
}
