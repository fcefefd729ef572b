//! Verification in one pass.

use std::io::Read;
use std::path::Path;
use std::time::SystemTime;

use sequoia_openpgp::Packet;
use sequoia_openpgp::armor::ReaderMode;
use sequoia_openpgp::crypto::hash::Context;
use sequoia_openpgp::packet::{Signature, Tag};
use sequoia_openpgp::parse::{Dearmor, PacketParserBuilder, PacketParserResult, Parse};
use sequoia_openpgp::types::HashAlgorithm;

use super::judge::{Candidate, Reason, candidates};
use super::keyring::Keyring;
use super::{Error, LOG, MAX_SIGNATURE, MAX_SIGNATURES, check_size, read_bounded};
use crate::debug;

const CHUNK: usize = 128 << 10;

/// What is known about data after its signature was found good.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// The signer's user id.
    pub signer: String,
    /// Fingerprint of the key that made the signature: a subkey's, usually. Upper-case hexadecimal.
    pub fingerprint: String,
    /// Fingerprint of the certificate (the primary key) it belongs to.
    pub certificate: String,
    /// When the signature was made, as the signer says.
    pub created: SystemTime,
    /// What the user should know nevertheless.
    pub warnings: Vec<String>,
}

/// Verifies data against a detached signature while the data streams by.
///
/// Needs a few hundred bytes whatever the size of the data. A clone verifies on its own: clone a fresh one to be
/// able to start over.
#[derive(Clone)]
pub struct Verifier {
    digests: Vec<Digest>,
    pending: Vec<Pending>,
    /// Other signatures in the file, which cannot count.
    warnings: Vec<String>,
}

/// A running digest; signatures with the same algorithm and salt share it.
#[derive(Clone)]
struct Digest {
    algorithm: HashAlgorithm,
    version: u8,
    salt: Vec<u8>,
    context: Context,
}

/// A signature that counts if the arithmetic is right.
#[derive(Clone)]
struct Pending {
    signature: Signature,
    digest: usize,
    candidates: Vec<Candidate>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let candidates: Vec<&Candidate> = self.pending.iter().flat_map(|p| &p.candidates).collect();
        f.debug_struct("Verifier").field("candidates", &candidates).finish_non_exhaustive()
    }
}

impl Verifier {
    /// Takes the detached signature, armored or binary; `now` is what expiry and weak algorithms are judged by.
    ///
    /// # Errors
    /// When no signature in it can be accepted, whatever the data will be: it is malformed, by an unknown key, by
    /// a revoked key, too weak, ... Of several refused signatures the first by a known key is reported.
    pub fn new(keyring: &Keyring, signature: &[u8], now: SystemTime) -> Result<Self, Error> {
        let mut verifier = Self { digests: Vec::new(), pending: Vec::new(), warnings: Vec::new() };
        let mut refused = Vec::new();
        for signature in parse(signature)? {
            match signature.and_then(|signature| verifier.add(keyring, signature, now)) {
                Ok(()) => {}
                Err(error) => refused.push(error),
            }
        }
        if verifier.pending.is_empty() {
            return Err(pick(refused));
        }
        verifier.warnings = refused.iter().filter_map(warning_of).collect();
        Ok(verifier)
    }

    fn add(&mut self, keyring: &Keyring, signature: Signature, now: SystemTime) -> Result<(), Error> {
        let candidates = candidates(keyring, &signature, now)?;
        let algorithm = signature.hash_algo();
        let version = signature.version();
        let salt = match &signature {
            Signature::V6(v6) => v6.salt().to_vec(),
            _ => Vec::new(),
        };
        let same = |d: &Digest| d.algorithm == algorithm && d.version == version && d.salt == salt;
        let digest = match self.digests.iter().position(same) {
            Some(index) => index,
            None => {
                let builder = algorithm.context().map_err(|e| Error::Malformed(e.into()))?;
                let mut context = builder.for_signature(version);
                context.update(&salt);
                self.digests.push(Digest { algorithm, version, salt, context });
                self.digests.len() - 1
            }
        };
        self.pending.push(Pending { signature, digest, candidates });
        Ok(())
    }

    /// Takes the next part of the data.
    pub fn update(&mut self, data: &[u8]) {
        for digest in &mut self.digests {
            digest.context.update(data);
        }
    }

    /// Ends the data.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Reason::Bad`] when no signature fits the data.
    pub fn finish(self) -> Result<Verified, Error> {
        let mut refused = Vec::new();
        let mut verified: Option<Verified> = None;
        for pending in self.pending {
            let mut failed = None;
            let mut good = None;
            for candidate in pending.candidates {
                let context = self.digests[pending.digest].context.clone();
                match pending.signature.verify_hash(&candidate.key, context) {
                    Ok(()) => {
                        good = Some(candidate);
                        break;
                    }
                    Err(e) => failed = Some(candidate.refused(Reason::Bad(e.into()))),
                }
            }
            match (good, pending.signature.signature_creation_time()) {
                (Some(candidate), Some(created)) if verified.is_none() => {
                    verified = Some(Verified {
                        signer: candidate.signer,
                        fingerprint: candidate.key.fingerprint().to_hex(),
                        certificate: candidate.certificate,
                        created,
                        warnings: candidate.warnings,
                    });
                }
                (Some(_), _) => {}
                (None, _) => refused.extend(failed),
            }
        }
        match verified {
            Some(mut verified) => {
                verified.warnings.extend(self.warnings);
                verified.warnings.extend(refused.iter().filter_map(warning_of));
                Ok(verified)
            }
            None => Err(pick(refused)),
        }
    }
}

/// Verifies everything that `data` yields. Blocks as `data` does.
///
/// # Errors
/// When the data cannot be read or its signature does not count, see [`Verifier`].
pub fn verify_reader(
    keyring: &Keyring,
    signature: &[u8],
    mut data: impl Read,
    now: SystemTime,
) -> Result<Verified, Error> {
    let mut verifier = Verifier::new(keyring, signature, now)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        match data.read(&mut chunk) {
            Ok(0) => return verifier.finish(),
            Ok(n) => verifier.update(&chunk[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::Data(e)),
        }
    }
}

/// Verifies a file against a signature file. Blocks.
///
/// # Errors
/// When one cannot be read or the signature does not count, see [`Verifier`].
pub fn verify_file(
    keyring: &Keyring,
    signature: &Path,
    data: &Path,
    now: SystemTime,
) -> Result<Verified, Error> {
    let signature = read_bounded(signature, MAX_SIGNATURE, "the signature")?;
    let failed = |source| Error::Read { path: data.to_owned(), source };
    let file = crate::input::open(data).map_err(failed)?;
    verify_reader(keyring, &signature, file, now).map_err(|e| match e {
        Error::Data(source) => failed(source),
        other => other,
    })
}

/// The signatures in the bytes; an `Err` in the list is a signature of a kind that we do not understand.
fn parse(bytes: &[u8]) -> Result<Vec<Result<Signature, Error>>, Error> {
    check_size(bytes, MAX_SIGNATURE, "the signature")?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::NoSignature);
    }
    // Every packet's first byte has its high bit set, and armor is ASCII. (Sequoia's own guess takes a signature
    // of an unknown version for armor.)
    let is_binary = bytes[0] & 0x80 != 0;
    let blocks = if is_binary { vec![bytes] } else { blocks(bytes) };
    let mut signatures = Vec::new();
    for block in &blocks {
        let dearmor = if is_binary { Dearmor::Disabled } else { Dearmor::Enabled(ReaderMode::default()) };
        match parse_block(block, dearmor, &mut signatures) {
            // One damaged block of several hides the others no more than a signature of an unknown kind.
            Err(e @ Error::Malformed(_)) if blocks.len() > 1 => signatures.push(Err(e)),
            other => other?,
        }
        if signatures.len() > MAX_SIGNATURES {
            return Err(Error::TooMany);
        }
    }
    if signatures.is_empty() { Err(Error::NoSignature) } else { Ok(signatures) }
}

/// The armored blocks of a text, which Sequoia reads one at a time.
fn blocks(text: &[u8]) -> Vec<&[u8]> {
    const BEGIN: &[u8] = b"-----BEGIN PGP ";
    let starts: Vec<usize> = (0..text.len())
        .filter(|at| text[*at..].starts_with(BEGIN) && (*at == 0 || text[at - 1] == b'\n'))
        .collect();
    match starts.as_slice() {
        [] | [_] => vec![text],
        starts => {
            let ends = starts[1..].iter().copied().chain([text.len()]);
            starts.iter().zip(ends).map(|(start, end)| &text[*start..end]).collect()
        }
    }
}

/// Adds the signatures of one armored block, or of bytes that are not armored.
fn parse_block(
    bytes: &[u8],
    dearmor: Dearmor,
    signatures: &mut Vec<Result<Signature, Error>>,
) -> Result<(), Error> {
    let malformed = |e: sequoia_openpgp::anyhow::Error| Error::Malformed(e.into());
    let mut next = PacketParserBuilder::from_bytes(bytes)
        .and_then(|builder| builder.dearmor(dearmor).max_recursion_depth(0).automatic_hashing(false).build())
        .map_err(malformed)?;
    while let PacketParserResult::Some(parser) = next {
        let (packet, after) = parser.next().map_err(malformed)?;
        next = after;
        match packet {
            Packet::Signature(signature) => signatures.push(Ok(signature)),
            Packet::Unknown(unknown) if unknown.tag() == Tag::Signature => {
                signatures.push(Err(malformed(unknown.into_error())));
            }
            // RFC 9580, sections 5.8 and 5.14: to be ignored.
            Packet::Marker(_) | Packet::Padding(_) => {}
            other => return Err(Error::NotDetached(other.tag().to_string())),
        }
        if signatures.len() > MAX_SIGNATURES {
            return Err(Error::TooMany);
        }
    }
    Ok(())
}

/// The failure to report: one by a known key before an unknown signer before one that does not even parse.
fn pick(refused: Vec<Error>) -> Error {
    let rank = |error: &Error| match error {
        Error::Refused { .. } => 0,
        Error::UnknownSigner { .. } => 1,
        _ => 2,
    };
    refused.into_iter().min_by_key(rank).unwrap_or(Error::NoSignature)
}

/// A signature that did not count beside one that did: worth a warning if it is by a known key.
fn warning_of(error: &Error) -> Option<String> {
    debug!(LOG, "another signature: {error}");
    match error {
        Error::Refused { reason, .. } => Some(format!("another signature does not count: {error}: {reason}")),
        _ => None,
    }
}
