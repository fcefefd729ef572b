//! A build on a web server, as Flatcar's are, for a channel that has no classic images at Azure.

use serde_json::json;

use super::world::{Set, packed_and_signed};
use crate::cloud::azure::double::{Azure, LOCATION, id};
use crate::cloud::azure::judged;
use crate::cloud::gce::double::{Gce, PROJECT, key_file};
use crate::cloud::matrix::Double as _;
use crate::support::emulators::{AZURITE, azurite};
use crate::support::proxy::Proxy;
use crate::support::server::Server;

fn table(server: &Server) -> String {
    let (source, account) = (server.url("/images/{arch}/{version}"), AZURITE.0);
    format!(
        r#"distributions:
  flatcar:
    title: Flatcar
    cloud-boards: [amd64-usr, arm64-usr]
    channels:
      stable:
        source: "{source}"
        boards: [amd64-usr, arm64-usr]
        gce: {{ project: {PROJECT}, family: flatcar-stable, description: Flatcar, image: flatcar_gce.tar.gz,
                publish: flatcar_gce.txt, keep: 10, public: true, dated: false, board-suffixes: {{ arm64-usr: -arm64 }} }}
        azure: {{ image: "flatcar_{{version}}_{{arch}}.vhd.bz2", account: {account}, resource-group: flatcar,
                  container: publish, blob: "flatcar-linux-{{version}}-{{channel}}-{{arch}}.vhd" }}
"#
    )
}

#[test]
fn a_build_on_a_web_server_goes_to_azure_and_cannot_go_to_google() {
    let Some(azurite) = azurite() else { return };
    let (azure, gce, server) = (Azure::of_records(), Gce::of_records(), Server::new());
    azure.put(&id("flatcar", ""), json!({"location": LOCATION}));
    azure.put(&id("flatcar", &format!("Microsoft.Storage/storageAccounts/{}", AZURITE.0)), json!({}));
    let (blobs, mut env) = (Proxy::new(azurite.address), azure.env());
    let key = env.write("google.json", &key_file(&format!("{}/token", gce.proxy.url())));
    env.set("AZURE_STORAGE_BLOB_ENDPOINT", blobs.url())
        .set("GOOGLE_APPLICATION_CREDENTIALS", key)
        .set("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", gce.url());
    env.write("channels.yaml", &table(&server));
    std::fs::write(env.home().join("key.asc"), super::world::armored()).unwrap();
    let folder = "/images/arm64/3.2.1";
    for (name, body) in packed_and_signed("flatcar_3.2.1_arm64.vhd.bz2", &Set::Small.vhd()) {
        server.put(&format!("{folder}/{name}"), &body);
    }
    let plume = |command: &str, more: &[&str]| {
        let words = [
            "plume",
            "--channels=channels.yaml",
            "--distro=flatcar",
            command,
            "-C=stable",
            "-B=arm64-usr",
            "-V=3.2.1",
        ];
        env.mantle(&[&words[..], more].concat())
    };
    let before = ["--platform=azure", "--verify-key=key.asc"];
    let outcome = plume("pre-release", &before).expect(1);
    let missing = format!("File not found: {}", server.url(&format!("{folder}/version.txt")));
    assert!(outcome.stderr.contains(&missing), "{}", outcome.stderr);
    server.put(&format!("{folder}/version.txt"), b"FLATCAR_VERSION=3.2.1\n");

    let list = format!("{}/{}/publish/flatcar-linux-3.2.1-stable-arm64.vhd", blobs.url(), AZURITE.0);
    plume("pre-release", &[&before[..], &["--write-image-list=out.json"]].concat()).expect(0);
    let out = std::fs::read_to_string(env.home().join("out.json")).unwrap();
    assert_eq!(out, format!("{{\n  \"azure\": {{\n    \"url\": \"{list}\"\n  }}\n}}\n"));
    let pages = |proxy: &Proxy| {
        proxy.take_journal().iter().filter(|e| e.request.header("x-ms-page-write").is_some()).count()
    };
    assert!(pages(&blobs) > 0);
    judged(&azure.proxy.take_journal());
    plume("pre-release", &before).expect(0);
    assert_eq!(pages(&blobs), 0, "it is there");

    let why = format!(
        "Compute Engine makes images of objects in Google Storage alone, not of {}",
        server.url(&format!("{folder}/flatcar_gce.tar.gz"))
    );
    let plan = plume("plan", &["--platform=gce"]).expect(1);
    assert!(
        plan.stdout.contains("IMPOSSIBLE  create GCE image flatcar-stable-3-2-1-arm64\n"),
        "{}",
        plan.stdout
    );
    assert!(plan.stdout.contains(&why), "{}", plan.stdout);
    let outcome = plume("release", &["--platform=gce"]).expect(1);
    assert!(outcome.stderr.contains(&why), "{}", outcome.stderr);
    assert!(gce.images().is_empty());
}
