//! Interrupted runs: statuses, reports, and that nothing is left behind.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Kola, env, guest, root, until};
use crate::support::{Env, Outcome, installed};

const RUN: [&str; 7] = ["run", "-p", "scripted", "-b", "debian", "--output-dir", "out"];

/// Starts a run on scripted machines.
fn start(env: &Env, plan: &str, args: &[&str]) -> Kola {
    env.write("plan.json", plan);
    Kola::start(env, &[&RUN[..], &["--scripted-plan=plan.json"], args].concat())
}

/// The reports of an interrupted run, checked for being whole: results by name.
fn reports(env: &Env) -> Vec<(String, String)> {
    let read = |name: &str| std::fs::read_to_string(env.home().join("out").join(name)).unwrap();
    let json: Value = serde_json::from_str(&read("reports/report.json")).unwrap();
    assert_eq!(json["result"], "FAIL");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let tests: Vec<_> =
        json["tests"].as_array().unwrap().iter().map(|t| (text(&t["name"]), text(&t["result"]))).collect();
    let junit = read("reports/junit.xml");
    assert!(junit.starts_with("<?xml") && junit.trim_end().ends_with("</testsuites>"), "{junit}");
    assert_eq!(junit.matches("<testcase ").count(), tests.len());
    let tap = read("test.tap");
    assert_eq!(tap.lines().next(), Some(&*format!("1..{}", tests.len())), "{tap}");
    assert_eq!(tap.lines().filter(|l| !l.starts_with('#')).count(), tests.len() + 1, "{tap}");
    let mut tests = tests;
    tests.sort();
    tests
}

/// `kola cleanup` finds nothing to do, and the temporary folder is empty.
fn clean(env: &Env) {
    let outcome = env.mantle(&["kola", "cleanup", "out"]).expect(0);
    assert_eq!(outcome.stdout, "out: nothing is left over\n");
    let temp = env.home().parent().unwrap().join("tmp");
    let left: Vec<PathBuf> = std::fs::read_dir(temp).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// What every interrupted run says.
fn told(outcome: &Outcome) {
    assert!(outcome.stderr.contains("interrupted: cleaning up; press Ctrl-C again"), "{}", outcome.stderr);
    assert_eq!(outcome.stdout.lines().last(), Some("FAIL, output in out"), "{}", outcome.stdout);
}

#[test]
fn a_hanging_test_is_interrupted() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let env = env();
        let kola = start(&env, "{}", &["selftest.fail", "selftest.hang", "selftest.pass"]);
        kola.wait_for("about to hang");
        kola.signal(signal);
        let outcome = kola.finish().expect(code);
        told(&outcome);
        let results =
            [("selftest.fail", "FAIL"), ("selftest.hang", "INTERRUPTED"), ("selftest.pass", "SKIP")];
        assert_eq!(reports(&env), results.map(|(n, r)| (n.to_owned(), r.to_owned())));
        assert!(outcome.stdout.contains("not started: the run was interrupted"), "{}", outcome.stdout);
        let junit = std::fs::read_to_string(env.home().join("out/reports/junit.xml")).unwrap();
        assert!(junit.contains("type=\"interrupted\""), "{junit}");
        assert!(env.home().join("out/properties.json").exists());
        clean(&env);
    }
}

#[test]
fn a_machine_in_the_making_is_waited_for_and_destroyed() {
    let env = env();
    let kola = start(&env, r#"{"launch_ms": 1000}"#, &["selftest.pass"]);
    until("cluster", || env.home().join("out/selftest.pass").exists());
    kola.signal(Signal::SIGINT);
    told(&kola.finish().expect(130));
    assert_eq!(reports(&env), [("selftest.pass".to_owned(), "INTERRUPTED".to_owned())]);
    let machine = env.home().join("out/selftest.pass/scripted-0");
    assert!(
        machine.join("ignition.json").exists() == machine.join("console.txt").exists(),
        "made, not destroyed"
    );
    clean(&env);
}

#[test]
fn a_machine_that_does_not_answer_holds_nothing_up() {
    for (pattern, folder) in [("selftest.pass", "selftest.pass"), ("selftest.*", "get_cluster_semver")] {
        let env = env();
        let kola = start(&env, r#"{"silent": true}"#, &[pattern]);
        let machine = env.home().join("out").join(folder).join("scripted-0");
        until("machine", || machine.join("ignition.json").exists());
        let start = Instant::now();
        kola.signal(Signal::SIGINT);
        told(&kola.finish().expect(130));
        // less than the ten minutes that a boot may take
        assert!(start.elapsed().as_secs() < 500);
        assert!(machine.join("console.txt").exists(), "made, not destroyed");
        assert!(reports(&env).iter().all(|(_, result)| result != "PASS"));
        clean(&env);
    }
}

#[test]
fn spawned_machines_go_too() {
    let env = env();
    env.write("plan.json", r#"{"silent": true}"#);
    let args = ["spawn", "-p", "scripted", "-b", "debian", "--scripted-plan=plan.json", "--output-dir=out"];
    let kola = Kola::start(&env, &args);
    until("machine", || env.home().join("out/scripted-0/ignition.json").exists());
    kola.signal(Signal::SIGINT);
    let outcome = kola.finish().expect(130);
    assert!(!outcome.stderr.contains("Error"), "{}", outcome.stderr);
    assert!(env.home().join("out/scripted-0/console.txt").exists(), "made, not destroyed");
    clean(&env);
}

#[test]
fn the_second_signal_leaves_at_once() {
    for (second, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let env = env();
        // A launch is never cut in two, so this one keeps kola for an hour.
        let kola = start(&env, r#"{"launch_ms": 3600000}"#, &["selftest.lacking", "selftest.pass"]);
        until("cluster", || env.home().join("out/selftest.pass").exists());
        until("report", || env.home().join("out/reports/junit.xml").exists());
        kola.signal(Signal::SIGINT);
        kola.wait_for("press Ctrl-C again");
        kola.signal(second);
        let outcome = kola.finish().expect(code);
        let out = env.home().join("out");
        assert!(
            outcome.stderr.contains(&format!("`kola cleanup {}` removes what is left", out.display())),
            "{}",
            outcome.stderr
        );
        // what is known by then is in the reports
        let json: Value =
            serde_json::from_slice(&std::fs::read(out.join("reports/report.json")).unwrap()).unwrap();
        assert_eq!((&json["result"], &json["tests"][0]["result"]), (&"FAIL".into(), &"SKIP".into()));
        sweep(&env, &["removed folder "]);
    }
}

/// `kola cleanup` removes these, and nothing the second time.
fn sweep(env: &Env, removed: &[&str]) {
    let outcome = env.mantle(&["kola", "cleanup", "out"]).expect(0);
    let kinds: BTreeSet<&str> = outcome.stdout.lines().filter_map(|l| l.get(..l.rfind(' ')? + 1)).collect();
    assert_eq!(kinds, BTreeSet::from_iter(removed.iter().copied()), "{}", outcome.stdout);
    assert_eq!(outcome.stderr, "");
    clean(env);
}

#[test]
fn what_a_killed_run_left_is_removed() {
    let env = env();
    let kola = start(&env, "{}", &["selftest.hang"]);
    kola.wait_for("about to hang");
    kola.signal(Signal::SIGKILL);
    kola.finish().expect(-9);
    sweep(&env, &["removed folder ", "removed script "]);
}

/// An environment with mantle's own guest.
fn with_guest(file: &str) -> Option<Env> {
    let folder = guest(file)?;
    let mut env = Env::new();
    env.set("MANTLE_GUEST_DIR", folder);
    Some(env)
}

/// Everything on this host that bears the name of the run's folder or of one of its machines.
fn leftovers(env: &Env) -> Vec<String> {
    let out = env.home().join("out");
    let mut names = vec![out.display().to_string()];
    let mut sockets = Vec::new();
    walk(&out, 3, &mut |path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.len() == 36 && name.matches('-').count() == 4 {
            names.push(name.replace('-', ""));
            names.push(name);
        } else if name == "qmp.sock" {
            sockets.push(path.display().to_string());
        }
    });
    let ours = |text: &str| names.iter().any(|name| text.contains(name));
    let mut found = sockets;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        if ours(&words) {
            found.push(format!("process {}: {words}", entry.file_name().display()));
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(mounts.lines().filter(|l| ours(l)).map(|l| format!("mount {l}")));
    walk(Path::new("/sys/fs/cgroup"), 8, &mut |path| {
        if path.is_dir() && ours(&path.file_name().unwrap().to_string_lossy()) {
            found.push(format!("group {}", path.display()));
        }
    });
    found
}

/// Visits everything below a folder that is not too deep; links are not followed.
fn walk(folder: &Path, depth: usize, visit: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        visit(&entry.path());
        if depth > 1 && entry.file_type().is_ok_and(|t| t.is_dir()) {
            walk(&entry.path(), depth - 1, visit);
        }
    }
}

/// The first folder of a machine of a test.
fn machine(env: &Env, test: &str) -> Option<PathBuf> {
    let folders = std::fs::read_dir(env.home().join("out").join(test)).ok()?;
    folders.flatten().map(|e| e.path()).find(|p| p.is_dir())
}

/// Whether a run has come to the moment at which it is to be interrupted.
type Reached = fn(&Env, &Kola) -> bool;

/// Interrupts a run of one test at some moment.
fn interrupted(env: &Env, args: &[&str], test: &str, moment: &dyn Fn(&Kola) -> bool) {
    let _ = std::fs::remove_dir_all(env.home().join("out"));
    let kola = Kola::start(env, &[&["run", "--output-dir=out"], args, &[test]].concat());
    until("the moment", || moment(&kola));
    kola.signal(Signal::SIGINT);
    told(&kola.finish().expect(130));
    assert_eq!(leftovers(env), Vec::<String>::new());
    reports(env);
    clean(env);
}

/// Kills a run of one test at some moment.
fn killed(env: &Env, args: &[&str], test: &str, moment: &dyn Fn(&Kola) -> bool, removed: &[&str]) {
    let _ = std::fs::remove_dir_all(env.home().join("out"));
    let kola = Kola::start(env, &[&["run", "--output-dir=out"], args, &[test]].concat());
    until("the moment", || moment(&kola));
    kola.signal(Signal::SIGKILL);
    kola.finish().expect(-9);
    until("processes end with kola", || leftovers(env).iter().all(|l| !l.starts_with("process")));
    sweep(env, removed);
    let left: Vec<String> = leftovers(env).into_iter().filter(|l| !l.ends_with("qmp.sock")).collect();
    assert_eq!(left, Vec::<String>::new());
}

fn recorded(env: &Env) -> bool {
    std::fs::read_to_string(env.home().join("out/resources.jsonl")).is_ok_and(|t| t.contains("folder"))
}

fn console(env: &Env, test: &str) -> String {
    let console = machine(env, test).and_then(|m| std::fs::read(m.join("console.txt")).ok());
    String::from_utf8_lossy(&console.unwrap_or_default()).into_owned()
}

/// A test that takes a while, as it reboots its machine.
const CONTAINER: &str = "coreos.ignition.v2.once";

#[test]
fn containers_leave_nothing() {
    if !root() || !installed("systemd-nspawn") {
        return;
    }
    let moments: [Reached; 4] = [
        |env, _| recorded(env),
        |_, kola| kola.log().contains(" is process "),
        |env, _| leftovers(env).iter().any(|l| l.contains("systemd-nspawn")),
        |_, kola| kola.log().contains(" is running"),
    ];
    let Some(env) = with_guest("root") else { return };
    for moment in moments {
        interrupted(&env, &["-p", "nspawn"], CONTAINER, &|kola| moment(&env, kola));
    }
}

#[test]
fn killed_containers_leave_nothing_after_clean_up() {
    if !root() || !installed("systemd-nspawn") {
        return;
    }
    let Some(env) = with_guest("root") else { return };
    let moment = |_: &Kola| leftovers(&env).iter().any(|l| l.contains("systemd-nspawn"));
    let removed = ["removed cgroup ", "removed process ", "removed folder "];
    killed(&env, &["-p", "nspawn"], CONTAINER, &moment, &removed);
}

const MACHINE: &str = "coreos.auth.verify";

#[test]
fn virtual_machines_leave_nothing() {
    if !root() || !installed("qemu-system-x86_64") || !installed("qemu-img") {
        return;
    }
    let moments: [(&str, Reached); 3] = [
        ("qemu", |env, _| recorded(env)),
        ("qemu", |env, _| machine(env, MACHINE).is_some_and(|m| m.join("qmp.sock").exists())),
        ("qemu-unpriv", |env, _| !console(env, MACHINE).is_empty()),
    ];
    let Some(env) = with_guest("guest.qcow2") else { return };
    for (platform, moment) in moments {
        let args = ["-p", platform, "--qemu-accel=tcg"];
        interrupted(&env, &args, MACHINE, &|kola| moment(&env, kola));
    }
}

#[test]
fn killed_virtual_machines_leave_nothing_after_clean_up() {
    if !root() || !installed("qemu-system-x86_64") || !installed("qemu-img") {
        return;
    }
    let Some(env) = with_guest("guest.qcow2") else { return };
    let moment = |_: &Kola| !console(&env, MACHINE).is_empty();
    killed(&env, &["-p", "qemu", "--qemu-accel=tcg"], MACHINE, &moment, &["removed folder "]);
}

/// The machines of a run that goes on are no leftovers.
#[test]
fn a_folder_that_a_run_works_in_is_left_alone() {
    let env = env();
    let kola = start(&env, "{}", &["selftest.hang"]);
    kola.wait_for("about to hang");
    env.write("disk/x", "x");
    let record = env.home().join("out/resources.jsonl");
    let line = serde_json::json!({
        "op": "create", "kind": "folder", "id": env.home().join("disk"), "platform": "scripted",
    });
    let before = std::fs::read_to_string(&record).unwrap();
    std::fs::write(&record, format!("{before}{line}\n")).unwrap();
    let refused: [&[&str]; 3] = [
        &["kola", "cleanup", "out", "--scripted-plan=plan.json"],
        &["kola", "cleanup", "./out/", "--scripted-plan=plan.json"],
        &["kola", "run", "-p", "scripted", "-b", "debian", "--output-dir=out", "selftest.pass"],
    ];
    for order in refused {
        let outcome = env.mantle(order).expect(1);
        let text =
            if order[1] == "run" { "another run is using it" } else { "another process is working in" };
        assert!(outcome.stderr.contains(text), "{order:?}: {}", outcome.stderr);
        assert!(!outcome.stdout.contains("removed"), "{order:?}: {}", outcome.stdout);
    }
    assert!(env.home().join("disk/x").exists());
    assert_eq!(std::fs::read_to_string(&record).unwrap(), format!("{before}{line}\n"));
    kola.signal(Signal::SIGINT);
    told(&kola.finish().expect(130));
    // Now it is over.
    let outcome = env.mantle(&["kola", "cleanup", "out"]).expect(0);
    assert!(outcome.stdout.contains("removed folder "), "{}", outcome.stdout);
    assert!(!env.home().join("disk").exists());
}
