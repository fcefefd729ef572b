//! External tests: found, described, run on machines, denied, run again.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use super::{constant, env, guest, report, root};
use crate::support::guard::Limit;
use crate::support::{Env, Outcome, installed, snapshot};

/// Writes an executable below the home folder.
pub(super) fn program(env: &Env, name: &str, text: &str) {
    let path = env.write(name, text);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs the tests of project p on scripted machines; those that the plan says nothing of pass.
fn scripted(env: &Env, answers: &[Value], rest: Value, args: &[&str]) -> Outcome {
    let mut plan = rest;
    let all: Vec<Value> =
        answers.iter().cloned().chain([json!({ "command": "KOLA_TEST=", "stdout": "passed" })]).collect();
    plan["answers"] = Value::from(all);
    env.write("plan.json", &plan.to_string());
    let kola = ["kola", "run", "-p", "scripted", "-b", "debian", "--scripted-plan=plan.json", "-E", "p"];
    env.mantle(&[&kola[..], args].concat())
}

fn fails(test: &str) -> Value {
    json!({ "command": format!("KOLA_TEST={test}\n"), "stdout": "failed: exited with status 1" })
}

/// Result and number of earlier runs of each top-level test.
fn results(env: &Env) -> Vec<(String, String, usize)> {
    let json: Value = serde_json::from_str(&report(env, "reports/report.json")).unwrap();
    let row = |t: &Value| {
        let text = |key: &str| t[key].as_str().unwrap().to_owned();
        (text("name"), text("result"), t["earlier"].as_array().map_or(0, Vec::len))
    };
    let mut rows: Vec<_> = json["tests"].as_array().unwrap().iter().map(row).collect();
    rows.sort();
    rows
}

fn names(env: &Env, args: &[&str]) -> Vec<String> {
    let table = env.mantle(&[&["kola", "list"], args].concat()).expect(0).stdout;
    table.lines().skip(2).map(|l| l.split('\t').next().unwrap().to_owned()).collect()
}

/// A guest whose root tree has a program, with the options that name it.
fn guest_with(program: &str) -> Option<Vec<String>> {
    let folder = guest("root")?;
    let variants = ["full", "base", "selinux", "update"].map(|v| folder.join(v));
    let found = variants.into_iter().find(|d| d.join("root").join(program).exists());
    if found.is_none() {
        println!("skipped: no guest has {program}");
    }
    let path = |d: &Path, name: &str| d.join(name).display().to_string();
    found.map(|d| {
        vec!["--nspawn-root".into(), path(&d, "root"), "--nspawn-ignition".into(), path(&d, "ignition-root")]
    })
}

/// Runs tests of project p in containers.
pub(super) fn contained(env: &mut Env, guest: &[String], args: &[&str]) -> Outcome {
    env.guarded(Limit::MACHINES);
    let mut words = vec!["kola", "run", "-p", "nspawn", "-b", "debian", "-E", "p"];
    words.extend(guest.iter().map(String::as_str));
    words.extend(args);
    env.mantle(&words)
}

/// The containers of this machine, if it can have any and there is a guest with the program.
pub(super) fn containers(program: &str) -> Option<Vec<String>> {
    if !root() || !installed("systemd-nspawn") {
        return None;
    }
    guest_with(program)
}

fn new(env: &Env, language: &str, name: &str) {
    std::fs::create_dir_all(env.home().join("p")).unwrap();
    let outcome = env.mantle(&["kola", "new", "-E", "p", "--language", language, name]).expect(0);
    assert!(outcome.stdout.contains("kola run -E p ext.p."), "{}", outcome.stdout);
}

#[test]
fn real_programs_in_shell_and_c_run_from_a_new_folder() {
    let Some(guest) = containers("usr/bin/sh") else { return };
    if !installed("gcc") || !installed("make") {
        return;
    }
    let mut env = env();
    new(&env, "shell", "first");
    new(&env, "c", "second");
    let folder = env.home().join("p/tests/kola/second");
    let mut make = env.command("make");
    let made = make.arg("-C").arg(&folder).arg("CC=gcc").output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let lint = env.mantle(&["kola", "lint", "p"]).expect(0);
    assert_eq!(lint.stdout, "2 tests, 0 faults\n");
    let outcome = contained(&mut env, &guest, &["-j2", "ext.p.*"]).expect(0);
    for test in ["ext.p.first", "ext.p.second.run"] {
        assert!(outcome.stdout.contains(&format!("--- PASS: {test} ")), "{}", outcome.stdout);
        let folder = env.home().join("_kola_temp/nspawn-latest").join(test);
        let machine = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
        let said = std::fs::read_to_string(machine.join(format!("{test}.txt"))).unwrap();
        assert!(said.trim_end().ends_with(": ok"), "{said}");
    }
}

#[test]
fn real_programs_in_python_run_from_a_new_folder() {
    let Some(guest) = containers("usr/bin/python3") else { return };
    let mut env = env();
    new(&env, "python", "a.b");
    assert_eq!(env.mantle(&["kola", "lint", "p"]).expect(0).stdout, "1 test, 0 faults\n");
    let outcome = contained(&mut env, &guest, &["ext.p.a.b.run"]).expect(0);
    assert!(outcome.stdout.contains("--- PASS: ext.p.a.b.run "), "{}", outcome.stdout);
}

#[test]
fn real_machines_are_rebooted_in_the_words_of_three_others() {
    let Some(guest) = containers("usr/bin/sh") else { return };
    let mut env = env();
    let autopkgtest = r#"#!/bin/sh
set -e
[ "$(cat "$KOLA_EXT_DATA/file")" = content ]
[ "$(cat /etc/of-config)" = config ]
echo "boot $TMT_REBOOT_COUNT of $KOLA_TEST"
case "${AUTOPKGTEST_REBOOT_MARK-}" in
"") /tmp/autopkgtest-reboot "it's \"one\" \$x" ;;
"it's \"one\" \$x") /tmp/autopkgtest-reboot-prepare two; touch /var/prepared; reboot; sleep 1000 ;;
two) [ -e /var/prepared ] && exit 0 ;;
esac
exit 7
"#;
    program(&env, "p/tests/kola/boots/autopkgtest", autopkgtest);
    program(
        &env,
        "p/tests/kola/boots/tmt",
        "#!/bin/sh\n[ $TMT_REBOOT_COUNT = 1 ] || tmt-reboot -t 600\n[ -z \"${AUTOPKGTEST_REBOOT_MARK-}\" ]\n",
    );
    program(
        &env,
        "p/tests/kola/boots/spread",
        "#!/bin/sh\ncase $SPREAD_REBOOT in 0) REBOOT key ;; key) REBOOT ;; 2) exit 0 ;; esac\nexit 7\n",
    );
    env.write("p/tests/kola/boots/data/file", "content");
    let config = json!({
        "ignition": { "version": "3.0.0" },
        "storage": { "files": [{ "path": "/etc/of-config", "mode": 420, "contents": { "source": "data:,config" } }] },
    });
    env.write("p/tests/kola/boots/config.ign", &config.to_string());
    let outcome = contained(&mut env, &guest, &["-j3", "ext.p.*"]).expect(0);
    assert!(outcome.stdout.contains("3 run: 3 passed"), "{}", outcome.stdout);
    let folder = env.home().join("_kola_temp/nspawn-latest/ext.p.boots.autopkgtest");
    let machine = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let said = std::fs::read_to_string(machine.join("ext.p.boots.autopkgtest.txt")).unwrap();
    for boot in 0..3 {
        assert!(said.contains(&format!(": boot {boot} of ext.p.boots.autopkgtest")), "{said}");
    }
}

#[test]
fn real_machines_are_shared() {
    let Some(guest) = containers("usr/bin/sh") else { return };
    let mut env = env();
    let share = |name: &str, more: &str, body: &str| {
        let text = format!("#!/bin/sh\n## kola:\n##   exclusive: false\n{more}{body}\n");
        program(&env, &format!("p/tests/kola/{name}"), &text);
    };
    share("a", "", "[ \"$(cat $KOLA_EXT_DATA/x)\" = x ] && touch /tmp/was-a");
    share("b", "", "[ -e /tmp/was-a ] && ! /tmp/autopkgtest-reboot x");
    share("c", "", "kill -TERM $$");
    share("d", "##   conflicts: ext.p.a\n", "[ ! -e /tmp/was-a ]");
    share("e", "##   conflicts: ext.p.a\n", "exit 0");
    env.write("p/tests/kola/data/x", "x");
    let outcome = contained(&mut env, &guest, &["ext.p.*"]).expect(1);
    let text = &outcome.stdout;
    for (verdict, test) in [
        ("FAIL", "non-exclusive-test-bucket-0"),
        ("PASS", "non-exclusive-test-bucket-0/ext.p.a"),
        ("PASS", "non-exclusive-test-bucket-0/ext.p.b"),
        ("FAIL", "non-exclusive-test-bucket-0/ext.p.c"),
        ("PASS", "non-exclusive-test-bucket-1"),
    ] {
        assert!(text.contains(&format!("--- {verdict}: {test} (")), "{verdict} {test}: {text}");
    }
    assert!(text.contains("c was ended by signal 15"), "{text}");
    assert!(text.contains("kola-runext-c-3"), "what its unit said: {text}");
}

#[test]
fn names_follow_folders_and_files() {
    let env = env();
    for name in [
        "smoke",
        "basic/noop",
        "basic/other.py",
        "single/test.sh",
        "pair/test.sh",
        "pair/x",
        "deep/er/test.sh",
        "data/no",
    ] {
        program(&env, &format!("p/tests/kola/{name}"), "#!/bin/sh\n");
    }
    for name in ["README", "config.ign", "kola.json"] {
        program(&env, &format!("p/tests/kola/basic/{name}"), "{\"tags\": \"x\"}");
    }
    env.write("p/tests/kola/basic/notes", "no test");
    std::os::unix::fs::symlink("..", env.home().join("p/tests/kola/deep/loop")).unwrap();
    let all = [
        "ext.p.basic.noop",
        "ext.p.basic.other.py",
        "ext.p.deep.er",
        "ext.p.pair.test.sh",
        "ext.p.pair.x",
        "ext.p.single",
        "ext.p.smoke",
    ];
    assert_eq!(names(&env, &["-E", "p", "ext.*"]), all);
    assert_eq!(names(&env, &["-E", "p", "--tag", "x"]), all[..2]);
    assert_eq!(names(&env, &["-E", "p", "--tag=external", "--tag=!x", "--denylist-test=*.smoke"]), all[2..6]);
    assert_eq!(
        names(&env, &["-E", "p", "--tag=x", "*.smoke"]),
        ["ext.p.basic.noop", "ext.p.basic.other.py", "ext.p.smoke"]
    );
    // Without -E those of the current folder are there.
    std::fs::rename(env.home().join("p/tests"), env.home().join("tests")).unwrap();
    assert_eq!(names(&env, &["ext.home.s*"]), ["ext.home.single", "ext.home.smoke"]);
    let list = env.mantle(&["kola", "list", "--json", "ext.home.basic.noop"]).expect(0).stdout;
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list[0]["Tags"], json!(["x", "external"]));
    let outcome = env.mantle(&["kola", "list", "ext.home.smoke", "ext.home.smake"]).expect(1);
    assert!(outcome.stderr.contains("no test matches ext.home.smake"), "{}", outcome.stderr);
}

#[test]
fn faults_are_found_before_anything_is_run() {
    let env = env();
    let good = "#!/bin/sh\n";
    for (name, text) in [
        ("keys", "#!/bin/sh\n\n## kola:\n##   tags: x\n##   exclusiv: false\n"),
        ("json", "#!/bin/sh\n# kola: {\"timeoutMin\": \"5\"}\n"),
        ("twice", "#!/bin/sh\n# kola: {}\n# kola: {}\n"),
        ("shares", "#!/bin/sh\n# kola: {\"exclusive\": false, \"minMemory\": 4096}\n"),
        ("platform", "#!/bin/sh\n# kola: {\"platforms\": \"qmeu\"}\n"),
        ("disk", "#!/bin/sh\n# kola: {\"additionalDisks\": [\"big\"]}\n"),
        ("plain", "echo no interpreter\n"),
        ("windows", "#!/bin/sh\r\necho\r\n"),
        ("odd name", good),
        ("lonely", "#!/bin/sh\n# kola: {\"exclusive\": false, \"conflicts\": \"ext.p.jsn\"}\n"),
        ("config/test.sh", good),
        ("folder/test.sh", good),
        ("old/test.sh", good),
    ] {
        program(&env, &format!("p/tests/kola/{name}"), text);
    }
    env.write("p/tests/kola/config/config.ign", "{\"ignition\":\n{\"version\":\n\"3.0.0\",}}");
    env.write("p/tests/kola/folder/kola.json", "{\n  \"tag\": \"x\"\n}\n");
    env.write("p/tests/kola/old/config.fcc", "variant: fcos\n");
    env.write("p/tests/kola/forgotten", good);
    env.write("p/tests/kola/empty/kola.json", "{}");
    let outcome = env.mantle(&["kola", "lint", "p"]).expect(1);
    snapshot("kola/lint", &constant(&env, &(outcome.stdout + &outcome.stderr)), &[]);
    // A run stops before it begins, unless the bad ones are denied.
    let outcome = scripted(&env, &[], json!({}), &["ext.p.twice"]).expect(1);
    let error = outcome.stderr.split_once("Error: ").unwrap().1;
    snapshot("kola/external-fault", &constant(&env, error), &[]);
    let denied = "--denylist-test=ext.p.[!f]*".replace('!', "^");
    let args = [denied.as_str(), "--denylist-test=ext.p.folder", "*"];
    let outcome = env.mantle(&[&["kola", "list", "-E", "p"][..], &args].concat()).expect(0);
    assert!(outcome.stderr.contains("p/tests/kola/forgotten: warning: begins with #!"), "{}", outcome.stderr);
    let outcome = env.mantle(&["kola", "new", "-E", "p", "config"]).expect(1);
    assert!(outcome.stderr.contains("p/tests/kola/config is there already"), "{}", outcome.stderr);
    let outcome = env.mantle(&["kola", "new", "-E", "p", "a..b"]).expect(1);
    assert!(outcome.stderr.contains("cannot be part of a test's name"), "{}", outcome.stderr);
    let outcome = env.mantle(&["kola", "run", "-p", "scripted", "-E", "nowhere"]).expect(1);
    assert!(outcome.stderr.contains("nowhere is no folder"), "{}", outcome.stderr);
}

#[test]
fn butane_configs_become_ignition_by_the_program_of_that_name() {
    let mut env = env();
    program(&env, "p/tests/kola/test.sh", "#!/bin/sh\n[ -d /by-butane ]\n");
    env.write("p/tests/kola/config.bu", "variant: fcos\nversion: 1.0.0\n");
    let outcome = scripted(&env, &[], json!({}), &["ext.p"]).expect(1);
    assert!(outcome.stderr.contains("ext.p cannot be run: its config.bu"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("install butane"), "{}", outcome.stderr);
    let made = r#"{"ignition":{"version":"3.1.0"},"storage":{"directories":[{"path":"/by-butane"}]}}"#;
    env.program("butane", &format!("#!/bin/sh\n[ \"$*\" = --strict ] && grep -q fcos && echo '{made}'\n"));
    let Some(guest) = containers("usr/bin/sh") else { return };
    contained(&mut env, &guest, &["ext.p"]).expect(0);
}

#[test]
fn what_machines_say_of_tests_is_understood() {
    let env = env();
    for name in ["ok", "odd", "boots", "wants"] {
        program(&env, &format!("p/tests/kola/{name}"), "#!/bin/sh\n");
    }
    program(&env, "p/tests/kola/aws", "#!/bin/sh\n# kola: {\"platforms\": \"aws gce\"}\n");
    program(
        &env,
        "p/tests/kola/wants",
        "#!/bin/sh\n# kola: {\"numaNodes\": true, \"requiredTag\": \"numa\"}\n",
    );
    program(
        &env,
        "p/tests/kola/new",
        &format!("#!/bin/sh\n# kola: {{\"creationDate\": \"{}\"}}\n", chrono::Utc::now().date_naive()),
    );
    let command = |test: &str| format!("KOLA_TEST=ext.p.{test}\n");
    let answers = [
        json!({ "command": command("odd"), "stdout": "hello" }),
        json!({ "command": "AUTOPKGTEST_REBOOT_MARK=\"one\"", "stdout": "passed" }),
        json!({ "command": command("boots"), "stdout": "reboot\none" }),
        json!({ "command": " grant", "reboots": true, "lost": true }),
        fails("ext.p.new"),
    ];
    let outcome = scripted(&env, &answers, json!({}), &["ext.*"]).expect(1);
    let rows = results(&env);
    let wanted =
        [("ext.p.boots", "PASS"), ("ext.p.new", "WARN"), ("ext.p.odd", "FAIL"), ("ext.p.ok", "PASS")];
    assert_eq!(rows.iter().map(|(n, r, _)| (n.as_str(), r.as_str())).collect::<Vec<_>>(), wanted);
    for told in ["ext.p.aws: it is for platform aws, gce only", "ext.p.wants: it is run only with --tag numa"]
    {
        assert!(outcome.stderr.contains(told), "{}", outcome.stderr);
    }
    let outcome = scripted(&env, &answers, json!({}), &["--tag=numa"]).expect(1);
    assert!(outcome.stderr.contains("asks for numaNodes"), "{}", outcome.stderr);
    // Only what is tolerated has failed.
    scripted(&env, &answers, json!({}), &["ext.p.new"]).expect(0);
    scripted(&env, &answers, json!({}), &["--on-warn-failure-exit-77", "ext.p.new", "ext.p.ok"]).expect(77);
    scripted(&env, &answers, json!({}), &["--on-warn-failure-exit-77", "ext.p.ok"]).expect(0);
}

#[test]
fn what_is_denied_is_told_and_what_has_expired_too() {
    let env = env();
    for name in ["a", "b", "c", "d"] {
        program(&env, &format!("p/tests/kola/{name}"), "#!/bin/sh\n");
    }
    let list = "- pattern: ext.p.a\n  tracker: https://t.example/1\n- pattern: ext.p.b\n  snooze: 2026-01-01\n\
        - pattern: ext.p.c\n  warn: true\n- pattern: ext.p.d\n  platforms: [aws]\n- pattern: ext.p.d\n  streams: [next]\n\
        - pattern: ext.p.d\n  osversion: [\"2.*\"]\n";
    env.write("kola-denylist.yaml", list);
    let run = |args: &[&str]| scripted(&env, &[fails("ext.p.c")], json!({}), &[&["ext.*"], args].concat());
    let outcome = run(&[]).expect(0);
    // The order of lines is that of the list; times differ.
    let said: String = outcome
        .stderr
        .lines()
        .filter_map(|l| l.split_once(" kola: "))
        .map(|(_, text)| format!("{text}\n"))
        .collect();
    snapshot("kola/denylist", &constant(&env, &(outcome.stdout + &said)), &[]);
    let left = |args: &[&str]| {
        run(args);
        results(&env).into_iter().map(|(name, _, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(left(&["--denylist-stream=next"]), ["ext.p.b", "ext.p.c"]);
    assert_eq!(left(&["--denylist-test=ext.p.[bd]"]), ["ext.p.c"]);
    let outcome = run(&["--denylist-test=ext.*"]).expect(0);
    assert!(outcome.stderr.contains("all tests are denied"), "{}", outcome.stderr);
    env.write("other.yaml", "- pattern: ext.*\n");
    let outcome = run(&["--denylist-file=other.yaml"]).expect(0);
    assert!(outcome.stderr.contains("all tests are denied"), "{}", outcome.stderr);
    env.write("bad.yaml", "- pattern: a\n- pattern: b\n  snooze: soon\n");
    let outcome = run(&["--denylist-file=bad.yaml"]).expect(1);
    snapshot("kola/denylist-bad", &constant(&env, &outcome.stderr), &[]);
    run(&["--denylist-file=missing.yaml"]).expect(1);
}

#[test]
fn tests_are_shared_out_multiplied_and_ordered() {
    let env = env();
    for n in 0..12 {
        program(&env, &format!("p/tests/kola/t{n:02}"), "#!/bin/sh\n");
    }
    let run = |args: &[&str]| {
        let outcome = scripted(&env, &[], json!({}), &[&["ext.*"], args].concat());
        let started = |l: &str| l.strip_prefix("=== RUN   ").map(str::to_owned);
        (outcome.stdout.lines().filter_map(started).collect::<Vec<_>>(), outcome)
    };
    let mut all: Vec<String> = (1..=3).flat_map(|m| run(&["--sharding", &format!("hash:{m}/3")]).0).collect();
    all.sort();
    assert_eq!(all, (0..12).map(|n| format!("ext.p.t{n:02}")).collect::<Vec<_>>());
    assert_eq!(run(&["--sharding=hash:4/3"]).1.code, 2);
    assert_eq!(
        scripted(&env, &[], json!({}), &["--multiply=3", "*.t07"])
            .expect(0)
            .stdout
            .matches("--- PASS: ext.p.t07")
            .count(),
        3
    );
    // One at a time in order of names; else by a seed, which is told.
    assert!(run(&[]).0.is_sorted());
    let (random, outcome) = run(&["--order=random", "--seed=7"]);
    assert!(outcome.stderr.contains("--order random --seed 7"), "{}", outcome.stderr);
    assert_eq!(run(&["--order=random", "--seed=7"]).0, random);
    assert_ne!(run(&["--order=random", "--seed=8"]).0, random);
    // What took longest before begins.
    let times = env.home().join(".local/state/mantle/kola-times.json");
    let mut known: Value = serde_json::from_str(&std::fs::read_to_string(&times).unwrap()).unwrap();
    known["scripted"]["ext.p.t05"] = json!(500);
    std::fs::write(&times, known.to_string()).unwrap();
    let (longest, outcome) = run(&["--order=longest"]);
    assert_eq!(longest[0], "ext.p.t05");
    assert!(outcome.stderr.contains("longest first by earlier runs (12 of 12 timed)"), "{}", outcome.stderr);
    run(&["-j", "auto"]).1.expect(0);
    assert_eq!(run(&["-j", "some"]).1.code, 2);
}

/// 72 sound tests, 20 that fail with a probability of 0.2, 5 broken ones, and 3 whose machines cannot be made.
fn verdicts(seeds: std::ops::Range<u64>) {
    let env = env();
    for (kind, count) in [("sound", 72), ("flaky", 20), ("broken", 5), ("infra", 3)] {
        for n in 0..count {
            program(&env, &format!("p/tests/kola/{kind}{n:02}"), "#!/bin/sh\n");
        }
    }
    let flake = |n: usize| {
        let mut answer = fails(&format!("ext.p.flaky{n:02}"));
        answer["chance"] = json!(0.2);
        answer
    };
    let broken = json!({ "command": "KOLA_TEST=ext.p.broken", "stdout": "failed: exited with status 1" });
    let answers: Vec<Value> = (0..20).map(flake).chain([broken]).collect();
    let mut flaky = 0;
    for seed in seeds {
        let plan = json!({ "seed": seed, "launch_error": "no capacity", "launch_error_in": "/ext.p.infra" });
        let outcome = scripted(&env, &answers, plan, &["-j8", "--rerun", "ext.*"]).expect(1);
        let rows = results(&env);
        assert_eq!(rows.len(), 100);
        let reruns: usize = rows.iter().map(|(_, _, earlier)| earlier).sum();
        assert!(reruns <= 15, "seed {seed}: {reruns} of 100 tests were run again");
        for (name, result, earlier) in &rows {
            let failed = outcome.stdout.contains(&format!("--- FAIL: {name} ("));
            let right = match name.trim_start_matches("ext.p.").trim_end_matches(char::is_numeric) {
                "sound" => result == "PASS" && *earlier == 0,
                "broken" => result == "FAIL",
                "infra" => result == "INFRA",
                // Whoever failed once is never a clean pass.
                _ => match result.as_str() {
                    "PASS" => !failed && *earlier == 0,
                    "FLAKY" => failed && *earlier == 1,
                    "FAIL" => failed,
                    _ => false,
                },
            };
            assert!(right, "seed {seed}: {name} is {result} after {earlier} runs\n{}", outcome.stdout);
        }
        flaky += rows.iter().filter(|(_, result, _)| result == "FLAKY").count();
    }
    assert!(flaky > 0);
}

#[test]
fn flaky_broken_and_unlucky_tests_are_told_apart() {
    verdicts(0..3);
}

#[test]
#[ignore = "minutes; make check-full"]
fn flaky_broken_and_unlucky_tests_are_told_apart_with_many_seeds() {
    verdicts(0..50);
}

#[test]
fn a_run_again_is_in_all_reports() {
    let env = env();
    program(&env, "p/tests/kola/flaky", "#!/bin/sh\n");
    let mut flake = fails("ext.p.flaky");
    flake["chance"] = json!(0.5);
    // By this seed it fails first and then passes.
    let seed = (0..100).find(|seed| {
        scripted(&env, std::slice::from_ref(&flake), json!({ "seed": seed }), &["--rerun", "ext.*"]);
        results(&env)[0].1 == "FLAKY"
    });
    let plan = json!({ "seed": seed.unwrap() });
    let outcome = scripted(&env, std::slice::from_ref(&flake), plan, &["--rerun=2", "ext.*"]).expect(0);
    let files = ["test.tap", "reports/report.json", "reports/junit.xml"].map(|name| report(&env, name));
    snapshot("kola/flaky", &constant(&env, &format!("{}\n{}", outcome.stdout, files.join("\n"))), &[]);
    assert!(env.home().join("_kola_temp/scripted-latest/rerun/ext.p.flaky/scripted-1/console.txt").exists());
}
