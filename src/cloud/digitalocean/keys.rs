//! SSH keys of the account.

use std::sync::atomic::{AtomicBool, Ordering};

use serde::Deserialize;
use serde_json::json;

use super::api::{Api, Page, Result, found};
use crate::http::{Class, Repeat};

/// A key.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Key {
    /// Unique at DigitalOcean.
    pub id: u64,
    /// Its name; others may have the same.
    #[serde(default)]
    pub name: String,
}

#[derive(Deserialize)]
struct One {
    ssh_key: Key,
}

#[derive(Deserialize)]
struct Many {
    ssh_keys: Vec<Key>,
}

impl Page for Many {
    type Item = Key;

    fn items(self) -> Vec<Key> {
        self.ssh_keys
    }
}

const PATH: &[&str] = &["account", "keys"];

impl Api {
    /// Registers a new public key under a name that nobody else uses. The account takes each key once: an order that
    /// is repeated does nothing twice.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn create_key(&self, name: &str, public: &str) -> Result<u64> {
        let doubt = AtomicBool::new(false);
        let call = self.service().post(format!("keys.create {name}"), self.url(PATH));
        let call = call.json(&json!({"name": name, "public_key": public})).repeat(Repeat::Freely);
        let error = match call.doubt(&doubt).read::<One>().await {
            Ok(one) => return Ok(one.ssh_key.id),
            Err(e) => e,
        };
        if error.class() == Some(Class::Conflict)
            && doubt.load(Ordering::Relaxed)
            && let Some(key) = self.keys().await?.into_iter().find(|k| k.name == name)
        {
            return Ok(key.id);
        }
        Err(error)
    }

    /// All keys of the account.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn keys(&self) -> Result<Vec<Key>> {
        self.list::<Many>("keys.list", PATH, &[]).await
    }

    /// Removes a key; that there is none is fine.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn delete_key(&self, id: u64) -> Result<()> {
        let url = self.url(&["account", "keys", &id.to_string()]);
        found(self.service().delete(format!("keys.delete {id}"), url).send().await).map(drop)
    }

    /// Removes the keys that have one of these names.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn delete_keys(&self, names: &[&str]) -> Result<()> {
        for key in self.keys().await?.iter().filter(|k| names.contains(&k.name.as_str())) {
            self.delete_key(key.id).await?;
        }
        Ok(())
    }
}
