//! Docker.

use std::path::Path;

use color_eyre::eyre::{Result, bail, ensure, eyre};
use mantle::harness::skip;
use mantle::platform::guest::Guest;
use serde_json::Value;

use super::containers::{DOCKER, between_machines, networks_reliably, resources, scratch_image};
use super::helpers::{Probe, is_debian, must_equal, poll, retry, seconds};
use crate::kola::cluster::TestCluster;
use crate::kola::register::Test;

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("docker.base", base)
            .description("The daemon's state, resource options, networks and users of containers")
            .distros(["cl", "debian"])
            .features(["docker", "kernel"]),
        Test::new("docker.lib-coreos-dockerd-compat", base)
            .description("As docker.base, with a daemon that a unit starts by /usr/lib/coreos/dockerd")
            .container_linux(COMPAT)
            .distros(["cl"])
            .features(["docker", "kernel", "torcx"]),
        Test::new("docker.btrfs-storage", |c| async move { info(&c, &*c.machine(0)?, "btrfs").await })
            .description("The daemon keeps its data on a btrfs file system")
            .container_linux(BTRFS)
            .distros(["cl", "debian"])
            .features(["btrfs", "docker", "kernel"]),
        Test::new("docker.network", |c| between_machines(c, &DOCKER))
            .description("Containers on two machines talk to each other, both ways")
            .cluster_size(2)
            .distros(["cl", "debian"])
            .features(["cluster-network", "docker", "kernel"]),
        Test::new("docker.userns", userns)
            .description("Root in a container is somebody else outside")
            .container_linux(USERNS)
            .distros(["cl", "debian"])
            .features(["docker", "kernel"]),
        Test::new("docker.containerd-restart", containerd_restart)
            .description("containerd is started again when it was killed, and works")
            .container_linux(ENABLED)
            .distros(["cl", "debian"])
            .features(["docker", "kernel"]),
        Test::new("docker.oldclient", old_client)
            .description("A client of version 1.9.1 can talk to the daemon")
            .cluster_size(0)
            .distros(["cl"])
            .features(["docker", "kernel"]),
        Test::new("torcx.enable-service", enable_service)
            .description("A unit that is not in the system itself can be enabled by a config")
            .container_linux(ENABLED)
            .distros(["cl", "debian"])
            .features(["docker", "kernel"]),
    ]
}

const ENABLED: &str = "
systemd:
  units:
    - name: docker.service
      enabled: true
";

const COMPAT: &str = "
systemd:
  units:
    - name: docker.service
      enabled: true
      contents: |
        [Unit]
        After=containerd.service docker.socket network.target
        Requires=containerd.service docker.socket

        [Service]
        Type=notify
        EnvironmentFile=-/run/flannel/flannel_docker_opts.env
        ExecStart=/usr/lib/coreos/dockerd --host=fd:// --containerd=/var/run/docker/libcontainerd/docker-containerd.sock $DOCKER_OPTS $DOCKER_CGROUPS $DOCKER_OPT_BIP $DOCKER_OPT_MTU $DOCKER_OPT_IPMASQ
        ExecReload=/bin/kill -s HUP $MAINPID
        LimitNOFILE=1048576
        LimitNPROC=infinity
        LimitCORE=infinity
        TasksMax=infinity
        TimeoutStartSec=0
        Delegate=yes

        [Install]
        WantedBy=multi-user.target
";

/// Systems differ in where mkfs.btrfs is.
const BTRFS: &str = "
systemd:
  units:
    - name: format-var-lib-docker.service
      enabled: true
      contents: |
        [Unit]
        Before=docker.service var-lib-docker.mount
        ConditionPathExists=!/var/lib/docker.btrfs

        [Service]
        Type=oneshot
        ExecStart=/usr/bin/truncate --size=25G /var/lib/docker.btrfs
        ExecStart=/usr/bin/env mkfs.btrfs /var/lib/docker.btrfs

        [Install]
        WantedBy=multi-user.target
    - name: var-lib-docker.mount
      enabled: true
      contents: |
        [Unit]
        Before=docker.service
        After=format-var-lib-docker.service
        Requires=format-var-lib-docker.service

        [Mount]
        What=/var/lib/docker.btrfs
        Where=/var/lib/docker
        Type=btrfs
        Options=loop,discard

        [Install]
        RequiredBy=docker.service
";

const USERNS: &str = "
docker:
  flags: [--userns-remap=dockremap]
passwd:
  users:
    - name: dockremap
storage:
  files:
    - path: /etc/subuid
      mode: 0644
      contents: {inline: 'dockremap:100000:65536'}
    - path: /etc/subgid
      mode: 0644
      contents: {inline: 'dockremap:100000:65536'}
";

const OPTIONS: &[&str] = &[
    "--memory=20m --memory-swap=20m",
    "--memory-reservation=10m",
    "--kernel-memory=10m",
    "--cpu-shares=100",
    "--cpu-period=1000",
    "--cpuset-cpus=0",
    "--cpuset-mems=0",
    "--cpu-quota=1000",
    "--blkio-weight=10",
    "--memory=20m --oom-kill-disable=true",
    "--memory-swappiness=50",
    "--shm-size=1m",
];

/// Options that control groups of version 2 lack only warn.
const DEBIAN_OPTIONS: &[&str] = &[
    "--memory=50m --memory-swap=50m",
    "--memory-reservation=50m",
    "--kernel-memory=50m",
    "--cpu-shares=100",
    "--cpu-period=1000 --cpu-quota=1000",
    "--cpuset-cpus=0",
    "--cpuset-mems=0",
    "--blkio-weight=10",
    "--memory=50m --oom-kill-disable=true",
    "--memory-swappiness=50",
    "--shm-size=1m",
    "--security-opt=label=disable --security-opt=no-new-privileges",
    "--security-opt=no-new-privileges",
];

/// The daemon's description, the resource options, the network, the rights of users.
pub async fn base(c: TestCluster) -> Result<()> {
    c.run("docker-info", async |c: TestCluster| info(&c, &*c.machine(0)?, "overlay").await).await;
    // Container Linux bug 1246.
    c.run("resources", async |c: TestCluster| {
        let m = c.machine(0)?;
        scratch_image(&c, &m, &DOCKER, "sleep", "sleep").await?;
        let options = if is_debian(&c) { DEBIAN_OPTIONS } else { OPTIONS };
        resources(&c, &m, &DOCKER, options, "sleep sleep 0.2", 10).await
    })
    .await;
    c.run("networks-reliably", async |c: TestCluster| networks_reliably(&c, &DOCKER).await).await;
    c.run("user-no-caps", async |c: TestCluster| user_no_caps(&c).await).await;
    Ok(())
}

/// The daemon's own description of itself.
pub async fn daemon(c: &TestCluster, m: &Guest) -> Result<Value> {
    let text = c.must_ssh(m, "curl -s --unix-socket /var/run/docker.sock http://docker/v1.24/info").await?;
    serde_json::from_str(&text).map_err(|e| eyre!("docker's answer is no JSON: {e}: {text:?}"))
}

async fn info(c: &TestCluster, m: &Guest, filesystem: &str) -> Result<()> {
    for fault in info_faults(&daemon(c, m).await?, filesystem, is_debian(c)) {
        c.error(fault);
    }
    Ok(())
}

/// What is wrong with a daemon on a file system; `relaxed`: as built and configured by somebody else.
fn info_faults(info: &Value, filesystem: &str, relaxed: bool) -> Vec<String> {
    let mut faults = Vec::new();
    let mut expect = |what: &str, got: &str, wanted: &[&str]| {
        if !wanted.contains(&got) {
            faults.push(format!("{what} is {got:?}, expected {}", wanted.join(" or ")));
        }
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version = text(&info["ServerVersion"]);
    let drivers: &[&str] = match filesystem {
        "overlay" if version.starts_with("1.12.") || version.starts_with("17.04.") => &["overlay"],
        // Docker 29 leaves images to containerd, which calls it overlayfs.
        "overlay" if relaxed => &["overlay2", "overlayfs"],
        "overlay" => &["overlay2"],
        other => &[other],
    };
    expect("driver", &text(&info["Driver"]), drivers);
    expect(
        "cgroup driver",
        &text(&info["CgroupDriver"]),
        if relaxed { &["cgroupfs", "systemd"] } else { &["cgroupfs"] },
    );
    let mut options: Vec<String> =
        info["SecurityOptions"].as_array().into_iter().flatten().map(text).collect();
    options.sort_unstable();
    if relaxed {
        for option in &options {
            expect("security option", option, &["apparmor", "cgroupns", "seccomp", "selinux"]);
        }
        expect(
            "security options with seccomp",
            &options.contains(&"seccomp".to_owned()).to_string(),
            &["true"],
        );
    } else {
        expect("list of security options", &options.join(" "), &["seccomp selinux"]);
    }
    expect(
        "path of runtime runc is empty:",
        &text(&info["Runtimes"]["runc"]["path"]).is_empty().to_string(),
        &["false"],
    );
    for program in ["Containerd", "Runc"] {
        faults.extend(commit_fault(info, program));
    }
    faults
}

/// Whether a program that the daemon uses is of the commit it was made for, if it tells both.
fn commit_fault(info: &Value, program: &str) -> Option<String> {
    let commit = &info[format!("{program}Commit")];
    match (commit["ID"].as_str(), commit["Expected"].as_str()) {
        (Some(id), Some(expected)) if id != expected => {
            Some(format!("commit of {program} is {id:?}, expected {expected:?}"))
        }
        _ => None,
    }
}

/// A container's user has no capabilities beyond its own (CVE-2016-8867).
async fn user_no_caps(c: &TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    scratch_image(c, &m, &DOCKER, "captest", "capsh sh grep cat ls").await?;
    let command = "docker run --user 1000:1000 -v /root:/root captest sh -c \
         'cat /proc/self/status | grep -E \"Cap(Eff|Prm)\"; \
         ls /root && echo \"FAIL: could list /root\" || echo \"PASS: could not list /root\"'";
    let out = c.must_ssh(&m, command).await?;
    let lines: Vec<&str> = out.lines().collect();
    ensure!(lines.len() >= 3, "too few lines of output:\n{out}");
    for name in ["CapEff:", "CapPrm:"] {
        let value = lines.iter().find_map(|l| l.strip_prefix(name)).map(str::trim);
        ensure!(value == Some("0000000000000000"), "{name} is {value:?}, expected no capabilities:\n{out}");
    }
    ensure!(
        lines.last().is_some_and(|l| l.starts_with("PASS: ")),
        "unprivileged user can list /root:\n{out}"
    );
    Ok(())
}

/// Root in a container is somebody else outside.
async fn userns(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    scratch_image(&c, &m, &DOCKER, "userns-test", "echo sleep").await?;
    if !is_debian(&c) {
        c.must_ssh(&m, "sudo setenforce 1").await?;
    }
    must_equal(&c, &m, "docker run userns-test echo fj.fj", "fj.fj").await?;
    c.must_ssh(&m, "docker run -d --name=sleepy userns-test sleep 10000").await?;
    poll(&c, 60, seconds(1), || async {
        let state = c.must_ssh(&m, "docker inspect -f '{{.State.Status}}' sleepy").await?;
        Ok(match state.as_str() {
            "running" => Probe::Done(()),
            "exited" | "dead" => bail!("the container is {state}"),
            _ => Probe::NotYet(eyre!("the container is {state}")),
        })
    })
    .await?;
    let show =
        "cat /proc/$(docker inspect -f '{{.State.Pid}}' sleepy)/uid_map && docker kill sleepy >/dev/null";
    let map = c.must_ssh(&m, show).await?;
    let fields: Vec<&str> = map.split_whitespace().collect();
    ensure!(fields == ["0", "100000", "65536"], "unexpected mapping of users: {map:?}");
    Ok(())
}

/// An old client, if this host has one (Container Linux bug 1569).
async fn old_client(c: TestCluster) -> Result<()> {
    const NAME: &str = "docker-1.9.1";
    let path = Path::new("/usr/lib/kola").join(c.architecture()).join(NAME);
    let program = match tokio::fs::read(&path).await {
        Ok(program) => program,
        Err(e) => return Err(skip(format!("cannot read the old client {}: {e}", path.display()))),
    };
    let m = c.new_machine(None).await?;
    let remote = format!("/home/core/{NAME}");
    mantle::ssh::install_file(m.client(), program, &remote, 0o755).await?;
    scratch_image(&c, &m, &DOCKER, "echo", "echo").await?;
    must_equal(&c, &m, &format!("{remote} run echo echo 'IT WORKED'"), "IT WORKED").await
}

async fn containerd_restart(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    let old = main_pid(&c, &m).await?;
    check_containerd(&c, &m).await?;
    c.must_ssh(&m, &format!("sudo kill {old}")).await?;
    poll(&c, 12, seconds(6), || async {
        let state = c.must_ssh(&m, "systemctl show containerd -p SubState --value").await?;
        match state.as_str() {
            "stopped" | "exited" | "failed" => bail!("containerd is {state}"),
            "running" => {}
            _ => return Ok(Probe::NotYet(eyre!("containerd is {state}"))),
        }
        // It may be the old one still, on its way out.
        Ok(match main_pid(&c, &m).await {
            Ok(new) if new != old => Probe::Done(()),
            Ok(_) => Probe::NotYet(eyre!("containerd is still process {old}")),
            Err(report) => Probe::NotYet(report),
        })
    })
    .await?;
    retry(&c, 5, seconds(2), || check_containerd(&c, &m)).await
}

async fn main_pid(c: &TestCluster, m: &Guest) -> Result<String> {
    let pid = c.must_ssh(m, "systemctl show containerd -p MainPID --value").await?;
    ensure!(!pid.is_empty() && pid != "0", "containerd is not running: its process is {pid:?}");
    Ok(pid)
}

async fn check_containerd(c: &TestCluster, m: &Guest) -> Result<()> {
    match commit_fault(&daemon(c, m).await?, "Containerd") {
        Some(fault) => bail!(fault),
        None => Ok(()),
    }
}

/// A unit that is not in the system itself can be enabled by a config (Container Linux bug 2079).
async fn enable_service(c: TestCluster) -> Result<()> {
    let state = c.must_ssh(&*c.machine(0)?, "systemctl is-enabled docker").await?;
    if state != "enabled" {
        c.error(format!("docker.service is {state}, expected enabled"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_daemon_is_what_it_should_be() {
        let cl = json!({
            "ServerVersion": "18.06.3-ce", "Driver": "overlay2", "CgroupDriver": "cgroupfs",
            "Runtimes": {"runc": {"path": "runc"}}, "SecurityOptions": ["selinux", "seccomp"],
            "ContainerdCommit": {"ID": "a", "Expected": "a"}, "RuncCommit": {"ID": "b", "Expected": "b"}
        });
        assert_eq!(info_faults(&cl, "overlay", false), [""; 0]);
        assert_eq!(info_faults(&cl, "btrfs", false), [r#"driver is "overlay2", expected btrfs"#]);
        let mut other = cl.clone();
        other["RuncCommit"]["ID"] = "c".into();
        other["ServerVersion"] = "1.12.6".into();
        other["SecurityOptions"] = json!(["seccomp"]);
        assert_eq!(info_faults(&other, "overlay", false).len(), 3);
        let debian = json!({
            "ServerVersion": "20.10.24+dfsg1", "Driver": "overlay2", "CgroupDriver": "systemd",
            "Runtimes": {"runc": {"path": "runc"}}, "SecurityOptions": ["seccomp", "cgroupns"]
        });
        assert_eq!(info_faults(&debian, "overlay", true), [""; 0]);
        assert_eq!(info_faults(&debian, "overlay", false).len(), 2);
        assert_eq!(info_faults(&json!({}), "overlay", true).len(), 4);
    }
}
