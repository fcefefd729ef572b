//! Slots, parallel sub-tests and joining them.

use super::*;

/// A parallel sub-test that tells its begin and end.
async fn teller(t: T, story: Story, seconds: u64) -> eyre::Result<()> {
    t.parallel().await;
    let name = t.name().to_owned();
    story.add(format!("{name} begins"));
    sleep(Duration::from_secs(seconds)).await;
    story.add(format!("{name} ends"));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn at_most_so_many_run_at_once_in_natural_order() {
    let running = Arc::new(Mutex::new((0, 0)));
    let story = Story::default();
    let cases = (0..12).rev().map(|i| {
        let (running, story) = (Arc::clone(&running), story.clone());
        case(&format!("t{i}"), |t| async move {
            story.add(t.name());
            {
                let mut r = running.lock().unwrap();
                r.0 += 1;
                r.1 = r.1.max(r.0);
            }
            sleep(Duration::from_secs(1)).await;
            running.lock().unwrap().0 -= 1;
            Ok(())
        })
    });
    let ran = run_cases(cases.collect(), 3).await;
    assert_eq!(ran.summary().count(Outcome::Pass), 12);
    assert_eq!(running.lock().unwrap().1, 3);
    assert_eq!(story.told(), (0..12).map(|i| format!("t{i}")).collect::<Vec<_>>());
    assert!(ran.text.starts_with("=== RUN   t0\n=== RUN   t1\n"), "{}", ran.text);
}

#[tokio::test(start_paused = true)]
async fn parallel_subtests_run_before_the_owner_cleans_up_and_before_other_tests() {
    let story = Story::default();
    let (a, b) = (story.clone(), story.clone());
    let cases = vec![
        Case::new(
            "a",
            LONG,
            once(|t| async move {
                let (body, told) = (t.clone(), a.clone());
                let result = t
                    .body(async move {
                        for (name, seconds) in [("x", 3), ("y", 2)] {
                            let told = told.clone();
                            assert!(body.run(name, move |t| teller(t, told, seconds)).await);
                            told_later(&body);
                        }
                        told.add("a's function ends");
                        Ok(())
                    })
                    .await;
                t.join().await;
                a.add("a cleans up");
                result
            }),
        ),
        case("b", |_| async move {
            b.add("b");
            Ok(())
        }),
    ];
    fn told_later(_: &T) {}
    let ran = run_cases(cases, 1).await;
    assert_eq!(
        story.told(),
        ["a's function ends", "a/x begins", "a/x ends", "a/y begins", "a/y ends", "a cleans up", "b"]
    );
    assert_eq!(
        ran.results(),
        "\
--- PASS: a (5.00s)
    --- PASS: a/x (3.00s)
    --- PASS: a/y (2.00s)
--- PASS: b (0.00s)
"
    );
}

#[tokio::test(start_paused = true)]
async fn with_slots_enough_they_overlap_and_waiting_does_not_count() {
    let story = Story::default();
    let told = story.clone();
    let ran = run_cases(
        vec![case("a", |t| async move {
            for (name, seconds) in [("x", 3), ("y", 2)] {
                let told = told.clone();
                t.run(name, move |t| teller(t, told, seconds)).await;
            }
            sleep(Duration::from_secs(10)).await;
            Ok(())
        })],
        2,
    )
    .await;
    assert_eq!(story.told(), ["a/x begins", "a/y begins", "a/y ends", "a/x ends"]);
    assert_eq!(ran.results(), "--- PASS: a (13.00s)\n    --- PASS: a/y (2.00s)\n    --- PASS: a/x (3.00s)\n");
}

#[tokio::test(start_paused = true)]
async fn nested_parallel_subtests_work_with_one_slot() {
    let story = Story::default();
    let told = story.clone();
    let ran = run_cases(
        vec![case("a", |t| async move {
            t.run("group", move |t| async move {
                for name in ["x", "y"] {
                    let told = told.clone();
                    t.run(name, move |t| async move {
                        t.parallel().await;
                        let inner = told.clone();
                        t.run("in", move |t| teller(t, inner, 1)).await;
                        told.add(format!("{} waits", t.name()));
                        Ok(())
                    })
                    .await;
                }
                Ok(())
            })
            .await;
            Ok(())
        })],
        1,
    )
    .await;
    assert_eq!(ran.summary().count(Outcome::Pass), 1, "{}", ran.text);
    assert_eq!(story.told().len(), 6);
    assert_eq!(story.told().iter().filter(|s| s.ends_with("ends")).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn failures_of_parallel_subtests_reach_the_test() {
    let ran = run_cases(
        vec![case("a", |t| async move {
            assert!(
                t.run("x", async |t| {
                    t.parallel().await;
                    bail!("late")
                })
                .await
            );
            assert!(!t.failed());
            t.join().await;
            assert!(t.failed());
            // A test can have several groups.
            assert!(
                t.run("y", async |t| {
                    t.parallel().await;
                    Ok(())
                })
                .await
            );
            Ok(())
        })],
        1,
    )
    .await;
    assert_eq!(
        ran.results(),
        "\
--- FAIL: a (0.00s)
    --- FAIL: a/x (0.00s)
            late
    --- PASS: a/y (0.00s)
"
    );
}

#[tokio::test(start_paused = true)]
async fn wrong_use_of_parallel_fails_the_test() {
    let ran = run_cases(
        vec![case("a", |t| async move {
            t.parallel().await;
            t.run("x", async |t| {
                t.parallel().await;
                t.parallel().await;
                Ok(())
            })
            .await;
            Ok(())
        })],
        1,
    )
    .await;
    let text = "parallel was called twice, or outside of a sub-test";
    assert_eq!(ran.text.matches(text).count(), 2);
    assert_eq!(ran.summary().count(Outcome::Fail), 1);
}

/// Three levels of sub-tests, every other one parallel.
fn tree(t: T, depth: u32) -> BoxFuture<'static, eyre::Result<()>> {
    Box::pin(async move {
        for i in 0..4 {
            t.run(&format!("n{i}"), move |t| async move {
                if i % 2 == 0 {
                    t.parallel().await;
                }
                tokio::task::yield_now().await;
                if depth > 0 { tree(t, depth - 1).await } else { Ok(()) }
            })
            .await;
        }
        Ok(())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tests_on_many_threads_neither_hang_nor_get_lost() {
    for parallel in [1, 2, 7] {
        let cases = (0..8).map(|i| case(&format!("t{i}"), |t| tree(t, 2))).collect();
        let ran = run_cases(cases, parallel).await;
        assert_eq!(ran.summary().count(Outcome::Pass), 8);
        let report = ran.file("reports/report.json");
        assert_eq!(report.matches(r#""result":"PASS","duration""#).count(), 8 * (1 + 4 + 16 + 64));
    }
}
