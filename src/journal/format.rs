//! Journal entries as people read them.

use std::fmt::Write;

use chrono::TimeZone;

use super::export::Entry;

/// Writes entries one after another and marks reboots between them.
#[derive(Debug, Default)]
pub struct Formatter {
    boot: Option<Vec<u8>>,
}

impl Formatter {
    /// A formatter that has seen no boot yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an entry to `text`, with times in the local time zone of this host:
    /// `Jan  2 15:04:05.000000 sshd[12]: message`. Entries without message or usable time add nothing.
    pub fn write(&mut self, entry: &Entry, text: &mut String) {
        self.write_in(&chrono::Local, entry, text);
    }

    fn write_in<Tz: TimeZone<Offset: std::fmt::Display>>(
        &mut self,
        zone: &Tz,
        entry: &Entry,
        text: &mut String,
    ) {
        let (Some(message), Some(micros)) = (entry.get("MESSAGE"), time(entry)) else { return };
        let Some(time) = zone.timestamp_micros(micros).single() else { return };
        if let Some(boot) = entry.get("_BOOT_ID")
            && self.boot.as_deref() != Some(boot)
            && self.boot.replace(boot.to_vec()).is_some()
        {
            text.push_str("-- Reboot --\n");
        }
        let start = text.len();
        // Writing to a String cannot fail.
        let _ = write!(text, "{} ", time.format("%b %e %H:%M:%S%.6f"));
        push_printable(entry.get("SYSLOG_IDENTIFIER").unwrap_or(b"unknown"), text);
        if let Some(pid) = entry.get("_PID").or_else(|| entry.get("SYSLOG_PID")) {
            text.push('[');
            push_printable(pid, text);
            text.push(']');
        }
        text.push_str(": ");
        let column = text[start..].chars().count();
        let message = message.strip_suffix(b"\n").unwrap_or(message);
        for (index, line) in message.split(|&b| b == b'\n').enumerate() {
            if index > 0 {
                text.extend(std::iter::repeat_n(' ', column));
            }
            push_printable(line, text);
            text.push('\n');
        }
    }
}

/// Microseconds since 1970; times within the first second count as unknown.
fn time(entry: &Entry) -> Option<i64> {
    let value = entry.get("_SOURCE_REALTIME_TIMESTAMP").or_else(|| entry.get("__REALTIME_TIMESTAMP"))?;
    std::str::from_utf8(value).ok()?.parse().ok().filter(|&micros| micros >= 1_000_000)
}

/// Appends text made harmless for a terminal: tabs become spaces, what cannot be printed is escaped.
fn push_printable(bytes: &[u8], text: &mut String) {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\t' => text.push_str("        "),
                c if printable(c) => text.push(c),
                c => _ = write!(text, "\\u{:04x}", u32::from(c)),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
}

fn printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    // The library's escaping knows what can be printed; after a letter it lets combining marks pass.
    ['a', c].iter().collect::<String>().escape_debug().count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Parser;

    fn show(stream: &str) -> String {
        let (mut formatter, mut text) = (Formatter::new(), String::new());
        let zone = chrono::FixedOffset::east_opt(2 * 3600).unwrap();
        Parser::new().push(stream.as_bytes(), |entry| formatter.write_in(&zone, &entry, &mut text)).unwrap();
        text
    }

    #[test]
    fn entries_look_as_upstream_prints_them() {
        let time = "__REALTIME_TIMESTAMP=1136214245000042\n";
        let text = show(&format!(
            "{time}MESSAGE=hello\nSYSLOG_IDENTIFIER=sshd\n_PID=12\nSYSLOG_PID=13\n_BOOT_ID=a\n\n\
             {time}MESSAGE=plain\n_BOOT_ID=a\n\n\
             {time}_SOURCE_REALTIME_TIMESTAMP=1137000000000001\nMESSAGE=next boot\nSYSLOG_PID=7\n_BOOT_ID=b\n\n"
        ));
        assert_eq!(
            text,
            "Jan  2 17:04:05.000042 sshd[12]: hello\n\
             Jan  2 17:04:05.000042 unknown: plain\n\
             -- Reboot --\n\
             Jan 11 19:20:00.000001 unknown[7]: next boot\n"
        );
    }

    #[test]
    fn entries_without_message_or_time_are_left_out() {
        assert_eq!(
            show(
                "__REALTIME_TIMESTAMP=1136214245000042\nA=b\n\n\
                 MESSAGE=x\n\nMESSAGE=x\n__REALTIME_TIMESTAMP=soon\n\nMESSAGE=x\n__REALTIME_TIMESTAMP=999999\n\n\
                 MESSAGE=x\n__REALTIME_TIMESTAMP=9223372036854775807\n\n"
            ),
            ""
        );
    }

    #[test]
    fn lines_are_indented_and_bytes_made_printable() {
        let mut stream = b"__REALTIME_TIMESTAMP=1136214245000000\nSYSLOG_IDENTIFIER=x\nMESSAGE\n".to_vec();
        let message = b"a\tb\nc\x1b[31m\xff \xc3\xa4e\xcc\x81 \xe2\x80\xa8\xf0\x9f\xa6\x80\n";
        stream.extend((message.len() as u64).to_le_bytes());
        stream.extend_from_slice(message);
        stream.extend_from_slice(b"\n\n");
        let (mut formatter, mut text) = (Formatter::new(), String::new());
        Parser::new().push(&stream, |entry| formatter.write_in(&chrono::Utc, &entry, &mut text)).unwrap();
        let column = " ".repeat("Jan  2 15:04:05.000000 x: ".len());
        let rest = "c\\u001b[31m\\xff äe\u{301} \\u2028🦀";
        assert_eq!(text, format!("Jan  2 15:04:05.000000 x: a        b\n{column}{rest}\n"));
    }
}
