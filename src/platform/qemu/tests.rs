//! Whole machines. Each test says why it is skipped where something is missing.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::cause::{Cause, Diagnosis};
use crate::conf::{self, Additions, IgnitionVersion, UserData};
use crate::ledger;
use crate::platform::distribution::Distribution;
use crate::platform::{Disk, MachineOptions, Variables};

/// Longest wait for anything; only ever reached when something is broken.
const LONG: Duration = Duration::from_secs(3000);

fn missing(programs: &[&str]) -> bool {
    let gone: Vec<_> = programs.iter().filter(|p| find_program(p).is_none()).collect();
    if !gone.is_empty() {
        crate::warning!("test", "skipped: not installed: {gone:?}");
    }
    !gone.is_empty()
}

fn own_guest() -> Option<PathBuf> {
    let image = images::guest_dir().join("base/guest.qcow2");
    if image.is_file() && !missing(&["qemu-system-x86_64", "qemu-img"]) {
        return Some(image);
    }
    crate::warning!("test", "skipped: no guest image {} (tests/guest/build.sh makes it)", image.display());
    None
}

fn base(dir: &Path, board: &str) -> FlightBase {
    FlightBase {
        base_name: "test".into(),
        output_dir: dir.to_owned(),
        target: Target { board: board.into(), distribution: Distribution::named("debian").unwrap() },
        cancel: CancellationToken::new(),
        ledger: Arc::new(ledger::Ledger::none()),
        key: Arc::new(crate::ssh::Key::generate().unwrap()),
    }
}

/// Options of a small emulated machine.
fn small(image: &Path) -> Options {
    Options {
        qemu_image: Some(image.to_owned()),
        qemu_accel: accel::Choice::Tcg,
        qemu_memory: Some(512),
        ..Options::default()
    }
}

/// Checks the options and makes a flight, as the registry and the harness do.
async fn flight<P: Platform<Options = Options>>(
    options: Options,
    base: FlightBase,
) -> Result<Arc<dyn Flight>> {
    let prepared = P::prepare(options, &base.target)?;
    P::flight(prepared, base).await
}

fn request(dir: &Path, userdata: UserData, options: MachineOptions) -> LaunchRequest {
    let render = move |v: &Variables| {
        conf::render(
            Some(&userdata),
            IgnitionVersion::V3,
            &v.public_ipv4,
            &v.private_ipv4,
            &Additions::default(),
        )
        .during(|| "cannot render userdata")
    };
    LaunchRequest {
        cluster: "c".into(),
        cancel: CancellationToken::new(),
        render: Arc::new(render),
        options,
        output_dir: dir.to_owned(),
        survive: false,
        no_ssh_key_in_metadata: false,
    }
}

fn ignition() -> UserData {
    UserData::ignition(r#"{"ignition": {"version": "3.0.0"}}"#)
}

/// Waits for what sshd says first; a forwarded port accepts connections long before sshd is there.
async fn banner(machine: &Arc<dyn Machine>) -> String {
    let dialer = machine.dialer();
    let address = machine.address();
    let address = if address.contains(':') { address } else { format!("{address}:22") };
    let ask = move || -> std::io::Result<String> {
        let mut line = String::new();
        let stream = dialer.dial(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        BufReader::new(stream).read_line(&mut line).map(|_| line)
    };
    let answered = async {
        loop {
            match tokio::task::spawn_blocking(ask.clone()).await.unwrap() {
                Ok(line) if !line.is_empty() => return line,
                _ => tokio::time::sleep(Duration::from_millis(250)).await,
            }
        }
    };
    tokio::select! {
        line = tokio::time::timeout(LONG, answered) => line.unwrap(),
        why = machine.died() => panic!("{why}"),
    }
}

/// Waits until the console has said something.
async fn console_says(machine: &Arc<dyn Machine>, what: &str) {
    let seen = async {
        loop {
            let text = machine.console().await.unwrap_or_default();
            if String::from_utf8_lossy(&text).contains(what) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        seen = tokio::time::timeout(LONG, seen) => seen.unwrap(),
        why = machine.died() => panic!("{why}"),
    }
}

/// The processes that run in a folder.
fn processes_in(dir: &Path) -> Vec<i32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == dir)).collect()
}

/// Resident memory in MiB.
fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() >> 10
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn own_guest_boots_without_privileges() {
    let Some(image) = own_guest() else { return };
    let out = tempfile::tempdir().unwrap();
    let options = Options { qemu_kernel: Some("auto".into()), ..small(&image) };
    let flight = flight::<QemuUnpriv>(options, base(out.path(), "amd64-usr")).await.unwrap();
    assert_eq!(flight.properties()["mangled"], false);
    assert!(flight.slowness() >= 3.0);
    assert_eq!(
        flight.lacking().iter().map(|l| l.0).collect::<Vec<_>>(),
        ["cluster-network", "private-network", "firmware"]
    );
    let extra = Disk::Empty { size: "1G".into(), device: vec!["serial=extra".into()] };
    let wishes = MachineOptions { disks: vec![extra], ..MachineOptions::default() };
    let start = Instant::now();
    let machine = flight.launch(request(out.path(), ignition(), wishes)).await.unwrap();
    let launched = start.elapsed();
    assert!(banner(&machine).await.starts_with("SSH-2.0-"));
    let dir = out.path().canonicalize().unwrap().join(machine.id());
    let pid = processes_in(&dir)[0];
    crate::notice!(
        "test",
        "launched in {launched:?}, banner after {:?}, {} MiB",
        start.elapsed(),
        resident(pid)
    );
    assert!(machine.hints()[0].starts_with("shell: ssh -p "), "{:?}", machine.hints());
    assert!(!machine.console().await.unwrap().is_empty());
    assert_eq!(machine.destroy().await, []);
    assert_eq!(flight.destroy().await, []);
    assert!(processes_in(&dir).is_empty());
    assert_eq!(names(&dir), ["console.txt", "ignition.json"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn own_guest_boots_on_the_private_network() {
    let Some(image) = own_guest() else { return };
    if !nix::unistd::geteuid().is_root() {
        return crate::warning!("test", "skipped: needs root");
    }
    let out = tempfile::tempdir().unwrap();
    let options = Options { qemu_kernel: Some("auto".into()), ..small(&image) };
    let flight = flight::<Qemu>(options, base(out.path(), "amd64-usr")).await.unwrap();
    let wishes = MachineOptions { memory_mib: Some(600), cpus: Some(2), ..MachineOptions::default() };
    let machine = flight.launch(request(out.path(), ignition(), wishes)).await.unwrap();
    assert_eq!(machine.address(), "10.0.0.2");
    assert!(banner(&machine).await.starts_with("SSH-2.0-"));
    assert!(machine.hints()[0].contains("nsenter --target "), "{:?}", machine.hints());
    assert_eq!(machine.destroy().await, []);
    let config = UserData::script("#!/bin/sh\n");
    let other = flight.launch(request(out.path(), config, MachineOptions::default())).await.unwrap();
    assert!(out.path().join(other.id()).join("config-2/openstack/latest/user_data").is_file());
    other.destroy().await;
    assert_eq!(flight.destroy().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_firmware_starts() {
    let out = tempfile::tempdir().unwrap();
    let disk = out.path().join("empty.img");
    std::fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    for (board, kind, says) in [
        ("amd64-usr", firmware::Kind::Bios, "SeaBIOS"),
        ("amd64-usr", firmware::Kind::Uefi, "BdsDxe"),
        ("arm64-usr", firmware::Kind::Uefi, "UEFI firmware"),
    ] {
        let options = Options { qemu_firmware: Some(kind), qemu_memory: Some(256), ..small(&disk) };
        let made = self::flight::<QemuUnpriv>(options, base(out.path(), board)).await;
        let flight = match made {
            Err(e) if e.to_string().contains("not installed") => {
                crate::warning!("test", "skipped: {e}");
                continue;
            }
            made => made.unwrap(),
        };
        let empty = request(out.path(), UserData::empty(), MachineOptions::default());
        let machine = flight.launch(empty).await.unwrap();
        console_says(&machine, says).await;
        assert_eq!(machine.destroy().await, []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_machine_is_noticed() {
    if missing(&["qemu-system-x86_64", "qemu-img"]) {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let disk = out.path().join("empty.img");
    std::fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let flight = flight::<QemuUnpriv>(small(&disk), base(out.path(), "amd64-usr")).await.unwrap();
    let launch = |userdata| flight.launch(request(out.path(), userdata, MachineOptions::default()));
    let machine = launch(ignition()).await.unwrap();
    console_says(&machine, "SeaBIOS").await;
    let dir = out.path().canonicalize().unwrap().join(machine.id());
    kill(Pid::from_raw(processes_in(&dir)[0]), Signal::SIGKILL).unwrap();
    let why = tokio::time::timeout(LONG, machine.died()).await.unwrap();
    assert!(why.text.starts_with("qemu ended with signal: 9") && why.cause.is_of_host(), "{why}");
    assert!(why.text.contains("\nlast lines of the console:\n") && why.text.contains("SeaBIOS"), "{why}");
    assert_eq!(machine.destroy().await, []);

    let told_to = launch(ignition()).await.unwrap();
    let mut died = told_to.died();
    tokio::join!(told_to.destroy(), async {
        assert!(tokio::time::timeout(Duration::from_millis(300), &mut died).await.is_err());
    });

    let wrong = Disk::Empty { size: "1G".into(), device: vec!["nonsense=1".into()] };
    let wishes = MachineOptions { disks: vec![wrong], ..MachineOptions::default() };
    let e = flight.launch(request(out.path(), ignition(), wishes)).await.err().unwrap().to_string();
    assert!(e.contains("qemu ended with exit status: 1\nqemu said:\n") && e.contains("nonsense"), "{e}");

    let before = names(out.path());
    let e = launch(UserData::script("#!/bin/sh\n")).await.err().unwrap();
    assert_eq!(e.to_string(), "unprivileged qemu only supports Ignition or empty configs");
    assert_eq!(names(out.path()), before, "nothing may be left of a machine that never was");
}

#[tokio::test(flavor = "multi_thread")]
async fn power_off_is_told_from_a_crash() {
    if missing(&["qemu-system-aarch64", "qemu-img"]) {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let disk = out.path().join("empty.img");
    std::fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let rom = out.path().join("off.bin");
    // Long enough to be launched before it ends.
    std::fs::write(&rom, accel::rom_image(Arch::Arm64, 300_000_000)).unwrap();
    let options = Options { qemu_bios: Some(rom), ..small(&disk) };
    let flight = flight::<QemuUnpriv>(options, base(out.path(), "arm64-usr")).await.unwrap();
    let machine = flight.launch(request(out.path(), ignition(), MachineOptions::default())).await.unwrap();
    let why = tokio::time::timeout(LONG, machine.died()).await.unwrap();
    assert_eq!(why, Diagnosis::new(Cause::Ended, "the guest powered itself off"));
    assert_eq!(machine.destroy().await, []);
}

#[tokio::test]
async fn what_is_missing_is_said_at_once() {
    if missing(&["qemu-system-x86_64", "qemu-img"]) {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let failure = async |options, board| {
        let e = flight::<QemuUnpriv>(options, base(out.path(), board)).await.err().unwrap();
        e.to_string()
    };
    assert_eq!(failure(small(Path::new("/no/image")), "amd64-usr").await, "cannot open image /no/image");
    assert_eq!(
        failure(small(Path::new("/no/image")), "mips").await,
        "QEMU machines cannot be of board \"mips\""
    );
    let disk = out.path().join("empty.img");
    std::fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let options = Options { qemu_kernel: Some("/no/kernel".into()), ..small(&disk) };
    assert_eq!(failure(options, "amd64-usr").await, "cannot find /no/kernel");
    let options = Options { qemu_kernel: Some("auto".into()), ..small(&disk) };
    assert!(failure(options, "amd64-usr").await.starts_with("no feature file names the kernel of "));
    let facts = r#"{"distro": "debian", "board": "arm64-usr", "version": "1"}"#;
    std::fs::write(out.path().join("empty.img.json"), facts).unwrap();
    assert!(
        failure(small(&disk), "amd64-usr").await.ends_with("empty.img is for board arm64-usr, not amd64-usr")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_may_outlive_us() {
    if missing(&["qemu-system-x86_64", "qemu-img"]) {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let disk = out.path().join("empty.img");
    std::fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let record = Arc::new(ledger::Ledger::open(out.path()).unwrap());
    let base = FlightBase { ledger: record, ..base(out.path(), "amd64-usr") };
    let flight = flight::<QemuUnpriv>(small(&disk), base).await.unwrap();
    let empty = request(out.path(), UserData::empty(), MachineOptions::default());
    let machine = flight.launch(LaunchRequest { survive: true, ..empty }).await.unwrap();
    let dir = out.path().canonicalize().unwrap().join(machine.id());
    let told = machine.hints();
    drop((machine, flight));
    // Long enough for a kill to be seen, should there be one.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let pids = processes_in(&dir);
    assert_eq!(told[1], format!("stop: kill {}", pids[0]));
    let left = ledger::left_over(out.path()).unwrap();
    assert_eq!(left.len(), 1);
    ledger::remove_local(&left[0]).await.unwrap();
    while !processes_in(&dir).is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// All that tells a machine from others: its numbers, keys and addresses, then random numbers; and its clock.
const IDENTITY: &str = "cat /etc/machine-id /etc/ssh/ssh_host_*_key.pub /proc/sys/kernel/random/uuid; \
    cat /sys/class/net/e*/address; ip -4 -o address show scope global | awk '{print $4}'; date +%s";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make check-full"]
async fn machines_from_one_state_have_nothing_in_common_that_tells_them_apart() {
    use crate::platform::deployment::{ClusterSettings, Deployment};
    use crate::platform::guest::Settings;
    use crate::platform::{Limits, warm::Store};
    let Some(image) = own_guest() else { return };
    if !nix::unistd::geteuid().is_root() {
        return crate::warning!("test", "skipped: needs root");
    }
    let out = tempfile::tempdir().unwrap();
    let options = Options { qemu_kernel: Some("auto".into()), ..small(&image) };
    let base = base(out.path(), "amd64-usr");
    let (key, ledger, distribution) = (base.key.clone(), base.ledger.clone(), base.target.distribution);
    let flight = flight::<Qemu>(options, base).await.unwrap();
    let states = Store::new(flight.clone(), out.path().join("states"));
    let settings = ClusterSettings {
        output_dir: out.path().to_owned(),
        base_name: "test".into(),
        no_ssh_key_in_user_data: false,
        no_ssh_key_in_metadata: false,
        additions: Additions::default(),
        guest: Settings {
            distribution,
            limits: Limits::new(Duration::from_secs(600), flight.slowness()),
            no_enable_selinux: false,
            allow_failed_units: false,
            ignored_badness: Vec::new(),
        },
        key,
        survive: false,
        ledger,
        warm: Some(states.clone()),
    };
    let cluster = Deployment::new(flight.clone(), settings).unwrap();
    let machine = || cluster.new_machine(Some(ignition()), MachineOptions::default());
    let begun = Instant::now();
    let first = machine().await.unwrap();
    let booted = begun.elapsed();
    let begun = Instant::now();
    let second = machine().await.unwrap();
    crate::notice!("test", "booted, saved and woken in {booted:?}, woken in {:?}", begun.elapsed());
    let identity = async |machine: &crate::platform::guest::Guest| -> Vec<String> {
        machine.ssh(IDENTITY).await.unwrap().stdout.lines().map(str::to_owned).collect()
    };
    let (mut one, mut other) = (identity(&first).await, identity(&second).await);
    let now = chrono::Utc::now().timestamp();
    for identity in [&mut one, &mut other] {
        assert_eq!(identity.len(), 6, "{identity:?}");
        let clock: i64 = identity.pop().unwrap().parse().unwrap();
        assert!((now - clock).abs() < 60, "{clock} at {now}");
    }
    for (a, b) in one.iter().zip(&other) {
        // Keys have a comment, which is the same.
        let words = |line: &str| line.split(' ').nth(1).unwrap_or(line).to_owned();
        assert_ne!(words(a), words(b), "{one:?} {other:?}");
    }
    // They did not boot, are machines all the same, and do boot.
    let boots = (first.boot_id().await.unwrap(), second.boot_id().await.unwrap());
    assert_eq!(boots.0, boots.1);
    let journal = first.ssh("sudo journalctl --quiet --boot | wc -l").await.unwrap().stdout;
    assert!(journal.parse::<u32>().unwrap() > 100, "{journal} lines");
    first.reboot().await.unwrap();
    assert_ne!(first.boot_id().await.unwrap(), boots.1);
    assert_eq!(identity(&first).await[0], one[0], "the machine id stays");
    for evidence in cluster.destroy().await {
        assert!(evidence.left.is_empty());
        let console = String::from_utf8_lossy(&evidence.console).into_owned();
        assert!(console.contains("Linux version"), "the console tells of the boot: {console}");
    }
    states.close().await;
    assert_eq!(flight.destroy().await, []);
}
