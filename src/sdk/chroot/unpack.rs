//! An archive becomes a tree: decompressed by all processors while it is extracted.
//!
//! The tree is the archive's, but nothing outside is touched whatever the archive says: no member leaves the tree, none
//! goes through a link, and of device nodes only those are made that are no danger to anybody.

#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, futimens, makedev, mkdirat, mknodat,
    utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, mkfifoat, symlinkat, unlinkat};
use xattr::FileExt;

use super::archive::{self, Kind, Member};
use super::dir::{self, Dir};
use super::{COMPONENT, Error};
use crate::compress::{Compression, Decoder};
use crate::progress::Progress;
use crate::{debug, warning};

/// Pieces of what is read.
const PIECE: usize = 256 << 10;
/// Pieces on their way from the decompressor to the tree.
const QUEUE: usize = 16;
/// The character devices that every tree may have, by their numbers (Linux' `devices.txt`): null, zero, full, random,
/// urandom, tty, console, ptmx.
const DEVICES: [(u32, u32); 8] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];

/// Unpacks an archive of `size` bytes into an empty folder. Blocks; `stopped` is asked now and then.
///
/// # Errors
/// [`Error::Archive`] for what is wrong with the archive; [`Error::Interrupted`]; what the file system says.
pub fn unpack(
    mut input: impl Read + Send,
    size: u64,
    name: &str,
    into: &Dir,
    stopped: &dyn Fn() -> bool,
) -> Result<(), Error> {
    let mut head = Vec::new();
    let in_archive = |source| Error::Archive { name: name.to_owned(), source };
    input.by_ref().take(8).read_to_end(&mut head).map_err(in_archive)?;
    let compression = Compression::of_content(&head);
    let (queue, pieces) = sync_channel(QUEUE);
    let taken = AtomicU64::new(0);
    let mut progress = Progress::of_file(COMPONENT, name);
    progress.answer(0, Some(size));
    std::thread::scope(|scope| {
        let input = io::Cursor::new(head).chain(input);
        let feeder = scope.spawn(|| feed(input, compression, queue, &taken));
        let mut pieces = Pieces { pieces, piece: Vec::new(), at: 0 };
        let mut tree = Tree { root: into, parent: None, folders: Vec::new(), left_out: 0 };
        let mut failure = None;
        let read = archive::members(&mut pieces, |member, content| {
            progress.reach(taken.load(Ordering::Relaxed), size);
            tree.add(member, content, stopped).map_err(|e| {
                // Kept as it is; for the reader it is enough that there is one.
                failure = Some(e);
                io::Error::other("refused")
            })
        });
        drop(pieces); // ends a feeder that has more
        let fed = feeder.join().unwrap_or_else(|_| Err(io::Error::other("the decompressing thread failed")));
        // An archive whose decompression failed seems to end early; one that was refused is not read to its end.
        let fed = fed.err().filter(|e| e.kind() != io::ErrorKind::BrokenPipe);
        match (failure, fed, read) {
            (None | Some(Error::Content(_)), Some(source), _) => Err(in_archive(source)),
            (Some(Error::Content(source)), None, _) => Err(in_archive(source)),
            (Some(failure), ..) => Err(failure),
            (None, None, Err(source)) => Err(in_archive(source)),
            (None, None, Ok(())) => tree.finish(),
        }
    })
}

fn feed(
    mut input: impl Read,
    compression: Option<Compression>,
    queue: SyncSender<Vec<u8>>,
    taken: &AtomicU64,
) -> io::Result<()> {
    let mut decoder = Decoder::new(compression, Queue(queue))?;
    let mut piece = vec![0; PIECE];
    loop {
        match input.read(&mut piece) {
            Ok(0) => return decoder.finish().map(drop),
            Ok(n) => {
                decoder.write_all(&piece[..n])?;
                taken.fetch_add(n as u64, Ordering::Relaxed);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// The writing end.
struct Queue(SyncSender<Vec<u8>>);

impl Write for Queue {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.send(data.to_vec()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The reading end.
struct Pieces {
    pieces: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.pieces.recv() {
                Ok(piece) => (self.piece, self.at) = (piece, 0),
                Err(_) => return Ok(0),
            }
        }
        let n = (&self.piece[self.at..]).read(buffer)?;
        self.at += n;
        Ok(n)
    }
}

/// The tree in the making.
struct Tree<'t> {
    root: &'t Dir,
    /// Where the last member went: most go where the one before did.
    parent: Option<(PathBuf, Dir)>,
    /// Folders with their modes and times, which are set last: work in them changes the times.
    folders: Vec<(PathBuf, u32, i64)>,
    /// How many device nodes were not made.
    left_out: usize,
}

impl Tree<'_> {
    fn add(
        &mut self,
        member: Member,
        content: &mut dyn Read,
        stopped: &dyn Fn() -> bool,
    ) -> Result<(), Error> {
        if stopped() {
            return Err(Error::Interrupted);
        }
        let path = inside(&member.path)?;
        let Some(name) = path.file_name().map(|n| Path::new(n).to_owned()) else {
            return self.root_itself(&member);
        };
        self.go_to(path.parent().unwrap_or(Path::new("")))?;
        let link_to = match &member.kind {
            Kind::Link(to) => Some(self.target(to)?),
            _ => None,
        };
        let Some((_, parent)) = &self.parent else { return Ok(()) };
        let failed = |errno: Errno| dir::failed(errno, "unpack", &parent.path(&name));
        let owner = (Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)));
        let own = || fchownat(parent, &name, owner.0, owner.1, AtFlags::AT_SYMLINK_NOFOLLOW);
        let time = TimeSpec::new(member.modified, 0);
        let date = || utimensat(parent, &name, &time, &time, UtimensatFlags::NoFollowSymlink);
        let mode = Mode::from_bits_truncate(member.mode);
        let node = || {
            own()?;
            fchmodat(parent, &name, mode, FchmodatFlags::FollowSymlink)?; // it is none
            date()
        };
        match &member.kind {
            Kind::Folder => {
                let make = || mkdirat(parent, &name, Mode::S_IRWXU);
                let made = match make() {
                    Err(Errno::EEXIST) if !is_folder(parent, &name)? => replacing(parent, &name, make),
                    Err(Errno::EEXIST) => Ok(()),
                    other => other,
                };
                made.map_err(failed)?;
                let folder = parent.dir(&name)?;
                fchown(&folder, owner.0, owner.1).map_err(failed)?;
                attribute(&folder, &member, &parent.path(&name))?;
                self.folders.push((path, member.mode, member.modified));
                return Ok(());
            }
            Kind::File => {
                let flags =
                    OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let create = || nix::fcntl::openat(parent, &name, flags, Mode::S_IRUSR | Mode::S_IWUSR);
                let mut file = std::fs::File::from(replacing(parent, &name, create).map_err(failed)?);
                copy(content, &mut file, &parent.path(&name), stopped)?;
                fchown(&file, owner.0, owner.1).map_err(failed)?;
                attribute(&file, &member, &parent.path(&name))?; // a change of the owner takes capabilities
                fchmod(&file, mode).and_then(|()| futimens(&file, &time, &time)).map_err(failed)?;
            }
            Kind::Link(_) => {
                let Some((folder, target)) = link_to else { return Ok(()) };
                let link = || linkat(&folder, &target, parent, &name, AtFlags::empty());
                replacing(parent, &name, link).map_err(failed)?;
            }
            Kind::Symlink(to) => {
                replacing(parent, &name, || symlinkat(to, parent, &name)).map_err(failed)?;
                own().and_then(|()| date()).map_err(failed)?;
            }
            Kind::Fifo => {
                replacing(parent, &name, || mkfifoat(parent, &name, Mode::empty())).map_err(failed)?;
                node().map_err(failed)?;
            }
            Kind::Device(false, major, minor) if DEVICES.contains(&(*major, *minor)) => {
                let number = makedev(u64::from(*major), u64::from(*minor));
                match replacing(parent, &name, || {
                    mknodat(parent, &name, SFlag::S_IFCHR, Mode::empty(), number)
                }) {
                    Ok(()) => node().map_err(failed)?,
                    // Not in a user namespace; the machine's own /dev lies above this one anyway.
                    Err(Errno::EPERM) => self.left_out += 1,
                    Err(e) => return Err(failed(e)),
                }
            }
            Kind::Device(block, major, minor) => {
                let kind = if *block { "block" } else { "character" };
                debug!(
                    COMPONENT,
                    "left out: {}, the node of {kind} device {major}:{minor}",
                    parent.path(&name).display()
                );
                self.left_out += 1;
            }
        }
        Ok(())
    }

    fn root_itself(&mut self, member: &Member) -> Result<(), Error> {
        if member.kind != Kind::Folder {
            return Err(Error::Member {
                name: member.path.clone(),
                what: "it is the tree itself, and no folder",
            });
        }
        self.root.chown(Some((Uid::from_raw(member.uid), Gid::from_raw(member.gid))))?;
        attribute(self.root, member, self.root.name())?;
        self.folders.push((PathBuf::new(), member.mode, member.modified));
        Ok(())
    }

    /// Makes `parent` the folder of this path.
    fn go_to(&mut self, path: &Path) -> Result<(), Error> {
        if self.parent.as_ref().is_none_or(|(at, _)| at != path) {
            self.parent = Some((path.to_owned(), self.root.make(path, 0o755)?));
        }
        Ok(())
    }

    /// What a hard link names: the folder that it is in, and its name there.
    fn target(&self, to: &Path) -> Result<(Dir, PathBuf), Error> {
        let path = inside(to)?;
        let what = "a link to the tree itself";
        let name = path.file_name().ok_or(Error::Member { name: to.to_owned(), what })?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        Ok((folder.map_or_else(|| self.root.again(), |f| self.root.dir(f))?, name.into()))
    }

    fn finish(self) -> Result<(), Error> {
        for (path, mode, modified) in self.folders.iter().rev() {
            let folder = match path.as_os_str().is_empty() {
                true => self.root.again()?,
                false => self.root.dir(path)?,
            };
            folder.chmod(*mode)?;
            let time = TimeSpec::new(*modified, 0);
            futimens(&folder, &time, &time).map_err(|e| dir::failed(e, "set the time of", folder.name()))?;
        }
        if self.left_out > 0 {
            warning!(
                COMPONENT,
                "{} device nodes of the archive were left out: /dev is the machine's",
                self.left_out
            );
        }
        Ok(())
    }
}

/// The member's place below the tree; empty for the tree itself.
fn inside(path: &Path) -> Result<PathBuf, Error> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::CurDir => {}
            _ => {
                return Err(Error::Member { name: path.to_owned(), what: "it would be outside of the tree" });
            }
        }
    }
    if path.as_os_str().as_bytes().is_empty() {
        return Err(Error::Member { name: path.to_owned(), what: "it has no name" });
    }
    Ok(clean)
}

fn is_folder(parent: &Dir, name: &Path) -> Result<bool, Error> {
    Ok(parent.stat(name)?.is_some_and(|stat| dir::is_dir(&stat)))
}

/// Makes something; what is there already and is no folder gives way, as the later one of two members does with tar.
fn replacing<T>(parent: &Dir, name: &Path, make: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    match make() {
        Err(Errno::EEXIST) => {
            unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)?;
            make()
        }
        other => other,
    }
}

/// Copies a content; asks between pieces whether to stop.
fn copy(
    from: &mut dyn Read,
    to: &mut impl Write,
    path: &Path,
    stopped: &dyn Fn() -> bool,
) -> Result<(), Error> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) => to.write_all(&piece[..n]).map_err(Error::at("write", path))?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::Content(source)),
        }
        if stopped() {
            return Err(Error::Interrupted);
        }
    }
}

/// Sets the extended attributes that mean something in every tree: a user's, and capabilities.
fn attribute(file: &impl FileExt, member: &Member, path: &Path) -> Result<(), Error> {
    for (name, value) in &member.attributes {
        if !name.starts_with("user.") && name != "security.capability" {
            debug!(COMPONENT, "{}: attribute {name} is left out", path.display());
            continue;
        }
        file.set_xattr(name, value).map_err(Error::at("set an attribute of", path))?;
    }
    Ok(())
}
