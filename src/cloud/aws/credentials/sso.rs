//! Keys by single sign-on, with the token that `aws sso login` left in the AWS CLI's cache.

use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use super::super::COMPONENT;
use super::super::api::{self, Connection};
use super::super::environment::Environment;
use super::{Error, Keys, Profiles};
use crate::http::Class;
use crate::secret::Secret;
use crate::{ssh, target, text};

/// A token that is good for less than this, in minutes, is renewed first, as Amazon's tools do.
const WINDOW: i64 = 15;

/// Tokens are short.
const MAX_TOKEN: u64 = 1 << 20;

/// A role of an account, and the sign-on that leads to it.
#[derive(Clone, Debug)]
pub(super) struct SignOn {
    profile: String,
    /// The section `sso-session` that was named; without one the token is known by the URL, and cannot be renewed.
    session: Option<String>,
    start_url: String,
    region: String,
    account: String,
    role: String,
    /// The file with the token.
    cache: PathBuf,
}

/// A token, with what it can be renewed with.
struct Token {
    access: Secret,
    expires: DateTime<Utc>,
    renewal: Option<Renewal>,
}

struct Renewal {
    client: String,
    client_secret: Secret,
    refresh: Secret,
    /// The end of the client, as it is written.
    client_expires: String,
}

/// What a profile says of single sign-on, if it does.
pub(super) fn of_profile(
    profiles: &Profiles,
    profile: &str,
    env: &Environment,
) -> Result<Option<SignOn>, Error> {
    let wrong = |reason: String| Error::Profile { name: profile.to_owned(), reason };
    let own = |key: &str| profiles.of(profile, key);
    if own("sso_account_id").or(own("sso_role_name")).is_none() {
        return Ok(None);
    }
    let session = own("sso_session");
    let shared = match session {
        None => None,
        Some(name) => Some(
            profiles
                .config
                .sso_session(name)
                .ok_or_else(|| wrong(format!("there is no section [sso-session {name}]")))?,
        ),
    };
    for (key, value) in shared.into_iter().flatten() {
        // Not the values: they may be anything.
        if own(key).is_some_and(|own| own != value.expose()) {
            let name = session.unwrap_or_default();
            return Err(wrong(format!("its {key} is not that of [sso-session {name}]")));
        }
    }
    let value = |key: &str| {
        let shared = || shared?.get(key).map(Secret::expose).filter(|v| !v.is_empty());
        own(key)
            .or_else(shared)
            .map(str::to_owned)
            .ok_or_else(|| wrong(format!("it is set up for single sign-on, but {key} is missing")))
    };
    let (start_url, region) = (value("sso_start_url")?, value("sso_region")?);
    let home = env.home().ok_or_else(|| wrong("there is no home folder with a token".into()))?;
    let name = text::hex(&openssl::sha::sha1(session.unwrap_or(&start_url).as_bytes()));
    Ok(Some(SignOn {
        profile: profile.to_owned(),
        session: session.map(str::to_owned),
        account: value("sso_account_id")?,
        role: value("sso_role_name")?,
        start_url,
        region,
        cache: home.join(".aws/sso/cache").join(format!("{name}.json")),
    }))
}

impl SignOn {
    /// What it is, for messages.
    pub(super) fn origin(&self) -> String {
        format!("the single sign-on of profile {:?}", self.profile)
    }

    /// What it is, and whose keys it gives.
    pub(super) fn place(&self) -> String {
        format!("role {} of account {} by {}", self.role, self.account, self.origin())
    }

    /// Gets keys: a token from the cache, renewed if need be, and what the portal gives for it.
    pub(super) async fn fetch(&self, connection: &Connection) -> Result<Keys, Error> {
        let token = self.token(connection).await?;
        match api::role_keys(connection, &self.region, &self.account, &self.role, &token).await {
            Ok(keys) => match keys.expires {
                Some(end) if end <= Utc::now() => {
                    Err(self.wrong(&format!("its keys expired at {}", date(end))))
                }
                _ => Ok(keys),
            },
            // It was taken back before its time.
            Err(e) if e.status() == Some(401) => Err(self.login("the token of the last login is refused")),
            Err(e) => Err(Error::SignOn { origin: self.origin(), source: Box::new(e) }),
        }
    }

    /// A token that is good yet.
    async fn token(&self, connection: &Connection) -> Result<Secret, Error> {
        let token = self.cached().await?;
        let now = Utc::now();
        let renewal = token.renewal.as_ref().filter(|_| token.expires - now < TimeDelta::minutes(WINDOW));
        if let Some(renewal) = renewal.filter(|_| self.session.is_some())
            && time(&renewal.client_expires).is_some_and(|end| end > now)
        {
            let error = match self.renewed(connection, renewal).await {
                Ok(token) => return Ok(token),
                Err(e) => e,
            };
            // Another program with the same cache may have been faster: what was read before is of no more use.
            if let Some(other) = self.cached().await.ok().filter(|other| other.expires > token.expires) {
                return Ok(other.access);
            }
            if token.expires > now {
                let said = text::chain(&error);
                crate::warning!(COMPONENT, "cannot renew the token of {}: {said}", self.origin());
                return Ok(token.access);
            }
            // No answer, or trouble: nothing is wrong with the login.
            if error.class().is_none_or(|c| matches!(c, Class::Throttled | Class::Trouble)) {
                return Err(Error::SignOn { origin: self.origin(), source: Box::new(error) });
            }
            let said = text::chain(&error);
            return Err(self.login(&format!("the last login cannot be renewed ({said})")));
        }
        match token.expires > now {
            true => Ok(token.access),
            false => Err(self.login(&format!("the last login expired at {}", date(token.expires)))),
        }
    }

    /// Makes a new token, and keeps it for all who share the cache.
    async fn renewed(&self, connection: &Connection, old: &Renewal) -> Result<Secret, api::Error> {
        let Renewal { client, client_secret, refresh, client_expires } = old;
        let new = api::renew_sso_token(connection, &self.region, client, client_secret, refresh).await?;
        let mut content = json!({
            "startUrl": self.start_url,
            "region": self.region,
            "accessToken": new.access.expose(),
            "expiresAt": date(Utc::now() + TimeDelta::seconds(new.lifetime)),
            "clientId": client,
            "clientSecret": client_secret.expose(),
            "registrationExpiresAt": client_expires,
        });
        if let Some(refresh) = &new.refresh {
            content["refreshToken"] = refresh.expose().into();
        }
        let (path, content) = (self.cache.clone(), content.to_string());
        let write = move || target::replace(&path, 0o600, content.as_bytes());
        let written = off_thread(write).await;
        if let Err(e) = written {
            // It is good for this run; the next one may have to log in.
            crate::warning!(COMPONENT, "cannot keep the renewed token in {}: {e}", self.cache.display());
        }
        Ok(new.access)
    }

    /// The token in the cache.
    async fn cached(&self) -> Result<Token, Error> {
        let path = self.cache.clone();
        let read = move || read(&path);
        let bytes = match off_thread(read).await {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(self.login("nobody has logged in"));
            }
            Err(source) => return Err(Error::Read { path: self.cache.clone(), source }),
        };
        let unusable = || self.login(&format!("there is no usable token in {}", self.cache.display()));
        let json: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|_| unusable())?;
        let value = |name: &str| json.get(name)?.as_str().filter(|v| !v.is_empty()).map(str::to_owned);
        let renewal = || {
            Some(Renewal {
                client: value("clientId")?,
                client_secret: value("clientSecret")?.into(),
                refresh: value("refreshToken")?.into(),
                client_expires: value("registrationExpiresAt")?,
            })
        };
        Ok(Token {
            access: value("accessToken").ok_or_else(unusable)?.into(),
            expires: value("expiresAt").as_deref().and_then(time).ok_or_else(unusable)?,
            renewal: renewal(),
        })
    }

    /// Somebody must log in.
    fn login(&self, why: &str) -> Error {
        let option = match &self.session {
            Some(session) => format!("--sso-session {}", ssh::quote(session)),
            None => format!("--profile {}", ssh::quote(&self.profile)),
        };
        self.wrong(&format!("{why}; run aws sso login {option}"))
    }

    fn wrong(&self, reason: &str) -> Error {
        Error::Source { origin: self.origin(), reason: reason.to_owned() }
    }
}

/// Uses the file system on a thread that may block.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_TOKEN).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A time as the AWS CLI writes it; old ones wrote `UTC` for `Z`.
fn time(text: &str) -> Option<DateTime<Utc>> {
    let text = text.strip_suffix("UTC").map_or_else(|| text.to_owned(), |time| format!("{time}Z"));
    Some(DateTime::parse_from_rfc3339(&text).ok()?.to_utc())
}

fn date(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
