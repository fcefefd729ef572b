//! An upload that is killed at each of its requests in turn, before and after the provider has seen it.

use nix::sys::signal::Signal;

use super::{Cloud, ids, json, upload};
use crate::cloud::aws;
use crate::support::guard::{self, Limit};
use crate::support::http::Request;
use crate::support::proxy::Fault;

/// Kills `args` at its n-th request; false when it ended before.
fn kill_at(cloud: &Cloud, args: &[&str], n: usize) -> bool {
    let mut seen = 0;
    cloud.proxy.rule(move |_: &Request| {
        seen += 1;
        // The server does its work; the answer never comes.
        if seen == n + 1 { Fault::Stall } else { Fault::None }
    });
    cloud.proxy.take_journal();
    let running = cloud.start_ore(args);
    let (mut running, mut killed) = (Some(running), false);
    guard::wait(&format!("request {n} or an end"), Limit::PROGRAM, || {
        let journal = cloud.proxy.journal();
        killed = journal.get(n).is_some_and(|e| e.forwarded);
        if killed {
            let running = running.take().unwrap();
            running.signal(Signal::SIGKILL);
            running.finish();
            cloud.proxy.calm();
        } else if journal.last().is_some_and(|e| e.status.is_some() && is_last(&e.request)) {
            running.take().unwrap().finish().expect(0);
        }
        running.is_none()
    });
    killed
}

/// The last request of an upload with tags.
fn is_last(request: &Request) -> bool {
    aws::action(request) == "CreateTags" && request.text().contains("Tag.1.Key=last")
}

fn all_ways(more: &[&str], size: usize) {
    let Some(cloud) = Cloud::initialized(&[("MANTLE_IMPORT_POLLS", "1")]) else { return };
    let file = cloud.disk("disk.raw", size);
    let tagged = [more, &["--tags=last=one"]].concat();
    let args = upload(file.to_str().unwrap(), &tagged);
    let mut points = 0;
    while kill_at(&cloud, &args, points) {
        let outcome = cloud.ore(&args);
        assert_eq!(outcome.code, 0, "after a kill at request {points}: {}", outcome.stderr);
        let line = json(&outcome);
        let images = cloud.call("ec2", &[("Action", "DescribeImages"), ("Owner.1", "self")]);
        assert_eq!(ids(&images, "ami"), [line["HVM"].as_str().unwrap()], "at {points}");
        assert!(images.contains("<key>last</key>"), "at {points}: {images}");
        let snapshots = cloud.call("ec2", &[("Action", "DescribeSnapshots"), ("Owner.1", "self")]);
        assert_eq!(ids(&snapshots, "snap"), [line["SnapshotID"].as_str().unwrap()], "at {points}");
        assert_eq!((cloud.parts(), cloud.records()), (0, Vec::new()), "at {points}");
        assert!(!cloud.object_exists("/images/path/disk.raw"), "at {points}");
        points += 1;
        cloud.moto.reset();
        cloud.initialize();
    }
    assert!(points > 5, "only {points} requests");
}

#[test]
fn an_upload_killed_anywhere_is_finished_by_the_next() {
    all_ways(&[], 6 << 20);
}

#[test]
fn a_direct_upload_killed_anywhere_is_finished_by_the_next() {
    all_ways(&["--direct"], 1 << 20);
}
