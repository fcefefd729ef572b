//! `gangue get`.

use std::path::PathBuf;

use ::mantle::applet::Context;
use ::mantle::args;
use ::mantle::cloud::google::sources::Choice;
use ::mantle::download::{Signed, Source, signature};
use ::mantle::error::{Result, Section as _, eyre, usage};
use ::mantle::warning;
use clap::ArgMatches;

use crate::downloads;

/// Downloads and verifies one file.
pub async fn run(matches: &ArgMatches, context: &Context) -> Result<()> {
    let text: &String = matches.get_one("url").ok_or_else(|| usage("Expected one or two arguments"))?;
    let source: Source = text.parse().map_err(|e| usage(format!("{e}")))?;
    let path: PathBuf = matches.get_one("path").cloned().unwrap_or_default();
    let destination = destination(&source, path)?;
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
    let update = match &keyring {
        Some(keyring) => {
            let signed = Signed {
                source: &source,
                destination: &destination,
                keep_signature: args::flag(matches, "keep-sig"),
                decompress: None,
                verifier: &|bytes| signature::check(keyring, bytes),
            };
            engine.update_signed(&signed, &context.cancel).await
        }
        None => engine.update(&source, &destination, &context.cancel).await,
    };
    downloads::report("gangue", &update.map_err(|e| downloads::explain(e, &source))?, &destination);
    Ok(())
}

/// The path itself, or the source's name below it if it is a folder.
fn destination(source: &Source, path: PathBuf) -> Result<PathBuf> {
    let is_folder =
        path.as_os_str().is_empty() || path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/");
    if !is_folder {
        return Ok(path);
    }
    let name = source
        .base_name()
        .ok_or_else(|| usage(format!("the last part of {source} cannot name a file: pass PATH")))?;
    let path = path.join(name);
    if path.is_dir() {
        return Err(eyre!("{} is a folder", path.display()).suggestion("pass a PATH that is none"));
    }
    Ok(path)
}
