//! The torcx package list that `--torcx-manifest` names.

use std::path::Path;

use color_eyre::eyre::{Result, WrapErr as _, bail, eyre};
use serde_json::Value;

const KIND: &str = "torcx-package-list-v0";

/// Reads and checks a package list. Keys match without regard to case, as Go's JSON does.
///
/// # Errors
/// When the file cannot be read, or is not a package list.
pub fn check(path: &Path) -> Result<()> {
    let text = mantle::input::read(path)
        .wrap_err_with(|| path.display().to_string())
        .wrap_err("Torcx manifest path provided could not be read")?;
    parse(&text).wrap_err_with(|| format!("could not parse torcx manifest {} as valid json", path.display()))
}

fn parse(text: &[u8]) -> Result<()> {
    let root: Value = serde_json::from_slice(text)?;
    let kind = key(&root, "kind").and_then(Value::as_str).unwrap_or_default();
    if kind != KIND {
        bail!("Unrecognized torcx packagelist kind: {kind}");
    }
    let packages = key(&root, "value")
        .and_then(|v| key(v, "packages"))
        .and_then(Value::as_array)
        .ok_or_else(|| eyre!("value.packages is not a list"))?;
    for (i, package) in packages.iter().enumerate() {
        if key(package, "name").and_then(Value::as_str).is_none() {
            bail!("value.packages[{i}] has no name");
        }
    }
    Ok(())
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
        assert!(parse(good).is_ok());
        let text = |bad: &[u8]| format!("{:#}", parse(bad).unwrap_err());
        assert_eq!(text(br#"{"kind":"x"}"#), "Unrecognized torcx packagelist kind: x");
        assert!(text(br#"{"kind":"torcx-package-list-v0"}"#).contains("value.packages"));
        assert!(text(b"{").contains("EOF"));
    }
}
