//! Why a machine is of no use: one word for reports and programs, and a text for people.

use std::fmt;

/// What became of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cause {
    /// Nobody can tell.
    #[default]
    Lost,
    /// What it runs on has ended it: its virtual machine program died, its host has no room.
    Died,
    /// It has ended itself.
    Ended,
    /// Its firmware or boot loader found nothing to boot, or something that it refused.
    Firmware,
    /// Its kernel gave up, or hangs.
    KernelPanic,
    /// Its initramfs found no root file system, or never got that far.
    Initramfs,
    /// Ignition could not do what the config asks for.
    Ignition,
    /// It waits for somebody at its console.
    EmergencyShell,
    /// Its boot did not come to an end.
    Boot,
    /// A unit has failed.
    UnitFailed,
    /// There is no room on its disk.
    DiskFull,
    /// It cannot be reached.
    NoNetwork,
    /// It can be reached, and nobody can log in.
    NoSsh,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Lost,
        Self::Died,
        Self::Ended,
        Self::Firmware,
        Self::KernelPanic,
        Self::Initramfs,
        Self::Ignition,
        Self::EmergencyShell,
        Self::Boot,
        Self::UnitFailed,
        Self::DiskFull,
        Self::NoNetwork,
        Self::NoSsh,
    ];

    /// As reports have it: `kernel-panic`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Died => "machine-died",
            Self::Ended => "machine-ended",
            Self::Firmware => "firmware",
            Self::KernelPanic => "kernel-panic",
            Self::Initramfs => "initramfs",
            Self::Ignition => "ignition",
            Self::EmergencyShell => "emergency-shell",
            Self::Boot => "boot",
            Self::UnitFailed => "unit-failed",
            Self::DiskFull => "disk-full",
            Self::NoNetwork => "no-network",
            Self::NoSsh => "no-ssh",
        }
    }

    /// What it means, in a sentence.
    pub fn about(self) -> &'static str {
        match self {
            Self::Lost => "It is lost; nobody can tell how.",
            Self::Died => {
                "What it runs on has ended it: its virtual machine program died, or its host has no room. This is INFRA."
            }
            Self::Ended => "It has ended itself: it was powered off from inside.",
            Self::Firmware => {
                "Its firmware or boot loader found nothing to boot, or something that it refused."
            }
            Self::KernelPanic => "Its kernel has panicked, or hangs.",
            Self::Initramfs => "Its boot did not get beyond the initramfs.",
            Self::Ignition => "Ignition could not do what the config asks for.",
            Self::EmergencyShell => "It waits for somebody at its console.",
            Self::Boot => "Its boot did not come to an end.",
            Self::UnitFailed => "A unit has failed in its boot.",
            Self::DiskFull => "Something found no room on its disk.",
            Self::NoNetwork => "It cannot be reached.",
            Self::NoSsh => "It can be reached, and nobody can log in.",
        }
    }

    /// Whether what the machine runs on has failed: this tells nothing about the machine's system.
    pub fn is_of_host(self) -> bool {
        self == Self::Died
    }

    /// What a console tells of a machine that cannot be reached, where it tells that the boot did not get far; else
    /// `None`. `console` is all that it has said.
    pub fn of_console(console: &[u8]) -> Option<Self> {
        let has = |marks: &[&str]| {
            marks.iter().any(|mark| memchr::memmem::find(console, mark.as_bytes()).is_some())
        };
        // A console that has said nothing may be one that nobody writes to.
        if console.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        // The kernel's first line, one with its time, and what user space says.
        let kernel = has(&["Linux version ", "[    0.", "[    1.", "systemd[1]", "[  OK  ]", "login: "]);
        let initramfs =
            has(&["rootfs image as initramfs", "Run /init as", "Loading, please wait", "dracut", "initrd"]);
        let manager = has(&["systemd[1]: "]) && !has(&["Running in initrd", "Running in initial RAM disk"]);
        let left = manager || has(&["witching root", "initrd-switch-root.service", "login: "]);
        match (kernel, left, initramfs) {
            (false, ..) => Some(Self::Firmware),
            (true, false, true) => Some(Self::Initramfs),
            _ => None,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl serde::Serialize for Cause {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A cause with what is known of it: a sentence, and the evidence in the lines below.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Diagnosis {
    /// In a word.
    pub cause: Cause,
    /// For people.
    pub text: String,
}

impl Diagnosis {
    /// A diagnosis.
    pub fn new(cause: Cause, text: impl Into<String>) -> Self {
        Self { cause, text: text.into() }
    }

    /// The same with another text.
    #[must_use]
    pub fn told(self, text: impl FnOnce(String) -> String) -> Self {
        Self { text: text(self.text), ..self }
    }

    /// That in a chain of errors, if there is one.
    pub fn among<'a>(
        chain: impl IntoIterator<Item = &'a (dyn std::error::Error + 'static)>,
    ) -> Option<&'a Self> {
        chain.into_iter().find_map(|error| error.downcast_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_a_word_of_its_own() {
        let words: std::collections::BTreeSet<_> = Cause::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(words.len(), Cause::ALL.len());
    }

    #[test]
    fn consoles_tell_how_far_a_boot_got() {
        let tell = |text: &str| Cause::of_console(text.as_bytes());
        assert_eq!(tell(" \r\n"), None);
        assert_eq!(tell("SeaBIOS (version 1.16)\r\nBooting from Hard Disk...\r\n"), Some(Cause::Firmware));
        let kernel = "SeaBIOS\r\n[    0.000000] Linux version 6.1.0\r\n";
        assert_eq!(tell(kernel), None, "a kernel without an initramfs may be quiet");
        let initramfs =
            format!("{kernel}Loading, please wait...\r\nBegin: Mounting root file system ...\r\n");
        assert_eq!(tell(&initramfs), Some(Cause::Initramfs));
        assert_eq!(tell(&format!("{initramfs}[    9.0] systemd[1]: Hostname set to <x>.\r\n")), None);
        let own = format!("{kernel}[    8.0] systemd[1]: Running in initrd.\r\n");
        assert_eq!(tell(&own), Some(Cause::Initramfs));
        assert_eq!(tell(&format!("{own}[    9.0] systemd[1]: Switching root.\r\n")), None);
    }
}
