//! `ore gcloud index` and `ore gcloud sync`: trees in Cloud Storage.

use ::mantle::applet::Context;
use ::mantle::args;
use ::mantle::bucket::{self, Error, IndexOptions, Summary, SyncOptions};
use ::mantle::cloud::google::storage::{Error as StorageError, Location};
use ::mantle::error::{Result, Section as _, Stop, WrapErr, eyre, usage};
use ::mantle::{notice, output};
use clap::{Arg, ArgAction, ArgMatches, Command};
use color_eyre::eyre::Report;

fn switch(id: &'static str) -> Arg {
    Arg::new(id).long(id).action(ArgAction::SetTrue)
}

/// What both commands have.
fn shared(command: Command) -> Command {
    command
        .arg(switch("dry-run").short('n').help("Change nothing, only say what would be done"))
        .arg(switch("recursive").short('r').help("Go through all folders below, not just the one named"))
        .arg(
            Arg::new("html-title")
                .long("html-title")
                .short('T')
                .value_name("TITLE")
                .help("Head pages with this instead of the bucket's name"),
        )
}

pub fn index_command() -> Command {
    let command = Command::new("index")
        .about("Update HTML indexes for Google Storage")
        .long_about(
            "Write an index.html into every folder that has objects in it. What is right already is left alone.",
        )
        .arg(Arg::new("url").value_name("URL").num_args(0..).help("gs://bucket/prefix/; several are done one after the other"));
    shared(command)
        .arg(switch("force").short('f').help("Write pages even if they are there already"))
        .arg(
            switch("delete").help("Delete pages of folders that are empty, and with -D off those of folders"),
        )
        .arg(
            switch("directories")
                .short('D')
                .help("Also write pages named as the folder, and redirects named as it without its slash"),
        )
}

pub fn sync_command() -> Command {
    let command = Command::new("sync")
        .about("Synchronize directories from one Google Storage bucket to another")
        .long_about(
            "Copy what the source has and the destination has not, by length and checksum. Index pages are not copied: \
             -D and -I make new ones. All copies are made before anything is deleted; signatures come after what they \
             sign, version.txt after everything else.",
        )
        .arg(Arg::new("url").value_name("URL").num_args(0..).help("Source and destination: gs://src/foo gs://dst/bar"));
    shared(command)
        .arg(switch("force").short('f').help("Copy and write even what is there already"))
        .arg(switch("delete").help("Delete what the source does not have, and pages that are not to be"))
        .arg(switch("allow-mass-delete").help(
            "Let --delete delete more than ten objects even if they are more than half of what is there",
        ))
        .arg(
            switch("index-dirs")
                .short('D')
                .help("Write pages named as the folders, and redirects named as those without their slash"),
        )
        .arg(switch("index-html").short('I').help("Write an index.html into every folder"))
}

/// `ore gcloud index`.
pub async fn index(matches: &ArgMatches, context: &Context) -> Result<()> {
    let places = places(matches)?;
    if places.is_empty() {
        return Err(usage("No URLs specified").suggestion("pass one or more like gs://bucket/prefix/"));
    }
    let flag = |id| args::flag(matches, id);
    let options = IndexOptions {
        title: matches.get_one("html-title").cloned(),
        recursive: flag("recursive"),
        delete: flag("delete"),
        directories: flag("directories"),
        index_html: true,
        force: flag("force"),
        dry_run: flag("dry-run"),
    };
    let storage = super::storage(matches)?;
    for at in &places {
        let done = bucket::index(&storage, at, &options, &context.cancel).await;
        let done = done.map_err(|e| explain(e, &format!("cannot update the indexes of {at}")))?;
        report(&at.to_string(), &done, options.dry_run);
    }
    let text = if options.dry_run { "Dry-run successful!" } else { "Update successful!" };
    output::line(text).wrap_err("cannot write to standard output")
}

/// `ore gcloud sync`.
pub async fn sync(matches: &ArgMatches, context: &Context) -> Result<()> {
    let [source, destination] = &places(matches)?[..] else {
        return Err(usage("Expected exactly two gs:// URLs: a source and a destination"));
    };
    let flag = |id| args::flag(matches, id);
    let options = SyncOptions {
        recursive: flag("recursive"),
        delete: flag("delete"),
        force: flag("force"),
        dry_run: flag("dry-run"),
        allow_mass_delete: flag("allow-mass-delete"),
        index: Some(IndexOptions {
            title: matches.get_one("html-title").cloned(),
            recursive: flag("recursive"),
            delete: flag("delete"),
            directories: flag("index-dirs"),
            index_html: flag("index-html"),
            force: flag("force"),
            dry_run: flag("dry-run"),
        }),
    };
    let storage = super::storage(matches)?;
    let done = bucket::sync(&storage, source, destination, &options, &context.cancel).await;
    let done = done.map_err(|e| explain(e, &format!("cannot sync {source} to {destination}")))?;
    report(&destination.to_string(), &done, options.dry_run);
    Ok(())
}

/// The URLs, all of them read before any is used.
fn places(matches: &ArgMatches) -> Result<Vec<Location>> {
    let urls = matches.get_many::<String>("url").into_iter().flatten();
    urls.map(|url| Location::prefix(url).map_err(|e: StorageError| usage(e.to_string()))).collect()
}

fn report(at: &str, done: &Summary, dry_run: bool) {
    notice!("ore", "{at}: {done}{}", if dry_run { " (dry run: nothing was changed)" } else { "" });
}

/// The error with advice: which option helps.
fn explain(error: Error, what: &str) -> Report {
    match error {
        Error::Interrupted => Stop::Interrupted.into(),
        Error::Overlap { .. } => {
            usage(error.to_string()).suggestion("name two places of which neither is part of the other")
        }
        Error::MassDelete { .. } => eyre!(error).wrap_err(what.to_owned()).suggestion(
            "see whether the source is complete; pass --allow-mass-delete if this is as it should be",
        ),
        _ if error.needs_credentials() => eyre!(error)
            .wrap_err(what.to_owned())
            .suggestion("pass --json-key, or let `gcloud auth application-default login` make credentials"),
        _ => eyre!(error).wrap_err(what.to_owned()),
    }
}
