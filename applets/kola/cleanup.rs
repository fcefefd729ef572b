//! `kola cleanup`: removes what a run that was killed left behind, from its record.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use clap::ArgMatches;
use color_eyre::Section as _;
use color_eyre::eyre::{Result, WrapErr as _, bail, eyre};
use mantle::output;
use mantle::platform::Driver;
use mantle::platform::ledger::{self, Clean, Resource};
use mantle::text::chain;

/// Removes the leftovers that the record in `dir` names, newest first: those on this machine, and those in clouds
/// with the account that the platform's flags name.
///
/// # Errors
/// When the record cannot be read, or something could not be removed.
pub async fn run(dir: &Path, matches: &ArgMatches) -> Result<()> {
    let left = ledger::left_over(dir)
        .wrap_err_with(|| format!("cannot read the record of resources in {}", dir.display()))
        .suggestion("name the output folder of a run, as in `kola cleanup _kola_temp/qemu-latest`")?;
    if left.is_empty() {
        return Ok(output::line(format_args!("{}: nothing is left over", dir.display()))?);
    }
    let record = ledger::Ledger::open(dir)?;
    let mut cleaners = Cleaners::default();
    let mut failed = 0;
    for resource in left.iter().rev() {
        match cleaners.remove(resource, matches).await {
            Ok(()) => {
                record.delete(resource);
                output::line(format_args!("removed {} {}", resource.kind, resource.id))?;
            }
            Err(e) => {
                mantle::error!("kola", "{e}");
                failed += 1;
            }
        }
    }
    if failed > 0 {
        let e = eyre!("{failed} of {} leftovers could not be removed", left.len());
        return match left.iter().any(|r| !ledger::is_local(&r.kind)) {
            true => Err(e).suggestion("give the flags that the run had: account, region, endpoint"),
            false => bail!(e),
        };
    }
    Ok(())
}

/// One for each platform that has something in a cloud, set up when first needed.
#[derive(Default)]
struct Cleaners(BTreeMap<String, Result<Arc<dyn Clean>, String>>);

impl Cleaners {
    async fn remove(&mut self, resource: &Resource, matches: &ArgMatches) -> Result<(), String> {
        if ledger::is_local(&resource.kind) {
            return ledger::Local.remove(resource).await.map_err(|e| chain(&e));
        }
        if !self.0.contains_key(&resource.platform) {
            let cleaner = match Driver::named(&resource.platform) {
                Some(driver) => driver.cleaner(matches).await.map_err(|e| chain(&e)),
                None => Err("there is no such platform".to_owned()),
            };
            self.0.insert(resource.platform.clone(), cleaner);
        }
        let what = format!("{} {} of platform {}", resource.kind, resource.id, resource.platform);
        match self.0.get(&resource.platform) {
            Some(Ok(cleaner)) => cleaner.remove(resource).await.map_err(|e| chain(&e)),
            Some(Err(e)) => Err(format!("cannot remove {what}: {e}")),
            None => Err(format!("cannot remove {what}")),
        }
    }
}
