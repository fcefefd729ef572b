//! `kola cleanup`: removes what a run that was killed left behind, from its record.

use std::path::Path;

use color_eyre::Section as _;
use color_eyre::eyre::{Result, WrapErr as _, bail};
use mantle::output;
use mantle::platform::ledger;

/// Removes the local leftovers that the record in `dir` names, newest first.
///
/// # Errors
/// When the record cannot be read, or something could not be removed.
pub async fn run(dir: &Path) -> Result<()> {
    let left = ledger::left_over(dir)
        .wrap_err_with(|| format!("cannot read the record of resources in {}", dir.display()))
        .suggestion("name the output folder of a run, as in `kola cleanup _kola_temp/qemu-latest`")?;
    if left.is_empty() {
        return Ok(output::line(format_args!("{}: nothing is left over", dir.display()))?);
    }
    let record = ledger::Ledger::open(dir)?;
    let mut failed = 0;
    for resource in left.iter().rev() {
        match ledger::remove_local(resource).await {
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
        bail!("{failed} of {} leftovers could not be removed", left.len());
    }
    Ok(())
}
