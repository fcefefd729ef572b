//! How the part that needs root becomes root: it is already, by sudo, or in a user namespace.
//!
//! In a user namespace nobody is asked for a password and nothing can be done to the machine. The tree then belongs to
//! numbers that `/etc/subuid` and `/etc/subgid` give the user; a tree that root unpacked cannot be worked on so, since
//! its owners are nobody there, and neither can loop devices be used, which images are made with. So a tree's owner
//! tells how it is entered and removed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, geteuid, getpid, setgroups, setresgid, setresuid};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::request::Request;
use super::user::{CALLER, User};
use crate::{multicall, process};

/// Becomes root of a user namespace and goes on with the entry that is named.
pub(super) const NAMESPACE: &str = "inNamespace";
/// Maps users for a process that waits for it.
pub(super) const MAP: &str = "mapUsers";
/// Does nothing, to see whether it would be done.
pub(super) const NOTHING: &str = "nothing";

/// What sudo asks.
const PROMPT: &str = "sudo password for %p: ";
/// How many users and groups a tree may have.
const USERS: u32 = 1 << 16;

/// The way to be root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// This process is.
    Already,
    /// Of the machine, by sudo.
    Sudo,
    /// Of a user namespace.
    Namespace,
}

impl Root {
    /// For a new tree: in a user namespace if that is wanted and goes, else as for any tree of root's.
    ///
    /// # Errors
    /// Without any way, with what to do about it; [`Error::User`].
    pub async fn for_new(user: &User, namespace: bool) -> Result<Self, Error> {
        if geteuid().is_root() {
            return Ok(Self::Already);
        }
        if namespace {
            match Self::Namespace.probe(user).await {
                Ok(()) => return Ok(Self::Namespace),
                Err(why) => crate::info!("sdk", "not in a user namespace: {why}"),
            }
        }
        Self::sudo()
    }

    /// For the tree that is there.
    ///
    /// # Errors
    /// As [`Root::for_new`].
    pub fn for_tree(tree: &Path, user: &User) -> Result<Self, Error> {
        use std::os::unix::fs::MetadataExt as _;
        if geteuid().is_root() {
            return Ok(Self::Already);
        }
        let owner = tree.symlink_metadata().map_err(Error::at("look at", tree))?.uid();
        let mapped = Maps::of(user).is_ok_and(|maps| maps.root() == owner);
        if mapped { Ok(Self::Namespace) } else { Self::sudo() }
    }

    fn sudo() -> Result<Self, Error> {
        match process::find_program("sudo") {
            Some(_) => Ok(Self::Sudo),
            None => Err(Error::Root("this needs root: there is no sudo, so run it as root".into())),
        }
    }

    /// Whether this way is open.
    async fn probe(self, user: &User) -> Result<(), String> {
        Maps::of(user).map_err(|e| e.to_string())?;
        for program in ["newuidmap", "newgidmap"] {
            process::find_program(program)
                .ok_or_else(|| format!("there is no {program} (package uidmap)"))?;
        }
        let words = self.words(NOTHING, "{}").map_err(|e| e.to_string())?;
        let trial = process::Command::new(&words[0]).args(&words[1..]).output(Duration::from_secs(30));
        trial.await.map(drop).map_err(|e| e.to_string())
    }

    fn words(self, entry: &str, json: &str) -> io::Result<Vec<OsString>> {
        let own = match self {
            Self::Namespace => multicall::words(NAMESPACE, &[entry.as_ref(), json.as_ref()])?,
            _ => multicall::words(entry, &[json.as_ref()])?,
        };
        let before: &[&str] = if self == Self::Sudo { &["sudo", "-E", "-p", PROMPT, "--"] } else { &[] };
        Ok(before.iter().map(OsString::from).chain(own).collect())
    }

    /// Has sudo ask for the password now, if it has to: not only after a long download.
    ///
    /// # Errors
    /// [`Error::Root`] when it is refused.
    pub async fn warm_up(self) -> Result<(), Error> {
        if self != Self::Sudo {
            return Ok(());
        }
        let failed = |e: process::Error| Error::Root(format!("sudo cannot be used: {e}"));
        let sudo = process::Command::new("sudo").args(["-p", PROMPT, "-v"]).stdin(Stdio::inherit());
        let status = sudo.in_foreground().spawn().await.map_err(failed)?.wait().await;
        match status.success() {
            true => Ok(()),
            false => Err(Error::Root(format!("sudo refused: {status}"))),
        }
    }

    /// Does some work meanwhile sudo must not forget the password.
    pub async fn kept_warm<T>(self, work: impl Future<Output = T>) -> T {
        let keep = async {
            // The first tick is at once.
            let mut ticks = tokio::time::interval(Duration::from_secs(240));
            loop {
                ticks.tick().await;
                let _ =
                    process::Command::new("sudo").args(["-n", "-v"]).output(Duration::from_secs(60)).await;
            }
        };
        match self {
            Self::Sudo => {
                tokio::select! { biased; done = work => done, () = keep => unreachable!("it has no end") }
            }
            _ => work.await,
        }
    }

    /// The variable that tells the other part who called.
    fn caller(self, user: &User) -> Option<(&'static str, &str)> {
        (self != Self::Sudo).then_some((CALLER, user.name.as_str())) // sudo says so itself
    }

    /// Calls an entry in place of this process; returns only if that fails.
    pub fn exec(
        self,
        entry: &str,
        request: &Request,
        user: &User,
        environment: &[(&str, OsString)],
    ) -> Error {
        let prepare = || {
            let json = serde_json::to_string(request).map_err(Error::Request)?;
            let words = self.words(entry, &json).map_err(Error::at("find", Path::new("/proc/self/exe")))?;
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).envs(environment.iter().map(|(n, v)| (n, v))).envs(self.caller(user));
            Ok((command, words))
        };
        match prepare() {
            Ok((mut command, words)) => Error::at("run", Path::new(&words[0]))(command.exec()),
            Err(e) => e,
        }
    }

    /// Calls an entry that the user talks to, and waits for its end: its exit status, 128 and the number of the signal
    /// that ended it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn wait(
        self,
        entry: &str,
        request: &Request,
        user: &User,
        environment: &[(&str, OsString)],
    ) -> Result<u8, Error> {
        let mut command = self.command(entry, request, user)?.stdin(Stdio::inherit()).in_foreground();
        for (name, value) in environment {
            command = command.env(name, value);
        }
        let child = command.spawn().await.map_err(|e| Error::Root(crate::text::chain(&e)))?;
        Ok(status(child.wait().await))
    }

    fn command(self, entry: &str, request: &Request, user: &User) -> Result<process::Command, Error> {
        let json = serde_json::to_string(request).map_err(Error::Request)?;
        let words = self.words(entry, &json).map_err(Error::at("find", Path::new("/proc/self/exe")))?;
        let command = process::Command::new(&words[0]).args(&words[1..]);
        Ok(match self.caller(user) {
            Some((name, value)) => command.env(name, value),
            None => command,
        })
    }

    /// Calls an entry and waits for its end: its exit status, 130 if it was interrupted. When `cancel` is cancelled, or
    /// this process ends in any way, it stops and undoes what it has begun.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn call(
        self,
        entry: &str,
        request: &Request,
        user: &User,
        input: Option<File>,
        cancel: &CancellationToken,
    ) -> Result<u8, Error> {
        let mut command = self.command(entry, request, user)?.stdout(Stdio::piped());
        if let Some(input) = input {
            command = command.stdin(input);
        }
        // Not killed: it learns of our end by its output, and cleans up.
        let child = command.in_foreground().survive().spawn().await;
        let mut child = child.map_err(|e| Error::Root(crate::text::chain(&e)))?;
        let ended = match cancel.run_until_cancelled(child.wait()).await {
            Some(status) => status,
            None => {
                drop(child.stdout.take());
                child.wait().await
            }
        };
        Ok(status(ended))
    }
}

/// The status that a shell would tell.
fn status(ended: ExitStatus) -> u8 {
    let code = ended.code().and_then(|code| u8::try_from(code).ok());
    code.unwrap_or_else(|| crate::shutdown::exit_code(ended.signal().unwrap_or(libc::SIGKILL)))
}

/// Which numbers inside a user namespace are which outside.
#[derive(Debug, PartialEq, Eq)]
struct Maps {
    uids: Vec<[u32; 3]>,
    gids: Vec<[u32; 3]>,
}

impl Maps {
    /// As the system's tables grant: the user is the same inside, everybody else is somebody of the granted range.
    fn of(user: &User) -> Result<Self, Error> {
        let read = |file: &str, own: u32| {
            let text = std::fs::read_to_string(file).map_err(Error::at("read", Path::new(file)))?;
            let first = granted(&text, user).ok_or_else(|| {
                Error::Root(format!("{file} grants {} no {USERS} numbers (usermod --add-subuids)", user.name))
            })?;
            Ok::<_, Error>(map(own, first))
        };
        let uids = read("/etc/subuid", user.uid.as_raw())?;
        Ok(Self { uids, gids: read("/etc/subgid", user.gid.as_raw())? })
    }

    /// The number that root has outside.
    fn root(&self) -> u32 {
        self.uids.first().map_or(u32::MAX, |[_, outside, _]| *outside)
    }
}

/// The first number of a large enough range that a table grants (subuid(5)).
fn granted(table: &str, user: &User) -> Option<u32> {
    let uid = user.uid.to_string();
    table.lines().find_map(|line| {
        let mut words = line.split(':');
        let who = words.next()?;
        let (first, count): (u32, u32) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        ((who == user.name || who == uid) && count >= USERS && first.checked_add(USERS).is_some())
            .then_some(first)
    })
}

/// Inside, outside, how many: numbers below `USERS`, and `own` as it is.
fn map(own: u32, first: u32) -> Vec<[u32; 3]> {
    if own >= USERS {
        return vec![[0, first, USERS], [own, own, 1]];
    }
    let after = own + 1;
    let parts = [[0, first, own], [own, own, 1], [after, first + own, USERS - after]];
    parts.into_iter().filter(|[_, _, count]| *count > 0).collect()
}

/// The entry that becomes root of a new user namespace, and goes on as the entry that it was given; returns only if that
/// fails. It has one thread.
pub(super) fn in_namespace(args: &[OsString]) -> Error {
    match become_root(args) {
        Ok(mut command) => Error::at("run", Path::new("/proc/self/exe"))(command.exec()),
        Err(e) => e,
    }
}

fn become_root(args: &[OsString]) -> Result<Command, Error> {
    let [entry, rest @ ..] = args else { return Err(Error::Root("which entry?".into())) };
    let user = User::calling()?;
    let failed = |what: &'static str| move |source: io::Error| Error::Mount { what: what.into(), source };
    let pid = getpid().to_string();
    let words = multicall::words(MAP, &[pid.as_ref()]).map_err(failed("a user namespace"))?;
    let mut helper = Command::new(&words[0]);
    let mut helper =
        helper.args(&words[1..]).stdin(Stdio::piped()).spawn().map_err(failed("a user namespace"))?;
    let outcome = unshare(CloneFlags::CLONE_NEWUSER);
    if let Some(mut ready) = helper.stdin.take().filter(|_| outcome.is_ok()) {
        ready.write_all(b"!").map_err(failed("a user namespace"))?;
    }
    let status = helper.wait().map_err(failed("a user namespace"))?;
    outcome.map_err(|e| failed("a user namespace")(e.into()))?;
    if !status.success() {
        return Err(Error::Program { what: "the mapping of users", status });
    }
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setgroups(&[])
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid))
        .map_err(|e| failed("root of a user namespace")(e.into()))?;
    let rest: Vec<&OsStr> = rest.iter().map(OsString::as_os_str).collect();
    let words = multicall::words(&entry.to_string_lossy(), &rest).map_err(failed("a user namespace"))?;
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env(CALLER, user.name);
    Ok(command)
}

/// The entry that maps users for the process whose number it is given, once a byte says that it is time.
pub(super) fn map_users(args: &[OsString]) -> Result<(), Error> {
    let [pid] = args else { return Err(Error::Root("for which process?".into())) };
    let mut byte = [0];
    if io::stdin().read(&mut byte).unwrap_or(0) == 0 {
        return Err(Error::Root("there is no user namespace to map users of".into()));
    }
    let maps = Maps::of(&User::calling()?)?;
    for (program, what, ranges) in
        [("newuidmap", "newuidmap", maps.uids), ("newgidmap", "newgidmap", maps.gids)]
    {
        let path = process::find_program(program).unwrap_or_else(|| PathBuf::from(program));
        let numbers = ranges.iter().flatten().map(u32::to_string);
        let status = Command::new(&path).arg(pid).args(numbers).status().map_err(Error::at("run", &path))?;
        if !status.success() {
            return Err(Error::Program { what, status });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, uid: u32) -> User {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
        User { name: name.into(), group: name.into(), full_name: String::new(), uid, gid, home: "/".into() }
    }

    #[test]
    fn everybody_is_somebody_once() {
        assert_eq!(map(1000, 100_000), [[0, 100_000, 1000], [1000, 1000, 1], [1001, 101_000, 64535]]);
        assert_eq!(map(0, 100_000), [[0, 0, 1], [1, 100_000, 65535]]);
        assert_eq!(map(65535, 100_000), [[0, 100_000, 65535], [65535, 65535, 1]]);
        assert_eq!(map(70_000, 100_000), [[0, 100_000, 65536], [70_000, 70_000, 1]]);
        for own in [0, 1, 1000, 65535] {
            let total: u32 = map(own, 5).iter().map(|[_, _, count]| count).sum();
            assert_eq!(total, USERS);
        }
    }

    #[test]
    fn tables_grant_by_name_and_number() {
        let table = "bob:1:65536\nalice:100000:1000\n\nalice:200000:65536\n1001:300000:65536\nbad:x:65536\neve:4294967295:65536";
        for (who, uid, first) in [
            ("alice", 1000, Some(200_000)),
            ("carol", 1001, Some(300_000)),
            ("bad", 1, None),
            ("eve", 2, None),
            ("nobody", 3, None),
        ] {
            assert_eq!(granted(table, &user(who, uid)), first, "{who}");
        }
    }
}
