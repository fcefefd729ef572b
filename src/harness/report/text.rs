//! The results for people, as Go's `testing` package shows them.

use std::io;

use super::{Event, Out};
use crate::harness::outcome::Outcome;

/// Writes result text as it comes.
pub struct Text {
    out: Out,
    color: bool,
}

impl Text {
    pub fn new(out: Out, color: bool) -> Self {
        Self { out, color }
    }

    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        let text = match event {
            Event::Started { name, depth: 0, attempt } if *attempt > 0 => {
                format!("=== RUN   {name} (run {})\n", attempt + 1)
            }
            Event::Started { name, .. } => format!("=== RUN   {name}\n"),
            Event::Ended(record) if record.depth == 0 => record.block(),
            Event::Ended(_) => return Ok(()),
        };
        if self.color { (self.out)(decorate(&text).as_bytes()) } else { (self.out)(text.as_bytes()) }
    }
}

/// Text for a terminal: coloured results, and no control characters, which a guest may have put into a log.
fn decorate(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 64);
    for line in text.lines() {
        let found = Outcome::ALL.iter().find_map(|outcome| {
            let (before, after) = line.split_once("--- ")?;
            let form = outcome.form();
            let rest = after.strip_prefix(form.word)?.strip_prefix(": ")?;
            before.trim().is_empty().then_some((before, form.word, rest, form.color))
        });
        match found {
            Some((before, word, rest, color)) => {
                out.push_str(&format!("{before}--- \x1b[{color}m{word}\x1b[0m: "));
                push_visible(&mut out, rest);
            }
            None => push_visible(&mut out, line),
        }
        out.push('\n');
    }
    out
}

fn push_visible(out: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() && c != '\t' { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_get_colours_and_no_foreign_control_characters() {
        let text = "--- FAIL: a (1.00s)\n    --- PASS: a/b (0.10s)\n        x.rs:1: \x1b]0;title\x07\n--- SKIP: c (0.00s)\n";
        assert_eq!(
            decorate(text),
            "--- \x1b[31mFAIL\x1b[0m: a (1.00s)\n    --- \x1b[32mPASS\x1b[0m: a/b (0.10s)\n        \
             x.rs:1: \\u{1b}]0;title\\u{7}\n--- \x1b[34mSKIP\x1b[0m: c (0.00s)\n"
        );
        for outcome in Outcome::ALL {
            let shown = decorate(&format!("--- {outcome}: a (1.00s)\n"));
            let form = outcome.form();
            assert_eq!(shown, format!("--- \x1b[{}m{}\x1b[0m: a (1.00s)\n", form.color, form.word));
        }
    }
}
