//! The last sector of every VHD: what it is, how large the disk is.

use std::time::{Duration, SystemTime};

use super::{Error, Kind, Problem, Result, SECTOR};

/// Begins every footer.
pub const COOKIE: &[u8; 8] = b"conectix";
/// Times are counted in seconds from 2000-01-01 UTC; this is that day in seconds from 1970.
const EPOCH: u64 = 946_684_800;
/// What creates footers writes here: Azure's agents know this one as a disk whose size is what the footer says.
const CREATOR: &[u8; 4] = b"wa\0\0";
/// The data offset of fixed disks.
pub const NO_OFFSET: u64 = u64::MAX;

/// The largest cylinders, heads and sectors that there are: with these, programs which else compute a size from them (and
/// get a smaller one) go by the size that is written down.
const GEOMETRY_OF_ALL: [u8; 4] = [0xff, 0xff, 16, 255];

const FEATURES: usize = 8;
const VERSION: usize = 12;
const OFFSET: usize = 16;
const TIME: usize = 24;
const APP: usize = 28;
const APP_VERSION: usize = 32;
const HOST: usize = 36;
const ORIGINAL: usize = 40;
const CURRENT: usize = 48;
const GEOMETRY: usize = 56;
const TYPE: usize = 60;
const CHECKSUM: usize = 64;
const ID: usize = 68;

/// A footer. Its bytes stay as they were read; what of them mantle does not know stays, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer([u8; SECTOR as usize]);

impl Footer {
    /// Reads a footer. Its checksum is another matter, see [`Footer::is_sound`].
    ///
    /// # Errors
    /// [`Problem`]: no cookie, or a kind of disk that does not exist.
    pub fn read(bytes: &[u8; SECTOR as usize]) -> Result<Self, Problem> {
        let footer = Self(*bytes);
        if !bytes.starts_with(COOKIE) {
            return Err(Problem::NoFooter);
        }
        footer.kind()?;
        Ok(footer)
    }

    /// The footer of a fixed disk of so many bytes, made at this time.
    pub fn fixed(size: u64, time: SystemTime, id: [u8; 16]) -> Self {
        let mut footer = Self([0; SECTOR as usize]);
        footer.put(0, COOKIE);
        footer.put(FEATURES, &2u32.to_be_bytes()); // a bit that is always set
        footer.put(VERSION, &0x0001_0000u32.to_be_bytes());
        let since = time.duration_since(SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH));
        let seconds = since.map_or(0, |d| u32::try_from(d.as_secs()).unwrap_or(u32::MAX));
        footer.put(TIME, &seconds.to_be_bytes());
        footer.put(APP_VERSION, &0x0001_0000u32.to_be_bytes());
        footer.put(HOST, b"Wi2k");
        footer.put(GEOMETRY, &GEOMETRY_OF_ALL);
        footer.put(ID, &id);
        footer.to_fixed(size)
    }

    /// The same disk as a fixed one of so many bytes.
    pub fn to_fixed(&self, size: u64) -> Self {
        let mut footer = self.clone();
        footer.put(OFFSET, &NO_OFFSET.to_be_bytes());
        footer.put(APP, CREATOR);
        footer.put(ORIGINAL, &size.to_be_bytes());
        footer.put(CURRENT, &size.to_be_bytes());
        footer.put(TYPE, &Kind::Fixed.number().to_be_bytes());
        footer.put(CHECKSUM, &checksum(&footer.0, CHECKSUM).to_be_bytes());
        footer
    }

    /// The bytes as they are in the file.
    pub fn bytes(&self) -> &[u8; SECTOR as usize] {
        &self.0
    }

    /// What kind of disk it is.
    ///
    /// # Errors
    /// [`Problem::Kind`] for numbers that stand for none.
    pub fn kind(&self) -> Result<Kind, Problem> {
        match self.u32(TYPE) {
            2 => Ok(Kind::Fixed),
            3 => Ok(Kind::Dynamic),
            4 => Ok(Kind::Differencing),
            other => Err(Problem::Kind(other)),
        }
    }

    /// Size of the disk as its guests see it, in bytes.
    pub fn size(&self) -> u64 {
        self.u64(CURRENT)
    }

    /// Where the header of a dynamic disk is.
    pub fn offset(&self) -> u64 {
        self.u64(OFFSET)
    }

    /// Whether the checksum is right.
    pub fn is_sound(&self) -> bool {
        self.u32(CHECKSUM) == checksum(&self.0, CHECKSUM)
    }

    fn u32(&self, at: usize) -> u32 {
        u32_at(&self.0, at)
    }

    fn u64(&self, at: usize) -> u64 {
        u64_at(&self.0, at)
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// One's complement of the sum of all bytes but the checksum's own four.
pub fn checksum(bytes: &[u8], at: usize) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().fold(0u32, |sum, b| sum.wrapping_add(u32::from(*b)));
    !sum(&bytes[..at]).wrapping_add(sum(&bytes[at + 4..]))
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(four)
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}

impl Problem {
    /// With the file in which it is.
    pub fn at(self, path: &std::path::Path) -> Error {
        Error::Malformed { path: path.into(), problem: self }
    }
}
