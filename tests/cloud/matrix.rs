//! What must hold of kola in every cloud, whatever goes wrong: it is killed, refused, interrupted, not answered at
//! each of its requests in turn, and nothing is left, or `kola cleanup` knows of it.
//!
//! A cloud's double says how it is used ([`Double`]); its `kola.rs` has all of them as tests by [`matrices`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::http::{Request, Response};
use crate::support::proxy::{Fault, Proxy};
use crate::support::{Env, Outcome, Running};

/// Everything that an account has: ids by kind, with a state or name.
pub type Census = BTreeMap<String, BTreeMap<String, String>>;

/// How a service says no.
#[derive(Clone, Copy, Debug)]
pub enum No {
    /// For good: the account may not.
    Forbidden,
    /// Too many requests; later.
    Throttled,
    /// A fault of the service's own; perhaps later.
    Broken,
}

/// A cloud of our own, as far as the matrices look at it.
pub trait Double {
    /// What every run asks for: a matrix that has not met these has tested nothing.
    const NEEDED: &'static [&'static str];

    /// What only the first run in a cloud asks for: networks and the like, which stay for the next.
    const PREPARES: &'static [&'static str];

    /// What is asked until the answer is another one: how often depends on the clock.
    const POLLED: &'static [&'static str];

    /// The words that clean up by the ledger in the folder `out` without `kola cleanup`: the cloud's `ore ... gc`.
    const COLLECT: &'static [&'static str];

    /// An environment with keys for this cloud.
    fn env(&self) -> Env;

    /// The options of `kola spawn` and `kola run` that choose this cloud and an image in it.
    fn options(&self, image: &str) -> Vec<String>;

    /// All requests go through it.
    fn proxy(&self) -> &Proxy;

    /// Registers an image to run; its id.
    fn image(&self) -> String;

    /// Everything there is.
    fn census(&self) -> Census;

    /// Machines that run, by id.
    fn running(&self) -> Vec<String>;

    /// Forgets everything that was made; guests end, the proxy is calm.
    fn reset(&self);

    /// The name of what a request asks for.
    fn action(request: &Request) -> String;

    /// Whether an action makes something that is there until it is removed.
    fn is_creation(action: &str) -> bool;

    /// The answer by which the service says no to a request.
    fn no(request: &Request, how: No) -> Response;

    /// What a run has left, by a census from before it and one from after: a line each. What is kept for the next run
    /// does not count.
    fn left(before: &Census, after: &Census) -> Vec<String>;
}

/// Starts kola with what every call here has.
pub fn start<D: Double>(cloud: &D, env: &Env, image: &str, verb: &str, args: &[&str]) -> Running {
    let options = cloud.options(image);
    let mut words = vec!["kola", verb, "--output-dir", "out"];
    words.extend(options.iter().map(String::as_str));
    words.extend(args);
    env.start(Path::new(env!("CARGO_BIN_EXE_mantle")), &words)
}

/// Runs kola to its end.
pub fn kola<D: Double>(cloud: &D, env: &Env, image: &str, verb: &str, args: &[&str]) -> Outcome {
    start(cloud, env, image, verb, args).finish()
}

/// Fails unless everything of kola's is gone, and everything else is as before.
#[track_caller]
pub fn nothing_left<D: Double>(cloud: &D, before: &Census, what: &str) {
    let after = cloud.census();
    let left = D::left(before, &after);
    assert!(left.is_empty(), "{what}: left are {left:?}");
    assert!(cloud.running().is_empty(), "{what}: machines run");
    for (kind, things) in before {
        for (id, state) in things {
            assert_eq!(after[kind].get(id), Some(state), "{what}: foreign {kind} {id}");
        }
    }
}

/// The number of a process that is started later; whoever needs it waits.
#[derive(Clone, Default)]
struct Victim(Arc<AtomicI32>);

impl Victim {
    fn is(&self, running: &Running) {
        self.0.store(running.id(), Ordering::SeqCst);
    }

    fn signal(&self, signal: Signal) {
        while self.0.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        let _ = kill(Pid::from_raw(self.0.load(Ordering::SeqCst)), signal);
    }
}

/// Before or after the service has done what a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Before,
    After,
}

/// Kola that is killed by the first request that is picked; what that asked for, `None` if none is picked.
pub fn killed<D: Double>(
    cloud: &D,
    env: &Env,
    image: &str,
    when: When,
    mut pick: impl FnMut(&Request) -> bool + Send + 'static,
) -> Option<String> {
    let victim = Victim::default();
    let picked = Arc::new(Mutex::new(None::<Request>));
    let (note, shot) = (picked.clone(), victim.clone());
    cloud.proxy().rule(move |request| {
        let mut picked = note.lock().unwrap();
        if picked.is_some() || !pick(request) {
            return Fault::None;
        }
        *picked = Some(request.clone());
        if when == When::After {
            return Fault::ResetAfter;
        }
        shot.signal(Signal::SIGKILL);
        Fault::ResetBefore
    });
    let (note, shot) = (picked.clone(), victim.clone());
    cloud.proxy().watch(move |request, _| {
        // Now the server has done it, and kola has not heard of it.
        let same = |r: &Request| (&r.target, &r.body) == (&request.target, &request.body);
        if when == When::After && note.lock().unwrap().as_ref().is_some_and(same) {
            shot.signal(Signal::SIGKILL);
        }
    });
    let running = start(cloud, env, image, "spawn", &[]);
    victim.is(&running);
    let outcome = running.finish();
    cloud.proxy().calm();
    let action = picked.lock().unwrap().take().map(|request| D::action(&request));
    let code = if action.is_some() { -9 } else { 0 };
    assert_eq!(outcome.code, code, "{action:?}: {}", outcome.stderr);
    action
}

/// Which requests of a run a matrix goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The first for each operation.
    Operations,
    /// All; of operations that are repeated until the answer changes, the first two.
    Requests,
}

impl Depth {
    /// Whether a request for an operation counts that was asked for so many times before.
    fn takes<D: Double>(self, action: &str, times: usize) -> bool {
        match self {
            Self::Operations => times == 0,
            Self::Requests => times < 2 || !D::POLLED.contains(&action),
        }
    }
}

/// The operations of an undisturbed run in their order, each with how often it had been asked for before.
fn moments<D: Double>(cloud: &D, image: &str, depth: Depth) -> Vec<(String, usize)> {
    cloud.proxy().take_journal();
    kola(cloud, &cloud.env(), image, "spawn", &[]).expect(0);
    let mut seen = BTreeMap::<String, usize>::new();
    let mut moments = Vec::new();
    for entry in cloud.proxy().take_journal() {
        let action = D::action(&entry.request);
        let times = seen.entry(action.clone()).or_default();
        if depth.takes::<D>(&action, *times) {
            moments.push((action, *times));
        }
        *times += 1;
    }
    for needed in D::NEEDED {
        assert!(moments.iter().any(|(action, _)| action == needed), "no {needed} in {moments:?}");
    }
    assert!(moments.iter().any(|(action, _)| D::is_creation(action)), "nothing is made in {moments:?}");
    moments
}

/// Kills kola at each of its requests in turn, in a cloud without what the first run prepares (`fresh`) or with it.
pub fn killed_at_each<D: Double>(cloud: &D, depth: Depth, fresh: bool, when: When) {
    let mut image = cloud.image();
    if !fresh {
        kola(cloud, &cloud.env(), &image, "spawn", &[]).expect(0);
    }
    let moments = moments(cloud, &image, depth);
    for prepares in D::PREPARES {
        assert_eq!(fresh, moments.iter().any(|(action, _)| action == prepares), "{prepares}: {moments:?}");
    }
    for (action, times) in moments {
        if fresh {
            cloud.reset();
            image = cloud.image();
        }
        let (env, before) = (cloud.env(), cloud.census());
        let (wanted, mut seen) = (action.clone(), 0);
        let pick = move |request: &Request| {
            let right = D::action(request) == wanted;
            seen += usize::from(right);
            right && seen == times + 1
        };
        let what = format!("killed {when:?} {action}, asked for the {}. time", times + 1);
        let killed = killed(cloud, &env, &image, when, pick);
        assert!(killed.is_some() || D::POLLED.contains(&&*action), "not {what}");
        // Either of the two cleans up.
        let outcome = match when {
            When::After => env.mantle(&["kola", "cleanup", "out"]),
            When::Before => env.mantle(D::COLLECT),
        };
        assert_eq!(outcome.code, 0, "{what}: {}", outcome.stderr);
        nothing_left(cloud, &before, &what);
    }
}

/// Runs `kola spawn` again and again, each time with a fault for another request, until a run has no new ones.
fn each_in_turn<D: Double>(
    cloud: &D,
    depth: Depth,
    fault: impl Fn(&Request) -> Fault + Send + Clone + 'static,
    check: impl Fn(&Env, &Census, &str, &str, Outcome),
) {
    let mut met = BTreeSet::<(String, usize)>::new();
    loop {
        cloud.reset();
        let image = cloud.image();
        let (env, before) = (cloud.env(), cloud.census());
        let hit = Arc::new(Mutex::new(None));
        let (note, fault, met_before) = (hit.clone(), fault.clone(), met.clone());
        let mut seen = BTreeMap::<String, usize>::new();
        cloud.proxy().rule(move |request| {
            let action = D::action(request);
            let times = seen.entry(action.clone()).or_default();
            let moment = (action, *times);
            *times += 1;
            let mut note = note.lock().unwrap();
            if note.is_some() || !depth.takes::<D>(&moment.0, moment.1) || met_before.contains(&moment) {
                return Fault::None;
            }
            *note = Some(moment);
            fault(request)
        });
        let outcome = kola(cloud, &env, &image, "spawn", &[]);
        let Some(moment) = hit.lock().unwrap().take() else {
            for needed in D::NEEDED {
                assert!(met.iter().any(|(action, _)| action == needed), "no {needed} in {met:?}");
            }
            return;
        };
        cloud.proxy().calm();
        let (action, times) = &moment;
        check(&env, &before, action, &format!("{action}, asked for the {}. time", times + 1), outcome);
        met.insert(moment);
    }
}

/// Every answer is lost once, one a run: kola gets along, and leaves nothing.
pub fn each_answer_is_lost<D: Double>(cloud: &D, depth: Depth) {
    each_in_turn(
        cloud,
        depth,
        |_| Fault::ResetAfter,
        |_, before, _, what, outcome| {
            assert_eq!(outcome.code, 0, "the answer is lost to {what}: {}", outcome.stderr);
            nothing_left(cloud, before, &format!("the answer is lost to {what}"));
        },
    );
}

/// Every request is forbidden once, one a run. Kola may do without it or fail. It leaves nothing, or says so by its
/// status; then `kola cleanup` knows what. What could not be made leaves nothing.
pub fn each_request_is_refused<D: Double>(cloud: &D, depth: Depth) {
    each_in_turn(
        cloud,
        depth,
        |request| Fault::Answer(D::no(request, No::Forbidden)),
        |env, before, action, what, outcome| {
            let what = format!("refused is {what}: {}", outcome.stderr);
            assert!([0, 1].contains(&outcome.code), "status {}: {what}", outcome.code);
            let left = D::left(before, &cloud.census());
            assert!(left.is_empty() || outcome.code == 1, "left, not said: {left:?}: {what}");
            assert!(left.is_empty() || !D::is_creation(action), "left are {left:?}: {what}");
            let cleaned = env.mantle(&["kola", "cleanup", "out"]);
            assert_eq!(cleaned.code, 0, "clean-up: {}\n{what}", cleaned.stderr);
            nothing_left(cloud, before, &what);
        },
    );
}

/// Every second request is throttled or meets an error of the server.
pub fn trouble_all_the_way<D: Double>(cloud: &D) {
    let image = cloud.image();
    let (env, before) = (cloud.env(), cloud.census());
    let mut seen = 0;
    cloud.proxy().rule(move |request| {
        seen += 1;
        match seen % 4 {
            1 => Fault::Answer(D::no(request, No::Throttled)),
            3 => Fault::Answer(D::no(request, No::Broken)),
            _ => Fault::None,
        }
    });
    kola(cloud, &env, &image, "spawn", &[]).expect(0);
    nothing_left(cloud, &before, "trouble");
}

/// The end of a machine is never answered: kola goes on without the answer and says so; clean-up removes what is left.
pub fn an_end_that_hangs<D: Double>(cloud: &D, end: &'static str) {
    let (image, mut env, before) = (cloud.image(), cloud.env(), cloud.census());
    env.set("MANTLE_PATIENCE", "0.01");
    cloud.proxy().rule(move |request| if D::action(request) == end { Fault::Stall } else { Fault::None });
    let outcome = kola(cloud, &env, &image, "spawn", &[]).expect(1);
    assert!(outcome.stderr.contains("is left: it was not gone after 300 s"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("one thing is left over; `kola cleanup "), "{}", outcome.stderr);
    cloud.proxy().calm();
    env.mantle(&["kola", "cleanup", "out"]).expect(0);
    nothing_left(cloud, &before, "an end that hangs");
}

/// Interrupts kola at the first request for each of these actions; at the `last` there may be nothing left to
/// interrupt.
pub fn interrupts_leave_nothing<D: Double>(cloud: &D, actions: &[&'static str], last: &'static str) {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        for at in actions.iter().copied().chain([last]) {
            cloud.reset();
            let image = cloud.image();
            let (env, before) = (cloud.env(), cloud.census());
            let victim = Victim::default();
            let (shot, mut done) = (victim.clone(), false);
            cloud.proxy().rule(move |request| {
                if !done && D::action(request) == at {
                    done = true;
                    shot.signal(signal);
                }
                Fault::None
            });
            let running = start(cloud, &env, &image, "spawn", &[]);
            victim.is(&running);
            let outcome = running.finish();
            let what = format!("{signal} at {at}");
            assert!(outcome.code == code || at == last, "{what}: {} {}", outcome.code, outcome.stderr);
            nothing_left(cloud, &before, &what);
            let outcome = env.mantle(&["kola", "cleanup", "out"]).expect(0);
            assert_eq!(outcome.stdout, "out: nothing is left over\n", "{what}");
        }
    }
}

/// All matrices as tests in a cloud's `kola.rs`: `start`, a function beside them, makes a double with machines that only seem to be, or nothing
/// where those cannot be; `end` is what ends a machine; interrupts come at each of some requests, and at a last one, at
/// which there may be nothing left to interrupt.
///
/// What goes through a run's requests takes the first of each operation, and all of them in `make check-full`.
macro_rules! matrices {
    (@depth $start:path, $depth:ident $(, #[$ignore:meta])?) => {
        #[test]
        $(#[$ignore])?
        fn killed_after_each_request_in_a_fresh_cloud() {
            let Some(cloud) = $start() else { return };
            matrix::killed_at_each(&cloud, Depth::$depth, true, When::After);
        }

        // Differs from the one above by the line on record before a request.
        #[test]
        #[ignore = "minutes; make check-full"]
        fn killed_before_each_request_in_a_fresh_cloud() {
            let Some(cloud) = $start() else { return };
            matrix::killed_at_each(&cloud, Depth::$depth, true, When::Before);
        }

        #[test]
        $(#[$ignore])?
        fn killed_after_each_request_of_a_later_run() {
            let Some(cloud) = $start() else { return };
            matrix::killed_at_each(&cloud, Depth::$depth, false, When::After);
        }

        #[test]
        $(#[$ignore])?
        fn each_answer_is_lost_in_turn() {
            let Some(cloud) = $start() else { return };
            matrix::each_answer_is_lost(&cloud, Depth::$depth);
        }

        #[test]
        $(#[$ignore])?
        fn each_request_is_refused_in_turn() {
            let Some(cloud) = $start() else { return };
            matrix::each_request_is_refused(&cloud, Depth::$depth);
        }
    };
    ($start:ident, end: $end:literal, interrupts: [$($at:literal),+], last: $last:literal) => {
        mod operations {
            use $crate::cloud::matrix::{self, Depth, When};

            $crate::cloud::matrix::matrices!(@depth super::$start, Operations);
        }

        mod requests {
            use $crate::cloud::matrix::{self, Depth, When};

            $crate::cloud::matrix::matrices!(@depth super::$start, Requests, #[ignore = "minutes; make check-full"]);
        }

        #[test]
        fn trouble_all_the_way() {
            let Some(cloud) = $start() else { return };
            $crate::cloud::matrix::trouble_all_the_way(&cloud);
        }

        #[test]
        fn an_end_that_hangs() {
            let Some(cloud) = $start() else { return };
            $crate::cloud::matrix::an_end_that_hangs(&cloud, $end);
        }

        #[test]
        fn interrupts_leave_nothing() {
            let Some(cloud) = $start() else { return };
            $crate::cloud::matrix::interrupts_leave_nothing(&cloud, &[$($at),+], $last);
        }
    };
}
pub(super) use matrices;
