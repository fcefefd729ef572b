//! `cork build update`: payloads that are made, read and written.

use std::path::PathBuf;

use nix::sys::signal::Signal;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;

use crate::gangue::data;
use crate::support::guard::{self, Limit};
use crate::support::{Env, Outcome, Running};

const VERSION: &str =
    "COREOS_VERSION=1.2.3+x\nCOREOS_VERSION_ID=1.2.3\nCOREOS_BUILD_ID=x\nCOREOS_SDK_VERSION=1.0.0\n";
const FOLDER: &str = "sdk/src/build/images/arm-usr/latest";

/// An SDK with an image of the default board, keys, and no `delta_generator`.
struct Bench {
    env: Env,
    image: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        let mut env = Env::new();
        env.set("REPO_ROOT", env.home().join("sdk"));
        env.write("sdk/src/scripts/.default_board", "arm-usr\n");
        env.write(&format!("{FOLDER}/version.txt"), VERSION);
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let pem = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        env.write("key.pem", &pem(key.private_key_to_pem_pkcs8().unwrap()));
        env.write("pub.pem", &pem(key.public_key_to_pem().unwrap()));
        // Chunks that compress and one that does not, and no whole number of them.
        let image = [vec![7; 3 << 20], data(1 << 20), vec![0; 5 * 4096]].concat();
        let bench = Self { env, image };
        std::fs::write(bench.at("coreos_production_update.bin"), &bench.image).unwrap();
        std::fs::write(bench.at("coreos_production_image.vmlinuz"), b"the kernel").unwrap();
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.env.home().join(FOLDER).join(name)
    }

    fn start(&self, args: &[&str]) -> Running {
        let mut command = self.env.command(env!("CARGO_BIN_EXE_mantle"));
        command.args(["cork", "-v", "build"]).args(args);
        Running::new(command)
    }

    fn build(&self, args: &[&str]) -> Outcome {
        self.start(args).finish()
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.at("")).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

const GIVEN: [&str; 3] = ["coreos_production_image.vmlinuz", "coreos_production_update.bin", "version.txt"];

#[test]
fn what_is_built_can_be_read_and_written() {
    let bench = Bench::new();
    let outcome = bench.build(&["update", "--private-key=key.pem"]).expect(0);
    assert!(outcome.stderr.contains("Generating update payload"), "{}", outcome.stderr);
    let payload = bench.at("coreos_production_update.gz");
    let text = std::fs::read_to_string(bench.at("coreos_production_update.xml")).unwrap();
    assert!(text.contains("version=\"1.2.3+x\"") && text.contains("event=\"postinstall\""), "{text}");
    let payload = payload.to_str().unwrap();
    let dump = bench.build(&["dump", payload, "--public-key=pub.pem"]).expect(0).stdout;
    assert_eq!(dump.matches("partition_operations {").count(), 5, "{dump}");
    assert!(
        dump.contains("procedures {\n  type: KERNEL") && dump.contains("signatures {\n  version: 2"),
        "{dump}"
    );
    bench.build(&["apply", payload, "--public-key=pub.pem", "--kernel=k"]).expect(0);
    assert!(std::fs::read(bench.env.home().join("out")).unwrap() == bench.image);
    assert_eq!(std::fs::read(bench.env.home().join("k")).unwrap(), b"the kernel");
    // It is there: nothing is done.
    let outcome = bench.build(&["update", "--private-key=nowhere.pem"]).expect(0);
    assert!(outcome.stderr.contains("Using update manifest"), "{}", outcome.stderr);
    // By another key, or changed, it is not applied, and what was there stays.
    std::fs::write(bench.env.home().join("out"), "mine").unwrap();
    bench.build(&["apply", payload, "--kernel=k"]).expect(1);
    let mut bytes = std::fs::read(payload).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(payload, bytes).unwrap();
    let outcome = bench.build(&["apply", payload, "--public-key=pub.pem", "--kernel=k"]).expect(1);
    assert!(outcome.stderr.contains("no valid signatures found"), "{}", outcome.stderr);
    assert_eq!(std::fs::read(bench.env.home().join("out")).unwrap(), b"mine");
    let outcome = bench.build(&["dump", payload, "--public-key=pub.pem"]).expect(1);
    assert!(outcome.stdout.contains("partition_operations {") && !outcome.stdout.contains("signatures {"));
}

#[test]
fn what_is_missing_is_named() {
    let bench = Bench::new();
    let outcome = bench.build(&["update"]).expect(1);
    assert!(outcome.stderr.contains("Building full update failed"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("update-payload-key.key.pem"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("--private-key"), "{}", outcome.stderr);
    // The key of the chroot is found.
    let key = std::fs::read_to_string(bench.env.home().join("key.pem")).unwrap();
    let public = std::fs::read_to_string(bench.env.home().join("pub.pem")).unwrap();
    bench.env.write("sdk/chroot/usr/share/update_engine/update-payload-key.key.pem", &key);
    bench.env.write("sdk/chroot/usr/share/update_engine/update-payload-key.pub.pem", &public);
    bench.build(&["update"]).expect(0);
    let payload = bench.at("coreos_production_update.gz");
    bench.build(&["dump", payload.to_str().unwrap()]).expect(0);
    for (name, content) in [("coreos_production_update.bin", &[1; 100][..]), ("version.txt", b"no version")] {
        std::fs::write(&payload, "gone").unwrap();
        std::fs::write(bench.at(name), content).unwrap();
        bench.build(&["update"]).expect(1);
        assert_eq!(std::fs::read(&payload).unwrap(), b"gone");
    }
    for args in [&["update", "surplus"][..], &["dump"], &["update", "--generator=other"]] {
        bench.build(args).expect(2);
    }
    let outcome = bench.build(&["update", "--generator=delta_generator"]).expect(2);
    assert!(outcome.stderr.contains("no delta_generator in PATH"), "{}", outcome.stderr);
}

#[test]
fn the_generator_of_the_sdk_is_used_where_it_is() {
    let bench = Bench::new();
    bench.build(&["update", "--private-key=key.pem"]).expect(0);
    std::fs::rename(bench.at("coreos_production_update.gz"), bench.env.home().join("good")).unwrap();
    let script =
        "#!/bin/sh\nfor word; do echo $word; done >$HOME/words\nwhile [ $1 != -out_file ]; do shift; done\n";
    bench.env.program("delta_generator", &format!("{script}cp $HOME/good $2\n"));
    bench.build(&["update", "--private-key=key.pem"]).expect(0);
    let words = std::fs::read_to_string(bench.env.home().join("words")).unwrap();
    let words: Vec<&str> = words.lines().collect();
    let (image, kernel) = (bench.at(GIVEN[1]), bench.at(GIVEN[0]));
    assert_eq!(
        words[..5],
        ["-new_image", image.to_str().unwrap(), "-new_kernel", kernel.to_str().unwrap(), "-out_file"]
    );
    assert_eq!(words[6..], ["-private_key", "key.pem"]);
    let names = [GIVEN[0], GIVEN[1], "coreos_production_update.gz", "coreos_production_update.xml", GIVEN[2]];
    assert_eq!(bench.names(), names);
    // What it makes is looked at, and its failure is one.
    let clean = || {
        for name in ["gz", "xml"] {
            let _ = std::fs::remove_file(bench.at(&format!("coreos_production_update.{name}")));
        }
    };
    clean();
    for (script, why) in [
        (format!("{script}echo nonsense >$2\n"), "payload missing magic prefix"),
        (format!("{script}echo half >$2; exit 3\n"), "exit status: 3"),
        (format!("{script}exit 0\n"), "delta_generator made"),
    ] {
        bench.env.program("delta_generator", &script);
        let outcome = bench.build(&["update", "--private-key=key.pem"]).expect(1);
        assert!(outcome.stderr.contains(why), "{}", outcome.stderr);
        assert_eq!(bench.names(), GIVEN);
    }
    bench.env.program("delta_generator", "#!/bin/sh\ntouch $HOME/started; sleep 1000\n");
    let running = bench.start(&["update", "--private-key=key.pem"]);
    guard::wait("delta_generator", Limit::PROGRAM, || bench.env.home().join("started").exists());
    running.signal(Signal::SIGTERM);
    running.finish().expect(143);
    assert_eq!(bench.names(), GIVEN);
    bench.build(&["update", "--private-key=key.pem", "--generator=builtin"]).expect(0);
    assert_eq!(bench.names(), names);
}
