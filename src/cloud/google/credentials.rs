//! Credentials that give access tokens, and renew them.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openssl::pkey::{PKey, Private};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use tokio::time::Instant;

use super::external::{self, External, SCOPE_ALL};
use super::{Error, TOKEN_URI, jwt};
use crate::http::{
    self, Access, Authorize, CallError, Class, Client, Expires, Limits, Renewing, Retry, bearer,
};
use crate::secret::Secret;
use crate::text::json_mistake;

/// A token is not used when it expires sooner than this.
const SLACK: Duration = Duration::from_secs(10);

/// Someone's credentials; clones share the current token. [`fmt::Debug`] shows no secret.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

struct Inner {
    origin: String,
    kind: Kind,
    scopes: String,
    http: Client,
    token: Renewing<Token>,
}

/// An access token; [`fmt::Debug`] does not show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    value: Secret,
    expires: Option<Instant>,
}

impl Token {
    /// The token itself.
    pub fn value(&self) -> &Secret {
        &self.value
    }

    /// Puts the token into a request.
    pub(super) fn authorize(&self, request: &mut reqwest::Request) {
        // That there is no value cannot be: tokens are printable.
        if let Some(value) = bearer(&self.value) {
            request.headers_mut().insert(AUTHORIZATION, value);
        }
    }
}

impl Expires for Token {
    fn is_valid_for(&self, time: Duration) -> bool {
        self.expires.is_none_or(|at| at.saturating_duration_since(Instant::now()) > time)
    }
}

/// How tokens are got.
pub(super) enum Kind {
    ServiceAccount {
        email: String,
        key: PKey<Private>,
        token_uri: Url,
    },
    User {
        client: ClientId,
        refresh_token: Secret,
    },
    Metadata {
        host: String,
    },
    /// Somebody whom another provider knows.
    External(Box<External>),
    /// A service account that somebody else acts for.
    Acting {
        source: Box<Kind>,
        url: Url,
        delegates: Vec<String>,
    },
    /// Only the token at hand.
    Fixed,
}

/// The identity of this program at Google, made by the user in Google's console.
#[derive(Clone, Debug)]
pub struct ClientId {
    /// Its public part.
    pub id: String,
    /// Its other part; not truly secret in an installed program, but treated so.
    pub secret: Secret,
    /// Where people allow access.
    pub auth_uri: Url,
    /// Where tokens are.
    pub token_uri: Url,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.0.origin)
    }
}

/// The answer of a token server.
#[derive(Deserialize)]
pub(super) struct Answer {
    pub access_token: String,
    pub expires_in: Option<u64>,
    pub refresh_token: Option<String>,
}

impl Credentials {
    pub(super) fn new(origin: String, kind: Kind, scopes: &[&str], http: &Client) -> Self {
        let token = Renewing::new(SLACK, SLACK);
        let inner = Inner { origin, kind, scopes: scopes.join(" "), http: http.clone(), token };
        Self(Arc::new(inner))
    }

    /// These with a token that is valid for some time yet; `None`: no limit is known.
    pub(super) async fn with_token(self, value: String, lifetime: Option<Duration>) -> Self {
        let expires = lifetime.map(|l| Instant::now() + l);
        self.0.token.set(Token { value: value.into(), expires }).await;
        self
    }

    /// Those of a key file as Google makes it: type `service_account` or `authorized_user`.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::Invalid`] when it is no such file.
    pub fn from_file(path: &Path, scopes: &[&str], http: &Client) -> Result<Self, Error> {
        let not_there = || Error::Read { path: path.to_owned(), source: std::io::ErrorKind::NotFound.into() };
        let content = super::boto::read_secret(path)?.ok_or_else(not_there)?;
        let invalid = |reason| Error::Invalid { path: path.to_owned(), reason };
        let kind = parse_key(&content).map_err(invalid)?;
        Ok(Self::new(path.display().to_string(), kind, scopes, http))
    }

    /// Those of the machine, from the metadata server of Compute Engine.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn from_metadata(host: &str, scopes: &[&str]) -> Result<Self, Error> {
        let limits = Limits { connect: Duration::from_secs(3), idle: Duration::from_secs(10) };
        let retry = Retry { tries: 3, ..Retry::from_environment() };
        let http = Client::direct(limits, retry).map_err(Error::Http)?;
        let kind = Kind::Metadata { host: host.to_owned() };
        Ok(Self::new(format!("the metadata server {host}"), kind, scopes, &http))
    }

    /// The name that Google has for them, where they tell; else what is known of them.
    pub fn identity(&self) -> String {
        match &self.0.kind {
            Kind::ServiceAccount { email, .. } => email.clone(),
            Kind::User { .. } | Kind::Fixed => "a user".into(),
            Kind::Metadata { .. } => "this machine's service account".into(),
            Kind::External(_) => "an identity of another provider".into(),
            Kind::Acting { url, .. } => external::account(url.path()).unwrap_or("a service account").into(),
        }
    }

    /// Where they are from, for messages.
    pub fn origin(&self) -> &str {
        &self.0.origin
    }

    /// A valid access token; a new one if the last has expired.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn token(&self) -> Result<Token, Error> {
        self.0.token.get("google", || self.fetch()).await
    }

    /// Forgets a token that a server refused, so that the next one is new.
    ///
    /// Returns whether there can be another one.
    pub async fn refused(&self, token: &Token) -> bool {
        if matches!(self.0.kind, Kind::Fixed) {
            return false;
        }
        self.0.token.refused(token).await;
        true
    }

    async fn fetch(&self) -> Result<Token, Error> {
        let Inner { origin, kind, scopes, http, .. } = &*self.0;
        // On the heap: this is rare, and everything that needs a token would have room for it.
        let answer = Box::pin(kind.answer(http, origin, scopes)).await?;
        crate::debug!("google", "got a token with {origin}");
        let expires = answer.expires_in.map(|s| Instant::now() + Duration::from_secs(s.min(86_400)));
        Ok(Token { value: answer.access_token.into(), expires })
    }
}

impl Kind {
    /// Asks for a token that allows this.
    async fn answer(&self, http: &Client, origin: &str, scopes: &str) -> Result<Answer, Error> {
        match self {
            Self::ServiceAccount { email, key, token_uri } => {
                let now = chrono::Utc::now().timestamp();
                let assertion = jwt::assertion(email, key, scopes, token_uri.as_str(), now)
                    .map_err(|source| Error::Sign { account: email.clone(), source })?;
                let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
                exchange(http, origin, token_uri, &[("grant_type", grant), ("assertion", &assertion)]).await
            }
            Self::User { client, refresh_token } => {
                let form = [
                    ("grant_type", "refresh_token"),
                    ("refresh_token", refresh_token.expose()),
                    ("client_id", &client.id),
                    ("client_secret", client.secret.expose()),
                ];
                exchange(http, origin, &client.token_uri, &form).await
            }
            Self::Metadata { host } => from_metadata_server(http, origin, host).await,
            Self::External(external) => external.token(http, origin, scopes).await,
            Self::Acting { source, url, delegates } => {
                // The source may do everything that it may do: of that, acting for others is needed.
                let own = Box::pin(source.answer(http, origin, SCOPE_ALL)).await?;
                external::acting_for(http, origin, url, delegates, &own.access_token, scopes).await
            }
            Self::Fixed => Err(Error::Expired { origin: origin.to_owned() }),
        }
    }
}

/// The failure of a call that had to do without a token.
pub(super) fn no_credentials(source: Error) -> CallError {
    CallError::Credentials { of: "Google", source: source.into() }
}

/// Every call is made with a token; what refuses one as expired gets another.
impl Access for Credentials {
    type Proof = Token;

    async fn proof(&self) -> Result<Token, CallError> {
        self.token().await.map_err(no_credentials)
    }

    async fn refused(&self, token: &Token, error: &CallError) -> Result<bool, CallError> {
        Ok(error.class() == Some(Class::Expired) && Self::refused(self, token).await)
    }
}

impl Authorize for Credentials {
    fn sign(&self, token: &Token, request: &mut reqwest::Request) -> Result<(), CallError> {
        token.authorize(request);
        Ok(())
    }
}

/// One token request of OAuth 2.0 (RFC 6749).
pub(super) async fn exchange(
    http: &Client,
    origin: &str,
    url: &Url,
    form: &[(&str, &str)],
) -> Result<Answer, Error> {
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let answer = http
        .call("google", &[], |http| {
            http.request(Method::POST, url.clone())
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .header(ACCEPT, "application/json")
                .body(form.clone())
        })
        .await
        .map_err(|source| Error::Token { origin: origin.to_owned(), source })?;
    read_answer(origin, &answer.body)
}

async fn from_metadata_server(http: &Client, origin: &str, host: &str) -> Result<Answer, Error> {
    let text = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/token");
    let url: Url = text
        .parse()
        .map_err(|_| Error::Variable { name: "GCE_METADATA_HOST", reason: format!("{host:?} is no host") })?;
    let answer = http
        .call("google", &[StatusCode::NOT_FOUND], |http| {
            http.request(Method::GET, url.clone()).header("Metadata-Flavor", "Google")
        })
        .await
        .map_err(|source| match source {
            http::Error::Transport { .. } | http::Error::Stalled { .. } => Error::NotOnGce,
            source => Error::Token { origin: origin.to_owned(), source },
        })?;
    if answer.status == StatusCode::NOT_FOUND {
        let reason = "this machine has no service account".into();
        return Err(Error::Answer { origin: origin.to_owned(), reason });
    }
    read_answer(origin, &answer.body)
}

fn read_answer(origin: &str, body: &[u8]) -> Result<Answer, Error> {
    let fail = |reason: &str| Error::Answer { origin: origin.to_owned(), reason: reason.into() };
    // Not the parser's own text, which may quote the token.
    let answer: Answer = serde_json::from_slice(body).map_err(|_| fail("the answer is no token"))?;
    if answer.access_token.is_empty() || !answer.access_token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(fail("the token is empty or malformed"));
    }
    if answer.expires_in == Some(0) {
        return Err(fail("the token has expired already"));
    }
    Ok(answer)
}

/// A key file. All fields are optional here so that a missing one can be named.
#[derive(Deserialize)]
struct KeyFile {
    #[serde(rename = "type")]
    kind: Option<String>,
    client_email: Option<String>,
    private_key: Option<Secret>,
    token_uri: Option<String>,
    client_id: Option<String>,
    client_secret: Option<Secret>,
    refresh_token: Option<Secret>,
    source_credentials: Option<serde_json::Value>,
    service_account_impersonation_url: Option<String>,
    delegates: Option<Vec<String>>,
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// The given URL, else the default.
pub(super) fn url_or(given: Option<&str>, default: &str) -> Result<Url, String> {
    let text = given.unwrap_or(default);
    text.parse().map_err(|_| format!("{text:?} is no URL"))
}

fn parse_key(content: &[u8]) -> Result<Kind, String> {
    fn need<T>(field: Option<T>, name: &str) -> Result<T, String> {
        field.ok_or_else(|| format!("the field {name} is missing"))
    }
    let file: KeyFile = serde_json::from_slice(content).map_err(|e| json_mistake(&e))?;
    let token_uri = url_or(file.token_uri.as_deref(), TOKEN_URI)?;
    match file.kind.as_deref() {
        None | Some("service_account") => {
            let pem = need(file.private_key, "private_key")?;
            let key = PKey::private_key_from_pem(pem.expose().as_bytes())
                .map_err(|_| "private_key is no private key in PEM form".to_owned())?;
            if key.rsa().is_err() {
                return Err("private_key is no RSA key".into());
            }
            Ok(Kind::ServiceAccount { email: need(file.client_email, "client_email")?, key, token_uri })
        }
        Some("authorized_user") => Ok(Kind::User {
            client: ClientId {
                id: need(file.client_id, "client_id")?,
                secret: need(file.client_secret, "client_secret")?,
                auth_uri: url_or(None, super::AUTH_URI)?,
                token_uri,
            },
            refresh_token: need(file.refresh_token, "refresh_token")?,
        }),
        Some("external_account") => {
            let whole = serde_json::from_slice(content).map_err(|e| json_mistake(&e))?;
            let (external, url) = External::parse(whole)?;
            let source = Kind::External(Box::new(external));
            Ok(match url {
                Some(url) => Kind::Acting { source: Box::new(source), url, delegates: Vec::new() },
                None => source,
            })
        }
        Some("impersonated_service_account") => {
            let source = need(file.source_credentials, "source_credentials")?;
            if source["type"] == "impersonated_service_account" {
                return Err("its source_credentials act for somebody else already".into());
            }
            let url = need(file.service_account_impersonation_url, "service_account_impersonation_url")?;
            let source =
                parse_key(source.to_string().as_bytes()).map_err(|e| format!("source_credentials: {e}"))?;
            let delegates = file.delegates.unwrap_or_default();
            Ok(Kind::Acting { source: Box::new(source), url: url_or(Some(&url), TOKEN_URI)?, delegates })
        }
        Some(other) => Err(format!("credentials of type {other:?} are not supported")),
    }
}

/// A client id file as Google's console makes it: `{"installed": {…}}`.
pub(super) fn parse_client(content: &[u8]) -> Result<ClientId, String> {
    #[derive(Deserialize)]
    struct File {
        installed: Installed,
    }
    #[derive(Deserialize)]
    struct Installed {
        client_id: String,
        client_secret: Secret,
        auth_uri: Option<String>,
        token_uri: Option<String>,
    }
    let File { installed } = serde_json::from_slice(content).map_err(|e| json_mistake(&e))?;
    Ok(ClientId {
        id: installed.client_id,
        secret: installed.client_secret,
        auth_uri: url_or(installed.auth_uri.as_deref(), super::AUTH_URI)?,
        token_uri: url_or(installed.token_uri.as_deref(), TOKEN_URI)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_in_key_files_are_named_without_the_secrets() {
        for (text, complaint) in [
            ("", "not the expected JSON"),
            (r#"{"private_key": 5, "x": "hush"}"#, "line 1"),
            (r#"{"client_email":"a"}"#, "private_key is missing"),
            (r#"{"client_email":"a","private_key":"hush"}"#, "no private key"),
            (r#"{"type":"gdch_service_account"}"#, "gdch_service_account"),
            (r#"{"type":"external_account"}"#, "credential_source is missing"),
            (r#"{"type":"impersonated_service_account"}"#, "source_credentials is missing"),
            (
                r#"{"type":"impersonated_service_account","source_credentials":{"type":"authorized_user","client_id":"a","client_secret":"hush"},"service_account_impersonation_url":"http://x/"}"#,
                "source_credentials: the field refresh_token is missing",
            ),
            (
                r#"{"type":"authorized_user","client_id":"a","client_secret":"hush"}"#,
                "refresh_token is missing",
            ),
        ] {
            let Err(reason) = parse_key(text.as_bytes()) else { panic!("{text} accepted") };
            assert!(reason.contains(complaint), "{reason}");
            assert!(!reason.contains("hush"), "{reason}");
        }
        let key = openssl::pkey::PKey::generate_ed25519().unwrap().private_key_to_pem_pkcs8().unwrap();
        let text = serde_json::json!({"client_email": "a", "private_key": String::from_utf8(key).unwrap()});
        let Err(reason) = parse_key(text.to_string().as_bytes()) else { panic!("Ed25519 accepted") };
        assert!(reason.contains("RSA"), "{reason}");
    }

    #[test]
    fn answers_that_are_no_tokens_are_refused() {
        assert!(read_answer("x", br#"{"access_token":"t","expires_in":3599,"token_type":"Bearer"}"#).is_ok());
        for text in [
            "",
            "{}",
            r#"{"access_token":""}"#,
            r#"{"access_token":"a\nb"}"#,
            r#"{"access_token":"hush","expires_in":0}"#,
            r#"{"access_token":"hush","expires_in":"hush"}"#,
        ] {
            let Err(e) = read_answer("x", text.as_bytes()) else { panic!("{text} accepted") };
            assert!(!crate::text::chain(&e).contains("hush"), "{e}");
        }
    }
}
