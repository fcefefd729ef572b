//! A disk becomes a page blob: only what is not zeros is sent, several pages at a time; what was interrupted is gone on
//! with.
//!
//! The blob itself is the record of an unfinished upload: its metadata name the file, its page ranges tell what has
//! arrived, and the MD5 of its content is set last. A number that is drawn when it is made goes with every page, so that
//! no page lands in a blob that somebody made anew meanwhile.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::DateTime;
use futures_util::stream::{self, StreamExt as _};
use hyper::body::Bytes;
use openssl::hash::MessageDigest;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::blob::{PageBlob, Properties};
use super::extents::Extents;
use super::metadata::FileMetadata;
use super::scan::{Scan, scan};
use super::{COMPONENT, DATA};
use crate::cloud::resume::{self, Identity, Slot};
use crate::disk::vhd::{self, Disk, SECTOR};
use crate::error::Stop;
use crate::folders::Unusable;
use crate::http::{CallError, Transient as _};
use crate::{info, warning};

/// The most that one call can write, in bytes.
const PAGES: u64 = 4 << 20;
/// So many failures in a row, and no more is tried: the service is not there.
const HOPELESS: usize = 2 * DATA;

/// Told what is being done, how many bytes of it are done, and how many there are.
pub type Report<'a> = &'a (dyn Fn(&str, u64, u64) + Send + Sync);

/// A disk to be uploaded.
pub struct Upload<'a> {
    /// The file: a VHD of any kind, or a raw disk.
    pub file: &'a Path,
    /// Begin anew, whatever is there.
    pub overwrite: bool,
    /// Refuse what Azure would not make a disk of; then raw disks are refused, too. The largest size, in bytes.
    pub validate: Option<u64>,
    /// Told how much is done.
    pub report: Report<'a>,
    /// Stops the work.
    pub cancel: &'a CancellationToken,
}

/// What became of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The blob is finished.
    Uploaded {
        /// Bytes of pages that were sent.
        sent: u64,
        /// Bytes that an earlier attempt had sent.
        resumed: u64,
    },
    /// It was finished before, with the same content.
    Finished,
}

/// Why a disk was not uploaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk is not one that can be uploaded.
    #[error(transparent)]
    Disk(#[from] vhd::Error),
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] Unusable),
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Another process is at it.
    #[error(transparent)]
    Busy(#[from] resume::Error),
    /// There is a finished blob with other content.
    #[error("blob {0:?} already exists")]
    Exists(String),
    /// What there is was not begun by this command.
    #[error("blob {name:?} already exists, and its upload cannot be resumed: {reason}")]
    Foreign {
        /// The blob.
        name: String,
        /// Why not.
        reason: String,
    },
    /// The file was not left alone.
    #[error("{} changed while it was uploaded", .0.display())]
    Changed(PathBuf),
    /// Some pages did not arrive; the others did.
    #[error("{missing} bytes of blob {name:?} could not be uploaded")]
    Unfinished {
        /// The blob.
        name: String,
        /// How much is missing.
        missing: u64,
        /// The last failure.
        #[source]
        source: Option<Box<CallError>>,
    },
    /// The work was cancelled.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Whether the same command goes on from where this one stopped.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Interrupted | Self::Unfinished { .. } => true,
            Self::Call(e) => e.is_transient(),
            _ => false,
        }
    }

    /// Whether there is something else under the blob's name.
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Exists(_) | Self::Foreign { .. })
    }
}

/// Uploads have no records of their own: this is only the lock that keeps two processes from the same blob.
#[derive(Serialize, Deserialize)]
struct Locked;

impl resume::Work for Locked {
    const CLOUD: &'static str = "azure";
}

/// What the upload of one disk works on.
struct Job<'a> {
    what: &'a Upload<'a>,
    blob: &'a PageBlob,
    disk: Arc<Disk>,
    identity: Identity,
    scan: Scan,
    file: FileMetadata,
}

impl PageBlob {
    /// Makes this blob of a disk. Repeated after an interruption or a failure it goes on with what is there, if that was
    /// made from the same file.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn upload(&self, what: &Upload<'_>) -> Result<Outcome, Error> {
        let place = self.storage.root().as_str();
        let _lock = Slot::<Locked>::open(place, &format!("{}/{}", self.container, self.name))?;
        let job = Job::look(self, what).await?;
        what.cancel.run_until_cancelled(job.run()).await.unwrap_or(Err(Error::Interrupted))
    }
}

impl<'a> Job<'a> {
    /// Reads the disk once: what is to be sent, and its checksums.
    async fn look(blob: &'a PageBlob, what: &'a Upload<'a>) -> Result<Self, Error> {
        let path = what.file.to_owned();
        let (validate, cancel) = (what.validate, what.cancel.clone());
        let (told, mut heard) = tokio::sync::watch::channel(0);
        let work = spawn_blocking(move || -> Result<_, Error> {
            let cannot = |e: std::io::Error| match e.get_ref().is_some_and(|e| e.is::<Stop>()) {
                true => Error::Interrupted,
                false => Unusable::at(&path)(e).into(),
            };
            let identity = Identity::of(&path)?;
            let disk = match validate {
                Some(_) => Disk::open(&path)?,
                None => Disk::open_any(&path)?,
            };
            if let Some(limit) = validate {
                disk.validate(limit)?;
            }
            let mut report = move |done| {
                told.send_replace(done);
            };
            let found = scan(&disk, identity.size, &cancel, &mut report).map_err(cannot)?;
            let modified = disk.file().metadata().and_then(|m| m.modified()).map_err(cannot)?;
            let stream = disk.stream_size();
            let file =
                FileMetadata::new(&path, identity.size, stream, DateTime::from(modified), &found.file_md5);
            Ok((disk, identity, found, file))
        });
        let mut work = std::pin::pin!(work);
        let (disk, identity, scan, file) = loop {
            tokio::select! {
                biased;
                done = &mut work => break done.map_err(|e| panicked(what.file, e))??,
                Ok(()) = heard.changed() => {
                    let total = std::fs::metadata(what.file).map_or(0, |m| m.len());
                    let done = *heard.borrow_and_update();
                    (what.report)("reading", done.min(total), total);
                }
            }
        };
        Ok(Self { what, blob, disk: Arc::new(disk), identity, scan, file })
    }

    async fn run(&self) -> Result<Outcome, Error> {
        self.blob.storage.make_container(&self.blob.container).await?;
        let there = match self.what.overwrite {
            true => None,
            false => self.blob.properties().await?,
        };
        let sequence = match there {
            Some(there) => match self.fits(there)? {
                Some(sequence) => sequence,
                None => return Ok(Outcome::Finished),
            },
            None => match self.create().await? {
                Some(sequence) => sequence,
                None => return Ok(Outcome::Finished),
            },
        };
        let there = self.blob.ranges().await?;
        // Pages that are zeros here: those of gaps that another version did not skip.
        let foreign = there.without(&self.scan.data).without(&self.footer());
        for range in foreign.pieces(u64::MAX) {
            self.blob.clear(&range, sequence).await?;
        }
        let left = self.scan.data.without(&there);
        let resumed = self.scan.data.size() - left.size();
        if resumed > 0 {
            info!(COMPONENT, "{resumed} bytes of {} have arrived before", self.scan.data.size());
        }
        self.send(&left, resumed, sequence).await?;
        self.finish(sequence).await?;
        Ok(Outcome::Uploaded { sent: left.size() + SECTOR, resumed })
    }

    fn footer(&self) -> Extents {
        let size = self.disk.size();
        Extents::one(size..size + SECTOR)
    }

    /// Makes the blob; the number that goes with its pages. `None`: somebody finished the same one meanwhile.
    async fn create(&self) -> Result<Option<u64>, Error> {
        let sequence = random();
        let (size, replace) = (self.disk.stream_size(), self.what.overwrite);
        match self.blob.create(size, sequence, &self.file, replace).await {
            Ok(()) => Ok(Some(sequence)),
            // It may be ours, and the answer was lost.
            Err(e) if !replace && e.is(&["BlobAlreadyExists"]) => match self.blob.properties().await? {
                Some(there) => self.fits(there),
                None => Err(e.into()),
            },
            Err(e) => Err(e.into()),
        }
    }

    /// Whether the upload can go on with what is there: with which number, or not at all because it is finished.
    fn fits(&self, there: Properties) -> Result<Option<u64>, Error> {
        let name = self.blob.name.clone();
        let foreign = |reason: String| Err(Error::Foreign { name: name.clone(), reason });
        if !there.is_page_blob {
            return foreign("it is no page blob".into());
        }
        if let Some(md5) = there.md5 {
            let same = there.size == self.disk.stream_size()
                && openssl::base64::encode_block(&self.scan.stream_md5) == md5;
            return if same { Ok(None) } else { Err(Error::Exists(name)) };
        }
        let Some(file) = there.file else {
            return foreign("it does not say what it was made from".into());
        };
        let differences = self.file.differences(&file);
        if !differences.is_empty() {
            return foreign(format!("it was made from another file: {}", differences.join("; ")));
        }
        match there.size == self.disk.stream_size() {
            true => Ok(Some(there.sequence)),
            false => foreign(format!("it has {} bytes, not {}", there.size, self.disk.stream_size())),
        }
    }

    /// Sends pages. What fails for now does not keep the others from being sent.
    async fn send(&self, left: &Extents, resumed: u64, sequence: u64) -> Result<(), Error> {
        let (total, mut done) = (self.scan.data.size(), resumed);
        (self.what.report)("uploading", done, total);
        let jobs = left.pieces(PAGES).map(|range| async move {
            let size = range.end - range.start;
            let (bytes, md5) = self.pages(range.start, size).await?;
            match self.blob.put(range.start, bytes, &md5, sequence).await {
                Ok(()) => Ok(Ok(size)),
                Err(e) if e.is_transient() => Ok(Err((size, e))),
                Err(e) => Err(Error::from(e)),
            }
        });
        let mut jobs = std::pin::pin!(stream::iter(jobs).buffer_unordered(DATA));
        let (mut missing, mut row, mut last) = (0, 0, None);
        while let Some(job) = jobs.next().await {
            match job? {
                Ok(size) => {
                    (done, row) = (done + size, 0);
                    (self.what.report)("uploading", done, total);
                }
                Err((size, error)) => {
                    warning!(COMPONENT, "{size} bytes are missing: {error}");
                    (missing, row, last) = (missing + size, row + 1, Some(error));
                    if row >= HOPELESS {
                        missing = total - done;
                        break;
                    }
                }
            }
        }
        match last {
            None => Ok(()),
            Some(e) => {
                let (name, source) = (self.blob.name.clone(), Some(Box::new(e)));
                Err(Error::Unfinished { name, missing, source })
            }
        }
    }

    /// Some of the disk, and its MD5.
    async fn pages(&self, start: u64, size: u64) -> Result<(Bytes, Vec<u8>), Error> {
        let disk = self.disk.clone();
        let read = move || -> std::io::Result<_> {
            let mut bytes = vec![0; usize::try_from(size).map_err(std::io::Error::other)?];
            disk.read_at(start, &mut bytes)?;
            let md5 = openssl::hash::hash(MessageDigest::md5(), &bytes)?;
            Ok((Bytes::from(bytes), md5.to_vec()))
        };
        let read = spawn_blocking(read).await.map_err(|e| panicked(self.what.file, e))?;
        Ok(read.map_err(Unusable::at(self.what.file))?)
    }

    /// The footer, the look whether all has arrived, the mark that it has.
    async fn finish(&self, sequence: u64) -> Result<(), Error> {
        if Identity::of(self.what.file)? != self.identity {
            return Err(Error::Changed(self.what.file.into()));
        }
        let footer = self.disk.stream_footer().bytes();
        let md5 = openssl::hash::hash(MessageDigest::md5(), footer)
            .map_err(|e| Unusable::at(self.what.file)(e.into()))?;
        // Last: without it, it is no disk.
        self.blob.put(self.disk.size(), Bytes::copy_from_slice(footer), &md5, sequence).await?;
        let there = self.blob.ranges().await?;
        let missing = self.scan.data.without(&there).size() + self.footer().without(&there).size();
        if missing > 0 {
            return Err(Error::Unfinished { name: self.blob.name.clone(), missing, source: None });
        }
        Ok(self.blob.seal(&self.scan.stream_md5).await?)
    }
}

/// A number that no other blob of this name has; JavaScript's servers take no more than 53 bits.
fn random() -> u64 {
    let (high, _) = uuid::Uuid::new_v4().as_u64_pair();
    high >> 12
}

fn panicked(file: &Path, error: tokio::task::JoinError) -> Error {
    Unusable::at(file)(std::io::Error::other(error)).into()
}
