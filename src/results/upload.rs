//! Brings the results of a run to a place while it goes on.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Error, Store};
use crate::cloud::resume::Identity;
use crate::harness::{self, Told};
use crate::text::chain;
use crate::{debug, warning};

const COMPONENT: &str = "results";
/// The file that grows with the run.
const EVENTS: &str = "reports/events.ndjson";
/// What says which run this is a part of: stored first.
const SELECTION: &str = "reports/selection.json";
/// Files beside the folders of tests.
const REPORTS: [&str; 2] = ["test.tap", "properties.json"];
/// Files on their way at once.
const AT_ONCE: usize = 4;
/// Least time between two uploads of the events.
const PAUSE: Duration = Duration::from_secs(1);
/// The events are stored again after so many times as long as it took the last time: they are stored whole, and are to
/// take a small part of the line.
const RATIO: u32 = 10;
/// How long after a failure nothing is tried.
const REST: Duration = Duration::from_secs(10);
/// After so many failures in a row the rest is given up at the end.
const FAILURES: usize = 3;
/// How long after an interruption may be spent on what is missing.
const GRACE: Duration = Duration::from_secs(30);
/// Levels of folders in a test's.
const LEVELS: usize = 8;

/// What came of all uploads.
#[derive(Debug, Default)]
pub struct Done {
    /// Files that are there.
    pub stored: usize,
    /// Names of those that are not, or not as they are here.
    pub missing: Vec<String>,
    /// Why the first of them is missing.
    pub reason: Option<String>,
}

/// Stores the results of a run beside it; the run never waits for it.
pub struct Uploader {
    told: mpsc::UnboundedSender<Told>,
    task: JoinHandle<Done>,
    /// The run is over: what is missing is stored.
    closing: CancellationToken,
    /// Enough.
    stop: CancellationToken,
    _guard: DropGuard,
}

impl Uploader {
    /// Begins to store what is in an output folder, in a folder of this name.
    pub fn start(store: Store, name: String, output_dir: PathBuf) -> Self {
        let (told, hears) = mpsc::unbounded_channel();
        let (closing, stop) = (CancellationToken::new(), CancellationToken::new());
        let job = Job {
            store,
            name,
            output_dir,
            stop: stop.clone(),
            stored: HashMap::new(),
            folders: BTreeSet::new(),
            warned: false,
        };
        let (runtime, over) = (tokio::runtime::Handle::current(), closing.clone());
        // On a thread of its own: what is computed and read for it keeps no test waiting.
        let task = tokio::task::spawn_blocking(move || runtime.block_on(job.run(hears, over)));
        Self { told, task, closing, _guard: stop.clone().drop_guard(), stop }
    }

    /// Whom to tell of results.
    pub fn listener(&self) -> mpsc::UnboundedSender<Told> {
        self.told.clone()
    }

    /// Stores what is not yet stored, when the run is over and nothing changes any more. Once `cancel` is cancelled, that
    /// may take half a minute.
    pub async fn finish(self, cancel: &CancellationToken) -> Done {
        let Self { told, mut task, closing, stop, _guard } = self;
        drop(told);
        closing.cancel();
        let late = async {
            cancel.cancelled().await;
            sleep(GRACE).await;
        };
        let ended = tokio::select! {
            ended = &mut task => ended,
            () = late => {
                stop.cancel();
                task.await
            }
        };
        ended.unwrap_or_else(|e| Done {
            missing: vec![EVENTS.to_owned()],
            reason: Some(format!("the upload ended: {e}")),
            ..Done::default()
        })
    }
}

struct Job {
    store: Store,
    name: String,
    output_dir: PathBuf,
    stop: CancellationToken,
    /// What was stored of which files.
    stored: HashMap<String, Identity>,
    /// Folders of tests that have ended, below the output folder.
    folders: BTreeSet<PathBuf>,
    warned: bool,
}

impl Job {
    async fn run(mut self, mut hears: mpsc::UnboundedReceiver<Told>, closing: CancellationToken) -> Done {
        let mut queue = VecDeque::new();
        // The events have changed, and when they may be stored.
        let (mut dirty, mut due) = (false, Instant::now());
        while !self.stop.is_cancelled() && !closing.is_cancelled() {
            while let Ok(what) = hears.try_recv() {
                self.hear(what, &mut queue);
                dirty = true;
            }
            if dirty && Instant::now() >= due {
                dirty = false;
                let began = Instant::now();
                let stored = async {
                    if !self.stored.contains_key(SELECTION) {
                        self.put(SELECTION).await?;
                    }
                    self.put_events().await
                };
                match stored.await {
                    Ok(()) => due = Instant::now() + PAUSE.max(began.elapsed() * RATIO),
                    Err(e) => {
                        self.warn(&e);
                        (dirty, due) = (true, Instant::now() + REST);
                    }
                }
            } else if let Some(folder) = queue.pop_front() {
                let files = self.files_in(folder).await;
                if let Some((_, e)) = self.put_all(files, 1).await.into_iter().next() {
                    // It is tried again at the end.
                    self.warn(&e);
                    let rest = async {
                        tokio::select! {
                            () = closing.cancelled() => {}
                            () = sleep(REST) => {}
                        }
                    };
                    self.stop.run_until_cancelled(rest).await;
                }
            } else {
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    () = closing.cancelled() => {}
                    what = hears.recv() => match what {
                        Some(what) => {
                            self.hear(what, &mut queue);
                            dirty = true;
                        }
                        // The tests are over; the reports are not.
                        None => tokio::select! {
                            () = self.stop.cancelled() => {}
                            () = closing.cancelled() => {}
                        },
                    },
                    () = sleep_until(due), if dirty => {}
                }
            }
        }
        while let Ok(what) = hears.try_recv() {
            self.hear(what, &mut queue);
        }
        self.finish().await
    }

    fn hear(&mut self, what: Told, queue: &mut VecDeque<PathBuf>) {
        if let Told::Ended { name, attempt } = what {
            let folder = harness::folder_of_attempt(Path::new(""), &name, attempt);
            self.folders.insert(folder.clone());
            queue.push_back(folder);
        }
    }

    /// Stores all that is missing or has changed; the events last, which say that all is there.
    async fn finish(mut self) -> Done {
        let mut files: Vec<String> = REPORTS.iter().map(|name| (*name).to_owned()).collect();
        files.retain(|name| self.output_dir.join(name).is_file());
        let reports = self.files_in("reports".into()).await;
        files.extend(reports.into_iter().filter(|name| name != EVENTS));
        for folder in self.folders.clone() {
            files.extend(self.files_in(folder).await);
        }
        files.retain(|name| !self.is_stored(name));
        let mut failed = self.put_all(files, FAILURES).await;
        if self.output_dir.join(EVENTS).is_file()
            && let Err(e) = self.put_events().await
        {
            failed.push((EVENTS.to_owned(), e));
        }
        let reason = failed.iter().map(|(_, e)| e).find(|e| !matches!(e, Error::Interrupted));
        let reason = reason.or_else(|| failed.first().map(|(_, e)| e)).map(|e| chain(e));
        let missing = failed.into_iter().map(|(name, _)| name).collect();
        Done { stored: self.stored.len(), missing, reason }
    }

    fn warn(&mut self, e: &Error) {
        if matches!(e, Error::Interrupted) {
            return;
        }
        let text = chain(e);
        if std::mem::replace(&mut self.warned, true) {
            debug!(COMPONENT, "cannot store results: {text}");
        } else {
            let at = self.store.called(&self.name);
            warning!(
                COMPONENT,
                "cannot store results in {at}: {text}; the tests go on, and it is tried again"
            );
        }
    }

    /// Whether a file is stored as it is now.
    fn is_stored(&self, name: &str) -> bool {
        let now = Identity::of(&self.output_dir.join(name)).ok();
        now.is_some() && self.stored.get(name) == now.as_ref()
    }

    /// The files in a folder and those below it, by their names below the output folder.
    async fn files_in(&self, folder: PathBuf) -> Vec<String> {
        let base = self.output_dir.clone();
        let found = tokio::task::spawn_blocking(move || {
            let mut found = Vec::new();
            find(&base, &folder, LEVELS, &mut found);
            found
        });
        found.await.unwrap_or_default()
    }

    /// Stores files, several at a time; returns those that it could not, all that are left after so many failures.
    async fn put_all(&mut self, files: Vec<String>, failures: usize) -> Vec<(String, Error)> {
        let mut failed = Vec::new();
        let mut waiting = files.into_iter();
        loop {
            let some: Vec<String> = waiting.by_ref().take(AT_ONCE).collect();
            if some.is_empty() {
                return failed;
            }
            if self.stop.is_cancelled() || failed.len() >= failures {
                let rest = some.into_iter().chain(waiting);
                failed.extend(rest.map(|name| (name, Error::Interrupted)));
                return failed;
            }
            let this = &*self;
            let puts = some.into_iter().map(|name| async move {
                let put = this.send(&name, &this.output_dir.join(&name)).await;
                (name, put)
            });
            let done: Vec<_> = stream::iter(puts).buffer_unordered(AT_ONCE).collect().await;
            for (name, put) in done {
                match put {
                    Ok(identity) => _ = self.stored.insert(name, identity),
                    Err(e) => failed.push((name, e)),
                }
            }
        }
    }

    async fn put(&mut self, name: &str) -> Result<(), Error> {
        let identity = self.send(name, &self.output_dir.join(name)).await?;
        self.stored.insert(name.to_owned(), identity);
        Ok(())
    }

    /// Sends a file that does not change.
    async fn send(&self, name: &str, path: &Path) -> Result<Identity, Error> {
        let identity = Identity::of(path).map_err(|e| Error::file("read", path)(io::Error::other(e)))?;
        self.store.put(&format!("{}/{name}", self.name), path, &self.stop).await?;
        debug!(COMPONENT, "stored {name}");
        Ok(identity)
    }

    /// Stores the events as they are now: of a copy, as they grow meanwhile.
    async fn put_events(&mut self) -> Result<(), Error> {
        let path = self.output_dir.join(EVENTS);
        if self.is_stored(EVENTS) {
            return Ok(());
        }
        let identity = Identity::of(&path).map_err(|e| Error::file("read", &path)(io::Error::other(e)))?;
        let from = path.clone();
        let spool = tokio::task::spawn_blocking(move || {
            let mut spool = tempfile::NamedTempFile::new()?;
            io::copy(&mut std::fs::File::open(&from)?, spool.as_file_mut())?;
            Ok(spool)
        });
        let spool = spool.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        let spool = spool.map_err(Error::file("copy", &path))?;
        self.store.put(&format!("{}/{EVENTS}", self.name), spool.path(), &self.stop).await?;
        self.stored.insert(EVENTS.to_owned(), identity);
        Ok(())
    }
}

fn find(base: &Path, folder: &Path, levels: usize, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(base.join(folder)).into_iter().flatten().flatten() {
        let inner = folder.join(entry.file_name());
        // Links are not followed: what they name is not of the run.
        let Ok(about) = entry.metadata() else { continue };
        if about.is_dir() && levels > 0 {
            find(base, &inner, levels - 1, found);
        } else if about.is_file()
            && let Some(name) = inner.to_str()
        {
            found.push(name.to_owned());
        }
    }
}
