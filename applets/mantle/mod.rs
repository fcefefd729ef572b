//! `mantle`: the commands about the binary itself.

mod config;
mod generate;
mod install;
mod man;

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint, value_parser};
use mantle::applet::{Applet, Context, Manual};
use mantle::error::{Result, usage};

/// The record of the multicall program itself.
pub const APPLET: Applet = Applet {
    name: "mantle",
    about: "Container Linux developer tools in one binary",
    command,
    run: |matches, context| Box::pin(run(matches, context)),
    manual: Manual {
        examples: &[
            ("mantle kola --help", "Run an applet by its name, here to see what kola can do."),
            (
                "mantle install --prefix ~/.local",
                "Install the binary with a link for each applet, man pages and completions.",
            ),
            (
                "mantle config show",
                "See where each value comes from; the output is itself a configuration file.",
            ),
        ],
        ..Manual::DEFAULT
    },
};

fn command() -> Command {
    let folder = |name: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("DIR")
            .value_parser(value_parser!(PathBuf))
            .value_hint(ValueHint::DirPath)
    };
    let applets: Vec<&str> = crate::APPLETS.iter().map(|a| a.name).collect();
    Command::new("mantle")
        .long_about(
            "Container Linux developer tools in one binary.\n\nAn applet is chosen by the name the binary is called by (a \
             link of either kind) or by the first word of the command line.",
        )
        .subcommand(
            Command::new("install")
                .about("Install the binary, a link for each applet, man pages and completions")
                .arg(folder("prefix").default_value("/usr/local").help("Folder below which bin and share lie"))
                .arg(Arg::new("force").short('f').long("force").action(ArgAction::SetTrue).help("Replace programs of other origin"))
                .arg(Arg::new("dry-run").short('n').long("dry-run").action(ArgAction::SetTrue).help("Only print what would be installed or removed"))
                .arg(Arg::new("uninstall").long("uninstall").action(ArgAction::SetTrue).help("Remove what was installed below the prefix, and nothing else")),
        )
        .subcommand(
            Command::new("config").about("Inspect the configuration").subcommand(
                Command::new("show")
                    .about("Print every option with its value and where that comes from")
                    .arg(Arg::new("applet").value_name("APPLET").num_args(0..).value_parser(applets).help("Only those of these applets"))
                    .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print a JSON array")),
            ),
        )
        .subcommand(
            Command::new("generate")
                .hide(true)
                .about("Write man pages and completions, as they are committed in mantle's repository")
                .arg(Arg::new("kind").value_name("KIND").required(true).value_parser(["all", "man", "completions"]))
                .arg(folder("out").required(true).help("Folder in which man and completions lie")),
        )
}

async fn run(matches: ArgMatches, _: Context) -> Result<u8> {
    match matches.subcommand() {
        Some(("install", given)) => install::run(given),
        Some(("config", given)) => match given.subcommand() {
            Some(("show", given)) => config::show(given),
            _ => Err(usage("config has no such command")),
        },
        Some(("generate", given)) => {
            let kind = given.get_one::<String>("kind").map_or("all", String::as_str);
            let out = given.get_one::<PathBuf>("out").ok_or_else(|| usage("no output folder"))?;
            generate::write(kind, out)?;
            Ok(0)
        }
        _ => Err(usage("mantle has no such command")),
    }
}
