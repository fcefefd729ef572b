//! What Ignition does at the first boot, and only then: users, groups, files, units, keys.
//!
//! Upstream has most tests twice, for versions 1 and 2 of the config specification. A system that speaks version 3
//! runs both of a pair with the same translated config.

pub mod disks;
pub mod remote;

use color_eyre::eyre::{Result, ensure};

use super::helpers::{boots, is_debian, reboot};
use crate::kola::cluster::TestCluster;
use crate::kola::register::{Config, Flag, Test};

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("cl.ignition.v1.once", once)
            .description("Ignition does not run again at the second boot (config 1)")
            .ignition(ONCE_V1)
            .ignition_v3(ONCE_V3)
            .distros(["cl", "debian"]),
        Test::new("coreos.ignition.v2.once", once)
            .description("Ignition does not run again at the second boot (config 2)")
            .ignition(ONCE_V2)
            .ignition_v3(ONCE_V3)
            .distros(["cl", "rhcos", "fcos", "debian"]),
        Test::new("cl.ignition.v1.sethostname", set_hostname)
            .description("Ignition sets the machine's name (config 1)")
            .ignition(HOSTNAME_V1)
            .ignition_v3(HOSTNAME_V3)
            .distros(["cl", "debian"]),
        Test::new("coreos.ignition.v2.sethostname", set_hostname)
            .description("Ignition sets the machine's name (config 2)")
            .ignition(HOSTNAME_V2)
            .ignition_v3(HOSTNAME_V3)
            .distros(["cl", "rhcos", "fcos", "debian"]),
        Test::new("coreos.ignition.v1.groups", groups)
            .description("Ignition makes groups (config 1)")
            .ignition(GROUPS_V1)
            .ignition_v3(GROUPS_V3)
            .distros(["cl", "rhcos", "fcos", "debian"]),
        Test::new("coreos.ignition.v2.groups", groups)
            .description("Ignition makes groups (config 2)")
            .ignition(GROUPS_V2)
            .ignition_v3(GROUPS_V3)
            .distros(["cl", "rhcos", "fcos", "debian"]),
        Test::new("cl.ignition.v1.users", users)
            .description("Ignition makes and changes users (config 1)")
            .ignition(CL_USERS_V1)
            .ignition_v3(DOCKER_USERS_V3)
            .distros(["cl", "debian"]),
        Test::new("cl.ignition.v2.users", users)
            .description("Ignition makes and changes users (config 2)")
            .ignition(CL_USERS_V2)
            .ignition_v3(DOCKER_USERS_V3)
            .distros(["cl", "debian"]),
        Test::new("rhcos.ignition.v1.users", users)
            .description("Ignition makes and changes users, as rhcos has them (config 1)")
            .ignition(RHCOS_USERS_V1)
            .ignition_v3(SUDO_USERS_V3)
            .distros(["rhcos", "fcos", "debian"]),
        Test::new("rhcos.ignition.v2.users", users)
            .description("Ignition makes and changes users, as rhcos has them (config 2)")
            .ignition(RHCOS_USERS_V2)
            .ignition_v3(SUDO_USERS_V3)
            .distros(["rhcos", "fcos", "debian"]),
        Test::new("coreos.ignition.systemd.enable-service", enable_service)
            .description("A unit that Ignition enables is started at the first boot already")
            .ignition(ENABLE)
            .ignition_v3(ENABLE_V3)
            .features(["kernel", "nfs"]),
        // That the machine boots and lets us in is the test. Where keys only come by userdata it would prove nothing.
        // Container Linux bug 1184.
        Test::new("cl.ignition.misc.empty", boots)
            .description("A machine boots with empty userdata")
            .user_data(Config::Empty)
            .exclude_platforms(["qemu", "esx", "nspawn"])
            .distros(["cl"]),
        // Container Linux bug 1981.
        Test::new("cl.ignition.v1.noop", boots)
            .description("A machine boots with a config that does nothing (config 1)")
            .ignition(NOOP_V1)
            .ignition_v3(NOOP_V3)
            .exclude_platforms(["qemu", "esx", "openstack", "nspawn"])
            .distros(["cl"])
            .flags([Flag::NoSshKeyInUserData]),
        Test::new("cl.ignition.v2.noop", boots)
            .description("A machine boots with a config that does nothing (config 2)")
            .ignition(NOOP_V2)
            .ignition_v3(NOOP_V3)
            .exclude_platforms(["qemu", "esx", "openstack", "nspawn"])
            .distros(["cl"])
            .flags([Flag::NoSshKeyInUserData]),
        Test::new("coreos.ignition.v1.ssh.key", boots)
            .description("SSH keys come by the config alone, not by metadata (config 1)")
            .ignition(NOOP_V1)
            .ignition_v3(NOOP_V3)
            .exclude_platforms(["qemu", "nspawn"])
            .distros(["cl", "rhcos"])
            .flags([Flag::NoSshKeyInMetadata]),
        Test::new("coreos.ignition.v2.ssh.key", boots)
            .description("SSH keys come by the config alone, not by metadata (config 2)")
            .ignition(NOOP_V2)
            .ignition_v3(NOOP_V3)
            .exclude_platforms(["qemu", "nspawn"])
            .distros(["cl", "rhcos"])
            .flags([Flag::NoSshKeyInMetadata]),
    ]
}

const NOOP_V1: &str = r#"{"ignitionVersion": 1}"#;
const NOOP_V2: &str = r#"{"ignition": {"version": "2.0.0"}}"#;
const NOOP_V3: &str = r#"{"ignition": {"version": "3.0.0"}}"#;

const ONCE_V1: &str = r#"{
  "ignitionVersion": 1,
  "storage": {"filesystems": [{
    "device": "/dev/disk/by-partlabel/ROOT",
    "format": "ext4",
    "files": [{"path": "/etc/ignition-ran", "contents": "Ignition ran.", "mode": 420}]
  }]}
}"#;

const ONCE_V2: &str = r#"{
  "ignition": {"version": "2.0.0"},
  "storage": {"files": [
    {"filesystem": "root", "path": "/etc/ignition-ran", "contents": {"source": "data:,Ignition%20ran."}, "mode": 420}
  ]}
}"#;

const ONCE_V3: &str = r#"{
  "ignition": {"version": "3.0.0"},
  "storage": {"files": [
    {"path": "/etc/ignition-ran", "contents": {"source": "data:,Ignition%20ran."}, "mode": 420}
  ]}
}"#;

/// Ignition does not run again at the second boot.
async fn once(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    c.must_ssh(&m, "sudo rm /etc/ignition-ran").await?;
    reboot(&c, &m).await?;
    c.must_ssh(&m, "test ! -e /etc/ignition-ran").await.map(drop)
}

const HOSTNAME_V1: &str = r#"{
  "ignitionVersion": 1,
  "storage": {"filesystems": [{
    "device": "/dev/disk/by-partlabel/ROOT",
    "format": "ext4",
    "files": [{"path": "/etc/hostname", "mode": 420, "contents": "core1"}]
  }]}
}"#;

const HOSTNAME_V2: &str = r#"{
  "ignition": {"version": "2.0.0"},
  "storage": {"files": [
    {"filesystem": "root", "path": "/etc/hostname", "mode": 420, "contents": {"source": "data:,core1"}}
  ]}
}"#;

const HOSTNAME_V3: &str = r#"{
  "ignition": {"version": "3.0.0"},
  "storage": {"files": [
    {"path": "/etc/hostname", "mode": 420, "overwrite": true, "contents": {"source": "data:,core1"}}
  ]}
}"#;

async fn set_hostname(c: TestCluster) -> Result<()> {
    c.assert_output_contains(&*c.machine(0)?, "hostnamectl", "Static hostname: core1").await
}

const GROUPS_V1: &str = r#"{
  "ignitionVersion": 1,
  "systemd": {"units": [{"name": "system-cloudinit@usr-share-coreos-developer_data.service", "mask": true}]},
  "passwd": {"groups": [
    {"name": "group1", "gid": 501},
    {"name": "group2", "gid": 502, "passwordHash": "foobar"}
  ]}
}"#;

const GROUPS_V2: &str = r#"{
  "ignition": {"version": "2.0.0"},
  "systemd": {"units": [{"name": "system-cloudinit@usr-share-coreos-developer_data.service", "mask": true}]},
  "passwd": {"groups": [
    {"name": "group1", "gid": 501},
    {"name": "group2", "gid": 502, "passwordHash": "foobar"}
  ]}
}"#;

const GROUPS_V3: &str = r#"{
  "ignition": {"version": "3.0.0"},
  "passwd": {"groups": [
    {"name": "group1", "gid": 501},
    {"name": "group2", "gid": 502, "passwordHash": "foobar"}
  ]}
}"#;

async fn groups(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    // Debian's groupadd locks a group that has no password in its own way.
    let none: &[&str] = if is_debian(&c) { &["*", "!"] } else { &["*"] };
    for (name, gid, passwords) in [("group1", 501, none), ("group2", 502, &["foobar"])] {
        expect_entry(
            &c,
            "group",
            &c.must_ssh(&m, &format!("sudo getent group {name}")).await?,
            &[format!("{name}:x:{gid}:")],
        );
        let shadow: Vec<String> = passwords.iter().map(|p| format!("{name}:{p}::")).collect();
        expect_entry(&c, "gshadow", &c.must_ssh(&m, &format!("sudo getent gshadow {name}")).await?, &shadow);
    }
    Ok(())
}

/// Marks the test failed unless the entry is one of those wanted.
fn expect_entry(c: &TestCluster, database: &str, got: &str, wanted: &[String]) {
    if !wanted.iter().any(|w| w == got) {
        c.error(format!("{database}: got {got:?}, wanted {}", wanted.join(" or ")));
    }
}

const CL_USERS_V1: &str = r#"{
  "ignitionVersion": 1,
  "systemd": {"units": [{"name": "system-cloudinit@usr-share-coreos-developer_data.service", "mask": true}]},
  "passwd": {"users": [
    {"name": "core", "passwordHash": "foobar"},
    {"name": "user1", "create": {}},
    {"name": "user2", "create": {"uid": 1010, "groups": ["docker"]}}
  ]}
}"#;

const CL_USERS_V2: &str = r#"{
  "ignition": {"version": "2.0.0"},
  "systemd": {"units": [{"name": "system-cloudinit@usr-share-coreos-developer_data.service", "mask": true}]},
  "passwd": {"users": [
    {"name": "core", "passwordHash": "foobar"},
    {"name": "user1", "create": {}},
    {"name": "user2", "create": {"uid": 1010, "groups": ["docker"]}}
  ]}
}"#;

const RHCOS_USERS_V1: &str = r#"{
  "ignitionVersion": 1,
  "passwd": {"users": [
    {"name": "core", "passwordHash": "foobar"},
    {"name": "user1", "create": {}},
    {"name": "user2", "create": {"uid": 1010, "groups": ["sudo"]}}
  ]}
}"#;

const RHCOS_USERS_V2: &str = r#"{
  "ignition": {"version": "2.0.0"},
  "passwd": {"users": [
    {"name": "core", "passwordHash": "foobar"},
    {"name": "user1", "create": {}},
    {"name": "user2", "create": {"uid": 1010, "groups": ["sudo"]}}
  ]}
}"#;

const DOCKER_USERS_V3: &str = r#"{
  "ignition": {"version": "3.0.0"},
  "passwd": {"users": [
    {"name": "core", "passwordHash": "foobar"},
    {"name": "user1"},
    {"name": "user2", "uid": 1010, "groups": ["docker"]}
  ]}
}"#;

const SUDO_USERS_V3: &str = r#"{
  "ignition": {"version": "3.0.0"},
  "passwd": {"users": [
    {"name": "core", "passwordHash": "foobar"},
    {"name": "user1"},
    {"name": "user2", "uid": 1010, "groups": ["sudo"]}
  ]}
}"#;

/// Users are made and changed; values are those of the distribution's useradd.
async fn users(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    let entries = match c.distro() {
        "cl" => [
            "core:x:500:500:CoreOS Admin:/home/core:/bin/bash",
            "user1:x:1000:1000::/home/user1:/bin/bash",
            "user2:x:1010:1010::/home/user2:/bin/bash",
        ],
        "debian" => [
            "core:x:500:500:CoreOS Admin:/home/core:/bin/bash",
            "user1:x:1000:1000::/home/user1:/bin/sh",
            "user2:x:1010:1010::/home/user2:/bin/sh",
        ],
        _ => [
            "core:x:1000:1000::/home/core:/bin/bash",
            "user1:x:1001:1001::/var/home/user1:/bin/bash",
            "user2:x:1010:1010::/var/home/user2:/bin/bash",
        ],
    };
    for ((name, hash), entry) in [("core", "foobar"), ("user1", "*"), ("user2", "*")].into_iter().zip(entries)
    {
        let got = c.must_ssh(&m, &format!("sudo getent passwd {name}")).await?;
        expect_entry(&c, "passwd", &got, &[entry.to_owned()]);
        let shadow = c.must_ssh(&m, &format!("sudo getent shadow {name}")).await?;
        let got: Vec<&str> = shadow.split(':').take(2).collect();
        expect_entry(&c, "shadow", &got.join(":"), &[format!("{name}:{hash}")]);
    }
    Ok(())
}

const ENABLE: &str = r#"{
  "ignition": {"version": "2.2.0"},
  "systemd": {"units": [{"name": "nfs-server.service", "enabled": true}]},
  "storage": {"files": [
    {"filesystem": "root", "path": "/etc/exports"},
    {"filesystem": "root", "path": "/var/lib/nfs/etab"}
  ]}
}"#;

const ENABLE_V3: &str = r#"{
  "ignition": {"version": "3.0.0"},
  "systemd": {"units": [{"name": "nfs-server.service", "enabled": true}]},
  "storage": {"files": [
    {"path": "/etc/exports"},
    {"path": "/var/lib/nfs/etab"}
  ]}
}"#;

/// A unit that Ignition enables is started at the first boot already.
async fn enable_service(c: TestCluster) -> Result<()> {
    let status = c.must_ssh(&*c.machine(0)?, "systemctl status nfs-server.service").await?;
    ensure!(!status.contains("inactive"), "nfs-server.service is not active:\n{status}");
    Ok(())
}
