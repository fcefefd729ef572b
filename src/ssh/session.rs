//! One logged-in session: a thread with a queue of jobs. The libssh2 objects never leave that thread.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::{Arc, mpsc};

use nix::poll::{PollFd, PollFlags};
use ssh2::BlockDirections;
use tokio::sync::oneshot;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::connect::{ANSWER, Hangup, Target, connect, wait};
use super::{Cause, Error, farewell};

/// Work for a session's thread; false when the session must not be used again.
pub(super) type Job = Box<dyn FnOnce(&Link) -> bool + Send>;

/// What a job works with, on the session's thread.
pub(super) struct Link {
    pub(super) session: ssh2::Session,
    pub(super) socket: Arc<TcpStream>,
    pub(super) address: String,
}

/// A session and the way to its thread. Dropping it lets the thread finish its job and log out.
pub(super) struct Session {
    jobs: mpsc::Sender<Job>,
    hangup: Arc<Hangup>,
    /// Which life of the machine it belongs to; see `Client::reset`.
    pub(super) generation: u64,
}

impl Session {
    /// Starts the thread, which connects and logs in. `alive` is dropped when the thread is done.
    pub(super) async fn open(
        target: Arc<Target>,
        hangup: Arc<Hangup>,
        generation: u64,
        alive: TaskTrackerToken,
    ) -> Result<Busy, Error> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, opened) = oneshot::channel();
        let address = target.address.clone();
        let failed = |source: Cause| Error::Connect { step: "cannot connect to", address, source };
        let busy = Busy(Some(Session { jobs, hangup: hangup.clone(), generation }));
        let body = move || {
            let _alive = alive;
            let link = match connect(&target, &hangup) {
                Ok((session, socket)) => Link { session, socket, address: target.address.clone() },
                Err(error) => {
                    hangup.hang_up();
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            if ready.send(Ok(())).is_ok() {
                while let Ok(job) = queue.recv() {
                    if !job(&link) {
                        break;
                    }
                }
            }
            // A farewell is a courtesy: it may not block on a dead peer.
            link.session.set_blocking(false);
            let _ = link.session.disconnect(None, "done", None);
            hangup.hang_up();
        };
        match std::thread::Builder::new().name("ssh".to_owned()).spawn(body) {
            Ok(_) => match opened.await {
                Ok(Ok(())) => Ok(busy),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(failed("the session's thread ended".into())),
            },
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Whether the peer has not closed the connection, as far as this end knows.
    pub(super) fn alive(&self) -> bool {
        self.hangup.alive()
    }
}

/// A session at work. Dropping it hangs up, which ends the work; `done` gives the session back instead.
pub(super) struct Busy(Option<Session>);

impl Busy {
    pub(super) fn new(session: Session) -> Self {
        Self(Some(session))
    }

    /// Queues a job. A job that cannot be queued is dropped, and with it its reply channel.
    pub(super) fn submit(&self, job: Job) {
        if let Some(session) = &self.0 {
            let _ = session.jobs.send(job);
        }
    }

    /// The session, unharmed.
    pub(super) fn done(mut self) -> Option<Session> {
        self.0.take()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(session) = &self.0 {
            session.hangup.hang_up();
        }
    }
}

/// Why a command gave no ending.
pub(super) enum Failure {
    /// The session was dead before the command was sent: nothing has run, a new session may do it.
    Stale(Error),
    /// Everything else.
    Failed(Error),
}

/// How a remote command ended.
pub(super) enum Ending {
    Status(i32),
    Signal(String),
}

/// Which of a command's outputs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pipe {
    Stdout,
    Stderr,
}

/// What is run.
#[derive(Clone, Copy)]
pub(super) enum Run<'a> {
    /// A command, which finds this on its stdin, and then the end of it.
    Command(&'a str, &'a [u8]),
    /// The user's shell, whose stdin stays open and silent.
    Shell,
}

/// Takes what a command writes; an error ends the command.
pub(super) type Sink<'a> = &'a mut dyn FnMut(Pipe, &[u8]) -> Result<(), Error>;

impl Link {
    /// Chooses between calls that wait for their answer and calls that take what is there.
    pub(super) fn block(&self, on: bool) {
        self.session.set_blocking(on);
        farewell::keep(!on);
    }

    fn lost(&self, source: impl Into<Cause>) -> Error {
        Error::Lost { address: self.address.clone(), source: source.into() }
    }

    /// Sorts out an error of a request that the server should have answered.
    fn unanswered(&self, error: ssh2::Error) -> Error {
        const TIMEOUT: ssh2::ErrorCode = ssh2::ErrorCode::Session(-9);
        const REFUSED: [ssh2::ErrorCode; 2] = [ssh2::ErrorCode::Session(-21), ssh2::ErrorCode::Session(-22)];
        let address = self.address.clone();
        match error.code() {
            TIMEOUT => Error::Timeout { address, limit: ANSWER },
            code if REFUSED.contains(&code) => Error::Start { address, source: error.into() },
            _ => self.lost(error),
        }
    }

    /// Opens a channel and lets `start` begin something on it.
    pub(super) fn open(
        &self,
        start: impl FnOnce(&mut ssh2::Channel) -> Result<(), ssh2::Error>,
    ) -> Result<ssh2::Channel, Failure> {
        self.block(true);
        let mut channel = self.session.channel_session().map_err(|e| Failure::Stale(self.unanswered(e)))?;
        start(&mut channel).map_err(|e| Failure::Failed(self.unanswered(e)))?;
        Ok(channel)
    }

    /// Runs a command or a shell: hands what it writes to `sink`, and says how it ended.
    ///
    /// An error from `sink` ends the command (by ending the session). `started` is called once it runs.
    pub(super) fn execute(
        &self,
        run: Run<'_>,
        started: impl FnOnce(),
        sink: Sink<'_>,
    ) -> Result<Ending, Failure> {
        let (mut channel, input) = match run {
            Run::Command(command, input) => (self.open(|channel| channel.exec(command))?, Some(input)),
            Run::Shell => (self.open(ssh2::Channel::shell)?, None),
        };
        started();
        self.talk(&mut channel, input, sink).map_err(Failure::Failed)?;
        self.ending(channel).map_err(Failure::Failed)
    }

    /// Moves data both ways until the server has closed the channel. Without `input` nothing is sent, and no end of it.
    fn talk(&self, channel: &mut ssh2::Channel, input: Option<&[u8]>, sink: Sink<'_>) -> Result<(), Error> {
        self.block(false);
        let (mut sent, mut eof_sent) = (0, input.is_none());
        let input = input.unwrap_or_default();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let mut moved = false;
            if sent < input.len() {
                let chunk = &input[sent..input.len().min(sent + (32 << 10))];
                if let Some(n) = self.attempt(|| channel.write(chunk))? {
                    sent += n;
                    moved |= n > 0;
                }
            } else if !eof_sent {
                eof_sent = self.attempt(|| Ok(channel.send_eof()?))?.is_some();
            }
            // Both in turn: a command that fills one while we wait for the other would stall.
            for pipe in [Pipe::Stdout, Pipe::Stderr] {
                let read = match pipe {
                    Pipe::Stdout => self.attempt(|| channel.read(&mut buffer))?,
                    Pipe::Stderr => {
                        let mut stderr = channel.stderr();
                        self.attempt(|| stderr.read(&mut buffer))?
                    }
                };
                if let Some(n @ 1..) = read {
                    sink(pipe, &buffer[..n])?;
                    moved = true;
                }
            }
            if moved {
                continue;
            }
            // A command may close its outputs long before it ends, and still read.
            if channel.eof() && self.attempt(|| Ok(channel.wait_close()?))?.is_some() {
                return Ok(());
            }
            // The look at stderr may have taken in stdout.
            if !farewell::came() {
                self.wait(PollFlags::POLLIN)?;
            }
        }
    }

    /// Tries a non-blocking operation; `None` when it must wait for the peer.
    ///
    /// A packet that is half sent must be finished by the same call before anything else is tried, so this waits
    /// for room in the socket itself. That cannot stall: the server always takes what its window allows.
    pub(super) fn attempt<T>(
        &self,
        mut operation: impl FnMut() -> io::Result<T>,
    ) -> Result<Option<T>, Error> {
        loop {
            match operation() {
                Ok(value) => return Ok(Some(value)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match self.session.block_directions() {
                        BlockDirections::Outbound | BlockDirections::Both => self.wait(PollFlags::POLLOUT)?,
                        _ => return Ok(None),
                    }
                }
                Err(error) => return Err(self.lost(error)),
            }
        }
    }

    pub(super) fn wait(&self, flags: PollFlags) -> Result<(), Error> {
        farewell::drained();
        wait(&mut [PollFd::new(self.socket.as_fd(), flags)], None).map_err(|e| self.lost(e))
    }

    /// Reads how the command ended and closes the channel. Only right after the server has closed it: on a lost
    /// connection libssh2 reports status 0.
    pub(super) fn ending(&self, mut channel: ssh2::Channel) -> Result<Ending, Error> {
        let signal = channel.exit_signal().map_err(|e| self.lost(e))?.exit_signal;
        let status = channel.exit_status().map_err(|e| self.lost(e))?;
        self.block(true);
        channel.close().map_err(|e| self.lost(e))?;
        Ok(signal.map_or(Ending::Status(status), Ending::Signal))
    }
}
