//! `plume index`.

use std::path::Path;

use mantle::release::CHANNELS;
use nix::sys::signal::Signal;

use crate::support::gcs::{Fault, Gcs};
use crate::support::{Env, Outcome, Running, snapshot};

/// A sealed environment and a store with the buckets of alpha and beta.
struct Bench {
    env: Env,
    gcs: Gcs,
}

/// Bucket and path of what alpha and beta are copied to.
const PLACES: [(&str, &str); 6] = [
    ("alpha.release.core-os.net", ""),
    ("coreos-alpha", ""),
    ("storage.core-os.net", "coreos/"),
    ("coreos-net-storage", "coreos/"),
    ("beta.release.core-os.net", ""),
    ("coreos-beta", ""),
];

impl Bench {
    fn new() -> Self {
        let mut env = Env::new();
        let gcs = Gcs::new();
        env.set("STORAGE_EMULATOR_HOST", gcs.address.to_string()).set("MANTLE_POLL_SCALE", "0.01");
        for (bucket, path) in PLACES {
            for folder in ["1.0.0", "1.1.0", "current", "alpha", "beta"] {
                gcs.put(bucket, &format!("{path}amd64-usr/{folder}/version.txt"), b"x", "text/plain");
            }
            gcs.put(bucket, &format!("{path}amd64-usr/gone/index.html"), b"old", "text/html");
        }
        Self { env, gcs }
    }

    fn index(&self, args: &[&str]) -> Outcome {
        self.env.mantle(&[&["plume", "-v", "index"], args].concat())
    }

    /// What was listed, `*` for everything below; forgets all requests, of which none may have changed anything.
    fn listed(&self) -> Vec<String> {
        let log = self.gcs.take_log();
        assert!(log.iter().all(|r| !r.changes()), "{log:?}");
        let lists = log.iter().filter(|r| r.kind() == "list");
        lists
            .map(|r| {
                let text = r.told().replace("list ", "");
                if r.query.contains_key("delimiter") { text } else { text + "*" }
            })
            .collect()
    }

    fn names(&self) -> Vec<String> {
        PLACES
            .iter()
            .flat_map(|(b, _)| self.gcs.names(b).into_iter().map(move |n| format!("{b}/{n}")))
            .collect()
    }
}

#[test]
fn a_version_gets_its_folder_and_those_above() {
    let bench = Bench::new();
    let before = bench.names();
    bench.index(&["-n", "-C", "alpha", "-B", "amd64-usr", "-V", "1.1.0"]).expect(0);
    let expected: Vec<String> = PLACES[..4]
        .iter()
        .flat_map(|(bucket, path)| {
            let top = format!("{bucket}/{path}");
            [top.clone(), format!("{top}amd64-usr/"), format!("{top}amd64-usr/1.1.0/*")]
        })
        .collect();
    assert_eq!(bench.listed(), expected);
    assert_eq!(bench.names(), before);
    // beta has no folders of versions in the shared buckets
    let outcome = bench.index(&["--dry-run", "--channel=beta", "--board=all", "--version=1.1.0"]).expect(0);
    let listed = bench.listed();
    assert_eq!(listed.len(), 6, "{listed:?}");
    assert!(listed.iter().all(|l| !l.contains("storage")), "{listed:?}");
    assert!(
        outcome.stderr.contains("gs://storage.core-os.net/coreos has no folder 1.1.0, only beta"),
        "{}",
        outcome.stderr
    );
    bench.index(&["-n", "-C=beta", "-B=amd64-usr", "-V=beta"]).expect(0);
    assert_eq!(bench.listed().len(), 12);
    // all versions: the board as a whole
    bench.index(&["-nCbeta", "-Ball", "-Vall"]).expect(0);
    let tops: Vec<String> =
        [4, 5, 2, 3].iter().map(|i| format!("{}/{}*", PLACES[*i].0, PLACES[*i].1)).collect();
    assert_eq!(bench.listed(), tops);
    bench.index(&["-n", "-Cbeta", "-Bamd64-usr", "-Vall"]).expect(0);
    let listed = bench.listed();
    assert_eq!(listed[..2], ["beta.release.core-os.net/", "beta.release.core-os.net/amd64-usr/*"]);
    assert_eq!(listed.len(), 8);
}

#[test]
fn pages_are_written_once_and_stale_ones_go() {
    let bench = Bench::new();
    let args = ["-C", "alpha", "-B", "all", "-V", "all"];
    let dry = bench.index(&[&args[..], &["-n"]].concat()).expect(0);
    let would = |text: &str| dry.stderr.matches(text).count();
    assert!(bench.gcs.take_log().iter().all(|r| !r.changes()));
    bench.index(&args).expect(0);
    // the dry run told the truth
    let changes: Vec<String> =
        bench.gcs.take_log().iter().filter(|r| r.changes()).map(|r| r.told()).collect();
    let deleted = changes.iter().filter(|c| c.starts_with("delete")).count();
    assert_eq!(
        (would("Would write"), would("Would delete")),
        (changes.len() - deleted, deleted),
        "{}",
        dry.stderr
    );
    for (at, (bucket, path)) in PLACES[..4].iter().enumerate() {
        let names = bench.gcs.names(bucket);
        assert!(!names.iter().any(|n| n.contains("gone")), "{names:?}");
        for page in ["index.html", "amd64-usr/index.html", "amd64-usr/1.0.0/index.html"] {
            assert!(names.contains(&format!("{path}{page}")), "{page} in {names:?}");
        }
        for page in ["amd64-usr", "amd64-usr/", "amd64-usr/current", "amd64-usr/current/"] {
            assert_eq!(names.contains(&format!("{path}{page}")), at % 2 == 1, "{page} in {names:?}");
        }
    }
    let page = &bench.gcs.objects("coreos-alpha")["amd64-usr/"];
    let text = String::from_utf8(page.body.clone()).unwrap();
    assert!(text.contains("<title>alpha.release.core-os.net/amd64-usr/</title>"), "{text}");
    assert!(text.contains("1.1.0/") && !text.contains("gone"), "{text}");
    assert_eq!(page.attributes["contentType"], "text/html");
    // again: nothing to do
    bench.index(&args).expect(0);
    assert!(bench.gcs.take_log().iter().all(|r| !r.changes()));
    // beta was not touched
    assert!(bench.gcs.names("beta.release.core-os.net").contains(&"amd64-usr/gone/index.html".into()));
}

#[test]
fn defaults_come_from_the_source_tree() {
    let mut bench = Bench::new();
    let tree = bench.env.home().join("tree");
    bench.env.set("REPO_ROOT", &tree);
    let user = "users.developer.core-os.net/tester/releases/";
    let host = format!("{}-usr", mantle::sdk::host_architecture());
    if host == "amd64-usr" {
        bench.index(&["-n"]).expect(0);
        assert_eq!(bench.listed(), [user.to_owned(), format!("{user}amd64-usr/*")]);
    }
    bench.env.write("tree/src/scripts/.default_board", " amd64-usr\n");
    let text = "COREOS_VERSION='7.1+dev'\nCOREOS_VERSION_ID=7.1\nCOREOS_SDK_VERSION=6\n";
    bench.env.write("tree/.repo/manifests/version.txt", text);
    let below =
        |prefix: &str| [prefix.to_owned(), format!("{prefix}amd64-usr/"), format!("{prefix}amd64-usr/7.1/*")];
    bench.index(&["-n"]).expect(0);
    assert_eq!(bench.listed(), below(user));
    bench.index(&["-n", "--version="]).expect(0);
    assert_eq!(bench.listed(), [user.to_owned(), format!("{user}amd64-usr/*")]);
    // nobody is called ""
    bench.env.unset("USER");
    let name = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name;
    bench.index(&["-n"]).expect(0);
    assert_eq!(bench.listed(), below(&user.replace("tester", &name)));
    bench.env.set("USER", "../x");
    let outcome = bench.index(&["-n"]).expect(1);
    assert!(outcome.stderr.contains("$USER"), "{}", outcome.stderr);
    bench.index(&["-n", "-C", "alpha"]).expect(0); // that needs no user
    bench.env.write("tree/src/scripts/.default_board", "mips-usr");
    let outcome = bench.index(&["-n"]).expect(1);
    assert!(outcome.stderr.contains("$USER"), "{}", outcome.stderr);
    bench.env.set("USER", "x");
    let outcome = bench.index(&["-n"]).expect(2);
    assert!(outcome.stderr.contains("Unknown board: mips-usr"), "{}", outcome.stderr);
}

#[test]
fn what_has_no_destinations_says_so() {
    let mut bench = Bench::new();
    let outcome = bench.env.mantle(&["plume", "index", "-C", "developer", "-B", "amd64-usr"]).expect(0);
    assert!(outcome.stderr.contains("channel developer has no destinations"), "{}", outcome.stderr);
    for args in
        [&["--distro=flatcar", "-C", "stable", "-B=all"][..], &["-C=all", "-Ball", "--distro", "flatcar"]]
    {
        let outcome = bench.index(args).expect(1);
        assert!(
            outcome.stderr.contains("Flatcar has no destinations: the files of Flatcar are copied"),
            "{}",
            outcome.stderr
        );
    }
    bench.env.set("MANTLE_DISTRO", "flatcar");
    bench.index(&["-C", "lts", "-Ball"]).expect(1);
    assert!(bench.gcs.take_log().is_empty());
}

#[test]
fn a_table_of_ones_own_replaces_the_built_in_one() {
    let bench = Bench::new();
    let table = "distributions:\n  cl:\n    title: Ours\n    cloud-boards: [amd64-usr]\n    channels:\n      alpha:\n        \
                 source: \"gs://builds/{board}/{version}\"\n        boards: [amd64-usr, arm64-usr]\n        destinations:\n          \
                 - { url: gs://ours/pub, named-path: newest, title: Ours }\n";
    bench.env.write("ours.yaml", table);
    bench.gcs.put("ours", "pub/arm64-usr/2.0/x", b"x", "text/plain");
    bench.index(&["--channels=ours.yaml", "-C=all", "-B=all", "-V=all"]).expect(0);
    let names =
        ["pub/arm64-usr/2.0/index.html", "pub/arm64-usr/2.0/x", "pub/arm64-usr/index.html", "pub/index.html"];
    assert_eq!(bench.gcs.names("ours"), names);
    let log = bench.gcs.take_log();
    assert!(log.iter().all(|r| r.path.iter().any(|p| p == "ours")), "{log:?}");
    assert_eq!(bench.env.mantle(&["plume", "channels"]).expect(0).stdout, CHANNELS);
    assert_eq!(bench.env.mantle(&["plume", "--channels=ours.yaml", "channels"]).expect(0).stdout, table);
    let mut text = String::new();
    for (find, put) in [
        ("gs://ours/pub", "s3://ours/pub"),
        ("named-path: newest, ", ""),
        ("boards: [amd64-usr, arm64-usr]", "boards: [\"../x\"]"),
        ("title: Ours\n", "titel: Ours\n"),
    ] {
        bench.env.write("wrong.yaml", &table.replace(find, put));
        let index = ["plume", "--channels=wrong.yaml", "index", "-Call", "-Ball"];
        text += &bench.env.mantle(&index).expect(1).stderr;
        bench.env.mantle(&["plume", "--channels=wrong.yaml", "channels"]).expect(1);
    }
    text += &bench
        .index(&["--channels=nowhere.yaml"])
        .expect(1)
        .stderr
        .split_once("Error:")
        .unwrap()
        .1
        .replace("nowhere", "/nowhere");
    snapshot("plume/tables", &text, &[]);
    assert!(bench.gcs.take_log().is_empty());
}

/// What readers of web URLs cut off, decode or tidy up means nothing in a table either.
#[test]
fn pages_land_exactly_where_the_table_says() {
    for odd in crate::ore::ODD {
        let bench = Bench::new();
        let url = serde_json::Value::from(format!("gs://ours/{odd}"));
        let table = format!(
            "distributions:\n  cl:\n    title: Ours\n    cloud-boards: [amd64-usr]\n    channels:\n      alpha:\n        \
             source: \"gs://builds/{{board}}/{{version}}\"\n        boards: [amd64-usr]\n        destinations:\n          \
             - {{ url: {url}, named-path: newest, title: Ours }}\n"
        );
        bench.env.write("ours.yaml", &table);
        let mut expected = vec!["rel/amd64-usr/2.0/x".to_owned(), "amd64-usr/2.0/x".into()];
        expected.push(format!("{odd}/amd64-usr/2.0/x"));
        expected.iter().for_each(|name| bench.gcs.put("ours", name, b"x", "text/plain"));
        bench.index(&["--channels=ours.yaml", "-C=alpha", "-B=amd64-usr", "-V=2.0"]).expect(0);
        for folder in ["", "amd64-usr/", "amd64-usr/2.0/"] {
            expected.push(format!("{odd}/{folder}index.html"));
        }
        expected.sort();
        assert_eq!(bench.gcs.names("ours"), expected, "{odd:?}");
    }
}

#[test]
fn without_credentials_pages_cannot_be_written_but_shown() {
    let mut bench = Bench::new();
    let url = format!("http://{}", bench.gcs.address);
    bench.env.unset("STORAGE_EMULATOR_HOST").set("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", url);
    bench.gcs.set_token("hush");
    let args = ["-C", "alpha", "-B", "all", "-V", "all"];
    let outcome = bench.index(&[&args[..], &["-n"]].concat()).expect(0);
    assert!(outcome.stderr.contains("Would write"), "{}", outcome.stderr);
    let before = bench.names();
    let outcome = bench.index(&args).expect(1);
    assert!(outcome.stderr.contains("pass --gce-json-key"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("the servers of Container Linux are gone"), "{}", outcome.stderr);
    assert_eq!(bench.names(), before);
    bench.env.write("key.json", "{");
    bench.gcs.take_log();
    let outcome = bench.index(&[&args[..], &["--gce-json-key=key.json"]].concat()).expect(1);
    assert!(outcome.stderr.contains("key.json") && !outcome.stderr.contains("gone"), "{}", outcome.stderr);
    assert!(bench.gcs.take_log().is_empty());
}

#[test]
fn a_failure_stops_and_a_second_run_goes_on() {
    let mut bench = Bench::new();
    bench.gcs.judge(|r, _| {
        if r.changes() && r.told().contains("storage.core-os") { Fault::Status(403) } else { Fault::None }
    });
    let args = ["-C", "alpha", "-B", "all", "-V", "all"];
    let outcome = bench.index(&args).expect(1);
    assert!(
        outcome.stderr.contains("cannot update the indexes of gs://storage.core-os.net/coreos/"),
        "{}",
        outcome.stderr
    );
    assert!(bench.gcs.names("coreos-net-storage").iter().all(|n| n != "coreos/index.html"));
    bench.gcs.judge(|_, _| Fault::Stall);
    bench.env.set("MANTLE_POLL_SCALE", "10");
    bench.gcs.take_log();
    let mut command = bench.env.command(Path::new(env!("CARGO_BIN_EXE_mantle")));
    command.args(["plume", "index"]).args(args);
    let running = Running::new(command);
    while bench.gcs.take_log().is_empty() {
        std::thread::yield_now();
    }
    running.signal(Signal::SIGINT);
    running.finish().expect(130);
    bench.gcs.judge(|_, _| Fault::None);
    bench.index(&args).expect(0);
    let first = bench.gcs.take_log().iter().find(|r| r.changes()).unwrap().told();
    assert!(first.contains("storage.core-os.net"), "{first}");
    assert!(bench.gcs.names("coreos-net-storage").iter().any(|n| n == "coreos/index.html"));
}

#[test]
fn wrong_command_lines() {
    let bench = Bench::new();
    let mut pages = String::new();
    for args in [
        &["-C", "gamma", "-B", "amd64-usr"][..],
        &["-C", "", "-B", "amd64-usr"],
        &["-C", "stabel", "-B", "amd64-usr"],
        &["-C", "alpha", "-B", "arm64-usr"],
        &["-C", "all", "-B", "amd46-usr"],
        &["-C", "all", "-B", ""],
        &["-C", "alpha", "-B", "all", "-V", "../x"],
        &["--distro", "gentoo"],
        &["surplus"],
    ] {
        let args = [&["plume", "index"], args].concat();
        let outcome = bench.env.mantle(&args).expect(2);
        pages += &format!("$ {}\n{}", args.join(" "), outcome.stderr);
        assert_eq!(outcome.stdout, "");
    }
    snapshot("plume/usage", &pages, &[]);
    assert!(bench.gcs.take_log().is_empty());
    snapshot("plume/help", &bench.env.mantle(&["plume", "index", "--help"]).expect(0).stdout, &[]);
}

#[test]
fn every_option_of_old_is_understood() {
    let bench = Bench::new();
    let args =
        ["plume", "-d=false", "--gce-json-key", "", "index", "--log-level", "INFO", "--board=amd64-usr"];
    let more = ["--channel", "alpha", "--version", "1.1.0", "--dry-run=true", "--verbose", "--debug"];
    bench.env.mantle(&[&args[..], &more].concat()).expect(0);
    assert_eq!(bench.listed().len(), 12);
    bench.env.mantle(&["plume", "index", "-Balpha", "-Call"]).expect(2);
}

#[test]
fn pages_in_detail_are_made_on_request() {
    let bench = Bench::new();
    bench.index(&["--channel=alpha", "--version=all", "--html-style=details"]).expect(0);
    let objects = bench.gcs.objects("alpha.release.core-os.net");
    let page = &objects["amd64-usr/1.0.0/index.html"].body;
    let page = String::from_utf8_lossy(page);
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains(">version.txt</a>"), "{page}");
}
