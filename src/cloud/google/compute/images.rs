//! Images.

use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Compute, Operation, Result, found, next};
use crate::http::{CallError, Repeat};

/// The role of those who may use an image.
const USER: &str = "roles/compute.imageUser";
/// All who have an account at Google.
const EVERYBODY: &str = "allAuthenticatedUsers";

fn lets_everybody_in(policy: &Value) -> bool {
    let is_there = |b: &Value| {
        let members = b["members"].as_array();
        b["role"] == USER && members.is_some_and(|m| m.iter().any(|m| m == EVERYBODY))
    };
    policy["bindings"].as_array().is_some_and(|bindings| bindings.iter().any(is_there))
}

/// An image.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// Its name.
    pub name: String,
    /// Its address.
    #[serde(default)]
    pub self_link: String,
    /// State, such as `READY`.
    #[serde(default)]
    pub status: String,
    /// The family whose newest image it is, unless a newer one is.
    pub family: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// When it was made, as the service writes it.
    pub creation_timestamp: Option<String>,
    /// Whether it should be used.
    pub deprecated: Option<Deprecation>,
    /// The version of the labels, which changes of them have to name.
    pub label_fingerprint: Option<String>,
}

/// Whether an image should be used.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Deprecation {
    /// How far it is on its way out.
    pub state: Option<Milestone>,
    /// The address of the image to use in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replacement: Option<String>,
}

/// How far an image is on its way out.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "UPPERCASE")]
#[clap(rename_all = "UPPER")]
pub enum Milestone {
    /// Not at all.
    Active,
    /// It can be used, with a warning.
    Deprecated,
    /// It cannot be used for new machines.
    Obsolete,
    /// It cannot be used.
    Deleted,
}

/// The order of an image.
#[derive(Clone, Debug, Default)]
pub struct NewImage<'a> {
    /// Its name.
    pub name: &'a str,
    /// The address of a tar archive, compressed with gzip, with `disk.raw` in it.
    pub source: &'a str,
    /// The family that it becomes the newest image of.
    pub family: Option<&'a str>,
    /// For people.
    pub description: Option<&'a str>,
    /// Addresses of licenses.
    pub licenses: &'a [String],
    /// What guests can do, such as `VIRTIO_SCSI_MULTIQUEUE`.
    pub features: &'a [String],
    /// `X86_64` or `ARM64`.
    pub architecture: Option<&'a str>,
}

impl Compute {
    /// Orders an image. A name is free or not: an order that is repeated does nothing twice.
    ///
    /// # Errors
    /// Any [`CallError`]; [`crate::http::Class::Conflict`] if the name is taken.
    pub async fn insert_image(&self, new: &NewImage<'_>, request: &str) -> Result<Operation> {
        let mut url = self.url(&["global", "images"]);
        url.query_pairs_mut().append_pair("requestId", request);
        let features: Vec<_> = new.features.iter().map(|f| json!({"type": f})).collect();
        let mut body = json!({
            "name": new.name,
            "guestOsFeatures": features,
            "rawDisk": {"source": new.source},
        });
        let optional =
            [("family", new.family), ("description", new.description), ("architecture", new.architecture)];
        for (key, value) in optional {
            if let Some(value) = value {
                body[key] = value.into();
            }
        }
        if !new.licenses.is_empty() {
            body["licenses"] = new.licenses.into();
        }
        let call = format!("compute.images.insert {}", new.name);
        self.0.service.post(call, url).json(&body).repeat(Repeat::Freely).read().await
    }

    /// Removes an image; `None`: it is gone.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn delete_image(&self, name: &str) -> Result<Option<Operation>> {
        let url = self.url(&["global", "images", name]);
        found(self.0.service.delete(format!("compute.images.delete {name}"), url).read().await)
    }

    /// The image with this name; `None`: there is none.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn image(&self, name: &str) -> Result<Option<Image>> {
        found(self.image_at(self.url(&["global", "images", name]).as_str()).await)
    }

    /// The image at an address of [`Compute::image_url`]: the newest one, where that is of a family.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn image_at(&self, url: &str) -> Result<Image> {
        let short = url.strip_prefix(self.0.base.as_str()).unwrap_or(url);
        let parsed: Url = url.parse().map_err(|_| CallError::setup(format!("{url:?} is no address")))?;
        if parsed.origin() != self.0.base.origin() {
            return Err(CallError::setup(format!("{url} is not at {}", self.0.base)));
        }
        self.0.service.get(format!("compute.images.get {short}"), parsed).read().await
    }

    /// The project's images that fit a filter of the API's.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn images(&self, filter: Option<&str>) -> Result<Vec<Image>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Page {
            items: Option<Vec<Image>>,
            next_page_token: Option<String>,
        }
        let mut url = self.url(&["global", "images"]);
        if let Some(filter) = filter {
            url.query_pairs_mut().append_pair("filter", filter);
        }
        let pages = self.0.service.pages("compute.images.list", url, |page: &Page, url: &Url| {
            next(page.next_page_token.as_deref(), url)
        });
        Ok(pages.await?.into_iter().filter_map(|p| p.items).flatten().collect())
    }

    /// Says whether an image should be used.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn deprecate_image(&self, name: &str, status: &Deprecation) -> Result<Operation> {
        let url = self.url(&["global", "images", name, "deprecate"]);
        let call = format!("compute.images.deprecate {name}");
        self.0.service.post(call, url).json(status).repeat(Repeat::Freely).read().await
    }

    /// Changes fields of an image.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn patch_image(&self, name: &str, fields: &Value) -> Result<Operation> {
        let url = self.url(&["global", "images", name]);
        let call = format!("compute.images.patch {name}");
        let call = self.0.service.call(call, reqwest::Method::PATCH, url);
        call.json(fields).repeat(Repeat::Freely).read().await
    }

    /// Whether everybody with an account at Google may use an image.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn is_public(&self, name: &str) -> Result<bool> {
        self.policy(name).await.map(|policy| lets_everybody_in(&policy))
    }

    async fn policy(&self, name: &str) -> Result<Value> {
        let url = self.url(&["global", "images", name, "getIamPolicy"]);
        self.0.service.get(format!("compute.images.getIamPolicy {name}"), url).read().await
    }

    /// Lets everybody with an account at Google use an image. Those who may use it already still may.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn publish_image(&self, name: &str) -> Result<()> {
        let mut policy = self.policy(name).await?;
        if lets_everybody_in(&policy) {
            return Ok(());
        }
        let mut bindings = policy["bindings"].as_array_mut().map(std::mem::take).unwrap_or_default();
        bindings.push(json!({"role": USER, "members": [EVERYBODY]}));
        policy["bindings"] = bindings.into();
        let url = self.url(&["global", "images", name, "setIamPolicy"]);
        let call = format!("compute.images.setIamPolicy {name}");
        // The policy carries the version that was read: nobody else's change is overwritten.
        let set = self.0.service.post(call, url).json(&json!({"policy": policy})).repeat(Repeat::Freely);
        set.read::<Value>().await.map(drop)
    }

    /// The address of a license of the project, by its name; addresses and paths stay as they are.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn license(&self, name: &str) -> Result<Option<String>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct License {
            self_link: String,
        }
        if name.contains('/') {
            return Ok(Some(name.to_owned()));
        }
        let url = self.url(&["global", "licenses", name]);
        let license = self.0.service.get(format!("compute.licenses.get {name}"), url).read::<License>().await;
        found(license.map(|l| l.self_link))
    }
}
