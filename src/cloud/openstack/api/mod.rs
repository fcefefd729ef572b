//! The services, with plain types: one project in one region.
//!
//! Images are Glance's, networks and floating IPs Neutron's: what Nova once answered in their place is never asked.

mod compute;
mod images;
mod network;

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderName;
use reqwest::{Method, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

pub use self::compute::{BootVolume, Flavor, KeyPair, NewServer, Server};
pub use self::images::{Image, NewImage};
pub use self::network::{FloatingIp, Group, NewRule};
use super::login::{Entry, Grant, Login};
use super::sources::{self, Environment};
use super::{Account, Error, refusal};
use crate::http::{Call, CallError, Calls, Client, Limits, Retry, Service, Setup};
use crate::poll;
use crate::text::percent::encode;

/// Result of calls.
pub type Result<T, E = CallError> = std::result::Result<T, E>;

/// Calls under way at once.
const PLACES: usize = 64;

/// Uploads under way at once.
const UPLOADS: usize = 4;

/// Items of a page; services may have lower limits.
const PAGE: usize = 1000;

/// The newest microversion of Nova that is understood here: the first with types of volumes.
const MICROVERSION: (u32, u32) = (2, 67);

const NOVA_VERSION: HeaderName = HeaderName::from_static("x-openstack-nova-api-version");
const VERSION: HeaderName = HeaderName::from_static("openstack-api-version");

/// A service that mantle uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Compute,
    Image,
    Network,
}

impl Kind {
    /// Type in the catalogue, usual name, and what its address ends with where it names no version.
    fn facts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Compute => ("compute", "nova", "v2.1"),
            Self::Image => ("image", "glance", "v2"),
            Self::Network => ("network", "neutron", "v2.0"),
        }
    }
}

/// OpenStack for one project and region. Clones share connections, token and places.
#[derive(Clone, Debug)]
pub struct Api(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    service: Service<Login>,
    region: Option<String>,
    place: String,
    grant: Arc<Grant>,
    microversion: Arc<OnceCell<Option<(u32, u32)>>>,
}

impl Api {
    /// Finds credentials and gets a token with its catalogue.
    ///
    /// # Errors
    /// When there are no credentials, or Keystone refuses them.
    pub async fn new(account: &Account) -> Result<Self> {
        let no_credentials = |e: Error| CallError::Credentials { of: "OpenStack", source: e.into() };
        let account = account.clone();
        let read = move || {
            let source = sources::find(&account, &Environment::of_process())?;
            let roots = source.roots.as_deref().map(|path| {
                crate::input::read(path).map_err(|source| Error::Read { path: path.into(), source })
            });
            Ok::<_, Error>((roots.transpose()?, source))
        };
        let read = tokio::task::spawn_blocking(read).await;
        let read = read.map_err(|e| CallError::setup(format!("the credentials cannot be read: {e}")))?;
        let (roots, source) = read.map_err(no_credentials)?;
        let retry = Retry { tries: 6, ..Retry::from_environment() };
        let setup = Setup { redirects: false, roots, ..Setup::default() };
        let http = Client::with(Limits::of_service(poll::scale()), retry.clone(), &setup)
            .map_err(|e| CallError::Credentials { of: "OpenStack", source: e.into() })?;
        let region = source.region.clone();
        let login = Login::new(source, http.clone(), retry.clone());
        let service =
            Service::new(http, Calls::new("openstack", retry, PLACES, UPLOADS), login, refusal::read);
        let grant = service.access().grant().await?;
        Ok(Self::with(service, region, grant))
    }

    fn with(service: Service<Login>, region: Option<String>, grant: Arc<Grant>) -> Self {
        let place = format!("{}/{}", grant.project_id, region.as_deref().unwrap_or_default());
        Self(Arc::new(Inner { service, region, place, grant, microversion: Arc::default() }))
    }

    /// The same project in another region.
    #[must_use]
    pub fn in_region(&self, region: &str) -> Self {
        let region = Some(region.to_owned()).filter(|r| !r.is_empty());
        Self::with(self.0.service.clone(), region, self.0.grant.clone())
    }

    /// Project and region, with a slash between them.
    pub fn place(&self) -> &str {
        &self.0.place
    }

    /// The region; none: the cloud has only one.
    pub fn region(&self) -> Option<&str> {
        self.0.region.as_deref()
    }

    /// Who calls.
    pub fn login(&self) -> &Login {
        self.0.service.access()
    }

    /// What Keystone said of the project and the user.
    pub fn grant(&self) -> &Grant {
        &self.0.grant
    }

    /// The address of something that a service has.
    fn url(&self, kind: Kind, path: &[&str], query: &[(&str, &str)]) -> Result<Url> {
        let source = self.login().source();
        let (name, ..) = kind.facts();
        let root = match source.endpoints.get(name) {
            Some(url) => url,
            None => find(&self.0.grant.catalogue, kind, &source.interface, self.region())?,
        };
        let mut url = versioned(root, kind)?;
        let path: Vec<String> = path.iter().map(|p| encode(p)).collect();
        url.set_path(&format!("{}{}", url.path(), path.join("/")));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    fn call(&self, name: impl Into<String>, method: Method, url: Url) -> Call<'_, Login> {
        self.0.service.call(name.into(), method, url)
    }

    /// A call to Nova, in its newest microversion that is understood here.
    async fn nova(
        &self,
        name: impl Into<String>,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Call<'_, Login>> {
        let url = self.url(Kind::Compute, path, query)?;
        let call = self.call(name, method, url);
        Ok(match self.microversion().await? {
            Some((major, minor)) => {
                let version = format!("{major}.{minor}");
                call.header(VERSION, format!("compute {version}")).header(NOVA_VERSION, version)
            }
            None => call,
        })
    }

    /// The microversion of Nova that is spoken; `None`: it has none.
    pub async fn microversion(&self) -> Result<Option<(u32, u32)>> {
        #[derive(Deserialize)]
        struct Document {
            version: Known,
        }
        #[derive(Deserialize)]
        struct Known {
            #[serde(default)]
            version: String,
            #[serde(default)]
            min_version: String,
        }
        let ask = || async {
            // The document is at the version's root: what follows it is the project.
            let mut url = self.url(Kind::Compute, &[], &[])?;
            let root = root_of_version(url.path());
            url.set_path(&root);
            match self.call("compute versions", Method::GET, url).read::<Document>().await {
                Ok(Document { version: known }) => Ok(negotiate(&known.min_version, &known.version)),
                // Behind some gateways there is no such page. What every Nova understands goes without it.
                Err(e @ (CallError::Answer { .. } | CallError::Refused { .. }))
                    if !crate::http::Transient::is_transient(&e) =>
                {
                    crate::debug!("openstack", "no microversions: {e}");
                    Ok(None)
                }
                Err(e) => Err(e),
            }
        };
        self.0.microversion.get_or_try_init(ask).await.copied()
    }

    /// All items of a listing of Nova's or Neutron's: `{"things": […], "things_links": [{"rel": "next", …}]}`.
    async fn list<T: DeserializeOwned>(
        &self,
        kind: Kind,
        path: &[&str],
        query: &[(&str, &str)],
        key: &str,
    ) -> Result<Vec<T>> {
        let limit = PAGE.to_string();
        let mut query = query.to_vec();
        query.push(("limit", &limit));
        let name = format!("{} {}", kind.facts().0, path.join("/"));
        let mut url = self.url(kind, path, &query)?;
        let (mut all, mut seen) = (Vec::new(), std::collections::HashSet::new());
        loop {
            if !seen.insert(url.clone()) {
                return Err(CallError::answer(name, "the same page again"));
            }
            let call = match kind {
                Kind::Compute => {
                    let own: Vec<(String, String)> = url.query_pairs().into_owned().collect();
                    let own: Vec<(&str, &str)> = own.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                    self.nova(name.clone(), Method::GET, path, &own).await?
                }
                _ => self.call(name.clone(), Method::GET, url.clone()),
            };
            let mut page: serde_json::Map<String, serde_json::Value> = call.limit(64 << 20).read().await?;
            let Some(serde_json::Value::Array(items)) = page.remove(key) else {
                return Err(CallError::answer(name, format!("there are no {key}")));
            };
            for item in items {
                all.push(
                    serde_json::from_value(item)
                        .map_err(|e| CallError::answer(name.clone(), crate::text::json_mistake(&e)))?,
                );
            }
            let links =
                page.get(&format!("{key}_links")).and_then(|l| l.as_array().cloned()).unwrap_or_default();
            let next = links.iter().find(|l| l["rel"] == "next").and_then(|l| l["href"].as_str());
            // Glance names its next page by itself.
            match next.or_else(|| page.get("next").and_then(|n| n.as_str())) {
                Some(next) => url = next_page(&url, next),
                None => return Ok(all),
            }
        }
    }
}

/// The next page at the address that answered: services behind a proxy write addresses that lead elsewhere.
fn next_page(url: &Url, next: &str) -> Url {
    let query = next.split_once('?').map(|(_, query)| query);
    let mut url = url.clone();
    url.set_query(query);
    url
}

/// How often something is ordered whose orders seem to be lost.
const ORDERS: u32 = 3;

/// When to order again, for [`crate::cloud::once::Once::make`].
pub fn again(error: &CallError, tries: u32) -> Option<Duration> {
    (error.is_doubtful() && tries < ORDERS).then_some(Duration::ZERO)
}

/// `None` in place of the refusal that there is no such thing.
fn found<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Err(e) if e.is_not_found() => Ok(None),
        other => other.map(Some),
    }
}

/// Whether this is an id, as Glance, Nova and Neutron make them.
fn is_id(text: &str) -> bool {
    uuid::Uuid::try_parse(text).is_ok()
}

/// The one of several things that a name means.
fn only<T>(what: &str, name: &str, mut found: Vec<T>, id: impl Fn(&T) -> &str) -> Result<Option<T>> {
    if found.len() > 1 {
        let mut ids: Vec<&str> = found.iter().map(id).collect();
        ids.sort_unstable();
        let text =
            format!("{} {what}s are called {name:?}; name one by its id: {}", ids.len(), ids.join(", "));
        return Err(CallError::setup(text));
    }
    Ok(found.pop())
}

/// The address of a service in the catalogue.
fn find<'a>(catalogue: &'a [Entry], kind: Kind, interface: &str, region: Option<&str>) -> Result<&'a str> {
    let (kind, usual, _) = kind.facts();
    let lacking = |what: String| CallError::setup(format!("the catalogue of services has no {what}"));
    let mut entries: Vec<&Entry> = catalogue.iter().filter(|e| e.kind == kind).collect();
    // Stable: those of the usual name first.
    entries.sort_by_key(|e| e.name != usual);
    if entries.is_empty() {
        return Err(lacking(format!("service of type {kind}")));
    }
    let all: Vec<_> = entries.iter().flat_map(|e| e.endpoints.iter().map(move |p| (*e, p))).collect();
    let open: Vec<_> = all.iter().filter(|(_, p)| p.interface == interface).collect();
    let mut regions: Vec<&str> = open.iter().map(|(_, p)| p.region.as_str()).collect();
    regions.sort_unstable();
    regions.dedup();
    let fitting = |p: &&&(&Entry, &'a super::login::Endpoint)| region.is_none_or(|r| p.1.region == r);
    match open.iter().find(fitting) {
        Some(_) if region.is_none() && regions.len() > 1 => Err(CallError::setup(format!(
            "service {kind} is in several regions ({}): choose one",
            regions.join(", ")
        ))),
        Some((_, endpoint)) => Ok(&endpoint.url),
        None if open.is_empty() => Err(lacking(format!("{interface} endpoint of {kind}"))),
        None => {
            let region = region.unwrap_or_default();
            Err(lacking(format!("endpoint of {kind} in region {region:?}; there are {}", regions.join(", "))))
        }
    }
}

/// The root of a service with its version, and a slash at the end.
fn versioned(root: &str, kind: Kind) -> Result<Url> {
    let (name, _, version) = kind.facts();
    let wrong = || CallError::setup(format!("{root:?} is no address of the {name} service"));
    let mut url: Url = root.parse().map_err(|_| wrong())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong());
    }
    url.set_query(None);
    let path = url.path().trim_end_matches('/').to_owned();
    let path =
        if path.split('/').any(is_version) { format!("{path}/") } else { format!("{path}/{version}/") };
    url.set_path(&path);
    Ok(url)
}

fn is_version(segment: &str) -> bool {
    segment.strip_prefix('v').is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit()))
}

/// A path as far as its version, and a slash.
fn root_of_version(path: &str) -> String {
    let mut segments = path.split('/').collect::<Vec<_>>();
    if let Some(at) = segments.iter().position(|s| is_version(s)) {
        segments.truncate(at + 1);
    }
    format!("{}/", segments.join("/").trim_end_matches('/'))
}

/// The newest version that both understand.
fn negotiate(oldest: &str, newest: &str) -> Option<(u32, u32)> {
    let parse = |text: &str| -> Option<(u32, u32)> {
        let (major, minor) = text.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let newest = parse(newest)?;
    let chosen = newest.min(MICROVERSION);
    (parse(oldest).is_none_or(|oldest| oldest <= chosen)).then_some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::openstack::login::Endpoint;

    fn endpoint(interface: &str, region: &str, url: &str) -> Endpoint {
        Endpoint { interface: interface.into(), region: region.into(), url: url.into() }
    }

    #[test]
    fn services_are_found_by_type_interface_and_region() {
        let entry = |kind: &str, name: &str, endpoints: Vec<Endpoint>| Entry {
            kind: kind.into(),
            name: name.into(),
            endpoints,
        };
        let catalogue = [
            entry("compute", "rented", vec![endpoint("public", "R1", "u0")]),
            entry(
                "compute",
                "nova",
                vec![
                    endpoint("public", "R1", "u1"),
                    endpoint("internal", "R1", "u2"),
                    endpoint("public", "R2", "u3"),
                ],
            ),
            entry("image", "anything", vec![endpoint("public", "R1", "u4")]),
            entry("network", "neutron", vec![endpoint("admin", "R1", "u5")]),
        ];
        let of = |kind, interface: &str, region| {
            find(&catalogue, kind, interface, region).map_err(|e| e.to_string())
        };
        assert_eq!(of(Kind::Compute, "public", Some("R1")), Ok("u1"));
        assert_eq!(of(Kind::Compute, "internal", None), Ok("u2"));
        assert_eq!(of(Kind::Compute, "public", Some("R2")), Ok("u3"));
        assert_eq!(of(Kind::Image, "public", None), Ok("u4"));
        for (error, said) in [
            (of(Kind::Compute, "public", None), "service compute is in several regions (R1, R2): choose one"),
            (
                of(Kind::Compute, "public", Some("R3")),
                "the catalogue of services has no endpoint of compute in region \"R3\"; there are R1, R2",
            ),
            (
                of(Kind::Network, "public", None),
                "the catalogue of services has no public endpoint of network",
            ),
        ] {
            assert_eq!(error.unwrap_err(), said);
        }
        let none = find(&[], Kind::Image, "public", None).unwrap_err().to_string();
        assert_eq!(none, "the catalogue of services has no service of type image");
    }

    #[test]
    fn addresses_have_versions() {
        for (root, kind, is) in [
            ("http://h:8774/v2.1", Kind::Compute, "http://h:8774/v2.1/"),
            ("http://h/compute/v2/abc/", Kind::Compute, "http://h/compute/v2/abc/"),
            ("http://h:9292", Kind::Image, "http://h:9292/v2/"),
            ("https://h/image/", Kind::Image, "https://h/image/v2/"),
            ("http://h:9696/?x=1", Kind::Network, "http://h:9696/v2.0/"),
        ] {
            assert_eq!(versioned(root, kind).unwrap().as_str(), is);
        }
        for bad in ["", "h", "ftp://h/"] {
            assert!(versioned(bad, Kind::Image).is_err(), "{bad}");
        }
        assert_eq!(root_of_version("/compute/v2.1/abc/"), "/compute/v2.1/");
        assert_eq!(root_of_version("/v2.1/"), "/v2.1/");
    }

    #[test]
    fn microversions_are_those_that_both_know() {
        assert_eq!(negotiate("2.1", "2.93"), Some((2, 67)));
        assert_eq!(negotiate("2.1", "2.42"), Some((2, 42)));
        assert_eq!(negotiate("", "2.1"), Some((2, 1)));
        assert_eq!(negotiate("2.70", "2.99"), None);
        // Version 2, which has none.
        assert_eq!(negotiate("", ""), None);
    }

    #[test]
    fn pages_stay_at_the_server_that_answered() {
        let url: Url = "https://h/v2.1/servers/detail?limit=1000".parse().unwrap();
        let next = next_page(&url, "http://inner:8774/v2.1/servers/detail?limit=1000&marker=a");
        assert_eq!(next.as_str(), "https://h/v2.1/servers/detail?limit=1000&marker=a");
    }
}
