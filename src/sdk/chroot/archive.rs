//! Members of a tar archive, whoever made it: memory is bounded, and nothing is taken for what it is not.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use tar::{EntryType, Header, PaxExtensions};

/// The longest name: the kernel's, and the byte that ends it.
const MAX_NAME: u64 = 4096 + 1;
/// The most that a member may say about itself: its names and attributes.
const MAX_RECORDS: u64 = 1 << 20;
/// What begins the key of an extended attribute.
const ATTRIBUTE: &str = "SCHILY.xattr.";

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    Link(PathBuf),
    Symlink(PathBuf),
    Fifo,
    /// Whether it is a block device, its major and minor numbers.
    Device(bool, u32, u32),
}

/// What is known of a member before its content.
#[derive(Clone, Debug)]
pub struct Member {
    pub path: PathBuf,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970.
    pub modified: i64,
    pub attributes: Vec<(String, Vec<u8>)>,
}

/// What headers before the one of the member say about it.
#[derive(Default)]
struct Said {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<i64>,
    size: Option<u64>,
    attributes: Vec<(String, Vec<u8>)>,
}

/// Calls `each` with every member and its content, which it has to read to its end.
///
/// # Errors
/// If the archive is damaged or of a kind that is not understood; those of `each`.
pub fn members<E: From<io::Error>>(
    reader: &mut impl Read,
    mut each: impl FnMut(Member, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let mut archive = tar::Archive::new(&mut *reader);
    let mut said = Said::default();
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        let header = entry.header().clone();
        let size = header.entry_size()?;
        match header.entry_type() {
            EntryType::GNULongName => said.path = Some(name(&bounded(&mut entry, size, MAX_NAME)?)),
            EntryType::GNULongLink => said.link = Some(name(&bounded(&mut entry, size, MAX_NAME)?)),
            EntryType::XHeader => said.records(&bounded(&mut entry, size, MAX_RECORDS)?)?,
            // What holds for the whole archive: comments, as by git.
            EntryType::XGlobalHeader => drop(bounded(&mut entry, size, MAX_RECORDS)?),
            _ => {
                let member = std::mem::take(&mut said).member(&header, size)?;
                let is_file = member.kind == Kind::File;
                let mut content = Exact { inner: &mut entry, left: if is_file { size } else { 0 } };
                each(member, &mut content)?;
                if content.left > 0 {
                    return Err(damaged("a member was not read to its end").into());
                }
            }
        }
    }
    // What follows the end is padding; whoever decompresses has to see its checksum.
    io::copy(reader, &mut io::sink())?;
    Ok(())
}

/// A content that is as long as it was said to be.
struct Exact<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        match self.inner.read(&mut buffer[..most])? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends within a member")),
            n => {
                self.left -= n as u64;
                Ok(n)
            }
        }
    }
}

fn bounded(reader: &mut impl Read, size: u64, limit: u64) -> io::Result<Vec<u8>> {
    if size > limit {
        return Err(damaged(format!("a member says {size} bytes about itself")));
    }
    let mut bytes = Vec::new();
    Exact { inner: reader, left: size }.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Up to the first zero.
fn name(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|b| *b == 0).next().unwrap_or_default().to_vec()
}

impl Said {
    /// Takes in what a pax header says.
    fn records(&mut self, bytes: &[u8]) -> io::Result<()> {
        for record in PaxExtensions::new(bytes) {
            let record = record?;
            let key = record.key().map_err(damaged)?;
            let value = record.value_bytes();
            let number = || -> io::Result<u64> {
                let text = std::str::from_utf8(value).map_err(damaged)?;
                text.parse().map_err(|_| damaged(format!("{key} of a member is {text:?}")))
            };
            match key {
                "path" => self.path = Some(value.to_vec()),
                "linkpath" => self.link = Some(value.to_vec()),
                "uid" => self.uid = Some(number()?),
                "gid" => self.gid = Some(number()?),
                "size" => self.size = Some(number()?),
                "mtime" => {
                    let text = std::str::from_utf8(value).map_err(damaged)?;
                    let seconds = text.split('.').next().unwrap_or_default();
                    self.modified = seconds.parse().ok();
                }
                _ if key.starts_with("GNU.sparse.") => {
                    return Err(damaged("sparse members are not supported"));
                }
                _ => {
                    if let Some(name) = key.strip_prefix(ATTRIBUTE) {
                        self.attributes.push((name.to_owned(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }

    fn member(self, header: &Header, size: u64) -> io::Result<Member> {
        if self.size.is_some_and(|said| said != size) {
            return Err(damaged("members of 8 GiB and more are not supported"));
        }
        let path = self.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = self.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
        let as_path = |bytes: Vec<u8>| -> io::Result<PathBuf> {
            if bytes.contains(&0) {
                return Err(damaged("a name has a zero in it"));
            }
            Ok(OsStr::from_bytes(&bytes).into())
        };
        let path = as_path(path)?;
        let unfit = |what: &str| damaged(format!("{}: {what}", path.display()));
        let linked = || match link.clone() {
            Some(link) if !link.is_empty() => as_path(link),
            _ => Err(unfit("a link to nothing")),
        };
        let device = |block| -> io::Result<Kind> {
            match (header.device_major()?, header.device_minor()?) {
                (Some(major), Some(minor)) => Ok(Kind::Device(block, major, minor)),
                _ => Err(unfit("a device without numbers")),
            }
        };
        let kind = match header.entry_type() {
            // Archives from before 1988 tell folders by the end of their name.
            EntryType::Regular if path.as_os_str().as_bytes().ends_with(b"/") => Kind::Folder,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Folder,
            EntryType::Link => Kind::Link(linked()?),
            EntryType::Symlink => Kind::Symlink(linked()?),
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char => device(false)?,
            EntryType::Block => device(true)?,
            EntryType::GNUSparse => return Err(unfit("sparse members are not supported")),
            other => {
                return Err(unfit(&format!("members of kind {:#04x} are not supported", other.as_byte())));
            }
        };
        let id = |said: Option<u64>, field: io::Result<u64>| -> io::Result<u32> {
            let id = said.map_or(field, Ok)?;
            // The largest means "leave it as it is" to the kernel.
            u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or_else(|| unfit(&format!("owner {id}")))
        };
        Ok(Member {
            kind,
            mode: header.mode()? & 0o7777,
            uid: id(self.uid, header.uid())?,
            gid: id(self.gid, header.gid())?,
            modified: match self.modified {
                Some(modified) => modified,
                None => i64::try_from(header.mtime()?).unwrap_or_default(),
            },
            attributes: self.attributes,
            path,
        })
    }
}

fn damaged(what: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}
