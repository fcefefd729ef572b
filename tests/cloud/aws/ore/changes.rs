//! `ore aws initialize`, `copy-image`, `delete-image`, `list` and `list-regions`.

use serde_json::json;

use super::{Cloud, ids, json, upload};
use crate::cloud::aws;
use crate::support::proxy::Fault;

#[test]
fn initialize_makes_what_is_missing_once() {
    let Some(cloud) = Cloud::start(&[]) else { return };
    let outcome = cloud.ore(&["initialize"]).expect(0);
    assert_eq!(outcome.stdout, "");
    let journal = cloud.proxy.take_journal();
    aws::judged(&journal);
    let actions: Vec<_> = journal.iter().map(|e| aws::action(&e.request)).collect();
    let bucket = "PUT /coreos-dev-ami-import-us-west-2";
    let expected = ["GetCallerIdentity", bucket, "GetRole", "CreateRole", "GetRolePolicy", "PutRolePolicy"];
    assert_eq!(actions, expected);
    assert!(
        journal[1].request.text().contains("<LocationConstraint>us-west-2<"),
        "{}",
        journal[1].request.text()
    );
    let policy = journal[5].request.field("PolicyDocument").unwrap();
    assert!(policy.contains("arn:aws:s3:::coreos-dev-ami-import-us-west-2/*"), "{policy}");
    cloud.ore(&["initialize", "--bucket=s3://coreos-dev-ami-import-us-west-2/"]).expect(0);
    assert_eq!(cloud.actions(), ["GetCallerIdentity", bucket, "GetRole", "GetRolePolicy"]);
}

#[test]
fn initialize_reports_foreign_buckets_and_refusals() {
    let Some(cloud) = Cloud::start(&[]) else { return };
    let create = |request: &crate::support::http::Request| aws::action(request) == "PUT /images";
    aws::fail(&cloud.proxy, create, 0, 1, (409, "BucketAlreadyExists", "taken"));
    let outcome = cloud.ore(&["initialize", "--bucket=images"]).expect(1);
    assert!(outcome.stderr.contains("Error: could not initialize bucket images"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("pass another --bucket"), "{}", outcome.stderr);
    cloud.proxy.calm();
    aws::fail(&cloud.proxy, aws::is(&["GetRole"]), 0, 1, (403, "AccessDenied", "not you"));
    let outcome = cloud.ore(&["initialize", "--bucket=images"]).expect(1);
    assert!(outcome.stderr.contains("Error: could not create import role for images"), "{}", outcome.stderr);
    cloud.actions();
    cloud.proxy.calm();
    aws::fail(&cloud.proxy, aws::is(&["PutRolePolicy"]), 0, 1, (409, "LimitExceeded", "too long"));
    let outcome = cloud.ore(&["initialize", "--bucket=images"]).expect(1);
    assert!(outcome.stderr.contains("no room for another policy"), "{}", outcome.stderr);
}

#[test]
fn images_are_copied_where_it_works() {
    let Some(cloud) = Cloud::initialized(&[]) else { return };
    let file = cloud.disk("disk.raw", 600);
    let made =
        cloud.ore(&upload(file.to_str().unwrap(), &["--grant-user=210987654321", "--tags=a=b"])).expect(0);
    let ami = json(&made)["HVM"].as_str().unwrap().to_owned();
    let image = format!("--image={ami}");
    cloud.actions();
    let outcome = cloud.ore(&["copy-image", &image, "us-east-1"]).expect(0);
    let journal = cloud.proxy.take_journal();
    aws::judged(&journal);
    let there: Vec<_> = journal
        .iter()
        .filter(|e| aws::region(&e.request) == "us-east-1" && aws::service(&e.request) == "ec2")
        .map(|e| aws::action(&e.request))
        .collect();
    assert_eq!(there[..2], ["DescribeImages", "CopyImage"]);
    let polls = there[2..].iter().take_while(|a| *a == "DescribeImages").count();
    assert!(polls >= 2, "{there:?}");
    let rest = ["CreateTags", "DescribeImages", "CreateTags", "ModifyImageAttribute", "DescribeImages"];
    assert_eq!(there[2 + polls..], rest);
    let copy = json(&outcome)["us-east-1"].as_str().unwrap().to_owned();
    assert_eq!(json(&outcome), json!({"us-east-1": copy}));

    // One region fails: the others' results are printed; a copy that is there is used again.
    cloud.proxy.rule(|request| {
        let bad = aws::region(request) == "eu-west-1" && aws::action(request) == "CopyImage";
        let refused = aws::error(request, 403, "UnauthorizedOperation", "not here");
        if bad { Fault::Answer(refused) } else { Fault::None }
    });
    let outcome = cloud.ore(&["copy-image", &image, "eu-west-1", "us-east-1", "mars-1"]).expect(1);
    assert_eq!(json(&outcome), json!({"us-east-1": copy}));
    assert!(outcome.stderr.contains("Error: Couldn't copy images: eu-west-1"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("mars-1: could not find partition"), "{}", outcome.stderr);
    let copies = cloud.proxy.take_journal();
    assert!(
        !copies
            .iter()
            .any(|e| aws::region(&e.request) == "us-east-1" && aws::action(&e.request) == "CopyImage")
    );
}

#[test]
fn missing_images_are_no_copies() {
    let Some(cloud) = Cloud::start(&[]) else { return };
    let outcome = cloud.ore(&["copy-image", "--image=ami-0123456789abcdef0", "us-east-1"]).expect(1);
    assert!(outcome.stderr.contains("Error: Couldn't copy images"), "{}", outcome.stderr);
    assert_eq!(outcome.stdout, "");
}

#[test]
fn what_was_made_is_listed_and_deleted() {
    let Some(cloud) = Cloud::initialized(&[]) else { return };
    assert_eq!(cloud.ore(&["list"]).expect(0).stdout, "");
    let file = cloud.disk("disk.raw", 600);
    let made = json(&cloud.ore(&upload(file.to_str().unwrap(), &[])).expect(0));
    let (ami, snapshot) = (made["HVM"].as_str().unwrap(), made["SnapshotID"].as_str().unwrap());
    let listed = cloud.ore(&["list"]).expect(0).stdout;
    assert!(listed.contains(&format!("image\t{ami}\t")) && listed.contains("\timg-hvm\n"), "{listed}");
    assert!(listed.contains(&format!("snapshot\t{snapshot}\t")) && listed.contains("\tn1\n"), "{listed}");
    let listed = json(&cloud.ore(&["list", "--json"]).expect(0));
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
    cloud.actions();
    let both = ["delete-image", "--ami", ami, "--snapshot", snapshot];
    cloud.ore(&both).expect(0);
    let there = cloud.call("ec2", &[("Action", "DescribeSnapshots"), ("Owner.1", "self")]);
    assert!(ids(&there, "snap").is_empty(), "{there}");
    assert_eq!(cloud.ore(&["list"]).expect(0).stdout, "");
    let outcome = cloud.ore(&both).expect(1);
    assert!(
        outcome.stderr.contains(&format!("Error: couldn't deregister image {ami}")),
        "{}",
        outcome.stderr
    );
    cloud.actions();
    cloud.ore(&[&both[..], &["--allow-missing"]].concat()).expect(0);
    assert_eq!(cloud.actions(), ["GetCallerIdentity", "DeregisterImage", "DeleteSnapshot"]);
}

#[test]
fn regions_are_listed() {
    let Some(cloud) = Cloud::start(&[]) else { return };
    let listed = |args: &[&str]| {
        let outcome = cloud.ore(&[&["list-regions"], args].concat()).expect(0);
        outcome.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let (enabled, disabled, all) = (listed(&[]), listed(&["--disabled"]), listed(&["--all"]));
    assert!(enabled.contains(&"us-west-2".to_owned()) && enabled.is_sorted(), "{enabled:?}");
    assert!(disabled.iter().all(|r| !enabled.contains(r)), "{disabled:?}");
    assert!(all.len() >= enabled.len().max(disabled.len()), "{all:?}");
}
