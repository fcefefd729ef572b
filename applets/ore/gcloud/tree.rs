//! `ore gcloud index` and `ore gcloud sync`: trees in Cloud Storage.

use ::mantle::applet::Context;
use ::mantle::bucket::{self, Error, IndexOptions, Style, Summary, SyncOptions};
use ::mantle::cloud::google::storage::Location;
use ::mantle::error::{Result, Section as _, WrapErr, eyre, usage};
use ::mantle::{notice, output};
use clap::Parser;

use crate::ore::group::{Explain, Verb};

/// What both commands have.
#[derive(clap::Args)]
#[group(skip)]
struct Shared {
    /// Change nothing, only say what would be done
    #[arg(long, short = 'n')]
    dry_run: bool,

    /// Go through all folders below, not just the one named
    #[arg(long, short)]
    recursive: bool,

    /// Head pages with this instead of the bucket's name
    #[arg(long, short = 'T', value_name = "TITLE")]
    html_title: Option<String>,

    /// What pages look like
    #[arg(long, value_name = "STYLE", value_enum, default_value_t)]
    html_style: Style,
}

#[derive(Parser)]
#[command(
    name = "index",
    about = "Update HTML indexes for Google Storage",
    long_about = "Write an index.html into every folder that has objects in it. What is right already is left alone."
)]
pub struct Index {
    /// gs://bucket/prefix/; several are done one after the other
    #[arg(value_name = "URL")]
    url: Vec<String>,

    #[command(flatten)]
    shared: Shared,

    /// Write pages even if they are there already
    #[arg(long, short)]
    force: bool,

    /// Delete pages of folders that are empty, and with -D off those of folders
    #[arg(long)]
    delete: bool,

    /// Also write pages named as the folder, and redirects named as it without its slash
    #[arg(long, short = 'D')]
    directories: bool,
}

impl Verb for Index {
    type Account = super::Options;

    async fn run(self, account: super::Options, context: &Context) -> Result<()> {
        let places = places(&self.url)?;
        if places.is_empty() {
            return Err(usage("No URLs specified").suggestion("pass one or more like gs://bucket/prefix/"));
        }
        let options = IndexOptions {
            title: self.shared.html_title,
            style: self.shared.html_style,
            recursive: self.shared.recursive,
            delete: self.delete,
            directories: self.directories,
            index_html: true,
            force: self.force,
            dry_run: self.shared.dry_run,
            expected: Vec::new(),
        };
        let storage = account.storage()?;
        for at in &places {
            let done = bucket::index(&storage, at, &options, &context.cancel).await;
            let done = done.map_err(|e| e.explain(&format!("cannot update the indexes of {at}")))?;
            report(&at.to_string(), &done, options.dry_run);
        }
        let text = if options.dry_run { "Dry-run successful!" } else { "Update successful!" };
        output::line(text).wrap_err("cannot write to standard output")
    }
}

#[derive(Parser)]
#[command(
    name = "sync",
    about = "Synchronize directories from one Google Storage bucket to another",
    long_about = "Copy what the source has and the destination has not, by length and checksum. Index pages are not \
        copied: -D and -I make new ones; data under the name of one is said, and the command fails in the end. All copies are made before anything is deleted; signatures come after what \
        they sign, version.txt after everything else."
)]
pub struct Sync {
    /// Source and destination: gs://src/foo gs://dst/bar
    #[arg(value_name = "URL")]
    url: Vec<String>,

    #[command(flatten)]
    shared: Shared,

    /// Copy and write even what is there already
    #[arg(long, short)]
    force: bool,

    /// Delete what the source does not have, and pages that are not to be
    #[arg(long)]
    delete: bool,

    /// Let --delete delete more than ten objects even if they are more than half of what is there
    #[arg(long)]
    allow_mass_delete: bool,

    /// Go on even if there is nothing to copy in the source; with --delete the destination is emptied
    #[arg(long)]
    allow_empty_source: bool,

    /// Write pages named as the folders, and redirects named as those without their slash
    #[arg(long, short = 'D')]
    index_dirs: bool,

    /// Write an index.html into every folder
    #[arg(long, short = 'I')]
    index_html: bool,
}

impl Verb for Sync {
    type Account = super::Options;

    async fn run(self, account: super::Options, context: &Context) -> Result<()> {
        let [source, destination] = &places(&self.url)?[..] else {
            return Err(usage("Expected exactly two gs:// URLs: a source and a destination"));
        };
        let options = SyncOptions {
            recursive: self.shared.recursive,
            delete: self.delete,
            force: self.force,
            dry_run: self.shared.dry_run,
            allow_mass_delete: self.allow_mass_delete,
            expected: Vec::new(),
            allow_empty_source: self.allow_empty_source,
            index: Some(IndexOptions {
                title: self.shared.html_title,
                style: self.shared.html_style,
                recursive: self.shared.recursive,
                delete: self.delete,
                directories: self.index_dirs,
                index_html: self.index_html,
                force: self.force,
                dry_run: self.shared.dry_run,
                expected: Vec::new(),
            }),
        };
        let storage = account.storage()?;
        let done = bucket::sync(&storage, source, destination, &options, &context.cancel).await;
        let done = done.map_err(|e| e.explain(&format!("cannot sync {source} to {destination}")))?;
        report(&destination.to_string(), &done, options.dry_run);
        match done.left_out {
            // Everything else has been done.
            0 => Ok(()),
            _ if options.dry_run => Ok(()),
            n => Err(eyre!("{n} objects of {source} were not copied: they have the names of index pages")
                .suggestion("give them other names: those are taken for pages wherever they are copied to")),
        }
    }
}

/// The URLs, all of them read before any is used.
fn places(urls: &[String]) -> Result<Vec<Location>> {
    urls.iter().map(|url| Location::prefix(url).map_err(|e| usage(e.to_string()))).collect()
}

fn report(at: &str, done: &Summary, dry_run: bool) {
    notice!("ore", "{at}: {done}{}", if dry_run { " (dry run: nothing was changed)" } else { "" });
}

impl Explain for Error {
    fn is_interruption(&self) -> bool {
        matches!(self, Self::Interrupted)
    }

    fn is_usage(&self) -> bool {
        matches!(self, Self::Overlap { .. })
    }

    fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Overlap { .. } => Some("name two places of which neither is part of the other"),
            Self::EmptySource { deeper: true, .. } => Some("pass -r to copy the folders below it"),
            Self::EmptySource { deeper: false, .. } => {
                Some("see whether its name is right; pass --allow-empty-source if this is as it should be")
            }
            Self::MassDelete { .. } => Some(
                "see whether the source is complete; pass --allow-mass-delete if this is as it should be",
            ),
            _ if self.needs_credentials() => {
                Some("pass --json-key, or let `gcloud auth application-default login` make credentials")
            }
            _ => None,
        }
    }
}
