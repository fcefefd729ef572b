//! VHD, the format of virtual disks that Azure takes: read and checked whatever its kind, written as a fixed one.
//!
//! A disk is looked at as a *stream*: its content as a guest sees it, then the footer of a fixed disk. That is what a
//! page blob must hold, whether the file is a fixed, a dynamic or a raw disk.
//!
//! Source: Virtual Hard Disk Image Format Specification 1.0 (Microsoft, 2006). Numbers are big-endian.

mod dynamic;
mod footer;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub use self::footer::Footer;

use self::dynamic::Table;
use super::sparse;
use crate::folders::Unusable;

/// Length of a sector and of a footer, in bytes.
pub const SECTOR: u64 = 512;
/// Azure takes disks of whole MiB only.
pub const MIB: u64 = 1 << 20;
/// The largest disk that Azure makes of a page blob.
pub const MAX_SIZE: u64 = 4095 << 30;
/// The largest disk of Azure's classic deployments.
pub const MAX_CLASSIC_SIZE: u64 = 1023 << 30;

/// A result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] Unusable),
    /// It is not what it should be.
    #[error("{} is no VHD that can be used: {problem}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: Problem,
    },
}

/// What is wrong with a disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Nothing says that it is a VHD.
    #[error("it has no footer")]
    NoFooter,
    /// A type that the format does not have.
    #[error("its footer names an unknown type of disk ({0})")]
    Kind(u32),
    /// The footer was damaged.
    #[error("the checksum of its footer is wrong")]
    FooterChecksum,
    /// The header of a dynamic disk is missing or was damaged.
    #[error("the header of the dynamic disk {0}")]
    Header(&'static str),
    /// The table of blocks makes no sense.
    #[error("its block allocation table {0}")]
    Table(&'static str),
    /// It needs another file.
    #[error("it is a differencing disk, which needs its parent: merge the two first")]
    Differencing,
    /// Sizes contradict each other.
    #[error("its footer says {footer} bytes, and the file has {there} before it")]
    Length {
        /// By the footer.
        footer: u64,
        /// In the file.
        there: u64,
    },
    /// Azure does not take such sizes.
    #[error("its size of {0} bytes is not a multiple of 1 MiB")]
    Uneven(u64),
    /// Azure does not take so large ones.
    #[error("its size of {size} bytes is more than {} GiB", .limit >> 30)]
    TooLarge {
        /// The disk's size, in bytes.
        size: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
}

/// How a disk lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The content, then the footer.
    Fixed,
    /// Only the blocks that were written to.
    Dynamic,
    /// Only what differs from another disk.
    Differencing,
}

impl Kind {
    fn number(self) -> u32 {
        match self {
            Self::Fixed => 2,
            Self::Dynamic => 3,
            Self::Differencing => 4,
        }
    }
}

/// A disk in a file, open for reading.
#[derive(Debug)]
pub struct Disk {
    file: File,
    path: PathBuf,
    /// None: a raw disk.
    footer: Option<Footer>,
    layout: Layout,
    size: u64,
    /// The footer that the stream ends with.
    last: Footer,
}

#[derive(Debug)]
enum Layout {
    /// The content, from the start of the file; so much of it is there.
    Plain(u64),
    Blocks(Table),
}

impl Disk {
    /// Opens a VHD. What does not end in a footer is refused; so is what no stream can be made of.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open(path: &Path) -> Result<Self> {
        let disk = Self::open_any(path)?;
        match disk.footer {
            Some(_) => Ok(disk),
            None => Err(Problem::NoFooter.at(path)),
        }
    }

    /// Opens a VHD, or else a raw disk, which is filled up to whole MiB and gets a footer.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open_any(path: &Path) -> Result<Self> {
        let cannot = || Unusable::at(path);
        let mut file = crate::input::open_disk(path).map_err(cannot())?;
        // The end, not the metadata: block devices have no length there.
        let length = file.seek(SeekFrom::End(0)).map_err(cannot())?;
        let footer = footer_of(&file, length).map_err(cannot())?.map_err(|problem| problem.at(path))?;
        let modified = file.metadata().map_err(cannot())?.mtime();
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(modified).unwrap_or(0));
        let wrong = |problem: Problem| problem.at(path);
        let (layout, size, last) = match &footer {
            None if length == 0 => return Err(wrong(Problem::Empty)),
            None => {
                let size = length.next_multiple_of(MIB);
                // The same file must give the same stream: nothing in its footer is random.
                (Layout::Plain(length), size, Footer::fixed(size, modified, id_of(size, modified)))
            }
            Some(footer) => {
                let size = footer.size();
                let layout = match footer.kind().map_err(wrong)? {
                    Kind::Differencing => return Err(wrong(Problem::Differencing)),
                    Kind::Fixed => {
                        let there = length - SECTOR;
                        if size > there {
                            return Err(wrong(Problem::Length { footer: size, there }));
                        }
                        Layout::Plain(size)
                    }
                    Kind::Dynamic => {
                        let table = Table::read(&file, footer, length).map_err(cannot())?;
                        Layout::Blocks(table.map_err(wrong)?)
                    }
                };
                (layout, size, footer.to_fixed(size))
            }
        };
        if size == 0 {
            return Err(wrong(Problem::Empty));
        }
        if !size.is_multiple_of(SECTOR) {
            return Err(wrong(Problem::Uneven(size)));
        }
        if size > MAX_SIZE {
            return Err(wrong(Problem::TooLarge { size, limit: MAX_SIZE }));
        }
        Ok(Self { file, path: path.into(), footer, layout, size, last })
    }

    /// Checks what the format allows and Azure does not: a damaged footer, an odd size, one above `limit` bytes.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn validate(&self, limit: u64) -> Result<()> {
        let wrong = |problem: Problem| Err(problem.at(&self.path));
        if self.footer.as_ref().is_some_and(|f| !f.is_sound()) {
            return wrong(Problem::FooterChecksum);
        }
        if !self.size.is_multiple_of(MIB) {
            return wrong(Problem::Uneven(self.size));
        }
        match self.size > limit {
            true => wrong(Problem::TooLarge { size: self.size, limit }),
            false => Ok(()),
        }
    }

    /// Whether it is a raw disk, which gets a footer only in the stream.
    pub fn is_raw(&self) -> bool {
        self.footer.is_none()
    }

    /// Size of the disk in bytes, as guests see it.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Length of the stream in bytes.
    pub fn stream_size(&self) -> u64 {
        self.size + SECTOR
    }

    /// What the stream ends with.
    pub fn stream_footer(&self) -> &Footer {
        &self.last
    }

    /// The file itself.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether the content is at the start of the file, as it is in the stream.
    pub fn is_plain(&self) -> bool {
        matches!(self.layout, Layout::Plain(_))
    }

    /// Where in the disk there may be anything but zeros, from `from` on; `None`: nowhere any more. Holes of files and
    /// blocks that were never written to are passed over without being read.
    ///
    /// # Errors
    /// What the file system says.
    pub fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        match &self.layout {
            Layout::Plain(length) => sparse::next_data(&self.file, from, *length),
            Layout::Blocks(table) => Ok(table.next_data(from, self.size)),
        }
    }

    /// Reads the disk's content from `at` on. Behind its end there are zeros.
    ///
    /// # Errors
    /// What the file system says.
    pub fn read_at(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        match &self.layout {
            Layout::Plain(length) => {
                let there = usize::try_from(length.saturating_sub(at)).unwrap_or(usize::MAX);
                let (data, rest) = bytes.split_at_mut(there.min(bytes.len()));
                rest.fill(0);
                self.file.read_exact_at(data, at)
            }
            Layout::Blocks(table) => table.read_at(&self.file, at, bytes),
        }
    }
}

/// The footer at the end of a file, if there is one.
fn footer_of(file: &File, length: u64) -> io::Result<Result<Option<Footer>, Problem>> {
    let Some(at) = length.checked_sub(SECTOR) else { return Ok(Ok(None)) };
    let mut bytes = [0; SECTOR as usize];
    file.read_exact_at(&mut bytes, at)?;
    Ok(match Footer::read(&bytes) {
        Ok(footer) => Ok(Some(footer)),
        Err(Problem::NoFooter) => Ok(None),
        Err(problem) => Err(problem),
    })
}

/// An identifier (UUID) that is always the same for the same raw disk.
fn id_of(size: u64, modified: SystemTime) -> [u8; 16] {
    let seconds = modified.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let digest = openssl::sha::sha256(format!("mantle vhd {size} {seconds}").as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    uuid::Builder::from_random_bytes(id).into_uuid().into_bytes()
}
