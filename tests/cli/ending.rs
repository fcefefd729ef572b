//! How a process ends: exit statuses, signals, closed pipes, panics.

use nix::sys::signal::Signal;

use crate::support::{Env, snapshot, toy};

#[test]
fn the_kind_of_error_chooses_the_status() {
    let mut env = Env::new();
    env.set("RUST_BACKTRACE", "1"); // as in CI: no stack trace for an error all the same
    for (how, code) in [("well", 0), ("nowhere", 1), ("usage", 2), ("refused", 3), ("warned", 77)] {
        let outcome = toy::run(&env, &["toy", "end", how]).expect(code);
        if (1..=3).contains(&code) {
            snapshot(&format!("cli/end-{how}"), &outcome.stderr, &[]);
        }
        assert_eq!(outcome.stdout, "");
    }
    let outcome = toy::run(&env, &["toy", "-d", "end", "nowhere"]).expect(1);
    assert!(outcome.stderr.contains("BACKTRACE"), "{}", outcome.stderr);
}

#[test]
fn a_panic_ends_the_process_although_a_thread_is_stuck() {
    let outcome = toy::run(&Env::new(), &["toy", "end", "panic"]).expect(1);
    assert!(outcome.stderr.contains("toy is broken"), "{}", outcome.stderr);
}

#[test]
fn the_first_signal_cleans_up() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let mut toy = toy::start(&Env::new(), &["toy", "wait"]);
        toy.wait_for("ready");
        toy.signal(signal);
        let outcome = toy.finish().expect(code);
        assert!(outcome.stdout.contains("cleaning up"), "{}", outcome.stdout);
        assert!(outcome.stderr.contains("press Ctrl-C again"), "{}", outcome.stderr);
        assert!(!outcome.stderr.contains("Error"), "{}", outcome.stderr);
    }
}

#[test]
fn the_second_signal_leaves_and_says_what_is_left() {
    let mut toy = toy::start(&Env::new(), &["toy", "wait", "--stubborn"]);
    toy.wait_for("ready");
    toy.signal(Signal::SIGINT);
    toy.wait_for("cleaning up");
    toy.signal(Signal::SIGINT);
    let outcome = toy.finish().expect(130);
    assert!(outcome.stderr.contains("the ledger is in /toy/ledger"), "{}", outcome.stderr);
}

#[test]
fn a_full_disk_is_an_error_with_its_cause() {
    let env = Env::new();
    for args in [
        &["kola", "version"][..],
        &["--version"],
        &["--help"],
        &["kola", "run", "--help"],
        &["--list"],
        &["kola", "list"],
        &["kola", "check-console", "--list"],
        &["config", "show"],
        &["plume", "channels"],
        &["install", "-n"],
    ] {
        let mut command = env.command(env!("CARGO_BIN_EXE_mantle"));
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let outcome = command.args(args).stdout(full).output().unwrap();
        let said = String::from_utf8(outcome.stderr).unwrap();
        assert_eq!(outcome.status.code(), Some(1), "{args:?}: {said}");
        let text = "Error: cannot write to standard output: No space left on device (os error 28)\n";
        assert_eq!(said, text, "{args:?}");
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut toy = toy::start(&Env::new(), &["toy", "flood"]);
    toy.wait_for("water");
    let outcome = toy.hang_up().expect(0);
    assert_eq!(outcome.stderr, "");
    // in a shell, as people do it
    let env = Env::new();
    let script = format!("set -o pipefail; {} kola --help | head -n1", env!("CARGO_BIN_EXE_mantle"));
    let outcome = env.start("/bin/bash".as_ref(), &["-c", &script]).finish().expect(0);
    assert_eq!((outcome.stdout.lines().count(), outcome.stderr.as_str()), (1, ""));
}

#[test]
fn a_full_disk_is_an_error() {
    if !std::path::Path::new("/dev/full").exists() {
        println!("skipped: no /dev/full");
        return;
    }
    let env = Env::new();
    let script = format!("{} --list >/dev/full", env!("CARGO_BIN_EXE_mantle"));
    let outcome = env.start("/bin/sh".as_ref(), &["-c", &script]).finish().expect(1);
    assert!(outcome.stderr.contains("cannot write to standard output"), "{}", outcome.stderr);
}
