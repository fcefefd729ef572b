//! Console output without what only a terminal understands.

/// The text without escape sequences (ECMA-48: CSI, OSC and the short ones) and control characters; tabs and line
/// ends stay.
pub fn strip_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => match chars.next() {
                // CSI: parameters and intermediates, then one final byte.
                Some('[') => while chars.next().is_some_and(|c| matches!(c, '\x20'..='\x3f')) {},
                // OSC, DCS, SOS, PM, APC: up to BEL or ST.
                Some(']' | 'P' | 'X' | '^' | '_') => {
                    while let Some(c) = chars.next() {
                        if c == '\x07' || (c == '\x1b' && chars.next_if_eq(&'\\').is_some()) {
                            break;
                        }
                    }
                }
                // nF: intermediates, then one final byte.
                Some('\x20'..='\x2f') => while chars.next().is_some_and(|c| matches!(c, '\x20'..='\x2f')) {},
                _ => {}
            },
            '\t' | '\n' => out.push(c),
            c if !c.is_control() => out.push(c),
            _ => {}
        }
    }
    out
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
            ("\x1b(Ba\x1bMb\x1b=c", "abc"),
            ("a\r\nb\tc\x08\x1b", "a\nb\tc"),
            ("\x1b[2J\x1b[?25l\x1b[01;01H", ""),
        ] {
            assert_eq!(strip_escapes(text), plain);
        }
    }

    #[test]
    fn last_lines_are_clean() {
        assert_eq!(last_lines(b"a\r\n\x1b[0mb\n\n\nc", 2), "b\nc");
    }
}
