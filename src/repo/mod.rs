//! The sources of the SDK: many git repositories, which a manifest puts together to one tree.
//!
//! | below the root of the tree | what it is |
//! |---|---|
//! | `.repo/manifests/` | a checkout of the repository of the manifests |
//! | `.repo/manifest.xml` | the manifest that counts: it includes one of those |
//! | `.repo/local_manifest.xml`, `.repo/local_manifests/*.xml` | what the user adds to it |
//! | `.repo/mantle/` | what the built-in sync notes: its settings, its lock, what it was at when it was killed |
//!
//! A manifest may come from anywhere. No name in it becomes an option or a command, no path in it leads out of the tree
//! or through a link, and what the user has changed and not committed stays.
//!
//! The `repo` tool makes trees of the same form; a tree that it made can be verified, and synced, here as well.

mod git;
mod manifests;
mod names;
mod placed;
mod state;
mod sync;
mod tag;
#[cfg(test)]
mod tests;
mod tool;
mod tree;
mod verify;
mod xml;

use std::io;
use std::path::{Path, PathBuf};

pub use manifests::{Origin, init, remote_versions, verify_tag};
pub use sync::{Options, sync};
pub use tag::TagError;
pub use tool::{Tool, is_built_in};
pub use tree::{Placed, Project, Tree, Which};
pub use verify::verify;

use crate::error::Stop;

const LOG: &str = "sdk/repo";
/// The folder of the manifests, below the root of a tree.
const REPO: &str = ".repo";
/// The checkout of the manifests, below [`REPO`].
const MANIFESTS: &str = "manifests";

/// Why a tree cannot be made, updated or verified.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder cannot be read or written.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A manifest makes no sense, or would do harm.
    #[error("{place}: {why}")]
    Manifest {
        /// File and line.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// There is no git.
    #[error("there is no git in PATH")]
    NoGit,
    /// git failed.
    #[error("{what}: {why}")]
    Git {
        /// What it was to do, and where.
        what: String,
        /// What it says.
        why: String,
    },
    /// The `repo` tool failed.
    #[error(transparent)]
    Tool(#[from] crate::process::Error),
    /// Something in the tree is not as it has to be.
    #[error("{}: {why}", .path.display())]
    Unsafe {
        /// Where.
        path: PathBuf,
        /// What is there.
        why: String,
    },
    /// A tag does not count.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// The branch of the manifests has a name that is not possible.
    #[error("{0}")]
    Branch(String),
    /// Another sync is at work.
    #[error("another sync is at work in {}", .0.display())]
    Busy(PathBuf),
    /// Some of the projects could not be brought up to date; the log says which and why.
    #[error("{failed} of {all} projects failed")]
    Projects {
        /// How many.
        failed: usize,
        /// Of how many.
        all: usize,
    },
    /// The tree is not what the manifest says; the log says where.
    #[error("repo: failed verification")]
    Unverified,
    /// A manifest that does not say enough to verify a tree.
    #[error("repo: unimplemented feature in manifest: {0}")]
    Unimplemented(String),
    /// The version file of the manifests.
    #[error(transparent)]
    Release(#[from] crate::release::version::Error),
    /// A thread was lost.
    #[error("a thread ended early: {0}")]
    Thread(String),
    /// The user interrupted the work.
    #[error("interrupted")]
    Interrupted(#[source] Stop),
}

impl Error {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    fn manifest(place: &str, why: impl Into<String>) -> Self {
        Self::Manifest { place: place.to_owned(), why: why.into() }
    }

    fn unsafe_path(path: &Path, why: impl Into<String>) -> Self {
        Self::Unsafe { path: path.to_owned(), why: why.into() }
    }

    fn interrupted() -> Self {
        Self::Interrupted(Stop::Interrupted)
    }

    /// Whether the user interrupted the work.
    pub fn is_interruption(&self) -> bool {
        matches!(self, Self::Interrupted(_))
    }
}
