//! `kola check-console`: looks through console output for signs of trouble.

use std::io;
use std::path::{Path, PathBuf};

use mantle::badness::{self, CHECKS, Check, Examined, Flag, Severity, Source, Unread};
use mantle::error::{FAILURE, Result, SUCCESS};
use mantle::input::Stream;
use mantle::output;
use mantle::text::tabbed;
use serde::Serialize;
use serde_json::json;

use super::list::print_tabbed_json;

/// What the command does, at length.
pub const ABOUT: &str = "Look through console output for signs of trouble, in files or on stdin, and print what is \
    found. Logs that are packed by gzip, xz, zstd or bzip2, or written in UTF-16, are read all the same.\n\n\
    The exit status is 0 only if everything was looked through and nothing worse than a warning found. It is 1 for a \
    finding that would fail a test, and also for what cannot be vouched for: files that are empty, cannot be read, \
    cannot be unpacked to their end, or are not text.";

/// The flags of `kola check-console`.
#[derive(clap::Args, Debug, Clone)]
#[group(skip)]
pub struct Options {
    /// List what is looked for
    #[arg(long, conflicts_with = "file")]
    list: bool,
    /// Print JSON: for files one object a line, with line numbers and context
    #[arg(long)]
    json: bool,
    /// Say when reading stdin
    #[arg(id = "check-verbose", long = "verbose", short = 'v')]
    verbose: bool,
    /// Console output; - or none: stdin
    #[arg(value_name = "FILE")]
    file: Vec<PathBuf>,
}

/// Scans files (`-` or none: stdin), one pass each, and prints what is found; or prints the table of checks. Returns
/// the exit status.
///
/// # Errors
/// When stdout fails.
pub fn run(options: &Options) -> Result<u8> {
    if options.list {
        list(options.json)?;
        return Ok(SUCCESS);
    }
    let stdin = [PathBuf::from("-")];
    let files = if options.file.is_empty() { &stdin } else { &options.file[..] };
    let mut status = SUCCESS;
    for file in files {
        let name = if file == Path::new("-") { "stdin".into() } else { file.to_string_lossy() };
        let name = name.as_ref();
        let clean = match open(file, options) {
            Ok(input) => {
                let examined = badness::examine(input, Source::Console, &[]);
                if options.json { print_json(name, &examined)? } else { print(name, &examined)? }
            }
            Err(e) => {
                mantle::error!("cli", "cannot read {name}: {e}");
                if options.json {
                    unread(name, "unreadable", &e.to_string())?;
                }
                false
            }
        };
        if !clean {
            status = FAILURE;
        }
    }
    Ok(status)
}

fn open(file: &Path, options: &Options) -> io::Result<Stream> {
    if file != Path::new("-") {
        return Stream::open(file);
    }
    if options.verbose && !options.json {
        output::line("Reading input from stdin...")?;
    }
    Stream::stdin()
}

/// Prints findings as lines; returns whether the input is clean.
fn print(name: &str, examined: &Examined) -> io::Result<bool> {
    for finding in &examined.findings {
        let warning = if finding.severity == Severity::Warn { "warning: " } else { "" };
        output::line(format_args!("{name}: {warning}{finding}"))?;
    }
    Ok(tell_unread(name, examined) && fit(examined))
}

/// Says what could not be looked at.
fn tell_unread(name: &str, examined: &Examined) -> bool {
    match &examined.unread {
        Some(Unread::Read { bytes: 0, source }) => mantle::error!("cli", "cannot read {name}: {source}"),
        Some(reason) => mantle::warning!("cli", "{name} was not checked: {reason}"),
        None => {}
    }
    examined.unread.is_none()
}

/// Whether nothing was found that fails a test.
fn fit(examined: &Examined) -> bool {
    examined.findings.iter().all(|f| f.severity != Severity::Fail)
}

/// Prints an object for each finding, then one that says how the input was read, or why it was not.
fn print_json(name: &str, examined: &Examined) -> io::Result<bool> {
    for f in &examined.findings {
        output::line(json!({
            "type": "finding", "file": name, "line": f.line, "check": f.label, "severity": f.severity,
            "capture": f.capture, "text": f.text, "before": f.before, "after": f.after,
        }))?;
    }
    match &examined.unread {
        Some(reason) => unread(name, reason.kind(), &reason.to_string())?,
        None => output::line(json!({
            "type": "examined", "file": name, "bytes": examined.bytes, "lines": examined.lines,
            "compression": examined.compression.map(|c| c.name()), "encoding": examined.encoding.name(),
        }))?,
    }
    Ok(tell_unread(name, examined) && fit(examined))
}

fn unread(name: &str, reason: &str, text: &str) -> io::Result<()> {
    output::line(json!({ "type": "unread", "file": name, "reason": reason, "text": text }))
}

/// One row of the table of checks.
#[derive(Serialize)]
struct Row {
    check: &'static str,
    console: Option<Severity>,
    journal: Option<Severity>,
    fatal: bool,
    times: u32,
    off_by: Option<Flag>,
    since: &'static str,
    patterns: Vec<String>,
}

impl Row {
    fn of(check: &Check) -> Self {
        Self {
            check: check.label,
            console: check.console,
            journal: check.journal,
            fatal: check.fatal,
            times: check.times,
            off_by: check.off_by,
            since: check.since,
            patterns: check.patterns().collect(),
        }
    }

    fn cells(self) -> [String; 5] {
        let severity = |s: Option<Severity>, fatal: bool| match (s, fatal) {
            (None, _) => "-",
            (Some(Severity::Warn), _) => "warn",
            (Some(Severity::Fail), false) => "fail",
            (Some(Severity::Fail), true) => "fail at once",
        };
        [
            self.check.to_owned(),
            severity(self.console, self.fatal).to_owned(),
            severity(self.journal, false).to_owned(),
            self.since.to_owned(),
            self.patterns.join(" | "),
        ]
    }
}

fn list(json: bool) -> Result<()> {
    let rows = CHECKS.iter().map(Row::of);
    if json {
        return print_tabbed_json(&rows.collect::<Vec<_>>());
    }
    let rows: Vec<_> = rows.map(Row::cells).collect();
    Ok(output::write(tabbed(["Check", "Console", "Journal", "Since", "Patterns"], &rows).as_bytes())?)
}
