//! What happens in a run, recorded once and shown in several forms.

pub(super) mod events;
pub(super) mod files;
pub mod github;
pub(super) mod html;
mod progress;
mod text;

use std::collections::HashMap;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::Summary;
use super::outcome::{Fault, Outcome};
use super::share::{Selection, Share};
use crate::cause::Cause;
use crate::target::{Fresh, Target};
pub use progress::Progress;

/// The folder of the reports, below the output folder.
pub(super) const REPORTS: &str = "reports";
/// The file of events.
pub(super) const EVENTS: &str = "events.ndjson";
/// What the lines of that file look like.
pub(super) const SCHEMA: &str = "events.schema.json";
/// The page for people.
pub(super) const PAGE: &str = "report.html";

/// The names of all tests of the run, of which this process may have a part.
pub(super) const SELECTION: &str = "selection.json";

/// Takes the text of the results: stdout, or a buffer in tests.
pub type Out = Box<dyn FnMut(&[u8]) -> io::Result<()> + Send>;

/// A step of the run.
#[derive(Clone, Debug)]
pub enum Event {
    /// A test begins: at the top it has a slot.
    Started {
        /// Its full name.
        name: String,
        /// As in [`Record::depth`].
        depth: usize,
        /// As in [`Record::attempt`].
        attempt: u32,
    },
    /// A test has ended; sub-tests end before their parent.
    Ended(Box<Record>),
}

/// The result of one test or sub-test.
#[derive(Clone, Debug)]
pub struct Record {
    /// Full name.
    pub name: String,
    /// 0 for a top-level test, 1 for its sub-tests, and so on.
    pub depth: usize,
    /// Result.
    pub outcome: Outcome,
    /// Time it ran, without waiting.
    pub duration: Duration,
    /// Its log lines and the blocks of its sub-tests, without its own result line.
    pub output: String,
    /// First failure, or why it was skipped.
    pub reason: Option<String>,
    /// Kind of failure, if it failed.
    pub fault: Fault,
    /// What became of a machine of it, if that is why it failed.
    pub cause: Option<Cause>,
    /// 0 for the first run of the test, 1 when it was run again, and so on.
    pub attempt: u32,
    /// The earlier runs of the test, first to last.
    pub earlier: Vec<Arc<Record>>,
}

impl Record {
    /// The first line of what went wrong, without escape sequences; "" if nothing was said.
    pub fn headline(&self) -> String {
        let reason = crate::text::strip_escapes(self.reason.as_deref().unwrap_or_default());
        reason.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned()
    }

    /// What went wrong, in a word: the cause, else the kind of failure, or the outcome where that says more.
    pub fn kind(&self) -> String {
        match (self.outcome, self.cause) {
            (Outcome::Fail, _) | (Outcome::Infra, Some(_)) => self.failure().to_owned(),
            (other, _) => other.as_str().to_lowercase(),
        }
    }

    /// The cause of the failure, else its kind.
    fn failure(&self) -> &'static str {
        self.cause.map_or(self.fault.as_str(), Cause::as_str)
    }

    /// The result line and, below, the output.
    pub fn block(&self) -> String {
        let seconds = self.duration.as_secs_f64();
        let mut block = format!("--- {}: {} ({seconds:.2}s)\n", self.outcome, self.name);
        for (n, run) in self.earlier.iter().enumerate() {
            block.push_str(&format!("        run {}: {}: {}\n", n + 1, run.outcome, run.headline()));
        }
        block + &self.output
    }

    /// As the result of all runs of the test, where this is the last one. It is flaky if it passes at last.
    fn after(mut self, before: &Arc<Self>) -> Self {
        self.earlier = before.earlier.iter().cloned().chain([before.clone()]).collect();
        if self.outcome == Outcome::Pass {
            self.outcome = Outcome::Flaky;
            (self.reason, self.fault) = (self.earlier[0].reason.clone(), self.earlier[0].fault);
            self.cause = self.earlier[0].cause;
        } else if self.outcome == Outcome::Skip {
            // What could not be run again has failed.
            self.outcome = before.outcome;
            (self.reason, self.fault, self.cause) = (before.reason.clone(), before.fault, before.cause);
        }
        self
    }
}

/// Everything the report files are made of.
#[derive(Clone, Debug)]
struct Snapshot {
    /// In order of completion.
    records: Vec<Arc<Record>>,
    /// When each of them began, from the start of the run; `None` for those that did not.
    starts: Vec<Option<Duration>>,
    /// How many top-level tests there are.
    planned: usize,
    platform: String,
    version: String,
    began: DateTime<Utc>,
    lasted: Duration,
    /// `PASS`, `FAIL`, or nothing if there was no test.
    result: &'static str,
    /// What is left of what the tests shared, a line each.
    left: Vec<String>,
}

impl Snapshot {
    /// Takes the first such record out.
    fn take(&mut self, wanted: impl Fn(&Record) -> bool) -> Option<Arc<Record>> {
        let at = self.records.iter().position(|r| wanted(r))?;
        self.starts.remove(at);
        Some(self.records.remove(at))
    }

    /// Where the record of a test is.
    fn find(&self, name: &str) -> Option<usize> {
        self.records.iter().position(|r| r.name == name)
    }
}

/// Why results could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text on stdout.
    #[error("cannot write test results")]
    Text(#[source] io::Error),
    /// A report file.
    #[error("cannot write {}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The JUnit document.
    #[error("cannot make the JUnit report")]
    JUnit(#[source] quick_junit::SerializeError),
}

/// Takes events from all tests and keeps all reports.
pub struct Recorder {
    state: Mutex<State>,
    /// Held while files are written, so that an older state never replaces a newer one.
    writing: Mutex<()>,
    output_dir: PathBuf,
    clock: Instant,
}

struct State {
    snapshot: Snapshot,
    text: text::Text,
    bars: Option<progress::Bars>,
    /// When the tests that run began.
    running: HashMap<String, Duration>,
    /// Begun with the first event.
    events: Option<events::Events>,
    /// The first failure to write text or events.
    failure: Option<Error>,
    /// Tests that are not run again although they failed.
    not_rerun: Vec<String>,
}

/// What a run is called in its reports.
pub struct Heading<'a> {
    /// Number of top-level tests.
    pub planned: usize,
    /// Platform the tests run on.
    pub platform: &'a str,
    /// Version of the tested system, "" if unknown.
    pub version: &'a str,
    /// Which part of which run this is.
    pub share: &'a Share,
    /// All tests of that run.
    pub selection: &'a Selection,
}

impl Recorder {
    pub fn new(output_dir: &Path, heading: &Heading<'_>, progress: Progress, out: Out) -> Self {
        let snapshot = Snapshot {
            records: Vec::new(),
            starts: Vec::new(),
            planned: heading.planned,
            platform: heading.platform.to_owned(),
            version: heading.version.to_owned(),
            began: Utc::now(),
            lasted: Duration::ZERO,
            result: "",
            left: Vec::new(),
        };
        let bars = progress.bars.then(|| progress::Bars::new(heading.planned));
        let text = text::Text::new(out, progress.color);
        let (events, failure) = match begin(output_dir, heading) {
            Ok(events) => (Some(events), None),
            Err(e) => (None, Some(e)),
        };
        let not_rerun = Vec::new();
        let state = State { snapshot, text, bars, running: HashMap::new(), events, failure, not_rerun };
        Self {
            state: Mutex::new(state),
            writing: Mutex::new(()),
            output_dir: output_dir.to_owned(),
            clock: Instant::now(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a step and shows it.
    pub fn event(&self, event: Event) {
        let mut state = self.lock();
        let State { snapshot, text, bars, running, events, failure, .. } = &mut *state;
        let event = match event {
            Event::Ended(record) if record.attempt > 0 => {
                let before = snapshot.take(|r| r.name == record.name);
                let record = match before {
                    Some(before) => record.after(&before),
                    None => *record,
                };
                if record.depth == 0 && record.outcome.is_good() {
                    // Failures of sub-tests that were not met again are in the output of their run.
                    let below = format!("{}/", record.name);
                    while snapshot.take(|r| !r.outcome.is_good() && r.name.starts_with(&below)).is_some() {}
                }
                Event::Ended(Box::new(record))
            }
            other => other,
        };
        if let Some(bars) = bars {
            bars.event(&event);
        }
        let written = match bars {
            Some(bars) => bars.suspend(|| text.event(&event)),
            None => text.event(&event),
        };
        if let Err(e) = written {
            failure.get_or_insert(Error::Text(e));
        }
        if let Some(Err(e)) = events.as_mut().map(|events| events.event(&event)) {
            // What would follow a line that is not whole could not be read.
            *events = None;
            failure.get_or_insert(self.of_events(e));
        }
        match event {
            Event::Started { name, .. } => {
                running.insert(name, self.clock.elapsed());
            }
            Event::Ended(record) => {
                snapshot.starts.push(running.remove(&record.name));
                snapshot.records.push(Arc::from(record));
            }
        }
    }

    fn of_events(&self, source: io::Error) -> Error {
        Error::File { path: self.output_dir.join(REPORTS).join(EVENTS), source }
    }

    /// How the top-level tests ended.
    pub fn summary(&self) -> Summary {
        let state = self.lock();
        let top: Vec<_> = state.snapshot.records.iter().filter(|r| r.depth == 0).collect();
        let count = |outcome| top.iter().filter(|r| r.outcome == outcome).count();
        let chosen = |wanted: &dyn Fn(Outcome) -> bool| {
            let mut chosen: Vec<_> =
                top.iter().filter(|r| wanted(r.outcome)).map(|r| Arc::clone(r)).collect();
            chosen.sort_by(|a, b| crate::natural::compare(&a.name, &b.name));
            chosen
        };
        Summary {
            counts: Outcome::ALL.map(count),
            interrupted: false,
            bad: chosen(&|outcome| !outcome.is_good()),
            flaky: chosen(&|outcome| outcome == Outcome::Flaky),
            not_rerun: state.not_rerun.clone(),
            reruns: top.iter().map(|r| r.earlier.len()).sum(),
            times: top
                .iter()
                .filter(|r| !matches!(r.outcome, Outcome::Skip | Outcome::Interrupted | Outcome::Infra))
                .map(|r| (r.name.clone(), r.duration))
                .collect(),
            lasted: self.clock.elapsed(),
        }
    }

    /// How a top-level test ended the last time, if it did.
    pub fn last(&self, name: &str) -> Option<(Outcome, Fault)> {
        let state = self.lock();
        let at = state.snapshot.find(name)?;
        let record = &state.snapshot.records[at];
        Some((record.outcome, record.fault))
    }

    /// Notes tests that are not run again although they failed.
    pub fn not_rerun(&self, names: Vec<String>) {
        self.lock().not_rerun = names;
    }

    /// Writes the files of a run that is not over: should the process be killed, they tell what is known, and
    /// that it failed.
    pub fn checkpoint(&self) -> Result<(), Error> {
        self.write("FAIL").map(drop)
    }

    /// Notes what is left of what the tests shared.
    pub fn leave(&self, left: Vec<String>) {
        self.lock().snapshot.left = left;
    }

    /// Writes the final files and takes the progress display away.
    pub fn finish(&self, result: &'static str, interrupted: bool) -> Result<(), Error> {
        let written = self.write(result).and_then(|snapshot| self.write_page(&snapshot));
        let counts = self.summary().counts;
        let mut state = self.lock();
        state.bars = None;
        let State { snapshot, events, failure, .. } = &mut *state;
        let counts: Vec<_> = Outcome::ALL.into_iter().zip(counts).collect();
        let ended = events.as_mut().map(|events| events.end(result, interrupted, &counts, &snapshot.left));
        let ended = ended.unwrap_or(Ok(())).map_err(|e| self.of_events(e));
        match failure.take() {
            Some(e) => Err(e),
            None => written.and(ended),
        }
    }

    /// Writes the files that programs read.
    fn write(&self, result: &'static str) -> Result<Snapshot, Error> {
        let _order = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let lasted = self.clock.elapsed();
        let snapshot = Snapshot { result, lasted, ..self.lock().snapshot.clone() };
        let reports = reports(&self.output_dir)?;
        replace(&self.output_dir.join("test.tap"), files::tap(&snapshot).as_bytes())?;
        replace(&reports.join("report.json"), files::json(&snapshot).as_bytes())?;
        replace(&reports.join("junit.xml"), files::junit(&snapshot).map_err(Error::JUnit)?.as_bytes())?;
        Ok(snapshot)
    }

    /// Writes the page for people.
    fn write_page(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let path = self.output_dir.join(REPORTS).join(PAGE);
        let write = || {
            let fresh = Fresh::new(Target::File(Target::file(&path).map_err(io::Error::other)?), 0o666)?;
            html::write(snapshot, &self.output_dir, BufWriter::new(fresh.file()))?;
            fresh.commit()
        };
        write().map_err(|source| Error::File { path: path.clone(), source })
    }
}

/// The folder of the reports below the output folder, made if it is missing.
pub(super) fn reports(output_dir: &Path) -> Result<PathBuf, Error> {
    let path = output_dir.join(REPORTS);
    match std::fs::create_dir_all(&path) {
        Ok(()) => Ok(path),
        Err(source) => Err(Error::File { path, source }),
    }
}

fn begin(output_dir: &Path, heading: &Heading<'_>) -> Result<events::Events, Error> {
    let reports = reports(output_dir)?;
    replace(&reports.join(SCHEMA), events::SCHEMA.as_bytes())?;
    replace(&reports.join(SELECTION), heading.selection.text().as_bytes())?;
    let path = reports.join(EVENTS);
    events::Events::begin(&path, heading).map_err(|source| Error::File { path, source })
}

/// Puts a complete file in place of an older one, or leaves the older one.
pub(super) fn replace(path: &Path, data: &[u8]) -> Result<(), Error> {
    crate::target::replace(path, 0o666, data).map_err(|source| Error::File { path: path.to_owned(), source })
}
