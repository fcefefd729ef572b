//! `ore aws copy-image`, `delete-image`, `initialize`, `list` and `list-regions`.

use ::mantle::applet::Context;
use ::mantle::args;
use ::mantle::cloud::aws::Account;
use ::mantle::cloud::aws::failure::Error;
use ::mantle::cloud::aws::object::{Location, check_bucket, default_bucket};
use ::mantle::cloud::aws::{copy, images, initialize};
use ::mantle::error::{Result, Section as _, Stop, WrapErr as _, usage};
use ::mantle::output;
use clap::{Arg, ArgAction, ArgMatches, Command};
use color_eyre::eyre::Report;

use super::{api, explain, preflight};

/// Declares `copy-image`.
pub fn copy_command() -> Command {
    Command::new("copy-image")
        .about("Copy AWS image between regions")
        .long_about(
            "Copy an image to other regions, with its tags, those of its snapshot, and its launch permissions. A copy \
             that is there is completed. The result is a line of JSON: for each region the id of the copy. If a region \
             fails, the line has the others and the exit status is 1.",
        )
        .arg(Arg::new("image").long("image").value_name("AMI").help("Image to copy, in the region of --region"))
        .arg(Arg::new("regions").value_name("REGION").num_args(0..).help("Where to"))
}

/// Copies an image.
pub async fn copy(matches: &ArgMatches, account: &Account, context: &Context) -> Result<()> {
    let image = required(matches, "image", "ami-")?;
    let regions: Vec<String> = matches.get_many("regions").into_iter().flatten().cloned().collect();
    if regions.is_empty() {
        return Err(usage("Specify one or more regions."));
    }
    for (at, region) in regions.iter().enumerate() {
        if region.is_empty() {
            return Err(usage("a region's name is empty"));
        }
        if regions[..at].contains(region) {
            return Err(usage(format!("region {region} is named twice")));
        }
    }
    let not_itself = |source: &str| match regions.iter().any(|r| r == source) {
        true => Err(usage(format!("image {image} is in region {source} already"))),
        false => Ok(()),
    };
    account.region().map_or(Ok(()), not_itself)?;
    let api = api(account).await?;
    not_itself(api.region())?; // it may be the profile's
    preflight(&api).await?;
    let copies = copy::run(&api, &image, &regions, &context.cancel).await;
    let copies = copies.map_err(|e| match e.is_interruption() {
        true => explain(e),
        false => explain(e).wrap_err("Couldn't copy images"),
    })?;
    let mut made = serde_json::Map::new();
    let mut first: Option<(String, Error)> = None;
    for copied in copies {
        match copied.outcome {
            Ok(id) => {
                made.insert(copied.region, id.into());
            }
            Err(e) => {
                if !e.is_interruption() {
                    ::mantle::error!("ore", "{}: {}", copied.region, ::mantle::text::chain(&e));
                }
                first.get_or_insert((copied.region, e));
            }
        }
    }
    output::line(serde_json::Value::Object(made))?;
    match first {
        None => Ok(()),
        Some((_, e)) if e.is_interruption() => Err(Stop::Interrupted.into()),
        Some((region, e)) => Err(explain(e).wrap_err(format!("Couldn't copy images: {region}"))),
    }
}

/// The value of an option that must be given and begin with `prefix`.
fn required(matches: &ArgMatches, id: &str, prefix: &str) -> Result<String> {
    optional(matches, id, prefix)?.ok_or_else(|| usage(format!("--{id} is required")))
}

/// The value of an option that must begin with `prefix` if it is given; an empty one counts as absent.
fn optional(matches: &ArgMatches, id: &str, prefix: &str) -> Result<Option<String>> {
    let value = matches.get_one::<String>(id).filter(|v| !v.is_empty());
    match value {
        Some(value) if !value.starts_with(prefix) => {
            Err(usage(format!("--{id}={value} is no id: it does not begin with {prefix}")))
        }
        other => Ok(other.cloned()),
    }
}

/// Declares `delete-image`.
pub fn delete_command() -> Command {
    Command::new("delete-image")
        .about("Delete an image and its snapshot")
        .arg(Arg::new("ami").long("ami").value_name("AMI").help("Image to deregister"))
        .arg(Arg::new("snapshot").long("snapshot").value_name("SNAPSHOT").help("Snapshot to delete"))
        .arg(
            Arg::new("allow-missing")
                .long("allow-missing")
                .action(ArgAction::SetTrue)
                .help("What is not there is deleted"),
        )
}

/// Deletes an image, a snapshot or both.
pub async fn delete(matches: &ArgMatches, account: &Account) -> Result<()> {
    let image = optional(matches, "ami", "ami-")?;
    let snapshot = optional(matches, "snapshot", "snap-")?;
    if image.is_none() && snapshot.is_none() {
        return Err(usage("Specify --ami, --snapshot or both."));
    }
    let api = api(account).await?;
    preflight(&api).await?;
    let missing = args::flag(matches, "allow-missing");
    images::delete(&api, image.as_deref(), snapshot.as_deref(), missing).await.map_err(explain)
}

/// Declares `initialize`.
pub fn initialize_command() -> Command {
    Command::new("initialize").about("initialize any uncreated resources for a given AWS region").arg(
        Arg::new("bucket")
            .long("bucket")
            .value_name("BUCKET")
            .help("The bucket to import through, or its s3:// URL [default: coreos-dev-ami-import-<region>]"),
    )
}

/// Makes bucket and import role.
pub async fn initialize(matches: &ArgMatches, account: &Account) -> Result<()> {
    let named = matches.get_one::<String>("bucket").filter(|b| !b.is_empty());
    let named = named.map(|b| bucket(b)).transpose()?;
    let api = api(account).await?;
    preflight(&api).await?;
    let bucket = named.unwrap_or_else(|| default_bucket(api.region()));
    let done = initialize::run(&api, &bucket).await;
    done.map_err(|e| {
        let foreign = e.code() == Some("BucketAlreadyExists");
        let report = explain(e);
        if foreign {
            report.suggestion("another account has this bucket: pass another --bucket")
        } else {
            report
        }
    })
}

/// A bucket's name, from the name itself or from `s3://name/`.
fn bucket(text: &str) -> Result<String> {
    if !text.contains("://") {
        check_bucket(text).map_err(usage)?;
        return Ok(text.to_owned());
    }
    let location: Location = text.parse().map_err(|e: String| usage(e))?;
    if !location.key.is_empty() {
        return Err(usage(format!("{text} names more than a bucket")));
    }
    Ok(location.bucket)
}

/// Declares `list`.
pub fn list_command() -> Command {
    Command::new("list")
        .about("List what kola and ore made in a region")
        .long_about(
            "List the instances, key pairs, images and snapshots of the region that have the tag CreatedBy=mantle: kind, \
             id, time, state and name, with tabs between; \"kept\" at the end stands for the tag mantle:keep.",
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print one line of JSON, a list"))
}

/// Lists what is ours.
pub async fn list(matches: &ArgMatches, account: &Account) -> Result<()> {
    let api = api(account).await?;
    preflight(&api).await?;
    let listed = images::list(&api).await.map_err(explain).wrap_err("couldn't list")?;
    if args::flag(matches, "json") {
        return Ok(output::line(serde_json::to_string(&listed)?)?);
    }
    for item in listed {
        let images::Listed { kind, id, name, created, state, kept } = item;
        let kept = if kept { "\tkept" } else { "" };
        output::line(format_args!("{kind}\t{id}\t{created}\t{state}\t{name}{kept}"))?;
    }
    Ok(())
}

/// Declares `list-regions`.
pub fn list_regions_command() -> Command {
    let switch = |id: &'static str| Arg::new(id).long(id).action(ArgAction::SetTrue);
    Command::new("list-regions")
        .about("List the regions that this account can use")
        .arg(switch("disabled").help("List those that it cannot use yet"))
        .arg(switch("all").help("List both"))
}

/// Lists regions.
pub async fn list_regions(matches: &ArgMatches, account: &Account) -> Result<()> {
    let (disabled, all) = (args::flag(matches, "disabled"), args::flag(matches, "all"));
    if disabled && all {
        return Err(usage("--disabled and --all exclude each other"));
    }
    let api = api(account).await?;
    preflight(&api).await?;
    let regions =
        api.regions(disabled || all).await.map_err(Report::new).wrap_err("couldn't list regions")?;
    let mut names: Vec<_> =
        regions.into_iter().filter(|r| all || r.opted_in != disabled).map(|r| r.name).collect();
    names.sort_unstable();
    for name in names {
        output::line(name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_names_or_urls() {
        for (text, name) in [("images", "images"), ("s3://images", "images"), ("s3://images/", "images")] {
            assert_eq!(bucket(text).unwrap(), name);
        }
        for bad in ["im", "s3://images/x", "gs://images", "s3://", "a/b"] {
            assert!(bucket(bad).is_err(), "{bad}");
        }
    }
}
