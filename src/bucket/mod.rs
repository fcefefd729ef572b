//! Trees of stored objects: copies of one at another place, and HTML pages that list them.
//!
//! Names are paths. Some objects are pages about the others: for every known folder P those named `P`, P without its
//! slash, and P and `index.html`. They are never listed, copied, or deleted as content. What lies under such a name
//! and can be no page is somebody's data: it is never replaced or deleted, and that it is left out is said.

mod index;
mod listing;
mod pages;
mod pool;
mod sync;
#[cfg(test)]
mod tests;

use tokio_util::sync::CancellationToken;

use crate::cloud::google::storage::{self, Location, Storage};
use crate::notice;

pub use index::pages_of;
use listing::Listing;

/// What pages look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Style {
    /// Names alone, byte for byte as pages have always been.
    #[default]
    Plain,
    /// A table with times, sizes and a link to the folder above.
    Details,
}

/// What an index job does.
#[derive(Clone, Debug)]
pub struct IndexOptions {
    /// What pages are headed with before the path; the bucket's name if absent.
    pub title: Option<String>,
    /// What they look like.
    pub style: Style,
    /// Every folder below the prefix, not just the prefix itself.
    pub recursive: bool,
    /// Delete pages that are not to be: of empty folders, and of a kind that is off.
    pub delete: bool,
    /// Pages named as the folder, and redirects to them named as the folder without its slash.
    pub directories: bool,
    /// Pages named `index.html`.
    pub index_html: bool,
    /// Write pages even if they are there already.
    pub force: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// With a dry run: folders that will be there when it comes to it.
    pub expected: Vec<String>,
}

/// An object that somebody is about to store in the source.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Its name.
    pub name: String,
    /// Its content.
    pub fingerprint: storage::Fingerprint,
    /// Its attributes.
    pub attributes: storage::Attributes,
}

/// What a sync job does.
#[derive(Clone, Debug)]
pub struct SyncOptions {
    /// Everything below the prefix, not just what lies directly in it.
    pub recursive: bool,
    /// Delete what the source does not have.
    pub delete: bool,
    /// Copy objects even if they are there already.
    pub force: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Delete even if that is most of the destination.
    pub allow_mass_delete: bool,
    /// Go on even if there is nothing in the source.
    pub allow_empty_source: bool,
    /// With a dry run: objects that will be in the source when it comes to it.
    pub expected: Vec<Expected>,
    /// Then write pages at the destination.
    pub index: Option<IndexOptions>,
}

/// What was done, in objects; with a dry run, what would have been.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Pages written.
    pub written: u64,
    /// Objects copied.
    pub copied: u64,
    /// Objects and pages deleted.
    pub deleted: u64,
    /// Objects and pages that were right already.
    pub unchanged: u64,
    /// Objects that were not copied because their names are those of pages; each has been said.
    pub left_out: u64,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { written, copied, deleted, unchanged, left_out } = self;
        write!(f, "{copied} copied, {written} pages written, {deleted} deleted, {unchanged} unchanged")?;
        match left_out {
            0 => Ok(()),
            _ => write!(f, ", {left_out} left out"),
        }
    }
}

/// What can go wrong with a job.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A place could not be listed; nothing has been changed.
    #[error("cannot list {at}")]
    List {
        /// The place.
        at: String,
        /// Why.
        #[source]
        source: Box<storage::Error>,
    },
    /// Some operations failed; what had not begun by then was left.
    #[error("{}", several(.0))]
    Failed(Vec<storage::Error>),
    /// Too much would be deleted; nothing has been changed.
    #[error("{at}: {deleted} of {of} objects would be deleted, because they are not in {source_at}")]
    MassDelete {
        /// The destination.
        at: String,
        /// The source.
        source_at: String,
        /// How many would be deleted.
        deleted: usize,
        /// How many there are.
        of: usize,
    },
    /// There is nothing to copy, as in a place whose name was mistyped; nothing has been changed.
    #[error("there is nothing in {source_at}{}", if *.deeper { ", only in folders below it" } else { "" })]
    EmptySource {
        /// The source.
        source_at: String,
        /// Whether there are folders in it, which the job leaves out.
        deeper: bool,
    },
    /// The destination is part of the source, or the other way round; nothing has been changed.
    #[error("{source_at} and {at} overlap")]
    Overlap {
        /// The source.
        source_at: String,
        /// The destination.
        at: String,
    },
    /// Cancelled; a second run goes on where this one stopped.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Whether access was refused for want of credentials.
    pub fn needs_credentials(&self) -> bool {
        match self {
            Self::List { source, .. } => source.needs_credentials(),
            Self::Failed(errors) => errors.iter().any(storage::Error::needs_credentials),
            _ => false,
        }
    }
}

/// Messages of this many errors are shown; the rest are counted.
const SHOWN: usize = 10;

fn several(errors: &[storage::Error]) -> String {
    if let [one] = errors {
        return crate::text::chain(one);
    }
    let mut text = format!("{} operations failed:", errors.len());
    for error in errors.iter().take(SHOWN) {
        text.push_str("\n  ");
        text.push_str(&crate::text::chain(error));
    }
    if errors.len() > SHOWN {
        text.push_str(&format!("\n  and {} more", errors.len() - SHOWN));
    }
    text
}

/// Lists a prefix and writes its pages.
///
/// # Errors
/// Any [`Error`] but those about two places.
pub async fn index(
    storage: &Storage,
    at: &Location,
    options: &IndexOptions,
    cancel: &CancellationToken,
) -> Result<Summary, Error> {
    let work = async {
        if options.delete {
            // In quotation marks: whoever typed a wrong name should see it, with the blanks at its end.
            notice!("bucket", "Pages of {at:?} that are not to be will be deleted");
        }
        let mut listing = Listing::fetch(storage, at, options.recursive).await?;
        if options.dry_run {
            options.expected.iter().for_each(|prefix| listing.add_prefix(prefix));
        }
        let mut summary = Summary::default();
        index::run(storage, at, &listing, options, &mut summary).await?;
        Ok(summary)
    };
    cancel.run_until_cancelled(work).await.unwrap_or(Err(Error::Interrupted))
}

/// Whether [`sync`] would be refused for what it would delete, or for want of a source. Nothing is changed.
///
/// # Errors
/// The refusal; [`Error::List`].
pub async fn check(
    storage: &Storage,
    source: &Location,
    destination: &Location,
    options: &SyncOptions,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let work = sync::check(storage, source, destination, options);
    cancel.run_until_cancelled(work).await.unwrap_or(Err(Error::Interrupted))
}

/// Makes a prefix contain what another one contains, then writes its pages if the options say so.
///
/// Objects come first, then signatures, then `version.txt`, then deletions, then pages: a reader who follows pages or
/// versions finds what they promise. The source is never changed.
///
/// # Errors
/// Any [`Error`].
pub async fn sync(
    storage: &Storage,
    source: &Location,
    destination: &Location,
    options: &SyncOptions,
    cancel: &CancellationToken,
) -> Result<Summary, Error> {
    let work = async {
        let mut summary = Summary::default();
        let listing = sync::run(storage, source, destination, options, &mut summary).await?;
        if let Some(index) = &options.index {
            let index = IndexOptions { dry_run: index.dry_run || options.dry_run, ..index.clone() };
            index::run(storage, destination, &listing, &index, &mut summary).await?;
        }
        Ok(summary)
    };
    cancel.run_until_cancelled(work).await.unwrap_or(Err(Error::Interrupted))
}
