//! Servers that fail in ways that one request tried again does not cure.

use super::Bench;
use crate::support::gcs::Fault;

#[test]
fn silence_is_not_waited_for() {
    for kind in ["list", "get", "insert", "rewrite", "delete", "patch"] {
        let mut bench = Bench::with(&["src/x", "src/y"]);
        bench.env.set("MANTLE_POLL_SCALE", "0.01"); // 0.6 s of silence are too long
        bench.gcs.put("c", "d/y", b"src/y", "text/plain");
        bench.gcs.put("c", "d/gone", b"", "text/plain");
        let mut once = true;
        bench.gcs.judge(move |r, _| match r.kind() == kind && std::mem::take(&mut once) {
            true => Fault::Stall,
            false => Fault::None,
        });
        let outcome = bench.gcloud(&["sync", "--delete", "-I", "gs://b/src", "gs://c/d"]);
        assert_eq!(outcome.code, 0, "{kind}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("sent nothing for"), "{kind}: {}", outcome.stderr);
        assert_eq!(bench.gcs.names("c"), ["d/index.html", "d/x", "d/y"]);
    }
}

#[test]
fn a_server_that_is_down_ends_the_run() {
    let bench = Bench::with(&["p/x"]);
    bench.gcs.judge(|r, _| if r.changes() { Fault::Status(503) } else { Fault::None });
    let outcome = bench.gcloud(&["index", "gs://b/p"]).expect(1);
    assert_eq!(outcome.stderr.matches("trying again in").count(), 4, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("storage.objects.insert gs://b/p/index.html"), "{}", outcome.stderr);
    let tries = bench.gcs.take_log().iter().filter(|r| r.kind() == "insert").count();
    assert_eq!(tries, 5, "one layer of retries");
}

#[test]
fn what_is_permanent_is_not_tried_again() {
    let bench = Bench::with(&["p/x"]);
    bench.gcs.judge(|r, _| if r.changes() { Fault::Status(403) } else { Fault::None });
    bench.gcloud(&["index", "gs://b/p"]).expect(1);
    assert_eq!(bench.gcs.take_log().iter().filter(|r| r.kind() == "insert").count(), 1);
}

/// fake-gcs-server and others do not check what arrives.
#[test]
fn a_page_that_arrives_damaged_is_an_error() {
    let bench = Bench::with(&["p/x"]);
    bench.gcs.judge(|_, _| Fault::Flip);
    let outcome = bench.gcloud(&["index", "gs://b/p"]).expect(1);
    assert!(outcome.stderr.contains("what is stored differs from what was sent"), "{}", outcome.stderr);
    bench.gcs.judge(|_, _| Fault::None);
    bench.gcloud(&["index", "gs://b/p"]).expect(0);
    assert!(bench.text("b", "p/index.html").starts_with("<html>"));
}

#[test]
fn what_is_deleted_by_somebody_else_is_deleted() {
    let bench = Bench::with(&["src/x"]);
    bench.gcs.put("c", "gone", b"", "text/plain");
    // done, but the answer is lost: the second try finds nothing
    bench.gcs.judge(|r, n| if r.kind() == "delete" && n < 5 { Fault::ResetAfter } else { Fault::None });
    bench.gcloud(&["sync", "--delete", "gs://b/src", "gs://c"]).expect(0);
    assert_eq!(bench.gcs.names("c"), ["x"]);
}

#[test]
fn what_somebody_else_has_changed_is_not_deleted() {
    let bench = Bench::with(&["src/x"]);
    bench.gcs.put("c", "d/gone", b"", "text/plain");
    bench.gcs.judge(|r, _| if r.kind() == "delete" { Fault::Overtake } else { Fault::None });
    bench.gcloud(&["sync", "--delete", "gs://b/src", "gs://c/d"]).expect(1);
    assert_eq!(bench.text("c", "d/gone"), "theirs");
}
