//! What opens an account's storage: its key, a shared access signature, or a token of Azure AD.
//!
//! How requests are signed:
//! <https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key>.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use async_trait::async_trait;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use crate::http::{Access, Authorize, CallError, bearer};
use crate::secret::Secret;

const DATE: HeaderName = HeaderName::from_static("x-ms-date");

/// Gives tokens for `https://storage.azure.com/`, and new ones when they run out.
#[async_trait]
pub trait Tokens: Send + Sync {
    /// A token that is good for the next request.
    ///
    /// # Errors
    /// [`CallError::Credentials`].
    async fn token(&self) -> Result<Secret, CallError>;

    /// Told that a token was refused; whether another may fare better.
    ///
    /// # Errors
    /// When another one cannot be had.
    async fn refused(&self, token: &Secret, error: &CallError) -> Result<bool, CallError>;
}

/// What opens an account's storage. Nothing of it is ever shown.
#[derive(Clone)]
pub enum Credential {
    /// One of the account's two keys.
    Key(Key),
    /// A shared access signature: the parameters that are added to each URL.
    Sas(Sas),
    /// Tokens of a user, an application or a machine.
    Bearer(Arc<dyn Tokens>),
}

impl Credential {
    /// A shared access signature as Azure gives it, with or without its question mark.
    ///
    /// # Errors
    /// [`CallError::Setup`] for what is none.
    pub fn sas(text: &Secret) -> Result<Self, CallError> {
        let query = text.expose().trim().trim_start_matches('?');
        let pairs = form_urlencoded::parse(query.as_bytes()).into_owned().collect::<Vec<_>>();
        match pairs.iter().any(|(name, _)| name == "sig") {
            true => Ok(Self::Sas(Sas(pairs.into()))),
            false => Err(CallError::setup("the shared access signature is none: it has no parameter sig")),
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key(_) => "Key(***)",
            Self::Sas(_) => "Sas(***)",
            Self::Bearer(_) => "Bearer(***)",
        })
    }
}

/// A shared access signature.
#[derive(Clone)]
pub struct Sas(Arc<[(String, String)]>);

/// An account's key.
#[derive(Clone)]
pub struct Key(Arc<PKey<openssl::pkey::Private>>);

impl Key {
    /// Reads a key: base64.
    ///
    /// # Errors
    /// [`CallError::Setup`] for what is none. It is not quoted.
    pub fn new(text: &Secret) -> Result<Self, CallError> {
        let bytes = openssl::base64::decode_block(text.expose().trim()).ok().filter(|b| !b.is_empty());
        let key = bytes.and_then(|bytes| PKey::hmac(&bytes).ok());
        let wrong = || CallError::setup("the key of the storage account is no base64");
        key.map(|key| Self(Arc::new(key))).ok_or_else(wrong)
    }

    /// HMAC-SHA256 in base64.
    fn sign(&self, text: &str) -> Result<String, openssl::error::ErrorStack> {
        let mut signer = Signer::new(MessageDigest::sha256(), &self.0)?;
        signer.update(text.as_bytes())?;
        Ok(openssl::base64::encode_block(&signer.sign_to_vec()?))
    }
}

/// Signs the requests to one account.
#[derive(Debug)]
pub struct Door {
    pub account: String,
    pub credential: Credential,
}

impl Access for Door {
    /// The token, where there are tokens.
    type Proof = Option<Secret>;

    async fn proof(&self) -> Result<Option<Secret>, CallError> {
        match &self.credential {
            Credential::Bearer(tokens) => tokens.token().await.map(Some),
            Credential::Key(_) | Credential::Sas(_) => Ok(None),
        }
    }

    async fn refused(&self, token: &Option<Secret>, error: &CallError) -> Result<bool, CallError> {
        match (&self.credential, token) {
            (Credential::Bearer(tokens), Some(token)) => tokens.refused(token, error).await,
            _ => Ok(false),
        }
    }
}

impl Authorize for Door {
    fn sign(&self, token: &Option<Secret>, request: &mut reqwest::Request) -> Result<(), CallError> {
        let cannot = |what: &str| CallError::setup(format!("the request cannot be signed: {what}"));
        let date = chrono::Utc::now().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let date = HeaderValue::from_str(&date).map_err(|e| cannot(&e.to_string()))?;
        request.headers_mut().insert(DATE, date);
        let value = match &self.credential {
            Credential::Sas(Sas(pairs)) => {
                request.url_mut().query_pairs_mut().extend_pairs(pairs.iter());
                return Ok(());
            }
            Credential::Bearer(_) => {
                let token = token.as_ref().ok_or_else(|| cannot("there is no token"))?;
                bearer(token).ok_or_else(|| cannot("the token has odd characters"))?
            }
            Credential::Key(key) => {
                let text = string_to_sign(&self.account, request);
                let signature = key.sign(&text).map_err(|e| cannot(&e.to_string()))?;
                let text = format!("SharedKey {}:{signature}", self.account);
                let mut value = HeaderValue::from_str(&text).map_err(|e| cannot(&e.to_string()))?;
                value.set_sensitive(true);
                value
            }
        };
        request.headers_mut().insert(AUTHORIZATION, value);
        Ok(())
    }
}

/// What the signature of a request covers.
fn string_to_sign(account: &str, request: &reqwest::Request) -> String {
    let headers = request.headers();
    let length = request.body().and_then(|b| b.as_bytes()).map_or(0, <[u8]>::len);
    let length = if length == 0 { String::new() } else { length.to_string() };
    let mut text = format!("{}\n", request.method());
    for name in ["content-encoding", "content-language"] {
        let _ = writeln!(text, "{}", text_of(headers, name)); // writes to a String do not fail
    }
    let _ = writeln!(text, "{length}");
    let names = [
        "content-md5",
        "content-type",
        "date",
        "if-modified-since",
        "if-match",
        "if-none-match",
        "if-unmodified-since",
        "range",
    ];
    for name in names {
        let _ = writeln!(text, "{}", text_of(headers, name));
    }
    let mut own: Vec<&str> =
        headers.keys().map(HeaderName::as_str).filter(|n| n.starts_with("x-ms-")).collect();
    own.sort_unstable();
    for name in own {
        let _ = writeln!(text, "{name}:{}", text_of(headers, name));
    }
    let _ = write!(text, "/{account}{}", request.url().path());
    let mut parameters: Vec<_> =
        request.url().query_pairs().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    parameters.sort();
    for (name, value) in parameters {
        let _ = write!(text, "\n{name}:{value}");
    }
    text
}

fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_is_what_the_documentation_says() {
        let url = "http://h/devacc/c/a%20b.vhd?comp=page&Timeout=20";
        let mut request = reqwest::Request::new(reqwest::Method::PUT, url.parse().unwrap());
        *request.body_mut() = Some(vec![0; 512].into());
        for (name, value) in [
            ("x-ms-version", "2020-10-02"),
            ("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT"),
            ("content-md5", "abc=="),
            ("range", "bytes=0-511"),
            ("if-none-match", "*"),
        ] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        assert_eq!(
            string_to_sign("devacc", &request),
            "PUT\n\n\n512\nabc==\n\n\n\n\n*\n\nbytes=0-511\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\n\
             x-ms-version:2020-10-02\n/devacc/devacc/c/a%20b.vhd\ncomp:page\ntimeout:20"
        );
        let key = Key::new(&Secret::from("a2V5".to_owned())).unwrap();
        // printf 'text' | openssl dgst -sha256 -hmac key -binary | base64
        assert_eq!(key.sign("text").unwrap(), "avqQRqlXnK0UOjhMG1ZLmiUNJ9b2pj+fIL86dZTJ4sY=");
    }

    #[test]
    fn secrets_are_not_shown_and_nonsense_is_told() {
        let secret = |text: &str| Secret::from(text.to_owned());
        for text in ["", "SECRET", "sv=SECRET&se=1"] {
            let error = Credential::sas(&secret(text)).unwrap_err().to_string();
            assert!(error.contains("no parameter sig") && !error.contains("SECRET"), "{error}");
        }
        let sas = Credential::sas(&secret("?sv=1&sig=SECRET%2B")).unwrap();
        assert_eq!(format!("{sas:?}"), "Sas(***)");
        let door = Door { account: "acc".into(), credential: sas };
        let mut request =
            reqwest::Request::new(reqwest::Method::GET, "http://h/a?comp=list".parse().unwrap());
        door.sign(&None, &mut request).unwrap();
        assert_eq!(request.url().query(), Some("comp=list&sv=1&sig=SECRET%2B"));
    }
}
