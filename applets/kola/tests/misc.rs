//! Logins, users, files and packages.

use color_eyre::eyre::{Result, bail, ensure, eyre};
use mantle::ssh::{self, Login};

use super::helpers::is_debian;
use crate::kola::cluster::TestCluster;
use crate::kola::register::{Flag, Test};

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("coreos.auth.verify", auth_verify)
            .description("Nobody is let in by a well-known password")
            .distros(["cl", "rhcos", "fcos", "debian"]),
        Test::new("cl.users.shells", users_shells)
            .description("Nobody can log in but who should")
            .exclude_platforms(["gce"])
            .distros(["cl", "debian"]),
        Test::new("cl.filesystem", filesystem)
            .description("No dead links, no set-user-ID programs or open folders but known ones")
            .distros(["cl", "debian"]),
        Test::new("packages", packages)
            .description("ipvsadm works, which nothing else tests")
            .distros(["cl", "debian"])
            .features(["ipvs", "kernel"]),
        Test::new("coreos.tls.fetch-urls", tls_fetch_urls)
            .description("Well-known places are trusted by the system's certificates")
            .exclude_distros(["rhcos"])
            .flags([Flag::RequiresInternetAccess]),
        Test::new("coreos.misc.aws.diskfriendlyname", |c| async move {
            // NVMe instances name their disks otherwise (Container Linux bug 2399).
            c.must_ssh(&*c.machine(0)?, "stat /dev/xvda").await.map(drop)
        })
        .description("The first disk at Amazon is /dev/xvda")
        .platforms(["aws"])
        .distros(["cl", "rhcos"])
        .min_version("1828.0.0"),
        Test::new("cl.toolbox.dnf-install", |c| async move {
            // Container Linux bug 1676.
            let command = "toolbox sh -c 'dnf install -y tcpdump; tcpdump --version >/dev/null && echo PASS' \
                               2>/dev/null";
            c.assert_output_contains(&*c.machine(0)?, command, "PASS").await
        })
        .description("toolbox can install a package by dnf")
        .distros(["cl"])
        .flags([Flag::RequiresInternetAccess])
        .features(["rkt"]),
    ]
}

/// The system does not let in a user by a well-known password.
async fn auth_verify(c: TestCluster) -> Result<()> {
    let client = c.machine(0)?.client().log_in_as(Login::password("core", "asdf"));
    let result = client.run("true").await;
    client.close().await;
    match result {
        Err(e) if is_refusal(&e) => Ok(()),
        Err(e) => Err(eyre!(e).wrap_err("neither let in nor refused")),
        Ok(_) => bail!("successfully authenticated with a password"),
    }
}

/// Whether the server answered that it does not believe us (LIBSSH2_ERROR_AUTHENTICATION_FAILED), as opposed to
/// not answering at all.
fn is_refusal(error: &ssh::Error) -> bool {
    let ssh::Error::Connect { source, .. } = error else { return false };
    source.downcast_ref::<ssh2::Error>().is_some_and(|e| e.code() == ssh2::ErrorCode::Session(-18))
}

/// Nobody can log in but who should.
async fn users_shells(c: TestCluster) -> Result<()> {
    const CL: &[&str] =
        &["root:/bin/bash", "sync:/bin/sync", "shutdown:/sbin/shutdown", "halt:/sbin/halt", "core:/bin/bash"];
    const DEBIAN: &[&str] = &["root:/bin/bash", "sync:/bin/sync", "core:/bin/bash"];
    let (expected, closed): (_, &[&str]) = match is_debian(&c) {
        true => (DEBIAN, &["/usr/sbin/nologin", "/bin/false"]),
        false => (CL, &["/sbin/nologin"]),
    };
    let passwd = c.must_ssh(&*c.machine(0)?, "getent passwd").await?;
    let bad = wrong_shells(&passwd, expected, closed)?;
    ensure!(bad.is_empty(), "unexpected shells:\n{}", bad.join("\n"));
    Ok(())
}

fn wrong_shells<'a>(passwd: &'a str, expected: &[&str], closed: &[&str]) -> Result<Vec<&'a str>> {
    let mut bad = Vec::new();
    for line in passwd.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let &[user, _, _, _, _, _, shell] = &fields[..] else {
            bail!("malformed passwd entry {line:?}: {} fields instead of 7", fields.len());
        };
        if !closed.contains(&shell) && !expected.contains(&format!("{user}:{shell}").as_str()) {
            bad.push(line);
        }
    }
    Ok(bad)
}

/// One search of the file system: subtest, pruned paths, what is looked for, what may be found.
struct Search {
    name: &'static str,
    pruned: &'static [&'static str],
    expression: &'static str,
    allowed: &'static [&'static str],
}

const VIRTUAL: &[&str] = &["/sys", "/proc", "/var/lib/rkt"];
const CONTAINERS: &[&str] = &["/proc", "/sys", "/var/lib/docker", "/var/lib/rkt"];
/// Names that no package should have: control characters, a blank, DEL.
const BLACKLIST: &str = r"-path /usr/bin/perl -o -path /usr/bin/python -o -path /usr/share/man -o -path '/usr/bin/*.old' -o -name $'*[\x01-\x1f \x7f]*'";

const SEARCHES: &[Search] = &[
    Search {
        name: "deadlinks",
        pruned: &[
            "/dev",
            "/proc",
            "/run/systemd",
            // Not files: what udev remembers of devices, as texts of links.
            "/run/udev/links",
            "/run/udev/watch",
            "/sys",
            "/var/lib/docker",
            "/var/lib/rkt",
        ],
        expression: "-xtype l",
        allowed: &[],
    },
    Search {
        name: "suid",
        pruned: VIRTUAL,
        expression: "-type f -perm -4000",
        allowed: &[
            "/usr/bin/chage",
            "/usr/bin/chfn",
            "/usr/bin/chsh",
            "/usr/bin/expiry",
            "/usr/bin/gpasswd",
            "/usr/bin/ksu",
            "/usr/bin/man",
            "/usr/bin/mandb",
            "/usr/bin/mount",
            "/usr/bin/newgidmap",
            "/usr/bin/newgrp",
            "/usr/bin/newuidmap",
            "/usr/bin/passwd",
            "/usr/bin/pkexec",
            "/usr/bin/su",
            "/usr/bin/sudo",
            "/usr/bin/umount",
            "/usr/lib/polkit-1/polkit-agent-helper-1",
            "/usr/lib64/polkit-1/polkit-agent-helper-1",
            "/usr/libexec/dbus-daemon-launch-helper",
            "/usr/sbin/mount.nfs",
            "/usr/sbin/unix_chkpwd",
        ],
    },
    Search { name: "sgid", pruned: VIRTUAL, expression: "-type f -perm -2000", allowed: &[] },
    Search { name: "writablefiles", pruned: VIRTUAL, expression: "-type f -perm -0002", allowed: &[] },
    Search {
        name: "writabledirs",
        pruned: VIRTUAL,
        expression: "-type d -perm -0002 -a ! -perm -1000",
        allowed: &[],
    },
    Search {
        name: "stickydirs",
        pruned: &[
            "/proc",
            "/sys",
            "/var/lib/docker",
            "/var/lib/rkt",
            "/dev/mqueue",
            "/dev/shm",
            "/media",
            "/tmp",
            "/var/tmp",
        ],
        expression: "-type d -perm /1000",
        allowed: &[],
    },
    Search { name: "blacklist", pruned: CONTAINERS, expression: BLACKLIST, allowed: &[] },
];

/// What Debian may have besides, by subtest. Its own copy of the pristine ROOT is no part of the system.
const DEBIAN_PRUNED: &str = "/usr/share/factory";
const DEBIAN_ALLOWED: &[(&str, &[&str])] = &[
    ("suid", &["/usr/lib/dbus-1.0/dbus-daemon-launch-helper", "/usr/lib/openssh/ssh-keysign"]),
    ("sgid", &["/usr/bin/chage", "/usr/bin/expiry", "/usr/bin/ssh-agent", "/usr/sbin/unix_chkpwd"]),
    ("stickydirs", &["/run/lock"]),
    ("blacklist", &["/usr/bin/perl", "/usr/share/man"]),
];

async fn filesystem(c: TestCluster) -> Result<()> {
    for search in SEARCHES {
        c.run(search.name, async |c: TestCluster| find_nothing(&c, search).await).await;
    }
    Ok(())
}

async fn find_nothing(c: &TestCluster, search: &Search) -> Result<()> {
    let debian = is_debian(c);
    let more = DEBIAN_ALLOWED
        .iter()
        .filter(|(name, _)| debian && *name == search.name)
        .flat_map(|(_, paths)| *paths);
    let allowed: Vec<&str> = search.allowed.iter().chain(more).copied().collect();
    let pruned = search.pruned.iter().copied().chain(debian.then_some(DEBIAN_PRUNED));
    let prune: String = pruned.map(|path| format!("-path {path} -prune -o ")).collect();
    let command = format!("sudo find / -ignore_readdir_race {prune}\\( {} \\) -print", search.expression);
    let found = c.must_ssh(&*c.machine(0)?, &command).await?;
    let bad: Vec<&str> = found.lines().filter(|path| !allowed.contains(path)).collect();
    ensure!(bad.is_empty(), "{} found:\n{}", search.name, bad.join("\n"));
    Ok(())
}

/// Packages that nothing else tests.
async fn packages(c: TestCluster) -> Result<()> {
    c.run("sys-cluster/ipvsadm", async |c: TestCluster| ipvsadm(&c).await).await;
    Ok(())
}

async fn ipvsadm(c: &TestCluster) -> Result<()> {
    const SERVICE: &str = "207.175.44.110:80";
    let m = c.machine(0)?;
    c.assert_output_contains(&m, "sudo ipvsadm", "IP Virtual Server version").await?;
    let mut rules = format!("-A -t {SERVICE} -s rr\n");
    for n in 1..=5 {
        rules.push_str(&format!("-a -t {SERVICE} -r 192.168.10.{n}:80 -m\n"));
    }
    c.must_ssh(&m, &format!("printf %s {} | sudo ipvsadm -R", ssh::quote(&rules))).await?;
    // The protocol is followed by two blanks.
    let service = format!("TCP  {SERVICE} rr");
    let table = c.must_ssh(&m, "sudo ipvsadm -Ln").await?;
    let servers = (1..=5).map(|n| format!("-> 192.168.10.{n}:80"));
    for wanted in std::iter::once(service.clone()).chain(servers) {
        ensure!(table.contains(&wanted), "{wanted:?} not found in the table:\n{table}");
    }
    c.must_ssh(&m, &format!("sudo ipvsadm -D -t {SERVICE}")).await?;
    let table = c.must_ssh(&m, "sudo ipvsadm -Ln").await?;
    ensure!(!table.contains(&service), "the service is still there after its removal:\n{table}");
    Ok(())
}

/// The system's certificates are good for well-known places.
async fn tls_fetch_urls(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    for url in ["https://www.example.com/", "https://www.wikipedia.org/", "https://start.fedoraproject.org/"]
    {
        c.must_ssh(&m, &format!("curl -s -S -m 30 --retry 2 {url}")).await?;
        // wget reports progress as if it were trouble.
        c.must_ssh(&m, &format!("wget -nv -T 30 -t 2 --delete-after {url} 2> >(grep -v -- '->' >&2)"))
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unexpected_shells_are_found() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nbin:x:1:1::/bin:/sbin/nologin\neve:x:1:1::/:/bin/bash";
        let bad = wrong_shells(passwd, &["root:/bin/bash"], &["/sbin/nologin"]).unwrap();
        assert_eq!(bad, ["eve:x:1:1::/:/bin/bash"]);
        assert!(wrong_shells("root:x:0", &[], &[]).is_err());
    }

    #[test]
    fn only_an_answer_is_a_refusal() {
        let error = |source: ssh::Cause| ssh::Error::Connect {
            step: "cannot log in at",
            address: "a:22".into(),
            source,
        };
        let answer = |code| Box::new(ssh2::Error::new(ssh2::ErrorCode::Session(code), ""));
        assert!(is_refusal(&error(answer(-18))));
        assert!(!is_refusal(&error(answer(-13))));
        assert!(!is_refusal(&error(std::io::Error::from(std::io::ErrorKind::TimedOut).into())));
        assert!(!is_refusal(&ssh::Error::Closed { address: "a:22".into() }));
    }
}
