//! Looks for signs of trouble in consoles and journals, in one pass and little memory.
//!
//! All starts of all checks are searched for at once; only where one occurs, the check looks at the rest of that
//! line. So a text is read about as fast as memory.

mod checks;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, Read};
use std::sync::OnceLock;

use regex::bytes::{Regex, RegexBuilder};

pub use checks::{CHECKS, Check, Flag, Severity, Source};

/// How much of a line after a start is looked at, and shown at most.
const WINDOW: usize = 4096;
/// How much is read and searched at once.
const CHUNK: usize = 256 * 1024;

/// A check that found something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// [`Check::label`].
    pub label: &'static str,
    /// The telling part of the line (at most some 4000 bytes), if the check shows one.
    pub capture: Option<String>,
    /// What it means for the test.
    pub severity: Severity,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label)?;
        match &self.capture {
            Some(capture) => write!(f, " ({capture})"),
            None => Ok(()),
        }
    }
}

/// The compiled table: one search for all starts, and each check's rest.
struct Table {
    starts: Regex,
    /// Longest start.
    longest: usize,
    /// Each start and the place of its check.
    owners: Vec<(&'static [u8], usize)>,
    rests: Vec<Option<Regex>>,
}

impl Table {
    fn owner(&self, start: &[u8]) -> usize {
        let owner = self.owners.iter().find(|(s, _)| *s == start);
        owner.expect("the search finds nothing but starts").1
    }
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let compile = |pattern: &str| {
            let built = RegexBuilder::new(pattern).unicode(false).build();
            built.expect("the table's patterns are constants that the tests compile")
        };
        let literals = || CHECKS.iter().flat_map(|c| c.starts);
        let all: Vec<String> = literals().map(|s| regex::escape(s)).collect();
        Table {
            starts: compile(&all.join("|")),
            longest: literals().map(|s| s.len()).max().unwrap_or(0),
            owners: CHECKS
                .iter()
                .enumerate()
                .flat_map(|(i, c)| c.starts.iter().map(move |s| (s.as_bytes(), i)))
                .collect(),
            rests: CHECKS.iter().map(|c| c.rest.map(|rest| compile(&format!("^(?:{rest})")))).collect(),
        }
    })
}

/// Searches a text that arrives in pieces; holds at most some 300 KB of it.
#[derive(Debug)]
pub struct Scanner {
    source: Source,
    /// What has not been dealt with: the end of the text so far.
    pending: Vec<u8>,
    /// For each check how many more matches make a finding; `None`: off, or found already.
    missing: Vec<Option<u32>>,
    findings: Vec<Finding>,
}

impl Scanner {
    /// A scanner for one text, without the checks that a flag turns off.
    pub fn new(source: Source, flags: &[Flag]) -> Self {
        let on = |c: &Check| c.severity(source).is_some() && c.off_by.is_none_or(|f| !flags.contains(&f));
        let missing = CHECKS.iter().map(|c| on(c).then_some(c.times)).collect();
        Self { source, pending: Vec::new(), missing, findings: Vec::new() }
    }

    /// Adds the next piece of the text.
    pub fn push(&mut self, data: &[u8]) {
        for piece in data.chunks(CHUNK) {
            self.pending.extend_from_slice(piece);
            self.advance(false);
        }
    }

    /// What was found so far, in the order of the text; for those who watch a text grow.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Ends the text. Findings are in the order of [`CHECKS`].
    pub fn finish(mut self) -> Vec<Finding> {
        self.advance(true);
        let place = |f: &Finding| CHECKS.iter().position(|c| c.label == f.label);
        self.findings.sort_by_key(place);
        self.findings
    }

    fn advance(&mut self, end: bool) {
        let text = std::mem::take(&mut self.pending);
        let done = self.search(&text, end);
        self.pending = text;
        self.pending.drain(..done);
    }

    /// Searches `text` and returns how much of it is done with: the remainder may hold the beginning of a match.
    fn search(&mut self, text: &[u8], end: bool) -> usize {
        let table = table();
        let mut newlines = Newlines::default();
        let mut from = 0;
        while let Some(hit) = table.starts.find_at(text, from) {
            from = hit.start() + 1;
            // Starts are unique, so there is one check; it may be off or done.
            let i = table.owner(hit.as_bytes());
            let Some(missing) = self.missing[i] else { continue };
            let mut capture = None;
            if let Some(rest) = &table.rests[i] {
                let limit = text.len().min(hit.end() + WINDOW);
                let line = match newlines.first(text, hit.end(), limit) {
                    Some(newline) => &text[hit.end()..newline],
                    None if limit == text.len() && !end => return hit.start(),
                    None => &text[hit.end()..limit],
                };
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                let Some(found) = rest.captures(line) else { continue };
                let text = |c: regex::bytes::Match<'_>| {
                    String::from_utf8_lossy(c.as_bytes().trim_ascii_end()).into_owned()
                };
                capture = found.get(1).map(text);
            }
            self.missing[i] = Some(missing - 1).filter(|&m| m > 0);
            let check = &CHECKS[i];
            if let (None, Some(severity)) = (self.missing[i], check.severity(self.source)) {
                self.findings.push(Finding { label: check.label, capture, severity });
            }
        }
        if end { text.len() } else { from.max(text.len().saturating_sub(table.longest - 1)) }
    }
}

/// Finds ends of lines for rising positions, and looks at no byte twice: a giant line full of starts stays cheap.
#[derive(Default)]
struct Newlines {
    /// All before is known to have no newline since the last one found.
    seen: usize,
    found: Option<usize>,
}

impl Newlines {
    /// The first newline in `text[from..to]`.
    fn first(&mut self, text: &[u8], from: usize, to: usize) -> Option<usize> {
        if self.found.is_none_or(|newline| newline < from) {
            let start = self.seen.max(from);
            self.found = (start..to).find(|&i| text[i] == b'\n');
            self.seen = self.found.map_or(to.max(start), |newline| newline + 1);
        }
        self.found.filter(|&newline| newline < to)
    }
}

/// Searches a whole text, as it is read; blocking.
///
/// # Errors
/// Those of the reader.
pub fn scan(mut reader: impl Read, source: Source, flags: &[Flag]) -> io::Result<Vec<Finding>> {
    let mut scanner = Scanner::new(source, flags);
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(scanner.finish()),
            Ok(n) => scanner.push(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Searches a file without blocking the runtime.
///
/// # Errors
/// When the file cannot be opened or read.
pub async fn check_file(
    path: impl Into<std::path::PathBuf>,
    source: Source,
    flags: &[Flag],
) -> io::Result<Vec<Finding>> {
    let (path, flags) = (path.into(), flags.to_vec());
    let task = tokio::task::spawn_blocking(move || scan(std::fs::File::open(path)?, source, &flags));
    task.await.map_err(io::Error::other)?
}
