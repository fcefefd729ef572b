//! The files that a server offers, and how they go out: whole or a range of them.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use openssl::hash::{Hasher, MessageDigest};

use super::{Error, Package};
use crate::network::serve::{FileBody, file_body};

/// Pieces in which files are read.
const PIECE: usize = 256 << 10;

/// The body of an answer.
pub(super) type Body = FileBody;

/// A file that is offered. It stays open, so that what is sent is what was hashed, as long as nobody writes to it.
#[derive(Clone, Debug)]
pub(super) struct Served {
    pub package: Package,
    file: Arc<File>,
}

impl Served {
    /// Opens and hashes a file. Blocks.
    pub fn open(path: &Path, name: &str) -> Result<Self, Error> {
        if !is_name(name) {
            return Err(Error::Name(name.to_owned()));
        }
        let failed = |source| Error::File { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file")));
        }
        let package = Package { name: name.to_owned(), ..measure(&file).map_err(failed)? };
        Ok(Self { package, file: Arc::new(file) })
    }

    /// The bytes `from` up to `to`, which lie in the file.
    pub fn body(&self, from: u64, to: u64) -> Body {
        file_body(self.file.clone(), from, to)
    }
}

/// Whether a name can be the last part of a URL as it is, and hides nothing.
fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~+@=,!".contains(&b);
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(plain)
}

/// A file as a package: its name, length and hashes. Blocks.
///
/// # Errors
/// [`Error::File`].
pub fn describe(path: &Path) -> Result<Package, Error> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    let measured = File::open(path).and_then(|file| measure(&file)).map_err(failed)?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Package { name, ..measured })
}

/// Length and hashes of a file from where it stands.
fn measure(mut file: &File) -> io::Result<Package> {
    let (mut sha1, mut sha256) = (Hasher::new(MessageDigest::sha1())?, Hasher::new(MessageDigest::sha256())?);
    let (mut piece, mut size) = (vec![0; PIECE], 0);
    loop {
        let read = match file.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        sha1.update(&piece[..read])?;
        sha256.update(&piece[..read])?;
        size += read as u64;
    }
    Ok(Package {
        name: String::new(),
        sha1: openssl::base64::encode_block(&sha1.finish()?),
        sha256: Some(openssl::base64::encode_block(&sha256.finish()?)),
        size,
        required: false,
    })
}

/// The part of `size` bytes that a header `Range` asks for (RFC 9110, 14.2): from, and up to.
///
/// `None` for all of it: also when the header asks for several parts, or is not understood. An error when there is no
/// such part.
pub(super) fn range(header: &str, size: u64) -> Result<Option<(u64, u64)>, ()> {
    let Some((first, last)) = header.trim().strip_prefix("bytes=").and_then(|r| r.split_once('-')) else {
        return Ok(None);
    };
    let part = match (first.trim(), last.trim()) {
        ("", last) => last.parse().ok().map(|count: u64| (size.saturating_sub(count), size)),
        (first, "") => first.parse().ok().map(|first: u64| (first, size)),
        (first, last) => match (first.parse::<u64>(), last.parse::<u64>()) {
            (Ok(first), Ok(last)) if first <= last => Some((first, last.saturating_add(1).min(size))),
            _ => None,
        },
    };
    match part {
        Some((from, to)) if from >= to => Err(()),
        part => Ok(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_parts_of_the_file() {
        for (header, part) in [
            ("bytes=0-", Ok(Some((0, 100)))),
            ("bytes=10-19", Ok(Some((10, 20)))),
            ("bytes=90-1000", Ok(Some((90, 100)))),
            ("bytes=-10", Ok(Some((90, 100)))),
            ("bytes=-1000", Ok(Some((0, 100)))),
            ("bytes=99-18446744073709551615", Ok(Some((99, 100)))),
            ("bytes=100-", Err(())),
            ("bytes=-0", Err(())),
            ("bytes=20-10", Ok(None)),
            ("bytes=0-1,5-6", Ok(None)),
            ("lines=0-1", Ok(None)),
            ("bytes=a-b", Ok(None)),
        ] {
            assert_eq!(range(header, 100), part, "{header}");
        }
    }

    #[test]
    fn names_hide_nothing() {
        assert!(["update.gz", "a-b_c.bin".replace('_', "-").as_str()].iter().all(|n| is_name(n)));
        for bad in ["", ".", "..", ".hidden", "a/b", "../a", "a b", "a%2fb", "a?b", "a#b", "ä"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
