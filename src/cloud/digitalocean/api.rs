//! The API (<https://docs.digitalocean.com/reference/api/>), version 2: calls as one account makes them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::header::AUTHORIZATION;
use reqwest::{Request, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::token::{self, Environment, Token};
use super::{Account, COMPONENT, refusal};
use crate::http::{Access, Authorize, CallError, Calls, Client, Limits, Retry, Service, bearer};
use crate::poll;
use crate::secret::Secret;
use crate::text::percent::encode;

/// Result of calls.
pub type Result<T, E = CallError> = std::result::Result<T, E>;

/// The API's root.
const BASE: &str = "https://api.digitalocean.com/";
/// Calls under way at once: 250 a minute are allowed.
const PLACES: usize = 16;
/// The longest wait for the end of a rate limit. They count an hour's requests, of which some leave every moment.
const LONGEST: Duration = Duration::from_secs(300);
/// The longest page that there is.
const PER_PAGE: &str = "200";
/// No account has more pages of anything: that many are a server that counts for ever.
const MAX_PAGES: u64 = 10_000;

/// Puts the token into requests.
#[derive(Debug)]
pub(super) struct Bearer(Secret);

impl Access for Bearer {
    type Proof = ();

    async fn proof(&self) -> Result<()> {
        Ok(())
    }

    async fn refused(&self, (): &(), _: &CallError) -> Result<bool> {
        Ok(false)
    }
}

impl Authorize for Bearer {
    fn sign(&self, (): &(), request: &mut Request) -> Result<()> {
        // That it is a value was seen to when it was found.
        if let Some(value) = bearer(&self.0) {
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(())
    }
}

/// The API for one account. Clones share connections and places.
#[derive(Clone, Debug)]
pub struct Api(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    service: Service<Bearer>,
    base: Url,
    origin: String,
    /// Whose the token is, once it was asked.
    account: OnceLock<String>,
}

/// Whom the API takes us for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Unique: that of the team, else that of the person.
    pub account: String,
    /// The person's address.
    pub email: String,
    /// State of the account, with the reason for it if there is one: `active`.
    pub status: String,
}

impl Api {
    /// Finds token and endpoint. No request is sent.
    ///
    /// # Errors
    /// When there is no token, or the endpoint is no URL.
    pub fn new(account: &Account) -> Result<Self> {
        Self::with(account, &Environment::of_process())
    }

    fn with(account: &Account, environment: &Environment) -> Result<Self> {
        let no_token = |e: token::Error| CallError::Credentials { of: "DigitalOcean", source: e.into() };
        let Token { origin, secret, api_url } = token::find(account, environment).map_err(no_token)?;
        let named = account.do_api_url.clone().filter(|u| !u.is_empty());
        let named = named.or_else(|| environment.api_url.clone()).or(api_url);
        let base = named.as_deref().unwrap_or(BASE);
        let base = endpoint(base)
            .ok_or_else(|| CallError::setup(format!("{base:?} is no URL of the DigitalOcean API")))?;
        let retry =
            Retry { tries: 6, longest: LONGEST.mul_f64(poll::scale()), ..Retry::scaled(poll::scale()) };
        let http =
            Client::new(Limits::of_service(poll::scale()), retry.clone()).map_err(|e| CallError::Setup {
                what: "cannot set up the client for DigitalOcean".into(),
                source: Some(e.into()),
            })?;
        let calls = Calls::new(COMPONENT, retry, PLACES, PLACES);
        let service = Service::new(http, calls, Bearer(secret), refusal::read);
        Ok(Self(Arc::new(Inner { service, base, origin, account: OnceLock::new() })))
    }

    /// Where the token is from, for people.
    pub fn origin(&self) -> &str {
        &self.0.origin
    }

    /// The account's unique name, as [`Api::identity`] was told; empty before.
    pub fn account(&self) -> &str {
        self.0.account.get().map_or("", String::as_str)
    }

    /// Asks who we are.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn identity(&self) -> Result<Identity> {
        #[derive(Deserialize)]
        struct Answer {
            account: Described,
        }
        #[derive(Deserialize)]
        struct Described {
            uuid: String,
            email: Option<String>,
            status: Option<String>,
            status_message: Option<String>,
            team: Option<Team>,
        }
        #[derive(Deserialize)]
        struct Team {
            uuid: Option<String>,
        }
        let answer: Answer = self.service().get("account.get", self.url(&["account"])).read().await?;
        let Described { uuid, email, status, status_message, team } = answer.account;
        let filled = |text: Option<String>| text.as_deref().and_then(crate::http::clean);
        let (status, reason) = (filled(status).unwrap_or_default(), filled(status_message));
        let account = team.and_then(|t| filled(t.uuid)).unwrap_or(uuid);
        Ok(Identity {
            account: self.0.account.get_or_init(|| account).clone(),
            email: filled(email).unwrap_or_default(),
            status: reason.map_or(status.clone(), |reason| format!("{status}: {reason}")),
        })
    }

    pub(super) fn service(&self) -> &Service<Bearer> {
        &self.0.service
    }

    /// The address of something.
    pub(super) fn url(&self, path: &[&str]) -> Url {
        let path: Vec<String> = ["v2"].iter().chain(path).map(|part| encode(part)).collect();
        let mut url = self.0.base.clone();
        url.set_path(&format!("{}{}", self.0.base.path(), path.join("/")));
        url
    }

    /// Reads all pages of a listing.
    pub(super) async fn list<P: Page>(
        &self,
        name: &'static str,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Vec<P::Item>> {
        let mut url = self.url(path);
        url.query_pairs_mut().extend_pairs(query).append_pair("per_page", PER_PAGE);
        let pages = self.service().pages(name, url, |page: &Listed<P>, at: &Url| {
            // The address of the next page is made here: that of the answer may lead anywhere.
            let more = page.links.as_ref().and_then(|l| l.pages.as_ref()).is_some_and(|p| p.next.is_some());
            let number = |(name, value): (_, std::borrow::Cow<'_, str>)| {
                if name == "page" { value.parse::<u64>().ok() } else { None }
            };
            let next = at.query_pairs().find_map(number).unwrap_or(1) + 1;
            (more && next <= MAX_PAGES).then(|| {
                let mut url = at.clone();
                let others = at.query_pairs().filter(|(name, _)| name != "page");
                url.query_pairs_mut().clear().extend_pairs(others).append_pair("page", &next.to_string());
                url
            })
        });
        Ok(pages.await?.into_iter().flat_map(|page| page.items.items()).collect())
    }
}

/// A page of a listing, as far as one kind of listing differs from others.
pub(super) trait Page: DeserializeOwned {
    type Item;

    fn items(self) -> Vec<Self::Item>;
}

#[derive(Deserialize)]
#[serde(bound = "P: Page")]
struct Listed<P> {
    #[serde(flatten)]
    items: P,
    links: Option<Links>,
}

#[derive(Deserialize)]
struct Links {
    pages: Option<Pages>,
}

#[derive(Deserialize)]
struct Pages {
    next: Option<String>,
}

/// `None` in place of the refusal that there is no such thing.
pub(super) fn found<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Err(e) if e.is_not_found() => Ok(None),
        other => other.map(Some),
    }
}

/// The API's root as people give it, with or without the version.
fn endpoint(text: &str) -> Option<Url> {
    let text = text.trim_end_matches('/');
    let url: Url = format!("{}/", text.strip_suffix("/v2").unwrap_or(text)).parse().ok()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none()).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(account: &Account, environment: &Environment) -> Result<Api> {
        let account = Account { do_token: Some(Secret::from("t".to_owned())), ..account.clone() };
        Api::with(&account, environment)
    }

    #[test]
    fn endpoints_are_taken_with_or_without_version() {
        for (text, url) in [
            ("", "https://api.digitalocean.com/v2/account/keys"),
            ("http://127.0.0.1:1", "http://127.0.0.1:1/v2/account/keys"),
            ("http://h/x/v2/", "http://h/x/v2/account/keys"),
            ("https://h/x/", "https://h/x/v2/account/keys"),
        ] {
            let account = Account { do_api_url: Some(text.into()), ..Account::default() };
            let api = api(&account, &Environment::default()).unwrap();
            assert_eq!(api.url(&["account", "keys"]).as_str(), url);
        }
        for text in ["h", "ftp://h/", "http://", "http://h/?x=1"] {
            let account = Account { do_api_url: Some(text.into()), ..Account::default() };
            let error = api(&account, &Environment::default()).unwrap_err();
            assert!(error.to_string().contains("is no URL of the DigitalOcean API"), "{error}");
        }
    }

    #[test]
    fn the_option_wins_over_the_environment() {
        let environment = Environment { api_url: Some("http://e".into()), ..Environment::default() };
        let api_of = |account: &Account| api(account, &environment).unwrap().url(&[]).to_string();
        assert!(api_of(&Account::default()).starts_with("http://e/"));
        let account = Account { do_api_url: Some("http://o".into()), ..Account::default() };
        assert!(api_of(&account).starts_with("http://o/"));
    }
}
