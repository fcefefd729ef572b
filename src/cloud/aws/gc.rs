//! What is left over at AWS: machines with our mark, and uploads that were given up on this computer.
//!
//! Images, snapshots, volumes, networks, groups, roles, keys, buckets and complete objects are never touched.

use chrono::{DateTime, SubsecRound as _, Utc};

use super::MARK;
use super::api::{Api, Instance, tag};
use super::failure::{Error, Result};
use super::images::is_kept;
use super::object;
use super::unfinished::{Slot, Work};
use crate::cloud::gc::{Collect, Found, Item, Kind, Now, Removal, State};
use crate::cloud::resume;
use crate::info;

const INSTANCE: Kind = Kind { name: "instance", batch: 100 };
/// The parts of an object whose upload was given up, recorded on this computer. The id is the object's URL.
const UPLOAD: Kind = Kind { name: "upload", batch: 1 };

/// The states of machines that are removed.
const LIVE: [&str; 4] = ["pending", "running", "stopping", "stopped"];

/// One account in one region.
pub struct Collector {
    api: Api,
    account: String,
}

impl Collector {
    /// With the APIs of an account, and its number.
    pub fn new(api: Api, account: String) -> Self {
        Self { api, account }
    }
}

impl Collect for Collector {
    type Error = Error;

    const KINDS: &'static [Kind] = &[INSTANCE, UPLOAD];

    fn scope(&self) -> Vec<(&'static str, String)> {
        vec![("account", self.account.clone()), ("region", self.api.region().to_owned())]
    }

    async fn find(&self, before: DateTime<Utc>) -> Result<Vec<Found>> {
        let instances = self.api.instances(&[("tag:CreatedBy", &[MARK.1])], &[]).await?;
        let uploads = uploads(self.api.region(), before).into_iter().map(|u| u.found);
        Ok(instances.iter().map(instance).chain(uploads).collect())
    }

    async fn recheck(&self, items: &[Item], before: DateTime<Utc>) -> Result<Vec<Now>> {
        if items.iter().any(|i| i.kind == UPLOAD.name) {
            let there = uploads(self.api.region(), before);
            let now = |item: &Item| match there.iter().find(|u| u.found.id == item.id) {
                Some(upload) => Now::There(upload.found.clone()),
                None => Now::Spared(RESUMED),
            };
            return Ok(items.iter().map(now).collect());
        }
        let ids: Vec<_> = items.iter().map(|i| i.id.as_str()).collect();
        // By filter: a request for ids fails as a whole if one of them is gone.
        let there = self.api.instances(&[("instance-id", &ids)], &[]).await?;
        let now = |item: &Item| match there.iter().find(|i| i.id == item.id) {
            Some(found) => Now::There(instance(found)),
            None => Now::Gone,
        };
        Ok(items.iter().map(now).collect())
    }

    async fn remove(&self, batch: &[Item], before: DateTime<Utc>) -> Result<Vec<Removal<Error>>> {
        if batch.iter().any(|i| i.kind == UPLOAD.name) {
            let mut removals = Vec::new();
            for item in batch {
                removals.push(self.remove_upload(item, before).await);
            }
            return Ok(removals);
        }
        let ids: Vec<_> = batch.iter().map(|i| i.id.as_str()).collect();
        self.api.terminate(&ids).await?;
        Ok(batch.iter().map(|_| Removal::Done).collect())
    }

    fn is_gone(error: &Error) -> bool {
        matches!(error.root(), Error::Api(e) if e.is_not_found())
    }
}

impl Collector {
    /// Removes the parts of an upload, if it is still given up; it is locked meanwhile.
    async fn remove_upload(&self, item: &Item, before: DateTime<Utc>) -> Removal<Error> {
        let there = uploads(self.api.region(), before).into_iter().find(|u| u.found.id == item.id);
        let Some(Upload { slot, work: Work::Multipart { bucket, key, upload, .. }, .. }) = there else {
            return Removal::Spared(RESUMED);
        };
        match object::abandon(&self.api, &bucket, &key, upload.as_deref()).await {
            Ok(()) => {
                slot.clear();
                Removal::Done
            }
            Err(e) => Removal::Failed(e),
        }
    }
}

const RESUMED: &str = "it is not recorded as given up any more";

fn instance(instance: &Instance) -> Found {
    let Instance { id, state, tags, .. } = instance;
    Found {
        kind: INSTANCE.name,
        id: id.clone(),
        name: tag(tags, "Name").unwrap_or_default().to_owned(),
        // The filter has seen to this, unless somebody else answers than EC2.
        ours: tag(tags, MARK.0) == Some(MARK.1),
        kept: is_kept(tags),
        created: instance.launched,
        state: match state.as_str() {
            "terminated" | "shutting-down" => State::Ending,
            "" => State::Unknown,
            state if LIVE.contains(&state) => State::There(state.into()),
            other => State::Other(other.into()),
        },
    }
}

/// An upload that was given up.
struct Upload {
    /// It is locked while this is held.
    slot: Slot,
    found: Found,
    work: Work,
}

/// The uploads given up on this computer before a time.
fn uploads(region: &str, before: DateTime<Utc>) -> Vec<Upload> {
    let mut found = Vec::new();
    for (slot, record) in resume::abandoned::<Work>(region, before) {
        let id = match &record.work {
            Work::Multipart { bucket, key, .. } => format!("s3://{bucket}/{key}"),
            // The provider gives these up by itself, an hour after the last block.
            Work::Snapshot { id, .. } => {
                let id = id.as_deref().unwrap_or("whose id is not known");
                info!("gc", "skipping unfinished snapshot {id}: snapshots are never removed by gc");
                continue;
            }
        };
        let upload = Found {
            kind: UPLOAD.name,
            id,
            name: record.file.display().to_string(),
            ours: true,
            kept: false,
            created: slot.modified().map(|m| m.trunc_subsecs(0)),
            state: State::There("unfinished".into()),
        };
        found.push(Upload { slot, found: upload, work: record.work });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(state: &str, tags: &[(&str, &str)]) -> Found {
        instance(&Instance {
            id: "i-1".into(),
            state: state.into(),
            launched: "2026-01-01T10:00:00Z".parse().ok(),
            tags: tags.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            ..Instance::default()
        })
    }

    const OURS: (&str, &str) = ("CreatedBy", "mantle");

    #[test]
    fn machines_are_ours_by_their_tag_alone() {
        assert!(there("running", &[("Name", "kola-1"), OURS]).ours);
        for tags in [&[][..], &[("CreatedBy", "Mantle")], &[("createdby", "mantle"), ("Owner", "mantle")]] {
            assert!(!there("running", tags).ours, "{tags:?}");
        }
        assert!(there("running", &[OURS, ("mantle:keep", "")]).kept);
        assert_eq!(there("running", &[OURS, ("Name", "kola-1")]).name, "kola-1");
    }

    #[test]
    fn states_of_machines_have_a_meaning() {
        for state in LIVE {
            assert_eq!(there(state, &[OURS]).state, State::There(state.into()));
        }
        for (state, means) in [
            ("terminated", State::Ending),
            ("shutting-down", State::Ending),
            ("rebooting", State::Other("rebooting".into())),
            ("", State::Unknown),
        ] {
            assert_eq!(there(state, &[OURS]).state, means);
        }
    }
}
