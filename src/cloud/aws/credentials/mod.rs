//! Credentials, found where the AWS CLI finds them, and renewed before they expire.

mod ini;
mod profiles;
mod sources;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Mutex;

pub use self::profiles::Profiles;
use self::sources::Source;
use super::Account;
use super::api::{self, Connection};
use super::environment::Environment;
use crate::http;
use crate::secret::Secret;

/// Keys are renewed when they are valid for less than this.
const SLACK: Duration = Duration::from_secs(120);

/// What requests are signed with. [`fmt::Debug`] shows none of it.
#[derive(Clone)]
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

impl Keys {
    fn valid_for(&self, time: Duration) -> bool {
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
    current: Mutex<Option<Keys>>,
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
        let inner =
            Inner { source, sts, near: OnceLock::new(), scale: env.scale(), current: Mutex::new(None) };
        Ok(Self(Arc::new(inner)))
    }

    /// Keys that are valid for some time yet.
    ///
    /// # Errors
    /// When they cannot be had.
    pub async fn keys(&self) -> Result<Keys, Error> {
        if let Source::Static { keys, .. } = &self.0.source {
            return Ok(keys.clone());
        }
        // Held while fetching: the others wait for this one's keys.
        let mut current = self.0.current.lock().await;
        if let Some(keys) = current.as_ref().filter(|k| k.valid_for(SLACK)) {
            return Ok(keys.clone());
        }
        match self.0.source.fetch(&self.0.sts, &|| self.near()).await {
            Ok(keys) => Ok(current.insert(keys).clone()),
            Err(e) => match current.as_ref().filter(|k| k.valid_for(Duration::from_secs(10))) {
                Some(keys) => {
                    crate::warning!("platform/aws", "cannot renew keys yet: {}", crate::text::chain(&e));
                    Ok(keys.clone())
                }
                None => Err(e),
            },
        }
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

    /// Forgets the current keys, because AWS says that they have expired; `false` when there are no others.
    pub async fn renew(&self) -> bool {
        if matches!(self.0.source, Source::Static { .. }) {
            return false;
        }
        *self.0.current.lock().await = None;
        true
    }
}
