//! What is left over at DigitalOcean: droplets with our tag.
//!
//! Images, snapshots, volumes, networks and keys are never touched.

use chrono::{DateTime, Utc};
use futures_util::future::join_all;

use super::{Api, Droplet, MARK};
use crate::cloud::gc::{Collect, Found, Item, KEEP, Kind, Now, Removal, State};
use crate::http::CallError;

const DROPLET: Kind = Kind { name: "droplet", batch: 16 };

/// One account.
pub struct Collector {
    api: Api,
    account: String,
}

impl Collector {
    /// With this name of the account for plans.
    pub fn new(api: Api, account: String) -> Self {
        Self { api, account }
    }
}

fn number(item: &Item) -> Result<u64, CallError> {
    item.id.parse().map_err(|_| CallError::setup(format!("{:?} is no number of a droplet", item.id)))
}

impl Collect for Collector {
    type Error = CallError;

    const KINDS: &'static [Kind] = &[DROPLET];

    fn scope(&self) -> Vec<(&'static str, String)> {
        vec![("account", self.account.clone())]
    }

    async fn find(&self, _before: DateTime<Utc>) -> Result<Vec<Found>, CallError> {
        Ok(self.api.droplets(MARK).await?.iter().map(found).collect())
    }

    async fn recheck(&self, items: &[Item], _before: DateTime<Utc>) -> Result<Vec<Now>, CallError> {
        // One by one: a droplet that has lost its tag is there, but not ours to remove.
        let look = |item: &Item| {
            let id = number(item);
            async move {
                let there = self.api.droplet(id?).await?;
                Ok(there.map_or(Now::Gone, |droplet| Now::There(found(&droplet))))
            }
        };
        join_all(items.iter().map(look)).await.into_iter().collect()
    }

    async fn remove(
        &self,
        batch: &[Item],
        _before: DateTime<Utc>,
    ) -> Result<Vec<Removal<CallError>>, CallError> {
        let remove = |item: &Item| {
            let id = number(item);
            async move { self.api.delete_droplet(id?).await }
        };
        let removed = join_all(batch.iter().map(remove)).await;
        Ok(removed.into_iter().map(|r| r.map_or_else(Removal::Failed, |()| Removal::Done)).collect())
    }

    fn is_gone(error: &CallError) -> bool {
        error.is_not_found()
    }
}

fn found(droplet: &Droplet) -> Found {
    let has = |tag: &str| droplet.tags.iter().any(|t| t == tag);
    Found {
        kind: DROPLET.name,
        id: droplet.id.to_string(),
        name: droplet.name.clone(),
        ours: has(MARK),
        kept: has(KEEP),
        created: droplet.created,
        state: match droplet.status.as_str() {
            "" => State::Unknown,
            // Upstream leaves these alone.
            "archive" => State::Other("archive".into()),
            state => State::There(state.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(status: &str, tags: &[&str]) -> Found {
        let tags = tags.iter().map(|t| (*t).to_owned()).collect();
        found(&Droplet { id: 7, status: status.into(), tags, ..Droplet::default() })
    }

    #[test]
    fn droplets_are_ours_by_their_tag() {
        assert!(there("active", &["x", "mantle"]).ours);
        for tags in [&[][..], &["Mantle"], &["mantle2"], &["mantle:x"]] {
            assert!(!there("active", tags).ours, "{tags:?}");
        }
        assert!(there("active", &["mantle", "mantle:keep"]).kept && !there("active", &["mantle"]).kept);
    }

    #[test]
    fn states_have_a_meaning() {
        for (status, means) in [
            ("new", State::There("new".into())),
            ("active", State::There("active".into())),
            ("off", State::There("off".into())),
            ("archive", State::Other("archive".into())),
            ("", State::Unknown),
        ] {
            assert_eq!(there(status, &["mantle"]).state, means);
        }
    }
}
