//! Cloud-configs, scripts and MIME messages.

use super::*;

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
        (&deep, "config is not valid: top level: more open brackets"),
        (&deep[..200], "cloud-config is not valid YAML: "),
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
