//! Where the blocks of a dynamic disk are in its file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use super::footer::{NO_OFFSET, checksum, u32_at, u64_at};
use super::{Footer, Problem, SECTOR};

/// Begins the header of dynamic disks.
const COOKIE: &[u8; 8] = b"cxsparse";
const HEADER: u64 = 1024;
const TABLE_OFFSET: usize = 16;
const ENTRIES: usize = 28;
const BLOCK: usize = 32;
const CHECKSUM: usize = 36;
/// An entry of the table for a block that was never written to.
const ABSENT: u32 = u32::MAX;
/// More entries are not believed: 4 TiB in the smallest blocks that anybody makes, 512 KiB.
const MAX_ENTRIES: u64 = 1 << 23;

/// The block allocation table.
#[derive(Debug)]
pub struct Table {
    /// The sector at which a block begins with its bitmap, or [`ABSENT`].
    entries: Vec<u32>,
    /// Length of a block's data, in bytes.
    block: u64,
    /// Length of a block's bitmap, in bytes.
    bitmap: u64,
}

impl Table {
    /// Reads header and table of the disk with this footer, in a file of this length.
    ///
    /// # Errors
    /// What the file system says; [`Problem`] for what is not as it should be.
    pub fn read(file: &File, footer: &Footer, length: u64) -> io::Result<Result<Self, Problem>> {
        let inside = |at: u64, size: u64| at.checked_add(size).is_some_and(|end| end <= length);
        let at = footer.offset();
        if at == NO_OFFSET || !inside(at, HEADER) {
            return Ok(Err(Problem::Header("is missing")));
        }
        let mut header = [0; HEADER as usize];
        file.read_exact_at(&mut header, at)?;
        if !header.starts_with(COOKIE) {
            return Ok(Err(Problem::Header("is missing")));
        }
        if u32_at(&header, CHECKSUM) != checksum(&header, CHECKSUM) {
            return Ok(Err(Problem::Header("has a wrong checksum")));
        }
        let block = u64::from(u32_at(&header, BLOCK));
        if !block.is_power_of_two() || block < SECTOR {
            return Ok(Err(Problem::Header("names an impossible size of blocks")));
        }
        let needed = footer.size().div_ceil(block);
        if needed > u64::from(u32_at(&header, ENTRIES)) {
            return Ok(Err(Problem::Table("is too short for the disk")));
        }
        let offset = u64_at(&header, TABLE_OFFSET);
        if needed > MAX_ENTRIES || !inside(offset, needed * 4) {
            return Ok(Err(Problem::Table("does not fit into the file")));
        }
        let mut bytes = vec![0; usize::try_from(needed * 4).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, offset)?;
        let entries: Vec<u32> = bytes.chunks_exact(4).map(|entry| u32_at(entry, 0)).collect();
        let bitmap = (block / SECTOR).div_ceil(8).next_multiple_of(SECTOR);
        let table = Self { entries, block, bitmap };
        let mut present = (0..).zip(&table.entries).filter(|(_, entry)| **entry != ABSENT);
        // The last block may end with the disk.
        let fits = |(index, entry): (u64, &u32)| {
            let needed = block.min(footer.size() - index * block);
            inside(table.data(*entry), needed)
        };
        match present.all(fits) {
            true => Ok(Ok(table)),
            false => Ok(Err(Problem::Table("leads out of the file"))),
        }
    }

    /// Where the data of a block is that begins at this sector.
    fn data(&self, entry: u32) -> u64 {
        u64::from(entry) * SECTOR + self.bitmap
    }

    fn index(&self, at: u64) -> usize {
        usize::try_from(at / self.block).unwrap_or(usize::MAX)
    }

    /// The first blocks in a row, from this byte of the disk on, that are there.
    pub fn next_data(&self, from: u64, size: u64) -> Option<Range<u64>> {
        let blocks = self.entries.get(self.index(from)..)?;
        let first = self.index(from) + blocks.iter().position(|entry| *entry != ABSENT)?;
        let rest = &self.entries[first..];
        let many = rest.iter().position(|entry| *entry == ABSENT).unwrap_or(rest.len());
        let start = (first as u64 * self.block).max(from);
        let end = ((first + many) as u64 * self.block).min(size);
        (start < end).then_some(start..end)
    }

    /// Reads the disk's content from `at` on.
    ///
    /// # Errors
    /// What the file system says.
    pub fn read_at(&self, file: &File, mut at: u64, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let inside = at % self.block;
            let left = usize::try_from(self.block - inside).unwrap_or(usize::MAX).min(bytes.len());
            let (piece, rest) = bytes.split_at_mut(left);
            match self.entries.get(self.index(at)) {
                Some(&entry) if entry != ABSENT => file.read_exact_at(piece, self.data(entry) + inside)?,
                _ => piece.fill(0),
            }
            (at, bytes) = (at + left as u64, rest);
        }
        Ok(())
    }
}
