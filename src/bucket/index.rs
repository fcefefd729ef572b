//! Index jobs: the pages of a tree.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use hyper::body::Bytes;

use super::listing::{Entry, INDEX, Listing, only_if, parent};
use super::{Error, IndexOptions, Style, Summary, pages, pool};
use crate::cloud::google::storage::{self, Attributes, Fingerprint, Location, Object, Storage};
use crate::natural;
use crate::progress::Progress;
use crate::{info, notice, warning};

/// Which objects lie where, without the pages about them.
struct Tree<'a> {
    objects: HashMap<&'a str, Vec<(&'a str, &'a Entry)>>,
    folders: HashMap<&'a str, Vec<&'a str>>,
    filled: HashSet<&'a str>,
}

impl<'a> Tree<'a> {
    /// Folders whose content was not listed count as filled.
    fn new(listing: &'a Listing, prefix: &'a str) -> Self {
        let mut tree = Self { objects: HashMap::new(), folders: HashMap::new(), filled: HashSet::new() };
        for (name, entry) in listing.below(prefix) {
            if !listing.is_index(name) {
                let folder = parent(name);
                tree.objects.entry(folder).or_default().push((pages::base_name(name), entry));
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

    /// The pages that a folder is to have, each before what leads to it: names and contents.
    fn pages(&self, title: &str, folder: &str, options: &IndexOptions) -> Vec<(String, Bytes)> {
        let wanted = [options.index_html, options.directories, options.directories];
        if !self.filled.contains(folder) || !wanted.contains(&true) {
            return Vec::new();
        }
        let page = Bytes::from(self.page(title, folder, options.style));
        let redirect = match options.style {
            Style::Plain => pages::redirect(folder),
            Style::Details => pages::details::redirect(folder),
        };
        let contents = [page.clone(), page, Bytes::from(redirect)];
        let all = names(folder).into_iter().zip(contents).zip(wanted);
        all.filter_map(|((name, content), wanted)| Some((name.filter(|_| wanted)?, content))).collect()
    }

    /// The page that lists a folder.
    fn page(&self, title: &str, folder: &str, style: Style) -> String {
        let mut folders = self.folders.get(folder).cloned().unwrap_or_default();
        folders.sort_by(|a, b| natural::compare(a, b));
        let mut objects = self.objects.get(folder).cloned().unwrap_or_default();
        objects.sort_by(|a, b| natural::compare(a.0, b.0));
        let title = format!("{title}/{folder}");
        match style {
            Style::Plain => pages::folder(&title, folders.into_iter(), objects.into_iter().map(|o| o.0)),
            Style::Details => {
                let files = objects.into_iter().map(|(name, entry)| (name, entry.size, entry.time));
                pages::details::folder(&title, !folder.is_empty(), folders.into_iter(), files)
            }
        }
    }
}

/// The names of a folder's pages: `index.html` in it, the page named as it, the redirect to that. The top has but the
/// first. Of `a//` and of `a/index.html/` the redirect would be named as a page of `a/`: they have none.
fn names(folder: &str) -> [Option<String>; 3] {
    let short = folder.strip_suffix('/').filter(|s| !s.is_empty());
    let redirect = short.filter(|_| !is_taken(folder));
    [Some(format!("{folder}{INDEX}")), short.map(|_| folder.to_owned()), redirect.map(String::from)]
}

/// Whether a folder's name without its slash is that of a page of the folder above.
fn is_taken(folder: &str) -> bool {
    !matches!(folder, "" | "/") && matches!(pages::base_name(folder), "" | INDEX)
}

/// Whether what lies under the name of a page can be one, or is nothing: pages are HTML, and programs that make
/// folders leave empty objects. The rest is somebody's data.
pub fn is_page(old: &Entry) -> bool {
    let kind = old.attributes.content_type.as_deref().unwrap_or_default();
    old.size == 0
        || kind.split(';').next().is_some_and(|k| k.trim().eq_ignore_ascii_case(pages::CONTENT_TYPE))
}

/// The pages that all folders below a prefix would get, given the objects there: names and contents. Nothing is asked
/// of a server.
pub fn pages_of(
    at: &Location,
    objects: impl IntoIterator<Item = Object>,
    options: &IndexOptions,
) -> Vec<(String, Bytes)> {
    let mut listing = Listing::default();
    listing.complete = true;
    objects.into_iter().for_each(|object| listing.add(object));
    let tree = Tree::new(&listing, &at.name);
    let title = title(at, options);
    listing.prefixes(&at.name).flat_map(|folder| tree.pages(title, folder, options)).collect()
}

/// What pages are headed with.
fn title<'a>(at: &'a Location, options: &'a IndexOptions) -> &'a str {
    options.title.as_deref().filter(|t| !t.is_empty()).unwrap_or(&at.bucket)
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
        warning!("bucket", "there is nothing in {at}");
        return Ok(());
    }
    let title = title(at, options);
    let attributes = Arc::new(Attributes {
        content_type: Some(pages::CONTENT_TYPE.into()),
        cache_control: Some(pages::CACHE_CONTROL.into()),
        ..Attributes::default()
    });
    let job = Job { storage, bucket: &at.bucket, listing, tree: &tree, title, options, attributes };
    let mut progress = Progress::of_steps("bucket", &format!("index {at}"), folders.len() as u64);
    pool::run(folders.iter().map(|folder| job.folder(folder)), |part: Summary| {
        progress.advance(1);
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
        let pages = self.tree.pages(self.title, folder, self.options);
        if is_taken(folder) && self.options.directories && !pages.is_empty() {
            let (folder, above) = (self.at(folder), self.at(parent(folder)));
            warning!("bucket", "{folder} gets no redirect, whose name is that of a page of {above}");
        }
        let mut done = Summary::default();
        // A page is written before what leads to it, and deleted after: whatever happens in between, no link is dead
        // and what is left can still be told to be pages.
        for (name, page) in &pages {
            self.write(name, page, &mut done).await?;
        }
        if self.options.delete {
            let unwanted = names(folder).into_iter().rev().flatten();
            for name in unwanted.filter(|name| pages.iter().all(|(page, _)| page != name)) {
                self.delete(&name, &mut done).await?;
            }
        }
        Ok(done)
    }

    fn at(&self, name: &str) -> Location {
        Location::new(self.bucket, name)
    }

    async fn write(&self, name: &str, page: &Bytes, done: &mut Summary) -> Result<(), storage::Error> {
        let (at, old) = (self.at(name), self.listing.get(name));
        let plain = |old: &Entry| {
            let (a, b) = (&old.attributes, &self.attributes);
            a.content_type == b.content_type && a.cache_control == b.cache_control
        };
        let is_same = |old: &Entry| old.fingerprint() == Some(Fingerprint::of(page));
        if let Some(old) = old.filter(|old| !is_page(old) && !is_same(old)) {
            return self.leave(&at, old);
        }
        match old.filter(|old| is_same(old) && !self.options.force) {
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

    /// Says that data lies where a page would.
    fn leave(&self, at: &Location, old: &Entry) -> Result<(), storage::Error> {
        let kind = old.attributes.content_type.as_deref().unwrap_or("unknown");
        warning!(
            "bucket",
            "{at} has the name of a page and is none ({} bytes of type {kind}): it stays, and is not listed",
            old.size
        );
        Ok(())
    }

    async fn delete(&self, name: &str, done: &mut Summary) -> Result<(), storage::Error> {
        let Some(old) = self.listing.get(name) else { return Ok(()) };
        let at = self.at(name);
        if !is_page(old) {
            return self.leave(&at, old);
        }
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
