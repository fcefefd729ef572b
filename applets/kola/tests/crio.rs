//! CRI-O, by its client crictl.

use color_eyre::eyre::{Result, WrapErr as _, bail, ensure, eyre};
use mantle::platform::guest::Guest;
use mantle::ssh;
use serde_json::{Value, json};

use super::containers::{PODMAN, scratch_image};
use super::helpers::{Probe, poll, seconds};
use crate::kola::cluster::TestCluster;
use crate::kola::register::{Flag, Test};

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        crio(Test::new("crio.base", base))
            .description("CRI-O is configured as it should be, and its pods have a network at once"),
        crio(Test::new("crio.network", network))
            .description("A container on one machine talks to one on another, both ways")
            .cluster_size(2),
    ]
}

/// The image in which every pod's first process runs comes from the Internet.
fn crio(test: Test) -> Test {
    test.distros(["rhcos"]).flags([Flag::RequiresInternetAccess]).features(["crio", "kernel", "podman"])
}

async fn base(c: TestCluster) -> Result<()> {
    c.run("crio-info", async |c: TestCluster| info(&c).await).await;
    c.run("networks-reliably", async |c: TestCluster| networks_reliably(&c).await).await;
    Ok(())
}

async fn info(c: &TestCluster) -> Result<()> {
    let command = "sudo curl -s --unix-socket /var/run/crio/crio.sock http://crio/info";
    let text = c.must_ssh(&*c.machine(0)?, command).await?;
    let info: Value =
        serde_json::from_str(&text).map_err(|e| eyre!("CRI-O's answer is no JSON: {e}: {text:?}"))?;
    for fault in faults(&info) {
        c.error(fault);
    }
    Ok(())
}

fn faults(info: &Value) -> Vec<String> {
    let wanted = [
        ("storage_driver", "overlay"),
        ("storage_root", "/var/lib/containers/storage"),
        ("cgroup_driver", "systemd"),
    ];
    let wrong = wanted.into_iter().filter(|(key, value)| info[*key] != *value);
    wrong.map(|(key, value)| format!("{key} is {}, expected {value:?}", info[key])).collect()
}

/// What the processes of a pod or container may take.
fn resources(memory: u64) -> Value {
    json!({
        "memory_limit_in_bytes": memory, "cpu_period": 10000, "cpu_quota": 20000, "cpu_shares": 512,
        "oom_score_adj": 30, "cpuset_cpus": "0", "cpuset_mems": "0"
    })
}

fn pod_config(name: &str) -> Value {
    json!({
        "metadata": {"name": format!("rhcos-crio-pod-{name}"), "namespace": "redhat.test.crio"},
        "image": {"image": format!("localhost/{name}:latest")},
        "args": [], "readonly_rootfs": false,
        "log_path": "", "stdin": false, "stdin_once": false, "tty": false,
        "linux": {
            "resources": resources(200 << 20),
            "cgroup_parent": "Burstable-pod-123.slice",
            "security_context": {
                "namespace_options": {"pid": 1},
                "capabilities": {"add_capabilities": ["sys_admin"]}
            }
        }
    })
}

fn container_config(name: &str, command: &str) -> Value {
    json!({
        "metadata": {"name": format!("rhcos-crio-container-{name}"), "attempt": 1},
        "image": {"image": format!("localhost/{name}:latest")},
        "command": [command], "args": [], "working_dir": "/",
        "envs": [
            {"key": "PATH", "value": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
            {"key": "TERM", "value": "xterm"}
        ],
        "labels": {"type": "small", "batch": "no"},
        "annotations": {"daemon": "crio"},
        "privileged": true,
        "log_path": "", "stdin": false, "stdin_once": false, "tty": false,
        "linux": {
            "resources": resources(256 << 20),
            "security_context": {
                "selinux_options": {
                    "user": "system_u", "role": "system_r", "type": "svirt_lxc_net_t", "level": "s0:c4,c5"
                },
                "capabilities": {"add_capabilities": ["setuid", "setgid"]}
            }
        }
    })
}

/// Files of a pod and a container on a machine.
struct Configs {
    pod: String,
    container: String,
}

impl Configs {
    async fn put(m: &Guest, name: &str, command: &str) -> Result<Self> {
        Ok(Self {
            pod: put(m, &pod_config(name)).await?,
            container: put(m, &container_config(name, command)).await?,
        })
    }

    /// Makes the pod and a container in it; returns the container's id.
    async fn create(&self, c: &TestCluster, m: &Guest) -> Result<String> {
        let pod = c.must_ssh(m, &format!("sudo crictl runp {}", self.pod)).await?;
        c.must_ssh(m, &format!("sudo crictl create {pod} {} {}", self.container, self.pod)).await
    }
}

/// Puts a config into a new file of the user's; returns its path.
async fn put(m: &Guest, config: &Value) -> Result<String> {
    let command = "file=$(mktemp ~/XXXXXX.json) && cat >\"$file\" && echo \"$file\"";
    let written = m.client().run_with_input(command, config.to_string()).await;
    Ok(written.wrap_err("sending a config for crictl")?.stdout)
}

async fn networks_reliably(c: &TestCluster) -> Result<()> {
    const TIMES: usize = 10;
    let m = c.machine(0)?;
    scratch_image(c, &m, &PODMAN, "ping", "ping").await?;
    let mut out = String::new();
    for i in 0..TIMES {
        // Names are unique among the pods of a namespace.
        scratch_name(c, &m, i).await?;
        let configs = Configs::put(&m, &format!("ping{i}"), "ping").await?;
        let container = configs.create(c, &m).await?;
        let ping = format!(
            "sudo crictl exec {container} ping -i 0.2 10.88.0.1 -w 1 >/dev/null && echo PASS || echo FAIL"
        );
        out.push_str(&c.must_ssh(&m, &ping).await?);
        out.push('\n');
    }
    let passed = out.matches("PASS").count();
    ensure!(passed == TIMES, "{passed} of {TIMES} containers had a working network:\n{out}");
    Ok(())
}

/// Gives the image for ping one more name: configs name image, pod and container alike.
async fn scratch_name(c: &TestCluster, m: &Guest, i: usize) -> Result<()> {
    c.must_ssh(m, &format!("sudo podman tag localhost/ping:latest localhost/ping{i}:latest")).await.map(drop)
}

/// ncat runs on the machines; what it is fed comes out of containers.
async fn network(c: TestCluster) -> Result<()> {
    const FROM_SERVER: &str = "HELLO FROM SERVER";
    const FROM_CLIENT: &str = "HELLO FROM CLIENT";
    let (client, server) = (c.machine(0)?, c.machine(1)?);
    tokio::try_join!(
        scratch_image(&c, &client, &PODMAN, "ncat", "ncat echo"),
        scratch_image(&c, &server, &PODMAN, "ncat", "ncat echo")
    )?;
    let say = |text: &str| ssh::quote(text);
    let listen = async {
        let container = Configs::put(&server, "ncat", "echo").await?.create(&c, &server).await?;
        let command = format!(
            "sudo timeout 30 crictl exec {container} echo {} | timeout 20 ncat --listen 0.0.0.0 9988 || \
             echo 'LISTENER TIMEOUT'",
            say(FROM_SERVER)
        );
        let got = c.must_ssh(&server, &command).await?;
        ensure!(got == FROM_CLIENT, "the server heard {got:?}, expected {FROM_CLIENT:?}");
        Ok(())
    };
    let talk = async {
        poll(&c, 600, std::time::Duration::from_millis(100), || async {
            match c.ssh(&server, "sudo netstat -tulpn | grep 9988 -q").await {
                Ok(_) => Ok(Probe::Done(())),
                Err(e) if e.exit_status() == Some(1) => {
                    Ok(Probe::NotYet(eyre!("nobody listens on port 9988 of {}", server.id())))
                }
                Err(e) => Err(e.into()),
            }
        })
        .await?;
        let container = Configs::put(&client, "ncat", "echo").await?.create(&c, &client).await?;
        let command = format!(
            "sudo crictl exec {container} echo {} | ncat {} 9988",
            say(FROM_CLIENT),
            server.private_ip()
        );
        let got = c.must_ssh(&client, &command).await?;
        ensure!(got == FROM_SERVER, "the client heard {got:?}, expected {FROM_SERVER:?}");
        Ok::<_, color_eyre::Report>(())
    };
    let limit = seconds(60).mul_f64(c.slowness().max(1.0));
    match tokio::time::timeout(limit, async { tokio::try_join!(listen, talk) }).await {
        Ok(result) => result.map(drop),
        Err(_) => {
            bail!("no conversation between {} and {} in {} s", client.id(), server.id(), limit.as_secs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_configured_otherwise_is_named() {
        let good = json!({
            "storage_driver": "overlay", "storage_root": "/var/lib/containers/storage", "cgroup_driver": "systemd"
        });
        assert_eq!(faults(&good), [""; 0]);
        assert_eq!(faults(&json!({"storage_driver": "vfs"})).len(), 3);
    }

    #[test]
    fn configs_agree_on_their_image() {
        let (pod, container) = (pod_config("ncat"), container_config("ncat", "echo"));
        assert_eq!(pod["image"], container["image"]);
        assert_eq!(container["command"], json!(["echo"]));
        assert_eq!(pod["linux"]["resources"]["memory_limit_in_bytes"], 209_715_200);
        assert_eq!(container["linux"]["resources"]["memory_limit_in_bytes"], 268_435_456);
    }
}
