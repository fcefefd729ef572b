//! What all command lines share: Go's spellings of values, lists, secrets, and the options every applet has.
//!
//! Applets declare plain clap arguments; [`conventions`] then makes the whole tree behave as upstream's did.

use std::any::TypeId;
use std::ffi::OsString;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValue, Resettable, StringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::log::Level;
use crate::secret::Secret;

/// Ids of the options that every applet has, which configure mantle itself.
pub mod id {
    /// `--config`
    pub const CONFIG: &str = "config";
    /// `--no-config`
    pub const NO_CONFIG: &str = "no-config";
    /// `--log-level`
    pub const LOG_LEVEL: &str = "log-level";
    /// `-v`, `--verbose`: not `verbose`, because some commands have a `--verbose` of their own, which hides this.
    pub const LOG_VERBOSE: &str = "log-verbose";
    /// `-d`, `--debug`
    pub const LOG_DEBUG: &str = "log-debug";
}

/// The heading of the options that every applet has.
pub const HEADING: &str = "General options";

/// Whether an option's value is a [`Secret`].
pub fn is_secret(arg: &Arg) -> bool {
    arg.get_value_parser().type_id() == TypeId::of::<Secret>()
}

/// Blanks the values of secret options in a command line for logs and reports.
pub fn mask(command: &Command, argv: &[OsString]) -> Vec<String> {
    let mut secrets = Vec::new();
    collect_secrets(command, &mut secrets);
    let mut blank_next = false;
    let mut options = true;
    let mut masked = Vec::with_capacity(argv.len());
    for word in argv {
        let word = word.to_string_lossy();
        options &= word != "--" || blank_next;
        let name = word.strip_prefix("--").filter(|_| options);
        let (name, value) = name.map_or((None, None), |n| match n.split_once('=') {
            Some((n, v)) => (Some(n), Some(v)),
            None => (Some(n), None),
        });
        let secret = name.is_some_and(|n| secrets.iter().any(|s| s == n));
        masked.push(match (blank_next, secret, value) {
            (true, ..) => Secret::MASK.into(),
            (_, true, Some(_)) => format!("--{}={}", name.unwrap_or_default(), Secret::MASK),
            _ => word.clone().into_owned(),
        });
        blank_next = !blank_next && secret && value.is_none();
    }
    masked
}

fn collect_secrets(command: &Command, into: &mut Vec<String>) {
    for arg in command.get_arguments().filter(|a| is_secret(a)) {
        debug_assert!(arg.get_short().is_none(), "mask() does not look for short options");
        into.extend(arg.get_long_and_visible_aliases().into_iter().flatten().map(String::from));
    }
    command.get_subcommands().for_each(|c| collect_secrets(c, into));
}

/// Reads a truth value as Go's `strconv.ParseBool` does.
///
/// # Errors
/// The reason, when it is none of Go's spellings.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("not a truth value; use true or false".into()),
    }
}

/// A switch as Go has it: `--flag`, `--flag=true`, `--flag=false`. A default the declaration states is kept.
///
/// [`conventions`] turns every `SetTrue` flag into this, so that applets need not call it.
pub fn go_bool(arg: Arg) -> Arg {
    let arg = if arg.get_default_values().is_empty() { arg.default_value("false") } else { arg };
    let off = arg.get_default_values().first().is_some_and(|v| v == "false");
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .value_parser(parse_bool)
        .value_name("bool")
        .hide_possible_values(true)
        .hide_default_value(off)
}

/// Whether [`go_bool`] made this argument.
pub fn is_go_bool(arg: &Arg) -> bool {
    arg.is_require_equals_set() && arg.get_value_parser().type_id() == TypeId::of::<bool>()
}

/// Reads a whole number as Go does: decimal, `0x`, `0o`, `0b` or a leading 0 for octal, with `_` between digits.
///
/// # Errors
/// The reason, when it is no number or does not fit.
pub fn parse_int<T: TryFrom<i128>>(text: &str) -> Result<T, String> {
    let (negative, digits) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    let digits = digits.replace('_', "");
    if digits.starts_with(['-', '+']) {
        return Err("not a whole number".into());
    }
    let value = i128::from_str_radix(&digits, radix).map_err(|_| "not a whole number".to_owned())?;
    T::try_from(if negative { -value } else { value }).map_err(|_| "number out of range".into())
}

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a duration as Go's `time.ParseDuration` does: `5h0m0s`, `1.5h`, `300ms`, `0`; never negative.
///
/// # Errors
/// The reason, when it is no such duration or longer than 290 years.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const HELP: &str = "not a duration; write it like 90s, 1.5h or 5h0m0s";
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(HELP.into());
    }
    if rest.starts_with('-') {
        return Err("a duration cannot be negative here".into());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let number_end =
            rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or("missing unit; write it like 90s")?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let &(_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(HELP)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(HELP.into());
        }
        let too_long = || "duration too long".to_owned();
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| too_long())? };
        let mut nanos = whole.checked_mul(scale).ok_or_else(too_long)?;
        let mut place = scale;
        for digit in fraction.bytes() {
            // Exact to the nanosecond: no unit has a factor that a decimal fraction could not reach by then.
            let weight = u128::from(digit - b'0') * u128::from(place) / 10;
            nanos = nanos.checked_add(u64::try_from(weight).map_err(|_| too_long())?).ok_or_else(too_long)?;
            place /= 10;
        }
        total = total.checked_add(nanos).filter(|t| i64::try_from(*t).is_ok()).ok_or_else(too_long)?;
        rest = tail;
    }
    Ok(Duration::from_nanos(total))
}

/// Parses paths; the empty one too, which stands for none as it did upstream.
pub fn path_parser() -> impl clap::builder::TypedValueParser<Value = std::path::PathBuf> {
    clap::builder::TypedValueParser::map(clap::builder::OsStringValueParser::new(), std::path::PathBuf::from)
}

/// An option that may be repeated and whose values may hold several, separated by commas.
pub fn list(arg: Arg) -> Arg {
    arg.action(ArgAction::Append).value_delimiter(',')
}

/// The values of a [`list`] option; the empty ones, as from `--key ""`, left out as Go does.
pub fn strings(matches: &ArgMatches, id: &str) -> Vec<String> {
    matches.get_many::<String>(id).into_iter().flatten().filter(|v| !v.is_empty()).cloned().collect()
}

/// All values of an argument, the empty ones too: words of a command line.
pub fn words(matches: &ArgMatches, id: &str) -> Vec<String> {
    matches.get_many::<String>(id).into_iter().flatten().cloned().collect()
}

/// Reads any text, and tells help and completions what it may be.
///
/// Texts that are none of these are refused by who uses them, who also knows why.
#[derive(Clone, Copy, Debug)]
pub struct Choices(pub fn() -> Vec<PossibleValue>);

impl TypedValueParser for Choices {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.0)().into_iter()))
    }
}

/// Reads `--log-level`, offering the names to completions.
#[derive(Clone)]
struct LevelParser;

impl TypedValueParser for LevelParser {
    type Value = Level;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<Level, clap::Error> {
        StringValueParser::new().try_map(|s| Level::from_str(&s)).parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let names = ["CRITICAL", "ERROR", "WARNING", "NOTICE", "INFO", "DEBUG", "TRACE"];
        Some(Box::new(names.into_iter().map(PossibleValue::new)))
    }
}

/// The options every applet has: how much to log, which configuration files to read.
fn general_args(command: Command) -> Command {
    command
        .arg(
            Arg::new(id::LOG_LEVEL)
                .long("log-level")
                .value_name("LEVEL")
                .value_parser(LevelParser)
                .default_value("NOTICE")
                .help("Show log messages up to this level")
                .help_heading(HEADING),
        )
        .arg(
            Arg::new(id::LOG_DEBUG)
                .short('d')
                .long("debug")
                .action(ArgAction::SetTrue)
                .help("Alias for --log-level=DEBUG")
                .help_heading(HEADING),
        )
        .arg(
            Arg::new(id::CONFIG)
                .long("config")
                .value_name("FILE")
                .value_parser(clap::value_parser!(std::path::PathBuf))
                .value_hint(clap::ValueHint::FilePath)
                .help("Read this configuration file instead of ~/.config/mantle/config.yaml and /etc/mantle/config.yaml")
                .help_heading(HEADING),
        )
        .arg(
            Arg::new(id::NO_CONFIG)
                .long("no-config")
                .action(ArgAction::SetTrue)
                .help("Read no configuration file")
                .help_heading(HEADING),
        )
        .arg(verbose_arg())
}

fn verbose_arg() -> Arg {
    go_bool(
        Arg::new(id::LOG_VERBOSE)
            .short('v')
            .long("verbose")
            .help("Alias for --log-level=INFO")
            .help_heading(HEADING),
    )
}

/// Makes a tree of commands behave as all of mantle's do:
/// general options; options of a group also after its subcommands; Go's truth values (`--flag=false`);
/// the last of repeated options wins; a value may start with a hyphen; values of the environment stay out of help.
pub fn conventions(command: Command) -> Command {
    let owner = command.get_name().to_owned();
    general_args(command)
        .args_override_self(true)
        .mut_subcommands(below_root)
        .mut_args(|a| convention(a, Some(&owner)))
}

fn below_root(command: Command) -> Command {
    let group = command.has_subcommands().then(|| command.get_name().to_owned());
    let shadowed =
        command.get_arguments().any(|a| a.get_long() == Some("verbose") || a.get_short() == Some('v'));
    // Not clap's `global`: the command's own --verbose must be able to hide it.
    let command = if shadowed { command } else { command.arg(verbose_arg()) };
    command.mut_subcommands(below_root).mut_args(|a| convention(a, group.as_deref()))
}

/// `group` is the name of the command that declares the option, if it is a group.
fn convention(arg: Arg, group: Option<&str>) -> Arg {
    let arg = match arg.get_action() {
        ArgAction::SetTrue => go_bool(arg),
        _ => arg,
    };
    let arg = if arg.get_env().is_some() { arg.hide_env_values(true) } else { arg };
    if arg.is_positional() {
        return arg;
    }
    let one_value = arg.get_action().takes_values() && arg.get_num_args().is_none_or(|n| n == 1.into());
    let arg = if one_value { arg.allow_hyphen_values(true) } else { arg };
    match group {
        // Apart from the options of the command in whose help it will stand.
        Some(owner) if arg.get_help_heading().is_none() => {
            arg.global(true).help_heading(format!("Options of {owner}"))
        }
        Some(_) if arg.get_id() != id::LOG_VERBOSE => arg.global(true),
        _ => arg,
    }
}

/// Treats empty environment variables as absent, as Go programs do; clap would take the empty value.
pub fn ignore_empty_environment(command: Command) -> Command {
    command.mut_subcommands(ignore_empty_environment).mut_args(|a| match a.get_env() {
        Some(name) if std::env::var_os(name).is_some_and(|v| v.is_empty()) => a.env(Resettable::Reset),
        _ => a,
    })
}

/// The log level that the command line asks for: `-d` beats `-v`, which beats `--log-level`.
pub fn log_level(matches: &ArgMatches) -> Level {
    if flag(matches, id::LOG_DEBUG) {
        return Level::Debug;
    }
    let mut at = Some(matches);
    while let Some(here) = at {
        if flag(here, id::LOG_VERBOSE) {
            return Level::Info;
        }
        at = here.subcommand().map(|(_, below)| below);
    }
    matches.try_get_one(id::LOG_LEVEL).ok().flatten().copied().unwrap_or(Level::Notice)
}

/// Whether a switch is there and on.
pub fn flag(matches: &ArgMatches, id: &str) -> bool {
    matches.try_get_one::<bool>(id).ok().flatten().copied().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        let nanos = |text: &str| parse_duration(text).map(|d| d.as_nanos());
        for (text, expected) in [
            ("0", 0),
            ("2m0s", 120_000_000_000),
            ("5h0m0s", 18_000_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("300ms", 300_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("+7ns", 7),
            ("1us2\u{b5}s3\u{3bc}s", 6_000),
            ("0.100000000000000000000h", 360_000_000_000),
        ] {
            assert_eq!(nanos(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "5",
            "-1s",
            "1x",
            "s",
            ".s",
            "1..5s",
            "1.5.5s",
            "+",
            "99999999999999999999h",
            "3000000h",
            "1h5",
        ] {
            assert!(nanos(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_those_of_go() {
        for (text, expected) in [
            ("10", 10),
            ("-3", -3),
            ("+3", 3),
            ("0x1F", 31),
            ("0b11", 3),
            ("0o17", 15),
            ("017", 15),
            ("1_000", 1000),
            ("0", 0),
        ] {
            assert_eq!(parse_int::<i64>(text), Ok(expected), "{text}");
        }
        for text in ["", "-", "--3", "0x", "1.5", "+-3", "0x-1"] {
            assert!(parse_int::<i64>(text).is_err(), "{text}");
        }
        assert!(parse_int::<u8>("256").is_err() && parse_int::<u8>("-1").is_err());
    }

    #[test]
    fn truth_values_are_those_of_go() {
        assert!(["1", "t", "T", "true", "TRUE", "True"].iter().all(|t| parse_bool(t) == Ok(true)));
        assert!(["0", "f", "F", "false", "FALSE", "False"].iter().all(|t| parse_bool(t) == Ok(false)));
        assert!(["", "yes", "tRUE", "2"].iter().all(|t| parse_bool(t).is_err()));
    }

    #[test]
    fn masks_every_way_to_give_a_secret() {
        let secret = Arg::new("key").long("api-key").value_parser(clap::value_parser!(Secret));
        let command =
            Command::new("x").arg(Arg::new("name").long("name")).subcommand(Command::new("y").arg(secret));
        let masked =
            |words: &[&str]| mask(&command, &words.iter().map(OsString::from).collect::<Vec<_>>()).join(" ");
        assert_eq!(masked(&["x", "y", "--api-key", "s", "--name", "n"]), "x y --api-key *** --name n");
        assert_eq!(masked(&["x", "y", "--api-key=s=t", "--name=n"]), "x y --api-key=*** --name=n");
        assert_eq!(masked(&["x", "y", "--api-key", "--api-key", "n"]), "x y --api-key *** n");
        assert_eq!(masked(&["x", "--", "--api-key", "s"]), "x -- --api-key s");
        assert_eq!(masked(&["x", "y", "--api-key"]), "x y --api-key");
        assert_eq!(format!("{:?}", Secret::from("s".to_owned())), "***");
    }

    #[test]
    fn the_tree_is_sound() {
        let switch = Arg::new("deep").long("deep").action(ArgAction::SetTrue);
        let tree = Command::new("x")
            .arg(switch.clone())
            .subcommand(Command::new("y").arg(Arg::new("verbose").short('v')));
        conventions(tree).debug_assert();
        assert!(is_go_bool(&go_bool(switch)));
    }
}
