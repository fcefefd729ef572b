//! Machines that go on from the state of one that has booted.

use super::{env, planned};
use crate::support::{Env, Outcome};

const TESTS: [&str; 5] = ["--warm", "selftest.fail", "selftest.pass", "selftest.reboot", "selftest.skip"];

fn warm(env: &Env, plan: &str) -> Outcome {
    planned(env, plan, &TESTS).expect(1)
}

/// What the consoles of a test's machines say, joined.
fn consoles(env: &Env, test: &str) -> String {
    let folder = env.home().join("_kola_temp/scripted-latest").join(test);
    let machines = std::fs::read_dir(folder).unwrap().map(|machine| machine.unwrap().path());
    machines.map(|machine| std::fs::read_to_string(machine.join("console.txt")).unwrap_or_default()).collect()
}

/// The results as the reports have them.
fn results(env: &Env) -> String {
    std::fs::read_to_string(env.home().join("_kola_temp/scripted-latest/test.tap")).unwrap()
}

#[test]
fn one_machine_boots_and_the_others_go_on_from_its_state() {
    let env = env();
    let cold = planned(&env, r#"{"console": "booted\n"}"#, &TESTS[1..]).expect(1);
    assert!(!cold.stderr.contains("boot"), "{}", cold.stderr);
    let expected = results(&env);
    let outcome = warm(&env, r#"{"console": "booted\n"}"#);
    assert_eq!(results(&env), expected);
    let line = "kola: 4 of 4 tests need one kind of machine, which boots once";
    assert!(outcome.stderr.contains(line), "{}", outcome.stderr);
    for test in &TESTS[1..] {
        assert_eq!(consoles(&env, test), "booted\nwoken\n", "{test}");
    }
    // The one that booted left nothing.
    assert!(!env.home().join("_kola_temp/scripted-latest/_warm").exists());
}

#[test]
fn what_has_no_state_boots_and_the_reason_is_told_once() {
    let env = env();
    let outcome = warm(&env, r#"{"console": "booted\n", "save_error": "no room"}"#);
    assert_eq!(outcome.stderr.matches("platform: machines boot: no room\n").count(), 1, "{}", outcome.stderr);
    assert_eq!(consoles(&env, "selftest.pass"), "booted\n");
    let outcome = warm(&env, r#"{"console": "booted\n", "wake_error": "bad state"}"#);
    let line = "platform: a machine boots, as its state is of no use: bad state\n";
    assert_eq!(outcome.stderr.matches(line).count(), 4, "{}", outcome.stderr);
    assert_eq!(consoles(&env, "selftest.pass"), "booted\n");
}

#[test]
fn a_machine_that_cannot_be_made_one_of_its_own_is_replaced() {
    let env = env();
    let plan = r#"{"console": "booted\n",
        "answers": [{"command": "/etc/machine-id", "status": 1, "stderr": "read-only"}]}"#;
    let outcome = warm(&env, plan);
    assert!(results(&env).contains("ok - selftest.pass\n"), "{}", outcome.stderr);
    let line =
        "a machine boots, as its state is of no use: machine \"scripted-1\" failed to become one of its own";
    assert!(outcome.stderr.contains(line), "{}", outcome.stderr);
}

#[test]
fn machines_alone_of_their_kind_boot() {
    let env = env();
    let plan = r#"{"console": "booted\n"}"#;
    let outcome = planned(&env, plan, &["--warm", "selftest.pass", "selftest.two"]).expect(0);
    assert!(outcome.stderr.contains("kola: all tests boot machines of their own"), "{}", outcome.stderr);
    assert_eq!(consoles(&env, "selftest.pass"), "booted\n");
    assert_eq!(consoles(&env, "selftest.two"), "booted\nbooted\n");
}
