//! Updating a machine of Container Linux: what `kola updatepayload`, `kola spawn --omaha-package` and the tests of
//! updates do to it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use color_eyre::Section as _;
use color_eyre::eyre::{Result, WrapErr as _, bail, ensure, eyre};
use mantle::platform::guest::Guest;
use mantle::platform::local::Local;
use mantle::text::chain;
use mantle::{omaha, ssh, update};
use tokio_util::sync::CancellationToken;

use super::options::Setup;

/// The name under which a payload is offered.
pub const PACKAGE: &str = "update.gz";
const CONF: &str = "/etc/coreos/update.conf";
/// Where update_engine looks for the key that payloads are signed with.
const KEY: &str = "/usr/share/update_engine/update-payload-key.pub.pem";
/// Time between two looks at update_engine.
const PAUSE: Duration = Duration::from_secs(10);

/// Refuses platforms whose machines do not reach a server of this process.
///
/// # Errors
/// On all but those with a private network; `what` is what needs it.
pub fn check_platform(setup: &Setup, what: &str) -> Result<()> {
    match setup.driver.name {
        "qemu" | "nspawn" => Ok(()),
        name => Err(eyre!("{what} is currently only supported on qemu, not on platform {name}")
            .note("machines have to reach kola's Omaha server: platform nspawn has a private network, too")),
    }
}

/// The full update of an SDK build, `latest` or a version; made unless it is there.
///
/// # Errors
/// `Building full update failed: …`.
pub async fn build(board: &str, version: &str, cancel: &CancellationToken) -> Result<PathBuf> {
    let made = async {
        let folder = mantle::sdk::image_dir(board, version)?;
        let (key, generator) = (update::PRIVATE_KEY.as_ref(), update::Generator::find());
        Ok::<_, color_eyre::Report>(update::full_update(&folder, key, &generator, cancel).await?)
    };
    made.await.wrap_err("Building full update failed").suggestion(
        "this needs an image build of the SDK and its key; `kola updatepayload --payload` takes a payload",
    )
}

/// An Omaha server that offers a payload.
///
/// # Errors
/// `bad payload: …`, or when it cannot be started.
pub async fn serve(local: &Local, payload: &std::path::Path) -> Result<omaha::Running> {
    let running = local.omaha().await.wrap_err("getting Omaha server address")?;
    running.server.add_package(payload, PACKAGE).await.wrap_err("bad payload")?;
    Ok(running)
}

/// Tells a machine where to ask for updates.
///
/// # Errors
/// `Setting update.conf: …`.
pub async fn set_server(machine: &Guest, url: &str) -> Result<()> {
    let text = format!("GROUP=developer\nSERVER={url}\n");
    ssh::install_file(machine.client(), text, CONF, 0o644).await.wrap_err("Setting update.conf")
}

/// Makes a machine take updates from a server, signed with the developer key, and not reboot by itself for them. By
/// SSH, since this has to work on images older than any userdata that could do it. The key is gone after a reboot.
///
/// # Errors
/// When a step fails.
pub async fn configure(machine: &Guest, url: &str) -> Result<()> {
    set_server(machine, url).await?;
    let own = "/etc/coreos/update-payload-key.pub.pem";
    ssh::install_file(machine.client(), update::DEVELOPER_KEY, own, 0o644)
        .await
        .wrap_err("installing the key of updates")?;
    // Not failed is what is wanted, so a unit that systemd has not heard of is well.
    let script = format!(
        "sudo mount --bind {own} {KEY} && sudo systemctl mask --now locksmithd.service && \
         {{ sudo systemctl reset-failed locksmithd.service 2>/dev/null || :; }} && \
         sudo systemctl restart update-engine.service"
    );
    machine.ssh(&script).await.wrap_err("switching update_engine to the server")?;
    Ok(())
}

/// Has a machine update itself and boots into what it got.
///
/// # Errors
/// When update_engine is not done within `limit`, or the machine does not come back.
pub async fn update(machine: &Guest, limit: Duration) -> Result<()> {
    machine.ssh("update_engine_client -check_for_update").await.wrap_err("checking for an update")?;
    let deadline = tokio::time::Instant::now() + limit;
    let mut pause = Duration::from_millis(500);
    loop {
        tokio::time::sleep(pause.min(PAUSE)).await;
        pause *= 2;
        let text = machine.ssh("update_engine_client -status 2>/dev/null").await;
        let status = operation(&text.wrap_err("asking update_engine for its status")?.stdout);
        if status == "UPDATE_STATUS_UPDATED_NEED_REBOOT" {
            break;
        }
        ensure!(
            tokio::time::Instant::now() < deadline,
            "failed to complete within {} s, current status {status}",
            limit.as_secs()
        );
    }
    machine.reboot().await.wrap_err("booting the update")
}

/// What update_engine is doing, of its `KEY=VALUE` lines.
fn operation(status: &str) -> String {
    let pairs: HashMap<&str, &str> = status.lines().filter_map(|line| line.trim().split_once('=')).collect();
    pairs.get("CURRENT_OP").map_or("unknown", |value| value).to_owned()
}

/// The halves of `/usr`: one is booted, and one is there for the next update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usr {
    /// The one that an image comes with.
    A,
    /// The other one.
    B,
}

impl Usr {
    /// The label of its partition.
    pub fn label(self) -> &'static str {
        match self {
            Self::A => "USR-A",
            Self::B => "USR-B",
        }
    }

    /// Both, with the ids of their partitions.
    const ALL: [(Self, &str); 2] = [
        (Self::A, "7130c94a-213a-4e5a-8e26-6cce9662f132"),
        (Self::B, "e03dd35c-7c2d-4a47-b3fe-27f15780a57c"),
    ];

    /// The one that a kernel command line names.
    fn of_command_line(line: &str) -> Result<Self> {
        let value = |key: &str| line.split_whitespace().find_map(|w| w.strip_prefix(key)?.strip_prefix('='));
        let value = ["mount.usr", "verity.usr", "usr"].into_iter().find_map(value);
        let named = |value: &str| {
            Self::ALL.into_iter().find(|(usr, id)| {
                value.strip_prefix("PARTUUID=").is_some_and(|v| v.eq_ignore_ascii_case(id))
                    || value.strip_prefix("PARTLABEL=") == Some(usr.label())
            })
        };
        match value.and_then(named) {
            Some((usr, _)) => Ok(usr),
            None => {
                let [(_, a), (_, b)] = Self::ALL;
                bail!(
                    "mount.usr not one of \"PARTUUID={a}\", \"PARTUUID={b}\", \"PARTLABEL=USR-A\", \
                     \"PARTLABEL=USR-B\": {line:?}"
                )
            }
        }
    }
}

/// Requires that the bootloader chose this half.
///
/// # Errors
/// When it did not.
pub async fn check_command_line(machine: &Guest, wanted: Usr) -> Result<()> {
    let line = machine.ssh("cat /proc/cmdline").await?.stdout;
    let got = Usr::of_command_line(&line)?;
    ensure!(got == wanted, "booted from {}, expected {}", got.label(), wanted.label());
    Ok(())
}

/// Requires that `/usr` is this half, whatever the bootloader was told.
///
/// # Errors
/// When it is not.
pub async fn check_mount(machine: &Guest, wanted: Usr) -> Result<()> {
    let ask = async |command: &str| -> Result<String> {
        let answer = machine.ssh(command).await;
        Ok(answer
            .map_err(|e| eyre!("{command:?} failed: output {}, status {}", e.stdout(), chain(&e)))?
            .stdout)
    };
    let mut device = ask("findmnt -no SOURCE /usr").await?;
    if device == "/dev/mapper/usr" {
        device = ask("echo -n /dev/$(sudo dmsetup info --noheadings -Co blkdevs_used usr)").await?;
    }
    let label = wanted.label();
    let expected = ask(&format!("readlink -f /dev/disk/by-partlabel/{label}")).await?;
    ensure!(device == expected, "/usr is {device}, expected {label}, which is {expected}");
    Ok(())
}

/// Lets a machine that runs from USR-B never go back to USR-A, so that only an update can bring that back.
///
/// # Errors
/// `invalidating USR-A failed: …`.
pub async fn invalidate_a(machine: &Guest) -> Result<()> {
    // Its first MiB has the file system's superblock. wipefs without --all, as upstream has it, only shows it.
    let script = "sudo coreos-setgoodroot && \
         sudo dd if=/dev/zero of=/dev/disk/by-partlabel/USR-A bs=1M count=1 conv=notrunc,fsync status=none && \
         sudo head -c 1048576 /dev/disk/by-partlabel/USR-A | cmp -n 1048576 - /dev/zero";
    machine.ssh(script).await.wrap_err("invalidating USR-A failed")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_half_is_read_off_the_command_line() {
        let of = |line: &str| Usr::of_command_line(line).map_err(|e| e.to_string());
        for (line, usr) in [
            ("a mount.usr=PARTLABEL=USR-A b", Usr::A),
            ("verity.usr=PARTUUID=e03dd35c-7c2d-4a47-b3fe-27f15780a57c", Usr::B),
            ("usr=PARTUUID=7130C94A-213A-4E5A-8E26-6CCE9662F132", Usr::A),
            ("usr=PARTLABEL=USR-A mount.usr=PARTLABEL=USR-B", Usr::B),
        ] {
            assert_eq!(of(line), Ok(usr), "{line}");
        }
        for line in ["", "mount.usr=/dev/sda3", "mount.usr=PARTLABEL=USR-C", "mount.usrflags=PARTLABEL=USR-A"]
        {
            let text = of(line).unwrap_err();
            assert!(text.starts_with("mount.usr not one of \"PARTUUID=7130"), "{text}");
        }
    }

    #[test]
    fn strange_lines_of_update_engine_are_passed_over() {
        let text = "LAST_CHECKED_TIME=1\nnonsense\n\nCURRENT_OP=UPDATE_STATUS_IDLE\nNEW_SIZE=0\n";
        assert_eq!(operation(text), "UPDATE_STATUS_IDLE");
        assert_eq!(operation(""), "unknown");
    }
}
