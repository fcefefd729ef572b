//! Tests that are known to fail: what is left out, until when, and what may fail meanwhile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::NaiveDate;
use color_eyre::Section as _;
use color_eyre::eyre::{Result, WrapErr as _, eyre};
use mantle::applet::Section;
use mantle::glob;
use serde::{Deserialize, Deserializer};

use super::external::Day;
use super::register::Test;

/// The file that is read if it is there and none is named.
const FILE: &str = "kola-denylist.yaml";
/// The pattern that stands for what consoles and journals say.
const CONSOLES: &str = "skip-console-warnings";
/// The keys of an entry, and what they mean.
const KEYS: [(&str, &str); 8] = [
    (
        "pattern",
        "Glob of test names. TEST/GLOB leaves out only those functions of the test that run on the machine and match. \
         skip-console-warnings makes signs of trouble in consoles and journals warnings. The only key that must be there.",
    ),
    ("tracker", "URL of the bug, printed with the notice."),
    ("streams", "List of release streams (--denylist-stream) that the entry is for."),
    ("arches", "List of architectures, such as x86_64."),
    ("platforms", "List of platforms."),
    ("osversion", "List of globs of the image's version."),
    (
        "snooze",
        "Day, as 2027-01-31, from which on (UTC) the entry denies no longer: then it is reported as expired.",
    ),
    ("warn", "true: the tests run, and their failures are warnings; with snooze, from that day on."),
];

/// The file, for the man page.
pub fn section() -> Section {
    let mut entries = vec![(
        FILE.to_owned(),
        "A YAML list of entries, in the current folder or where --denylist-file says. An entry applies where each of its \
         lists has the value of this run."
            .to_owned(),
    )];
    entries.extend(KEYS.iter().map(|(key, about)| ((*key).to_owned(), (*about).to_owned())));
    ("DENY LIST", entries)
}

/// A pattern of names, known to be one.
#[derive(Clone, Debug)]
struct Pattern(String);

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        match glob::matches(&text, "") {
            Ok(_) => Ok(Self(text)),
            Err(e) => Err(serde::de::Error::custom(format!("{e}: {text}"))),
        }
    }
}

impl Pattern {
    fn fits(&self, name: &str) -> bool {
        glob::matches(&self.0, name).unwrap_or(false)
    }
}

/// One entry of the file.
#[derive(Clone, Debug, Deserialize)]
struct Entry {
    pattern: Pattern,
    tracker: Option<String>,
    streams: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    platforms: Option<Vec<String>>,
    /// Patterns of versions of the image.
    osversion: Option<Vec<Pattern>>,
    snooze: Option<Day>,
    #[serde(default)]
    warn: bool,
}

/// What entries are for.
pub struct Here<'a> {
    /// The platform, and that of which it is a variant.
    pub platforms: Vec<&'a str>,
    /// Architecture as in `amd64`.
    pub architecture: &'a str,
    /// Version of the image, if known.
    pub version: Option<&'a str>,
    /// The release stream, if known.
    pub stream: Option<&'a str>,
    /// Today, in UTC.
    pub today: NaiveDate,
}

/// What an entry does today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Deny,
    Warn,
    /// Nothing any more.
    Expired,
}

/// All entries, and the patterns of the command line.
#[derive(Clone, Debug, Default)]
pub struct Denylist {
    entries: Vec<Entry>,
    /// Of the command line.
    named: Vec<Pattern>,
}

/// What a list has made of tests.
pub struct Applied {
    /// Those that are left.
    pub tests: Vec<Arc<Test>>,
    /// What people should know, a line each.
    pub notices: Vec<String>,
    /// What they should look at, a line each.
    pub warnings: Vec<String>,
    /// Signs of trouble in consoles and journals are warnings.
    pub consoles_warn: bool,
}

impl Denylist {
    /// Reads the file that is named, or the one in the current folder if there is one.
    ///
    /// # Errors
    /// What is wrong with the file, and where; patterns of the command line that are none.
    pub fn read(file: Option<&Path>, named: &[String]) -> Result<Self> {
        for pattern in named {
            glob::matches(pattern, "").map_err(|e| eyre!("--denylist-test: {e}: {pattern}"))?;
        }
        let named = named.iter().cloned().map(Pattern).collect();
        let path = file.map_or_else(|| PathBuf::from(FILE), Path::to_path_buf);
        if file.is_none() && !path.exists() {
            return Ok(Self { entries: Vec::new(), named });
        }
        let text = mantle::input::read_to_string(&path)
            .wrap_err_with(|| format!("cannot read {}", path.display()))?;
        let (entries, odd) = parse(&text).map_err(|(line, told)| {
            let place = line.map_or_else(|| path.display().to_string(), |line| format!("{}:{line}", path.display()));
            eyre!("{place}: {told}").suggestion("an entry is `- pattern: GLOB` with, below, any of tracker, streams, arches, platforms, osversion, snooze and warn")
        })?;
        for key in odd {
            mantle::warning!("kola", "{}: {key}", path.display());
        }
        Ok(Self { entries, named })
    }

    /// Whether the command line refuses a test of this name.
    pub fn refuses(&self, name: &str) -> bool {
        self.named.iter().any(|pattern| pattern.fits(name))
    }

    /// Whether it must be known of which version the image is.
    pub fn asks_for_version(&self, tests: &[Arc<Test>]) -> bool {
        self.entries.iter().any(|e| {
            e.osversion.is_some() && (e.pattern.0 == CONSOLES || tests.iter().any(|t| touches(e, t)))
        })
    }

    /// Takes out what is denied.
    pub fn apply(&self, tests: Vec<Arc<Test>>, here: &Here<'_>) -> Applied {
        let mut applied = Applied { tests, notices: Vec::new(), warnings: Vec::new(), consoles_warn: false };
        let denied = |t: &Arc<Test>| self.refuses(&t.name);
        for test in applied.tests.iter().filter(|t| denied(t)) {
            applied.notices.push(format!("left out {}: it is denied on the command line", test.name));
        }
        applied.tests.retain(|t| !denied(t));
        let mut streamless = Vec::new();
        for entry in &self.entries {
            if entry.streams.is_some() && here.stream.is_none() {
                streamless.push(entry.pattern.0.as_str());
                continue;
            }
            if entry.applies(here) {
                entry.apply(&mut applied, here.today);
            }
        }
        if !streamless.is_empty() {
            applied.warnings.push(format!(
                "the stream of the image is not known (--denylist-stream): entries with streams do not apply: {}",
                streamless.join(", ")
            ));
        }
        applied
    }
}

impl Entry {
    fn applies(&self, here: &Here<'_>) -> bool {
        let has = |list: &Option<Vec<String>>, values: &[&str]| {
            list.as_ref().is_none_or(|list| list.iter().any(|v| values.contains(&v.as_str())))
        };
        let architecture = match here.architecture {
            "amd64" => "x86_64",
            "arm64" => "aarch64",
            other => other,
        };
        let version = self.osversion.as_ref().is_none_or(|list| {
            here.version.is_some_and(|version| list.iter().any(|pattern| pattern.fits(version)))
        });
        has(&self.platforms, &here.platforms)
            && has(&self.arches, &[here.architecture, architecture])
            && has(&self.streams, &here.stream.into_iter().collect::<Vec<_>>())
            && version
    }

    fn effect(&self, today: NaiveDate) -> Effect {
        match (self.snooze, self.warn) {
            (Some(day), _) if today < day.0 => Effect::Deny,
            (_, true) => Effect::Warn,
            (Some(_), false) => Effect::Expired,
            (None, false) => Effect::Deny,
        }
    }

    fn apply(&self, applied: &mut Applied, today: NaiveDate) {
        let effect = self.effect(today);
        let pattern = &self.pattern.0;
        let tracker = self.tracker.as_ref().map(|t| format!(" ({t})")).unwrap_or_default();
        if pattern == CONSOLES {
            if effect == Effect::Expired {
                applied.warnings.push(self.expired(&tracker));
            } else {
                applied.consoles_warn = true;
                applied
                    .notices
                    .push(format!("signs of trouble on consoles and in journals are warnings{tracker}"));
            }
            return;
        }
        let touched: Vec<String> =
            applied.tests.iter().filter(|t| touches(self, t)).map(|t| t.name.to_string()).collect();
        if touched.is_empty() {
            return;
        }
        let names = touched.join(" ");
        match effect {
            Effect::Expired => applied.warnings.push(format!("{}: {names}", self.expired(&tracker))),
            Effect::Warn => {
                applied
                    .notices
                    .push(format!("failures are warnings by {pattern:?} of the deny list{tracker}: {names}"));
                let reason = format!("the deny list tolerates its failure: {pattern}{tracker}");
                for test in applied.tests.iter_mut().filter(|t| touches(self, t)) {
                    Arc::make_mut(test).warn = Some(reason.clone().into());
                }
            }
            Effect::Deny => {
                let until = self.snooze.map(|day| format!(" until {}", day.0)).unwrap_or_default();
                match pattern.split_once('/') {
                    Some((_, functions)) => {
                        applied.notices.push(format!(
                            "left out functions {functions:?}{until} by the deny list{tracker}: {names}"
                        ));
                        let glob = Pattern(functions.to_owned());
                        for test in applied.tests.iter_mut().filter(|t| touches(self, t)) {
                            Arc::make_mut(test).native.retain(|native| !glob.fits(native.name));
                        }
                    }
                    None => {
                        applied.notices.push(format!(
                            "left out by {pattern:?} of the deny list{until}{tracker}: {names}"
                        ));
                        applied.tests.retain(|t| !touches(self, t));
                    }
                }
            }
        }
    }

    fn expired(&self, tracker: &str) -> String {
        let day = self.snooze.map(|day| day.0.to_string()).unwrap_or_default();
        format!(
            "the entry {:?} of the deny list has expired on {day}{tracker}: take it out, or say a later day",
            self.pattern.0
        )
    }
}

/// Whether an entry is for the test or a part of it.
fn touches(entry: &Entry, test: &Test) -> bool {
    let name = &entry.pattern.0;
    match name.split_once('/') {
        None => entry.pattern.fits(&test.name),
        Some((of, functions)) => {
            let part =
                |native: &super::register::Native| glob::matches(functions, native.name).unwrap_or(false);
            glob::matches(of, &test.name).unwrap_or(false) && test.native.iter().any(part)
        }
    }
}

/// A line, where it is known, and what is wrong there.
type Mistake = (Option<usize>, String);

/// The entries, and what is odd about them; or the line and what is wrong there.
fn parse(text: &str) -> Result<(Vec<Entry>, Vec<String>), Mistake> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Default::default());
    }
    let wrong = |e: serde_yaml::Error| {
        let told = e.to_string();
        let plain = told.split(" at line ").next().unwrap_or(&told);
        // The place in the tree says less than the line.
        let plain = match plain.strip_prefix('.').and_then(|rest| rest.split_once(": ")) {
            Some((_, text)) => text.to_owned(),
            None => plain.to_owned(),
        };
        (e.location().map(|at| at.line()), plain)
    };
    let entries: Vec<Entry> = serde_yaml::from_str(text).map_err(wrong)?;
    let keys: Vec<BTreeMap<String, serde_yaml::Value>> = serde_yaml::from_str(text).map_err(wrong)?;
    let unknown = |(entry, keys): (&Entry, BTreeMap<String, serde_yaml::Value>)| {
        let pattern = entry.pattern.0.clone();
        let odd = keys.into_keys().filter(|key| !KEYS.iter().any(|(known, _)| known == key));
        odd.map(|key| {
            let guess = mantle::text::did_you_mean(&key, KEYS.iter().map(|(known, _)| *known))
                .map(|g| format!("; {g}"))
                .unwrap_or_default();
            format!("the entry {pattern:?} has a key {key:?} that is not known and does nothing{guess}")
        })
        .collect::<Vec<_>>()
    };
    let odd = entries.iter().zip(keys).flat_map(unknown).collect();
    Ok((entries, odd))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kola::register::Native;

    fn test(name: &'static str) -> Arc<Test> {
        let natives = [Native::new("First", || Ok(())), Native::new("Second", || Ok(()))];
        Arc::new(Test::new(name, async |_| Ok(())).native(natives))
    }

    fn here() -> Here<'static> {
        Here {
            platforms: vec!["qemu-unpriv", "qemu"],
            architecture: "amd64",
            version: Some("39.20231101.3.0"),
            stream: Some("next"),
            today: NaiveDate::from_ymd_opt(2026, 11, 29).unwrap(),
        }
    }

    fn applied(yaml: &str, here: &Here<'_>) -> Applied {
        let (entries, odd) = parse(yaml).unwrap();
        assert_eq!(odd, Vec::<String>::new());
        Denylist { entries, named: vec![Pattern("z.*".into())] }
            .apply(vec![test("a.b"), test("a.c"), test("z.z")], here)
    }

    fn names(applied: &Applied) -> Vec<&str> {
        applied.tests.iter().map(|t| t.name.as_ref()).collect()
    }

    #[test]
    fn entries_apply_where_all_that_they_name_is_so() {
        for (entry, denied) in [
            ("", true),
            ("  platforms: [qemu]\n", true),
            ("  platforms: [aws]\n", false),
            ("  arches: [x86_64]\n", true),
            ("  arches: [amd64]\n  streams: [stable, next]\n", true),
            ("  arches: [s390x]\n", false),
            ("  streams: [stable]\n", false),
            ("  osversion: [\"39.*\"]\n", true),
            ("  osversion: [\"40.*\"]\n", false),
        ] {
            let all = applied(&format!("- pattern: a.b\n{entry}"), &here());
            let left: &[&str] = if denied { &["a.c"] } else { &["a.b", "a.c"] };
            assert_eq!(names(&all), left, "{entry}");
        }
        let unknown = Here { stream: None, version: None, ..here() };
        let all =
            applied("- pattern: a.b\n  streams: [next]\n- pattern: a.c\n  osversion: [\"*\"]\n", &unknown);
        assert_eq!(names(&all), ["a.b", "a.c"]);
        assert!(all.warnings[0].contains("--denylist-stream"), "{:?}", all.warnings);
    }

    #[test]
    fn entries_end_and_tolerate() {
        // The day itself is no longer denied.
        for (entry, left, warns, told) in [
            ("  snooze: 2026-11-30\n", 1, 0, "until 2026-11-30"),
            ("  snooze: 2026-11-29\n", 2, 0, "has expired on 2026-11-29 (https://t/1)"),
            ("  snooze: 2026-11-29\n  warn: true\n", 2, 1, "failures are warnings"),
            ("  snooze: 2026-11-30\n  warn: true\n", 1, 0, "left out"),
            ("  warn: true\n", 2, 1, "(https://t/1): a.b"),
        ] {
            let all = applied(&format!("- pattern: a.b\n  tracker: https://t/1\n{entry}"), &here());
            assert_eq!(all.tests.len(), left, "{entry}");
            assert_eq!(all.tests.iter().filter(|t| t.tolerated().is_some()).count(), warns, "{entry}");
            let said = [all.notices, all.warnings].concat().join("\n");
            assert!(said.contains(told), "{entry}: {said}");
        }
    }

    #[test]
    fn parts_of_tests_can_be_denied() {
        for (pattern, left) in [("a.b/First", 1), ("a.b/*", 0), ("a.b/", 2), ("a.*/S*", 1)] {
            let all = applied(&format!("- pattern: {pattern}\n"), &here());
            assert_eq!(names(&all), ["a.b", "a.c"]);
            assert_eq!(all.tests[0].native.len(), left, "{pattern}");
        }
        assert!(applied("- pattern: skip-console-warnings\n", &here()).consoles_warn);
    }

    #[test]
    fn faults_have_their_line() {
        for (text, line, told) in [
            ("- pattern: a\n- tracker: x\n", Some(2), "missing field `pattern`"),
            ("- pattern: a\n  snooze: soon\n", Some(2), "is no day"),
            ("- pattern: a\n- pattern: \"[\"\n", Some(2), "syntax error in pattern"),
            ("pattern: a\n", None, "expected a sequence"),
            ("- pattern: a\n  arches: x86_64\n", Some(2), "expected a sequence"),
            ("- pattern: a\n bad: [\n", Some(2), ""),
        ] {
            let (at, said) = parse(text).unwrap_err();
            // Of a value that cannot be, the line of its entry is known.
            let near = |line: usize| at.is_some_and(|at| at.abs_diff(line) <= 1);
            assert!(line.is_none_or(near), "{text}: {at:?} {said}");
            assert!(said.contains(told), "{text}: {said}");
        }
        assert!(parse("# nothing yet\n").unwrap().0.is_empty());
        assert!(
            parse("- pattern: a\n  snoze: 2026-01-01\n").unwrap().1[0].contains("did you mean \"snooze\"?")
        );
    }
}
