//! What a text is meant to be.

use super::{Error, Kind, cloudinit, multipart};
use crate::text::nearest;

/// Top-level keys of Container Linux Config, and of what Butane made of it.
const TRANSLATED: [&str; 12] = [
    "boot_device",
    "docker",
    "etcd",
    "flannel",
    "grub",
    "ignition",
    "locksmith",
    "networkd",
    "passwd",
    "storage",
    "systemd",
    "update",
];

/// Top-level keys of cloud-config that the others do not have.
const CLOUD_CONFIG: [&str; 14] = [
    "bootcmd",
    "chpasswd",
    "coreos",
    "disk_setup",
    "fs_setup",
    "hostname",
    "manage_etc_hosts",
    "mounts",
    "packages",
    "password",
    "runcmd",
    "ssh_authorized_keys",
    "users",
    "write_files",
];

/// The kind of a text without byte order mark.
///
/// # Errors
/// [`Error::Unrecognised`], with what it looks most like.
pub(super) fn recognise(text: &str) -> Result<Kind, Error> {
    let first = text.lines().next().unwrap_or_default();
    if text.is_empty() {
        Ok(Kind::Empty)
    } else if first.trim_end() == cloudinit::HEADER {
        Ok(Kind::CloudConfig)
    } else if first.starts_with("#!") {
        Ok(Kind::Script)
    } else if multipart::is_multipart(text) {
        Ok(Kind::Multipart)
    } else if text.trim_start().starts_with(['{', '[']) {
        Ok(Kind::Ignition)
    } else if keys(text).any(|key| key == "variant") {
        Ok(Kind::Butane)
    } else if keys(text).any(|key| TRANSLATED.contains(&key)) {
        Ok(Kind::ContainerLinuxConfig)
    } else {
        Err(Error::Unrecognised(likeness(text)))
    }
}

/// The top-level keys of a YAML mapping in block style.
fn keys(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let (key, rest) = line.split_once(':')?;
        let key = key.trim_end().trim_matches(['"', '\'']);
        let word =
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        (word && (rest.is_empty() || rest.starts_with([' ', '\t', '\r']))).then_some(key)
    })
}

/// What a text that is nothing known looks most like.
fn likeness(text: &str) -> String {
    let trimmed = text.trim();
    let first = trimmed.lines().next().unwrap_or_default();
    let first_words = || first.split_whitespace();
    if trimmed.is_empty() {
        return "blank lines".into();
    }
    if text.lines().any(|line| line.trim_end() == cloudinit::HEADER) {
        return format!("a cloud-config, but only the very first line can say {}", cloudinit::HEADER);
    }
    if first.starts_with(cloudinit::HEADER) {
        return format!("a cloud-config, but its first line is more than {}", cloudinit::HEADER);
    }
    if first.starts_with("#!") {
        return "a script, but only the very first line can say #!".into();
    }
    if keys(text).any(|key| CLOUD_CONFIG.contains(&key.replace('-', "_").as_str())) {
        return format!("a cloud-config without its first line {}", cloudinit::HEADER);
    }
    if first.starts_with("-----BEGIN") {
        return "a key or certificate (PEM)".into();
    }
    if first_words().next().is_some_and(|w| w.starts_with("ssh-") || w.starts_with("ecdsa-")) {
        return "an SSH public key".into();
    }
    if first.starts_with('<') {
        return "a web page or other markup".into();
    }
    if first.starts_with('"') || first.starts_with("\\{") {
        return "JSON that was quoted once more".into();
    }
    let known = || TRANSLATED.iter().chain(&CLOUD_CONFIG).copied().chain(["variant"]);
    if let Some((key, near)) = keys(text).find_map(|key| Some((key, nearest(key, known())?))) {
        return format!("a config with a mistyped key: {key:?} is near to {near:?}");
    }
    if let Some(key) = keys(text).next() {
        return format!("YAML of some other kind, with the key {key:?}");
    }
    if first.contains('=') {
        return "an INI file or variables of a shell".into();
    }
    "plain text".into()
}
