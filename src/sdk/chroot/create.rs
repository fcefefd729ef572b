//! A chroot is made under another name and gets its own when it is complete.

use std::ffi::{OsStr, OsString};
use std::io;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, RenameFlags, renameat2};
use nix::sys::stat::{Mode, mkdirat};

use super::dir::{self, Dir};
use super::request::Request;
use super::user::User;
use super::{COMPONENT, Error, provision, remove, unpack, watch};
use crate::notice;

/// A folder that this process works on, as all others are told by the lock.
pub struct Own {
    /// The folder.
    pub dir: Dir,
    _lock: Flock<std::fs::File>,
}

impl Own {
    /// Takes a folder for this process alone; `None` if another has it.
    ///
    /// # Errors
    /// [`Error::Link`]; what the file system says.
    pub fn take(parent: &Dir, name: &OsStr) -> Result<Option<Self>, Error> {
        let dir = parent.dir(name)?;
        let file = std::fs::File::open(dir.magic()).map_err(Error::at("open", dir.name()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Self { dir, _lock: lock })),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, e)) => Err(dir::failed(e, "lock", dir.name())),
        }
    }
}

/// What a chroot is called while it is made.
pub fn unfinished(name: &OsStr) -> OsString {
    marked(name, ".new")
}

/// What a chroot is called while it is removed.
pub fn dying(name: &OsStr) -> OsString {
    marked(name, ".old")
}

fn marked(name: &OsStr, mark: &str) -> OsString {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(mark);
    hidden
}

/// Makes the chroot that is asked for of the archive on standard input.
///
/// # Errors
/// Any [`Error`]; nothing of the new chroot is left then, and an old one is as it was.
pub fn create(request: &Request) -> Result<(), Error> {
    watch::start().map_err(Error::at("watch", &request.chroot))?;
    User::of_sudo()?; // before anything is unpacked for nobody
    let (parent, name) = request.place()?;
    let old = remove::look(&parent, &name)?;
    if old.is_some() && !request.replace {
        return Err(Error::Exists(request.chroot.clone()));
    }
    let new = unfinished(&name);
    remove::sweep(&parent, &name)?;
    match mkdirat(&parent, new.as_os_str(), Mode::S_IRWXU) {
        Ok(()) => {}
        Err(Errno::EEXIST) => return Err(Error::Busy(request.chroot.clone())),
        Err(e) => return Err(dir::failed(e, "make", &parent.path(&new))),
    }
    let own = Own::take(&parent, &new)?.ok_or_else(|| Error::Busy(request.chroot.clone()))?;
    let make = || {
        unpack::unpack(io::stdin(), request.size, &request.archive, &own.dir, &watch::stopped)?;
        notice!(COMPONENT, "unpacked {}", request.archive);
        provision::provision(&Request { chroot: parent.path(&new), ..request.clone() })?;
        land(request, &parent, &name, &new)
    };
    make().inspect_err(|_| {
        // What cannot be removed now is removed by the next one.
        let _ = remove::tree(&parent, &new, &|| false);
    })
}

/// Gives the new chroot its name; the old one goes.
fn land(request: &Request, parent: &Dir, name: &OsStr, new: &OsStr) -> Result<(), Error> {
    if watch::stopped() {
        return Err(Error::Interrupted);
    }
    let rename = |flags| renameat2(parent, new, parent, name, flags);
    match rename(RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => return Ok(()),
        Err(Errno::EEXIST) if request.replace => {}
        Err(Errno::EEXIST) => return Err(Error::Exists(request.chroot.clone())),
        Err(e) => return Err(dir::failed(e, "rename", &parent.path(new))),
    }
    remove::look(parent, name)?;
    remove::check_mounts(&parent.dir(name)?)?;
    rename(RenameFlags::RENAME_EXCHANGE).map_err(|e| dir::failed(e, "replace", &parent.path(name)))?;
    notice!(COMPONENT, "replaced {}: removing the old one", request.chroot.display());
    // From here on the new one is in its place, whatever becomes of the old one.
    remove::tree(parent, new, &watch::stopped)
}
