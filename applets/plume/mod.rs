//! plume: publishes releases.

mod gate;
mod index;
mod prune;
mod rehearse;
mod release;

use std::collections::BTreeSet;

use ::mantle::applet::{Applet, Context, Manual};
use ::mantle::args::{self, Choices};
use ::mantle::bucket::Style;
use ::mantle::cloud::google::sources;
use ::mantle::cloud::{aws, azure};
use ::mantle::error::{EXIT_STATUS, Result, SUCCESS, Section as _, WrapErr as _, usage};
use ::mantle::http;
use ::mantle::output;
use ::mantle::release::{CHANNELS, Distribution, Error, Table};
use ::mantle::text::did_you_mean;
use clap::builder::PossibleValue;
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint};
use color_eyre::eyre::Report;

/// The applet's record.
pub const APPLET: Applet = Applet {
    name: "plume",
    about: "The CoreOS release utility",
    command,
    run: |matches, context| Box::pin(run(matches, context)),
    manual: Manual {
        files: &[
            sources::FILES,
            aws::FILES,
            azure::classic::FILES,
            &[
                (
                    "$XDG_STATE_HOME/mantle/plume",
                    "Records of releases: which steps were done, and what came of them; ~/.local/state if the variable \
                     is not set.",
                ),
                (
                    ".cache/images/CHANNEL/BOARD/VERSION below the SDK's root",
                    "Images that were fetched and verified, unpacked; they can be deleted.",
                ),
            ],
        ],
        environment: &[
            &[
                ("REPO_ROOT", "The root of the SDK's source tree; an absolute path."),
                ("USER", "What $USER means in the channel table; else the system's name for the user."),
            ],
            sources::ENVIRONMENT,
            aws::ENVIRONMENT,
            azure::storage::ENVIRONMENT,
            http::ENVIRONMENT,
        ],
        exit_status: EXIT_STATUS,
        examples: &[
            (
                "plume rehearse --channel=alpha --board=amd64-usr",
                "See a whole release happen on this machine, of a build that is made up, without any account.",
            ),
            (
                "plume plan --channel=alpha --board=amd64-usr --version=2345.0.0",
                "Look at what a release would change in all clouds and buckets, and what would be in its way.",
            ),
            (
                "plume pre-release --channel=alpha --board=amd64-usr --version=2345.0.0 && plume release --channel=alpha --board=amd64-usr --version=2345.0.0",
                "Release a build: upload and make its images, then publish them; repeat the command if it is interrupted.",
            ),
            (
                "plume index --channel=stable --version=2345.3.0 --dry-run",
                "Show which index pages of the stable channel's buckets would be written for a version.",
            ),
            (
                "plume index --channels=ours.yaml --channel=all --board=all --version=all",
                "Make the index pages of all buckets anew that a channel table of your own names.",
            ),
            ("plume channels > ours.yaml", "Start a channel table of your own."),
        ],
        ..Manual::DEFAULT
    },
};

/// The distributions of the built-in table.
fn distributions() -> Vec<PossibleValue> {
    let table = Table::builtin().ok();
    let names = table.iter().flat_map(Table::distributions).map(|(name, _)| name.to_owned());
    names.map(PossibleValue::new).collect()
}

/// The channels of the built-in table.
fn channels() -> Vec<PossibleValue> {
    let mut names = channels_or_all();
    names.retain(|name| name.get_name() != "all");
    names
}

/// The same, and the word for all of them.
fn channels_or_all() -> Vec<PossibleValue> {
    let table = Table::builtin().ok();
    let channels = table.iter().flat_map(Table::distributions).flat_map(|(_, d)| d.channels.keys().cloned());
    let names: BTreeSet<String> = channels.chain(["all".to_owned()]).collect();
    names.into_iter().map(PossibleValue::new).collect()
}

fn command() -> Command {
    let option = |id: &'static str, value: &'static str| Arg::new(id).long(id).value_name(value);
    let file = |id: &'static str| {
        option(id, "FILE").value_parser(args::path_parser()).value_hint(ValueHint::FilePath)
    };
    Command::new("plume")
        .long_about(
            "Publishes releases. What is published where is a table of channels, which --channels replaces. The \
             servers and buckets of Container Linux, which the built-in table names, are gone.",
        )
        .arg(file("gce-json-key").help("Use the service account with this key, in Google's JSON form"))
        .arg(file("channels").help("Channel table to use in place of the built-in one; see `plume channels`"))
        .arg(
            option("distro", "NAME")
                .env("MANTLE_DISTRO")
                .default_value("cl")
                .value_parser(Choices(distributions))
                .help("Distribution of the table, or another of --channels"),
        )
        // In the order in which a release needs them.
        .subcommands(release::commands())
        .subcommand(prune::command())
        .subcommand(rehearse::command())
        .subcommand(
            Command::new("index")
                .about("Update HTML indexes for CoreOS release storage")
                .long_about(
                    "Make the index pages of release buckets anew, for one channel, board and version, or for all: a \
                     page that is right already stays, one of an empty folder goes.\n\n\
                     The buckets of Container Linux, which the built-in table names, are gone, and Flatcar has none: \
                     pass --channels with a table of your own.",
                )
                .arg(
                    option("board", "BOARD")
                        .short('B')
                        .help("Board, or all [default: the SDK's default board, else this machine's]"),
                )
                .arg(
                    option("channel", "CHANNEL")
                        .short('C')
                        .default_value("user")
                        .value_parser(Choices(channels_or_all))
                        .help("Channel of the table, another of --channels, or all"),
                )
                .arg(option("version", "VERSION").short('V').help(
                    "Version, or all [default: that of .repo/manifests/version.txt below the SDK's root, else all]",
                ))
                .arg(
                    option("html-style", "STYLE")
                        .value_parser(clap::value_parser!(Style))
                        .default_value("plain")
                        .help("What pages look like"),
                )
                .arg(
                    Arg::new("dry-run")
                        .short('n')
                        .long("dry-run")
                        .action(ArgAction::SetTrue)
                        .help("Only show what would be written or deleted"),
                ),
        )
        .subcommand(
            Command::new("channels")
                .about("Print the channel table")
                .long_about("Print the channel table, the built-in one or that of --channels, after checking it."),
        )
}

async fn run(matches: ArgMatches, context: Context) -> Result<u8> {
    match matches.subcommand() {
        Some(("index", m)) => index::run(m, &context).await?,
        Some(("channels", m)) => print_table(m)?,
        Some(("plan", m)) => release::plan(m, &context).await?,
        Some(("pre-release", m)) => release::before(m, &context).await?,
        Some(("prune", m)) => prune::run(m, &context).await?,
        Some(("rehearse", m)) => rehearse::run(m, &context).await?,
        Some(("release", m)) => release::release(m, &context).await?,
        Some(("rollback", m)) => release::back(m, &context).await?,
        Some(("verify", m)) => release::verify(m, &context).await?,
        // `version`, `help` and the bare name are answered for every applet before this is called.
        _ => return Err(usage("plume has no such command")),
    }
    Ok(SUCCESS)
}

/// The text of an option that is given and not empty.
fn text<'m>(matches: &'m ArgMatches, id: &str) -> Option<&'m str> {
    matches.get_one::<String>(id).map(String::as_str).filter(|t| !t.is_empty())
}

/// The table of `--channels`, else the built-in one.
fn table(matches: &ArgMatches) -> Result<Table> {
    match crate::downloads::path(matches, "channels") {
        Some(path) => Ok(Table::read(&path)?),
        None => Ok(Table::builtin()?),
    }
}

/// The distribution of `--distro`.
fn distribution<'t>(table: &'t Table, matches: &ArgMatches) -> Result<&'t Distribution> {
    table.distribution(text(matches, "distro").unwrap_or("cl")).map_err(explain)
}

/// The error as one of the command line, if it is about that, with what would be accepted.
fn explain(error: Error) -> Report {
    let complaint = error.to_string();
    let (value, known) = match &error {
        Error::UnknownDistribution { name, known }
        | Error::UnknownChannel { name, known }
        | Error::BoardNowhere { name, known } => (name, known),
        Error::Required(_) => return usage(format!("--{complaint}")),
        Error::UnknownBoard { .. } | Error::Name { .. } => return usage(complaint),
        _ => return Report::new(error),
    };
    let report = usage(complaint).suggestion(format!("known are {}", known.join(", ")));
    match did_you_mean(value, known.iter().map(String::as_str)) {
        Some(question) => report.suggestion(question),
        None => report,
    }
}

/// `plume channels`.
fn print_table(matches: &ArgMatches) -> Result<()> {
    table(matches)?;
    let text = match crate::downloads::path(matches, "channels") {
        Some(path) => {
            ::mantle::input::read(&path).wrap_err_with(|| format!("cannot read {}", path.display()))?
        }
        None => CHANNELS.into(),
    };
    Ok(output::write(&text)?)
}
