//! What is read from paths that people name: looked at before it is opened, since opening a FIFO can wait for ever and
//! no signal ends that.
//!
//! | the path is | [`open`], [`read`] | [`open_disk`] | [`Stream`] |
//! |---|---|---|---|
//! | a plain file, `/dev/null`, or a link to one | yes | yes | yes |
//! | a block device | no | yes | no |
//! | a pipe that this process was given, as by `<(command)` or as its standard input | no | no | yes |
//! | a FIFO with a name, a folder, a socket, a terminal, another device | no | no | no |

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::statfs::{FsType, statfs};

use crate::error::Stop;
use crate::shutdown;

/// The null device of Linux: an empty file for all who read it.
const NULL: u64 = libc::makedev(1, 3);
/// The file system that pipes without a name are in; linux/magic.h, `PIPEFS_MAGIC`.
const PIPEFS: FsType = FsType(0x5049_5045);
/// How often a wait for a pipe looks whether a signal has come, in milliseconds.
const LOOK: u16 = 50;

/// Opens a plain file.
///
/// # Errors
/// What the file system says, or that it is something else.
pub fn open(path: &Path) -> io::Result<File> {
    open_if(path, is_plain, "a plain file")
}

/// Opens a disk: a plain file or a block device.
///
/// # Errors
/// What the file system says, or that it is something else.
pub fn open_disk(path: &Path) -> io::Result<File> {
    open_if(
        path,
        |meta| is_plain(meta) || meta.file_type().is_block_device(),
        "a plain file or a block device",
    )
}

/// Reads all of a plain file.
///
/// # Errors
/// As [`open`], or what the file system says.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads all of a plain file that has to be UTF-8.
///
/// # Errors
/// As [`read`]; of kind [`io::ErrorKind::InvalidData`] for other texts.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

fn is_plain(meta: &Metadata) -> bool {
    meta.is_file() || meta.file_type().is_char_device() && meta.rdev() == NULL
}

fn open_if(path: &Path, fits: fn(&Metadata) -> bool, wanted: &str) -> io::Result<File> {
    let check = |meta: Metadata| match fits(&meta) {
        true => Ok(()),
        false => Err(not(kind(&meta), wanted)),
    };
    check(std::fs::metadata(path)?)?;
    // It may have become something else meanwhile: no wait for that either.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    check(file.metadata()?)?;
    Ok(file)
}

fn not(kind: &str, wanted: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("it is {kind}, not {wanted}"))
}

/// What a file system entry that is no plain file is, for people.
pub(crate) fn kind(meta: &Metadata) -> &'static str {
    let kind = meta.file_type();
    if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_block_device() || kind.is_char_device() {
        "a device"
    } else {
        "no plain file"
    }
}

/// A plain file or a pipe; waits for a pipe end when a signal asks the process to stop.
#[derive(Debug)]
pub struct Stream(OwnedFd);

impl Stream {
    /// Opens a plain file, or a pipe that this process was given.
    ///
    /// # Errors
    /// What the file system says, or that it is something else.
    pub fn open(path: &Path) -> io::Result<Self> {
        const WANTED: &str = "a plain file or a pipe of the shell";
        let meta = std::fs::metadata(path)?;
        if !meta.file_type().is_fifo() {
            return open_if(path, is_plain, WANTED).map(|file| Self(file.into()));
        }
        // Pipes of the shell are in a file system of their own; opening them never waits.
        let is_pipe = statfs(path)?.filesystem_type() == PIPEFS;
        if !is_pipe {
            return Err(not(kind(&meta), WANTED));
        }
        Ok(Self(OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?.into()))
    }

    /// This process's standard input, whatever it is.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn stdin() -> io::Result<Self> {
        io::stdin().as_fd().try_clone_to_owned().map(Self)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut waiting = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            let ready = match poll(&mut waiting, PollTimeout::from(LOOK)) {
                Ok(ready) => ready > 0,
                Err(nix::errno::Errno::EINTR) => false,
                Err(e) => return Err(e.into()),
            };
            if shutdown::received().is_some() {
                return Err(io::Error::other(Stop::Interrupted)); // not of kind Interrupted, which means: once more
            }
            if !ready {
                continue;
            }
            match nix::unistd::read(&self.0, buffer) {
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
                other => return Ok(other?),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_could_wait_for_ever_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("plain"), "text").unwrap();
        symlink("plain", at("link")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        symlink("fifo", at("link-to-fifo")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for name in ["plain", "link", "/dev/null"] {
            assert!(open(&at(name)).is_ok() && open_disk(&at(name)).is_ok(), "{name}");
            assert!(Stream::open(&at(name)).is_ok(), "{name}");
        }
        assert_eq!(read(&at("link")).unwrap(), b"text");
        assert_eq!(read(Path::new("/dev/null")).unwrap(), b"");
        for (name, what) in [
            ("fifo", "it is a FIFO"),
            ("link-to-fifo", "it is a FIFO"),
            ("socket", "it is a socket"),
            (".", "it is a folder"),
            ("/dev/zero", "it is a device"),
            ("missing", "No such file"),
        ] {
            for error in [
                open(&at(name)).unwrap_err(),
                open_disk(&at(name)).unwrap_err(),
                Stream::open(&at(name)).unwrap_err(),
            ] {
                assert!(error.to_string().starts_with(what), "{name}: {error}");
            }
        }
    }

    #[test]
    fn a_pipe_that_was_handed_over_is_read_to_its_end() {
        let (reader, mut writer) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
        let path = Path::new(&path);
        assert!(open(path).unwrap_err().to_string().contains("not a plain file"));
        let mut stream = Stream::open(path).unwrap();
        drop(reader);
        writer.write_all(b"text").unwrap();
        drop(writer);
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
    }
}
