//! Instances.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use reqwest::Url;
use serde::Deserialize;
use serde_json::json;

use super::super::MARK;
use super::{ALL_ZONES, Compute, Operation, Result, found, next};
use crate::http::{CallError, Repeat};

/// No console is longer, in bytes: the service keeps the last mebibyte.
const MAX_CONSOLE: usize = 1 << 20;

/// An instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// Its name, unique in the zone.
    pub name: String,
    /// The zone's name.
    pub zone: String,
    /// State, such as `RUNNING`.
    pub status: String,
    /// Why it is in that state, if the service says so.
    pub reason: Option<String>,
    /// When it was made.
    pub created: Option<DateTime<Utc>>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The value of the metadata entry that marks what is mantle's.
    pub marked: Option<String>,
    /// Whether it is protected from deletion.
    pub protected: bool,
    /// Its networks.
    pub interfaces: Vec<Interface>,
}

/// An instance in a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its address there.
    pub internal: Option<String>,
    /// Its address from outside.
    pub external: Option<String>,
}

/// An instance as the service describes it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    name: String,
    #[serde(default)]
    zone: String,
    #[serde(default)]
    status: String,
    status_message: Option<String>,
    creation_timestamp: Option<String>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    metadata: Option<Metadata>,
    #[serde(default)]
    deletion_protection: Option<bool>,
    network_interfaces: Option<Vec<Network>>,
}

#[derive(Deserialize)]
struct Metadata {
    items: Option<Vec<Item>>,
}

#[derive(Deserialize)]
struct Item {
    key: String,
    value: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Network {
    #[serde(rename = "networkIP")]
    network_ip: Option<String>,
    access_configs: Option<Vec<Access>>,
}

#[derive(Deserialize)]
struct Access {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "natIP")]
    nat_ip: Option<String>,
}

impl From<Description> for Instance {
    fn from(it: Description) -> Self {
        let items = it.metadata.and_then(|m| m.items).unwrap_or_default();
        let interface = |network: Network| {
            let nat = |a: &&Access| a.kind.as_deref().is_none_or(|k| k == "ONE_TO_ONE_NAT");
            let external = network.access_configs.iter().flatten().find(nat).and_then(|a| a.nat_ip.clone());
            Interface { internal: network.network_ip, external }
        };
        Self {
            zone: it.zone.rsplit('/').next().unwrap_or_default().to_owned(),
            status: it.status,
            reason: it.status_message,
            created: it.creation_timestamp.and_then(|t| t.parse().ok()),
            labels: it.labels.unwrap_or_default(),
            marked: items.into_iter().find(|i| i.key == MARK.0).and_then(|i| i.value),
            protected: it.deletion_protection.unwrap_or_default(),
            interfaces: it.network_interfaces.unwrap_or_default().into_iter().map(interface).collect(),
            name: it.name,
        }
    }
}

/// The order of an instance.
#[derive(Clone, Debug)]
pub struct NewInstance<'a> {
    /// Its name.
    pub name: &'a str,
    /// The type's name, such as `n1-standard-1`.
    pub machine_type: &'a str,
    /// The address of the image.
    pub image: &'a str,
    /// The type of its disk, such as `pd-ssd`.
    pub disk_type: &'a str,
    /// The network's name, or its path after the project.
    pub network: &'a str,
    /// What the instance can ask for: keys with values.
    pub metadata: &'a [(&'a str, String)],
    /// What it is found by.
    pub labels: &'a [(&'a str, &'a str)],
}

/// Length of the disk, in GB.
const DISK_GB: u32 = 12;

impl Compute {
    /// Orders an instance; its disk goes with it. `request` is a UUID: an order that is repeated with it is the same
    /// order.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn insert_instance(&self, new: &NewInstance<'_>, request: &str) -> Result<Operation> {
        let mut url = self.in_zone(&["instances"]);
        url.query_pairs_mut().append_pair("requestId", request);
        let zone = self.zone();
        let items: Vec<_> = new.metadata.iter().map(|(k, v)| json!({"key": k, "value": v})).collect();
        let labels: BTreeMap<_, _> = new.labels.iter().copied().collect();
        let network = match new.network.contains('/') {
            true => self.0.base.join(new.network).unwrap_or_else(|_| self.url(&[])),
            false => self.url(&["global", "networks", new.network]),
        };
        let body = json!({
            "name": new.name,
            "machineType": self.in_zone(&["machineTypes", new.machine_type]).as_str(),
            "metadata": {"items": items},
            "labels": labels,
            "tags": {"items": ["https-server", "http-server"]},
            "disks": [{
                "autoDelete": true,
                "boot": true,
                "type": "PERSISTENT",
                "initializeParams": {
                    "diskName": new.name,
                    "sourceImage": new.image,
                    "diskType": format!("zones/{zone}/diskTypes/{}", new.disk_type),
                    "diskSizeGb": DISK_GB.to_string(),
                    "labels": labels,
                },
            }],
            "networkInterfaces": [{
                "network": network.as_str(),
                "accessConfigs": [{"type": "ONE_TO_ONE_NAT", "name": "External NAT"}],
            }],
        });
        let name = format!("compute.instances.insert {}", new.name);
        self.0.service.post(name, url).json(&body).repeat(Repeat::Freely).read().await
    }

    /// Removes an instance and its disk; `None`: it is gone.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn delete_instance(&self, name: &str) -> Result<Option<Operation>> {
        let url = self.in_zone(&["instances", name]);
        let call = format!("compute.instances.delete {name}");
        found(self.0.service.delete(call, url).read().await)
    }

    /// An instance; `None`: there is none of this name.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn instance(&self, name: &str) -> Result<Option<Instance>> {
        let url = self.in_zone(&["instances", name]);
        let call = format!("compute.instances.get {name}");
        Ok(found(self.0.service.get(call, url).read::<Description>().await)?.map(Instance::from))
    }

    /// The instances of the zone, or of all zones, that fit a filter of the API's.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn instances(&self, filter: Option<&str>) -> Result<Vec<Instance>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Page {
            items: Option<Items>,
            next_page_token: Option<String>,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Items {
            Zone(Vec<Description>),
            Zones(BTreeMap<String, Zone>),
        }
        #[derive(Deserialize)]
        struct Zone {
            instances: Option<Vec<Description>>,
        }
        let all = self.zone() == ALL_ZONES;
        let (call, mut url) = match all {
            true => ("compute.instances.aggregatedList", self.url(&["aggregated", "instances"])),
            false => ("compute.instances.list", self.in_zone(&["instances"])),
        };
        if let Some(filter) = filter {
            url.query_pairs_mut().append_pair("filter", filter);
        }
        let pages = self
            .0
            .service
            .pages(call, url, |page: &Page, url: &Url| next(page.next_page_token.as_deref(), url));
        let instances = pages.await?.into_iter().filter_map(|p| p.items).flat_map(|items| match items {
            Items::Zone(instances) => instances,
            Items::Zones(zones) => zones.into_values().filter_map(|z| z.instances).flatten().collect(),
        });
        Ok(instances.map(Instance::from).collect())
    }

    /// What an instance has said on its first serial port, as far as the service keeps it; `None`: it is gone.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn console(&self, name: &str) -> Result<Option<Vec<u8>>> {
        #[derive(Deserialize)]
        struct Output {
            #[serde(default)]
            contents: String,
            next: Option<String>,
        }
        let call = format!("compute.instances.getSerialPortOutput {name}");
        let (mut text, mut start) = (Vec::new(), 0_u64);
        // Each answer has a part; an empty one is the end of what was said.
        while text.len() < MAX_CONSOLE {
            let mut url = self.in_zone(&["instances", name, "serialPort"]);
            url.query_pairs_mut().append_pair("port", "1").append_pair("start", &start.to_string());
            let answer = found(self.0.service.get(call.clone(), url).read::<Output>().await)?;
            let Some(output) = answer else { return Ok(None) };
            text.extend_from_slice(output.contents.as_bytes());
            let next = match output.next.as_deref().map(str::parse::<u64>) {
                Some(Ok(next)) => next,
                Some(Err(_)) => return Err(CallError::answer(call, "`next` is no position")),
                None => break,
            };
            if output.contents.is_empty() || next <= start {
                break;
            }
            start = next;
        }
        Ok(Some(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_read_as_far_as_they_are_there() {
        let text = r#"{"name":"a","zone":"https://h/compute/v1/projects/p/zones/z-1","status":"RUNNING",
            "creationTimestamp":"2026-01-01T02:03:04.005-08:00","labels":{"x":"y"},"deletionProtection":true,
            "metadata":{"items":[{"key":"user-data"},{"key":"created-by","value":"mantle"}]},
            "networkInterfaces":[{"networkIP":"192.168.1.2","accessConfigs":[{"type":"DIRECT_IPV6"},
            {"type":"ONE_TO_ONE_NAT","natIP":"127.0.0.1:40022"}]}]}"#;
        let it: Instance = serde_json::from_str::<Description>(text).unwrap().into();
        assert_eq!((it.name.as_str(), it.zone.as_str(), it.protected), ("a", "z-1", true));
        assert_eq!(it.created.unwrap().to_rfc3339(), "2026-01-01T10:03:04.005+00:00");
        assert_eq!(it.marked.as_deref(), Some("mantle"));
        let address =
            Interface { internal: Some("192.168.1.2".into()), external: Some("127.0.0.1:40022".into()) };
        assert_eq!(it.interfaces, [address]);
        let bare =
            r#"{"name":"b","labels":null,"metadata":{},"networkInterfaces":null,"creationTimestamp":"soon"}"#;
        let bare: Instance = serde_json::from_str::<Description>(bare).unwrap().into();
        assert_eq!(bare, Instance { name: "b".into(), ..Instance::default() });
    }
}
