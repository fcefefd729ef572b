//! `ore packet` against the local Packet.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::double::{PROJECT, Packet};
use super::{action, error, judged};
use crate::cloud::matrix::Double as _;
use crate::support::proxy::Fault;
use crate::support::{Env, Outcome};

fn ore(env: &Env, words: &[&str]) -> Outcome {
    env.mantle(&[&["ore", "packet"], words].concat())
}

fn asked(packet: &Packet) -> Vec<String> {
    packet.proxy.take_journal().iter().map(|e| action(&e.request)).collect()
}

#[test]
fn devices_are_created_call_by_call() {
    let packet = Packet::of_records();
    let env = packet.env();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let own = seen.clone();
    packet.proxy.watch(move |request, answer| own.lock().unwrap().push((request.clone(), answer.clone())));
    let data = env.write("data.ign", r#"{"ignition":{"version":"2.0.0"}}"#);
    let (data, storage) = (format!("--userdata-file={}", data.display()), packet.storage());
    let storage = format!("--storage-url={storage}");
    let create = [&*storage, "create-device", "--hostname=me", &data];
    let outcome = ore(&env, &create).expect(0);
    let [id] = &packet.devices()[..] else { panic!("{:?}", packet.devices()) };
    assert_eq!(
        outcome.stdout,
        format!("{{\"id\":\"{id}\",\"hostname\":\"me\",\"public-ip\":\"127.0.0.1\"}}\n")
    );
    let mut all = asked(&packet);
    all.dedup();
    assert_eq!(all, ["projects.get", "objects.put", "devices.create", "devices.get", "objects.delete"]);
    judged(&seen.lock().unwrap());
    // Trouble at the service: tried again, once it is known that there is none.
    let before = packet.devices().len();
    packet.proxy.on(|r| action(r) == "devices.create", 0, 2, Fault::Answer(error(500, "oops")));
    ore(&env, &create).expect(0);
    assert_eq!(packet.devices().len(), before + 1);
    assert!(packet.objects().is_empty());
    packet.proxy.calm();
    packet.proxy.rule(|r| match action(r) == "devices.create" {
        true => Fault::Answer(error(500, "oops")),
        false => Fault::None,
    });
    let outcome = ore(&env, &create).expect(1);
    assert!(
        outcome.stderr.contains("couldn't create device") && outcome.stderr.contains("oops"),
        "{}",
        outcome.stderr
    );
    assert_eq!(packet.devices().len(), before + 1);
    assert!(packet.objects().is_empty());
}

#[test]
fn what_is_wrong_is_told() {
    let packet = Packet::of_records();
    let mut env = packet.env();
    let odd = env.write("odd", "\u{0}\u{1}");
    for (words, code, told) in [
        (vec!["create-device", "--board=mips-usr"], 2, "unknown board \"mips-usr\""),
        (vec!["create-device", "--installer-image-base-url=https://x/y"], 2, "iPXE does not load by https"),
        (vec!["create-device", "--userdata-file=missing"], 1, "Couldn't read userdata file missing"),
        (
            vec!["create-device", &*format!("--userdata-file={}", odd.display())],
            1,
            "Couldn't parse userdata file",
        ),
        (vec!["--storage-url=/x", "create-device"], 2, "needs a URL by which devices find it"),
        (vec!["delete-keys"], 2, "KEY"),
        (vec!["--profile=other", "list-keys"], 1, "no such profile \"other\""),
        (vec!["--config-file=missing", "list-keys"], 1, "couldn't read Packet config: open missing"),
        (vec!["gc", "--duration=x"], 2, "--duration"),
    ] {
        let outcome = ore(&env, &words);
        let said = outcome.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(outcome.code, code, "{words:?}: {said}");
        assert!(said.contains(told), "{words:?}: {said}");
    }
    assert!(asked(&packet).is_empty());
    env.write(
        ".config/packet.json",
        &json!({"default": {"api_key": "SECRET-wrong", "project": PROJECT}}).to_string(),
    );
    let outcome = ore(&env, &["list-keys"]).expect(1);
    assert!(outcome.stderr.contains(&format!("querying project {PROJECT}")), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("Invalid authentication token"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("SECRET"), "{}", outcome.stderr);
    env.set("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere");
    env.write(
        ".config/packet.json",
        &json!({"default": {"api_key": "SECRET-of-packet", "project": "no"}}).to_string(),
    );
    let outcome = ore(&env, &["gc"]).expect(1);
    assert!(outcome.stderr.contains("Not found"), "{}", outcome.stderr);
}

#[test]
fn keys_are_listed_and_deleted_by_their_labels() {
    let packet = Packet::of_records();
    let env = packet.env();
    for (id, label) in [("1", "kola-a"), ("2", "mine"), ("3", "kola-a")] {
        packet.put_key(id, label);
    }
    assert_eq!(ore(&env, &["list-keys"]).expect(0).stdout, "kola-a\nmine\nkola-a\n");
    let list: Value = serde_json::from_str(&ore(&env, &["list-keys", "--json"]).expect(0).stdout).unwrap();
    assert_eq!(list[1], json!({"id": "2", "label": "mine"}));
    let outcome = ore(&env, &["delete-keys", "kola-a", "none"]).expect(1);
    assert!(outcome.stderr.contains("there is no key \"none\""), "{}", outcome.stderr);
    assert_eq!(ore(&env, &["list-keys"]).expect(0).stdout, "mine\n");
}

#[test]
fn gc_among_ten_thousand() {
    let packet = Packet::of_records();
    let env = packet.env();
    let (old, young) = ("2026-01-01T00:00:00Z", chrono::Utc::now().to_rfc3339());
    for n in 0..10_000 {
        // Look-alikes: without our tag, too young, in a state in which they stay, protected, or of no known age.
        let id = format!("{n:05}");
        match n % 8 {
            0 => packet.put_device(&id, "active", &["mantle2", "Mantle", "x=mantle"], old, false),
            1 => packet.put_device(&id, "active", &["mantle"], &young, false),
            2 => packet.put_device(&id, "queued", &["mantle"], old, false),
            3 => packet.put_device(&id, "provisioning", &["mantle"], old, false),
            4 => packet.put_device(&id, "active", &["mantle"], old, true),
            5 => packet.put_device(&id, "active", &["mantle"], "long ago", false),
            6 => packet.put_device(&id, "active", &["mantle", "mantle:keep"], old, false),
            _ => packet.put_device(&id, "active", &[], old, false),
        }
    }
    let ours = ["garbage-1", "00000-a", "99999-z"];
    for id in ours {
        packet.put_device(id, "active", &["x", "mantle"], old, false);
    }
    packet.put_key("1", "kola-old");
    let plan = ore(&env, &["gc", "--dry-run"]).expect(0).stdout;
    let parsed: Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(parsed["project"], PROJECT);
    assert_eq!(parsed["items"].as_array().unwrap().len(), 3);
    assert_eq!(packet.devices().len(), 10_003);
    // All is listed before anything is deleted.
    asked(&packet);
    packet.proxy.on(
        |r| action(r) == "devices.delete",
        0,
        1,
        Fault::Answer(error(422, "Cannot delete this one")),
    );
    let outcome = ore(&env, &["gc"]).expect(1);
    assert!(outcome.stderr.contains("Cannot delete this one"), "{}", outcome.stderr);
    let all = asked(&packet);
    let lists = all.iter().filter(|a| *a == "devices.list").count();
    assert_eq!(lists, 11, "{all:?}");
    assert!(all.iter().rposition(|a| a == "devices.list") < all.iter().position(|a| a == "devices.delete"));
    assert_eq!(packet.devices().len(), 10_001);
    let file = env.write("plan.json", &plan);
    ore(&env, &["gc", &format!("--apply={}", file.display())]).expect(0);
    let left = packet.devices();
    assert!(left.len() == 10_000 && !ours.iter().any(|id| left.contains(&(*id).to_owned())));
    assert_eq!(ore(&env, &["list-keys"]).expect(0).stdout, "kola-old\n");
    let outcome = ore(&env, &["gc"]).expect(0);
    assert_eq!(outcome.stdout, "");
}
