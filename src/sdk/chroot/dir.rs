//! Folders that are worked on by their descriptors, in trees that others can write: a link is never followed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, openat2, renameat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};

use super::Error;

/// An open folder, and what messages call it.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    name: PathBuf,
}

/// What is opened of every folder.
const FOLDER: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Dir {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl xattr::FileExt for Dir {}

impl Dir {
    /// Opens the folder with this absolute path, no part of which may be a link.
    ///
    /// # Errors
    /// [`Error::Link`]; what the file system says.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let how = OpenHow::new().flags(FOLDER).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
        let fd = openat2(AT_FDCWD, path, how).map_err(|e| failed(e, "open", path))?;
        Ok(Self { fd, name: path.to_owned() })
    }

    /// What messages call it.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// What messages call something in it.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.name.join(below)
    }

    /// The path under which the kernel knows this very folder, for calls that take paths only.
    pub fn magic(&self) -> PathBuf {
        magic(&self.fd)
    }

    /// Another descriptor of the same folder.
    ///
    /// # Errors
    /// When there are too many.
    pub fn again(&self) -> Result<Self, Error> {
        let fd = self.fd.try_clone().map_err(Error::at("open", &self.name))?;
        Ok(Self { fd, name: self.name.clone() })
    }

    fn openat(&self, below: &Path, flags: OFlag, resolve: ResolveFlag) -> Result<OwnedFd, Errno> {
        let resolve = resolve | ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        openat2(&self.fd, below, OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve))
    }

    /// Opens a folder below this one.
    ///
    /// # Errors
    /// [`Error::Link`] if a part of the path is a link; what the file system says.
    pub fn dir(&self, below: impl AsRef<Path>) -> Result<Self, Error> {
        let path = self.path(&below);
        let fd = self.openat(below.as_ref(), FOLDER, ResolveFlag::empty());
        Ok(Self { fd: fd.map_err(|e| failed(e, "open", &path))?, name: path })
    }

    /// As [`Dir::dir`], and only if it is on the same mount.
    pub(super) fn dir_here(&self, below: &OsStr) -> Result<Self, Errno> {
        let fd = self.openat(below.as_ref(), FOLDER, ResolveFlag::RESOLVE_NO_XDEV)?;
        Ok(Self { fd, name: self.path(below) })
    }

    /// Opens a folder below this one, made with all that leads to it if it is not there; new ones have this mode.
    ///
    /// # Errors
    /// As [`Dir::dir`].
    pub fn make(&self, below: impl AsRef<Path>, mode: u32) -> Result<Self, Error> {
        let mut here = self.again()?;
        for part in below.as_ref().components() {
            let Component::Normal(part) = part else { continue };
            let (next, new) = match mkdirat(&here, part, Mode::from_bits_truncate(mode)) {
                Ok(()) => (here.dir(part)?, true),
                Err(Errno::EEXIST) => (here.dir(part)?, false),
                // A file system that is read-only says so before it says that the folder is there.
                Err(Errno::EROFS) => (here.dir(part)?, false),
                Err(e) => return Err(failed(e, "make", &here.path(part))),
            };
            if new {
                next.chmod(mode)?; // the umask took its part
            }
            here = next;
        }
        Ok(here)
    }

    /// What is there under a name, without following it; `None` if nothing is.
    ///
    /// # Errors
    /// What the file system says.
    pub fn stat(&self, name: impl AsRef<Path>) -> Result<Option<FileStat>, Error> {
        match fstatat(&self.fd, name.as_ref(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(failed(e, "look at", &self.path(name))),
        }
    }

    /// About the folder itself.
    ///
    /// # Errors
    /// What the file system says.
    pub fn own_stat(&self) -> Result<FileStat, Error> {
        fstat(&self.fd).map_err(|e| failed(e, "look at", &self.name))
    }

    /// Reads a plain file below, at most so many bytes of it; `None` if it is not there.
    ///
    /// # Errors
    /// [`Error::Link`]; what the file system says.
    pub fn read(&self, below: impl AsRef<Path>, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let path = self.path(&below);
        // Not to wait for the other end of a FIFO.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let fd = match self.openat(below.as_ref(), flags, ResolveFlag::empty()) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Ok(None),
            Err(e) => return Err(failed(e, "open", &path)),
        };
        let file = File::from(fd);
        if !file.metadata().map_err(Error::at("read", &path))?.is_file() {
            return Err(Error::Kind { path, wanted: "a plain file" });
        }
        let mut content = Vec::new();
        file.take(limit).read_to_end(&mut content).map_err(Error::at("read", &path))?;
        Ok(Some(content))
    }

    /// Puts a file into this folder, in place of one that is there: a link by that name is replaced, too.
    ///
    /// # Errors
    /// When a folder has that name; what the file system says.
    pub fn write(&self, name: &str, mode: u32, owner: Owner, content: &[u8]) -> Result<(), Error> {
        let path = self.path(name);
        let fresh = format!(".{name}.{}", std::process::id());
        let _ = unlinkat(&self.fd, fresh.as_str(), UnlinkatFlags::NoRemoveDir);
        let write = || {
            let flags =
                OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let mut file = File::from(nix::fcntl::openat(
                &self.fd,
                fresh.as_str(),
                flags,
                Mode::S_IRUSR | Mode::S_IWUSR,
            )?);
            file.write_all(content)?;
            if let Some((uid, gid)) = owner {
                fchown(&file, Some(uid), Some(gid))?;
            }
            fchmod(&file, Mode::from_bits_truncate(mode))?;
            renameat2(&self.fd, fresh.as_str(), &self.fd, name, RenameFlags::empty())?;
            Ok::<_, io::Error>(())
        };
        write().map_err(|e| {
            let _ = unlinkat(&self.fd, fresh.as_str(), UnlinkatFlags::NoRemoveDir);
            Error::at("write", &path)(e)
        })
    }

    /// Sets the folder's own mode.
    ///
    /// # Errors
    /// What the file system says.
    pub fn chmod(&self, mode: u32) -> Result<(), Error> {
        fchmod(&self.fd, Mode::from_bits_truncate(mode)).map_err(|e| failed(e, "set the mode of", &self.name))
    }

    /// Sets the folder's own owner.
    ///
    /// # Errors
    /// What the file system says.
    pub fn chown(&self, owner: Owner) -> Result<(), Error> {
        let Some((uid, gid)) = owner else { return Ok(()) };
        fchown(&self.fd, Some(uid), Some(gid)).map_err(|e| failed(e, "set the owner of", &self.name))
    }

    /// The names in it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn names(&self) -> Result<Vec<OsString>, Error> {
        let list = || {
            let entries = std::fs::read_dir(self.magic())?;
            entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()
        };
        list().map_err(Error::at("read", &self.name))
    }
}

/// Who is to own what is made; nobody in particular: whoever makes it.
pub type Owner = Option<(Uid, Gid)>;

/// The path under which the kernel knows this descriptor.
pub fn magic(fd: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// Whether this is a link.
pub fn is_link(stat: &FileStat) -> bool {
    kind(stat) == SFlag::S_IFLNK
}

/// Whether this is a folder.
pub fn is_dir(stat: &FileStat) -> bool {
    kind(stat) == SFlag::S_IFDIR
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// The error for what the kernel says: that there was a link where none is followed has one of its own.
pub(super) fn failed(errno: Errno, doing: &'static str, path: &Path) -> Error {
    match errno {
        Errno::ELOOP => Error::Link { path: path.to_owned() },
        // What O_NOFOLLOW says of links with O_DIRECTORY is the same as of plain files.
        other => Error::at(doing, path)(other.into()),
    }
}
