//! What CoreOS Assembler says about a build in its `meta.json`, and what Fedora CoreOS tells people of it: artifacts,
//! and the index of all releases of a stream.
//!
//! Forms: <https://coreos.github.io/coreos-assembler/>, and the types of coreos/stream-metadata-go.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Build, Release, Result, Stopped};
use crate::text::json_mistake;

/// A build.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Description {
    /// Its version.
    buildid: String,
    /// The commit of the system in it.
    #[serde(default, rename = "ostree-commit")]
    commit: Option<String>,
    /// As the kernel calls it.
    #[serde(default, rename = "coreos-assembler.basearch")]
    architecture: Option<String>,
    /// Files by what they are for.
    #[serde(default)]
    images: BTreeMap<String, File>,
    /// Images that have been made of it at Amazon.
    #[serde(default)]
    pub amis: Vec<Ami>,
    /// The image that has been made of it at Google.
    #[serde(default)]
    pub gcp: Option<Gcp>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct File {
    path: String,
    #[serde(default)]
    sha256: String,
    #[serde(default, rename = "uncompressed-sha256")]
    uncompressed: Option<String>,
}

/// An image in a region of Amazon EC2.
#[derive(Clone, Debug, Deserialize)]
pub struct Ami {
    /// The region.
    pub name: String,
    /// The image.
    pub hvm: String,
}

/// An image of Compute Engine.
#[derive(Clone, Debug, Deserialize)]
pub struct Gcp {
    /// Its name.
    pub image: String,
    /// Its project.
    #[serde(default)]
    pub project: Option<String>,
    /// Its family.
    #[serde(default)]
    pub family: Option<String>,
}

/// The platform, the format and the part of it that a file is; none for files that are no artifacts.
fn place<'a>(name: &'a str, path: &'a str, architecture: &str) -> Option<(&'a str, String, &'a str)> {
    let end = || path.split_once(&format!(".{architecture}.")).map(|(_, end)| end.to_owned());
    match name {
        "ostree" | "oci-manifest" => None,
        "live-iso" => Some(("metal", "iso".into(), "disk")),
        "live-kernel" => Some(("metal", "pxe".into(), "kernel")),
        "live-initramfs" => Some(("metal", "pxe".into(), "initramfs")),
        "live-rootfs" => Some(("metal", "pxe".into(), "rootfs")),
        "metal4k" => Some(("metal", format!("4k.{}", end()?), "disk")),
        other => Some((other, end()?, "disk")),
    }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl Description {
    /// The description of this name in a build.
    pub async fn read(build: &Build, name: &str, architecture: &str, release: &Release) -> Result<Self> {
        let url = build.url_of(name);
        let bytes = build.short(name, release).await?;
        let bytes = bytes.ok_or_else(|| Stopped::words(format!("File not found: {url}")))?;
        Self::parse(&bytes, &release.selection.version, architecture)
            .map_err(|why| Stopped::words(format!("{url}: {why}")))
    }

    fn parse(bytes: &[u8], version: &str, architecture: &str) -> Result<Self, String> {
        let this: Self = serde_json::from_slice(bytes).map_err(|e| json_mistake(&e))?;
        if this.buildid != version {
            return Err(format!("it describes build {}, not {version}", this.buildid));
        }
        if let Some(other) = this.architecture.as_deref().filter(|a| *a != architecture) {
            return Err(format!("it describes a build for {other}, not for {architecture}"));
        }
        for (name, file) in &this.images {
            let sums = std::iter::once(&file.sha256).chain(&file.uncompressed);
            if place(name, &file.path, architecture).is_some() && !sums.into_iter().all(|s| is_sha256(s)) {
                return Err(format!("what it has for {name} is no SHA-256"));
            }
        }
        Ok(this)
    }

    /// The artifacts, as stream metadata has them. `location`: the address of a file.
    pub fn artifacts(&self, version: &str, architecture: &str, location: impl Fn(&str) -> String) -> Value {
        let mut artifacts = Map::new();
        for (name, File { path, sha256, uncompressed }) in &self.images {
            let Some((platform, format, part)) = place(name, path, architecture) else { continue };
            let mut file = json!({
                "location": location(path),
                "signature": location(&format!("{path}.sig")),
                "sha256": sha256,
            });
            if let Some(sum) = uncompressed {
                file["uncompressed-sha256"] = sum.as_str().into();
            }
            let of = artifacts.entry(platform).or_insert_with(|| json!({"release": version, "formats": {}}));
            of["formats"][format][part] = file;
        }
        artifacts.into()
    }

    /// The index of releases with this one, which is described at `url`; the old one if it has it.
    ///
    /// # Errors
    /// When the old one is of another stream, or the build has no commit.
    pub fn index(
        &self,
        old: Option<Value>,
        stream: &str,
        architecture: &str,
        url: &str,
        time: &str,
    ) -> Result<Value, String> {
        let commit = self.commit.as_deref().ok_or("the build has no ostree-commit")?;
        let mut index = match old {
            Some(old) if old["stream"] == stream && old["releases"].is_array() => old,
            Some(old) => {
                return Err(format!("it is an index of stream {}, not of {stream:?}", old["stream"]));
            }
            None => json!({
                "stream": stream,
                "note": "For tools of the release process; all others find what is new in the stream metadata.",
                "metadata": {},
                "releases": [],
            }),
        };
        let before = index.clone();
        let ours = json!({"architecture": architecture, "checksum": commit});
        if let Some(releases) = index["releases"].as_array_mut() {
            let at = releases.iter().position(|r| r["version"] == self.buildid.as_str());
            let at = at.unwrap_or_else(|| {
                releases.push(json!({"version": self.buildid, "commits": [], "metadata": url}));
                releases.len() - 1
            });
            let release = &mut releases[at];
            release["metadata"] = url.into();
            match release["commits"].as_array_mut() {
                Some(commits) => match commits.iter_mut().find(|c| c["architecture"] == architecture) {
                    Some(commit) => *commit = ours,
                    None => commits.push(ours),
                },
                None => release["commits"] = json!([ours]),
            }
        }
        if index != before {
            index["metadata"]["last-modified"] = time.into();
        }
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> Value {
        let sum = "0a".repeat(32);
        json!({
            "buildid": "42.1.2.3", "ostree-commit": "c".repeat(64), "coreos-assembler.basearch": "x86_64",
            "images": {
                "ostree": {"path": "x-ostree.x86_64.ociarchive", "sha256": "?"},
                "qemu": {"path": "x-42.1.2.3-qemu.x86_64.qcow2.xz", "sha256": sum, "uncompressed-sha256": sum},
                "metal": {"path": "x-42.1.2.3-metal.x86_64.raw.xz", "sha256": sum},
                "metal4k": {"path": "x-42.1.2.3-metal4k.x86_64.raw.xz", "sha256": sum},
                "live-iso": {"path": "x-42.1.2.3-live.x86_64.iso", "sha256": sum},
                "live-kernel": {"path": "x-42.1.2.3-live-kernel-x86_64", "sha256": sum},
            },
        })
    }

    fn parsed(value: &Value) -> Result<Description, String> {
        Description::parse(value.to_string().as_bytes(), "42.1.2.3", "x86_64")
    }

    #[test]
    fn artifacts_have_their_places() {
        let artifacts = parsed(&description()).unwrap().artifacts("42.1.2.3", "x86_64", |p| format!("u/{p}"));
        let formats = |platform: &str| -> Vec<String> {
            artifacts[platform]["formats"].as_object().unwrap().keys().cloned().collect()
        };
        assert_eq!(artifacts.as_object().unwrap().keys().collect::<Vec<_>>(), ["metal", "qemu"]);
        let mut metal = formats("metal");
        metal.sort();
        assert_eq!(
            (metal.join(" "), formats("qemu").join(" ")),
            ("4k.raw.xz iso pxe raw.xz".into(), "qcow2.xz".into())
        );
        let disk = &artifacts["qemu"]["formats"]["qcow2.xz"]["disk"];
        assert_eq!(disk["signature"], "u/x-42.1.2.3-qemu.x86_64.qcow2.xz.sig");
        assert_eq!(disk["uncompressed-sha256"], "0a".repeat(32));
        assert_eq!(
            artifacts["metal"]["formats"]["pxe"]["kernel"]["location"],
            "u/x-42.1.2.3-live-kernel-x86_64"
        );
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for (field, value, why) in [
            ("/buildid", "41.0", "it describes build 41.0, not 42.1.2.3"),
            ("/coreos-assembler.basearch", "s390x", "a build for s390x"),
            ("/images/qemu/sha256", "0A", "no SHA-256"),
        ] {
            let mut wrong = description();
            *wrong.pointer_mut(field).unwrap() = value.into();
            let told = parsed(&wrong).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
        assert!(Description::parse(b"{}", "1", "x86_64").is_err());
    }

    #[test]
    fn the_index_has_each_release_once() {
        let this = parsed(&description()).unwrap();
        let first = this.index(None, "stable", "x86_64", "u", "t1").unwrap();
        assert_eq!(first["releases"][0]["commits"][0]["checksum"], "c".repeat(64));
        assert_eq!(this.index(Some(first.clone()), "stable", "x86_64", "u", "t2").unwrap(), first);
        let both = this.index(Some(first.clone()), "stable", "aarch64", "u", "t2").unwrap();
        assert_eq!(both["releases"].as_array().unwrap().len(), 1);
        assert_eq!(both["releases"][0]["commits"].as_array().unwrap().len(), 2);
        assert_eq!(both["metadata"]["last-modified"], "t2");
        let next = Description { buildid: "42.2".into(), ..this.clone() };
        let next = next.index(Some(both), "stable", "x86_64", "u2", "t3").unwrap();
        assert_eq!(next["releases"][1]["version"], "42.2");
        assert!(this.index(Some(first), "next", "x86_64", "u", "t").is_err(), "of another stream");
    }
}
