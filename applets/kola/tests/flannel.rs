//! flannel: a network of its own over those of three machines.

use std::net::Ipv4Addr;

use color_eyre::eyre::{Result, ensure, eyre};
use mantle::platform::guest::Guest;

use super::etcd::healthy;
use crate::kola::cluster::TestCluster;
use crate::kola::register::{Flag, Test};

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![flannel("udp", "flannel0"), flannel("vxlan", "flannel.1")]
}

fn flannel(backend: &'static str, interface: &'static str) -> Test {
    Test::new(format!("cl.flannel.{backend}"), move |c| ping(c, interface))
        .description(format!("Machines reach each other over flannel's {backend} network"))
        .container_linux(CONFIG.replace("$backend", backend))
        .cluster_size(3)
        .distros(["cl"])
        .flags([Flag::RequiresInternetAccess])
        .features(["docker", "etcd", "flannel"])
}

/// The address of the network; the mask has 16 bits.
const NETWORK: Ipv4Addr = Ipv4Addr::new(10, 254, 0, 0);

/// The options for docker come from flannel, which waits for etcd, which waits for all its members.
const CONFIG: &str = r#"
etcd:
  listen_client_urls: http://0.0.0.0:2379
  advertise_client_urls: http://{PRIVATE_IPV4}:2379
  listen_peer_urls: http://{PRIVATE_IPV4}:2380
  initial_advertise_peer_urls: http://{PRIVATE_IPV4}:2380
  discovery: $discovery
systemd:
  units:
    - name: flannel-docker-opts.service
      dropins:
        - name: retry.conf
          contents: |
            [Service]
            TimeoutStartSec=300
            ExecStart=
            ExecStart=/bin/sh -exc 'for try in 1 2 3 4 5 6; do /usr/lib/coreos/flannel-wrapper -d /run/flannel/flannel_docker_opts.env -i && exit 0; sleep 10; done; exit 1'
    - name: docker.service
      enabled: true
    - name: flanneld.service
      enabled: true
      dropins:
        - name: 50-network-config.conf
          contents: |
            [Service]
            ExecStartPre=/usr/bin/etcdctl set /coreos.com/network/config '{"Network": "10.254.0.0/16", "Backend": {"Type": "$backend"}}'
"#;

async fn ping(c: TestCluster, interface: &str) -> Result<()> {
    let (first, third) = (c.machine(0)?, c.machine(2)?);
    healthy(&c, &first, 3).await?;
    let from = address(&c, &first, interface).await?;
    let to = address(&c, &third, interface).await?;
    c.must_ssh(&first, &format!("ping -c 10 -I {from} {to}")).await.map(drop)
}

/// The machine's address in flannel's network.
async fn address(c: &TestCluster, m: &Guest, interface: &str) -> Result<Ipv4Addr> {
    let wait = format!("/usr/lib/systemd/systemd-networkd-wait-online --interface={interface} --timeout=60");
    c.must_ssh(m, &wait).await?;
    let text = c.must_ssh(m, &format!("ip -4 -o addr show dev {interface} primary")).await?;
    let address =
        primary(&text).ok_or_else(|| eyre!("machine {} has no address on {interface}: {text:?}", m.id()))?;
    ensure!(
        address.octets()[..2] == NETWORK.octets()[..2],
        "{interface} of machine {} has address {address}, which is not in {NETWORK}/16",
        m.id()
    );
    Ok(address)
}

/// The address in a line of `ip -o addr`.
fn primary(text: &str) -> Option<Ipv4Addr> {
    let mut words = text.split_whitespace().skip_while(|word| *word != "inet");
    words.nth(1)?.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantle::conf::{Additions, IgnitionVersion, UserData, render};

    #[test]
    fn addresses_are_found() {
        let line = r"4: flannel0    inet 10.254.16.0/16 scope global flannel0\       valid_lft forever preferred_lft forever";
        assert_eq!(primary(line), Some(Ipv4Addr::new(10, 254, 16, 0)));
        assert_eq!(primary(""), None);
        assert_eq!(primary("4: flannel0 inet"), None);
    }

    #[test]
    fn the_network_is_stored_before_flannel_starts() {
        for test in super::tests() {
            let backend = test.name.rsplit('.').next().unwrap().to_owned();
            let config = test.user_data.unwrap().user_data().subst("$discovery", "http://d/1");
            let add = Additions::default();
            let conf = render(Some(&config), IgnitionVersion::V2, "10.0.0.2", "10.0.0.2", &add).unwrap();
            let tree: serde_json::Value = serde_json::from_str(conf.text()).unwrap();
            let text =
                |unit: usize| tree["systemd"]["units"][unit]["dropins"][0]["contents"].as_str().unwrap();
            assert!(
                text(0).contains("--listen-peer-urls=\"http://10.0.0.2:2380\"")
                    && text(0).contains("http://d/1")
            );
            let network = format!(r#"'{{"Network": "10.254.0.0/16", "Backend": {{"Type": "{backend}"}}}}'"#);
            assert!(text(3).contains(&network), "{}", text(3));
        }
        // No address is known to an image on ESX before it boots, nor to its metadata service.
        let esx = UserData::container_linux_config(CONFIG);
        let add = Additions::default();
        assert!(render(Some(&esx), IgnitionVersion::V2, "", "${COREOS_ESX_IPV4_PRIVATE_0}", &add).is_err());
    }
}
