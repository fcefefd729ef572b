//! podman.

use color_eyre::eyre::{Result, ensure};
use serde_json::Value;

use super::containers::{PODMAN, between_machines, networks_reliably, resources, scratch_image};
use super::helpers::is_debian;
use crate::kola::cluster::TestCluster;
use crate::kola::register::Test;

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("podman.base", base)
            .description("What podman says of itself, resource options, networks")
            .distros(["rhcos", "debian"])
            .features(["kernel", "podman"]),
        Test::new("podman.network", |c| between_machines(c, &PODMAN))
            .description("Containers of podman on two machines talk to each other, both ways")
            .cluster_size(2)
            .distros(["rhcos", "debian"])
            .features(["kernel", "podman", "private-network"]),
    ]
}

const OPTIONS: &[&str] = &[
    "--memory=10m --memory-swap=10m",
    "--memory-reservation=10m",
    "--kernel-memory=10m",
    "--cpu-shares=100",
    "--cpu-period=1000",
    "--cpuset-cpus=0",
    "--cpuset-mems=0",
    "--cpu-quota=1000",
    "--blkio-weight=10",
    "--memory=10m --oom-kill-disable=true",
    "--memory-swappiness=50",
    "--shm-size=1m",
];

/// Without what control groups of version 2 do not have.
const DEBIAN_OPTIONS: &[&str] = &[
    "--memory=128m --memory-swap=128m",
    "--memory-reservation=128m",
    "--cpu-shares=100",
    "--cpu-period=1000",
    "--cpuset-cpus=0",
    "--cpuset-mems=0",
    "--cpu-quota=1000",
    "--blkio-weight=10",
    "--memory=128m",
    "--shm-size=1m",
];

async fn base(c: TestCluster) -> Result<()> {
    c.run("info", async |c: TestCluster| info(&c).await).await;
    c.run("resources", async |c: TestCluster| {
        let m = c.machine(0)?;
        scratch_image(&c, &m, &PODMAN, "echo", "echo").await?;
        let options = if is_debian(&c) { DEBIAN_OPTIONS } else { OPTIONS };
        resources(&c, &m, &PODMAN, options, "echo echo 1", 1).await
    })
    .await;
    c.run("network", async |c: TestCluster| networks_reliably(&c, &PODMAN).await).await;
    Ok(())
}

async fn info(c: &TestCluster) -> Result<()> {
    let text = c.must_ssh(&*c.machine(0)?, "sudo podman info --format json").await?;
    let info: Value = serde_json::from_str(&text)?;
    for (key, wanted) in [("GraphDriverName", "overlay"), ("GraphRoot", "/var/lib/containers/storage")] {
        let got = member(member(&info, "store"), key);
        if got != wanted {
            c.error(format!("store.{key} is {got}, expected {wanted:?}"));
        }
    }
    ensure!(info.is_object(), "podman info is no object:\n{text}");
    Ok(())
}

/// A member of an object by its name in any case: podman has changed its mind about capitals.
fn member<'a>(object: &'a Value, name: &str) -> &'a Value {
    let members = object.as_object().into_iter().flatten();
    members
        .into_iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map_or(&Value::Null, |(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_in_any_case() {
        let info = serde_json::json!({"store": {"graphDriverName": "overlay"}});
        assert_eq!(member(member(&info, "Store"), "GraphDriverName"), "overlay");
        assert!(member(member(&info, "host"), "x").is_null());
    }
}
