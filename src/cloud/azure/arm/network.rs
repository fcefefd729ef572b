//! Networks: what machines of a group share, and what each has of its own.

use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{ADDRESS, Arm, INTERFACE, Kind, NETWORK, RULES, Result, Unfinished};
use crate::cloud::azure::MARK;

/// A network interface to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewInterface<'a> {
    /// Its name.
    pub name: &'a str,
    /// The ID of the subnet that it is in.
    pub subnet: &'a str,
    /// The ID of its public address, if it has one.
    pub address: Option<&'a str>,
}

impl Arm {
    /// Makes a network with one subnet, into which SSH gets from everywhere; the subnet's ID.
    ///
    /// # Errors
    /// Any [`Unfinished`].
    pub async fn make_network(
        &self,
        group: &str,
        name: &str,
        subnet: &str,
        cancel: &CancellationToken,
    ) -> Result<String, Unfinished> {
        // Without rules nothing gets to the public addresses of today: they are closed unless opened.
        let rule = json!({"name": "ssh", "properties": {
            "protocol": "Tcp", "direction": "Inbound", "access": "Allow", "priority": 1000,
            "sourceAddressPrefix": "*", "sourcePortRange": "*",
            "destinationAddressPrefix": "*", "destinationPortRange": "22",
        }});
        let rules = self.resource(json!({"securityRules": [rule]}));
        let url = self.in_group(group, RULES, &[name]);
        self.make(&format!("security group {name}"), url, &rules, cancel).await?;
        let network = self.resource(json!({
            "addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
            "subnets": [{"name": subnet, "properties": {
                "addressPrefix": "10.0.0.0/24",
                "networkSecurityGroup": {"id": self.id(group, RULES, name)},
            }}],
        }));
        let url = self.in_group(group, NETWORK, &[name]);
        self.make(&format!("virtual network {name}"), url, &network, cancel).await?;
        Ok(self.subnet(group, name, subnet))
    }

    /// The ID of a subnet.
    pub fn subnet(&self, group: &str, network: &str, name: &str) -> String {
        super::path(self.subscription(), Some(group), NETWORK, &[network, "subnets", name])
    }

    /// What every resource has besides its properties.
    pub(super) fn resource(&self, properties: Value) -> Value {
        json!({"location": self.location(), "tags": {MARK.0: MARK.1}, "properties": properties})
    }

    /// Makes a public address; its ID.
    ///
    /// # Errors
    /// Any [`Unfinished`].
    pub async fn make_address(
        &self,
        group: &str,
        name: &str,
        cancel: &CancellationToken,
    ) -> Result<String, Unfinished> {
        let properties = json!({"publicIPAllocationMethod": "Static", "publicIPAddressVersion": "IPv4"});
        let mut body = self.resource(properties);
        body["sku"] = json!({"name": "Standard"});
        self.make(
            &format!("public IP address {name}"),
            self.in_group(group, ADDRESS, &[name]),
            &body,
            cancel,
        )
        .await?;
        Ok(self.id(group, ADDRESS, name))
    }

    /// Makes a network interface; its ID.
    ///
    /// # Errors
    /// Any [`Unfinished`].
    pub async fn make_interface(
        &self,
        group: &str,
        new: &NewInterface<'_>,
        cancel: &CancellationToken,
    ) -> Result<String, Unfinished> {
        let name = new.name;
        let mut ip = json!({"privateIPAllocationMethod": "Dynamic", "subnet": {"id": new.subnet}});
        if let Some(id) = new.address {
            ip["publicIPAddress"] = json!({"id": id});
        }
        let body = self.resource(json!({
            "ipConfigurations": [{"name": format!("{name}-conf"), "properties": ip}],
            "enableAcceleratedNetworking": true,
        }));
        self.make(
            &format!("network interface {name}"),
            self.in_group(group, INTERFACE, &[name]),
            &body,
            cancel,
        )
        .await?;
        Ok(self.id(group, INTERFACE, name))
    }

    /// A public address, as text; `None`: it is not there, or has none yet.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn address(&self, group: &str, name: &str) -> Result<Option<String>> {
        #[derive(Deserialize)]
        struct Address {
            properties: Properties,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Properties {
            ip_address: Option<String>,
        }
        let url = self.in_group(group, ADDRESS, &[name]);
        let found = self.find::<Address>(format!("look at public IP address {name}"), url).await?;
        Ok(found.and_then(|a| a.properties.ip_address))
    }

    /// The private address of a network interface; `None`: it is not there, or has none yet.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn private_address(&self, group: &str, interface: &str) -> Result<Option<String>> {
        let url = self.in_group(group, INTERFACE, &[interface]);
        let found = self.find::<Value>(format!("look at network interface {interface}"), url).await?;
        let text = found.and_then(|i| {
            let ip = &i["properties"]["ipConfigurations"][0]["properties"]["privateIPAddress"];
            ip.as_str().map(str::to_owned)
        });
        Ok(text)
    }

    /// Removes a network interface. That there is none is fine.
    ///
    /// # Errors
    /// Any [`Unfinished`].
    pub async fn remove_interface(&self, group: &str, name: &str) -> Result<(), Unfinished> {
        self.clean_away(group, INTERFACE, "network interface", name).await
    }

    /// Removes a public address. That there is none is fine.
    ///
    /// # Errors
    /// Any [`Unfinished`].
    pub async fn remove_address(&self, group: &str, name: &str) -> Result<(), Unfinished> {
        self.clean_away(group, ADDRESS, "public IP address", name).await
    }

    /// It is a removal: the end of the work must not end it.
    pub(super) async fn clean_away(
        &self,
        group: &str,
        kind: Kind,
        what: &str,
        name: &str,
    ) -> Result<(), Unfinished> {
        let url = self.in_group(group, kind, &[name]);
        self.remove(&format!("{what} {name}"), url, &CancellationToken::new()).await.map(drop)
    }
}
