//! Update payloads of Container Linux ("CrAU"): full updates are made, verified and applied here.
//!
//! | part | bytes |
//! |---|---|
//! | `CrAU`, version 1, length of the manifest | 4 + 8 + 8, big-endian |
//! | manifest ([`manifest::DeltaArchiveManifest`], protobuf) | as said |
//! | data of the operations, in the order of the manifest | `signatures_offset` |
//! | signatures (protobuf) of all before them | `signatures_size` |
//!
//! Differences (MOVE, BSDIFF) are neither made nor applied.

mod dump;
mod folder;
mod keys;
pub mod manifest;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::io;
use std::path::PathBuf;

pub use dump::dump;
pub use folder::{Generator, full_update};
pub use keys::{DEVELOPER_KEY, PRIVATE_KEY, PUBLIC_KEY, VerifyingKey, private_key};
pub use read::{Metadata, Targets, apply, verify};
pub use write::{Options, Source, generate};

use crate::error::Stop;

const LOG: &str = "update";

/// How a payload begins.
pub const MAGIC: &[u8; 4] = b"CrAU";
/// The only version of the format.
pub const VERSION: u64 = 1;
/// Bytes of a block; a payload may say so or leave it out.
pub const BLOCK: u64 = 4096;
/// The application whose updates these are.
pub const APP_ID: &str = "{E96281A6-D1AF-4BDE-9A0A-97B76E56DC57}";

/// Bytes before the manifest.
const HEADER: u64 = 20;
/// The version of signatures that clients check: RSA PKCS#1 v1.5 of a SHA-256.
const SIGNATURE_VERSION: u32 = 2;

/// What is wrong with a payload, or with what one is to be made of.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a payload at all.
    #[error("payload missing magic prefix")]
    Magic,
    /// Another format.
    #[error("payload version unsupported: {0}")]
    Version(u64),
    /// No manifest.
    #[error("missing manifest")]
    NoManifest,
    /// A length that no payload has.
    #[error("{what} of {length} bytes is too long")]
    TooLong {
        /// Of what.
        what: &'static str,
        /// How long it says it is.
        length: u64,
    },
    /// Not the protobuf message it should be.
    #[error("invalid {what}")]
    Message {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: prost::DecodeError,
    },
    /// Blocks of another size.
    #[error("payload block size not {BLOCK}")]
    BlockSize,
    /// Something in the manifest that contradicts itself or cannot be applied.
    #[error("{0}")]
    Manifest(String),
    /// One operation.
    #[error("operation {index}: {why}\n{text}")]
    Operation {
        /// Its number, from 0, over all procedures.
        index: usize,
        /// What is wrong.
        why: String,
        /// The operation as text.
        text: String,
    },
    /// None of the signatures is by the key.
    #[error("no valid signatures found")]
    Signature,
    /// Bytes after the signatures.
    #[error("found {0} trailing bytes")]
    Trailing(u64),
    /// The payload ends early.
    #[error("the payload ends early, in its {0}")]
    Truncated(&'static str),
    /// An image that blocks do not fill.
    #[error("read an incomplete block: the image has {0} bytes, which is no multiple of {BLOCK}")]
    IncompleteBlock(u64),
    /// What is written is not what it should be.
    #[error("the {0} written does not have the hash that the payload says")]
    Written(&'static str),
    /// A payload may not be that long.
    #[error("the payload would be longer than 4 GiB")]
    Overflow,
    /// A key that cannot be used.
    #[error("cannot use the key {}", .path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The library of ciphers failed.
    #[error("cannot compute a signature")]
    Crypto(#[from] openssl::error::ErrorStack),
    /// A file cannot be read or written.
    #[error("cannot {action}")]
    Io {
        /// What was tried, on what.
        action: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The external generator could not be started, or failed.
    #[error(transparent)]
    Generator(#[from] crate::process::Error),
    /// The user interrupted the work.
    #[error("interrupted")]
    Interrupted(#[source] Stop),
    /// The description beside a payload.
    #[error(transparent)]
    Description(#[from] crate::omaha::Error),
    /// The version of an image.
    #[error(transparent)]
    Release(#[from] crate::release::version::Error),
}

impl Error {
    fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    fn interrupted() -> Self {
        Self::Interrupted(Stop::Interrupted)
    }

    /// Whether the user interrupted the work.
    pub fn is_interruption(&self) -> bool {
        matches!(self, Self::Interrupted(_))
    }
}
