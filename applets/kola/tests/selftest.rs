//! Tests of kola itself, on machines scripted in this process.

use std::time::Duration;

use color_eyre::eyre::{Result, bail, ensure, eyre};
use mantle::harness;

use crate::kola::cluster::TestCluster;
use crate::kola::register::{Flag, Native, Test};
use crate::kola::tests::helpers;

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        scripted(Test::new("selftest.pass", pass).description("Of kola itself: passes")),
        scripted(Test::new("selftest.fail", fail).description("Of kola itself: fails")),
        scripted(
            Test::new("selftest.panic", |_| async { panic!("as planned") })
                .description("Of kola itself: panics"),
        ),
        scripted(Test::new("selftest.skip", skip).description("Of kola itself: skips itself")),
        scripted(Test::new("selftest.timeout", hang).description("Of kola itself: hangs until its limit"))
            .timeout(Duration::from_secs(2)),
        scripted(Test::new("selftest.hang", hang).description("Of kola itself: hangs until it is stopped")),
        scripted(Test::new("selftest.sub", subtests).description("Of kola itself: has subtests")).fail_fast(),
        scripted(
            Test::new("selftest.parallel", parallel).description("Of kola itself: has subtests side by side"),
        ),
        scripted(Test::new("selftest.two", two).description("Of kola itself: has two machines"))
            .cluster_size(2),
        scripted(Test::new("selftest.reboot", reboot).description("Of kola itself: boots its machine again")),
        scripted(Test::new("selftest.lacking", pass).description("Of kola itself: needs what no image has"))
            .features(["kernel", "no-such-feature"]),
        scripted(
            Test::new("selftest.versioned", pass)
                .description("Of kola itself: needs a version that no image has"),
        )
        .min_version("99.0.0"),
        scripted(
            Test::new("selftest.doom.native", native)
                .description("Of kola itself: loses its machine in a native function"),
        )
        .native([Native::new("Nothing", || Ok(()))]),
        scripted(
            Test::new("selftest.doom.poll", poll)
                .description("Of kola itself: loses its machine while it polls"),
        ),
        scripted(
            Test::new("selftest.doom.broken", broken)
                .description("Of kola itself: fails by what turns out to be the loss of its machine"),
        ),
        scripted(
            Test::new("selftest.doom.deep", deep)
                .description("Of kola itself: loses its machine in a subtest of a subtest"),
        ),
        scripted(
            Test::new("selftest.doom.more", more)
                .description("Of kola itself: loses its machine while it makes another"),
        ),
        scripted(
            Test::new("selftest.doom.destroy", destroy)
                .description("Of kola itself: removes one of its machines, which is no loss"),
        )
        .cluster_size(2),
        scripted(
            Test::new("selftest.doom.removal", removal)
                .description("Of kola itself: loses a machine while it removes the other"),
        )
        .cluster_size(2),
        scripted(
            Test::new("selftest.doom.emergency", poll)
                .description("Of kola itself: allows an emergency shell on the console"),
        )
        .flags([Flag::NoEmergencyShellCheck])
        .timeout(Duration::from_secs(5)),
        scripted(
            Test::new("selftest.doom.warned", poll)
                .description("Of kola itself: meets a warning on the console"),
        )
        .timeout(Duration::from_secs(5)),
        idle_test(),
    ]
}

/// Waits in a command; on machines of all kinds of this host, but there only where MANTLE_TEST_PLATFORM is `all`, so that
/// no run of everything meets it.
fn idle_test() -> Test {
    let test = Test::new("selftest.doom.idle", idle)
        .description("Of kola itself: its machine comes to an end meanwhile");
    if std::env::var_os("MANTLE_TEST_PLATFORM").is_some_and(|value| value == "all") {
        test.platforms(["scripted", "nspawn", "qemu", "qemu-unpriv"])
    } else {
        scripted(test)
    }
}

/// Only for the scripted platform.
fn scripted(test: Test) -> Test {
    test.platforms(["scripted"])
}

async fn pass(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    c.must_ssh(&m, "true").await.map(drop)
}

async fn fail(c: TestCluster) -> Result<()> {
    c.log("one line\nand another");
    bail!("as planned");
}

async fn skip(c: TestCluster) -> Result<()> {
    c.log("about to skip");
    Err(harness::skip("as planned").wrap_err("deep in a helper"))
}

async fn hang(c: TestCluster) -> Result<()> {
    c.log("about to hang");
    std::future::pending().await
}

async fn subtests(c: TestCluster) -> Result<()> {
    c.run("first", async |_| Ok(())).await;
    c.run("second", async |_| bail!("as planned")).await;
    c.run("third", async |_| Ok(())).await;
    Ok(())
}

/// Parallel subtests use the cluster, which must still be there when they run.
async fn parallel(c: TestCluster) -> Result<()> {
    for name in ["a", "b", "c"] {
        c.run(name, async |c: TestCluster| {
            c.parallel().await;
            let m = c.machine(0)?;
            c.must_ssh(&m, "true").await.map(drop)
        })
        .await;
    }
    Ok(())
}

async fn two(c: TestCluster) -> Result<()> {
    let machines = c.machines();
    ensure!(machines.len() == 2, "{} machines", machines.len());
    // Their order is that in which they came into being, which is not that of their numbers.
    ensure!(machines[0].id() != machines[1].id(), "one machine twice");
    Ok(())
}

async fn reboot(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    let before = m.boot_id().await?;
    m.reboot().await?;
    ensure!(m.boot_id().await? != before, "the machine is in the same boot");
    Ok(())
}

async fn idle(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    c.log("about to idle");
    c.must_ssh(&m, "sleep 10000").await.map(drop)
}

async fn native(c: TestCluster) -> Result<()> {
    c.run_natives(&c.machine(0)?).await
}

/// Waits for what never comes, from a command on that machines of a plan may die of.
async fn poll(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    c.must_ssh(&m, "doom").await?;
    helpers::poll(&c, 10_000, Duration::from_secs(1), async || {
        Ok(helpers::Probe::<()>::NotYet(eyre!("as planned")))
    })
    .await
}

/// Fails by what may be the sign of a death, in a subtest that does not return it.
async fn broken(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    c.run("sub", async move |c: TestCluster| {
        if let Err(e) = m.ssh("doom").await {
            c.error(e);
        }
        Ok(())
    })
    .await;
    Ok(())
}

/// A command in a subtest of a subtest, beside one that waits for nothing.
async fn deep(c: TestCluster) -> Result<()> {
    c.run("beside", async |c: TestCluster| {
        c.parallel().await;
        std::future::pending().await
    })
    .await;
    c.run("a", async |c: TestCluster| {
        c.run("b", async |c: TestCluster| {
            let m = c.machine(0)?;
            c.must_ssh(&m, "doom").await.map(drop)
        })
        .await;
        std::future::pending().await
    })
    .await;
    Ok(())
}

async fn more(c: TestCluster) -> Result<()> {
    c.new_machine(c.user_data()).await.map(drop)
}

async fn destroy(c: TestCluster) -> Result<()> {
    let machines = c.machines();
    c.destroy_machine(&machines[0]).await;
    c.must_ssh(&machines[1], "true").await?;
    ensure!(c.machines().len() == 1, "the other machine is gone, too");
    Ok(())
}

/// Destroys one machine while the other one may die.
async fn removal(c: TestCluster) -> Result<()> {
    let machines = c.machines();
    let first = machines.iter().position(|m| m.id() == "scripted-0").unwrap_or_default();
    c.must_ssh(&machines[first], "doom").await?;
    c.destroy_machine(&machines[1 - first]).await;
    std::future::pending().await
}
