//! ostree: commits, remotes, and file systems that are unlocked for a while.

use color_eyre::eyre::{Result, ensure, eyre};
use mantle::platform::guest::Guest;

use super::helpers::{must_equal, reboot};
use super::rpmostree::{Deployment, deployments};
use crate::kola::cluster::TestCluster;
use crate::kola::register::{Flag, Test};

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        ostree(Test::new("ostree.basic", basic))
            .description("ostree and rpm-ostree tell the same of the commit that is running")
            .distros(["rhcos"]),
        online(Test::new("ostree.remote", remote))
            .description("A remote repository is added, read and taken away"),
        online(Test::new("ostree.unlock", |c| unlocked(c, Unlocked::Development)))
            .description("/usr is unlocked until the next reboot"),
        online(Test::new("ostree.hotfix", |c| unlocked(c, Unlocked::Hotfix)))
            .description("/usr is unlocked beyond a reboot, until it is rolled back"),
    ]
}

fn ostree(test: Test) -> Test {
    test.features(["kernel", "rpm-ostree"]).fail_fast()
}

fn online(test: Test) -> Test {
    ostree(test).distros(["rhcos", "fcos"]).flags([Flag::RequiresInternetAccess])
}

/// What `ostree admin status` tells of the deployment that is running.
#[derive(Debug, PartialEq, Eq)]
struct Admin {
    checksum: String,
    version: String,
    origin: String,
}

impl Admin {
    fn parse(text: &str) -> Result<Self> {
        let wrong = || eyre!("ostree admin status says:\n{text}");
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let &[first, version, origin] = &lines[..] else { return Err(wrong()) };
        let named = first.strip_prefix("* ").and_then(|rest| rest.split_once(' ')).ok_or_else(wrong)?;
        let (checksum, serial) = named.1.split_once('.').ok_or_else(wrong)?;
        let hexadecimal = !checksum.is_empty() && checksum.bytes().all(|b| b.is_ascii_hexdigit());
        ensure!(hexadecimal && serial.starts_with(|c: char| c.is_ascii_digit()), wrong());
        Ok(Self {
            checksum: checksum.to_owned(),
            version: version.strip_prefix("Version: ").ok_or_else(wrong)?.to_owned(),
            origin: origin.strip_prefix("origin refspec: ").ok_or_else(wrong)?.to_owned(),
        })
    }
}

async fn basic(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    let first = deployments(&c, &m).await?.swap_remove(0);
    let admin = Admin::parse(&c.must_ssh(&m, "ostree admin status").await?)?;
    let (reference, shown) = (first.clone(), first.clone());
    c.run("admin status", async move |_: TestCluster| {
        let wanted = Admin { checksum: first.checksum, version: first.version, origin: first.origin };
        ensure!(admin == wanted, "ostree tells {admin:?}, rpm-ostree {wanted:?}");
        Ok(())
    })
    .await;
    c.run("rev-parse", async move |c: TestCluster| {
        let command = format!("ostree rev-parse {}", reference.origin);
        must_equal(&c, &*c.machine(0)?, &command, &reference.checksum).await
    })
    .await;
    c.run("show", async move |c: TestCluster| {
        let text = c.must_ssh(&*c.machine(0)?, &format!("ostree show {}", shown.checksum)).await?;
        check_commit(&text, &shown)
    })
    .await;
    Ok(())
}

/// What `ostree show` tells is that deployment: its time in the third line, its version in the fourth.
fn check_commit(text: &str, deployment: &Deployment) -> Result<()> {
    let lines: Vec<&str> = text.lines().collect();
    ensure!(lines.len() >= 4, "fewer than 4 lines:\n{text}");
    let time = chrono::DateTime::from_timestamp(deployment.timestamp, 0)
        .ok_or_else(|| eyre!("{} is no time", deployment.timestamp))?
        .format("Date:  %Y-%m-%d %H:%M:%S +0000")
        .to_string();
    ensure!(lines[2] == time, "the date is {:?}, expected {time:?}", lines[2]);
    let version = lines[3].split_whitespace().nth(1);
    ensure!(
        version == Some(&deployment.version),
        "the version is {version:?}, expected {:?}",
        deployment.version
    );
    Ok(())
}

const REMOTE: &str = "custom";
const URL: &str = "https://dl.fedoraproject.org/atomic/repo/";
const LIST: &str = "ostree remote list -u";

async fn remote(c: TestCluster) -> Result<()> {
    let before = remotes(&c).await?.len();
    c.run("add", async |c: TestCluster| {
        let command = format!("sudo ostree remote add --no-gpg-verify {REMOTE} {URL}");
        c.must_ssh(&*c.machine(0)?, &command).await.map(drop)
    })
    .await;
    c.run("list", async move |c: TestCluster| {
        let all = remotes(&c).await?;
        ensure!(all.len() == before + 1, "{} remotes instead of {}", all.len(), before + 1);
        ensure!(all.contains(&(REMOTE.into(), URL.into())), "{REMOTE} {URL} is not among {all:?}");
        Ok(())
    })
    .await;
    c.run("show-url", async |c: TestCluster| {
        must_equal(&c, &*c.machine(0)?, &format!("ostree remote show-url {REMOTE}"), URL).await
    })
    .await;
    c.run("refs", async |c: TestCluster| {
        let count = references(&c).await?;
        ensure!(count > 0, "the remote has no references");
        Ok(())
    })
    .await;
    c.run("summary", async |c: TestCluster| {
        let text = c.must_ssh(&*c.machine(0)?, &format!("ostree remote summary {REMOTE}")).await?;
        let (listed, wanted) = (summarised(&text), references(&c).await?);
        ensure!(
            text.lines().count() >= 4 && listed > 0 && listed == wanted,
            "{listed} references in the summary, {wanted} listed:\n{text}"
        );
        Ok(())
    })
    .await;
    c.run("delete", async move |c: TestCluster| {
        let m = c.machine(0)?;
        let there = remotes(&c).await?.len();
        c.must_ssh(&m, &format!("sudo ostree remote delete {REMOTE}")).await?;
        let left = remotes(&c).await?;
        ensure!(
            left.len() < there && left.iter().all(|(name, _)| name != REMOTE),
            "{REMOTE} is still there: {left:?}"
        );
        Ok(())
    })
    .await;
    Ok(())
}

/// Name and URL of each remote.
async fn remotes(c: &TestCluster) -> Result<Vec<(String, String)>> {
    let text = c.must_ssh(&*c.machine(0)?, LIST).await?;
    pairs(&text)
}

fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    let pair = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [name, url] => Ok((name.to_owned(), url.to_owned())),
        _ => Err(eyre!("a line of {LIST:?} has not two words: {line:?}")),
    };
    text.lines().map(pair).collect()
}

async fn references(c: &TestCluster) -> Result<usize> {
    let text = c.must_ssh(&*c.machine(0)?, &format!("ostree remote refs {REMOTE}")).await?;
    Ok(text.lines().count())
}

fn summarised(text: &str) -> usize {
    text.lines().filter(|line| line.starts_with("* fedora")).count()
}

/// How /usr is unlocked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unlocked {
    Development,
    Hotfix,
}

impl Unlocked {
    fn name(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Hotfix => "hotfix",
        }
    }
}

const RPM: &str = "aht-dummy";
const RPM_URL: &str =
    "https://raw.githubusercontent.com/projectatomic/atomic-host-tests/master/rpm/aht-dummy-1.0-1.noarch.rpm";

async fn unlocked(c: TestCluster, kind: Unlocked) -> Result<()> {
    c.run("unlock", async move |c: TestCluster| {
        let m = c.machine(0)?;
        let option = if kind == Unlocked::Hotfix { " --hotfix" } else { "" };
        c.must_ssh(&m, &format!("sudo ostree admin unlock{option}")).await?;
        expect_unlocked(&c, &m, kind.name()).await
    })
    .await;
    c.run("install", async |c: TestCluster| install(&c).await).await;
    c.run("uninstall", async |c: TestCluster| {
        let m = c.machine(0)?;
        c.must_ssh(&m, &format!("sudo rpm -e {RPM}")).await?;
        expect_package(&c, &m, false).await
    })
    .await;
    match kind {
        Unlocked::Development => {
            c.run("discard", async |c: TestCluster| {
                install(&c).await?;
                let m = c.machine(0)?;
                reboot(&c, &m).await?;
                expect_unlocked(&c, &m, "none").await?;
                expect_package(&c, &m, false).await
            })
            .await;
        }
        Unlocked::Hotfix => {
            c.run("persist", async |c: TestCluster| {
                install(&c).await?;
                let m = c.machine(0)?;
                reboot(&c, &m).await?;
                expect_unlocked(&c, &m, "hotfix").await?;
                expect_package(&c, &m, true).await
            })
            .await;
            c.run("rollback", async |c: TestCluster| {
                let m = c.machine(0)?;
                c.must_ssh(&m, "sudo rpm-ostree rollback").await?;
                reboot(&c, &m).await?;
                expect_unlocked(&c, &m, "none").await?;
                expect_package(&c, &m, false).await
            })
            .await;
        }
    }
    Ok(())
}

async fn expect_unlocked(c: &TestCluster, m: &Guest, wanted: &str) -> Result<()> {
    let first = deployments(c, m).await?.swap_remove(0);
    ensure!(first.unlocked == wanted, "unlocked is {:?}, expected {wanted:?}", first.unlocked);
    Ok(())
}

async fn install(c: &TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    c.must_ssh(&m, &format!("sudo rpm -i {RPM_URL}")).await?;
    expect_package(c, &m, true).await
}

/// The package's command and its record are there, or both are not.
async fn expect_package(c: &TestCluster, m: &Guest, wanted: bool) -> Result<()> {
    for command in [format!("command -v {RPM}"), format!("rpm -q {RPM}")] {
        let there = match c.ssh(m, &command).await {
            Ok(_) => true,
            Err(e) if e.exit_status().is_some() => false,
            Err(e) => return Err(e.into()),
        };
        let state = if there { "succeeds" } else { "fails" };
        ensure!(
            there == wanted,
            "{command:?} {state} although {RPM} should be {}",
            if wanted { "there" } else { "gone" }
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read() {
        let text = "* rhcos 0123abcd.0\n    Version: 47.280\n    origin refspec: rhcos:stable";
        let wanted =
            Admin { checksum: "0123abcd".into(), version: "47.280".into(), origin: "rhcos:stable".into() };
        assert_eq!(Admin::parse(text).unwrap(), wanted);
        for odd in [
            "",
            "  rhcos 0123abcd.0\nVersion: 1\norigin refspec: x",
            "* rhcos zz.0\nVersion: 1\norigin refspec: x",
        ] {
            assert!(Admin::parse(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_commit_has_date_and_version() {
        let deployment =
            Deployment { timestamp: 1_547_000_000, version: "47.280".into(), ..Deployment::default() };
        let good = "commit abc\nContentChecksum:  x\nDate:  2019-01-09 02:13:20 +0000\nVersion: 47.280\n";
        check_commit(good, &deployment).unwrap();
        assert!(check_commit(&good.replace("02:13", "02:14"), &deployment).is_err());
        assert!(check_commit(&good.replace("47.280", "47.281"), &deployment).is_err());
        assert!(check_commit("commit abc", &deployment).is_err());
    }

    #[test]
    fn remotes_and_references_are_counted() {
        assert_eq!(
            pairs("fedora  https://a/\ncustom https://b/").unwrap()[1],
            ("custom".into(), "https://b/".into())
        );
        assert!(pairs("fedora").is_err());
        assert_eq!(summarised("* fedora/27\n    Latest Commit (1 MB):\n* fedora/28\n* other"), 2);
    }
}
