//! Images of old releases, and the snapshots that they are made of.
//!
//! An image is of a release by its tags `Channel` and `Version`, and ours by our mark.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::api::{Api, Image, tag};
use super::failure::{Error, Result};
use super::images::is_kept;
use super::{COMPONENT, MARK};
use crate::cloud::gc::{Collect, Found, Item, Kind, Now, Removal, State};
use crate::natural;
use crate::warning;

const IMAGE: Kind = Kind { name: "image", batch: 1 };
/// One that no image is made of any more: the removal of its image was interrupted.
const SNAPSHOT: Kind = Kind { name: "snapshot", batch: 1 };

/// The images of a channel in one region of one account.
pub struct Collector {
    api: Api,
    account: String,
    channel: String,
    /// So many of the newest versions stay, however old.
    keep: usize,
    /// What machines were started of since then stays.
    unused_since: Option<DateTime<Utc>>,
}

impl Collector {
    /// With the APIs of an account in a region, and its number. The newest `keep` versions stay, however old.
    pub fn new(api: Api, account: String, channel: &str, keep: usize) -> Self {
        Self { api, account, channel: channel.into(), keep, unused_since: None }
    }

    /// Images stay that machines were started of since this time.
    #[must_use]
    pub fn unused_since(self, time: Option<DateTime<Utc>>) -> Self {
        Self { unused_since: time, ..self }
    }

    /// Marks as kept what machines were started of lately. Only what would go is asked about: of these, or of what
    /// was made before a time.
    async fn keep_used(&self, found: &mut [Found], asked: impl Fn(&Found) -> bool) -> Result<()> {
        let Some(since) = self.unused_since else { return Ok(()) };
        for image in found.iter_mut().filter(|f| f.kind == IMAGE.name && f.ours && !f.kept) {
            if asked(image) {
                image.kept = self.api.last_launched(&image.id).await?.is_some_and(|time| time >= since);
            }
        }
        Ok(())
    }

    /// All images of the channel, and snapshots without one.
    async fn all(&self) -> Result<Vec<Found>> {
        let of_channel: &[(&str, &[&str])] = &[("tag:Channel", &[self.channel.as_str()])];
        // Snapshots first: an image that is made of one meanwhile is seen then.
        let snapshots = self.api.snapshots(of_channel).await?;
        let images = self.api.images(true, &[], &[]).await?;
        let used =
            |id: &str| images.iter().any(|i| i.mappings.iter().any(|m| m.snapshot.as_deref() == Some(id)));
        let mut found = judged(&images, &self.channel, self.keep);
        for snapshot in snapshots.into_iter().filter(|s| !used(&s.id)) {
            let is_of = |name: &str, value: &str| tag(&snapshot.tags, name) == Some(value);
            found.push(Found {
                kind: SNAPSHOT.name,
                name: tag(&snapshot.tags, "Name").unwrap_or_default().to_owned(),
                ours: is_of(MARK.0, MARK.1) && is_of("Channel", &self.channel),
                kept: is_kept(&snapshot.tags),
                created: snapshot.started,
                state: match snapshot.status.as_str() {
                    "completed" | "error" => State::There(snapshot.status.clone()),
                    other => State::Other(other.into()),
                },
                id: snapshot.id,
            });
        }
        Ok(found)
    }
}

/// What may become of images.
fn judged(images: &[Image], channel: &str, keep: usize) -> Vec<Found> {
    let ours = |i: &&Image| tag(&i.tags, MARK.0) == Some(MARK.1) && tag(&i.tags, "Channel") == Some(channel);
    let version = |i: &Image| tag(&i.tags, "Version").unwrap_or_default().to_owned();
    let mut versions: Vec<String> = images.iter().filter(ours).map(version).collect();
    versions.sort_by(|a, b| natural::compare(b, a));
    versions.dedup();
    let newest: BTreeSet<&String> = versions.iter().take(keep).collect();
    let mut found: Vec<Found> = images
        .iter()
        .filter(|i| tag(&i.tags, "Channel").is_some())
        .map(|image| Found {
            kind: IMAGE.name,
            id: image.id.clone(),
            name: image.name.clone(),
            ours: ours(&image) && !version(image).is_empty(),
            kept: is_kept(&image.tags) || newest.contains(&version(image)),
            created: image.created,
            state: match image.state.as_str() {
                "deregistered" => State::Ending,
                "" => State::Unknown,
                "available" if image.public => State::There("public".into()),
                state @ ("available" | "failed" | "invalid" | "error") => State::There(state.into()),
                other => State::Other(other.into()),
            },
        })
        .collect();
    found.sort_by_key(|f| Reverse(f.created));
    found
}

impl Collect for Collector {
    type Error = Error;

    const KINDS: &'static [Kind] = &[IMAGE, SNAPSHOT];

    fn scope(&self) -> Vec<(&'static str, String)> {
        let region = self.api.region().to_owned();
        vec![("account", self.account.clone()), ("region", region), ("channel", self.channel.clone())]
    }

    async fn find(&self, before: DateTime<Utc>) -> Result<Vec<Found>> {
        let mut found = self.all().await?;
        self.keep_used(&mut found, |image| image.created.is_none_or(|created| created < before)).await?;
        Ok(found)
    }

    async fn recheck(&self, items: &[Item], _: DateTime<Utc>) -> Result<Vec<Now>> {
        let mut there = self.all().await?;
        self.keep_used(&mut there, |image| items.iter().any(|item| item.id == image.id)).await?;
        let now = |item: &Item| match there.iter().find(|f| f.kind == item.kind && f.id == item.id) {
            Some(found) => Now::There(found.clone()),
            None => Now::Gone,
        };
        Ok(items.iter().map(now).collect())
    }

    async fn remove(&self, batch: &[Item], _: DateTime<Utc>) -> Result<Vec<Removal<Error>>> {
        let mut removals = Vec::new();
        for item in batch {
            let removed = match item.kind == SNAPSHOT.name {
                true => self.api.delete_snapshot(&item.id).await.map_err(Error::from),
                false => self.remove_image(&item.id).await,
            };
            removals.push(match removed {
                Ok(()) => Removal::Done,
                Err(e) => Removal::Failed(e),
            });
        }
        Ok(removals)
    }

    fn is_gone(error: &Error) -> bool {
        matches!(error.root(), Error::Api(e) if e.is_not_found())
    }
}

impl Collector {
    /// Takes an image away, then the snapshots that it was made of, unless another image is made of them, too.
    async fn remove_image(&self, id: &str) -> Result<()> {
        let image = self.api.images(true, &[id], &[]).await?.into_iter().find(|i| i.id == id);
        let mappings = image.map(|i| i.mappings).unwrap_or_default();
        let snapshots: Vec<String> = mappings.into_iter().filter_map(|m| m.snapshot).collect();
        self.api.deregister_image(id).await?;
        for snapshot in &snapshots {
            match self.api.delete_snapshot(snapshot).await {
                Err(e) if e.is(&["InvalidSnapshot.InUse"]) => {
                    warning!(COMPONENT, "snapshot {snapshot} stays: {e}");
                }
                other => other?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, version: &str, tags: &[(&str, &str)]) -> Image {
        let own = [("Channel", "alpha"), ("Version", version), MARK];
        let tags = own.iter().chain(tags).map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Image { id: id.into(), state: "available".into(), tags, ..Image::default() }
    }

    #[test]
    fn the_newest_versions_stay() {
        let images = [
            image("hvm-9", "9.0.0", &[]),
            image("pv-9", "9.0.0", &[]),
            image("hvm-10", "10.0.0", &[]),
            image("hvm-2", "2.0.0", &[]),
            image("hvm-1", "1.0.0", &[("mantle:keep", "")]),
        ];
        let stays = |keep: usize| -> Vec<String> {
            let found = judged(&images, "alpha", keep);
            assert!(found.iter().all(|f| f.ours));
            found.into_iter().filter(|f| f.kept).map(|f| f.id).collect()
        };
        assert_eq!(stays(0), ["hvm-1"]);
        assert_eq!(stays(1), ["hvm-10", "hvm-1"]);
        assert_eq!(stays(2), ["hvm-9", "pv-9", "hvm-10", "hvm-1"]);
        assert!(judged(&images, "beta", 0).iter().all(|f| !f.ours), "of another channel");
        let unmarked = Image { tags: vec![("Channel".into(), "alpha".into())], ..image("x", "1", &[]) };
        assert!(!judged(&[unmarked], "alpha", 0)[0].ours);
    }
}
