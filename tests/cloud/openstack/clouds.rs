//! Who one is, as clouds.yaml and the variables say it: openstacksdk must ask Keystone for the same.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};

use super::double::{OpenStack, PASSWORD};
use super::{action, told};
use crate::cloud::matrix::Double as _;
use crate::support::emulators::environment;
use crate::support::machines::Pretended;
use crate::support::{Env, repository};

/// What is in a home folder: `clouds.yaml`, `secure.yaml`, `clouds-public.yaml`, variables, and the chosen cloud.
#[derive(Default)]
struct Case {
    clouds: &'static str,
    secure: &'static str,
    public: &'static str,
    variables: &'static [(&'static str, &'static str)],
    cloud: Option<&'static str>,
}

/// `URL` and `PASSWORD` stand for the double's.
fn cases() -> Vec<Case> {
    vec![
        // All by name, a region of its own.
        Case {
            clouds: "clouds: {one: {region_name: RegionOne, auth: {auth_url: URL, username: robot, password: PASSWORD, \
                     project_name: demo, user_domain_name: Default, project_domain_name: Default}}}",
            ..Case::default()
        },
        // By id; the password is in secure.yaml; one of two clouds by a variable.
        Case {
            clouds: "clouds:\n  one: {auth: {auth_url: 'http://127.0.0.1:1', username: x, password: x}}\n  two:\n    \
                     auth: {auth_url: URL, user_id: fedcba9876543210fedcba9876543210, project_id: 0123456789abcdef0123456789abcdef}\n    \
                     interface: internal\n",
            secure: "clouds: {two: {auth: {password: PASSWORD}}}",
            variables: &[("OS_CLOUD", "two"), ("OS_REGION_NAME", "RegionOne")],
            ..Case::default()
        },
        // The same cloud by its name; the domain of both at once; old words for project and interface.
        Case {
            clouds: "clouds:\n  two:\n    auth: {auth_url: URL, username: robot, password: PASSWORD, tenant_name: demo, domain_id: default}\n    \
                     endpoint_type: publicURL\n    region_name: RegionOne\n  three: {}\n",
            cloud: Some("two"),
            ..Case::default()
        },
        // What stands beside `auth` wins.
        Case {
            clouds: "clouds:\n  a:\n    project_name: demo\n    auth: {auth_url: URL, username: robot, password: PASSWORD, \
                     project_name: other, user_domain_id: default, project_domain_id: default}\n    regions: [RegionOne, Two]\n",
            ..Case::default()
        },
        // A profile of clouds-public.yaml, with more of the cloud's own.
        Case {
            clouds: "clouds: {a: {profile: shop, auth: {username: robot, password: PASSWORD, project_name: demo}}}",
            public: "public-clouds: {shop: {region_name: RegionOne, auth: {auth_url: URL, user_domain_id: default, project_domain_id: default}}}",
            ..Case::default()
        },
        // Application credentials by id, and by name.
        Case {
            clouds: "clouds: {a: {auth_type: v3applicationcredential, region_name: RegionOne, \
                     auth: {auth_url: URL, application_credential_id: abc, application_credential_secret: PASSWORD}}}",
            ..Case::default()
        },
        Case {
            clouds: "clouds: {a: {auth_type: v3applicationcredential, region_name: RegionOne, auth: {auth_url: URL, \
                     application_credential_name: robot-key, application_credential_secret: PASSWORD, username: robot, \
                     user_domain_id: default}}}",
            ..Case::default()
        },
        // For a domain, and for the whole system.
        Case {
            clouds: "clouds: {a: {region_name: RegionOne, auth: {auth_url: URL, username: robot, password: PASSWORD, \
                     user_domain_id: default, domain_id: default}}}",
            ..Case::default()
        },
        Case {
            clouds: "clouds: {a: {region_name: RegionOne, auth: {auth_url: URL, username: robot, password: PASSWORD, \
                     user_domain_id: default, system_scope: all}}}",
            ..Case::default()
        },
        // A token.
        Case {
            clouds: "clouds: {a: {auth_type: v3token, region_name: RegionOne, auth: {auth_url: URL, token: PASSWORD, project_id: abc}}}",
            ..Case::default()
        },
        // The variables alone; they win over a file in which nothing is chosen.
        Case {
            clouds: "clouds: {one: {auth: {auth_url: 'http://127.0.0.1:1', username: x, password: x}}, two: {}}",
            variables: &[
                ("OS_AUTH_URL", "URL"),
                ("OS_USERNAME", "robot"),
                ("OS_PASSWORD", "PASSWORD"),
                ("OS_PROJECT_NAME", "demo"),
                ("OS_USER_DOMAIN_NAME", "Default"),
                ("OS_PROJECT_DOMAIN_ID", "default"),
                ("OS_REGION_NAME", "RegionOne"),
                ("OS_INTERFACE", "admin"),
            ],
            ..Case::default()
        },
        Case {
            variables: &[
                ("OS_AUTH_URL", "URL"),
                ("OS_AUTH_TYPE", "v3applicationcredential"),
                ("OS_APPLICATION_CREDENTIAL_ID", "abc"),
                ("OS_APPLICATION_CREDENTIAL_SECRET", "PASSWORD"),
                ("OS_REGION_NAME", "RegionOne"),
            ],
            ..Case::default()
        },
        // What neither takes.
        Case { clouds: "clouds: {one: {}, two: {}}", cloud: Some("three"), ..Case::default() },
        Case { clouds: "clouds: {a: {auth: {auth_url: URL, username: robot}}}", ..Case::default() },
    ]
}

fn filled(text: &str, cloud: &OpenStack) -> String {
    text.replace("URL", &cloud.auth_url()).replace("PASSWORD", PASSWORD)
}

/// A home folder with a case in it.
fn env(case: &Case, cloud: &OpenStack) -> Env {
    let mut env = Env::new();
    env.set("MANTLE_POLL_SCALE", "0.001");
    for (name, text) in [("clouds", case.clouds), ("secure", case.secure), ("clouds-public", case.public)] {
        if !text.is_empty() {
            // `publicURL` is no place for an address.
            let text = text.replace("publicURL", "public\u{0}");
            env.write(
                &format!(".config/openstack/{name}.yaml"),
                &filled(&text, cloud).replace('\u{0}', "URL"),
            );
        }
    }
    for (name, value) in case.variables {
        env.set(name, filled(value, cloud));
    }
    env
}

/// What Keystone was asked for; the credentials' order does not matter.
fn bodies(cloud: &OpenStack) -> Vec<Value> {
    let journal = cloud.proxy.take_journal();
    let all = journal.iter().filter(|e| action(&e.request) == "tokens.create");
    all.map(|e| serde_json::from_slice(&e.request.body).unwrap()).collect()
}

#[test]
fn what_clouds_yaml_means_is_what_openstacksdk_takes_it_for() {
    let Some(venv) = environment("openstack-inventory") else { return };
    let cloud = OpenStack::of_records();
    let (mut input, mut ours, mut envs) = (String::new(), Vec::new(), Vec::new());
    for case in cases() {
        let env = env(&case, &cloud);
        let mut words = vec!["ore".to_owned(), "openstack".to_owned()];
        words.extend(case.cloud.map(|name| format!("--profile={name}")));
        words.extend(["gc", "--dry-run"].map(str::to_owned));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let outcome = env.mantle(&words);
        let journal = bodies(&cloud);
        assert!(journal.len() <= 1, "{journal:?}");
        assert_eq!(journal.is_empty(), outcome.code != 0, "{}: {}", case.clouds, outcome.stderr);
        assert!(!told(&outcome).contains("SECRET"), "{}", outcome.stderr);
        let region = serde_json::from_str::<Value>(&outcome.stdout).unwrap_or_default()["region"].clone();
        ours.push((journal.into_iter().next(), region));
        let variables: serde_json::Map<String, Value> =
            case.variables.iter().map(|(n, v)| ((*n).to_owned(), filled(v, &cloud).into())).collect();
        let folder = env.home().join(".config/openstack");
        input += &format!("{}\n", json!({"folder": folder, "variables": variables, "cloud": case.cloud}));
        envs.push(env);
    }
    let mut sdk = Command::new(venv.join("bin/python"))
        .arg(repository().join("tests/support/client_openstack.py"))
        .arg("login")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("HOME", envs[0].home())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    sdk.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = sdk.wait_with_output().unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    let theirs: Vec<Value> = said.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(theirs.len(), ours.len(), "{said}");
    let mut asked = bodies(&cloud).into_iter();
    for ((case, (body, region)), said) in cases().iter().zip(ours).zip(theirs) {
        match body {
            Some(body) => {
                assert!(said.is_array(), "{}: {said}", case.clouds);
                assert_eq!(Some(body), asked.next(), "{}", case.clouds);
                // The SDK takes $OS_REGION_NAME for the cloud of the variables only, its command line for all.
                assert!(said[0] == region || said[0] == "", "{}: {said}", case.clouds);
            }
            None => assert!(said.is_string(), "{}: {said}", case.clouds),
        }
    }
    assert!(asked.next().is_none());
}

#[test]
fn what_clouds_yaml_cannot_mean_is_said() {
    let cloud = OpenStack::of_records();
    let auth = "auth: {auth_url: URL, username: robot, password: PASSWORD, project_name: demo, user_domain_id: default}";
    for (text, word) in [
        (format!("clouds: {{a: {{verify: false, {auth}}}}}"), "cacert"),
        (format!("clouds: {{a: {{cert: /x, {auth}}}}}"), "client certificates"),
        (format!("clouds: {{a: {{auth_type: v3kerberos, {auth}}}}}"), "v3kerberos"),
        (format!("clouds: {{a: {{cacert: /nowhere.pem, {auth}}}}}"), "cannot read /nowhere.pem"),
        (format!("clouds: {{a: {{{auth}}}, b: {{{auth}}}}}"), "several clouds (a, b)"),
        (format!("clouds: [{auth}"), "it is no YAML at line"),
        ("clouds: 7".to_owned(), "clouds is no mapping"),
        ("- PASSWORD".to_owned(), "no mapping of clouds"),
    ] {
        let mut env = Env::new();
        env.set("MANTLE_POLL_SCALE", "0.001");
        env.write(".config/openstack/clouds.yaml", &filled(&text, &cloud));
        let outcome = env.mantle(&["ore", "openstack", "gc"]).expect(1);
        let said = told(&outcome);
        assert!(said.contains(word) && !said.contains("SECRET"), "{word}: {said}");
    }
    // Nothing at all: the file of the seeds is named.
    let outcome = Env::new().mantle(&["ore", "openstack", "gc"]).expect(1);
    assert!(told(&outcome).contains("openstack.json"), "{}", outcome.stderr);
    assert!(cloud.proxy.take_journal().is_empty());
}

#[test]
fn the_double_is_a_cloud_for_openstacksdk() {
    let Some(venv) = environment("openstack-inventory") else { return };
    let Some(machines) = Pretended::new() else { return };
    let cloud = OpenStack::start(Arc::new(machines));
    let image = cloud.image();
    let out = Command::new(venv.join("bin/python"))
        .arg(repository().join("tests/support/client_openstack.py"))
        .args(["tour", &cloud.auth_url(), PASSWORD, &image])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    let expected = "image active\nexternal True False\npairs ['tour']\nserver ACTIVE {'a': 'b'}\nfloating [True]\n\
                    console True\nmade active 5000\nservers 0\n";
    assert_eq!(said, expected, "{}", String::from_utf8_lossy(&out.stderr));
}
