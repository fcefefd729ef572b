//! Which applet runs: by the program's name or by the first word.

use std::os::unix::fs::symlink;

use crate::support::{Env, snapshot, toy};

const MANTLE: &str = env!("CARGO_BIN_EXE_mantle");

#[test]
fn by_symbolic_and_hard_link() {
    let env = Env::new();
    let soft = env.home().join("kola");
    symlink(MANTLE, &soft).unwrap();
    let outcome = env.start(&soft, &["version"]).finish().expect(0);
    assert_eq!(outcome.stdout, format!("mantle/kola version {}\n", env!("CARGO_PKG_VERSION")));
    std::fs::create_dir(env.home().join("hard")).unwrap();
    let hard = env.home().join("hard/kola");
    if std::fs::hard_link(MANTLE, &hard).is_err() {
        std::fs::copy(MANTLE, &hard).unwrap(); // the build lies on another file system
    }
    let outcome = env.start(&hard, &["--bad"]).finish().expect(2);
    assert!(outcome.stderr.contains("Usage: kola "), "{}", outcome.stderr);
}

#[test]
fn by_the_first_word() {
    let env = Env::new();
    let version = format!("mantle/kola version {}\n", env!("CARGO_PKG_VERSION"));
    for args in
        [&["kola", "version"][..], &["kola", "--version"], &["-d", "--log-level=INFO", "kola", "version"]]
    {
        assert_eq!(env.mantle(args).expect(0).stdout, version);
    }
    let outcome = env.mantle(&["kola", "--bad"]).expect(2);
    assert!(outcome.stderr.contains("Usage: mantle kola "), "{}", outcome.stderr);
    assert_eq!(
        env.mantle(&["version"]).expect(0).stdout,
        format!("mantle version {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn options_before_the_applet_are_the_applets() {
    for argv in [
        &["toolbox", "--log-level", "INFO", "toy", "show", "--name=x"][..],
        &["toolbox", "-v", "--no-config", "toy", "show", "--name=x"],
    ] {
        let outcome = toy::run(&Env::new(), argv).expect(0);
        assert!(outcome.stdout.contains("level=INFO"), "{}", outcome.stdout);
    }
}

#[test]
fn help_is_there_on_every_level() {
    let env = Env::new();
    for argv in
        [&["toy"][..], &["toy", "--help"], &["toy", "help"], &["toolbox", "toy"], &["toolbox", "help", "toy"]]
    {
        let outcome = toy::run(&env, argv).expect(0);
        assert!(
            outcome.stdout.contains("Commands:") && outcome.stdout.contains("--platform"),
            "{}",
            outcome.stdout
        );
        assert_eq!(outcome.stderr, "");
    }
    for argv in [&["toy", "help", "show"][..], &["toy", "show", "-h"], &["toolbox", "help", "toy", "show"]] {
        assert!(toy::run(&env, argv).expect(0).stdout.contains("--count"));
    }
    // a group without a command
    let outcome = toy::run(&env, &["toolbox", "toy", "group"]).expect(0);
    assert!(outcome.stdout.contains("Usage: toolbox toy group"), "{}", outcome.stdout);
}

#[test]
fn bare_mantle_is_a_usage_error() {
    let outcome = Env::new().mantle(&[]).expect(2);
    assert_eq!(outcome.stdout, "");
    assert!(outcome.stderr.contains("Usage: mantle"), "{}", outcome.stderr);
}

#[test]
fn the_list_names_every_applet() {
    let outcome = Env::new().mantle(&["--list"]).expect(0);
    assert!(outcome.stdout.lines().any(|l| l == "kola"), "{}", outcome.stdout);
    assert!(!outcome.stdout.contains("mantle"), "{}", outcome.stdout);
    assert_eq!(toy::run(&Env::new(), &["toolbox", "--list"]).expect(0).stdout, "toy\nother\n");
}

#[test]
fn error_pages() {
    let env = Env::new();
    snapshot(
        "cli/unknown-option",
        &toy::run(&env, &["toolbox", "toy", "show", "--cuont=3"]).expect(2).stderr,
        &[],
    );
    snapshot("cli/unknown-applet", &toy::run(&env, &["toolbox", "otehr"]).expect(2).stderr, &[]);
    snapshot("cli/help", &toy::run(&env, &["toy", "--help"]).expect(0).stdout, &[]);
}

#[test]
fn a_mistyped_subcommand_gets_the_nearest_in_every_applet() {
    let env = Env::new();
    for (typed, meant) in [
        (&["kla"][..], "kola"),
        (&["kola", "rn"], "run"),
        (&["kola", "-p", "qemu", "spwan"], "spawn"),
        (&["kola", "doctr"], "doctor"),
        (&["cork", "snyc"], "sync"),
        (&["gangue", "verison"], "version"),
        (&["gangue", "gte"], "get"),
        (&["kolet", "urn"], "run"),
        (&["ore", "awz"], "aws"),
        (&["ore", "aws", "gcc"], "gc"),
        (&["plume", "indx"], "index"),
    ] {
        let said = env.mantle(typed).expect(2).stderr;
        assert!(said.contains(&format!("a similar subcommand exists: '{meant}'")), "{typed:?}: {said}");
    }
    let said = env.mantle(&["kola", "xyzzy"]).expect(2).stderr;
    assert!(!said.contains("similar"), "{said}");
}
