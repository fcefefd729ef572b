//! What of a disk is nothing: holes of files, runs of zeros.

use std::fs::File;
use std::io;
use std::ops::Range;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// The first bytes of a file, from `from` on and before `end`, that are not in a hole; `None`: there are only holes.
/// File systems without holes have data everywhere. The file's position is moved.
///
/// # Errors
/// What the file system says.
pub fn next_data(file: &File, from: u64, end: u64) -> io::Result<Option<Range<u64>>> {
    if from >= end {
        return Ok(None);
    }
    let at = |offset: u64| i64::try_from(offset).map_err(io::Error::other);
    let start = match lseek(file, at(from)?, Whence::SeekData) {
        Ok(start) => u64::try_from(start).map_err(io::Error::other)?,
        Err(Errno::ENXIO) => return Ok(None),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => return Ok(Some(from..end)),
        Err(e) => return Err(e.into()),
    };
    if start >= end {
        return Ok(None);
    }
    let hole = match lseek(file, at(start)?, Whence::SeekHole) {
        Ok(hole) => u64::try_from(hole).map_err(io::Error::other)?,
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => end,
        Err(e) => return Err(e.into()),
    };
    Ok(Some(start..hole.min(end)))
}

/// Whether there is nothing but zeros.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Sixteen at a time, without a branch inside a chunk: as fast as memory.
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|c| c.iter().fold(0, |a, b| a | b) == 0) && rest.iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn zeros_are_recognised_wherever_the_other_byte_is() {
        assert!(is_zero(&[]) && is_zero(&[0; 1000]));
        for at in [0, 63, 64, 500, 960, 999] {
            let mut bytes = [0; 1000];
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "{at}");
        }
    }

    #[test]
    fn holes_are_passed_over() {
        const MIB: u64 = 1 << 20;
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 * MIB).unwrap();
        file.write_all_at(&[1; 4096], 3 * MIB).unwrap();
        let (mut at, mut data) = (0, 0);
        let mut holds_it = false;
        while let Some(range) = next_data(&file, at, 8 * MIB).unwrap() {
            assert!(range.start >= at && range.end <= 8 * MIB && !range.is_empty());
            holds_it |= range.contains(&(3 * MIB));
            data += range.end - range.start;
            at = range.end;
        }
        assert!(holds_it && data >= 4096);
        assert_eq!(next_data(&file, 8 * MIB, 8 * MIB).unwrap(), None);
        assert_eq!(next_data(&file, 0, 0).unwrap(), None);
    }
}
