//! Platform `openstack`: virtual machines at an OpenStack.
//!
//! | file | what it is |
//! |---|---|
//! | `options` | what a user can say |
//! | `group` | the security group that machines share |

mod group;
mod options;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use openssl::base64;
use tokio_util::sync::CancellationToken;

pub use self::options::Options;
use super::cloud::{CloudFlight, Console, Leftovers, Order, Provider, State, Traits};
use super::{Error, Flight, FlightBase, Platform, Result, ResultExt, Target};
use crate::cloud::once::Once;
use crate::cloud::openstack::MARK;
use crate::cloud::openstack::api::{Api, BootVolume, NewServer, Server, again};
use crate::cloud::openstack::gc::{self, LAUNCH, description};
use crate::http::CallError;
use crate::ledger::{Clean, Ledger};
use crate::poll::{self, Answer, Poll};
use crate::ssh;

const NAME: &str = "openstack";

/// Before the id of a floating IP whose server is gone, among the things of a launch.
const FLOATING_IP: &str = "floating-ip/";

/// How often and how long it is asked whether a server runs.
const RUNNING: Poll = Poll::seconds(10, 300);

/// How long the service may not show a server whose order it has taken.
const SHOWN: Poll = Poll::seconds(2, 10);

/// The platform.
pub struct OpenStack;

impl Platform for OpenStack {
    const NAME: &'static str = NAME;
    const ABOUT: &'static str = "virtual machines at an OpenStack";
    const INTERNET: bool = true;
    const METADATA: bool = true;
    const PROPERTIES: &'static str = NAME;
    type Options = Options;
    type Prepared = Options;

    fn prepare(options: Options, _target: &Target) -> Result<Options> {
        if options.openstack_image.is_empty() {
            return Err(Error::new("platform openstack needs an image: name one by --openstack-image"));
        }
        if options.openstack_flavor.is_empty() {
            return Err(Error::new("platform openstack needs a flavor: name one by --openstack-flavor"));
        }
        Ok(options)
    }

    async fn cleaner(options: Options) -> Result<Arc<dyn Clean>> {
        Ok(Arc::new(leftovers(client(&options).await?)))
    }

    async fn flight(options: Options, base: FlightBase) -> Result<Arc<dyn Flight>> {
        let provider = async {
            let api = client(&options).await?;
            Nova::new(api, options).await
        };
        Ok(Arc::new(CloudFlight::start(provider, base).await?))
    }
}

async fn client(options: &Options) -> Result<Api> {
    Api::new(&options.account).await.during(|| "could not create OpenStack client")
}

/// What removes leftovers of this account.
pub fn leftovers(api: Api) -> Leftovers<Nova> {
    Leftovers::new(Nova {
        api,
        image: String::new(),
        flavor: String::new(),
        network: String::new(),
        pool: None,
        volume: None,
        config_drive: false,
        jump: None,
        twice: AtomicBool::new(true),
    })
}

/// The provider.
pub struct Nova {
    api: Api,
    image: String,
    flavor: String,
    network: String,
    /// The network that floating IPs are of.
    pool: Option<String>,
    volume: Option<BootVolume>,
    config_drive: bool,
    jump: Option<ssh::Jump>,
    /// Whether a server was ordered a second time, because the first order seemed to be lost.
    twice: AtomicBool,
}

impl Nova {
    /// Looks up what the options name.
    async fn new(api: Api, options: Options) -> Result<Self> {
        let missing = |what: &str, named: &str| {
            Error::new(format!("resolving {what}: specified {what} {named:?} not found"))
        };
        let named = &options.openstack_flavor;
        let flavor = api.flavor(named).await.during(|| "resolving flavor")?;
        let flavor = flavor.ok_or_else(|| missing("flavor", named))?.id;
        let named = &options.openstack_image;
        let image = api.image_named(named).await.during(|| "resolving image")?;
        let image = image.ok_or_else(|| missing("image", named))?;
        if image.status != "active" {
            return Err(Error::new(format!("image {named:?} cannot be used yet: it is {:?}", image.status)));
        }
        let named = &options.openstack_network;
        let network = api.network(named).await.during(|| "resolving network")?;
        let network = network.ok_or_else(|| match named.is_empty() {
            true => Error::new("resolving network: the project has none"),
            false => missing("network", named),
        })?;
        let chosen = Some(options.openstack_floating_ip_pool).filter(|p| !p.is_empty());
        let pool = match chosen.or_else(|| api.login().source().floating_ip_pool.clone()) {
            None => None,
            Some(named) => {
                let pool = api.network(&named).await.during(|| "resolving floating IP pool")?;
                Some(pool.ok_or_else(|| missing("floating IP pool", &named))?)
            }
        };
        let kind = options.openstack_boot_volume_type.filter(|k| !k.is_empty());
        let volume = options.openstack_boot_volume.map(|gib| BootVolume { gib, kind });
        let jump = options.openstack_host.filter(|h| !h.is_empty()).map(|host| -> Result<_> {
            let user = options.openstack_user.filter(|u| !u.is_empty());
            let user = user.or_else(|| std::env::var("USER").ok()).unwrap_or_else(|| "root".into());
            let login = match options.openstack_keyfile.filter(|k| !k.as_os_str().is_empty()) {
                Some(file) => ssh::Login::key_file(user, &file)
                    .during(|| format!("cannot read the private key {}", file.display()))?,
                None => ssh::Login { user, auth: ssh::Auth::Agent },
            };
            Ok(ssh::Jump::new(&host, login))
        });
        let jump = jump.transpose()?;
        let config_drive = options.openstack_config_drive;
        Ok(Self {
            api,
            image: image.id,
            flavor,
            network,
            pool,
            volume,
            config_drive,
            jump,
            twice: AtomicBool::new(false),
        })
    }

    /// Orders a server, once, whatever becomes of the answers.
    async fn server(&self, new: &NewServer<'_>, token: &str, cancel: &CancellationToken) -> Result<String> {
        let order = || self.api.make_server(new);
        let find = || async { Ok(self.servers_of(token).await?.pop()) };
        let once = Once { component: NAME, shown: SHOWN, cancel, doubt: &self.twice };
        match once.make(order, find, again).await {
            Ok(id) => Ok(id),
            Err(_) if cancel.is_cancelled() => Err(Error::Cancelled),
            Err(source) => Err(Error::Call { what: "failed to request new server".into(), source }),
        }
    }

    /// The servers that an order with this token made.
    async fn servers_of(&self, token: &str) -> Result<Vec<String>, CallError> {
        let all = self.api.servers(Some(&digits(token))).await?;
        let is_it =
            |s: &Server| s.metadata.get(LAUNCH).is_some_and(|launch| launch == token) && !s.is_ending();
        Ok(all.into_iter().filter(is_it).map(|s| s.id).collect())
    }

    /// Ends a server, and others that were made by orders with the same token.
    async fn end_all(&self, id: &str) -> Result<(), CallError> {
        let token = self.api.server(id).await?.and_then(|s| s.metadata.get(LAUNCH).cloned());
        let mut all = vec![id.to_owned()];
        if let Some(token) = token {
            all.extend(self.servers_of(&token).await?.into_iter().filter(|other| other != id));
        }
        for id in all {
            gc::end(&self.api, &id).await?;
        }
        Ok(())
    }

    /// Gives a server a floating IP, once it runs: its port is there then.
    async fn floating_ip(&self, pool: &str, id: &str, order: &Order<'_>) -> Result<()> {
        let ask = || async {
            let server = self.api.server(id).await;
            let server = server
                .map_err(|source| Error::Call { what: format!("cannot look at server {id}"), source })?;
            match server {
                Some(server) => match progress(&server) {
                    State::Ended(why) => Err(Error::new(format!("server {id} has ended: {why}"))),
                    State::Pending(state) => Ok(Answer::NotYet(state)),
                    State::Missing | State::Running { .. } => Ok(Answer::Ready(())),
                },
                None => Ok(Answer::NotYet("not there".into())),
            }
        };
        match RUNNING.until(format!("server {id} running"), order.cancel, ask).await {
            Ok(()) => {}
            Err(poll::Error::Cancelled) => return Err(Error::Cancelled),
            Err(poll::Error::Failed(e)) => return Err(e),
            Err(late) => return Err(Error::new(format!("waiting for instance to run: {late}"))),
        }
        let failed = |what: &str| {
            let what = format!("{what} of server {id}");
            move |source| Error::Call { what, source }
        };
        let ports = self.api.ports(id).await.map_err(failed("cannot look at the ports"))?;
        let [port, ..] = &ports[..] else {
            return Err(Error::new(format!("server {id} has no port that a floating IP could lead to")));
        };
        let made = self.api.make_floating_ip(pool, port, &description(order.token)).await;
        made.map_err(failed("cannot create the floating IP")).map(drop)
    }
}

/// How far a server is, whatever its addresses.
fn progress(server: &Server) -> State {
    match server.status.as_str() {
        "ACTIVE" => State::Running { address: String::new(), private_ip: String::new() },
        "ERROR" => {
            let why = server.fault.as_deref().and_then(crate::http::clean);
            State::Ended(format!("ERROR: {}", why.as_deref().unwrap_or("the service does not say why")))
        }
        "SHUTOFF" | "SUSPENDED" | "PAUSED" | "SHELVED" | "SHELVED_OFFLOADED" => {
            State::Ended(format!("it is {}", server.status))
        }
        _ if server.status.contains("DELETED") => State::Ended(format!("it is {}", server.status)),
        status => State::Pending(match &server.task {
            Some(task) => format!("{status} ({task})"),
            None => status.to_owned(),
        }),
    }
}

#[async_trait]
impl Provider for Nova {
    const TRAITS: Traits = Traits {
        platform: NAME,
        service: "Nova",
        machine: "server",
        flight: Some("key pair"),
        // 65535 characters of base64.
        user_data: 49149,
        variables: ("${COREOS_OPENSTACK_IPV4_PUBLIC}", "${COREOS_OPENSTACK_IPV4_LOCAL}"),
        running: RUNNING,
        shown: SHOWN,
        console: Console::WhileRunning,
        lacking: &[
            ("disks", "kola adds no disks to servers"),
            ("firmware", "it is the cloud's"),
            ("private-network", "kola serves nothing to servers"),
        ],
    };
    /// The id of the security group.
    type Shared = String;

    fn place(&self) -> &str {
        self.api.place()
    }

    fn properties(&self) -> serde_json::Map<String, serde_json::Value> {
        let region = self.api.region().unwrap_or_default();
        let known = [("region", region), ("image", &self.image), ("flavor", &self.flavor)];
        known.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect()
    }

    async fn open(&self, name: &str, key: &str) -> Result<(), CallError> {
        self.api.make_key_pair(name, key).await
    }

    async fn close(&self, name: &str) -> Result<(), CallError> {
        self.api.delete_key_pair(name).await
    }

    async fn prepare(&self, ledger: &Ledger, _cancel: &CancellationToken) -> Result<String> {
        group::find_or_make(&self.api, ledger).await
    }

    async fn order(&self, group: &String, order: &Order<'_>) -> Result<String> {
        let name = name(order.cluster, order.token);
        let new = NewServer {
            name: &name,
            flavor: &self.flavor,
            image: &self.image,
            network: &self.network,
            group,
            key_name: order.key.map(|_| order.flight),
            metadata: &[MARK, (LAUNCH, order.token)],
            user_data: &base64::encode_block(order.user_data.as_bytes()),
            config_drive: self.config_drive,
            volume: self.volume.as_ref(),
        };
        let id = self.server(&new, order.token, order.cancel).await?;
        if let Some(pool) = &self.pool {
            self.floating_ip(pool, &id, order).await?;
        }
        Ok(id)
    }

    async fn state(&self, id: &str) -> Result<State, CallError> {
        let Some(server) = self.api.server(id).await? else { return Ok(State::Missing) };
        let State::Running { .. } = progress(&server) else { return Ok(progress(&server)) };
        let floating = match (&self.pool, server.metadata.get(LAUNCH)) {
            (Some(_), Some(token)) => {
                let all = gc::of_launch(&self.api, token).await?;
                match all.into_iter().find_map(|f| f.address) {
                    Some(address) => Some(address),
                    None => return Ok(State::Pending("ACTIVE, without floating IP".into())),
                }
            }
            _ => None,
        };
        let plain = || server.access_ipv4.clone().or_else(|| server.address(None).map(str::to_owned));
        Ok(match floating.or_else(plain) {
            None => State::Pending("ACTIVE, without address".into()),
            Some(address) => {
                let private_ip = server.address(Some("fixed")).unwrap_or(&address).to_owned();
                State::Running { address, private_ip }
            }
        })
    }

    async fn find(&self, token: &str) -> Result<Vec<String>, CallError> {
        let servers = self.servers_of(token).await?;
        if !servers.is_empty() {
            return Ok(servers);
        }
        // Its server may have gone before it.
        let left = gc::of_launch(&self.api, token).await?;
        Ok(left.into_iter().map(|f| format!("{FLOATING_IP}{}", f.id)).collect())
    }

    async fn end(&self, id: &str) -> Result<(), CallError> {
        match id.strip_prefix(FLOATING_IP) {
            Some(id) => self.api.delete_floating_ip(id).await,
            None if self.twice.load(Ordering::Relaxed) => self.end_all(id).await,
            None => gc::end(&self.api, id).await,
        }
    }

    async fn console(&self, id: &str) -> Result<Option<Vec<u8>>, CallError> {
        self.api.console(id).await
    }

    fn dialer(&self) -> Arc<dyn ssh::Dial> {
        match &self.jump {
            Some(jump) => Arc::new(jump.clone()),
            None => Arc::new(ssh::Direct),
        }
    }

    fn stop_command(&self, id: &str) -> String {
        let region = self.api.region().map(|r| format!(" --os-region-name={r}")).unwrap_or_default();
        format!("openstack{region} server delete {id}")
    }

    fn in_place(&self, place: &str) -> Result<Self, CallError> {
        let project = &self.api.grant().project_id;
        let region = match place.split_once('/') {
            Some((there, region)) if there == project => region,
            _ => {
                let text = format!("{place} is not in project {project}, which these credentials are for");
                return Err(CallError::setup(text));
            }
        };
        Ok(Self {
            api: self.api.in_region(region),
            image: self.image.clone(),
            flavor: self.flavor.clone(),
            network: self.network.clone(),
            pool: self.pool.clone(),
            volume: self.volume.clone(),
            config_drive: self.config_drive,
            jump: self.jump.clone(),
            twice: AtomicBool::new(true),
        })
    }

    async fn remove(&self, kind: &str, id: &str) -> Result<bool, CallError> {
        match kind {
            group::KIND => group::remove_unfinished(&self.api, id).await.map(|()| true),
            _ => Ok(false),
        }
    }
}

/// The digits of a token that a server's name has.
fn digits(token: &str) -> String {
    token.chars().filter(char::is_ascii_hexdigit).take(10).collect()
}

/// The name of a server: what the cluster's name begins with, and ten digits of the token.
fn name(cluster: &str, token: &str) -> String {
    let prefix: String = cluster.chars().take(13).collect();
    format!("{prefix}-{}", digits(token))
}
