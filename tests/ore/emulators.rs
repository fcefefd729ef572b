//! Other people's Google Storage: both emulators.

use std::collections::BTreeMap;

use hyper::body::Bytes;
use mantle::cloud::google::storage::{self, Attributes, Object, OnlyIf, Rewrite, Storage};
use reqwest::Method;

use super::{object, runtime, storage};
use crate::support::Env;
use crate::support::emulators::{Emulator, start};

fn attributes(kind: &str) -> Attributes {
    Attributes { content_type: Some(kind.into()), ..Attributes::default() }
}

async fn bucket(storage: &Storage, emulator: &Emulator, name: &str) {
    let url: reqwest::Url = format!("http://{}/storage/v1/b?project=test", emulator.address).parse().unwrap();
    let request = |http: &mantle::http::Client| {
        let request = http.request(Method::POST, url.clone()).header("Content-Type", "application/json");
        request.body(format!("{{\"name\":\"{name}\"}}"))
    };
    storage.http().call("test", &[], request).await.unwrap();
}

async fn put(storage: &Storage, bucket: &str, name: &str, body: &str) -> Object {
    put_as(storage, bucket, name, body, "application/octet-stream").await
}

async fn put_as(storage: &Storage, bucket: &str, name: &str, body: &str, kind: &str) -> Object {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let at = object(bucket, name);
    storage.insert(&at, body, &attributes(kind), None, OnlyIf::Any).await.unwrap()
}

async fn texts(storage: &Storage, bucket: &str) -> BTreeMap<String, String> {
    let (objects, _) = storage.list(&object(bucket, ""), true).await.unwrap();
    let mut texts = BTreeMap::new();
    for found in objects {
        let answer = storage.media(&object(bucket, &found.name), &found, 0).await.unwrap();
        texts.insert(found.name, answer.text().await.unwrap());
    }
    texts
}

/// Whether this one refuses what a precondition forbids: one of them heeds no `ifGenerationMatch=0`.
fn writes(emulator: &Emulator, heeds: bool) {
    let storage = storage(emulator.address);
    runtime().block_on(async {
        bucket(&storage, emulator, "bkt-w").await;
        let first = put(&storage, "bkt-w", "d/ü +?#", "one").await;
        let at = object("bkt-w", "d/ü +?#");
        let conflict = storage
            .insert(&at, Bytes::from_static(b"two"), &attributes("text/plain"), None, OnlyIf::Absent)
            .await;
        assert_eq!(conflict.is_err(), heeds, "{conflict:?}");
        let now = storage.get(&at).await.unwrap();
        assert_eq!(now.generation == first.generation, heeds);
        let second = OnlyIf::Generation(now.generation);
        let stored =
            storage.insert(&at, Bytes::from_static(b"two"), &attributes("text/plain"), None, second).await;
        assert_eq!(stored.unwrap().size, 3);

        // a file in pieces
        let file = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..(9 << 20) + 5).map(|n: usize| (n >> 12) as u8).collect();
        std::fs::write(file.path(), &content).unwrap();
        let fingerprint = storage::fingerprint(file.path()).await.unwrap();
        let long = object("bkt-w", "d/long");
        let kind = attributes("application/x-gzip");
        let mut seen = 0;
        let stored = storage
            .insert_file(&long, file.path(), fingerprint, &kind, None, OnlyIf::Absent, &mut |n| seen = n)
            .await
            .unwrap();
        assert_eq!((seen, stored.crc32c), (content.len() as u64, Some(crc32c::crc32c(&content))));
        assert_eq!(stored.content_type.as_deref(), Some("application/x-gzip"));

        // a copy, its attributes changed, its deletion
        let copy = object("bkt-w", "copy");
        let rewrite = Rewrite {
            source: &long,
            generation: stored.generation,
            fingerprint: Some(fingerprint),
            attributes: &stored.attributes(),
            destination: &copy,
            only_if: OnlyIf::Absent,
        };
        let copied = storage.rewrite(&rewrite).await.unwrap();
        assert_eq!((copied.size, copied.content_type.as_deref()), (stored.size, Some("application/x-gzip")));
        let copied = storage.get(&copy).await.unwrap();
        let version = (copied.generation, copied.metageneration);
        let wanted = Attributes { cache_control: Some("no-store".into()), ..attributes("text/html") };
        storage.patch(&copy, version, &copied.attributes(), &wanted).await.unwrap();
        let patched = storage.get(&copy).await.unwrap();
        assert_eq!(patched.content_type.as_deref(), Some("text/html"));
        assert_eq!(patched.cache_control.as_deref(), Some("no-store"));
        storage.delete(&copy, (patched.generation, patched.metageneration)).await.unwrap();
        storage.delete(&copy, (patched.generation, patched.metageneration)).await.unwrap();
        assert_eq!(storage.get(&copy).await.unwrap_err().status().map(|s| s.as_u16()), Some(404));
    });
}

/// One of them keeps the content of `x` and `x/` in the same place: no pages of folders there.
fn jobs(emulator: &Emulator, folders: bool) {
    let storage = storage(emulator.address);
    let runtime = runtime();
    runtime.block_on(async {
        for name in ["bkt-b", "bkt-c"] {
            bucket(&storage, emulator, name).await;
        }
        for name in
            ["src/version.txt", "src/a/docker:17.03.torcx.tgz", "src/a/x.sig", "src/b/ü +?#%41", "src/top"]
        {
            put(&storage, "bkt-b", name, name).await;
        }
        put_as(&storage, "bkt-b", "src/index.html", "a page of the source", "text/html").await;
        for (name, body) in [
            ("dst/top", "src/top"),
            ("dst/a/x.sig", "older"),
            ("dst/stale", "s"),
            ("dst/old/x", "s"),
            ("out", "o"),
        ] {
            put(&storage, "bkt-c", name, body).await;
        }
        let pages = ["dst/old/index.html", "dst/old", "dst/old/"];
        for name in &pages[..if folders { 3 } else { 1 }] {
            put_as(&storage, "bkt-c", name, "an old page", "text/html").await;
        }
    });
    let mut env = Env::new();
    env.set("STORAGE_EMULATOR_HOST", format!("http://{}", emulator.address));
    env.set("MANTLE_POLL_SCALE", "0.1");
    let gcloud = |args: &[&str]| env.mantle(&[&["ore", "gcloud"], args].concat());
    let with_pages = |command: &'static str| if folders { vec![command, "-D"] } else { vec![command] };
    let sync = |more: &[&str]| {
        gcloud(
            &[
                &with_pages("sync")[..],
                &["-r", "--delete", "-I"],
                more,
                &["gs://bkt-b/src", "gs://bkt-c/dst"],
            ]
            .concat(),
        )
    };
    let before = runtime.block_on(texts(&storage, "bkt-c"));
    let outcome = sync(&["-n"]).expect(0);
    assert!(outcome.stderr.contains("Would delete gs://bkt-c/dst/stale"), "{}", outcome.stderr);
    assert_eq!(runtime.block_on(texts(&storage, "bkt-c")), before);
    sync(&[]).expect(0);
    let after = runtime.block_on(texts(&storage, "bkt-c"));
    let names: Vec<&str> = after.keys().map(String::as_str).collect();
    let is_folder_page = |n: &&str| ["dst", "dst/", "dst/a", "dst/a/", "dst/b", "dst/b/"].contains(n);
    let expected = [
        "dst",
        "dst/",
        "dst/a",
        "dst/a/",
        "dst/a/docker:17.03.torcx.tgz",
        "dst/a/index.html",
        "dst/a/x.sig",
        "dst/b",
        "dst/b/",
        "dst/b/index.html",
        "dst/b/ü +?#%41",
        "dst/index.html",
        "dst/top",
        "dst/version.txt",
        "out",
    ];
    let expected: Vec<_> = expected.into_iter().filter(|n| folders || !is_folder_page(n)).collect();
    assert_eq!(names, expected);
    assert_eq!(after["dst/b/ü +?#%41"], "src/b/ü +?#%41");
    assert!(
        after["dst/a/index.html"]
            .contains("<a href=\"./docker%3a17.03.torcx.tgz\">docker:17.03.torcx.tgz</a>"),
        "{after:?}"
    );
    assert!(!folders || after["dst"].contains("url=dst/"), "{after:?}");
    let outcome = sync(&[]).expect(0);
    let pages = if folders { 9 } else { 3 };
    let nothing = |all: usize| format!("0 copied, 0 pages written, 0 deleted, {all} unchanged");
    assert!(outcome.stderr.contains(&nothing(5 + pages)), "{}", outcome.stderr);
    let outcome = gcloud(&[&with_pages("index")[..], &["-r", "gs://bkt-c/dst"]].concat()).expect(0);
    assert!(outcome.stderr.contains(&nothing(pages)), "{}", outcome.stderr);
    gcloud(&["index", "-r", "--delete", "gs://bkt-c/dst"]).expect(0);
    let after = runtime.block_on(texts(&storage, "bkt-c"));
    assert!(
        !after.contains_key("dst") && !after.contains_key("dst/a/") && after.contains_key("dst/index.html")
    );
}

#[test]
fn fake_gcs_server() {
    let Some(emulator) = start("fake-gcs-server") else { return };
    writes(&emulator, true);
    jobs(&emulator, true);
}

#[test]
fn gcp_storage_emulator() {
    let Some(emulator) = start("gcp-storage-emulator") else { return };
    writes(&emulator, false);
    jobs(&emulator, false);
}
