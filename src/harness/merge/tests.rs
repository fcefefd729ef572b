//! What a merge makes of events.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::*;

const TIME: &str = "2026-11-29T12:00:00.000Z";

/// The events of one process.
struct Events(String);

impl Events {
    fn begin(part: usize, of: usize, attempt: &str, names: &[&str]) -> Self {
        let selection = Selection::of(names.iter().map(|n| (*n).to_owned()).collect());
        let start = json!({
            "time": TIME, "event": "run-started", "mantle": "0.13.0", "platform": "qemu", "version": "1.2.3",
            "planned": 1, "attempt": attempt, "by": "hash", "part": part, "of": of,
            "selected": names.len(), "digest": selection.digest,
        });
        Self(format!("{start}\n"))
    }

    fn line(mut self, line: Value) -> Self {
        let mut line = line;
        line["time"] = TIME.into();
        let _ = writeln!(self.0, "{line}");
        self
    }

    fn started(self, name: &str) -> Self {
        self.line(
            json!({"event": "test-started", "at": 1.0, "name": name, "depth": name.matches('/').count()}),
        )
    }

    fn ended(self, name: &str, outcome: &str, more: Value) -> Self {
        let mut line = json!({
            "event": "test-ended", "at": 2.0, "name": name, "depth": name.matches('/').count(),
            "outcome": outcome, "seconds": 1.5, "output": format!("output of {name}\n"),
        });
        for (key, value) in more.as_object().unwrap() {
            line[key] = value.clone();
        }
        self.line(line)
    }

    fn test(self, name: &str, outcome: &str) -> Self {
        self.started(name).ended(name, outcome, json!({}))
    }

    fn end(self, result: &str, more: Value) -> Self {
        let mut line = json!({"event": "run-ended", "at": 3.0, "result": result, "counts": {}, "left": []});
        for (key, value) in more.as_object().unwrap() {
            line[key] = value.clone();
        }
        self.line(line)
    }
}

struct World {
    dir: tempfile::TempDir,
    names: Vec<&'static str>,
}

impl World {
    fn new(names: &[&'static str]) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), names: names.to_vec() }
    }

    fn begin(&self, part: usize, of: usize, attempt: &str) -> Events {
        Events::begin(part, of, attempt, &self.names)
    }

    fn source(&self, name: &str, events: Events) -> Source {
        let folder = self.dir.path().join(name);
        let reports = folder.join(report::REPORTS);
        std::fs::create_dir_all(&reports).unwrap();
        std::fs::write(reports.join(report::EVENTS), events.0).unwrap();
        std::fs::write(reports.join(report::SELECTION), serde_json::to_string(&self.names).unwrap()).unwrap();
        let files = Files::Folder(folder.clone(), String::new());
        Source { name: name.to_owned(), folder, files, stored: None }
    }

    /// The outcomes and reasons in report.json and junit.xml, as far as they have them.
    fn write(&self, merge: &Merge) -> (BTreeMap<String, String>, String) {
        let out = self.dir.path().join("out");
        prepare(&out).unwrap();
        merge.write(&out).unwrap();
        let report = std::fs::read(out.join("reports/report.json")).unwrap();
        let report: Value = serde_json::from_slice(&report).unwrap();
        let of = |test: &Value, key: &str| test[key].as_str().unwrap().to_owned();
        let tests = report["tests"].as_array().unwrap().iter();
        let tests = tests.map(|t| (of(t, "name"), of(t, "result"))).collect();
        (tests, std::fs::read_to_string(out.join("reports/junit.xml")).unwrap())
    }
}

#[test]
fn the_attempt_that_came_to_its_end_counts() {
    let world = World::new(&["a", "b", "c"]);
    let sources = vec![
        world.source("1", world.begin(1, 2, "x").test("a", "PASS").end("PASS", json!({}))),
        world.source("2-killed", world.begin(2, 2, "y").test("b", "FAIL").started("c").test("c/sub", "FAIL")),
        world.source(
            "2-interrupted",
            world
                .begin(2, 2, "z")
                .test("b", "INTERRUPTED")
                .ended("c", "SKIP", json!({"reason": crate::harness::NOT_STARTED}))
                .end("FAIL", json!({"interrupted": true})),
        ),
    ];
    let merge = read(sources.clone()).unwrap();
    // What was killed has come further than what was interrupted at once.
    assert!(!merge.passed());
    let (tests, junit) = world.write(&merge);
    let is = |of: &[(&str, &str)]| of.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    assert_eq!(tests, is(&[("a", "PASS"), ("b", "FAIL"), ("c", "INFRA")]));
    assert!(junit.contains("part 2 of 2 (2-killed) was killed while it ran"), "{junit}");
    let last = world.source(
        "2-last",
        world
            .begin(2, 2, "w")
            .test("b", "PASS")
            .test("c/sub", "PASS")
            .test("c", "PASS")
            .end("PASS", json!({})),
    );
    let merge = read(sources.iter().cloned().chain([last]).collect()).unwrap();
    assert!(merge.passed(), "{:?}", merge.problems());
    let (tests, _) = world.write(&merge);
    assert_eq!(tests, is(&[("a", "PASS"), ("b", "PASS"), ("c", "PASS"), ("c/sub", "PASS")]));
    // One that was interrupted alone: what it did not begin ran nowhere.
    let merge = read(vec![sources[0].clone(), sources[2].clone()]).unwrap();
    let (tests, junit) = world.write(&merge);
    assert_eq!(tests, is(&[("a", "PASS"), ("b", "INTERRUPTED"), ("c", "INFRA")]));
    assert!(junit.contains("part 2 of 2 (2-interrupted) was interrupted before it began"), "{junit}");
}

#[test]
fn tests_that_were_run_again_have_all_their_runs() {
    let world = World::new(&["a"]);
    let again = json!({"again": 1, "kind": "flaky", "reason": "the first"});
    let events = world
        .begin(1, 1, "x")
        .test("a/sub", "FAIL")
        .started("a")
        .ended("a", "FAIL", json!({"kind": "panic", "reason": "the first"}))
        .started("a")
        .ended("a", "FLAKY", again)
        .end("PASS", json!({}));
    let merge = read(vec![world.source("1", events)]).unwrap();
    assert!(merge.passed());
    let (tests, junit) = world.write(&merge);
    assert_eq!(tests.keys().collect::<Vec<_>>(), ["a"]);
    assert!(junit.contains("<flakyFailure message=\"the first\" type=\"panic\">"), "{junit}");
    assert_eq!(merge.summary().flaky.len(), 1);
}

#[test]
fn a_run_that_failed_although_its_tests_passed_is_told() {
    let world = World::new(&["a"]);
    let events = |end: Value| world.begin(1, 1, "x").test("a", "PASS").end("FAIL", end);
    let merge = read(vec![world.source("1", events(json!({})))]).unwrap();
    assert!(merge.problems()[0].contains("failed, but none of its tests did"), "{:?}", merge.problems());
    let merge = read(vec![world.source("1", events(json!({"left": ["a machine"]})))]).unwrap();
    let (_, junit) = world.write(&merge);
    assert!(merge.problems().is_empty() && !merge.passed());
    assert!(junit.contains("a machine, left by the run (1)"), "{junit}");
}

#[test]
fn tests_of_two_parts_and_of_none() {
    let world = World::new(&["a", "b"]);
    let sources = vec![
        world.source("1", world.begin(1, 2, "x").test("a", "PASS").test("c", "PASS").end("PASS", json!({}))),
        world.source("2", world.begin(2, 2, "y").test("a", "FAIL").end("FAIL", json!({}))),
    ];
    let merge = read(sources).unwrap();
    let (tests, junit) = world.write(&merge);
    assert_eq!((&*tests["a"], &*tests["b"]), ("FAIL", "INFRA"));
    assert!(junit.contains("it ran 2 times: PASS in part 1 of 2 (1), FAIL in part 2 of 2 (2)"), "{junit}");
    assert!(junit.contains("it ran nowhere, though all parts are complete"), "{junit}");
    assert!(junit.contains("list of tests: c\""), "{junit}");
}

#[test]
fn what_is_not_of_one_run_is_refused() {
    let world = World::new(&["a"]);
    let other = |from: &str, to: &str| {
        let events = world.begin(2, 2, "y").end("PASS", json!({}));
        assert!(events.0.contains(from));
        let sources = vec![
            world.source("first", world.begin(1, 2, "x").test("a", "PASS").end("PASS", json!({}))),
            world.source("second", Events(events.0.replace(from, to))),
        ];
        read(sources).unwrap_err().to_string()
    };
    for (from, to, what) in [
        ("1.2.3", "4.5.6", "the version of what is tested differs, \"1.2.3\" and \"4.5.6\""),
        ("qemu", "nspawn", "the platform differs"),
        ("\"by\":\"hash\"", "\"by\":\"count\"", "the number of parts differs"),
        ("\"by\"", "\"system\":\"debian\",\"by\"", "what is tested differs"),
        ("\"by\"", "\"run\":\"night\",\"by\"", "the run differs"),
        ("\"selected\":1", "\"selected\":2", "the list of tests differs"),
    ] {
        let error = other(from, to);
        assert!(
            error.starts_with("first and second are not parts of one run") && error.contains(what),
            "{error}"
        );
    }
}

#[test]
fn links_lead_from_one_folder_to_another() {
    let of = |from: &str, to: &str| relative(Path::new(from), Path::new(to));
    assert_eq!(of("/a/b/reports", "/a/b"), "../");
    assert_eq!(of("/a/b/reports", "/a/c d/e"), "../../c%20d/e/");
    assert_eq!(of("/a", "/a"), "");
}

#[test]
fn damage_ends_what_is_read() {
    let world = World::new(&["a", "b"]);
    let mut events = world.begin(1, 1, "x").test("a", "PASS").test("b", "PASS").end("PASS", json!({}));
    let whole = events.0.clone();
    for cut in (0..whole.len()).step_by(7) {
        events.0 = whole[..cut].to_owned();
        let source = world.source("1", Events(events.0.clone()));
        match read(vec![source]) {
            Ok(merge) => {
                world.write(&merge);
                assert!(!merge.passed());
                let whole_lines = cut == 0 || whole.as_bytes()[cut - 1] == b'\n';
                assert_eq!(merge.notes().is_empty(), whole_lines, "{cut}: {:?}", merge.notes());
            }
            Err(Error::Nothing(_)) => assert!(!whole[..cut].contains('\n'), "{cut}"),
            Err(other) => panic!("{cut}: {other}"),
        }
    }
}
