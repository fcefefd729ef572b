//! What a channel table must fulfil beyond its syntax.

use std::collections::{BTreeMap, BTreeSet};

use super::table::{Aws, Azure, Channel, Destination, Distribution, Downloads, Gce};
use super::{Distributions, fill};
use crate::cloud::google::storage::Location;

/// The first thing that is wrong: its place, and what.
pub(super) type Finding = (String, String);
type Verdict = Result<(), Finding>;

/// The stand-in for the user's name.
pub(super) const USER: &str = "$USER";

pub(super) fn table(distributions: &Distributions) -> Verdict {
    if distributions.is_empty() {
        return Err(("distributions".into(), "there is none".into()));
    }
    for (name, distribution) in distributions {
        self::distribution(distribution)
            .map_err(|(place, why)| (format!("distribution {name}, {place}"), why))?;
    }
    Ok(())
}

fn wrong<T>(field: impl Into<String>, why: impl Into<String>) -> Result<T, Finding> {
    Err((field.into(), why.into()))
}

fn distribution(d: &Distribution) -> Verdict {
    text("title", &d.title)?;
    names("cloud-boards", &d.cloud_boards)?;
    if let Some(manifest) = &d.manifest {
        url("manifest.url", &manifest.url, &["https", "http"], &[])?;
        text("manifest.branch", &manifest.branch)?;
    }
    if let Some(server) = &d.update_server {
        url("update-server", server, &["https", "http"], &[])?;
    }
    if let Some(downloads) = &d.downloads {
        self::downloads(downloads)?;
    }
    if d.channels.is_empty() {
        return wrong("channels", "there is none");
    }
    for (name, channel) in &d.channels {
        let within = |(place, why): Finding| (format!("channel {name}, {place}"), why);
        component("name", name).and_then(|()| self::channel(channel)).map_err(within)?;
        if d.no_destinations.is_some() && !channel.destinations.is_empty() {
            return wrong("no-destinations", format!("channel {name} has destinations"));
        }
    }
    Ok(())
}

fn downloads(d: &Downloads) -> Verdict {
    let at = |field: &str| format!("downloads.{field}");
    text(&at("domain"), &d.domain)?;
    component(&at("prefix"), &d.prefix)?;
    names(&at("boards"), &d.boards)?;
    names(&at("channels"), &d.channels)?;
    if let Some(stray) = d.stream_channels.iter().find(|c| !d.channels.contains(c)) {
        return wrong(at("stream-channels"), format!("{stray:?} is not among the channels"));
    }
    let schemes = ["gs", "https", "http"];
    url(&at("root"), &d.root, &schemes, &["channel", "board", "version"])?;
    url(&at("default-root"), &d.default_root, &schemes, &["board"])?;
    component(&at("sdk.name"), &d.sdk.name)?;
    placeholders(&at("sdk.name"), &d.sdk.name, &["arch", "version"])?;
    url(&at("sdk.url"), &d.sdk.url, &schemes, &[])?;
    for (name, files) in &d.platforms {
        let field = at(&format!("platforms.{name}"));
        component(&field, name)?;
        if files.is_empty() || files.iter().any(Vec::is_empty) {
            return wrong(field, "there is no file");
        }
        files.iter().flatten().try_for_each(|suffix| component(&field, suffix))?;
    }
    Ok(())
}

fn channel(c: &Channel) -> Verdict {
    let source = c.source.replace(USER, "user");
    url("source", &source, &["gs", "https", "http"], &["board", "arch", "version"])?;
    if !source.contains("{version}") || !(source.contains("{board}") || source.contains("{arch}")) {
        return wrong("source", "it lacks {version}, or {board} or {arch}");
    }
    names("boards", &c.boards)?;
    component("complete", &c.complete)?;
    c.gce.as_ref().map_or(Ok(()), |gce| self::gce(gce, c))?;
    c.azure.as_ref().map_or(Ok(()), azure)?;
    c.aws.as_ref().map_or(Ok(()), |aws| self::aws(aws, c))?;
    if let Some(metadata) = &c.metadata {
        let simple = metadata.simplestreams.as_ref();
        let releases = metadata.releases.as_ref();
        let files = simple.into_iter().flat_map(|s| [&s.index, &s.products]).chain(&metadata.stream);
        let files = files.chain(releases.map(|r| &r.file)).chain(&metadata.build);
        let mut seen = BTreeSet::new();
        for name in files {
            component("metadata", name)?;
            if !seen.insert(name) {
                return wrong("metadata", format!("{name:?} is to have two contents"));
            }
        }
        if let Some(releases) = releases {
            if metadata.build.is_none() {
                return wrong("metadata.releases", "it needs metadata.build");
            }
            let schemes = ["gs", "https", "http"];
            url("metadata.releases.index", &releases.index, &schemes, &["channel"])?;
            url("metadata.releases.release", &releases.release, &schemes, &["channel", "version"])?;
        }
        simple.map_or(Ok(()), |s| text("metadata.simplestreams.content-id", &s.content_id))?;
    }
    let mut seen = BTreeSet::new();
    for (at, destination) in c.destinations.iter().enumerate() {
        let within = |(field, why): Finding| (format!("destinations[{at}].{field}"), why);
        self::destination(destination).map_err(within)?;
        if !seen.insert(destination.url.strip_suffix('/').unwrap_or(&destination.url)) {
            return wrong(format!("destinations[{at}].url"), "the same destination again");
        }
    }
    Ok(())
}

fn gce(gce: &Gce, channel: &Channel) -> Verdict {
    for (field, value) in
        [("gce.project", &gce.project), ("gce.family", &gce.family), ("gce.description", &gce.description)]
    {
        text(field, value)?;
    }
    gce.licenses.iter().try_for_each(|l| text("gce.licenses", l))?;
    gce.protected.iter().try_for_each(|name| text("gce.protected", name))?;
    image("gce.image", &gce.image)?;
    component("gce.publish", &gce.publish)?;
    suffixes("gce.board-suffixes", &gce.board_suffixes, channel)
}

fn azure(azure: &Azure) -> Verdict {
    image("azure.image", &azure.image)?;
    text("azure.account", &azure.account)?;
    text("azure.container", &azure.container)?;
    component("azure.blob", &azure.blob)?;
    placeholders("azure.blob", &azure.blob, &["channel", "arch", "version"])?;
    if !azure.blob.contains("{version}") || !azure.blob.ends_with(".vhd") {
        return wrong("azure.blob", "it lacks {version}, or does not end with .vhd");
    }
    azure.resource_group.as_ref().map_or(Ok(()), |g| text("azure.resource-group", g))?;
    let Some(classic) = &azure.classic else { return Ok(()) };
    for (field, value) in [
        ("offer", &classic.offer),
        ("label", &classic.label),
        ("family", &classic.family),
        ("description", &classic.description),
        ("recommended-size", &classic.recommended_size),
        ("icon", &classic.icon),
        ("small-icon", &classic.small_icon),
    ] {
        text(&format!("azure.classic.{field}"), value)?;
    }
    let mut seen = BTreeSet::new();
    for (at, environment) in classic.environments.iter().enumerate() {
        let field = format!("azure.classic.environments[{at}]");
        text(&format!("{field}.subscription"), &environment.subscription)?;
        if !seen.insert(&environment.subscription) {
            return wrong(format!("{field}.subscription"), "the same subscription again");
        }
        environment
            .extra_containers
            .iter()
            .try_for_each(|c| text(&format!("{field}.extra-containers"), c))?;
    }
    if seen.is_empty() {
        return wrong("azure.classic.environments", "there is none");
    }
    Ok(())
}

fn aws(aws: &Aws, channel: &Channel) -> Verdict {
    text("aws.name", &aws.name)?;
    text("aws.description", &aws.description)?;
    image("aws.image", &aws.image)?;
    component("aws.list-prefix", &aws.list_prefix)?;
    suffixes("aws.board-suffixes", &aws.board_suffixes, channel)?;
    for (region, kernel) in &aws.pv_kernels {
        if !kernel.starts_with("aki-") {
            return wrong(format!("aws.pv-kernels.{region}"), format!("{kernel:?} is no kernel's id"));
        }
    }
    if aws.partitions.is_empty() {
        return wrong("aws.partitions", "there is none");
    }
    let mut regions = BTreeSet::new();
    for (at, partition) in aws.partitions.iter().enumerate() {
        let field = |name: &str| format!("aws.partitions[{at}].{name}");
        for (name, value) in
            [("name", &partition.name), ("profile", &partition.profile), ("bucket", &partition.bucket)]
        {
            text(&field(name), value)?;
        }
        for account in &partition.launch_permissions {
            if account.is_empty() || !account.bytes().all(|b| b.is_ascii_digit()) {
                return wrong(field("launch-permissions"), format!("{account:?} is no account number"));
            }
        }
        for region in &partition.regions {
            component(&field("regions"), region)?;
            if !regions.insert(region) {
                return wrong(field("regions"), format!("{region} is listed twice"));
            }
        }
        if !partition.regions.contains(&partition.bucket_region) {
            let why = format!("BucketRegion {} is not listed in Regions", partition.bucket_region);
            return wrong(field("bucket-region"), why);
        }
    }
    Ok(())
}

fn destination(d: &Destination) -> Verdict {
    let url = d.url.replace(USER, "user");
    if let Err(e) = Location::prefix(&url) {
        return wrong("url", e.to_string());
    }
    placeholders("url", &url, &[])?;
    d.title.as_ref().map_or(Ok(()), |t| text("title", t))?;
    component("named-path", &d.named_path)
}

fn suffixes(field: &str, suffixes: &BTreeMap<String, String>, channel: &Channel) -> Verdict {
    match suffixes.keys().find(|board| !channel.boards.contains(board)) {
        Some(stray) => wrong(field, format!("{stray:?} is not among the boards")),
        None => suffixes.values().try_for_each(|suffix| component(field, suffix)),
    }
}

fn text(field: &str, value: &str) -> Verdict {
    if value.trim().is_empty() {
        return wrong(field, "it is empty");
    }
    if value.chars().any(char::is_control) {
        return wrong(field, "it has control characters");
    }
    Ok(())
}

/// The name of an image file.
fn image(field: &str, value: &str) -> Verdict {
    component(field, value)?;
    placeholders(field, value, &["arch", "version"])
}

/// What can stand between two slashes.
fn component(field: &str, value: &str) -> Verdict {
    text(field, value)?;
    match super::is_component(value) {
        true => Ok(()),
        false => wrong(field, format!("{value:?} cannot name a file or folder")),
    }
}

fn names(field: &str, values: &[String]) -> Verdict {
    if values.is_empty() {
        return wrong(field, "there is none");
    }
    let mut seen = BTreeSet::new();
    for value in values {
        component(field, value)?;
        if !seen.insert(value) {
            return wrong(field, format!("{value:?} is listed twice"));
        }
    }
    Ok(())
}

fn url(field: &str, value: &str, schemes: &[&str], filled: &[&str]) -> Verdict {
    text(field, value)?;
    placeholders(field, value, filled)?;
    let sample: Vec<(&str, &str)> = filled.iter().map(|name| (*name, "x")).collect();
    let sample = fill(value, &sample);
    let scheme = sample.split("://").next().unwrap_or_default();
    if !schemes.contains(&scheme) || reqwest::Url::parse(&sample).is_ok_and(|u| !u.has_host()) {
        return wrong(field, format!("{value:?} does not begin with {}://", schemes.join(":// or ")));
    }
    match reqwest::Url::parse(&sample) {
        Ok(_) => Ok(()),
        Err(e) => wrong(field, format!("{value:?} is no URL: {e}")),
    }
}

/// Only known names may stand in braces; `$` is for the user's name alone, which has been taken out already.
fn placeholders(field: &str, value: &str, known: &[&str]) -> Verdict {
    let rest = fill(value, &known.iter().map(|name| (*name, "")).collect::<Vec<_>>());
    match rest.find(['{', '}', '$']) {
        Some(at) => {
            let word: String = rest[at..].chars().take(12).collect();
            wrong(field, format!("nothing is known to put in for {word:?}"))
        }
        None => Ok(()),
    }
}
