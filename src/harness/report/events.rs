//! The results as they come, for programs: a line of JSON for each event.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use chrono::{SecondsFormat, Utc};
use serde::Serialize;

use super::{Event, Heading};
use crate::harness::outcome::Outcome;

/// What the lines look like, as JSON Schema.
pub const SCHEMA: &str = include_str!("events.schema.json");

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Line<'a> {
    RunStarted {
        mantle: &'a str,
        platform: &'a str,
        version: &'a str,
        planned: usize,
    },
    TestStarted {
        name: &'a str,
        depth: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        again: Option<u32>,
    },
    TestEnded {
        name: &'a str,
        depth: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        again: Option<u32>,
        outcome: Outcome,
        seconds: f64,
        #[serde(skip_serializing_if = "Option::is_none")]
        kind: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
        output: &'a str,
    },
    RunEnded {
        result: &'a str,
        counts: BTreeMap<&'a str, usize>,
        left: &'a [String],
    },
}

#[derive(Serialize)]
struct Timed<'a> {
    time: String,
    #[serde(flatten)]
    line: Line<'a>,
}

/// A file that grows with the run.
pub struct Events(File);

impl Events {
    /// Begins the file, with the line for the start of the run.
    ///
    /// # Errors
    /// What the file system says.
    pub fn begin(path: &Path, heading: &Heading<'_>) -> io::Result<Self> {
        let mut events = Self(File::create(path)?);
        let Heading { planned, platform, version } = *heading;
        events.write(Line::RunStarted { mantle: env!("CARGO_PKG_VERSION"), platform, version, planned })?;
        Ok(events)
    }

    /// Adds a step.
    ///
    /// # Errors
    /// What the file system says.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        let again = |attempt: u32| (attempt > 0).then_some(attempt);
        self.write(match event {
            Event::Started { name, depth, attempt } => {
                Line::TestStarted { name, depth: *depth, again: again(*attempt) }
            }
            Event::Ended(record) => Line::TestEnded {
                name: &record.name,
                depth: record.depth,
                again: again(record.attempt),
                outcome: record.outcome,
                seconds: record.duration.as_secs_f64(),
                kind: (record.outcome != Outcome::Pass).then(|| record.kind()),
                reason: record.reason.as_deref(),
                output: &record.output,
            },
        })
    }

    /// Adds the end.
    ///
    /// # Errors
    /// What the file system says.
    pub fn end(&mut self, result: &str, counts: &[(Outcome, usize)], left: &[String]) -> io::Result<()> {
        let occurred = counts.iter().filter(|(_, count)| *count > 0);
        let counts = occurred.map(|(outcome, count)| (outcome.as_str(), *count)).collect();
        self.write(Line::RunEnded { result, counts, left })
    }

    /// A line at once: whoever follows the file, or finds it after a crash, sees only whole ones.
    fn write(&mut self, line: Line<'_>) -> io::Result<()> {
        let time = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let mut text = serde_json::to_string(&Timed { time, line })?;
        text.push('\n');
        self.0.write_all(text.as_bytes())
    }
}
