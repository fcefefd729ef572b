//! Spellings of options that upstream accepted.

use crate::support::{Env, toy};

/// What `toy show` prints for these arguments.
fn show(args: &[&str]) -> String {
    let argv: Vec<&str> = ["toy"].iter().chain(args).copied().collect();
    toy::run(&Env::new(), &argv).expect(0).stdout
}

#[test]
fn options_of_the_group_stand_before_or_after_the_command() {
    for args in [
        ["-p", "aws", "show", "--name=x"],
        ["show", "--name=x", "-p", "aws"],
        ["show", "--platform=aws", "--name", "x"],
    ] {
        assert!(show(&args).contains("platform=Some(\"aws\")"), "{args:?}");
    }
}

#[test]
fn truth_values_are_those_of_go() {
    let text = show(&["show", "--name=x", "--keys", "--shell=false"]);
    assert!(text.contains("keys=true") && text.contains("shell=false"), "{text}");
    let text = show(&["show", "--name=x", "-s=F", "-k=1"]);
    assert!(text.contains("keys=true") && text.contains("shell=false"), "{text}");
    let outcome = toy::run(&Env::new(), &["toy", "show", "--name=x", "--keys=yes"]).expect(2);
    assert!(outcome.stderr.contains("not a truth value"), "{}", outcome.stderr);
}

#[test]
fn short_options_may_be_grouped() {
    let text = show(&["show", "--name=x", "-kvc3"]);
    assert!(
        text.contains("keys=true") && text.contains("verbose=true") && text.contains("count=3"),
        "{text}"
    );
    // a switch does not swallow the next word
    let text = show(&["show", "--name=x", "-k", "file"]);
    assert!(text.contains("keys=true"), "{text}");
}

#[test]
fn the_last_of_repeated_options_wins_and_lists_add_up() {
    let text = show(&["show", "--name=x", "--name=y", "--unit", "a,b", "--unit=c", "--unit="]);
    assert!(text.contains("name=Some(\"y\")") && text.contains(r#"unit=["a", "b", "c"]"#), "{text}");
}

#[test]
fn values_may_start_with_a_hyphen() {
    let text = show(&["show", "--name", "-x", "-c", "-1"]);
    assert!(text.contains("name=Some(\"-x\")") && text.contains("count=-1"), "{text}");
}

#[test]
fn numbers_and_durations_are_those_of_go() {
    let text = show(&["show", "--name=x", "--count=0x10", "--timeout=1h0m1.5s"]);
    assert!(text.contains("count=16") && text.contains("timeout=3601.5s"), "{text}");
    let outcome = toy::run(&Env::new(), &["toy", "show", "--name=x", "--timeout=90"]).expect(2);
    assert!(outcome.stderr.contains("missing unit"), "{}", outcome.stderr);
}

#[test]
fn log_levels() {
    for (args, level) in [
        (&["show", "--name=x"][..], "NOTICE"),
        (&["-v", "show", "--name=x"], "INFO"),
        (&["show", "--name=x", "-v"], "NOTICE"), // its own --verbose hides the general one
        (&["show", "--name=x", "-d"], "DEBUG"),
        (&["-dv", "show", "--name=x", "--log-level=ERROR"], "DEBUG"),
        (&["--log-level", "i", "show", "--name=x"], "INFO"),
        (&["--log-level=5", "show", "--name=x"], "TRACE"),
    ] {
        assert!(show(args).contains(&format!("level={level}\n")), "{args:?}");
    }
    let outcome = toy::run(&Env::new(), &["toy", "end", "well", "-v"]).expect(0);
    assert!(outcome.stderr.contains(" cli: Started logging at level INFO"), "{}", outcome.stderr);
    toy::run(&Env::new(), &["toy", "--log-level=loud", "end", "well"]).expect(2);
}

#[test]
fn an_empty_variable_is_none() {
    let mut env = Env::new();
    env.set("TOY_ZONE", "there");
    let text = toy::run(&env, &["toy", "show", "--name=x"]).expect(0).stdout;
    assert!(text.contains("zone=Some(\"there\")"), "{text}");
    env.set("TOY_ZONE", "");
    let text = toy::run(&env, &["toy", "show", "--name=x"]).expect(0).stdout;
    assert!(text.contains("zone=Some(\"here\")"), "{text}");
}

#[test]
fn secrets_do_not_show() {
    let mut env = Env::new();
    for argv in [
        &["toy", "--token", "hunter2", "show", "--name=x"][..],
        &["toy", "show", "--name=x", "--token=hunter2"],
    ] {
        let outcome = toy::run(&env, argv).expect(0);
        assert!(outcome.stdout.contains("token=Some(***)\nsecret length=Some(7)"), "{}", outcome.stdout);
        assert!(!outcome.stdout.contains("hunter2"), "{}", outcome.stdout);
        assert!(outcome.stdout.contains("--name=x"), "{}", outcome.stdout);
    }
    env.set("TOY_TOKEN", "hunter2");
    let outcome = toy::run(&env, &["toy", "--help"]).expect(0);
    assert!(!outcome.stdout.contains("hunter2"), "{}", outcome.stdout);
}

#[test]
fn mistakes_get_a_suggestion() {
    for (argv, hint) in [
        (&["toy", "shwo"][..], "'show'"),
        (&["toolbox", "otehr"], "'other'"),
        (&["toy", "show", "--nmae=x"], "'--name'"),
        (&["toy", "show", "--platfrm=x"], "'--platform'"),
        (&["toy", "show", "--name=x", "--mode=fats"], "'fast'"),
    ] {
        let outcome = toy::run(&Env::new(), argv).expect(2);
        assert!(outcome.stderr.contains(hint), "{}", outcome.stderr);
        assert_eq!(outcome.stdout, "");
    }
    toy::run(&Env::new(), &["toy", "show", "--name=x", "one", "two"]).expect(2);
}
