//! Platform `esx`: virtual machines at a vSphere, cloned from one that is there.

mod options;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

pub use self::options::Options;
use super::cloud::{CloudFlight, Console, Leftovers, Order, Provider, State, Traits};
use super::{Error, Flight, FlightBase, Platform, Result, ResultExt, Target};
use crate::cloud::esx::api::Api;
use crate::cloud::esx::inventory::{self, Inventory, Place};
use crate::cloud::esx::vm::{self, Base, Machine, NewVm};
use crate::cloud::esx::xml::Element;
use crate::conf::Unit;
use crate::http::CallError;
use crate::ledger::{Clean, Ledger};
use crate::poll::Poll;

const NAME: &str = "esx";

/// The agent of Container Linux has no provider for vSphere: this takes its place.
const METADATA: &str = r#"[Unit]
Description=Addresses of this machine for others
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
ExecStart=/bin/sh -ec 'set -- $$(ip -4 -o address show dev ens192 scope global); mkdir -p /run/metadata; printf "COREOS_ESX_IPV4_PRIVATE_0=%%s\nCOREOS_ESX_IPV4_PUBLIC_0=%%s\n" "$${4%%/*}" "$${4%%/*}" > /run/metadata/coreos'
"#;

/// The platform.
pub struct Esx;

impl Platform for Esx {
    const NAME: &'static str = NAME;
    const ABOUT: &'static str = "virtual machines at a vSphere";
    const INTERNET: bool = true;
    const PROPERTIES: &'static str = NAME;
    type Options = Options;
    type Prepared = Options;

    fn prepare(options: Options, _target: &Target) -> Result<Options> {
        if options.esx_base_vm.is_empty() {
            return Err(Error::new("Base VM Name must be supplied: name one by --esx-base-vm"));
        }
        Ok(options)
    }

    async fn cleaner(options: Options) -> Result<Arc<dyn Clean>> {
        Ok(Arc::new(leftovers(client(&options).await?)))
    }

    async fn flight(options: Options, base: FlightBase) -> Result<Arc<dyn Flight>> {
        let provider = async {
            let api = client(&options).await?;
            let stock = stock(&api, &options.esx_base_vm).await?;
            Ok(VSphere::new(api, Some(stock)))
        };
        Ok(Arc::new(CloudFlight::start(provider, base).await?))
    }
}

async fn client(options: &Options) -> Result<Api> {
    Api::new(&options.account).await.during(|| "could not create ESX client")
}

/// Looks up what machines are made of, and where.
async fn stock(api: &Api, base: &str) -> Result<Stock> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| Error::Call { what, source }
    };
    let inventory = Inventory::of(api).await.map_err(failed("connecting to ESX"))?;
    let place = inventory.place(&api.session().source().wanted).map_err(failed("getting ESX defaults"))?;
    let vm = inventory.machine(base, &place.datacenter).map_err(failed("the base VM"))?;
    let base = Base::of(api, vm).await.map_err(failed("the base VM"))?;
    let backing = inventory::backing(api, &place.network).await.map_err(failed("the network"))?;
    Ok(Stock { place, base, backing })
}

/// What removes leftovers of this account.
pub fn leftovers(api: Api) -> Leftovers<VSphere> {
    Leftovers::new(VSphere::new(api, None))
}

/// What machines are made of.
struct Stock {
    place: Place,
    base: Base,
    backing: Element,
}

/// The provider.
pub struct VSphere {
    api: Api,
    /// None, where nothing is made.
    stock: Option<Stock>,
    known: Mutex<BTreeMap<String, Known>>,
    /// Whether a machine was ordered a second time, because the first order seemed to be lost.
    twice: AtomicBool,
}

/// A machine of this run.
#[derive(Clone)]
struct Known {
    machine: Machine,
    /// What its console had said when it ended.
    last_words: Option<Vec<u8>>,
}

impl VSphere {
    fn new(api: Api, stock: Option<Stock>) -> Self {
        Self { api, stock, known: Mutex::default(), twice: AtomicBool::new(false) }
    }

    fn known(&self, name: &str) -> Option<Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn know(&self, name: &str, machine: Machine, last_words: Option<Vec<u8>>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(name.to_owned(), Known { machine, last_words });
    }

    /// The machines of a name, as they are there now.
    async fn named(&self, name: &str) -> Result<Vec<Machine>, CallError> {
        let mut all = vm::machines(&self.api).await?;
        all.retain(|m| m.vm.name() == name);
        Ok(all)
    }
}

#[async_trait]
impl Provider for VSphere {
    const TRAITS: Traits = Traits {
        platform: NAME,
        service: "vSphere",
        machine: "vm",
        flight: None,
        // What it takes depends on how well they are packed.
        user_data: 1 << 20,
        variables: ("${COREOS_ESX_IPV4_PUBLIC_0}", "${COREOS_ESX_IPV4_PRIVATE_0}"),
        running: Poll::seconds(10, 1000),
        shown: vm::SHOWN,
        console: Console::AfterEnd(Poll::seconds(1, 1)),
        lacking: &[
            ("disks", "kola adds no disks to virtual machines of others"),
            ("firmware", "it is that of the base VM"),
            ("private-network", "kola serves nothing to these machines"),
        ],
    };
    type Shared = ();

    fn place(&self) -> &str {
        self.api.place()
    }

    fn properties(&self) -> serde_json::Map<String, serde_json::Value> {
        [("server".to_owned(), self.api.place().into())].into_iter().collect()
    }

    fn units(&self) -> Vec<Unit> {
        vec![Unit { name: "coreos-metadata.service".into(), contents: METADATA.into(), enable: false }]
    }

    async fn leave(&self) {
        self.api.leave().await;
    }

    async fn prepare(&self, _ledger: &Ledger, _cancel: &CancellationToken) -> Result<()> {
        Ok(())
    }

    async fn order(&self, (): &(), order: &Order<'_>) -> Result<String> {
        let Some(Stock { place, base, backing }) = &self.stock else {
            return Err(Error::new("there is nothing that machines could be made of"));
        };
        let name = format!("{}-{}", order.cluster, digits(order.token));
        let failed = |what: &str| {
            let what = format!("{what} {name}");
            move |source| match order.cancel.is_cancelled() {
                true => Error::Cancelled,
                false => Error::Call { what, source },
            }
        };
        // Before there is anything that is to have them.
        vm::encoded(order.user_data).map_err(failed("setting the userdata of"))?;
        let doubt = AtomicBool::new(false);
        let new = NewVm { place, backing, name: &name, token: order.token };
        let made = base.clone_to(&self.api, &new, order.cancel, &doubt).await;
        let doubt = doubt.into_inner();
        self.twice.fetch_or(doubt, Ordering::Relaxed);
        let machine = match made.map_err(failed("cloning to")) {
            // Nothing is certain any more.
            Err(e) if doubt => return Err(e).during(|| "after an answer was lost"),
            made => made?,
        };
        self.know(&name, machine.clone(), None);
        let ready = async {
            vm::configure(&self.api, &machine, order.user_data, order.cancel).await?;
            if order.cancel.is_cancelled() {
                return Ok(());
            }
            vm::power_on(&self.api, &machine, order.cancel).await
        };
        match ready.await {
            // Whatever was refused: the machine itself is there.
            Err(e) => Err(failed("setting up")(e)).during(|| "the VM is there, but does not run"),
            Ok(()) if order.cancel.is_cancelled() => Err(Error::Cancelled),
            Ok(()) => Ok(name),
        }
    }

    async fn state(&self, id: &str) -> Result<State, CallError> {
        let machine = match self.known(id) {
            Some(known) => Some(known.machine),
            None => self.named(id).await?.pop(),
        };
        let Some(machine) = machine else { return Ok(State::Missing) };
        let Some(vm) = vm::look(&self.api, &machine).await? else { return Ok(State::Missing) };
        Ok(match (vm.power.as_str(), vm.address()) {
            ("poweredOn", Some(address)) => {
                State::Running { address: address.to_owned(), private_ip: address.to_owned() }
            }
            ("poweredOn", None) => State::Pending(format!(
                "poweredOn, but VMware Tools report no address (they are {}; the base VM needs them, and a network with DHCP)",
                if vm.tools.is_empty() { "not known" } else { &vm.tools }
            )),
            (power, _) => State::Ended(format!("it is {power}")),
        })
    }

    async fn find(&self, token: &str) -> Result<Vec<String>, CallError> {
        let end = format!("-{}", digits(token));
        let mut all = vm::machines(&self.api).await?;
        all.retain(|m| m.vm.name().ends_with(&end));
        let mut ours = vm::look_at_all(&self.api, &all).await?;
        ours.retain(|vm| vm.is_of(token));
        let mut names: Vec<String> = ours.into_iter().map(|vm| vm.name).collect();
        names.dedup();
        Ok(names)
    }

    async fn end(&self, id: &str) -> Result<(), CallError> {
        let known = self.known(id).map(|k| k.machine);
        let all = match known {
            Some(machine) if !self.twice.load(Ordering::Relaxed) => vec![machine],
            _ => self.named(id).await?,
        };
        for machine in all {
            let last_words = vm::end(&self.api, &machine).await?;
            self.know(id, machine, last_words);
        }
        Ok(())
    }

    async fn console(&self, id: &str) -> Result<Option<Vec<u8>>, CallError> {
        let Some(Known { machine, last_words }) = self.known(id) else { return Ok(None) };
        if last_words.is_some() {
            return Ok(last_words);
        }
        match vm::look(&self.api, &machine).await? {
            Some(vm) => vm::console(&self.api, &vm).await,
            None => Ok(None),
        }
    }

    fn stop_command(&self, id: &str) -> String {
        format!("govc vm.destroy {id}")
    }

    fn in_place(&self, place: &str) -> Result<Self, CallError> {
        let here = self.api.place();
        Err(CallError::setup(format!("it is at {place}, these credentials are for {here}")))
    }
}

/// The digits of a token that a machine's name has.
fn digits(token: &str) -> String {
    token.chars().filter(char::is_ascii_hexdigit).take(10).collect()
}
