//! One machine: its folder, its QEMU process and its end.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::command::{self, CONFIG_DRIVE, CONSOLE, Drive, Guest, IGNITION, Memory, Net, Userdata};
use super::firmware::Firmware;
use super::saved::{self, Saved};
use super::{Setup, image, qmp};
use crate::cause::{Cause, Diagnosis};
use crate::conf::Conf;
use crate::ledger::{self, Ledger, Leftover, Resource};
use crate::network::Lease;
use crate::platform::local::Local;
use crate::platform::{
    self, Error, LaunchRequest, News, Result, ResultExt, State, Variables, keep_user_data,
};
use crate::process::{Command, Proc};
use crate::ssh::Dial;

/// QEMU's own words, in the machine's folder.
const STDERR: &str = "qemu-stderr.txt";
/// QEMU's monitor for programs, in the machine's folder.
const MONITOR: &str = "qmp.sock";
/// Longest time until QEMU has built its machine, on bare hardware.
const START: Duration = Duration::from_secs(30);
/// How much of console and stderr goes into an error.
const LAST_BYTES: u64 = 2000;
const LAST_LINES: usize = 10;
/// A guest's address in QEMU's user networking.
const USER_GUEST: &str = "10.0.2.15";

/// A running machine.
pub struct QemuMachine {
    id: String,
    dir: PathBuf,
    address: String,
    private_ip: String,
    dialer: Arc<dyn Dial>,
    proc: Arc<Proc>,
    /// Why QEMU is about to end, once known; closed when QEMU has closed its monitor.
    cause: watch::Receiver<Option<Diagnosis>>,
    watcher: Mutex<Option<AbortOnDropHandle<Option<qmp::Client>>>>,
    /// Tells the watcher to hand its monitor over.
    hand_over: CancellationToken,
    /// What its state is saved with, if it can be.
    kept: Option<Kept>,
    ending: AtomicBool,
    lease: Mutex<Option<Lease>>,
    in_namespace: bool,
    /// Entry of a machine that outlives this process.
    record: Option<(Arc<Ledger>, Resource)>,
    platform: &'static str,
}

/// The files of a machine that will be parts of its state.
struct Kept {
    memory: File,
    disk: File,
    memory_mib: u32,
    cpus: u32,
    slowness: f64,
}

/// What a machine begins with.
pub(super) enum Start<'a> {
    /// Its firmware.
    Cold,
    /// The same; its state will be saved.
    ToBeSaved,
    /// A state.
    From(&'a Saved),
}

/// Starts a machine; `network` is `None` for user networking.
pub(super) async fn launch(
    setup: &Setup,
    network: Option<&Arc<Local>>,
    request: LaunchRequest,
    start: Start<'_>,
) -> Result<Arc<QemuMachine>> {
    let id = uuid::Uuid::new_v4().to_string();
    let lease = match network {
        Some(network) => Some(network.net().allocate().during(|| "no address for a machine")?),
        None => None,
    };
    let private_ip = lease.as_ref().map_or_else(|| USER_GUEST.to_owned(), |l| l.ipv4.to_string());
    let variables = Variables { public_ipv4: private_ip.clone(), private_ipv4: private_ip.clone() };
    let conf = (request.render)(&variables)?;
    let userdata = match (conf.is_ignition(), network) {
        (true, _) => Userdata::FwCfg,
        (false, Some(_)) => Userdata::ConfigDrive,
        (false, None) if conf.is_empty() => Userdata::Nothing,
        (false, None) => {
            return Err(Error::Order("unprivileged qemu only supports Ignition or empty configs".into()));
        }
    };
    let dir = request.output_dir.join(&id);
    std::fs::create_dir(&dir).during(|| format!("cannot make folder {}", dir.display()))?;
    let folder = Folder(&dir);
    folder.write_userdata(userdata, &conf)?;

    let mut command = Command::new(&setup.program).current_dir(&dir);
    let mut fds = image::BASE_FD;
    let mut pass = |command: Command, fd: OwnedFd| {
        fds += 1;
        (command.pass_fd(fd, fds), fds)
    };
    if let Some(base) = setup.base.copy()? {
        command = command.pass_fd(base.into(), image::BASE_FD);
    }
    let listener = folder.listen()?;
    let qmp;
    (command, qmp) = pass(command, listener);
    let memory_mib = request.options.memory_mib.unwrap_or(setup.memory_mib);
    let cpus = request.options.cpus.unwrap_or(setup.cpus);
    let duplicate = |file: &File| file.try_clone().during(|| "cannot duplicate a descriptor");
    let (mut memory, mut kept) = (Memory::Own, None);
    let primary = match start {
        Start::Cold => setup.base.overlay().await?,
        Start::ToBeSaved => {
            let disk = setup.base.overlay().await?;
            let file = image::unnamed()?;
            let fd;
            (command, fd) = pass(command, duplicate(&file)?.into());
            memory = Memory::Kept(fd);
            let slowness = setup.decision.slowness;
            kept = Some(Kept { memory: file, disk: duplicate(&disk)?, memory_mib, cpus, slowness });
            disk
        }
        Start::From(saved) => {
            let fd;
            (command, fd) = pass(command, duplicate(&saved.memory)?.into());
            memory = Memory::Copied(fd);
            folder.begin_console(&saved.console)?;
            image::copy_of(&saved.disk).await?
        }
    };
    let mut files = vec![(primary, vec!["serial=primary-disk".to_owned()])];
    for wish in &request.options.disks {
        files.push(image::disk(wish).await?);
    }
    let mut drives = Vec::new();
    for (file, device) in files {
        let fd;
        (command, fd) = pass(command, file.into());
        drives.push(Drive { fd, device });
    }
    let mut vars = None;
    if let Firmware::Flash { vars: template, .. } = &setup.firmware {
        let fd;
        let template = template.clone();
        let copy = tokio::task::spawn_blocking(move || image::private_copy(&template)).await;
        (command, fd) = pass(command, copy.during(|| "cannot copy UEFI variables")??.into());
        vars = Some(fd);
    }
    let mut net = Net::User;
    if let (Some(network), Some(lease)) = (network, &lease) {
        let fd;
        (command, fd) = pass(command, network.net().tap().await.during(|| "cannot make a tap device")?);
        net = Net::Tap { fd, mac: lease.mac_text() };
        command = command.in_namespace(network.net().namespace().fd());
    }
    let guest = Guest {
        board: setup.board,
        accel: setup.decision.accel,
        id: &id,
        memory_mib,
        cpus,
        firmware: &setup.firmware,
        vars,
        kernel: setup.kernel.as_ref(),
        userdata,
        drives: &drives,
        net,
        qmp,
        memory,
    };
    command =
        command.args(command::arguments(&guest)).stdout(std::process::Stdio::null()).stderr(folder.stderr()?);
    if request.survive {
        command = command.survive();
    }
    crate::debug!("qemu", "machine {id}: {}", command.words().join(" "));
    let proc = Arc::new(command.spawn().await.during(|| format!("cannot start machine {id}"))?);

    let limit = START.mul_f64(setup.decision.slowness);
    let opened = match tokio::time::timeout(limit, folder.monitor(network.is_none())).await {
        Ok(opened) => opened,
        Err(_) => Err(Error::new(format!("qemu did not answer within {} s", limit.as_secs()))),
    };
    let opened = match (opened, &start) {
        (Ok((mut monitor, port)), Start::From(saved)) => {
            let mac = lease.as_ref().map(Lease::mac_text);
            let woken = saved::wake(&mut monitor, saved, mac.as_deref(), setup.decision.slowness).await;
            woken.map(|()| (monitor, port))
        }
        (opened, _) => opened,
    };
    let (monitor, port) = match opened {
        Ok(opened) => opened,
        Err(e) => {
            // A monitor that fails is nearly always a QEMU that ends: its own words say more.
            let ended = tokio::time::timeout(Duration::from_secs(2), proc.wait()).await;
            proc.stop(Duration::ZERO).await;
            return match ended {
                Ok(status) => {
                    Err(Error::new(format!("cannot start machine {id}: {}", epitaph(&dir, None, status))))
                }
                Err(_) => Err(e).during(|| format!("cannot start machine {id}")),
            };
        }
    };
    let record = request.survive.then(|| (setup.ledger.clone(), ledger::process(proc.pid(), setup.platform)));
    if let Some(Err(e)) = record.as_ref().map(|(ledger, record)| ledger.create(record)) {
        proc.stop(Duration::ZERO).await;
        return Err(e).during(|| "cannot record a machine that is to stay");
    }
    let (publish, cause) = watch::channel(None);
    let hand_over = CancellationToken::new();
    let watcher = tokio::spawn(watch_events(monitor, proc.clone(), publish, hand_over.clone()));
    std::mem::forget(folder);
    Ok(Arc::new(QemuMachine {
        id,
        address: port.map_or_else(|| private_ip.clone(), |p| format!("127.0.0.1:{p}")),
        private_ip,
        dialer: network.map_or_else(|| Arc::new(crate::ssh::Direct) as _, |n| n.dialer()),
        dir,
        proc,
        cause,
        watcher: Mutex::new(Some(AbortOnDropHandle::new(watcher))),
        hand_over,
        kept,
        ending: AtomicBool::new(false),
        lease: Mutex::new(lease),
        in_namespace: network.is_some(),
        record,
        platform: setup.platform,
    }))
}

/// Follows what QEMU tells until it closes its monitor, or until the monitor is asked for.
async fn watch_events(
    mut monitor: qmp::Client,
    proc: Arc<Proc>,
    cause: watch::Sender<Option<Diagnosis>>,
    hand_over: CancellationToken,
) -> Option<qmp::Client> {
    loop {
        let event = tokio::select! {
            event = monitor.event() => event,
            () = hand_over.cancelled() => return Some(monitor),
        };
        let event = match event {
            Ok(event) => event,
            Err(qmp::Error::Closed | qmp::Error::Io(_)) => return None,
            Err(e) => {
                crate::debug!("qemu", "{proc:?}: {e}");
                continue;
            }
        };
        crate::trace!("qemu", "{proc:?}: {} {}", event.name, event.data);
        match event.name.as_str() {
            "SHUTDOWN" if event.data["guest"] == true => {
                let _ = cause.send(Some(Diagnosis::new(Cause::Ended, "the guest powered itself off")));
            }
            // QEMU would pause the guest until somebody makes room, and nobody would know.
            "BLOCK_IO_ERROR" if event.data["nospace"] == true => {
                let dir = std::env::temp_dir();
                let text = format!("no space left in {} for the machine's disks", dir.display());
                let _ = cause.send(Some(Diagnosis::new(Cause::Died, text)));
                proc.signal(Signal::SIGKILL);
            }
            _ => {}
        }
    }
}

/// A machine's folder while the machine is being made; dropped without a machine, it removes what is of no use.
struct Folder<'a>(&'a Path);

impl Drop for Folder<'_> {
    fn drop(&mut self) {
        let spoke = |name| self.0.join(name).metadata().is_ok_and(|m| m.len() > 0);
        let _ = match spoke(CONSOLE) || spoke(STDERR) {
            true => std::fs::remove_file(self.0.join(MONITOR)),
            false => std::fs::remove_dir_all(self.0),
        };
    }
}

impl Folder<'_> {
    fn write_userdata(&self, kind: Userdata, conf: &Conf) -> Result<()> {
        match kind {
            Userdata::Nothing => Ok(()),
            Userdata::FwCfg => keep_user_data(self.0, IGNITION, conf.text()).map(drop),
            Userdata::ConfigDrive => {
                let dir = self.0.join(CONFIG_DRIVE).join("openstack/latest");
                std::fs::create_dir_all(&dir).during(|| format!("cannot make folder {}", dir.display()))?;
                keep_user_data(&dir, "user_data", conf.text()).map(drop)
            }
        }
    }

    fn begin_console(&self, text: &[u8]) -> Result<()> {
        let path = self.0.join(CONSOLE);
        std::fs::write(&path, text).during(|| format!("cannot write {}", path.display()))
    }

    fn stderr(&self) -> Result<File> {
        let path = self.0.join(STDERR);
        File::options()
            .append(true)
            .create(true)
            .open(&path)
            .during(|| format!("cannot make {}", path.display()))
    }

    /// The monitor's path in a form that fits into a socket address (108 bytes), however deep the folder is;
    /// valid while the file is open.
    fn socket(&self) -> std::io::Result<(File, String)> {
        let dir = File::open(self.0)?;
        let path = format!("/proc/self/fd/{}/{MONITOR}", dir.as_raw_fd());
        Ok((dir, path))
    }

    /// A socket that exists before QEMU does, so that nobody has to wait for it.
    fn listen(&self) -> Result<OwnedFd> {
        let bind = || {
            let (_dir, path) = self.socket()?;
            Ok::<_, std::io::Error>(UnixListener::bind(path)?.into())
        };
        bind().during(|| format!("cannot listen on {}", self.0.join(MONITOR).display()))
    }

    /// Connects to QEMU; also returns the forwarded port, with user networking.
    async fn monitor(&self, user_net: bool) -> Result<(qmp::Client, Option<u16>)> {
        let during = || format!("cannot use {}", self.0.join(MONITOR).display());
        let (_dir, path) = self.socket().during(during)?;
        let stream = tokio::net::UnixStream::connect(path).await.during(during)?;
        let mut client = qmp::Client::open(stream).await.during(during)?;
        if !user_net {
            return Ok((client, None));
        }
        let told = client.human("info usernet").await.during(during)?;
        match qmp::forwarded_port(&told) {
            Some(port) => Ok((client, Some(port))),
            None => Err(Error::new(format!("qemu tells no port that leads to the guest: {:?}", told.trim()))),
        }
    }
}

/// The end of a file.
fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(LAST_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(LAST_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines of a file, indented, without anything that would act on a terminal.
fn last_lines(path: &Path) -> String {
    let lines = crate::text::last_lines(tail(path).unwrap_or_default().as_bytes(), LAST_LINES);
    lines.lines().map(|l| format!("\n  {l}")).collect()
}

/// Why and how QEMU ended, with its last words and the guest's.
fn epitaph(dir: &Path, known: Option<Diagnosis>, status: ExitStatus) -> Diagnosis {
    let Diagnosis { cause, mut text } =
        known.unwrap_or_else(|| Diagnosis::new(Cause::Died, format!("qemu ended with {status}")));
    for (file, whose) in [(STDERR, "qemu said"), (CONSOLE, "last lines of the console")] {
        let lines = last_lines(&dir.join(file));
        if !lines.is_empty() {
            text.push_str(&format!("\n{whose}:{lines}"));
        }
    }
    Diagnosis { cause, text }
}

#[async_trait]
impl platform::Machine for QemuMachine {
    fn id(&self) -> &str {
        &self.id
    }

    fn address(&self) -> String {
        self.address.clone()
    }

    fn private_ip(&self) -> String {
        self.private_ip.clone()
    }

    fn dialer(&self) -> Arc<dyn Dial> {
        self.dialer.clone()
    }

    async fn died(&self) -> Diagnosis {
        let status = self.proc.wait().await;
        if self.ending.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        // Until the watcher has seen the last event.
        let mut cause = self.cause.clone();
        let _ =
            tokio::time::timeout(Duration::from_secs(1), async { while cause.changed().await.is_ok() {} })
                .await;
        let known = cause.borrow().clone();
        epitaph(&self.dir, known, status)
    }

    async fn console(&self) -> Option<Vec<u8>> {
        match tokio::fs::read(self.dir.join(CONSOLE)).await {
            Ok(text) => Some(text),
            Err(e) => {
                crate::warning!("qemu", "cannot read the console of machine {}: {e}", self.id);
                None
            }
        }
    }

    async fn console_news(&self, seen: usize) -> Option<News> {
        News::of_file(&self.dir.join(CONSOLE), seen).await.ok()
    }

    fn hints(&self) -> Vec<String> {
        let pid = self.proc.pid();
        let ssh = match self.address.split_once(':') {
            Some((host, port)) => format!("ssh -p {port} core@{host}"),
            None => format!("ssh core@{}", self.address),
        };
        let enter = if self.in_namespace { format!("nsenter --target {pid} --net ") } else { String::new() };
        vec![format!("shell: {enter}{ssh}"), format!("stop: kill {pid}")]
    }

    fn resource(&self) -> Resource {
        ledger::process(self.proc.pid(), self.platform)
    }

    async fn save(&self) -> Result<State> {
        let during = || format!("cannot save the state of machine {}", self.id);
        let kept =
            self.kept.as_ref().ok_or_else(|| Error::new("it was not started for that")).during(during)?;
        let devices = image::unnamed()?;
        self.hand_over.cancel();
        let watcher = self.watcher.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let monitor = match watcher {
            Some(watcher) => watcher.await.ok().flatten(),
            None => None,
        };
        let mut monitor = monitor.ok_or_else(|| Error::new("qemu has ended")).during(during)?;
        self.ending.store(true, Ordering::Relaxed);
        saved::save(&mut monitor, &devices, kept.slowness).await.during(during)?;
        self.proc.wait().await;
        let duplicate = |file: &File| file.try_clone().during(|| "cannot duplicate a descriptor");
        Ok(Arc::new(Saved {
            memory: duplicate(&kept.memory)?,
            devices,
            disk: duplicate(&kept.disk)?,
            console: std::fs::read(self.dir.join(CONSOLE)).during(during)?,
            memory_mib: kept.memory_mib,
            cpus: kept.cpus,
        }))
    }

    async fn destroy(&self) -> Vec<Leftover> {
        self.ending.store(true, Ordering::Relaxed);
        self.proc.stop(Duration::ZERO).await;
        drop(self.lease.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
        let remove = |name: &str| {
            let path = self.dir.join(name);
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    crate::warning!("qemu", "cannot remove {}: {e}", path.display());
                }
                _ => {}
            }
        };
        remove(MONITOR);
        if self.dir.join(STDERR).metadata().is_ok_and(|m| m.len() == 0) {
            remove(STDERR);
        }
        if let Some((ledger, record)) = &self.record {
            ledger.delete(record);
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[tokio::test]
    async fn a_full_disk_ends_the_machine() {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
        let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        let fake = async {
            let mut theirs = BufReader::new(theirs);
            theirs.write_all(b"{\"QMP\": {}}\n").await.unwrap();
            theirs.read_line(&mut String::new()).await.unwrap();
            theirs.write_all(b"{\"return\": {}}\n").await.unwrap();
            let event = |nospace| {
                format!("{{\"event\": \"BLOCK_IO_ERROR\", \"data\": {{\"nospace\": {nospace}}}}}\n")
            };
            theirs.write_all((event(false) + "nonsense\n" + &event(true)).as_bytes()).await.unwrap();
        };
        let (monitor, ()) = tokio::join!(qmp::Client::open(ours), fake);
        let proc = Arc::new(Command::new("sleep").arg("1000").spawn().await.unwrap());
        let (publish, cause) = watch::channel(None);
        watch_events(monitor.unwrap(), proc.clone(), publish, CancellationToken::new()).await;
        let known = cause.borrow().clone().unwrap();
        assert!(known.text.starts_with("no space left in ") && known.cause.is_of_host(), "{known:?}");
        assert_eq!(proc.wait().await.signal(), Some(9));
    }

    #[test]
    fn last_words_are_short_and_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let console: String = (0..100).map(|i| format!("\x1b[1mline {i}\x1b[0;30m\r\n\r\n")).collect();
        std::fs::write(dir.path().join(CONSOLE), console).unwrap();
        std::fs::write(dir.path().join(STDERR), "qemu: no memory\n").unwrap();
        let Diagnosis { cause, text } = epitaph(dir.path(), None, ExitStatus::from_raw(0x100));
        assert_eq!(cause, Cause::Died);
        assert!(
            text.starts_with("qemu ended with exit status: 1\nqemu said:\n  qemu: no memory\nlast lines of the console:\n  line 90\n"),
            "{text:?}"
        );
        assert!(text.ends_with("line 99") && !text.contains('\x1b'), "{text:?}");
        let known = Diagnosis::new(Cause::Ended, "because");
        assert_eq!(epitaph(Path::new("/none"), Some(known.clone()), ExitStatus::from_raw(0)), known);
    }

    #[test]
    fn a_folder_without_machine_keeps_only_evidence() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str, console: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join(CONSOLE), console).unwrap();
            drop(Folder(&path).listen().unwrap());
            drop(Folder(&path));
            path
        };
        assert!(!folder("silent", "").exists());
        let spoke = folder("spoke", "hello");
        assert!(spoke.join(CONSOLE).exists() && !spoke.join(MONITOR).exists());
    }

    #[test]
    fn deep_folders_have_monitors_too() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        let folder = Folder(&deep);
        let _socket = folder.listen().unwrap();
        let (_dir, path) = folder.socket().unwrap();
        std::os::unix::net::UnixStream::connect(path).unwrap();
    }
}
