//! ore: cloud images and virtual machines.

mod aws;
mod gcloud;

use ::mantle::applet::{Applet, Context, Manual};
use ::mantle::args;
use ::mantle::error::{EXIT_STATUS, Result, SUCCESS, usage};
use ::mantle::google::sources;
use ::mantle::log::{self, Level};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

/// What the clouds read and write.
const FILES: &[(&str, &str)] = &[
    sources::FILES[0],
    sources::FILES[1],
    sources::FILES[2],
    ("~/.aws/credentials, ~/.aws/config", "AWS credentials, regions and endpoints, by profile."),
    (
        "$XDG_STATE_HOME/mantle/aws",
        "Records of uploads to AWS that are not finished; ~/.local/state if the variable is not set.",
    ),
];

/// The variables that the clouds heed.
const ENVIRONMENT: &[(&str, &str)] = &[
    sources::ENVIRONMENT[0],
    sources::ENVIRONMENT[1],
    sources::ENVIRONMENT[2],
    sources::ENVIRONMENT[3],
    sources::ENVIRONMENT[4],
    sources::ENVIRONMENT[5],
    ("AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN", "AWS credentials."),
    ("AWS_PROFILE", "Profile of the files of AWS credentials."),
    ("AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_EC2, _EBS, _S3, _IAM, _STS", "Servers to use in place of Amazon's."),
    ("AWS_CA_BUNDLE", "Certificates to trust in place of the system's, for AWS."),
];

/// The applet's record.
pub const APPLET: Applet = Applet {
    name: "ore",
    about: "Cloud image creation and upload tools",
    command,
    run: |matches, context| Box::pin(run(matches, context)),
    manual: Manual {
        files: FILES,
        environment: ENVIRONMENT,
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
