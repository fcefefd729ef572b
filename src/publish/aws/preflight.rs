//! What can be known to be in the way at Amazon before anything is changed: rights, limits, and what an account blocks.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use super::super::{Act, Look, Phase, Result, Stage, Step, Stopped, World};
use super::{Shared, stopped};
use crate::cloud::aws::api::{Api, Error, Image, Quota, Right};
use crate::cloud::aws::images::{self, first_snapshot};
use crate::http::Class;
use crate::text::chain;

/// The checks of a region.
pub(super) fn steps(shared: &Arc<Shared>, partition: usize, region: &str, steps: &mut Vec<Step>) {
    let whose = || Region { shared: shared.clone(), partition, region: region.to_owned() };
    let limits = Step::new(
        format!("aws/{region}/limits"),
        Phase::Check,
        format!("have public images in {region}"),
        Limits(whose()),
    );
    steps.push(limits.only_in(&[Stage::Prepare, Stage::Release, Stage::Whole]));
    let making = Step::new(
        format!("aws/{region}/rights"),
        Phase::Check,
        format!("be allowed to make images in {region}"),
        Making(whose()),
    );
    steps.push(making.only_in(&[Stage::Prepare, Stage::Whole]));
    let publishing = Step::new(
        format!("aws/{region}/public-rights"),
        Phase::Check,
        format!("be allowed to publish images in {region}"),
        Publishing(whose()),
    );
    steps.push(publishing.only_in(&[Stage::Release, Stage::Whole]));
}

/// A region of a partition.
struct Region {
    shared: Arc<Shared>,
    partition: usize,
    region: String,
}

/// What came of several questions.
#[derive(Default)]
struct Answers {
    denied: Vec<String>,
    unknown: Vec<String>,
}

impl Answers {
    fn take(&mut self, call: &str, right: Right) {
        match right {
            Right::Granted => {}
            Right::Denied(why) => self.denied.push(why),
            Right::Unknown(why) => self.unknown.push(format!("whether {call} is allowed: {why}")),
        }
    }

    /// What a question that may fail says: its failure leaves the thing unknown.
    fn ask<T>(&mut self, what: &str, answer: Result<T, Error>) -> Option<T> {
        answer.map_err(|e| self.unknown.push(format!("{what}: {}", chain(&e)))).ok()
    }

    fn look(self) -> Look {
        match (self.denied.is_empty(), self.unknown.is_empty()) {
            (false, _) => Look::Impossible(self.denied.join("; ")),
            (true, false) => Look::Unknown(self.unknown),
            (true, true) => Look::Done(Value::Null),
        }
    }
}

impl Region {
    async fn api(&self) -> Result<Api> {
        self.shared.api_in(self.partition, &self.region).await
    }

    fn is_first(&self) -> bool {
        self.shared.facts.partitions[self.partition].bucket_region == self.region
    }

    /// Names of the images that the release has there.
    fn names(&self) -> Vec<String> {
        self.shared.images().filter(|place| place.region == self.region).map(|place| place.name()).collect()
    }

    /// An image that calls can be asked about: one of this release, else one of an earlier one of the channel.
    async fn subject(&self, api: &Api) -> Result<Option<Image>> {
        let pattern = super::image_name(&format!("{}-{}-", self.shared.facts.name, self.shared.channel));
        let pattern = format!("{pattern}*");
        let mut images = api.images(true, &[], &[("name", &[&pattern])]).await.map_err(Stopped::failed)?;
        let names = self.names();
        images.sort_by_key(|image| !names.contains(&image.name));
        Ok(images.into_iter().next())
    }

    /// Whether all images of the release are there and complete.
    async fn is_made(&self, api: &Api) -> Result<bool> {
        for place in self.shared.images().filter(|place| place.region == self.region) {
            let image = images::find(api, &place.name()).await.map_err(stopped)?;
            match image {
                Some(image) if place.is_complete(api, &image).await? => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}

const NOTHING_TO_ASK: &str = "there is no image of this channel yet to ask it about";

/// Whether a region takes our images, and lets them be public.
struct Limits(Region);

#[async_trait(?Send)]
impl Act for Limits {
    async fn look(&self, _: &World<'_>) -> Result<Look> {
        let Region { shared, partition, region } = &self.0;
        let api = self.0.api().await?;
        let public = api.images(true, &[], &[("is-public", &["true"])]).await.map_err(Stopped::failed)?;
        let public: Vec<&str> = public.iter().filter(|i| i.public).map(|i| i.name.as_str()).collect();
        let new = self.0.names().iter().filter(|name| !public.contains(&name.as_str())).count();
        if new == 0 {
            return Ok(Look::Done(Value::Null));
        }
        let mut answers = Answers::default();
        let encrypts = answers.ask("whether new snapshots are encrypted", api.encrypts_snapshots().await);
        if encrypts == Some(true) {
            answers.denied.push(format!(
                "new snapshots in {region} are encrypted by default, and such ones cannot be public: switch that off for \
                 this account"
            ));
        }
        let images = api.blocks_public_images().await;
        let snapshots = api.blocks_public_snapshots().await;
        for (what, blocks) in [("images", images), ("snapshots", snapshots)] {
            let question = format!("whether the account blocks public {what}");
            if answers.ask(&question, blocks) == Some(true) {
                answers.denied.push(format!(
                    "the account blocks public access to new {what} in {region}: switch that off for this account"
                ));
            }
        }
        let known = shared.facts.partitions[*partition].public_images;
        let quota = api.quota(Quota::PUBLIC_IMAGES).await.map_err(|e| chain(&e));
        let quota = quota.and_then(|quota| quota.ok_or_else(|| "there is no such quota".to_owned()));
        let quota = match (quota, known) {
            (Ok(quota), _) => usize::try_from(quota).ok(),
            (Err(_), Some(_)) => None,
            (Err(why), None) => {
                answers.unknown.push(format!("how many public images the account may have: {why}"));
                None
            }
        };
        let limit = quota.into_iter().chain(known).min();
        if let Some(limit) = limit.filter(|limit| public.len() + new > *limit) {
            answers.denied.push(format!(
                "the account has {} public images there, {new} more would be over its limit of {limit}: remove old ones, \
                 or ask for a larger limit",
                public.len()
            ));
        }
        Ok(answers.look())
    }

    async fn run(&self, _: &World<'_>) -> Result<Value> {
        Ok(Value::Null)
    }
}

/// Whether the caller may make images.
struct Making(Region);

#[async_trait(?Send)]
impl Act for Making {
    async fn look(&self, _: &World<'_>) -> Result<Look> {
        let Region { shared, partition, .. } = &self.0;
        let facts = &shared.facts.partitions[*partition];
        let api = self.0.api().await?;
        if self.0.is_made(&api).await? {
            return Ok(Look::Done(Value::Null));
        }
        let mut answers = Answers::default();
        let (name, subject) = (format!("{}-hvm", shared.name), self.0.subject(&api).await?);
        let mut calls: Vec<(&str, Vec<(&str, &str)>)> = Vec::new();
        let object = shared.object(*partition);
        let snapshot = subject.as_ref().and_then(|image| first_snapshot(image));
        if self.0.is_first() {
            match api.multiparts(&object.bucket, &object.name).await {
                Ok(_) => {
                    answers.unknown.push(format!(
                        "whether objects in {} may be written: S3 cannot be asked",
                        object.bucket
                    ));
                }
                Err(e) if e.class() == Some(Class::NotFound) => answers.denied.push(chain(&e)),
                Err(e) => {
                    answers.unknown.push(format!("whether bucket {} is ready: {}", object.bucket, chain(&e)))
                }
            }
            let import = [
                ("DiskContainer.Format", "RAW"),
                ("DiskContainer.UserBucket.S3Bucket", object.bucket.as_str()),
                ("DiskContainer.UserBucket.S3Key", object.name.as_str()),
            ];
            calls.push(("ImportSnapshot", import.into()));
            let mut register = vec![("Name", name.as_str()), ("RootDeviceName", "/dev/xvda")];
            if let Some(snapshot) = snapshot {
                register.extend([
                    ("BlockDeviceMapping.1.DeviceName", "/dev/xvda"),
                    ("BlockDeviceMapping.1.Ebs.SnapshotId", snapshot),
                ]);
            }
            calls.push(("RegisterImage", register));
        }
        let origin = match self.0.is_first() {
            true => None,
            false => {
                let first = Region {
                    shared: shared.clone(),
                    partition: *partition,
                    region: facts.bucket_region.clone(),
                };
                let there = first.subject(&first.api().await?).await?;
                if there.is_none() {
                    answers.unknown.push(format!("whether CopyImage is allowed: {NOTHING_TO_ASK}"));
                }
                there
            }
        };
        if let Some(image) = &origin {
            let copy = [
                ("SourceRegion", facts.bucket_region.as_str()),
                ("SourceImageId", image.id.as_str()),
                ("Name", name.as_str()),
            ];
            calls.push(("CopyImage", copy.into()));
        }
        match &subject {
            Some(image) => {
                let tags = [
                    ("ResourceId.1", image.id.as_str()),
                    ("Tag.1.Key", "Channel"),
                    ("Tag.1.Value", shared.channel.as_str()),
                ];
                calls.push(("CreateTags", tags.into()));
            }
            None => answers.unknown.push(format!("whether CreateTags is allowed: {NOTHING_TO_ASK}")),
        }
        for (call, parameters) in calls {
            answers.take(call, api.may(call, &parameters).await.map_err(Stopped::failed)?);
        }
        Ok(answers.look())
    }

    async fn run(&self, _: &World<'_>) -> Result<Value> {
        Ok(Value::Null)
    }
}

/// Whether the caller may make images public.
struct Publishing(Region);

#[async_trait(?Send)]
impl Act for Publishing {
    async fn look(&self, _: &World<'_>) -> Result<Look> {
        let api = self.0.api().await?;
        let mut answers = Answers::default();
        let Some(image) = self.0.subject(&api).await? else {
            let calls = ["ModifyImageAttribute", "ModifySnapshotAttribute"];
            let line = |call| format!("whether {call} is allowed: {NOTHING_TO_ASK}");
            return Ok(Look::Unknown(calls.map(line).into()));
        };
        let parameters = [("ImageId", image.id.as_str()), ("LaunchPermission.Add.1.Group", "all")];
        let right = api.may("ModifyImageAttribute", &parameters).await.map_err(Stopped::failed)?;
        answers.take("ModifyImageAttribute", right);
        if let Some(snapshot) = first_snapshot(&image) {
            let parameters = [
                ("SnapshotId", snapshot),
                ("Attribute", "createVolumePermission"),
                ("CreateVolumePermission.Add.1.Group", "all"),
            ];
            let right = api.may("ModifySnapshotAttribute", &parameters).await.map_err(Stopped::failed)?;
            answers.take("ModifySnapshotAttribute", right);
        }
        Ok(answers.look())
    }

    async fn run(&self, _: &World<'_>) -> Result<Value> {
        Ok(Value::Null)
    }
}
