//! Plans of the built-in table, looked at without asking anybody.

use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::journal::Journal;
use super::*;
use crate::cloud::google::storage::{Options, Storage};
use crate::download::Engine;
use crate::http::{Client, Limits, Retry};
use crate::openpgp::{Builtin, Keyring};
use crate::release::Table;

fn release(distribution: &str, channel: &str, board: &str) -> Release {
    let table = Table::builtin().unwrap();
    let selection =
        table.distribution(distribution).unwrap().select(channel, board, "1.2.3", Some("me")).unwrap();
    let http = Client::new(Limits::default(), Retry::default()).unwrap();
    let options = Options::from_environment(Choice::default(), &[], false).unwrap();
    let storage = Storage::new(http.clone(), options);
    let engine = Engine::new(http, Some(storage.clone()));
    let keyring = Keyring::builtin(Builtin::Both).unwrap();
    let build = Build::new(&selection.source, storage, engine, keyring, "/nowhere".into(), "/nowhere".into());
    let azure = azure_cloud::Account {
        azure_profile: None,
        azure_subscription: None,
        azure_auth: None,
        azure_location: "westus".into(),
        azure_endpoint: None,
    };
    Release {
        distribution: distribution.into(),
        selection,
        date: NaiveDate::from_ymd_opt(2026, 1, 2).unwrap(),
        build,
        accounts: Accounts { google: Choice::default(), aws_credentials: None, azure },
        allow_mass_delete: false,
        gates: Vec::new(),
        cancel: CancellationToken::new(),
    }
}

fn keys(steps: &[Step], phase: Phase) -> Vec<&str> {
    steps.iter().filter(|s| s.phase == phase).map(|s| s.key.as_str()).collect()
}

#[test]
fn the_plans_of_all_channels_are_sound() {
    let table = Table::builtin().unwrap();
    for (name, distribution) in table.distributions() {
        for (channel, facts) in &distribution.channels {
            for board in &facts.boards {
                let release = release(name, channel, board);
                let steps = plan(&release, Stage::Whole, &[]);
                let mut all: Vec<&str> = steps.iter().map(|s| s.key.as_str()).collect();
                all.sort_unstable();
                let count = all.len();
                all.dedup();
                assert_eq!(all.len(), count, "{name} {channel} {board}: a key stands twice");
                assert!(steps.is_sorted_by_key(|s| s.phase));
                for step in &steps {
                    for need in &step.needs {
                        let needed = steps.iter().find(|s| s.key == *need);
                        let needed =
                            needed.unwrap_or_else(|| panic!("{} needs {need}, which nobody does", step.key));
                        assert!(needed.phase == step.phase, "{}: {need} is of another phase", step.key);
                    }
                }
            }
        }
    }
}

#[test]
fn nothing_is_public_before_the_release() {
    let release = release("cl", "alpha", "amd64-usr");
    let before = plan(&release, Stage::Prepare, &[]);
    assert!(before.iter().all(|s| s.phase <= Phase::Prepare), "{before:?}");
    assert!(!before.iter().any(|s| s.key.starts_with("gce/") || s.key.starts_with("files/")), "{before:?}");
    let after = plan(&release, Stage::Release, &[]);
    assert!(keys(&after, Phase::Prepare).is_empty());
    assert!(keys(&after, Phase::Publish).contains(&"aws/us-gov-east-1/hvm/public"));
    assert_eq!(keys(&after, Phase::Files).len(), 4);
    // All that leads to the newest release comes after all that is public.
    let points = keys(&after, Phase::Point);
    assert!(
        points.contains(&"gce/family") && points.contains(&"files/folder/coreos-alpha/amd64-usr/current/")
    );
    let only = plan(&release, Stage::Prepare, &["azure".to_owned()]);
    let prepared = keys(&only, Phase::Prepare);
    let of =
        |place: &str, what: &[&str]| what.iter().map(|w| format!("azure/{place}/{w}")).collect::<Vec<_>>();
    let expected = [
        of("BizSpark", &["publish", "pre-publish", "image", "regions"]),
        of("BlackForest", &["publish", "image", "regions"]),
        of("Mooncake", &["publish", "image", "regions"]),
    ];
    assert_eq!(prepared, expected.concat());
}

#[test]
fn flatcar_has_blobs_and_no_paravirtual_images() {
    let release = release("flatcar", "stable", "arm64-usr");
    let steps = plan(&release, Stage::Whole, &[]);
    let prepared = keys(&steps, Phase::Prepare);
    assert!(prepared.contains(&"azure/flatcar0001/publish") && !prepared.iter().any(|k| k.ends_with("/pv")));
    let does: Vec<_> = steps.iter().map(|s| s.does.as_str()).collect();
    assert!(does.contains(&"copy image Flatcar-stable-1.2.3-arm64-hvm in us-east-1"), "{does:?}");
    let blob = "upload blob flatcar-linux-1.2.3-stable-arm64.vhd to container publish of flatcar0001";
    assert!(does.contains(&blob), "{does:?}");
    assert!(does.contains(&"create GCE image flatcar-stable-1-2-3-arm64"), "{does:?}");
}

/// Waits for somebody, then lets others go on; or fails.
struct Fake {
    waits: Option<Arc<Notify>>,
    tells: Option<Arc<Notify>>,
    fails: bool,
}

#[async_trait(?Send)]
impl Act for Fake {
    async fn look(&self, _: &World<'_>) -> Result<Look> {
        Ok(Look::Todo(Vec::new()))
    }

    async fn run(&self, _: &World<'_>) -> Result<Value> {
        if let Some(waits) = &self.waits {
            waits.notified().await;
        }
        if let Some(tells) = &self.tells {
            tells.notify_one();
        }
        if self.fails { Err(Stopped::words("no")) } else { Ok(json!({})) }
    }
}

fn fake(key: &str, phase: Phase, waits: Option<&Arc<Notify>>, tells: Option<&Arc<Notify>>) -> Step {
    Step::new(key, phase, key, Fake { waits: waits.cloned(), tells: tells.cloned(), fails: false })
}

fn failing(key: &str, phase: Phase) -> Step {
    Step::new(key, phase, key, Fake { waits: None, tells: None, fails: true })
}

async fn carried_out(steps: &[Step]) -> (Result<(), Error>, Vec<String>) {
    let release = release("flatcar", "stable", "amd64-usr");
    let (world, journal) = (World::new(&release, false), Journal::look("no such release").unwrap());
    let findings = survey(steps, &world, &journal).await.unwrap();
    let result = carry_out(steps, &findings, &world, &journal).await;
    let done = steps.iter().filter(|s| world.known(&s.key).is_some()).map(|s| s.key.clone()).collect();
    (result, done)
}

#[tokio::test]
async fn a_slow_cloud_does_not_hold_up_the_others() {
    let last = Arc::new(Notify::new());
    let steps = [
        fake("azure/copy", Phase::Prepare, Some(&last), None),
        fake("aws/snapshot", Phase::Prepare, None, None),
        fake("aws/image", Phase::Prepare, None, None).after("aws/snapshot"),
        fake("aws/copy", Phase::Prepare, None, Some(&last)).after("aws/image"),
    ];
    let (result, done) = carried_out(&steps).await;
    result.unwrap();
    assert_eq!(done.len(), 4);
}

#[tokio::test]
async fn a_failure_stops_what_needs_it_and_all_that_comes_later() {
    let prepare = |key: &str| fake(key, Phase::Prepare, None, None);
    let steps = [
        failing("azure/blob", Phase::Prepare),
        prepare("azure/image").after("azure/blob"),
        prepare("aws/snapshot"),
        prepare("aws/image").after("aws/snapshot"),
        fake("aws/public", Phase::Publish, None, None),
    ];
    let (result, done) = carried_out(&steps).await;
    assert!(matches!(result, Err(Error::Step { what, .. }) if what == "azure/blob"));
    assert_eq!(done, ["aws/snapshot", "aws/image"]);
    // Nothing more becomes public once something could not.
    let publish = |key: &str| fake(key, Phase::Publish, None, None);
    let steps = [
        failing("gce/image", Phase::Publish),
        publish("aws/a"),
        publish("aws/b").after("aws/a"),
        publish("gce/public").after("gce/image"),
    ];
    let (result, done) = carried_out(&steps).await;
    assert!(result.is_err());
    assert_eq!(done, ["aws/a"]);
    let steps = [prepare("aws/a").after("aws/b"), prepare("aws/b").after("aws/a")];
    assert!(carried_out(&steps).await.0.is_err(), "they wait for each other");
}
