//! Each config of `tests/corpora/container-linux`: what it becomes in both versions of Ignition, or what is wrong with it.
//!
//! Its first line may name where dynamic data comes from. `UPDATE_SNAPSHOTS=1` writes what is expected anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::*;
use crate::conf::{Error, IgnitionVersion, upgrade};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpora/container-linux")
}

/// Name and text of each config.
fn configs() -> Vec<(String, String)> {
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect();
    found.sort();
    assert!(found.len() > 30);
    found
}

fn dynamic(text: &str) -> Dynamic<'static> {
    match text.lines().next().unwrap_or_default().strip_prefix("# platform: ") {
        None => Dynamic::Unknown,
        Some("addresses") => Dynamic::Addresses { public: "198.51.100.7", private: "10.0.0.7" },
        Some(name) => Platform::named(name).map_or(Dynamic::Unknown, Dynamic::Metadata),
    }
}

fn pretty(json: &Json) -> String {
    serde_json::to_string_pretty(json).unwrap()
}

/// All that there is to say of a config.
fn outcome(text: &str) -> String {
    let mut out = String::new();
    // What kola replaces before.
    let text = text.replace("$private_ipv4", "${COREOS_EC2_IPV4_LOCAL}");
    match translate(&text, dynamic(&text)) {
        Err(report) => writeln!(out, "{report}").unwrap(),
        Ok(Translated { ignition, warnings }) => {
            warnings.iter().for_each(|fault| writeln!(out, "warning: {fault}").unwrap());
            writeln!(out, "{}", pretty(&ignition)).unwrap();
            match upgrade::to_v3(ignition) {
                Ok(ignition) => writeln!(out, "{}", pretty(&ignition)).unwrap(),
                Err(e) => writeln!(out, "{e}").unwrap(),
            }
        }
    }
    out
}

#[test]
fn configs_become_what_is_expected() {
    let update = std::env::var_os("UPDATE_SNAPSHOTS").is_some();
    for (name, text) in configs() {
        let path = folder().join(format!("{name}.txt"));
        let got = outcome(&text);
        if update {
            std::fs::write(&path, &got).unwrap();
        }
        let wanted = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(got == wanted, "{name}: expected\n{wanted}\ngot\n{got}");
        let refused = translate(&text, dynamic(&text)).is_err();
        assert_eq!(refused, name.starts_with("bad-"), "{name}");
    }
}

/// Whatever comes out is taken by the checks that every Ignition config goes through, and by Ignition itself.
#[test]
fn what_comes_out_is_ignition() {
    for (name, text) in configs() {
        let text = text.replace("$private_ipv4", "10.0.0.7");
        let Ok(Translated { ignition, .. }) = translate(&text, dynamic(&text)) else { continue };
        let add = crate::conf::Additions::default();
        crate::conf::ignition::add(&ignition.to_string(), &add, &[])
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let v3 = match upgrade::to_v3(ignition) {
            Err(Error::NotInVersion3 { .. }) => continue,
            other => other.unwrap().to_string(),
        };
        crate::conf::ignition::add(&v3, &add, &[]).unwrap_or_else(|e| panic!("{name}: {e}\n{v3}"));
        if let Some(said) = crate::conf::tests::ignition_says(&v3) {
            assert!(said.is_empty(), "{name}: {said}\n{v3}");
        }
    }
}

#[test]
fn cut_or_changed_configs_never_panic() {
    let swaps = b"{}[]:,\"'0-n\n#&*<>!|";
    for (_, text) in configs() {
        let bytes = text.as_bytes();
        for i in (0..bytes.len()).step_by(3) {
            let mut changed = bytes.to_vec();
            changed[i] = swaps[i / 3 % swaps.len()];
            for bytes in [&bytes[..i], &changed] {
                let Ok(text) = std::str::from_utf8(bytes) else { continue };
                if let Ok(done) = translate(text, dynamic(text)) {
                    let _ = upgrade::to_v3(done.ignition);
                }
            }
        }
    }
}

#[test]
fn hostile_documents_are_refused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..30 {
        let alias = format!("*a{}, ", i - 1).repeat(10);
        bomb.push_str(&format!("a{i}: &a{i} [{}]\n", alias.trim_end_matches(", ")));
    }
    let keys = (0..300_000).map(|i| format!("k{i}: 1\n")).collect::<String>();
    let mut nested = String::new();
    (0..100).for_each(|i| nested.push_str(&format!("{}a:\n", " ".repeat(i))));
    for (text, why) in [
        (bomb.as_str(), "the document is too large, its aliases counted"),
        (keys.as_str(), "the document is too large"),
        (nested.as_str(), "nested deeper than a config can need"),
        (&"[".repeat(100_000), "more open brackets than a config can need"),
        (&"{a: ".repeat(3000), "recursion limit exceeded"),
        (&"{a: ".repeat(100), "nested deeper than a config can need"),
        ("a: &a [*a]", ""),
        ("? [a]\n: b", "a key must be text"),
        ("<<: text", "a merge key (<<) takes mappings only"),
        ("\u{0}", ""),
    ] {
        let report = translate(text, Dynamic::Unknown).unwrap_err().to_string();
        assert!(
            report.contains(why) && report.starts_with("line "),
            "{}: {report}",
            &text[..text.len().min(60)]
        );
    }
}

#[test]
fn etcd_has_an_option_for_each_key_of_its_version() {
    let with = |version: &str, key: &str, value: &str| {
        let text = format!("etcd:\n  version: {version}\n  {key}: {value}\n");
        let done = translate(&text, Dynamic::Unknown).unwrap();
        let unit = &done.ignition["systemd"]["units"][0]["dropins"][0]["contents"];
        (unit.as_str().unwrap().to_owned(), done.warnings.len())
    };
    for (key, since) in [("auto_tls", 30), ("metrics", 31), ("auth_token", 32), ("max_txn_ops", 33)] {
        for version in [23, 30, 31, 32, 33] {
            let name = format!("{}.{}.0", version / 10, version % 10);
            let (unit, warnings) = with(&name, key, if key == "auto_tls" { "true" } else { "5" });
            let option = format!("--{}=", key.replace('_', "-"));
            assert_eq!(
                (unit.contains(&option), warnings),
                (version >= since, usize::from(version < since)),
                "{name} {key}"
            );
        }
    }
}

/// By way of the rendering that every machine's userdata goes through.
#[test]
fn rendering_takes_the_version_and_the_platform_from_the_machine() {
    let text = "etcd:\n  listen_peer_urls: http://{PRIVATE_IPV4}:2380\n";
    let config = crate::conf::UserData::detect(text.as_bytes()).unwrap();
    let render = |version, public: &str, private: &str| {
        let add = crate::conf::Additions { keys: vec!["ssh-rsa AAAA me".into()], ..Default::default() };
        crate::conf::render(Some(&config), version, public, private, &add)
    };
    let v2 = render(IgnitionVersion::V2, "", "10.0.0.2").unwrap();
    assert_eq!(v2.ignition_version().unwrap().to_string(), VERSION);
    assert!(
        v2.is_ignition() && v2.text().contains("http://10.0.0.2:2380") && v2.text().contains("ssh-rsa AAAA")
    );
    let v3 = render(IgnitionVersion::V3, "", "10.0.0.2").unwrap();
    assert_eq!(v3.ignition_version().unwrap().to_string(), "3.0.0");
    let ec2 = render(IgnitionVersion::V2, "${COREOS_EC2_IPV4_PUBLIC}", "${COREOS_EC2_IPV4_LOCAL}").unwrap();
    assert!(
        ec2.text().contains("http://${COREOS_EC2_IPV4_LOCAL}:2380") && ec2.text().contains(metadata::FILE)
    );
    let esx = render(IgnitionVersion::V2, "", "${COREOS_ESX_IPV4_PRIVATE_0}").unwrap_err();
    assert_eq!(
        crate::text::chain(&esx),
        "parsing Container Linux config: line 2, column 21: etcd.listen_peer_urls: platform must be specified to use \
         templating"
    );
}
