//! A flight with what kola adds to the driver's: key, agent, record of resources, settings of clusters.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use color_eyre::Section as _;
use color_eyre::eyre::{Result, WrapErr as _, eyre};
use mantle::applet::Context;
use mantle::conf::Additions;
use mantle::ledger::{Ledger, Leftover, Resource};
use mantle::platform::deployment::{ClusterSettings, Deployment};
use mantle::platform::guest::Settings;
use mantle::platform::warm::Store;
use mantle::platform::{self, FlightBase, Limits};
use mantle::ssh;
use tokio::sync::{Mutex, OnceCell};

use super::options::Setup;

/// All that one kola process owns on one platform.
pub struct Flight {
    /// The driver's flight.
    pub driver: Arc<dyn platform::Flight>,
    /// The key that opens its machines.
    pub key: Arc<ssh::Key>,
    /// States that machines are started from.
    warm: Option<Arc<Store>>,
    agent: Mutex<Option<Agent>>,
    socket: PathBuf,
    setup: Setup,
    ledger: Arc<Ledger>,
    /// The command that removes what is left.
    remedy: String,
    ended: OnceCell<()>,
}

/// How a cluster departs from the usual.
#[derive(Default)]
pub struct Departures {
    /// Do not put the key into userdata.
    pub no_ssh_key_in_user_data: bool,
    /// Do not put the key into the platform's metadata.
    pub no_ssh_key_in_metadata: bool,
    /// Leave SELinux as it is.
    pub no_enable_selinux: bool,
    /// Its machines boot, even if there are states to start them from.
    pub boots: bool,
    /// Accept failed units.
    pub allow_failed_units: bool,
    /// Leave machines running when kola ends.
    pub survive: bool,
    /// Signs of trouble on the console that are expected.
    pub ignored_badness: Vec<mantle::badness::Flag>,
}

impl Flight {
    /// Makes a flight whose results go to `output_dir`, which exists.
    ///
    /// # Errors
    /// `Flight failed: …` with the cause.
    pub async fn new(setup: &Setup, output_dir: &Path, context: &Context) -> Result<Self> {
        let out = std::path::absolute(output_dir).unwrap_or_else(|_| output_dir.to_owned());
        let quoted = ssh::quote(&out.display().to_string());
        let remedy = format!("`kola cleanup {quoted}` removes what is left");
        context.on_second_signal(format!("leaving at once: {remedy}"));
        let make = async {
            let key = Arc::new(tokio::task::spawn_blocking(ssh::Key::generate).await??);
            let ledger = Arc::new(Ledger::open(output_dir).wrap_err_with(|| {
                format!("cannot open the record of resources in {}", output_dir.display())
            })?);
            let agent = Agent::start(key.clone(), ledger.clone(), setup.driver.name).await?;
            let base = FlightBase {
                base_name: setup.general.basename.clone(),
                output_dir: output_dir.to_owned(),
                target: setup.target.clone(),
                cancel: context.cancel.clone(),
                ledger: ledger.clone(),
                key: key.clone(),
            };
            match setup.prepared.flight(base).await {
                Ok(driver) => {
                    let socket = agent.inner.socket().to_owned();
                    let agent = Mutex::new(Some(agent));
                    let setup = setup.clone();
                    let states = output_dir.join("_warm");
                    let warm = setup.general.warm.then(|| Store::new(driver.clone(), states));
                    Ok::<_, color_eyre::Report>(Self {
                        driver,
                        key,
                        warm,
                        agent,
                        socket,
                        setup,
                        ledger,
                        remedy,
                        ended: OnceCell::new(),
                    })
                }
                Err(e) => {
                    agent.close().await;
                    both(Err(e.into()), nothing_left(&ledger, &remedy))
                }
            }
        };
        make.await.wrap_err("Flight failed")
    }

    /// The socket of the agent that holds the flight's key.
    pub fn agent_socket(&self) -> &Path {
        &self.socket
    }

    /// Makes a cluster whose machines get folders in `output_dir`.
    ///
    /// # Errors
    /// `Cluster failed: …` with the cause.
    pub fn new_cluster(&self, output_dir: PathBuf, departures: Departures) -> Result<Arc<Deployment>> {
        let settings = ClusterSettings {
            output_dir,
            base_name: self.setup.general.basename.clone(),
            no_ssh_key_in_user_data: departures.no_ssh_key_in_user_data,
            no_ssh_key_in_metadata: departures.no_ssh_key_in_metadata,
            additions: Additions { dropins: self.setup.drop_ins(), ..Additions::default() },
            guest: Settings {
                distribution: self.setup.target.distribution,
                limits: Limits::new(self.setup.general.boot_timeout, self.driver.slowness()),
                no_enable_selinux: departures.no_enable_selinux,
                allow_failed_units: departures.allow_failed_units,
                ignored_badness: departures.ignored_badness,
            },
            key: self.key.clone(),
            survive: departures.survive,
            ledger: self.ledger.clone(),
            warm: self.warm.clone().filter(|_| !departures.boots),
        };
        Deployment::new(self.driver.clone(), settings).wrap_err("Cluster failed")
    }

    async fn close_agent(&self) {
        if let Some(agent) = self.agent.lock().await.take() {
            agent.close().await;
        }
    }

    /// Lets go of the driver's flight without ending it; its machines run on.
    pub async fn leave(&self) {
        std::mem::forget(self.driver.clone());
        self.close_agent().await;
    }

    /// Frees everything; clusters must be destroyed before.
    ///
    /// # Errors
    /// When something is left, of the flight or of its machines: each was said.
    pub async fn destroy(&self) -> Result<()> {
        self.end().await;
        nothing_left(&self.ledger, &self.remedy)
    }

    /// Frees everything, once; returns what is left, a line each.
    pub async fn end(&self) -> Vec<String> {
        let end = || async {
            if let Some(states) = &self.warm {
                states.close().await;
            }
            for leftover in platform::end_flight(&*self.driver).await {
                mantle::error!("kola", "{leftover}");
                self.ledger.keep(&leftover);
            }
            self.close_agent().await;
        };
        self.ended.get_or_init(end).await;
        self.ledger.left().iter().map(Leftover::to_string).collect()
    }
}

/// Fails if the record still has entries of this process, which were told about one by one.
fn nothing_left(ledger: &Ledger, remedy: &str) -> Result<()> {
    match ledger.left().len() {
        0 => Ok(()),
        1 => Err(eyre!("one thing is left over; {remedy}")),
        n => Err(eyre!("{n} things are left over; {remedy}")),
    }
}

/// The result of the work, and what its clean-up says: the first is the cause, the second must be seen too.
pub fn both<T>(work: Result<T>, clean_up: Result<()>) -> Result<T> {
    match (work, clean_up) {
        (Err(e), Err(left)) => Err(e.note(left)),
        (Err(e), Ok(())) | (Ok(_), Err(e)) => Err(e),
        (Ok(value), Ok(())) => Ok(value),
    }
}

/// Where the agent's folder goes: `$MANTLE_SSH_DIR`, else the temp folder.
fn agent_dir() -> PathBuf {
    std::env::var_os("MANTLE_SSH_DIR")
        .filter(|d| !d.is_empty())
        .map_or_else(std::env::temp_dir, PathBuf::from)
}

/// The agent with the flight's key, whose folder is on record.
struct Agent {
    inner: ssh::Agent,
    ledger: Arc<Ledger>,
    folder: Option<Resource>,
}

impl Agent {
    async fn start(key: Arc<ssh::Key>, ledger: Arc<Ledger>, platform: &str) -> Result<Self> {
        let inner = ssh::Agent::start(&agent_dir(), key)?;
        // Known only once it is there: the agent chooses a folder in which a socket's path is short enough.
        let folder = inner
            .socket()
            .parent()
            .and_then(|dir| dir.canonicalize().ok())
            .map(|dir| Resource::local("folder", dir.display().to_string(), platform));
        let recorded = folder.as_ref().map_or(Ok(()), |folder| ledger.create(folder));
        if let Err(e) = recorded {
            // Nothing to strike.
            Self { inner, ledger, folder: None }.close().await;
            return Err(e).wrap_err("cannot record the folder of the SSH agent");
        }
        Ok(Self { inner, ledger, folder })
    }

    async fn close(self) {
        match self.inner.close().await {
            Ok(()) => self.folder.iter().for_each(|folder| self.ledger.delete(folder)),
            Err(e) => self.folder.iter().for_each(|folder| {
                let why = format!("closing the SSH agent failed: {e}");
                let leftover = Leftover { resource: folder.clone(), why };
                mantle::error!("kola", "{leftover}");
                self.ledger.keep(&leftover);
            }),
        }
    }
}
