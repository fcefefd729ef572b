//! `kola -p aws`, the whole way, against the local EC2.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::double::{Ec2, element};
use crate::cloud::aws;
use crate::cloud::matrix::{self, Double as _, When, kola, matrices, nothing_left};
use crate::support::http::{self, Reply, Request, Response};
use crate::support::machines::{Local, Pretended};
use crate::support::moto::REGION;
use crate::support::proxy::Fault;
use crate::support::{Env, Outcome};

/// Machines that only seem to be; `None` where even those cannot be.
fn pretended() -> Option<Ec2> {
    Ec2::start(Arc::new(Pretended::new()?))
}

/// Real guests: in containers, or as `MANTLE_TEST_MACHINES=qemu-unpriv` says, in virtual machines.
fn real() -> Option<Ec2> {
    let platform = std::env::var("MANTLE_TEST_MACHINES").unwrap_or_else(|_| "nspawn".into());
    Ec2::start(Arc::new(Local::new(&platform)?))
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
    let (env, image) = (ec2.env(), ec2.image());
    let before = ec2.census();
    ec2.mute_consoles(1);
    // Tests that need no feature: there is no feature file to tell which this image has.
    let tests = ["cl.users.shells", "coreos.auth.verify", "systemd.sysusers.gshadow"];
    let outcome = kola(&ec2, &env, &image, "run", &tests).expect(0);
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
    let (env, image) = (ec2.env(), ec2.image());
    let before = ec2.census();
    let outcome = kola(&ec2, &env, &image, "spawn", &["-v"]).expect(0);
    assert!(outcome.stdout.contains(" spawned at 127.0.0.1:"), "{}", outcome.stdout);
    nothing_left(&ec2, &before, "a shell");
}

#[test]
fn a_machine_that_stays() {
    let Some(ec2) = pretended() else { return };
    let (env, image) = (ec2.env(), ec2.image());
    let before = ec2.census();
    kola(&ec2, &env, &image, "spawn", &["--remove=false", "--shell=false"]).expect(0);
    assert_eq!(ec2.running().len(), 1);
    let outcome = env.mantle(&["kola", "cleanup", "out"]).expect(0);
    assert!(outcome.stdout.contains("removed instance"), "{}", outcome.stdout);
    nothing_left(&ec2, &before, "clean-up");
}

#[test]
fn requests_are_right() {
    let Some(ec2) = pretended() else { return };
    let (env, image) = (ec2.env(), ec2.image());
    // the first run makes the network, the second finds it
    for _ in 0..2 {
        kola(&ec2, &env, &image, "spawn", &[]).expect(0);
    }
    let journal = ec2.proxy.take_journal();
    let count = |name: &str| journal.iter().filter(|e| aws::action(&e.request) == name).count();
    assert_eq!((count("CreateVpc"), count("CreateRole"), count("RunInstances")), (1, 1, 2));
    aws::judged(&journal);
}

matrices!(
    pretended,
    end: "TerminateInstances",
    interrupts: ["ImportKeyPair", "CreateRouteTable", "RunInstances", "DescribeInstances"],
    last: "GetConsoleOutput"
);

#[test]
fn orders_that_are_refused() {
    let Some(ec2) = pretended() else { return };
    let image = ec2.image();
    let before = ec2.census();
    let full = (500, "InsufficientInstanceCapacity", "We currently do not have sufficient m4.large capacity");
    aws::fail(&ec2.proxy, aws::is(&["RunInstances"]), 0, 1, full);
    kola(&ec2, &ec2.env(), &image, "spawn", &[]).expect(0);
    nothing_left(&ec2, &before, "a zone without room");
    ec2.proxy.calm();
    let limit = (400, "VcpuLimitExceeded", "You have requested more vCPU capacity than your current limit");
    aws::fail(&ec2.proxy, aws::is(&["RunInstances"]), 0, usize::MAX - 1, limit);
    let outcome = kola(&ec2, &ec2.env(), &image, "spawn", &[]).expect(1);
    assert!(outcome.stderr.contains("VcpuLimitExceeded"), "{}", outcome.stderr);
    nothing_left(&ec2, &before, "an account at its limit");
}

#[test]
fn a_cloud_that_is_slow_to_know() {
    let Some(ec2) = pretended() else { return };
    let image = ec2.image();
    let (env, before) = (ec2.env(), ec2.census());
    aws::slow(&ec2.proxy, 2);
    kola(&ec2, &env, &image, "spawn", &[]).expect(0);
    nothing_left(&ec2, &before, "slow consistency");
}

/// Ten thousand instances and keys that look like kola's, and kola killed with an instance running.
#[test]
fn look_alikes_are_spared() {
    let Some(ec2) = pretended() else { return };
    let image = ec2.image();
    let like = element(
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
    kola(&ec2, &ec2.env(), &image, "spawn", &[]).expect(0);
    let before = ec2.census();
    for action in ["ImportKeyPair", "RunInstances", "GetConsoleOutput"] {
        let env = ec2.env();
        assert!(matrix::killed(&ec2, &env, &image, When::After, aws::is(&[action])).is_some(), "no {action}");
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
            let mut env = ec2.env();
            plant(&mut env);
            let outcome = kola(&ec2, &env, &image, "spawn", &["--debug"]);
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
