//! Releases while every cloud fails now and then; somebody looks all the while where the pointers lead.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::world::{Dice, World};
use crate::support::gcs;
use crate::support::http::Response;
use crate::support::proxy::Fault;

/// What befalls a request.
#[derive(Clone, Copy)]
enum Fate {
    Nothing,
    Unavailable,
    ResetBefore,
    ResetAfter,
    Stall,
}

/// Of a hundred requests five are answered with 503, two end with a reset, before or after they were done, and one
/// never ends.
fn fate(dice: &mut Dice) -> Fate {
    match dice.below(100) {
        0..5 => Fate::Unavailable,
        5 => Fate::ResetBefore,
        6 => Fate::ResetAfter,
        7 => Fate::Stall,
        _ => Fate::Nothing,
    }
}

/// Lets all clouds fail; how often they have.
fn fail(world: &World, seed: u64) -> Arc<AtomicUsize> {
    let failures = Arc::new(AtomicUsize::new(0));
    for (which, proxy) in world.proxies().into_iter().enumerate() {
        let (mut dice, failures) = (Dice::new((seed << 8) | which as u64), failures.clone());
        proxy.rule(move |_| {
            let fault = match fate(&mut dice) {
                Fate::Nothing => return Fault::None,
                Fate::Unavailable => {
                    Fault::Answer(Response::new(503, "text/plain", "Service Unavailable".to_owned()))
                }
                Fate::ResetBefore => Fault::ResetBefore,
                Fate::ResetAfter => Fault::ResetAfter,
                Fate::Stall => Fault::Stall,
            };
            failures.fetch_add(1, Ordering::SeqCst);
            fault
        });
    }
    let (mut dice, own) = (Dice::new((seed << 8) | 0xff), failures.clone());
    world.gcs.judge(move |_, _| {
        let fault = match fate(&mut dice) {
            Fate::Nothing => return gcs::Fault::None,
            Fate::Unavailable => gcs::Fault::Status(503),
            Fate::ResetBefore => gcs::Fault::Reset,
            Fate::ResetAfter => gcs::Fault::ResetAfter,
            Fate::Stall => gcs::Fault::Stall,
        };
        own.fetch_add(1, Ordering::SeqCst);
        fault
    });
    failures
}

/// A release for each seed comes to what one without faults comes to.
fn released_in_spite_of(seeds: std::ops::Range<u64>) {
    let Some(world) = World::new() else { return };
    let expected = world.observed(|| {
        world.before(&[]).expect(0);
        world.release(&[]).expect(0);
        world.state()
    });
    for seed in seeds {
        world.begin();
        world.observed(|| {
            let failures = fail(&world, seed);
            for outcome in [world.before(&[]), world.release(&[])] {
                assert_eq!(outcome.code, 0, "seed {seed}: {}", outcome.stderr);
            }
            world.calm();
            println!("seed {seed}: {} failures", failures.load(Ordering::SeqCst));
            assert!(failures.load(Ordering::SeqCst) > 5, "seed {seed}");
        });
        let state = world.state();
        for (part, value) in expected.as_object().unwrap() {
            assert_eq!(state[part], *value, "seed {seed}: {part}");
        }
    }
}

#[test]
fn releases_end_well_though_the_clouds_fail_now_and_then() {
    released_in_spite_of(0..2);
}

/// Four tests of 25, for machines that run several at once.
macro_rules! hundred {
    ($($name:ident: $seeds:expr;)*) => {$(
        #[test]
        #[ignore = "minutes; make check-full"]
        fn $name() {
            released_in_spite_of($seeds);
        }
    )*};
}

hundred! {
    a_hundred_releases_end_well_1: 100..125;
    a_hundred_releases_end_well_2: 125..150;
    a_hundred_releases_end_well_3: 150..175;
    a_hundred_releases_end_well_4: 175..200;
}
