//! A multicall program with an applet that does whatever a test wants, run in a process of its own.
//!
//! The test binary starts itself again; [`act`], a test that does nothing otherwise, then becomes that program.

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use mantle::applet::{self, Applet, Context, Manual};
use mantle::args;
use mantle::error::{Result, Section, Stop, eyre, refused_choice, usage};
use mantle::output;
use mantle::secret::Secret;

use super::{Env, Outcome, Running};

/// Holds the program's command line, its words separated by [`SEPARATOR`].
const VARIABLE: &str = "MANTLE_TOY";
const SEPARATOR: char = '\u{1f}';

/// Runs the toy: `argv[0]` is `toolbox`, `toy` or `other`.
pub fn run(env: &Env, argv: &[&str]) -> Outcome {
    let mut outcome = start(env, argv).finish();
    // What the test harness says before it calls us.
    if let Some((_, ours)) = outcome.stdout.split_once("running 1 test\n") {
        outcome.stdout = ours.to_owned();
    }
    outcome
}

/// Starts the toy.
pub fn start(env: &Env, argv: &[&str]) -> Running {
    let mut command = env.command(std::env::current_exe().unwrap());
    command.args(["--exact", "support::toy::act", "--nocapture"]);
    command.env(VARIABLE, argv.join(&SEPARATOR.to_string()));
    Running::new(command)
}

#[test]
fn act() {
    let Some(line) = std::env::var_os(VARIABLE) else { return };
    let argv = line.to_str().unwrap().split(SEPARATOR).map(Into::into).collect();
    // A thread of the harness runs this, but nothing else does anything in this process.
    let code = applet::main(&TOOLBOX, &TOYS, argv);
    #[expect(clippy::disallowed_methods, reason = "this is the end of the program that the test started")]
    std::process::exit(code.into());
}

const TOOLBOX: Applet = Applet {
    name: "toolbox",
    about: "A box of toys",
    command: || Command::new("toolbox"),
    run: |_, _| Box::pin(async { Ok(0) }),
    manual: Manual::DEFAULT,
};

static TOYS: [Applet; 2] = [
    Applet {
        name: "toy",
        about: "A toy",
        command: toy,
        run: |matches, context| Box::pin(play(matches, context)),
        manual: Manual::DEFAULT,
    },
    Applet {
        name: "other",
        about: "Another toy",
        command: || Command::new("other").arg(Arg::new("size").long("size")),
        run: |_, _| Box::pin(async { Ok(0) }),
        manual: Manual::DEFAULT,
    },
];

fn toy() -> Command {
    let switch = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    Command::new("toy")
        .arg(Arg::new("platform").short('p').long("platform").default_value("qemu"))
        .arg(Arg::new("token").long("token").env("TOY_TOKEN").value_parser(value_parser!(Secret)))
        .arg(Arg::new("zone").long("zone").env("TOY_ZONE").default_value("here"))
        .arg(args::list(Arg::new("unit").long("unit")))
        .subcommand(
            Command::new("show")
                .arg(
                    Arg::new("count")
                        .short('c')
                        .long("count")
                        .value_parser(args::parse_int::<i64>)
                        .default_value("1"),
                )
                .arg(
                    Arg::new("timeout")
                        .long("timeout")
                        .value_parser(args::parse_duration)
                        .default_value("2m0s"),
                )
                .arg(Arg::new("mode").long("mode").value_parser(["fast", "slow"]))
                .arg(Arg::new("name").long("name").required(true))
                .arg(switch("keys").short('k'))
                .arg(switch("shell").short('s').default_value("true"))
                .arg(switch("verbose").short('v'))
                .arg(Arg::new("file").num_args(0..=1)),
        )
        .subcommand(Command::new("wait").arg(switch("stubborn")))
        .subcommand(Command::new("end").arg(Arg::new("how").required(true)))
        .subcommand(Command::new("flood"))
        .subcommand(
            Command::new("group").arg(Arg::new("depth").long("depth")).subcommand(Command::new("leaf")),
        )
}

async fn play(matches: ArgMatches, context: Context) -> Result<u8> {
    match matches.subcommand() {
        Some(("show", given)) => {
            let word = |id: &str| given.get_one::<String>(id).cloned();
            output::line(format_args!("platform={:?} zone={:?}", word("platform"), word("zone")))?;
            output::line(format_args!("token={:?}", given.get_one::<Secret>("token")))?;
            output::line(format_args!(
                "secret length={:?}",
                given.get_one::<Secret>("token").map(|t| t.expose().len())
            ))?;
            output::line(format_args!("unit={:?}", args::strings(given, "unit")))?;
            output::line(format_args!("name={:?} mode={:?}", word("name"), word("mode")))?;
            output::line(format_args!("count={:?}", given.get_one::<i64>("count").unwrap()))?;
            output::line(format_args!("timeout={:?}", given.get_one::<Duration>("timeout").unwrap()))?;
            for id in ["keys", "shell", "verbose"] {
                output::line(format_args!("{id}={}", args::flag(given, id)))?;
            }
            output::line(format_args!("level={}", args::log_level(&matches)))?;
            output::line(context.command_line.join(" "))?;
            Ok(0)
        }
        Some(("wait", given)) => {
            context.on_second_signal("the ledger is in /toy/ledger");
            output::line("ready")?;
            context.cancel.cancelled().await;
            output::line("cleaning up")?;
            if args::flag(given, "stubborn") {
                std::future::pending::<()>().await;
            }
            Err(Stop::Interrupted.into())
        }
        Some(("end", given)) => match given.get_one::<String>("how").unwrap().as_str() {
            "well" => Ok(0),
            "warned" => Ok(77),
            "usage" => Err(usage("two files make no sense")),
            "refused" => Err(refused_choice("platform", "qmu", &["aws", "qemu"])),
            "panic" => {
                // Runs for ever on a thread that dropping the runtime would wait for.
                let (sender, receiver) = std::sync::mpsc::channel::<()>();
                std::mem::forget(sender);
                drop(tokio::task::spawn_blocking(move || receiver.recv()));
                panic!("toy is broken");
            }
            how => Err(eyre!("no way to end {how}").wrap_err("cannot end")).suggestion("end well"),
        },
        Some(("flood", _)) => {
            while !output::closed() {
                output::line("water")?;
            }
            Ok(0)
        }
        Some(("group", _)) => Ok(0),
        _ => unreachable!("a bare group is never run"),
    }
}
