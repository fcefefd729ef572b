//! The results of processes that ran parts of one run, put together as those of one process.
//!
//! All is made of the events that the processes have left: nothing but they must have arrived. Of several processes
//! that ran the same part (one was killed and its part begun anew) the one that came to its end counts, else the one
//! that came furthest. What is missing then, and what was run twice, is a failure. The clocks of the processes do not
//! matter: results are ordered by part and then as they came, and times are counted from the start of each.
//!
//! Outputs stay in the files of events and are read again where they are needed, one at a time: the memory that this
//! takes grows with the number of tests, not with what they say.

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::outcome::Outcome;
use super::report;
use super::share::Selection;
use read::Segment;
pub use report::html::Files;
pub use write::prepare;

/// Differences of clocks that are told, in seconds.
const SKEW: i64 = 60;
/// Most by which a clock may be set while a run goes on before it is told, in seconds.
const DRIFT: f64 = 5.0;

/// Where the results of one process are, or those of a merge.
#[derive(Clone, Debug)]
pub struct Source {
    /// What it is called in messages.
    pub name: String,
    /// The folder with its `reports`.
    pub folder: PathBuf,
    /// Where the folders of its tests are.
    pub files: Files,
    /// When it was begun, by the clock of where it is stored.
    pub stored: Option<DateTime<Utc>>,
}

/// Why results cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {action} {}", .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// There are no results.
    #[error("no run has left results in {}", .0.join(", "))]
    Nothing(Vec<String>),
    /// They are of different runs.
    #[error("{first} and {second} are not parts of one run: {what} differs, {first_is:?} and {second_is:?}")]
    Mixed {
        /// What differs.
        what: &'static str,
        /// The source of one.
        first: String,
        /// What it says.
        first_is: String,
        /// The source of the other.
        second: String,
        /// What it says.
        second_is: String,
    },
    /// The output folder has something else in it.
    #[error("{} is not empty, and what is in it is not of a merge", .0.display())]
    Occupied(PathBuf),
    /// The output folder could not be made.
    #[error(transparent)]
    OutputDir(#[from] super::output_dir::Error),
    /// A report could not be written.
    #[error(transparent)]
    Report(#[from] report::Error),
}

/// What came of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// It came to its end.
    Complete,
    /// It was ended before its time, and said so.
    Interrupted,
    /// It was killed, or goes on.
    Incomplete,
}

/// A result, or that there is none.
#[derive(Clone, Debug)]
struct Test {
    name: Box<str>,
    depth: usize,
    outcome: Outcome,
    headline: Box<str>,
    seconds: f64,
    start: Option<f64>,
    part: Option<usize>,
    from: Origin,
}

/// Where the rest of a result is.
#[derive(Clone, Debug)]
enum Origin {
    /// In an entry of a segment.
    Entry { segment: usize, entry: usize },
    /// The same, but the test ran elsewhere, too.
    Twice { segment: usize, entry: usize, why: String },
    /// It ran nowhere.
    Nowhere { why: String },
}

/// A run's results from all its parts.
#[derive(Debug)]
pub struct Merge {
    sources: Vec<Source>,
    /// With the index of their sources.
    segments: Vec<(usize, Segment)>,
    /// For each part the segment that counts, and others that came to their end, too.
    chosen: BTreeMap<usize, Vec<usize>>,
    missing: Vec<usize>,
    tests: Vec<Test>,
    selection: Option<Selection>,
    problems: Vec<String>,
    notes: Vec<String>,
    left: Vec<String>,
}

/// Reads what the sources have and decides what counts. Their order is of no importance but for messages.
///
/// # Errors
/// Any [`Error`] but those about output.
pub fn read(mut sources: Vec<Source>) -> Result<Merge, Error> {
    let mut notes = Vec::new();
    let mut segments = Vec::new();
    let names: Vec<String> = sources.iter().map(|s| s.name.clone()).collect();
    for at in 0..sources.len() {
        let path = sources[at].folder.join(report::REPORTS).join(report::EVENTS);
        let (found, damage) =
            read::read(&path).map_err(|source| Error::File { action: "read", path: path.clone(), source })?;
        let name = sources[at].name.clone();
        notes.extend(damage.into_iter().map(|note| format!("{name}: {note}")));
        let former = write::former(&sources[at].folder);
        for segment in found {
            // What a merge has came from elsewhere.
            let source = match former.get(&segment.start.attempt) {
                Some(former) => {
                    let folder = sources[at].folder.clone();
                    sources.push(Source { folder, ..former.clone() });
                    sources.len() - 1
                }
                None => at,
            };
            segments.push((source, segment));
        }
    }
    if segments.is_empty() {
        return Err(Error::Nothing(names));
    }
    check_same(&sources, &segments)?;
    let selection = selection(&sources, &segments);
    let mut merge = Merge {
        sources,
        segments,
        chosen: BTreeMap::new(),
        missing: Vec::new(),
        tests: Vec::new(),
        selection,
        problems: Vec::new(),
        notes,
        left: Vec::new(),
    };
    merge.choose();
    merge.collect();
    merge.look_at_clocks();
    Ok(merge)
}

/// Refuses parts of different runs.
fn check_same(sources: &[Source], segments: &[(usize, Segment)]) -> Result<(), Error> {
    let (first_at, first) = &segments[0];
    let facts = |segment: &Segment| {
        let start = &segment.start;
        let parts =
            if start.by.is_empty() { "one".to_owned() } else { format!("{} into {}", start.by, start.of) };
        let tests = format!("{} with the digest {:.12}", start.selected, start.digest);
        [
            ("the run", start.run.clone()),
            ("the platform", start.platform.clone()),
            ("the version of what is tested", start.version.clone()),
            ("what is tested", start.system.clone()),
            ("the number of parts", parts),
            ("the list of tests", tests),
        ]
    };
    let wanted = facts(first);
    for (at, segment) in &segments[1..] {
        for ((what, is), (_, wanted)) in facts(segment).into_iter().zip(&wanted) {
            if is != *wanted {
                return Err(Error::Mixed {
                    what,
                    first: sources[*first_at].name.clone(),
                    first_is: wanted.clone(),
                    second: sources[*at].name.clone(),
                    second_is: is,
                });
            }
        }
    }
    Ok(())
}

/// The names of all tests, from a source that has them as they were.
fn selection(sources: &[Source], segments: &[(usize, Segment)]) -> Option<Selection> {
    segments.iter().find_map(|(at, segment)| {
        let path = sources[*at].folder.join(report::REPORTS).join(report::SELECTION);
        let names: Vec<String> = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        Some(Selection::of(names)).filter(|s| s.digest == segment.start.digest)
    })
}

impl Segment {
    fn state(&self) -> State {
        match &self.end {
            None => State::Incomplete,
            Some(end) if end.interrupted => State::Interrupted,
            Some(_) => State::Complete,
        }
    }
}

impl Merge {
    /// How a segment is called: its part, attempt and source.
    fn called(&self, segment: usize) -> String {
        let (source, segment) = &self.segments[segment];
        format!("{} ({})", segment.start.part(), self.sources[*source].name)
    }

    /// Decides for each part which process's results count.
    fn choose(&mut self) {
        let mut parts = BTreeMap::<usize, BTreeMap<&str, usize>>::new();
        let progress = |at: usize| {
            let segment = &self.segments[at].1;
            (segment.is_complete(), segment.results(), segment.range.end - segment.range.start)
        };
        for (at, (_, segment)) in self.segments.iter().enumerate() {
            let attempts = parts.entry(segment.start.part).or_default();
            // The same process from two sources: the one that heard more of it.
            let known = attempts.entry(&segment.start.attempt).or_insert(at);
            if progress(at) > progress(*known) {
                *known = at;
            }
        }
        let of = self.segments[0].1.start.of;
        let mut chosen = BTreeMap::new();
        for (part, attempts) in parts {
            let key = |at: &usize| {
                let start = &self.segments[*at].1.start;
                (start.began, start.attempt.clone())
            };
            let mut complete: Vec<usize> =
                attempts.values().copied().filter(|at| self.segments[*at].1.is_complete()).collect();
            complete.sort_by_key(key);
            if complete.is_empty() {
                complete.extend(attempts.values().copied().max_by_key(|at| (progress(*at), key(at))));
            }
            chosen.insert(part, complete);
        }
        self.missing = (1..=of).filter(|part| !chosen.contains_key(part)).collect();
        self.chosen = chosen;
    }

    /// Makes the list of results, and finds out what is wrong with it.
    fn collect(&mut self) {
        let of = self.segments[0].1.start.of;
        let (mut problems, mut left) = (Vec::new(), Vec::new());
        for part in &self.missing {
            problems.push(match of {
                1 => "the run has left no results".to_owned(),
                _ => format!(
                    "part {part} of {of} has left no results: it never began, or they are not among these"
                ),
            });
        }
        let mut places = HashMap::<Box<str>, Vec<(usize, usize)>>::new();
        for (primary, at) in
            self.chosen.values().flat_map(|c| c.iter().enumerate().map(|(n, at)| (n == 0, *at)))
        {
            let segment = &self.segments[at].1;
            for (n, entry) in segment.entries.iter().enumerate().filter(|(_, e)| e.depth == 0 && !e.not_begun)
            {
                places.entry(entry.name.clone()).or_default().push((at, n));
            }
            let called = self.called(at);
            match &segment.end {
                None => problems.push(format!("{called} was killed, or goes on still")),
                Some(end) if end.interrupted => problems.push(format!("{called} was interrupted")),
                Some(_) if !primary => problems.push(format!("{called} has run its tests a second time")),
                Some(end) => {
                    let bad = segment.entries.iter().any(|e| e.depth == 0 && !e.outcome.is_good());
                    if !end.passed && !bad && end.left.is_empty() {
                        problems
                            .push(format!("{called} failed, but none of its tests did: see what it said"));
                    }
                }
            }
            if let Some(end) = segment.end.as_ref().filter(|_| primary) {
                left.extend(end.left.iter().map(|line| format!("{line}, left by {called}")));
            }
        }
        let mut tests = Vec::new();
        for at in self.chosen.values().map(|chosen| chosen[0]) {
            let segment = &self.segments[at].1;
            let part = (of > 1).then_some(segment.start.part);
            for (n, entry) in segment.entries.iter().enumerate() {
                let top = entry.name.split('/').next().unwrap_or_default();
                let top = if entry.depth == 0 { &*entry.name } else { top };
                let ran = places.get(top).map(Vec::as_slice).unwrap_or_default();
                // It has no result, or that of another part is there already.
                if ran.first().is_none_or(|(first, _)| *first != at) {
                    continue;
                }
                let test = Test {
                    name: entry.name.clone(),
                    depth: entry.depth,
                    outcome: entry.outcome,
                    headline: entry.headline.clone(),
                    seconds: entry.seconds,
                    start: entry.start,
                    part,
                    from: Origin::Entry { segment: at, entry: n },
                };
                tests.push(match ran {
                    [_, _, ..] if entry.depth == 0 => self.twice(test, ran),
                    _ => test,
                });
            }
        }
        if let Some(selection) = &self.selection {
            let wanted: BTreeSet<&str> = selection.names.iter().map(String::as_str).collect();
            let strange: Vec<&str> =
                places.keys().map(|name| &**name).filter(|name| !wanted.contains(name)).collect();
            if !strange.is_empty() {
                problems.push(format!("not in the run's list of tests: {}", some(strange)));
            }
            let mut nowhere: Vec<&str> =
                wanted.iter().copied().filter(|name| !places.contains_key(*name)).collect();
            nowhere.sort_by(|a, b| crate::natural::compare(a, b));
            let why = self.whys();
            tests.extend(nowhere.into_iter().map(|name| {
                let (part, why) = match why.get(name) {
                    Some((part, why)) => (Some(*part).filter(|_| of > 1), why.clone()),
                    None => (None, self.why_nowhere()),
                };
                Test {
                    name: name.into(),
                    depth: 0,
                    outcome: Outcome::Infra,
                    headline: (&*why).into(),
                    seconds: 0.0,
                    start: None,
                    part,
                    from: Origin::Nowhere { why },
                }
            }));
        } else {
            problems
                .push("the run's list of tests is lost: tests that ran nowhere cannot be named".to_owned());
        }
        (self.tests, self.left) = (tests, left);
        self.problems.append(&mut problems);
    }

    /// A test with more than one result.
    fn twice(&self, test: Test, ran: &[(usize, usize)]) -> Test {
        let told: Vec<String> = ran
            .iter()
            .map(|(at, n)| format!("{} in {}", self.segments[*at].1.entries[*n].outcome, self.called(*at)))
            .collect();
        let bad = ran.iter().map(|(at, n)| self.segments[*at].1.entries[*n].outcome).find(|o| !o.is_good());
        let why = format!("it ran {} times: {}", ran.len(), told.join(", "));
        let Origin::Entry { segment, entry } = test.from else { return test };
        let from = Origin::Twice { segment, entry, why: why.clone() };
        Test { outcome: bad.unwrap_or(Outcome::Infra), headline: why.into(), from, ..test }
    }

    /// Of tests that had begun in a part and have no result: the part, and why.
    fn whys(&self) -> HashMap<&str, (usize, String)> {
        let mut whys = HashMap::new();
        for at in self.chosen.values().map(|chosen| chosen[0]) {
            let segment = &self.segments[at].1;
            let part = segment.start.part;
            let not_begun = segment.entries.iter().filter(|e| e.not_begun && e.depth == 0).map(|e| &e.name);
            for name in not_begun {
                whys.insert(&**name, (part, format!("{} was interrupted before it began", self.called(at))));
            }
            for name in &segment.running {
                whys.insert(&**name, (part, format!("{} was killed while it ran", self.called(at))));
            }
        }
        whys
    }

    /// Why tests have no result of which nothing is known.
    fn why_nowhere(&self) -> String {
        let of = self.segments[0].1.start.of;
        let killed = self.chosen.values().map(|c| &self.segments[c[0]].1).filter(|s| !s.is_complete());
        let parts: BTreeSet<usize> =
            self.missing.iter().copied().chain(killed.map(|s| s.start.part)).collect();
        let parts: Vec<String> = parts.iter().map(usize::to_string).collect();
        match &parts[..] {
            [] => "it ran nowhere, though all parts are complete".to_owned(),
            _ if of == 1 => "it ran nowhere: the run has not come to its end".to_owned(),
            [one] => format!("it ran nowhere: part {one} of {of} has not come to its end"),
            several => {
                format!("it ran nowhere: of {of} parts {} have not come to their end", several.join(", "))
            }
        }
    }

    /// Notes clocks that are wrong, which changes nothing.
    fn look_at_clocks(&mut self) {
        let now = Utc::now();
        let mut notes = Vec::new();
        let mut versions = BTreeSet::new();
        for at in self.chosen.values().flatten().copied() {
            let (source, segment) = &self.segments[at];
            let source = &self.sources[*source];
            versions.insert(segment.start.mantle.as_str());
            let began = segment.start.began;
            let ahead = |of: DateTime<Utc>| (began - of).num_seconds();
            let skew = [Some(ahead(now)), source.stored.map(ahead)].into_iter().flatten().max();
            let called = self.called(at);
            match (skew, &source.files) {
                (Some(ahead), _) if ahead > SKEW => {
                    notes.push(format!("{called}: its clock was about {} ahead", span(ahead)));
                }
                // Copies of folders may be much younger than what is in them.
                (Some(_), Files::Place(_)) if source.stored.is_some_and(|stored| ahead(stored) < -SKEW) => {
                    let behind = source.stored.map_or(0, |stored| -ahead(stored));
                    notes.push(format!("{called}: its clock was about {} behind", span(behind)));
                }
                _ => {}
            }
            if segment.drift.abs() > DRIFT {
                let way = if segment.drift > 0.0 { "forward" } else { "back" };
                let by = span(segment.drift.abs() as i64);
                notes.push(format!("{called}: its clock was put {way} by {by} meanwhile"));
            }
        }
        if versions.len() > 1 {
            let versions: Vec<&str> = versions.into_iter().collect();
            notes.push(format!("the parts were run by different versions: {}", versions.join(", ")));
        }
        self.notes.append(&mut notes);
    }

    /// The platform that the tests ran on.
    pub fn platform(&self) -> &str {
        &self.segments[0].1.start.platform
    }

    /// What is wrong, besides tests that failed: a line each.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// What should be known, and changes nothing: a line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// How many parts there are, and of how many results are there.
    pub fn parts(&self) -> (usize, usize) {
        (self.segments[0].1.start.of, self.chosen.len())
    }

    /// How long the part took that took longest.
    fn lasted(&self) -> Duration {
        let longest = self.chosen.values().map(|c| self.segments[c[0]].1.lasted).fold(0.0, f64::max);
        Duration::try_from_secs_f64(longest).unwrap_or_default()
    }

    /// Whether everything that was to be run has passed.
    fn result(&self) -> &'static str {
        let bad = self.tests.iter().any(|t| t.depth == 0 && !t.outcome.is_good());
        let wrong = bad || !self.problems.is_empty() || !self.left.is_empty();
        match (self.tests.is_empty(), wrong) {
            (_, true) => "FAIL",
            (true, _) => "",
            _ => "PASS",
        }
    }
}

/// Some of these names, and how many more there are.
fn some(mut names: Vec<&str>) -> String {
    const SOME: usize = 10;
    names.sort_by(|a, b| crate::natural::compare(a, b));
    let more = names.len().saturating_sub(SOME);
    names.truncate(SOME);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    names.join(", ") + &more
}

/// Seconds for people.
fn span(seconds: i64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

/// The folder from which a link in a page in `from` leads to what is in `to`; both are absolute.
fn relative(from: &Path, to: &Path) -> String {
    let (from, to): (Vec<_>, Vec<_>) = (from.components().collect(), to.components().collect());
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from[common..].iter().map(|_| "..".to_owned());
    let down =
        to[common..].iter().map(|part| crate::text::percent::encode(&part.as_os_str().to_string_lossy()));
    up.chain(down).map(|part| part + "/").collect()
}
