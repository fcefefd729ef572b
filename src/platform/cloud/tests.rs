//! The discipline, on a provider that exists only here: each of its calls fails, loses its answer or is the last one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};

use super::*;
use crate::http::{Class, Refusal};
use crate::platform::distribution::Distribution;
use crate::platform::{Error, MachineOptions, Target, end};

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It is refused, and not executed.
    Refused,
    /// It is executed; nobody hears of it.
    Lost,
    /// It never answers.
    Silent,
}

#[derive(Default)]
struct Region {
    keys: Vec<String>,
    /// Token by id.
    machines: BTreeMap<String, String>,
    networks: usize,
    console: String,
    calls: Vec<&'static str>,
    /// The call of this number and all later ones of its name fail so.
    fault: Option<(usize, Fault)>,
    /// Machines are shown from this many looks on.
    slow: usize,
    looks: usize,
    /// Machines end by themselves.
    dies: bool,
    /// Machines never run.
    stuck: bool,
}

#[derive(Clone, Default)]
struct Toy(Arc<Mutex<Region>>);

impl Toy {
    fn region(&self) -> std::sync::MutexGuard<'_, Region> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut Region)) {
        change(&mut self.region());
    }

    /// One call: noted, and met by the fault that is due.
    async fn call<T>(&self, name: &'static str, work: impl FnOnce(&mut Region) -> T) -> Result<T, CallError> {
        let fault = {
            let mut region = self.region();
            region.calls.push(name);
            let at = region.calls.len() - 1;
            region.fault.filter(|(from, _)| at >= *from && region.calls[*from] == name).map(|(_, f)| f)
        };
        match fault {
            None => Ok(work(&mut self.region())),
            Some(Fault::Refused) => {
                let refusal = Refusal { status: 403, class: Class::Denied, ..Refusal::default() };
                Err(CallError::Refused { call: name.into(), refusal: Box::new(refusal) })
            }
            Some(Fault::Lost) => {
                work(&mut self.region());
                Err(CallError::answer(name, "the connection broke"))
            }
            Some(Fault::Silent) => std::future::pending().await,
        }
    }

    fn left(&self) -> Vec<String> {
        let region = self.region();
        region.keys.iter().chain(region.machines.keys()).cloned().collect()
    }
}

#[async_trait]
impl Provider for Toy {
    const TRAITS: Traits = Traits {
        platform: "toy",
        service: "Toy",
        machine: "box",
        flight: Some("key"),
        user_data: 1000,
        variables: ("${PUBLIC}", "${PRIVATE}"),
        running: Poll::seconds(1, 30),
        shown: Poll::seconds(1, 10),
        console: Console::AfterEnd(Poll::seconds(1, 10)),
        lacking: &[],
    };
    type Shared = ();

    fn place(&self) -> &str {
        "here"
    }

    fn properties(&self) -> serde_json::Map<String, serde_json::Value> {
        serde_json::Map::new()
    }

    async fn open(&self, name: &str, _key: &str) -> Result<(), CallError> {
        self.call("open", |r| r.keys.push(name.to_owned())).await
    }

    async fn close(&self, name: &str) -> Result<(), CallError> {
        self.call("close", |r| r.keys.retain(|k| k != name)).await
    }

    async fn prepare(&self, _ledger: &Ledger, _cancel: &CancellationToken) -> Result<()> {
        self.call("prepare", |r| r.networks += 1).await.during(|| "no network")
    }

    async fn order(&self, (): &(), order: &Order<'_>) -> Result<String> {
        let made = self.call("order", |r| {
            let id = format!("box-{}", r.machines.len());
            r.machines.insert(id.clone(), order.token.to_owned());
            id
        });
        made.await.map_err(|source| crate::platform::Error::Call { what: "no box".into(), source })
    }

    async fn state(&self, id: &str) -> Result<State, CallError> {
        self.call("state", |r| {
            r.looks += 1;
            match r.machines.contains_key(id) {
                _ if r.looks <= r.slow => State::Missing,
                false => State::Missing,
                true if r.dies => State::Ended("no power".into()),
                true if r.stuck => State::Pending("boxing".into()),
                true => State::Running { address: "127.0.0.1:40022".into(), private_ip: "10.0.0.7".into() },
            }
        })
        .await
    }

    async fn find(&self, token: &str) -> Result<Vec<String>, CallError> {
        self.call("find", |r| {
            r.looks += 1;
            if r.looks <= r.slow {
                return Vec::new();
            }
            r.machines.iter().filter(|(_, t)| *t == token).map(|(id, _)| id.clone()).collect()
        })
        .await
    }

    async fn end(&self, id: &str) -> Result<(), CallError> {
        self.call("end", |r| {
            r.machines.remove(id);
            r.console += "shut down\n";
        })
        .await
    }

    async fn console(&self, _id: &str) -> Result<Option<Vec<u8>>, CallError> {
        self.call("console", |r| Some(r.console.clone().into_bytes())).await
    }

    fn stop_command(&self, id: &str) -> String {
        format!("toy end {id}")
    }

    fn in_place(&self, place: &str) -> Result<Self, CallError> {
        Err(CallError::setup(format!("there is no {place}")))
    }
}

fn key() -> Arc<ssh::Key> {
    static KEY: LazyLock<Arc<ssh::Key>> = LazyLock::new(|| Arc::new(ssh::Key::generate().unwrap()));
    KEY.clone()
}

fn base(out: &Path) -> FlightBase {
    FlightBase {
        base_name: "kola".into(),
        output_dir: out.to_owned(),
        target: Target { board: "amd64-usr".into(), distribution: Distribution::named("cl").unwrap() },
        cancel: CancellationToken::new(),
        ledger: Arc::new(Ledger::open(out).unwrap()),
        key: key(),
    }
}

async fn flight(toy: &Toy, out: &Path) -> Result<CloudFlight<Toy>> {
    toy.set(|r| r.console = "booted\n".into());
    CloudFlight::start(std::future::ready(Ok(toy.clone())), base(out)).await
}

fn request(out: &Path, text: &str) -> LaunchRequest {
    let script = crate::conf::UserData::script(format!("#!/bin/sh\n{text}"));
    LaunchRequest {
        cluster: "kola-cluster".into(),
        cancel: CancellationToken::new(),
        render: Arc::new(move |v: &Variables| {
            let (default, none) = (crate::conf::IgnitionVersion::V2, crate::conf::Additions::default());
            crate::conf::render(Some(&script), default, &v.public_ipv4, &v.private_ipv4, &none)
                .during(|| "render")
        }),
        options: MachineOptions::default(),
        output_dir: out.to_owned(),
        survive: false,
        no_ssh_key_in_metadata: false,
    }
}

/// A run of one machine; what its flight and its machine left.
async fn run(toy: &Toy, out: &Path) -> Result<Vec<Leftover>> {
    let flight = flight(toy, out).await?;
    let launched = flight.launch(request(out, "")).await;
    let mut left = Vec::new();
    if let Ok(machine) = &launched {
        left = end(&**machine, &out.join(machine.id())).await.left;
    }
    left.extend(crate::platform::end_flight(&flight).await);
    launched.map(|_| left)
}

async fn clean(toy: &Toy, out: &Path) -> ledger::Cleaned {
    let cleaner = Leftovers::new(toy.clone());
    ledger::clean_up(out, |_| true, &cleaner, &CancellationToken::new(), |_, _| {}).await.unwrap()
}

#[tokio::test]
async fn who_signs_in_for_long_can_be_interrupted() {
    let out = tempfile::tempdir().unwrap();
    let base = base(out.path());
    base.cancel.cancel();
    let never = std::future::pending::<Result<Toy>>();
    assert!(matches!(CloudFlight::start(never, base).await, Err(Error::Cancelled)));
    assert_eq!(ledger::left_over(out.path()).unwrap(), []);
}

#[tokio::test]
async fn a_machine_from_nothing_to_nothing() {
    let (out, toy) = (tempfile::tempdir().unwrap(), Toy::default());
    toy.set(|r| r.slow = 2);
    assert_eq!(run(&toy, out.path()).await.unwrap(), []);
    let order = ["open", "prepare", "order", "state", "state", "state", "console", "end", "console", "close"];
    assert_eq!(toy.region().calls, order);
    let console = std::fs::read_to_string(out.path().join("box-0/console.txt")).unwrap();
    assert_eq!(console, "booted\nshut down\n");
    assert_eq!(ledger::left_over(out.path()).unwrap(), []);
}

/// Each call fails for good, loses its answer for good, or never answers: what is left at the provider is on record,
/// and one clean-up removes it once the provider is well again.
#[tokio::test(start_paused = true)]
async fn nothing_is_lost_wherever_a_run_fails() {
    let calls = {
        let (out, toy) = (tempfile::tempdir().unwrap(), Toy::default());
        run(&toy, out.path()).await.unwrap();
        toy.region().calls.clone()
    };
    for (at, call) in calls.iter().enumerate() {
        for fault in [Fault::Refused, Fault::Lost, Fault::Silent] {
            let (out, toy) = (tempfile::tempdir().unwrap(), Toy::default());
            toy.set(|r| r.fault = Some((at, fault)));
            let case = format!("call {at} {call}, {fault:?}");
            let ended = tokio::time::timeout(10 * crate::platform::DESTROY, run(&toy, out.path()));
            // Orders have no limit of their own here: providers' APIs have them.
            let hangs = fault == Fault::Silent && matches!(*call, "open" | "prepare" | "order" | "state");
            let outcome = match hangs {
                true => tokio::time::timeout(std::time::Duration::from_millis(50), run(&toy, out.path()))
                    .await
                    .unwrap_or_else(|_| Err(crate::platform::Error::new("killed"))),
                false => ended.await.unwrap(),
            };
            let left = toy.left();
            let recorded = ledger::left_over(out.path()).unwrap();
            assert!(left.len() <= recorded.len(), "{case}: {left:?} is left, {recorded:?} on record");
            match outcome {
                // What the run did not notice is not left.
                Ok(said) if said.is_empty() => assert!(left.is_empty() && *call == "console", "{case}"),
                Ok(_) => assert!(matches!(*call, "end" | "close"), "{case}"),
                Err(_) => {}
            }
            toy.set(|r| r.fault = None);
            let cleaned = clean(&toy, out.path()).await;
            assert!(cleaned.left.is_empty(), "{case}: {:?}", cleaned.left);
            assert_eq!(toy.left(), [""; 0], "{case}");
            assert_eq!(ledger::left_over(out.path()).unwrap(), [], "{case}");
        }
    }
}

#[tokio::test]
async fn a_lost_order_is_looked_for_until_it_shows() {
    let (out, toy) = (tempfile::tempdir().unwrap(), Toy::default());
    toy.set(|r| (r.fault, r.slow) = (Some((2, Fault::Lost)), 3));
    assert!(run(&toy, out.path()).await.is_err());
    assert_eq!((toy.left(), ledger::left_over(out.path()).unwrap()), (vec![], vec![]));
    // One that was refused for certain is looked for once.
    let (out, toy) = (tempfile::tempdir().unwrap(), Toy::default());
    toy.set(|r| r.fault = Some((2, Fault::Refused)));
    assert!(run(&toy, out.path()).await.is_err());
    assert_eq!(toy.region().calls, ["open", "prepare", "order", "find", "close"]);
}

#[tokio::test]
async fn what_machines_share_is_made_once() {
    let (out, toy) = (tempfile::tempdir().unwrap(), Toy::default());
    let flight = flight(&toy, out.path()).await.unwrap();
    let launches = (0..8).map(|_| flight.launch(request(out.path(), "")));
    let launched = futures_util::future::join_all(launches).await;
    assert!(launched.iter().all(Result::is_ok));
    let region = toy.region();
    assert_eq!((region.networks, region.machines.len()), (1, 8));
}

#[tokio::test]
async fn waits_end_with_the_reason() {
    let out = tempfile::tempdir().unwrap();
    let launch = async |change: fn(&mut Region)| {
        let toy = Toy::default();
        let flight = flight(&toy, out.path()).await.unwrap();
        toy.set(change);
        let e = flight.launch(request(out.path(), "")).await.err().unwrap();
        assert!(toy.region().machines.is_empty());
        chain(&e)
    };
    assert_eq!(
        launch(|r| r.dies = true).await,
        "waiting for box box-0 to run: box box-0 has ended: no power"
    );
    let late = launch(|r| r.stuck = true).await;
    assert!(late.contains("box box-0 running not within 30 s; it was last seen as: boxing"), "{late}");
}

#[tokio::test]
async fn a_cluster_that_is_destroyed_waits_for_no_launch() {
    let (out, toy) = (tempfile::tempdir().unwrap(), Toy::default());
    let flight = flight(&toy, out.path()).await.unwrap();
    toy.set(|r| r.stuck = true);
    let request = request(out.path(), "");
    let cancel = request.cancel.clone();
    let close = async {
        while toy.region().calls.iter().filter(|c| **c == "state").count() < 2 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    };
    let (launched, ()) = tokio::join!(flight.launch(request), close);
    assert!(matches!(launched.err().unwrap(), crate::platform::Error::Cancelled));
    assert!(toy.region().machines.is_empty());
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_anything_is_made() {
    let (out, toy) = (tempfile::tempdir().unwrap(), Toy::default());
    let flight = flight(&toy, out.path()).await.unwrap();
    let e = flight.launch(request(out.path(), &"x".repeat(1000))).await.err().unwrap();
    assert!(e.to_string().ends_with("bytes, Toy takes 1000"), "{e}");
    let disk = crate::platform::Disk::Empty { size: "1G".into(), device: Vec::new() };
    let options = MachineOptions { disks: vec![disk], ..MachineOptions::default() };
    let wish = LaunchRequest { options, ..request(out.path(), "") };
    let e = flight.launch(wish).await.err().unwrap();
    assert_eq!(e.to_string(), "platform toy has no additional disks");
    assert_eq!(toy.region().calls, ["open"]);
}

#[tokio::test]
async fn places_and_kinds_that_are_not_known_are_said() {
    let cleaner = Leftovers::new(Toy::default());
    let resource = |kind: &str, place: &str| Resource {
        kind: kind.into(),
        id: "x".into(),
        platform: "toy".into(),
        place: place.into(),
    };
    let why = async |kind, place| cleaner.remove(&resource(kind, place)).await.map_err(|e| e.to_string());
    assert_eq!(why("key", "here").await, Ok(()));
    assert_eq!(why("key", "there").await, Err("there is no there".into()));
    assert!(why("moon", "here").await.unwrap_err().contains("what a moon is"));
}
