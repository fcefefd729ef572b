//! Names of sub-tests: readable on a terminal, unique in the run.

use std::collections::HashMap;
use std::fmt::Write;

/// Makes a name fit for reports and file names: white space becomes `_`, unprintable characters are escaped as
/// Go writes them (`\x01`, `\u200b`, `\U0010ffff`).
pub fn rewrite(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if c.is_whitespace() {
            out.push('_');
        } else if printable(c) {
            out.push(c);
        } else {
            let escaped = match c {
                '\x07' => out.write_str("\\a"),
                '\x08' => out.write_str("\\b"),
                '\0'..='\x7f' => write!(out, "\\x{:02x}", u32::from(c)),
                '\u{80}'..='\u{ffff}' => write!(out, "\\u{:04x}", u32::from(c)),
                _ => write!(out, "\\U{:08x}", u32::from(c)),
            };
            escaped.expect("writing to a string cannot fail");
        }
    }
    out
}

/// Letters, marks, numbers, punctuation and symbols, as the standard library's escaping sees them.
fn printable(c: char) -> bool {
    // A mark is kept only after another character, hence the leading letter.
    matches!(c, '"' | '\'' | '\\') || format!("a{c}").escape_debug().count() == 2
}

/// The names given out in one run.
#[derive(Debug, Default)]
pub struct Names(HashMap<String, u32>);

impl Names {
    /// Gives the names below a test out anew: it is run again.
    pub fn forget_below(&mut self, parent: &str) {
        self.0.retain(|name, _| name.strip_prefix(parent).is_none_or(|rest| !rest.starts_with('/')));
    }

    /// The full name of test `name` below `parent`: repeats get `#01`, `#02` …, an empty name `#00`, `#01` …
    pub fn unique(&mut self, parent: Option<&str>, name: &str) -> String {
        let own = rewrite(name);
        let mut full = match parent {
            Some(parent) => format!("{parent}/{own}"),
            None => own.clone(),
        };
        let mut numbered = !own.is_empty();
        loop {
            let uses = self.0.entry(full.clone()).or_insert(0);
            let number = *uses;
            *uses += 1;
            if numbered && number == 0 {
                return full;
            }
            // The suffixed name may itself be taken: then it gets a suffix too.
            full = format!("{full}#{number:02}");
            numbered = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_printable() {
        for (name, want) in [
            ("plain.Name-1", "plain.Name-1"),
            ("a b\tc\nd\u{a0}e\u{3000}f", "a_b_c_d_e_f"),
            ("\x01\x07\x08\x7f", "\\x01\\a\\b\\x7f"),
            ("\u{85}\u{200b}\u{feff}", "_\\u200b\\ufeff"),
            ("\u{10ffff}", "\\U0010ffff"),
            ("e\u{301}ä☺\u{301}", "e\u{301}ä☺\u{301}"),
            ("\"quo'te\\", "\"quo'te\\"),
            ("a/b", "a/b"),
        ] {
            assert_eq!(rewrite(name), want, "{name:?}");
        }
    }

    #[test]
    fn names_are_unique_in_the_run() {
        let mut names = Names::default();
        for (name, want) in [
            ("a", "p/a"),
            ("a", "p/a#01"),
            ("a", "p/a#02"),
            ("a#01", "p/a#01#01"),
            ("", "p/#00"),
            ("", "p/#01"),
            ("#00", "p/#00#01"),
            ("b#01", "p/b#01"),
            ("b", "p/b"),
            ("b", "p/b#01#01"),
            ("x y", "p/x_y"),
            ("x_y", "p/x_y#01"),
        ] {
            assert_eq!(names.unique(Some("p"), name), want, "{name:?}");
        }
        assert_eq!(names.unique(None, "p"), "p");
        assert_eq!(names.unique(None, "p"), "p#01");
        assert_eq!(names.unique(Some("q"), "a"), "q/a");
    }
}
