//! Runs named tests in parallel and reports them: text, TAP, JSON, JUnit, events, a page.
//!
//! A [`Case`] owns what its test needs: its future is never aborted, so it can always clean up. The part that
//! may be stopped (by a panic, the case's time limit, an interruption) goes through [`T::body`]:
//!
//! ```ignore
//! let run = move |t: T| async move {
//!     let cluster = flight.new_cluster(t.output_dir()?).await?;
//!     let result = t.body(test(cluster.clone(), t.clone())).await; // or body_on, with what tells of a loss
//!     t.join().await;
//!     cluster.destroy().await; // bounded by its own deadlines; problems are t.error(…)
//!     result
//! };
//! ```

pub mod merge;
pub mod output_dir;
pub mod partition;

mod names;
mod outcome;
mod panics;
mod report;
mod rerun;
mod share;
mod slots;
mod state;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use color_eyre::eyre;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

pub use outcome::{Fault, Infra, Outcome, Panicked, Skip, Stopped, infra, is_failure, skip};
pub use report::{Error as ReportError, Event, Progress, Record, github};
pub use rerun::Rerun;
pub use share::{Part, Share, Told};
pub use state::T;

use names::Names;
use panics::Owned;
use report::{Heading, Out, Recorder};
use slots::{Class, Slots};

/// Why a test is skipped that had not begun when the run was interrupted.
const NOT_STARTED: &str = "not started: the run was interrupted";

/// A top-level test.
#[derive(Clone)]
pub struct Case {
    /// Its name, the start of its sub-tests' names.
    pub name: String,
    /// How long it may take, from getting a slot to the end of its bodies; cleaning up does not count.
    pub timeout: Duration,
    /// The owner of the test: sets up, runs the test in [`T::body`], cleans up, returns the body's result. It is
    /// not aborted, so what it does outside of bodies must be bounded, or watch [`T::cancel`]. Each call is a run
    /// of its own.
    pub run: Arc<dyn Fn(T) -> BoxFuture<'static, eyre::Result<()>> + Send + Sync>,
}

impl Case {
    /// A case with an owner future; see [`Case::run`].
    pub fn new<F, Fut>(name: impl Into<String>, timeout: Duration, owner: F) -> Self
    where
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = eyre::Result<()>> + Send + 'static,
    {
        Self { name: name.into(), timeout, run: Arc::new(move |t| Box::pin(owner(t))) }
    }

    /// A case that has nothing to clean up: all of it is a [`T::body`].
    pub fn simple<F, Fut>(name: impl Into<String>, timeout: Duration, body: F) -> Self
    where
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = eyre::Result<()>> + Send + 'static,
    {
        let body = Arc::new(body);
        Self::new(name, timeout, move |t| {
            let (state, body) = (t.clone(), Arc::clone(&body));
            async move { t.body(async move { body(state).await }).await }
        })
    }
}

/// How to run and where to report.
#[derive(Clone, Debug)]
pub struct Options {
    /// Takes the reports and a folder for each test that asks; see [`output_dir::prepare`]. Made if missing;
    /// what it holds already is kept.
    pub output_dir: PathBuf,
    /// How many top-level tests (and parallel sub-tests) run at once; 0: one for each processor.
    pub parallel: usize,
    /// Goes into the reports.
    pub platform: String,
    /// Version of what is tested, for the reports; "" if unknown.
    pub version: String,
    /// Colours and live display.
    pub progress: Progress,
    /// Keep the order in which the cases are given; else the natural order of their names.
    pub ordered: bool,
    /// Which failed tests are run again.
    pub rerun: Rerun,
    /// What these tests are a part of, and who is told of results.
    pub share: Share,
}

/// How many top-level tests ended how.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// In the order of [`Outcome::ALL`].
    counts: [usize; Outcome::ALL.len()],
    /// The run was cancelled.
    pub interrupted: bool,
    /// The top-level tests that do not let the run succeed, in natural order of their names.
    pub bad: Vec<Arc<Record>>,
    /// The top-level tests that failed first and passed when they were run again, in natural order of their names.
    pub flaky: Vec<Arc<Record>>,
    /// Those that were not run again only because as many others had been as may be.
    pub not_rerun: Vec<String>,
    /// How many times a test was run again.
    pub reruns: usize,
    /// How long each top-level test took that was run to its end.
    pub times: Vec<(String, Duration)>,
    /// How long the run took.
    pub lasted: Duration,
}

impl Summary {
    /// How many ended so.
    pub fn count(&self, outcome: Outcome) -> usize {
        Outcome::ALL.iter().position(|o| *o == outcome).map_or(0, |at| self.counts[at])
    }

    /// How many there were.
    pub fn total(&self) -> usize {
        self.counts.iter().sum()
    }
}

/// `3 run: 1 passed, 1 failed, 1 skipped`; those that did not occur are left out.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} run", self.total())?;
        let occurred = Outcome::ALL.iter().zip(self.counts).filter(|(_, count)| *count > 0);
        for (n, (outcome, count)) in occurred.enumerate() {
            write!(f, "{} {count} {}", if n == 0 { ":" } else { "," }, outcome.form().counted)?;
        }
        Ok(())
    }
}

/// Why a run did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There were no cases; the (empty) reports are written.
    #[error("harness: no tests to run")]
    NoTests,
    /// A test failed, or the run was interrupted. All reports are written, or the log says which are not.
    #[error("harness: test suite failed")]
    Failed(Summary),
    /// The output folder cannot be used; no test ran.
    #[error(transparent)]
    OutputDir(#[from] output_dir::Error),
    /// Every test passed, but a report is missing.
    #[error("harness: reports are incomplete")]
    Report(#[from] report::Error),
}

/// What the tests of a run share.
struct Suite {
    output_dir: PathBuf,
    cancel: CancellationToken,
    slots: Arc<Slots>,
    recorder: Recorder,
    names: Mutex<Names>,
    /// Who wants to know when there are new results.
    told: Option<mpsc::UnboundedSender<Told>>,
    /// A test that had ended reported a failure.
    late: AtomicBool,
}

impl Suite {
    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, what: Told) {
        // Who no longer listens has heard enough.
        let _ = self.told.as_ref().map(|told| told.send(what));
    }

    fn fail_late(&self) {
        self.late.store(true, Ordering::Relaxed);
    }
}

/// Where a run of a test has its folder, below the output folder: the first has its name there.
pub fn folder_of_attempt(output_dir: &Path, name: &str, attempt: u32) -> PathBuf {
    match attempt {
        0 => output_dir.join(name),
        1 => output_dir.join("rerun").join(name),
        n => output_dir.join(format!("rerun-{n}")).join(name),
    }
}

/// Runs the cases in natural order of their names, `options.parallel` at once, those again that [`Rerun`] says, and
/// writes `test.tap`, `reports/report.json` and `reports/junit.xml` (also after each case, so a killed run has them
/// too), at the end `reports/report.html`. `reports/events.ndjson` grows meanwhile; its schema is beside it.
///
/// After `cancel` no case starts; running bodies are stopped and reported as interrupted, the others as skipped. The future must be awaited to its end: dropping it aborts the cases with their clean-up.
///
/// # Errors
/// [`Error`].
pub async fn run(cases: Vec<Case>, options: &Options, cancel: CancellationToken) -> Result<Summary, Error> {
    run_then(cases, options, cancel, async || Vec::new()).await
}

/// As [`run`]; when all tests have ended, `clean_up` takes away what they shared and returns what is left of it, a
/// line each: those are in the reports, and the run has failed if there is one.
///
/// # Errors
/// [`Error`].
pub async fn run_then(
    cases: Vec<Case>,
    options: &Options,
    cancel: CancellationToken,
    clean_up: impl AsyncFnOnce() -> Vec<String>,
) -> Result<Summary, Error> {
    run_to(cases, options, cancel, Box::new(crate::output::write), clean_up).await
}

async fn run_to(
    mut cases: Vec<Case>,
    options: &Options,
    cancel: CancellationToken,
    out: Out,
    clean_up: impl AsyncFnOnce() -> Vec<String>,
) -> Result<Summary, Error> {
    output_dir::ensure(&options.output_dir)?;
    let mut names = Names::default();
    if !options.ordered {
        cases.sort_by(|a, b| crate::natural::compare(&a.name, &b.name));
    }
    for case in &mut cases {
        case.name = names.unique(None, &case.name);
    }
    let selection = options.share.selection(&cases);
    let heading = Heading {
        planned: cases.len(),
        platform: &options.platform,
        version: &options.version,
        share: &options.share,
        selection: &selection,
    };
    let suite = Arc::new(Suite {
        recorder: Recorder::new(&options.output_dir, &heading, options.progress, out),
        output_dir: options.output_dir.clone(),
        cancel: cancel.child_token(),
        slots: Slots::new(options.parallel),
        names: Mutex::new(names),
        told: options.share.told.clone(),
        late: AtomicBool::new(false),
    });

    // Should this future be dropped, sub-tests must not go on alone.
    let _stop = suite.cancel.clone().drop_guard();
    suite.tell(Told::Began);
    pass(&suite, cases.clone(), 0).await;
    rerun::run(&suite, &cases, &options.rerun).await;
    let left = clean_up().await;
    if !left.is_empty() {
        suite.fail_late();
        suite.recorder.leave(left);
    }
    conclude(&suite, cancel.is_cancelled()).await
}

/// Runs these cases, for the first time or again.
async fn pass(suite: &Arc<Suite>, cases: Vec<Case>, attempt: u32) {
    let mut running = JoinSet::new();
    let mut queued = Vec::new();
    for case in cases {
        // Asked for here, so that the order of names is the order of slots.
        queued.push((T::new(suite, case.name.clone(), attempt), case, suite.slots.request(Class::Test)));
    }
    for (t, case, slot) in queued {
        let suite = Arc::clone(suite);
        running.spawn(async move {
            tokio::select! {
                biased;
                () = suite.cancel.cancelled() => t.skip_because(NOT_STARTED),
                slot = slot => {
                    // The queue lives in the suite and drops no request.
                    if let Ok(slot) = slot {
                        t.start(slot);
                        let name = t.name().to_owned();
                        suite.recorder.event(Event::Started { name, depth: 0, attempt });
                    }
                    supervise(&t, case).await;
                }
            }
            t.finish().await;
            checkpoint(&suite).await;
            suite.tell(Told::Ended { name: t.name().to_owned(), attempt });
        });
    }
    while let Some(ended) = running.join_next().await {
        if let Err(e) = ended {
            crate::error!("harness", "a test's supervisor ended: {e}");
            suite.fail_late();
        }
    }
}

/// Runs a case to its end and records its result; its time limit only stops bodies.
async fn supervise(t: &T, case: Case) {
    let deadline = Instant::now().checked_add(case.timeout);
    let state = t.clone();
    // A task of its own: blocking code in it must not stop the timer.
    let mut owner = Owned::spawn(panics::watched(async move { (case.run)(state).await }));
    let limit = async {
        match deadline {
            Some(deadline) => sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        biased;
        ended = owner.ended() => ended,
        () = limit => {
            t.time_out(case.timeout);
            owner.ended().await
        }
    };
    t.settle(ended);
}

async fn checkpoint(suite: &Arc<Suite>) {
    let suite = Arc::clone(suite);
    let written = tokio::task::spawn_blocking(move || suite.recorder.checkpoint()).await;
    // The final files are written again, and there the error counts.
    if let Ok(Err(e)) = written {
        crate::debug!("harness", "{}", eyre::Report::new(e));
    }
}

async fn conclude(suite: &Arc<Suite>, interrupted: bool) -> Result<Summary, Error> {
    let summary = Summary { interrupted, ..suite.recorder.summary() };
    let empty = summary.total() == 0;
    let failed = !summary.bad.is_empty() || interrupted || suite.late.load(Ordering::Relaxed);
    let result = match (empty, failed) {
        (true, _) => "",
        (_, true) => "FAIL",
        _ => "PASS",
    };
    let recorder = Arc::clone(suite);
    let written = tokio::task::spawn_blocking(move || recorder.recorder.finish(result, interrupted)).await;
    let written = written.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()));
    if !failed && !empty {
        written?;
        return Ok(summary);
    }
    if let Err(e) = written {
        crate::error!("harness", "{:#}", eyre::Report::new(e));
    }
    Err(if empty { Error::NoTests } else { Error::Failed(summary) })
}
