//! What help says first: what a command is for, not what somebody wrote about a struct of its options.

use crate::support::{Env, snapshot};

/// The lines `command: first line of its help`, of a command and all below it.
fn first_lines(env: &Env, command: &[&str], into: &mut String) {
    let help = env.mantle(&[command, &["-h"]].concat()).expect(0).stdout;
    let first = help.lines().next().unwrap_or_default();
    *into += &format!("mantle {}: {first}\n", command.join(" ")).replace(" :", ":");
    let below = help.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    for line in below {
        let Some(name) = line.strip_prefix("  ").filter(|l| !l.starts_with(' ')) else { continue };
        let name = name.split_whitespace().next().unwrap();
        if name != "help" {
            first_lines(env, &[command, &[name]].concat(), into);
        }
    }
}

#[test]
fn every_page_begins_with_what_the_command_is_for() {
    let mut lines = String::new();
    first_lines(&Env::new(), &[], &mut lines);
    snapshot("cli/first-lines", &lines, &[]);
}
