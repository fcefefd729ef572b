//! The built-in keys, with a signature of the year 2015 and with keys made here; `zoo` has what GnuPG makes.

mod hostile;
mod zoo;

use std::error::Error as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openssl::bn::BigNum;
use openssl::hash::{MessageDigest, hash};
use sequoia_openpgp::Packet;
use sequoia_openpgp::packet::key::{Key4, PrimaryRole, SecretParts};
use sequoia_openpgp::packet::signature::SignatureBuilder;
use sequoia_openpgp::serialize::SerializeInto;
use sequoia_openpgp::types::{HashAlgorithm, SignatureType};

use super::keyring::{Entry, Owner, ReleaseKey};
use super::*;

/// `version.txt` of Container Linux 723.1.0.
pub(super) const VERSION_TXT: &[u8] = b"COREOS_BUILD=723\nCOREOS_BRANCH=1\nCOREOS_PATCH=0\n\
    COREOS_VERSION=723.1.0\nCOREOS_VERSION_ID=723.1.0\nCOREOS_BUILD_ID=\"\"\nCOREOS_SDK_VERSION=717.0.0\n";
/// Its signature of 2015-06-27: SHA-1, by subkey EEFA7555….
const VERSION_TXT_SIG: &str = "\
    iQIcBAABAgAGBQJVjgCWAAoJEKWpZjXlZ278G/kQAKSqkurFrKywkPhCe3VejSUp\
    GSS2MmHT4UAhHzopof33eV1mwI7NxPP7oDOeg5ovLxiHbawo/fHYUI9Wt2r9ZUCB\
    QxXt1fk9yBbUlVd6vdsrLmUZpVNfFmnxUL8iurRJczgSKmqyxbk+HcD+fidkgSAU\
    5xpLYEfCp1VSZ61a+3NZO8NHval4x3+AYZXOBNqfWz1s7Sewmvm/YbIs0BlwZxrY\
    CUiYzuNCgDl0qZLRx8C2EmnHk675XvN4Nr0xAHRsARIXfgFR1AVSqVdvzW2ZW3Bq\
    KBNiF0zfhZ2cdG6Rj9Dp39+skazUYW8bzn1fr374prSALef/WZIAUkLWvUpPdEli\
    ZnQr9Ufm+ZW2XM+Nm/Ks5Zf5f+0axHESF1ANSKNM7gp7a6+cbXLniXQKUxMLlTGL\
    TCz29ZdK1M8Wx2V8bisOk24yneOJyVzn5jSO4zCr6xWxBH8yf0B6UQnXWK8fhVDR\
    V/mehjhms7/8xCfRlTo42h69UqCzp/ZMlJZOTikw4Q7yZwhAu1bERlOWUVSHik8W\
    UjVp1b0FyuBYEJA3ht2QuIdf54M3bKGsFGMUB0/ro6sm00UF3pjVkG+a7WEU4zpp\
    nhqSIf7YIqso/oohdpmc338F7G3RgfYoZ2+THXGTxpIvMvkEqxCaKPsprXLZQd94\
    ULECDto3pYB5cT5A/blA";
/// How the signature names its issuer, and its time.
const ISSUER: [u8; 8] = [0xa5, 0xa9, 0x66, 0x35, 0xe5, 0x67, 0x6e, 0xfc];
const MADE: [u8; 4] = [0x55, 0x8e, 0x00, 0x96];

pub(super) fn version_txt_sig() -> Vec<u8> {
    openssl::base64::decode_block(VERSION_TXT_SIG).expect("base64")
}

/// Midday of 2026-01-01.
pub(super) fn now() -> SystemTime {
    at(1_767_268_800)
}

fn at(seconds: u32) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.into())
}

fn builtin(which: Builtin) -> Keyring {
    Keyring::builtin(which).expect("the table parses")
}

pub(super) fn verify(keyring: &Keyring, signature: &[u8], data: &[u8]) -> Result<Verified, Error> {
    verify_reader(keyring, signature, data, now())
}

/// The reason of a refusal; panics on any other result.
pub(super) fn reason(result: Result<Verified, Error>) -> Reason {
    match result {
        Err(Error::Refused { reason, .. }) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

/// The signature with the first `from` in it replaced by `to`.
fn patched(signature: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let start = signature.windows(from.len()).position(|window| window == from).expect("it is in there");
    let mut signature = signature.to_vec();
    signature[start..start + to.len()].copy_from_slice(to);
    signature
}

/// The table's lines, split at their tabs, by a second parser.
fn table() -> Vec<Vec<&'static str>> {
    let lines = include_str!("../release-keys.tsv").lines();
    lines.filter(|line| !line.starts_with('#')).map(|line| line.split('\t').collect()).collect()
}

#[test]
fn fingerprints_follow_from_the_numbers() {
    let rows = table();
    assert_eq!(rows.len(), 19);
    for row in &rows {
        let created: u32 = row[3].parse().expect("number");
        let mpi = |number: BigNum| {
            let bits = u16::try_from(number.num_bits()).expect("small");
            [bits.to_be_bytes().to_vec(), number.to_vec()].concat()
        };
        let body = [
            vec![4],
            created.to_be_bytes().to_vec(),
            vec![1],
            mpi(BigNum::from_hex_str(row[7]).expect("hex")),
            mpi(BigNum::from_dec_str(row[6]).expect("decimal")),
        ]
        .concat();
        let length = u16::try_from(body.len()).expect("short").to_be_bytes();
        let packet = [vec![0x99], length.to_vec(), body].concat();
        let digest = hash(MessageDigest::sha1(), &packet).expect("SHA-1");
        let fingerprint: String = digest.iter().map(|byte| format!("{byte:02X}")).collect();
        assert_eq!(fingerprint, row[2]);
    }
    let keyring = builtin(Builtin::Both);
    assert_eq!(keyring.entries.len(), rows.len());
    for (entry, row) in keyring.entries.iter().zip(&rows) {
        let Entry::Release(key) = entry else { panic!("a certificate is built in") };
        assert_eq!(key.key.fingerprint().to_hex(), row[2]);
        assert_eq!(key.pinned, row[2]);
    }
}

#[test]
fn builtin_keyrings_describe_themselves() {
    let lines = builtin(Builtin::Both).describe();
    assert_eq!(
        lines,
        [
            "04127D0BFABEC8871FFB2CCE50E0885593D2DCB4 CoreOS Buildbot (Offical Builds) <buildbot@coreos.com>, \
             built in, signing keys: 7, revoked: 1",
            "F88CFEDEFF29A5B4D9523864E25D9AED0593B34A Flatcar Buildbot (Official Builds) \
             <buildbot@flatcar-linux.org>, built in, signing keys: 7, revoked: 2",
        ]
    );
    let mut one = builtin(Builtin::CoreOs);
    assert_eq!(one.describe(), lines[..1]);
    one.extend(builtin(Builtin::Flatcar));
    assert_eq!(one.describe(), lines);
}

#[test]
fn version_txt_of_723_1_0_is_good() {
    for which in [Builtin::CoreOs, Builtin::Both] {
        let verified = verify(&builtin(which), &version_txt_sig(), VERSION_TXT).expect("good");
        assert_eq!(verified.signer, "CoreOS Buildbot (Offical Builds) <buildbot@coreos.com>");
        assert_eq!(verified.fingerprint, "EEFA7555E481D026CC40D8E6A5A96635E5676EFC");
        assert_eq!(verified.certificate, "04127D0BFABEC8871FFB2CCE50E0885593D2DCB4");
        assert_eq!(verified.created, at(u32::from_be_bytes(MADE)));
        assert_eq!(verified.warnings, [""; 0]);
    }
}

#[test]
fn changed_data_is_a_bad_signature() {
    let appended = [VERSION_TXT, b"bad"].concat();
    for data in [&appended, &VERSION_TXT[1..], b""] {
        let error = verify(&builtin(Builtin::CoreOs), &version_txt_sig(), data).expect_err("changed");
        assert!(matches!(&error, Error::Refused { reason: Reason::Bad(_), .. }), "{error:?}");
        assert_eq!(
            error.to_string(),
            "refused the signature by key EEFA7555E481D026CC40D8E6A5A96635E5676EFC of CoreOS Buildbot (Offical \
             Builds) <buildbot@coreos.com>"
        );
        assert!(error.source().expect("cause").to_string().starts_with("bad signature"));
    }
}

#[test]
fn the_data_may_come_in_any_pieces() {
    let fresh = Verifier::new(&builtin(Builtin::CoreOs), &version_txt_sig(), now()).expect("known key");
    let mut spoilt = fresh.clone();
    spoilt.update(b"from a transfer that broke");
    assert!(spoilt.finish().is_err());
    for size in [1, 7, VERSION_TXT.len()] {
        let mut verifier = fresh.clone();
        VERSION_TXT.chunks(size).for_each(|chunk| verifier.update(chunk));
        verifier.update(b"");
        verifier.finish().expect("good");
    }
}

#[test]
fn other_distributions_keys_are_unknown() {
    let error = Verifier::new(&builtin(Builtin::Flatcar), &version_txt_sig(), now()).expect_err("unknown");
    assert_eq!(error.to_string(), "signature made by an unknown key: A5A96635E5676EFC");
}

#[test]
fn revoked_builtin_keys_are_refused_before_the_data() {
    for row in table().iter().filter(|row| row[5] == "revoked") {
        let id = BigNum::from_hex_str(&row[2][24..]).expect("hex").to_vec();
        // Dated into the key's period, too.
        let within = (row[3].parse::<u32>().expect("number") + 86_400).to_be_bytes();
        let signature = patched(&patched(&version_txt_sig(), &ISSUER, &id), &MADE, &within);
        for signature in [signature, patched(&version_txt_sig(), &ISSUER, &id)] {
            let error = Verifier::new(&builtin(Builtin::Both), &signature, now()).expect_err("revoked");
            assert!(matches!(error, Error::Refused { reason: Reason::Revoked, .. }), "{error:?}");
        }
    }
}

#[test]
fn builtin_primary_keys_do_not_sign() {
    let id = [0x50, 0xe0, 0x88, 0x55, 0x93, 0xd2, 0xdc, 0xb4];
    let result = verify(&builtin(Builtin::CoreOs), &patched(&version_txt_sig(), &ISSUER, &id), VERSION_TXT);
    assert!(matches!(reason(result), Reason::NotForSigning));
}

#[test]
fn builtin_keys_count_in_their_period_only() {
    let keyring = builtin(Builtin::CoreOs);
    for row in
        table().iter().filter(|row| row[0] == "container-linux" && row[1] == "signing" && row[5] == "-")
    {
        let id = BigNum::from_hex_str(&row[2][24..]).expect("hex").to_vec();
        let (from, until): (u32, u32) = (row[3].parse().expect("number"), row[4].parse().expect("number"));
        for (made, within) in [(from - 1, false), (from, true), (until - 1, true), (until, false)] {
            let signature = patched(&patched(&version_txt_sig(), &ISSUER, &id), &MADE, &made.to_be_bytes());
            let reason = reason(verify(&keyring, &signature, VERSION_TXT));
            // The forgery gets as far as the arithmetic only within the period.
            let fits = if within {
                matches!(reason, Reason::Bad(_))
            } else {
                matches!(reason, Reason::KeyNotValid { .. })
            };
            assert!(fits, "{made} {row:?}: {reason:?}");
        }
    }
}

/// A release key as if it were built in, with its secret half.
fn made_key(owner: Owner, created: u32, expires: Option<u32>) -> (Keyring, Key4<SecretParts, PrimaryRole>) {
    let mut secret = Key4::<SecretParts, PrimaryRole>::generate_rsa(2048).expect("key");
    secret.set_creation_time(at(created)).expect("time");
    let key = sequoia_openpgp::packet::Key::from(secret.clone()).parts_into_public().role_into_unspecified();
    let pinned = key.fingerprint().to_hex();
    let release = ReleaseKey { owner, key, pinned, expires: expires.map(at), revoked: false, signs: true };
    (Keyring { entries: vec![Entry::Release(Box::new(release))] }, secret)
}

fn sign(secret: &Key4<SecretParts, PrimaryRole>, hash: HashAlgorithm, made: u32, data: &[u8]) -> Vec<u8> {
    let mut pair = sequoia_openpgp::packet::Key::from(secret.clone()).into_keypair().expect("secret");
    let signature = SignatureBuilder::new(SignatureType::Binary)
        .set_hash_algo(hash)
        .set_signature_creation_time(at(made))
        .and_then(|builder| builder.sign_message(&mut pair, data))
        .expect("signature");
    Packet::from(signature).to_vec().expect("bytes")
}

#[test]
fn flatcar_keys_follow_the_standard_policy() {
    let (keyring, secret) = made_key(Owner::Flatcar, 1_519_654_443, Some(1_551_190_443));
    let sign = |hash, made| sign(&secret, hash, made, b"image");

    let verified = verify(&keyring, &sign(HashAlgorithm::SHA256, 1_530_000_000), b"image").expect("good");
    assert_eq!(verified.warnings.len(), 1);
    assert!(
        verified.warnings[0].ends_with("has expired since it signed, on 2019-02-26 14:14:03"),
        "{verified:?}"
    );
    let young = verify_reader(
        &keyring,
        &sign(HashAlgorithm::SHA256, 1_530_000_000),
        &b"image"[..],
        at(1_530_000_100),
    );
    assert_eq!(young.expect("good").warnings, [""; 0]);

    let late = verify(&keyring, &sign(HashAlgorithm::SHA256, 1_551_190_443), b"image");
    assert!(matches!(reason(late), Reason::KeyNotValid { .. }));
    let weak = verify(&keyring, &sign(HashAlgorithm::SHA1, 1_530_000_000), b"image");
    assert!(matches!(reason(weak), Reason::Policy(_)));
    let early = verify_reader(
        &keyring,
        &sign(HashAlgorithm::SHA256, 1_530_000_000),
        &b"image"[..],
        at(1_529_990_000),
    );
    assert!(matches!(reason(early), Reason::Future { .. }));
}

#[test]
fn container_linux_keys_may_use_sha1_and_nothing_weaker() {
    let (keyring, secret) = made_key(Owner::CoreOs, 1_378_506_310, Some(1_410_042_310));
    for hash in [HashAlgorithm::SHA1, HashAlgorithm::SHA256, HashAlgorithm::SHA512] {
        let verified =
            verify(&keyring, &sign(&secret, hash, 1_400_000_000, b"image"), b"image").expect("good");
        assert_eq!(verified.warnings, [""; 0]);
    }
    let ripemd =
        patched(&sign(&secret, HashAlgorithm::SHA1, 1_400_000_000, b"image"), &[4, 0, 1, 2], &[4, 0, 1, 3]);
    assert!(matches!(reason(verify(&keyring, &ripemd, b"image")), Reason::Policy(_)));
}

#[test]
fn a_revocation_wins_over_another_copy_of_the_key() {
    let (mut keyring, secret) = made_key(Owner::Flatcar, 1_519_654_443, None);
    let signature = sign(&secret, HashAlgorithm::SHA256, 1_530_000_000, b"image");
    verify(&keyring, &signature, b"image").expect("good");
    let mut newer = keyring.clone();
    if let Entry::Release(key) = &mut newer.entries[0] {
        key.revoked = true;
    }
    keyring.extend(newer);
    assert!(matches!(reason(verify(&keyring, &signature, b"image")), Reason::Revoked));
}
