//! Ignition configs of every version.

use super::*;

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
fn ignition_itself_accepts_what_we_write() {
    let files = [&b"text % ? # + ;\n"[..], b"", b"\x00\xff", "ü".as_bytes()];
    let files = files.iter().enumerate();
    let mut add = all();
    add.units[0].contents = "[Service]\nExecStart=/bin/true\n".into();
    add.files.extend(files.map(|(i, c)| File {
        path: format!("/etc/{i}"),
        contents: c.to_vec(),
        mode: 0o600,
    }));
    add.keys.extend([KEY.into(), KEY2.into()]);
    for version in ["3.0.0", "3.1.0", "3.2.0", "3.3.0"] {
        let text = json!({"ignition": {"version": version}, "passwd": {"users": [
            {"name": "core", "sshAuthorizedKeys": [KEY]}]}, "storage": {"files": [{"path": "/etc/x"}]},
            "systemd": {"units": [{"name": "a.service", "mask": true}]}});
        let conf = show(&UserData::ignition(text.to_string()), &add).unwrap();
        match ignition_says(conf.text()) {
            None => return,
            Some(said) => assert!(said.is_empty(), "{}\n{said}", conf.text()),
        }
    }
}

#[test]
fn what_ignition_3_refuses_is_refused_with_its_path() {
    let table = [
        (
            json!({"passwd": {"users": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}}),
            "passwd.users[2].name: \"a\" is also the name of passwd.users[0]",
        ),
        (
            json!({"storage": {"files": [{"path": "/x"}], "links": [{"path": "/x", "target": "/y"}]}}),
            "storage.links[0].path: \"/x\" is also the path of storage.files[0]",
        ),
        (
            json!({"systemd": {"units": [{"name": "a.service", "dropins": [{"name": "x.conf"}, {"name": "x.conf"}]}]}}),
            "systemd.units[0].dropins[1].name: \"x.conf\" is also the name of systemd.units[0].dropins[0]",
        ),
        (
            json!({"systemd": {"units": [{"name": "a"}]}}),
            "systemd.units[0].name: \"a\" does not end in a kind of unit, such as .service",
        ),
        (
            json!({"storage": {"files": [{"path": "/x", "mode": 7777}]}}),
            "storage.files[0].mode: 7777 is no mode; the largest is 4095 (07777)",
        ),
        (
            json!({"storage": {"files": [{"path": "/x", "contents": {"source": "ftp://h/x"}}]}}),
            "storage.files[0].contents.source: Ignition cannot fetch ftp: URLs",
        ),
    ];
    for (mut config, message) in table {
        config["ignition"] = json!({"version": "3.2.0"});
        let error = show(&UserData::ignition(config.to_string()), &Additions::default()).unwrap_err();
        assert_eq!(report(error), format!("config is not valid: {message}"));
        // Version 2 takes most of them.
        config["ignition"] = json!({"version": "2.2.0"});
        show(&UserData::ignition(config.to_string()), &Additions::default()).unwrap();
    }
    // The same drop-in of different units is none twice.
    let config = json!({"ignition": {"version": "3.0.0"}, "systemd": {"units": [
        {"name": "a.service", "dropins": [{"name": "x.conf"}]}, {"name": "b.service", "dropins": [{"name": "x.conf"}]}]}});
    show(&UserData::ignition(config.to_string()), &Additions::default()).unwrap();
}

#[test]
fn versions_that_an_image_cannot_read_are_refused() {
    let conf = |version| {
        let text = json!({"ignition": {"version": version}}).to_string();
        show(&UserData::ignition(text), &Additions::default()).unwrap()
    };
    let ranges = [semver::VersionReq::parse(">=3.0.0, <=3.3.0").unwrap()];
    conf("3.3.0").check_readable(&ranges).unwrap();
    for version in ["2.3.0", "3.9.0"] {
        let error = conf(version).check_readable(&ranges).unwrap_err().to_string();
        assert!(
            error.ends_with(&format!("the image's Ignition reads >=3.0.0, <=3.3.0, not {version}")),
            "{error}"
        );
    }
}

/// Configs of version 2, and what they are in version 3 or why they cannot be.
#[test]
fn version_2_becomes_version_3() {
    let file = |path: &str| json!({"filesystem": "root", "path": path, "mode": 420, "contents": {"source": "data:,x"}});
    let table = [
        (json!({}), Ok(json!({}))),
        (
            json!({"systemd": {"units": [
                {"name": "a.service", "enable": true}, {"name": "b.service", "enable": false},
                {"name": "a.service", "mask": true, "dropins": [{"name": "x.conf"}]}]}}),
            Ok(json!({"systemd": {"units": [
                {"name": "a.service", "enabled": true, "mask": true, "dropins": [{"name": "x.conf"}]},
                {"name": "b.service"}]}})),
        ),
        (
            json!({"storage": {"files": [file("/a"), file("/a"), {"filesystem": "root", "path": "/b"}]}}),
            Ok(json!({"storage": {"files": [
                {"path": "/a", "mode": 420, "overwrite": true, "contents": {"source": "data:,x"}},
                {"path": "/b", "overwrite": true, "contents": {"source": "data:,"}}]}})),
        ),
        (
            json!({"storage": {"filesystems": [
                {"name": "oem", "path": "/usr/share/oem"},
                {"mount": {"device": "/dev/vda9", "format": "xfs", "create": {"force": true, "options": ["-L", "ROOT"]}}}],
                "files": [{"filesystem": "oem", "path": "/x", "append": true, "contents": {"source": "data:,x"}}]}}),
            Ok(json!({"storage": {
                "filesystems": [
                    {"device": "/dev/vda9", "format": "xfs", "wipeFilesystem": true, "options": ["-L", "ROOT"]}],
                "files": [{"path": "/usr/share/oem/x", "append": [{"source": "data:,x"}]}]}})),
        ),
        (
            json!({"passwd": {"users": [{"name": "a", "create": {"uid": 7, "groups": ["docker"]}}],
                "groups": [{"name": "g", "gid": 5}]}}),
            Ok(json!({"passwd": {"users": [{"name": "a", "uid": 7, "groups": ["docker"]}],
                "groups": [{"name": "g", "gid": 5}]}})),
        ),
        (json!({"unheard": {"of": 1}}), Err("unheard: there is no such key")),
        (
            json!({"storage": {"files": [{"filesystem": "root", "path": "/x", "xattr": {}}]}}),
            Err("storage.files[0].xattr: there is no such key"),
        ),
        (
            json!({"storage": {"disks": [{"device": "/dev/vda", "partitions": [{"start": 2047}]}]}}),
            Err("storage.disks[0].partitions[0].start: 2047 sectors of 512 bytes are no whole MiB"),
        ),
        (
            json!({"storage": {"filesystems": [{"name": "d", "mount": {"device": "/dev/vdb", "format": "ext4"}}],
                "links": [{"filesystem": "d", "path": "/l", "target": "/t"}]}}),
            Err("storage.links[0].filesystem: filesystem \"d\" has no path under which it can be written to"),
        ),
    ];
    for (mut config, wanted) in table {
        config["ignition"] = json!({"version": "2.2.0"});
        let got = crate::conf::as_version_3(&config.to_string());
        match (got, wanted) {
            (Ok(text), Ok(mut wanted)) => {
                wanted["ignition"] = json!({"version": "3.0.0"});
                assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), wanted, "{config}");
                show(&UserData::ignition(text), &all()).unwrap();
            }
            (Err(e), Err(why)) => {
                assert_eq!(e.to_string(), format!("config cannot be said in Ignition 3: {why}"));
            }
            (got, wanted) => panic!("{config}: {got:?}, expected {wanted:?}"),
        }
    }
    let same = r#"{"ignition":{"version":"3.2.0"}}"#;
    assert_eq!(crate::conf::as_version_3(same).unwrap(), same);
    assert!(crate::conf::as_version_3(r#"{"ignitionVersion":1}"#).is_err());
}
