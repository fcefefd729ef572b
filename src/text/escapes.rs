//! Console output without what only a terminal understands.

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;

/// Takes escape sequences (ECMA-48: CSI, OSC and the short ones), carriage returns and zeros out of bytes that arrive
/// in pieces.
///
/// A sequence that is cut off by a line's end or by a control character ends there: a stray escape never hides more than
/// its own line.
#[derive(Debug, Default)]
pub struct Stripper {
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// nF: intermediates, then one final byte.
    Intermediate,
    /// CSI: parameters and intermediates, then one final byte.
    Csi,
    /// OSC, DCS, SOS, PM, APC: up to BEL or ST (ESC and a backslash).
    Str,
    /// ESC inside of such a string.
    StrEscape,
}

impl Stripper {
    /// Appends to `out` what is left of `input`.
    pub fn strip(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        while let Some(&byte) = input.first() {
            let (state, taken) = match (self.state, byte) {
                (State::Text, _) => {
                    let plain = memchr::memchr3(ESC, b'\r', 0, input).unwrap_or(input.len());
                    out.extend_from_slice(&input[..plain]);
                    let escape = input.get(plain) == Some(&ESC);
                    (if escape { State::Escape } else { State::Text }, input.len().min(plain + 1))
                }
                (State::Escape, b'[') => (State::Csi, 1),
                (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => (State::Str, 1),
                (State::Escape | State::Intermediate, 0x20..=0x2f) => (State::Intermediate, 1),
                (State::Csi, 0x20..=0x3f) => (State::Csi, 1),
                (State::Escape | State::Intermediate | State::Csi, 0x30..=0x7e) => (State::Text, 1),
                (State::Str, BEL) | (State::StrEscape, b'\\') => (State::Text, 1),
                (State::Str, ESC) => (State::StrEscape, 1),
                (State::Str, b'\n') => (State::Text, 0),
                (State::Str, _) => (State::Str, 1),
                (State::StrEscape, _) => (State::Escape, 0),
                (State::Escape | State::Intermediate | State::Csi, _) => (State::Text, 0),
            };
            self.state = state;
            input = &input[taken..];
        }
    }
}

/// The text without escape sequences and control characters; tabs and line ends stay.
pub fn strip_escapes(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    Stripper::default().strip(text.as_bytes(), &mut out);
    // What is taken out begins and ends beside ASCII, so characters stay whole.
    let plain = String::from_utf8_lossy(&out);
    plain.chars().filter(|&c| matches!(c, '\t' | '\n') || !c.is_control()).collect()
}

/// The last lines of a console that are not blank, without escape sequences and control characters.
pub fn last_lines(text: &[u8], count: usize) -> String {
    let tail = &text[text.len().saturating_sub(16 * 1024)..];
    let tail = strip_escapes(&String::from_utf8_lossy(tail));
    let lines: Vec<&str> = tail.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_go_whole() {
        for (text, plain) in [
            ("\x1b[0;1;31mFailed\x1b[0m to start", "Failed to start"),
            ("\x1b]0;title\x07a\x1b]8;;u\x1b\\b", "ab"),
            ("\x1b]3008;start=1;type=boot\x1b\\c", "c"),
            ("\x1b(Ba\x1bMb\x1b=c", "abc"),
            ("a\r\nb\tc\x08\x1b", "a\nb\tc"),
            ("\x1b[2J\x1b[?25l\x1b[01;01H", ""),
            ("a\0b", "ab"),
            // Cut off: no line is lost.
            ("\x1b]title\nKernel panic", "\nKernel panic"),
            ("\x1b[0;\nKernel panic", "\nKernel panic"),
            ("\x1b\nx\x1b\u{e4}", "\nx\u{e4}"),
            ("\x1b]a\x1b[1mb", "b"),
        ] {
            assert_eq!(strip_escapes(text), plain, "{text:?}");
            // The same in pieces of one byte.
            let (mut stripper, mut out) = (Stripper::default(), Vec::new());
            text.bytes().for_each(|byte| stripper.strip(&[byte], &mut out));
            assert_eq!(String::from_utf8(out).unwrap().replace('\x08', ""), plain, "{text:?}");
        }
    }

    #[test]
    fn last_lines_are_clean() {
        assert_eq!(last_lines(b"a\r\n\x1b[0mb\n\n\nc", 2), "b\nc");
    }
}
