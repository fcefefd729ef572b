//! A release killed at its requests, then run again; somebody looks all the while where the pointers lead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::world::World;
use crate::support::gcs;
use crate::support::proxy::Fault;

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
        for proxy in [&world.aws, &world.blobs, &world.asm.proxy, &world.gce.proxy] {
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

/// Looks where the pointers lead, until it is dropped.
fn observed(world: &World, work: impl FnOnce()) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                world.pointers_lead_to_what_is_public();
                std::thread::park_timeout(Duration::from_millis(30));
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        over.store(true, Ordering::SeqCst);
        result.unwrap_or_else(|cause| std::panic::resume_unwind(cause));
    });
}

fn calm(world: &World) {
    for proxy in [&world.aws, &world.blobs, &world.asm.proxy, &world.gce.proxy] {
        proxy.calm();
    }
    world.gcs.thaw();
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
    calm(world);
    (killed, trap.seen.load(Ordering::SeqCst))
}

/// Kills both commands at every `step`-th of their requests, beginning with `first`.
fn killed_at(first: usize, step: usize) {
    let Some(world) = World::new() else { return };
    let (mut requests, mut expected) = (Vec::new(), None);
    observed(&world, || {
        for command in COMMANDS {
            requests.push(run(&world, command, usize::MAX).1);
        }
        expected = Some(world.state());
    });
    assert!(requests.iter().all(|n| *n > 40), "{requests:?}");
    for (which, command) in COMMANDS.into_iter().enumerate() {
        for at in (first..requests[which]).step_by(step) {
            world.begin();
            observed(&world, || {
                if which == 1 {
                    run(&world, COMMANDS[0], usize::MAX);
                }
                let (killed, _) = run(&world, command, at);
                let outcome = match command {
                    "release" => world.release(&[]),
                    _ => world.before(&[]),
                };
                assert_eq!(outcome.code, 0, "{command} after a kill ({killed}) at {at}: {}", outcome.stderr);
                if which == 0 {
                    world.release(&[]).expect(0);
                }
            });
            let state = world.state();
            let expected = expected.as_ref().unwrap();
            for (part, value) in expected.as_object().unwrap() {
                assert_eq!(state[part], *value, "{command} after a kill at {at}: {part}");
            }
        }
    }
}

#[test]
fn a_release_killed_here_and_there_is_finished_by_the_next() {
    killed_at(23, 61);
}

#[test]
#[ignore = "minutes; make check-full"]
fn a_release_killed_at_any_request_is_finished_by_the_next() {
    killed_at(0, 1);
}
