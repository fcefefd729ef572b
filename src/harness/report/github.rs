//! The results where GitHub Actions shows them: <https://docs.github.com/actions/reference/workflow-commands>.

use std::fmt::Write as _;

use crate::harness::{Outcome, Record, Summary};

/// Most annotations of one kind that a step can show.
const ANNOTATIONS: usize = 10;
/// Most tests in a summary, which may have 1 MiB.
const TESTS: usize = 500;

/// Workflow commands that annotate the run: an error for each test that did not pass, then a warning for each that
/// was flaky.
pub fn annotations(summary: &Summary) -> Vec<String> {
    let command = |kind: &str, record: &Record| {
        let title = property(&format!("{}: {}", record.outcome, record.name));
        format!("::{kind} title={title}::{}", message(&record.headline()))
    };
    let errors = summary.bad.iter().take(ANNOTATIONS).map(|r| command("error", r));
    let warnings = summary.flaky.iter().take(ANNOTATIONS).map(|r| command("warning", r));
    errors.chain(warnings).collect()
}

/// What is added to the page of the workflow's run, as Markdown.
pub fn step_summary(summary: &Summary, heading: &str) -> String {
    let mut out = format!("### {}\n\n{summary} in {} s\n", cell(heading), summary.lasted.as_secs());
    let told: Vec<_> = summary.bad.iter().chain(&summary.flaky).collect();
    if told.is_empty() {
        return out;
    }
    out.push_str("\n| test | result | seconds | what went wrong |\n|---|---|---:|---|\n");
    for record in told.iter().take(TESTS) {
        let (name, outcome, seconds) = (cell(&record.name), record.outcome, record.duration.as_secs());
        let kind =
            if record.outcome == Outcome::Fail { format!(" ({})", record.kind()) } else { String::new() };
        writeln!(out, "| {name} | {outcome}{kind} | {seconds} | {} |", cell(&record.headline()))
            .expect("writing to a string cannot fail");
    }
    if let more @ 1.. = told.len().saturating_sub(TESTS) {
        writeln!(out, "\nand {more} more").expect("writing to a string cannot fail");
    }
    out
}

fn message(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    message(text).replace(':', "%3A").replace(',', "%2C")
}

/// A text in a cell of a table, where nothing in it has a meaning.
fn cell(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars().take(300) {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\n' | '\r' => out.push(' '),
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '(' | ')' | '#' | '|' | '~' | '!' | '@' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::harness::Fault;

    fn record(name: &str, outcome: Outcome, reason: &str) -> Arc<Record> {
        Arc::new(Record {
            name: name.into(),
            depth: 0,
            outcome,
            duration: Duration::from_millis(2500),
            output: String::new(),
            reason: Some(reason.into()),
            fault: Fault::Timeout,
            cause: None,
            attempt: 0,
            earlier: Vec::new(),
        })
    }

    #[test]
    fn nothing_in_a_result_is_a_command_or_markup() {
        let summary = Summary {
            bad: vec![record("a:b,c", Outcome::Fail, "100 % of <b>| it |</b>\r\n::error::more")],
            flaky: vec![record("f", Outcome::Flaky, "at first")],
            lasted: Duration::from_secs(7),
            ..Summary::default()
        };
        assert_eq!(
            annotations(&summary),
            [
                "::error title=FAIL%3A a%3Ab%2Cc::100 %25 of <b>| it |</b>",
                "::warning title=FLAKY%3A f::at first"
            ]
        );
        let page = step_summary(&summary, "kola on qemu");
        assert!(page.starts_with("### kola on qemu\n\n0 run in 7 s\n\n| test | result |"), "{page}");
        let row = "| a:b,c | FAIL (timeout) | 2 | 100 % of &lt;b&gt;\\| it \\|&lt;/b&gt; |\n";
        assert!(page.contains(row) && page.ends_with("| f | FLAKY | 2 | at first |\n"), "{page}");
    }

    #[test]
    fn summaries_are_bounded() {
        let many = (0..600).map(|n| record(&format!("t{n}"), Outcome::Infra, &"x".repeat(5000))).collect();
        let summary = Summary { bad: many, ..Summary::default() };
        let page = step_summary(&summary, "x");
        assert!(page.len() < 1 << 20 && page.ends_with("\nand 100 more\n"), "{}", page.len());
        assert_eq!(annotations(&summary).len(), 10);
    }
}
