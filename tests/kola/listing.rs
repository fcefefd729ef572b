//! `kola list` and `kola check-console`.

use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use super::env;
use crate::support::{Env, Outcome, snapshot};

#[test]
fn the_table_is_aligned() {
    let table = env().mantle(&["kola", "list"]).expect(0).stdout;
    let mut rows = table.lines();
    let columns = |row: &str| {
        let mut starts = vec![0];
        let (mut at, mut gap) = (0, false);
        for c in row.chars() {
            if c == '\t' {
                at = (at / 8 + 1) * 8;
                gap = true;
            } else {
                if std::mem::take(&mut gap) {
                    starts.push(at);
                }
                at += 1;
            }
        }
        starts
    };
    let head = rows.next().unwrap();
    let words: Vec<&str> = head.split('\t').filter(|w| !w.is_empty()).collect();
    assert_eq!(words, ["Test Name", "Platforms", "Architectures", "Distributions"]);
    assert_eq!(rows.next().unwrap().trim(), "");
    let mut names = Vec::new();
    for row in rows {
        assert_eq!(columns(row), columns(head), "{row}");
        names.push(row.split('\t').next().unwrap());
    }
    assert!(names.is_sorted(), "{names:?}");
    assert!(names.contains(&"selftest.pass") && names.contains(&"coreos.auth.verify"), "{names:?}");
    let own: String =
        table.lines().filter(|l| l.starts_with("selftest.")).map(|l| format!("{l}\n")).collect();
    snapshot("kola/list", &own, &[]);
}

#[test]
fn the_list_is_filtered() {
    let env = env();
    let names = |args: &[&str]| {
        let table = env.mantle(&[&["kola", "list"], args].concat()).expect(0).stdout;
        table.lines().skip(2).map(|l| l.split('\t').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&["fcos.*", "cl.basic"]), ["cl.basic", "fcos.basic"]);
    let debian = names(&["-b", "debian", "*.basic"]);
    assert_eq!(debian, ["debian.basic", "fcos.basic"]);
    assert!(names(&["-p", "scripted"]).contains(&"selftest.pass".to_owned()));
    assert!(!names(&["-p", "qemu"]).iter().any(|name| name.starts_with("selftest.")));
    for (args, code, said) in [
        (&["-p", "qmeu"][..], 3, "did you mean \"qemu\"?"),
        (&["-b", "bogus"], 3, "unsupported distro \"bogus\""),
        (&["debian.basik"], 1, "did you mean \"debian.basic\"?"),
        (&["["], 1, "syntax error in pattern: ["),
    ] {
        let outcome = env.mantle(&[&["kola", "list"], args].concat()).expect(code);
        assert!(outcome.stderr.contains(said), "{}", outcome.stderr);
        assert_eq!(outcome.stdout, "");
    }
    let json = env.mantle(&["kola", "list", "--json", "debian.basic"]).expect(0).stdout;
    assert!(json.contains("\"Description\": \"The system as it comes"), "{json}");
}

#[test]
fn the_list_is_json_too() {
    let env = Env::new();
    let text = env.mantle(&["kola", "list", "--json"]).expect(0).stdout;
    let list: Value = serde_json::from_str(&text).unwrap();
    let list = list.as_array().unwrap();
    for test in list {
        let keys: Vec<&String> = test.as_object().unwrap().keys().filter(|k| *k != "Description").collect();
        assert_eq!(keys, ["Name", "Platforms", "Architectures", "Distros"]);
        for key in &keys[1..] {
            assert!(!test[key.as_str()].as_array().unwrap().is_empty(), "{test}");
        }
    }
    let table = env.mantle(&["kola", "list"]).expect(0).stdout;
    let names: Vec<&str> = table.lines().skip(2).map(|l| l.split('\t').next().unwrap()).collect();
    assert_eq!(list.iter().map(|t| t["Name"].as_str().unwrap()).collect::<Vec<_>>(), names);
    assert!(text.starts_with("[\n\t{\n\t\t\"Name\": \""), "{}", &text[..60]);
}

#[test]
fn nobody_needs_to_read_the_list_to_its_end() {
    let env = env();
    let script = format!(
        "set -o pipefail; {0} kola list | head -n1; {0} kola list --json | head -n1",
        env!("CARGO_BIN_EXE_mantle")
    );
    let outcome = env.start("/bin/bash".as_ref(), &["-c", &script]).finish().expect(0);
    assert_eq!((outcome.stdout.lines().count(), outcome.stderr.as_str()), (2, ""));
}

/// Runs `kola check-console` with this stdin.
fn check(env: &Env, args: &[&str], input: &str) -> Outcome {
    let mut command = env.command(env!("CARGO_BIN_EXE_mantle"));
    command.args([&["kola", "check-console"], args].concat()).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Outcome {
        code: output.status.code().unwrap(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

#[test]
fn consoles_are_checked_in_files_and_stdin() {
    let env = Env::new();
    env.write("good", "[ 0.1] Linux version 4.19\nlogin: ");
    env.write(
        "bad",
        "[ 1] Kernel panic - not syncing: VFS: no root\r\n[ 1] ---\n[ 2] panic: index out of range\n",
    );
    let none = check(&env, &[], "all is well\n").expect(0);
    assert_eq!((none.stdout.as_str(), none.stderr.as_str()), ("", ""));
    let found = check(&env, &[], "You are in emergency mode. x\n").expect(1);
    assert_eq!(found.stdout, "stdin: emergency shell\n");
    let found = check(&env, &["-v", "good", "-", "bad"], "core dumped: Core dump\n").expect(1);
    assert_eq!(
        found.stdout,
        "Reading input from stdin...\nstdin: core dump\nbad: kernel panic (VFS: no root)\nbad: Go panic (index out of range)\n"
    );
    assert_eq!(found.stderr, "");
    let found = check(&env, &["good", "missing", ".", "bad"], "").expect(1);
    assert_eq!(found.stdout.lines().count(), 2, "the others are checked all the same: {}", found.stdout);
    let lines: Vec<&str> = found.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("missing: No such file or directory"), "{}", lines[0]);
    assert!(lines[1].contains(".: Is a directory"), "{}", lines[1]);
    check(&env, &["good"], "").expect(0);
}
