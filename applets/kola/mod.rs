//! `kola`: the test runner for Container Linux and its kin.

use clap::{ArgMatches, Command};
use mantle::applet::{Applet, Context, Manual};
use mantle::error::{Result, usage};

/// The applet's record.
pub const APPLET: Applet = Applet {
    name: "kola",
    about: "The CoreOS Superdeep Borehole",
    command,
    run: |matches, context| Box::pin(run(matches, context)),
    manual: Manual::DEFAULT,
};

fn command() -> Command {
    Command::new("kola")
}

async fn run(_: ArgMatches, _: Context) -> Result<u8> {
    // `version`, `help` and the bare name are answered for every applet before this is called.
    Err(usage("kola has no such command"))
}
