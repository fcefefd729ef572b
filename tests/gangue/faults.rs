//! Trouble on the way: what passes is waited out, what does not is reported, and nothing wrong lands.

use super::{Bench, PATH, sign};
use crate::support::server::Fault::{self, *};

const LENGTH: usize = 3 << 20;
const HALF: usize = LENGTH / 2;

#[test]
fn passing_troubles_are_waited_out() {
    let faults = [
        vec![Status(503, "")],
        vec![Status(429, "Retry-After: 0\r\n"), Status(500, ""), Status(502, ""), Status(504, "")],
        vec![Reset],
        vec![ResetAfter(HALF)],
        vec![Truncate(0)],
        vec![Truncate(HALF), Reset, Status(503, ""), Truncate(100)],
        vec![Stall(HALF)],
        vec![Stall(0)],
        vec![Truncate(HALF), IgnoreRange],
        // whoever brings something is not broken, however often it breaks
        vec![Truncate(1 << 20); 2],
        vec![Truncate(10_000); 12],
    ];
    for scheme in ["http", "gs"] {
        for faults in &faults {
            let bench = Bench::new(LENGTH);
            let (wanted, before) = (faults.len() + 1, bench.server.take_log().len());
            bench.server.faults(faults.clone());
            let outcome = bench.get(scheme, &[]);
            assert_eq!(outcome.code, 0, "{scheme} {faults:?}: {}", outcome.stderr);
            let warnings = outcome.stderr.matches("trying again in").count();
            assert_eq!(before, 0);
            bench.expect_only_the_file();
            let requests = bench.requests_for_data();
            if faults.contains(&IgnoreRange) {
                assert_eq!(requests, 2, "{scheme} {faults:?}"); // the unasked whole is taken
            } else {
                assert_eq!(
                    (requests, warnings),
                    (wanted, faults.len()),
                    "{scheme} {faults:?}: {}",
                    outcome.stderr
                );
            }
        }
    }
}

#[test]
fn the_rest_is_asked_for_with_the_version() {
    let bench = Bench::new(LENGTH);
    bench.server.faults(vec![Truncate(HALF)]);
    bench.get("http", &[]).expect(0);
    let log = bench.server.take_log();
    let second = log.iter().filter(|r| r.is_for_data()).nth(1).unwrap();
    assert_eq!(second.header("range"), Some(&*format!("bytes={HALF}-")));
    assert_eq!(second.header("if-range"), Some("\"v1\""));
}

#[test]
fn without_a_version_nothing_is_resumed() {
    for etag in [Option::None, Some("W/\"weak\"")] {
        let bench = Bench::new(LENGTH);
        bench.server.change(PATH, |c| c.etag = etag.map(String::from));
        bench.server.faults(vec![Truncate(HALF)]);
        bench.get("http", &[]).expect(0);
        assert!(bench.server.take_log().iter().all(|r| r.header("range").is_none()));
        bench.expect_only_the_file();
        // nor is a part kept
        bench.server.put(PATH, b"other");
        bench.server.put(&format!("{PATH}.sig"), &sign(b"other"));
        bench.server.change(PATH, |c| c.etag = etag.map(String::from));
        bench.server.faults(vec![Truncate(1); 9]);
        bench.get("http", &[]).expect(1);
        bench.expect_only_the_file();
    }
}

#[test]
fn a_change_between_two_answers_starts_over() {
    for scheme in ["http", "gs"] {
        let mut bench = Bench::new(LENGTH);
        bench.server.faults(vec![ChangeAfter(HALF)]);
        let other: Vec<u8> = bench.body.iter().map(|b| b.wrapping_add(1)).collect();
        // the signature of the second version, so that a mix of the two cannot pass
        bench.server.put(&format!("{PATH}.sig"), &sign(&other));
        bench.body = other;
        let outcome = bench.get(scheme, &[]);
        assert_eq!(outcome.code, 0, "{scheme}: {}", outcome.stderr);
        bench.expect_only_the_file();
        // the same without a signature that would notice
        let bench = Bench::new(LENGTH);
        bench.server.faults(vec![ChangeAfter(HALF)]);
        bench.get(scheme, &["--verify=false"]).expect(0);
        assert!(
            std::fs::read(bench.file("image.bin"))
                .unwrap()
                .iter()
                .zip(&bench.body)
                .all(|(a, b)| *a == b.wrapping_add(1))
        );
    }
}

#[test]
fn what_changes_for_ever_is_given_up() {
    for scheme in ["http", "gs"] {
        let bench = Bench::new(LENGTH);
        bench.server.faults(vec![ChangeAfter(HALF); 100]);
        bench.get(scheme, &["--verify=false"]).expect(1);
        assert!(bench.requests_for_data() < 20);
        assert!(bench.names().iter().all(|n| n.starts_with("image.bin.part")), "{:?}", bench.names());
    }
}

#[test]
fn lasting_troubles_are_reported_and_not_repeated() {
    for scheme in ["http", "gs"] {
        for (fault, requests) in [
            (Status(403, ""), 1),
            (Status(410, ""), 1),
            (Status(501, ""), 1),
            (Status(503, ""), 5),
            (Reset, 5),
            (Truncate(0), 5),
            (Status(503, "Retry-After: 86400\r\n"), 5), // nobody makes us wait for a day
        ] {
            let mut bench = Bench::new(LENGTH);
            if fault == Status(503, "Retry-After: 86400\r\n") {
                bench.env.set("MANTLE_POLL_SCALE", "0.02"); // the longest wait is 1.2 s
            }
            std::fs::write(bench.file("image.bin"), "old").unwrap();
            bench.server.faults(vec![fault.clone(); 50]);
            let outcome = bench.get(scheme, &[]).expect(1);
            assert_eq!(bench.requests_for_data(), requests, "{scheme} {fault:?}: {}", outcome.stderr);
            assert_eq!(std::fs::read_to_string(bench.file("image.bin")).unwrap(), "old");
            assert_eq!(bench.names(), ["image.bin"], "{scheme} {fault:?}");
        }
    }
}

/// Whoever sends the wrong part is asked for all of it, once and for all; what is there is not given up for less.
#[test]
fn wrong_parts_are_not_believed_and_no_dead_end() {
    for scheme in ["http", "gs"] {
        for wrong in [WrongPart, NamelessPart] {
            for options in [&[][..], &["--verify=false"]] {
                let context = format!("{scheme} {wrong:?} {options:?}");
                let bench = Bench::new(LENGTH);
                bench.server.faults(vec![Truncate(HALF), wrong.clone()]);
                let outcome = bench.get(scheme, options).expect(0);
                assert_eq!(outcome.stderr.matches("asking for all of it").count(), 1, "{context}");
                bench.expect_only_the_file();
                assert_eq!(ranges(&bench), [Option::None, Some(HALF), Option::None], "{context}");

                // again and again, until more has come than there was; each command gets further or leaves what is there
                let bench = Bench::new(LENGTH);
                let part = bench.file("image.bin.part");
                bench.server.faults(
                    [
                        &[Truncate(HALF), wrong.clone(), Truncate(100)][..],
                        &[Reset, Reset, Reset, Reset, Reset],
                    ]
                    .concat(),
                );
                let outcome = bench.get(scheme, options).expect(1);
                assert_eq!(part.metadata().unwrap().len(), HALF as u64, "{context}");
                assert!(
                    !outcome.stderr.contains("the same command resumes there"),
                    "{context}: {}",
                    outcome.stderr
                );
                assert!(
                    outcome.stderr.contains("from their first byte only"),
                    "{context}: {}",
                    outcome.stderr
                );
                let asked = ranges(&bench);
                assert_eq!(asked.iter().flatten().count(), 1, "{context}: {asked:?}");
                bench.server.faults(
                    [&[wrong.clone(), Truncate(HALF + 100)][..], &[Reset, Reset, Reset, Reset, Reset]]
                        .concat(),
                );
                bench.get(scheme, options).expect(1);
                assert_eq!(part.metadata().unwrap().len(), HALF as u64 + 100, "{context}");
                bench.server.faults(vec![wrong.clone()]);
                bench.get(scheme, options).expect(0);
                bench.expect_only_the_file();
            }
        }
    }
}

/// The first bytes of the parts that were asked for, a request for data each.
fn ranges(bench: &Bench) -> Vec<Option<usize>> {
    let log = bench.server.take_log();
    let first = |range: &str| range.strip_prefix("bytes=")?.split_once('-')?.0.parse().ok();
    log.iter().filter(|r| r.is_for_data()).map(|r| r.header("range").and_then(first)).collect()
}

#[test]
fn what_comes_again_under_the_same_version_must_be_the_same() {
    let bench = Bench::new(LENGTH);
    bench.server.faults(vec![Truncate(HALF), Reset, Reset, Reset, Reset]);
    bench.get("http", &["--verify=false"]).expect(1);
    let other: Vec<u8> = bench.body.iter().map(|b| b.wrapping_add(1)).collect();
    bench.server.change(PATH, |c| c.body.clone_from(&other)); // its tag stays
    bench.server.faults(vec![IgnoreRange]);
    let outcome = bench.get("http", &["--verify=false"]).expect(0);
    assert!(outcome.stderr.contains("other bytes came than before"), "{}", outcome.stderr);
    assert!(std::fs::read(bench.file("image.bin")).unwrap() == other);
}

#[test]
fn slices_are_put_together_and_use_up_no_tries() {
    for scheme in ["http", "gs"] {
        let bench = Bench::new(LENGTH / 16);
        let slices = vec![Slice(10_000); 100];
        bench.server.faults([&[Truncate(10_000)][..], &slices].concat());
        let outcome = bench.get(scheme, &[]).expect(0);
        bench.expect_only_the_file();
        assert_eq!(outcome.stderr.matches("trying again").count(), 1, "{}", outcome.stderr);
        let expected: Vec<_> =
            (0..LENGTH / 16).step_by(10_000).map(|at| Some(at).filter(|at| *at > 0)).collect();
        assert_eq!(ranges(&bench), expected);
    }
}

#[test]
fn damage_on_the_way_is_noticed_and_repaired() {
    for (scheme, options) in [("http", &[][..]), ("gs", &[]), ("gs", &["--verify=false"])] {
        let bench = Bench::new(LENGTH);
        bench.server.faults(vec![Flip]);
        let outcome = bench.get(scheme, options).expect(0);
        assert!(outcome.stderr.contains("starting over"), "{}", outcome.stderr);
        bench.expect_only_the_file();
        let bench = Bench::new(LENGTH);
        bench.server.faults(vec![Flip; 9]);
        bench.get(scheme, options).expect(1);
        assert_eq!((bench.requests_for_data(), bench.names().len()), (2, 0));
    }
}

#[test]
fn a_damaged_part_is_noticed_and_repaired() {
    for scheme in ["http", "gs"] {
        let bench = Bench::new(LENGTH);
        bench.server.faults(vec![Truncate(HALF), Reset, Reset, Reset, Reset]);
        bench.get(scheme, &[]).expect(1);
        let part = bench.file("image.bin.part");
        let mut bytes = std::fs::read(&part).unwrap();
        bytes[7] ^= 1;
        std::fs::write(&part, &bytes).unwrap();
        let outcome = bench.get(scheme, &[]).expect(0);
        assert!(outcome.stderr.contains("starting over"), "{}", outcome.stderr);
        bench.expect_only_the_file();
    }
}

#[test]
fn a_body_without_length_ends_with_the_connection() {
    let bench = Bench::new(LENGTH);
    bench.server.faults(vec![NoLength]);
    bench.get("http", &[]).expect(0);
    bench.expect_only_the_file();
}

#[test]
fn a_full_disk_is_found_out_before_the_download() {
    let bench = Bench::new(1000);
    bench.server.change(PATH, |c| c.body.resize(1000, 0));
    let mut bench = bench;
    bench.body = vec![0; 1000];
    // an object that claims to be larger than any disk
    bench.server.special(|r| {
        let describe = r.target.contains("/storage/v1/")
            && !r.target.contains("alt=media")
            && !r.target.contains(".sig");
        let json = r#"{"name":"dir/image.bin","size":"1000000000000000","generation":"1"}"#;
        describe.then(|| (200, json.into()))
    });
    let outcome = bench.get("gs", &[]).expect(1);
    assert!(bench.names().is_empty() && outcome.stderr.contains("image.bin.part"), "{}", outcome.stderr);
}

#[test]
fn objects_stored_gzipped_arrive_as_they_were_before() {
    let bench = Bench::new(LENGTH);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &bench.body).unwrap();
    let stored = encoder.finish().unwrap();
    bench.server.put(PATH, &stored);
    bench.server.change(PATH, |c| c.gzipped = true);
    bench.server.faults(vec![Truncate(stored.len() / 2), Reset]);
    bench.get("gs", &[]).expect(0);
    let log = bench.server.take_log();
    assert!(log.iter().filter(|r| r.is_for_data()).all(|r| r.header("accept-encoding") == Some("gzip")));
    bench.expect_only_the_file();
    // on the web the file itself is what is signed, whatever the server calls it
    let bench = Bench::new(LENGTH);
    bench.server.change(PATH, |c| c.gzipped = true);
    bench.get("http", &[]).expect(0);
    bench.expect_only_the_file();
}

/// Which bytes were signed is said when it is not those that are taken.
#[test]
fn signatures_over_the_other_form_of_encoded_content_are_told() {
    let mut plain = Bench::new(300_000);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &plain.body).unwrap();
    let stored = encoder.finish().unwrap();
    plain.server.put(PATH, &stored);
    plain.server.change(PATH, |c| c.gzipped = true);
    // of Google the content is taken decoded, of the web as it comes
    for (scheme, signed, said) in [
        ("gs", &stored, "the bytes as they are sent, not over the decoded ones"),
        ("http", &plain.body, "the decoded bytes, not over those that are sent"),
    ] {
        plain.server.put(&format!("{PATH}.sig"), &sign(signed));
        let outcome = plain.get(scheme, &[]).expect(1);
        assert!(outcome.stderr.contains("comes with Content-Encoding gzip"), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(said), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("stored without Content-Encoding"), "{}", outcome.stderr);
        assert!(plain.names().is_empty());
    }
    plain.server.put(&format!("{PATH}.sig"), &sign(&stored));
    plain.get("http", &[]).expect(0);
    plain.body = stored;
    plain.expect_only_the_file();
}

/// All sequences of a few faults: the end is the same.
#[test]
fn sequences_of_faults_end_the_same() {
    let kinds = [Fault::None, Status(503, ""), Truncate(HALF), ResetAfter(5), IgnoreRange];
    let bench = Bench::new(LENGTH / 16);
    for first in &kinds {
        for second in &kinds {
            for scheme in ["http", "gs"] {
                let _ = std::fs::remove_file(bench.file("image.bin"));
                bench.server.faults(vec![first.clone(), second.clone()]);
                let outcome = bench.get(scheme, &[]);
                assert_eq!(outcome.code, 0, "{scheme} {first:?} {second:?}: {}", outcome.stderr);
                bench.expect_only_the_file();
            }
        }
    }
}
