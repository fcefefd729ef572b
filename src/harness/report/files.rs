//! The results for programs: TAP, JSON and JUnit.

use quick_junit::{NonSuccessKind, Report, SerializeError, TestCase, TestCaseStatus, TestSuite};
use serde::Serialize;

use super::{Record, Snapshot};
use crate::harness::outcome::Outcome;

/// TAP, as upstream writes it: a line for each top-level test in order of completion, without numbers.
pub fn tap(snapshot: &Snapshot) -> String {
    let mut out = format!("1..{}\n", snapshot.planned);
    for record in snapshot.records.iter().filter(|r| r.depth == 0) {
        let (word, end) = match record.outcome {
            Outcome::Pass => ("ok", ""),
            Outcome::Fail => ("not ok", ""),
            Outcome::Skip => ("ok", " # SKIP"),
        };
        // A # would begin a directive.
        out.push_str(&format!("{word} - {}{end}\n", record.name.replace('#', "")));
    }
    out
}

#[derive(Serialize)]
struct JsonReport<'a> {
    /// `null` if there is none.
    tests: Option<Vec<JsonTest<'a>>>,
    result: &'a str,
    platform: &'a str,
    version: &'a str,
}

#[derive(Serialize)]
struct JsonTest<'a> {
    name: &'a str,
    result: Outcome,
    /// Nanoseconds.
    duration: u64,
    output: &'a str,
}

/// `report.json`: keys and order of upstream, one line.
pub fn json(snapshot: &Snapshot) -> String {
    let tests = snapshot.records.iter().map(|r| JsonTest {
        name: &r.name,
        result: r.outcome,
        duration: u64::try_from(r.duration.as_nanos()).unwrap_or(u64::MAX),
        output: &r.output,
    });
    let report = JsonReport {
        tests: (!snapshot.records.is_empty()).then(|| tests.collect()),
        result: snapshot.result,
        platform: &snapshot.platform,
        version: &snapshot.version,
    };
    let mut line = serde_json::to_string(&report).expect("strings and numbers are always JSON");
    line.push('\n');
    line
}

/// JUnit XML: one suite, named like the platform; sub-tests are cases of their own, after whose top-level test
/// their class is named.
pub fn junit(snapshot: &Snapshot) -> Result<String, SerializeError> {
    let mut suite = TestSuite::new(snapshot.platform.as_str());
    suite.set_timestamp(snapshot.began).set_time(snapshot.lasted);
    suite.add_property(("version", snapshot.version.as_str()));
    suite.add_test_cases(snapshot.records.iter().map(|r| case(r)));
    let mut report = Report::new(env!("CARGO_PKG_NAME"));
    report.set_timestamp(snapshot.began).set_time(snapshot.lasted).add_test_suite(suite);
    report.to_string()
}

fn case(record: &Record) -> TestCase {
    let mut status = match record.outcome {
        Outcome::Pass => TestCaseStatus::success(),
        Outcome::Skip => TestCaseStatus::skipped(),
        Outcome::Fail => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_type(record.fault.as_str());
            status
        }
    };
    if let (Outcome::Fail | Outcome::Skip, Some(reason)) = (record.outcome, &record.reason) {
        status.set_message(reason.as_str());
    }
    let mut case = TestCase::new(record.name.as_str(), status);
    let class = record.name.split('/').next().unwrap_or_default();
    case.set_classname(class).set_time(record.duration);
    if !record.output.is_empty() {
        case.set_system_out(record.output.as_str());
    }
    case
}
