//! `plume index`: the index pages of release buckets.

use ::mantle::applet::Context;
use ::mantle::args;
use ::mantle::bucket::{self, IndexOptions, Style};
use ::mantle::cloud::google::sources::Choice;
use ::mantle::cloud::google::storage::{Error as StorageError, Storage};
use ::mantle::error::{Result, Section as _, Stop, eyre};
use ::mantle::release::index::{Job, plan};
use ::mantle::release::{Error, user};
use ::mantle::{info, notice, sdk};
use clap::ArgMatches;
use color_eyre::eyre::Report;

use crate::downloads;

/// What stands for any channel, board or version.
const ALL: &str = "all";

/// Makes the index pages of everything that was asked for.
pub async fn run(matches: &ArgMatches, context: &Context) -> Result<()> {
    let table = super::table(matches)?;
    let distribution = super::distribution(&table, matches)?;
    let given = |id: &str| matches.get_one::<String>(id).cloned();
    let channel = given("channel").unwrap_or_default();
    let board = given("board").unwrap_or_else(sdk::default_board);
    let version = given("version").or_else(sdk::manifest_version).filter(|v| !v.is_empty());
    for (what, value) in [("board", &board), ("channel", &channel)] {
        if value.is_empty() {
            return Err(super::explain(Error::Required(what)));
        }
    }
    let one = |value: &str| Some(value.to_owned()).filter(|v| v != ALL);
    let (channel, board, version) = (one(&channel), one(&board), version.as_deref().and_then(one));
    let plan =
        plan(distribution, channel.as_deref(), board.as_deref(), version.as_deref(), user().as_deref());
    let plan = plan.map_err(super::explain)?;
    for reason in &plan.skipped {
        // Nothing at all to do is worth a word to everybody.
        if plan.jobs.is_empty() { notice!("plume", "{reason}") } else { info!("plume", "{reason}") }
    }
    let choice = Choice { service: false, key: downloads::path(matches, "gce-json-key") };
    let storage = downloads::storage(choice, downloads::SCOPES)?;
    let dry_run = args::flag(matches, "dry-run");
    let style = matches.get_one::<Style>("html-style").copied().unwrap_or_default();
    for job in &plan.jobs {
        let result = make(&storage, job, style, dry_run, context).await;
        result.map_err(|e| {
            // A key that is no good is found out before a server is asked.
            let asked = !matches!(&e, bucket::Error::List { source, .. } if matches!(**source, StorageError::Credentials(_)));
            let report = explain(e, job);
            match &distribution.retired {
                Some(reason) if asked && downloads::path(matches, "channels").is_none() => {
                    report.suggestion(format!("{reason}: pass --channels with buckets of your own"))
                }
                _ => report,
            }
        })?;
    }
    Ok(())
}

async fn make(
    storage: &Storage,
    job: &Job,
    style: Style,
    dry_run: bool,
    context: &Context,
) -> Result<(), bucket::Error> {
    let Job { at, recursive, title, directories, index_html } = job.clone();
    let options = IndexOptions {
        title,
        style,
        recursive,
        delete: true,
        directories,
        index_html,
        force: false,
        dry_run,
        expected: Vec::new(),
    };
    let done = bucket::index(storage, &at, &options, &context.cancel).await?;
    info!("plume", "{at}: {done}{}", if dry_run { " (dry run: nothing was changed)" } else { "" });
    Ok(())
}

/// The error with advice: which option helps.
fn explain(error: bucket::Error, job: &Job) -> Report {
    if matches!(error, bucket::Error::Interrupted) {
        return Stop::Interrupted.into();
    }
    let anonymous = error.needs_credentials();
    let report = eyre!(error).wrap_err(format!("cannot update the indexes of {}", job.at));
    match anonymous {
        true => report.suggestion(
            "pass --gce-json-key, or let `gcloud auth application-default login` make credentials",
        ),
        false => report,
    }
}
