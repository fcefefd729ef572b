//! Google Cloud Storage: the JSON API (<https://cloud.google.com/storage/docs/json_api/v1>).
//!
//! Everything that changes an object states which version of it is to be changed, so that a try whose answer was lost
//! can be repeated without harm, and nobody else's change is overwritten unseen.

mod list;
mod location;
mod object;
mod upload;
mod write;

use std::path::PathBuf;
use std::sync::Arc;

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderValue, RANGE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

use super::Error as CredentialsError;
use super::credentials::Credentials;
use super::sources::{self, Choice, Environment};
use crate::http::{self, Client, Transient};
use crate::secret::Secret;
use crate::text::percent::encode;

pub use list::Page;
pub use location::Location;
pub use object::{Attributes, Object, format_crc32c, parse_crc32c};
pub use upload::{Fingerprint, fingerprint};
pub use write::{OnlyIf, Rewrite};

/// The API's root.
const BASE: &str = "https://storage.googleapis.com/storage/v1/";

/// What can go wrong with stored objects.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the URL of an object or a bucket.
    #[error("{what} {url}")]
    Url {
        /// What is wrong with it.
        what: &'static str,
        /// The URL as given.
        url: String,
    },
    /// A call failed.
    #[error("storage.objects.{op} {what}{}", if *.anonymous { " without credentials" } else { "" })]
    Call {
        /// The API's name of the call.
        op: &'static str,
        /// The object or prefix.
        what: String,
        /// Whether it was made without credentials.
        anonymous: bool,
        /// Why.
        #[source]
        source: http::Error,
    },
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
    Credentials(#[from] CredentialsError),
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
    /// The status of the answer, if there was one.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Call { source, .. } => source.status(),
            _ => None,
        }
    }

    /// Whether access was refused for want of credentials.
    pub fn needs_credentials(&self) -> bool {
        matches!(self, Self::Call { anonymous: true, source, .. } if is_refusal(source))
    }
}

impl Transient for Error {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Call { source, .. } if source.is_transient())
    }

    fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            Self::Call { source, .. } => source.retry_after(),
            _ => None,
        }
    }
}

fn is_refusal(error: &http::Error) -> bool {
    matches!(error.status(), Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN))
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
pub struct Storage {
    http: Client,
    options: Arc<Options>,
    access: Arc<Mutex<Access>>,
}

#[derive(Debug)]
enum Access {
    Unknown,
    Anonymous,
    Known(Credentials),
}

impl Storage {
    /// A client; nothing is looked up yet.
    pub fn new(http: Client, options: Options) -> Self {
        Self { http, options: Arc::new(options), access: Arc::new(Mutex::new(Access::Unknown)) }
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
        self.authorized("get", &at.to_string(), async |token| {
            let request = bearer(self.http.request(Method::GET, url.clone()), token)
                .header(ACCEPT_ENCODING, if stored { "gzip" } else { "identity" });
            let request =
                if offset > 0 { request.header(RANGE, format!("bytes={offset}-")) } else { request };
            let answer = self.http.send(request).await?;
            if matches!(answer.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
                return Ok(answer);
            }
            Err(self.http.refusal(answer).await)
        })
        .await
    }

    /// The HTTP client, for reading what [`Storage::media`] returns.
    pub fn http(&self) -> &Client {
        &self.http
    }

    async fn json<T: DeserializeOwned>(&self, op: &'static str, what: &str, url: &Url) -> Result<T, Error> {
        let answer = self
            .authorized(op, what, async |token| {
                let request = |http: &Client| bearer(http.request(Method::GET, url.clone()), token);
                self.http.call("storage", &[], request).await
            })
            .await?;
        serde_json::from_slice(&answer.body).map_err(|e| Error::Answer {
            op,
            what: what.to_owned(),
            reason: e.to_string(),
        })
    }

    /// Makes a call with the access there is; once more with a new token, or after a login, if it is refused.
    async fn authorized<T>(
        &self,
        op: &'static str,
        what: &str,
        mut call: impl AsyncFnMut(Option<&Secret>) -> Result<T, http::Error>,
    ) -> Result<T, Error> {
        let (credentials, token) = self.token().await?;
        let error = match call(token.as_ref()).await {
            Ok(value) => return Ok(value),
            Err(e) => e,
        };
        let again = match (&credentials, &token) {
            _ if !is_refusal(&error) => None,
            (Some(credentials), Some(token)) if error.status() == Some(StatusCode::UNAUTHORIZED) => {
                credentials.refused(token).await.then_some(())
            }
            (None, _) => self.log_in().await?.then_some(()),
            _ => None,
        };
        let fail = |source, anonymous| Error::Call { op, what: what.to_owned(), anonymous, source };
        if again.is_none() {
            return Err(fail(error, token.is_none()));
        }
        let (_, token) = self.token().await?;
        call(token.as_ref()).await.map_err(|e| fail(e, token.is_none()))
    }

    async fn token(&self) -> Result<(Option<Credentials>, Option<Secret>), Error> {
        let mut access = self.access.lock().await;
        let chosen = self.options.choice.service || self.options.choice.key.is_some();
        if let Access::Unknown = *access {
            let Options { choice, environment, scopes, emulator, .. } = &*self.options;
            let found = if *emulator && !chosen {
                None
            } else {
                sources::find(choice, environment, scopes, &self.http).await?
            };
            *access = found.map_or(Access::Anonymous, Access::Known);
        }
        let Access::Known(credentials) = &*access else { return Ok((None, None)) };
        let credentials = credentials.clone();
        match credentials.token().await {
            Ok(token) => Ok((Some(credentials), Some(token))),
            Err(e) if !chosen => {
                crate::warning!("storage", "{}; going on without credentials", crate::text::chain(&e));
                *access = Access::Anonymous;
                Ok((None, None))
            }
            Err(e) => Err(e.into()),
        }
    }

    async fn log_in(&self) -> Result<bool, Error> {
        let Options { environment, scopes, interactive, emulator, .. } = &*self.options;
        if !interactive || *emulator {
            return Ok(false);
        }
        let mut access = self.access.lock().await;
        if let Access::Known(_) = *access {
            return Ok(true); // somebody was faster
        }
        let Some(credentials) = sources::log_in(environment, scopes, &self.http).await? else {
            return Ok(false);
        };
        *access = Access::Known(credentials);
        Ok(true)
    }

    fn object_url(&self, at: &Location) -> Result<Url, Error> {
        self.checked_url(at, &["b", &at.bucket, "o", &at.name])
    }

    /// A URL with this object's name in it.
    fn checked_url(&self, at: &Location, path: &[&str]) -> Result<Url, Error> {
        // The service has no such names; as parts of a URL they would lead to another object, or to the bucket.
        if matches!(&*at.name, "." | ".." | "") || matches!(&*at.bucket, "." | "..") {
            return Err(Error::Url { what: "not the name of an object:", url: at.to_string() });
        }
        Ok(self.url(path))
    }

    fn url(&self, path: &[&str]) -> Url {
        let path: Vec<String> = path.iter().map(|part| encode(part)).collect();
        let mut url = self.options.base.clone();
        // Encoded by hand: the URL's own method would leave slashes in names as they are.
        url.set_path(&format!("{}{}", self.options.base.path(), path.join("/")));
        url
    }

    /// Where objects of a bucket are uploaded to.
    fn upload_url(&self, bucket: &str) -> Url {
        let mut url = self.url(&["b", bucket, "o"]);
        let root = self.options.base.path().trim_end_matches("storage/v1/").len();
        let path = format!("{}upload/{}", &url.path()[..root], &url.path()[root..]);
        url.set_path(&path);
        url
    }
}

fn bearer(request: RequestBuilder, token: Option<&Secret>) -> RequestBuilder {
    let Some(token) = token else { return request };
    match HeaderValue::from_str(&format!("Bearer {}", token.expose())) {
        Ok(mut value) => {
            value.set_sensitive(true);
            request.header(AUTHORIZATION, value)
        }
        Err(_) => request, // cannot be: tokens are printable
    }
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
        let http = Client::new(http::Limits::default(), http::Retry::default()).unwrap();
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
        let at = |name: &str| storage.object_url(&Location { bucket: "b".into(), name: name.into() });
        for nowhere in ["", ".", ".."] {
            assert!(at(nowhere).is_err(), "{nowhere}");
        }
        assert_eq!(
            at("a/../ü %2F?#").unwrap().as_str(),
            "https://storage.googleapis.com/storage/v1/b/b/o/a%2F..%2F%C3%BC%20%252F%3F%23"
        );
    }
}
