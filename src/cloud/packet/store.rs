//! Where devices fetch what they boot: two small objects for each, there until it is installed.

use std::path::{Path, PathBuf};

use hyper::body::Bytes;
use reqwest::{Method, Url};

use super::variable;
use crate::cloud::address::Address;
use crate::cloud::aws;
use crate::cloud::google::storage::{self, Attributes, Location, OnlyIf, Storage};
use crate::cloud::google::{self, sources::Choice};
use crate::http::{CallError, Calls, Client, Limits, Open, Retry, Service};
use crate::poll;

/// Where Google Storage is read from by plain HTTP.
const GOOGLE: &str = "http://storage-download.googleapis.com";

/// Why something cannot be stored or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The place is none.
    #[error("{0}")]
    Place(String),
    /// Google Storage.
    #[error("connecting to Google Storage bucket")]
    Google(#[from] storage::Error),
    /// S3.
    #[error("cannot use the S3 bucket")]
    Amazon(#[source] aws::api::Error),
    /// Another server.
    #[error("cannot use the storage server")]
    Http(#[from] CallError),
    /// A folder.
    #[error("cannot use {}", .path.display())]
    Folder {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The place for temporary objects, as options say.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Place for what devices fetch while they install: gs://BUCKET/PREFIX or s3://BUCKET/PREFIX that everybody can
    /// read, http://... that takes PUT and DELETE, or a folder of a web server
    /// [default: gs://users.developer.core-os.net/$USER/mantle]
    #[arg(long, env = "PACKET_STORAGE_URL", hide_env_values = true, value_name = "URL")]
    pub packet_storage_url: Option<String>,

    /// URL by which devices find that place, by http; needed for folders
    #[arg(long, value_name = "URL")]
    pub packet_storage_public_url: Option<String>,
}

impl Options {
    fn url(&self) -> String {
        let user = || variable("USER").unwrap_or_default();
        let given = self.packet_storage_url.clone().filter(|u| !u.is_empty());
        given.unwrap_or_else(|| format!("gs://users.developer.core-os.net/{}/mantle", user()))
    }

    /// Refuses what can be no place, before anything is asked of anybody.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), Error> {
        let url = self.url();
        let public = self.packet_storage_public_url.as_deref().unwrap_or_default();
        if !public.is_empty() {
            super::boot::check_installer(public).map_err(Error::Place)?;
        }
        match scheme(&url) {
            Some("gs") => drop(Location::prefix(&url).map_err(storage::Error::from)?),
            Some("s3") => drop(aws::object::location(&url).map_err(Error::Place)?),
            Some("http" | "https") => drop(base(&url, public)?),
            Some("file") | None if public.is_empty() => {
                return Err(Error::Place(format!(
                    "the folder {url} needs a URL by which devices find it, see the option for the public URL"
                )));
            }
            Some("file") | None => {}
            Some(other) => return Err(Error::Place(format!("{other}:// is no place that is known: {url}"))),
        }
        Ok(())
    }

    /// Opens the place; `choice` says which credentials Google gets, once something is asked of it.
    ///
    /// # Errors
    /// When it is none, or there are no credentials for it.
    pub async fn open(&self, choice: Choice) -> Result<Store, Error> {
        self.check()?;
        let url = self.url();
        let public = self.packet_storage_public_url.clone().filter(|u| !u.is_empty());
        let set_up = |e: crate::http::Error| {
            Error::Http(CallError::Setup { what: "cannot set up HTTP".into(), source: Some(e.into()) })
        };
        let retry = Retry { tries: 6, ..Retry::from_environment() };
        let client = || Client::new(Limits::of_service(poll::scale()), retry.clone()).map_err(set_up);
        let (place, usual) = match scheme(&url) {
            Some("gs") => {
                let at = Location::prefix(&url).map_err(storage::Error::from)?;
                let options = storage::Options::from_environment(choice, google::SCOPES, false)?;
                let host = variable("MANTLE_STORAGE_DOWNLOAD_URL").unwrap_or_else(|| GOOGLE.into());
                let usual = format!("{}/{}/{}", host.trim_end_matches('/'), at.bucket, at.name);
                (Place::Google(Storage::new(client()?, options), at), usual)
            }
            Some("s3") => {
                let at = aws::object::Location::prefix(&url).map_err(|e| Error::Place(e.to_string()))?;
                let account = aws::Account { aws_region: variable("AWS_REGION"), ..aws::Account::default() };
                let api = aws::api::Api::new(&account).await.map_err(Error::Amazon)?;
                let usual = format!("http://{}.s3.{}.amazonaws.com/{}", at.bucket, api.region(), at.name);
                (Place::Amazon(api, at), usual)
            }
            Some("http" | "https") => {
                let at = base(&url, public.as_deref().unwrap_or_default())?;
                let calls = Calls::new("packet", retry.clone(), 8, 8);
                let service = Service::new(client()?, calls, Open, crate::http::read_plain);
                (Place::Http(service, at.clone()), at.to_string())
            }
            _ => (
                Place::Folder(Path::new(url.strip_prefix("file://").unwrap_or(&url)).to_owned()),
                String::new(),
            ),
        };
        let public = public.unwrap_or(usual);
        Ok(Store { place, public: format!("{}/", public.trim_end_matches('/')) })
    }
}

/// What a URL begins with; none: it is a path.
fn scheme(url: &str) -> Option<&str> {
    url.split_once("://").map(|(scheme, _)| scheme)
}

/// The folder of a server that takes PUT.
fn base(url: &str, public: &str) -> Result<Url, Error> {
    let parsed = Url::parse(&format!("{}/", url.trim_end_matches('/'))).ok().filter(Url::has_host);
    let base = parsed.ok_or_else(|| Error::Place(format!("{url} is no URL")))?;
    if !base.username().is_empty() || base.password().is_some() || base.query().is_some() {
        return Err(Error::Place("a URL for storage must have no user, password or query".into()));
    }
    if base.scheme() == "https" && public.is_empty() {
        return Err(Error::Place(format!(
            "{url}: devices do not fetch by https; name the URL by which they find the place by http"
        )));
    }
    Ok(base)
}

/// A place for objects.
pub struct Store {
    place: Place,
    /// What devices find it by; ends in a slash.
    public: String,
}

enum Place {
    Google(Storage, Location),
    Amazon(aws::api::Api, aws::object::Location),
    Http(Service<Open>, Url),
    Folder(PathBuf),
}

impl Store {
    /// The full address of an object, by which it can be removed.
    pub fn address(&self, name: &str) -> String {
        match &self.place {
            Place::Google(_, at) => at.join(name).url(),
            Place::Amazon(_, at) => at.join(name).url(),
            Place::Http(_, base) => format!("{base}{name}"),
            Place::Folder(folder) => format!("file://{}", folder.join(name).display()),
        }
    }

    /// What devices fetch an object by.
    pub fn public(&self, name: &str) -> String {
        format!("{}{name}", self.public)
    }

    /// Stores an object.
    ///
    /// # Errors
    /// When it cannot be stored; it may be there all the same.
    pub async fn put(&self, name: &str, kind: &str, content: String) -> Result<(), Error> {
        let content = Bytes::from(content);
        match &self.place {
            Place::Google(storage, at) => {
                let attributes = Attributes { content_type: Some(kind.to_owned()), ..Attributes::default() };
                storage.insert(&at.join(name), content, &attributes, None, OnlyIf::Any).await?;
            }
            Place::Amazon(api, at) => {
                let at = at.join(name);
                let digest = crate::text::hex(&openssl::sha::sha256(&content));
                api.put_object(&at.bucket, &at.name, content, &digest).await.map_err(Error::Amazon)?;
            }
            Place::Http(service, base) => {
                let url = base.join(name).map_err(|e| Error::Place(e.to_string()))?;
                service.put(format!("PUT {name}"), url).body(kind, content).send().await?;
            }
            Place::Folder(folder) => {
                let path = folder.join(name);
                let fail = |source| Error::Folder { path: path.clone(), source };
                tokio::fs::write(&path, content).await.map_err(fail)?;
            }
        }
        Ok(())
    }

    /// Removes an object by its address; that there is none is fine.
    ///
    /// # Errors
    /// When it is not of this place, or cannot be removed.
    pub async fn remove(&self, address: &str) -> Result<(), Error> {
        let elsewhere = || Error::Place(format!("{address} is in another place than the options name"));
        match &self.place {
            Place::Google(storage, _) => {
                let at = Location::object(address).map_err(|_| elsewhere())?;
                match storage.get(&at).await {
                    Ok(object) => storage.delete(&at, (object.generation, object.metageneration)).await?,
                    Err(e) if e.status().is_some_and(|s| s.as_u16() == 404) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            Place::Amazon(api, _) => {
                let at: Address<crate::cloud::address::Amazon> =
                    Address::object(address).map_err(|_| elsewhere())?;
                api.delete_object(&at.bucket, &at.name).await.map_err(Error::Amazon)?;
            }
            Place::Http(service, base) => {
                let url = Url::parse(address).ok().filter(|u| u.origin() == base.origin());
                let url = url.ok_or_else(elsewhere)?;
                match service.call("DELETE", Method::DELETE, url).send().await {
                    Err(e) if !e.is_not_found() => return Err(e.into()),
                    _ => {}
                }
            }
            Place::Folder(folder) => {
                let path = Path::new(address.strip_prefix("file://").ok_or_else(elsewhere)?);
                // A record may name anything: nothing outside of the place is removed.
                if path.parent() != Some(folder.as_path()) {
                    return Err(elsewhere());
                }
                match tokio::fs::remove_file(path).await {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        return Err(Error::Folder { path: path.to_owned(), source: e });
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}
