//! Who one is at Azure: credentials that give access tokens, and renew them.
//!
//! | file | what it is |
//! |---|---|
//! | `sources` | where credentials are found |
//! | `profile` | the subscriptions of Azure's CLIs |
//! | `cloud` | the addresses of Azure's clouds |
//! | `certificate` | applications that prove themselves with a certificate |

mod certificate;
mod cloud;
pub mod profile;
pub mod sources;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use tokio::time::Instant;

use self::certificate::Certificate;
pub use self::cloud::Cloud;
use crate::http::{
    self, Access, Authorize, CallError, Class, Client, Expires, Limits, Renewing, Retry, bearer,
};
use crate::process::{self, Command};
use crate::secret::Secret;
use crate::text::encoding::{Decoder, Encoding};
use crate::text::percent::encode;

/// A token is replaced so long before its end; should that fail, it is used until [`LAST`] before it.
const EARLY: Duration = Duration::from_secs(300);
const LAST: Duration = Duration::from_secs(10);

/// How long the Azure CLI may take: it is a large Python program.
const CLI: Duration = Duration::from_secs(60);

/// What tokens for stored objects are for, in all clouds.
pub const STORAGE: &str = "https://storage.azure.com/";

/// What can go wrong with credentials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no folder to look in.
    #[error("neither $HOME nor the user database names a home folder")]
    Homeless,
    /// A file cannot be read.
    #[error("cannot read the Azure file {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be. The reason never quotes the file: it holds secrets.
    #[error("cannot use the Azure file {}: {reason}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Variables of the environment do not go together.
    #[error("cannot use the Azure credentials in the environment: {0}")]
    Variable(String),
    /// The profile has others.
    #[error("Azure subscription named {named:?} doesn't exist in {:?} (there: {there})", .path)]
    Subscription {
        /// What was asked for.
        named: String,
        /// The profile.
        path: PathBuf,
        /// Those that are there.
        there: String,
    },
    /// Nobody says which subscription is meant.
    #[error("no subscription is named: not by an option, not by $AZURE_SUBSCRIPTION_ID, not by {0}")]
    NoSubscription(String),
    /// There is no cloud of this name.
    #[error("$AZURE_CLOUD is {0:?}: Azure's clouds are public, china and government")]
    Cloud(String),
    /// An address is none.
    #[error("{0:?} is no URL of an Azure service")]
    Address(String),
    /// The key of a certificate could not sign.
    #[error("cannot sign with the key of {origin}")]
    Sign {
        /// Which credentials.
        origin: String,
        /// Why.
        #[source]
        source: openssl::error::ErrorStack,
    },
    /// The token server gave no token.
    #[error("cannot get a token with {origin}")]
    Token {
        /// Which credentials.
        origin: String,
        /// Why.
        #[source]
        source: http::Error,
    },
    /// What came is no token.
    #[error("cannot get a token with {origin}: {reason}")]
    Answer {
        /// Which credentials.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// There are none.
    #[error(
        "none were found: neither a file ($AZURE_AUTH_LOCATION, ~/.azure/credentials.json) nor variables \
         ($AZURE_CLIENT_ID and others) nor an identity of this machine nor those of the Azure CLI (`az login` makes some)"
    )]
    Missing,
    /// The HTTP client could not be set up.
    #[error(transparent)]
    Http(http::Error),
}

/// Reads a text in UTF-8 or UTF-16, with or without a byte order mark, and warns when others may read it.
fn read_text(path: &Path) -> Result<String, Error> {
    let bytes = read_secret(path)?;
    let (encoding, mark) = Encoding::detect(&bytes);
    let mut text = Vec::new();
    Decoder::new(encoding).decode(&bytes[mark..], &mut text);
    String::from_utf8(text).map_err(|_| Error::Invalid {
        path: path.to_owned(),
        reason: "it is neither UTF-8 nor UTF-16".into(),
    })
}

fn read_secret(path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = crate::input::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    super::super::warn_if_others_may_read("azure", path);
    Ok(bytes)
}

/// An access token; [`fmt::Debug`] does not show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    value: Secret,
    expires: Instant,
}

impl Token {
    /// The token itself.
    pub fn value(&self) -> &Secret {
        &self.value
    }
}

impl Expires for Token {
    fn is_valid_for(&self, time: Duration) -> bool {
        self.expires.saturating_duration_since(Instant::now()) > time
    }
}

/// How tokens are got.
#[derive(Debug)]
pub(super) enum Kind {
    /// An application of a tenant.
    Application {
        tenant: String,
        client: String,
        proof: Proof,
        /// Asks as the files of late Container Linux had it: at the first version of the token server.
        old: bool,
    },
    /// The identity of this machine, by a server that only it reaches.
    Managed {
        url: Url,
        /// Shows the server that the request comes from a program of this machine.
        header: (HeaderName, Secret),
        /// Which one, where the machine has several.
        client: Option<String>,
    },
    /// Whoever logged in with the Azure CLI, for this subscription.
    Cli { subscription: Option<String> },
}

/// How an application proves what it is.
#[derive(Debug)]
pub(super) enum Proof {
    Secret(Secret),
    Certificate(Box<Certificate>),
    /// A statement of another provider's, which it keeps renewing in this file.
    Federated(PathBuf),
}

/// Someone's credentials for one service; clones share the current token. [`fmt::Debug`] shows no secret.
#[derive(Clone)]
pub struct Credentials {
    inner: Arc<Inner>,
    audience: Arc<str>,
    token: Arc<Renewing<Token>>,
}

struct Inner {
    origin: String,
    kind: Kind,
    authority: Url,
    http: Client,
    direct: Client,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.inner.origin)
    }
}

impl Credentials {
    pub(super) fn new(origin: String, kind: Kind, cloud: &Cloud, http: &Client) -> Result<Self, Error> {
        // Servers of this machine are near, or not there at all.
        let limits = Limits { connect: Duration::from_secs(3), idle: Duration::from_secs(20) };
        let direct = Client::direct(limits, http.retry().clone()).map_err(Error::Http)?;
        let inner = Inner { origin, kind, authority: cloud.authority.clone(), http: http.clone(), direct };
        Ok(Self::of(Arc::new(inner), &cloud.audience))
    }

    fn of(inner: Arc<Inner>, audience: &str) -> Self {
        Self { inner, audience: audience.into(), token: Arc::new(Renewing::new(EARLY, LAST)) }
    }

    /// The same for another service, such as [`STORAGE`], with a token of its own.
    #[must_use]
    pub fn for_audience(&self, audience: &str) -> Self {
        Self::of(self.inner.clone(), audience)
    }

    /// The name that Azure has for them, where it is known.
    pub fn identity(&self) -> String {
        match &self.inner.kind {
            Kind::Application { client, .. } => format!("application {client}"),
            Kind::Managed { client: Some(client), .. } => format!("this machine's identity {client}"),
            Kind::Managed { client: None, .. } => "this machine's identity".into(),
            Kind::Cli { .. } => "the user of the Azure CLI".into(),
        }
    }

    /// Where they are from, for messages.
    pub fn origin(&self) -> &str {
        &self.inner.origin
    }

    /// A valid access token; a new one if the last has expired.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn token(&self) -> Result<Token, Error> {
        self.token.get("azure", || self.fetch()).await
    }

    async fn fetch(&self) -> Result<Token, Error> {
        let Inner { origin, kind, authority, http, direct } = &*self.inner;
        // On the heap: this is rare, and everything that needs a token would have room for it.
        let answer = Box::pin(async {
            match kind {
                Kind::Application { tenant, client, proof, old } => {
                    let request = Request::new(authority, tenant, client, *old, &self.audience);
                    application(http, origin, &request?, proof).await
                }
                Kind::Managed { url, header, client } => {
                    managed(direct, origin, url, header, client.as_deref(), &self.audience).await
                }
                Kind::Cli { subscription } => cli(origin, subscription.as_deref(), &self.audience).await,
            }
        });
        let token = read_token(origin, &answer.await?, chrono::Utc::now().timestamp())?;
        crate::debug!("azure", "got a token with {origin}");
        Ok(token)
    }
}

/// One token request of an application (RFC 6749, 4.4).
struct Request<'a> {
    url: Url,
    client: &'a str,
    /// What the token is for: name and value of the field that says it.
    wanted: (&'static str, String),
}

impl<'a> Request<'a> {
    fn new(authority: &Url, tenant: &str, client: &'a str, old: bool, audience: &str) -> Result<Self, Error> {
        let (path, wanted) = match old {
            true => ("oauth2/token?api-version=1.0", ("resource", audience.to_owned())),
            // The slash at the end of an audience is part of it.
            false => ("oauth2/v2.0/token", ("scope", format!("{}.default", with_slash(audience)))),
        };
        let text = format!("{authority}{}/{path}", encode(tenant));
        let url = text.parse().map_err(|_| Error::Address(authority.to_string()))?;
        Ok(Self { url, client, wanted })
    }
}

fn with_slash(audience: &str) -> String {
    format!("{}/", audience.trim_end_matches('/'))
}

async fn application(
    http: &Client,
    origin: &str,
    request: &Request<'_>,
    proof: &Proof,
) -> Result<Vec<u8>, Error> {
    let mut form = vec![("grant_type", "client_credentials"), ("client_id", request.client)];
    let (field, wanted) = &request.wanted;
    form.push((field, wanted));
    let statement;
    match proof {
        Proof::Secret(secret) => form.push(("client_secret", secret.expose())),
        Proof::Certificate(certificate) => {
            let mut audience = request.url.clone();
            audience.set_query(None);
            let signed = certificate.assertion(request.client, audience.as_str(), chrono::Utc::now());
            statement = signed.map_err(|source| Error::Sign { origin: origin.to_owned(), source })?;
            form.extend(assertion(&statement));
        }
        Proof::Federated(file) => {
            // Anew each time: it is good for an hour.
            let read = crate::input::read_to_string(file);
            statement = read.map_err(|source| Error::Read { path: file.clone(), source })?.trim().to_owned();
            form.extend(assertion(&statement));
        }
    }
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let answer = http.call("azure", &[], |http| {
        http.request(Method::POST, request.url.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .body(form.clone())
    });
    let answer = answer.await.map_err(|source| Error::Token { origin: origin.to_owned(), source })?;
    Ok(answer.body)
}

/// The fields of a form with a statement (RFC 7523, 2.2).
fn assertion(statement: &str) -> [(&'static str, &str); 2] {
    let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    [("client_assertion_type", kind), ("client_assertion", statement)]
}

async fn managed(
    http: &Client,
    origin: &str,
    url: &Url,
    (name, value): &(HeaderName, Secret),
    client: Option<&str>,
    audience: &str,
) -> Result<Vec<u8>, Error> {
    let mut url = url.clone();
    // With or without a slash is one and the same to Azure, but not to all of its servers.
    url.query_pairs_mut().append_pair("resource", audience.trim_end_matches('/'));
    if let Some(client) = client {
        url.query_pairs_mut().append_pair("client_id", client);
    }
    let mut header = HeaderValue::from_str(value.expose())
        .map_err(|_| Error::Variable("IDENTITY_HEADER is no value of a header".into()))?;
    header.set_sensitive(true);
    let answer =
        http.call("azure", &[], |http| http.request(Method::GET, url.clone()).header(name, header.clone()));
    let answer = answer.await.map_err(|source| Error::Token { origin: origin.to_owned(), source })?;
    Ok(answer.body)
}

async fn cli(origin: &str, subscription: Option<&str>, audience: &str) -> Result<Vec<u8>, Error> {
    let fail = |reason: String| Error::Answer { origin: origin.to_owned(), reason };
    let mut run = Command::new("az").args([
        "account",
        "get-access-token",
        "--output",
        "json",
        "--resource",
        audience.trim_end_matches('/'),
    ]);
    if let Some(subscription) = subscription {
        run = run.args(["--subscription", subscription]);
    }
    // What it says is not shown: it may be a token.
    let done = run.output(CLI).await.map_err(|e| match e {
        process::Error::Failed { status, .. } => {
            fail(format!("`az account get-access-token` ended with {status}; `az login` may help"))
        }
        process::Error::TimedOut { limit, .. } => {
            fail(format!("`az account get-access-token` did not end within {} s", limit.as_secs()))
        }
        _ => fail("az cannot be run".into()),
    })?;
    Ok(done.stdout)
}

/// Reads what a token server or the Azure CLI says; `now` in Unix seconds.
fn read_token(origin: &str, body: &[u8], now: i64) -> Result<Token, Error> {
    let fail = |reason: &str| Error::Answer { origin: origin.to_owned(), reason: reason.into() };
    // Not the parser's own text, which may quote the token.
    let json: serde_json::Value = serde_json::from_slice(body).map_err(|_| fail("the answer is no token"))?;
    let value = json["access_token"].as_str().or(json["accessToken"].as_str());
    let value = value.ok_or_else(|| fail("the answer is no token"))?;
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(fail("the token is empty or malformed"));
    }
    // Numbers, or numbers as text: each server has its way.
    let number =
        |name: &str| json[name].as_i64().or_else(|| json[name].as_str().and_then(|t| t.parse().ok()));
    // In the CLI's local time.
    let local = || {
        let text = json["expiresOn"].as_str()?;
        let time = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok()?;
        Some(time.and_local_timezone(chrono::Local).earliest()?.timestamp() - now)
    };
    let left = number("expires_in").or_else(|| Some(number("expires_on")? - now)).or_else(local);
    let left = left.ok_or_else(|| fail("the answer does not say how long the token is good"))?;
    let left = u64::try_from(left).ok().filter(|l| *l > 0);
    let left = left.ok_or_else(|| fail("the token has expired already"))?;
    let expires = Instant::now() + Duration::from_secs(left.min(86_400));
    Ok(Token { value: value.to_owned().into(), expires })
}

/// The failure of a call that had to do without a token.
pub(super) fn no_credentials(source: Error) -> CallError {
    CallError::Credentials { of: "Azure", source: source.into() }
}

/// Every call is made with a token; what refuses one as expired gets another.
impl Access for Credentials {
    type Proof = Token;

    async fn proof(&self) -> Result<Token, CallError> {
        self.token().await.map_err(no_credentials)
    }

    async fn refused(&self, token: &Token, error: &CallError) -> Result<bool, CallError> {
        let expired = error.class() == Some(Class::Expired);
        if expired {
            self.token.refused(token).await;
        }
        Ok(expired)
    }
}

impl Authorize for Credentials {
    fn sign(&self, token: &Token, request: &mut reqwest::Request) -> Result<(), CallError> {
        // That there is no value cannot be: tokens are printable.
        if let Some(value) = bearer(&token.value) {
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(())
    }
}

/// What all clients of Azure have: limits and retries.
pub(super) fn client() -> Result<Client, Error> {
    let retry = Retry { tries: 6, ..Retry::from_environment() };
    Client::new(Limits::of_service(crate::poll::scale()), retry).map_err(Error::Http)
}
