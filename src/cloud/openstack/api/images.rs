//! Glance: images.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::compute::time;
use super::{Api, Kind, Result, found, is_id, only};
use crate::http::{Class, Repeat, Upload};

/// An image.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Image {
    /// Its id.
    pub id: String,
    /// Its name, which others may have, too.
    #[serde(default)]
    pub name: Option<String>,
    /// State, such as `active`.
    #[serde(default)]
    pub status: String,
    /// Its tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Whether it is protected from deletion.
    #[serde(default)]
    pub protected: Option<bool>,
    /// Who may see it, such as `private`.
    #[serde(default)]
    pub visibility: Option<String>,
    /// Such as `qcow2`.
    #[serde(default)]
    pub disk_format: Option<String>,
    /// When it was made.
    #[serde(default, deserialize_with = "time")]
    pub created_at: Option<DateTime<Utc>>,
    /// Length in bytes; none before the content is there.
    #[serde(default)]
    pub size: Option<u64>,
    /// MD5 of the content, from older versions.
    #[serde(default)]
    pub checksum: Option<String>,
    /// What [`Image::os_hash_value`] was made with, such as `sha512`.
    #[serde(default)]
    pub os_hash_algo: Option<String>,
    /// Hash of the content.
    #[serde(default)]
    pub os_hash_value: Option<String>,
}

/// The order of an image.
#[derive(Clone, Debug)]
pub struct NewImage<'a> {
    /// Its id, a UUID: an order that is repeated with it is the same order.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Such as `qcow2`.
    pub disk_format: &'a str,
    /// Its tags.
    pub tags: &'a [&'a str],
    /// Who may see it, if the service is not to choose.
    pub visibility: Option<&'a str>,
    /// What Nova and people can know of it.
    pub properties: &'a BTreeMap<String, String>,
}

impl Api {
    /// The images with this id or name.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn images_named(&self, named: &str) -> Result<Vec<Image>> {
        if is_id(named)
            && let Some(image) = self.image(named).await?
        {
            return Ok(vec![image]);
        }
        let found: Vec<Image> = self.list(Kind::Image, &["images"], &[("name", named)], "images").await?;
        Ok(found.into_iter().filter(|i| i.name.as_deref() == Some(named)).collect())
    }

    /// The image with this id or name; `None`: there is none.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`]; also if several have this name.
    pub async fn image_named(&self, named: &str) -> Result<Option<Image>> {
        only("image", named, self.images_named(named).await?, |i| &i.id)
    }

    /// The image with this id; `None`: there is none.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn image(&self, id: &str) -> Result<Option<Image>> {
        let url = self.url(Kind::Image, &["images", id], &[])?;
        found(self.call(format!("image images show {id}"), Method::GET, url).read().await)
    }

    /// The images with a tag.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn images_tagged(&self, tag: &str) -> Result<Vec<Image>> {
        self.list(Kind::Image, &["images"], &[("tag", tag)], "images").await
    }

    /// Orders an image, which has no content yet.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn make_image(&self, new: &NewImage<'_>) -> Result<()> {
        let mut body = json!({
            "id": new.id,
            "name": new.name,
            "container_format": "bare",
            "disk_format": new.disk_format,
            "tags": new.tags,
        });
        if let Some(visibility) = new.visibility {
            body["visibility"] = visibility.into();
        }
        for (key, value) in new.properties {
            body[key] = value.as_str().into();
        }
        let url = self.url(Kind::Image, &["images"], &[])?;
        let doubt = AtomicBool::new(false);
        let call = self.call(format!("image images create {}", new.name), Method::POST, url);
        match call.json(&body).repeat(Repeat::Freely).doubt(&doubt).send().await {
            // Ours: nobody else has this id.
            Err(e) if e.class() == Some(Class::Conflict) && doubt.load(Ordering::Relaxed) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Sends the content of an image, once.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn upload(&self, id: &str, content: Upload) -> Result<()> {
        let url = self.url(Kind::Image, &["images", id, "file"], &[])?;
        let call = self.call(format!("image images upload {id}"), Method::PUT, url).data();
        call.upload(content).repeat(Repeat::Never).send().await.map(drop)
    }

    /// Protects an image from deletion.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn protect_image(&self, id: &str) -> Result<()> {
        const PATCH: &str = "application/openstack-images-v2.1-json-patch";
        let change: Value = json!([{"op": "replace", "path": "/protected", "value": true}]);
        let url = self.url(Kind::Image, &["images", id], &[])?;
        let call = self.call(format!("image images update {id}"), Method::PATCH, url);
        call.body(PATCH, change.to_string()).repeat(Repeat::Freely).send().await.map(drop)
    }

    /// Removes an image; whether there was one.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn delete_image(&self, id: &str) -> Result<bool> {
        let url = self.url(Kind::Image, &["images", id], &[])?;
        let gone = self.call(format!("image images delete {id}"), Method::DELETE, url).send().await;
        Ok(found(gone)?.is_some())
    }
}
