//! Drives a decompressor of some library and passes on what it puts out.

use std::io::{self, Write};

use super::{damaged, truncated};

/// Pieces of output.
const PIECE: usize = 128 << 10;

/// A decompressor that is fed.
pub trait Codec {
    /// Takes some of the input and puts out some: how much of each.
    ///
    /// It must take or put out something while there is input.
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<(usize, usize)>;

    /// There is no more input: puts out some of what is left, zero at the end.
    fn finish(&mut self, _output: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }

    /// Whether what came so far may be all.
    fn is_complete(&self) -> bool;
}

/// A codec with its writer.
pub struct Pump<W> {
    codec: Box<dyn Codec + Send>,
    inner: W,
    buffer: Vec<u8>,
}

impl<W: Write> Pump<W> {
    pub fn new(codec: Box<dyn Codec + Send>, inner: W) -> Self {
        Self { codec, inner, buffer: vec![0; PIECE] }
    }

    pub fn inner_mut(&mut self) -> &mut W {
        &mut self.inner
    }

    pub fn push(&mut self, mut data: &[u8]) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        loop {
            let (taken, put) = self.codec.step(data, &mut self.buffer)?;
            self.inner.write_all(&self.buffer[..put])?;
            data = &data[taken..];
            if data.is_empty() && put < self.buffer.len() {
                return Ok(());
            }
            if (taken, put) == (0, 0) {
                return Err(damaged("the decompressor is stuck"));
            }
        }
    }

    pub fn finish(mut self) -> io::Result<W> {
        loop {
            match self.codec.finish(&mut self.buffer)? {
                0 if self.codec.is_complete() => return Ok(self.inner),
                0 => return Err(truncated()),
                put => self.inner.write_all(&self.buffer[..put])?,
            }
        }
    }
}
