//! Zstandard (RFC 8878): frames after each other, skippable ones among them.

use std::io;

use zstd::stream::raw::{DParameter, Decoder, Operation};

use super::damaged;
use super::pump::Codec;

/// Logarithm of the longest window.
const WINDOW_LOG: u32 = 27;

/// The decoder.
pub struct Zstd {
    decoder: Decoder<'static>,
    /// Whether a frame has just ended; none has at first.
    complete: bool,
}

impl Zstd {
    pub fn new() -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
        Ok(Self { decoder, complete: false })
    }
}

impl Codec for Zstd {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<(usize, usize)> {
        if input.is_empty() && self.complete {
            return Ok((0, 0)); // the library would take it for the start of a frame
        }
        let status = self.decoder.run_on_buffers(input, output).map_err(damaged)?;
        if status.bytes_read > 0 || status.bytes_written > 0 {
            self.complete = status.remaining == 0;
        }
        Ok((status.bytes_read, status.bytes_written))
    }

    fn is_complete(&self) -> bool {
        self.complete
    }
}
