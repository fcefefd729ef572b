//! How the part that runs as root learns that nobody wants its work any more: who asked holds the other end of its
//! standard output, and a signal may come. It then undoes what it has begun.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

static STOPPED: AtomicBool = AtomicBool::new(false);
/// A child that has to end first; 0 is none.
static CHILD: AtomicI32 = AtomicI32::new(0);

/// Whether to stop.
pub fn stopped() -> bool {
    STOPPED.load(Ordering::SeqCst)
}

/// Starts to watch. All of the process's threads must be made after this one.
///
/// # Errors
/// When there are no means to do so.
pub fn start() -> io::Result<()> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block()?;
    let arrived = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?;
    std::thread::Builder::new().name("watch".into()).spawn(move || {
        let stdout = io::stdout();
        let mut watched = [
            PollFd::new(stdout.as_fd(), PollFlags::empty()),
            PollFd::new(arrived.as_fd(), PollFlags::POLLIN),
        ];
        while poll(&mut watched, PollTimeout::NONE) == Err(Errno::EINTR) {}
        STOPPED.store(true, Ordering::SeqCst);
        end(CHILD.load(Ordering::SeqCst));
    })?;
    Ok(())
}

/// Waits for a child, which is killed when the work is to stop.
///
/// # Errors
/// What wait(2) says.
pub fn wait(child: &mut std::process::Child) -> io::Result<std::process::ExitStatus> {
    let pid = i32::try_from(child.id()).unwrap_or(0);
    CHILD.store(pid, Ordering::SeqCst);
    if stopped() {
        end(pid); // the watcher may have looked before there was a child
    }
    let status = child.wait();
    CHILD.store(0, Ordering::SeqCst);
    status
}

fn end(pid: i32) {
    if pid > 0 {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}
