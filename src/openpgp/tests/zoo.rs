//! Keys and signatures as GnuPG makes them, made anew in every run.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::*;

/// 2024-01-01: when the old keys were made.
const OLD: u32 = 1_704_067_200;
const DAY: u32 = 86_400;
const DATA: &[u8] = b"an image\r\nwith two\nlines\n";

/// GnuPG with a home of its own; its agent ends with it.
struct Gpg {
    home: tempfile::TempDir,
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let _ =
            Command::new("gpgconf").arg("--homedir").arg(self.home.path()).args(["--kill", "all"]).status();
    }
}

impl Gpg {
    fn new() -> Option<Self> {
        let Ok(version) = Command::new("gpg").arg("--version").output() else {
            println!("skipped: gpg is missing (Debian package gnupg)");
            return None;
        };
        assert!(version.status.success());
        // Not below TMPDIR: the path of the agent's socket must stay short.
        let home = tempfile::Builder::new()
            .prefix("zoo")
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in("/tmp")
            .expect("folder");
        Some(Self { home })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Runs gpg at a time (`None`: now), with `input` on its standard input; returns its standard output.
    fn run(&self, time: Option<u32>, args: &[&str], input: &[u8]) -> Vec<u8> {
        let stdin = self.path("stdin");
        std::fs::write(&stdin, input).expect("written");
        let mut command = Command::new("gpg");
        command.arg("--homedir").arg(self.home.path());
        command.args([
            "--batch",
            "--yes",
            "--no-tty",
            "--quiet",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
        ]);
        if let Some(time) = time {
            command.arg(format!("--faked-system-time={time}!"));
        }
        let output = command
            .args(args)
            .stdin(Stdio::from(std::fs::File::open(&stdin).expect("opened")))
            .output()
            .expect("gpg runs");
        assert!(output.status.success(), "gpg {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Makes a key and returns its fingerprint.
    fn key(&self, time: Option<u32>, user: &str, algorithm: &str, usage: &str, expire: &str) -> String {
        self.run(time, &["--quick-generate-key", user, algorithm, usage, expire], b"");
        let listing = self.run(None, &["--with-colons", "--list-keys", &format!("={user}")], b"");
        let listing = String::from_utf8(listing).expect("text");
        let line = listing.lines().find(|line| line.starts_with("fpr:")).expect("fingerprint");
        line.split(':').nth(9).expect("column").to_owned()
    }

    fn export(&self, users: &[&str]) -> Vec<u8> {
        self.run(None, &[&["--export"], users].concat(), b"")
    }

    fn keyring(&self, users: &[&str]) -> Keyring {
        Keyring::parse(&self.export(users)).expect("keys")
    }

    /// Signs `DATA`, as the more arguments say.
    fn sign(&self, time: Option<u32>, args: &[&str]) -> Vec<u8> {
        self.run(time, &[args, &["--detach-sign"]].concat(), DATA)
    }
}

macro_rules! gpg {
    () => {
        match Gpg::new() {
            Some(gpg) => gpg,
            None => return,
        }
    };
}

/// Verifies `DATA` today.
fn check(keyring: &Keyring, signature: &[u8]) -> Result<Verified, Error> {
    verify_reader(keyring, signature, DATA, SystemTime::now())
}

fn good_algorithm(algorithm: &str) {
    let gpg = gpg!();
    let fingerprint = gpg.key(None, "Zoo <zoo@example.org>", algorithm, "sign", "never");
    let keyring = gpg.keyring(&[]);
    let signature = gpg.sign(None, &[]);
    let verified = check(&keyring, &signature).expect("good");
    assert_eq!(verified.signer, "Zoo <zoo@example.org>");
    assert_eq!(verified.fingerprint, fingerprint);
    assert_eq!(verified.certificate, fingerprint);
    assert_eq!(verified.warnings, [""; 0]);
    let bad = verify_reader(&keyring, &signature, &b"another image"[..], SystemTime::now());
    assert!(matches!(reason(bad), Reason::Bad(_)));
}

#[test]
fn rsa_4096() {
    good_algorithm("rsa4096");
}

#[test]
fn ed25519() {
    good_algorithm("ed25519");
}

#[test]
fn nist_p256() {
    good_algorithm("nistp256");
}

#[test]
fn dsa_2048() {
    good_algorithm("dsa2048");
}

#[test]
fn rsa_1024_is_refused() {
    let gpg = gpg!();
    gpg.key(None, "Weak", "rsa1024", "sign", "never");
    let reason = reason(check(&gpg.keyring(&[]), &gpg.sign(None, &[])));
    assert!(matches!(reason, Reason::Unbound(_)), "{reason:?}");
    assert!(gpg.keyring(&[]).describe()[0].contains("Weak, not usable: "));
}

#[test]
fn sha1_is_refused() {
    let gpg = gpg!();
    gpg.key(None, "Zoo", "ed25519", "sign", "never");
    let signature = gpg.sign(None, &["--digest-algo", "SHA1"]);
    assert!(matches!(reason(check(&gpg.keyring(&[]), &signature)), Reason::Policy(_)));
}

#[test]
fn subkeys_of_a_certifying_primary() {
    let gpg = gpg!();
    let primary = gpg.key(None, "Zoo", "ed25519", "cert", "never");
    for algorithm in ["rsa2048", "ed25519"] {
        gpg.run(None, &["--quick-add-key", &primary, algorithm, "sign", "never"], b"");
    }
    gpg.run(None, &["--quick-add-key", &primary, "cv25519", "encr", "never"], b"");
    let listing = gpg.run(None, &["--with-colons", "--list-keys"], b"");
    let listing = String::from_utf8(listing).expect("text");
    let subkeys: Vec<&str> = listing
        .lines()
        .filter(|line| line.starts_with("fpr:"))
        .filter_map(|line| line.split(':').nth(9))
        .skip(1)
        .collect();
    assert_eq!(subkeys.len(), 3);
    let keyring = gpg.keyring(&[]);
    assert_eq!(keyring.describe(), [format!("{primary} Zoo, signing keys: 2")]);
    for subkey in &subkeys[..2] {
        let verified = check(&keyring, &gpg.sign(None, &["-u", &format!("{subkey}!")])).expect("good");
        assert_eq!(verified.fingerprint, *subkey);
        assert_eq!(verified.certificate, primary);
    }
}

#[test]
fn a_key_that_has_expired_since_is_accepted_with_a_warning() {
    let gpg = gpg!();
    let fingerprint = gpg.key(Some(OLD), "Zoo", "ed25519", "sign", "seconds=2");
    let signature = gpg.sign(Some(OLD + 1), &[]);
    let keyring = gpg.keyring(&[]);
    let verified = check(&keyring, &signature).expect("good");
    assert_eq!(
        verified.warnings,
        [format!("the signing key {fingerprint} has expired since it signed, on 2024-01-01 00:00:02")]
    );
    assert_eq!(verified.created, at(OLD + 1));
    let then = verify_reader(&keyring, &signature, DATA, at(OLD + 1)).expect("good");
    assert_eq!(then.warnings, [""; 0]);
}

#[test]
fn a_key_that_had_expired_when_it_signed_is_refused() {
    let gpg = gpg!();
    let fingerprint = gpg.key(Some(OLD), "Zoo", "ed25519", "sign", "30d");
    let expired = gpg.keyring(&[]);
    gpg.run(Some(OLD + DAY), &["--quick-set-expire", &fingerprint, "never"], b"");
    let signature = gpg.sign(Some(OLD + 31 * DAY), &[]);
    check(&gpg.keyring(&[]), &signature).expect("good with the newer certificate");
    let reason = reason(check(&expired, &signature));
    let expected =
        "the key was not valid when it signed, 2024-02-01 00:00:00: it expired on 2024-01-31 00:00:00";
    assert_eq!(reason.to_string(), expected);
}

#[test]
fn a_later_change_of_the_expiry_date_leaves_older_signatures_good() {
    let gpg = gpg!();
    let primary = gpg.key(Some(OLD), "Zoo", "ed25519", "cert", "365d");
    gpg.run(Some(OLD), &["--quick-add-key", &primary, "ed25519", "sign", "365d"], b"");
    let signature = gpg.sign(Some(OLD + 10 * DAY), &[]);
    gpg.run(Some(OLD + 300 * DAY), &["--quick-set-expire", &primary, "4000d"], b"");
    gpg.run(Some(OLD + 300 * DAY), &["--quick-set-expire", &primary, "4000d", "*"], b"");
    let keyring = gpg.keyring(&[]);
    let verified = check(&keyring, &signature).expect("good");
    assert_eq!(verified.warnings, [""; 0]);
    // The certificate of today has no say about times before the key was made or after it ends.
    let made = OLD + 10 * DAY;
    for (time, fits) in
        [(OLD - 1, false), (OLD + 1, true), (OLD + 4299 * DAY, true), (OLD + 4301 * DAY, false)]
    {
        let forged = patched(&signature, &made.to_be_bytes(), &time.to_be_bytes());
        let reason = reason(verify_reader(&keyring, &forged, DATA, at(u32::MAX)));
        assert_eq!(matches!(reason, Reason::Bad(_)), fits, "{time}: {reason:?}");
        assert_eq!(matches!(reason, Reason::KeyNotValid { .. }), !fits, "{time}: {reason:?}");
    }
}

#[test]
fn a_revoked_key_is_refused_whenever_it_signed() {
    let gpg = gpg!();
    let fingerprint = gpg.key(Some(OLD), "Zoo", "ed25519", "sign", "never");
    let signature = gpg.sign(Some(OLD + DAY), &[]);
    check(&gpg.keyring(&[]), &signature).expect("good before");
    let revocation =
        std::fs::read_to_string(gpg.path(&format!("openpgp-revocs.d/{fingerprint}.rev"))).expect("read");
    gpg.run(None, &["--import"], revocation.replace(":-----BEGIN", "-----BEGIN").as_bytes());
    assert!(matches!(reason(check(&gpg.keyring(&[]), &signature)), Reason::Revoked));
}

#[test]
fn a_revoked_subkey_is_refused_although_it_was_only_retired() {
    let gpg = gpg!();
    let primary = gpg.key(Some(OLD), "Zoo", "ed25519", "cert", "never");
    for _ in 0..2 {
        gpg.run(Some(OLD), &["--quick-add-key", &primary, "ed25519", "sign", "never"], b"");
    }
    let listing = String::from_utf8(gpg.run(None, &["--with-colons", "--list-keys"], b"")).expect("text");
    let subkeys: Vec<&str> = listing
        .lines()
        .filter(|line| line.starts_with("fpr:"))
        .filter_map(|line| line.split(':').nth(9))
        .skip(1)
        .collect();
    let signatures: Vec<Vec<u8>> =
        subkeys.iter().map(|subkey| gpg.sign(Some(OLD + DAY), &["-u", &format!("{subkey}!")])).collect();
    // 3: "key is no longer used".
    let answers = b"key 1\nrevkey\ny\n3\n\ny\nsave\n";
    gpg.run(Some(OLD + 2 * DAY), &["--no-batch", "--command-fd", "0", "--edit-key", &primary], answers);
    let keyring = gpg.keyring(&[]);
    let results: Vec<Result<Verified, Error>> = signatures.iter().map(|s| check(&keyring, s)).collect();
    assert!(matches!(&results[0], Err(Error::Refused { reason: Reason::Revoked, .. })), "{results:?}");
    assert!(results[1].is_ok(), "{results:?}");
}

#[test]
fn armor_and_several_certificates() {
    let gpg = gpg!();
    let [a, b] = ["Alice", "Bob"].map(|user| gpg.key(None, user, "ed25519", "sign", "never"));
    let armored = |args: &[&str]| gpg.run(None, &[&["--armor"], args].concat(), b"");
    let one_block = armored(&["--export"]);
    let two_blocks =
        [armored(&["--export", &a]), b"\nsome text\n".to_vec(), armored(&["--export", &b])].concat();
    let binary = gpg.export(&[]);
    let secret = gpg.run(None, &["--export-secret-keys"], b"");
    let file = gpg.path("keys");
    for keys in [one_block, two_blocks.clone(), binary, secret] {
        std::fs::write(&file, &keys).expect("written");
        let keyring = Keyring::read(&file).expect("keys");
        assert_eq!(keyring.describe().len(), 2);
        for (user, fingerprint) in [("Alice", &a), ("Bob", &b)] {
            for signature in
                [gpg.sign(None, &["-u", fingerprint]), gpg.sign(None, &["--armor", "-u", fingerprint])]
            {
                let verified = check(&keyring, &signature).expect("good");
                assert_eq!((verified.signer.as_str(), &verified.fingerprint), (user, fingerprint));
            }
        }
    }
    let damaged = String::from_utf8(two_blocks).expect("text");
    let (first, second) = damaged.split_at(damaged.len() - 200);
    assert!(Keyring::parse([first, "!!", second].concat().as_bytes()).is_err());
}

#[test]
fn unknown_signers_are_refused() {
    let gpg = gpg!();
    let [a, b] = ["Alice", "Bob"].map(|user| gpg.key(None, user, "ed25519", "sign", "never"));
    let error = check(&gpg.keyring(&[&b]), &gpg.sign(None, &["-u", &a])).expect_err("unknown");
    assert!(matches!(&error, Error::UnknownSigner { issuers } if issuers.contains(&a)), "{error:?}");
}

#[test]
fn one_good_signature_of_two_is_enough() {
    let gpg = gpg!();
    let [a, b, c] = ["Alice", "Bob", "Carol"].map(|user| gpg.key(None, user, "ed25519", "sign", "never"));
    let both = gpg.sign(None, &["-u", &a, "-u", &b]);
    for user in [&a, &b] {
        let verified = check(&gpg.keyring(&[user]), &both).expect("good");
        assert_eq!((&verified.fingerprint, verified.warnings.len()), (user, 0));
    }
    check(&gpg.keyring(&[&a, &b]), &both).expect("good");
    // The same in armored blocks one after another.
    let blocks: Vec<Vec<u8>> = [&a, &b].map(|user| gpg.sign(None, &["--armor", "-u", user])).to_vec();
    for user in [&a, &b] {
        let verified = check(&gpg.keyring(&[user]), &blocks.concat()).expect("good");
        assert_eq!((&verified.fingerprint, verified.warnings.len()), (user, 0));
    }
    assert!(matches!(check(&gpg.keyring(&[&c]), &both), Err(Error::UnknownSigner { .. })));

    // Alice signs something else, or with SHA-1: Bob's counts, with a word about Alice's.
    let other = gpg.run(None, &["-u", &a, "--detach-sign"], b"something else");
    let weak = gpg.sign(None, &["-u", &a, "--digest-algo", "SHA1"]);
    let bobs = gpg.sign(None, &["-u", &b]);
    for alices in [other, weak] {
        for both in [[&alices[..], &bobs].concat(), [&bobs[..], &alices].concat()] {
            let verified = check(&gpg.keyring(&[]), &both).expect("good");
            assert_eq!(verified.fingerprint, b);
            assert_eq!(verified.warnings.len(), 1);
            assert!(verified.warnings[0].contains(&a), "{verified:?}");
            check(&gpg.keyring(&[&a]), &both).expect_err("Alice's alone does not count");
        }
    }
}

#[test]
fn signature_dates_are_minded() {
    let gpg = gpg!();
    gpg.key(Some(OLD), "Zoo", "ed25519", "sign", "never");
    let keyring = gpg.keyring(&[]);
    let short = gpg.sign(Some(OLD + DAY), &["--default-sig-expire", "2d"]);
    verify_reader(&keyring, &short, DATA, at(OLD + 2 * DAY)).expect("good");
    assert!(matches!(reason(check(&keyring, &short)), Reason::Expired(_)));
    let made = gpg.sign(Some(OLD + DAY), &[]);
    verify_reader(&keyring, &made, DATA, at(OLD + DAY - 60)).expect("clocks differ");
    let ahead = verify_reader(&keyring, &made, DATA, at(OLD + DAY - 3600));
    assert_eq!(
        reason(ahead).to_string(),
        "the signature is from the future: made on 2024-01-02 00:00:00, and the clock says 2024-01-01 23:00:00"
    );
}

#[test]
fn only_detached_signatures_over_bytes_count() {
    let gpg = gpg!();
    gpg.key(None, "Zoo", "ed25519", "sign", "never");
    let keyring = gpg.keyring(&[]);
    assert!(matches!(reason(check(&keyring, &gpg.sign(None, &["--textmode"]))), Reason::NotOverBytes(_)));
    for args in [&["--sign"][..], &["--sign", "-z0"], &["--armor", "--sign"], &["--export"]] {
        let error = check(&keyring, &gpg.run(None, args, DATA)).expect_err("not detached");
        assert!(matches!(error, Error::NotDetached(_)), "{args:?}: {error:?}");
    }
    // The signature within is over text, too.
    check(&keyring, &gpg.run(None, &["--clear-sign"], DATA)).expect_err("not detached");
}

#[test]
#[ignore = "reads 4 GiB of zeros: for full runs"]
fn large_files_need_little_memory() {
    let gpg = gpg!();
    gpg.key(None, "Zoo", "ed25519", "sign", "never");
    let keyring = gpg.keyring(&[]);
    let (data, signature) = (gpg.path("data"), gpg.path("data.sig"));
    std::fs::File::create(&data).and_then(|file| file.set_len(2 << 30)).expect("sparse file");
    gpg.run(None, &["--detach-sign", data.to_str().expect("text")], b"");
    let peak = || -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").expect("read");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("line");
        line.trim().trim_end_matches(" kB").parse().expect("number")
    };
    let before = peak();
    verify_file(&keyring, &signature, &data, SystemTime::now()).expect("good");
    assert!(peak() - before < 4096, "needs {} KiB", peak() - before);
}
