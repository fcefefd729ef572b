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
mod preflight;
mod refusal;
mod s3;
mod sso;
mod types;

use std::sync::{Arc, Mutex, PoisonError};

use rusoto_core::RusotoError;

use self::dispatch::Dispatcher;
pub use self::ebs::BLOCK;
pub(super) use self::iam::{assume_role, assume_role_with_web_identity};
pub use self::preflight::{Quota, Right};
pub use self::s3::Listed;
pub(super) use self::sso::{renew_sso_token, role_keys};
pub use self::types::*;
use super::COMPONENT;
use super::account::Account;
use super::credentials::{self, Credentials};
use super::endpoints::{Endpoint, Endpoints, Partition, Service};
use super::environment::Environment;
use crate::http::{Calls, Client, How, Lane, Limits, Open, PATIENT, Repeat, Retry, Setup};
use crate::secret::Secret;

/// Why a call failed.
pub use crate::http::CallError as Error;

/// Result of calls.
pub type Result<T> = std::result::Result<T, Error>;

/// The APIs of one region, as one account sees them. Clones share connections, credentials and limits.
#[derive(Clone)]
pub struct Api(Arc<Inner>, u32);

struct Inner {
    region: String,
    partition: &'static Partition,
    endpoints: Endpoints,
    credentials: Credentials,
    http: Client,
    calls: Calls,
}

/// Control calls under way at once; EC2's buckets hold about 20 requests for describing, fewer for changes.
const CONTROL: usize = 8;

/// Transfers under way at once, a bound above what callers choose.
const DATA: usize = 64;

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
        let profiles = credentials::Profiles::load(account, env).map_err(credentials::no_credentials)?;
        let region = profiles.region(account, env).to_owned();
        let partition = partition(&region)?;
        let endpoints = Endpoints::new(account.aws_endpoint.as_deref(), env, profiles.value("endpoint_url"));
        for url in Service::ALL.into_iter().filter_map(|s| endpoints.overridden(s)) {
            check_endpoint(url)?;
        }
        let http = client(env)?;
        let sts = Connection {
            http: http.clone(),
            endpoint: endpoints.of(Service::Sts, &region, partition),
            endpoints: endpoints.clone(),
            calls: Arc::new(calls(Retry::scaled(env.scale()))),
        };
        let credentials =
            Credentials::find(account, env, &profiles, sts).map_err(credentials::no_credentials)?;
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
        let inner = Inner { region, partition, endpoints, credentials, http, calls: calls(retry) };
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
            inner.calls.retry().clone(),
        )
    }

    /// The region of the calls.
    pub fn region(&self) -> &str {
        &self.0.region
    }

    /// Where the keys come from, in words.
    pub fn origin(&self) -> String {
        self.0.credentials.origin()
    }

    /// `aws`, `aws-cn` or `aws-us-gov`.
    pub fn partition(&self) -> &'static str {
        self.0.partition.name
    }

    /// The retries that calls make.
    pub fn retry(&self) -> &Retry {
        self.0.calls.retry()
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
            inner.calls.retry().clone(),
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
        let lane = match service {
            Service::Ebs | Service::S3 => Lane::Data,
            _ => Lane::Control,
        };
        let how = How { lane, patience: self.1, ..How::new(repeat) };
        let send =
            |keys: &credentials::Keys| send(&self.0.http, Some(keys.clone()), &[], &endpoint, call, &once);
        self.0.calls.run(&self.0.credentials, how, send).await
    }
}

fn calls(retry: Retry) -> Calls {
    Calls::new(COMPONENT, retry, CONTROL, DATA)
}

/// Where unsigned or specially signed requests of the credentials go.
#[derive(Clone)]
pub(super) struct Connection {
    pub http: Client,
    /// Of STS.
    pub endpoint: Endpoint,
    /// Of the others that give keys.
    pub endpoints: Endpoints,
    pub calls: Arc<Calls>,
}

impl Connection {
    /// A call that is signed with keys that are at hand, or not at all. It is repeated freely: what it gives is good
    /// for a while only. No message holds what is `confided`.
    async fn call<T, E, F>(
        &self,
        keys: Option<&credentials::Keys>,
        confided: &[Secret],
        call: &'static str,
        once: impl Fn(rusoto_core::Client, rusoto_core::Region) -> F,
    ) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, RusotoError<E>>>,
    {
        let send = |(): &()| send(&self.http, keys.cloned(), confided, &self.endpoint, call, &once);
        self.calls.run(&Open, How::new(Repeat::Freely), send).await
    }
}

/// One try of a call.
fn send<T, E, F>(
    http: &Client,
    keys: Option<credentials::Keys>,
    confided: &[Secret],
    endpoint: &Endpoint,
    call: &'static str,
    once: impl Fn(rusoto_core::Client, rusoto_core::Region) -> F,
) -> impl Future<Output = Result<T>>
where
    F: Future<Output = std::result::Result<T, RusotoError<E>>>,
{
    let dispatcher = Dispatcher::new(http.clone(), keys, confided.to_vec(), call);
    let failure = dispatcher.failure();
    let region =
        rusoto_core::Region::Custom { name: endpoint.region.clone(), endpoint: endpoint.url.clone() };
    // Not signing: the dispatcher signs, once it has the whole body.
    let answer = once(rusoto_core::Client::new_not_signing(dispatcher), region);
    async move { answer.await.map_err(|e| understood(call, &failure, e)) }
}

/// The failure that the dispatcher kept, else what rusoto does not understand.
fn understood<E>(call: &'static str, failure: &Mutex<Option<Error>>, error: RusotoError<E>) -> Error {
    let kept = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
    kept.unwrap_or_else(|| {
        let reason = match error {
            RusotoError::ParseError(reason) | RusotoError::Validation(reason) => reason,
            RusotoError::HttpDispatch(e) => e.to_string(),
            _ => "not the format of this API".into(),
        };
        Error::answer(call, reason)
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

/// The HTTP client, with the trust roots of `AWS_CA_BUNDLE` if that is set.
fn client(env: &Environment) -> Result<Client> {
    let roots = match env.get("AWS_CA_BUNDLE") {
        None => None,
        Some(path) => {
            let bad = |source| Error::Setup {
                what: format!("cannot read the certificates in {path}"),
                source: Some(std::io::Error::into(source)),
            };
            Some(crate::input::read(path.as_ref()).map_err(bad)?)
        }
    };
    let setup = Setup { redirects: false, roots, ..Setup::default() };
    Client::with(Limits::of_service(env.scale()), Retry::scaled(env.scale()), &setup)
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
