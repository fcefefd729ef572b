//! What a device boots: an iPXE script that starts an installer, and the installer's userdata, which holds ours.

use openssl::base64::encode_block;
use serde_json::json;

use crate::conf::{Kind, UserData};

/// What depends on the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Board {
    /// Kind of machine.
    pub plan: &'static str,
    /// Folder of the installer's kernel and initramfs.
    pub installer: &'static str,
    /// What is installed.
    pub image: &'static str,
    /// The kernel's console.
    console: &'static str,
}

/// The defaults of a board; none if it is not known.
pub fn board(name: &str) -> Option<Board> {
    match name {
        "amd64-usr" => Some(Board {
            plan: "baremetal_0",
            installer: "http://stable.release.core-os.net/amd64-usr/current",
            image: "https://alpha.release.core-os.net/amd64-usr/current/coreos_production_packet_image.bin.bz2",
            console: "ttyS1,115200",
        }),
        "arm64-usr" => Some(Board {
            plan: "baremetal_2a",
            installer: "http://beta.release.core-os.net/arm64-usr/current",
            image: "https://alpha.release.core-os.net/arm64-usr/current/coreos_production_packet_image.bin.bz2",
            console: "ttyAMA0,115200",
        }),
        _ => None,
    }
}

/// Refuses what iPXE cannot load.
///
/// # Errors
/// What is wrong.
pub fn check_installer(url: &str) -> Result<(), String> {
    match url.split_once("://") {
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("http") => Ok(()),
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
            Err(format!("{url}: iPXE does not load by https: name a place for http"))
        }
        _ => Err(format!("{url} is no URL that iPXE can load: http://…")),
    }
}

/// The iPXE script.
pub fn ipxe(installer: &str, userdata_url: &str, board: &Board) -> String {
    format!(
        "#!ipxe\n\
         set base-url {}\n\
         kernel ${{base-url}}/coreos_production_pxe.vmlinuz initrd=coreos_production_pxe_image.cpio.gz \
         coreos.first_boot=1 coreos.config.url={userdata_url} console={}\n\
         initrd ${{base-url}}/coreos_production_pxe_image.cpio.gz\n\
         boot\n",
        installer.trim_end_matches('/'),
        board.console
    )
}

/// The userdata of the installer, which writes the image to disk with `user_data` for its own first boot.
///
/// As long as it works sshd does not answer, and a connection to the discard port stays open.
pub fn installer(user_data: &str, image: &str) -> String {
    let kind = UserData::detect(user_data.as_bytes()).map(|u| u.kind());
    let option = match kind {
        Ok(Kind::Ignition | Kind::Empty) => "-i",
        // The other document keeps the image's own unit for cloud-configs from taking over.
        _ => "-i /noop.ign -c",
    };
    // systemd's specifiers, variables and quoting.
    let image = image.replace('%', "%%").replace('$', "$$").replace('\\', "\\\\").replace('"', "\\\"");
    let install = format!(
        "[Unit]\nDescription=Installs the image\nRequires=network-online.target\nAfter=network-online.target\n\
         Requires=dev-sda.device\nAfter=dev-sda.device\n\n\
         [Service]\nType=oneshot\nEnvironment=PATH=/root/bin:/usr/sbin:/usr/bin\n\
         StandardOutput=journal+console\nStandardError=journal+console\n\
         ExecStart=/usr/bin/curl -fo image.bin.bz2 \"{image}\"\n\
         ExecStart=/usr/bin/coreos-install -d /dev/sda -f image.bin.bz2 {option} /userdata\n\
         ExecStart=/usr/bin/systemctl --no-block isolate reboot.target\n\n\
         [Install]\nRequiredBy=multi-user.target\n"
    );
    let discard = "[Unit]\nDescription=Discard socket\n\n[Socket]\nListenStream=0.0.0.0:9\nAccept=true\n\n\
                   [Install]\nWantedBy=multi-user.target\n";
    let discarding = "[Unit]\nDescription=Discard service\n\n[Service]\nExecStart=/usr/bin/cat\n\
                      StandardInput=socket\nStandardOutput=null\n";
    let file = |path: &str, mode: u32, text: &str| {
        let source = format!("data:;base64,{}", encode_block(text.as_bytes()));
        json!({"filesystem": "root", "path": path, "mode": mode, "contents": {"source": source}})
    };
    json!({
        "ignition": {"version": "2.0.0"},
        "storage": {"files": [
            file("/userdata", 0o644, user_data),
            file("/noop.ign", 0o644, r#"{"ignition":{"version":"2.1.0"}}"#),
            // The installer would have the cloud-config checked by a program that knows less than the image.
            file("/root/bin/coreos-cloudinit", 0o755, "#!/bin/sh\nexit 0\n"),
        ]},
        "systemd": {"units": [
            {"name": "sshd.socket", "mask": true},
            {"name": "sshd.service", "mask": true},
            {"name": "discard.socket", "enable": true, "contents": discard},
            {"name": "discard@.service", "contents": discarding},
            {"name": "coreos-install.service", "enable": true, "contents": install},
        ]},
    })
    .to_string()
}
