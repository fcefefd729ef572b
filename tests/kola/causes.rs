//! What has gone wrong on real machines is given its right name.

use std::io::Write as _;

use serde_json::{Value, json};

use super::programs::{contained, containers, program};
use super::{env, guest, root};
use crate::support::guard::Limit;
use crate::support::{Env, Running, installed};

/// The tests of a run by name: what the JUnit report calls their failures, and the message.
fn causes(env: &Env, run: &str) -> Vec<(String, String)> {
    let path = env.home().join(run).join("reports/events.ndjson");
    let events = std::fs::read_to_string(path).unwrap();
    let ended = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut found: Vec<_> = ended
        .filter(|event| event["event"] == "test-ended" && event["depth"] == 0)
        .map(|event| {
            [&event["name"], &event["kind"]].map(|v| v.as_str().unwrap_or_default().to_owned()).into()
        })
        .collect();
    found.sort();
    found
}

fn named(wanted: &[(&str, &str)]) -> Vec<(String, String)> {
    wanted.iter().map(|(test, cause)| (format!("ext.p.{test}"), (*cause).to_owned())).collect()
}

#[test]
fn failures_of_containers_are_named() {
    let Some(guest) = containers("usr/bin/sh") else { return };
    let mut env = env();
    for (name, text) in [
        ("broken", "exit 3"),
        (
            "nossh",
            // Stopped by systemd, the session of the test would live on.
            "systemctl --no-block stop sshd.socket ssh.socket sshd.service ssh.service
            sleep 1
            for p in /proc/[0-9]*; do case $(readlink $p/exe) in */sshd) kill -9 ${p##*/} ;; esac; done
            sleep 1000",
        ),
        ("full", "mkdir /run/small; mount -t tmpfs -o size=64k none /run/small\ncat /dev/zero >/run/small/x"),
        ("ended", "systemctl poweroff; sleep 1000"),
    ] {
        program(&env, &format!("p/tests/kola/{name}"), &format!("#!/bin/sh\n{text}\n"));
    }
    // A unit that fails is found before the test is run.
    program(&env, "p/tests/kola/unit/run.sh", "#!/bin/sh\n");
    let unit = "[Service]\nType=oneshot\nExecStart=/bin/false\n[Install]\nWantedBy=multi-user.target\n";
    let config = json!({
        "ignition": { "version": "3.0.0" },
        "systemd": { "units": [{ "name": "bad.service", "enabled": true, "contents": unit }] },
    });
    env.write("p/tests/kola/unit/config.ign", &config.to_string());
    let outcome = contained(&mut env, &guest, &["-j2", "ext.p.*"]).expect(1);
    let wanted = named(&[
        ("broken", "error"),
        ("ended", "machine-ended"),
        ("full", "disk-full"),
        ("nossh", "no-ssh"),
        ("unit.run.sh", "unit-failed"),
    ]);
    assert_eq!(causes(&env, "_kola_temp/nspawn-latest"), wanted, "{}\n{}", outcome.stdout, outcome.stderr);
    for line in ["    ext.p.nossh (no-ssh): ", "    ext.p.full (disk-full): ", "    ext.p.broken: "] {
        assert!(outcome.stdout.contains(line), "{}", outcome.stdout);
    }
}

#[test]
fn people_get_a_shell_on_the_machine_of_a_failed_test() {
    let Some(guest) = containers("usr/bin/sh") else { return };
    let env = env();
    program(&env, "p/tests/kola/broken", "#!/bin/sh\ntouch /run/was-here\nexit 3\n");
    program(&env, "p/tests/kola/good", "#!/bin/sh\n");
    let pty = nix::pty::openpty(None, None).unwrap();
    let mut command = env.command(env!("CARGO_BIN_EXE_mantle"));
    command.args(["kola", "run", "-p", "nspawn", "-b", "debian", "-E", "p", "--output-dir=out", "ext.p.*"]);
    command.args(guest).arg("--ssh-on-test-failure").stdin(pty.slave);
    let mut running = Running::within(command, Limit::MACHINES);
    // What the shell prints is not what it is told.
    let mut keys = std::fs::File::from(pty.master.try_clone().unwrap());
    keys.write_all(b"ls /run/was-*; echo do''ne; exit\n").unwrap();
    running.wait_for("done");
    let outcome = running.finish().expect(1);
    assert!(outcome.stdout.contains("/run/was-here"), "{}", outcome.stdout);
    assert_eq!(outcome.stderr.matches(" has failed; this is its machine ").count(), 1, "{}", outcome.stderr);
    let folder = std::fs::read_dir(env.home().join("out/ext.p.broken")).unwrap().next().unwrap().unwrap();
    let commands = std::fs::read_to_string(folder.path().join("commands.txt")).unwrap();
    assert!(commands.contains("s status 0: ") && !commands.contains("boot_id"), "{commands}");
}

#[test]
#[ignore = "minutes; make check-full"]
fn a_network_that_is_cut_is_named() {
    let Some(guest) = containers("usr/bin/sh") else { return };
    let mut env = env();
    let text = "#!/bin/sh\n# kola: {\"timeoutMin\": 1}\nfor i in /sys/class/net/*; do ip link set dev ${i##*/} down; done\nsleep 1000\n";
    program(&env, "p/tests/kola/cut", text);
    let outcome = contained(&mut env, &guest, &["ext.p.*"]).expect(1);
    let found = causes(&env, "_kola_temp/nspawn-latest");
    assert_eq!(found, named(&[("cut", "no-network")]), "{}", outcome.stdout);
}

/// A kernel that has the guest's memory for itself boots about twenty seconds here.
#[test]
#[ignore = "minutes; make check-full"]
fn failures_of_virtual_machines_are_named() {
    if !root() || !installed("qemu-system-x86_64") || !installed("qemu-img") {
        return;
    }
    let Some(folder) = guest("guest.qcow2") else { return };
    let mut env = env();
    env.set("MANTLE_GUEST_DIR", &folder);
    env.guarded(Limit::MACHINES);
    program(&env, "p/tests/kola/panic", "#!/bin/sh\necho c >/proc/sysrq-trigger\nsleep 1000\n");
    program(&env, "p/tests/kola/emergency", "#!/bin/sh\nsystemctl --no-block emergency\nsleep 1000\n");
    program(&env, "p/tests/kola/off", "#!/bin/sh\nsystemctl poweroff -ff\nsleep 1000\n");
    program(&env, "p/tests/kola/idle", "#!/bin/sh\n");
    let kola = ["kola", "run", "-p", "qemu-unpriv", "-b", "debian", "--qemu-accel=tcg", "-E", "p"];
    let outcome = env.mantle(&[&kola[..], &["--qemu-kernel=auto", "-j2", "ext.p.[^i]*"]].concat()).expect(1);
    let wanted =
        named(&[("emergency", "emergency-shell"), ("off", "machine-ended"), ("panic", "kernel-panic")]);
    assert_eq!(
        causes(&env, "_kola_temp/qemu-unpriv-latest"),
        wanted,
        "{}\n{}",
        outcome.stdout,
        outcome.stderr
    );

    // Those that never come up.
    let idle = |wanted: &str, args: &[&str]| {
        let outcome = env.mantle(&[&kola[..], args, &["ext.p.idle"]].concat()).expect(1);
        let found = causes(&env, "_kola_temp/qemu-unpriv-latest");
        assert_eq!(found, named(&[("idle", wanted)]), "{}\n{}", outcome.stdout, outcome.stderr);
    };
    let variants = ["full", "base"].map(|variant| folder.join(variant));
    let variant = variants.iter().find(|variant| variant.join("vmlinuz").exists()).unwrap();
    let file = |option: &str, name: &str| format!("--qemu-{option}={}", variant.join(name).display());
    let (kernel, initrd) = (file("kernel", "vmlinuz"), file("initrd", "initrd.zst"));
    let hangs = "--qemu-append=console=ttyS0,115200n8 root=LABEL=NOWHERE rw";
    idle("initramfs", &[&kernel, &initrd, hangs, "--boot-timeout=60s"]);
    std::fs::File::create(env.home().join("empty.img")).unwrap().set_len(1 << 20).unwrap();
    idle("firmware", &["--qemu-image=empty.img", "--boot-timeout=60s"]);
}
