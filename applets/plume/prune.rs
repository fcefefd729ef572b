//! `plume prune`: images of old releases.

use std::time::Duration;

use ::mantle::applet::Context;
use ::mantle::args;
use ::mantle::cloud::aws::Account;
use ::mantle::cloud::aws::api::Api;
use ::mantle::cloud::aws::released::Collector;
use ::mantle::cloud::gc::{self, Plan};
use ::mantle::error::{Result, Section as _, Stop, WrapErr as _, eyre, usage};
use ::mantle::release::user;
use ::mantle::{info, output};
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint};
use serde_json::Value;

use crate::{downloads, plans};

/// Seconds of a day.
const DAY: u64 = 24 * 60 * 60;

/// The subcommand.
pub fn command() -> Command {
    let option = |id: &'static str, value: &'static str| Arg::new(id).long(id).value_name(value);
    let file = |id: &'static str| {
        option(id, "FILE").value_parser(args::path_parser()).value_hint(ValueHint::FilePath)
    };
    Command::new("prune")
        .about("Prune old release images")
        .long_about(
            "Remove the images of old releases of a channel from Amazon EC2, in all regions that the channel table names, \
             public ones too, with the snapshots that they were made of. An image is of a release if plume made it: it \
             has the tags Channel, Version and CreatedBy=mantle. Those with the tag mantle:keep stay, and so do the \
             newest versions, however old they are. With --days-last-launched those stay, too, that machines were \
             started of lately; EC2 needs a day to tell.\n\n\
             --dry-run prints a line of JSON for each region; --apply carries out what such lines name, as far as it \
             still may be removed. Images of Compute Engine are kept by number as each release is published; blobs at \
             Azure stay.",
        )
        .arg(
            option("channel", "CHANNEL")
                .short('C')
                .default_value("user")
                .value_parser(args::Choices(super::channels))
                .help("Channel of the table, or another of --channels"),
        )
        .arg(
            option("days", "DAYS")
                .value_parser(clap::value_parser!(u32))
                .default_value("30")
                .conflicts_with("apply")
                .help("How many days old images must be"),
        )
        .arg(
            option("keep-last", "NUMBER")
                .value_parser(clap::value_parser!(u32))
                .default_value("1")
                .help("How many of the newest versions stay, however old"),
        )
        .arg(
            option("days-last-launched", "DAYS")
                .value_parser(clap::value_parser!(u32))
                .help("Keep images that machines were started of within so many days; give it with --apply, too"),
        )
        .arg(file("aws-credentials").help("AWS credentials file [default: as the AWS CLI does]"))
        .arg(
            Arg::new("dry-run")
                .short('n')
                .long("dry-run")
                .action(ArgAction::SetTrue)
                .conflicts_with("apply")
                .help("Print what would be removed, as lines of JSON, and remove nothing"),
        )
        .arg(file("apply").help(
            "Remove what a plan of --dry-run names, as far as it still may be removed; - is standard input",
        ))
}

/// Removes what is old.
pub async fn run(matches: &ArgMatches, context: &Context) -> Result<()> {
    let table = super::table(matches)?;
    let distribution = super::distribution(&table, matches)?;
    let name = super::text(matches, "channel").unwrap_or_default();
    let channel = distribution.channel(name, user().as_deref()).map_err(super::explain)?;
    let facts = channel.aws.ok_or_else(|| usage(format!("channel {name} is not released to Amazon EC2")))?;
    let number = |id: &str| matches.get_one::<u32>(id).copied().unwrap_or_default();
    let age = chrono::TimeDelta::from_std(Duration::from_secs(u64::from(number("days")) * DAY))?;
    let used = matches.get_one::<u32>("days-last-launched");
    let used = used
        .map(|days| chrono::TimeDelta::from_std(Duration::from_secs(u64::from(*days) * DAY)))
        .transpose()?;
    let unused_since = used.map(|age| chrono::Utc::now() - age);
    let (before, keep) = (chrono::Utc::now() - age, number("keep-last") as usize);
    let mut earlier = downloads::path(matches, "apply").map(|file| read(&file)).transpose()?;
    let mut failed = Vec::new();
    for partition in &facts.partitions {
        let account = Account {
            aws_region: Some(partition.bucket_region.clone()),
            aws_profile: Some(partition.profile.clone()),
            aws_credentials_file: downloads::path(matches, "aws-credentials"),
            ..Account::default()
        };
        let api = Api::new(&account)
            .await
            .wrap_err_with(|| format!("could not create AWS client of {}", partition.name))?;
        let who = context.cancel.run_until_cancelled(api.caller()).await.ok_or(Stop::Interrupted)?;
        let who = who.wrap_err_with(|| format!("could not use the account of {}", partition.name))?;
        for region in &partition.regions {
            let there = api.in_region(region)?;
            let cloud = Collector::new(there, who.account.clone(), name, keep).unused_since(unused_since);
            let outcome = match &mut earlier {
                Some(plans) => {
                    let is_here = |p: &Plan| p.scope.iter().any(|(n, v)| n == "region" && v == region);
                    let Some(at) = plans.iter().position(is_here) else { continue };
                    gc::apply(&cloud, &plans.remove(at), &context.cancel)
                        .await
                        .map_err(|e| explain(e, region))?
                }
                None => {
                    let plan =
                        gc::plan(&cloud, before, &context.cancel).await.map_err(|e| explain(e, region))?;
                    if args::flag(matches, "dry-run") {
                        output::line(serde_json::to_string(&plan)?)?;
                        continue;
                    }
                    gc::execute(&cloud, &plan, &context.cancel).await
                }
            };
            info!("plume", "{region}: {} removed", outcome.removed.len());
            let cancelled = context.cancel.is_cancelled();
            let what = format!("Couldn't prune {region}");
            let reported = plans::report(
                "plume",
                &what,
                outcome,
                cancelled,
                |e: &::mantle::cloud::aws::failure::Error| e.is_interruption(),
            );
            match reported {
                Err(e) if e.downcast_ref::<Stop>().is_some() => return Err(e),
                Err(e) => failed.push(e.to_string()),
                Ok(()) => {}
            }
        }
    }
    if let Some(plan) = earlier.into_iter().flatten().next() {
        let scope = plan.scope.iter().map(|(n, v)| format!("{n} {v}")).collect::<Vec<_>>().join(", ");
        return Err(eyre!("the plan is for {scope}, to which channel {name} is not released"));
    }
    if failed.is_empty() { Ok(()) } else { Err(eyre!(failed.join("\n"))) }
}

/// Reads plans, a line each.
fn read(path: &std::path::Path) -> Result<Vec<Plan>> {
    let text = plans::read(path)?;
    let lines = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let plans = lines.map(|line| line.and_then(serde_json::from_value));
    plans
        .collect::<serde_json::Result<_>>()
        .wrap_err_with(|| format!("{} has no plans of plume prune", path.display()))
}

fn explain(error: gc::Error<::mantle::cloud::aws::failure::Error>, region: &str) -> color_eyre::eyre::Report {
    let interrupted = match &error {
        gc::Error::Interrupted => true,
        gc::Error::Cloud(e) => e.is_interruption(),
        _ => false,
    };
    match interrupted {
        true => Stop::Interrupted.into(),
        false => eyre!(error)
            .wrap_err(format!("Couldn't prune {region}"))
            .suggestion("`plume prune --dry-run` makes a plan for this channel and its regions"),
    }
}
