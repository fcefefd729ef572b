//! What is asked of the part that runs as root.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::dir::Dir;
use super::{Error, create, enter, provision, remove, root};
use crate::error::{self, Report, SUCCESS, Stop};
use crate::log;
use crate::multicall::Entry;

/// The entries of this module's parts that run as root.
pub const ENTRIES: &[Entry] = &[
    Entry { name: CREATE, run: |args| run(args, create::create) },
    Entry { name: PROVISION, run: |args| run(args, provision::run) },
    Entry { name: DELETE, run: |args| run(args, remove::delete) },
    // Ends in another program, or not at all.
    Entry { name: ENTER, run: |args| run(args, |request| Err(enter::enter(request))) },
    Entry { name: root::NAMESPACE, run: |args| Err(root::in_namespace(args).into()) },
    Entry { name: root::MAP, run: |args| Ok(root::map_users(args).map(|()| SUCCESS)?) },
    Entry { name: root::NOTHING, run: |_| Ok(SUCCESS) },
];

/// Unpacks the archive on standard input.
pub const CREATE: &str = "createChroot";
/// Gives an unpacked tree its user.
pub(super) const PROVISION: &str = "provisionChroot";
/// Removes a tree.
pub const DELETE: &str = "deleteChroot";
/// Runs a command inside.
pub const ENTER: &str = "enterChroot";

/// What is asked for, in JSON; the first keys are upstream's.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Request {
    /// The source tree on this machine, as an absolute path without links.
    #[serde(skip_serializing_if = "is_empty")]
    pub repo_root: PathBuf,
    /// The chroot, as an absolute path without links, at least on the way to it.
    pub chroot: PathBuf,
    /// What sudo inside gets besides the user.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Where that starts, inside.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cmd_dir: String,
    /// Whether GnuPG's agent can be reached from inside.
    #[serde(skip_serializing_if = "is_false")]
    pub bind_gpg_agent: bool,
    /// Whether names are resolved as on this machine.
    #[serde(rename = "UseHostDNS", skip_serializing_if = "is_false")]
    pub use_host_dns: bool,
    /// Whether a chroot that is there gives way to the new one.
    #[serde(skip_serializing_if = "is_false")]
    pub replace: bool,
    /// What messages call the archive.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub archive: String,
    /// How many bytes the archive has.
    #[serde(skip_serializing_if = "is_zero")]
    pub size: u64,
    /// How much is said: a level's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub log_level: String,
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl Request {
    /// The folder that the chroot is in, and its name there.
    ///
    /// # Errors
    /// If the path is not absolute or has no name; [`Error::Link`] if the way there leads through one.
    pub(super) fn place(&self) -> Result<(Dir, OsString), Error> {
        let (parent, name) = (self.chroot.parent(), self.chroot.file_name());
        let (Some(parent), Some(name), true) = (parent, name, self.chroot.is_absolute()) else {
            return Err(Error::Kind { path: self.chroot.clone(), wanted: "the absolute path of a chroot" });
        };
        Ok((Dir::open(parent)?, name.to_owned()))
    }
}

/// Reads the one argument and does what it asks for.
fn run(args: &[OsString], work: fn(&Request) -> Result<(), Error>) -> error::Result<u8> {
    let [json] = args else { return Err(Report::msg("exactly one argument is expected: a request in JSON")) };
    let request: Request = serde_json::from_slice(json.as_encoded_bytes()).map_err(Error::Request)?;
    if let Ok(level) = request.log_level.parse() {
        log::set_level(level);
    }
    match work(&request) {
        Ok(()) => Ok(SUCCESS),
        Err(Error::Interrupted) => Err(Stop::Interrupted.into()),
        Err(e) => Err(e.into()),
    }
}
