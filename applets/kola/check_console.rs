//! `kola check-console`: looks through console output for signs of trouble.

use std::fs::File;
use std::io::{self, Read};

use mantle::badness;
use mantle::error::{FAILURE, Result, SUCCESS};
use mantle::output;

/// Scans files (`-` or none: stdin), one pass each, and prints what is found. Returns the exit status: a finding
/// or an unreadable file is a failure.
///
/// # Errors
/// When stdout fails.
pub fn run(files: &[String], verbose: bool) -> Result<u8> {
    let stdin = ["-".to_owned()];
    let files = if files.is_empty() { &stdin } else { files };
    let mut status = SUCCESS;
    for file in files {
        let name = if file == "-" { "stdin" } else { file };
        match scan(file, verbose) {
            Ok(findings) => {
                for finding in &findings {
                    status = FAILURE;
                    output::line(format_args!("{name}: {}", finding))?;
                }
            }
            Err(e) => {
                status = FAILURE;
                mantle::error!("cli", "cannot read {name}: {e}");
            }
        }
    }
    Ok(status)
}

fn scan(file: &str, verbose: bool) -> io::Result<Vec<badness::Finding>> {
    let input: Box<dyn Read> = if file == "-" {
        if verbose {
            output::line("Reading input from stdin...")?;
        }
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(file)?)
    };
    badness::scan(input, badness::Source::Console, &[])
}
