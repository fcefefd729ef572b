//! Descriptions of a release that others have built and published, as Fedora CoreOS is.

use serde_json::{Value, json};

use crate::support::server::Server;
use crate::support::{Env, emulators};

const FOLDER: &str = "/prod/streams/stable/builds/42.1.2/x86_64";

/// What CoreOS Assembler says about a build.
fn meta(version: &str) -> Value {
    let file = |platform: &str, end: &str| {
        json!({
            "path": format!("fedora-coreos-{version}-{platform}.x86_64.{end}"),
            "sha256": "1b".repeat(32), "uncompressed-sha256": "2c".repeat(32), "size": 5,
        })
    };
    json!({
        "buildid": version, "ostree-commit": "ab".repeat(32), "coreos-assembler.basearch": "x86_64",
        "images": {
            "ostree": {"path": "fedora-coreos-ostree.x86_64.ociarchive", "sha256": "00".repeat(32)},
            "qemu": file("qemu", "qcow2.xz"), "aws": file("aws", "vmdk.xz"), "metal4k": file("metal4k", "raw.xz"),
            "live-iso": file("live-iso", "iso"),
        },
        "amis": [{"name": "us-east-1", "hvm": "ami-0123456789abcdef0", "snapshot": "snap-1"}],
        "gcp": {"image": "fedora-coreos-42-1-2-gcp-x86-64", "project": "fedora-coreos-cloud", "family": "fedora-coreos-stable"},
    })
}

#[test]
fn a_release_of_fedora_coreos_is_described() {
    let (env, server) = (Env::new(), Server::new());
    // The built-in table with another server.
    let table = env.mantle(&["plume", "channels"]).expect(0).stdout;
    let here = format!("http://{}", server.address);
    env.write("channels.yaml", &table.replace("https://builds.coreos.fedoraproject.org", &here));
    let plume = |command: &str, version: &str| {
        let words = [
            "plume",
            "--channels=channels.yaml",
            "--distro=fcos",
            command,
            "-C=stable",
            "-B=x86_64",
            "-V",
            version,
        ];
        env.mantle(&words)
    };
    let outcome = plume("release", "42.1.2").expect(1);
    assert!(
        outcome.stderr.contains(&format!("File not found: {here}{FOLDER}/meta.json")),
        "{}",
        outcome.stderr
    );
    let old = json!({
        "stream": "stable", "note": "internal", "metadata": {"last-modified": "2026-01-02T03:04:05Z"},
        "releases": [{
            "version": "42.1.1", "metadata": "https://example.com/42.1.1/release.json",
            "commits": [{"architecture": "x86_64", "checksum": "cd".repeat(32)}],
        }],
    });
    let index = "/prod/streams/stable/releases.json";
    server.put(index, old.to_string().as_bytes());
    server.put(&format!("{FOLDER}/meta.json"), meta("42.1.2").to_string().as_bytes());
    plume("release", "42.1.2").expect(0);

    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(env.home().join(name)).unwrap()).unwrap()
    };
    let (stream, releases) = (read("stream.json"), read("releases.json"));
    let judged = [("stream", &stream), ("releases", &releases)];
    emulators::judged(
        "judge_schema.py",
        &[],
        judged.map(|(schema, document)| json!({"schema": schema, "document": document})),
    );
    let here_is = &stream["architectures"]["x86_64"];
    let disk = &here_is["artifacts"]["qemu"]["formats"]["qcow2.xz"]["disk"];
    let location = format!("{here}{FOLDER}/fedora-coreos-42.1.2-qemu.x86_64.qcow2.xz");
    assert_eq!(disk["location"], location);
    assert_eq!(disk["signature"], format!("{location}.sig"));
    assert_eq!(
        (&disk["sha256"], &disk["uncompressed-sha256"]),
        (&json!("1b".repeat(32)), &json!("2c".repeat(32)))
    );
    let mut formats: Vec<&String> =
        here_is["artifacts"]["metal"]["formats"].as_object().unwrap().keys().collect();
    formats.sort();
    assert_eq!(formats, ["4k.raw.xz", "iso"]);
    assert!(here_is["artifacts"]["ostree"].is_null());
    assert_eq!(here_is["images"]["aws"]["regions"]["us-east-1"]["image"], "ami-0123456789abcdef0");
    assert_eq!(here_is["images"]["gcp"]["family"], "fedora-coreos-stable");
    assert_eq!(releases["releases"][0], old["releases"][0]);
    let metadata = format!("{here}/prod/streams/stable/builds/42.1.2/release.json");
    let commits = json!([{"architecture": "x86_64", "checksum": "ab".repeat(32)}]);
    assert_eq!(
        releases["releases"][1],
        json!({"version": "42.1.2", "metadata": metadata, "commits": commits})
    );

    // Once the index has it, it stays as it is.
    server.put(index, releases.to_string().as_bytes());
    plume("release", "42.1.2").expect(0);
    assert_eq!(read("releases.json"), releases);
    let outcome = plume("verify", "42.1.2").expect(0);
    assert!(outcome.stdout.contains("find "), "{}", outcome.stdout);

    // A description of another build, an index of another stream.
    server.put(&format!("{FOLDER}/meta.json"), meta("42.1.1").to_string().as_bytes());
    let outcome = plume("release", "42.1.2").expect(1);
    assert!(outcome.stderr.contains("it describes build 42.1.1, not 42.1.2"), "{}", outcome.stderr);
    server.put(&format!("{FOLDER}/meta.json"), meta("42.1.2").to_string().as_bytes());
    server.put(index, br#"{"stream": "next", "releases": []}"#);
    let outcome = plume("release", "42.1.2").expect(1);
    assert!(outcome.stderr.contains("it is an index of stream \"next\""), "{}", outcome.stderr);
}
