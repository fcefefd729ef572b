//! Platform `do`: virtual machines at DigitalOcean.

mod options;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

pub use self::options::Options;
use super::cloud::{CloudFlight, Console, Leftovers, Order, Provider, State, Traits};
use super::{Error, Flight, FlightBase, Platform, Result, ResultExt, Target};
use crate::cloud::digitalocean::{Api, Image, MARK, NewDroplet, order};
use crate::http::{CallError, Class};
use crate::ledger::{Clean, Ledger};
use crate::poll::Poll;
use crate::ssh;
use crate::text::chain;

const NAME: &str = "do";

/// What the name of a flight's throwaway key has more than that of its own.
const THROWAWAY: &str = "-fake";

/// The platform.
pub struct DigitalOcean;

impl Platform for DigitalOcean {
    const NAME: &'static str = NAME;
    const ALIASES: &'static [&'static str] = &["digitalocean"];
    const ABOUT: &'static str = "virtual machines at DigitalOcean";
    const INTERNET: bool = true;
    const METADATA: bool = true;
    const PROPERTIES: &'static str = NAME;
    type Options = Options;
    type Prepared = Options;

    fn prepare(options: Options, _target: &Target) -> Result<Options> {
        for (option, value) in [("--do-region", &options.do_region), ("--do-size", &options.do_size)] {
            if value.is_empty() {
                return Err(Error::new(format!("{option} is empty")));
            }
        }
        Ok(options)
    }

    async fn cleaner(options: Options) -> Result<Arc<dyn Clean>> {
        let api = client(&options)?;
        sign_in(&api).await?;
        Ok(Arc::new(leftovers(api)))
    }

    async fn flight(options: Options, base: FlightBase) -> Result<Arc<dyn Flight>> {
        let provider = async {
            let api = client(&options)?;
            sign_in(&api).await?;
            let image = image(&api, &options.do_image, &options.do_region).await?;
            Ok(Droplets {
                region: options.do_region,
                size: options.do_size,
                vpc: options.do_vpc.filter(|v| !v.is_empty()),
                image,
                ..Droplets::new(api)
            })
        };
        Ok(Arc::new(CloudFlight::start(provider, base).await?))
    }
}

fn client(options: &Options) -> Result<Api> {
    Api::new(&options.account).during(|| "could not create DigitalOcean client")
}

/// Asks whose the token is, if it may ask.
async fn sign_in(api: &Api) -> Result<()> {
    match api.identity().await {
        Ok(_) => Ok(()),
        // There are tokens for droplets only. One that is no token at all fails at the next call.
        Err(e) if e.status() == Some(403) => {
            crate::debug!(NAME, "cannot ask whose token it is: {}", chain(&e));
            Ok(())
        }
        Err(source) => Err(Error::Call { what: "could not sign in to DigitalOcean".into(), source }),
    }
}

async fn image(api: &Api, named: &str, region: &str) -> Result<Image> {
    match (api.resolve(named, region).await, named.parse()) {
        (Ok(image), _) => Ok(image),
        // To use an image takes fewer rights than to look at it; what all kinds of images can do will do.
        (Err(e), Ok(id)) if e.call().is_some_and(|e| e.class() == Some(Class::Denied)) => {
            crate::warning!(NAME, "{}", chain(&e));
            Ok(Image { id, kind: "custom".into(), ..Image::default() })
        }
        (Err(e), _) => Err(e).during(|| "cannot use --do-image"),
    }
}

/// What removes leftovers of this account.
pub fn leftovers(api: Api) -> Leftovers<Droplets> {
    Leftovers::new(Droplets::new(api))
}

/// The provider.
pub struct Droplets {
    api: Api,
    region: String,
    size: String,
    vpc: Option<String>,
    image: Image,
    /// The id of the flight's key.
    key: OnceCell<u64>,
    /// The id of a key that nobody has the other half of.
    throwaway: OnceCell<u64>,
    /// Tokens of droplets that may have twins, by id.
    doubtful: Mutex<BTreeMap<String, String>>,
}

impl Droplets {
    fn new(api: Api) -> Self {
        let [region, size] = [const { String::new() }; 2];
        let (key, throwaway, doubtful) = (OnceCell::new(), OnceCell::new(), Mutex::default());
        Self { api, region, size, vpc: None, image: Image::default(), key, throwaway, doubtful }
    }

    /// A key for machines that nobody shall log in to by their metadata, made by the first of them: one without any
    /// would have a password, sent by mail. It goes when the flight's own goes.
    async fn throwaway(&self, flight: &str) -> Result<u64> {
        let make = || async {
            let key = tokio::task::spawn_blocking(ssh::Key::generate).await;
            let key = key.during(|| "cannot make a key")?.during(|| "cannot make a key")?;
            let made = self.api.create_key(&format!("{flight}{THROWAWAY}"), key.authorized()).await;
            made.map_err(|source| Error::Call { what: "cannot register a throwaway key".into(), source })
        };
        self.throwaway.get_or_try_init(make).await.copied()
    }
}

/// A droplet's number, as this platform writes ids.
fn number(id: &str) -> Result<u64, CallError> {
    id.parse().map_err(|_| CallError::setup(format!("{id:?} is no number of a droplet")))
}

#[async_trait]
impl Provider for Droplets {
    const TRAITS: Traits = Traits {
        platform: NAME,
        service: "DigitalOcean",
        machine: "droplet",
        flight: Some("ssh-key"),
        user_data: 64 << 10,
        variables: ("${COREOS_DIGITALOCEAN_IPV4_PUBLIC_0}", "${COREOS_DIGITALOCEAN_IPV4_PRIVATE_0}"),
        running: Poll::seconds(10, 300),
        shown: order::SHOWN,
        console: Console::None,
        lacking: &[
            ("disks", "kola adds no disks to droplets"),
            ("firmware", "it is DigitalOcean's"),
            ("private-network", "kola serves nothing to droplets"),
        ],
    };
    type Shared = ();

    fn place(&self) -> &str {
        // Droplets have numbers of their own, whatever the region.
        self.api.account()
    }

    fn properties(&self) -> serde_json::Map<String, serde_json::Value> {
        serde_json::Map::new()
    }

    async fn open(&self, name: &str, key: &str) -> Result<(), CallError> {
        self.key.get_or_try_init(|| self.api.create_key(name, key)).await.map(drop)
    }

    async fn close(&self, name: &str) -> Result<(), CallError> {
        self.api.delete_keys(&[name, &format!("{name}{THROWAWAY}")]).await
    }

    async fn prepare(&self, _ledger: &Ledger, _cancel: &CancellationToken) -> Result<()> {
        Ok(())
    }

    async fn order(&self, (): &(), order: &Order<'_>) -> Result<String> {
        let key = match (order.key, self.key.get()) {
            (Some(_), Some(key)) => *key,
            _ => self.throwaway(order.flight).await?,
        };
        // The random part of the cluster's name is a UUID of 36 characters.
        let base = order.cluster.len().checked_sub(37).and_then(|end| order.cluster.get(..end));
        let name = order::name(base.unwrap_or(order.cluster), order.token);
        let new = NewDroplet {
            name: &name,
            region: &self.region,
            size: &self.size,
            image: self.image.id,
            key,
            ipv6: !self.image.is_custom(),
            vpc: self.vpc.as_deref(),
            user_data: order.user_data,
            tags: &[MARK],
        };
        let doubt = AtomicBool::new(false);
        let what = || format!("couldn't create droplet {name}");
        let made = order::droplet(&self.api, &new, order.cancel, &doubt).await;
        let doubt = doubt.into_inner();
        let id = match made {
            Ok(id) => id.to_string(),
            Err(_) if order.cancel.is_cancelled() => return Err(Error::Cancelled),
            Err(source) if !doubt => return Err(Error::Call { what: what(), source }),
            // Nothing is certain any more.
            Err(e) => return Err(e).during(what),
        };
        if doubt {
            let mut doubtful = self.doubtful.lock().unwrap_or_else(PoisonError::into_inner);
            doubtful.insert(id.clone(), order.token.to_owned());
        }
        Ok(id)
    }

    async fn state(&self, id: &str) -> Result<State, CallError> {
        let Some(droplet) = self.api.droplet(number(id)?).await? else { return Ok(State::Missing) };
        Ok(match (droplet.status.as_str(), droplet.public, droplet.private) {
            ("active", Some(address), Some(private_ip)) => State::Running { address, private_ip },
            ("active", None, _) => State::Pending("active, without public address".into()),
            ("active", _, None) => State::Pending("active, without private address".into()),
            ("off" | "archive", ..) => State::Ended(format!("it is {}", droplet.status)),
            (state, ..) => State::Pending(state.to_owned()),
        })
    }

    async fn find(&self, token: &str) -> Result<Vec<String>, CallError> {
        let there = order::named(&self.api, &order::digits(token)).await?;
        Ok(there.into_iter().map(|d| d.id.to_string()).collect())
    }

    async fn end(&self, id: &str) -> Result<(), CallError> {
        self.api.delete_droplet(number(id)?).await?;
        let doubtful = |id: &str| {
            let all = self.doubtful.lock().unwrap_or_else(PoisonError::into_inner);
            all.get(id).cloned()
        };
        if let Some(token) = doubtful(id) {
            for twin in self.find(&token).await?.iter().filter(|twin| *twin != id) {
                self.api.delete_droplet(number(twin)?).await?;
            }
        }
        Ok(())
    }

    fn stop_command(&self, id: &str) -> String {
        format!("doctl compute droplet delete {id}")
    }

    fn in_place(&self, place: &str) -> Result<Self, CallError> {
        // Where a token may not ask whose it is, there is nothing to compare.
        let here = self.api.account();
        if here.is_empty() || place.is_empty() {
            return Ok(Self::new(self.api.clone()));
        }
        Err(CallError::setup(format!("it is of account {place}, this token is of account {here}")))
    }
}
