//! What the built-in sync notes in `.repo/mantle`, so that it can go on where it was killed.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::{Error, REPO};
use crate::text::hex;
use crate::{input, target};

const FOLDER: &str = "mantle";

/// The settings and results of syncs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    /// The groups of projects that are wanted; empty for the usual ones.
    pub(super) groups: Vec<String>,
    /// How many commits are wanted of each project.
    pub(super) depth: Option<u32>,
    /// What was put elsewhere in the tree: the content's SHA-256 of copies, the target of links.
    pub(super) placed: BTreeMap<String, Trace>,
}

/// What was put at a place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Trace {
    Copy(String),
    Link(String),
}

/// The notes of one tree. While it lives, no other sync works there.
#[derive(Debug)]
pub(super) struct Notes {
    folder: PathBuf,
    _lock: Flock<File>,
}

fn folder(root: &Path) -> PathBuf {
    root.join(REPO).join(FOLDER)
}

/// Whether the built-in sync made this tree.
pub(super) fn exists(root: &Path) -> bool {
    folder(root).join("state.json").is_file()
}

/// The state that was left, if the built-in sync made this tree.
pub(super) fn read(root: &Path) -> Result<State, Error> {
    let path = folder(root).join("state.json");
    let failed = Error::io("read", &path);
    match input::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|e| failed(io::Error::other(e))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(State::default()),
        Err(e) => Err(failed(e)),
    }
}

impl Notes {
    /// Takes the tree at `root` for this process.
    pub(super) fn open(root: &Path) -> Result<Self, Error> {
        let folder = folder(root);
        let busy = folder.join("busy");
        std::fs::create_dir_all(&busy).map_err(Error::io("make the folder", &busy))?;
        let path = folder.join("lock");
        let mut options = OpenOptions::new();
        options.create(true).write(true).truncate(false).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
        let file = options.open(&path).map_err(Error::io("open", &path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { folder, _lock: lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(Error::Busy(root.to_owned())),
            Err((_, e)) => Err(Error::io("lock", &path)(e.into())),
        }
    }

    pub(super) fn write(&self, state: &State) -> Result<(), Error> {
        let path = self.folder.join("state.json");
        let failed = Error::io("write", &path);
        let text = serde_json::to_vec_pretty(state).map_err(io::Error::other);
        text.and_then(|text| target::replace(&path, 0o666, &text)).map_err(failed)
    }

    fn marker(&self, path: &str) -> PathBuf {
        // A path may be longer than a name.
        self.folder.join("busy").join(hex(&openssl::sha::sha256(path.as_bytes())))
    }

    /// Notes that work at a project begins: if it is there later, the work was killed. `commit` is what is being checked
    /// out; empty before that.
    pub(super) fn begin(&self, path: &str, commit: &str) -> Result<(), Error> {
        let marker = self.marker(path);
        target::replace(&marker, 0o666, commit.as_bytes()).map_err(Error::io("write", &marker))
    }

    /// What was being checked out when the work at a project was killed.
    pub(super) fn killed(&self, path: &str) -> Option<String> {
        input::read_to_string(&self.marker(path)).ok()
    }

    /// Notes that the work at a project has ended.
    pub(super) fn end(&self, path: &str) {
        // What is left is looked at once more, no harm.
        let _ = std::fs::remove_file(self.marker(path));
    }
}
