//! The public keys that a user has collected with GnuPG, read without it.
//!
//! | file | form |
//! |---|---|
//! | `pubring.kbx` | a keybox: records with their length, type and the place of the certificate in them |
//! | `pubring.gpg` | certificates, one after the other; GnuPG before 2.1 |

use std::io;
use std::path::{Path, PathBuf};

use sequoia_openpgp::cert::prelude::*;
use sequoia_openpgp::parse::Parse;

use super::keyring::Entry;
use super::{Error, Keyring, LOG, read_bounded};
use crate::{debug, folders, notice};

/// The most bytes of a user's keyring that are read.
const MAX_SIZE: usize = 64 << 20;
/// The database of GnuPG's keyboxd, which may take the place of both files since 2.4.
const KEYBOXD: &str = "public-keys.d/pubring.db";
/// Bytes before the place of the certificate in a record.
const RECORD_HEAD: usize = 16;
/// The type of records that are OpenPGP certificates.
const OPENPGP: u8 = 2;

/// Where GnuPG keeps a user's keys: `$GNUPGHOME`, else `~/.gnupg`.
pub fn folder() -> Option<PathBuf> {
    folders::variable("GNUPGHOME").or_else(|| Some(folders::home()?.join(".gnupg")))
}

impl Keyring {
    /// The certificates of a folder of GnuPG; none if there is no such folder. Those that we cannot read are left out.
    ///
    /// # Errors
    /// When a file is there and cannot be read, or is too long.
    pub fn of_gnupg(folder: &Path) -> Result<Self, Error> {
        let mut keyring = Self::default();
        for name in ["pubring.kbx", "pubring.gpg"] {
            let path = folder.join(name);
            let bytes = match read_bounded(&path, MAX_SIZE, "the keyring of GnuPG") {
                Err(Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => continue,
                bytes => bytes?,
            };
            // GnuPG takes either form under both names.
            let blocks = if is_keybox(&bytes) { records(&bytes) } else { vec![&bytes[..]] };
            for block in blocks {
                let Ok(certs) = CertParser::from_bytes(block) else { continue };
                for cert in certs {
                    match cert {
                        Ok(cert) => keyring.entries.push(Entry::Certificate(Box::new(cert))),
                        Err(e) => debug!(LOG, "{}: left out a certificate: {e:#}", path.display()),
                    }
                }
            }
        }
        if folder.join(KEYBOXD).exists() {
            notice!(LOG, "the keys that keyboxd of GnuPG keeps are not read: export those that are needed");
        }
        Ok(keyring)
    }
}

fn is_keybox(bytes: &[u8]) -> bool {
    bytes.get(8..12) == Some(b"KBXf")
}

/// The certificates in a keybox.
fn records(mut bytes: &[u8]) -> Vec<&[u8]> {
    let number = |bytes: &[u8], at: usize| -> Option<usize> {
        let bytes = bytes.get(at..at + 4)?;
        usize::try_from(u32::from_be_bytes(bytes.try_into().ok()?)).ok()
    };
    let mut found = Vec::new();
    while let Some(length) = number(bytes, 0).filter(|length| *length > 4 && *length <= bytes.len()) {
        let (record, rest) = bytes.split_at(length);
        bytes = rest;
        if record.len() < RECORD_HEAD || record[4] != OPENPGP {
            continue;
        }
        if let (Some(start), Some(length)) = (number(record, 8), number(record, 12)) {
            found.extend(start.checked_add(length).and_then(|end| record.get(start..end)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(20 + content.len()).unwrap();
        let size = u32::try_from(content.len()).unwrap();
        let head = [&length.to_be_bytes()[..], &[kind, 1, 0, 0], &20_u32.to_be_bytes(), &size.to_be_bytes()];
        [&head.concat()[..], b"0123", content].concat()
    }

    #[test]
    fn records_of_a_keybox_are_found_whatever_is_between() {
        let first = [&32_u32.to_be_bytes()[..], &[1, 1, 0, 2], b"KBXf", &[0; 20]].concat();
        let keybox = [&first[..], &record(2, b"one"), &record(3, b"x509"), &record(2, b"two")].concat();
        assert!(is_keybox(&keybox));
        assert_eq!(records(&keybox), [b"one", b"two"]);
        // Damage ends the list, or leaves a record out; it never leads out of the file.
        for cut in 0..keybox.len() {
            assert!(records(&keybox[..cut]).len() < 2);
        }
        let mut wild = record(2, b"one");
        wild[8] = 0xff;
        assert!(records(&wild).is_empty());
        assert!(records(&[0; 64]).is_empty());
    }
}
