//! kola: boots machines and tests them.

mod check_console;
mod cleanup;
mod cluster;
mod flight;
mod kolet;
mod list;
mod options;
pub mod register;
mod run;
mod spawn;
pub mod tests;
mod torcx;

use std::path::PathBuf;

use ::mantle::applet::{Applet, Context, Manual};
use ::mantle::args;
use ::mantle::error::{Result, SUCCESS, usage};
use clap::{Arg, ArgMatches, Args as _, Command, FromArgMatches as _};

/// The applet's record.
pub const APPLET: Applet = Applet {
    name: "kola",
    about: "The CoreOS Superdeep Borehole",
    command,
    run: |matches, context| Box::pin(run(matches, context)),
    manual: Manual::DEFAULT,
};

fn command() -> Command {
    let switch = |id: &'static str| Arg::new(id).action(clap::ArgAction::SetTrue);
    let pattern =
        Arg::new("pattern").value_name("GLOB").num_args(0..).help("Patterns of test names [default: *]");
    let kola = options::General::augment_args(Command::new("kola"))
        .long_about("Boots machines on a platform, runs tests on them and reports; or just boots them for you.")
        .subcommand(
            Command::new("run")
                .about("Run kola tests by category")
                .long_about(
                    "Run all tests whose names match a pattern, or all tests. Patterns are shell globs and must match \
                     the whole name. Results go to _kola_temp/<platform>-latest.",
                )
                .arg(pattern),
        )
        .subcommand(
            Command::new("list").about("List kola test names").arg(switch("json").long("json").help("Print JSON")),
        )
        .subcommand(spawn::Options::augment_args(Command::new("spawn")).about("Spawn machines and open a shell"))
        .subcommand(
            Command::new("check-console")
                .about("Check console output for badness")
                .arg(switch("check-verbose").long("verbose").short('v').help("Say when reading stdin"))
                .arg(Arg::new("file").value_name("FILE").num_args(0..).help("Console output; - or none: stdin")),
        )
        .subcommand(
            Command::new("cleanup").about("Remove what a killed run left behind").arg(
                Arg::new("dir")
                    .value_name("DIR")
                    .value_parser(clap::value_parser!(PathBuf))
                    .required(true)
                    .help("Output folder of that run"),
            ),
        );
    // Platforms for tests of kola itself stay out of generated pages.
    ::mantle::platform::augment(kola, ::mantle::platform::show_hidden())
}

async fn run(matches: ArgMatches, context: Context) -> Result<u8> {
    match matches.subcommand() {
        Some(("run", m)) => run::run(m, run::patterns(m)?, &context).await?,
        Some(("list", m)) => list::run(args::flag(m, "json"))?,
        Some(("spawn", m)) => spawn::run(m, spawn::Options::from_arg_matches(m)?, &context).await?,
        Some(("check-console", m)) => {
            let files: Vec<String> = m.get_many("file").map(|v| v.cloned().collect()).unwrap_or_default();
            let verbose = args::flag(m, "check-verbose");
            return tokio::task::spawn_blocking(move || check_console::run(&files, verbose)).await?;
        }
        Some(("cleanup", m)) => {
            let dir = m.get_one::<PathBuf>("dir").cloned().unwrap_or_default();
            tokio::task::spawn_blocking(move || cleanup::run(&dir)).await??;
        }
        // `version`, `help` and the bare name are answered for every applet before this is called.
        _ => return Err(usage("kola has no such command")),
    }
    Ok(SUCCESS)
}
