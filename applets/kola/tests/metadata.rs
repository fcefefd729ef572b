//! What coreos-metadata learns from a cloud.

use std::collections::BTreeSet;

use color_eyre::eyre::{Result, ensure};

use super::helpers::{retry, seconds};
use crate::kola::cluster::TestCluster;
use crate::kola::register::Test;

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        metadata("aws", "Amazon EC2", &["EC2_IPV4_LOCAL", "EC2_IPV4_PUBLIC", "EC2_HOSTNAME"]),
        metadata("azure", "Microsoft Azure", &["AZURE_IPV4_DYNAMIC", "AZURE_IPV4_VIRTUAL"]),
        metadata(
            "packet",
            "Packet",
            &[
                "PACKET_HOSTNAME",
                "PACKET_PHONE_HOME_URL",
                "PACKET_IPV4_PUBLIC_0",
                "PACKET_IPV4_PRIVATE_0",
                "PACKET_IPV6_PUBLIC_0",
            ],
        ),
    ]
}

const ENABLED: &str = r#"{
  "ignitionVersion": 1,
  "systemd": {"units": [
    {"name": "coreos-metadata.service", "enable": true},
    {"name": "metadata.target", "enable": true, "contents": "[Install]\nWantedBy=multi-user.target\n"}
  ]}
}"#;

fn metadata(platform: &'static str, cloud: &str, keys: &'static [&'static str]) -> Test {
    Test::new(format!("cl.metadata.{platform}"), move |c| check(c, keys))
        .description(format!("coreos-metadata learns addresses and names from {cloud}"))
        .ignition(ENABLED)
        .platforms([platform])
        .distros(["cl"])
}

async fn check(c: TestCluster, keys: &[&str]) -> Result<()> {
    let m = c.machine(0)?;
    // Upstream reads it at once, whether the service has written it or not.
    retry(&c, 15, seconds(10), || async {
        let text = c.must_ssh(&m, "cat /run/metadata/coreos").await?;
        let missing = missing(&text, keys);
        ensure!(missing.is_empty(), "not in /run/metadata/coreos: {}\n{text}", missing.join(", "));
        Ok(())
    })
    .await
}

/// The variables that are not set.
fn missing(text: &str, keys: &[&str]) -> Vec<String> {
    let there: BTreeSet<&str> =
        text.lines().filter_map(|line| line.split_once('=')).map(|(key, _)| key).collect();
    let names = keys.iter().map(|key| format!("COREOS_{key}"));
    names.filter(|name| !there.contains(name.as_str())).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn missing_variables_are_named() {
        let text = "COREOS_EC2_HOSTNAME=h\nCOREOS_EC2_IPV4_LOCAL=10.0.0.1\nX_COREOS_EC2_IPV4_PUBLIC=1";
        let keys = ["EC2_IPV4_LOCAL", "EC2_IPV4_PUBLIC", "EC2_HOSTNAME"];
        assert_eq!(super::missing(text, &keys), ["COREOS_EC2_IPV4_PUBLIC"]);
    }
}
