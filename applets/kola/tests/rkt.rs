//! rkt. Nothing is fetched for `rkt.base`: its image is made of the guest's own files.

use color_eyre::eyre::{Result, ensure};
use mantle::platform::guest::Guest;

use super::containers::copy_programs;
use super::helpers::{must_bash, retry, seconds};
use crate::kola::cluster::TestCluster;
use crate::kola::register::{Flag, Test};

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("rkt.base", base)
            .description("rkt runs a container by itself, as a unit, and known to machinectl")
            .distros(["cl"])
            .features(["kernel", "rkt"]),
        Test::new("cl.rkt.etcd3", etcd3)
            .description("etcd 3 in rkt gets healthy")
            .ignition(ETCD)
            .distros(["cl"])
            .flags([Flag::RequiresInternetAccess])
            .features(["etcd", "rkt"]),
    ]
}

const ETCD: &str = r#"{
  "ignition": {"version": "2.0.0"},
  "systemd": {"units": [{"name": "etcd-member.service", "enable": true}]}
}"#;

async fn etcd3(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    retry(&c, 60, seconds(3), || c.must_ssh(&m, "etcdctl cluster-health")).await.map(drop)
}

/// The image, as rkt names it.
const IMAGE: &str = "test.rkt.aci";

async fn base(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    c.must_ssh(&m, "sudo setenforce 0").await?;
    must_bash(&c, &m, &make_image()).await?;
    c.run("cli", async |c: TestCluster| cli(&c).await).await;
    c.run("unit", async |c: TestCluster| unit(&c).await).await;
    c.run("machinectl-integration", async |c: TestCluster| machinectl(&c).await).await;
    Ok(())
}

/// The script that makes an image of a few programs and gives it to rkt.
fn make_image() -> String {
    let manifest = serde_json::json!({
        "acKind": "ImageManifest", "acVersion": "0.8.9", "name": IMAGE,
        "labels": [
            {"name": "os", "value": "linux"},
            {"name": "arch", "value": "amd64"},
            {"name": "version", "value": "latest"}
        ]
    });
    format!(
        r#"
dir=$(mktemp -d)
mkdir "$dir/rootfs"
cd "$dir/rootfs"
{copy}
cd "$dir"
printf '%s' {manifest} >manifest
sudo tar -cf image.aci manifest rootfs
sudo rkt image fetch --insecure-options=image ./image.aci
"#,
        copy = copy_programs("echo sleep sh"),
        manifest = mantle::ssh::quote(&manifest.to_string()),
    )
}

/// The id of the pod in a file, and what journald calls it.
async fn pod(c: &TestCluster, m: &Guest, file: &str) -> Result<String> {
    let id = c.must_ssh(m, &format!("cat {file}")).await?;
    ensure!(!id.is_empty(), "{file} is empty");
    Ok(id)
}

/// The journal of a pod has what its program said.
async fn check_journal(c: &TestCluster, m: &Guest, id: &str) -> Result<()> {
    let command = format!("journalctl --dir /var/log/journal/{}", id.replace('-', ""));
    c.assert_output_contains(m, &command, "success").await
}

async fn cli(c: &TestCluster) -> Result<()> {
    const FILE: &str = "/tmp/run-test.uuid";
    let m = c.machine(0)?;
    let run = format!("sudo rkt run --uuid-file-save={FILE} {IMAGE}:latest --exec=sh -- -c 'echo success'");
    c.assert_output_contains(&m, &run, "success").await?;
    let checked = async { check_journal(c, &m, &pod(c, &m, FILE).await?).await }.await;
    c.must_ssh(&m, &format!("sudo rkt rm --uuid-file={FILE}")).await?;
    checked
}

async fn unit(c: &TestCluster) -> Result<()> {
    const FILE: &str = "/tmp/run-as-unit-test.uuid";
    let m = c.machine(0)?;
    let run = format!(
        "sudo systemd-run --quiet --unit run-as-unit.service -- rkt run --uuid-file-save={FILE} {IMAGE}:latest \
         --exec=sh -- -c 'echo success'"
    );
    c.must_ssh(&m, &run).await?;
    let id = retry(c, 30, seconds(1), || pod(c, &m, FILE)).await?;
    c.must_ssh(&m, &format!("sudo rkt status --wait {id}")).await?;
    check_journal(c, &m, &id).await
}

async fn machinectl(c: &TestCluster) -> Result<()> {
    const FILE: &str = "/tmp/run-machinectl.uuid";
    let m = c.machine(0)?;
    let run = format!(
        "sudo systemd-run --quiet --unit run-machinectl -- rkt run --uuid-file-save={FILE} {IMAGE}:latest \
         --exec=sleep -- inf"
    );
    c.must_ssh(&m, &run).await?;
    let id = retry(c, 30, seconds(1), || pod(c, &m, FILE)).await?;
    c.must_ssh(&m, &format!("sudo rkt status --wait-ready {id}")).await?;
    let shown = c.must_ssh(&m, &format!("machinectl show rkt-{id}")).await?;
    for wanted in ["State=running", "Class=container", "Service=rkt"] {
        ensure!(shown.lines().any(|line| line == wanted), "machinectl does not show {wanted}:\n{shown}");
    }
    c.must_ssh(&m, &format!("sudo rkt stop {id}")).await?;
    c.must_ssh(&m, &format!("sudo rkt status --wait {id}")).await.map(drop)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_image_names_itself() {
        let script = super::make_image();
        assert!(
            script.contains(r#"'{"acKind":"ImageManifest","acVersion":"0.8.9","name":"test.rkt.aci""#),
            "{script}"
        );
        assert!(script.contains("which echo sleep sh"));
    }
}
