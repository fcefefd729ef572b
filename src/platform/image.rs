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
                let facts: Facts = serde_json::from_slice(&text)
                    .during(|| format!("invalid feature file {}", beside.display()))?;
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
            "no image: neither the SDK's {} nor mantle's own guest in {} is there (tests/guest/build.sh builds it)",
            sdk.display(),
            guest_dir().display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
