//! The harness as a whole. Time is tokio's paused clock, so durations in expected texts are exact.

mod files;
mod parallel;
mod rerun;
mod results;
mod stopping;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use color_eyre::eyre::{self, WrapErr, bail, eyre};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::*;

const LONG: Duration = Duration::from_secs(600);

/// What a run left.
struct Ran {
    result: Result<Summary, Error>,
    /// Text on stdout; line numbers are replaced by N.
    text: String,
    dir: tempfile::TempDir,
}

impl Ran {
    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap()
    }

    fn summary(&self) -> Summary {
        match &self.result {
            Ok(summary) | Err(Error::Failed(summary)) => summary.clone(),
            Err(other) => panic!("{other:?}"),
        }
    }

    /// The text without `=== RUN` lines.
    fn results(&self) -> String {
        self.text.lines().filter(|l| !l.starts_with("=== RUN")).map(|l| format!("{l}\n")).collect()
    }
}

fn without_line_numbers(text: &str) -> String {
    regex::Regex::new(r"\.rs:\d+(:\d+)?").unwrap().replace_all(text, ".rs:N").into_owned()
}

async fn run_cases(cases: Vec<Case>, parallel: usize) -> Ran {
    run_until(cases, parallel, CancellationToken::new()).await
}

async fn run_until(cases: Vec<Case>, parallel: usize, cancel: CancellationToken) -> Ran {
    run_with(cases, parallel, cancel, Rerun::default()).await
}

async fn run_with(cases: Vec<Case>, parallel: usize, cancel: CancellationToken, rerun: Rerun) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    let text = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&text);
    let out: Out = Box::new(move |data| {
        sink.lock().unwrap().extend_from_slice(data);
        Ok(())
    });
    let options = Options {
        output_dir: dir.path().to_owned(),
        parallel,
        platform: "qemu".into(),
        version: "1.2.3".into(),
        progress: Progress::default(),
        ordered: false,
        rerun,
        share: Share::default(),
    };
    let result = run_to(cases, &options, cancel, out, async || Vec::new()).await;
    let text = without_line_numbers(std::str::from_utf8(&text.lock().unwrap()).unwrap());
    Ran { result, text, dir }
}

fn case<F, Fut>(name: &str, body: F) -> Case
where
    F: FnOnce(T) -> Fut + Send + 'static,
    Fut: Future<Output = eyre::Result<()>> + Send + 'static,
{
    Case::simple(name, LONG, once(body))
}

/// For functions that use up what they hold, in tests that run them once.
fn once<F, Fut>(f: F) -> impl Fn(T) -> Fut + Send + Sync
where
    F: FnOnce(T) -> Fut + Send + 'static,
{
    let f = Mutex::new(Some(f));
    move |t| f.lock().unwrap().take().expect("a second run")(t)
}

/// Remembers what happened in which order.
#[derive(Clone, Default)]
struct Story(Arc<Mutex<Vec<String>>>);

impl Story {
    fn add(&self, text: impl Into<String>) {
        self.0.lock().unwrap().push(text.into());
    }

    fn told(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}
