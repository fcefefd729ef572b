//! What happens in a run, recorded once and shown in several forms.

mod files;
mod progress;
mod text;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::Summary;
use super::outcome::{Fault, Outcome};
pub use progress::Progress;

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
}

impl Record {
    /// The first line of what went wrong, without escape sequences; "" if nothing was said.
    pub fn headline(&self) -> String {
        let reason = crate::text::strip_escapes(self.reason.as_deref().unwrap_or_default());
        reason.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned()
    }

    /// What went wrong, in a word: the kind of failure, or the outcome where that says more.
    pub fn kind(&self) -> String {
        match self.outcome {
            Outcome::Fail => self.fault.as_str().to_owned(),
            other => other.as_str().to_lowercase(),
        }
    }

    /// The result line and, below, the output.
    pub fn block(&self) -> String {
        let seconds = self.duration.as_secs_f64();
        format!("--- {}: {} ({seconds:.2}s)\n{}", self.outcome, self.name, self.output)
    }
}

/// Everything the report files are made of.
#[derive(Clone, Debug)]
struct Snapshot {
    /// In order of completion.
    records: Vec<Arc<Record>>,
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
    /// The first failure to write text.
    failure: Option<io::Error>,
}

/// What a run is called in its reports.
pub struct Heading<'a> {
    /// Number of top-level tests.
    pub planned: usize,
    /// Platform the tests run on.
    pub platform: &'a str,
    /// Version of the tested system, "" if unknown.
    pub version: &'a str,
}

impl Recorder {
    pub fn new(output_dir: &Path, heading: &Heading<'_>, progress: Progress, out: Out) -> Self {
        let snapshot = Snapshot {
            records: Vec::new(),
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
        Self {
            state: Mutex::new(State { snapshot, text, bars, failure: None }),
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
        let State { snapshot, text, bars, failure } = &mut *state;
        if let Some(bars) = bars {
            bars.event(&event);
        }
        let written = match bars {
            Some(bars) => bars.suspend(|| text.event(&event)),
            None => text.event(&event),
        };
        if let Err(e) = written {
            failure.get_or_insert(e);
        }
        if let Event::Ended(record) = event {
            snapshot.records.push(Arc::from(record));
        }
    }

    /// How the top-level tests ended.
    pub fn summary(&self) -> Summary {
        let state = self.lock();
        let top: Vec<_> = state.snapshot.records.iter().filter(|r| r.depth == 0).collect();
        let count = |outcome| top.iter().filter(|r| r.outcome == outcome).count();
        let mut bad: Vec<_> = top.iter().filter(|r| !r.outcome.is_good()).map(|r| Arc::clone(r)).collect();
        bad.sort_by(|a, b| crate::natural::compare(&a.name, &b.name));
        Summary { counts: Outcome::ALL.map(count), interrupted: false, bad, lasted: self.clock.elapsed() }
    }

    /// Writes the files of a run that is not over: should the process be killed, they tell what is known, and
    /// that it failed.
    pub fn checkpoint(&self) -> Result<(), Error> {
        self.write("FAIL")
    }

    /// Notes what is left of what the tests shared.
    pub fn leave(&self, left: Vec<String>) {
        self.lock().snapshot.left = left;
    }

    /// Writes the final files and takes the progress display away.
    pub fn finish(&self, result: &'static str) -> Result<(), Error> {
        let written = self.write(result);
        let mut state = self.lock();
        state.bars = None;
        match state.failure.take() {
            Some(e) => Err(Error::Text(e)),
            None => written,
        }
    }

    fn write(&self, result: &'static str) -> Result<(), Error> {
        let _order = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let lasted = self.clock.elapsed();
        let snapshot = Snapshot { result, lasted, ..self.lock().snapshot.clone() };
        let reports = self.output_dir.join("reports");
        std::fs::create_dir_all(&reports).map_err(|source| Error::File { path: reports.clone(), source })?;
        replace(&self.output_dir.join("test.tap"), files::tap(&snapshot).as_bytes())?;
        replace(&reports.join("report.json"), files::json(&snapshot).as_bytes())?;
        replace(&reports.join("junit.xml"), files::junit(&snapshot).map_err(Error::JUnit)?.as_bytes())
    }
}

/// Puts a complete file in place of an older one, or leaves the older one.
fn replace(path: &Path, data: &[u8]) -> Result<(), Error> {
    crate::target::replace(path, 0o666, data).map_err(|source| Error::File { path: path.to_owned(), source })
}
