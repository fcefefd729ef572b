//! Google Cloud Storage: the JSON API (<https://cloud.google.com/storage/docs/json_api/v1>).
//!
//! Everything that changes an object states which version of it is to be changed, so that a try whose answer was lost
//! can be repeated without harm, and nobody else's change is overwritten unseen.

mod access;
mod compose;
mod list;
mod object;
mod upload;
mod write;

use std::path::PathBuf;

use reqwest::header::{ACCEPT_ENCODING, RANGE};
use reqwest::{Method, Response, StatusCode, Url};
use serde::de::DeserializeOwned;

use self::access::Door;
use super::refusal;
use super::sources::{Choice, Environment};
use crate::cloud::address::{self, Address};
use crate::http::{Call, CallError, Calls, Cause, Class, Client, Repeat, Service, Transient};
use crate::text::percent::encode;

pub use compose::Stored;
pub use list::Page;
pub use object::{Attributes, Object, format_crc32c, parse_crc32c};
pub use upload::{Fingerprint, fingerprint};
pub use write::{OnlyIf, Rewrite};

/// An object's place in Cloud Storage, or a prefix of names.
pub type Location = Address<address::Google>;

/// The API's root.
const BASE: &str = "https://storage.googleapis.com/storage/v1/";

/// What can go wrong with stored objects.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the address of an object.
    #[error(transparent)]
    Address(#[from] address::Error),
    /// A call failed.
    #[error(transparent)]
    Call(CallError),
    /// A call was refused for want of credentials.
    #[error("no access without credentials")]
    Anonymous(#[source] CallError),
    /// The answer is not what the API promises.
    #[error("storage.objects.{op} {what}: unexpected answer: {reason}")]
    Answer {
        /// The API's name of the call.
        op: &'static str,
        /// The object or prefix.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file to be uploaded cannot be read.
    #[error("cannot read {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There are credentials, but they give no token.
    #[error(transparent)]
    Credentials(Cause),
    /// An endpoint of the environment is no URL.
    #[error("cannot use ${name}: {value:?} is no URL")]
    Endpoint {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// The endpoint that was chosen is no URL.
    #[error("{0:?} is no URL of an API")]
    ChosenEndpoint(String),
}

impl Error {
    /// The call that failed, if one did: its name and what it was about.
    pub fn call(&self) -> Option<&str> {
        match self {
            Self::Call(e) | Self::Anonymous(e) => e.call(),
            _ => None,
        }
    }

    /// The status of the answer, if that was a refusal.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Call(e) | Self::Anonymous(e) => e.status().and_then(|s| StatusCode::from_u16(s).ok()),
            _ => None,
        }
    }

    /// Whether access was refused for want of credentials.
    pub fn needs_credentials(&self) -> bool {
        matches!(self, Self::Anonymous(_))
    }
}

impl Transient for Error {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Call(e) | Self::Anonymous(e) if e.is_transient())
    }

    fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            Self::Call(e) | Self::Anonymous(e) => e.retry_after(),
            _ => None,
        }
    }
}

/// Where the API is and how to get access.
#[derive(Clone, Debug)]
pub struct Options {
    /// The API's root, up to and with `storage/v1/`.
    pub base: Url,
    /// Whether that is an emulator, which needs no credentials.
    pub emulator: bool,
    /// What the user asked for.
    pub choice: Choice,
    /// Where else to look for credentials.
    pub environment: Environment,
    /// What tokens must allow.
    pub scopes: &'static [&'static str],
    /// Whether somebody is there to log in.
    pub interactive: bool,
}

impl Options {
    /// As the environment has it: `STORAGE_EMULATOR_HOST`, else `CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE`, else Google.
    ///
    /// # Errors
    /// [`Error::Endpoint`].
    pub fn from_environment(
        choice: Choice,
        scopes: &'static [&'static str],
        interactive: bool,
    ) -> Result<Self, Error> {
        let set = |name| std::env::var(name).ok().filter(|v: &String| !v.is_empty());
        let (mut base, mut emulator) = (None, false);
        for (name, is_emulator) in
            [("STORAGE_EMULATOR_HOST", true), ("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", false)]
        {
            if base.is_none()
                && let Some(value) = set(name)
            {
                base = Some(endpoint(&value).ok_or(Error::Endpoint { name, value })?);
                emulator = is_emulator;
            }
        }
        let base = base.unwrap_or_else(|| BASE.parse().expect("the constant is a URL"));
        let environment = Environment::of_process();
        Ok(Self { base, emulator, choice, environment, scopes, interactive })
    }

    /// The same with another server: `host:port`, a URL, or the API's root.
    ///
    /// # Errors
    /// [`Error::ChosenEndpoint`].
    pub fn with_endpoint(self, text: &str) -> Result<Self, Error> {
        let base = endpoint(text).ok_or_else(|| Error::ChosenEndpoint(text.to_owned()))?;
        Ok(Self { base, emulator: false, ..self })
    }
}

/// The API's root for a server given as `host:port`, a URL, or the root itself.
fn endpoint(text: &str) -> Option<Url> {
    let url: Url =
        if text.contains("://") { text.parse().ok()? } else { format!("http://{text}").parse().ok()? };
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return None;
    }
    let text = url.as_str().trim_end_matches('/');
    let root = if text.ends_with("/storage/v1") { "/" } else { "/storage/v1/" };
    format!("{text}{root}").parse().ok()
}

/// A client of Cloud Storage. Clones share credentials and connections.
///
/// Credentials are looked for at the first call. Without any, or when those found give no token, objects are read
/// anonymously, as public ones can be; if that is refused, a person may log in.
#[derive(Clone, Debug)]
pub struct Storage(Service<Door>);

/// Bounds above what callers choose: calls, and transfers.
const PLACES: (usize, usize) = (64, 64);

impl Storage {
    /// A client; nothing is looked up yet.
    pub fn new(http: Client, options: Options) -> Self {
        let calls = Calls::new("storage", http.retry().clone(), PLACES.0, PLACES.1);
        let door = Door::new(options, http.clone());
        Self(Service::new(http, calls, door, refusal::read))
    }

    /// The description of an object.
    ///
    /// # Errors
    /// Any [`Error`]; transient ones have been retried.
    pub async fn get(&self, at: &Location) -> Result<Object, Error> {
        self.json("get", &at.to_string(), &self.object_url(at)?).await
    }

    /// Starts reading one generation of an object's stored content at an offset; one try.
    ///
    /// The answer is 200 or 206, else an error: the generation is gone if that is a 404.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn media(&self, at: &Location, object: &Object, offset: u64) -> Result<Response, Error> {
        let mut url = self.object_url(at)?;
        url.query_pairs_mut()
            .append_pair("alt", "media")
            .append_pair("generation", &object.generation.to_string());
        // What is stored gzipped must come so, else the server decodes it and neither length nor checksum fit.
        let stored = object.content_encoding.as_deref() == Some("gzip");
        let call = self.call("get", &at.to_string(), Method::GET, url).repeat(Repeat::Never).data();
        let call = call.header(ACCEPT_ENCODING, if stored { "gzip" } else { "identity" });
        let call = if offset > 0 { call.header(RANGE, format!("bytes={offset}-")) } else { call };
        let answer = self.checked(call.open().await).await?;
        match answer.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(answer),
            status => {
                let reason = format!("status {status} is none of a content");
                Err(Error::Answer { op: "get", what: at.to_string(), reason })
            }
        }
    }

    /// The HTTP client, for reading what [`Storage::media`] returns.
    pub fn http(&self) -> &Client {
        self.0.http()
    }

    async fn json<T: DeserializeOwned>(&self, op: &'static str, what: &str, url: &Url) -> Result<T, Error> {
        let answer = self.checked(self.call(op, what, Method::GET, url.clone()).send().await).await?;
        serde_json::from_slice(&answer.body).map_err(|e| Error::Answer {
            op,
            what: what.to_owned(),
            reason: e.to_string(),
        })
    }

    /// A call with the API's name for it. All may be repeated freely: they name the version that they are about.
    fn call(&self, op: &str, what: &str, method: Method, url: Url) -> Call<'_, Door> {
        self.0.call(name(op, what), method, url).repeat(Repeat::Freely)
    }

    /// The outcome of a call, with what to know of its failure.
    async fn checked<T>(&self, outcome: Result<T, CallError>) -> Result<T, Error> {
        let error = match outcome {
            Ok(value) => return Ok(value),
            Err(CallError::Credentials { source, .. }) => return Err(Error::Credentials(source)),
            Err(e) => e,
        };
        let unwelcome = matches!(error.class(), Some(Class::Denied | Class::Expired));
        match unwelcome && self.0.access().is_anonymous().await {
            true => Err(Error::Anonymous(error)),
            false => Err(Error::Call(error)),
        }
    }

    fn base(&self) -> &Url {
        &self.0.access().options.base
    }

    fn object_url(&self, at: &Location) -> Result<Url, Error> {
        self.checked_url(at, &["b", &at.bucket, "o", &at.name])
    }

    /// A URL with this object's name in it.
    fn checked_url(&self, at: &Location, path: &[&str]) -> Result<Url, Error> {
        // The service has no such names; as parts of a URL they would lead to another object, or to the bucket.
        if matches!(&*at.name, "." | ".." | "") || matches!(&*at.bucket, "." | "..") {
            let what = "not the name of an object:";
            return Err(address::Error::Unusable { what, url: at.to_string() }.into());
        }
        Ok(self.url(path))
    }

    fn url(&self, path: &[&str]) -> Url {
        let path: Vec<String> = path.iter().map(|part| encode(part)).collect();
        let mut url = self.base().clone();
        // Encoded by hand: the URL's own method would leave slashes in names as they are.
        url.set_path(&format!("{}{}", self.base().path(), path.join("/")));
        url
    }

    /// Where objects of a bucket are uploaded to.
    fn upload_url(&self, bucket: &str) -> Url {
        let mut url = self.url(&["b", bucket, "o"]);
        let root = self.base().path().trim_end_matches("storage/v1/").len();
        let path = format!("{}upload/{}", &url.path()[..root], &url.path()[root..]);
        url.set_path(&path);
        url
    }
}

/// The API's name of a call, and what it is about.
fn name(op: &str, what: impl std::fmt::Display) -> String {
    format!("storage.objects.{op} {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_given_in_three_ways() {
        for (text, base) in [
            ("localhost:9023", "http://localhost:9023/storage/v1/"),
            ("http://127.0.0.1:4443/", "http://127.0.0.1:4443/storage/v1/"),
            ("https://gcs.example/storage/v1/", "https://gcs.example/storage/v1/"),
        ] {
            assert_eq!(endpoint(text).unwrap().as_str(), base);
        }
        assert!(endpoint("ftp://x").is_none());
        assert!(endpoint("http://").is_none());
    }

    fn storage(base: &str) -> Storage {
        let http = Client::new(crate::http::Limits::default(), crate::http::Retry::default()).unwrap();
        let options = Options {
            base: base.parse().unwrap(),
            emulator: true,
            choice: Choice::default(),
            environment: Environment::default(),
            scopes: &[],
            interactive: false,
        };
        Storage::new(http, options)
    }

    #[test]
    fn uploads_have_a_root_of_their_own() {
        let url = |base| storage(base).upload_url("b").to_string();
        assert_eq!(url(BASE), "https://storage.googleapis.com/upload/storage/v1/b/b/o");
        assert_eq!(url("http://h:1/gcs/storage/v1/"), "http://h:1/gcs/upload/storage/v1/b/b/o");
    }

    #[test]
    fn names_are_one_component_of_the_path() {
        let storage = storage(BASE);
        let at = |name: &str| storage.object_url(&Location::new("b", name));
        for nowhere in ["", ".", ".."] {
            assert!(at(nowhere).is_err(), "{nowhere}");
        }
        assert_eq!(
            at("a/../ü %2F?#").unwrap().as_str(),
            "https://storage.googleapis.com/storage/v1/b/b/o/a%2F..%2F%C3%BC%20%252F%3F%23"
        );
    }
}
