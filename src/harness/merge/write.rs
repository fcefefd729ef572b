//! The reports of a merge.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::read::{self, Place};
use super::{Error, Files, Merge, Origin, Source, State, Test, relative};
use crate::harness::Summary;
use crate::harness::outcome::{Fault, Outcome};
use crate::harness::output_dir;
use crate::harness::report::{self, Record, files, html};
use crate::target::{Fresh, Target};

/// What a merge was made of, beside its reports. Its presence tells the results of a merge from those of a run.
const MERGE: &str = "merge.json";

#[derive(Serialize)]
struct Told<'a> {
    result: &'a str,
    platform: &'a str,
    version: &'a str,
    counts: BTreeMap<&'static str, usize>,
    /// Those of which there are results.
    parts: Vec<Part>,
    /// Numbers of those without.
    missing: &'a [usize],
    nowhere: Vec<&'a str>,
    twice: Vec<&'a str>,
    problems: &'a [String],
    notes: &'a [String],
    left: &'a [String],
}

#[derive(Serialize)]
struct Part {
    part: usize,
    of: usize,
    state: State,
    results: usize,
    seconds: f64,
    #[serde(flatten)]
    former: Former,
}

/// What a later merge must know of a process besides its events.
#[derive(Serialize, Deserialize)]
struct Former {
    attempt: String,
    source: String,
    /// The folder of its tests' folders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    folder: Option<PathBuf>,
    /// Where they are else.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    place: String,
}

/// What an earlier merge in this folder was made of, by attempt; nothing if there was none. The folders are set by the
/// caller.
pub(super) fn former(folder: &Path) -> HashMap<String, Source> {
    #[derive(Deserialize)]
    struct Told {
        parts: Vec<Former>,
    }
    let text = std::fs::read(folder.join(report::REPORTS).join(MERGE)).unwrap_or_default();
    let parts = serde_json::from_slice::<Told>(&text).map(|told| told.parts).unwrap_or_default();
    let source = |former: Former| {
        let files = match former.folder {
            Some(folder) => Files::Folder(folder, String::new()),
            None => Files::Place(former.place),
        };
        (former.attempt, Source { name: former.source, folder: PathBuf::new(), files, stored: None })
    };
    parts.into_iter().map(source).collect()
}

/// The file of events that was read last.
struct Outputs<'a> {
    merge: &'a Merge,
    open: Option<(usize, File)>,
}

impl Outputs<'_> {
    fn record(&mut self, test: &Test) -> io::Result<Record> {
        let (segment, entry, why) = match &test.from {
            Origin::Entry { segment, entry } => (*segment, *entry, None),
            Origin::Twice { segment, entry, why } => (*segment, *entry, Some(why)),
            Origin::Nowhere { why } => {
                return Ok(Record {
                    name: test.name.to_string(),
                    depth: 0,
                    outcome: test.outcome,
                    duration: Duration::ZERO,
                    output: String::new(),
                    reason: Some(why.clone()),
                    fault: Fault::Infra,
                    cause: None,
                    attempt: 0,
                    earlier: Vec::new(),
                });
            }
        };
        let (source, segment) = &self.merge.segments[segment];
        let entry = &segment.entries[entry];
        let record = self.read(*source, entry.place, &entry.earlier)?;
        Ok(match why {
            None => record,
            Some(why) => {
                let fault = if test.outcome == Outcome::Infra { Fault::Infra } else { record.fault };
                Record { outcome: test.outcome, reason: Some(why.clone()), fault, cause: None, ..record }
            }
        })
    }

    fn read(&mut self, source: usize, place: Place, earlier: &[Place]) -> io::Result<Record> {
        let file = match self.open.take() {
            Some((at, file)) if at == source => file,
            _ => File::open(events_of(&self.merge.sources[source]))?,
        };
        let record = read::record(&file, place, earlier);
        self.open = Some((source, file));
        record
    }
}

fn events_of(source: &Source) -> PathBuf {
    source.folder.join(report::REPORTS).join(report::EVENTS)
}

/// Makes the output folder, or finds that of an earlier merge.
///
/// # Errors
/// When it has something else in it.
pub fn prepare(out: &Path) -> Result<(), Error> {
    let is_merge = out.join(output_dir::MARKER).exists() && out.join(report::REPORTS).join(MERGE).exists();
    let is_empty = std::fs::read_dir(out).map_or(true, |mut entries| entries.next().is_none());
    match (is_merge, is_empty) {
        (true, _) => Ok(()),
        (_, true) => output_dir::prepare(out).map(drop).map_err(Error::OutputDir),
        _ => Err(Error::Occupied(out.to_owned())),
    }
}

impl Merge {
    /// Writes the reports into a folder that [`prepare`] has found good, each in one step: also that of an earlier merge,
    /// which may be one of the sources.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn write(&self, out: &Path) -> Result<Summary, Error> {
        let reports = report::reports(out)?;
        if let Some(selection) = &self.selection {
            report::replace(&reports.join(report::SELECTION), selection.text().as_bytes())?;
        }
        report::replace(&reports.join(report::SCHEMA), report::events::SCHEMA.as_bytes())?;
        self.write_to(&out.join("test.tap"), |to| self.tap(to))?;
        self.write_to(&reports.join("report.json"), |to| self.json(to))?;
        self.write_to(&reports.join("junit.xml"), |to| self.junit(to))?;
        self.write_to(&reports.join(report::PAGE), |to| self.page(to, &reports))?;
        self.write_to(&reports.join(MERGE), |to| self.tell(to))?;
        // Last: what has been written so far may have been read from the file that this replaces.
        self.write_to(&reports.join(report::EVENTS), |to| self.events(to))?;
        Ok(self.summary())
    }

    fn write_to(
        &self,
        path: &Path,
        write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
    ) -> Result<(), Error> {
        let put = || {
            let fresh = Fresh::new(Target::File(Target::file(path).map_err(io::Error::other)?), 0o666)?;
            let mut to = BufWriter::with_capacity(1 << 16, fresh.file());
            write(&mut to)?;
            to.flush()?;
            drop(to);
            fresh.commit()
        };
        put().map_err(|source| Error::File { action: "write", path: path.to_owned(), source })
    }

    /// All results, one after the other.
    fn records(&self) -> impl Iterator<Item = io::Result<Record>> {
        let mut outputs = Outputs { merge: self, open: None };
        self.tests.iter().map(move |test| outputs.record(test))
    }

    fn tap(&self, to: &mut impl Write) -> io::Result<()> {
        writeln!(to, "1..{}", self.tests.iter().filter(|t| t.depth == 0).count())?;
        for record in self.records() {
            let record = record?;
            if record.depth == 0 {
                to.write_all(files::tap_of(&record).as_bytes())?;
            }
        }
        Ok(())
    }

    fn json(&self, to: &mut impl Write) -> io::Result<()> {
        let tail = files::Tail {
            result: self.result(),
            platform: self.platform(),
            version: self.version(),
            left: &self.left,
            problems: &self.problems,
        };
        files::write_json(to, self.records(), &tail)
    }

    fn junit(&self, to: &mut impl Write) -> io::Result<()> {
        let head = files::Junit {
            platform: self.platform(),
            version: self.version(),
            began: self.began(),
            lasted: self.lasted(),
            outcomes: &mut self.tests.iter().map(|t| t.outcome),
            errors: &[("clean-up", &self.left), ("merge", &self.problems)],
        };
        files::write_junit(to, head, self.records())?.map_err(io::Error::other)
    }

    fn page(&self, to: &mut impl Write, reports: &Path) -> io::Result<()> {
        let reports = reports.canonicalize()?;
        let of = self.parts().0;
        let missing = self.missing.iter().map(|part| (*part, format!("part {part} of {of}, missing")));
        let there = self.chosen.iter().map(|(part, chosen)| {
            let how = match self.segments[chosen[0]].1.state() {
                State::Complete => "",
                State::Interrupted => ", interrupted",
                State::Incomplete => ", incomplete",
            };
            (*part, format!("part {part} of {of}{how}"))
        });
        let mut parts: Vec<(usize, String)> =
            if of > 1 { missing.chain(there).collect() } else { Vec::new() };
        parts.sort();
        let head = html::Head {
            platform: self.platform(),
            version: self.version(),
            result: self.result(),
            began: self.began(),
            lasted: self.lasted(),
            left: &self.left,
            problems: &self.problems,
            parts: &parts,
        };
        let mut subs = HashMap::<&str, Vec<&Test>>::new();
        let mut tests = Vec::new();
        for test in &self.tests {
            match test.depth {
                0 => tests.push(test),
                _ => subs.entry(test.name.split('/').next().unwrap_or_default()).or_default().push(test),
            }
        }
        tests.sort_by(|a, b| crate::natural::compare(&a.name, &b.name));
        // Where the page is, folders are elsewhere.
        let files: Vec<Files> = self
            .sources
            .iter()
            .map(|source| match &source.files {
                Files::Folder(folder, _) => match folder.canonicalize() {
                    Ok(folder) => Files::Folder(folder.clone(), relative(&reports, &folder)),
                    Err(_) => Files::Place(folder.display().to_string()),
                },
                place => place.clone(),
            })
            .collect();
        let none = Files::Place(String::new());
        let mut outputs = Outputs { merge: self, open: None };
        let mut page = html::Page::begin(to, &head, tests.len())?;
        for test in tests {
            let record = outputs.record(test)?;
            let subs = subs.get(&*test.name).map(Vec::as_slice).unwrap_or_default();
            let subs = subs.iter().map(|sub| html::Sub {
                name: sub.name.to_string(),
                outcome: sub.outcome,
                seconds: sub.seconds,
                headline: sub.headline.to_string(),
            });
            let files = match test.from {
                Origin::Entry { segment, .. } | Origin::Twice { segment, .. } => {
                    &files[self.segments[segment].0]
                }
                Origin::Nowhere { .. } => &none,
            };
            page.test(&record, test.start, subs.collect(), test.part, files)?;
        }
        page.end()
    }

    /// The events of all that counts, one process after the other: each as it was.
    fn events(&self, to: &mut impl Write) -> io::Result<()> {
        for at in self.chosen.values().flatten() {
            let (source, segment) = &self.segments[*at];
            let mut file = File::open(events_of(&self.sources[*source]))?;
            file.seek(SeekFrom::Start(segment.range.start))?;
            let length = segment.range.end - segment.range.start;
            let copied = io::copy(&mut file.take(length), to)?;
            if copied != length {
                return Err(io::Error::other("the events became shorter meanwhile"));
            }
        }
        Ok(())
    }

    fn tell(&self, to: &mut impl Write) -> io::Result<()> {
        let part = |at: &usize| {
            let (source, segment) = &self.segments[*at];
            let source = &self.sources[*source];
            let (folder, place) = match &source.files {
                Files::Folder(folder, _) => (std::path::absolute(folder).ok(), String::new()),
                Files::Place(place) => (None, place.clone()),
            };
            let attempt = segment.start.attempt.clone();
            Part {
                part: segment.start.part,
                of: segment.start.of,
                state: segment.state(),
                results: segment.results(),
                seconds: segment.lasted,
                former: Former { attempt, source: source.name.clone(), folder, place },
            }
        };
        let named = |wanted: fn(&Origin) -> bool| {
            self.tests.iter().filter(|t| wanted(&t.from)).map(|t| &*t.name).collect::<Vec<&str>>()
        };
        let summary = self.summary();
        let counts = Outcome::ALL.into_iter().map(|o| (o.as_str(), summary.count(o))).filter(|(_, n)| *n > 0);
        let told = Told {
            result: self.result(),
            platform: self.platform(),
            version: self.version(),
            counts: counts.collect(),
            parts: self.chosen.values().flatten().map(part).collect(),
            missing: &self.missing,
            nowhere: named(|from| matches!(from, Origin::Nowhere { .. })),
            twice: named(|from| matches!(from, Origin::Twice { .. })),
            problems: &self.problems,
            notes: &self.notes,
            left: &self.left,
        };
        serde_json::to_writer_pretty(&mut *to, &told)?;
        to.write_all(b"\n")
    }

    fn version(&self) -> &str {
        &self.segments[0].1.start.version
    }

    fn began(&self) -> chrono::DateTime<chrono::Utc> {
        let began = self.chosen.values().map(|chosen| self.segments[chosen[0]].1.start.began);
        began.min().unwrap_or_default()
    }

    /// Whether all tests were run, and none of them and nothing else failed.
    pub fn passed(&self) -> bool {
        self.result() != "FAIL"
    }

    /// How the top-level tests ended; the records are without their outputs.
    pub fn summary(&self) -> Summary {
        let top: Vec<&Test> = self.tests.iter().filter(|t| t.depth == 0).collect();
        let record = |test: &&Test| {
            let (attempt, fault, cause) = match test.from {
                Origin::Entry { segment, entry } => {
                    let entry = &self.segments[segment].1.entries[entry];
                    (entry.attempt, entry.fault, entry.cause)
                }
                _ => (0, Fault::Infra, None),
            };
            Arc::new(Record {
                name: test.name.to_string(),
                depth: 0,
                outcome: test.outcome,
                duration: Duration::try_from_secs_f64(test.seconds).unwrap_or_default(),
                output: String::new(),
                reason: Some(test.headline.to_string()),
                fault,
                cause,
                attempt,
                earlier: Vec::new(),
            })
        };
        let chosen = |wanted: &dyn Fn(Outcome) -> bool| {
            let mut chosen: Vec<_> = top.iter().filter(|t| wanted(t.outcome)).map(record).collect();
            chosen.sort_by(|a, b| crate::natural::compare(&a.name, &b.name));
            chosen
        };
        let timed = top
            .iter()
            .filter(|t| !matches!(t.outcome, Outcome::Skip | Outcome::Interrupted | Outcome::Infra));
        Summary {
            counts: Outcome::ALL.map(|outcome| top.iter().filter(|t| t.outcome == outcome).count()),
            interrupted: false,
            bad: chosen(&|outcome| !outcome.is_good()),
            flaky: chosen(&|outcome| outcome == Outcome::Flaky),
            not_rerun: Vec::new(),
            reruns: 0,
            times: timed
                .map(|t| (t.name.to_string(), Duration::try_from_secs_f64(t.seconds).unwrap_or_default()))
                .collect(),
            lasted: self.lasted(),
        }
    }
}
