//! gzip (RFC 1952): members after each other, perhaps zeros after the last.

use std::io;

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::damaged;
use super::pump::Codec;

/// A member's first bytes and its flags (RFC 1952, 2.3.1).
const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
const FHCRC: u8 = 2;
const FEXTRA: u8 = 4;
const FNAME: u8 = 8;
const FCOMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;

/// What the next byte belongs to.
enum State {
    /// Between members; `true` after the first.
    Between(bool),
    /// The fixed part of the header, with so many bytes of it seen.
    Fixed(u8),
    /// The length of the extra field, low byte first.
    ExtraLength(Option<u8>),
    /// So many bytes of the extra field are to come.
    Extra(u16),
    /// The name, then the comment, to their zero.
    Name,
    Comment,
    /// So many bytes of the header's checksum have been seen.
    HeaderCrc(Option<u8>),
    Body,
    /// CRC and length of the content, with so many bytes seen.
    Trailer(u8),
    /// Zeros after the last member.
    Padding,
}

/// The decoder.
pub struct Gzip {
    state: State,
    flags: u8,
    header_crc: Crc,
    inflate: Decompress,
    crc: Crc,
    trailer: u64,
}

impl Default for Gzip {
    fn default() -> Self {
        Self {
            state: State::Between(false),
            flags: 0,
            header_crc: Crc::new(),
            inflate: Decompress::new(false),
            crc: Crc::new(),
            trailer: 0,
        }
    }
}

impl Gzip {
    /// One byte outside of the body.
    fn byte(&mut self, byte: u8) -> io::Result<()> {
        if !matches!(self.state, State::Between(_) | State::HeaderCrc(_) | State::Trailer(_) | State::Padding)
        {
            self.header_crc.update(&[byte]);
        }
        self.state = match self.state {
            State::Between(true) | State::Padding if byte == 0 => State::Padding,
            State::Between(_) if byte == MAGIC[0] => {
                self.header_crc.reset();
                self.header_crc.update(&[byte]);
                State::Fixed(1)
            }
            State::Between(false) => return Err(damaged("this is not gzip")),
            State::Between(true) | State::Padding => return Err(damaged("garbage after the end")),
            State::Fixed(at) => {
                let is_magic = MAGIC.get(usize::from(at)).is_none_or(|b| *b == byte);
                if !is_magic {
                    return Err(damaged("this is not gzip"));
                }
                if at == 3 {
                    self.flags = byte;
                    if byte & RESERVED != 0 {
                        return Err(damaged("a gzip header with unknown flags"));
                    }
                }
                if at == 9 { self.after(FEXTRA) } else { State::Fixed(at + 1) }
            }
            State::ExtraLength(None) => State::ExtraLength(Some(byte)),
            State::ExtraLength(Some(low)) => match u16::from_le_bytes([low, byte]) {
                0 => self.after(FNAME),
                n => State::Extra(n),
            },
            State::Extra(1) => self.after(FNAME),
            State::Extra(n) => State::Extra(n - 1),
            State::Name if byte == 0 => self.after(FCOMMENT),
            State::Name => State::Name,
            State::Comment if byte == 0 => self.after(FHCRC),
            State::Comment => State::Comment,
            State::HeaderCrc(None) => State::HeaderCrc(Some(byte)),
            State::HeaderCrc(Some(low)) => {
                if self.header_crc.sum() & 0xffff != u32::from(u16::from_le_bytes([low, byte])) {
                    return Err(damaged("the gzip header differs from its checksum"));
                }
                self.body()
            }
            State::Body => State::Body, // never comes here
            State::Trailer(at) => {
                self.trailer |= u64::from(byte) << (8 * at);
                if at < 7 {
                    State::Trailer(at + 1)
                } else {
                    let right = u64::from(self.crc.sum()) | u64::from(self.crc.amount()) << 32;
                    if self.trailer != right {
                        return Err(damaged("the content differs from its checksum"));
                    }
                    State::Between(true)
                }
            }
        };
        Ok(())
    }

    /// The first part of the header that is there from this one on.
    fn after(&mut self, flag: u8) -> State {
        let there = |f| self.flags & f != 0;
        match flag {
            FEXTRA if there(FEXTRA) => State::ExtraLength(None),
            FEXTRA | FNAME if there(FNAME) => State::Name,
            FEXTRA | FNAME | FCOMMENT if there(FCOMMENT) => State::Comment,
            _ if there(FHCRC) => State::HeaderCrc(None),
            _ => self.body(),
        }
    }

    fn body(&mut self) -> State {
        self.inflate.reset(false);
        self.crc.reset();
        self.trailer = 0;
        State::Body
    }
}

impl Codec for Gzip {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<(usize, usize)> {
        let mut taken = 0;
        loop {
            while !matches!(self.state, State::Body) {
                let Some(byte) = input.get(taken) else { return Ok((taken, 0)) };
                self.byte(*byte)?;
                taken += 1;
            }
            let before = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(&input[taken..], output, FlushDecompress::None);
            let status = status.map_err(|_| damaged("damaged deflate data"))?;
            // Both are lengths of slices.
            taken += (self.inflate.total_in() - before.0) as usize;
            let put = (self.inflate.total_out() - before.1) as usize;
            self.crc.update(&output[..put]);
            if status == Status::StreamEnd {
                self.state = State::Trailer(0);
            }
            if put > 0 || status != Status::StreamEnd {
                return Ok((taken, put));
            }
        }
    }

    fn is_complete(&self) -> bool {
        matches!(self.state, State::Between(true) | State::Padding)
    }
}
