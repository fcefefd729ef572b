//! systemd's own services.

use color_eyre::eyre::Result;

use super::helpers::{pick, retry, seconds};
use crate::kola::cluster::TestCluster;
use crate::kola::register::Test;

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("systemd.journal.remote", journal_remote)
            .description("A journal can be read over the network from another machine")
            .cluster_size(0)
            .distros(["cl", "debian"])
            .features(["cluster-network", "journal-remote"]),
        Test::new("systemd.sysusers.gshadow", gshadow)
            .description("A group with a long list of members is read from gshadow without a crash")
            .distros(["cl", "fcos", "debian"]),
    ]
}

const GATEWAY: &str = r#"{
  "ignition": {"version": "2.0.0"},
  "storage": {"files": [
    {"filesystem": "root", "path": "/etc/hostname", "mode": 420, "contents": {"source": "data:,gateway"}}
  ]},
  "systemd": {"units": [{"name": "systemd-journal-gatewayd.socket", "enable": true}]}
}"#;

const GATEWAY_V3: &str = r#"{
  "ignition": {"version": "3.0.0"},
  "storage": {"files": [
    {"path": "/etc/hostname", "mode": 420, "overwrite": true, "contents": {"source": "data:,gateway"}}
  ]},
  "systemd": {"units": [{"name": "systemd-journal-gatewayd.socket", "enabled": true}]}
}"#;

/// A journal can be read over the network from another machine.
async fn journal_remote(c: TestCluster) -> Result<()> {
    const WORD: &str = "supercalifragilisticexpialidocious";
    let gateway = c.new_machine(Some(pick(&c, GATEWAY, GATEWAY_V3))).await?;
    c.must_ssh(&gateway, &format!("logger {WORD}")).await?;
    let collector = c.new_machine(None).await?;
    let ip = gateway.private_ip();
    let start = format!(
        "sudo systemd-run --unit systemd-journal-remote-client \
         /usr/lib/systemd/systemd-journal-remote --url http://{ip}:19531"
    );
    c.must_ssh(&collector, &start).await?;
    let read = format!(
        "sudo journalctl _HOSTNAME=gateway -t core --file /var/log/journal/remote/remote-{ip}.journal"
    );
    retry(&c, 5, seconds(2), || c.assert_output_contains(&collector, &read, WORD)).await?;
    c.destroy_machine(&collector).await;
    c.destroy_machine(&gateway).await;
    Ok(())
}

/// A gshadow entry whose line fits glibc's buffer while its list of members does not (Container Linux bug 1394).
async fn gshadow(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    for line in ["grp0:*::root".to_owned(), long_entry(), "grp2:*::root".to_owned()] {
        c.must_ssh(&m, &format!("echo '{line}' | sudo tee -a /etc/gshadow")).await?;
    }
    c.must_ssh(&m, "sudo systemd-sysusers").await.map(drop)
}

fn long_entry() -> String {
    let members = (1..=47).map(|n| format!("somebody.a{n}"));
    format!("grp1:*::{}", members.chain(["a1234".to_owned()]).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_entry_has_all_members() {
        let line = long_entry();
        assert!(
            line.starts_with("grp1:*::somebody.a1,somebody.a2,") && line.ends_with(",somebody.a47,a1234"),
            "{line}"
        );
        assert_eq!(line.split(',').count(), 48);
    }
}
