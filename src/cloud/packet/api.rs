//! The API (<https://metal.equinix.com/developers/api/>, as far as it is still there), with plain types.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, Request, Url};
use serde::{Deserialize, Serialize};

use super::{LAUNCH, account};
use crate::http::{
    Access, Authorize, CallError, Calls, Class, Client, Limits, Refusal, Refused, Retry, Service, clean,
};
use crate::poll;
use crate::secret::Secret;
use crate::text::percent::encode;

/// Result of calls.
pub type Result<T, E = CallError> = std::result::Result<T, E>;

/// Devices of a page; the most that the service gives.
const PAGE: usize = 1000;
/// Calls under way at once.
const PLACES: usize = 16;
const TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
const CONSUMER: HeaderName = HeaderName::from_static("x-consumer-token");

/// The key, as requests carry it.
#[derive(Clone, Debug)]
pub(super) struct Key(Secret);

impl Access for Key {
    type Proof = ();

    async fn proof(&self) -> Result<()> {
        Ok(())
    }

    async fn refused(&self, (): &(), _: &CallError) -> Result<bool> {
        Ok(false)
    }
}

impl Authorize for Key {
    fn sign(&self, (): &(), request: &mut Request) -> Result<()> {
        let mut value = HeaderValue::from_str(self.0.expose())
            .map_err(|_| CallError::setup("the Packet API key has characters that no key has"))?;
        value.set_sensitive(true);
        request.headers_mut().insert(TOKEN, value);
        request.headers_mut().insert(CONSUMER, HeaderValue::from_static("github.com/coreos/mantle"));
        Ok(())
    }
}

/// Packet as one project sees it. Clones share connections and places.
#[derive(Clone, Debug)]
pub struct Packet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    service: Service<Key>,
    base: Url,
    project: String,
    origin: String,
}

/// A device.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Device {
    /// Its id.
    pub id: String,
    /// Its name.
    #[serde(default)]
    pub hostname: Option<String>,
    /// `queued`, `provisioning`, `active`, `failed`, ….
    #[serde(default)]
    pub state: Option<String>,
    /// What is marked on it.
    #[serde(default)]
    pub tags: Option<Vec<String>>,
    /// Whether it is protected from deletion.
    #[serde(default)]
    pub locked: Option<bool>,
    /// When it was made, as the service writes it.
    #[serde(default)]
    pub created_at: Option<String>,
    /// Its addresses.
    #[serde(default)]
    pub ip_addresses: Option<Vec<Ip>>,
    /// Where it is.
    #[serde(default)]
    pub facility: Option<Facility>,
}

/// An address.
#[derive(Clone, Debug, Deserialize)]
pub struct Ip {
    /// The address; opaque text.
    #[serde(default)]
    pub address: Option<String>,
    /// 4 or 6.
    #[serde(default)]
    pub address_family: Option<u8>,
    /// Whether it is reached from outside.
    #[serde(default)]
    pub public: Option<bool>,
}

/// A data centre.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Facility {
    /// Its short name.
    #[serde(default)]
    pub code: Option<String>,
}

impl Device {
    /// The first IPv4 address of a kind.
    pub fn ipv4(&self, public: bool) -> Option<&str> {
        let fits = |ip: &&Ip| ip.address_family == Some(4) && ip.public == Some(public);
        self.ip_addresses.as_deref()?.iter().find(fits)?.address.as_deref().filter(|a| !a.is_empty())
    }

    /// Whether it has this tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.as_deref().unwrap_or_default().iter().any(|t| t == tag)
    }

    /// When it was made; none if that cannot be read.
    pub fn created(&self) -> Option<DateTime<Utc>> {
        let text = self.created_at.as_deref()?;
        DateTime::parse_from_rfc3339(text).ok().map(|t| t.to_utc())
    }
}

/// A public key of the account: every device of all its projects gets it.
#[derive(Clone, Debug, Deserialize)]
pub struct SshKey {
    /// Its id.
    pub id: String,
    /// Its name.
    #[serde(default)]
    pub label: Option<String>,
}

/// A device to be made.
#[derive(Clone, Debug, Serialize)]
pub struct NewDevice<'a> {
    /// Its name.
    pub hostname: &'a str,
    /// Kind of machine.
    pub plan: &'a str,
    /// One of these data centres; none where a metro is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub facility: Option<[&'a str; 1]>,
    /// Any data centre of this town.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metro: Option<&'a str>,
    /// `custom_ipxe`.
    pub operating_system: &'a str,
    /// `hourly`.
    pub billing_cycle: &'a str,
    /// The project.
    pub project_id: &'a str,
    /// Not used: the installer fetches its own.
    pub userdata: &'a str,
    /// Marks.
    pub tags: &'a [String],
    /// What it boots.
    pub ipxe_script_url: &'a str,
    /// A reserved machine's UUID, or `next-available`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardware_reservation_id: Option<&'a str>,
    /// Whether it may be taken away by somebody who pays more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub spot_instance: bool,
    /// The most that is paid for it, in dollars an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spot_price_max: Option<f64>,
}

#[derive(Deserialize)]
struct Devices {
    #[serde(default)]
    devices: Option<Vec<Device>>,
    #[serde(default)]
    meta: Option<Meta>,
}

/// Where a page is in its list.
#[derive(Deserialize)]
struct Meta {
    #[serde(default)]
    last_page: Option<usize>,
}

#[derive(Deserialize)]
struct SshKeys {
    #[serde(default)]
    ssh_keys: Option<Vec<SshKey>>,
}

/// A project, as far as it tells that we may see it.
#[derive(Deserialize)]
struct Project {
    #[serde(default)]
    name: Option<String>,
}

impl Packet {
    /// The service as the options say. No request is sent.
    ///
    /// # Errors
    /// When key or project are missing, or the endpoint is no URL.
    pub fn new(account: &super::Account) -> Result<Self> {
        let account::Access { key, project, base, origin } = account.access()?;
        let retry = Retry { tries: 6, ..Retry::from_environment() };
        let http = Client::new(Limits::of_service(poll::scale()), retry.clone());
        let http = http.map_err(|e| CallError::Setup {
            what: "cannot set up the client of Packet".into(),
            source: Some(e.into()),
        })?;
        let calls = Calls::new("packet", retry, PLACES, PLACES);
        let service = Service::new(http, calls, Key(key), read);
        Ok(Self(Arc::new(Inner { service, base, project, origin })))
    }

    /// The project.
    pub fn project(&self) -> &str {
        &self.0.project
    }

    /// Where the key comes from, for people.
    pub fn origin(&self) -> &str {
        &self.0.origin
    }

    /// The same account in another project.
    #[must_use]
    pub fn in_project(&self, project: &str) -> Self {
        let Inner { service, base, origin, .. } = &*self.0;
        let (service, base, origin) = (service.clone(), base.clone(), origin.clone());
        Self(Arc::new(Inner { service, base, project: project.to_owned(), origin }))
    }

    fn url(&self, path: &[&str]) -> Url {
        let path: Vec<String> = path.iter().map(|part| encode(part)).collect();
        let mut url = self.0.base.clone();
        url.set_path(&format!("{}/{}", self.0.base.path().trim_end_matches('/'), path.join("/")));
        url
    }

    /// The name of the project.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn project_name(&self) -> Result<String> {
        let url = self.url(&["projects", self.project()]);
        let project: Project = self.0.service.get("projects.get", url).read().await?;
        Ok(project.name.unwrap_or_default())
    }

    /// The keys of the account.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn keys(&self) -> Result<Vec<SshKey>> {
        let keys: SshKeys = self.0.service.get("ssh-keys.list", self.url(&["ssh-keys"])).read().await?;
        Ok(keys.ssh_keys.unwrap_or_default())
    }

    /// Adds a key; where the answer is lost it is looked for by its label, which is to be unique.
    ///
    /// # Errors
    /// Any [`CallError`]; it may be there all the same unless that is certain.
    pub async fn add_key(&self, label: &str, key: &str) -> Result<()> {
        #[derive(Serialize)]
        struct New<'a> {
            label: &'a str,
            key: &'a str,
        }
        let mut budget = 3;
        loop {
            let call = self.0.service.post("ssh-keys.create", self.url(&["ssh-keys"]));
            let error = match call.json(&New { label, key }).send().await {
                Ok(_) => return Ok(()),
                Err(e) => e,
            };
            budget -= 1;
            if !error.is_doubtful() || budget == 0 {
                return Err(error);
            }
            if self.keys().await?.iter().any(|k| k.label.as_deref() == Some(label)) {
                return Ok(());
            }
        }
    }

    /// Removes a key; that there is none is fine.
    ///
    /// # Errors
    /// Any other [`CallError`].
    pub async fn delete_key(&self, id: &str) -> Result<()> {
        self.delete("ssh-keys.delete", &["ssh-keys", id]).await
    }

    async fn delete(&self, name: &'static str, path: &[&str]) -> Result<()> {
        match self.0.service.call(name, Method::DELETE, self.url(path)).send().await {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }

    /// Orders a device; one try.
    ///
    /// # Errors
    /// Any [`CallError`]; it may be there all the same unless that is certain.
    pub async fn create_device(&self, new: &NewDevice<'_>) -> Result<Device> {
        let url = self.url(&["projects", self.project(), "devices"]);
        self.0.service.post("devices.create", url).json(new).read().await
    }

    /// A device, with its data centre; none if there is no such thing.
    ///
    /// # Errors
    /// Any other [`CallError`].
    pub async fn device(&self, id: &str) -> Result<Option<Device>> {
        let mut url = self.url(&["devices", id]);
        url.query_pairs_mut().append_pair("include", "facility");
        match self.0.service.get(format!("devices.get {id}"), url).read().await {
            Ok(device) => Ok(Some(device)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All devices of the project.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn devices(&self) -> Result<Vec<Device>> {
        let page = |number: usize| {
            let mut url = self.url(&["projects", self.project(), "devices"]);
            url.query_pairs_mut()
                .append_pair("page", &number.to_string())
                .append_pair("per_page", &PAGE.to_string());
            url
        };
        let next = |found: &Devices, at: &Url| {
            let number = at.query_pairs().find(|(name, _)| name == "page")?.1.parse::<usize>().ok()?;
            // The service may give less than was asked for: what it says of the list counts, if it does.
            let more = match found.meta.as_ref().and_then(|m| m.last_page) {
                Some(last) => number < last,
                None => found.devices.as_ref().is_some_and(|d| d.len() >= PAGE),
            };
            more.then(|| page(number + 1))
        };
        let pages = self.0.service.pages("devices.list", page(1), next).await?;
        Ok(pages.into_iter().flat_map(|p| p.devices.unwrap_or_default()).collect())
    }

    /// The devices that an order with this token has made.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn launched(&self, token: &str) -> Result<Vec<Device>> {
        let tag = format!("{LAUNCH}{token}");
        Ok(self.devices().await?.into_iter().filter(|d| d.has_tag(&tag)).collect())
    }

    /// Removes a device; that there is none is fine.
    ///
    /// # Errors
    /// Any other [`CallError`].
    pub async fn delete_device(&self, id: &str) -> Result<()> {
        self.delete("devices.delete", &["devices", id]).await
    }
}

/// Reads a refusal: `{"errors": ["…"]}` or `{"error": "…"}`.
fn read(refused: &Refused<'_>) -> Refusal {
    let json: serde_json::Value = serde_json::from_slice(refused.body).unwrap_or_default();
    let list = json["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let texts: Vec<&str> = list.iter().chain([&json["error"]]).filter_map(|t| t.as_str()).collect();
    if texts.is_empty() {
        return crate::http::read_plain(refused);
    }
    let mut refusal = Refusal { message: clean(&texts.join("; ")), ..refused.plain() };
    let says = |words: &[&str]| {
        let text = texts.join(" ").to_ascii_lowercase();
        words.iter().any(|w| text.contains(w))
    };
    if refusal.status == 422 && says(&["quota", "maximum number", "limit"]) {
        refusal.class = Class::Quota;
    } else if refusal.status == 422 && says(&["capacity", "not available", "no available"]) {
        refusal.class = Class::Capacity;
    }
    refusal
}
