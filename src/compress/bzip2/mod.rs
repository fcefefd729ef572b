//! bzip2: streams of blocks, which can be decompressed each for itself, after each other.

mod block;
mod marks;
mod pipeline;

use std::io;

use bzip2::{Decompress, Status};

use super::damaged;
use super::pump::Codec;

pub use pipeline::Pipeline;

/// The decoder for one thread.
#[derive(Default)]
pub struct Bzip2 {
    /// The stream that is being worked on.
    stream: Option<Decompress>,
    /// Whether one has ended.
    seen: bool,
}

impl Codec for Bzip2 {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<(usize, usize)> {
        if input.is_empty() && self.stream.is_none() {
            return Ok((0, 0));
        }
        let stream = self.stream.get_or_insert_with(|| Decompress::new(false));
        let before = (stream.total_in(), stream.total_out());
        let status = stream.decompress(input, output);
        // Both are lengths of slices.
        let taken = (stream.total_in() - before.0) as usize;
        let put = (stream.total_out() - before.1) as usize;
        match status {
            Ok(Status::StreamEnd) => {
                self.stream = None;
                self.seen = true;
            }
            Ok(Status::MemNeeded) => return Err(io::ErrorKind::OutOfMemory.into()),
            Ok(_) => {}
            Err(bzip2::Error::DataMagic) if self.seen => return Err(damaged("garbage after the end")),
            Err(bzip2::Error::DataMagic) => return Err(damaged("this is not bzip2")),
            Err(_) => return Err(damaged("damaged bzip2 data")),
        }
        Ok((taken, put))
    }

    fn is_complete(&self) -> bool {
        self.seen && self.stream.is_none()
    }
}
