//! Runs that have a share of the tests each, and `kola merge`, which puts their results together.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use openssl::sha::Sha256;
use serde_json::{Value, json};

use super::{env, until};
use crate::support::emulators::judged;
use crate::support::gcs::{Fault, Gcs};
use crate::support::http::{self, Request};
use crate::support::moto::{Moto, REGION};
use crate::support::{Env, Outcome, Running};

/// Tests that pass or skip: 1 and 3 of three shares have some, 2 has the one that lacks something.
const GOOD: [&str; 6] = [
    "selftest.pass",
    "selftest.skip",
    "selftest.lacking",
    "selftest.two",
    "selftest.reboot",
    "selftest.parallel",
];

fn words<'a>(share: &'a str, results: &'a str, out: &'a str, tests: &[&'a str]) -> Vec<&'a str> {
    let words = ["kola", "run", "-p", "scripted", "-b", "debian", "--sharding", share, "--results", results];
    [&words[..], &["--output-dir", out], tests].concat()
}

/// Starts one share of three.
fn start(env: &Env, n: usize, results: &str, tests: &[&str]) -> Running {
    let (share, out) = (format!("hash:{n}/3"), format!("out-{n}"));
    env.start(Path::new(env!("CARGO_BIN_EXE_mantle")), &words(&share, results, &out, tests))
}

/// All three, side by side.
fn all(env: &Env, results: &str, tests: &[&str]) -> [Outcome; 3] {
    [1, 2, 3].map(|n| start(env, n, results, tests)).map(Running::finish)
}

fn merge(env: &Env, sources: &[&str], out: &str) -> Outcome {
    env.mantle(&[&["kola", "merge", "--output-dir", out], sources].concat())
}

fn read(env: &Env, name: &str) -> String {
    let path = env.home().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn value(env: &Env, name: &str) -> Value {
    serde_json::from_str(&read(env, name)).unwrap()
}

/// The outcomes in report.json.
fn outcomes(env: &Env, out: &str) -> BTreeMap<String, String> {
    let report = value(env, &format!("{out}/reports/report.json"));
    let tests = report["tests"].as_array().unwrap().iter();
    tests.map(|t| (t["name"].as_str().unwrap().into(), t["result"].as_str().unwrap().into())).collect()
}

/// The folders of shares at a place, by the number of the share; the last, if there are several.
fn folder(env: &Env, n: usize) -> PathBuf {
    let entries = std::fs::read_dir(env.home().join("results")).unwrap();
    let mut names: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    names.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with(&format!("part-{n}-")));
    names.pop().unwrap()
}

/// The reports of a merge, as they are.
fn reports(env: &Env, out: &str) -> BTreeMap<&'static str, String> {
    let names = [
        "test.tap",
        "kola-times.json",
        "reports/report.json",
        "reports/junit.xml",
        "reports/report.html",
        "reports/events.ndjson",
        "reports/selection.json",
    ];
    names.into_iter().map(|name| (name, read(env, &format!("{out}/{name}")))).collect()
}

#[test]
fn three_shares_make_one_run() {
    let env = env();
    let ran = all(&env, "results", &[&GOOD[..], &["selftest.fail", "selftest.sub"]].concat());
    assert_eq!([ran[0].code, ran[1].code, ran[2].code], [0, 1, 0], "{ran:?}");
    assert!(ran[0].stderr.contains("files of the results are in results/part-1-of-3-"), "{}", ran[0].stderr);
    let merged = merge(&env, &["results"], "merged").expect(1);
    assert_eq!(merged.stderr.matches("warning").count(), 0, "{}", merged.stderr);
    assert!(merged.stdout.contains("8 run: 4 passed, 2 failed, 2 skipped in "), "{}", merged.stdout);
    assert!(merged.stdout.contains("    selftest.fail: as planned\n"), "{}", merged.stdout);
    assert!(merged.stdout.ends_with("FAIL, output in merged\n"), "{}", merged.stdout);

    // What the shares said is what the merge says.
    let mut wanted = BTreeMap::new();
    (1..=3).for_each(|n| wanted.extend(outcomes(&env, &format!("out-{n}"))));
    assert_eq!(outcomes(&env, "merged"), wanted);
    let tests =
        |out: &str| value(&env, &format!("{out}/reports/report.json"))["tests"].as_array().unwrap().clone();
    let shares: Vec<Value> = (1..=3).flat_map(|n| tests(&format!("out-{n}"))).collect();
    let seconds = |mut test: Value| {
        // The events have seconds as fractions.
        let nanoseconds = test["duration"].as_f64().unwrap();
        test["duration"] = json!((nanoseconds / 1e6).round());
        test
    };
    let (shares, own): (Vec<_>, Vec<_>) =
        (shares.into_iter().map(seconds).collect(), tests("merged").into_iter().map(seconds).collect());
    assert_eq!(shares, own);
    let taps: Vec<String> = (1..=3).map(|n| read(&env, &format!("out-{n}/test.tap"))).collect();
    let lines: String =
        taps.iter().flat_map(|tap| tap.lines().skip(1)).fold(String::new(), |mut all, line| {
            let _ = writeln!(all, "{line}");
            all
        });
    assert_eq!(read(&env, "merged/test.tap"), format!("1..8\n{lines}"));
    let junit = read(&env, "merged/reports/junit.xml");
    for n in 1..=3 {
        let share = read(&env, &format!("out-{n}/reports/junit.xml"));
        let (from, to) = (share.find("        <testcase").unwrap(), share.find("    </testsuite>").unwrap());
        assert!(junit.contains(&share[from..to]), "{n}: {junit}");
    }
    assert_eq!(junit.matches("<testcase ").count(), own.len());
    assert!(
        junit.contains(&format!("tests=\"{}\" skipped=\"3\" errors=\"0\" failures=\"3\"", own.len())),
        "{junit}"
    );

    let schema = value(&env, "merged/reports/events.schema.json");
    let events = read(&env, "merged/reports/events.ndjson");
    let events = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    judged("judge_events.py", &[], [schema].into_iter().chain(events));

    let page = read(&env, "merged/reports/report.html");
    let (_, data) = page.split_once("<script id=\"data\" type=\"application/json\">").unwrap();
    let data: Value = serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap();
    assert_eq!(data["parts"][1], json!([2, "part 2 of 3"]));
    let failed = data["tests"].as_array().unwrap().iter().find(|t| t["name"] == "selftest.fail").unwrap();
    assert_eq!(failed["part"], 2);
    for file in failed["files"].as_array().unwrap() {
        let path = env.home().join("merged/reports").join(file["href"].as_str().unwrap());
        assert!(path.exists(), "{}", path.display());
    }
    assert!(!failed["files"].as_array().unwrap().is_empty());

    // How long they took is known to later runs, and in a file for other machines.
    let times = value(&env, "merged/kola-times.json");
    assert!(times["scripted"]["selftest.two"].is_number() && times["scripted"]["selftest.skip"].is_null());
    let history = value(&env, ".local/state/mantle/kola-times.json");
    assert_eq!(history["scripted"]["selftest.two"], times["scripted"]["selftest.two"]);

    // Again, to the same folder; from the folders of the shares; from the merge itself: always the same.
    let first = reports(&env, "merged");
    let told = value(&env, "merged/reports/merge.json");
    merge(&env, &["results"], "merged").expect(1);
    assert_eq!(reports(&env, "merged"), first);
    merge(&env, &["out-3", "out-1", "out-2"], "second").expect(1);
    let second = reports(&env, "second");
    for name in ["test.tap", "reports/report.json", "reports/junit.xml", "reports/events.ndjson"] {
        assert_eq!(second[name], first[name], "{name}");
    }
    merge(&env, &["merged", "results", "out-1"], "merged").expect(1);
    assert_eq!(reports(&env, "merged"), first);
    assert_eq!(value(&env, "merged/reports/merge.json"), told);
    assert_eq!(value(&env, ".local/state/mantle/kola-times.json"), history);
    // Nothing of somebody else's is written over.
    let outcome = merge(&env, &["results"], "out-1").expect(1);
    assert!(
        outcome.stderr.contains("out-1 is not empty, and what is in it is not of a merge"),
        "{}",
        outcome.stderr
    );
}

/// SIGKILL leaves what there was; the same share, run again, takes its place.
#[test]
fn a_share_that_is_killed_leaves_what_it_had_and_can_be_run_again() {
    let env = env();
    let plan = env.write("plan.json", r#"{"answers": [{"command": "sudo reboot", "hangs": true}]}"#);
    let plan = format!("--scripted-plan={}", plan.display());
    let mut killed = start(&env, 3, "results", &[&[&*plan, "-j2"], &GOOD[..]].concat());
    for n in [1, 2] {
        start(&env, n, "results", &GOOD).finish().expect(0);
    }
    killed.wait_for("=== RUN   selftest.reboot");
    let stored = || {
        let events = folder(&env, 3).join("reports/events.ndjson");
        let events = std::fs::read_to_string(events).unwrap_or_default();
        let count = |what: &str| events.matches(what).count();
        count("selftest.reboot") > 0 && count("\"event\":\"test-ended\",") > 0
    };
    until("the first results of the share", || {
        std::fs::exists(env.home().join("results")).unwrap() && stored()
    });
    killed.signal(Signal::SIGKILL);
    killed.finish();

    let outcome = merge(&env, &["results"], "merged").expect(1);
    let (of_killed, why) = ("part 3 of 3 (results/part-3-of-3-", ") was killed while it ran");
    assert!(outcome.stdout.contains(of_killed) && outcome.stdout.contains(why), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("was killed, or goes on still"), "{}", outcome.stdout);
    let told = value(&env, "merged/reports/merge.json");
    assert!(told["nowhere"].as_array().unwrap().contains(&"selftest.reboot".into()), "{told}");
    assert_eq!(outcomes(&env, "merged")["selftest.reboot"], "INFRA");
    assert_eq!(outcomes(&env, "merged")["selftest.pass"], "PASS");

    // Elsewhere: what is left of its machines is not removed by itself.
    env.mantle(&words("hash:3/3", "results", "again-3", &GOOD)).expect(0);
    merge(&env, &["results"], "all").expect(0);
    // A merge, and what came late.
    std::fs::create_dir(env.home().join("late")).unwrap();
    let late: Vec<PathBuf> = std::fs::read_dir(env.home().join("results"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("part-3-of-3-"))
        .collect();
    assert_eq!(late.len(), 2);
    for path in late {
        std::fs::rename(&path, env.home().join("late").join(path.file_name().unwrap())).unwrap();
    }
    let outcome = merge(&env, &["merged", "late"], "merged").expect(0);
    assert!(outcome.stdout.contains("6 run: 4 passed, 2 skipped in "), "{}", outcome.stdout);
    let (first, second) = (reports(&env, "all"), reports(&env, "merged"));
    for name in ["test.tap", "reports/report.json", "reports/junit.xml", "reports/events.ndjson"] {
        assert_eq!(second[name], first[name], "{name}");
    }
}

#[test]
fn what_is_missing_or_was_run_twice_is_named() {
    let env = env();
    for n in [1, 3] {
        start(&env, n, "results", &GOOD).finish().expect(0);
    }
    let outcome = merge(&env, &["results"], "merged").expect(1);
    assert!(outcome.stdout.contains("part 2 of 3 has left no results"), "{}", outcome.stdout);
    let lost = "selftest.lacking (infra): it ran nowhere: part 2 of 3 has not come to its end";
    assert!(outcome.stdout.contains(lost), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("2 of 3 parts have results"), "{}", outcome.stderr);
    let junit = read(&env, "merged/reports/junit.xml");
    assert!(junit.contains("type=\"merge\"") && junit.contains("errors=\"2\""), "{junit}");

    start(&env, 2, "results", &GOOD).finish().expect(0);
    start(&env, 1, "results", &GOOD).finish().expect(0);
    let outcome = merge(&env, &["results"], "merged").expect(1);
    assert!(outcome.stdout.contains("has run its tests a second time"), "{}", outcome.stdout);
    assert!(
        outcome.stdout.contains("selftest.pass (infra): it ran 2 times: PASS in part 1 of 3 ("),
        "{}",
        outcome.stdout
    );
    let told = value(&env, "merged/reports/merge.json");
    assert_eq!(told["twice"], json!(["selftest.pass", "selftest.skip"]));

    // A share without any tests is there, too.
    for n in [1, 2] {
        let (share, out) = (format!("hash:{n}/2"), format!("few-{n}"));
        env.mantle(&words(&share, "few", &out, &["selftest.pass"])).expect(0);
    }
    let outcome = merge(&env, &["few"], "few-merged").expect(0);
    assert!(outcome.stdout.contains("1 run: 1 passed in "), "{}", outcome.stdout);
}

#[test]
fn shares_of_different_runs_are_refused() {
    let env = env();
    start(&env, 1, "results", &GOOD).finish().expect(0);
    let refused = |n: usize, more: &[&str], told: &str| {
        start(&env, n, "other", more).finish();
        let outcome = merge(&env, &["results", "other"], "merged").expect(1);
        let both = outcome.stderr.contains("results/part-1-of-3-") && outcome.stderr.contains("other/part-");
        assert!(both && outcome.stderr.contains(told), "{}", outcome.stderr);
        assert!(!env.home().join("merged").exists());
        std::fs::remove_dir_all(env.home().join("other")).unwrap();
    };
    refused(2, &["selftest.pass"], "the list of tests differs");
    refused(2, &[&["--run-name=another"], &GOOD[..]].concat(), "the run differs, \"\" and \"another\"");
    env.mantle(&words("hash:1/2", "other", "out-0", &GOOD)).expect(0);
    let outcome = merge(&env, &["results", "other"], "merged").expect(1);
    assert!(
        outcome.stderr.contains("the number of parts differs, \"hash into 3\" and \"hash into 2\""),
        "{}",
        outcome.stderr
    );
    let outcome = merge(&env, &["other/none"], "merged").expect(1);
    assert!(outcome.stderr.contains("cannot read the results in other/none"), "{}", outcome.stderr);
    std::fs::create_dir(env.home().join("void")).unwrap();
    let outcome = merge(&env, &["void"], "merged").expect(1);
    assert!(outcome.stderr.contains("there are no results in void"), "{}", outcome.stderr);
    assert!(env.mantle(&["kola", "merge", "other"]).expect(2).stderr.contains("--output-dir"));
    assert!(
        env.mantle(&["kola", "merge", "--output-dir=m", "https://x/y"]).expect(2).stderr.contains("gs://")
    );
}

#[test]
fn clocks_do_not_matter_and_damage_is_told() {
    let env = env();
    all(&env, "results", &GOOD);
    merge(&env, &["results"], "merged").expect(0);
    let first = reports(&env, "merged");
    let path = folder(&env, 2).join("reports/events.ndjson");
    let text = std::fs::read_to_string(&path).unwrap();
    let year = regex::Regex::new("\"time\":\"\\d{4}").unwrap();
    std::fs::write(&path, year.replace_all(&text, "\"time\":\"2191").as_bytes()).unwrap();
    let outcome = merge(&env, &["results"], "merged").expect(0);
    assert!(outcome.stderr.contains("part 2 of 3 (results/part-2-of-3-"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("its clock was about "), "{}", outcome.stderr);
    for name in ["test.tap", "reports/report.json"] {
        assert_eq!(reports(&env, "merged")[name], first[name], "{name}");
    }
    // Killed in the middle of a line.
    let path = folder(&env, 3).join("reports/events.ndjson");
    let text = std::fs::read_to_string(&path).unwrap();
    let lines = text.lines().count();
    std::fs::write(&path, &text[..text.len() - 9]).unwrap();
    let outcome = merge(&env, &["results"], "merged").expect(1);
    assert!(outcome.stderr.contains(&format!("line {lines} breaks off")), "{}", outcome.stderr);
    assert!(outcome.stdout.contains("was killed, or goes on still"), "{}", outcome.stdout);
    // Its tests had all ended.
    assert_eq!(value(&env, "merged/reports/merge.json")["nowhere"], json!([]));
    std::fs::write(&path, text.replacen("\"depth\":0", "\"depth\":", 1)).unwrap();
    let outcome = merge(&env, &["results"], "merged").expect(1);
    assert!(outcome.stderr.contains("line 2 cannot be read"), "{}", outcome.stderr);
    std::fs::remove_file(folder(&env, 2).join("reports/selection.json")).unwrap();
    std::fs::write(&path, "").unwrap();
    let outcome = merge(&env, &["results"], "merged").expect(1);
    assert!(outcome.stdout.contains("part 3 of 3 has left no results"), "{}", outcome.stdout);
}

#[test]
fn results_go_to_s3_and_come_back() {
    let Some(moto) = Moto::start(&[]) else { return };
    let mut env = env();
    env.set("AWS_ACCESS_KEY_ID", "AKIDTEST")
        .set("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
        .set("AWS_REGION", REGION)
        .set("AWS_EC2_METADATA_DISABLED", "true")
        .set("AWS_ENDPOINT_URL", format!("http://{}", moto.address));
    // Before there is a bucket: the tests go on.
    let outcome = start(&env, 1, "s3://shared/night", &GOOD).finish().expect(1);
    assert!(outcome.stdout.contains("PASS, output in out-1"), "{}", outcome.stdout);
    assert!(
        outcome.stderr.contains("results are missing in s3://shared/night/part-1-of-3-"),
        "{}",
        outcome.stderr
    );
    assert!(!outcome.stderr.contains("wJalrXUtnFEMI"));
    let signature = format!("AWS4-HMAC-SHA256 Credential=AKIDOTHER/20260101/{REGION}/s3/aws4_request");
    let make = Request::new("PUT", "/shared").with_header("Authorization", &signature).with_body(format!(
        "<CreateBucketConfiguration><LocationConstraint>{REGION}</LocationConstraint></CreateBucketConfiguration>"
    ));
    assert_eq!(http::send(moto.address, &make).unwrap().status, 200);
    for outcome in all(&env, "s3://shared/night", &GOOD) {
        outcome.expect(0);
    }
    let outcome = merge(&env, &["s3://shared/night"], "merged").expect(0);
    assert!(outcome.stdout.contains("6 run: 4 passed, 2 skipped in "), "{}", outcome.stdout);
    merge(&env, &["out-1", "out-2", "out-3"], "local").expect(0);
    for name in ["test.tap", "reports/report.json", "reports/events.ndjson"] {
        assert_eq!(reports(&env, "merged")[name], reports(&env, "local")[name], "{name}");
    }
    let page = read(&env, "merged/reports/report.html");
    assert!(page.contains("\"place\":\"s3://shared/night/part-1-of-3-"), "{page}");
}

#[test]
fn results_go_to_google_storage_and_come_back() {
    let gcs = Gcs::new();
    let mut env = env();
    env.set("STORAGE_EMULATOR_HOST", gcs.address.to_string());
    // Some requests fail for a moment.
    gcs.judge(|_, n| if n % 11 == 3 { Fault::Status(503) } else { Fault::None });
    for outcome in all(&env, "gs://shared/night", &GOOD) {
        outcome.expect(0);
    }
    let names = gcs.names("shared");
    let has =
        |end: &str| names.iter().any(|name| name.starts_with("night/part-3-of-3-") && name.ends_with(end));
    for end in ["/console.txt", "/properties.json", "/test.tap", "/reports/report.html"] {
        assert!(has(end), "{end}: {names:?}");
    }
    let outcome = merge(&env, &["gs://shared/night"], "merged").expect(0);
    assert!(outcome.stdout.contains("6 run: 4 passed, 2 skipped in "), "{}", outcome.stdout);
    // The double lives in 2023.
    assert!(outcome.stderr.contains("its clock was about "), "{}", outcome.stderr);
    gcs.judge(|_, _| Fault::Status(403));
    let outcome = start(&env, 1, "gs://shared/night", &GOOD).finish().expect(1);
    assert!(outcome.stdout.contains("PASS, output in out-1"), "{}", outcome.stdout);
    assert!(
        outcome.stderr.contains("could not be stored in gs://shared/night/part-1-of-3-"),
        "{}",
        outcome.stderr
    );
    let outcome = merge(&env, &["gs://shared/night"], "again").expect(1);
    assert!(outcome.stderr.contains("cannot read the results in gs://shared/night"), "{}", outcome.stderr);
}

/// Results of so many shares with so many tests each, as events say them.
fn made(env: &Env, shares: usize, tests: usize, output: &str) {
    let name = |share: usize, n: usize| format!("suite.{share:03}.test-{n:04}");
    let mut names: Vec<String> = (0..shares).flat_map(|s| (0..tests).map(move |n| name(s, n))).collect();
    names.sort();
    let mut sum = Sha256::new();
    names.iter().for_each(|name| {
        sum.update(name.as_bytes());
        sum.update(b"\0");
    });
    let digest = sum.finish().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    let selection = serde_json::to_string(&names).unwrap();
    let output = serde_json::to_string(output).unwrap();
    for share in 0..shares {
        let mut events = String::new();
        let time = "2026-11-29T12:00:00.000Z";
        let _ = writeln!(
            events,
            r#"{{"time":"{time}","event":"run-started","mantle":"0.13.0","platform":"qemu","version":"1.2.3","planned":{tests},"attempt":"a{share}","by":"hash","part":{},"of":{shares},"selected":{},"digest":"{digest}"}}"#,
            share + 1,
            names.len()
        );
        for n in 0..tests {
            let (name, at) = (name(share, n), n as f64);
            let _ = writeln!(
                events,
                r#"{{"time":"{time}","event":"test-started","at":{at},"name":"{name}","depth":0}}"#
            );
            let _ = writeln!(
                events,
                r#"{{"time":"{time}","event":"test-ended","at":{at},"name":"{name}","depth":0,"outcome":"PASS","seconds":1.5,"output":{output}}}"#
            );
        }
        let _ = writeln!(
            events,
            r#"{{"time":"{time}","event":"run-ended","result":"PASS","counts":{{"PASS":{tests}}},"left":[],"at":{tests}}}"#
        );
        env.write(&format!("results/part-{share}/reports/events.ndjson"), &events);
        env.write(&format!("results/part-{share}/reports/selection.json"), &selection);
    }
}

/// The most memory that a command took at a time, in KiB.
fn peak(env: &Env, args: &[&str]) -> u64 {
    let script = "import resource, subprocess, sys\n\
                  code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)\n\
                  used = resource.getrusage(resource.RUSAGE_CHILDREN)\n\
                  print(used.ru_maxrss)\n\
                  print(sys.argv[2:], used.ru_maxrss, 'KiB', used.ru_utime, 's', file=sys.stderr)\n\
                  sys.exit(code)";
    let words = [&["-c", script, env!("CARGO_BIN_EXE_mantle"), "kola"], args].concat();
    let outcome = env.start(Path::new("python3"), &words).finish().expect(0);
    println!("{}", outcome.stderr);
    outcome.stdout.trim().parse().unwrap()
}

/// Merges in no more than 64 MiB. Without optimization the program alone takes 42 MiB in place of 16.
fn merge_in_little(env: &Env) {
    let own = if cfg!(debug_assertions) { peak(env, &["version"]).saturating_sub(16 << 10) } else { 0 };
    let most = peak(env, &["merge", "results", "--output-dir", "merged"]);
    assert!(most - own < 64 << 10, "{most} KiB, of which {own} are the program's");
}

/// Ten times as much output takes no more memory.
#[test]
fn memory_does_not_grow_with_what_tests_say() {
    let line = "0123456789abcdef and so on, for a whole line of what a test has said\n";
    let env = env();
    made(&env, 5, 20, &line.repeat(1000));
    merge_in_little(&env);
    assert!(std::fs::metadata(env.home().join("merged/reports/report.json")).unwrap().len() > 6 << 20);
}

#[test]
#[ignore = "minutes; make check-full"]
fn ten_thousand_tests_of_a_hundred_shares_take_little_memory() {
    let env = env();
    made(
        &env,
        100,
        100,
        &"0123456789abcdef and so on, for a whole line of what a test has said\n".repeat(60),
    );
    merge_in_little(&env);
    assert_eq!(value(&env, "merged/reports/merge.json")["counts"], json!({"PASS": 10_000}));
    let tap = read(&env, "merged/test.tap");
    assert_eq!(tap.lines().count(), 10_001);
}
