//! dm-verity: /usr is what its hash says, and what was changed is not read.

use color_eyre::eyre::{Result, ensure, eyre};
use mantle::harness::skip;
use mantle::platform::guest::Guest;

use super::helpers::must_bash;
use crate::kola::cluster::TestCluster;
use crate::kola::register::Test;

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("cl.verity", verity)
            .description("/usr matches its hash, and a block that was changed cannot be read")
            .distros(["cl"])
            .features(["kernel", "verity"]),
    ]
}

async fn verity(c: TestCluster) -> Result<()> {
    // In this order: the second one damages the disk.
    c.run("verify", async |c: TestCluster| verify(&c).await).await;
    c.run("corruption", async |c: TestCluster| corruption(&c).await).await;
    Ok(())
}

/// The device that /usr is on, below any mapping.
pub async fn usr_device(c: &TestCluster, m: &Guest) -> Result<String> {
    let device = c.must_ssh(m, "findmnt -no SOURCE /usr").await?;
    if device != "/dev/mapper/usr" {
        return Ok(device);
    }
    c.must_ssh(m, "echo -n /dev/$(sudo dmsetup info --noheadings -Co blkdevs_used usr)").await
}

async fn verify(c: &TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    // The root hash is in the kernel image.
    let hash = c.must_ssh(&m, "dd if=/boot/coreos/vmlinuz-a skip=64 count=64 bs=1 status=none").await?;
    let device = usr_device(c, &m).await?;
    let offset = c.must_ssh(&m, &format!("sudo e2size {device}")).await?;
    let command =
        format!("sudo veritysetup verify --verbose --hash-offset={offset} {device} {device} {hash}");
    c.must_ssh(&m, &command).await.map(drop)
}

async fn corruption(c: &TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    if let Err(e) = c.ssh(&m, "sudo veritysetup status usr").await {
        return Err(match e.stdout() {
            "/dev/mapper/usr is inactive." => skip("verity not enabled"),
            _ => eyre!(e),
        });
    }
    expect_state(c, &m, "V").await?;
    let device = usr_device(c, &m).await?;
    let script = format!(
        r#"
block=$(sudo debugfs -R "blocks /lib/os-release" {device} 2>/dev/null | tr -d '[:space:]')
echo NAME=LulzOS | sudo dd of={device} bs=1 seek=$((block * 4096)) conv=notrunc status=none
sync
echo 3 | sudo tee /proc/sys/vm/drop_caches >/dev/null
"#
    );
    must_bash(c, &m, &script).await?;
    // Its complaint is what is wanted, and stays out of the log.
    let read = m.ssh("cat /usr/lib/os-release").await;
    ensure!(read.is_err(), "a file that was changed below verity could be read");
    expect_state(c, &m, "C").await
}

/// The state of the mapping: V for valid, C for corrupted.
async fn expect_state(c: &TestCluster, m: &Guest, wanted: &str) -> Result<()> {
    let text = c.must_ssh(m, "sudo dmsetup --target verity status usr").await?;
    let state = state(&text);
    ensure!(state == Some(wanted), "verity's state is {state:?}, expected {wanted:?}: {text}");
    Ok(())
}

fn state(text: &str) -> Option<&str> {
    match text.split_whitespace().collect::<Vec<_>>()[..] {
        [_, _, "verity", state] => Some(state),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_state_is_the_last_field() {
        assert_eq!(super::state("0 2097152 verity V\n"), Some("V"));
        assert_eq!(super::state("0 2097152 verity C"), Some("C"));
        assert_eq!(super::state("0 2097152 linear 8:3 0"), None);
        assert_eq!(super::state(""), None);
    }
}
