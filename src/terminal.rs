//! Whether a stream goes to a terminal that bars and colours are for.

use std::io::IsTerminal;

/// Whether bars and colours may be written to this stream: it is a terminal that can do more than print lines
/// (`TERM`), and nobody asked for plain output (`NO_COLOR`, <https://no-color.org>).
pub fn is_lively(stream: &impl IsTerminal) -> bool {
    let capable = || std::env::var_os("TERM").is_some_and(|t| !t.is_empty() && t != "dumb");
    let plain = || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    stream.is_terminal() && capable() && !plain()
}
