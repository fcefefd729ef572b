//! Tests of kola itself, on machines scripted in this process.

use std::time::Duration;

use color_eyre::eyre::{Result, bail, ensure};
use mantle::harness;

use crate::kola::cluster::TestCluster;
use crate::kola::register::Test;

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        scripted(Test::new("selftest.pass", pass)),
        scripted(Test::new("selftest.fail", fail)),
        scripted(Test::new("selftest.panic", |_| async { panic!("as planned") })),
        scripted(Test::new("selftest.skip", skip)),
        scripted(Test::new("selftest.timeout", hang)).timeout(Duration::from_secs(2)),
        scripted(Test::new("selftest.hang", hang)),
        scripted(Test::new("selftest.sub", subtests)).fail_fast(),
        scripted(Test::new("selftest.parallel", parallel)),
        scripted(Test::new("selftest.two", two)).cluster_size(2),
        scripted(Test::new("selftest.reboot", reboot)),
        scripted(Test::new("selftest.lacking", pass)).features(["kernel", "no-such-feature"]),
        scripted(Test::new("selftest.versioned", pass)).min_version("99.0.0"),
    ]
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
