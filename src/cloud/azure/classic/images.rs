//! Operating system images that publishers have: registered, copied into regions, shared.

use std::sync::atomic::{AtomicBool, Ordering};

use quick_xml::se::to_string;
use reqwest::{Method, StatusCode};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{Classic, NAMESPACE, Unfinished, XML, call};
use crate::http::{CallError, Repeat};
use crate::poll;

/// An image to be registered. The order of the fields is the API's.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename = "OSImage", rename_all = "PascalCase")]
pub struct NewImage {
    /// The API's namespace.
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    /// Whose list of images it stands in.
    category: &'static str,
    /// Its name for people.
    pub label: String,
    /// Address of the page blob that it is made of.
    pub media_link: String,
    /// Its name.
    pub name: String,
    #[serde(rename = "OS")]
    os: &'static str,
    /// What it is, at length.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Of which images it is the newest.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image_family: String,
    /// A day, `2026-11-29`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub published_date: String,
    show_in_gui: bool,
    /// An icon of the portal's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub icon_uri: String,
    /// A size of machines.
    #[serde(rename = "RecommendedVMSize", skip_serializing_if = "String::is_empty")]
    pub recommended_vm_size: String,
    /// A smaller icon.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub small_icon_uri: String,
}

impl NewImage {
    /// A public image of a Linux, of this name and label, from this blob.
    pub fn new(name: String, label: String, media_link: String) -> Self {
        let (xmlns, category, os) = (NAMESPACE, "Public", "Linux");
        Self { xmlns, category, os, name, label, media_link, ..Self::default() }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ReplicationInput<'a> {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    target_locations: TargetLocations<'a>,
    compute_image_attributes: Attributes<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TargetLocations<'a> {
    region: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Attributes<'a> {
    offer: &'a str,
    sku: &'a str,
    version: &'a str,
}

/// Who may use an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Permission {
    /// Everybody.
    Public,
    /// Subscribers of MSDN.
    Msdn,
    /// Its publisher.
    Private,
}

impl Permission {
    /// As the API spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Msdn => "msdn",
            Self::Private => "private",
        }
    }
}

impl Classic {
    /// Whether there is an image of this name.
    ///
    /// # Errors
    /// Those of a call.
    pub async fn has_image(&self, name: &str) -> Result<bool, CallError> {
        let url = self.at(&["services", "images", name]);
        let call = call(&self.service, "Get OS Image", Method::GET, url).accept(StatusCode::NOT_FOUND);
        Ok(call.send().await?.status != StatusCode::NOT_FOUND)
    }

    /// Registers an image, and waits until that is done. One of this name that is there already is a conflict.
    ///
    /// # Errors
    /// Those of a call or of the operation; when the work is cancelled.
    pub async fn add_image(&self, image: &NewImage, cancel: &CancellationToken) -> Result<(), Unfinished> {
        const NAME: &str = "Add OS Image";
        let body = to_string(image).map_err(|e| unwritten(NAME, &e))?;
        let url = self.at(&["services", "images"]);
        let doubt = AtomicBool::new(false);
        // Its name is unique: a second one would be refused.
        let order = call(&self.service, NAME, Method::POST, url).body(XML, body);
        let order = order.repeat(Repeat::Freely).doubt(&doubt).send();
        let answer = cancel.run_until_cancelled(order).await.ok_or(poll::Error::Cancelled)?;
        match answer {
            Ok(answer) => self.wait(NAME, &answer, cancel).await,
            // The one that is there is of our own making, its answer was lost; so is the name of the operation.
            Err(e) if e.is(&["ConflictError"]) && doubt.load(Ordering::Relaxed) => {
                let look = || async {
                    Ok(match self.has_image(&image.name).await? {
                        true => poll::Answer::Ready(()),
                        false => poll::Answer::NotYet("not there yet".into()),
                    })
                };
                super::OPERATION.until(format_args!("image {} there", image.name), cancel, look).await
            }
            Err(e) => Err(poll::Error::Failed(e)),
        }
    }

    /// Copies an image into regions, and waits until that has begun everywhere; others are given up.
    ///
    /// # Errors
    /// As [`Classic::add_image`].
    pub async fn replicate_image(
        &self,
        image: &str,
        (offer, sku, version): (&str, &str, &str),
        regions: &[String],
        cancel: &CancellationToken,
    ) -> Result<(), Unfinished> {
        const NAME: &str = "Replicate OS Image";
        let input = ReplicationInput {
            xmlns: NAMESPACE,
            target_locations: TargetLocations { region: regions },
            compute_image_attributes: Attributes { offer, sku, version },
        };
        let body = to_string(&input).map_err(|e| unwritten(NAME, &e))?;
        let url = self.at(&["services", "images", image, "replicate"]);
        self.order(NAME, url, body, cancel).await
    }

    /// Removes an image from all regions, and waits until that is done.
    ///
    /// # Errors
    /// As [`Classic::add_image`].
    pub async fn unreplicate_image(&self, image: &str, cancel: &CancellationToken) -> Result<(), Unfinished> {
        let url = self.at(&["services", "images", image, "unreplicate"]);
        self.order("Unreplicate OS Image", url, String::new(), cancel).await
    }

    /// Says who may use an image, and waits until that is done.
    ///
    /// # Errors
    /// As [`Classic::add_image`].
    pub async fn share_image(
        &self,
        image: &str,
        permission: Permission,
        cancel: &CancellationToken,
    ) -> Result<(), Unfinished> {
        let mut url = self.at(&["services", "images", image, "share"]);
        url.query_pairs_mut().append_pair("permission", permission.name());
        self.order("Share OS Image", url, String::new(), cancel).await
    }
}

fn unwritten(name: &'static str, error: &quick_xml::SeError) -> Unfinished {
    poll::Error::Failed(CallError::setup(format!("{name} cannot be sent: {error}")))
}
