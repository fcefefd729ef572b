//! The double and the real services side by side: one tour of all that mantle asks for, and the shapes of what is
//! answered.
//!
//! `make test-openstack` runs the tour against the real services, compares, and renews the file of their shapes with
//! `UPDATE_SNAPSHOTS=1`; every other run holds the double against that file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use clap::Command;
use mantle::conf::{self, Additions, IgnitionVersion};
use mantle::ledger::Ledger;
use mantle::platform::distribution::Distribution;
use mantle::platform::{self, Driver, FlightBase, LaunchRequest, MachineOptions, Target};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::action;
use super::double::{OpenStack, PASSWORD};
use crate::cloud::matrix::Double as _;
use crate::support::guard::Limit;
use crate::support::http::{self, Request, Response};
use crate::support::machines::Pretended;
use crate::support::proxy::Proxy;
use crate::support::{Env, repository};

/// The shapes of the real services' answers.
const SHAPES: &str = "tests/openstack/shapes.json";

/// The form of a value: kinds in place of leaves, one element for all of a list.
fn shape(value: &Value) -> Value {
    match value {
        Value::Null => Value::Null,
        Value::Bool(_) => "bool".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "text".into(),
        Value::Array(items) => {
            Value::Array(items.iter().map(shape).reduce(|a, b| merged(&a, &b)).into_iter().collect())
        }
        Value::Object(fields) => {
            let of = |(key, value): (&String, &Value)| match key.as_str() {
                // Their fields have names of people's own.
                "metadata" | "addresses" => {
                    let inner = value.as_object().cloned().unwrap_or_default();
                    let any = inner.values().map(shape).reduce(|a, b| merged(&a, &b)).unwrap_or_default();
                    (key.clone(), json!({"*": any}))
                }
                _ => (key.clone(), shape(value)),
            };
            Value::Object(fields.iter().map(of).collect())
        }
    }
}

/// A shape that both values have.
fn merged(one: &Value, other: &Value) -> Value {
    match (one, other) {
        (Value::Null, known) | (known, Value::Null) => known.clone(),
        (Value::Object(one), Value::Object(other)) => {
            let mut all: Map<String, Value> = one.clone();
            for (key, value) in other {
                let known = all.get(key).map_or_else(|| value.clone(), |v| merged(v, value));
                all.insert(key.clone(), known);
            }
            Value::Object(all)
        }
        (Value::Array(one), Value::Array(other)) => {
            let both = one.iter().chain(other).cloned().reduce(|a, b| merged(&a, &b));
            Value::Array(both.into_iter().collect())
        }
        (one, _) => one.clone(),
    }
}

/// What a value has that a shape has not.
fn differences(at: &str, ours: &Value, real: &Value, found: &mut Vec<String>) {
    match (ours, real) {
        (Value::Null, _) | (_, Value::Null) => {}
        (Value::Object(ours), Value::Object(real)) => {
            for (key, value) in ours {
                match real.get(key) {
                    Some(real) => differences(&format!("{at}.{key}"), value, real, found),
                    None => found.push(format!("{at}.{key}: the real service has no such field")),
                }
            }
        }
        (Value::Array(ours), Value::Array(real)) => {
            if let (Some(ours), Some(real)) = (ours.first(), real.first()) {
                differences(&format!("{at}[]"), ours, real, found);
            }
        }
        (ours, real) if ours == real => {}
        // Of a server that runs from a volume, the image is an empty text.
        (ours, real) => found.push(format!("{at}: {ours}, the real service has {real}")),
    }
}

/// All answers of a tour: action and status, with the shape of the body.
type Shapes = BTreeMap<String, Value>;

fn record(proxy: &Proxy) -> Arc<Mutex<Shapes>> {
    let shapes = Arc::<Mutex<Shapes>>::default();
    let note = shapes.clone();
    proxy.watch(move |request, answer| {
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let key = format!("{} {}", action(request), answer.status);
        let mut shapes = note.lock().unwrap();
        let known = shapes.remove(&key).unwrap_or_default();
        shapes.insert(key, merged(&known, &shape(&body)));
    });
    shapes
}

/// Everything that mantle asks of an OpenStack: images made and deleted, a server with its key pair, security group
/// and floating IP from order to end, what is left over collected. The home folder of `env` has the profile file.
fn tour(env: &Env, reads: impl Fn(&str) -> Vec<u8>) {
    let ore = |words: &[&str]| env.mantle(&[&["ore", "openstack"], words].concat());
    let content: Vec<u8> = (0..2_500_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let file = env.home().join("image");
    std::fs::write(&file, &content).unwrap();
    let file = format!("--file={}", file.display());
    let make = |name: &str, more: &[&str]| {
        let name = format!("--name={name}");
        ore(&[&["create-image", &file, &name][..], more].concat()).expect(0).stdout.trim().to_owned()
    };
    let image = make("tour", &["--property=hw_disk_bus=scsi", "--visibility=private"]);
    assert!(reads(&image) == content, "the image is not what was sent");
    let twin = make("twin", &["--protected"]);
    ore(&["delete-image", "--id=twin"]).expect(1);
    ore(&["delete-image", "--id=none"]).expect(1);
    life(env, "tour");
    life(env, &image);
    // Only what is not in use, not protected: the first image.
    let outcome = ore(&["gc", "--duration=0s", "--dry-run"]).expect(0);
    let plan: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let ids: Vec<_> = plan["items"].as_array().unwrap().iter().map(|i| i["id"].clone()).collect();
    assert_eq!(ids, [json!(image)]);
    assert_ne!(image, twin);
    ore(&["gc", "--duration=0s"]).expect(0);
    ore(&["delete-image", &format!("--id={image}")]).expect(1);
}

/// A flight with a machine, from its order to its end, as kola has them.
fn life(env: &Env, image: &str) {
    let config = env.home().join(".config/openstack.json");
    let driver = Driver::named("openstack").unwrap();
    let line = [
        "tour".to_owned(),
        format!("--openstack-config-file={}", config.display()),
        format!("--openstack-image={image}"),
        "--openstack-flavor=m1.tiny".to_owned(),
        "--openstack-network=private".to_owned(),
        "--openstack-floating-ip-pool=public".to_owned(),
    ];
    let command = platform::augment(Command::new("tour"), true);
    let chosen = driver.read(&command.try_get_matches_from(line).unwrap()).unwrap();
    let target = Target { board: "amd64-usr".into(), distribution: Distribution::named("cl").unwrap() };
    let prepared = chosen.prepare(&target).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let base = FlightBase {
        base_name: "kola".into(),
        output_dir: folder.path().into(),
        target,
        cancel: CancellationToken::new(),
        ledger: Arc::new(Ledger::none()),
        key: Arc::new(mantle::ssh::Key::generate().unwrap()),
    };
    let key = base.key.authorized().to_owned();
    let conf = conf::render(
        None,
        IgnitionVersion::V2,
        "",
        "",
        &Additions { keys: vec![key], ..Additions::default() },
    )
    .unwrap();
    let request = LaunchRequest {
        cluster: "kola-0b0f6a4e-1111-4222-8333-444455556666".into(),
        cancel: CancellationToken::new(),
        render: Arc::new(move |_| Ok(conf.clone())),
        options: MachineOptions::default(),
        output_dir: folder.path().into(),
        survive: false,
        no_ssh_key_in_metadata: false,
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let flight = prepared.flight(base).await.unwrap();
        let machine = flight.launch(request).await.unwrap();
        assert!(
            !machine.address().is_empty() && machine.private_ip().starts_with("10."),
            "{}",
            machine.private_ip()
        );
        assert_ne!(machine.address(), machine.private_ip());
        machine.console().await;
        let left = machine.destroy().await;
        assert!(left.is_empty(), "{left:?}");
        let left = flight.destroy().await;
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn the_double_answers_as_the_real_services_do() {
    let Some(machines) = Pretended::new() else { return };
    let cloud = OpenStack::start(Arc::new(machines));
    let env = cloud.env();
    let shapes = record(&cloud.proxy);
    tour(&env, |image| cloud.content(image));
    super::judged(&cloud.proxy.take_journal());
    let Ok(text) = std::fs::read_to_string(repository().join(SHAPES)) else {
        println!("skipped: no {SHAPES}; UPDATE_SNAPSHOTS=1 make test-openstack records it");
        return;
    };
    let real: Shapes = serde_json::from_str(&text).unwrap();
    compare(&shapes.lock().unwrap(), &real);
}

/// What is answered by the real services or not, as it happens: a server that is being removed may be seen as gone or as
/// `DELETED`.
const BY_CHANCE: [&str; 1] = ["servers.show 404"];

/// Fails if the double has answers that the real services do not give.
#[track_caller]
fn compare(ours: &Shapes, real: &Shapes) {
    let mut found = Vec::new();
    for (action, shape) in ours.iter().filter(|(a, _)| !BY_CHANCE.contains(&a.as_str())) {
        match real.get(action) {
            Some(real) => differences(action, shape, real, &mut found),
            None => found.push(format!("{action}: the real services never answer so in a tour")),
        }
    }
    for action in real.keys().filter(|a| !ours.contains_key(*a) && !BY_CHANCE.contains(&a.as_str())) {
        found.push(format!("{action}: only the real services answer so"));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Real services behind one address, as the double has them: by the first part of the path.
fn one_door(services: [(&'static str, SocketAddr); 4]) -> Proxy {
    let rewritten = move |mut answer: Response, door: &str| {
        let mut text = String::from_utf8_lossy(&answer.body).into_owned();
        for (name, address) in services {
            text = text.replace(&format!("http://{address}"), &format!("http://{door}/{name}"));
        }
        answer.body = text.into_bytes();
        answer
    };
    Proxy::before(move |request: &Request| {
        let door = request.header("host")?.to_owned();
        let path = request.target.trim_start_matches('/');
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        let (address, target) = match services.iter().find(|(name, _)| *name == first) {
            Some((_, address)) => (*address, format!("/{rest}")),
            None => return None,
        };
        let mut inner = request.clone();
        inner.target = target;
        inner.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("host"));
        let answer = http::send(address, &inner).ok()?;
        match first == "identity" {
            true => Some(rewritten(answer, &door)),
            false => Some(answer),
        }
    })
}

#[test]
fn the_real_services_do_what_mantle_asks() {
    let Ok(file) = std::env::var("MANTLE_TEST_OPENSTACK") else {
        println!(
            "skipped: MANTLE_TEST_OPENSTACK names no file of real services (see tests/openstack/README.md)"
        );
        return;
    };
    let known: Value = serde_json::from_str(&std::fs::read_to_string(Path::new(&file)).unwrap()).unwrap();
    let at = |name: &'static str| (name, known[name].as_str().unwrap().parse::<SocketAddr>().unwrap());
    let services = [at("identity"), at("compute"), at("network"), at("image")];
    let proxy = one_door(services);
    let mut env = Env::new();
    env.guarded(Limit::MACHINES);
    let profile = json!({"default": {
        "auth_url": format!("{}/identity", proxy.url()), "tenant_name": "demo", "username": "robot",
        "password": PASSWORD, "user_domain": "default", "region_name": "RegionOne",
    }});
    env.write(".config/openstack.json", &profile.to_string());
    let shapes = record(&proxy);
    let token = || {
        let member = |name: &str| json!({"name": name, "domain": {"id": "default"}});
        let mut user = member("robot");
        user["password"] = PASSWORD.into();
        let body = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": user}}, "scope": {"project": member("demo")},
        }});
        let request = Request::new("POST", "/v3/auth/tokens").with_body(body.to_string());
        let answer =
            http::send(services[0].1, &request.with_header("Content-Type", "application/json")).unwrap();
        answer.header("x-subject-token").unwrap().to_owned()
    };
    tour(&env, |image| {
        let request = Request::new("GET", &format!("/v2/images/{image}/file"));
        http::send(services[3].1, &request.with_header("X-Auth-Token", &token())).unwrap().body
    });
    let shapes = shapes.lock().unwrap().clone();
    let path = repository().join(SHAPES);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, format!("{}\n", serde_json::to_string_pretty(&shapes).unwrap())).unwrap();
        return;
    }
    let kept: Shapes = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    compare(&kept, &shapes);
}
