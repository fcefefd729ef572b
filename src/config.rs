//! Configuration files: YAML that mirrors the tree of commands, laid under the command line as its defaults.
//!
//! ```yaml
//! log-level: INFO            # options of every applet
//! kola:
//!   aws-region: eu-central-1
//!   spawn: { nodecount: 3 }
//! ```
//!
//! A value on the command line beats one of the environment, which beats the files, which beat the built-in one.
//! All of it derives from the declarations of the options: there is no second list of keys.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::applet::{self, Applet};
use crate::args::{self, id};
use crate::folders;
use crate::text::did_you_mean;

/// The file of the whole system; the user's lies over it, key by key.
pub const SYSTEM_FILE: &str = "/etc/mantle/config.yaml";
/// Environment variable that names the only file to read.
pub const VARIABLE: &str = "MANTLE_CONFIG";

/// Longer files are refused.
const MAX_SIZE: u64 = 64 << 10;
/// More opening than closing brackets are refused: the YAML parser takes quadratic time for them.
const MAX_BRACKETS: usize = 64;

/// The files with their meanings, for man pages.
pub const FILES: &[(&str, &str)] = &[
    (
        "$XDG_CONFIG_HOME/mantle/config.yaml",
        "The user's configuration; ~/.config if the variable is not set.",
    ),
    (SYSTEM_FILE, "The system's configuration; the user's lies over it, key by key."),
];

/// The environment variables that every applet reads, for man pages.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    (VARIABLE, "The configuration file to read in place of the user's and the system's."),
    ("NO_COLOR", "If set and not empty, nothing is coloured."),
];

/// Why the configuration files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is there but cannot be read, or was asked for and is not there.
    #[error("cannot read configuration {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not YAML, an unknown key, or a value that its option refuses.
    #[error("{}{}: {reason}", .path.display(), .line.map(|n| format!(", line {n}")).unwrap_or_default())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where, if known; counted from 1.
        line: Option<usize>,
        /// What is wrong.
        reason: String,
    },
}

/// The values of one key, and the file they are from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// One value, or the elements of a list.
    pub values: Vec<String>,
    /// Where they were found.
    pub file: PathBuf,
}

/// What the files say: by key, such as `kola.spawn.nodecount`.
pub type Settings = BTreeMap<String, Setting>;

/// Why a command line could not be parsed.
#[derive(Debug)]
pub enum ParseError {
    /// It is wrong, or asks for help.
    Clap(clap::Error),
    /// The configuration is wrong.
    Config(Error),
}

/// The applets among which a command line was addressed to one.
pub struct Scope<'a> {
    /// Mantle itself, whose options and commands may stand at the top of a file beside the applets' names.
    pub top: &'a Applet,
    /// All applets.
    pub applets: &'a [Applet],
    /// The one called, which may be `top`.
    pub called: &'a Applet,
}

impl Scope<'_> {
    fn is_top(&self) -> bool {
        self.called.name == self.top.name
    }
}

/// Parses a command line over environment, configuration files and built-in values.
///
/// `command` is the tree of the applet called; it is left as clap used it, so that help can be rendered from it.
///
/// # Errors
/// As [`ParseError`] says.
pub fn parse(command: &mut Command, scope: &Scope<'_>, argv: &[OsString]) -> Result<ArgMatches, ParseError> {
    let base = args::ignore_empty_environment(std::mem::take(command));
    *command = base.clone();
    let first = command.try_get_matches_from_mut(argv);
    let (explicit, disabled) = match &first {
        Ok(matches) if matches!(matches.subcommand_name(), Some("version" | "generate")) => (None, true),
        Ok(matches) => (matches.get_one::<PathBuf>(id::CONFIG).cloned(), args::flag(matches, id::NO_CONFIG)),
        Err(e) if !e.use_stderr() => (None, true), // help or version
        Err(_) => scan(argv), // it may be a required option that the configuration supplies
    };
    let files = if disabled { Vec::new() } else { locate(explicit.as_deref()) };
    if files.is_empty() {
        return first.map_err(ParseError::Clap);
    }
    let mut roots = applet::top_tree(scope.top, scope.applets);
    if !scope.is_top() {
        roots = roots.mut_subcommand(scope.called.name, |_| base.clone());
    }
    let others: Vec<&str> =
        scope.applets.iter().map(|a| a.name).filter(|n| *n != scope.called.name).collect();
    let settings = read(&files, &roots, &others).map_err(ParseError::Config)?;
    warn_of_readable_secrets(&files, &roots, &settings);
    let prefix = if scope.is_top() { String::new() } else { format!("{}.", scope.called.name) };
    *command = apply(base, &prefix, &settings);
    command.try_get_matches_from_mut(argv).map_err(ParseError::Clap)
}

/// Finds `--config` and `--no-config` in a command line that does not parse.
fn scan(argv: &[OsString]) -> (Option<PathBuf>, bool) {
    let words: Vec<&str> =
        argv.iter().skip(1).filter_map(|w| w.to_str()).take_while(|w| *w != "--").collect();
    let after = |(at, word): (usize, &&str)| match word.split_once('=') {
        Some(("--config", file)) => Some(PathBuf::from(file)),
        None if *word == "--config" => words.get(at + 1).map(PathBuf::from),
        _ => None,
    };
    (words.iter().enumerate().filter_map(after).next_back(), words.contains(&"--no-config"))
}

/// The files to read, the strongest last: the one asked for, or those of the system and the user that exist.
pub fn locate(explicit: Option<&Path>) -> Vec<PathBuf> {
    if let Some(only) = explicit.map(PathBuf::from).or_else(|| folders::variable(VARIABLE)) {
        return vec![only];
    }
    let user = folders::config().map(|folder| folder.join("config.yaml"));
    // A file that exists but cannot be looked at is kept: reading it will say why.
    let there = |p: &PathBuf| !matches!(p.try_exists(), Ok(false));
    [Some(PathBuf::from(SYSTEM_FILE)), user].into_iter().flatten().filter(there).collect()
}

/// Reads files over one another; `roots` is the tree whose commands and options are the allowed keys.
///
/// The content of sections named in `opaque` is not looked at.
///
/// # Errors
/// As [`Error`] says.
pub fn read(files: &[PathBuf], roots: &Command, opaque: &[&str]) -> Result<Settings, Error> {
    let mut settings = Settings::new();
    for file in files {
        let unreadable = |source| Error::Read { path: file.clone(), source };
        let mut text = String::new();
        let opened = crate::input::open(file).map_err(unreadable)?;
        opened.take(MAX_SIZE + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > MAX_SIZE {
            return Err(unreadable(io::Error::new(io::ErrorKind::FileTooLarge, "longer than 64 KiB")));
        }
        parse_text(&text, file, roots, opaque, &mut settings)?;
    }
    Ok(settings)
}

fn parse_text(
    text: &str,
    file: &Path,
    roots: &Command,
    opaque: &[&str],
    into: &mut Settings,
) -> Result<(), Error> {
    let mut open = 0usize;
    for (at, line) in text.lines().enumerate() {
        let brackets = |set: [char; 2]| line.matches(set).count();
        open = (open + brackets(['[', '{'])).saturating_sub(brackets([']', '}']));
        if open > MAX_BRACKETS {
            let reason = "too many brackets are open".into();
            return Err(Error::Invalid { path: file.to_owned(), line: Some(at + 1), reason });
        }
    }
    let walk = Walk { opaque, found: RefCell::default(), reason: RefCell::default() };
    let section = Section { walk: &walk, chain: vec![roots], path: String::new() };
    let outcome = section.deserialize(serde_yaml::Deserializer::from_str(text));
    if let Err(e) = outcome {
        let line = e.location().map(|l| l.line());
        let theirs = || e.to_string().split(" at line ").next().unwrap_or_default().to_owned();
        let reason = walk.reason.take().unwrap_or_else(theirs);
        return Err(Error::Invalid { path: file.to_owned(), line, reason });
    }
    for (key, values) in walk.found.take() {
        match values {
            Some(values) => into.insert(key, Setting { values, file: file.to_owned() }),
            None => into.remove(&key), // `key: null` takes back what a weaker file says
        };
    }
    Ok(())
}

/// State of one walk through a file.
struct Walk<'a> {
    opaque: &'a [&'a str],
    found: RefCell<BTreeMap<String, Option<Vec<String>>>>,
    /// What we refused; serde_yaml adds the position.
    reason: RefCell<Option<String>>,
}

impl Walk<'_> {
    fn refuse<E: de::Error>(&self, reason: String) -> E {
        let error = E::custom(&reason);
        *self.reason.borrow_mut() = Some(reason);
        error
    }
}

/// A mapping whose keys are the options and commands of `chain`'s last; the others are those above it.
struct Section<'a, 'w> {
    walk: &'w Walk<'a>,
    chain: Vec<&'a Command>,
    path: String,
}

/// What a key stands for.
enum Target<'a> {
    Section(&'a Command),
    Option(&'a Arg),
    /// A section that belongs to an applet that was not called.
    Foreign,
}

/// Whether an option may be set in a configuration file: it has a name and is not about the file itself.
fn is_key(arg: &Arg, at_root: bool) -> bool {
    let own = [id::CONFIG, id::NO_CONFIG, "help", "version"].iter().any(|i| arg.get_id() == i);
    let copied = arg.get_id() == id::LOG_VERBOSE && !at_root;
    arg.get_long().is_some()
        && !own
        && !copied
        && !matches!(arg.get_action(), ArgAction::Help | ArgAction::Version)
}

/// The options of a command that may stand in a configuration file. `depth` is 0 for mantle, 1 for an applet.
fn keys(command: &Command, depth: usize) -> impl Iterator<Item = (&str, &Arg)> {
    let list = move |a: &Arg| depth == 0 && a.get_id() == "list";
    command
        .get_arguments()
        .filter(move |a| is_key(a, depth < 2) && !list(a))
        .filter_map(|a| a.get_long().map(|long| (long, a)))
}

fn sections(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|c| !matches!(c.get_name(), "help" | "version" | "generate"))
}

impl<'a> Section<'a, '_> {
    fn command(&self) -> &'a Command {
        self.chain[self.chain.len() - 1]
    }

    fn target(&self, key: &str) -> Result<Target<'a>, String> {
        let depth = self.chain.len() - 1;
        if let Some(command) = sections(self.command()).find(|c| c.get_name() == key) {
            let foreign = depth == 0 && self.walk.opaque.contains(&key);
            return Ok(if foreign { Target::Foreign } else { Target::Section(command) });
        }
        if let Some((_, arg)) = keys(self.command(), depth).find(|(name, _)| *name == key) {
            return Ok(Target::Option(arg));
        }
        let place = if depth == 0 { "at the top".into() } else { format!("in {}", self.path) };
        let text = format!("unknown key {key:?} {place}");
        let above = (0..depth).rev().find(|&d| keys(self.chain[d], d).any(|(name, _)| name == key));
        if let Some(d) = above {
            let owner = self.chain[1..=d].iter().map(|c| c.get_name()).collect::<Vec<_>>().join(".");
            let owner = if owner.is_empty() { "the top".into() } else { owner };
            return Err(format!("{text}; it is an option of {owner}: move it there"));
        }
        let names = keys(self.command(), depth)
            .map(|(n, _)| n)
            .chain(sections(self.command()).map(Command::get_name));
        Err(match did_you_mean(key, names) {
            Some(question) => format!("{text}; {question}"),
            None => text,
        })
    }
}

impl<'de> DeserializeSeed<'de> for Section<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Section<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("options with their values")
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((name, target)) = map.next_key_seed(Key(&self))? {
            let path = if self.path.is_empty() { name } else { format!("{}.{name}", self.path) };
            match target {
                Target::Foreign => {
                    map.next_value::<IgnoredAny>()?;
                }
                Target::Section(command) => {
                    let chain = self.chain.iter().copied().chain([command]).collect();
                    map.next_value_seed(Section { walk: self.walk, chain, path })?;
                }
                Target::Option(arg) => {
                    let values = map.next_value_seed(Value { walk: self.walk, arg, path: &path })?;
                    self.walk.found.borrow_mut().insert(path, values);
                }
            }
        }
        Ok(())
    }
}

struct Key<'k, 'a, 'w>(&'k Section<'a, 'w>);

impl<'de, 'a> DeserializeSeed<'de> for Key<'_, 'a, '_> {
    type Value = (String, Target<'a>);
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for Key<'_, 'a, '_> {
    type Value = (String, Target<'a>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of an option or command")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<Self::Value, E> {
        let section = self.0;
        let target = section.target(key).map_err(|reason| section.walk.refuse(reason))?;
        if let Target::Option(_) = target {
            let path = if section.path.is_empty() { key.into() } else { format!("{}.{key}", section.path) };
            if section.walk.found.borrow().contains_key(&path) {
                return Err(section.walk.refuse(format!("{path} is set twice")));
            }
        }
        Ok((key.to_owned(), target))
    }
}

/// The value of one option: nothing, a scalar as it is written, or a sequence of them for a list.
struct Value<'a, 'w> {
    walk: &'w Walk<'a>,
    arg: &'a Arg,
    path: &'w str,
}

impl<'de> DeserializeSeed<'de> for Value<'_, '_> {
    type Value = Option<Vec<String>>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Value<'_, '_> {
    type Value = Option<Vec<String>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if is_list(self.arg) { "a list of values" } else { "a single value" })
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        // A string is asked for, not just anything, so that 1.10 stays 1.10 whatever YAML takes it for.
        if is_list(self.arg) {
            deserializer.deserialize_any(self)
        } else {
            deserializer.deserialize_str(self)
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        check(self.arg, self.path, text).map_err(|reason| self.walk.refuse(reason))?;
        Ok(Some(vec![text.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some(item) = items.next_element_seed(Item(&self))? {
            values.push(item);
        }
        Ok(Some(values))
    }
}

struct Item<'v, 'a, 'w>(&'v Value<'a, 'w>);

impl<'de> DeserializeSeed<'de> for Item<'_, '_, '_> {
    type Value = String;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Item<'_, '_, '_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a single value")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        check(self.0.arg, self.0.path, text).map_err(|reason| self.0.walk.refuse(reason))?;
        Ok(text.to_owned())
    }
}

fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// Lets the option's own parser judge the value, so that a mistake is reported with its place in the file.
fn check(arg: &Arg, path: &str, text: &str) -> Result<(), String> {
    let Some(long) = arg.get_long() else { return Ok(()) };
    // Copied by hand: conditions on other options must not be judged here.
    let alone = Arg::new("value")
        .long(long.to_owned())
        .action(arg.get_action().clone())
        .value_parser(arg.get_value_parser().clone());
    let alone = match arg.get_value_delimiter() {
        Some(comma) => alone.value_delimiter(comma),
        None => alone,
    };
    let judge = Command::new("check").no_binary_name(true).disable_help_flag(true).arg(alone);
    let Err(error) = judge.try_get_matches_from([format!("--{long}={text}")]) else { return Ok(()) };
    let why = match (error.get(ContextKind::ValidValue), std::error::Error::source(&error)) {
        (_, Some(source)) => source.to_string(),
        (Some(ContextValue::Strings(valid)), _) => format!("accepted are {}", valid.join(", ")),
        _ => "the option does not accept it".into(),
    };
    Err(format!("invalid value {text:?} for {path}: {why}"))
}

/// Makes the settings the defaults of the options; `prefix` is the tree's place, such as `kola.`.
fn apply(command: Command, prefix: &str, settings: &Settings) -> Command {
    let depth = prefix.matches('.').count();
    let command = command.mut_args(|arg| {
        let Some(long) = arg.get_long().filter(|_| is_key(&arg, depth < 2)) else { return arg };
        // What stands at the top of a file holds for every applet that does not say otherwise.
        let general = if depth == 1 { settings.get(long) } else { None };
        let Some(setting) = settings.get(&format!("{prefix}{long}")).or(general) else { return arg };
        let hide = args::is_secret(&arg);
        let arg = arg.default_values(setting.values.clone()).required(false);
        if hide { arg.hide_default_value(true) } else { arg }
    });
    command.mut_subcommands(|below| {
        let prefix = format!("{prefix}{}.", below.get_name());
        apply(below, &prefix, settings)
    })
}

/// Warns of files that hold secrets and that other users may read.
fn warn_of_readable_secrets(files: &[PathBuf], roots: &Command, settings: &Settings) {
    for file in files {
        let Ok(mode) = file.metadata().map(|m| m.permissions().mode()) else { continue };
        if mode & 0o044 == 0 {
            continue;
        }
        let mut secrets = entries(roots, settings).into_iter().filter(|e| e.secret);
        if let Some(entry) = secrets.find(|e| e.origin == Origin::File(file.clone())) {
            let name = file.display();
            crate::warning!(
                "cli",
                "{name} holds a secret ({}) and others can read it: chmod 600 {name}",
                entry.key
            );
        }
    }
}

/// Where the value of an option is from, the command line aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// No value at all.
    Unset,
    /// The program's own default.
    BuiltIn,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset => f.write_str("not set"),
            Self::BuiltIn => f.write_str("built in"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// One option with the value it has when the command line does not set it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its key, such as `kola.spawn.nodecount`.
    pub key: String,
    /// The values; more than one only for a list. Those of secrets are real.
    pub values: Vec<String>,
    /// Whether it takes several values.
    pub list: bool,
    /// Whether the values must not be shown.
    pub secret: bool,
    /// Where the values are from.
    pub origin: Origin,
}

/// All options of a tree with their values and where these are from.
pub fn entries(roots: &Command, settings: &Settings) -> Vec<Entry> {
    let mut entries = Vec::new();
    collect(roots, "", 0, settings, &mut entries);
    entries
}

fn collect(command: &Command, prefix: &str, depth: usize, settings: &Settings, into: &mut Vec<Entry>) {
    for (long, arg) in keys(command, depth) {
        let general = depth == 1 && is_general(arg);
        if general && !settings.contains_key(&format!("{prefix}{long}")) {
            continue; // shown once, at the top
        }
        let key = format!("{prefix}{long}");
        let (values, origin) = effective(arg, &key, settings);
        if arg.is_hide_set() && matches!(origin, Origin::Unset | Origin::BuiltIn) {
            continue;
        }
        into.push(Entry { key, values, list: is_list(arg), secret: args::is_secret(arg), origin });
    }
    for below in sections(command) {
        collect(below, &format!("{prefix}{}.", below.get_name()), depth + 1, settings, into);
    }
}

fn is_general(arg: &Arg) -> bool {
    arg.get_help_heading() == Some(args::HEADING)
}

fn effective(arg: &Arg, key: &str, settings: &Settings) -> (Vec<String>, Origin) {
    if let Some(name) = arg.get_env()
        && let Some(value) = std::env::var_os(name).filter(|v| !v.is_empty())
    {
        let value = value.to_string_lossy().into_owned();
        return (vec![value], Origin::Environment(name.to_string_lossy().into_owned()));
    }
    if let Some(setting) = settings.get(key) {
        return (setting.values.clone(), Origin::File(setting.file.clone()));
    }
    let defaults: Vec<String> =
        arg.get_default_values().iter().map(|v| v.to_string_lossy().into_owned()).collect();
    let origin = if defaults.is_empty() { Origin::Unset } else { Origin::BuiltIn };
    (defaults, origin)
}
