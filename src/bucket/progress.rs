//! How far a job is: a bar at the bottom of a terminal, now and then a log line elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::log;

/// How far apart the lines are without a terminal; jobs that are faster print none.
const LINES: Duration = Duration::from_secs(15);

const BAR: &str = "{msg} [{bar:20}] {pos}/{len} {eta}";

/// Shows one job; all traces of it are gone when it is dropped.
pub struct Progress {
    name: String,
    bar: Option<ProgressBar>,
    total: u64,
    done: u64,
    last_line: Instant,
}

impl Progress {
    /// Of so many steps.
    pub fn new(name: String, total: usize) -> Self {
        let terminal = io::stderr().is_terminal()
            && log::enabled(log::Level::Notice)
            && std::env::var_os("TERM").is_some_and(|t| !t.is_empty() && t != "dumb");
        let total = total as u64;
        let bar = terminal.then(|| {
            let style = ProgressStyle::with_template(BAR).expect("the template above is well formed");
            let bar = ProgressBar::new(total).with_style(style.progress_chars("=> "));
            bar.set_message(name.clone());
            let below = bar.clone();
            log::set_sink(Some(Box::new(move |line| {
                // A terminal that went away has no reader for the line.
                let _ = below.suspend(|| writeln!(io::stderr().lock(), "{line}"));
            })));
            bar
        });
        Self { name, bar, total, done: 0, last_line: Instant::now() }
    }

    /// One more step is done.
    pub fn advance(&mut self) {
        self.done += 1;
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        } else if self.last_line.elapsed() >= LINES {
            self.last_line = Instant::now();
            crate::notice!("bucket", "{}: {} of {}", self.name, self.done, self.total);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            log::set_sink(None);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_template_is_well_formed() {
        indicatif::ProgressStyle::with_template(super::BAR).unwrap();
    }
}
