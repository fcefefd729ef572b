//! QEMU's command line. Nothing here touches the system.
//!
//! QEMU runs in the machine's folder, so the files it makes or reads there have short, harmless names.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::firmware::Firmware;
use crate::platform::{Error, Result};

/// Serial console, in the machine's folder.
pub const CONSOLE: &str = "console.txt";
/// Ignition config, in the machine's folder.
pub const IGNITION: &str = "ignition.json";
/// Root of the config drive, in the machine's folder; also its label in the guest.
pub const CONFIG_DRIVE: &str = "config-2";
/// Where Ignition looks for its config: names of Container Linux (and Fedora CoreOS) and of Flatcar.
const FW_CFG: [&str; 2] = ["opt/com.coreos/config", "opt/org.flatcar-linux/config"];

/// Size of the translated code that emulation may keep, in MiB. QEMU's default is up to a gigabyte a machine.
const TB_SIZE: u32 = 64;
/// Memory of a machine unless chosen, in MiB; upstream's 1024 is too little for a current systemd.
pub const MEMORY_MIB: u32 = 2048;

/// A processor architecture that boards and hosts have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// x86-64.
    Amd64,
    /// AArch64.
    Arm64,
}

impl Arch {
    /// What this program runs on; `None` if there are no boards of the kind.
    pub fn host() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::Amd64),
            "aarch64" => Some(Self::Arm64),
            _ => None,
        }
    }

    /// The architecture of a board such as `amd64-usr`.
    ///
    /// # Errors
    /// When the board is not known.
    pub fn of_board(board: &str) -> Result<Self> {
        match board {
            "amd64-usr" => Ok(Self::Amd64),
            "arm64-usr" => Ok(Self::Arm64),
            other => Err(Error::new(format!("QEMU machines cannot be of board {other:?}"))),
        }
    }

    /// QEMU's program for guests of this kind.
    pub fn program(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86_64",
            Self::Arm64 => "qemu-system-aarch64",
        }
    }

    /// The Debian package of [`Arch::program`].
    pub fn package(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86",
            Self::Arm64 => "qemu-system-arm",
        }
    }

    /// How virtio devices are attached.
    fn bus(self) -> &'static str {
        match self {
            Self::Amd64 => "pci",
            Self::Arm64 => "device",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        })
    }
}

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// The CPU, through Linux' KVM.
    Kvm,
    /// QEMU's Tiny Code Generator: emulation.
    Tcg,
}

impl Accel {
    /// QEMU's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// Machine model, accelerator and CPU: what decides whether guest code runs, hence also given to the KVM probe.
pub fn core(board: Arch, accel: Accel) -> [String; 6] {
    // Without graphics SeaBIOS talks on the serial port. The emulated CPU is an AMD one, which spares guests costly
    // protection against Intel's flaws, with what x86-64-v2 demands on top.
    let (machine, cpu) = match (board, accel) {
        (Arch::Amd64, Accel::Kvm) => ("pc,graphics=off", "host"),
        (Arch::Amd64, Accel::Tcg) => ("pc,graphics=off", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+lahf-lm"),
        (Arch::Arm64, Accel::Kvm) => ("virt,gic-version=host", "host"),
        (Arch::Arm64, Accel::Tcg) => ("virt", "cortex-a57"),
    };
    let accel = match accel {
        Accel::Kvm => "kvm".to_owned(),
        Accel::Tcg => format!("tcg,tb-size={TB_SIZE}"),
    };
    ["-machine".into(), machine.into(), "-accel".into(), accel, "-cpu".into(), cpu.into()]
}

/// A kernel started without boot loader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The kernel.
    pub file: PathBuf,
    /// Its initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub append: Option<String>,
}

/// How userdata reaches the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Userdata {
    /// There is none.
    Nothing,
    /// [`IGNITION`] by QEMU's firmware configuration device.
    FwCfg,
    /// [`CONFIG_DRIVE`] as a 9p file system, for coreos-cloudinit.
    ConfigDrive,
}

/// The guest's network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Net {
    /// On a tap device.
    Tap {
        /// Its descriptor in QEMU.
        fd: RawFd,
        /// The card's address.
        mac: String,
    },
    /// QEMU's own network; a free port of 127.0.0.1 leads to the guest's port 22.
    User,
}

/// One disk, open in QEMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drive {
    /// Its qcow2 file's descriptor in QEMU.
    pub fd: RawFd,
    /// Options of the virtual device.
    pub device: Vec<String>,
}

/// What a machine's memory is, as far as its state can be saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Memory {
    /// Memory of QEMU's own.
    #[default]
    Own,
    /// This file, which the state to be saved will need.
    Kept(RawFd),
    /// What is in this file, which itself stays as it is; the rest of the state comes over QMP.
    Copied(RawFd),
}

/// All that the command line depends on.
#[derive(Clone, Debug)]
pub struct Guest<'a> {
    /// Architecture.
    pub board: Arch,
    /// What executes it.
    pub accel: Accel,
    /// UUID of the product.
    pub id: &'a str,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Firmware.
    pub firmware: &'a Firmware,
    /// Copy of the firmware's variables, if it is [`Firmware::Flash`].
    pub vars: Option<RawFd>,
    /// Kernel to start directly.
    pub kernel: Option<&'a Kernel>,
    /// Userdata.
    pub userdata: Userdata,
    /// Disks, the primary one first.
    pub drives: &'a [Drive],
    /// Network card.
    pub net: Net,
    /// Listening socket of the machine protocol (QMP).
    pub qmp: RawFd,
    /// Memory.
    pub memory: Memory,
}

/// The network card of a machine whose state is saved: the device, and what it is connected to.
pub const NIC: (&str, &str) = ("nic0", "net0");

/// Collects arguments.
struct Args(Vec<OsString>);

impl Args {
    fn add(&mut self, option: &str, value: impl Into<OsString>) -> &mut Self {
        self.0.push(option.into());
        self.0.push(value.into());
        self
    }
}

/// QEMU's arguments for a guest.
pub fn arguments(guest: &Guest<'_>) -> Vec<OsString> {
    let bus = guest.board.bus();
    let mut args = Args(["-no-user-config", "-nodefaults"].map(Into::into).to_vec());
    args.0.extend(core(guest.board, guest.accel).map(Into::into));
    if let Memory::Kept(fd) | Memory::Copied(fd) = guest.memory {
        let (size, share) = (guest.memory_mib, if guest.memory == Memory::Kept(fd) { "on" } else { "off" });
        let file =
            format!("memory-backend-file,id=ram,size={size}M,mem-path=/proc/self/fd/{fd},share={share}");
        // The device tells a guest that was started from a state, so that it gets random numbers of its own.
        args.add("-object", file).add("-machine", "memory-backend=ram").add("-device", "vmgenid,guid=auto");
    }
    // It begins with what the machine had said whose state it has.
    let append = if matches!(guest.memory, Memory::Copied(_)) { ",append=on" } else { "" };
    args.add("-m", guest.memory_mib.to_string())
        .add("-smp", guest.cpus.to_string())
        .add("-uuid", guest.id)
        .add("-display", "none")
        .add("-chardev", format!("file,id=log,path={CONSOLE}{append}"))
        .add("-serial", "chardev:log")
        .add("-chardev", format!("socket,id=qmp,fd={},server=on,wait=off", guest.qmp))
        .add("-mon", "chardev=qmp,mode=control")
        .add("-object", "rng-random,id=rng,filename=/dev/urandom")
        .add("-device", format!("virtio-rng-{bus},rng=rng"));
    match guest.firmware {
        Firmware::Rom(file) => {
            args.add("-bios", file);
        }
        Firmware::Flash { code, .. } => {
            args.add("-drive", option("if=pflash,unit=0,format=raw,readonly=on,file=", code));
            if let Some(fd) = guest.vars {
                args.add("-add-fd", format!("fd={fd},set=0")).add(
                    "-drive",
                    "if=pflash,unit=1,format=raw,cache=unsafe,auto-read-only=off,file=/dev/fdset/0",
                );
            }
        }
    }
    if let Some(kernel) = guest.kernel {
        args.add("-kernel", &kernel.file);
        if let Some(file) = &kernel.initrd {
            args.add("-initrd", file);
        }
        if let Some(text) = &kernel.append {
            args.add("-append", text);
        }
    }
    match guest.userdata {
        Userdata::Nothing => {}
        Userdata::FwCfg => {
            for name in FW_CFG {
                args.add("-fw_cfg", format!("name={name},file={IGNITION}"));
            }
        }
        Userdata::ConfigDrive => {
            args.add("-fsdev", format!("local,id=cfg,security_model=none,readonly=on,path={CONFIG_DRIVE}"))
                .add("-device", format!("virtio-9p-{bus},fsdev=cfg,mount_tag={CONFIG_DRIVE}"));
        }
    }
    for (i, drive) in guest.drives.iter().enumerate() {
        let set = i + 1;
        // Since QEMU 3.1 a drive is opened read-only at first unless told otherwise; a descriptor set has only
        // the one descriptor it was given.
        args.add("-add-fd", format!("fd={},set={set}", drive.fd)).add(
            "-drive",
            format!("if=none,id=d{i},format=qcow2,cache=unsafe,auto-read-only=off,file=/dev/fdset/{set}"),
        );
        let boot = if i == 0 && guest.kernel.is_none() { ",bootindex=1" } else { "" };
        let more: String = drive.device.iter().flat_map(|option| [",", option]).collect();
        args.add("-device", format!("virtio-blk-{bus},drive=d{i}{boot}{more}"));
    }
    let (backend, mac) = match &guest.net {
        Net::Tap { fd, mac } => (format!("tap,id=net0,fd={fd}"), format!(",mac={mac}")),
        Net::User => ("user,id=net0,hostfwd=tcp:127.0.0.1:0-:22".to_owned(), String::new()),
    };
    // Network boot would only cost time; devices outside PCI have no option ROM.
    let rom = if guest.board == Arch::Amd64 { ",romfile=" } else { "" };
    let card = format!("virtio-net-{bus},netdev=net0{mac}{rom}");
    args.add("-netdev", backend);
    match guest.memory {
        Memory::Own => {
            args.add("-device", card);
            // Gives back what the guest has freed, such as its unpacked initramfs: a fifth of the memory of a small
            // machine. Not where memory is a file: it would be freed in the file.
            args.add("-device", format!("virtio-balloon-{bus},free-page-reporting=on"));
        }
        // The last device: it is taken out before the state is saved, and put in anew.
        Memory::Kept(_) => {
            args.add("-device", format!("{card},id={}", NIC.0));
        }
        Memory::Copied(_) => {
            args.add("-incoming", "defer");
        }
    }
    args.0
}

/// An option that ends in a path; QEMU separates options by commas and wants those in values doubled.
fn option(prefix: &str, path: &Path) -> OsString {
    let mut text = OsStr::new(prefix).as_bytes().to_vec();
    for &byte in path.as_os_str().as_bytes() {
        text.extend(std::iter::repeat_n(byte, if byte == b',' { 2 } else { 1 }));
    }
    OsString::from_vec(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(firmware: &Firmware) -> Guest<'_> {
        Guest {
            board: Arch::Amd64,
            accel: Accel::Kvm,
            id: "some-id",
            memory_mib: 1024,
            cpus: 2,
            firmware,
            vars: None,
            kernel: None,
            userdata: Userdata::FwCfg,
            drives: &[],
            net: Net::User,
            qmp: 100,
            memory: Memory::Own,
        }
    }

    fn line(guest: &Guest<'_>) -> String {
        let words = arguments(guest);
        words.iter().map(|w| w.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[track_caller]
    fn has(line: &str, part: &str) {
        assert!(format!("{line} ").contains(&format!("{part} ")), "no {part:?} in {line}");
    }

    #[test]
    fn table_of_hosts_and_boards() {
        for (board, accel, expected) in [
            (Arch::Amd64, Accel::Kvm, "-machine pc,graphics=off -accel kvm -cpu host"),
            (
                Arch::Amd64,
                Accel::Tcg,
                "-machine pc,graphics=off -accel tcg,tb-size=64 -cpu qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+lahf-lm",
            ),
            (Arch::Arm64, Accel::Kvm, "-machine virt,gic-version=host -accel kvm -cpu host"),
            (Arch::Arm64, Accel::Tcg, "-machine virt -accel tcg,tb-size=64 -cpu cortex-a57"),
        ] {
            assert_eq!(core(board, accel).join(" "), expected);
        }
        let e = Arch::of_board("ppc-usr").unwrap_err();
        assert_eq!(e.to_string(), "QEMU machines cannot be of board \"ppc-usr\"");
    }

    #[test]
    fn amd64_with_tap_and_disks() {
        let firmware = Firmware::Rom("bios-256k.bin".into());
        let drives = [
            Drive { fd: 101, device: vec!["serial=primary-disk".into()] },
            Drive { fd: 102, device: vec!["serial=a".into(), "x=y".into()] },
        ];
        let net = Net::Tap { fd: 103, mac: "02:00:00:00:00:02".into() };
        let text = line(&Guest { drives: &drives, net, ..guest(&firmware) });
        for part in [
            "-m 1024",
            "-smp 2",
            "-uuid some-id",
            "-bios bios-256k.bin",
            "-chardev file,id=log,path=console.txt -serial chardev:log",
            "-chardev socket,id=qmp,fd=100,server=on,wait=off -mon chardev=qmp,mode=control",
            "-fw_cfg name=opt/com.coreos/config,file=ignition.json",
            "-fw_cfg name=opt/org.flatcar-linux/config,file=ignition.json",
            "-add-fd fd=101,set=1 -drive if=none,id=d0,format=qcow2,cache=unsafe,auto-read-only=off,file=/dev/fdset/1",
            "-device virtio-blk-pci,drive=d0,bootindex=1,serial=primary-disk",
            "-device virtio-blk-pci,drive=d1,serial=a,x=y",
            "-netdev tap,id=net0,fd=103 -device virtio-net-pci,netdev=net0,mac=02:00:00:00:00:02,romfile=",
        ] {
            has(&text, part);
        }
    }

    #[test]
    fn what_is_saved_and_what_is_started_from_it_have_the_same_devices_in_order() {
        let firmware = Firmware::Rom("bios-256k.bin".into());
        let drives = [Drive { fd: 101, device: vec![] }];
        let guest = Guest { drives: &drives, ..guest(&firmware) };
        let [kept, copied] =
            [Memory::Kept(105), Memory::Copied(106)].map(|memory| line(&Guest { memory, ..guest.clone() }));
        let devices = |line: &str| -> Vec<String> {
            let devices = line.split(" -device ").skip(1);
            devices.map(|d| d.split(' ').next().unwrap().to_owned()).collect()
        };
        let (mut saved, started) = (devices(&kept), devices(&copied));
        assert_eq!(saved.pop().as_deref(), Some("virtio-net-pci,netdev=net0,romfile=,id=nic0"));
        assert_eq!(saved, started);
        has(&kept, "-object memory-backend-file,id=ram,size=1024M,mem-path=/proc/self/fd/105,share=on");
        has(&copied, "-object memory-backend-file,id=ram,size=1024M,mem-path=/proc/self/fd/106,share=off");
        has(&copied, "-incoming defer");
        has(&copied, "-chardev file,id=log,path=console.txt,append=on");
        assert!(!kept.contains("balloon") && !copied.contains("balloon"), "a balloon would empty the file");
    }

    #[test]
    fn arm64_uefi_and_config_drive() {
        let firmware = Firmware::Flash { code: "/a,b/code.fd".into(), vars: "/vars.fd".into() };
        let text = line(&Guest {
            board: Arch::Arm64,
            accel: Accel::Tcg,
            vars: Some(104),
            userdata: Userdata::ConfigDrive,
            ..guest(&firmware)
        });
        for part in [
            "-drive if=pflash,unit=0,format=raw,readonly=on,file=/a,,b/code.fd",
            "-add-fd fd=104,set=0 -drive if=pflash,unit=1,format=raw,cache=unsafe,auto-read-only=off,file=/dev/fdset/0",
            "-fsdev local,id=cfg,security_model=none,readonly=on,path=config-2",
            "-device virtio-9p-device,fsdev=cfg,mount_tag=config-2",
            "-device virtio-rng-device,rng=rng",
            "-device virtio-balloon-device,free-page-reporting=on",
            "-netdev user,id=net0,hostfwd=tcp:127.0.0.1:0-:22 -device virtio-net-device,netdev=net0",
        ] {
            has(&text, part);
        }
        assert!(!text.contains("-bios") && !text.contains("fw_cfg"), "{text}");
    }

    #[test]
    fn direct_kernel() {
        let firmware = Firmware::Rom("bios-256k.bin".into());
        let kernel = Kernel { file: "/k".into(), initrd: Some("/i".into()), append: Some("a b".into()) };
        let drives = [Drive { fd: 101, device: vec![] }];
        let guest = guest(&firmware);
        let text = line(&Guest { kernel: Some(&kernel), drives: &drives, ..guest.clone() });
        has(&text, "-kernel /k -initrd /i -append a b");
        has(&text, "-device virtio-blk-pci,drive=d0");
        let text = line(&Guest { userdata: Userdata::Nothing, ..guest });
        assert!(!text.contains("fw_cfg") && !text.contains("9p"), "{text}");
    }
}
