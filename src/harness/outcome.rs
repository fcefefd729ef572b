//! How a test can end, and the typed errors that say so.

use std::fmt;
use std::time::Duration;

use color_eyre::eyre;

use crate::cause::{Cause, Diagnosis};

/// Returned as an error, even deep in a chain, makes the test SKIP; see [`skip`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Skip(pub String);

/// An error that skips the current test, for this reason.
pub fn skip(text: impl Into<String>) -> eyre::Report {
    eyre::Report::new(Skip(text.into()))
}

/// Returned as an error, even deep in a chain, makes the test INFRA: what it runs on failed, not the test; see [`infra`].
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Infra(Box<dyn std::error::Error + Send + Sync>);

/// An error that says that what the current test runs on has failed.
pub fn infra(error: impl std::error::Error + Send + Sync + 'static) -> eyre::Report {
    eyre::Report::new(Infra(Box::new(error)))
}

/// A test's future panicked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Panicked(pub(super) String);

/// Something other than the test itself ended it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// The time of its case was used up.
    #[error("timed out after {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// The run was cancelled.
    #[error("interrupted")]
    Interrupted,
    /// What it ran on was lost: how, in the first line, and what else is known of it below.
    #[error("{0}")]
    Lost(Diagnosis),
}

impl Stopped {
    /// The same in one line.
    pub(super) fn brief(self) -> Self {
        match self {
            Self::Lost(how) => Self::Lost(
                how.told(|text| text.lines().next().unwrap_or_default().trim_end_matches(':').to_owned()),
            ),
            other => other,
        }
    }
}

/// The result of one test. What the reports make of it is in one table, [`Outcome::form`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It returned `Ok` and no error was recorded.
    Pass,
    /// It failed, and passed when it was run again.
    Flaky,
    /// It failed, which is known and does not count.
    Warn,
    /// It could not be done here.
    Skip,
    /// It, or one of its sub-tests, failed.
    Fail,
    /// What it runs on failed, so nothing is known about what it tests.
    Infra,
    /// The run was interrupted before the test had a result.
    Interrupted,
}

/// How an outcome appears in the reports.
pub(super) struct Form {
    /// In result lines and report.json.
    pub word: &'static str,
    /// In counts.
    pub counted: &'static str,
    /// Colour of the word on terminals (SGR).
    pub color: u8,
    /// Whether the run can still succeed.
    pub good: bool,
    /// The result line in TAP.
    pub tap: Tap,
    /// The element in JUnit.
    pub junit: JUnit,
}

/// Result lines of TAP: <https://testanything.org/tap-version-13-specification.html>.
pub(super) enum Tap {
    Ok,
    NotOk,
    /// `ok`, with this directive and the reason.
    OkBut(&'static str),
    /// `not ok`, with this directive and the reason.
    NotOkBut(&'static str),
}

/// Elements of JUnit.
pub(super) enum JUnit {
    Success,
    /// A success with the failure that went before.
    Flaky,
    Skipped,
    Failure,
    Error,
}

impl Outcome {
    /// All, in the order in which they are counted.
    pub const ALL: [Self; 7] =
        [Self::Pass, Self::Flaky, Self::Warn, Self::Fail, Self::Infra, Self::Interrupted, Self::Skip];

    pub(super) fn form(self) -> Form {
        let form = |word, counted, color, good, tap, junit| Form { word, counted, color, good, tap, junit };
        match self {
            Self::Pass => form("PASS", "passed", 32, true, Tap::Ok, JUnit::Success),
            Self::Flaky => form("FLAKY", "flaky", 33, true, Tap::Ok, JUnit::Flaky),
            // A failure that is expected and does not count is what TODO says in TAP. JUnit has no word for it.
            Self::Warn => form("WARN", "warned", 33, true, Tap::NotOkBut("TODO"), JUnit::Skipped),
            Self::Skip => form("SKIP", "skipped", 34, true, Tap::OkBut("SKIP"), JUnit::Skipped),
            Self::Fail => form("FAIL", "failed", 31, false, Tap::NotOk, JUnit::Failure),
            Self::Infra => form("INFRA", "failed by their surroundings", 31, false, Tap::NotOk, JUnit::Error),
            Self::Interrupted => form("INTERRUPTED", "interrupted", 33, false, Tap::NotOk, JUnit::Error),
        }
    }

    /// As result lines and report.json spell it: `PASS`.
    pub fn as_str(self) -> &'static str {
        self.form().word
    }

    /// Whether a run with it can succeed.
    pub fn is_good(self) -> bool {
        self.form().good
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl serde::Serialize for Outcome {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for Outcome {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let word = <std::borrow::Cow<'de, str>>::deserialize(from)?;
        let known = Self::ALL.into_iter().find(|outcome| outcome.as_str() == word);
        known.ok_or_else(|| serde::de::Error::custom(format_args!("{word:?} is no outcome")))
    }
}

/// What kind of failure it was: the `type` of JUnit's `failure` element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// An error was returned or recorded.
    #[default]
    Error,
    /// A panic.
    Panic,
    /// [`Stopped::TimedOut`].
    Timeout,
    /// [`Stopped::Interrupted`].
    Interrupted,
    /// [`Stopped::Lost`].
    Lost,
    /// [`Infra`].
    Infra,
}

impl Fault {
    /// Those after which a test can be run again.
    pub const REPEATABLE: [Self; 5] = [Self::Error, Self::Panic, Self::Timeout, Self::Lost, Self::Infra];

    /// The one that [`Fault::as_str`] calls so.
    pub(super) fn named(word: &str) -> Option<Self> {
        Self::REPEATABLE.into_iter().chain([Self::Interrupted]).find(|fault| fault.as_str() == word)
    }

    pub(super) fn of(report: &eyre::Report) -> Self {
        let find = |e: &(dyn std::error::Error + 'static)| match e.downcast_ref::<Stopped>() {
            Some(Stopped::TimedOut(_)) => Some(Fault::Timeout),
            Some(Stopped::Interrupted) => Some(Fault::Interrupted),
            // That of what a machine runs on tells nothing about the test.
            Some(Stopped::Lost(how)) if how.cause.is_of_host() => Some(Fault::Infra),
            Some(Stopped::Lost(_)) => Some(Fault::Lost),
            None if e.is::<Infra>() => Some(Fault::Infra),
            None => e.is::<Panicked>().then_some(Fault::Panic),
        };
        report.chain().find_map(find).unwrap_or_default()
    }

    /// `error`, `panic`, `timeout`, `interrupted`, `lost` or `infra`.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::Error => "error",
            Fault::Panic => "panic",
            Fault::Timeout => "timeout",
            Fault::Interrupted => "interrupted",
            Fault::Lost => "lost",
            Fault::Infra => "infra",
        }
    }
}

/// How what a test ran on was lost, if that ended the test.
pub(super) fn lost(report: &eyre::Report) -> Option<&Diagnosis> {
    report.chain().find_map(|e| match e.downcast_ref::<Stopped>() {
        Some(Stopped::Lost(how)) => Some(how),
        _ => None,
    })
}

/// What became of the machine, where that is why something failed.
pub(super) fn cause(report: &eyre::Report) -> Option<Cause> {
    lost(report).or_else(|| Diagnosis::among(report.chain())).map(|why| why.cause)
}

/// Whether an error is a failure of the test or of what it runs on: not a skip, an interruption or a loss, of which all
/// is known.
pub fn is_failure(report: &eyre::Report) -> bool {
    !is_skip(report) && lost(report).is_none() && Fault::of(report) != Fault::Interrupted
}

pub(super) fn is_skip(report: &eyre::Report) -> bool {
    report.chain().any(|e| e.is::<Skip>())
}
