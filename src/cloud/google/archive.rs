//! The archive that Compute Engine makes images of: GNU tar, compressed with gzip, with one file `disk.raw`, whose
//! zeros are left out (<https://cloud.google.com/compute/docs/import/import-existing-image>, "Create the image file").

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use tokio_util::sync::CancellationToken;

/// The name of the disk in the archive.
const DISK: &str = "disk.raw";

/// A block of a tar archive, in bytes.
const BLOCK: usize = 512;

/// What is looked at for zeros, in bytes.
const GRAIN: usize = 64 << 10;

/// Disks have whole GiB.
const GIB: u64 = 1 << 30;

/// Places of a sparse map in the header, and in each block after it (GNU tar, "Storing Sparse Files", old format).
const IN_HEADER: usize = 4;
const IN_BLOCK: usize = 21;

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The archive cannot be written.
    #[error("cannot write the archive of {} to {}", .image.display(), .path.display())]
    Write {
        /// The image.
        image: PathBuf,
        /// The archive.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no archive that Compute Engine takes.
    #[error("{} is no archive that Compute Engine takes: {reason}", .path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The work was cancelled.
    #[error("interrupted")]
    Interrupted,
}

/// Part of a disk that is not all zeros, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    offset: u64,
    length: u64,
}

/// Whether an archive begins as Compute Engine wants it: with the file `disk.raw`, of whole GiB.
///
/// # Errors
/// [`Error::Read`], [`Error::Unfit`].
pub fn check(path: &Path) -> Result<(), Error> {
    let read = |source| Error::Read { path: path.to_owned(), source };
    let unfit = |reason: String| Error::Unfit { path: path.to_owned(), reason };
    let mut unpacked = MultiGzDecoder::new(crate::input::open(path).map_err(read)?);
    let mut header = [0; BLOCK];
    match unpacked.read_exact(&mut header) {
        Ok(()) => {}
        Err(e) if e.raw_os_error().is_some() => return Err(read(e)),
        Err(e) => return Err(unfit(format!("it cannot be unpacked: {e}"))),
    }
    let text = |from: usize, length: usize| {
        let field = &header[from..from + length];
        String::from_utf8_lossy(field.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
    };
    if text(257, 5) != "ustar" {
        return Err(unfit("it is not GNU tar, compressed with gzip".into()));
    }
    let name = text(0, 100);
    if name.strip_prefix("./").unwrap_or(&name) != DISK {
        return Err(unfit(format!("its first member is {name:?}, not {DISK}")));
    }
    // Of a sparse member, the length of the disk itself stands elsewhere.
    let at = if header[156] == b'S' { 483 } else { 124 };
    match number(&header[at..at + 12]) {
        Some(size) if size > 0 && size.is_multiple_of(GIB) => Ok(()),
        Some(size) => Err(unfit(format!("the disk in it has {size} bytes, which are no whole GiB"))),
        None => Err(unfit("the length of the disk in it cannot be read".into())),
    }
}

/// Reads a number of a tar header: octal digits, or binary after a byte of 0x80.
fn number(field: &[u8]) -> Option<u64> {
    if field.first() == Some(&0x80) {
        let bytes = field.last_chunk::<8>()?;
        return Some(u64::from_be_bytes(*bytes));
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    u64::from_str_radix(text, 8).ok()
}

/// Packs a raw disk, filled up with zeros to whole GiB, into an archive at `to`; `progress` hears how many bytes of the
/// disk are done. Blocks.
///
/// # Errors
/// Any [`Error`].
pub fn pack(
    image: &Path,
    to: &File,
    to_name: &Path,
    cancel: &CancellationToken,
    mut progress: impl FnMut(u64, u64),
) -> Result<(), Error> {
    let read = |source| Error::Read { path: image.to_owned(), source };
    let write = |source| Error::Write { image: image.to_owned(), path: to_name.to_owned(), source };
    let file = crate::input::open_disk(image).map_err(read)?;
    let length = crate::disk::virtual_size(image).map_err(|e| read(io::Error::other(e)))?;
    let size = length.div_ceil(GIB).max(1) * GIB;
    let extents = extents(&file, length, cancel).map_err(|e| e.map_or(Error::Interrupted, read))?;
    let stored: u64 = extents.iter().map(|e| e.length).sum();
    let mut packed = GzEncoder::new(io::BufWriter::new(to), Compression::default());
    packed.write_all(&headers(&extents, stored, size)).map_err(write)?;
    let mut buffer = vec![0; GRAIN];
    let mut done = 0;
    for extent in &extents {
        let mut at = extent.offset;
        let end = extent.offset + extent.length;
        while at < end {
            if cancel.is_cancelled() {
                return Err(Error::Interrupted);
            }
            let piece = &mut buffer[..usize::try_from(end - at).unwrap_or(GRAIN).min(GRAIN)];
            // Past the end of the image there are zeros: its last grain may be short.
            let there = usize::try_from(length.saturating_sub(at)).unwrap_or(GRAIN).min(piece.len());
            file.read_exact_at(&mut piece[..there], at).map_err(read)?;
            piece[there..].fill(0);
            packed.write_all(piece).map_err(write)?;
            at += piece.len() as u64;
            done += piece.len() as u64;
            progress(done, stored);
        }
    }
    // Extents have whole blocks: no padding. Two empty blocks end the archive.
    packed.write_all(&[0; 2 * BLOCK]).map_err(write)?;
    let mut inner = packed.finish().map_err(write)?;
    inner.flush().map_err(write)
}

/// The parts of a file that are not all zeros, in whole blocks. `None` as an error: cancelled.
fn extents(file: &File, length: u64, cancel: &CancellationToken) -> Result<Vec<Extent>, Option<io::Error>> {
    let mut found: Vec<Extent> = Vec::new();
    let mut buffer = vec![0; GRAIN];
    let mut at = 0;
    while at < length {
        if cancel.is_cancelled() {
            return Err(None);
        }
        // What the file system has no data of is not read.
        at = match nix::unistd::lseek64(
            file,
            i64::try_from(at).unwrap_or(i64::MAX),
            nix::unistd::Whence::SeekData,
        ) {
            Ok(data) => u64::try_from(data).unwrap_or(at) / GRAIN as u64 * GRAIN as u64,
            Err(nix::errno::Errno::ENXIO) => break,
            Err(_) => at,
        };
        let piece = &mut buffer[..usize::try_from(length - at).unwrap_or(GRAIN).min(GRAIN)];
        file.read_exact_at(piece, at).map_err(Some)?;
        if piece.iter().any(|b| *b != 0) {
            let size = (piece.len() as u64).next_multiple_of(BLOCK as u64);
            match found.last_mut() {
                Some(last) if last.offset + last.length == at => last.length += size,
                _ => found.push(Extent { offset: at, length: size }),
            }
        }
        at += GRAIN as u64;
    }
    Ok(found)
}

/// The headers of the only member: a sparse file in GNU's old format.
fn headers(extents: &[Extent], stored: u64, size: u64) -> Vec<u8> {
    // The map ends with an empty extent at the end of the disk, as GNU tar has it.
    let map: Vec<Extent> = extents.iter().copied().chain([Extent { offset: size, length: 0 }]).collect();
    let (first, rest) = map.split_at(map.len().min(IN_HEADER));
    let mut header = [0; BLOCK];
    header[..DISK.len()].copy_from_slice(DISK.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    put(&mut header[124..136], stored);
    put(&mut header[136..148], 0); // no time: the same disk is the same archive
    header[156] = b'S';
    header[257..265].copy_from_slice(b"ustar  \0");
    for (place, extent) in header[386..482].chunks_mut(24).zip(first) {
        put_extent(place, extent);
    }
    header[482] = u8::from(!rest.is_empty());
    put(&mut header[483..495], size);
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut all = header.to_vec();
    let mut blocks = rest.chunks(IN_BLOCK).peekable();
    while let Some(extents) = blocks.next() {
        let mut block = [0; BLOCK];
        for (place, extent) in block[..504].chunks_mut(24).zip(extents) {
            put_extent(place, extent);
        }
        block[504] = u8::from(blocks.peek().is_some());
        all.extend_from_slice(&block);
    }
    all
}

fn put_extent(place: &mut [u8], extent: &Extent) {
    put(&mut place[..12], extent.offset);
    put(&mut place[12..24], extent.length);
}

/// Writes a number into 12 bytes: eleven octal digits, or, where those do not do, binary.
fn put(field: &mut [u8], value: u64) {
    if value < 1 << 33 {
        field.copy_from_slice(format!("{value:011o}\0").as_bytes());
    } else {
        field.fill(0);
        field[0] = 0x80;
        field[4..].copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A file of this length with some bytes in it.
    fn disk(folder: &Path, length: u64, parts: &[(u64, &[u8])]) -> PathBuf {
        let path = folder.join("image.bin");
        let file = File::create(&path).unwrap();
        file.set_len(length).unwrap();
        for (at, bytes) in parts {
            file.write_all_at(bytes, *at).unwrap();
        }
        path
    }

    fn packed(folder: &Path, image: &Path) -> PathBuf {
        let path = folder.join("image.tar.gz");
        let file = File::create(&path).unwrap();
        pack(image, &file, &path, &CancellationToken::new(), |_, _| {}).unwrap();
        path
    }

    #[test]
    fn tar_unpacks_the_same_disk() {
        let folder = tempfile::tempdir().unwrap();
        let many: Vec<(u64, Vec<u8>)> =
            (0..60).map(|n| (n * 3 * GRAIN as u64, vec![u8::try_from(n).unwrap() + 1; 700])).collect();
        let mut parts: Vec<(u64, &[u8])> = many.iter().map(|(at, b)| (*at, b.as_slice())).collect();
        let last = (100 << 20) + 5;
        parts.push((last, b"end"));
        parts.push((50 << 20, &[0; 4096])); // written zeros
        let image = disk(folder.path(), last + 3, &parts);
        let archive = packed(folder.path(), &image);
        check(&archive).unwrap();
        assert!(archive.metadata().unwrap().len() < 100 << 10);
        let done =
            Command::new("tar").arg("-xSf").arg(&archive).arg("-C").arg(folder.path()).status().unwrap();
        assert!(done.success());
        let unpacked = folder.path().join(DISK);
        assert_eq!(unpacked.metadata().unwrap().len(), GIB);
        let same =
            Command::new("cmp").arg("-n").arg((last + 3).to_string()).arg(&image).arg(&unpacked).status();
        assert!(same.unwrap().success());
        let tail = File::open(&unpacked).unwrap();
        let mut rest = [1; 4096];
        tail.read_exact_at(&mut rest, last + 3).unwrap();
        assert_eq!(rest, [0; 4096]);
    }

    #[test]
    fn empty_disks_are_disks() {
        let folder = tempfile::tempdir().unwrap();
        let image = disk(folder.path(), 2 * GIB, &[]);
        let archive = packed(folder.path(), &image);
        check(&archive).unwrap();
        let listed = Command::new("tar").arg("-tvf").arg(&archive).output().unwrap();
        let text = String::from_utf8(listed.stdout).unwrap();
        assert!(text.contains(&(2 * GIB).to_string()) && text.contains(DISK), "{text}");
    }

    #[test]
    fn other_archives_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("plain"), b"not packed at all").unwrap();
        assert!(check(&at("plain")).unwrap_err().to_string().contains("cannot be unpacked"));
        File::create(at("disk.raw")).unwrap().set_len(GIB + 1).unwrap();
        std::fs::write(at("other"), b"x").unwrap();
        let tar = |archive: &str, member: &str| {
            let mut tar = Command::new("tar");
            tar.args(["--format=oldgnu", "-Sczf"]).arg(at(archive)).arg("-C").arg(folder.path()).arg(member);
            assert!(tar.status().unwrap().success());
            check(&at(archive)).unwrap_err().to_string()
        };
        assert!(tar("a.tar.gz", "other").contains("first member is \"other\""));
        assert!(tar("b.tar.gz", "disk.raw").contains("no whole GiB"));
        File::options().write(true).open(at("disk.raw")).unwrap().set_len(10 * GIB).unwrap();
        let mut good = Command::new("tar");
        good.args(["--format=oldgnu", "-Sczf"])
            .arg(at("c.tar.gz"))
            .arg("-C")
            .arg(folder.path())
            .arg("./disk.raw");
        assert!(good.status().unwrap().success());
        check(&at("c.tar.gz")).unwrap();
        assert!(matches!(check(&at("missing")), Err(Error::Read { .. })));
    }

    #[test]
    fn the_work_can_be_cancelled() {
        let folder = tempfile::tempdir().unwrap();
        let image = disk(folder.path(), GIB, &[(0, b"x")]);
        let cancel = CancellationToken::new();
        cancel.cancel();
        let file = File::create(folder.path().join("t")).unwrap();
        let done = pack(&image, &file, Path::new("t"), &cancel, |_, _| {});
        assert!(matches!(done, Err(Error::Interrupted)));
    }
}
