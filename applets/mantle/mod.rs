//! `mantle`: the commands about the binary itself.

use ::mantle::applet::{Applet, Context, Manual};
use ::mantle::error::{Result, usage};
use clap::{ArgMatches, Command};

/// The record of the multicall program itself.
pub const APPLET: Applet = Applet {
    name: "mantle",
    about: "Container Linux developer tools in one binary",
    command,
    run: |matches, context| Box::pin(run(matches, context)),
    manual: Manual::DEFAULT,
};

fn command() -> Command {
    Command::new("mantle")
}

async fn run(_: ArgMatches, _: Context) -> Result<u8> {
    Err(usage("mantle has no such command"))
}
