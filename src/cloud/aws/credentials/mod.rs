//! Credentials, found where the AWS CLI finds them, and renewed before they expire.

#[cfg(test)]
mod botocore;
mod ini;
mod profiles;
mod sources;
mod sso;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub use self::profiles::Profiles;
use self::sources::Source;
use super::api::{self, Connection};
use super::environment::Environment;
use super::{Account, COMPONENT};
use crate::http::{self, Access, CallError, Class, Expires, Renewing};
use crate::secret::Secret;
use chrono::{DateTime, Utc};

/// Keys are renewed when they are valid for less than this.
const SLACK: Duration = Duration::from_secs(120);

/// Should that fail, they are used until they are valid for less than this.
const LAST: Duration = Duration::from_secs(10);

/// What requests are signed with. [`fmt::Debug`] shows none of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// Access key id.
    pub id: String,
    /// Secret access key.
    pub secret: Secret,
    /// Session token of temporary keys.
    pub token: Option<Secret>,
    /// The end of temporary keys.
    pub expires: Option<DateTime<Utc>>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(***)")
    }
}

impl Expires for Keys {
    fn is_valid_for(&self, time: Duration) -> bool {
        self.expires
            .is_none_or(|end| end - Utc::now() > chrono::TimeDelta::from_std(time).unwrap_or_default())
    }
}

/// Why there are no keys. Says where they were looked for, never what was found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nowhere.
    #[error(
        "NoCredentialProviders: no valid providers in chain: nothing in the environment, in the shared files, of a \
         container or of the instance"
    )]
    None(#[source] Option<Box<Error>>),
    /// Half a pair.
    #[error("{given} is given, {missing} is not")]
    Half {
        /// What is there.
        given: String,
        /// What belongs to it.
        missing: String,
    },
    /// A file that cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file that makes no sense.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, without what is in it.
        reason: String,
    },
    /// A profile that is not there.
    #[error("no profile {name:?} in {}", places(files))]
    NoProfile {
        /// Its name.
        name: String,
        /// Where it could be.
        files: Vec<PathBuf>,
    },
    /// A profile that cannot be used.
    #[error("profile {name:?}: {reason}")]
    Profile {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Something that gives keys gave none.
    #[error("no keys from {origin}: {reason}")]
    Source {
        /// What it is.
        origin: String,
        /// What it said, without secrets.
        reason: String,
    },
    /// No answer from something that gives keys.
    #[error("no keys from {origin}")]
    Http {
        /// What it is.
        origin: String,
        /// Why.
        #[source]
        source: http::Error,
    },
    /// Single sign-on gave none.
    #[error("no keys from {origin}")]
    SignOn {
        /// Whose.
        origin: String,
        /// Why.
        #[source]
        source: Box<api::Error>,
    },
    /// STS refused the role.
    #[error("cannot assume role {role}")]
    Role {
        /// Its ARN.
        role: String,
        /// Why.
        #[source]
        source: Box<api::Error>,
    },
}

fn places(files: &[PathBuf]) -> String {
    files.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(" or ")
}

/// Someone's keys; clones share the current ones. [`fmt::Debug`] says where they come from.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

struct Inner {
    source: Source,
    sts: Connection,
    /// For servers on this machine or link; made when needed, as that takes its time.
    near: OnceLock<http::Client>,
    scale: f64,
    current: Renewing<Keys>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.source.origin())
    }
}

impl Credentials {
    /// Decides where keys come from: the first place that has some. Nothing is fetched yet.
    ///
    /// # Errors
    /// When there are none, or the place that has them makes no sense.
    pub(super) fn find(
        account: &Account,
        env: &Environment,
        profiles: &Profiles,
        sts: Connection,
    ) -> Result<Self, Error> {
        let source = sources::find(account, env, profiles)?;
        let inner = Inner {
            source,
            sts,
            near: OnceLock::new(),
            scale: env.scale(),
            current: Renewing::new(SLACK, LAST),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// Where they come from, in words.
    pub fn origin(&self) -> String {
        self.0.source.place()
    }

    /// Keys that are valid for some time yet.
    ///
    /// # Errors
    /// When they cannot be had.
    pub async fn keys(&self) -> Result<Keys, Error> {
        if let Source::Static { keys, .. } = &self.0.source {
            return Ok(keys.clone());
        }
        let near = || self.near();
        let fetch = || self.0.source.fetch(&self.0.sts, &near);
        self.0.current.get(COMPONENT, fetch).await
    }

    /// The client for servers on this machine or link, where an answer comes soon or never.
    fn near(&self) -> Result<http::Client, Error> {
        if let Some(client) = self.0.near.get() {
            return Ok(client.clone());
        }
        let limits = http::Limits { connect: Duration::from_secs(1), idle: Duration::from_secs(5) };
        let retry = http::Retry { tries: 3, ..http::Retry::scaled(self.0.scale) };
        let client = http::Client::direct(limits, retry)
            .map_err(|source| Error::Http { origin: self.0.source.origin(), source })?;
        Ok(self.0.near.get_or_init(|| client).clone())
    }
}

impl Access for Credentials {
    type Proof = Keys;

    async fn proof(&self) -> Result<Keys, CallError> {
        self.keys().await.map_err(no_credentials)
    }

    async fn refused(&self, keys: &Keys, error: &CallError) -> Result<bool, CallError> {
        if error.class() != Some(Class::Expired) || matches!(self.0.source, Source::Static { .. }) {
            return Ok(false);
        }
        self.0.current.refused(keys).await;
        Ok(true)
    }
}

pub(super) fn no_credentials(source: Error) -> CallError {
    CallError::Credentials { of: "AWS", source: source.into() }
}
