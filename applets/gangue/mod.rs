//! gangue: gets verified files from Google Storage and the web.

mod get;

use ::mantle::applet::{Applet, Context, Manual};
use ::mantle::args;
use ::mantle::cloud::google::sources;
use ::mantle::error::{EXIT_STATUS, Result, SUCCESS, usage};
use ::mantle::http;
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint, value_parser};

use crate::downloads;

/// The applet's record.
pub const APPLET: Applet = Applet {
    name: "gangue",
    about: "Google Storage download and verification tool",
    command,
    run: |matches, context| Box::pin(run(matches, context)),
    manual: Manual {
        files: &[sources::FILES],
        environment: &[sources::ENVIRONMENT, http::ENVIRONMENT],
        exit_status: EXIT_STATUS,
        examples: &[
            (
                "gangue get https://stable.release.flatcar-linux.net/amd64-usr/current/flatcar_production_image.bin.bz2",
                "Get the current image into this folder; it is there only if the release key's signature is right.",
            ),
            (
                "gangue get -q https://stable.release.flatcar-linux.net/amd64-usr/current/version.txt - | grep VERSION_ID",
                "Print a file, after its signature was found right.",
            ),
            (
                "gangue get --json-key key.json --verify-key our.asc gs://bucket/image.bin images/",
                "Get a private file with a service account's key, verified with a key of your own.",
            ),
        ],
        ..Manual::DEFAULT
    },
};

fn command() -> Command {
    let switch = |id: &'static str| Arg::new(id).long(id).action(ArgAction::SetTrue);
    let file = |id: &'static str| {
        Arg::new(id)
            .long(id)
            .value_name("FILE")
            .value_parser(args::path_parser())
            .value_hint(ValueHint::FilePath)
    };
    Command::new("gangue")
        .long_about(
            "Gets files from Google Storage and the web. A file appears only when its signature is right; an interrupted \
             download resumes where it stopped.",
        )
        .subcommand(
            Command::new("get")
                .about("Download and verify a file")
                .long_about(
                    "Download a file together with its signature, which is at the same place with .sig added. The file \
                     appears only when the signature is right; until then it grows as PATH.part (as PATH.2.part and so \
                     on, where another program's file has that name).\n\n\
                     URL is gs://BUCKET/OBJECT, https://, http://, or s3://BUCKET/KEY of a public object (from the server \
                     $AWS_ENDPOINT_URL_S3 or $AWS_ENDPOINT_URL, if set, in place of Amazon's). PATH is a file or a folder \
                     [default: this folder]. A link to a file stays, and the file is replaced. With - (or a link that ends \
                     there) the file goes to standard output, when all of it has come and is right.",
                )
                .arg(Arg::new("url").value_name("URL").required(true).help("What to get"))
                .arg(
                    Arg::new("path")
                        .value_name("PATH")
                        .value_parser(value_parser!(std::path::PathBuf))
                        .value_hint(ValueHint::AnyPath)
                        .help("Where to put it"),
                )
                .arg(switch("service-auth").help("Use the credentials of this Compute Engine machine"))
                .arg(file("json-key").help("Use the service account with this key, in Google's JSON form"))
                .arg(switch("verify").default_value("true").help("Verify the signature"))
                .arg(downloads::verify_key())
                .arg(switch("keep-sig").help("Keep the signature, as PATH.sig"))
                .arg(switch("quiet").short('q').help("Do not say at the end what was got")),
        )
}

async fn run(matches: ArgMatches, context: Context) -> Result<u8> {
    match matches.subcommand() {
        Some(("get", m)) => get::run(m, &context).await?,
        // `version`, `help` and the bare name are answered for every applet before this is called.
        _ => return Err(usage("gangue has no such command")),
    }
    Ok(SUCCESS)
}
