//! The table of what is bad in a console or journal.

use serde::Serialize;

use crate::cause::Cause;

/// Which text a line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The serial console: firmware, boot loader, kernel, whatever init shows.
    Console,
    /// The journal: kernel and services.
    Journal,
}

/// What a finding does to a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The test fails.
    Fail,
    /// The test's output tells it.
    Warn,
}

/// A property of a test that turns checks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Flag {
    /// The test means to end in the emergency shell.
    NoEmergencyShellCheck,
}

/// One thing to look for.
#[derive(Debug)]
pub struct Check {
    /// What it is called in findings.
    pub label: &'static str,
    /// What it means on a console; `None`: not looked for.
    pub console: Option<Severity>,
    /// What it means in a journal; `None`: not looked for.
    pub journal: Option<Severity>,
    /// Turned off by this.
    pub off_by: Option<Flag>,
    /// On a console, the machine will not get any further: nobody needs to wait for it.
    pub fatal: bool,
    /// What has become of the machine; always known of what is fatal.
    pub cause: Option<Cause>,
    /// The version of mantle that looks for it first.
    pub since: &'static str,
    /// The texts that make a match.
    pub(super) looks: &'static [Look],
    /// Not a match if this is what comes after the start.
    pub(super) unless: Option<&'static str>,
    /// How many matches make a finding.
    pub times: u32,
}

/// How a match starts, and what must follow up to the end of the line, if anything; group 1 of that is shown.
///
/// Starts are searched for all at once. They should be rare: each occurrence costs a closer look. None may begin with
/// another; several checks may have the same.
pub(super) type Look = (&'static str, &'static str);

const FAIL: Option<Severity> = Some(Severity::Fail);
const WARN: Option<Severity> = Some(Severity::Warn);

impl Check {
    /// The defaults of the table: fails everywhere at first sight.
    const fn new(label: &'static str, looks: &'static [Look]) -> Self {
        Self {
            label,
            console: FAIL,
            journal: FAIL,
            off_by: None,
            fatal: false,
            cause: None,
            since: "0.13.0",
            looks,
            unless: None,
            times: 1,
        }
    }

    /// One of those that v0.12.0 had; labels and what they match there must stay.
    const fn upstream(label: &'static str, looks: &'static [Look]) -> Self {
        Self { since: "0.12.0", ..Self::new(label, looks) }
    }

    /// Only a warning in journals: services and tests may well write such lines, or mean them to happen.
    const fn broad(self) -> Self {
        Self { journal: WARN, ..self }
    }

    /// Happens in healthy boots as well: only a warning.
    const fn warns(self) -> Self {
        Self { console: WARN, journal: WARN, ..self }
    }

    /// Said before there is a journal.
    const fn console_only(self) -> Self {
        Self { journal: None, ..self }
    }

    const fn fatal(self, cause: Cause) -> Self {
        Self { fatal: true, ..self }.means(cause)
    }

    const fn means(self, cause: Cause) -> Self {
        Self { cause: Some(cause), ..self }
    }

    const fn unless(self, pattern: &'static str) -> Self {
        Self { unless: Some(pattern), ..self }
    }

    const fn off_by(self, flag: Flag) -> Self {
        Self { off_by: Some(flag), ..self }
    }

    const fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }

    /// What a finding in this source means; `None`: not looked for.
    pub fn severity(&self, source: Source) -> Option<Severity> {
        match source {
            Source::Console => self.console,
            Source::Journal => self.journal,
        }
    }

    /// What it looks for, as regular expressions.
    pub fn patterns(&self) -> impl Iterator<Item = String> + '_ {
        let escape = |start| {
            // Means something inside of brackets only.
            ["-", "#", "&", "~"].iter().fold(regex::escape(start), |s, c| s.replace(&format!("\\{c}"), c))
        };
        self.looks.iter().map(move |(start, rest)| format!("{}{rest}", escape(start)))
    }
}

/// Label of the check for configs that Ignition could not carry out; it has more to say about them.
pub const IGNITION_FAILURE: &str = "Ignition failure";

/// All checks. What v0.12.0 looks for comes first; it never got to scan journals, whose checks begin with those of the
/// kernel and the initramfs.
///
/// A new check fails tests if everybody would call such a console bad, and warns if healthy boots of Container Linux,
/// Flatcar, Fedora CoreOS or Debian have it too, or may.
pub static CHECKS: &[Check] = &[
    Check::upstream(
        "emergency shell",
        &[
            ("Press Enter for emergency shell", ""),
            ("Starting Emergency Shell", ""),
            ("You are in emergency mode", ""),
            // systemd since 249 names the unit; dracut; sulogin.
            ("Starting emergency.service", ""),
            ("Started emergency.service", ""),
            ("Reached target emergency.target", ""),
            ("Reached target Emergency Mode", ""),
            ("Entering emergency mode", ""),
            ("Press Enter for maintenance", ""),
            ("Give root password for maintenance", ""),
        ],
    )
    .off_by(Flag::NoEmergencyShellCheck)
    .fatal(Cause::EmergencyShell),
    Check::upstream("kernel panic", &[("Kernel panic - not syncing: ", "(.*)")]).fatal(Cause::KernelPanic),
    Check::upstream("kernel oops", &[("Oops:", "")]),
    Check::upstream(
        "kernel warning",
        &[
            ("WARNING: ", r"CPU: [0-9]+ PID: [0-9]+ at (.+)"),
            // Linux since 6.18.
            ("WARNING: ", r"([^ ]+:[0-9]+ at [^ ]+), CPU#[0-9]+: "),
        ],
    ),
    Check::upstream("failure of disk under I/O", &[("rejecting I/O to offline device", "")]),
    Check::upstream(
        "coreos-metadata failure to set up initramfs network",
        &[("Failed to start ", "CoreOS Static Network Agent")],
    )
    .broad(),
    Check::upstream(
        "excessive bonding link status messages",
        &[("link status up for interface ", r"[^,]{1,256}, enabling it in [0-9]+ ms")],
    )
    .times(10),
    Check::upstream(
        "ext4 delayed allocation failure",
        &[(
            "EXT4-fs (",
            r"[^()]{0,256}\): Delayed block allocation failed for inode [0-9]+ at logical offset [0-9]+ with max blocks [0-9]+ with (error [0-9]+)",
        )],
    ),
    Check::upstream(
        "GRUB memory corruption",
        &[("alloc magic ", r"(?:is )?broken"), ("free magic ", r"(?:is )?broken")],
    )
    .console_only(),
    Check::upstream(
        "Ignition fetch cancellation race",
        &[("ignition[", r"[0-9]+\]: failed to fetch config: context canceled")],
    ),
    Check::upstream(
        "initrd-cleanup.service terminated",
        &[("initrd-cleanup.service: Main process exited, code=killed, status=15/TERM", "")],
    ),
    Check::upstream("bad page table", &[("mm/pgtable-generic", r".c:[0-9]+: bad (p.d|pte)")]),
    Check::upstream("Go panic", &[("panic: ", "(.*)")]).broad(),
    Check::upstream("segfault", &[("SIGSEGV", ""), ("=11/SEGV", "")]).broad(),
    Check::upstream(
        "core dump",
        &[("Core dump", ""), ("core dump", ""), ("dumped core", ""), ("code=dumped", "")],
    )
    .broad(),
    // Firmware, shim and boot loader. Firmware that tries a disk after the other says so of each.
    Check::new(
        "firmware found nothing to boot",
        &[
            ("No bootable device", ""),
            ("BdsDxe: ", "No bootable option or device was found"),
            ("No bootable medium found", ""),
            ("Missing operating system", ""),
            ("Operating system not found", ""),
            ("Operating System not found", ""),
        ],
    )
    .console_only()
    .fatal(Cause::Firmware),
    Check::new(
        "firmware cannot boot a disk",
        &[("Boot failed: ", "(.+)"), ("BdsDxe: ", "failed to (?:load|start) (.+)")],
    )
    .warns()
    .console_only(),
    Check::new(
        "firmware crash",
        &[
            ("X64 Exception Type - ", "([^!]+)"),
            ("Synchronous Exception at ", "(.+)"),
            ("ASSERT_EFI_ERROR ", "(.+)"),
        ],
    )
    .console_only()
    .fatal(Cause::Firmware),
    Check::new(
        "signature refused at boot",
        &[
            ("Verification failed: (0x1A) Security Violation", ""),
            ("bad shim signature", ""),
            ("has invalid signature", ""),
        ],
    )
    .console_only()
    .fatal(Cause::Firmware),
    Check::new(
        "GRUB cannot boot",
        &[
            ("Entering rescue mode...", ""),
            ("grub rescue>", ""),
            ("Minimal BASH-like line editing is supported", ""),
            ("you need to load the kernel first", ""),
        ],
    )
    .console_only()
    .fatal(Cause::Firmware),
    Check::new(
        "GRUB error",
        &[
            ("error: no such ", "((?:device|partition|disk).*)"),
            ("error: unknown filesystem", ""),
            ("error: file `", "(.+)' not found"),
            ("error: disk `", "(.+)' not found"),
            ("error: ../../grub-core/", "(.+)"),
        ],
    )
    .warns()
    .console_only(),
    // The kernel.
    Check::new("soft lockup", &[("BUG: ", r"soft lockup - (CPU#[0-9]+ stuck for .+)")])
        .fatal(Cause::KernelPanic),
    Check::new("hard lockup", &[("Watchdog detected hard LOCKUP on ", "(cpu *[0-9]+)")])
        .fatal(Cause::KernelPanic),
    Check::new("workqueue lockup", &[("BUG: ", "workqueue lockup - (.+)")]),
    Check::new("hung task", &[("INFO: task ", r"(.{1,80} blocked.* for more than [0-9]+ seconds)")]),
    Check::new(
        "RCU stall",
        &[
            ("self-detected stall on CPU", ""),
            ("detected stalls on CPUs/tasks", ""),
            ("detected expedited stalls on", ""),
            ("kthread starved for ", r"([0-9]+ jiffies)"),
        ],
    ),
    Check::new(
        "kernel page fault",
        &[
            ("BUG: ", "(unable to handle .+|kernel NULL pointer dereference.*)"),
            ("Unable to handle kernel ", "(.+)"),
        ],
    ),
    Check::new(
        "general protection fault",
        // Programs that crash so are followed by ` ip:`.
        &[("general protection fault", "(?:[,:].*)?$")],
    ),
    Check::new(
        "kernel bug",
        &[
            ("kernel BUG at ", "(.+)"),
            (
                "BUG: ",
                "((?:Bad |scheduling while atomic|sleeping function|spinlock |rwlock |Dentry |non-zero |Invalid wait|stack guard page|using (?:smp_processor_id|__this_cpu)).*)",
            ),
            ("PANIC: double fault", ""),
        ],
    ),
    Check::new("kernel sanitizer report", &[("BUG: ", "((?:KASAN|KFENCE|KMSAN|KCSAN): .+)")]),
    Check::new("kernel locking report", &[("WARNING: ", "((?:possible|suspicious|inconsistent) .+)")]),
    Check::new("undefined behaviour in the kernel", &[("UBSAN: ", "(.+)")]).warns(),
    Check::new("kernel memory leak", &[("kmemleak: ", "([0-9]+ new suspected memory leaks)")]).warns(),
    Check::new("hardware error", &[("[Hardware Error]: ", "(.+)")]).warns(),
    Check::new("network device stuck", &[("NETDEV WATCHDOG: ", "(.+)")]),
    Check::new("watchdog left running", &[("watchdog did not stop!", "")]).warns(),
    Check::new("out of memory", &[("Out of memory: Kill", r"(?:ed)? process [0-9]+ \(([^)]*)\)")]),
    Check::new("oom killer", &[("invoked oom-killer", ""), ("Memory cgroup out of memory: Kill", "")])
        .broad(),
    // Disks and file systems. CD and floppy drives without a medium fail to be read in healthy machines.
    Check::new(
        "disk I/O error",
        &[
            ("I/O error, dev ", "([^ ,]+), sector"),
            ("critical medium error, dev ", "([^ ,]+), sector"),
            ("Buffer I/O error on dev ", "([^ ,]+), logical block"),
            ("Buffer I/O error on device ", "([^ ,]+), logical block"),
            ("EXT4-fs warning (device ", r"([^)]+)\): .+ I/O error"),
        ],
    )
    .unless("(?:sr|fd)[0-9]"),
    Check::new("disk refused a request", &[("critical target error, dev ", "(.+)")]).warns(),
    Check::new(
        "file system corruption",
        &[
            ("EXT4-fs error (device ", r"([^)]+\): .+)"),
            ("Aborting journal on device ", "(.+)"),
            ("XFS (", r"[^)]+\): ((?:Corruption|Metadata corruption|Metadata CRC error|Internal error).*)"),
            ("BTRFS critical (device ", "(.+)"),
            ("BTRFS: error (device ", "(.+)"),
            ("UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY", ""),
            ("FAT-fs (", r"[^)]+\): (error.+)"),
        ],
    ),
    Check::new(
        "file system became read-only",
        &[
            ("Remounting filesystem read-only", ""),
            ("Filesystem has been set read-only", ""),
            ("forced readonly", ""),
            ("Filesystem has been shut down", ""),
            ("Shutting down filesystem", ""),
        ],
    ),
    Check::new(
        "file system was not unmounted",
        &[("Volume was not properly unmounted", ""), ("warning: mounting fs with errors", "")],
    )
    .warns(),
    Check::new(
        "dm-verity corruption",
        &[("device-mapper: verity: ", r"([0-9]+:[0-9]+: (?:data|metadata) block [0-9]+ is corrupted)")],
    ),
    Check::new("no space left", &[("No space left on device", "")]).warns().means(Cause::DiskFull),
    // Initramfs.
    Check::new(
        IGNITION_FAILURE,
        &[("CRITICAL : ", "(.+)"), ("Ignition has failed", ""), ("Ignition failed (stage ", r"([^)]+)\)")],
    )
    .off_by(Flag::NoEmergencyShellCheck)
    .fatal(Cause::Ignition),
    Check::new(
        "dracut fatal",
        &[
            ("dracut: Refusing to continue", ""),
            ("dracut: FATAL: ", "(.+)"),
            ("Warning: Could not boot.", ""),
        ],
    )
    .off_by(Flag::NoEmergencyShellCheck)
    .fatal(Cause::Initramfs),
    Check::new(
        "initramfs gave up",
        &[
            ("Dropping to a shell!", ""),
            ("Gave up waiting for ", "(root .+|suspend.+)"),
            ("Failed to switch root: ", "(.+)"),
            ("switch_root: failed to ", "(.+)"),
        ],
    )
    .off_by(Flag::NoEmergencyShellCheck)
    .fatal(Cause::Initramfs),
    Check::new("dracut waits", &[("starting timeout scripts", "")]).warns(),
    // systemd.
    Check::new(
        "systemd froze",
        &[("systemd[1]: Freezing execution", ""), ("Failed to isolate default target", "")],
    )
    .fatal(Cause::Boot),
    Check::new("systemd crash", &[("systemd[1]: Caught <", "(.+)")]),
    Check::new(
        "systemd ordering cycle",
        &[
            ("Ordering cycle found, ", "(.+)"),
            ("Found ordering cycle on ", "(.+)"),
            ("deleted to break ordering cycle starting with ", "(.+)"),
        ],
    )
    .broad(),
    Check::new(
        "systemd generator failure",
        &[(
            "/system-generators/",
            "([^ ]+ (?:failed with exit status|terminated by signal|failed due to unknown reason).*)",
        )],
    )
    .warns(),
    Check::new(
        "systemd unit failed to start",
        &[
            ("Failed to start ", "(.+)"),
            ("Failed to mount ", "(.+)"),
            ("Failed to listen on ", "(.+)"),
            ("Failed to activate swap ", "(.+)"),
        ],
    )
    .unless("CoreOS Static Network Agent")
    .warns(),
    Check::new("systemd dependency failed", &[("Dependency failed for ", "(.+)")]).warns(),
    Check::new("systemd waited in vain", &[("Timed out waiting for device ", "(.+)")]).warns(),
    Check::new("unit restarts too often", &[("Start request repeated too quickly", "")]).warns(),
    Check::new("service watchdog timeout", &[("Watchdog timeout (limit ", r"([^)]+)\)")]).warns(),
    // Programs.
    Check::new(
        "program crash",
        &[
            ("segfault at ", "([0-9a-f]+ ip [0-9a-f]+)"),
            ("=4/ILL", ""),
            ("=6/ABRT", ""),
            ("=7/BUS", ""),
            ("=8/FPE", ""),
            ("traps: ", "(.+) ip:"),
        ],
    )
    .broad(),
    Check::new(
        "heap or stack corruption",
        &[
            ("*** stack smashing detected ***", ""),
            ("double free or corruption", ""),
            ("free(): invalid ", "(.+)"),
            ("malloc(): ", "((?:corrupted|invalid|memory corruption|unaligned).*)"),
            ("corrupted size vs. prev_size", ""),
        ],
    )
    .broad(),
    Check::new("Rust panic", &[("panicked at ", "(.+)")]).broad(),
    Check::new("SELinux denial", &[("avc:", " +denied +(.+)")]).warns(),
];
