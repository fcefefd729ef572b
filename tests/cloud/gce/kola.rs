//! `kola -p gce`, the whole way, against the local Compute Engine.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::double::{Fate, Gce, PROJECT, ZONE, key_file};
use super::{action, error, judged};
use crate::cloud::matrix::{Double as _, kola, matrices, nothing_left};
use crate::support::Env;
use crate::support::machines::{Local, Pretended};
use crate::support::proxy::Fault;

/// Machines that only seem to be; `None` where even those cannot be.
fn pretended() -> Option<Gce> {
    Some(Gce::start(Arc::new(Pretended::new()?)))
}

/// Real guests: in containers, or as `MANTLE_TEST_MACHINES=qemu-unpriv` says, in virtual machines.
fn real() -> Option<Gce> {
    let platform = std::env::var("MANTLE_TEST_MACHINES").unwrap_or_else(|_| "nspawn".into());
    Some(Gce::start(Arc::new(Local::new(&platform)?)))
}

/// The folder of the only instance of a run.
fn folder(env: &Env, below: &str) -> PathBuf {
    let all = std::fs::read_dir(env.home().join(below)).unwrap().map(|e| e.unwrap().path());
    let mut instances = all.filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("kola-"));
    instances.next().unwrap()
}

#[test]
fn real_tests_on_real_machines() {
    let Some(gce) = real() else { return };
    let (env, image) = (gce.env(), gce.image());
    let before = gce.census();
    // Tests that need no feature: there is no feature file to tell which this image has.
    let tests = ["cl.filesystem", "coreos.auth.verify", "systemd.sysusers.gshadow"];
    let outcome = kola(&gce, &env, &image, "run", &tests).expect(0);
    for test in tests {
        assert!(outcome.stdout.contains(&format!("--- PASS: {test}")), "{}", outcome.stdout);
    }
    nothing_left(&gce, &before, "a run");
    let folder = folder(&env, "out/coreos.auth.verify");
    let console = std::fs::read_to_string(folder.join("console.txt")).unwrap();
    assert!(console.contains("ignition"), "{console}");
    let properties = std::fs::read_to_string(env.home().join("out/properties.json")).unwrap();
    assert!(
        properties.contains(&format!("{}projects/{PROJECT}/global/images/{image}", gce.url())),
        "{properties}"
    );
    let outcome = env.mantle(&["kola", "cleanup", "out"]).expect(0);
    assert_eq!(outcome.stdout, "out: nothing is left over\n");
    judged(&gce.proxy.take_journal());
}

#[test]
fn a_real_machine_for_people() {
    let Some(gce) = real() else { return };
    let (env, image) = (gce.env(), gce.image());
    let before = gce.census();
    let outcome = kola(&gce, &env, &image, "spawn", &["-v"]).expect(0);
    assert!(outcome.stdout.contains(" spawned at 127.0.0.1:"), "{}", outcome.stdout);
    nothing_left(&gce, &before, "a shell");
}

#[test]
fn a_machine_that_stays_has_all_that_was_ordered() {
    let Some(gce) = pretended() else { return };
    let (env, image) = (gce.env(), gce.image());
    let before = gce.census();
    // The forks' name of the platform.
    let words = ["-p", "gcp", "--remove=false", "--shell=false", "--gce-machinetype=n2-standard-4"];
    let outcome = kola(&gce, &env, "family/none", "spawn", &words).expect(1);
    assert!(outcome.stderr.contains("family/none"), "{}", outcome.stderr);
    let outcome = kola(&gce, &env, &image, "spawn", &words).expect(0);
    let [name] = &gce.names()[..] else { panic!("{:?}", gce.names()) };
    assert!(
        outcome.stdout.contains(&format!("gcloud compute instances delete {name}")),
        "{}",
        outcome.stdout
    );
    let order = gce.order(name);
    let item = |key: &str| {
        let items = order["metadata"]["items"].as_array().unwrap();
        items
            .iter()
            .find(|i| i["key"] == key)
            .and_then(|i| i["value"].as_str())
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(
        (item("created-by").as_str(), item("serial-port-logging-enable").as_str()),
        ("mantle", "true")
    );
    assert!(item("ssh-keys").starts_with("0:ssh-rsa "), "{order}");
    assert_eq!(order["labels"]["created-by"], "mantle");
    assert_eq!(order["tags"]["items"], json!(["https-server", "http-server"]));
    let disk = &order["disks"][0];
    assert_eq!((&disk["autoDelete"], &disk["boot"]), (&json!(true), &json!(true)));
    assert_eq!(disk["initializeParams"]["diskSizeGb"], "12");
    assert_eq!(
        order["machineType"],
        format!("{}projects/{PROJECT}/zones/{ZONE}/machineTypes/n2-standard-4", gce.url())
    );
    let outcome = env.mantle(&["kola", "cleanup", "out"]).expect(0);
    assert!(outcome.stdout.contains("removed instance"), "{}", outcome.stdout);
    nothing_left(&gce, &before, "clean-up");
    judged(&gce.proxy.take_journal());
}

#[test]
fn a_launch_adds_three_requests_to_the_providers_own() {
    let Some(gce) = pretended() else { return };
    let (env, image) = (gce.env(), gce.image());
    kola(&gce, &env, &image, "spawn", &[]).expect(0);
    let journal = gce.proxy.take_journal();
    let count = |name: &str| journal.iter().filter(|e| action(&e.request) == name).count();
    assert_eq!(
        (count("token"), count("images.get"), count("instances.insert"), count("instances.delete")),
        (1, 1, 1, 1)
    );
    // The double lets each of the two operations be waited for twice.
    assert_eq!(count("operations.wait"), 4);
    judged(&journal);
}

#[test]
fn wrong_images_are_refused_before_any_request() {
    let Some(gce) = pretended() else { return };
    let outcome = kola(&gce, &gce.env(), "a/b", "spawn", &[]);
    assert!(outcome.code != 0 && outcome.stderr.contains("GCE Image argument"), "{}", outcome.stderr);
    assert!(gce.proxy.take_journal().is_empty());
}

#[test]
fn operations_that_fail_say_why_and_leave_nothing() {
    let Some(gce) = pretended() else { return };
    for (code, message) in [
        ("QUOTA_EXCEEDED", "Quota 'CPUS' exceeded.  Limit: 24.0 in region us-central1."),
        ("ZONE_RESOURCE_POOL_EXHAUSTED", "The zone does not have enough resources available"),
    ] {
        gce.reset();
        let (env, image) = (gce.env(), gce.image());
        let before = gce.census();
        gce.fate("instances.insert", Some(Fate::Fails(code, message)));
        let outcome = kola(&gce, &env, &image, "spawn", &[]).expect(1);
        let words = message.split_whitespace().collect::<Vec<_>>().join(" ");
        let said = outcome.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(code) && said.contains(&words), "{said}");
        nothing_left(&gce, &before, code);
        env.mantle(&["kola", "cleanup", "out"]).expect(0);
    }
}

#[test]
fn operations_that_never_end_are_given_up() {
    let Some(gce) = pretended() else { return };
    let (env, image) = (gce.env(), gce.image());
    let before = gce.census();
    gce.fate("instances.insert", Some(Fate::Pends));
    let outcome = kola(&gce, &env, &image, "spawn", &[]).expect(1);
    let said = outcome.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("not within 600 s") && said.contains("last seen as: RUNNING"), "{said}");
    nothing_left(&gce, &before, "an operation without end");
}

#[test]
fn deletions_that_fail_are_left_and_said() {
    let Some(gce) = pretended() else { return };
    let (env, image) = (gce.env(), gce.image());
    let before = gce.census();
    gce.fate("instances.delete", Some(Fate::Fails("RESOURCE_IN_USE_BY_ANOTHER_RESOURCE", "in use")));
    let outcome = kola(&gce, &env, &image, "spawn", &[]).expect(1);
    assert!(outcome.stderr.contains("RESOURCE_IN_USE_BY_ANOTHER_RESOURCE"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("one thing is left over"), "{}", outcome.stderr);
    gce.fate("instances.delete", None);
    env.mantle(&["kola", "cleanup", "out"]).expect(0);
    nothing_left(&gce, &before, "clean-up");
}

#[test]
fn tokens_that_expire_are_renewed() {
    let Some(gce) = pretended() else { return };
    let (env, image) = (gce.env(), gce.image());
    let before = gce.census();
    let mut seen = 0;
    gce.proxy.rule(move |request| {
        seen += 1;
        match seen % 3 == 0 && action(request) != "token" {
            true => Fault::Answer(error(401, "authError", "Invalid Credentials")),
            false => Fault::None,
        }
    });
    kola(&gce, &env, &image, "spawn", &[]).expect(0);
    nothing_left(&gce, &before, "renewed tokens");
    let tokens = gce.proxy.take_journal().iter().filter(|e| action(&e.request) == "token").count();
    assert!(tokens > 1, "{tokens}");
}

matrices!(
    pretended,
    end: "instances.delete",
    interrupts: ["token", "images.get", "instances.insert", "operations.wait", "instances.get"],
    last: "instances.delete"
);

#[test]
fn secrets_never_show() {
    let Some(gce) = pretended() else { return };
    let (mut env, image) = (gce.env(), gce.image());
    let key = key_file(&format!("{}/token", gce.proxy.url()));
    let secret = key.split("-----").nth(2).unwrap()[10..40].to_owned();
    env.write("key.json", &key);
    for refuse in [false, true] {
        if refuse {
            // Refuses, and repeats all that came.
            gce.proxy.rule(|request| {
                let text = format!("who are you? {:?} {}", request.headers, request.text());
                Fault::Answer(error(403, "forbidden", &text))
            });
        }
        env.set("NO_COLOR", "1");
        let outcome = kola(&gce, &env, &image, "spawn", &["--debug"]);
        let text = format!("{}{}", outcome.stdout, outcome.stderr);
        for secret in [secret.as_str(), "Bearer token-", "assertion=ey"] {
            assert!(!text.contains(secret), "{secret} shows:\n{text}");
        }
    }
}
