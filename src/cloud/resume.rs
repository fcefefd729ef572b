//! Records of uploads that are under way: what a repeated command resumes, and what gc removes when nobody does.
//!
//! One file an upload in `$XDG_STATE_HOME/mantle/<cloud>`, written before the provider is asked for anything that
//! would cost money unseen: parts of objects and unfinished snapshots show up in no list of images. A lock beside it
//! tells an upload that is running from one that was given up. What there is to be gone on with is the cloud's own
//! type, a [`Work`].

use std::fs::{File, OpenOptions};
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::folders::Unusable;
use crate::warning;

/// A result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an upload cannot be begun or gone on with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] Unusable),
    /// What is to be uploaded is a folder, a pipe or the like.
    #[error("{} is not a file", .0.display())]
    NotAFile(PathBuf),
    /// Another process works on the same.
    #[error("{0} is being uploaded by another process")]
    Busy(String),
}

/// What of an upload at a cloud can be gone on with.
pub trait Work: Serialize + DeserializeOwned {
    /// The cloud, by the name of its folder of records.
    const CLOUD: &'static str;
}

/// Longer records are not ours, in bytes.
const MAX_SIZE: u64 = 64 << 10;

/// A file, so that another one under its name is noticed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Length in bytes.
    pub size: u64,
    modified: (i64, i64),
    inode: u64,
}

impl Identity {
    /// Looks at a file.
    ///
    /// # Errors
    /// When it cannot be looked at, or is no regular file.
    pub fn of(path: &Path) -> Result<Self> {
        let meta = std::fs::metadata(path).map_err(Unusable::at(path))?;
        if !meta.is_file() {
            return Err(Error::NotAFile(path.into()));
        }
        Ok(Self { size: meta.len(), modified: (meta.mtime(), meta.mtime_nsec()), inode: meta.ino() })
    }
}

/// An unfinished upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record<W> {
    /// The region, project or the like that it goes to.
    #[serde(alias = "region")]
    pub place: String,
    /// The file that is uploaded.
    pub file: PathBuf,
    /// How the file was.
    pub identity: Identity,
    /// What is unfinished.
    pub work: W,
}

/// The place of one record, locked.
#[derive(Debug)]
pub struct Slot<W> {
    /// None: there is no place for records, and nothing can be resumed.
    path: Option<PathBuf>,
    lock: Option<Flock<File>>,
    work: PhantomData<fn() -> W>,
}

/// Where the records of a cloud are.
fn folder<W: Work>() -> Option<PathBuf> {
    crate::folders::state().map(|s| s.join(W::CLOUD))
}

impl<W: Work> Slot<W> {
    /// A place for no record.
    pub fn none() -> Self {
        Self { path: None, lock: None, work: PhantomData }
    }

    /// The place of the record for `what` in a region, project or the like.
    ///
    /// # Errors
    /// While another process works on the same.
    pub fn open(place: &str, what: &str) -> Result<Self> {
        match folder::<W>() {
            Some(folder) => Self::open_in(&folder, place, what),
            None => Ok(Self::none()),
        }
    }

    fn open_in(folder: &Path, place: &str, what: &str) -> Result<Self> {
        let digest = openssl::sha::sha256(format!("{place}\0{what}").as_bytes());
        let name: String = digest[..12].iter().map(|b| format!("{b:02x}")).collect();
        let path = folder.join(name).with_extension("json");
        match std::fs::create_dir_all(folder).and_then(|()| lock(&path)) {
            Ok(Some(lock)) => Ok(Self { path: Some(path), lock: Some(lock), work: PhantomData }),
            Ok(None) => Err(Error::Busy(what.to_owned())),
            Err(e) => {
                warning!(
                    "resume",
                    "an interrupted upload cannot be resumed: no record in {}: {e}",
                    folder.display()
                );
                Ok(Self::none())
            }
        }
    }

    /// The record, if there is one; a damaged one is as good as none.
    pub fn load(&self) -> Option<Record<W>> {
        let path = self.path.as_ref()?;
        let size = std::fs::metadata(path).ok()?.len();
        if size > MAX_SIZE {
            return None;
        }
        let text = crate::input::read(path).ok()?;
        match serde_json::from_slice(&text) {
            Ok(record) => Some(record),
            Err(e) => {
                warning!("resume", "the record {} is damaged and not used: {e}", path.display());
                None
            }
        }
    }

    /// When the record was last written.
    pub fn modified(&self) -> Option<DateTime<Utc>> {
        let modified = std::fs::metadata(self.path.as_ref()?).and_then(|m| m.modified());
        modified.ok().map(Into::into)
    }

    /// Writes the record.
    ///
    /// # Errors
    /// When it cannot be written: then nothing must be made.
    pub fn save(&self, record: &Record<W>) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let write =
            || -> io::Result<()> { crate::target::replace(path, 0o600, &serde_json::to_vec(record)?) };
        Ok(write().map_err(Unusable::at(path))?)
    }

    /// Forgets the record. A failure is logged: gc will find nothing to do.
    pub fn clear(&self) {
        let Some(path) = &self.path else { return };
        if let Err(e) = std::fs::remove_file(path)
            && e.kind() != io::ErrorKind::NotFound
        {
            warning!("resume", "cannot remove the record {}: {e}", path.display());
        }
    }
}

impl<W> Drop for Slot<W> {
    fn drop(&mut self) {
        // Still locked here: whoever opens the name next makes a new one.
        if let (Some(path), Some(lock)) = (&self.path, &self.lock)
            && !path.exists()
            && is_ours(lock, &path.with_extension("lock"))
        {
            let _ = std::fs::remove_file(path.with_extension("lock")); // one empty file more is harmless
        }
    }
}

/// Whether a name is that of the empty file that is locked: anything else there is somebody's.
fn is_ours(lock: &File, path: &Path) -> bool {
    let same = |held: std::fs::Metadata, there: std::fs::Metadata| {
        held.len() == 0 && (held.dev(), held.ino()) == (there.dev(), there.ino())
    };
    lock.metadata().is_ok_and(|held| std::fs::symlink_metadata(path).is_ok_and(|there| same(held, there)))
}

/// Locks the place of a record; `None` while another process has it.
fn lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    let path = path.with_extension("lock");
    loop {
        let mut options = OpenOptions::new();
        let file =
            options.create(true).truncate(false).write(true).custom_flags(libc::O_NOFOLLOW).open(&path)?;
        let held = file.metadata()?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // Whoever had it before us may have removed it: then ours is a lock of nothing.
            Ok(lock)
                if std::fs::symlink_metadata(&path)
                    .is_ok_and(|there| (there.dev(), there.ino()) == (held.dev(), held.ino())) =>
            {
                return Ok(Some(lock));
            }
            Ok(_) => {}
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, e)) => return Err(e.into()),
        }
    }
}

/// The records of a place that nobody works on and that did not change since a time.
pub fn abandoned<W: Work>(place: &str, before: DateTime<Utc>) -> Vec<(Slot<W>, Record<W>)> {
    folder::<W>().map(|f| abandoned_in(&f, place, before)).unwrap_or_default()
}

fn abandoned_in<W: Work>(folder: &Path, place: &str, before: DateTime<Utc>) -> Vec<(Slot<W>, Record<W>)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json")) {
        let modified = std::fs::metadata(&path).and_then(|m| m.modified());
        if !modified.is_ok_and(|m| DateTime::<Utc>::from(m) <= before) {
            continue;
        }
        let Ok(Some(lock)) = lock(&path) else { continue };
        let slot = Slot { path: Some(path), lock: Some(lock), work: PhantomData };
        if let Some(record) = slot.load().filter(|r| r.place == place) {
            found.push((slot, record));
        }
    }
    found.sort_by(|a, b| a.0.path.cmp(&b.0.path));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Toy {
        below: u32,
    }

    impl Work for Toy {
        const CLOUD: &'static str = "toy";
    }

    #[test]
    fn records_are_kept_locked_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        std::fs::write(&image, "x").unwrap();
        let identity = Identity::of(&image).unwrap();
        let work = Toy { below: 3 };
        let record = Record { place: "r".into(), file: image.clone(), identity: identity.clone(), work };
        let slot = Slot::<Toy>::open_in(dir.path(), "r", "s").unwrap();
        assert_eq!(slot.load(), None);
        slot.save(&record).unwrap();
        assert_eq!(slot.load(), Some(record.clone()));
        assert!(
            Slot::<Toy>::open_in(dir.path(), "r", "s").unwrap_err().to_string().contains("another process")
        );
        let (now, early) = (Utc::now(), Utc::now() - chrono::TimeDelta::seconds(600));
        assert!(abandoned_in::<Toy>(dir.path(), "r", now).is_empty(), "it is being worked on");
        drop(slot);
        assert!(abandoned_in::<Toy>(dir.path(), "r", early).is_empty(), "it is young");
        assert!(abandoned_in::<Toy>(dir.path(), "elsewhere", now).is_empty());
        let found = abandoned_in::<Toy>(dir.path(), "r", now);
        assert_eq!(found.len(), 1);
        found[0].0.clear();
        drop(found);
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["image"], "neither record nor lock");
        for foreign in ["theirs", ""] {
            // Somebody put another file there while the upload went on.
            let slot = Slot::<Toy>::open_in(dir.path(), "r", "s").unwrap();
            let path = slot.path.as_ref().unwrap().with_extension("lock");
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, foreign).unwrap();
            drop(slot);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), foreign);
            std::fs::remove_file(&path).unwrap();
            // One that was there before, with something in it, serves as a lock and stays.
            std::fs::write(&path, "theirs").unwrap();
            drop(Slot::<Toy>::open_in(dir.path(), "r", "s").unwrap());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "theirs");
            std::fs::remove_file(&path).unwrap();
        }
        std::fs::write(&image, "xy").unwrap();
        assert_ne!(Identity::of(&image).unwrap(), identity);
    }

    #[test]
    fn damaged_records_are_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let slot = Slot::<Toy>::open_in(dir.path(), "r", "s").unwrap();
        for text in ["", "{", "[]", "{\"region\":\"r\"}"] {
            std::fs::write(slot.path.as_ref().unwrap(), text).unwrap();
            assert_eq!(slot.load(), None);
        }
    }
}
