//! `cork download-image`.

use nix::sys::signal::Signal;
use std::os::unix::fs::MetadataExt;

use super::Bench;
use crate::gangue::{data, sign};
use crate::support::server::Fault;
use crate::support::snapshot;

pub(super) const VERSION: &str = "FLATCAR_BUILD=4081\nFLATCAR_VERSION=4081.3.0\nFLATCAR_VERSION_ID=4081.3.0\n\
                       FLATCAR_BUILD_ID=\"\"\nFLATCAR_SDK_VERSION=4081.0.0\n";
const FIRMWARE: [&str; 2] = ["_qemu_uefi_efi_code", "_qemu_uefi_efi_vars"];

/// A release of Flatcar below `/rel`: an image, a tarball, an appliance; each with its own content.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.server.put("/rel/version.txt", VERSION.as_bytes());
    for name in ["_image.bin.bz2", "_gce.tar.gz", "_vmware_ova.ova"] {
        bench.put_signed(&format!("/rel/flatcar_production{name}"), &content(name));
    }
    bench
}

fn content(name: &str) -> Vec<u8> {
    [name.as_bytes(), &data(100_000)].concat()
}

fn get(bench: &Bench, args: &[&str]) -> crate::support::Outcome {
    let root = format!("--root={}", bench.server.url("/rel/"));
    let usual = ["download-image", &root, "--cache-dir=out", "--verify-key=key.asc"];
    bench.cork(&[&usual[..], args].concat())
}

const QEMU: &str = "out/flatcar_production_image.bin.bz2";

#[test]
fn several_platforms_land_verified_and_stay() {
    let bench = bench();
    let args = ["--platform=qemu,gce", "--platform", "esx", "--platform=qemu"];
    let outcome = get(&bench, &args).expect(0);
    assert_eq!(outcome.stdout, "");
    assert!(outcome.stderr.contains("says: version 4081.3.0\n"), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches("good signature of").count(), 3, "{}", outcome.stderr);
    let mut names = vec!["version.txt".to_owned()];
    for name in ["_image.bin.bz2", "_gce.tar.gz", "_vmware_ova.ova"] {
        let file = format!("flatcar_production{name}");
        bench.expect_file(&format!("out/{file}"), &content(name));
        names.extend([format!("{file}.sig"), file]);
    }
    names.sort();
    assert_eq!(bench.names("out"), names);
    bench.expect_file("out/version.txt", VERSION.as_bytes());
    let asked = bench.asked();
    assert_eq!(
        asked[..3],
        [
            "/rel/version.txt",
            "/rel/flatcar_production_image.bin.bz2.sig",
            "/rel/flatcar_production_image.bin.bz2"
        ]
    );
    assert_eq!(asked.len(), 7, "{asked:?}");
    let inode = |name: &str| bench.file(name).metadata().unwrap().ino();
    let before = (inode(QEMU), inode("out/version.txt"));
    let outcome = get(&bench, &args).expect(0);
    assert_eq!(outcome.stderr.matches("Verified existing file").count(), 3, "{}", outcome.stderr);
    assert_eq!(bench.asked().iter().filter(|t| !t.ends_with(".sig")).count(), 1);
    assert_eq!((inode(QEMU), inode("out/version.txt")), before);
}

#[test]
fn firmware_has_either_of_two_names() {
    for (old, new) in [(true, false), (false, true), (true, true)] {
        let bench = bench();
        for name in FIRMWARE {
            for (there, suffix) in [(old, ".fd"), (new, ".qcow2")] {
                if there {
                    let name = format!("{name}{suffix}");
                    bench.put_signed(&format!("/rel/flatcar_production{name}"), &content(&name));
                }
            }
        }
        let outcome = get(&bench, &["--platform=qemu_uefi"]).expect(0);
        let suffix = if new { ".qcow2" } else { ".fd" };
        for name in FIRMWARE.map(|name| format!("{name}{suffix}")) {
            bench.expect_file(&format!("out/flatcar_production{name}"), &content(&name));
        }
        assert_eq!(bench.names("out").len(), 7);
        assert_eq!(outcome.stderr.contains("looking for"), !new, "{}", outcome.stderr);
    }
    // with neither, the newer one is what is missed
    let bench = bench();
    let outcome = get(&bench, &["--platform=qemu_uefi"]).expect(1);
    let last = outcome.stderr.split_once("Error:").unwrap().1;
    assert!(last.contains("efi_code.qcow2") && !last.contains(".fd"), "{last}");
    // a server in trouble is no missing file
    bench.server.judge(|r, _| if r.target.contains("qcow2") { Fault::Status(500, "") } else { Fault::None });
    let outcome = get(&bench, &["--platform=qemu_uefi"]).expect(1);
    assert!(!outcome.stderr.contains("looking for"), "{}", outcome.stderr);
}

#[test]
fn a_bad_signature_leaves_what_was_there() {
    let bench = bench();
    get(&bench, &["--platform=qemu"]).expect(0);
    let image = "/rel/flatcar_production_image.bin.bz2";
    bench.server.put(image, b"tampered with");
    bench.server.put(&format!("{image}.sig"), &sign(b"something else"));
    let outcome = get(&bench, &["--platform=gce,qemu,esx"]).expect(1);
    let text = outcome.stderr.split_once("Error:").unwrap().1;
    let address = bench.server.address.to_string();
    let key = text.split("key ").nth(1).map_or("-", |t| t.split_whitespace().next().unwrap());
    snapshot("cork/bad-signature", text, &[(&address, "<server>"), (key, "<key>")]);
    bench.expect_file(QEMU, &content("_image.bin.bz2"));
    bench.expect_file(&format!("{QEMU}.sig"), &sign_of_old(&bench));
    // what came before stays, what comes after was not begun, nothing is left over
    let names = bench.names("out");
    assert!(names.iter().any(|n| n.ends_with("_gce.tar.gz")), "{names:?}");
    assert!(!names.iter().any(|n| n.contains("ova") || n.contains("part")), "{names:?}");
}

fn sign_of_old(bench: &Bench) -> Vec<u8> {
    std::fs::read(bench.file(&format!("{QEMU}.sig"))).unwrap()
}

#[test]
fn what_is_not_there_is_asked_for_once() {
    let bench = bench();
    let outcome = get(&bench, &["--platform=aws"]).expect(1);
    let text = outcome.stderr.split_once("Error:").unwrap().1;
    assert!(text.contains("updating signed file") && text.contains("404"), "{text}");
    assert_eq!(bench.asked().len(), 2); // version.txt, the signature
    let outcome = get(&bench, &["--platform=aws", "--verify=false"]).expect(1);
    assert!(outcome.stderr.contains("downloading image"), "{}", outcome.stderr);
    assert_eq!(bench.names("out"), ["version.txt"]);
    // without a signature: which option helps
    bench.server.put("/rel/flatcar_production_ami_vmdk_image.vmdk.bz2", b"unsigned");
    let outcome = get(&bench, &["--platform=aws"]).expect(1);
    assert!(outcome.stderr.contains("pass --verify=false"), "{}", outcome.stderr);
    bench.asked();
    let outcome = get(&bench, &["--platform=aws", "--verify=false"]).expect(0);
    assert!(outcome.stderr.contains("the images are not verified"), "{}", outcome.stderr);
    bench.expect_file("out/flatcar_production_ami_vmdk_image.vmdk.bz2", b"unsigned");
    assert!(bench.asked().iter().all(|t| !t.ends_with(".sig")));
}

#[test]
fn an_interrupted_image_resumes_unless_it_has_changed() {
    for changed in [false, true] {
        let mut bench = bench();
        let (name, body) = ("/rel/flatcar_production_image.bin.bz2", data(300_000));
        bench.put_signed(name, &body);
        bench.server.judge(move |r, _| if r.target == name { Fault::Stall(200_000) } else { Fault::None });
        bench.env.set("MANTLE_POLL_SCALE", "10"); // nothing but the signal ends the silence
        let root = format!("--root={}", bench.server.url("/rel"));
        let args = ["download-image", &root, "--cache-dir=out", "--verify-key=key.asc", "--platform=qemu"];
        let running = bench.start(&args);
        let part = bench.file(&format!("{QEMU}.part"));
        while part.metadata().map_or(0, |m| m.len()) < 200_000 {
            std::thread::yield_now();
        }
        running.signal(Signal::SIGINT);
        running.finish().expect(130);
        assert!(!bench.file(QEMU).exists());
        bench.server.judge(|_, _| Fault::None);
        let body = if changed { data(310_000) } else { body };
        if changed {
            bench.put_signed(name, &body);
        }
        bench.server.take_log();
        bench.cork(&args).expect(0);
        bench.expect_file(QEMU, &body);
        let log = bench.server.take_log();
        let request = log.iter().find(|r| r.target == name).unwrap();
        assert_eq!(
            (request.header("range"), request.header("if-range")),
            (Some("bytes=200000-"), Some("\"v2\""))
        );
        assert!(bench.names("out").iter().all(|n| !n.contains("part")));
    }
}

#[test]
fn only_a_version_file_is_taken_for_one() {
    let bench = bench();
    get(&bench, &["--platform=qemu"]).expect(0);
    let long = "x".repeat(100_000);
    for (text, complaint) in [
        ("<html>welcome to the hotel's network</html>", "Missing COREOS_VERSION_ID in http://"),
        ("FLATCAR_VERSION=1\nFLATCAR_VERSION_ID=2\n", "Invalid FLATCAR_VERSION in http://"),
        ("FLATCAR_VERSION=1\nFLATCAR_VERSION_ID=1\n", "Missing FLATCAR_SDK_VERSION in http://"),
        (&long, "is longer than 65536 bytes"),
    ] {
        bench.server.put("/rel/version.txt", text.as_bytes());
        bench.asked();
        let outcome = get(&bench, &["--platform=gce"]).expect(1);
        assert!(outcome.stderr.contains("downloading version.txt"), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(complaint), "{}", outcome.stderr);
        assert_eq!(bench.asked().len(), 1);
        bench.expect_file("out/version.txt", VERSION.as_bytes());
    }
    let old = VERSION.replace("FLATCAR", "COREOS").replace("4081.3.0", "723.1.0");
    bench.server.put("/rel/version.txt", old.as_bytes());
    let outcome = get(&bench, &["--platform=gce"]).expect(0);
    assert!(outcome.stderr.contains("says: version 723.1.0\n"), "{}", outcome.stderr);
    bench.expect_file("out/version.txt", old.as_bytes());
    bench
        .server
        .judge(|r, _| if r.target.contains("version") { Fault::Status(404, "") } else { Fault::None });
    let outcome = get(&bench, &["--platform=gce"]).expect(1);
    assert!(outcome.stderr.contains("downloading version.txt"), "{}", outcome.stderr);
}

#[test]
fn keys_are_looked_at_before_anything_is_asked_for() {
    let bench = bench();
    bench.env.write("bad.asc", "not a key");
    for key in ["--verify-key=nowhere.asc", "--verify-key=bad.asc"] {
        let outcome = get(&bench, &["--platform=qemu", key]).expect(1);
        assert!(outcome.stderr.contains(key), "{}", outcome.stderr);
    }
    assert!(bench.asked().is_empty() && bench.names("out").is_empty());
    // the built-in keys do not know this signature
    get(&bench, &["--platform=qemu", "--verify-key="]).expect(1);
    assert_eq!(bench.names("out"), ["version.txt"]);
}

#[test]
fn roots_in_google_storage() {
    let bench = bench();
    for (root, folder) in [("gs://rel", "one"), ("gs://rel/", "two")] {
        let (root, cache) = (format!("--root={root}"), format!("--cache-dir={folder}"));
        bench.cork(&["download-image", &root, &cache, "--verify-key=key.asc", "--platform=qemu"]).expect(0);
        bench.expect_file(&format!("{folder}/flatcar_production_image.bin.bz2"), &content("_image.bin.bz2"));
        bench.expect_file(&format!("{folder}/version.txt"), VERSION.as_bytes());
    }
}

#[test]
fn a_broken_key_of_an_account_is_an_error() {
    let mut bench = bench();
    let url = bench.server.url("/");
    bench.env.unset("STORAGE_EMULATOR_HOST").set("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", url);
    bench.env.write("key.json", "{");
    let args =
        ["download-image", "--root=gs://rel", "--cache-dir=out", "--platform=qemu", "--verify-key=key.asc"];
    let outcome = bench.cork(&[&args[..], &["--json-key=key.json"]].concat()).expect(1);
    assert!(outcome.stderr.contains("key.json"), "{}", outcome.stderr);
    assert!(bench.asked().is_empty() && bench.names("out").is_empty());
    // a public bucket needs none
    bench.cork(&args).expect(0);
    bench.expect_file(QEMU, &content("_image.bin.bz2"));
}

#[test]
fn names_and_roots_follow_the_distribution() {
    let mut bench = Bench::new();
    let old = VERSION.replace("FLATCAR", "COREOS");
    for board in ["amd64-usr", "arm64-usr"] {
        for channel in ["beta", "stable"] {
            let folder = format!("/{channel}.release.core-os.net/{board}/current");
            bench.server.put(&format!("{folder}/version.txt"), old.as_bytes());
            for name in ["_image.bin.bz2", "_qemu_uefi_efi_code.fd", "_qemu_uefi_efi_vars.fd"] {
                bench.put_signed(&format!("{folder}/coreos_production{name}"), &content(&folder));
            }
        }
    }
    let get = |bench: &Bench, args: &[&str]| {
        let usual = ["download-image", "--cache-dir=out", "--verify-key=key.asc", "--platform=qemu_uefi"];
        bench.cork(&[&usual[..], args].concat())
    };
    for (args, folder) in [
        (&["--distro=cl", "--root=stable"][..], "/stable.release.core-os.net/amd64-usr/current"),
        (&["--root=beta", "--distro=cl", "--board=arm64"], "/beta.release.core-os.net/arm64-usr/current"),
        (
            &["--image-prefix=coreos_production", "--root=beta", "--board=amd64-usr"],
            "/beta.release.core-os.net/amd64-usr/current",
        ),
        (
            &["--root=gs://stable.release.core-os.net/arm64-usr/current/"],
            "/stable.release.core-os.net/arm64-usr/current",
        ),
    ] {
        let _ = std::fs::remove_dir_all(bench.file("out"));
        get(&bench, args).expect(0);
        for name in ["_image.bin.bz2", "_qemu_uefi_efi_code.fd", "_qemu_uefi_efi_vars.fd"] {
            bench.expect_file(&format!("out/coreos_production{name}"), &content(folder));
        }
    }
    bench.env.set("MANTLE_DISTRO", "cl");
    get(&bench, &["--root=stable"]).expect(0);
    bench.asked();
    // what cannot be served here still shows where it would be looked for
    for (args, host) in [
        (&[][..], "alpha.release.core-os.net:443"),
        (&["--distro=flatcar"], "alpha.release.flatcar-linux.net:443"),
        (&["--distro=flatcar", "--root=lts-2024"], "lts.release.flatcar-linux.net:443"),
    ] {
        let outcome = get(&bench, args).expect(1);
        let asked = bench.asked();
        assert!(!asked.is_empty() && asked.iter().all(|t| t == host), "{asked:?}");
        let gone =
            outcome.stderr.contains("the servers of Container Linux are gone: pass --root with a mirror");
        assert_eq!(gone, host.contains("core-os"), "{}", outcome.stderr);
    }
    bench.env.unset("MANTLE_DISTRO");
    get(&bench, &["--root=stable"]).expect(1);
    assert!(bench.asked().iter().all(|t| t == "stable.release.flatcar-linux.net:443"));
    let outcome = get(&bench, &["--root=lts-2024", "--board=arm64"]).expect(1);
    assert!(
        outcome.stderr.contains("https://lts.release.flatcar-linux.net/arm64-usr/current-2024/version.txt"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_prefix_of_ones_own_and_a_query() {
    let bench = bench();
    bench.put_signed("/rel/ours_gce.tar.gz", b"ours");
    let root = format!("--root={}?token=secret", bench.server.url("/rel//"));
    let args = [
        "download-image",
        &root,
        "--cache-dir=out",
        "--verify-key=key.asc",
        "--image-prefix=ours",
        "--platform=gce",
    ];
    let outcome = bench.cork(&args).expect(0);
    assert!(!outcome.stderr.contains("secret"), "{}", outcome.stderr);
    bench.expect_file("out/ours_gce.tar.gz", b"ours");
    assert_eq!(
        bench.asked(),
        [
            "/rel/version.txt?token=secret",
            "/rel/ours_gce.tar.gz.sig?token=secret",
            "/rel/ours_gce.tar.gz?token=secret"
        ]
    );
}

#[test]
fn the_cache_is_in_the_source_tree() {
    let mut bench = bench();
    std::fs::create_dir_all(bench.file("tree/.repo")).unwrap();
    std::fs::create_dir_all(bench.file("tree/src/deep")).unwrap();
    let root = format!("--root={}", bench.server.url("/rel"));
    let key = bench.file("key.asc");
    let key = format!("--verify-key={}", key.display());
    let mut command = bench.env.command(std::path::Path::new(env!("CARGO_BIN_EXE_mantle")));
    command.current_dir(bench.file("tree/src/deep"));
    command.args(["cork", "download-image", "--platform=gce", &root, &key]);
    crate::support::Running::new(command).finish().expect(0);
    bench.expect_file("tree/.cache/images/flatcar_production_gce.tar.gz", &content("_gce.tar.gz"));
    let elsewhere = bench.file("elsewhere");
    bench.env.set("REPO_ROOT", elsewhere);
    bench.cork(&["download-image", "--platform=gce", &root, &key]).expect(0);
    bench.expect_file("elsewhere/.cache/images/version.txt", VERSION.as_bytes());
    bench.env.set("REPO_ROOT", "here");
    let outcome = bench.cork(&["download-image", "--platform=gce", &root, &key]).expect(1);
    assert!(outcome.stderr.contains("REPO_ROOT is not an absolute path: \"here\""), "{}", outcome.stderr);
}

#[test]
fn wrong_command_lines() {
    let bench = bench();
    let mut pages = String::new();
    for args in [
        &[][..],
        &["--platform="],
        &["--platform=qemu,qume"],
        &["--platform=azure", "--distro=cl"],
        &["--platform=qemu", "--cache-dir="],
        &["--platform=qemu", "--root=stabel"],
        &["--platform=qemu", "--root=lts-24"],
        &["--platform=qemu", "--root=lts", "--distro=cl"],
        &["--platform=qemu", "--root=ftp://host/"],
        &["--platform=qemu", "--board=mips"],
        &["--platform=qemu", "--board=arm64", "--root=https://host/"],
        &["--platform=qemu", "--distro=flatcra"],
        &["--platform=qemu", "--image-prefix=../x"],
        &["--platform=qemu", "surplus"],
    ] {
        let args = [&["cork", "download-image"], args].concat();
        let outcome = bench.env.mantle(&args).expect(2);
        pages += &format!("$ {}\n{}", args.join(" "), outcome.stderr);
        assert_eq!(outcome.stdout, "");
    }
    snapshot("cork/usage-image", &pages, &[]);
    assert!(bench.asked().is_empty());
    snapshot(
        "cork/help-image",
        &bench.env.mantle(&["cork", "download-image", "--help"]).expect(0).stdout,
        &[],
    );
}

#[test]
fn every_option_of_old_is_understood() {
    let bench = bench();
    let root = bench.server.url("/rel/");
    bench.env.write("key.json", "{}");
    let args = [
        "--debug=false",
        "--verbose",
        "download-image",
        "--log-level=INFO",
        "--root",
        &root,
        "--cache-dir",
        "out",
        "--image-prefix",
        "flatcar_production",
        "--json-key",
        "key.json",
        "--platform",
        "gce,qemu",
        "--verify=true",
        "--verify-key",
        "key.asc",
        "-d",
    ];
    bench.cork(&args).expect(0);
}
