//! Tables of userdata in and out, and loops over what must hold for all of them.

mod cloudinit;
mod ignition;

use std::io::Write;

use serde_json::{Value, json};

use super::*;

const KEY: &str = "ssh-rsa AAAAB3NzaC1yc2E core@default";
const HEAD: &str = "#cloud-config\n";
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

/// What Ignition's own judge says of a config; `None` if it is not on this machine.
pub(super) fn ignition_says(config: &str) -> Option<String> {
    use std::process::{Command, Stdio};
    let mut command = Command::new("ignition-validate");
    command.arg("-").stdin(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        println!("skipped: no ignition-validate here");
        return None;
    };
    child.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), said.is_empty(), "{said}");
    Some(said)
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
        ("#cloud-config", Kind::CloudConfig),
        ("#cloud-config \t\r\nhostname: x\n", Kind::CloudConfig),
        ("#!/bin/sh\n", Kind::Script),
        ("#!", Kind::Script),
        (mime, Kind::Multipart),
        (
            "From nobody Sat\nMIME-Version: 1.0\ncontent-TYPE: Multipart/Mixed; boundary=x\n\n",
            Kind::Multipart,
        ),
        ("{}", Kind::Ignition),
        (" [1]\n", Kind::Ignition),
        ("{\"ignition\": {\"version\": \"2.0.0\"}}", Kind::Ignition),
        ("{\"ignition\": {\"version\": \"2.0.0\"}", Kind::Ignition),
        ("\n {\"ignition\": {\"version\": \"2.2.0\"},}", Kind::Ignition),
        ("storage:\n  files: []\n", Kind::ContainerLinuxConfig),
        ("variant: fcos\nversion: 1.0.0\n", Kind::Butane),
    ];
    for (text, kind) in table {
        let plain = UserData::detect(text.as_bytes()).unwrap();
        assert_eq!((plain.kind(), plain.text()), (*kind, *text), "{text:?}");
        assert_eq!(UserData::detect(&gzip(text.as_bytes())).unwrap(), plain, "gzip of {text:?}");
        let marked = format!("\u{feff}{text}");
        assert_eq!(UserData::detect(marked.as_bytes()).unwrap(), plain, "with a mark: {text:?}");
        let utf16: Vec<u8> = marked.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(UserData::detect(&utf16).unwrap(), plain, "UTF-16 of {text:?}");
        assert_eq!(UserData::detect(&gzip(&utf16)).unwrap(), plain, "gzip of UTF-16 of {text:?}");
    }
}

/// A paragraph a text: after `>` what it looks like, then the text itself, in which `|` begins each line.
#[test]
fn what_is_not_recognised_is_named() {
    let mut count = 0;
    for paragraph in include_str!("../../tests/corpora/userdata.txt").split("\n\n") {
        let Some(like) = paragraph.lines().find_map(|l| l.strip_prefix("> ")) else { continue };
        let lines = paragraph.lines().filter_map(|l| l.strip_prefix('|'));
        let text: String = lines.map(|l| format!("{l}\n")).collect();
        match UserData::detect(text.as_bytes()) {
            Err(Error::Unrecognised(found)) => assert_eq!(found, like, "{text}"),
            other => panic!("{other:?}: {text}"),
        }
        count += 1;
    }
    assert!(count > 10, "{count}");
    let packed = UserData::detect(b"\xfd7zXZ\0\0\x04").unwrap_err();
    assert!(packed.to_string().ends_with("xz data; unpack it first"), "{packed}");
}

#[test]
fn hostile_bytes_are_refused() {
    assert!(matches!(UserData::detect(b"\x1f\x8bnot gzip at all"), Err(Error::Gzip(_))));
    assert!(matches!(UserData::detect(&gzip(b"{}")[..8]), Err(Error::Gzip(_))));
    assert!(matches!(UserData::detect(&[b'#', 0xff, 0xfe, b'a']), Err(Error::NotText)));
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
fn configs_to_be_translated_say_what_to_do() {
    let table = [
        (
            "storage:\n  files: {}\n",
            "parsing Container Linux config: line 2, column 3: storage.files: expected a list, found a mapping",
        ),
        ("variant: fcos\nversion: 1.0.0\n", "a Butane config must become Ignition before"),
        ("{\"ignition\": {\"version\": \"2.0.0\"}", "config is not valid JSON: EOF"),
        (
            "{\"ignition\":{\"version\":\"2.2.0\"},}",
            "config is not valid JSON: trailing comma at line 1 column 33",
        ),
        ("{a: b}", "config is not valid JSON: key must be a string at line 1 column 2"),
    ];
    for (text, message) in table {
        let user_data = UserData::detect(text.as_bytes()).unwrap();
        let error = report(show(&user_data, &all()).unwrap_err());
        assert!(error.starts_with(message), "{error}");
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
            let cut = UserData::detect(&bytes[..i]);
            let mut changed = bytes.to_vec();
            changed[i] = swaps[i % swaps.len()];
            let changed = UserData::detect(&changed);
            for user_data in [cut, changed].into_iter().flatten() {
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

#[test]
fn configs_are_put_into_one_that_reads_each_once() {
    let configs =
        [r#"{"ignition":{"version":"3.1.0"}}"#, r#"{"ignition":{"version":"3.0.0"}}"#].map(str::to_owned);
    let twice = [configs.clone(), configs.clone()].concat();
    let text = merged(&twice, IgnitionVersion::V3);
    let root: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(root["ignition"]["config"]["merge"].as_array().unwrap().len(), 2, "{text}");
    let add = Additions { keys: vec!["ssh-ed25519 AAAA".into()], ..Additions::default() };
    let conf = render(Some(&UserData::ignition(text)), IgnitionVersion::V3, "", "", &add).unwrap();
    assert!(conf.text().contains("AAAA"));
    let old = merged(&[r#"{"ignition":{"version":"2.2.0"}}"#.to_owned()], IgnitionVersion::V2);
    assert!(old.contains(r#""append""#) && old.contains(r#""2.0.0""#), "{old}");
    assert!(
        can_be_merged(&configs[0], IgnitionVersion::V3) && !can_be_merged(&configs[0], IgnitionVersion::V2)
    );
    assert!(!can_be_merged("{", IgnitionVersion::V3));
}
