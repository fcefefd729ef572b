//! `cork download`.

use super::Bench;
use super::image::VERSION;
use crate::gangue::{data, sign};
use crate::support::gcs::Gcs;
use crate::support::server::Fault;
use crate::support::{Outcome, snapshot};

/// The architecture in the names of tarballs.
pub(super) fn arch() -> &'static str {
    mantle::sdk::portage_architecture().unwrap()
}

fn name() -> String {
    format!("flatcar-sdk-{}-3033.0.0.tar.bz2", arch())
}

fn path() -> String {
    format!("/sdk/{}/3033.0.0/{}", arch(), name())
}

fn bench() -> Bench {
    let bench = Bench::new();
    bench.put_signed(&path(), &data(200_000));
    bench
}

fn get(bench: &Bench, args: &[&str]) -> Outcome {
    let url = format!("--sdk-url={}", bench.server.url("/sdk"));
    let usual = ["download", "--sdk-version=3033.0.0", "--verify-key=key.asc", &url];
    bench.cork(&[&usual[..], args].concat())
}

const FOLDER: &str = ".cache/sdks";

#[test]
fn a_tarball_that_is_there_needs_no_server() {
    let bench = bench();
    get(&bench, &[]).expect(0);
    let file = format!("{FOLDER}/{}", name());
    bench.expect_file(&file, &data(200_000));
    assert_eq!(bench.names(FOLDER), [name(), format!("{}.sig", name())]);
    assert_eq!(bench.asked(), [format!("{}.sig", path()), path()]);
    let outcome = get(&bench, &[]).expect(0);
    assert!(outcome.stderr.contains("Verified existing file"), "{}", outcome.stderr);
    assert!(bench.asked().is_empty());
    // without its signature only that is fetched
    std::fs::remove_file(bench.file(&format!("{file}.sig"))).unwrap();
    get(&bench, &[]).expect(0);
    assert_eq!(bench.asked(), [format!("{}.sig", path())]);
    assert_eq!(bench.names(FOLDER).len(), 2);
}

#[test]
fn damage_heals() {
    let whole = data(200_000);
    let mut flipped = whole.clone();
    flipped[1000] ^= 1;
    // what a run of upstream's left under the final names: a flipped bit, a beginning, too much, nothing
    let longer = [&whole[..], b"more"].concat();
    for (damaged, signature) in [
        (&flipped[..], sign(&whole)),
        (&whole[..100_000], sign(&whole)),
        (&longer, b"cut".to_vec()),
        (b"", sign(b"another")),
    ] {
        let bench = bench();
        let file = format!("{FOLDER}/{}", name());
        std::fs::create_dir_all(bench.file(FOLDER)).unwrap();
        std::fs::write(bench.file(&file), damaged).unwrap();
        std::fs::write(bench.file(&format!("{file}.sig")), &signature).unwrap();
        let outcome = get(&bench, &[]).expect(0);
        assert!(outcome.stderr.contains("does not fit its signature"), "{}", outcome.stderr);
        bench.expect_file(&file, &whole);
        assert_eq!(bench.names(FOLDER).len(), 2);
    }
    // a bad part is no obstacle either, nor is damage on the way
    let bench = bench();
    std::fs::create_dir_all(bench.file(FOLDER)).unwrap();
    std::fs::write(bench.file(&format!("{FOLDER}/{}.part", name())), &flipped).unwrap();
    bench.server.faults(vec![Fault::Flip]);
    get(&bench, &[]).expect(0);
    bench.expect_file(&format!("{FOLDER}/{}", name()), &whole);
}

#[test]
fn a_wrong_tarball_never_lands() {
    let bench = bench();
    bench.server.put(&format!("{}.sig", path()), &sign(b"something else"));
    get(&bench, &[]).expect(1);
    assert!(bench.names(FOLDER).is_empty(), "{:?}", bench.names(FOLDER));
    // nor does it replace one of another key
    bench.put_signed(&path(), &data(200_000));
    get(&bench, &[]).expect(0);
    bench.asked();
    let outcome = get(&bench, &["--verify-key="]).expect(1);
    assert!(outcome.stderr.contains("--verify-key"), "{}", outcome.stderr);
    bench.expect_file(&format!("{FOLDER}/{}", name()), &data(200_000));
}

#[test]
fn the_key_that_was_asked_for_counts() {
    let bench = bench();
    get(&bench, &["--verify-key="]).expect(1); // the built-in keys do not know it
    assert!(bench.names(FOLDER).is_empty());
    bench.env.write("bad.asc", "not a key");
    bench.asked();
    for key in ["--verify-key=nowhere.asc", "--verify-key=bad.asc"] {
        let outcome = get(&bench, &[key]).expect(1);
        assert!(outcome.stderr.contains(key), "{}", outcome.stderr);
    }
    assert!(bench.asked().is_empty());
}

#[test]
fn places_follow_the_distribution() {
    let mut bench = bench();
    for (args, host) in
        [(&[][..], "mirror.release.flatcar-linux.net:443"), (&["--distro=cl"], "storage.googleapis.com:443")]
    {
        let outcome = bench.cork(&[&["download", "--sdk-version=717.0.0"], args].concat()).expect(1);
        let gone = outcome.stderr.contains("the servers of Container Linux are gone: pass --sdk-url");
        assert_eq!(gone, !args.is_empty(), "{}", outcome.stderr);
        let asked = bench.asked();
        assert!(!asked.is_empty() && asked.iter().all(|t| t == host), "{asked:?}");
    }
    let old = format!("coreos-sdk-{}-717.0.0.tar.bz2", arch());
    bench.put_signed(&format!("/sdk/{}/717.0.0/{old}", arch()), b"old");
    bench.env.set("MANTLE_DISTRO", "cl");
    for url in [bench.server.url("/sdk/"), "gs://sdk".into()] {
        let _ = std::fs::remove_dir_all(bench.file(FOLDER));
        let args = ["download", "--sdk-version", "717.0.0", "--sdk-url", &url, "--verify-key", "key.asc"];
        bench.cork(&args).expect(0);
        bench.expect_file(&format!("{FOLDER}/{old}"), b"old");
    }
}

/// What readers of web URLs cut off, decode or tidy up means nothing in the places of downloads either.
#[test]
fn downloads_come_from_exactly_where_they_were_asked_for() {
    const IMAGE: &str = "flatcar_production_image.bin.bz2";
    let mut bench = Bench::new();
    let gcs = Gcs::new();
    bench.env.set("STORAGE_EMULATOR_HOST", gcs.address.to_string());
    let sdk = format!("{}/3033.0.0/{}", arch(), name());
    let put = |name: &str, body: &[u8]| {
        gcs.put("b", name, body, "application/octet-stream");
        gcs.put("b", &format!("{name}.sig"), &sign(body), "application/octet-stream");
    };
    // signed as well: only their content tells them from what was meant
    for near in ["", "rel/", "rel x/", "rel/x/", "r l/", "a/rel/", "ü/rel/"] {
        put(&format!("{near}{sdk}"), b"a neighbour");
        put(&format!("{near}{IMAGE}"), b"a neighbour");
        gcs.put("b", &format!("{near}version.txt"), b"COREOS_VERSION=1\n", "text/plain");
    }
    for odd in crate::ore::ODD {
        put(&format!("{odd}/{sdk}"), odd.as_bytes());
        put(&format!("{odd}/{IMAGE}"), odd.as_bytes());
        gcs.put("b", &format!("{odd}/version.txt"), VERSION.as_bytes(), "text/plain");
        let (url, root) = (format!("--sdk-url=gs://b/{odd}"), format!("--root=gs://b/{odd}"));
        let _ = std::fs::remove_dir_all(bench.file(FOLDER));
        bench.cork(&["download", "--sdk-version=3033.0.0", "--verify-key=key.asc", &url]).expect(0);
        bench.expect_file(&format!("{FOLDER}/{}", name()), odd.as_bytes());
        let _ = std::fs::remove_dir_all(bench.file("out"));
        let image = ["download-image", "--cache-dir=out", "--verify-key=key.asc", "--platform=qemu", &root];
        bench.cork(&image).expect(0);
        bench.expect_file(&format!("out/{IMAGE}"), odd.as_bytes());
        bench.expect_file("out/version.txt", VERSION.as_bytes());
    }
}

#[test]
fn wrong_command_lines() {
    let bench = bench();
    let mut pages = String::new();
    for args in [
        &[][..],
        &["--sdk-version="],
        &["--sdk-version=../../x"],
        &["--sdk-version=.."],
        &["--sdk-version=1", "--distro=gentoo"],
        &["--sdk-version=1", "--sdk-url=here"],
        &["--sdk-version=1", "surplus"],
    ] {
        let args = [&["cork", "download"], args].concat();
        let outcome = bench.env.mantle(&args).expect(2);
        pages += &format!("$ {}\n{}", args.join(" "), outcome.stderr);
    }
    snapshot("cork/usage-sdk", &pages, &[(arch(), "<arch>")]);
    assert!(bench.asked().is_empty());
}
