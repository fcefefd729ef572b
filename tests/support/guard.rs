//! Guards: limits that nothing but a hang reaches, so that a hang ends, and says what it was.
//!
//! They say nothing about how fast anything has to be. nextest ends what no guard here sees: `.config/nextest.toml`.

use std::process::Command;
use std::time::{Duration, Instant};

/// How long a guard waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(Duration);

impl Limit {
    /// For programs and events without whole machines: more than ten times the longest ever seen on a busy machine.
    pub const PROGRAM: Self = Self(Duration::from_secs(300));

    /// Where whole machines run, perhaps emulated. The longest ever seen is a suite of 525 s, on a machine that did
    /// other work; one test takes 49 s when there is nothing else to do.
    pub const MACHINES: Self = Self(Duration::from_secs(5400));

    /// For programs that have a limit of their own to be told.
    pub fn as_duration(self) -> Duration {
        self.0
    }
}

/// Watches one thing from its start on.
pub struct Guard {
    what: String,
    limit: Limit,
    start: Instant,
}

impl Guard {
    /// Watches something, named as after "waited for".
    pub fn new(what: impl Into<String>, limit: Limit) -> Self {
        Self { what: what.into(), limit, start: Instant::now() }
    }

    /// Polls until it is done.
    ///
    /// # Panics
    /// When the guard fires.
    #[track_caller]
    #[expect(clippy::disallowed_methods, reason = "there is no event for this; polled, with a guard")]
    pub fn wait(&self, mut done: impl FnMut() -> bool) {
        while !done() {
            self.check();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Fails once the limit is over.
    ///
    /// # Panics
    /// When the guard fires.
    #[track_caller]
    pub fn check(&self) {
        assert!(self.start.elapsed() < self.limit.0, "{}", fired(&self.what, self.start.elapsed()));
    }
}

/// Polls until it is done; a guard fires when this has no end.
#[track_caller]
pub fn wait(what: &str, limit: Limit, done: impl FnMut() -> bool) {
    Guard::new(what, limit).wait(done);
}

/// What a guard says when it fires.
pub fn fired(what: &str, waited: Duration) -> String {
    format!(
        "a guard against hangs fired (tests/support/guard.rs): waited {:.0} s for {what}",
        waited.as_secs_f64()
    )
}

/// A command as people write it, without its environment.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::{Env, Running};
    use super::*;

    #[test]
    fn a_guard_says_what_it_was() {
        let limit = Limit(Duration::from_millis(100));
        let told = |work: &(dyn Fn() + std::panic::RefUnwindSafe)| {
            let panic = std::panic::catch_unwind(work).unwrap_err();
            panic.downcast_ref::<String>().unwrap().clone()
        };
        let text = told(&|| wait("godot", limit, || false));
        assert!(text.contains("a guard against hangs fired") && text.ends_with(" for godot"), "{text}");
        let program = || {
            let mut command = Env::new().command("/bin/sh");
            command.current_dir("/").args(["-c", "echo said; exec sleep 1000"]);
            Running::within(command, limit)
        };
        for text in [told(&|| drop(program().finish())), told(&|| program().wait_for("never"))] {
            assert!(text.contains("waited 0 s for the end of /bin/sh -c echo said;"), "{text}");
            assert!(text.contains("said\n"), "{text}");
        }
    }
}
