//! Listening ports, networkd in the initramfs, time.

use color_eyre::eyre::{Result, bail, ensure, eyre};
use regex::Regex;

use super::helpers::{is_debian, reboot, retry, seconds};
use crate::kola::cluster::TestCluster;
use crate::kola::register::Test;

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("cl.network.listeners", listeners)
            .description("No program listens on a port but those that have to")
            .container_linux(DOCKER)
            .distros(["cl", "debian"])
            .min_version("1967.0.0")
            .features(["docker", "networkd"]),
        Test::new("cl.network.listeners.legacy", listeners)
            .description("No program listens on a port but those that have to, before 1967.0.0")
            .distros(["cl", "debian"])
            .end_version("1967.0.0")
            .features(["networkd"]),
        Test::new("cl.network.initramfs.second-boot", second_boot)
            .description("At the second boot networkd is started by the real system only")
            .exclude_platforms(["do"])
            .distros(["cl", "debian"])
            .features(["kernel", "networkd"]),
        Test::new("linux.ntp", ntp)
            .description("The machine takes its time from the server that DHCP names")
            .cluster_size(0)
            .platforms(["qemu", "nspawn"])
            .distros(["cl", "debian"])
            .features(["networkd", "private-network", "timesyncd"]),
    ]
}

const DOCKER: &str = "
systemd:
  units:
    - name: docker.service
      enabled: true
";

/// A program that may listen: protocol (a prefix: `tcp` covers `tcp6`), port (absent: any), its name.
type Listener = (&'static str, Option<&'static str>, &'static str);

const CL_LISTENERS: &[Listener] = &[
    ("tcp", Some("22"), "systemd"),
    ("udp", Some("68"), "systemd-networkd"),
    ("udp", Some("546"), "systemd-networkd"),
];

const DEBIAN_LISTENERS: &[Listener] = &[
    ("tcp", Some("22"), "systemd"),
    ("tcp", Some("22"), "init"),
    ("tcp", Some("22"), "sshd"),
    ("udp", Some("68"), "systemd-networkd"),
    ("udp", Some("546"), "systemd-networkd"),
    ("tcp", Some("53"), "systemd-resolved"),
    ("udp", Some("53"), "systemd-resolved"),
    ("udp", None, "systemd-timesyncd"),
    ("tcp", None, "containerd"),
];

/// Nothing listens but what has to.
async fn listeners(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    let allowed = if is_debian(&c) { DEBIAN_LISTENERS } else { CL_LISTENERS };
    retry(&c, 3, seconds(5), || async {
        let text = c.must_ssh(&m, "sudo netstat -plutn").await?;
        let found = unexpected_listeners(&text, allowed)?;
        for line in &found.nameless {
            c.log(format!("ignoring a listener whose program has no path: {line}"));
        }
        ensure!(found.unexpected.is_empty(), "unexpected listeners:\n{}", found.unexpected.join("\n"));
        Ok(())
    })
    .await
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Found<'a> {
    unexpected: Vec<&'a str>,
    /// Programs in parentheses: they are no files that could be named.
    nameless: Vec<&'a str>,
}

fn unexpected_listeners<'a>(netstat: &'a str, allowed: &[Listener]) -> Result<Found<'a>> {
    const HEADING: &str = "Active Internet connections (only servers)";
    const COLUMNS: &str =
        r"Proto\s+Recv-Q\s+Send-Q\s+Local Address\s+Foreign Address\s+State\s+PID/Program name";
    // To which netstat cuts the last column, so the shorter the pid, the more of the name is there.
    const WIDTH: usize = 19;
    let mut lines = netstat.lines();
    ensure!(lines.next() == Some(HEADING), "unexpected first line of netstat:\n{netstat}");
    ensure!(
        lines.next().is_some_and(|line| Regex::new(COLUMNS).is_ok_and(|columns| columns.is_match(line))),
        "unexpected columns of netstat:\n{netstat}"
    );
    let mut found = Found::default();
    for line in lines {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // UDP has no state.
        if !(6..=7).contains(&fields.len()) {
            bail!("unexpected number of fields in line {line:?} of netstat");
        }
        let (_, port) =
            fields[3].rsplit_once(':').ok_or_else(|| eyre!("no port in line {line:?} of netstat"))?;
        let last = fields[fields.len() - 1];
        let (pid, program) =
            last.split_once('/').ok_or_else(|| eyre!("no program in line {line:?} of netstat"))?;
        if program.starts_with('(') {
            found.nameless.push(line);
            continue;
        }
        let shown = WIDTH.saturating_sub(pid.len() + 1);
        let matches = |&(protocol, allowed_port, name): &Listener| {
            fields[0].starts_with(protocol)
                && allowed_port.is_none_or(|p| p == port)
                && format!("{name:.shown$}") == program
        };
        if !allowed.iter().any(matches) {
            found.unexpected.push(line);
        }
    }
    Ok(found)
}

/// At a second boot networkd is started by the real system only, not in the initramfs (Container Linux bug 1768).
async fn second_boot(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    reboot(&c, &m).await?;
    let command = "journalctl -b 0 -o cat -u initrd-switch-root.target -u systemd-networkd.service";
    let journal = c.must_ssh(&m, command).await?;
    started_after_switch(&journal, is_debian(&c))
}

/// `no_systemd`: the initramfs may be one without systemd, so without anything that could be started there.
fn started_after_switch(journal: &str, no_systemd: bool) -> Result<()> {
    // Wordings of systemd up to 248, of those with unit names, and of the last releases.
    const STARTED: [&str; 5] = [
        "Started Network Service.",
        "Started Network Configuration.",
        "Started systemd-networkd.service.",
        "Started systemd-networkd.service - Network Configuration.",
        "Started systemd-networkd.service - Network Management.",
    ];
    const SWITCHED: [&str; 3] = [
        "Reached target Switch Root.",
        "Reached target initrd-switch-root.target.",
        "Reached target initrd-switch-root.target - Switch Root.",
    ];
    ensure!(
        journal.lines().any(|l| STARTED.contains(&l)),
        "didn't find networkd's start in the journal:\n{journal}"
    );
    if no_systemd && !journal.lines().any(|l| SWITCHED.contains(&l)) {
        return Ok(());
    }
    let first = journal.lines().next().unwrap_or_default();
    ensure!(SWITCHED.contains(&first), "networkd started in the initramfs:\n{journal}");
    Ok(())
}

/// The guest takes its time from the server that DHCP names.
async fn ntp(c: TestCluster) -> Result<()> {
    let m = c.new_machine(None).await?;
    let server = c.local()?.host_ip();
    c.assert_output_contains(&m, "networkctl status eth0", &format!("NTP: {server}")).await?;
    // Wordings of systemd up to 240, 241, 243, and since 251.
    let texts =
        ["Synchronized to", "Synchronized for the first time to", "Initial synchronization to", "Contacted"]
            .map(|verb| match verb {
                "Synchronized for the first time to" => {
                    format!(
                        "Status: \"Synchronized to time server for the first time {server}:123 ({server}).\""
                    )
                }
                verb => format!("Status: \"{verb} time server {server}:123 ({server}).\""),
            });
    retry(&c, 60, seconds(1), || async {
        let status = c.must_ssh(&m, "systemctl status systemd-timesyncd.service").await?;
        ensure!(texts.iter().any(|t| status.contains(t)), "not synchronized with {server}:\n{status}");
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETSTAT: &str = "Active Internet connections (only servers)
Proto Recv-Q Send-Q Local Address           Foreign Address         State       PID/Program name
tcp        0      0 127.0.0.53:53           0.0.0.0:*               LISTEN      270/systemd-resolve
tcp        0      0 127.0.0.54:53           0.0.0.0:*               LISTEN      18/systemd-resolved
tcp6       0      0 :::22                   :::*                    LISTEN      1/systemd
udp        0      0 10.0.0.2:68             0.0.0.0:*                           213/systemd-network
udp6       0      0 fe80::1:546             :::*                                213/systemd-network
tcp        0      0 127.0.0.1:7             0.0.0.0:*               LISTEN      9/(x)
";

    #[test]
    fn listeners_are_compared_with_the_list() {
        let found = unexpected_listeners(NETSTAT, DEBIAN_LISTENERS).unwrap();
        assert!(found.unexpected.is_empty(), "{found:?}");
        assert_eq!(found.nameless.len(), 1);
        let found = unexpected_listeners(NETSTAT, CL_LISTENERS).unwrap();
        assert_eq!(found.unexpected.len(), 2);
        assert!(found.unexpected.iter().all(|l| l.contains("systemd-resolve")), "{found:?}");
    }

    #[test]
    fn strange_output_of_netstat_is_an_error() {
        assert!(unexpected_listeners("", &[]).is_err());
        assert!(unexpected_listeners("Active Internet connections (only servers)\nx\n", &[]).is_err());
        assert!(unexpected_listeners(&(NETSTAT.to_owned() + "tcp 0 0 1.2.3.4:5\n"), &[]).is_err());
        assert!(unexpected_listeners(&(NETSTAT.to_owned() + "tcp 0 0 1.2.3.4:5 * LISTEN -\n"), &[]).is_err());
    }

    #[test]
    fn networkd_has_to_come_after_the_switch() {
        let good = "Reached target Switch Root.\nStarting Network Service...\nStarted Network Service.";
        assert!(started_after_switch(good, false).is_ok());
        let early = "Started Network Service.\nReached target Switch Root.\nStarted Network Service.";
        assert!(started_after_switch(early, false).is_err());
        assert!(started_after_switch(early, true).is_err());
        let bare = "Starting systemd-networkd.service - Network Configuration...\n\
                    Started systemd-networkd.service - Network Configuration.";
        assert!(started_after_switch(bare, true).is_ok());
        assert!(started_after_switch(bare, false).is_err());
        assert!(started_after_switch("Reached target Switch Root.", false).is_err());
    }
}
