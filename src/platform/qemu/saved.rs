//! The state of a booted machine, saved once, and started from any number of times.
//!
//! A state is files without names: the memory, which machines map copy-on-write; the registers and devices, as QEMU's
//! migration writes them; the disk. The network card is taken out before and put in anew, so that each machine has an
//! address of its own: QEMU restores that of the saved card whatever it is told.
//! <https://www.qemu.org/docs/master/devel/migration/main.html>, and `x-ignore-shared` in its QMP reference.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::command::NIC;
use super::qmp;
use crate::platform::{Error, Result, ResultExt};

/// Longest wait for the guest to let go of its network card, or for QEMU to write or read a state, on bare hardware.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often QEMU is asked how far it is.
const PACE: Duration = Duration::from_millis(20);

/// What machines are started from.
#[derive(Debug)]
pub struct Saved {
    /// Contents of the memory.
    pub memory: File,
    /// Registers and devices.
    pub devices: File,
    /// The primary disk, a qcow2 file above the image.
    pub disk: File,
    /// What the console had said.
    pub console: Vec<u8>,
    /// In MiB.
    pub memory_mib: u32,
    /// Virtual CPUs.
    pub cpus: u32,
}

/// A file of this process by a name under which its children can open it.
fn path(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

fn refused(what: &str) -> impl FnOnce() -> String + '_ {
    move || format!("qemu cannot {what}")
}

/// Takes the guest's network card out, stops it, and writes its registers and devices to a file. The guest runs, and
/// has the card, before; then QEMU only waits for its end.
///
/// # Errors
/// When the guest does not let go of the card, or QEMU cannot write the state.
pub async fn save(monitor: &mut qmp::Client, devices: &File, slowness: f64) -> Result<()> {
    let (card, net) = NIC;
    monitor
        .execute("device_del", json!({ "id": card }))
        .await
        .during(refused("take the network card out"))?;
    let gone = async {
        loop {
            let event = monitor.event().await?;
            if event.name == "DEVICE_DELETED" && event.data["device"] == card {
                return Ok::<_, qmp::Error>(());
            }
        }
    };
    match tokio::time::timeout(PATIENCE.mul_f64(slowness), gone).await {
        Ok(gone) => gone.during(refused("take the network card out"))?,
        Err(_) => return Err(Error::new("the guest does not let go of its network card")),
    }
    monitor.execute("netdev_del", json!({ "id": net })).await.during(refused("take the network away"))?;
    monitor.execute("stop", json!({})).await.during(refused("stop the guest"))?;
    ignore_memory(monitor).await?;
    let uri = format!("exec:cat >{}", path(devices));
    monitor.execute("migrate", json!({ "uri": uri })).await.during(refused("write the state"))?;
    until(monitor, slowness, "query-migrate", |answer| match answer["status"].as_str() {
        Some("completed") => Some(Ok(())),
        Some("failed" | "cancelled") => {
            let why = answer["error-desc"].as_str().unwrap_or("it does not say why");
            Some(Err(Error::new(format!("qemu cannot write the state: {why}"))))
        }
        _ => None,
    })
    .await?;
    // It may close its monitor before it answers.
    let _ = monitor.execute("quit", json!({})).await;
    Ok(())
}

/// Gives a machine that waits for it a state, and a network card with this address; then it runs.
///
/// # Errors
/// When QEMU cannot read the state, or has other devices than those of the state.
pub async fn wake(monitor: &mut qmp::Client, saved: &Saved, mac: Option<&str>, slowness: f64) -> Result<()> {
    ignore_memory(monitor).await?;
    let uri = format!("exec:cat {}", path(&saved.devices));
    monitor.execute("migrate-incoming", json!({ "uri": uri })).await.during(refused("read the state"))?;
    until(monitor, slowness, "query-status", |answer| (answer["status"] != "inmigrate").then_some(Ok(())))
        .await?;
    let (card, net) = NIC;
    let mut device = json!({ "driver": "virtio-net-pci", "netdev": net, "id": card, "romfile": "" });
    if let Some(mac) = mac {
        device["mac"] = mac.into();
    }
    monitor.execute("device_add", device).await.during(refused("put a network card in"))?;
    monitor.execute("cont", json!({})).await.during(refused("let the guest run"))?;
    Ok(())
}

/// Memory is in its own file, not among the devices.
async fn ignore_memory(monitor: &mut qmp::Client) -> Result<()> {
    let capabilities = json!({ "capabilities": [{ "capability": "x-ignore-shared", "state": true }] });
    let set = monitor.execute("migrate-set-capabilities", capabilities).await;
    set.map(drop).during(refused("save a state without memory"))
}

/// Asks until the answer is conclusive.
async fn until(
    monitor: &mut qmp::Client,
    slowness: f64,
    command: &str,
    conclusive: impl Fn(&Value) -> Option<Result<()>>,
) -> Result<()> {
    let limit = PATIENCE.mul_f64(slowness);
    let deadline = Instant::now() + limit;
    loop {
        let answer = monitor.execute(command, json!({})).await.during(|| "qemu does not tell its state")?;
        if let Some(conclusion) = conclusive(&answer) {
            return conclusion;
        }
        if Instant::now() > deadline {
            return Err(Error::new(format!("qemu is not done with the state after {} s", limit.as_secs())));
        }
        tokio::time::sleep(PACE).await;
    }
}
