//! Tables of userdata in and out, and loops over what must hold for all of them.

use std::io::Write;

use serde_json::{Value, json};

use super::*;

const KEY: &str = "ssh-rsa AAAAB3NzaC1yc2E core@default";
const KEY2: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1 me";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn all() -> Additions {
    Additions {
        units: vec![Unit { name: "a.service".into(), contents: "[Unit]\n".into(), enable: true }],
        dropins: vec![
            DropIn::debug("a.service"),
            DropIn { unit: "b.service".into(), name: "x.conf".into(), contents: "[Service]\n".into() },
        ],
        files: vec![File { path: "/etc/x".into(), contents: b"hi there\n".to_vec(), mode: 0o644 }],
        keys: vec![KEY.into()],
    }
}

fn only_keys(keys: &[&str]) -> Additions {
    Additions { keys: keys.iter().map(|k| k.to_string()).collect(), ..Additions::default() }
}

fn show(user_data: &UserData, add: &Additions) -> Result<Conf, Error> {
    render(Some(user_data), IgnitionVersion::V2, "198.51.100.7", "10.0.0.7", add)
}

fn tree_of(user_data: UserData, add: &Additions) -> Value {
    serde_json::from_str(show(&user_data, add).unwrap().text()).unwrap()
}

fn yaml_of(conf: &Conf) -> Value {
    assert!(conf.text().starts_with("#cloud-config\n"), "{}", conf.text());
    serde_yaml::from_str(conf.text()).unwrap()
}

/// The message with its causes, as a person sees it.
fn report(error: Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}

#[test]
fn kinds_are_detected_also_through_gzip() {
    let mime = "Content-Type: multipart/mixed;\n boundary=\"x\"\nMIME-Version: 1.0\n\n--x--\n";
    let table: &[(&str, Kind)] = &[
        ("", Kind::Empty),
        (" ", Kind::ContainerLinuxConfig),
        ("\n", Kind::ContainerLinuxConfig),
        ("#cloud-config", Kind::CloudConfig),
        ("#cloud-config \t\r\nhostname: x\n", Kind::CloudConfig),
        ("#cloud-configs\n", Kind::ContainerLinuxConfig),
        ("\n#cloud-config\n", Kind::ContainerLinuxConfig),
        ("#!/bin/sh\n", Kind::Script),
        ("#!", Kind::Script),
        (mime, Kind::Multipart),
        (
            "From nobody Sat\nMIME-Version: 1.0\ncontent-TYPE: Multipart/Mixed; boundary=x\n\n",
            Kind::Multipart,
        ),
        ("MIME-Version: 1.0\n\nContent-Type: multipart/mixed\n", Kind::ContainerLinuxConfig),
        ("{}", Kind::Ignition),
        (" [1]\n", Kind::Ignition),
        ("{\"ignition\": {\"version\": \"2.0.0\"}}", Kind::Ignition),
        ("{\"ignition\": {\"version\": \"2.0.0\"}", Kind::ContainerLinuxConfig),
        ("storage:\n  files: []\n", Kind::ContainerLinuxConfig),
        ("variant: fcos\nversion: 1.0.0\n", Kind::ContainerLinuxConfig),
    ];
    for (text, kind) in table {
        let plain = UserData::detect(text.as_bytes()).unwrap();
        assert_eq!((plain.kind(), plain.text()), (*kind, *text), "{text:?}");
        assert_eq!(UserData::detect(&gzip(text.as_bytes())).unwrap(), plain, "gzip of {text:?}");
    }
}

#[test]
fn hostile_bytes_are_refused() {
    assert!(matches!(UserData::detect(b"\x1f\x8bnot gzip at all"), Err(Error::Gzip(_))));
    assert!(matches!(UserData::detect(&gzip(b"{}")[..8]), Err(Error::Gzip(_))));
    assert!(matches!(UserData::detect(&[0xff, 0xfe, b'a']), Err(Error::NotText)));
    assert!(matches!(UserData::detect(&gzip(&[0xff])), Err(Error::NotText)));
    let bomb = gzip(&vec![b' '; MAX_SIZE + 1]);
    assert!(bomb.len() < 100_000);
    assert!(matches!(UserData::detect(&bomb), Err(Error::TooLarge)));
    assert!(matches!(UserData::detect(&vec![b' '; MAX_SIZE + 1]), Err(Error::TooLarge)));
}

#[test]
fn userdata_is_immutable() {
    let one = UserData::script("a $x b $x");
    assert!(one.contains("$x") && !one.contains("$y"));
    let two = one.subst("$x", "\"").add_key(KEY);
    assert_eq!(two.text(), "a \" b \"");
    assert_eq!(one, UserData::script("a $x b $x"));
    assert_eq!(one.subst("", "boom"), one);
    assert_eq!(two.kind(), Kind::Script);
    assert_eq!(two.subst("a", "c").keys.len(), 1);
}

#[test]
fn no_userdata_is_an_ignition_config_that_does_nothing() {
    for (version, text) in [(IgnitionVersion::V2, "2.0.0"), (IgnitionVersion::V3, "3.0.0")] {
        let conf = render(None, version, "", "", &Additions::default()).unwrap();
        assert_eq!(conf.text(), format!(r#"{{"ignition":{{"version":"{text}"}}}}"#));
        assert!(conf.is_ignition() && !conf.is_empty() && !conf.needs_disks() && !conf.needs_network());
        assert_eq!(conf.ignition_version().unwrap().to_string(), text);
        let conf = render(None, version, "", "", &all()).unwrap();
        assert!(conf.text().contains("AAAAB3NzaC1yc2E"));
    }
}

#[test]
fn empty_userdata_stays_empty() {
    let conf = show(&UserData::empty().add_key(KEY), &all()).unwrap();
    assert!(conf.is_empty() && !conf.is_ignition() && conf.text().is_empty());
    assert_eq!((conf.kind(), conf.ignition_version()), (Kind::Empty, None));
}

#[test]
fn addresses_are_replaced_in_ignition_only() {
    let text = r#"{"ignition":{"version":"2.2.0"},"x":"$public_ipv4 $private_ipv4 $public_ipv4"}"#;
    let conf = show(&UserData::ignition(text), &Additions::default()).unwrap();
    assert!(conf.text().contains(r#""198.51.100.7 10.0.0.7 198.51.100.7""#));
    let conf = render(Some(&UserData::ignition(text)), IgnitionVersion::V2, "", "p", &Additions::default());
    assert!(conf.unwrap().text().contains(r#""$public_ipv4 p $public_ipv4""#));
    for other in
        [UserData::script("#!/bin/sh\n$public_ipv4"), UserData::cloud_config("#cloud-config\n# $public_ipv4")]
    {
        assert!(show(&other, &Additions::default()).unwrap().text().contains("$public_ipv4"));
    }
}

#[test]
fn ignition_versions() {
    let ok = [
        "2.0.0",
        "2.1.0",
        "2.2.0",
        "2.3.0",
        "2.4.0-experimental",
        "3.0.0",
        "3.3.0",
        "3.4.0-experimental",
        "3.99.0",
    ];
    for version in ok {
        let text = json!({"ignition": {"version": version}}).to_string();
        let conf = show(&UserData::ignition(&text), &Additions::default()).unwrap();
        assert_eq!(
            (conf.text(), conf.ignition_version().unwrap().to_string()),
            (text.as_str(), version.to_owned())
        );
    }
    let conf = show(&UserData::ignition(r#"{"ignitionVersion": 1}"#), &Additions::default()).unwrap();
    assert_eq!(conf.ignition_version(), Some(Version::new(1, 0, 0)));
    let bad = [
        (json!({"ignition": {"version": "9.9.9"}}), "unsupported config version \"9.9.9\""),
        (json!({"ignition": {"version": "2.9.0"}}), "unsupported config version \"2.9.0\""),
        (json!({"ignition": {"version": "2.0.1"}}), "unsupported config version \"2.0.1\""),
        (json!({"ignition": {"version": "1.0.0"}}), "unsupported config version \"1.0.0\""),
        (json!({"ignition": {"version": "x"}}), "unsupported config version \"x\""),
        (json!({"ignition": {"version": 2}}), "unsupported config version 2"),
        (json!({"ignitionVersion": 7}), "unsupported config version 7"),
        (json!({"ignitionVersion": "1"}), "unsupported config version \"1\""),
        (json!({}), "config is not valid: ignition.version: missing"),
        (json!({"ignition": {}}), "config is not valid: ignition.version: missing"),
        (json!({"ignition": []}), "config is not valid: ignition: expected an object"),
        (json!([]), "config is not valid: top level: expected an object"),
    ];
    for (config, message) in bad {
        let error = report(show(&UserData::ignition(config.to_string()), &all()).unwrap_err());
        assert!(error.starts_with(message), "{config}: {error}");
    }
}

#[test]
fn additions_to_an_empty_config_of_each_version() {
    let users = json!({"users": [{"name": "core", "sshAuthorizedKeys": [KEY]}]});
    let unit = |enable: Value| {
        let mut unit = json!({"name": "a.service"});
        unit.as_object_mut().unwrap().append(&mut enable.as_object().unwrap().clone());
        unit["contents"] = json!("[Unit]\n");
        let debug = "[Service]\nEnvironment=SYSTEMD_LOG_LEVEL=debug\n";
        unit["dropins"] = json!([{"name": "10-debug.conf", "contents": debug}]);
        let other = json!({"name": "b.service", "dropins": [{"name": "x.conf", "contents": "[Service]\n"}]});
        json!({"units": [unit, other]})
    };
    let enable = unit(json!({"enable": true}));
    let enabled = unit(json!({"enabled": true}));
    let v2_file = json!({"filesystem": "root", "path": "/etc/x",
        "contents": {"source": "data:,hi%20there%0A"}, "mode": 420});
    let v3_file = json!({"path": "/etc/x", "overwrite": true,
        "contents": {"source": "data:,hi%20there%0A"}, "mode": 420});
    let v1_fs = json!({"device": "/dev/disk/by-partlabel/ROOT", "format": "ext4",
        "files": [{"path": "/etc/x", "contents": "hi there\n", "mode": 420}]});

    let tree = tree_of(UserData::ignition(r#"{"ignitionVersion":1}"#), &all());
    let storage = json!({"filesystems": [v1_fs]});
    assert_eq!(tree, json!({"ignitionVersion": 1, "systemd": enable, "storage": storage, "passwd": users}));
    for (version, systemd, file) in [
        ("2.0.0", &enable, &v2_file),
        ("2.1.0", &enabled, &v2_file),
        ("2.3.0", &enabled, &v2_file),
        ("3.0.0", &enabled, &v3_file),
        ("3.5.0", &enabled, &v3_file),
    ] {
        let header = json!({"version": version});
        let tree = tree_of(UserData::ignition(json!({"ignition": header}).to_string()), &all());
        let storage = json!({"files": [file]});
        let want = json!({"ignition": header, "systemd": systemd, "storage": storage, "passwd": users});
        assert_eq!(tree, want, "{version}");
    }
}

#[test]
fn additions_change_what_is_already_there_and_nothing_else() {
    let text = json!({
        "zzz": {"unknown": [1, 2.5, null]},
        "ignition": {"version": "3.1.0", "extra": true},
        "systemd": {"units": [
            {"name": "b.service", "mask": true, "dropins": [{"name": "y.conf", "contents": "y"}, {"name": "x.conf"}]},
            {"name": "a.service", "enabled": false, "contents": "old"}]},
        "passwd": {"users": [{"name": "root"}, {"name": "core", "uid": 7, "sshAuthorizedKeys": [KEY2]}]},
        "storage": {"files": [{"path": "/etc/x", "user": {"id": 3}, "contents": {"source": "data:,", "compression": ""}}]}
    });
    let mut want = text.clone();
    want["systemd"]["units"][0]["dropins"][1]["contents"] = json!("[Service]\n");
    want["systemd"]["units"][1] = json!({"name": "a.service", "enabled": true, "contents": "[Unit]\n", "dropins":
        [{"name": "10-debug.conf", "contents": "[Service]\nEnvironment=SYSTEMD_LOG_LEVEL=debug\n"}]});
    want["passwd"]["users"][1]["sshAuthorizedKeys"] = json!([KEY2, KEY]);
    want["storage"]["files"][0] = json!({"path": "/etc/x", "user": {"id": 3},
        "contents": {"source": "data:,hi%20there%0A"}, "overwrite": true, "mode": 420});
    let tree = tree_of(UserData::ignition(text.to_string()), &all());
    assert_eq!(tree, want);
    assert_eq!(tree.as_object().unwrap().keys().next().unwrap(), "zzz", "the order of keys stays");

    // Adding again changes nothing more.
    let again = tree_of(UserData::ignition(want.to_string()), &all());
    assert_eq!(again, want);
}

#[test]
fn null_sections_are_filled() {
    let text =
        r#"{"ignition":{"version":"3.0.0"},"systemd":null,"passwd":{"users":null},"storage":{"files":null}}"#;
    let tree = tree_of(UserData::ignition(text), &all());
    assert_eq!(tree["passwd"]["users"][0]["name"], "core");
    assert_eq!(tree["systemd"]["units"][0]["name"], "a.service");
    assert_eq!(tree["storage"]["files"][0]["path"], "/etc/x");
}

#[test]
fn an_old_unit_is_only_ever_switched_on() {
    let add = Additions {
        units: vec![Unit { name: "a.service".into(), contents: String::new(), enable: false }],
        ..Additions::default()
    };
    let unit = |version: &str, unit: Value| {
        let text = json!({"ignition": {"version": version}, "systemd": {"units": [unit]}}).to_string();
        tree_of(UserData::ignition(text), &add)["systemd"]["units"][0].clone()
    };
    let old = json!({"name": "a.service", "enable": true, "contents": "c"});
    assert_eq!(unit("2.0.0", old.clone()), old);
    let new = json!({"name": "a.service", "enabled": true});
    assert_eq!(unit("2.1.0", new), json!({"name": "a.service", "enabled": false}));
}

#[test]
fn a_file_does_not_replace_one_that_appends() {
    let appending =
        json!({"filesystem": "root", "path": "/etc/x", "append": true, "contents": {"source": "data:,b"}});
    let elsewhere = json!({"filesystem": "oem", "path": "/etc/x"});
    let text =
        json!({"ignition": {"version": "2.2.0"}, "storage": {"files": [appending, elsewhere]}}).to_string();
    let files = tree_of(UserData::ignition(text), &all())["storage"]["files"].clone();
    assert_eq!((&files[0], &files[1], files.as_array().unwrap().len()), (&appending, &elsewhere, 3));
}

#[test]
fn faults_are_named_by_their_path() {
    let table = [
        (json!({"systemd": 1}), "systemd: expected an object, found 1"),
        (json!({"systemd": {"units": {}}}), "systemd.units: expected an array, found an object"),
        (
            json!({"systemd": {"units": [null]}}),
            "systemd.units[0].name: expected a non-empty string, found nothing",
        ),
        (json!({"systemd": {"units": ["a"]}}), "systemd.units[0]: expected an object, found \"a\""),
        (
            json!({"systemd": {"units": [{"name": "a"}, {}]}}),
            "systemd.units[1].name: expected a non-empty string",
        ),
        (
            json!({"systemd": {"units": [{"name": "a", "enabled": "yes"}]}}),
            "systemd.units[0].enabled: expected true",
        ),
        (
            json!({"systemd": {"units": [{"name": "a", "dropins": [{}]}]}}),
            "systemd.units[0].dropins[0].name: ",
        ),
        (json!({"passwd": {"users": [{"name": ""}]}}), "passwd.users[0].name: expected a non-empty string"),
        (
            json!({"passwd": {"users": [{"name": "core", "sshAuthorizedKeys": "k"}]}}),
            "passwd.users[0].sshAuthorizedKeys: expected an array, found \"k\"",
        ),
        (
            json!({"passwd": {"users": [{"name": "core", "sshAuthorizedKeys": ["k", 1]}]}}),
            "passwd.users[0].sshAuthorizedKeys[1]: expected a string, found 1",
        ),
        (
            json!({"storage": {"files": [{"path": "etc"}]}}),
            "storage.files[0].path: expected an absolute path",
        ),
        (
            json!({"storage": {"files": [{"path": "/a", "mode": "0644"}]}}),
            "storage.files[0].mode: expected a number",
        ),
        (
            json!({"storage": {"files": [{"path": "/a", "contents": "x"}]}}),
            "storage.files[0].contents: expected an",
        ),
        (
            json!({"storage": {"files": [{"path": "/a"}, {"path": "/b", "contents": {"source": "data:oops"}}]}}),
            "storage.files[1].contents.source: data URL without a comma",
        ),
        (
            json!({"storage": {"files": [{"path": "/b", "contents": {"source": "DATA:,%4"}}]}}),
            "storage.files[0].contents.source: data URL with a broken percent escape",
        ),
        (
            json!({"storage": {"files": [{"path": "/b", "contents": {"source": "data:;base64,abc"}}]}}),
            "storage.files[0].contents.source: data URL with broken base64",
        ),
        (
            json!({"storage": {"files": [{"path": "/b", "contents": {"source": 1}}]}}),
            "storage.files[0].contents.source: expected a URL",
        ),
        (json!({"storage": {"filesystems": [1]}}), "storage.filesystems[0]: expected an object"),
    ];
    for (part, message) in table {
        for version in ["2.0.0", "2.3.0", "3.0.0", "3.4.0"] {
            let mut config = part.clone();
            config["ignition"] = json!({"version": version});
            // Without additions too: the check does not depend on what is added.
            for add in [Additions::default(), all()] {
                let error = report(show(&UserData::ignition(config.to_string()), &add).unwrap_err());
                let want = format!("config is not valid: {message}");
                assert!(error.starts_with(&want), "{config}: {error}");
            }
        }
    }
    let v1 = json!({"ignitionVersion": 1, "storage": {"filesystems": [{"files": [{"path": "/x", "contents": {}}]}]}});
    let error = report(show(&UserData::ignition(v1.to_string()), &all()).unwrap_err());
    assert!(error.contains("storage.filesystems[0].files[0].contents: expected a string"), "{error}");
}

#[test]
fn good_data_urls_pass() {
    for url in [
        "data:,",
        "data:,a b,c",
        "data:text/plain;charset=utf-8,%41",
        "data:;base64,",
        "data:;base64,aGk%3D",
        "data:x/y;BASE64,aGk=",
    ] {
        let file = json!({"path": "/b", "contents": {"source": url}});
        let text = json!({"ignition": {"version": "2.1.0"}, "storage": {"files": [file]}}).to_string();
        assert!(show(&UserData::ignition(text), &all()).is_ok(), "{url}");
    }
}

#[test]
fn files_of_any_content_survive_ignition() {
    // A linear congruential generator: the same bytes each time.
    let mut state = 1_u32;
    let mut next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    for length in 0..200 {
        let ascii = length % 3 == 0;
        let contents: Vec<u8> =
            (0..length).map(|_| if ascii { b' ' + next() % 95 } else { next() }).collect();
        let file = File { path: "/x".into(), contents: contents.clone(), mode: 0o100_755 };
        let add = Additions { files: vec![file], ..Additions::default() };
        for version in ["2.0.0", "3.0.0"] {
            let text = json!({"ignition": {"version": version}}).to_string();
            let tree = tree_of(UserData::ignition(text), &add);
            let file = &tree["storage"]["files"][0];
            assert_eq!(file["mode"], 0o755);
            let (head, data) = file["contents"]["source"].as_str().unwrap().split_once(',').unwrap();
            let decoded = match head {
                "data:;base64" if data.is_empty() => Vec::new(),
                "data:;base64" => openssl::base64::decode_block(data).unwrap(),
                "data:" => {
                    let mut pieces = data.split('%');
                    let mut out = pieces.next().unwrap().as_bytes().to_vec();
                    for piece in pieces {
                        out.push(u8::from_str_radix(&piece[..2], 16).unwrap());
                        out.extend(piece[2..].bytes());
                    }
                    out
                }
                other => panic!("{other}"),
            };
            assert_eq!(decoded, contents);
            // What we write, we accept.
            assert!(show(&UserData::ignition(tree.to_string()), &add).is_ok());
        }
    }
    let add = Additions {
        files: vec![File { path: "/x".into(), contents: vec![0xff], mode: 0 }],
        ..Additions::default()
    };
    let error = show(&UserData::ignition(r#"{"ignitionVersion":1}"#), &add).unwrap_err();
    assert!(report(error).contains("cannot add the file /x"));
}

#[test]
fn keys_are_not_repeated() {
    let table: &[(&[&str], &[&str])] = &[
        (&[KEY, KEY], &[KEY]),
        (&[KEY, "ssh-rsa   AAAAB3NzaC1yc2E other"], &[KEY]),
        (
            &["no-pty,command=\"a b\" ssh-rsa AAAAB3NzaC1yc2E", KEY],
            &["no-pty,command=\"a b\" ssh-rsa AAAAB3NzaC1yc2E"],
        ),
        (&["", "# comment", "  "], &[]),
        (&["ssh-rsa AAAA1\nssh-rsa AAAA2\n", KEY2], &["ssh-rsa AAAA1", "ssh-rsa AAAA2", KEY2]),
        (&["ssh-rsa AAAA1", "ssh-dss AAAA1"], &["ssh-rsa AAAA1", "ssh-dss AAAA1"]),
        (&["odd", " odd "], &["odd"]),
    ];
    for (given, want) in table {
        let owned: Vec<String> = given.iter().map(|k| k.to_string()).collect();
        assert_eq!(keys::unique(&owned), *want, "{given:?}");
    }
    // The user's first, then the flight's; those of the config stay in front.
    let text = json!({"ignition": {"version": "3.0.0"},
        "passwd": {"users": [{"name": "core", "sshAuthorizedKeys": ["ssh-ed25519 AAAAC3NzaC1lZDI1 mine", "k", "k"]}]}});
    let user_data = UserData::ignition(text.to_string()).add_key("ssh-rsa AAAAnew").add_key(KEY2);
    let tree = tree_of(user_data, &only_keys(&[KEY, "ssh-rsa AAAAnew flight"]));
    let want = json!(["ssh-ed25519 AAAAC3NzaC1lZDI1 mine", "k", "ssh-rsa AAAAnew", KEY]);
    assert_eq!(tree["passwd"]["users"][0]["sshAuthorizedKeys"], want);
}

#[test]
fn what_ignition_needs() {
    let table = [
        (json!({}), false, false),
        (json!({"storage": {"disks": [], "filesystems": null, "files": [{"path": "/x"}]}}), false, false),
        (json!({"storage": {"disks": [{"device": "/dev/x"}]}}), true, false),
        (json!({"storage": {"raid": [{"name": "x"}]}}), true, false),
        (json!({"storage": {"filesystems": [{"path": "/var"}]}}), true, false),
        (json!({"storage": {"luks": [{"clevis": {"tang": [{"url": "http://x"}]}}]}}), true, true),
        (json!({"storage": {"luks": [{"clevis": {"custom": {"needsNetwork": true}}}]}}), true, true),
        (json!({"kernelArguments": {"shouldExist": [], "shouldNotExist": []}}), false, false),
        (json!({"kernelArguments": {"shouldExist": ["quiet"]}}), true, false),
        (
            json!({"storage": {"files": [{"path": "/x", "contents": {"source": "data:,http://x"}}]}}),
            false,
            false,
        ),
        (json!({"storage": {"files": [{"path": "/x", "contents": {"source": "oem:///x"}}]}}), false, false),
        (json!({"storage": {"files": [{"path": "/x", "contents": {"source": "HTTPS://x"}}]}}), false, true),
        (json!({"storage": {"files": [{"path": "/x", "append": [{"source": "s3://x"}]}]}}), false, true),
        (json!({"ignition": {"config": {"append": [{"source": "http://x"}]}}}), false, true),
        (json!({"ignition": {"config": {"merge": [{"source": "tftp://x"}]}}}), false, true),
        (json!({"ignition": {"config": {"replace": {"source": "gs://x"}}}}), false, true),
        (json!({"ignition": {"config": {"replace": {"source": null}}}}), false, false),
        (
            json!({"ignition": {"security": {"tls": {"certificateAuthorities": [{"source": "https://x"}]}}}}),
            false,
            true,
        ),
    ];
    for (mut config, disks, network) in table {
        if config["ignition"].is_null() {
            config["ignition"] = json!({});
        }
        config["ignition"]["version"] = json!("3.3.0");
        let conf = show(&UserData::ignition(config.to_string()), &Additions::default()).unwrap();
        assert_eq!((conf.needs_disks(), conf.needs_network()), (disks, network), "{config}");
    }
}

#[test]
fn broken_and_deep_json_are_refused() {
    for text in ["", "{", "{\"a\":1,}", "nul"] {
        assert!(matches!(show(&UserData::ignition(text), &all()), Err(Error::Json(_))), "{text}");
    }
    let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let user_data = UserData::detect(deep.as_bytes()).unwrap();
    assert!(report(show(&user_data, &all()).unwrap_err()).contains("recursion limit exceeded"));
}

#[test]
fn configs_to_be_translated_say_what_to_do() {
    let table = [
        ("storage:\n  files: []\n", "Container Linux Config is not supported yet; convert it to Ignition"),
        ("variant: fcos\nversion: 1.0.0\n", "Butane config is not supported yet; convert it to Ignition"),
        ("{\"ignition\": {\"version\": \"2.0.0\"}", "config is not valid JSON: EOF"),
        ("{a: b}", "Container Linux Config is not supported yet"),
    ];
    for (text, message) in table {
        let user_data = UserData::detect(text.as_bytes()).unwrap();
        assert_eq!(user_data.kind(), Kind::ContainerLinuxConfig);
        let error = report(show(&user_data, &all()).unwrap_err());
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn cloud_config_takes_everything() {
    let conf = show(&UserData::cloud_config("#cloud-config"), &all()).unwrap();
    assert_eq!(conf.kind(), Kind::CloudConfig);
    let debug = "[Service]\nEnvironment=SYSTEMD_LOG_LEVEL=debug\n";
    let want = json!({
        "coreos": {"units": [
            {"name": "a.service", "enable": true, "content": "[Unit]\n",
             "drop_ins": [{"name": "10-debug.conf", "content": debug}]},
            {"name": "b.service", "drop_ins": [{"name": "x.conf", "content": "[Service]\n"}]}]},
        "write_files": [{"path": "/etc/x", "permissions": "0644", "content": "hi there\n"}],
        "ssh_authorized_keys": [KEY]
    });
    assert_eq!(yaml_of(&conf), want);
    // Quoted, for YAML 1.1 readers would see a number.
    assert!(conf.text().contains("permissions: '0644'"), "{}", conf.text());
}

#[test]
fn cloud_config_keeps_the_rest_and_reads_dashes() {
    let text = "#cloud-config\n\
        package-upgrade: yes\n\
        ssh-authorized-keys: [ssh-rsa AAAAB3NzaC1yc2E x]\n\
        coreos:\n  etcd2: {listen-peer-urls: 'http://$private_ipv4:2380', port: 80}\n  \
        units:\n  - name: b.service\n    drop-ins: [{name: x.conf, content: old}]\n    command: start\n\
        write-files: [{path: /etc/x, encoding: gzip+base64, content: a-b, owner: core}]\n\
        base: &base {k-v: 1}\nderived: {<<: *base, w: 2}\nlist: [1.5, -3, null]\n80: x\n";
    let tree = yaml_of(&show(&UserData::cloud_config(text), &all()).unwrap());
    assert_eq!(tree["package-upgrade"], "yes");
    assert_eq!(tree["ssh_authorized_keys"], json!(["ssh-rsa AAAAB3NzaC1yc2E x"]));
    assert_eq!(tree["coreos"]["etcd2"], json!({"listen_peer_urls": "http://$private_ipv4:2380", "port": 80}));
    let unit = &tree["coreos"]["units"][0];
    assert_eq!(
        *unit,
        json!({"name": "b.service", "drop_ins": [{"name": "x.conf", "content": "[Service]\n"}],
        "command": "start"})
    );
    let file = json!({"path": "/etc/x", "content": "hi there\n", "owner": "core", "permissions": "0644"});
    assert_eq!(tree["write_files"], json!([file]));
    assert_eq!(tree["derived"], json!({"w": 2, "k-v": 1}));
    assert_eq!(tree["list"], json!([1.5, -3, null]));
    assert_eq!(tree["80"], "x");
}

#[test]
fn cloud_config_with_nothing_to_add_is_left_alone() {
    let text = "#cloud-config\n# a comment\nhostname:   'x'\nenable: yes\n";
    let conf = show(&UserData::cloud_config(text), &Additions::default()).unwrap();
    assert_eq!(conf.text(), text);
    let conf = show(&UserData::cloud_config("hostname: x\n"), &Additions::default()).unwrap();
    assert_eq!(conf.text(), "#cloud-config\nhostname: x\n");
}

#[test]
fn bad_cloud_configs() {
    let bomb: String = (0..40).fold("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".into(), |text, i| {
        let list = vec![format!("*a{i}"); 10].join(", ");
        format!("{text}a{n}: &a{n} [{list}]\n", n = i + 1)
    });
    let wide = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(50_000), "*a,".repeat(50_000));
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a,".repeat(5_000));
    let chain: String = (0..5_000)
        .fold("a0: &a0 [x]\n".into(), |text, i| text + &format!("a{n}: &a{n} [*a{i}]\n", n = i + 1));
    let deep = "[".repeat(100_000);
    let table = [
        ("a: [", "cloud-config is not valid YAML: "),
        ("a: 1\na: 2\n", "cloud-config is not valid YAML: the key \"a\" occurs twice"),
        ("a: 1\n---\nb: 2\n", "cloud-config is not valid YAML: "),
        ("a: !mine x\n", "cloud-config is not valid YAML: "),
        ("a: .nan\n", "cloud-config is not valid YAML: "),
        ("? [a, b]\n: c\n", "cloud-config is not valid YAML: "),
        ("<<: 1\n", "cloud-config is not valid YAML: a merge key"),
        ("a: *nowhere\n", "cloud-config is not valid YAML: "),
        (&bomb, "cloud-config is not valid YAML: "),
        (&wide, "cloud-config is not valid YAML: "),
        (&long, "cloud-config is not valid YAML: "),
        (&chain, "cloud-config is not valid YAML: "),
        (&deep, "cloud-config is not valid YAML: "),
        ("- a\n", "config is not valid: top level: expected a mapping"),
        ("hello", "config is not valid: top level: expected a mapping"),
        ("coreos: x\n", "config is not valid: coreos: expected an object, found \"x\""),
        (
            "coreos: {units: [{enable: true}]}\n",
            "config is not valid: coreos.units[0].name: expected a non-empty",
        ),
        ("ssh-authorized-keys: k\n", "config is not valid: ssh_authorized_keys: expected an array"),
        ("write_files: [{content: x}]\n", "config is not valid: write_files[0].path: "),
        ("write_files: [{path: /x, content: !!binary aGk=}]\n", "config is not valid: !!binary: "),
    ];
    for (text, message) in table {
        let error =
            report(show(&UserData::cloud_config(format!("#cloud-config\n{text}")), &all()).unwrap_err());
        let shown: String = text.chars().take(60).collect();
        assert!(error.starts_with(message), "{shown}: {error}");
    }
}

#[test]
fn texts_survive_cloud_config() {
    for text in [
        "",
        "\n",
        "a\n\n b\n",
        "no newline",
        "yes",
        "0644",
        "- x: #y",
        "\ttab\r\n",
        "'\"\\",
        "ü€",
        "--x\n",
        "\u{1}",
    ] {
        let add = Additions {
            units: vec![Unit { name: "a.service".into(), contents: format!("[Unit]{text}"), enable: false }],
            files: vec![File { path: "/x".into(), contents: text.into(), mode: 0o7777 }],
            ..Additions::default()
        };
        let conf = show(&UserData::cloud_config(HEAD), &add).unwrap();
        let tree = yaml_of(&conf);
        assert_eq!(tree["coreos"]["units"][0]["content"], format!("[Unit]{text}"));
        assert_eq!(tree["write_files"][0]["content"], text);
        assert!(
            conf.text().lines().all(|line| !line.starts_with("--")),
            "could end a part of a MIME message"
        );
    }
    let add = Additions {
        files: vec![File { path: "/x".into(), contents: vec![0, 0xff], mode: 0 }],
        ..Additions::default()
    };
    let tree = yaml_of(&show(&UserData::cloud_config(HEAD), &add).unwrap());
    let file = json!({"path": "/x", "permissions": "0000", "encoding": "base64", "content": "AP8="});
    assert_eq!(tree["write_files"], json!([file]));
}

const HEAD: &str = "#cloud-config\n";

#[test]
fn scripts_get_keys_where_they_ask_for_them() {
    let text = "#!/bin/bash\ncat <<E\n@SSH_KEYS@\nE\necho '@SSH_KEYS@'";
    let conf = show(&UserData::script(text).add_key(KEY2), &only_keys(&[KEY])).unwrap();
    let keys = format!("{KEY2}\n{KEY}");
    assert_eq!(conf.text(), format!("#!/bin/bash\ncat <<E\n{keys}\nE\necho '{keys}'"));
    assert_eq!(show(&UserData::script(text), &Additions::default()).unwrap().text(), text);
    let plain = "#!/bin/sh\necho";
    let add = Additions { files: Vec::new(), ..all() };
    assert_eq!(show(&UserData::script(plain).add_key(KEY), &add).unwrap().text(), plain);
}

#[test]
fn scripts_of_shells_write_files() {
    for (line, shell) in [
        ("#!/bin/sh", true),
        ("#! /usr/bin/env bash -x", true),
        ("#!/bin/bash -ex", true),
        ("#!/usr/bin/python3", false),
        ("#!/usr/bin/env python", false),
        ("#!/usr/bin/env", false),
        ("#!", false),
    ] {
        let conf = show(&UserData::script(line), &all()).unwrap();
        assert_eq!(conf.text() != line, shell, "{line}");
    }
    // And a shell agrees.
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let contents: [&[u8]; 6] =
        [b"", b"plain $x `y` \\\n", b"no newline", b"\x00\xff", b"KOLA_EOF\nKOLA_EOF_\n\n", b"@SSH_KEYS@\n"];
    let files: Vec<File> = contents
        .iter()
        .enumerate()
        .map(|(i, c)| File { path: at(&format!("it's/{i}")), contents: c.to_vec(), mode: 0o640 })
        .collect();
    let add = Additions { files: files.clone(), ..only_keys(&[KEY]) };
    let conf = show(&UserData::script("#!/bin/sh\nset -e # no newline"), &add).unwrap();
    let path = at("script");
    std::fs::write(&path, conf.text()).unwrap();
    let output = std::process::Command::new("/bin/sh").arg(&path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    for file in files {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::read(&file.path).unwrap(), file.contents);
        assert_eq!(std::fs::metadata(&file.path).unwrap().permissions().mode() & 0o7777, 0o640);
    }
}

#[test]
fn multipart_gets_one_more_part() {
    for eol in ["\n", "\r\n"] {
        let text = [
            "MIME-Version: 1.0",
            "Content-Type: multipart/mixed;",
            "\tcharset=utf-8; Boundary=\"=_b\"",
            "",
            "preamble --=_b",
            "--=_b ",
            "Content-Type: text/x-shellscript",
            "",
            "#!/bin/sh",
            "--=_b--",
            "epilogue",
        ]
        .join(eol);
        let user_data = UserData::detect(text.as_bytes()).unwrap();
        assert_eq!(user_data.kind(), Kind::Multipart);
        let conf = show(&user_data.add_key(KEY2), &all()).unwrap();
        assert_eq!(conf.kind(), Kind::Multipart);
        let (before, after) = text.split_once("--=_b--").unwrap();
        let part = conf.text().strip_prefix(before).unwrap().strip_suffix(after).unwrap();
        let part = part.strip_prefix(&format!("--=_b{eol}")).unwrap().strip_suffix("--=_b--").unwrap();
        let (headers, body) = part.split_once(&format!("{eol}{eol}")).unwrap();
        assert!(headers.starts_with("Content-Type: text/cloud-config;"), "{headers}");
        let tree: Value = serde_yaml::from_str(body).unwrap();
        assert_eq!(tree["ssh_authorized_keys"], json!([KEY2, KEY]));
        assert_eq!(tree["coreos"]["units"][0]["name"], "a.service");
        assert!(body.starts_with(HEAD) && body.ends_with('\n'));
        let conf = show(&UserData::multipart(text.as_str()), &Additions::default()).unwrap();
        assert_eq!(conf.text(), text);
    }
}

#[test]
fn bad_multipart() {
    let long = format!("Content-Type: multipart/mixed; boundary={}\n\n", "x".repeat(71));
    for (text, message) in [
        ("", "no header Content-Type"),
        ("Content-Type: multipart/mixed\n\n", "names no boundary"),
        ("Content-Type: multipart/mixed; boundary=\"\"\n\n", "1 to 70 characters"),
        (&long, "1 to 70 characters"),
        ("Content-Type: multipart/mixed; boundary=b\n\n--c\n", "no part starts"),
        ("Content-Type: multipart/mixed; boundary=b\n\n--b\n\nx\n", "closing boundary is missing"),
    ] {
        let error = report(show(&UserData::multipart(text), &all()).unwrap_err());
        assert!(error.starts_with("multipart userdata is not valid: ") && error.contains(message), "{error}");
    }
}

#[test]
fn cut_or_changed_userdata_never_panics() {
    let samples = [
        r#"{"ignition":{"version":"3.2.0","config":{"merge":[{"source":"data:;base64,e30="}]}},"systemd":{"units":[{"name":"a.service","dropins":[{"name":"x.conf"}]}]},"passwd":{"users":[{"name":"core","sshAuthorizedKeys":["k"]}]},"storage":{"files":[{"path":"/x","contents":{"source":"data:,%41"}}]}}"#,
        r#"{"ignitionVersion":1,"storage":{"filesystems":[{"device":"/dev/disk/by-partlabel/ROOT","files":[{"path":"/etc/x"}]}]}}"#,
        "#cloud-config\ncoreos:\n  units:\n  - name: a.service\n    drop-ins: []\nwrite_files:\n- path: /etc/x\n",
        "#!/bin/sh\n@SSH_KEYS@\n",
        "Content-Type: multipart/mixed; boundary=b\n\n--b\n\nx\n--b--\n",
    ];
    let swaps = b"{}[]:,\"'0-n\n#&* ";
    for sample in samples {
        let bytes = sample.as_bytes();
        for i in 0..bytes.len() {
            let cut = UserData::detect(&bytes[..i]).unwrap();
            let mut changed = bytes.to_vec();
            changed[i] = swaps[i % swaps.len()];
            let changed = UserData::detect(&changed).unwrap();
            for user_data in [cut, changed] {
                let Ok(conf) = show(&user_data, &all()) else { continue };
                // What comes out is again userdata of its kind, and adding once more changes nothing.
                let again = UserData::detect(conf.text().as_bytes()).unwrap();
                assert_eq!(again.kind(), conf.kind(), "{}", user_data.text());
                if matches!(conf.kind(), Kind::Ignition | Kind::CloudConfig) {
                    assert_eq!(show(&again, &all()).unwrap(), conf, "{}", user_data.text());
                }
            }
        }
    }
}
