//! ore: cloud images and virtual machines.

mod aws;
mod gcloud;

use ::mantle::applet::{Applet, Context, Manual};
use ::mantle::args;
use ::mantle::cloud::aws as cloud;
use ::mantle::cloud::google::sources;
use ::mantle::error::{EXIT_STATUS, Result, SUCCESS, usage};
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
        files: &[
            sources::FILES,
            cloud::FILES,
            &[(
                "$XDG_STATE_HOME/mantle/aws",
                "Records of uploads to AWS that are not finished; ~/.local/state if the variable is not set.",
            )],
        ],
        environment: &[sources::ENVIRONMENT, cloud::ENVIRONMENT],
        exit_status: EXIT_STATUS,
        examples: &[
            (
                "ore aws upload --file=image.bin --object-format=RAW --direct --name=1.2.3 --ami-name=linux-1.2.3",
                "Write a raw image into a snapshot and register the AMI linux-1.2.3-hvm; repeat the command if it is interrupted.",
            ),
            (
                "ore aws gc --dry-run > plan.json && ore aws gc --apply=plan.json",
                "Look at what would be terminated before it is.",
            ),
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
        .subcommand(aws::command())
        .subcommand(gcloud::command())
}

async fn run(matches: ArgMatches, context: Context) -> Result<u8> {
    // Upstream always showed these lines; an option that is given still decides.
    let chosen = matches.value_source(args::id::LOG_LEVEL).is_some_and(|s| s != ValueSource::DefaultValue);
    if !chosen && args::log_level(&matches) == Level::Notice {
        log::set_level(Level::Info);
    }
    match matches.subcommand() {
        Some(("aws", m)) => aws::run(m, &context).await?,
        Some(("gcloud", m)) => gcloud::run(m, &context).await?,
        // `version`, `help` and the bare name are answered for every applet before this is called.
        _ => return Err(usage("ore has no such command")),
    }
    Ok(SUCCESS)
}
