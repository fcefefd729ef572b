//! Data on stdout. The one place that writes there, so that a closed pipe ends the program quietly.

use std::io::{self, Write};

/// Set when stdout's reader has gone: further data is dropped and the process ends with success.
static CLOSED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Writes bytes to stdout as they are and flushes them.
///
/// `mantle … | head` is no error: once the reader has gone, writes are dropped ([`closed`] tells).
///
/// # Errors
/// Any other failure of stdout, such as a full disk behind a redirection.
pub fn write(data: &[u8]) -> io::Result<()> {
    if closed() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    match out.write_all(data).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
            CLOSED.store(true, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        }
        other => other.map_err(|e| io::Error::new(e.kind(), format!("cannot write to standard output: {e}"))),
    }
}

/// Writes one line to stdout; see [`write`].
///
/// # Errors
/// As [`write`].
pub fn line(text: impl std::fmt::Display) -> io::Result<()> {
    write(format!("{text}\n").as_bytes())
}

/// Whether the reader of stdout has gone away.
pub fn closed() -> bool {
    CLOSED.load(std::sync::atomic::Ordering::Relaxed)
}
