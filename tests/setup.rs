//! `tests/setup.sh` against a package manager of our own, and what it and the guest's builder look for.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::{Env, Outcome, repository};

/// `apt-get`: a folder of files holds the installed packages with their versions; the scripts of a test say what
/// installing one does. Every call is written down.
const APT: &str = r#"#!/bin/sh
state=$HOME/state
echo "apt-get $*" >>"$state/calls"
simulate= verb= words= keep= downgrades=
for word; do
    case $word in
    -s) simulate=1 ;;
    --no-remove) keep=1 ;;
    --allow-downgrades) downgrades=1 ;;
    -* | DPkg::*) ;;
    install | update) verb=$word ;;
    *) words="$words $word" ;;
    esac
done
removed() { # what goes
    [ -e "$state/installed/$1" ] || return 0
    [ -z "$keep" ] || { echo "E: Packages need to be removed but remove is disabled." >&2; exit 100; }
    if [ "$simulate" ]; then echo "Remv $1 [$(cat "$state/installed/$1")]"; else rm -f "$state/installed/$1" "$HOME/../bin/$1-run"; fi
}
arrives() { # a package, its version
    if [ "$simulate" ]; then
        old=$(cat "$state/installed/$1" 2>/dev/null) && old=" [$old]"
        echo "Inst $1$old ($2 Debian:12/stable [amd64])"
    else
        echo "$2" >"$state/installed/$1"
        printf '#!/bin/sh\n' >"$HOME/../bin/$1-run"
        chmod +x "$HOME/../bin/$1-run"
    fi
}
. "$state/behaviour"
$verb
"#;

/// Installs what it is asked for.
const WELL: &str = "update() { :; }\ninstall() { for p in $words; do arrives \"${p%=*}\" 1; done; }\n";

/// A machine with these packages, whose lists want those.
struct Machine(Env);

impl Machine {
    fn new(installed: &[(&str, &str)], wanted: &str, behaviour: &str) -> Self {
        let env = Env::new();
        let tests = repository().join("tests");
        let list: String = wanted.split_whitespace().map(|p| format!("{p}  {p}-run  # why\n")).collect();
        env.write("tests/setup.sh", &std::fs::read_to_string(tests.join("setup.sh")).unwrap());
        env.write("tests/guest/host.sh", &std::fs::read_to_string(tests.join("guest/host.sh")).unwrap());
        env.write("tests/packages.txt", &format!("# a list\n\n{list}"));
        env.write("tests/guest/packages-host.txt", "# nothing\n");
        env.write("tests/guest/packages-run.txt", "");
        for file in ["azurite.txt", "emulators.txt", "moto.txt"] {
            env.write(&format!("tests/support/{file}"), file);
        }
        let build = env.write("tests/support/vcsim/build", "#!/bin/sh\n");
        std::fs::set_permissions(build, std::fs::Permissions::from_mode(0o755)).unwrap();
        env.write(".cache/mantle/test-venv/installed.txt", "emulators.txtmoto.txt\n");
        env.write(".cache/mantle/test-node/installed.txt", "azurite.txt\n");
        env.write("state/installed/.keep", "");
        env.write("state/behaviour", behaviour);
        for (package, version) in installed {
            env.write(&format!("state/installed/{package}"), version);
            env.program(&format!("{package}-run"), "#!/bin/sh\n");
        }
        env.program("apt-get", APT);
        env.program("apt-cache", "#!/bin/sh\nprintf '%s:\\n  Candidate: 1\\n' \"$2\"\n");
        env.program(
            "dpkg-query",
            "#!/bin/sh\nfor p; do [ ! -e \"$HOME/state/installed/$p\" ] || echo \"installed $p\"; done\n",
        );
        env.program("cargo", "#!/bin/sh\necho \"cargo $*\" >>\"$HOME/state/calls\"\n");
        env.program("sudo", "#!/bin/sh\nexec \"$@\"\n");
        Self(env)
    }

    fn setup(&self) -> Outcome {
        self.0.start(Path::new("/bin/sh"), &["tests/setup.sh"]).finish()
    }

    /// The calls that change something.
    fn calls(&self) -> Vec<String> {
        let calls = std::fs::read_to_string(self.0.home().join("state/calls")).unwrap_or_default();
        calls.lines().filter(|l| !l.contains(" -s ")).map(str::to_owned).collect()
    }

    fn version(&self, package: &str) -> Option<String> {
        let path = self.0.home().join("state/installed").join(package);
        std::fs::read_to_string(path).ok().map(|v| v.trim().to_owned())
    }
}

#[test]
fn a_machine_that_has_all_is_left_alone() {
    let machine = Machine::new(&[("apple", "1"), ("pear", "1")], "apple pear", "exit 100");
    let outcome = machine.setup().expect(0);
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", ""));
    assert_eq!(machine.calls(), ["cargo nextest --version"]);
}

#[test]
fn what_is_missing_is_installed() {
    let machine = Machine::new(&[("apple", "1")], "apple pear plum", WELL);
    let outcome = machine.setup().expect(0);
    assert_eq!(outcome.stderr, "setup: installing: pear plum\n");
    assert!(machine.version("pear").is_some() && machine.version("plum").is_some());
    assert!(machine.calls().iter().all(|c| !c.contains("apple")), "{:?}", machine.calls());
}

/// QEMU of the release does not go with `qemu-utils` from backports.
#[test]
fn a_newer_part_of_qemu_is_replaced_not_removed() {
    let behaviour = r#"
update() { :; }
install() {
    case $words in
    *qemu-utils=1*) [ "$downgrades" ] || exit 100 ;;
    *) [ "$(cat "$state/installed/qemu-utils" 2>/dev/null)" != 2 ] || removed qemu-utils ;;
    esac
    for p in $words; do arrives "${p%=*}" 1; done
}
"#;
    let machine = Machine::new(&[("qemu-utils", "2")], "qemu-system-x86 qemu-utils", behaviour);
    let outcome = machine.setup().expect(0);
    assert!(outcome.stderr.contains("setup: apt-get replaces qemu-utils (2 by 1)\n"), "{}", outcome.stderr);
    assert_eq!(machine.version("qemu-utils").as_deref(), Some("1"));
    assert!(machine.version("qemu-system-x86").is_some());
}

/// The same where the matching part cannot be had at once: it goes, which is said, and comes back.
#[test]
fn what_another_package_pushes_out_is_installed_again() {
    let behaviour = r#"
update() { :; }
install() {
    case $words in
    *=*) echo "E: Version '1' for 'qemu-utils' was not found" >&2; exit 100 ;;
    *qemu-system-x86*) removed qemu-utils ;;
    esac
    for p in $words; do arrives "$p" 1; done
}
"#;
    let machine = Machine::new(&[("qemu-utils", "2")], "apple qemu-system-x86 qemu-utils", behaviour);
    let outcome = machine.setup().expect(0);
    let said = "setup: installing: apple qemu-system-x86\nsetup: apt-get removes qemu-utils (2)\n\
                setup: installing: qemu-utils\n";
    assert_eq!(outcome.stderr, said);
    assert_eq!(machine.version("qemu-utils").as_deref(), Some("1"));
}

/// Two packages that push each other out: an end, and no success.
#[test]
fn packages_that_exclude_each_other_are_named() {
    let behaviour = r#"
update() { :; }
install() {
    case $words in *apple*) removed pear ;; *) removed apple ;; esac
    arrives $words 1
}
"#;
    let machine = Machine::new(&[("pear", "1")], "apple pear", behaviour);
    let outcome = machine.setup().expect(1);
    assert!(outcome.stderr.contains("setup: apt-get removes pear (1)\n"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("setup: not installed: "), "{}", outcome.stderr);
    assert!(!machine.calls().iter().any(|c| c.starts_with("cargo")), "{:?}", machine.calls());
}

#[test]
fn a_package_that_never_arrives_is_named() {
    let behaviour =
        "update() { :; }\ninstall() { for p in $words; do [ $p = pear ] || arrives $p 1; done; }\n";
    let machine = Machine::new(&[], "apple pear", behaviour);
    let outcome = machine.setup().expect(1);
    assert!(outcome.stderr.contains("setup: not installed: pear; see what this says"), "{}", outcome.stderr);
    assert!(!machine.calls().iter().any(|c| c.starts_with("cargo")), "{:?}", machine.calls());
}

#[test]
fn a_network_that_fails_is_told_in_apts_words() {
    let behaviour = "update() { echo 'E: Temporary failure resolving deb.example' >&2; exit 100; }\n\
        install() { [ \"$simulate\" ] || { echo 'E: Unable to fetch some archives' >&2; exit 100; }; }\n";
    let machine = Machine::new(&[], "apple", behaviour);
    let outcome = machine.setup().expect(1);
    for text in [
        "setup: apt-get update failed",
        "resolving deb.example",
        "Unable to fetch",
        "setup: not installed: apple;",
    ] {
        assert!(outcome.stderr.contains(text), "no {text:?} in {}", outcome.stderr);
    }
}

/// Installed, says dpkg; but the program is not there.
#[test]
fn a_program_that_is_lost_is_named() {
    let machine = Machine::new(&[("apple", "1"), ("pear", "1")], "apple pear", WELL);
    std::fs::remove_file(machine.0.home().join("../bin/pear-run")).unwrap();
    let outcome = machine.setup().expect(1);
    assert!(outcome.stderr.contains("\npear pear-run\n"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("apt-get install --reinstall pear\n"), "{}", outcome.stderr);
}

#[test]
fn rust_is_asked_for_first() {
    let mut machine = Machine::new(&[], "apple", WELL);
    std::fs::remove_file(machine.0.home().join("../bin/cargo")).unwrap();
    let path = format!("{}:/usr/bin:/bin", machine.0.home().join("../bin").display());
    let outcome = machine.0.set("PATH", path).start(Path::new("/bin/sh"), &["tests/setup.sh"]).finish();
    if outcome.code == 0 {
        println!("skipped: there is a cargo in /usr/bin");
        return;
    }
    assert!(outcome.stderr.starts_with("setup: cargo is missing"), "{}", outcome.stderr);
    assert_eq!(machine.calls(), Vec::<String>::new());
}

/// The guest's builder goes by the same list.
#[test]
fn the_builder_of_guests_names_the_packages_of_the_list() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    let env = Env::new();
    let copied = env.command("cp").args(["-r"]).arg(repository().join("tests/guest")).arg(".").status();
    assert!(copied.unwrap().success());
    env.write("guest/packages-host.txt", "apple no-such-program\npear /no/such/file cat\nplum cat\n");
    let outcome = env.start(&env.home().join("guest/build.sh"), &["--cache", "cache"]).finish().expect(1);
    let text = "guest: missing programs; install them with: apt-get install -y apple pear\n";
    assert_eq!(outcome.stderr, text);
}
