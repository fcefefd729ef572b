//! What is known of a bucket.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use reqwest::StatusCode;

use super::{Error, Expected};
use crate::cloud::google::storage::{Attributes, Fingerprint, Location, Object, OnlyIf, Storage};

/// An object, as far as jobs need it; there may be many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub size: u64,
    pub generation: u64,
    pub metageneration: u64,
    pub crc32c: Option<u32>,
    /// When the content was stored.
    pub time: Option<DateTime<Utc>>,
    /// Shared by all that have the same.
    pub attributes: Arc<Attributes>,
}

impl Entry {
    /// The content, if the server gave its checksum.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.crc32c.map(|crc32c| Fingerprint { size: self.size, crc32c })
    }

    /// The version of the content and of the description.
    pub fn version(&self) -> (u64, u64) {
        (self.generation, self.metageneration)
    }
}

/// Changes only what is known of the place where something is to be written.
pub fn only_if(old: Option<&Entry>) -> OnlyIf {
    old.map_or(OnlyIf::Absent, |old| OnlyIf::Generation(old.generation))
}

/// Objects by name, and the prefixes (folders) they lie in.
#[derive(Debug, Default)]
pub struct Listing {
    objects: BTreeMap<Box<str>, Entry>,
    prefixes: BTreeSet<Box<str>>,
    attributes: BTreeSet<Arc<Attributes>>,
    /// Whether all levels below the prefix were listed.
    pub complete: bool,
}

impl Listing {
    /// Lists a prefix; if it is no whole bucket, also looks for the redirect that is named as it without its slash.
    ///
    /// # Errors
    /// [`Error::List`].
    pub async fn fetch(storage: &Storage, at: &Location, recursive: bool) -> Result<Self, Error> {
        let failed = |source| Error::List { at: at.to_string(), source: Box::new(source) };
        let mut listing = Self { complete: recursive, ..Self::default() };
        storage
            .list_pages(at, recursive, &mut |page| {
                for object in page.objects {
                    listing.add(object);
                }
                for prefix in page.prefixes {
                    listing.add_prefix(&prefix);
                }
            })
            .await
            .map_err(failed)?;
        if let Some(name) = at.name.strip_suffix('/')
            && !name.is_empty()
            && listing.get(name).is_none()
        {
            let redirect = at.at(name);
            match storage.get(&redirect).await {
                Ok(object) => listing.add(object),
                Err(e) if e.status() == Some(StatusCode::NOT_FOUND) => {}
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(listing)
    }

    /// Adds or replaces an object.
    pub fn add(&mut self, object: Object) {
        let attributes = object.attributes();
        let attributes = match self.attributes.get(&attributes) {
            Some(known) => known.clone(),
            None => {
                let new = Arc::new(attributes);
                self.attributes.insert(new.clone());
                new
            }
        };
        let Object { name, size, generation, metageneration, crc32c, time_created: time, .. } = object;
        self.insert(&name, Entry { size, generation, metageneration, crc32c, time, attributes });
    }

    /// Adds or replaces an object that is not there yet.
    pub fn expect(&mut self, object: &Expected) {
        let Expected { name, fingerprint, attributes } = object;
        let (generation, metageneration, time) = (0, 0, None);
        let (size, crc32c) = (fingerprint.size, Some(fingerprint.crc32c));
        let attributes = Arc::new(attributes.clone());
        self.insert(name, Entry { size, generation, metageneration, crc32c, time, attributes });
    }

    /// Adds or replaces an entry.
    pub fn insert(&mut self, name: &str, entry: Entry) {
        self.objects.insert(name.into(), entry);
        // An object that is named like a folder is that folder's page, or a placeholder for it.
        self.add_prefix(if name.ends_with('/') { name } else { parent(name) });
    }

    /// Adds a prefix with those above it.
    pub fn add_prefix(&mut self, prefix: &str) {
        let mut prefix = prefix;
        while self.prefixes.insert(prefix.into()) && !prefix.is_empty() {
            prefix = parent(prefix);
        }
    }

    /// Forgets an object, not the prefixes: what lay there may have left pages behind.
    pub fn remove(&mut self, name: &str) {
        self.objects.remove(name);
    }

    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.objects.get(name)
    }

    /// All objects whose names begin so, in the order of their bytes.
    pub fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Entry)> {
        let from = (std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded);
        let range = self.objects.range::<str, _>(from);
        range.map(|(name, entry)| (&**name, entry)).take_while(move |(name, _)| name.starts_with(prefix))
    }

    /// All known prefixes that begin so, in the order of their bytes.
    pub fn prefixes<'a>(&'a self, prefix: &'a str) -> impl DoubleEndedIterator<Item = &'a str> {
        self.prefixes.iter().map(|p| &**p).filter(move |p| p.starts_with(prefix))
    }

    /// Whether an object is a page about others: named as a known prefix P, as P without its slash, or P and
    /// `index.html`.
    pub fn is_index(&self, name: &str) -> bool {
        let known = |prefix: &str| self.prefixes.contains(prefix);
        if name.ends_with('/') {
            return known(name);
        }
        let folder = name.strip_suffix(INDEX);
        folder.is_some_and(|f| (f.is_empty() || f.ends_with('/')) && known(f)) || known(&format!("{name}/"))
    }
}

/// The name of a folder's page for web servers that look for it.
pub const INDEX: &str = "index.html";

/// The folder that a name or a folder lies in; empty at the top.
pub fn parent(name: &str) -> &str {
    let name = name.strip_suffix('/').unwrap_or(name);
    name.rfind('/').map_or("", |at| &name[..=at])
}
