//! NFS from one machine to another.

use color_eyre::eyre::{Result, eyre};
use mantle::conf::UserData;

use super::helpers::{must_equal, retry, seconds};
use crate::kola::cluster::TestCluster;
use crate::kola::register::Test;

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("linux.nfs.v3", |c| nfs(c, &Version { number: "3", kind: "nfs", path: "/tmp" }))
            .description("A file made on an NFS server is seen by a client, version 3")
            .cluster_size(0)
            .distros(["cl", "fcos", "debian"])
            .features(["cluster-network", "kernel", "nfs"]),
        Test::new("linux.nfs.v4", |c| nfs(c, &Version { number: "4", kind: "nfs4", path: "/" }))
            .description("A file made on an NFS server is seen by a client, version 4")
            .cluster_size(0)
            .features(["cluster-network", "kernel", "nfs"]),
    ]
}

/// How the same folder is mounted by different versions of the protocol.
struct Version {
    number: &'static str,
    kind: &'static str,
    path: &'static str,
}

const SERVER: &str = "
storage:
  files:
    - path: /etc/hostname
      mode: 0644
      contents: {inline: nfs1}
    - path: /etc/exports
      mode: 0644
      contents:
        inline: |
          /tmp  *(ro,insecure,all_squash,no_subtree_check,fsid=0)
    - path: /var/lib/nfs/etab
      mode: 0644
systemd:
  units:
    - name: nfs-server.service
      enabled: true
";

const CLIENT: &str = "
storage:
  files:
    - path: /etc/hostname
      mode: 0644
      contents: {inline: nfs2}
systemd:
  units:
    - name: var-mnt.mount
      enabled: true
      contents: $MOUNT
";

/// A file made on the server is seen on a client that mounts its folder.
async fn nfs(c: TestCluster, version: &Version) -> Result<()> {
    let server = c.new_machine(Some(UserData::container_linux_config(SERVER))).await?;
    let file = c.must_ssh(&server, "mktemp").await?;
    let unit = mount_unit(&server.private_ip(), version);
    // A JSON text is YAML, too.
    let config =
        UserData::container_linux_config(CLIENT).subst("$MOUNT", &serde_json::Value::from(unit).to_string());
    let client = c.new_machine(Some(config)).await?;
    retry(&c, 10, seconds(3), || must_equal(&c, &client, "systemctl is-active var-mnt.mount", "active"))
        .await?;
    let name =
        file.rsplit('/').next().filter(|n| !n.is_empty()).ok_or_else(|| eyre!("mktemp said {file:?}"))?;
    c.must_ssh(&client, &format!("stat /var/mnt/{name}")).await.map(drop)
}

fn mount_unit(server: &str, version: &Version) -> String {
    let Version { number, kind, path } = version;
    format!(
        "[Unit]
After=network-online.target rpc-statd.service
Requires=network-online.target rpc-statd.service

[Mount]
What={server}:{path}
Where=/var/mnt
Type={kind}
Options=defaults,noexec,nfsvers={number}

[Install]
WantedBy=multi-user.target
"
    )
}
