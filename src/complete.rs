//! What a shell may offer for a word: the answers of `PROGRAM __complete SHELL WORD…`, which the scripts of
//! completions ask for. The last word is the one that is being typed.
//!
//! The first line of an answer says what else the shell should offer: `words` nothing, `files` files, `dirs` folders.
//! The others are the words that are offered, in the form that the shell's script reads.

use std::ffi::OsString;

use clap::builder::StyledStr;
use clap::{Arg, Command, ValueHint};

use crate::applet::{Applet, Call, top_tree, tree};
use crate::args;

/// The first argument of a call that asks for completions.
pub(crate) const CALL: &str = "__complete";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// One word that is offered.
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    word: String,
    about: String,
}

/// What is offered, and what else is.
#[derive(Debug)]
struct Offers {
    /// What comes before each word and is no part of it for shells that split words at `=`.
    option: String,
    /// What comes before each word: the earlier ones of a list.
    before: String,
    words: Vec<Offer>,
    /// `words`, `files` or `dirs`.
    also: &'static str,
}

/// The answer for `shell` and the words of a command line, the last of which is being typed.
pub(crate) fn answer(top: &Applet, applets: &[Applet], shell: &str, words: &[OsString]) -> String {
    let shell = match shell {
        "bash" => Shell::Bash,
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        _ => return String::new(),
    };
    let words: Vec<String> = words.iter().map(|w| w.to_string_lossy().into_owned()).collect();
    let (mut words, is_split) = if shell == Shell::Bash { joined(words) } else { (words, false) };
    let Some(typed) = words.pop() else { return String::new() };
    let typed = if shell == Shell::Bash { typed.replace('\\', "") } else { typed };
    let call = Call::resolve(top, applets, words.into_iter().map(OsString::from).collect());
    let is_top = std::ptr::eq(call.applet, top);
    let mut command = if is_top { top_tree(top, applets) } else { tree(call.applet) };
    command.build();
    let given: Vec<&str> = call.argv.iter().skip(1).filter_map(|w| w.to_str()).collect();
    let offers = offers(&command, &given, &typed);
    let mut text = format!("{}\n", offers.also);
    for offer in offers.words {
        let word = format!("{}{}", offers.before, offer.word);
        let line = match shell {
            // A lone word is put into the line as it is.
            Shell::Bash if is_split => word.replace('*', "\\*"),
            Shell::Bash => format!("{}{word}", offers.option).replace('*', "\\*"),
            // zsh's own function takes what stands before `=` away.
            Shell::Zsh => format!("{}:{}", word.replace(':', "\\:"), offer.about),
            Shell::Fish => format!("{}{word}\t{}", offers.option, offer.about),
        };
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// bash makes three words of `--option=value`; this makes one of them again. Also says whether that was done to the
/// last.
fn joined(words: Vec<String>) -> (Vec<String>, bool) {
    let mut whole: Vec<String> = Vec::new();
    let (mut open, mut last) = (false, false);
    for word in words {
        let equals = word == "=" && whole.last().is_some_and(|w| w.starts_with("--") && !w.contains('='));
        match whole.last_mut().filter(|_| equals || open) {
            Some(before) => {
                before.push_str(&word);
                last = true;
            }
            None => {
                whole.push(word);
                last = false;
            }
        }
        open = equals;
    }
    (whole, last)
}

fn offers(command: &Command, given: &[&str], typed: &str) -> Offers {
    let mut at = command;
    let mut positionals = 0;
    let mut only_operands = false;
    let mut waiting = None;
    for &word in given {
        if waiting.take().is_some() {
        } else if !only_operands && word == "--" {
            only_operands = true;
        } else if !only_operands && word.starts_with('-') && word.len() > 1 {
            waiting = waits_for_value(at, word);
        } else if let Some(below) = at.find_subcommand(word).filter(|_| positionals == 0) {
            at = below;
        } else {
            positionals += 1;
        }
    }
    if let Some(option) = waiting {
        return values(option, typed);
    }
    let option = if only_operands { None } else { typed.split_once('=').filter(|_| typed.starts_with("--")) };
    if let Some((name, typed)) = option {
        let found = long(at, &name[2..]).filter(|arg| takes_value(arg));
        let of_option = found.map(|arg| values(arg, typed));
        return Offers { option: format!("{name}="), ..of_option.unwrap_or_else(nothing) };
    }
    if typed.starts_with('-') && !only_operands {
        return Offers { words: options(at, typed), ..nothing() };
    }
    let commands = at.get_subcommands().filter(|c| positionals == 0 && !c.is_hide_set());
    let commands = commands.map(|c| Offer { word: c.get_name().to_owned(), about: first(c.get_about()) });
    let mut words: Vec<Offer> = commands.filter(|o| o.word.starts_with(typed)).collect();
    let operand = at.get_positionals().nth(positionals).or_else(|| {
        at.get_positionals().last().filter(|arg| arg.get_num_args().is_some_and(|n| n.max_values() > 1))
    });
    let mut offers = operand.map_or_else(nothing, |arg| values(arg, typed));
    words.append(&mut offers.words);
    Offers { words, ..offers }
}

fn nothing() -> Offers {
    Offers { option: String::new(), before: String::new(), words: Vec::new(), also: "words" }
}

/// The option that has its value in the next word, if the last one in `word` does.
fn waits_for_value<'c>(command: &'c Command, word: &str) -> Option<&'c Arg> {
    if let Some(name) = word.strip_prefix("--") {
        return long(command, name).filter(|arg| takes_value(arg)); // none is named `name=value`
    }
    let of = |c| command.get_arguments().find(move |a| a.get_short() == Some(c));
    let (at, option) =
        word.char_indices().skip(1).find_map(|(i, c)| Some((i, of(c)?)).filter(|(_, a)| takes_value(a)))?;
    // Otherwise the rest of the word is the value.
    (word[at..].chars().count() == 1).then_some(option)
}

fn long<'c>(command: &'c Command, name: &str) -> Option<&'c Arg> {
    command.get_arguments().find(|a| a.get_long_and_visible_aliases().is_some_and(|all| all.contains(&name)))
}

/// Whether an option has a value that may stand in a word of its own.
fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values() && !args::is_go_bool(arg)
}

fn options(command: &Command, typed: &str) -> Vec<Offer> {
    let shown = || command.get_arguments().filter(|a| !a.is_hide_set() && !a.is_positional());
    let long = shown().filter_map(|a| Some((format!("--{}", a.get_long()?), a)));
    let short = shown().filter_map(|a| Some((format!("-{}", a.get_short()?), a)));
    long.chain(short)
        .filter(|(word, _)| word.starts_with(typed))
        .map(|(word, arg)| Offer { word, about: first(arg.get_help()) })
        .collect()
}

fn values(arg: &Arg, typed: &str) -> Offers {
    let (before, typed) = match arg.get_value_delimiter().and_then(|d| typed.rfind(d)) {
        Some(at) => typed.split_at(at + 1),
        None => ("", typed),
    };
    let known = arg.get_possible_values();
    let offered = known.iter().filter(|v| !v.is_hide_set() && v.get_name().starts_with(typed));
    let words =
        offered.map(|v| Offer { word: v.get_name().to_owned(), about: first(v.get_help()) }).collect();
    let folder = arg.get_value_names().is_some_and(|names| names.first().is_some_and(|n| n == "DIR"));
    let also = match arg.get_value_hint() {
        _ if !known.is_empty() => "words",
        ValueHint::DirPath => "dirs",
        ValueHint::AnyPath | ValueHint::FilePath if folder => "dirs",
        ValueHint::AnyPath | ValueHint::FilePath => "files",
        _ => "words",
    };
    Offers { option: String::new(), before: before.to_owned(), words, also }
}

/// The first line of a text.
fn first(text: Option<&StyledStr>) -> String {
    let text = text.map(ToString::to_string).unwrap_or_default();
    text.lines().next().unwrap_or_default().replace('\t', " ")
}

#[cfg(test)]
mod tests {
    use clap::ArgAction;

    use super::*;

    fn words(given: &[&str], typed: &str) -> Vec<String> {
        let platform = Arg::new("platform").short('p').long("platform").value_parser(["qemu", "aws"]);
        let list = Arg::new("list").long("list").value_delimiter(',').value_parser(["one", "other"]);
        let command = Command::new("x")
            .arg(platform.global(true))
            .arg(Arg::new("quiet").short('q').long("quiet").action(ArgAction::SetTrue))
            .subcommand(
                Command::new("run")
                    .arg(list)
                    .arg(Arg::new("name").num_args(0..).value_parser(["a.b", "a.*"])),
            )
            .subcommand(Command::new("secret").hide(true));
        let mut command = args::conventions(command);
        command.build();
        let offers = offers(&command, given, typed);
        offers.words.into_iter().map(|o| format!("{}{}{}", offers.option, offers.before, o.word)).collect()
    }

    #[test]
    fn words_are_those_of_the_place_where_they_stand() {
        assert_eq!(words(&[], ""), ["run", "help"]);
        assert_eq!(words(&[], "r"), ["run"]);
        assert_eq!(words(&["help"], ""), ["run", "help"]);
        assert_eq!(words(&["-p"], ""), ["qemu", "aws"]);
        assert_eq!(words(&["-qp"], "q"), ["qemu"]);
        assert_eq!(words(&["-pq"], "r"), ["run"], "the value is in the word already");
        assert_eq!(words(&["-p", "qemu"], "r"), ["run"]);
        assert_eq!(words(&["--platform"], "a"), ["aws"]);
        assert_eq!(words(&["--platform=aws", "--quiet"], "r"), ["run"]);
        assert_eq!(words(&["run"], "--platform=q"), ["--platform=qemu"]);
        assert_eq!(words(&["run"], "--plat"), ["--platform"]);
        assert_eq!(words(&["run"], ""), ["a.b", "a.*"]);
        assert_eq!(words(&["run", "a.b", "-p", "aws"], "a."), ["a.b", "a.*"]);
        assert_eq!(words(&["run", "--"], "-"), [""; 0]);
        assert_eq!(words(&["run", "--list"], "one,o"), ["one,one", "one,other"]);
        assert_eq!(words(&["run"], "--list=one,ot"), ["--list=one,other"]);
    }

    #[test]
    fn words_that_bash_has_split_are_whole_again() {
        let joined = |words: &[&str]| joined(words.iter().map(|w| (*w).to_owned()).collect());
        assert_eq!(joined(&["x", "--a", "=", "b"]), (vec!["x".into(), "--a=b".into()], true));
        assert_eq!(joined(&["x", "--a", "="]), (vec!["x".into(), "--a=".into()], true));
        assert_eq!(joined(&["--a", "=", "b", "c"]), (vec!["--a=b".into(), "c".into()], false));
        assert_eq!(joined(&["x", "=", "b"]), (vec!["x".into(), "=".into(), "b".into()], false));
    }
}
