//! One binary, many programs: chooses the applet, reads its command line, runs it and ends the process in order.

use std::ffi::OsString;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgMatches, Command};
use color_eyre::eyre::{Report, WrapErr};
use futures_util::future::LocalBoxFuture;
use tokio_util::sync::CancellationToken;

use crate::{args, complete, config, error, log, output, shutdown};

/// What an applet does with its parsed command line: it returns the exit status, or a report.
pub type Run = fn(ArgMatches, Context) -> LocalBoxFuture<'static, error::Result<u8>>;

/// One program of the binary: chosen by the name it is called by, or by mantle's first argument.
pub struct Applet {
    /// Name of the program.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// Makes the tree of commands and options, without what all applets share ([`tree`] adds that).
    pub command: fn() -> Command,
    /// Runs the parsed command line.
    pub run: Run,
    /// What its man page says beyond the options.
    pub manual: Manual,
}

/// Terms with their descriptions.
pub type Terms = &'static [(&'static str, &'static str)];

/// A section of a man page: its title, and terms with their descriptions.
pub type Section = (&'static str, Vec<(String, String)>);

/// Sections of a man page that cannot be derived from the options: pairs of a term and its description.
#[derive(Clone, Copy)]
pub struct Manual {
    /// Files read or written, after mantle's own configuration files; in parts, which applets share.
    pub files: &'static [Terms],
    /// Environment variables, after those that are bound to options or read by all applets; in parts.
    pub environment: &'static [Terms],
    /// Exit statuses, in place of the common ones.
    pub exit_status: Terms,
    /// Command lines and what they do.
    pub examples: Terms,
    /// Sections of its own: titles and terms.
    pub sections: fn() -> Vec<Section>,
}

impl Manual {
    /// Nothing special.
    pub const DEFAULT: Self = Self {
        files: &[],
        environment: &[],
        exit_status: error::EXIT_STATUS,
        examples: &[],
        sections: Vec::new,
    };
}

/// What an applet gets besides its arguments.
#[derive(Clone)]
pub struct Context {
    /// Cancelled by the first SIGINT, SIGTERM or SIGHUP; the second one ends the process.
    pub cancel: CancellationToken,
    /// The command line as typed, the values of secret options blanked.
    pub command_line: Vec<String>,
    parting: Arc<Mutex<Option<String>>>,
}

impl Context {
    /// Sets what a second signal prints before leaving: where the record of what is left over lies.
    pub fn on_second_signal(&self, text: impl Into<String>) {
        if let Ok(mut place) = self.parting.lock() {
            *place = Some(text.into());
        }
    }
}

/// How long work on blocking threads may take to end after the applet has returned.
const FAREWELL: Duration = Duration::from_millis(500);

/// The whole program: `top` is mantle itself, for everything but the applets' names. Returns the exit status.
pub fn main(top: &Applet, applets: &[Applet], argv: Vec<OsString>) -> u8 {
    if let [_, call, shell, words @ ..] = &argv[..]
        && call == complete::CALL
    {
        let answer = complete::answer(top, applets, &shell.to_string_lossy(), words);
        return finish(output::write(answer.as_bytes()));
    }
    let call = Call::resolve(top, applets, argv);
    let is_top = std::ptr::eq(call.applet, top);
    let base = if is_top { top_tree(top, applets) } else { tree(call.applet) };
    let base = base.bin_name(call.name.clone());
    let mut command = base.clone();
    let parsed =
        match config::parse(&mut command, &config::Scope { top, applets, called: call.applet }, &call.argv) {
            Ok(matches) => matches,
            Err(config::ParseError::Clap(e)) if e.kind() == ErrorKind::DisplayVersion => {
                return version(call.applet, is_top);
            }
            Err(config::ParseError::Clap(mut e)) => {
                suggest(&mut e, &command, &call.argv);
                // To stdout for help, else stderr; a closed pipe is no error.
                if let Err(failed) = e.print()
                    && !e.use_stderr()
                    && failed.kind() != std::io::ErrorKind::BrokenPipe
                {
                    let text = format!("cannot write to standard output: {failed}");
                    return finish(Err(std::io::Error::new(failed.kind(), text)));
                }
                return u8::try_from(e.exit_code()).unwrap_or(error::FAILURE);
            }
            Err(config::ParseError::Config(e)) => {
                error::install(false);
                return fail(&Report::new(e), None);
            }
        };
    if is_top && args::flag(&parsed, "list") {
        return finish(applets.iter().try_for_each(|a| output::line(a.name)));
    }
    if parsed.subcommand_name() == Some("version") {
        return version(call.applet, is_top);
    }
    if let Some(group) = bare_group(&mut command, &parsed) {
        let help = group.render_help();
        if is_top && parsed.subcommand_name().is_none() {
            let _ = write!(std::io::stderr(), "{help}");
            return error::USAGE;
        }
        return finish(output::write(help.to_string().as_bytes()));
    }
    let level = args::log_level(&parsed);
    log::set_level(level);
    crate::info!("cli", "Started logging at level {level}");
    error::install(level >= log::Level::Debug);
    let mut command_line: Vec<String> = call.name.split(' ').map(String::from).collect();
    command_line.extend(args::mask(&base, &call.argv).into_iter().skip(1));
    execute(call.applet, parsed, command_line)
}

/// The applet's tree of commands with everything that all applets share.
pub fn tree(applet: &Applet) -> Command {
    let command = (applet.command)()
        .name(applet.name)
        .about(applet.about)
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand(Command::new("version").about("Print the version number and exit"));
    args::conventions(command)
}

/// Mantle's own tree: its commands, and the applets by name only.
pub fn top_tree(top: &Applet, applets: &[Applet]) -> Command {
    tree(top)
        .arg(
            Arg::new("list")
                .long("list")
                .action(clap::ArgAction::SetTrue)
                .help("Print the names of the applets, one a line"),
        )
        .subcommands(applets.iter().map(|a| Command::new(a.name).about(a.about)))
}

/// Which applet was called, and what its usage texts call it.
pub(crate) struct Call<'a> {
    /// The applet.
    pub(crate) applet: &'a Applet,
    name: String,
    /// The program's name, then its arguments.
    pub(crate) argv: Vec<OsString>,
}

impl<'a> Call<'a> {
    pub(crate) fn resolve(top: &'a Applet, applets: &'a [Applet], mut argv: Vec<OsString>) -> Self {
        let find = |word: &std::ffi::OsStr| applets.iter().find(|a| word == a.name);
        if argv.is_empty() {
            argv.push(top.name.into());
        }
        if let Some(applet) = Path::new(&argv[0]).file_name().and_then(find) {
            return Self { applet, name: applet.name.into(), argv };
        }
        let first = first_word(&argv);
        let helped = argv.get(first).is_some_and(|w| w == "help");
        let at = first + usize::from(helped);
        match argv.get(at).and_then(|w| find(w)) {
            Some(applet) => {
                argv.remove(at); // options before the applet's name, and `help`, become the applet's
                Self { applet, name: format!("{} {}", top.name, applet.name), argv }
            }
            None => Self { applet: top, name: top.name.into(), argv },
        }
    }
}

/// The index of the first argument that is neither a general option nor the value of one.
fn first_word(argv: &[OsString]) -> usize {
    let mut at = 1;
    while let Some(word) = argv.get(at).and_then(|w| w.to_str()) {
        let name = word.split_once('=').map_or(word, |(name, _)| name);
        let grouped = name.len() > 1 && name.starts_with('-') && name[1..].chars().all(|c| "vd".contains(c));
        at += match name {
            "--log-level" | "--config" if name == word => 2,
            "--log-level" | "--config" | "--no-config" | "--verbose" | "--debug" => 1,
            _ if grouped => 1,
            _ => break,
        };
    }
    at
}

/// Adds the nearest subcommand to an error about an unknown one, where clap sees none: it does not think of slips in
/// short words.
fn suggest(error: &mut clap::Error, command: &Command, argv: &[OsString]) {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand).cloned() else { return };
    if error.get(ContextKind::SuggestedSubcommand).is_some() {
        return;
    }
    let mut group = command;
    for given in argv.iter().skip(1).filter_map(|w| w.to_str()).take_while(|w| *w != word) {
        group = group.find_subcommand(given).unwrap_or(group);
    }
    let names = group.get_subcommands().filter(|c| !c.is_hide_set()).map(Command::get_name);
    if let Some(near) = crate::text::nearest(&word, names) {
        let near = ContextValue::Strings(vec![near.to_owned()]);
        error.insert(ContextKind::SuggestedSubcommand, near);
    }
}

/// The command that was named, if it is a mere group of commands that needs one of them to do anything.
fn bare_group<'c>(command: &'c mut Command, matches: &ArgMatches) -> Option<&'c mut Command> {
    if let Some((name, below)) = matches.subcommand() {
        return bare_group(command.find_subcommand_mut(name)?, below);
    }
    let group = command.get_subcommands().any(|c| c.get_name() != "help");
    (group && command.get_positionals().next().is_none()).then_some(command)
}

fn version(applet: &Applet, is_top: bool) -> u8 {
    let program = if is_top { applet.name.to_owned() } else { format!("mantle/{}", applet.name) };
    finish(output::line(format_args!("{program} version {}", env!("CARGO_PKG_VERSION"))))
}

fn finish(written: std::io::Result<()>) -> u8 {
    match written {
        Ok(()) => error::SUCCESS,
        Err(e) => {
            error::install(false); // else the report would tell where it was made
            fail(&Report::new(e), None)
        }
    }
}

fn fail(report: &Report, signal: Option<i32>) -> u8 {
    let text = match report.downcast_ref::<clap::Error>() {
        Some(usage) => usage.render().to_string(),
        None => error::render(report),
    };
    let _ = std::io::stderr().write_all(text.as_bytes()); // nobody is left to tell
    error::exit_code(report, signal)
}

fn execute(applet: &Applet, matches: ArgMatches, command_line: Vec<String>) -> u8 {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(&Report::new(e).wrap_err("cannot start the worker threads"), None),
    };
    // Caught, because dropping a runtime waits for its blocking threads, however long they take.
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let parting = Arc::new(Mutex::new(None::<String>));
            let last_words = parting.clone();
            let cancel = shutdown::install(move || {
                crate::ssh::restore_terminal();
                if let Some(text) = last_words.lock().ok().and_then(|t| t.clone()) {
                    crate::critical!("cli", "{text}");
                }
            })
            .wrap_err("cannot handle signals")?;
            (applet.run)(matches, Context { cancel, command_line, parting }).await
        })
    }));
    let code = match outcome {
        Ok(Ok(error::SUCCESS)) => error::SUCCESS,
        Ok(Ok(code)) => shutdown::received().map_or(code, shutdown::exit_code),
        Ok(Err(report)) => fail(&report, shutdown::received()),
        Err(_) => error::FAILURE, // the panic hook has told why
    };
    runtime.shutdown_timeout(FAREWELL);
    code
}
