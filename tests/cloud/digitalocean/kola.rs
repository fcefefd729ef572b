//! `kola -p do`, the whole way, against the local DigitalOcean.

use std::sync::Arc;

use serde_json::json;

use super::double::{DigitalOcean, Odds, REGION, TOKEN};
use super::{action, error, throttled};
use crate::cloud::matrix::{Double as _, kola, matrices, nothing_left};
use crate::support::http::Response;
use crate::support::machines::{Local, Pretended};
use crate::support::proxy::Fault;

/// Machines that only seem to be; `None` where even those cannot be.
fn pretended() -> Option<DigitalOcean> {
    Some(DigitalOcean::start(Arc::new(Pretended::new()?)))
}

/// Real guests: in containers, or as `MANTLE_TEST_MACHINES=qemu-unpriv` says, in virtual machines.
fn real() -> Option<DigitalOcean> {
    let platform = std::env::var("MANTLE_TEST_MACHINES").unwrap_or_else(|_| "nspawn".into());
    Some(DigitalOcean::start(Arc::new(Local::new(&platform)?)))
}

/// A text with one blank between its words: messages are broken into lines.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
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
    let properties = std::fs::read_to_string(env.home().join("out/properties.json")).unwrap();
    let properties: serde_json::Value = serde_json::from_str(&properties).unwrap();
    assert_eq!(properties["do"], json!({"region": REGION, "size": "s-1vcpu-2gb", "image": image}));
    let outcome = env.mantle(&["kola", "cleanup", "out"]).expect(0);
    assert_eq!(outcome.stdout, "out: nothing is left over\n");
}

#[test]
fn a_real_machine_for_people() {
    let Some(cloud) = real() else { return };
    let (env, image) = (cloud.env(), cloud.image());
    let before = cloud.census();
    let outcome = kola(&cloud, &env, &image, "spawn", &["-v"]).expect(0);
    assert!(outcome.stdout.contains(" spawned at 127.0.0.1:"), "{}", outcome.stdout);
    nothing_left(&cloud, &before, "a shell");
}

#[test]
fn a_machine_that_stays_has_all_that_was_ordered() {
    let Some(cloud) = pretended() else { return };
    let (env, image) = (cloud.env(), cloud.image());
    let before = cloud.census();
    // The platform's long name.
    let stays = ["-p", "digitalocean", "--remove=false", "--shell=false", "--do-size=s-2vcpu-4gb"];
    let outcome = kola(&cloud, &env, &image, "spawn", &stays).expect(0);
    let droplets = cloud.droplets();
    let [(id, name)] = droplets.iter().collect::<Vec<_>>()[..] else { panic!("{droplets:?}") };
    assert!(outcome.stdout.contains(&format!("doctl compute droplet delete {id}")), "{}", outcome.stdout);
    let order = cloud.order(*id);
    assert!(name.starts_with("kola-") && name.len() == "kola-".len() + 20, "{name}");
    assert_eq!(order["tags"], json!(["mantle"]));
    assert_eq!((&order["region"], &order["size"]), (&json!(REGION), &json!("s-2vcpu-4gb")));
    // An image that somebody uploaded: no IPv6.
    assert_eq!((&order["ipv6"], &order["private_networking"]), (&json!(false), &json!(true)));
    assert_eq!((&order["backups"], &order["monitoring"]), (&json!(false), &json!(false)));
    let keys = cloud.keys();
    assert!(keys.len() == 1 && keys[0].1.starts_with("ssh-rsa "), "{keys:?}");
    let kept = std::fs::read_to_string(env.home().join(format!("out/{id}/user-data"))).unwrap();
    assert_eq!(order["user_data"], kept);
    let outcome = env.mantle(&["kola", "cleanup", "out"]).expect(0);
    assert!(outcome.stdout.contains("removed droplet"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("removed ssh-key"), "{}", outcome.stdout);
    nothing_left(&cloud, &before, "clean-up");
}

#[test]
fn machines_without_keys_in_their_metadata_have_one_that_nobody_holds() {
    let Some(cloud) = pretended() else { return };
    let (env, image) = (cloud.env(), cloud.image());
    let before = cloud.census();
    let made = Arc::new(std::sync::Mutex::new(Vec::new()));
    let note = made.clone();
    cloud.proxy.watch(move |request, answer| {
        let json = |body: &[u8]| serde_json::from_slice::<serde_json::Value>(body).unwrap();
        match action(request).as_str() {
            "keys.create" => {
                let key = json(&answer.body)["ssh_key"].clone();
                note.lock().unwrap().push((key["name"].as_str().unwrap().to_owned(), key["id"].clone()));
            }
            "droplets.create" => {
                note.lock().unwrap().push(("droplet".into(), json(&request.body)["ssh_keys"][0].clone()));
            }
            _ => {}
        }
    });
    // Two machines have no key in their metadata, one has; all of them are of another system than they should be.
    let tests = ["coreos.ignition.v1.ssh.key", "coreos.ignition.v2.ssh.key", "cl.filesystem"];
    let line = ["kola", "run", "--output-dir=out", "-p", "do", "-b", "cl", "--do-image", &image];
    let outcome = env.mantle(&[&line[..], &tests].concat()).expect(1);
    let made = made.lock().unwrap().clone();
    let keys: Vec<_> = made.iter().filter(|(name, _)| name.starts_with("kola-")).collect();
    let [(own, own_id), (fake, fake_id)] = keys[..] else { panic!("{made:?}: {}", outcome.stdout) };
    assert_eq!(*fake, format!("{own}-fake"));
    let with = |id| made.iter().filter(|(name, key)| name == "droplet" && key == id).count();
    assert!(with(own_id) > 0 && with(fake_id) > 0, "{made:?}");
    nothing_left(&cloud, &before, "a run");
}

#[test]
fn a_launch_adds_few_requests_to_the_providers_own() {
    let Some(cloud) = pretended() else { return };
    let (env, image) = (cloud.env(), cloud.image());
    kola(&cloud, &env, &image, "spawn", &["--do-vpc=760e09ef-dc84-11e8-981e-3cfdfeaae000"]).expect(0);
    let mut asked = cloud.asked_for();
    asked.dedup();
    let expected = [
        "account.get",
        "images.list",
        "keys.create",
        "droplets.create",
        "droplets.get",
        "droplets.delete",
        "keys.list",
        "keys.delete",
    ];
    assert_eq!(asked, expected);
}

#[test]
fn images_are_what_people_call_them() {
    let Some(cloud) = pretended() else { return };
    let env = cloud.env();
    let snapshot = cloud.put_image("snap", "snapshot", &["nyc3", REGION]);
    cloud.put_image("far", "custom", &["nyc3", "ams3"]);
    cloud.put_image("twice", "custom", &[REGION]);
    cloud.put_image("twice", "custom", &["nyc3", REGION]);
    // One here, one elsewhere: the name is clear.
    cloud.put_image("once", "custom", &[REGION]);
    cloud.put_image("once", "custom", &["nyc3"]);
    kola(&cloud, &env, &snapshot.to_string(), "spawn", &[]).expect(0);
    kola(&cloud, &env, "once", "spawn", &[]).expect(0);
    let before = cloud.census();
    for (image, says) in [
        ("far", "it is in nyc3, ams3, not in sfo2"),
        ("twice", "found multiple images named \"twice\" in sfo2: "),
        ("none", "couldn't find image \"none\""),
        ("7", "there is no image 7"),
        ("alpha", "DigitalOcean has no image \"coreos-alpha\" any more"),
        ("", "DigitalOcean has no image \"coreos-stable\" any more"),
    ] {
        let outcome = kola(&cloud, &env, image, "spawn", &[]);
        let said = words(&outcome.stderr);
        assert!(outcome.code != 0 && said.contains(says), "{image}: {said}");
        nothing_left(&cloud, &before, image);
    }
}

#[test]
fn a_token_for_droplets_alone_is_enough() {
    let Some(cloud) = pretended() else { return };
    let env = cloud.env();
    let image = cloud.put_image("i", "snapshot", &[REGION]).to_string();
    let before = cloud.census();
    cloud.proxy.rule(|request| match action(request).as_str() {
        "account.get" | "images.get" => {
            Fault::Answer(error(403, "forbidden", "You are missing the required permission"))
        }
        _ => Fault::None,
    });
    kola(&cloud, &env, &image, "spawn", &["--remove=false", "--shell=false"]).expect(0);
    // Of an image that is not known, no IPv6.
    let droplet = cloud.droplets().into_keys().next().unwrap();
    assert_eq!(cloud.order(droplet)["ipv6"], json!(false));
    env.mantle(&["kola", "cleanup", "out"]).expect(0);
    nothing_left(&cloud, &before, "a run");
}

#[test]
fn orders_wait_for_keys_and_room() {
    let Some(cloud) = pretended() else { return };
    let (env, image) = (cloud.env(), cloud.image());
    let before = cloud.census();
    cloud.odds(Odds { unknown_keys: 12, ..Odds::default() });
    kola(&cloud, &env, &image, "spawn", &[]).expect(0);
    nothing_left(&cloud, &before, "a key that is not known yet");
    cloud.proxy.take_journal();
    cloud.odds(Odds { droplet_limit: Some(0), ..Odds::default() });
    let outcome = kola(&cloud, &env, &image, "spawn", &[]).expect(1);
    assert!(words(&outcome.stderr).contains("will exceed your droplet limit"), "{}", outcome.stderr);
    let orders = cloud.asked_for().iter().filter(|a| *a == "droplets.create").count();
    assert_eq!(orders, 3);
    nothing_left(&cloud, &before, "no room");
    cloud.odds(Odds::default());
    let outcome = kola(&cloud, &env, &image, "spawn", &["--do-size=512mb"]).expect(1);
    assert!(words(&outcome.stderr).contains("invalid size"), "{}", outcome.stderr);
    nothing_left(&cloud, &before, "no such size");
}

#[test]
fn droplets_whose_orders_had_no_answer_are_not_made_twice() {
    let Some(cloud) = pretended() else { return };
    let (env, image) = (cloud.env(), cloud.image());
    let before = cloud.census();
    // Lists show it late, but in time.
    cloud.odds(Odds { unlisted: 2, ..Odds::default() });
    cloud.proxy.on(|r| action(r) == "droplets.create", 0, 1, Fault::ResetAfter);
    kola(&cloud, &env, &image, "spawn", &[]).expect(0);
    let orders = cloud.asked_for().iter().filter(|a| *a == "droplets.create").count();
    assert_eq!(orders, 1);
    nothing_left(&cloud, &before, "an answer that was lost");
    // Too late: a second one is made, and both end.
    cloud.odds(Odds::default());
    let none = json!({"droplets": [], "links": {}, "meta": {"total": 0}}).to_string();
    let mut orders = 0;
    cloud.proxy.rule(move |request| match action(request).as_str() {
        "droplets.create" => {
            orders += 1;
            if orders == 1 { Fault::ResetAfter } else { Fault::None }
        }
        "droplets.list" if orders < 2 => Fault::Answer(Response::new(200, "application/json", none.clone())),
        _ => Fault::None,
    });
    kola(&cloud, &env, &image, "spawn", &[]).expect(0);
    let asked = cloud.asked_for();
    let count = |name: &str| asked.iter().filter(|a| *a == name).count();
    assert_eq!((count("droplets.create"), count("droplets.delete")), (2, 2), "{asked:?}");
    nothing_left(&cloud, &before, "twins");
}

#[test]
fn droplets_that_never_run_say_how_they_are() {
    let Some(cloud) = pretended() else { return };
    let (env, image) = (cloud.env(), cloud.image());
    let before = cloud.census();
    for (status, says) in [
        ("new", "not within 300 s; it was last seen as: new"),
        ("active", "it was last seen as: active, without public address"),
        ("off", "has ended: it is off"),
        ("archive", "has ended: it is archive"),
    ] {
        cloud.odds(Odds { droplets_stay: Some(status), ..Odds::default() });
        let outcome = kola(&cloud, &env, &image, "spawn", &[]).expect(1);
        assert!(words(&outcome.stderr).contains(says), "{status}: {}", outcome.stderr);
        nothing_left(&cloud, &before, status);
    }
}

#[test]
fn the_end_of_a_rate_limit_is_waited_for() {
    let Some(cloud) = pretended() else { return };
    let (mut env, image) = (cloud.env(), cloud.image());
    env.set("NO_COLOR", "1");
    let before = cloud.census();
    cloud.proxy.rule({
        let mut seen = 0;
        move |request| {
            seen += usize::from(action(request) == "droplets.create");
            match (action(request).as_str(), seen) {
                ("droplets.create", 1..=3) => Fault::Answer(throttled(chrono::Utc::now().timestamp() + 3600)),
                _ => Fault::None,
            }
        }
    });
    let outcome = kola(&cloud, &env, &image, "spawn", &[]).expect(0);
    // As long as tests wait at most.
    assert!(
        words(&outcome.stderr).contains("too_many_requests: API Rate limit exceeded."),
        "{}",
        outcome.stderr
    );
    assert!(words(&outcome.stderr).contains("trying again in 0.3 s"), "{}", outcome.stderr);
    nothing_left(&cloud, &before, "a rate limit");
}

#[test]
fn clean_up_is_by_the_account_that_made_it() {
    let Some(cloud) = pretended() else { return };
    let (env, image) = (cloud.env(), cloud.image());
    let before = cloud.census();
    kola(&cloud, &env, &image, "spawn", &["--remove=false", "--shell=false"]).expect(0);
    let other = json!({"account": {"uuid": "another", "email": "x@example.com", "status": "active"}});
    cloud.proxy.rule(move |request| match action(request).as_str() {
        "account.get" => Fault::Garbage(other.to_string().into_bytes()),
        _ => Fault::None,
    });
    for cleanup in [&["kola", "cleanup", "out"][..], DigitalOcean::COLLECT] {
        let outcome = env.mantle(cleanup).expect(1);
        assert!(words(&outcome.stderr).contains("this token is of account another"), "{}", outcome.stderr);
    }
    assert_eq!(cloud.droplets().len(), 1);
    cloud.proxy.calm();
    env.mantle(&["kola", "cleanup", "out"]).expect(0);
    nothing_left(&cloud, &before, "clean-up");
}

matrices!(
    pretended,
    end: "droplets.delete",
    interrupts: ["account.get", "images.list", "keys.create", "droplets.create", "droplets.get"],
    last: "keys.delete"
);

#[test]
fn secrets_never_show() {
    let Some(cloud) = pretended() else { return };
    let (mut env, image) = (cloud.env(), cloud.image());
    env.set("NO_COLOR", "1");
    let flag = format!("--do-token={TOKEN}");
    for refuse in [false, true] {
        if refuse {
            // Refuses, and repeats all that came.
            cloud.proxy.rule(|request| {
                let text = format!("who are you? {:?} {}", request.headers, request.text());
                Fault::Answer(error(403, "forbidden", &text))
            });
        }
        for more in [&["--debug"][..], &["--debug", &flag]] {
            let outcome = kola(&cloud, &env, &image, "spawn", more);
            assert_eq!(outcome.code, i32::from(refuse), "{}", outcome.stderr);
            let text = format!("{}{}", outcome.stdout, outcome.stderr);
            assert!(!text.contains("SECRET"), "{text}");
            let kept = std::process::Command::new("grep")
                .args(["-rl", "SECRET", "out"])
                .current_dir(env.home())
                .output()
                .unwrap();
            assert!(kept.stdout.is_empty(), "{}", String::from_utf8_lossy(&kept.stdout));
        }
    }
}
