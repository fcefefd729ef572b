//! Whether KVM really works here, and how slow guests are if it does not.
//!
//! A /dev/kvm that opens says little: under some hypervisors QEMU then aborts, or guest code crawls. So a tiny guest
//! of our own, made of a few instructions in a ROM, is run under KVM with exactly the machine and CPU that real
//! machines get. The verdict is kept until the next boot of the host.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::command::{Accel, Arch, core};
use crate::platform::{Error, Result, ResultExt};
use crate::process::{self, Command};

/// What the user wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// KVM if it works.
    #[default]
    Auto,
    /// KVM, without a probe.
    Kvm,
    /// Emulation.
    Tcg,
}

/// How guests will be executed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// By what.
    pub accel: Accel,
    /// How many times slower than on bare hardware they run, for limits in time.
    pub slowness: f64,
}

/// Rounds of the probe's loop. Under KVM they take about 10 ms on a healthy CPU, half a minute where ring 0 is
/// interpreted.
const ROUNDS_KVM: u32 = 20_000_000;
/// The time allowed to the probe, QEMU's start included.
const LIMIT_KVM: Duration = Duration::from_secs(1);
/// Rounds for measuring emulation.
const ROUNDS_TCG: u32 = 100_000_000;
/// What [`ROUNDS_TCG`] take, QEMU's start included, where guests boot [`TYPICAL`] times slower than under KVM.
const REFERENCE: Duration = Duration::from_millis(450);
/// Slowness of emulation on an ordinary host.
const TYPICAL: f64 = 5.0;
/// Exit status of QEMU after the guest wrote [`DEBUG_EXIT`] to isa-debug-exit: twice the value plus one.
const PASSED: i32 = 2 * DEBUG_EXIT as i32 + 1;
const DEBUG_EXIT: u8 = 0x10;
const DEBUG_PORT: u8 = 0xf4;

/// Decides how to run guests of `board` with the QEMU at `program`; says why if that is not KVM.
///
/// # Errors
/// When KVM is asked for and cannot be used on principle.
pub async fn decide(choice: Choice, board: Arch, program: &Path) -> Result<Decision> {
    let kvm = Decision { accel: Accel::Kvm, slowness: 1.0 };
    let why = match choice {
        Choice::Kvm => match unavailable(board) {
            Some(why) => return Err(Error::new(format!("cannot use KVM: {why}"))),
            None => return Ok(kvm),
        },
        Choice::Tcg => "as chosen".to_owned(),
        Choice::Auto => match without_kvm(board, program).await? {
            Some(why) => why,
            None => return Ok(kvm),
        },
    };
    let mut cache = Cache::load(cache_file());
    let key = key(program, board, Accel::Tcg);
    let slowness = match cache.slowness.get(&key) {
        Some(&slowness) => slowness,
        None => {
            let measured = measure_tcg(program, board).await?;
            cache.slowness.insert(key, measured);
            cache.store();
            measured
        }
    }
    .clamp(3.0, 10.0);
    crate::notice!("qemu", "guests are emulated (TCG), about {slowness:.0} times slower: {why}");
    Ok(Decision { accel: Accel::Tcg, slowness })
}

/// Why KVM cannot run guests of `board` here; `None` if it does.
pub async fn without_kvm(board: Arch, program: &Path) -> Result<Option<String>> {
    if let Some(why) = unavailable(board) {
        return Ok(Some(why));
    }
    let key = key(program, board, Accel::Kvm);
    let mut cache = Cache::load(cache_file());
    let broken = match cache.broken.get(&key) {
        Some(verdict) => verdict.clone(),
        None => {
            let verdict = probe_kvm(program, board).await?;
            cache.broken.insert(key, verdict.clone());
            cache.store();
            verdict
        }
    };
    Ok(broken.map(|why| format!("KVM does not work here: {why}")))
}

/// Why KVM is out of the question, if it is.
fn unavailable(board: Arch) -> Option<String> {
    if Arch::host() != Some(board) {
        return Some(format!("this host is not of the board's architecture, {board}"));
    }
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => None,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Some("there is no /dev/kvm".into()),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            Some("no permission to use /dev/kvm (its group, usually kvm, has it)".into())
        }
        Err(e) => Some(format!("cannot open /dev/kvm: {e}")),
    }
}

/// Runs the probe under KVM; `None` if all is well, else what is wrong.
async fn probe_kvm(program: &Path, board: Arch) -> Result<Option<String>> {
    let run = run_rom(program, board, Accel::Kvm, ROUNDS_KVM, LIMIT_KVM).await?;
    Ok(match run {
        Ok(_) => None,
        Err(process::Error::TimedOut { .. }) => {
            Some("a probe guest that needs milliseconds did not end within a second".into())
        }
        Err(process::Error::Failed { status, stderr, .. }) => {
            let last = stderr.lines().map(str::trim).rfind(|l| !l.is_empty()).unwrap_or_default();
            let sep = if last.is_empty() { "" } else { ": " };
            Some(format!("QEMU ended with {status} in a probe guest{sep}{last}"))
        }
        Err(e) => return Err(e).during(|| "cannot probe KVM"),
    })
}

/// Measures emulation by the probe's loop. The verdict is kept for long, so a busy moment gets a second chance.
async fn measure_tcg(program: &Path, board: Arch) -> Result<f64> {
    const LIMIT: Duration = Duration::from_secs(5);
    let mut best = LIMIT;
    for _ in 0..3 {
        match run_rom(program, board, Accel::Tcg, ROUNDS_TCG, LIMIT).await? {
            Ok(took) => best = best.min(took),
            Err(process::Error::TimedOut { .. }) => break,
            Err(e) => return Err(e).during(|| "QEMU cannot run a guest"),
        }
        if best < REFERENCE * 3 / 2 {
            break;
        }
    }
    Ok(TYPICAL * best.as_secs_f64() / REFERENCE.as_secs_f64())
}

/// Runs the ROM to its orderly end and tells how long that took, process start included.
async fn run_rom(
    program: &Path,
    board: Arch,
    accel: Accel,
    rounds: u32,
    limit: Duration,
) -> Result<std::result::Result<Duration, process::Error>> {
    let mut rom = tempfile::tempfile().during(|| "cannot make a temporary file")?;
    rom.write_all(&rom_image(board, rounds)).during(|| "cannot write a temporary file")?;
    let mut command = Command::new(program)
        .args(core(board, accel))
        .args(["-no-user-config", "-nodefaults", "-m", "16", "-display", "none", "-no-reboot"])
        .args(["-bios", "/proc/self/fd/100"])
        .pass_fd(rom.into(), 100);
    if board == Arch::Amd64 {
        command = command.arg("-device").arg(format!("isa-debug-exit,iobase={DEBUG_PORT:#x},iosize=1"));
    }
    let start = Instant::now();
    let ended = command.output(limit).await;
    let took = start.elapsed();
    Ok(match (board, ended) {
        (Arch::Amd64, Err(process::Error::Failed { status, .. })) if status.code() == Some(PASSED) => {
            Ok(took)
        }
        // Nothing but the guest's order can end it like this.
        (Arch::Arm64, Ok(_)) => Ok(took),
        (Arch::Amd64, Ok(output)) => Err(process::Error::Failed {
            program: board.program().into(),
            status: output.status,
            stderr: String::new(),
        }),
        (_, Err(e)) => Err(e),
    })
}

/// Firmware that counts down `rounds`, does one locked access to memory and ends QEMU.
pub fn rom_image(board: Arch, rounds: u32) -> Vec<u8> {
    match board {
        Arch::Amd64 => rom_amd64(rounds),
        Arch::Arm64 => rom_arm64(rounds),
    }
}

/// 64 KiB that end at 4 GiB, where a PC's CPU starts: 16-bit code switches to flat 32-bit protected mode.
fn rom_amd64(rounds: u32) -> Vec<u8> {
    const CODE16: usize = 0xff00;
    const CODE32: usize = 0xff20;
    const GDT: usize = 0xff40;
    const GDT_POINTER: usize = 0xff58;
    const RESET: usize = 0xfff0;
    const HIGH: u32 = 0xffff_0000;
    let address = |offset: usize| (HIGH | offset as u32).to_le_bytes();
    let mut rom = vec![0; 0x1_0000];
    let mut put = |at: usize, parts: &[&[u8]]| {
        let bytes = parts.concat();
        rom[at..at + bytes.len()].copy_from_slice(&bytes);
    };
    // jmp near: the distance counts from the end of the instruction.
    let back = (CODE16.wrapping_sub(RESET + 3) as u16).to_le_bytes();
    put(RESET, &[&[0xe9], &back]);
    put(
        CODE16,
        &[
            &[0xfa], // cli
            &[0x2e, 0x66, 0x0f, 0x01, 0x16],
            &(GDT_POINTER as u16).to_le_bytes(), // lgdt cs:[GDT_POINTER]
            &[0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0], // cr0 |= protection enable
            &[0x66, 0xea],
            &address(CODE32),
            &[0x08, 0x00], // jmp 8:CODE32
        ],
    );
    put(
        CODE32,
        &[
            &[0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8], // ds = 16
            &[0xb9],
            &rounds.to_le_bytes(),                                   // ecx = rounds
            &[0x49, 0x75, 0xfd],                                     // dec ecx; jnz back to it
            &[0xbf, 0x00, 0x10, 0x00, 0x00, 0xf0, 0x0f, 0xc7, 0x0f], // lock cmpxchg8b [0x1000]
            &[0xb0, DEBUG_EXIT, 0xe6, DEBUG_PORT],                   // out DEBUG_PORT, DEBUG_EXIT
            &[0xf4, 0xeb, 0xfd],                                     // hlt for ever
        ],
    );
    // Nothing, flat code, flat data; then limit and address for lgdt.
    put(GDT + 8, &[&[0xff, 0xff, 0, 0, 0, 0x9b, 0xcf, 0], &[0xff, 0xff, 0, 0, 0, 0x93, 0xcf, 0]]);
    put(GDT_POINTER, &[&[0x17, 0x00], &address(GDT)]);
    rom
}

/// 64 KiB at address 0, where the CPU of machine `virt` starts; it ends by the PSCI call SYSTEM_OFF (Arm DEN0022).
fn rom_arm64(rounds: u32) -> Vec<u8> {
    const SYSTEM_OFF: u32 = 0x8400_0008;
    const MEMORY: u32 = 0x4000_0000;
    let [rounds, off, memory] = [rounds, SYSTEM_OFF, MEMORY].map(|value| (value & 0xffff, value >> 16));
    let movz = |register: u32, low: u32| 0x5280_0000 | low << 5 | register;
    let movk_high = |register: u32, high: u32| 0x72a0_0000 | high << 5 | register;
    let code = [
        movz(1, rounds.0),
        movk_high(1, rounds.1),
        0xf100_0421, // subs x1, x1, #1
        0x54ff_ffe1, // b.ne to the subs
        movz(2, memory.0),
        movk_high(2, memory.1),
        0xc85f_fc43, // ldaxr x3, [x2]
        0xc804_fc43, // stlxr w4, x3, [x2]
        movz(0, off.0),
        movk_high(0, off.1),
        0xd400_0002, // hvc #0
        0x1400_0000, // b to itself
    ];
    let mut rom: Vec<u8> = code.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
    rom.resize(0x1_0000, 0);
    rom
}

/// Verdicts of this boot of the host, by what they depend on.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Cache {
    boot_id: String,
    /// What is wrong with KVM, if anything.
    broken: BTreeMap<String, Option<String>>,
    /// Measured slowness of emulation.
    slowness: BTreeMap<String, f64>,
    #[serde(skip)]
    file: Option<PathBuf>,
}

impl Cache {
    /// What is known; nothing if there is no cache, it is of another boot or makes no sense.
    fn load(file: Option<PathBuf>) -> Self {
        let boot_id =
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let read = file.as_deref().and_then(|path| std::fs::read(path).ok());
        let known = read.and_then(|text| serde_json::from_slice::<Self>(&text).ok());
        let known = known.filter(|cache| cache.boot_id == boot_id && !boot_id.is_empty());
        Self { boot_id, file, ..known.unwrap_or_default() }
    }

    /// Saves it by replacing the file. A failure costs a probe next time, nothing else.
    fn store(&self) {
        let Some((file, dir)) = self.file.as_deref().and_then(|f| Some((f, f.parent()?))) else { return };
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(dir)?;
            crate::target::replace(file, 0o600, &serde_json::to_vec_pretty(self)?)
        };
        if let Err(e) = write() {
            crate::debug!("qemu", "cannot keep the verdict about KVM in {}: {e}", file.display());
        }
    }
}

fn cache_file() -> Option<PathBuf> {
    crate::folders::cache().map(|c| c.join("qemu-accel.json"))
}

/// What a verdict is about: this very QEMU with these arguments.
fn key(program: &Path, board: Arch, accel: Accel) -> String {
    let (size, seconds) = program.metadata().map(|m| (m.size(), m.mtime())).unwrap_or_default();
    format!("{} {size} {seconds} {}", program.display(), core(board, accel).join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roms_start_where_cpus_do() {
        let rom = rom_image(Arch::Amd64, 0x0403_0201);
        assert_eq!(rom.len(), 0x1_0000);
        assert_eq!(rom[0xfff0..0xfff3], [0xe9, 0x0d, 0xff]);
        assert_eq!(rom[0xff58..0xff5e], [0x17, 0x00, 0x40, 0xff, 0xff, 0xff]);
        assert_eq!(rom[0xff26..0xff2b], [0xb9, 1, 2, 3, 4]);
        let rom = rom_image(Arch::Arm64, 0x0001_0002);
        assert_eq!(rom[..8], [0x41, 0, 0x80, 0x52, 0x21, 0, 0xa0, 0x72]);
    }

    #[tokio::test]
    async fn roms_end_under_emulation() {
        for board in [Arch::Amd64, Arch::Arm64] {
            let Some(program) = process::find_program(board.program()) else {
                crate::warning!("test", "skipped: no {}", board.program());
                continue;
            };
            let run = run_rom(&program, board, Accel::Tcg, 1000, Duration::from_secs(60)).await.unwrap();
            run.unwrap();
        }
    }

    #[tokio::test]
    async fn a_guest_that_never_ends_is_a_verdict() {
        let dir = tempfile::tempdir().unwrap();
        let fake = |text: &str| {
            let path = dir.path().join("qemu");
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            path
        };
        let why = probe_kvm(&fake("exec sleep 1000"), Arch::Amd64).await.unwrap().unwrap();
        assert!(why.contains("within a second"), "{why}");
        let why =
            probe_kvm(&fake("echo 'Assertion failed.' >&2; exit 4"), Arch::Amd64).await.unwrap().unwrap();
        assert_eq!(why, "QEMU ended with exit status: 4 in a probe guest: Assertion failed.");
        assert_eq!(probe_kvm(&fake("exit 33"), Arch::Amd64).await.unwrap(), None);
        assert!(probe_kvm(&fake("exit 0"), Arch::Amd64).await.unwrap().is_some());
    }

    #[test]
    fn cache_survives_and_forgives() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deep/cache.json");
        let mut cache = Cache::load(Some(file.clone()));
        cache.broken.insert("k".into(), Some("slow".into()));
        cache.slowness.insert("k".into(), 4.5);
        cache.store();
        let again = Cache::load(Some(file.clone()));
        assert_eq!((again.broken["k"].as_deref(), again.slowness["k"]), (Some("slow"), 4.5));
        let text = std::fs::read_to_string(&file).unwrap().replace(&again.boot_id, "another boot");
        std::fs::write(&file, text).unwrap();
        assert!(Cache::load(Some(file.clone())).broken.is_empty());
        std::fs::write(&file, "{\"boot_id\":").unwrap();
        assert!(Cache::load(Some(file)).slowness.is_empty());
    }

    #[tokio::test]
    async fn kvm_cannot_be_forced_on_a_foreign_board() {
        let foreign = if Arch::host() == Some(Arch::Amd64) { Arch::Arm64 } else { Arch::Amd64 };
        let e = decide(Choice::Kvm, foreign, Path::new("/no/qemu")).await.unwrap_err();
        assert!(e.to_string().starts_with("cannot use KVM: this host is not"), "{e}");
    }
}
