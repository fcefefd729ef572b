//! A tree ends, and nothing else does: what is mounted in it is left alone, links are removed and not followed.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat2};
use nix::sys::stat::FileStat;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::create::{Own, dying, unfinished};
use super::dir::{self, Dir};
use super::request::Request;
use super::{Error, watch};

/// How deep folders are opened below each other; what is deeper is first moved up, as there are only so many descriptors.
const DEEPEST: usize = 100;

/// Removes the chroot that is asked for.
///
/// # Errors
/// Any [`Error`]: if it is no chroot or something is mounted in it, nothing has been done.
pub fn delete(request: &Request) -> Result<(), Error> {
    watch::start().map_err(Error::at("watch", &request.chroot))?;
    let (parent, name) = request.place()?;
    sweep(&parent, &name)?;
    if look(&parent, &name)?.is_none() {
        return Ok(());
    }
    let chroot = parent.dir(&name)?;
    check_mounts(&chroot)?;
    check_kind(&chroot)?;
    let gone = dying(&name);
    // Half a chroot must not be taken for one.
    match renameat2(&parent, name.as_os_str(), &parent, gone.as_os_str(), RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => tree(&parent, &gone, &watch::stopped),
        Err(Errno::EEXIST) => Err(Error::Busy(request.chroot.clone())),
        Err(e) => Err(dir::failed(e, "rename", &request.chroot)),
    }
}

/// What is there under the name of a chroot: a folder or nothing.
///
/// # Errors
/// [`Error::Link`], [`Error::Kind`] for anything else.
pub fn look(parent: &Dir, name: &OsStr) -> Result<Option<FileStat>, Error> {
    match parent.stat(name)? {
        Some(stat) if dir::is_link(&stat) => Err(Error::Link { path: parent.path(name) }),
        Some(stat) if !dir::is_dir(&stat) => {
            Err(Error::Kind { path: parent.path(name), wanted: "the folder of a chroot" })
        }
        other => Ok(other),
    }
}

/// A folder that has neither `usr` nor `etc`, and is not empty, is somebody's who mistyped a name.
fn check_kind(chroot: &Dir) -> Result<(), Error> {
    let names = chroot.names()?;
    if names.is_empty() || names.iter().any(|n| n == "usr" || n == "etc") {
        return Ok(());
    }
    Err(Error::Kind { path: chroot.name().to_owned(), wanted: "a chroot: it has neither usr nor etc" })
}

/// Removes what processes left that were killed while they created or removed a chroot.
///
/// # Errors
/// What the file system says.
pub fn sweep(parent: &Dir, name: &OsStr) -> Result<(), Error> {
    for left in [dying(name), unfinished(name)] {
        match parent.stat(&left)? {
            None => {}
            Some(stat) if dir::is_dir(&stat) => {
                if let Some(_own) = Own::take(parent, &left)? {
                    tree(parent, &left, &|| false)?;
                }
            }
            Some(_) => unlinkat(parent, left.as_os_str(), UnlinkatFlags::NoRemoveDir)
                .map_err(|e| dir::failed(e, "remove", &parent.path(&left)))?,
        }
    }
    Ok(())
}

/// Fails if something is mounted in a folder, or on it.
///
/// # Errors
/// [`Error::Mounted`]; if the kernel does not tell.
pub fn check_mounts(folder: &Dir) -> Result<(), Error> {
    const TABLE: &str = "/proc/self/mountinfo";
    let table = std::fs::read(TABLE).map_err(Error::at("read", Path::new(TABLE)))?;
    let place = std::fs::read_link(folder.magic()).map_err(Error::at("look at", folder.name()))?;
    match mounted(&table).find(|at| at.starts_with(&place)) {
        Some(at) => Err(Error::Mounted(at)),
        None => Ok(()),
    }
}

/// The places in a table of mounts (proc(5)): the fifth word of each line.
fn mounted(table: &[u8]) -> impl Iterator<Item = PathBuf> + '_ {
    let word = |line: &[u8]| line.split(|b| *b == b' ').nth(4).map(unescaped);
    table.split(|b| *b == b'\n').filter_map(word)
}

/// Blanks, tabs, newlines and backslashes are there as three octal digits.
fn unescaped(word: &[u8]) -> PathBuf {
    let (mut plain, mut rest) = (Vec::new(), word);
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..3).filter(|d| *first == b'\\' && d.iter().all(|b| (b'0'..b'8').contains(b)));
        match digits {
            Some(digits) => {
                plain.push(digits.iter().fold(0_u8, |n, d| n.wrapping_mul(8).wrapping_add(d - b'0')));
                rest = &tail[3..];
            }
            None => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(plain).into()
}

/// Removes a folder with all that is in it; nothing is done if it is not there.
///
/// # Errors
/// [`Error::Mounted`] where another file system begins; [`Error::Interrupted`]; what the file system says.
pub fn tree(parent: &Dir, name: &OsStr, stopped: &dyn Fn() -> bool) -> Result<(), Error> {
    let top = match parent.dir_here(name) {
        Ok(top) => top,
        Err(Errno::ENOENT) => return Ok(()),
        Err(e) => return Err(refused(e, parent.path(name))),
    };
    let work = Removal { top, moved: Cell::new(0), stopped };
    loop {
        work.empty(&work.top, 0)?;
        match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::ENOTEMPTY) => {} // what was moved up
            Err(e) => return Err(refused(e, parent.path(name))),
        }
    }
}

struct Removal<'w> {
    top: Dir,
    moved: Cell<u64>,
    stopped: &'w dyn Fn() -> bool,
}

impl Removal<'_> {
    fn empty(&self, here: &Dir, depth: usize) -> Result<(), Error> {
        for name in here.names()? {
            if (self.stopped)() {
                return Err(Error::Interrupted);
            }
            match unlinkat(here, name.as_os_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => continue,
                Err(Errno::EISDIR) => {}
                Err(e) => return Err(refused(e, here.path(name))),
            }
            if depth == DEEPEST {
                self.move_up(here, &name)?;
                continue;
            }
            let below = here.dir_here(&name).map_err(|e| refused(e, here.path(&name)))?;
            self.empty(&below, depth + 1)?;
            match unlinkat(here, name.as_os_str(), UnlinkatFlags::RemoveDir) {
                // Somebody who is about to end may have made something meanwhile: the next round sees it.
                Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY) => {}
                Err(e) => return Err(refused(e, here.path(name))),
            }
        }
        Ok(())
    }

    fn move_up(&self, here: &Dir, name: &OsStr) -> Result<(), Error> {
        loop {
            self.moved.set(self.moved.get() + 1);
            let fresh = format!(".deep-{}", self.moved.get());
            match renameat2(here, name, &self.top, fresh.as_str(), RenameFlags::RENAME_NOREPLACE) {
                Ok(()) => return Ok(()),
                Err(Errno::EEXIST) => {}
                Err(e) => return Err(refused(e, here.path(name))),
            }
        }
    }
}

/// Another mount is where the way ends.
fn refused(errno: Errno, path: PathBuf) -> Error {
    match errno {
        Errno::EXDEV | Errno::EBUSY => Error::Mounted(path),
        other => dir::failed(other, "remove", &path),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn places_of_mounts_are_read() {
        let table = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n41 22 0:5 / /a\\040b/c\\134d rw - proc proc rw\n\nshort line\n";
        let places: Vec<_> = mounted(table).collect();
        assert_eq!(places, [Path::new("/"), Path::new("/a b/c\\d")]);
        assert_eq!(unescaped(b"\\9\\04"), Path::new("\\9\\04"));
        assert!(unescaped("ü\\377".as_bytes()).as_os_str().as_bytes().ends_with(b"\xff"));
    }
}
