//! Tests of kola itself, on machines scripted in this process.

use std::time::Duration;

use color_eyre::eyre::{Result, bail, ensure};
use mantle::harness;

use crate::kola::cluster::TestCluster;
use crate::kola::register::Test;

const SCRIPTED: Test = Test { platforms: &["scripted"], ..Test::DEFAULT };

pub static TESTS: &[Test] = &[
    Test { name: "selftest.pass", run: |c| Box::pin(pass(c)), ..SCRIPTED },
    Test { name: "selftest.fail", run: |c| Box::pin(fail(c)), ..SCRIPTED },
    Test { name: "selftest.panic", run: |_| Box::pin(async { panic!("as planned") }), ..SCRIPTED },
    Test { name: "selftest.skip", run: |c| Box::pin(skip(c)), ..SCRIPTED },
    Test {
        name: "selftest.timeout",
        run: |c| Box::pin(hang(c)),
        timeout: Duration::from_secs(2),
        ..SCRIPTED
    },
    Test { name: "selftest.hang", run: |c| Box::pin(hang(c)), ..SCRIPTED },
    Test { name: "selftest.sub", run: |c| Box::pin(subtests(c)), fail_fast: true, ..SCRIPTED },
    Test { name: "selftest.parallel", run: |c| Box::pin(parallel(c)), ..SCRIPTED },
    Test { name: "selftest.two", run: |c| Box::pin(two(c)), cluster_size: 2, ..SCRIPTED },
    Test { name: "selftest.reboot", run: |c| Box::pin(reboot(c)), ..SCRIPTED },
    Test { name: "selftest.lacking", features: &["kernel", "no-such-feature"], ..SCRIPTED },
    Test { name: "selftest.versioned", min_version: Some("99.0.0"), ..SCRIPTED },
];

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
