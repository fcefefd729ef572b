//! Keys in S3: every command works on exactly the one that was named, by what Amazon's own client then finds.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Cloud, json};
use crate::cloud::aws::conformance::boto;

/// What readers of web URLs cut off, decode or tidy up, and a slash after it or before.
const ODD: [&str; 19] = [
    "rel#1",
    "rel?a=b",
    "rel%20x",
    "rel%2Fx",
    "rel%",
    "r+l",
    "r;l",
    "r&l",
    "rel ",
    "rel\r",
    " rel",
    "./rel",
    "../rel",
    "a/./rel",
    "a/../rel",
    "/rel",
    "a//rel",
    "rel/",
    "\u{fc}\\rel",
];

/// Where those land that are cut off, decoded or tidied up.
const NEIGHBOURS: [&str; 8] = [
    "rel",
    "rel/disk.raw",
    "disk.raw",
    "rel x/disk.raw",
    "rel/x/disk.raw",
    "r l/disk.raw",
    "a/rel",
    "a/rel/disk.raw",
];

/// All keys that Amazon's client sees, and how long the objects are.
fn lengths(cloud: &Cloud) -> BTreeMap<String, usize> {
    let seen = boto(&cloud.endpoint(), "lengths", &["images"]);
    seen.as_object().unwrap().iter().map(|(k, v)| (k.clone(), v.as_u64().unwrap() as usize)).collect()
}

#[test]
fn uploads_go_exactly_where_they_were_sent() {
    let Some(cloud) = Cloud::initialized(&[("MANTLE_IMPORT_POLLS", "1")]) else { return };
    let file = cloud.disk("disk.raw", 600);
    boto(&cloud.endpoint(), "put", &[&["images"], &NEIGHBOURS[..]].concat());
    let neighbours: BTreeMap<String, usize> = NEIGHBOURS.iter().map(|k| ((*k).into(), k.len())).collect();
    let upload = |n: usize, delete: &str| {
        let (name, ami) = (format!("--name=n{n}"), format!("--ami-name=img{n}"));
        let bucket = format!("--bucket=s3://images/{}", ODD[n]);
        let (file, delete) = (file.to_str().unwrap(), format!("--delete-object={delete}"));
        let common = ["upload", "--file", file, "--object-format=RAW", "--disk-size-gib=1"];
        let outcome = cloud.ore(&[&common[..], &[&name, &ami, &bucket, &delete]].concat()).expect(0);
        json(&outcome)["S3Object"].as_str().unwrap().to_owned()
    };
    let mut expected = neighbours.clone();
    for (n, odd) in ODD.iter().enumerate() {
        let key = format!("{odd}{}disk.raw", if odd.ends_with('/') { "" } else { "/" });
        // rel/ is no odd one: its object is somebody else's
        if neighbours.contains_key(&key) {
            continue;
        }
        assert_eq!(upload(n, "false"), format!("s3://images/{key}"));
        expected.insert(key, 600);
    }
    assert_eq!(lengths(&cloud), expected);
    // the snapshots are there: nothing is left to do but to delete
    for (n, odd) in ODD.iter().enumerate().filter(|(_, odd)| **odd != "rel/") {
        upload(n, "true");
        expected.remove(&format!("{odd}/disk.raw"));
    }
    assert_eq!((lengths(&cloud), expected), (neighbours.clone(), neighbours));
}

#[test]
fn objects_are_found_by_their_exact_keys() {
    let Some(cloud) = Cloud::initialized(&[("MANTLE_IMPORT_POLLS", "1")]) else { return };
    let odd: Vec<&str> = ODD.into_iter().filter(|odd| !odd.ends_with('/')).collect();
    boto(&cloud.endpoint(), "put", &[&["images"], &odd[..]].concat());
    for (n, key) in odd.iter().enumerate() {
        let url = format!("s3://images/{key}");
        cloud.env.mantle(&["gangue", "get", "--verify=false", &url, "out"]).expect(0);
        assert_eq!(std::fs::read_to_string(cloud.env.home().join("out")).unwrap(), *key);
        let (name, ami) = (format!("--name=n{n}"), format!("--ami-name=img{n}"));
        let source = format!("--source-object={url}");
        let common = ["upload", "--object-format=RAW", "--disk-size-gib=1"];
        let outcome = cloud.ore(&[&common[..], &[&source, &name, &ami]].concat()).expect(0);
        assert_eq!(json(&outcome)["S3Object"], Value::from(url));
    }
    assert_eq!(lengths(&cloud), odd.iter().map(|k| ((*k).to_owned(), k.len())).collect());
    // what is near is not there
    for near in ["rel", "rel x", "rel/x", "r l", "a/rel", "a"] {
        let source = format!("--source-object=s3://images/{near}");
        let common = ["upload", "--object-format=RAW", "--disk-size-gib=1", "--name=n", "--ami-name=near"];
        cloud.ore(&[&common[..], &[&source]].concat()).expect(1);
        let url = format!("s3://images/{near}");
        cloud.env.mantle(&["gangue", "get", "--verify=false", &url, "near"]).expect(1);
    }
    for dots in [".", ".."] {
        let source = format!("--source-object=s3://images/{dots}");
        let common = ["upload", "--object-format=RAW", "--disk-size-gib=1", "--name=n", "--ami-name=near"];
        let outcome = cloud.ore(&[&common[..], &[&source]].concat()).expect(2);
        assert!(outcome.stderr.contains("whose key is dots alone"), "{}", outcome.stderr);
    }
}
