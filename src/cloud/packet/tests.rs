use serde_json::Value;

use super::api::Packet;
use super::{Account, boot, console, device};
use crate::http::fake::Fake;

#[test]
fn installers_carry_the_userdata_and_know_its_kind() {
    for (user_data, option) in [
        ("", "-i /userdata"),
        (r#"{"ignition":{"version":"2.0.0"}}"#, "-i /userdata"),
        ("#cloud-config\nhostname: x\n", "-i /noop.ign -c /userdata"),
        ("#!/bin/sh\ntrue\n", "-i /noop.ign -c /userdata"),
    ] {
        let text = boot::installer(user_data, "https://h/a%20b\"$x");
        crate::conf::UserData::detect(text.as_bytes()).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        let files = config["storage"]["files"].as_array().unwrap();
        let source = files[0]["contents"]["source"].as_str().unwrap();
        let stored = openssl::base64::decode_block(source.strip_prefix("data:;base64,").unwrap()).unwrap();
        assert_eq!(String::from_utf8(stored).unwrap(), user_data);
        assert_eq!(files[2]["mode"], 0o755);
        let units = config["systemd"]["units"].as_array().unwrap();
        let install = units[4]["contents"].as_str().unwrap();
        assert!(install.contains(&format!("image.bin.bz2 {option}\n")), "{install}");
        assert!(install.contains(r#"-fo image.bin.bz2 "https://h/a%%20b\"$$x""#), "{install}");
        for (unit, key) in units[..2].iter().map(|u| (u, "mask")).chain([(&units[2], "enable")]) {
            assert_eq!(unit[key], true, "{unit}");
        }
    }
}

#[test]
fn scripts_load_installer_and_userdata() {
    let board = boot::board("arm64-usr").unwrap();
    let script = boot::ipxe("http://h/x/", "http://s/o", &board);
    assert!(script.starts_with("#!ipxe\nset base-url http://h/x\n"), "{script}");
    assert!(script.contains(" coreos.config.url=http://s/o console=ttyAMA0,115200\n"), "{script}");
    assert!(boot::board("mips-usr").is_none());
    assert!(boot::check_installer("http://h/x").is_ok());
    for wrong in ["https://h/x", "h/x", "ftp://h"] {
        assert!(boot::check_installer(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn consoles_begin_with_the_image() {
    let text = b"Linux version 1 (installer)\nGNU GRUB  2.02\nbooting\nLinux version 2 (image)\nup\n";
    assert_eq!(console::cut(text).unwrap(), b"Linux version 2 (image)\nup\n");
    for none in [&b"Linux version 1\n"[..], b"GNU GRUB\n", b"", b"Linux version 1\nGNU GRUB"] {
        assert!(console::cut(none).is_none());
    }
}

/// A device that comes up after its removal was refused is removed; one that may not be removed is not asked for again
/// and again.
#[tokio::test]
async fn a_refusal_counts_for_what_the_device_was_then() {
    let refusal = |what: &str| (422, format!(r#"{{"errors": ["{what}"]}}"#));
    let seen = |state: &str| (200, format!(r#"{{"id": "d", "state": "{state}"}}"#));
    for (answers, gone) in [
        (vec![refusal("it is provisioning"), seen("active"), (204, String::new())], true),
        (vec![refusal("it is locked"), seen("active"), refusal("it is locked"), seen("active")], false),
        (vec![refusal("it is provisioning"), (404, String::new())], true),
    ] {
        let mut rest = answers.clone().into_iter();
        let fake = Fake::start(move |_| rest.next().unwrap()).await;
        let account = Account {
            packet_config_file: None,
            packet_profile: "default".into(),
            packet_api_key: Some("k".to_owned().into()),
            packet_project: Some("p".into()),
            packet_api_url: Some(fake.url.clone()),
        };
        let packet = Packet::new(&account).unwrap();
        let ended = device::end(&packet, "d").await;
        assert_eq!(ended.is_ok(), gone, "{ended:?}");
        assert_eq!(fake.journal().len(), answers.len(), "{:?}", fake.actions());
    }
}
