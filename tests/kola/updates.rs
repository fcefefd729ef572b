//! Updates of a guest whose update_engine is a script (tests/guest/rootfs/update): in containers that only seem to have
//! two halves of `/usr` (tests/update-client), and in machines that have them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use mantle::update;
use openssl::pkey::{PKey, Private};

use super::{env, guest, root};
use crate::support::guard::Limit;
use crate::support::{Env, installed, repository};

/// A guest that can be updated, and payloads for it.
struct Guest {
    folder: tempfile::TempDir,
    ignition: PathBuf,
    key: PKey<Private>,
}

impl Guest {
    /// Copies the tree of mantle's own guest and puts the scripts into it; none where there is no guest.
    fn new() -> Option<Self> {
        if !root() || !installed("systemd-nspawn") {
            return None;
        }
        let own = guest("root")?;
        let own = ["base", "full"].map(|v| own.join(v)).into_iter().find(|d| d.join("root").is_dir())?;
        // Beside the program: hard links do not lead to other file systems.
        let near = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folder = tempfile::tempdir_in(near).unwrap();
        let tree = folder.path().join("root");
        let copy = |links: &str| {
            Command::new("cp").arg(links).arg(own.join("root")).arg(&tree).status().unwrap().success()
        };
        assert!(copy("-al") || copy("-a"), "cannot copy {}", own.display());
        let key = PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap();
        let guest = Self { folder, ignition: own.join("ignition-root"), key };
        guest.dress(&own.join("guest.qcow2.json"));
        Some(guest)
    }

    /// Adds the scripts, and the features that they play.
    fn dress(&self, facts: &Path) {
        let tree = self.folder.path().join("root");
        let parts = repository().join("tests");
        let mut copy = Command::new("cp");
        copy.args(["-r", "--remove-destination"]).arg(parts.join("guest/rootfs/update/.")).arg(&tree);
        assert!(copy.status().unwrap().success());
        let own = "usr/local/lib/update-client";
        let units = "usr/lib/systemd/system";
        for (name, to, mode) in [
            ("booted", own, "755"),
            ("halves", own, "755"),
            ("findmnt", "usr/local/bin", "755"),
            ("update-client.service", units, "644"),
        ] {
            let mut install = Command::new("install");
            install.args(["-D", "-m", mode]);
            install.arg(parts.join("update-client").join(name)).arg(tree.join(to).join(name));
            assert!(install.status().unwrap().success(), "{name}");
        }
        let wanted = tree.join(units).join("multi-user.target.wants/update-client.service");
        std::os::unix::fs::symlink("../update-client.service", wanted).unwrap();
        let put = |path: &str, content: &[u8]| {
            let path = tree.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        };
        put("usr/share/update_engine/update-payload-key.pub.pem", b"the key of the image\n");
        put("usr/share/update-client/key.pem", &self.key.public_key_to_pem().unwrap());
        put("usr/share/update-client/sha256", sum(&image()).as_bytes());
        let mut facts: serde_json::Value = serde_json::from_slice(&std::fs::read(facts).unwrap()).unwrap();
        let features = facts["features"].as_array_mut().unwrap();
        features.extend(["update-engine", "ab-usr", "locksmith"].map(serde_json::Value::from));
        std::fs::write(self.folder.path().join("guest.qcow2.json"), facts.to_string()).unwrap();
    }

    /// A payload of this image.
    fn payload(&self, image: &[u8]) -> PathBuf {
        let path = self.folder.path().join("payload");
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(image).unwrap();
        payload(&file, &self.key, &path);
        path
    }

    /// The words that make kola use the guest.
    fn words(&self) -> Vec<String> {
        let path = |p: &Path| p.display().to_string();
        vec![
            "-p".into(),
            "nspawn".into(),
            "--nspawn-root".into(),
            path(&self.folder.path().join("root")),
            "--nspawn-ignition".into(),
            path(&self.ignition),
        ]
    }

    fn env(&self) -> Env {
        let mut env = env();
        env.guarded(Limit::MACHINES);
        env
    }
}

/// Writes a payload that the scripts can take apart.
fn payload(image: &std::fs::File, key: &PKey<Private>, to: &Path) {
    let source = update::Source { partition: image, kernel: None };
    let options = update::Options { compress: false, ..update::Options::default() };
    update::generate(&source, key, options, std::fs::File::create(to).unwrap()).unwrap();
}

/// The system after the update: two MiB that do not compress.
fn image() -> Vec<u8> {
    (0..2 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn sum(bytes: &[u8]) -> String {
    openssl::sha::sha256(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn kola(env: &Env, words: &[&str], guest: &Guest) -> crate::support::Outcome {
    let platform = guest.words();
    let platform: Vec<&str> = platform.iter().map(String::as_str).collect();
    env.mantle(&[&["kola"], words, &platform[..]].concat())
}

#[test]
fn a_payload_is_installed_there_and_back_again() {
    let Some(guest) = Guest::new() else { return };
    let env = guest.env();
    let payload = guest.payload(&image());
    let words = ["updatepayload", "-v", "--payload", payload.to_str().unwrap()];
    let outcome = kola(&env, &words, &guest).expect(0);
    assert!(outcome.stdout.starts_with("--- PASS: CoreOS upgrade test ("), "{outcome:?}");
    // Ping, question, download and events of both updates.
    for (what, count) in
        [("omaha: Ping {", 2), ("omaha: UpdateCheck {", 2), ("omaha: Download {", 2), ("event_type: 3,", 2)]
    {
        assert_eq!(outcome.stderr.matches(what).count(), count, "{what}: {}", outcome.stderr);
    }
    // An update that cannot end is not waited for beyond the limit.
    std::fs::write(&payload, b"CrAU").unwrap();
    let words = ["updatepayload", "--timeout", "3s", "--payload", payload.to_str().unwrap()];
    let outcome = kola(&env, &words, &guest).expect(1);
    let said = &outcome.stderr;
    assert!(said.contains("--- FAIL: CoreOS upgrade test (") && said.contains("first update"), "{said}");
    assert!(said.contains("current status UPDATE_STATUS_REPORTING_ERROR_EVENT"), "{said}");
}

/// The guest that can be updated, for QEMU, and a payload for it.
fn updatable() -> (Env, String, String) {
    let mut env = env();
    env.guarded(Limit::MACHINES);
    let own = guest("guest.qcow2").map(|g| g.join("update")).filter(|g| g.is_dir());
    let own = own.expect("a guest of variant update");
    let key = PKey::private_key_from_pem(&std::fs::read(own.join("update.key")).unwrap()).unwrap();
    let to = env.home().join("payload");
    payload(&std::fs::File::open(own.join("usr-next.img")).unwrap(), &key, &to);
    let path = |p: PathBuf| p.display().to_string();
    (env, path(own.join("guest.qcow2")), path(to))
}

/// The same by kola's own tests, one of whose machines is the server, and what else wants such a guest.
#[test]
#[ignore = "boots emulated machines, minutes; wants tests/guest/build.sh --variant update and MANTLE_TEST_KOLET"]
fn tests_of_updates_run_on_machines() {
    let (env, image, payload) = updatable();
    let kolet = std::env::var_os("MANTLE_TEST_KOLET").expect("MANTLE_TEST_KOLET names a static mantle");
    std::os::unix::fs::symlink(std::path::absolute(kolet).unwrap(), env.home().join("kolet")).unwrap();
    let tests = ["cl.omaha.ping", "cl.update.payload", "coreos.locksmith.reboot"];
    let words = ["kola", "run", "-p", "qemu", "--parallel", "2", "--qemu-image", &image];
    let outcome = env.mantle(&[&words[..], &["--update-payload", &payload], &tests].concat()).expect(0);
    for test in tests {
        assert!(outcome.stdout.contains(&format!("--- PASS: {test} (")), "{outcome:?}");
    }
}

/// Firmware, bootloader, both halves and their kernels: as a user's machine is updated.
#[test]
#[ignore = "boots an emulated machine three times, minutes; wants tests/guest/build.sh --variant update"]
fn a_machine_is_updated_there_and_back_again() {
    let (env, image, payload) = updatable();
    let words = ["kola", "updatepayload", "-v", "-p", "qemu", "--output-dir", "out"];
    let outcome =
        env.mantle(&[&words[..], &["--qemu-image", &image, "--payload", &payload]].concat()).expect(0);
    assert!(outcome.stdout.starts_with("--- PASS: CoreOS upgrade test ("), "{outcome:?}");
    // What the machine said of itself at each of its boots.
    let machine = std::fs::read_dir(env.home().join("out")).unwrap().map(|e| e.unwrap().path());
    let console = machine.map(|m| m.join("console.txt")).find(|c| c.exists()).unwrap();
    let console = String::from_utf8_lossy(&std::fs::read(console).unwrap()).into_owned();
    let welcomes = console.lines().filter_map(|l| l.split_once("Mantle Test Linux ")).map(|(_, v)| &v[..5]);
    let versions: Vec<&str> = welcomes.collect();
    assert!(versions.starts_with(&["1.0.0"]) && versions.ends_with(&["1.0.1"]), "{versions:?}\n{console}");
    assert_eq!(console.matches("mount.usr=PARTLABEL=USR-B").count().min(1), 1, "{console}");
}

#[test]
fn a_system_that_is_not_the_one_of_the_payload_does_not_boot() {
    let Some(guest) = Guest::new() else { return };
    let env = guest.env();
    let payload = guest.payload(&[1; 4096]);
    let words = ["updatepayload", "--payload", payload.to_str().unwrap()];
    let outcome = kola(&env, &words, &guest).expect(1);
    assert!(outcome.stderr.contains("update-client.service"), "{}", outcome.stderr);
}

#[test]
fn tests_of_updates_run_on_it() {
    let Some(guest) = Guest::new() else { return };
    let env = guest.env();
    let mut tests = vec!["cl.omaha.ping", "coreos.locksmith.reboot", "omaha.ping.http"];
    // What runs on the guest has to be static, which the binary under test is not.
    match std::env::var_os("MANTLE_TEST_KOLET").filter(|path| !path.is_empty()) {
        Some(kolet) => {
            std::os::unix::fs::symlink(std::path::absolute(kolet).unwrap(), env.home().join("kolet"))
                .unwrap();
            tests.push("cl.update.payload");
        }
        None => println!("skipped: cl.update.payload, as MANTLE_TEST_KOLET names no static mantle"),
    }
    let payload = guest.payload(&image());
    let words = ["run", "--update-payload", payload.to_str().unwrap()];
    let outcome = kola(&env, &[&words, &tests[..]].concat(), &guest).expect(0);
    for test in tests {
        assert!(outcome.stdout.contains(&format!("--- PASS: {test} (")), "{outcome:?}");
    }
}

#[test]
fn spawned_machines_are_told_of_a_build() {
    let Some(guest) = Guest::new() else { return };
    let mut env = guest.env();
    let build = guest.folder.path().join("build");
    let folder = build.join("images/amd64-usr/latest");
    std::fs::create_dir_all(&folder).unwrap();
    let versions =
        "COREOS_VERSION=1.2.3\nCOREOS_VERSION_ID=1.2.3\nCOREOS_BUILD_ID=\nCOREOS_SDK_VERSION=1.0.0\n";
    std::fs::write(folder.join("version.txt"), versions).unwrap();
    std::fs::write(folder.join("coreos_production_update.bin"), image()).unwrap();
    // The key of the SDK is not here: an update that was made before needs none.
    let key = guest.folder.path().join("key");
    std::fs::write(&key, guest.key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    let (builtin, cancel) = (update::Generator::Builtin, Default::default());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(update::full_update(&folder, &key, &builtin, &cancel)).unwrap();
    env.set("BUILD_ROOT", build);
    let words = ["spawn", "--log-level", "INFO", "-v", "--shell=false", "--omaha-package", "latest"];
    let outcome = kola(&env, &[&words[..], &["--board", "amd64-usr"]].concat(), &guest).expect(0);
    assert!(outcome.stderr.contains("update: Using update manifest: "), "{outcome:?}");
    assert!(outcome.stdout.contains(" spawned at 10.0.0.2\n"), "{outcome:?}");
    std::fs::remove_file(folder.join("coreos_production_update.xml")).unwrap();
    let said = kola(&env, &words, &guest).expect(1).stderr;
    assert!(said.contains("cannot use the key /usr/share/update_engine/"), "{said}");
}

#[test]
fn guests_that_cannot_update_themselves_are_refused() {
    if !root() || !installed("systemd-nspawn") {
        return;
    }
    let Some(own) = guest("root") else { return };
    let mut env = env();
    env.set("MANTLE_GUEST_DIR", own);
    let payload = env.write("update.gz", "x");
    let payload = payload.to_str().unwrap();
    let said = env.mantle(&["kola", "updatepayload", "-p", "nspawn", "--payload", payload]).expect(1).stderr;
    assert!(said.contains("it does not have update-engine"), "{said}");
    let said =
        env.mantle(&["kola", "updatepayload", "-p", "scripted", "--payload", payload]).expect(1).stderr;
    assert!(said.contains("updatepayload is currently only supported on qemu"), "{said}");
    let words = ["kola", "spawn", "-p", "scripted", "--omaha-package", "latest"];
    let said = env.mantle(&words).expect(1).stderr;
    assert!(said.contains("--omaha-package is currently only supported on qemu"), "{said}");
    let words = ["kola", "spawn", "-p", "nspawn", "--omaha-package", "latest"];
    let said = env.mantle(&words).expect(1).stderr;
    assert!(said.contains("Building full update failed") && said.contains("version.txt"), "{said}");
    assert!(!env.home().join("_kola_temp").exists());
}
