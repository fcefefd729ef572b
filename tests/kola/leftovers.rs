//! What a run could not remove is said, is on record, and is in the exit status.

use super::{env, planned, run};
use crate::support::Env;

fn report(env: &Env) -> String {
    std::fs::read_to_string(env.home().join("out/reports/report.json")).unwrap()
}

#[test]
fn a_machine_that_cannot_be_destroyed() {
    let env = env();
    let plan = r#"{"destroy_error": "the hypervisor says no"}"#;
    let outcome = planned(&env, plan, &["--output-dir", "out", "selftest.pass"]).expect(1);
    let left = "script scripted-0 (scripted) is left: the hypervisor says no";
    assert!(outcome.stdout.contains("--- FAIL: selftest.pass"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains(left), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("one thing is left over"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("/out` removes what is left"), "{}", outcome.stderr);
    assert!(report(&env).contains(left), "{}", report(&env));
    // the folder is not emptied before that: the record would be lost
    let outcome = run(&env, &["--output-dir", "out", "selftest.pass"]).expect(1);
    for text in ["names one thing left over, the first is script scripted-0", "`kola cleanup out` removes"] {
        assert!(outcome.stderr.contains(text), "no {text} in {}", outcome.stderr);
    }
    assert!(env.home().join("out/test.tap").exists());
    let clean = ["kola", "cleanup", "out", "--scripted-plan=plan.json"];
    let outcome = env.mantle(&clean).expect(1);
    assert!(outcome.stderr.contains(left), "{}", outcome.stderr);
    env.write("plan.json", "{}");
    let outcome = env.mantle(&clean).expect(0);
    assert_eq!(outcome.stdout, "removed script scripted-0\n");
    planned(&env, "{}", &["--output-dir", "out", "selftest.pass"]).expect(0);
}

/// What a killed run left on this machine goes before its folder is used again.
#[test]
fn local_leftovers_go_before_the_folder_is_emptied() {
    let env = env();
    run(&env, &["--output-dir", "out", "selftest.pass"]).expect(0);
    env.write("stale/disk", "x");
    let line = serde_json::json!({
        "op": "create", "kind": "folder", "id": env.home().join("stale"), "platform": "scripted",
    });
    env.write("out/resources.jsonl", &format!("{line}\n"));
    let outcome = run(&env, &["--output-dir", "out", "selftest.pass"]).expect(0);
    assert!(outcome.stderr.contains("stale, left by a former run"), "{}", outcome.stderr);
    assert!(!env.home().join("stale").exists());
}

#[test]
fn a_machine_whose_end_hangs() {
    let mut env = env();
    env.set("MANTLE_PATIENCE", "0.001");
    let outcome =
        planned(&env, r#"{"destroy_hangs": true}"#, &["--output-dir", "out", "selftest.pass"]).expect(1);
    assert!(outcome.stdout.contains("is left: it was not gone after 300 s"), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("one thing is left over"), "{}", outcome.stderr);
}

#[test]
fn a_flight_that_cannot_be_destroyed() {
    let env = env();
    let plan = r#"{"flight_destroy_error": "its key stays"}"#;
    let outcome = planned(&env, plan, &["--output-dir", "out", "selftest.pass"]).expect(1);
    assert!(outcome.stdout.contains("--- PASS: selftest.pass"), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("(scripted) is left: its key stays"), "{}", outcome.stderr);
    let said = r#""left":["flight kola-"#;
    assert!(report(&env).contains(said), "{}", report(&env));
    let junit = std::fs::read_to_string(env.home().join("out/reports/junit.xml")).unwrap();
    assert!(junit.contains("type=\"left\""), "{junit}");
    let record = std::fs::read_to_string(env.home().join("out/resources.jsonl")).unwrap();
    assert!(record.contains(r#""kind":"flight""#), "{record}");
}

#[test]
fn machines_for_people_are_no_exception() {
    let env = env();
    let plan = env.write("plan.json", r#"{"destroy_error": "no"}"#);
    let args = ["kola", "spawn", "-p", "scripted", "-b", "debian", "--output-dir", "out", "--scripted-plan"];
    let outcome = env.mantle(&[&args[..], &[plan.to_str().unwrap()]].concat()).expect(1);
    assert!(outcome.stderr.contains("one thing is left over"), "{}", outcome.stderr);
    std::fs::remove_dir_all(env.home().join("out")).unwrap();
    // A failure of the work itself comes first.
    env.write("plan.json", r#"{"destroy_error": "no", "dies": "it caught fire"}"#);
    let outcome = env.mantle(&[&args[..], &[plan.to_str().unwrap()]].concat()).expect(1);
    let (cause, left) =
        (outcome.stderr.find("it caught fire"), outcome.stderr.find("one thing is left over"));
    assert!(cause.is_some() && cause < left, "{}", outcome.stderr);
}
