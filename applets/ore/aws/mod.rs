//! `ore aws`: Amazon Web Services.

mod gc;
mod images;
mod upload;

use ::mantle::applet::Context;
use ::mantle::cloud::aws::api::Api;
use ::mantle::cloud::aws::failure::Error;
use ::mantle::cloud::aws::{Account, Keys};
use ::mantle::error::{Result, Section as _, Stop, WrapErr as _, eyre, usage};
use clap::{ArgMatches, Args as _, Command, FromArgMatches as _};
use color_eyre::eyre::Report;

/// What the options of this group begin with where they stand beside those of other platforms.
const PREFIX: &str = "aws-";

/// The group and its commands.
pub fn command() -> Command {
    let group = Command::new("aws").about("aws image and vm utilities");
    let group = Keys::augment_args(Account::augment_args(group));
    // Only the names on the command line: the ids are those that the structs are read back by.
    let group =
        group.mut_args(|a| match a.get_long().and_then(|l| l.strip_prefix(PREFIX)).map(str::to_owned) {
            Some(name) => a.long(name),
            None => a,
        });
    group
        .subcommand(images::copy_command())
        .subcommand(images::delete_command())
        .subcommand(gc::command())
        .subcommand(images::initialize_command())
        .subcommand(images::list_command())
        .subcommand(images::list_regions_command())
        .subcommand(upload::command())
}

/// Runs one of the commands.
pub async fn run(matches: &ArgMatches, context: &Context) -> Result<()> {
    let account = account(matches)?;
    match matches.subcommand() {
        Some(("copy-image", m)) => images::copy(m, &account, context).await,
        Some(("delete-image", m)) => images::delete(m, &account).await,
        Some(("gc", m)) => gc::run(m, &account, context).await,
        Some(("initialize", m)) => images::initialize(m, &account).await,
        Some(("list", m)) => images::list(m, &account).await,
        Some(("list-regions", m)) => images::list_regions(m, &account).await,
        Some(("upload", m)) => upload::run(m, &account, context).await,
        _ => Err(usage("ore aws has no such command")),
    }
}

/// Whose AWS the options name.
fn account(matches: &ArgMatches) -> Result<Account> {
    let account = Account::from_arg_matches(matches).map_err(Report::new)?;
    let keys = Keys::from_arg_matches(matches).map_err(Report::new)?;
    Ok(account.with_keys(keys))
}

/// The APIs. No request is sent.
async fn api(account: &Account) -> Result<Api> {
    let api = Api::new(account).await.wrap_err("could not create AWS client");
    api.suggestion(
        "see whether `aws sts get-caller-identity` works with the same --profile, --region and variables",
    )
}

/// Asks who we are, before anything else; the number of the account.
async fn preflight(api: &Api) -> Result<String> {
    api.caller_account().await.wrap_err("could not complete AWS preflight check")
}

/// The library's error for people; an interruption has been told about.
fn explain(error: Error) -> Report {
    if error.is_interruption() { Stop::Interrupted.into() } else { eyre!(error) }
}

/// Runs something that can be dropped at any point: it makes nothing.
async fn unless_cancelled<T>(context: &Context, work: impl Future<Output = Result<T>>) -> Result<T> {
    context.cancel.run_until_cancelled(work).await.unwrap_or(Err(Stop::Interrupted.into()))
}
