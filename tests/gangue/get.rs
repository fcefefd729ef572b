//! The command line, the files it leaves, what it says.

use std::os::unix::fs::MetadataExt;

use nix::sys::signal::Signal;

use super::{Bench, PATH, sign, signing_key};
use crate::support::server::Fault;
use crate::support::{Env, snapshot};

const SCHEMES: [&str; 2] = ["http", "gs"];

#[test]
fn a_verified_file_lands_and_stays() {
    for scheme in SCHEMES {
        let bench = Bench::new(300_000);
        let outcome = bench.get(scheme, &[]).expect(0);
        assert!(outcome.stderr.contains("good signature of"), "{}", outcome.stderr);
        assert_eq!(outcome.stdout, "");
        bench.expect_only_the_file();
        assert_eq!(bench.requests_for_data(), 1);
        let outcome = bench.get(scheme, &["--keep-sig"]).expect(0);
        assert!(outcome.stderr.contains("Verified existing file"), "{}", outcome.stderr);
        assert_eq!(
            (bench.names(), bench.requests_for_data()),
            (vec!["image.bin".into(), "image.bin.sig".into()], 0)
        );
        assert_eq!(std::fs::read(bench.file("image.bin.sig")).unwrap(), sign_of(&bench));
        bench.get(scheme, &[]).expect(0);
        bench.expect_only_the_file();
    }
}

fn sign_of(bench: &Bench) -> Vec<u8> {
    let mut signature = Vec::new();
    bench.server.change(&format!("{PATH}.sig"), |c| signature = c.body.clone());
    signature
}

#[test]
fn the_destination_is_a_file_or_a_folder() {
    let bench = Bench::new(1000);
    let url = bench.url("gs");
    let verify = "--verify-key=key.asc";
    bench.env.mantle(&["gangue", "get", verify, &url]).expect(0);
    bench.env.mantle(&["gangue", "get", &url, "out/new/other.bin", verify]).expect(0);
    bench.env.mantle(&["gangue", "get", &url, "out/slash/", verify]).expect(0);
    for name in ["image.bin", "out/new/other.bin", "out/slash/image.bin"] {
        assert_eq!(std::fs::read(bench.env.home().join(name)).unwrap(), bench.body, "{name}");
    }
    std::fs::create_dir(bench.file("image.bin")).unwrap();
    let outcome = bench.get("gs", &[]).expect(1);
    assert!(outcome.stderr.contains("image.bin is a folder"), "{}", outcome.stderr);
    assert!(bench.file("image.bin").is_dir());
    assert_eq!(bench.env.mantle(&["gangue", "get", &url, "/dev/null", verify]).expect(1).stdout, "");
}

#[test]
fn a_bad_signature_leaves_what_was_there() {
    for scheme in SCHEMES {
        for old in [None, Some("old")] {
            let bench = Bench::new(5000);
            bench.server.put(&format!("{PATH}.sig"), &sign(b"something else"));
            if let Some(text) = old {
                std::fs::write(bench.file("image.bin"), text).unwrap();
            }
            let outcome = bench.get(scheme, &[]).expect(1);
            let address = bench.server.address.to_string();
            let text: String = outcome
                .stderr
                .lines()
                .filter(|l| !l.contains("Z cli:"))
                .fold(String::new(), |t, l| t + l + "\n");
            let text = text.split_once("Error:").unwrap().1;
            let key = signing_key().fingerprint().to_hex();
            let hidden = [(&*address, "<server>"), (&*key, "<key>")];
            snapshot(&format!("gangue/bad-signature-{scheme}"), text, &hidden);
            // Google's checksum proves that the bytes are those of the bucket; a web server may have sent others
            assert_eq!(bench.requests_for_data(), if scheme == "gs" { 1 } else { 2 });
            match old {
                None => assert!(bench.names().is_empty(), "{:?}", bench.names()),
                Some(text) => {
                    assert_eq!(bench.names(), ["image.bin"]);
                    assert_eq!(std::fs::read_to_string(bench.file("image.bin")).unwrap(), text);
                }
            }
        }
    }
}

#[test]
fn a_signature_that_cannot_be_accepted_saves_the_download() {
    let bench = Bench::new(5000);
    for signature in [&b"nonsense"[..], b"", &vec![0; 2 << 20]] {
        bench.server.put(&format!("{PATH}.sig"), signature);
        bench.get("http", &[]).expect(1);
        assert_eq!((bench.requests_for_data(), bench.names().len()), (0, 0));
    }
    // by a key that is not trusted
    bench.server.put(&format!("{PATH}.sig"), &sign(&bench.body));
    bench.get("http", &["--verify-key="]).expect(1);
    assert_eq!(bench.requests_for_data(), 0);
    let outcome = bench.get("http", &["--verify-key=nowhere.asc"]).expect(1);
    assert!(outcome.stderr.contains("--verify-key=nowhere.asc"), "{}", outcome.stderr);
    assert!(bench.server.take_log().is_empty());
}

#[test]
fn a_missing_signature_is_said_to_be_missing() {
    for scheme in SCHEMES {
        let bench = Bench::new(5000);
        bench
            .server
            .judge(|r, _| if r.target.contains(".sig") { Fault::Status(404, "") } else { Fault::None });
        let outcome = bench.get(scheme, &[]).expect(1);
        assert!(outcome.stderr.contains("pass --verify=false"), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("404"), "{}", outcome.stderr);
        assert_eq!((bench.server.take_log().len(), bench.names().len()), (1, 0));
    }
}

#[test]
fn without_verification_an_unchanged_file_keeps_its_date() {
    for scheme in SCHEMES {
        let bench = Bench::new(70_000);
        bench.get(scheme, &["--verify=false"]).expect(0);
        bench.expect_only_the_file();
        let inode = bench.file("image.bin").metadata().unwrap().ino();
        let outcome = bench.get(scheme, &["--verify=false"]).expect(0);
        assert!(outcome.stderr.contains("is up to date"), "{}", outcome.stderr);
        assert_eq!(bench.file("image.bin").metadata().unwrap().ino(), inode);
        bench.expect_only_the_file();
        assert!(bench.server.take_log().iter().all(|r| !r.target.contains(".sig")));
        bench.server.put(PATH, b"another version");
        bench.get(scheme, &["--verify=false"]).expect(0);
        assert_eq!(std::fs::read(bench.file("image.bin")).unwrap(), b"another version");
    }
}

#[test]
fn an_empty_file_is_a_file() {
    for scheme in SCHEMES {
        let bench = Bench::new(0);
        bench.get(scheme, &[]).expect(0);
        bench.expect_only_the_file();
    }
}

#[test]
fn wrong_command_lines() {
    let env = Env::new();
    let mut pages = String::new();
    for args in [
        &[][..],
        &["bucket/file"],
        &["ftp://host/file"],
        &["gs://"],
        &["gs:///file"],
        &["gs://bucket"],
        &["gs://bucket/folder/"],
        &["https://host/"],
        &["gs://b%zz/o"],
        &["gs://b/.."],
    ] {
        let args = [&["gangue", "get"], args].concat();
        let outcome = env.mantle(&args).expect(2);
        pages += &format!("$ {}\n{}", args.join(" "), outcome.stderr);
        assert_eq!(outcome.stdout, "");
    }
    snapshot("gangue/usage", &pages, &[]);
    env.mantle(&["gangue", "get", "gs://b/o", "path", "more"]).expect(2);
    snapshot("gangue/help", &env.mantle(&["gangue", "get", "--help"]).expect(0).stdout, &[]);
}

#[test]
fn an_interrupted_download_says_so_and_resumes() {
    for scheme in SCHEMES {
        let mut bench = Bench::new(3 << 20);
        bench.env.set("MANTLE_POLL_SCALE", "10"); // nothing but the signal ends the silence
        bench.server.faults(vec![Fault::Stall(2 << 20)]);
        let running = bench.start(scheme, &[]);
        let part = bench.file("image.bin.part");
        while part.metadata().map_or(0, |m| m.len()) < 2 << 20 {
            std::thread::yield_now();
        }
        running.signal(Signal::SIGINT);
        let outcome = running.finish().expect(130);
        assert!(outcome.stderr.contains("the same command resumes there"), "{}", outcome.stderr);
        assert_eq!(bench.names(), ["image.bin.part", "image.bin.part.json"]);
        bench.server.take_log();
        let outcome = bench.get(scheme, &[]).expect(0);
        assert!(outcome.stderr.contains("2097152 of them resumed"), "{}", outcome.stderr);
        let log = bench.server.take_log();
        let data: Vec<_> = log.iter().filter(|r| r.is_for_data()).collect();
        assert_eq!(data.len(), 1);
        assert_eq!(data[0].header("range"), Some("bytes=2097152-"));
        if scheme == "gs" {
            assert!(data[0].target.contains("generation=1"), "{}", data[0].target);
        } else {
            assert_eq!(data[0].header("if-range"), Some("\"v1\""));
        }
        bench.expect_only_the_file();
    }
}

#[test]
fn two_at_a_time_do_not_write_one_file() {
    let mut bench = Bench::new(200_000);
    bench.env.set("MANTLE_POLL_SCALE", "10");
    bench.server.faults(vec![Fault::Stall(100_000)]);
    let first = bench.start("http", &[]);
    let part = bench.file("image.bin.part");
    while part.metadata().map_or(0, |m| m.len()) < 100_000 {
        std::thread::yield_now();
    }
    let outcome = bench.get("http", &[]).expect(1);
    assert!(outcome.stderr.contains("another process is writing"), "{}", outcome.stderr);
    first.signal(Signal::SIGTERM);
    first.finish().expect(143);
    bench.get("http", &[]).expect(0);
    bench.expect_only_the_file();
}
