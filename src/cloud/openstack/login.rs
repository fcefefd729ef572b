//! Keystone: tokens, renewed when they end or are refused, and the catalogue of services.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method as Verb, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Error;
use super::refusal;
use super::sources::{Member, Method, Named, Scope, Source};
use crate::http::{
    Access, Answer, Authorize, CallError, Calls, Class, Client, Exchange, Expires, How, Open, Renewing,
    Repeat, Retry,
};
use crate::secret::Secret;
use crate::text::json_mistake;

/// A new token is got so long before the old one ends; that is good until [`LAST`] before.
const EARLY: Duration = Duration::from_secs(300);
const LAST: Duration = Duration::from_secs(10);

/// The domain of users and projects that were made before there were domains.
const DEFAULT_DOMAIN: &str = "default";

/// Longer answers make no sense; catalogues of large clouds have some 100 KiB.
const LIMIT: u64 = 8 << 20;

const TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
const SUBJECT: &str = "x-subject-token";

/// A token, and what it is good for. [`fmt::Debug`] does not show it.
#[derive(Clone, Debug)]
pub struct Token {
    value: Secret,
    expires: Option<Instant>,
    grant: Arc<Grant>,
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Expires for Token {
    fn is_valid_for(&self, time: Duration) -> bool {
        self.expires.is_none_or(|at| at.saturating_duration_since(Instant::now()) > time)
    }
}

/// What Keystone says beside a token.
#[derive(Clone, Debug, Default)]
pub struct Grant {
    /// The project's id; empty if the token is for none.
    pub project_id: String,
    /// The project's name.
    pub project: String,
    /// The user's name.
    pub user: String,
    /// The services.
    pub catalogue: Vec<Entry>,
}

/// A service of the catalogue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Such as `compute`.
    pub kind: String,
    /// Such as `nova`.
    pub name: String,
    /// Where it is.
    pub endpoints: Vec<Endpoint>,
}

/// Where a service is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// `public`, `internal` or `admin`.
    pub interface: String,
    /// The region's id.
    pub region: String,
    /// Its address.
    pub url: String,
}

/// Somebody at a Keystone; clones share the token. [`fmt::Debug`] shows no secret.
#[derive(Clone)]
pub struct Login(Arc<Inner>);

struct Inner {
    source: Source,
    http: Client,
    calls: Calls,
    token: Renewing<Token>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({})", self.0.source.origin)
    }
}

/// The error of a call that could not be made for want of a token.
fn failed(error: Error) -> CallError {
    CallError::Credentials { of: "OpenStack", source: error.into() }
}

impl Login {
    /// With these credentials. No request is sent.
    pub fn new(source: Source, http: Client, retry: Retry) -> Self {
        let calls = Calls::new("openstack", retry, 4, 1);
        Self(Arc::new(Inner { source, http, calls, token: Renewing::new(EARLY, LAST) }))
    }

    /// What the credentials are.
    pub fn source(&self) -> &Source {
        &self.0.source
    }

    /// What the token is good for.
    ///
    /// # Errors
    /// When there is no token to be had.
    pub async fn grant(&self) -> Result<Arc<Grant>, CallError> {
        Ok(self.proof().await?.grant)
    }

    async fn fetch(&self) -> Result<Token, Error> {
        let base: Url = self.0.source.auth_url.trim().parse().map_err(|_| self.no_url())?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return Err(self.no_url());
        }
        let (version, root) = self.version(&base).await?;
        match version {
            3 => self.third(&root).await,
            _ => self.second(&root).await,
        }
    }

    fn no_url(&self) -> Error {
        let Source { origin, .. } = &self.0.source;
        Error::Unsupported { origin: origin.clone(), what: "its auth_url is no address of a Keystone".into() }
    }

    /// The version of the API to speak, and its root with a slash at the end.
    async fn version(&self, base: &Url) -> Result<(u8, Url), Error> {
        let mut base = base.clone();
        base.set_query(None);
        base.set_fragment(None);
        let path = base.path().trim_end_matches('/').to_owned();
        base.set_path(&format!("{path}/"));
        let said = [("/v3", 3), ("/v2.0", 2)].into_iter().find(|(end, _)| path.ends_with(end));
        if let Some((_, version)) = said {
            return Ok((version, base));
        }
        #[derive(Deserialize)]
        struct Versions {
            versions: Values,
        }
        #[derive(Deserialize)]
        struct Values {
            values: Vec<Version>,
        }
        #[derive(Deserialize)]
        struct Version {
            id: String,
            #[serde(default)]
            status: String,
            #[serde(default)]
            links: Vec<Link>,
        }
        #[derive(Deserialize)]
        struct Link {
            rel: String,
            href: String,
        }
        let answer = self.call("identity versions", Verb::GET, &base, None).await?;
        let found: Versions = read("identity versions", &answer)?;
        let wanted = self.0.source.version;
        let usable = found.versions.values.iter().filter_map(|v| {
            let known = match v.id.strip_prefix('v')?.split('.').next()? {
                "3" => 3,
                "2" => 2,
                _ => return None,
            };
            let alive = ["current", "supported", "stable"].contains(&v.status.to_ascii_lowercase().as_str());
            // Of old versions it is said that they are deprecated; they serve those who ask for them.
            let asked = wanted == Some(known);
            (alive && wanted.is_none() || asked).then_some((known, v))
        });
        let Some((version, chosen)) = usable.max_by_key(|(known, _)| *known) else {
            let wanted = wanted.map_or_else(|| "3 nor 2".to_owned(), |v| v.to_string());
            let text = format!("{} has no version {wanted} of the identity API", crate::http::shown(&base));
            return Err(CallError::setup(text).into());
        };
        // Its own words for its address may lead elsewhere, as behind a proxy; the password does not follow.
        let own = chosen.links.iter().find(|l| l.rel == "self").and_then(|l| l.href.parse::<Url>().ok());
        let path = own.map_or_else(
            || format!("{}{}", base.path(), if version == 3 { "v3" } else { "v2.0" }),
            |u| u.path().to_owned(),
        );
        base.set_path(&format!("{}/", path.trim_end_matches('/')));
        Ok((version, base))
    }

    async fn third(&self, root: &Url) -> Result<Token, Error> {
        #[derive(Deserialize)]
        struct Body {
            token: Said,
        }
        #[derive(Deserialize)]
        struct Said {
            issued_at: Option<String>,
            expires_at: Option<String>,
            project: Option<Named>,
            user: Option<Named>,
            #[serde(default)]
            catalog: Vec<Service>,
        }
        #[derive(Deserialize)]
        struct Named {
            #[serde(default)]
            id: String,
            #[serde(default)]
            name: String,
        }
        #[derive(Deserialize)]
        struct Service {
            #[serde(rename = "type", default)]
            kind: String,
            #[serde(default)]
            name: String,
            #[serde(default)]
            endpoints: Vec<Where>,
        }
        #[derive(Deserialize)]
        struct Where {
            #[serde(default)]
            interface: String,
            region: Option<String>,
            region_id: Option<String>,
            url: String,
        }
        const CALL: &str = "identity auth/tokens";
        let url = below(root, "auth/tokens")?;
        let answer =
            self.call(CALL, Verb::POST, &url, Some(self.request())).await.map_err(|e| self.hinted(e))?;
        let value = answer.headers.get(SUBJECT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if value.is_empty() {
            return Err(CallError::answer(CALL, "there is no X-Subject-Token").into());
        }
        let Body { token } = read(CALL, &answer)?;
        let endpoint = |w: Where| Endpoint {
            interface: w.interface,
            region: w.region_id.or(w.region).unwrap_or_default(),
            url: w.url,
        };
        let entry = |s: Service| Entry {
            kind: s.kind,
            name: s.name,
            endpoints: s.endpoints.into_iter().map(endpoint).collect(),
        };
        let project = token.project.unwrap_or(Named { id: String::new(), name: String::new() });
        let grant = Grant {
            project_id: project.id,
            project: project.name,
            user: token.user.map(|u| u.name).unwrap_or_default(),
            catalogue: token.catalog.into_iter().map(entry).collect(),
        };
        let expires = lifetime(token.issued_at.as_deref(), token.expires_at.as_deref());
        Ok(Token { value: value.to_owned().into(), expires, grant: grant.into() })
    }

    async fn second(&self, root: &Url) -> Result<Token, Error> {
        #[derive(Deserialize)]
        struct Body {
            access: Said,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Said {
            token: Given,
            #[serde(default)]
            service_catalog: Vec<Service>,
            user: Option<User>,
        }
        #[derive(Deserialize)]
        struct User {
            name: Option<String>,
        }
        #[derive(Deserialize)]
        struct Given {
            id: String,
            issued_at: Option<String>,
            expires: Option<String>,
            tenant: Option<Tenant>,
        }
        #[derive(Deserialize)]
        struct Tenant {
            #[serde(default)]
            id: String,
            #[serde(default)]
            name: String,
        }
        #[derive(Deserialize)]
        struct Service {
            #[serde(rename = "type", default)]
            kind: String,
            #[serde(default)]
            name: String,
            #[serde(default)]
            endpoints: Vec<Value>,
        }
        const CALL: &str = "identity tokens";
        let answer = self.call(CALL, Verb::POST, &below(root, "tokens")?, Some(self.old_request()?)).await?;
        let Body { access } = read(CALL, &answer)?;
        let endpoints = |e: &Value| {
            let region = e["region"].as_str().unwrap_or_default().to_owned();
            let one = |interface: &str| {
                let url = e[&format!("{interface}URL")].as_str()?.to_owned();
                Some(Endpoint { interface: interface.to_owned(), region: region.clone(), url })
            };
            ["public", "internal", "admin"].into_iter().filter_map(one).collect::<Vec<_>>()
        };
        let entry = |s: Service| Entry {
            endpoints: s.endpoints.iter().flat_map(endpoints).collect(),
            kind: s.kind,
            name: s.name,
        };
        let tenant = access.token.tenant.unwrap_or(Tenant { id: String::new(), name: String::new() });
        let grant = Grant {
            project_id: tenant.id,
            project: tenant.name,
            user: access.user.and_then(|u| u.name).unwrap_or_default(),
            catalogue: access.service_catalog.into_iter().map(entry).collect(),
        };
        let expires = lifetime(access.token.issued_at.as_deref(), access.token.expires.as_deref());
        Ok(Token { value: access.token.id.into(), expires, grant: grant.into() })
    }

    /// What version 3 is asked for a token with.
    fn request(&self) -> Value {
        let Source { method, scope, .. } = &self.0.source;
        // Its id is the same everywhere.
        let default = Named::Id(DEFAULT_DOMAIN.into());
        let domain = |member: &Member| named(member.domain.as_ref().unwrap_or(&default));
        let member = |member: &Member, password: Option<&Secret>| {
            let mut value = named(&member.named);
            if matches!(member.named, Named::Name(_)) {
                value["domain"] = domain(member);
            }
            if let Some(password) = password {
                value["password"] = password.expose().into();
            }
            value
        };
        let identity = match method {
            Method::Password(user, password) => {
                json!({"methods": ["password"], "password": {"user": member(user, Some(password))}})
            }
            Method::Application(which, owner, secret) => {
                let mut credential = named(which);
                if let Some(owner) = owner {
                    credential["user"] = member(owner, None);
                }
                credential["secret"] = secret.expose().into();
                json!({"methods": ["application_credential"], "application_credential": credential})
            }
            Method::Token(token) => json!({"methods": ["token"], "token": {"id": token.expose()}}),
        };
        let mut auth = json!({"identity": identity});
        match scope {
            Scope::Own => {}
            Scope::Project(project) => auth["scope"] = json!({"project": member(project, None)}),
            Scope::Domain(domain) => auth["scope"] = json!({"domain": named(domain)}),
            Scope::System => auth["scope"] = json!({"system": {"all": true}}),
        }
        json!({"auth": auth})
    }

    /// What version 2 is asked for a token with.
    fn old_request(&self) -> Result<Value, Error> {
        let Source { method, scope, origin, .. } = &self.0.source;
        let wrong = |what: &str| Error::Unsupported { origin: origin.clone(), what: what.into() };
        let mut auth = match method {
            Method::Password(user, password) => {
                let (key, name) = match &user.named {
                    Named::Id(id) => ("userId", id),
                    Named::Name(name) => ("username", name),
                };
                json!({"passwordCredentials": {key: name, "password": password.expose()}})
            }
            Method::Token(token) => json!({"token": {"id": token.expose()}}),
            Method::Application(..) => {
                return Err(wrong("application credentials need version 3 of the identity API"));
            }
        };
        match scope {
            Scope::Project(Member { named: Named::Id(id), .. }) => auth["tenantId"] = id.as_str().into(),
            Scope::Project(Member { named: Named::Name(name), .. }) => {
                auth["tenantName"] = name.as_str().into()
            }
            Scope::Own => {}
            Scope::Domain(_) | Scope::System => {
                return Err(wrong("version 2 of the identity API knows projects only"));
            }
        }
        Ok(json!({"auth": auth}))
    }

    /// Says of a refusal that a domain was taken for granted.
    fn hinted(&self, error: Error) -> Error {
        let Source { method, origin, .. } = &self.0.source;
        let guessed = match method {
            Method::Password(user, _) => user.domain.is_none() && matches!(user.named, Named::Name(_)),
            _ => false,
        };
        match error {
            Error::Call(source)
                if guessed && matches!(source.class(), Some(Class::Expired | Class::Denied)) =>
            {
                Error::DefaultDomain { origin: origin.clone(), domain: DEFAULT_DOMAIN, source: source.into() }
            }
            other => other,
        }
    }

    async fn call(
        &self,
        name: &'static str,
        verb: Verb,
        url: &Url,
        body: Option<Value>,
    ) -> Result<Answer, Error> {
        let call = Cow::Borrowed(name);
        let secret = match &self.0.source.method {
            Method::Password(_, secret) | Method::Application(_, _, secret) | Method::Token(secret) => secret,
        };
        let confided = [secret.clone()];
        let accepted = [StatusCode::MULTIPLE_CHOICES];
        let once = |()| async {
            let mut request = reqwest::Request::new(verb.clone(), url.clone());
            request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
            if let Some(body) = &body {
                request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                *request.body_mut() = Some(body.to_string().into());
            }
            let exchange = Exchange {
                call: &call,
                accepted: &accepted,
                limit: LIMIT,
                waits: Duration::ZERO,
                read: refusal::read,
                confided: &confided,
            };
            self.0.http.exchange(request, exchange).await
        };
        // A second token does no harm.
        let answer = self.0.calls.run(&Open, How::new(Repeat::Freely), |()| once(())).await;
        answer.map_err(Error::Call)
    }
}

fn named(which: &Named) -> Value {
    match which {
        Named::Id(id) => json!({"id": id}),
        Named::Name(name) => json!({"name": name}),
    }
}

fn below(root: &Url, path: &str) -> Result<Url, Error> {
    root.join(path).map_err(|_| CallError::setup(format!("{root} has nothing below it")).into())
}

fn read<T: serde::de::DeserializeOwned>(call: &'static str, answer: &Answer) -> Result<T, Error> {
    serde_json::from_slice(&answer.body).map_err(|e| CallError::answer(call, json_mistake(&e)).into())
}

/// When a token ends by this machine's clock, which may differ from the service's.
fn lifetime(issued: Option<&str>, expires: Option<&str>) -> Option<Instant> {
    let time = |text: Option<&str>| -> Option<DateTime<Utc>> {
        let text = text?;
        // Old ones leave the zone out.
        text.parse().or_else(|_| format!("{text}Z").parse()).ok()
    };
    let expires = time(expires)?;
    let left = (expires - time(issued).unwrap_or_else(Utc::now)).to_std().unwrap_or_default();
    Instant::now().checked_add(left)
}

/// Every call is made with a token; what refuses one gets another, once.
impl Access for Login {
    type Proof = Token;

    async fn proof(&self) -> Result<Token, CallError> {
        let token = self.0.token.get("openstack", || self.fetch()).await;
        token.map_err(|e| match e {
            // That of Keystone itself says it all.
            Error::Call(e) if !matches!(e.class(), Some(Class::Expired | Class::Denied)) => e,
            other => failed(other),
        })
    }

    async fn refused(&self, token: &Token, error: &CallError) -> Result<bool, CallError> {
        let expired = error.class() == Some(Class::Expired);
        if expired {
            self.0.token.refused(token).await;
        }
        Ok(expired)
    }
}

impl Authorize for Login {
    fn sign(&self, token: &Token, request: &mut reqwest::Request) -> Result<(), CallError> {
        let odd =
            |_| CallError::answer("identity auth/tokens", "the token has characters that no header has");
        let mut value = HeaderValue::from_str(token.value.expose()).map_err(odd)?;
        value.set_sensitive(true);
        request.headers_mut().insert(TOKEN, value);
        Ok(())
    }
}
