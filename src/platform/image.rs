//! Images and what is known about them: the feature file beside an image, and the image used when none is named.

use std::path::PathBuf;

use semver::VersionReq;
use serde::Deserialize;

use super::{Error, Result, ResultExt, distribution::Distribution};

/// What a feature file (`<image>.json`) says about an image.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// Value for `--distro`.
    pub distro: String,
    /// Board it is for.
    pub board: String,
    /// `VERSION_ID` of its os-release.
    pub version: String,
    /// The user that tests log in as.
    #[serde(default)]
    pub user: Option<String>,
    /// What the image can do; tests name what they need.
    #[serde(default)]
    pub features: Vec<String>,
    /// Versions of the Ignition specification that it reads, as ranges such as `>=3.0.0, <=3.3.0`; without them the
    /// features `ign1`, `ign2` and `ign3` stand for all versions of that number.
    #[serde(default)]
    pub ignition: Vec<String>,
    /// Kernel for direct boot, beside the image.
    #[serde(default)]
    pub kernel: Option<String>,
    /// Initramfs for direct boot, beside the image.
    #[serde(default)]
    pub initrd: Option<String>,
    /// Kernel arguments for direct boot.
    #[serde(default)]
    pub kernel_arguments: Option<String>,
}

/// The fields of a feature file, as [`Facts`] has them: whether an image must have it, what it means, and a value that
/// it might have.
pub const FIELDS: &[Field] = &[
    Field {
        name: "distro",
        required: true,
        about: "Distribution on the image, such as cl, flatcar, fcos or debian.",
        example: "\"debian\"",
    },
    Field {
        name: "board",
        required: true,
        about: "Board that it is for: amd64-usr or arm64-usr.",
        example: "\"amd64-usr\"",
    },
    Field { name: "version", required: true, about: "VERSION_ID in its os-release.", example: "\"12\"" },
    Field {
        name: "user",
        required: false,
        about: "The user that tests log in as; without it that of the distribution.",
        example: "\"core\"",
    },
    Field {
        name: "features",
        required: false,
        about: "What the image can do, see FEATURES; tests that need more are left out.",
        example: "[\"ign3\", \"docker\"]",
    },
    Field {
        name: "ignition",
        required: false,
        about: "Versions of Ignition configs that it reads, as ranges; without it all of those that ign1, ign2 and ign3 stand for.",
        example: "[\">=3.0.0, <=3.3.0\"]",
    },
    Field {
        name: "kernel",
        required: false,
        about: "Kernel beside the image, for a boot without firmware.",
        example: "\"vmlinuz\"",
    },
    Field {
        name: "initrd",
        required: false,
        about: "Initial RAM disk of that kernel, beside the image.",
        example: "\"initrd.zst\"",
    },
    Field {
        name: "kernel_arguments",
        required: false,
        about: "Command line of that kernel.",
        example: "\"console=ttyS0 ignition.platform.id=qemu\"",
    },
];

/// A field of a feature file, for people.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Whether a file without it is refused.
    pub required: bool,
    /// What it means.
    pub about: &'static str,
    /// A value in JSON.
    pub example: &'static str,
}

/// What an image can do: the names in `features`, sorted, and what tests take each to mean.
pub const FEATURES: &[(&str, &str)] = &[
    ("ab-usr", "Two partitions for /usr, one of them in use."),
    ("btrfs", "Ignition can make btrfs file systems, and the kernel mounts them."),
    ("cgpt", "cgpt sets which half of /usr the bootloader takes, and how often it tries."),
    ("cloudinit", "coreos-cloudinit reads cloud-configs and scripts."),
    ("crio", "CRI-O is installed."),
    ("dbus", "The system bus answers."),
    ("docker", "docker is installed."),
    ("etcd", "etcd is installed, as a unit or an image."),
    ("flannel", "flannel is installed."),
    ("ign1", "Ignition reads configs of version 1."),
    ("ign2", "Ignition reads configs of versions 2."),
    ("ign3", "Ignition reads configs of versions 3."),
    ("ipvs", "ipvsadm and its kernel modules are there."),
    ("journal-remote", "systemd-journal-gatewayd and systemd-journal-remote are installed."),
    ("locksmith", "locksmith orders reboots after updates."),
    ("mdadm", "Ignition can make RAIDs."),
    ("networkd", "systemd-networkd sets up the network."),
    ("nfs", "An NFS server and client are installed."),
    ("podman", "podman is installed."),
    ("rkt", "rkt is installed."),
    ("ro-usr", "/usr, or all of the system, is mounted read-only."),
    ("rpm-ostree", "rpm-ostree updates the system."),
    ("selinux", "SELinux is in the kernel and has a policy."),
    ("timesyncd", "systemd-timesyncd sets the clock."),
    ("torcx", "torcx adds packages at boot."),
    ("update-engine", "update-engine fetches updates."),
    ("verity", "/usr is checked by dm-verity while it is read."),
    ("xfs", "Ignition can make xfs file systems, and the kernel mounts them."),
];

/// Reads the text of a feature file.
///
/// # Errors
/// What is wrong with it and what would be right, without the name of the file.
fn parse_facts(text: &[u8]) -> Result<Facts, String> {
    let value: serde_json::Value = serde_json::from_slice(text).map_err(|e| crate::text::json_mistake(&e))?;
    let fields = value.as_object().ok_or("it holds no JSON object")?;
    if let Some(unknown) = fields.keys().find(|key| FIELDS.iter().all(|f| f.name != *key)) {
        return Err(unknown_name("field", unknown, FIELDS.iter().map(|f| f.name).collect()));
    }
    if let Some(f) = FIELDS.iter().find(|f| f.required && !fields.contains_key(f.name)) {
        return Err(format!("it has no field {:?}, such as \"{}\": {}", f.name, f.name, f.example));
    }
    let facts: Facts = serde_json::from_value(value).map_err(|e| e.to_string())?;
    let is_known = |name: &String| FEATURES.iter().any(|(known, _)| known == name);
    match facts.features.iter().find(|name| !is_known(name)) {
        Some(name) => Err(unknown_name("feature", name, FEATURES.iter().map(|(known, _)| *known).collect())),
        None => Ok(facts),
    }
}

fn unknown_name(what: &str, name: &str, known: Vec<&str>) -> String {
    let near = crate::text::did_you_mean(name, known.iter().copied());
    let near = near.unwrap_or_else(|| format!("known are {}", known.join(", ")));
    format!("there is no {what} {name:?}; {near}")
}

/// An image on disk.
#[derive(Clone, Debug)]
pub struct Image {
    /// The file.
    pub path: PathBuf,
    /// What its feature file says, if it has one.
    pub facts: Option<Facts>,
}

impl Image {
    /// An image with the facts beside it.
    ///
    /// # Errors
    /// When there is a feature file and it is not valid.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let mut name = path.clone().into_os_string();
        name.push(".json");
        let beside = PathBuf::from(name);
        let facts = match crate::input::read(&beside) {
            Ok(text) => {
                let facts = parse_facts(&text)
                    .map_err(|e| Error::new(format!("invalid feature file {}: {e}", beside.display())))?;
                if Distribution::named(&facts.distro).is_none() {
                    let text = format!(
                        "feature file {} names an unknown distro {:?}",
                        beside.display(),
                        facts.distro
                    );
                    return Err(Error::new(text));
                }
                Some(facts)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(e).during(|| format!("cannot read feature file {}", beside.display())),
        };
        Ok(Self { path, facts })
    }
}

/// The versions of Ignition configs that an image with these facts and features reads; empty: nobody knows.
///
/// # Errors
/// When the feature file names a range that is none.
pub fn ignition_versions(facts: Option<&Facts>, features: &[String]) -> Result<Vec<VersionReq>> {
    let named = facts.map(|f| f.ignition.as_slice()).unwrap_or_default();
    let by_feature = [("ign1", "=1.0.0"), ("ign2", ">=2.0.0, <3.0.0"), ("ign3", ">=3.0.0, <4.0.0")];
    let all: Vec<&str> = if named.is_empty() {
        let has = |feature: &str| features.iter().any(|f| f == feature);
        by_feature.iter().filter(|(feature, _)| has(feature)).map(|(_, range)| *range).collect()
    } else {
        named.iter().map(String::as_str).collect()
    };
    let parse = |range: &&str| {
        VersionReq::parse(range).during(|| format!("the feature file names no range of versions: {range:?}"))
    };
    all.iter().map(parse).collect()
}

/// Where `tests/guest/build.sh` puts mantle's own guest images.
pub fn guest_dir() -> PathBuf {
    use crate::folders::{cache, variable};
    variable("MANTLE_GUEST_DIR")
        .unwrap_or_else(|| cache().unwrap_or("/root/.cache/mantle".into()).join("guest"))
}

/// The image to use when none is named: the SDK's latest build, else mantle's own guest (the larger variant).
///
/// # Errors
/// When neither is there; the text says how to get one.
pub fn default_image(board: &str) -> Result<PathBuf> {
    let sdk = crate::sdk::image_dir(board, "latest").during(|| "cannot find the SDK")?;
    let sdk = sdk.join("coreos_production_image.bin");
    let own = ["full", "base"].map(|variant| guest_dir().join(variant).join("guest.qcow2"));
    let host = format!("{}-usr", crate::sdk::host_architecture()) == board;
    let found = std::iter::once(&sdk).chain(own.iter().filter(|_| host)).find(|p| p.is_file());
    found.cloned().ok_or_else(|| {
        Error::new(format!(
            "no image: neither the SDK's {} nor mantle's own guest in {} is there (`make guest` in mantle's sources builds it)",
            sdk.display(),
            guest_dir().display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_in_feature_files_come_with_what_would_be_right() {
        let mistake = |text: &str| parse_facts(text.as_bytes()).unwrap_err();
        let facts = |rest: &str| format!(r#"{{"distro": "debian", "version": "1", {rest}}}"#);
        assert!(parse_facts(facts(r#""board": "amd64-usr", "features": ["docker"]"#).as_bytes()).is_ok());
        for (text, part) in [
            (facts(r#""features": []"#), r#"no field "board", such as "board": "amd64-usr""#),
            (facts(r#""boadr": "x""#), r#"no field "boadr"; did you mean "board"?"#),
            (
                facts(r#""board": "x", "features": ["dokcer"]"#),
                r#"no feature "dokcer"; did you mean "docker"?"#,
            ),
            (facts(r#""board": "x", "features": ["wings"]"#), "known are ab-usr, btrfs"),
            ("[]".into(), "no JSON object"),
        ] {
            let said = mistake(&text);
            assert!(said.contains(part), "{said}");
        }
        let whole: Vec<String> = FIELDS.iter().map(|f| format!("{:?}: {}", f.name, f.example)).collect();
        parse_facts(format!("{{{}}}", whole.join(",")).as_bytes()).unwrap();
        assert!(FEATURES.is_sorted());
        for distribution in super::super::distribution::DISTRIBUTIONS {
            for name in distribution.features {
                assert!(FEATURES.iter().any(|(known, _)| known == name), "{name}");
            }
        }
    }

    #[test]
    fn feature_files_say_which_configs_are_read() {
        let facts = |extra: &str| -> Facts {
            let text = format!(r#"{{"distro": "debian", "board": "amd64-usr", "version": "1"{extra}}}"#);
            serde_json::from_str(&text).unwrap()
        };
        let reads = |facts: &Facts, features: &[&str], version: &str| {
            let features: Vec<String> = features.iter().map(|f| f.to_string()).collect();
            let ranges = ignition_versions(Some(facts), &features).unwrap();
            ranges.iter().any(|r| r.matches(&version.parse().unwrap()))
        };
        let plain = facts("");
        assert!(reads(&plain, &["ign3"], "3.9.0") && !reads(&plain, &["ign3"], "2.3.0"));
        assert!(reads(&plain, &["ign1", "ign2"], "1.0.0") && reads(&plain, &["ign1", "ign2"], "2.3.0"));
        let exact = facts(r#", "ignition": [">=3.0.0, <=3.3.0"]"#);
        assert!(reads(&exact, &["ign3"], "3.3.0") && !reads(&exact, &["ign3"], "3.4.0"));
        assert!(ignition_versions(Some(&plain), &[]).unwrap().is_empty());
        assert!(ignition_versions(Some(&facts(r#", "ignition": ["new"]"#)), &[]).is_err());
    }
}
