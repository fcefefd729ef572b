//! Records of uploads that are under way: what a repeated command resumes, and what gc removes when nobody does.
//!
//! One file an upload in `$XDG_STATE_HOME/mantle/aws`, written before the provider is asked for anything that
//! would cost money unseen: parts of S3 objects and unfinished snapshots show up in no list of images. A lock beside
//! it tells an upload that is running from one that was given up.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::failure::{Error, Result};
use crate::warning;

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
        let meta = std::fs::metadata(path).map_err(|e| Error::file(path, e))?;
        if !meta.is_file() {
            return Err(Error::Invalid(format!("{} is not a file", path.display())));
        }
        Ok(Self { size: meta.len(), modified: (meta.mtime(), meta.mtime_nsec()), inode: meta.ino() })
    }
}

/// What is unfinished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// An S3 multipart upload.
    Multipart {
        /// The bucket.
        bucket: String,
        /// The object's key.
        key: String,
        /// The id of the upload; none: it was about to be begun.
        upload: Option<String>,
        /// Length of all parts but the last, in bytes.
        part: u64,
    },
    /// A snapshot that is written by the EBS block API.
    Snapshot {
        /// With this token the provider finds the snapshot again, should its answer have been lost.
        token: String,
        /// The snapshot, once known.
        id: Option<String>,
        /// Size of the volume in GiB.
        size_gib: i64,
        /// All blocks below this one are written.
        below: u32,
        /// How many of them were not empty.
        changed: u32,
    },
}

/// An unfinished upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The region.
    pub region: String,
    /// The file that is uploaded.
    pub file: PathBuf,
    /// How the file was.
    pub identity: Identity,
    /// What is unfinished.
    pub work: Work,
}

/// The place of one record, locked.
#[derive(Debug)]
pub struct Slot {
    /// None: there is no place for records, and nothing can be resumed.
    path: Option<PathBuf>,
    lock: Option<Flock<File>>,
}

/// Where the records are.
pub fn folder() -> Option<PathBuf> {
    crate::folders::state().map(|s| s.join("aws"))
}

impl Slot {
    /// A place for no record.
    pub fn none() -> Self {
        Self { path: None, lock: None }
    }

    /// The place of the record for `what` in a region.
    ///
    /// # Errors
    /// While another process works on the same.
    pub fn open(region: &str, what: &str) -> Result<Self> {
        match folder() {
            Some(folder) => Self::open_in(&folder, region, what),
            None => Ok(Self::none()),
        }
    }

    fn open_in(folder: &Path, region: &str, what: &str) -> Result<Self> {
        let digest = openssl::sha::sha256(format!("{region}\0{what}").as_bytes());
        let name: String = digest[..12].iter().map(|b| format!("{b:02x}")).collect();
        let path = folder.join(name).with_extension("json");
        match std::fs::create_dir_all(folder).and_then(|()| lock(&path)) {
            Ok(Some(lock)) => Ok(Self { path: Some(path), lock: Some(lock) }),
            Ok(None) => Err(Error::Invalid(format!("{what} is being uploaded by another process"))),
            Err(e) => {
                warning!(
                    "ore",
                    "an interrupted upload cannot be resumed: no record in {}: {e}",
                    folder.display()
                );
                Ok(Self::none())
            }
        }
    }

    /// The record, if there is one; a damaged one is as good as none.
    pub fn load(&self) -> Option<Record> {
        let path = self.path.as_ref()?;
        let size = std::fs::metadata(path).ok()?.len();
        if size > MAX_SIZE {
            return None;
        }
        let text = std::fs::read(path).ok()?;
        match serde_json::from_slice(&text) {
            Ok(record) => Some(record),
            Err(e) => {
                warning!("ore", "the record {} is damaged and not used: {e}", path.display());
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
    pub fn save(&self, record: &Record) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let write = || -> io::Result<()> {
            let folder = path.parent().unwrap_or(Path::new("/"));
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            file.persist(path).map_err(|e| e.error)?;
            Ok(())
        };
        write().map_err(|e| Error::file(path, e))
    }

    /// Forgets the record. A failure is logged: gc will find nothing to do.
    pub fn clear(&self) {
        let Some(path) = &self.path else { return };
        if let Err(e) = std::fs::remove_file(path)
            && e.kind() != io::ErrorKind::NotFound
        {
            warning!("ore", "cannot remove the record {}: {e}", path.display());
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Still locked here: whoever opens the name next makes a new one.
        if let (Some(path), Some(_)) = (&self.path, &self.lock)
            && !path.exists()
        {
            let _ = std::fs::remove_file(path.with_extension("lock")); // one empty file more is harmless
        }
    }
}

/// Locks the place of a record; `None` while another process has it.
fn lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    let path = path.with_extension("lock");
    loop {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
        let inode = file.metadata()?.ino();
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // Whoever had it before us may have removed it: then ours is a lock of nothing.
            Ok(lock) if std::fs::metadata(&path).is_ok_and(|m| m.ino() == inode) => return Ok(Some(lock)),
            Ok(_) => {}
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, e)) => return Err(e.into()),
        }
    }
}

/// The records of a region that nobody works on and that did not change since a time.
pub fn abandoned(region: &str, before: DateTime<Utc>) -> Vec<(Slot, Record)> {
    folder().map(|f| abandoned_in(&f, region, before)).unwrap_or_default()
}

fn abandoned_in(folder: &Path, region: &str, before: DateTime<Utc>) -> Vec<(Slot, Record)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json")) {
        let modified = std::fs::metadata(&path).and_then(|m| m.modified());
        if !modified.is_ok_and(|m| DateTime::<Utc>::from(m) <= before) {
            continue;
        }
        let Ok(Some(lock)) = lock(&path) else { continue };
        let slot = Slot { path: Some(path), lock: Some(lock) };
        if let Some(record) = slot.load().filter(|r| r.region == region) {
            found.push((slot, record));
        }
    }
    found.sort_by(|a, b| a.0.path.cmp(&b.0.path));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_kept_locked_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        std::fs::write(&image, "x").unwrap();
        let identity = Identity::of(&image).unwrap();
        let work = Work::Snapshot { token: "t".into(), id: None, size_gib: 8, below: 3, changed: 2 };
        let record = Record { region: "r".into(), file: image.clone(), identity: identity.clone(), work };
        let slot = Slot::open_in(dir.path(), "r", "s").unwrap();
        assert_eq!(slot.load(), None);
        slot.save(&record).unwrap();
        assert_eq!(slot.load(), Some(record.clone()));
        assert!(Slot::open_in(dir.path(), "r", "s").unwrap_err().to_string().contains("another process"));
        let (now, early) = (Utc::now(), Utc::now() - chrono::TimeDelta::seconds(600));
        assert!(abandoned_in(dir.path(), "r", now).is_empty(), "it is being worked on");
        drop(slot);
        assert!(abandoned_in(dir.path(), "r", early).is_empty(), "it is young");
        assert!(abandoned_in(dir.path(), "elsewhere", now).is_empty());
        let found = abandoned_in(dir.path(), "r", now);
        assert_eq!(found.len(), 1);
        found[0].0.clear();
        drop(found);
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["image"], "neither record nor lock");
        std::fs::write(&image, "xy").unwrap();
        assert_ne!(Identity::of(&image).unwrap(), identity);
    }

    #[test]
    fn damaged_records_are_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let slot = Slot::open_in(dir.path(), "r", "s").unwrap();
        for text in ["", "{", "[]", "{\"region\":\"r\"}"] {
            std::fs::write(slot.path.as_ref().unwrap(), text).unwrap();
            assert_eq!(slot.load(), None);
        }
    }
}
