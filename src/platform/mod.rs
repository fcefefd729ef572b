//! The platform model: what a driver has to provide, and the registry of all drivers.
//!
//! A *flight* is everything one kola process owns on one platform; it holds *clusters*, one per test; a cluster
//! holds *machines*. Drivers implement the three traits below and nothing else: SSH, journals, readiness checks,
//! reboots, userdata rendering and the order of destruction are shared ([`deployment`], [`guest`]).
//!
//! A new platform is its folder, one `mod` line and one entry of [`DRIVERS`]; README.md in this folder says how to
//! write one, step by step.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clap::{ArgMatches, FromArgMatches as _};
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::conf::Conf;
use crate::ssh;

pub mod aws;
pub mod deployment;
pub mod distribution;
pub mod guest;
pub mod image;
pub mod ledger;
mod local;
mod nspawn;
pub mod qemu;
#[cfg(feature = "test-platform")]
mod scripted;

/// All platforms, in the order of `--help` and of properties.json.
pub static DRIVERS: &[Driver] = &[
    Driver::of::<aws::Aws>(),
    Driver::of::<nspawn::Nspawn>(),
    Driver::of::<qemu::Qemu>(),
    Driver::of::<qemu::QemuUnpriv>(),
    #[cfg(feature = "test-platform")]
    Driver::of::<scripted::Scripted>(),
];

/// A platform, typed: what a driver's folder declares. [`Driver::of`] makes it a record of [`DRIVERS`].
pub trait Platform: 'static {
    /// Value of `--platform`.
    const NAME: &'static str;
    /// One line for `--help` and the README.
    const ABOUT: &'static str;
    /// Whether guests reach the Internet.
    const INTERNET: bool;
    /// Key of the platform's values in properties.json; platforms may share one, with the same options.
    const PROPERTIES: &'static str;
    /// Not shown in help, generated pages and lists of platforms: for tests of kola itself.
    const HIDDEN: bool = false;
    /// The platform whose tests run here too, where this is a variant of another.
    const VARIANT_OF: Option<&'static str> = None;
    /// Its flags, config keys and properties in one declaration.
    type Options: clap::Args + serde::Serialize + Send + Sync;

    /// Fills in defaults that depend on board and distribution, and refuses what cannot work, before anything
    /// is made: missing programs, missing rights, missing images.
    ///
    /// # Errors
    /// What is missing, and what to do about it.
    fn check(options: &mut Self::Options, target: &Target) -> Result<()>;

    /// The operating system of the image that the options name, if the image tells; the default of `--distro`.
    fn image(options: &Self::Options, board: &str) -> Option<image::Image> {
        let _ = (options, board);
        None
    }

    /// Finds out how to remove what a run on this platform left behind; nothing is removed yet. The default
    /// knows what is on this machine.
    fn cleaner(options: Self::Options) -> impl Future<Output = Result<Arc<dyn ledger::Clean>>> + Send {
        let _ = options;
        std::future::ready(Ok(Arc::new(ledger::Local) as _))
    }

    /// Makes a flight.
    fn flight(
        options: Self::Options,
        base: FlightBase,
    ) -> impl Future<Output = Result<Arc<dyn Flight>>> + Send;
}

/// What guests a flight is for.
#[derive(Clone, Debug)]
pub struct Target {
    /// Target board, such as `amd64-usr`.
    pub board: String,
    /// The operating system on the image.
    pub distribution: &'static distribution::Distribution,
}

impl Target {
    /// The architecture part of the board: `amd64` of `amd64-usr`.
    pub fn architecture(&self) -> &str {
        self.board.split('-').next().unwrap_or_default()
    }
}

/// One platform of the registry, with its types erased.
pub struct Driver {
    /// Value of `--platform`.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// Whether guests reach the Internet.
    pub internet: bool,
    /// Its key in properties.json.
    pub properties_key: &'static str,
    /// Not shown to people.
    pub hidden: bool,
    /// The platform whose tests run here too.
    pub variant_of: Option<&'static str>,
    augment: fn(clap::Command) -> clap::Command,
    properties: fn(&ArgMatches) -> Result<serde_json::Value>,
    check: fn(&ArgMatches, &Target) -> Result<()>,
    image: fn(&ArgMatches, &str) -> Result<Option<image::Image>>,
    flight: fn(&ArgMatches, FlightBase) -> MakingFlight,
    cleaner: fn(&ArgMatches) -> MakingCleaner,
}

/// A flight being made.
type MakingFlight = BoxFuture<'static, Result<Arc<dyn Flight>>>;

/// What removes leftovers, being made.
type MakingCleaner = BoxFuture<'static, Result<Arc<dyn ledger::Clean>>>;

fn options<P: Platform>(matches: &ArgMatches) -> Result<P::Options> {
    P::Options::from_arg_matches(matches)
        .during(|| format!("cannot read the options of platform {}", P::NAME))
}

impl Driver {
    /// The record of a platform.
    pub const fn of<P: Platform>() -> Self {
        Self {
            name: P::NAME,
            about: P::ABOUT,
            internet: P::INTERNET,
            properties_key: P::PROPERTIES,
            hidden: P::HIDDEN,
            variant_of: P::VARIANT_OF,
            augment: <P::Options as clap::Args>::augment_args,
            properties: |m| {
                serde_json::to_value(options::<P>(m)?)
                    .during(|| format!("cannot record the options of {}", P::NAME))
            },
            check: |m, target| P::check(&mut options::<P>(m)?, target),
            image: |m, board| Ok(P::image(&options::<P>(m)?, board)),
            flight: |m, base| match options::<P>(m) {
                Ok(mut options) => Box::pin(async move {
                    P::check(&mut options, &base.target())?;
                    P::flight(options, base).await
                }),
                Err(e) => Box::pin(std::future::ready(Err(e))),
            },
            cleaner: |m| match options::<P>(m) {
                Ok(options) => Box::pin(P::cleaner(options)),
                Err(e) => Box::pin(std::future::ready(Err(e))),
            },
        }
    }

    /// The platform of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        DRIVERS.iter().find(|d| d.name == name)
    }

    /// The options as they go to properties.json.
    ///
    /// # Errors
    /// When an option cannot be read.
    pub fn properties(&self, matches: &ArgMatches) -> Result<serde_json::Value> {
        (self.properties)(matches)
    }

    /// See [`Platform::check`].
    ///
    /// # Errors
    /// What is missing, and what to do about it.
    pub fn check(&self, matches: &ArgMatches, target: &Target) -> Result<()> {
        (self.check)(matches, target)
    }

    /// See [`Platform::image`].
    ///
    /// # Errors
    /// When an option cannot be read.
    pub fn image(&self, matches: &ArgMatches, board: &str) -> Result<Option<image::Image>> {
        (self.image)(matches, board)
    }

    /// See [`Platform::cleaner`].
    ///
    /// # Errors
    /// Whatever keeps the platform from being used.
    pub async fn cleaner(&self, matches: &ArgMatches) -> Result<Arc<dyn ledger::Clean>> {
        (self.cleaner)(matches).await
    }

    /// Makes a flight from parsed options.
    ///
    /// # Errors
    /// Those of [`Platform::check`], and whatever keeps the platform from being used.
    pub async fn flight(&self, matches: &ArgMatches, base: FlightBase) -> Result<Arc<dyn Flight>> {
        (self.flight)(matches, base).await
    }
}

/// Whether this process may use platforms that are hidden from people: those for tests of kola itself.
pub fn show_hidden() -> bool {
    cfg!(feature = "test-platform") && std::env::var_os("MANTLE_TEST_PLATFORM").is_some()
}

/// Adds the options of all platforms to a command, each under a heading of its own, those that platforms share
/// once. `hidden` platforms are left out of generated pages.
pub fn augment(mut command: clap::Command, hidden: bool) -> clap::Command {
    for driver in DRIVERS.iter().filter(|d| hidden || !d.hidden) {
        let own = (driver.augment)(clap::Command::new(driver.name));
        for arg in own.get_arguments() {
            if !command.get_arguments().any(|a| a.get_id() == arg.get_id()) {
                command = command
                    .arg(arg.clone().help_heading(format!("Options of platform {}", driver.properties_key)));
            }
        }
    }
    command
}

/// What goes wrong on a platform: the chain of causes is printed by whoever reports it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What failed, on what.
    #[error("{0}")]
    Message(String),
    /// What was being done, and the cause.
    #[error("{what}")]
    Context {
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The platform does not have this.
    #[error("platform {platform} has no {what}")]
    Unsupported {
        /// Its name.
        platform: &'static str,
        /// What was asked for.
        what: &'static str,
    },
    /// The run was interrupted.
    #[error("interrupted")]
    Cancelled,
}

impl Error {
    /// An error with a text of its own.
    pub fn new(text: impl Into<String>) -> Self {
        Self::Message(text.into())
    }
}

/// Adds what was being done to any error.
pub trait ResultExt<T> {
    /// Wraps the error; `what` says what was being done, on what.
    ///
    /// # Errors
    /// The wrapped error.
    fn during<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> ResultExt<T> for std::result::Result<T, E> {
    fn during<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| Error::Context { what: what().into(), source: e.into() })
    }
}

/// Result of platform calls.
pub type Result<T> = std::result::Result<T, Error>;

/// What every flight gets, whatever its platform.
pub struct FlightBase {
    /// First part of the names of flight and clusters.
    pub base_name: String,
    /// The run's output folder; it exists.
    pub output_dir: PathBuf,
    /// The operating system on the image.
    pub distribution: &'static distribution::Distribution,
    /// Target board, such as `amd64-usr`.
    pub board: String,
    /// Cancelled when the run is interrupted.
    pub cancel: CancellationToken,
    /// Record of what must be removed should this process die.
    pub ledger: Arc<ledger::Ledger>,
    /// The key that opens the flight's machines; clouds want its public half.
    pub key: Arc<ssh::Key>,
}

impl FlightBase {
    /// What the flight's guests are.
    pub fn target(&self) -> Target {
        Target { board: self.board.clone(), distribution: self.distribution }
    }
}

/// The addresses that a machine will have, for userdata; on clouds these are shell variables of its metadata.
#[derive(Clone, Debug, Default)]
pub struct Variables {
    /// Replaces `$public_ipv4`.
    pub public_ipv4: String,
    /// Replaces `$private_ipv4`.
    pub private_ipv4: String,
}

/// An additional disk: a new empty one of a size, or a copy-on-write view of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disk {
    /// Size as qemu-img takes it: a number with suffix K, M, G or T.
    Empty {
        /// The size.
        size: String,
        /// Options of the virtual device, such as `serial=secondary`.
        device: Vec<String>,
    },
    /// The base stays unmodified.
    Backed {
        /// The image below the overlay.
        file: PathBuf,
        /// Options of the virtual device.
        device: Vec<String>,
    },
}

/// Wishes for one machine, beyond the flight's defaults. A driver that cannot meet one returns an error.
#[derive(Clone, Debug, Default)]
pub struct MachineOptions {
    /// Disks besides the primary one.
    pub disks: Vec<Disk>,
    /// Memory in MiB.
    pub memory_mib: Option<u32>,
    /// Number of virtual CPUs.
    pub cpus: Option<u32>,
}

/// Renders a machine's userdata once its addresses are known.
pub type Render = Arc<dyn Fn(&Variables) -> Result<Conf> + Send + Sync>;

/// An order for one machine.
pub struct LaunchRequest {
    /// Makes the userdata.
    pub render: Render,
    /// Wishes.
    pub options: MachineOptions,
    /// The cluster's folder; the driver makes `<output_dir>/<machine id>` in it.
    pub output_dir: PathBuf,
    /// Leave the machine running when mantle ends (`kola spawn --remove=false`).
    pub survive: bool,
    /// Do not hand the flight's key to the platform's metadata.
    pub no_ssh_key_in_metadata: bool,
}

/// A driver's flight.
#[async_trait]
pub trait Flight: Send + Sync {
    /// Unique name: `<base name>-<random UUID>`.
    fn name(&self) -> &str;

    /// The platform's name in the registry.
    fn platform(&self) -> &'static str;

    /// Features of the guest that this platform cannot offer whatever the image has, each with the reason.
    fn lacking(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// How much slower than on bare hardware guests run here; every wait for a guest is multiplied by it.
    fn slowness(&self) -> f64 {
        1.0
    }

    /// Values for properties.json that are only known once the flight exists.
    fn properties(&self) -> serde_json::Map<String, serde_json::Value> {
        serde_json::Map::new()
    }

    /// Makes an empty cluster; `name` is unique.
    async fn new_cluster(&self, name: String) -> Result<Arc<dyn Cluster>>;

    /// Frees all that the flight owns. Called once, after all clusters are destroyed.
    async fn destroy(&self);
}

/// A driver's cluster.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// Starts one machine and returns as soon as it exists; it need not have booted.
    ///
    /// Never cancelled halfway. On an error nothing of the machine is left.
    async fn launch(&self, request: LaunchRequest) -> Result<Arc<dyn Machine>>;

    /// The cluster is about to be destroyed: launches under way may give up.
    fn close(&self) {}

    /// Local services of the cluster's private network; `None` on clouds.
    fn local(&self) -> Option<Arc<dyn LocalServices>> {
        None
    }

    /// Frees all that the cluster itself owns. Called once, after all its machines are destroyed.
    async fn destroy(&self);
}

/// A driver's machine.
#[async_trait]
pub trait Machine: Send + Sync {
    /// Unique; names the machine's folder.
    fn id(&self) -> &str;

    /// Where sshd is reached from here: an address, with `:port` if that is not 22.
    fn address(&self) -> String;

    /// Address among machines of the cluster.
    fn private_ip(&self) -> String;

    /// Opens connections to the machine.
    fn dialer(&self) -> Arc<dyn ssh::Dial>;

    /// The pool of sessions to it.
    fn client(&self, login: ssh::Login, connect_timeout: Duration) -> ssh::Client {
        ssh::Client::new(self.dialer(), self.address(), login, connect_timeout)
    }

    /// Resolves when the machine has ended without being told to; says why, with its last words. Clouds never do.
    async fn died(&self) -> String {
        std::future::pending().await
    }

    /// What the serial console has said so far; `None` if the platform has none.
    async fn console(&self) -> Option<Vec<u8>>;

    /// How a person gets a shell on it after mantle has ended, and how to stop it (spawn --remove=false).
    fn hints(&self) -> Vec<String> {
        Vec::new()
    }

    /// Ends the machine and frees what it owns, after saving its console as `console.txt`. Logs problems.
    async fn destroy(&self);
}

/// What kola offers to machines of a private network, and to tests about it.
#[async_trait]
pub trait LocalServices: Send + Sync {
    /// The address of this host in the private network.
    fn host_ip(&self) -> std::net::Ipv4Addr;

    /// The NTP server that guests learn of by DHCP.
    fn ntp(&self) -> Arc<crate::network::ntp::Server>;

    /// A fresh etcd discovery URL for a cluster of `size` members.
    async fn discovery_url(&self, size: usize) -> Result<String>;

    /// A TCP listener on the private network.
    async fn listen(&self, port: u16) -> Result<tokio::net::TcpListener>;
}

/// How long things about a guest may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From start to a usable machine, and from a reboot command to a usable machine.
    pub boot: Duration,
    /// For one SSH connection including login.
    pub connect: Duration,
    /// Until a destroyed machine's journal has drained.
    pub drain: Duration,
}

impl Limits {
    /// `boot` as given; 20 s to connect and 2 s to drain on bare hardware, multiplied by `slowness`.
    pub fn new(boot: Duration, slowness: f64) -> Self {
        let scaled = |seconds| Duration::from_secs(seconds).mul_f64(slowness);
        Self { boot, connect: scaled(20), drain: scaled(2) }
    }
}
