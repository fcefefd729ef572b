//! Which signature by which key counts: the policy, apart from the arithmetic.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use sequoia_openpgp::Packet;
use sequoia_openpgp::cert::prelude::*;
use sequoia_openpgp::packet::Signature;
use sequoia_openpgp::policy::{HashAlgoSecurity, Policy, StandardPolicy};
use sequoia_openpgp::types::{HashAlgorithm, RevocationStatus, SignatureType};

use super::keyring::{Entry, Keyring, Owner, PublicKey, ReleaseKey, user_id};
use super::{Cause, Error};

/// How far ahead the signer's clock may be.
const CLOCK_SKEW: Duration = Duration::from_secs(30 * 60);

/// Why a signature by a known key does not count. Times are UTC.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The data is not what the key signed.
    #[error("bad signature: the data is not what was signed")]
    Bad(#[source] Cause),
    /// The key, or the certificate it belongs to, is revoked.
    #[error("the key is revoked")]
    Revoked,
    /// The key may be used for other purposes only.
    #[error("the key is not for signing data")]
    NotForSigning,
    /// The key had expired, or did not exist yet, when it signed.
    #[error("the key was not valid when it signed, {at}: {why}")]
    KeyNotValid {
        /// When it signed.
        at: String,
        /// From when or until when it was valid.
        why: String,
    },
    /// The certificate does not vouch for the key, or not by means that are still secure.
    #[error("the certificate does not vouch for the key")]
    Unbound(#[source] Cause),
    /// The signature uses a weak digest, an old format, or a critical extension that we do not know.
    #[error("the signature is too weak or of an unknown kind")]
    Policy(#[source] Cause),
    /// The signature itself has an expiry date and it has passed.
    #[error("the signature expired on {0}")]
    Expired(String),
    /// The signature's date is ahead of the clock.
    #[error("the signature is from the future: made on {made}, and the clock says {now}")]
    Future {
        /// When it says it was made.
        made: String,
        /// What our clock says.
        now: String,
    },
    /// A signature over text or a key, for example.
    #[error("it is no signature over bytes but of type {0}")]
    NotOverBytes(String),
}

/// A key that may have made a signature and whose signature would count.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) key: PublicKey,
    pub(super) signer: String,
    /// Fingerprint of the primary key.
    pub(super) certificate: String,
    pub(super) warnings: Vec<String>,
}

impl Candidate {
    pub(super) fn refused(&self, reason: Reason) -> Error {
        Error::Refused { signer: self.signer.clone(), key: self.key.fingerprint().to_hex(), reason }
    }
}

/// A date as messages show it.
pub(super) fn date(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).format("%Y-%m-%d %H:%M:%S").to_string()
}

/// Finds the keys that are named as the signature's issuer and may have made it.
///
/// The list is never empty; more than one are keys with the same id. The arithmetic remains to be done.
pub(super) fn candidates(
    keyring: &Keyring,
    sig: &Signature,
    now: SystemTime,
) -> Result<Vec<Candidate>, Error> {
    let created = sig
        .signature_creation_time()
        .ok_or_else(|| Error::Malformed("the signature has no creation time".into()))?;
    let issuers = sig.get_issuers();
    let mut good = Vec::new();
    let mut refused = None;
    for entry in &keyring.entries {
        let judged: Vec<(Candidate, Result<Vec<String>, Reason>)> = match entry {
            Entry::Release(key) if issuers.iter().any(|issuer| key.key.key_handle().aliases(issuer)) => {
                let candidate = Candidate {
                    key: key.key.clone(),
                    signer: key.owner.user_id().to_owned(),
                    certificate: keyring.primary_of(key.owner).unwrap_or_default(),
                    warnings: Vec::new(),
                };
                vec![(candidate, by_release_key(key, sig, created, now))]
            }
            Entry::Release(_) => Vec::new(),
            // Without issuers the filter of the next arm would let every key pass.
            Entry::Certificate(_) if issuers.is_empty() => Vec::new(),
            Entry::Certificate(cert) => cert
                .keys()
                .key_handles(issuers.iter())
                .map(|key| {
                    let candidate = Candidate {
                        key: key.key().clone(),
                        signer: user_id(cert, Some(created)),
                        certificate: cert.fingerprint().to_hex(),
                        warnings: Vec::new(),
                    };
                    (candidate, by_certificate(&key, sig, created, now))
                })
                .collect(),
        };
        for (mut candidate, result) in judged {
            match result {
                Ok(warnings) => {
                    candidate.warnings = warnings;
                    good.push(candidate);
                }
                // Even if another copy of the key in the keyring does not know of the revocation yet.
                Err(Reason::Revoked) => return Err(candidate.refused(Reason::Revoked)),
                Err(reason) => refused = refused.or(Some(candidate.refused(reason))),
            }
        }
    }
    match refused {
        _ if !good.is_empty() => Ok(good),
        Some(error) => Err(error),
        None => {
            let issuers: Vec<String> = issuers.iter().map(|issuer| issuer.to_hex()).collect();
            let issuers =
                if issuers.is_empty() { "the signature names none".to_owned() } else { issuers.join(", ") };
            Err(Error::UnknownSigner { issuers })
        }
    }
}

/// Judges a signature by a built-in key; the result is the warnings.
fn by_release_key(
    key: &ReleaseKey,
    sig: &Signature,
    created: SystemTime,
    now: SystemTime,
) -> Result<Vec<String>, Reason> {
    if key.revoked {
        return Err(Reason::Revoked);
    }
    if !key.signs {
        return Err(Reason::NotForSigning);
    }
    check_period(created, key.key.creation_time(), key.expires)?;
    let mut policy = StandardPolicy::at(now);
    if key.owner == Owner::CoreOs {
        // Images of its first years have no other signatures. A forger would need a second preimage of an old
        // image; the key has signed nothing new since 2020.
        policy.accept_hash(HashAlgorithm::SHA1);
    }
    check_signature(sig, &policy, now)?;
    // Every Container Linux key has expired; to say so each time would tell nobody anything.
    let stale = key.expires.filter(|&at| at <= now && key.owner != Owner::CoreOs);
    Ok(stale.map(|at| expired_since(&key.key, at)).into_iter().collect())
}

/// Judges a signature by a key of a certificate, as the certificate was when it signed as far as that can be
/// known; the result is the warnings.
fn by_certificate(
    key: &ErasedKeyAmalgamation<'_, sequoia_openpgp::packet::key::PublicParts>,
    sig: &Signature,
    created: SystemTime,
    now: SystemTime,
) -> Result<Vec<String>, Reason> {
    let policy = StandardPolicy::at(now);
    let cert = key.cert();
    // The standard policy still trusts what was signed before a key was retired; but the time of signing is what
    // the signer says. So no revocation is a reason to trust anything.
    // Neither is it one that the revocation may be by somebody else whom the certificate entitles to it.
    let revoked = |status: RevocationStatus<'_>| !matches!(status, RevocationStatus::NotAsFarAsWeKnow);
    if cert.primary_key().self_revocations().next().is_some()
        || key.self_revocations().next().is_some()
        || revoked(cert.revocation_status(&policy, now))
        || cert.keys().subkeys().any(|k| {
            k.key().fingerprint() == key.key().fingerprint() && revoked(k.revocation_status(&policy, now))
        })
    {
        return Err(Reason::Revoked);
    }
    // GnuPG replaces the self-signatures when an expiry date is moved; then nothing tells how the certificate was
    // before, and what it says today of the key's period has to do.
    let valid = match key.clone().with_policy(&policy, created) {
        Ok(valid) => valid,
        Err(e) => key.clone().with_policy(&policy, now).map_err(|_| Reason::Unbound(e.into()))?,
    };
    let primary = valid.valid_cert().primary_key();
    check_period(created, primary.key().creation_time(), primary.key_expiration_time())?;
    check_period(created, valid.key().creation_time(), valid.key_expiration_time())?;
    if !valid.for_signing() {
        return Err(Reason::NotForSigning);
    }
    check_signature(sig, &policy, now)?;
    // The expiry dates as the newest self-signatures have them.
    let latest = key.clone().with_policy(&policy, now);
    let latest = latest.as_ref().unwrap_or(&valid);
    let ends = [latest.valid_cert().primary_key().key_expiration_time(), latest.key_expiration_time()];
    let end = ends.into_iter().flatten().min();
    Ok(end.filter(|&at| at <= now).map(|at| expired_since(key.key(), at)).into_iter().collect())
}

fn expired_since(key: &PublicKey, at: SystemTime) -> String {
    format!("the signing key {} has expired since it signed, on {}", key.fingerprint(), date(at))
}

/// Whether a key that was made at `made` and ends at `ends` could sign at `created`.
fn check_period(created: SystemTime, made: SystemTime, ends: Option<SystemTime>) -> Result<(), Reason> {
    let why = if created < made {
        format!("it was made on {}", date(made))
    } else if let Some(ends) = ends.filter(|&ends| ends <= created) {
        format!("it expired on {}", date(ends))
    } else {
        return Ok(());
    };
    Err(Reason::KeyNotValid { at: date(created), why })
}

/// What has nothing to do with the key: type, dates, strength.
fn check_signature(sig: &Signature, policy: &StandardPolicy<'_>, now: SystemTime) -> Result<(), Reason> {
    if sig.typ() != SignatureType::Binary {
        return Err(Reason::NotOverBytes(sig.typ().to_string()));
    }
    policy
        .packet(&Packet::from(sig.clone()))
        .and_then(|()| policy.signature(sig, HashAlgoSecurity::CollisionResistance))
        .map_err(|e| Reason::Policy(e.into()))?;
    if let Some(end) = sig.signature_expiration_time().filter(|&end| end <= now) {
        return Err(Reason::Expired(date(end)));
    }
    match sig.signature_creation_time() {
        Some(made) if made > now + CLOCK_SKEW => Err(Reason::Future { made: date(made), now: date(now) }),
        _ => Ok(()),
    }
}
