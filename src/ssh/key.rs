//! The key pair of a flight: made in memory, never written to disk.

use std::fmt;

use openssl::base64::encode_block;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::sign::Signer;

use super::{Cause, Error};

/// The comment of every flight's key.
pub(super) const COMMENT: &str = "core@default";

/// An RSA key pair of 2048 bits.
pub struct Key {
    private: PKey<Private>,
    pem: String,
    blob: Vec<u8>,
    authorized: String,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.authorized).finish()
    }
}

impl Key {
    /// Makes a new key; takes some tenths of a second of one core.
    ///
    /// # Errors
    /// When OpenSSL cannot.
    pub fn generate() -> Result<Self, Error> {
        Self::make().map_err(Error::Key)
    }

    fn make() -> Result<Self, Cause> {
        let rsa = Rsa::generate(2048)?;
        let blob = [b"ssh-rsa".to_vec(), mpint(&rsa.e().to_vec()), mpint(&rsa.n().to_vec())]
            .iter()
            .flat_map(|part| string(part))
            .collect::<Vec<u8>>();
        let authorized = format!("ssh-rsa {} {COMMENT}", encode_block(&blob));
        let pem = String::from_utf8(rsa.private_key_to_pem()?)?;
        Ok(Self { private: PKey::from_rsa(rsa)?, pem, blob, authorized })
    }

    /// The public key as a line of `authorized_keys`, without newline: type, base64, comment `core@default`.
    pub fn authorized(&self) -> &str {
        &self.authorized
    }

    /// The private key in PEM, as libssh2 wants it.
    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// The public key in the encoding of RFC 4253 section 6.6.
    pub(super) fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// A signature in the encoding of RFC 4253 section 6.6 (RFC 8332 section 3 for SHA-2).
    pub(super) fn sign(&self, hash: RsaHash, data: &[u8]) -> Result<Vec<u8>, openssl::error::ErrorStack> {
        let (name, digest) = match hash {
            RsaHash::Sha1 => ("ssh-rsa", MessageDigest::sha1()),
            RsaHash::Sha256 => ("rsa-sha2-256", MessageDigest::sha256()),
            RsaHash::Sha512 => ("rsa-sha2-512", MessageDigest::sha512()),
        };
        let mut signer = Signer::new(digest, &self.private)?;
        let signature = signer.sign_oneshot_to_vec(data)?;
        Ok([string(name.as_bytes()), string(&signature)].concat())
    }
}

/// The hash under an RSA signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RsaHash {
    Sha1,
    Sha256,
    Sha512,
}

/// `string` of RFC 4251 section 5: a length of four bytes, most significant first, and the bytes.
pub(super) fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("keys, names and signatures are far below 4 GiB");
    [&length.to_be_bytes(), bytes].concat()
}

/// The content of an `mpint` of RFC 4251 section 5 for a positive number without leading zeros.
fn mpint(number: &[u8]) -> Vec<u8> {
    match number.first() {
        Some(first) if first & 0x80 != 0 => [&[0], number].concat(),
        _ => number.to_vec(),
    }
}
