//! etcd: clusters that find their members by themselves, and what is stored in them.
//!
//! Where upstream fetches a container image, Debian's own package serves, so that no Internet is needed there.

use std::collections::BTreeMap;

use color_eyre::eyre::{Result, bail, ensure, eyre};
use mantle::platform::guest::Guest;
use serde_json::Value;
use uuid::Uuid;

use super::helpers::{is_debian, must_bash, retry, seconds};
use crate::kola::cluster::TestCluster;
use crate::kola::register::{Flag, Test};

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        etcd_member(
            Test::new("cl.etcd-member.discovery", discovery).description(
                "Three members of etcd find each other by discovery and agree on what is stored",
            ),
        )
        .cluster_size(3)
        .container_linux(DISCOVERY)
        .ignition_v3(DISCOVERY_V3)
        .features(["cluster-network", "etcd"]),
        etcd_member(
            Test::new("cl.etcd-member.v2-backup-restore", backup_restore)
                .description("What was saved from a store of version 2 is there again in a new cluster"),
        )
        .container_linux(BACKUP)
        .ignition_v3(BACKUP_V3)
        .exclude_platforms(["esx"])
        .features(["etcd"]),
        etcd_member(
            Test::new("cl.etcd-member.etcdctlv3", etcdctl_v3)
                .description("etcd's client speaks version 3 of the API"),
        )
        .container_linux(API3)
        .ignition_v3(API3_V3)
        .features(["etcd"]),
        etcd_cluster(
            Test::new("rhcos.etcd.cluster.insecure", cluster_insecure)
                .description("Three members of etcd become a healthy cluster without encryption"),
        )
        .ignition(INSECURE)
        .ignition_v3(INSECURE_V3),
        etcd_cluster(
            Test::new("rhcos.etcd.cluster.tls", cluster_tls)
                .description("Three members of etcd become a healthy cluster, encrypted and authenticated"),
        )
        .ignition(SECURE)
        .ignition_v3(SECURE_V3),
    ]
}

/// What the tests of Container Linux's etcd-member have in common.
fn etcd_member(test: Test) -> Test {
    test.distros(["cl", "debian"]).flags([Flag::RequiresInternetAccess]).offline_distros(["debian"])
}

/// What the tests of etcd on Red Hat CoreOS have in common.
fn etcd_cluster(test: Test) -> Test {
    test.cluster_size(3)
        .distros(["rhcos", "debian"])
        .flags([Flag::RequiresInternetAccess])
        .offline_distros(["debian"])
        .features(["cluster-network", "etcd"])
}

/// A cluster whose members find each other, in Container Linux.
pub(super) const DISCOVERY: &str = "
etcd:
  listen_client_urls: http://0.0.0.0:2379
  advertise_client_urls: http://{PRIVATE_IPV4}:2379
  listen_peer_urls: http://{PRIVATE_IPV4}:2380
  initial_advertise_peer_urls: http://{PRIVATE_IPV4}:2380
  discovery: $discovery
";

/// Members wait for each other before they report to be ready, however long the others take to boot.
const DISCOVERY_V3: &str = r#"{
  "ignition": {"version": "3.0.0"},
  "systemd": {"units": [{
    "name": "etcd.service",
    "enabled": true,
    "dropins": [{
      "name": "20-kola.conf",
      "contents": "[Unit]\nAfter=network-online.target\n\n[Service]\nTimeoutStartSec=infinity\nEnvironment=ETCD_ENABLE_V2=true\nEnvironment=ETCD_NAME=etcd-$private_ipv4\nEnvironment=ETCD_LISTEN_CLIENT_URLS=http://0.0.0.0:2379\nEnvironment=ETCD_ADVERTISE_CLIENT_URLS=http://$private_ipv4:2379\nEnvironment=ETCD_LISTEN_PEER_URLS=http://$private_ipv4:2380\nEnvironment=ETCD_INITIAL_ADVERTISE_PEER_URLS=http://$private_ipv4:2380\nEnvironment=ETCD_DISCOVERY=$discovery\n"
    }]
  }]}
}"#;

const BACKUP: &str = "
etcd:
  listen_client_urls: http://0.0.0.0:4001,http://{PRIVATE_IPV4}:2379
  advertise_client_urls: http://{PRIVATE_IPV4}:2379
  listen_peer_urls: http://0.0.0.0:2380
  initial_advertise_peer_urls: http://{PRIVATE_IPV4}:2380
  discovery: $discovery
";

const BACKUP_V3: &str = r#"{
  "ignition": {"version": "3.0.0"},
  "systemd": {"units": [{
    "name": "etcd.service",
    "enabled": true,
    "dropins": [{
      "name": "20-kola.conf",
      "contents": "[Unit]\nAfter=network-online.target\n\n[Service]\nTimeoutStartSec=infinity\nEnvironment=ETCD_ENABLE_V2=true\nEnvironment=ETCD_LISTEN_CLIENT_URLS=http://0.0.0.0:2379,http://0.0.0.0:4001\nEnvironment=ETCD_ADVERTISE_CLIENT_URLS=http://$private_ipv4:2379\nEnvironment=ETCD_LISTEN_PEER_URLS=http://0.0.0.0:2380\nEnvironment=ETCD_INITIAL_ADVERTISE_PEER_URLS=http://$private_ipv4:2380\nEnvironment=ETCD_DISCOVERY=$discovery\n"
    }]
  }]}
}"#;

const API3: &str = "
etcd:
  listen_client_urls: http://0.0.0.0:2379
  advertise_client_urls: http://127.0.0.1:2379
  listen_peer_urls: http://0.0.0.0:2380
  initial_advertise_peer_urls: http://127.0.0.1:2380
";

const API3_V3: &str = r#"{
  "ignition": {"version": "3.0.0"},
  "systemd": {"units": [{
    "name": "etcd.service",
    "enabled": true,
    "dropins": [{
      "name": "20-kola.conf",
      "contents": "[Service]\nTimeoutStartSec=infinity\nEnvironment=ETCD_LISTEN_CLIENT_URLS=http://0.0.0.0:2379\nEnvironment=ETCD_ADVERTISE_CLIENT_URLS=http://127.0.0.1:2379\nEnvironment=ETCD_LISTEN_PEER_URLS=http://0.0.0.0:2380\nEnvironment=ETCD_INITIAL_ADVERTISE_PEER_URLS=http://127.0.0.1:2380\n"
    }]
  }]}
}"#;

/// A config with a unit `etcd.service` that is started once the test knows all members.
macro_rules! cluster_unit {
    ($version:literal, $service:literal, $program:literal, $scheme:literal, $options:literal) => {
        concat!(
            r#"{
  "ignition": {"version": ""#,
            $version,
            r#""},
  "systemd": {"units": [{
    "name": "etcd.service",
    "enabled": false,
    "contents": "[Unit]\nAfter=network-online.target\nWants=network-online.target\n\n[Service]\nRestart=on-failure\nRestartSec=10s\n"#,
            $service,
            r#"\nExecStart="#,
            $program,
            r#" --name=${NODE_NAME} --initial-advertise-peer-urls="#,
            $scheme,
            r#"://${NODE_IP}:2380 --listen-peer-urls="#,
            $scheme,
            r#"://${NODE_IP}:2380 --advertise-client-urls="#,
            $scheme,
            r#"://${NODE_IP}:2379 --listen-client-urls="#,
            $scheme,
            r#"://${NODE_IP}:2379,http://127.0.0.1:2379 --initial-cluster=${CLUSTER} --initial-cluster-state=new --initial-cluster-token=${TOKEN}"#,
            $options,
            r#"\n\n[Install]\nWantedBy=multi-user.target\n",
    "dropins": [{"name": "cluster.conf", "contents": "[Service]\n# Filled in by the test.\n"}]
  }]}
}"#
        )
    };
}

const INSECURE: &str = cluster_unit!(
    "2.2.0",
    "Type=simple",
    "/usr/bin/podman run --name=etcd --net=host quay.io/coreos/etcd /usr/local/bin/etcd",
    "http",
    ""
);
const INSECURE_V3: &str = cluster_unit!(
    "3.0.0",
    "Type=simple\\nEnvironment=ETCD_ENABLE_V2=true ETCD_DATA_DIR=/var/lib/etcd/default",
    "/usr/bin/etcd",
    "http",
    ""
);
const SECURE: &str = cluster_unit!(
    "2.2.0",
    "Type=simple",
    "/usr/bin/podman run --name=etcd --net=host --security-opt=label=disable --volume=/etc/ssl/certs:/etc/ssl/certs:ro quay.io/coreos/etcd /usr/local/bin/etcd",
    "https",
    " --cert-file=/etc/ssl/certs/etcd-cert.pem --key-file=/etc/ssl/certs/etcd-key.pem --peer-cert-file=/etc/ssl/certs/peer-cert.pem --peer-key-file=/etc/ssl/certs/peer-key.pem --peer-client-cert-auth --peer-trusted-ca-file=/etc/ssl/certs/ca-peer-cert.pem"
);
const SECURE_V3: &str = cluster_unit!(
    "3.0.0",
    "Type=simple\\nEnvironment=ETCD_ENABLE_V2=true ETCD_DATA_DIR=/var/lib/etcd/default",
    "/usr/bin/etcd",
    "https",
    " --cert-file=/etc/ssl/certs/etcd-cert.pem --key-file=/etc/ssl/certs/etcd-key.pem --peer-cert-file=/etc/ssl/certs/peer-cert.pem --peer-key-file=/etc/ssl/certs/peer-key.pem --peer-client-cert-auth --peer-trusted-ca-file=/etc/ssl/certs/ca-peer-cert.pem"
);

/// The members find each other through the discovery service and agree on what is stored.
async fn discovery(c: TestCluster) -> Result<()> {
    let machines = c.machines();
    healthy(&c, &*c.machine(0)?, machines.len()).await?;
    let keys = set_keys(&c).await?;
    check_keys(&c, &keys).await
}

/// The client with version 2 of the API; newer ones speak 3 unless told.
const ETCDCTL: &str = "ETCDCTL_API=2 etcdctl";

/// Waits until a cluster of `members` reports to be healthy: each member once by two words, and all of it.
pub(super) async fn healthy(c: &TestCluster, m: &Guest, members: usize) -> Result<()> {
    let command = format!("{ETCDCTL} cluster-health");
    retry(c, 15, seconds(10), || async {
        let out = c.must_ssh(m, &command).await?;
        let (got, wanted) = (out.matches("healthy").count(), 2 * members + 1);
        ensure!(got == wanted, "health polling failed: {got} times healthy instead of {wanted}:\n{out}");
        Ok(())
    })
    .await
}

/// Three random digits.
fn digits() -> String {
    format!("{:03}", Uuid::new_v4().as_u128() % 1000)
}

/// Stores five random values under random keys by way of each machine; returns what the store has to hold then.
async fn set_keys(c: &TestCluster) -> Result<BTreeMap<String, String>> {
    let mut keys = BTreeMap::new();
    for m in c.machines() {
        let mut written = 0;
        for _ in 0..5 {
            let (key, value) = (digits(), digits());
            let command = format!(
                "curl -s -w %{{http_code}} -s http://127.0.0.1:2379/v2/keys/{key} -XPUT -d value={value}"
            );
            let reply = c.must_ssh(&m, &command).await?;
            if reply.ends_with("200") || reply.ends_with("201") {
                keys.insert(key, value);
                written += 1;
            }
        }
        ensure!(written > 0, "no key could be written on machine {}", m.id());
    }
    Ok(keys)
}

/// Reads all keys back from every machine.
async fn check_keys(c: &TestCluster, keys: &BTreeMap<String, String>) -> Result<()> {
    for m in c.machines() {
        for (key, value) in keys {
            let command = format!("curl -s 'http://127.0.0.1:2379/v2/keys/{key}?quorum=true'");
            let text = c.must_ssh(&m, &command).await?;
            let reply: Value = serde_json::from_str(&text).map_err(|e| eyre!("no JSON: {e}: {text:?}"))?;
            if !reply["errorCode"].is_null() {
                bail!("machine {}: etcd error {}: {}", m.id(), reply["errorCode"], reply["message"]);
            }
            let got = &reply["node"]["value"];
            ensure!(got == value.as_str(), "machine {}: key {key} is {got}, expected {value:?}", m.id());
        }
    }
    Ok(())
}

/// What was saved from a store of version 2 is there again in a new cluster made of the copy.
async fn backup_restore(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    healthy(&c, &m, 1).await?;
    let (unit, data) = match is_debian(&c) {
        true => ("etcd", "/var/lib/etcd/default"),
        false => ("etcd-member", "/var/lib/etcd"),
    };
    let key = format!("/{}/test", Uuid::new_v4().simple());
    let script = format!(
        r#"
key={key}
export ETCDCTL_API=2
etcdctl set $key magic >/dev/null
test "$(etcdctl get $key)" = magic
backup=$(mktemp -d)
sudo -E etcdctl backup --data-dir={data} --backup-dir "$backup"
etcdctl rm $key >/dev/null
if etcdctl get $key; then echo "$key is still there after its removal" >&2; exit 1; fi
sudo systemctl stop {unit}
sudo rm -rf {data}
sudo cp -r "$backup" {data}
sudo chown -R etcd:etcd {data}
sudo mkdir -p /run/systemd/system/{unit}.service.d
printf '[Service]\nEnvironment=ETCD_FORCE_NEW_CLUSTER=true\n' |
    sudo tee /run/systemd/system/{unit}.service.d/10-force-new.conf >/dev/null
sudo systemctl daemon-reload
sudo systemctl start {unit}
"#
    );
    must_bash(&c, &m, &script).await?;
    // A unit that does not tell when it is ready answers a moment later.
    let get = format!("{ETCDCTL} get {key}");
    retry(&c, 15, seconds(10), || async {
        let got = c.must_ssh(&m, &get).await?;
        ensure!(got == "magic", "{key} is {got:?} after the restoration, expected \"magic\"");
        Ok(())
    })
    .await
}

/// The client speaks version 3 of the API.
async fn etcdctl_v3(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    let wanted = c.machines().len();
    retry(&c, 15, seconds(10), || async {
        let text = c.must_ssh(&m, "ETCDCTL_API=3 etcdctl member list --write-out=json").await?;
        let list: Value = serde_json::from_str(&text).map_err(|e| eyre!("no JSON: {e}: {text:?}"))?;
        let got = list["members"].as_array().map_or(0, Vec::len);
        ensure!(got == wanted, "{got} members instead of {wanted}: {text}");
        Ok(())
    })
    .await?;
    let script = r#"
export ETCDCTL_API=3
test "$(etcdctl put foo bar)" = OK
test "$(etcdctl get foo -w json | jq -r '.kvs[].value' | base64 -d)" = bar
copy=$(mktemp -d)/snapshot
sudo -E etcdctl snapshot save "$copy"
sudo -E etcdctl snapshot status "$copy"
"#;
    must_bash(&c, &m, script).await.map(drop)
}

async fn cluster_insecure(c: TestCluster) -> Result<()> {
    start_members(&c, "http").await?;
    members_healthy(&c, "").await?;
    let keys = set_keys(&c).await?;
    check_keys(&c, &keys).await
}

/// Tells each member who the others are, and starts it.
async fn start_members(c: &TestCluster, scheme: &str) -> Result<()> {
    let machines = c.machines();
    let peers =
        machines.iter().enumerate().map(|(i, m)| format!("etcd{i}={scheme}://{}:2380", m.private_ip()));
    let cluster = peers.collect::<Vec<_>>().join(",");
    for (i, m) in machines.iter().enumerate() {
        let script = format!(
            r#"
sudo mkdir -p /etc/systemd/system/etcd.service.d
sudo tee /etc/systemd/system/etcd.service.d/cluster.conf >/dev/null <<END
[Service]
Environment=NODE_NAME=etcd{i}
Environment=NODE_IP={}
Environment=CLUSTER={cluster}
Environment=TOKEN=etcd-cluster-token
END
sudo systemctl daemon-reload
sudo systemctl enable --now etcd
"#,
            m.private_ip()
        );
        must_bash(c, m, &script).await?;
    }
    Ok(())
}

/// Waits until the first member reports that all are healthy; `environment` goes before Debian's client.
async fn members_healthy(c: &TestCluster, environment: &str) -> Result<()> {
    let (m, wanted) = (c.machine(0)?, c.machines().len());
    let command = match is_debian(c) {
        true => format!("ETCDCTL_API=3 {environment} etcdctl endpoint --cluster health 2>&1"),
        false => {
            "sudo podman exec --env=ETCDCTL_API=3 etcd /usr/local/bin/etcdctl endpoint --cluster health 2>&1"
                .into()
        }
    };
    retry(c, 15, seconds(10), || async {
        let out = c.must_ssh(&m, &command).await?;
        let got = out.matches("is healthy").count();
        ensure!(got == wanted, "health polling failed: {got} of {wanted} members are healthy:\n{out}");
        Ok(())
    })
    .await
}

/// Settings of openssl: two authorities, certificates of servers and of peers. Names and addresses are appended.
const OPENSSL: &str = "[req]
distinguished_name = req

[etcd_ca]
basicConstraints = CA:true
keyUsage = keyCertSign,cRLSign
subjectKeyIdentifier = hash

[etcd_peer]
basicConstraints = CA:FALSE
extendedKeyUsage = clientAuth,serverAuth
keyUsage = digitalSignature,keyEncipherment
subjectAltName = @sans

[etcd_server]
basicConstraints = CA:FALSE
extendedKeyUsage = serverAuth
keyUsage = digitalSignature,keyEncipherment
subjectAltName = @sans

[sans]
DNS.1 = localhost
IP.1 = 127.0.0.1
";

async fn cluster_tls(c: TestCluster) -> Result<()> {
    let machines = c.machines();
    make_certificates(&c).await?;
    start_members(&c, "https").await?;
    let environment = format!(
        "ETCDCTL_CACERT=/etc/ssl/certs/ca-etcd-cert.pem ETCDCTL_ENDPOINTS=https://{}:2379",
        c.machine(0)?.private_ip()
    );
    members_healthy(&c, &environment).await?;
    let (one, two) = (c.machine(1)?, c.machine(2)?);
    let put = format!("curl -sk https://{}:2379/v2/keys/kolavar -XPUT -d value=kolavalue", one.private_ip());
    c.must_ssh(&one, &put).await?;
    let get = format!(
        "curl -sk 'https://{}:2379/v2/keys/kolavar?quorum=true' | grep -Fq kolavalue",
        two.private_ip()
    );
    c.must_ssh(&two, &get).await?;
    ensure!(machines.len() == 3, "the cluster has {} machines", machines.len());
    let keys = set_keys(&c).await?;
    check_keys(&c, &keys).await
}

/// Makes two authorities on the first machine, takes them to the others, and has each sign its own certificates.
async fn make_certificates(c: &TestCluster) -> Result<()> {
    let machines = c.machines();
    for m in &machines {
        let command = format!("sudo tee /etc/ssl/etcd.cnf >/dev/null <<'END'\n{OPENSSL}END\n");
        must_bash(c, m, &command).await?;
    }
    let authorities = r#"
quietly() { "$@" 2> >(grep -v '^[-.+*]*$' >&2); }
cd /etc/ssl/certs
for who in etcd peer; do
    quietly sudo openssl req -x509 -newkey rsa:4096 -sha512 -days 3 -nodes -subj "/CN=$who CA" \
        -config /etc/ssl/etcd.cnf -extensions etcd_ca -keyout ca-$who-key.pem -out ca-$who-cert.pem
done
"#;
    let first = c.machine(0)?;
    must_bash(c, &first, authorities).await?;
    let packed = first
        .client()
        .output("cd /etc/ssl/certs && sudo tar -c ca-etcd-cert.pem ca-etcd-key.pem ca-peer-cert.pem ca-peer-key.pem")
        .await?;
    ensure!(
        packed.status == 0,
        "packing the authorities failed: {}",
        String::from_utf8_lossy(&packed.stderr)
    );
    for m in &machines[1..] {
        m.client().run_with_input("sudo tar -x -C /etc/ssl/certs", packed.stdout.clone()).await?;
    }
    let sign = machines.iter().enumerate().map(async |(i, m)| {
        let script = format!(
            r#"
quietly() {{ "$@" 2> >(grep -v '^[-.+*]*$' >&2); }}
cd /etc/ssl/certs
printf 'DNS.2 = etcd{i}\nIP.2 = {ip}\n' | sudo tee -a /etc/ssl/etcd.cnf >/dev/null
for who in etcd:etcd_server peer:etcd_peer; do
    name=${{who%:*}} section=${{who#*:}}
    quietly sudo openssl req -new -newkey rsa:2048 -sha512 -nodes -subj /CN=etcd{i} -config /etc/ssl/etcd.cnf \
        -keyout $name-key.pem -out $name.csr
    sudo openssl x509 -req -in $name.csr -sha512 -days 3 -CA ca-$name-cert.pem -CAkey ca-$name-key.pem \
        -CAcreateserial -extfile /etc/ssl/etcd.cnf -extensions $section -out $name-cert.pem
done
"#,
            ip = m.private_ip()
        );
        must_bash(c, m, &script).await
    });
    futures_util::future::try_join_all(sign).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_digits_are_three() {
        for _ in 0..100 {
            let text = digits();
            assert!(text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit()), "{text}");
        }
    }
}
