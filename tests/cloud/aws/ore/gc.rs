//! `ore aws gc`: what goes, what stays, and plans.

use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};

use super::{Cloud, REGION, ids, upload};
use crate::cloud::aws;
use crate::support::proxy::Fault;

/// A machine with these tags; its id.
fn machine(cloud: &Cloud, tags: &[(&str, &str)]) -> String {
    let image = cloud.call(
        "ec2",
        &[
            ("Action", "RegisterImage"),
            ("Name", &format!("i{}", rand())),
            ("RootDeviceName", "/dev/xvda"),
            ("BlockDeviceMapping.1.DeviceName", "/dev/xvda"),
            ("BlockDeviceMapping.1.Ebs.VolumeSize", "8"),
        ],
    );
    let image = &ids(&image, "ami")[0];
    let mut order = vec![
        ("Action".to_owned(), "RunInstances".to_owned()),
        ("ImageId".into(), image.clone()),
        ("MinCount".into(), "1".into()),
        ("MaxCount".into(), "1".into()),
        ("InstanceType".into(), "m4.large".into()),
    ];
    if !tags.is_empty() {
        order.push(("TagSpecification.1.ResourceType".into(), "instance".into()));
    }
    for (n, (key, value)) in tags.iter().enumerate() {
        order.push((format!("TagSpecification.1.Tag.{}.Key", n + 1), (*key).to_owned()));
        order.push((format!("TagSpecification.1.Tag.{}.Value", n + 1), (*value).to_owned()));
    }
    let order: Vec<_> = order.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    ids(&cloud.call("ec2", &order), "i")[0].clone()
}

fn rand() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(100);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// The machines that are not on their way out.
fn alive(cloud: &Cloud) -> Vec<String> {
    let live =
        [("Filter.1.Value.1", "running"), ("Filter.1.Value.2", "pending"), ("Filter.1.Value.3", "stopped")];
    let common = [("Action", "DescribeInstances"), ("Filter.1.Name", "instance-state-name")];
    let mut found = Vec::new();
    let mut next = String::new();
    loop {
        let mut request = [&common[..], &live[..]].concat();
        if !next.is_empty() {
            request.push(("NextToken", &next));
        }
        let page = cloud.call("ec2", &request);
        found.extend(ids(&page, "i"));
        match page.split_once("<nextToken>") {
            Some((_, rest)) => next = rest.split('<').next().unwrap().to_owned(),
            None => break,
        }
    }
    found.sort_unstable();
    found
}

const OURS: (&str, &str) = ("CreatedBy", "mantle");

#[test]
fn old_marked_machines_go_over_all_pages_and_nothing_else() {
    let Some(cloud) = Cloud::start(&[("MANTLE_PAGE", "7"), ("MANTLE_PENDING_POLLS", "0")]) else { return };
    let ours = machine(&cloud, &[OURS, ("Name", "kola-1")]);
    let tags = json!({"CreatedBy": "mantle", "Name": "kola-{n}"});
    cloud.moto.control("crowd", &json!({"region": REGION, "like": ours, "count": 120, "tags": tags}));
    let mut spared = vec![machine(&cloud, &[]), machine(&cloud, &[("CreatedBy", "Mantle")])];
    spared.push(machine(&cloud, &[OURS, ("mantle:keep", "for me")]));
    cloud.moto.control("age", &json!({"seconds": 6 * 3600}));
    spared.push(machine(&cloud, &[OURS])); // young
    spared.sort_unstable();
    let outcome = cloud.ore(&["gc"]).expect(0);
    assert_eq!(outcome.stdout, "");
    assert_eq!(alive(&cloud), spared);
    assert_eq!(outcome.stderr.matches("removed instance i-").count(), 121, "{}", outcome.stderr);
    let actions = cloud.actions();
    assert_eq!(actions.iter().filter(|a| *a == "TerminateInstances").count(), 2, "chunks of a hundred");
    // Nothing is left to do, and nothing is said.
    cloud.ore(&["gc"]).expect(0);
    let again = cloud.actions();
    assert!(again[1..].iter().all(|a| a == "DescribeInstances"), "{again:?}");
}

#[test]
fn plans_can_be_looked_at_and_applied() {
    let Some(cloud) = Cloud::start(&[("MANTLE_PENDING_POLLS", "0")]) else { return };
    let (one, two, three) = (machine(&cloud, &[OURS]), machine(&cloud, &[OURS]), machine(&cloud, &[OURS]));
    let foreign = machine(&cloud, &[]);
    cloud.moto.control("age", &json!({"seconds": 3600}));
    let outcome = cloud.ore(&["gc", "--duration=10m", "--dry-run"]).expect(0);
    let mut plan: Value = super::json(&outcome);
    assert_eq!(plan["items"].as_array().unwrap().len(), 3);
    assert_eq!(alive(&cloud).len(), 4, "nothing was touched");
    let actions = cloud.actions();
    assert_eq!(actions, ["GetCallerIdentity", "DescribeInstances"]);
    // Meanwhile one gets protected, one goes; and somebody writes a foreign one into the plan.
    let tag =
        [("Action", "CreateTags"), ("ResourceId.1", &two), ("Tag.1.Key", "mantle:keep"), ("Tag.1.Value", "")];
    cloud.call("ec2", &tag);
    cloud.call("ec2", &[("Action", "TerminateInstances"), ("InstanceId.1", &three)]);
    let mut smuggled = plan["items"][0].clone();
    smuggled["id"] = foreign.clone().into();
    plan["items"].as_array_mut().unwrap().push(smuggled);
    let file = cloud.env.write("plan.json", &plan.to_string());
    let file = file.to_str().unwrap();
    let outcome = cloud.ore(&["gc", "--apply", file]).expect(0);
    let mut left = vec![two, foreign];
    left.sort_unstable();
    assert_eq!(alive(&cloud), left);
    assert!(outcome.stderr.contains(&format!("removed instance {one}")), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches("spared instance").count(), 2, "{}", outcome.stderr);
    cloud.actions();
    // Not for us.
    for (key, value) in [("account", "000000000000"), ("region", "eu-west-1")] {
        let mut other = plan.clone();
        other[key] = value.into();
        let file = cloud.env.write("other.json", &other.to_string());
        let outcome = cloud.ore(&["gc", "--apply", file.to_str().unwrap()]).expect(1);
        assert!(outcome.stderr.contains(&format!("the plan is for {key} {value}")), "{}", outcome.stderr);
    }
    cloud.actions();
    let file = cloud.env.write("broken.json", "{}");
    cloud.ore(&["gc", "--apply", file.to_str().unwrap()]).expect(1);
    assert!(cloud.actions().is_empty());
}

#[test]
fn one_stubborn_machine_does_not_save_the_others() {
    let Some(cloud) = Cloud::start(&[("MANTLE_PENDING_POLLS", "0")]) else { return };
    let stubborn = machine(&cloud, &[OURS]);
    machine(&cloud, &[OURS]);
    machine(&cloud, &[OURS]);
    let name = stubborn.clone();
    cloud.proxy.rule(move |request| {
        let refuse = aws::action(request) == "TerminateInstances" && request.text().contains(&name);
        let refused = aws::error(request, 400, "OperationNotPermitted", "disableApiTermination is set");
        if refuse { Fault::Answer(refused) } else { Fault::None }
    });
    let outcome = cloud.ore(&["gc", "--duration=0"]).expect(1);
    assert_eq!(alive(&cloud), std::slice::from_ref(&stubborn));
    assert!(outcome.stderr.contains("Error: Couldn't gc: 1 of 3 could not be removed"), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains(&format!("instance {stubborn} could not be removed")),
        "{}",
        outcome.stderr
    );
}

#[test]
fn given_up_uploads_are_removed_once_they_are_old() {
    let Some(cloud) = Cloud::initialized(&[]) else { return };
    let file = cloud.disk("disk.raw", 6 << 20);
    let part = |request: &crate::support::http::Request| request.target.contains("partNumber=2&");
    cloud.proxy.on(part, 0, 1000, Fault::ResetBefore);
    cloud.ore(&upload(file.to_str().unwrap(), &[])).expect(1);
    cloud.proxy.calm();
    cloud.ore(&["gc"]).expect(0);
    assert_eq!((cloud.parts(), cloud.records().len()), (1, 1), "too young");
    let outcome = cloud.ore(&["gc", "--duration=0", "--dry-run"]).expect(0);
    assert_eq!(super::json(&outcome)["items"][0]["id"], "s3://images/path/disk.raw");
    let outcome = cloud.ore(&["gc", "--duration=0"]).expect(0);
    assert!(outcome.stderr.contains("removed upload s3://images/path/disk.raw"), "{}", outcome.stderr);
    assert_eq!((cloud.parts(), cloud.records()), (0, Vec::new()));
}

#[test]
fn what_the_ledger_of_a_run_names_is_removed_and_struck() {
    let Some(cloud) = Cloud::start(&[]) else { return };
    for name in ["kola-1", "other"] {
        cloud.call("ec2", &[("Action", "CreateKeyPair"), ("KeyName", name)]);
    }
    let line = |op: &str, kind: &str, id: &str| {
        json!({"op": op, "kind": kind, "id": id, "platform": "aws", "place": REGION}).to_string() + "\n"
    };
    let text = line("create", "key-pair", "kola-1")
        + &line("create", "key-pair", "other")
        + "{\"op\":\"delete\",\"kind\":\"key-pair\",\"id\":\"other\"}\n"
        + &line("create", "process", "1@1").replace("aws", "qemu");
    let file = cloud.env.write("run/resources.jsonl", &text);
    let ledger = format!("--ledger={}", file.parent().unwrap().display());
    cloud.ore(&["gc", &ledger, "--dry-run"]).expect(2);
    assert!(cloud.actions().is_empty());
    // The run goes on, as far as its record tells.
    let run = Flock::lock(std::fs::File::open(&file).unwrap(), FlockArg::LockShared).unwrap();
    let outcome = cloud.ore(&["gc", &ledger]).expect(1);
    assert!(outcome.stderr.contains("another process is working in"), "{}", outcome.stderr);
    assert_eq!(
        (std::fs::read_to_string(&file).unwrap(), cloud.actions()),
        (text, vec!["GetCallerIdentity".into()])
    );
    drop(run);
    let outcome = cloud.ore(&["gc", &ledger]).expect(0);
    assert!(outcome.stderr.contains("removed key-pair kola-1 of us-west-2"), "{}", outcome.stderr);
    let keys = cloud.call("ec2", &[("Action", "DescribeKeyPairs")]);
    assert!(!keys.contains("kola-1") && keys.contains("other"), "{keys}");
    let left = std::fs::read_to_string(&file).unwrap();
    assert!(left.ends_with(&line("delete", "key-pair", "kola-1")), "{left}");
    cloud.actions();
    cloud.ore(&["gc", &ledger]).expect(0);
    assert_eq!(cloud.actions(), ["GetCallerIdentity"]);
}
