//! Keeps the last words of a connection, and knows of words that nobody has looked at.
//!
//! libssh2 takes in everything the socket has before it hands out any of it, and when that ends with the end of the
//! connection it reports only the error: what came just before is lost, and so is an exit status. So the end is held
//! back, as if nothing more had come yet, until what came before it has been handed out.
//!
//! Every call takes in whatever the socket has, also what another call hands out: a look at stderr takes in what was
//! written to stdout. Whoever then waits for the socket waits for ever; so [`came`] tells whether there is more to see.

use std::cell::Cell;
use std::io;

use libc::{c_int, c_void, ssize_t};

/// `LIBSSH2_CALLBACK_RECV` of libssh2.h.
const CALLBACK_RECV: c_int = 6;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// The end is reported when it comes: while one call waits for one answer.
    Off,
    /// The end will be held back once data has come.
    Armed,
    /// Data came and has not all been handed out: the end is held back.
    On,
}

thread_local! {
    // A session lives on one thread and a thread has one session.
    static HOLD: Cell<Hold> = const { Cell::new(Hold::Off) };
    static CAME: Cell<bool> = const { Cell::new(false) };
}

/// Whether anything has been taken in from the socket since this was asked last.
pub(super) fn came() -> bool {
    CAME.replace(false)
}

/// Makes every second look at a socket find nothing, in this process: what belongs to one call is then taken in by
/// others.
#[cfg(test)]
pub(super) static ABSENT: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

#[cfg(test)]
fn looks_away() -> bool {
    thread_local! { static LOOKS: Cell<u32> = const { Cell::new(0) } }
    LOOKS.set(LOOKS.get() + 1);
    LOOKS.get() % 2 == 1 && ABSENT.load(std::sync::atomic::Ordering::SeqCst)
}

/// From now on the end of this thread's connection is held back behind data (true), or not (false).
pub(super) fn keep(on: bool) {
    HOLD.set(if on { Hold::Armed } else { Hold::Off });
}

/// All data so far has been handed out.
pub(super) fn drained() {
    if HOLD.get() == Hold::On {
        HOLD.set(Hold::Armed);
    }
}

#[expect(unsafe_code, reason = "the ssh2 crate has no way to set this callback")]
mod ffi {
    use super::{c_int, c_void, recv, ssize_t};

    unsafe extern "C" {
        // Part of libssh2, which the ssh2 crate links; callbacks are pointers of any type there.
        fn libssh2_session_callback_set(
            session: *mut c_void,
            kind: c_int,
            callback: *mut c_void,
        ) -> *mut c_void;
    }

    /// Makes libssh2 read this session's socket through [`recv`].
    pub(super) fn install(session: &ssh2::Session, kind: c_int) {
        let mut raw = session.raw();
        let raw = std::ptr::from_mut(&mut *raw).cast::<c_void>();
        let callback: extern "C" fn(c_int, *mut c_void, usize, c_int, *mut *mut c_void) -> ssize_t = receive;
        // SAFETY: the session is valid and locked, and the callback has the type of LIBSSH2_RECV_FUNC.
        unsafe { libssh2_session_callback_set(raw, kind, callback as *mut c_void) };
    }

    extern "C" fn receive(
        socket: c_int,
        buffer: *mut c_void,
        length: usize,
        flags: c_int,
        _: *mut *mut c_void,
    ) -> ssize_t {
        #[cfg(test)]
        if super::looks_away() {
            return -(libc::EAGAIN as ssize_t);
        }
        // SAFETY: libssh2 passes its socket and a buffer of this length.
        recv(|| unsafe { libc::recv(socket, buffer, length, flags) })
    }
}

/// The work of `recv` as libssh2 wants it: a negative errno for an error.
fn recv(system: impl FnOnce() -> ssize_t) -> ssize_t {
    let result = match system() {
        result @ 0.. => result,
        _ => match io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) {
            libc::EINTR | libc::EAGAIN => return -(libc::EAGAIN as ssize_t),
            error => -(error as ssize_t),
        },
    };
    if result > 0 {
        CAME.set(true);
    }
    match (result, HOLD.get()) {
        (1.., Hold::Armed) => HOLD.set(Hold::On),
        (..=0, Hold::On) => return -(libc::EAGAIN as ssize_t),
        _ => {}
    }
    result
}

/// Makes [`keep`] work for a session, which must stay on this thread.
pub(super) fn install(session: &ssh2::Session) {
    keep(false);
    ffi::install(session, CALLBACK_RECV);
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGAIN: ssize_t = -(libc::EAGAIN as ssize_t);

    #[test]
    fn the_end_waits_for_the_data_before_it() {
        keep(false);
        assert_eq!((recv(|| 5), recv(|| 0)), (5, 0));
        keep(true);
        assert_eq!((recv(|| 0), recv(|| 5), recv(|| 0), recv(|| 0)), (0, 5, AGAIN, AGAIN));
        drained();
        assert_eq!((recv(|| 0), recv(|| 7), recv(|| 0)), (0, 7, AGAIN));
        keep(false);
        assert_eq!(recv(|| 0), 0);
    }

    #[test]
    fn what_came_is_told_once() {
        assert!(!came());
        recv(|| 3);
        recv(|| 0);
        assert_eq!((came(), came()), (true, false));
    }
}
