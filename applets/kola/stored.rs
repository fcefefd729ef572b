//! Results at places that several machines reach, as the options name them.

use clap::{ArgMatches, FromArgMatches as _};
use color_eyre::Section as _;
use color_eyre::eyre::{Report, Result, WrapErr as _, eyre};
use mantle::cloud::{aws, google};
use mantle::harness::Share;
use mantle::results::{Accounts, Done, Error, Place, Store};
use tokio_util::sync::CancellationToken;

/// Most names that are told.
const SHOWN: usize = 10;

/// Opens a place with the accounts of the platforms' options.
///
/// # Errors
/// When there is no use for them.
pub async fn open(place: Place, matches: &ArgMatches) -> Result<Store> {
    let accounts = Accounts {
        google: google::Account::from_arg_matches(matches)?.choice(),
        aws: aws::Account::from_arg_matches(matches)?,
    };
    let name = place.to_string();
    Store::open(place, &accounts).await.map_err(explain).wrap_err_with(|| format!("cannot use {name}"))
}

/// The error with advice.
pub fn explain(error: Error) -> Report {
    let needs = error.needs_credentials();
    let report = Report::new(error);
    match needs {
        true => report.suggestion(
            "pass --gce-json-key or --aws-profile, or let `gcloud auth application-default login` or `aws configure` make credentials",
        ),
        false => report,
    }
}

/// What the folder of a run is called at a place: others that run the same share have another one.
pub fn folder(share: &Share) -> String {
    let attempt = &share.attempt;
    match &share.part {
        Some(part) => {
            let width = part.of.to_string().len();
            format!("part-{:0width$}-of-{}-{attempt}", part.part, part.of)
        }
        None => format!("whole-{attempt}"),
    }
}

/// Says what came of the uploads.
///
/// # Errors
/// When something is missing.
pub fn tell(done: &Done, place: &Place, folder: &str, cancel: &CancellationToken) -> Result<()> {
    let at = format!("{}/{folder}", place.to_string().trim_end_matches('/'));
    if done.missing.is_empty() {
        // A run that could not begin has none.
        if done.stored == 0 {
            return Ok(());
        }
        mantle::notice!("kola", "{} files of the results are in {at}", done.stored);
        return Ok(());
    }
    let names: Vec<&str> = done.missing.iter().take(SHOWN).map(String::as_str).collect();
    let more = match done.missing.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let why = done.reason.as_deref().unwrap_or("unknown");
    let late = if cancel.is_cancelled() { ", as the run was interrupted" } else { "" };
    mantle::error!("kola", "results are missing in {at}{late}: {}{more}: {why}", names.join(", "));
    Err(eyre!(
        "{} of {} files of the results could not be stored in {at}",
        done.missing.len(),
        done.missing.len() + done.stored
    )
    .suggestion("the output folder has all of them; copy it there, or name it to `kola merge`"))
}
