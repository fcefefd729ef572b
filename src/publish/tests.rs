//! Plans of the built-in table, looked at without asking anybody.

use tokio_util::sync::CancellationToken;

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
