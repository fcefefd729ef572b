//! A release killed at its requests, then run again; somebody looks all the while where the pointers lead.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::world::{Dice, Set, World};
use crate::support::gcs;
use crate::support::proxy::{Entry, Fault};

const COMMANDS: [&str; 2] = ["pre-release", "release"];

/// Counts the requests to all clouds, and kills whoever sends this one.
struct Trap {
    seen: AtomicUsize,
    at: usize,
    /// The request has come: its answer is not to be seen.
    armed: AtomicBool,
    victim: AtomicI32,
}

impl Trap {
    /// In front of all clouds; the request of number `at` is done, but its sender does not hear of it.
    fn set(world: &World, at: usize) -> Arc<Self> {
        let (seen, armed, victim) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicI32::new(0));
        let trap = Arc::new(Self { seen, at, armed, victim });
        for proxy in world.proxies() {
            let own = trap.clone();
            proxy.rule(move |_| match own.seen.fetch_add(1, Ordering::SeqCst) == own.at {
                true => {
                    own.armed.store(true, Ordering::SeqCst);
                    Fault::Stall
                }
                false => Fault::None,
            });
            let own = trap.clone();
            proxy.watch(move |_, _| {
                if own.armed.load(Ordering::SeqCst) {
                    own.spring();
                }
            });
        }
        let own = trap.clone();
        world.gcs.judge(move |_, _| match own.seen.fetch_add(1, Ordering::SeqCst) == own.at {
            true => gcs::Fault::KillAfter,
            false => gcs::Fault::None,
        });
        trap
    }

    fn spring(&self) {
        loop {
            match self.victim.load(Ordering::SeqCst) {
                0 => std::thread::yield_now(),
                victim => {
                    // It may be dead already.
                    let _ = kill(Pid::from_raw(victim), Signal::SIGKILL);
                    return;
                }
            }
        }
    }
}

/// Runs a command to its end, or to request number `at`: whether it came to that, and how many requests there were.
fn run(world: &World, command: &str, at: usize) -> (bool, usize) {
    let trap = Trap::set(world, at);
    let running = world.start(command);
    world.gcs.set_victim(running.id());
    trap.victim.store(running.id(), Ordering::SeqCst);
    let outcome = running.finish();
    let killed = outcome.code == -9;
    assert!(killed || outcome.code == 0, "{command} at {at}: {}", outcome.stderr);
    world.calm();
    (killed, trap.seen.load(Ordering::SeqCst))
}

/// How often and as what the pieces of the disks were sent: Amazon's parts, Azure's pages.
#[derive(Default)]
struct Sent(BTreeMap<String, usize>);

impl Sent {
    /// Counts what has been sent since the last time.
    fn count(&mut self, world: &World) {
        let aws = world
            .aws
            .take_journal()
            .into_iter()
            .filter(|e| e.request.method == "PUT" && !e.request.body.is_empty());
        let parts = aws.map(|Entry { request, .. }| {
            let query = request.query().into_iter().find(|(name, _)| name == "partNumber");
            format!("{} {query:?}", request.path())
        });
        let blobs = world.blobs.take_journal().into_iter().map(|e| e.request);
        let pages = blobs
            .filter(|r| r.header("x-ms-page-write").is_some())
            .map(|request| format!("{} {:?}", request.path(), request.header("x-ms-range")));
        parts.chain(pages).for_each(|piece| *self.0.entry(piece).or_default() += 1);
    }

    fn twice(&self) -> Vec<&String> {
        self.0.iter().flat_map(|(piece, times)| std::iter::repeat_n(piece, times - 1)).collect()
    }
}

/// What an uninterrupted release comes to.
struct Expected {
    /// Of both commands.
    requests: [usize; 2],
    pieces: usize,
    state: Value,
}

impl Expected {
    fn of(world: &World) -> Self {
        let mut sent = Sent::default();
        let (requests, state) = world.observed(|| {
            let before = run(world, COMMANDS[0], usize::MAX).1;
            sent.count(world);
            ([before, run(world, COMMANDS[1], usize::MAX).1], world.state())
        });
        assert!(requests.iter().all(|n| *n > 40), "{requests:?}");
        assert_eq!(sent.twice(), Vec::<&String>::new());
        Self { requests, pieces: sent.0.len(), state }
    }

    /// Kills one of the commands at a request, and sees what the next ones make of it.
    fn killed_at(&self, world: &World, which: usize, at: usize) {
        let command = COMMANDS[which];
        world.begin();
        let mut sent = Sent::default();
        world.observed(|| {
            if which == 1 {
                run(world, COMMANDS[0], usize::MAX);
            }
            let (killed, _) = run(world, command, at);
            let outcome = match command {
                "release" => world.release(&[]),
                _ => world.before(&[]),
            };
            assert_eq!(outcome.code, 0, "{command} after a kill ({killed}) at {at}: {}", outcome.stderr);
            sent.count(world);
            if which == 0 {
                world.release(&[]).expect(0);
            }
        });
        let twice = sent.twice();
        assert!(twice.len() <= 1, "{command} after a kill at {at}: sent twice were {twice:?}");
        assert_eq!(sent.0.len(), self.pieces, "{command} after a kill at {at}: {:?}", sent.0);
        let state = world.state();
        for (part, value) in self.state.as_object().unwrap() {
            assert_eq!(state[part], *value, "{command} after a kill at {at}: {part}");
        }
    }
}

/// Kills both commands at every `step`-th of their requests, beginning with `first`.
fn killed_at(first: usize, step: usize) {
    let Some(world) = World::new() else { return };
    let expected = Expected::of(&world);
    for which in 0..COMMANDS.len() {
        for at in (first..expected.requests[which]).step_by(step) {
            expected.killed_at(&world, which, at);
        }
    }
}

/// Kills a release of large images at so many random requests.
fn killed_at_random(seed: u64, times: usize) {
    let Some(world) = World::with(Set::Full) else { return };
    let expected = Expected::of(&world);
    assert!(expected.pieces > 8, "{}", expected.pieces);
    let (mut dice, requests) = (Dice::new(seed), expected.requests);
    for _ in 0..times {
        let at = dice.below(requests[0] + requests[1]);
        let (which, at) = if at < requests[0] { (0, at) } else { (1, at - requests[0]) };
        expected.killed_at(&world, which, at);
    }
}

#[test]
fn a_release_killed_here_and_there_is_finished_by_the_next() {
    killed_at(23, 97);
}

#[test]
#[ignore = "minutes; make check-full"]
fn a_release_killed_at_any_request_is_finished_by_the_next() {
    killed_at(0, 1);
}

/// Four tests of 50, for machines that run several at once.
macro_rules! random {
    ($($name:ident: $seed:literal;)*) => {$(
        #[test]
        #[ignore = "minutes; make check-full"]
        fn $name() {
            killed_at_random($seed, 50);
        }
    )*};
}

random! {
    a_full_release_killed_at_random_is_finished_by_the_next_1: 1;
    a_full_release_killed_at_random_is_finished_by_the_next_2: 2;
    a_full_release_killed_at_random_is_finished_by_the_next_3: 3;
    a_full_release_killed_at_random_is_finished_by_the_next_4: 4;
}
