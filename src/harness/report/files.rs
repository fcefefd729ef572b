//! The results for programs: TAP, JSON and JUnit.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use quick_junit::{NonSuccessKind, Report, SerializeError, TestCase, TestCaseStatus, TestRerun, TestSuite};
use serde::Serialize;

use super::{Record, Snapshot};
use crate::harness::outcome::{JUnit, Outcome, Tap};
use crate::text::strip_escapes;

/// TAP: upstream's line for each top-level test, in order of completion and without numbers; with the reason of
/// what was skipped, and that of what went wrong as a diagnostic below.
pub(super) fn tap(snapshot: &Snapshot) -> String {
    let mut out = format!("1..{}\n", snapshot.planned);
    for record in snapshot.records.iter().filter(|r| r.depth == 0) {
        out.push_str(&tap_of(record));
    }
    out
}

/// The lines of one top-level test.
pub fn tap_of(record: &Record) -> String {
    let (word, directive) = match record.outcome.form().tap {
        Tap::Ok => ("ok", None),
        Tap::NotOk => ("not ok", None),
        Tap::OkBut(directive) => ("ok", Some(directive)),
        Tap::NotOkBut(directive) => ("not ok", Some(directive)),
    };
    // A # would begin a directive.
    let mut out = format!("{word} - {}", record.name.replace('#', ""));
    let reason = record.reason.as_deref().map(strip_escapes).unwrap_or_default();
    if let Some(directive) = directive {
        let reason: Vec<&str> = reason.split_whitespace().collect();
        out.push_str(format!(" # {directive} {}", reason.join(" ")).trim_end());
        out.push('\n');
        return out;
    }
    out.push('\n');
    if record.outcome != Outcome::Pass {
        out.push_str(&format!("# {}\n", record.kind()));
        for line in reason.lines() {
            out.push_str(format!("#   {line}").trim_end());
            out.push('\n');
        }
    }
    out
}

/// What report.json has behind its tests.
#[derive(Serialize)]
pub struct Tail<'a> {
    /// `PASS`, `FAIL`, or nothing if there was no test.
    pub result: &'a str,
    /// Platform the tests ran on.
    pub platform: &'a str,
    /// Version of what was tested.
    pub version: &'a str,
    /// Ours: what is left of what the tests shared.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub left: &'a [String],
    /// Ours: what is wrong with the parts of a run, besides their tests.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub problems: &'a [String],
}

#[derive(Serialize)]
struct JsonTest<'a> {
    name: &'a str,
    result: Outcome,
    /// Nanoseconds.
    duration: u64,
    output: &'a str,
    /// Ours: the earlier runs of a test that was run again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<JsonTest<'a>>,
}

impl<'a> JsonTest<'a> {
    fn of(record: &'a Record) -> Self {
        Self {
            name: &record.name,
            result: record.outcome,
            duration: u64::try_from(record.duration.as_nanos()).unwrap_or(u64::MAX),
            output: &record.output,
            earlier: record.earlier.iter().map(|run| Self::of(run)).collect(),
        }
    }
}

/// `report.json`: keys and order of upstream, one line.
pub(super) fn json(snapshot: &Snapshot) -> String {
    let mut out = Vec::new();
    let tests = snapshot.records.iter().map(|record| Ok(Arc::clone(record)));
    let Snapshot { result, platform, version, left, .. } = snapshot;
    write_json(&mut out, tests, &Tail { result, platform, version, left, problems: &[] })
        .expect("memory takes all");
    String::from_utf8(out).expect("JSON is text")
}

/// The same, test by test.
///
/// # Errors
/// Those of the tests, and what the writer says.
pub fn write_json<R: std::borrow::Borrow<Record>>(
    mut out: impl Write,
    tests: impl IntoIterator<Item = io::Result<R>>,
    tail: &Tail<'_>,
) -> io::Result<()> {
    let mut any = false;
    out.write_all(b"{\"tests\":")?;
    for test in tests {
        out.write_all(if any { b"," } else { b"[" })?;
        serde_json::to_writer(&mut out, &JsonTest::of(test?.borrow()))?;
        any = true;
    }
    let tail = serde_json::to_string(tail)?;
    // `null` if there is none, as upstream has it.
    let end = if any { "]" } else { "null" };
    writeln!(out, "{end},{}", tail.strip_prefix('{').unwrap_or(&tail))
}

/// What a JUnit document says before its cases.
pub struct Junit<'a> {
    /// Platform the tests ran on: the name of the suite.
    pub platform: &'a str,
    /// Version of what was tested.
    pub version: &'a str,
    /// When the run began.
    pub began: DateTime<Utc>,
    /// How long it took.
    pub lasted: Duration,
    /// The outcomes of all tests and sub-tests.
    pub outcomes: &'a mut dyn Iterator<Item = Outcome>,
    /// Errors that belong to no test: the name of a case, and its lines.
    pub errors: &'a [(&'a str, &'a [String])],
}

/// JUnit XML: one suite, named like the platform; sub-tests are cases of their own, after whose top-level test
/// their class is named. It fits the schema that Jenkins' xUnit plugin checks against (junit-10.xsd), one of the
/// stricter of those in use.
pub(super) fn junit(snapshot: &Snapshot) -> Result<String, SerializeError> {
    let mut out = Vec::new();
    let head = Junit {
        platform: &snapshot.platform,
        version: &snapshot.version,
        began: snapshot.began,
        lasted: snapshot.lasted,
        outcomes: &mut snapshot.records.iter().map(|r| r.outcome),
        errors: &[("clean-up", &snapshot.left)],
    };
    let tests = snapshot.records.iter().map(|record| Ok(Arc::clone(record)));
    write_junit(&mut out, head, tests).expect("memory takes all")?;
    Ok(String::from_utf8(out).expect("XML is text"))
}

/// The same, test by test.
///
/// # Errors
/// Those of the tests, what the writer says; what cannot be said in XML.
pub fn write_junit<R: std::borrow::Borrow<Record>>(
    mut out: impl Write,
    head: Junit<'_>,
    tests: impl IntoIterator<Item = io::Result<R>>,
) -> io::Result<Result<(), SerializeError>> {
    let mut suite = TestSuite::new(head.platform);
    suite.set_timestamp(head.began).set_time(head.lasted);
    suite.add_property(("version", head.version));
    for outcome in head.outcomes {
        suite.tests += 1;
        match outcome.form().junit {
            JUnit::Success | JUnit::Flaky => {}
            JUnit::Skipped => suite.skipped += 1,
            JUnit::Failure => suite.failures += 1,
            JUnit::Error => suite.errors += 1,
        }
    }
    let errors: Vec<TestCase> = head
        .errors
        .iter()
        .filter(|(_, lines)| !lines.is_empty())
        .map(|(name, lines)| error(name, lines))
        .collect();
    suite.tests += errors.len();
    suite.errors += errors.len();
    let mut report = Report::new(env!("CARGO_PKG_NAME"));
    report.set_time(head.lasted).add_test_suite(suite);
    let mut text = match report.to_string() {
        Ok(text) => text,
        Err(e) => return Ok(Err(e)),
    };
    // The schema knows the number of skipped tests on the suite only. No attribute before it has a `skipped`.
    if let Some(start) = text.find("<testsuites ")
        && let Some(length) = text[start..].find('>')
    {
        let number = format!(" skipped=\"{}\"", report.skipped);
        let tag = text[start..start + length].replacen(&number, "", 1);
        text.replace_range(start..start + length, &tag);
    }
    let end = text.rfind(SUITE_END).unwrap_or(text.len());
    out.write_all(&text.as_bytes()[..end])?;
    let cases = tests.into_iter().map(|test| test.map(|test| case(test.borrow())));
    for case in cases.chain(errors.into_iter().map(Ok)) {
        match alone(case?) {
            Ok(case) => out.write_all(case.as_bytes())?,
            Err(e) => return Ok(Err(e)),
        }
    }
    out.write_all(&text.as_bytes()[end..])?;
    Ok(Ok(()))
}

/// The line that ends a suite.
const SUITE_END: &str = "    </testsuite>\n";

/// The lines of a case: cut out of a document of its own, as a document of all would be in memory as a whole.
fn alone(case: TestCase) -> Result<String, SerializeError> {
    let mut suite = TestSuite::new("");
    suite.add_test_case(case);
    let mut report = Report::new("");
    report.add_test_suite(suite);
    let text = report.to_string()?;
    let start = text.find("        <testcase ").unwrap_or_default();
    let end = text.rfind(SUITE_END).unwrap_or(text.len());
    Ok(text[start..end].to_owned())
}

/// An error that belongs to no test.
fn error(name: &str, lines: &[String]) -> TestCase {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
    let kind = if name == "clean-up" { "left" } else { name };
    status.set_type(kind).set_message(lines.join("\n"));
    let mut case = TestCase::new(name, status);
    case.set_classname(name).set_time(Duration::ZERO);
    case
}

/// A run of a test besides the one that its case is of.
fn rerun(record: &Record) -> TestRerun {
    let kind = match record.outcome.form().junit {
        JUnit::Error => NonSuccessKind::Error,
        _ => NonSuccessKind::Failure,
    };
    let mut run = TestRerun::new(kind);
    run.set_type(record.failure()).set_message(record.reason.clone().unwrap_or_default());
    if record.attempt > 0 || !record.output.is_empty() {
        run.set_system_out(record.output.as_str());
    }
    run
}

/// A test that was run again is marked as Maven's Surefire does: one that failed at last has the failure of its first
/// run, and a `rerunFailure` for each other; one that passed at last a `flakyFailure` for each that went before.
fn case(record: &Record) -> TestCase {
    let first: &Record = match record.outcome.form().junit {
        JUnit::Failure | JUnit::Error => record.earlier.first().map_or(record, |first| first),
        _ => record,
    };
    let failed = |kind| {
        let mut status = TestCaseStatus::non_success(kind);
        status.set_type(first.kind());
        status
    };
    let mut status = match first.outcome.form().junit {
        JUnit::Success => TestCaseStatus::success(),
        JUnit::Flaky => {
            let mut status = TestCaseStatus::success();
            match &record.earlier[..] {
                [] => _ = status.add_rerun(rerun(record)),
                runs => runs.iter().for_each(|run| _ = status.add_rerun(rerun(run))),
            }
            status
        }
        JUnit::Skipped => {
            let mut status = TestCaseStatus::skipped();
            if record.outcome != Outcome::Skip {
                status.set_type(record.kind());
            }
            status
        }
        JUnit::Failure => failed(NonSuccessKind::Failure),
        JUnit::Error => failed(NonSuccessKind::Error),
    };
    if let (false, Some(reason)) = (matches!(status, TestCaseStatus::Success { .. }), &first.reason) {
        status.set_message(reason.as_str());
    }
    if !std::ptr::eq(first, record) {
        for run in record.earlier.iter().skip(1).map(AsRef::as_ref).chain([record]) {
            status.add_rerun(rerun(run));
        }
    }
    let mut case = TestCase::new(record.name.as_str(), status);
    let class = record.name.split('/').next().unwrap_or_default();
    case.set_classname(class).set_time(record.duration);
    if !record.output.is_empty() {
        case.set_system_out(record.output.as_str());
    }
    case
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::outcome::Fault;

    /// A run in which everything happened that can.
    fn all() -> Snapshot {
        let record = |outcome: Outcome| {
            Arc::new(Record {
                name: format!("t.{}", outcome.as_str().to_lowercase()),
                depth: 0,
                outcome,
                duration: Duration::from_millis(1500),
                output: String::new(),
                reason: (outcome != Outcome::Pass).then(|| "one #1\nand \x1b[31mtwo\x1b[0m".to_owned()),
                fault: Fault::Error,
                cause: None,
                attempt: 0,
                earlier: Vec::new(),
            })
        };
        Snapshot {
            records: Outcome::ALL.map(record).to_vec(),
            starts: vec![Some(Duration::ZERO); Outcome::ALL.len()],
            planned: Outcome::ALL.len(),
            platform: "qemu".into(),
            version: "1.2.3".into(),
            began: chrono::DateTime::UNIX_EPOCH,
            lasted: Duration::from_secs(2),
            result: "FAIL",
            left: Vec::new(),
        }
    }

    #[test]
    fn tap_knows_every_outcome() {
        assert_eq!(
            tap(&all()),
            "\
1..7
ok - t.pass
ok - t.flaky
# flaky
#   one #1
#   and two
not ok - t.warn # TODO one #1 and two
not ok - t.fail
# error
#   one #1
#   and two
not ok - t.infra
# infra
#   one #1
#   and two
not ok - t.interrupted
# interrupted
#   one #1
#   and two
ok - t.skip # SKIP one #1 and two
"
        );
    }

    #[test]
    fn json_knows_every_outcome() {
        let report: serde_json::Value = serde_json::from_str(&json(&all())).unwrap();
        let results: Vec<&str> =
            report["tests"].as_array().unwrap().iter().map(|t| t["result"].as_str().unwrap()).collect();
        assert_eq!(results, ["PASS", "FLAKY", "WARN", "FAIL", "INFRA", "INTERRUPTED", "SKIP"]);
    }

    #[test]
    fn junit_knows_every_outcome_and_keeps_to_the_schema() {
        let message = "one #1\nand two";
        let case = |name: &str, element: &str| {
            format!(
                "        <testcase name=\"t.{name}\" classname=\"t.{name}\" time=\"1.500\">\n            {element}\n        </testcase>\n"
            )
        };
        let want = [
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned(),
            // No `skipped` and no `timestamp` here.
            "<testsuites name=\"mantle\" tests=\"7\" failures=\"1\" errors=\"2\" time=\"2.000\">\n".to_owned(),
            "    <testsuite name=\"qemu\" tests=\"7\" skipped=\"2\" errors=\"2\" failures=\"1\" \
             timestamp=\"1970-01-01T00:00:00.000+00:00\" time=\"2.000\">\n"
                .to_owned(),
            "        <properties>\n            <property name=\"version\" value=\"1.2.3\"/>\n        </properties>\n"
                .to_owned(),
            "        <testcase name=\"t.pass\" classname=\"t.pass\" time=\"1.500\"/>\n".to_owned(),
            case("flaky", &format!("<flakyFailure message=\"{message}\" type=\"error\">\n            </flakyFailure>")),
            case("warn", &format!("<skipped message=\"{message}\" type=\"warn\"/>")),
            case("fail", &format!("<failure message=\"{message}\" type=\"error\"/>")),
            case("infra", &format!("<error message=\"{message}\" type=\"infra\"/>")),
            case("interrupted", &format!("<error message=\"{message}\" type=\"interrupted\"/>")),
            case("skip", &format!("<skipped message=\"{message}\"/>")),
            "    </testsuite>\n</testsuites>\n".to_owned(),
        ];
        assert_eq!(junit(&all()).unwrap(), want.concat());
    }
}
