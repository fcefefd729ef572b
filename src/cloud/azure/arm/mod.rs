//! The Resource Manager (<https://learn.microsoft.com/rest/api/resources/>): machines, networks, images and the groups
//! that they are in.
//!
//! | file | what it is |
//! |---|---|
//! | `operation` | what makes or removes something, and takes its time |
//! | `refusal` | what it says when it refuses |
//! | `groups`, `network`, `machines`, `images`, `storage` | resources of these kinds |

mod groups;
mod images;
mod machines;
mod network;
mod operation;
mod refusal;
mod storage;

use std::sync::Arc;

use reqwest::Url;
use serde::de::DeserializeOwned;

pub use self::groups::Group;
pub use self::images::{Definition, Generation, Image, NewImage};
pub use self::machines::{Diagnostics, Machine, NewMachine, Reference};
pub use self::network::NewInterface;
pub use self::operation::Unfinished;
use super::Account;
use super::credentials::sources::{self, Environment};
use super::credentials::{self, Cloud, Credentials, no_credentials};
use crate::http::{CallError, Calls, Service};
use crate::text::percent::encode;

/// Result of calls.
pub type Result<T, E = CallError> = std::result::Result<T, E>;

/// Calls under way at once. The service counts them by the hour and refills slowly.
const PLACES: usize = 16;

/// A kind of resources: its name below `providers`, and the version of its interface that is spoken here.
#[derive(Clone, Copy, Debug)]
struct Kind {
    path: &'static str,
    version: &'static str,
}

const GROUP: Kind = Kind { path: "", version: "2021-04-01" };
const MACHINE: Kind = Kind { path: "Microsoft.Compute/virtualMachines", version: "2024-07-01" };
const IMAGE: Kind = Kind { path: "Microsoft.Compute/images", version: "2024-07-01" };
const PUBLISHED: Kind = Kind { path: "Microsoft.Compute/locations", version: "2024-07-01" };
const GALLERY: Kind = Kind { path: "Microsoft.Compute/galleries", version: "2023-07-03" };
const NETWORK: Kind = Kind { path: "Microsoft.Network/virtualNetworks", version: "2024-05-01" };
const RULES: Kind = Kind { path: "Microsoft.Network/networkSecurityGroups", version: "2024-05-01" };
const ADDRESS: Kind = Kind { path: "Microsoft.Network/publicIPAddresses", version: "2024-05-01" };
const INTERFACE: Kind = Kind { path: "Microsoft.Network/networkInterfaces", version: "2024-05-01" };
const STORAGE: Kind = Kind { path: "Microsoft.Storage/storageAccounts", version: "2023-05-01" };

/// The Resource Manager for one subscription and location. Clones share connections, credentials and places.
#[derive(Clone, Debug)]
pub struct Arm(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    service: Service<Credentials>,
    cloud: Cloud,
    subscription: String,
    location: String,
}

impl Arm {
    /// Finds credentials, subscription and cloud. No request is sent.
    ///
    /// # Errors
    /// When there are none.
    pub fn new(account: &Account) -> Result<Self> {
        if account.azure_location.is_empty() {
            return Err(CallError::setup("the Azure location has no name"));
        }
        let http = credentials::client().map_err(no_credentials)?;
        let found = sources::find(account, &Environment::of_process(), &http).map_err(no_credentials)?;
        let calls = Calls::new("azure", http.retry().clone(), PLACES, PLACES);
        let service = Service::new(http, calls, found.credentials, refusal::read);
        let location = account.azure_location.clone();
        Ok(Self(Arc::new(Inner { service, cloud: found.cloud, subscription: found.subscription, location })))
    }

    /// The same account in another subscription.
    #[must_use]
    pub fn of(&self, subscription: &str) -> Self {
        let Inner { service, cloud, location, .. } = &*self.0;
        let (service, cloud, location) = (service.clone(), cloud.clone(), location.clone());
        Self(Arc::new(Inner { service, cloud, subscription: subscription.into(), location }))
    }

    /// The subscription's ID.
    pub fn subscription(&self) -> &str {
        &self.0.subscription
    }

    /// Where things are made.
    pub fn location(&self) -> &str {
        &self.0.location
    }

    /// Azure's cloud.
    pub fn cloud(&self) -> &Cloud {
        &self.0.cloud
    }

    /// Who calls.
    pub fn credentials(&self) -> &Credentials {
        self.0.service.access()
    }

    /// The address of something below the Resource Manager's root.
    fn at(&self, path: &str, version: &str) -> Url {
        let mut url = self.0.cloud.manager.clone();
        url.set_path(&format!("{}{}", url.path(), path.trim_start_matches('/')));
        url.query_pairs_mut().append_pair("api-version", version);
        url
    }

    /// The address of something in the subscription.
    fn in_subscription(&self, kind: Kind, below: &[&str]) -> Url {
        self.at(&path(&self.0.subscription, None, kind, below), kind.version)
    }

    /// The address of something in a resource group.
    fn in_group(&self, group: &str, kind: Kind, below: &[&str]) -> Url {
        self.at(&path(&self.0.subscription, Some(group), kind, below), kind.version)
    }

    /// The ID of something in a resource group.
    fn id(&self, group: &str, kind: Kind, name: &str) -> String {
        path(&self.0.subscription, Some(group), kind, &[name])
    }

    /// Reads something; `None`: there is no such thing.
    async fn find<T: DeserializeOwned>(&self, call: String, url: Url) -> Result<Option<T>> {
        found(self.0.service.get(call, url).read().await)
    }

    /// Reads all pages of a listing.
    async fn list<T: DeserializeOwned>(&self, call: &'static str, url: Url) -> Result<Vec<T>> {
        let next =
            |page: &Page<T>, _: &Url| page.next_link.as_deref().filter(|l| !l.is_empty())?.parse().ok();
        let pages = self.0.service.pages(call, url, next).await?;
        Ok(pages.into_iter().flat_map(|page| page.value).collect())
    }
}

/// A page of a listing.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page<T> {
    value: Vec<T>,
    next_link: Option<String>,
}

/// The path of something, which is its ID, too.
fn path(subscription: &str, group: Option<&str>, kind: Kind, below: &[&str]) -> String {
    let mut path = format!("/subscriptions/{}", encode(subscription));
    if let Some(group) = group {
        path += &format!("/resourceGroups/{}", encode(group));
    }
    if !kind.path.is_empty() {
        path += &format!("/providers/{}", kind.path);
    }
    for part in below {
        path += &format!("/{}", encode(part));
    }
    path
}

/// `None` in place of the refusal that there is no such thing.
fn found<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Err(e) if e.is_not_found() => Ok(None),
        other => other.map(Some),
    }
}

/// Reads null as what is there where nothing is said.
fn or_default<'de, D: serde::Deserializer<'de>, T: serde::Deserialize<'de> + Default>(
    deserializer: D,
) -> std::result::Result<T, D::Error> {
    <Option<T> as serde::Deserialize>::deserialize(deserializer).map(Option::unwrap_or_default)
}
