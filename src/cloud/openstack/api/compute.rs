//! Nova: servers, flavors, key pairs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Api, Kind, Result, found, only};
use crate::http::{CallError, Class, Repeat};

/// No console is longer, in bytes.
const MAX_CONSOLE: u64 = 16 << 20;

/// A kind of servers.
#[derive(Clone, Debug, Deserialize)]
pub struct Flavor {
    /// Its id; no UUID on many clouds.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// A key pair.
#[derive(Clone, Debug, Deserialize)]
pub struct KeyPair {
    /// Its name, unique among those of the user.
    pub name: String,
    /// When it was made, where the service says so.
    #[serde(default, deserialize_with = "time")]
    pub created_at: Option<DateTime<Utc>>,
}

/// A server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// State, such as `ACTIVE`.
    pub status: String,
    /// What is being done to it, such as `spawning`.
    pub task: Option<String>,
    /// Why it is in state `ERROR`.
    pub fault: Option<String>,
    /// When it was made.
    pub created: Option<DateTime<Utc>>,
    /// What it was marked with.
    pub metadata: BTreeMap<String, String>,
    /// Its key pair.
    pub key_name: Option<String>,
    /// The id of its image; none: it runs from a volume.
    pub image: Option<String>,
    /// Whether somebody protected it.
    pub locked: bool,
    /// The address that its owner wrote down.
    pub access_ipv4: Option<String>,
    /// Its addresses.
    pub addresses: Vec<Address>,
}

/// An address of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// 4 or 6.
    pub version: u8,
    /// The address itself.
    pub text: String,
    /// `fixed` or `floating`, where the service says so.
    pub kind: Option<String>,
}

#[derive(Deserialize)]
struct Description {
    id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    status: Option<String>,
    #[serde(rename = "OS-EXT-STS:task_state", default)]
    task: Option<String>,
    fault: Option<Fault>,
    #[serde(default, deserialize_with = "time")]
    created: Option<DateTime<Utc>>,
    #[serde(default)]
    metadata: Option<BTreeMap<String, Value>>,
    key_name: Option<String>,
    /// An empty text, where it runs from a volume.
    #[serde(default)]
    image: Value,
    #[serde(default)]
    locked: Option<bool>,
    #[serde(rename = "accessIPv4", default)]
    access_ipv4: Option<String>,
    #[serde(default)]
    addresses: Option<BTreeMap<String, Vec<Place>>>,
}

#[derive(Deserialize)]
struct Fault {
    message: Option<String>,
}

#[derive(Deserialize)]
struct Place {
    version: Option<u8>,
    addr: Option<String>,
    #[serde(rename = "OS-EXT-IPS:type")]
    kind: Option<String>,
}

/// A time; what is none counts as absent.
pub(super) fn time<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let value = Value::deserialize(from)?;
    // Some leave the zone out: it is UTC.
    let parse = |text: &str| text.parse().or_else(|_| format!("{text}Z").parse()).ok();
    Ok(value.as_str().and_then(parse))
}

impl From<Description> for Server {
    fn from(it: Description) -> Self {
        let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let address = |place: Place| {
            let text = place.addr?;
            let version = place.version.unwrap_or(if text.matches(':').count() > 1 { 6 } else { 4 });
            Some(Address { version, text, kind: place.kind })
        };
        Self {
            id: it.id,
            name: it.name.unwrap_or_default(),
            status: it.status.unwrap_or_default(),
            task: it.task,
            fault: it.fault.and_then(|f| f.message),
            created: it.created,
            metadata: it.metadata.unwrap_or_default().into_iter().map(|(k, v)| (k, text(v))).collect(),
            key_name: it.key_name,
            image: it.image["id"].as_str().map(str::to_owned),
            locked: it.locked.unwrap_or_default(),
            access_ipv4: it.access_ipv4.filter(|a| !a.is_empty()),
            addresses: it.addresses.unwrap_or_default().into_values().flatten().filter_map(address).collect(),
        }
    }
}

impl Server {
    /// Whether it is gone, or on its way out.
    pub fn is_ending(&self) -> bool {
        self.status.contains("DELETED") || self.task.as_deref() == Some("deleting")
    }

    /// The first address of this kind: one of version 4, if there is one.
    pub fn address(&self, kind: Option<&str>) -> Option<&str> {
        let fits = |a: &&Address| kind.is_none() || a.kind.as_deref() == kind;
        let of = |version: u8| self.addresses.iter().filter(fits).find(|a| a.version == version);
        of(4).or_else(|| of(6)).map(|a| a.text.as_str())
    }
}

/// A volume that a server runs from; it goes with the server.
#[derive(Clone, Debug)]
pub struct BootVolume {
    /// Length, in GiB.
    pub gib: u32,
    /// Its type, if not the usual one.
    pub kind: Option<String>,
}

/// The order of a server.
#[derive(Clone, Debug)]
pub struct NewServer<'a> {
    /// Its name.
    pub name: &'a str,
    /// The id of its flavor.
    pub flavor: &'a str,
    /// The id of its image.
    pub image: &'a str,
    /// The id of its network.
    pub network: &'a str,
    /// The id of its security group.
    pub group: &'a str,
    /// The name of a key pair.
    pub key_name: Option<&'a str>,
    /// What it is found by.
    pub metadata: &'a [(&'a str, &'a str)],
    /// Userdata, in base64; may be empty.
    pub user_data: &'a str,
    /// Whether the metadata come on a disk, too.
    pub config_drive: bool,
    /// Run from a volume that is made of the image.
    pub volume: Option<&'a BootVolume>,
}

impl Api {
    /// The flavor with this id or name; `None`: there is none.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn flavor(&self, named: &str) -> Result<Option<Flavor>> {
        let all: Vec<Flavor> = self.list(Kind::Compute, &["flavors", "detail"], &[], "flavors").await?;
        if let Some(found) = all.iter().find(|f| f.id == named) {
            return Ok(Some(found.clone()));
        }
        only("flavor", named, all.into_iter().filter(|f| f.name == named).collect(), |f| &f.id)
    }

    /// Makes a key pair of a public key. The name is unique: that there is one of this name after an answer was lost
    /// is fine.
    ///
    /// # Errors
    /// Any [`CallError`]; [`Class::Conflict`] if the name is taken.
    pub async fn make_key_pair(&self, name: &str, public_key: &str) -> Result<()> {
        let body = json!({"keypair": {"name": name, "public_key": public_key}});
        let doubt = AtomicBool::new(false);
        let call = self.nova("compute os-keypairs create", Method::POST, &["os-keypairs"], &[]).await?;
        let made = call.json(&body).repeat(Repeat::Freely).doubt(&doubt).send().await;
        match made {
            Err(e) if e.class() == Some(Class::Conflict) && doubt.load(Ordering::Relaxed) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Removes a key pair. That there is none is fine.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn delete_key_pair(&self, name: &str) -> Result<()> {
        let call = format!("compute os-keypairs delete {name}");
        let gone = self.nova(call, Method::DELETE, &["os-keypairs", name], &[]).await?.send().await;
        found(gone).map(drop)
    }

    /// The names of all key pairs of the user.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn key_pairs(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Wrapped {
            keypair: KeyPair,
        }
        let all: Vec<Wrapped> = self.list(Kind::Compute, &["os-keypairs"], &[], "keypairs").await?;
        Ok(all.into_iter().map(|w| w.keypair.name).collect())
    }

    /// A key pair; `None`: there is none of this name.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn key_pair(&self, name: &str) -> Result<Option<KeyPair>> {
        #[derive(Deserialize)]
        struct Wrapped {
            keypair: KeyPair,
        }
        let call = format!("compute os-keypairs show {name}");
        let call = self.nova(call, Method::GET, &["os-keypairs", name], &[]).await?;
        Ok(found(call.read::<Wrapped>().await)?.map(|w| w.keypair))
    }

    /// Orders a server; its id. An order whose answer is lost may have made one.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn make_server(&self, new: &NewServer<'_>) -> Result<String> {
        #[derive(Deserialize)]
        struct Wrapped {
            server: Made,
        }
        #[derive(Deserialize)]
        struct Made {
            id: String,
        }
        let metadata: BTreeMap<_, _> = new.metadata.iter().copied().collect();
        let mut server = json!({
            "name": new.name,
            "flavorRef": new.flavor,
            "metadata": metadata,
            "security_groups": [{"name": new.group}],
            "networks": [{"uuid": new.network}],
        });
        match new.volume {
            None => server["imageRef"] = new.image.into(),
            Some(volume) => {
                let mut device = json!({
                    "boot_index": 0,
                    "uuid": new.image,
                    "source_type": "image",
                    "destination_type": "volume",
                    "volume_size": volume.gib,
                    "delete_on_termination": true,
                });
                if let Some(kind) = &volume.kind {
                    if self.microversion().await?.is_none_or(|v| v < (2, 67)) {
                        let text =
                            "this Nova is too old to be told the type of a boot volume (it needs 2.67)";
                        return Err(CallError::setup(text));
                    }
                    device["volume_type"] = kind.as_str().into();
                }
                server["block_device_mapping_v2"] = json!([device]);
            }
        }
        if !new.user_data.is_empty() {
            server["user_data"] = new.user_data.into();
        }
        if let Some(key) = new.key_name {
            server["key_name"] = key.into();
        }
        if new.config_drive {
            server["config_drive"] = true.into();
        }
        let call = format!("compute servers create {}", new.name);
        let call = self.nova(call, Method::POST, &["servers"], &[]).await?;
        Ok(call.json(&json!({"server": server})).read::<Wrapped>().await?.server.id)
    }

    /// A server; `None`: there is none.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn server(&self, id: &str) -> Result<Option<Server>> {
        #[derive(Deserialize)]
        struct Wrapped {
            server: Description,
        }
        let call =
            self.nova(format!("compute servers show {id}"), Method::GET, &["servers", id], &[]).await?;
        Ok(found(call.read::<Wrapped>().await)?.map(|w| w.server.into()))
    }

    /// All servers of the project; with a name, those in whose names it is.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn servers(&self, name: Option<&str>) -> Result<Vec<Server>> {
        let query: Vec<_> = name.map(|name| ("name", name)).into_iter().collect();
        let all: Vec<Description> =
            self.list(Kind::Compute, &["servers", "detail"], &query, "servers").await?;
        Ok(all.into_iter().map(Server::from).collect())
    }

    /// Begins to remove a server. That there is none is fine.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn delete_server(&self, id: &str) -> Result<()> {
        let call =
            self.nova(format!("compute servers delete {id}"), Method::DELETE, &["servers", id], &[]).await?;
        found(call.send().await).map(drop)
    }

    /// What the service shows of a server's console; `None` where it shows nothing.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn console(&self, id: &str) -> Result<Option<Vec<u8>>> {
        #[derive(Deserialize)]
        struct Shown {
            output: Option<String>,
        }
        let name = format!("compute servers os-getConsoleOutput {id}");
        let call = self.nova(name, Method::POST, &["servers", id, "action"], &[]).await?;
        let call = call.json(&json!({"os-getConsoleOutput": {}})).repeat(Repeat::Freely).limit(MAX_CONSOLE);
        match call.read::<Shown>().await {
            Ok(shown) => Ok(shown.output.map(String::into_bytes)),
            // Not running yet, or any more; or there are no consoles at all.
            Err(e) if matches!(e.class(), Some(Class::NotFound | Class::Conflict)) => Ok(None),
            Err(e) if e.status() == Some(StatusCode::NOT_IMPLEMENTED.as_u16()) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(json: Value) -> Server {
        serde_json::from_value::<Description>(json).unwrap().into()
    }

    #[test]
    fn servers_are_read_as_far_as_they_are_said() {
        let whole = server(json!({
            "id": "1", "name": "n", "status": "ERROR", "created": "2026-01-02T03:04:05Z", "locked": true,
            "fault": {"code": 500, "message": "No valid host was found."}, "metadata": {"CreatedBy": "mantle"},
            "image": {"id": "i", "links": []}, "accessIPv4": "", "OS-EXT-STS:task_state": null, "unknown": {"x": [1]},
            "addresses": {"net": [
                {"version": 6, "addr": "fd00::1", "OS-EXT-IPS:type": "fixed"},
                {"version": 4, "addr": "10.0.0.2", "OS-EXT-IPS:type": "fixed"},
                {"version": 4, "addr": "127.0.0.1:40022", "OS-EXT-IPS:type": "floating"},
            ]},
        }));
        assert_eq!(whole.fault.as_deref(), Some("No valid host was found."));
        assert_eq!(
            (whole.address(None), whole.address(Some("floating"))),
            (Some("10.0.0.2"), Some("127.0.0.1:40022"))
        );
        assert_eq!((whole.access_ipv4, whole.image.as_deref()), (None, Some("i")));
        assert!(whole.created.is_some() && whole.locked);
        let bare = server(
            json!({"id": "1", "image": "", "created": "yesterday", "addresses": null, "metadata": null}),
        );
        assert_eq!(bare, Server { id: "1".into(), ..Server::default() });
        assert!(server(json!({"id": "1", "status": "SOFT_DELETED"})).is_ending());
        assert!(
            server(json!({"id": "1", "status": "ACTIVE", "OS-EXT-STS:task_state": "deleting"})).is_ending()
        );
    }
}
