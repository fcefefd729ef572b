//! The file in which a download grows: `<destination>.part`, with a note of what it is a part of.
//!
//! It is locked while somebody works on it. It outlives a failure only if it can be resumed: the note names the
//! exact version of the content. It becomes the destination by being renamed, when all of it is proven right.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use serde::{Deserialize, Serialize};

use super::Error;
use super::source::{Head, Resume, Source, Validator};

/// No note is longer.
const MAX_NOTE: u64 = 64 << 10;

/// The partial file, locked.
pub struct Part {
    path: PathBuf,
    destination: PathBuf,
    file: Arc<Locked>,
    resumable: bool,
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

/// What the partial file is a part of.
#[derive(Serialize, Deserialize)]
struct Note {
    source: String,
    validator: Validator,
    total: Option<u64>,
    crc32c: Option<u32>,
    gzipped: bool,
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

impl Part {
    /// Opens and locks the partial file of a destination; makes its folder.
    ///
    /// # Errors
    /// [`Error::Destination`] for what cannot be replaced; [`Error::Busy`] while another process has the lock.
    pub fn open(destination: &Path) -> Result<Self, Error> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |e| Error::write(&path, e)
        };
        match std::fs::symlink_metadata(destination) {
            Ok(meta) if !meta.is_file() && !meta.is_symlink() => {
                return Err(Error::Destination { path: destination.to_owned() });
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if let Some(folder) = destination.parent().filter(|p| !p.as_os_str().is_empty()) {
                    std::fs::create_dir_all(folder).map_err(fail(folder))?;
                }
            }
            Err(e) => return Err(fail(destination)(e)),
        }
        let path = beside(destination, ".part");
        loop {
            // Never through a link, which somebody else may have put there.
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o666)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(&path)
                .map_err(fail(&path))?;
            let meta = file.metadata().map_err(fail(&path))?;
            if !meta.is_file() || meta.uid() != nix::unistd::geteuid().as_raw() {
                return Err(fail(&path)(io::Error::other("it is not a file of this user")));
            }
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => Locked::Yes(file),
                Err((_, Errno::EWOULDBLOCK)) => return Err(Error::Busy { path }),
                Err((file, Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENOLCK)) => Locked::No(file),
                Err((_, e)) => return Err(fail(&path)(e.into())),
            };
            // Whoever had it before us may have renamed or removed it.
            let there = std::fs::symlink_metadata(&path);
            if there.is_ok_and(|m| (m.dev(), m.ino()) == (meta.dev(), meta.ino())) {
                let destination = destination.to_owned();
                return Ok(Self { path, destination, file: Arc::new(file), resumable: false, done: false });
            }
        }
    }

    /// Removes what an earlier, interrupted download of this destination left, unless somebody works on it.
    pub fn discard(destination: &Path) {
        if beside(destination, ".part").symlink_metadata().is_err() {
            return;
        }
        if let Ok(mut part) = Self::open(destination) {
            part.remove();
        }
    }

    /// What is there already, if its note says that it is a part of this source.
    pub fn resume(&mut self, source: &Source) -> Option<Resume> {
        let note = File::open(self.note()).ok()?;
        if note.metadata().ok()?.len() > MAX_NOTE {
            return None;
        }
        let note: Note = serde_json::from_reader(note).ok()?;
        let there = self.file.metadata().ok()?.len();
        // The last byte is asked for again even if all are there: the answer tells whether they are still right.
        let offset = there.min(note.total.map_or(there, |t| t.saturating_sub(1)));
        if note.source != source.fingerprint() || offset == 0 {
            return None;
        }
        self.resumable = true;
        let Note { validator, total, crc32c, gzipped, .. } = note;
        let head = Head { total, validator: Some(validator.clone()), crc32c, gzipped };
        Some(Resume { offset, head, validator })
    }

    /// Starts from zero with a version of the content. `whole`: whether the file holds what is sent, unchanged.
    pub fn begin(&mut self, source: &Source, head: &Head, whole: bool) -> Result<(), Error> {
        let fail = |e| Error::write(&self.path, e);
        self.file.set_len(0).map_err(fail)?;
        self.resumable = false;
        let _ = std::fs::remove_file(self.note());
        if let Some(total) = head.total.and_then(|t| i64::try_from(t).ok()).filter(|t| whole && *t > 0) {
            // A full disk is found out now. Other failures only mean that it is found out later.
            let taken = fallocate(&**self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, total);
            if let Err(e @ (Errno::ENOSPC | Errno::EFBIG | Errno::EDQUOT)) = taken {
                let _ = self.file.set_len(0); // gives back what was taken
                return Err(fail(e.into()));
            }
        }
        if let Some(validator) = head.validator.clone().filter(|_| whole) {
            let note = Note {
                source: source.fingerprint(),
                validator,
                total: head.total,
                crc32c: head.crc32c,
                gzipped: head.gzipped,
            };
            let text = serde_json::to_vec(&note).map_err(|e| fail(e.into()))?;
            let (path, temporary) = (self.note(), beside(&self.note(), ".new"));
            let _ = std::fs::remove_file(&temporary);
            let write = || {
                let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
                io::Write::write_all(&mut file, &text)?;
                std::fs::rename(&temporary, &path)
            };
            write().map_err(|e| Error::write(&path, e))?;
            self.resumable = true;
        }
        Ok(())
    }

    /// The file itself, for the thread that writes.
    pub fn file(&self) -> Arc<Locked> {
        self.file.clone()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it the destination, safe from a crash.
    pub fn commit(mut self) -> Result<(), Error> {
        let fail = |e| Error::write(&self.destination, e);
        self.file.sync_all().map_err(|e| Error::write(&self.path, e))?;
        // Before the rename, lest a note be left over if we die between the two.
        let _ = std::fs::remove_file(self.note());
        self.resumable = false;
        std::fs::rename(&self.path, &self.destination).map_err(fail)?;
        self.done = true;
        let folder =
            self.destination.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|f| f.sync_all()).map_err(fail)
    }

    /// Removes it with its note.
    pub fn remove(&mut self) {
        let _ = std::fs::remove_file(self.note());
        let _ = std::fs::remove_file(&self.path);
        self.done = true;
    }

    fn note(&self) -> PathBuf {
        beside(&self.path, ".json")
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
        } else {
            let name = self.path.display();
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
        Head { total: Some(total), validator, crc32c: None, gzipped: false }
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
        std::fs::write(dir.path().join("x.part"), "old").unwrap();
        std::fs::write(dir.path().join("x.part.json"), "nonsense").unwrap();
        assert!(Part::open(&to).unwrap().resume(&source).is_none());
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn what_cannot_be_replaced_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Part::open(dir.path()), Err(Error::Destination { .. })));
        assert!(matches!(Part::open(Path::new("/dev/null")), Err(Error::Destination { .. })));
        let trap = dir.path().join("victim");
        std::fs::write(&trap, "precious").unwrap();
        std::os::unix::fs::symlink(&trap, dir.path().join("x.part")).unwrap();
        assert!(Part::open(&dir.path().join("x")).is_err());
        assert_eq!(std::fs::read(&trap).unwrap(), b"precious");
    }
}
