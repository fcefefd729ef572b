//! The pool of sessions to one machine.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::connect::{Hangup, Target};
use super::session::{Busy, Ending, Failure, Link, Pipe, Run, Session};
use super::{Dial, Error, Login, Output, RawOutput, trimmed};

/// The most that one command may write, stdout and stderr together, in bytes.
const OUTPUT_LIMIT: usize = 64 << 20;
/// How much of a stream's stderr is kept for its error, in bytes.
const STREAM_STDERR: usize = 8 << 10;
/// Idle sessions kept for the next command.
const IDLE: usize = 4;
/// Logins at one time: sshd refuses at random above ten (`MaxStartups`), and emulated guests are slow.
const LOGINS: usize = 4;
/// How long `close` waits for the sessions' threads.
const CLOSE: Duration = Duration::from_secs(3);

/// One machine's SSH sessions. Cloning gives another handle to the same pool.
///
/// Dropping a future of this type ends its command: the session's socket is shut within the drop.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    target: Arc<Target>,
    pool: Mutex<Pool>,
    logins: Semaphore,
    threads: TaskTracker,
    /// Answers in place of a machine.
    #[cfg(feature = "test-platform")]
    responder: Option<Arc<dyn super::Responder>>,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Session>,
    open: Vec<Weak<Hangup>>,
    generation: u64,
    logged_in: u64,
    closed: bool,
}

impl Inner {
    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An idle session that still seems alive.
    fn idle(&self) -> Result<Option<Busy>, Error> {
        let mut pool = self.pool();
        if pool.closed {
            return Err(Error::Closed { address: self.target.address.clone() });
        }
        while let Some(session) = pool.idle.pop() {
            if session.alive() {
                return Ok(Some(Busy::new(session)));
            }
        }
        Ok(None)
    }

    /// An idle session (true), or a new one (false).
    async fn session(&self) -> Result<(Busy, bool), Error> {
        if let Some(session) = self.idle()? {
            return Ok((session, true));
        }
        let _turn = self.logins.acquire().await.map_err(|_| self.closed())?;
        // While we waited another command may have finished.
        if let Some(session) = self.idle()? {
            return Ok((session, true));
        }
        let hangup = Arc::new(Hangup::default());
        let generation = {
            let mut pool = self.pool();
            pool.open.retain(|other| other.strong_count() > 0);
            pool.open.push(Arc::downgrade(&hangup));
            pool.generation
        };
        let session = Session::open(self.target.clone(), hangup, generation, self.threads.token()).await?;
        self.pool().logged_in += 1;
        Ok((session, false))
    }

    fn closed(&self) -> Error {
        Error::Closed { address: self.target.address.clone() }
    }

    fn give_back(&self, busy: Busy) {
        if let Some(session) = busy.done() {
            let mut pool = self.pool();
            if !pool.closed && session.generation == pool.generation && pool.idle.len() < IDLE {
                pool.idle.push(session);
            }
        }
    }

    /// Starts `job` on a session and waits for its reply; tries again when a session from the pool was dead.
    async fn with_session<T: Send + 'static>(
        &self,
        job: impl Fn(&Link, oneshot::Sender<Result<T, Failure>>) -> bool + Clone + Send + 'static,
    ) -> Result<(T, Busy), Error> {
        loop {
            let (busy, used) = self.session().await?;
            let (reply, answer) = oneshot::channel();
            let work = job.clone();
            busy.submit(Box::new(move |link| work(link, reply)));
            match answer.await {
                Ok(Ok(value)) => return Ok((value, busy)),
                // Its neighbours are as old; they would fail alike.
                Ok(Err(Failure::Stale(_))) if used => self.pool().idle.clear(),
                Ok(Err(Failure::Stale(error) | Failure::Failed(error))) => return Err(error),
                Err(_) => {
                    let source = "the session's thread ended".into();
                    return Err(Error::Lost { address: self.target.address.clone(), source });
                }
            }
        }
    }
}

impl Client {
    pub(super) async fn with_session<T: Send + 'static>(
        &self,
        job: impl Fn(&Link, oneshot::Sender<Result<T, Failure>>) -> bool + Clone + Send + 'static,
    ) -> Result<(T, Busy), Error> {
        self.0.with_session(job).await
    }

    pub(super) fn give_back(&self, busy: Busy) {
        self.0.give_back(busy);
    }

    /// A pool for the machine at `address` (port 22 unless it has one). Nothing is connected before the first
    /// command; `connect_timeout` bounds dial, banner, handshake and login together.
    pub fn new(
        dialer: Arc<dyn Dial>,
        address: impl AsRef<str>,
        login: Login,
        connect_timeout: Duration,
    ) -> Self {
        let address = super::with_port(address.as_ref());
        Self(Arc::new(Inner {
            target: Arc::new(Target { dialer, address, login, timeout: connect_timeout }),
            pool: Mutex::default(),
            logins: Semaphore::new(LOGINS),
            threads: TaskTracker::new(),
            #[cfg(feature = "test-platform")]
            responder: None,
        }))
    }

    /// A client whose commands are answered in this process.
    #[cfg(feature = "test-platform")]
    pub fn scripted(responder: Arc<dyn super::Responder>) -> Self {
        let login = Login::password("core", "");
        let mut client = Self::new(Arc::new(super::Direct), "192.0.2.1", login, Duration::ZERO);
        if let Some(inner) = Arc::get_mut(&mut client.0) {
            inner.responder = Some(responder);
        }
        client
    }

    /// A pool for the same machine and another user.
    pub fn log_in_as(&self, login: Login) -> Self {
        let target = &self.0.target;
        Self::new(target.dialer.clone(), &target.address, login, target.timeout)
    }

    /// A pool for the same machine and user, without any of the connections of this one.
    pub fn anew(&self) -> Self {
        #[cfg(feature = "test-platform")]
        if let Some(responder) = &self.0.responder {
            return Self::scripted(responder.clone());
        }
        self.log_in_as(self.0.target.login.clone())
    }

    /// The machine's address, with port.
    pub fn address(&self) -> &str {
        &self.0.target.address
    }

    /// How many logins succeeded so far.
    pub fn logins(&self) -> u64 {
        self.0.pool().logged_in
    }

    /// Runs a command and returns what it wrote, trimmed.
    ///
    /// # Errors
    /// [`Error::Exit`] for a status other than 0, [`Error::Signal`], [`Error::Lost`], [`Error::Connect`] and others.
    pub async fn run(&self, command: &str) -> Result<Output, Error> {
        self.run_with_input(command, Vec::new()).await
    }

    /// Runs a command with `input` as its stdin.
    ///
    /// # Errors
    /// As for [`Client::run`].
    pub async fn run_with_input(&self, command: &str, input: impl Into<Vec<u8>>) -> Result<Output, Error> {
        let raw = self.output_with_input(command, input).await?;
        let (stdout, stderr) = (trimmed(&raw.stdout), trimmed(&raw.stderr));
        match raw.status {
            0 => Ok(Output { stdout, stderr }),
            status => Err(Error::Exit { status, stdout, stderr }),
        }
    }

    /// Runs a command and returns its exit status and all it wrote, untouched.
    ///
    /// # Errors
    /// As for [`Client::run`], but for [`Error::Exit`].
    pub async fn output(&self, command: &str) -> Result<RawOutput, Error> {
        self.output_with_input(command, Vec::new()).await
    }

    /// As [`Client::output`], with `input` as the command's stdin.
    ///
    /// # Errors
    /// As for [`Client::output`].
    pub async fn output_with_input(
        &self,
        command: &str,
        input: impl Into<Vec<u8>>,
    ) -> Result<RawOutput, Error> {
        #[cfg(feature = "test-platform")]
        if let Some(responder) = &self.0.responder {
            return responder.answer(command, &input.into()).await;
        }
        let work: Arc<(String, Vec<u8>)> = Arc::new((command.to_owned(), input.into()));
        let ((ending, stdout, stderr), busy) = self
            .0
            .with_session(move |link, reply| {
                let result = collect(link, &work.0, &work.1);
                let clean = result.is_ok();
                // With nobody left to take the answer, nobody gives the session back either.
                reply.send(result).is_ok() && clean
            })
            .await?;
        self.0.give_back(busy);
        match ending {
            Ending::Status(status) => Ok(RawOutput { status, stdout, stderr }),
            Ending::Signal(signal) => {
                Err(Error::Signal { signal, stdout: trimmed(&stdout), stderr: trimmed(&stderr) })
            }
        }
    }

    /// Starts a command on a session of its own and returns its stdout piece by piece.
    ///
    /// # Errors
    /// When it cannot be started; later errors come from [`Stream::next`].
    pub async fn stream(&self, command: &str) -> Result<Stream, Error> {
        // A few pieces of at most 64 KiB: a slow reader slows the command down, as a pipe would.
        let (pieces, received) = mpsc::channel(8);
        #[cfg(feature = "test-platform")]
        if let Some(responder) = &self.0.responder {
            // The journal, whole; then nothing, until the stream is dropped.
            let _ = pieces.send(Ok(responder.journal())).await;
            tokio::spawn(async move { pieces.closed().await });
            return Ok(Stream { pieces: received, _busy: None });
        }
        let command = command.to_owned();
        let ((), busy) = self
            .0
            .with_session(move |link, ready| stream(link, Run::Command(&command, &[]), ready, &pieces))
            .await?;
        Ok(Stream { pieces: received, _busy: Some(busy) })
    }

    /// Starts the user's shell on a session of its own, without a terminal, says nothing to it and returns what it
    /// writes to stdout piece by piece: for hosts that show a console so.
    ///
    /// # Errors
    /// As for [`Client::stream`].
    pub async fn listen(&self) -> Result<Stream, Error> {
        let (pieces, received) = mpsc::channel(8);
        let ((), busy) =
            self.0.with_session(move |link, ready| stream(link, Run::Shell, ready, &pieces)).await?;
        Ok(Stream { pieces: received, _busy: Some(busy) })
    }

    /// Forgets all idle sessions, and those now at work when they are done: the machine reboots.
    pub fn reset(&self) {
        let mut pool = self.0.pool();
        pool.generation += 1;
        pool.idle.clear();
    }

    /// Ends all sessions, also those at work (their commands fail), and waits a moment for their threads.
    /// Commands after that fail with [`Error::Closed`].
    pub async fn close(&self) {
        let hangups = {
            let mut pool = self.0.pool();
            pool.closed = true;
            pool.idle.clear();
            std::mem::take(&mut pool.open)
        };
        self.0.logins.close();
        for hangup in hangups.iter().filter_map(Weak::upgrade) {
            hangup.hang_up();
        }
        self.0.threads.close();
        if tokio::time::timeout(CLOSE, self.0.threads.wait()).await.is_err() {
            crate::warning!("ssh", "{} sessions to {} still open", self.0.threads.len(), self.address());
        }
    }
}

/// Runs a command and keeps what it writes: stdout, stderr.
fn collect(link: &Link, command: &str, input: &[u8]) -> Result<(Ending, Vec<u8>, Vec<u8>), Failure> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let ending = link.execute(Run::Command(command, input), || {}, &mut |pipe, data| {
        if stdout.len() + stderr.len() + data.len() > OUTPUT_LIMIT {
            return Err(Error::TooMuch { limit: OUTPUT_LIMIT });
        }
        match pipe {
            Pipe::Stdout => stdout.extend_from_slice(data),
            Pipe::Stderr => stderr.extend_from_slice(data),
        }
        Ok(())
    })?;
    Ok((ending, stdout, stderr))
}

type Piece = Result<Vec<u8>, Error>;

/// Runs something and passes on its stdout. The session is not used again.
fn stream(
    link: &Link,
    run: Run<'_>,
    ready: oneshot::Sender<Result<(), Failure>>,
    pieces: &mpsc::Sender<Piece>,
) -> bool {
    let mut ready = Some(ready);
    let mut stderr = Vec::new();
    let started = || {
        if let Some(ready) = ready.take() {
            let _ = ready.send(Ok(()));
        }
    };
    let ending = link.execute(run, started, &mut |pipe, data| match pipe {
        Pipe::Stdout => pieces
            .blocking_send(Ok(data.to_vec()))
            .map_err(|_| Error::Closed { address: link.address.clone() }),
        Pipe::Stderr => {
            stderr.extend_from_slice(data);
            stderr.drain(..stderr.len().saturating_sub(STREAM_STDERR));
            Ok(())
        }
    });
    let stderr = trimmed(&stderr);
    let error = match ending {
        Ok(Ending::Status(0)) => return false,
        Ok(Ending::Status(status)) => Error::Exit { status, stdout: String::new(), stderr },
        Ok(Ending::Signal(signal)) => Error::Signal { signal, stdout: String::new(), stderr },
        Err(failure) => {
            if let Some(ready) = ready {
                let _ = ready.send(Err(failure));
                return false;
            }
            let (Failure::Stale(error) | Failure::Failed(error)) = failure;
            error
        }
    };
    let _ = pieces.blocking_send(Err(error));
    false
}

/// The stdout of a running command. Dropping it ends the command at once.
pub struct Stream {
    pieces: mpsc::Receiver<Piece>,
    _busy: Option<Busy>,
}

impl Stream {
    /// The next piece (at most 64 KiB); `None` once the command has ended with status 0 or an error was returned.
    ///
    /// # Errors
    /// How the command ended otherwise, with the end of its stderr.
    pub async fn next(&mut self) -> Option<Piece> {
        self.pieces.recv().await
    }
}
