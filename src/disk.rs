//! Disk images as they lie here: their formats, and the size of the disk inside, from their headers alone.
//!
//! Sources: Virtual Disk Format 5.0 (VMware), docs/interop/qcow2.txt (QEMU).

pub mod sparse;
pub mod vhd;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::folders::Unusable;

/// Why an image cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read, or its header makes no sense.
    #[error(transparent)]
    File(#[from] Unusable),
    /// It is packed.
    #[error("{} is packed: unpack it with {tool} first", .path.display())]
    Packed {
        /// The image.
        path: PathBuf,
        /// What unpacks it.
        tool: &'static str,
    },
}

/// Result of looking at an image.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Bytes in a GiB, the unit of all disks in EC2.
pub const GIB: u64 = 1 << 30;
/// The largest volume, in GiB; EBS volume constraints, io2 Block Express.
pub const MAX_GIB: u64 = 65536;

const SECTOR: u64 = 512;
/// The text of a VMDK's descriptor is not longer.
const MAX_DESCRIPTOR: u64 = 64 << 10;
/// A VMDK header's value for a grain directory that is at the end of the file, with a second header before it.
const AT_END: u64 = u64::MAX;

/// A format that images are imported from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// VMware's, stream-optimized.
    Vmdk,
    /// The plain content of the disk.
    Raw,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Vmdk, Self::Raw];

    /// As EC2 spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vmdk => "VMDK",
            Self::Raw => "RAW",
        }
    }
}

impl FromStr for Format {
    type Err = String;

    /// In any case.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_uppercase().as_str() {
            "VMDK" => Ok(Self::Vmdk),
            "RAW" => Ok(Self::Raw),
            _ => Err("invalid ec2 image format: must be raw or vmdk".into()),
        }
    }
}

/// What the first bytes of a file say it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A VMDK in one file.
    Vmdk,
    /// The text that lists the files of a VMDK: not importable by itself.
    VmdkDescriptor,
    /// QEMU's format: not importable.
    Qcow2,
    /// A packed file; the tool that unpacks it.
    Packed(&'static str),
    /// Anything else: a raw disk, if it is one.
    Other,
}

/// Looks at the first bytes of an image.
///
/// # Errors
/// When the file cannot be read.
pub fn content(path: &Path) -> Result<Content> {
    let mut start = Vec::new();
    let read = crate::input::open_disk(path).and_then(|f| f.take(64).read_to_end(&mut start));
    read.map_err(|e| unusable(path, e))?;
    Ok(content_of(&start))
}

/// What a content that begins so is; 64 bytes are enough to tell.
pub fn content_of(start: &[u8]) -> Content {
    let kinds: [(&[u8], Content); 8] = [
        (b"KDMV", Content::Vmdk),
        (b"COWD", Content::Vmdk),
        (b"# Disk DescriptorFile", Content::VmdkDescriptor),
        (b"QFI\xfb", Content::Qcow2),
        (b"BZh", Content::Packed("bunzip2")),
        (&[0x1f, 0x8b], Content::Packed("gunzip")),
        (b"\xfd7zXZ\0", Content::Packed("unxz")),
        (&[0x28, 0xb5, 0x2f, 0xfd], Content::Packed("unzstd")),
    ];
    kinds.iter().find(|(magic, _)| start.starts_with(magic)).map_or(Content::Other, |(_, kind)| *kind)
}

/// The size of the disk in an image, in bytes: from the header of VMDK and qcow2, else the file's own length.
///
/// # Errors
/// When the file cannot be read, is packed, or its header is not what it should be.
pub fn virtual_size(path: &Path) -> Result<u64> {
    let kind = content(path)?;
    let mut file = crate::input::open_disk(path).map_err(|e| unusable(path, e))?;
    let size = match kind {
        Content::Vmdk => vmdk_size(&file),
        Content::VmdkDescriptor => {
            let mut text = Vec::new();
            (&file).take(MAX_DESCRIPTOR).read_to_end(&mut text).and_then(|_| descriptor_size(&text))
        }
        Content::Qcow2 => be64(&file, 24),
        Content::Packed(tool) => {
            return Err(Error::Packed { path: path.to_owned(), tool });
        }
        // The end, not the metadata: block devices have no length there.
        Content::Other => file.seek(SeekFrom::End(0)),
    };
    size.map_err(|e| unusable(path, e))
}

fn unusable(path: &Path, source: io::Error) -> Error {
    Unusable::at(path)(source).into()
}

/// Bytes as whole GiB, rounded up.
pub fn gib(bytes: u64) -> u64 {
    bytes.div_ceil(GIB)
}

fn bytes_at<const N: usize>(file: &File, at: u64) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

fn le64(file: &File, at: u64) -> io::Result<u64> {
    bytes_at(file, at).map(u64::from_le_bytes)
}

fn be64(file: &File, at: u64) -> io::Result<u64> {
    bytes_at(file, at).map(u64::from_be_bytes)
}

fn nonsense(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn sectors(count: u64) -> io::Result<u64> {
    let bytes = count.checked_mul(SECTOR).filter(|b| *b <= MAX_GIB * GIB);
    bytes.ok_or_else(|| nonsense("its header names an impossible capacity"))
}

fn vmdk_size(file: &File) -> io::Result<u64> {
    if bytes_at(file, 0)? == *b"COWD" {
        // ESX server's sparse extent: 32-bit numbers, capacity after magic, version and flags.
        return sectors(u64::from(u32::from_le_bytes(bytes_at(file, 12)?)));
    }
    let version = u32::from_le_bytes(bytes_at(file, 4)?);
    if !(1..=3).contains(&version) {
        return Err(nonsense("its header names an unknown version of VMDK"));
    }
    let capacity = le64(file, 12)?;
    if capacity > 0 || le64(file, 56)? != AT_END {
        return sectors(capacity);
    }
    // Written in one pass: what was not known at the start is in the footer, the last sector but one.
    let end = file.metadata()?.len();
    let footer = end.checked_sub(2 * SECTOR).ok_or_else(|| nonsense("its end is missing"))?;
    if bytes_at(file, footer)? != *b"KDMV" {
        return Err(nonsense("its end is missing"));
    }
    sectors(le64(file, footer + 12)?)
}

/// Adds up the extents: `RW 16777216 SPARSE "disk-s001.vmdk"`, sizes in sectors.
fn descriptor_size(text: &[u8]) -> io::Result<u64> {
    let text = String::from_utf8_lossy(text);
    let mut total = 0u64;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if !matches!(words.next(), Some("RW" | "RDONLY" | "NOACCESS")) {
            continue;
        }
        let count = words.next().and_then(|w| w.parse().ok()).ok_or_else(|| nonsense("a bad extent line"))?;
        total = total.checked_add(count).ok_or_else(|| nonsense("impossible extents"))?;
    }
    if total == 0 {
        return Err(nonsense("its descriptor lists no extents"));
    }
    sectors(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of(bytes: &[u8]) -> Result<u64> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        virtual_size(file.path())
    }

    /// A VMDK header of so many sectors with this grain directory.
    fn header(capacity: u64, directory: u64) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[..4].copy_from_slice(b"KDMV");
        bytes[4] = 3;
        bytes[12..20].copy_from_slice(&capacity.to_le_bytes());
        bytes[20] = 128; // sectors in a grain
        bytes[56..64].copy_from_slice(&directory.to_le_bytes());
        bytes
    }

    #[test]
    fn sizes_come_from_headers() {
        assert_eq!(size_of(&header(16_777_216, 21)).unwrap(), 8 * GIB);
        assert_eq!(size_of(&header(16_777_216, AT_END)).unwrap(), 8 * GIB);
        let mut streamed = header(0, AT_END);
        streamed.extend_from_slice(&[7; 4096]);
        streamed.extend_from_slice(&header(20_971_520, 9));
        streamed.extend_from_slice(&[0; 512]);
        assert_eq!(size_of(&streamed).unwrap(), 10 * GIB);
        let text =
            "# Disk DescriptorFile\nversion=1\nRW 4192256 SPARSE \"a-s001.vmdk\"\nRW 2048 FLAT \"a\" 0\n";
        assert_eq!(size_of(text.as_bytes()).unwrap(), (4_192_256 + 2048) * 512);
        let mut qcow = b"QFI\xfb\0\0\0\x03".to_vec();
        qcow.resize(24, 0);
        qcow.extend_from_slice(&(3 * GIB).to_be_bytes());
        assert_eq!(size_of(&qcow).unwrap(), 3 * GIB);
        let mut cowd = b"COWD\x01\0\0\0\0\0\0\0".to_vec();
        cowd.extend_from_slice(&4096u32.to_le_bytes());
        assert_eq!(size_of(&cowd).unwrap(), 2 << 20);
        assert_eq!(size_of(&[1; 600]).unwrap(), 600);
    }

    #[test]
    fn broken_headers_are_errors() {
        for (bytes, reason) in [
            (header(u64::MAX / 4, 21), "impossible capacity"),
            (header(0, AT_END), "end is missing"),
            (header(0, AT_END)[..100].to_vec(), "end is missing"),
            (b"KDMV".to_vec(), "fill whole buffer"),
            (b"# Disk DescriptorFile\n".to_vec(), "no extents"),
            (b"# Disk DescriptorFile\nRW many SPARSE x\n".to_vec(), "bad extent"),
            (b"BZh9".to_vec(), "bunzip2"),
        ] {
            let error = size_of(&bytes).unwrap_err();
            let text = crate::text::chain(&error);
            assert!(text.contains(reason), "{text} for {reason}");
        }
        let mut unknown = header(2048, 21);
        unknown[4] = 9;
        assert!(size_of(&unknown).is_err());
    }

    #[test]
    fn sizes_are_rounded_up_and_formats_are_read_in_any_case() {
        assert_eq!([0, 1, GIB, GIB + 1].map(gib), [0, 1, 1, 2]);
        assert_eq!("raw".parse(), Ok(Format::Raw));
        assert_eq!("Vmdk".parse(), Ok(Format::Vmdk));
        assert!("vhd".parse::<Format>().is_err());
    }
}
