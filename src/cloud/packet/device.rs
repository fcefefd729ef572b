//! From a description to a device that has booted our image.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::AsyncReadExt as _;
use tokio_util::sync::CancellationToken;

use super::api::{Device, NewDevice};
use super::boot::{self, Board};
use super::console::{self, Console};
use super::store::{self, Store};
use super::{LAUNCH, MARK, Packet, variable};
use crate::cloud::once::{Once, in_doubt};
use crate::http::CallError;
use crate::ledger::{Ledger, Leftover, Resource};
use crate::poll::{self, Answer, Poll};
use crate::ssh;
use crate::text::chain;

/// Kind of the ledger's entries for objects that devices boot from.
pub const OBJECT: &str = "object";
/// The name of the platform in the ledger.
pub const PLATFORM: &str = "packet";

/// How often a device is ordered of which it is not known whether it was made, at most.
const ORDERS: u32 = 4;
/// Between two orders.
const PAUSE: Duration = Duration::from_secs(5);
/// How long the service may not show what it has made.
pub const SHOWN: Poll = Poll::seconds(2, 10);
/// Until a device is active.
const ACTIVE: Poll = Poll::seconds(30, 600);
/// Until its installer listens.
const LISTENS: Poll = Poll::seconds(5, 900);
/// Until the installer, once it listens, is done.
const INSTALLED: Duration = Duration::from_secs(3600);
/// For one try to reach the installer.
const DIAL: Duration = Duration::from_secs(5);
/// How long the words that explain a failure may take to follow it on the console.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Until a device that is still being made can be removed.
const REMOVABLE: Poll = Poll::seconds(10, 280);

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call failed.
    #[error("{what}")]
    Call {
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        source: CallError,
    },
    /// What it boots cannot be stored.
    #[error("cannot store what the device boots")]
    Store(#[from] store::Error),
    /// It cannot be recorded what is stored.
    #[error("cannot record {what}")]
    Record {
        /// The object.
        what: Resource,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not as it should be.
    #[error("{0}")]
    Device(String),
    /// The work was interrupted.
    #[error("interrupted")]
    Cancelled,
}

/// What machines are made of, and where.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// Kind of machine.
    pub plan: String,
    /// Data centre, unless a metro is named.
    pub facility: String,
    /// Town.
    pub metro: Option<String>,
    /// A reserved machine.
    pub reservation: Option<String>,
    /// The most that is paid for a machine that may be taken away, in dollars an hour.
    pub spot_price: Option<f64>,
    /// Folder of the installer.
    pub installer: String,
    /// What is installed.
    pub image: String,
    /// What depends on the board.
    pub board: Board,
}

/// One device to be made.
pub struct Order<'a> {
    /// Its name; may be empty.
    pub hostname: &'a str,
    /// Marks it, so that it is found should the answer be lost.
    pub token: &'a str,
    /// Its userdata.
    pub user_data: &'a str,
    /// The key that opens its console; none: nobody listens.
    pub console: Option<Arc<ssh::Key>>,
    /// Where the console goes should it not come to the end.
    pub evidence: Option<PathBuf>,
    /// Ends the waits.
    pub cancel: &'a CancellationToken,
}

/// Makes a device and waits until our image boots. What it boots is on record before it is stored, and removed at the
/// end, however that is. A device that has not come to it is left: it is found by the token.
///
/// # Errors
/// [`Error::Call`] with a certain error only if no device was made.
pub fn make<'a>(
    packet: &'a Packet,
    store: &'a Store,
    ledger: &'a Ledger,
    hardware: &'a Hardware,
    order: &'a Order<'a>,
) -> BoxFuture<'a, Result<(Device, Option<Console>), Error>> {
    // Of a named type: the compiler cannot tell that what is in it may be sent to other threads where it is awaited.
    Box::pin(recorded(packet, store, ledger, hardware, order))
}

async fn recorded(
    packet: &Packet,
    store: &Store,
    ledger: &Ledger,
    hardware: &Hardware,
    order: &Order<'_>,
) -> Result<(Device, Option<Console>), Error> {
    let name = if order.hostname.is_empty() { "mantle" } else { order.hostname };
    let digits: String = order.token.chars().filter(char::is_ascii_hexdigit).take(10).collect();
    let names = [format!("{name}-{digits}"), format!("{name}-{digits}-ipxe")];
    let records = names.each_ref().map(|name| Resource {
        kind: OBJECT.into(),
        id: store.address(name),
        platform: PLATFORM.into(),
        place: packet.project().into(),
    });
    let mut noted = 0;
    let stock = Stock { store, ledger, names: &names, records: &records };
    let made = stored(packet, &stock, hardware, order, &mut noted).await;
    for record in records.iter().take(noted) {
        match store.remove(&record.id).await {
            Ok(()) => ledger.delete(record),
            Err(e) => {
                let leftover = Leftover { resource: record.clone(), why: chain(&e) };
                crate::error!(PLATFORM, "{leftover}");
                ledger.keep(&leftover);
            }
        }
    }
    made
}

/// What a device boots from: the installer's userdata, and the script.
struct Stock<'a> {
    store: &'a Store,
    ledger: &'a Ledger,
    names: &'a [String; 2],
    records: &'a [Resource; 2],
}

impl Stock<'_> {
    /// Stores one of them, on record.
    async fn put(&self, which: usize, kind: &'static str, text: String) -> Result<(), Error> {
        let record = &self.records[which];
        let unrecorded = |source| Error::Record { what: record.clone(), source };
        self.ledger.create(record).map_err(unrecorded)?;
        Ok(self.store.put(&self.names[which], kind, text).await?)
    }
}

/// Stores what a device boots, of which so many are `noted`, and makes it.
async fn stored(
    packet: &Packet,
    stock: &Stock<'_>,
    hardware: &Hardware,
    order: &Order<'_>,
    noted: &mut usize,
) -> Result<(Device, Option<Console>), Error> {
    let [wrapper, script] = stock.names;
    let installer = boot::installer(order.user_data, &hardware.image);
    let ipxe = boot::ipxe(&hardware.installer, &stock.store.public(wrapper), &hardware.board);
    *noted = 1;
    stock.put(0, "application/vnd.coreos.ignition+json", installer).await?;
    if order.cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    *noted = 2;
    stock.put(1, "application/octet-stream", ipxe).await?;
    let device = create(packet, hardware, order, &stock.store.public(script)).await?;
    installed(packet, device, hardware, order).await
}

/// Orders a device. Trouble of the service, and an answer that is lost, lead to a look whether it is there.
async fn create(
    packet: &Packet,
    hardware: &Hardware,
    order: &Order<'_>,
    script: &str,
) -> Result<Device, Error> {
    let metro = hardware.metro.as_deref();
    let new = NewDevice {
        hostname: order.hostname,
        plan: &hardware.plan,
        facility: metro.is_none().then_some([hardware.facility.as_str()]),
        metro,
        operating_system: "custom_ipxe",
        billing_cycle: "hourly",
        project_id: packet.project(),
        userdata: "",
        tags: &[MARK.to_owned(), format!("{LAUNCH}{}", order.token)],
        ipxe_script_url: script,
        hardware_reservation_id: hardware.reservation.as_deref(),
        spot_instance: hardware.spot_price.is_some(),
        spot_price_max: hardware.spot_price,
    };
    let failed = |source| Error::Call { what: "couldn't create device".into(), source };
    let find = || async { Ok(packet.launched(order.token).await?.into_iter().next()) };
    let doubt = AtomicBool::new(false);
    let once = Once { component: PLATFORM, shown: SHOWN, cancel: order.cancel, doubt: &doubt };
    match once.make(|| packet.create_device(&new), find, in_doubt(PAUSE, ORDERS)).await {
        Ok(device) => Ok(device),
        Err(_) if order.cancel.is_cancelled() => Err(Error::Cancelled),
        Err(source) if !doubt.into_inner() => Err(failed(source)),
        // Nothing is certain any more.
        Err(source) => Err(Error::Device(chain(&failed(source)))),
    }
}

/// Waits until a device has installed the image, with an ear on its console.
async fn installed(
    packet: &Packet,
    device: Device,
    hardware: &Hardware,
    order: &Order<'_>,
) -> Result<(Device, Option<Console>), Error> {
    let id = device.id.clone();
    crate::info!(PLATFORM, "device {id} was ordered");
    let mut console = None;
    if let Some(key) = &order.console {
        let mut facility = hardware.facility.clone();
        if hardware.metro.is_some() {
            // The service has chosen one.
            let seen = packet.device(&id).await;
            let seen =
                seen.map_err(|source| Error::Call { what: format!("cannot look at device {id}"), source })?;
            let code = |d: Device| d.facility.and_then(|f| f.code);
            facility = seen.and_then(code).unwrap_or(facility);
        }
        console = Console::attach(&console::host(&facility), &id, key.clone(), order.cancel).await;
    }
    let done = async {
        let device = active(packet, &id, order.cancel).await?;
        let address = device.ipv4(true).map(str::to_owned);
        let address = address.ok_or_else(|| Error::Device(format!("no public IP address found for {id}")))?;
        let wait = install(&address, order.cancel);
        wait.await.map_err(|e| match e {
            poll::Error::Cancelled => Error::Cancelled,
            e => Error::Device(format!("timed out waiting for coreos-install: {}", chain(&e))),
        })?;
        Ok(device)
    };
    match done.await {
        Ok(device) => Ok((device, console)),
        Err(e) => {
            let mut text = Vec::new();
            if let Some(console) = console {
                console.ended(LAST_WORDS).await;
                text = console.whole();
            }
            if let Some(path) = order.evidence.as_ref().filter(|_| !text.is_empty()) {
                match std::fs::write(path, text) {
                    Ok(()) => crate::warning!(PLATFORM, "the console of {id} is in {}", path.display()),
                    Err(e) => crate::warning!(PLATFORM, "cannot write {}: {e}", path.display()),
                }
            }
            Err(e)
        }
    }
}

/// Waits until a device is active.
async fn active(packet: &Packet, id: &str, cancel: &CancellationToken) -> Result<Device, Error> {
    let ask = || async {
        let seen = packet.device(id).await;
        let seen =
            seen.map_err(|source| Error::Call { what: format!("cannot look at device {id}"), source })?;
        let Some(device) = seen else { return Ok(Answer::NotYet("not there".into())) };
        match device.state.as_deref().unwrap_or_default() {
            "active" => Ok(Answer::Ready(device)),
            "failed" => Err(Error::Device(format!("device {id} has failed"))),
            state => Ok(Answer::NotYet(state.to_owned())),
        }
    };
    ACTIVE.until(format!("device {id} active"), cancel, ask).await.map_err(|e| match e {
        poll::Error::Failed(e) => e,
        poll::Error::Cancelled => Error::Cancelled,
        late @ poll::Error::TimedOut { .. } => Error::Device(late.to_string()),
    })
}

/// Waits until the installer has listened at the discard port, and does so no more.
async fn install(address: &str, cancel: &CancellationToken) -> Result<(), poll::Error<std::io::Error>> {
    let port = variable("PACKET_DISCARD_PORT").unwrap_or_else(|| "9".into());
    let full = ssh::with_port(address);
    let host = full.rsplit_once(':').map_or(address, |(host, _)| host);
    let target = format!("{host}:{port}");
    let dial = || async {
        Ok::<_, std::io::Error>(
            match tokio::time::timeout(DIAL, tokio::net::TcpStream::connect(&target)).await {
                Ok(Ok(stream)) => Answer::Ready(stream),
                Ok(Err(e)) => Answer::NotYet(e.to_string()),
                Err(_) => Answer::NotYet("no answer".into()),
            },
        )
    };
    let mut stream = LISTENS.until(format!("the installer at {target}"), cancel, dial).await?;
    // A machine that loses power says nothing any more: probes tell.
    let probes = socket2::TcpKeepalive::new().with_time(Duration::from_secs(30));
    let probes = probes.with_interval(Duration::from_secs(10));
    let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&probes);
    let closed = async {
        let mut buffer = [0; 1024];
        while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
    };
    let limit = INSTALLED.mul_f64(poll::scale()).max(DIAL);
    match cancel.run_until_cancelled(tokio::time::timeout(limit, closed)).await {
        None => Err(poll::Error::Cancelled),
        Some(Ok(())) => Ok(()),
        Some(Err(_)) => Err(poll::Error::TimedOut {
            what: "the end of the installation".into(),
            limit: INSTALLED,
            last: "under way".into(),
        }),
    }
}

/// Removes a device, also one that is still being made, which the service refuses at first.
///
/// # Errors
/// Any [`CallError`].
pub async fn end(packet: &Packet, id: &str) -> Result<(), CallError> {
    // It may have come up between the refusal and the look: that refusal says nothing any more.
    let outdated = AtomicBool::new(true);
    let ask = || async {
        let Err(error) = packet.delete_device(id).await else { return Ok(Answer::Ready(())) };
        if error.status() != Some(422) {
            return Err(error);
        }
        match packet.device(id).await? {
            None => Ok(Answer::Ready(())),
            Some(device) => match device.state.as_deref() {
                Some("deprovisioning") => Ok(Answer::Ready(())),
                Some(state @ ("queued" | "provisioning")) => Ok(Answer::NotYet(state.to_owned())),
                Some(state) if outdated.swap(false, Ordering::Relaxed) => {
                    Ok(Answer::NotYet(state.to_owned()))
                }
                _ => Err(error),
            },
        }
    };
    // It is a removal: the end of the work must not end it.
    match REMOVABLE.until(format!("device {id} removable"), &CancellationToken::new(), ask).await {
        Ok(()) => Ok(()),
        Err(poll::Error::Failed(e)) => Err(e),
        Err(late) => Err(CallError::answer(format!("devices.delete {id}"), late.to_string())),
    }
}

/// Removes the keys of this label; returns how many there were.
///
/// # Errors
/// Any [`CallError`].
pub async fn remove_keys(packet: &Packet, label: &str) -> Result<usize, CallError> {
    let keys = packet.keys().await?;
    let ours: Vec<_> = keys.into_iter().filter(|k| k.label.as_deref() == Some(label)).collect();
    for key in &ours {
        packet.delete_key(&key.id).await?;
    }
    Ok(ours.len())
}
