//! How images get to Glance: streamed, unpacked on the way, and compared with what Glance says it got.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use openssl::hash::{Hasher, MessageDigest};
use tokio_util::sync::CancellationToken;

use super::IMAGE_TAG;
use super::api::{Api, Image, NewImage};
use crate::compress::{Compression, Decoder};
use crate::disk::{self, Content};
use crate::http::{CallError, Pieces, Upload};
use crate::poll::{self, Answer, Poll};
use crate::progress::Progress;
use crate::text::{chain, hex};

const COMPONENT: &str = "openstack";

/// How often and how long it is asked whether an image is ready.
const ACTIVE: Poll = Poll::seconds(5, 30 * 60);

/// What is read and sent at once, in bytes.
const PIECE: usize = 1 << 20;

/// What is unpacked to see what is inside, in bytes of the packed file.
const HEAD: usize = 1 << 20;

/// How much longer an unpacked image is expected to be at most, for limits of time.
const UNPACKED: u64 = 64;

/// How a disk is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// QEMU's.
    Qcow2,
    /// VMware's.
    Vmdk,
    /// The plain content of the disk.
    Raw,
}

impl Format {
    /// As Glance spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Raw => "raw",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The file cannot be read.
    #[error("cannot read {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is no image of a disk.
    #[error("{} is no image: {reason}", .path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// The service refuses.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The service did not make an image of it.
    #[error("image {id} is {status:?}: the service could not make an image of the content")]
    Killed {
        /// The image.
        id: String,
        /// Its state.
        status: String,
    },
    /// What the service has is not what was sent.
    #[error("image {id} has the {what} {there}, what was sent has {sent}")]
    Differs {
        /// The image.
        id: String,
        /// What differs.
        what: String,
        /// That of the image.
        there: String,
        /// That of what was sent.
        sent: String,
    },
    /// It took too long.
    #[error("{0}")]
    Late(String),
    /// The work was cancelled.
    #[error("interrupted")]
    Interrupted,
}

/// A file with an image, as it will be sent.
#[derive(Clone, Debug)]
pub struct Source {
    path: PathBuf,
    /// What it is packed with.
    pub packed: Option<Compression>,
    /// What is inside.
    pub format: Format,
    length: u64,
}

impl Source {
    /// Looks into a file. Blocks.
    ///
    /// # Errors
    /// When it cannot be read, or is no image.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let failed = |source| Failure::File { path: path.into(), source };
        let mut file = crate::input::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut head = Vec::new();
        (&mut file).take(HEAD as u64).read_to_end(&mut head).map_err(failed)?;
        let packed = Compression::of_content(&head);
        let inside = match packed {
            None => head,
            Some(_) => beginning(packed, &head).map_err(failed)?,
        };
        let unfit = |reason| Err(Failure::Unfit { path: path.into(), reason });
        let format = match disk::content_of(&inside) {
            _ if inside.is_empty() => return unfit("it is empty"),
            Content::Qcow2 => Format::Qcow2,
            Content::Vmdk => Format::Vmdk,
            Content::VmdkDescriptor => return unfit("it is the description of a VMDK, without its content"),
            Content::Packed(_) => return unfit("it is packed twice"),
            Content::Other => Format::Raw,
        };
        Ok(Self { path: path.into(), packed, format, length })
    }
}

/// Takes the first bytes of a stream, and wants no more.
struct First(Vec<u8>);

impl Write for First {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let wanted = 64 - self.0.len().min(64);
        self.0.extend_from_slice(&data[..wanted.min(data.len())]);
        if self.0.len() == 64 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(data.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the first bytes of a packed file are, unpacked.
fn beginning(packed: Option<Compression>, head: &[u8]) -> io::Result<Vec<u8>> {
    let mut decoder = Decoder::with_workers(packed, First(Vec::new()), 1)?;
    match decoder.write_all(head) {
        // A short file ends here: whether it is whole is seen when it is sent.
        Ok(()) => Ok(std::mem::take(&mut decoder.inner_mut().0)),
        Err(_) if !decoder.inner_mut().0.is_empty() => Ok(std::mem::take(&mut decoder.inner_mut().0)),
        Err(e) => Err(e),
    }
}

/// What was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Length in bytes.
    pub size: u64,
    /// SHA-512, in hexadecimal digits.
    pub sha512: String,
    /// SHA-256, the same.
    pub sha256: String,
    /// MD5, the same: all that older services say.
    pub md5: String,
}

/// How far one try to send has come.
#[derive(Default)]
enum Fate {
    #[default]
    Unfinished,
    Read(Sent),
    Unreadable(io::Error),
}

/// Hashes what goes to the connection.
struct Hashing<'a> {
    pieces: &'a Pieces,
    hashers: [Hasher; 3],
    size: u64,
    progress: Progress,
    packed: bool,
}

impl Write for Hashing<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        for piece in data.chunks(PIECE) {
            for hasher in &mut self.hashers {
                hasher.update(piece)?;
            }
            self.pieces.send(piece.to_vec())?;
            self.size += piece.len() as u64;
            if !self.packed {
                self.progress.advance(piece.len() as u64);
            }
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a file to its end, unpacks it, and sends it. Blocks.
fn send(source: &Source, file: File, pieces: &Pieces) -> io::Result<Sent> {
    let hasher = |digest| Hasher::new(digest).map_err(io::Error::other);
    let name = source.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let mut progress = Progress::of_file(COMPONENT, &name);
    progress.answer(0, Some(source.length));
    let writer = Hashing {
        pieces,
        hashers: [
            hasher(MessageDigest::sha512())?,
            hasher(MessageDigest::sha256())?,
            hasher(MessageDigest::md5())?,
        ],
        size: 0,
        progress,
        packed: source.packed.is_some(),
    };
    let mut decoder = Decoder::new(source.packed, writer)?;
    let mut buffer = vec![0; PIECE];
    let mut file = file;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => {
                decoder.write_all(&buffer[..n])?;
                if source.packed.is_some() {
                    decoder.inner_mut().progress.advance(n as u64);
                }
            }
        }
    }
    let writer = decoder.finish()?;
    let [mut sha512, mut sha256, mut md5] = writer.hashers;
    let done = |hasher: &mut Hasher| hasher.finish().map(|d| hex(&d)).map_err(io::Error::other);
    let (sha512, sha256, md5) = (done(&mut sha512)?, done(&mut sha256)?, done(&mut md5)?);
    Ok(Sent { size: writer.size, sha512, sha256, md5 })
}

/// What an image is to be like.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Its name.
    pub name: &'a str,
    /// What the content is taken for.
    pub format: &'a str,
    /// Who may see it, if the service is not to choose.
    pub visibility: Option<&'a str>,
    /// Whether it is protected from deletion.
    pub protected: bool,
    /// What Nova and people can know of it.
    pub properties: &'a BTreeMap<String, String>,
}

/// Makes an image of a file: sends it, waits until it can be used, and compares it with what was sent. After a failure
/// no image is left.
///
/// # Errors
/// Any [`Failure`].
pub async fn create(
    api: &Api,
    source: &Source,
    wanted: &Wanted<'_>,
    cancel: &CancellationToken,
) -> Result<Image, Failure> {
    let id = uuid::Uuid::new_v4().to_string();
    let new = NewImage {
        id: &id,
        name: wanted.name,
        disk_format: wanted.format,
        tags: &[IMAGE_TAG],
        visibility: wanted.visibility,
        properties: wanted.properties,
    };
    let made = async {
        api.make_image(&new).await?;
        let image = fill(api, &id, source, cancel).await?;
        if wanted.protected {
            api.protect_image(&id).await?;
        }
        Ok::<_, Failure>(image)
    };
    let failure = match cancel.run_until_cancelled(made).await {
        Some(Ok(image)) => return Ok(image),
        Some(Err(failure)) => failure,
        None => Failure::Interrupted,
    };
    // Whatever came of the order: the id is ours.
    if let Err(e) = api.delete_image(&id).await {
        crate::error!(COMPONENT, "image {id} may be left: {}", chain(&e));
    }
    Err(failure)
}

/// Sends the content of an image and waits until it is there.
async fn fill(api: &Api, id: &str, source: &Source, cancel: &CancellationToken) -> Result<Image, Failure> {
    let fate = Arc::<Mutex<Fate>>::default();
    let (note, from) = (fate.clone(), source.clone());
    let at_most =
        if source.packed.is_some() { source.length.saturating_mul(UNPACKED) } else { source.length };
    let length = source.packed.is_none().then_some(source.length);
    let upload = Upload::new(length, at_most, move |pieces| {
        let done = crate::input::open(&from.path).and_then(|file| send(&from, file, &pieces));
        let broken = matches!(&done, Err(e) if e.kind() != io::ErrorKind::BrokenPipe);
        // Before the other end can know of it.
        *note.lock().unwrap_or_else(PoisonError::into_inner) = match done {
            Ok(sent) => Fate::Read(sent),
            // The other end has left: what it said is told.
            Err(_) if !broken => Fate::Unfinished,
            Err(e) => Fate::Unreadable(e),
        };
        if broken {
            pieces.fail();
        }
    });
    let uploaded = api.upload(id, upload).await;
    let fate = std::mem::take(&mut *fate.lock().unwrap_or_else(PoisonError::into_inner));
    let sent = match (uploaded, fate) {
        (_, Fate::Unreadable(e)) => return Err(Failure::File { path: source.path.clone(), source: e }),
        (Ok(()), Fate::Read(sent)) => sent,
        // The answer was lost: the image tells. While it is queued, nothing has arrived.
        (Err(e), Fate::Read(sent)) if e.is_doubtful() => {
            let there = api.image(id).await?;
            if there.is_none_or(|image| image.status == "queued") {
                return Err(e.into());
            }
            crate::warning!(COMPONENT, "{}; looking at what has arrived", chain(&e));
            sent
        }
        (Err(e), _) => return Err(e.into()),
        (Ok(()), Fate::Unfinished) => {
            return Err(CallError::answer("image images upload", "it came before all was sent").into());
        }
    };
    let image = active(api, id, cancel).await?;
    compare(&image, &sent)?;
    Ok(image)
}

/// Waits until an image can be used.
async fn active(api: &Api, id: &str, cancel: &CancellationToken) -> Result<Image, Failure> {
    let ask = || async {
        let Some(image) = api.image(id).await? else { return Ok(Answer::NotYet("not there".into())) };
        match image.status.as_str() {
            "active" => Ok(Answer::Ready(image)),
            "killed" | "deleted" | "pending_delete" => {
                Err(Failure::Killed { id: id.into(), status: image.status })
            }
            status => Ok(Answer::NotYet(status.to_owned())),
        }
    };
    match ACTIVE.until(format!("image {id} active"), cancel, ask).await {
        Ok(image) => Ok(image),
        Err(poll::Error::Failed(e)) => Err(e),
        Err(poll::Error::Cancelled) => Err(Failure::Interrupted),
        Err(late @ poll::Error::TimedOut { .. }) => Err(Failure::Late(late.to_string())),
    }
}

/// Compares what the service has with what was sent, by the best hash that it says.
fn compare(image: &Image, sent: &Sent) -> Result<(), Failure> {
    let differs = |what: &str, there: &str, sent: &str| {
        Err(Failure::Differs {
            id: image.id.clone(),
            what: what.into(),
            there: there.into(),
            sent: sent.into(),
        })
    };
    if let Some(size) = image.size
        && size != sent.size
    {
        return differs("length", &size.to_string(), &sent.size.to_string());
    }
    let (what, there, sent) = match image.os_hash_algo.as_deref() {
        Some("sha512") => ("SHA-512", &image.os_hash_value, &sent.sha512),
        Some("sha256") => ("SHA-256", &image.os_hash_value, &sent.sha256),
        _ => ("MD5", &image.checksum, &sent.md5),
    };
    match there {
        Some(there) if there.eq_ignore_ascii_case(sent) => Ok(()),
        Some(there) => differs(what, there, sent),
        None => {
            let id = &image.id;
            crate::warning!(
                COMPONENT,
                "the service says no hash of image {id}: only its length was compared"
            );
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_known_by_their_content_even_packed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let gzip = |bytes: &[u8]| {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(bytes).unwrap();
            packed.finish().unwrap()
        };
        let bzip2 = |bytes: &[u8]| {
            let mut packed = ::bzip2::write::BzEncoder::new(Vec::new(), ::bzip2::Compression::fast());
            packed.write_all(bytes).unwrap();
            packed.finish().unwrap()
        };
        let qcow = [b"QFI\xfb".as_slice(), &[0; 4096]].concat();
        let long = vec![7; 3 << 20];
        for (name, bytes, packed, format) in [
            ("a", qcow.clone(), None, Format::Qcow2),
            ("b", gzip(&qcow), Some(Compression::Gzip), Format::Qcow2),
            ("c", bzip2(&qcow), Some(Compression::Bzip2), Format::Qcow2),
            ("d", gzip(&long), Some(Compression::Gzip), Format::Raw),
            ("e", bzip2(b"KDMV...."), Some(Compression::Bzip2), Format::Vmdk),
            ("f", b"x".to_vec(), None, Format::Raw),
        ] {
            let source = Source::open(&at(name, &bytes)).unwrap();
            assert_eq!((source.packed, source.format), (packed, format), "{name}");
        }
        for (name, bytes, said) in [
            ("none", Vec::new(), "is no image: it is empty"),
            ("twice", gzip(&gzip(&qcow)), "is no image: it is packed twice"),
            ("text", b"# Disk DescriptorFile".to_vec(), "is no image: it is the description of a VMDK"),
            ("cut", vec![0x1f, 0x8b, 8, 0xff, 1, 2, 3, 4, 5, 6, 7], "cannot read"),
        ] {
            match Source::open(&at(name, &bytes)) {
                Err(e) => assert!(chain(&e).contains(said), "{name}: {}", chain(&e)),
                Ok(source) => assert!(name == "cut", "{source:?}"),
            }
        }
        assert!(Source::open(dir.path()).is_err());
    }

    #[test]
    fn images_are_compared_by_the_best_hash_there_is() {
        let sent = Sent { size: 3, sha512: "a5".into(), sha256: "a2".into(), md5: "a0".into() };
        let image = |algo: Option<&str>, value: Option<&str>, md5: Option<&str>, size| Image {
            os_hash_algo: algo.map(str::to_owned),
            os_hash_value: value.map(str::to_owned),
            checksum: md5.map(str::to_owned),
            size,
            ..Image::default()
        };
        for good in [
            image(Some("sha512"), Some("A5"), Some("no matter"), Some(3)),
            image(Some("sha256"), Some("a2"), None, None),
            image(Some("whirlpool"), Some("?"), Some("a0"), Some(3)),
            image(None, None, Some("a0"), Some(3)),
            image(None, None, None, Some(3)),
        ] {
            compare(&good, &sent).unwrap();
        }
        for (bad, said) in [
            (image(Some("sha512"), Some("a6"), Some("a0"), Some(3)), "SHA-512 a6, what was sent has a5"),
            (image(None, None, Some("a1"), Some(3)), "MD5 a1"),
            (image(Some("sha512"), Some("a5"), None, Some(4)), "length 4, what was sent has 3"),
        ] {
            let error = compare(&bad, &sent).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
