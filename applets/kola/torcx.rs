//! The torcx package list that `--torcx-manifest` names.

use std::path::Path;

use color_eyre::eyre::{Result, WrapErr as _, bail, eyre};
use serde_json::Value;

const KIND: &str = "torcx-package-list-v0";

/// A package list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its packages.
    pub packages: Vec<Package>,
}

/// A package in all its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// In the order of the list.
    pub versions: Vec<Version>,
}

/// One version of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The version.
    pub version: String,
    /// Checksum of the archive, as in `sha512-…`.
    pub hash: String,
    /// Where the archive is on the network; the last one is the canonical one.
    pub urls: Vec<String>,
}

/// Reads and checks a package list. Keys match without regard to case, as Go's JSON does.
///
/// # Errors
/// When the file cannot be read, or is not a package list.
pub fn read(path: &Path) -> Result<Manifest> {
    let text = mantle::input::read(path)
        .wrap_err_with(|| path.display().to_string())
        .wrap_err("Torcx manifest path provided could not be read")?;
    parse(&text).wrap_err_with(|| format!("could not parse torcx manifest {} as valid json", path.display()))
}

fn parse(text: &[u8]) -> Result<Manifest> {
    let root: Value = serde_json::from_slice(text)?;
    let kind = key(&root, "kind").and_then(Value::as_str).unwrap_or_default();
    if kind != KIND {
        bail!("Unrecognized torcx packagelist kind: {kind}");
    }
    let packages = key(&root, "value")
        .and_then(|v| key(v, "packages"))
        .and_then(Value::as_array)
        .ok_or_else(|| eyre!("value.packages is not a list"))?;
    let packages = packages.iter().enumerate().map(|(i, package)| {
        let name = text_of(package, "name").ok_or_else(|| eyre!("value.packages[{i}] has no name"))?;
        let versions = elements(package, "versions").enumerate().map(|(j, version)| {
            let number = text_of(version, "version")
                .ok_or_else(|| eyre!("value.packages[{i}].versions[{j}] has no version"))?;
            Ok(Version {
                version: number,
                hash: text_of(version, "hash").unwrap_or_default(),
                urls: elements(version, "locations").filter_map(|place| text_of(place, "url")).collect(),
            })
        });
        Ok(Package { name, versions: versions.collect::<Result<_>>()? })
    });
    Ok(Manifest { packages: packages.collect::<Result<_>>()? })
}

/// A text that is there and not empty.
fn text_of(object: &Value, name: &str) -> Option<String> {
    key(object, name)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn elements<'a>(object: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    key(object, name).and_then(Value::as_array).into_iter().flatten()
}

fn key<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object.as_object()?.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_checked() {
        let good = br#"{"Kind":"torcx-package-list-v0","value":{"packages":[{"Name":"docker"}]}}"#;
        assert_eq!(parse(good).unwrap().packages[0].name, "docker");
        let full = br#"{"kind":"torcx-package-list-v0","value":{"packages":[{"name":"docker","defaultVersion":"18.06",
            "versions":[{"version":"17.03","hash":"sha512-0","casDigest":"x","locations":[{"path":"/a"},{"url":"http://h/a"},
            {"URL":"http://h/b","url":""}]}, {"version":"18.06"}]}]}}"#;
        let list = parse(full).unwrap();
        let versions = &list.packages[0].versions;
        assert_eq!(versions[0].urls, ["http://h/a", "http://h/b"]);
        assert_eq!((versions[0].hash.as_str(), versions[1].urls.len()), ("sha512-0", 0));
        let text = |bad: &[u8]| format!("{:#}", parse(bad).unwrap_err());
        assert_eq!(text(br#"{"kind":"x"}"#), "Unrecognized torcx packagelist kind: x");
        assert!(text(br#"{"kind":"torcx-package-list-v0"}"#).contains("value.packages"));
        assert!(text(b"{").contains("EOF"));
        let nameless =
            br#"{"kind":"torcx-package-list-v0","value":{"packages":[{"name":"a","versions":[{}]}]}}"#;
        assert_eq!(text(nameless), "value.packages[0].versions[0] has no version");
    }
}
