//! `gangue get`.

use std::path::PathBuf;

use ::mantle::applet::Context;
use ::mantle::args;
use ::mantle::cloud::google::sources::Choice;
use ::mantle::download::{MakeVerifier, Signed, Source, Update, signature};
use ::mantle::error::{Result, Section as _, Stop, WrapErr as _, eyre, usage};
use ::mantle::target::{self, Target};
use ::mantle::{notice, warning};
use clap::ArgMatches;

use crate::downloads;

/// Downloads and verifies one file.
pub async fn run(matches: &ArgMatches, context: &Context) -> Result<()> {
    let text: &String = matches.get_one("url").ok_or_else(|| usage("Expected one or two arguments"))?;
    let source: Source = text.parse().map_err(|e| usage(format!("{e}")))?;
    let path: PathBuf = matches.get_one("path").cloned().unwrap_or_default();
    let target = destination(&source, path)?;
    let keep_signature = args::flag(matches, "keep-sig");
    if keep_signature && target == Target::Stdout {
        return Err(usage("--keep-sig goes with a file, not with standard output"));
    }
    // Before anything is asked of a server: a bad key file would be found out last otherwise.
    let keyring = if args::flag(matches, "verify") {
        Some(downloads::keyring(matches.get_one("verify-key").map(PathBuf::as_path))?)
    } else {
        warning!("gangue", "the signature is not verified");
        None
    };
    let choice =
        Choice { service: args::flag(matches, "service-auth"), key: downloads::path(matches, "json-key") };
    let engine = downloads::engine(choice, downloads::SCOPES)?;
    let explain = |e| downloads::explain(e, &source);
    let report = match target {
        Target::Stdout => {
            let verifier =
                keyring.as_ref().map(|keyring| move |bytes: &[u8]| signature::check(keyring, bytes));
            let verifier = verifier.as_ref().map(|verifier| verifier as MakeVerifier<'_>);
            let (file, outcome) = engine.spool(&source, verifier, &context.cancel).await.map_err(explain)?;
            // Nobody may be reading: a signal ends the wait, not the writing thread.
            let copy = tokio::task::spawn_blocking(move || target::to_stdout(&file));
            let copied = context.cancel.run_until_cancelled(copy).await.ok_or(Stop::Interrupted)?;
            copied?.wrap_err("cannot write to standard output")?;
            downloads::last_line(&Update::Replaced(outcome), "standard output", None)
        }
        Target::File(destination) => {
            let update = match &keyring {
                Some(keyring) => {
                    let signed = Signed {
                        source: &source,
                        destination: &destination,
                        keep_signature,
                        decompress: None,
                        verifier: &|bytes| signature::check(keyring, bytes),
                    };
                    engine.update_signed(&signed, &context.cancel).await
                }
                None => engine.update(&source, &destination, &context.cancel).await,
            };
            let size = destination.metadata().ok().map(|m| m.len());
            downloads::last_line(&update.map_err(explain)?, &destination.display().to_string(), size)
        }
    };
    if !args::flag(matches, "quiet") {
        notice!("gangue", "{report}");
    }
    Ok(())
}

/// The path itself, or the source's name below it if it is a folder.
fn destination(source: &Source, path: PathBuf) -> Result<Target> {
    let is_stdout = path.as_os_str() == "-";
    let is_folder =
        path.as_os_str().is_empty() || path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/");
    if is_stdout || !is_folder {
        return Ok(Target::of(&path)?);
    }
    let name = source
        .base_name()
        .ok_or_else(|| usage(format!("the last part of {source} cannot name a file: pass PATH")))?;
    let path = path.join(name);
    if path.is_dir() {
        return Err(eyre!("{} is a folder", path.display()).suggestion("pass a PATH that is none"));
    }
    // Whatever the source's name is: only a PATH may mean standard output.
    Ok(Target::File(Target::file(&path)?))
}
