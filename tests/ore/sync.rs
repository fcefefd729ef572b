//! `ore gcloud sync`: what is copied, what is deleted, in which order.

use super::Bench;
use crate::support::gcs::Fault;

/// Bucket `b` holds the source below `src/`, bucket `c` the destination below `dst/`.
fn bench() -> Bench {
    let bench = Bench::with(&[
        "src/1/image",
        "src/1/image.sig",
        "src/1/version.txt",
        "src/top",
        "src/same",
        "other/x",
    ]);
    // pages, which stay where they are
    for page in ["src", "src/1", "src/1/", "src/1/index.html", "src/index.html"] {
        bench.gcs.put("b", page, page.as_bytes(), "text/html");
    }
    bench.gcs.put("c", "dst/same", b"src/same", "application/octet-stream");
    bench.gcs.put("c", "dst/1/image", b"another", "application/octet-stream");
    bench.gcs.put("c", "dst/stale", b"stale", "application/octet-stream");
    bench.gcs.put("c", "dst/sub/stale", b"stale", "application/octet-stream");
    bench.gcs.put("c", "outside", b"outside", "application/octet-stream");
    bench
}

const COPIES: [&str; 4] = [
    "rewrite c/dst/1/image",
    "rewrite c/dst/1/image.sig",
    "rewrite c/dst/1/version.txt",
    "rewrite c/dst/top",
];

/// Upstream deleted `stale` here.
#[test]
fn nothing_is_deleted_unless_asked() {
    let bench = bench();
    assert_eq!(bench.changes(&["sync", "-r", "gs://b/src", "gs://c/dst"]), COPIES);
    assert_eq!(bench.text("c", "dst/stale"), "stale");
    assert_eq!(bench.text("c", "dst/1/image"), "src/1/image");
    assert_eq!(bench.changes(&["sync", "-r", "gs://b/src", "gs://c/dst"]), [""; 0]);
    let gone = bench.changes(&["sync", "-r", "--delete", "gs://b/src", "gs://c/dst"]);
    assert_eq!(gone, ["delete c/dst/stale", "delete c/dst/sub/stale"]);
    assert_eq!(
        bench.gcs.names("c"),
        ["dst/1/image", "dst/1/image.sig", "dst/1/version.txt", "dst/same", "dst/top", "outside"]
    );
    assert_eq!(bench.gcs.names("b").len(), 11, "the source is as it was");
}

#[test]
fn without_recursion_folders_are_left_alone() {
    let bench = bench();
    let changes = bench.changes(&["sync", "--delete", "gs://b/src", "gs://c/dst"]);
    assert_eq!(changes, ["delete c/dst/stale", "rewrite c/dst/top"]);
}

#[test]
fn force_copies_what_is_there() {
    let bench = bench();
    let changes = bench.changes(&["sync", "-f", "gs://b/src", "gs://c/dst"]);
    assert_eq!(changes, ["rewrite c/dst/same", "rewrite c/dst/top"]);
}

/// A reader never finds a signature without its file, a version without its files, a page without what it lists.
#[test]
fn everything_has_its_turn() {
    let bench = bench();
    bench.gcs.set_rewrite_step(4);
    bench.gcloud(&["sync", "-r", "--delete", "-D", "-I", "gs://b/src", "gs://c/dst"]).expect(0);
    let log = bench.gcs.take_log();
    let turn = |told: &str| match told {
        t if t.ends_with("image.sig") => 1,
        t if t.ends_with("version.txt") => 2,
        t if t.starts_with("rewrite") => 0,
        t if t.starts_with("delete") => 3,
        _ => 4,
    };
    let turns: Vec<_> = log.iter().filter(|r| r.changes()).map(|r| turn(&r.told())).collect();
    assert!(turns.is_sorted(), "{:?}", log.iter().map(|r| r.told()).collect::<Vec<_>>());
    assert!(turns.len() > 12, "copies of several steps: {turns:?}");
    // before a redirect its page, before the page of a folder those in it
    let at = |told: &str| log.iter().position(|r| r.told() == told).unwrap();
    assert!(at("insert c/dst/1/index.html") < at("insert c/dst/1/"));
    assert!(at("insert c/dst/1/") < at("insert c/dst/1"));
    assert_eq!(
        bench.gcs.names("c"),
        [
            "dst",
            "dst/",
            "dst/1",
            "dst/1/",
            "dst/1/image",
            "dst/1/image.sig",
            "dst/1/index.html",
            "dst/1/version.txt",
            "dst/index.html",
            "dst/same",
            "dst/top",
            "outside",
        ]
    );
    assert!(bench.text("c", "dst/").contains("<title>c/dst/</title>"));
}

#[test]
fn copies_state_what_they_replace() {
    let bench = bench();
    bench.gcloud(&["sync", "-r", "gs://b/src", "gs://c/dst"]).expect(0);
    let log = bench.gcs.take_log();
    for request in log.iter().filter(|r| r.kind() == "rewrite") {
        let condition = &request.query["ifGenerationMatch"];
        assert_eq!(condition == "0", request.told() != "rewrite c/dst/1/image", "{}", request.told());
        assert!(request.query.contains_key("ifSourceGenerationMatch"));
    }
}

#[test]
fn a_dry_run_says_what_a_real_run_does() {
    let bench = bench();
    let args = ["-r", "--delete", "-D", "-I", "gs://b/src", "gs://c/dst"];
    let before = bench.gcs.contents("c");
    let outcome = bench.gcloud(&[&["sync", "-n"][..], &args].concat()).expect(0);
    assert_eq!(bench.gcs.contents("c"), before);
    assert!(bench.gcs.take_log().iter().all(|r| !r.changes()));
    let said = |text: &str, words: [(&str, &str); 3]| {
        let mut lines = Vec::new();
        for line in text.lines() {
            lines.extend(words.iter().filter_map(|(word, kind)| {
                Some(format!("{kind} {}", line.split_once(&format!("bucket: {word} "))?.1))
            }));
        }
        lines.sort();
        lines
    };
    let would =
        said(&outcome.stderr, [("Would copy", "copy"), ("Would write", "write"), ("Would delete", "delete")]);
    let outcome = bench.gcloud(&[&["sync"][..], &args].concat()).expect(0);
    let done = said(&outcome.stderr, [("Copying", "copy"), ("Writing", "write"), ("Deleting", "delete")]);
    assert_eq!(would, done);
    assert_eq!(would.len(), 4 + 6 + 2, "{would:?}");
}

/// Upstream never carried over a change of type or cache control alone.
#[test]
fn attributes_follow_without_a_copy() {
    let bench = bench();
    bench.gcs.change("b", "src/same", |o| {
        o.attributes.insert("contentType".into(), "text/plain".into());
        o.attributes.insert("cacheControl".into(), "no-store".into());
        o.attributes.insert("metadata".into(), serde_json::json!({"k": "v"}));
    });
    bench.gcs.change("c", "dst/same", |o| {
        o.attributes.insert("contentLanguage".into(), "tlh".into());
    });
    assert_eq!(
        bench.changes(&["sync", "gs://b/src", "gs://c/dst"]),
        ["patch c/dst/same", "rewrite c/dst/top"]
    );
    let (from, to) = (bench.gcs.objects("b"), bench.gcs.objects("c"));
    assert_eq!(from["src/same"].attributes, to["dst/same"].attributes);
    assert_eq!(bench.changes(&["sync", "gs://b/src", "gs://c/dst"]), [""; 0]);
    // and a copy has them from the start
    bench.gcs.change("b", "src/top", |o| {
        o.body = b"new".to_vec();
        o.crc32c = crc32c::crc32c(b"new");
        o.attributes.insert("contentEncoding".into(), "gzip".into());
    });
    assert_eq!(bench.changes(&["sync", "gs://b/src", "gs://c/dst"]), ["rewrite c/dst/top"]);
    assert_eq!(bench.gcs.objects("c")["dst/top"].attributes["contentEncoding"], "gzip");
}

/// A wrong or half uploaded source must not wipe the destination.
#[test]
fn most_of_the_destination_is_not_deleted_without_permission() {
    let bench = Bench::with(&["src/1"]);
    for n in 0..12 {
        bench.put("c", &format!("dst/{n}"));
    }
    let args = ["sync", "--delete", "gs://b/src", "gs://c/dst"];
    let outcome = bench.gcloud(&args).expect(1);
    let text = "gs://c/dst/: 11 of 12 objects would be deleted, because they are not in gs://b/src/";
    assert!(outcome.stderr.contains(text), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("--allow-mass-delete"), "{}", outcome.stderr);
    assert!(bench.gcs.take_log().iter().all(|r| !r.changes()), "nothing is changed before the refusal");
    let outcome = bench.gcloud(&["sync", "-n", "--delete", "gs://b/src", "gs://c/dst"]).expect(0);
    assert_eq!(outcome.stderr.matches("Would delete ").count(), 11, "{}", outcome.stderr);
    bench.gcloud(&["sync", "--delete", "--allow-mass-delete", "gs://b/src", "gs://c/dst"]).expect(0);
    assert_eq!(bench.gcs.names("c"), ["dst/1"]);
}

#[test]
fn ten_objects_or_half_of_all_may_go() {
    let bench = Bench::with(&["src/x"]);
    for n in 0..10 {
        bench.put("c", &format!("dst/{n}"));
    }
    assert_eq!(bench.changes(&["sync", "--delete", "gs://b/src", "gs://c/dst"]).len(), 11);
    for n in 0..11 {
        bench.put("b", &format!("src/keep{n}"));
        bench.put("c", &format!("dst/{n}"));
        bench.put("c", &format!("dst/keep{n}"));
    }
    bench.gcloud(&["sync", "--delete", "gs://b/src", "gs://c/dst"]).expect(0);
    assert_eq!(bench.gcs.names("c").len(), 12);
}

#[test]
fn everything_is_copied_before_anything_is_deleted() {
    let bench = bench();
    bench.gcs.judge(|r, _| match r.told() {
        t if t == "rewrite c/dst/1/image" => Fault::Status(403),
        _ => Fault::None,
    });
    let outcome = bench.gcloud(&["sync", "-r", "--delete", "gs://b/src", "gs://c/dst"]).expect(1);
    assert!(outcome.stderr.contains("storage.objects.rewrite gs://c/dst/1/image"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("403"), "{}", outcome.stderr);
    let log = bench.gcs.take_log();
    assert!(
        log.iter()
            .all(|r| r.kind() != "delete" && !r.told().contains(".sig") && !r.told().contains("version"))
    );
}

#[test]
fn all_errors_are_told() {
    let names: Vec<String> = (0..30).map(|n| format!("src/{n}")).collect();
    let bench = Bench::with(&names.iter().map(String::as_str).collect::<Vec<_>>());
    bench.gcs.judge(|r, _| if r.kind() == "rewrite" { Fault::Status(403) } else { Fault::None });
    let outcome = bench.gcloud(&["sync", "gs://b/src", "gs://c/dst"]).expect(1);
    assert!(outcome.stderr.contains("30 operations failed:"), "{}", outcome.stderr);
    assert_eq!(
        outcome.stderr.matches("storage.objects.rewrite gs://c/dst/").count(),
        10,
        "{}",
        outcome.stderr
    );
    assert!(outcome.stderr.contains("and 20 more"), "{}", outcome.stderr);
}

#[test]
fn a_failed_listing_changes_nothing() {
    let bench = bench();
    bench.gcs.judge(|r, _| match r.told() {
        t if t == "list b/src/" => Fault::Status(404),
        _ => Fault::None,
    });
    let outcome = bench.gcloud(&["sync", "-r", "--delete", "gs://b/src", "gs://c/dst"]).expect(1);
    assert!(outcome.stderr.contains("cannot list gs://b/src/"), "{}", outcome.stderr);
    assert!(bench.gcs.take_log().iter().all(|r| !r.changes()));
}

#[test]
fn names_of_every_kind_arrive() {
    let names = [
        "src/a b",
        "src/ü",
        "src/a?b#c",
        "src/x%2Fy",
        "src/.../..",
        "src/\"q\"",
        "src/d:1/<x>",
        "src//double",
    ];
    let bench = Bench::with(&names);
    bench.gcloud(&["sync", "-r", "-D", "-I", "gs://b/src", "gs://c"]).expect(0);
    for name in names {
        assert_eq!(bench.text("c", &name[4..]), name);
    }
    assert_eq!(bench.changes(&["sync", "-r", "--delete", "-D", "-I", "gs://b/src", "gs://c"]), [""; 0]);
}

/// In a URL they would mean the bucket, or something else in it.
#[test]
fn names_that_lead_elsewhere_are_refused() {
    let bench = Bench::with(&["src/..", "src/."]);
    let outcome = bench.gcloud(&["sync", "gs://b/src", "gs://c"]).expect(1);
    assert!(outcome.stderr.contains("not the name of an object: gs://c/.."), "{}", outcome.stderr);
    assert!(bench.gcs.take_log().iter().all(|r| !r.changes()));
}

#[test]
fn a_copy_that_differs_is_found_out() {
    let bench = Bench::with(&["src/x"]);
    let gcs = bench.gcs.clone();
    // the source claims another checksum than its content has
    gcs.change("b", "src/x", |o| o.crc32c ^= 1);
    let outcome = bench.gcloud(&["sync", "gs://b/src", "gs://c"]).expect(1);
    assert!(outcome.stderr.contains("the copy differs from the original"), "{}", outcome.stderr);
}

#[test]
fn data_under_the_name_of_a_page_is_said_and_fails_in_the_end() {
    let bench = Bench::with(&["src/1/image", "src/1", "src/index.html", "src/2/index.html", "src/2/x"]);
    // What can be a page is no data, and nor is a placeholder.
    bench.gcs.put("b", "src/2/index.html", b"page", "text/html; charset=utf-8");
    bench.gcs.put("b", "src/2/", b"", "application/octet-stream");
    let args = ["sync", "-r", "-I", "gs://b/src", "gs://c/dst"];
    let dry = bench.gcloud(&["sync", "-r", "-I", "-n", "gs://b/src", "gs://c/dst"]).expect(0);
    let outcome = bench.gcloud(&args).expect(1);
    for text in [&dry.stderr, &outcome.stderr] {
        let said: Vec<_> = text.lines().filter(|l| l.contains("it is not copied")).collect();
        assert_eq!(said.len(), 2, "{text}");
        assert!(
            said[0].contains("gs://b/src/1 has the name of a page and is none (5 bytes of type "),
            "{text}"
        );
        assert!(said[1].contains("gs://b/src/index.html has the name of a page"), "{text}");
        assert!(text.contains(" 2 left out"), "{text}");
    }
    assert!(outcome.stderr.contains("2 objects of gs://b/src/ were not copied"), "{}", outcome.stderr);
    // All else is done.
    let names = ["dst/1/image", "dst/1/index.html", "dst/2/index.html", "dst/2/x", "dst/index.html"];
    assert_eq!(bench.gcs.names("c"), names);
    // A second run has nothing to do, and what was left out is left out still.
    bench.gcs.take_log();
    bench.gcloud(&args).expect(1);
    assert!(bench.gcs.take_log().iter().all(|r| !r.changes()));
    // Without -r only what lies directly in it was asked for.
    let outcome = bench.gcloud(&["sync", "gs://b/src/2", "gs://c/two"]).expect(0);
    assert!(!outcome.stderr.contains("left out"), "{}", outcome.stderr);
}
