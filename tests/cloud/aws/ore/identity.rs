//! Whom `ore aws` works for, and that it says so before it removes anything.

use super::Cloud;
use crate::cloud::aws;

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
