//! Platform `gce`: virtual machines at Google.

mod options;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

pub use self::options::Options;
use super::cloud::{CloudFlight, Console, Leftovers, Order, Provider, State, Traits};
use super::{Error, Flight, FlightBase, Platform, Result, ResultExt, Target};
use crate::cloud::google::MARK;
use crate::cloud::google::compute::{Compute, NewInstance, check_image};
use crate::cloud::google::gc;
use crate::http::{CallError, Class};
use crate::ledger::{Clean, Ledger};
use crate::poll::{self, Poll};
use crate::text::chain;

const NAME: &str = "gce";

/// Label of an instance with the token of its launch, by which the ledger names it.
pub const LAUNCH: &str = "mantle-launch";

/// The platform.
pub struct Gce;

impl Platform for Gce {
    const NAME: &'static str = NAME;
    const ALIASES: &'static [&'static str] = &["gcp"];
    const ABOUT: &'static str = "virtual machines at Google";
    const INTERNET: bool = true;
    const METADATA: bool = true;
    const PROPERTIES: &'static str = NAME;
    type Options = Options;
    type Prepared = Options;

    fn prepare(options: Options, _target: &Target) -> Result<Options> {
        check_image(&options.gce_image).during(|| "cannot use --gce-image")?;
        Ok(options)
    }

    async fn cleaner(options: Options) -> Result<Arc<dyn Clean>> {
        Ok(Arc::new(leftovers(client(&options).await?)))
    }

    async fn flight(options: Options, base: FlightBase) -> Result<Arc<dyn Flight>> {
        let provider = async {
            let compute = client(&options).await?;
            let image = image(&compute, &options.gce_image).await?;
            Ok(Google {
                compute,
                image,
                machine_type: options.gce_machinetype,
                disk_type: options.gce_disktype,
                network: options.gce_network,
            })
        };
        Ok(Arc::new(CloudFlight::start(provider, base).await?))
    }
}

async fn client(options: &Options) -> Result<Compute> {
    Compute::new(&options.account, false).await.during(|| "could not create GCE client")
}

/// The address of the image: of a family, that of its newest one, so that all machines have the same.
async fn image(compute: &Compute, named: &str) -> Result<String> {
    let url = compute.image_url(named).during(|| "cannot use --gce-image")?;
    match compute.image_at(&url).await {
        Ok(image) if image.self_link.is_empty() => Ok(url),
        Ok(image) => Ok(image.self_link),
        // To use an image takes fewer rights than to look at it.
        Err(e) if e.class() == Some(Class::Denied) => {
            crate::warning!(NAME, "cannot look at the image {named}: {}", chain(&e));
            Ok(url)
        }
        Err(source) => Err(Error::Call { what: format!("cannot use the image {named}"), source }),
    }
}

/// What removes leftovers of this account.
pub fn leftovers(compute: Compute) -> Leftovers<Google> {
    let [image, machine_type, disk_type, network] = [const { String::new() }; 4];
    Leftovers::new(Google { compute, image, machine_type, disk_type, network })
}

/// The provider.
pub struct Google {
    compute: Compute,
    image: String,
    machine_type: String,
    disk_type: String,
    network: String,
}

#[async_trait]
impl Provider for Google {
    const TRAITS: Traits = Traits {
        platform: NAME,
        service: "Compute Engine",
        machine: "instance",
        flight: None,
        user_data: 256 << 10,
        variables: ("${COREOS_GCE_IP_EXTERNAL_0}", "${COREOS_GCE_IP_LOCAL_0}"),
        running: Poll::seconds(10, 600),
        shown: Poll::seconds(2, 10),
        console: Console::WhileRunning,
        lacking: &[
            ("disks", "kola adds no disks to instances"),
            ("firmware", "it is Google's"),
            ("private-network", "kola serves nothing to instances"),
        ],
    };
    type Shared = ();

    fn place(&self) -> &str {
        self.compute.place()
    }

    fn properties(&self) -> serde_json::Map<String, serde_json::Value> {
        serde_json::Map::from_iter([("image".to_owned(), self.image.clone().into())])
    }

    async fn prepare(&self, _ledger: &Ledger, _cancel: &CancellationToken) -> Result<()> {
        Ok(())
    }

    async fn order(&self, (): &(), order: &Order<'_>) -> Result<String> {
        let name = name(order.cluster, order.token);
        let mut metadata = vec![
            (MARK.0, MARK.1.to_owned()),
            ("serial-port-logging-enable", "true".to_owned()),
            ("user-data", order.user_data.to_owned()),
        ];
        if let Some(key) = order.key {
            // The number stands where the name of an account is: it keeps Google's agent from making one.
            metadata.push(("ssh-keys", format!("0:{}\n", key.trim_end())));
        }
        let new = NewInstance {
            name: &name,
            machine_type: &self.machine_type,
            image: &self.image,
            disk_type: &self.disk_type,
            network: &self.network,
            metadata: &metadata,
            labels: &[MARK, (LAUNCH, order.token)],
        };
        let failed = |source| Error::Call { what: "failed to request new GCE instance".into(), source };
        let operation = self.compute.insert_instance(&new, order.token).await.map_err(failed)?;
        match self.compute.done(operation, &format!("instance {name}"), order.cancel).await {
            Ok(()) => Ok(name),
            Err(poll::Error::Failed(source)) => Err(failed(source)),
            Err(poll::Error::Cancelled) => Err(Error::Cancelled),
            Err(late) => Err(Error::new(format!("failed to request new GCE instance: {late}"))),
        }
    }

    async fn state(&self, id: &str) -> Result<State, CallError> {
        let Some(instance) = self.compute.instance(id).await? else { return Ok(State::Missing) };
        let interface = instance.interfaces.into_iter().next().unwrap_or_default();
        Ok(match (instance.status.as_str(), interface.external) {
            ("RUNNING", Some(address)) => {
                State::Running { address, private_ip: interface.internal.unwrap_or_default() }
            }
            ("RUNNING", None) => State::Pending("RUNNING, without external address".into()),
            ("STOPPING" | "TERMINATED" | "SUSPENDING" | "SUSPENDED", _) => {
                let reason = instance.reason.as_deref().unwrap_or("no reason given");
                State::Ended(format!("it is {}: {reason}", instance.status))
            }
            (state, _) => State::Pending(state.to_owned()),
        })
    }

    async fn find(&self, token: &str) -> Result<Vec<String>, CallError> {
        let there = self.compute.instances(Some(&format!("labels.{LAUNCH}=\"{token}\""))).await?;
        let is_it = |i: &crate::cloud::google::compute::Instance| {
            i.labels.get(LAUNCH).is_some_and(|launch| launch == token)
        };
        Ok(there.into_iter().filter(is_it).map(|i| i.name).collect())
    }

    async fn end(&self, id: &str) -> Result<(), CallError> {
        gc::end(&self.compute, id).await
    }

    async fn console(&self, id: &str) -> Result<Option<Vec<u8>>, CallError> {
        self.compute.console(id).await
    }

    fn stop_command(&self, id: &str) -> String {
        let (project, zone) = (self.compute.project(), self.compute.zone());
        format!("gcloud compute instances delete {id} --project={project} --zone={zone}")
    }

    fn in_place(&self, place: &str) -> Result<Self, CallError> {
        let (project, zone) = place
            .split_once('/')
            .ok_or_else(|| CallError::setup(format!("{place:?} is no project with a zone")))?;
        Ok(Self {
            compute: self.compute.at(project, zone),
            image: self.image.clone(),
            machine_type: self.machine_type.clone(),
            disk_type: self.disk_type.clone(),
            network: self.network.clone(),
        })
    }
}

/// The name of an instance: what the cluster's name begins with, and 20 digits of the token.
fn name(cluster: &str, token: &str) -> String {
    // <https://cloud.google.com/compute/docs/naming-resources>
    const PREFIX: usize = 63 - 21;
    // The random part of the cluster's name is a UUID of 36 characters.
    let base = cluster.len().checked_sub(37).and_then(|end| cluster.get(..end)).unwrap_or(cluster);
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let mut prefix: String = base.chars().map(allowed).take(PREFIX).collect();
    if !prefix.starts_with(|c: char| c.is_ascii_lowercase()) {
        prefix = format!("v{prefix}").chars().take(PREFIX).collect();
    }
    let digits: String = token.chars().filter(char::is_ascii_hexdigit).take(20).collect();
    format!("{prefix}-{digits}")
}
