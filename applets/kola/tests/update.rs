//! Updates of Container Linux: by update_engine, and by hand into the other half of `/usr`.

use std::io::Read as _;
use std::time::Duration;

use color_eyre::eyre::{Result, WrapErr as _, bail, ensure, eyre};
use mantle::conf::UserData;
use mantle::harness;
use mantle::omaha::Seen;
use mantle::platform::guest::Guest;
use mantle::ssh;
use regex::Regex;

use super::helpers::{must_equal, reboot, seconds, start_native};
use super::omaha::{OMAHA, PAYLOAD, PORT};
use crate::kola::cluster::TestCluster;
use crate::kola::register::{Flag, Test};
use crate::kola::updates::{self, Usr};

/// The tests of this file. Debian's guest lacks what they need, and they say so there.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("cl.omaha.ping", ping)
            .description("update_engine pings the server of its update.conf")
            .cluster_size(0)
            .platforms(["qemu", "nspawn"])
            .distros(["cl", "debian"])
            .features(["private-network", "update-engine"]),
        Test::new("cl.update.payload", payload)
            .description("update_engine installs the payload of --update-payload, twice")
            .native([OMAHA])
            .distros(["cl", "debian"])
            .features(["ab-usr", "private-network", "update-engine"])
            .timeout(Duration::from_secs(20 * 60)),
        by_hand(Test::new("cl.update.reboot", other_usr)).description("The machine boots a copy of its /usr"),
        by_hand(Test::new("cl.update.badverity", bad_verity))
            .description("A /usr that does not have its hash is not booted")
            .flags([Flag::NoEmergencyShellCheck]),
        by_hand(Test::new("cl.update.badusr", bad_usr))
            .description("A /usr without a system is not booted")
            .flags([Flag::NoEmergencyShellCheck]),
        Test::new("cl.update.grubnop", grub_nop)
            .description("The patch of GRUB's module linux does nothing to one that is right")
            .cloud_config(cloud_config())
            .distros(["cl", "debian"])
            .min_version("1745.0.0")
            .features(["firmware", "update-engine"]),
    ]
}

/// What the tests have in common that write the other half of `/usr` themselves.
fn by_hand(test: Test) -> Test {
    test.container_linux(NO_UPDATES)
        .distros(["cl", "debian"])
        .features(["ab-usr", "cgpt", "disks", "firmware", "update-engine"])
        // A system that does not come up sits in its emergency shell for five minutes before the old one is tried.
        .timeout(Duration::from_secs(25 * 60))
}

const NO_UPDATES: &str = "
systemd:
  units:
    - name: update-engine.service
      mask: true
    - name: locksmithd.service
      mask: true
";

async fn ping(c: TestCluster) -> Result<()> {
    let omaha = c.omaha().await?;
    let config = UserData::container_linux_config(format!("update:\n  server: {}\n", omaha.url()));
    let m = c.new_machine(Some(config)).await?;
    c.must_ssh(&m, "update_engine_client -check_for_update").await?;
    let limit = seconds(30).mul_f64(c.slowness().max(1.0));
    let pinged = omaha.server.wait_for(|seen| matches!(seen, Seen::Ping { .. }));
    match tokio::time::timeout(limit, pinged).await {
        Ok(seen) => c.log(format!("{seen:?}")),
        Err(_) => bail!("timed out waiting for the ping; seen so far: {:?}", omaha.server.seen()),
    }
    Ok(())
}

async fn payload(c: TestCluster) -> Result<()> {
    let Some(file) = c.update_payload() else {
        return Err(harness::skip("there is no payload: --update-payload names none"));
    };
    let content = tokio::fs::read(file).await.wrap_err_with(|| format!("cannot read {}", file.display()))?;
    let server = c.machine(0)?;
    ssh::install_file(server.client(), content, PAYLOAD, 0o644).await?;
    let host = format!("{}:{PORT}", server.private_ip());
    start_native(&c, &server, OMAHA.name, &format!("curl -s http://{host}")).await?;
    let m = c.new_machine(None).await?;
    let limit = seconds(120).mul_f64(c.slowness().max(1.0));
    let url = format!("http://{host}/v1/update");
    updates::configure(&m, &url).await?;
    updates::check_mount(&m, Usr::A).await?;
    updates::update(&m, limit).await?;
    updates::check_mount(&m, Usr::B).await?;
    updates::invalidate_a(&m).await?;
    // The new system may have another key.
    updates::configure(&m, &url).await?;
    updates::update(&m, limit).await?;
    updates::check_mount(&m, Usr::A).await
}

const USR_B: &str = "/dev/disk/by-partlabel/USR-B";
const KERNEL_B: &str = "/boot/coreos/vmlinuz-b";

async fn copy_kernel(c: &TestCluster, m: &Guest) -> Result<()> {
    c.must_ssh(m, &format!("sudo cp /boot/coreos/vmlinuz-a {KERNEL_B}")).await.map(drop)
}

async fn copy_usr(c: &TestCluster, m: &Guest) -> Result<()> {
    updates::check_mount(m, Usr::A).await?;
    let copy = format!("sudo dd if=/dev/disk/by-partlabel/USR-A of={USR_B} bs=10M status=none");
    c.must_ssh(m, &copy).await?;
    copy_kernel(c, m).await
}

/// Has the bootloader try USR-B at the next boot, once.
async fn prioritize_b(c: &TestCluster, m: &Guest) -> Result<()> {
    for what in ["repair", "add -S0 -T1", "prioritize"] {
        c.must_ssh(m, &format!("sudo cgpt {what} {USR_B}")).await?;
    }
    Ok(())
}

async fn other_usr(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    copy_usr(&c, &m).await?;
    prioritize_b(&c, &m).await?;
    reboot(&c, &m).await?;
    updates::check_mount(&m, Usr::B).await
}

/// Puts 64 characters where the kernel has the root hash of `/usr`.
async fn set_hash(c: &TestCluster, m: &Guest, hash: &str) -> Result<()> {
    ensure!(hash.len() == 64, "{hash:?} is not the hash of a /usr");
    let write =
        format!("printf %s {hash} | sudo dd of={KERNEL_B} bs=1 seek=64 count=64 conv=notrunc status=none");
    c.must_ssh(m, &write).await.map(drop)
}

/// Boots what cannot come up, and requires that the old system is there again.
///
/// The time in between is not slept through as upstream does: a boot that fails never lets us in.
async fn fall_back(c: &TestCluster, m: &Guest) -> Result<()> {
    prioritize_b(c, m).await?;
    reboot(c, m).await?;
    updates::check_mount(m, Usr::A).await
}

async fn bad_verity(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    if let Err(e) = c.ssh(&m, "sudo veritysetup status usr").await {
        match e.stdout() == "/dev/mapper/usr is inactive." {
            true => return Err(harness::skip("verity is not enabled")),
            false => return Err(eyre!(e).wrap_err("asking for the status of verity")),
        }
    }
    copy_usr(&c, &m).await?;
    set_hash(&c, &m, &"0".repeat(64)).await?;
    fall_back(&c, &m).await
}

async fn bad_usr(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    updates::check_mount(&m, Usr::A).await?;
    c.must_ssh(&m, &format!("sudo mkfs.ext4 -q -b 4096 {USR_B} 25600")).await?;
    let format = format!(
        "sudo veritysetup format --hash=sha256 --data-block-size 4096 --hash-block-size 4096 --data-blocks 25600 \
         --hash-offset 104857600 {USR_B} {USR_B}"
    );
    let hash = root_hash(&c.must_ssh(&m, &format).await?)?;
    copy_kernel(&c, &m).await?;
    set_hash(&c, &m, &hash).await?;
    fall_back(&c, &m).await
}

fn root_hash(veritysetup: &str) -> Result<String> {
    let hash = Regex::new(r"\nRoot hash:\s+([0-9a-f]+)")?;
    let found = hash.captures(veritysetup).map(|captures| captures[1].to_owned());
    found.ok_or_else(|| eyre!("no root hash in the output of veritysetup:\n{veritysetup}"))
}

/// Modules `linux` of GRUB that have a fault (Container Linux bug 2400): the SHA-512 of each, and where four bytes have
/// to be which ones.
const MODULES: [(&str, u32, &str); 10] = [
    (
        "1e11052c144ae483cba4f70efe278070c50daa80d1a5febe7c0d08e401baf0ab16a542b7a34da00d7aea1591238f01d9902ac6fbfcce8d82eebcf09d97d132cd",
        3378,
        "74020000",
    ),
    (
        "2fd5f0fade7c4c986259524f148f79ee1d1353d7ab83d1bdd0d50e52d393d8d896c32ab64eb714ba08861b8ba4f113d19f940a04889fa407784f010f119c8c19",
        3378,
        "88020000",
    ),
    (
        "3c591be75a6aa903ee8deed5f8116e627f53738eb8a2ceb80aeaab08f485b405b87565148e482a7234138302eb900786d0e14939a3c3451d424052ca2bd73181",
        3383,
        "74020000",
    ),
    (
        "6d60e369c1b4b484c7221e91d80f03a782b5286137f8087b2bf22b9f54e3507c4947d2a456ba46a6ef3c0c7216dc8251c017e9122f44cba89e32f23a0542afd3",
        3383,
        "74020000",
    ),
    (
        "6e9e5ebb6cd1a15d5a570d9a06a56c9bf60cb047d858c7220dd9dcfd54ebb87c8e0ea4611ac98a0ab51fec9e87b265b2207973f3e4882d87f62d887da72f87ab",
        3404,
        "88020000",
    ),
    (
        "82b37fa4b305cab33277d2cf0249008731a69575b5689a47e72fe2a35be4440e0e116bc02191f9b0066ea3ae278327fe3409f28d25d13bae88c5f347dba6a254",
        3383,
        "74020000",
    ),
    (
        "8a7b03d92a8b115943e7f004820fadd2dc6ab125c077a48fb232a1e9ac77fdb27fbb01d52fd33a6ddf65a9f58ce981244c99bcca821030511caa277bc2f68239",
        3378,
        "74020000",
    ),
    (
        "a3e9dadfe3cc34189b5fee83bfc01c3c5b42e04ba19cdcd84f8301c42566617b5916294e2414348139d8c5e557a7ccf6c0d3dca0661f2d10c0c0077345630b1d",
        3298,
        "74020000",
    ),
    (
        "c127d7c1dbd5d11cf7af627e37808ea16166b6430ddd8e96111e503cc78ae1fd78083d474495951743fa1b489140be63178a4bb65dabb0d719c5d0ad9c57eb78",
        3298,
        "74020000",
    ),
    (
        "f1f9abefa49eeba6a3fe46ba3d254dfc3fa6e2cd8823835e2d982e9cbcd0d82c298e3896dc79d234305d2262a828a7398526906022f8ed7407368725d95e08d8",
        3375,
        "74020000",
    ),
];

const MODULE: &str = "/boot/coreos/grub/i386-pc/linux.mod";

/// The script that mends a module on the machine; `folder` is where GRUB is.
fn patch_script(folder: &str) -> String {
    let octal = |hex: &str| -> String {
        hex.as_bytes().chunks(2).fold(String::new(), |text, pair| {
            let byte = u8::from_str_radix(&String::from_utf8_lossy(pair), 16).unwrap_or_default();
            text + &format!("\\{byte:03o}")
        })
    };
    let cases: String = MODULES
        .iter()
        .map(|(sum, offset, bytes)| format!("    {sum}) offset={offset} bytes='{}' ;;\n", octal(bytes)))
        .collect();
    format!(
        r#"#!/bin/bash
set -e
escape={folder}/skip-bug-2400-patch
module={folder}/i386-pc/linux.mod
if [ -e "$escape" ] || [ ! -e "$module" ]; then exit 0; fi
plain=$(mktemp)
trap 'rm -f "$plain"' EXIT
gunzip --stdout --suffix .mod "$module" >"$plain"
sum=$(sha512sum <"$plain")
case ${{sum%% *}} in
{cases}    *) echo 'Nothing to do'; touch "$escape"; exit 0 ;;
esac
printf "$bytes" | dd of="$plain" bs=1 seek="$offset" conv=notrunc status=none
gzip --stdout "$plain" >"${{module%.mod}}.tmp"
cp "$module" "${{module%.mod}}.bak.bug2400"
mv "${{module%.mod}}.tmp" "$module"
sync
touch "$escape"
echo "$module was updated"
"#
    )
}

fn cloud_config() -> String {
    let script: String =
        patch_script("/boot/coreos/grub").lines().map(|line| format!("      {line}\n")).collect();
    format!(
        "#cloud-config\nwrite_files:\n  - path: /opt/patch.sh\n    permissions: \"0777\"\n    content: |\n{script}\
         coreos:\n  units:\n    - name: update-engine.service\n      mask: true\n"
    )
}

async fn grub_nop(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    let packed = ssh::read_file(m.client(), MODULE).await?;
    let mut module = Vec::new();
    flate2::read::MultiGzDecoder::new(&*packed)
        .read_to_end(&mut module)
        .wrap_err_with(|| format!("cannot unpack {MODULE}"))?;
    let sum: String = openssl::sha::sha512(&module).iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(MODULES.iter().all(|(bad, ..)| *bad != sum), "bad linux.mod: SHA-512 {sum}");
    must_equal(&c, &m, "sudo /opt/patch.sh", "Nothing to do").await?;
    must_equal(&c, &m, "sudo /opt/patch.sh", "").await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn the_root_hash_is_found() {
        let text = "VERITY header information for /dev/vda4\nUUID: \t8c\nRoot hash:      \t00ffab12\n";
        assert_eq!(root_hash(text).unwrap(), "00ffab12");
        assert!(root_hash("Root hash: 00").is_err());
    }

    #[test]
    fn cloud_configs_are_yaml() {
        let config: serde_yaml::Value = serde_yaml::from_str(&cloud_config()).unwrap();
        let script = config["write_files"][0]["content"].as_str().unwrap();
        assert_eq!(script, patch_script("/boot/coreos/grub"));
        assert_eq!(config["coreos"]["units"][0]["mask"], true);
        assert_eq!(config["write_files"][0]["permissions"], "0777");
    }

    #[test]
    fn the_patch_writes_four_bytes_once() {
        let folder = tempfile::tempdir().unwrap();
        let grub = folder.path();
        let (script, module) = (grub.join("patch.sh"), grub.join("i386-pc/linux.mod"));
        std::fs::create_dir(grub.join("i386-pc")).unwrap();
        let content = vec![9_u8; 4000];
        let sum: String = openssl::sha::sha512(&content).iter().map(|b| format!("{b:02x}")).collect();
        let text = patch_script(grub.to_str().unwrap());
        let run = |text: &str| {
            std::fs::write(&script, text).unwrap();
            let out = std::process::Command::new("bash").arg(&script).output().unwrap();
            assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
            String::from_utf8(out.stdout).unwrap()
        };
        let read = || {
            let mut plain = Vec::new();
            let file = std::fs::File::open(&module).unwrap();
            flate2::read::GzDecoder::new(file).read_to_end(&mut plain).unwrap();
            plain
        };
        let write = || {
            let file = std::fs::File::create(&module).unwrap();
            let mut packer = flate2::write::GzEncoder::new(file, flate2::Compression::default());
            packer.write_all(&content).unwrap();
            packer.finish().unwrap();
        };
        // No module, none of the bad ones, and not again.
        assert_eq!(run(&text), "");
        write();
        assert_eq!(run(&text), "Nothing to do\n");
        assert_eq!(run(&text), "");
        std::fs::remove_file(grub.join("skip-bug-2400-patch")).unwrap();
        // One of them.
        let text = text.replace(MODULES[1].0, &sum);
        assert!(run(&text).ends_with("linux.mod was updated\n"));
        let mut wanted = content.clone();
        wanted[3378..3382].copy_from_slice(&[0x88, 2, 0, 0]);
        assert!(read() == wanted);
        assert!(grub.join("i386-pc/linux.bak.bug2400").exists() && !grub.join("i386-pc/linux.tmp").exists());
        assert_eq!(run(&text), "");
    }
}
