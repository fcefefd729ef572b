//! `kola cleanup`: removes what a run that was killed left behind, from its record.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use clap::ArgMatches;
use color_eyre::Section as _;
use color_eyre::eyre::{Result, eyre};
use mantle::applet::Context;
use mantle::error::Stop;
use mantle::ledger::{self, Clean, Failure, Resource};
use mantle::output;
use mantle::platform::Driver;
use mantle::text::chain;
use tokio::sync::Mutex;

/// Removes the leftovers that the record in `dir` names, newest first: those on this machine, and those in clouds
/// with the account that the platform's flags name.
///
/// # Errors
/// When the record cannot be read, or something could not be removed.
pub async fn run(dir: &Path, matches: &ArgMatches, context: &Context) -> Result<()> {
    let cleaners = Cleaners { matches, made: Mutex::default() };
    let mut written = Ok(());
    let mut abroad = false;
    let tell = |resource: &Resource, done: std::result::Result<(), &ledger::Leftover>| match done {
        Ok(()) if written.is_ok() => written = output::line(format_args!("removed {resource}")),
        Ok(()) => {}
        Err(leftover) => {
            abroad |= !resource.is_local();
            mantle::error!("kola", "{leftover}");
        }
    };
    let cleaned = ledger::clean_up(dir, |_| true, &cleaners, &context.cancel, tell).await;
    let cleaned = cleaned.map_err(|e| match e {
        ledger::Error::InUse(_) => eyre!(e).suggestion("wait for its end, or stop it"),
        ledger::Error::File { .. } => eyre!(e)
            .suggestion("name the output folder of a run, as in `kola cleanup _kola_temp/qemu-latest`"),
    })?;
    written?;
    let all = cleaned.removed + cleaned.left.len();
    if cleaned.interrupted {
        return Err(Stop::Interrupted.into());
    }
    if all == 0 {
        return Ok(output::line(format_args!("{}: nothing is left over", dir.display()))?);
    }
    if cleaned.left.is_empty() {
        return Ok(());
    }
    let e = eyre!("{} of {all} leftovers could not be removed", cleaned.left.len());
    Err(match abroad {
        true => e.suggestion("give the flags that the run had: account, region, endpoint"),
        false => e,
    })
}

/// One for each platform that has something in a cloud, set up when first needed.
struct Cleaners<'a> {
    matches: &'a ArgMatches,
    made: Mutex<BTreeMap<String, Made>>,
}

/// What removes a platform's resources, or why there is no such thing.
type Made = Result<Arc<dyn Clean>, String>;

#[async_trait]
impl Clean for Cleaners<'_> {
    async fn remove(&self, resource: &Resource) -> Result<(), Failure> {
        if resource.is_local() {
            return ledger::Local.remove(resource).await;
        }
        let mut made = self.made.lock().await;
        if !made.contains_key(&resource.platform) {
            let cleaner = match Driver::named(&resource.platform) {
                Some(driver) => self.cleaner(driver).await.map_err(|e| chain(&e)),
                None => Err(format!("there is no platform {:?}", resource.platform)),
            };
            made.insert(resource.platform.clone(), cleaner);
        }
        match made.get(&resource.platform) {
            Some(Ok(cleaner)) => cleaner.remove(resource).await,
            Some(Err(e)) => Err(e.clone().into()),
            None => Err("there is no platform for it".into()),
        }
    }
}

impl Cleaners<'_> {
    async fn cleaner(&self, driver: &Driver) -> mantle::platform::Result<Arc<dyn Clean>> {
        driver.read(self.matches)?.cleaner().await
    }
}
