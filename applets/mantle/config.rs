//! `mantle config show`: every option with its value and where that is from.

use std::path::PathBuf;

use clap::ArgMatches;
use mantle::applet;
use mantle::args;
use mantle::config::{self, Entry, Origin};
use mantle::error::Result;
use mantle::output;
use mantle::secret::Secret;
use serde_json::{Value, json};

use super::APPLET;
use crate::APPLETS;

pub fn show(matches: &ArgMatches) -> Result<u8> {
    let wanted: Vec<&String> = matches.get_many("applet").into_iter().flatten().collect();
    let mut roots = applet::top_tree(&APPLET, APPLETS);
    for applet in APPLETS {
        roots = roots.mut_subcommand(applet.name, |_| applet::tree(applet));
    }
    let disabled = args::flag(matches, args::id::NO_CONFIG);
    let explicit = matches.get_one::<PathBuf>(args::id::CONFIG);
    let files = if disabled { Vec::new() } else { config::locate(explicit.map(PathBuf::as_path)) };
    let settings = config::read(&files, &roots, &[])?;
    let entries: Vec<Entry> = config::entries(&roots, &settings)
        .into_iter()
        .filter(|e| wanted.is_empty() || wanted.iter().any(|w| e.key.split('.').next() == Some(w.as_str())))
        .collect();
    if args::flag(matches, "json") {
        let list: Vec<Value> = entries.iter().map(as_json).collect();
        output::line(serde_json::to_string_pretty(&list)?)?;
    } else {
        output::write(as_yaml(&entries).as_bytes())?;
    }
    Ok(0)
}

fn as_json(entry: &Entry) -> Value {
    let values: Vec<&str> = shown_values(entry);
    let value = match (entry.list, entry.origin == Origin::Unset) {
        (_, true) => Value::Null,
        (true, _) => json!(values),
        (false, _) => json!(values.first()),
    };
    let (origin, name) = match &entry.origin {
        Origin::Unset => ("unset", None),
        Origin::BuiltIn => ("built-in", None),
        Origin::File(path) => ("file", Some(path.display().to_string())),
        Origin::Environment(name) => ("environment", Some(name.clone())),
    };
    json!({ "key": entry.key, "value": value, "origin": origin, "name": name })
}

/// A configuration file that would give the values in force, each with its origin as a comment.
fn as_yaml(entries: &[Entry]) -> String {
    let mut text = String::new();
    let mut open: Vec<&str> = Vec::new();
    for entry in entries {
        let mut path: Vec<&str> = entry.key.split('.').collect();
        let name = path.pop().unwrap_or_default();
        let common = open.iter().zip(&path).take_while(|(a, b)| a == b).count();
        for (depth, section) in path.iter().enumerate().skip(common) {
            text.push_str(&format!("{}{section}:\n", "  ".repeat(depth)));
        }
        let values: Vec<String> = shown_values(entry).into_iter().map(scalar).collect();
        let value = match (entry.list, entry.origin == Origin::Unset) {
            (_, true) => "null".into(),
            (true, _) => format!("[{}]", values.join(", ")),
            (false, _) => values.concat(),
        };
        text.push_str(&format!("{}{name}: {value}  # {}\n", "  ".repeat(path.len()), entry.origin));
        open = path;
    }
    text
}

fn shown_values(entry: &Entry) -> Vec<&str> {
    let shown = |value| if entry.secret { Secret::MASK } else { value };
    entry.values.iter().map(|v| shown(v.as_str())).collect()
}

/// A value as YAML reads it back: as it is where that is safe, else in quotes (those of JSON are YAML's too).
fn scalar(text: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_./+@".contains(c);
    let word = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/') && text.chars().all(safe);
    let url = text.split_once("://").is_some_and(|(a, b)| {
        a.chars().all(safe) && b.chars().all(|c| safe(c) || c == ':') && !b.ends_with(':')
    });
    if (word || url) && !text.eq_ignore_ascii_case("null") {
        text.to_owned()
    } else {
        json!(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_is_readable_again() {
        let entry = |key: &str, values: &[&str], list, secret, origin| Entry {
            key: key.into(),
            values: values.iter().map(|v| (*v).to_owned()).collect(),
            list,
            secret,
            origin,
        };
        let text = as_yaml(&[
            entry("log-level", &["INFO"], false, false, Origin::File("/etc/x".into())),
            entry("kola.parallel", &["1"], false, false, Origin::BuiltIn),
            entry("kola.token", &["hunter2"], false, true, Origin::Environment("TOKEN".into())),
            entry("kola.spawn.key", &["a b", "~", "gs://c/d"], true, false, Origin::BuiltIn),
            entry("ore.aws.name", &[], false, false, Origin::Unset),
        ]);
        assert_eq!(
            text,
            "log-level: INFO  # /etc/x\nkola:\n  parallel: 1  # built in\n  token: \"***\"  # environment variable TOKEN\n  \
             spawn:\n    key: [\"a b\", \"~\", gs://c/d]  # built in\nore:\n  aws:\n    name: null  # not set\n"
        );
        serde_yaml::from_str::<serde_yaml::Value>(&text).expect("is YAML");
    }
}
