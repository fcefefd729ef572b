//! Signed tags: whose key, of what, under which name.

use std::process::Stdio;

use super::{Bench, MANIFEST};
use crate::support::{Outcome, installed};

/// Keys of GnuPG, and tags made by git with them.
struct Signed {
    bench: Bench,
    commit: String,
}

impl Drop for Signed {
    fn drop(&mut self) {
        // The agent would outlive the test.
        for home in ["gnupg", "other"] {
            let mut command = self.bench.env.command("gpgconf");
            command.arg("--homedir").arg(self.bench.env.home().join(home)).args(["--kill", "all"]);
            let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

fn gpg(bench: &Bench, home: &str, args: &[&str]) -> Vec<u8> {
    let mut command = bench.env.command("gpg");
    command.env("GNUPGHOME", bench.env.home().join(home)).args(["--batch", "--passphrase", ""]).args(args);
    let output = command.output().unwrap();
    assert!(output.status.success(), "gpg {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

impl Signed {
    /// The user's keyring has one key, which signed `v1`; `other` has another one. Neither key has any tag's name.
    fn new() -> Option<Self> {
        let bench = Bench::new().filter(|_| installed("gpg"))?;
        for home in ["gnupg", "other"] {
            let folder = bench.env.home().join(home);
            std::fs::create_dir(&folder).unwrap();
            std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
            let user = format!("Release {home} <{home}@localhost>");
            gpg(&bench, home, &["--quick-generate-key", &user, "ed25519", "sign", "never"]);
        }
        std::fs::write(bench.env.home().join("key.asc"), gpg(&bench, "other", &["--armor", "--export"]))
            .unwrap();
        bench.commit("coreos/a", &[("one", "1\n")]);
        let commit = bench.manifest("<project name='coreos/a' path='a'/>");
        let signed = Self { bench, commit };
        signed.tag("gnupg", "v1", "HEAD");
        Some(signed)
    }

    fn server() -> String {
        format!("server/{MANIFEST}.git")
    }

    fn git(&self, args: &[&str]) -> String {
        self.bench.git(&Self::server(), args)
    }

    /// Signs a tag with the key of a folder.
    fn tag(&self, home: &str, name: &str, of: &str) {
        let mut command = self.bench.env.command(&self.bench.git);
        command.env("GNUPGHOME", self.bench.env.home().join(home));
        command.arg("-C").arg(self.bench.env.home().join(Self::server()));
        let user = format!("{home}@localhost");
        let output = command.args(["tag", "-f", "-u", &user, "-m", name, name, of]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn sync(&self, tag: &str, args: &[&str]) -> Outcome {
        let branch = format!("--manifest-branch=refs/tags/{tag}");
        self.bench.sync(&[&["--verify-signature", &branch], args].concat())
    }
}

#[test]
fn the_keys_of_the_user_count_and_are_named() {
    let Some(signed) = Signed::new() else { return };
    let outcome = signed.sync("v1", &["--verify"]).expect(0);
    assert!(outcome.stderr.contains("the tag v1 is signed by Release gnupg <gnupg@localhost> with key "));
    assert_eq!(signed.bench.head(".repo/manifests"), signed.commit);
    // A plain name means the tag as well. Then a key file: it alone counts.
    signed.bench.sync(&["--verify-signature", "--manifest-branch=v1"]).expect(0);
    let outcome = signed.sync("v1", &["--manifest-key=key.asc"]).expect(1);
    assert!(outcome.stderr.contains("signature made by an unknown key"), "{}", outcome.stderr);
    signed.tag("other", "v2", "HEAD");
    signed.sync("v2", &["--manifest-key=key.asc"]).expect(0);
    let outcome = signed.sync("v2", &[]).expect(1);
    assert!(outcome.stderr.contains("repo tag verification failed"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("--manifest-key"), "{}", outcome.stderr);
}

#[test]
fn what_nobody_signed_is_refused_and_never_checked_out() {
    let Some(signed) = Signed::new() else { return };
    // What an attacker has who owns the server.
    let evil = signed.bench.commit(MANIFEST, &[("evil", "")]);
    signed.git(&["tag", "light", &evil]);
    signed.git(&["tag", "-a", "-m", "x", "unsigned", &evil]);
    signed.git(&["update-ref", "refs/tags/renamed", "refs/tags/v1"]);
    let forge = |name: &str, change: &dyn Fn(String) -> String| {
        let text = change(signed.git(&["cat-file", "tag", "v1"]) + "\n");
        let file = signed.bench.env.write("forged", &text);
        let args = ["hash-object", "-t", "tag", "-w", "--literally", file.to_str().unwrap()];
        let object = signed.git(&args);
        signed.git(&["update-ref", &format!("refs/tags/{name}"), &object]);
    };
    forge("forged", &|text| text.replace(&signed.commit, &evil).replace("tag v1", "tag forged"));
    forge("message", &|text| text.replace("\nv1\n", "\nv1 for real\n").replace("tag v1", "tag message"));
    forge("trailing", &|text| text.replace("tag v1", "tag trailing") + "and more\n");
    forge("armor", &|text| text.replace("tag v1", "tag armor").replace("=\n", "\n"));
    for (tag, why) in [
        ("light", "is lightweight"),
        ("unsigned", "is not signed"),
        ("renamed", "what was signed is the tag \"v1\""),
        ("forged", "bad signature"),
        ("message", "bad signature"),
        ("trailing", "something follows its signature"),
        ("armor", "the signature of the tag armor is not accepted"),
        ("nowhere", "there is no tag"),
    ] {
        let outcome = signed.sync(tag, &[]).expect(1);
        assert!(outcome.stderr.contains(why), "{tag}: {}", outcome.stderr);
        assert!(!signed.bench.at(".repo/manifests/default.xml").exists(), "{tag}");
        assert!(!signed.bench.at(".repo/manifest.xml").exists(), "{tag}");
    }
    let outcome = signed.bench.sync(&["--verify-signature", "--manifest-branch=refs/heads/master"]).expect(1);
    assert!(outcome.stderr.contains("is no tag"), "{}", outcome.stderr);
    assert!(!signed.bench.at(".repo/manifests/default.xml").exists());
    // A tag that points elsewhere than it did, well signed as it is, is not taken without being told to.
    signed.sync("v1", &[]).expect(0);
    signed.tag("gnupg", "v1", &evil);
    let outcome = signed.sync("v1", &[]).expect(1);
    assert!(outcome.stderr.contains("is another tag now"), "{}", outcome.stderr);
    assert_eq!(signed.bench.head(".repo/manifests"), signed.commit);
    signed.sync("v1", &["--force-sync"]).expect(0);
    assert_eq!(signed.bench.head(".repo/manifests"), evil);
    // Nor is a checkout with something in it that was not signed.
    signed.bench.env.write("sdk/.repo/manifests/more.xml", "<manifest/>");
    let outcome = signed.sync("v1", &[]).expect(1);
    assert!(
        outcome.stderr.contains("the checkout of the tag v1 was changed: ?? more.xml"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn keys_that_do_not_count_any_more_are_refused() {
    let Some(signed) = Signed::new() else { return };
    let folder = signed.bench.env.home().join("gnupg/openpgp-revocs.d");
    let name = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(name).unwrap().replace(":-----BEGIN", "-----BEGIN");
    let file = signed.bench.env.write("revocation", &text);
    gpg(&signed.bench, "gnupg", &["--import", file.to_str().unwrap()]);
    let outcome = signed.sync("v1", &[]).expect(1);
    assert!(outcome.stderr.contains("the key is revoked"), "{}", outcome.stderr);
    // A keyring that is damaged has no keys; one that is none at all neither.
    std::fs::write(signed.bench.env.home().join("gnupg/pubring.kbx"), [0; 100]).unwrap();
    let outcome = signed.sync("v1", &[]).expect(1);
    assert!(outcome.stderr.contains("made by an unknown key"), "{}", outcome.stderr);
    let outcome = signed.sync("v1", &["--manifest-key=nowhere.asc"]).expect(1);
    assert!(outcome.stderr.contains("--manifest-key=nowhere.asc"), "{}", outcome.stderr);
}
