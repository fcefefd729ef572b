//! What runs right now, at the bottom of a terminal.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::Event;

/// How lively the output is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Show the running tests at the bottom of the terminal behind stderr.
    pub bars: bool,
    /// Colour the results on stdout, and show control characters in them as escapes.
    pub color: bool,
}

impl Progress {
    /// What fits the terminals of this process; all off in pipes, with `NO_COLOR` (if not empty) or `TERM=dumb`.
    pub fn detect() -> Self {
        use crate::terminal::is_lively;
        Self { bars: is_lively(&io::stderr()), color: is_lively(&io::stdout()) }
    }
}

/// One line for each running test and one for all.
pub struct Bars {
    multi: MultiProgress,
    all: ProgressBar,
    running: HashMap<String, ProgressBar>,
    failed: usize,
}

impl Bars {
    pub fn new(planned: usize) -> Self {
        let multi = MultiProgress::new();
        let all = multi
            .add(ProgressBar::new(planned as u64).with_style(style("{elapsed:>6} {pos}/{len} tests{msg}")));
        all.enable_steady_tick(Duration::from_secs(1));
        let lines = multi.clone();
        crate::log::set_sink(Some(Box::new(move |line| {
            // A terminal that went away has no reader for the line.
            let _ = lines.suspend(|| writeln!(io::stderr().lock(), "{line}"));
        })));
        Self { multi, all, running: HashMap::new(), failed: 0 }
    }

    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Started { name, depth: 0, attempt } => {
                if *attempt > 0 {
                    self.all.inc_length(1);
                }
                let line = ProgressBar::new_spinner()
                    .with_style(style("{elapsed:>6} {msg}"))
                    .with_message(name.clone());
                let line = self.multi.insert_before(&self.all, line);
                line.enable_steady_tick(Duration::from_secs(1));
                self.running.insert(name.clone(), line);
            }
            Event::Ended(record) if record.depth == 0 => {
                if let Some(line) = self.running.remove(&record.name) {
                    line.finish_and_clear();
                    self.multi.remove(&line);
                }
                self.all.inc(1);
                if !record.outcome.is_good() {
                    self.failed += 1;
                    self.all.set_message(format!(", {} failed", self.failed));
                }
            }
            Event::Started { .. } | Event::Ended(_) => {}
        }
    }

    /// Runs `f` while nothing is drawn.
    pub fn suspend<R>(&self, f: impl FnOnce() -> R) -> R {
        self.multi.suspend(f)
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        for line in self.running.values() {
            line.finish_and_clear();
        }
        self.all.finish_and_clear();
        crate::log::set_sink(None);
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates above are well formed")
}
