//! A platform whose machines are scripted in this process: for tests of kola itself, without a guest.
//!
//! A plan (JSON) says how machines boot and what they answer; everything above the SSH session is the real thing.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{
    Error, Flight, FlightBase, LaunchRequest, Machine, Platform, Result, ResultExt, Target, Variables,
    keep_user_data,
};
use crate::ledger::{Clean, Failure, Ledger, Leftover, Resource};
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
    /// Destroying a machine fails with this text.
    destroy_error: Option<String>,
    /// Destroying a machine never ends.
    destroy_hangs: bool,
    /// Destroying the flight fails with this text.
    flight_destroy_error: Option<String>,
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

impl Plan {
    fn read(options: &Options) -> Result<Self> {
        let Some(path) = &options.scripted_plan else { return Ok(Self::default()) };
        let text = std::fs::read(path).during(|| format!("cannot read plan {}", path.display()))?;
        serde_json::from_slice(&text).during(|| format!("invalid plan {}", path.display()))
    }
}

/// Scripts end with their process: there is nothing to remove, unless the plan says that it fails.
struct Cleaner(Plan);

#[async_trait]
impl Clean for Cleaner {
    async fn remove(&self, _resource: &Resource) -> std::result::Result<(), Failure> {
        self.0.destroy_error.clone().map_or(Ok(()), |why| Err(why.into()))
    }
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

    type Prepared = Options;

    fn prepare(options: Options, _target: &Target) -> Result<Options> {
        Ok(options)
    }

    async fn cleaner(options: Options) -> Result<Arc<dyn Clean>> {
        Ok(Arc::new(Cleaner(Plan::read(&options)?)))
    }

    async fn flight(options: Options, base: FlightBase) -> Result<Arc<dyn Flight>> {
        let plan = Plan::read(&options)?;
        if let Some(text) = plan.flight_error {
            return Err(Error::new(text));
        }
        Ok(Arc::new(ScriptedFlight { name: base.unique_name(), plan: Arc::new(plan), ledger: base.ledger }))
    }
}

struct ScriptedFlight {
    name: String,
    plan: Arc<Plan>,
    ledger: Arc<Ledger>,
}

#[async_trait]
impl Flight for ScriptedFlight {
    fn name(&self) -> &str {
        &self.name
    }

    fn platform(&self) -> &'static str {
        Scripted::NAME
    }

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
        keep_user_data(&dir, "ignition.json", conf.text())?;
        let record = Resource::local("script", id.clone(), Scripted::NAME);
        self.ledger.create(&record).during(|| "cannot record a script")?;
        Ok(Arc::new(Script {
            id,
            record,
            ledger: self.ledger.clone(),
            guest: Arc::new(Guest { plan: self.plan.clone(), boots: Mutex::new(0) }),
        }))
    }

    async fn destroy(&self) -> Vec<Leftover> {
        let why = self.plan.flight_destroy_error.clone();
        why.map(|why| Leftover {
            resource: Resource::local("flight", self.name.clone(), Scripted::NAME),
            why,
        })
        .into_iter()
        .collect()
    }
}

struct Script {
    id: String,
    record: Resource,
    ledger: Arc<Ledger>,
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

    fn resource(&self) -> Resource {
        self.record.clone()
    }

    async fn destroy(&self) -> Vec<Leftover> {
        if self.guest.plan.destroy_hangs {
            return std::future::pending().await;
        }
        match &self.guest.plan.destroy_error {
            Some(why) => vec![Leftover { resource: self.record.clone(), why: why.clone() }],
            None => {
                self.ledger.delete(&self.record);
                Vec::new()
            }
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
