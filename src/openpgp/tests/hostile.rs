//! Bytes that nobody honest would send.

use super::*;
use sequoia_openpgp::cert::CertBuilder;

/// Marsaglia's xorshift: the same mutations in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).expect("64 bits") % limit.max(1)
    }

    /// Changes, cuts, doubles or inserts a few bytes.
    fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(4) {
            // The fields are at the beginning; then come long numbers.
            let range = if self.below(2) == 0 { bytes.len() } else { bytes.len().min(40) };
            let position = self.below(range);
            let value = [0, 0xff, 0x7f, 0x80, u8::try_from(self.below(256)).expect("byte")][self.below(5)];
            match self.below(6) {
                0 => bytes.truncate(position),
                1 => bytes.insert(position, value),
                2 if !bytes.is_empty() => drop(bytes.remove(position)),
                3 => bytes.extend_from_within(position..),
                4 if !bytes.is_empty() => bytes[position] ^= 1 << self.below(8),
                _ if !bytes.is_empty() => bytes[position] = value,
                _ => bytes.push(value),
            }
        }
        bytes
    }
}

fn armored(kind: &str, bytes: &[u8]) -> Vec<u8> {
    let body = openssl::base64::encode_block(bytes);
    let lines: Vec<&str> = (0..body.len()).step_by(64).map(|i| &body[i..body.len().min(i + 64)]).collect();
    format!("-----BEGIN PGP {kind}-----\n\n{}\n-----END PGP {kind}-----\n", lines.join("\n")).into_bytes()
}

#[test]
fn mutated_signatures_never_panic_and_never_bless_other_data() {
    let coreos = version_txt_sig();
    let (mut keyring, secret) = made_key(Owner::Flatcar, 1_519_654_443, None);
    let flatcar = sign(&secret, HashAlgorithm::SHA512, 1_530_000_000, VERSION_TXT);
    keyring.extend(builtin(Builtin::Both));
    let seeds =
        [coreos.clone(), flatcar.clone(), [coreos.clone(), flatcar].concat(), armored("SIGNATURE", &coreos)];
    for seed in &seeds {
        verify(&keyring, seed, VERSION_TXT).expect("the seed is good");
    }
    let mut random = Random(0x6d61_6e74_6c65);
    let (mut parsed, mut reached) = (0, 0);
    for round in 0..4000 {
        let mutated = random.mutate(&seeds[round % seeds.len()]);
        match verify(&keyring, &mutated, b"other data") {
            Ok(verified) => panic!("{mutated:02x?} blesses other data: {verified:?}"),
            Err(Error::Refused { reason: Reason::Bad(_), .. }) => reached += 1,
            Err(Error::Refused { .. } | Error::UnknownSigner { .. }) => parsed += 1,
            Err(_) => {}
        }
        // The data itself may pass still: not all of a signature file is signed.
        let _ = verify(&keyring, &mutated, VERSION_TXT);
    }
    assert!(parsed > 20 && reached > 100, "the mutations are too rough: {parsed}, {reached}");
}

#[test]
fn mutated_certificates_never_panic() {
    let (cert, _) = CertBuilder::general_purpose(Some("Zoë \u{1b}[31m <z@example.org>"))
        .set_creation_time(at(1_600_000_000))
        .generate()
        .expect("certificate");
    let binary = cert.to_vec().expect("bytes");
    let armored = cert.armored().to_vec().expect("text");
    let mut pair =
        cert.primary_key().key().clone().parts_into_secret().expect("secret").into_keypair().expect("pair");
    let signature = SignatureBuilder::new(SignatureType::Binary)
        .set_signature_creation_time(at(1_700_000_000))
        .and_then(|builder| builder.sign_message(&mut pair, VERSION_TXT))
        .expect("signature");
    let signature = Packet::from(signature).to_vec().expect("bytes");
    let mut random = Random(0x6b65_7973);
    let mut accepted = 0;
    for round in 0..1500 {
        let seed = if round % 4 == 0 { &armored } else { &binary };
        let mutated = random.mutate(seed);
        let Ok(keyring) = Keyring::parse(&mutated) else { continue };
        accepted += 1;
        let _ = verify(&keyring, &signature, VERSION_TXT);
        assert!(keyring.describe().iter().all(|line| !line.contains(char::is_control)));
    }
    assert!(accepted > 50, "the mutations are too rough: {accepted}");
}

#[test]
fn what_is_no_signature_is_told_apart() {
    let keyring = builtin(Builtin::Both);
    let new = |bytes: &[u8]| Verifier::new(&keyring, bytes, now()).expect_err("no signature");
    let signature = version_txt_sig();
    assert!(matches!(new(b""), Error::NoSignature));
    assert!(matches!(new(b" \n"), Error::NoSignature));
    for garbage in [
        &b"<html>404</html>"[..],
        &[0; 600],
        &[0xff; 600],
        &signature[..300],
        b"-----BEGIN PGP SIGNATURE-----\n",
    ] {
        let error = new(garbage);
        assert!(matches!(error, Error::Malformed(_) | Error::NoSignature), "{garbage:?}: {error:?}");
    }
    assert!(matches!(new(&vec![b'a'; MAX_SIGNATURE + 1]), Error::TooLarge { .. }));
    assert!(matches!(new(&signature.repeat(MAX_SIGNATURES + 1)), Error::TooMany));
    // A literal data packet: a signed message, not a detached signature.
    let message = [&signature[..], &[0xcb, 7, b'b', 0, 0, 0, 0, 0, b'x']].concat();
    assert!(matches!(new(&message), Error::NotDetached(_)));
    // A packet that claims four gigabytes.
    let error = new(&[0xc2, 0xff, 0xff, 0xff, 0xff, 0xf0, 4, 0, 1, 8]);
    assert!(matches!(error, Error::Malformed(_)), "{error:?}");
}

#[test]
fn a_signature_of_unknown_version_does_not_hide_a_good_one() {
    let unknown = [&[0xc2, 6][..], &[9, 0, 1, 8, 0, 0]].concat();
    let keyring = builtin(Builtin::CoreOs);
    let error = Verifier::new(&keyring, &unknown, now()).expect_err("unknown version");
    assert!(matches!(error, Error::Malformed(_)), "{error:?}");
    for both in [[&unknown[..], &version_txt_sig()].concat(), [&version_txt_sig(), &unknown[..]].concat()] {
        verify(&keyring, &both, VERSION_TXT).expect("good");
    }
}

#[test]
fn armored_signatures_one_after_another_are_all_looked_at() {
    let keyring = builtin(Builtin::CoreOs);
    let (_, secret) = made_key(Owner::Flatcar, 1_519_654_443, None);
    let stranger = sign(&secret, HashAlgorithm::SHA512, 1_530_000_000, VERSION_TXT);
    let block = |bytes: &[u8]| armored("SIGNATURE", bytes);
    let good = block(&version_txt_sig());
    let unknown = block(&[&[0xc2, 6][..], &[9, 0, 1, 8, 0, 0]].concat());
    let damaged = b"-----BEGIN PGP SIGNATURE-----\n\nAAAA\n-----END PGP SIGNATURE-----\n".to_vec();
    for other in
        [block(&stranger), unknown, damaged, block(&patched(&version_txt_sig(), &MADE, &[1, 2, 3, 4]))]
    {
        for between in ["", "\n\n", "some words\n"] {
            for both in [[&other[..], &good], [&good[..], &other]] {
                let text = both.join(between.as_bytes());
                verify(&keyring, &text, VERSION_TXT).expect("good");
                let dos = String::from_utf8(text).expect("text").replace('\n', "\r\n");
                verify(&keyring, dos.as_bytes(), VERSION_TXT).expect("good");
            }
        }
        verify(&keyring, &other.repeat(2), VERSION_TXT).expect_err("no good one");
    }
    let new = |bytes: &[u8]| Verifier::new(&keyring, bytes, now());
    assert!(matches!(new(&good.repeat(MAX_SIGNATURES + 1)), Err(Error::TooMany)));
    new(&good.repeat(MAX_SIGNATURES)).expect("not too many");
    let key = armored("MESSAGE", &[0xcb, 7, b'b', 0, 0, 0, 0, 0, b'x']);
    assert!(matches!(new(&[good, key].concat()), Err(Error::NotDetached(_))));
}

#[test]
fn bad_key_files_are_ordinary_errors() {
    let folder = tempfile::tempdir().expect("folder");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        path
    };
    let missing = Keyring::read(&folder.path().join("missing")).expect_err("missing");
    assert!(missing.to_string().ends_with("/missing"), "{missing}");
    assert!(matches!(Keyring::read(folder.path()).expect_err("folder"), Error::Read { .. }));
    let device = Keyring::read(Path::new("/dev/zero")).expect_err("device");
    assert_eq!(device.source().expect("cause").to_string(), "it is a device, not a plain file");
    let long = file("long", b"");
    std::fs::File::options().write(true).open(&long).and_then(|f| f.set_len(1 << 40)).expect("sparse");
    let endless = Keyring::read(&long).expect_err("endless");
    assert_eq!(endless.source().expect("cause").to_string(), "the key file has more than 8388608 bytes");
    let inputs =
        [&b""[..], b"hello\n", &[0; 64], &version_txt_sig(), b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA"];
    for (index, bytes) in inputs.iter().enumerate() {
        let error = Keyring::read(&file(&index.to_string(), bytes)).expect_err("bad");
        assert!(
            matches!(&error, Error::KeyFile { source, .. }
            if matches!(**source, Error::Certificate(_) | Error::NoCertificate)),
            "{index}: {error:?}"
        );
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = tempfile::tempdir().expect("folder");
    let (data, signature) = (folder.path().join("f"), folder.path().join("f.sig"));
    let keyring = builtin(Builtin::CoreOs);
    let check = || verify_file(&keyring, &signature, &data, now());
    assert!(check().expect_err("no signature").to_string().ends_with("/f.sig"));
    std::fs::write(&signature, version_txt_sig()).expect("written");
    assert!(check().expect_err("no data").to_string().ends_with("/f"));
    std::fs::write(&data, VERSION_TXT).expect("written");
    check().expect("good");
}
