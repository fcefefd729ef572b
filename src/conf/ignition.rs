//! Ignition configs of specification 1, 2.x and 3.x, changed in place as JSON so that nothing else is lost.
//!
//! Field names follow the configuration specifications of the Ignition project. An addition to an entry that the
//! config already has (same unit, path or user) changes that entry, as Ignition 3 would when merging.

use semver::Version;
use serde_json::{Map, Value, json};

use super::tree::{self, Rule, Want};
use super::{Additions, Error, File, IgnitionVersion, Unit, keys};

/// The user whose keys are set.
const USER: &str = "core";
/// Where version 1, which cannot name file systems, finds the root file system.
const ROOT_V1: &str = "/dev/disk/by-partlabel/ROOT";

/// What a driver or guest wants to know of a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub version: Version,
    pub needs_disks: bool,
    pub needs_network: bool,
}

/// How the versions differ for what is added here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    V1,
    V20,
    V21,
    V3,
}

/// A config that does nothing.
pub(super) fn noop(version: IgnitionVersion) -> &'static str {
    match version {
        IgnitionVersion::V2 => r#"{"ignition":{"version":"2.0.0"}}"#,
        IgnitionVersion::V3 => r#"{"ignition":{"version":"3.0.0"}}"#,
    }
}

/// Checks the config, makes the additions and tells what the result needs.
pub(super) fn add(text: &str, add: &Additions, keys: &[String]) -> Result<(String, Facts), Error> {
    let mut root: Value = serde_json::from_str(text).map_err(Error::Json)?;
    let (version, dialect) = version(&root)?;
    tree::check(&root, RULES)?;
    tree::check(&root, if dialect == Dialect::V1 { RULES_V1 } else { RULES_V2 })?;
    check_sources(&root)?;
    if dialect == Dialect::V3 {
        tree::check_unique(&root, UNIQUE)?;
        check_v3(&root)?;
    }

    for unit in &add.units {
        add_unit(&mut root, dialect, unit)?;
    }
    for dropin in &add.dropins {
        let unit = tree::element(tree::list(&mut root, "systemd.units")?, &[("name", &dropin.unit)]);
        let entry = tree::element(tree::member_list(unit, "dropins")?, &[("name", &dropin.name)]);
        entry.insert("contents".into(), json!(dropin.contents));
    }
    for file in &add.files {
        add_file(&mut root, dialect, file)?;
    }
    if !keys.is_empty() {
        let user = tree::element(tree::list(&mut root, "passwd.users")?, &[("name", USER)]);
        keys::append(tree::member_list(user, "sshAuthorizedKeys")?, keys);
    }
    let facts = Facts { version, needs_disks: needs_disks(&root), needs_network: needs_network(&root) };
    Ok((root.to_string(), facts))
}

pub(super) fn version(root: &Value) -> Result<(Version, Dialect), Error> {
    let Some(top) = root.as_object() else {
        return Err(Error::invalid("", "expected an object"));
    };
    if let Some(old) = top.get("ignitionVersion").filter(|old| !old.is_null() && **old != json!(0)) {
        return match old.as_f64() {
            Some(1.0) => Ok((Version::new(1, 0, 0), Dialect::V1)),
            _ => Err(Error::Version(old.to_string())),
        };
    }
    let declared = match top.get("ignition") {
        Some(Value::Object(ignition)) => ignition.get("version"),
        None | Some(Value::Null) => None,
        Some(_) => return Err(Error::invalid("ignition", "expected an object")),
    };
    let text = match declared {
        None | Some(Value::Null) => return Err(Error::invalid("ignition.version", "missing")),
        Some(Value::String(text)) => text,
        Some(other) => return Err(Error::Version(other.to_string())),
    };
    let unknown = || Error::Version(format!("{text:?}"));
    let version = Version::parse(text).map_err(|_| unknown())?;
    let dialect = match (version.major, version.minor, version.patch) {
        (2, 0, 0) => Dialect::V20,
        (2, 1..=5, 0) => Dialect::V21,
        (3, _, 0) => Dialect::V3,
        _ => return Err(unknown()),
    };
    Ok((version, dialect))
}

const RULES: &[Rule] = &[
    ("systemd", Want::Object),
    ("systemd.units", Want::Array),
    ("systemd.units[]", Want::Object),
    ("systemd.units[].name", Want::Name),
    ("systemd.units[].contents", Want::Text),
    ("systemd.units[].enable", Want::Flag),
    ("systemd.units[].enabled", Want::Flag),
    ("systemd.units[].mask", Want::Flag),
    ("systemd.units[].dropins", Want::Array),
    ("systemd.units[].dropins[]", Want::Object),
    ("systemd.units[].dropins[].name", Want::Name),
    ("systemd.units[].dropins[].contents", Want::Text),
    ("networkd", Want::Object),
    ("networkd.units", Want::Array),
    ("networkd.units[]", Want::Object),
    ("networkd.units[].name", Want::Name),
    ("networkd.units[].contents", Want::Text),
    ("passwd", Want::Object),
    ("passwd.users", Want::Array),
    ("passwd.users[]", Want::Object),
    ("passwd.users[].name", Want::Name),
    ("passwd.users[].sshAuthorizedKeys", Want::Array),
    ("passwd.users[].sshAuthorizedKeys[]", Want::Text),
    ("passwd.groups", Want::Array),
    ("passwd.groups[]", Want::Object),
    ("passwd.groups[].name", Want::Name),
    ("storage", Want::Object),
    ("storage.disks", Want::Array),
    ("storage.disks[]", Want::Object),
    ("storage.raid", Want::Array),
    ("storage.raid[]", Want::Object),
    ("storage.filesystems", Want::Array),
    ("storage.filesystems[]", Want::Object),
];

const RULES_V1: &[Rule] = &[
    ("storage.filesystems[].files", Want::Array),
    ("storage.filesystems[].files[]", Want::Object),
    ("storage.filesystems[].files[].path", Want::Path),
    ("storage.filesystems[].files[].contents", Want::Text),
    ("storage.filesystems[].files[].mode", Want::Number),
];

const RULES_V2: &[Rule] = &[
    ("ignition.config", Want::Object),
    ("ignition.config.append", Want::Array),
    ("ignition.config.append[]", Want::Object),
    ("ignition.config.merge", Want::Array),
    ("ignition.config.merge[]", Want::Object),
    ("ignition.config.replace", Want::Object),
    ("storage.luks", Want::Array),
    ("storage.luks[]", Want::Object),
    ("storage.files", Want::Array),
    ("storage.files[]", Want::Object),
    ("storage.files[].path", Want::Path),
    ("storage.files[].mode", Want::Number),
    ("storage.files[].contents", Want::Object),
    ("storage.directories", Want::Array),
    ("storage.directories[]", Want::Object),
    ("storage.directories[].path", Want::Path),
    ("storage.directories[].mode", Want::Number),
    ("storage.links", Want::Array),
    ("storage.links[]", Want::Object),
    ("storage.links[].path", Want::Path),
];

/// What Ignition 3 refuses to see twice: lists that are counted as one, and what tells their elements apart.
const UNIQUE: &[tree::Unique] = &[
    (&["passwd.users[]"], "name"),
    (&["passwd.groups[]"], "name"),
    (&["systemd.units[]"], "name"),
    (&["systemd.units[].dropins[]"], "name"),
    (&["storage.disks[]"], "device"),
    (&["storage.raid[]"], "name"),
    (&["storage.luks[]"], "name"),
    (&["storage.filesystems[]"], "device"),
    // One path is one thing.
    (&["storage.files[]", "storage.directories[]", "storage.links[]"], "path"),
];

/// Kinds of systemd units (systemd.unit(5)).
pub(super) const UNIT_KINDS: [&str; 11] = [
    ".service",
    ".socket",
    ".device",
    ".mount",
    ".automount",
    ".swap",
    ".target",
    ".path",
    ".timer",
    ".slice",
    ".scope",
];

/// Values that Ignition 3 refuses and that are not wrong in themselves.
fn check_v3(root: &Value) -> Result<(), Error> {
    let elements = |list: &Value| list.as_array().cloned().unwrap_or_default().into_iter().enumerate();
    for (i, unit) in elements(&root["systemd"]["units"]) {
        let name = unit["name"].as_str().unwrap_or_default();
        if !UNIT_KINDS.iter().any(|kind| name.ends_with(kind)) {
            let path = format!("systemd.units[{i}].name");
            return Err(Error::invalid(
                &path,
                format!("{name:?} does not end in a kind of unit, such as .service"),
            ));
        }
    }
    for list in ["files", "directories"] {
        for (i, node) in elements(&root["storage"][list]) {
            let mode = node["mode"].as_f64().unwrap_or_default();
            if !(0.0..=4095.0).contains(&mode) {
                let path = format!("storage.{list}[{i}].mode");
                return Err(Error::invalid(&path, format!("{mode} is no mode; the largest is 4095 (07777)")));
            }
        }
    }
    tree::each_member(root, "", &mut |path, key, value| match value.as_str().and_then(scheme).as_deref() {
        _ if key != "source" => Ok(()),
        None | Some("http" | "https" | "tftp" | "s3" | "arn" | "gs" | "data") => Ok(()),
        Some(other) => Err(Error::invalid(path, format!("Ignition cannot fetch {other}: URLs"))),
    })
}

/// Every `source` is a string or null, and a `data:` URL among them can be decoded.
fn check_sources(root: &Value) -> Result<(), Error> {
    tree::each_member(root, "", &mut |path, key, value| match value {
        _ if key != "source" => Ok(()),
        Value::Null => Ok(()),
        Value::String(url) => match scheme(url).as_deref() {
            Some("data") => check_data_url(url).map_err(|reason| Error::invalid(path, reason)),
            _ => Ok(()),
        },
        _ => Err(Error::invalid(path, "expected a URL")),
    })
}

pub(super) fn scheme(url: &str) -> Option<String> {
    url.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase())
}

/// RFC 2397: `data:[<mediatype>][;base64],<data>`.
pub(super) fn check_data_url(url: &str) -> Result<(), &'static str> {
    let (head, data) = url.split_once(',').ok_or("data URL without a comma")?;
    let mut bytes = Vec::with_capacity(data.len());
    let mut rest = data.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|hex| char::from(hex).to_digit(16));
        match (digit(), digit()) {
            // Two hexadecimal digits always fit.
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            _ => return Err("data URL with a broken percent escape"),
        }
    }
    if !head.to_ascii_lowercase().ends_with(";base64") {
        return Ok(());
    }
    bytes.retain(|byte| !matches!(byte, b'\r' | b'\n'));
    let padding = bytes.iter().rev().take_while(|byte| **byte == b'=').count();
    let digits = &bytes[..bytes.len() - padding];
    let known = digits.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'));
    if known && padding <= 2 && bytes.len() % 4 == 0 { Ok(()) } else { Err("data URL with broken base64") }
}

/// Percent-encoded if that stays readable and short, else base64.
pub(super) fn data_url(bytes: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:=,@".contains(&byte);
    let escapes = bytes.iter().filter(|byte| !plain(**byte)).count();
    if escapes * 2 > bytes.len() || std::str::from_utf8(bytes).is_err() {
        return format!("data:;base64,{}", openssl::base64::encode_block(bytes));
    }
    let mut url = String::from("data:,");
    for &byte in bytes {
        if plain(byte) {
            url.push(char::from(byte));
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
    }
    url
}

fn add_unit(root: &mut Value, dialect: Dialect, unit: &Unit) -> Result<(), Error> {
    let entry = tree::element(tree::list(root, "systemd.units")?, &[("name", &unit.name)]);
    match dialect {
        // `enable` can only switch on: false means "leave it".
        Dialect::V1 | Dialect::V20 if unit.enable => entry.insert("enable".into(), json!(true)),
        Dialect::V1 | Dialect::V20 => None,
        Dialect::V21 | Dialect::V3 => entry.insert("enabled".into(), json!(unit.enable)),
    };
    if !unit.contents.is_empty() {
        entry.insert("contents".into(), json!(unit.contents));
    }
    Ok(())
}

fn add_file(root: &mut Value, dialect: Dialect, file: &File) -> Result<(), Error> {
    let mode = json!(file.mode & 0o7777);
    let source = || json!({ "source": data_url(&file.contents) });
    let entry: &mut Map<String, Value> = match dialect {
        Dialect::V1 => {
            let text = std::str::from_utf8(&file.contents).map_err(|_| Error::Addition {
                what: format!("the file {}", file.path),
                reason: "Ignition version 1 takes text only",
            })?;
            let root_fs = tree::element(tree::list(root, "storage.filesystems")?, &[("device", ROOT_V1)]);
            root_fs.entry("format").or_insert_with(|| json!("ext4"));
            let entry = tree::element(tree::member_list(root_fs, "files")?, &[("path", &file.path)]);
            entry.insert("contents".into(), json!(text));
            entry
        }
        Dialect::V20 | Dialect::V21 => {
            let files = tree::list(root, "storage.files")?;
            // An entry that appends stands for itself; the new one must not become its text.
            let at = files.iter().position(|f| {
                f["filesystem"] == "root" && f["path"] == file.path.as_str() && f["append"] != true
            });
            let at = at.unwrap_or_else(|| {
                files.push(json!({ "filesystem": "root", "path": file.path }));
                files.len() - 1
            });
            files[at]["contents"] = source();
            files[at].as_object_mut().expect("found by its members, or just made as an object")
        }
        Dialect::V3 => {
            let entry = tree::element(tree::list(root, "storage.files")?, &[("path", &file.path)]);
            entry.insert("overwrite".into(), json!(true));
            entry.insert("contents".into(), source());
            entry
        }
    };
    entry.insert("mode".into(), mode);
    Ok(())
}

fn needs_disks(root: &Value) -> bool {
    let storage = ["disks", "raid", "filesystems", "luks"].iter().any(|key| filled(&root["storage"][key]));
    storage || filled(&root["kernelArguments"])
}

/// Whether there is anything in it, however deep.
fn filled(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => map.values().any(filled),
        _ => true,
    }
}

fn needs_network(root: &Value) -> bool {
    let mut found = false;
    let walked = tree::each_member(root, "", &mut |_, key, value| {
        found |= match (key, value) {
            // `url` is a Tang server's.
            ("source" | "url", Value::String(url)) => {
                matches!(scheme(url).as_deref(), Some("http" | "https" | "s3" | "arn" | "tftp" | "gs"))
            }
            ("needsNetwork", Value::Bool(needed)) => *needed,
            _ => false,
        };
        Ok(())
    });
    walked.is_ok() && found
}
