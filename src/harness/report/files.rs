//! The results for programs: TAP, JSON and JUnit.

use quick_junit::{NonSuccessKind, Report, SerializeError, TestCase, TestCaseStatus, TestRerun, TestSuite};
use serde::Serialize;

use super::{Record, Snapshot};
use crate::harness::outcome::{JUnit, Outcome, Tap};
use crate::text::strip_escapes;

/// TAP: upstream's line for each top-level test, in order of completion and without numbers; with the reason of
/// what was skipped, and that of what went wrong as a diagnostic below.
pub fn tap(snapshot: &Snapshot) -> String {
    let mut out = format!("1..{}\n", snapshot.planned);
    for record in snapshot.records.iter().filter(|r| r.depth == 0) {
        let (word, directive) = match record.outcome.form().tap {
            Tap::Ok => ("ok", None),
            Tap::NotOk => ("not ok", None),
            Tap::OkBut(directive) => ("ok", Some(directive)),
            Tap::NotOkBut(directive) => ("not ok", Some(directive)),
        };
        // A # would begin a directive.
        out.push_str(&format!("{word} - {}", record.name.replace('#', "")));
        let reason = record.reason.as_deref().map(strip_escapes).unwrap_or_default();
        if let Some(directive) = directive {
            let reason: Vec<&str> = reason.split_whitespace().collect();
            out.push_str(format!(" # {directive} {}", reason.join(" ")).trim_end());
            out.push('\n');
            continue;
        }
        out.push('\n');
        if record.outcome != Outcome::Pass {
            out.push_str(&format!("# {}\n", record.kind()));
            for line in reason.lines() {
                out.push_str(format!("#   {line}").trim_end());
                out.push('\n');
            }
        }
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
    /// Ours: what is left of what the tests shared.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    left: &'a [String],
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
pub fn json(snapshot: &Snapshot) -> String {
    let tests = snapshot.records.iter().map(|r| JsonTest::of(r));
    let report = JsonReport {
        tests: (!snapshot.records.is_empty()).then(|| tests.collect()),
        result: snapshot.result,
        platform: &snapshot.platform,
        version: &snapshot.version,
        left: &snapshot.left,
    };
    let mut line = serde_json::to_string(&report).expect("strings and numbers are always JSON");
    line.push('\n');
    line
}

/// JUnit XML: one suite, named like the platform; sub-tests are cases of their own, after whose top-level test
/// their class is named. It fits the schema that Jenkins' xUnit plugin checks against (junit-10.xsd), one of the
/// stricter of those in use.
pub fn junit(snapshot: &Snapshot) -> Result<String, SerializeError> {
    let mut suite = TestSuite::new(snapshot.platform.as_str());
    suite.set_timestamp(snapshot.began).set_time(snapshot.lasted);
    suite.add_property(("version", snapshot.version.as_str()));
    suite.add_test_cases(snapshot.records.iter().map(|r| case(r)));
    if !snapshot.left.is_empty() {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
        status.set_type("left").set_message(snapshot.left.join("\n"));
        let mut case = TestCase::new("clean-up", status);
        suite.add_test_case(case.set_classname("clean-up").set_time(std::time::Duration::ZERO).clone());
    }
    let mut report = Report::new(env!("CARGO_PKG_NAME"));
    report.set_time(snapshot.lasted).add_test_suite(suite);
    let text = report.to_string()?;
    // The schema knows the number of skipped tests on the suite only. No attribute before it has a `skipped`.
    let outer = text.find("<testsuites ").and_then(|at| Some((at, at + text[at..].find('>')?)));
    Ok(match outer {
        Some((start, end)) => {
            let number = format!(" skipped=\"{}\"", report.skipped);
            text[..start].to_owned() + &text[start..end].replacen(&number, "", 1) + &text[end..]
        }
        None => text,
    })
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
    use std::sync::Arc;
    use std::time::Duration;

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
