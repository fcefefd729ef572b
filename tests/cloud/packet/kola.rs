//! `kola -p packet`, the whole way, against the local Packet.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::double::{Fate, Packet, TOKEN};
use super::sos::{INSTALLER, KERNEL};
use super::{action, error, judged};
use crate::cloud::matrix::{Double as _, kola, matrices, nothing_left};
use crate::support::emulators::judged as judged_by;
use crate::support::http::{Request, Response};
use crate::support::machines::{Local, Pretended};
use crate::support::proxy::Fault;
use crate::support::{Env, installed};

/// Machines that only seem to be; `None` where even those cannot be.
fn pretended() -> Option<Packet> {
    Some(Packet::start(Arc::new(Pretended::new()?)))
}

/// Real guests: in containers, or as `MANTLE_TEST_MACHINES=qemu-unpriv` says, in virtual machines.
fn real() -> Option<Packet> {
    let platform = std::env::var("MANTLE_TEST_MACHINES").unwrap_or_else(|_| "nspawn".into());
    (installed("sshd") && installed("unshare")).then_some(())?;
    Some(Packet::start(Arc::new(Local::new(&platform)?)))
}

type Exchanges = Arc<Mutex<Vec<(Request, Response)>>>;

/// All that is asked from now on, with the answers.
fn watched(packet: &Packet) -> Exchanges {
    let all = Exchanges::default();
    let own = all.clone();
    packet.proxy.watch(move |request, answer| own.lock().unwrap().push((request.clone(), answer.clone())));
    all
}

/// The folder of the only device of a run.
fn folder(env: &Env, below: &str) -> PathBuf {
    let all = std::fs::read_dir(env.home().join(below)).unwrap().map(|e| e.unwrap().path());
    let mut devices = all.filter(|p| p.join("user-data").exists());
    devices.next().unwrap()
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn real_tests_on_real_machines() {
    let Some(packet) = real() else { return };
    let (env, image) = (packet.env(), packet.image());
    let before = packet.census();
    let seen = watched(&packet);
    let tests = ["cl.filesystem", "coreos.auth.verify", "systemd.sysusers.gshadow"];
    let outcome = kola(&packet, &env, &image, "run", &tests).expect(0);
    for test in tests {
        assert!(outcome.stdout.contains(&format!("--- PASS: {test}")), "{}", outcome.stdout);
    }
    nothing_left(&packet, &before, "a run");
    let console =
        std::fs::read_to_string(folder(&env, "out/coreos.auth.verify").join("console.txt")).unwrap();
    assert!(console.starts_with(KERNEL), "{console}");
    assert!(console.to_ascii_lowercase().contains("ignition"), "{console}");
    assert!(!console.contains(INSTALLER.lines().next().unwrap()), "{console}");
    let properties = std::fs::read_to_string(env.home().join("out/properties.json")).unwrap();
    let properties: serde_json::Value = serde_json::from_str(&properties).unwrap();
    let expected = serde_json::json!({
        "facility": "sjc1", "plan": "baremetal_0", "image": image,
        "installer": "http://stable.release.core-os.net/amd64-usr/current",
    });
    assert_eq!(properties["packet"], expected);
    let outcome = env.mantle(&["kola", "cleanup", "out"]).expect(0);
    assert_eq!(outcome.stdout, "out: nothing is left over\n");
    judged(&seen.lock().unwrap());
}

#[test]
fn a_machine_that_stays_has_all_that_was_ordered() {
    let Some(packet) = pretended() else { return };
    let (env, image) = (packet.env(), packet.image());
    let before = packet.census();
    let seen = watched(&packet);
    for (more, key, value) in [
        (vec!["--packet-metro=sv"], "metro", serde_json::json!("sv")),
        (vec!["--packet-facility=ewr1"], "facility", serde_json::json!(["ewr1"])),
        (vec!["--packet-spot-price-max=0.25"], "spot_price_max", serde_json::json!(0.25)),
        (
            vec!["--packet-hardware-reservation=next-available"],
            "hardware_reservation_id",
            "next-available".into(),
        ),
        (vec!["--packet-plan=c3.small.x86"], "plan", "c3.small.x86".into()),
    ] {
        let words = [&["--remove=false", "--shell=false"][..], &more].concat();
        kola(&packet, &env, &image, "spawn", &words).expect(0);
        let [id] = &packet.devices()[..] else { panic!("{:?}", packet.devices()) };
        let order = packet.order(id);
        assert_eq!(order[key], value, "{order}");
        assert_eq!(order["tags"][0], "mantle");
        assert_eq!(
            (order["facility"].is_null(), order["spot_instance"] == true),
            (key == "metro", key == "spot_price_max")
        );
        assert!(packet.objects().is_empty(), "what it booted is still there");
        let outcome = env.mantle(&["kola", "cleanup", "out"]).expect(0);
        assert!(outcome.stdout.contains("removed device"), "{}", outcome.stdout);
        nothing_left(&packet, &before, "clean-up");
    }
    judged(&seen.lock().unwrap());
}

#[test]
fn the_vendors_own_client_takes_the_double_for_real() {
    let packet = Packet::of_records();
    packet.put_device(
        "0b0f6a4e-1111-4222-8333-444455556666",
        "active",
        &["x"],
        "2026-01-01T00:00:00Z",
        false,
    );
    judged_by("judge_packet.py", &[&packet.proxy.url(), TOKEN, super::double::PROJECT], []);
    let asked: Vec<_> = packet.proxy.take_journal().iter().map(|e| action(&e.request)).collect();
    assert!(asked.is_empty() || asked.contains(&"devices.delete".to_owned()), "{asked:?}");
}

#[test]
fn what_cannot_work_is_refused_before_any_request() {
    let Some(packet) = pretended() else { return };
    let mut env = packet.env();
    for (option, told) in [
        ("--packet-installer-image-base-url=https://h/x", "iPXE does not load by https"),
        ("--packet-storage-url=/srv/www", "needs a URL by which devices find it"),
        ("--packet-storage-url=ftp://h/x", "is no place that is known"),
        ("--packet-storage-url=https://h/x", "devices do not fetch by https"),
        ("--packet-storage-url=http://u:SECRET@h/x", "must have no user"),
        ("--packet-spot-price-max=-1", "not a sum of dollars"),
        ("--board=mips-usr", "mips-usr"),
    ] {
        let outcome = kola(&packet, &env, &packet.image(), "spawn", &[option]);
        assert!(outcome.code != 0 && words(&outcome.stderr).contains(told), "{option}: {}", outcome.stderr);
        assert!(option.contains("SECRET") || !outcome.stderr.contains("SECRET"), "{}", outcome.stderr);
    }
    env.unset("PACKET_API_URL");
    for (config, told) in [
        ("", "it is empty"),
        ("{}", "contains no profiles"),
        (r#"{"default":{"api_key":"SECRET"}}"#, "it has no project"),
        (r#"{"default":{"project":"p","api_key":["SECRET"]}}"#, "api_key must be a string"),
        (r#"{"other":{}}"#, "no such profile \"default\""),
        (
            r#"{"default":{"project":"p","api_key":"SECRET","api_url":"ftp://x"}}"#,
            "is no URL of the Packet API",
        ),
    ] {
        env.write(".config/packet.json", config);
        let outcome = kola(&packet, &env, &packet.image(), "spawn", &[]).expect(1);
        assert!(words(&outcome.stderr).contains(told), "{told}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains("SECRET"), "{}", outcome.stderr);
    }
    assert!(packet.proxy.take_journal().is_empty());
}

#[test]
fn devices_that_come_to_nothing_say_why_and_leave_nothing() {
    let Some(packet) = pretended() else { return };
    for (fate, told) in [
        (Fate::Fails, "has failed"),
        (Fate::Pends, "active not within 600 s; it was last seen as: provisioning"),
        (Fate::Hidden, "no public IP address found for"),
    ] {
        packet.reset();
        packet.fate(Some(fate));
        let (env, before) = (packet.env(), packet.census());
        let outcome = kola(&packet, &env, &packet.image(), "spawn", &[]).expect(1);
        assert!(words(&outcome.stderr).contains(told), "{told}: {}", outcome.stderr);
        nothing_left(&packet, &before, told);
        // What the installer has said is kept.
        let mut names = std::fs::read_dir(env.home().join("out")).unwrap().map(|e| e.unwrap().path());
        let console = names.find(|p| p.file_name().unwrap().to_string_lossy().starts_with("console-"));
        assert!(std::fs::read_to_string(console.unwrap()).unwrap().contains("the installer"));
    }
    packet.reset();
    let (env, before) = (packet.env(), packet.census());
    let full = |r: &Request| action(r) == "devices.create";
    packet.proxy.on(full, 0, 1, Fault::Answer(error(422, "The facility sjc1 has no provisionable capacity")));
    let outcome = kola(&packet, &env, &packet.image(), "spawn", &[]).expect(1);
    assert!(words(&outcome.stderr).contains("no provisionable capacity"), "{}", outcome.stderr);
    nothing_left(&packet, &before, "no capacity");
}

#[test]
fn objects_go_to_folders_and_to_google_too() {
    let Some(packet) = pretended() else { return };
    let (mut env, image, before) = (packet.env(), packet.image(), packet.census());
    // The double finds objects by paths of its own; what counts here is that they come and go.
    let folder = env.home().join("www");
    std::fs::create_dir(&folder).unwrap();
    let options = [
        format!("--packet-storage-url={}", folder.display()),
        "--packet-storage-public-url=http://www.example/x".into(),
    ];
    let outcome = kola(&packet, &env, &image, "spawn", &[&options[0], &options[1]]).expect(1);
    assert!(
        words(&outcome.stderr).contains("there is nothing at http://www.example/x/"),
        "{}",
        outcome.stderr
    );
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    nothing_left(&packet, &before, "a folder");
    let gcs = crate::support::gcs::Gcs::new();
    env.set("STORAGE_EMULATOR_HOST", gcs.address.to_string());
    let outcome = kola(&packet, &env, &image, "spawn", &["--packet-storage-url=gs://bucket/me"]).expect(1);
    let url = "there is nothing at http://storage-download.googleapis.com/bucket/me/";
    assert!(words(&outcome.stderr).contains(url), "{}", outcome.stderr);
    assert!(gcs.names("bucket").is_empty(), "{:?}", gcs.names("bucket"));
    nothing_left(&packet, &before, "a bucket");
}

matrices!(
    pretended,
    end: "devices.delete",
    interrupts: ["ssh-keys.create", "objects.put", "devices.create", "devices.get"],
    last: "devices.delete"
);

#[test]
fn secrets_never_show() {
    let Some(packet) = pretended() else { return };
    let (mut env, image) = (packet.env(), packet.image());
    env.set("NO_COLOR", "1");
    for refuse in [false, true] {
        if refuse {
            // Refuses, and repeats all that came.
            packet.proxy.rule(|request| {
                Fault::Answer(error(403, &format!("who are you? {:?} {}", request.headers, request.text())))
            });
        }
        let key = format!("--packet-api-key={TOKEN}");
        let outcome = kola(&packet, &env, &image, "spawn", &["--debug", &key]);
        let text = format!("{}{}", outcome.stdout, outcome.stderr);
        let properties = std::fs::read_to_string(env.home().join("out/properties.json")).unwrap_or_default();
        assert!(!text.contains(TOKEN) && !properties.contains(TOKEN), "it shows:\n{text}");
    }
}
