//! A flight with what kola adds to the driver's: key, agent, record of resources, settings of clusters.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use color_eyre::eyre::{Result, WrapErr as _};
use mantle::conf::Additions;
use mantle::platform::deployment::{ClusterSettings, Deployment};
use mantle::platform::guest::Settings;
use mantle::platform::ledger::Ledger;
use mantle::platform::{self, FlightBase, Limits};
use mantle::ssh;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::options::Setup;

/// All that one kola process owns on one platform.
pub struct Flight {
    /// The driver's flight.
    pub driver: Arc<dyn platform::Flight>,
    /// The key that opens its machines.
    pub key: Arc<ssh::Key>,
    agent: Mutex<Option<ssh::Agent>>,
    socket: PathBuf,
    setup: Setup,
}

/// How a cluster departs from the usual.
#[derive(Default)]
pub struct Departures {
    /// Do not put the key into userdata.
    pub no_ssh_key_in_user_data: bool,
    /// Leave SELinux as it is.
    pub no_enable_selinux: bool,
    /// Accept failed units.
    pub allow_failed_units: bool,
    /// Leave machines running when kola ends.
    pub survive: bool,
    /// Signs of trouble on the console that are expected.
    pub ignored_badness: Vec<mantle::harness::badness::Flag>,
}

impl Flight {
    /// Makes a flight whose results go to `output_dir`, which exists.
    ///
    /// # Errors
    /// `Flight failed: …` with the cause.
    pub async fn new(setup: &Setup, output_dir: &Path, cancel: CancellationToken) -> Result<Self> {
        let make = async {
            let key = Arc::new(tokio::task::spawn_blocking(ssh::Key::generate).await??);
            let agent = ssh::Agent::start(&agent_dir(), key.clone())?;
            let ledger = Ledger::open(output_dir).wrap_err_with(|| {
                format!("cannot open the record of resources in {}", output_dir.display())
            })?;
            let base = FlightBase {
                base_name: setup.general.basename.clone(),
                output_dir: output_dir.to_owned(),
                distribution: setup.target.distribution,
                board: setup.target.board.clone(),
                cancel,
                ledger: Arc::new(ledger),
            };
            match setup.driver.flight(&setup.matches, base).await {
                Ok(driver) => {
                    let socket = agent.socket().to_owned();
                    let agent = Mutex::new(Some(agent));
                    Ok::<_, color_eyre::Report>(Self { driver, key, agent, socket, setup: setup.clone() })
                }
                Err(e) => {
                    close(agent).await;
                    Err(e.into())
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
    pub async fn new_cluster(&self, output_dir: PathBuf, departures: Departures) -> Result<Arc<Deployment>> {
        let settings = ClusterSettings {
            output_dir,
            base_name: self.setup.general.basename.clone(),
            no_ssh_key_in_user_data: departures.no_ssh_key_in_user_data,
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
        };
        Deployment::new(self.driver.clone(), settings).await.wrap_err("Cluster failed")
    }

    async fn close_agent(&self) {
        if let Some(agent) = self.agent.lock().await.take() {
            close(agent).await;
        }
    }

    /// Lets go of the driver's flight without ending it; its machines run on.
    pub async fn leave(&self) {
        std::mem::forget(self.driver.clone());
        self.close_agent().await;
    }

    /// Frees everything; clusters must be destroyed before.
    pub async fn destroy(&self) {
        self.driver.destroy().await;
        self.close_agent().await;
    }
}

/// Where the agent's folder goes: `$MANTLE_SSH_DIR`, else the temp folder.
fn agent_dir() -> PathBuf {
    std::env::var_os("MANTLE_SSH_DIR")
        .filter(|d| !d.is_empty())
        .map_or_else(std::env::temp_dir, PathBuf::from)
}

async fn close(agent: ssh::Agent) {
    if let Err(e) = agent.close().await {
        mantle::warning!("kola", "Error closing agent: {e}");
    }
}
