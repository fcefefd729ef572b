//! Log lines for people, on stderr: `<UTC time> <component>: <message>`.
//!
//! The levels are those of upstream's capnslog, because `--log-level` names them; NOTICE is the default.

use std::fmt;
use std::io::Write;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

/// How important a message is; a message is shown when its level is at most the chosen one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// The process cannot go on.
    Critical,
    /// Something failed.
    Error,
    /// Something looks wrong but work goes on.
    Warning,
    /// Worth knowing in normal use: the default.
    Notice,
    /// Steps taken.
    Info,
    /// Details for finding faults.
    Debug,
    /// Everything.
    Trace,
}

const NAMES: [(Level, &str, &str); 7] = [
    (Level::Critical, "CRITICAL", "C"),
    (Level::Error, "ERROR", "E"),
    (Level::Warning, "WARNING", "W"),
    (Level::Notice, "NOTICE", "N"),
    (Level::Info, "INFO", "I"),
    (Level::Debug, "DEBUG", "D"),
    (Level::Trace, "TRACE", "T"),
];

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES[*self as usize].1)
    }
}

impl FromStr for Level {
    type Err = String;
    /// Accepts the full name, its first letter, or capnslog's number (0 = ERROR … 5 = TRACE), in any case.
    fn from_str(s: &str) -> Result<Self, String> {
        let up = s.to_ascii_uppercase();
        if let Some(&(level, ..)) = NAMES.iter().find(|(_, name, letter)| up == *name || up == *letter) {
            return Ok(level);
        }
        match up.parse::<usize>() {
            Ok(n) if n <= 5 => Ok(NAMES[n + 1].0),
            _ => Err(format!(
                "unknown log level {s:?}; use CRITICAL, ERROR, WARNING, NOTICE, INFO, DEBUG or TRACE"
            )),
        }
    }
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Notice as u8);
/// Takes finished log lines, without their newline.
pub type Sink = Box<dyn Fn(&str) + Send>;

/// Where lines go instead of straight to stderr while something (a progress bar) owns the terminal.
static SINK: Mutex<Option<Sink>> = Mutex::new(None);

/// Shows messages up to `level` from now on.
pub fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Whether a message of this level would be shown.
pub fn enabled(level: Level) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// Hands every log line to `sink` (without its newline) instead of stderr; `None` restores stderr.
pub fn set_sink(sink: Option<Sink>) {
    if let Ok(mut place) = SINK.lock() {
        *place = sink;
    }
}

/// Writes one message; use the macros instead. A closed stderr is ignored: there is nobody left to tell.
pub fn write(level: Level, component: &str, message: fmt::Arguments<'_>) {
    if !enabled(level) {
        return;
    }
    let line = format!("{} {component}: {message}", chrono::Utc::now().format("%Y-%m-%dT%H:%M:%SZ"));
    match SINK.lock().ok().as_deref() {
        Some(Some(sink)) => sink(&line),
        _ => {
            let _ = writeln!(std::io::stderr().lock(), "{line}");
        }
    }
}

/// Logs at level CRITICAL: component, format, arguments.
#[macro_export]
macro_rules! critical {
    ($component:expr, $($arg:tt)*) => { $crate::log::write($crate::log::Level::Critical, $component, format_args!($($arg)*)) };
}
/// Logs at level ERROR: component, format, arguments.
#[macro_export]
macro_rules! error {
    ($component:expr, $($arg:tt)*) => { $crate::log::write($crate::log::Level::Error, $component, format_args!($($arg)*)) };
}
/// Logs at level WARNING: component, format, arguments.
#[macro_export]
macro_rules! warning {
    ($component:expr, $($arg:tt)*) => { $crate::log::write($crate::log::Level::Warning, $component, format_args!($($arg)*)) };
}
/// Logs at level NOTICE: component, format, arguments.
#[macro_export]
macro_rules! notice {
    ($component:expr, $($arg:tt)*) => { $crate::log::write($crate::log::Level::Notice, $component, format_args!($($arg)*)) };
}
/// Logs at level INFO: component, format, arguments.
#[macro_export]
macro_rules! info {
    ($component:expr, $($arg:tt)*) => { $crate::log::write($crate::log::Level::Info, $component, format_args!($($arg)*)) };
}
/// Logs at level DEBUG: component, format, arguments.
#[macro_export]
macro_rules! debug {
    ($component:expr, $($arg:tt)*) => { $crate::log::write($crate::log::Level::Debug, $component, format_args!($($arg)*)) };
}
/// Logs at level TRACE: component, format, arguments.
#[macro_export]
macro_rules! trace {
    ($component:expr, $($arg:tt)*) => { $crate::log::write($crate::log::Level::Trace, $component, format_args!($($arg)*)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_parse_as_upstream_spells_them() {
        for (text, level) in [
            ("NOTICE", Level::Notice),
            ("n", Level::Notice),
            ("0", Level::Error),
            ("5", Level::Trace),
            ("Info", Level::Info),
        ] {
            assert_eq!(text.parse::<Level>(), Ok(level));
        }
        assert!("6".parse::<Level>().is_err());
        assert!("loud".parse::<Level>().unwrap_err().contains("loud"));
    }
}
