//! A platform whose machines are scripted in this process: for tests of kola itself, without a guest.
//!
//! A plan (JSON) says how machines boot and what they answer; everything above the SSH session is the real thing.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{
    Cluster, Error, Flight, FlightBase, LaunchRequest, Machine, Platform, Result, ResultExt, Target,
    Variables,
};
use crate::ssh;

/// Options of the scripted platform.
#[derive(clap::Args, Serialize, Clone, Debug)]
#[group(skip)]
pub struct Options {
    /// Plan of the scripted machines
    #[arg(long, value_name = "FILE")]
    #[serde(rename = "plan")]
    scripted_plan: Option<PathBuf>,
}

/// How machines behave.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Plan {
    /// Creating the flight fails with this text.
    flight_error: Option<String>,
    /// Launching a machine fails with this text.
    launch_error: Option<String>,
    /// Launching a machine takes this long.
    launch_ms: u64,
    /// The machine dies after launch, saying this.
    dies: Option<String>,
    /// sshd never answers.
    silent: bool,
    /// What the serial console says.
    console: String,
    /// What the journal says, in export format.
    journal: String,
    /// The first answer whose `command` is part of the command wins; before those that every machine knows.
    answers: Vec<Answer>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Answer {
    command: String,
    stdout: String,
    stderr: String,
    status: i32,
    /// The connection is lost instead.
    lost: bool,
    /// No answer ever comes.
    hangs: bool,
    /// The machine is in another boot afterwards.
    reboots: bool,
}

/// The platform.
pub struct Scripted;

impl Platform for Scripted {
    const NAME: &'static str = "scripted";
    const ABOUT: &'static str = "machines scripted in this process, for tests of kola itself";
    const INTERNET: bool = false;
    const PROPERTIES: &'static str = "scripted";
    const HIDDEN: bool = true;
    type Options = Options;

    fn check(_options: &mut Options, _target: &Target) -> Result<()> {
        Ok(())
    }

    async fn flight(options: Options, base: FlightBase) -> Result<Arc<dyn Flight>> {
        let plan = match &options.scripted_plan {
            None => Plan::default(),
            Some(path) => {
                let text = std::fs::read(path).during(|| format!("cannot read plan {}", path.display()))?;
                serde_json::from_slice(&text).during(|| format!("invalid plan {}", path.display()))?
            }
        };
        if let Some(text) = plan.flight_error {
            return Err(Error::new(text));
        }
        Ok(Arc::new(ScriptedFlight {
            name: format!("{}-{}", base.base_name, uuid::Uuid::new_v4()),
            plan: Arc::new(plan),
        }))
    }
}

struct ScriptedFlight {
    name: String,
    plan: Arc<Plan>,
}

#[async_trait]
impl Flight for ScriptedFlight {
    fn name(&self) -> &str {
        &self.name
    }

    fn platform(&self) -> &'static str {
        Scripted::NAME
    }

    async fn new_cluster(&self, _name: String) -> Result<Arc<dyn Cluster>> {
        Ok(Arc::new(ScriptedCluster { plan: self.plan.clone() }))
    }

    async fn destroy(&self) {}
}

struct ScriptedCluster {
    plan: Arc<Plan>,
}

#[async_trait]
impl Cluster for ScriptedCluster {
    async fn launch(&self, request: LaunchRequest) -> Result<Arc<dyn Machine>> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        if let Some(text) = &self.plan.launch_error {
            return Err(Error::new(text.clone()));
        }
        tokio::time::sleep(std::time::Duration::from_millis(self.plan.launch_ms)).await;
        let id = format!("scripted-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = request.output_dir.join(&id);
        std::fs::create_dir_all(&dir).during(|| format!("cannot create {}", dir.display()))?;
        let conf = (request.render)(&Variables {
            public_ipv4: "192.0.2.1".into(),
            private_ipv4: "192.0.2.1".into(),
        })?;
        std::fs::write(dir.join("ignition.json"), conf.text()).during(|| "cannot write userdata")?;
        Ok(Arc::new(Script {
            id,
            dir,
            guest: Arc::new(Guest { plan: self.plan.clone(), boots: Mutex::new(0) }),
        }))
    }

    async fn destroy(&self) {}
}

struct Script {
    id: String,
    dir: PathBuf,
    guest: Arc<Guest>,
}

#[async_trait]
impl Machine for Script {
    fn id(&self) -> &str {
        &self.id
    }

    fn address(&self) -> String {
        "192.0.2.1".into()
    }

    fn private_ip(&self) -> String {
        "192.0.2.1".into()
    }

    fn client(&self, _login: ssh::Login, _connect_timeout: std::time::Duration) -> ssh::Client {
        ssh::Client::scripted(self.guest.clone())
    }

    fn dialer(&self) -> Arc<dyn ssh::Dial> {
        Arc::new(ssh::Direct)
    }

    async fn died(&self) -> String {
        match &self.guest.plan.dies {
            Some(words) => words.clone(),
            None => std::future::pending().await,
        }
    }

    async fn console(&self) -> Option<Vec<u8>> {
        Some(self.guest.plan.console.clone().into_bytes())
    }

    async fn destroy(&self) {
        if let Err(e) = std::fs::write(self.dir.join("console.txt"), &self.guest.plan.console) {
            crate::warning!("platform/scripted", "cannot write the console of {}: {e}", self.id);
        }
    }
}

/// The far end of a scripted SSH session.
struct Guest {
    plan: Arc<Plan>,
    boots: Mutex<u32>,
}

/// What every scripted machine answers unless the plan says otherwise.
fn usual(command: &str, boot: u32) -> (String, i32) {
    if command.contains("boot_id") {
        (format!("boot-{boot}"), 0)
    } else if command.contains("is-system-running") {
        ("running".into(), 0)
    } else if command.contains("/etc/os-release") {
        ("ID=debian\nVERSION_ID=1.0.0\n@@failed\n@@selinux\n".into(), 0)
    } else {
        (String::new(), 0)
    }
}

#[async_trait]
impl ssh::Responder for Guest {
    async fn answer(&self, command: &str, _input: &[u8]) -> std::result::Result<ssh::RawOutput, ssh::Error> {
        let lost = |why: &str| ssh::Error::Lost { address: "192.0.2.1:22".into(), source: why.into() };
        if self.plan.silent {
            return std::future::pending().await;
        }
        let boot = *self.boots.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(answer) = self.plan.answers.iter().find(|a| command.contains(&a.command)) else {
            if command.ends_with("sudo reboot") {
                *self.boots.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                return Err(lost("rebooting"));
            }
            let (stdout, status) = usual(command, boot);
            return Ok(ssh::RawOutput { status, stdout: stdout.into_bytes(), stderr: Vec::new() });
        };
        if answer.hangs {
            return std::future::pending().await;
        }
        if answer.reboots {
            *self.boots.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
        if answer.lost {
            return Err(lost("as planned"));
        }
        let (stdout, stderr) = (answer.stdout.clone().into_bytes(), answer.stderr.clone().into_bytes());
        Ok(ssh::RawOutput { status: answer.status, stdout, stderr })
    }

    fn journal(&self) -> Vec<u8> {
        self.plan.journal.clone().into_bytes()
    }
}
