//! Uploads by the library: pieces, what is lost on the way, what others do meanwhile.

use std::sync::{Arc, Mutex, OnceLock};

use hyper::body::Bytes;
use mantle::cloud::google::storage::{self, Attributes, Error, Fingerprint, OnlyIf};

use super::{object, runtime, storage};
use crate::support::gcs::{Fault, Gcs};

const LONG: usize = (8 << 20) + 7;

fn content(length: usize) -> Vec<u8> {
    let lines = (0..).flat_map(|n: u32| vec![n as u8 ^ (n >> 8) as u8; 1 << 10].into_iter());
    match length {
        LONG => long().to_vec(),
        _ => lines.take(length).collect(),
    }
}

/// Made once: that takes a while.
fn long() -> &'static [u8] {
    static CONTENT: OnceLock<Vec<u8>> = OnceLock::new();
    CONTENT.get_or_init(|| {
        let mut content = Vec::with_capacity(LONG + 1024);
        for n in 0..=LONG >> 10 {
            content.resize(content.len() + 1024, n as u8 ^ (n >> 8) as u8);
        }
        content.truncate(LONG);
        content
    })
}

fn attributes() -> Attributes {
    Attributes { content_type: Some("application/x-gzip".into()), ..Attributes::default() }
}

/// Uploads a long file; returns what happened and how much had arrived when.
fn upload(gcs: &Gcs, only_if: OnlyIf) -> (Result<storage::Object, Error>, Vec<u64>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), long()).unwrap();
    let storage = storage(gcs.address);
    let mut seen = Vec::new();
    let outcome = runtime().block_on(async {
        let fingerprint = storage::fingerprint(file.path()).await.unwrap();
        let (at, acl) = (object("b", "d/long"), Some("authenticatedRead"));
        let mut progress = |n| seen.push(n);
        storage.insert_file(&at, file.path(), fingerprint, &attributes(), acl, only_if, &mut progress).await
    });
    (outcome, seen)
}

#[track_caller]
fn expect_whole(gcs: &Gcs) {
    let objects = gcs.objects("b");
    let stored = &objects["d/long"];
    assert!(stored.body == long());
    assert_eq!(stored.attributes["contentType"], "application/x-gzip");
    assert_eq!(stored.acl.as_deref(), Some("authenticatedRead"));
}

#[test]
fn long_files_go_in_pieces() {
    let gcs = Gcs::new();
    let (outcome, seen) = upload(&gcs, OnlyIf::Absent);
    assert_eq!(outcome.unwrap().size, LONG as u64);
    assert_eq!(seen, [8 << 20, LONG as u64]);
    expect_whole(&gcs);
    let log = gcs.take_log();
    let told: Vec<_> = log.iter().map(|r| (r.kind(), r.body.len() >> 20)).collect();
    assert_eq!(told, [("begin", 0), ("put", 8), ("put", 0)]);
    assert_eq!(log[0].query["ifGenerationMatch"], "0");
    assert_eq!(log[0].headers["x-upload-content-length"], LONG.to_string());
    assert_eq!(log[0].headers["x-upload-content-type"], "application/x-gzip");
}

#[test]
fn short_content_goes_in_one_request() {
    let gcs = Gcs::new();
    let storage = storage(gcs.address);
    for (name, length) in [("empty", 0), ("short", 1 << 20)] {
        let body = Bytes::from(content(length));
        let at = object("b", name);
        let stored = runtime().block_on(storage.insert(&at, body, &attributes(), None, OnlyIf::Any)).unwrap();
        assert_eq!(stored.crc32c, Some(Fingerprint::of(&content(length)).crc32c));
        let log = gcs.take_log();
        assert_eq!(log.len(), 1);
        assert_eq!(log[0].kind(), "insert");
        assert!(!log[0].query.contains_key("ifGenerationMatch"));
        assert!(gcs.objects("b")[name].body == content(length));
    }
}

#[test]
fn every_request_may_fail_once() {
    for fault in [
        Fault::Status(503),
        Fault::StatusAfter(500),
        Fault::Reset,
        Fault::ResetAfter,
        Fault::Keep(1 << 20),
        Fault::Keep(0),
        Fault::Forget,
    ] {
        for at in 0..3 {
            let only_if = if at == 1 { OnlyIf::Any } else { OnlyIf::Absent };
            let gcs = Gcs::new();
            gcs.judge(move |_, n| if n == at { fault } else { Fault::None });
            let (outcome, seen) = upload(&gcs, only_if);
            let outcome = outcome.map(|o| o.size).map_err(|e| e.to_string());
            assert_eq!(outcome, Ok(LONG as u64), "{fault:?} at {at}");
            assert_eq!(seen.last(), Some(&(LONG as u64)));
            expect_whole(&gcs);
            let sent: usize = gcs.take_log().iter().filter(|r| r.kind() == "put").map(|r| r.body.len()).sum();
            let most = if fault == Fault::Forget { 2 * LONG } else { LONG + (8 << 20) };
            assert!(sent <= most, "{fault:?} at {at}: {sent} bytes sent");
        }
    }
}

#[test]
fn a_forgotten_upload_is_not_begun_for_ever() {
    let gcs = Gcs::new();
    gcs.judge(|r, _| if r.kind() == "put" { Fault::Forget } else { Fault::None });
    let (outcome, _) = upload(&gcs, OnlyIf::Any);
    assert_eq!(outcome.unwrap_err().status().map(|s| s.as_u16()), Some(410));
    assert_eq!(gcs.take_log().iter().filter(|r| r.kind() == "begin").count(), 4);
}

#[test]
fn a_server_that_keeps_nothing_ends_the_upload() {
    let gcs = Gcs::new();
    gcs.judge(|r, _| if r.kind() == "put" { Fault::Keep(0) } else { Fault::None });
    let (outcome, _) = upload(&gcs, OnlyIf::Any);
    assert!(outcome.is_err());
    assert!(gcs.objects("b").is_empty());
}

#[test]
fn somebody_else_was_faster() {
    for length in [10, 2 << 20] {
        let gcs = Gcs::new();
        gcs.put("b", "x", b"theirs", "text/plain");
        let storage = storage(gcs.address);
        let at = object("b", "x");
        let insert = |only_if| {
            runtime().block_on(storage.insert(&at, content(length).into(), &attributes(), None, only_if))
        };
        let error = insert(OnlyIf::Absent).unwrap_err();
        assert_eq!(error.status().map(|s| s.as_u16()), Some(412), "{error}");
        assert_eq!(gcs.take_log().len(), 1, "a refusal is final");
        // a failure before does not make their object ours
        gcs.judge(|_, n| if n == 0 { Fault::Status(503) } else { Fault::None });
        let error = insert(OnlyIf::Absent).unwrap_err();
        assert_eq!(error.status().map(|s| s.as_u16()), Some(412), "{error}");
        gcs.judge(|_, _| Fault::None);
        let generation = gcs.objects("b")["x"].generation;
        insert(OnlyIf::Generation(generation)).unwrap();
        assert!(gcs.objects("b")["x"].body == content(length));
    }
}

#[test]
fn a_file_that_shrinks_is_an_error() {
    let gcs = Gcs::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), long()).unwrap();
    let path = Arc::new(Mutex::new(file.path().to_owned()));
    gcs.judge(move |r, _| {
        if r.kind() == "put" {
            std::fs::write(&*path.lock().unwrap(), b"short").unwrap();
        }
        Fault::None
    });
    let storage = storage(gcs.address);
    let outcome = runtime().block_on(async {
        let fingerprint = storage::fingerprint(file.path()).await.unwrap();
        let at = object("b", "x");
        let none = OnlyIf::Any;
        storage.insert_file(&at, file.path(), fingerprint, &attributes(), None, none, &mut |_| {}).await
    });
    assert!(matches!(outcome, Err(Error::File { .. })), "{outcome:?}");
    assert!(gcs.objects("b").is_empty());
}

/// A file that is uploaded in five parts, each of other content.
fn file_of_parts() -> (tempfile::NamedTempFile, Vec<u8>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut content = Vec::new();
    for n in 0..5_u8 {
        content.resize(usize::from(n) * (8 << 20), 0);
        content.extend_from_slice(&[n + 1; 1000]);
    }
    std::fs::write(file.path(), &content).unwrap();
    (file, content)
}

fn store(gcs: &Gcs, path: &std::path::Path, only_if: OnlyIf) -> (Result<storage::Stored, Error>, Vec<u64>) {
    let storage = storage(gcs.address);
    let mut seen = Vec::new();
    let mut progress = |done, _| seen.push(done);
    let (at, attributes) = (object("b", "d/long"), attributes());
    let work = storage.store_file(&at, path, &attributes, Some("authenticatedRead"), only_if, &mut progress);
    let outcome = runtime().block_on(work);
    (outcome, seen)
}

#[test]
fn long_files_are_put_together_of_parts() {
    let gcs = Gcs::new();
    let (file, content) = file_of_parts();
    let (outcome, seen) = store(&gcs, file.path(), OnlyIf::Absent);
    assert!(outcome.unwrap().left.is_empty());
    assert_eq!(seen.last(), Some(&(content.len() as u64)));
    assert!(seen.is_sorted());
    let stored = &gcs.objects("b")["d/long"];
    assert!(stored.body == content);
    assert_eq!(stored.acl.as_deref(), Some("authenticatedRead"));
    assert_eq!(gcs.names("b"), ["d/long"]);
    let log = gcs.take_log();
    let count = |kind: &str| log.iter().filter(|r| r.kind() == kind).count();
    assert_eq!((count("begin"), count("compose"), count("delete")), (4, 1, 5));
    // The last part is short.
    assert_eq!(count("insert"), 1);
}

#[test]
fn a_second_upload_goes_on_with_the_parts_that_are_there() {
    let gcs = Gcs::new();
    let (file, content) = file_of_parts();
    gcs.judge(|request, _| match request.kind() {
        "compose" => Fault::Status(403),
        _ => Fault::None,
    });
    store(&gcs, file.path(), OnlyIf::Absent).0.unwrap_err();
    assert_eq!(gcs.names("b").len(), 5);
    gcs.judge(|_, _| Fault::None);
    // One of them is not what it should be, and there is one of an older upload, and something of somebody else's.
    let parts = gcs.names("b");
    gcs.change("b", &parts[2], |stored| stored.crc32c ^= 1);
    let older = parts[4].replace("-04", "-31");
    gcs.put("b", &older, b"old", "application/octet-stream");
    gcs.change("b", &older, |stored| {
        stored.attributes.insert("metadata".into(), serde_json::json!({"created-by": "mantle"}));
    });
    let foreign = parts[4].replace("-04", "-30");
    gcs.put("b", &foreign, b"foreign", "application/octet-stream");
    gcs.take_log();
    store(&gcs, file.path(), OnlyIf::Absent).0.unwrap();
    let log = gcs.take_log();
    assert_eq!(log.iter().filter(|r| r.kind() == "begin").count(), 1);
    assert!(gcs.objects("b")["d/long"].body == content);
    assert_eq!(gcs.names("b"), ["d/long".to_owned(), foreign]);
}

#[test]
fn parts_survive_faults_and_what_cannot_be_removed_is_told() {
    for kind in ["begin", "put", "insert", "compose", "get", "list"] {
        for fault in [Fault::Status(503), Fault::Reset, Fault::ResetAfter] {
            let gcs = Gcs::new();
            let (file, content) = file_of_parts();
            let mut done = false;
            gcs.judge(move |request, _| {
                let hit = !done && request.kind() == kind;
                done |= hit;
                if hit { fault } else { Fault::None }
            });
            let (outcome, _) = store(&gcs, file.path(), OnlyIf::Absent);
            assert!(outcome.unwrap().left.is_empty(), "{kind} {fault:?}");
            assert!(gcs.objects("b")["d/long"].body == content, "{kind} {fault:?}");
            assert_eq!(gcs.names("b"), ["d/long"], "{kind} {fault:?}");
        }
    }
    let gcs = Gcs::new();
    let (file, _) = file_of_parts();
    gcs.judge(|request, _| match request.kind() {
        "delete" if request.told().ends_with("-03") => Fault::Status(403),
        _ => Fault::None,
    });
    let stored = store(&gcs, file.path(), OnlyIf::Absent).0.unwrap();
    assert_eq!(stored.left.len(), 1);
    assert_eq!(gcs.names("b").len(), 2);
}
