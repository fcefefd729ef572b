//! The driver against a fake that plays EC2 and IAM: what is asked for, in which order, and what is left.

mod cloud;

use std::path::Path;
use std::sync::{Arc, LazyLock};

use clap::Parser as _;
use tokio::sync::OnceCell;

use self::cloud::Cloud;
use super::*;
use crate::cloud::aws::api::Api;
use crate::cloud::aws::environment::Environment;
use crate::http::fake::Fake;
use crate::ledger;
use crate::platform::distribution::Distribution;
use crate::platform::{LaunchRequest, MachineOptions, Variables, end};
use crate::ssh;
use crate::text::chain;

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn options(url: &str) -> Options {
    let line = ["kola", "--aws-ami=ami-1", "--aws-region=us-west-2", "--aws-endpoint", url];
    Cli::try_parse_from(line).unwrap().options
}

async fn api_at(url: &str) -> Api {
    static API: OnceCell<Api> = OnceCell::const_new();
    let make = || async {
        let env = Environment::from([
            ("AWS_ACCESS_KEY_ID", "AKID"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("HOME", "/nonexistent"),
            ("MANTLE_POLL_SCALE", "0.001"),
        ]);
        Api::with_environment(&options("http://nowhere").account, &env).await.unwrap()
    };
    API.get_or_init(make).await.at(url)
}

/// One for all: making one takes a while.
fn key() -> Arc<ssh::Key> {
    static KEY: LazyLock<Arc<ssh::Key>> = LazyLock::new(|| Arc::new(ssh::Key::generate().unwrap()));
    KEY.clone()
}

async fn flight(url: &str, out: &Path) -> Result<CloudFlight<Aws>> {
    let base = FlightBase {
        base_name: "kola".into(),
        output_dir: out.to_owned(),
        target: Target { board: "amd64-usr".into(), distribution: Distribution::named("cl").unwrap() },
        cancel: CancellationToken::new(),
        ledger: Arc::new(Ledger::open(out).unwrap()),
        key: key(),
    };
    let provider = async { Ok(Aws::new(api_at(url).await, "ami-1".into(), options(url))) };
    CloudFlight::start(provider, base).await
}

fn request(out: &Path, text: &str) -> LaunchRequest {
    let text = text.to_owned();
    LaunchRequest {
        cluster: "kola-cluster".into(),
        cancel: CancellationToken::new(),
        render: Arc::new(move |v: &Variables| {
            let data = crate::conf::UserData::script(format!("#!/bin/sh\n{text}"));
            let additions = crate::conf::Additions::default();
            crate::conf::render(
                Some(&data),
                crate::conf::IgnitionVersion::V2,
                &v.public_ipv4,
                &v.private_ipv4,
                &additions,
            )
            .during(|| "render")
        }) as crate::platform::Render,
        options: MachineOptions::default(),
        output_dir: out.to_owned(),
        survive: false,
        no_ssh_key_in_metadata: false,
    }
}

/// The kinds of what is left.
fn left(out: &Path) -> Vec<String> {
    ledger::left_over(out).unwrap().into_iter().map(|r| r.kind).collect()
}

#[tokio::test]
async fn a_machine_from_nothing_to_nothing() {
    let out = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let flight = flight(cloud.url(), out.path()).await.unwrap();
    let machine = flight.launch(request(out.path(), "echo hi")).await.unwrap();
    assert_eq!((machine.address().as_str(), machine.private_ip().as_str()), ("127.0.0.1:40022", "10.0.0.7"));
    let run = cloud.asked("RunInstances").remove(0);
    for (name, value) in [
        ("Version", "2016-11-15"),
        ("ImageId", "ami-1"),
        ("MinCount", "1"),
        ("MaxCount", "1"),
        ("InstanceType", "m4.large"),
        ("KeyName", flight.name()),
        ("IamInstanceProfile.Name", "kola"),
        ("SubnetId", "subnet-4"),
        ("SecurityGroupId.1", "sg-6"),
        ("TagSpecification.1.ResourceType", "instance"),
        ("TagSpecification.1.Tag.1.Key", "Name"),
        ("TagSpecification.1.Tag.1.Value", "kola-cluster"),
        ("TagSpecification.1.Tag.2.Key", "CreatedBy"),
        ("TagSpecification.1.Tag.2.Value", "mantle"),
    ] {
        assert_eq!(run.get(name), value, "{name}");
    }
    let sent = openssl::base64::decode_block(run.get("UserData")).unwrap();
    let dir = out.path().join(machine.id());
    assert_eq!(std::fs::read(dir.join("user-data")).unwrap(), sent);
    assert!(String::from_utf8(sent).unwrap().contains("echo hi"));
    let key =
        openssl::base64::decode_block(cloud.asked("ImportKeyPair")[0].get("PublicKeyMaterial")).unwrap();
    assert!(key.starts_with(b"ssh-"));

    // The second machine finds everything.
    let before = cloud.actions().len();
    let second = flight.launch(request(out.path(), "echo hi")).await.unwrap();
    assert_eq!(cloud.actions()[before..], ["RunInstances", "DescribeInstances", "DescribeInstances"]);
    assert_eq!(left(out.path()), ["key-pair", "instance", "instance"]);
    assert_eq!(end(&*machine, &dir).await.left, []);
    end(&*second, &out.path().join(second.id())).await;
    let console = std::fs::read_to_string(dir.join("console.txt")).unwrap();
    assert_eq!(console, "booted\nshut down\n");
    assert_eq!(machine.console().await.unwrap(), console.as_bytes());
    flight.destroy().await;
    assert_eq!(left(out.path()), [""; 0]);
    assert_eq!(cloud.leftovers(), [""; 0]);
    let order: Vec<String> = cloud.actions().into_iter().filter(|a| !a.starts_with("Describe")).collect();
    let expected = "ImportKeyPair GetInstanceProfile CreateRole PutRolePolicy CreateInstanceProfile \
        AddRoleToInstanceProfile GetInstanceProfile GetInstanceProfile CreateVpc ModifyVpcAttribute \
        ModifyVpcAttribute CreateRouteTable CreateInternetGateway AttachInternetGateway CreateRoute CreateSubnet \
        ModifySubnetAttribute AssociateRouteTable CreateSubnet CreateSubnet ModifySubnetAttribute \
        AssociateRouteTable CreateSecurityGroup AuthorizeSecurityGroupIngress DeleteTags RunInstances RunInstances \
        GetConsoleOutput TerminateInstances GetConsoleOutput GetConsoleOutput TerminateInstances GetConsoleOutput \
        DeleteKeyPair";
    assert_eq!(order.join(" "), expected);
}

#[tokio::test]
async fn large_userdata_is_refused_before_anything_is_made() {
    let out = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let flight = flight(cloud.url(), out.path()).await.unwrap();
    let e = flight.launch(request(out.path(), &"x".repeat(16 << 10))).await.err().unwrap();
    assert!(e.to_string().ends_with("EC2 takes 16384"), "{e}");
    assert_eq!(cloud.actions(), ["ImportKeyPair"]);
}

#[tokio::test]
async fn an_instance_that_ends_by_itself_is_told_with_its_reason() {
    let out = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    cloud.set(|c| c.dies = Some("Server.InternalError: Client error on launch"));
    let flight = flight(cloud.url(), out.path()).await.unwrap();
    let e = flight.launch(request(out.path(), "")).await.err().unwrap();
    assert_eq!(
        chain(&e),
        "waiting for instance i-7 to run: instance i-7 has ended: it is terminated: Server.InternalError: Client error on launch"
    );
    assert_eq!(left(out.path()), ["key-pair"]);
}

#[tokio::test]
async fn a_cluster_that_is_destroyed_waits_for_no_launch() {
    let out = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    cloud.set(|c| c.stuck = true);
    let flight = flight(cloud.url(), out.path()).await.unwrap();
    let request = request(out.path(), "");
    let closing = request.cancel.clone();
    let launch = flight.launch(request);
    let close = async {
        while cloud.asked("DescribeInstances").len() < 2 {
            tokio::task::yield_now().await;
        }
        closing.cancel();
    };
    let (launched, ()) = tokio::join!(launch, close);
    assert!(matches!(launched.err().unwrap(), crate::platform::Error::Cancelled));
    flight.destroy().await;
    assert_eq!((cloud.leftovers(), left(out.path())), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn a_full_zone_is_passed_over_and_profiles_take_a_while() {
    let out = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    cloud.set(|c| {
        c.script(
            "RunInstances",
            400,
            "InvalidParameterValue",
            "Value (kola) for parameter iamInstanceProfile.name is invalid",
        );
        c.script("RunInstances", 500, "InsufficientInstanceCapacity", "none left");
    });
    let flight = flight(cloud.url(), out.path()).await.unwrap();
    flight.launch(request(out.path(), "")).await.unwrap();
    let runs = cloud.asked("RunInstances");
    let subnets: Vec<&str> = runs.iter().map(|r| r.get("SubnetId")).collect();
    assert_eq!(subnets, ["subnet-4", "subnet-4", "subnet-5"]);
    assert_eq!(runs[0].get("ClientToken"), runs[1].get("ClientToken"));
    assert_ne!(runs[1].get("ClientToken"), runs[2].get("ClientToken"));
}

/// Each call in turn fails for good, or has its answer lost for good: nothing is left but what stays by design.
#[tokio::test]
async fn nothing_is_left_wherever_a_launch_fails() {
    let calls: Vec<String> = {
        let (out, cloud) = (tempfile::tempdir().unwrap(), Cloud::start().await);
        let flight = flight(cloud.url(), out.path()).await.unwrap();
        flight.launch(request(out.path(), "")).await.unwrap();
        cloud.actions()
    };
    for (i, call) in calls.iter().enumerate() {
        for lost in [false, true] {
            let (out, cloud) = (tempfile::tempdir().unwrap(), Cloud::start().await);
            // The call, and all its repetitions until something else is asked for.
            cloud.set(|c| c.fail_from = Some((i, call.clone(), lost)));
            let case = format!("call {i} {call}, answer lost: {lost}");
            let outcome = async {
                let flight = flight(cloud.url(), out.path()).await?;
                let launched = flight.launch(request(out.path(), "")).await;
                if let Ok(machine) = &launched {
                    end(&**machine, &out.path().join(machine.id())).await;
                }
                flight.destroy().await;
                launched.map(|_| ())
            };
            let failed = outcome.await.is_err();
            assert_eq!(cloud.leftovers(), [""; 0], "{case}");
            // What is done twice without harm, or found again, is no failure when its answer is lost once.
            assert!(failed || lost || call.starts_with("Describe"), "{case}: {:?}", cloud.actions());
            // The entry may stay where it could not be found out that nothing is left.
            let left = left(out.path());
            let cleaner = leftovers(api_at(cloud.url()).await);
            for resource in ledger::left_over(out.path()).unwrap() {
                cleaner.remove(&resource).await.unwrap();
            }
            assert!(left.len() <= 2, "{case}: {left:?}");
        }
    }
}

/// The process dies before each call in turn: clean-up by its ledger removes everything.
#[tokio::test]
async fn the_ledger_names_what_a_killed_run_leaves() {
    for calls in 1.. {
        let (out, cloud) = (tempfile::tempdir().unwrap(), Cloud::start().await);
        cloud.set(|c| c.dead_after = Some(calls));
        let run = async {
            let flight = flight(cloud.url(), out.path()).await.unwrap();
            let machine = flight.launch(request(out.path(), "")).await.unwrap();
            end(&*machine, &out.path().join(machine.id())).await;
            flight.destroy().await;
        };
        // The fake does not answer any more after that many calls; then the run is dropped.
        let finished = tokio::select! {
            () = run => true,
            () = cloud.dead() => false,
        };
        cloud.set(|c| c.dead_after = None);
        let cleaner = leftovers(api_at(cloud.url()).await);
        let mut entries = ledger::left_over(out.path()).unwrap();
        entries.reverse();
        for resource in &entries {
            cleaner.remove(resource).await.unwrap();
            cleaner.remove(resource).await.unwrap();
        }
        assert_eq!(cloud.leftovers(), [""; 0], "after {calls} calls: {entries:?}");
        if finished {
            assert!(entries.is_empty() && calls > 30, "{calls}");
            return;
        }
    }
}

#[tokio::test]
async fn parallel_runs_agree_on_one_network() {
    let cloud = Cloud::start().await;
    let (api, ledger) = (api_at(cloud.url()).await, Ledger::none());
    let runs = (0..4).map(|_| network::find_or_create(&api, "kola", &ledger));
    let networks = futures_util::future::join_all(runs).await;
    let groups: std::collections::BTreeSet<String> = networks.into_iter().map(|n| n.unwrap().group).collect();
    let again = network::find_or_create(&api, "kola", &ledger).await.unwrap().group;
    assert!(groups.contains(&again));
    assert_eq!(cloud.count_of("vpc"), groups.len());
    assert!(network::unfinished(&api).await.unwrap().is_empty());
}

#[tokio::test]
async fn errors_of_the_network_are_not_taken_for_its_absence() {
    let cloud = Cloud::start().await;
    cloud.set(|c| c.script("DescribeSecurityGroups", 403, "UnauthorizedOperation", "no"));
    let e = network::find_or_create(&api_at(cloud.url()).await, "kola", &Ledger::none()).await.unwrap_err();
    assert!(
        chain(&e).starts_with("looking for security group \"kola\": DescribeSecurityGroups: Unauth"),
        "{e}"
    );
    assert_eq!(cloud.actions(), ["DescribeSecurityGroups"]);
}

#[tokio::test]
async fn throttled_calls_are_repeated_and_listings_read_to_the_end() {
    let cloud = Cloud::start().await;
    cloud.set(|c| {
        for _ in 0..4 {
            c.script("DescribeInstances", 503, "RequestLimitExceeded", "slow down");
        }
        c.many = 2500;
    });
    let api = api_at(cloud.url()).await;
    let found = api.instances(&[("tag:CreatedBy", &["mantle"])], &[]).await.unwrap();
    assert_eq!(found.len(), 2500);
    assert_eq!(cloud.asked("DescribeInstances").len(), 4 + 3);
    let ids: Vec<&str> = found.iter().map(|i| i.id.as_str()).collect();
    api.terminate(&ids[..250]).await.unwrap();
    assert_eq!(cloud.asked("TerminateInstances").len(), 3);
    for _ in 0..6 {
        cloud.set(|c| c.script("DescribeInstances", 500, "InternalError", "sorry"));
    }
    let e = api.instances(&[], &[]).await.unwrap_err();
    assert_eq!((e.code(), e.status()), (Some("InternalError"), Some(500)));
}

#[tokio::test]
async fn channels_become_images() {
    let fake = Fake::start(|asked| match asked.path.as_str() {
        "/alpha/amd64-usr/current/coreos_production_ami_all.json" => {
            (200, r#"{"amis":[{"name":"us-west-2","pv":"ami-p","hvm":"ami-h"},{"name":"x"}]}"#.into())
        }
        "/beta/amd64-usr/current/coreos_production_ami_all.json" => (200, "<html>".into()),
        _ => (404, String::new()),
    })
    .await;
    let base = format!("{}/{{channel}}/", fake.url);
    let resolve = async |image: &str, region: &str| {
        channel::resolve(image, &base, "amd64-usr", region).await.map_err(|e| chain(&e))
    };
    for _ in 0..2 {
        assert_eq!(resolve("alpha", "us-west-2").await.unwrap(), "ami-h");
    }
    assert_eq!(fake.actions().len(), 1);
    assert_eq!(resolve("ami-7", "us-west-2").await.unwrap(), "ami-7");
    assert_eq!(resolve("", "us-west-2").await.unwrap(), "");
    for region in ["eu-west-1", "x"] {
        let e = resolve("alpha", region).await.unwrap_err();
        assert_eq!(e, format!("no alpha image for region {region}"));
    }
    assert!(resolve("beta", "us-west-2").await.unwrap_err().contains("is not a list of AMIs"));
    let e = resolve("stable", "us-west-2").await.unwrap_err();
    assert!(e.starts_with("fetching http://") && e.ends_with("json: HTTP 404"), "{e}");
}
