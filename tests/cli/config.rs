//! Configuration files.

use std::os::unix::fs::PermissionsExt;

use crate::support::{Env, Outcome, snapshot, toy};

/// Runs the toy with this configuration.
fn with(text: &str, args: &[&str]) -> Outcome {
    let mut env = Env::new();
    let file = env.write("c.yaml", text);
    env.set("MANTLE_CONFIG", file);
    let mut outcome = toy::run(&env, &[&["toy"], args].concat());
    outcome.stderr = outcome.stderr.replace(&*env.home().to_string_lossy(), "~");
    outcome
}

#[test]
fn values_have_their_rank() {
    let text = "toy: { zone: file, platform: aws, show: { name: x, count: 5, keys: true, shell: false } }";
    let outcome = with(text, &["show"]).expect(0).stdout; // --name is required, but the file has it
    for part in ["platform=Some(\"aws\")", "zone=Some(\"file\")", "count=5", "keys=true", "shell=false"] {
        assert!(outcome.contains(part), "{part}: {outcome}");
    }
    let outcome = with(text, &["show", "--count=6", "--keys=false", "-p", "do"]).expect(0).stdout;
    for part in ["platform=Some(\"do\")", "count=6", "keys=false"] {
        assert!(outcome.contains(part), "{part}: {outcome}");
    }
    let mut env = Env::new();
    let file = env.write("c.yaml", text);
    env.set("TOY_ZONE", "environment");
    let argv = ["toy", "--config", file.to_str().unwrap(), "show"];
    assert!(toy::run(&env, &argv).expect(0).stdout.contains("zone=Some(\"environment\")"));
    let argv = [&argv[..], &["--zone=flag"]].concat();
    assert!(toy::run(&env, &argv).expect(0).stdout.contains("zone=Some(\"flag\")"));
}

#[test]
fn lists_numbers_and_general_options() {
    let text = "log-level: INFO\ntoy:\n  unit: [a, 1.10, 'c']\n  zone: 1.10\n  show:\n    name: 0x7\n    timeout: 90s\n";
    let outcome = with(text, &["show"]).expect(0).stdout;
    for part in [
        r#"unit=["a", "1.10", "c"]"#,
        "zone=Some(\"1.10\")",
        "name=Some(\"0x7\")",
        "timeout=90s",
        "level=INFO",
    ] {
        assert!(outcome.contains(part), "{part}: {outcome}");
    }
    assert!(
        with("toy: { unit: 'a,b', show: { name: n } }", &["show"])
            .expect(0)
            .stdout
            .contains(r#"unit=["a", "b"]"#)
    );
    assert!(
        with("toy: { unit: [a], show: { name: n } }", &["show", "--unit=z"])
            .expect(0)
            .stdout
            .contains(r#"unit=["z"]"#)
    );
    // an applet's own value beats the one for all
    let text = "log-level: INFO\ntoy: { log-level: ERROR, show: { name: n } }";
    assert!(with(text, &["show"]).expect(0).stdout.contains("level=ERROR"));
}

#[test]
fn the_users_file_lies_over_the_systems() {
    let mut env = Env::new();
    env.unset("MANTLE_CONFIG");
    env.write(".config/mantle/config.yaml", "toy: { show: { name: from-home } }");
    assert!(toy::run(&env, &["toy", "show"]).expect(0).stdout.contains("from-home"));
    let folder = env.home().join("xdg");
    env.write("xdg/mantle/config.yaml", "toy: { show: { name: from-xdg } }");
    env.set("XDG_CONFIG_HOME", folder);
    assert!(toy::run(&env, &["toy", "show"]).expect(0).stdout.contains("from-xdg"));
    let outcome = toy::run(&env, &["toy", "show", "--no-config"]).expect(2);
    assert!(outcome.stderr.contains("--name"), "{}", outcome.stderr);
}

#[test]
fn empty_files_say_nothing() {
    for text in [
        "",
        "# nothing\n",
        "---\n",
        "null\n",
        "toy:\n",
        "toy:\n  show:\n    count:\n",
        "other: { whatever: [1, {a: b}] }",
    ] {
        assert!(with(text, &["show", "--name=x"]).expect(0).stdout.contains("count=1\n"), "{text:?}");
    }
}

#[test]
fn mistakes_are_named_with_their_place() {
    let cases = [
        ("unknown-key", "toy:\n  show:\n    count: 3\n    cuont: 4\n"),
        ("unknown-applet", "log-level: INFO\notehr: {}\n"),
        ("wrong-place", "toy:\n  show:\n    name: x\n    platform: aws\n"),
        ("wrong-type", "toy:\n  show:\n    count: three\n"),
        ("wrong-choice", "toy:\n  show: { mode: fastest }\n"),
        ("list-for-scalar", "toy:\n  zone:\n    - a\n    - b\n"),
        ("map-for-list", "toy:\n  unit: { a: b }\n"),
        ("nested-list", "toy:\n  unit: [a, [b]]\n"),
        ("number-for-section", "toy: 3\n"),
        ("twice", "toy:\n  zone: a\n  zone: b\n"),
        ("not-yaml", "toy: {\n"),
        ("two-documents", "toy: {}\n---\ntoy: {}\n"),
        ("about-itself", "config: /x\n"),
    ];
    let mut page = String::new();
    for (name, text) in cases {
        let outcome = with(text, &["show", "--name=x"]).expect(2);
        assert_eq!(outcome.stdout, "", "{name}");
        page.push_str(&format!("# {name}\n{}\n", outcome.stderr));
    }
    snapshot("cli/config-mistakes", &page, &[]);
}

#[test]
fn a_file_asked_for_must_be_there_but_help_needs_none() {
    let env = Env::new();
    let outcome = toy::run(&env, &["toy", "--config", "/nonexistent", "show", "--name=x"]).expect(2);
    assert!(outcome.stderr.contains("cannot read configuration /nonexistent"), "{}", outcome.stderr);
    toy::run(&env, &["toy", "--config=/nonexistent", "show"]).expect(2);
    toy::run(&env, &["toy", "--config", "/nonexistent", "--help"]).expect(0);
    toy::run(&env, &["toy", "--config", "/nonexistent", "version"]).expect(0);
    let outcome = toy::run(&env, &["toy", "--config", "/dev/zero", "show", "--name=x"]).expect(2);
    assert!(outcome.stderr.contains("not a plain file"), "{}", outcome.stderr);
    let long = env.write("long.yaml", &"#".repeat(100 << 10));
    let outcome = toy::run(&env, &["toy", "--config", long.to_str().unwrap(), "show", "--name=x"]).expect(2);
    assert!(outcome.stderr.contains("64 KiB"), "{}", outcome.stderr);
}

#[test]
fn hostile_files_are_refused() {
    let deep = format!("toy: {}", "[".repeat(60_000));
    let bomb = format!(
        "other:\n  - &a [x,x,x,x,x,x,x,x,x]\n{}",
        (0..40).map(|_| "  - &a [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n").collect::<String>()
    );
    let blocks = format!("other:\n  {}", "- ".repeat(30_000));
    for text in [deep.as_str(), &bomb, &blocks, "\u{0}", "toy: !!binary x", "*a", "<<: {}", "? [a]\n: b"] {
        let outcome = with(text, &["show", "--name=x"]);
        assert!([0, 2].contains(&outcome.code), "{outcome:?}");
        assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    }
}

#[test]
fn secrets_in_files_others_can_read_are_warned_of() {
    let mut env = Env::new();
    let file = env.write("c.yaml", "toy: { token: hunter2 }");
    env.set("MANTLE_CONFIG", &file);
    let outcome = toy::run(&env, &["toy", "show", "--name=x"]).expect(0);
    assert_eq!(outcome.stderr, "");
    assert!(outcome.stdout.contains("secret length=Some(7)"));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let outcome = toy::run(&env, &["toy", "show", "--name=x"]).expect(0);
    assert!(
        outcome.stderr.contains("toy.token") && outcome.stderr.contains("chmod 600"),
        "{}",
        outcome.stderr
    );
    let outcome = toy::run(&env, &["toy", "--help"]).expect(0);
    assert!(!(outcome.stdout + &outcome.stderr).contains("hunter2"));
}

#[test]
fn config_show_tells_where_values_are_from() {
    let mut env = Env::new();
    let file = env.write("c.yaml", "log-level: ERROR\ninstall: { prefix: /opt }\n");
    let given = env.mantle(&["config", "show", "--config", file.to_str().unwrap()]).expect(0);
    let line = |start: &str| given.stdout.lines().find(|l| l.trim_start().starts_with(start)).map(str::trim);
    assert_eq!(line("log-level:"), Some(&*format!("log-level: ERROR  # {}", file.display())));
    assert_eq!(line("prefix:"), Some(&*format!("prefix: /opt  # {}", file.display())));
    assert_eq!(line("force:"), Some("force: false  # built in"));
    // what it prints is a configuration with the same meaning
    let again = env.write("again.yaml", &given.stdout);
    let shown = env.mantle(&["config", "show", "--config", again.to_str().unwrap(), "--json"]).expect(0);
    let values: Vec<serde_json::Value> = serde_json::from_str(&shown.stdout).unwrap();
    let prefix = values.iter().find(|v| v["key"] == "install.prefix").unwrap();
    assert_eq!((&prefix["value"], &prefix["origin"]), (&"/opt".into(), &"file".into()));
    env.set("MANTLE_CONFIG", env.write("bad.yaml", "kloa: {}"));
    let outcome = env.mantle(&["config", "show"]).expect(2);
    assert!(outcome.stderr.contains("did you mean \"kola\"?"), "{}", outcome.stderr);
}
