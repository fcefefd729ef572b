//! Machines behind the fakes of clouds: one start for any userdata, an address on loopback, a console, a stop.
//!
//! An API face (`double.rs` of a cloud) asks [`Machines`] for guests and says their addresses to its
//! clients; it knows nothing of how they are made.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use mantle::conf::{self, Additions, IgnitionVersion, UserData};
use mantle::ledger::Ledger;
use mantle::platform::distribution::Distribution;
use mantle::platform::{self, Driver, Flight, FlightBase, LaunchRequest, Machine, MachineOptions, Target};
use tokio_util::sync::CancellationToken;

use super::guard::Limit;
use super::installed;

/// One try to reach a guest's sshd: an emulated guest on a busy machine may take its time. Clients try again.
const DIAL: Duration = Duration::from_secs(60);

const BOARD: &str = "amd64-usr";

/// Makes guests.
pub trait Machines: Send + Sync {
    /// Starts a guest and returns when it exists; it may still be booting.
    ///
    /// # Errors
    /// A text for people.
    fn start(&self, userdata: &[u8]) -> Result<Arc<dyn Guest>, String>;

    /// How long a program that waits for them may take before it is taken to hang.
    fn limit(&self) -> Limit {
        Limit::MACHINES
    }
}

/// One guest.
pub trait Guest: Send + Sync {
    /// Where its sshd is reached: `127.0.0.1:PORT`.
    fn address(&self) -> String;

    /// What its serial console has said, also after its end.
    fn console(&self) -> Vec<u8>;

    /// Ends it. It may have ended before.
    fn stop(&self);
}

/// No machines: for doubles that only keep records.
pub struct Unmanned;

impl Machines for Unmanned {
    fn start(&self, _: &[u8]) -> Result<Arc<dyn Guest>, String> {
        Err("there are no machines here".into())
    }

    fn limit(&self) -> Limit {
        Limit::PROGRAM
    }
}

/// What a double does that its clients do not wait for: guests being started and stopped.
#[derive(Default)]
pub struct Aside(Mutex<Vec<JoinHandle<()>>>);

impl Aside {
    /// Does something on a thread of its own.
    pub fn begin(&self, work: impl FnOnce() + Send + 'static) {
        let mut threads = lock(&self.0);
        threads.retain(|t| !t.is_finished());
        threads.push(std::thread::spawn(work));
    }

    /// Waits until all that was begun has ended.
    pub fn finish(&self) {
        for thread in std::mem::take(&mut *lock(&self.0)) {
            let _ = thread.join();
        }
    }
}

/// The value, also after a panic of whoever held it: a failed test has more than that to say.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A listener on loopback for as long as this lives.
pub struct Port {
    pub address: SocketAddr,
    open: Arc<AtomicBool>,
}

impl Port {
    /// Serves each connection so; `serve` must not block for long.
    pub fn new(serve: impl Fn(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = Self { address: listener.local_addr().unwrap(), open: Arc::new(AtomicBool::new(true)) };
        let open = port.open.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if !open.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(stream) = stream {
                    serve(stream);
                }
            }
        });
        port
    }

    fn close(&self) {
        if self.open.swap(false, Ordering::SeqCst) {
            let _ = TcpStream::connect(self.address); // wakes the thread
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.close();
    }
}

/// Our own guest by one of mantle's local platforms: `nspawn` (a container, in a second; root) or `qemu-unpriv`
/// (a virtual machine).
pub struct Local(Arc<Ground>);

/// What the guests stand on; it ends after the last of them.
struct Ground {
    runtime: tokio::runtime::Runtime,
    flight: Arc<dyn Flight>,
    folder: tempfile::TempDir,
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.runtime.block_on(self.flight.destroy());
    }
}

impl Local {
    /// `None`, and a word on stdout, where the platform cannot work: no guest image, no root.
    pub fn new(platform: &str) -> Option<Self> {
        let driver = Driver::named(platform).unwrap();
        let mut line = vec!["machines"];
        if platform.starts_with("qemu") {
            line.push("--qemu-kernel=auto"); // spares the boot loader
        }
        let command = platform::augment(clap::Command::new("machines"), true);
        let matches = command.try_get_matches_from(line).unwrap();
        let chosen = driver.read(&matches).unwrap();
        let facts = chosen.image(BOARD).and_then(|image| image.facts);
        let distribution = facts.map_or_else(|| "debian".to_owned(), |facts| facts.distro);
        let distribution = Distribution::named(&distribution).unwrap();
        let target = Target { board: BOARD.into(), distribution };
        let prepared = match chosen.prepare(&target) {
            Ok(prepared) => prepared,
            Err(e) => {
                println!("skipped: no machines of platform {platform}: {e}");
                return None;
            }
        };
        let folder = tempfile::Builder::new().prefix("mantle-machines-").tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let base = FlightBase {
            base_name: "double".into(),
            output_dir: folder.path().into(),
            target,
            cancel: CancellationToken::new(),
            ledger: Arc::new(Ledger::none()),
            key: Arc::new(mantle::ssh::Key::generate().unwrap()), // the userdata has keys of its own
        };
        let flight = runtime.block_on(prepared.flight(base)).unwrap();
        Some(Self(Arc::new(Ground { runtime, flight, folder })))
    }
}

impl Machines for Local {
    fn start(&self, userdata: &[u8]) -> Result<Arc<dyn Guest>, String> {
        let chain = |e: &dyn std::error::Error| {
            let mut text = e.to_string();
            let mut cause = e.source();
            while let Some(e) = cause {
                text += &format!(": {e}");
                cause = e.source();
            }
            text
        };
        let userdata = UserData::detect(userdata).map_err(|e| chain(&e))?;
        // As it came: nothing is added, and no address is put in.
        let conf = conf::render(Some(&userdata), IgnitionVersion::V2, "", "", &Additions::default())
            .map_err(|e| chain(&e))?;
        let request = LaunchRequest {
            cluster: "double".into(),
            cancel: CancellationToken::new(),
            render: Arc::new(move |_| Ok(conf.clone())),
            options: MachineOptions::default(),
            output_dir: self.0.folder.path().into(),
            survive: false,
            no_ssh_key_in_metadata: true,
        };
        let machine = self.0.runtime.block_on(self.0.flight.launch(request));
        let machine = machine.map_err(|e| chain(&e))?;
        let (address, dialer) = (machine.address(), machine.dialer());
        let address = if address.contains(':') { address } else { format!("{address}:22") };
        let port = Port::new(move |stream| {
            let (address, dialer) = (address.clone(), dialer.clone());
            std::thread::spawn(move || {
                if let Ok(far) = dialer.dial(&address, DIAL) {
                    join(stream, far);
                }
            });
        });
        let guest = LocalGuest {
            ground: self.0.clone(),
            machine,
            port,
            stopped: AtomicBool::new(false),
            console: Mutex::default(),
        };
        Ok(Arc::new(guest))
    }
}

struct LocalGuest {
    ground: Arc<Ground>,
    machine: Arc<dyn Machine>,
    port: Port,
    stopped: AtomicBool,
    console: Mutex<Vec<u8>>,
}

impl Guest for LocalGuest {
    fn address(&self) -> String {
        self.port.address.to_string()
    }

    fn console(&self) -> Vec<u8> {
        let mut last = self.console.lock().unwrap();
        if let Some(console) = self.ground.runtime.block_on(self.machine.console()).filter(|c| !c.is_empty())
        {
            *last = console;
        }
        last.clone()
    }

    fn stop(&self) {
        if !self.stopped.swap(true, Ordering::SeqCst) {
            self.port.close();
            self.console();
            self.ground.runtime.block_on(self.machine.destroy());
        }
    }
}

impl Drop for LocalGuest {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Copies between two connections until both directions have ended.
fn join(near: TcpStream, far: TcpStream) {
    let copy = |mut from: &TcpStream, mut to: &TcpStream| -> io::Result<()> {
        let mut buffer = [0; 1 << 16];
        loop {
            match from.read(&mut buffer)? {
                0 => return to.shutdown(Shutdown::Write),
                n => to.write_all(&buffer[..n])?,
            }
        }
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if copy(&near, &far).is_err() {
                let _ = (near.shutdown(Shutdown::Both), far.shutdown(Shutdown::Both));
            }
        });
        if copy(&far, &near).is_err() {
            let _ = (near.shutdown(Shutdown::Both), far.shutdown(Shutdown::Both));
        }
    });
}

/// Pretends: OpenSSH with the keys of the userdata, but behind it only a script that answers what kola asks of a
/// new machine. At once there; root.
pub struct Pretended;

impl Pretended {
    /// `None`, and a word on stdout, where it cannot work.
    pub fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: an sshd for another user needs root");
            return None;
        }
        (installed("sshd") && installed("unshare")).then_some(Self)
    }
}

/// What the pretended guest does; any other command succeeds and says nothing.
const SCRIPT: &str = r#"#!/bin/sh
case "$SSH_ORIGINAL_COMMAND" in
*boot_id*) echo 00000000-0000-4000-8000-000000000000 ;;
*is-system-running*) echo running ;;
*/etc/os-release*) printf 'ID=debian\nVERSION_ID=1.0.0\n@@failed\n@@selinux\n' ;;
*journalctl*) exec sleep 1000 ;;
esac
"#;

impl Machines for Pretended {
    fn start(&self, userdata: &[u8]) -> Result<Arc<dyn Guest>, String> {
        let keys = keys(userdata)?;
        // The user core, with this script for a shell: sshd runs every command by it.
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
        let others = passwd.lines().filter(|l| !l.starts_with("core:"));
        let passwd: String = others.chain(["core:x:500:500::/:/bin/sh"]).map(|l| format!("{l}\n")).collect();
        Ok(Arc::new(PretendedGuest(Sshd::start(&keys, &passwd, SCRIPT))))
    }

    fn limit(&self) -> Limit {
        Limit::PROGRAM
    }
}

/// OpenSSH on loopback, which lets in by `keys`, knows the users of `passwd`, and runs `script` whatever is asked for;
/// these are files in its folder, read anew for each connection. Sessions end with it; root.
pub struct Sshd {
    port: Port,
    connections: Arc<Mutex<Vec<Child>>>,
    folder: tempfile::TempDir,
}

impl Sshd {
    pub fn start(keys: &str, passwd: &str, script: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("mantle-sshd-").tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let config = format!(
            "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nLogLevel ERROR\nForceCommand /bin/sh {}\n",
            at("host"),
            at("keys"),
            at("script")
        );
        for (name, text) in [("keys", keys), ("passwd", passwd), ("script", script), ("config", &config)] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        // Readable for the user that the script runs as.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let words = ["-q", "-t", "ed25519", "-N", "", "-f", &at("host")];
        assert!(Command::new("ssh-keygen").args(words).status().unwrap().success());
        std::fs::create_dir_all("/run/sshd").unwrap();
        let script =
            format!("mount --bind {} /etc/passwd; exec /usr/sbin/sshd -i -f {}", at("passwd"), at("config"));
        let connections = Arc::new(Mutex::new(Vec::<Child>::new()));
        let own = connections.clone();
        let port = Port::new(move |stream| {
            let socket = OwnedFd::from(stream);
            let child = Command::new("unshare")
                .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", &script])
                .stdin(Stdio::from(socket.try_clone().unwrap()))
                .stdout(Stdio::from(socket))
                .stderr(Stdio::null())
                .spawn();
            if let Ok(child) = child {
                let mut all = lock(&own);
                all.retain_mut(|c| matches!(c.try_wait(), Ok(None)));
                all.push(child);
            }
        });
        Self { port, connections, folder }
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        self.port.address.to_string()
    }

    /// A file in its folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn stop(&self) {
        self.port.close();
        for mut child in std::mem::take(&mut *lock(&self.connections)) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The SSH keys in an Ignition config.
fn keys(userdata: &[u8]) -> Result<String, String> {
    let config: serde_json::Value =
        serde_json::from_slice(userdata).map_err(|e| format!("the userdata is no Ignition config: {e}"))?;
    let users = config["passwd"]["users"].as_array().cloned().unwrap_or_default();
    let keys = users.iter().flat_map(|u| u["sshAuthorizedKeys"].as_array().cloned().unwrap_or_default());
    Ok(keys.filter_map(|k| k.as_str().map(|k| format!("{k}\n"))).collect())
}

struct PretendedGuest(Sshd);

impl Guest for PretendedGuest {
    fn address(&self) -> String {
        self.0.address()
    }

    fn console(&self) -> Vec<u8> {
        b"pretended: no kernel, no boot\n".to_vec()
    }

    fn stop(&self) {
        self.0.stop();
    }
}
