//! Functions of this binary that it calls in a process of its own, since they have to begin as the only thread, or as
//! another user: `<binary> _MULTICALL_ENTRYPOINT_<name> <argument>...`, before any command line is read.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::PathBuf;

use color_eyre::eyre::Report;

use crate::error;

/// What the first argument begins with.
const PREFIX: &str = "_MULTICALL_ENTRYPOINT_";

/// A function that can be called so: it gets the arguments and returns the exit status.
pub struct Entry {
    /// The rest of the first argument.
    pub name: &'static str,
    /// The function.
    pub run: fn(&[OsString]) -> error::Result<u8>,
}

/// Runs the entry that a command line names; `None` if it names none. Errors are text on stderr and status 1.
pub fn call(entries: &[&[Entry]], argv: &[OsString]) -> Option<u8> {
    let name = argv.get(1)?.to_str()?.strip_prefix(PREFIX)?;
    error::install(false);
    let run = || match entries.iter().copied().flatten().find(|e| e.name == name) {
        Some(entry) => (entry.run)(&argv[2..]),
        None => Err(Report::msg(format!("there is no entry {name}"))),
    };
    Some(run().unwrap_or_else(|e| {
        let _ = std::io::stderr().write_all(error::render(&e).as_bytes()); // nobody is left to tell
        error::exit_code(&e, None)
    }))
}

/// The words that call an entry.
pub fn words(entry: &str, args: &[&OsStr]) -> std::io::Result<Vec<OsString>> {
    let binary: PathBuf = std::fs::read_link("/proc/self/exe")?;
    let entry = OsString::from(format!("{PREFIX}{entry}"));
    Ok([binary.into_os_string(), entry].into_iter().chain(args.iter().map(OsString::from)).collect())
}
