//! What is left over at an OpenStack: servers and images with our mark, floating IPs that no server uses, key pairs of
//! flights.
//!
//! Networks, security groups, volumes, and images without the tag are never touched.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use futures_util::future::{join_all, try_join_all};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use super::api::{Api, FloatingIp, Image, Server};
use super::{IMAGE_TAG, MARK};
use crate::cloud::gc::{Collect, Found, Item, KEEP, Kind, Now, Removal, State};
use crate::http::CallError;
use crate::poll::{self, Answer, Poll};
use crate::text::chain;

const SERVER: Kind = Kind { name: "server", batch: 20 };
const FLOATING_IP: Kind = Kind { name: "floating-ip", batch: 20 };
const KEY_PAIR: Kind = Kind { name: "key-pair", batch: 20 };
const IMAGE: Kind = Kind { name: "image", batch: 20 };

/// Metadata of a server with the token of its launch, which its floating IP's description has, too.
pub const LAUNCH: &str = "mantle-launch";

/// What the description of a floating IP of mantle's begins with.
const DESCRIPTION: &str = "mantle-launch ";

/// How long a server may take to go.
const GONE: Poll = Poll::seconds(5, 120);

/// The description of the floating IP of a launch.
pub fn description(token: &str) -> String {
    format!("{DESCRIPTION}{token}")
}

/// One project in one region.
pub struct Collector {
    api: Api,
}

impl Collector {
    /// In the region of the API.
    pub fn new(api: Api) -> Self {
        Self { api }
    }

    async fn servers(&self) -> Result<Vec<Server>, CallError> {
        self.api.servers(None).await
    }

    async fn floating_ips(&self) -> Result<Vec<Found>, CallError> {
        Ok(self.api.floating_ips(None).await?.iter().map(floating_ip).collect())
    }

    /// Key pairs with names as flights have them, that no server has. When one was made is known by asking for it.
    async fn key_pairs(&self, servers: &[Server]) -> Result<Vec<Found>, CallError> {
        let used: BTreeSet<&str> = servers.iter().filter_map(|s| s.key_name.as_deref()).collect();
        let names = self.api.key_pairs().await?;
        let look = |name: String| {
            let in_use = used.contains(name.as_str());
            async move {
                Ok::<_, CallError>(self.api.key_pair(&name).await?.map(|pair| Found {
                    kind: KEY_PAIR.name,
                    ours: true,
                    kept: false,
                    created: pair.created_at,
                    state: match in_use {
                        true => State::Other("used by a server".into()),
                        false => State::There("unused".into()),
                    },
                    id: pair.name,
                    name: String::new(),
                }))
            }
        };
        let found = stream::iter(names.into_iter().filter(|n| is_flight(n)).map(look)).buffered(8);
        Ok(found.try_collect::<Vec<_>>().await?.into_iter().flatten().collect())
    }

    async fn images(&self, servers: &[Server]) -> Result<Vec<Found>, CallError> {
        let used: BTreeSet<&str> = servers.iter().filter_map(|s| s.image.as_deref()).collect();
        let all = self.api.images_tagged(IMAGE_TAG).await?;
        Ok(all.iter().map(|i| image(i, used.contains(i.id.as_str()))).collect())
    }

    async fn remove_one(&self, item: &Item) -> Result<(), CallError> {
        match item.kind.as_str() {
            "server" => end(&self.api, &item.id).await,
            "floating-ip" => self.api.delete_floating_ip(&item.id).await,
            "key-pair" => self.api.delete_key_pair(&item.id).await,
            _ => self.api.delete_image(&item.id).await.map(drop),
        }
    }
}

/// Whether a key pair's name is one that flights of kola have: `kola-` and a UUID. Key pairs carry no other mark.
fn is_flight(name: &str) -> bool {
    name.strip_prefix("kola-").is_some_and(|id| id.len() == 36 && uuid::Uuid::try_parse(id).is_ok())
}

/// Removes a server and the floating IPs that lead to it or were made for it, and waits until it is gone. That there
/// is none is fine.
///
/// # Errors
/// Any [`CallError`]. The server is removed even if its floating IPs cannot be.
pub async fn end(api: &Api, id: &str) -> Result<(), CallError> {
    let server = api.server(id).await?;
    let freed = match &server {
        Some(server) => free(api, server).await,
        None => Ok(()),
    };
    if let Err(e) = &freed {
        crate::warning!("openstack", "cannot remove the floating IP of server {id}: {}", chain(e));
    }
    if server.is_some() {
        api.delete_server(id).await?;
        gone(api, id).await?;
    }
    freed
}

/// Removes the floating IPs of a server.
async fn free(api: &Api, server: &Server) -> Result<(), CallError> {
    let of_port = |port: String| async move { api.floating_ips(Some(("port_id", &port))).await };
    let ports = api.ports(&server.id).await?;
    let mut all: Vec<FloatingIp> = try_join_all(ports.into_iter().map(of_port)).await?.concat();
    if let Some(token) = server.metadata.get(LAUNCH) {
        all.extend(of_launch(api, token).await?);
    }
    let ids: BTreeSet<String> = all.into_iter().map(|f| f.id).collect();
    try_join_all(ids.iter().map(|id| api.delete_floating_ip(id))).await.map(drop)
}

/// The floating IPs that were made for a launch.
///
/// # Errors
/// Any [`CallError`].
pub async fn of_launch(api: &Api, token: &str) -> Result<Vec<FloatingIp>, CallError> {
    let description = description(token);
    let all = api.floating_ips(Some(("description", &description))).await?;
    Ok(all.into_iter().filter(|f| f.description.as_deref() == Some(&description)).collect())
}

/// Waits until a server is gone.
async fn gone(api: &Api, id: &str) -> Result<(), CallError> {
    let call = format!("compute servers delete {id}");
    let ask = || async {
        match api.server(id).await? {
            None => Ok(Answer::Ready(())),
            Some(s) if s.status.contains("DELETED") => Ok(Answer::Ready(())),
            Some(s) if s.status == "ERROR" && s.task.is_none() && s.fault.is_some() => {
                // It was in this state before, or its deletion failed: that shows in a moment.
                Ok(Answer::NotYet(format!("ERROR: {}", s.fault.unwrap_or_default())))
            }
            Some(s) => Ok(Answer::NotYet(s.status)),
        }
    };
    // It is a removal: the end of the work must not end it.
    match GONE.until(format!("server {id} gone"), &CancellationToken::new(), ask).await {
        Ok(()) => Ok(()),
        Err(poll::Error::Failed(e)) => Err(e),
        Err(late) => Err(CallError::answer(call, late.to_string())),
    }
}

impl Collect for Collector {
    type Error = CallError;

    const KINDS: &'static [Kind] = &[SERVER, FLOATING_IP, KEY_PAIR, IMAGE];

    fn scope(&self) -> Vec<(&'static str, String)> {
        let region = self.api.region().unwrap_or_default().to_owned();
        vec![("project", self.api.grant().project_id.clone()), ("region", region)]
    }

    async fn find(&self, _before: DateTime<Utc>) -> Result<Vec<Found>, CallError> {
        let servers = self.servers().await?;
        let mut all: Vec<Found> = servers.iter().map(found).collect();
        all.extend(self.floating_ips().await?);
        all.extend(self.key_pairs(&servers).await?);
        all.extend(self.images(&servers).await?);
        Ok(all)
    }

    async fn recheck(&self, items: &[Item], _before: DateTime<Utc>) -> Result<Vec<Now>, CallError> {
        let there = match items.first().map(|i| i.kind.as_str()) {
            Some("server") => self.servers().await?.iter().map(found).collect(),
            Some("floating-ip") => self.floating_ips().await?,
            Some("key-pair") => self.key_pairs(&self.servers().await?).await?,
            _ => self.images(&self.servers().await?).await?,
        };
        let now = |item: &Item| match there.iter().find(|f| f.id == item.id) {
            Some(found) => Now::There(found.clone()),
            None => Now::Gone,
        };
        Ok(items.iter().map(now).collect())
    }

    async fn remove(
        &self,
        batch: &[Item],
        _before: DateTime<Utc>,
    ) -> Result<Vec<Removal<CallError>>, CallError> {
        let removed = join_all(batch.iter().map(|item| self.remove_one(item))).await;
        Ok(removed.into_iter().map(|r| r.map_or_else(Removal::Failed, |()| Removal::Done)).collect())
    }

    fn is_gone(error: &CallError) -> bool {
        error.is_not_found()
    }
}

fn found(server: &Server) -> Found {
    Found {
        kind: SERVER.name,
        id: server.id.clone(),
        name: server.name.clone(),
        ours: server.metadata.get(MARK.0).is_some_and(|mark| mark == MARK.1),
        kept: server.locked || server.metadata.contains_key(KEEP),
        created: server.created,
        state: match server.status.as_str() {
            "" => State::Unknown,
            _ if server.is_ending() => State::Ending,
            status => State::There(status.into()),
        },
    }
}

fn floating_ip(it: &FloatingIp) -> Found {
    Found {
        kind: FLOATING_IP.name,
        id: it.id.clone(),
        name: it.address.clone().unwrap_or_default(),
        ours: it.description.as_deref().is_some_and(|d| d.starts_with(DESCRIPTION)),
        kept: false,
        created: it.created_at,
        // The others go with their servers.
        state: match &it.port_id {
            Some(_) => State::Other("in use".into()),
            None => State::There("unused".into()),
        },
    }
}

fn image(it: &Image, used: bool) -> Found {
    Found {
        kind: IMAGE.name,
        id: it.id.clone(),
        name: it.name.clone().unwrap_or_default(),
        ours: it.tags.iter().any(|t| t == IMAGE_TAG),
        kept: it.protected == Some(true) || it.tags.iter().any(|t| t == KEEP),
        created: it.created_at,
        state: match it.status.as_str() {
            "" => State::Unknown,
            "deleted" | "pending_delete" => State::Ending,
            _ if used => State::Other("used by a server".into()),
            status => State::There(status.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_pairs_are_ours_by_the_form_of_their_names() {
        assert!(is_flight("kola-0b0f6a4e-1111-4222-8333-444455556666"));
        for name in [
            "kola",
            "kola-",
            "kola-mine",
            "Kola-0b0f6a4e-1111-4222-8333-444455556666",
            "my-0b0f6a4e-1111-4222-8333-444455556666",
            "kola-0b0f6a4e111142228333444455556666",
            "kola-0b0f6a4e-1111-4222-8333-444455556666-2",
        ] {
            assert!(!is_flight(name), "{name}");
        }
    }

    #[test]
    fn things_are_ours_by_their_marks() {
        let server = |key: &str, value: &str, status: &str| {
            found(&Server {
                status: status.into(),
                metadata: [(key.to_owned(), value.to_owned())].into(),
                ..Server::default()
            })
        };
        assert!(server("CreatedBy", "mantle", "ACTIVE").ours);
        for (key, value) in
            [("CreatedBy", "Mantle"), ("CreatedBy", "mantle2"), ("createdby", "mantle"), ("x", "mantle")]
        {
            assert!(!server(key, value, "ACTIVE").ours, "{key}={value}");
        }
        assert_eq!(server("CreatedBy", "mantle", "SOFT_DELETED").state, State::Ending);
        assert_eq!(server("CreatedBy", "mantle", "SHUTOFF").state, State::There("SHUTOFF".into()));
        assert!(server(KEEP, "", "ACTIVE").kept);
        let tagged = |tags: &[&str], protected, used| {
            let tags = tags.iter().map(|t| (*t).to_owned()).collect();
            image(&Image { tags, protected, status: "active".into(), ..Image::default() }, used)
        };
        assert!(tagged(&["mantle"], None, false).ours && !tagged(&["mantle-2"], None, false).ours);
        assert!(tagged(&["mantle"], Some(true), false).kept && tagged(&["mantle", KEEP], None, false).kept);
        assert_eq!(tagged(&["mantle"], None, true).state, State::Other("used by a server".into()));
        let ip = |description: Option<&str>, port: Option<&str>| {
            floating_ip(&FloatingIp {
                id: "1".into(),
                address: None,
                port_id: port.map(str::to_owned),
                description: description.map(str::to_owned),
                created_at: None,
            })
        };
        assert!(
            ip(Some("mantle-launch x"), None).ours && !ip(Some("mantle"), None).ours && !ip(None, None).ours
        );
        assert_eq!(ip(None, Some("p")).state, State::Other("in use".into()));
    }
}
