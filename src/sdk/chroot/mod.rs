//! The SDK's chroot: unpacked, given its user, entered, removed.
//!
//! | module | what it is |
//! |---|---|
//! | [`request`] | what the part that runs as root is asked for, and its entries |
//! | [`root`] | how that part becomes root: as it is, by sudo, in a user namespace |
//! | `create`, `unpack`, `archive`, `provision` | a tree from a tarball, complete or not there |
//! | `enter`, `mounts`, `agents` | the mounts and the environment in which a command runs inside |
//! | `remove` | the end of a tree, and of nothing else |
//! | [`dir`] | folders in trees that others can write |
//! | [`user`] | for whom all this is done |
//!
//! Who asks has no rights: it downloads, verifies, copies the user's settings. Who is asked is root, trusts nothing that
//! lies in the tree, follows no link there, and makes its mounts in a namespace that ends with it.

mod agents;
mod archive;
mod create;
pub mod dir;
mod enter;
mod mounts;
mod provision;
mod remove;
pub mod request;
pub mod root;
mod unpack;
pub mod user;
mod watch;

use std::io;
use std::path::{Path, PathBuf};

/// Whose messages these are.
const COMPONENT: &str = "sdk";

/// Where the source tree lies inside.
pub const SOURCE: &str = "/mnt/host/source";

/// What can go wrong with a chroot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused something.
    #[error("cannot {doing} {}", .path.display())]
    Io {
        /// What was wanted.
        doing: &'static str,
        /// Of which file or folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is a link where none is followed.
    #[error("{} is or goes through a symbolic link, and none is followed here", .path.display())]
    Link {
        /// The path.
        path: PathBuf,
    },
    /// Something is there and is of another kind.
    #[error("{} is not {wanted}", .path.display())]
    Kind {
        /// The path.
        path: PathBuf,
        /// What it should be.
        wanted: &'static str,
    },
    /// The archive cannot be read.
    #[error("cannot unpack {name}")]
    Archive {
        /// The archive's name.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A member of the archive is refused.
    #[error("refused a member of the archive, {}: {what}", .name.display())]
    Member {
        /// The member.
        name: PathBuf,
        /// Why.
        what: &'static str,
    },
    /// The content of a member cannot be read; becomes [`Error::Archive`].
    #[error("cannot read a member of the archive")]
    Content(#[source] io::Error),
    /// A chroot is there.
    #[error("Path already exists: {}", .0.display())]
    Exists(PathBuf),
    /// Somebody else is at work on the same chroot.
    #[error("another process is creating or removing {}", .0.display())]
    Busy(PathBuf),
    /// Something is mounted in the tree.
    #[error("{} is mounted there: nothing was removed", .0.display())]
    Mounted(PathBuf),
    /// A mount failed.
    #[error("{what} failed")]
    Mount {
        /// Which, in the words of upstream.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program in the chroot failed.
    #[error("{what} failed: {status}")]
    Program {
        /// Which.
        what: &'static str,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// The user cannot be found out.
    #[error("{0}")]
    User(String),
    /// The request is none.
    #[error("the request is not understood")]
    Request(#[source] serde_json::Error),
    /// Root cannot be had.
    #[error("{0}")]
    Root(String),
    /// The process was asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// For what the file system says of a path.
    pub(crate) fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

pub use enter::copy_settings;

/// What a process left that was killed while it created or removed this chroot, if there is anything.
pub fn left_over(chroot: &Path) -> Option<PathBuf> {
    let (parent, name) = (chroot.parent()?, chroot.file_name()?);
    let names = [create::dying(name), create::unfinished(name)];
    names.map(|name| parent.join(name)).into_iter().find(|path| path.symlink_metadata().is_ok())
}

/// The user's home inside, without the leading slash: by name, wherever it is outside.
fn home(user: &user::User) -> PathBuf {
    if user.uid.is_root() { "root".into() } else { Path::new("home").join(&user.name) }
}
