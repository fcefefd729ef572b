//! coreos-cloudinit: what it makes of cloud-configs and scripts.

use color_eyre::eyre::Result;

use super::helpers::must_equal;
use crate::kola::cluster::TestCluster;
use crate::kola::register::Test;

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("cl.cloudinit.basic", basic)
            .description("A cloud-config sets the host name and writes a file")
            .cloud_config(BASIC)
            .distros(["cl"]),
        Test::new("cl.cloudinit.script", script)
            .description("A script as userdata runs, and lets us in by the key that it installs")
            .script(SCRIPT)
            .distros(["cl"]),
        Test::new("cl.install.cloudinit", installed)
            .description("The cloud-config that coreos-install leaves behind is applied")
            .ignition(INSTALLED)
            .distros(["cl"])
            .features(["cloudinit"]),
    ]
}

const BASIC: &str = "#cloud-config
hostname: core1
write_files:
  - path: /foo
    content: bar
";

/// kola puts its keys where the mark is.
const SCRIPT: &str = "#!/bin/bash
set -e
echo bar >/foo
mkdir -p ~core/.ssh
cat >>~core/.ssh/authorized_keys <<'END'
@SSH_KEYS@
END
chown -R core.core ~core/.ssh
chmod 700 ~core/.ssh
chmod 600 ~core/.ssh/authorized_keys
";

const INSTALLED: &str = r#"{
  "ignition": {"version": "2.0.0"},
  "storage": {"files": [{
    "filesystem": "root", "path": "/var/lib/coreos-install/user_data", "mode": 420,
    "contents": {"source": "data:,%23cloud-config%0Ahostname%3A%20cloud-config-worked%0A"}
  }]}
}"#;

async fn basic(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    must_equal(&c, &m, "cat /foo", "bar").await?;
    c.assert_output_contains(&m, "hostnamectl", "Static hostname: core1").await
}

async fn script(c: TestCluster) -> Result<()> {
    must_equal(&c, &*c.machine(0)?, "cat /foo", "bar").await
}

async fn installed(c: TestCluster) -> Result<()> {
    must_equal(&c, &*c.machine(0)?, "hostname", "cloud-config-worked").await
}

#[cfg(test)]
mod tests {
    use mantle::conf::{Additions, IgnitionVersion, UserData, render};

    #[test]
    fn the_script_gets_the_keys() {
        let add = Additions { keys: vec!["ssh-rsa AAAA core@default".into()], ..Additions::default() };
        let conf = render(Some(&UserData::script(super::SCRIPT)), IgnitionVersion::V2, "", "", &add).unwrap();
        assert!(conf.text().contains("\nssh-rsa AAAA core@default\nEND\n"), "{}", conf.text());
    }
}
