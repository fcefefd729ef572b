//! A record on disk of what must be removed should this process die before it could.
//!
//! `resources.jsonl` in the output folder holds one JSON object a line: a `create` line is written *before* a
//! resource is made, a `delete` line after it is gone. What was created and never deleted is left over.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::text::chain;

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
    #[serde(default)]
    pub platform: String,
    /// Region, account or the like: what else is needed to find it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub place: String,
}

impl Resource {
    /// Something on this machine: a `process`, `mount`, `cgroup` or `folder`.
    pub fn local(kind: &str, id: impl Into<String>, platform: &str) -> Self {
        Self { kind: kind.into(), id: id.into(), platform: platform.into(), place: String::new() }
    }

    /// Whether it is on this machine, whatever the platform.
    pub fn is_local(&self) -> bool {
        matches!(self.kind.as_str(), "process" | "mount" | "cgroup" | "folder")
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.id)?;
        if !self.place.is_empty() {
            write!(f, " of {}", self.place)?;
        }
        Ok(())
    }
}

/// Something that should be gone and is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// What is left.
    pub resource: Resource,
    /// Why, with all causes.
    pub why: String,
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) is left: {}", self.resource, self.resource.platform, self.why)
    }
}

/// Why something could not be removed.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Removes what runs left behind.
#[async_trait]
pub trait Clean: Send + Sync {
    /// Removes one resource; one that is gone already is removed.
    ///
    /// # Errors
    /// What could not be removed, and why.
    async fn remove(&self, resource: &Resource) -> Result<(), Failure>;
}

/// Removes what is on this machine.
pub struct Local;

#[async_trait]
impl Clean for Local {
    async fn remove(&self, resource: &Resource) -> Result<(), Failure> {
        Ok(remove_local(resource).await?)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Line {
    Create(Resource),
    Delete(Resource),
}

/// The open record of this run.
#[derive(Debug)]
pub struct Ledger(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    file: Option<File>,
    /// Shared, so that others see that somebody works with the record; `None` where files cannot be locked.
    _lock: Option<Flock<File>>,
    /// What this process has made and not struck, with the reason why it is still there, if one is known.
    open: Vec<(Resource, Option<String>)>,
}

impl Ledger {
    /// Opens the record in an output folder, adding to what is there.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(output_dir: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(output_dir.join(FILE))?;
        let lock = Flock::lock(file.try_clone()?, FlockArg::LockSharedNonblock).ok();
        Ok(Self(Mutex::new(Inner { file: Some(file), _lock: lock, open: Vec::new() })))
    }

    /// A record that nobody reads: for tests.
    pub fn none() -> Self {
        Self(Mutex::new(Inner { file: None, _lock: None, open: Vec::new() }))
    }

    /// Notes a resource; call it before the resource is made.
    ///
    /// # Errors
    /// When the line cannot be written: then the resource must not be made.
    pub fn create(&self, resource: &Resource) -> io::Result<()> {
        let mut inner = self.lock();
        inner.append(&Line::Create(resource.clone()))?;
        inner.open.push((resource.clone(), None));
        Ok(())
    }

    /// Strikes a resource; call it once the resource is gone. A failure is logged: the entry stays in the file, and
    /// clean-up will find nothing to do.
    pub fn delete(&self, resource: &Resource) {
        let mut inner = self.lock();
        inner.open.retain(|(open, _)| open != resource);
        if let Err(e) = inner.append(&Line::Delete(resource.clone())) {
            crate::warning!("ledger", "cannot strike {resource} from {FILE}: {e}");
        }
    }

    /// Notes why a resource is still there; one that was never on record gets there now, so that clean-up finds it.
    pub fn keep(&self, leftover: &Leftover) {
        let mut inner = self.lock();
        match inner.open.iter_mut().find(|(open, _)| *open == leftover.resource) {
            Some((_, why)) => *why = Some(leftover.why.clone()),
            None => {
                if let Err(e) = inner.append(&Line::Create(leftover.resource.clone())) {
                    crate::warning!("ledger", "cannot add {} to {FILE}: {e}", leftover.resource);
                }
                inner.open.push((leftover.resource.clone(), Some(leftover.why.clone())));
            }
        }
    }

    /// What this process has made and not struck, in order of creation.
    pub fn left(&self) -> Vec<Leftover> {
        let open = self.lock().open.clone();
        let unknown = || "its end was never seen".to_owned();
        open.into_iter()
            .map(|(resource, why)| Leftover { resource, why: why.unwrap_or_else(unknown) })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// One write per line: lines of two processes never mix.
    fn append(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.file.as_mut().map_or(Ok(()), |f| f.write_all(text.as_bytes()))
    }
}

/// Whether a process has the record of an output folder open: its run goes on, and nothing is left over yet.
///
/// # Errors
/// When there is no record, or it cannot be opened.
pub fn is_in_use(output_dir: &Path) -> io::Result<bool> {
    let file = crate::input::open(&output_dir.join(FILE))?;
    let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
    Ok(locked.is_err_and(|(_, e)| e == Errno::EWOULDBLOCK))
}

/// What a run's record says is left, in order of creation. A torn last line is passed over.
///
/// # Errors
/// When the record cannot be read.
pub fn left_over(output_dir: &Path) -> io::Result<Vec<Resource>> {
    let text = crate::input::read_to_string(&output_dir.join(FILE))?;
    let mut left: Vec<Resource> = Vec::new();
    for line in text.lines() {
        match serde_json::from_str(line) {
            Ok(Line::Create(resource)) => left.push(resource),
            Ok(Line::Delete(gone)) => left.retain(|r| {
                // Records of version 0.13.0 strike by kind and id only.
                let named =
                    *r == gone || gone.platform.is_empty() && (&r.kind, &r.id) == (&gone.kind, &gone.id);
                !named
            }),
            Err(_) => {}
        }
    }
    Ok(left)
}

/// A process named so that a later process of the same number is not taken for it: `<pid>@<start time>`.
pub fn process(pid: i32, platform: &str) -> Resource {
    Resource::local("process", format!("{pid}@{}", start_time(pid).unwrap_or_default()), platform)
}

/// Whether it is a process that runs.
pub fn is_running(resource: &Resource) -> bool {
    let running = |(pid, started): (&str, &str)| {
        pid.parse().ok().and_then(start_time).is_some_and(|time| time.to_string() == started)
    };
    resource.kind == "process" && resource.id.split_once('@').is_some_and(running)
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

/// What came of a clean-up.
#[derive(Debug, Default)]
pub struct Cleaned {
    /// Removed, or found to be gone.
    pub removed: usize,
    /// What is still there.
    pub left: Vec<Leftover>,
    /// Whether the walk was stopped before its end.
    pub interrupted: bool,
}

/// Why a record is not gone through.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The run that it belongs to goes on: what it names is in use.
    #[error("another process is working in {}: what its {FILE} names is not left over", .0.display())]
    InUse(PathBuf),
    /// It cannot be read or written.
    #[error("cannot use the record of resources {}", .path.display())]
    File {
        /// The record.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Removes what the record of a run in `output_dir` names and never struck, newest first, as far as `pick` takes it;
/// what is gone is struck, and `tell` hears of each. No run begins in the folder meanwhile.
///
/// Goes on after a failure; stops between two resources once cancelled.
///
/// # Errors
/// [`Error::InUse`] while a run has the record open, or when it cannot be read or opened.
pub async fn clean_up(
    output_dir: &Path,
    pick: impl Fn(&Resource) -> bool,
    cleaner: &dyn Clean,
    cancel: &CancellationToken,
    mut tell: impl FnMut(&Resource, Result<(), &Leftover>),
) -> Result<Cleaned, Error> {
    let path = output_dir.join(FILE);
    let unusable = |source| Error::File { path: path.clone(), source };
    let _alone =
        match Flock::lock(crate::input::open(&path).map_err(unusable)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Some(lock),
            Err((_, Errno::EWOULDBLOCK)) => return Err(Error::InUse(output_dir.to_owned())),
            // There are file systems without locks; runs are not seen there.
            Err(_) => None,
        };
    let mut left = left_over(output_dir).map_err(unusable)?;
    left.retain(|r| pick(r));
    let mut cleaned = Cleaned::default();
    if left.is_empty() {
        return Ok(cleaned);
    }
    let record = Ledger::open(output_dir).map_err(unusable)?;
    for resource in left.into_iter().rev() {
        if cancel.is_cancelled() {
            cleaned.interrupted = true;
            break;
        }
        match cleaner.remove(&resource).await {
            Ok(()) => {
                record.delete(&resource);
                cleaned.removed += 1;
                tell(&resource, Ok(()));
            }
            Err(e) => {
                let leftover = Leftover { resource, why: chain(&*e) };
                tell(&leftover.resource, Err(&leftover));
                cleaned.left.push(leftover);
            }
        }
    }
    Ok(cleaned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_created_and_not_deleted_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        let folder =
            |name: &str| Resource::local("folder", dir.path().join(name).display().to_string(), "nspawn");
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

    #[test]
    fn an_entry_is_struck_by_all_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        let key =
            |place: &str| Resource { place: place.into(), ..Resource::local("key-pair", "kola", "aws") };
        ledger.create(&key("eu-west-1")).unwrap();
        ledger.create(&key("us-west-2")).unwrap();
        ledger.delete(&key("us-west-2"));
        assert_eq!(left_over(dir.path()).unwrap(), [key("eu-west-1")]);
        ledger.keep(&Leftover { resource: key("eu-west-1"), why: "denied".into() });
        let stuck = Leftover { resource: Resource::local("process", "1@1", "qemu"), why: "hangs".into() };
        ledger.keep(&stuck);
        let why: Vec<String> = ledger.left().into_iter().map(|l| l.why).collect();
        assert_eq!(why, ["denied", "hangs"]);
        assert_eq!(left_over(dir.path()).unwrap(), [key("eu-west-1"), stuck.resource]);
    }

    #[tokio::test]
    async fn a_clean_up_goes_on_after_a_failure_and_stops_when_told() {
        struct Picky(CancellationToken);
        #[async_trait]
        impl Clean for Picky {
            async fn remove(&self, resource: &Resource) -> Result<(), Failure> {
                match resource.id.as_str() {
                    "bad" => Err("no".into()),
                    "last" => {
                        self.0.cancel();
                        Ok(())
                    }
                    _ => Ok(()),
                }
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        for id in ["never", "last", "bad", "good"] {
            ledger.create(&Resource::local("thing", id, "cloud")).unwrap();
        }
        ledger.create(&Resource::local("thing", "good", "other")).unwrap();
        let cancel = CancellationToken::new();
        let cleaner = Picky(cancel.clone());
        let mut told = Vec::new();
        let pick = |r: &Resource| r.platform == "cloud";
        let tell = |r: &Resource, done: Result<(), &Leftover>| told.push((r.id.clone(), done.is_ok()));
        // Its run goes on.
        let refused = clean_up(dir.path(), pick, &cleaner, &cancel, |_, _| panic!("in use")).await;
        assert!(matches!(refused, Err(Error::InUse(_))));
        drop(ledger);
        let cleaned = clean_up(dir.path(), pick, &cleaner, &cancel, tell).await.unwrap();
        assert_eq!(told, [("good".into(), true), ("bad".into(), false), ("last".into(), true)]);
        assert!(cleaned.interrupted && cleaned.removed == 2 && cleaned.left.len() == 1);
        let ids: Vec<String> = left_over(dir.path()).unwrap().into_iter().map(|r| r.id).collect();
        assert_eq!(ids, ["never", "bad", "good"]);
    }

    #[tokio::test]
    async fn a_reused_pid_is_spared() {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut entry = process(own, "qemu");
        entry.id = format!("{own}@1");
        remove_local(&entry).await.unwrap();
    }
}
