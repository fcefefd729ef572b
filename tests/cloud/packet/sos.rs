//! The host of serial consoles: OpenSSH, with each device for a user, whose shell shows the console.

use crate::support::machines::Sshd;

/// What the console shows before the image's kernel starts.
pub const INSTALLER: &str =
    "Linux version 0 (the installer)\nIgnition: writes the image\nGNU GRUB  version 2.02\n";
/// What the image's kernel says first.
pub const KERNEL: &str = "Linux version 6 (the image)\n";

/// The host; sessions end with it.
pub struct Sos(Sshd);

impl Sos {
    pub fn start() -> Self {
        let (installer, kernel) = (INSTALLER.trim_end(), KERNEL.trim_end());
        let script = format!(
            "#!/bin/sh\ncd \"${{0%/*}}\"\necho '{installer}'\necho '{kernel}'\nwhile [ -e of-$USER ]; do sleep 0.02; done\n\
             cat end-$USER\n"
        );
        Self(Sshd::start("", "", &script))
    }

    /// Where it is.
    pub fn address(&self) -> String {
        self.0.address()
    }

    fn write(&self, name: &str, text: &[u8]) {
        // Whole, or not at all: sessions read it at any moment.
        let path = self.0.file(name);
        let new = path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    /// The keys that open all consoles.
    pub fn keys(&self, keys: &str) {
        self.write("keys", keys.as_bytes());
    }

    /// The console of a new device.
    pub fn add(&self, device: &str) {
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
        let own = std::fs::read_to_string(self.0.file("passwd")).unwrap();
        let others = if own.is_empty() { passwd } else { own };
        self.write("passwd", format!("{others}{device}:x:500:500::/:/bin/sh\n").as_bytes());
        self.write(&format!("of-{device}"), b"");
    }

    /// The end of a device, which has said this at last.
    pub fn end(&self, device: &str, last: &[u8]) {
        self.write(&format!("end-{device}"), last);
        let _ = std::fs::remove_file(self.0.file(&format!("of-{device}")));
    }
}
