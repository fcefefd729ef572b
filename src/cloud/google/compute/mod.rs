//! Compute Engine (<https://cloud.google.com/compute/docs/reference/rest/v1>): machines and images.
//!
//! What makes or removes something answers with an [`Operation`]; whether it was done is known when that is done.

mod images;
mod instances;
mod operation;

use std::sync::Arc;

use reqwest::Url;

pub use self::images::{Deprecation, Image, Milestone, NewImage};
pub use self::instances::{Instance, Interface, NewInstance};
pub use self::operation::{Operation, Unfinished};
use super::credentials::{Credentials, no_credentials};
use super::sources::{self, Environment};
use super::{Account, Error as NoCredentials, SCOPES, refusal};
use crate::http::{CallError, Calls, Client, Limits, Retry, Service};
use crate::poll;
use crate::text::percent::encode;

/// Result of calls.
pub type Result<T, E = CallError> = std::result::Result<T, E>;

/// The API's root.
const BASE: &str = "https://compute.googleapis.com/compute/v1/";

/// The root that older tools know, in addresses of images and the like.
const OLD_BASE: &str = "https://www.googleapis.com/compute/v1/";

/// The variable that names another root, as gcloud has it.
const ENDPOINT: &str = "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE";

/// The name that stands for all zones.
pub const ALL_ZONES: &str = "-";

/// Calls under way at once: waits for operations are calls, too.
const PLACES: usize = 64;

/// Compute Engine for one project and zone. Clones share connections, credentials and places.
#[derive(Clone, Debug)]
pub struct Compute(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    service: Service<Credentials>,
    base: Url,
    project: String,
    zone: String,
    /// Both.
    place: String,
}

impl Inner {
    fn new(service: Service<Credentials>, base: Url, project: String, zone: String) -> Self {
        let place = format!("{project}/{zone}");
        Self { service, base, project, zone, place }
    }
}

impl Compute {
    /// Finds endpoint and credentials. No request is sent, but where a cached token has to be renewed; a person may be
    /// asked to log in, if `interactive`.
    ///
    /// # Errors
    /// When there are no credentials, or the endpoint is no URL.
    pub async fn new(account: &Account, interactive: bool) -> Result<Self> {
        for (what, name) in [("project", &account.gce_project), ("zone", &account.gce_zone)] {
            if name.is_empty() {
                return Err(CallError::setup(format!("the {what} has no name")));
            }
        }
        let chosen = account.gce_endpoint.clone().filter(|e| !e.is_empty());
        let named = std::env::var(ENDPOINT).ok().filter(|e| !e.is_empty());
        let base = chosen.or(named).unwrap_or_else(|| BASE.into());
        let base = endpoint(&base)
            .ok_or_else(|| CallError::setup(format!("{base:?} is no URL of the Compute Engine API")))?;
        let set_up = |e| no_credentials(NoCredentials::Http(e));
        let retry = Retry { tries: 6, ..Retry::from_environment() };
        let http = Client::new(Limits::of_service(poll::scale()), retry.clone()).map_err(set_up)?;
        let environment = Environment::of_process();
        let found = sources::find(&account.choice(), &environment, SCOPES, &http).await;
        let credentials = match found.map_err(no_credentials)? {
            Some(credentials) => credentials,
            None => {
                let login = match interactive {
                    true => sources::log_in(&environment, SCOPES, &http).await.map_err(no_credentials)?,
                    false => None,
                };
                login.ok_or_else(|| no_credentials(NoCredentials::Missing))?
            }
        };
        let calls = Calls::new("gce", retry, PLACES, PLACES);
        let service = Service::new(http, calls, credentials, refusal::read);
        let (project, zone) = (account.gce_project.clone(), account.gce_zone.clone());
        Ok(Self(Arc::new(Inner::new(service, base, project, zone))))
    }

    /// The same account in another project and zone.
    #[must_use]
    pub fn at(&self, project: &str, zone: &str) -> Self {
        let Inner { service, base, .. } = &*self.0;
        let (service, base) = (service.clone(), base.clone());
        Self(Arc::new(Inner::new(service, base, project.into(), zone.into())))
    }

    /// The project.
    pub fn project(&self) -> &str {
        &self.0.project
    }

    /// The zone.
    pub fn zone(&self) -> &str {
        &self.0.zone
    }

    /// Project and zone, with a slash between them.
    pub fn place(&self) -> &str {
        &self.0.place
    }

    /// Who calls.
    pub fn credentials(&self) -> &Credentials {
        self.0.service.access()
    }

    /// The full address of an image, by what people call it: that address, `projects/…` or the name of one of ours,
    /// `family/NAME` among them.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn image_url(&self, image: &str) -> Result<String> {
        let base = self.0.base.as_str();
        if let Some(rest) = [base, BASE, OLD_BASE].iter().find_map(|known| image.strip_prefix(known)) {
            return Ok(format!("{base}{rest}"));
        }
        if image.contains("://") {
            return Err(no_image(image));
        }
        check_image(image)?;
        Ok(match image.starts_with("projects/") {
            true => format!("{base}{image}"),
            false => format!("{base}projects/{}/global/images/{image}", self.0.project),
        })
    }

    /// The address of something in the project.
    fn url(&self, path: &[&str]) -> Url {
        let mut all = vec!["projects", &self.0.project];
        all.extend(path);
        let path: Vec<String> = all.into_iter().map(encode).collect();
        let mut url = self.0.base.clone();
        url.set_path(&format!("{}{}", self.0.base.path(), path.join("/")));
        url
    }

    /// The address of something in the zone.
    fn in_zone(&self, path: &[&str]) -> Url {
        let mut all = vec!["zones", &self.0.zone];
        all.extend(path);
        self.url(&all)
    }
}

/// Whether this can name an image: an address, `projects/…`, or the name of one of ours or of a family of ours.
///
/// # Errors
/// When it cannot.
pub fn check_image(image: &str) -> Result<()> {
    let short = image.strip_prefix("family/").unwrap_or(image);
    let is_short = !short.is_empty() && !short.contains('/');
    match image.contains("://") || image.starts_with("projects/") || is_short {
        true => Ok(()),
        false => Err(no_image(image)),
    }
}

fn no_image(image: &str) -> CallError {
    CallError::setup(format!(
        "GCE Image argument must be the full api endpoint, begin with 'projects/', or use the short name: {image:?}"
    ))
}

/// `None` in place of the refusal that there is no such thing.
fn found<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Err(e) if e.is_not_found() => Ok(None),
        other => other.map(Some),
    }
}

/// The next page of a listing.
fn next(token: Option<&str>, url: &Url) -> Option<Url> {
    let token = token.filter(|t| !t.is_empty())?;
    let mut next = url.clone();
    let others = url.query_pairs().filter(|(name, _)| name != "pageToken");
    next.query_pairs_mut().clear().extend_pairs(others).append_pair("pageToken", token);
    Some(next)
}

/// The API's root as people give it.
fn endpoint(text: &str) -> Option<Url> {
    let url: Url = format!("{}/", text.trim_end_matches('/')).parse().ok()?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || url.query().is_some() {
        return None;
    }
    match url.path() {
        "/" => url.join("compute/v1/").ok(),
        _ => Some(url),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::google::sources::Choice;

    fn compute(base: &str) -> Compute {
        let http = Client::new(Limits::default(), Retry::default()).unwrap();
        let credentials = Credentials::from_metadata("127.0.0.1:1", SCOPES).unwrap();
        let calls = Calls::new("gce", Retry::default(), 1, 1);
        let service = Service::new(http, calls, credentials, refusal::read);
        Compute(Arc::new(Inner::new(service, endpoint(base).unwrap(), "p".into(), "z".into())))
    }

    #[test]
    fn endpoints_are_roots_or_servers() {
        for (text, root) in [
            ("http://127.0.0.1:1", "http://127.0.0.1:1/compute/v1/"),
            ("http://h/x/compute/v1", "http://h/x/compute/v1/"),
            (BASE, BASE),
        ] {
            assert_eq!(endpoint(text).unwrap().as_str(), root);
        }
        for text in ["", "h:1", "ftp://h/", "http://", "http://h/?x=1"] {
            assert!(endpoint(text).is_none(), "{text}");
        }
    }

    #[test]
    fn images_have_addresses() {
        let compute = compute(BASE);
        let root = "https://compute.googleapis.com/compute/v1/";
        for (given, means) in [
            ("projects/x/global/images/family/f", "projects/x/global/images/family/f"),
            ("img-1", "projects/p/global/images/img-1"),
            ("family/f", "projects/p/global/images/family/f"),
            (
                "https://www.googleapis.com/compute/v1/projects/x/global/images/i",
                "projects/x/global/images/i",
            ),
            (
                "https://compute.googleapis.com/compute/v1/projects/x/global/images/i",
                "projects/x/global/images/i",
            ),
        ] {
            assert_eq!(compute.image_url(given).unwrap(), format!("{root}{means}"), "{given}");
        }
        for bad in
            ["", "x/y", "family/", "family/a/b", "http://elsewhere/compute/v1/projects/x/global/images/i"]
        {
            assert!(compute.image_url(bad).unwrap_err().to_string().contains("GCE Image argument"), "{bad}");
        }
    }

    #[test]
    fn pages_follow_each_other() {
        let url: Url = "http://h/x?filter=a%20b&pageToken=old".parse().unwrap();
        assert_eq!(next(Some("n w"), &url).unwrap().as_str(), "http://h/x?filter=a+b&pageToken=n+w");
        assert!(next(None, &url).is_none() && next(Some(""), &url).is_none());
    }

    #[test]
    fn the_choice_of_credentials_ignores_empty_files() {
        let account = Account {
            gce_project: "p".into(),
            gce_zone: "z".into(),
            gce_service_auth: false,
            gce_json_key: Some("".into()),
            gce_endpoint: None,
        };
        assert!(matches!(account.choice(), Choice { service: false, key: None }));
    }
}
