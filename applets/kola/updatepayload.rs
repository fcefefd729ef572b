//! `kola updatepayload`: an update payload in use, there and back again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ArgMatches;
use color_eyre::Section as _;
use color_eyre::eyre::{Result, WrapErr as _, bail, eyre};
use mantle::applet::Context;
use mantle::output;
use mantle::platform::MachineOptions;
use mantle::platform::deployment::Deployment;

use super::flight::{Departures, Flight, both};
use super::options::Setup;
use super::updates::{self, Usr};

/// The flags of `kola updatepayload`.
#[derive(clap::Args, Debug, Clone)]
#[group(skip)]
pub struct Options {
    /// Time for each of the two updates
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = mantle::args::parse_duration)]
    timeout: Duration,
    /// Update payload [default: the full update of the SDK's latest image, made if need be]
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
}

/// Updates a machine to the payload and then again, so that both halves of `/usr` have been written and booted.
///
/// # Errors
/// Whatever went wrong first.
pub async fn run(matches: &ArgMatches, options: Options, context: &Context) -> Result<()> {
    let setup = Setup::read(matches)?;
    updates::check_platform(&setup, "updatepayload")?;
    let features = setup.features();
    for needed in ["update-engine", "ab-usr"] {
        if !features.iter().any(|f| f == needed) {
            return Err(eyre!("the image cannot update itself: it does not have {needed}")
                .note("its feature file, or else its distribution (--distro), says so"));
        }
    }
    let payload = match &options.payload {
        Some(payload) => payload.clone(),
        None => {
            mantle::notice!("kola", "Generating update payload");
            updates::build(&setup.target.board, "latest", &context.cancel).await?
        }
    };
    if !payload.is_file() {
        bail!("bad payload: {} is not a file", payload.display());
    }
    mantle::notice!("kola", "=== Running CoreOS upgrade test");
    let begun = Instant::now();
    let work = on_flight(&setup, &options, &payload, context).await;
    let lasted = begun.elapsed().as_secs_f64();
    match work {
        Ok(()) => Ok(output::line(format_args!("--- PASS: CoreOS upgrade test ({lasted:.2}s)"))?),
        Err(e) if context.cancel.is_cancelled() => Err(e),
        Err(e) => Err(e.wrap_err(format!("--- FAIL: CoreOS upgrade test ({lasted:.2}s)"))),
    }
}

async fn on_flight(
    setup: &Setup,
    options: &Options,
    payload: &std::path::Path,
    context: &Context,
) -> Result<()> {
    let out = setup.output_dir(context).await.wrap_err("Setup failed")?;
    let flight = Flight::new(setup, &out, context).await.wrap_err("new flight")?;
    let result = match flight.new_cluster(out, Departures::default()) {
        Err(e) => Err(e.wrap_err("new cluster")),
        Ok(cluster) => {
            let limit = options.timeout.mul_f64(flight.driver.slowness());
            let result = tokio::select! {
                result = there_and_back(&flight, &cluster, payload, limit) => result,
                how = cluster.lost() => Err(how.into()),
                () = context.cancel.cancelled() => Err(mantle::error::Stop::Interrupted.into()),
            };
            cluster.destroy().await;
            result
        }
    };
    both(result, flight.destroy().await)
}

async fn there_and_back(
    flight: &Flight,
    cluster: &Arc<Deployment>,
    payload: &std::path::Path,
    limit: Duration,
) -> Result<()> {
    let local = flight.driver.local().ok_or_else(|| eyre!("the platform has no private network"))?;
    let server = updates::serve(&local, payload).await?;
    let machine = cluster.new_machine(None, MachineOptions::default()).await.wrap_err("new machine")?;
    let told = async || {
        updates::configure(&machine, &server.url()).await.with_note(|| format!("on machine {}", machine.id()))
    };
    updates::check_command_line(&machine, Usr::A).await.wrap_err("initial boot")?;
    told().await?;
    updates::update(&machine, limit).await.wrap_err("first update")?;
    updates::check_command_line(&machine, Usr::B).await.wrap_err("second boot")?;
    updates::invalidate_a(&machine).await?;
    // The key is mounted, and the new system may have another one.
    told().await?;
    updates::update(&machine, limit).await.wrap_err("second update")?;
    updates::check_command_line(&machine, Usr::A).await.wrap_err("third boot")
}
