//! The one pass over the bytes: count, checksum, decode, verify, decompress, write; on a thread of its own.

use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::body::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::part::Locked;
use super::source::Head;
use super::{Check, Error};
use crate::compress::{Compression, Decoder};

/// Pieces that may wait for the disk; a piece is as long as what was read from the socket, at most 0.5 MiB. One would
/// do to keep both sides busy.
const QUEUE: usize = 2;
/// Pieces in which an existing part is read.
const PIECE: usize = 256 << 10;

/// Feeds a thread that works on one version of the content.
pub struct Writer {
    head: Head,
    position: u64,
    queue: mpsc::Sender<Item>,
    thread: JoinHandle<Result<Chain, Error>>,
    /// Ends the thread before its queue is empty, when this is dropped.
    _stop: DropGuard,
}

/// What the thread gets.
enum Item {
    /// The next bytes.
    New(Bytes),
    /// Bytes that are in the file already, from this place on.
    Again(Bytes, u64),
}

/// What the content turned out to be.
pub struct Finished {
    /// What the check says of it.
    pub verdict: Option<String>,
    /// Bytes in the file.
    pub written: u64,
}

/// What happens to the bytes on their way.
pub struct Plan {
    pub check: Option<Box<dyn Check>>,
    /// The same check once more, of content that comes encoded: it is asked about the other form of the bytes.
    pub other: Option<Box<dyn Check>>,
    pub decompress: Option<Compression>,
}

impl Writer {
    /// Starts with the first `position` bytes of the file, which are there from an earlier download.
    pub async fn start(
        file: Arc<Locked>,
        what: &str,
        path: &Path,
        head: Head,
        plan: Plan,
        position: u64,
    ) -> Result<Self, Error> {
        let (queue, mut pieces) = mpsc::channel::<Item>(QUEUE);
        let stop = CancellationToken::new();
        let mut chain = Chain::new(file, what, path, &head, plan, stop.clone())?;
        let _stop = stop.clone().drop_guard();
        let chain = tokio::task::spawn_blocking(move || chain.replay(position).map(|()| chain));
        let mut chain = chain.await.map_err(Error::thread)??;
        let thread = tokio::task::spawn_blocking(move || {
            while let Some(piece) = pieces.blocking_recv() {
                if stop.is_cancelled() {
                    return Err(Error::Interrupted);
                }
                match piece {
                    Item::New(piece) => chain.accept(&piece)?,
                    Item::Again(piece, at) => chain.compare(&piece, at)?,
                }
            }
            Ok(chain)
        });
        Ok(Self { head, position, queue, thread, _stop })
    }

    /// Bytes taken so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// What was known before the first byte.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Takes the next bytes, as soon as there is room for them.
    pub async fn push(&mut self, piece: Bytes) -> Result<(), Error> {
        let length = piece.len() as u64;
        self.send(Item::New(piece)).await?;
        self.position += length;
        Ok(())
    }

    /// Takes bytes that came before, as they are in the file from `at` on: they must be the same. The file must hold
    /// what is sent, unchanged.
    ///
    /// [`Error::Differs`] may come with a later call only.
    pub async fn again(&mut self, piece: Bytes, at: u64) -> Result<(), Error> {
        self.send(Item::Again(piece, at)).await
    }

    async fn send(&mut self, item: Item) -> Result<(), Error> {
        if self.queue.send(item).await.is_err() {
            // The thread ends before the queue only with an error.
            let ended = (&mut self.thread).await.map_err(Error::thread)?;
            return Err(ended.err().unwrap_or_else(|| Error::thread("the writer stopped")));
        }
        Ok(())
    }

    /// Waits until all is written and checked. Not safe from a crash yet.
    pub async fn finish(self) -> Result<Finished, Error> {
        let Self { head, queue, thread, _stop, .. } = self;
        drop(queue);
        let chain = thread.await.map_err(Error::thread)??;
        let finish = move || chain.finish(&head);
        tokio::task::spawn_blocking(finish).await.map_err(Error::thread)?
    }

    /// Lets the thread end, so that nobody but the caller touches the file.
    pub async fn abandon(self) {
        let Self { queue, thread, _stop: stop, .. } = self;
        drop((queue, stop));
        let _ = thread.await; // whatever it found is of no interest any more
    }
}

/// The stages, outermost first: checksum of what is sent, its decoding, the check, decompression, the file.
struct Chain {
    /// The source, for messages.
    what: String,
    crc32c: Option<u32>,
    /// The encoding, for messages, and the check of the form that the content is not taken in.
    other: Option<(String, Other)>,
    sent: Decoder<Checked>,
}

/// The other form of encoded content.
enum Other {
    /// As it is sent; what is taken is decoded.
    Sent(Box<dyn Check>),
    /// Decoded; what is taken is as it is sent. `None` when it cannot be decoded.
    Decoded(Option<Decoder<Judged>>),
}

impl Other {
    fn new(check: Box<dyn Check>, head: &Head) -> Option<Self> {
        if head.coding().is_some() {
            return Some(Self::Sent(check));
        }
        let coding = match head.coding.as_deref()?.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Compression::Gzip,
            "zstd" => Compression::Zstd,
            _ => return None,
        };
        Some(Self::Decoded(Decoder::new(Some(coding), Judged(check)).ok()))
    }

    fn update(&mut self, data: &[u8]) {
        match self {
            Self::Sent(check) => check.update(data),
            Self::Decoded(Some(decoder)) => {
                // It may well be no such thing; then nobody signed what is in it.
                if decoder.write_all(data).is_err() {
                    *self = Self::Decoded(None);
                }
            }
            Self::Decoded(None) => {}
        }
    }

    /// Which bytes were signed, if it was this form.
    fn finish(self) -> Option<&'static str> {
        match self {
            Self::Sent(check) => {
                check.finish().ok().map(|_| "the bytes as they are sent, not over the decoded ones")
            }
            Self::Decoded(decoder) => {
                let check = decoder?.finish().ok()?.0;
                check.finish().ok().map(|_| "the decoded bytes, not over those that are sent")
            }
        }
    }
}

struct Checked {
    check: Option<Box<dyn Check>>,
    content: Decoder<Output>,
}

/// Passes bytes to a check.
struct Judged(Box<dyn Check>);

impl Write for Judged {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.update(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Checked {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if let Some(check) = &mut self.check {
            check.update(data);
        }
        self.content.write_all(data)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Output {
    file: Arc<Locked>,
    path: PathBuf,
    at: u64,
    dry: bool,
    stop: CancellationToken,
}

/// Marks failures of the file, and its end by the owner, among those of the decoders.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct FileTrouble(io::Error);

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        // A few bytes may hold gigabytes.
        if self.stop.is_cancelled() {
            return Err(io::Error::other(FileTrouble(io::ErrorKind::Interrupted.into())));
        }
        if !self.dry {
            self.file.write_all_at(data, self.at).map_err(|e| io::Error::other(FileTrouble(e)))?;
        }
        self.at += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Chain {
    fn new(
        file: Arc<Locked>,
        what: &str,
        path: &Path,
        head: &Head,
        plan: Plan,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        let output = Output { file, path: path.to_owned(), at: 0, dry: false, stop };
        let corrupt = |source| Error::Corrupt { what: what.to_owned(), source };
        let content = Decoder::new(plan.decompress, output).map_err(corrupt)?;
        let sent = Decoder::new(head.coding(), Checked { check: plan.check, content }).map_err(corrupt)?;
        let coding = head.coding.clone().unwrap_or_else(|| "gzip".into());
        let other = plan.other.and_then(|check| Other::new(check, head)).map(|other| (coding, other));
        Ok(Self { what: what.to_owned(), crc32c: head.crc32c.map(|_| 0), other, sent })
    }

    fn output(&mut self) -> &mut Output {
        self.sent.inner_mut().content.inner_mut()
    }

    /// Runs the first bytes of the file through all stages but the writing.
    fn replay(&mut self, length: u64) -> Result<(), Error> {
        let (file, path) = (self.output().file.clone(), self.output().path.clone());
        self.output().dry = true;
        let mut buffer = vec![0; PIECE.min(usize::try_from(length).unwrap_or(PIECE))];
        let mut at = 0;
        while at < length {
            let n = usize::try_from(length - at).unwrap_or(PIECE).min(buffer.len());
            file.read_exact_at(&mut buffer[..n], at).map_err(|e| Error::read(&path, e))?;
            self.accept(&buffer[..n])?;
            at += n as u64;
        }
        self.output().dry = false;
        Ok(())
    }

    /// Compares bytes with those that are in the file.
    fn compare(&mut self, data: &[u8], at: u64) -> Result<(), Error> {
        let (file, path) = (self.output().file.clone(), self.output().path.clone());
        let mut old = vec![0; data.len()];
        file.read_exact_at(&mut old, at).map_err(|e| Error::read(&path, e))?;
        if old == data { Ok(()) } else { Err(Error::Differs { what: self.what.clone() }) }
    }

    fn accept(&mut self, data: &[u8]) -> Result<(), Error> {
        if let Some((_, other)) = &mut self.other {
            other.update(data);
        }
        if let Some(crc) = &mut self.crc32c {
            *crc = crc32c::crc32c_append(*crc, data);
        }
        let result = self.sent.write_all(data);
        result.map_err(|e| sort(e, &self.what.clone(), &self.output().path))
    }

    fn finish(mut self, head: &Head) -> Result<Finished, Error> {
        let path = self.output().path.clone();
        let Self { what, crc32c, other, sent } = self;
        if crc32c != head.crc32c {
            return Err(Error::Checksum { what });
        }
        let checked = sent.finish().map_err(|e| sort(e, &what, &path))?;
        // The verdict comes first: of data nobody vouches for, it does not matter whether it can be unpacked.
        let verdict = match checked.check {
            Some(check) => {
                let signed = |(coding, other): (String, Other)| Some((coding, other.finish()?));
                match (check.finish(), other) {
                    (Ok(verdict), _) => Some(verdict),
                    (Err(source), other) => {
                        return Err(match other.and_then(signed) {
                            Some((coding, signed)) => Error::Encoded { what, coding, signed, source },
                            None => Error::Rejected { what, source },
                        });
                    }
                }
            }
            None => None,
        };
        let output = checked.content.finish().map_err(|e| sort(e, &what, &path))?;
        // An earlier part may have been longer.
        output.file.set_len(output.at).map_err(|e| Error::write(&path, e))?;
        Ok(Finished { verdict, written: output.at })
    }
}

/// Tells failures of the file from those of decoders, which mean that the data is damaged.
fn sort(error: io::Error, what: &str, path: &Path) -> Error {
    match error.downcast::<FileTrouble>() {
        Ok(FileTrouble(e)) => Error::write(path, e),
        Err(source) => Error::Corrupt { what: what.to_owned(), source },
    }
}
