//! How a command's failure becomes an exit status and text on stderr.
//!
//! Any `eyre` report ends with status 1; the kinds of [`Stop`], found anywhere in the chain of causes, choose
//! another. Suggestions are color-eyre sections: `.suggestion("pass --user or create the file")`.

use color_eyre::config::{HookBuilder, Theme};
use color_eyre::owo_colors::Style;

use crate::text::did_you_mean;

pub use color_eyre::Section;
pub use color_eyre::eyre::{Report, Result, WrapErr, bail, ensure, eyre};

/// Exit status of a success.
pub const SUCCESS: u8 = 0;
/// Exit status of a failure, and of a bug (a panic).
pub const FAILURE: u8 = 1;
/// Exit status of a command line that does not parse.
pub const USAGE: u8 = 2;
/// Exit status of an option whose value was refused.
pub const OPTION: u8 = 3;

/// The exit statuses with their meanings, for man pages.
pub const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "Success."),
    ("1", "Something failed; the reason is on standard error."),
    ("2", "The command line or the configuration file is wrong."),
    ("3", "The value of an option was refused."),
    ("130, 143, 129", "Ended by SIGINT, SIGTERM or SIGHUP, after cleaning up."),
];

/// Why a command stops, where the kind decides the exit status.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// The command line asks for something that cannot be: status 2.
    #[error("{0}")]
    Usage(String),
    /// An option's value was refused: status 3.
    #[error("{0}")]
    Option(String),
    /// The user interrupted the work and it was cleaned up: 130, or 128 plus the signal's number.
    #[error("interrupted")]
    Interrupted,
}

/// A usage error (status 2) with this text.
pub fn usage(text: impl Into<String>) -> Report {
    Report::new(Stop::Usage(text.into()))
}

/// A refused option value (status 3) with this text.
pub fn refused(text: impl Into<String>) -> Report {
    Report::new(Stop::Option(text.into()))
}

/// A refused option value (status 3) that lists what is accepted and names the nearest.
pub fn refused_choice(what: &str, value: &str, accepted: &[&str]) -> Report {
    let report = refused(format!("unsupported {what} {value:?}"))
        .suggestion(format!("accepted are {}", accepted.join(", ")));
    match did_you_mean(value, accepted.iter().copied()) {
        Some(text) => report.suggestion(text),
        None => report,
    }
}

/// The exit status for this report; `signal` is the one that asked the process to stop, if any.
pub fn exit_code(report: &Report, signal: Option<i32>) -> u8 {
    if let Some(signal) = signal {
        return crate::shutdown::exit_code(signal);
    }
    if let Some(error) = find::<clap::Error>(report) {
        return u8::try_from(error.exit_code()).unwrap_or(FAILURE);
    }
    if find::<crate::config::Error>(report).is_some() {
        return USAGE;
    }
    match find::<Stop>(report) {
        Some(Stop::Usage(_)) => USAGE,
        Some(Stop::Option(_)) => OPTION,
        Some(Stop::Interrupted) => crate::shutdown::exit_code(libc::SIGINT),
        None => FAILURE,
    }
}

/// The text for stderr, ending in a newline: `Error: `, the message, its causes, its suggestions.
///
/// Empty for a plain interruption, which the user has already been told about.
pub fn render(report: &Report) -> String {
    if let Some(Stop::Interrupted) = report.downcast_ref::<Stop>() {
        return String::new();
    }
    let text = format!("{report:?}");
    let head = format!("\n   0: {report}");
    match text.strip_prefix(&head) {
        Some(rest) => format!("Error: {report}{}\n", rest.trim_end()),
        None => format!("Error: {}\n", text.trim()), // a message of several lines, which color-eyre indents
    }
}

fn find<E: std::error::Error + Send + Sync + 'static>(report: &Report) -> Option<&E> {
    report.downcast_ref::<E>().or_else(|| report.chain().find_map(|cause| cause.downcast_ref::<E>()))
}

/// Installs color-eyre's hooks; reports of errors get no stack trace unless `debug`, panics keep theirs.
///
/// Must be called before the process has a second thread. A second call changes nothing.
pub fn install(debug: bool) {
    if !debug && std::env::var_os("RUST_LIB_BACKTRACE").is_none() {
        // CI sets RUST_BACKTRACE=1, with which a missing file would print forty lines of frames.
        #[expect(unsafe_code, reason = "color-eyre reads this variable and offers no other switch")]
        // SAFETY: the caller promises that no other thread exists that could read the environment.
        unsafe {
            std::env::set_var("RUST_LIB_BACKTRACE", "0");
        }
    }
    // The message itself stays unstyled: `render` relies on it, and it reads well on every background.
    let theme = if crate::terminal::is_lively(&std::io::stderr()) {
        Theme::dark().error(Style::new())
    } else {
        Theme::new()
    };
    let builder = HookBuilder::default().theme(theme).display_env_section(false);
    // It fails only when hooks are in place, as in unit tests that share a process.
    let _ = builder.install();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_choose_the_exit_status_through_layers_of_context() {
        install(false);
        let wrap = |r: Report| r.wrap_err("outer").wrap_err("outermost");
        assert_eq!(exit_code(&wrap(usage("u")), None), 2);
        assert_eq!(exit_code(&wrap(refused("o")), None), 3);
        assert_eq!(exit_code(&wrap(eyre!("f")), None), 1);
        assert_eq!(exit_code(&wrap(Report::new(Stop::Interrupted)), None), 130);
        assert_eq!(exit_code(&eyre!("whatever"), Some(libc::SIGTERM)), 143);
    }

    #[test]
    fn reports_start_with_the_message_and_end_with_suggestions() {
        install(false);
        let report = std::fs::read("/nonexistent")
            .wrap_err("cannot read the image /nonexistent")
            .suggestion("pass another file")
            .unwrap_err();
        assert_eq!(
            render(&report),
            "Error: cannot read the image /nonexistent\n   1: No such file or directory (os error 2)\n\n\
             Suggestion: pass another file\n"
        );
        let report = refused_choice("platform", "qmu", &["aws", "qemu"]);
        let text = render(&report);
        assert!(text.starts_with("Error: unsupported platform \"qmu\"\n"), "{text}");
        assert!(text.contains("did you mean \"qemu\"?"), "{text}");
        assert_eq!(render(&Report::new(Stop::Interrupted)), "");
    }
}
