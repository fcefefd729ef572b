//! What is left over at Google: instances with our mark.
//!
//! Images, disks (they go with their instances), networks, firewall rules, buckets and objects are never touched.

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::MARK;
use super::compute::{ALL_ZONES, Compute, Instance};
use crate::cloud::gc::{Collect, Found, Item, Kind, Now, Removal, State};
use crate::http::CallError;
use crate::poll;

const INSTANCE: Kind = Kind { name: "instance", batch: 20 };

/// Label of instances that stay, whatever its value; labels have no colons.
pub const KEEP: &str = "mantle-keep";

/// One project in one zone, or in all of them.
pub struct Collector {
    compute: Compute,
}

impl Collector {
    /// In the zone of the API.
    pub fn new(compute: Compute) -> Self {
        Self { compute }
    }

    async fn remove_one(&self, item: &Item) -> Result<(), CallError> {
        let (zone, name) = item.id.split_once('/').unwrap_or_default();
        let compute = self.compute.at(self.compute.project(), zone);
        end(&compute, name).await
    }
}

/// Removes an instance and waits until it is gone. That there is none is fine.
///
/// # Errors
/// Any [`CallError`].
pub async fn end(compute: &Compute, name: &str) -> Result<(), CallError> {
    let Some(operation) = compute.delete_instance(name).await? else { return Ok(()) };
    // It is a removal: the end of the work must not end it.
    let done = compute.done(operation, &format!("deletion of {name}"), &CancellationToken::new()).await;
    match done {
        Ok(()) => Ok(()),
        Err(poll::Error::Failed(e)) if e.is_not_found() => Ok(()),
        Err(poll::Error::Failed(e)) => Err(e),
        Err(late) => Err(CallError::answer(format!("compute.instances.delete {name}"), late.to_string())),
    }
}

impl Collect for Collector {
    type Error = CallError;

    const KINDS: &'static [Kind] = &[INSTANCE];

    fn scope(&self) -> Vec<(&'static str, String)> {
        let zone = match self.compute.zone() {
            ALL_ZONES => "all".to_owned(),
            zone => zone.to_owned(),
        };
        vec![("project", self.compute.project().to_owned()), ("zone", zone)]
    }

    async fn find(&self, _before: DateTime<Utc>) -> Result<Vec<Found>, CallError> {
        // Not by a filter: older versions set no label, and the API cannot look for metadata.
        Ok(self.compute.instances(None).await?.iter().map(found).collect())
    }

    async fn recheck(&self, items: &[Item], _before: DateTime<Utc>) -> Result<Vec<Now>, CallError> {
        let there = self.compute.instances(None).await?;
        let now = |item: &Item| match there.iter().map(found).find(|f| f.id == item.id) {
            Some(found) => Now::There(found),
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

fn found(instance: &Instance) -> Found {
    Found {
        kind: INSTANCE.name,
        id: format!("{}/{}", instance.zone, instance.name),
        name: String::new(),
        ours: instance.marked.as_deref() == Some(MARK.1),
        kept: instance.protected || instance.labels.contains_key(KEEP),
        created: instance.created,
        state: match instance.status.as_str() {
            "" => State::Unknown,
            "STOPPING" | "DELETING" => State::Ending,
            // Somebody stopped it and may want it yet; upstream leaves these alone.
            "TERMINATED" => State::Other("TERMINATED".into()),
            state => State::There(state.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(status: &str, marked: Option<&str>) -> Found {
        found(&Instance {
            name: "kola-1".into(),
            zone: "z".into(),
            status: status.into(),
            marked: marked.map(str::to_owned),
            ..Instance::default()
        })
    }

    #[test]
    fn instances_are_ours_by_their_metadata_alone() {
        assert!(there("RUNNING", Some("mantle")).ours);
        for marked in [None, Some(""), Some("Mantle"), Some("mantle2")] {
            assert!(!there("RUNNING", marked).ours, "{marked:?}");
        }
        let labelled =
            Instance { labels: [("created-by".into(), "mantle".into())].into(), ..Instance::default() };
        assert!(!found(&labelled).ours);
    }

    #[test]
    fn states_have_a_meaning() {
        for (status, means) in [
            ("RUNNING", State::There("RUNNING".into())),
            ("STAGING", State::There("STAGING".into())),
            ("STOPPING", State::Ending),
            ("TERMINATED", State::Other("TERMINATED".into())),
            ("", State::Unknown),
        ] {
            assert_eq!(there(status, None).state, means);
        }
        let kept = Instance { labels: [(KEEP.into(), String::new())].into(), ..Instance::default() };
        assert!(found(&kept).kept && found(&Instance { protected: true, ..Instance::default() }).kept);
    }
}
