//! Neutron: networks, security groups, floating IPs.

use std::sync::atomic::AtomicBool;

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::compute::time;
use super::{Api, Kind, Result, again, found, only};
use crate::cloud::once::{Once, SHOWN_AT_ONCE};
use crate::http::Repeat;

/// A network.
#[derive(Clone, Debug, Deserialize)]
struct Network {
    id: String,
    #[serde(rename = "router:external", default)]
    external: Option<bool>,
}

/// A security group.
#[derive(Clone, Debug, Deserialize)]
pub struct Group {
    /// Its id.
    pub id: String,
    /// For people.
    #[serde(default)]
    pub description: Option<String>,
    /// When it was made.
    #[serde(default, deserialize_with = "time")]
    pub created_at: Option<DateTime<Utc>>,
}

/// What a security group lets in.
#[derive(Clone, Copy, Debug)]
pub struct NewRule {
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// TCP ports from and to these, from everywhere; none: everything from members of the group.
    pub ports: Option<(u16, u16)>,
}

/// A floating IP.
#[derive(Clone, Debug, Deserialize)]
pub struct FloatingIp {
    /// Its id.
    pub id: String,
    /// The address.
    #[serde(rename = "floating_ip_address", default)]
    pub address: Option<String>,
    /// The port that it leads to.
    #[serde(default)]
    pub port_id: Option<String>,
    /// What it was marked with.
    #[serde(default)]
    pub description: Option<String>,
    /// When it was made.
    #[serde(default, deserialize_with = "time")]
    pub created_at: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
struct Identified {
    id: String,
}

impl Api {
    /// The id of the network with this id or name; of the first one, if it is empty. `None`: there is none.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`]; also if several have this name.
    pub async fn network(&self, named: &str) -> Result<Option<String>> {
        let list = |filter: Vec<(&'static str, String)>| async move {
            let filter: Vec<(&str, &str)> = filter.iter().map(|(k, v)| (*k, v.as_str())).collect();
            self.list::<Network>(Kind::Network, &["networks"], &filter, "networks").await
        };
        if named.is_empty() {
            let all = list(Vec::new()).await?;
            // Servers are seldom welcome in external ones.
            let inner = all.iter().find(|n| n.external != Some(true));
            return Ok(inner.or(all.first()).map(|n| n.id.clone()));
        }
        let by_id = list(vec![("id", named.to_owned())]).await?;
        if let Some(network) = by_id.into_iter().find(|n| n.id == named) {
            return Ok(Some(network.id));
        }
        let found = list(vec![("name", named.to_owned())]).await?;
        Ok(only("network", named, found, |n| &n.id)?.map(|n| n.id))
    }

    /// The security groups of this name.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn security_groups(&self, name: &str) -> Result<Vec<Group>> {
        self.list(Kind::Network, &["security-groups"], &[("name", name)], "security_groups").await
    }

    /// Makes a security group. An order whose answer is lost may have made one.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn make_security_group(&self, name: &str, description: &str) -> Result<Group> {
        #[derive(Deserialize)]
        struct Wrapped {
            security_group: Group,
        }
        let body = json!({"security_group": {"name": name, "description": description}});
        let url = self.url(Kind::Network, &["security-groups"], &[])?;
        let call = self.call(format!("network security-groups create {name}"), Method::POST, url);
        Ok(call.json(&body).read::<Wrapped>().await?.security_group)
    }

    /// Changes what a security group says for people.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn describe_security_group(&self, id: &str, description: &str) -> Result<()> {
        let body = json!({"security_group": {"description": description}});
        let url = self.url(Kind::Network, &["security-groups", id], &[])?;
        self.call(format!("network security-groups update {id}"), Method::PUT, url)
            .json(&body)
            .send()
            .await
            .map(drop)
    }

    /// Lets something in. That it is let in already is fine.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn make_rule(&self, group: &str, rule: NewRule) -> Result<()> {
        let mut body = json!({
            "security_group_id": group,
            "direction": "ingress",
            "ethertype": rule.family,
        });
        match rule.ports {
            Some((from, to)) => {
                body["protocol"] = "tcp".into();
                body["port_range_min"] = from.into();
                body["port_range_max"] = to.into();
                body["remote_ip_prefix"] = if rule.family == "IPv6" { "::/0" } else { "0.0.0.0/0" }.into();
            }
            None => body["remote_group_id"] = group.into(),
        }
        let url = self.url(Kind::Network, &["security-group-rules"], &[])?;
        let call = self.call(format!("network security-group-rules create in {group}"), Method::POST, url);
        let made = call.json(&json!({"security_group_rule": body})).repeat(Repeat::Freely).send().await;
        match made {
            Err(e) if e.is(&["SecurityGroupRuleExists"]) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Removes a security group. That there is none is fine.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn delete_security_group(&self, id: &str) -> Result<()> {
        let url = self.url(Kind::Network, &["security-groups", id], &[])?;
        let gone =
            self.call(format!("network security-groups delete {id}"), Method::DELETE, url).send().await;
        found(gone).map(drop)
    }

    /// The ids of a server's ports.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn ports(&self, server: &str) -> Result<Vec<String>> {
        let ports: Vec<Identified> =
            self.list(Kind::Network, &["ports"], &[("device_id", server)], "ports").await?;
        Ok(ports.into_iter().map(|p| p.id).collect())
    }

    /// All floating IPs of the project; with a filter, those for which one of their fields is so.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn floating_ips(&self, filter: Option<(&str, &str)>) -> Result<Vec<FloatingIp>> {
        let filter: Vec<_> = filter.into_iter().collect();
        self.list(Kind::Network, &["floatingips"], &filter, "floatingips").await
    }

    /// Makes a floating IP that leads to a port. `description` is unique: should an answer be lost, it tells whether
    /// the address was made.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn make_floating_ip(&self, network: &str, port: &str, description: &str) -> Result<()> {
        let fields: Value =
            json!({"floating_network_id": network, "port_id": port, "description": description});
        let body = json!({"floatingip": fields});
        let order = || async {
            let url = self.url(Kind::Network, &["floatingips"], &[])?;
            self.call("network floatingips create", Method::POST, url).json(&body).send().await.map(drop)
        };
        let find = || async {
            let there = self.floating_ips(Some(("description", description))).await?;
            Ok(there.iter().any(|f| f.port_id.as_deref() == Some(port)).then_some(()))
        };
        // A second one would go with the first: by the description.
        let (cancel, doubt) = (CancellationToken::new(), AtomicBool::new(false));
        let once = Once { component: "openstack", shown: SHOWN_AT_ONCE, cancel: &cancel, doubt: &doubt };
        once.make(order, find, again).await
    }

    /// Removes a floating IP. That there is none is fine.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn delete_floating_ip(&self, id: &str) -> Result<()> {
        let url = self.url(Kind::Network, &["floatingips", id], &[])?;
        let gone = self.call(format!("network floatingips delete {id}"), Method::DELETE, url).send().await;
        found(gone).map(drop)
    }
}
