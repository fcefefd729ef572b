//! The results as they come, for programs: a line of JSON for each event.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

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
        attempt: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        run: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        system: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        part: Option<usize>,
        #[serde(skip_serializing_if = "Option::is_none")]
        of: Option<usize>,
        selected: usize,
        digest: &'a str,
    },
    TestStarted {
        at: f64,
        name: &'a str,
        depth: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        again: Option<u32>,
    },
    TestEnded {
        at: f64,
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
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        interrupted: bool,
        at: f64,
    },
}

#[derive(Serialize)]
struct Timed<'a> {
    time: String,
    #[serde(flatten)]
    line: Line<'a>,
}

/// A file that grows with the run.
pub struct Events {
    file: File,
    /// What `at` counts from: clocks of the wall may be wrong, and be put right meanwhile.
    clock: Instant,
}

impl Events {
    /// Begins the file, with the line for the start of the run.
    ///
    /// # Errors
    /// What the file system says.
    pub fn begin(path: &Path, heading: &Heading<'_>) -> io::Result<Self> {
        let mut events = Self { file: File::create(path)?, clock: Instant::now() };
        let Heading { planned, platform, version, share, selection } = *heading;
        let part = share.part.as_ref();
        events.write(Line::RunStarted {
            mantle: env!("CARGO_PKG_VERSION"),
            platform,
            version,
            planned,
            attempt: &share.attempt,
            run: &share.run,
            system: &share.system,
            by: part.map(|p| &*p.by),
            part: part.map(|p| p.part),
            of: part.map(|p| p.of),
            selected: selection.names.len(),
            digest: &selection.digest,
        })?;
        Ok(events)
    }

    /// Adds a step.
    ///
    /// # Errors
    /// What the file system says.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        let again = |attempt: u32| (attempt > 0).then_some(attempt);
        let at = self.at();
        self.write(match event {
            Event::Started { name, depth, attempt } => {
                Line::TestStarted { at, name, depth: *depth, again: again(*attempt) }
            }
            Event::Ended(record) => Line::TestEnded {
                at,
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
    pub fn end(
        &mut self,
        result: &str,
        interrupted: bool,
        counts: &[(Outcome, usize)],
        left: &[String],
    ) -> io::Result<()> {
        let occurred = counts.iter().filter(|(_, count)| *count > 0);
        let counts = occurred.map(|(outcome, count)| (outcome.as_str(), *count)).collect();
        let at = self.at();
        self.write(Line::RunEnded { result, counts, left, interrupted, at })
    }

    /// Seconds since the start, in milliseconds.
    fn at(&self) -> f64 {
        self.clock.elapsed().as_millis() as f64 / 1000.0
    }

    /// A line at once: whoever follows the file, or finds it after a crash, sees only whole ones.
    fn write(&mut self, line: Line<'_>) -> io::Result<()> {
        let time = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let mut text = serde_json::to_string(&Timed { time, line })?;
        text.push('\n');
        self.file.write_all(text.as_bytes())
    }
}
