//! Index jobs: the pages of a tree.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use hyper::body::Bytes;

use super::listing::{Entry, INDEX, Listing, only_if, parent};
use super::{Error, IndexOptions, Progress, Summary, pages, pool};
use crate::google::storage::{self, Attributes, Fingerprint, Location, Storage};
use crate::natural;
use crate::{info, notice};

/// Which objects lie where, without the pages about them.
struct Tree<'a> {
    objects: HashMap<&'a str, Vec<&'a str>>,
    folders: HashMap<&'a str, Vec<&'a str>>,
    filled: HashSet<&'a str>,
}

impl<'a> Tree<'a> {
    /// Folders whose content was not listed count as filled.
    fn new(listing: &'a Listing, prefix: &'a str) -> Self {
        let mut tree = Self { objects: HashMap::new(), folders: HashMap::new(), filled: HashSet::new() };
        for (name, _) in listing.below(prefix) {
            if !listing.is_index(name) {
                let folder = parent(name);
                tree.objects.entry(folder).or_default().push(pages::base_name(name));
                tree.fill(folder);
            }
        }
        if !listing.complete {
            listing.prefixes(prefix).for_each(|p| tree.fill(p));
        }
        tree
    }

    /// A folder and those above it are not empty.
    fn fill(&mut self, folder: &'a str) {
        let mut folder = folder;
        while self.filled.insert(folder) && !folder.is_empty() {
            let above = parent(folder);
            self.folders.entry(above).or_default().push(pages::base_name(folder));
            folder = above;
        }
    }

    /// The page of a folder.
    fn page(&self, title: &str, folder: &str) -> String {
        let sorted = |names: Option<&Vec<&'a str>>| {
            let mut names = names.cloned().unwrap_or_default();
            names.sort_by(|a, b| natural::compare(a, b));
            names
        };
        let (folders, objects) = (sorted(self.folders.get(folder)), sorted(self.objects.get(folder)));
        pages::folder(&format!("{title}/{folder}"), folders.into_iter(), objects.into_iter())
    }
}

/// Writes and deletes pages, given what is there.
pub async fn run(
    storage: &Storage,
    at: &Location,
    listing: &Listing,
    options: &IndexOptions,
    summary: &mut Summary,
) -> Result<(), Error> {
    let tree = Tree::new(listing, &at.name);
    // From the last name to the first: what is in a folder gets its pages before the folder links to it.
    let folders: Vec<&str> = match options.recursive {
        true => listing.prefixes(&at.name).rev().collect(),
        false => listing.prefixes(&at.name).filter(|p| *p == at.name).collect(),
    };
    if folders.is_empty() {
        crate::warning!("bucket", "there is nothing in {at}");
        return Ok(());
    }
    let title = options.title.as_deref().filter(|t| !t.is_empty()).unwrap_or(&at.bucket);
    let attributes = Arc::new(Attributes {
        content_type: Some(pages::CONTENT_TYPE.into()),
        cache_control: Some(pages::CACHE_CONTROL.into()),
        ..Attributes::default()
    });
    let job = Job { storage, bucket: &at.bucket, listing, tree: &tree, title, options, attributes };
    let mut progress = Progress::new(format!("index {at}"), folders.len());
    pool::run(folders.iter().map(|folder| job.folder(folder)), |part: Summary| {
        progress.advance();
        summary.written += part.written;
        summary.deleted += part.deleted;
        summary.unchanged += part.unchanged;
    })
    .await
}

struct Job<'a> {
    storage: &'a Storage,
    bucket: &'a str,
    listing: &'a Listing,
    tree: &'a Tree<'a>,
    title: &'a str,
    options: &'a IndexOptions,
    attributes: Arc<Attributes>,
}

impl Job<'_> {
    /// The pages of one folder.
    async fn folder(&self, folder: &str) -> Result<Summary, storage::Error> {
        let filled = self.tree.filled.contains(folder);
        let directories = self.options.directories && filled;
        let index_html = self.options.index_html && filled;
        let index = format!("{folder}{INDEX}");
        let short = folder.strip_suffix('/').filter(|s| !s.is_empty());
        let mut done = Summary::default();
        // A page is written before what leads to it, and deleted after: whatever happens in between, no link is dead
        // and what is left can still be told to be pages.
        if directories || index_html {
            let page = Bytes::from(self.tree.page(self.title, folder));
            if index_html {
                self.write(&index, &page, &mut done).await?;
            }
            if let Some(short) = short.filter(|_| directories) {
                self.write(folder, &page, &mut done).await?;
                self.write(short, &Bytes::from(pages::redirect(folder)), &mut done).await?;
            }
        }
        if self.options.delete {
            let unwanted = [short.filter(|_| !directories), short.map(|_| folder).filter(|_| !directories)];
            for name in unwanted.into_iter().flatten().chain(Some(&*index).filter(|_| !index_html)) {
                self.delete(name, &mut done).await?;
            }
        }
        Ok(done)
    }

    fn at(&self, name: &str) -> Location {
        Location { bucket: self.bucket.to_owned(), name: name.to_owned() }
    }

    async fn write(&self, name: &str, page: &Bytes, done: &mut Summary) -> Result<(), storage::Error> {
        let (at, old) = (self.at(name), self.listing.get(name));
        let same = old.is_some_and(|o| o.fingerprint() == Some(Fingerprint::of(page))) && !self.options.force;
        let plain = |old: &Entry| {
            let (a, b) = (&old.attributes, &self.attributes);
            a.content_type == b.content_type && a.cache_control == b.cache_control
        };
        match old.filter(|_| same) {
            Some(old) if plain(old) => {
                done.unchanged += 1;
                return Ok(());
            }
            _ if self.options.dry_run => notice!("bucket", "Would write {at}"),
            Some(old) => {
                info!("bucket", "Correcting type and cache control of {at}");
                let wanted = Attributes {
                    content_type: self.attributes.content_type.clone(),
                    cache_control: self.attributes.cache_control.clone(),
                    ..(*old.attributes).clone()
                };
                self.storage.patch(&at, old.version(), &old.attributes, &wanted).await?;
            }
            None => {
                info!("bucket", "Writing {at}");
                self.storage.insert(&at, page.clone(), &self.attributes, None, only_if(old)).await?;
            }
        }
        done.written += 1;
        Ok(())
    }

    async fn delete(&self, name: &str, done: &mut Summary) -> Result<(), storage::Error> {
        let Some(old) = self.listing.get(name) else { return Ok(()) };
        let at = self.at(name);
        if self.options.dry_run {
            notice!("bucket", "Would delete {at}");
        } else {
            info!("bucket", "Deleting {at}");
            self.storage.delete(&at, old.version()).await?;
        }
        done.deleted += 1;
        Ok(())
    }
}
