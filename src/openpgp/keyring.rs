//! The keys that are trusted.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openssl::bn::BigNum;
use sequoia_openpgp::cert::prelude::*;
use sequoia_openpgp::packet::Key;
use sequoia_openpgp::packet::key::{Key4, PublicParts, UnspecifiedRole};
use sequoia_openpgp::parse::Parse;
use sequoia_openpgp::policy::StandardPolicy;

use super::{Error, LOG, MAX_KEYRING, check_size, read_bounded};
use crate::warning;

/// Any public key, primary or not.
pub(super) type PublicKey = Key<PublicParts, UnspecifiedRole>;

const TABLE: &str = include_str!("release-keys.tsv");

/// Whose release keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builtin {
    /// CoreOS Container Linux: images and SDKs of 2013 to 2020.
    CoreOs,
    /// Flatcar Container Linux.
    Flatcar,
    /// Both.
    Both,
}

/// A distribution whose releases are signed with built-in keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    CoreOs,
    Flatcar,
}

impl Owner {
    /// The user id of the certificate; the misspelling is in the original.
    pub(super) fn user_id(self) -> &'static str {
        match self {
            Self::CoreOs => "CoreOS Buildbot (Offical Builds) <buildbot@coreos.com>",
            Self::Flatcar => "Flatcar Buildbot (Official Builds) <buildbot@flatcar-linux.org>",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::CoreOs => "container-linux",
            Self::Flatcar => "flatcar",
        }
    }
}

/// One key of a distribution, rebuilt from its numbers.
#[derive(Clone, Debug)]
pub(super) struct ReleaseKey {
    pub(super) owner: Owner,
    pub(super) key: PublicKey,
    /// The table's fingerprint, which the numbers must yield; a test sees to it.
    #[cfg_attr(not(test), allow(dead_code, reason = "the table documents it, a test compares it"))]
    pub(super) pinned: String,
    pub(super) expires: Option<SystemTime>,
    pub(super) revoked: bool,
    /// False for the primary keys, which only certify.
    pub(super) signs: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Entry {
    Release(Box<ReleaseKey>),
    Certificate(Box<Cert>),
}

/// Keys whose signatures are trusted.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    pub(super) entries: Vec<Entry>,
}

impl Keyring {
    /// The keys of the release images, old ones included, so that old releases stay verifiable.
    ///
    /// # Errors
    /// [`Error::Builtin`], which would be a mistake in this program.
    pub fn builtin(which: Builtin) -> Result<Self, Error> {
        let mut entries = Vec::new();
        for (index, line) in TABLE.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
            let key = release_key(line).ok_or(Error::Builtin(index + 1))?;
            if match which {
                Builtin::CoreOs => key.owner == Owner::CoreOs,
                Builtin::Flatcar => key.owner == Owner::Flatcar,
                Builtin::Both => true,
            } {
                entries.push(Entry::Release(Box::new(key)));
            }
        }
        Ok(Self { entries })
    }

    /// The certificates of a key file: armored or binary, one or several.
    ///
    /// # Errors
    /// When the file cannot be read or is not acceptable, see [`Keyring::parse`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = read_bounded(path, MAX_KEYRING, "the key file").map_err(|e| match e {
            Error::Read { .. } => e,
            _ => Error::KeyFile { path: path.to_owned(), source: Box::new(e) },
        })?;
        Self::parse(&bytes).map_err(|e| Error::KeyFile { path: path.to_owned(), source: Box::new(e) })
    }

    /// The certificates in these bytes: armored (any number of blocks) or binary. Secret parts are dropped.
    ///
    /// # Errors
    /// When there is none, too much, or something else. A certificate of an unsupported kind is left out, with a
    /// warning in the log, as long as there are others.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        check_size(bytes, MAX_KEYRING, "the key file")?;
        let mut entries = Vec::new();
        for cert in CertParser::from_bytes(bytes).map_err(|e| Error::Certificate(e.into()))? {
            match cert {
                Ok(cert) => entries.push(Entry::Certificate(Box::new(cert.strip_secret_key_material()))),
                Err(e) if is_unsupported(&e) => warning!(LOG, "left out a certificate: {e:#}"),
                Err(e) => return Err(Error::Certificate(e.into())),
            }
        }
        if entries.is_empty() { Err(Error::NoCertificate) } else { Ok(Self { entries }) }
    }

    /// Trusts the keys of `other` too.
    pub fn extend(&mut self, other: Self) {
        self.entries.extend(other.entries);
    }

    /// A line for people per certificate: fingerprint, user id, number of keys.
    pub fn describe(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for owner in [Owner::CoreOs, Owner::Flatcar] {
            let keys = || self.releases().filter(move |key| key.owner == owner);
            if let Some(primary) = keys().find(|key| !key.signs) {
                let fingerprint = primary.key.fingerprint();
                let usable = keys().filter(|key| key.signs && !key.revoked).count();
                let revoked = keys().filter(|key| key.revoked).count();
                let user = owner.user_id();
                lines.push(format!(
                    "{fingerprint} {user}, built in, signing keys: {usable}, revoked: {revoked}"
                ));
            }
        }
        let policy = StandardPolicy::new();
        for entry in &self.entries {
            if let Entry::Certificate(cert) = entry {
                let state = match cert.with_policy(&policy, None) {
                    Ok(valid) => format!("signing keys: {}", valid.keys().for_signing().count()),
                    Err(e) => format!("not usable: {e:#}"),
                };
                lines.push(format!("{} {}, {state}", cert.fingerprint(), user_id(cert, None)));
            }
        }
        lines
    }

    fn releases(&self) -> impl Iterator<Item = &ReleaseKey> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Release(key) => Some(&**key),
            Entry::Certificate(_) => None,
        })
    }

    /// The primary key's fingerprint of an owner in this keyring.
    pub(super) fn primary_of(&self, owner: Owner) -> Option<String> {
        self.releases().find(|key| key.owner == owner && !key.signs).map(|key| key.key.fingerprint().to_hex())
    }
}

/// The certificate's user id at a time (`None`: now), else any user id, else its fingerprint; without control
/// characters, because whoever made the certificate wrote it.
pub(super) fn user_id(cert: &Cert, at: Option<SystemTime>) -> String {
    let policy = StandardPolicy::new();
    let primary =
        cert.with_policy(&policy, at).and_then(|valid| valid.primary_userid().map(|u| u.userid().clone()));
    let user = primary.ok().or_else(|| cert.userids().next().map(|u| u.userid().clone()));
    match user {
        Some(user) => String::from_utf8_lossy(user.value())
            .chars()
            .take(256)
            .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
            .collect(),
        None => cert.fingerprint().to_hex(),
    }
}

fn is_unsupported(error: &sequoia_openpgp::anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(sequoia_openpgp::Error::UnsupportedCert(..)))
}

/// Parses a line of the table.
fn release_key(line: &str) -> Option<ReleaseKey> {
    let mut columns = line.split('\t');
    let mut next = || columns.next();
    let owner = next()?;
    let owner = [Owner::CoreOs, Owner::Flatcar].into_iter().find(|o| o.name() == owner)?;
    let signs = match next()? {
        "signing" => true,
        "primary" => false,
        _ => return None,
    };
    let pinned = next()?.to_owned();
    let created = seconds(next()?)?;
    let expires = match next()? {
        "-" => None,
        text => Some(seconds(text)?),
    };
    let revoked = match next()? {
        "revoked" => true,
        "-" => false,
        _ => return None,
    };
    let e = BigNum::from_dec_str(next()?).ok()?;
    let n = BigNum::from_hex_str(next()?).ok()?;
    let key = Key4::import_public_rsa(&e.to_vec(), &n.to_vec(), created).ok()?;
    Some(ReleaseKey { owner, key: key.into(), pinned, expires, revoked, signs })
}

fn seconds(text: &str) -> Option<SystemTime> {
    Some(UNIX_EPOCH + Duration::from_secs(text.parse::<u32>().ok()?.into()))
}
