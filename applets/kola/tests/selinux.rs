//! SELinux: its mode, its booleans and its contexts, before and after a reboot.

use color_eyre::eyre::{Result, WrapErr as _, ensure, eyre};
use mantle::platform::guest::Guest;
use regex::Regex;

use super::helpers::{is_debian, must_equal, reboot};
use crate::kola::cluster::TestCluster;
use crate::kola::register::{Flag, Test};

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("coreos.selinux.enforce", enforce)
            .description("SELinux can be switched, and enforces after a reboot if its config says so")
            .distros(["cl", "rhcos", "fcos", "debian"])
            // kola itself would enforce after the reboot, whatever the config says.
            .flags([Flag::NoEnableSelinux])
            .features(["kernel", "selinux"]),
        Test::new("coreos.selinux.boolean", |c| boolean(c, false))
            .description("A boolean that was set is forgotten by a reboot")
            .distros(["cl", "rhcos", "fcos", "debian"])
            .features(["kernel", "selinux"]),
        Test::new("rhcos.selinux.boolean.persist", |c| boolean(c, true))
            .description("A boolean that was set for good survives a reboot")
            .distros(["rhcos", "fcos", "debian"])
            .features(["kernel", "selinux"]),
        Test::new("rhcos.selinux.manage", manage)
            .description("A file context that was changed survives a reboot")
            .distros(["rhcos", "fcos", "debian"])
            .features(["kernel", "selinux"]),
    ]
}

/// A command and what its output must match.
type Step = (String, Option<&'static str>);

fn step(command: impl Into<String>, output: Option<&'static str>) -> Step {
    (command.into(), output)
}

/// Runs the commands one after the other, then reboots.
async fn run_and_reboot(c: &TestCluster, m: &Guest, steps: &[Step]) -> Result<()> {
    for (command, pattern) in steps {
        let output = c.must_ssh(m, command).await?;
        if let Some(pattern) = pattern {
            let matched = Regex::new(pattern).wrap_err("a pattern of this test")?.is_match(&output);
            ensure!(matched, "{command:?} did not match {pattern:?}: {output}");
        }
    }
    reboot(c, m).await
}

const ENFORCING: &str = "^Enforcing$";

async fn enforce(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    // What kola does to every other test.
    c.must_ssh(&m, "sudo setenforce 1").await?;
    let steps = [
        step("getenforce", Some(ENFORCING)),
        step("sudo setenforce 0", None),
        step("getenforce", Some("^Permissive$")),
        step("sudo setenforce 1", None),
        step("getenforce", Some(ENFORCING)),
        step("systemctl --no-pager is-active system.slice", Some("^active$")),
        step("sudo cp /etc/selinux/config{,.old}", None),
        step("sudo sed -i 's/SELINUX=permissive/SELINUX=enforcing/' /etc/selinux/config", None),
        step("cat /etc/selinux/config", Some("(?m)^SELINUX=enforcing$")),
    ];
    run_and_reboot(&c, &m, &steps).await?;
    must_equal(&c, &m, "getenforce", "Enforcing").await?;
    c.assert_output_contains(&m, "cat /etc/selinux/config", "SELINUX=enforcing").await
}

const BOOLEAN: &str = "virt_use_nfs";

/// The value of the boolean: `name --> on`.
fn value(output: &str) -> Result<bool> {
    match output.split_whitespace().collect::<Vec<_>>()[..] {
        [BOOLEAN, "-->", "on"] => Ok(true),
        [BOOLEAN, "-->", "off"] => Ok(false),
        _ => Err(eyre!("getsebool said {output:?}")),
    }
}

fn word(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

async fn boolean(c: TestCluster, persistent: bool) -> Result<()> {
    let m = c.machine(0)?;
    let get = format!("getsebool {BOOLEAN}");
    let before = value(&c.must_ssh(&m, &get).await?)?;
    let option = if persistent { "-P " } else { "" };
    let steps = [
        step(format!("sudo setsebool {option}{BOOLEAN} {}", word(!before)), None),
        step(get.clone(), Some(if before { "--> off$" } else { "--> on$" })),
    ];
    run_and_reboot(&c, &m, &steps).await?;
    let (after, wanted) = (value(&c.must_ssh(&m, &get).await?)?, before != persistent);
    ensure!(after == wanted, "{BOOLEAN} is {} after the reboot, expected {}", word(after), word(wanted));
    Ok(())
}

async fn manage(c: TestCluster) -> Result<()> {
    const PLACE: &str = "/var/opt/quest/vas/vasd(/.*)?";
    const LIST: &str = "sudo semanage fcontext -l | grep vasd";
    let m = c.machine(0)?;
    if is_debian(&c) {
        // Its policy does not know the place.
        c.must_ssh(&m, &format!("sudo semanage fcontext -a -t var_auth_t \"{PLACE}\"")).await?;
    }
    let steps = [
        step(LIST, Some(".*system_u:object_r:var_auth_t:s0")),
        step(format!("sudo semanage fcontext -m -t httpd_log_t \"{PLACE}\""), None),
        step(LIST, Some(".*system_u:object_r:httpd_log_t:s0")),
    ];
    run_and_reboot(&c, &m, &steps).await?;
    c.assert_output_contains(&m, LIST, "httpd_log_t").await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_read() {
        assert!(value("virt_use_nfs --> on").unwrap());
        assert!(!value("virt_use_nfs --> off\n").unwrap());
        for odd in ["", "virt_use_nfs --> maybe", "virt_use_samba --> on", "virt_use_nfs --> on pending"] {
            assert!(value(odd).is_err(), "{odd}");
        }
    }
}
