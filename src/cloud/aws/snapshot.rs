//! Snapshots made of images in S3, found again by name.
//!
//! The name is the snapshot's `Name` tag and the description of the task that imports it: a repeated import finds
//! whichever is there.

use std::sync::Mutex;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::COMPONENT;
use super::api::{self, Api, ImportTask};
use super::failure::{During as _, Error, Result};
use super::object::Location;
use super::wait::{settled, until};
use super::{DIGEST, MARK};
use crate::disk::Format;
use crate::info;
use crate::poll::{Answer, Poll};

/// Looks at an import task.
const IMPORT: Poll = Poll::seconds(20, 2 * 3600);

/// What is there of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A complete snapshot.
    Snapshot {
        /// Its id.
        id: String,
        /// When it was begun.
        started: Option<DateTime<Utc>>,
        /// SHA-256 of the file it was made of, if that was written down.
        sha256: Option<String>,
    },
    /// The task that makes one, or has just done so.
    Task(String),
}

/// Looks for the snapshot of a name, and for a task that makes it.
///
/// # Errors
/// When there are several, or a call fails.
pub async fn find(api: &Api, name: &str) -> Result<Option<Found>> {
    let mut snapshots = api.snapshots(&[("status", &["completed"]), ("tag:Name", &[name])]).await?;
    if snapshots.len() > 1 {
        let ids: Vec<_> = snapshots.into_iter().map(|s| s.id).collect();
        return Err(Error::Invalid(format!("found multiple matching snapshots: {}", ids.join(", "))));
    }
    if let Some(snapshot) = snapshots.pop() {
        let sha256 = api::tag(&snapshot.tags, DIGEST).map(str::to_owned);
        return Ok(Some(Found::Snapshot { id: snapshot.id, started: snapshot.started, sha256 }));
    }
    let mut tasks = Vec::new();
    for task in api.import_tasks().await? {
        if task.description == name && is_alive(api, &task).await? {
            tasks.push(task.id);
        }
    }
    if tasks.len() > 1 {
        return Err(Error::Invalid(format!("found multiple matching import tasks: {}", tasks.join(", "))));
    }
    Ok(tasks.pop().map(Found::Task))
}

/// Whether a task leads to a snapshot that is not gone.
async fn is_alive(api: &Api, task: &ImportTask) -> Result<bool> {
    match (task.status.as_str(), &task.snapshot) {
        ("cancelled" | "cancelling" | "deleted" | "deleting", _) => Ok(false),
        ("completed", Some(snapshot)) => Ok(api.snapshot(snapshot).await?.is_some()),
        ("completed", None) => Ok(false),
        _ => Ok(true),
    }
}

/// Starts the import of an object and waits for its snapshot.
///
/// # Errors
/// When the import cannot be started or fails; what it was given is at fault then, or the role `vmimport`.
pub async fn import(
    api: &Api,
    name: &str,
    format: Format,
    object: &Location,
    sha256: Option<&str>,
    cancel: &CancellationToken,
) -> Result<String> {
    let task = api.import_snapshot(name, format.name(), &object.bucket, &object.name).await?;
    info!(COMPONENT, "created snapshot import task {task}");
    finish(api, name, &task, sha256, cancel).await
}

/// Waits for a task's snapshot and names it; the SHA-256 of what is in it, if known, is written down.
///
/// # Errors
/// When the task fails, or is not done within two hours.
pub async fn finish(
    api: &Api,
    name: &str,
    task: &str,
    sha256: Option<&str>,
    cancel: &CancellationToken,
) -> Result<String> {
    let shown = Mutex::new(String::new());
    let look = || async {
        let Some(task) = api.import_task(task).await? else {
            return Ok(Answer::NotYet("unknown".into()));
        };
        let answer = judge(&task)?;
        if let (Answer::NotYet(status), Ok(mut shown)) = (&answer, shown.lock())
            && *status != *shown
        {
            shown.clone_from(status);
            info!(COMPONENT, "import task {}: {status}", task.id);
        }
        Ok(answer)
    };
    let what = format!("import task {task}");
    let snapshot = until(IMPORT, &what, cancel, look).await.during(&*what)?;
    let digest: Vec<_> = sha256.into_iter().map(digest).collect();
    tag(api, &snapshot, name, &digest, cancel).await?;
    Ok(snapshot)
}

/// Names a snapshot and marks it as ours.
///
/// # Errors
/// When the provider refuses.
pub async fn tag(
    api: &Api,
    id: &str,
    name: &str,
    more: &[(String, String)],
    cancel: &CancellationToken,
) -> Result<()> {
    let tags = tags(name, more);
    settled(cancel, || async { api.create_tags(&[id], &tags).await }).await
}

/// The tag that says what is in a snapshot.
pub(super) fn digest(sha256: &str) -> (String, String) {
    (DIGEST.to_owned(), sha256.to_owned())
}

/// The tags of something of ours with a name.
pub(super) fn tags(name: &str, more: &[(String, String)]) -> Vec<(String, String)> {
    let own = [("Name", name), MARK].map(|(k, v)| (k.to_owned(), v.to_owned()));
    own.into_iter().chain(more.iter().cloned()).collect()
}

/// What the state of a task means.
fn judge(task: &ImportTask) -> Result<Answer<String>> {
    let message = task.message.as_deref().filter(|m| !m.is_empty());
    match task.status.as_str() {
        "pending" | "active" => {
            let progress = task.progress.as_deref().map(|p| format!(" {p} %")).unwrap_or_default();
            let message = message.map(|m| format!(" ({m})")).unwrap_or_default();
            Ok(Answer::NotYet(format!("{}{progress}{message}", task.status)))
        }
        "completed" => match &task.snapshot {
            Some(id) => Ok(Answer::Ready(id.clone())),
            None => Err(Error::Invalid("it is completed but names no snapshot".into())),
        },
        "cancelled" | "cancelling" => Err(Error::Invalid("import task cancelled".into())),
        "deleted" | "deleting" => Err(Error::Invalid(format!(
            "could not import snapshot: {}",
            message.unwrap_or("no reason given")
        ))),
        other => Err(Error::Invalid(format!("unexpected status: {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: &str, progress: Option<&str>, message: Option<&str>, id: Option<&str>) -> String {
        let task = ImportTask {
            status: status.into(),
            progress: progress.map(Into::into),
            message: message.map(Into::into),
            snapshot: id.map(Into::into),
            ..ImportTask::default()
        };
        match judge(&task) {
            Ok(Answer::Ready(id)) => format!("= {id}"),
            Ok(Answer::NotYet(status) | Answer::Later(status, _)) => status,
            Err(e) => format!("! {e}"),
        }
    }

    #[test]
    fn every_state_of_an_import_has_a_meaning() {
        assert_eq!(judged("pending", None, None, None), "pending");
        assert_eq!(judged("active", Some("28"), Some("converting"), None), "active 28 % (converting)");
        assert_eq!(judged("completed", None, None, Some("snap-1")), "= snap-1");
        assert_eq!(judged("completed", None, None, None), "! it is completed but names no snapshot");
        assert_eq!(judged("cancelling", None, None, None), "! import task cancelled");
        assert_eq!(judged("deleted", None, Some("bad disk"), None), "! could not import snapshot: bad disk");
        assert_eq!(judged("deleting", None, None, None), "! could not import snapshot: no reason given");
        assert_eq!(judged("odd", None, None, None), "! unexpected status: odd");
    }
}
