//! `ore aws upload` through S3: which requests it makes, and what it does after trouble.

use nix::sys::signal::Signal;
use regex::Regex;
use serde_json::json;

use super::{Cloud, ids, json, upload};
use crate::cloud::aws;
use crate::cloud::aws::conformance::boto;
use crate::support::proxy::Fault;

const FILE: &str = "/images/path/disk.raw";

#[test]
fn a_fresh_upload_and_its_repetition() {
    let Some(cloud) = Cloud::initialized(&[("MANTLE_IMPORT_POLLS", "1")]) else { return };
    let file = cloud.disk("disk.raw", 6 << 20);
    let args = upload(file.to_str().unwrap(), &["--grant-user=123456789012", "--tags=a=b,c=d"]);
    let first = cloud.ore(&args).expect(0);
    aws::judged(&cloud.proxy.journal());
    let part = format!("PUT {FILE}?partNumber&uploadId");
    let expected = [
        "GetCallerIdentity",
        "DescribeSnapshots",
        "DescribeImportSnapshotTasks",
        &format!("HEAD {FILE}"),
        &format!("POST {FILE}?uploads"),
        &part,
        &part,
        &format!("POST {FILE}?uploadId"),
        "ImportSnapshot",
        "DescribeImportSnapshotTasks",
        "DescribeImportSnapshotTasks",
        "CreateTags",
        &format!("DELETE {FILE}"),
        "RegisterImage",
        "CreateTags",
        "ModifyImageAttribute",
        "CreateTags",
    ];
    assert_eq!(cloud.actions(), expected);
    let line = json(&first);
    let (ami, snapshot) = (line["HVM"].as_str().unwrap(), line["SnapshotID"].as_str().unwrap());
    assert_eq!(line, json!({"HVM": ami, "SnapshotID": snapshot, "S3Object": "s3://images/path/disk.raw"}));
    for text in
        ["uploading s3://images/path/disk.raw", "created snapshot import task import-snap-", "deleting s3://"]
    {
        assert!(first.stderr.contains(text), "no {text:?} in {}", first.stderr);
    }
    let images = cloud.call("ec2", &[("Action", "DescribeImages"), ("Owner.1", "self")]);
    for text in
        ["img-hvm", "<virtualizationType>hvm", snapshot, "<key>a</key>", "<value>mantle</value>", "/dev/xvda"]
    {
        assert!(images.contains(text), "no {text} in {images}");
    }
    let snapshots = cloud.call("ec2", &[("Action", "DescribeSnapshots"), ("SnapshotId.1", snapshot)]);
    for text in ["<value>n1</value>", "<key>CreatedBy</key>", "<key>c</key>"] {
        assert!(snapshots.contains(text), "no {text} in {snapshots}");
    }
    assert_eq!((cloud.parts(), cloud.object_exists(FILE), cloud.records()), (0, false, Vec::new()));

    let second = cloud.ore(&args).expect(0);
    assert_eq!(second.stdout, first.stdout);
    assert!(second.stderr.contains(&format!("found existing snapshot {snapshot}")), "{}", second.stderr);
    assert!(second.stderr.contains(&format!("found existing image {ami}, reusing")), "{}", second.stderr);
    let expected = [
        "GetCallerIdentity",
        "DescribeSnapshots",
        &format!("DELETE {FILE}"),
        "RegisterImage",
        "DescribeImages",
        "CreateTags",
        "ModifyImageAttribute",
        "CreateTags",
    ];
    assert_eq!(cloud.actions(), expected);
}

#[test]
fn small_files_go_in_one_piece() {
    let Some(cloud) = Cloud::initialized(&[("MANTLE_IMPORT_POLLS", "1")]) else { return };
    let file = cloud.disk("disk.raw", 600);
    let outcome = cloud.ore(&upload(file.to_str().unwrap(), &["--delete-object=false"])).expect(0);
    let actions = cloud.actions();
    assert_eq!(actions[3..6], [format!("HEAD {FILE}"), format!("PUT {FILE}"), "ImportSnapshot".into()]);
    assert!(cloud.object_exists(FILE) && !actions.iter().any(|a| a.starts_with("DELETE")), "{actions:?}");
    assert_eq!(json(&outcome)["S3Object"], "s3://images/path/disk.raw");

    // The object is there: it is not sent again. Force starts over, and what it replaces goes.
    let other = ["--delete-object=false", "--name=n2", "--ami-name=img2"];
    let outcome = cloud.ore(&upload(file.to_str().unwrap(), &other)).expect(0);
    assert!(
        outcome.stderr.contains("skipping upload since object exists and force was not set"),
        "{}",
        outcome.stderr
    );
    cloud.actions();
    let before = json(&outcome);
    let outcome =
        cloud.ore(&upload(file.to_str().unwrap(), &["--force", "--name=n2", "--ami-name=img2"])).expect(0);
    let after = json(&outcome);
    assert_ne!(after["HVM"], before["HVM"]);
    let actions = cloud.actions();
    assert_eq!(actions[1..3], [format!("PUT {FILE}"), "ImportSnapshot".into()]);
    assert!(actions.iter().any(|a| a == "DeregisterImage"), "{actions:?}");
    let snapshots = cloud.call("ec2", &[("Action", "DescribeSnapshots"), ("Owner.1", "self")]);
    assert!(!snapshots.contains(before["SnapshotID"].as_str().unwrap()), "{snapshots}");
    assert!(snapshots.contains(after["SnapshotID"].as_str().unwrap()), "{snapshots}");
}

#[test]
fn objects_and_snapshots_that_are_there_are_used() {
    let Some(cloud) = Cloud::initialized(&[("MANTLE_IMPORT_POLLS", "1")]) else { return };
    let file = cloud.disk("disk.raw", 600);
    cloud.ore(&upload(file.to_str().unwrap(), &["--delete-object=false"])).expect(0);
    cloud.actions();
    let common = ["--object-format=RAW", "--name=n3", "--disk-size-gib=1"];
    let from = |more: &[&str]| cloud.ore(&[&["upload"], &common[..], more].concat());
    let outcome = from(&["--source-object=s3://images/path/disk.raw", "--ami-name=from-object"]).expect(0);
    let snapshot = json(&outcome)["SnapshotID"].as_str().unwrap().to_owned();
    assert_eq!(json(&outcome)["S3Object"], "s3://images/path/disk.raw");
    let actions = cloud.actions();
    let expected = ["DescribeSnapshots", "DescribeImportSnapshotTasks", "ImportSnapshot"];
    assert_eq!((&*actions[1], &actions[2..5]), (&*format!("HEAD {FILE}"), &expected.map(String::from)[..]));
    assert!(cloud.object_exists(FILE), "somebody else's object stays");
    let outcome =
        from(&[&format!("--source-snapshot={snapshot}"), "--ami-name=from-snapshot", "--create-pv"])
            .expect(0);
    assert!(json(&outcome)["PV"].as_str().unwrap().starts_with("ami-"));
    let expected = ["GetCallerIdentity", "RegisterImage", "CreateTags", "RegisterImage", "CreateTags"];
    assert_eq!(cloud.actions(), expected);
}

/// "It exists" was taken for "it is the same": five bytes of somebody else became an image.
#[test]
fn what_differs_is_not_used_again() {
    let Some(cloud) = Cloud::initialized(&[("MANTLE_IMPORT_POLLS", "1")]) else { return };
    let other = cloud.disk("disk.raw", 700);
    cloud.ore(&upload(other.to_str().unwrap(), &["--delete-object=false"])).expect(0);
    // same length, other bytes
    std::fs::write(&other, [7; 700]).unwrap();
    let refused = |more: &[&str], why: &str| {
        cloud.actions();
        let outcome = cloud.ore(&upload(other.to_str().unwrap(), more)).expect(1);
        assert!(outcome.stderr.contains(why) && outcome.stderr.contains("--force"), "{}", outcome.stderr);
        let actions = cloud.actions();
        assert!(!actions.iter().any(|a| a == "ImportSnapshot"), "{actions:?}");
    };
    refused(&[], "was made of another image: SHA-256");
    refused(&["--name=n2"], "has another content than");
    std::fs::write(&other, [7; 701]).unwrap();
    refused(&["--name=n2"], "has 700 bytes, ");
    cloud.ore(&upload(other.to_str().unwrap(), &["--force", "--delete-object=false"])).expect(0);
    cloud.ore(&upload(other.to_str().unwrap(), &["--delete-object=false"])).expect(0);
    // an image of the name, made of another snapshot
    let outcome = cloud.ore(&upload(other.to_str().unwrap(), &["--name=n3"])).expect(1);
    assert!(outcome.stderr.contains("is made of snap-") && outcome.stderr.contains("--force"));
}

/// Objects that others sent have no SHA-256 beside them: the tag tells, if its parts are as ours would be.
#[test]
fn what_others_sent_in_parts_is_told_by_its_tag() {
    let Some(cloud) = Cloud::initialized(&[("MANTLE_IMPORT_POLLS", "1")]) else { return };
    let file = cloud.disk("disk.raw", 11 << 20);
    let path = file.to_str().unwrap();
    let send =
        |part: usize| boto(&cloud.endpoint(), "parts", &["images", "path/disk.raw", path, &part.to_string()]);
    let args = |name: &'static str| upload(path, &["--delete-object=false", name, "--ami-name=parts"]);
    let refused = |why: &str| {
        cloud.actions();
        let outcome = cloud.ore(&args("--name=other")).expect(1);
        assert!(outcome.stderr.contains(why) && outcome.stderr.contains("--force"), "{}", outcome.stderr);
        let actions = cloud.actions();
        assert!(!actions.iter().any(|a| a == "ImportSnapshot" || a.starts_with("PUT")), "{actions:?}");
    };
    // Three parts of 5 MiB and less, as ours.
    assert!(send(5 << 20).as_str().unwrap().ends_with("-3\""));
    cloud.actions();
    let outcome = cloud.ore(&args("--name=same")).expect(0);
    let skipped = "skipping upload since object exists and force was not set";
    assert!(outcome.stderr.contains(skipped), "{}", outcome.stderr);
    let actions = cloud.actions();
    assert!(!actions.iter().any(|a| a.starts_with("PUT")), "{actions:?}");
    // Others: nobody can tell.
    assert!(send(6 << 20).as_str().unwrap().ends_with("-2\""));
    refused("cannot be told to have the content of");
    // As many parts, of another content.
    send(5 << 20);
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    refused("cannot be told to have the content of");
}

/// A snapshot of the name that was made by somebody who did not write down of what.
#[test]
fn a_snapshot_that_is_older_than_the_file_is_not_used() {
    let Some(cloud) = Cloud::initialized(&[("MANTLE_IMPORT_POLLS", "1")]) else { return };
    let file = cloud.disk("disk.raw", 600);
    let path = file.to_str().unwrap();
    let first = json(&cloud.ore(&upload(path, &["--delete-object=false"])).expect(0));
    let snapshot = first["SnapshotID"].as_str().unwrap();
    let tags = cloud.call(
        "ec2",
        &[("Action", "DescribeTags"), ("Filter.1.Name", "resource-id"), ("Filter.1.Value.1", snapshot)],
    );
    let digest = tags
        .split("<key>")
        .map(|t| t.split('<').next().unwrap())
        .find(|k| k.to_lowercase().contains("sha256"));
    let digest = digest.unwrap_or_else(|| panic!("no digest in {tags}"));
    cloud.call("ec2", &[("Action", "DeleteTags"), ("ResourceId.1", snapshot), ("Tag.1.Key", digest)]);
    let touch = |hours: i64| {
        let now = std::time::SystemTime::now();
        let hour = std::time::Duration::from_secs(3600 * hours.unsigned_abs());
        let time = if hours < 0 { now - hour } else { now + hour };
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    };
    touch(2);
    cloud.actions();
    let outcome = cloud.ore(&upload(path, &[])).expect(1);
    let why = format!("snapshot {snapshot} of ");
    assert!(outcome.stderr.contains(&why), "{}", outcome.stderr);
    assert!(outcome.stderr.contains(" is older than the file"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("--force"), "{}", outcome.stderr);
    assert!(!cloud.actions().iter().any(|a| a == "RegisterImage"));
    touch(-2);
    let outcome = cloud.ore(&upload(path, &[])).expect(0);
    assert_eq!(json(&outcome)["SnapshotID"], *snapshot);
    assert!(
        outcome.stderr.contains("cannot be told whether it is made of the same image"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_running_import_is_waited_for() {
    let Some(cloud) = Cloud::initialized(&[("MANTLE_IMPORT_POLLS", "2")]) else { return };
    let file = cloud.disk("disk.raw", 600);
    let args = upload(file.to_str().unwrap(), &[]);
    // The second look at tasks is the first one at ours.
    let denied = (403, "UnauthorizedOperation", "You may not");
    aws::fail(&cloud.proxy, aws::is(&["DescribeImportSnapshotTasks"]), 1, 1, denied);
    let outcome = cloud.ore(&args).expect(1);
    assert!(outcome.stderr.contains("Error: unable to create snapshot"), "{}", outcome.stderr);
    assert!(outcome.stdout.is_empty());
    cloud.proxy.calm();
    cloud.actions();
    let outcome = cloud.ore(&args).expect(0);
    assert!(
        outcome.stderr.contains("found existing snapshot import task import-snap-"),
        "{}",
        outcome.stderr
    );
    let actions = cloud.actions();
    assert!(!actions.iter().any(|a| a.starts_with("PUT") || a == "ImportSnapshot"), "{actions:?}");
}

#[test]
fn failed_imports_say_why() {
    let Some(cloud) = Cloud::initialized(&[("MANTLE_IMPORT_POLLS", "1")]) else { return };
    let file = cloud.disk("broken.raw", 600);
    let outcome = cloud.ore(&upload(file.to_str().unwrap(), &[])).expect(1);
    let reason = "could not import snapshot: ClientError: Disk validation failed [Unsupported VMDK File]";
    assert!(outcome.stderr.contains(reason), "{}", outcome.stderr);
}

#[test]
fn interrupted_parts_are_gone_on_with() {
    let Some(cloud) = Cloud::initialized(&[]) else { return };
    let file = cloud.disk("disk.raw", 26 << 20);
    let args = upload(file.to_str().unwrap(), &[]);
    let part = |request: &crate::support::http::Request| request.target.contains("partNumber=3&");
    cloud.proxy.on(part, 0, 1000, Fault::ResetBefore);
    let outcome = cloud.ore(&args).expect(1);
    assert!(outcome.stderr.contains("repeat the command to go on"), "{}", outcome.stderr);
    assert_eq!(cloud.parts(), 1);
    cloud.proxy.calm();
    cloud.proxy.take_journal();
    let outcome = cloud.ore(&args).expect(0);
    let journal = cloud.proxy.take_journal();
    let puts = journal.iter().filter(|e| e.request.target.contains("partNumber=")).count();
    let there = Regex::new("earlier upload: ([0-9]+) parts are there").unwrap();
    let there: usize = there.captures(&outcome.stderr).unwrap()[1].parse().unwrap();
    assert_eq!(puts + there, 6, "each part was sent once");
    let actions: Vec<_> = journal.iter().map(|e| aws::action(&e.request)).collect();
    assert!(actions.contains(&format!("GET {FILE}?uploadId")), "{actions:?}");
    assert_eq!((cloud.parts(), cloud.records()), (0, Vec::new()));
}

#[test]
fn refused_parts_are_removed_and_so_are_those_of_another_file() {
    let Some(cloud) = Cloud::initialized(&[]) else { return };
    let file = cloud.disk("disk.raw", 6 << 20);
    let args = upload(file.to_str().unwrap(), &[]);
    let part = |request: &crate::support::http::Request| request.target.contains("partNumber=2&");
    aws::fail(&cloud.proxy, part, 0, 1000, (403, "AccessDenied", "Access Denied"));
    let outcome = cloud.ore(&args).expect(1);
    assert!(
        outcome.stderr.starts_with("20") && outcome.stderr.contains("Error: Error uploading"),
        "{}",
        outcome.stderr
    );
    assert_eq!((cloud.parts(), cloud.records()), (0, Vec::new()));
    cloud.proxy.calm();

    cloud.proxy.on(part, 0, 1000, Fault::ResetBefore);
    cloud.ore(&args).expect(1);
    assert_eq!((cloud.parts(), cloud.records().len()), (1, 1));
    cloud.proxy.calm();
    cloud.disk("disk.raw", 7 << 20);
    let outcome = cloud.ore(&args).expect(0);
    assert!(outcome.stderr.contains("removing the parts of another file"), "{}", outcome.stderr);
    assert_eq!((cloud.parts(), cloud.records()), (0, Vec::new()));
}

#[test]
fn lost_answers_and_throttling_do_no_harm() {
    let Some(cloud) = Cloud::initialized(&[("MANTLE_IMPORT_POLLS", "1")]) else { return };
    let file = cloud.disk("disk.raw", 6 << 20);
    // The answer to every first request of its kind is lost, the server having done its work.
    let mut seen = std::collections::BTreeSet::new();
    cloud.proxy.rule(move |request| {
        let action = aws::action(request);
        // Neither can be told from one that was never done; a repeated command finds their results.
        let once = matches!(action.as_str(), "ImportSnapshot" | "RegisterImage");
        if !once && seen.insert(action) { Fault::ResetAfter } else { Fault::None }
    });
    let mut slow = 0;
    cloud.proxy.rule(move |request| {
        slow += 1;
        if slow % 3 == 0 { Fault::Answer(aws::throttled(request)) } else { Fault::None }
    });
    cloud.ore(&upload(file.to_str().unwrap(), &["--grant-user=123456789012"])).expect(0);
    let images = cloud.call("ec2", &[("Action", "DescribeImages"), ("Owner.1", "self")]);
    assert_eq!(ids(&images, "ami").len(), 1);
    assert_eq!((cloud.parts(), cloud.object_exists(FILE)), (0, false));
}

#[test]
fn an_interruption_leaves_a_task_that_the_next_run_takes_over() {
    let Some(mut cloud) = Cloud::initialized(&[("MANTLE_IMPORT_POLLS", "1")]) else { return };
    cloud.env.set("MANTLE_POLL_SCALE", "1");
    let file = cloud.disk("disk.raw", 600);
    let args = upload(file.to_str().unwrap(), &[]);
    let running = cloud.start_ore(&args);
    cloud.wait_for(|e| e.request.text().contains("ImportTaskId.1") && e.status.is_some());
    running.signal(Signal::SIGINT);
    let outcome = running.finish().expect(130);
    assert!(outcome.stdout.is_empty() && outcome.stderr.contains("interrupted"), "{outcome:?}");
    cloud.env.set("MANTLE_POLL_SCALE", "0.002");
    cloud.actions();
    cloud.ore(&args).expect(0);
    assert!(!cloud.actions().iter().any(|a| a == "ImportSnapshot"));
}
