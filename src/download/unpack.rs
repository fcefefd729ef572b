//! Streaming decompression.

use std::io::{self, Write};

use flate2::write::MultiGzDecoder;

/// A format that can be decompressed while it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// `.gz` (RFC 1952), any number of members.
    Gzip,
}

/// Writes what comes in decompressed, or as it is.
pub enum Unpack<W: Write> {
    None(W),
    Gzip(Box<MultiGzDecoder<W>>),
}

impl<W: Write> Unpack<W> {
    pub fn new(compression: Option<Compression>, inner: W) -> io::Result<Self> {
        Ok(match compression {
            None => Self::None(inner),
            Some(Compression::Gzip) => Self::Gzip(Box::new(MultiGzDecoder::new(inner))),
        })
    }

    pub fn inner_mut(&mut self) -> &mut W {
        match self {
            Self::None(inner) => inner,
            Self::Gzip(decoder) => decoder.get_mut(),
        }
    }

    /// Ends the stream; an error if it is not complete.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::None(inner) => Ok(inner),
            Self::Gzip(decoder) => decoder.finish(),
        }
    }
}

impl<W: Write> Write for Unpack<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(inner) => inner.write(data),
            Self::Gzip(decoder) => decoder.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
