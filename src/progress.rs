//! How far long work is: a bar at the bottom of a terminal, now and then a log line elsewhere.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, HumanDuration, ProgressBar, ProgressStyle};

use crate::log;

/// How far apart the lines are without a terminal; work that is faster prints none.
const LINES: Duration = Duration::from_secs(15);

/// Shows one piece of work; all traces of it are gone when it is dropped.
pub struct Progress {
    component: &'static str,
    name: String,
    unit: Unit,
    bar: Option<ProgressBar>,
    total: Option<u64>,
    done: u64,
    /// When this run of the work began, and with how much done.
    since: (Instant, u64),
    last_line: Instant,
}

/// Whether there is a terminal for a bar.
fn terminal() -> bool {
    crate::terminal::is_lively(&io::stderr()) && log::enabled(log::Level::Notice)
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Bytes,
    Steps,
}

impl Progress {
    /// Of the bytes of a file of this name; how many they are is told later, if at all.
    pub fn of_file(component: &'static str, name: &str) -> Self {
        Self::new(component, name, Unit::Bytes, SPINNER)
    }

    /// Of so many steps.
    pub fn of_steps(component: &'static str, name: &str, total: u64) -> Self {
        let mut progress = Self::new(component, name, Unit::Steps, STEPS);
        progress.total = Some(total);
        if let Some(bar) = &progress.bar {
            bar.set_length(total);
        }
        progress
    }

    fn new(component: &'static str, name: &str, unit: Unit, template: &str) -> Self {
        let bar = terminal().then(|| {
            let bar = ProgressBar::no_length().with_style(style(template)).with_message(name.to_owned());
            let below = bar.clone();
            log::set_sink(Some(Box::new(move |line| {
                // A terminal that went away has no reader for the line.
                let _ = below.suspend(|| writeln!(io::stderr().lock(), "{line}"));
            })));
            bar
        });
        let now = Instant::now();
        let name = name.to_owned();
        Self { component, name, unit, bar, total: None, done: 0, since: (now, 0), last_line: now }
    }

    /// An answer goes on at `position` of `total` bytes.
    pub fn answer(&mut self, position: u64, total: Option<u64>) {
        (self.done, self.total) = (position, total);
        self.since = (Instant::now(), position);
        let Some(bar) = &self.bar else { return };
        bar.set_position(position);
        bar.reset_eta();
        if let Some(total) = total {
            bar.set_length(total);
            bar.set_style(style(BAR));
        } else {
            bar.unset_length();
            bar.set_style(style(SPINNER));
        }
    }

    /// So many of so many bytes are done. The first of them may have been done before.
    pub fn reach(&mut self, done: u64, total: u64) {
        match self.total == Some(total) && done >= self.done {
            true => self.advance(done - self.done),
            false => self.answer(done, Some(total)),
        }
    }

    /// So many bytes or steps more are done.
    pub fn advance(&mut self, more: u64) {
        self.done += more;
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        } else if self.last_line.elapsed() >= LINES {
            self.last_line = Instant::now();
            crate::notice!(self.component, "{}", self.line());
        }
    }

    fn line(&self) -> String {
        if self.unit == Unit::Steps {
            return format!("{}: {} of {}", self.name, self.done, self.total.unwrap_or_default());
        }
        let (since, from) = self.since;
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let rate = (self.done - from) as f64 / since.elapsed().as_secs_f64().max(0.001);
        let rate_text = BinaryBytes(rate as u64);
        let Some(total) = self.total.filter(|t| *t > 0) else {
            return format!("{}: {}, {rate_text}/s", self.name, BinaryBytes(self.done));
        };
        let percent = u128::from(self.done) * 100 / u128::from(total);
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let left = total.saturating_sub(self.done) as f64 / rate.max(1.0);
        let left = HumanDuration(Duration::from_secs(left as u64));
        let total = BinaryBytes(total);
        format!("{}: {percent} % of {total}, {rate_text}/s, {left} left", self.name)
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

const BAR: &str = "{msg:!30} [{bar:20}] {binary_bytes} / {binary_total_bytes} {binary_bytes_per_sec} {eta}";
const STEPS: &str = "{msg} [{bar:20}] {pos}/{len} {eta}";
const SPINNER: &str = "{msg:!30} {binary_bytes} {binary_bytes_per_sec}";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates above are well formed").progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_rate_and_time_left() {
        let mut progress = Progress::of_file("test", "image.bin");
        progress.since.0 -= Duration::from_secs(10);
        progress.advance(10 << 20);
        assert!(progress.line().starts_with("image.bin: 10.00 MiB, "), "{}", progress.line());
        progress.total = Some(40 << 20);
        let line = progress.line();
        assert!(line.starts_with("image.bin: 25 % of 40.00 MiB, "), "{line}");
        assert!(line.contains("iB/s, ") && line.ends_with("seconds left"), "{line}");
        let mut progress = Progress::of_steps("test", "index gs://b/", 7);
        progress.advance(2);
        assert_eq!(progress.line(), "index gs://b/: 2 of 7");
    }

    #[test]
    fn the_templates_are_well_formed() {
        for template in [BAR, SPINNER, STEPS] {
            style(template);
        }
    }
}
