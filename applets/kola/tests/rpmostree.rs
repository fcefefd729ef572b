//! rpm-ostree: its deployments, upgrades and rollbacks, layered packages.

use color_eyre::eyre::{Result, WrapErr as _, ensure, eyre};
use mantle::platform::guest::Guest;
use regex::Regex;
use serde::Deserialize;

use super::helpers::{must_equal, reboot};
use crate::kola::cluster::TestCluster;
use crate::kola::register::{Flag, Test};

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("rpmostree.status", status)
            .description("rpm-ostree starts on demand and tells of the one deployment")
            .distros(["rhcos", "fcos"])
            .features(["rpm-ostree"]),
        Test::new("rpmostree.upgrade-rollback", upgrade_rollback)
            .description("A commit made on the machine is booted, and left again")
            .distros(["rhcos", "fcos"])
            .features(["kernel", "rpm-ostree"])
            .fail_fast(),
        Test::new("rpmostree.install-uninstall", install_uninstall)
            .description("A package is layered on the system and taken away again")
            .ignition(EPEL)
            .distros(["rhcos"])
            .flags([Flag::RequiresInternetAccess])
            .features(["kernel", "rpm-ostree"]),
    ]
}

/// A deployment, as far as tests look at it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "kebab-case")]
pub struct Deployment {
    /// Whether it is running.
    pub booted: bool,
    /// Its commit.
    pub checksum: String,
    /// Where it comes from.
    pub origin: String,
    /// The system that it is a deployment of.
    pub osname: String,
    /// What is layered on it.
    pub packages: Vec<String>,
    /// What somebody asked to be layered on it.
    pub requested_packages: Vec<String>,
    /// When the commit was made, in seconds since 1970.
    pub timestamp: i64,
    /// `none`, `development` or `hotfix`.
    pub unlocked: String,
    /// Its version.
    pub version: String,
}

#[derive(Deserialize)]
struct Status {
    deployments: Vec<Deployment>,
}

/// All deployments, the next one to boot first; at least one.
pub async fn deployments(c: &TestCluster, m: &Guest) -> Result<Vec<Deployment>> {
    parse(&c.must_ssh(m, "rpm-ostree status --json").await?)
}

fn parse(text: &str) -> Result<Vec<Deployment>> {
    let status: Status = serde_json::from_str(text).wrap_err("cannot read the status of rpm-ostree")?;
    ensure!(!status.deployments.is_empty(), "there is no deployment:\n{text}");
    Ok(status.deployments)
}

/// Exactly so many.
async fn count(c: &TestCluster, m: &Guest, wanted: usize) -> Result<Vec<Deployment>> {
    let all = deployments(c, m).await?;
    ensure!(all.len() == wanted, "{} deployments instead of {wanted}", all.len());
    Ok(all)
}

async fn status(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    must_equal(&c, &m, "systemctl is-enabled rpm-ostreed", "static").await?;
    let all = count(&c, &m, 1).await?;
    must_equal(&c, &m, "systemctl is-active rpm-ostreed", "active").await?;
    ensure!(all[0].booted, "the only deployment is not booted");
    let text = c.must_ssh(&m, "rpm-ostree status").await?;
    let version = version_of(&text).ok_or_else(|| eyre!("the last line tells no version:\n{text}"))?;
    ensure!(version == all[0].version, "the last line tells version {version}, not {}", all[0].version);
    Ok(())
}

/// The version in the last line of the status.
fn version_of(text: &str) -> Option<&str> {
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    let rest = line.strip_prefix("Version: ")?;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    Some(&rest[..end]).filter(|version| !version.is_empty())
}

/// Leaves only what is running.
async fn clean_up(c: &TestCluster, m: &Guest) -> Result<()> {
    c.must_ssh(m, "sudo rpm-ostree cleanup -rpmb").await?;
    count(c, m, 1).await.map(drop)
}

async fn upgrade_rollback(c: TestCluster) -> Result<()> {
    let original = deployments(&c, &*c.machine(0)?).await?.swap_remove(0);
    let before = original.clone();
    c.run("upgrade", async move |c: TestCluster| upgrade(&c, &before).await).await;
    c.run("rollback", async move |c: TestCluster| roll_back(&c, &original).await).await;
    Ok(())
}

async fn upgrade(c: &TestCluster, before: &Deployment) -> Result<()> {
    const BRANCH: &str = "local-branch";
    const VERSION: &str = "kola-test-1.0";
    let m = c.machine(0)?;
    let checksum = &before.checksum;
    c.must_ssh(&m, &format!("sudo ostree refs --create {BRANCH} {checksum}")).await?;
    let commit = format!(
        "sudo ostree commit -b {BRANCH} --tree ref={checksum} --add-metadata-string version={VERSION}"
    );
    let commit = c.must_ssh(&m, &commit).await?;
    c.must_ssh(&m, &format!("sudo rpm-ostree rebase :{BRANCH}")).await?;
    count(c, &m, 2).await?;
    reboot(c, &m).await?;
    let now = count(c, &m, 2).await?.swap_remove(0);
    let found = (now.booted, now.origin.as_str(), now.checksum.as_str(), now.version.as_str());
    let wanted = (true, BRANCH, commit.as_str(), VERSION);
    ensure!(found == wanted, "(booted, origin, checksum, version) is {found:?}, expected {wanted:?}");
    Ok(())
}

async fn roll_back(c: &TestCluster, original: &Deployment) -> Result<()> {
    let m = c.machine(0)?;
    c.must_ssh(&m, "sudo rpm-ostree rollback").await?;
    reboot(c, &m).await?;
    let now = count(c, &m, 2).await?.swap_remove(0);
    ensure!(now == *original, "the deployment is {now:?}, expected {original:?}");
    clean_up(c, &m).await
}

/// Packages of EPEL 7, and the key that they are signed with, from where Fedora publishes it.
const EPEL: &str = r#"{
  "ignition": {"version": "2.2.0"},
  "storage": {"files": [
    {
      "filesystem": "root", "path": "/etc/yum.repos.d/epel.repo", "mode": 420,
      "user": {"name": "root"}, "group": {"name": "root"},
      "contents": {"source": "data:,%5Bepel%5D%0Aname%3DExtra%20Packages%20for%20Enterprise%20Linux%207%0Ametalink%3Dhttps%3A%2F%2Fmirrors.fedoraproject.org%2Fmetalink%3Frepo%3Depel-7%26arch%3D%24basearch%0Aenabled%3D1%0Agpgcheck%3D1%0Agpgkey%3Dfile%3A%2F%2F%2Fetc%2Fpki%2Frpm-gpg%2FRPM-GPG-KEY-EPEL-7%0A"}
    },
    {
      "filesystem": "root", "path": "/etc/pki/rpm-gpg/RPM-GPG-KEY-EPEL-7", "mode": 420,
      "user": {"name": "root"}, "group": {"name": "root"},
      "contents": {"source": "https://dl.fedoraproject.org/pub/epel/RPM-GPG-KEY-EPEL-7"}
    }
  ]}
}"#;

const PACKAGE: &str = "fpaste";

async fn install_uninstall(c: TestCluster) -> Result<()> {
    let original = deployments(&c, &*c.machine(0)?).await?.swap_remove(0);
    let before = original.clone();
    c.run("install", async move |c: TestCluster| install(&c, &before).await).await;
    c.run("uninstall", async move |c: TestCluster| uninstall(&c, &original).await).await;
    Ok(())
}

async fn install(c: &TestCluster, before: &Deployment) -> Result<()> {
    let m = c.machine(0)?;
    c.must_ssh(&m, &format!("sudo rpm-ostree install {PACKAGE}")).await?;
    reboot(c, &m).await?;
    let now = count(c, &m, 2).await?.swap_remove(0);
    must_equal(c, &m, &format!("command -v {PACKAGE}"), &format!("/bin/{PACKAGE}")).await?;
    let package = c.must_ssh(&m, &format!("rpm -q {PACKAGE}")).await?;
    let pattern = Regex::new(r"^fpaste.*noarch").wrap_err("a pattern of this test")?;
    ensure!(pattern.is_match(&package), "rpm knows {package:?}");
    c.must_ssh(&m, &format!("{PACKAGE} --version")).await?;
    for (what, list) in [("requested-packages", &now.requested_packages), ("packages", &now.packages)] {
        ensure!(list.iter().any(|p| p == PACKAGE), "{PACKAGE} is not in {what}: {list:?}");
    }
    ensure!(now.checksum != before.checksum, "the checksum has not changed: {}", now.checksum);
    Ok(())
}

async fn uninstall(c: &TestCluster, original: &Deployment) -> Result<()> {
    let m = c.machine(0)?;
    c.must_ssh(&m, &format!("sudo rpm-ostree uninstall {PACKAGE}")).await?;
    reboot(c, &m).await?;
    let now = count(c, &m, 2).await?.swap_remove(0);
    ensure!(
        now.checksum == original.checksum,
        "the checksum is {}, expected {}",
        now.checksum,
        original.checksum
    );
    ensure!(
        now.packages.is_empty() && now.requested_packages.is_empty(),
        "packages are left: {:?}, requested {:?}",
        now.packages,
        now.requested_packages
    );
    clean_up(c, &m).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deployments_are_read() {
        let text = r#"{"deployments": [{
            "booted": true, "checksum": "abc", "origin": "ref", "osname": "rhcos", "packages": [],
            "requested-packages": ["fpaste"], "timestamp": 1547000000, "unlocked": "none", "version": "47.1",
            "serial": 0}], "transaction": null}"#;
        let all = parse(text).unwrap();
        assert_eq!((all[0].requested_packages.len(), all[0].timestamp), (1, 1_547_000_000));
        assert!(parse(r#"{"deployments": []}"#).is_err());
        assert!(parse("{}").is_err());
    }

    #[test]
    fn the_last_line_tells_the_version() {
        let text = "State: idle\nDeployments:\n* ref\n      Version: 47.280 (2019-01-09 00:00:00)\n";
        assert_eq!(version_of(text), Some("47.280"));
        assert_eq!(version_of("Version: x"), None);
        assert_eq!(version_of(""), None);
    }
}
