//! Signals become one cancellation token; a second signal leaves at once.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

static RECEIVED: AtomicI32 = AtomicI32::new(0);

/// The signal that asked this process to stop, if one did.
pub fn received() -> Option<i32> {
    Some(RECEIVED.load(Ordering::Relaxed)).filter(|&s| s != 0)
}

/// Exit status of a process that a signal ended: 130 for SIGINT, 143 for SIGTERM, 129 for SIGHUP.
pub fn exit_code(signal: i32) -> u8 {
    128u8.saturating_add(u8::try_from(signal).unwrap_or(2))
}

/// Starts listening for INT, TERM and HUP; the first cancels the returned token, the second exits.
///
/// `on_second` runs just before that exit and may tell where the record of leftovers is.
/// Must be called inside a tokio runtime. The listening task lives as long as the runtime.
///
/// # Errors
/// When a handler cannot be installed.
pub fn install(on_second: impl Fn() + Send + 'static) -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut int = signal(SignalKind::interrupt())?;
    let mut term = signal(SignalKind::terminate())?;
    let mut hup = signal(SignalKind::hangup())?;
    let cancel = token.clone();
    tokio::spawn(async move {
        loop {
            let number = tokio::select! {
                _ = int.recv() => libc::SIGINT,
                _ = term.recv() => libc::SIGTERM,
                _ = hup.recv() => libc::SIGHUP,
            };
            if RECEIVED.swap(number, Ordering::Relaxed) == 0 {
                crate::notice!("cli", "interrupted: cleaning up; press Ctrl-C again to leave now");
                cancel.cancel();
            } else {
                on_second();
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the second signal means: leave now, whatever is left"
                )]
                std::process::exit(i32::from(exit_code(number)));
            }
        }
    });
    Ok(token)
}
