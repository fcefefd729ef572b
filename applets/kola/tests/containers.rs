//! What the tests of container engines have in common. Nothing is fetched: images are made of the guest's own files.

use std::time::Duration;

use color_eyre::eyre::{Result, bail, ensure, eyre};
use futures_util::{StreamExt as _, TryStreamExt as _};
use mantle::platform::guest::Guest;

use super::helpers::{Probe, must_bash, poll, seconds};
use crate::kola::cluster::TestCluster;

/// A container engine and where it differs from the others.
pub struct Engine {
    /// Command line that runs containers.
    pub run: &'static str,
    /// Command line, up to the tag, that builds an image.
    build: &'static str,
    /// What comes before the name of an image of ours.
    registry: &'static str,
    /// The address of the guest in the engine's network.
    gateway: &'static str,
    /// Exits 0 if somebody listens on port 9988, 1 if nobody does.
    listening: &'static str,
}

pub const DOCKER: Engine = Engine {
    run: "docker",
    build: "sudo docker build",
    registry: "",
    gateway: "172.17.0.1",
    listening: "sudo lsof -i TCP:9988 -s TCP:LISTEN | grep 9988 -q",
};

pub const PODMAN: Engine = Engine {
    run: "sudo podman",
    build: "sudo podman build --layers=false",
    registry: "localhost/",
    gateway: "10.88.0.1",
    listening: "sudo netstat -tulpn | grep 9988 -q",
};

/// The part of a script that copies programs, and the libraries they need, into the present folder.
pub fn copy_programs(programs: &str) -> String {
    format!(
        r#"programs=$(which {programs})
libraries=$(sudo ldd $programs | tr -s '[:space:]' '\n' | grep '^/lib' | sort -u)
sudo rsync -av --relative --copy-links $programs $libraries ./"#
    )
}

/// Makes an image, tagged `name`, that holds some of the guest's programs and the libraries they need.
pub async fn scratch_image(
    c: &TestCluster,
    m: &Guest,
    engine: &Engine,
    name: &str,
    programs: &str,
) -> Result<()> {
    let Engine { build, registry, .. } = engine;
    let script = format!(
        r#"
dir=$(mktemp -d)
cd "$dir"
printf 'FROM scratch\nCOPY . /\n' >Dockerfile
{copy}
{build} -t {registry}{name} .
"#,
        copy = copy_programs(programs)
    );
    must_bash(c, m, &script).await.map(drop)
}

/// Runs a container with each of the resource options; `parallel` at a time.
pub async fn resources(
    c: &TestCluster,
    m: &Guest,
    engine: &Engine,
    options: &[&str],
    command: &str,
    parallel: usize,
) -> Result<()> {
    let commands: Vec<String> =
        options.iter().map(|o| format!("{} run --rm {o} {command}", engine.run)).collect();
    futures_util::stream::iter(commands)
        .map(|command| async move { c.must_ssh(m, &command).await.map(drop) })
        .buffer_unordered(parallel)
        .try_collect()
        .await
}

/// Every one of 100 containers reaches its gateway at once (Container Linux bug 1785).
pub async fn networks_reliably(c: &TestCluster, engine: &Engine) -> Result<()> {
    const TIMES: usize = 100;
    let m = c.machine(0)?;
    scratch_image(c, &m, engine, "ping", "sh ping").await?;
    let Engine { run, gateway, .. } = engine;
    let command = format!(
        "for i in $(seq 1 {TIMES}); do {run} run --rm ping sh -c \
         'ping -i 0.2 {gateway} -w 1 >/dev/null && echo PASS || echo FAIL'; done"
    );
    let out = c.must_ssh(&m, &command).await?;
    let passed = out.matches("PASS").count();
    ensure!(passed == TIMES, "{passed} of {TIMES} containers had a working network:\n{out}");
    Ok(())
}

/// A container on one machine talks to a container on another, both ways.
pub async fn between_machines(c: TestCluster, engine: &Engine) -> Result<()> {
    const FROM_SERVER: &str = "HELLO FROM SERVER";
    const FROM_CLIENT: &str = "HELLO FROM CLIENT";
    let (client, server) = (c.machine(0)?, c.machine(1)?);
    tokio::try_join!(
        scratch_image(&c, &client, engine, "ncat", "ncat"),
        scratch_image(&c, &server, engine, "ncat", "ncat")
    )?;
    let run = engine.run;
    let listen = async {
        let command = format!(
            "echo '{FROM_SERVER}' | {run} run -i -p 9988:9988 ncat ncat --idle-timeout 20 --listen 0.0.0.0 9988"
        );
        let got = c.must_ssh(&server, &command).await?;
        ensure!(got == FROM_CLIENT, "the server heard {got:?}, expected {FROM_CLIENT:?}");
        Ok(())
    };
    let talk = async {
        poll(&c, 600, Duration::from_millis(100), || async {
            match c.ssh(&server, engine.listening).await {
                Ok(_) => Ok(Probe::Done(())),
                Err(e) if e.exit_status() == Some(1) => {
                    Ok(Probe::NotYet(eyre!("nobody listens on port 9988 of {}", server.id())))
                }
                Err(e) => Err(e.into()),
            }
        })
        .await?;
        let command = format!("echo '{FROM_CLIENT}' | {run} run -i ncat ncat {} 9988", server.private_ip());
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
