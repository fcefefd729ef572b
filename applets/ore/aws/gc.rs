//! `ore aws gc`.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use ::mantle::applet::Context;
use ::mantle::args;
use ::mantle::cloud::aws::Account;
use ::mantle::cloud::aws::gc::{Outcome, Plan, apply, execute, plan};
use ::mantle::error::{Result, Stop, WrapErr as _, eyre, usage};
use ::mantle::ledger;
use ::mantle::platform::aws::leftovers;
use ::mantle::text::chain;
use ::mantle::{info, output};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint};

use super::{api, explain, preflight, unless_cancelled};

/// Longer plans are refused; one of 10 000 machines has 2 MB.
const MAX_PLAN: u64 = 64 << 20;

/// Declares the command.
pub fn command() -> Command {
    Command::new("gc")
        .about("GC resources in AWS")
        .long_about(
            "Terminate the instances of the region that have the tag CreatedBy=mantle and were started long enough ago, \
             and remove the parts of image uploads that were given up on this computer. Instances with the tag \
             mantle:keep stay. Images, snapshots, volumes, networks, security groups, roles, keys and buckets are never \
             touched.",
        )
        .arg(
            Arg::new("duration")
                .long("duration")
                .value_name("DURATION")
                .value_parser(args::parse_duration)
                .default_value("5h0m0s")
                .help("How old resources must be before they're considered garbage"),
        )
        .arg(
            Arg::new("dry-run")
                .long("dry-run")
                .action(ArgAction::SetTrue)
                .help("Print what would be removed, as a line of JSON, and remove nothing"),
        )
        .arg(
            Arg::new("ledger")
                .long("ledger")
                .value_name("DIR")
                .value_parser(args::path_parser())
                .value_hint(ValueHint::DirPath)
                .help("Remove what the record of a run of kola in this folder names, whatever its age, and nothing else"),
        )
        .arg(
            Arg::new("apply")
                .long("apply")
                .value_name("FILE")
                .value_parser(args::path_parser())
                .value_hint(ValueHint::FilePath)
                .help("Remove what a plan of --dry-run names, as far as it still may be removed; - is standard input"),
        )
}

/// Removes what is left over.
pub async fn run(matches: &ArgMatches, account: &Account, context: &Context) -> Result<()> {
    let dry_run = args::flag(matches, "dry-run");
    let file = crate::downloads::path(matches, "apply");
    if dry_run && file.is_some() {
        return Err(usage("--dry-run and --apply exclude each other"));
    }
    if file.is_some() && matches.value_source("duration").is_some_and(|s| s == ValueSource::CommandLine) {
        return Err(usage("--duration and --apply exclude each other: the plan says how old things must be"));
    }
    if let Some(dir) = crate::downloads::path(matches, "ledger") {
        if dry_run || file.is_some() {
            return Err(usage("--ledger excludes --dry-run and --apply"));
        }
        return recorded(&dir, account, context).await;
    }
    let earlier = file.as_deref().map(read).transpose()?;
    let api = api(account).await?;
    let number = unless_cancelled(context, preflight(&api)).await?;
    let outcome = match earlier {
        Some(plan) => {
            apply(&api, &number, &plan, &context.cancel).await.map_err(explain).wrap_err("Couldn't gc")?
        }
        None => {
            let older = matches.get_one::<Duration>("duration").copied().unwrap_or_default();
            let age = chrono::TimeDelta::from_std(older).map_err(|e| usage(format!("--duration: {e}")))?;
            let made = unless_cancelled(context, async {
                let before = chrono::Utc::now() - age;
                plan(&api, &number, before).await.map_err(explain).wrap_err("Couldn't gc")
            });
            let made = made.await?;
            if dry_run {
                return Ok(output::line(serde_json::to_string(&made)?)?);
            }
            execute(&api, &made, &context.cancel).await
        }
    };
    report(outcome)
}

/// Removes what the ledger of a run names and never struck, newest first.
async fn recorded(dir: &Path, account: &Account, context: &Context) -> Result<()> {
    let api = api(account).await?;
    unless_cancelled(context, preflight(&api)).await?;
    let tell = |resource: &ledger::Resource, done: std::result::Result<(), &ledger::Leftover>| match done {
        Ok(()) => info!("ore", "removed {resource}"),
        Err(leftover) => ::mantle::error!("ore", "{leftover}"),
    };
    let ours = |r: &ledger::Resource| r.platform == "aws";
    let cleaned = ledger::clean_up(dir, ours, &leftovers(api), &context.cancel, tell)
        .await
        .wrap_err_with(|| format!("cannot read the record of resources in {}", dir.display()))?;
    match cleaned.left.len() {
        _ if cleaned.interrupted => Err(Stop::Interrupted.into()),
        0 => Ok(()),
        n => Err(eyre!("Couldn't gc: {n} of {} could not be removed", n + cleaned.removed)),
    }
}

/// Says what came of it, an item a line.
fn report(outcome: Outcome) -> Result<()> {
    for item in &outcome.removed {
        info!("ore", "removed {item}");
    }
    for (item, why) in &outcome.spared {
        info!("ore", "spared {item}: {why}");
    }
    let (all, failed) = (outcome.removed.len() + outcome.failed.len(), outcome.failed.len());
    let mut interrupted = false;
    for (item, error) in &outcome.failed {
        if error.is_interruption() {
            interrupted = true;
        } else {
            ::mantle::error!("ore", "{item} could not be removed: {}", chain(error));
        }
    }
    match failed {
        0 => Ok(()),
        _ if interrupted => Err(Stop::Interrupted.into()),
        _ => Err(eyre!("Couldn't gc: {failed} of {all} could not be removed")),
    }
}

/// Reads a plan.
fn read(path: &Path) -> Result<Plan> {
    let open = || -> std::io::Result<Box<dyn std::io::Read>> {
        if path == Path::new("-") {
            return Ok(Box::new(std::io::stdin().lock()));
        }
        Ok(Box::new(std::fs::File::open(path)?))
    };
    let mut text = String::new();
    let failed = || format!("cannot read the plan {}", path.display());
    open().and_then(|f| f.take(MAX_PLAN + 1).read_to_string(&mut text)).wrap_err_with(failed)?;
    if text.len() as u64 > MAX_PLAN {
        return Err(eyre!("{}: it is longer than {} MiB", failed(), MAX_PLAN >> 20));
    }
    serde_json::from_str(&text).wrap_err_with(|| format!("{} is no plan of ore aws gc", path.display()))
}
