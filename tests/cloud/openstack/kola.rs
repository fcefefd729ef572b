//! `kola -p openstack`, the whole way, against the local OpenStack.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use serde_json::json;

use super::double::{INNER_NETWORK, OpenStack, PASSWORD, REGION};
use super::{action, error, judged, told};
use crate::cloud::matrix::{Double as _, kola, matrices, nothing_left};
use crate::support::Env;
use crate::support::machines::{Local, Machines as _, Pretended};
use crate::support::proxy::Fault;

/// Machines that only seem to be; `None` where even those cannot be.
fn pretended() -> Option<OpenStack> {
    Some(OpenStack::start(Arc::new(Pretended::new()?)))
}

/// Real guests: in containers, or as `MANTLE_TEST_MACHINES=qemu-unpriv` says, in virtual machines.
fn real() -> Option<OpenStack> {
    let platform = std::env::var("MANTLE_TEST_MACHINES").unwrap_or_else(|_| "nspawn".into());
    Some(OpenStack::start(Arc::new(Local::new(&platform)?)))
}

/// The folder of the only server of a test: named by its id.
fn folder(env: &Env, below: &str) -> PathBuf {
    let all = std::fs::read_dir(env.home().join(below)).unwrap().map(|e| e.unwrap().path());
    let mut servers =
        all.filter(|p| uuid::Uuid::try_parse(&p.file_name().unwrap().to_string_lossy()).is_ok());
    servers.next().unwrap()
}

#[test]
fn real_tests_on_real_machines() {
    let Some(cloud) = real() else { return };
    let (env, image) = (cloud.env(), cloud.image());
    let before = cloud.census();
    // Tests that need no feature: there is no feature file to tell which this image has.
    let tests = ["cl.filesystem", "coreos.auth.verify", "systemd.sysusers.gshadow"];
    let outcome = kola(&cloud, &env, &image, "run", &tests).expect(0);
    for test in tests {
        assert!(outcome.stdout.contains(&format!("--- PASS: {test}")), "{}", outcome.stdout);
    }
    nothing_left(&cloud, &before, "a run");
    let folder = folder(&env, "out/coreos.auth.verify");
    let console = std::fs::read_to_string(folder.join("console.txt")).unwrap();
    assert!(console.contains("ignition"), "{console}");
    let properties = std::fs::read_to_string(env.home().join("out/properties.json")).unwrap();
    let properties: serde_json::Value = serde_json::from_str(&properties).unwrap();
    let known = &properties["openstack"];
    assert_eq!((&known["region"], &known["flavor"]), (&json!(REGION), &json!("1")));
    assert_eq!(known["image"], "33333333-3333-4333-8333-333333333333");
    let outcome = env.mantle(&["kola", "cleanup", "out"]).expect(0);
    assert_eq!(outcome.stdout, "out: nothing is left over\n");
    judged(&cloud.proxy.take_journal());
}

#[test]
fn a_real_machine_for_people() {
    let Some(cloud) = real() else { return };
    cloud.is_direct();
    let (env, image) = (cloud.env(), cloud.image());
    let before = cloud.census();
    let outcome = kola(&cloud, &env, &image, "spawn", &["-v"]).expect(0);
    assert!(outcome.stdout.contains(" spawned at 127.0.0.1:"), "{}", outcome.stdout);
    nothing_left(&cloud, &before, "a shell");
    assert!(cloud.proxy.take_journal().iter().all(|e| action(&e.request) != "floatingips.create"));
}

#[test]
fn a_machine_that_stays_has_all_that_was_ordered() {
    let Some(cloud) = pretended() else { return };
    let (env, image) = (cloud.env(), cloud.image());
    let before = cloud.census();
    let words =
        ["--remove=false", "--shell=false", "--openstack-config-drive", "--openstack-network=private"];
    let more =
        ["--openstack-flavor=m1.small", "--openstack-boot-volume=8", "--openstack-boot-volume-type=fast"];
    let words = [&words[..], &more].concat();
    let outcome = kola(&cloud, &env, &image, "spawn", &words).expect(0);
    let orders = cloud.orders();
    let (id, order) = orders.iter().next().unwrap();
    assert!(outcome.stdout.contains(&format!("server delete {id}")), "{}", outcome.stdout);
    assert_eq!((&order["flavorRef"], &order["config_drive"]), (&json!("2"), &json!(true)));
    assert_eq!(order["metadata"]["CreatedBy"], "mantle");
    assert_eq!(order["networks"], json!([{"uuid": INNER_NETWORK}]));
    assert!(order["key_name"].as_str().unwrap().starts_with("kola-"), "{order}");
    let name = order["name"].as_str().unwrap();
    assert!(name.len() == 24 && name.starts_with("kola-"), "{name}");
    let device = &order["block_device_mapping_v2"][0];
    assert_eq!(
        (&device["volume_size"], &device["volume_type"], &device["delete_on_termination"]),
        (&json!(8), &json!("fast"), &json!(true))
    );
    assert!(order["imageRef"].is_null(), "{order}");
    let rules = cloud.rules();
    let of = |family: &str, min: u16| {
        rules.iter().any(|r| r["ethertype"] == family && r["port_range_min"] == min && r["protocol"] == "tcp")
    };
    assert!(rules.len() == 4 && of("IPv4", 22) && of("IPv4", 2379), "{rules:?}");
    let outcome = env.mantle(&["kola", "cleanup", "out"]).expect(0);
    assert!(outcome.stdout.contains("removed server"), "{}", outcome.stdout);
    nothing_left(&cloud, &before, "clean-up");
    let journal = cloud.proxy.take_journal();
    assert!(journal.iter().filter(|e| action(&e.request) == "servers.create").all(|e| {
        e.request.header("openstack-api-version") == Some("compute 2.67")
            && e.request.header("x-openstack-nova-api-version") == Some("2.67")
    }));
    judged(&journal);
}

#[test]
fn what_does_not_exist_is_said_before_anything_is_made() {
    let Some(cloud) = pretended() else { return };
    let (env, image) = (cloud.env(), cloud.image());
    let before = cloud.census();
    cloud.put_image("44444444-4444-4444-8444-444444444444", json!({"name": "twin"}));
    cloud.put_image("55555555-5555-4555-8555-555555555555", json!({"name": "twin"}));
    cloud.put_image("66666666-6666-4666-8666-666666666666", json!({"name": "raw", "status": "saving"}));
    for (image, words, said) in [
        ("none", &[][..], "resolving image: specified image \"none\" not found"),
        ("twin", &[], "44444444-4444-4444-8444-444444444444, 55555555-5555-4555-8555-555555555555"),
        ("raw", &[], "it is \"saving\""),
        (&*image, &["--openstack-flavor=huge"], "resolving flavor: specified flavor \"huge\" not found"),
        (&*image, &["--openstack-network=x"], "resolving network: specified network \"x\" not found"),
        ("", &[], "--openstack-image"),
        (&*image, &["--openstack-region=Mars"], "in region \"Mars\"; there are RegionOne"),
        (&*image, &["--openstack-domain=other"], "requires authentication"),
        (&*image, &["--openstack-profile=other"], "no such profile \"other\""),
        (&*image, &["--openstack-config-file=/nowhere"], "couldn't read OpenStack config: open /nowhere"),
    ] {
        let outcome = kola(&cloud, &env, image, "spawn", words);
        let text = told(&outcome);
        assert!([1, 3].contains(&outcome.code) && text.contains(said), "{said}: {} {text}", outcome.code);
    }
    assert_eq!(cloud.census()["server"], before["server"]);
    let journal = cloud.proxy.take_journal();
    assert!(journal.iter().all(|e| !OpenStack::is_creation(&action(&e.request))));
}

#[test]
fn servers_that_fail_say_why_and_leave_nothing() {
    let Some(cloud) = pretended() else { return };
    let (env, image) = (cloud.env(), cloud.image());
    let before = cloud.census();
    let fault = "No valid host was found. There are not enough hosts available.";
    cloud.fails(Some(fault));
    let outcome = kola(&cloud, &env, &image, "spawn", &[]).expect(1);
    let said = told(&outcome);
    assert!(said.contains(fault), "{said}");
    nothing_left(&cloud, &before, "a fault");
    // Refused at once.
    cloud.fails(None);
    let quota = "Quota exceeded for cores: Requested 1, but already used 8 of 8 cores";
    cloud.proxy.rule(move |request| match action(request).as_str() {
        "servers.create" => Fault::Answer(error(request, 403, "forbidden", quota)),
        _ => Fault::None,
    });
    let outcome = kola(&cloud, &env, &image, "spawn", &[]).expect(1);
    let said = told(&outcome);
    assert!(said.contains(quota), "{said}");
    nothing_left(&cloud, &before, "a quota");
}

#[test]
fn a_floating_ip_that_cannot_be_removed_is_left_and_said() {
    let Some(cloud) = pretended() else { return };
    let (env, image) = (cloud.env(), cloud.image());
    let before = cloud.census();
    cloud.proxy.rule(move |request| match action(request).as_str() {
        "floatingips.delete" => Fault::Answer(error(request, 409, "FloatingIPInUse", "not now")),
        _ => Fault::None,
    });
    let outcome = kola(&cloud, &env, &image, "spawn", &[]).expect(1);
    assert!(told(&outcome).contains("one thing is left over"), "{}", outcome.stderr);
    // The server did not wait for it.
    assert!(cloud.orders().is_empty());
    cloud.proxy.calm();
    env.mantle(&["kola", "cleanup", "out"]).expect(0);
    nothing_left(&cloud, &before, "clean-up");
}

#[test]
fn a_half_made_group_is_not_used_and_two_are_an_error() {
    let Some(cloud) = pretended() else { return };
    let (env, image) = (cloud.env(), cloud.image());
    cloud.put_group("half", "mantle-unfinished 00000000-0000-4000-8000-000000000000");
    kola(&cloud, &env, &image, "spawn", &[]).expect(0);
    assert_eq!(cloud.rules().len(), 4);
    cloud.put_group("second", "somebody's");
    let outcome = kola(&cloud, &env, &image, "spawn", &[]).expect(1);
    let said = told(&outcome);
    assert!(said.contains("finding security group: 2 are called \"kola\""), "{said}");
}

#[test]
fn tokens_that_expire_are_renewed_by_both_versions_of_keystone() {
    let Some(cloud) = pretended() else { return };
    for old in [false, true] {
        cloud.reset();
        if old {
            cloud.is_old();
        }
        let (env, image) = (cloud.env(), cloud.image());
        let before = cloud.census();
        let mut seen = 0;
        cloud.proxy.rule(move |request| {
            let is_keystone = request.path().starts_with("/identity");
            seen += usize::from(!is_keystone);
            match seen % 3 == 0 && !is_keystone {
                true => Fault::Answer(error(request, 401, "Unauthorized", "The token has expired")),
                false => Fault::None,
            }
        });
        kola(&cloud, &env, &image, "spawn", &[]).expect(0);
        nothing_left(&cloud, &before, "renewed tokens");
        let tokens =
            cloud.proxy.take_journal().iter().filter(|e| action(&e.request) == "tokens.create").count();
        assert!(tokens > 1, "{tokens}");
    }
}

#[test]
fn servers_are_reached_through_another_host() {
    let Some(cloud) = pretended() else { return };
    let (env, image) = (cloud.env(), cloud.image());
    let before = cloud.census();
    let key = env.home().join("key");
    let mut made = Command::new("ssh-keygen");
    made.args(["-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-f"]).arg(&key);
    assert!(made.status().unwrap().success());
    let public = std::fs::read_to_string(env.home().join("key.pub")).unwrap();
    let userdata = json!({"passwd": {"users": [{"name": "core", "sshAuthorizedKeys": [public.trim()]}]}});
    let host = Pretended.start(userdata.to_string().as_bytes()).unwrap();
    let at = format!("--openstack-host={}", host.address());
    let file = format!("--openstack-keyfile={}", key.display());
    let words = [&*at, "--openstack-user=core", &file, "--debug"];
    let outcome = kola(&cloud, &env, &image, "spawn", &words).expect(0);
    assert!(told(&outcome).contains(&format!("through {}", host.address())), "{}", outcome.stderr);
    nothing_left(&cloud, &before, "a jump");
    let outcome = kola(&cloud, &env, &image, "spawn", &["--openstack-user=core"]);
    assert!(outcome.code != 0 && told(&outcome).contains("--openstack-host"), "{}", outcome.stderr);
    host.stop();
}

matrices!(
    pretended,
    end: "servers.delete",
    interrupts: [
        "tokens.create", "images.list", "os-keypairs.create", "security-groups.create", "servers.create",
        "servers.show", "floatingips.create"
    ],
    last: "os-keypairs.delete"
);

#[test]
fn secrets_never_show() {
    let Some(cloud) = pretended() else { return };
    let (mut env, image) = (cloud.env(), cloud.image());
    env.set("NO_COLOR", "1");
    for refuse in ["", "identity", "compute", "network", "image"] {
        cloud.proxy.calm();
        // Refuses, and repeats all that came.
        cloud.proxy.rule(move |request| {
            if refuse.is_empty()
                || request.path().split('/').nth(1) != Some(refuse)
                || request.method == "GET"
            {
                return Fault::None;
            }
            let text = format!("who are you? {:?} {}", request.headers, request.text().replace('"', "'"));
            Fault::Answer(error(request, 403, "forbidden", &text))
        });
        let outcome = kola(&cloud, &env, &image, "spawn", &["--debug"]);
        let mut text = format!("{}{}", outcome.stdout, outcome.stderr);
        for file in ["out/properties.json", "out/ledger.jsonl"] {
            text += &std::fs::read_to_string(env.home().join(file)).unwrap_or_default();
        }
        for secret in [PASSWORD, "SECRET"] {
            assert!(!text.contains(secret), "{refuse}: {secret} shows:\n{text}");
        }
    }
}
