//! `kola doctor`: what this host can do, and what it lacks.

use clap::{ArgMatches, FromArgMatches as _};
use color_eyre::eyre::{Result, bail};
use mantle::output;
use mantle::platform::{DRIVERS, Driver, Target, qemu};
use mantle::text::chain;

use super::kolet;
use super::options::{General, known_distribution, known_platform, platform_name};

/// Asks each platform of this host for what it needs, as a run would, and prints the answers. Nothing is made but a
/// guest of a few instructions, which tells whether KVM works.
///
/// # Errors
/// When the platform that a run with these flags would use cannot be used.
pub async fn run(matches: &ArgMatches) -> Result<()> {
    let general = General::from_arg_matches(matches)?;
    let chosen = known_platform(&platform_name(&general))?.name;
    let board = general.board.clone().unwrap_or_else(mantle::sdk::default_board);
    let mut reason = None;
    for driver in DRIVERS.iter().filter(|d| !d.hidden || d.name == chosen) {
        let verdict = match driver.metadata {
            // What matters is elsewhere, and costs a request.
            true => Ok("not looked at: it depends on an account".to_owned()),
            false => ready(driver, &general, &board, matches).map(|()| "ready".to_owned()),
        };
        let text = verdict.as_ref().unwrap_or_else(|why| why);
        output::line(format_args!("platform {}: {text}", driver.name))?;
        if driver.name == chosen {
            reason = verdict.err();
        }
    }
    match qemu::without_kvm(&board).await {
        Ok(None) => output::line("acceleration: KVM, with which a probe guest ran")?,
        Ok(Some(why)) => output::line(format_args!("acceleration: none, guests are emulated: {why}"))?,
        Err(e) => output::line(format_args!("acceleration: unknown: {}", chain(&e)))?,
    }
    let architecture = board.split('-').next().unwrap_or_default();
    match kolet::locate(architecture) {
        Ok(path) => output::line(format_args!("kolet for {architecture}: {}", path.display()))?,
        Err(e) => output::line(format_args!(
            "kolet for {architecture}: none, tests with native functions fail: {e}; a static build of this program \
             (`make release`) is one"
        ))?,
    }
    match reason {
        Some(why) => bail!("platform {chosen} cannot be used here: {why}"),
        None => Ok(()),
    }
}

/// What a run would check before it makes anything.
fn ready(driver: &Driver, general: &General, board: &str, matches: &ArgMatches) -> Result<(), String> {
    let check = || -> Result<()> {
        let chosen = driver.read(matches)?;
        let facts = chosen.image(board).and_then(|image| image.facts);
        let named = general.distro.clone().or_else(|| facts.map(|facts| facts.distro));
        let distribution = known_distribution(named.as_deref().unwrap_or("cl"))?;
        chosen.prepare(&Target { board: board.to_owned(), distribution })?;
        Ok(())
    };
    check().map_err(|e| chain(&*e))
}
