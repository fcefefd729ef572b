//! kola's own flags, and what follows from them: platform, distribution, board, all checked before anything is made.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValue;
use clap::{ArgMatches, FromArgMatches as _};
use color_eyre::Section as _;
use color_eyre::eyre::Result;
use mantle::applet::Context;
use mantle::args::Choices;
use mantle::conf::DropIn;
use mantle::error::{Stop, refused, refused_choice};
use mantle::harness::output_dir;
use mantle::ledger::{Leftover, Resource};
use mantle::platform::distribution::{DISTRIBUTIONS, Distribution};
use mantle::platform::image::Facts;
use mantle::platform::{Driver, Prepared, Target};
use mantle::ssh::quote;
use mantle::text::chain;

/// Flags that do not belong to one platform.
#[derive(clap::Args, Debug, Clone)]
#[group(skip)]
pub struct General {
    /// Folder for the results [default: _kola_temp/<platform>-<time>-<pid>]
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Torcx package list (JSON) for the tests that look at it
    #[arg(long, value_name = "FILE")]
    pub torcx_manifest: Option<PathBuf>,
    /// Platform to run on [default: qemu, or qemu-unpriv when not root]
    #[arg(short, long, value_name = "NAME", value_parser = Choices(platforms))]
    pub platform: Option<String>,
    /// Distribution on the image [default: what the image's feature file says, else cl]
    #[arg(short = 'b', long, value_name = "NAME", value_parser = Choices(distributions))]
    pub distro: Option<String>,
    /// How many tests run at once; below 1: one per CPU; auto: as CPUs and free memory allow
    #[arg(short = 'j', long, value_name = "N", default_value = "1", allow_negative_numbers = true, value_parser = Parallel::parse)]
    pub parallel: Parallel,
    /// Boot a machine of each kind once, and start the others from its state (QEMU on amd64)
    #[arg(long)]
    pub warm: bool,
    /// Copy the TAP report here after the run
    #[arg(long, value_name = "FILE")]
    pub tapfile: Option<PathBuf>,
    /// First part of the names of flights and clusters
    #[arg(long, value_name = "NAME", default_value = "kola")]
    pub basename: String,
    /// systemd unit that gets SYSTEMD_LOG_LEVEL=debug (repeatable, comma-separated)
    #[arg(long, value_name = "UNIT", value_delimiter = ',')]
    pub debug_systemd_unit: Vec<String>,
    /// Update payload for the tests that use one
    #[arg(long, value_name = "FILE")]
    pub update_payload: Option<PathBuf>,
    /// How long a machine may take from start to usable, and for a reboot
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = mantle::args::parse_duration)]
    pub boot_timeout: Duration,
    /// Target board [default: the SDK's, else this machine's]
    #[arg(long, value_name = "BOARD", value_parser = Choices(boards))]
    pub board: Option<String>,
}

/// How many tests run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parallel {
    /// So many; below 1 one for each processor.
    Count(i64),
    /// What this host has room for.
    Auto,
}

impl Parallel {
    fn parse(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            number => number.parse().map(Self::Count).map_err(|e| format!("{e}; a number, or auto")),
        }
    }
}

/// Boards there are images for.
const BOARDS: [&str; 2] = ["amd64-usr", "arm64-usr"];

fn platforms() -> Vec<PossibleValue> {
    super::register::platforms().into_iter().map(PossibleValue::new).collect()
}

fn distributions() -> Vec<PossibleValue> {
    DISTRIBUTIONS.iter().map(|d| PossibleValue::new(d.name)).collect()
}

fn boards() -> Vec<PossibleValue> {
    BOARDS.iter().map(|board| PossibleValue::new(*board)).collect()
}

/// The platform of this name.
///
/// # Errors
/// When there is none; exit status 3.
pub fn known_platform(name: &str) -> Result<&'static Driver> {
    Driver::named(name).ok_or_else(|| refused_choice("platform", name, &super::register::platforms()))
}

/// The platform that the flags name, else that of this user.
pub fn platform_name(general: &General) -> String {
    general.platform.clone().unwrap_or_else(|| {
        let root = nix::unistd::geteuid().is_root();
        if root { "qemu" } else { "qemu-unpriv" }.to_owned()
    })
}

/// The distribution of this name.
///
/// # Errors
/// When there is none; exit status 3.
pub fn known_distribution(name: &str) -> Result<&'static Distribution> {
    let names: Vec<&str> = DISTRIBUTIONS.iter().map(|d| d.name).collect();
    Distribution::named(name).ok_or_else(|| refused_choice("distro", name, &names))
}

/// Refuses what names no service: what is set is the environment of its process, and systemd in the guest would
/// pass over a drop-in of anything else.
fn check_service(unit: &str) -> Result<()> {
    let stem = unit.strip_suffix(".service");
    let fits = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c); // systemd.unit(5)
    if stem.is_some_and(|s| !s.is_empty() && s.chars().all(fits)) && unit.len() < 256 {
        return Ok(());
    }
    let report = refused(format!("--debug-systemd-unit: {unit:?} is no name of a service"));
    match unit.contains(['.', '/']) {
        true => Err(report.suggestion("a name of a service ends in .service")),
        false => Err(report.suggestion(format!("write {unit}.service"))),
    }
}

/// The flags after all defaults: what a flight is made from.
#[derive(Clone)]
pub struct Setup {
    /// The flags as given.
    pub general: General,
    /// The platform.
    pub driver: &'static Driver,
    /// Board and distribution.
    pub target: Target,
    /// What the image's feature file says.
    pub facts: Option<Facts>,
    /// What makes flights on the platform.
    pub prepared: Prepared,
    /// All flags, for the record.
    pub matches: ArgMatches,
}

impl Setup {
    /// Reads and validates all flags, in upstream's order. Nothing is made yet.
    ///
    /// # Errors
    /// The first flag that cannot be used; exit status 3.
    pub fn read(matches: &ArgMatches) -> Result<Self> {
        let general = General::from_arg_matches(matches)?;
        general
            .debug_systemd_unit
            .iter()
            .filter(|u| !u.is_empty())
            .try_for_each(|unit| check_service(unit))?;
        let platform = platform_name(&general);
        if general.platform.is_none() && platform != "qemu" {
            mantle::notice!("kola", "not root: using platform {platform} (one network per machine)");
        }
        let driver = known_platform(&platform)?;
        let board = general.board.clone().unwrap_or_else(mantle::sdk::default_board);
        let chosen = driver.read(matches).map_err(|e| refused(chain(&e)))?;
        let facts = chosen.image(&board).and_then(|image| image.facts);
        let distro = match (&general.distro, &facts) {
            (Some(named), _) => named.clone(),
            (None, Some(facts)) => facts.distro.clone(),
            (None, None) => "cl".to_owned(),
        };
        let distribution = known_distribution(&distro)?;
        if !BOARDS.contains(&board.as_str()) {
            return Err(refused_choice("board", &board, &BOARDS));
        }
        let target = Target { board, distribution };
        let prepared = chosen.prepare(&target).map_err(|e| refused(chain(&e)))?;
        Ok(Self { general, driver, target, facts, prepared, matches: matches.clone() })
    }

    /// Makes the folder for the results. What a former run in it left on this machine is removed first.
    ///
    /// # Errors
    /// When it cannot be made, is somebody else's, or its record names what only `kola cleanup` can remove.
    pub async fn output_dir(&self, context: &Context) -> Result<PathBuf> {
        let made = match &self.general.output_dir {
            Some(dir) => {
                let tell = |resource: &Resource, done: std::result::Result<(), &Leftover>| match done {
                    Ok(()) => mantle::notice!("kola", "removed {resource}, left by a former run"),
                    Err(leftover) => mantle::error!("kola", "{leftover}"),
                };
                match output_dir::clean_up(dir, &context.cancel, tell).await {
                    Ok(()) if context.cancel.is_cancelled() => return Err(Stop::Interrupted.into()),
                    cleaned => cleaned.and_then(|()| output_dir::prepare(dir)),
                }
            }
            None => output_dir::default(self.driver.name),
        };
        let advice = match &made {
            Err(output_dir::Error::Refused(_) | output_dir::Error::Current | output_dir::Error::InUse(_)) => {
                "name a folder that does not exist yet, an empty one, or that of a former run".to_owned()
            }
            Err(output_dir::Error::LeftOver { path, .. }) => {
                format!("`kola cleanup {}` removes what is left", quote(&path.display().to_string()))
            }
            _ => return Ok(made?),
        };
        made.map_err(color_eyre::Report::from).suggestion(advice)
    }

    /// The drop-ins of `--debug-systemd-unit`.
    pub fn drop_ins(&self) -> Vec<DropIn> {
        self.general.debug_systemd_unit.iter().filter(|u| !u.is_empty()).map(DropIn::debug).collect()
    }

    /// How many tests run at once.
    pub fn parallel(&self) -> usize {
        match self.general.parallel {
            Parallel::Auto => super::order::automatic(self),
            Parallel::Count(n) => usize::try_from(n)
                .ok()
                .filter(|&n| n >= 1)
                .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        }
    }

    /// Features of the image: its own list, else those of its distribution.
    pub fn features(&self) -> Vec<String> {
        match &self.facts {
            Some(facts) => facts.features.clone(),
            None => self.target.distribution.features.iter().map(|&f| f.to_owned()).collect(),
        }
    }
}
