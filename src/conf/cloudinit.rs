//! What coreos-cloudinit reads: cloud-config and scripts.

use serde_json::{Value, json};

use super::tree::{self, Rule, Want};
use super::{Additions, Error, LOG, keys, yaml};
use crate::warning;

/// The first line of a cloud-config.
pub(super) const HEADER: &str = "#cloud-config";
/// What a script holds where the keys belong.
pub(super) const KEYS_MARK: &str = "@SSH_KEYS@";

/// The sections coreos-cloudinit knows, in which `-` and `_` are the same in keys.
const SECTIONS: [&str; 6] =
    ["ssh_authorized_keys", "coreos", "write_files", "hostname", "users", "manage_etc_hosts"];

const RULES: &[Rule] = &[
    ("ssh_authorized_keys", Want::Array),
    ("ssh_authorized_keys[]", Want::Text),
    ("coreos", Want::Object),
    ("coreos.units", Want::Array),
    ("coreos.units[]", Want::Object),
    ("coreos.units[].name", Want::Name),
    ("coreos.units[].drop_ins", Want::Array),
    ("coreos.units[].drop_ins[]", Want::Object),
    ("coreos.units[].drop_ins[].name", Want::Name),
    ("write_files", Want::Array),
    ("write_files[]", Want::Object),
    ("write_files[].path", Want::Name),
    ("users", Want::Array),
];

/// Checks a cloud-config and makes the additions. With nothing to add the text stays as it is.
pub(super) fn cloud_config(text: &str, add: &Additions, keys: &[String]) -> Result<String, Error> {
    let mut root = match yaml::parse(text, &SECTIONS)? {
        Value::Null => json!({}),
        root @ Value::Object(_) => root,
        _ => return Err(Error::invalid("", "expected a mapping")),
    };
    tree::check(&root, RULES)?;
    if add.units.is_empty() && add.dropins.is_empty() && add.files.is_empty() && keys.is_empty() {
        let header =
            if text.lines().next().map(str::trim_end) == Some(HEADER) { "" } else { "#cloud-config\n" };
        return Ok(format!("{header}{text}"));
    }
    if text.contains("!!binary") {
        // The YAML reader drops this tag, which would turn the content into its base64.
        return Err(Error::invalid(
            "!!binary",
            "this tag cannot be kept; use write_files with encoding: base64",
        ));
    }

    for unit in &add.units {
        let entry = tree::element(tree::list(&mut root, "coreos.units")?, &[("name", &unit.name)]);
        entry.insert("enable".into(), json!(unit.enable));
        if !unit.contents.is_empty() {
            entry.insert("content".into(), json!(unit.contents));
        }
    }
    for dropin in &add.dropins {
        let unit = tree::element(tree::list(&mut root, "coreos.units")?, &[("name", &dropin.unit)]);
        let entry = tree::element(tree::member_list(unit, "drop_ins")?, &[("name", &dropin.name)]);
        entry.insert("content".into(), json!(dropin.contents));
    }
    for file in &add.files {
        let entry = tree::element(tree::list(&mut root, "write_files")?, &[("path", &file.path)]);
        entry.insert("permissions".into(), json!(format!("{:04o}", file.mode & 0o7777)));
        entry.shift_remove("encoding");
        let content = match std::str::from_utf8(&file.contents) {
            Ok(text) => text.to_owned(),
            Err(_) => {
                entry.insert("encoding".into(), json!("base64"));
                openssl::base64::encode_block(&file.contents)
            }
        };
        entry.insert("content".into(), json!(content));
    }
    if !keys.is_empty() {
        keys::append(tree::list(&mut root, "ssh_authorized_keys")?, keys);
    }
    let yaml = serde_yaml::to_string(&root).map_err(Error::Yaml)?;
    Ok(format!("{HEADER}\n{yaml}"))
}

/// Puts the keys where the script wants them and appends commands that write the files; units cannot be added.
/// A script that ends itself before its last line writes no files.
pub(super) fn script(text: &str, add: &Additions, keys: &[String]) -> Result<String, Error> {
    let mut out = if keys.is_empty() { text.to_owned() } else { text.replace(KEYS_MARK, &keys.join("\n")) };
    if add.files.is_empty() {
        return Ok(out);
    }
    if !is_shell(text) {
        warning!(LOG, "the script is not for a shell: files cannot be added to it");
        return Ok(out);
    }
    if !out.ends_with('\n') {
        out.push('\n');
    }
    for file in &add.files {
        let path = quote(&file.path);
        if let Some((folder, _)) = file.path.rsplit_once('/').filter(|(folder, _)| !folder.is_empty()) {
            out.push_str(&format!("mkdir -p {}\n", quote(folder)));
        }
        // A here-document is whole lines of text; anything else goes through base64.
        let text = std::str::from_utf8(&file.contents).ok();
        match text.filter(|text| text.ends_with('\n') && !text.contains('\0')) {
            Some(text) => {
                let mut end = String::from("KOLA_EOF");
                while text.lines().any(|line| line == end) {
                    end.push('_');
                }
                out.push_str(&format!("cat > {path} <<'{end}'\n{text}{end}\n"));
            }
            None => {
                let encoded = openssl::base64::encode_block(&file.contents);
                out.push_str(&format!("base64 -d > {path} <<'KOLA_EOF'\n{encoded}\nKOLA_EOF\n"));
            }
        }
        out.push_str(&format!("chmod {:04o} {path}\n", file.mode & 0o7777));
    }
    Ok(out)
}

/// Whether the `#!` line names a shell, directly or through env(1).
fn is_shell(text: &str) -> bool {
    let line = text.lines().next().and_then(|line| line.strip_prefix("#!")).unwrap_or_default();
    let mut words = line.split_whitespace().map(|word| word.rsplit('/').next().unwrap_or(word));
    let program =
        words.next().map(|first| if first == "env" { words.next().unwrap_or_default() } else { first });
    matches!(program, Some("sh" | "bash" | "dash" | "ash" | "ksh" | "mksh" | "zsh"))
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
