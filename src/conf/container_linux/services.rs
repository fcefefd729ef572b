//! The services that Container Linux Config has sections for: updates, locksmith, docker, etcd and flannel.

use semver::Version;
use serde_json::{Value as Json, json};

use super::metadata::{self, Dynamic};
use super::reader::{Section, Spot, Want};
use crate::text::did_you_mean;

/// What updates and reboots are configured by.
const UPDATE_CONF: &str = "/etc/coreos/update.conf";

/// The file for the sections `update` and `locksmith`, if either says something.
pub(super) fn update_conf(top: &Section<'_>) -> Option<Json> {
    let mut lines = Vec::new();
    top.section("update", |s| update(s, &mut lines));
    top.section("locksmith", |s| locksmith(s, &mut lines));
    if lines.is_empty() {
        return None;
    }
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let source = format!("data:,{}", crate::text::percent::encode(&text));
    Some(
        json!({ "filesystem": "root", "path": UPDATE_CONF, "contents": { "source": source }, "mode": 0o644 }),
    )
}

/// A value of one line: what is appended to the file must not begin another one.
fn line(spot: &Spot<'_>) -> Option<String> {
    let text = spot.text()?;
    if text.contains(['\n', '\r']) {
        spot.fault("it must be one line");
        return None;
    }
    Some(text)
}

fn update(section: &Section<'_>, lines: &mut Vec<String>) {
    let server = section.get("server");
    if let Some(spot) = section.get("group")
        && let Some(group) = line(&spot)
    {
        let group = group.to_lowercase();
        if server.is_none() && !matches!(group.as_str(), "alpha" | "beta" | "stable") {
            let hint = did_you_mean(&group, ["alpha", "beta", "stable"]).map(|text| format!("; {text}"));
            spot.warn(format!("the public servers have no group {group:?}{}", hint.unwrap_or_default()));
        }
        lines.push(format!("GROUP={group}"));
    }
    if let Some(spot) = server
        && let Some(url) = line(&spot)
    {
        // `disabled` and the like switch updates off; what looks like a URL must be one.
        if url.contains(':') && reqwest::Url::parse(&url).is_err() {
            spot.fault(format!("{url:?} is no URL"));
        }
        lines.push(format!("SERVER={url}"));
    }
}

/// What locksmith reads, in the order of the file.
const LOCKSMITH: [(&str, &str); 8] = [
    ("reboot_strategy", "REBOOT_STRATEGY"),
    ("window_start", "LOCKSMITHD_REBOOT_WINDOW_START"),
    ("window_length", "LOCKSMITHD_REBOOT_WINDOW_LENGTH"),
    ("group", "LOCKSMITHD_GROUP"),
    ("etcd_endpoints", "LOCKSMITHD_ENDPOINT"),
    ("etcd_cafile", "LOCKSMITHD_ETCD_CAFILE"),
    ("etcd_certfile", "LOCKSMITHD_ETCD_CERTFILE"),
    ("etcd_keyfile", "LOCKSMITHD_ETCD_KEYFILE"),
];

const STRATEGIES: [&str; 3] = ["etcd-lock", "off", "reboot"];

fn locksmith(section: &Section<'_>, lines: &mut Vec<String>) {
    for (key, variable) in LOCKSMITH {
        let Some(spot) = section.get(key) else { continue };
        let Some(text) = line(&spot) else { continue };
        let wrong = match key {
            "reboot_strategy" if !STRATEGIES.contains(&text.to_lowercase().as_str()) => {
                let hint =
                    did_you_mean(&text, STRATEGIES).map(|text| format!("; {text}")).unwrap_or_default();
                Some(format!("unknown strategy {text:?}; known are {}{hint}", STRATEGIES.join(", ")))
            }
            "window_start" if !is_window_start(&text) => {
                Some(format!("{text:?} is no start of a window, such as \"Thu 04:00\" or \"04:00\""))
            }
            "window_length" if !is_duration(&text) => Some(format!("{text:?} is no duration, such as 1h30m")),
            _ if text.contains(['"', '\\', '$', '`']) => {
                Some("it cannot hold quotes, backslashes or dollar signs".into())
            }
            _ => None,
        };
        if let Some(why) = wrong {
            spot.fault(why);
        }
        lines.push(format!("{variable}=\"{text}\""));
    }
    if section.get("window_start").is_some() != section.get("window_length").is_some() {
        section.spot.fault("window_start and window_length need each other");
    }
}

/// `[Day ]HH:MM`.
fn is_window_start(text: &str) -> bool {
    const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    let time = match text.split_once(' ') {
        Some((day, time)) if DAYS.contains(&day.to_lowercase().as_str()) => time,
        Some(_) => return false,
        None => text,
    };
    let below = |digits: &str, end: u32| {
        (1..=2).contains(&digits.len())
            && digits.bytes().all(|b| b.is_ascii_digit())
            && digits.parse::<u32>().is_ok_and(|n| n < end)
    };
    time.split_once(':')
        .is_some_and(|(hours, minutes)| below(hours, 24) && minutes.len() == 2 && below(minutes, 60))
}

/// A duration as Go writes them, not negative: numbers with units, or a plain 0.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return true;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        if number.parse::<f64>().is_err() || !matches!(unit, "ns" | "us" | "µs" | "ms" | "s" | "m" | "h") {
            return false;
        }
        rest = tail;
    }
    !text.is_empty() && text != "+"
}

/// The unit for the section `docker`.
pub(super) fn docker(section: &Section<'_>) -> Json {
    let mut flags = Vec::new();
    for spot in section.items("flags") {
        let Some(flag) = line(&spot) else { continue };
        if flag.contains(['"', '\\']) {
            spot.fault("a flag cannot hold quotes or backslashes");
        }
        flags.push(flag);
    }
    let mut dropins = Vec::new();
    if !flags.is_empty() {
        let contents = format!("[Service]\nEnvironment=\"DOCKER_OPTS={}\"\n", flags.join(" "));
        dropins.push(json!({ "name": "20-clct-docker.conf", "contents": contents }));
    }
    let mut unit = json!({ "name": "docker.service", "enabled": true });
    if !dropins.is_empty() {
        unit["dropins"] = dropins.into();
    }
    unit
}

/// An option of a service's program: its key, what it is, and the first and last version (major × 10 + minor) that has it.
type Known = (&'static str, Want, u64, u64);

const EVER: u64 = u64::MAX;

/// Options of etcd, in the order in which they are written.
const ETCD: &[Known] = &[
    ("name", Want::Text, 0, EVER),
    ("data_dir", Want::Text, 0, EVER),
    ("wal_dir", Want::Text, 0, EVER),
    ("snapshot_count", Want::Whole, 0, EVER),
    ("heartbeat_interval", Want::Whole, 0, EVER),
    ("election_timeout", Want::Whole, 0, EVER),
    ("enable_pprof", Want::Flag, 0, EVER),
    ("listen_peer_urls", Want::Text, 0, EVER),
    ("listen_client_urls", Want::Text, 0, EVER),
    ("max_snapshots", Want::Whole, 0, EVER),
    ("max_wals", Want::Whole, 0, EVER),
    ("cors", Want::Text, 0, EVER),
    ("initial_advertise_peer_urls", Want::Text, 0, EVER),
    ("initial_cluster", Want::Text, 0, EVER),
    ("initial_cluster_state", Want::Text, 0, EVER),
    ("initial_cluster_token", Want::Text, 0, EVER),
    ("advertise_client_urls", Want::Text, 0, EVER),
    ("discovery", Want::Text, 0, EVER),
    ("discovery_srv", Want::Text, 0, EVER),
    ("discovery_fallback", Want::Text, 0, EVER),
    ("discovery_proxy", Want::Text, 0, EVER),
    ("strict_reconfig_check", Want::Flag, 0, EVER),
    ("auto_compaction_retention", Want::Whole, 30, 32),
    ("auto_compaction_retention", Want::Text, 33, EVER),
    ("proxy", Want::Text, 0, EVER),
    ("proxy_failure_wait", Want::Whole, 0, EVER),
    ("proxy_refresh_interval", Want::Whole, 0, EVER),
    ("proxy_dial_timeout", Want::Whole, 0, EVER),
    ("proxy_write_timeout", Want::Whole, 0, EVER),
    ("proxy_read_timeout", Want::Whole, 0, EVER),
    ("ca_file", Want::Text, 0, EVER),
    ("cert_file", Want::Text, 0, EVER),
    ("key_file", Want::Text, 0, EVER),
    ("client_cert_auth", Want::Flag, 0, EVER),
    ("trusted_ca_file", Want::Text, 0, EVER),
    ("auto_tls", Want::Flag, 30, EVER),
    ("peer_ca_file", Want::Text, 0, EVER),
    ("peer_cert_file", Want::Text, 0, EVER),
    ("peer_key_file", Want::Text, 0, EVER),
    ("peer_client_cert_auth", Want::Flag, 0, EVER),
    ("peer_trusted_ca_file", Want::Text, 0, EVER),
    ("peer_auto_tls", Want::Flag, 30, EVER),
    ("debug", Want::Flag, 0, EVER),
    ("log_package_levels", Want::Text, 0, EVER),
    ("force_new_cluster", Want::Flag, 0, EVER),
    ("metrics", Want::Text, 31, EVER),
    ("log_output", Want::Text, 31, EVER),
    ("enable_v2", Want::Flag, 32, EVER),
    ("auth_token", Want::Text, 32, EVER),
    ("auto_compaction_mode", Want::Text, 33, EVER),
    ("client_crl_file", Want::Text, 33, EVER),
    ("peer_crl_file", Want::Text, 33, EVER),
    ("peer_cert_allowed_cn", Want::Text, 33, EVER),
    ("experimental_corrupt_check_time", Want::Text, 33, EVER),
    ("experimental_initial_corrupt_check", Want::Flag, 33, EVER),
    ("experimental_enable_v2v3", Want::Text, 33, EVER),
    ("grpc_keepalive_min_time", Want::Text, 33, EVER),
    ("grpc_keepalive_interval", Want::Text, 33, EVER),
    ("grpc_keepalive_timeout", Want::Text, 33, EVER),
    ("listen_metrics_urls", Want::Text, 33, EVER),
    ("max_request_bytes", Want::Whole, 33, EVER),
    ("max_txn_ops", Want::Whole, 33, EVER),
    ("quota_backend_bytes", Want::Whole, 33, EVER),
];

/// Options of flannel, likewise.
const FLANNEL: &[Known] = &[
    ("etcd_username", Want::Text, 6, EVER),
    ("etcd_password", Want::Text, 6, EVER),
    ("etcd_endpoints", Want::Text, 0, EVER),
    ("etcd_cafile", Want::Text, 0, EVER),
    ("etcd_certfile", Want::Text, 0, EVER),
    ("etcd_keyfile", Want::Text, 0, EVER),
    ("etcd_prefix", Want::Text, 0, EVER),
    ("ip_masq", Want::Text, 0, EVER),
    ("subnet_file", Want::Text, 0, EVER),
    ("interface", Want::Text, 0, EVER),
    ("public_ip", Want::Text, 0, EVER),
    ("kube_subnet_mgr", Want::Flag, 7, EVER),
];

/// A program that runs in a wrapper of Container Linux's, in a container of the wanted version.
struct Program {
    name: &'static str,
    unit: &'static str,
    dropin: &'static str,
    wrapper: &'static str,
    /// Variables of the image's tag and of more options.
    variables: (&'static str, &'static str),
    options: &'static [Known],
    oldest: Version,
    /// Taken if none is named.
    usual: Version,
    /// The newest whose options are known.
    newest: Version,
    /// The first major version that differs in all.
    end: u64,
}

/// The unit for the section `etcd`.
pub(super) fn etcd(section: &Section<'_>, dynamic: Dynamic<'_>) -> Json {
    let program = Program {
        name: "etcd",
        unit: "etcd-member.service",
        dropin: "20-clct-etcd-member.conf",
        wrapper: "/usr/lib/coreos/etcd-wrapper",
        variables: ("ETCD_IMAGE_TAG", "ETCD_OPTS"),
        options: ETCD,
        oldest: Version::new(2, 3, 0),
        usual: Version::new(3, 0, 0),
        newest: Version::new(3, 3, u64::MAX),
        end: 4,
    };
    program.unit(section, dynamic, |_, _| Vec::new())
}

/// The unit for the section `flannel`.
pub(super) fn flannel(section: &Section<'_>, dynamic: Dynamic<'_>) -> Json {
    let program = Program {
        name: "flannel",
        unit: "flanneld.service",
        dropin: "20-clct-flannel.conf",
        wrapper: "/usr/lib/coreos/flannel-wrapper",
        variables: ("FLANNEL_IMAGE_TAG", "FLANNEL_OPTS"),
        options: FLANNEL,
        oldest: Version::new(0, 5, 0),
        usual: Version::new(0, 6, 0),
        newest: Version::new(0, 7, u64::MAX),
        end: 1,
    };
    program.unit(section, dynamic, network_config)
}

/// The command that stores flannel's network before it starts.
fn network_config(section: &Section<'_>, expand: &mut dyn FnMut(&Spot<'_>) -> Option<String>) -> Vec<String> {
    let Some(spot) = section.get("network_config") else { return Vec::new() };
    let Some(text) = spot.text() else { return Vec::new() };
    if let Err(e) = serde_json::from_str::<Json>(&text) {
        spot.fault(format!("it must be JSON: {e}"));
    }
    if section.flag("kube_subnet_mgr") == Some(true) {
        spot.fault("it goes to etcd, which kube_subnet_mgr does without");
    }
    let mut command = String::from("ExecStartPre=/usr/bin/etcdctl");
    for (key, option) in [
        ("etcd_endpoints", "endpoints"),
        ("etcd_cafile", "ca-file"),
        ("etcd_certfile", "cert-file"),
        ("etcd_keyfile", "key-file"),
    ] {
        if let Some(value) = section.get(key).and_then(|spot| expand(&spot)).filter(|value| !value.is_empty())
        {
            command.push_str(&format!(" --{option}={}", quote(&value)));
        }
    }
    command.push_str(&format!(" set /coreos.com/network/config {}", quote(&text)));
    vec![command]
}

type Extra = fn(&Section<'_>, &mut dyn FnMut(&Spot<'_>) -> Option<String>) -> Vec<String>;

impl Program {
    fn unit(&self, section: &Section<'_>, dynamic: Dynamic<'_>, before: Extra) -> Json {
        let tag = section.get("version").and_then(|spot| self.version(&spot));
        let version = tag.clone().unwrap_or_else(|| self.usual.clone());
        let level = version.major * 10 + version.minor;
        let mut from_metadata = false;
        // The same option may be asked for twice, but is to be faulted once.
        let mut expand = |spot: &Spot<'_>, faults: bool| {
            let text = spot.text()?;
            match dynamic.expand(&text) {
                Ok(expanded) => {
                    from_metadata |= expanded.metadata;
                    Some(expanded.text)
                }
                Err(why) => {
                    if faults {
                        spot.fault(why);
                    }
                    None
                }
            }
        };
        let mut options = Vec::new();
        for &(key, want, since, until) in self.options {
            let Some(spot) = section.get(key) else { continue };
            if !(since..=until).contains(&level) {
                let elsewhere =
                    self.options.iter().any(|(k, _, s, u)| *k == key && (*s..=*u).contains(&level));
                if !elsewhere {
                    spot.warn(format!("{} {version} has no such option; it is left out", self.name));
                }
                continue;
            }
            let value = match want {
                Want::Flag => spot.flag().filter(|on| *on).map(|on| on.to_string()),
                Want::Whole => spot.whole().filter(|number| *number != 0).map(|number| number.to_string()),
                Want::Text | Want::Texts => {
                    expand(&spot, true).filter(|text| !text.is_empty()).map(|text| quote(&text))
                }
            };
            if let Some(value) = value {
                let option = if key == "interface" { "iface".to_owned() } else { key.replace('_', "-") };
                options.push(format!("--{option}={value}"));
            }
        }
        let before = before(section, &mut |spot| expand(spot, false));

        let mut text = String::new();
        if from_metadata {
            text.push_str(&format!("[Unit]\nRequires={0}\nAfter={0}\n\n", metadata::SERVICE));
        }
        text.push_str("[Service]\n");
        if from_metadata {
            text.push_str(&format!("EnvironmentFile={}\n", metadata::FILE));
        }
        if let Some(version) = tag {
            text.push_str(&format!("Environment=\"{}=v{version}\"\n", self.variables.0));
        }
        before.iter().for_each(|line| text.push_str(&format!("{line}\n")));
        text.push_str(&format!("ExecStart=\nExecStart={} ${}", self.wrapper, self.variables.1));
        options.iter().for_each(|option| text.push_str(&format!(" \\\n  {option}")));
        text.push('\n');
        json!({ "name": self.unit, "enabled": true, "dropins": [{ "name": self.dropin, "contents": text }] })
    }

    fn version(&self, spot: &Spot<'_>) -> Option<Version> {
        let text = spot.text()?;
        let Ok(version) = Version::parse(&text) else {
            spot.fault(format!("{text:?} is no version, such as {}", self.usual));
            return None;
        };
        if version < self.oldest {
            spot.fault(format!("{} {version} is too old; the oldest is {}", self.name, self.oldest));
        } else if version.major >= self.end {
            spot.fault(format!(
                "{} {version} is too new; the options of {} are not known",
                self.name, self.end
            ));
        } else if version > self.newest {
            let Version { major, minor, .. } = self.newest;
            spot.warn(format!(
                "the options of {} {version} are not known; those of {major}.{minor} are taken",
                self.name
            ));
        }
        Some(version)
    }
}

/// Quoted as systemd reads it (systemd.syntax(7)).
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_and_durations_are_told_from_others() {
        for good in ["04:00", "4:00", "23:59", "Thu 04:00", "sun 0:00"] {
            assert!(is_window_start(good), "{good}");
        }
        for bad in ["", "24:00", "4:60", "4:0", "04", "Thu", "Foo 04:00", "Thu  04:00", "+4:00", "04:00:00"] {
            assert!(!is_window_start(bad), "{bad}");
        }
        for good in ["0", "1h", "1h30m", "1.5h", "90s", "100ms", "+1h"] {
            assert!(is_duration(good), "{good}");
        }
        for bad in ["", "1", "-1h", "h", "1d", "1h30", "1 h", "+", "1..5h"] {
            assert!(!is_duration(bad), "{bad}");
        }
    }

    #[test]
    fn values_are_quoted() {
        assert_eq!(quote("a \"b\" \\ \n\t\u{1}\u{85}ü"), "\"a \\\"b\\\" \\\\ \\n\\t\\x01\\u0085ü\"");
    }
}
