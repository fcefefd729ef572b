//! How a test can end, and the typed errors that say so.

use std::fmt;
use std::time::Duration;

use color_eyre::eyre;

/// Returned as an error, even deep in a chain, makes the test SKIP; see [`skip`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Skip(pub String);

/// An error that skips the current test, for this reason.
pub fn skip(text: impl Into<String>) -> eyre::Report {
    eyre::Report::new(Skip(text.into()))
}

/// A test's future panicked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Panicked(pub(super) String);

/// Something other than the test itself ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// The time of its case was used up.
    #[error("timed out after {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// The run was cancelled.
    #[error("interrupted")]
    Interrupted,
}

/// The result of one test, as every report spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Outcome {
    /// It returned `Ok` and no error was recorded.
    Pass,
    /// It, or one of its sub-tests, failed.
    Fail,
    /// It could not be done here.
    Skip,
}

impl Outcome {
    /// `PASS`, `FAIL` or `SKIP`.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Pass => "PASS",
            Outcome::Fail => "FAIL",
            Outcome::Skip => "SKIP",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What kind of failure it was: the `type` of JUnit's `failure` element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
}

impl Fault {
    pub(super) fn of(report: &eyre::Report) -> Self {
        let find = |e: &(dyn std::error::Error + 'static)| match e.downcast_ref::<Stopped>() {
            Some(Stopped::TimedOut(_)) => Some(Fault::Timeout),
            Some(Stopped::Interrupted) => Some(Fault::Interrupted),
            None => e.is::<Panicked>().then_some(Fault::Panic),
        };
        report.chain().find_map(find).unwrap_or_default()
    }

    /// `error`, `panic`, `timeout` or `interrupted`.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::Error => "error",
            Fault::Panic => "panic",
            Fault::Timeout => "timeout",
            Fault::Interrupted => "interrupted",
        }
    }
}

pub(super) fn is_skip(report: &eyre::Report) -> bool {
    report.chain().any(|e| e.is::<Skip>())
}
