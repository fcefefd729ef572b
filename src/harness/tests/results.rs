//! Results of single tests, and the text about them.

use super::*;

#[tokio::test(start_paused = true)]
async fn text_looks_like_gos() {
    let cases = vec![
        case("b.10", |t| async move {
            t.log("one");
            sleep(Duration::from_millis(1234)).await;
            Ok(())
        }),
        case("b.9", |t| async move {
            t.log("first\n\nthird\r\n");
            assert!(
                t.run("good one", async |t| {
                    t.log("in a sub-test");
                    let inner = t
                        .run("deep", async |t| {
                            t.log("a\nb");
                            Ok(())
                        })
                        .await;
                    assert!(inner);
                    Ok(())
                })
                .await
            );
            assert!(t.run("skipped", async |_| Err(skip("no such device"))).await);
            assert!(
                !t.run("bad", async |t| {
                    t.error("wrong");
                    sleep(Duration::from_secs(61)).await;
                    bail!("worse")
                })
                .await
            );
            assert!(t.failed());
            Ok(())
        }),
    ];
    let ran = run_cases(cases, 1).await;
    assert_eq!(
        ran.text,
        "\
=== RUN   b.9
=== RUN   b.9/good_one
=== RUN   b.9/good_one/deep
=== RUN   b.9/skipped
=== RUN   b.9/bad
--- FAIL: b.9 (61.00s)
        results.rs:N: first

            third
    --- PASS: b.9/good_one (0.00s)
            results.rs:N: in a sub-test
        --- PASS: b.9/good_one/deep (0.00s)
                results.rs:N: a
                    b
    --- SKIP: b.9/skipped (0.00s)
            no such device
    --- FAIL: b.9/bad (61.00s)
            results.rs:N: wrong
            worse
=== RUN   b.10
--- PASS: b.10 (1.23s)
        results.rs:N: one
"
    );
    assert_eq!(ran.summary().to_string(), "2 run: 1 passed, 1 failed");
    assert_eq!(ran.result.unwrap_err().to_string(), "harness: test suite failed");
}

#[tokio::test(start_paused = true)]
async fn errors_show_their_whole_chain() {
    let ran =
        run_cases(vec![case("a", async |_| Err(eyre!("cause\nof two lines")).wrap_err("effect"))], 1).await;
    assert_eq!(ran.results(), "--- FAIL: a (0.00s)\n        effect: cause\n            of two lines\n");
}

#[tokio::test(start_paused = true)]
async fn skips_deep_in_chains_skip_but_do_not_excuse() {
    #[derive(Debug, thiserror::Error)]
    #[error("helper failed")]
    struct Helper(#[source] Skip);
    let cases = vec![
        case("a", async |_| Err(skip("no network")).wrap_err("fetching").wrap_err("preparing")),
        case("b", async |_| Err(Helper(Skip("too old".into())).into())),
        case("c", async |t| {
            t.error("broken");
            Err(skip("whatever"))
        }),
    ];
    let ran = run_cases(cases, 1).await;
    assert_eq!(
        ran.results(),
        "\
--- SKIP: a (0.00s)
        preparing: fetching: no network
--- SKIP: b (0.00s)
        helper failed: too old
--- FAIL: c (0.00s)
        results.rs:N: broken
        whatever
"
    );
    assert_eq!(ran.summary().to_string(), "3 run: 1 failed, 2 skipped");
}

#[tokio::test(start_paused = true)]
async fn all_skipped_is_success() {
    let ran = run_cases(vec![case("a", async |_| Err(skip("x")))], 1).await;
    assert_eq!(ran.result.unwrap().to_string(), "1 run: 1 skipped");
}

#[tokio::test(start_paused = true)]
async fn panics_fail_their_test_only() {
    let story = Story::default();
    let cleaned = story.clone();
    let cases = vec![
        Case::new(
            "a",
            LONG,
            once(|t| async move {
                let result = t.body(async { panic!("no {}", 1) }).await;
                cleaned.add(format!("cleaned after {}", result.as_ref().unwrap_err().is::<Panicked>()));
                result
            }),
        ),
        case("b", |t| async move {
            assert!(
                !t.run("x", async |t| {
                    let none: Option<u8> = t.name().strip_prefix("?").map(|_| 1);
                    none.expect("in a sub-test");
                    Ok(())
                })
                .await
            );
            // A closure that panics before there is a future.
            fn early(_: T) -> std::future::Ready<eyre::Result<()>> {
                panic!("early")
            }
            assert!(!t.run("y", early).await);
            assert!(t.run("z", async |_| Ok(())).await);
            Ok(())
        }),
        Case::new("c", LONG, |_| async { panic!("in the owner") }),
        case("d", async |_| Ok(())),
    ];
    let ran = run_cases(cases, 1).await;
    let want = "\
--- FAIL: a (0.00s)
        panicked at src/harness/tests/results.rs:N: no 1
--- FAIL: b (0.00s)
    --- FAIL: b/x (0.00s)
            panicked at src/harness/tests/results.rs:N: in a sub-test
    --- FAIL: b/y (0.00s)
            panicked at src/harness/tests/results.rs:N: early
    --- PASS: b/z (0.00s)
--- FAIL: c (0.00s)
        panicked at src/harness/tests/results.rs:N: in the owner
--- PASS: d (0.00s)
";
    // Where RUST_BACKTRACE is set, the traces follow.
    for line in want.lines() {
        assert!(ran.results().contains(line), "{line}\n{}", ran.text);
    }
    assert_eq!(story.told(), ["cleaned after true"]);
    assert_eq!(ran.summary().to_string(), "4 run: 1 passed, 3 failed");
}

#[tokio::test(start_paused = true)]
async fn owners_can_fail_a_test_while_cleaning_up() {
    let case = Case::new("a", LONG, |t| async move {
        let result = t.body(async { Ok(()) }).await;
        t.error("a machine is left");
        result
    });
    let ran = run_cases(vec![case], 1).await;
    assert_eq!(ran.results(), "--- FAIL: a (0.00s)\n        results.rs:N: a machine is left\n");
}

#[tokio::test(start_paused = true)]
async fn names_are_unique_in_the_run_and_make_folders() {
    let cases = vec![
        case("a", |t| async move {
            for name in ["x y", "x\ty", "", ".."] {
                t.run(name, async |t| {
                    let dir = t.output_dir()?;
                    std::fs::write(dir.join("evidence"), t.name())?;
                    Ok(())
                })
                .await;
            }
            Ok(())
        }),
        case("a", async |_| Ok(())),
    ];
    let ran = run_cases(cases, 1).await;
    for name in ["a/x_y", "a/x_y#01", "a/#00"] {
        assert_eq!(ran.file(&format!("{name}/evidence")), name);
    }
    assert!(
        ran.text.contains("test name \"a/..\" cannot be a folder: it has the part \"..\""),
        "{}",
        ran.text
    );
    assert!(ran.text.contains("--- PASS: a#01 (0.00s)\n"));
}

#[tokio::test(start_paused = true)]
async fn fail_fast_skips_later_siblings_only() {
    let case = case("a", |t| async move {
        t.run("one", async |_| Ok(())).await;
        t.set_fail_fast(true);
        t.run("two", async |t| {
            // Not inherited.
            t.run("x", async |_| bail!("no")).await;
            t.run("y", async |_| Ok(())).await;
            Ok(())
        })
        .await;
        assert!(t.run("three", async |_| bail!("must not run")).await);
        t.set_fail_fast(false);
        assert!(t.run("four", async |_| Ok(())).await);
        Ok(())
    });
    let ran = run_cases(vec![case], 1).await;
    assert_eq!(
        ran.results(),
        "\
--- FAIL: a (0.00s)
    --- PASS: a/one (0.00s)
    --- FAIL: a/two (0.00s)
        --- FAIL: a/two/x (0.00s)
                no
        --- PASS: a/two/y (0.00s)
    --- SKIP: a/three (0.00s)
            A previous test has already failed
    --- PASS: a/four (0.00s)
"
    );
}

#[tokio::test(start_paused = true)]
async fn words_after_the_end_fail_the_run() {
    let kept = Arc::new(Mutex::new(None));
    let (keep, used) = (Arc::clone(&kept), kept);
    let cases = vec![
        case("a", |t| async move {
            *keep.lock().unwrap() = Some(t);
            Ok(())
        }),
        case("b", |_| async move {
            let dead = used.lock().unwrap().take().unwrap();
            assert!(dead.cancel().is_cancelled());
            assert!(!dead.run("late", async |_| Ok(())).await);
            dead.error("too late");
            assert!(!dead.failed());
            Ok(())
        }),
    ];
    let ran = run_cases(cases, 1).await;
    assert_eq!(ran.summary().to_string(), "2 run: 2 passed");
    assert!(ran.result.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_case_can_be_run_again() {
    let story = Story::default();
    let told = story.clone();
    let first = Case::simple("a", LONG, move |t| {
        let told = told.clone();
        async move {
            told.add(t.name());
            Ok(())
        }
    });
    let again = Case { name: "b".into(), timeout: LONG, run: first.run.clone() };
    let ran = run_cases(vec![first, again], 1).await;
    assert_eq!(ran.summary().to_string(), "2 run: 2 passed");
    assert_eq!(story.told(), ["a", "b"]);
}
