//! Virtual machines and their consoles.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::{Arm, MACHINE, Result, Unfinished};
use crate::cloud::azure::gc::call_error;
use crate::cloud::azure::storage::Place;
use crate::http::Class;
use crate::poll;

/// An image that machines are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// One of a subscription's: a managed image, or a gallery's.
    Id(String),
    /// One that somebody published in the market.
    Published {
        /// Who.
        publisher: String,
        /// What.
        offer: String,
        /// Which kind of it.
        sku: String,
        /// Its version; `latest` is one, too.
        version: String,
    },
}

/// Where a machine's console is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Diagnostics {
    /// Nowhere.
    None,
    /// Where Azure likes.
    #[default]
    Managed,
    /// In a storage account of the same group.
    Account(String),
}

/// A machine to be made.
#[derive(Clone, Debug)]
pub struct NewMachine<'a> {
    /// Its name, which its system gets, too.
    pub name: &'a str,
    /// Such as `Standard_D2_v2`.
    pub size: &'a str,
    /// What its disk begins as.
    pub image: &'a Reference,
    /// `SCSI` or `NVMe`, if not what the image and the size agree on.
    pub disk_controller: Option<&'a str>,
    /// The account on it, and a public key for that.
    pub user: &'a str,
    /// As authorized_keys(5) has it.
    pub key: &'a str,
    /// Userdata; may be empty.
    pub custom_data: &'a str,
    /// The ID of its network interface.
    pub interface: &'a str,
    /// Where its console is kept.
    pub diagnostics: &'a Diagnostics,
    /// The ID of the identity that it has at Azure, if any.
    pub identity: Option<&'a str>,
    /// Boots only what is signed, measured by a TPM.
    pub trusted_launch: bool,
    /// Its tags.
    pub tags: &'a [(&'a str, &'a str)],
}

/// A machine.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Its tags.
    #[serde(default, deserialize_with = "super::or_default")]
    pub tags: BTreeMap<String, String>,
    #[serde(default)]
    properties: Properties,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Properties {
    provisioning_state: Option<String>,
    instance_view: Option<View>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct View {
    boot_diagnostics: Option<Blobs>,
}

/// Where console and screen are.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Blobs {
    serial_console_log_blob_uri: Option<String>,
}

/// The field of an image's reference that its ID stands in.
fn id_field(id: &str) -> &'static str {
    let begins = |text: &str| id.get(..text.len()).is_some_and(|head| head.eq_ignore_ascii_case(text));
    match id {
        _ if begins("/CommunityGalleries/") => "communityGalleryImageId",
        _ if begins("/SharedGalleries/") => "sharedGalleryImageId",
        _ => "id",
    }
}

impl Blobs {
    fn console(&self) -> Option<reqwest::Url> {
        self.serial_console_log_blob_uri.as_deref()?.parse().ok()
    }
}

impl Machine {
    /// `Creating`, `Succeeded`, `Failed`, `Deleting` or another; a service that does not say has done its work.
    pub fn state(&self) -> &str {
        self.properties.provisioning_state.as_deref().unwrap_or("Succeeded")
    }
}

impl Arm {
    /// Makes a machine and waits until it runs, as far as the service sees that.
    ///
    /// # Errors
    /// Any [`Unfinished`].
    pub async fn make_machine(
        &self,
        group: &str,
        new: &NewMachine<'_>,
        cancel: &CancellationToken,
    ) -> Result<(), Unfinished> {
        let url = self.in_group(group, MACHINE, &[new.name]);
        let body = self.described(new).map_err(poll::Error::Failed)?;
        self.make(&format!("machine {}", new.name), url, &body, cancel).await.map(drop)
    }

    fn described(&self, new: &NewMachine<'_>) -> Result<Value> {
        let image = match new.image {
            // Galleries of others have fields of their own.
            Reference::Id(id) => json!({id_field(id): id}),
            Reference::Published { publisher, offer, sku, version } => {
                json!({"publisher": publisher, "offer": offer, "sku": sku, "version": version})
            }
        };
        let mut storage = json!({
            "imageReference": image,
            "osDisk": {"createOption": "FromImage", "deleteOption": "Delete"},
        });
        if let Some(controller) = new.disk_controller {
            storage["diskControllerType"] = controller.into();
        }
        let path = format!("/home/{}/.ssh/authorized_keys", new.user);
        let mut os = json!({
            "computerName": new.name,
            "adminUsername": new.user,
            "linuxConfiguration": {
                "disablePasswordAuthentication": true,
                "ssh": {"publicKeys": [{"path": path, "keyData": new.key.trim_end()}]},
            },
        });
        if !new.custom_data.is_empty() {
            os["customData"] = openssl::base64::encode_block(new.custom_data.as_bytes()).into();
        }
        let diagnostics = match new.diagnostics {
            Diagnostics::None => json!({"enabled": false}),
            Diagnostics::Managed => json!({"enabled": true}),
            Diagnostics::Account(account) => {
                // As Azure reaches it, whatever the environment says.
                let blobs = Place::new(&self.cloud().storage)?.of(account)?;
                json!({"enabled": true, "storageUri": blobs.as_str()})
            }
        };
        let mut properties = json!({
            "hardwareProfile": {"vmSize": new.size},
            "storageProfile": storage,
            "osProfile": os,
            "networkProfile": {"networkInterfaces": [
                {"id": new.interface, "properties": {"primary": true, "deleteOption": "Delete"}},
            ]},
            "diagnosticsProfile": {"bootDiagnostics": diagnostics},
        });
        if new.trusted_launch {
            let firmware = json!({"secureBootEnabled": true, "vTpmEnabled": true});
            properties["securityProfile"] =
                json!({"securityType": "TrustedLaunch", "uefiSettings": firmware});
        }
        let mut body = self.resource(properties);
        let tags: Map<String, Value> =
            new.tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        body["tags"] = tags.into();
        if let Some(id) = new.identity {
            body["identity"] = json!({"type": "UserAssigned", "userAssignedIdentities": {id: {}}});
        }
        Ok(body)
    }

    /// A machine; `None`: there is none of this name.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn machine(&self, group: &str, name: &str) -> Result<Option<Machine>> {
        self.find(format!("look at machine {name}"), self.in_group(group, MACHINE, &[name])).await
    }

    /// The machines of a group; none where there is no group.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn machines(&self, group: &str) -> Result<Vec<Machine>> {
        let listed = self.list("list of machines", self.in_group(group, MACHINE, &[])).await;
        Ok(super::found(listed)?.unwrap_or_default())
    }

    /// Removes a machine with its disk. That there is none is fine.
    ///
    /// # Errors
    /// Any [`Unfinished`].
    pub async fn remove_machine(&self, group: &str, name: &str) -> Result<(), Unfinished> {
        self.clean_away(group, MACHINE, "machine", name).await
    }

    /// What a machine has said on its serial port, as far as the service has kept it; `None`: nothing yet.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn console(&self, group: &str, name: &str, kept: &Diagnostics) -> Result<Option<Vec<u8>>> {
        match kept {
            Diagnostics::None => Ok(None),
            Diagnostics::Managed => {
                let call = format!("addresses of the console of {name}");
                let url = self.in_group(group, MACHINE, &[name, "retrieveBootDiagnosticsData"]);
                let asked = self.ask(call, url, &Value::Null, &CancellationToken::new()).await;
                let value = match asked.map_err(call_error) {
                    Ok(value) => value,
                    // Before it has begun to boot.
                    Err(e) if matches!(e.class(), Some(Class::NotFound | Class::Conflict)) => {
                        return Ok(None);
                    }
                    Err(e) => return Err(e),
                };
                match serde_json::from_value::<Blobs>(value).unwrap_or_default().console() {
                    Some(url) => self.read_permitted(url).await,
                    None => Ok(None),
                }
            }
            Diagnostics::Account(account) => {
                let mut url = self.in_group(group, MACHINE, &[name]);
                url.query_pairs_mut().append_pair("$expand", "instanceView");
                let found = self.find::<Machine>(format!("look at the console of {name}"), url).await?;
                let view = found.and_then(|m| m.properties.instance_view);
                match view.and_then(|v| v.boot_diagnostics).and_then(|b| b.console()) {
                    Some(url) => self.read_blob(group, account, &url).await,
                    None => Ok(None),
                }
            }
        }
    }
}
