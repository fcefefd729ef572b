//! The host of serial consoles: OpenSSH, with each device for a user, whose shell shows the console.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::support::machines::Port;

/// What the console shows before the image's kernel starts.
pub const INSTALLER: &str =
    "Linux version 0 (the installer)\nIgnition: writes the image\nGNU GRUB  version 2.02\n";
/// What the image's kernel says first.
pub const KERNEL: &str = "Linux version 6 (the image)\n";

/// The host; sessions end with it.
pub struct Sos {
    port: Port,
    folder: tempfile::TempDir,
    sessions: Arc<Mutex<Vec<Child>>>,
}

impl Sos {
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("mantle-sos-").tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let (installer, kernel) = (INSTALLER.trim_end(), KERNEL.trim_end());
        write(
            "script",
            &format!(
                "#!/bin/sh\necho '{installer}'\necho '{kernel}'\nwhile [ -e {0}/of-$USER ]; do sleep 0.02; done\n\
                 cat {0}/end-$USER\n",
                folder.path().display()
            ),
        );
        write("passwd", "");
        write("keys", "");
        write(
            "config",
            &format!(
                "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nLogLevel ERROR\nForceCommand /bin/sh {}\n",
                at("host"),
                at("keys"),
                at("script")
            ),
        );
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let words = ["-q", "-t", "ed25519", "-N", "", "-f", &at("host")];
        assert!(Command::new("ssh-keygen").args(words).status().unwrap().success());
        std::fs::create_dir_all("/run/sshd").unwrap();
        let script =
            format!("mount --bind {} /etc/passwd; exec /usr/sbin/sshd -i -f {}", at("passwd"), at("config"));
        let sessions = Arc::new(Mutex::new(Vec::<Child>::new()));
        let own = sessions.clone();
        let port = Port::new(move |stream| {
            let socket = OwnedFd::from(stream);
            let child = Command::new("unshare")
                .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", &script])
                .stdin(Stdio::from(socket.try_clone().unwrap()))
                .stdout(Stdio::from(socket))
                .stderr(Stdio::null())
                .spawn();
            if let Ok(child) = child {
                let mut all = own.lock().unwrap();
                all.retain_mut(|c| matches!(c.try_wait(), Ok(None)));
                all.push(child);
            }
        });
        Self { port, folder, sessions }
    }

    /// Where it is.
    pub fn address(&self) -> String {
        self.port.address.to_string()
    }

    fn write(&self, name: &str, text: &[u8]) {
        // Whole, or not at all: sessions read it at any moment.
        let path = self.folder.path().join(name);
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
        let own = std::fs::read_to_string(self.folder.path().join("passwd")).unwrap();
        let others = if own.is_empty() { passwd } else { own };
        self.write("passwd", format!("{others}{device}:x:500:500::/:/bin/sh\n").as_bytes());
        self.write(&format!("of-{device}"), b"");
    }

    /// The end of a device, which has said this at last.
    pub fn end(&self, device: &str, last: &[u8]) {
        self.write(&format!("end-{device}"), last);
        let _ = std::fs::remove_file(self.folder.path().join(format!("of-{device}")));
    }
}

impl Drop for Sos {
    fn drop(&mut self) {
        self.port_closed();
    }
}

impl Sos {
    fn port_closed(&self) {
        for mut child in std::mem::take(&mut *self.sessions.lock().unwrap()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
