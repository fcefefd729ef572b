//! Platform `aws`: virtual machines at Amazon.
//!
//! | file | what it is |
//! |---|---|
//! | `options` | what a user can say |
//! | `channel`, `network`, `profile` | what must be there before a machine can be |
//! | `machine`, `console` | one machine |
//! | `leftovers` | what runs that died left behind |

mod channel;
mod console;
mod leftovers;
mod machine;
pub mod network;
mod options;
mod profile;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

pub use self::leftovers::Leftovers;
use self::network::Network;
pub use self::options::Options;
use super::{Flight, FlightBase, LaunchRequest, Machine, Platform, Result, ResultExt, Target};
use crate::cloud::aws::MARK;
use crate::cloud::aws::api::Api;
use crate::ledger::{Clean, Ledger, Leftover, Resource};
use crate::ssh;
use crate::text::chain;

const NAME: &str = "aws";

/// Tag of an instance with the token of its launch, by which the ledger names it.
pub const LAUNCH: &str = "mantle-launch";

/// Kind of a ledger entry: a public key at EC2, by its name.
const KEY_PAIR: &str = "key-pair";

/// The platform.
pub struct Aws;

impl Platform for Aws {
    const NAME: &'static str = NAME;
    const ABOUT: &'static str = "virtual machines at Amazon";
    const INTERNET: bool = true;
    const PROPERTIES: &'static str = NAME;
    type Options = Options;

    type Prepared = Options;

    fn prepare(options: Options, _target: &Target) -> Result<Options> {
        Ok(options)
    }

    async fn cleaner(options: Options) -> Result<Arc<dyn Clean>> {
        Ok(Arc::new(Leftovers::new(client(&options).await?)))
    }

    async fn flight(options: Options, base: FlightBase) -> Result<Arc<dyn Flight>> {
        let api = client(&options).await?;
        let image =
            channel::resolve(&options.aws_ami, &options.release_url, &base.target.board, api.region())
                .await?;
        Ok(Arc::new(start(api, image, options, base).await?))
    }
}

async fn client(options: &Options) -> Result<Api> {
    Api::new(&options.account).await.during(|| "could not create AWS client")
}

/// Tells EC2 the flight's key, the only thing of a flight.
async fn start(api: Api, image: String, options: Options, base: FlightBase) -> Result<AwsFlight> {
    let name = format!("{}-{}", base.base_name, uuid::Uuid::new_v4());
    let key = Resource {
        kind: KEY_PAIR.into(),
        id: name.clone(),
        platform: NAME.into(),
        place: api.region().to_owned(),
    };
    base.ledger.create(&key).during(|| "cannot record a key")?;
    let tags = [(MARK.0.to_owned(), MARK.1.to_owned())];
    if let Err(e) = api.import_key_pair(&name, base.key.authorized(), &tags).await {
        // Nothing was made, for certain; else it may be there.
        if e.is_certain() || api.delete_key_pair(&name).await.is_ok() {
            base.ledger.delete(&key);
        }
        return Err(e).during(|| format!("importing key {name}"));
    }
    let shared = Shared {
        api,
        name,
        image,
        instance_type: options.aws_type,
        group: options.aws_sg,
        profile: options.aws_iam_profile,
        cancel: base.cancel,
        ledger: base.ledger,
        latest: Arc::new(AtomicBool::new(true)),
        network: OnceCell::new(),
    };
    Ok(AwsFlight { shared: Arc::new(shared), key })
}

/// What all machines of a flight share.
struct Shared {
    api: Api,
    /// Of the flight, and so of its key.
    name: String,
    image: String,
    instance_type: String,
    group: String,
    profile: String,
    cancel: CancellationToken,
    ledger: Arc<Ledger>,
    /// Whether instances can be asked for their newest console output.
    latest: Arc<AtomicBool>,
    network: OnceCell<Network>,
}

impl Shared {
    /// Instance profile and network, looked up by the first machine.
    async fn prepared(&self) -> Result<&Network> {
        let prepare = || async {
            if !self.profile.is_empty() {
                profile::ensure(&self.api, &self.profile, &self.cancel).await?;
            }
            network::find_or_create(&self.api, &self.group, &self.ledger).await
        };
        self.network.get_or_try_init(prepare).await
    }
}

struct AwsFlight {
    shared: Arc<Shared>,
    key: Resource,
}

#[async_trait]
impl Flight for AwsFlight {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn platform(&self) -> &'static str {
        NAME
    }

    fn lacking(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("disks", "kola adds no disks to instances"),
            ("firmware", "it is Amazon's"),
            ("private-network", "kola serves nothing to instances"),
        ]
    }

    fn properties(&self) -> serde_json::Map<String, serde_json::Value> {
        [("region", self.shared.api.region()), ("ami", &self.shared.image)]
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.into()))
            .collect()
    }

    async fn launch(&self, request: LaunchRequest) -> Result<Arc<dyn Machine>> {
        machine::launch(&self.shared, request).await
    }

    async fn destroy(&self) -> Vec<Leftover> {
        match self.shared.api.delete_key_pair(&self.shared.name).await {
            Ok(()) => {
                self.shared.ledger.delete(&self.key);
                Vec::new()
            }
            Err(e) => vec![Leftover { resource: self.key.clone(), why: chain(&e) }],
        }
    }
}

/// Connections to instances are plain TCP.
fn dialer() -> Arc<dyn ssh::Dial> {
    Arc::new(ssh::Direct)
}
