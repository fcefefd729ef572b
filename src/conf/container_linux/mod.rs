//! Container Linux Config: the YAML that becomes Ignition 2.2.0.
//!
//! Keys are those of the Container Linux Config specification 0.9; what each becomes is said where it is read. Unknown keys,
//! and values that are better said than left to a default, are warned of; all else that is wrong is a fault with its place.

mod document;
mod metadata;
mod reader;
mod report;
mod services;
mod size;
mod storage;
#[cfg(test)]
mod tests;
mod units;

use serde_json::{Map, Value as Json, json};

pub use self::document::Place;
pub use self::metadata::{ANY_CLOUD, Dynamic, PLATFORMS, Platform};
use self::reader::{Reader, Section, Spot, put_filled};
pub use self::report::{Fault, Report};

/// The version of what is made.
const VERSION: &str = "2.2.0";

/// A config that was translated.
#[derive(Clone, Debug, PartialEq)]
pub struct Translated {
    /// The Ignition config.
    pub ignition: Json,
    /// What is odd about it, in the order of the text.
    pub warnings: Vec<Fault>,
}

/// Translates a Container Linux Config to Ignition 2.2.0; `dynamic` tells what stands for `{PRIVATE_IPV4}` and the like.
///
/// # Errors
/// All that is wrong with it, each with line and column.
pub fn translate(text: &str, dynamic: Dynamic<'_>) -> Result<Translated, Report> {
    let root = document::parse(text).map_err(|fault| Report(vec![fault]))?;
    let header = || json!({ "version": VERSION });
    let Some(root) = root else {
        let empty = Fault { place: None, path: String::new(), what: "Configuration is empty".into() };
        return Ok(Translated { ignition: json!({ "ignition": header() }), warnings: vec![empty] });
    };
    let reader = Reader::default();
    let made = Spot::root(&reader, &root).section(|top| config(top, dynamic)).unwrap_or_default();
    let faults = reader.faults.into_inner();
    if !faults.is_empty() {
        return Err(Report::new(faults));
    }
    Ok(Translated { ignition: Json::Object(made), warnings: Report::new(reader.warnings.into_inner()).0 })
}

/// Entries are in the order that upstream's transpiler gives them.
fn config(top: &Section<'_>, dynamic: Dynamic<'_>) -> Map<String, Json> {
    let mut out = Map::new();
    let mut ignition = Map::new();
    ignition.insert("version".into(), VERSION.into());
    ignition.append(&mut top.section("ignition", units::ignition).unwrap_or_default());
    out.insert("ignition".into(), ignition.into());

    let mut storage = top.section("storage", storage::storage).unwrap_or_default();
    if let Some(file) = services::update_conf(top)
        && let Json::Array(files) = storage.entry("files").or_insert_with(|| json!([]))
    {
        files.push(file);
    }
    put_filled(&mut out, "storage", storage);

    let mut all = provider_units(dynamic);
    all.extend(top.section("docker", services::docker));
    all.extend(top.section("etcd", |s| services::etcd(s, dynamic)));
    all.extend(top.section("flannel", |s| services::flannel(s, dynamic)));
    all.extend(top.section("systemd", units::systemd).unwrap_or_default());
    put_filled(&mut out, "systemd", units_of(all));
    let networkd = top.section("networkd", units::networkd).unwrap_or_default();
    put_filled(&mut out, "networkd", units_of(networkd));
    put_filled(&mut out, "passwd", top.section("passwd", units::passwd).unwrap_or_default());
    out
}

fn units_of(units: Vec<Json>) -> Map<String, Json> {
    let mut out = Map::new();
    put_filled(&mut out, "units", units);
    out
}

/// What tells coreos-metadata where it is, on platforms that it cannot tell apart.
fn provider_units(dynamic: Dynamic<'_>) -> Vec<Json> {
    let Dynamic::Metadata(platform) = dynamic else { return Vec::new() };
    if !platform.told {
        return Vec::new();
    }
    let contents =
        format!("[Service]\nEnvironment=COREOS_METADATA_OPT_PROVIDER=--provider={}\n", platform.name);
    let dropins = json!([{ "name": "20-clct-provider-override.conf", "contents": contents }]);
    vec![
        json!({ "name": metadata::SERVICE, "dropins": dropins.clone() }),
        json!({ "name": "coreos-metadata-sshkeys@.service", "enabled": true, "dropins": dropins }),
    ]
}
