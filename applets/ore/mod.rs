//! ore: cloud images and virtual machines.

mod gcloud;

use ::mantle::applet::{Applet, Context, Manual};
use ::mantle::args;
use ::mantle::error::{EXIT_STATUS, Result, SUCCESS, usage};
use ::mantle::google::sources;
use ::mantle::log::{self, Level};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

/// The applet's record.
pub const APPLET: Applet = Applet {
    name: "ore",
    about: "Cloud image creation and upload tools",
    command,
    run: |matches, context| Box::pin(run(matches, context)),
    manual: Manual {
        files: sources::FILES,
        environment: sources::ENVIRONMENT,
        exit_status: EXIT_STATUS,
        examples: &[
            (
                "ore gcloud index -r -D gs://bucket/boards/",
                "Give every folder below boards an index.html, a page of its own, and a redirect to it.",
            ),
            (
                "ore gcloud sync -n -r --delete gs://builds/1.2.3 gs://releases/1.2.3",
                "See what would be copied and deleted to make one place as the other.",
            ),
        ],
    },
};

fn command() -> Command {
    Command::new("ore")
        .long_about("Cloud image and virtual machine utility. Progress is logged at level INFO unless another is chosen.")
        .subcommand(gcloud::command())
}

async fn run(matches: ArgMatches, context: Context) -> Result<u8> {
    // Upstream always showed these lines; an option that is given still decides.
    let chosen = matches.value_source(args::id::LOG_LEVEL).is_some_and(|s| s != ValueSource::DefaultValue);
    if !chosen && args::log_level(&matches) == Level::Notice {
        log::set_level(Level::Info);
    }
    match matches.subcommand() {
        Some(("gcloud", m)) => gcloud::run(m, &context).await?,
        // `version`, `help` and the bare name are answered for every applet before this is called.
        _ => return Err(usage("ore has no such command")),
    }
    Ok(SUCCESS)
}
