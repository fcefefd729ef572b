//! OpenStack: who we are (Keystone), machines (Nova), what connects them (Neutron), and images (Glance).
//!
//! | file | what it is |
//! |---|---|
//! | `account`, `sources`, `login` | who one is, and where |
//! | `api/` | the services, with plain types |
//! | `images` | how images get there |
//! | `gc` | what is left over |

mod account;
pub mod api;
pub mod gc;
pub mod images;
pub mod login;
pub mod refusal;
pub mod sources;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use self::account::Account;
use crate::cloud::profile;
use crate::http::CallError;

/// Metadata of servers that mantle makes, with its value.
pub const MARK: (&str, &str) = ("CreatedBy", "mantle");

/// The tag of images that mantle makes.
pub const IMAGE_TAG: &str = "mantle";

/// What can go wrong with credentials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A profile cannot be used.
    #[error(transparent)]
    Profile(#[from] profile::Error),
    /// A file of clouds or certificates cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of clouds is not what it should be. The reason never quotes the file: it holds secrets.
    #[error("parsing {}: {reason}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is no such cloud.
    #[error("clouds.yaml has no cloud {name:?} (there: {there})")]
    NoCloud {
        /// The one that was asked for.
        name: String,
        /// Those that are there.
        there: String,
    },
    /// There are several, and none is chosen.
    #[error("clouds.yaml has several clouds ({there}); choose one by the profile or $OS_CLOUD")]
    WhichCloud {
        /// Those that are there.
        there: String,
    },
    /// A setting is missing.
    #[error("{origin}: there is no {what}")]
    Incomplete {
        /// Where the settings come from.
        origin: String,
        /// What is missing.
        what: String,
    },
    /// A setting asks for what there is not.
    #[error("{origin}: {what}")]
    Unsupported {
        /// Where the settings come from.
        origin: String,
        /// What is asked for.
        what: String,
    },
    /// Keystone was asked, or could not be.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Keystone refuses a user whose domain was taken for granted.
    #[error("{origin} names no domain of the user, so it was taken to be {domain:?}")]
    DefaultDomain {
        /// Where the settings come from.
        origin: String,
        /// The domain.
        domain: &'static str,
        /// What it said.
        #[source]
        source: Box<CallError>,
    },
}
