//! The files that name a release: `version.txt` beside images, `os-release` in systems.
//!
//! Lines are `KEY=VALUE`. One pair of quotes around a value is left out; of several lines for a key the last counts;
//! everything else is ignored.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Longer files are refused, in bytes; real ones have some hundred.
pub const MAX_SIZE: u64 = 64 << 10;
/// What a folder's version file is called.
pub const FILE_NAME: &str = "version.txt";

/// Prefixes of the keys in `version.txt`: Flatcar's, Container Linux's.
const PREFIXES: [&str; 2] = ["FLATCAR_", "COREOS_"];

/// Why a file names no release.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A key is not there, or empty.
    #[error("Missing {key} in {file}")]
    Missing {
        /// The key.
        key: String,
        /// The file.
        file: String,
    },
    /// The version does not begin with the version id.
    #[error("Invalid {key} in {file}")]
    Invalid {
        /// The key.
        key: String,
        /// The file.
        file: String,
    },
}

/// The versions of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    /// All of it, with the build: `968.2.0+build-foo`.
    pub version: String,
    /// The number alone: `968.2.0`.
    pub version_id: String,
    /// The build, empty for releases: `build-foo`.
    pub build_id: String,
    /// The SDK that it was built with; `os-release` has none.
    pub sdk_version: Option<String>,
}

impl Versions {
    /// Reads the text of a `version.txt`, of Container Linux or of Flatcar; `file` is what messages call it.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Invalid`].
    pub fn parse_version_txt(text: &str, file: &str) -> Result<Self, Error> {
        let keys = keys(text);
        let has = |prefix: &&&str| keys.contains_key(format!("{prefix}VERSION_ID").as_str());
        let some = |prefix: &&&str| keys.keys().any(|k| k.starts_with(**prefix));
        let prefix = PREFIXES.iter().find(has).or_else(|| PREFIXES.iter().find(some)).unwrap_or(&PREFIXES[1]);
        let mut versions = Self::from_keys(&keys, prefix, file)?;
        let key = format!("{prefix}SDK_VERSION");
        match keys.get(key.as_str()) {
            Some(version) if !version.is_empty() => versions.sdk_version = Some((*version).to_owned()),
            _ => return Err(Error::Missing { key, file: file.into() }),
        }
        Ok(versions)
    }

    /// Reads the text of an `os-release`; `file` is what messages call it.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Invalid`].
    pub fn parse_os_release(text: &str, file: &str) -> Result<Self, Error> {
        Self::from_keys(&keys(text), "", file)
    }

    /// Reads the `version.txt` of a folder.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn of_folder(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(FILE_NAME);
        Self::parse_version_txt(&read(&path)?, &path.display().to_string())
    }

    /// Reads an `os-release` file.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn of_os_release(path: &Path) -> Result<Self, Error> {
        Self::parse_os_release(&read(path)?, &path.display().to_string())
    }

    fn from_keys(keys: &BTreeMap<&str, &str>, prefix: &str, file: &str) -> Result<Self, Error> {
        let key = |name: &str| format!("{prefix}{name}");
        let value = |name: &str| keys.get(key(name).as_str()).copied().unwrap_or_default().to_owned();
        let (version, version_id) = (value("VERSION"), value("VERSION_ID"));
        if version_id.is_empty() {
            return Err(Error::Missing { key: key("VERSION_ID"), file: file.into() });
        }
        if !version.starts_with(&version_id) {
            return Err(Error::Invalid { key: key("VERSION"), file: file.into() });
        }
        Ok(Self { version, version_id, build_id: value("BUILD_ID"), sdk_version: None })
    }
}

fn keys(text: &str) -> BTreeMap<&str, &str> {
    let unquoted = |value| {
        let inner = |quote| str::strip_prefix(value, quote)?.strip_suffix(quote);
        inner('"').or_else(|| inner('\'')).unwrap_or(value)
    };
    text.lines().filter_map(|line| line.split_once('=')).map(|(key, value)| (key, unquoted(value))).collect()
}

fn read(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = crate::input::open(path).map_err(failed)?;
    file.take(MAX_SIZE + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_SIZE {
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "longer than 64 KiB")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(prefix: &str) -> String {
        format!(
            "O{prefix}BUILD=968\n{prefix}VERSION='968.2.0+build-foo'\n{prefix}VERSION_ID=968.2.0\n\
             {prefix}BUILD_ID=\"build-foo\"\nnonsense\n{prefix}SDK_VERSION=967.0.0\n"
        )
    }

    fn versions(sdk: Option<&str>) -> Versions {
        Versions {
            version: "968.2.0+build-foo".into(),
            version_id: "968.2.0".into(),
            build_id: "build-foo".into(),
            sdk_version: sdk.map(String::from),
        }
    }

    #[test]
    fn both_prefixes_are_read() {
        for prefix in ["COREOS_", "FLATCAR_"] {
            let parsed = Versions::parse_version_txt(&text(prefix), "f").unwrap();
            assert_eq!(parsed, versions(Some("967.0.0")));
        }
        // the keys of one prefix belong together
        let mixed = text("FLATCAR_") + "COREOS_VERSION=1.0.0\nCOREOS_VERSION_ID=1.0.0\n";
        assert_eq!(Versions::parse_version_txt(&mixed, "f").unwrap(), versions(Some("967.0.0")));
        assert_eq!(Versions::parse_os_release(&text(""), "f").unwrap(), versions(None));
    }

    #[test]
    fn the_last_of_several_lines_counts_and_one_pair_of_quotes_goes() {
        let more = "COREOS_VERSION_ID=1\nCOREOS_VERSION=\"'1'\"\nCOREOS_VERSION='1.2=\"3\"'\nCOREOS_BUILD_ID=\"x'\n\
                    COREOS_SDK_VERSION=\n COREOS_SDK_VERSION=8\nCOREOS_SDK_VERSION='9\r\n";
        let parsed = Versions::parse_version_txt(&(text("COREOS_") + more), "f").unwrap();
        assert_eq!((&*parsed.version, &*parsed.build_id), ("1.2=\"3\"", "\"x'"));
        assert_eq!(parsed.sdk_version.as_deref(), Some("'9"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let complain =
            |text: &str| Versions::parse_version_txt(text, "a/version.txt").unwrap_err().to_string();
        assert_eq!(complain(""), "Missing COREOS_VERSION_ID in a/version.txt");
        assert_eq!(complain("FLATCAR_VERSION=1"), "Missing FLATCAR_VERSION_ID in a/version.txt");
        let wrong = text("COREOS_").replace("'968.2.0+", "'968.1.0+");
        assert_eq!(complain(&wrong), "Invalid COREOS_VERSION in a/version.txt");
        let short = text("FLATCAR_").replace("FLATCAR_SDK_VERSION=967.0.0", "FLATCAR_SDK_VERSION=");
        assert_eq!(complain(&short), "Missing FLATCAR_SDK_VERSION in a/version.txt");
        let os = Versions::parse_os_release("ID=x\nVERSION=1\n", "os-release").unwrap_err();
        assert_eq!(os.to_string(), "Missing VERSION_ID in os-release");
    }

    #[test]
    fn files_are_read_within_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        assert!(matches!(Versions::of_folder(folder.path()), Err(Error::Read { .. })));
        std::fs::write(&path, text("COREOS_")).unwrap();
        assert_eq!(Versions::of_folder(folder.path()).unwrap(), versions(Some("967.0.0")));
        std::fs::write(&path, "VERSION=7.1\nVERSION_ID='7'").unwrap();
        assert_eq!(Versions::of_os_release(&path).unwrap().version, "7.1");
        for bad in [vec![b'x'; 70_000], vec![0xff]] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(Versions::of_folder(folder.path()), Err(Error::Read { .. })));
        }
    }
}
