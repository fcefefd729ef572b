//! Events read back: what is known of each test, and where its output is, which stays in the file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::cause::Cause;
use crate::harness::NOT_STARTED;
use crate::harness::outcome::{Fault, Outcome};
use crate::harness::report::Record;

/// Most characters that are kept of a first line of what went wrong.
const HEADLINE: usize = 400;
/// Most notes about one file.
const NOTES: usize = 20;

/// A line of events, as far as it matters here: see `events.schema.json`.
#[derive(Deserialize)]
struct Line {
    event: Kind,
    time: Option<DateTime<Utc>>,
    at: Option<f64>,
    mantle: Option<String>,
    platform: Option<String>,
    version: Option<String>,
    planned: Option<usize>,
    attempt: Option<String>,
    run: Option<String>,
    system: Option<String>,
    by: Option<String>,
    part: Option<usize>,
    of: Option<usize>,
    selected: Option<usize>,
    digest: Option<String>,
    name: Option<Box<str>>,
    depth: Option<usize>,
    again: Option<u32>,
    outcome: Option<Outcome>,
    seconds: Option<f64>,
    kind: Option<Box<str>>,
    reason: Option<String>,
    result: Option<String>,
    left: Option<Vec<String>>,
    interrupted: Option<bool>,
}

#[derive(Deserialize, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    RunStarted,
    TestStarted,
    TestEnded,
    RunEnded,
    /// Of a later version.
    #[serde(other)]
    Other,
}

/// What a run says of itself at its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    pub mantle: String,
    pub platform: String,
    pub version: String,
    pub planned: usize,
    pub attempt: String,
    pub run: String,
    pub system: String,
    pub by: String,
    /// 1 of 1 if there is only one.
    pub part: usize,
    pub of: usize,
    pub selected: usize,
    pub digest: String,
    pub began: DateTime<Utc>,
}

impl Start {
    /// `part 2 of 3`, or `the run` if it is all.
    pub fn part(&self) -> String {
        if self.of == 1 { "the run".to_owned() } else { format!("part {} of {}", self.part, self.of) }
    }
}

/// Where a line is in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub offset: u64,
    pub length: usize,
}

/// A result without its output.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: Box<str>,
    pub depth: usize,
    pub attempt: u32,
    pub outcome: Outcome,
    /// From the start of its process's run, in seconds.
    pub start: Option<f64>,
    pub seconds: f64,
    pub headline: Box<str>,
    pub fault: Fault,
    pub cause: Option<Cause>,
    pub place: Place,
    /// The earlier runs of the test, first to last.
    pub earlier: Vec<Place>,
    /// It was skipped because the run was interrupted.
    pub not_begun: bool,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pub passed: bool,
    pub left: Vec<String>,
    pub interrupted: bool,
}

/// One process's run, from its events.
#[derive(Clone, Debug)]
pub struct Segment {
    pub start: Start,
    /// In the order in which they ended.
    pub entries: Vec<Entry>,
    /// Tests that had begun and have no result.
    pub running: Vec<Box<str>>,
    pub end: Option<End>,
    /// Its lines.
    pub range: std::ops::Range<u64>,
    /// How long it took, or until its last line, in seconds.
    pub lasted: f64,
    /// The time of its last line.
    pub last: DateTime<Utc>,
    /// By how much its clock was set meanwhile, in seconds.
    pub drift: f64,
}

impl Segment {
    /// Whether nothing is missing from it.
    pub fn is_complete(&self) -> bool {
        self.end.as_ref().is_some_and(|end| !end.interrupted)
    }

    /// How many top-level tests have a result.
    pub fn results(&self) -> usize {
        self.entries
            .iter()
            .filter(|e| e.depth == 0 && !e.not_begun && e.outcome != Outcome::Interrupted)
            .count()
    }
}

/// What is in a file of events, and what is wrong with it. It is read up to the first line that is not whole.
///
/// # Errors
/// What the file system says.
pub fn read(path: &Path) -> io::Result<(Vec<Segment>, Vec<String>)> {
    let mut file = BufReader::with_capacity(1 << 16, File::open(path)?);
    let (mut segments, mut notes) = (Vec::<Segment>::new(), Vec::new());
    let mut running = HashMap::<Box<str>, (usize, Option<f64>)>::new();
    let (mut offset, mut number, mut text) = (0, 0_usize, Vec::new());
    loop {
        text.clear();
        let length = file.read_until(b'\n', &mut text)?;
        if length == 0 {
            break;
        }
        number += 1;
        let place = Place { offset, length };
        let line = text.strip_suffix(b"\n").and_then(|line| serde_json::from_slice::<Line>(line).ok());
        let known = line.is_some_and(|line| take(line, place, &mut segments, &mut running));
        if !known {
            let how = if text.ends_with(b"\n") { "cannot be read" } else { "breaks off" };
            notes.push(format!("line {number} {how}: it was killed meanwhile, or the file is damaged; what follows is left out"));
            break;
        }
        offset += length as u64;
        // One very long line does not stay for good.
        text.shrink_to(1 << 20);
    }
    close(&mut segments, &mut running);
    notes.truncate(NOTES);
    Ok((segments, notes))
}

/// The tests that had begun, when nothing more is said of a run.
fn close(segments: &mut [Segment], running: &mut HashMap<Box<str>, (usize, Option<f64>)>) {
    let mut begun: Vec<_> =
        running.drain().filter(|(_, (depth, _))| *depth == 0).map(|(name, _)| name).collect();
    begun.sort();
    if let Some(segment) = segments.last_mut() {
        segment.running = begun;
    }
}

/// Takes a line in; false if it makes no sense.
fn take(
    line: Line,
    place: Place,
    segments: &mut Vec<Segment>,
    running: &mut HashMap<Box<str>, (usize, Option<f64>)>,
) -> bool {
    let Some(time) = line.time else { return false };
    if line.event == Kind::RunStarted {
        close(segments, running);
        let Some(start) = start(line, time) else { return false };
        segments.push(Segment {
            start,
            entries: Vec::new(),
            running: Vec::new(),
            end: None,
            range: place.offset..place.offset + place.length as u64,
            lasted: 0.0,
            last: time,
            drift: 0.0,
        });
        return true;
    }
    let Some(segment) = segments.last_mut() else { return false };
    segment.range.end = place.offset + place.length as u64;
    segment.last = time;
    if let Some(at) = line.at.filter(|at| at.is_finite() && *at >= 0.0) {
        segment.lasted = segment.lasted.max(at);
        let walls = (time - segment.start.began).num_milliseconds() as f64 / 1000.0;
        if (walls - at).abs() > segment.drift.abs() {
            segment.drift = walls - at;
        }
    }
    match (line.event, line.name) {
        (Kind::TestStarted, Some(name)) => {
            running.insert(name, (line.depth.unwrap_or_default(), line.at));
            true
        }
        (Kind::TestEnded, Some(name)) => {
            let (Some(outcome), Some(seconds)) = (line.outcome, line.seconds) else { return false };
            if !(seconds.is_finite() && seconds >= 0.0) {
                return false;
            }
            let reason = line.reason.unwrap_or_default();
            let entry = Entry {
                depth: line.depth.unwrap_or_default(),
                attempt: line.again.unwrap_or_default(),
                outcome,
                start: running.remove(&name).and_then(|(_, at)| at),
                seconds,
                headline: headline(&reason),
                fault: line.kind.as_deref().and_then(Fault::named).unwrap_or_default(),
                cause: line.kind.as_deref().and_then(cause),
                place,
                earlier: Vec::new(),
                not_begun: outcome == Outcome::Skip && reason == NOT_STARTED,
                name,
            };
            add(&mut segment.entries, entry);
            true
        }
        (Kind::RunEnded, _) => {
            let passed = matches!(line.result.as_deref(), Some("PASS" | ""));
            let interrupted = line.interrupted.unwrap_or_default();
            segment.end = Some(End { passed, left: line.left.unwrap_or_default(), interrupted });
            true
        }
        (Kind::Other, _) => true,
        _ => false,
    }
}

fn start(line: Line, began: DateTime<Utc>) -> Option<Start> {
    let (part, of) = (line.part.unwrap_or(1), line.of.unwrap_or(1));
    if !(1..=of).contains(&part) {
        return None;
    }
    Some(Start {
        mantle: line.mantle?,
        platform: line.platform?,
        version: line.version?,
        planned: line.planned?,
        // Events of before there were attempts: the time tells them apart well enough.
        attempt: line.attempt.unwrap_or_else(|| began.format("%Y%m%dT%H%M%S%.3f").to_string()),
        run: line.run.unwrap_or_default(),
        system: line.system.unwrap_or_default(),
        by: line.by.unwrap_or_default(),
        part,
        of,
        selected: line.selected.unwrap_or_default(),
        digest: line.digest.unwrap_or_default(),
        began,
    })
}

/// Adds a result. That of a test that was run again takes the place of the one before, as it does in a run's reports.
fn add(entries: &mut Vec<Entry>, mut entry: Entry) {
    if entry.attempt > 0 {
        if let Some(at) = entries.iter().position(|e| e.name == entry.name) {
            let before = entries.remove(at);
            entry.earlier = before.earlier;
            entry.earlier.push(before.place);
        }
        if entry.depth == 0 && entry.outcome.is_good() {
            let below = format!("{}/", entry.name);
            entries.retain(|e| e.outcome.is_good() || !e.name.starts_with(&below));
        }
    }
    entries.push(entry);
}

fn headline(reason: &str) -> Box<str> {
    let reason = crate::text::strip_escapes(reason);
    let line = reason.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.chars().take(HEADLINE).collect()
}

/// The cause of this name.
fn cause(word: &str) -> Option<Cause> {
    Cause::ALL.into_iter().find(|cause| cause.as_str() == word)
}

/// What only a full line has.
#[derive(Deserialize)]
struct Full {
    name: String,
    #[serde(default)]
    depth: usize,
    #[serde(default)]
    again: u32,
    outcome: Outcome,
    seconds: f64,
    kind: Option<String>,
    reason: Option<String>,
    output: String,
}

/// The result at a place of a file, with its output.
///
/// # Errors
/// What the file system says; also when the file is no longer what it was.
pub fn record(file: &File, place: Place, earlier: &[Place]) -> io::Result<Record> {
    let mut text = vec![0; place.length];
    file.read_exact_at(&mut text, place.offset)?;
    let full: Full = serde_json::from_slice(&text)?;
    let mut before = Vec::<Arc<Record>>::new();
    for (n, place) in earlier.iter().enumerate() {
        // Each of them had those before it.
        let mut run = record(file, *place, &[])?;
        run.earlier = before[..n].to_vec();
        before.push(Arc::new(run));
    }
    Ok(Record {
        name: full.name,
        depth: full.depth,
        outcome: full.outcome,
        duration: Duration::try_from_secs_f64(full.seconds).unwrap_or_default(),
        output: full.output,
        reason: full.reason,
        fault: full.kind.as_deref().and_then(Fault::named).unwrap_or_default(),
        cause: full.kind.as_deref().and_then(cause),
        attempt: full.again,
        earlier: before,
    })
}
