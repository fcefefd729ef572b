//! The manhole: an interactive shell on the machine, on the terminal of this process.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nix::poll::{PollFd, PollFlags};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::client::Client;
use super::connect::wait;
use super::session::{Ending, Failure, Link};
use super::{Cause, Error, farewell};

/// The speed claimed for the terminal, in baud, as upstream claims it.
const SPEED: u32 = 115_200;

/// There is one terminal: shells wait for each other.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
/// The terminal that a shell is using now, for [`restore_terminal`].
static CURRENT: Mutex<Weak<Tty>> = Mutex::new(Weak::new());

/// Gives the terminal back its normal mode if a shell is using it: for the moment before the process exits.
pub fn restore_terminal() {
    if let Some(tty) = CURRENT.lock().unwrap_or_else(PoisonError::into_inner).upgrade() {
        tty.restore();
    }
}

/// A terminal, its own mode, and who may change that.
pub(super) struct Tty {
    input: File,
    output: File,
    mode: Mutex<Mode>,
}

enum Mode {
    Normal,
    Raw(Termios),
    /// Nobody may make it raw any more.
    Over,
}

impl Tty {
    pub(super) fn new(input: OwnedFd, output: OwnedFd) -> Self {
        Self { input: input.into(), output: output.into(), mode: Mutex::new(Mode::Normal) }
    }

    fn make_raw(&self) -> io::Result<()> {
        let mut mode = self.mode.lock().unwrap_or_else(PoisonError::into_inner);
        if let Mode::Normal = *mode {
            let normal = tcgetattr(&self.input)?;
            let mut raw = normal.clone();
            cfmakeraw(&mut raw);
            tcsetattr(&self.input, SetArg::TCSANOW, &raw)?;
            *mode = Mode::Raw(normal);
        }
        Ok(())
    }

    fn restore(&self) {
        let mut mode = self.mode.lock().unwrap_or_else(PoisonError::into_inner);
        if let Mode::Raw(normal) = std::mem::replace(&mut *mode, Mode::Over) {
            // A terminal that is gone needs no mode.
            let _ = tcsetattr(&self.input, SetArg::TCSANOW, &normal);
        }
    }

    /// Columns and rows; 80 × 24 when the terminal does not know.
    fn size(&self) -> (u32, u32) {
        crate::terminal::size(&self.input).map_or((80, 24), |(columns, rows)| (columns.into(), rows.into()))
    }
}

/// Restores the terminal however the shell's future ends.
struct Restore(Arc<Tty>);

impl Drop for Restore {
    fn drop(&mut self) {
        self.0.restore();
    }
}

impl Client {
    /// Connects the terminal of this process to a login shell on the machine, until that shell ends. Without a
    /// terminal on stdin nothing happens. `term` is the terminal's type, the value of `$TERM`.
    ///
    /// The shell's own exit status is no error. Shells of one process wait for each other.
    ///
    /// # Errors
    /// When there is no session, when it is lost, or when the terminal cannot be switched.
    pub async fn shell(&self, term: &str) -> Result<(), Error> {
        if !io::stdin().is_terminal() {
            return Ok(());
        }
        let _turn = TURN.lock().await;
        let input = io::stdin().as_fd().try_clone_to_owned().map_err(Error::Terminal)?;
        let output = io::stdout().as_fd().try_clone_to_owned().map_err(Error::Terminal)?;
        self.shell_on(term, Tty::new(input, output)).await
    }

    pub(super) async fn shell_on(&self, term: &str, tty: Tty) -> Result<(), Error> {
        let tty = Arc::new(tty);
        *CURRENT.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&tty);
        let _restore = Restore(tty.clone());
        let mut resized = signal(SignalKind::window_change()).map_err(Error::Terminal)?;
        let (knock, door) = UnixStream::pair().map_err(Error::Terminal)?;
        knock.set_nonblocking(true).map_err(Error::Terminal)?;
        door.set_nonblocking(true).map_err(Error::Terminal)?;
        let (term, door) = (term.to_owned(), Arc::new(door));
        let job = move |link: &Link, reply: oneshot::Sender<_>| {
            let result = attach(link, &term, &tty, &door);
            let clean = result.is_ok();
            reply.send(result).is_ok() && clean
        };
        let mut shell = std::pin::pin!(self.with_session(job));
        let ((), busy) = loop {
            tokio::select! {
                result = &mut shell => break result?,
                // A full pipe means that the thread will look at the size anyway.
                Some(()) = resized.recv() => { let _ = (&knock).write(&[0]); }
            }
        };
        self.give_back(busy);
        Ok(())
    }
}

/// Runs the shell; on the session's thread.
fn attach(link: &Link, term: &str, tty: &Tty, door: &UnixStream) -> Result<(), Failure> {
    let (columns, rows) = tty.size();
    let mut channel = link.open(|channel| {
        let mut modes = ssh2::PtyModes::new();
        modes.set_boolean(ssh2::PtyModeOpcode::ECHO, true);
        modes.set_u32(ssh2::PtyModeOpcode::TTY_OP_ISPEED, SPEED);
        modes.set_u32(ssh2::PtyModeOpcode::TTY_OP_OSPEED, SPEED);
        channel.request_pty(term, Some(modes), Some((columns, rows, 0, 0)))?;
        channel.shell()
    })?;
    tty.make_raw().map_err(|e| Failure::Failed(Error::Terminal(e)))?;
    relay(link, &mut channel, tty, door).map_err(Failure::Failed)?;
    // How the shell ended is not our business, only that it did.
    let (Ending::Status(_) | Ending::Signal(_)) = link.ending(channel).map_err(Failure::Failed)?;
    Ok(())
}

fn relay(link: &Link, channel: &mut ssh2::Channel, tty: &Tty, mut door: &UnixStream) -> Result<(), Error> {
    let lost = |source: Cause| Error::Lost { address: link.address.clone(), source };
    let (mut input, mut output) = (&tty.input, &tty.output);
    let mut buffer = vec![0; 32 << 10];
    let (mut typed, mut sent) = (Vec::new(), 0);
    let (mut open, mut typing) = (true, false);
    link.block(false);
    loop {
        let mut moved = false;
        if sent == typed.len() && std::mem::take(&mut typing) {
            // EIO: the terminal has gone.
            let n = input.read(&mut buffer[..4096]).unwrap_or(0);
            (typed, sent) = (buffer[..n].to_vec(), 0);
            open = n > 0;
            if !open {
                while link.attempt(|| Ok(channel.send_eof()?))?.is_none() {
                    link.wait(PollFlags::POLLIN)?;
                }
            }
        }
        if sent < typed.len()
            && let Some(n) = link.attempt(|| channel.write(&typed[sent..]))?
        {
            sent += n;
            moved |= n > 0;
        }
        for stderr in [false, true] {
            let mut pipe = if stderr { channel.stderr() } else { channel.stream(0) };
            if let Some(n @ 1..) = link.attempt(|| pipe.read(&mut buffer))? {
                output.write_all(&buffer[..n]).map_err(Error::Terminal)?;
                moved = true;
            }
        }
        if moved {
            continue;
        }
        if channel.eof() && link.attempt(|| Ok(channel.wait_close()?))?.is_some() {
            return Ok(());
        }
        if farewell::came() {
            continue;
        }
        farewell::drained();
        let mut fds = vec![
            PollFd::new(link.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(door.as_fd(), PollFlags::POLLIN),
        ];
        if open && sent == typed.len() {
            fds.push(PollFd::new(input.as_fd(), PollFlags::POLLIN));
        }
        wait(&mut fds, None).map_err(|e| lost(e.into()))?;
        typing = fds.get(2).is_some_and(|fd| fd.any().unwrap_or(true));
        let resized = fds[1].any().unwrap_or(true);
        drop(fds);
        if resized {
            // The other end is only closed when the shell's future was dropped.
            if !door.read(&mut [0; 64]).is_ok_and(|n| n > 0) {
                return Err(lost("cancelled".into()));
            }
            let (columns, rows) = tty.size();
            link.attempt(|| Ok(channel.request_pty_size(columns, rows, None, None)?))?;
        }
    }
}
