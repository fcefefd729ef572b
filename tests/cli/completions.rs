//! Completions, in the real shells.

use std::path::PathBuf;

use crate::support::{Env, installed, repository};

fn scripts(shell: &str) -> PathBuf {
    repository().join("completions").join(shell)
}

/// What bash offers for a line of words, the last of which is being typed.
fn bash(words: &[&str]) -> Vec<String> {
    let script = format!(
        "source {0}/{1}; COMP_WORDS=({2}); COMP_CWORD={3}; spec=$(complete -p {1}); f=${{spec##*-F }}; f=${{f%% *}}
         $f {1} \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        scripts("bash").display(),
        words[0],
        words.iter().map(|w| format!("'{w}'")).collect::<Vec<_>>().join(" "),
        words.len() - 1,
    );
    let outcome = Env::new().start("bash".as_ref(), &["--norc", "-c", &script]).finish().expect(0);
    assert_eq!(outcome.stderr, "");
    outcome.stdout.lines().map(String::from).collect()
}

/// What fish offers for a line.
fn fish(line: &str) -> Vec<String> {
    let script = format!("set -g fish_complete_path {}; complete -C '{line}'", scripts("fish").display());
    let env = Env::new();
    for name in ["mantle", "kola"] {
        env.program(name, "#!/bin/sh\n"); // fish completes only what is installed
    }
    let outcome = env.start("fish".as_ref(), &["--no-config", "-c", &script]).finish().expect(0);
    assert_eq!(outcome.stderr, "");
    outcome.stdout.lines().map(|l| l.split('\t').next().unwrap_or_default().to_owned()).collect()
}

/// What an interactive zsh makes of a line when Tab is pressed.
fn zsh(line: &str) -> Vec<String> {
    let script = format!(
        r#"
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'PS1=; fpath=({0} $fpath); autoload -Uz compinit; compinit -u -D; stty -echo'
# Every match on a line of its own, between marks, instead of a menu.
zpty -w shell 'compadd() {{ local -a found; builtin compadd -O found "$@"; print -rl -- @$^found@ }}'
zpty -w shell 'tab() {{ print START; _main_complete; print FINISH }}; zle -C tab complete-word tab; bindkey "^I" tab'
# Only once the line editor is there: what is typed earlier may be lost.
zpty -w shell 'zle-line-init() {{ print RE''ADY }}; zle -N zle-line-init'
while zpty -r shell text; do [[ $text == *READY* ]] && break; done
zpty -w -n shell '{line}'$'\t'
while zpty -r shell text; do print -rn -- $text; [[ $text == *FINISH* ]] && break; done
zpty -d shell
"#,
        scripts("zsh").display()
    );
    let outcome = Env::new().start("zsh".as_ref(), &["-f", "-c", &script]).finish().expect(0);
    let text = outcome.stdout.replace('\r', "");
    text.lines().filter_map(|l| l.strip_prefix('@')?.strip_suffix('@')).map(String::from).collect()
}

#[track_caller]
fn offers(found: &[String], wanted: &[&str], unwanted: &[&str]) {
    for word in wanted {
        assert!(found.iter().any(|f| f == word), "no {word} in {found:?}");
    }
    for word in unwanted {
        assert!(!found.iter().any(|f| f == word), "{word} in {found:?}");
    }
}

#[test]
fn in_bash() {
    if !installed("bash") {
        return;
    }
    offers(&bash(&["mantle", ""]), &["kola", "install", "config", "help"], &["generate"]);
    offers(&bash(&["mantle", "ko"]), &["kola"], &["install"]);
    offers(&bash(&["mantle", "kola", ""]), &["version", "--log-level"], &["install", "kola"]);
    offers(&bash(&["mantle", "config", "show", "--"]), &["--json"], &["--prefix"]);
    offers(&bash(&["kola", "--log-level", ""]), &["DEBUG"], &["version"]);
    offers(&bash(&["mantle", "kola", "--log-level", "I"]), &["INFO"], &["DEBUG"]);
    offers(&bash(&["kola", "help", ""]), &["version"], &[]);
}

#[test]
fn in_fish() {
    if !installed("fish") {
        return;
    }
    offers(&fish("mantle "), &["kola", "install", "config", "help"], &["generate"]);
    offers(&fish("mantle kola "), &["version", "help"], &["install", "kola"]);
    offers(&fish("mantle config show --"), &["--json"], &["--prefix"]);
    offers(&fish("mantle kola --log-level "), &["DEBUG"], &["version"]);
    offers(&fish("kola "), &["version"], &[]);
    offers(&fish("kola --log-level "), &["DEBUG"], &[]);
}

#[test]
fn in_zsh() {
    if !installed("zsh") {
        return;
    }
    offers(&zsh("mantle "), &["kola", "install", "config", "help"], &["generate"]);
    offers(&zsh("mantle kola "), &["version", "help"], &["install", "kola"]);
    offers(&zsh("mantle config show --"), &["--json"], &["--prefix"]);
    offers(&zsh("mantle kola --log-level "), &["DEBUG"], &["version"]);
    offers(&zsh("kola "), &["version"], &[]);
}
