//! One block: its bits, and its decompression as a stream of its own.

use std::io;

use bzip2::{Decompress, Status};

use super::marks::{BITS, Mark};

/// Pieces of output.
pub const PIECE: usize = 128 << 10;

/// Bits in a row, which begin within a byte.
#[derive(Clone, Debug, Default)]
pub struct Bits {
    pub bytes: Vec<u8>,
    /// Bits of the first byte that come before them; less than 8.
    pub skip: u8,
    pub length: u64,
}

impl Bits {
    /// Adds those that follow.
    pub fn join(&mut self, next: &Self) {
        // The byte in which one ends and the other begins is in both.
        let whole = (u64::from(self.skip) + self.length) / 8;
        self.bytes.truncate(usize::try_from(whole).unwrap_or(usize::MAX));
        self.bytes.extend_from_slice(&next.bytes);
        self.length += next.length;
    }

    /// The 32 bits at a place, if they are there.
    pub fn word(&self, at: u64) -> Option<u32> {
        if at.checked_add(32)? > self.length {
            return None;
        }
        let at = at + u64::from(self.skip);
        let first = usize::try_from(at / 8).ok()?;
        let wide = (0..5).fold(0, |w, i| w << 8 | u64::from(self.bytes.get(first + i).copied().unwrap_or(0)));
        Some((wide >> (8 - at % 8)) as u32)
    }

    /// Whole bytes of a stream's header and these bits; what is missing in the last is zero.
    fn with_header(&self, level: u8) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len() + 16);
        out.extend_from_slice(b"BZh");
        out.push(b'0' + level);
        let bytes = usize::try_from(self.length.div_ceil(8)).unwrap_or(usize::MAX);
        if self.skip == 0 {
            out.extend_from_slice(&self.bytes[..bytes]);
        } else {
            let next = self.bytes[1..].iter().copied().chain([0]);
            out.extend(
                self.bytes.iter().zip(next).take(bytes).map(|(a, b)| a << self.skip | b >> (8 - self.skip)),
            );
        }
        out
    }
}

/// What became of a block.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All of it is put out and right; what follows is next.
    Done,
    /// It goes on beyond its bits: the mark at their end is none, but happens to be within the block. Nothing is put
    /// out yet.
    Longer,
    /// It is wrong.
    Damaged,
    /// The data end within it.
    Truncated,
    /// There is no memory for it.
    NoMemory,
}

/// Decompresses a block that begins with its mark and ends before `next`, or with the data.
///
/// The library sees nothing but what is truly in the data, so that it judges as if it read the stream as a whole.
///
/// # Errors
/// Those of `put`.
pub fn decompress<E>(
    bits: &Bits,
    next: Option<Mark>,
    level: u8,
    mut put: impl FnMut(Vec<u8>) -> Result<(), E>,
) -> Result<Verdict, E> {
    let mut stream = bits.with_header(level);
    // Bits in the last byte that are none of the block's.
    let spare = (8 - bits.length % 8) % 8;
    let Some(next) = next else {
        if spare > 0 {
            stream.pop();
        }
        let mut feed = Feed::new();
        return Ok(match feed.take(&stream, &mut put)? {
            Progress::Fine => Verdict::Truncated,
            Progress::Damaged => Verdict::Damaged,
            Progress::NoMemory => Verdict::NoMemory,
        });
    };
    let within = stream.len();
    // The next mark, whose first bits go into the spare ones.
    let wide = next.bits() << (64 - BITS);
    if let (Some(last), true) = (stream.last_mut(), spare > 0) {
        *last = (*last >> spare << spare) | (wide >> (64 - spare)) as u8;
    }
    stream.extend_from_slice(&(wide << spare).to_be_bytes()[..6]);
    let mut feed = Feed::new();
    // The library may read ahead within what it is given: hence in two steps.
    match feed.take(&stream[..within], &mut put)? {
        Progress::Fine if feed.library.total_out() == 0 => return Ok(Verdict::Longer),
        Progress::Fine => {}
        Progress::Damaged => return Ok(Verdict::Damaged),
        Progress::NoMemory => return Ok(Verdict::NoMemory),
    }
    // It compares the checksum before it looks at the next mark.
    Ok(match feed.take(&stream[within..], &mut put)? {
        Progress::Fine => Verdict::Done,
        Progress::Damaged => Verdict::Damaged,
        Progress::NoMemory => Verdict::NoMemory,
    })
}

enum Progress {
    Fine,
    Damaged,
    NoMemory,
}

struct Feed {
    library: Decompress,
}

impl Feed {
    fn new() -> Self {
        Self { library: Decompress::new(false) }
    }

    /// Takes all of the input and puts out all there is.
    fn take<E>(
        &mut self,
        mut input: &[u8],
        put: &mut impl FnMut(Vec<u8>) -> Result<(), E>,
    ) -> Result<Progress, E> {
        loop {
            let before = self.library.total_in();
            let mut piece = Vec::with_capacity(PIECE);
            let status = self.library.decompress_vec(input, &mut piece);
            input = &input[(self.library.total_in() - before) as usize..]; // the length of a slice
            let (is_full, is_empty) = (piece.len() == piece.capacity(), piece.is_empty());
            if !is_empty {
                put(piece)?;
            }
            match status {
                Ok(Status::MemNeeded) => return Ok(Progress::NoMemory),
                Ok(Status::Ok) if input.is_empty() && !is_full => return Ok(Progress::Fine),
                Ok(Status::Ok) => {}
                // There is no end of a stream in what the library is given.
                Ok(_) | Err(_) => return Ok(Progress::Damaged),
            }
        }
    }
}

/// A verdict as an error; `None` if it is none.
pub fn error(verdict: &Verdict) -> Option<io::Error> {
    match verdict {
        Verdict::Done => None,
        Verdict::Truncated => Some(super::super::truncated()),
        Verdict::Damaged | Verdict::Longer => Some(super::damaged("damaged bzip2 data")),
        Verdict::NoMemory => Some(io::ErrorKind::OutOfMemory.into()),
    }
}
