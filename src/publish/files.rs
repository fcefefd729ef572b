//! Buckets that the public reads: the folder of the version, then what leads to it.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Act, CHANGES, COMPONENT, Look, Phase, Release, Result, Stage, Step, Stopped, World};
use crate::bucket::{self, IndexOptions, Style, Summary, SyncOptions};
use crate::cloud::google::storage::Location;
use crate::info;
use crate::release::{Destination, Selection};

/// The place.
pub struct Provider;

impl super::Provider for Provider {
    fn name(&self) -> &'static str {
        "files"
    }

    fn prepares(&self) -> bool {
        false
    }

    fn steps(&self, release: &Release) -> Vec<Step> {
        let Selection { board, version, destinations, .. } = &release.selection;
        let mut steps = Vec::new();
        let sorted = destinations.iter().map(|destination| {
            Some((
                destination,
                destination.final_prefixes(board, version).ok()?,
                destination.parent_prefixes(board).ok()?,
            ))
        });
        // The table has been checked and `$USER` is gone: nothing is left that could be wrong with the URLs.
        for (destination, folders, parents) in sorted.flatten() {
            let destination = Arc::new(destination.clone());
            let key = |what: &str, at: &Location| format!("files/{what}/{}/{}", at.bucket, at.name);
            let mut named = Vec::new();
            for at in &folders {
                let of_version = destination.version_path && folders.first() == Some(at);
                let phase = if of_version { Phase::Files } else { Phase::Point };
                let copy = Copy { destination: destination.clone(), at: at.clone() };
                let check = Copy { destination: destination.clone(), at: at.clone() };
                let does = format!("replace what is in {at}");
                let check = Step::new(key("check", at), Phase::Check, does, Check(check));
                steps.push(check);
                let does = format!("find good signatures in {at}");
                let signatures = Step::new(key("signatures", at), Phase::Check, does, Signatures(at.clone()));
                steps.push(signatures.only_to(Stage::Verify));
                steps.push(Step::new(key("folder", at), phase, format!("copy the build to {at}"), copy));
                if phase == Phase::Point {
                    named.push(key("folder", at));
                }
            }
            for at in &parents {
                let expected = folders.iter().map(|f| f.name.clone()).collect();
                let index = Index { destination: destination.clone(), at: at.clone(), expected };
                let mut step =
                    Step::new(key("pages", at), Phase::Point, format!("make the pages of {at}"), index);
                step.needs.clone_from(&named);
                steps.push(step);
            }
        }
        steps
    }
}

fn stopped(error: bucket::Error) -> Stopped {
    let interrupted = matches!(error, bucket::Error::Interrupted);
    Stopped::from(error, interrupted)
}

fn pages(destination: &Destination, recursive: bool, dry_run: bool, expected: Vec<String>) -> IndexOptions {
    IndexOptions {
        title: destination.title.clone(),
        style: Style::Plain,
        recursive,
        delete: true,
        directories: destination.directories,
        index_html: destination.index_html,
        force: false,
        dry_run,
        expected,
    }
}

/// How much was changed.
fn changes(done: &Summary) -> Value {
    json!({ CHANGES: done.written + done.copied + done.deleted })
}

fn told(at: &Location, done: &Summary) -> Look {
    match changes(done)[CHANGES].as_u64() {
        Some(0) => Look::Done(Value::Null),
        _ => Look::Todo(vec![format!("{at}: {done}")]),
    }
}

/// The folder of a version, or the one that always has the newest.
struct Copy {
    destination: Arc<Destination>,
    at: Location,
}

impl Copy {
    fn options(&self, world: &World<'_>, dry_run: bool) -> SyncOptions {
        SyncOptions {
            recursive: true,
            delete: true,
            force: false,
            dry_run,
            allow_mass_delete: world.release.allow_mass_delete,
            allow_empty_source: false,
            expected: world.expected(),
            index: Some(pages(&self.destination, true, dry_run, Vec::new())),
        }
    }

    async fn sync(&self, world: &World<'_>, dry_run: bool) -> Result<Summary> {
        let build = &world.release.build;
        let source =
            build.store().ok_or_else(|| Stopped::words("only builds in Google Storage can be copied"))?;
        let options = self.options(world, dry_run);
        let done = bucket::sync(build.storage(), source, &self.at, &options, &world.release.cancel).await;
        done.map_err(stopped)
    }
}

#[async_trait(?Send)]
impl Act for Copy {
    async fn look(&self, world: &World<'_>) -> Result<Look> {
        match world.dry_run {
            true => Ok(told(&self.at, &self.sync(world, true).await?)),
            false => Ok(Look::Always),
        }
    }

    async fn run(&self, world: &World<'_>) -> Result<Value> {
        let done = self.sync(world, false).await?;
        info!(COMPONENT, "{}: {done}", self.at);
        Ok(changes(&done))
    }
}

/// Whether a folder may be replaced.
struct Check(Copy);

#[async_trait(?Send)]
impl Act for Check {
    async fn look(&self, world: &World<'_>) -> Result<Look> {
        let (Self(copy), build) = (self, &world.release.build);
        let Some(source) = build.store() else {
            return Ok(Look::Impossible("only builds in Google Storage can be copied".into()));
        };
        let options = copy.options(world, true);
        let checked = bucket::check(build.storage(), source, &copy.at, &options, &world.release.cancel).await;
        match checked {
            Ok(()) => Ok(Look::Done(Value::Null)),
            Err(e @ bucket::Error::MassDelete { .. }) => {
                Ok(Look::Impossible(format!("{e}; see whether the build is complete")))
            }
            Err(e) => Err(stopped(e)),
        }
    }

    async fn run(&self, _: &World<'_>) -> Result<Value> {
        Ok(Value::Null)
    }
}

/// The pages of a folder above, which name those below.
struct Index {
    destination: Arc<Destination>,
    at: Location,
    expected: Vec<String>,
}

impl Index {
    async fn make(&self, world: &World<'_>, dry_run: bool) -> Result<Summary> {
        let options = pages(&self.destination, false, dry_run, self.expected.clone());
        let storage = world.release.build.storage();
        bucket::index(storage, &self.at, &options, &world.release.cancel).await.map_err(stopped)
    }
}

#[async_trait(?Send)]
impl Act for Index {
    async fn look(&self, world: &World<'_>) -> Result<Look> {
        match world.dry_run {
            true => Ok(told(&self.at, &self.make(world, true).await?)),
            false => Ok(Look::Always),
        }
    }

    async fn run(&self, world: &World<'_>) -> Result<Value> {
        let done = self.make(world, false).await?;
        info!(COMPONENT, "{}: {done}", self.at);
        Ok(changes(&done))
    }
}

/// Whether the signed files of a folder are as they were signed.
struct Signatures(Location);

#[async_trait(?Send)]
impl Act for Signatures {
    async fn look(&self, world: &World<'_>) -> Result<Look> {
        let build = &world.release.build;
        let (objects, _) = build.storage().list(&self.0, false).await.map_err(Stopped::failed)?;
        let names: Vec<&str> = objects.iter().map(|o| o.name.as_str()).collect();
        let signed =
            names.iter().filter_map(|name| name.strip_suffix(".sig")).filter(|name| names.contains(name));
        let (mut good, mut bad) = (0_usize, Vec::new());
        for name in signed {
            match build.verify(self.0.at(name), world.release).await {
                Ok(()) => good += 1,
                Err(Stopped::Interrupted) => return Err(Stopped::Interrupted),
                Err(failed) => bad.push(failed.to_string()),
            }
        }
        Ok(match (good, bad.is_empty()) {
            (0, true) => Look::Impossible("nothing there is signed".into()),
            (_, true) => Look::Done(json!({"signatures": good})),
            (_, false) => Look::Impossible(bad.join("; ")),
        })
    }

    async fn run(&self, _: &World<'_>) -> Result<Value> {
        Ok(Value::Null)
    }
}
