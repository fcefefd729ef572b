//! `ore gcloud`: Google Cloud.

mod tree;

use std::path::PathBuf;

use ::mantle::applet::Context;
use ::mantle::args;
use ::mantle::cloud::google::sources::Choice;
use ::mantle::cloud::google::storage::Storage;
use ::mantle::error::{Result, usage};
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint};

use crate::downloads;

/// The group and its commands.
pub fn command() -> Command {
    let text = |id: &'static str, name: &'static str| Arg::new(id).long(id).value_name(name);
    Command::new("gcloud")
        .about("GCloud image creation and upload tools")
        .arg(
            text("project", "PROJECT")
                .default_value("coreos-gce-testing")
                .help("Project of instances and images"),
        )
        .arg(text("zone", "ZONE").default_value("us-central1-a").help("Zone of instances"))
        .arg(text("basename", "NAME").default_value("kola").help("What names of instances begin with"))
        .arg(
            text("image", "IMAGE")
                .default_value("")
                .hide_default_value(true)
                .help("Has no effect on these commands"),
        )
        .arg(
            text("machinetype", "TYPE")
                .default_value("n1-standard-1")
                .help("Has no effect on these commands"),
        )
        .arg(text("disktype", "TYPE").default_value("pd-ssd").help("Has no effect on these commands"))
        .arg(text("network", "NETWORK").default_value("default").help("Has no effect on these commands"))
        .arg(
            Arg::new("service-auth")
                .long("service-auth")
                .action(ArgAction::SetTrue)
                .help("Use the credentials of this Compute Engine machine"),
        )
        .arg(
            text("json-key", "FILE")
                .value_parser(OsStringValueParser::new().map(PathBuf::from)) // may be empty
                .value_hint(ValueHint::FilePath)
                .help("Use the service account with this key, in Google's JSON form"),
        )
        .arg(text("endpoint", "URL").help("Compute Engine API to use in place of Google's"))
        .arg(text("storage-endpoint", "URL").help("Cloud Storage API to use in place of Google's"))
        .subcommand(tree::index_command())
        .subcommand(tree::sync_command())
}

/// Runs one of the commands.
pub async fn run(matches: &ArgMatches, context: &Context) -> Result<()> {
    match matches.subcommand() {
        Some(("index", m)) => tree::index(m, context).await,
        Some(("sync", m)) => tree::sync(m, context).await,
        _ => Err(usage("ore gcloud has no such command")),
    }
}

/// Cloud Storage as the group's options say.
fn storage(matches: &ArgMatches) -> Result<Storage> {
    let choice =
        Choice { service: args::flag(matches, "service-auth"), key: downloads::path(matches, "json-key") };
    let endpoint = matches.get_one::<String>("storage-endpoint").filter(|e| !e.is_empty());
    downloads::storage_at(choice, downloads::SCOPES, endpoint.map(String::as_str))
}
