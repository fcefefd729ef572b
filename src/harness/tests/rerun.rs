//! Tests that are run again.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A case that fails as long as the number of its run is below `failures`.
fn fails(name: &str, failures: u32) -> Case {
    let runs = Arc::new(AtomicU32::new(0));
    Case::simple(name, LONG, move |t| {
        let run = runs.fetch_add(1, Ordering::SeqCst);
        async move {
            t.log(format!("run {run} in {}", t.output_dir()?.strip_prefix("/").is_ok()));
            t.run("sub", async move |_| if run < failures { bail!("as planned, {run}") } else { Ok(()) })
                .await;
            Ok(())
        }
    })
}

async fn rerun(cases: Vec<Case>, rerun: Rerun) -> Ran {
    run_with(cases, 1, CancellationToken::new(), rerun).await
}

fn twice() -> Rerun {
    Rerun { times: 2, percent: 100, ..Rerun::default() }
}

#[tokio::test(start_paused = true)]
async fn who_passes_at_last_is_flaky_and_who_does_not_has_failed() {
    let ran = rerun(
        vec![fails("a", 0), fails("b", 1), fails("c", 2), fails("d", 9)],
        Rerun { percent: 200, ..twice() },
    )
    .await;
    let outcomes = ["a", "b", "c", "d"].map(|name| {
        let json: serde_json::Value = serde_json::from_str(&ran.file("reports/report.json")).unwrap();
        let row = json["tests"].as_array().unwrap().iter().find(|t| t["name"] == name).unwrap().clone();
        let earlier = row["earlier"].as_array().map_or(0, Vec::len);
        format!("{} {earlier}", row["result"].as_str().unwrap())
    });
    assert_eq!(outcomes, ["PASS 0", "FLAKY 1", "FLAKY 2", "FAIL 2"]);
    assert_eq!(
        ran.file("test.tap").lines().filter(|l| l.starts_with("ok") || l.starts_with("not ok")).count(),
        4
    );
    let summary = ran.summary();
    assert_eq!((summary.count(Outcome::Flaky), summary.count(Outcome::Fail), summary.reruns), (2, 1, 5));
    assert_eq!(summary.flaky[0].headline(), "b/sub: as planned, 0");
    assert!(ran.dir.path().join("rerun-2/c").is_dir());
    let junit = ran.file("reports/junit.xml");
    assert_eq!(junit.matches("<flakyFailure").count(), 6, "with the sub-tests: {junit}");
    assert_eq!(junit.matches("<rerunFailure").count(), 4, "{junit}");
    assert_eq!(junit.matches("<testcase").count(), 8);
    // A sub-test has one name, however often it is run.
    assert!(!junit.contains("sub#01"));
}

#[tokio::test(start_paused = true)]
async fn the_share_that_may_be_run_again_is_kept() {
    let cases = (0..20).map(|n| fails(&format!("t.{n}"), 9)).collect();
    let ran = rerun(cases, Rerun { times: 3, percent: 15, ..Rerun::default() }).await;
    let summary = ran.summary();
    assert_eq!((summary.reruns, summary.not_rerun.len()), (3, 20));
    // One may always be.
    let ran = rerun(vec![fails("alone", 1)], Rerun { times: 1, percent: 0, ..Rerun::default() }).await;
    assert!(ran.result.is_ok(), "{}", ran.text);
}

#[tokio::test(start_paused = true)]
async fn only_the_causes_that_are_asked_for_are_met_again() {
    let lost = |name: &str| Case::simple(name, LONG, async |_| Err(infra(std::io::Error::other("no room"))));
    let causes = vec![Fault::Infra];
    let ran = rerun(vec![fails("a", 1), lost("b")], Rerun { causes, ..twice() }).await;
    let summary = ran.summary();
    assert_eq!((summary.count(Outcome::Fail), summary.count(Outcome::Infra), summary.reruns), (1, 1, 2));
    assert!(ran.file("reports/junit.xml").contains("<error message=\"no room\" type=\"infra\""));
}

#[tokio::test(start_paused = true)]
async fn what_is_tolerated_is_neither_failed_nor_run_again() {
    let case = Case::simple("a", LONG, async |t| {
        t.tolerate("known, bug 7");
        bail!("as planned")
    });
    let ran = rerun(vec![case], twice()).await;
    let summary = ran.summary();
    assert!(ran.result.is_ok());
    assert_eq!((summary.count(Outcome::Warn), summary.reruns), (1, 0));
    assert!(ran.text.contains("a failure is a warning: known, bug 7"), "{}", ran.text);
    assert!(ran.file("test.tap").contains("not ok - a # TODO"));
}
