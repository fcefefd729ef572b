//! The state of one test or sub-test: what upstream calls `H`.

use std::fmt::{Display, Write};
use std::future::{Future, pending};
use std::io;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use color_eyre::eyre;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::Suite;
use super::outcome::{Fault, Outcome, Stopped, cause, is_skip, lost};
use super::panics::{self, Owned};
use super::report::{Event, Record};
use super::slots::{Class, Slot};
use crate::cause::{Cause, Diagnosis};

/// How long a body may react to its token before it is aborted.
const GRACE: Duration = Duration::from_secs(1);
/// How long the loss that a failure may be a sign of can take to become known.
const SIGN: Duration = Duration::from_secs(1);
/// How long an aborted body may take to reach its next await point before it is left behind.
const ABORT_GRACE: Duration = Duration::from_secs(2);

/// The state of one test or sub-test. Clones share it.
#[derive(Clone)]
pub struct T(Arc<Inner>);

struct Inner {
    suite: Arc<Suite>,
    parent: Option<T>,
    name: String,
    depth: usize,
    /// 0 for the first run of the test, 1 when it is run again, and so on.
    attempt: u32,
    /// Ends with the test, its case's time, or the run.
    token: CancellationToken,
    end: Arc<End>,
    state: Mutex<State>,
    /// Sub-tests that have not ended.
    children: watch::Sender<usize>,
}

/// What ends a case early, shared by its test and all sub-tests.
struct End {
    /// The top-level test's token.
    token: CancellationToken,
    /// Set before the token is cancelled, unless the run was interrupted.
    why: OnceLock<Stopped>,
    /// Somebody tells when what the test runs on is lost.
    watched: AtomicBool,
    bodies: Mutex<Bodies>,
}

/// Which bodies of a case run: between them and after them, the owner cleans up and must not be hurried.
#[derive(Default)]
struct Bodies {
    running: usize,
    began: bool,
    /// The time was up while no body ran: the next is not started.
    due: Option<Duration>,
}

impl End {
    fn bodies(&self) -> MutexGuard<'_, Bodies> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn time_out(&self, limit: Duration) {
        let mut bodies = self.bodies();
        if bodies.began && bodies.running == 0 {
            bodies.due = Some(limit);
        } else {
            drop(bodies);
            self.stop(Stopped::TimedOut(limit));
        }
    }

    /// Ends the case, unless something else did; returns whether this was it.
    fn stop(&self, why: Stopped) -> bool {
        let first = !self.token.is_cancelled() && self.why.set(why).is_ok();
        if first {
            self.token.cancel();
        }
        first
    }

    fn enter(self: &Arc<Self>) -> Entered {
        let mut bodies = self.bodies();
        bodies.running += 1;
        bodies.began = true;
        let due = bodies.due.take();
        drop(bodies);
        if let Some(limit) = due {
            self.time_out(limit);
        }
        Entered(Arc::clone(self))
    }
}

/// A body runs, until this is dropped.
struct Entered(Arc<End>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.bodies().running -= 1;
    }
}

#[derive(Default)]
struct State {
    output: String,
    failed: bool,
    /// A failure does not count.
    tolerated: bool,
    skipped: bool,
    /// Ended by the interruption of the run, itself or a sub-test.
    interrupted: bool,
    done: bool,
    /// The first failure, or why it was skipped.
    reason: Option<String>,
    fault: Fault,
    cause: Option<Cause>,
    fail_fast: bool,
    child_failed: bool,
    /// `parallel` was called (top-level tests are born parallel).
    parallel: bool,
    /// Waits for a slot.
    waiting: bool,
    /// The right to run, if this test has its own.
    slot: Option<Slot>,
    /// Lets the parent's `run` return.
    release: Option<oneshot::Sender<()>>,
    /// Parallel sub-tests that wait for `join`.
    parked: Vec<oneshot::Sender<Slot>>,
    /// How many `join`s wait.
    joining: usize,
    started: Option<Instant>,
    elapsed: Duration,
}

impl State {
    fn pause_clock(&mut self) {
        if let Some(start) = self.started.take() {
            self.elapsed += start.elapsed();
        }
    }

    /// Buffers a log line: 8 spaces, the rest of a longer text 4 more.
    fn append(&mut self, at: Option<&Location<'_>>, text: &str) {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let mut lines = text.split('\n').map(|l| l.strip_suffix('\r').unwrap_or(l));
        let first = lines.next().unwrap_or_default();
        let written = match at {
            Some(at) => {
                let file = Path::new(at.file()).file_name().unwrap_or_default().to_string_lossy();
                writeln!(self.output, "        {file}:{}: {first}", at.line())
            }
            None => writeln!(self.output, "        {first}"),
        };
        written.expect("writing to a string cannot fail");
        for line in lines {
            if !line.is_empty() {
                self.output.push_str("            ");
                self.output.push_str(line);
            }
            self.output.push('\n');
        }
    }
}

/// Ends one `join`, also if its future is dropped.
struct Joining<'a>(&'a T);

impl Drop for Joining<'_> {
    fn drop(&mut self) {
        self.0.lock().joining -= 1;
    }
}

impl T {
    /// A top-level test with this (already unique) name.
    pub(super) fn new(suite: &Arc<Suite>, name: String, attempt: u32) -> Self {
        let token = suite.cancel.child_token();
        let end = End {
            token: token.clone(),
            why: OnceLock::new(),
            watched: AtomicBool::new(false),
            bodies: Mutex::default(),
        };
        let state = State { parallel: true, ..State::default() };
        Self::make(suite, None, name, attempt, token, Arc::new(end), state)
    }

    fn make(
        suite: &Arc<Suite>,
        parent: Option<&T>,
        name: String,
        attempt: u32,
        token: CancellationToken,
        end: Arc<End>,
        state: State,
    ) -> Self {
        Self(Arc::new(Inner {
            suite: Arc::clone(suite),
            depth: parent.map_or(0, |p| p.0.depth + 1),
            parent: parent.cloned(),
            name,
            attempt,
            token,
            end,
            state: Mutex::new(state),
            children: watch::Sender::new(0),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The full name: a sub-test's starts with its parent's and a `/`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Adds a text, with the caller's file and line, to the test's output.
    #[track_caller]
    pub fn log(&self, text: impl Display) {
        self.record(Some(Location::caller()), &text.to_string(), false);
    }

    /// [Logs](T::log) a text and marks the test and those above it as failed; the test goes on.
    #[track_caller]
    pub fn error(&self, text: impl Display) {
        self.record(Some(Location::caller()), &text.to_string(), true);
    }

    /// Says what became of a machine, and marks the test as failed; unless that is known already, it is the cause.
    pub fn blame(&self, why: &Diagnosis) {
        self.record(None, &why.text, true);
        self.suspect(why.cause);
    }

    /// What may have made a failed test fail, unless that is known already.
    pub fn suspect(&self, cause: Cause) {
        let mut state = self.lock();
        if state.failed {
            state.cause.get_or_insert(cause);
        }
    }

    fn record(&self, at: Option<&Location<'_>>, text: &str, failure: bool) {
        crate::debug!("harness", "{}: {}", self.0.name, text.trim_end());
        let mut state = self.lock();
        if state.done {
            drop(state);
            crate::error!("harness", "{} has ended but says: {}", self.0.name, text.trim_end());
            if failure {
                self.0.suite.fail_late();
            }
            return;
        }
        state.append(at, text);
        if failure {
            state.failed = true;
            state.reason.get_or_insert_with(|| text.trim_end().to_owned());
            drop(state);
            self.fail_ancestors(text.trim_end());
        }
    }

    fn fail_ancestors(&self, text: &str) {
        let mut above = self.0.parent.as_ref();
        while let Some(t) = above {
            let mut state = t.lock();
            state.failed = true;
            state.child_failed = true;
            state.reason.get_or_insert_with(|| format!("{}: {text}", self.0.name));
            drop(state);
            above = t.0.parent.as_ref();
        }
    }

    /// Whether the test has failed so far.
    pub fn failed(&self) -> bool {
        self.lock().failed
    }

    /// Whether the test was skipped; one that failed before is not.
    pub fn skipped(&self) -> bool {
        let state = self.lock();
        state.skipped && !state.failed
    }

    /// The result, from all that is known of the test: the one place that decides it.
    fn outcome(state: &State) -> Outcome {
        match state {
            State { failed: true, tolerated: true, .. } => Outcome::Warn,
            State { failed: true, fault: Fault::Infra, .. } => Outcome::Infra,
            State { failed: true, .. } => Outcome::Fail,
            State { interrupted: true, .. } => Outcome::Interrupted,
            State { skipped: true, .. } => Outcome::Skip,
            _ => Outcome::Pass,
        }
    }

    /// From now on a failure of the test does not count, for this reason: it is a warning.
    pub fn tolerate(&self, reason: impl Display) {
        self.record(None, &format!("a failure is a warning: {reason}"), false);
        self.lock().tolerated = true;
    }

    /// The test's folder, of this run of it: see [`super::folder_of_attempt`]; made when first asked for.
    ///
    /// # Errors
    /// When the folder cannot be made, or the name has a part that is no file name (`..`).
    pub fn output_dir(&self) -> io::Result<PathBuf> {
        if let Some(bad) = self.0.name.split('/').find(|part| matches!(*part, "" | "." | "..")) {
            let text = format!("test name {:?} cannot be a folder: it has the part {bad:?}", self.0.name);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let dir = super::folder_of_attempt(&self.0.suite.output_dir, &self.0.name, self.0.attempt);
        std::fs::create_dir_all(&dir)
            .map_err(|e| io::Error::new(e.kind(), format!("cannot create {}: {e}", dir.display())))?;
        Ok(dir)
    }

    /// A token that is cancelled when the test has ended, has used up its time, or the run is interrupted.
    pub fn cancel(&self) -> CancellationToken {
        self.0.token.child_token()
    }

    /// Why the test has to stop, once it has to.
    pub fn stopped(&self) -> Option<Stopped> {
        if !self.0.token.is_cancelled() {
            return None;
        }
        let why = self.0.end.why.get().cloned().unwrap_or(Stopped::Interrupted);
        // The test itself tells all; its sub-tests need not repeat it.
        Some(if self.0.parent.is_some() { why.brief() } else { why })
    }

    /// From now on, once one sub-test has failed, later sub-tests of this test (not of its sub-tests) are skipped.
    pub fn set_fail_fast(&self, on: bool) {
        self.lock().fail_fast = on;
    }

    /// Runs the part of a case that may be stopped, and returns its result.
    ///
    /// The future becomes a task of its own. A panic in it becomes an error with message and place. When the case's
    /// time is up or the run is interrupted, it may react to [`T::cancel`] for a second, then it is aborted, and
    /// the result is [`Stopped`]. The caller goes on in every case and can clean up; it should return this result.
    ///
    /// # Errors
    /// Those of the future, and the above.
    pub async fn body<F>(&self, future: F) -> eyre::Result<()>
    where
        F: Future<Output = eyre::Result<()>> + Send + 'static,
    {
        let _entered = self.0.end.enter();
        if let Some(stop) = self.stopped() {
            return Err(stop.into());
        }
        let mut task = Owned::spawn(panics::watched(future));
        let ended = tokio::select! {
            biased;
            ended = task.ended() => Some(ended),
            () = self.0.token.cancelled() => None,
        };
        let mut stop = self.stopped();
        if stop.is_none()
            && let Some(result) = &ended
            && self.may_be_a_sign(result)
        {
            let _ = timeout(SIGN, self.0.token.cancelled()).await;
            stop = self.stopped().filter(|stop| matches!(stop, Stopped::Lost(_)));
            if let (Ok(()), Some(stop)) = (result, &stop) {
                return Err(stop.clone().into());
            }
        }
        // A failure at the very moment of the stop is most likely its reaction.
        let stop = match (ended, stop) {
            (Some(Err(reaction)), Some(stop)) => {
                self.record(None, &format!("{reaction:#}"), false);
                return Err(stop.into());
            }
            (Some(result), _) => return result,
            (None, stop) => stop.unwrap_or(Stopped::Interrupted),
        };
        // Without what it ran on there is nothing to react with.
        let hopeless = matches!(stop, Stopped::Lost(_));
        let grace = if hopeless || self.lock().waiting { Duration::ZERO } else { GRACE };
        match timeout(grace, task.ended()).await {
            Ok(Ok(())) => {}
            Ok(Err(reaction)) => self.record(None, &format!("{reaction:#}"), false),
            Err(_) => {
                task.abort();
                if timeout(ABORT_GRACE, task.ended()).await.is_err() {
                    let text = "the test blocks its thread and cannot be stopped; it is left running";
                    self.record(None, text, true);
                }
            }
        }
        Err(stop.into())
    }

    /// As [`T::body`], on something that may be lost; then [joins](T::join) the sub-tests. Once `loss` resolves, with
    /// how it was lost, all of them are stopped without delay, and the result is [`Stopped::Lost`]. It is also the
    /// result if a failure turns out within a second to have been a sign of the loss.
    ///
    /// # Errors
    /// As [`T::body`], and the above.
    pub async fn body_on<F>(&self, loss: impl Future<Output = Diagnosis>, future: F) -> eyre::Result<()>
    where
        F: Future<Output = eyre::Result<()>> + Send + 'static,
    {
        self.0.end.watched.store(true, Ordering::Relaxed);
        let work = async {
            let result = self.body(future).await;
            self.join().await;
            result
        };
        let mut work = std::pin::pin!(work);
        let how = tokio::select! {
            biased;
            how = loss => how,
            result = &mut work => return result,
        };
        if !self.0.end.stop(Stopped::Lost(how.clone())) {
            return work.await;
        }
        match work.await {
            Err(other) if lost(&other).is_none() => {
                // It had failed before.
                self.blame(&how);
                Err(other)
            }
            _ => Err(Stopped::Lost(how).into()),
        }
    }

    /// Whether a body may have failed because something is gone that nobody knows yet to be gone.
    fn may_be_a_sign(&self, result: &eyre::Result<()>) -> bool {
        let failed = match result {
            Ok(()) => {
                let state = self.lock();
                state.failed && !state.child_failed
            }
            Err(report) => !is_skip(report),
        };
        failed && self.0.end.watched.load(Ordering::Relaxed)
    }

    /// Runs a sub-test and returns whether it did not fail (skipped counts as true).
    ///
    /// Returns when the sub-test has ended or has called [`T::parallel`]. It has [`T::body`]'s protection. If this
    /// future is dropped, the sub-test goes on until its token ends it; [`T::join`] waits for it.
    pub async fn run<F, Fut>(&self, name: &str, f: F) -> bool
    where
        F: FnOnce(T) -> Fut,
        Fut: Future<Output = eyre::Result<()>> + Send + 'static,
    {
        let (release, released) = oneshot::channel();
        let Some(child) = self.child(name, release) else { return false };
        let future = if child.skipped() {
            None
        } else {
            // The closure itself may panic before there is a future.
            let made = panics::watched_call(|| f(child.clone()));
            made.map_err(|panicked| child.settle(Err(panicked.into()))).ok()
        };
        let task = child.clone();
        tokio::spawn(async move {
            if let Some(future) = future {
                let result = task.body(future).await;
                task.settle(result);
            }
            task.finish().await;
        });
        // The sender is gone, unused, when the sub-test ends otherwise.
        let _ = released.await;
        Self::outcome(&child.lock()).is_good()
    }

    /// Registers a sub-test; `None` if this test has already ended.
    fn child(&self, name: &str, release: oneshot::Sender<()>) -> Option<T> {
        let suite = &self.0.suite;
        let state = self.lock();
        if state.done {
            drop(state);
            crate::error!("harness", "{} has ended and cannot run sub-test {name}", self.0.name);
            suite.fail_late();
            return None;
        }
        let name = suite.names().unique(Some(&self.0.name), name);
        let skipped = state.fail_fast && state.child_failed;
        let own = State { started: Some(Instant::now()), release: Some(release), ..State::default() };
        let token = self.0.token.child_token();
        let attempt = self.0.attempt;
        let child = Self::make(suite, Some(self), name, attempt, token, Arc::clone(&self.0.end), own);
        self.0.children.send_modify(|n| *n += 1);
        drop(state);
        let (name, depth) = (child.0.name.clone(), child.0.depth);
        suite.recorder.event(Event::Started { name, depth, attempt });
        if skipped {
            child.skip_because("A previous test has already failed");
        }
        Some(child)
    }

    pub(super) fn skip_because(&self, reason: &str) {
        self.record(None, reason, false);
        let mut state = self.lock();
        state.skipped = true;
        state.reason.get_or_insert_with(|| reason.to_owned());
    }

    /// Called in a sub-test: lets the parent's [`T::run`] return, waits until the parent [joins](T::join) its
    /// parallel sub-tests, then for a slot. The time spent waiting does not count.
    pub async fn parallel(&self) {
        let (sender, slot) = oneshot::channel();
        {
            let mut state = self.lock();
            let Some(parent) = self.0.parent.as_ref().filter(|_| !state.parallel && !state.done) else {
                drop(state);
                self.record(None, "parallel was called twice, or outside of a sub-test", true);
                return;
            };
            state.parallel = true;
            state.waiting = true;
            state.pause_clock();
            let release = state.release.take();
            drop(state);
            let mut above = parent.lock();
            if above.joining > 0 {
                drop(above);
                self.0.suite.slots.enqueue(Class::Subtest, sender);
            } else {
                above.parked.push(sender);
                drop(above);
            }
            // Its end tells the parent.
            drop(release);
        }
        let Ok(slot) = slot.await else { return pending().await };
        if self.0.token.is_cancelled() {
            // Nothing new starts; whoever runs this body ends it.
            drop(slot);
            return pending().await;
        }
        let mut state = self.lock();
        state.waiting = false;
        state.slot = Some(slot);
        state.started = Some(Instant::now());
    }

    /// The test whose slot this one runs in: itself, or the nearest parallel one above.
    fn holder(&self) -> &T {
        let mut t = self;
        loop {
            let own = t.lock().parallel;
            match &t.0.parent {
                Some(parent) if !own => t = parent,
                _ => return t,
            }
        }
    }

    /// Starts the waiting parallel sub-tests and waits until all sub-tests have ended. Their parent's slot is
    /// free for them meanwhile. Call it before taking away what sub-tests use; at the end of a test it happens
    /// anyway.
    pub async fn join(&self) {
        let suite = &self.0.suite;
        let joining = {
            let mut state = self.lock();
            if state.parked.is_empty() && *self.0.children.borrow() == 0 {
                return;
            }
            state.joining += 1;
            let parked = std::mem::take(&mut state.parked);
            drop(state);
            // They queue before the slot goes back, so no new top-level test takes it.
            for sender in parked {
                suite.slots.enqueue(Class::Subtest, sender);
            }
            Joining(self)
        };
        let lent = self.holder().lock().slot.take();
        let had_slot = lent.is_some();
        drop(lent);
        let mut children = self.0.children.subscribe();
        // The sender is a field of self, so it lives.
        let _ = children.wait_for(|n| *n == 0).await;
        drop(joining);
        if !had_slot || self.holder().lock().slot.is_some() {
            return;
        }
        // Rare: usually the last sub-test hands its slot over. A stopped test must not wait: it has to clean up.
        let request = suite.slots.request(Class::Subtest);
        tokio::select! {
            slot = request => self.holder().lock().slot = slot.ok(),
            () = self.0.token.cancelled() => {}
        }
    }

    /// Marks the start of a top-level test that got its slot.
    pub(super) fn start(&self, slot: Slot) {
        let mut state = self.lock();
        state.slot = Some(slot);
        state.started = Some(Instant::now());
    }

    /// Tells the test that its time is up.
    pub(super) fn time_out(&self, limit: Duration) {
        self.0.end.time_out(limit);
    }

    /// Records a result: what is left to do when the owner of a case returns. An owner that has more to report
    /// than its body's result calls it first, so that the cause comes before the consequences, and returns `Ok`.
    pub fn settle(&self, result: eyre::Result<()>) {
        let Err(report) = result else { return };
        let text = format!("{report:#}");
        if is_skip(&report) {
            self.skip_because(&text);
            return;
        }
        let fault = Fault::of(&report);
        // An owner that was stopped while setting up returns an error that does not say so.
        let began = self.0.end.bodies().began;
        match self.stopped().filter(|_| fault == Fault::Error && !began) {
            Some(stop) => {
                self.record(None, &text, stop != Stopped::Interrupted);
                self.ended_by(&stop.into());
            }
            None => self.ended_by(&report),
        }
    }

    /// Records what ended the test.
    fn ended_by(&self, report: &eyre::Report) {
        let (text, fault) = (format!("{report:#}"), Fault::of(report));
        let interrupted = fault == Fault::Interrupted;
        self.record(None, &text, !interrupted);
        if !interrupted {
            let mut state = self.lock();
            state.fault = fault;
            state.cause = cause(report);
            if lost(report).is_some() {
                // What was told before were signs of it.
                state.reason = Some(text);
            }
            return;
        }
        let mut t = Some(self);
        while let Some(test) = t {
            let mut state = test.lock();
            state.interrupted = true;
            state.reason.get_or_insert_with(|| text.clone());
            drop(state);
            t = test.0.parent.as_ref();
        }
    }

    /// Waits for the sub-tests and reports the test, to its parent's output or, at the top, to the run.
    pub(super) async fn finish(&self) {
        let (record, slot) = loop {
            self.join().await;
            let mut state = self.lock();
            if *self.0.children.borrow() > 0 || !state.parked.is_empty() {
                continue;
            }
            state.done = true;
            state.pause_clock();
            break self.conclude(&mut state);
        };
        self.0.token.cancel();
        let block = record.block();
        self.0.suite.recorder.event(Event::Ended(Box::new(record)));
        if let Some(parent) = &self.0.parent {
            self.leave(parent, &block, slot);
        }
    }

    /// Adds the block to the parent's output and signs off there.
    fn leave(&self, parent: &T, block: &str, slot: Option<Slot>) {
        let release = self.lock().release.take();
        let holder = parent.holder();
        let mut above = parent.lock();
        for line in block.lines() {
            if !line.is_empty() {
                above.output.push_str("    ");
            }
            above.output.push_str(line);
            above.output.push('\n');
        }
        // The last sub-test leaves its slot to the waiting parent: no new top-level test must get in between.
        let mut spare = slot;
        if spare.is_some() && above.joining > 0 && *parent.0.children.borrow() == 1 {
            if Arc::ptr_eq(&holder.0, &parent.0) {
                std::mem::swap(&mut above.slot, &mut spare);
            } else {
                std::mem::swap(&mut holder.lock().slot, &mut spare);
            }
        }
        parent.0.children.send_modify(|n| *n -= 1);
        drop(above);
        drop(spare);
        drop(release);
    }

    fn conclude(&self, state: &mut State) -> (Record, Option<Slot>) {
        let record = Record {
            name: self.0.name.clone(),
            depth: self.0.depth,
            outcome: Self::outcome(state),
            duration: state.elapsed,
            output: std::mem::take(&mut state.output),
            reason: state.reason.take(),
            fault: state.fault,
            cause: state.cause,
            attempt: self.0.attempt,
            earlier: Vec::new(),
        };
        (record, state.slot.take())
    }
}
