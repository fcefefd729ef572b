//! Command lines of `ore gcloud index` and `ore gcloud sync`.

use super::Bench;
use crate::support::Env;

#[test]
fn mistakes_are_told_before_any_request() {
    let bench = Bench::with(&["p/a"]);
    for (args, message) in [
        (&["index"][..], "No URLs specified"),
        (&["index", "b/p"], "URL missing gs:// scheme: b/p"),
        (&["index", "gs://b/p", "gs:///p"], "URL missing bucket name gs:///p"),
        (&["sync"], "exactly two"),
        (&["sync", "gs://b/p"], "exactly two"),
        (&["sync", "gs://b/p", "gs://b/q", "gs://b/r"], "exactly two"),
        (&["sync", "gs://b/p", "s3://b/q"], "URL missing gs:// scheme: s3://b/q"),
        (&["sync", "-r", "gs://b/p", "gs://b/p/q"], "gs://b/p/ and gs://b/p/q/ overlap"),
        (&["sync", "gs://b/p", "gs://b/p/"], "overlap"),
        (&["index", "--no-such-flag", "gs://b/p"], "--no-such-flag"),
    ] {
        let outcome = bench.gcloud(args).expect(2);
        assert!(outcome.stderr.contains(message), "{args:?}: {}", outcome.stderr);
        assert_eq!(outcome.stdout, "");
    }
    assert!(bench.gcs.take_log().is_empty());
}

#[test]
fn command_lines_of_old_still_parse() {
    let bench = Bench::with(&["p/a"]);
    for args in [
        &["--project=x", "--zone", "z", "--basename=b", "--image=", "index", "-n", "gs://b/p/"][..],
        &["index", "--dry-run=true", "--force=false", "--delete", "--recursive", "gs://b/p"],
        &["index", "-nfrD", "-T", "Title", "gs://b/p", "gs://b", "--service-auth=false"],
        &[
            "index",
            "-n",
            "--html-title=x",
            "--directories",
            "gs://b/p",
            "--machinetype",
            "n1",
            "--disktype=d",
        ],
        &["sync", "-n", "-frDI", "-T", "t", "gs://b/p", "gs://c", "--network", "default", "--json-key="],
        &["sync", "--index-dirs", "--index-html", "--html-title", "", "--dry-run", "gs://b/p", "gs://c"],
    ] {
        bench.gcloud(args).expect(0);
    }
    assert!(bench.gcs.take_log().iter().all(|r| !r.changes()));
}

#[test]
fn results_are_on_stdout_and_talk_is_on_stderr() {
    let bench = Bench::with(&["p/a"]);
    let outcome = bench.gcloud(&["index", "-n", "gs://b/p"]).expect(0);
    assert_eq!(outcome.stdout, "Dry-run successful!\n");
    assert!(outcome.stderr.contains("bucket: Would write gs://b/p/index.html\n"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("dry run: nothing was changed"));
    assert_eq!(bench.gcs.names("b"), ["p/a"]);
    let outcome = bench.gcloud(&["index", "gs://b/p"]).expect(0);
    assert_eq!(outcome.stdout, "Update successful!\n");
    assert!(outcome.stderr.contains("bucket: Writing gs://b/p/index.html\n"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("1 pages written, 0 deleted, 0 unchanged"), "{}", outcome.stderr);
    let outcome = bench.gcloud(&["sync", "gs://b/p", "gs://c"]).expect(0);
    assert_eq!(outcome.stdout, "");
}

#[test]
fn log_options_work_below_the_group() {
    let bench = Bench::with(&["p/a"]);
    for (args, info) in [
        (&["index", "-f", "gs://b/p", "--log-level=NOTICE"][..], true), // NOTICE is what was always INFO here
        (&["index", "-f", "gs://b/p", "--log-level=ERROR"], false),
        (&["index", "-f", "-v", "gs://b/p"], true),
        (&["index", "-f", "-d", "gs://b/p"], true),
    ] {
        let outcome = bench.gcloud(args).expect(0);
        let quiet = args.contains(&"--log-level=NOTICE");
        assert_eq!(outcome.stderr.contains("Writing gs://"), info && !quiet, "{args:?}: {}", outcome.stderr);
    }
}

#[test]
fn the_endpoint_of_the_command_line_wins() {
    let bench = Bench::with(&["p/a"]);
    let mut env = Env::new();
    env.set("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9");
    let endpoint = format!("--storage-endpoint=http://{}", bench.gcs.address);
    env.mantle(&["ore", "gcloud", &endpoint, "index", "gs://b/p"]).expect(0);
    assert_eq!(bench.gcs.names("b"), ["p/a", "p/index.html"]);
    let outcome = env.mantle(&["ore", "gcloud", "--storage-endpoint=ftp://x", "index", "gs://b/p"]).expect(1);
    assert!(outcome.stderr.contains("ftp://x"), "{}", outcome.stderr);
}

/// Upstream had no way without a login, and the login is dead: public buckets can be looked at without one.
#[test]
fn without_credentials_a_dry_run_works_and_a_refusal_says_what_helps() {
    let bench = Bench::with(&["p/a"]);
    bench.gcs.set_token("secret");
    let endpoint = format!("--storage-endpoint=http://{}", bench.gcs.address);
    let mut env = Env::new();
    env.set("MANTLE_POLL_SCALE", "0.02");
    env.mantle(&["ore", "gcloud", &endpoint, "index", "-n", "gs://b/p"]).expect(0);
    let outcome = env.mantle(&["ore", "gcloud", &endpoint, "index", "gs://b/p"]).expect(1);
    assert!(outcome.stderr.contains("without credentials"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("pass --json-key"), "{}", outcome.stderr);
    // the cache of v0.12.0 is taken
    env.write(".mantle-cache-google.json", r#"{"access_token":"secret","expiry":"0001-01-01T00:00:00Z"}"#);
    let outcome = env.mantle(&["ore", "gcloud", "-d", &endpoint, "index", "gs://b/p"]).expect(0);
    assert!(!outcome.stderr.contains("secret"), "{}", outcome.stderr);
    let broken = env.write("broken.json", "{}");
    let key = format!("--json-key={}", broken.display());
    let outcome = env.mantle(&["ore", "gcloud", &endpoint, &key, "index", "gs://b/p"]).expect(1);
    assert!(outcome.stderr.contains("broken.json"), "{}", outcome.stderr);
}

#[test]
fn an_interruption_ends_the_work() {
    use crate::support::gcs::Fault;
    let bench = Bench::with(&["p/a"]);
    let (sender, arrived) = std::sync::mpsc::channel();
    bench.gcs.judge(move |r, _| {
        if r.changes() {
            let _ = sender.send(());
            return Fault::Stall;
        }
        Fault::None
    });
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_mantle"));
    let running = bench.env.start(program, &["ore", "gcloud", "index", "gs://b/p"]);
    crate::support::guard::wait("a request", crate::support::guard::Limit::PROGRAM, || {
        arrived.try_recv().is_ok()
    });
    running.signal(nix::sys::signal::Signal::SIGINT);
    running.finish().expect(130);
}
