//! Google Compute Engine: an image, the family that leads to it, and those that it takes the place of.
//!
//! Images of a family are found through it as soon as they are made. Ours is made without one and enters it last.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::{Act, COMPONENT, Look, Phase, Release, Result, Stage, Step, Stopped, World, gate};
use crate::cloud::google::Account;
use crate::cloud::google::compute::{
    ALL_ZONES, Compute, Deprecation, Image, Milestone, NewImage, Unfinished,
};
use crate::cloud::google::images::{self, FEATURES, check_name};
use crate::cloud::google::sources::Choice;
use crate::natural;
use crate::poll::{self, Answer, Poll};
use crate::release::{Gce, Selection};
use crate::warning;

/// The place.
pub struct Provider;

/// Looks at an image that somebody else is making.
const READY: Poll = Poll::seconds(10, 1800);

/// What all steps share.
struct Shared {
    facts: Gce,
    /// Channel, version and board.
    of: (String, String, String),
    credentials: Choice,
    /// What a board adds to names: ours, and those of the others.
    suffix: String,
    others: Vec<String>,
    compute: OnceCell<Compute>,
}

impl super::Provider for Provider {
    fn name(&self) -> &'static str {
        "gce"
    }

    fn prepares(&self) -> bool {
        false
    }

    fn steps(&self, release: &Release) -> Vec<Step> {
        let Selection { channel, board, version, gce, .. } = &release.selection;
        let Some(facts) = gce else { return Vec::new() };
        let suffix = facts.board_suffixes.get(board).cloned().unwrap_or_default();
        let others = facts.board_suffixes.values().filter(|s| **s != suffix).cloned().collect();
        let shared = Arc::new(Shared {
            facts: facts.clone(),
            of: (channel.clone(), version.clone(), board.clone()),
            credentials: release.accounts.google.clone(),
            suffix,
            others,
            compute: OnceCell::new(),
        });
        let (name, family) = (shared.new_name(release), &facts.family);
        let project = &facts.project;
        let mut steps = vec![
            Step::new("gce/names", Phase::Check, format!("name image {name}"), Names(shared.clone())),
            Step::new("gce/image", Phase::Publish, format!("create GCE image {name}"), Make(shared.clone())),
            Step::new(
                "gce/file",
                Phase::Publish,
                format!("write {}", release.build.url_of(&facts.publish)),
                File(shared.clone()),
            )
            .after("gce/image"),
            Step::new(
                "gce/family",
                Phase::Point,
                format!("make the image the newest of family {family} of project {project}"),
                Family(shared.clone(), false),
            )
            .only_to(Stage::Release),
            Step::new(
                "gce/deprecated",
                Phase::Point,
                format!("deprecate the older images of family {family}"),
                Deprecate(shared.clone(), false),
            )
            .after("gce/family")
            .only_to(Stage::Release),
            Step::new(
                "gce/active",
                Phase::Point,
                format!("make the image of {version} active in family {family} of project {project}"),
                Family(shared.clone(), true),
            )
            .only_to(Stage::Rollback),
            Step::new(
                "gce/withdrawn",
                Phase::Point,
                format!("deprecate the other images of family {family}"),
                Deprecate(shared.clone(), true),
            )
            .after("gce/active")
            .only_to(Stage::Rollback),
            Step::new(
                "gce/deleted",
                Phase::Retire,
                format!("delete all images of family {family} but the newest {} older ones", facts.keep),
                Delete(shared.clone()),
            ),
        ];
        if let Some(tester) = release.tester("gce") {
            let does = format!("test image {name} of project {project} before it is public");
            steps.push(gate::step("gce", does, Gate(shared.clone(), tester)).after("gce/image"));
        }
        if facts.public {
            let does = format!("publish image {name} of project {project}");
            steps.push(Step::new("gce/public", Phase::Publish, does, Publish(shared)).after("gce/image"));
        }
        steps
    }
}

/// A version as it stands in names.
fn dashed(version: &str) -> String {
    version.replace(['.', '+'], "-")
}

/// The images of a family, of one board.
struct There {
    /// Those of our version.
    same: Vec<Image>,
    /// The others, the newest first.
    old: Vec<Image>,
}

impl Shared {
    /// The name without date and board.
    fn stem(&self) -> String {
        format!("{}-{}", self.facts.family, dashed(&self.of.1))
    }

    /// The name that the image gets today.
    fn new_name(&self, release: &Release) -> String {
        match self.facts.dated {
            true => format!("{}-v{}{}", self.stem(), release.date.format("%Y%m%d"), self.suffix),
            false => format!("{}{}", self.stem(), self.suffix),
        }
    }

    /// Whether an image is of our board.
    fn is_of_board(&self, name: &str) -> bool {
        name.ends_with(&self.suffix)
            && !self.others.iter().any(|s| !s.is_empty() && name.ends_with(s.as_str()))
    }

    /// Whether an image is of our version.
    fn is_same(&self, name: &str) -> bool {
        match self.facts.dated {
            true => name.starts_with(&format!("{}-v", self.stem())),
            false => name == format!("{}{}", self.stem(), self.suffix),
        }
    }

    /// The version of an image as it stands in its name.
    fn version_of<'n>(&self, name: &'n str) -> &'n str {
        let name = name.strip_prefix(self.facts.family.as_str()).unwrap_or(name);
        let name = name.strip_suffix(self.suffix.as_str()).unwrap_or(name).trim_start_matches('-');
        match name.rfind("-v").filter(|_| self.facts.dated) {
            Some(date) => &name[..date],
            None => name,
        }
    }

    fn sort(&self, images: Vec<Image>) -> There {
        let begin = format!("{}-", self.facts.family);
        let ours = images.into_iter().filter(|i| i.name.starts_with(&begin) && self.is_of_board(&i.name));
        let (same, mut old): (Vec<_>, Vec<_>) = ours.partition(|i| self.is_same(&i.name));
        let time = |i: &Image| {
            i.creation_timestamp.as_deref().and_then(|t| chrono::DateTime::parse_from_rfc3339(t).ok())
        };
        old.sort_by(|a, b| time(b).cmp(&time(a)).then_with(|| natural::compare(&b.name, &a.name)));
        There { same, old }
    }

    async fn compute(&self) -> Result<&Compute> {
        let open = || async {
            let account = Account {
                gce_project: self.facts.project.clone(),
                gce_zone: ALL_ZONES.into(),
                gce_service_auth: self.credentials.service,
                gce_json_key: self.credentials.key.clone(),
                gce_endpoint: None,
            };
            Compute::new(&account, false).await.map_err(Stopped::failed)
        };
        self.compute.get_or_try_init(open).await
    }

    async fn look(&self) -> Result<There> {
        let filter = format!("name eq ^{}-.*", self.facts.family);
        let images = self.compute().await?.images(Some(&filter)).await.map_err(Stopped::failed)?;
        Ok(self.sort(images))
    }

    /// The image of our version, if there is one.
    async fn image(&self) -> Result<Option<Image>> {
        let mut same = self.look().await?.same;
        if same.len() > 1 {
            let names: Vec<_> = same.into_iter().map(|i| i.name).collect();
            return Err(Stopped::words(format!(
                "there are several images of this version: {}",
                names.join(", ")
            )));
        }
        Ok(same.pop())
    }

    async fn existing(&self) -> Result<Image> {
        self.image().await?.ok_or_else(|| Stopped::words(format!("there is no image {}", self.stem())))
    }

    /// A newer version that the family leads to.
    fn newer<'t>(&self, there: &'t There) -> Option<&'t Image> {
        let ours = dashed(&self.of.1);
        there.old.iter().find(|image| {
            self.is_led_to(image) && natural::compare(self.version_of(&image.name), &ours).is_gt()
        })
    }

    /// Whether the family can lead to an image.
    fn is_led_to(&self, image: &Image) -> bool {
        is_active(image) && image.family.as_deref() == Some(self.facts.family.as_str())
    }

    /// What the publish file says.
    fn line(&self, name: &str) -> String {
        format!("projects/{}/global/images/{name}\n", self.facts.project)
    }

    /// Those that the release takes the place of; going back, all others.
    fn to_deprecate<'t>(&self, there: &'t There, back: bool) -> Vec<&'t Image> {
        let ours = dashed(&self.of.1);
        let newer = |i: &Image| natural::compare(self.version_of(&i.name), &ours).is_gt();
        there.old.iter().filter(|i| is_active(i) && (back || !newer(i))).collect()
    }

    /// Those that are not kept.
    fn to_delete<'t>(&self, there: &'t There) -> Vec<&'t Image> {
        let beyond = there.old.iter().skip(self.facts.keep as usize);
        beyond.filter(|i| !self.facts.protected.contains(&i.name)).collect()
    }
}

fn is_active(image: &Image) -> bool {
    !matches!(
        image.deprecated.as_ref().and_then(|d| d.state),
        Some(Milestone::Deprecated | Milestone::Obsolete | Milestone::Deleted)
    )
}

fn stopped(error: Unfinished) -> Stopped {
    let interrupted = matches!(error, poll::Error::Cancelled);
    Stopped::from(error, interrupted)
}

/// What can be told of the image before anything is done.
struct Names(Arc<Shared>);

#[async_trait(?Send)]
impl Act for Names {
    async fn look(&self, world: &World<'_>) -> Result<Look> {
        let Self(shared) = self;
        let compute = shared.compute().await?;
        for license in &shared.facts.licenses {
            if compute.license(license).await.map_err(Stopped::failed)?.is_none() {
                return Ok(Look::Impossible(images::Failure::License(license.clone()).to_string()));
            }
        }
        Ok(match check_name(&shared.new_name(world.release)) {
            Ok(()) => Look::Done(Value::Null),
            Err(why) => Look::Impossible(why),
        })
    }

    async fn run(&self, _: &World<'_>) -> Result<Value> {
        Ok(Value::Null)
    }
}

/// The image, without a family yet.
struct Make(Arc<Shared>);

#[async_trait(?Send)]
impl Act for Make {
    async fn look(&self, world: &World<'_>) -> Result<Look> {
        let Self(shared) = self;
        if let Some(image) = shared.image().await? {
            return Ok(match image.status.as_str() {
                "READY" => Look::Done(json!({"image": image.name})),
                "FAILED" => Look::Impossible(format!("image {} has failed: delete it", image.name)),
                _ => Look::Todo(vec![format!("wait for image {}", image.name)]),
            });
        }
        let build = &world.release.build;
        let url = build.url_of(&shared.facts.image);
        Ok(match build.store() {
            None => Look::Impossible(format!(
                "Compute Engine makes images of objects in Google Storage alone, not of {url}"
            )),
            Some(_) if build.has(&shared.facts.image, world.release).await? => {
                // Those that describe it need not wait until it is there to know its name.
                world.learn("gce/image", json!({"image": shared.new_name(world.release)}));
                Look::Todo(Vec::new())
            }
            Some(_) => Look::Impossible(format!("GCE image not found {url}")),
        })
    }

    async fn run(&self, world: &World<'_>) -> Result<Value> {
        let Self(shared) = self;
        let (compute, cancel) = (shared.compute().await?, &world.release.cancel);
        if shared.image().await?.is_none() {
            let store = world.release.build.store();
            let store = store.ok_or_else(|| Stopped::words("the build is not in Google Storage"))?;
            let object = store.join(&shared.facts.image);
            let mut licenses = Vec::new();
            for license in &shared.facts.licenses {
                let found = compute.license(license).await.map_err(Stopped::failed)?;
                licenses
                    .push(found.ok_or_else(|| Stopped::failed(images::Failure::License(license.clone())))?);
            }
            let (channel, version, board) = &shared.of;
            let date = world.release.date.format("%Y-%m-%d");
            let description = format!("{}, {version}, {board} published on {date}", shared.facts.description);
            let features: Vec<String> = FEATURES.iter().map(|f| (*f).to_owned()).collect();
            let name = shared.new_name(world.release);
            let new = NewImage {
                name: &name,
                source: &images::source(&object.bucket, &object.name),
                family: None,
                description: Some(&description),
                licenses: &licenses,
                features: &features,
                architecture: (super::metadata::architecture(board).1 == "arm64").then_some("ARM64"),
            };
            match images::create(compute, &new, false, cancel).await {
                // The one that is there is of our own making: its answer was lost.
                Err(poll::Error::Failed(e)) if e.class() == Some(crate::http::Class::Conflict) => {
                    warning!(COMPONENT, "image {name} of channel {channel} is there already");
                }
                other => other.map_err(stopped)?,
            }
        }
        let look = || async {
            let image = shared.existing().await?;
            match image.status.as_str() {
                "READY" => Ok(Answer::Ready(image.name)),
                "FAILED" => Err(Stopped::words(format!("image {} has failed: delete it", image.name))),
                other => Ok(Answer::NotYet(other.to_owned())),
            }
        };
        match READY.until("image ready", cancel, look).await {
            Ok(name) => Ok(json!({"image": name})),
            Err(poll::Error::Failed(stopped)) => Err(stopped),
            Err(poll::Error::Cancelled) => Err(Stopped::Interrupted),
            Err(poll::Error::TimedOut { what, last, .. }) => Err(Stopped::words(format!("{what}: {last}"))),
        }
    }
}

/// A test of the image, which has no family yet.
struct Gate(Arc<Shared>, Arc<dyn gate::Tester>);

impl Gate {
    fn of(&self, image: &Image) -> gate::Image {
        let (project, key) = (self.0.facts.project.clone(), self.0.credentials.key.clone());
        gate::Image::Gce { project, name: image.name.clone(), key }
    }
}

#[async_trait(?Send)]
impl Act for Gate {
    async fn look(&self, _: &World<'_>) -> Result<Look> {
        Ok(match self.0.image().await? {
            Some(image) => gate::look(&self.of(&image)),
            None => Look::After("gce/image".into(), format!("there is no image {}", self.0.stem())),
        })
    }

    async fn run(&self, world: &World<'_>) -> Result<Value> {
        gate::run(&*self.1, &self.of(&self.0.existing().await?), world).await
    }
}

/// The image for everybody.
struct Publish(Arc<Shared>);

#[async_trait(?Send)]
impl Act for Publish {
    async fn look(&self, _: &World<'_>) -> Result<Look> {
        let Some(image) = self.0.image().await? else { return Ok(Look::Todo(Vec::new())) };
        let public = self.0.compute().await?.is_public(&image.name).await.map_err(Stopped::failed)?;
        Ok(if public { Look::Done(Value::Null) } else { Look::Todo(Vec::new()) })
    }

    async fn run(&self, _: &World<'_>) -> Result<Value> {
        let image = self.0.existing().await?;
        self.0.compute().await?.publish_image(&image.name).await.map_err(Stopped::failed)?;
        Ok(Value::Null)
    }
}

/// The file beside the build that names the image.
struct File(Arc<Shared>);

/// Its media type.
const TEXT: &str = "text/plain";

#[async_trait(?Send)]
impl Act for File {
    async fn look(&self, world: &World<'_>) -> Result<Look> {
        let (shared, build) = (&self.0, &world.release.build);
        let name = match shared.image().await? {
            Some(image) => image.name,
            None => shared.new_name(world.release),
        };
        let line = shared.line(&name);
        if build.is_written(&shared.facts.publish, &line, TEXT).await? {
            return Ok(Look::Done(Value::Null));
        }
        build.expected(&shared.facts.publish, &line, TEXT).into_iter().for_each(|file| world.expect(file));
        Ok(Look::Todo(Vec::new()))
    }

    async fn run(&self, world: &World<'_>) -> Result<Value> {
        let line = self.0.line(&self.0.existing().await?.name);
        world.release.build.write(&self.0.facts.publish, &line, TEXT).await?;
        Ok(Value::Null)
    }
}

/// The family, which leads to the newest of its images that are active. The other: whether that is gone back to.
struct Family(Arc<Shared>, bool);

#[async_trait(?Send)]
impl Act for Family {
    async fn look(&self, _: &World<'_>) -> Result<Look> {
        let Self(shared, back) = self;
        let there = shared.look().await?;
        if let Some(newer) = shared.newer(&there).filter(|_| !back) {
            let family = &shared.facts.family;
            warning!(
                COMPONENT,
                "family {family} leads to {}, which is newer than this release: it stays so",
                newer.name
            );
            return Ok(Look::Done(Value::Null));
        }
        Ok(if there.same.iter().any(|i| shared.is_led_to(i)) {
            Look::Done(Value::Null)
        } else {
            Look::Todo(Vec::new())
        })
    }

    async fn run(&self, world: &World<'_>) -> Result<Value> {
        let (shared, compute) = (&self.0, self.0.compute().await?);
        let image = shared.existing().await?;
        let (name, cancel) = (&image.name, &world.release.cancel);
        if image.family.as_deref() != Some(shared.facts.family.as_str()) {
            let fields = json!({"family": shared.facts.family});
            let operation = compute.patch_image(name, &fields).await.map_err(Stopped::failed)?;
            compute.done(operation, &format!("family of image {name}"), cancel).await.map_err(stopped)?;
        }
        if !is_active(&image) {
            let status = Deprecation { state: Some(Milestone::Active), replacement: None };
            let operation = compute.deprecate_image(name, &status).await.map_err(Stopped::failed)?;
            compute.done(operation, &format!("activation of image {name}"), cancel).await.map_err(stopped)?;
        }
        Ok(Value::Null)
    }
}

/// Other images, which name ours as what to use in their place. The other: whether we go back to it.
struct Deprecate(Arc<Shared>, bool);

#[async_trait(?Send)]
impl Act for Deprecate {
    async fn look(&self, _: &World<'_>) -> Result<Look> {
        let there = self.0.look().await?;
        let lines: Vec<String> = self
            .0
            .to_deprecate(&there, self.1)
            .iter()
            .map(|i| format!("deprecate image {}", i.name))
            .collect();
        Ok(if lines.is_empty() { Look::Done(Value::Null) } else { Look::Todo(lines) })
    }

    async fn run(&self, world: &World<'_>) -> Result<Value> {
        let (shared, compute) = (&self.0, self.0.compute().await?);
        let there = shared.look().await?;
        let replacement = shared.existing().await?.self_link;
        for image in shared.to_deprecate(&there, self.1) {
            let status =
                Deprecation { state: Some(Milestone::Deprecated), replacement: Some(replacement.clone()) };
            let operation = compute.deprecate_image(&image.name, &status).await.map_err(Stopped::failed)?;
            let what = format!("deprecation of image {}", image.name);
            compute.done(operation, &what, &world.release.cancel).await.map_err(stopped)?;
        }
        Ok(Value::Null)
    }
}

/// Images that are not kept any more.
struct Delete(Arc<Shared>);

#[async_trait(?Send)]
impl Act for Delete {
    async fn look(&self, _: &World<'_>) -> Result<Look> {
        let there = self.0.look().await?;
        let lines: Vec<String> =
            self.0.to_delete(&there).iter().map(|i| format!("delete image {}", i.name)).collect();
        Ok(if lines.is_empty() { Look::Done(Value::Null) } else { Look::Todo(lines) })
    }

    async fn run(&self, world: &World<'_>) -> Result<Value> {
        let (shared, compute) = (&self.0, self.0.compute().await?);
        for image in shared.to_delete(&shared.look().await?) {
            images::remove(compute, &image.name, &world.release.cancel).await.map_err(stopped)?;
        }
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(dated: bool, suffix: &str, others: &[&str]) -> Shared {
        let facts: Gce = serde_yaml::from_str(&format!(
            "{{project: p, family: fam, description: d, image: i, publish: f, keep: 1, dated: {dated}, \
             protected: [fam-1-0-0-v20160101]}}"
        ))
        .unwrap();
        let of = ("alpha".into(), "2.0.0+x".into(), "amd64-usr".into());
        let others = others.iter().map(|o| (*o).to_owned()).collect();
        let credentials = Choice::default();
        Shared { facts, of, credentials, suffix: suffix.into(), others, compute: OnceCell::new() }
    }

    fn image(name: &str, day: u32) -> Image {
        let creation_timestamp = Some(format!("2026-01-{day:02}T00:00:00.000-08:00"));
        Image { name: name.into(), creation_timestamp, family: Some("fam".into()), ..Image::default() }
    }

    fn names(images: &[Image]) -> Vec<&str> {
        images.iter().map(|i| i.name.as_str()).collect()
    }

    #[test]
    fn images_are_sorted_into_ours_and_older_ones() {
        let shared = shared(true, "", &[]);
        let there = shared.sort(vec![
            image("fam-1-0-0-v20160101", 1),
            image("fam-1-1-0-v20160102", 3),
            image("fam-2-0-0-x-v20260101", 4),
            image("fam-3-0-0-v20260101", 2),
            image("family-9", 9),
        ]);
        assert_eq!(names(&there.same), ["fam-2-0-0-x-v20260101"]);
        assert_eq!(names(&there.old), ["fam-1-1-0-v20160102", "fam-3-0-0-v20260101", "fam-1-0-0-v20160101"]);
        assert_eq!(shared.newer(&there).map(|i| i.name.as_str()), Some("fam-3-0-0-v20260101"));
        let deprecated: Vec<_> = shared.to_deprecate(&there, false).iter().map(|i| i.name.clone()).collect();
        assert_eq!(deprecated, ["fam-1-1-0-v20160102", "fam-1-0-0-v20160101"], "a newer one is left alone");
        let deleted: Vec<_> = shared.to_delete(&there).iter().map(|i| i.name.clone()).collect();
        assert_eq!(deleted, ["fam-3-0-0-v20260101"], "what is protected stays");
    }

    #[test]
    fn boards_do_not_see_each_others_images() {
        let all =
            || vec![image("fam-2-0-0-x", 1), image("fam-2-0-0-x-arm64", 2), image("fam-1-0-0-arm64", 1)];
        let (amd, arm) = (shared(false, "", &["-arm64"]), shared(false, "-arm64", &[""]));
        assert_eq!(names(&amd.sort(all()).same), ["fam-2-0-0-x"]);
        assert!(amd.sort(all()).old.is_empty());
        assert_eq!(names(&arm.sort(all()).same), ["fam-2-0-0-x-arm64"]);
        assert_eq!(names(&arm.sort(all()).old), ["fam-1-0-0-arm64"]);
        assert_eq!(arm.version_of("fam-1-0-0-arm64"), "1-0-0");
    }
}
