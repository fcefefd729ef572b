//! Other people's Google Storage: both emulators.

use mantle::cloud::google::sources::{Choice, Environment};
use mantle::cloud::google::storage::{Location, Options, Storage};
use mantle::http::{Client, Limits, Retry};
use reqwest::Method;

use super::{Bench, sign};
use crate::support::emulators::{Emulator, start};

/// Uploads with plain requests, not with the code under test.
async fn upload(http: &Client, emulator: &Emulator, name: &str, body: &[u8]) {
    let name: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
    let url = format!("http://{}/upload/storage/v1/b/bkt/o?uploadType=media&name={name}", emulator.address);
    // One of them closes connections that it promised to keep.
    let request = |http: &Client| http.request(Method::POST, url.parse().unwrap()).body(body.to_vec());
    let answer = http.call("test", &[], request).await.unwrap();
    assert!(answer.status.is_success());
}

fn judged_by(which: &str) {
    let Some(emulator) = start(which) else { return };
    let mut bench = Bench::new(3 << 20);
    let http = Client::direct(Limits::default(), Retry::default()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let names = ["dir/image.bin", "dir/image.bin.sig", "dir/a b/ü+c#1?.bin", "top"];
    runtime.block_on(async {
        let bucket = format!("http://{}/storage/v1/b?project=test", emulator.address);
        let request = http
            .request(Method::POST, bucket.parse().unwrap())
            .header("Content-Type", "application/json")
            .body(r#"{"name":"bkt"}"#);
        http.once(request, &[], 1 << 20).await.unwrap();
        let signature = sign(&bench.body);
        for (name, body) in names.iter().zip([&bench.body[..], &signature, b"odd", b"t"]) {
            upload(&http, &emulator, name, body).await;
        }
    });
    bench.env.set("STORAGE_EMULATOR_HOST", format!("http://{}", emulator.address));
    let get = |url: &str, to: &str, options: &[&str]| {
        bench.env.mantle(&[&["gangue", "-v", "get", "--verify-key=key.asc", url, to], options].concat())
    };
    get("gs://bkt/dir/image.bin", "out", &[]).expect(0);
    bench.expect_only_the_file();
    let outcome = get("gs://bkt/dir/a b/ü+c#1?.bin", "odd", &["--verify=false"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert_eq!(std::fs::read(bench.env.home().join("odd")).unwrap(), b"odd");
    get("gs://bkt/top", "top", &["--verify=false"]).expect(0);
    assert_eq!(std::fs::read(bench.env.home().join("top")).unwrap(), b"t");
    let outcome = get("gs://bkt/nothing", "out", &["--verify=false"]).expect(1);
    assert!(outcome.stderr.contains("404"), "{}", outcome.stderr);
    // the web way, without the API
    get(&format!("http://{}/bkt/dir/image.bin", emulator.address), "out/web", &[]).expect(0);

    let options = Options {
        base: format!("http://{}/storage/v1/", emulator.address).parse().unwrap(),
        emulator: true,
        choice: Choice::default(),
        environment: Environment::default(),
        scopes: &[],
        interactive: false,
    };
    let storage = Storage::new(http, options);
    let list = |prefix, recursive| {
        let prefix = Location::prefix(prefix).unwrap();
        let (objects, mut prefixes) = runtime.block_on(storage.list(&prefix, recursive)).unwrap();
        let mut names: Vec<String> = objects.into_iter().map(|o| o.name).collect();
        names.sort();
        prefixes.sort();
        (names, prefixes)
    };
    assert_eq!(list("gs://bkt/dir", true).0, [names[2], names[0], names[1]]);
    assert_eq!(list("gs://bkt", false), (vec!["top".into()], vec!["dir/".into()]));
    let object = runtime.block_on(storage.get(&Location::object("gs://bkt/dir/image.bin").unwrap())).unwrap();
    assert_eq!((object.size, object.crc32c), (3 << 20, Some(crc32c::crc32c(&bench.body))));
}

#[test]
fn fake_gcs_server() {
    judged_by("fake-gcs-server");
}

#[test]
fn gcp_storage_emulator() {
    judged_by("gcp-storage-emulator");
}
