//! Platform `azure`: virtual machines at Microsoft.
//!
//! A flight is a resource group: network, machines and all that they have are in it and go with it.

mod options;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

pub use self::options::Options;
use super::cloud::{self, CloudFlight, Leftovers, Order, Provider, State, Traits, released};
use super::{Error, Flight, FlightBase, Platform, Result, ResultExt, Target};
use crate::cloud::azure::arm::{
    Arm, Diagnostics, Generation, NewImage, NewInterface, NewMachine, Reference, Unfinished,
};
use crate::cloud::azure::gc::{self, PREFIX, call_error};
use crate::cloud::azure::{MARK, arm};
use crate::http::{CallError, Class};
use crate::ledger::{Clean, Ledger};
use crate::poll::{self, Poll};
use crate::ssh;
use crate::text::chain;

const NAME: &str = "azure";

/// Tag of a machine with the token of its launch, by which the ledger names it.
pub const LAUNCH: &str = "mantle-launch";

/// Names of what is in each group.
const NETWORK: &str = "kola-vn";
const SUBNET: &str = "kola-subnet";
const IMAGE: &str = "kola-image";

/// The platform.
pub struct Azure;

impl Platform for Azure {
    const NAME: &'static str = NAME;
    const ABOUT: &'static str = "virtual machines at Microsoft";
    const INTERNET: bool = true;
    const METADATA: bool = true;
    const PROPERTIES: &'static str = NAME;
    type Options = Options;
    type Prepared = (Options, Disk);

    fn prepare(options: Options, _target: &Target) -> Result<Self::Prepared> {
        let disk = Disk::of(&options)?;
        subnet(&options)?;
        Ok((options, disk))
    }

    async fn cleaner(options: Options) -> Result<Arc<dyn Clean>> {
        Ok(Arc::new(leftovers(client(&options)?)))
    }

    async fn flight((options, disk): Self::Prepared, base: FlightBase) -> Result<Arc<dyn Flight>> {
        let board = base.target.board.clone();
        let provider = async {
            let arm = client(&options)?;
            let disk = disk.resolved(&arm, &options, &board).await?;
            let mut random = [0; 5];
            openssl::rand::rand_bytes(&mut random).during(|| "no random numbers")?;
            Microsoft::new(arm, crate::text::hex(&random), disk, options)
        };
        Ok(Arc::new(CloudFlight::start(provider, base).await?))
    }
}

fn client(options: &Options) -> Result<Arm> {
    Arm::new(&options.account).during(|| "could not create Azure client")
}

/// What machines begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disk {
    /// An image that is there.
    Image(Reference),
    /// A page blob, of which an image is made.
    Blob(String),
}

impl Disk {
    fn of(options: &Options) -> Result<Self> {
        let uri = options.azure_disk_uri.as_str();
        if uri.is_empty() {
            let Options { azure_publisher, azure_offer, azure_sku, azure_version, .. } = options;
            let of = [azure_publisher, azure_offer, azure_sku].map(Clone::clone);
            if of.iter().any(String::is_empty) {
                return Err(Error::new(
                    "an Azure image needs a publisher, an offer and a SKU, or a disk URI",
                ));
            }
            let [publisher, offer, sku] = of;
            return Ok(Self::Image(Reference::Published {
                publisher,
                offer,
                sku,
                version: azure_version.clone(),
            }));
        }
        if uri.starts_with("https://") || uri.starts_with("http://") {
            return Ok(Self::Blob(uri.to_owned()));
        }
        match uri.starts_with('/') {
            true => Ok(Self::Image(Reference::Id(uri.to_owned()))),
            false => Err(Error::new(format!(
                "cannot use --azure-disk-uri {uri:?}: it is neither the ID of an image (/subscriptions/...) nor the URL \
                 of a page blob"
            ))),
        }
    }

    /// The same with the version that a channel stands for; looks whether it is there.
    async fn resolved(mut self, arm: &Arm, options: &Options, board: &str) -> Result<Self> {
        let Self::Image(image) = &mut self else { return Ok(self) };
        if let Reference::Published { sku, version, .. } = image
            && version.is_empty()
        {
            *version = newest(&options.azure_release_url, sku, board).await?;
        }
        match arm.check_image(image).await {
            Ok(()) => {}
            // To use an image takes fewer rights than to look at it.
            Err(e) if e.class() == Some(Class::Denied) => {
                crate::warning!(NAME, "cannot look at the image: {}", chain(&e));
            }
            Err(source) => return Err(Error::Call { what: "cannot use the Azure image".into(), source }),
        }
        Ok(self)
    }
}

/// The newest version of a channel.
async fn newest(base: &str, channel: &str, board: &str) -> Result<String> {
    let url = released::url(base, channel, board, "version.txt");
    let body = released::fetch("platform/azure", &url).await;
    let body =
        body.during(|| format!("failed to resolve image: unable to fetch release bucket {channel} version"))?;
    let text = String::from_utf8_lossy(&body);
    let line = |prefix: &str| text.lines().find_map(|l| l.strip_prefix(prefix)).map(str::trim);
    let version = line("COREOS_VERSION=").or_else(|| line("FLATCAR_VERSION="));
    let version = version.map(|v| v.trim_matches('"').to_owned()).filter(|v| !v.is_empty());
    version.ok_or_else(|| Error::new(format!("couldn't find COREOS_VERSION in version.txt ({url})")))
}

/// The existing subnet that was chosen: group, network and its name.
fn subnet(options: &Options) -> Result<Option<[&str; 3]>> {
    let Some(text) = options.azure_vnet_subnet_name.as_deref().filter(|t| !t.is_empty()) else {
        return Ok(None);
    };
    let parts: Vec<_> = text.split('/').filter(|p| !p.is_empty()).collect();
    let parts = <[&str; 3]>::try_from(parts);
    parts
        .map(Some)
        .map_err(|_| Error::new(format!("--azure-vnet-subnet-name {text:?} is no GROUP/NETWORK/SUBNET")))
}

/// What removes leftovers of this account.
pub fn leftovers(arm: Arm) -> Leftovers<Microsoft> {
    Leftovers::new(Microsoft::bare(arm, String::new()))
}

/// The provider.
pub struct Microsoft {
    arm: Arm,
    /// The resource group of the flight.
    group: String,
    /// Subscription and group, with a slash between them.
    place: String,
    machines: Option<Machines>,
}

/// What machines are like; not known to what only removes them.
struct Machines {
    disk: Disk,
    generation: Generation,
    size: String,
    controller: Option<&'static str>,
    identity: Option<String>,
    trusted_launch: bool,
    /// The ID of an existing subnet.
    subnet: Option<String>,
    private: bool,
    diagnostics: Diagnostics,
}

/// What machines of a flight share.
pub struct Shared {
    subnet: String,
    image: Reference,
}

impl Microsoft {
    fn bare(arm: Arm, group: String) -> Self {
        Self { place: format!("{}/{group}", arm.subscription()), arm, group, machines: None }
    }

    fn new(arm: Arm, unique: String, disk: Disk, options: Options) -> Result<Self> {
        let subnet = subnet(&options)?.map(|[group, network, name]| arm.subnet(group, network, name));
        let machines = Machines {
            disk,
            subnet,
            generation: options.azure_hyper_v_generation,
            size: options.azure_size,
            controller: match options.azure_disk_controller {
                options::Controller::Default => None,
                options::Controller::Scsi => Some("SCSI"),
                options::Controller::Nvme => Some("NVMe"),
            },
            identity: options.azure_vm_identity.filter(|i| !i.is_empty()),
            trusted_launch: options.azure_trusted_launch,
            private: options.azure_use_private_ips,
            diagnostics: match options.azure_console {
                options::Console::Managed => Diagnostics::Managed,
                options::Console::None => Diagnostics::None,
                // Unique in the whole of Azure; letters and digits only.
                options::Console::Account => Diagnostics::Account(format!("kolasa{unique}")),
            },
        };
        Ok(Self { machines: Some(machines), ..Self::bare(arm, format!("{PREFIX}-{unique}")) })
    }

    fn machines(&self) -> Result<&Machines> {
        self.machines.as_ref().ok_or_else(|| Error::new("nothing is known of machines to be made"))
    }

    async fn make(&self, name: &str, shared: &Shared, order: &Order<'_>) -> Result<()> {
        let (arm, group, own) = (&self.arm, self.group.as_str(), self.machines()?);
        let (address_name, interface_name) = parts(name);
        let failed = |what: &'static str| move |e| unfinished(what, e);
        let address = match own.private {
            true => None,
            false => {
                let made = arm.make_address(group, &address_name, order.cancel).await;
                Some(made.map_err(failed("creating public ip"))?)
            }
        };
        let new = NewInterface { name: &interface_name, subnet: &shared.subnet, address: address.as_deref() };
        let interface =
            arm.make_interface(group, &new, order.cancel).await.map_err(failed("creating nic"))?;
        let throwaway;
        let key = match order.key {
            Some(key) => key,
            // Azure makes no machine without one: this one opens nothing.
            None => {
                let made = tokio::task::spawn_blocking(ssh::Key::generate).await;
                throwaway = made.during(|| "cannot make a key")?.during(|| "cannot make a key")?;
                throwaway.authorized()
            }
        };
        let new = NewMachine {
            name,
            size: &own.size,
            image: &shared.image,
            disk_controller: own.controller,
            user: "core",
            key,
            custom_data: order.user_data,
            interface: &interface,
            diagnostics: &own.diagnostics,
            identity: own.identity.as_deref(),
            trusted_launch: own.trusted_launch,
            tags: &[MARK, (LAUNCH, order.token)],
        };
        arm.make_machine(group, &new, order.cancel).await.map_err(failed("creating machine"))
    }
}

/// What went wrong with something that takes its time.
fn unfinished(what: &str, e: Unfinished) -> Error {
    match e {
        poll::Error::Failed(source) => Error::Call { what: what.into(), source },
        poll::Error::Cancelled => Error::Cancelled,
        late => Error::new(format!("{what}: {late}")),
    }
}

#[async_trait]
impl Provider for Microsoft {
    const TRAITS: Traits = Traits {
        platform: NAME,
        service: "Azure",
        machine: "machine",
        flight: Some("resource group"),
        user_data: 64 << 10,
        variables: ("$public_ipv4", "${COREOS_AZURE_IPV4_DYNAMIC}"),
        running: Poll::seconds(10, 600),
        shown: Poll::seconds(2, 10),
        console: cloud::Console::WhileRunning,
        lacking: &[
            ("disks", "kola adds no disks to machines"),
            ("firmware", "it is Microsoft's"),
            ("private-network", "kola serves nothing to machines"),
        ],
    };
    type Shared = Shared;

    fn place(&self) -> &str {
        &self.place
    }

    fn properties(&self) -> serde_json::Map<String, serde_json::Value> {
        let version = self.machines.as_ref().and_then(|m| match &m.disk {
            Disk::Image(Reference::Published { version, .. }) => Some(version.clone().into()),
            _ => None,
        });
        version.map(|v| ("version".to_owned(), v)).into_iter().collect()
    }

    fn owned(&self, _flight: &str) -> String {
        self.group.clone()
    }

    async fn open(&self, name: &str, _key: &str) -> Result<(), CallError> {
        self.arm.make_group(name).await
    }

    async fn close(&self, name: &str) -> Result<(), CallError> {
        gc::end(&self.arm, name).await
    }

    /// What fails here leaves nothing behind: it is in the flight's group.
    async fn prepare(&self, _ledger: &Ledger, cancel: &CancellationToken) -> Result<Shared> {
        let (arm, group, own) = (&self.arm, self.group.as_str(), self.machines()?);
        let failed = |what: &'static str| move |e| unfinished(what, e);
        if let Diagnostics::Account(name) = &own.diagnostics {
            arm.make_storage(group, name, cancel).await.map_err(failed("creating storage account"))?;
        }
        let subnet = match &own.subnet {
            Some(id) => id.clone(),
            None => {
                let made = arm.make_network(group, NETWORK, SUBNET, cancel).await;
                made.map_err(failed("preparing network resources"))?
            }
        };
        let image = match &own.disk {
            Disk::Image(image) => image.clone(),
            Disk::Blob(blob) => {
                let new = NewImage { name: IMAGE, blob, generation: Some(own.generation) };
                let made = arm.make_image(group, &new, cancel).await;
                Reference::Id(made.map_err(failed("creating image"))?.id)
            }
        };
        Ok(Shared { subnet, image })
    }

    async fn order(&self, shared: &Shared, order: &Order<'_>) -> Result<String> {
        let name = name(order.cluster, order.token);
        match self.make(&name, shared, order).await {
            Ok(()) => Ok(name),
            Err(e) => {
                // Also what is there without a machine; what stays goes with the group.
                if let Err(e) = self.end(&name).await {
                    crate::warning!(
                        NAME,
                        "parts of machine {name} are left in {}: {}",
                        self.group,
                        chain(&e)
                    );
                }
                Err(e)
            }
        }
    }

    async fn state(&self, id: &str) -> Result<State, CallError> {
        let Some(machine) = self.arm.machine(&self.group, id).await? else { return Ok(State::Missing) };
        match machine.state() {
            "Succeeded" => {}
            state @ ("Failed" | "Canceled" | "Deleting") => {
                return Ok(State::Ended(format!("it is {state}")));
            }
            state => return Ok(State::Pending(state.to_owned())),
        }
        let (address, interface) = parts(id);
        let Some(private_ip) = self.arm.private_address(&self.group, &interface).await? else {
            return Ok(State::Pending("without private address".into()));
        };
        if self.machines.as_ref().is_some_and(|m| m.private) {
            return Ok(State::Running { address: private_ip.clone(), private_ip });
        }
        Ok(match self.arm.address(&self.group, &address).await? {
            Some(address) => State::Running { address, private_ip },
            None => State::Pending("without public address".into()),
        })
    }

    async fn find(&self, token: &str) -> Result<Vec<String>, CallError> {
        let all = self.arm.machines(&self.group).await?;
        let is_it =
            |m: &arm::Machine| m.tags.get(LAUNCH).is_some_and(|t| t == token) && m.state() != "Deleting";
        Ok(all.into_iter().filter(is_it).map(|m| m.name).collect())
    }

    async fn end(&self, id: &str) -> Result<(), CallError> {
        let (address, interface) = parts(id);
        // In this order: each is in use by the one before.
        self.arm.remove_machine(&self.group, id).await.map_err(call_error)?;
        self.arm.remove_interface(&self.group, &interface).await.map_err(call_error)?;
        self.arm.remove_address(&self.group, &address).await.map_err(call_error)
    }

    async fn console(&self, id: &str) -> Result<Option<Vec<u8>>, CallError> {
        match &self.machines {
            Some(own) => self.arm.console(&self.group, id, &own.diagnostics).await,
            None => Ok(None),
        }
    }

    /// The service keeps up with it by the minute.
    fn console_is_live(&self) -> bool {
        false
    }

    fn stop_command(&self, id: &str) -> String {
        let (subscription, group) = (self.arm.subscription(), &self.group);
        format!("az vm delete --yes --name {id} --resource-group {group} --subscription {subscription}")
    }

    fn in_place(&self, place: &str) -> Result<Self, CallError> {
        let (subscription, group) = place
            .split_once('/')
            .ok_or_else(|| CallError::setup(format!("{place:?} is no subscription with a resource group")))?;
        Ok(Self::bare(self.arm.of(subscription), group.to_owned()))
    }
}

/// The name of a machine: what the cluster's name begins with, and 10 digits of the token.
fn name(cluster: &str, token: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let prefix: String = cluster.chars().map(allowed).take(13).collect();
    let digits: String = token.chars().filter(char::is_ascii_hexdigit).take(10).collect();
    format!("{}-{digits}", prefix.trim_matches('-'))
}

/// The names of a machine's public address and network interface.
fn parts(machine: &str) -> (String, String) {
    let digits = machine.rsplit('-').next().unwrap_or_default();
    (format!("ip-{digits}"), format!("nic-{digits}"))
}
