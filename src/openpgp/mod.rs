//! OpenPGP (RFC 9580, RFC 4880): detached signatures over downloads.
//!
//! A [`Keyring`] holds the keys that are trusted: those of the release images, which are built in as numbers, or
//! the certificates of a key file. A [`Verifier`] takes the signature first and then the data as it streams by,
//! so that the data is read once. What makes a signature acceptable:
//!
//! | | built-in Container Linux key | built-in Flatcar key | certificate of a key file |
//! |---|---|---|---|
//! | revoked key, for whatever reason and at any time | refused | refused | refused |
//! | made outside the key's validity period | refused | refused | refused |
//! | key has expired since | accepted | accepted, warning | accepted, warning |
//! | SHA-1 | accepted | refused | refused |
//! | weaker digests; keys under 2048 bits | refused | refused | refused |
//! | signature expired, or from the future | refused | refused | refused |
//!
//! Only signatures over bytes count: one over text leaves line endings open. Of several signatures one good one
//! is enough; the others become warnings. A signature that cannot be accepted whatever the data is refused at
//! [`Verifier::new`], before anything is downloaded.

pub mod gnupg;
mod judge;
mod keyring;
#[cfg(test)]
mod tests;
mod verify;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use judge::Reason;
pub use keyring::{Builtin, Keyring};
pub use verify::{Verified, Verifier, verify_file, verify_reader};

const LOG: &str = "openpgp";

/// The most bytes a signature file may have. Real ones have about 600; an armored SLH-DSA signature, 68 000.
pub const MAX_SIGNATURE: usize = 128 << 10;
/// The most bytes a key file may have.
pub const MAX_KEYRING: usize = 8 << 20;
/// The most signature packets that are looked at in a signature file.
const MAX_SIGNATURES: usize = 16;

/// Some failure deep inside, kept as text with its own causes.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why there is no verified data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The data to be verified cannot be read.
    #[error("cannot read the signed data")]
    Data(#[source] io::Error),
    /// More bytes than anything sensible has.
    #[error("{what} has more than {limit} bytes")]
    TooLarge {
        /// The signature or the key file.
        what: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
    /// A key file is not acceptable.
    #[error("cannot use the key file {}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<Error>,
    },
    /// The table of the built-in keys does not parse: a mistake in this program.
    #[error("the table of built-in keys is damaged at line {0}")]
    Builtin(usize),
    /// Bytes that are no OpenPGP certificates.
    #[error("malformed OpenPGP certificate")]
    Certificate(#[source] Cause),
    /// Key data without any certificate of a kind we know.
    #[error("no usable OpenPGP certificate")]
    NoCertificate,
    /// Bytes that are no OpenPGP signature.
    #[error("malformed OpenPGP signature")]
    Malformed(#[source] Cause),
    /// No signature in the signature file.
    #[error("no OpenPGP signature")]
    NoSignature,
    /// The signature file has something else than signatures in it.
    #[error("not a detached OpenPGP signature: it has a packet of type {0}")]
    NotDetached(String),
    /// More signatures than [`MAX_SIGNATURES`].
    #[error("more than {MAX_SIGNATURES} OpenPGP signatures in one file")]
    TooMany,
    /// No signature is by a key of the keyring.
    #[error("signature made by an unknown key: {issuers}")]
    UnknownSigner {
        /// Fingerprints or key ids, comma-separated.
        issuers: String,
    },
    /// A key of the keyring is named as the signer but the signature does not count.
    #[error("refused the signature by key {key} of {signer}")]
    Refused {
        /// The signer's user id.
        signer: String,
        /// Fingerprint of the signing key.
        key: String,
        /// Why.
        #[source]
        reason: Reason,
    },
}

/// Reads a file of at most `limit` bytes; `what` it is, for the error.
fn read_bounded(path: &Path, limit: usize, what: &'static str) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = crate::input::open(path).map_err(failed)?;
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    check_size(&bytes, limit, what)?;
    Ok(bytes)
}

fn check_size(bytes: &[u8], limit: usize, what: &'static str) -> Result<(), Error> {
    if bytes.len() > limit { Err(Error::TooLarge { what, limit }) } else { Ok(()) }
}
