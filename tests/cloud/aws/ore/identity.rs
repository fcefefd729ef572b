//! Whom `ore aws` works for, and that it says so before it removes anything.

use std::path::PathBuf;

use chrono::{TimeDelta, Utc};
use serde_json::json;

use super::Cloud;
use crate::cloud::aws;
use crate::support::http::Response;
use crate::support::proxy::Fault;

/// Who signed the requests since the last time, and what was asked for.
fn signers(cloud: &Cloud) -> Vec<String> {
    let journal = cloud.proxy.take_journal();
    let signer = |authorization: &str| {
        let scope = authorization.split("Credential=").nth(1).unwrap_or_default();
        scope.split('/').next().unwrap_or_default().to_owned()
    };
    let mut lines: Vec<_> = journal
        .iter()
        .map(|e| {
            let who = signer(e.request.header("authorization").unwrap_or_default());
            format!("{} by {who} in {}", aws::action(&e.request), aws::region(&e.request))
        })
        .collect();
    lines.dedup();
    lines
}

#[test]
fn a_profile_on_the_command_line_wins_over_keys_in_the_environment() {
    let Some(mut cloud) = Cloud::start(&[]) else { return };
    let keys = "[prod]\naws_access_key_id = AKIDPROD\naws_secret_access_key = sp\n";
    let file = cloud.env.write(".aws/credentials", keys);
    cloud.env.write(".aws/config", "[profile prod]\nregion = eu-west-2\n");
    cloud.env.set("AWS_REGION", "");
    let outcome = cloud.ore(&["gc", "--profile=prod", "--duration=0s"]).expect(0);
    let place = format!(" with keys from profile \"prod\" in {}", file.display());
    assert!(outcome.stderr.contains("account 123456789012, eu-west-2, as arn:aws:"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains(&place), "{}", outcome.stderr);
    let lines = signers(&cloud);
    assert!(lines.contains(&"DescribeInstances by AKIDPROD in eu-west-2".into()), "{lines:?}");
    assert!(lines.iter().all(|l| l.contains(" by AKIDPROD ")), "{lines:?}");

    cloud.env.set("AWS_PROFILE", "prod");
    let outcome = cloud.ore(&["gc", "--duration=0s"]).expect(0);
    assert!(outcome.stderr.contains(" with keys from the environment"), "{}", outcome.stderr);
    let lines = signers(&cloud);
    assert!(lines.contains(&"DescribeInstances by AKIDTEST in eu-west-2".into()), "{lines:?}");
}

#[test]
fn a_role_with_the_keys_of_the_environment_is_taken_on() {
    let Some(cloud) = Cloud::start(&[]) else { return };
    let role = "arn:aws:iam::123456789012:role/cleaner";
    let profile = format!("[profile r]\nrole_arn = {role}\ncredential_source = Environment\n");
    cloud.env.write(".aws/config", &profile);
    let outcome = cloud.ore(&["gc", "--profile=r"]).expect(0);
    let place = format!(" with keys from role {role}, taken on with those of the environment");
    assert!(outcome.stderr.contains(&place), "{}", outcome.stderr);
    assert!(outcome.stderr.contains(":assumed-role/cleaner/"), "{}", outcome.stderr);
    let lines = signers(&cloud);
    assert!(lines[0].starts_with("AssumeRole by AKIDTEST "), "{lines:?}");
    assert!(lines[1..].iter().all(|l| !l.contains("AKIDTEST")), "{lines:?}");
}

#[test]
fn what_removes_things_says_first_for_whom() {
    let Some(cloud) = Cloud::start(&[]) else { return };
    let plan = cloud.ore(&["gc", "--dry-run"]).expect(0);
    assert!(!plan.stderr.contains("with keys from"), "{}", plan.stderr);
    let plan = cloud.env.write("plan.json", &plan.stdout);
    let ledger = cloud.env.write("run/resources.jsonl", "");
    let (plan, ledger) = (plan.display().to_string(), ledger.parent().unwrap().display().to_string());
    let orders: [&[&str]; 4] = [
        &["gc"],
        &["gc", "--apply", &plan],
        &["gc", "--ledger", &ledger],
        &["delete-image", "--ami=ami-12345678", "--allow-missing"],
    ];
    for order in orders {
        let outcome = cloud.ore(order).expect(0);
        let told = "account 123456789012, us-west-2, as arn:aws:";
        assert!(outcome.stderr.contains(told), "{order:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("with keys from the environment"), "{order:?}: {}", outcome.stderr);
    }
}

/// The file of a token that the AWS CLI keeps for a session, and what is in it.
fn signed_on(cloud: &Cloud, minutes: i64) -> (PathBuf, String) {
    let time = |minutes| (Utc::now() + TimeDelta::minutes(minutes)).format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let token = json!({"startUrl": "https://corp.example/start", "region": "eu-west-1",
        "accessToken": "SECRET-old", "expiresAt": time(minutes), "clientId": "client",
        "clientSecret": "SECRET-client", "registrationExpiresAt": time(10_000), "refreshToken": "SECRET-refresh"});
    let name: String = openssl::sha::sha1(b"corp").iter().map(|b| format!("{b:02x}")).collect();
    let file = cloud.env.write(&format!(".aws/sso/cache/{name}.json"), &token.to_string());
    cloud.env.write(
        ".aws/config",
        "[sso-session corp]\nsso_start_url = https://corp.example/start\nsso_region = eu-west-1\n\
         [profile p]\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = dev\nregion = us-west-2\n",
    );
    (file, token.to_string())
}

#[test]
fn a_profile_of_single_sign_on_is_used_with_the_token_of_the_aws_cli() {
    let Some(cloud) = Cloud::start(&[]) else { return };
    let (file, _) = signed_on(&cloud, -10);
    cloud.proxy.rule(|request| {
        let answer =
            |json: serde_json::Value| Fault::Answer(Response::new(200, "application/json", json.to_string()));
        match (&*request.method, request.path()) {
            ("POST", "/token") if request.text().contains("SECRET-refresh") => answer(
                json!({"accessToken": "SECRET-new", "expiresIn": 28800, "refreshToken": "SECRET-next"}),
            ),
            ("GET", "/federation/credentials")
                if request.header("x-amz-sso_bearer_token") == Some("SECRET-new") =>
            {
                let end = (Utc::now() + TimeDelta::hours(1)).timestamp_millis();
                answer(json!({"roleCredentials": {"accessKeyId": "AKIDSSO", "secretAccessKey": "SECRET-key",
                    "sessionToken": "SECRET-session", "expiration": end}}))
            }
            _ => Fault::None,
        }
    });
    let outcome = cloud.ore(&["gc", "--profile=p", "--duration=0s", "-vv"]).expect(0);
    let place = " with keys from role dev of account 123456789012 by the single sign-on of profile \"p\"";
    assert!(outcome.stderr.contains(place), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("SECRET"), "{}", outcome.stderr);
    let lines = signers(&cloud);
    assert_eq!(lines[0], "POST /token by  in ", "{lines:?}");
    assert_eq!(lines[1], "GET /federation/credentials?role_name&account_id by  in ", "{lines:?}");
    assert!(lines[2..].iter().all(|l| l.contains(" by AKIDSSO in ")), "{lines:?}");
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(kept.contains("SECRET-new") && kept.contains("SECRET-next"), "{kept}");

    // The new token is good: the next run asks only for keys.
    cloud.ore(&["gc", "--profile=p", "--duration=0s"]).expect(0);
    assert!(signers(&cloud)[0].starts_with("GET /federation/credentials"));
}

#[test]
fn a_sign_on_that_is_over_says_how_to_log_in() {
    let Some(cloud) = Cloud::start(&[]) else { return };
    let (file, token) = signed_on(&cloud, -10);
    cloud.proxy.rule(|request| {
        // With what it was told.
        let told = request.text().replace('"', "'");
        let refusal = json!({"error": "invalid_grant", "error_description": told});
        Fault::Answer(Response::new(400, "application/json", refusal.to_string()))
    });
    let outcome = cloud.ore(&["gc", "--profile=p", "--duration=0s", "-vv"]).expect(1);
    assert!(outcome.stderr.contains("run aws sso login --sso-session corp"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("invalid_grant"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("SECRET"), "{}", outcome.stderr);
    assert_eq!(signers(&cloud), ["POST /token by  in "]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), token);
    std::fs::remove_file(&file).unwrap();
    let outcome = cloud.ore(&["gc", "--profile=p", "--duration=0s"]).expect(1);
    assert!(outcome.stderr.contains("nobody has logged in; run aws sso login"), "{}", outcome.stderr);
}
