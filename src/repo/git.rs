//! git as a child process: asked nothing, told nothing by the environment, ended with us.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::names::is_local;
use crate::http::mask;
use crate::poll;
use crate::process::{Command, find_program};

/// A git that writes nothing for so long is taken to hang: it reports its progress every second.
const SILENCE: Duration = Duration::from_secs(600);
/// How long git has to remove its lock files when it is told to end.
const GRACE: Duration = Duration::from_secs(5);
/// How much of what git says is kept, in bytes.
const KEPT: usize = 1 << 20;
/// How often something is fetched, all together.
const ATTEMPTS: u32 = 3;

/// What would lead git to another repository than the one that is meant.
const FOREIGN: &[&str] = &[
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_QUARANTINE_PATH",
    "GIT_WORK_TREE",
];

/// Settings for every call. Small packs are not unpacked, so that a commit is never there without its files; no hooks;
/// nothing that goes on behind our back.
const SETTINGS: &[&str] = &[
    "advice.detachedHead=false",
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "fetch.recurseSubmodules=false",
    "fetch.unpackLimit=1",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
    "transfer.unpackLimit=1",
];

/// How git ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    stderr: String,
}

/// What git may do, and until when.
#[derive(Clone, Debug)]
pub(super) struct Git {
    program: PathBuf,
    /// Kinds of addresses, as `GIT_ALLOW_PROTOCOL` has them.
    protocols: &'static str,
    cancel: CancellationToken,
}

impl Git {
    /// `source` is where the manifests come from: only if that is this machine, anything else may.
    pub(super) fn new(source: &str, cancel: &CancellationToken) -> Result<Self, Error> {
        let program = find_program("git").ok_or(Error::NoGit)?;
        let protocols = if is_local(source) { "file:git:http:https:ssh" } else { "git:http:https:ssh" };
        Ok(Self { program, protocols, cancel: cancel.clone() })
    }

    /// The repository with its working tree at `dir`, and no other around it.
    pub(super) fn at(&self, dir: &Path) -> Repository {
        Repository { git: self.clone(), dir: dir.to_owned(), index: None }
    }

    fn command(&self, dir: &Path) -> Command {
        let mut command = Command::new(&self.program).current_dir(dir);
        for name in FOREIGN {
            command = command.env_remove(name);
        }
        for setting in SETTINGS {
            command = command.args(["-c", setting]);
        }
        // Nobody is there to be asked for a password: the terminal is not git's.
        if std::env::var_os("SSH_ASKPASS").is_none() {
            command = command.env("SSH_ASKPASS", "false");
        }
        command
            .env("GIT_ALLOW_PROTOCOL", self.protocols)
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("LC_ALL", "C")
            .env("SSH_ASKPASS_REQUIRE", "force")
    }

    /// Makes an empty repository, or completes one that was begun.
    pub(super) async fn init(&self, dir: &Path) -> Result<(), Error> {
        let command = self.command(dir).args(["init", "-q", "--template=", "."]);
        self.run(command, format!("git init in {}", dir.display())).await.map(drop)
    }

    /// Runs git to its end, whatever that is.
    async fn end(&self, command: Command, what: &str) -> Result<Ended, Error> {
        let failed = |why: String| Error::Git { what: what.to_owned(), why };
        let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().await;
        let mut proc = spawned.map_err(|e| failed(crate::text::chain(&e)))?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (mut out, mut err) = (proc.stdout.take(), proc.stderr.take());
        let silence = SILENCE.mul_f64(poll::scale().max(0.1));
        while out.is_some() || err.is_some() {
            let read = tokio::select! {
                biased;
                () = self.cancel.cancelled() => {
                    proc.stop(GRACE).await;
                    return Err(Error::interrupted());
                }
                read = more(&mut out, &mut stdout, usize::MAX) => read,
                read = more(&mut err, &mut stderr, KEPT) => read,
                () = tokio::time::sleep(silence) => {
                    proc.stop(GRACE).await;
                    return Err(failed(format!("it said nothing for {} s and was ended", silence.as_secs())));
                }
            };
            read.map_err(|e| failed(e.to_string()))?;
        }
        let status = tokio::select! {
            () = self.cancel.cancelled() => {
                proc.stop(GRACE).await;
                return Err(Error::interrupted());
            }
            status = proc.wait() => status,
        };
        Ok(Ended { status, stdout, stderr: complaint(&stderr) })
    }

    /// Runs git; it has to succeed.
    async fn run(&self, command: Command, what: String) -> Result<Vec<u8>, Error> {
        let ended = self.end(command, &what).await?;
        if ended.status.success() {
            return Ok(ended.stdout);
        }
        let why = if ended.stderr.is_empty() { ended.status.to_string() } else { ended.stderr };
        Err(Error::Git { what, why })
    }
}

/// Reads what is there; the pipe is gone when it has ended.
async fn more(
    pipe: &mut Option<impl AsyncRead + Unpin>,
    into: &mut Vec<u8>,
    limit: usize,
) -> std::io::Result<()> {
    let Some(reader) = pipe else { return std::future::pending().await };
    let mut piece = [0; 16 << 10];
    match reader.read(&mut piece).await? {
        0 => *pipe = None,
        read => {
            into.extend(&piece[..read]);
            if into.len() > limit {
                into.drain(..into.len() - limit / 2);
            }
        }
    }
    Ok(())
}

/// What git says is wrong, without how far it was, in one line.
fn complaint(stderr: &[u8]) -> String {
    let text = mask::urls(&String::from_utf8_lossy(stderr));
    let lines: Vec<&str> = text.lines().map(|line| line.rsplit('\r').next().unwrap_or(line).trim()).collect();
    let told = |line: &&&str| {
        let is_progress = || {
            let remote = line.strip_prefix("remote: ").unwrap_or_default();
            ["Compressing", "Counting", "Enumerating", "Total"].iter().any(|word| remote.starts_with(word))
        };
        ["fatal:", "error:", "remote: ", "ssh:", "! ["].iter().any(|p| line.starts_with(p)) && !is_progress()
    };
    let mut chosen: Vec<&str> = lines.iter().filter(told).copied().collect();
    if chosen.is_empty() {
        chosen = lines.iter().rev().filter(|line| !line.is_empty()).take(3).copied().collect();
        chosen.reverse();
    }
    // What a server says may be anything.
    let clean = |line: &str| line.chars().filter(|c| !c.is_control()).take(300).collect::<String>();
    let skip = chosen.len().saturating_sub(6);
    chosen.into_iter().skip(skip).map(clean).collect::<Vec<_>>().join("; ")
}

/// One repository with a working tree.
#[derive(Clone, Debug)]
pub(super) struct Repository {
    git: Git,
    dir: PathBuf,
    index: Option<PathBuf>,
}

impl Repository {
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The same, with another index.
    pub(super) fn with_index(&self, index: &Path) -> Self {
        Self { index: Some(index.to_owned()), ..self.clone() }
    }

    fn command(&self, args: &[&str]) -> Command {
        // Said outright: without `.git`, git would look for one in the folders above.
        let git_dir = self.dir.join(".git");
        let mut command = self.git.command(&self.dir).arg("--git-dir").arg(git_dir);
        command = command.arg("--work-tree").arg(&self.dir).args(args);
        match &self.index {
            Some(index) => command.env("GIT_INDEX_FILE", index),
            None => command,
        }
    }

    fn name(&self, args: &[&str]) -> String {
        let verb = args.first().copied().unwrap_or_default();
        format!("git {verb} in {}", self.dir.display())
    }

    /// Runs git; it has to succeed.
    pub(super) async fn run(&self, args: &[&str]) -> Result<Vec<u8>, Error> {
        self.git.run(self.command(args), self.name(args)).await
    }

    /// As [`Repository::run`], with further variables.
    pub(super) async fn run_with(&self, args: &[&str], env: &[(&str, &str)]) -> Result<Vec<u8>, Error> {
        let command = env.iter().fold(self.command(args), |command, (name, value)| command.env(name, value));
        self.git.run(command, self.name(args)).await
    }

    /// The first line of what git says.
    pub(super) async fn line(&self, args: &[&str]) -> Result<String, Error> {
        let text = self.run(args).await?;
        Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned())
    }

    /// The first line of what git says; none if it fails or says nothing.
    pub(super) async fn ask(&self, args: &[&str]) -> Result<Option<String>, Error> {
        match self.line(args).await {
            Ok(line) => Ok(Some(line).filter(|line| !line.is_empty())),
            Err(Error::Git { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether git succeeds.
    pub(super) async fn test(&self, args: &[&str]) -> Result<bool, Error> {
        Ok(self.git.end(self.command(args), &self.name(args)).await?.status.success())
    }

    /// Where git keeps what it knows.
    pub(super) async fn git_dir(&self) -> Result<PathBuf, Error> {
        self.line(&["rev-parse", "--absolute-git-dir"]).await.map(PathBuf::from)
    }

    /// The commit that a name means, if it is there.
    pub(super) async fn commit(&self, name: &str) -> Result<Option<String>, Error> {
        let spec = format!("{name}^{{commit}}");
        self.ask(&["rev-parse", "--quiet", "--verify", &spec]).await
    }

    /// Fetches, several times if the server cannot be reached.
    pub(super) async fn fetch(&self, options: &[&str], from: &str, what: &[&str]) -> Result<(), Error> {
        let mut args = vec!["fetch", "--progress"];
        args.extend(options);
        args.extend(["--", from]);
        args.extend(what);
        let mut attempt = 1;
        loop {
            let error = match self.run(&args).await {
                Err(Error::Git { what, why }) => Error::Git { what, why },
                other => return other.map(drop),
            };
            if attempt == ATTEMPTS || !is_transient(&error) {
                return Err(error);
            }
            crate::notice!(super::LOG, "{error}; trying again");
            let pause = Duration::from_secs(1 << attempt).mul_f64(poll::scale());
            tokio::select! {
                () = self.git.cancel.cancelled() => return Err(Error::interrupted()),
                () = tokio::time::sleep(pause) => {}
            }
            attempt += 1;
        }
    }
}

/// Whether the same may succeed a little later. git has one exit status for everything.
fn is_transient(error: &Error) -> bool {
    const SIGNS: &[&str] = &[
        "Connection refused",
        "Connection reset",
        "Connection timed out",
        "Could not resolve",
        "Couldn't connect",
        "Failed to connect",
        "The requested URL returned error: 429",
        "The requested URL returned error: 5",
        "Temporary failure in name resolution",
        "early EOF",
        "hung up unexpectedly",
        "unable to connect",
        "unexpected disconnect",
    ];
    matches!(error, Error::Git { why, .. } if SIGNS.iter().any(|sign| why.contains(sign)))
}

/// Whether a fetch failed because the server has no such reference.
pub(super) fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Git { why, .. } if why.contains("couldn't find remote ref"))
}
