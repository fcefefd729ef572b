//! The report files.

use super::*;

fn mixed() -> Vec<Case> {
    vec![
        case("a", |t| async move {
            t.log("fine & <well>");
            sleep(Duration::from_millis(1500)).await;
            Ok(())
        }),
        case("b#x", |t| async move {
            t.run("s", async |_| bail!("\x1b[31mno\x1b[0m \"way\"")).await;
            Ok(())
        }),
        case("c", async |_| Err(skip("not here"))),
    ]
}

#[tokio::test(start_paused = true)]
async fn tap_is_upstreams() {
    let ran = run_cases(mixed(), 1).await;
    assert_eq!(
        ran.file("test.tap"),
        "1..3\nok - a\nnot ok - bx\n# error\n#   b#x/s: no \"way\"\nok - c # SKIP not here\n"
    );
}

#[tokio::test(start_paused = true)]
async fn json_is_upstreams() {
    let ran = run_cases(mixed(), 1).await;
    assert_eq!(
        without_line_numbers(&ran.file("reports/report.json")),
        concat!(
            r#"{"tests":["#,
            r#"{"name":"a","result":"PASS","duration":1500000000,"output":"        files.rs:N: fine & <well>\n"},"#,
            r#"{"name":"b#x/s","result":"FAIL","duration":0,"output":"        \u001b[31mno\u001b[0m \"way\"\n"},"#,
            r#"{"name":"b#x","result":"FAIL","duration":0,"output":"    --- FAIL: b#x/s (0.00s)\n            \u001b[31mno\u001b[0m \"way\"\n"},"#,
            r#"{"name":"c","result":"SKIP","duration":0,"output":"        not here\n"}],"#,
            r#""result":"FAIL","platform":"qemu","version":"1.2.3"}"#,
            "\n"
        )
    );
    let passed = run_cases(vec![case("a", async |_| Ok(()))], 1).await;
    assert_eq!(
        passed.file("reports/report.json"),
        "{\"tests\":[{\"name\":\"a\",\"result\":\"PASS\",\"duration\":0,\"output\":\"\"}],\"result\":\"PASS\",\"platform\":\"qemu\",\"version\":\"1.2.3\"}\n"
    );
}

#[tokio::test(start_paused = true)]
async fn junit_has_cases_classes_messages_and_kinds() {
    let mut cases = mixed();
    cases.push(case("d", async |_| panic!("oh")));
    let ran = run_cases(cases, 1).await;
    let xml = ran.file("reports/junit.xml");
    let timestamps = regex::Regex::new(r#" timestamp="[^"]+""#).unwrap();
    let xml = without_line_numbers(&timestamps.replace_all(&xml, ""));
    for piece in [
        r#"<testsuites name="mantle" tests="5" failures="3" errors="0" time="1.500">"#,
        r#"<testsuite name="qemu" tests="5" skipped="1" errors="0" failures="3" time="1.500">"#,
        r#"<property name="version" value="1.2.3"/>"#,
        r#"<testcase name="a" classname="a" time="1.500">"#,
        "<system-out>        files.rs:N: fine &amp; &lt;well&gt;\n</system-out>",
        r#"<testcase name="b#x/s" classname="b#x" time="0.000">"#,
        r#"<failure message="no &quot;way&quot;" type="error"/>"#,
        r#"<skipped message="not here"/>"#,
        r#"<failure message="panicked at src/harness/tests/files.rs:N: oh"#,
        r#"type="panic""#,
    ] {
        assert!(xml.contains(piece), "{piece}\n{xml}");
    }
    assert!(!xml.contains('\x1b'));
}

#[tokio::test(start_paused = true)]
async fn no_tests_is_an_error_with_reports() {
    let ran = run_cases(vec![], 1).await;
    assert_eq!(ran.file("test.tap"), "1..0\n");
    assert_eq!(
        ran.file("reports/report.json"),
        "{\"tests\":null,\"result\":\"\",\"platform\":\"qemu\",\"version\":\"1.2.3\"}\n"
    );
    assert_eq!(ran.result.unwrap_err().to_string(), "harness: no tests to run");
}

#[tokio::test(start_paused = true)]
async fn a_killed_run_has_reports_of_what_was_done() {
    let seen = Arc::new(Mutex::new(None));
    let store = Arc::clone(&seen);
    let cases = vec![
        case("a", async |_| Ok(())),
        case("b", |t| async move {
            // Time stands still until the files of the first test are written.
            sleep(Duration::from_secs(1)).await;
            let out = t.output_dir()?.join("..");
            let read = |name: &str| std::fs::read_to_string(out.join(name));
            *store.lock().unwrap() = Some((read("test.tap")?, read("reports/report.json")?));
            let mut left: Vec<_> = std::fs::read_dir(&out)?.map(|e| e.unwrap().file_name()).collect();
            left.sort();
            assert_eq!(left, ["b", "reports", "test.tap"]);
            Ok(())
        }),
    ];
    let ran = run_cases(cases, 1).await;
    assert!(ran.result.is_ok(), "{}", ran.text);
    let (tap, json) = seen.lock().unwrap().take().unwrap();
    assert_eq!(tap, "1..2\nok - a\n");
    assert!(json.contains(r#"}],"result":"FAIL","#), "{json}");
}

#[tokio::test(start_paused = true)]
async fn reports_that_cannot_be_written_are_errors() {
    let cases = || {
        vec![case("a", |t| async move {
            // A folder where the report belongs.
            std::fs::create_dir_all(t.output_dir()?.join("../reports/junit.xml/x"))?;
            Ok(())
        })]
    };
    let ran = run_cases(cases(), 1).await;
    let error = eyre::Report::new(ran.result.unwrap_err());
    assert!(format!("{error:#}").starts_with("harness: reports are incomplete: cannot write "), "{error:#}");
    // The others are there.
    let dir = ran.dir.path();
    assert!(std::fs::read_to_string(dir.join("test.tap")).unwrap().contains("ok - a"));

    let options = Options {
        output_dir: dir.join("new"),
        parallel: 0,
        platform: "qemu".into(),
        version: String::new(),
        progress: Progress::default(),
        ordered: false,
        rerun: Rerun::default(),
        share: Share::default(),
    };
    let full: Out = Box::new(|_| Err(std::io::Error::other("disk full")));
    let error =
        run_to(vec![case("a", async |_| Ok(()))], &options, CancellationToken::new(), full, async || {
            Vec::new()
        })
        .await;
    let error = eyre::Report::new(error.unwrap_err());
    assert_eq!(format!("{error:#}"), "harness: reports are incomplete: cannot write test results: disk full");
    assert!(dir.join("new").join(output_dir::MARKER).exists());
}

#[tokio::test(start_paused = true)]
async fn live_display_takes_all_events() {
    // indicatif draws nothing where stderr is no terminal; the events go through all the same.
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        output_dir: dir.path().to_owned(),
        parallel: 2,
        platform: "qemu".into(),
        version: String::new(),
        progress: Progress { bars: true, color: true },
        ordered: false,
        rerun: Rerun::default(),
        share: Share::default(),
    };
    let text = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&text);
    let out: Out = Box::new(move |data| {
        sink.lock().unwrap().extend_from_slice(data);
        Ok(())
    });
    let ended = run_to(mixed(), &options, CancellationToken::new(), out, async || Vec::new()).await;
    let Err(Error::Failed(summary)) = ended else { panic!("{ended:?}") };
    assert_eq!(summary.to_string(), "3 run: 1 passed, 1 failed, 1 skipped");
    let text = String::from_utf8(text.lock().unwrap().clone()).unwrap();
    assert!(text.contains("--- \x1b[31mFAIL\x1b[0m: b#x"), "{text}");
}
