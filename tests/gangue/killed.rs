//! Killed at any moment and run again, the end is the same.

use std::sync::mpsc;

use nix::sys::signal::Signal;

use super::{Bench, PATH};
use crate::support::server::Fault;

const LENGTH: usize = 1 << 20;

/// Where in a request the process dies.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Asked,
    HalfAnswered,
}

#[test]
fn at_each_request() {
    for scheme in ["http", "gs"] {
        for options in [&[][..], &["--keep-sig"], &["--verify=false"]] {
            let whole = Bench::new(LENGTH);
            whole.get(scheme, options).expect(0);
            let (requests, end) = (whole.server.take_log().len(), whole.names());
            for number in 0..requests {
                for moment in [Moment::Asked, Moment::HalfAnswered] {
                    let context = format!("{scheme} {options:?} {number} of {requests}, {moment:?}");
                    killed_and_run_again(scheme, options, number, moment, &end, &context);
                }
            }
        }
    }
}

fn killed_and_run_again(
    scheme: &str,
    options: &[&str],
    number: usize,
    moment: Moment,
    end: &[String],
    context: &str,
) {
    let mut bench = Bench::new(LENGTH);
    bench.env.set("MANTLE_POLL_SCALE", "10"); // nothing but the signal ends the silence
    std::fs::write(bench.file("image.bin"), "old").unwrap();
    let (tell, reached) = mpsc::channel();
    bench.server.judge(move |_, n| {
        if n != number {
            return Fault::None;
        }
        let _ = tell.send(());
        match moment {
            Moment::Asked => Fault::Stall(0),
            Moment::HalfAnswered => Fault::Stall(LENGTH / 2),
        }
    });
    let running = bench.start(scheme, options);
    reached.recv().unwrap();
    running.signal(Signal::SIGKILL);
    running.finish().expect(-9);
    assert_eq!(std::fs::read_to_string(bench.file("image.bin")).unwrap(), "old", "{context}");
    bench.server.judge(|_, _| Fault::None);
    let outcome = bench.get(scheme, options);
    assert_eq!(outcome.code, 0, "{context}: {}", outcome.stderr);
    assert_eq!(bench.names(), end, "{context}");
    assert!(std::fs::read(bench.file("image.bin")).unwrap() == bench.body, "{context}");
}

/// A part that is complete although its process died before renaming it, of this version or an older one.
#[test]
fn between_the_last_byte_and_the_end() {
    for scheme in ["http", "gs"] {
        for changed in [false, true] {
            for options in [&[][..], &["--verify=false"]] {
                let bench = Bench::new(LENGTH);
                let all_but_one = LENGTH - 1;
                let mut faults = vec![Fault::Truncate(all_but_one)];
                faults.extend(vec![Fault::Reset; 4]);
                bench.server.faults(faults);
                bench.get(scheme, options).expect(1);
                let part = bench.file("image.bin.part");
                assert_eq!(part.metadata().unwrap().len(), all_but_one as u64);
                std::fs::write(&part, &bench.body).unwrap();
                if changed {
                    bench.server.put(PATH, &bench.body); // the same bytes: only the version tells
                }
                bench.server.take_log();
                bench.get(scheme, options).expect(0);
                bench.expect_only_the_file();
                let log = bench.server.take_log();
                let ranges: Vec<_> =
                    log.iter().filter(|r| r.is_for_data()).map(|r| r.header("range")).collect();
                let last = format!("bytes={all_but_one}-");
                // Google tells the version beforehand; a web server answers the condition with the whole
                let expected = if changed && scheme == "gs" { None } else { Some(&*last) };
                assert_eq!(ranges, [expected], "{scheme} changed={changed}");
            }
        }
    }
}
