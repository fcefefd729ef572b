//! Ignition 2.x as Ignition 3: the same config for an image that reads the other.
//!
//! Where the two differ in what they do by themselves, the result says it: files of version 2 replace what is there. What
//! version 3 has no words for is an error that names its path; so is what is not known here, since it could mean anything.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{Error, keys, tree};

/// The version of the result: the first that has all that is needed.
const VERSION: &str = "3.0.0";
/// Sectors of 512 bytes, in which version 2 counts, in a MiB, in which version 3 does.
const SECTORS: u64 = 2048;

type Object = Map<String, Value>;

/// An object whose members are taken one by one; in the end none may be left.
struct Source {
    path: String,
    map: Object,
}

impl Source {
    fn new(path: String, value: Value) -> Result<Self, Error> {
        match value {
            Value::Object(map) => Ok(Self { path, map }),
            Value::Null => Ok(Self { path, map: Object::new() }),
            _ => Err(Error::invalid(&path, "expected an object")),
        }
    }

    fn path(&self, key: &str) -> String {
        tree::join(&self.path, key)
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.map.shift_remove(key).filter(|value| !value.is_null())
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, Error> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Error::invalid(&self.path(key), "expected a string")),
        }
    }

    fn object(&mut self, key: &str) -> Result<Self, Error> {
        let value = self.take(key).unwrap_or_default();
        Self::new(self.path(key), value)
    }

    fn list(&mut self, key: &str) -> Result<Vec<Self>, Error> {
        let path = self.path(key);
        let list = match self.take(key) {
            None => Vec::new(),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(Error::invalid(&path, "expected an array")),
        };
        list.into_iter().enumerate().map(|(i, value)| Self::new(format!("{path}[{i}]"), value)).collect()
    }

    /// Takes what is the same in both.
    fn same(&mut self, out: &mut Object, keys: &[&str]) {
        for key in keys {
            if let Some(value) = self.take(key) {
                out.insert((*key).to_owned(), value);
            }
        }
    }

    /// Sees to it that nothing is left.
    fn end(self) -> Result<(), Error> {
        match self.map.iter().find(|(_, value)| !value.is_null()) {
            Some((key, _)) => Err(unsaid(&tree::join(&self.path, key), "there is no such key")),
            None => Ok(()),
        }
    }
}

fn unsaid(path: &str, reason: impl Into<String>) -> Error {
    Error::NotInVersion3 { path: path.to_owned(), reason: reason.into() }
}

/// The same config for Ignition 3; the version of `config`, 2.x, was looked at before.
///
/// # Errors
/// [`Error::NotInVersion3`], and what is no Ignition config at all.
pub(super) fn to_v3(config: Value) -> Result<Value, Error> {
    let mut root = Source::new(String::new(), config)?;
    let mut out = Object::new();
    out.insert("ignition".into(), ignition(root.object("ignition")?)?.into());
    let mut passwd = root.object("passwd")?;
    let mut made = Object::new();
    put(&mut made, "users", passwd.list("users")?.into_iter().map(user).collect::<Result<Vec<_>, _>>()?);
    passwd.same(&mut made, &["groups"]);
    passwd.end()?;
    put_object(&mut out, "passwd", made);
    let mut storage = storage(root.object("storage")?)?;
    networkd(root.object("networkd")?, &mut storage)?;
    put_object(&mut out, "storage", storage);
    let mut systemd = root.object("systemd")?;
    let units = systemd.list("units")?.into_iter().map(unit).collect::<Result<Vec<_>, _>>()?;
    systemd.end()?;
    let mut made = Object::new();
    put(&mut made, "units", one_of_each(units));
    put_object(&mut out, "systemd", made);
    root.end()?;
    Ok(out.into())
}

fn put(out: &mut Object, key: &str, list: Vec<Value>) {
    if !list.is_empty() {
        out.insert(key.to_owned(), list.into());
    }
}

fn put_object(out: &mut Object, key: &str, object: Object) {
    if !object.is_empty() {
        out.insert(key.to_owned(), object.into());
    }
}

fn ignition(mut source: Source) -> Result<Object, Error> {
    let mut out = Object::new();
    source.take("version");
    out.insert("version".into(), VERSION.into());
    let mut config = source.object("config")?;
    let mut made = Object::new();
    for (old, new) in [("append", "merge"), ("replace", "replace")] {
        if let Some(value) = config.take(old).filter(|value| *value != json!([]) && *value != json!({})) {
            made.insert(new.into(), value);
        }
    }
    config.end()?;
    put_object(&mut out, "config", made);
    source.same(&mut out, &["timeouts", "security"]);
    source.end()?;
    Ok(out)
}

/// What a user to be made has; in version 2.0 in an object of its own.
const ACCOUNT: [&str; 10] = [
    "uid",
    "gecos",
    "homeDir",
    "noCreateHome",
    "primaryGroup",
    "groups",
    "noUserGroup",
    "system",
    "noLogInit",
    "shell",
];

fn user(mut source: Source) -> Result<Value, Error> {
    let mut out = Object::new();
    source.same(&mut out, &["name", "passwordHash", "sshAuthorizedKeys"]);
    if let Some(Value::Array(list)) = out.get_mut("sshAuthorizedKeys") {
        keys::append(list, &[]);
    }
    let mut create = source.object("create")?;
    create.same(&mut out, &ACCOUNT);
    create.end()?;
    source.same(&mut out, &ACCOUNT);
    source.end()?;
    Ok(out.into())
}

fn unit(mut source: Source) -> Result<Value, Error> {
    let mut out = Object::new();
    source.same(&mut out, &["name", "enabled", "mask", "contents", "dropins"]);
    // `enable` can only switch on: false means "leave it".
    if source.take("enable") == Some(Value::Bool(true)) {
        out.entry("enabled").or_insert(Value::Bool(true));
    }
    source.end()?;
    Ok(out.into())
}

/// Units of one name become one, as version 2 would apply them one after the other.
fn one_of_each(units: Vec<Value>) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::new();
    for unit in units {
        let Some(first) = out.iter_mut().find(|first| first["name"] == unit["name"]) else {
            out.push(unit);
            continue;
        };
        let (Value::Object(unit), Some(first)) = (unit, first.as_object_mut()) else { continue };
        for (key, value) in unit {
            match (first.get_mut(&key), value) {
                (Some(Value::Array(there)), Value::Array(more)) => {
                    there.retain(|old| more.iter().all(|new| new["name"] != old["name"]));
                    there.extend(more);
                }
                (_, value) => {
                    first.insert(key, value);
                }
            }
        }
    }
    out
}

fn storage(mut source: Source) -> Result<Object, Error> {
    let mut out = Object::new();
    put(&mut out, "disks", source.list("disks")?.into_iter().map(disk).collect::<Result<Vec<_>, _>>()?);
    source.same(&mut out, &["raid"]);
    // Where the root of each named filesystem is; `None` if it is nowhere.
    let mut places = HashMap::from([("root".to_owned(), Some(String::new()))]);
    let mut made = Vec::new();
    for mut filesystem in source.list("filesystems")? {
        let path = filesystem.text("path")?;
        if let Some(name) = filesystem.text("name")? {
            places.insert(name, path.map(|path| path.trim_end_matches('/').to_owned()));
        }
        let mount = filesystem.object("mount")?;
        if !mount.map.is_empty() {
            made.push(mounted(mount)?);
        }
        filesystem.end()?;
    }
    put(&mut out, "filesystems", made);
    let mut files: Vec<Value> = Vec::new();
    for one in source.list("files")? {
        add_file(&mut files, file(one, &places)?);
    }
    put(&mut out, "files", files);
    for list in ["directories", "links"] {
        let nodes = source.list(list)?.into_iter().map(|mut node| {
            let mut made = Object::new();
            made.insert("path".into(), path_in_root(&mut node, &places)?.into());
            node.same(&mut made, &["user", "group", "mode", "overwrite", "target", "hard"]);
            node.end()?;
            Ok(Value::Object(made))
        });
        let nodes: Vec<Value> = nodes.collect::<Result<_, Error>>()?;
        put(&mut out, list, nodes);
    }
    source.end()?;
    Ok(out)
}

fn disk(mut source: Source) -> Result<Value, Error> {
    let mut out = Object::new();
    source.same(&mut out, &["device", "wipeTable"]);
    let mut partitions = Vec::new();
    for mut partition in source.list("partitions")? {
        let mut made = Object::new();
        partition
            .same(&mut made, &["label", "number", "guid", "typeGuid", "wipePartitionEntry", "shouldExist"]);
        for (old, new) in [("size", "sizeMiB"), ("start", "startMiB")] {
            let path = partition.path(old);
            let Some(value) = partition.take(old) else { continue };
            match value.as_u64() {
                Some(sectors) if sectors.is_multiple_of(SECTORS) => {
                    made.insert(new.into(), (sectors / SECTORS).into());
                }
                _ => return Err(unsaid(&path, format!("{value} sectors of 512 bytes are no whole MiB"))),
            }
        }
        partition.end()?;
        partitions.push(Value::Object(made));
    }
    put(&mut out, "partitions", partitions);
    source.end()?;
    Ok(out.into())
}

fn mounted(mut source: Source) -> Result<Value, Error> {
    let mut out = Object::new();
    source.same(&mut out, &["device", "format", "wipeFilesystem", "label", "uuid", "options"]);
    let mut create = source.object("create")?;
    if create.take("force") == Some(Value::Bool(true)) {
        out.insert("wipeFilesystem".into(), true.into());
    }
    create.same(&mut out, &["options"]);
    create.end()?;
    source.end()?;
    Ok(out.into())
}

/// The path of a file, directory or link, whose filesystem has no name in version 3.
fn path_in_root(source: &mut Source, places: &HashMap<String, Option<String>>) -> Result<String, Error> {
    let at = source.path("filesystem");
    let filesystem = source.text("filesystem")?.unwrap_or_else(|| "root".to_owned());
    let path = source.text("path")?.unwrap_or_default();
    match places.get(&filesystem) {
        Some(Some(prefix)) => Ok(format!("{prefix}{path}")),
        Some(None) => Err(unsaid(
            &at,
            format!("filesystem {filesystem:?} has no path under which it can be written to"),
        )),
        None => Err(Error::invalid(&at, format!("no filesystem has the name {filesystem:?}"))),
    }
}

fn file(mut source: Source, places: &HashMap<String, Option<String>>) -> Result<Object, Error> {
    let mut out = Object::new();
    out.insert("path".into(), path_in_root(&mut source, places)?.into());
    source.same(&mut out, &["user", "group", "mode"]);
    let mut contents = source.object("contents")?;
    let mut made = Object::new();
    let url = contents.text("source")?.filter(|url| !url.is_empty());
    made.insert("source".into(), url.unwrap_or_else(|| "data:,".to_owned()).into());
    contents.same(&mut made, &["verification"]);
    if let Some(compression) = contents.text("compression")?.filter(|text| !text.is_empty()) {
        made.insert("compression".into(), compression.into());
    }
    contents.end()?;
    let overwrite = source.take("overwrite");
    if source.take("append") == Some(Value::Bool(true)) {
        out.insert("append".into(), json!([made]));
    } else {
        out.insert("overwrite".into(), overwrite.unwrap_or(Value::Bool(true)));
        out.insert("contents".into(), made.into());
    }
    source.end()?;
    Ok(out)
}

/// Files of one path become one, as version 2 would write them one after the other.
fn add_file(files: &mut Vec<Value>, file: Object) {
    let first = files.iter_mut().find(|first| Some(&first["path"]) == file.get("path"));
    let Some(first) = first.and_then(Value::as_object_mut) else {
        files.push(file.into());
        return;
    };
    if file.contains_key("contents") {
        *first = file;
        return;
    }
    for (key, value) in file {
        match (first.get_mut(&key), value) {
            (Some(Value::Array(there)), Value::Array(more)) => there.extend(more),
            (_, value) => {
                first.insert(key, value);
            }
        }
    }
}

/// networkd's units are files like others.
fn networkd(mut source: Source, storage: &mut Object) -> Result<(), Error> {
    let mut files = Vec::new();
    let mut add = |path: String, contents: String| {
        files.push(json!({
            "path": path, "overwrite": true, "mode": 0o644,
            "contents": { "source": format!("data:,{}", crate::text::percent::encode(&contents)) },
        }));
    };
    for mut unit in source.list("units")? {
        let path = format!("/etc/systemd/network/{}", unit.text("name")?.unwrap_or_default());
        if let Some(contents) = unit.text("contents")?.filter(|text| !text.is_empty()) {
            add(path.clone(), contents);
        }
        for mut dropin in unit.list("dropins")? {
            let name = dropin.text("name")?.unwrap_or_default();
            add(format!("{path}.d/{name}"), dropin.text("contents")?.unwrap_or_default());
            dropin.end()?;
        }
        unit.end()?;
    }
    source.end()?;
    if !files.is_empty()
        && let Value::Array(list) = storage.entry("files").or_insert_with(|| json!([]))
    {
        list.extend(files);
    }
    Ok(())
}
