//! From an address to a logged-in session: dial, banner, handshake, login. Runs on the session's own thread.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::farewell;
use super::{Auth, Cause, Dial, Error, Login, keep_alive};

/// The longest wait for one TCP connection.
const DIAL: Duration = Duration::from_secs(5);
/// The longest wait for a TCP connection that is a second try beside a silent one.
const REDIAL: Duration = Duration::from_secs(1);
/// How long the first connection may be silent before another one is tried beside it; the next wait twice as long.
const SILENCE: Duration = Duration::from_secs(1);
/// How many connections may wait for a banner at once; each may cost the guest the start of an sshd. None is given
/// up for a newer one: a guest under load answers the oldest first, and would never come to answer any.
const WAITING: usize = 4;
/// The longest wait for an answer on an open session: an emulated guest under load takes its time.
pub(super) const ANSWER: Duration = Duration::from_secs(60);

/// Where and how sessions are opened.
pub(super) struct Target {
    pub(super) dialer: Arc<dyn Dial>,
    pub(super) address: String,
    pub(super) login: Login,
    pub(super) timeout: Duration,
}

/// The cancel button of a session: shuts its sockets, now and in the future.
#[derive(Default)]
pub(super) struct Hangup(Mutex<Sockets>);

#[derive(Default)]
struct Sockets {
    open: Vec<Arc<TcpStream>>,
    hung: bool,
}

impl Hangup {
    /// Puts a socket under the button; `None` when it was pressed already.
    fn watch(&self, socket: TcpStream) -> Option<Arc<TcpStream>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.hung {
            return None;
        }
        let socket = Arc::new(socket);
        state.open.push(socket.clone());
        Some(socket)
    }

    /// Closes all sockets but this one.
    fn keep(&self, socket: &Arc<TcpStream>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.open.retain(|other| {
            let same = Arc::ptr_eq(other, socket);
            if !same {
                let _ = other.shutdown(Shutdown::Both);
            }
            same
        });
    }

    /// Lets go of one socket.
    fn forget(&self, socket: &Arc<TcpStream>) {
        let _ = socket.shutdown(Shutdown::Both);
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.open.retain(|other| !Arc::ptr_eq(other, socket));
    }

    /// Ends whatever the session's thread waits for, within milliseconds. The session cannot be used again.
    pub(super) fn hang_up(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.hung = true;
        for socket in state.open.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Whether the peer of an idle session is still there, as far as this end knows.
    pub(super) fn alive(&self) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // libssh2 has made the socket non-blocking.
        state.open.iter().any(|socket| match socket.peek(&mut [0]) {
            Ok(n) => n > 0,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        })
    }
}

/// Waits for one of the events on a socket; `None` waits for ever (until the socket is shut).
pub(super) fn wait(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> io::Result<()> {
    let limit = match limit {
        // Rounded up: a wait that ends a moment early would only be repeated.
        Some(limit) => PollTimeout::try_from(limit + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX),
        None => PollTimeout::NONE,
    };
    match nix::poll::poll(fds, limit) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Opens a session and logs in, within the target's timeout in all.
pub(super) fn connect(target: &Target, hangup: &Hangup) -> Result<(ssh2::Session, Arc<TcpStream>), Error> {
    let failed =
        |step: &'static str, source: Cause| Error::Connect { step, address: target.address.clone(), source };
    let start = Instant::now();
    let deadline = start + target.timeout;
    let socket = reach(target, hangup, deadline).map_err(|(step, source)| failed(step, source.into()))?;
    let banner = start.elapsed();
    let handshake = || -> Result<ssh2::Session, Cause> {
        keep_alive(&socket)?;
        socket.set_nodelay(true)?;
        let mut session = ssh2::Session::new()?;
        farewell::install(&session);
        session.set_timeout(milliseconds(deadline)?);
        session.set_tcp_stream(socket.clone());
        session.handshake()?;
        Ok(session)
    };
    let session = handshake().map_err(|e| failed("ssh handshake failed with", e))?;
    let log_in = || -> Result<(), Cause> {
        session.set_timeout(milliseconds(deadline)?);
        authenticate(&session, &target.login, deadline)?;
        session.set_timeout(u32::try_from(ANSWER.as_millis())?);
        Ok(())
    };
    log_in().map_err(|e| failed("cannot log in at", e))?;
    crate::debug!(
        "ssh",
        "logged in at {} as {} in {:.0?} (banner after {banner:.0?})",
        target.address,
        target.login.user,
        start.elapsed()
    );
    Ok((session, socket))
}

/// The time left, as libssh2 takes it (0 would mean: for ever).
fn milliseconds(deadline: Instant) -> Result<u32, Cause> {
    match deadline.saturating_duration_since(Instant::now()).as_millis() {
        0 => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        left => Ok(u32::try_from(left).unwrap_or(u32::MAX)),
    }
}

/// What fails when there is no connection at all.
pub(super) const DIALLING: &str = "cannot connect to";

/// A connection on which the server has begun to speak.
///
/// An accepted connection proves nothing: QEMU's user network accepts before the guest is up, and a segment lost
/// then is sent again only after seconds. So further connections are tried beside silent ones.
fn reach(
    target: &Target,
    hangup: &Hangup,
    deadline: Instant,
) -> Result<Arc<TcpStream>, (&'static str, io::Error)> {
    const LISTENING: &str = "no ssh banner from";
    let cancelled = || (DIALLING, io::Error::new(io::ErrorKind::Interrupted, "cancelled"));
    let mut waiting: VecDeque<Arc<TcpStream>> = VecDeque::new();
    let mut silence = SILENCE;
    let mut redial = Instant::now();
    loop {
        let now = Instant::now();
        if now >= deadline {
            let step = if waiting.is_empty() { DIALLING } else { LISTENING };
            return Err((step, io::ErrorKind::TimedOut.into()));
        }
        if now >= redial && waiting.len() < WAITING {
            let limit = if waiting.is_empty() { DIAL } else { REDIAL };
            match target.dialer.dial(&target.address, limit.min(deadline - now)) {
                Ok(socket) => waiting.push_back(hangup.watch(socket).ok_or_else(cancelled)?),
                Err(error) if waiting.is_empty() && error.kind() != io::ErrorKind::TimedOut => {
                    return Err((DIALLING, error));
                }
                Err(_) => {}
            }
            redial = Instant::now() + silence;
            silence *= 2;
        }
        if waiting.is_empty() {
            redial = Instant::now();
            continue;
        }
        let next = if waiting.len() < WAITING { redial.min(deadline) } else { deadline };
        let limit = next.saturating_duration_since(Instant::now());
        let mut fds: Vec<_> = waiting.iter().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)).collect();
        wait(&mut fds, Some(limit)).map_err(|e| (LISTENING, e))?;
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        let mut gone = None;
        for (index, _) in ready.iter().enumerate().filter(|(_, ready)| **ready) {
            match waiting[index].peek(&mut [0]) {
                Ok(1..) => {
                    hangup.keep(&waiting[index]);
                    return Ok(waiting[index].clone());
                }
                Ok(0) => gone = Some(io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed")),
                Err(error) => gone = Some(error),
            }
            hangup.forget(&waiting[index]);
        }
        if let Some(why) = gone {
            let mut ready = ready.iter();
            waiting.retain(|_| ready.next() != Some(&true));
            if waiting.is_empty() {
                return Err((LISTENING, why));
            }
        }
    }
}

pub(super) fn authenticate(session: &ssh2::Session, login: &Login, deadline: Instant) -> Result<(), Cause> {
    match &login.auth {
        Auth::Key(key) => Ok(session.userauth_pubkey_memory(&login.user, None, key.pem(), None)?),
        Auth::PrivateKey(pem) => Ok(session.userauth_pubkey_memory(&login.user, None, pem.expose(), None)?),
        Auth::Agent => Ok(session.userauth_agent(&login.user)?),
        Auth::Password(password) => {
            // Asking for the methods may already let us in: a server may want no proof.
            let methods = session.auth_methods(&login.user).unwrap_or_default().to_owned();
            if session.authenticated() {
                return Ok(());
            }
            session.set_timeout(milliseconds(deadline)?);
            if methods.split(',').any(|m| m == "password") || !methods.contains("keyboard-interactive") {
                return Ok(session.userauth_password(&login.user, password)?);
            }
            Ok(session.userauth_keyboard_interactive(&login.user, &mut Answer(password))?)
        }
    }
}

/// Answers every prompt with the password.
struct Answer<'a>(&'a str);

impl ssh2::KeyboardInteractivePrompt for Answer<'_> {
    fn prompt(&mut self, _user: &str, _text: &str, prompts: &[ssh2::Prompt<'_>]) -> Vec<String> {
        prompts.iter().map(|_| self.0.to_owned()).collect()
    }
}
