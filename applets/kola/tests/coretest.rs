//! The basic tests: one body that runs functions on the guest.

use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use color_eyre::eyre::{Result, WrapErr as _, bail, ensure};
use uuid::Uuid;

use crate::kola::cluster::TestCluster;
use crate::kola::register::{Flag, Native, Test};

const PORT_SSH: Native = Native::new("PortSSH", port_ssh);
const DBUS_PERMS: Native = Native::new("DbusPerms", dbus_perms);
const READ_ONLY: Native = Native::new("ReadOnly", read_only);
const RANDOM_UUID: Native = Native::new("RandomUUID", random_uuid).needs(&["disks"]);
const SYMLINK: Native = Native::new("Symlink", symlink);
const USERADD: Native = Native::new("Useradd", useradd);
const MACHINE_ID: Native = Native::new("MachineID", machine_id);

const CL: &[Native] = &[
    CLOUD_CONFIG,
    SCRIPT,
    PORT_SSH,
    DBUS_PERMS,
    SYMLINK,
    UPDATE_ENGINE_KEYS,
    Native::new("ServicesActive", || {
        services_active(&[
            "multi-user.target",
            "docker.socket",
            "systemd-timesyncd.service",
            "update-engine.service",
        ])
    }),
    READ_ONLY,
    RANDOM_UUID,
    USERADD,
    MACHINE_ID,
];

const INTERNET: &[Native] = &[
    Native::new("UpdateEngine", || sh("timeout 20 update_engine_client -status").map(drop)),
    Native::new("DockerPing", || sh("timeout 60 docker run busybox ping -c4 coreos.com").map(drop)),
    Native::new("DockerEcho", || sh("timeout 60 docker run busybox echo").map(drop)),
    Native::new("NTPDate", || sh("timeout 20 ntpdate -d -s -u pool.ntp.org").map(drop)),
];

const DEBIAN: &[Native] = &[
    PORT_SSH,
    DBUS_PERMS,
    Native::new(
        "ServicesActive",
        // Docker is not in every image.
        || {
            services_active(&["multi-user.target", "systemd-timesyncd.service"])?;
            match Path::new("/usr/lib/systemd/system/docker.socket").exists() {
                true => services_active(&["docker.socket"]),
                false => Ok(()),
            }
        },
    )
    .needs(&["timesyncd"]),
    READ_ONLY,
    RANDOM_UUID,
    SYMLINK,
    USERADD,
    MACHINE_ID,
];

const FCOS: &[Native] = &[
    PORT_SSH,
    DBUS_PERMS,
    Native::new("ServicesActive", || services_active(&["multi-user.target"])),
    READ_ONLY,
    USERADD,
    MACHINE_ID,
];

const RHCOS: &[Native] = &[
    PORT_SSH,
    DBUS_PERMS,
    Native::new("ServicesActive", || services_active(&["multi-user.target", "crio.service"])),
    READ_ONLY,
    USERADD,
    MACHINE_ID,
];

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("cl.basic", natives)
            .description("The system as it comes: services, users, disks, keys")
            .native(CL)
            .distros(["cl"])
            .features(["cloudinit", "dbus", "disks", "docker", "ro-usr", "timesyncd", "update-engine"]),
        Test::new("cl.internet", natives)
            .description("Updates, containers and time from the Internet")
            .native(INTERNET)
            .distros(["cl"])
            .flags([Flag::RequiresInternetAccess])
            .features(["docker", "update-engine"]),
        Test::new("debian.basic", natives)
            .description("The system as it comes: services, users, disks")
            .native(DEBIAN)
            .distros(["debian"])
            .features(["dbus", "ro-usr"]),
        Test::new("fcos.basic", natives)
            .description("The system as it comes: services, users")
            .native(FCOS)
            .distros(["fcos", "debian"])
            .features(["dbus", "ro-usr"]),
        Test::new("rhcos.basic", natives)
            .description("The system as it comes: services, users")
            .native(RHCOS)
            .distros(["rhcos"])
            .features(["crio", "dbus", "ro-usr"]),
    ]
}

async fn natives(c: TestCluster) -> Result<()> {
    c.run_natives(&c.machine(0)?).await
}

/// Runs a shell command line and returns its stdout; the error has both outputs.
fn sh(command: &str) -> Result<String> {
    let out = Command::new("bash").args(["-c", command]).output().wrap_err("cannot start bash")?;
    let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{command:?}: {}: {}{stderr}", out.status, stdout);
    Ok(stdout)
}

fn port_ssh() -> Result<()> {
    let address = (Ipv4Addr::LOCALHOST, 22).into();
    TcpStream::connect_timeout(&address, Duration::from_secs(3))
        .map(drop)
        .wrap_err("cannot connect to port 22 of this machine")
}

fn services_active(units: &[&str]) -> Result<()> {
    for unit in units {
        sh(&format!("systemctl is-active {unit}")).wrap_err_with(|| format!("{unit} is not active"))?;
    }
    Ok(())
}

/// A normal user may look at units but not restart them.
fn dbus_perms() -> Result<()> {
    const CALL: &str = "sudo -u core gdbus call --system --dest org.freedesktop.systemd1";
    let restart = format!(
        "{CALL} --object-path /org/freedesktop/systemd1 \
         --method org.freedesktop.systemd1.Manager.RestartUnit ntpd.service replace 2>&1"
    );
    match sh(&restart) {
        Ok(_) => bail!("a normal user could restart a unit"),
        Err(e) => {
            let text = format!("{e:#}");
            let refused = ["AccessDenied", "InteractiveAuthorizationRequired"]
                .iter()
                .any(|name| text.contains(&format!("org.freedesktop.DBus.Error.{name}")));
            ensure!(refused, "restarting a unit failed, but for lack of permission: {text}");
        }
    }
    sh(&format!(
        "{CALL} --object-path /org/freedesktop/systemd1/unit/ntpd_2eservice \
         --method org.freedesktop.DBus.Properties.GetAll org.freedesktop.systemd1.Unit"
    ))
    .wrap_err("a normal user cannot read a unit's properties")
    .map(drop)
}

/// `/usr`, or `/` if it has no mount of its own, is mounted read-only.
fn read_only() -> Result<()> {
    let text = std::fs::read_to_string("/proc/mounts").wrap_err("cannot read /proc/mounts")?;
    mounted_read_only(&text)
}

fn mounted_read_only(mounts: &str) -> Result<()> {
    // The last mount on a place is the one that is seen.
    let options: HashMap<&str, &str> = mounts
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.len() >= 6)
        .map(|fields| (fields[1], fields[3]))
        .collect();
    let Some((place, options)) = ["/usr", "/"].iter().find_map(|&p| options.get(p).map(|o| (p, *o))) else {
        bail!("could not find /usr or / in /proc/mounts:\n{mounts}");
    };
    let first = options.split(',').next().unwrap_or_default();
    ensure!(first == "ro", "{place} is not mounted read-only: {options}");
    Ok(())
}

/// The disk has a partition table identifier of its own, not the one all images are made with.
fn random_uuid() -> Result<()> {
    let text = sh("sudo blkid -o value -s PTUUID /dev/$(lsblk -no PKNAME $(findmnt -vno SOURCE /))")?;
    let id = Uuid::parse_str(text.trim()).wrap_err_with(|| format!("malformed disk id {text:?}"))?;
    ensure!(id != Uuid::from_u128(1), "the disk id is still that of the image: {id}");
    Ok(())
}

fn symlink() -> Result<()> {
    let meta = std::fs::symlink_metadata("/etc/resolv.conf").wrap_err("cannot look at /etc/resolv.conf")?;
    ensure!(meta.is_symlink(), "/etc/resolv.conf is not a symbolic link");
    Ok(())
}

fn useradd() -> Result<()> {
    sh("sudo useradd -p '*' -U -m user1 -G sudo")?;
    sh("id user1").map(drop)
}

fn machine_id() -> Result<()> {
    let text = std::fs::read_to_string("/etc/machine-id").wrap_err("cannot read /etc/machine-id")?;
    let id = text.trim();
    ensure!(!id.is_empty() && id != "COREOS_BLANK_MACHINE_ID", "machine id is not set: {text:?}");
    Ok(())
}

// What only Container Linux has.

const CLOUD_CONFIG: Native = Native::new("CloudConfig", cloud_config);
const SCRIPT: Native = Native::new("Script", script);
const UPDATE_ENGINE_KEYS: Native = Native::new("UpdateEngineKeys", update_engine_keys);

/// Public keys whose private halves nobody has.
const KEYS: [&str; 2] = [
    "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC6i/TBY/NHtEAcMeu8pRo31dyq1Z3hTlxG2zwdS0BFj8Vvwuzgamv7GyKNYAH1VattKgDahN15BgSLqY4COwBVg/yO957ThXZcr9hr2579BnsRn+7oeMhOnrTipWQiHpmWSicMaQlvzU2hMcYhafQte8atDJS1+9PxCcg8CHocw3Rpf9ShBktnXeYqOY4SNW8gpH/++xyaZBRHDr6ZsL15deXOKoilbRQAtNR3uPcR1w8DOq7ZH0pyw5bZnGYwgvVzxGL3Bvtex021aRDrU30dqnV80YuGg05VvWbqLwBVxyCEVUr4quwiL055K3HwLhwUwm97eYvctreNf8vbGqjh cloudinit-test-key-one",
    "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQDT48M8DtxXfpNAO8fBvKdhU39AarxvSLlkPIew/a6nGYiADI7/GVS8h7afTszSSCSOuaZntIE9Lj6T4rF6zjCBnaoWauwj0k4bD01xrseWvb2COZkFCnbh0tbfyN4rKTADbt/TiAHyol2wGB860JSTE1PyYobTZBr0Z/k7XiQYzXPGYiOgkXPvVYeDLTtOqcM01VmBwZiogtMp39cKVmYoN0mNPp1oJznB9s+dxEAQ7qmEtrAJ8sLOkn9iRM0sRXAzUIVQJ5ts8gKxmsgUuGEDQfN28i7KrGl30Zp5XBUatEsSd5bQ92iXpx96SmSb1Id3WwDCWfJOOR1aNekKqs1z cloudinit-test-key-two",
];

/// Runs coreos-cloudinit on `config` and then `check`, which gets the workspace; removes both folders afterwards.
fn with_cloudinit(config: &str, check: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let dir = tempfile::tempdir().wrap_err("cannot make a temporary folder")?;
    let (workspace, file) = (dir.path().join("workspace"), dir.path().join("config"));
    std::fs::create_dir(&workspace).wrap_err("cannot make the workspace")?;
    std::fs::write(&file, config).wrap_err("cannot write the config")?;
    let result = sh(&format!(
        "sudo /usr/bin/coreos-cloudinit --workspace {} --from-file {} --ssh-key-name coretest",
        workspace.display(),
        file.display()
    ))
    .and_then(|_| check(&workspace));
    // Some of it belongs to root: the folder's own clean-up could not remove it.
    result.and(sh(&format!("sudo rm -rf {}", dir.path().display())).map(drop))
}

fn cloud_config() -> Result<()> {
    const URL: &str = "https://discovery.etcd.io/827c73219eeb2fa5530027c37bf18877";
    let config = format!(
        "#cloud-config\ncoreos:\n  etcd:\n    discovery: {URL}\nssh_authorized_keys:\n  - {}\n  - {}\n",
        KEYS[0], KEYS[1]
    );
    let result = with_cloudinit(&config, |_| {
        let contains = |path: &str, wanted: &str| -> Result<()> {
            let text = std::fs::read_to_string(path).wrap_err_with(|| format!("cannot read {path}"))?;
            ensure!(text.contains(wanted), "{wanted:?} not found in {path}:\n{text}");
            Ok(())
        };
        let drop_in = "/run/systemd/system/etcd.service.d/20-cloudinit.conf";
        contains(drop_in, &format!("Environment=\"ETCD_DISCOVERY={URL}\""))?;
        KEYS.iter().try_for_each(|key| contains("/home/core/.ssh/authorized_keys", key))
    });
    result.and(sh("update-ssh-keys -d coretest").map(drop))
}

fn script() -> Result<()> {
    with_cloudinit("#!/bin/bash\nsleep 10\n", |workspace| {
        let path = workspace.join("scripts/unit-name");
        let unit = sh(&format!("sudo cat {}", path.display()))?;
        let unit = unit.trim();
        let status = sh(&format!("systemctl status {unit}"));
        let stopped = sh(&format!("sudo systemctl stop {unit}"));
        let status = status?;
        ensure!(status.contains("Active: active"), "{unit} is not active:\n{status}");
        stopped.map(drop)
    })
}

/// The key that updates are checked with is one of the two that were ever in use.
fn update_engine_keys() -> Result<()> {
    const PATH: &str = "/usr/share/update_engine/update-payload-key.pub.pem";
    const SUMS: [&str; 2] = [
        "d410d94dc56a1cba8df71c94ea6925811e44b09416f66958ab7a453f0731d80e",
        "a76a22e6afcdfbc55dd2953aa950c7ec93b254774fca02d13ec52c59672e5982",
    ];
    let pem = std::fs::read(PATH).wrap_err_with(|| format!("cannot read {PATH}"))?;
    let sum: String = openssl::sha::sha256(&pem).iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(SUMS.contains(&sum.as_str()), "{PATH} holds an unknown key, its SHA-256 is {sum}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_only_mounts_are_recognised() {
        let root = "/dev/vda9 / ext4 rw,relatime 0 0\n";
        let usr = |options| format!("{root}/dev/vda3 /usr ext4 {options} 0 0\n");
        assert!(mounted_read_only(&usr("ro,noatime")).is_ok());
        assert!(mounted_read_only(&usr("rw,ro")).is_err());
        assert!(mounted_read_only(root).is_err());
        assert!(mounted_read_only(&root.replace("rw", "ro")).is_ok());
        // Mounted over: what counts is the last.
        assert!(mounted_read_only(&(usr("ro") + "x /usr overlay rw 0 0\n")).is_err());
        let text = mounted_read_only("short line\n").unwrap_err().to_string();
        assert!(text.contains("could not find /usr or /"), "{text}");
    }
}
