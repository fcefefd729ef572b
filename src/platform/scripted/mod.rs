//! A platform whose machines are scripted in this process: for tests of kola itself, without a guest.
//!
//! A plan (JSON) says how machines boot and what they answer; everything above the SSH session is the real thing.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    Error, Flight, FlightBase, LaunchRequest, Machine, News, Platform, Result, ResultExt, State, Target,
    Variables, Warm, keep_user_data,
};
use crate::cause::{Cause, Diagnosis};
use crate::ledger::{Clean, Failure, Ledger, Leftover, Resource};
use crate::ssh;
use crate::text::last_lines;

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
    /// The machine ends once it is told to be destroyed, long before that is done.
    ends_when_destroyed: bool,
    /// How much slower than on bare hardware machines run; 0: no slower.
    slowness: f64,
    /// Destroying a machine fails with this text.
    destroy_error: Option<String>,
    /// Destroying a machine never ends.
    destroy_hangs: bool,
    /// Destroying the flight fails with this text.
    flight_destroy_error: Option<String>,
    /// Saving a machine's state fails with this text.
    save_error: Option<String>,
    /// Starting a machine from a state fails with this text.
    wake_error: Option<String>,
    /// sshd never answers.
    silent: bool,
    /// What the serial console says.
    console: String,
    /// What the journal says, in export format.
    journal: String,
    /// Launching a machine fails where this is part of its folder's path, with the plan's `launch_error`.
    launch_error_in: Option<String>,
    /// What answers with a chance are drawn by.
    seed: u64,
    /// The first answer whose `command` is part of the command wins; before those that every machine knows.
    answers: Vec<Answer>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Answer {
    command: String,
    /// It is given with this probability; 0: always. By the plan's seed and how often it was drawn before.
    chance: f64,
    /// Only machines after the run's first one answer so.
    of_later: bool,
    stdout: String,
    stderr: String,
    status: i32,
    /// The connection is lost instead.
    lost: bool,
    /// No answer ever comes.
    hangs: bool,
    /// The machine is in another boot afterwards.
    reboots: bool,
    /// The run's first machine, whichever is asked, dies of this command, saying this.
    kills: Option<String>,
    /// The first machine's console says this, too, from this command on.
    console: String,
    /// What the two above do happens so much later than the answer.
    later_ms: u64,
}

impl Plan {
    fn read(options: &Options) -> Result<Self> {
        let Some(path) = &options.scripted_plan else { return Ok(Self::default()) };
        let text = crate::input::read(path).during(|| format!("cannot read plan {}", path.display()))?;
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
        Ok(Arc::new(ScriptedFlight {
            name: base.unique_name(),
            plan: Arc::new(plan),
            ledger: base.ledger,
            first: OnceLock::new(),
        }))
    }
}

struct ScriptedFlight {
    name: String,
    plan: Arc<Plan>,
    ledger: Arc<Ledger>,
    first: OnceLock<Arc<Life>>,
}

#[async_trait]
impl Flight for ScriptedFlight {
    fn name(&self) -> &str {
        &self.name
    }

    fn platform(&self) -> &'static str {
        Scripted::NAME
    }

    fn slowness(&self) -> f64 {
        if self.plan.slowness > 0.0 { self.plan.slowness } else { 1.0 }
    }

    async fn launch(&self, request: LaunchRequest) -> Result<Arc<dyn Machine>> {
        self.begin(request, self.plan.console.as_bytes()).await
    }

    fn warm(&self) -> Result<&dyn Warm> {
        Ok(self)
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

#[async_trait]
impl Warm for ScriptedFlight {
    async fn launch_to_save(&self, request: LaunchRequest) -> Result<Arc<dyn Machine>> {
        self.launch(request).await
    }

    async fn wake(&self, state: &State, request: LaunchRequest) -> Result<Arc<dyn Machine>> {
        if let Some(text) = &self.plan.wake_error {
            return Err(Error::new(text.clone()));
        }
        // What the saved machine had said.
        let said = state.downcast_ref::<Vec<u8>>().map(Vec::as_slice).unwrap_or_default();
        self.begin(request, &[said, b"woken\n"].concat()).await
    }
}

impl ScriptedFlight {
    /// Begins a script whose console says this.
    async fn begin(&self, request: LaunchRequest, console: &[u8]) -> Result<Arc<dyn Machine>> {
        static COUNT: Mutex<u64> = Mutex::new(0);
        let place = request.output_dir.display().to_string();
        let here = self.plan.launch_error_in.as_ref().is_none_or(|part| place.contains(part));
        if let Some(text) = self.plan.launch_error.as_ref().filter(|_| here) {
            return Err(Error::new(text.clone()));
        }
        tokio::time::sleep(Duration::from_millis(self.plan.launch_ms)).await;
        let life = Arc::new(Life {
            ended: watch::Sender::new(self.plan.dies.clone()),
            console: Mutex::new(console.to_vec()),
        });
        let (id, first) = {
            // The first by its number is the first for the plan, too, however many are launched at once.
            let mut count = COUNT.lock().unwrap_or_else(PoisonError::into_inner);
            *count += 1;
            (format!("scripted-{}", *count - 1), self.first.get_or_init(|| life.clone()).clone())
        };
        let dir = request.output_dir.join(&id);
        std::fs::create_dir_all(&dir).during(|| format!("cannot create {}", dir.display()))?;
        let conf = (request.render)(&Variables {
            public_ipv4: "192.0.2.1".into(),
            private_ipv4: "192.0.2.1".into(),
        })?;
        keep_user_data(&dir, "ignition.json", conf.text())?;
        let record = Resource::local("script", id.clone(), Scripted::NAME);
        self.ledger.create(&record).during(|| "cannot record a script")?;
        let guest = Arc::new(Guest { plan: self.plan.clone(), boots: Mutex::new(0), life, first });
        Ok(Arc::new(Script { id, record, ledger: self.ledger.clone(), guest }))
    }
}

/// Whether a machine lives, and what its console has said.
struct Life {
    ended: watch::Sender<Option<String>>,
    console: Mutex<Vec<u8>>,
}

impl Life {
    fn console(&self) -> MutexGuard<'_, Vec<u8>> {
        self.console.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, why: &str) {
        self.ended.send_replace(Some(why.to_owned()));
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

    fn client(&self, _login: ssh::Login, _connect_timeout: Duration) -> ssh::Client {
        ssh::Client::scripted(self.guest.clone())
    }

    fn dialer(&self) -> Arc<dyn ssh::Dial> {
        Arc::new(ssh::Direct)
    }

    async fn died(&self) -> Diagnosis {
        let mut ended = self.guest.life.ended.subscribe();
        // The sender lives in self.
        let Ok(why) = ended.wait_for(Option::is_some).await.map(|why| why.clone()) else {
            return std::future::pending().await;
        };
        let mut text = why.unwrap_or_default();
        let words = last_lines(&self.guest.life.console(), 15);
        if !words.is_empty() {
            text += &format!("\nlast lines of the console:\n{words}");
        }
        Diagnosis::new(Cause::Ended, text)
    }

    async fn console(&self) -> Option<Vec<u8>> {
        Some(self.guest.life.console().clone())
    }

    async fn console_news(&self, seen: usize) -> Option<News> {
        Some(News::More(self.guest.life.console().get(seen..).unwrap_or_default().to_vec()))
    }

    fn resource(&self) -> Resource {
        self.record.clone()
    }

    async fn save(&self) -> Result<State> {
        match &self.guest.plan.save_error {
            Some(text) => Err(Error::new(text.clone())),
            None => Ok(Arc::new(self.guest.life.console().clone())),
        }
    }

    async fn destroy(&self) -> Vec<Leftover> {
        if self.guest.plan.ends_when_destroyed {
            self.guest.life.end("it was destroyed");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
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
    life: Arc<Life>,
    /// That of the run's first machine.
    first: Arc<Life>,
}

impl Guest {
    /// Does to the first machine what an answer says.
    fn strike(&self, answer: &Answer) {
        if answer.kills.is_none() && answer.console.is_empty() {
            return;
        }
        let (life, answer) = (self.first.clone(), answer.clone());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(answer.later_ms)).await;
            life.console().extend_from_slice(answer.console.as_bytes());
            if let Some(why) = &answer.kills {
                life.end(why);
            }
        });
    }
}

/// The next number, from 0 to 1, for an answer of a plan with this seed: the same in each run.
fn draw(seed: u64, answer: usize) -> f64 {
    static DRAWN: Mutex<Vec<u64>> = Mutex::new(Vec::new());
    let mut drawn = DRAWN.lock().unwrap_or_else(PoisonError::into_inner);
    if drawn.len() <= answer {
        drawn.resize(answer + 1, 0);
    }
    drawn[answer] += 1;
    // SplitMix64: <https://prng.di.unimi.it/splitmix64.c>.
    let mut z = [seed, answer as u64, drawn[answer]]
        .into_iter()
        .fold(0_u64, |z, part| z.wrapping_add(part).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
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
        let later = !Arc::ptr_eq(&self.life, &self.first);
        let fits = |a: &&Answer| command.contains(&a.command) && (later || !a.of_later);
        let drawn =
            |(n, a): &(usize, &Answer)| fits(a) && (a.chance == 0.0 || draw(self.plan.seed, *n) < a.chance);
        let answers = self.plan.answers.iter().enumerate();
        let Some((_, answer)) = answers.into_iter().find(drawn) else {
            if command.ends_with("sudo reboot") {
                *self.boots.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                return Err(lost("rebooting"));
            }
            let (stdout, status) = usual(command, boot);
            return Ok(ssh::RawOutput { status, stdout: stdout.into_bytes(), stderr: Vec::new() });
        };
        self.strike(answer);
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
