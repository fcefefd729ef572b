//! Packages of virtual machines: OVA, a tar archive, or OVF, the same files in a folder (DMTF DSP0243).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use openssl::hash::{Hasher, MessageDigest};
use tokio_util::sync::CancellationToken;

use super::xml::Element;
use crate::text::hex;

/// No description or manifest is longer, in bytes.
const TEXT: u64 = 4 << 20;

/// No package has more files.
const FILES: usize = 1000;

/// What is read at once, in bytes.
pub const PIECE: usize = 1 << 20;

/// Why a package cannot be used.
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
    /// It is not what it should be.
    #[error("{}: {reason}", .path.display())]
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

/// A file of a package, wherever it is.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its name in the package.
    pub name: String,
    /// The file that it is in.
    pub path: PathBuf,
    /// Where it begins there, in bytes.
    pub offset: u64,
    /// Its length, in bytes.
    pub length: u64,
}

impl Part {
    /// Hands its content over piece by piece.
    ///
    /// # Errors
    /// When it cannot be read, or is shorter than it was.
    pub fn read(&self, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let file = crate::input::open(&self.path)?;
        let mut buffer = vec![0; PIECE];
        let mut done = 0;
        while done < self.length {
            let wanted = usize::try_from(self.length - done).unwrap_or(PIECE).min(PIECE);
            file.read_exact_at(&mut buffer[..wanted], self.offset + done)?;
            each(&buffer[..wanted])?;
            done += wanted as u64;
        }
        Ok(())
    }

    fn text(&self) -> Result<String, Error> {
        let unfit = |reason: &str| Error::Unfit {
            path: self.path.clone(),
            reason: format!("{}: {reason}", self.name),
        };
        if self.length > TEXT {
            return Err(unfit("it is longer than 4 MiB"));
        }
        let mut bytes = Vec::new();
        let read = self.read(|piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        });
        read.map_err(|source| Error::Read { path: self.path.clone(), source })?;
        String::from_utf8(bytes).map_err(|_| unfit("it is not UTF-8"))
    }
}

/// A package.
#[derive(Clone, Debug)]
pub struct Package {
    path: PathBuf,
    /// The description of the machine.
    pub descriptor: String,
    /// The names of its networks.
    pub networks: Vec<String>,
    parts: BTreeMap<String, Part>,
    manifest: Option<String>,
}

impl Package {
    /// Opens a package. Blocks.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Unfit`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let read = |source| Error::Read { path: path.to_owned(), source };
        let unfit = |reason: String| Error::Unfit { path: path.to_owned(), reason };
        let file = crate::input::open(path).map_err(read)?;
        let is_ovf = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("ovf"));
        let parts = if is_ovf { beside(path).map_err(read)? } else { members(path, &file)? };
        let of = |end: &str| parts.values().find(|p| p.name.to_ascii_lowercase().ends_with(end));
        let descriptor =
            of(".ovf").ok_or_else(|| unfit("couldn't find file in archive: there is no .ovf".into()))?;
        let stem = descriptor.name.rsplit_once('.').map_or("", |(stem, _)| stem);
        let manifest = of(&format!("{}.mf", stem.to_ascii_lowercase())).map(Part::text).transpose()?;
        let descriptor = descriptor.text()?;
        let envelope =
            Element::read(descriptor.as_bytes()).map_err(|e| unfit(format!("its description: {e}")))?;
        if envelope.name() != "Envelope" {
            return Err(unfit("its description is no OVF".into()));
        }
        let files = envelope.at("References").map(Element::children).unwrap_or_default();
        for file in files {
            let name = file.value("href").unwrap_or_default();
            if !parts.contains_key(name) {
                return Err(unfit(format!("couldn't find file in archive: {name:?}")));
            }
            if file.value("compression").is_some_and(|c| !c.is_empty() && c != "identity") {
                return Err(unfit(format!("{name:?} is compressed, which the server does not take")));
            }
        }
        let networks = envelope.at("NetworkSection").into_iter().flat_map(|s| s.all("Network"));
        let networks = networks.filter_map(|n| n.value("name").map(str::to_owned)).collect();
        Ok(Self { path: path.to_owned(), descriptor, networks, parts, manifest })
    }

    /// A file of it.
    pub fn part(&self, name: &str) -> Option<&Part> {
        self.parts.get(name)
    }

    /// Whether there are sums to compare with.
    pub fn has_manifest(&self) -> bool {
        self.manifest.is_some()
    }

    /// Compares all files that the manifest names with its sums. Blocks.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn verify(&self, cancel: &CancellationToken) -> Result<(), Error> {
        let unfit = |reason: String| Error::Unfit { path: self.path.clone(), reason };
        let lines = self.manifest.iter().flat_map(|m| m.lines()).map(str::trim).filter(|l| !l.is_empty());
        for line in lines {
            let (algorithm, name, sum) =
                sum(line).ok_or_else(|| unfit(format!("its manifest has the line {line:?}")))?;
            let part = self.parts.get(name);
            let part =
                part.ok_or_else(|| unfit(format!("its manifest names {name:?}, which is not there")))?;
            let failed = |source: io::Error| match cancel.is_cancelled() {
                true => Error::Interrupted,
                false => Error::Read { path: part.path.clone(), source },
            };
            let mut hasher = Hasher::new(algorithm).map_err(|e| failed(io::Error::other(e)))?;
            let read = part.read(|piece| {
                if cancel.is_cancelled() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                hasher.update(piece).map_err(io::Error::other)
            });
            read.map_err(failed)?;
            let is = hex(&hasher.finish().map_err(|e| failed(io::Error::other(e)))?);
            if !is.eq_ignore_ascii_case(sum) {
                return Err(unfit(format!("{name:?} is damaged: its sum is {is}, its manifest says {sum}")));
            }
        }
        Ok(())
    }
}

/// A line of a manifest: `SHA256(name)= sum`.
fn sum(line: &str) -> Option<(MessageDigest, &str, &str)> {
    let (algorithm, rest) = line.split_once('(')?;
    let (name, sum) = rest.rsplit_once(')')?;
    let algorithm = match algorithm.trim().to_ascii_uppercase().as_str() {
        "SHA1" => MessageDigest::sha1(),
        "SHA256" => MessageDigest::sha256(),
        "SHA512" => MessageDigest::sha512(),
        _ => return None,
    };
    Some((algorithm, name, sum.trim().strip_prefix('=')?.trim()))
}

/// The members of an archive.
fn members(path: &Path, file: &File) -> Result<BTreeMap<String, Part>, Error> {
    let unfit = |reason: String| Error::Unfit { path: path.to_owned(), reason };
    let odd = |e: io::Error| match e.raw_os_error() {
        Some(_) => Error::Read { path: path.to_owned(), source: e },
        None => unfit(format!("it is no OVA: {e}")),
    };
    let end = file.metadata().map_err(odd)?.len();
    let mut archive = tar::Archive::new(file);
    let mut parts = BTreeMap::new();
    for entry in archive.entries_with_seek().map_err(odd)? {
        let entry = entry.map_err(odd)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        let (offset, length) = (entry.raw_file_position(), entry.size());
        if parts.len() == FILES || offset.checked_add(length).is_none_or(|to| to > end) {
            return Err(unfit("it is no OVA: it ends in the middle, or has too many files".into()));
        }
        parts.insert(name.clone(), Part { name, path: path.to_owned(), offset, length });
    }
    if parts.is_empty() {
        return Err(unfit("it is no OVA: there are no files in it".into()));
    }
    Ok(parts)
}

/// The files in the folder of a description.
fn beside(path: &Path) -> io::Result<BTreeMap<String, Part>> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let own = path.file_name();
    let mut parts = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let (path, file) = (entry.path(), entry.file_name());
        let Some(name) = file.to_str().map(str::to_owned) else { continue };
        // Another description is another package's.
        let other = name.to_ascii_lowercase().ends_with(".ovf") && Some(&*file) != own;
        let meta = std::fs::metadata(&path)?;
        if meta.is_file() && !other {
            parts.insert(name.clone(), Part { name, path, offset: 0, length: meta.len() });
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::chain;

    const OVF: &str = "<Envelope xmlns='x' xmlns:ovf='x'><References><File ovf:href='disk.vmdk' ovf:id='f'/></References>\
                       <NetworkSection><Network ovf:name='VM Network'/></NetworkSection></Envelope>";

    fn archive(files: &[(&str, &str)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut builder = tar::Builder::new(file.reopen().unwrap());
        for (name, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        builder.finish().unwrap();
        file
    }

    fn digest(text: &str) -> String {
        hex(&openssl::hash::hash(MessageDigest::sha256(), text.as_bytes()).unwrap())
    }

    #[test]
    fn packages_are_read_and_compared_with_their_manifests() {
        let manifest =
            format!("SHA256(a.ovf)= {}\nSHA256(disk.vmdk)= {}\n", digest(OVF), digest("disk").to_uppercase());
        let file = archive(&[("a.ovf", OVF), ("a.mf", &manifest), ("disk.vmdk", "disk")]);
        let package = Package::open(file.path()).unwrap();
        assert_eq!(
            (package.networks.as_slice(), package.has_manifest()),
            (&["VM Network".to_owned()][..], true)
        );
        package.verify(&CancellationToken::new()).unwrap();
        let disk = package.part("disk.vmdk").unwrap();
        let mut text = Vec::new();
        disk.read(|piece| {
            text.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
        assert_eq!((text.as_slice(), disk.length), (&b"disk"[..], 4));
        // The same in a folder.
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("a.ovf", OVF), ("a.mf", &manifest), ("disk.vmdk", "disk"), ("b.ovf", "other")] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let package = Package::open(&dir.path().join("a.ovf")).unwrap();
        package.verify(&CancellationToken::new()).unwrap();
        std::fs::write(dir.path().join("disk.vmdk"), "dusk").unwrap();
        let error = chain(&package.verify(&CancellationToken::new()).unwrap_err());
        assert!(error.contains("\"disk.vmdk\" is damaged"), "{error}");
        let stopped = CancellationToken::new();
        stopped.cancel();
        assert!(matches!(package.verify(&stopped), Err(Error::Interrupted)));
    }

    #[test]
    fn what_is_no_package_is_said() {
        let packed = "<Envelope><References><File href='d' compression='gzip'/></References></Envelope>";
        for (files, says) in [
            (&[("x", "y")][..], "there is no .ovf"),
            (&[("a.ovf", OVF)], "couldn't find file in archive: \"disk.vmdk\""),
            (&[("a.ovf", "<x/>")], "its description is no OVF"),
            (&[("a.ovf", "<!DOCTYPE x []><Envelope/>")], "a type of document of its own"),
            (&[("a.ovf", packed), ("d", "")], "\"d\" is compressed"),
        ] {
            let error = chain(&Package::open(archive(files).path()).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
        for (line, says) in [
            ("MD5(a.ovf)= 00", "has the line \"MD5(a.ovf)= 00\""),
            ("SHA1(gone)= 00", "names \"gone\", which is not there"),
            ("SHA1(a.ovf)= 00", "\"a.ovf\" is damaged"),
        ] {
            let file = archive(&[("a.ovf", "<Envelope/>"), ("a.mf", line)]);
            let error = Package::open(file.path()).unwrap().verify(&CancellationToken::new()).unwrap_err();
            assert!(chain(&error).contains(says), "{error}");
        }
        let text = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(text.path(), "no archive at all, but long enough for a header of one".repeat(40))
            .unwrap();
        assert!(chain(&Package::open(text.path()).unwrap_err()).contains("it is no OVA"));
        // Cut off in the middle.
        let file = archive(&[("a.ovf", OVF), ("disk.vmdk", &"x".repeat(5000))]);
        file.as_file().set_len(3000).unwrap();
        assert!(chain(&Package::open(file.path()).unwrap_err()).contains("it is no OVA"));
    }
}
