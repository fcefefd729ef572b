//! Downloads: one engine for all schemes.
//!
//! A download grows in `<destination>.part` (another name, if that is somebody else's) and is renamed when length, checksum and signature agree, all found out in
//! one pass while it is written; any failure leaves the destination as it was. A part is resumed only if server and
//! note agree on the version of the content. Transient errors are retried, with one budget for all of them.

mod ahead;
mod local;
mod part;
mod s3;
pub mod signature;
mod source;
mod transfer;
mod update;
mod writer;

use std::io;
use std::path::{Path, PathBuf};

use crate::cloud::google::storage::{self, Storage};
pub use crate::compress::Compression;
use crate::http::{self, Client, Transient};
use crate::target::Refused;

pub use ahead::Ranges;
pub use local::decompress;
pub use source::{Source, SourceError};
pub use transfer::{Outcome, Request};
pub use update::{Signed, Update};

/// An error of a check.
pub type CheckError = Box<dyn std::error::Error + Send + Sync>;

/// Judges the content while it streams by.
pub trait Check: Send {
    /// Takes the next bytes.
    fn update(&mut self, data: &[u8]);

    /// Whether all of it is as it should be, and what that means, for people.
    ///
    /// # Errors
    /// Why it is not.
    fn finish(self: Box<Self>) -> Result<String, CheckError>;
}

/// Makes a check, anew for each pass over the content.
pub type MakeCheck<'a> = &'a (dyn Fn() -> Result<Box<dyn Check>, CheckError> + Send + Sync);

/// Why a download failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server could not be reached or refused.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// Google Storage could not be reached or refused.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// The engine was made without a client for Google Storage.
    #[error("no access to Google Storage")]
    NoStorage,
    /// An endpoint of the environment is no URL.
    #[error("cannot use ${name}: {value:?} is no URL")]
    Endpoint {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// A file could not be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The destination is a folder, a device or the like.
    #[error(transparent)]
    Target(#[from] Refused),
    /// Another process downloads to the same place.
    #[error("another process is writing {}", .path.display())]
    Busy {
        /// The partial file.
        path: PathBuf,
    },
    /// The content was replaced by another during the download, again and again.
    #[error("{what} keeps changing")]
    Changed {
        /// The source.
        what: String,
    },
    /// The server broke the rules.
    #[error("{what}: {reason}")]
    Protocol {
        /// The source.
        what: String,
        /// How.
        reason: String,
    },
    /// The server was asked for the rest of the content and sent something else.
    #[error("{what}: {reason}")]
    Range {
        /// The source.
        what: String,
        /// What came.
        reason: &'static str,
    },
    /// What came again is not what came before, although the server says that it is.
    #[error("{what}: other bytes came than before under the same version")]
    Differs {
        /// The source.
        what: String,
    },
    /// The check fails as the content is, and would not if it were (or were not) decoded.
    #[error("{what} comes with Content-Encoding {coding}, and the signature is over {signed}")]
    Encoded {
        /// The source.
        what: String,
        /// The value of the header.
        coding: String,
        /// Which bytes were signed.
        signed: &'static str,
        /// What the check says of the other ones.
        #[source]
        source: CheckError,
    },
    /// The connection ended early.
    #[error("{what}: the connection ended after {got} of {total} bytes")]
    Truncated {
        /// The source.
        what: String,
        /// Bytes that came.
        got: u64,
        /// Bytes that were announced.
        total: u64,
    },
    /// The content does not fit the server's own checksum.
    #[error("{what}: the content differs from its checksum")]
    Checksum {
        /// The source.
        what: String,
    },
    /// The content is longer than the caller wants.
    #[error("{what} is longer than {limit} bytes")]
    TooLong {
        /// The source.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// The check failed.
    #[error("{what} is not verified")]
    Rejected {
        /// The source, or the existing file.
        what: String,
        /// Why.
        #[source]
        source: CheckError,
    },
    /// The content cannot be decompressed.
    #[error("{what}: damaged compressed data")]
    Corrupt {
        /// The file.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The caller's token was cancelled.
    #[error("interrupted")]
    Interrupted,
    /// A thread of the engine ended unexpectedly.
    #[error("the writing thread failed: {0}")]
    Thread(String),
}

impl Error {
    fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }

    fn write(path: &Path, source: io::Error) -> Self {
        Self::Write { path: path.to_owned(), source }
    }

    fn thread(reason: impl std::fmt::Display) -> Self {
        Self::Thread(reason.to_string())
    }

    /// Whether the content is wrong, as opposed to not having come.
    fn is_about_content(&self) -> bool {
        matches!(
            self,
            Self::Checksum { .. }
                | Self::Rejected { .. }
                | Self::Encoded { .. }
                | Self::Corrupt { .. }
                | Self::Differs { .. }
        )
    }

    /// The status of the server's answer, if that is what failed.
    pub fn status(&self) -> Option<reqwest::StatusCode> {
        match self {
            Self::Http(e) => e.status(),
            Self::Storage(e) => e.status(),
            _ => None,
        }
    }
}

impl Transient for Error {
    fn is_transient(&self) -> bool {
        match self {
            Self::Http(e) => e.is_transient(),
            Self::Storage(e) => e.is_transient(),
            Self::Truncated { .. } => true,
            _ => false,
        }
    }

    fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            Self::Http(e) => e.retry_after(),
            Self::Storage(e) => e.retry_after(),
            _ => None,
        }
    }
}

/// Makes a check from the bytes of a detached signature.
pub type MakeVerifier<'a> = &'a (dyn Fn(&[u8]) -> Result<Box<dyn Check>, CheckError> + Send + Sync);

/// Downloads from anywhere. Clones share connections and credentials.
#[derive(Clone, Debug)]
pub struct Engine {
    http: Client,
    storage: Option<Storage>,
    ranges: Ranges,
}

impl Engine {
    /// An engine; without `storage`, `gs://` sources are refused.
    pub fn new(http: Client, storage: Option<Storage>) -> Self {
        Self { http, storage, ranges: Ranges::default() }
    }

    /// The same with another rule for fetching several ranges at a time.
    pub fn with_ranges(self, ranges: Ranges) -> Self {
        Self { ranges, ..self }
    }

    fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    fn storage(&self) -> Result<&Storage, Error> {
        self.storage.as_ref().ok_or(Error::NoStorage)
    }
}
