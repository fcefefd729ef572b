//! Man pages: one for each program and one for each of its commands.

use std::collections::BTreeSet;

use clap::{Arg, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use mantle::applet::Applet;
use mantle::args::id;
use mantle::config;

use super::{APPLET, generate};
use crate::APPLETS;

/// The pages of one program, by name: `kola`, `kola-spawn`, …; `tree` holds what may be shown.
pub fn pages(applet: &Applet, tree: Command) -> Vec<(String, String)> {
    let mut pages = vec![(applet.name.to_owned(), program_page(applet, &tree))];
    for command in tree.get_subcommands() {
        command_pages(&[applet.name], command, &mut pages);
    }
    pages
}

/// The page of a command, and those of the commands below it; `above` are the names that lead to it.
fn command_pages(above: &[&str], command: &Command, into: &mut Vec<(String, String)>) {
    let path: Vec<&str> = above.iter().copied().chain([command.get_name()]).collect();
    let name = path.join("-");
    let mut more = Roff::new();
    more.control("SH", ["SEE ALSO"]);
    // Options of the groups above are described there, once.
    let groups = (1..path.len()).rev().map(|n| format!("{}(1)", path[..n].join("-"))).collect::<Vec<_>>();
    more.text([roman(format!("{}, whose options are accepted here as well", groups.join(", ")))]);
    into.push((
        name.clone(),
        page(&name, &path.join(" "), generate::visible(command, |a| a.get_id() != id::LOG_VERBOSE), &more),
    ));
    for below in command.get_subcommands() {
        command_pages(&path, below, into);
    }
}

fn program_page(applet: &Applet, tree: &Command) -> String {
    let is_top = applet.name == APPLET.name;
    let mut more = Roff::new();
    if is_top {
        let pages: Vec<_> = APPLETS.iter().map(|a| (format!("{}(1)", a.name), a.about.to_owned())).collect();
        section(&mut more, "APPLETS", &pages);
    }
    let manual = applet.manual;
    section(&mut more, "FILES", &owned(&[config::FILES, &manual.files.concat()].concat()));
    for (title, terms) in (manual.sections)() {
        section(&mut more, title, &terms);
    }
    section(&mut more, "ENVIRONMENT", &environment(applet, tree));
    section(&mut more, "EXIT STATUS", &owned(manual.exit_status));
    section(&mut more, "EXAMPLES", &owned(manual.examples));
    if !is_top {
        more.control("SH", ["SEE ALSO"]);
        more.text([roman(format!("{}(1)", APPLET.name))]);
    }
    page(applet.name, applet.name, tree.clone(), &more)
}

/// Variables bound to options, then those the applet names, then those that all applets read.
fn environment(applet: &Applet, tree: &Command) -> Vec<(String, String)> {
    fn bound(command: &Command, into: &mut Vec<(String, String)>) {
        let variable = |arg: &Arg| {
            let name = arg.get_env()?.to_string_lossy().into_owned();
            Some((name, format!("Value of --{} when that is not given.", arg.get_long()?)))
        };
        into.extend(command.get_arguments().filter_map(variable));
        command.get_subcommands().for_each(|c| bound(c, into));
    }
    let mut variables = Vec::new();
    bound(tree, &mut variables);
    variables.extend(owned(&applet.manual.environment.concat()));
    variables.extend(owned(config::ENVIRONMENT));
    // Several commands have the same option.
    let mut seen = BTreeSet::new();
    variables.retain(|(name, _)| seen.insert(name.clone()));
    variables
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(term, text)| ((*term).to_owned(), (*text).to_owned())).collect()
}

fn section(roff: &mut Roff, title: &str, pairs: &[(String, String)]) {
    if pairs.is_empty() {
        return;
    }
    roff.control("SH", [title]);
    for (term, text) in pairs {
        roff.control("TP", []);
        roff.text([bold(term)]);
        roff.text([roman(text)]);
    }
}

/// One page: what clap knows, then the sections in `more`.
fn page(name: &str, called: &str, command: Command, more: &Roff) -> String {
    let options = if command.get_opts().next().is_some() { " [OPTIONS]" } else { "" };
    // Otherwise every single option is listed in the synopsis.
    let subcommands = command.has_subcommands();
    let usage = subcommands.then(|| format!("{called}{options} [COMMAND]"));
    let command = command.name(name.to_owned()).bin_name(called.to_owned()).display_name(name.to_owned());
    let command = match usage {
        Some(usage) => command.override_usage(usage),
        None => command,
    };
    let man = Man::new(command);
    // Not clap_mangen's title, which loses the empty date.
    let version = env!("CARGO_PKG_VERSION");
    let title =
        format!(".TH \"{}\" \"1\" \"\" \"mantle {version}\" \"Mantle Manual\"\n", name.to_uppercase());
    let mut text = title.into_bytes();
    let written = man
        .render_name_section(&mut text)
        .and_then(|()| man.render_synopsis_section(&mut text))
        .and_then(|()| man.render_description_section(&mut text))
        .and_then(|()| man.render_options_section(&mut text))
        .and_then(|()| if subcommands { man.render_subcommands_section(&mut text) } else { Ok(()) });
    written.expect("writing to memory does not fail");
    format!("{}{}", String::from_utf8_lossy(&text), more.to_roff())
}
