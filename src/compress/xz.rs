//! xz: streams after each other, with padding.

use std::io;

use liblzma::stream::{Action, CONCATENATED, Error, Status, Stream};

use super::pump::Codec;
use super::{damaged, truncated};

/// The header of a stream says how much memory it takes to decode.
const MEMORY: u64 = 128 << 20;

/// The decoder.
pub struct Xz {
    stream: Stream,
    complete: bool,
}

impl Xz {
    pub fn new() -> io::Result<Self> {
        let stream = Stream::new_stream_decoder(MEMORY, CONCATENATED).map_err(io::Error::other)?;
        Ok(Self { stream, complete: false })
    }

    fn process(
        &mut self,
        input: &[u8],
        output: &mut [u8],
        action: Action,
    ) -> io::Result<(usize, usize, Status)> {
        let before = (self.stream.total_in(), self.stream.total_out());
        let status = self.stream.process(input, output, action).map_err(|e| match e {
            Error::MemLimit => {
                damaged(format!("decompression would take more than {} MiB of memory", MEMORY >> 20))
            }
            Error::Mem => io::ErrorKind::OutOfMemory.into(),
            Error::Format => damaged("this is not xz, or garbage follows"),
            other => damaged(format!("damaged xz data: {other}")),
        })?;
        // Both are lengths of slices.
        let taken = (self.stream.total_in() - before.0) as usize;
        Ok((taken, (self.stream.total_out() - before.1) as usize, status))
    }
}

impl Codec for Xz {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<(usize, usize)> {
        let (taken, put, _) = self.process(input, output, Action::Run)?;
        Ok((taken, put))
    }

    fn finish(&mut self, output: &mut [u8]) -> io::Result<usize> {
        while !self.complete {
            let (_, put, status) = self.process(&[], output, Action::Finish)?;
            match status {
                Status::StreamEnd => self.complete = true,
                // The library says so only when asked a second time.
                Status::MemNeeded => return Err(truncated()),
                _ => {}
            }
            if put > 0 {
                return Ok(put);
            }
        }
        Ok(0)
    }

    fn is_complete(&self) -> bool {
        self.complete
    }
}
