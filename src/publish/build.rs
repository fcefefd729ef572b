//! The files of a build: where they are, how images get here, what is written beside them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use chrono::{DateTime, NaiveTime, Utc};
use hyper::body::Bytes;
use serde_json::Value;
use tokio::sync::{Mutex, OnceCell};

use super::{Act, COMPONENT, Look, Phase, Release, Result, Step, Stopped, World};
use crate::bucket::Expected;
use crate::cloud::google::images;
use crate::cloud::google::storage::{Attributes, Fingerprint, Location, Object, OnlyIf, Storage};
use crate::compress::Compression;
use crate::download::{Engine, Error as DownloadError, Signed, Source, signature};
use crate::openpgp::Keyring;
use crate::release::{Selection, file_in};
use crate::{info, target};

/// With what the keys of checks of the build begin.
pub const PLACE: &str = "build";

/// A short file is no longer, in bytes.
const SHORT: u64 = 4 << 20;

/// The files of a build.
#[derive(Debug)]
pub struct Build {
    /// Their folder, a URL without a slash at its end.
    url: String,
    /// The same in Google Storage, if it is there.
    store: Option<Location>,
    storage: Storage,
    engine: Engine,
    keyring: Keyring,
    /// Where images are kept on this machine.
    cache: PathBuf,
    /// Where lists go that cannot be written beside the build.
    lists: PathBuf,
    listing: OnceCell<BTreeMap<String, Object>>,
    /// One image is fetched at a time, and only once.
    fetching: Mutex<()>,
}

impl Build {
    /// The build in the folder of this URL. `cache`: a folder for the images of this build alone; `lists`: where lists
    /// go if the build is not in Google Storage, where they are written beside it.
    pub fn new(
        url: &str,
        storage: Storage,
        engine: Engine,
        keyring: Keyring,
        cache: PathBuf,
        lists: PathBuf,
    ) -> Self {
        let store = Location::prefix(url).ok();
        let (listing, fetching) = (OnceCell::new(), Mutex::new(()));
        Self { url: url.into(), store, storage, engine, keyring, cache, lists, listing, fetching }
    }

    /// Its folder in Google Storage, if it is there.
    pub(super) fn store(&self) -> Option<&Location> {
        self.store.as_ref()
    }

    /// The client of Google Storage.
    pub(super) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The URL of a file.
    pub(super) fn url_of(&self, name: &str) -> String {
        match &self.store {
            Some(store) => store.join(name).to_string(),
            None => file_in(&self.url, name),
        }
    }

    fn source(&self, name: &str) -> Result<Source> {
        file_in(&self.url, name).parse().map_err(Stopped::failed)
    }

    /// The objects of a build in Google Storage by their names below its folder, as they were at first.
    async fn listing(&self, store: &Location) -> Result<&BTreeMap<String, Object>> {
        let list = || async {
            let (objects, _) = self.storage.list(store, true).await.map_err(Stopped::failed)?;
            let named = |o: Object| Some((o.name.strip_prefix(&store.name)?.to_owned(), o));
            Ok(objects.into_iter().filter_map(named).collect())
        };
        self.listing.get_or_try_init(list).await
    }

    /// Whether there is such a file; elsewhere than in Google Storage its signature stands for it.
    pub(super) async fn has(&self, name: &str, release: &Release) -> Result<bool> {
        if let Some(store) = &self.store {
            return Ok(self.listing(store).await?.contains_key(name));
        }
        let short = if name == release.selection.complete { name.to_owned() } else { format!("{name}.sig") };
        Ok(self.short(&short, release).await?.is_some())
    }

    /// A short file of the build; `None` if there is none.
    pub(super) async fn short(&self, name: &str, release: &Release) -> Result<Option<Vec<u8>>> {
        self.short_at(&self.source(name)?, release).await
    }

    /// A short file elsewhere.
    pub(super) async fn short_at(&self, source: &Source, release: &Release) -> Result<Option<Vec<u8>>> {
        match self.engine.fetch(source, SHORT, &release.cancel).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.status() == Some(reqwest::StatusCode::NOT_FOUND) => Ok(None),
            Err(e) => Err(stopped(e)),
        }
    }

    /// The address of a file for everybody.
    pub(super) fn public_url(&self, name: &str, release: &Release) -> String {
        let Selection { board, version, destinations, .. } = &release.selection;
        let folders = destinations.iter().filter(|d| d.version_path);
        let mut folders = folders.filter_map(|d| d.final_prefixes(board, version).ok()?.into_iter().next());
        match folders.next().as_ref().or(self.store.as_ref()) {
            Some(folder) => images::source(&folder.bucket, &folder.join(name).name),
            None => file_in(&self.url, name),
        }
    }

    /// When it was built: when what says that it is complete was stored. That cannot be told elsewhere than in Google
    /// Storage: it is the day of the release then.
    pub(super) async fn time(&self, release: &Release) -> Result<DateTime<Utc>> {
        let stored = match &self.store {
            Some(store) => {
                self.listing(store).await?.get(&release.selection.complete).and_then(|o| o.time_created)
            }
            None => None,
        };
        Ok(stored.unwrap_or_else(|| release.date.and_time(NaiveTime::MIN).and_utc()))
    }

    /// The image on this machine, unpacked: as it was fetched before, else fetched now. A file has its name only when
    /// its signature was right.
    pub(super) async fn image(&self, name: &str, release: &Release) -> Result<PathBuf> {
        let _one = self.fetching.lock().await;
        let (compression, plain) = match Compression::of_name(name) {
            Some((compression, plain)) => (Some(compression), plain),
            None => (None, name),
        };
        let destination = self.cache.join(plain);
        if destination.is_file() {
            info!(COMPONENT, "using {}, which was verified when it was fetched", destination.display());
            return Ok(destination);
        }
        let folder = self.cache.clone();
        let make = tokio::task::spawn_blocking(move || std::fs::create_dir_all(folder)).await;
        make.map_err(Stopped::failed)?
            .map_err(crate::folders::Unusable::at(&self.cache))
            .map_err(Stopped::failed)?;
        let source = self.source(name)?;
        info!(COMPONENT, "fetching {source}");
        let verifier = &|bytes: &[u8]| signature::check(&self.keyring, bytes);
        let signed = Signed {
            source: &source,
            destination: &destination,
            keep_signature: false,
            decompress: compression,
            verifier,
        };
        self.engine.update_signed(&signed, &release.cancel).await.map_err(stopped)?;
        Ok(destination)
    }

    /// Reads an object to its end, and judges its signature.
    pub(super) async fn verify(&self, at: Location, release: &Release) -> Result<()> {
        let verifier = &|bytes: &[u8]| signature::check(&self.keyring, bytes);
        let source = Source::Storage(at);
        self.engine.spool(&source, Some(verifier), &release.cancel).await.map(drop).map_err(stopped)
    }

    /// Whether a file beside the build has this content and type.
    pub(super) async fn is_written(&self, name: &str, content: &str, kind: &str) -> Result<bool> {
        let Some(store) = &self.store else {
            let there = tokio::fs::read(self.lists.join(name)).await;
            return Ok(there.is_ok_and(|there| there == content.as_bytes()));
        };
        match self.storage.get(&store.join(name)).await {
            Ok(object) => {
                Ok(Fingerprint::of(content.as_bytes()).fits(&object) && object.attributes() == of_kind(kind))
            }
            Err(e) if e.status() == Some(reqwest::StatusCode::NOT_FOUND) => Ok(false),
            Err(e) => Err(Stopped::failed(e)),
        }
    }

    /// Writes a short file beside the build.
    pub(super) async fn write(&self, name: &str, content: &str, kind: &str) -> Result<()> {
        let Some(store) = &self.store else {
            let (path, content) = (self.lists.join(name), content.to_owned());
            let at = path.clone();
            let written =
                tokio::task::spawn_blocking(move || target::replace(&path, 0o666, content.as_bytes())).await;
            let written = written.map_err(Stopped::failed)?;
            return written.map_err(crate::folders::Unusable::at(&at)).map_err(Stopped::failed);
        };
        let content = Bytes::copy_from_slice(content.as_bytes());
        let stored = self.storage.insert(&store.join(name), content, &of_kind(kind), None, OnlyIf::Any).await;
        stored.map(drop).map_err(Stopped::failed)
    }

    /// What a file that will be written beside the build will be.
    pub(super) fn expected(&self, name: &str, content: &str, kind: &str) -> Option<Expected> {
        let name = self.store.as_ref()?.join(name).name;
        Some(Expected { name, fingerprint: Fingerprint::of(content.as_bytes()), attributes: of_kind(kind) })
    }
}

fn of_kind(kind: &str) -> Attributes {
    Attributes { content_type: Some(kind.to_owned()), ..Attributes::default() }
}

fn stopped(error: DownloadError) -> Stopped {
    let interrupted = matches!(error, DownloadError::Interrupted);
    Stopped::from(error, interrupted)
}

/// The one check that every stage has.
pub fn steps(release: &Release) -> Vec<Step> {
    let does = format!("find {}", release.build.url_of(&release.selection.complete));
    vec![Step::new(format!("{PLACE}/version"), Phase::Check, does, Complete)]
}

/// A build without this file is none, or is not complete.
struct Complete;

#[async_trait(?Send)]
impl Act for Complete {
    async fn look(&self, world: &World<'_>) -> Result<Look> {
        let (build, name) = (&world.release.build, world.release.selection.complete.as_str());
        Ok(match build.has(name, world.release).await? {
            true => Look::Done(Value::Null),
            false => Look::Impossible(format!("File not found: {}", build.url_of(name))),
        })
    }

    async fn run(&self, _: &World<'_>) -> Result<Value> {
        Ok(Value::Null)
    }
}
