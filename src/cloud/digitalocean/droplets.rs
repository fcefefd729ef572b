//! Droplets, and what is done with them.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;

use super::api::{Api, Page, Result, found};
use super::images::Image;

/// A droplet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Droplet {
    /// Unique at DigitalOcean.
    pub id: u64,
    /// Its name; others may have the same.
    pub name: String,
    /// State: `new`, `active`, `off` or `archive`.
    pub status: String,
    /// When it was made.
    pub created: Option<DateTime<Utc>>,
    /// Tags.
    pub tags: Vec<String>,
    /// Its address from outside.
    pub public: Option<String>,
    /// Its address among the account's droplets in the region.
    pub private: Option<String>,
}

/// A droplet as the API describes it.
#[derive(Deserialize)]
struct Description {
    id: u64,
    #[serde(default)]
    name: String,
    #[serde(default)]
    status: String,
    created_at: Option<String>,
    tags: Option<Vec<String>>,
    networks: Option<Networks>,
}

#[derive(Default, Deserialize)]
struct Networks {
    v4: Option<Vec<Network>>,
}

#[derive(Deserialize)]
struct Network {
    ip_address: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl From<Description> for Droplet {
    fn from(it: Description) -> Self {
        let networks = it.networks.and_then(|n| n.v4).unwrap_or_default();
        let address = |kind: &str| {
            let is_it = |n: &&Network| n.kind.as_deref() == Some(kind);
            networks.iter().find(is_it)?.ip_address.clone().filter(|a| !a.is_empty())
        };
        Self {
            public: address("public"),
            private: address("private"),
            id: it.id,
            name: it.name,
            status: it.status,
            created: it.created_at.and_then(|t| t.parse().ok()),
            tags: it.tags.unwrap_or_default(),
        }
    }
}

#[derive(Deserialize)]
struct One {
    droplet: Description,
}

#[derive(Deserialize)]
struct Many {
    droplets: Vec<Description>,
}

impl Page for Many {
    type Item = Droplet;

    fn items(self) -> Vec<Droplet> {
        self.droplets.into_iter().map(Into::into).collect()
    }
}

/// The order of a droplet.
#[derive(Clone, Copy, Debug)]
pub struct NewDroplet<'a> {
    /// Its name, which has to be one of a host.
    pub name: &'a str,
    /// The region's slug, such as `sfo2`.
    pub region: &'a str,
    /// The size's slug, such as `s-1vcpu-2gb`.
    pub size: &'a str,
    /// The image's id.
    pub image: u64,
    /// The id of a key that may log in. Without any, DigitalOcean would send a password by mail.
    pub key: u64,
    /// Whether it gets an address of IPv6, too.
    pub ipv6: bool,
    /// The private network; the region's default, if there is none.
    pub vpc: Option<&'a str>,
    /// Userdata; may be empty.
    pub user_data: &'a str,
    /// Tags; those that there are not are made.
    pub tags: &'a [&'a str],
}

/// What goes on with a droplet.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Action {
    /// Unique.
    pub id: u64,
    /// `in-progress`, `completed` or `errored`.
    #[serde(default)]
    pub status: String,
    /// What is done, such as `snapshot`.
    #[serde(rename = "type", default)]
    pub kind: String,
}

#[derive(Deserialize)]
struct OneAction {
    action: Action,
}

#[derive(Deserialize)]
struct ManyActions {
    actions: Vec<Action>,
}

impl Page for ManyActions {
    type Item = Action;

    fn items(self) -> Vec<Action> {
        self.actions
    }
}

#[derive(Deserialize)]
struct Snapshots {
    snapshots: Vec<Image>,
}

impl Page for Snapshots {
    type Item = Image;

    fn items(self) -> Vec<Image> {
        self.snapshots
    }
}

impl Api {
    /// Orders a droplet. The API makes a second one of the same order: [`super::order::droplet`] sees to that.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub(super) async fn create_droplet(&self, new: &NewDroplet<'_>) -> Result<Droplet> {
        let mut body = json!({
            "name": new.name,
            "region": new.region,
            "size": new.size,
            "image": new.image,
            "ssh_keys": [new.key],
            "backups": false,
            "ipv6": new.ipv6,
            "monitoring": false,
            "user_data": new.user_data,
            "tags": new.tags,
        });
        // The older word asks for the default network, which newer accounts get anyway.
        match new.vpc {
            Some(vpc) => body["vpc_uuid"] = vpc.into(),
            None => body["private_networking"] = true.into(),
        }
        let call = self.service().post(format!("droplets.create {}", new.name), self.url(&["droplets"]));
        call.json(&body).read::<One>().await.map(|one| one.droplet.into())
    }

    /// A droplet; `None`: there is none.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn droplet(&self, id: u64) -> Result<Option<Droplet>> {
        let url = self.url(&["droplets", &id.to_string()]);
        let one = self.service().get(format!("droplets.get {id}"), url).read::<One>().await;
        found(one.map(|one| one.droplet.into()))
    }

    /// All droplets with a tag.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn droplets(&self, tag: &str) -> Result<Vec<Droplet>> {
        let all = self.list::<Many>("droplets.list", &["droplets"], &[("tag_name", tag)]).await?;
        // Services that know no such filter answer with everybody's.
        Ok(all.into_iter().filter(|d| d.tags.iter().any(|t| t == tag)).collect())
    }

    /// Removes a droplet; that there is none is fine.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn delete_droplet(&self, id: u64) -> Result<()> {
        let url = self.url(&["droplets", &id.to_string()]);
        found(self.service().delete(format!("droplets.delete {id}"), url).send().await).map(drop)
    }

    /// Begins to make an image of a droplet's disk. An order whose answer is lost, and that was taken, is found again:
    /// nobody else makes images of the droplet.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn snapshot(&self, droplet: u64, name: &str) -> Result<Action> {
        let id = droplet.to_string();
        let path = ["droplets", &id, "actions"];
        let body = json!({"type": "snapshot", "name": name});
        let order = || {
            let call = self.service().post(format!("droplets.snapshot {droplet}"), self.url(&path));
            call.json(&body).read::<OneAction>()
        };
        let error = match order().await {
            Ok(one) => return Ok(one.action),
            Err(e) if e.is_doubtful() => e,
            Err(e) => return Err(e),
        };
        let there = self.list::<ManyActions>("droplets.actions", &path, &[]).await?;
        match (there.into_iter().find(|a| a.kind == "snapshot"), error.refusal()) {
            (Some(action), _) => Ok(action),
            // A passing trouble of the service.
            (None, Some(_)) => order().await.map(|one| one.action),
            (None, None) => Err(error),
        }
    }

    /// What became of an action.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn action(&self, id: u64) -> Result<Action> {
        let url = self.url(&["actions", &id.to_string()]);
        let call = self.service().get(format!("actions.get {id}"), url).patient();
        call.read::<OneAction>().await.map(|one| one.action)
    }

    /// The images that were made of a droplet's disk.
    ///
    /// # Errors
    /// Any [`crate::http::CallError`].
    pub async fn snapshots(&self, droplet: u64) -> Result<Vec<Image>> {
        let droplet = droplet.to_string();
        self.list::<Snapshots>("droplets.snapshots", &["droplets", &droplet, "snapshots"], &[]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_null_is_absent() {
        for text in [
            r#"{"id":1}"#,
            r#"{"id":1,"networks":null,"tags":null,"created_at":null}"#,
            r#"{"id":1,"networks":{"v4":null,"v6":[]},"created_at":"long ago"}"#,
            r#"{"id":1,"networks":{"v4":[{"type":"public"},{"ip_address":"1.2.3.4"}]},"more":[1]}"#,
        ] {
            let droplet: Droplet = serde_json::from_str::<Description>(text).unwrap().into();
            assert_eq!(droplet, Droplet { id: 1, ..Droplet::default() }, "{text}");
        }
        let text = r#"{"id":1,"networks":{"v4":[
            {"ip_address":"10.0.0.2","type":"private"},{"ip_address":"127.0.0.1:40022","type":"public"}]}}"#;
        let droplet: Droplet = serde_json::from_str::<Description>(text).unwrap().into();
        assert_eq!(droplet.public.as_deref(), Some("127.0.0.1:40022"));
        assert_eq!(droplet.private.as_deref(), Some("10.0.0.2"));
    }
}
