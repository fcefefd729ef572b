//! kolet: runs native functions of kola's tests on the guest.

use ::mantle::applet::{Applet, Context, Manual};
use ::mantle::error::{Result, SUCCESS, usage};
use clap::{Arg, ArgMatches, Command};

use crate::kola::register;

/// The applet's record.
pub const APPLET: Applet = Applet {
    name: "kolet",
    about: "Native code runner for kola",
    command,
    run: |matches, context| Box::pin(run(matches, context)),
    manual: Manual::DEFAULT,
};

fn command() -> Command {
    Command::new("kolet")
        .long_about("Runs on guests, sent there by kola; generally not invoked by hand.")
        .subcommand(
            Command::new("run")
                .about("Run a native function of a test")
                .arg(
                    Arg::new("test")
                        .value_name("TEST")
                        .required(true)
                        .help("Name of a test that has native functions"),
                )
                .arg(Arg::new("function").value_name("FUNC").required(true).help("Name of one of them")),
        )
}

async fn run(matches: ArgMatches, _context: Context) -> Result<u8> {
    let Some(("run", matches)) = matches.subcommand() else {
        return Err(usage("kolet has no such command"));
    };
    let word = |id| matches.get_one::<String>(id).map_or("", String::as_str);
    let (name, function) = (word("test"), word("function"));
    let test = register::named(name).filter(|t| !t.native.is_empty()).ok_or_else(|| {
        let with_natives: Vec<&str> =
            register::all().filter(|t| !t.native.is_empty()).map(|t| t.name.as_ref()).collect();
        usage(format!("no test {name:?} with native functions; there are {}", with_natives.join(", ")))
    })?;
    let native = test.native.iter().find(|n| n.name == function).ok_or_else(|| {
        let names: Vec<&str> = test.native.iter().map(|n| n.name).collect();
        usage(format!("test {name} has no native function {function:?}; there are {}", names.join(", ")))
    })?;
    // Native functions block; some of them for ever, until the guest is gone.
    tokio::task::spawn_blocking(native.run).await??;
    Ok(SUCCESS)
}
