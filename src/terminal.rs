//! Whether a stream goes to a terminal that bars and colours are for.

use std::io::IsTerminal;
use std::os::fd::AsFd;

/// Whether bars and colours may be written to this stream: it is a terminal that can do more than print lines
/// (`TERM`), and nobody asked for plain output (`NO_COLOR`, <https://no-color.org>).
pub fn is_lively(stream: &impl IsTerminal) -> bool {
    let capable = || std::env::var_os("TERM").is_some_and(|t| !t.is_empty() && t != "dumb");
    let plain = || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    stream.is_terminal() && capable() && !plain()
}

/// Columns and rows of the terminal behind a stream, if there is one and it knows.
pub fn size(stream: &impl AsFd) -> Option<(u16, u16)> {
    use std::os::fd::AsRawFd;
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    #[expect(unsafe_code, reason = "there is no safe wrapper for this ioctl")]
    // SAFETY: the descriptor is open and TIOCGWINSZ writes one winsize, which `size` is.
    let result = unsafe { libc::ioctl(stream.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// How many columns lines on this stream may have; absent where it is no terminal.
pub fn columns(stream: &(impl AsFd + IsTerminal)) -> Option<usize> {
    stream.is_terminal().then(|| size(stream).map_or(80, |(columns, _)| columns.into()))
}
