//! Completions, in the real shells.

use std::path::PathBuf;

use crate::support::{Env, installed, repository};

fn scripts(shell: &str) -> PathBuf {
    repository().join("completions").join(shell)
}

/// An environment with the programs on the path: links to mantle, as `mantle install` makes them.
fn env() -> Env {
    let env = Env::new();
    for name in ["mantle", "kola", "cork", "gangue", "ore", "plume"] {
        let link = env.program(name, "");
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mantle"), link).unwrap();
    }
    env.write("notes.txt", "");
    std::fs::create_dir(env.home().join("node")).unwrap();
    env
}

/// What an interactive bash, on a terminal, puts into a line when it is told to insert all completions.
fn bash(line: &str) -> Vec<String> {
    let env = env();
    // Words are shown between marks that are not in what the terminal echoes.
    let setup = format!(
        "PS1=; bind 'set enable-bracketed-paste off'\nsource {}/*\nshow() {{ printf 'BE''GIN\\n'; printf '@%s@\\n' \"$@\"; printf 'EN''D\\n'; exit; }}\n",
        scripts("bash").display()
    )
    .replace("source", "for script in")
    .replace("/*\n", "/*; do source \"$script\"; done\n");
    let rc = env.write("rc", &setup);
    let terminal =
        nix::pty::openpty(&nix::pty::Winsize { ws_row: 50, ws_col: 20000, ws_xpixel: 0, ws_ypixel: 0 }, None)
            .unwrap();
    let mut command = env.command("bash");
    command.args(["--noprofile", "--rcfile", rc.to_str().unwrap(), "-i"]);
    command.stdin(terminal.slave.try_clone().unwrap());
    command.stdout(terminal.slave.try_clone().unwrap()).stderr(terminal.slave);
    let mut shell = command.spawn().unwrap();
    drop(command); // and with it its ends of the terminal
    let mut master = std::fs::File::from(terminal.master);
    // M-*: insert all completions. Then to the beginning, where the line becomes the arguments of a function.
    std::io::Write::write_all(&mut master, format!("{line}\x1b*\x01show \r").as_bytes()).unwrap();
    let mut text = Vec::new();
    // The terminal reports an error, not an end, when the last program has left it.
    let _ = std::io::Read::read_to_end(&mut master, &mut text);
    shell.wait().unwrap();
    let text = String::from_utf8_lossy(&text).replace('\r', "");
    let (_, shown) = text.split_once("BEGIN\n").unwrap_or_else(|| panic!("{text}"));
    let given = line.split(' ').filter(|w| !w.is_empty()).count() - usize::from(!line.ends_with(' '));
    let all = shown.lines().filter_map(|l| l.strip_prefix('@')?.strip_suffix('@').map(String::from));
    all.skip(given).collect()
}

/// What fish offers for a line.
fn fish(line: &str) -> Vec<String> {
    let script = format!("set -g fish_complete_path {}; complete -C '{line}'", scripts("fish").display());
    let outcome = env().start("fish".as_ref(), &["--no-config", "-c", &script]).finish().expect(0);
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
    let outcome = env().start("zsh".as_ref(), &["-f", "-c", &script]).finish().expect(0);
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

/// Lines, what must be offered for them and what must not.
const LINES: &[(&str, &[&str], &[&str])] = &[
    ("mantle ", &["kola", "install", "config", "help"], &["generate", "--config", "__complete"]),
    ("mantle ko", &["kola"], &["install"]),
    ("mantle kola ", &["version", "run", "help"], &["install", "kola", "--log-level"]),
    ("mantle -v kola ", &["run"], &["install"]),
    ("mantle help kola ", &["spawn"], &["install"]),
    ("mantle config show --", &["--json"], &["--prefix"]),
    ("mantle config show ", &["ore"], &["--json"]),
    ("kola ", &["run", "list", "version"], &["-p", "--platform"]),
    ("kola -", &["-p", "--platform"], &["run"]),
    ("kola -p ", &["qemu", "qemu-unpriv", "nspawn", "aws"], &["scripted", "run"]),
    ("kola run --platform q", &["qemu", "qemu-unpriv"], &["nspawn"]),
    ("kola -p qemu ", &["run"], &["qemu"]),
    ("kola list -b f", &["fcos", "flatcar"], &["cl"]),
    ("mantle kola spawn --board ", &["amd64-usr", "arm64-usr"], &[]),
    ("kola --log-level ", &["DEBUG"], &["version"]),
    ("mantle kola --log-level I", &["INFO"], &["DEBUG"]),
    ("kola help ", &["version"], &[]),
    ("kola run coreos.auth", &["coreos.auth.verify"], &["coreos.basic"]),
    ("mantle kola list debian.b", &["debian.basic"], &["coreos.basic"]),
    ("kola run debian.basic coreos.ig", &["coreos.ignition.*"], &["debian.basic"]),
    ("kola run --qemu-accel ", &["auto", "kvm", "tcg"], &[]),
    ("kola run --qemu-image no", &["notes.txt", "node"], &["run"]),
    ("kola run --output-dir no", &["node"], &["notes.txt"]),
    ("cork download-image --platform ", &["qemu", "gce", "qemu_uefi"], &[]),
    ("cork download-image --platform qemu,g", &["qemu,gce"], &["gce"]),
    ("ore aws upload --object-format ", &["VMDK", "RAW"], &[]),
    ("ore ", &["aws", "gcloud"], &[]),
    ("plume index -C ", &["stable", "all"], &[]),
];

/// Looks at each line, or every so many, in one shell. Folders may be offered with a slash.
#[track_caller]
fn check(shell: fn(&str) -> Vec<String>, step: usize) {
    for (line, wanted, unwanted) in LINES.iter().step_by(step) {
        let found: Vec<String> = shell(line).iter().map(|w| w.trim_end_matches('/').to_owned()).collect();
        println!("{line:?}: {found:?}");
        offers(&found, wanted, unwanted);
    }
}

#[test]
fn in_bash() {
    if !installed("bash") {
        return;
    }
    check(bash, 1);
    // bash takes = for the end of a word, and puts the value behind it.
    offers(&bash("kola run --platform=q"), &["--platform=qemu", "qemu-unpriv"], &["nspawn"]);
}

#[test]
fn in_fish() {
    if !installed("fish") {
        return;
    }
    check(fish, 1);
    offers(&fish("kola run --platform=q"), &["--platform=qemu"], &["--platform=nspawn"]);
    offers(&fish("kola run --qemu-image=no"), &["--qemu-image=notes.txt"], &[]);
}

#[test]
fn in_zsh() {
    if !installed("zsh") {
        return;
    }
    check(zsh, 3); // it needs seconds to start, and asks the same as the others
    offers(&zsh("kola run --output-dir no"), &["node"], &["notes.txt"]);
    offers(&zsh("kola run --platform=q"), &["qemu"], &["nspawn"]);
    offers(&zsh("kola run --qemu-image=no"), &["notes.txt"], &[]);
}
