//! Images in S3: where they go, and how they get there, in parts that a repeated command need not send again.
//!
//! Limits: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use hyper::body::Bytes;
use openssl::hash::{MessageDigest, hash};
use tokio_util::sync::CancellationToken;

use super::COMPONENT;
use super::api::{self, Api, ObjectHead};
use super::failure::{During as _, Error, Result};
use super::unfinished::{Identity, Record, Slot, Work};
use crate::cloud::address::{self, Address, Amazon};
use crate::http::{Class, Transient as _};
use crate::text::hex;
use crate::{info, warning};

/// The shortest part but the last, and the longest object sent in one piece, in bytes.
const MIN_PART: u64 = 5 << 20;
/// The most parts.
const MAX_PARTS: u64 = 10_000;
/// Parts on their way at the same time; so many of them are in memory.
const PARALLEL: usize = 5;

/// Told how much is done: bytes so far, bytes in all.
pub type Report<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// An object or a place for objects in S3.
pub type Location = Address<Amazon>;

/// Reads `s3://bucket/key`; the bucket must be one that can be written to today.
///
/// # Errors
/// What is wrong.
pub fn location(url: &str) -> Result<Location, String> {
    let at: Location = url.parse().map_err(|e: address::Error| e.to_string())?;
    check_bucket(&at.bucket)?;
    Ok(at)
}

/// Refuses what cannot be the name of a bucket: 3 to 63 lower-case letters, digits, dots and hyphens.
///
/// # Errors
/// What is wrong.
pub fn check_bucket(name: &str) -> Result<(), String> {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-';
    let bytes = name.as_bytes();
    let fine = (3..=63).contains(&bytes.len()) && edge(bytes.first()) && edge(bytes.last());
    if fine && bytes.iter().all(|b| inner(*b)) && !name.contains("..") {
        return Ok(());
    }
    Err(format!("{name:?} cannot name a bucket: 3 to 63 lower-case letters, digits, dots and hyphens can"))
}

/// The bucket that images are imported through unless another is named.
pub fn default_bucket(region: &str) -> String {
    format!("coreos-dev-ami-import-{region}")
}

/// The length of the parts of a file, in bytes.
fn part_size(size: u64) -> u64 {
    size.div_ceil(MAX_PARTS).next_multiple_of(1 << 20).max(MIN_PART)
}

/// What is in a file, to be compared with what is stored.
#[derive(Clone, Debug)]
pub struct Content {
    identity: Identity,
    /// SHA-256 in hexadecimal digits.
    pub sha256: String,
}

impl Content {
    /// Reads a file from end to end.
    ///
    /// # Errors
    /// When it cannot be read or changes meanwhile, or the work is cancelled.
    pub async fn of(path: &Path, cancel: &CancellationToken) -> Result<Self> {
        let identity = Identity::of(path)?;
        let file = Arc::new(crate::input::open_disk(path).map_err(|e| Error::file(path, e))?);
        let mut sum = openssl::sha::Sha256::new();
        for start in (0..identity.size).step_by(MIN_PART as usize) {
            let bytes = read_at(file.clone(), start, MIN_PART.min(identity.size - start));
            let bytes = cancel.run_until_cancelled(bytes).await.ok_or(Error::Interrupted)?;
            let bytes = bytes.map_err(|e| Error::file(path, e))?;
            sum = off_thread(move || {
                sum.update(&bytes);
                sum
            })
            .await
            .map_err(|e| Error::file(path, e))?;
        }
        if Identity::of(path)? != identity {
            return Err(Error::Invalid(format!("{} changed while it was read", path.display())));
        }
        Ok(Self { identity, sha256: hex(&sum.finish()) })
    }

    /// Makes sure that an object has this content: by the SHA-256 that was written down with it, else by its tag, if
    /// it is that of an upload as [`Upload`] makes it.
    ///
    /// # Errors
    /// [`Error::Different`], also when it cannot be told.
    pub async fn compare(&self, path: &Path, at: &Location, head: &ObjectHead) -> Result<()> {
        let file = path.display();
        let size = self.identity.size;
        if head.size != size {
            let why = format!("{at} has {} bytes, {file} has {size}", head.size);
            return Err(Error::Different(why));
        }
        match &head.sha256 {
            Some(sha256) if *sha256 == self.sha256 => Ok(()),
            Some(_) => Err(Error::Different(format!("{at} has another content than {file}"))),
            None if self.tag(path).await? == head.etag.trim_matches('"') => Ok(()),
            None => Err(Error::Different(format!(
                "{at} cannot be told to have the content of {file}, only its length"
            ))),
        }
    }

    /// The tag that S3 gives to this content when [`Upload`] sends it unencrypted, or encrypted with S3's own keys:
    /// the MD5, or that of the parts' MD5s and the number of parts.
    async fn tag(&self, path: &Path) -> Result<String> {
        let fail = |e| Error::file(path, e);
        let file = Arc::new(crate::input::open_disk(path).map_err(fail)?);
        let size = self.identity.size;
        let part = if size <= MIN_PART { MIN_PART } else { part_size(size) };
        let mut sums = Vec::new();
        for start in (0..size.max(1)).step_by(usize::try_from(part).unwrap_or(usize::MAX)) {
            let bytes = read_at(file.clone(), start, part.min(size - start)).await.map_err(fail)?;
            sums.push(off_thread(move || md5(&bytes)).await.map_err(fail)??);
        }
        match &sums[..] {
            [one] if size <= MIN_PART => Ok(hex(one)),
            parts => Ok(format!("{}-{}", hex(&md5(&parts.concat())?), parts.len())),
        }
    }
}

fn md5(bytes: &[u8]) -> Result<Vec<u8>> {
    let sum = hash(MessageDigest::md5(), bytes);
    Ok(sum.map_err(|e| Error::Invalid(format!("MD5 cannot be computed: {e}")))?.to_vec())
}

/// Computes on a thread that may block.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)
}

/// An upload of a file.
pub struct Upload<'a> {
    /// The file.
    pub file: &'a Path,
    /// What was found in it.
    pub content: &'a Content,
    /// Where to.
    pub to: &'a Location,
    /// Whether to go on where an earlier upload stopped, and to leave the parts if this one stops.
    pub resume: bool,
    /// Told how much is done.
    pub report: Report<'a>,
    /// Stops the upload.
    pub cancel: &'a CancellationToken,
}

/// An image that was opened before anything was asked of the provider.
#[derive(Debug)]
struct Opened {
    file: Arc<File>,
    identity: Identity,
}

/// A multipart upload that was begun, now or earlier.
struct Begun {
    upload: String,
    /// Length of all parts but the last.
    part: u64,
    /// Parts that are there: tag and length by number.
    sent: BTreeMap<i64, (String, u64)>,
}

impl Upload<'_> {
    /// Sends the file.
    ///
    /// After an interruption, or a failure that may pass, the parts stay at the provider with a record of them here:
    /// the same upload goes on from there, a clean-up of the account removes them. After a refusal nothing stays.
    ///
    /// # Errors
    /// When the file cannot be read or changes meanwhile, the provider refuses, or the work is cancelled.
    pub async fn run(&self, api: &Api) -> Result<()> {
        let identity = Identity::of(self.file)?;
        let file = Arc::new(crate::input::open_disk(self.file).map_err(|e| Error::file(self.file, e))?);
        let opened = Opened { file, identity };
        self.unchanged(&opened)?;
        if opened.identity.size <= MIN_PART {
            let bytes = self.read(&opened, 0, opened.identity.size).await?;
            let put = api.put_object(&self.to.bucket, &self.to.name, bytes, &self.content.sha256);
            self.cancel.run_until_cancelled(put).await.ok_or(Error::Interrupted)??;
            (self.report)(opened.identity.size, opened.identity.size);
            return self.unchanged(&opened);
        }
        let slot = if self.resume { Slot::open(api.region(), &self.to.url())? } else { Slot::none() };
        let begun = self.begin(api, &slot, &opened).await?;
        let upload = &begun.upload;
        let parts = self.send(api, &opened, &begun).await;
        let done = match parts {
            Ok(parts) => self.complete(api, &opened, upload, &parts).await,
            Err(e) => Err(e),
        };
        match done {
            Err(e) if self.resume && may_pass(&e) => {
                info!(
                    COMPONENT,
                    "the parts of {} stay: repeat the command to go on, or let the next clean-up of the account remove them",
                    self.to
                );
                Err(e)
            }
            Err(e) => {
                match api.abort_multipart(&self.to.bucket, &self.to.name, upload).await {
                    Ok(()) => slot.clear(),
                    Err(e) => warning!(COMPONENT, "the parts of {} could not be removed: {e}", self.to),
                }
                Err(e)
            }
            Ok(()) => {
                slot.clear();
                Ok(())
            }
        }
    }

    /// Finds the upload to go on with, or starts one: its id, the length of its parts, those that are there.
    async fn begin(&self, api: &Api, slot: &Slot, opened: &Opened) -> Result<Begun> {
        let (bucket, key) = (&self.to.bucket, &self.to.name);
        if let Some(record) = slot.load()
            && let Work::Multipart { upload, part, .. } = record.work
        {
            let upload = match upload {
                Some(upload) => Some(upload),
                None => only_upload(api, bucket, key).await?,
            };
            match upload {
                Some(upload) if record.identity != opened.identity => {
                    info!(COMPONENT, "removing the parts of another file from {}", self.to);
                    api.abort_multipart(bucket, key, &upload).await?;
                }
                Some(upload) => match api.list_parts(bucket, key, &upload).await {
                    Ok(there) => {
                        info!(COMPONENT, "going on with an earlier upload: {} parts are there", there.len());
                        let sent =
                            there.into_iter().map(|(number, etag, size)| (number, (etag, size))).collect();
                        return Ok(Begun { upload, part, sent });
                    }
                    Err(e) if e.code() == Some("NoSuchUpload") => {}
                    Err(e) => return Err(e.into()),
                },
                None => {}
            }
            slot.clear();
        }
        let part = part_size(opened.identity.size);
        let record = |upload: Option<String>| Record {
            place: api.region().into(),
            file: self.file.into(),
            identity: opened.identity.clone(),
            work: Work::Multipart { bucket: bucket.clone(), key: key.clone(), upload, part },
        };
        slot.save(&record(None))?;
        // Not cancelled halfway: an upload whose id is lost is hard to find.
        let upload = match api.create_multipart(bucket, key, &self.content.sha256).await {
            Ok(upload) => upload,
            Err(e) if e.is_certain() => {
                slot.clear();
                return Err(e.into());
            }
            // Begun for all we know, but the answer was lost.
            Err(e) => match only_upload(api, bucket, key).await? {
                Some(upload) => upload,
                None => return Err(e.into()),
            },
        };
        if let Err(e) = slot.save(&record(Some(upload.clone()))) {
            api.abort_multipart(bucket, key, &upload).await?;
            return Err(e.into());
        }
        Ok(Begun { upload, part, sent: BTreeMap::new() })
    }

    /// Sends the parts that are not there, several at a time; the numbers and tags of all.
    async fn send(&self, api: &Api, opened: &Opened, begun: &Begun) -> Result<Vec<(i64, String)>> {
        let Begun { upload, part, sent } = begun;
        let part = *part;
        let size = opened.identity.size;
        let count = i64::try_from(size.div_ceil(part)).expect("there are at most 10 000 parts");
        let jobs = (1..=count).map(|number| async move {
            let start = (number as u64 - 1) * part;
            let length = part.min(size - start);
            let bytes = self.read(opened, start, length).await?;
            if let Some((etag, _)) = sent.get(&number).filter(|(_, there)| *there == length)
                && is_md5_of(etag, &bytes).await
            {
                return Ok((number, etag.clone(), length));
            }
            let etag = api.upload_part(&self.to.bucket, &self.to.name, upload, number, bytes).await?;
            Ok::<_, Error>((number, etag, length))
        });
        let mut jobs = stream::iter(jobs).buffer_unordered(PARALLEL);
        let (mut parts, mut done) = (Vec::new(), 0);
        (self.report)(0, size);
        while let Some(job) =
            self.cancel.run_until_cancelled(jobs.next()).await.ok_or(Error::Interrupted)?.transpose()?
        {
            let (number, etag, length) = job;
            done += length;
            (self.report)(done, size);
            parts.push((number, etag));
        }
        parts.sort_unstable();
        Ok(parts)
    }

    async fn complete(
        &self,
        api: &Api,
        opened: &Opened,
        upload: &str,
        parts: &[(i64, String)],
    ) -> Result<()> {
        self.unchanged(opened)?;
        let (bucket, key) = (&self.to.bucket, &self.to.name);
        match api.complete_multipart(bucket, key, upload, parts).await {
            Ok(()) => Ok(()),
            // A repetition, the answer to the first try having been lost: the object tells.
            Err(e) if e.code() == Some("NoSuchUpload") => {
                let suffix = format!("-{}", parts.len());
                let there = api.head_object(bucket, key).await?;
                match there {
                    Some(head)
                        if head.size == opened.identity.size
                            && head.etag.trim_matches('"').ends_with(&suffix) =>
                    {
                        Ok(())
                    }
                    _ => Err(e.into()),
                }
            }
            Err(e) => Err(e.into()),
        }
    }

    async fn read(&self, opened: &Opened, start: u64, length: u64) -> Result<Bytes> {
        let file = opened.file.clone();
        read_at(file, start, length).await.map_err(|e| Error::file(self.file, e))
    }

    /// Refuses to finish with a mixture of two images.
    fn unchanged(&self, opened: &Opened) -> Result<()> {
        if Identity::of(self.file)? == opened.identity && opened.identity == self.content.identity {
            return Ok(());
        }
        Err(Error::Invalid(format!("{} changed while it was uploaded", self.file.display())))
    }
}

/// Reads a piece of a file on a thread that may block.
pub(super) async fn read_at(file: Arc<File>, start: u64, length: u64) -> std::io::Result<Bytes> {
    let length = usize::try_from(length).map_err(std::io::Error::other)?;
    let read = move || {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, start).map(|()| Bytes::from(bytes))
    };
    off_thread(read).await?
}

/// Whether the provider has exactly these bytes. With encryption by KMS its tags are no checksums: then never.
async fn is_md5_of(etag: &str, bytes: &Bytes) -> bool {
    let bytes = bytes.clone();
    let Ok(Ok(sum)) = off_thread(move || md5(&bytes)).await else { return false };
    etag.trim_matches('"').eq_ignore_ascii_case(&hex(&sum))
}

/// Whether repeating the command may help: it was interrupted, or the provider was not to be reached or in trouble.
pub(super) fn may_pass(error: &Error) -> bool {
    match error.root() {
        Error::Interrupted => true,
        Error::Api(e) => {
            let keys = matches!(e, api::Error::Credentials { .. }) || e.class() == Some(Class::Expired);
            keys || e.is_transient()
        }
        _ => false,
    }
}

/// Removes what an earlier upload left, now that the object is there: its record, and parts if there are any.
///
/// # Errors
/// When the provider refuses, or another process works on it.
pub async fn tidy(api: &Api, to: &Location) -> Result<()> {
    let slot = Slot::open(api.region(), &to.url())?;
    if let Some(record) = slot.load()
        && let Work::Multipart { bucket, key, upload, .. } = record.work
    {
        abandon(api, &bucket, &key, upload.as_deref()).await?;
        slot.clear();
    }
    Ok(())
}

/// The unfinished upload of a key, whose id was lost. Of several it cannot be told which one is ours.
async fn only_upload(api: &Api, bucket: &str, key: &str) -> Result<Option<String>> {
    let mut there = api.multiparts(bucket, key).await?;
    there.retain(|(name, _)| name == key);
    if there.len() > 1 {
        warning!(COMPONENT, "s3://{bucket}/{key} has {} unfinished uploads, which stay", there.len());
        return Ok(None);
    }
    Ok(there.pop().map(|(_, upload)| upload))
}

/// Removes the parts of an upload that nobody goes on with; none are a success.
///
/// # Errors
/// When the provider refuses.
pub async fn abandon(api: &Api, bucket: &str, key: &str, upload: Option<&str>) -> Result<()> {
    let remove = async {
        let upload = match upload {
            Some(upload) => Some(upload.to_owned()),
            None => only_upload(api, bucket, key).await?,
        };
        match upload {
            Some(upload) => Ok(api.abort_multipart(bucket, key, &upload).await?),
            None => Ok::<(), Error>(()),
        }
    };
    match remove.await {
        Err(e) if matches!(e.root(), Error::Api(e) if e.is_not_found()) => Ok(()),
        other => other.during(format!("cannot remove the parts of s3://{bucket}/{key}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_of_locations_are_checked() {
        assert_eq!(location("s3://buck/a/b c/"), Ok(Location::new("buck", "a/b c/")));
        assert_eq!(location("s3://buck"), Ok(Location::new("buck", "")));
        for (url, reason) in [
            ("gs://buck", "invalid s3 scheme; must be 's3://', not 'gs://'"),
            ("buck", "not '://'"),
            ("s3:///a", "URL missing bucket name s3:///a"),
            ("s3://", "URL missing bucket name"),
            ("s3://Buck/a", "cannot name a bucket"),
        ] {
            let error = location(url).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn bucket_names_are_checked() {
        for good in ["abc", "a-b.c", "1ab", &"a".repeat(63)] {
            assert_eq!(check_bucket(good), Ok(()));
        }
        for bad in ["", "ab", "-ab", "ab-", "a..b", "aB1", "a_b", "a/b", &"a".repeat(64)] {
            assert!(check_bucket(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parts_are_few_enough_and_long_enough() {
        assert_eq!(part_size(6 << 20), 5 << 20);
        assert_eq!(part_size(10_000 * (5 << 20)), 5 << 20);
        assert_eq!(part_size(10_000 * (5 << 20) + 1), 6 << 20);
        let terabytes = 5u64 << 40;
        assert!(terabytes.div_ceil(part_size(terabytes)) <= MAX_PARTS);
    }

    #[tokio::test]
    async fn tags_are_checksums_or_nothing() {
        let bytes = Bytes::from_static(b"hello");
        assert!(is_md5_of("\"5d41402abc4b2a76b9719d911017c592\"", &bytes).await);
        assert!(!is_md5_of("5d41402abc4b2a76b9719d911017c593", &bytes).await);
        assert!(!is_md5_of("", &bytes).await);
    }
}
