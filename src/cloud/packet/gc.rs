//! What is left over at Packet: devices with our tag. Keys and stored objects are never touched.

use chrono::{DateTime, Utc};
use futures_util::future::join_all;

use super::api::Device;
use super::{MARK, Packet};
use crate::cloud::gc::{Collect, Found, Item, KEEP, Kind, Now, Removal, State};
use crate::http::CallError;

const DEVICE: Kind = Kind { name: "device", batch: 10 };

/// One project.
pub struct Collector(Packet);

impl Collector {
    /// Of the project of the API.
    pub fn new(packet: Packet) -> Self {
        Self(packet)
    }

    async fn now(&self, item: &Item) -> Result<Now, CallError> {
        Ok(self.0.device(&item.id).await?.map_or(Now::Gone, |device| Now::There(found(&device))))
    }
}

impl Collect for Collector {
    type Error = CallError;

    const KINDS: &'static [Kind] = &[DEVICE];

    fn scope(&self) -> Vec<(&'static str, String)> {
        vec![("project", self.0.project().to_owned())]
    }

    async fn find(&self, _before: DateTime<Utc>) -> Result<Vec<Found>, CallError> {
        Ok(self.0.devices().await?.iter().map(found).collect())
    }

    async fn recheck(&self, items: &[Item], _before: DateTime<Utc>) -> Result<Vec<Now>, CallError> {
        join_all(items.iter().map(|item| self.now(item))).await.into_iter().collect()
    }

    async fn remove(
        &self,
        batch: &[Item],
        _before: DateTime<Utc>,
    ) -> Result<Vec<Removal<CallError>>, CallError> {
        let removed = join_all(batch.iter().map(|item| self.0.delete_device(&item.id))).await;
        Ok(removed.into_iter().map(|r| r.map_or_else(Removal::Failed, |()| Removal::Done)).collect())
    }

    fn is_gone(error: &CallError) -> bool {
        error.is_not_found()
    }
}

fn found(device: &Device) -> Found {
    Found {
        kind: DEVICE.name,
        id: device.id.clone(),
        name: device.hostname.clone().unwrap_or_default(),
        ours: device.has_tag(MARK),
        // What is locked is not even shown as something to be removed.
        kept: device.locked == Some(true) || device.has_tag(KEEP),
        created: device.created(),
        state: match device.state.as_deref() {
            None | Some("") => State::Unknown,
            Some("deprovisioning") => State::Ending,
            // The service refuses to remove these.
            Some(state @ ("queued" | "provisioning")) => State::Other(state.into()),
            Some(state) => State::There(state.into()),
        },
    }
}
