//! Parts of a suite, on machines that know nothing of each other.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use super::{env, planned, report};
use crate::support::{Env, Outcome};

const PLAN: &str = r#"{"answers": [{"command": "KOLA_TEST=", "stdout": "passed"}]}"#;

/// Programs of project p, which pass on scripted machines.
fn programs(env: &Env, names: impl IntoIterator<Item = String>, metadata: &str) {
    for name in names {
        let path = env.write(&format!("p/tests/kola/{name}"), &format!("#!/bin/sh\n{metadata}"));
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn run(env: &Env, args: &[&str]) -> Outcome {
    planned(env, PLAN, &[&["-E", "p", "ext.*"], args].concat())
}

/// The top-level tests of the last run.
fn ran(env: &Env) -> Vec<String> {
    let json: Value = serde_json::from_str(&report(env, "reports/report.json")).unwrap();
    // Without tests it is null.
    let tests = json["tests"].as_array().into_iter().flatten();
    tests.map(|test| test["name"].as_str().unwrap().to_owned()).collect()
}

/// How often each test runs in all parts.
fn all(env: &Env, parts: impl IntoIterator<Item = String>, args: &[&str]) -> BTreeMap<String, usize> {
    let mut runs = BTreeMap::new();
    for part in parts {
        run(env, &[&["--partition", &part], args].concat()).expect(0);
        for name in ran(env) {
            *runs.entry(name).or_default() += 1;
        }
    }
    runs
}

fn parts(by: &str, of: usize) -> impl Iterator<Item = String> {
    (1..=of).map(move |part| format!("{by}:{part}/{of}"))
}

#[test]
fn every_scheme_runs_every_test_once() {
    let env = env();
    programs(&env, (0..9).map(|n| format!("t{n}")), "");
    env.write("times.json", r#"{"scripted": {"ext.p.t3": 8, "ext.p.t4": 1, "ext.p.t5": 1.5}}"#);
    let once: BTreeMap<String, usize> = (0..9).map(|n| (format!("ext.p.t{n}"), 1)).collect();
    for by in ["count", "hash", "slice", "weighted"] {
        assert_eq!(all(&env, parts(by, 3), &["--durations=times.json"]), once, "{by}");
    }
    // The longest is alone with what takes no longer than the others: 8 + 1.5 s, 5 of 1.5 s, 1.5 + 1 s and the rest.
    run(&env, &["--partition=weighted:1/3", "--durations=times.json"]).expect(0);
    assert_eq!(ran(&env), ["ext.p.t3"]);
    run(&env, &["--partition=slice:2/3"]).expect(0);
    let mut middle = ran(&env);
    middle.sort();
    assert_eq!(middle, ["ext.p.t3", "ext.p.t4", "ext.p.t5"]);
    // The other name.
    run(&env, &["--sharding=hash:2/3"]).expect(0);
    let old = ran(&env);
    run(&env, &["--partition=hash:2/3"]).expect(0);
    assert_eq!(ran(&env), old);
    // Runs of one test need not be on one machine.
    let copies = all(&env, parts("count", 2), &["--multiply=2", "--denylist-test=ext.p.t[1-9]"]);
    assert_eq!(copies, BTreeMap::from([("ext.p.t00".to_owned(), 1), ("ext.p.t01".to_owned(), 1)]));
}

#[test]
fn tests_that_share_a_machine_stay_together() {
    let env = env();
    programs(&env, (0..3).map(|n| format!("alone{n}")), "");
    programs(&env, (0..3).map(|n| format!("shares{n}")), "## kola:\n##   exclusive: false\n");
    let runs = all(&env, parts("count", 2), &[]);
    let names: Vec<&str> = runs.keys().map(String::as_str).filter(|name| !name.contains('/')).collect();
    assert_eq!(names, ["ext.p.alone0", "ext.p.alone1", "ext.p.alone2", "non-exclusive-test-bucket-0"]);
    assert!(runs.values().all(|n| *n == 1), "{runs:?}");
}

#[test]
fn the_engine_says_which_part_it_is() {
    let mut env = env();
    programs(&env, (0..4).map(|n| format!("t{n}")), "");
    let outcome = run(&env, &["--partition=count"]).expect(3);
    assert!(outcome.stderr.contains("nothing says which part"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("--partition count:M/N"), "{}", outcome.stderr);
    env.set("JOB_COMPLETION_INDEX", "1");
    let outcome = run(&env, &["--partition=count"]).expect(3);
    assert!(outcome.stderr.contains("MANTLE_SHARDS to the Job's completions"), "{}", outcome.stderr);
    env.set("MANTLE_SHARDS", "2");
    let outcome = run(&env, &["--partition=count"]).expect(0);
    let told = "part count:2/2, as the environment says, Kubernetes (JOB_COMPLETION_INDEX=1, MANTLE_SHARDS=2): 2 of 4 tests";
    assert!(outcome.stderr.contains(told), "{}", outcome.stderr);
    assert_eq!(ran(&env), ["ext.p.t1", "ext.p.t3"]);
    env.set("SLURM_ARRAY_TASK_ID", "1").set("SLURM_ARRAY_TASK_MIN", "1").set("SLURM_ARRAY_TASK_MAX", "2");
    let outcome = run(&env, &["--partition=count"]).expect(3);
    assert!(outcome.stderr.contains("contradict each other"), "{}", outcome.stderr);
    // Who says it is right.
    let outcome = run(&env, &["--partition=count:1/4"]).expect(0);
    assert!(outcome.stderr.contains("part count:1/4, as asked for: 1 of 4 tests"), "{}", outcome.stderr);
    env.unset("JOB_COMPLETION_INDEX").set("SLURM_ARRAY_TASK_COUNT", "3");
    let outcome = run(&env, &["--partition=count"]).expect(3);
    assert!(outcome.stderr.contains("has gaps"), "{}", outcome.stderr);
}

#[test]
fn weighted_needs_durations_that_all_machines_have() {
    let env = env();
    programs(&env, (0..3).map(|n| format!("t{n}")), "");
    let outcome = run(&env, &["--partition=weighted:1/2"]).expect(2);
    assert!(outcome.stderr.contains("needs --durations FILE"), "{}", outcome.stderr);
    let with = |text: &str, args: &[&str]| {
        env.write("times.json", text);
        run(&env, &[args, &["--durations=times.json"]].concat())
    };
    let outcome = with("{}", &["--partition=weighted:1/2"]).expect(0);
    assert!(outcome.stderr.contains("2 of 3 tests, by the durations of 0"), "{}", outcome.stderr);
    for text in ["[]", r#"{"scripted": {"ext.p.t1": -1}}"#, r#"{"scripted": {"ext.p.t1": 1e300}}"#] {
        with(text, &["--partition=weighted:1/2"]).expect(1);
    }
    run(&env, &["--durations=missing.json"]).expect(1);
    // They say what begins, too.
    let times = r#"{"scripted": {"ext.p.t0": 1, "ext.p.t1": 3, "ext.p.t2": 2}}"#;
    let outcome = with(times, &["--order=longest"]).expect(0);
    assert!(outcome.stderr.contains("(3 of 3 timed)"), "{}", outcome.stderr);
    let started: Vec<_> = outcome.stdout.lines().filter_map(|l| l.strip_prefix("=== RUN   ")).collect();
    assert_eq!(started, ["ext.p.t1", "ext.p.t2", "ext.p.t0"]);
}

#[test]
fn a_part_without_tests_succeeds_and_reports() {
    let env = env();
    programs(&env, ["t0".to_owned()], "");
    let outcome = run(&env, &["--partition=count:2/2"]).expect(0);
    assert!(outcome.stdout.contains("no tests here"), "{}", outcome.stdout);
    assert!(ran(&env).is_empty());
    run(&env, &["--partition=count:2/2", "--denylist-test=ext.*"]).expect(0);
    assert!(ran(&env).is_empty());
}

/// The image's version is asked for by all parts, or by none: otherwise they have different tests.
#[test]
fn parts_agree_on_the_tests_of_an_image() {
    let env = env();
    programs(&env, (0..2).map(|n| format!("t{n}")), "");
    env.write("list.yaml", "- pattern: ext.p.t0\n  osversion: [\"*\"]\n");
    let part = |part: &str| run(&env, &["--denylist-file=list.yaml", "--partition", part]).expect(0).stderr;
    // t0, which would make them ask, is in the first part.
    let said = part("count:2/2");
    assert!(said.contains("part count:2/2, as asked for: 0 of 1 tests"), "{said}");
    assert!(ran(&env).is_empty());
    part("count:1/2");
    assert_eq!(ran(&env), ["ext.p.t1"]);
}
