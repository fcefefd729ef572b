//! The table of what is bad in a console or journal.

/// Which text a line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The serial console: firmware, boot loader, kernel, whatever init shows.
    Console,
    /// The journal: kernel and services.
    Journal,
}

/// What a finding does to a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The test fails.
    Fail,
    /// The test's output tells it.
    Warn,
}

/// A property of a test that turns checks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Every match starts with one of these texts. They should be rare: each occurrence costs a closer look.
    pub(super) starts: &'static [&'static str],
    /// What must follow the start up to the end of the line (without CR), if anything; group 1 is shown.
    pub(super) rest: Option<&'static str>,
    /// How many matches make a finding.
    pub(super) times: u32,
}

impl Check {
    /// The defaults of the table: fails everywhere, on its start alone, at first sight.
    const fn new(label: &'static str, starts: &'static [&'static str]) -> Self {
        let fail = Some(Severity::Fail);
        Self { label, console: fail, journal: fail, off_by: None, starts, rest: None, times: 1 }
    }

    const fn then(mut self, rest: &'static str) -> Self {
        self.rest = Some(rest);
        self
    }

    /// Only a warning in journals: services and tests may well write such lines, which upstream never checked.
    const fn broad(mut self) -> Self {
        self.journal = Some(Severity::Warn);
        self
    }

    /// What a finding in this source means; `None`: not looked for.
    pub fn severity(&self, source: Source) -> Option<Severity> {
        match source {
            Source::Console => self.console,
            Source::Journal => self.journal,
        }
    }
}

/// The checks of v0.12.0. Upstream never got to scan journals; they begin with the kernel's and the initramfs'.
pub static CHECKS: &[Check] = &[
    Check {
        off_by: Some(Flag::NoEmergencyShellCheck),
        ..Check::new(
            "emergency shell",
            &["Press Enter for emergency shell", "Starting Emergency Shell", "You are in emergency mode"],
        )
    },
    Check::new("kernel panic", &["Kernel panic - not syncing: "]).then("(.*)"),
    Check::new("kernel oops", &["Oops:"]),
    Check::new("kernel warning", &["WARNING: CPU: "]).then(r"[0-9]+ PID: [0-9]+ at (.+)"),
    Check::new("failure of disk under I/O", &["rejecting I/O to offline device"]),
    Check::new(
        "coreos-metadata failure to set up initramfs network",
        &["Failed to start CoreOS Static Network Agent"],
    )
    .broad(),
    Check {
        times: 10,
        ..Check::new("excessive bonding link status messages", &["link status up for interface "])
            .then(r"[^,]{1,256}, enabling it in [0-9]+ ms")
    },
    Check::new("ext4 delayed allocation failure", &["EXT4-fs ("]).then(
        r"[^()]{0,256}\): Delayed block allocation failed for inode [0-9]+ at logical offset [0-9]+ with max blocks [0-9]+ with (error [0-9]+)",
    ),
    // The boot loader writes to the console only.
    Check {
        journal: None,
        ..Check::new("GRUB memory corruption", &["alloc magic ", "free magic "]).then(r"(?:is )?broken")
    },
    Check::new("Ignition fetch cancellation race", &["ignition["])
        .then(r"[0-9]+\]: failed to fetch config: context canceled"),
    Check::new(
        "initrd-cleanup.service terminated",
        &["initrd-cleanup.service: Main process exited, code=killed, status=15/TERM"],
    ),
    Check::new("bad page table", &["mm/pgtable-generic"]).then(r".c:[0-9]+: bad (p.d|pte)"),
    Check::new("Go panic", &["panic: "]).then("(.*)").broad(),
    Check::new("segfault", &["SIGSEGV", "=11/SEGV"]).broad(),
    Check::new("core dump", &["Core dump", "core dump"]).broad(),
];
