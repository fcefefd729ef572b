//! The results as one page: with a timeline, a filter and links to what the tests left, usable without a network.
//!
//! The page is drawn by its own script from JSON in it. Its content security policy lets it load nothing.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Record, Snapshot};
use crate::harness::folder_of_attempt;
use crate::harness::outcome::Outcome;
use crate::text::{percent, strip_escapes};

/// What goes around the data.
const PAGE: &str = include_str!("page.html");
/// Where they go.
const DATA: &str = "@DATA@";
/// Most bytes of one test's output in the page.
const OUTPUT: usize = 256 << 10;
/// Least, where there are many tests.
const LITTLE: usize = 4 << 10;
/// Least of one that passed.
const LEAST_PASSED: usize = 1 << 10;
/// Bytes of all outputs together, as long as each test has its least.
const ALL_OUTPUT: usize = 16 << 20;
/// Most files of a test that are linked.
const FILES: usize = 40;
/// Levels of folders below a test's that are looked through: one a sub-test, one a machine.
const LEVELS: usize = 4;

/// What the page says above its tests.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// Platform the tests ran on.
    pub platform: &'a str,
    /// Version of what was tested.
    pub version: &'a str,
    /// `PASS`, `FAIL`, or nothing if there was no test.
    pub result: &'a str,
    /// When the run began.
    pub began: DateTime<Utc>,
    /// How long it took.
    pub lasted: Duration,
    /// What is left of what the tests shared.
    pub left: &'a [String],
    /// What is wrong with the parts of a run, besides their tests.
    pub problems: &'a [String],
    /// The parts of a run, if it had several: what is said of each.
    pub parts: &'a [(usize, String)],
}

#[derive(Serialize)]
struct Said<'a> {
    mantle: &'a str,
    platform: &'a str,
    version: &'a str,
    result: &'a str,
    began: String,
    seconds: f64,
    left: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    problems: &'a [String],
    #[serde(skip_serializing_if = "<[(usize, String)]>::is_empty")]
    parts: &'a [(usize, String)],
    outcomes: Vec<Word>,
}

#[derive(Serialize)]
struct Word {
    word: &'static str,
    counted: &'static str,
    good: bool,
}

#[derive(Serialize)]
struct Test {
    name: String,
    outcome: Outcome,
    /// From the start of the run; absent if it did not start.
    start: Option<f64>,
    seconds: f64,
    headline: String,
    reason: String,
    output: String,
    /// Bytes of the output that are left out.
    cut: usize,
    subs: Vec<Sub>,
    files: Vec<Link>,
    /// Files that are not linked.
    more: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<usize>,
    /// Where its files are, if they cannot be linked.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<String>,
}

/// A sub-test.
#[derive(Serialize)]
pub struct Sub {
    /// Its full name.
    pub name: String,
    /// Its result.
    pub outcome: Outcome,
    /// How long it took.
    pub seconds: f64,
    /// The first line of what went wrong.
    pub headline: String,
}

/// Where the files of a test are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Files {
    /// In the folders that it has in this one, to which this relative URL leads from the page, with a slash behind it.
    Folder(PathBuf, String),
    /// Where no link leads.
    Place(String),
}

/// A page that grows test by test.
pub struct Page<W> {
    out: W,
    /// Bytes of output that one test may have.
    share: usize,
    any: bool,
}

impl<W: Write> Page<W> {
    /// Begins the page of so many tests.
    ///
    /// # Errors
    /// What the writer says.
    pub fn begin(mut out: W, head: &Head<'_>, tests: usize) -> io::Result<Self> {
        let (before, _) = frame();
        out.write_all(before.as_bytes())?;
        let outcomes = Outcome::ALL.map(|o| {
            let form = o.form();
            Word { word: form.word, counted: form.counted, good: form.good }
        });
        let head = Said {
            mantle: env!("CARGO_PKG_VERSION"),
            platform: head.platform,
            version: head.version,
            result: head.result,
            began: head.began.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
            seconds: head.lasted.as_secs_f64(),
            left: head.left,
            problems: head.problems,
            parts: head.parts,
            outcomes: outcomes.into(),
        };
        let head = json(&head)?;
        let head = head.strip_suffix('}').unwrap_or(&head);
        write!(out, "{head},\"tests\":[")?;
        Ok(Self { out, share: (ALL_OUTPUT / tests.max(1)).min(OUTPUT), any: false })
    }

    /// Adds a top-level test of a part; `start` is counted from the start of the run. They come in natural order.
    ///
    /// # Errors
    /// What the writer says.
    pub fn test(
        &mut self,
        record: &Record,
        start: Option<f64>,
        subs: Vec<Sub>,
        part: Option<usize>,
        files: &Files,
    ) -> io::Result<()> {
        let comma = if self.any { "," } else { "" };
        self.any = true;
        // Among very many, those that passed are hardly looked at.
        let least = if record.outcome == Outcome::Pass { LEAST_PASSED } else { LITTLE };
        let mut test = test(record, start, subs, files, self.share.max(least));
        test.part = part;
        write!(self.out, "{comma}{}", json(&test)?)
    }

    /// Completes it.
    ///
    /// # Errors
    /// What the writer says.
    pub fn end(mut self) -> io::Result<()> {
        self.out.write_all(b"]}")?;
        self.out.write_all(frame().1.as_bytes())?;
        self.out.flush()
    }
}

/// What stands before and after the data.
fn frame() -> (&'static str, &'static str) {
    PAGE.split_once(DATA).expect("the page has a place for its data")
}

#[derive(Serialize)]
struct Link {
    name: String,
    href: String,
    bytes: u64,
}

/// Writes the page for a run whose files are in `folder`, to a file in a folder beside those of the tests.
///
/// # Errors
/// What the writer says.
pub(super) fn write(snapshot: &Snapshot, folder: &Path, out: impl Write) -> io::Result<()> {
    let mut subs = HashMap::<&str, Vec<&Record>>::new();
    let mut tests: Vec<usize> = Vec::new();
    for (at, record) in snapshot.records.iter().enumerate() {
        match record.depth {
            0 => tests.push(at),
            _ => subs.entry(record.name.split('/').next().unwrap_or_default()).or_default().push(record),
        }
    }
    let records = &snapshot.records;
    tests.sort_by(|a, b| crate::natural::compare(&records[*a].name, &records[*b].name));
    let head = Head {
        platform: &snapshot.platform,
        version: &snapshot.version,
        result: snapshot.result,
        began: snapshot.began,
        lasted: snapshot.lasted,
        left: &snapshot.left,
        problems: &[],
        parts: &[],
    };
    let files = Files::Folder(folder.to_owned(), "../".to_owned());
    let mut page = Page::begin(out, &head, tests.len())?;
    for at in tests {
        let record = &records[at];
        let start = snapshot.starts.get(at).copied().flatten().map(|s| s.as_secs_f64());
        let subs = subs.get(record.name.as_str()).map(Vec::as_slice).unwrap_or_default();
        let subs = subs.iter().map(|sub| Sub {
            name: sub.name.clone(),
            outcome: sub.outcome,
            seconds: sub.duration.as_secs_f64(),
            headline: sub.headline(),
        });
        page.test(record, start, subs.collect(), None, &files)?;
    }
    page.end()
}

/// JSON that can stand in an HTML script.
fn json(value: &impl Serialize) -> io::Result<String> {
    Ok(serde_json::to_string(value)?.replace('<', "\\u003c"))
}

fn test(record: &Record, start: Option<f64>, subs: Vec<Sub>, files: &Files, share: usize) -> Test {
    let cut = record.output.len().saturating_sub(share);
    // To the next line, or at least to the next character.
    let rest = record.output.as_bytes().get(cut..).unwrap_or_default();
    let to_line = rest.iter().position(|b| *b == b'\n').map_or(0, |at| at + 1);
    let cut = match cut {
        0 => 0,
        cut => {
            (cut + to_line..).find(|at| record.output.is_char_boundary(*at)).unwrap_or(record.output.len())
        }
    };
    let (files, more, place) = match files {
        Files::Folder(folder, href) => {
            let (links, more) = links(folder, href, record);
            (links, more, None)
        }
        Files::Place(place) => (Vec::new(), 0, Some(place.clone()).filter(|p| !p.is_empty())),
    };
    Test {
        name: record.name.clone(),
        outcome: record.outcome,
        start,
        seconds: record.duration.as_secs_f64(),
        headline: record.headline(),
        reason: record.reason.as_deref().map(strip_escapes).unwrap_or_default(),
        output: strip_escapes(&record.output[cut..]),
        cut,
        subs,
        files,
        more,
        part: None,
        place,
    }
}

/// The files in a test's folders, one for each time that it was run, that have something in them, and how many more
/// there are.
fn links(folder: &Path, href: &str, record: &Record) -> (Vec<Link>, usize) {
    let mut links = Vec::new();
    for run in record.earlier.iter().map(AsRef::as_ref).chain([record]) {
        let own = folder_of_attempt(folder, &run.name, run.attempt);
        let mut found = Vec::new();
        find(&own, LEVELS, &mut found);
        found.sort_by(|(a, _), (b, _)| crate::natural::compare(&a.to_string_lossy(), &b.to_string_lossy()));
        links.extend(found.into_iter().filter_map(|(path, bytes)| {
            let inner = path.strip_prefix(folder).ok()?;
            let parts: Vec<String> =
                inner.iter().map(|part| percent::encode(&part.to_string_lossy())).collect();
            let plain = path.strip_prefix(&own).ok()?.to_string_lossy();
            let name = match run.attempt {
                0 => plain.into_owned(),
                n => format!("run {}: {plain}", n + 1),
            };
            Some(Link { name, href: format!("{href}{}", parts.join("/")), bytes })
        }));
    }
    let more = links.len().saturating_sub(FILES);
    links.truncate(FILES);
    (links, more)
}

fn find(folder: &Path, levels: usize, found: &mut Vec<(PathBuf, u64)>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        // Links are not followed: what they name is not of the run.
        let Ok(about) = entry.metadata() else { continue };
        if about.is_dir() && levels > 0 {
            find(&entry.path(), levels - 1, found);
        } else if about.is_file() && about.len() > 0 {
            found.push((entry.path(), about.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::Value;

    use super::*;
    use crate::harness::outcome::Fault;

    fn record(name: &str, depth: usize, outcome: Outcome, output: &str) -> Arc<Record> {
        Arc::new(Record {
            name: name.into(),
            depth,
            outcome,
            duration: Duration::from_millis(1500),
            output: output.into(),
            reason: (outcome != Outcome::Pass).then(|| "</script><b>no\nmore".to_owned()),
            fault: Fault::Error,
            cause: None,
            attempt: 0,
            earlier: Vec::new(),
        })
    }

    fn page(records: Vec<Arc<Record>>, folder: &Path) -> String {
        let snapshot = Snapshot {
            starts: records.iter().map(|r| (r.outcome != Outcome::Skip).then_some(Duration::ZERO)).collect(),
            planned: records.len(),
            records,
            platform: "qemu".into(),
            version: "1.2.3".into(),
            began: chrono::DateTime::UNIX_EPOCH,
            lasted: Duration::from_secs(2),
            result: "FAIL",
            left: vec!["a machine".into()],
        };
        let mut out = Vec::new();
        write(&snapshot, folder, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// What the page's script reads.
    fn data(page: &str) -> Value {
        let start = page.find("application/json\">").unwrap() + "application/json\">".len();
        let end = start + page[start..].find("</script>").unwrap();
        serde_json::from_str(&page[start..end]).unwrap()
    }

    #[test]
    fn all_that_is_known_is_in_it_and_nothing_acts() {
        let dir = tempfile::tempdir().unwrap();
        let machine = dir.path().join("a.b/m #1");
        std::fs::create_dir_all(&machine).unwrap();
        std::fs::write(machine.join("console.txt"), "booted").unwrap();
        std::fs::write(machine.join("empty.txt"), "").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", machine.join("link")).unwrap();
        let page = page(
            vec![
                record("a.b/sub", 1, Outcome::Fail, ""),
                record("a.b", 0, Outcome::Fail, "\x1b[31m<i>red\x1b[0m\u{2028}"),
                record("a.a", 0, Outcome::Skip, ""),
            ],
            dir.path(),
        );
        let data = data(&page);
        assert_eq!(data["left"][0], "a machine");
        assert_eq!((&data["tests"][0]["name"], &data["tests"][0]["start"]), (&"a.a".into(), &Value::Null));
        let test = &data["tests"][1];
        assert_eq!((&test["headline"], &test["start"]), (&"</script><b>no".into(), &0.0.into()));
        assert_eq!(test["output"], "<i>red\u{2028}");
        assert_eq!(test["subs"][0]["name"], "a.b/sub");
        let files = serde_json::json!([{"name": "m #1/console.txt", "href": "../a.b/m%20%231/console.txt", "bytes": 6}]);
        assert_eq!(test["files"], files);
        // Only the page's own scripts end.
        assert_eq!(page.matches("</script>").count(), 2);
        assert!(!page.contains("<b>") && !page.contains("<i>"));
    }

    #[test]
    fn much_output_is_cut_at_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let long: String = (0..100_000).map(|n| format!("line ü {n}\n")).collect();
        let data = data(&page(vec![record("a", 0, Outcome::Pass, &long)], dir.path()));
        let test = &data["tests"][0];
        let (cut, output) = (test["cut"].as_u64().unwrap(), test["output"].as_str().unwrap());
        assert!(output.starts_with("line ü ") && output.ends_with("line ü 99999\n"));
        assert_eq!(cut as usize + output.len(), long.len());
        assert!(output.len() <= OUTPUT && output.len() > OUTPUT - 100);
        let one_line = "ü".repeat(OUTPUT);
        let data = super::tests::data(&page(vec![record("a", 0, Outcome::Pass, &one_line)], dir.path()));
        assert_eq!(data["tests"][0]["output"].as_str().unwrap().len(), OUTPUT);
    }

    #[test]
    fn pages_stay_small() {
        let dir = tempfile::tempdir().unwrap();
        let long = "0123456789abcdef\n".repeat(12_000);
        let many = (0..500).map(|n| record(&format!("t{n}"), 0, Outcome::Fail, &long)).collect();
        let page = page(many, dir.path());
        assert!(page.len() < ALL_OUTPUT + (2 << 20), "{}", page.len());
    }
}
