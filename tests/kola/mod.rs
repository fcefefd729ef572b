//! kola, as people run it: on scripted machines, and, where this machine can, in containers and virtual machines.
#![cfg(feature = "test-platform")]

mod causes;
mod deaths;
mod errors;
mod external;
mod interrupt;
mod leftovers;
mod listing;
mod merged;
mod partition;
mod programs;
mod results;
mod updates;
mod warm;

use std::path::PathBuf;

use nix::sys::signal::Signal;
use regex::Regex;

use crate::support::guard::{self, Limit};
use crate::support::{Env, Outcome, Running};

/// An environment in which the scripted platform is open to use.
fn env() -> Env {
    let mut env = Env::new();
    env.set("MANTLE_TEST_PLATFORM", "1");
    env
}

/// Runs tests on scripted machines, whose system says that it is Debian.
fn run(env: &Env, args: &[&str]) -> Outcome {
    env.mantle(&[&["kola", "run", "-p", "scripted", "-b", "debian"], args].concat())
}

/// As [`run`], with a plan for the machines.
fn planned(env: &Env, plan: &str, args: &[&str]) -> Outcome {
    let plan = env.write("plan.json", plan);
    run(env, &[&["--scripted-plan", plan.to_str().unwrap()], args].concat())
}

/// The result text or a report without what differs from run to run: durations, places in the sources, and the home folder.
fn constant(env: &Env, text: &str) -> String {
    let mut text = text.replace(&*env.home().to_string_lossy(), "~");
    for (pattern, word) in [
        (r"\(\d+\.\d\ds\)", "(<time>)"),
        (r"(?m) in \d+ s$", " in <time>"),
        (r#""duration":\d+"#, r#""duration":<time>"#),
        (r#"(time|timestamp)="[^"]*""#, r#"$1="<time>""#),
        (r"(\w+\.rs):\d+(:\d+)?", "$1:<line>"),
        (r"/[^ ]*/applets/", "applets/"),
        (r"about \d+ times slower", "about <n> times slower"),
        (r"accepted are .*\bqemu-unpriv\b.*", "accepted are <platforms>"),
        (r#" at path "[^"]*""#, ""),
        (r"/tmp/mantle-test-\w+/", "<env>/"),
        (r"scripted-\d{4}-\d\d-\d\d-\d{4}-\d+", "scripted-<now>"),
        (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<uuid>"),
    ] {
        text = Regex::new(pattern).unwrap().replace_all(&text, word).into_owned();
    }
    text
}

/// A report of a run into the default folder.
fn report(env: &Env, name: &str) -> String {
    std::fs::read_to_string(env.home().join("_kola_temp/scripted-latest").join(name)).unwrap()
}

/// Whether this process is root; says so if it is not, for tests that must skip then.
fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: not root");
    }
    root
}

/// Mantle's own guest, outside of the sealed environment; says so if there is none, for tests that must skip then.
fn guest(file: &str) -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let folder = set("MANTLE_GUEST_DIR").or_else(|| {
        let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|h| h.join(".cache")))?;
        Some(cache.join("mantle/guest"))
    })?;
    let found = ["full", "base"].map(|v| folder.join(v)).into_iter().find(|d| d.join(file).exists());
    if found.is_none() {
        println!("skipped: no {file} in {} (tests/guest/build.sh makes one)", folder.display());
        return None;
    }
    Some(folder)
}

/// Waits for something that takes a moment.
#[track_caller]
fn until(what: &str, done: impl FnMut() -> bool) {
    guard::wait(what, Limit::MACHINES, done);
}

/// A kola that runs, its stderr in a file that can be looked at meanwhile.
struct Kola {
    running: Running,
    log: PathBuf,
}

impl Kola {
    /// Starts it; stderr also gets everything at level DEBUG.
    fn start(env: &Env, args: &[&str]) -> Self {
        let log = env.home().join("stderr");
        std::fs::write(&log, "").unwrap();
        let script = "exec \"$@\" 2>>\"$HOME/stderr\"";
        let binary = env!("CARGO_BIN_EXE_mantle");
        let words = [&["-c", script, "sh", binary, "kola", "-d"], args].concat();
        let mut command = env.command("/bin/sh");
        command.args(words);
        Self { running: Running::within(command, Limit::MACHINES), log }
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// Waits until a text is on stderr.
    #[track_caller]
    fn wait_for(&self, text: &str) {
        until(text, || self.log().contains(text));
    }

    fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// Waits for the end.
    fn finish(self) -> Outcome {
        let log = self.log.clone();
        let mut outcome = self.running.finish();
        outcome.stderr = String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned();
        outcome
    }
}

#[test]
fn tests_of_kola_itself_are_not_shown_to_people() {
    let plain = Env::new();
    let listed = plain.mantle(&["kola", "list"]).expect(0).stdout;
    assert!(!listed.contains("selftest."), "{listed}");
    assert!(!plain.mantle(&["kola", "run", "--help"]).expect(0).stdout.contains("scripted"));
    let outcome = plain.mantle(&["kola", "run", "-p", "scripted", "selftest.pass"]);
    assert!(outcome.code != 0, "{outcome:?}");
}
