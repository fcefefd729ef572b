//! Sync jobs: one tree made as another.

use std::collections::BTreeMap;

use super::index::is_page;
use super::listing::{Entry, Listing, only_if};
use super::{Error, Summary, SyncOptions, pool};
use crate::cloud::google::storage::{self, Location, Rewrite, Storage};
use crate::progress::Progress;
use crate::{info, notice, warning};

/// Deleting up to this many objects needs no permission of its own.
const FEW: usize = 10;

/// Copies and deletes, and returns what then is at the destination; with a dry run, what would be.
pub async fn run(
    storage: &Storage,
    source: &Location,
    destination: &Location,
    options: &SyncOptions,
    summary: &mut Summary,
) -> Result<Listing, Error> {
    let overlap = source.bucket == destination.bucket
        && (source.name.starts_with(&destination.name) || destination.name.starts_with(&source.name));
    if overlap && (options.recursive || source.name == destination.name) {
        return Err(Error::Overlap { source_at: source.to_string(), at: destination.to_string() });
    }
    let deep = options.recursive || options.index.as_ref().is_some_and(|i| i.recursive);
    let (mut from, mut to) = futures_util::try_join!(
        Listing::fetch(storage, source, options.recursive),
        Listing::fetch(storage, destination, deep)
    )?;
    if options.dry_run {
        options.expected.iter().for_each(|object| from.expect(object));
    }
    let plan = Plan::new(&from, source, &mut to, destination, options);
    for (name, entry) in &plan.left_out {
        let kind = entry.attributes.content_type.as_deref().unwrap_or("unknown");
        warning!(
            "bucket",
            "{} has the name of a page and is none ({} bytes of type {kind}): it is not copied",
            source.at(*name),
            entry.size
        );
    }
    summary.left_out += plan.left_out.len() as u64;
    if let Some(refusal) = plan.refusal(&from, source, destination, options) {
        if !options.dry_run {
            return Err(refusal);
        }
        // What would be done is what one wants to see then.
        warning!("bucket", "without a dry run this is refused: {refusal}");
    }
    if options.delete {
        let (deleted, all) = (plan.deletions.len(), plan.there);
        let will = if options.dry_run { "would" } else { "will" };
        // In quotation marks: whoever typed a wrong name should see it, with the blanks at its end.
        notice!(
            "bucket",
            "{deleted} of {all} objects in {destination:?} {will} be deleted, because they are not in {source:?}"
        );
    }
    summary.unchanged += plan.unchanged;
    let steps = plan.copies.iter().map(Vec::len).sum::<usize>() + plan.deletions.len();
    let mut progress = Progress::of_steps("bucket", &format!("sync {destination}"), steps as u64);
    let job = Job { storage, source, destination, options };
    for class in &plan.copies {
        let work = class.iter().map(|copy| job.copy(copy));
        let mut made = Vec::new();
        pool::run(work, |copy| {
            progress.advance(1);
            made.push(copy);
        })
        .await?;
        summary.copied += made.len() as u64;
        for Made { name, copy } in made {
            match copy {
                Ok(object) => to.add(object),
                Err(entry) => to.insert(&name, entry),
            }
        }
    }
    let gone = plan.deletions.iter().map(|(name, entry)| job.delete(name, entry));
    pool::run(gone, |()| {
        progress.advance(1);
        summary.deleted += 1;
    })
    .await?;
    for (name, _) in &plan.deletions {
        to.remove(name);
    }
    Ok(to)
}

/// The refusal that [`run`] would meet.
pub async fn check(
    storage: &Storage,
    source: &Location,
    destination: &Location,
    options: &SyncOptions,
) -> Result<(), Error> {
    let (from, mut to) = futures_util::try_join!(
        Listing::fetch(storage, source, options.recursive),
        Listing::fetch(storage, destination, options.recursive)
    )?;
    let plan = Plan::new(&from, source, &mut to, destination, options);
    plan.refusal(&from, source, destination, options).map_or(Ok(()), Err)
}

/// What is to be done.
struct Plan<'a> {
    /// In this order, one class after the other.
    copies: [Vec<Copy<'a>>; 3],
    deletions: Vec<(String, Entry)>,
    unchanged: u64,
    /// How many objects there are at the destination.
    there: usize,
    /// Whether the source has no objects at all.
    empty: bool,
    /// Data of the source whose names are those of pages: at the destination they would be taken for pages, too.
    left_out: Vec<(&'a str, &'a Entry)>,
}

struct Copy<'a> {
    from: &'a str,
    to: String,
    entry: &'a Entry,
    old: Option<Entry>,
    /// The content is there already; only the attributes differ.
    attributes_only: bool,
}

/// An object at the destination: as the server described it, or as it would be.
struct Made {
    name: String,
    copy: Result<storage::Object, Entry>,
}

impl<'a> Plan<'a> {
    fn new(
        from: &'a Listing,
        source: &'a Location,
        to: &mut Listing,
        destination: &Location,
        options: &SyncOptions,
    ) -> Self {
        let here = |name: &str, prefix: &str| options.recursive || !name[prefix.len()..].contains('/');
        let (named_as_pages, wanted): (Vec<_>, Vec<_>) = from
            .below(&source.name)
            .filter(|(name, _)| here(name, &source.name))
            .partition(|(name, _)| from.is_index(name));
        let left_out = named_as_pages.into_iter().filter(|(_, entry)| !is_page(entry)).collect();
        let renamed = |name: &str| format!("{}{}", destination.name, &name[source.name.len()..]);
        // The folders that there will be decide what is a page, as they will when this is run again.
        for (name, _) in &wanted {
            to.add_prefix(super::listing::parent(&renamed(name)));
        }
        let mut rest: BTreeMap<&str, &Entry> = to
            .below(&destination.name)
            .filter(|(name, _)| here(name, &destination.name) && !to.is_index(name))
            .collect();
        let there = rest.len();
        let (mut copies, mut unchanged) = ([Vec::new(), Vec::new(), Vec::new()], 0);
        for (name, entry) in &wanted {
            let target = renamed(name);
            rest.remove(&*target);
            let old = to.get(&target);
            let same = entry.crc32c.is_some() && old.map(Entry::fingerprint) == Some(entry.fingerprint());
            let attributes_only = same && !options.force;
            if attributes_only && old.is_some_and(|o| o.attributes == entry.attributes) {
                unchanged += 1;
                continue;
            }
            let copy = Copy { from: name, to: target, entry, old: old.cloned(), attributes_only };
            copies[class(name)].push(copy);
        }
        let deletions: Vec<(String, Entry)> = match options.delete {
            true => rest.into_iter().map(|(name, entry)| (name.to_owned(), entry.clone())).collect(),
            false => Vec::new(),
        };
        Self { copies, deletions, unchanged, there, empty: wanted.is_empty(), left_out }
    }

    /// Why this is hardly what somebody meant.
    fn refusal(
        &self,
        from: &Listing,
        source: &Location,
        destination: &Location,
        options: &SyncOptions,
    ) -> Option<Error> {
        let source_at = source.to_string();
        if self.empty && !options.allow_empty_source {
            let deeper = !options.recursive && from.prefixes(&source.name).any(|p| p != source.name);
            return Some(Error::EmptySource { source_at, deeper });
        }
        let (deleted, of) = (self.deletions.len(), self.there);
        (deleted > FEW && deleted * 2 > of && !options.allow_mass_delete).then(|| {
            let at = destination.to_string();
            Error::MassDelete { at, source_at, deleted, of }
        })
    }
}

/// When an object is copied: content, then its signature, then what says that a version is complete.
fn class(name: &str) -> usize {
    match name.rsplit('/').next() {
        Some("version.txt") => 2,
        Some(base) if base.ends_with(".sig") => 1,
        _ => 0,
    }
}

struct Job<'a> {
    storage: &'a Storage,
    source: &'a Location,
    destination: &'a Location,
    options: &'a SyncOptions,
}

impl Job<'_> {
    async fn copy(&self, copy: &Copy<'_>) -> Result<Made, storage::Error> {
        let to = self.destination.at(&*copy.to);
        let name = copy.to.clone();
        if self.options.dry_run {
            notice!("bucket", "Would copy {to}");
            return Ok(Made { name, copy: Err(copy.entry.clone()) });
        }
        if let (Some(old), true) = (&copy.old, copy.attributes_only) {
            info!("bucket", "Correcting attributes of {to}");
            let (from, wanted) = (&old.attributes, &copy.entry.attributes);
            let object = self.storage.patch(&to, old.version(), from, wanted).await?;
            return Ok(Made { name, copy: Ok(object) });
        }
        info!("bucket", "Copying {to}");
        let source = self.source.at(copy.from);
        let rewrite = Rewrite {
            source: &source,
            generation: copy.entry.generation,
            fingerprint: copy.entry.fingerprint(),
            attributes: &copy.entry.attributes,
            destination: &to,
            only_if: only_if(copy.old.as_ref()),
        };
        let object = self.storage.rewrite(&rewrite).await?;
        Ok(Made { name, copy: Ok(object) })
    }

    async fn delete(&self, name: &str, entry: &Entry) -> Result<(), storage::Error> {
        let at = self.destination.at(name);
        if self.options.dry_run {
            notice!("bucket", "Would delete {at}");
            return Ok(());
        }
        info!("bucket", "Deleting {at}");
        self.storage.delete(&at, entry.version()).await
    }
}
