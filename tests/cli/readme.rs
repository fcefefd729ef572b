//! What the README tells people to type is understood.

use crate::support::guard::Limit;
use crate::support::{Env, installed, repository};

const PROGRAMS: [&str; 6] = ["cork", "gangue", "kola", "mantle", "ore", "plume"];

fn env() -> Env {
    let env = Env::new();
    for name in PROGRAMS {
        let link = env.program(name, "");
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mantle"), link).unwrap();
    }
    env
}

/// The lines of its blocks of shell.
fn lines() -> Vec<String> {
    let text = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let mut lines = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            _ if inside => lines.push(line.to_owned()),
            _ => {}
        }
    }
    lines
}

#[test]
fn every_command_line_is_understood() {
    if !installed("bash") {
        return;
    }
    let (env, mut seen) = (env(), 0);
    for line in lines() {
        let line = line.split("  #").next().unwrap_or_default();
        let line = line.split(" > ").next().unwrap_or_default().trim();
        if PROGRAMS.iter().any(|p| line.split(' ').next() == Some(p)) {
            // What follows two dashes is another command's.
            let (own, others) = line.split_once(" -- ").unwrap_or((line, ""));
            let line = format!("{own} --help -- {others}");
            let line = line.trim_end().trim_end_matches(" --");
            let outcome = env.start("bash".as_ref(), &["-c", line]).finish();
            assert_eq!(outcome.code, 0, "{line}: {}", outcome.stderr);
            assert!(outcome.stdout.contains("Usage:"), "{line}: {}", outcome.stdout);
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

/// The walk through a release, line by line as it stands there.
#[test]
fn a_release_by_the_walk() {
    if !installed("bash") {
        return;
    }
    let mut env = env();
    env.guarded(Limit::MACHINES);
    let lines = lines();
    let start = lines.iter().position(|l| l.starts_with("plume rehearse")).unwrap();
    let end = start + lines[start..].iter().position(|l| l.starts_with("plume channels")).unwrap();
    let script = format!("set -eu\n{}\n", lines[start..end].join("\n"));
    let outcome = env.start("bash".as_ref(), &["-c", &script]).finish().expect(0);
    for told in [
        "Rehearsed cl alpha amd64-usr 1.0.0 in ",
        "\nCOREOS_VERSION=1.0.0\n",
        "|us-west-2=ami-",
        "\"state\": \"DEPRECATED\"",
        " of them went wrong\n",
    ] {
        assert!(outcome.stdout.contains(told), "{told:?}: {}\n{}", outcome.stdout, outcome.stderr);
    }
}

#[test]
fn the_feature_file_of_the_walk_is_accepted() {
    if !["qemu-system-x86_64", "qemu-img", "bash"].iter().all(|p| installed(p)) {
        return;
    }
    let env = env();
    let lines = lines();
    let start = lines.iter().position(|l| l.starts_with("cat >my.qcow2.json")).unwrap();
    let end = start + lines[start..].iter().position(|l| l == "EOF").unwrap();
    let script = lines[start..=end].join("\n");
    env.start("bash".as_ref(), &["-c", &script]).finish().expect(0);
    std::fs::File::create(env.home().join("my.qcow2")).unwrap().set_len(1 << 20).unwrap();
    let args =
        ["run", "-p", "qemu-unpriv", "--board", "amd64-usr", "--qemu-image", "my.qcow2", "no.such.test"];
    let outcome = env.mantle(&[&["kola"], &args[..]].concat()).expect(1);
    assert!(outcome.stderr.contains("no test matches no.such.test"), "{}", outcome.stderr);
}

/// The walk from an image to a test on it, line by line as it stands there, with a guest of mantle's own as the image and
/// the binary that `$MANTLE` names. Emulated machines boot: it runs only where `MANTLE_TEST_MACHINES` asks for that.
#[test]
fn real_tests_by_the_walk() {
    let Some(mantle) =
        std::env::var_os("MANTLE").filter(|_| std::env::var_os("MANTLE_TEST_MACHINES").is_some())
    else {
        println!("skipped: $MANTLE_TEST_MACHINES and $MANTLE do not ask for it");
        return;
    };
    let mantle = std::path::absolute(mantle).unwrap().display().to_string();
    let mut env = env();
    env.guarded(Limit::MACHINES);
    let guests = std::env::var_os("MANTLE_GUEST_DIR").map(std::path::PathBuf::from).unwrap_or_else(|| {
        std::path::PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/mantle/guest")
    });
    let image = guests.join("full/guest.qcow2").canonicalize().unwrap();
    std::os::unix::fs::symlink(image, env.home().join("my.qcow2")).unwrap();
    // The names must be those that the walk installs, not the links of this test.
    env.set("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let lines = lines();
    let start = lines.iter().position(|l| l.starts_with("make release")).unwrap();
    let end = start + lines[start..].iter().position(|l| l.starts_with("less ")).unwrap();
    let walk: Vec<String> = lines[start + 1..=end]
        .iter()
        .map(|line| line.replace("target/*/release/mantle", &mantle).replace("less ", "cat "))
        .collect();
    let script = format!("set -eu\n{}\n", walk.join("\n"));
    assert!(
        script.contains(&mantle) && script.contains("kola spawn") && script.contains("kola run"),
        "{script}"
    );
    let outcome = env.start("bash".as_ref(), &["-c", &script]).finish().expect(0);
    assert!(outcome.stdout.contains("--- PASS: coreos.auth.verify"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("ok - coreos.auth.verify"), "{}", outcome.stdout);
}
