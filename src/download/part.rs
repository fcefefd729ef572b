//! The file in which a download grows: `<destination>.part`, with a record of what it is a part of.
//!
//! Other programs use that name too. A part is ours only if the record beside it is ours and names this very file, by
//! device, inode and birth; otherwise another name is taken, and what is not ours is never removed or written to. A
//! part is locked while somebody works on it. It outlives a failure only if it can be resumed: the record names the
//! exact version of the content. It becomes the destination by being renamed, when all of it is proven right.

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use serde::{Deserialize, Serialize};

use super::Error;
use super::source::{Head, Resume, Source, Validator};
use crate::target::{self, Fresh, Target};

/// No record is longer.
const MAX_RECORD: u64 = 64 << 10;
/// What makes a file a record of ours.
const FORMAT: &str = "mantle: part of a download";
/// Names that are tried for one destination.
const NAMES: u32 = 20;

/// The partial file, locked.
pub struct Part {
    path: PathBuf,
    destination: Option<PathBuf>,
    file: Arc<Locked>,
    identity: Identity,
    resumable: bool,
    /// Whether the source is known not to send the rest of a file.
    whole_only: bool,
    done: bool,
}

/// The open file; some network file systems cannot lock.
pub enum Locked {
    Yes(Flock<File>),
    No(File),
}

impl std::ops::Deref for Locked {
    type Target = File;
    fn deref(&self) -> &File {
        match self {
            Self::Yes(file) => file,
            Self::No(file) => file,
        }
    }
}

/// One file, whatever its name; an inode is used again when its file is gone, hence the birth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    device: u64,
    inode: u64,
    /// Nanoseconds since 1970, where the file system knows it.
    born: Option<u64>,
}

impl Identity {
    fn of(meta: &Metadata) -> Self {
        let born = meta.created().ok().and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok());
        let born = born.and_then(|t| u64::try_from(t.as_nanos()).ok());
        Self { device: meta.dev(), inode: meta.ino(), born }
    }

    fn is_at(&self, path: &Path) -> bool {
        std::fs::symlink_metadata(path).is_ok_and(|meta| *self == Self::of(&meta))
    }
}

/// Whose a partial file is, and what of.
#[derive(Serialize, Deserialize)]
struct Record {
    format: String,
    file: Identity,
    /// None while it cannot be resumed.
    content: Option<Content>,
}

/// One version of a content.
#[derive(Serialize, Deserialize)]
struct Content {
    source: String,
    validator: Validator,
    total: Option<u64>,
    crc32c: Option<u32>,
    gzipped: bool,
}

/// What is at a name.
enum Found {
    Nothing,
    Ours,
    Foreign,
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// The names for the part of a destination, in the order of preference.
fn names(destination: &Path) -> impl Iterator<Item = PathBuf> {
    let others = (2..=NAMES).map(|n| format!(".{n}.part"));
    std::iter::once(".part".to_owned()).chain(others).map(|suffix| beside(destination, &suffix))
}

fn record_of(part: &Path) -> PathBuf {
    beside(part, ".json")
}

/// A plain file that this user owns.
fn is_own_file(meta: &Metadata) -> bool {
    meta.is_file() && meta.uid() == nix::unistd::geteuid().as_raw()
}

/// Reads a record of ours; `None` for anything else.
fn read_record(path: &Path) -> Option<Record> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    if !is_own_file(&file.metadata().ok()?) {
        return None;
    }
    let mut text = Vec::new();
    file.take(MAX_RECORD).read_to_end(&mut text).ok()?;
    let record: Record = serde_json::from_slice(&text).ok()?;
    (record.format == FORMAT).then_some(record)
}

fn look(part: &Path) -> Found {
    let record_path = record_of(part);
    let record = read_record(&record_path);
    let is_taken = record.is_none() && record_path.symlink_metadata().is_ok();
    match std::fs::symlink_metadata(part) {
        Ok(meta) if !is_own_file(&meta) => Found::Foreign,
        Ok(meta) if record.is_some_and(|r| r.file == Identity::of(&meta)) => Found::Ours,
        Ok(_) => Found::Foreign,
        // A record of ours whose part is gone is no obstacle.
        Err(_) if is_taken => Found::Foreign,
        Err(_) => Found::Nothing,
    }
}

impl Part {
    /// Where a destination really is; see [`Target`].
    ///
    /// # Errors
    /// [`Error::Target`] for what cannot be replaced.
    pub fn place(destination: &Path) -> Result<PathBuf, Error> {
        Ok(Target::file(destination)?)
    }

    /// Opens and locks the partial file of a destination; makes its folder.
    ///
    /// # Errors
    /// [`Error::Target`] for what cannot be replaced; [`Error::Busy`] while another process has the lock.
    pub fn open(destination: &Path) -> Result<Self, Error> {
        let destination = Self::place(destination)?;
        if let Some(folder) = destination.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        }
        // One that may be resumed before a name that is free.
        let candidates: Vec<PathBuf> = names(&destination).collect();
        for path in candidates.iter().filter(|path| matches!(look(path), Found::Ours)) {
            if let Some(part) = Self::open_at(path, &destination, false)? {
                return Ok(part);
            }
        }
        for (at, path) in candidates.iter().enumerate() {
            if !matches!(look(path), Found::Nothing) {
                continue;
            }
            if let Some(part) = Self::open_at(path, &destination, true)? {
                if at > 0 {
                    let first = candidates[0].display();
                    crate::notice!("download", "{first} is not ours: writing {} instead", path.display());
                }
                part.keep_record(None)?;
                return Ok(part);
            }
        }
        let reason = io::Error::other("all names for the partial file are taken by files that are not ours");
        Err(Error::write(&destination, reason))
    }

    /// Opens and locks a part that is ours, or makes one; `None` if the name is another's by now.
    fn open_at(path: &Path, destination: &Path, new: bool) -> Result<Option<Self>, Error> {
        let fail = |e| Error::write(path, e);
        // Never through a link, which somebody else may have put there.
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(new)
            .mode(0o666)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path);
        let file = match opened {
            Ok(file) => file,
            Err(e) if matches!(e.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {
                // A folder that is gone is another matter.
                return if new && e.kind() == io::ErrorKind::NotFound { Err(fail(e)) } else { Ok(None) };
            }
            Err(e) => return Err(fail(e)),
        };
        let identity = Identity::of(&file.metadata().map_err(fail)?);
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Locked::Yes(file),
            Err((_, Errno::EWOULDBLOCK)) => return Err(Error::Busy { path: path.to_owned() }),
            Err((file, Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENOLCK)) => Locked::No(file),
            Err((_, e)) => return Err(fail(e.into())),
        };
        // Whoever had it before us may have renamed or removed it.
        let is_still_ours = if new { identity.is_at(path) } else { matches!(look(path), Found::Ours) };
        if !is_still_ours || !identity.is_at(path) {
            return Ok(None);
        }
        Ok(Some(Self {
            path: path.to_owned(),
            destination: Some(destination.to_owned()),
            file: Arc::new(file),
            identity,
            resumable: false,
            whole_only: false,
            done: false,
        }))
    }

    /// A file without a name, of which nothing is left.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn spool() -> Result<Self, Error> {
        let path = target::spool_folder();
        let fail = |e| Error::write(&path, e);
        let file = target::spool().map_err(fail)?;
        let identity = Identity::of(&file.metadata().map_err(fail)?);
        let file = Arc::new(Locked::No(file));
        let (resumable, whole_only, done) = (false, false, true);
        Ok(Self { path, destination: None, file, identity, resumable, whole_only, done })
    }

    /// Removes what earlier, interrupted downloads of this destination left, unless somebody works on it.
    pub fn discard(destination: &Path) {
        let Ok(destination) = Self::place(destination) else { return };
        for path in names(&destination).filter(|path| matches!(look(path), Found::Ours)) {
            if let Ok(Some(mut part)) = Self::open_at(&path, &destination, false) {
                part.remove();
            }
        }
    }

    /// What is there already, if its record says that it is a part of this source.
    pub fn resume(&mut self, source: &Source) -> Option<Resume> {
        self.destination.as_ref()?;
        let content = read_record(&self.record()).filter(|r| r.file == self.identity)?.content?;
        let there = self.file.metadata().ok()?.len();
        // The last byte is asked for again even if all are there: the answer tells whether they are still right.
        let offset = there.min(content.total.map_or(there, |t| t.saturating_sub(1)));
        if content.source != source.fingerprint() || offset == 0 {
            return None;
        }
        self.resumable = true;
        let Content { validator, total, crc32c, gzipped, .. } = content;
        let head = Head { total, validator: Some(validator.clone()), crc32c, gzipped, coding: None };
        Some(Resume { offset, head, validator })
    }

    /// Starts from zero with a version of the content. `whole`: whether the file holds what is sent, unchanged.
    pub fn begin(&mut self, source: &Source, head: &Head, whole: bool) -> Result<(), Error> {
        let fail = |e| Error::write(&self.path, e);
        self.resumable = false;
        if self.destination.is_some() {
            self.keep_record(None)?; // before the old bytes go
        }
        self.file.set_len(0).map_err(fail)?;
        if let Some(total) = head.total.and_then(|t| i64::try_from(t).ok()).filter(|t| whole && *t > 0) {
            // A full disk is found out now. Other failures only mean that it is found out later.
            let taken = fallocate(&**self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, total);
            if let Err(e @ (Errno::ENOSPC | Errno::EFBIG | Errno::EDQUOT)) = taken {
                let _ = self.file.set_len(0); // gives back what was taken
                return Err(fail(e.into()));
            }
        }
        if let Some(validator) = head.validator.clone().filter(|_| whole && self.destination.is_some()) {
            let content = Content {
                source: source.fingerprint(),
                validator,
                total: head.total,
                crc32c: head.crc32c,
                gzipped: head.gzipped,
            };
            self.keep_record(Some(content))?;
            self.resumable = true;
        }
        Ok(())
    }

    /// Writes the record of the file that is open.
    fn keep_record(&self, content: Option<Content>) -> Result<(), Error> {
        let record = Record { format: FORMAT.into(), file: self.identity.clone(), content };
        let path = self.record();
        let write = || {
            if read_record(&path).is_none() && path.symlink_metadata().is_ok() {
                return Err(io::Error::other("it is not ours"));
            }
            let fresh = Fresh::new(Target::File(path.clone()), 0o666)?;
            fresh.file().write_all(&serde_json::to_vec(&record)?)?;
            fresh.commit()
        };
        write().map_err(|e| Error::write(&path, e))
    }

    /// The file itself, for the thread that writes.
    pub fn file(&self) -> Arc<Locked> {
        self.file.clone()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Notes whether the source sends the rest of a file when it is asked for that.
    pub fn sends_rest(&mut self, does: bool) {
        self.whole_only = !does;
    }

    /// Makes it the destination, safe from a crash. Of a file without a name nothing becomes.
    pub fn commit(mut self) -> Result<(), Error> {
        let Some(destination) = self.destination.clone() else { return Ok(()) };
        let fail = |e| Error::write(&destination, e);
        self.file.sync_all().map_err(|e| Error::write(&self.path, e))?;
        if !self.identity.is_at(&self.path) {
            return Err(Error::write(&self.path, io::Error::other("it was replaced by another file")));
        }
        target::refuse_changed(&destination).map_err(fail)?;
        self.resumable = false;
        std::fs::rename(&self.path, &destination).map_err(fail)?;
        self.done = true;
        // Should we die before this, a record is left over that is in nobody's way.
        self.remove_record();
        let folder = destination.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|f| f.sync_all()).map_err(fail)
    }

    /// Removes it with its record.
    pub fn remove(&mut self) {
        if self.destination.is_some() {
            if self.identity.is_at(&self.path) {
                let _ = std::fs::remove_file(&self.path);
            }
            self.remove_record();
        }
        self.done = true;
    }

    fn remove_record(&self) {
        let path = self.record();
        if read_record(&path).is_some_and(|r| r.file == self.identity) {
            let _ = std::fs::remove_file(path);
        }
    }

    fn record(&self) -> PathBuf {
        record_of(&self.path)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let there = self.file.metadata().map_or(0, |m| m.len());
        if there == 0 || !self.resumable {
            self.remove();
            return;
        }
        let name = self.path.display();
        if self.whole_only {
            crate::notice!(
                "download",
                "{there} bytes are kept in {name}, but the server sends files from their first byte only: the same \
                 command fetches and compares these again before it goes on"
            );
        } else {
            crate::notice!("download", "{there} bytes are kept in {name}; the same command resumes there");
        }
    }
}

impl std::fmt::Debug for Locked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "file descriptor {}", self.as_raw_fd())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn head(total: u64) -> Head {
        let validator = Some(Validator::Etag("\"a\"".into()));
        Head { total: Some(total), validator, crc32c: None, gzipped: false, coding: None }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_part_is_kept_for_its_source_only() {
        let dir = tempfile::tempdir().unwrap();
        let (to, source) = (dir.path().join("new/x"), "http://h/x?sig=secret".parse::<Source>().unwrap());
        let mut part = Part::open(&to).unwrap();
        assert!(part.resume(&source).is_none());
        part.begin(&source, &head(10), true).unwrap();
        part.file().write_all_at(b"12345", 0).unwrap();
        drop(part);
        let folder = to.parent().unwrap();
        assert_eq!(names(folder), ["x.part", "x.part.json"]);
        assert!(!std::fs::read_to_string(folder.join("x.part.json")).unwrap().contains("secret"));
        let mut part = Part::open(&to).unwrap();
        assert!(matches!(Part::open(&to), Err(Error::Busy { .. })));
        assert!(part.resume(&"http://h/x".parse().unwrap()).is_none());
        let resume = part.resume(&source).unwrap();
        assert_eq!((resume.offset, resume.head), (5, head(10)));
        part.file().write_all_at(b"67890", 5).unwrap();
        assert_eq!(part.resume(&source).unwrap().offset, 9);
        part.commit().unwrap();
        assert_eq!(names(folder), ["x"]);
        assert_eq!(std::fs::read(&to).unwrap(), b"1234567890");
    }

    #[test]
    fn useless_parts_do_not_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (to, source) = (dir.path().join("x"), "http://h/x".parse::<Source>().unwrap());
        drop(Part::open(&to).unwrap());
        assert!(names(dir.path()).is_empty());
        let mut part = Part::open(&to).unwrap();
        part.begin(&source, &Head { validator: None, ..head(3) }, true).unwrap();
        part.file().write_all_at(b"abc", 0).unwrap();
        drop(part);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn what_is_not_ours_is_neither_used_nor_removed() {
        let (foreign, nonsense): (&[u8], &[u8]) = (b"a browser's", b"{\"format\": 1}");
        // of which names there is a foreign file, and of those that there is a record of ours about another file
        for (there, stale) in [
            (&["x.part"][..], false),
            (&["x.part.json"], false),
            (&["x.part", "x.part.json"], false),
            (&["x.part"], true),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (to, source) = (dir.path().join("x"), "http://h/x".parse::<Source>().unwrap());
            if stale {
                let mut part = Part::open(&to).unwrap();
                part.begin(&source, &head(20), true).unwrap();
                part.file().write_all_at(b"12345", 0).unwrap();
                drop(part);
                std::fs::rename(dir.path().join("x.part"), dir.path().join("kept")).unwrap();
            }
            for name in there {
                let text = if name.ends_with("json") { nonsense } else { foreign };
                std::fs::write(dir.path().join(name), text).unwrap();
            }
            let before = names(dir.path());
            Part::discard(&to);
            let mut part = Part::open(&to).unwrap();
            assert_eq!(part.path(), dir.path().join("x.2.part"));
            assert!(part.resume(&source).is_none());
            part.begin(&source, &head(10), true).unwrap();
            part.file().write_all_at(b"12345", 0).unwrap();
            drop(part);
            let mut part = Part::open(&to).unwrap();
            assert_eq!(part.resume(&source).unwrap().offset, 5);
            part.remove();
            drop(part);
            assert_eq!(names(dir.path()), before);
            Part::open(&to).unwrap().commit().unwrap();
            for name in there {
                let text = if name.ends_with("json") { nonsense } else { foreign };
                assert!(std::fs::read(dir.path().join(name)).unwrap() == text, "{name}");
            }
        }
    }

    #[test]
    fn a_part_that_another_file_took_the_place_of_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (to, at) = (dir.path().join("x"), dir.path().join("x.part"));
        for commit in [true, false] {
            let part = Part::open(&to).unwrap();
            std::fs::remove_file(&at).unwrap();
            std::fs::write(&at, "theirs").unwrap();
            if commit {
                assert!(matches!(part.commit(), Err(Error::Write { .. })));
            } else {
                drop(part);
            }
            assert_eq!(names(dir.path()), ["x.part"]);
            std::fs::remove_file(&at).unwrap();
        }
    }

    #[test]
    fn links_to_files_stay_and_their_files_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("far")).unwrap();
        std::fs::write(dir.path().join("far/y"), "old").unwrap();
        std::os::unix::fs::symlink("far/y", dir.path().join("x")).unwrap();
        let part = Part::open(&dir.path().join("x")).unwrap();
        assert!(part.path().ends_with("far/y.part"));
        part.file().write_all_at(b"new", 0).unwrap();
        part.commit().unwrap();
        assert_eq!(
            (names(dir.path()), names(&dir.path().join("far"))),
            (vec!["far".into(), "x".into()], vec!["y".into()])
        );
        assert_eq!(std::fs::read_link(dir.path().join("x")).unwrap(), Path::new("far/y"));
        assert_eq!(std::fs::read(dir.path().join("far/y")).unwrap(), b"new");
    }

    #[test]
    fn what_cannot_be_replaced_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Part::open(dir.path()), Err(Error::Target { .. })));
        assert!(matches!(Part::open(Path::new("/dev/null")), Err(Error::Target { .. })));
        let trap = dir.path().join("victim");
        std::fs::write(&trap, "precious").unwrap();
        std::os::unix::fs::symlink(&trap, dir.path().join("x.part")).unwrap();
        let part = Part::open(&dir.path().join("x")).unwrap();
        part.file().write_all_at(b"new", 0).unwrap();
        part.commit().unwrap();
        assert_eq!(std::fs::read(&trap).unwrap(), b"precious");
        assert!(dir.path().join("x.part").is_symlink());
    }
}
