//! What is released where: the channel table, and the files that name a release.
//!
//! The table is data (`channels.yaml`), because every operator has other buckets and accounts. It is built in; a file
//! can take its place as a whole, so that nothing of the built-in one is published to by accident. The text is
//! checked when it is read: a [`Table`] in hand is sound.
//!
//! | what | where |
//! |---|---|
//! | all about a channel, a board and a version at once | [`Distribution::select`] |
//! | a channel alone | [`Distribution::channel`] |
//! | which prefixes of which buckets need new index pages | [`index::plan`] |
//! | roots, names and platforms of public downloads | [`Downloads`] |
//! | `version.txt` and `os-release` | [`version`] |

mod check;
mod downloads;
pub mod index;
mod select;
mod table;
#[cfg(test)]
mod tests;
pub mod version;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use downloads::{RootError, file_in};
pub use select::Selection;
pub use table::{
    Aws, AwsPartition, Azure, AzureEnvironment, Channel, ClassicAzure, Destination, DiskFormat, Distribution,
    Downloads, Gce, Manifest, Metadata, Releases, Sdk, Simplestreams,
};

/// The built-in table.
pub const CHANNELS: &str = include_str!("channels.yaml");
/// What messages call it.
const BUILTIN: &str = "the built-in channel table";
/// Longer tables are refused, in bytes; the built-in one has 15 000.
const MAX_SIZE: u64 = 256 << 10;
/// A deeper nesting is refused: the YAML parser takes quadratic time for it.
const MAX_BRACKETS: usize = 64;

type Distributions = BTreeMap<String, Distribution>;

/// Why the channel table cannot be used, or has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the channel table {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not YAML, or not these fields.
    #[error("{file}: {reason}")]
    Syntax {
        /// The file.
        file: String,
        /// What is wrong, and where.
        reason: String,
    },
    /// A value that cannot be right.
    #[error("{file}: {place}: {reason}")]
    Invalid {
        /// The file.
        file: String,
        /// Distribution, channel and field.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// The table has no such distribution.
    #[error("unknown distribution {name:?}")]
    UnknownDistribution {
        /// The name asked for.
        name: String,
        /// Those that are there.
        known: Vec<String>,
    },
    /// Something that must be said was not: the board, the channel or the version.
    #[error("{0} is required")]
    Required(&'static str),
    /// The distribution has no such channel.
    #[error("Unknown channel: {name}")]
    UnknownChannel {
        /// The name asked for.
        name: String,
        /// Those that are there.
        known: Vec<String>,
    },
    /// The channel does not have such a board.
    #[error("Unknown board {board:?} for channel {channel:?}")]
    UnknownBoard {
        /// The board asked for.
        board: String,
        /// The channel.
        channel: String,
    },
    /// None of the chosen channels has such a board.
    #[error("Unknown board: {name}")]
    BoardNowhere {
        /// The board asked for.
        name: String,
        /// Those that are there.
        known: Vec<String>,
    },
    /// A board or version that would leave its folder.
    #[error("{value:?} cannot be a {what}")]
    Name {
        /// What it was meant to be.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// `$USER` stands in a URL that is needed, but nobody knows the user's name.
    #[error("cannot tell the user's name for {url}: $USER is not set to one")]
    NoUser {
        /// The URL of the table.
        url: String,
    },
    /// The distribution's files go nowhere.
    #[error("{title} has no destinations: {reason}")]
    NoDestinations {
        /// The distribution.
        title: String,
        /// Why.
        reason: String,
    },
}

/// A table that has been read and checked.
#[derive(Clone, Debug)]
pub struct Table {
    distributions: Distributions,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    distributions: Distributions,
}

impl Table {
    /// The built-in table.
    ///
    /// # Errors
    /// Never, as the tests prove.
    pub fn builtin() -> Result<Self, Error> {
        Self::parse(CHANNELS, BUILTIN)
    }

    /// The table in a file, of the built-in one's form.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Syntax`], [`Error::Invalid`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Read { path: path.to_owned(), source };
        let mut text = String::new();
        let file = crate::input::open(path).map_err(failed)?;
        file.take(MAX_SIZE + 1).read_to_string(&mut text).map_err(failed)?;
        if text.len() as u64 > MAX_SIZE {
            return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "longer than 256 KiB")));
        }
        Self::parse(&text, &path.display().to_string())
    }

    /// The table in a text; `file` is what messages call it.
    ///
    /// # Errors
    /// [`Error::Syntax`], [`Error::Invalid`].
    pub fn parse(text: &str, file: &str) -> Result<Self, Error> {
        let file = || file.to_owned();
        let mut open = 0_usize;
        for byte in text.bytes() {
            match byte {
                b'[' | b'{' => open += 1,
                b']' | b'}' => open = open.saturating_sub(1),
                _ => {}
            }
            if open > MAX_BRACKETS {
                return Err(Error::Syntax { file: file(), reason: "too many brackets are open".into() });
            }
        }
        let document: Document =
            serde_yaml::from_str(text).map_err(|e| Error::Syntax { file: file(), reason: e.to_string() })?;
        let Document { distributions } = document;
        check::table(&distributions).map_err(|(place, reason)| Error::Invalid {
            file: file(),
            place,
            reason,
        })?;
        Ok(Self { distributions })
    }

    /// The distribution of this name.
    ///
    /// # Errors
    /// [`Error::UnknownDistribution`].
    pub fn distribution(&self, name: &str) -> Result<&Distribution, Error> {
        self.distributions.get(name).ok_or_else(|| {
            let known = self.distributions.keys().cloned().collect();
            Error::UnknownDistribution { name: name.into(), known }
        })
    }

    /// The id of the kernel that paravirtual machines boot in a region of AWS: a fact about the region, whichever channel
    /// states it; none: there are no such machines.
    pub fn pv_kernel(&self, region: &str) -> Option<&str> {
        let channels = self.distributions.values().flat_map(|d| d.channels.values());
        channels.filter_map(|c| c.aws.as_ref()).find_map(|aws| aws.pv_kernel(region))
    }

    /// All distributions by name.
    pub fn distributions(&self) -> impl Iterator<Item = (&str, &Distribution)> {
        self.distributions.iter().map(|(name, d)| (name.as_str(), d))
    }
}

/// The user's name for `$USER` in URLs: the variable, else the system's name for who runs this.
pub fn user() -> Option<String> {
    let variable = std::env::var("USER").ok().filter(|name| !name.is_empty());
    variable.or_else(|| nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|u| u.name))
}

/// Whether a text can stand between two slashes of a path.
fn is_component(text: &str) -> bool {
    !matches!(text, "" | "." | "..") && !text.contains('/') && !text.chars().any(char::is_control)
}

/// Puts values in for `{names}`.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = String::with_capacity(template.len() + 16);
    let mut rest = template;
    while let Some((before, tail)) = rest.split_once('{') {
        text += before;
        let known = values
            .iter()
            .find_map(|(name, value)| Some((*value, tail.strip_prefix(name)?.strip_prefix('}')?)));
        match known {
            Some((value, after)) => {
                text += value;
                rest = after;
            }
            None => {
                text.push('{');
                rest = tail;
            }
        }
    }
    text + rest
}

/// The board without `-usr`: `amd64` or `arm64`.
fn architecture(board: &str) -> &str {
    board.strip_suffix("-usr").unwrap_or(board)
}
