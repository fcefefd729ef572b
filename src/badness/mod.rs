//! Looks for signs of trouble in consoles and journals, in one pass and little memory.
//!
//! All starts of all checks are searched for at once; only where one occurs, the checks look at the rest of that
//! line. So a text is read about as fast as memory. Escape sequences and carriage returns are taken out before.

mod checks;
mod input;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::OnceLock;

use aho_corasick::{AhoCorasick, Input, MatchKind, Span, packed};
use regex::bytes::{Captures, Regex, RegexBuilder};

use crate::cause::Cause;
use crate::text::Stripper;

pub use checks::{CHECKS, Check, Flag, IGNITION_FAILURE, Severity, Source};
pub use input::{Examined, Unread, examine};
pub use watch::Watch;

/// How much of a line after a start is looked at, and shown at most.
const WINDOW: usize = 4096;
/// How much is read and searched at once.
const CHUNK: usize = 256 * 1024;
/// Lines around a finding that are kept with it, on each side.
const CONTEXT: usize = 2;
/// How much of a line is kept with a finding.
const SHOWN: usize = 400;
/// How far around a finding lines are looked for.
const AROUND: usize = 2 * CONTEXT * SHOWN;
/// So many starts at once are found by vector instructions (the Teddy algorithm of the crate aho-corasick).
const GROUP: usize = 32;

/// A check that found something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// [`Check::label`].
    pub label: &'static str,
    /// The telling part of the line (at most some 4000 bytes), if the check shows one.
    pub capture: Option<String>,
    /// What it means for the test.
    pub severity: Severity,
    /// The machine will not get any further.
    pub fatal: bool,
    /// [`Check::cause`].
    pub cause: Option<Cause>,
    /// Number of its line, from 1.
    pub line: u64,
    /// The line, without escape sequences and shortened; in a text that still grows perhaps only its beginning.
    pub text: String,
    /// Up to two lines before it.
    pub before: Vec<String>,
    /// Up to two lines after it.
    pub after: Vec<String>,
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

/// One way in which a check matches, after its start.
struct Rest {
    /// Place of the check.
    check: usize,
    pattern: &'static str,
    /// Compiled when it is needed first: most never are.
    compiled: OnceLock<(Regex, Option<Regex>)>,
}

impl Rest {
    /// The match in what follows the start.
    fn captures<'t>(&self, line: &'t [u8]) -> Option<Captures<'t>> {
        let compile = |pattern: &str| compile(&format!("^(?:{pattern})"));
        let (rest, unless) =
            self.compiled.get_or_init(|| (compile(self.pattern), CHECKS[self.check].unless.map(compile)));
        rest.captures(line).filter(|_| !unless.as_ref().is_some_and(|unless| unless.is_match(line)))
    }
}

/// A search for some of the starts.
enum Search {
    Vector(packed::Searcher),
    /// Where there are no such instructions.
    Automaton(AhoCorasick),
}

impl Search {
    fn new(starts: &[&str]) -> Self {
        match packed::Config::new().builder().extend(starts).build() {
            Some(search) => Self::Vector(search),
            None => {
                let built = AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(starts);
                Self::Automaton(built.expect("the table's starts are few and short"))
            }
        }
    }

    /// The first start in `text[from..]`.
    fn first(&self, text: &[u8], from: usize) -> Option<Range<usize>> {
        let span = Span::from(from..text.len());
        let found = match self {
            Self::Vector(search) => search.find_in(text, span),
            Self::Automaton(search) => search.find(Input::new(text).span(span)),
        };
        found.map(|hit| hit.range())
    }
}

/// The compiled table: few searches for all starts, and what must follow each.
struct Table {
    searches: Vec<Search>,
    /// Longest start.
    longest: usize,
    /// What belongs to each start.
    rests: HashMap<&'static [u8], Vec<Rest>>,
}

fn compile(pattern: &str) -> Regex {
    let built = RegexBuilder::new(pattern).unicode(false).build();
    built.expect("the table's patterns are constants that the tests compile")
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut rests: HashMap<&[u8], Vec<Rest>> = HashMap::new();
        for (check, c) in CHECKS.iter().enumerate() {
            for &(start, pattern) in c.looks {
                let rest = Rest { check, pattern, compiled: OnceLock::new() };
                rests.entry(start.as_bytes()).or_default().push(rest);
            }
        }
        let mut starts: Vec<&str> = CHECKS.iter().flat_map(|c| c.looks).map(|(start, _)| *start).collect();
        // Neighbours share prefixes, which keeps each search's alphabet small.
        starts.sort_unstable();
        starts.dedup();
        Table {
            searches: starts.chunks(GROUP).map(Search::new).collect(),
            longest: starts.iter().map(|s| s.len()).max().unwrap_or(0),
            rests,
        }
    })
}

/// Searches a text that arrives in pieces; holds at most some 300 KB of it.
#[derive(Debug)]
pub struct Scanner {
    source: Source,
    stripper: Stripper,
    /// The end of the text so far: some that is done with, as context, and what is not.
    text: Vec<u8>,
    /// Where in `text` the search goes on.
    from: usize,
    /// Ends of lines in front of `text`.
    newlines: u64,
    /// Nothing but white space so far.
    blank: bool,
    /// For each check how many more matches make a finding; `None`: off, or found already.
    missing: Vec<Option<u32>>,
    findings: Vec<Finding>,
    /// Findings whose lines are not complete: their place, and where in `text` the match starts.
    open: Vec<(usize, usize)>,
}

impl Scanner {
    /// A scanner for one text, without the checks that a flag turns off.
    pub fn new(source: Source, flags: &[Flag]) -> Self {
        let on = |c: &Check| c.severity(source).is_some() && c.off_by.is_none_or(|f| !flags.contains(&f));
        let missing = CHECKS.iter().map(|c| on(c).then_some(c.times)).collect();
        Self {
            source,
            stripper: Stripper::default(),
            text: Vec::new(),
            from: 0,
            newlines: 0,
            blank: true,
            missing,
            findings: Vec::new(),
            open: Vec::new(),
        }
    }

    /// Adds the next piece of the text.
    pub fn push(&mut self, data: &[u8]) {
        for piece in data.chunks(CHUNK) {
            let old = self.text.len();
            self.stripper.strip(piece, &mut self.text);
            self.blank = self.blank && self.text[old..].trim_ascii().is_empty();
            self.advance(false);
        }
    }

    /// What was found so far, in the order of the text; for those who watch a text grow.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether nothing that can be seen has come yet.
    pub fn is_blank(&self) -> bool {
        self.blank
    }

    /// How many lines have ended so far.
    pub fn lines(&self) -> u64 {
        self.newlines + newlines(&self.text)
    }

    /// Ends the text. Findings are in the order of [`CHECKS`].
    pub fn finish(mut self) -> Vec<Finding> {
        self.advance(true);
        let place = |f: &Finding| CHECKS.iter().position(|c| c.label == f.label);
        self.findings.sort_by_key(place);
        self.findings
    }

    fn advance(&mut self, end: bool) {
        let text = std::mem::take(&mut self.text);
        self.from = self.search(&text, end);
        self.open.retain(|&(finding, at)| {
            let complete = fill(&mut self.findings[finding], &text, at);
            !complete && !end
        });
        let needed = self.open.iter().map(|(_, at)| *at).fold(self.from, usize::min);
        let keep = needed.saturating_sub(AROUND);
        self.newlines += newlines(&text[..keep]);
        self.from -= keep;
        self.open.iter_mut().for_each(|(_, at)| *at -= keep);
        self.text = text;
        self.text.drain(..keep);
    }

    /// Searches `text` and returns how much of it is done with: the remainder may hold the beginning of a match.
    fn search(&mut self, text: &[u8], end: bool) -> usize {
        let table = table();
        let mut ends = Newlines::default();
        let mut from = self.from;
        let mut next: Vec<Option<Range<usize>>> =
            table.searches.iter().map(|s| s.first(text, from)).collect();
        // The searches' matches, merged in the order of the text.
        while let Some((group, hit)) = next
            .iter()
            .enumerate()
            .filter_map(|(i, hit)| Some((i, hit.clone()?)))
            .min_by_key(|(_, hit)| hit.start)
        {
            from = hit.start + 1;
            next[group] = table.searches[group].first(text, from);
            let rests = table.rests.get(&text[hit.clone()]).map(Vec::as_slice).unwrap_or_default();
            if rests.iter().all(|rest| self.missing[rest.check].is_none()) {
                continue;
            }
            let line = if rests.iter().all(|rest| rest.pattern.is_empty()) {
                &text[hit.end..hit.end]
            } else {
                let limit = text.len().min(hit.end + WINDOW);
                match ends.first(text, hit.end, limit) {
                    Some(newline) => &text[hit.end..newline],
                    None if limit == text.len() && !end => return hit.start,
                    None => &text[hit.end..limit],
                }
            };
            for rest in rests {
                let Some(missing) = self.missing[rest.check] else { continue };
                let Some(found) = rest.captures(line) else { continue };
                self.missing[rest.check] = Some(missing - 1).filter(|&m| m > 0);
                let check = &CHECKS[rest.check];
                if let (None, Some(severity)) = (self.missing[rest.check], check.severity(self.source)) {
                    let shown = |c: regex::bytes::Match<'_>| {
                        String::from_utf8_lossy(c.as_bytes().trim_ascii_end()).into_owned()
                    };
                    self.open.push((self.findings.len(), hit.start));
                    self.findings.push(Finding {
                        label: check.label,
                        capture: found.get(1).map(shown),
                        severity,
                        fatal: check.fatal && self.source == Source::Console,
                        cause: check.cause,
                        line: self.newlines + newlines(&text[..hit.start]) + 1,
                        text: String::new(),
                        before: before(text, hit.start),
                        after: Vec::new(),
                    });
                }
            }
        }
        if end { text.len() } else { from.max(text.len().saturating_sub(table.longest - 1)) }
    }
}

/// How many lines end in `text`.
fn newlines(text: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', text).count() as u64
}

/// Where the line of `at` begins, as far as it is looked at.
fn line_start(text: &[u8], at: usize) -> usize {
    let earliest = at.saturating_sub(AROUND);
    memchr::memrchr(b'\n', &text[earliest..at]).map_or(earliest, |newline| earliest + newline + 1)
}

/// The lines before that of `at`.
fn before(text: &[u8], at: usize) -> Vec<String> {
    let end = line_start(text, at);
    let above = &text[at.saturating_sub(AROUND)..end];
    let Some(above) = above.strip_suffix(b"\n") else { return Vec::new() };
    let mut lines: Vec<String> = above.rsplit(|b| *b == b'\n').take(CONTEXT).map(show).collect();
    lines.reverse();
    lines
}

/// Puts the line of the match that starts at `at` and those after it into a finding, as far as they are there; returns
/// whether all of them are.
fn fill(finding: &mut Finding, text: &[u8], at: usize) -> bool {
    // In a giant line what leads to the match.
    let start = line_start(text, at).max(at.saturating_sub(SHOWN / 4));
    let ahead = &text[start..text.len().min(at + AROUND)];
    let mut lines = ahead.split(|b| *b == b'\n');
    finding.text = lines.next().map(show).unwrap_or_default();
    let mut after: Vec<&[u8]> = lines.collect();
    // The last one has no end yet.
    let complete = after.len() > CONTEXT || at + AROUND <= text.len();
    if after.last().is_some_and(|line| line.is_empty()) {
        after.pop();
    }
    finding.after = after.into_iter().take(CONTEXT).map(show).collect();
    complete
}

/// A line as it is kept with a finding.
fn show(line: &[u8]) -> String {
    let line = line.trim_ascii_end();
    if line.len() <= SHOWN {
        return String::from_utf8_lossy(line).into_owned();
    }
    let cut = (0..=SHOWN).rev().find(|&i| line[i] & 0xc0 != 0x80).unwrap_or(SHOWN);
    format!("{}...", String::from_utf8_lossy(&line[..cut]))
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
            self.found = text.get(start..to).and_then(|t| memchr::memchr(b'\n', t)).map(|i| start + i);
            self.seen = self.found.map_or(to.max(start), |newline| newline + 1);
        }
        self.found.filter(|&newline| newline < to)
    }
}

/// Searches a whole text, as it is read; blocking.
///
/// # Errors
/// Those of the reader.
pub fn scan(mut reader: impl io::Read, source: Source, flags: &[Flag]) -> io::Result<Vec<Finding>> {
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
