//! Units of systemd and networkd; users and groups; where the config itself comes from.

use serde_json::{Map, Value as Json};

use super::reader::{Section, Spot, Want, put, put_filled};
use super::storage::resource;
use crate::conf::ignition::UNIT_KINDS;

type Object = Map<String, Json>;

pub(super) fn ignition(section: &Section<'_>) -> Object {
    let mut out = Object::new();
    let config = section.section("config", |s| {
        let mut out = Object::new();
        put_filled(&mut out, "append", s.each("append", |s| resource(s, "source")));
        put(&mut out, "replace", s.section("replace", |s| resource(s, "source")));
        out
    });
    put_filled(&mut out, "config", config.unwrap_or_default());
    let timeouts = section.section("timeouts", |s| {
        let mut out = Object::new();
        let fields = [
            ("http_response_headers", "httpResponseHeaders", Want::Whole),
            ("http_total", "httpTotal", Want::Whole),
        ];
        s.copy(&mut out, &fields);
        out
    });
    put_filled(&mut out, "timeouts", timeouts.unwrap_or_default());
    let tls = section.section("security", |s| {
        s.section("tls", |s| {
            let mut out = Object::new();
            let authorities = s.each("certificate_authorities", |s| resource(s, "source"));
            put_filled(&mut out, "certificateAuthorities", authorities);
            out
        })
    });
    if let Some(tls) = tls.flatten().filter(|tls| !tls.is_empty()) {
        out.insert("security".into(), serde_json::json!({ "tls": tls }));
    }
    out
}

pub(super) fn systemd(section: &Section<'_>) -> Vec<Json> {
    let unit = |s: &Section<'_>| {
        let mut out = Object::new();
        put(&mut out, "name", name(s, &UNIT_KINDS));
        let fields = [
            ("enable", "enable", Want::Flag),
            ("enabled", "enabled", Want::Flag),
            ("mask", "mask", Want::Flag),
        ];
        s.copy(&mut out, &fields);
        if let Some(spot) = s.get("enable") {
            spot.warn("enable is for old versions of Ignition; enabled replaces it");
        }
        put(&mut out, "contents", contents(s));
        let on = [out.get("enable"), out.get("enabled")].contains(&Some(&Json::Bool(true)));
        if let Some(text) = out.get("contents").and_then(Json::as_str)
            && on
            && !text.is_empty()
            && !text.lines().any(|line| line.trim() == "[Install]")
        {
            s.spot.warn("it is enabled, but has no section [Install], so that nothing starts it");
        }
        put_filled(&mut out, "dropins", s.each("dropins", dropin));
        Json::Object(out)
    };
    section.each("units", unit)
}

pub(super) fn networkd(section: &Section<'_>) -> Vec<Json> {
    let unit = |s: &Section<'_>| {
        let mut out = Object::new();
        put(&mut out, "name", name(s, &[".link", ".netdev", ".network"]));
        put(&mut out, "contents", contents(s));
        put_filled(&mut out, "dropins", s.each("dropins", dropin));
        Json::Object(out)
    };
    section.each("units", unit)
}

fn dropin(section: &Section<'_>) -> Object {
    let mut out = Object::new();
    put(&mut out, "name", name(section, &[".conf"]));
    put(&mut out, "contents", contents(section));
    out
}

/// The name, which ends in its kind.
fn name(section: &Section<'_>, kinds: &[&str]) -> Option<String> {
    let spot = section.required("name")?;
    let name = spot.text()?;
    if !kinds.iter().any(|kind| name.ends_with(kind)) {
        spot.fault(format!("{name:?} ends in none of {}", kinds.join(" ")));
    }
    if name.contains('/') {
        spot.fault("a name has no slash");
    }
    Some(name)
}

/// A unit file: sections, assignments, comments, continued lines (systemd.syntax(7)).
fn contents(section: &Section<'_>) -> Option<String> {
    let spot = section.get("contents")?;
    let text = spot.text()?;
    check_unit(&spot, &text);
    Some(text)
}

fn check_unit(spot: &Spot<'_>, text: &str) {
    let (mut in_section, mut continued) = (false, false);
    for (i, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        let comment = trimmed.starts_with(['#', ';']);
        if continued {
            continued = comment || trimmed.ends_with('\\');
            continue;
        }
        if trimmed.is_empty() || comment {
            continue;
        }
        if trimmed.starts_with('[') {
            in_section = true;
            if !trimmed.ends_with(']') {
                spot.fault(format!("line {} of it begins a section whose name does not end", i + 1));
            }
        } else if !trimmed.contains('=') {
            spot.fault(format!("line {} of it is neither a section nor an assignment", i + 1));
        } else if !in_section {
            spot.fault(format!("line {} of it assigns something outside of any section", i + 1));
        }
        continued = trimmed.ends_with('\\');
    }
}

/// Of users, both in themselves and in the old form `create`.
const ACCOUNT: &[(&str, &str, Want)] = &[
    ("uid", "uid", Want::Whole),
    ("gecos", "gecos", Want::Text),
    ("home_dir", "homeDir", Want::Text),
    ("no_create_home", "noCreateHome", Want::Flag),
    ("primary_group", "primaryGroup", Want::Text),
    ("groups", "groups", Want::Texts),
    ("no_user_group", "noUserGroup", Want::Flag),
    ("system", "system", Want::Flag),
    ("no_log_init", "noLogInit", Want::Flag),
    ("shell", "shell", Want::Text),
];

pub(super) fn passwd(section: &Section<'_>) -> Object {
    let mut out = Object::new();
    let user = |s: &Section<'_>| {
        let mut out = Object::new();
        put(&mut out, "name", s.required("name").and_then(|spot| spot.text()));
        let fields = [
            ("password_hash", "passwordHash", Want::Text),
            ("ssh_authorized_keys", "sshAuthorizedKeys", Want::Texts),
        ];
        s.copy(&mut out, &fields);
        let create = s.section("create", |s| {
            s.spot.warn("create is for old versions of Ignition; its keys belong to the user itself");
            let mut out = Object::new();
            s.copy(&mut out, ACCOUNT);
            out
        });
        s.copy(&mut out, ACCOUNT);
        if create.is_some() && ACCOUNT.iter().any(|(_, name, _)| out.contains_key(*name)) {
            s.spot.fault("create excludes keys of the same kind beside it");
        }
        put(&mut out, "create", create);
        Json::Object(out)
    };
    put_filled(&mut out, "users", section.each("users", user));
    let group = |s: &Section<'_>| {
        let mut out = Object::new();
        put(&mut out, "name", s.required("name").and_then(|spot| spot.text()));
        let fields = [
            ("gid", "gid", Want::Whole),
            ("password_hash", "passwordHash", Want::Text),
            ("system", "system", Want::Flag),
        ];
        s.copy(&mut out, &fields);
        Json::Object(out)
    };
    put_filled(&mut out, "groups", section.each("groups", group));
    out
}
