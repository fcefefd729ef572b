//! Storage accounts, as far as the Resource Manager has to do with them.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{SecondsFormat, TimeDelta, Utc};
use reqwest::{Method, Url};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::super::credentials::{self, Credentials, no_credentials};
use super::super::storage::{Credential, Environment, Place, Tokens};
use super::{Arm, Result, STORAGE, Unfinished};
use crate::http::{Access as _, CallError, Class, Repeat};
use crate::secret::Secret;
use crate::text::percent::{decode, encode};

/// How long a permission to read or delete one object is good.
const PERMISSION: TimeDelta = TimeDelta::minutes(15);

/// The version of the storage service that permissions are used with.
const VERSION: &str = "2021-12-02";

impl Arm {
    /// Makes a storage account.
    ///
    /// # Errors
    /// Any [`Unfinished`].
    pub async fn make_storage(
        &self,
        group: &str,
        name: &str,
        cancel: &CancellationToken,
    ) -> Result<(), Unfinished> {
        let mut body = self.resource(json!({"minimumTlsVersion": "TLS1_2", "allowBlobPublicAccess": false}));
        body["sku"] = json!({"name": "Standard_LRS"});
        body["kind"] = "StorageV2".into();
        let url = self.in_group(group, STORAGE, &[name]);
        self.make(&format!("storage account {name}"), url, &body, cancel).await.map(drop)
    }

    /// Where the blobs of this cloud's storage accounts are, unless the environment says otherwise.
    ///
    /// # Errors
    /// When that is no place.
    pub fn blobs(&self) -> Result<Place> {
        Environment::of_process().place(&self.cloud().storage)
    }

    /// What opens a storage account: its first key, or where one may not have that, tokens of one's own.
    ///
    /// # Errors
    /// Any [`CallError`] but the refusal of the key.
    pub async fn storage_credential(&self, group: &str, account: &str) -> Result<Credential> {
        let url = self.in_group(group, STORAGE, &[account, "listKeys"]);
        let call = format!("keys of storage account {account}");
        let answer = self.0.service.post(call.clone(), url).repeat(Repeat::Freely).read::<Value>().await;
        match answer {
            Ok(answer) => {
                let key = answer["keys"][0]["value"].as_str().filter(|key| !key.is_empty());
                let key = key.ok_or_else(|| CallError::answer(call, "it has no key"))?;
                super::super::storage::Key::new(&Secret::from(key.to_owned())).map(Credential::Key)
            }
            Err(e) if e.class() == Some(Class::Denied) => {
                crate::info!("azure", "{e}: trying with a token for storage");
                let tokens = self.credentials().for_audience(credentials::STORAGE);
                Ok(Credential::Bearer(Arc::new(StorageTokens(tokens))))
            }
            Err(e) => Err(e),
        }
    }

    /// The address of a blob of a storage account, with the permission to do one thing with it (`r` or `d`).
    async fn permitted(&self, group: &str, account: &str, blob: Blob<'_>, may: &str) -> Result<Url> {
        let expiry = (Utc::now() + PERMISSION).to_rfc3339_opts(SecondsFormat::Secs, true);
        let body = json!({
            "canonicalizedResource": format!("/blob/{account}/{}/{}", blob.container, blob.name),
            "signedResource": "b", "signedPermission": may, "signedExpiry": expiry,
        });
        let url = self.in_group(group, STORAGE, &[account, "ListServiceSas"]);
        let call = format!("permission to use blob {}/{} of {account}", blob.container, blob.name);
        let answer = self.0.service.post(call.clone(), url).json(&body).repeat(Repeat::Freely);
        let answer: Value = answer.read().await?;
        let token = answer["serviceSasToken"].as_str().unwrap_or_default().trim_start_matches('?');
        let mut url = blob.url.clone();
        url.set_query(Some(token));
        match token.is_empty() {
            false => Ok(url),
            true => Err(CallError::answer(call, "it has no serviceSasToken")),
        }
    }

    /// Removes a blob of a storage account, with its snapshots; whether it was there.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn remove_blob(&self, group: &str, account: &str, container: &str, name: &str) -> Result<bool> {
        let encoded = name.split('/').map(encode).collect::<Vec<_>>().join("/");
        let text = format!("{}{}/{encoded}", self.blobs()?.of(account)?, encode(container));
        let url: Url =
            text.parse().map_err(|_| CallError::setup(format!("{text:?} is no address of a blob")))?;
        let url = self.permitted(group, account, Blob { url: &url, container, name }, "d").await?;
        let call = format!("deletion of blob {container}/{name} of {account}");
        let header = |name| reqwest::header::HeaderName::from_static(name);
        let deletion = self.0.service.call(call, Method::DELETE, url).unsigned();
        let deletion = deletion.header(header("x-ms-version"), VERSION);
        let deletion = deletion.header(header("x-ms-delete-snapshots"), "include").send().await;
        Ok(super::found(deletion)?.is_some())
    }

    /// Reads a blob by its address in a storage account; `None`: it is not there.
    pub(super) async fn read_blob(&self, group: &str, account: &str, url: &Url) -> Result<Option<Vec<u8>>> {
        // A server for all accounts has the account's name in the path.
        let path = url.path().trim_start_matches('/');
        let path = path.strip_prefix(&format!("{account}/")).unwrap_or(path);
        let path = decode(path).unwrap_or_else(|| path.to_owned());
        let (container, name) = path.split_once('/').unwrap_or_default();
        let url = self.permitted(group, account, Blob { url, container, name }, "r").await?;
        self.read_permitted(url).await
    }

    /// Reads what an address allows to read; `None`: it is not there.
    pub(super) async fn read_permitted(&self, url: Url) -> Result<Option<Vec<u8>>> {
        let answer = self.0.service.get("the console's blob", url).unsigned().limit(64 << 20).send().await;
        Ok(super::found(answer)?.map(|a| a.body))
    }
}

/// Someone's tokens for storage.
struct StorageTokens(Credentials);

#[async_trait]
impl Tokens for StorageTokens {
    async fn token(&self) -> Result<Secret> {
        self.0.token().await.map(|token| token.value().clone()).map_err(no_credentials)
    }

    async fn refused(&self, refused: &Secret, error: &CallError) -> Result<bool> {
        let token = self.0.token().await.map_err(no_credentials)?;
        match token.value() == refused {
            true => self.0.refused(&token, error).await,
            // Another call has got a new one.
            false => Ok(error.class() == Some(Class::Expired)),
        }
    }
}

/// A blob of a storage account.
#[derive(Clone, Copy)]
struct Blob<'a> {
    url: &'a Url,
    container: &'a str,
    name: &'a str,
}
