//! podman.

use std::sync::{Arc, OnceLock};

use color_eyre::eyre::{Result, ensure, eyre};
use serde_json::Value;

use super::containers::{PODMAN, between_machines, networks_reliably, resources, scratch_image};
use super::helpers::{is_debian, must_bash, must_equal, retry, seconds};
use crate::kola::cluster::TestCluster;
use crate::kola::register::{Flag, Test};

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("podman.base", base)
            .description("What podman says of itself, resource options, networks")
            .distros(["rhcos", "debian"])
            .features(["kernel", "podman"]),
        Test::new("podman.workflow", workflow)
            .description("A container from the Internet is run, asked, stopped and taken away with its image")
            .distros(["rhcos"])
            .flags([Flag::RequiresInternetAccess])
            .features(["kernel", "podman"])
            .fail_fast(),
        Test::new("podman.network", |c| between_machines(c, &PODMAN))
            .description("Containers of podman on two machines talk to each other, both ways")
            .cluster_size(2)
            .distros(["rhcos", "debian"])
            .features(["cluster-network", "kernel", "podman"]),
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

/// The web server that the workflow is tried with.
const NGINX: &str = "docker.io/library/nginx";

async fn workflow(c: TestCluster) -> Result<()> {
    let id = Arc::new(OnceLock::new());
    let run = id.clone();
    c.run("run", async move |c: TestCluster| {
        let m = c.machine(0)?;
        let script = format!(
            r#"
dir=$(mktemp -d)
echo 'TEST PAGE' >"$dir/index.html"
sudo podman run -d -p 80:80 -v "$dir/index.html:/usr/share/nginx/html/index.html:z" {NGINX}
"#
        );
        let out = must_bash(&c, &m, &script).await?;
        let _ = run.set(short_id(&out).ok_or_else(|| eyre!("podman tells no id: {out:?}"))?);
        let get = "curl -f http://localhost";
        retry(&c, 6, seconds(5), || c.assert_output_contains(&m, get, "TEST PAGE")).await
    })
    .await;
    // Without an id the first one failed, and the others are skipped.
    let id = move || id.get().cloned().unwrap_or_default();
    let (exec, stop, remove) = (id.clone(), id.clone(), id);
    c.run("exec", async move |c: TestCluster| {
        let command = format!("sudo podman exec {} echo hello", exec());
        must_equal(&c, &*c.machine(0)?, &command, "hello").await
    })
    .await;
    c.run("stop", async move |c: TestCluster| {
        let m = c.machine(0)?;
        c.must_ssh(&m, &format!("sudo podman stop {}", stop())).await?;
        let status = container_status(&list(&c).await?, &stop());
        let stopped = status.as_deref().is_some_and(|text| text.to_lowercase().contains("exited"));
        ensure!(stopped, "the container's status is {status:?} after its stop");
        Ok(())
    })
    .await;
    c.run("remove", async move |c: TestCluster| {
        c.must_ssh(&*c.machine(0)?, &format!("sudo podman rm {}", remove())).await?;
        let status = container_status(&list(&c).await?, &remove());
        ensure!(status.is_none(), "the container is still there: {status:?}");
        Ok(())
    })
    .await;
    c.run("delete", async |c: TestCluster| {
        let m = c.machine(0)?;
        let out = c.must_ssh(&m, &format!("sudo podman rmi {NGINX}")).await?;
        // Newer ones say what they untag before they tell the id.
        let id = short_id(&out).ok_or_else(|| eyre!("podman tells no id of the image: {out:?}"))?;
        let left = c.must_ssh(&m, "sudo podman images --all").await?;
        ensure!(!left.contains(&id), "the image {id} is still there:\n{left}");
        Ok(())
    })
    .await;
    Ok(())
}

/// The first 12 digits of the id in the last line.
fn short_id(out: &str) -> Option<String> {
    let line = out.lines().last()?;
    let id: String = line.rsplit(':').next()?.trim().chars().take(12).collect();
    (id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}

async fn list(c: &TestCluster) -> Result<Value> {
    let text = c.must_ssh(&*c.machine(0)?, "sudo podman ps -a --format json").await?;
    match text.as_str() {
        // Old ones print nothing at all.
        "" => Ok(Value::Array(Vec::new())),
        text => serde_json::from_str(text).map_err(|e| eyre!("podman's list is no JSON: {e}: {text:?}")),
    }
}

/// The status of the container whose id begins so; newer ones have a state besides.
fn container_status(list: &Value, id: &str) -> Option<String> {
    let one = list
        .as_array()?
        .iter()
        .find(|one| member(one, "id").as_str().is_some_and(|full| full.starts_with(id)))?;
    Some(
        ["status", "state"]
            .map(|key| member(one, key).as_str().unwrap_or_default())
            .join(" ")
            .trim()
            .to_owned(),
    )
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
    fn containers_are_found_by_the_beginning_of_their_id() {
        let list = serde_json::json!([
            {"ID": "aaaabbbbccccdddd", "Status": "Exited (0) 1 second ago"},
            {"Id": "eeeebbbbccccdddd", "State": "exited", "Status": ""},
        ]);
        assert_eq!(container_status(&list, "aaaabbbbcccc").unwrap(), "Exited (0) 1 second ago");
        assert_eq!(container_status(&list, "eeeebbbbcccc").unwrap(), "exited");
        assert_eq!(container_status(&list, "ffff"), None);
        let out = "Untagged: docker.io/library/nginx:latest\nDeleted: 0123456789abcdef0123";
        assert_eq!(short_id(out).as_deref(), Some("0123456789ab"));
        assert_eq!(short_id("0123456789abcdef").as_deref(), Some("0123456789ab"));
        assert_eq!(short_id("sha256:0123456789abcdef").as_deref(), Some("0123456789ab"));
        assert_eq!(short_id("no id here"), None);
        assert_eq!(short_id(""), None);
    }

    #[test]
    fn members_are_found_in_any_case() {
        let info = serde_json::json!({"store": {"graphDriverName": "overlay"}});
        assert_eq!(member(member(&info, "Store"), "GraphDriverName"), "overlay");
        assert!(member(member(&info, "host"), "x").is_null());
    }
}
