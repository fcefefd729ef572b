//! `plume release --test-gate`: kola tests images before anything is public.
#![cfg(feature = "test-platform")]

use serde_json::Value;

use super::release::anything_public;
use super::world::World;

/// A gate that runs a test of kola's own on scripted machines.
fn gate<'a>(platforms: &'a str, pattern: &'a str) -> Vec<&'a str> {
    vec![
        "--test-gate",
        platforms,
        "--test-option=--platform=scripted",
        "--test-option=-bdebian",
        "--test-pattern",
        pattern,
    ]
}

/// What the record of the release has of a step.
fn recorded(world: &World, step: &str) -> Value {
    let file = world.env.home().join(".local/state/mantle/plume/ours_alpha_amd64-usr_2.0.0.json");
    let record: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    record["steps"][step]["result"].clone()
}

#[test]
fn nothing_is_public_before_its_test_has_passed() {
    let Some(mut world) = World::new() else { return };
    world.env.set("MANTLE_TEST_PLATFORM", "1");
    world.before(&[]).expect(0);
    world.changes();
    let dry = world.release(&[&gate("aws,gce", "selftest.fail")[..], &["-n"]].concat()).expect(0);
    let would = "Would test image Ours-alpha-2.0.0-hvm in us-west-2 before it is public";
    assert!(dry.stderr.contains(would), "{}", dry.stderr);
    assert!(dry.stderr.contains("Would test image ours-alpha-2-0-0-v"), "{}", dry.stderr);

    // The tests fail: nothing was changed that anybody sees.
    let outcome = world.release(&gate("aws", "selftest.fail")).expect(1);
    let cannot = "cannot test image Ours-alpha-2.0.0-hvm in us-west-2 before it is public";
    assert!(outcome.stderr.contains(cannot), "{}", outcome.stderr);
    assert!(outcome.stdout.contains("--- FAIL: selftest.fail"), "{}", outcome.stdout);
    let record = recorded(&world, "aws/tested");
    let folder = record["folder"].as_str().unwrap();
    assert!(outcome.stderr.contains(folder), "{folder}: {}", outcome.stderr);
    assert!(std::path::Path::new(folder).join("reports/report.json").is_file(), "{folder}");
    assert!(record["refused"].as_str().unwrap().contains("exit status: 1"), "{record}");
    let outcome = world.release(&gate("gce", "selftest.fail")).expect(1);
    assert!(outcome.stderr.contains("cannot test image ours-alpha-2-0-0-v"), "{}", outcome.stderr);
    assert!(!anything_public(&world));
    let image = |world: &World| world.gce.images().into_keys().any(|name| name.starts_with("ours-alpha-2-"));
    assert!(image(&world), "it is there to be tested");
    assert!(!world.gcs.names("alpha-release").iter().any(|n| n.contains("2.0.0")));

    // They pass; what comes after them fails.
    world.asm.fail("not today");
    let outcome = world.release(&gate("aws,gce", "selftest.pass")).expect(1);
    assert!(outcome.stderr.contains("not today"), "{}", outcome.stderr);
    assert!(recorded(&world, "aws/tested").get("refused").is_none());
    // What has passed is not tested again: this test would not.
    let outcome = world.release(&gate("aws,gce", "selftest.fail")).expect(0);
    assert!(!outcome.stdout.contains("selftest"), "{}", outcome.stdout);
    world.pointers_lead_to_what_is_public();
    world.changes();
    world.release(&gate("aws,gce", "selftest.fail")).expect(0);
    assert_eq!(world.changes(), Vec::<String>::new());
}

#[test]
fn gates_of_what_is_not_released_are_refused() {
    let env = crate::support::Env::new();
    let words =
        ["plume", "release", "-B=amd64-usr", "-C=alpha", "-V=1.0.0", "--platform=gce", "--test-gate=aws"];
    let outcome = env.mantle(&words).expect(2);
    assert!(
        outcome.stderr.contains("--test-gate=aws tests what --platform leaves out"),
        "{}",
        outcome.stderr
    );
    let outcome = env.mantle(&[&words[..5], &["--test-gate=azure"]].concat()).expect(2);
    assert!(outcome.stderr.contains("azure"), "{}", outcome.stderr);
}
