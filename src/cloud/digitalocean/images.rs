//! Images, and what people call them.

use serde::{Deserialize, Deserializer};
use serde_json::json;

use super::MARK;
use super::api::{Api, Page, Result, found};
use crate::http::CallError;

/// An image.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Image {
    /// Unique at DigitalOcean.
    pub id: u64,
    /// Its name; others may have the same.
    #[serde(default)]
    pub name: String,
    /// `base`, `snapshot`, `backup`, `custom`, …
    #[serde(rename = "type", default)]
    pub kind: String,
    /// State: `NEW`, `pending`, `available`, `deleted`, `retired`; of some images there is none.
    #[serde(default, deserialize_with = "or_default")]
    pub status: String,
    /// Why it could not be fetched.
    #[serde(default, deserialize_with = "or_default")]
    pub error_message: String,
    /// Slugs of the regions that it is in.
    #[serde(default, deserialize_with = "or_default")]
    pub regions: Vec<String>,
}

/// What is null is absent.
fn or_default<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Image {
    /// Whether somebody uploaded it: its droplets can have no address of IPv6.
    pub fn is_custom(&self) -> bool {
        self.kind == "custom"
    }

    /// Whether it is on its way to be usable.
    pub fn is_unfinished(&self) -> bool {
        self.error_message.is_empty()
            && matches!(self.status.to_ascii_lowercase().as_str(), "new" | "pending")
    }
}

/// The order of an image that DigitalOcean fetches.
#[derive(Clone, Copy, Debug)]
pub struct NewImage<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where it is fetched from: a raw disk or one of some formats, perhaps compressed.
    pub url: &'a str,
    /// The region's slug.
    pub region: &'a str,
    /// What it is, as DigitalOcean's pages show it.
    pub distribution: &'a str,
    /// For people; may be empty.
    pub description: &'a str,
}

#[derive(Deserialize)]
struct One {
    image: Image,
}

#[derive(Deserialize)]
struct Many {
    images: Vec<Image>,
}

impl Page for Many {
    type Item = Image;

    fn items(self) -> Vec<Image> {
        self.images
    }
}

/// Why a name stands for no image.
#[derive(Debug, thiserror::Error)]
#[error("couldn't resolve image {named:?} in {region}")]
pub struct Unresolved {
    named: String,
    region: String,
    #[source]
    why: Box<Why>,
}

#[derive(Debug, thiserror::Error)]
enum Why {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("found multiple images named {name:?} in {region}: {}", .ids.join(", "))]
    Many { name: String, region: String, ids: Vec<String> },
    #[error("couldn't find image {0:?} among those of the account")]
    Missing(String),
    #[error("there is no image {0}")]
    NoId(u64),
    #[error("DigitalOcean has no image {0:?} any more: name one of the account's own")]
    Gone(String),
    #[error("it is in {}, not in {region}", .regions.join(", "))]
    Elsewhere { regions: Vec<String>, region: String },
    #[error("it is {0}, not available")]
    Unusable(String),
}

impl Unresolved {
    /// The call that failed, if it is that.
    pub fn call(&self) -> Option<&CallError> {
        match &*self.why {
            Why::Call(e) => Some(e),
            _ => None,
        }
    }
}

impl Api {
    /// The account's own images.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn images(&self) -> Result<Vec<Image>> {
        self.list::<Many>("images.list", &["images"], &[("private", "true")]).await
    }

    /// The account's own images with this name.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn images_named(&self, name: &str) -> Result<Vec<Image>> {
        Ok(self.images().await?.into_iter().filter(|i| i.name == name).collect())
    }

    /// An image by its id or slug; `None`: there is none.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn image(&self, id: &str) -> Result<Option<Image>> {
        let url = self.url(&["images", id]);
        found(self.service().get(format!("images.get {id}"), url).read::<One>().await.map(|one| one.image))
    }

    /// Orders an image. The API makes a second one of the same order.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub(super) async fn create_image(&self, new: &NewImage<'_>) -> Result<Image> {
        let mut body = json!({
            "name": new.name,
            "url": new.url,
            "region": new.region,
            "distribution": new.distribution,
            "tags": [MARK],
        });
        if !new.description.is_empty() {
            body["description"] = new.description.into();
        }
        let call = self.service().post(format!("images.create {}", new.name), self.url(&["images"]));
        call.json(&body).read::<One>().await.map(|one| one.image)
    }

    /// Removes an image; that there is none is fine.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn delete_image(&self, id: u64) -> Result<()> {
        let url = self.url(&["images", &id.to_string()]);
        found(self.service().delete(format!("images.delete {id}"), url).send().await).map(drop)
    }

    /// What people call an image: an id, a channel of Container Linux (nothing is `stable`), or the name of one of the
    /// account's own. It is one that droplets in the region can be made of.
    ///
    /// # Errors
    /// When there is no such image, or more than one, or none in the region.
    pub async fn resolve(&self, named: &str, region: &str) -> Result<Image, Unresolved> {
        let found = self.found(named, region).await;
        found.map_err(|why| Unresolved { named: named.into(), region: region.into(), why: Box::new(why) })
    }

    async fn found(&self, named: &str, region: &str) -> Result<Image, Why> {
        let image = match named {
            "" | "alpha" | "beta" | "stable" => {
                let slug = format!("coreos-{}", if named.is_empty() { "stable" } else { named });
                self.image(&slug).await?.ok_or(Why::Gone(slug))?
            }
            _ => match named.parse::<u64>() {
                Ok(id) => self.image(named).await?.ok_or(Why::NoId(id))?,
                Err(_) => {
                    let all = self.images_named(named).await?;
                    let is_here = |i: &&Image| i.regions.iter().any(|r| r == region);
                    let mut here: Vec<&Image> = all.iter().filter(is_here).collect();
                    match (here.pop(), all.first()) {
                        (Some(image), _) if here.is_empty() => image.clone(),
                        (Some(last), _) => {
                            let ids = here.iter().chain([&last]).map(|i| i.id.to_string()).collect();
                            let (name, region) = (named.to_owned(), region.to_owned());
                            return Err(Why::Many { name, region, ids });
                        }
                        (None, Some(elsewhere)) => elsewhere.clone(),
                        (None, None) => return Err(Why::Missing(named.into())),
                    }
                }
            },
        };
        if !matches!(image.status.as_str(), "" | "available") {
            return Err(Why::Unusable(image.status));
        }
        if !image.regions.iter().any(|r| r == region) {
            let regions = match image.regions.is_empty() {
                true => vec!["no region".to_owned()],
                false => image.regions,
            };
            return Err(Why::Elsewhere { regions, region: region.into() });
        }
        Ok(image)
    }
}
