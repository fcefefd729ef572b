//! Google: who we are (credentials), what is stored there (Cloud Storage), and images and machines (Compute Engine).
//!
//! | file | what it is |
//! |---|---|
//! | `account`, `credentials`, `sources`, `boto`, `external`, `login`, `jwt` | who one is, and where |
//! | `compute/`, `storage/` | the services, with plain types |
//! | `archive`, `images` | what images are made of, their names, and what is done with them |
//! | `gc` | what is left over |

mod account;
pub mod archive;
pub mod boto;
pub mod compute;
pub mod credentials;
mod external;
pub mod gc;
pub mod images;
mod jwt;
mod login;
pub mod refusal;
pub mod sources;
pub mod storage;

pub use self::account::Account;

use std::path::PathBuf;
use std::time::Duration;

use crate::http;

/// Full control of Cloud Storage.
pub const SCOPE_STORAGE: &str = "https://www.googleapis.com/auth/devstorage.full_control";
/// Reading Cloud Storage.
pub const SCOPE_STORAGE_READ: &str = "https://www.googleapis.com/auth/devstorage.read_only";
/// Compute Engine.
pub const SCOPE_COMPUTE: &str = "https://www.googleapis.com/auth/compute";

/// What mantle's commands ask for; other tools share its cached tokens.
pub const SCOPES: &[&str] = &[SCOPE_STORAGE, SCOPE_COMPUTE];

/// Label and metadata of everything that mantle makes at Google, with its value.
pub const MARK: (&str, &str) = ("created-by", "mantle");

/// Where tokens come from, unless a key file says otherwise.
pub const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
/// Where people allow access in their browser.
pub const AUTH_URI: &str = "https://accounts.google.com/o/oauth2/v2/auth";

/// What can go wrong with credentials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of credentials cannot be read.
    #[error("cannot read credentials {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of credentials cannot be written.
    #[error("cannot write credentials {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of credentials is not what it should be. The reason never quotes the file: it holds secrets.
    #[error("parsing {}: {reason}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A variable of the environment is not what it should be.
    #[error("cannot use ${name}: {reason}")]
    Variable {
        /// The variable.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The private key could not sign.
    #[error("cannot sign with the private key of {account}")]
    Sign {
        /// The account's address.
        account: String,
        /// Why.
        #[source]
        source: openssl::error::ErrorStack,
    },
    /// The token server gave no token.
    #[error("cannot get a token with {origin}")]
    Token {
        /// Which credentials.
        origin: String,
        /// Why.
        #[source]
        source: http::Error,
    },
    /// The token server's answer is no token.
    #[error("cannot get a token with {origin}: {reason}")]
    Answer {
        /// Which credentials.
        origin: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The token has expired and these credentials cannot get another.
    #[error("the token of {origin} has expired and cannot be renewed without a client id and secret")]
    Expired {
        /// Which credentials.
        origin: String,
    },
    /// The metadata server was asked for, but this is no Compute Engine machine.
    #[error("no metadata server: this machine is not on Google Compute Engine")]
    NotOnGce,
    /// The person at the browser refused, or the browser was sent by somebody else.
    #[error("the login failed: {0}")]
    Refused(String),
    /// Nobody answered in the browser.
    #[error("nobody allowed access in the browser within {} s", .0.as_secs())]
    NoAnswer(Duration),
    /// The local server for the login failed.
    #[error("cannot wait for the browser on 127.0.0.1")]
    Listen(#[source] std::io::Error),
    /// There are none.
    #[error(
        "none were found: neither a key file ($GOOGLE_APPLICATION_CREDENTIALS) nor ~/.boto nor those of gcloud \
         (`gcloud auth application-default login` makes some)"
    )]
    Missing,
    /// The HTTP client could not be set up.
    #[error(transparent)]
    Http(http::Error),
}
