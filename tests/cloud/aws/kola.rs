//! `kola -p aws`, the whole way, against the local EC2.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::double::{Census, Ec2};
use crate::cloud::aws;
use crate::support::http::{self, Reply, Request, Response};
use crate::support::machines::{Local, Pretended};
use crate::support::moto::REGION;
use crate::support::proxy::Fault;
use crate::support::{Env, Outcome, Running};

/// An environment with keys for this cloud.
fn env(ec2: &Ec2) -> Env {
    let mut env = Env::new();
    env.set("AWS_ENDPOINT_URL", ec2.url())
        .set("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        .set("AWS_SECRET_ACCESS_KEY", "example")
        .set("AWS_REGION", REGION)
        .set("AWS_EC2_METADATA_DISABLED", "true")
        .set("MANTLE_POLL_SCALE", "0.001")
        .guarded(ec2.limit);
    env
}

/// Starts kola with what every call here has.
fn start(env: &Env, image: &str, verb: &str, args: &[&str]) -> Running {
    let base = ["kola", verb, "-p", "aws", "-b", "debian", "--aws-ami", image, "--output-dir", "out"];
    env.start(Path::new(env!("CARGO_BIN_EXE_mantle")), &[&base[..], args].concat())
}

fn kola(env: &Env, image: &str, verb: &str, args: &[&str]) -> Outcome {
    start(env, image, verb, args).finish()
}

/// Machines that only seem to be; `None` where even those cannot be.
fn pretended() -> Option<Ec2> {
    Ec2::start(Arc::new(Pretended::new()?))
}

/// Real guests: in containers, or as `MANTLE_TEST_MACHINES=qemu-unpriv` says, in virtual machines.
fn real() -> Option<Ec2> {
    let platform = std::env::var("MANTLE_TEST_MACHINES").unwrap_or_else(|_| "nspawn".into());
    Ec2::start(Arc::new(Local::new(&platform)?))
}

/// Fails unless everything of kola's is gone but what it keeps for the next run: one whole network and the role.
#[track_caller]
fn nothing_left(ec2: &Ec2, before: &Census, what: &str) {
    let after = ec2.census();
    let new = |kind: &str| -> Vec<String> {
        after[kind].keys().filter(|id| !before[kind].contains_key(*id)).cloned().collect()
    };
    let alive: Vec<_> =
        new("instance").into_iter().filter(|id| after["instance"][id] != "terminated").collect();
    assert!(alive.is_empty(), "{what}: instances {alive:?} are left");
    assert!(new("key-pair").is_empty(), "{what}: keys {:?} are left", new("key-pair"));
    assert!(after["unfinished"].is_empty(), "{what}: parts of a network are left: {:?}", after["unfinished"]);
    let groups: Vec<_> = new("group").into_iter().filter(|id| after["group"][id] == "kola").collect();
    assert!(groups.len() <= 1, "{what}: {} networks are left", groups.len());
    if groups.is_empty() {
        for kind in ["vpc", "subnet", "gateway", "route-table"] {
            assert!(new(kind).is_empty(), "{what}: {kind} {:?} are left", new(kind));
        }
    } else {
        assert_eq!(new("vpc").len(), 1, "{what}: VPCs {:?} are left", new("vpc"));
        assert_eq!(new("gateway").len(), 1, "{what}: gateways {:?} are left", new("gateway"));
    }
    assert!(ec2.running().is_empty(), "{what}: machines run");
    // Whatever was there, and its state, is as before.
    for (kind, things) in before {
        for (id, state) in things {
            assert_eq!(after[kind].get(id), Some(state), "{what}: foreign {kind} {id}");
        }
    }
}

/// The folder of the only instance of a run.
fn folder(env: &Env, below: &str) -> PathBuf {
    let all = std::fs::read_dir(env.home().join(below)).unwrap().map(|e| e.unwrap().path());
    let mut instances = all.filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("i-"));
    instances.next().unwrap()
}

#[test]
fn real_tests_on_real_machines() {
    let Some(ec2) = real() else { return };
    let (env, image) = (env(&ec2), ec2.image());
    let before = ec2.census();
    ec2.mute_consoles(1);
    // Tests that need no feature: there is no feature file to tell which this image has.
    let tests = ["cl.users.shells", "coreos.auth.verify", "systemd.sysusers.gshadow"];
    let outcome = kola(&env, &image, "run", &tests).expect(0);
    for test in tests {
        assert!(outcome.stdout.contains(&format!("--- PASS: {test}")), "{}", outcome.stdout);
    }
    nothing_left(&ec2, &before, "a run");
    let folder = folder(&env, "out/coreos.auth.verify");
    let id = folder.file_name().unwrap().to_str().unwrap();
    let userdata = std::fs::read(folder.join("user-data")).unwrap();
    assert_eq!(userdata, ec2.userdata(id));
    let console = std::fs::read_to_string(folder.join("console.txt")).unwrap();
    assert!(console.contains("ignition"), "{console}");
    let properties = std::fs::read_to_string(env.home().join("out/properties.json")).unwrap();
    assert!(properties.contains(&image), "{properties}");
    let outcome = env.mantle(&["kola", "cleanup", "out"]).expect(0);
    assert_eq!(outcome.stdout, "out: nothing is left over\n");
    aws::judged(&ec2.proxy.take_journal());
}

#[test]
fn a_real_machine_for_people() {
    let Some(ec2) = real() else { return };
    let (env, image) = (env(&ec2), ec2.image());
    let before = ec2.census();
    let outcome = kola(&env, &image, "spawn", &["-v"]).expect(0);
    assert!(outcome.stdout.contains(" spawned at 127.0.0.1:"), "{}", outcome.stdout);
    nothing_left(&ec2, &before, "a shell");
}

#[test]
fn a_machine_that_stays() {
    let Some(ec2) = pretended() else { return };
    let (env, image) = (env(&ec2), ec2.image());
    let before = ec2.census();
    kola(&env, &image, "spawn", &["--remove=false", "--shell=false"]).expect(0);
    assert_eq!(ec2.running().len(), 1);
    let outcome = env.mantle(&["kola", "cleanup", "out"]).expect(0);
    assert!(outcome.stdout.contains("removed instance"), "{}", outcome.stdout);
    nothing_left(&ec2, &before, "clean-up");
}

#[test]
fn requests_are_right() {
    let Some(ec2) = pretended() else { return };
    let (env, image) = (env(&ec2), ec2.image());
    // the first run makes the network, the second finds it
    for _ in 0..2 {
        kola(&env, &image, "spawn", &[]).expect(0);
    }
    let journal = ec2.proxy.take_journal();
    let count = |name: &str| journal.iter().filter(|e| aws::action(&e.request) == name).count();
    assert_eq!((count("CreateVpc"), count("CreateRole"), count("RunInstances")), (1, 1, 2));
    aws::judged(&journal);
}

/// Kola that is killed by the first request that is picked, before or after the server does what it says; `None` if
/// none is.
fn killed(
    ec2: &Ec2,
    env: &Env,
    image: &str,
    done: bool,
    mut pick: impl FnMut(&Request) -> bool + Send + 'static,
) -> Option<String> {
    let id = Arc::new(AtomicI32::new(0));
    let shoot = {
        let id = id.clone();
        move || {
            while id.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            let _ = kill(Pid::from_raw(id.load(Ordering::SeqCst)), Signal::SIGKILL);
        }
    };
    let picked = Arc::new(Mutex::new(None::<Request>));
    let (note, shoot_before) = (picked.clone(), shoot.clone());
    ec2.proxy.rule(move |request| {
        let mut picked = note.lock().unwrap();
        if picked.is_some() || !pick(request) {
            return Fault::None;
        }
        *picked = Some(request.clone());
        if done {
            return Fault::ResetAfter;
        }
        shoot_before();
        Fault::ResetBefore
    });
    let note = picked.clone();
    ec2.proxy.watch(move |request, _| {
        // Now the server has done it, and kola has not heard of it.
        let same = |r: &Request| (&r.target, &r.body) == (&request.target, &request.body);
        if done && note.lock().unwrap().as_ref().is_some_and(same) {
            shoot();
        }
    });
    let running = start(env, image, "spawn", &[]);
    id.store(running.id(), Ordering::SeqCst);
    let outcome = running.finish();
    ec2.proxy.calm();
    let action = picked.lock().unwrap().take().map(|request| aws::action(&request));
    let code = if action.is_some() { -9 } else { 0 };
    assert_eq!(outcome.code, code, "{action:?}: {}", outcome.stderr);
    action
}

/// What kola asks until the answer is another one: how often depends on the clock.
const POLLED: [&str; 3] = ["DescribeInstances", "GetConsoleOutput", "GetInstanceProfile"];

/// The operations of an uninterrupted run in their order, each with how often it had been asked for before; of those
/// that are repeated until the answer changes, the first two.
fn moments(ec2: &Ec2, image: &str) -> Vec<(String, usize)> {
    ec2.proxy.take_journal();
    kola(&env(ec2), image, "spawn", &[]).expect(0);
    let mut seen = BTreeMap::<String, usize>::new();
    let mut moments = Vec::new();
    for entry in ec2.proxy.take_journal() {
        let action = aws::action(&entry.request);
        let times = seen.entry(action.clone()).or_default();
        if *times < 2 || !POLLED.contains(&&*action) {
            moments.push((action, *times));
        }
        *times += 1;
    }
    moments
}

/// Kills kola at each of its requests in turn, in a cloud without its network (`fresh`) or with it.
fn killed_at_each(fresh: bool, done: bool) {
    let Some(ec2) = pretended() else { return };
    let mut image = ec2.image();
    if !fresh {
        kola(&env(&ec2), &image, "spawn", &[]).expect(0);
    }
    let moments = moments(&ec2, &image);
    for needed in ["ImportKeyPair", "RunInstances", "TerminateInstances", "GetConsoleOutput", "DeleteKeyPair"]
    {
        assert!(moments.iter().any(|(action, _)| action == needed), "no {needed} in {moments:?}");
    }
    assert_eq!(fresh, moments.iter().any(|(action, _)| action == "CreateSubnet"), "{moments:?}");
    for (action, times) in moments {
        if fresh {
            ec2.reset();
            image = ec2.image();
        }
        let (env, before) = (env(&ec2), ec2.census());
        let (wanted, mut seen) = (action.clone(), 0);
        let pick = move |request: &Request| {
            let right = aws::action(request) == wanted;
            seen += usize::from(right);
            right && seen == times + 1
        };
        let what = format!(
            "killed {} {action}, asked for the {}. time",
            if done { "after" } else { "before" },
            times + 1
        );
        let killed = killed(&ec2, &env, &image, done, pick);
        assert!(killed.is_some() || POLLED.contains(&&*action), "not {what}");
        // Either of the two cleans up.
        let outcome = match done {
            true => env.mantle(&["kola", "cleanup", "out"]),
            false => env.mantle(&["ore", "aws", "gc", "--ledger=out", "--duration=0s"]),
        };
        assert_eq!(outcome.code, 0, "{what}: {}", outcome.stderr);
        nothing_left(&ec2, &before, &what);
    }
}

#[test]
fn killed_after_each_request_in_a_fresh_cloud() {
    killed_at_each(true, true);
}

#[test]
fn killed_before_each_request_in_a_fresh_cloud() {
    killed_at_each(true, false);
}

#[test]
fn killed_after_each_request_of_a_later_run() {
    killed_at_each(false, true);
}

/// Every answer is lost once, one a run: kola gets along, and leaves nothing.
#[test]
fn each_answer_is_lost_in_turn() {
    let Some(ec2) = pretended() else { return };
    for n in 0.. {
        ec2.reset();
        let image = ec2.image();
        let (env, before) = (env(&ec2), ec2.census());
        let said = Arc::new(Mutex::new(None));
        let (note, seen) = (said.clone(), AtomicUsize::new(0));
        ec2.proxy.rule(move |request| {
            if seen.fetch_add(1, Ordering::SeqCst) != n {
                return Fault::None;
            }
            *note.lock().unwrap() = Some(aws::action(request));
            Fault::ResetAfter
        });
        let outcome = kola(&env, &image, "spawn", &[]);
        let Some(action) = said.lock().unwrap().take() else { break };
        let what = format!("the answer to request {n}, {action}, is lost");
        assert_eq!(outcome.code, 0, "{what}: {}", outcome.stderr);
        nothing_left(&ec2, &before, &what);
    }
}

/// Every second request is throttled or meets an error of the server.
#[test]
fn trouble_all_the_way() {
    let Some(ec2) = pretended() else { return };
    let image = ec2.image();
    let (env, before) = (env(&ec2), ec2.census());
    let mut seen = 0;
    ec2.proxy.rule(move |request| {
        seen += 1;
        match seen % 4 {
            1 => Fault::Answer(aws::throttled(request)),
            3 => Fault::Answer(aws::error(request, 500, "InternalError", "An internal error has occurred")),
            _ => Fault::None,
        }
    });
    kola(&env, &image, "spawn", &[]).expect(0);
    nothing_left(&ec2, &before, "trouble");
}

#[test]
fn orders_that_are_refused() {
    let Some(ec2) = pretended() else { return };
    let image = ec2.image();
    let before = ec2.census();
    let full = (500, "InsufficientInstanceCapacity", "We currently do not have sufficient m4.large capacity");
    aws::fail(&ec2.proxy, aws::is(&["RunInstances"]), 0, 1, full);
    kola(&env(&ec2), &image, "spawn", &[]).expect(0);
    nothing_left(&ec2, &before, "a zone without room");
    ec2.proxy.calm();
    let limit = (400, "VcpuLimitExceeded", "You have requested more vCPU capacity than your current limit");
    aws::fail(&ec2.proxy, aws::is(&["RunInstances"]), 0, usize::MAX - 1, limit);
    let outcome = kola(&env(&ec2), &image, "spawn", &[]).expect(1);
    assert!(outcome.stderr.contains("VcpuLimitExceeded"), "{}", outcome.stderr);
    nothing_left(&ec2, &before, "an account at its limit");
}

#[test]
fn a_cloud_that_is_slow_to_know() {
    let Some(ec2) = pretended() else { return };
    let image = ec2.image();
    let (env, before) = (env(&ec2), ec2.census());
    aws::slow(&ec2.proxy, 2);
    kola(&env, &image, "spawn", &[]).expect(0);
    nothing_left(&ec2, &before, "slow consistency");
}

/// Ten thousand instances and keys that look like kola's, and kola killed with an instance running.
#[test]
fn look_alikes_are_spared() {
    let Some(ec2) = pretended() else { return };
    let image = ec2.image();
    let like = super::double::element(
        &ec2.call(
            "ec2",
            &[
                ("Action", "RunInstances"),
                ("ImageId", &image),
                ("MinCount", "1"),
                ("MaxCount", "1"),
                ("InstanceType", "m4.large"),
            ],
        ),
        "instanceId",
    );
    let uuid = "00000000-0000-4000-8000-00000000000{n}";
    for tags in [
        json!({"Name": format!("kola-{uuid}"), "CreatedBy": "Mantle"}),
        json!({"Name": format!("kola-{uuid}"), "createdby": "mantle"}),
        json!({"Name": "kola", "CreatedBy": "mantle "}),
        json!({"mantle-launch": uuid, "CreatedBy": "somebody"}),
    ] {
        ec2.moto.control("crowd", &json!({"region": REGION, "like": like, "count": 2500, "tags": tags}));
    }
    ec2.moto.control("keys", &json!({"region": REGION, "count": 1000, "name": format!("kola-{uuid}")}));
    // The network stays from here on.
    kola(&env(&ec2), &image, "spawn", &[]).expect(0);
    let before = ec2.census();
    for action in ["ImportKeyPair", "RunInstances", "GetConsoleOutput"] {
        let env = env(&ec2);
        assert!(killed(&ec2, &env, &image, true, aws::is(&[action])).is_some(), "no {action}");
        assert_eq!(ec2.running().len(), usize::from(action != "ImportKeyPair"), "{action}");
        env.mantle(&["kola", "cleanup", "out"]).expect(0);
        nothing_left(&ec2, &before, action);
    }
}

/// Every file below a folder, and the outputs: where secrets must not be.
fn all_text(env: &Env, outcome: &Outcome) -> String {
    let mut text = format!("{}{}", outcome.stdout, outcome.stderr);
    let mut folders = vec![env.home().join("out")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(bytes) = std::fs::read(&path) {
                text += &String::from_utf8_lossy(&bytes);
            }
        }
    }
    text
}

const SECRETS: [&str; 3] = ["Zm9yYmlkZGVuLXNlY3JldC1rZXk", "forbidden/session+token", "forbiddenwebidentity"];

/// Plants the secrets in a slot.
type Slot = fn(&mut Env);

fn forget(env: &mut Env) -> &mut Env {
    env.unset("AWS_ACCESS_KEY_ID").unset("AWS_SECRET_ACCESS_KEY")
}

/// What the agents of containers and instances say of keys.
fn keys_of_an_agent() -> Response {
    let keys = json!({
        "Code": "Success", "AccessKeyId": "AKID", "SecretAccessKey": SECRETS[0], "Token": SECRETS[1],
        "Expiration": "2099-01-01T00:00:00Z",
    });
    Response::new(200, "application/json", keys.to_string())
}

/// Refuses, and repeats all that came.
fn indiscreet(request: &Request) -> Reply {
    Reply::Answer(Response::new(401, "text/plain", format!("who are you? {:?}", request.headers)))
}

const SLOTS: [(&str, Slot); 9] = [
    ("agent of a container", |env| {
        let address = http::serve(|request| match request.header("authorization") {
            Some(token) if token == SECRETS[2] => Reply::Answer(keys_of_an_agent()),
            _ => indiscreet(&request),
        });
        env.set("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://{address}/keys"))
            .set("AWS_CONTAINER_AUTHORIZATION_TOKEN", SECRETS[2]);
        forget(env);
    }),
    ("agent of a container that fails", |env| {
        let address = http::serve(|request| indiscreet(&request));
        env.set("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://{address}/keys"))
            .set("AWS_CONTAINER_AUTHORIZATION_TOKEN", SECRETS[2]);
        forget(env);
    }),
    ("metadata of an instance", |env| {
        let address = http::serve(|request| {
            let asked = (request.path(), request.header("x-aws-ec2-metadata-token") == Some(SECRETS[2]));
            match asked {
                ("/latest/api/token", _) => Reply::Answer(Response::new(200, "text/plain", SECRETS[2])),
                ("/latest/meta-data/iam/security-credentials/", true) => {
                    Reply::Answer(Response::new(200, "text/plain", "role"))
                }
                ("/latest/meta-data/iam/security-credentials/role", true) => {
                    Reply::Answer(keys_of_an_agent())
                }
                _ => indiscreet(&request),
            }
        });
        env.set("AWS_EC2_METADATA_SERVICE_ENDPOINT", format!("http://{address}"))
            .unset("AWS_EC2_METADATA_DISABLED");
        forget(env);
    }),
    ("environment", |env| {
        env.set("AWS_SECRET_ACCESS_KEY", SECRETS[0]).set("AWS_SESSION_TOKEN", SECRETS[1]);
    }),
    ("credentials file", |env| {
        let file = format!(
            "[default]\naws_access_key_id = AKID\naws_secret_access_key = {}\naws_session_token = {}\n",
            SECRETS[0], SECRETS[1]
        );
        env.write(".aws/credentials", &file);
        forget(env);
    }),
    ("config file", |env| {
        let file = format!(
            "[default]\naws_access_key_id = AKID\naws_secret_access_key = {}\naws_session_token = {}\n",
            SECRETS[0], SECRETS[1]
        );
        env.write(".aws/config", &file);
        forget(env);
    }),
    ("credential process", |env| {
        let said = json!({
            "Version": 1, "AccessKeyId": "AKID", "SecretAccessKey": SECRETS[0], "SessionToken": SECRETS[1],
        });
        let program = env.program("give", &format!("#!/bin/sh\necho '{said}'\n"));
        env.write(".aws/config", &format!("[default]\ncredential_process = {}\n", program.display()));
        forget(env);
    }),
    ("credential process that fails", |env| {
        let script = format!("#!/bin/sh\necho '{{\"SecretAccessKey\": \"{}\"'\nexit 3\n", SECRETS[0]);
        let program = env.program("give", &script);
        env.write(".aws/config", &format!("[default]\ncredential_process = {}\n", program.display()));
        forget(env);
    }),
    ("web identity", |env| {
        let token = env.write("token", SECRETS[2]);
        env.set("AWS_WEB_IDENTITY_TOKEN_FILE", token).set("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/x");
        forget(env);
    }),
];

#[test]
fn secrets_never_show() {
    let Some(ec2) = pretended() else { return };
    let image = ec2.image();
    // every request in turn is refused with a text that repeats all that came with it
    for refuse in [false, true] {
        for (slot, plant) in SLOTS {
            ec2.proxy.calm();
            if refuse {
                ec2.proxy.rule(|request: &Request| {
                    Fault::Answer(aws::error(request, 403, "AuthFailure", "AWS was not able to validate you"))
                });
            }
            let mut env = env(&ec2);
            plant(&mut env);
            let outcome = kola(&env, &image, "spawn", &["--debug"]);
            let text = all_text(&env, &outcome);
            for secret in SECRETS {
                assert!(!text.contains(secret), "{slot}: {secret} shows:\n{text}");
            }
            let last = env.mantle(&["kola", "cleanup", "out"]);
            let text = all_text(&env, &last);
            assert!(!SECRETS.iter().any(|s| text.contains(s)), "{slot}: a secret shows in clean-up");
            if !refuse && !slot.contains("fails") {
                assert_eq!(outcome.code, 0, "{slot}: {}", outcome.stderr);
            }
        }
    }
    for entry in ec2.proxy.take_journal() {
        let text = format!("{} {}", entry.request.target, entry.request.text());
        assert!(!text.contains(SECRETS[0]) && !text.contains(SECRETS[1]), "{text}");
        assert!(aws::action(&entry.request) == "AssumeRoleWithWebIdentity" || !text.contains(SECRETS[2]));
    }
}

#[test]
fn interrupts_leave_nothing() {
    let Some(ec2) = pretended() else { return };
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        for at in
            ["ImportKeyPair", "CreateRouteTable", "RunInstances", "DescribeInstances", "GetConsoleOutput"]
        {
            ec2.reset();
            let image = ec2.image();
            let (env, before) = (env(&ec2), ec2.census());
            let id = Arc::new(AtomicI32::new(0));
            let (own, mut done) = (id.clone(), false);
            ec2.proxy.rule(move |request| {
                if !done && aws::action(request) == at {
                    done = true;
                    while own.load(Ordering::SeqCst) == 0 {
                        std::thread::yield_now();
                    }
                    let _ = kill(Pid::from_raw(own.load(Ordering::SeqCst)), signal);
                }
                Fault::None
            });
            let running = start(&env, &image, "spawn", &[]);
            id.store(running.id(), Ordering::SeqCst);
            let outcome = running.finish();
            let what = format!("{signal} at {at}");
            // at the end of the run there may be nothing left to interrupt
            assert!(
                outcome.code == code || at == "GetConsoleOutput",
                "{what}: {} {}",
                outcome.code,
                outcome.stderr
            );
            nothing_left(&ec2, &before, &what);
            let outcome = env.mantle(&["kola", "cleanup", "out"]).expect(0);
            assert_eq!(outcome.stdout, "out: nothing is left over\n", "{what}");
        }
    }
}
