//! Results of runs at places that several machines reach: folders, Google Storage, S3.
//!
//! Each process has a folder of its own there, so that no two write to the same file. What is in it is what is in the
//! output folder of its run: [`Uploader`] brings it there while the run goes on, [`Store::fetch`] gets it back.

mod upload;

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::cloud::address::{self, Address, Amazon, Google};
use crate::cloud::aws;
use crate::cloud::aws::api::Api;
use crate::cloud::aws::object::{Content, Upload};
use crate::cloud::google;
use crate::cloud::google::storage::{self, Attributes, OnlyIf, Storage};
use crate::download::{self, Engine, Request};
use crate::http::{Client, Limits, Retry};
use crate::target::{Fresh, Target};
pub use upload::{Done, Uploader};

/// Bytes that are got from S3 with one request.
const PIECE: u64 = 8 << 20;

/// Where results are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A folder.
    Folder(PathBuf),
    /// Names in Google Storage that begin so.
    Google(Address<Google>),
    /// Names in S3 that begin so.
    Amazon(Address<Amazon>),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unusable = |e: address::Error| e.to_string();
        if Address::<Google>::fits(text) {
            return Address::prefix(text).map(Self::Google).map_err(unusable);
        }
        if Address::<Amazon>::fits(text) {
            let at = Address::<Amazon>::prefix(text).map_err(unusable)?;
            return aws::object::check_bucket(&at.bucket).map(|()| Self::Amazon(at));
        }
        match text {
            "" => Err("a folder without a name".into()),
            _ if text.contains("://") => {
                Err(format!("{text} is no folder, and begins neither with gs:// nor with s3://"))
            }
            _ => Ok(Self::Folder(text.into())),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            Self::Google(at) => write!(f, "{at}"),
            Self::Amazon(at) => write!(f, "{at}"),
        }
    }
}

/// With whose credentials.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// Google's.
    pub google: google::sources::Choice,
    /// Amazon's.
    pub aws: aws::Account,
}

/// Why results could not be stored or got.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {action} {}", .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The HTTP client could not be set up.
    #[error(transparent)]
    Http(#[from] crate::http::Error),
    /// Google Storage could not be reached or refused.
    #[error(transparent)]
    Google(#[from] storage::Error),
    /// The same, for downloads.
    #[error(transparent)]
    Download(#[from] download::Error),
    /// S3 could not be reached or refused.
    #[error(transparent)]
    Amazon(#[from] aws::failure::Error),
    /// The same, for a single call.
    #[error(transparent)]
    Call(#[from] aws::api::Error),
    /// The work was stopped.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    fn file<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| Self::File { action, path: path.to_owned(), source }
    }

    /// Whether access was refused for want of credentials.
    pub fn needs_credentials(&self) -> bool {
        match self {
            Self::Google(e) => e.needs_credentials(),
            Self::Download(download::Error::Storage(e)) => e.needs_credentials(),
            Self::Call(e) => matches!(e, aws::api::Error::Credentials { .. }),
            Self::Amazon(e) => {
                matches!(e.root(), aws::failure::Error::Api(aws::api::Error::Credentials { .. }))
            }
            _ => false,
        }
    }
}

/// What lies directly in a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Files, and when they were stored.
    pub files: Vec<(String, Option<DateTime<Utc>>)>,
    /// Folders.
    pub folders: Vec<String>,
}

/// A place that has been opened. Clones share connections.
#[derive(Clone)]
pub struct Store {
    place: Place,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Folder,
    Google(Arc<(Storage, Engine)>),
    Amazon(Api),
}

impl Store {
    /// Opens a place. Nothing is asked of a server yet.
    ///
    /// # Errors
    /// When what is needed for it is missing or makes no sense.
    pub async fn open(place: Place, accounts: &Accounts) -> Result<Self, Error> {
        let kind = match &place {
            Place::Folder(_) => Kind::Folder,
            Place::Google(_) => {
                let http = Client::new(Limits::from_environment(), Retry::from_environment())?;
                let choice = accounts.google.clone();
                let options = storage::Options::from_environment(choice, google::SCOPES, false)?;
                let storage = Storage::new(http, options);
                let engine = Engine::new(storage.http().clone(), Some(storage.clone()));
                Kind::Google(Arc::new((storage, engine)))
            }
            Place::Amazon(_) => Kind::Amazon(Api::new(&accounts.aws).await?),
        };
        Ok(Self { place, kind })
    }

    /// The place.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What a name in it is called in messages.
    pub fn called(&self, name: &str) -> String {
        match &self.place {
            Place::Folder(folder) => folder.join(name).display().to_string(),
            Place::Google(at) => at.join(name).to_string(),
            Place::Amazon(at) => at.join(name).to_string(),
        }
    }

    /// Stores a file, in one step, in place of what has its name.
    ///
    /// # Errors
    /// Any [`Error`]. Long files go in pieces, of which those that have arrived are not sent again.
    pub async fn put(&self, name: &str, file: &Path, cancel: &CancellationToken) -> Result<(), Error> {
        match (&self.place, &self.kind) {
            (Place::Google(at), Kind::Google(google)) => {
                let (attributes, at) = (Attributes::default(), at.join(name));
                let put = async {
                    let content = storage::fingerprint(file).await?;
                    let mut progress = |_| {};
                    let any = OnlyIf::Any;
                    google.0.insert_file(&at, file, content, &attributes, None, any, &mut progress).await
                };
                cancel.run_until_cancelled(put).await.ok_or(Error::Interrupted)??;
                Ok(())
            }
            (Place::Amazon(at), Kind::Amazon(api)) => {
                let content = Content::of(file, cancel).await?;
                let to = &at.join(name);
                let upload = Upload { file, content: &content, to, resume: true, report: &|_, _| {}, cancel };
                Ok(upload.run(api).await?)
            }
            (place, _) => {
                let Place::Folder(folder) = place else { return Err(Error::Interrupted) };
                let (from, to) = (file.to_owned(), folder.join(name));
                let copied = tokio::task::spawn_blocking(move || copy(&from, &to));
                copied.await.unwrap_or_else(|e| Err(Error::file("copy", file)(io::Error::other(e))))
            }
        }
    }

    /// What lies directly in a folder below the place; `""` is the place itself. One that is not there is empty, where
    /// there are no folders.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn list(&self, folder: &str) -> Result<Listing, Error> {
        match (&self.place, &self.kind) {
            (Place::Google(at), Kind::Google(google)) => {
                let prefix = if folder.is_empty() { at.clone() } else { at.join(&format!("{folder}/")) };
                let (objects, folders) = google.0.list(&prefix, false).await?;
                let inner = |name: &str| inner(name, &prefix.name);
                let files = objects.iter().filter_map(|o| Some((inner(&o.name)?, o.time_created)));
                let folders = folders.iter().filter_map(|f| inner(f));
                Ok(Listing { files: files.collect(), folders: folders.collect() })
            }
            (Place::Amazon(at), Kind::Amazon(api)) => {
                let prefix = if folder.is_empty() { at.clone() } else { at.join(&format!("{folder}/")) };
                let (objects, folders) = api.list_folder(&prefix.bucket, &prefix.name).await?;
                let inner = |name: &str| inner(name, &prefix.name);
                let files = objects.iter().filter_map(|o| Some((inner(&o.key)?, o.time)));
                let folders = folders.iter().filter_map(|f| inner(f));
                Ok(Listing { files: files.collect(), folders: folders.collect() })
            }
            (place, _) => {
                let Place::Folder(at) = place else { return Err(Error::Interrupted) };
                let path = at.join(folder);
                let listed = tokio::task::spawn_blocking(move || look(&path));
                listed.await.unwrap_or_else(|e| Err(Error::file("read", at)(io::Error::other(e))))
            }
        }
    }

    /// Gets a file of a cloud.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn fetch(&self, name: &str, to: &Path, cancel: &CancellationToken) -> Result<(), Error> {
        match (&self.place, &self.kind) {
            (Place::Google(at), Kind::Google(google)) => {
                let source = download::Source::from_str(&at.join(name).url());
                let source = source.map_err(|e| Error::file("get", to)(io::Error::other(e)))?;
                let request = Request { source: &source, destination: to, check: None, decompress: None };
                google.1.get(&request, cancel).await?;
                Ok(())
            }
            (Place::Amazon(at), Kind::Amazon(api)) => {
                let at = at.join(name);
                let get = pieces(api, &at, to);
                cancel.run_until_cancelled(get).await.unwrap_or(Err(Error::Interrupted))
            }
            (place, _) => {
                let Place::Folder(folder) = place else { return Err(Error::Interrupted) };
                copy(&folder.join(name), to)
            }
        }
    }
}

/// The name of what lies in a folder, without slashes.
fn inner(name: &str, folder: &str) -> Option<String> {
    let name = name.strip_prefix(folder)?.trim_end_matches('/');
    (!name.is_empty() && !name.contains('/')).then(|| name.to_owned())
}

/// Gets an object of S3, of one version, piece by piece.
async fn pieces(api: &Api, at: &Address<Amazon>, to: &Path) -> Result<(), Error> {
    use std::io::Write as _;
    let target = Target::file(to).map_err(|e| Error::file("write", to)(io::Error::other(e)))?;
    let fresh = Fresh::new(Target::File(target), 0o666).map_err(Error::file("write", to))?;
    let head = api.head_object(&at.bucket, &at.name).await?;
    let head = head.ok_or_else(|| aws::failure::Error::Invalid(format!("{at} is gone")))?;
    let mut offset = 0;
    while offset < head.size {
        let length = PIECE.min(head.size - offset);
        let (piece, _) = api.get_range(&at.bucket, &at.name, Some(&head.etag), offset, length).await?;
        if piece.len() as u64 != length {
            let why = format!("{at}: {} bytes came instead of {length}", piece.len());
            return Err(aws::failure::Error::Invalid(why).into());
        }
        fresh.file().write_all(&piece).map_err(Error::file("write", to))?;
        offset += length;
    }
    fresh.commit().map_err(Error::file("write", to))
}

/// Copies a file, in one step.
fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    }
    let mut file = std::fs::File::open(from).map_err(Error::file("read", from))?;
    let mut put = || {
        let target = Target::file(to).map_err(io::Error::other)?;
        let fresh = Fresh::new(Target::File(target), 0o666)?;
        io::copy(&mut file, &mut fresh.file())?;
        fresh.commit()
    };
    put().map_err(Error::file("write", to))
}

/// What is in a folder.
fn look(path: &Path) -> Result<Listing, Error> {
    let mut listing = Listing::default();
    let entries = std::fs::read_dir(path).map_err(Error::file("read", path))?;
    for entry in entries {
        let entry = entry.map_err(Error::file("read", path))?;
        // What links lead to counts: somebody has put together what is to be one run.
        let Ok(about) = std::fs::metadata(entry.path()) else { continue };
        let Ok(name) = entry.file_name().into_string() else { continue };
        if about.is_dir() {
            listing.folders.push(name);
        } else if about.is_file() {
            listing.files.push((name, about.modified().ok().map(DateTime::from)));
        }
    }
    listing.files.sort();
    listing.folders.sort();
    Ok(listing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_folders_or_stores() {
        assert_eq!("a/b".parse(), Ok(Place::Folder("a/b".into())));
        assert_eq!("gs://b/x".parse(), Ok(Place::Google(Address::new("b", "x/"))));
        assert_eq!("S3://buck".parse(), Ok(Place::Amazon(Address::new("buck", ""))));
        for bad in ["", "https://host/x", "s3://B/x", "gs://"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_in_folders_have_no_slashes() {
        assert_eq!(inner("a/b", "a/"), Some("b".into()));
        assert_eq!(inner("a/b/", "a/"), Some("b".into()));
        for none in ["a/", "a/b/c", "x"] {
            assert_eq!(inner(none, "a/"), None, "{none}");
        }
    }
}
