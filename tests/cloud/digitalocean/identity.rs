//! Where tokens are looked for, and what judges the double: DigitalOcean's own client, and its description.

use std::process::Command;

use serde_json::json;

use super::complaints;
use super::double::{DigitalOcean, TOKEN};
use crate::cloud::matrix::Double as _;
use crate::support::emulators::environment;
use crate::support::http::{Request, Response};
use crate::support::{Env, Outcome, repository};

fn list(env: &Env, words: &[&str]) -> Outcome {
    env.mantle(&[&["ore", "do"], words, &["list-keys"]].concat())
}

#[test]
fn tokens_are_where_tools_keep_them() {
    let cloud = DigitalOcean::of_records();
    let doctl = |token: &str| {
        format!(
            "access-token: {token}\nauth-contexts:\n  work: {TOKEN}\n  old: SECRET-old\ncontext: default\n"
        )
    };
    let mut env = Env::new();
    env.set("MANTLE_POLL_SCALE", "0.001").set("DIGITALOCEAN_API_URL", cloud.proxy.url()).set("NO_COLOR", "1");
    let says = |outcome: &Outcome, says: &str| {
        let said = outcome.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(says) && !said.contains("SECRET"), "{says}: {said}");
    };
    says(&list(&env, &[]).expect(1), "there is no token");
    says(&list(&env, &[]).expect(1), "doctl auth init");
    assert!(cloud.proxy.take_journal().is_empty());
    // doctl's file, if there is no other; its folder may be elsewhere.
    let file = env.write(".config/doctl/config.yaml", &doctl("SECRET-top"));
    says(&list(&env, &[]).expect(1), "token of context \"default\" in ");
    env.set("DIGITALOCEAN_CONTEXT", "work");
    list(&env, &[]).expect(0);
    env.set("DIGITALOCEAN_CONTEXT", "none");
    says(&list(&env, &[]).expect(1), "no token for the context \"none\" (contexts: default, old, work)");
    env.unset("DIGITALOCEAN_CONTEXT");
    std::fs::remove_file(file).unwrap();
    env.write("elsewhere/doctl/config.yaml", &doctl(TOKEN));
    env.set("XDG_CONFIG_HOME", env.home().join("elsewhere"));
    list(&env, &[]).expect(0);
    // The file of profiles comes first, unless a context is named.
    let api =
        json!({"default": {"token": "SECRET-default"}, "p": {"token": TOKEN, "api_url": cloud.proxy.url()}});
    let profiles = env.write(".config/digitalocean.json", &api.to_string());
    says(&list(&env, &[]).expect(1), "token of profile \"default\" in ");
    env.set("DIGITALOCEAN_CONTEXT", "default");
    list(&env, &[]).expect(0);
    // What is on the command line comes before both.
    env.unset("DIGITALOCEAN_API_URL");
    list(&env, &["--profile=p"]).expect(0);
    list(&env, &["--config-file", profiles.to_str().unwrap(), "--profile=p"]).expect(0);
    env.set("DIGITALOCEAN_API_URL", "http://127.0.0.1:1");
    list(&env, &["--profile=p", "--api-url", &cloud.proxy.url()]).expect(0);
    says(&list(&env, &["--profile=q"]).expect(1), "no such profile \"q\"");
    says(&list(&env, &["--config-file=none"]).expect(1), "couldn't read DigitalOcean config: open ");
    // The environment comes before files, and the option before all.
    env.set("DIGITALOCEAN_API_URL", cloud.proxy.url()).set("DIGITALOCEAN_TOKEN", TOKEN);
    list(&env, &["--profile=q"]).expect(0);
    env.set("DIGITALOCEAN_ACCESS_TOKEN", "SECRET-env");
    says(&list(&env, &[]).expect(1), "token of $DIGITALOCEAN_ACCESS_TOKEN");
    list(&env, &[&format!("--token={TOKEN}")]).expect(0);
}

#[test]
fn files_that_others_may_read_are_warned_of() {
    use std::os::unix::fs::PermissionsExt as _;
    let cloud = DigitalOcean::of_records();
    let env = cloud.env();
    assert!(!list(&env, &[]).expect(0).stderr.contains("others may read"));
    let file = env.home().join(".config/digitalocean.json");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(list(&env, &[]).expect(0).stderr.contains("others may read"));
}

#[test]
fn the_vendors_client_is_content_with_the_double() {
    let Some(folder) = environment("gcp-storage-emulator") else { return };
    let cloud = DigitalOcean::of_records();
    let out = Command::new(folder.join("bin/python"))
        .arg(repository().join("tests/cloud/digitalocean/client.py"))
        .args([&cloud.proxy.url(), TOKEN])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(cloud.proxy.take_journal().len() > 20);
}

#[test]
fn the_judge_finds_mistakes() {
    if environment("gcp-storage-emulator").is_none() {
        return;
    }
    let post = |path: &str, body: serde_json::Value| Request::new("POST", path).with_body(body.to_string());
    let answer = |status, body: &str| Some(Response::new(status, "application/json", body));
    let droplet = json!({"name": "x", "region": "sfo2", "size": "s", "image": 1});
    let with = |name: &str, value: serde_json::Value| {
        let mut droplet = droplet.clone();
        droplet[name] = value;
        post("/v2/droplets", droplet)
    };
    let wrong = [
        (Request::new("GET", "/v2/volumes"), None, "no operation"),
        (Request::new("PUT", "/v2/droplets/1"), None, "no operation"),
        (Request::new("GET", "/v2/droplets?per_page=201"), None, "maximum of 200"),
        (Request::new("GET", "/v2/droplets?tag=x"), None, "no parameter tag"),
        (Request::new("GET", "/v2/droplets/x"), None, "'x'"),
        (Request::new("DELETE", "/v2/droplets/1").with_body("{}"), None, "it has no body"),
        (with("name", json!("a_b")), None, "does not match"),
        (with("name", json!(null)), None, "None"),
        (with("tags", json!("mantle")), None, "'mantle' is not of type 'array'"),
        (with("ssh_keys", json!([{}])), None, "ssh_keys"),
        (with("key", json!(1)), None, "no field key"),
        (post("/v2/account/keys", json!({"name": "x"})), None, "'public_key' is a required property"),
        (post("/v2/images", json!({"name": "x", "url": "u", "region": "mars1"})), None, "mars1"),
        (post("/v2/droplets/1/actions", json!({"type": "freeze"})), None, "freeze"),
        (Request::new("DELETE", "/v2/droplets/1"), answer(200, "{}"), "no answer with status 200"),
        (
            Request::new("GET", "/v2/droplets/1"),
            answer(200, r#"{"droplet":{"id":1}}"#),
            "'name' is a required",
        ),
    ];
    let exchanges: Vec<_> = wrong.iter().map(|(r, a, _)| (r.clone(), a.clone())).collect();
    let text = complaints(&exchanges);
    for (number, (request, _, says)) in wrong.iter().enumerate() {
        let line = |l: &&str| l.starts_with(&format!("{number}\t")) && l.contains(says);
        assert!(text.lines().any(|l| line(&l)), "{number} {} {says}:\n{text}", request.target);
    }
    assert_eq!(complaints(&[(post("/v2/droplets", droplet), None)]), "");
}
