//! Decompression of streams: bytes go in as they come, in pieces of any length, and what they hold goes to a writer.
//!
//! All formats are held to the same rules. Several members, streams or frames after each other are one content. What
//! ends early, does not fit its own checksums, or is followed by anything else is an error; nothing at all counts as
//! ended early, because each format has a header. Zeros after gzip and xz are padding and ignored, as both allow.
//! Memory is bounded whatever the data demand.
//!
//! Errors are [`io::Error`]s: [`io::ErrorKind::UnexpectedEof`] for data that end early, [`io::ErrorKind::InvalidData`]
//! for damaged ones; those of the writer are passed on as they are.

mod bzip2;
mod gzip;
mod pump;
#[cfg(test)]
mod tests;
mod xz;
mod zstd;

use std::io::{self, Write};
use std::num::NonZero;

use pump::Pump;

/// A format that can be decompressed while it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// `.gz` (RFC 1952).
    Gzip,
    /// `.bz2`.
    Bzip2,
    /// `.xz`; up to 128 MiB of memory, twice what `xz -9` asks for.
    Xz,
    /// `.zst` (RFC 8878); windows of up to 128 MiB, the limit of the `zstd` program.
    Zstd,
}

impl Compression {
    /// All of them with their suffixes.
    const ALL: [(&str, Self); 4] =
        [(".gz", Self::Gzip), (".bz2", Self::Bzip2), (".xz", Self::Xz), (".zst", Self::Zstd)];

    /// What the suffix of a file's name promises, and the name without it.
    ///
    /// Only a promise: Container Linux' `_update.gz`, for one, is not gzip.
    pub fn of_name(name: &str) -> Option<(Self, &str)> {
        Self::ALL.into_iter().find_map(|(suffix, compression)| {
            let rest = name.strip_suffix(suffix)?;
            (!rest.is_empty() && !rest.ends_with('/')).then_some((compression, rest))
        })
    }

    /// What a content that begins so is compressed with; eight bytes are enough to tell.
    pub fn of_content(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, 8, ..] => Some(Self::Gzip),
            // The level, then the mark of a block or of the end.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..]
            | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, ..] => Some(Self::Bzip2),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            // A frame, or one to skip.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The name of the program that makes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }
}

/// Worker threads of one stream at most; each takes up to 10 MiB.
const MAX_WORKERS: usize = 16;

/// Writes what comes in decompressed, or as it is.
///
/// A stream of bzip2 is worked on by as many threads as there are processors; they end with the decoder, however it
/// ends.
pub struct Decoder<W: Write>(Inner<W>);

enum Inner<W: Write> {
    Plain(W),
    Streamed(Box<Pump<W>>),
    Parallel(Box<bzip2::Pipeline<W>>),
}

impl<W: Write> Decoder<W> {
    /// A decoder; without a format the bytes go on as they are.
    ///
    /// # Errors
    /// When a library cannot be set up.
    pub fn new(compression: Option<Compression>, inner: W) -> io::Result<Self> {
        let workers = std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_WORKERS);
        Self::with_workers(compression, inner, workers)
    }

    /// A decoder with at most so many worker threads; with one, or for a format that cannot use them, none at all: the
    /// work is done by whoever writes.
    ///
    /// # Errors
    /// When a library cannot be set up.
    pub fn with_workers(compression: Option<Compression>, inner: W, workers: usize) -> io::Result<Self> {
        let codec: Box<dyn pump::Codec + Send> = match compression {
            None => return Ok(Self(Inner::Plain(inner))),
            Some(Compression::Bzip2) if workers > 1 => {
                return Ok(Self(Inner::Parallel(Box::new(bzip2::Pipeline::new(inner, workers)))));
            }
            Some(Compression::Bzip2) => Box::new(bzip2::Bzip2::default()),
            Some(Compression::Gzip) => Box::new(gzip::Gzip::default()),
            Some(Compression::Xz) => Box::new(xz::Xz::new()?),
            Some(Compression::Zstd) => Box::new(zstd::Zstd::new()?),
        };
        Ok(Self(Inner::Streamed(Box::new(Pump::new(codec, inner)))))
    }

    /// Where the content goes.
    pub fn inner_mut(&mut self) -> &mut W {
        match &mut self.0 {
            Inner::Plain(inner) => inner,
            Inner::Streamed(pump) => pump.inner_mut(),
            Inner::Parallel(pipeline) => pipeline.inner_mut(),
        }
    }

    /// Ends the stream, and returns where the content went.
    ///
    /// # Errors
    /// If it is not complete, or not right, or cannot be written.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Inner::Plain(inner) => Ok(inner),
            Inner::Streamed(pump) => pump.finish(),
            Inner::Parallel(pipeline) => pipeline.finish(),
        }
    }
}

/// Takes all of what it is given, or fails.
impl<W: Write> Write for Decoder<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Plain(inner) => inner.write_all(data)?,
            Inner::Streamed(pump) => pump.push(data)?,
            Inner::Parallel(pipeline) => pipeline.push(data)?,
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The data are not what they should be.
fn damaged(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

/// The data end before the content does.
fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the compressed data end early")
}
