//! Kubernetes: a small cluster of its own, and the kubelet's wrapper.

use std::collections::BTreeSet;

use color_eyre::eyre::{Result, bail, ensure, eyre};
use mantle::conf::UserData;
use mantle::platform::guest::Guest;
use mantle::ssh;

use super::etcd::healthy;
use super::helpers::{must_bash, retry, seconds};
use crate::kola::cluster::TestCluster;
use crate::kola::register::{Flag, Test};

/// The version of Kubernetes, as its image is tagged.
const TAG: &str = "v1.3.4_coreos.0";

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new(format!("google.kubernetes.basic.docker.{TAG}"), basic)
            .description("A master and two workers run a web server and hand out a secret")
            .cluster_size(0)
            .platforms(["gce"])
            .distros(["cl"])
            .features(["docker", "etcd", "flannel", "rkt"])
            .timeout(seconds(3600)),
        Test::new("kubernetes.kubelet_wrapper.var-log-mount", var_log_mount)
            .description("The kubelet's wrapper starts with /var/log mounted by its user")
            .container_linux(KUBELET)
            .distros(["cl"])
            .flags([Flag::RequiresInternetAccess])
            .features(["rkt"])
            .timeout(seconds(1200)),
    ]
}

const KUBELET: &str = r#"
systemd:
  units:
    - name: kubelet.service
      enabled: true
      contents: |
        [Service]
        Type=oneshot
        Environment=KUBELET_IMAGE_TAG=v1.9.2_coreos.0
        Environment="RKT_RUN_ARGS=--volume var-log,kind=host,source=/var/log --mount volume=var-log,target=/var/log --volume resolv,kind=host,source=/etc/resolv.conf --mount volume=resolv,target=/etc/resolv.conf"
        ExecStart=/usr/lib/coreos/kubelet-wrapper --version

        [Install]
        WantedBy=multi-user.target
"#;

/// Container Linux bug 1892.
async fn var_log_mount(c: TestCluster) -> Result<()> {
    const JOURNAL: &str = "journalctl -t kubelet-wrapper -o cat";
    let m = c.machine(0)?;
    retry(&c, 120, seconds(5), || c.assert_output_contains(&m, JOURNAL, "Kubernetes v1.9.2+coreos.0")).await
}

const ETCD: &str = "
etcd:
  advertise_client_urls: http://{PUBLIC_IPV4}:2379
  listen_client_urls: http://0.0.0.0:2379
systemd:
  units:
    - name: etcd-member.service
      enabled: true
";

/// Even an empty one has cloudinit write the addresses of the machine to /etc/environment.
const EMPTY: &str = "#cloud-config\n";

/// What both roles agree on: networks of pods and services, and addresses in the latter.
const SETTINGS: [(&str, &str); 7] = [
    ("TAG", TAG),
    ("HYPERKUBE", "quay.io/coreos/hyperkube"),
    ("RUNTIME", "docker"),
    ("POD_NETWORK", "10.2.0.0/16"),
    ("SERVICE_RANGE", "10.3.0.0/24"),
    ("K8S_SERVICE_IP", SERVICE_IP),
    ("DNS_SERVICE_IP", "10.3.0.10"),
];
/// The API's own address among the services.
const SERVICE_IP: &str = "10.3.0.1";

#[derive(Clone, Copy)]
enum Role {
    Master,
    Worker,
}

/// The script that makes a master or a worker of a machine.
fn install_script(role: Role, etcd: &str, master: &str) -> String {
    let role = match role {
        Role::Master => "master",
        Role::Worker => "worker",
    };
    let etcd = format!("http://{etcd}:2379");
    let own = [("ROLE", role), ("ETCD", &etcd), ("MASTER", master)];
    let lines =
        own.into_iter().chain(SETTINGS).map(|(name, value)| format!("{name}={}\n", ssh::quote(value)));
    let script = include_str!("install.sh");
    let (first, rest) = script.split_once('\n').unwrap_or((script, ""));
    format!("{first}\n{}{rest}", lines.collect::<String>())
}

async fn basic(c: TestCluster) -> Result<()> {
    let etcd = c.new_machine(Some(UserData::container_linux_config(ETCD))).await?;
    healthy(&c, &etcd, 1).await?;
    let empty = || Some(UserData::cloud_config(EMPTY));
    let master = c.new_machine(empty()).await?;
    must_bash(&c, &master, &master_certificates(&master.private_ip())).await?;
    let (one, two) = tokio::try_join!(c.new_machine(empty()), c.new_machine(empty()))?;
    let workers = [one, two];
    for (i, worker) in workers.iter().enumerate() {
        for file in ["ca.pem", "ca-key.pem"] {
            let content = ssh::read_file(master.client(), &format!("/home/core/{file}")).await?;
            ssh::install_file(worker.client(), content, &format!("/home/core/{file}"), 0o644).await?;
        }
        must_bash(&c, worker, &worker_certificates(i, &worker.private_ip())).await?;
    }
    install(&c, &master, &install_script(Role::Master, &etcd.private_ip(), &master.private_ip())).await?;
    for worker in &workers {
        install(&c, worker, &install_script(Role::Worker, &etcd.private_ip(), &master.private_ip())).await?;
    }
    must_bash(&c, &master, &kubectl_script(&release(TAG)?, &master.private_ip())).await?;

    let wanted: BTreeSet<String> = workers.iter().chain([&master]).map(|m| m.private_ip()).collect();
    retry(&c, 15, seconds(30), || async {
        let text = c.must_ssh(&master, "./kubectl get nodes").await?;
        let got = nodes(&text);
        ensure!(got == wanted, "the nodes are {got:?}, expected {wanted:?}");
        Ok(())
    })
    .await?;
    nginx(&c, &master).await?;
    secret(&c, &master).await
}

/// `v1.3.4` of `v1.3.4_coreos.0`.
fn release(tag: &str) -> Result<String> {
    let pattern = regex::Regex::new(r"^v\d+\.\d+\.\d+")?;
    match pattern.find(tag) {
        Some(found) => Ok(found.as_str().to_owned()),
        None => bail!("{tag:?} does not begin with a version"),
    }
}

fn master_certificates(ip: &str) -> String {
    format!(
        r#"
cd ~
openssl genrsa -out ca-key.pem 2048
openssl req -x509 -new -nodes -key ca-key.pem -days 10000 -out ca.pem -subj /CN=kube-ca
cat >openssl.cnf <<END
[req]
req_extensions = v3_req
distinguished_name = req_distinguished_name
[req_distinguished_name]
[v3_req]
basicConstraints = CA:FALSE
keyUsage = nonRepudiation, digitalSignature, keyEncipherment
subjectAltName = @alt_names
[alt_names]
DNS.1 = kubernetes
DNS.2 = kubernetes.default
IP.1 = {SERVICE_IP}
IP.2 = {ip}
END
openssl genrsa -out apiserver-key.pem 2048
openssl req -new -key apiserver-key.pem -out apiserver.csr -subj /CN=kube-apiserver -config openssl.cnf
openssl x509 -req -in apiserver.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -out apiserver.pem -days 365 \
    -extensions v3_req -extfile openssl.cnf
openssl genrsa -out admin-key.pem 2048
openssl req -new -key admin-key.pem -out admin.csr -subj /CN=kube-admin
openssl x509 -req -in admin.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -out admin.pem -days 365
{}
"#,
        to_place(&["ca.pem", "apiserver.pem", "apiserver-key.pem"])
    )
}

fn worker_certificates(i: usize, ip: &str) -> String {
    format!(
        r#"
cd ~
cat >worker-openssl.cnf <<END
[req]
req_extensions = v3_req
distinguished_name = req_distinguished_name
[req_distinguished_name]
[v3_req]
basicConstraints = CA:FALSE
keyUsage = nonRepudiation, digitalSignature, keyEncipherment
subjectAltName = @alt_names
[alt_names]
IP.1 = {ip}
END
openssl genrsa -out worker-key.pem 2048
openssl req -new -key worker-key.pem -out worker.csr -subj /CN=kube-worker-{i} -config worker-openssl.cnf
sudo openssl x509 -req -in worker.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -out worker.pem -days 365 \
    -extensions v3_req -extfile worker-openssl.cnf
{}
"#,
        to_place(&["ca.pem", "worker.pem", "worker-key.pem"])
    )
}

/// The part of a script that puts certificates and keys where Kubernetes looks; keys are root's alone.
fn to_place(files: &[&str]) -> String {
    let mut script = String::from("sudo mkdir -p /etc/kubernetes/ssl\n");
    for file in files {
        let mode = if file.contains("-key") { "0600" } else { "0644" };
        script
            .push_str(&format!("sudo install -o root -g root -m {mode} {file} /etc/kubernetes/ssl/{file}\n"));
    }
    script
}

async fn install(c: &TestCluster, m: &Guest, script: &str) -> Result<()> {
    const PATH: &str = "/home/core/install.sh";
    c.must_ssh(m, "sudo stat /usr/lib/coreos/kubelet-wrapper").await?;
    ssh::install_file(m.client(), script, PATH, 0o755).await?;
    let limit = seconds(420).mul_f64(c.slowness().max(1.0));
    match tokio::time::timeout(limit, c.must_ssh(m, &format!("sudo {PATH}"))).await {
        Ok(result) => result.map(drop),
        Err(_) => bail!("the installation on machine {} was not done in {} s", m.id(), limit.as_secs()),
    }
}

/// Fetches kubectl and tells it of the cluster.
fn kubectl_script(version: &str, master: &str) -> String {
    format!(
        r#"
cd ~
curl -sSf -o kubectl https://storage.googleapis.com/kubernetes-release/release/{version}/bin/linux/amd64/kubectl
chmod 0755 kubectl
./kubectl config set-cluster default-cluster --server=https://{master} --certificate-authority="$PWD/ca.pem"
./kubectl config set-credentials default-admin --certificate-authority="$PWD/ca.pem" \
    --client-key="$PWD/admin-key.pem" --client-certificate="$PWD/admin.pem"
./kubectl config set-context default-system --cluster=default-cluster --user=default-admin
./kubectl config use-context default-system
"#
    )
}

/// The names in a table of kubectl's.
fn nodes(text: &str) -> BTreeSet<String> {
    text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

const NGINX: &str = "
apiVersion: v1
kind: Pod
metadata: {name: nginx}
spec:
  containers:
    - name: nginx
      image: nginx
      ports: [{containerPort: 80}]
";

async fn create(c: &TestCluster, m: &Guest, object: &str) -> Result<()> {
    let command = format!("printf %s {} | ./kubectl create -f -", ssh::quote(object));
    c.must_ssh(m, &command).await.map(drop)
}

async fn nginx(c: &TestCluster, m: &Guest) -> Result<()> {
    create(c, m, NGINX).await?;
    retry(c, 10, seconds(10), || async {
        let phase = c.must_ssh(m, "./kubectl get pod nginx --template={{.status.phase}}").await?;
        ensure!(phase == "Running", "the pod nginx is {phase:?}");
        Ok(())
    })
    .await?;
    c.must_ssh(m, "./kubectl delete pod nginx").await.map(drop)
}

const SECRET: &str = "
apiVersion: v1
kind: Secret
metadata: {name: test-secret}
data:
  data-1: dmFsdWUtMQ0K
  data-2: dmFsdWUtMg0KDQo=
";

const SECRET_POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: secret-test-pod}
spec:
  containers:
    - name: test-container
      image: kubernetes/mounttest:0.1
      command: [/mt, --file_content=/etc/secret-volume/data-1]
      volumeMounts: [{name: secret-volume, mountPath: /etc/secret-volume}]
  volumes: [{name: secret-volume, secret: {secretName: test-secret}}]
  restartPolicy: Never
";

/// A pod reads what is in a secret. Upstream never looked at what it read.
async fn secret(c: &TestCluster, m: &Guest) -> Result<()> {
    create(c, m, SECRET).await?;
    c.must_ssh(m, "./kubectl describe secret test-secret").await?;
    create(c, m, SECRET_POD).await?;
    retry(c, 10, seconds(10), || async {
        let log = c.must_ssh(m, "./kubectl logs secret-test-pod").await?;
        ensure!(log.contains("value-1"), eyre!("the pod did not read the secret: {log:?}"));
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantle::conf::{Additions, IgnitionVersion, render};
    use serde::Deserialize as _;

    #[test]
    fn nodes_and_releases_are_read() {
        let text =
            "NAME       STATUS    AGE\n10.0.0.2   Ready     1m\n10.0.0.3   Ready,SchedulingDisabled   1m\n";
        assert_eq!(nodes(text).into_iter().collect::<Vec<_>>(), ["10.0.0.2", "10.0.0.3"]);
        assert!(nodes("").is_empty());
        assert_eq!(release(TAG).unwrap(), "v1.3.4");
        assert!(release("latest").is_err());
    }

    #[test]
    fn objects_are_yaml() {
        for object in [NGINX, SECRET, SECRET_POD] {
            let tree: serde_yaml::Value = serde_yaml::from_str(object).unwrap();
            assert_eq!(tree["apiVersion"], "v1");
        }
    }

    #[test]
    fn etcd_tells_its_public_address() {
        let config = UserData::container_linux_config(ETCD);
        let (public, private) = ("${COREOS_GCE_IP_EXTERNAL_0}", "${COREOS_GCE_IP_LOCAL_0}");
        let conf =
            render(Some(&config), IgnitionVersion::V2, public, private, &Additions::default()).unwrap();
        assert!(conf.text().contains("http://${COREOS_GCE_IP_EXTERNAL_0}:2379"), "{}", conf.text());
    }

    /// Runs the script in a folder that stands for the machine, with programs that do nothing; all that it writes and
    /// sends is YAML or JSON.
    #[test]
    fn the_script_writes_what_can_be_read() {
        for (role, pods, posted) in [(Role::Master, 4, 6), (Role::Worker, 1, 0)] {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().to_str().unwrap();
            let script = install_script(role, "10.0.0.1", "10.0.0.2")
                .replace("/etc/", &format!("{root}/etc/"))
                .replace("/opt/bin/", &format!("{root}/opt/bin/"));
            for folder in ["etc", "bin", "posted"] {
                std::fs::create_dir(dir.path().join(folder)).unwrap();
            }
            std::fs::write(dir.path().join("etc/environment"), "COREOS_PRIVATE_IPV4=10.0.0.2\n").unwrap();
            let stubs = [
                ("systemctl", "#!/bin/sh\n".to_owned()),
                (
                    "curl",
                    format!(
                        "#!/bin/sh\ncase \"$*\" in *--data-binary*) cat >\"$(mktemp {root}/posted/XXXXXX)\" ;; esac\n"
                    ),
                ),
            ];
            for (name, text) in stubs {
                let path = dir.path().join("bin").join(name);
                std::fs::write(&path, text).unwrap();
                std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            }
            let path = format!("{root}/bin:{}", std::env::var("PATH").unwrap_or_default());
            let out =
                std::process::Command::new("bash").args(["-c", &script]).env("PATH", path).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            let read = |folder: &str| {
                let files = std::fs::read_dir(dir.path().join(folder)).unwrap();
                files.map(|f| std::fs::read_to_string(f.unwrap().path()).unwrap()).collect::<Vec<_>>()
            };
            let manifests = read("etc/kubernetes/manifests");
            let sent = read("posted");
            assert_eq!((manifests.len(), sent.len()), (pods, posted));
            for text in manifests.iter().chain(&sent) {
                for document in serde_yaml::Deserializer::from_str(text) {
                    let tree =
                        serde_yaml::Value::deserialize(document).unwrap_or_else(|e| panic!("{e}:\n{text}"));
                    assert!(tree["kind"].is_string() && tree["metadata"]["name"].is_string(), "{text}");
                }
            }
            for text in &manifests {
                assert!(text.contains("quay.io/coreos/hyperkube:v1.3.4_coreos.0"), "{text}");
            }
            let unit =
                std::fs::read_to_string(dir.path().join("etc/systemd/system/kubelet.service")).unwrap();
            assert!(
                unit.contains("--hostname-override=10.0.0.2") && unit.contains("target=/usr/bin/rkt"),
                "{unit}"
            );
            let cni =
                std::fs::read_to_string(dir.path().join("etc/kubernetes/cni/net.d/10-flannel.conf")).unwrap();
            let _: serde_json::Value = serde_json::from_str(&cni).unwrap();
        }
    }
}
