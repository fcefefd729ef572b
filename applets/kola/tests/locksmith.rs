//! Reboots that machines agree on.

use std::time::Duration;

use color_eyre::eyre::{Result, WrapErr as _, ensure};
use mantle::platform::guest::Guest;

use super::etcd;
use super::helpers::{retry, seconds};
use crate::kola::cluster::TestCluster;
use crate::kola::register::{Flag, Test};

/// The tests of this file. Debian's guest has no locksmith, and they say so there.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("coreos.locksmith.reboot", reboot_one)
            .description("A machine reboots when it is told that it needs to")
            .distros(["cl", "debian"])
            .features(["locksmith"])
            .timeout(Duration::from_secs(15 * 60)),
        Test::new("cl.locksmith.cluster", cluster)
            .description("Three machines that share a lock reboot one after the other")
            .cluster_size(3)
            .container_linux(format!("locksmith:\n  reboot_strategy: etcd-lock\n{}", etcd::DISCOVERY))
            .distros(["cl", "debian"])
            .flags([Flag::RequiresInternetAccess])
            .offline_distros(["debian"])
            .features(["cluster-network", "etcd", "locksmith"])
            .timeout(Duration::from_secs(20 * 60)),
        Test::new("coreos.locksmith.tls", tls)
            .description("locksmith talks to etcd with a certificate of its own")
            .ignition(TLS)
            .distros(["cl", "debian"])
            .flags([Flag::RequiresInternetAccess])
            .offline_distros(["debian"])
            .features(["etcd", "locksmith"]),
    ]
}

/// Says that a machine needs a reboot, and waits until it is usable again.
async fn reboot_by_need(m: &Guest, command: &str) -> Result<()> {
    let old = m.boot_id().await.wrap_err("asking for the boot's id")?;
    match m.ssh(&format!("sudo systemctl stop sshd.socket && {command}")).await {
        // The connection breaks, or the status gets lost.
        Err(e) if !e.is_lost() => return Err(e).wrap_err("failed to run locksmithctl"),
        _ => {}
    }
    m.wait_for_reboot(&old).await.wrap_err_with(|| format!("machine {} did not reboot", m.id()))
}

async fn reboot_one(c: TestCluster) -> Result<()> {
    reboot_by_need(&*c.machine(0)?, "locksmithctl send-need-reboot").await
}

async fn cluster(c: TestCluster) -> Result<()> {
    let first = c.machine(0)?;
    etcd::healthy(&c, &first, 3).await?;
    c.must_ssh(&first, "locksmithctl status").await?;
    let machines = c.machines();
    let reboots = machines.iter().map(|m| reboot_by_need(m, "sudo locksmithctl send-need-reboot"));
    let limit = seconds(600).mul_f64(c.slowness().max(1.0));
    let done = tokio::time::timeout(limit, futures_util::future::try_join_all(reboots)).await;
    done.wrap_err_with(|| format!("the machines did not all reboot within {} s", limit.as_secs()))?.map(drop)
}

/// The services that make the certificates and use them. The settings of openssl are a file of their own: those of the
/// system stay as they are.
const TLS: &str = r#"{
  "ignition": {"version": "2.0.0"},
  "storage": {"files": [
    {
      "filesystem": "root", "path": "/etc/coreos/update.conf", "mode": 420,
      "contents": {"source": "data:,REBOOT_STRATEGY%3Detcd-lock%0A"}
    },
    {
      "filesystem": "root", "path": "/etc/ssl/etcd.cnf", "mode": 420,
      "contents": {"source": "data:,%5Breq%5D%0Adistinguished_name%20%3D%20req%0A%0A%5Betcd_ca%5D%0AbasicConstraints%20%3D%20CA%3Atrue%0AkeyUsage%20%3D%20keyCertSign%2CcRLSign%0AsubjectKeyIdentifier%20%3D%20hash%0A%0A%5Betcd_client%5D%0AbasicConstraints%20%3D%20CA%3AFALSE%0AextendedKeyUsage%20%3D%20clientAuth%0AkeyUsage%20%3D%20digitalSignature%2CkeyEncipherment%0A%0A%5Betcd_server%5D%0AbasicConstraints%20%3D%20CA%3AFALSE%0AextendedKeyUsage%20%3D%20serverAuth%0AkeyUsage%20%3D%20digitalSignature%2CkeyEncipherment%0AsubjectAltName%20%3D%20%40sans%0A%0A%5Bsans%5D%0ADNS.1%20%3D%20localhost%0AIP.1%20%3D%20127.0.0.1%0A"}
    },
    {
      "filesystem": "root", "path": "/opt/certgen", "mode": 493,
      "contents": {"source": "data:,%23!%2Fbin%2Fbash%0Aset%20-e%0Acd%20%2Fetc%2Fssl%2Fcerts%0Aauthority()%20%7B%20%23%20name%0A%20%20%20%20openssl%20req%20-x509%20-newkey%20rsa%3A4096%20-sha512%20-days%203%20-nodes%20-subj%20%22%2FCN%3D%241%20CA%22%20%5C%0A%20%20%20%20%20%20%20%20-config%20%2Fetc%2Fssl%2Fetcd.cnf%20-extensions%20etcd_ca%20-keyout%20ca-%241-key.pem%20-out%20ca-%241-cert.pem%0A%7D%0Acertificate()%20%7B%20%23%20name%2C%20common%20name%2C%20section%0A%20%20%20%20openssl%20req%20-new%20-newkey%20rsa%3A4096%20-sha512%20-nodes%20-subj%20%22%2FCN%3D%242%22%20-config%20%2Fetc%2Fssl%2Fetcd.cnf%20%5C%0A%20%20%20%20%20%20%20%20-keyout%20%241-key.pem%20-out%20%241.csr%0A%20%20%20%20openssl%20x509%20-req%20-in%20%241.csr%20-sha512%20-days%203%20-CA%20ca-%241-cert.pem%20-CAkey%20ca-%241-key.pem%20-CAcreateserial%20%5C%0A%20%20%20%20%20%20%20%20-extfile%20%2Fetc%2Fssl%2Fetcd.cnf%20-extensions%20%243%20-out%20%241-cert.pem%0A%7D%0Aauthority%20etcd%0Aauthority%20locksmith%0Acertificate%20etcd%20localhost%20etcd_server%0Acertificate%20locksmith%20'locksmith%20client'%20etcd_client%0Achmod%200644%20%7Bca-%2C%7D%7Betcd%2Clocksmith%7D-%7Bkey%2Ccert%7D.pem%0Aln%20-sf%20ca-etcd-cert.pem%20etcd.pem%0Ac_rehash%0A"}
    }
  ]},
  "systemd": {"units": [
    {
      "name": "certgen.service",
      "contents": "[Unit]\nAfter=system-config.target\n\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/opt/certgen\n"
    },
    {
      "name": "etcd-member.service",
      "enable": true,
      "dropins": [{
        "name": "environment.conf",
        "contents": "[Unit]\nAfter=certgen.service\nRequires=certgen.service\n\n[Service]\nEnvironment=ETCD_ADVERTISE_CLIENT_URLS=https://127.0.0.1:2379\nEnvironment=ETCD_LISTEN_CLIENT_URLS=https://127.0.0.1:2379\nEnvironment=ETCD_CERT_FILE=/etc/ssl/certs/etcd-cert.pem\nEnvironment=ETCD_KEY_FILE=/etc/ssl/certs/etcd-key.pem\nEnvironment=ETCD_TRUSTED_CA_FILE=/etc/ssl/certs/ca-locksmith-cert.pem\nEnvironment=ETCD_CLIENT_CERT_AUTH=true\n"
      }]
    },
    {
      "name": "locksmithd.service",
      "enable": true,
      "dropins": [{
        "name": "environment.conf",
        "contents": "[Unit]\nAfter=etcd-member.service\nRequires=etcd-member.service\n\n[Service]\nEnvironment=LOCKSMITHD_ETCD_CERTFILE=/etc/ssl/certs/locksmith-cert.pem\nEnvironment=LOCKSMITHD_ETCD_KEYFILE=/etc/ssl/certs/locksmith-key.pem\nEnvironment=LOCKSMITHD_ETCD_CAFILE=/etc/ssl/certs/ca-etcd-cert.pem\nEnvironment=LOCKSMITHD_ENDPOINT=https://localhost:2379\nEnvironment=LOCKSMITHD_REBOOT_WINDOW_START=00:00\nEnvironment=LOCKSMITHD_REBOOT_WINDOW_LENGTH=23h59m\n"
      }]
    }
  ]}
}"#;

const LOCKSMITHCTL: &str = "sudo locksmithctl --endpoint https://localhost:2379 \
     --etcd-cafile /etc/ssl/certs/ca-etcd-cert.pem --etcd-certfile /etc/ssl/certs/locksmith-cert.pem \
     --etcd-keyfile /etc/ssl/certs/locksmith-key.pem";

async fn tls(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    let connect = "openssl s_client -showcerts -verify_return_error -verify_ip 127.0.0.1 -verify_hostname localhost \
         -connect localhost:2379 -cert /etc/ssl/certs/locksmith-cert.pem -key /etc/ssl/certs/locksmith-key.pem \
         </dev/null 2>/dev/null";
    // Nothing else waits for etcd.
    retry(&c, 15, seconds(10), || c.assert_output_contains(&m, connect, "Verify return code: 0")).await?;
    let status = async |available: u32| -> Result<()> {
        let said = c.must_ssh(&m, &format!("{LOCKSMITHCTL} status")).await?;
        let wanted = format!("Available: {available}\nMax: 1");
        ensure!(said.starts_with(&wanted), "unexpected locksmithctl status {said:?}, expected {wanted:?}");
        Ok(())
    };
    let said = format!("{LOCKSMITHCTL} status");
    retry(&c, 15, seconds(10), || c.must_ssh(&m, &said)).await?;
    c.must_ssh(&m, "sudo systemctl stop locksmithd.service").await?;
    c.must_ssh(&m, &format!("{LOCKSMITHCTL} lock")).await?;
    status(0).await?;
    // It gives back the lock that is held in the machine's name.
    c.must_ssh(&m, "sudo systemctl start locksmithd.service").await?;
    retry(&c, 10, seconds(12), || status(1)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(config: &str, path: &str) -> String {
        let config: serde_json::Value = serde_json::from_str(config).unwrap();
        let files = config["storage"]["files"].as_array().unwrap();
        let found = files.iter().find(|file| file["path"] == path).unwrap();
        let source = found["contents"]["source"].as_str().unwrap().strip_prefix("data:,").unwrap();
        // A space is %20 in both, and there is no plus.
        form_urlencoded::parse(format!("x={source}").as_bytes()).next().unwrap().1.into_owned()
    }

    #[test]
    fn configs_have_their_files() {
        assert_eq!(file(TLS, "/etc/coreos/update.conf"), "REBOOT_STRATEGY=etcd-lock\n");
    }

    #[test]
    fn the_certificates_are_good() {
        let found = |name| mantle::process::find_program(name).is_some();
        if !found("openssl") || !found("bash") {
            return println!("skipped: openssl is not installed");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("etcd.cnf"), file(TLS, "/etc/ssl/etcd.cnf")).unwrap();
        let script = file(TLS, "/opt/certgen")
            .replace("/etc/ssl/certs", folder.path().to_str().unwrap())
            .replace("/etc/ssl/etcd.cnf", &path("etcd.cnf"))
            // Of these it is only the time that is saved.
            .replace("rsa:4096", "rsa:2048")
            .replace("\nc_rehash\n", "\n");
        std::fs::write(path("certgen"), script).unwrap();
        let run = |words: &[&str]| {
            let out = std::process::Command::new(words[0]).args(&words[1..]).output().unwrap();
            assert!(out.status.success(), "{words:?}: {out:?}");
            String::from_utf8(out.stdout).unwrap()
        };
        run(&["bash", &path("certgen")]);
        for (name, purpose) in [("etcd", "sslserver"), ("locksmith", "sslclient")] {
            let (authority, certificate) =
                (path(&format!("ca-{name}-cert.pem")), path(&format!("{name}-cert.pem")));
            run(&["openssl", "verify", "-purpose", purpose, "-CAfile", &authority, &certificate]);
        }
        let text = run(&["openssl", "x509", "-noout", "-text", "-in", &path("etcd-cert.pem")]);
        assert!(
            text.contains("DNS:localhost, IP Address:127.0.0.1") && text.contains("CN = localhost"),
            "{text}"
        );
    }
}
