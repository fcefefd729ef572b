//! Resource groups: everything is in one, and goes with it.

use std::collections::BTreeMap;

use chrono::{SecondsFormat, Utc};
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Arm, GROUP, Result, Unfinished};
use crate::cloud::azure::{CREATED, MARK};

/// A resource group.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its tags.
    #[serde(default, deserialize_with = "super::or_default")]
    pub tags: BTreeMap<String, String>,
    /// How it is.
    #[serde(default)]
    pub properties: Properties,
}

/// How a resource is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Properties {
    /// `Succeeded`, `Deleting` or something else.
    pub provisioning_state: Option<String>,
}

impl Arm {
    /// Makes a resource group, marked as ours, with the time.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn make_group(&self, name: &str) -> Result<()> {
        let now = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
        let body = json!({"location": self.location(), "tags": {CREATED: now, MARK.0: MARK.1}});
        let url = self.in_subscription(GROUP, &["resourcegroups", name]);
        self.0
            .service
            .put(format!("creation of resource group {name}"), url)
            .json(&body)
            .send()
            .await
            .map(drop)
    }

    /// Removes a resource group with everything in it and waits until it is gone; whether it was there.
    ///
    /// # Errors
    /// Any [`Unfinished`].
    pub async fn remove_group(&self, name: &str, cancel: &CancellationToken) -> Result<bool, Unfinished> {
        let url = self.in_subscription(GROUP, &["resourcegroups", name]);
        self.remove(&format!("resource group {name}"), url, cancel).await
    }

    /// All resource groups of the subscription.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn groups(&self) -> Result<Vec<Group>> {
        self.list("list of resource groups", self.in_subscription(GROUP, &["resourcegroups"])).await
    }

    /// A resource group; `None`: there is none of this name.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn group(&self, name: &str) -> Result<Option<Group>> {
        let url = self.in_subscription(GROUP, &["resourcegroups", name]);
        self.find(format!("look at resource group {name}"), url).await
    }
}
