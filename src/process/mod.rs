//! Child processes that cannot outlive this one unless asked to.
//!
//! Every child leads its own process group (the terminal's Ctrl-C does not reach it; we decide the order),
//! is killed with its group when its [`Proc`] is dropped, and gets SIGKILL from the kernel should mantle die.
//! That last promise binds a child to the *thread* that made it (`PR_SET_PDEATHSIG`, prctl(2)), so all children
//! are made by one thread that lives as long as the process.

pub mod cgroup;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::{mpsc, oneshot, watch};

/// What can go wrong with a child.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program could not be started.
    #[error("cannot start {program}")]
    Spawn {
        /// Name or path as given.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program ended with a status other than 0.
    #[error("{program} ended with {status}{}", tail(.stderr))]
    Failed {
        /// Name or path as given.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote to stderr.
        stderr: String,
    },
    /// The program did not end in time and was killed.
    #[error("{program} did not end within {} s", .limit.as_secs())]
    TimedOut {
        /// Name or path as given.
        program: String,
        /// The time allowed.
        limit: Duration,
    },
    /// Reading from or writing to the program failed.
    #[error("cannot talk to {program}")]
    Pipe {
        /// Name or path as given.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn tail(stderr: &str) -> String {
    let text = stderr.trim();
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// What a finished program left behind.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its stdout.
    pub stdout: Vec<u8>,
    /// All of its stderr.
    pub stderr: Vec<u8>,
}

/// A program to start; a builder in the manner of [`std::process::Command`].
pub struct Command {
    program: OsString,
    inner: std::process::Command,
    input: Option<Vec<u8>>,
    namespaces: Vec<Arc<OwnedFd>>,
    fds: Vec<(OwnedFd, RawFd)>,
    survive: bool,
    foreground: bool,
}

impl Command {
    /// A command without arguments, with no stdin, and with stdout and stderr of this process.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut inner = std::process::Command::new(program.as_ref());
        inner.stdin(Stdio::null());
        let program = program.as_ref().to_owned();
        Self {
            program,
            inner,
            input: None,
            namespaces: Vec::new(),
            fds: Vec::new(),
            survive: false,
            foreground: false,
        }
    }

    /// Appends an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.inner.arg(arg);
        self
    }

    /// Appends arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.inner.args(args);
        self
    }

    /// Sets an environment variable of the child.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(name, value);
        self
    }

    /// Removes an environment variable from what the child inherits.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.inner.env_remove(name);
        self
    }

    /// Lets the child inherit no environment variables; those set from now on are all it has.
    pub fn env_clear(mut self) -> Self {
        self.inner.env_clear();
        self
    }

    /// What the child is told that it was called as, in place of the program's path.
    pub fn arg0(mut self, name: impl AsRef<OsStr>) -> Self {
        use std::os::unix::process::CommandExt;
        self.inner.arg0(name);
        self
    }

    /// Sets the folder the child starts in.
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.inner.current_dir(dir);
        self
    }

    /// Feeds these bytes to the child's stdin, then closes it. Only for [`Command::output`].
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self.inner.stdin(Stdio::piped());
        self
    }

    /// Where the child's stdin comes from.
    pub fn stdin(mut self, from: impl Into<Stdio>) -> Self {
        self.inner.stdin(from);
        self
    }

    /// Where the child's stdout goes.
    pub fn stdout(mut self, to: impl Into<Stdio>) -> Self {
        self.inner.stdout(to);
        self
    }

    /// Where the child's stderr goes.
    pub fn stderr(mut self, to: impl Into<Stdio>) -> Self {
        self.inner.stderr(to);
        self
    }

    /// Starts the child inside this namespace (setns(2)); the descriptor may be of any kind of namespace.
    pub fn in_namespace(mut self, namespace: Arc<OwnedFd>) -> Self {
        self.namespaces.push(namespace);
        self
    }

    /// Hands an open descriptor to the child under the given number.
    pub fn pass_fd(mut self, fd: OwnedFd, number: RawFd) -> Self {
        self.fds.push((fd, number));
        self
    }

    /// Lets the child live on when mantle ends or drops its [`Proc`] (for `kola spawn --detach`).
    pub fn survive(mut self) -> Self {
        self.survive = true;
        self
    }

    /// Leaves the child in this process's group: it may read from the terminal, and gets what is typed there, signals
    /// included.
    pub fn in_foreground(mut self) -> Self {
        self.foreground = true;
        self
    }

    /// The words of the command line, for messages.
    pub fn words(&self) -> Vec<String> {
        std::iter::once(self.program.as_os_str())
            .chain(self.inner.get_args())
            .map(|w| w.to_string_lossy().into_owned())
            .collect()
    }

    /// Starts the program.
    ///
    /// # Errors
    /// [`Error::Spawn`] when it cannot be executed or a namespace cannot be entered.
    pub async fn spawn(mut self) -> Result<Proc, Error> {
        let program = self.program.to_string_lossy().into_owned();
        self.prepare();
        let (survive, foreground) = (self.survive, self.foreground);
        let mut inner = tokio::process::Command::from(self.inner);
        inner.kill_on_drop(!survive);
        // The descriptors must stay open until the child has its copies.
        let keep = (self.namespaces, self.fds);
        let (reply, answer) = oneshot::channel();
        let runtime = tokio::runtime::Handle::current();
        let job: Job = Box::new(move || {
            let _inside = runtime.enter();
            let _ = reply.send(inner.spawn());
            drop(keep);
        });
        let spawned = match spawner().send(job) {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(io::Error::other("the spawner thread ended"))),
            Err(_) => Err(io::Error::other("the spawner thread ended")),
        };
        let child = spawned.map_err(|source| Error::Spawn { program: program.clone(), source })?;
        Ok(Proc::own(program, child, survive, foreground))
    }

    /// Runs the program to its end, at most for `limit`, and collects what it writes.
    ///
    /// # Errors
    /// Any of [`Error`]; a status other than 0 is [`Error::Failed`].
    pub async fn output(mut self, limit: Duration) -> Result<Output, Error> {
        let input = self.input.take();
        let mut proc = self.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().await?;
        let program = proc.program.clone();
        let (stdin, stdout, stderr) = (proc.stdin.take(), proc.stdout.take(), proc.stderr.take());
        let talk = async {
            let feed = async {
                if let (Some(mut pipe), Some(bytes)) = (stdin, input) {
                    match pipe.write_all(&bytes).await {
                        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(e),
                        _ => {}
                    }
                }
                Ok(())
            };
            let ((), out, err) = tokio::try_join!(feed, collect(stdout), collect(stderr))?;
            Ok::<_, io::Error>((out, err))
        };
        let finished = tokio::time::timeout(limit, async {
            let talked = talk.await;
            (talked, proc.wait().await)
        })
        .await;
        match finished {
            Err(_) => {
                proc.stop(Duration::ZERO).await;
                Err(Error::TimedOut { program, limit })
            }
            Ok((Err(source), _)) => Err(Error::Pipe { program, source }),
            Ok((Ok((stdout, stderr)), status)) if status.success() => Ok(Output { status, stdout, stderr }),
            Ok((Ok((_, stderr)), status)) => {
                let text = String::from_utf8_lossy(&stderr);
                let start = text.len().saturating_sub(2000);
                let start = (start..=text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(0);
                Err(Error::Failed { program, status, stderr: text[start..].trim().to_owned() })
            }
        }
    }

    #[expect(unsafe_code, reason = "setns, dup2 and prctl must run between fork and exec")]
    fn prepare(&mut self) {
        use std::os::unix::process::CommandExt;
        if !self.foreground {
            self.inner.process_group(0);
        }
        let namespaces: Vec<RawFd> = self.namespaces.iter().map(|fd| fd.as_raw_fd()).collect();
        let mut fds: Vec<(RawFd, RawFd)> =
            self.fds.iter().map(|(fd, number)| (fd.as_raw_fd(), *number)).collect();
        let survive = self.survive;
        let parent = nix::unistd::getpid();
        let setup = move || {
            let check = |r: libc::c_int| if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r) };
            // SAFETY: plain system calls on descriptors that the parent keeps open until after exec.
            unsafe {
                for fd in &namespaces {
                    check(libc::setns(*fd, 0))?;
                }
                // First out of the way of all targets, then onto them: a source may bear a target's number.
                for (fd, _) in &mut fds {
                    *fd = check(libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, 200))?;
                }
                for (fd, number) in &fds {
                    check(libc::dup2(*fd, *number))?;
                }
                if !survive {
                    check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
                    if libc::getppid() != parent.as_raw() {
                        return Err(io::Error::other("mantle ended meanwhile"));
                    }
                }
            }
            Ok(())
        };
        // SAFETY: `setup` makes only async-signal-safe calls and allocates nothing on its good path.
        unsafe { self.inner.pre_exec(setup) };
    }
}

/// Has the kernel kill a child with SIGKILL when the thread that makes it ends: for processes that have one thread.
#[expect(unsafe_code, reason = "prctl must run between fork and exec")]
pub fn tie(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let parent = nix::unistd::getpid();
    let setup = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // 0 is a parent outside of a new namespace of processes.
        match nix::unistd::getppid() {
            there if there == parent || there.as_raw() == 0 => Ok(()),
            _ => Err(io::ErrorKind::BrokenPipe.into()), // it ended before it could be watched
        }
    };
    // SAFETY: it makes two system calls, which are async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(setup) };
}

async fn collect(pipe: Option<impl tokio::io::AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    if let Some(mut pipe) = pipe {
        pipe.read_to_end(&mut all).await?;
    }
    Ok(all)
}

type Job = Box<dyn FnOnce() + Send>;

/// The queue of the thread that makes all children.
fn spawner() -> &'static std_mpsc::Sender<Job> {
    static SPAWNER: OnceLock<std_mpsc::Sender<Job>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (queue, jobs) = std_mpsc::channel::<Job>();
        // A failure to start the thread shows as a closed queue at the first job.
        let _ = std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || jobs.iter().for_each(|job| job()));
        queue
    })
}

/// A running child and the process group it leads.
pub struct Proc {
    program: String,
    pid: i32,
    signals: Option<mpsc::UnboundedSender<Signal>>,
    status: watch::Receiver<Option<ExitStatus>>,
    /// The pipe to its stdin, if one was asked for.
    pub stdin: Option<ChildStdin>,
    /// The pipe from its stdout, if one was asked for.
    pub stdout: Option<ChildStdout>,
    /// The pipe from its stderr, if one was asked for.
    pub stderr: Option<ChildStderr>,
}

impl Proc {
    fn own(program: String, mut child: Child, survive: bool, foreground: bool) -> Self {
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or(0);
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (signals, mut wanted) = mpsc::unbounded_channel();
        let (publish, status) = watch::channel(None);
        let pass_on = move |signal| {
            let pid = Pid::from_raw(pid);
            let _ = if foreground { kill(pid, signal) } else { killpg(pid, signal) };
        };
        // The one place that reaps: signals pass through it, so none can reach a stranger with a reused pid.
        tokio::spawn(async move {
            let ended = loop {
                tokio::select! {
                    ended = child.wait() => break ended,
                    signal = wanted.recv() => match signal {
                        Some(signal) => pass_on(signal),
                        None if survive => return std::mem::forget(child),
                        None => {
                            pass_on(Signal::SIGKILL);
                            break child.wait().await;
                        }
                    },
                }
            };
            let _ = publish.send(Some(ended.unwrap_or_else(|_| ExitStatus::from_raw(0x7f00))));
        });
        Self { program, pid, signals: Some(signals), status, stdin, stdout, stderr }
    }

    /// The process id, which is also the id of its process group.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// How the child ended, if it has.
    pub fn exited(&self) -> Option<ExitStatus> {
        *self.status.borrow()
    }

    /// Waits for the child to end. May be called from several tasks.
    pub async fn wait(&self) -> ExitStatus {
        let mut status = self.status.clone();
        match status.wait_for(Option::is_some).await {
            Ok(ended) => ended.unwrap_or_else(|| ExitStatus::from_raw(0x7f00)),
            // Only when the runtime is going down: the child was killed with it.
            Err(_) => ExitStatus::from_raw(libc::SIGKILL),
        }
    }

    /// Sends a signal to the child's process group; nothing happens if it has ended.
    pub fn signal(&self, signal: Signal) {
        if let Some(signals) = &self.signals {
            let _ = signals.send(signal);
        }
    }

    /// Ends the group: SIGTERM, up to `grace` to obey, then SIGKILL. Returns once the child is reaped.
    pub async fn stop(&self, grace: Duration) -> ExitStatus {
        if !grace.is_zero() {
            self.signal(Signal::SIGTERM);
            if let Ok(status) = tokio::time::timeout(grace, self.wait()).await {
                // Stragglers of the group.
                let _ = killpg(Pid::from_raw(self.pid), Signal::SIGKILL);
                return status;
            }
        }
        self.signal(Signal::SIGKILL);
        self.wait().await
    }
}

impl std::fmt::Debug for Proc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}]", self.program, self.pid)
    }
}

/// The full path of a program found through `PATH`, as execvp(3) would.
pub fn find_program(name: &str) -> Option<std::path::PathBuf> {
    if name.contains('/') {
        return Path::new(name).is_file().then(|| name.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    // /usr/sbin is missing in an ordinary user's PATH on Debian, yet holds programs that need no root.
    let extra = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path)
        .chain(extra)
        .map(|dir| dir.join(name))
        .find(|p| nix::unistd::access(p, nix::unistd::AccessFlags::X_OK).is_ok() && p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn output_feeds_and_collects() {
        let out =
            Command::new("sh").args(["-c", "cat; echo e >&2"]).input("hello").output(LONG).await.unwrap();
        assert_eq!((&out.stdout[..], &out.stderr[..]), (&b"hello"[..], &b"e\n"[..]));
    }

    #[tokio::test]
    async fn failures_name_the_program() {
        let e = Command::new("sh").args(["-c", "echo bad >&2; exit 3"]).output(LONG).await.unwrap_err();
        assert_eq!(e.to_string(), "sh ended with exit status: 3: bad");
        let e = Command::new("no-such-program-here").spawn().await.unwrap_err();
        assert_eq!(e.to_string(), "cannot start no-such-program-here");
        let e = Command::new("sleep").arg("100").output(Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(e, Error::TimedOut { .. }), "{e}");
    }

    #[tokio::test]
    async fn dropping_kills_the_whole_group() {
        let mut proc = Command::new("sh")
            .args(["-c", "sleep 1000 & echo $!; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .await
            .unwrap();
        let mut text = String::new();
        let mut out = proc.stdout.take().unwrap();
        while !text.ends_with('\n') {
            text.push(char::from(out.read_u8().await.unwrap()));
        }
        let grandchild = Pid::from_raw(text.trim().parse().unwrap());
        let mut status = proc.status.clone();
        drop(proc);
        status.wait_for(Option::is_some).await.unwrap();
        // Killed; it stays a zombie until init reaps it, which is as good as gone.
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        while !gone() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn descriptors_arrive_under_their_numbers() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"through").unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let out =
            Command::new("sh").args(["-c", "cat <&9"]).pass_fd(file.into(), 9).output(LONG).await.unwrap();
        assert_eq!(out.stdout, b"through");
    }
}
