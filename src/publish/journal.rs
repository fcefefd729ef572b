//! The record of a release: which steps were done, and what came of them.
//!
//! One file a release in `$XDG_STATE_HOME/mantle/plume`. What can be looked at is never taken from it: it decides only
//! about what nobody can tell, keeps two processes from the same release, and tells people later what was made when.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use chrono::{SecondsFormat, Utc};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::folders::{self, Unusable};
use crate::text::json_mistake;

/// The version of the file's form.
const VERSION: u32 = 1;

/// Why there is no record.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] Unusable),
    /// It is not what was written.
    #[error("{}: {reason}", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another process is at the same release.
    #[error("{0} is being released by another process")]
    Busy(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    release: String,
    steps: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// When it was done, RFC 3339.
    done: String,
    result: Value,
}

/// A release's record.
#[derive(Debug)]
pub struct Journal {
    /// None: there is no place for records, or nothing is to be written.
    path: Option<PathBuf>,
    /// What was recorded when it was opened.
    before: BTreeMap<String, Entry>,
    document: Mutex<Document>,
    _lock: Option<Flock<File>>,
}

/// Where the record of a release is.
fn path(folder: &Path, release: &str) -> PathBuf {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    let name: String = release.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    folder.join(format!("{name}.json"))
}

impl Journal {
    /// The record of a release, which nobody else gets meanwhile.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open(release: &str) -> Result<Self, Error> {
        Self::open_in(folders::state().map(|s| s.join("plume")).as_deref(), release, true)
    }

    /// The record as it is, to be read alone.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Foreign`].
    pub fn look(release: &str) -> Result<Self, Error> {
        Self::open_in(folders::state().map(|s| s.join("plume")).as_deref(), release, false)
    }

    fn open_in(folder: Option<&Path>, release: &str, write: bool) -> Result<Self, Error> {
        let path = folder.map(|folder| path(folder, release));
        let lock = match &path {
            Some(path) if write => Some(lock(path, release)?),
            _ => None,
        };
        let empty = Document { version: VERSION, release: release.into(), steps: BTreeMap::new() };
        let document = match &path {
            Some(path) if path.exists() => {
                let bytes = crate::input::read(path).map_err(Unusable::at(path))?;
                let foreign = |reason| Error::Foreign { path: path.clone(), reason };
                let document: Document =
                    serde_json::from_slice(&bytes).map_err(|e| foreign(json_mistake(&e)))?;
                if document.version != VERSION || document.release != release {
                    return Err(foreign("it is the record of something else".into()));
                }
                document
            }
            _ => empty,
        };
        let before = document.steps.clone();
        let path = path.filter(|_| write);
        Ok(Self { path, before, document: Mutex::new(document), _lock: lock })
    }

    /// What came of a step in an earlier run.
    pub fn recorded(&self, key: &str) -> Option<Value> {
        self.before.get(key).map(|entry| entry.result.clone())
    }

    /// Writes down what came of a step.
    ///
    /// # Errors
    /// [`Error::File`].
    pub async fn record(&self, key: &str, result: Value) -> Result<(), Error> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut document = self.document.lock().await;
        let done = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
        document.steps.insert(key.to_owned(), Entry { done, result });
        let mut text = serde_json::to_vec_pretty(&*document).unwrap_or_default(); // maps with names for keys: it can be written
        text.push(b'\n');
        let to = path.clone();
        let written = tokio::task::spawn_blocking(move || crate::target::replace(&to, 0o600, &text)).await;
        written
            .map_err(std::io::Error::other)
            .and_then(|written| written)
            .map_err(|e| Unusable::at(path)(e).into())
    }
}

fn lock(path: &Path, release: &str) -> Result<Flock<File>, Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(Unusable::at(folder))?;
    let beside = path.with_extension("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&beside);
    let file = file.map_err(Unusable::at(&beside))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => Error::Busy(release.into()),
        errno => Unusable::at(&beside)(errno.into()).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_done_is_known_to_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let open = |write| Journal::open_in(Some(folder.path()), "cl alpha amd64-usr 1.2.3+x", write);
        let first = open(true).unwrap();
        first.record("a/b", Value::from(1)).await.unwrap();
        assert!(first.recorded("a/b").is_none(), "this run is no earlier one");
        assert!(matches!(open(true), Err(Error::Busy(_))));
        drop(first);
        assert_eq!(open(true).unwrap().recorded("a/b"), Some(Value::from(1)));
        let looked = open(false).unwrap();
        looked.record("c", Value::Null).await.unwrap();
        drop(looked);
        assert!(open(false).unwrap().recorded("c").is_none());
        let file = folder.path().join("cl_alpha_amd64-usr_1.2.3+x.json");
        std::fs::write(&file, "{}").unwrap();
        assert!(matches!(open(false), Err(Error::Foreign { .. })));
    }
}
