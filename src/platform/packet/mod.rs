//! Platform `packet`: whole machines at Packet, which an installer makes of our image.

mod options;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

pub use self::options::{Hardware as HardwareOptions, Options};
use super::cloud::{CloudFlight, Console, Leftovers, Order, Provider, State, Traits};
use super::{Error, Flight, FlightBase, Platform, Result, ResultExt, Target};
use crate::cloud::google::sources::Choice;
use crate::cloud::packet::console::Console as Session;
use crate::cloud::packet::device::{self, Hardware, OBJECT, PLATFORM};
use crate::cloud::packet::store::{self, Store};
use crate::cloud::packet::{Packet, boot};
use crate::http::CallError;
use crate::ledger::{Clean, Ledger};
use crate::poll::{self, Poll};
use crate::ssh;

/// How long a console may take to end after its device.
const CONSOLE_END: Duration = Duration::from_secs(60);

/// The platform.
pub struct PacketPlatform;

impl Platform for PacketPlatform {
    const NAME: &'static str = PLATFORM;
    const ABOUT: &'static str = "whole machines at Packet, whose service was closed on 2026-06-30 as far as we know, or at one that speaks as it did";
    const INTERNET: bool = true;
    const METADATA: bool = true;
    const PROPERTIES: &'static str = PLATFORM;
    type Options = Options;
    type Prepared = (Options, Hardware);

    fn prepare(options: Options, target: &Target) -> Result<(Options, Hardware)> {
        let hardware = hardware(&options.hardware, &target.board)?;
        options.store.check().during(|| "cannot use --packet-storage-url")?;
        Ok((options, hardware))
    }

    async fn cleaner(options: Options) -> Result<Arc<dyn Clean>> {
        let packet = client(&options)?;
        Ok(Arc::new(leftovers(packet, options.store.clone(), options.choice())))
    }

    async fn flight((options, hardware): (Options, Hardware), base: FlightBase) -> Result<Arc<dyn Flight>> {
        let run = Run {
            hardware,
            ledger: base.ledger.clone(),
            key: base.key.clone(),
            output_dir: base.output_dir.clone(),
        };
        let provider = Metal {
            packet: client(&options)?,
            storage: (options.store.clone(), options.choice()),
            run: Some(run),
            consoles: Mutex::default(),
        };
        Ok(Arc::new(CloudFlight::start(std::future::ready(Ok(provider)), base).await?))
    }
}

fn client(options: &Options) -> Result<Packet> {
    Packet::new(&options.account).during(|| "could not create Packet client")
}

/// The options with the defaults of a board.
///
/// # Errors
/// When the board is not known, or iPXE cannot load the installer.
pub fn hardware(options: &HardwareOptions, board: &str) -> Result<Hardware> {
    let defaults = boot::board(board).ok_or_else(|| Error::new(format!("unknown board {board:?}")))?;
    let given = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    let installer =
        given(&options.packet_installer_image_base_url).unwrap_or_else(|| defaults.installer.into());
    boot::check_installer(&installer).map_err(Error::new)?;
    Ok(Hardware {
        plan: given(&options.packet_plan).unwrap_or_else(|| defaults.plan.into()),
        facility: options.packet_facility.clone(),
        metro: given(&options.packet_metro),
        reservation: given(&options.packet_hardware_reservation),
        spot_price: options.packet_spot_price_max,
        installer,
        image: given(&options.packet_image_url).unwrap_or_else(|| defaults.image.into()),
        board: defaults,
    })
}

/// What removes leftovers of this account.
pub fn leftovers(packet: Packet, storage: store::Options, choice: Choice) -> Leftovers<Metal> {
    Leftovers::new(Metal { packet, storage: (storage, choice), run: None, consoles: Mutex::default() })
}

/// The provider.
pub struct Metal {
    packet: Packet,
    storage: (store::Options, Choice),
    /// None: nothing is made.
    run: Option<Run>,
    /// By device.
    consoles: Mutex<BTreeMap<String, Arc<Session>>>,
}

/// What a flight's devices have in common.
#[derive(Clone)]
struct Run {
    hardware: Hardware,
    ledger: Arc<Ledger>,
    key: Arc<ssh::Key>,
    output_dir: PathBuf,
}

impl Metal {
    fn session(&self, id: &str) -> Option<Arc<Session>> {
        self.consoles.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }
}

#[async_trait]
impl Provider for Metal {
    const TRAITS: Traits = Traits {
        platform: PLATFORM,
        service: "Packet",
        machine: "device",
        flight: Some("ssh-key"),
        // An object: as large as one likes, but who has that much means something else.
        user_data: 64 << 20,
        variables: ("${COREOS_PACKET_IPV4_PUBLIC_0}", "${COREOS_PACKET_IPV4_PRIVATE_0}"),
        running: Poll::seconds(30, 600),
        shown: device::SHOWN,
        console: Console::AfterEnd(Poll::seconds(1, 5)),
        lacking: &[
            ("disks", "kola adds no disks to devices"),
            ("firmware", "it is the provider's"),
            ("private-network", "kola serves nothing to devices"),
        ],
    };
    type Shared = Store;

    fn place(&self) -> &str {
        self.packet.project()
    }

    fn properties(&self) -> serde_json::Map<String, serde_json::Value> {
        let Some(Run { hardware, .. }) = &self.run else { return serde_json::Map::new() };
        let all = [("plan", &hardware.plan), ("installer", &hardware.installer), ("image", &hardware.image)];
        all.into_iter().map(|(name, value)| (name.to_owned(), value.clone().into())).collect()
    }

    async fn open(&self, name: &str, key: &str) -> Result<(), CallError> {
        self.packet.add_key(name, key).await
    }

    async fn close(&self, name: &str) -> Result<(), CallError> {
        device::remove_keys(&self.packet, name).await.map(drop)
    }

    async fn prepare(&self, _ledger: &Ledger, cancel: &CancellationToken) -> Result<Store> {
        let (options, choice) = &self.storage;
        let opening = options.open(choice.clone());
        let opened = cancel.run_until_cancelled(opening).await.ok_or(Error::Cancelled)?;
        opened.during(|| "cannot use the place for what devices boot")
    }

    async fn order(&self, store: &Store, order: &Order<'_>) -> Result<String> {
        let run = self.run.as_ref().ok_or_else(|| Error::new("nothing is made for a clean-up"))?;
        let digits: String = order.token.chars().filter(char::is_ascii_hexdigit).take(10).collect();
        let cluster: String = order.cluster.chars().take(13).collect();
        let hostname = format!("{}-{digits}", cluster.trim_end_matches('-'));
        let wanted = device::Order {
            hostname: &hostname,
            token: order.token,
            user_data: order.user_data,
            console: order.key.is_some().then(|| run.key.clone()),
            evidence: Some(run.output_dir.join(format!("console-{hostname}.txt"))),
            cancel: order.cancel,
        };
        let made = device::make(&self.packet, store, &run.ledger, &run.hardware, &wanted).await;
        let (device, console) = made.map_err(|e| match e {
            device::Error::Call { what, source } => Error::Call { what, source },
            device::Error::Cancelled => Error::Cancelled,
            other => Error::Context { what: "couldn't create device".into(), source: other.into() },
        })?;
        if let Some(console) = console {
            let mut consoles = self.consoles.lock().unwrap_or_else(PoisonError::into_inner);
            consoles.insert(device.id.clone(), Arc::new(console));
        }
        Ok(device.id)
    }

    async fn state(&self, id: &str) -> Result<State, CallError> {
        let Some(device) = self.packet.device(id).await? else { return Ok(State::Missing) };
        Ok(match (device.ipv4(true), device.ipv4(false), device.state.as_deref().unwrap_or_default()) {
            (Some(address), Some(private), "active") => {
                State::Running { address: address.into(), private_ip: private.into() }
            }
            (_, _, "active") => State::Ended("couldn't find IP addresses for device".into()),
            (_, _, "failed") => State::Ended("it has failed".into()),
            (_, _, state) => State::Pending(state.into()),
        })
    }

    async fn find(&self, token: &str) -> Result<Vec<String>, CallError> {
        let there = self.packet.launched(token).await?;
        let ending = |d: &crate::cloud::packet::api::Device| d.state.as_deref() == Some("deprovisioning");
        Ok(there.into_iter().filter(|d| !ending(d)).map(|d| d.id).collect())
    }

    async fn end(&self, id: &str) -> Result<(), CallError> {
        device::end(&self.packet, id).await?;
        if let Some(console) = self.session(id) {
            // What the machine said at its end is on its way.
            console.ended(CONSOLE_END.mul_f64(poll::scale()).max(Duration::from_secs(1))).await;
        }
        Ok(())
    }

    async fn console(&self, id: &str) -> Result<Option<Vec<u8>>, CallError> {
        Ok(self.session(id).map(|console| console.image()))
    }

    fn stop_command(&self, id: &str) -> String {
        format!("metal device delete --id {id}")
    }

    fn in_place(&self, place: &str) -> Result<Self, CallError> {
        Ok(Self {
            packet: self.packet.in_project(place),
            storage: self.storage.clone(),
            run: self.run.clone(),
            consoles: Mutex::default(),
        })
    }

    async fn remove(&self, kind: &str, id: &str) -> Result<bool, CallError> {
        if kind != OBJECT {
            return Ok(false);
        }
        let (options, choice) = &self.storage;
        let removed = async { options.open(choice.clone()).await?.remove(id).await };
        removed.await.map_err(|e: store::Error| CallError::Setup {
            what: format!("cannot remove {id}"),
            source: Some(e.into()),
        })?;
        Ok(true)
    }
}
