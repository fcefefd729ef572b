//! Time limits and interruptions.

use super::*;
use crate::cause::{Cause, Diagnosis};

#[tokio::test(start_paused = true)]
async fn a_hanging_body_is_stopped_and_the_owner_cleans_up() {
    struct Held(Story);
    impl Drop for Held {
        fn drop(&mut self) {
            self.0.add("body dropped");
        }
    }
    let story = Story::default();
    let told = story.clone();
    let hang = Case::new(
        "a",
        Duration::from_secs(90),
        once(|t| async move {
            let (body, held) = (t.clone(), Held(told.clone()));
            let result = t
                .body(async move {
                    let _held = held;
                    body.log("last words");
                    std::future::pending().await
                })
                .await;
            // Its own deadlines: longer than the grace of bodies, and not shortened by the token.
            sleep(Duration::from_secs(30)).await;
            told.add("cleaned up");
            result
        }),
    );
    let ran = run_cases(vec![hang, case("b", async |_| Ok(()))], 1).await;
    assert_eq!(
        ran.results(),
        "\
--- FAIL: a (121.00s)
        stopping.rs:N: last words
        timed out after 90 s
--- PASS: b (0.00s)
"
    );
    assert_eq!(story.told(), ["body dropped", "cleaned up"]);
    assert!(!ran.summary().interrupted);
}

#[tokio::test(start_paused = true)]
async fn a_body_may_react_to_its_token() {
    let ran = run_cases(
        vec![Case::simple("a", Duration::from_millis(1500), |t| async move {
            t.cancel().cancelled().await;
            bail!("waiting for the machine: state was booting")
        })],
        1,
    )
    .await;
    assert_eq!(
        ran.results(),
        "--- FAIL: a (1.50s)\n        waiting for the machine: state was booting\n        timed out after 1.5 s\n"
    );
}

#[tokio::test(start_paused = true)]
async fn subtests_of_all_kinds_end_with_the_case() {
    let ran = run_cases(
        vec![Case::simple("a", Duration::from_secs(10), |t| async move {
            t.run("parked", async |t| {
                t.parallel().await;
                Ok(())
            })
            .await;
            t.run("hangs", async |_| std::future::pending().await).await;
            Ok(())
        })],
        1,
    )
    .await;
    let results = ran.results();
    assert!(results.starts_with("--- FAIL: a (11.00s)\n"), "{results}");
    for block in [
        "    --- FAIL: a/parked (0.00s)\n            timed out after 10 s\n",
        "    --- FAIL: a/hangs (11.00s)\n            timed out after 10 s\n",
    ] {
        assert!(results.contains(block), "{results}");
    }
}

#[tokio::test(start_paused = true)]
async fn parallel_subtests_are_under_the_limit_too() {
    let ran = run_cases(
        vec![Case::new("a", Duration::from_secs(10), |t| async move {
            let body = t.clone();
            let result = t
                .body(async move {
                    body.run("slow", async |t| {
                        t.parallel().await;
                        std::future::pending().await
                    })
                    .await;
                    Ok(())
                })
                .await;
            t.join().await;
            result
        })],
        1,
    )
    .await;
    assert_eq!(
        ran.results(),
        "--- FAIL: a (11.00s)\n    --- FAIL: a/slow (11.00s)\n            timed out after 10 s\n"
    );
}

#[tokio::test(start_paused = true)]
async fn slow_cleaning_up_is_no_timeout() {
    let ran = run_cases(
        vec![Case::new("a", Duration::from_secs(10), |t| async move {
            let result = t.body(async { Ok(()) }).await;
            sleep(Duration::from_secs(20)).await;
            assert!(t.stopped().is_none());
            // But nothing more begins after the limit.
            let second = t.body(async { Ok(()) }).await;
            assert_eq!(second.unwrap_err().downcast_ref(), Some(&Stopped::TimedOut(Duration::from_secs(10))));
            result
        })],
        1,
    )
    .await;
    assert_eq!(ran.results(), "--- PASS: a (20.00s)\n");
}

#[tokio::test(start_paused = true)]
async fn an_owner_stopped_in_its_set_up_is_told_why() {
    let ran = run_cases(
        vec![Case::new("a", Duration::from_secs(5), |t| async move {
            t.cancel().cancelled().await;
            bail!("no machine yet")
        })],
        1,
    )
    .await;
    assert_eq!(ran.results(), "--- FAIL: a (5.00s)\n        no machine yet\n        timed out after 5 s\n");
    assert!(ran.file("reports/junit.xml").contains("type=\"timeout\""));
}

#[tokio::test]
async fn a_body_that_blocks_its_thread_does_not_block_the_run() {
    // Not the paused clock: blocked threads and advancing time do not mix. The body is let go at the end.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    let (let_go, wait) = std::sync::mpsc::channel::<()>();
    let ran = runtime.spawn(async move {
        let stuck = Case::simple(
            "a",
            Duration::from_millis(10),
            once(|_| async move {
                let _ = wait.recv();
                Ok(())
            }),
        );
        run_cases(vec![stuck], 1).await
    });
    let ran = ran.await.unwrap();
    drop(let_go);
    runtime.shutdown_background();
    assert!(ran.text.contains("cannot be stopped"), "{}", ran.text);
    assert!(ran.text.contains("timed out after 0.01 s"), "{}", ran.text);
}

#[tokio::test(start_paused = true)]
async fn an_interruption_stops_everything_once_and_is_reported() {
    let cancel = CancellationToken::new();
    let (signal, story) = (cancel.clone(), Story::default());
    let told = story.clone();
    let cases = vec![
        case("a", async |_| Ok(())),
        Case::new(
            "b",
            LONG,
            once(|t| async move {
                let body = t.clone();
                let result = t
                    .body(async move {
                        body.run("parked", async |t| {
                            t.parallel().await;
                            Ok(())
                        })
                        .await;
                        body.run("sub", |_| async move {
                            signal.cancel();
                            std::future::pending().await
                        })
                        .await;
                        assert!(!body.run("new", async |_| panic!("must not start")).await);
                        Ok(())
                    })
                    .await;
                t.join().await;
                sleep(Duration::from_secs(5)).await;
                told.add("cleaned up");
                result
            }),
        ),
        case("c", async |_| panic!("must not start")),
    ];
    let ran = run_until(cases, 1, cancel).await;
    assert_eq!(ran.summary().to_string(), "3 run: 1 passed, 1 interrupted, 1 skipped");
    assert!(ran.summary().interrupted);
    assert!(ran.result.is_err());
    assert_eq!(story.told(), ["cleaned up"]);
    assert!(
        ran.text.contains("--- SKIP: c (0.00s)\n        not started: the run was interrupted\n"),
        "{}",
        ran.text
    );
    for name in ["b", "b/parked", "b/sub"] {
        assert!(ran.text.contains(&format!("--- INTERRUPTED: {name} (")), "{name}: {}", ran.text);
    }
    assert!(!ran.text.contains("--- FAIL"), "{}", ran.text);
    assert!(!ran.text.contains("must not start"), "{}", ran.text);
    assert!(ran.file("test.tap").starts_with("1..3\nok - a\n"));
    assert!(ran.file("reports/report.json").contains(r#""result":"FAIL","platform""#));
}

#[tokio::test(start_paused = true)]
async fn what_failed_before_the_interruption_has_failed() {
    let cancel = CancellationToken::new();
    let signal = cancel.clone();
    let case = case("a", |t| async move {
        t.run("wrong", async |_| bail!("no")).await;
        signal.cancel();
        std::future::pending().await
    });
    let ran = run_until(vec![case], 1, cancel).await;
    assert_eq!(
        ran.results(),
        "--- FAIL: a (1.00s)\n    --- FAIL: a/wrong (0.00s)\n            no\n        interrupted\n"
    );
}

#[tokio::test(start_paused = true)]
async fn an_interruption_while_cleaning_up_changes_no_result() {
    let cancel = CancellationToken::new();
    let signal = cancel.clone();
    let case = Case::new(
        "a",
        LONG,
        once(|t| async move {
            let result = t.body(async { Ok(()) }).await;
            signal.cancel();
            sleep(Duration::from_secs(3)).await;
            result
        }),
    );
    let ran = run_until(vec![case], 1, cancel).await;
    assert_eq!(ran.results(), "--- PASS: a (3.00s)\n");
    assert_eq!(ran.summary().to_string(), "1 run: 1 passed");
    assert!(ran.summary().interrupted);
    assert!(ran.result.is_err());
}

#[tokio::test(start_paused = true)]
async fn dropping_the_run_leaves_no_task() {
    let (alive, mut ended) = tokio::sync::mpsc::channel(1);
    let run = run_cases(
        vec![Case::new(
            "a",
            LONG,
            once(|t| async move {
                let (body, held) = (t.clone(), alive);
                t.body(async move {
                    body.run("sub", |_| async move {
                        let _held: tokio::sync::mpsc::Sender<()> = held;
                        std::future::pending().await
                    })
                    .await;
                    Ok(())
                })
                .await
            }),
        )],
        1,
    );
    assert!(tokio::time::timeout(Duration::from_secs(5), run).await.is_err());
    assert!(ended.recv().await.is_none());
}

/// A loss that becomes known after so many milliseconds.
async fn lost_after(milliseconds: u64) -> Diagnosis {
    sleep(Duration::from_millis(milliseconds)).await;
    Diagnosis::new(Cause::KernelPanic, "the machine died:\nits last words")
}

#[tokio::test(start_paused = true)]
async fn a_loss_ends_body_and_subtests_at_once_with_its_cause() {
    let story = Story::default();
    let told = story.clone();
    let lose = Case::new(
        "a",
        LONG,
        once(|t| async move {
            let body = t.clone();
            let result = t
                .body_on(lost_after(1500), async move {
                    body.run("parked", async |t| {
                        t.parallel().await;
                        Ok(())
                    })
                    .await;
                    body.run("hangs", async |_| std::future::pending().await).await;
                    Ok(())
                })
                .await;
            sleep(Duration::from_secs(30)).await;
            told.add("cleaned up");
            result
        }),
    );
    let ran = run_cases(vec![lose, case("b", async |_| Ok(()))], 1).await;
    let results = ran.results();
    assert!(results.contains("--- FAIL: a (31.50s)\n"), "{results}");
    for block in [
        "    --- FAIL: a/parked (0.00s)\n            the machine died\n",
        "    --- FAIL: a/hangs (1.50s)\n            the machine died\n",
        "\n        the machine died:\n            its last words\n",
        "--- PASS: b (0.00s)\n",
    ] {
        assert!(results.contains(block), "{results}");
    }
    assert_eq!(story.told(), ["cleaned up"]);
    let summary = ran.summary();
    assert!(!summary.interrupted);
    assert_eq!(summary.bad[0].headline(), "the machine died:");
    assert_eq!(ran.file("reports/junit.xml").matches("type=\"kernel-panic\"").count(), 3);
}

#[tokio::test(start_paused = true)]
async fn failures_that_are_signs_of_a_loss_give_way_to_it() {
    let on = |name: &str, after: u64, body: fn(T) -> BoxFuture<'static, eyre::Result<()>>| {
        Case::new(name, LONG, move |t: T| async move { t.body_on(lost_after(after), body(t.clone())).await })
    };
    let cases = vec![
        on("a", 800, |_| Box::pin(async { bail!("connection lost") })),
        on("b", 800, |t| {
            Box::pin(async move {
                t.run("sub", async |t| {
                    t.error("connection lost");
                    Ok(())
                })
                .await;
                sleep(LONG).await;
                Ok(())
            })
        }),
        on("c", 800, |_| Box::pin(async { panic!("connection lost") })),
        // Not known within a second: it was something else.
        on("d", 1200, |_| Box::pin(async { bail!("as planned") })),
        // Nothing failed: nobody waits.
        on("e", 800, |_| Box::pin(async { Ok(()) })),
        on("f", 800, |_| Box::pin(async { Err(skip("not here")) })),
    ];
    let ran = run_cases(cases, 1).await;
    let results = ran.results();
    for block in [
        "--- FAIL: a (0.80s)\n        connection lost\n        the machine died:\n            its last words\n",
        "    --- FAIL: b/sub (0.80s)\n            stopping.rs:N: connection lost\n            the machine died\n",
        "--- FAIL: b (0.80s)\n",
        "--- FAIL: c (0.80s)\n",
        "--- FAIL: d (1.00s)\n        as planned\n",
        "--- PASS: e (0.00s)\n",
        "--- SKIP: f (0.00s)\n",
    ] {
        assert!(results.contains(block), "{results}");
    }
    let headlines: Vec<String> = ran.summary().bad.iter().map(|r| r.headline()).collect();
    assert_eq!(headlines, ["the machine died:", "the machine died:", "the machine died:", "as planned"]);
}

#[tokio::test(start_paused = true)]
async fn what_failed_before_a_loss_has_failed() {
    let ran = run_cases(
        vec![Case::new("a", LONG, |t: T| async move {
            let body = t.clone();
            t.body_on(lost_after(5000), async move {
                body.run("slow", async |t| {
                    t.parallel().await;
                    std::future::pending().await
                })
                .await;
                bail!("as planned")
            })
            .await
        })],
        1,
    )
    .await;
    let results = ran.results();
    for line in ["\n        the machine died:\n", "\n        as planned\n", "            the machine died\n"]
    {
        assert!(results.contains(line), "{results}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_loss_after_the_time_was_up_changes_nothing() {
    let ran = run_cases(
        vec![Case::new("a", Duration::from_secs(1), |t: T| async move {
            t.body_on(lost_after(1500), std::future::pending()).await
        })],
        1,
    )
    .await;
    assert_eq!(ran.results(), "--- FAIL: a (2.00s)\n        timed out after 1 s\n");
}
