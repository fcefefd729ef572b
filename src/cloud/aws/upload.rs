//! From a disk image on this machine to a machine image: the whole way, each step only if its result is not there.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::COMPONENT;
use super::api::Api;
use super::direct::{self, Direct};
use super::failure::{During as _, Error, Result};
use super::images::{self, Kind, Order};
use super::object::{self, Content, Location, Report, Upload};
use super::snapshot::{self, Found};
use super::wait::settled;
use crate::disk::Format;
use crate::{info, warning};

/// Where the content of the image comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, sent through S3 and imported.
    File(PathBuf),
    /// A raw file, written straight into a snapshot.
    Direct(PathBuf),
    /// An object in S3, imported.
    Object,
    /// A snapshot.
    Snapshot(String),
}

impl Source {
    /// The file to be read, if one is.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) | Self::Direct(path) => Some(path),
            Self::Object | Self::Snapshot(_) => None,
        }
    }
}

/// What is to be made, and of what.
#[derive(Clone, Debug)]
pub struct Request {
    /// The name under which snapshot and import task are found again.
    pub name: String,
    /// Where the content comes from.
    pub source: Source,
    /// The object in S3, if one is used.
    pub object: Location,
    /// Format of file or object.
    pub format: Format,
    /// Size of the first disk.
    pub size_gib: i64,
    /// Start over: nothing that is there under these names is used, and what it replaces is removed.
    pub force: bool,
    /// Remove the object in the end.
    pub delete_object: bool,
    /// Go on with an interrupted upload, and leave one that can be gone on with.
    pub resume: bool,
    /// Name of the paravirtual image; that of the other has `-hvm` after it.
    pub image_name: String,
    /// For people; may be empty.
    pub description: String,
    /// Accounts that may start machines of the images.
    pub users: Vec<String>,
    /// Further tags of images and snapshot.
    pub tags: Vec<(String, String)>,
    /// Make a paravirtual image too.
    pub pv: bool,
}

/// What was made, or was there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The image.
    #[serde(rename = "HVM")]
    pub hvm: String,
    /// The paravirtual image.
    #[serde(rename = "PV", skip_serializing_if = "Option::is_none")]
    pub pv: Option<String>,
    /// The snapshot they are made of.
    #[serde(rename = "SnapshotID")]
    pub snapshot: String,
    /// The URL of the object, whether one was uploaded or not.
    #[serde(rename = "S3Object")]
    pub object: String,
}

/// Makes the images.
///
/// A repeated call goes on at the first thing that is missing; one that finished gives the same result again.
///
/// # Errors
/// When a step fails; [`Error::Interrupted`] once cancelled, at a point from which the next call can go on.
pub async fn run(
    api: &Api,
    request: &Request,
    report: Report<'_>,
    cancel: &CancellationToken,
) -> Result<Outcome> {
    if request.pv {
        images::pv_kernel(api.region())?; // before anything is made
    }
    let snapshot = snapshot(api, request, report, cancel).await?;
    let work = Work { api, request, report, cancel };
    let hvm_name = format!("{}-hvm", request.image_name);
    if request.force {
        images::replace(api, &[&hvm_name, &request.image_name], &request.name, &snapshot)
            .await
            .during("unable to replace what is there")?;
    }
    let hvm = work.image(Kind::Hvm, &hvm_name, &snapshot).await?;
    let pv = match request.pv {
        true => Some(work.image(Kind::Pv, &request.image_name, &snapshot).await?),
        false => None,
    };
    Ok(Outcome { hvm, pv, snapshot, object: request.object.url() })
}

/// Makes the snapshot alone, and removes the object that it was made of, if that is wanted; or finds the one that is
/// there.
///
/// # Errors
/// As [`run`].
pub async fn snapshot(
    api: &Api,
    request: &Request,
    report: Report<'_>,
    cancel: &CancellationToken,
) -> Result<String> {
    let work = Work { api, request, report, cancel };
    let snapshot = work.snapshot().await?;
    work.check()?;
    if request.delete_object && matches!(request.source, Source::File(_)) {
        info!(COMPONENT, "deleting {}", request.object);
        api.delete_object(&request.object.bucket, &request.object.name)
            .await
            .during("unable to delete object")?;
    }
    Ok(snapshot)
}

struct Work<'a> {
    api: &'a Api,
    request: &'a Request,
    report: Report<'a>,
    cancel: &'a CancellationToken,
}

impl Work<'_> {
    /// Stops between two steps. The calls of a step are not cut off: what they make would be lost sight of.
    fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) }
    }

    async fn snapshot(&self) -> Result<String> {
        let Request { name, source, object, .. } = self.request;
        if let Source::Snapshot(id) = source {
            return Ok(id.clone());
        }
        let content = match source.file() {
            Some(file) => Some(Content::of(file, self.cancel).await.during("Error uploading")?),
            None => None,
        };
        let sha256 = match &content {
            Some(content) => Some(content.sha256.clone()),
            None => self.recorded().await,
        };
        let sha256 = sha256.as_deref();
        let found = match source {
            _ if self.request.force => None,
            _ => snapshot::find(self.api, name).await.during("failed finding snapshot")?,
        };
        match found {
            Some(Found::Snapshot { id, started, sha256: there }) => {
                compare(&format!("snapshot {id} of the name {name:?}"), there.as_deref(), sha256)?;
                info!(COMPONENT, "found existing snapshot {id}");
                if there.is_none() {
                    check_age(source, &id, started)?;
                }
                if let Source::Direct(_) = source {
                    direct::forget(self.api, name, &id)?;
                }
                return Ok(id);
            }
            Some(Found::Task(task)) => {
                // The object that it imports is removed only after the snapshot has its name.
                let there = self.recorded().await;
                compare(&format!("{object}, which import task {task} imports,"), there.as_deref(), sha256)?;
                info!(COMPONENT, "found existing snapshot import task {task}");
                return snapshot::finish(self.api, name, &task, there.as_deref(), self.cancel)
                    .await
                    .during("unable to create snapshot");
            }
            None => self.check()?,
        }
        match (source, &content) {
            (Source::Direct(file), Some(content)) => {
                return self.direct(file, content).await.during("unable to create snapshot");
            }
            (Source::File(file), Some(content)) => {
                self.object(file, content).await.during("Error uploading")?
            }
            _ => {}
        }
        self.check()?;
        snapshot::import(self.api, name, self.request.format, object, sha256, self.cancel)
            .await
            .during("unable to create snapshot")
    }

    /// The SHA-256 that was written down with the object. One that may be imported need not be one that we may look at.
    async fn recorded(&self) -> Option<String> {
        let Request { object, .. } = self.request;
        self.api.head_object(&object.bucket, &object.name).await.ok().flatten()?.sha256
    }

    async fn object(&self, file: &Path, content: &Content) -> Result<()> {
        let Request { object, force, resume, .. } = self.request;
        if !force && let Some(head) = self.api.head_object(&object.bucket, &object.name).await? {
            content.compare(file, object, &head).await?;
            info!(COMPONENT, "skipping upload since object exists and force was not set: {object}");
            return object::tidy(self.api, object).await;
        }
        info!(COMPONENT, "uploading {object}");
        let (report, cancel) = (self.report, self.cancel);
        Upload { file, content, to: object, resume: *resume, report, cancel }.run(self.api).await
    }

    async fn direct(&self, file: &Path, content: &Content) -> Result<String> {
        let Request { name, size_gib, tags, resume, .. } = self.request;
        let tags: &Vec<_> = &tags.iter().cloned().chain([snapshot::digest(&content.sha256)]).collect();
        info!(COMPONENT, "writing {} into a snapshot", file.display());
        let (report, cancel) = (self.report, self.cancel);
        let direct = Direct { file, name, size_gib: *size_gib, tags, resume: *resume, report, cancel };
        direct.run(self.api).await
    }

    /// Registers an image, shares and tags it.
    async fn image(&self, kind: Kind, name: &str, snapshot: &str) -> Result<String> {
        let Request { description, size_gib, users, tags, .. } = self.request;
        self.check()?;
        let order = Order { name, description, snapshot, size_gib: *size_gib, architecture: "x86_64" };
        let what = match kind {
            Kind::Hvm => "unable to create HVM image",
            Kind::Pv => "unable to create PV image",
        };
        let id = images::register(self.api, &order, kind, self.cancel).await.during(what)?;
        if !users.is_empty() {
            images::grant(self.api, &id, users, self.cancel)
                .await
                .during("unable to grant launch permission")?;
        }
        if !tags.is_empty() {
            settled(self.cancel, || async { self.api.create_tags(&[&id, snapshot], tags).await })
                .await
                .during("unable to add tags")?;
        }
        Ok(id)
    }
}

/// Refuses what is known to have another content; where either is unknown, that is said.
fn compare(what: &str, there: Option<&str>, wanted: Option<&str>) -> Result<()> {
    match (there, wanted) {
        (Some(there), Some(wanted)) if there != wanted => {
            Err(Error::Different(format!("{what} was made of another image: SHA-256 {there}, not {wanted}")))
        }
        (Some(_), Some(_)) => Ok(()),
        _ => {
            warning!(
                COMPONENT,
                "{what} is used, though it cannot be told whether it is made of the same image"
            );
            Ok(())
        }
    }
}

/// Of a snapshot whose content is unknown: refuses one that was there before the file was written.
fn check_age(source: &Source, id: &str, started: Option<DateTime<Utc>>) -> Result<()> {
    let modified = source.file().and_then(|f| f.metadata().ok()).and_then(|m| m.modified().ok());
    match (modified, started) {
        (Some(modified), Some(started)) if DateTime::<Utc>::from(modified) > started => {
            Err(Error::Different(format!("snapshot {id} of {started} is older than the file")))
        }
        _ => Ok(()),
    }
}

/// Reads `key=value`.
///
/// # Errors
/// When there is no `=`, no key, or either is longer than EC2 takes.
pub fn parse_tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => {
            // Restrictions: EC2 user guide, "Tag your resources".
            if key.chars().count() > 127 || value.chars().count() > 255 || key.starts_with("aws:") {
                return Err(format!(
                    "EC2 does not take the tag {text:?}: the key is too long or begins with aws:, or the value is too long"
                ));
            }
            Ok((key.into(), value.into()))
        }
        _ => Err(format!("invalid tag format; should be key=value, not {text}")),
    }
}

/// Refuses what cannot be the name of an image: 3 to 128 letters, digits and some signs; RegisterImage.
///
/// # Errors
/// What is wrong.
pub fn check_image_name(name: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "()[] ./-'@_".contains(c);
    match name.chars().find(|c| !fine(*c)) {
        Some(c) => Err(format!("{name:?} cannot name an image: {c:?} is not allowed in names")),
        None if !(3..=128).contains(&name.len()) => {
            Err(format!("{name:?} cannot name an image: names have 3 to 128 characters"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_keys_and_values() {
        assert_eq!(parse_tag("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_tag("a="), Ok(("a".into(), String::new())));
        assert_eq!(parse_tag("ab").unwrap_err(), "invalid tag format; should be key=value, not ab");
        for bad in ["=b", "aws:x=y", &format!("{}=x", "k".repeat(128)), &format!("k={}", "v".repeat(256))] {
            assert!(parse_tag(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn image_names_are_checked() {
        for good in ["Container-Linux-dev-core-1967.3.0-hvm", "a b", "(x)[y]/z.'@_-"] {
            assert_eq!(check_image_name(good), Ok(()));
        }
        for bad in ["", "ab", "1.0.0+build", "naïve", &"x".repeat(129)] {
            assert!(check_image_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_result_is_upstreams_line() {
        let mut outcome =
            Outcome { hvm: "ami-1".into(), pv: None, snapshot: "snap-1".into(), object: "s3://b/k".into() };
        let line = serde_json::to_string(&outcome).unwrap();
        assert_eq!(line, r#"{"HVM":"ami-1","SnapshotID":"snap-1","S3Object":"s3://b/k"}"#);
        outcome.pv = Some("ami-2".into());
        let line = serde_json::to_string(&outcome).unwrap();
        assert_eq!(line, r#"{"HVM":"ami-1","PV":"ami-2","SnapshotID":"snap-1","S3Object":"s3://b/k"}"#);
    }
}
