//! The classic service management API (ASM): XML, and a client certificate to say who one is.
//!
//! Azure switched it off on 2024-08-31. It is spoken for those who still have something that answers.
//! The API: <https://learn.microsoft.com/previous-versions/azure/ee460799(v=azure.100)>.

mod account;
mod images;

use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

pub use self::account::{Account, Error as NoSubscription, FILES, Subscription};
pub use self::images::{NewImage, Permission};

use super::xml;
use crate::http::{
    Answer, Call, CallError, Calls, Class, Client, Limits, Open, Refusal, Refused, Retry, Service, Setup,
};
use crate::poll::{self, Poll};
use crate::secret::Secret;
use crate::text::percent::encode;

/// The namespace of all that is sent.
const NAMESPACE: &str = "http://schemas.microsoft.com/windowsazure";
const VERSION: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-ms-version"), HeaderValue::from_static("2015-04-01"));
const XML: &str = "application/xml";
const COMPONENT: &str = "azure";

/// Calls under way at once.
const PLACES: usize = 4;
/// Looks at an operation.
const OPERATION: Poll = Poll::seconds(30, 3600);

/// Why something could not be done, or is not done yet.
pub type Unfinished = poll::Error<CallError>;

/// A subscription's classic API.
#[derive(Clone, Debug)]
pub struct Classic {
    service: Service<Open>,
    /// The same, for orders that wait for others in their turn: a conflict is an order that is not done yet.
    patient: Service<Open>,
    root: Url,
}

/// The answer to Get Operation Status.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Operation {
    status: String,
    http_status_code: Option<u16>,
    error: Option<Failure>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Failure {
    code: Option<String>,
    message: Option<String>,
}

/// The answer to List Locations.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Locations {
    location: Vec<Place>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Place {
    name: String,
    available_services: Services,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Services {
    available_service: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StorageService {
    storage_service_keys: StorageServiceKeys,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StorageServiceKeys {
    primary: String,
}

impl Classic {
    /// The API of a subscription. Nothing is asked.
    ///
    /// # Errors
    /// [`CallError::Setup`] without a certificate, and when the client cannot be set up.
    pub fn new(subscription: &Subscription) -> Result<Self, CallError> {
        let Subscription { name, management, identity, .. } = subscription;
        if identity.is_none() && management.scheme() == "https" {
            let what = format!("Azure subscription {name:?} has no management certificate");
            return Err(CallError::setup(what));
        }
        let retry = Retry::scaled(poll::scale());
        let setup = Setup { identity: identity.clone(), ..Setup::default() };
        let http =
            Client::with(Limits::of_service(poll::scale()), retry.clone(), &setup).map_err(|source| {
                CallError::Setup { what: "cannot use HTTP".into(), source: Some(source.into()) }
            })?;
        let service = |read| {
            let calls = Calls::new(COMPONENT, retry.clone(), PLACES, PLACES);
            Service::new(http.clone(), calls, Open, read)
        };
        let mut root = subscription.management.clone();
        let path = format!("{}/{}/", root.path().trim_end_matches('/'), encode(&subscription.id));
        root.set_path(&path);
        Ok(Self { service: service(xml::refusal), patient: service(busy), root })
    }

    /// The first of an account's two keys.
    ///
    /// # Errors
    /// Those of a call.
    pub async fn storage_key(&self, account: &str) -> Result<Secret, CallError> {
        const NAME: &str = "Get Storage Account Keys";
        let url = self.at(&["services", "storageservices", account, "keys"]);
        let answer = call(&self.service, NAME, Method::GET, url).send().await?;
        let keys: StorageService = xml::answer(NAME, &answer.body)?;
        Ok(keys.storage_service_keys.primary.into())
    }

    /// The names of the locations that have machines.
    ///
    /// # Errors
    /// Those of a call.
    pub async fn locations(&self) -> Result<Vec<String>, CallError> {
        const NAME: &str = "List Locations";
        let answer = call(&self.service, NAME, Method::GET, self.at(&["locations"])).send().await?;
        let locations: Locations = xml::answer(NAME, &answer.body)?;
        let computes =
            |place: &Place| place.available_services.available_service.iter().any(|s| s == "Compute");
        Ok(locations.location.into_iter().filter(computes).map(|place| place.name).collect())
    }

    /// The address of something below the subscription.
    fn at(&self, path: &[&str]) -> Url {
        let mut url = self.root.clone();
        let below: Vec<String> = path.iter().map(|part| encode(part)).collect();
        url.set_path(&format!("{}{}", url.path(), below.join("/")));
        url
    }

    /// Waits for what an answer says has begun.
    async fn wait(
        &self,
        name: &'static str,
        answer: &Answer,
        cancel: &CancellationToken,
    ) -> Result<(), Unfinished> {
        const NAME: &str = "Get Operation Status";
        let id = answer.headers.get(xml::REQUEST_ID).and_then(|id| id.to_str().ok());
        let Some(id) = id.filter(|id| !id.is_empty()) else {
            let reason = format!("it has no header {}", xml::REQUEST_ID);
            return Err(poll::Error::Failed(CallError::answer(name, reason)));
        };
        let look = || async {
            let url = self.at(&["operations", id]);
            let answer = call(&self.service, NAME, Method::GET, url).send().await?;
            let operation: Operation = xml::answer(NAME, &answer.body)?;
            match operation.status.as_str() {
                "Succeeded" => Ok(poll::Answer::Ready(())),
                "InProgress" => Ok(poll::Answer::NotYet("in progress".into())),
                "Failed" => Err(operation.refusal(name, id)),
                other => Err(CallError::answer(NAME, format!("there is no status {other:?}"))),
            }
        };
        OPERATION.until(format_args!("{name} done (operation {id})"), cancel, look).await
    }

    /// Orders something and waits until it is done. A conflict with what others do is waited for, too.
    async fn order(
        &self,
        name: &'static str,
        url: Url,
        body: String,
        cancel: &CancellationToken,
    ) -> Result<(), Unfinished> {
        let ordered = call(&self.patient, name, Method::PUT, url).body(XML, body).send();
        let answer = cancel.run_until_cancelled(ordered).await.ok_or(poll::Error::Cancelled)?;
        self.wait(name, &answer.map_err(poll::Error::Failed)?, cancel).await
    }
}

impl Operation {
    fn refusal(self, name: &'static str, id: &str) -> CallError {
        let Failure { code, message } = self.error.unwrap_or_default();
        let status = self.http_status_code.unwrap_or(500);
        let class = match code.as_deref() {
            Some("ConflictError") => Class::Conflict,
            Some("ResourceNotFound") => Class::NotFound,
            _ => Class::Invalid,
        };
        let refusal = Refusal { status, code, message, request: Some(id.into()), class, retry_after: None };
        CallError::Refused { call: name.into(), refusal: Box::new(refusal) }
    }
}

fn call<'a>(service: &'a Service<Open>, name: &'static str, method: Method, url: Url) -> Call<'a, Open> {
    let (version, value) = VERSION;
    service.call(name, method, url).header(version, value).header(CONTENT_TYPE, XML)
}

/// Reads refusals of orders that have to wait for others.
fn busy(refused: &Refused<'_>) -> Refusal {
    let mut refusal = xml::refusal(refused);
    if refusal.code.as_deref() == Some("ConflictError") {
        refusal.class = Class::Throttled;
    }
    refusal
}
