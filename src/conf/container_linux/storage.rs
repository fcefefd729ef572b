//! Disks, arrays, filesystems and what is in them; and references to things elsewhere.

use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};

use super::reader::{Section, Spot, Want, put, put_filled};
use super::size;
use crate::conf::ignition;
use crate::text::{did_you_mean, percent};

type Object = Map<String, Json>;

/// Names for types of partitions (those of the Discoverable Partitions Specification, and Container Linux's own).
const TYPE_GUIDS: [(&str, &str); 4] = [
    ("linux_filesystem_data", "0fc63daf-8483-4772-8e79-3d69d8477de4"),
    ("raid_containing_root", "be9067b9-ea49-4f15-b4f6-f36f8c9e1818"),
    ("raid_partition", "a19d880f-05fc-4d3b-a006-743f0f84911e"),
    ("swap_partition", "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"),
];

/// What Ignition can make, and how long a label may be there, in bytes.
const FORMATS: [(&str, usize); 5] = [("btrfs", 256), ("ext4", 16), ("swap", 15), ("vfat", 11), ("xfs", 12)];

const LEVELS: [&str; 14] = [
    "linear", "raid0", "0", "stripe", "raid1", "1", "mirror", "raid4", "4", "raid5", "5", "raid6", "6",
    "raid10",
];

/// The filesystem that Ignition 2 always knows.
const ROOT: &str = "root";

/// The largest mode.
const MODES: i64 = 0o7777;

pub(super) fn storage(section: &Section<'_>) -> Object {
    let mut out = Object::new();
    let disks = section.each("disks", disk);
    put_filled(&mut out, "disks", disks);
    put_filled(&mut out, "raid", section.each("raid", raid));
    let mut names = HashMap::from([(ROOT.to_owned(), String::new())]);
    let filesystems = section.items("filesystems");
    let filesystems = filesystems.iter().filter_map(|spot| {
        let made = spot.section(filesystem)?;
        if let Some(name) = made.get("name").and_then(Json::as_str) {
            if name != ROOT
                && let Some(first) = names.get(name)
            {
                spot.fault(format!("{name:?} is also the name of {first}"));
            }
            names.insert(name.to_owned(), spot.path.clone());
        }
        Some(Json::Object(made))
    });
    let filesystems: Vec<Json> = filesystems.collect();
    put_filled(&mut out, "filesystems", filesystems);
    put_filled(&mut out, "files", section.each("files", |s| file(s, &names)));
    put_filled(&mut out, "directories", section.each("directories", |s| directory(s, &names)));
    put_filled(&mut out, "links", section.each("links", |s| link(s, &names)));
    out
}

/// An absolute path under a key, which must be there unless `optional`.
fn path(section: &Section<'_>, key: &'static str, optional: bool) -> Option<String> {
    let spot = if optional { section.get(key)? } else { section.required(key)? };
    let text = spot.text()?;
    if !text.starts_with('/') {
        spot.fault(format!("{text:?} is no absolute path"));
    }
    Some(text)
}

fn disk(section: &Section<'_>) -> Object {
    let mut out = Object::new();
    put(&mut out, "device", path(section, "device", false));
    section.copy(&mut out, &[("wipe_table", "wipeTable", Want::Flag)]);
    let spots = section.items("partitions");
    let made: Vec<Object> = spots.iter().filter_map(|spot| spot.section(partition)).collect();
    check_partitions(&spots, &made);
    put_filled(&mut out, "partitions", made.into_iter().map(Json::Object).collect::<Vec<_>>());
    out
}

fn partition(section: &Section<'_>) -> Object {
    let mut out = Object::new();
    if let Some(spot) = section.get("label") {
        let label = spot.text().unwrap_or_default();
        if label.chars().count() > 36 {
            spot.fault("a label has at most 36 characters");
        }
        if label.contains(':') {
            spot.fault("a colon in a label is taken for its end by sgdisk");
        }
        put(&mut out, "label", Some(label));
    }
    put(&mut out, "number", section.count("number"));
    for key in ["size", "start"] {
        let Some(spot) = section.get(key) else { continue };
        match spot.text().map(|text| size::sectors(&text)) {
            Some(Ok(sectors)) => put(&mut out, key, Some(sectors)),
            Some(Err(why)) => spot.fault(why),
            None => {}
        }
    }
    put(&mut out, "guid", section.get("guid").and_then(|spot| guid(&spot, &[])));
    put(&mut out, "typeGuid", section.get("type_guid").and_then(|spot| guid(&spot, &TYPE_GUIDS)));
    out
}

/// A GUID, or one of the names that stand for some.
fn guid(spot: &Spot<'_>, names: &[(&str, &str)]) -> Option<String> {
    let text = spot.text()?;
    if let Some((_, guid)) = names.iter().find(|(name, _)| *name == text) {
        return Some((*guid).to_owned());
    }
    let hyphens = [8, 13, 18, 23];
    let is_guid = text.len() == 36
        && text.bytes().enumerate().all(
            |(i, b)| {
                if hyphens.contains(&i) { b == b'-' } else { b.is_ascii_hexdigit() }
            },
        );
    if is_guid || text.is_empty() {
        return Some(text);
    }
    let hint = did_you_mean(&text, names.iter().map(|(name, _)| *name));
    let hint = hint.map(|text| format!("; {text}")).unwrap_or_default();
    spot.fault(format!("{text:?} is no GUID{hint}"));
    None
}

/// Numbers, labels and places must not clash.
fn check_partitions(spots: &[Spot<'_>], made: &[Object]) {
    let number = |p: &Object, key: &str| p.get(key).and_then(Json::as_i64).unwrap_or_default();
    for (i, (spot, one)) in spots.iter().zip(made).enumerate() {
        for (j, other) in made.iter().enumerate().take(i) {
            let same = number(one, "number");
            if same != 0 && same == number(other, "number") {
                spot.fault(format!("number {same} is also that of partition {j} of the list"));
            }
            let label = one.get("label").and_then(Json::as_str).unwrap_or_default();
            if !label.is_empty() && other.get("label").and_then(Json::as_str) == Some(label) {
                spot.fault(format!("{label:?} is also the label of partition {j} of the list"));
            }
            let range = |p: &Object| {
                let (start, size) = (number(p, "start"), number(p, "size"));
                // What is not said is found by sgdisk.
                (start != 0 && size != 0).then_some((start, start.saturating_add(size)))
            };
            if let (Some(a), Some(b)) = (range(one), range(other))
                && a.0 < b.1
                && b.0 < a.1
            {
                spot.fault(format!("it overlaps partition {j} of the list"));
            }
        }
    }
}

fn raid(section: &Section<'_>) -> Object {
    let mut out = Object::new();
    let name = section.required("name").and_then(|spot| spot.text());
    put(&mut out, "name", name);
    let level = section.required("level").and_then(|spot| {
        let level = spot.text()?;
        if !LEVELS.contains(&level.as_str()) && level != "10" {
            let hint = did_you_mean(&level, LEVELS).map(|text| format!("; {text}")).unwrap_or_default();
            spot.fault(format!("unknown level {level:?}{hint}"));
        }
        Some(level)
    });
    let devices = section.required("devices");
    for device in devices.iter().flat_map(Spot::items) {
        if device.text().is_some_and(|text| !text.starts_with('/')) {
            device.fault("a device is given by its absolute path");
        }
    }
    let devices = devices.map(|spot| spot.texts()).unwrap_or_default();
    let spares = section.get("spares");
    let count = section.count("spares");
    if let (Some(spot), Some(level), Some(1..)) = (&spares, &level, count)
        && matches!(level.as_str(), "linear" | "raid0" | "0" | "stripe")
    {
        spot.fault(format!("an array of level {level} cannot have spares"));
    }
    put(&mut out, "level", level);
    out.insert("devices".into(), devices.into());
    put(&mut out, "spares", count);
    section.copy(&mut out, &[("options", "options", Want::Texts)]);
    out
}

fn filesystem(section: &Section<'_>) -> Object {
    let mut out = Object::new();
    section.copy(&mut out, &[("name", "name", Want::Text)]);
    let place = path(section, "path", true);
    let mount = section.section("mount", mount);
    match (&place, &mount) {
        (Some(_), Some(_)) => section.spot.fault("path and mount exclude each other"),
        (None, None) => section.spot.fault("either path or mount is needed"),
        _ => {}
    }
    put(&mut out, "path", place);
    put(&mut out, "mount", mount);
    out
}

fn mount(section: &Section<'_>) -> Object {
    let mut out = Object::new();
    put(&mut out, "device", path(section, "device", false));
    let format = section.required("format").and_then(|spot| {
        let format = spot.text()?;
        let known = FORMATS.iter().find(|(name, _)| *name == format);
        if known.is_none() {
            let names: Vec<&str> = FORMATS.iter().map(|(name, _)| *name).collect();
            spot.fault(format!("unknown format {format:?}; known are {}", names.join(", ")));
        }
        known.copied()
    });
    put(&mut out, "format", format.map(|(name, _)| name));
    section.copy(&mut out, &[("wipe_filesystem", "wipeFilesystem", Want::Flag)]);
    let create = section.section("create", |s| {
        s.spot.warn("create is for old versions of Ignition; wipe_filesystem and options replace it");
        let mut out = Object::new();
        s.copy(&mut out, &[("force", "force", Want::Flag), ("options", "options", Want::Texts)]);
        out
    });
    let label = section.get("label").and_then(|spot| {
        let label = spot.text()?;
        if let Some((name, longest)) = format.filter(|(_, longest)| label.len() > *longest) {
            spot.fault(format!("a label of {name} has at most {longest} bytes"));
        }
        Some(label)
    });
    put(&mut out, "label", label);
    section.copy(&mut out, &[("uuid", "uuid", Want::Text), ("options", "options", Want::Texts)]);
    put(&mut out, "create", create);
    out
}

/// What files, directories and links have in common.
fn node(section: &Section<'_>, filesystems: &HashMap<String, String>) -> Object {
    let mut out = Object::new();
    let filesystem = match section.get("filesystem") {
        None => ROOT.to_owned(),
        Some(spot) => {
            let name = spot.text().unwrap_or_default();
            if !filesystems.contains_key(&name) {
                let hint = did_you_mean(&name, filesystems.keys().map(String::as_str));
                let hint = hint.map(|text| format!("; {text}")).unwrap_or_default();
                spot.fault(format!("no filesystem has the name {name:?}{hint}"));
            }
            name
        }
    };
    out.insert("filesystem".into(), filesystem.into());
    put(&mut out, "path", path(section, "path", false));
    for key in ["user", "group"] {
        let owner = section.section(key, |s| {
            let mut out = Object::new();
            s.copy(&mut out, &[("id", "id", Want::Whole), ("name", "name", Want::Text)]);
            if out.len() > 1 {
                s.spot.fault("id and name exclude each other");
            }
            out
        });
        put(&mut out, key, owner);
    }
    section.copy(&mut out, &[("overwrite", "overwrite", Want::Flag)]);
    out
}

/// The mode, or the usual one with a warning.
fn mode(section: &Section<'_>, usual: i64) -> Option<i64> {
    let Some(spot) = section.get("mode") else {
        section.spot.warn(format!("mode is not set; it will be {usual:04o}"));
        return Some(usual);
    };
    let mode = spot.whole()?;
    if !(0..=MODES).contains(&mode) {
        spot.fault(format!(
            "{mode} is no mode; an octal number begins with 0, and the largest is 0{MODES:o}"
        ));
        return None;
    }
    Some(mode)
}

fn file(section: &Section<'_>, filesystems: &HashMap<String, String>) -> Object {
    let mut out = node(section, filesystems);
    let append = section.flag("append");
    if append == Some(true) && out.get("overwrite") == Some(&json!(true)) {
        section.spot.fault("append and overwrite exclude each other");
    }
    put(&mut out, "append", append);
    put(&mut out, "mode", mode(section, 0o644));
    let contents = section.section("contents", contents).flatten();
    out.insert("contents".into(), contents.unwrap_or_else(|| json!({ "source": "data:," })));
    out
}

fn contents(section: &Section<'_>) -> Option<Json> {
    let inline =
        section.text("inline").map(|text| json!({ "source": format!("data:,{}", percent::encode(&text)) }));
    let local = section.get("local");
    if let Some(spot) = &local {
        spot.fault("there is no folder that local files could come from; use inline");
    }
    let remote = section.section("remote", |s| {
        let mut out = resource(s, "url");
        if let Some(spot) = s.get("compression") {
            let text = spot.text().unwrap_or_default();
            if !matches!(text.as_str(), "" | "gzip") {
                spot.fault(format!("unknown compression {text:?}; gzip is the one there is"));
            }
            put(&mut out, "compression", Some(text));
        }
        Json::Object(out)
    });
    if usize::from(inline.is_some()) + usize::from(local.is_some()) + usize::from(remote.is_some()) > 1 {
        section.spot.fault("only one of inline, local and remote can be given");
    }
    inline.or(remote)
}

fn directory(section: &Section<'_>, filesystems: &HashMap<String, String>) -> Object {
    let mut out = node(section, filesystems);
    put(&mut out, "mode", mode(section, 0o755));
    out
}

fn link(section: &Section<'_>, filesystems: &HashMap<String, String>) -> Object {
    let mut out = node(section, filesystems);
    put(&mut out, "target", section.required("target").and_then(|spot| spot.text()));
    section.copy(&mut out, &[("hard", "hard", Want::Flag)]);
    out
}

/// Something fetched from a URL, which is under `key`, with its checksum.
pub(super) fn resource(section: &Section<'_>, key: &'static str) -> Object {
    let mut out = Object::new();
    if let Some(spot) = section.required(key) {
        let url = spot.text().unwrap_or_default();
        match ignition::scheme(&url).as_deref() {
            Some("http" | "https" | "tftp" | "s3" | "oem") => {}
            Some("data") => {
                if let Err(why) = ignition::check_data_url(&url) {
                    spot.fault(why);
                }
            }
            Some(other) => spot.fault(format!("Ignition cannot fetch {other}: URLs")),
            None => spot.fault(format!("{url:?} is no URL")),
        }
        put(&mut out, "source", Some(url));
    }
    let hash = section.section("verification", |s| {
        s.section("hash", |s| {
            let function = s.required("function").and_then(|spot| {
                let function = spot.text()?;
                if function != "sha512" {
                    spot.fault(format!("unknown function {function:?}; sha512 is the one there is"));
                }
                Some(function)
            });
            let sum = s.required("sum").and_then(|spot| {
                let sum = spot.text()?;
                if sum.len() != 128 || !sum.bytes().all(|b| b.is_ascii_hexdigit()) {
                    spot.fault("a sum of sha512 is 128 hexadecimal digits");
                }
                Some(sum)
            });
            Some(format!("{}-{}", function?, sum?))
        })
    });
    put(&mut out, "verification", hash.flatten().flatten().map(|hash| json!({ "hash": hash })));
    out
}
