//! The AWS APIs that mantle uses, with plain types; nothing outside of this folder knows of rusoto.
//!
//! rusoto builds requests and reads answers. Everything between is ours: requests are signed, sent and retried
//! here, through the program's own HTTP client, and refusals are read from the body, whatever the service.

mod dispatch;
mod ebs;
mod ec2;
mod iam;
mod images;
mod network;
mod refusal;
mod s3;
mod types;

use std::sync::Arc;
use std::time::Duration;

use rusoto_core::RusotoError;
use tokio::sync::Semaphore;

use self::dispatch::Dispatcher;
pub use self::ebs::BLOCK;
pub(super) use self::iam::{assume_role, assume_role_with_web_identity};
pub use self::types::*;
use super::account::{Account, DEFAULT_REGION};
use super::credentials::{self, Credentials};
use super::endpoints::{Endpoint, Endpoints, Partition, Service};
use super::environment::Environment;
use crate::http::{Class, Client, Limits, Retry, Setup};

/// Why a call failed.
pub use crate::http::CallError as Error;

/// Result of calls.
pub type Result<T> = std::result::Result<T, Error>;

/// The APIs of one region, as one account sees them. Clones share connections, credentials and limits.
#[derive(Clone)]
pub struct Api(Arc<Inner>, Patience);

/// How often in a row something may not be found that must be there; 0 for ordinary calls.
type Patience = u32;

/// Enough for what AWS makes known to itself with a delay: 30 s in all.
const PATIENT: Patience = 8;

struct Inner {
    region: String,
    partition: &'static Partition,
    endpoints: Endpoints,
    credentials: Credentials,
    http: Client,
    retry: Retry,
    /// How many requests may be under way: control calls, and those that carry data.
    control: Semaphore,
    data: Semaphore,
}

/// Control calls under way at once; EC2's buckets hold about 20 requests for describing, fewer for changes.
const CONTROL: usize = 8;

/// Transfers under way at once, a bound above what callers choose.
const DATA: usize = 64;

/// Whether a call may be sent again after an answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeat {
    /// The second does no harm.
    Freely,
    /// It would do its work twice: again only when the first was certainly not executed.
    IfNotExecuted,
}

impl Api {
    /// Finds region, credentials and endpoints as the AWS CLI does. No request is sent; credentials that need one
    /// are fetched with the first call.
    ///
    /// # Errors
    /// When region, endpoints, trust roots or credentials are missing or make no sense.
    pub async fn new(account: &Account) -> Result<Self> {
        Self::with_environment(account, &Environment::of_process()).await
    }

    /// As [`Api::new`], with these environment variables.
    ///
    /// # Errors
    /// As [`Api::new`].
    pub async fn with_environment(account: &Account, env: &Environment) -> Result<Self> {
        let (account, env) = (account.clone(), env.clone());
        let task = tokio::task::spawn_blocking(move || Self::open(&account, &env));
        task.await.map_err(|e| Error::answer("set-up", e.to_string()))?
    }

    fn open(account: &Account, env: &Environment) -> Result<Self> {
        let profiles = credentials::Profiles::load(account, env).map_err(no_credentials)?;
        let region = account
            .region()
            .or_else(|| env.get("AWS_REGION"))
            .or_else(|| env.get("AWS_DEFAULT_REGION"))
            .or_else(|| profiles.value("region"))
            .unwrap_or(DEFAULT_REGION)
            .to_owned();
        let partition = partition(&region)?;
        let endpoints = Endpoints::new(account.aws_endpoint.as_deref(), env, profiles.value("endpoint_url"));
        for url in Service::ALL.into_iter().filter_map(|s| endpoints.overridden(s)) {
            check_endpoint(url)?;
        }
        let http = client(env)?;
        let sts = Connection {
            http: http.clone(),
            endpoint: endpoints.of(Service::Sts, &region, partition),
            retry: Retry::scaled(env.scale()),
        };
        let credentials = Credentials::find(account, env, &profiles, sts).map_err(no_credentials)?;
        let retry = Retry { tries: 6, ..Retry::scaled(env.scale()) };
        Ok(Self::of(region, partition, endpoints, credentials, http, retry))
    }

    fn of(
        region: String,
        partition: &'static Partition,
        endpoints: Endpoints,
        credentials: Credentials,
        http: Client,
        retry: Retry,
    ) -> Self {
        let (control, data) = (Semaphore::new(CONTROL), Semaphore::new(DATA));
        let inner = Inner { region, partition, endpoints, credentials, http, retry, control, data };
        Self(Arc::new(inner), 0)
    }

    /// The same account at another endpoint: tests share what takes long to make.
    #[cfg(test)]
    pub(crate) fn at(&self, url: &str) -> Self {
        let inner = &self.0;
        let endpoints = Endpoints::new(Some(url), &Environment::default(), None);
        Self::of(
            inner.region.clone(),
            inner.partition,
            endpoints,
            inner.credentials.clone(),
            inner.http.clone(),
            inner.retry.clone(),
        )
    }

    /// The region of the calls.
    pub fn region(&self) -> &str {
        &self.0.region
    }

    /// `aws`, `aws-cn` or `aws-us-gov`.
    pub fn partition(&self) -> &'static str {
        self.0.partition.name
    }

    /// The retries that calls make.
    pub fn retry(&self) -> &Retry {
        &self.0.retry
    }

    /// The client that the calls go through, with its trust roots and limits.
    pub fn http(&self) -> &Client {
        &self.0.http
    }

    /// The same, for calls about something that was made a moment ago: should AWS say `….NotFound`, it is asked
    /// again for half a minute.
    #[must_use]
    pub fn patient(&self) -> Self {
        Self(self.0.clone(), PATIENT)
    }

    /// The same account in another region.
    ///
    /// # Errors
    /// [`Error::Setup`] when it belongs to no known partition.
    pub fn in_region(&self, region: &str) -> Result<Self> {
        let inner = &self.0;
        Ok(Self::of(
            region.to_owned(),
            partition(region)?,
            inner.endpoints.clone(),
            inner.credentials.clone(),
            inner.http.clone(),
            inner.retry.clone(),
        ))
    }

    /// One call, with its retries; `once` is run for each try, with a client that sends it.
    async fn call<T, E, F>(
        &self,
        service: Service,
        call: &'static str,
        repeat: Repeat,
        once: impl Fn(rusoto_core::Client, rusoto_core::Region) -> F,
    ) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, RusotoError<E>>>,
    {
        let endpoint = self.0.endpoints.of(service, &self.0.region, self.0.partition);
        let mut budget = self.0.retry.budget();
        let mut renewed = false;
        let mut missed = 0;
        loop {
            let places = match service {
                Service::Ebs | Service::S3 => &self.0.data,
                _ => &self.0.control,
            };
            let place = places.acquire().await.expect("the semaphore is never closed");
            let keys = self.0.credentials.keys().await.map_err(no_credentials)?;
            let outcome = send(&self.0.http, Some(keys), &endpoint, call, &once).await;
            drop(place);
            let error = match outcome {
                Ok(answer) => return Ok(answer),
                Err(e) => e,
            };
            if error.class() == Some(Class::Expired) && !renewed && self.0.credentials.renew().await {
                renewed = true;
                continue;
            }
            if error.is_not_found() && missed < self.1 {
                let pause = Duration::from_millis(500 << missed).min(Duration::from_secs(5));
                crate::debug!("platform/aws", "{error}; asking again");
                tokio::time::sleep(pause.min(self.0.retry.longest)).await;
                missed += 1;
                continue;
            }
            if repeat == Repeat::IfNotExecuted && !error.is_certain() {
                return Err(error);
            }
            budget.again("platform/aws", error).await?;
        }
    }
}

/// Where unsigned or specially signed requests of the credentials go.
#[derive(Clone)]
pub(super) struct Connection {
    pub http: Client,
    pub endpoint: Endpoint,
    pub retry: Retry,
}

/// One try of a call.
async fn send<T, E, F>(
    http: &Client,
    keys: Option<credentials::Keys>,
    endpoint: &Endpoint,
    call: &'static str,
    once: impl Fn(rusoto_core::Client, rusoto_core::Region) -> F,
) -> Result<T>
where
    F: Future<Output = std::result::Result<T, RusotoError<E>>>,
{
    let dispatcher = Dispatcher::new(http.clone(), keys, call);
    let failure = dispatcher.failure();
    let region =
        rusoto_core::Region::Custom { name: endpoint.region.clone(), endpoint: endpoint.url.clone() };
    // Not signing: the dispatcher signs, once it has the whole body.
    let answer = once(rusoto_core::Client::new_not_signing(dispatcher), region).await;
    answer.map_err(|e| {
        let kept = failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        kept.unwrap_or_else(|| {
            let reason = match e {
                RusotoError::ParseError(reason) | RusotoError::Validation(reason) => reason,
                RusotoError::HttpDispatch(e) => e.to_string(),
                _ => "not the format of this API".into(),
            };
            Error::answer(call, reason)
        })
    })
}

fn partition(region: &str) -> Result<&'static Partition> {
    let unknown = || format!("could not find partition for {region:?}: no AWS region has such a name");
    Partition::of(region).ok_or_else(|| Error::setup(unknown()))
}

fn check_endpoint(url: &str) -> Result<()> {
    let parsed = reqwest::Url::parse(url).ok().filter(|u| matches!(u.scheme(), "http" | "https"));
    let plain = parsed.filter(|u| u.has_host() && u.query().is_none() && u.username().is_empty());
    plain.map(|_| ()).ok_or_else(|| {
        bad_endpoint(&reqwest::Url::parse(url).map_or_else(|_| url.to_owned(), |u| crate::http::shown(&u)))
    })
}

fn bad_endpoint(url: &str) -> Error {
    Error::setup(format!("the endpoint {url:?} is not a URL that begins with http:// or https://"))
}

fn no_credentials(source: credentials::Error) -> Error {
    Error::Credentials { of: "AWS", source: source.into() }
}

/// The HTTP client, with the trust roots of `AWS_CA_BUNDLE` if that is set.
fn client(env: &Environment) -> Result<Client> {
    let roots = match env.get("AWS_CA_BUNDLE") {
        None => None,
        Some(path) => {
            let bad = |source| Error::Setup {
                what: format!("cannot read the certificates in {path}"),
                source: Some(std::io::Error::into(source)),
            };
            Some(std::fs::read(path).map_err(bad)?)
        }
    };
    let setup = Setup { redirects: false, roots, ..Setup::default() };
    // Tests scale waits, but no server answers in a thousandth of the time.
    let Limits { connect, idle } = Limits::default();
    let limits = Limits {
        connect: connect.mul_f64(env.scale()).max(Duration::from_secs(3)),
        idle: idle.mul_f64(env.scale()).max(Duration::from_secs(5)),
    };
    Client::with(limits, Retry::scaled(env.scale()), &setup)
        .map_err(|source| Error::Transport { call: "set-up".into(), source })
}

/// What an answer must have by the API's own description.
fn required<T>(call: &'static str, name: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Error::answer(call, format!("it has no {name}")))
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Api({} {:?})", self.0.region, self.0.credentials)
    }
}
