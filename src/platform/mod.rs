//! The platform model: what a driver has to provide, and the registry of all drivers.
//!
//! A *flight* is everything one kola process owns on one platform; it launches *machines*, each for the cluster of
//! one test. Drivers implement the traits below and nothing else: SSH, journals, readiness checks, reboots, userdata
//! rendering, the order of destruction and what is said of leftovers are shared ([`deployment`], [`guest`]).
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

use crate::cause::Diagnosis;
use crate::conf::Conf;
use crate::ledger::{self, Clean, Ledger, Leftover, Resource};
use crate::ssh;

pub mod aws;
pub mod azure;
pub mod cloud;
pub mod commands;
pub mod deployment;
pub mod digitalocean;
pub mod distribution;
pub mod esx;
pub mod external;
pub mod gce;
pub mod guest;
pub mod image;
pub mod local;
mod nspawn;
pub mod openstack;
pub mod packet;
pub mod qemu;
#[cfg(feature = "test-platform")]
mod scripted;
pub mod warm;

/// All platforms, in the order of `--help` and of properties.json.
pub static DRIVERS: &[Driver] = &[
    Driver::of::<aws::AwsPlatform>(),
    Driver::of::<azure::Azure>(),
    Driver::of::<digitalocean::DigitalOcean>(),
    Driver::of::<esx::Esx>(),
    Driver::of::<gce::Gce>(),
    Driver::of::<openstack::OpenStack>(),
    Driver::of::<packet::PacketPlatform>(),
    Driver::of::<external::External>(),
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
    /// Other values that mean the same.
    const ALIASES: &'static [&'static str] = &[];
    /// One line for `--help` and the README.
    const ABOUT: &'static str;
    /// Whether guests reach the Internet.
    const INTERNET: bool;
    /// Key of the platform's values in properties.json; platforms may share one, with the same options.
    const PROPERTIES: &'static str;
    /// Whether the flight's key reaches machines besides their userdata, by the platform's metadata.
    const METADATA: bool = false;
    /// Not shown in help, generated pages and lists of platforms: for tests of kola itself.
    const HIDDEN: bool = false;
    /// The platform whose tests run here too, where this is a variant of another.
    const VARIANT_OF: Option<&'static str> = None;
    /// Its flags, config keys and properties in one declaration.
    type Options: clap::Args + serde::Serialize + Send + Sync;
    /// The options after all checks, with the defaults that depend on board and distribution.
    type Prepared: Clone + Send + Sync;

    /// Fills in defaults that depend on board and distribution, and refuses what cannot work, before anything
    /// is made: missing programs, missing rights, missing images.
    ///
    /// # Errors
    /// What is missing, and what to do about it.
    fn prepare(options: Self::Options, target: &Target) -> Result<Self::Prepared>;

    /// The operating system of the image that the options name, if the image tells; the default of `--distro`.
    fn image(options: &Self::Options, board: &str) -> Option<image::Image> {
        let _ = (options, board);
        None
    }

    /// Finds out how to remove what a run on this platform left behind; nothing is removed yet. The default
    /// knows what is on this machine.
    fn cleaner(options: Self::Options) -> impl Future<Output = Result<Arc<dyn Clean>>> + Send {
        let _ = options;
        std::future::ready(Ok(Arc::new(ledger::Local) as _))
    }

    /// Makes a flight.
    fn flight(
        prepared: Self::Prepared,
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
    /// Other values that mean the same.
    pub aliases: &'static [&'static str],
    /// One line for people.
    pub about: &'static str,
    /// Whether guests reach the Internet.
    pub internet: bool,
    /// Its key in properties.json.
    pub properties_key: &'static str,
    /// Whether keys reach machines besides their userdata.
    pub metadata: bool,
    /// Not shown to people.
    pub hidden: bool,
    /// The platform whose tests run here too.
    pub variant_of: Option<&'static str>,
    augment: fn(clap::Command) -> clap::Command,
    read: fn(&ArgMatches) -> Result<Box<dyn Chosen>>,
}

/// A flight being made.
type MakingFlight = BoxFuture<'static, Result<Arc<dyn Flight>>>;

/// What makes a flight.
type MakeFlight = Arc<dyn Fn(FlightBase) -> MakingFlight + Send + Sync>;

/// A platform with the options that were given for it, read once.
pub trait Chosen: Send + Sync {
    /// The options as they go to properties.json.
    ///
    /// # Errors
    /// When they cannot be written as JSON.
    fn properties(&self) -> Result<serde_json::Value>;

    /// See [`Platform::image`].
    fn image(&self, board: &str) -> Option<image::Image>;

    /// See [`Platform::prepare`].
    ///
    /// # Errors
    /// What is missing, and what to do about it.
    fn prepare(self: Box<Self>, target: &Target) -> Result<Prepared>;

    /// See [`Platform::cleaner`].
    fn cleaner(self: Box<Self>) -> BoxFuture<'static, Result<Arc<dyn Clean>>>;
}

/// A platform whose options were checked: it can make flights.
#[derive(Clone)]
pub struct Prepared(MakeFlight);

impl Prepared {
    /// Makes a flight.
    ///
    /// # Errors
    /// Whatever keeps the platform from being used.
    pub async fn flight(&self, base: FlightBase) -> Result<Arc<dyn Flight>> {
        (self.0)(base).await
    }
}

struct Read<P: Platform>(P::Options);

impl<P: Platform> Chosen for Read<P> {
    fn properties(&self) -> Result<serde_json::Value> {
        serde_json::to_value(&self.0).during(|| format!("cannot record the options of {}", P::NAME))
    }

    fn image(&self, board: &str) -> Option<image::Image> {
        P::image(&self.0, board)
    }

    fn prepare(self: Box<Self>, target: &Target) -> Result<Prepared> {
        let prepared = P::prepare(self.0, target)?;
        Ok(Prepared(Arc::new(move |base| Box::pin(P::flight(prepared.clone(), base)))))
    }

    fn cleaner(self: Box<Self>) -> BoxFuture<'static, Result<Arc<dyn Clean>>> {
        Box::pin(P::cleaner(self.0))
    }
}

impl Driver {
    /// The record of a platform.
    pub const fn of<P: Platform>() -> Self {
        Self {
            name: P::NAME,
            aliases: P::ALIASES,
            about: P::ABOUT,
            internet: P::INTERNET,
            properties_key: P::PROPERTIES,
            metadata: P::METADATA,
            hidden: P::HIDDEN,
            variant_of: P::VARIANT_OF,
            augment: <P::Options as clap::Args>::augment_args,
            read: |matches| {
                let options = P::Options::from_arg_matches(matches)
                    .during(|| format!("cannot read the options of platform {}", P::NAME))?;
                Ok(Box::new(Read::<P>(options)))
            },
        }
    }

    /// The platform of this name or alias.
    pub fn named(name: &str) -> Option<&'static Self> {
        DRIVERS.iter().find(|d| d.name == name || d.aliases.contains(&name))
    }

    /// The platform with its options from a command line.
    ///
    /// # Errors
    /// When an option cannot be read.
    pub fn read(&self, matches: &ArgMatches) -> Result<Box<dyn Chosen>> {
        (self.read)(matches)
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
    /// A call to a provider failed.
    #[error("{what}")]
    Call {
        /// What was being done.
        what: String,
        /// What the provider said, if anything.
        #[source]
        source: crate::http::CallError,
    },
    /// The platform does not have this.
    #[error("platform {platform} has no {what}")]
    Unsupported {
        /// Its name.
        platform: &'static str,
        /// What was asked for.
        what: &'static str,
    },
    /// A machine could not be made, through no fault of what was ordered.
    #[error(transparent)]
    Launch(Box<Error>),
    /// What was ordered does not go together with the platform.
    #[error("{0}")]
    Order(String),
    /// The run was interrupted.
    #[error("interrupted")]
    Cancelled,
}

impl Error {
    /// An error with a text of its own.
    pub fn new(text: impl Into<String>) -> Self {
        Self::Message(text.into())
    }

    /// The same as the failure of a launch, unless what was ordered is to blame.
    fn of_launch(self) -> Self {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&self);
        while let Some(e) = cause {
            let own = e.downcast_ref::<Self>();
            let orders =
                own.is_some_and(|e| matches!(e, Self::Order(_) | Self::Unsupported { .. } | Self::Cancelled));
            if orders || e.is::<crate::conf::Error>() {
                return self;
            }
            cause = e.source();
        }
        Self::Launch(Box::new(self))
    }

    /// Whether the platform has failed, and not what runs on it.
    pub fn is_of_platform(&self) -> bool {
        let chain = std::iter::successors(Some(self as &(dyn std::error::Error + 'static)), |e| e.source());
        matches!(self, Self::Launch(_)) || Diagnosis::among(chain).is_some_and(|why| why.cause.is_of_host())
    }

    /// Whether the call that failed was not executed for sure; `false` where that cannot be told.
    pub fn is_certain(&self) -> bool {
        matches!(self, Self::Call { source, .. } if source.is_certain())
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
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What every flight gets, whatever its platform.
pub struct FlightBase {
    /// First part of the names of flight and clusters.
    pub base_name: String,
    /// The run's output folder; it exists.
    pub output_dir: PathBuf,
    /// What the flight's guests are.
    pub target: Target,
    /// Cancelled when the run is interrupted.
    pub cancel: CancellationToken,
    /// Record of what must be removed should this process die.
    pub ledger: Arc<Ledger>,
    /// The key that opens the flight's machines; clouds want its public half.
    pub key: Arc<ssh::Key>,
}

impl FlightBase {
    /// A unique name for the flight.
    pub fn unique_name(&self) -> String {
        format!("{}-{}", self.base_name, uuid::Uuid::new_v4())
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

impl MachineOptions {
    /// Whether nothing is wished for.
    pub fn is_usual(&self) -> bool {
        let Self { disks, memory_mib, cpus } = self;
        disks.is_empty() && memory_mib.is_none() && cpus.is_none()
    }
}

/// Renders a machine's userdata once its addresses are known.
pub type Render = Arc<dyn Fn(&Variables) -> Result<Conf> + Send + Sync>;

/// An order for one machine.
pub struct LaunchRequest {
    /// The cluster that the machine is for: a unique name.
    pub cluster: String,
    /// Cancelled when the cluster is about to be destroyed: waits of the launch may give up.
    pub cancel: CancellationToken,
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

    /// The file of this host that its machines boot from, if there is one.
    fn image(&self) -> Option<&std::path::Path> {
        None
    }

    /// Values for properties.json that are only known once the flight exists.
    fn properties(&self) -> serde_json::Map<String, serde_json::Value> {
        serde_json::Map::new()
    }

    /// Units that machines here need besides what their userdata say.
    fn units(&self) -> Vec<crate::conf::Unit> {
        Vec::new()
    }

    /// Starts one machine and returns as soon as it exists; it need not have booted.
    ///
    /// Never dropped halfway. On an error nothing of the machine is left, or the ledger names it.
    async fn launch(&self, request: LaunchRequest) -> Result<Arc<dyn Machine>>;

    /// How machines are started from saved states.
    ///
    /// # Errors
    /// Why they cannot be here.
    fn warm(&self) -> Result<&dyn Warm> {
        Err(Error::new(format!("platform {} cannot save the state of machines", self.platform())))
    }

    /// The private network with kola's services; `None` on clouds.
    fn local(&self) -> Option<Arc<local::Local>> {
        None
    }

    /// Frees all that the flight owns; returns what could not be freed. Called once, after all machines have ended.
    async fn destroy(&self) -> Vec<Leftover>;
}

/// The saved state of a machine that had booted, as its driver knows it.
pub type State = Arc<dyn std::any::Any + Send + Sync>;

/// What drivers add to [`Flight`] whose machines can be started from the state of another one.
#[async_trait]
pub trait Warm: Send + Sync {
    /// As [`Flight::launch`], for a machine whose state will be [saved](Machine::save).
    async fn launch_to_save(&self, request: LaunchRequest) -> Result<Arc<dyn Machine>>;

    /// As [`Flight::launch`], for a machine that goes on from a state, without booting. It has an address of its own;
    /// whatever else tells machines apart is that of the saved one.
    async fn wake(&self, state: &State, request: LaunchRequest) -> Result<Arc<dyn Machine>>;
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
    async fn died(&self) -> Diagnosis {
        std::future::pending().await
    }

    /// What the serial console has said so far, or had said some seconds ago; `None` if the platform has none, or
    /// cannot tell now.
    async fn console(&self) -> Option<Vec<u8>>;

    /// What the console has said after its first `seen` bytes, for those who look again and again. The default shows
    /// all of it, as those must do that show its end only; `None` as for [`Machine::console`].
    async fn console_news(&self, seen: usize) -> Option<News> {
        let _ = seen;
        self.console().await.map(News::Whole)
    }

    /// How often to look at the console of a machine that is up, to learn that it will not get any further; `None`
    /// where that shows nothing. For consoles that cost nothing to look at.
    fn console_pace(&self) -> Option<Duration> {
        Some(Duration::from_millis(500))
    }

    /// The same, asked for anew: what the end of the machine may take away.
    async fn console_now(&self) -> Option<Vec<u8>> {
        self.console().await
    }

    /// All that the console has said, once the machine has ended; may wait for what comes late.
    async fn last_words(&self) -> Option<Vec<u8>> {
        self.console().await
    }

    /// How a person gets a shell on it after mantle has ended, and how to stop it (spawn --remove=false).
    fn hints(&self) -> Vec<String> {
        Vec::new()
    }

    /// What stands for the machine in the ledger, or would if it had to: should its end hang, the run names it.
    fn resource(&self) -> Resource;

    /// Saves the state of a machine that was [launched for it](Warm::launch_to_save), and ends it; it is to be destroyed
    /// all the same. Connections to it break.
    async fn save(&self) -> Result<State> {
        Err(Error::new(format!("machine {} cannot be saved", self.id())))
    }

    /// Ends the machine and frees what it owns; returns what is left. Nothing else: [`end`] is what to call.
    async fn destroy(&self) -> Vec<Leftover>;
}

/// What a console says, to somebody who has seen some of it.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// What follows that.
    More(Vec<u8>),
    /// All of it.
    Whole(Vec<u8>),
}

impl News {
    /// What follows the first `seen` bytes of a file that grows; all of one that is shorter than that.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn of_file(path: &std::path::Path, seen: usize) -> std::io::Result<Self> {
        use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
        let mut file = tokio::fs::File::open(path).await?;
        let seen = seen as u64;
        let grown = file.metadata().await?.len() >= seen;
        if grown {
            file.seek(std::io::SeekFrom::Start(seen)).await?;
        }
        let mut text = Vec::new();
        // The rest is for the next look.
        file.take(CONSOLE_PIECE).read_to_end(&mut text).await?;
        Ok(if grown { Self::More(text) } else { Self::Whole(text) })
    }
}

/// How much of a console's file is read at once.
const CONSOLE_PIECE: u64 = 16 << 20;

/// How a machine ended.
#[derive(Debug, Default)]
pub struct End {
    /// All that its console has said; empty if the platform has none.
    pub console: Vec<u8>,
    /// What could not be removed.
    pub left: Vec<Leftover>,
}

/// How long a console may take to be asked for before a machine is ended without it.
const CONSOLE: Duration = Duration::from_secs(60);
/// How long a driver may take to take something down before the rest goes on without it.
const DESTROY: Duration = Duration::from_secs(300);

/// What these two are multiplied with: for tests, and not by what speeds up their clouds, since real work is waited for.
fn patience() -> f64 {
    let text = std::env::var("MANTLE_PATIENCE").ok();
    crate::http::retry::scale_of(text.as_deref())
}

/// Ends a machine, in the order that holds on all platforms: its console is read before the end, which may take it
/// away, and again after it, since some platforms keep the last words longer. A console that cannot be had keeps no
/// machine alive, and neither it nor the machine is waited for without limit. The console goes to `console.txt` in
/// the machine's folder `dir`.
pub async fn end(machine: &dyn Machine, dir: &std::path::Path) -> End {
    let scale = patience();
    let before = tokio::time::timeout(CONSOLE.mul_f64(scale), machine.console_now()).await.ok().flatten();
    let left = match tokio::time::timeout(DESTROY.mul_f64(scale), machine.destroy()).await {
        Ok(left) => left,
        Err(_) => {
            let why = format!("it was not gone after {} s", DESTROY.as_secs());
            vec![Leftover { resource: machine.resource(), why }]
        }
    };
    let after = match left.is_empty() {
        true => tokio::time::timeout(CONSOLE.mul_f64(scale), machine.last_words()).await.ok().flatten(),
        // It has not ended: there are no last words to wait for.
        false => None,
    };
    let console = after.filter(|text| !text.is_empty()).or(before);
    let kept = match &console {
        Some(text) => keep_console(&dir.join(CONSOLE_FILE), text).await,
        None => Ok(()),
    };
    if let Err(e) = kept {
        crate::error!("platform", "cannot write the console of {} to {}: {e}", machine.id(), dir.display());
    }
    End { console: console.unwrap_or_default(), left }
}

/// Keeps a machine's userdata in its folder as it was sent; only this user can read it, as it may hold secrets.
pub(crate) fn keep_user_data(dir: &std::path::Path, name: &str, text: &str) -> Result<PathBuf> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = dir.join(name);
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(text.as_bytes())
    };
    write().during(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Frees all that a flight owns, waiting for it no longer than for a machine; returns what is left.
pub async fn end_flight(flight: &dyn Flight) -> Vec<Leftover> {
    match tokio::time::timeout(DESTROY.mul_f64(patience()), flight.destroy()).await {
        Ok(left) => left,
        Err(_) => {
            let why = format!("it was not gone after {} s", DESTROY.as_secs());
            vec![Leftover { resource: Resource::local("flight", flight.name(), flight.platform()), why }]
        }
    }
}

/// The console's file in a machine's folder; machines of this host write it themselves while they run.
pub const CONSOLE_FILE: &str = "console.txt";

async fn keep_console(path: &std::path::Path, text: &[u8]) -> std::io::Result<()> {
    if tokio::fs::read(path).await.is_ok_and(|there| there == text) {
        return Ok(());
    }
    tokio::fs::write(path, text).await
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
