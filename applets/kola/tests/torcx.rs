//! torcx: which version of Docker a system runs.

use color_eyre::eyre::{Result, WrapErr as _, ensure, eyre};
use mantle::conf::UserData;
use mantle::harness::skip;
use mantle::platform::guest::Guest;
use regex::Regex;
use serde_json::json;

use super::docker::{base, daemon};
use super::helpers::{must_bash, must_equal, reboot};
use crate::kola::cluster::TestCluster;
use crate::kola::register::{Flag, Test};
use crate::kola::torcx::{Manifest, Version};

/// The tests of this file.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("docker.torcx-flag-file", flag_file)
            .description("A file chooses Docker 1.12, and lets go of it")
            .container_linux(FLAG_FILE)
            .distros(["cl"])
            .features(["docker", "kernel", "torcx"]),
        Test::new("docker.torcx-flag-file.cloud-config", flag_file_by_cloud_config)
            .description("The file that chooses Docker 1.12, written by a cloud-config")
            .cloud_config(FLAG_FILE_CLOUD_CONFIG)
            .distros(["cl"])
            .features(["docker", "kernel", "torcx"]),
        Test::new("docker.torcx-manifest-pkgs", manifest_packages)
            .description("Each Docker of the torcx manifest can be chosen, and works")
            .cluster_size(0)
            .exclude_platforms(["do"])
            .distros(["cl"])
            .flags([Flag::RequiresInternetAccess])
            .features(["docker", "kernel", "torcx"]),
    ]
}

const FLAG_FILE: &str = "
storage:
  files:
    - filesystem: root
      path: /etc/coreos/docker-1.12
      mode: 0644
      contents:
        inline: yes
";

const FLAG_FILE_CLOUD_CONFIG: &str = "#cloud-config
write_files:
  - path: /etc/coreos/docker-1.12
    content: yes
";

/// The version of Docker as torcx names it, and as the daemon does; what does not match is an error each.
async fn expect_docker(c: &TestCluster, m: &Guest, reference: &str, version: &str) -> Result<()> {
    let got = (reference_of(c, m).await?, server_version(c, m).await?);
    for (what, got, wanted) in
        [("torcx's reference", &got.0, reference), ("docker's version", &got.1, version)]
    {
        if !Regex::new(wanted).wrap_err("a pattern of this test")?.is_match(got) {
            c.error(format!("{what} is {got:?}, which does not match {wanted:?}"));
        }
    }
    Ok(())
}

async fn reference_of(c: &TestCluster, m: &Guest) -> Result<String> {
    let command = r#"jq -r '.value.images[] | select(.name == "docker").reference' /run/torcx/profile.json"#;
    c.must_ssh(m, command).await
}

async fn server_version(c: &TestCluster, m: &Guest) -> Result<String> {
    let info = daemon(c, m).await?;
    Ok(info["ServerVersion"].as_str().unwrap_or_default().to_owned())
}

async fn flag_file(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    expect_docker(&c, &m, r"^1\.12$", r"^1\.12\.").await?;
    c.must_ssh(&m, "echo no | sudo tee /etc/coreos/docker-1.12").await?;
    reboot(&c, &m).await?;
    // What one version has stored another may not read.
    c.must_ssh(&m, "sudo rm -rf /var/lib/docker").await?;
    expect_docker(&c, &m, r"^1[7-9]\.", r"^1[7-9]\.").await
}

async fn flag_file_by_cloud_config(c: TestCluster) -> Result<()> {
    let m = c.machine(0)?;
    // cloudinit runs after torcx.
    reboot(&c, &m).await?;
    expect_docker(&c, &m, r"^1\.12$", r"^1\.12\.").await
}

/// The versions of Docker in the manifest.
fn dockers(manifest: &Manifest) -> Result<&[Version]> {
    let docker = manifest.packages.iter().find(|package| package.name == "docker");
    let docker = docker.ok_or_else(|| eyre!("the torcx manifest has no package docker"))?;
    for version in &docker.versions {
        ensure!(
            !version.urls.is_empty(),
            "the torcx manifest has no URL for version {} of docker",
            version.version
        );
    }
    Ok(&docker.versions)
}

/// A config that fetches each version.
fn config(versions: &[Version]) -> String {
    let files: Vec<_> = versions
        .iter()
        .map(|version| {
            let mut contents = json!({ "source": version.urls.last() });
            if !version.hash.is_empty() {
                contents["verification"] = json!({ "hash": version.hash });
            }
            let path = format!("/var/lib/torcx/store/docker:{}.torcx.tgz", version.version);
            json!({ "filesystem": "root", "path": path, "contents": contents, "mode": 0o644 })
        })
        .collect();
    json!({ "ignition": {"version": "2.1.0"}, "storage": {"files": files} }).to_string()
}

async fn manifest_packages(c: TestCluster) -> Result<()> {
    let Some(manifest) = c.torcx() else {
        return Err(skip("no --torcx-manifest was given"));
    };
    let versions = dockers(manifest)?.to_vec();
    let m = c.new_machine(Some(UserData::ignition(config(&versions)))).await?;
    c.must_ssh(&m, "docker version").await?;
    for version in versions {
        let name = format!("torcx-pkg-{}", version.version);
        c.run(&name, async move |c: TestCluster| {
            let number = version.version.clone();
            let installed =
                c.run("install-torcx-profile", async move |c: TestCluster| install(&c, &number).await).await;
            ensure!(installed, "version {} could not be chosen", version.version);
            base(c).await
        })
        .await;
    }
    Ok(())
}

/// The script that makes a profile with a version of Docker the next one.
fn profile_script(version: &str) -> String {
    let profile = json!({
        "kind": "profile-manifest-v0",
        "value": {"images": [{"name": "docker", "reference": version}]}
    });
    format!(
        "sudo mkdir -p /etc/torcx/profiles
printf '%s' {} | sudo tee /etc/torcx/profiles/docker.json >/dev/null
echo docker | sudo tee /etc/torcx/next-profile >/dev/null",
        mantle::ssh::quote(&profile.to_string())
    )
}

async fn install(c: &TestCluster, version: &str) -> Result<()> {
    let m = c.machine(0)?;
    must_bash(c, &m, &profile_script(version)).await?;
    reboot(c, &m).await?;
    c.must_ssh(&m, "sudo rm -rf /var/lib/docker").await?;
    must_equal(
        c,
        &m,
        r#"jq -r '.value.images[] | select(.name == "docker").reference' /run/torcx/profile.json"#,
        version,
    )
    .await?;
    let got = server_version(c, &m).await?;
    ensure!(got.starts_with(version), "docker's version is {got:?}, expected {version}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kola::torcx::Package;
    use mantle::conf::{Additions, IgnitionVersion, render};

    fn version(number: &str, urls: &[&str]) -> Version {
        let urls = urls.iter().map(|url| (*url).to_owned()).collect();
        Version { version: number.into(), hash: format!("sha512-{}", "0".repeat(128)), urls }
    }

    fn manifest(name: &str, versions: Vec<Version>) -> Manifest {
        Manifest { packages: vec![Package { name: name.into(), versions }] }
    }

    #[test]
    fn each_version_is_fetched_from_its_last_place() {
        let list = manifest(
            "docker",
            vec![version("17.03", &["http://h/a", "http://h/b"]), version("18.06", &["http://h/c"])],
        );
        let text = config(dockers(&list).unwrap());
        let conf = UserData::ignition(text);
        let conf = render(Some(&conf), IgnitionVersion::V2, "", "", &Additions::default()).unwrap();
        assert!(conf.text().contains("http://h/b") && !conf.text().contains("http://h/a"), "{}", conf.text());
        assert!(conf.text().contains("/var/lib/torcx/store/docker:18.06.torcx.tgz"));
        assert!(dockers(&manifest("rkt", Vec::new())).unwrap_err().to_string().contains("no package docker"));
        let without = manifest("docker", vec![version("17.03", &[])]);
        assert!(dockers(&without).unwrap_err().to_string().contains("no URL for version 17.03"));
    }

    #[test]
    fn the_flag_file_says_yes() {
        let conf = UserData::container_linux_config(FLAG_FILE);
        let conf = render(Some(&conf), IgnitionVersion::V2, "", "", &Additions::default()).unwrap();
        assert!(conf.text().contains(r#""source":"data:,yes""#), "{}", conf.text());
        assert!(profile_script("18.06").contains(r#""reference":"18.06""#));
    }
}
