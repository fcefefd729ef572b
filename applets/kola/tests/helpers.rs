//! What several tests need: waiting, choosing among variants, comparing outputs.

use std::time::Duration;

use color_eyre::eyre::{Report, Result, bail};
use mantle::conf::{IgnitionVersion, UserData};
use mantle::platform::distribution::Distribution;
use mantle::platform::guest::Guest;

use crate::kola::cluster::TestCluster;

/// The body of tests that pass if the machines boot and let us in.
pub async fn boots(_: TestCluster) -> Result<()> {
    Ok(())
}

/// The first pause of a wait; each further one is half as long again, up to the wait's own.
const FIRST_PAUSE: Duration = Duration::from_millis(75);

/// The answer of a probe; an error from it ends the wait at once.
pub enum Probe<T> {
    /// What was waited for.
    Done(T),
    /// Why it is not there yet: the error if it never comes.
    NotYet(Report),
}

/// Probes until done, with pauses that grow to `pause`.
///
/// It gives up once it has slept for `attempts` times `pause`, multiplied by the platform's slowness; there are
/// at least `attempts` probes, whatever time they take themselves.
pub async fn poll<T, F>(
    c: &TestCluster,
    attempts: u32,
    pause: Duration,
    mut probe: impl FnMut() -> F,
) -> Result<T>
where
    F: Future<Output = Result<Probe<T>>>,
{
    let total = (pause * attempts).mul_f64(c.slowness().max(1.0));
    let (mut slept, mut next) = (Duration::ZERO, FIRST_PAUSE.min(pause));
    loop {
        let last = match probe().await? {
            Probe::Done(value) => return Ok(value),
            Probe::NotYet(report) => report,
        };
        if slept >= total {
            return Err(last.wrap_err(format!("gave up after {} s of waiting", slept.as_secs())));
        }
        tokio::time::sleep(next).await;
        slept += next;
        next = (next * 3 / 2).min(pause);
    }
}

/// [Polls](poll) something that fails until it is ready.
pub async fn retry<T, F>(
    c: &TestCluster,
    attempts: u32,
    pause: Duration,
    mut probe: impl FnMut() -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let probe = || {
        let tried = probe();
        async { Ok(tried.await.map_or_else(Probe::NotYet, Probe::Done)) }
    };
    poll(c, attempts, pause, probe).await
}

/// Whole seconds.
pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Whether the guest is Debian, whose values differ from those of the CoreOS family.
pub fn is_debian(c: &TestCluster) -> bool {
    c.distro() == "debian"
}

/// The config in the version of Ignition that the guest's distribution speaks.
pub fn pick(c: &TestCluster, v2: &str, v3: &str) -> UserData {
    let version = Distribution::named(c.distro()).map(|d| d.ignition);
    UserData::ignition(if version == Some(IgnitionVersion::V3) { v3 } else { v2 })
}

/// Runs a command whose stdout has to be exactly `wanted`.
///
/// # Errors
/// When it fails or says something else.
pub async fn must_equal(c: &TestCluster, m: &Guest, command: &str, wanted: &str) -> Result<()> {
    let got = c.must_ssh(m, command).await?;
    if got != wanted {
        bail!("{command:?}: expected {wanted:?}, got {got:?}");
    }
    Ok(())
}

/// Reboots a machine and waits until it is usable again.
///
/// # Errors
/// As [`Guest::reboot`].
pub async fn reboot(c: &TestCluster, m: &Guest) -> Result<()> {
    c.log(format!("rebooting machine {}", m.id()));
    Ok(m.reboot().await?)
}

/// Runs a script that needs bash and stops at its first error.
///
/// # Errors
/// When it fails.
pub async fn must_bash(c: &TestCluster, m: &Guest, script: &str) -> Result<String> {
    let script = format!("set -euo pipefail\n{}", script.trim());
    c.must_ssh(m, &format!("bash -c {}", mantle::ssh::quote(&script))).await
}

/// Starts a native function of the test in the background and waits until the command `ready` succeeds.
///
/// # Errors
/// When it cannot be started, or does not become ready within a minute.
pub async fn start_native(c: &TestCluster, m: &Guest, function: &str, ready: &str) -> Result<()> {
    c.drop_kolet(m).await?;
    c.must_ssh(m, &format!("sudo systemd-run --quiet ./kolet run {} {function}", c.t().name())).await?;
    retry(c, 12, seconds(5), || c.must_ssh(m, ready)).await.map(drop)
}
