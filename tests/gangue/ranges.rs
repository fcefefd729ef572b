//! Several ranges at a time, and objects of S3, which are ranges of the web like any others.

use mantle::download::{Engine, Error, Outcome, Ranges, Request};
use mantle::http::{Client, Limits, Retry};
use tokio_util::sync::CancellationToken;

use super::{Bench, PATH};
use crate::support::server::Fault::{
    self, ChangeAfter, IgnoreRange, Reset, ResetAfter, Status, Truncate, WrongPart,
};

const LENGTH: usize = 3_000_000;

/// Downloads with ranges from the first hundred thousand bytes on, whatever the rate.
fn get(bench: &Bench) -> Result<Outcome, Error> {
    let retry = Retry { first: std::time::Duration::from_millis(5), ..Retry::default() };
    let http = Client::new(Limits::default(), retry).unwrap();
    let ranges = Ranges { least: 1, slow: u64::MAX, trial: 100_000, length: 65_536, connections: 4 };
    let engine = Engine::new(http, None).with_ranges(ranges);
    let source = bench.url("http").parse().unwrap();
    let destination = bench.file("image.bin");
    let request = Request { source: &source, destination: &destination, check: None, decompress: None };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(engine.get(&request, &CancellationToken::new()))
}

/// The ranges that were asked for: first byte, and whether there was a last one.
fn asked(bench: &Bench) -> Vec<(usize, bool)> {
    let log = bench.server.take_log();
    let ranges = log.iter().filter_map(|r| r.header("range"));
    ranges
        .map(|r| r.strip_prefix("bytes=").unwrap().split_once('-').unwrap())
        .map(|(first, last)| (first.parse().unwrap(), !last.is_empty()))
        .collect()
}

#[test]
fn ranges_are_put_together_in_order() {
    let bench = Bench::new(LENGTH);
    assert_eq!(get(&bench).unwrap().written, LENGTH as u64);
    bench.expect_only_the_file();
    let asked = asked(&bench);
    assert!(asked.len() > 10 && asked.iter().all(|(_, bounded)| *bounded), "{asked:?}");
}

#[test]
fn without_a_strong_version_there_is_one_stream() {
    for etag in [None, Some("W/\"weak\"")] {
        let bench = Bench::new(LENGTH);
        bench.server.change(PATH, |c| c.etag = etag.map(String::from));
        get(&bench).unwrap();
        bench.expect_only_the_file();
        assert_eq!(bench.requests_for_data(), 1);
    }
}

#[test]
fn whatever_goes_wrong_one_stream_goes_on() {
    let faults = [
        Status(503, ""),
        Status(403, ""),
        Status(429, "Retry-After: 86400\r\n"),
        Reset,
        ResetAfter(1000),
        Truncate(0),
        Truncate(1000),
        IgnoreRange,
        WrongPart,
    ];
    for fault in faults {
        // the first request is the stream; which of the ranges are met depends on nothing but their number
        for number in [1, 4, 9] {
            let bench = Bench::new(LENGTH);
            let mut requests = 0;
            let wrong = fault.clone();
            bench.server.judge(move |r, _| {
                let is_range = r.header("range").is_some_and(|r| !r.ends_with('-'));
                requests += usize::from(is_range);
                if is_range && requests >= number { wrong.clone() } else { Fault::None }
            });
            let outcome = get(&bench);
            assert!(outcome.is_ok(), "{fault:?} {number}: {outcome:?}");
            bench.expect_only_the_file();
            let asked = asked(&bench);
            assert_eq!(asked.iter().filter(|(_, bounded)| !bounded).count(), 1, "{fault:?}: {asked:?}");
        }
    }
}

#[test]
fn a_change_meanwhile_starts_over() {
    let mut bench = Bench::new(LENGTH);
    let other: Vec<u8> = bench.body.iter().map(|b| b.wrapping_add(1)).collect();
    let mut requests = 0;
    bench.server.judge(move |r, _| {
        requests += usize::from(r.header("range").is_some());
        if requests == 6 {
            requests += 1; // once only
            return ChangeAfter(10);
        }
        Fault::None
    });
    let outcome = get(&bench).unwrap();
    assert_eq!((outcome.written, outcome.resumed), (LENGTH as u64, 0));
    bench.body = other;
    bench.expect_only_the_file();
}

#[test]
fn public_objects_of_s3_are_got() {
    let mut bench = Bench::new(300_000);
    let endpoint = bench.server.url("");
    bench.env.set("AWS_ENDPOINT_URL", "http://127.0.0.1:1").set("AWS_ENDPOINT_URL_S3", endpoint);
    let get = |options: &[&str]| {
        let args = ["gangue", "-v", "get", "--verify-key=key.asc", "s3://b/dir/image.bin", "out"];
        bench.env.mantle(&[&args[..], options].concat())
    };
    bench.server.faults(vec![Truncate(1000)]);
    let outcome = get(&[]).expect(0);
    assert!(outcome.stderr.contains("s3://b/dir/image.bin"), "{}", outcome.stderr);
    bench.expect_only_the_file();
    bench.server.take_log();
    get(&[]).expect(0);
    assert_eq!(bench.requests_for_data(), 0);
    bench.server.faults(vec![Status(403, "")]);
    let outcome = get(&["--verify=false"]).expect(1);
    let text = &outcome.stderr;
    assert!(text.contains("cannot get s3://b/dir/image.bin") && text.contains("only public ones"), "{text}");
    bench.expect_only_the_file();
}

#[test]
fn an_endpoint_that_is_none_is_an_error() {
    let mut bench = Bench::new(10);
    bench.env.set("AWS_ENDPOINT_URL", "localhost:9000");
    let outcome = bench.env.mantle(&["gangue", "get", "--verify=false", "s3://b/x", "out"]).expect(1);
    assert!(outcome.stderr.contains("cannot use $AWS_ENDPOINT_URL"), "{}", outcome.stderr);
}
