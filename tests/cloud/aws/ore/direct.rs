//! `ore aws upload --direct`: blocks of a raw image straight into a snapshot.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Cloud, REGION, json, upload};
use crate::cloud::aws;
use crate::support::http::Request;
use crate::support::proxy::Fault;

const BLOCK: usize = 512 << 10;

/// Twelve and a bit blocks, of which 0, 5, 6 and the last are not empty.
fn image(cloud: &Cloud) -> (PathBuf, Vec<u8>) {
    let mut bytes = vec![0u8; BLOCK * 12 + 1000];
    for (at, value) in [(0, 1), (BLOCK * 5 + 7, 2), (BLOCK * 6, 3), (BLOCK * 12 + 999, 4)] {
        bytes[at] = value;
    }
    let path = cloud.env.home().join("disk.raw");
    std::fs::write(&path, &bytes).unwrap();
    bytes.resize(BLOCK * 13, 0);
    (path, bytes)
}

#[track_caller]
fn check(cloud: &Cloud, snapshot: &Value, content: &[u8]) {
    for (index, block) in content.chunks(BLOCK).enumerate() {
        let there =
            cloud.moto.control("block", &json!({"region": REGION, "snapshot": snapshot, "index": index}));
        let sum: String = openssl::sha::sha256(block).iter().map(|b| format!("{b:02x}")).collect();
        let expected = if block.iter().all(|b| *b == 0) { Value::Null } else { sum.into() };
        assert_eq!(there["sha256"], expected, "block {index}");
    }
}

fn is_put(request: &Request) -> bool {
    request.method == "PUT" && request.path().contains("/blocks/")
}

#[test]
fn blocks_are_written_without_the_empty_ones() {
    let Some(cloud) = Cloud::start(&[]) else { return };
    let (path, content) = image(&cloud);
    let args = upload(path.to_str().unwrap(), &["--direct", "--tags=a=b"]);
    let outcome = cloud.ore(&args).expect(0);
    let journal = cloud.proxy.take_journal();
    aws::judged(&journal);
    let actions: Vec<_> = journal.iter().map(|e| aws::action(&e.request)).collect();
    assert_eq!(journal.iter().filter(|e| is_put(&e.request)).count(), 4, "{actions:?}");
    assert!(!journal.iter().any(|e| aws::service(&e.request) == "s3"), "{actions:?}");
    let snapshot = json(&outcome)["SnapshotID"].clone();
    check(&cloud, &snapshot, &content);
    let there =
        cloud.call("ec2", &[("Action", "DescribeSnapshots"), ("SnapshotId.1", snapshot.as_str().unwrap())]);
    assert!(there.contains("<value>n1</value>") && there.contains("<status>completed"), "{there}");
    assert_eq!(cloud.records(), Vec::<String>::new());
    let again = cloud.ore(&args).expect(0);
    assert_eq!(again.stdout, outcome.stdout);
    assert!(!cloud.proxy.take_journal().iter().any(|e| is_put(&e.request)));
}

#[test]
fn interrupted_blocks_are_gone_on_with() {
    let Some(cloud) = Cloud::start(&[]) else { return };
    let (path, content) = image(&cloud);
    let args = upload(path.to_str().unwrap(), &["--direct"]);
    let last = |request: &Request| is_put(request) && request.path().ends_with("/12");
    cloud.proxy.on(last, 0, 1000, Fault::ResetBefore);
    let outcome = cloud.ore(&args).expect(1);
    assert!(outcome.stderr.contains("stays unfinished: repeat the command to go on"), "{}", outcome.stderr);
    cloud.proxy.calm();
    cloud.proxy.take_journal();
    let outcome = cloud.ore(&args).expect(0);
    let journal = cloud.proxy.take_journal();
    let puts: Vec<_> =
        journal.iter().filter(|e| is_put(&e.request)).map(|e| e.request.path().to_owned()).collect();
    assert!(puts.len() == 1 && puts[0].ends_with("/12"), "{puts:?}");
    assert!(!journal.iter().any(|e| aws::action(&e.request) == "POST /snapshots"));
    check(&cloud, &json(&outcome)["SnapshotID"], &content);
    assert_eq!(cloud.records(), Vec::<String>::new());
}

#[test]
fn a_lost_start_makes_one_snapshot_and_a_refusal_leaves_none() {
    let Some(cloud) = Cloud::start(&[]) else { return };
    let (path, content) = image(&cloud);
    let args = upload(path.to_str().unwrap(), &["--direct"]);
    let refused = (400, "ValidationException", "no");
    aws::fail(&cloud.proxy, is_put, 2, 1000, refused);
    cloud.ore(&args).expect(1);
    let there = || cloud.call("ec2", &[("Action", "DescribeSnapshots"), ("Owner.1", "self")]);
    assert!(!there().contains("snap-"), "{}", there());
    assert_eq!(cloud.records(), Vec::<String>::new());
    cloud.proxy.calm();
    let start = |request: &Request| request.method == "POST" && request.path() == "/snapshots";
    cloud.proxy.on(start, 0, 1, Fault::ResetAfter);
    let outcome = cloud.ore(&args).expect(0);
    assert_eq!(super::ids(&there(), "snap").len(), 1);
    check(&cloud, &json(&outcome)["SnapshotID"], &content);
}
