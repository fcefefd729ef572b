//! `kola bootchart`: the boot of a machine as a picture.

use clap::ArgMatches;
use color_eyre::eyre::{Result, WrapErr as _};
use mantle::applet::Context;
use mantle::output;
use mantle::platform::MachineOptions;

use super::flight::{Departures, Flight, both};
use super::options::Setup;

/// Boots one machine and prints `systemd-analyze plot` of it: SVG on stdout.
///
/// # Errors
/// Whatever went wrong first.
pub async fn run(matches: &ArgMatches, context: &Context) -> Result<()> {
    let setup = Setup::read(matches)?;
    let out = setup.output_dir(context).await.wrap_err("Setup failed")?;
    let flight = Flight::new(&setup, &out, context).await?;
    let result = match flight.new_cluster(out, Departures::default()) {
        Err(e) => Err(e),
        Ok(cluster) => {
            let plot = async {
                let machine =
                    cluster.new_machine(None, MachineOptions::default()).await.wrap_err("Machine failed")?;
                machine.client().output("systemd-analyze plot").await.wrap_err("SSH failed")
            };
            let plot = tokio::select! {
                plot = plot => plot,
                how = cluster.lost() => Err(how.into()),
                () = context.cancel.cancelled() => Err(mantle::error::Stop::Interrupted.into()),
            };
            cluster.destroy().await;
            plot
        }
    };
    let left = flight.destroy().await;
    let plot = both(result, left)?;
    if plot.status != 0 {
        let text = String::from_utf8_lossy(&plot.stderr);
        color_eyre::eyre::bail!(
            "SSH failed: systemd-analyze plot ended with status {}: {}",
            plot.status,
            text.trim()
        );
    }
    Ok(output::write(&plot.stdout)?)
}
