//! Machines that die, or show that they will not get any further, while a test runs.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regex::Regex;

use super::{Kola, constant, env, guest, planned, report, root, run, until};
use crate::support::guard::Limit;
use crate::support::{Env, Running, installed, snapshot};

/// An answer after which the machine is dead; the command itself never ends.
fn killing(command: &str) -> String {
    format!(r#"{{"answers": [{{"command": "{command}", "hangs": true, "kills": "it caught fire"}}]}}"#)
}

/// The first machine dies when another one is asked for the first time, which never answers.
const BESIDE: &str =
    r#"{"answers": [{"of_later": true, "command": "", "hangs": true, "kills": "it caught fire"}]}"#;

/// A file that passes for a static program.
fn kolet(env: &Env) {
    let mut elf = vec![0; 64];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    let path = env.home().join("kolet");
    std::fs::write(&path, elf).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// Not one of these tests would end without the death: the guard of the run is what tells.
#[test]
fn a_death_ends_each_stage_of_a_test_with_its_cause() {
    let env = env();
    kolet(&env);
    let answer = |fields: &str| format!(r#"{{"answers": [{{"command": "doom", {fields}}}]}}"#);
    let cases = [
        ("a command", "idle", killing("sleep")),
        ("a copy of kolet", "native", killing("kolet.partial")),
        ("a native function", "native", killing("./kolet run")),
        ("a wait", "poll", answer(r#""kills": "it caught fire""#)),
        (
            "a connection that breaks before it is known why",
            "poll",
            answer(r#""lost": true, "kills": "it caught fire", "later_ms": 100"#),
        ),
        (
            "the same, told by a subtest that goes on",
            "broken",
            answer(r#""lost": true, "kills": "it caught fire", "later_ms": 100"#),
        ),
        ("the boot of another machine", "more", BESIDE.to_owned()),
        (
            "with a console",
            "poll",
            answer(r#""console": "[ 1.0] all is well\r\n[ 2.0] smoke\r\n", "kills": "it caught fire""#),
        ),
    ];
    let mut text = String::new();
    for (stage, test, plan) in cases {
        let outcome = planned(&env, &plan, &[&format!("selftest.doom.{test}")]).expect(1);
        assert_eq!(outcome.stderr, "Error: harness: test suite failed\n");
        assert!(report(&env, "reports/junit.xml").contains("type=\"machine-ended\""), "{stage}");
        let _ = write!(text, "# {stage}\n{}\n", constant(&env, &outcome.stdout));
    }
    snapshot("kola/deaths", &text, &[]);
}

#[test]
fn a_death_ends_all_subtests_however_deep() {
    let env = env();
    let outcome = planned(&env, &killing("doom"), &["selftest.doom.deep"]).expect(1);
    for line in [
        "        --- FAIL: selftest.doom.deep/a/b (",
        "    --- FAIL: selftest.doom.deep/a (",
        "    --- FAIL: selftest.doom.deep/beside (",
        "--- FAIL: selftest.doom.deep (",
        r#"                machine "scripted-0" died: it caught fire"#,
        r#"            machine "scripted-0" died: it caught fire"#,
        r#"        machine "scripted-0" died: it caught fire"#,
        r#"    selftest.doom.deep (machine-ended): machine "scripted-0" died: it caught fire"#,
    ] {
        assert!(outcome.stdout.lines().any(|l| l.starts_with(line)), "{line}\n{}", outcome.stdout);
    }
}

#[test]
fn machines_that_a_test_destroys_or_reboots_are_no_deaths() {
    let env = env();
    let plan = r#"{"ends_when_destroyed": true}"#;
    planned(&env, plan, &["selftest.doom.destroy", "selftest.reboot", "selftest.two"]).expect(0);
}

#[test]
fn a_removal_that_a_death_interrupts_is_brought_to_its_end() {
    let env = env();
    let plan = r#"{"ends_when_destroyed": true, "console": "hello\r\n",
        "answers": [{"command": "doom", "kills": "it caught fire", "later_ms": 100}]}"#;
    let outcome = planned(&env, plan, &["--output-dir=out", "selftest.doom.removal"]).expect(1);
    assert!(outcome.stdout.contains("died: it caught fire"), "{}", outcome.stdout);
    assert!(!outcome.stdout.contains("it was destroyed"), "{}", outcome.stdout);
    for machine in ["scripted-0", "scripted-1"] {
        assert!(env.home().join("out/selftest.doom.removal").join(machine).join("console.txt").exists());
    }
    assert_eq!(env.mantle(&["kola", "cleanup", "out"]).expect(0).stdout, "out: nothing is left over\n");
}

#[test]
fn a_death_in_a_reboot_is_told_by_the_reboot() {
    let env = env();
    let plan = r#"{"answers": [{"command": "sudo reboot", "lost": true, "kills": "it caught fire"}]}"#;
    let outcome = planned(&env, plan, &["selftest.reboot"]).expect(1);
    let told =
        r#"    selftest.reboot (machine-ended): machine "scripted-0" failed to reboot: it caught fire"#;
    assert!(outcome.stdout.lines().any(|l| l == told), "{}", outcome.stdout);
    assert_eq!(outcome.stdout.matches("it caught fire").count(), 2, "{}", outcome.stdout);
}

/// A plan in which the console says something while a test waits.
fn saying(text: &str) -> String {
    let answers = serde_json::json!([{ "command": "doom", "console": text }]);
    serde_json::json!({ "console": "Linux version 6.1\r\n", "answers": answers }).to_string()
}

#[test]
fn a_panic_ends_a_running_test_and_is_told_once() {
    let env = env();
    let outcome = planned(&env, &saying("[ 9.0] Kernel panic - not syncing: x\r\n"), &["selftest.doom.poll"]);
    snapshot("kola/death-panic", &constant(&env, &outcome.expect(1).stdout), &[]);
}

#[test]
fn what_is_expected_on_the_console_or_can_be_lived_with_ends_nothing() {
    let env = env();
    let emergency = "You are in emergency mode. After logging in\r\n";
    for (text, test, told) in [
        // The same text where it is not expected.
        (emergency, "poll", "was given up: emergency shell on the console:"),
        // The test goes on, until its own failure of the time limit.
        (emergency, "emergency", "timed out after"),
        ("[ 1.0] WARNING: CPU: 0 PID: 7 at mm/slub.c:12\r\n", "warned", "timed out after"),
    ] {
        let outcome = planned(&env, &saying(text), &[&format!("selftest.doom.{test}")]).expect(1);
        let last = outcome.stdout.lines().find(|l| l.starts_with("    selftest.doom.")).unwrap();
        assert!(last.contains(told), "{}", outcome.stdout);
        let found = outcome.stdout.contains("Found ");
        assert_eq!(found, test == "warned", "the check at the end: {}", outcome.stdout);
    }
}

#[test]
fn other_commands_do_not_outlive_their_machines() {
    let env = env();
    env.write("plan.json", &killing("systemd-analyze"));
    let args = ["kola", "bootchart", "-p", "scripted", "-b", "debian", "--scripted-plan=plan.json"];
    let outcome = env.mantle(&args).expect(1);
    assert!(outcome.stderr.contains("machine \"scripted-0\" died: it caught fire\n"), "{}", outcome.stderr);
    // The first of two machines dies while the other one boots.
    env.write("plan.json", BESIDE);
    let args =
        ["kola", "spawn", "-p", "scripted", "-b", "debian", "--scripted-plan=plan.json", "--nodecount=2"];
    let outcome = env.mantle(&args).expect(1);
    assert!(outcome.stderr.contains("it caught fire"), "{}", outcome.stderr);
}

#[test]
fn long_waits_say_what_for_and_what_was_seen() {
    let env = env();
    // A wait is long after 30 s, here after 0.3 s.
    let plan = r#"{"slowness": 0.01, "answers": [{"command": "is-system-running", "stdout": "starting"}],
        "console": "Linux version 6.1\r\n[ *** ] A start job is running for dev-vdb.device\r\n"}"#;
    let outcome = planned(&env, plan, &["--boot-timeout=5s", "selftest.pass"]).expect(1);
    let told = Regex::new(
        r"machine scripted-0: waiting for the end of its boot since \d s of at most 5 s; last seen: starting; its console's last line: \[ \*\*\* \] A start job is running for dev-vdb.device\n",
    );
    assert!(told.unwrap().is_match(&outcome.stderr), "{}", outcome.stderr);
    // Before sshd answers, and in a reboot.
    let outcome =
        planned(&env, r#"{"slowness": 0.01, "silent": true}"#, &["--boot-timeout=5s", "selftest.pass"]);
    let told =
        Regex::new(r"machine scripted-0: waiting for sshd since \d s of at most 5 s; last seen: no answer\n");
    assert!(told.unwrap().is_match(&outcome.expect(1).stderr));
    let plan = r#"{"slowness": 0.01, "answers": [{"command": "sudo reboot", "lost": true}]}"#;
    let outcome = planned(&env, plan, &["--boot-timeout=5s", "selftest.reboot"]).expect(1);
    let told = Regex::new(
        r"machine scripted-0: waiting for sshd since \d s of at most 5 s; last seen: the machine still answers from the old boot\n",
    );
    assert!(told.unwrap().is_match(&outcome.stderr), "{}", outcome.stderr);
    // A machine that comes up at once is not worth a word.
    assert_eq!(run(&env, &["selftest.pass"]).expect(0).stderr, "");
}

/// The folder of the test that idles.
const IDLE: &str = "out/selftest.doom.idle";

/// Starts a test that idles on a machine of mantle's own guest; returns once it does.
fn idling(env: &Env, args: &[&str]) -> Kola {
    let args = [&["run", "--output-dir=out", "selftest.doom.idle"], args].concat();
    let kola = Kola::start(env, &args);
    kola.wait_for("about to idle");
    kola
}

fn with_guest(file: &str) -> Option<Env> {
    let folder = guest(file)?;
    let mut env = env();
    env.set("MANTLE_GUEST_DIR", folder);
    env.set("MANTLE_TEST_PLATFORM", "all");
    Some(env)
}

/// The folder of the machine in that of a cluster.
fn machine(env: &Env, cluster: &str) -> PathBuf {
    let folders = std::fs::read_dir(env.home().join(cluster)).unwrap();
    folders.map(|e| e.unwrap().path()).find(|p| p.join("console.txt").exists()).unwrap()
}

/// The processes whose command line has both texts.
fn processes(program: &str, text: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let name = line.split('\0').next().unwrap_or_default();
        if Path::new(name).file_name().is_some_and(|n| n == program) && line.contains(text) {
            found.push(pid);
        }
    }
    found
}

/// The first process of a container: the only child of systemd-nspawn.
fn first_process(id: &str) -> Pid {
    let plain = processes("systemd-nspawn", &id.replace('-', ""));
    let nspawn = if plain.is_empty() { processes("systemd-nspawn", id) } else { plain };
    assert_eq!(nspawn.len(), 1);
    let children = format!("/proc/{0}/task/{0}/children", nspawn[0]);
    Pid::from_raw(std::fs::read_to_string(children).unwrap().trim().parse().unwrap())
}

/// The result line of the idling test with what follows it.
fn told(kola: Kola) -> (String, String) {
    let outcome = kola.finish().expect(1);
    let last = outcome.stdout.lines().find(|l| l.starts_with("    selftest.doom.idle (")).unwrap();
    (last.trim().to_owned(), outcome.stdout.clone())
}

#[test]
fn a_container_that_is_killed_ends_its_test() {
    if !root() || !installed("systemd-nspawn") {
        return;
    }
    let Some(env) = with_guest("root") else { return };
    let kola = idling(&env, &["-p", "nspawn"]);
    let id = machine(&env, IDLE).file_name().unwrap().to_string_lossy().into_owned();
    kill(first_process(&id), Signal::SIGKILL).unwrap();
    let (last, text) = told(kola);
    assert!(last.contains(&format!("machine {id:?} died: the container ended with ")), "{last}");
    assert!(
        text.contains("its last words:") && text.contains("its folder: out/selftest.doom.idle/"),
        "{text}"
    );
}

#[test]
fn a_shell_ends_with_its_container() {
    use std::io::Write as _;
    if !root() || !installed("systemd-nspawn") {
        return;
    }
    let Some(env) = with_guest("root") else { return };
    let pty = nix::pty::openpty(None, None).unwrap();
    let mut command = env.command(env!("CARGO_BIN_EXE_mantle"));
    command.args(["kola", "spawn", "-p", "nspawn", "--output-dir=out"]).stdin(pty.slave);
    let mut running = Running::within(command, Limit::MACHINES);
    // What the shell prints is not what it is told.
    std::fs::File::from(pty.master.try_clone().unwrap()).write_all(b"echo re''ady\n").unwrap();
    running.wait_for("ready");
    let id = machine(&env, "out").file_name().unwrap().to_string_lossy().into_owned();
    kill(first_process(&id), Signal::SIGKILL).unwrap();
    let outcome = running.finish().expect(1);
    assert!(
        outcome.stderr.contains(&format!("machine {id:?} died: the container ended with ")),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_shell_is_opened_again_after_a_reboot_if_that_is_wanted() {
    use std::io::Write as _;
    if !root() || !installed("systemd-nspawn") {
        return;
    }
    let Some(env) = with_guest("root") else { return };
    let pty = nix::pty::openpty(None, None).unwrap();
    let mut command = env.command(env!("CARGO_BIN_EXE_mantle"));
    command.args(["kola", "spawn", "-p", "nspawn", "--output-dir=out", "--reconnect"]).stdin(pty.slave);
    let mut running = Running::within(command, Limit::MACHINES);
    let mut keys = std::fs::File::from(pty.master.try_clone().unwrap());
    // What every shell says first.
    running.wait_for("This machine is destroyed when you leave this shell");
    keys.write_all(b"sudo systemctl reboot\n").unwrap();
    running.wait_for("This machine is destroyed when you leave this shell");
    keys.write_all(b"echo ba''ck\nexit\n").unwrap();
    running.wait_for("back");
    let outcome = running.finish().expect(0);
    assert!(outcome.stderr.contains("; waiting for the machine, Ctrl-C ends that\n"), "{}", outcome.stderr);
}

#[test]
fn a_panic_on_the_console_of_a_container_ends_its_test() {
    use std::io::Write as _;
    if !root() || !installed("systemd-nspawn") {
        return;
    }
    let Some(env) = with_guest("root") else { return };
    let kola = idling(&env, &["-p", "nspawn"]);
    let console = machine(&env, IDLE).join("console.txt");
    let mut console = std::fs::OpenOptions::new().append(true).open(console).unwrap();
    console.write_all(b"[ 9.0] Kernel panic - not syncing: as planned\r\n").unwrap();
    let (last, text) = told(kola);
    assert!(last.ends_with(" was given up: kernel panic (as planned) on the console:"), "{last}");
    assert!(!text.contains("Found kernel panic"), "{text}");
}

#[test]
fn a_virtual_machine_that_is_killed_ends_its_test() {
    if !root() || !installed("qemu-system-x86_64") || !installed("qemu-img") {
        return;
    }
    let Some(env) = with_guest("guest.qcow2") else { return };
    let kola = idling(&env, &["-p", "qemu-unpriv", "--qemu-accel=tcg", "--qemu-kernel=auto"]);
    let id = machine(&env, IDLE).file_name().unwrap().to_string_lossy().into_owned();
    let qemu = processes("qemu-system-x86_64", &id);
    assert_eq!(qemu.len(), 1);
    kill(Pid::from_raw(qemu[0]), Signal::SIGKILL).unwrap();
    let (last, text) = told(kola);
    assert!(last.ends_with(&format!("machine {id:?} died: qemu ended with signal: 9 (SIGKILL)")), "{last}");
    assert!(last.contains(" (machine-died): ") && text.contains("--- INFRA: selftest.doom.idle ("), "{text}");
    for part in ["last lines of the console:", "its folder: out/selftest.doom.idle/"] {
        assert!(text.contains(part), "{text}");
    }
    until("the end of qemu", || processes("qemu-system-x86_64", &id).is_empty());
}
