//! `cork sync` and `cork verify` with a server of git on loopback and a user who has GnuPG.

mod hostile;
mod killed;
mod sync;
mod tags;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Env, Outcome, Running, installed};

/// A server of git with its repositories, and an empty tree at `sdk` below the home folder.
struct Bench {
    env: Env,
    url: String,
    git: PathBuf,
}

const MANIFEST: &str = "coreos/manifest";

impl Bench {
    /// None where git or its daemon is missing.
    fn new() -> Option<Self> {
        if !installed("git") {
            return None;
        }
        let path = std::env::var_os("PATH").unwrap();
        let git = std::env::split_paths(&path).map(|folder| folder.join("git")).find(|git| git.is_file());
        let git = git.unwrap();
        let mut env = Env::new();
        // Wherever it is, it is on the path of the sealed environment.
        env.program("git", &format!("#!/bin/sh\nexec {} \"$@\"\n", git.display()));
        env.set("MANTLE_POLL_SCALE", "0.01").set("GIT_CONFIG_NOSYSTEM", "1");
        env.set("GNUPGHOME", env.home().join("gnupg"));
        env.set("REPO_ROOT", env.home().join("sdk"));
        env.write(".gitconfig", "[user]\nname = T\nemail = t@localhost\n[init]\ndefaultBranch = master\n");
        std::fs::create_dir_all(env.home().join("server")).unwrap();
        std::fs::create_dir_all(env.home().join("sdk")).unwrap();
        let url = serve(&env, &git);
        Some(Self { env, url, git })
    }

    /// Runs git in a repository of the server, or in the tree; what it says.
    #[track_caller]
    fn git(&self, dir: &str, args: &[&str]) -> String {
        let mut command = self.env.command(&self.git);
        let output = command.arg("-C").arg(self.env.home().join(dir)).args(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Commits files to a repository of the server, which is made if it is not there; the commit.
    #[track_caller]
    fn commit(&self, name: &str, files: &[(&str, &str)]) -> String {
        let dir = format!("server/{name}.git");
        if !self.env.home().join(&dir).exists() {
            std::fs::create_dir_all(self.env.home().join(&dir)).unwrap();
            self.git(&dir, &["init", "-q", "."]);
        }
        for (name, text) in files {
            self.env.write(&format!("{dir}/{name}"), text);
        }
        self.git(&dir, &["add", "--all"]);
        self.git(&dir, &["commit", "-q", "--allow-empty", "-m", "x"]);
        self.git(&dir, &["rev-parse", "HEAD"])
    }

    /// Commits a manifest with this between its tags, after the remote and the default.
    #[track_caller]
    fn manifest(&self, projects: &str) -> String {
        let text = format!(
            "<manifest><remote name='origin' fetch='..'/>\n<default remote='origin' revision='master'/>\n{projects}</manifest>"
        );
        self.commit(MANIFEST, &[("default.xml", &text)])
    }

    fn start(&self, args: &[&str]) -> Running {
        let mut command = self.env.command(Path::new(env!("CARGO_BIN_EXE_mantle")));
        command.args(["cork", "-v"]).args(args);
        Running::new(command)
    }

    /// `cork sync` of the manifest's branch `master`, built in.
    fn sync(&self, args: &[&str]) -> Outcome {
        self.start_sync(args).finish()
    }

    fn start_sync(&self, args: &[&str]) -> Running {
        let url = format!("--manifest-url={}/{MANIFEST}.git", self.url);
        let usual = ["sync", &url, "--manifest-branch=master", "--sync-with=builtin"];
        self.start(&[&usual[..], args].concat())
    }

    fn verify(&self) -> Outcome {
        self.start(&["verify"]).finish()
    }

    /// Below the tree.
    fn at(&self, name: &str) -> PathBuf {
        self.env.home().join("sdk").join(name)
    }

    #[track_caller]
    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.at(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    #[track_caller]
    fn head(&self, project: &str) -> String {
        self.git(&format!("sdk/{project}"), &["rev-parse", "HEAD"])
    }

    /// Every file and link below the home folder that is not in the tree, on the server, or of GnuPG.
    fn outside(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.env.home()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(self.env.home()).unwrap().to_owned();
                if ["sdk", "server", "gnupg"].iter().any(|own| name.starts_with(own)) {
                    continue;
                }
                if path.is_dir() && !path.is_symlink() {
                    folders.push(path);
                } else {
                    found.push(name);
                }
            }
        }
        found.sort();
        found
    }

    /// What the tree has in it, but for what git and we keep: names with contents or targets.
    fn tree(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.at("")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.file_name().is_some_and(|name| name == ".git" || name == ".repo") {
                    continue;
                }
                let name = path.strip_prefix(self.at("")).unwrap().to_owned();
                if path.is_symlink() {
                    found.insert(name, format!("-> {}", path.read_link().unwrap().display()));
                } else if path.is_dir() {
                    folders.push(path);
                } else {
                    found.insert(name, std::fs::read_to_string(&path).unwrap());
                }
            }
        }
        found
    }
}

/// Serves the folder `server` as `git daemon` does, for as long as the test process lives: it takes over each connection.
fn serve(env: &Env, git: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("git://{}", listener.local_addr().unwrap());
    let (git, home) = (git.to_owned(), env.home());
    let base = format!("--base-path={}", home.join("server").display());
    std::thread::spawn(move || {
        while let Ok((connection, _)) = listener.accept() {
            let mut command = Command::new(&git);
            command.args(["daemon", "--inetd", "--export-all", &base]);
            command.env("HOME", &home).env("GIT_CONFIG_NOSYSTEM", "1");
            let answer = std::os::fd::OwnedFd::from(connection.try_clone().unwrap());
            command.stdin(std::os::fd::OwnedFd::from(connection)).stdout(answer).stderr(Stdio::null());
            let Ok(mut child) = command.spawn() else { return };
            drop(command); // and with it our ends of the connection
            std::thread::spawn(move || child.wait());
        }
    });
    url
}
