//! `gc` of all clouds: a group's verb flattens [`Options`] and calls [`run`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::mantle::applet::Context;
use ::mantle::args;
use ::mantle::cloud::gc::{self, Collect, Plan};
use ::mantle::error::{Result, Section as _, Stop, WrapErr as _, eyre, usage};
use ::mantle::ledger::{self, Clean, Leftover, Resource};
use ::mantle::{info, output};
use clap::ValueHint;

use super::group::{Account, Explain};
use crate::plans;

/// What every `gc` has on its command line.
#[derive(clap::Args)]
#[group(skip)]
pub struct Options {
    /// How old resources must be before they're considered garbage
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = args::parse_duration,
        default_value = "5h0m0s",
        conflicts_with = "apply"
    )]
    duration: Duration,

    /// Print what would be removed, as a line of JSON, and remove nothing
    #[arg(long, conflicts_with_all = ["apply", "ledger"])]
    dry_run: bool,

    /// Remove what the record of a run of kola in this folder names, whatever its age, and nothing else
    #[arg(
        long,
        value_name = "DIR",
        value_parser = args::path_parser(),
        value_hint = ValueHint::DirPath,
        conflicts_with = "apply"
    )]
    ledger: Option<PathBuf>,

    /// Remove what a plan of --dry-run names, as far as it still may be removed; - is standard input
    #[arg(long, value_name = "FILE", value_parser = args::path_parser(), value_hint = ValueHint::FilePath)]
    apply: Option<PathBuf>,
}

/// A cloud whose leftovers are removed.
pub trait Garbage: Account {
    /// What removes them.
    type Collector: Collect<Error: Explain>;

    /// The name of the cloud's platform in ledgers.
    const PLATFORM: &'static str;

    /// What removes leftovers, for the account with this name.
    fn collector(&self, api: Self::Api, who: String) -> Self::Collector;

    /// What removes the resources that ledgers name.
    fn cleaner(api: Self::Api) -> impl Clean;
}

impl<E: Explain> Explain for gc::Error<E> {
    fn is_interruption(&self) -> bool {
        match self {
            Self::Interrupted => true,
            Self::Cloud(e) => e.is_interruption(),
            _ => false,
        }
    }

    fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Cloud(e) => e.advice(),
            _ => None,
        }
    }
}

/// Removes what is left over; `command` is what the user called, for messages.
pub async fn run<G: Garbage>(options: Options, command: &str, account: &G, context: &Context) -> Result<()> {
    let path = |path: Option<PathBuf>| path.filter(|p| !p.as_os_str().is_empty());
    if let Some(dir) = path(options.ledger) {
        return recorded(&dir, account, context).await;
    }
    let earlier = path(options.apply).map(|file| read(&file, command)).transpose()?;
    let age = chrono::TimeDelta::from_std(options.duration).map_err(|e| usage(format!("--duration: {e}")))?;
    let api = account.api().await?;
    let who = account.preflight(&api, context).await?;
    if !options.dry_run {
        who.tell();
    }
    let cloud = account.collector(api, who.account);
    let failed = |e: gc::Error<<G::Collector as Collect>::Error>| e.explain("Couldn't gc");
    let outcome = match earlier {
        Some(plan) => gc::apply(&cloud, &plan, &context.cancel).await.map_err(failed)?,
        None => {
            let before = chrono::Utc::now() - age;
            let plan = gc::plan(&cloud, before, &context.cancel).await.map_err(failed)?;
            if options.dry_run {
                return Ok(output::line(serde_json::to_string(&plan)?)?);
            }
            gc::execute(&cloud, &plan, &context.cancel).await
        }
    };
    let cancelled = context.cancel.is_cancelled();
    plans::report("ore", "Couldn't gc", outcome, cancelled, Explain::is_interruption)
}

/// Removes what the ledger of a run names and never struck, newest first.
async fn recorded<G: Garbage>(dir: &Path, account: &G, context: &Context) -> Result<()> {
    let api = account.sign_in_to_remove(context).await?;
    let tell = |resource: &Resource, done: std::result::Result<(), &Leftover>| match done {
        Ok(()) => info!("ore", "removed {resource}"),
        Err(leftover) => ::mantle::error!("ore", "{leftover}"),
    };
    let ours = |r: &Resource| r.platform == G::PLATFORM;
    let cleaned = ledger::clean_up(dir, ours, &G::cleaner(api), &context.cancel, tell).await;
    let cleaned = cleaned.map_err(|e| match e {
        ledger::Error::InUse(_) => eyre!(e).suggestion("wait for its end, or stop it"),
        ledger::Error::File { .. } => eyre!(e).suggestion("name the output folder of a run"),
    })?;
    match cleaned.left.len() {
        _ if cleaned.interrupted => Err(Stop::Interrupted.into()),
        0 => Ok(()),
        n => Err(eyre!("Couldn't gc: {n} of {} could not be removed", n + cleaned.removed)),
    }
}

/// Reads a plan.
fn read(path: &Path, command: &str) -> Result<Plan> {
    let text = plans::read(path)?;
    serde_json::from_str(&text).wrap_err_with(|| format!("{} is no plan of {command}", path.display()))
}
