//! Where a user's files are: the XDG Base Directory Specification 0.8.

use std::io;
use std::path::{Path, PathBuf};

/// A file that was named and cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}", .path.display())]
pub struct Unusable {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl Unusable {
    /// For what the file system says of a file.
    pub fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self { path, source }
    }
}

/// `mantle` in the user's folder for configuration.
pub fn config() -> Option<PathBuf> {
    folder("XDG_CONFIG_HOME", ".config")
}

/// `mantle` in the user's folder for what can be made again.
pub fn cache() -> Option<PathBuf> {
    folder("XDG_CACHE_HOME", ".cache")
}

/// `mantle` in the user's folder for what should outlive the process.
pub fn state() -> Option<PathBuf> {
    folder("XDG_STATE_HOME", ".local/state")
}

/// The user's home: `$HOME`, else what the user database says.
pub fn home() -> Option<PathBuf> {
    variable("HOME").or_else(|| nix::unistd::User::from_uid(nix::unistd::getuid()).ok()?.map(|u| u.dir))
}

/// A path from the environment; an empty variable counts as absent.
pub fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// Relative values are to be ignored, says the specification.
fn folder(name: &str, in_home: &str) -> Option<PathBuf> {
    let named = variable(name).filter(|p| p.is_absolute());
    named.or_else(|| variable("HOME").map(|home| home.join(in_home))).map(|p| p.join("mantle"))
}
