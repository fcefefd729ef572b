//! Results of runs on scripted machines: text, exit status, reports, folders.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde::Serialize as _;
use serde_json::Value;

use super::{constant, env, planned, report, run};
use crate::support::emulators::judged;
use crate::support::{places, snapshot};

#[test]
fn all_reports_tell_the_same() {
    let env = env();
    let names = "selftest.fail selftest.lacking selftest.pass selftest.skip selftest.sub selftest.timeout selftest.two";
    let names: Vec<&str> = names.split(' ').collect();
    let outcome = run(&env, &names).expect(1);
    snapshot("kola/results-text", &constant(&env, &outcome.stdout), &[]);
    snapshot("kola/results-stderr", &constant(&env, &outcome.stderr), &[]);
    snapshot("kola/results-tap", &report(&env, "test.tap"), &[]);
    snapshot("kola/results-json", &constant(&env, &report(&env, "reports/report.json")), &[]);
    snapshot("kola/results-junit", &constant(&env, &report(&env, "reports/junit.xml")), &[]);
    let json: Value = serde_json::from_str(&report(&env, "reports/report.json")).unwrap();
    let results: Vec<_> = json["tests"].as_array().unwrap().iter().map(|t| t["result"].as_str()).collect();
    let count = |word| results.iter().filter(|r| **r == Some(word)).count();
    assert_eq!((count("PASS"), count("FAIL"), count("SKIP")), (3, 4, 3));
    // nothing is left, and machines have left their folders
    assert!(std::fs::read_dir(env.home().parent().unwrap().join("tmp")).unwrap().next().is_none());
    for file in ["scripted-0/ignition.json", "scripted-0/console.txt", "scripted-0/journal.txt"] {
        let folders = ["selftest.fail", "selftest.pass"]
            .map(|test| env.home().join("_kola_temp/scripted-latest").join(test));
        assert!(folders.iter().any(|f| f.join(file).exists()), "{file}");
    }
}

#[test]
fn events_fit_their_schema_and_the_page_has_what_the_reports_have() {
    let mut env = env();
    let summary = env.home().join("summary.md");
    env.set("GITHUB_ACTIONS", "true");
    env.set("GITHUB_STEP_SUMMARY", summary.to_str().unwrap());
    let outcome = run(&env, &["selftest.fail", "selftest.pass", "selftest.skip", "selftest.sub"]).expect(1);
    let folder = env.home().join("_kola_temp/scripted-latest/reports");
    let events = report(&env, "reports/events.ndjson");
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let schema: Value = serde_json::from_str(&report(&env, "reports/events.schema.json")).unwrap();
    judged("judge_events.py", &[], [schema].into_iter().chain(events.clone()));
    let kinds: Vec<&str> = events.iter().map(|e| e["event"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], kinds[1], *kinds.last().unwrap()), ("run-started", "test-started", "run-ended"));
    assert_eq!(events.last().unwrap()["counts"], serde_json::json!({"PASS": 1, "FAIL": 2, "SKIP": 1}));

    let json: Value = serde_json::from_str(&report(&env, "reports/report.json")).unwrap();
    let ended: Vec<_> = events.iter().filter(|e| e["event"] == "test-ended").collect();
    let told = |of: &Value, word: &str| (of["name"].clone(), of[word].clone(), of["output"].clone());
    let reported: Vec<_> = json["tests"].as_array().unwrap().iter().map(|t| told(t, "result")).collect();
    assert_eq!(ended.into_iter().map(|e| told(e, "outcome")).collect::<Vec<_>>(), reported);

    let page = report(&env, "reports/report.html");
    let (_, data) = page.split_once("<script id=\"data\" type=\"application/json\">").unwrap();
    let data: Value = serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap();
    let shown: Vec<_> = data["tests"].as_array().unwrap().iter().map(|t| told(t, "outcome")).collect();
    assert_eq!(shown.len(), 4);
    assert!(shown.iter().all(|test| reported.contains(test)), "{shown:?}");
    for file in data["tests"][0]["files"].as_array().unwrap() {
        assert!(folder.join(file["href"].as_str().unwrap()).exists(), "{file}");
    }

    let annotations: Vec<&str> = outcome.stdout.lines().filter(|l| l.starts_with("::")).collect();
    assert_eq!(
        annotations,
        [
            "::error title=FAIL%3A selftest.fail::as planned",
            "::error title=FAIL%3A selftest.sub::selftest.sub/second: as planned"
        ]
    );
    let summary = std::fs::read_to_string(summary).unwrap();
    assert!(
        summary.starts_with("### kola on scripted\n\n4 run: 1 passed, 2 failed, 1 skipped in "),
        "{summary}"
    );
    assert!(summary.contains("| selftest.fail | FAIL (error) | "), "{summary}");
}

/// The page as a browser draws it, without a network.
#[test]
#[ignore = "needs chromium; make check-full"]
fn the_page_is_drawn_by_a_browser() {
    let env = env();
    run(&env, &["selftest.fail", "selftest.pass", "selftest.skip", "selftest.sub"]).expect(1);
    let page = env.home().join("_kola_temp/scripted-latest/reports/report.html");
    let drawn = std::process::Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--dump-dom",
        ])
        .arg(format!("file://{}#test-3", page.canonicalize().unwrap().display()))
        .env("HOME", env.home())
        .output()
        .expect("chromium is missing: apt-get install chromium");
    let dom = String::from_utf8_lossy(&drawn.stdout);
    let rows = regex::Regex::new("<details id=\"test-\\d\"").unwrap().find_iter(&dom).count();
    assert_eq!(rows, 4, "{dom}");
    let first = dom.find("<summary>").unwrap();
    assert!(dom[first..].starts_with("<summary><span class=\"badge FAIL\">FAIL</span>"), "{}", &dom[first..]);
    for piece in [
        "2 failed</button>",
        "selftest.sub/second",
        ">4 tests</span>",
        "<title>FAIL: tests on scripted</title>",
    ] {
        assert!(dom.contains(piece), "{piece}: {dom}");
    }
    let bars = regex::Regex::new("<a class=\"(FAIL|PASS|SKIP)\" href=\"#test-\\d\"").unwrap();
    assert_eq!(bars.find_iter(&dom).count(), 4, "{dom}");
}

#[test]
fn success_is_status_0_and_pass_on_the_last_line() {
    let env = env();
    let outcome = run(&env, &["selftest.pass", "selftest.parallel", "selftest.reboot"]).expect(0);
    let last = outcome.stdout.lines().last().unwrap();
    let folder = last.strip_prefix("PASS, output in ").unwrap();
    assert!(env.home().join(folder).join("test.tap").exists(), "{last}");
    assert_eq!(outcome.stderr, "");
    assert_eq!(
        report(&env, "test.tap"),
        "1..3\nok - selftest.parallel\nok - selftest.pass\nok - selftest.reboot\n"
    );
    // parallel sub-tests end in any order, inside their parent
    let mut below: Vec<&str> = outcome.stdout.lines().filter(|l| l.starts_with("    --- PASS")).collect();
    below.sort_unstable();
    let names = below.iter().map(|l| l.trim().split(' ').nth(2).unwrap()).collect::<Vec<_>>();
    assert_eq!(names, ["selftest.parallel/a", "selftest.parallel/b", "selftest.parallel/c"]);
    // the next run moves the link
    let link = env.home().join("_kola_temp/scripted-latest");
    let first = std::fs::read_link(&link).unwrap();
    assert_eq!(first.to_str(), folder.strip_prefix("_kola_temp/"));
    run(&env, &["selftest.fail"]).expect(1);
    assert_ne!(std::fs::read_link(&link).unwrap(), first);
    assert!(report(&env, "test.tap").contains("not ok - selftest.fail"));
}

#[test]
fn a_panic_fails_its_test_only() {
    let env = env();
    let outcome = run(&env, &["selftest.panic", "selftest.pass"]).expect(1);
    snapshot("kola/results-panic", &constant(&env, &(outcome.stdout + &outcome.stderr)), &[]);
    assert!(report(&env, "reports/junit.xml").contains("type=\"panic\""));
}

#[test]
fn many_tests_at_once_give_the_same_results() {
    for parallel in ["-j4", "-j0", "-j-1"] {
        let env = env();
        let outcome =
            run(&env, &[parallel, "selftest.[^dhtv]*", "selftest.two", "selftest.timeout"]).expect(1);
        let tap = report(&env, "test.tap");
        let mut results: Vec<&str> = tap
            .lines()
            .filter(|l| !l.starts_with('#'))
            .map(|l| l.split_once(" # SKIP").map_or(l, |(line, _)| line))
            .collect();
        assert_eq!(results.remove(0), "1..10", "{}", outcome.stderr);
        results.sort_unstable();
        let expected = "not ok - selftest.fail,not ok - selftest.panic,not ok - selftest.sub,not ok - selftest.timeout,\
            ok - selftest.lacking,ok - selftest.parallel,ok - selftest.pass,ok - selftest.reboot,\
            ok - selftest.skip,ok - selftest.two";
        assert_eq!(results.join(","), expected);
    }
}

#[test]
fn properties_record_the_run() {
    let mut env = env();
    env.set("USER", "tester");
    run(&env, &["--board=amd64-usr", "selftest.pass"]).expect(0);
    let text = report(&env, "properties.json");
    let indented = |value: &Value| {
        let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut bytes = Vec::new();
        value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, format)).unwrap();
        String::from_utf8(bytes).unwrap() + "\n"
    };
    let mut value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(text, indented(&value));
    // Other platforms have their parts in it too.
    let known = ["cmdline", "platform", "distro", "board", "nspawn", "qemu", "scripted"];
    let object = value.as_object_mut().unwrap();
    object.retain(|key, _| known.contains(&&**key));
    assert_eq!(object.keys().collect::<Vec<_>>(), known);
    snapshot(
        "kola/properties",
        &constant(&env, &indented(&value)),
        &[(env!("CARGO_BIN_EXE_mantle"), "mantle")],
    );
}

#[test]
fn the_tap_file_is_copied() {
    let env = env();
    run(&env, &["--tapfile=copy.tap", "selftest.pass", "selftest.skip"]).expect(0);
    let copy = std::fs::read_to_string(env.home().join("copy.tap")).unwrap();
    assert_eq!(copy, "1..2\nok - selftest.pass\nok - selftest.skip # SKIP deep in a helper: as planned\n");
    assert_eq!(copy, report(&env, "test.tap"));
    // A run that fails is reported as such, not its copy.
    let outcome = run(&env, &["--tapfile=no/such/copy.tap", "selftest.pass"]).expect(1);
    assert!(outcome.stdout.contains("PASS, output in"), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("no/such/copy.tap"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("No such file or directory"), "{}", outcome.stderr);
}

#[test]
fn the_tap_file_is_copied_where_links_lead_or_nothing_is_run() {
    let env = env();
    let far = env.write("far/copy", "old");
    let link = env.home().join("copy.tap");
    let tap = "1..1\nok - selftest.pass\n";
    let to = |place: &str| run(&env, &["--output-dir=out", "--tapfile", place, "selftest.pass"]);
    symlink("far/copy", &link).unwrap();
    to("copy.tap").expect(0);
    assert_eq!(std::fs::read_to_string(&far).unwrap(), tap);
    assert_eq!(std::fs::read_link(&link).unwrap(), Path::new("far/copy"));
    for to in places::make(&env.home()) {
        std::fs::remove_dir_all(env.home().join("out")).unwrap();
        std::fs::remove_file(&link).unwrap();
        symlink(&to, &link).unwrap();
        let args = ["--output-dir=out", "--tapfile=copy.tap", "selftest.pass"];
        if to.starts_with("/proc") {
            let outcome = run(&env, &args).expect(0);
            assert!(outcome.stdout.contains(tap), "{}", outcome.stdout);
        } else {
            let outcome = run(&env, &args).expect(1);
            assert!(outcome.stderr.contains("cannot replace copy.tap: it "), "{to:?}: {}", outcome.stderr);
            assert!(!env.home().join("out").exists(), "{to:?}");
            std::fs::create_dir(env.home().join("out")).unwrap();
        }
        assert_eq!(std::fs::read_link(&link).unwrap(), to);
    }
    assert!(!env.home().join("nowhere").exists());
    assert!(to("-").expect(0).stdout.contains(tap));
    assert!(!env.home().join("-").exists());
}

/// Whoever can write to the output folder of the last run could have a root's run write anywhere.
#[test]
fn links_in_the_output_folder_go_and_what_they_lead_to_stays() {
    let env = env();
    run(&env, &["--output-dir=out", "selftest.pass"]).expect(0);
    let out = env.home().join("out");
    let names = ["test.tap", "properties.json", "resources.jsonl", "reports", "selftest.pass"];
    for name in names {
        let place = out.join(name);
        if place.is_dir() {
            std::fs::remove_dir_all(&place).unwrap();
        } else if place.exists() {
            std::fs::remove_file(&place).unwrap();
        }
        let far = env.write(&format!("far/{name}/console.txt"), "theirs");
        let far =
            if name.contains('.') && name != "selftest.pass" { far } else { far.parent().unwrap().into() };
        symlink(far, &place).unwrap();
    }
    run(&env, &["--output-dir=out", "selftest.pass"]).expect(0);
    for name in names {
        let kind = std::fs::symlink_metadata(out.join(name));
        assert!(kind.is_ok_and(|m| !m.is_symlink()), "{name}");
        let far: Vec<_> = std::fs::read_dir(env.home().join("far").join(name)).unwrap().collect();
        assert_eq!(far.len(), 1, "{name}: {far:?}");
        let text = std::fs::read_to_string(env.home().join("far").join(name).join("console.txt")).unwrap();
        assert_eq!(text, "theirs", "{name}");
    }
}

#[test]
fn output_folders_are_emptied_only_if_they_are_kolas_own() {
    let env = env();
    let out = env.home().join("out");
    let to = |dir: &str| run(&env, &["--output-dir", dir, "selftest.pass"]);
    let outcome = to("out").expect(0);
    assert!(outcome.stdout.ends_with("PASS, output in out\n"), "{}", outcome.stdout);
    assert!(!env.home().join("_kola_temp").exists());
    std::fs::write(out.join("old"), "").unwrap();
    to("out").expect(0); // it has the mark of a former run
    assert!(!out.join("old").exists() && out.join("test.tap").exists());

    env.write("foreign/thesis", "x");
    let outcome = to("foreign").expect(1);
    assert!(
        outcome.stderr.contains("harness: refused to remove existing output directory: foreign"),
        "{}",
        outcome.stderr
    );
    assert!(env.home().join("foreign/thesis").exists());
    env.write("_x_temp/old", "x");
    to("_x_temp").expect(1); // a name says nothing
    assert!(env.home().join("_x_temp/old").exists());
    std::fs::create_dir(env.home().join("void")).unwrap();
    to("void").expect(0);
    // a link is followed for its folder, but nothing in the folder is
    symlink(env.home().join("foreign"), out.join("link")).unwrap();
    to("out").expect(0);
    assert!(env.home().join("foreign/thesis").exists() && !out.join("link").exists());
    for current in [".", "./", "out/.."] {
        let outcome = to(current).expect(1);
        assert!(outcome.stderr.contains("refused to use the current directory"), "{}", outcome.stderr);
    }
    assert!(env.home().join("foreign/thesis").exists());
    let outcome = to("no/such").expect(1);
    assert!(outcome.stderr.contains("cannot create no/such"), "{}", outcome.stderr);
}

#[test]
fn a_pattern_that_matches_nothing_says_so() {
    let env = env();
    let mut page = String::new();
    for patterns in [
        &["no-such-test"][..],
        &["selftest"],
        &["coreos.basik", "selftest.pas"],
        &["selftest.no*", "[z]*"],
        &["cl.basic"],
        &["rhcos.basic", "cl.internet"],
        &["selftest.["],
    ] {
        let outcome = run(&env, patterns);
        assert!([1, 2].contains(&outcome.code) && outcome.stdout.is_empty(), "{outcome:?}");
        page.push_str(&format!("$ kola run -p scripted {}\n{}\n", patterns.join(" "), outcome.stderr));
    }
    snapshot("kola/no-tests", &constant(&env, &page), &[]);
}

#[test]
fn versions_bind_unless_the_test_is_named() {
    let env = env();
    let with = |version: &str, system: &str, patterns: &[&str]| {
        let id = if system == "cl" { "coreos" } else { system };
        let answers = serde_json::json!([
            { "command": "echo \"$VERSION_ID\"", "stdout": version },
            { "command": "@@failed", "stdout": format!("ID={id}\n@@failed\n@@selinux\n") },
        ]);
        env.write("plan.json", &serde_json::json!({ "answers": answers }).to_string());
        let kola = ["kola", "run", "-p", "scripted", "--scripted-plan=plan.json", "-b", system];
        let outcome = env.mantle(&[&kola[..], patterns].concat()).expect(0);
        let json: Value = serde_json::from_str(&report(&env, "reports/report.json")).unwrap();
        (report(&env, "test.tap"), json["version"].as_str().unwrap().to_owned(), outcome.stderr)
    };
    let (one, both) = ("1..1\nok - selftest.pass\n", "1..2\nok - selftest.pass\nok - selftest.versioned\n");
    let patterns = ["selftest.version*", "selftest.pass"];
    // A machine is asked for its version.
    let (tap, version, said) = with("1.0.0", "cl", &patterns);
    assert_eq!((tap.as_str(), version.as_str()), (one, "1.0.0"));
    assert!(
        said.contains("selftest.versioned: it needs version 99.0.0 or later, the image is 1.0.0"),
        "{said}"
    );
    let (tap, version, _) = with("99.1.0", "cl", &patterns);
    assert_eq!((tap.as_str(), version.as_str()), (both, "99.1.0"));
    // Other systems count in their own way.
    assert_eq!(with("1.0.0", "debian", &patterns).0, both);
    assert_eq!(with("1.0.0", "cl", &["selftest.versioned"]).0, "1..1\nok - selftest.versioned\n");
}

#[test]
fn consoles_and_journals_are_searched_for_trouble() {
    let finds = |env: &crate::support::Env, plan: &str| {
        let outcome = planned(env, plan, &["selftest.pass"]);
        let found: Vec<String> = outcome
            .stdout
            .lines()
            .filter(|l| l.trim().starts_with("run.rs:") && l.contains("Found "))
            .map(|l| constant(env, l.trim()))
            .collect();
        (outcome.code, found)
    };
    let env = env();
    // Harmless while the machine starts, so the body passes.
    let plan = r#"{"console": "ok\r\n[ 1.0] WARNING: CPU: 0 PID: 7 at mm/slub.c:12\r\n"}"#;
    let text = "run.rs:<line>: Found kernel warning (mm/slub.c:12) on machine scripted-0 console";
    assert_eq!(finds(&env, plan), (1, vec![text.to_owned()]));
    // The export format of journals: fields, a line each, entries apart by an empty line.
    let entry = |message: &str| {
        let lines = format!(
            "__CURSOR=s=1\n__REALTIME_TIMESTAMP=1500000000000000\n_TRANSPORT=kernel\nSYSLOG_IDENTIFIER=kernel\n_HOSTNAME=core1\nMESSAGE={message}\n\n"
        );
        serde_json::json!({ "journal": lines }).to_string()
    };
    let text = "run.rs:<line>: Found kernel panic (x) on machine scripted-0 journal";
    assert_eq!(finds(&env, &entry("Kernel panic - not syncing: x")), (1, vec![text.to_owned()]));
    assert!(report(&env, "selftest.pass/scripted-0/journal.txt").contains("kernel: Kernel panic"));
    assert_eq!(finds(&env, &entry("all is well")), (0, vec![]));
}

#[test]
fn a_panic_on_the_console_ends_the_wait_for_the_machine() {
    let env = env();
    let plan = r#"{"silent": true, "console": "[ 1.0] Kernel panic - not syncing: x\r\n"}"#;
    let outcome = planned(&env, plan, &["selftest.pass"]).expect(1);
    snapshot("kola/console-panic", &constant(&env, &outcome.stdout), &[]);
}

#[test]
fn what_failed_is_run_again_from_its_folder() {
    let env = env();
    let args = ["kola", "run", "-p", "scripted", "-b", "debian", "--output-dir=out", "--seed=7"];
    let outcome = env.mantle(&[&args[..], &["selftest.pass", "selftest.fail"]].concat()).expect(1);
    assert!(outcome.stdout.contains("To run them again: kola replay "), "{}", outcome.stdout);
    let again = env.mantle(&["kola", "replay", "out"]).expect(1);
    assert!(again.stdout.contains("--- FAIL: selftest.fail "), "{}", again.stdout);
    assert!(!again.stdout.contains("selftest.pass"), "{}", again.stdout);
    assert!(again.stderr.contains("--seed=7 --output-dir "), "{}", again.stderr);
    assert!(env.home().join("out-replay/reports/report.json").exists());
    let other = env.mantle(&["kola", "replay", "out", "selftest.pass", "--", "--multiply=1"]).expect(0);
    assert!(other.stdout.contains("--- PASS: selftest.pass "), "{}", other.stdout);
    let none = env.mantle(&["kola", "replay", "out-replay"]).expect(1);
    assert!(none.stderr.contains("all tests of out-replay passed, or were skipped"), "{}", none.stderr);
    let none = env.mantle(&["kola", "replay", "."]).expect(1);
    assert!(none.stderr.contains("name the output folder of a run"), "{}", none.stderr);
}
