//! Error pages: each says what failed, on what, why, and, where that helps, what to do next.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::{constant, env, guest, planned, root, run};
use crate::support::{Env, Outcome, installed, snapshot};

/// One page of a snapshot: the command line, its exit status, and all it said.
struct Pages<'a> {
    env: &'a Env,
    text: String,
}

impl<'a> Pages<'a> {
    fn new(env: &'a Env) -> Self {
        Self { env, text: String::new() }
    }

    /// Adds a page.
    fn add(&mut self, args: &[&str], outcome: &Outcome) {
        assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
        let said = constant(self.env, &format!("{}{}", outcome.stdout, outcome.stderr));
        // The time at the start of a log line.
        let time = regex::Regex::new(r"(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ").unwrap();
        let said = time.replace_all(&said, "");
        self.text.push_str(&format!("$ kola {}\n{said}[status {}]\n\n", args.join(" "), outcome.code));
    }

    /// Runs kola and adds the page.
    fn kola(&mut self, args: &[&str]) {
        let outcome = self.env.mantle(&[&["kola"], args].concat());
        self.add(args, &outcome);
    }

    fn compare(self, name: &str) {
        let word = [("amd64-usr/latest", "<board>/latest"), ("arm64-usr/latest", "<board>/latest")];
        snapshot(&format!("kola/{name}"), &self.text, &word);
    }
}

/// A virtual machine program of which only its name is right.
fn fake_qemu(env: &Env, script: &str) {
    for name in ["qemu-system-x86_64", "qemu-system-aarch64"] {
        env.program(name, script);
    }
}

#[test]
fn choices_are_explained() {
    let env = Env::new();
    let mut pages = Pages::new(&env);
    pages.kola(&["run", "-p", "quemu"]);
    pages.kola(&["run", "-p", "vmware"]);
    pages.kola(&["spawn", "-p", "QEMU"]);
    let mut env = super::env();
    env.set("USER", "tester");
    pages.env = &env;
    pages.kola(&["run", "-p", "scripted", "-b", "debain"]);
    pages.kola(&["run", "-p", "scripted", "--board", "amd64"]);
    pages.kola(&["run", "-p", "scripted", "--boot-timeout", "soon"]);
    pages.kola(&["run", "-p", "scripted", "-j", "many"]);
    pages.kola(&["run", "-p", "scripted", "--torcx-manifest=missing.json"]);
    pages.kola(&["run", "-p", "scripted", "--debug-systemd-unit=foo"]);
    pages.kola(&["run", "-p", "scripted", "--debug-systemd-unit=foo.socket"]);
    pages.kola(&["run", "-p", "scripted", "--update-payload=missing.gz"]);
    pages.kola(&["spawn", "-p", "scripted", "-c0"]);
    pages.kola(&["runn"]);
    pages.compare("error-choices");
}

#[test]
fn mistakes_in_the_configuration_name_their_place() {
    let mut env = env();
    let file = env.write("mantle.yaml", "kola:\n  run:\n    paralel: 3\n");
    env.set("MANTLE_CONFIG", file);
    let mut pages = Pages::new(&env);
    pages.kola(&["run", "-p", "scripted", "selftest.pass"]);
    env.write("mantle.yaml", "kola:\n  paralel: 3\n");
    pages.kola(&["run", "-p", "scripted", "selftest.pass"]);
    env.write("mantle.yaml", "kola:\n  platform: quemu\n");
    pages.kola(&["run", "selftest.pass"]);
    env.write("mantle.yaml", "kola:\n  boot-timeout: soon\n");
    pages.kola(&["run", "-p", "scripted", "selftest.pass"]);
    pages.compare("error-configuration");
}

#[test]
fn images_are_explained() {
    if !root() || !installed("qemu-system-x86_64") || !installed("qemu-img") {
        return;
    }
    let env = Env::new();
    env.write("page.html", "<html><title>404 Not Found</title></html>\n");
    env.write("empty.img", "");
    env.write("bad.img", "\0\0");
    env.write("bad.img.json", r#"{"distro": "debian", "board": "amd64-usr", "version": "1", "featurs": []}"#);
    env.write("strange.img", "\0\0");
    env.write("strange.img.json", r#"{"distro": "beos", "board": "amd64-usr", "version": "1"}"#);
    env.write("arm.img", "\0\0");
    env.write("arm.img.json", r#"{"distro": "debian", "board": "arm64-usr", "version": "1"}"#);
    std::fs::write(env.home().join("image.img.gz"), [0x1f, 0x8b, 8, 0]).unwrap();
    let mut pages = Pages::new(&env);
    let board = ["run", "-p", "qemu", "--board=amd64-usr"];
    pages.kola(&board);
    for image in
        ["missing.img", ".", "page.html", "empty.img", "image.img.gz", "bad.img", "strange.img", "arm.img"]
    {
        pages.kola(&[&board[..], &["--qemu-image", image]].concat());
    }
    pages.compare("error-images");
    if installed("systemd-nspawn") {
        let mut pages = Pages::new(&env);
        pages.kola(&["run", "-p", "nspawn"]);
        pages.kola(&["run", "-p", "nspawn", "--nspawn-root", "missing"]);
        pages.kola(&["run", "-p", "nspawn", "--nspawn-root", "."]);
        pages.compare("error-trees");
    }
}

#[test]
fn ordinary_users_are_told_what_takes_root() {
    if !root() || !installed("setpriv") {
        return;
    }
    let env = Env::new();
    // The build folder may be closed to others, as root's home is.
    let binary = env.home().join("mantle");
    std::fs::copy(env!("CARGO_BIN_EXE_mantle"), &binary).unwrap();
    for folder in [env.home().parent().unwrap(), &env.home(), &binary] {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut pages = Pages::new(&env);
    let mut nobody = |args: &[&str]| {
        let drop =
            ["--reuid=65534", "--regid=65534", "--clear-groups", "--", binary.to_str().unwrap(), "kola"];
        let outcome = env.start("setpriv".as_ref(), &[&drop[..], args].concat()).finish();
        pages.add(args, &outcome);
    };
    nobody(&["run", "-p", "qemu"]);
    nobody(&["run", "-p", "nspawn"]);
    if installed("qemu-system-x86_64") && installed("qemu-img") {
        env.write("secret.img", "x"); // root's alone
        nobody(&["run", "--board=amd64-usr"]);
        nobody(&["run", "--board=amd64-usr", "-p", "qemu-unpriv", "--qemu-image=secret.img"]);
    }
    pages.compare("error-nobody");
}

#[test]
fn a_missing_or_broken_qemu_is_explained() {
    if !root() || !installed("qemu-img") {
        return;
    }
    let mut env = Env::new();
    std::fs::write(env.home().join("disk.img"), vec![0; 1 << 20]).unwrap();
    let image = ["--board=amd64-usr", "-b", "debian", "--qemu-image=disk.img"];
    let spawn = |platform| [&["spawn", "-p", platform][..], &image].concat();
    let mut pages = Pages::new(&env);
    fake_qemu(&env, "#!/bin/sh\necho \"qemu-system-x86_64: cannot load libfoo.so\" >&2\nexit 1\n");
    pages.kola(&[&spawn("qemu-unpriv")[..], &["--qemu-accel=tcg"]].concat());
    pages.kola(&[&spawn("qemu")[..], &["--qemu-accel=tcg"]].concat());
    // Good enough for the probe that measures emulation, whose firmware orders QEMU to end with 33.
    let script = "#!/bin/sh\ncase \"$*\" in *isa-debug-exit*) exit 33;; esac\n\
        echo 'qemu-system-x86_64: could not set up host forwarding rule' >&2\nexit 1\n";
    fake_qemu(&env, script);
    pages.kola(&[&spawn("qemu-unpriv")[..], &["--qemu-accel=tcg"]].concat());
    let text = std::mem::take(&mut pages.text);
    // nothing is left of a machine that was never there
    let temp = env.home().parent().unwrap().join("tmp");
    assert!(std::fs::read_dir(temp).unwrap().next().is_none());
    if !std::path::Path::new("/usr/sbin/qemu-system-x86_64").exists() {
        std::fs::remove_file(env.home().parent().unwrap().join("bin/qemu-system-x86_64")).unwrap();
        env.without_programs();
        let mut pages = Pages { env: &env, text };
        pages.kola(&spawn("qemu"));
        pages.compare("error-qemu");
    }
}

#[test]
fn the_doctor_says_what_is_missing() {
    let mut env = env();
    env.without_programs();
    // Nothing is installed, and there is no image.
    for platform in ["qemu-unpriv", "nspawn"] {
        let outcome = env.mantle(&["kola", "doctor", "-p", platform, "--board=amd64-usr"]).expect(1);
        let said = format!("Error: platform {platform} cannot be used here: ");
        assert!(outcome.stderr.starts_with(&said), "{outcome:?}");
        assert!(
            outcome
                .stdout
                .contains("platform qemu-unpriv: qemu-system-x86_64 is not installed (Debian: apt-get")
        );
        assert!(outcome.stdout.contains("platform aws: not looked at"), "{outcome:?}");
        assert!(!outcome.stdout.contains("scripted"), "{outcome:?}");
    }
    // One that needs nothing.
    let outcome = env.mantle(&["kola", "doctor", "-p", "scripted", "--board=amd64-usr"]).expect(0);
    assert!(outcome.stdout.contains("platform scripted: ready\n"), "{outcome:?}");
    assert!(outcome.stdout.contains("\nacceleration: ") && outcome.stdout.contains("\nkolet for amd64: "));
    env.mantle(&["kola", "doctor", "-p", "no-such"]).expect(3);
}

#[test]
fn machines_that_do_not_come_up_are_explained() {
    let env = env();
    let mut pages = Pages::new(&env);
    let cases = [
        ("silent", r#"{"silent": true}"#, &["--boot-timeout=1s"][..]),
        (
            "silent with a console",
            r#"{"silent": true, "console": "Linux version 6.1\r\nA start job is running\r\n"}"#,
            &["--boot-timeout=1s"],
        ),
        (
            "emergency",
            r#"{"silent": true, "console": "[FAILED] Failed to mount /sysroot.\r\nYou are in emergency mode. After logging in\r\n"}"#,
            &[],
        ),
        ("ignition", r#"{"silent": true, "console": "Ignition failed (stage files)\r\n"}"#, &[]),
        ("dies", r#"{"silent": true, "dies": "the guest powered itself off"}"#, &[]),
        ("launch", r#"{"launch_error": "no space for machines"}"#, &[]),
        ("flight", r#"{"flight_error": "no such region"}"#, &[]),
        (
            "units",
            r#"{"answers": [{"command": "@@failed", "stdout": "ID=debian\n@@failed\nfoo.service loaded failed failed Foo\n@@selinux\n"},
                      {"command": "systemctl status", "stdout": "foo.service - Foo\nexit-code 3"}]}"#,
            &[],
        ),
        (
            "other system",
            r#"{"answers": [{"command": "@@failed", "stdout": "ID=flatcar\n@@failed\n@@selinux\n"}]}"#,
            &[],
        ),
        (
            "connection lost",
            r#"{"answers": [{"command": "is-system-running", "lost": true}]}"#,
            &["--boot-timeout=3s"],
        ),
    ];
    for (name, plan, options) in cases {
        let args = [options, &["selftest.pass"]].concat();
        let outcome = planned(&env, plan, &args).expect(1);
        pages.add(&[&["run", "-p", "scripted"], &args[..], &["#", name]].concat(), &outcome);
    }
    pages.compare("error-machines");
}

/// What mantle's own guest reads is in its feature file; without one, all versions of a number would do.
#[test]
fn versions_that_the_images_ignition_cannot_read_are_refused_before_the_boot() {
    let env = env();
    std::fs::write(env.home().join("guest.qcow2"), [0; 4096]).unwrap();
    let facts = |ignition: &str| {
        let text = r#"{"distro": "debian", "board": "amd64-usr", "version": "1.0.0", "features": ["ign3"]"#;
        env.write("guest.qcow2.json", &format!("{text}{ignition}}}"));
    };
    let spawn = |version: &str| {
        env.write("config.ign", &format!(r#"{{"ignition": {{"version": "{version}"}}}}"#));
        let args = ["kola", "spawn", "-p", "qemu", "--qemu-image=guest.qcow2", "-u", "config.ign"];
        // After the userdata, and before anything is made, it would miss the key.
        env.mantle(&[&args[..], &["--keys", "--key=missing.pub"]].concat()).expect(1).stderr
    };
    let own = guest("guest.qcow2").map(|folder| {
        let file = ["full", "base"].map(|v| folder.join(v).join("guest.qcow2.json"));
        let texts = file.iter().filter_map(|f| std::fs::read_to_string(f).ok());
        texts
            .filter_map(|t| serde_json::from_str::<serde_json::Value>(&t).ok()?.get("ignition").cloned())
            .collect()
    });
    let mut ranges: Vec<serde_json::Value> = own.unwrap_or_default();
    ranges.push(serde_json::json!(["=3.0.0", "=3.3.0", "=3.4.0-experimental"]));
    for ranges in ranges {
        facts(&format!(", \"ignition\": {ranges}"));
        for version in ["2.3.0", "3.9.0", "3.4.0"] {
            let said = spawn(version);
            assert!(said.contains("config is not valid: ignition.version"), "{ranges} {version}: {said}");
            assert!(said.contains(&format!("not {version}")), "{ranges} {version}: {said}");
        }
        let said = spawn("3.3.0");
        assert!(said.contains("missing.pub") && !said.contains("config is not valid"), "{ranges}: {said}");
    }
    assert!(!env.home().join("_kola_temp").exists(), "nothing is made");
}

#[test]
fn userdata_is_checked_before_a_machine_is_made() {
    let env = env();
    env.write("cut.ign", "{\"ignition\": {\"version\": \"2.2.0\"},");
    env.write("type.ign", r#"{"ignition": {"version": "2.2.0"}, "storage": {"files": 3}}"#);
    env.write("new.ign", r#"{"ignition": {"version": "9.0.0"}}"#);
    env.write("config.yaml", "storage:\n  files:\n    - path: x\n      mode: rw\ndocker:\n  flag: []\n");
    let mut pages = Pages::new(&env);
    env.write("old.ign", r#"{"ignition": {"version": "2.3.0"}}"#);
    env.write("comma.ign", r#"{"ignition": {"version": "3.2.0"},}"#);
    let users = r#"{"ignition": {"version": "3.2.0"}, "passwd": {"users": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}}"#;
    env.write("users.ign", users);
    env.write("bom.yaml", "\u{feff}#cloud-config\nhostname: x\n");
    env.write("blank", "\n\n");
    env.write("empty", "");
    env.write("mistyped.yaml", "strorage:\n  files: []\n");
    env.write("config.bu", "variant: fcos\nversion: 1.4.0\n");
    for file in [
        "missing.ign",
        ".",
        "cut.ign",
        "type.ign",
        "new.ign",
        "config.yaml",
        "comma.ign",
        "users.ign",
        "bom.yaml",
        "blank",
        "empty",
        "mistyped.yaml",
        "config.bu",
    ] {
        pages.kola(&["spawn", "-p", "scripted", "-b", "debian", "-u", file]);
    }
    // What the image's Ignition reads is known by its distribution, or by its feature file.
    pages.kola(&["spawn", "-p", "scripted", "-b", "fcos", "-u", "old.ign"]);
    env.write("disks.json", r#"{"AdditionalDisk": []}"#);
    pages.kola(&["spawn", "-p", "scripted", "-b", "debian", "--qemu-options=disks.json"]);
    pages.kola(&["spawn", "-p", "scripted", "-b", "debian", "--keys"]);
    pages.kola(&["spawn", "-p", "scripted", "-b", "debian", "--keys", "--key=missing.pub"]);
    pages.compare("error-userdata");
    assert!(!env.home().join("_kola_temp").exists(), "nothing is made before all is checked");
}

#[test]
fn butane_configs_are_translated_by_its_program() {
    let env = env();
    // Instead of the real one, which no package here has: it shows what it was given.
    let script = r#"#!/bin/sh
read -r first
[ "$first" = "variant: fcos" ] || { echo "Error translating config: no variant" >&2; exit 1; }
echo "warning: something is odd" >&2
echo '{"ignition": {"version": "3.3.0"}, "passwd": {"users": [{"name": "made"}]}}'
"#;
    env.program("butane", script);
    env.write("config.bu", "variant: fcos\nversion: 1.4.0\n");
    env.write("wrong.bu", "version: 1.4.0\nvariant: fcos\n");
    let spawn = |file: &str| {
        env.mantle(&[
            "kola",
            "spawn",
            "-p",
            "scripted",
            "-b",
            "debian",
            "--shell=false",
            "-u",
            file,
            "--output-dir",
            "out",
        ])
    };
    let outcome = spawn("config.bu").expect(0);
    assert!(outcome.stderr.contains("Butane config: warning: something is odd"), "{outcome:?}");
    let machine = std::fs::read_dir(env.home().join("out")).unwrap().map(|e| e.unwrap().path());
    let given = machine.map(|m| m.join("ignition.json")).find(|f| f.exists()).unwrap();
    let given = std::fs::read_to_string(given).unwrap();
    assert!(given.contains(r#""name":"made""#) && given.contains("sshAuthorizedKeys"), "{given}");
    let said = spawn("wrong.bu").expect(1).stderr;
    assert!(said.contains("translating the Butane config") && said.contains("no variant"), "{said}");
}

#[test]
fn folders_that_cannot_be_used_are_explained() {
    let env = env();
    env.write("thesis/chapter1", "x");
    env.write("file", "x");
    let mut pages = Pages::new(&env);
    for folder in ["thesis", "file", "no/such", "/proc/kola", ""] {
        let option = format!("--output-dir={folder}");
        pages.kola(&["run", "-p", "scripted", "-b", "debian", &option, "selftest.pass"]);
    }
    pages.kola(&["cleanup", "missing"]);
    pages.kola(&["cleanup", "thesis"]);
    pages.kola(&["cleanup"]);
    env.write("_kola_temp/scripted-latest", "x");
    pages.kola(&["run", "-p", "scripted", "-b", "debian", "selftest.pass"]);
    pages.compare("error-folders");
}

#[test]
fn a_full_disk_is_explained() {
    if !root() || !installed("unshare") {
        return;
    }
    let env = env();
    std::fs::create_dir(env.home().join("small")).unwrap();
    // In a mount namespace of its own: the mount goes with it.
    let script = "mount -t tmpfs -o size=64k small small && cd small && exec \"$@\"";
    let full = |prepare: &str| {
        let script = script.replace("exec", &format!("{prepare}; exec"));
        let words = ["--mount", "--", "sh", "-c", &script, "sh", env!("CARGO_BIN_EXE_mantle")];
        let kola = ["kola", "run", "-p", "scripted", "-b", "debian", "selftest.pass"];
        env.start("unshare".as_ref(), &[&words[..], &kola].concat()).finish()
    };
    let possible = Command::new("unshare").args(["--mount", "true"]).output().unwrap();
    if !possible.status.success() {
        println!("skipped: {}", String::from_utf8_lossy(&possible.stderr));
        return;
    }
    let mut pages = Pages::new(&env);
    pages.add(&["run"], &full("mkdir _kola_temp; cat /dev/zero > zero 2>/dev/null; true").expect(1));
    pages.compare("error-full");
    // Full at some later point: a run is never a success then.
    for room in [1, 2, 4] {
        let outcome =
            full(&format!("mkdir _kola_temp; head -c $((4096 * (15 - {room}))) /dev/zero > zero")).expect(1);
        let said = outcome.stdout + &outcome.stderr;
        assert!(said.contains("No space left on device") && !said.contains("panicked"), "{said}");
    }
}

#[test]
fn a_run_that_fails_says_so_once() {
    let env = env();
    let outcome = run(&env, &["selftest.fail"]).expect(1);
    assert_eq!(outcome.stderr, "Error: harness: test suite failed\n");
    assert!(outcome.stdout.lines().last().unwrap().starts_with("FAIL, output in "), "{}", outcome.stdout);
}
