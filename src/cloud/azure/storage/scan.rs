//! One pass over a disk: where it is anything but zeros, and the checksums.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use openssl::hash::{Hasher, MessageDigest};
use tokio_util::sync::CancellationToken;

use super::extents::Extents;
use crate::disk::sparse::{is_zero, next_data};
use crate::disk::vhd::{Disk, SECTOR};

/// Zeros are looked for in blocks of this length, in bytes: that of most file systems.
const BLOCK: u64 = 4 << 10;
/// A shorter run of zeros is sent: a call of its own for what is behind it would take longer.
const BRIDGE: u64 = 16 << 10;
/// So much is read at once, in bytes.
const PIECE: u64 = 1 << 20;

/// What has to be sent of a disk, and what it must be then.
#[derive(Debug, PartialEq, Eq)]
pub struct Scan {
    /// Where the disk is not zeros; the footer apart.
    pub data: Extents,
    /// MD5 of the stream: disk and footer.
    pub stream_md5: Vec<u8>,
    /// MD5 of the file as it lies here.
    pub file_md5: Vec<u8>,
}

/// MD5, told how far it is.
struct Sum<'a> {
    hasher: Hasher,
    done: u64,
    report: &'a mut (dyn FnMut(u64) + Send),
    cancel: &'a CancellationToken,
}

impl Sum<'_> {
    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other(crate::error::Stop::Interrupted));
        }
        self.hasher.update(bytes)?;
        self.done += bytes.len() as u64;
        (self.report)(self.done);
        Ok(())
    }

    fn zeros(&mut self, mut count: u64, zeros: &[u8]) -> io::Result<()> {
        while count > 0 {
            let some = cut(zeros, count);
            self.add(some)?;
            count -= some.len() as u64;
        }
        Ok(())
    }
}

fn cut(bytes: &[u8], count: u64) -> &[u8] {
    &bytes[..usize::try_from(count).unwrap_or(usize::MAX).min(bytes.len())]
}

/// Looks through a disk whose file has `length` bytes. Holes are not read. `report` is told how many bytes of the stream
/// have been looked at.
///
/// # Errors
/// What the file system says; [`crate::error::Stop`] when cancelled.
pub fn scan(
    disk: &Disk,
    length: u64,
    cancel: &CancellationToken,
    report: &mut (dyn FnMut(u64) + Send),
) -> io::Result<Scan> {
    let zeros = vec![0; usize::try_from(PIECE).map_err(io::Error::other)?];
    let mut buffer = zeros.clone();
    let mut data = Extents::default();
    let mut sum = Sum { hasher: Hasher::new(MessageDigest::md5())?, done: 0, report, cancel };
    let (size, mut at) = (disk.size(), 0);
    while let Some(range) = disk.next_data(at)? {
        let start = (range.start / BLOCK * BLOCK).max(at);
        let end = range.end.next_multiple_of(BLOCK).min(size);
        sum.zeros(start - at, &zeros)?;
        at = start;
        while at < end {
            let some = usize::try_from(PIECE.min(end - at)).map_err(io::Error::other)?;
            let piece = &mut buffer[..some];
            disk.read_at(at, piece)?;
            sum.add(piece)?;
            for (block, from) in piece.chunks(BLOCK as usize).zip((at..).step_by(BLOCK as usize)) {
                if !is_zero(block) {
                    data.push(from..from + block.len() as u64, BRIDGE);
                }
            }
            at += some as u64;
        }
    }
    sum.zeros(size - at, &zeros)?;
    let footer = disk.stream_footer().bytes();
    // A fixed disk is, but for its footer, the stream itself.
    let file_md5 = if disk.is_plain() && disk.is_raw() && length == size {
        Some(sum.hasher.clone().finish()?)
    } else if disk.is_plain() && !disk.is_raw() && length == size + SECTOR {
        let mut own = [0; SECTOR as usize];
        disk.file().read_exact_at(&mut own, size)?;
        let mut hasher = sum.hasher.clone();
        hasher.update(&own)?;
        Some(hasher.finish()?)
    } else {
        None
    };
    sum.hasher.update(footer)?;
    let stream_md5 = sum.hasher.finish()?.to_vec();
    let file_md5 = match file_md5 {
        Some(md5) => md5.to_vec(),
        None => md5_of(disk.file(), length, &zeros, cancel)?,
    };
    Ok(Scan { data, stream_md5, file_md5 })
}

/// MD5 of a whole file.
fn md5_of(file: &File, length: u64, zeros: &[u8], cancel: &CancellationToken) -> io::Result<Vec<u8>> {
    let mut buffer = zeros.to_vec();
    let mut sum = Sum { hasher: Hasher::new(MessageDigest::md5())?, done: 0, report: &mut |_| {}, cancel };
    let mut at = 0;
    while let Some(range) = next_data(file, at, length)? {
        sum.zeros(range.start - at, zeros)?;
        at = range.start;
        while at < range.end {
            let some = usize::try_from(PIECE.min(range.end - at)).map_err(io::Error::other)?;
            file.read_exact_at(&mut buffer[..some], at)?;
            sum.add(&buffer[..some])?;
            at += some as u64;
        }
    }
    sum.zeros(length - at, zeros)?;
    Ok(sum.hasher.finish()?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::vhd::MIB;

    fn md5(bytes: &[u8]) -> Vec<u8> {
        openssl::hash::hash(MessageDigest::md5(), bytes).unwrap().to_vec()
    }

    #[test]
    fn data_is_found_between_zeros_and_holes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let put = |at: u64, bytes: &[u8]| file.as_file().write_all_at(bytes, at).unwrap();
        file.as_file().set_len(3 * MIB + 700).unwrap();
        put(5, b"x");
        put(MIB, &[0; 100_000]); // zeros, but no hole
        put(2 * MIB - 1, b"yz"); // the last byte of one block, the first of the next
        put(2 * MIB + 5 * BLOCK, b"near");
        put(2 * MIB + 15 * BLOCK, b"far");
        put(3 * MIB + 699, b"!");
        let disk = Disk::open_any(file.path()).unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        let mut seen = 0;
        let cancel = CancellationToken::new();
        let found = scan(&disk, bytes.len() as u64, &cancel, &mut |done| seen = done).unwrap();
        let expected = [
            0..BLOCK,
            2 * MIB - BLOCK..2 * MIB + 6 * BLOCK,
            2 * MIB + 15 * BLOCK..2 * MIB + 16 * BLOCK,
            3 * MIB..3 * MIB + BLOCK,
        ];
        assert_eq!(found.data, Extents::of(expected.to_vec()));
        assert_eq!((seen, found.file_md5), (4 * MIB, md5(&bytes)));
        let mut stream = bytes;
        stream.resize(4 << 20, 0);
        stream.extend_from_slice(disk.stream_footer().bytes());
        assert_eq!(found.stream_md5, md5(&stream));
        // As a file of its own it is a fixed disk with the same stream.
        let fixed = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(fixed.path(), &stream).unwrap();
        let disk = Disk::open(fixed.path()).unwrap();
        let again = scan(&disk, stream.len() as u64, &cancel, &mut |_| {}).unwrap();
        assert_eq!((again.data, &again.stream_md5), (found.data, &found.stream_md5));
        assert_eq!(again.file_md5, again.stream_md5);
        cancel.cancel();
        assert!(scan(&disk, stream.len() as u64, &cancel, &mut |_| {}).is_err());
    }
}
