//! `ore gcloud sync` killed at each of its requests, then run again.

use std::collections::BTreeMap;
use std::path::Path;

use super::Bench;
use crate::support::gcs::Fault;

/// The text of an object and its attributes.
type Contents = (String, serde_json::Map<String, serde_json::Value>);

const ARGS: [&str; 10] =
    ["ore", "gcloud", "sync", "--delete", "-r", "-D", "-I", "--html-title=Tree", "gs://b/src", "gs://c/dst"];

/// Six objects in three folders; the destination has some of them, some others, and pages of a folder that goes.
fn bench() -> Bench {
    let bench = Bench::with(&[
        "src/version.txt",
        "src/a/image",
        "src/a/image.sig",
        "src/a/note",
        "src/b/x",
        "src/b/same",
    ]);
    bench.gcs.put("c", "dst/b/same", b"src/b/same", "application/octet-stream");
    bench.gcs.put("c", "dst/a/image", b"an older one", "application/octet-stream");
    bench.gcs.put("c", "dst/a/note", b"src/a/note", "text/plain");
    for gone in ["dst/old/1", "dst/old/2", "dst/a/stale"] {
        bench.put("c", gone);
    }
    for page in ["dst/old", "dst/old/", "dst/old/index.html", "dst/", "dst"] {
        bench.gcs.put("c", page, b"an older page", "text/html");
    }
    bench.gcs.set_rewrite_step(9); // the image takes two calls
    bench
}

/// The state after a run that nobody disturbs, and the number of its requests.
fn undisturbed() -> (BTreeMap<String, Contents>, usize) {
    let bench = bench();
    bench.env.mantle(&ARGS).expect(0);
    assert_eq!(
        bench.gcs.names("c"),
        [
            "dst",
            "dst/",
            "dst/a",
            "dst/a/",
            "dst/a/image",
            "dst/a/image.sig",
            "dst/a/index.html",
            "dst/a/note",
            "dst/b",
            "dst/b/",
            "dst/b/index.html",
            "dst/b/same",
            "dst/b/x",
            "dst/index.html",
            "dst/version.txt",
        ]
    );
    (bench.gcs.contents("c"), bench.gcs.take_log().len())
}

#[test]
fn at_any_request_the_next_run_ends_the_same() {
    let (expected, requests) = undisturbed();
    assert!((20..60).contains(&requests), "{requests}");
    for fault in [Fault::Kill, Fault::KillAfter] {
        for at in 0..requests {
            let bench = bench();
            bench.gcs.judge(move |_, n| if n == at { fault } else { Fault::None });
            let running = bench.env.start(Path::new(env!("CARGO_BIN_EXE_mantle")), &ARGS);
            bench.gcs.set_victim(running.id());
            let outcome = running.finish();
            assert_eq!(outcome.code, -9, "request {at}: {}", outcome.stderr);
            bench.gcs.thaw();
            bench.env.mantle(&ARGS).expect(0);
            assert_eq!(bench.gcs.contents("c"), expected, "{fault:?} at request {at}");
        }
    }
}

#[test]
fn any_request_may_fail_once() {
    let (expected, requests) = undisturbed();
    // The client cannot tell the last two from the first two: every second request is enough.
    for (fault, step) in
        [(Fault::Status(503), 1), (Fault::ResetAfter, 1), (Fault::StatusAfter(503), 2), (Fault::Reset, 2)]
    {
        for at in (0..requests).step_by(step) {
            let bench = bench();
            bench.gcs.judge(move |_, n| if n == at { fault } else { Fault::None });
            let outcome = bench.env.mantle(&ARGS);
            assert_eq!(outcome.code, 0, "{fault:?} at request {at}: {}", outcome.stderr);
            assert!(outcome.stderr.contains("trying again in"), "{}", outcome.stderr);
            assert_eq!(bench.gcs.contents("c"), expected, "{fault:?} at request {at}");
        }
    }
}
