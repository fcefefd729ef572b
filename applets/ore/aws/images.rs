//! `ore aws copy-image`, `delete-image`, `initialize`, `list` and `list-regions`.

use ::mantle::applet::Context;
use ::mantle::cloud::aws::failure::Error;
use ::mantle::cloud::aws::object::{check_bucket, default_bucket, location};
use ::mantle::cloud::aws::{copy, images, initialize};
use ::mantle::error::{Result, Stop, WrapErr as _, usage};
use ::mantle::output;
use ::mantle::text::chain;
use clap::Parser;
use color_eyre::eyre::Report;

use super::Options;
use crate::ore::group::{Account as _, Explain as _, Json, Verb, given};

#[derive(Parser)]
#[command(
    name = "copy-image",
    about = "Copy AWS image between regions",
    long_about = "Copy an image to other regions, with its tags, those of its snapshot, and its launch permissions. A \
        copy that is there is completed. The result is a line of JSON: for each region the id of the copy. If a region \
        fails, the line has the others and the exit status is 1."
)]
pub struct Copy {
    /// Image to copy, in the region of --region
    #[arg(long, value_name = "AMI")]
    image: Option<String>,

    /// Where to
    #[arg(value_name = "REGION")]
    regions: Vec<String>,
}

impl Verb for Copy {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let image = id("image", self.image, "ami-")?.ok_or_else(|| usage("--image is required"))?;
        let regions = self.regions;
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
        let api = account.api().await?;
        not_itself(api.region())?; // it may be the profile's
        account.preflight(&api, context).await?;
        let copies = copy::run(&api, &image, &regions, &context.cancel).await;
        let copies = copies.map_err(|e| e.explain("Couldn't copy images"))?;
        let mut made = serde_json::Map::new();
        let mut first: Option<(String, Error)> = None;
        for copied in copies {
            match copied.outcome {
                Ok(id) => {
                    made.insert(copied.region, id.into());
                }
                Err(e) => {
                    if !e.is_interruption() {
                        ::mantle::error!("ore", "{}: {}", copied.region, chain(&e));
                    }
                    first.get_or_insert((copied.region, e));
                }
            }
        }
        output::line(serde_json::Value::Object(made))?;
        match first {
            None => Ok(()),
            Some((_, e)) if e.is_interruption() => Err(Stop::Interrupted.into()),
            Some((region, e)) => Err(e.explain(&format!("Couldn't copy images: {region}"))),
        }
    }
}

/// The value of an option that must begin with `prefix` if it is given; an empty one counts as absent.
fn id(option: &str, value: Option<String>, prefix: &str) -> Result<Option<String>> {
    match given(value) {
        Some(value) if !value.starts_with(prefix) => {
            Err(usage(format!("--{option}={value} is no id: it does not begin with {prefix}")))
        }
        other => Ok(other),
    }
}

#[derive(Parser)]
#[command(name = "delete-image", about = "Delete an image and its snapshot")]
pub struct Delete {
    /// Image to deregister
    #[arg(long, value_name = "AMI")]
    ami: Option<String>,

    /// Snapshot to delete
    #[arg(long, value_name = "SNAPSHOT")]
    snapshot: Option<String>,

    /// What is not there is deleted
    #[arg(long)]
    allow_missing: bool,
}

impl Verb for Delete {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let (image, snapshot) = (id("ami", self.ami, "ami-")?, id("snapshot", self.snapshot, "snap-")?);
        if image.is_none() && snapshot.is_none() {
            return Err(usage("Specify --ami, --snapshot or both."));
        }
        let api = account.sign_in_to_remove(context).await?;
        let deleted = images::delete(&api, image.as_deref(), snapshot.as_deref(), self.allow_missing).await;
        deleted.map_err(|e| e.explain(""))
    }
}

#[derive(Parser)]
#[command(name = "initialize", about = "initialize any uncreated resources for a given AWS region")]
pub struct Initialize {
    /// The bucket to import through, or its s3:// URL [default: coreos-dev-ami-import-<region>]
    #[arg(long, value_name = "BUCKET")]
    bucket: Option<String>,
}

impl Verb for Initialize {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let named = given(self.bucket).map(|b| bucket(&b)).transpose()?;
        let api = account.sign_in(context).await?;
        let bucket = named.unwrap_or_else(|| default_bucket(api.region()));
        initialize::run(&api, &bucket).await.map_err(|e| e.explain(""))
    }
}

/// A bucket's name, from the name itself or from `s3://name/`.
fn bucket(text: &str) -> Result<String> {
    if !text.contains("://") {
        check_bucket(text).map_err(usage)?;
        return Ok(text.to_owned());
    }
    let location = location(text).map_err(usage)?;
    if !location.name.is_empty() {
        return Err(usage(format!("{text} names more than a bucket")));
    }
    Ok(location.bucket)
}

#[derive(Parser)]
#[command(
    name = "list",
    about = "List what kola and ore made in a region",
    long_about = "List the instances, key pairs, images and snapshots of the region that have the tag \
        CreatedBy=mantle: kind, id, time, state and name, with tabs between; \"kept\" at the end stands for the tag \
        mantle:keep."
)]
pub struct List {
    #[command(flatten)]
    output: Json,
}

impl Verb for List {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let api = account.sign_in(context).await?;
        let listed = images::list(&api).await.map_err(|e| e.explain("couldn't list"))?;
        if self.output.json {
            return Ok(output::line(serde_json::to_string(&listed)?)?);
        }
        for item in listed {
            let images::Listed { kind, id, name, created, state, kept } = item;
            let kept = if kept { "\tkept" } else { "" };
            output::line(format_args!("{kind}\t{id}\t{created}\t{state}\t{name}{kept}"))?;
        }
        Ok(())
    }
}

#[derive(Parser)]
#[command(name = "list-regions", about = "List the regions that this account can use")]
pub struct ListRegions {
    /// List those that it cannot use yet
    #[arg(long, conflicts_with = "all")]
    disabled: bool,

    /// List both
    #[arg(long)]
    all: bool,
}

impl Verb for ListRegions {
    type Account = Options;

    async fn run(self, account: Options, context: &Context) -> Result<()> {
        let Self { disabled, all } = self;
        let api = account.sign_in(context).await?;
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
