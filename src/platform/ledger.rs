//! A record on disk of what must be removed should this process die before it could.
//!
//! `resources.jsonl` in the output folder holds one JSON object a line: a `create` line is written *before* a
//! resource is made, a `delete` line after it is gone. What was created and never deleted is left over.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// The file's name in the output folder.
pub const FILE: &str = "resources.jsonl";

/// Something outside this process that must not be left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// What it is: `process`, `mount`, `folder`, on clouds `instance`, `key-pair`, ….
    pub kind: String,
    /// Unique among its kind: a pid with its start time, a path, a tag or an id.
    pub id: String,
    /// Platform that made it.
    pub platform: String,
    /// Region, account or the like: what else is needed to find it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub place: String,
}

/// Removes what runs left behind.
#[async_trait]
pub trait Clean: Send + Sync {
    /// Removes one resource; one that is gone already is removed.
    ///
    /// # Errors
    /// What could not be removed, and why.
    async fn remove(&self, resource: &Resource) -> super::Result<()>;
}

/// Removes what is on this machine.
pub struct Local;

#[async_trait]
impl Clean for Local {
    async fn remove(&self, resource: &Resource) -> super::Result<()> {
        remove_local(resource).await.map_err(super::Error::new)
    }
}

/// Whether a kind of resource is on this machine, whatever the platform.
pub fn is_local(kind: &str) -> bool {
    matches!(kind, "process" | "mount" | "cgroup" | "folder")
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Line {
    Create(Resource),
    Delete { kind: String, id: String },
}

/// The open record of this run.
#[derive(Debug)]
pub struct Ledger {
    file: Mutex<Option<File>>,
}

impl Ledger {
    /// Opens the record in an output folder, adding to what is there.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(output_dir: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(output_dir.join(FILE))?;
        Ok(Self { file: Mutex::new(Some(file)) })
    }

    /// A record that nobody reads: for tests.
    pub fn none() -> Self {
        Self { file: Mutex::new(None) }
    }

    /// Notes a resource; call it before the resource is made.
    ///
    /// # Errors
    /// When the line cannot be written: then the resource must not be made.
    pub fn create(&self, resource: &Resource) -> io::Result<()> {
        self.append(&Line::Create(resource.clone()))
    }

    /// Strikes a resource; call it once the resource is gone. A failure is logged: the entry stays, and
    /// clean-up will find nothing to do.
    pub fn delete(&self, resource: &Resource) {
        let line = Line::Delete { kind: resource.kind.clone(), id: resource.id.clone() };
        if let Err(e) = self.append(&line) {
            crate::warning!("platform", "cannot strike {} {} from {FILE}: {e}", resource.kind, resource.id);
        }
    }

    fn append(&self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        match self.file.lock() {
            // One write per line: lines of two processes never mix.
            Ok(mut file) => file.as_mut().map_or(Ok(()), |f| f.write_all(text.as_bytes())),
            Err(_) => Err(io::Error::other("the record is broken by a panic")),
        }
    }
}

/// What a run's record says is left, in order of creation. A torn last line is passed over.
///
/// # Errors
/// When the record cannot be read.
pub fn left_over(output_dir: &Path) -> io::Result<Vec<Resource>> {
    let text = std::fs::read_to_string(output_dir.join(FILE))?;
    let mut left: Vec<Resource> = Vec::new();
    for line in text.lines() {
        match serde_json::from_str(line) {
            Ok(Line::Create(resource)) => left.push(resource),
            Ok(Line::Delete { kind, id }) => left.retain(|r| r.kind != kind || r.id != id),
            Err(_) => {}
        }
    }
    Ok(left)
}

/// A process named so that a later process of the same number is not taken for it: `<pid>@<start time>`.
pub fn process(pid: i32, platform: &str) -> Resource {
    Resource {
        kind: "process".into(),
        id: format!("{pid}@{}", start_time(pid).unwrap_or_default()),
        platform: platform.into(),
        place: String::new(),
    }
}

/// Start time of a process in clock ticks since boot (field 22 of proc_pid_stat(5)).
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Removes one local leftover (process with its group, mount, folder); kinds of clouds are refused.
///
/// # Errors
/// A text that says what could not be removed and why.
pub async fn remove_local(resource: &Resource) -> Result<(), String> {
    use nix::errno::Errno;
    match resource.kind.as_str() {
        "process" => {
            let (pid, started) = resource.id.split_once('@').ok_or("not a process entry")?;
            let pid: i32 = pid.parse().map_err(|_| "not a process entry")?;
            if start_time(pid).is_none_or(|t| t.to_string() != started) {
                return Ok(());
            }
            match nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            {
                Ok(()) | Err(Errno::ESRCH) => Ok(()),
                Err(e) => Err(format!("cannot kill process group {pid}: {e}")),
            }
        }
        "mount" => match nix::mount::umount2(resource.id.as_str(), nix::mount::MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
            Err(e) => Err(format!("cannot unmount {}: {e}", resource.id)),
        },
        "cgroup" => crate::process::cgroup::remove(Path::new(&resource.id))
            .await
            .map_err(|e| format!("cannot remove control group {}: {e}", resource.id)),
        "folder" => match std::fs::remove_dir_all(&resource.id) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(format!("cannot remove {}: {e}", resource.id)),
        },
        other => Err(format!("{other} {} is not on this machine", resource.id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_created_and_not_deleted_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        let folder = |name: &str| Resource {
            kind: "folder".into(),
            id: dir.path().join(name).display().to_string(),
            platform: "nspawn".into(),
            place: String::new(),
        };
        ledger.create(&folder("a")).unwrap();
        ledger.create(&folder("b")).unwrap();
        ledger.delete(&folder("a"));
        let mut file = OpenOptions::new().append(true).open(dir.path().join(FILE)).unwrap();
        file.write_all(b"{\"op\":\"create\",\"ki").unwrap();
        assert_eq!(left_over(dir.path()).unwrap(), [folder("b")]);
        std::fs::create_dir(dir.path().join("b")).unwrap();
        remove_local(&folder("b")).await.unwrap();
        remove_local(&folder("b")).await.unwrap();
        assert!(!dir.path().join("b").exists());
    }

    #[tokio::test]
    async fn a_reused_pid_is_spared() {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut entry = process(own, "qemu");
        entry.id = format!("{own}@1");
        remove_local(&entry).await.unwrap();
    }
}
