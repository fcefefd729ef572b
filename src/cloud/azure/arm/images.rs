//! Images: managed ones, those of galleries, and those that others publish.

use reqwest::Url;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Arm, GALLERY, IMAGE, PUBLISHED, Reference, Result, Unfinished};
use crate::poll;

/// How a machine boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Generation {
    /// By a BIOS.
    #[value(name = "V1", alias = "v1")]
    V1,
    /// By UEFI.
    #[value(name = "V2", alias = "v2")]
    V2,
}

impl Generation {
    fn name(self) -> &'static str {
        match self {
            Self::V1 => "V1",
            Self::V2 => "V2",
        }
    }
}

/// A managed image to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewImage<'a> {
    /// Its name.
    pub name: &'a str,
    /// The address of its disk: a page blob.
    pub blob: &'a str,
    /// How it boots; none: as Azure takes it, by a BIOS.
    pub generation: Option<Generation>,
}

/// An image that was made.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Image {
    /// Its ID.
    pub id: String,
    /// Where it is.
    pub location: String,
}

/// A definition in a gallery: what its versions have in common.
#[derive(Clone, Copy, Debug)]
pub struct Definition<'a> {
    /// The gallery.
    pub gallery: &'a str,
    /// Its name there.
    pub name: &'a str,
    /// How its versions boot.
    pub generation: Generation,
    /// `x64` or `Arm64`.
    pub architecture: &'a str,
}

/// Something with a name.
#[derive(Deserialize)]
struct Named {
    name: String,
}

impl Arm {
    /// Makes something whose ID matters.
    async fn made(
        &self,
        what: &str,
        url: Url,
        body: &Value,
        cancel: &CancellationToken,
    ) -> Result<Image, Unfinished> {
        self.make(what, url.clone(), body, cancel).await?;
        self.0.service.get(format!("look at {what}"), url).read().await.map_err(poll::Error::Failed)
    }

    /// Makes a managed image and waits until it is there.
    ///
    /// # Errors
    /// Any [`Unfinished`].
    pub async fn make_image(
        &self,
        group: &str,
        new: &NewImage<'_>,
        cancel: &CancellationToken,
    ) -> Result<Image, Unfinished> {
        let disk = json!({"osType": "Linux", "osState": "Generalized", "blobUri": new.blob});
        let mut properties = json!({"storageProfile": {"osDisk": disk}});
        if let Some(generation) = new.generation {
            properties["hyperVGeneration"] = generation.name().into();
        }
        let what = format!("image {}", new.name);
        let url = self.in_group(group, IMAGE, &[new.name]);
        self.made(&what, url, &self.resource(properties), cancel).await
    }

    /// Removes a managed image; whether it was there.
    ///
    /// # Errors
    /// Any [`Unfinished`].
    pub async fn remove_image(
        &self,
        group: &str,
        name: &str,
        cancel: &CancellationToken,
    ) -> Result<bool, Unfinished> {
        self.remove(&format!("image {name}"), self.in_group(group, IMAGE, &[name]), cancel).await
    }

    /// Makes a version of a definition in a gallery, and both of these where they are missing; `source` is the ID of a
    /// managed image or of another version.
    ///
    /// # Errors
    /// Any [`Unfinished`].
    pub async fn make_version(
        &self,
        group: &str,
        of: &Definition<'_>,
        version: &str,
        source: &str,
        cancel: &CancellationToken,
    ) -> Result<Image, Unfinished> {
        let Definition { gallery, name, generation, architecture } = *of;
        let look = |e| poll::Error::Failed(e);
        let at = self.in_group(group, GALLERY, &[gallery]);
        if self.find::<Value>(format!("look at gallery {gallery}"), at.clone()).await.map_err(look)?.is_none()
        {
            self.make(&format!("gallery {gallery}"), at, &self.resource(json!({})), cancel).await?;
        }
        let at = self.in_group(group, GALLERY, &[gallery, "images", name]);
        let what = format!("definition {name} in gallery {gallery}");
        if self.find::<Value>(format!("look at {what}"), at.clone()).await.map_err(look)?.is_none() {
            let body = self.resource(json!({
                "osType": "Linux", "osState": "Generalized",
                "hyperVGeneration": generation.name(), "architecture": architecture,
                "identifier": {"publisher": "mantle", "offer": gallery, "sku": name},
                "features": [{"name": "DiskControllerTypes", "value": "SCSI, NVMe"}],
            }));
            self.make(&what, at, &body, cancel).await?;
        }
        let body = self.resource(json!({
            "storageProfile": {"source": {"id": source}},
            "publishingProfile": {"targetRegions": [{"name": self.location(), "regionalReplicaCount": 1}]},
        }));
        let what = format!("version {version} of {name} in gallery {gallery}");
        let at = self.in_group(group, GALLERY, &[gallery, "images", name, "versions", version]);
        self.made(&what, at, &body, cancel).await
    }

    /// Removes a definition from a gallery with all its versions; whether it was there.
    ///
    /// # Errors
    /// Any [`Unfinished`].
    pub async fn remove_definition(
        &self,
        group: &str,
        gallery: &str,
        name: &str,
        cancel: &CancellationToken,
    ) -> Result<bool, Unfinished> {
        let at = self.in_group(group, GALLERY, &[gallery, "images", name, "versions"]);
        let listed = super::found(self.list::<Named>("list of versions", at).await);
        let Some(versions) = listed.map_err(poll::Error::Failed)? else { return Ok(false) };
        for version in versions {
            let at = self.in_group(group, GALLERY, &[gallery, "images", name, "versions", &version.name]);
            self.remove(&format!("version {} of {name} in gallery {gallery}", version.name), at, cancel)
                .await?;
        }
        let at = self.in_group(group, GALLERY, &[gallery, "images", name]);
        self.remove(&format!("definition {name} in gallery {gallery}"), at, cancel).await
    }

    /// Whether machines can be made of an image here, as far as that can be looked at: images of others' galleries
    /// cannot.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`]; that there is no such image is one.
    pub async fn check_image(&self, image: &Reference) -> Result<()> {
        let (what, url) = match image {
            Reference::Id(id) if !id.starts_with("/subscriptions/") => return Ok(()),
            Reference::Id(id) => {
                let kind = if id.contains("/galleries/") { GALLERY } else { IMAGE };
                (format!("look at image {id}"), self.at(id, kind.version))
            }
            Reference::Published { publisher, offer, sku, version } => {
                // All versions: the newest one has no name of its own.
                let version = if version == "latest" { "" } else { version };
                let place = self.location();
                let below = [
                    place,
                    "publishers",
                    publisher,
                    "artifacttypes",
                    "vmimage",
                    "offers",
                    offer,
                    "skus",
                    sku,
                    "versions",
                    version,
                ];
                let below = below.strip_suffix(&[""]).unwrap_or(&below);
                let what = format!("look at image {publisher}:{offer}:{sku}:{version} in {place}");
                (what, self.in_subscription(PUBLISHED, below))
            }
        };
        self.0.service.get(what, url).read::<serde::de::IgnoredAny>().await.map(drop)
    }
}
