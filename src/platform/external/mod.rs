//! Platform `external`: machines of the user's own laboratory, made and freed by the user's own commands.
//!
//! It is no [`super::cloud::Provider`]: there is nobody who could be asked what there is, in what state it is, or what an
//! order with a lost answer has made. There are only three commands; the machine's token is all that ties them together.
//! Its ledger line holds that token before the first of them runs, and the last of them frees what the first has made,
//! finished or not. README.md in this folder says how a laboratory is connected, with an example.

mod lab;
mod options;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::lab::{Commands, Lab, Step};
pub use self::options::Options;
use super::{
    CONSOLE_FILE, Error, Flight, FlightBase, LaunchRequest, Machine, News, Platform, Result, ResultExt,
    Target, Variables, keep_user_data,
};
use crate::ledger::{self, Clean, Failure, Ledger, Leftover, Resource};
use crate::ssh;
use crate::text::chain;

const NAME: &str = "external";
/// Kind of the ledger's entries: the token, and the address behind `@` once it is known.
const MACHINE: &str = "machine";
/// How long a console may take to end once its machine is gone.
const CONSOLE_END: Duration = Duration::from_secs(20);

/// The platform.
pub struct External;

impl Platform for External {
    const NAME: &'static str = NAME;
    const ABOUT: &'static str = "machines of your own laboratory, made by your own commands";
    const INTERNET: bool = true;
    const PROPERTIES: &'static str = NAME;
    type Options = Options;
    type Prepared = Options;

    fn prepare(options: Options, _target: &Target) -> Result<Options> {
        lab::check_here(&options)?;
        Lab::new(&options, Commands::of(&options, false)?)?;
        Ok(options)
    }

    async fn cleaner(options: Options) -> Result<Arc<dyn Clean>> {
        let commands = Commands::of(&options, true)?;
        Ok(Arc::new(Cleaner(Lab::new(&options, commands)?)))
    }

    async fn flight(options: Options, base: FlightBase) -> Result<Arc<dyn Flight>> {
        let lab = Lab::new(&options, Commands::of(&options, false)?)?;
        Ok(Arc::new(ExternalFlight { name: base.unique_name(), lab, ledger: base.ledger }))
    }
}

/// A machine as the ledger names it.
fn resource(lab: &Lab, machine: &str, address: Option<&str>) -> Resource {
    let id = address.map_or_else(|| machine.to_owned(), |address| format!("{machine}@{address}"));
    Resource { kind: MACHINE.into(), id, platform: NAME.into(), place: lab.place.clone() }
}

struct Cleaner(Lab);

#[async_trait]
impl Clean for Cleaner {
    async fn remove(&self, resource: &Resource) -> Result<(), Failure> {
        if resource.is_local() {
            return ledger::Local.remove(resource).await;
        }
        if resource.kind != MACHINE {
            return Err(format!("this version of mantle does not know what a {} is", resource.kind).into());
        }
        if resource.place != self.0.place {
            let host = |place: &str| match place {
                "" => "this machine".to_owned(),
                place => place.to_owned(),
            };
            let (was, is) = (host(&resource.place), host(&self.0.place));
            return Err(format!("it was made on {was}, the options name {is}").into());
        }
        let (machine, address) = match resource.id.split_once('@') {
            Some((machine, address)) => (machine, Some(address)),
            None => (resource.id.as_str(), None),
        };
        self.0.run(Step::Deprovision, machine, address).await?;
        Ok(())
    }
}

struct ExternalFlight {
    name: String,
    lab: Lab,
    ledger: Arc<Ledger>,
}

#[async_trait]
impl Flight for ExternalFlight {
    fn name(&self) -> &str {
        &self.name
    }

    fn platform(&self) -> &'static str {
        NAME
    }

    fn lacking(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("disks", "kola adds no disks to machines of others"),
            ("firmware", "it is the laboratory's"),
            ("private-network", "kola serves nothing to machines of others"),
        ]
    }

    async fn launch(&self, request: LaunchRequest) -> Result<Arc<dyn Machine>> {
        if !request.options.disks.is_empty() {
            return Err(Error::Unsupported { platform: NAME, what: "additional disks" });
        }
        // As Container Linux Configs of platform `custom` have them.
        let variables = Variables {
            public_ipv4: "${COREOS_CUSTOM_PUBLIC_IPV4}".into(),
            private_ipv4: "${COREOS_CUSTOM_PRIVATE_IPV4}".into(),
        };
        let conf = (request.render)(&variables)?;
        let user_data = if conf.is_empty() { "" } else { conf.text() };
        let id = uuid::Uuid::new_v4().to_string();
        let dir = request.output_dir.join(&id);
        std::fs::create_dir_all(&dir).during(|| format!("cannot create {}", dir.display()))?;
        keep_user_data(&dir, "user-data", user_data)?;
        if request.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let mut record = resource(&self.lab, &id, None);
        self.ledger.create(&record).during(|| format!("cannot record {record}"))?;
        let made = self.provision(&request.cancel, &id, user_data, &mut record).await;
        let (address, private_ip) = match made {
            Ok(addresses) => addresses,
            Err(e) => {
                for leftover in free(&self.lab, &self.ledger, &id, None, &record).await {
                    crate::error!(NAME, "{leftover}");
                    self.ledger.keep(&leftover);
                }
                return Err(e);
            }
        };
        crate::info!(NAME, "machine {id} is at {address}");
        let console = dir.join(CONSOLE_FILE);
        let (told, task) = (Arc::new(AtomicBool::new(false)), Mutex::new(None));
        if let Some(command) = self.lab.commands.console.clone() {
            let (lab, told, id) = (self.lab.clone(), told.clone(), id.clone());
            let (address, console) = (address.clone(), console.clone());
            let copy = tokio::spawn(async move {
                let ended = lab.console(&command, &id, &address, &console).await;
                match ended {
                    _ if told.load(Ordering::SeqCst) => {}
                    Ok(()) => crate::warning!(NAME, "the console of machine {id} has ended"),
                    Err(e) => crate::warning!(NAME, "{}", chain(&e)),
                }
            });
            *task.lock().unwrap_or_else(PoisonError::into_inner) = Some(AbortOnDropHandle::new(copy));
        }
        let (lab, ledger) = (self.lab.clone(), self.ledger.clone());
        Ok(Arc::new(ExternalMachine { id, address, private_ip, console, task, told, record, lab, ledger }))
    }

    async fn destroy(&self) -> Vec<Leftover> {
        self.lab.close().await;
        Vec::new()
    }
}

impl ExternalFlight {
    /// Makes a machine; returns its address, and that among machines. The record has the address, too, then.
    async fn provision(
        &self,
        cancel: &CancellationToken,
        id: &str,
        user_data: &str,
        record: &mut Resource,
    ) -> Result<(String, String)> {
        let run = self.lab.run(Step::Provision(user_data), id, None);
        let said = cancel.run_until_cancelled(run).await.unwrap_or(Err(Error::Cancelled))?;
        let (address, private_ip) = addresses(&said)
            .ok_or_else(|| Error::new(format!("no address of machine {id}: {}", misspoken(&said))))?;
        let known = resource(&self.lab, id, Some(&address));
        self.ledger.create(&known).during(|| format!("cannot record {known}"))?;
        self.ledger.delete(record);
        *record = known;
        Ok((address, private_ip))
    }
}

/// Frees a machine; returns what is left of it.
async fn free(
    lab: &Lab,
    ledger: &Ledger,
    id: &str,
    address: Option<&str>,
    record: &Resource,
) -> Vec<Leftover> {
    match lab.run(Step::Deprovision, id, address).await {
        Ok(_) => {
            ledger.delete(record);
            Vec::new()
        }
        Err(e) => vec![Leftover { resource: record.clone(), why: chain(&e) }],
    }
}

/// The last line that is not empty: the address, and that among machines, which is the same if there is no other.
fn addresses(said: &str) -> Option<(String, String)> {
    let line = said.lines().rev().find(|l| !l.trim().is_empty())?;
    let mut words = line.split_whitespace();
    let public = words.next()?;
    let private = words.next().map_or_else(|| without_port(public), str::to_owned);
    let sane = |text: &str| {
        text.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:[]%".contains(c)) && !text.starts_with('-')
    };
    (words.next().is_none() && sane(public) && sane(&private)).then(|| (public.to_owned(), private))
}

/// The host of an address that may have a port.
fn without_port(address: &str) -> String {
    let full = ssh::with_port(address);
    let host = full.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_matches(['[', ']']).to_owned()
}

/// What was said in place of an address.
fn misspoken(said: &str) -> String {
    match said.trim() {
        "" => "its provisioning commands printed nothing".into(),
        text => format!("its provisioning commands printed {:?}", text.chars().take(200).collect::<String>()),
    }
}

struct ExternalMachine {
    id: String,
    address: String,
    private_ip: String,
    console: PathBuf,
    /// Copies the console into its file.
    task: Mutex<Option<AbortOnDropHandle<()>>>,
    /// Set once the machine is told to end.
    told: Arc<AtomicBool>,
    record: Resource,
    lab: Lab,
    ledger: Arc<Ledger>,
}

#[async_trait]
impl Machine for ExternalMachine {
    fn id(&self) -> &str {
        &self.id
    }

    fn address(&self) -> String {
        self.address.clone()
    }

    fn private_ip(&self) -> String {
        self.private_ip.clone()
    }

    fn dialer(&self) -> Arc<dyn ssh::Dial> {
        Arc::new(ssh::Direct)
    }

    async fn console(&self) -> Option<Vec<u8>> {
        tokio::fs::read(&self.console).await.ok()
    }

    async fn console_news(&self, seen: usize) -> Option<News> {
        News::of_file(&self.console, seen).await.ok()
    }

    fn console_pace(&self) -> Option<Duration> {
        self.lab.commands.console.is_some().then(|| Duration::from_millis(500))
    }

    fn hints(&self) -> Vec<String> {
        let on = if self.lab.place.is_empty() { "here" } else { self.lab.place.as_str() };
        vec![
            format!("machine {}: {}", self.id, self.address),
            format!(
                "stop it with the deprovisioning commands, {on}: MACHINE={} IPADDR={}",
                self.id, self.address
            ),
        ]
    }

    fn resource(&self) -> Resource {
        self.record.clone()
    }

    async fn destroy(&self) -> Vec<Leftover> {
        self.told.store(true, Ordering::SeqCst);
        let left = free(&self.lab, &self.ledger, &self.id, Some(&self.address), &self.record).await;
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            // Its command was ended; what it had said is still on its way.
            let _ = tokio::time::timeout(CONSOLE_END, task).await;
        }
        left
    }
}
