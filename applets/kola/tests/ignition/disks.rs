//! What Ignition does to partitions: file systems, swap, RAID.

use color_eyre::eyre::{Result, bail, ensure};
use mantle::platform::guest::Guest;
use mantle::platform::{Disk, MachineOptions};
use serde_json::Value;

use crate::kola::cluster::TestCluster;
use crate::kola::register::Test;
use crate::kola::tests::helpers::{must_equal, pick, reboot};

const UUID: &str = "9aa5237a-ab6b-458b-a7e8-f25e2baef1a3";
const VFAT_ID: &str = "1A37-8FA3";

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        reformatted(
            Test::new("cl.ignition.v1.btrfsroot", |c| reformatted_root(c, "btrfs"))
                .description("Ignition makes the root file system anew, as btrfs (config 1)"),
        )
        .ignition(BTRFS_V1)
        .ignition_v3(BTRFS_V3)
        .features(["btrfs", "disks"]),
        reformatted(
            Test::new("cl.ignition.v2.btrfsroot", |c| reformatted_root(c, "btrfs"))
                .description("Ignition makes the root file system anew, as btrfs (config 2)"),
        )
        .ignition(BTRFS_V2)
        .ignition_v3(BTRFS_V3)
        .features(["btrfs", "disks"]),
        reformatted(
            Test::new("cl.ignition.v1.xfsroot", |c| reformatted_root(c, "xfs"))
                .description("Ignition makes the root file system anew, as xfs (config 1)"),
        )
        .ignition(XFS_V1)
        .ignition_v3(XFS_V3)
        .features(["disks", "xfs"]),
        reformatted(
            Test::new("cl.ignition.v2.xfsroot", |c| reformatted_root(c, "xfs"))
                .description("Ignition makes the root file system anew, as xfs (config 2)"),
        )
        .ignition(XFS_V2)
        .ignition_v3(XFS_V3)
        .features(["disks", "xfs"]),
        reformatted(
            Test::new("cl.ignition.v1.ext4root", |c| reformatted_root(c, "ext4"))
                .description("Ignition makes the root file system anew, as ext4 (config 1)"),
        )
        .ignition(EXT4_V1)
        .ignition_v3(EXT4_V3)
        .features(["disks"]),
        reformatted(
            Test::new("cl.ignition.v2.ext4root", |c| reformatted_root(c, "ext4"))
                .description("Ignition makes the root file system anew, as ext4 (config 2)"),
        )
        .ignition(EXT4_V2)
        .ignition_v3(EXT4_V3)
        .features(["disks"]),
        Test::new("cl.ignition.v2_1.vfat", |c| async move {
            has(&c, &*c.machine(0)?, "USR-B", VFAT_ID, "vfat").await
        })
        .description("Ignition makes a vfat file system with label and ID")
        .ignition(VFAT)
        .ignition_v3(VFAT_V3)
        .distros(["cl", "debian"])
        .features(["disks"]),
        Test::new("cl.ignition.v2_1.swap", |c| async move {
            has(&c, &*c.machine(0)?, "USR-B", UUID, "swap").await
        })
        .description("Ignition makes a swap area with label and UUID")
        .ignition(SWAP)
        .ignition_v3(SWAP_V3)
        .distros(["cl", "debian"])
        .features(["disks"]),
        Test::new("cl.ignition.v2_1.ext4checkexisting", ext4_check_existing)
            .description("A file system that is what the config asks for is left alone")
            .distros(["cl", "debian"])
            .features(["disks"]),
        Test::new("cl.disk.raid.root", raid_root)
            .description("The root file system on a RAID of level 1, before and after a reboot")
            .container_linux(RAID_ROOT)
            .cluster_size(0)
            .platforms(["qemu"])
            .distros(["cl"])
            .features(["disks", "mdadm"]),
        Test::new("cl.disk.raid.data", raid_data)
            .description("Ignition makes a RAID of level 1 and mounts it")
            .container_linux(RAID_DATA)
            .distros(["cl", "debian"])
            .features(["disks", "mdadm"]),
    ]
}

/// What tests that give the root file system another format (or just another UUID) have in common.
fn reformatted(test: Test) -> Test {
    test.distros(["cl", "debian"])
}

const BTRFS_V1: &str = r#"{
  "ignitionVersion": 1,
  "storage": {"filesystems": [{
    "device": "/dev/disk/by-partlabel/ROOT",
    "format": "btrfs",
    "create": {"force": true, "options": ["--label=ROOT", "--uuid=9aa5237a-ab6b-458b-a7e8-f25e2baef1a3"]}
  }]}
}"#;

const BTRFS_V2: &str = r#"{
  "ignition": {"version": "2.0.0"},
  "storage": {"filesystems": [{"mount": {
    "device": "/dev/disk/by-label/ROOT",
    "format": "btrfs",
    "create": {"force": true, "options": ["--label=ROOT", "--uuid=9aa5237a-ab6b-458b-a7e8-f25e2baef1a3"]}
  }}]}
}"#;

const BTRFS_V3: &str = r#"{
  "ignition": {"version": "3.0.0"},
  "storage": {"filesystems": [{
    "device": "/dev/disk/by-partlabel/ROOT",
    "format": "btrfs",
    "wipeFilesystem": true,
    "label": "ROOT",
    "uuid": "9aa5237a-ab6b-458b-a7e8-f25e2baef1a3"
  }]}
}"#;

const XFS_V1: &str = r#"{
  "ignitionVersion": 1,
  "storage": {"filesystems": [{
    "device": "/dev/disk/by-partlabel/ROOT",
    "format": "xfs",
    "create": {"force": true, "options": ["-L", "ROOT", "-m", "uuid=9aa5237a-ab6b-458b-a7e8-f25e2baef1a3"]}
  }]}
}"#;

const XFS_V2: &str = r#"{
  "ignition": {"version": "2.0.0"},
  "storage": {"filesystems": [{"mount": {
    "device": "/dev/disk/by-partlabel/ROOT",
    "format": "xfs",
    "create": {"force": true, "options": ["-L", "ROOT", "-m", "uuid=9aa5237a-ab6b-458b-a7e8-f25e2baef1a3"]}
  }}]}
}"#;

const XFS_V3: &str = r#"{
  "ignition": {"version": "3.0.0"},
  "storage": {"filesystems": [{
    "device": "/dev/disk/by-partlabel/ROOT",
    "format": "xfs",
    "wipeFilesystem": true,
    "label": "ROOT",
    "uuid": "9aa5237a-ab6b-458b-a7e8-f25e2baef1a3"
  }]}
}"#;

const EXT4_V1: &str = r#"{
  "ignitionVersion": 1,
  "storage": {"filesystems": [{
    "device": "/dev/disk/by-partlabel/ROOT",
    "format": "ext4",
    "create": {"force": true, "options": ["-L", "ROOT", "-U", "9aa5237a-ab6b-458b-a7e8-f25e2baef1a3"]}
  }]}
}"#;

const EXT4_V2: &str = r#"{
  "ignition": {"version": "2.0.0"},
  "storage": {"filesystems": [{"mount": {
    "device": "/dev/disk/by-partlabel/ROOT",
    "format": "ext4",
    "create": {"force": true, "options": ["-L", "ROOT", "-U", "9aa5237a-ab6b-458b-a7e8-f25e2baef1a3"]}
  }}]}
}"#;

const EXT4_V3: &str = r#"{
  "ignition": {"version": "3.0.0"},
  "storage": {"filesystems": [{
    "device": "/dev/disk/by-partlabel/ROOT",
    "format": "ext4",
    "wipeFilesystem": true,
    "label": "ROOT",
    "uuid": "9aa5237a-ab6b-458b-a7e8-f25e2baef1a3"
  }]}
}"#;

async fn reformatted_root(c: TestCluster, format: &str) -> Result<()> {
    let m = c.machine(0)?;
    has(&c, &m, "ROOT", UUID, format).await?;
    must_equal(&c, &m, "findmnt --noheadings --output FSTYPE --target /", format).await
}

/// The file system with this label has this UUID and format.
async fn has(c: &TestCluster, m: &Guest, label: &str, uuid: &str, format: &str) -> Result<()> {
    let device = format!("/dev/disk/by-label/{label}");
    must_equal(c, m, &format!("sudo blkid -s UUID -o value {device}"), uuid).await?;
    must_equal(c, m, &format!("sudo blkid -s TYPE -o value {device}"), format).await
}

const VFAT: &str = r#"{
  "ignition": {"version": "2.1.0"},
  "storage": {"filesystems": [{"mount": {
    "device": "/dev/disk/by-partlabel/USR-B",
    "format": "vfat",
    "wipeFilesystem": true,
    "label": "USR-B",
    "uuid": "1A37-8FA3"
  }}]}
}"#;

const VFAT_V3: &str = r#"{
  "ignition": {"version": "3.0.0"},
  "storage": {"filesystems": [{
    "device": "/dev/disk/by-partlabel/USR-B",
    "format": "vfat",
    "wipeFilesystem": true,
    "label": "USR-B",
    "uuid": "1A37-8FA3"
  }]}
}"#;

const SWAP: &str = r#"{
  "ignition": {"version": "2.1.0"},
  "storage": {"filesystems": [{"mount": {
    "device": "/dev/disk/by-partlabel/USR-B",
    "format": "swap",
    "wipeFilesystem": true,
    "label": "USR-B",
    "uuid": "9aa5237a-ab6b-458b-a7e8-f25e2baef1a3"
  }}]}
}"#;

const SWAP_V3: &str = r#"{
  "ignition": {"version": "3.0.0"},
  "storage": {"filesystems": [{
    "device": "/dev/disk/by-partlabel/USR-B",
    "format": "swap",
    "wipeFilesystem": true,
    "label": "USR-B",
    "uuid": "9aa5237a-ab6b-458b-a7e8-f25e2baef1a3"
  }]}
}"#;

const EXISTING: &str = r#"{
  "ignition": {"version": "2.1.0"},
  "storage": {"filesystems": [
    {"mount": {"device": "/dev/disk/by-partlabel/ROOT", "format": "ext4", "label": "ROOT"}}
  ]}
}"#;

const EXISTING_V3: &str = r#"{
  "ignition": {"version": "3.0.0"},
  "storage": {"filesystems": [
    {"device": "/dev/disk/by-partlabel/ROOT", "format": "ext4", "label": "ROOT", "wipeFilesystem": false}
  ]}
}"#;

/// A file system that is already what the config asks for is left alone.
async fn ext4_check_existing(c: TestCluster) -> Result<()> {
    const ASK: &str = "sudo blkid /dev/disk/by-partlabel/ROOT -s UUID -o value";
    let before = c.must_ssh(&*c.machine(0)?, ASK).await?;
    let other = c.new_machine(Some(pick(&c, EXISTING, EXISTING_V3))).await?;
    let after = c.must_ssh(&other, ASK).await?;
    ensure!(before == after, "filesystem was reformatted: its UUID was {before:?} and is {after:?}");
    Ok(())
}

const RAID_DATA: &str = "
storage:
  raid:
    - name: DATA
      level: raid1
      devices:
        - /dev/disk/by-partlabel/OEM-CONFIG
        - /dev/disk/by-partlabel/USR-B
  filesystems:
    - name: DATA
      mount:
        device: /dev/md/DATA
        format: ext4
        label: DATA
systemd:
  units:
    - name: var-lib-data.mount
      enabled: true
      contents: |
        [Unit]
        Before=local-fs.target

        [Mount]
        What=/dev/md/DATA
        Where=/var/lib/data
        Type=ext4

        [Install]
        WantedBy=local-fs.target
";

/// The old root file system must not be found by its label any more.
const RAID_ROOT: &str = "
storage:
  disks:
    - device: /dev/disk/by-id/virtio-secondary
      wipe_table: true
      partitions:
        - label: root1
          number: 1
          size: 256MiB
          type_guid: be9067b9-ea49-4f15-b4f6-f36f8c9e1818
        - label: root2
          number: 2
          size: 256MiB
          type_guid: be9067b9-ea49-4f15-b4f6-f36f8c9e1818
  raid:
    - name: rootarray
      level: raid1
      devices:
        - /dev/disk/by-partlabel/root1
        - /dev/disk/by-partlabel/root2
  filesystems:
    - name: ROOT
      mount:
        device: /dev/md/rootarray
        format: ext4
        label: ROOT
    - name: NOT_ROOT
      mount:
        device: /dev/disk/by-id/virtio-primary-disk-part9
        format: ext4
        label: wasteland
        wipe_filesystem: true
";

async fn raid_root(c: TestCluster) -> Result<()> {
    let secondary = Disk::Empty { size: "520M".into(), device: vec!["serial=secondary".into()] };
    let options = MachineOptions { disks: vec![secondary], ..MachineOptions::default() };
    let m = c.new_machine_with(c.user_data(), options).await?;
    on_raid(&c, &m, "/").await?;
    reboot(&c, &m).await?;
    on_raid(&c, &m, "/").await
}

async fn raid_data(c: TestCluster) -> Result<()> {
    const PLACE: &str = "/var/lib/data";
    let m = c.machine(0)?;
    on_raid(&c, &m, PLACE).await?;
    reboot(&c, &m).await?;
    on_raid(&c, &m, PLACE).await
}

/// What is mounted at `place` lies on a RAID of level 1.
async fn on_raid(c: &TestCluster, m: &Guest, place: &str) -> Result<()> {
    let text = c.must_ssh(m, "lsblk --json").await?;
    let found = mounted_device(&serde_json::from_str(&text)?, place);
    let Some((name, kind)) = found else { bail!("nothing is mounted at {place}:\n{text}") };
    ensure!(kind == "raid1", "{place} is on device {name} of type {kind:?}, not raid1");
    Ok(())
}

/// Name and type of the device that is mounted at `place`, in the output of lsblk.
fn mounted_device(lsblk: &Value, place: &str) -> Option<(String, String)> {
    fn search(devices: &Value, place: &str) -> Option<(String, String)> {
        devices.as_array()?.iter().find_map(|device| {
            // A list since util-linux 2.37, with null for a device that is not mounted.
            let places = device["mountpoints"].as_array().into_iter().flatten();
            if places.chain([&device["mountpoint"]]).any(|p| p == place) {
                let text = |key: &str| device[key].as_str().unwrap_or_default().to_owned();
                return Some((text("name"), text("type")));
            }
            search(&device["children"], place)
        })
    }
    search(&lsblk["blockdevices"], place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn mounts_are_found_in_both_forms_of_lsblk() {
        let new = json!({"blockdevices": [
            {"name": "vda", "type": "disk", "mountpoints": [null], "children": [
                {"name": "vda4", "type": "part", "mountpoints": [null], "children": [
                    {"name": "md127", "type": "raid1", "mountpoints": ["/var/lib/data", "/x"]}
                ]}
            ]}
        ]});
        assert_eq!(mounted_device(&new, "/var/lib/data"), Some(("md127".into(), "raid1".into())));
        assert_eq!(mounted_device(&new, "/x").unwrap().1, "raid1");
        assert_eq!(mounted_device(&new, "/"), None);
        let old = json!({"blockdevices": [
            {"name": "vda", "type": "disk", "mountpoint": null},
            {"name": "md0", "type": "raid1", "mountpoint": "/"}
        ]});
        assert_eq!(mounted_device(&old, "/").unwrap().0, "md0");
        assert_eq!(mounted_device(&json!({}), "/"), None);
    }
}
