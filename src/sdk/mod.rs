//! Where things lie in the Container Linux SDK: source root, build root, board, images.

pub mod chroot;

use std::path::{Path, PathBuf};

use crate::release::version::Versions;

/// A path variable of the SDK that must be absolute and is not.
#[derive(Debug, thiserror::Error)]
#[error("{name} is not an absolute path: {value:?}")]
pub struct NotAbsolute {
    name: &'static str,
    value: PathBuf,
}

fn variable(name: &'static str) -> Result<Option<PathBuf>, NotAbsolute> {
    match std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from) {
        Some(value) if value.is_relative() => Err(NotAbsolute { name, value }),
        other => Ok(other),
    }
}

/// The SDK's source root: `$REPO_ROOT`, `/mnt/host/source` inside the chroot, the nearest folder above with a
/// `.repo`, else the current folder.
///
/// # Errors
/// When `$REPO_ROOT` is not absolute.
pub fn repo_root() -> Result<PathBuf, NotAbsolute> {
    if let Some(root) = variable("REPO_ROOT")? {
        return Ok(root);
    }
    let inside = Path::new("/mnt/host/source");
    if inside.is_dir() {
        return Ok(inside.into());
    }
    let here = std::env::current_dir().unwrap_or_else(|_| ".".into());
    Ok(here.ancestors().find(|d| d.join(".repo").exists()).unwrap_or(&here).to_owned())
}

/// The SDK's build output: `$BUILD_ROOT`, else `src/build` below the source root.
///
/// # Errors
/// When a variable is not absolute.
pub fn build_root() -> Result<PathBuf, NotAbsolute> {
    match variable("BUILD_ROOT")? {
        Some(root) => Ok(root),
        None => Ok(repo_root()?.join("src/build")),
    }
}

/// Where downloads are kept: `.cache` below the source root.
///
/// # Errors
/// When a variable is not absolute.
pub fn cache_root() -> Result<PathBuf, NotAbsolute> {
    Ok(repo_root()?.join(".cache"))
}

/// The version of the sources, without the build: what the manifest's `version.txt` says, if it can be read.
pub fn manifest_version() -> Option<String> {
    let folder = repo_root().ok()?.join(".repo/manifests");
    Versions::of_folder(&folder).ok().map(|v| v.version_id)
}

/// This machine's architecture in Portage's (and the SDK tarballs') spelling; `None` if there is no SDK for it.
pub fn portage_architecture() -> Option<&'static str> {
    match host_architecture() {
        known @ ("x86" | "amd64" | "arm" | "arm64") => Some(known),
        "powerpc64" => Some("ppc64"),
        _ => None,
    }
}

/// The board that `src/scripts/.default_board` names, else the host's: `amd64-usr` or `arm64-usr`.
pub fn default_board() -> String {
    let named = repo_root()
        .ok()
        .and_then(|r| crate::input::read_to_string(&r.join("src/scripts/.default_board")).ok());
    match named.as_deref().map(str::trim) {
        Some(board) if !board.is_empty() => board.to_owned(),
        _ => format!("{}-usr", host_architecture()),
    }
}

/// This machine's architecture in Go's (and the SDK's) spelling.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The folder of a board's image of a version: `latest` or a version number.
///
/// # Errors
/// When a variable is not absolute.
pub fn image_dir(board: &str, version: &str) -> Result<PathBuf, NotAbsolute> {
    let version = if version == "latest" { version.to_owned() } else { format!("developer-{version}-a1") };
    Ok(build_root()?.join("images").join(board).join(version))
}
