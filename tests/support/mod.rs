//! What the tests stand on: a sealed environment, the program under test, expected texts in files.

pub mod emulators;
pub mod gcs;
pub mod guard;
pub mod http;
pub mod machines;
pub mod moto;
pub mod places;
pub mod proxy;
pub mod server;
pub mod tls;
pub mod toy;
pub mod vcsim;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use guard::Limit;

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether a program is installed; says so if it is not, for tests that must skip then.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

/// An environment of which nothing leads to the real one: its own home, temporary folder and variables.
pub struct Env {
    folder: tempfile::TempDir,
    variables: BTreeMap<String, OsString>,
    limit: Limit,
}

impl Env {
    /// An empty home, no configuration, the system's programs.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("mantle-test-").tempdir().unwrap();
        for name in ["home", "tmp", "bin"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let at = |name: &str| folder.path().join(name).into_os_string();
        let variables = [
            ("HOME", at("home")),
            ("TMPDIR", at("tmp")),
            ("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", folder.path().join("bin").display()).into()),
            ("LANG", "C.UTF-8".into()),
            ("USER", "tester".into()),
            ("TERM", "dumb".into()),
            ("MANTLE_CONFIG", "/dev/null".into()), // this machine may have a configuration in /etc
        ];
        let variables = variables.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
        Self { folder, variables, limit: Limit::PROGRAM }
    }

    /// How long a program may run before it is taken to hang: [`Limit::PROGRAM`] if this is not said.
    pub fn guarded(&mut self, limit: Limit) -> &mut Self {
        self.limit = limit;
        self
    }

    /// The home folder.
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: impl Into<OsString>) -> &mut Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Removes a variable.
    pub fn unset(&mut self, name: &str) -> &mut Self {
        self.variables.remove(name);
        self
    }

    /// Leaves only the programs made with [`Env::program`].
    #[allow(dead_code, reason = "for the tests of applets that start programs")]
    pub fn without_programs(&mut self) -> &mut Self {
        let bin = self.folder.path().join("bin");
        self.set("PATH", bin)
    }

    /// Puts a script first on the path.
    pub fn program(&self, name: &str, script: &str) -> PathBuf {
        let path = self.folder.path().join("bin").join(name);
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Writes a file below the home folder, readable by its owner only.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.home().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Any program in this environment.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.env_clear().envs(&self.variables).current_dir(self.home()).stdin(Stdio::null());
        command
    }

    /// Runs mantle.
    pub fn mantle(&self, args: &[&str]) -> Outcome {
        self.start(Path::new(env!("CARGO_BIN_EXE_mantle")), args).finish()
    }

    /// Starts a program whose output is collected.
    pub fn start(&self, program: &Path, args: &[&str]) -> Running {
        let mut command = self.command(program);
        command.args(args);
        Running::within(command, self.limit)
    }
}

/// A started program, killed should the test end before it, or a guard fire.
pub struct Running {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    seen: String,
    /// What the guard said when it killed the program.
    fired: Arc<Mutex<Option<String>>>,
    /// Dropped when the program has ended.
    watched: Option<mpsc::Sender<()>>,
}

impl Running {
    /// Starts a command, its output captured.
    pub fn new(command: Command) -> Self {
        Self::within(command, Limit::PROGRAM)
    }

    /// The same with another guard.
    pub fn within(mut command: Command, limit: Limit) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let id = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        let (watched, ended) = mpsc::channel::<()>();
        let fired = Arc::<Mutex<Option<String>>>::default();
        let (note, what, start) =
            (fired.clone(), format!("the end of {}", guard::line(&command)), Instant::now());
        std::thread::spawn(move || {
            if ended.recv_timeout(limit.as_duration()) == Err(mpsc::RecvTimeoutError::Timeout) {
                *note.lock().unwrap() = Some(guard::fired(&what, start.elapsed()));
                let _ = nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGKILL);
            }
        });
        Self { child, stdout, seen: String::new(), fired, watched: Some(watched) }
    }

    /// Reads stdout up to a line that contains `text`.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        loop {
            let mut line = String::new();
            if self.stdout.read_line(&mut line).unwrap() == 0 {
                let fired = self.fired.lock().unwrap().clone().unwrap_or_default();
                panic!("no {text:?} on stdout: {}\n{fired}", self.seen);
            }
            self.seen.push_str(&line);
            if line.contains(text) {
                return;
            }
        }
    }

    /// The number of the process.
    pub fn id(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.id()), signal).unwrap();
    }

    /// Closes the reading end of stdout.
    pub fn hang_up(mut self) -> Outcome {
        let null = Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
        let mut null = null;
        self.stdout = BufReader::new(null.stdout.take().unwrap());
        null.wait().unwrap();
        self.finish()
    }

    /// Reads everything and waits for the end.
    ///
    /// # Panics
    /// When the guard had to end it.
    #[track_caller]
    pub fn finish(mut self) -> Outcome {
        let mut errors = self.child.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            errors.read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        });
        let mut rest = Vec::new();
        self.stdout.read_to_end(&mut rest).unwrap();
        self.seen.push_str(&String::from_utf8_lossy(&rest));
        let stderr = errors.join().unwrap();
        let status = self.child.wait().unwrap();
        drop(self.watched.take());
        let code = status.code().unwrap_or_else(|| -status.signal().unwrap());
        let stdout = std::mem::take(&mut self.seen);
        let fired = self.fired.lock().unwrap().take();
        if let Some(fired) = fired {
            panic!("{fired}; it was killed, having said\nstdout: {stdout}\nstderr: {stderr}");
        }
        Outcome { code, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Outcome {
    /// Exit status; negative: the signal that killed it.
    pub code: i32,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

impl Outcome {
    /// Fails unless the program ended with this status.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
}

/// Compares a text with `tests/snapshots/<name>.txt`; `UPDATE_SNAPSHOTS=1` writes the file instead.
///
/// Each of `hidden` is replaced first: what differs from run to run, and a word for it.
#[track_caller]
pub fn snapshot(name: &str, text: &str, hidden: &[(&str, &str)]) {
    let mut text = text.replace(env!("CARGO_PKG_VERSION"), "<version>");
    for (found, word) in hidden {
        text = text.replace(found, word);
    }
    let path = repository().join("tests/snapshots").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == text,
        "{} differs; if the new text is right, run with UPDATE_SNAPSHOTS=1\n--- expected\n{expected}\n--- found\n{text}",
        path.display()
    );
}
