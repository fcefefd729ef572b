//! Platform `aws`: virtual machines at Amazon.
//!
//! | file | what it is |
//! |---|---|
//! | `options` | what a user can say |
//! | `channel`, `network`, `profile` | what must be there before a machine can be |
//! | `machine` | the order of one machine |

mod channel;
mod machine;
pub mod network;
mod options;
mod profile;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use self::network::Network;
pub use self::options::Options;
use super::cloud::{CloudFlight, Console, Leftovers, Order, Provider, State, Traits};
use super::{Flight, FlightBase, Platform, Result, ResultExt, Target};
use crate::cloud::aws::MARK;
use crate::cloud::aws::api::{self, Api};
use crate::ledger::{Clean, Ledger};
use crate::poll::Poll;

const NAME: &str = "aws";

/// Tag of an instance with the token of its launch, by which the ledger names it.
pub const LAUNCH: &str = "mantle-launch";

/// The platform.
pub struct AwsPlatform;

impl Platform for AwsPlatform {
    const NAME: &'static str = NAME;
    const ABOUT: &'static str = "virtual machines at Amazon";
    const INTERNET: bool = true;
    const METADATA: bool = true;
    const PROPERTIES: &'static str = NAME;
    type Options = Options;
    type Prepared = Options;

    fn prepare(options: Options, _target: &Target) -> Result<Options> {
        Ok(options)
    }

    async fn cleaner(options: Options) -> Result<Arc<dyn Clean>> {
        Ok(Arc::new(leftovers(client(&options).await?)))
    }

    async fn flight(options: Options, base: FlightBase) -> Result<Arc<dyn Flight>> {
        let board = base.target.board.clone();
        let provider = async {
            let api = client(&options).await?;
            let url = &options.aws_release_url;
            let image = channel::resolve(&options.aws_ami, url, &board, api.region()).await?;
            Ok(Aws::new(api, image, options))
        };
        Ok(Arc::new(CloudFlight::start(provider, base).await?))
    }
}

async fn client(options: &Options) -> Result<Api> {
    Api::new(&options.account).await.during(|| "could not create AWS client")
}

/// What removes leftovers of this account.
pub fn leftovers(api: Api) -> Leftovers<Aws> {
    Leftovers::new(Aws {
        api,
        image: String::new(),
        instance_type: String::new(),
        group: String::new(),
        profile: String::new(),
        latest: AtomicBool::new(true),
    })
}

/// The provider.
pub struct Aws {
    api: Api,
    image: String,
    instance_type: String,
    group: String,
    profile: String,
    /// Whether instances can be asked for their newest console output.
    latest: AtomicBool,
}

impl Aws {
    fn new(api: Api, image: String, options: Options) -> Self {
        Self {
            api,
            image,
            instance_type: options.aws_type,
            group: options.aws_sg,
            profile: options.aws_iam_profile,
            latest: AtomicBool::new(true),
        }
    }
}

#[async_trait]
impl Provider for Aws {
    const TRAITS: Traits = Traits {
        platform: NAME,
        service: "EC2",
        machine: "instance",
        flight: Some("key-pair"),
        user_data: 16 << 10,
        variables: ("${COREOS_EC2_IPV4_PUBLIC}", "${COREOS_EC2_IPV4_LOCAL}"),
        running: Poll::seconds(10, 600),
        shown: Poll::seconds(2, 10),
        // It keeps the last 64 KiB.
        console: Console::AfterEnd(Poll::seconds(5, 30)),
        lacking: &[
            ("disks", "kola adds no disks to instances"),
            ("firmware", "it is Amazon's"),
            ("private-network", "kola serves nothing to instances"),
        ],
    };
    type Shared = Network;

    fn place(&self) -> &str {
        self.api.region()
    }

    fn properties(&self) -> serde_json::Map<String, serde_json::Value> {
        [("region", self.api.region()), ("ami", &self.image)]
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.into()))
            .collect()
    }

    async fn open(&self, name: &str, key: &str) -> api::Result<()> {
        self.api.import_key_pair(name, key, &[(MARK.0.to_owned(), MARK.1.to_owned())]).await
    }

    async fn close(&self, name: &str) -> api::Result<()> {
        self.api.delete_key_pair(name).await
    }

    async fn prepare(&self, ledger: &Ledger, cancel: &CancellationToken) -> Result<Network> {
        if !self.profile.is_empty() {
            profile::ensure(&self.api, &self.profile, cancel).await?;
        }
        network::find_or_create(&self.api, &self.group, ledger).await
    }

    async fn order(&self, network: &Network, order: &Order<'_>) -> Result<String> {
        machine::run(self, network, order).await
    }

    async fn state(&self, id: &str) -> api::Result<State> {
        let found = match self.api.instances(&[], &[id]).await {
            Err(e) if e.is_not_found() => None,
            other => other?.into_iter().next(),
        };
        let Some(instance) = found else { return Ok(State::Missing) };
        Ok(match (instance.state.as_str(), instance.public_ip) {
            ("running", Some(address)) => {
                State::Running { address, private_ip: instance.private_ip.unwrap_or_default() }
            }
            ("running", None) => State::Pending("running, without public address".into()),
            ("terminated" | "shutting-down" | "stopped" | "stopping", _) => {
                let reason = instance.reason.as_deref().unwrap_or("no reason given");
                State::Ended(format!("it is {}: {reason}", instance.state))
            }
            (state, _) => State::Pending(state.to_owned()),
        })
    }

    async fn find(&self, token: &str) -> api::Result<Vec<String>> {
        let found = self.api.instances(&[(&format!("tag:{LAUNCH}"), &[token])], &[]).await?;
        let alive = found.into_iter().filter(|i| !matches!(i.state.as_str(), "terminated" | "shutting-down"));
        Ok(alive.map(|i| i.id).collect())
    }

    async fn end(&self, id: &str) -> api::Result<()> {
        match self.api.terminate(&[id]).await {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }

    /// Older instance types are only asked at the start and at the end of their life.
    async fn console(&self, id: &str) -> api::Result<Option<Vec<u8>>> {
        if self.latest.load(Ordering::SeqCst) {
            match self.api.console_output(id, true).await {
                Err(e) if e.is(&["UnsupportedOperation", "InvalidParameterCombination"]) => {
                    self.latest.store(false, Ordering::SeqCst);
                }
                other => return other,
            }
        }
        self.api.console_output(id, false).await
    }

    fn console_is_live(&self) -> bool {
        self.latest.load(Ordering::SeqCst)
    }

    fn stop_command(&self, id: &str) -> String {
        format!("aws --region {} ec2 terminate-instances --instance-ids {id}", self.api.region())
    }

    fn in_place(&self, place: &str) -> api::Result<Self> {
        Ok(Self {
            api: self.api.in_region(place)?,
            image: self.image.clone(),
            instance_type: self.instance_type.clone(),
            group: self.group.clone(),
            profile: self.profile.clone(),
            latest: AtomicBool::new(true),
        })
    }

    async fn remove(&self, kind: &str, id: &str) -> api::Result<bool> {
        if kind != network::KIND {
            return Ok(false);
        }
        network::remove(&self.api, id).await?;
        Ok(true)
    }
}
