//! Tests that share a machine: put together so that none meets one it conflicts with.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use color_eyre::eyre::{Result, bail};
use mantle::conf;
use mantle::platform::distribution::Distribution;

use super::External;
use super::unit::Unit;
use crate::kola::cluster::TestCluster;
use crate::kola::register::{Config, Flag, Test};

/// First part of the names of what shares a machine.
const NAME: &str = "non-exclusive-test-bucket";
/// Time for the machine itself, and for what is sent to it.
const MACHINE: Duration = Duration::from_secs(600);

/// Puts those tests that may share a machine together, one test for each machine: in order of their names, each on the
/// first machine without a conflict. A test that would be alone is run as it is.
pub fn share(tests: Vec<Arc<Test>>, distribution: &'static Distribution) -> Vec<Arc<Test>> {
    let (mut sharing, mut others): (Vec<_>, Vec<_>) = tests
        .into_iter()
        .partition(|test| member(test).is_some_and(External::shares) && plain(test, distribution));
    sharing.sort_by(|a, b| mantle::natural::compare(&a.name, &b.name));
    let mut buckets: Vec<Vec<Arc<Test>>> = Vec::new();
    for test in sharing {
        let fits = |bucket: &&mut Vec<Arc<Test>>| {
            let conflict = |other: &Arc<Test>| {
                let (Some(a), Some(b)) = (member(&test), member(other)) else { return true };
                // What is tolerated, and what checks are made, holds for a machine.
                a.conflicts_with(b)
                    || test.skips_base_checks() != other.skips_base_checks()
                    || test.tolerated() != other.tolerated()
            };
            !bucket.iter().any(conflict)
        };
        match buckets.iter_mut().find(fits) {
            Some(bucket) => bucket.push(test),
            None => buckets.push(vec![test]),
        }
    }
    let mut number = 0;
    for bucket in buckets {
        match &bucket[..] {
            [alone] => others.push(alone.clone()),
            _ => {
                others.push(Arc::new(together(number, bucket, distribution)));
                number += 1;
            }
        }
    }
    others
}

fn member(test: &Test) -> Option<&External> {
    test.external.as_deref()
}

/// Whether its config can be part of another.
fn plain(test: &Test, distribution: &Distribution) -> bool {
    match test.config(distribution).as_deref() {
        None => true,
        Some(Config::Ignition(text)) => conf::can_be_merged(text, distribution.ignition),
        Some(_) => false,
    }
}

/// The test that runs all of these on one machine.
fn together(number: usize, members: Vec<Arc<Test>>, distribution: &'static Distribution) -> Test {
    let configs: Vec<String> = members
        .iter()
        .filter_map(|test| match test.config(distribution).as_deref() {
            Some(Config::Ignition(text)) => Some(text.to_string()),
            _ => None,
        })
        .collect();
    let limits: Duration = members.iter().filter_map(|m| member(m)).map(External::timeout).sum();
    let (internet, base_checks) =
        (members.iter().any(|m| m.has(Flag::RequiresInternetAccess)), !members[0].skips_base_checks());
    let (created, tolerated) = (members[0].created, members[0].warn.clone());
    let names: Vec<&str> = members.iter().map(|m| m.name.as_ref()).collect();
    let description = format!("Shares one machine: {}", names.join(" "));
    let all = Arc::new(members);
    let passed = Passed::default();
    let mut test = Test::new(format!("{NAME}-{number}"), move |c| {
        let (all, passed) = (all.clone(), passed.clone());
        async move { run(c, &all, &passed).await }
    })
    .description(description)
    .timeout(limits + MACHINE);
    test.architectures.clear();
    if !configs.is_empty() {
        test.user_data = Some(Config::Ignition(conf::merged(&configs, distribution.ignition).into()));
    }
    if internet {
        test.flags.push(Flag::RequiresInternetAccess);
    }
    if !base_checks {
        test.tags.push(crate::kola::register::SKIP_BASE_CHECKS.into());
    }
    (test.created, test.warn) = (created, tolerated);
    test
}

/// The tests that have passed: when the others are run again, they need not be.
type Passed = Arc<Mutex<BTreeSet<String>>>;

/// All data first, then one test after the other; one that fails does not stop the rest.
async fn run(c: TestCluster, members: &[Arc<Test>], passed: &Passed) -> Result<()> {
    let machine = c.machine(0)?;
    let done = passed.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let left: Vec<(usize, Arc<Test>)> =
        members.iter().cloned().enumerate().filter(|(_, test)| !done.contains(test.name.as_ref())).collect();
    for (n, test) in &left {
        if let Some(external) = member(test) {
            Unit::sharing(external, n + 1).upload_data(&machine).await?;
        }
    }
    for (n, test) in left {
        let (name, machine) = (test.name.to_string(), machine.clone());
        let good = c
            .run(&name, async move |c: TestCluster| {
                let Some(external) = member(&test) else { return Ok(()) };
                let unit = Unit::sharing(external, n + 1);
                let limit = external.timeout().mul_f64(c.slowness());
                match tokio::time::timeout(limit, unit.run(&c, &machine)).await {
                    Ok(result) => result,
                    Err(_) => {
                        unit.stop(&machine).await;
                        bail!("timed out after {} s, while {} ran", limit.as_secs_f64(), external.base)
                    }
                }
            })
            .await;
        if good {
            passed.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kola::external::metadata::Metadata;

    fn test(name: &str, metadata: &str) -> Arc<Test> {
        let external = External {
            name: name.to_owned(),
            file: name.into(),
            base: name.to_owned(),
            data: None,
            config: None,
            metadata: Metadata::of_folder(metadata.as_bytes()).unwrap(),
        };
        Arc::new(external.registered())
    }

    #[test]
    fn tests_that_conflict_get_machines_apart() {
        let all = vec![
            test("a", r#"{"exclusive": false}"#),
            test("b", r#"{"exclusive": false, "conflicts": "a"}"#),
            test("c", r#"{"exclusive": false}"#),
            test("d", r#"{"exclusive": false, "conflicts": "c"}"#),
            test("e", "{}"),
            test("f", r#"{"exclusive": false, "tags": "skip-base-checks"}"#),
        ];
        let debian = Distribution::named("debian").unwrap();
        let shared = share(all, debian);
        let described = |t: &Arc<Test>| (t.name.to_string(), t.description.to_string());
        let mut all: Vec<_> = shared.iter().map(described).collect();
        all.sort();
        // Nobody is like f, which is alone, as e wants to be.
        let machine = |n: usize, names: &str| (format!("{NAME}-{n}"), format!("Shares one machine: {names}"));
        assert_eq!(
            all,
            [("e".into(), String::new()), ("f".into(), String::new()), machine(0, "a c"), machine(1, "b d")]
        );
        let limit = shared.iter().find(|t| t.name == "non-exclusive-test-bucket-0").unwrap().timeout;
        assert_eq!(limit, Duration::from_secs(720));
    }
}
