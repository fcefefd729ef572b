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
fn check(env: &Env, args: &[&str], input: impl AsRef<[u8]>) -> Outcome {
    let mut command = env.command(env!("CARGO_BIN_EXE_mantle"));
    command.args([&["kola", "check-console"], args].concat()).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_ref()).unwrap();
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
    assert!(lines[1].contains(".: it is a folder"), "{}", lines[1]);
    check(&env, &["good"], "").expect(0);
}

/// The objects that `check-console --json` prints.
fn objects(outcome: &Outcome) -> Vec<Value> {
    outcome.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn packed_and_foreign_consoles_are_read_or_refused() {
    let env = Env::new();
    let log = "[ 0.1] Linux\r\n[ 1] Kernel panic - not syncing: x\r\n";
    env.write("log", log);
    // By other people's programs; two members after each other.
    let script = "for p in gzip xz bzip2 zstd; do command -v $p >/dev/null || continue; \
        { $p -c <log; echo more | $p -c; } >log.$p; echo log.$p; done";
    let packed = env.start("/bin/sh".as_ref(), &["-c", script]).finish().expect(0).stdout;
    assert!(packed.lines().count() > 0, "no compressor is installed");
    for file in packed.lines() {
        let found = check(&env, &[file], "").expect(1);
        assert_eq!(
            (found.stdout.as_str(), found.stderr.as_str()),
            (&*format!("{file}: kernel panic (x)\n"), "")
        );
    }
    let utf16: Vec<u8> = log.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(check(&env, &[], &utf16).expect(1).stdout, "stdin: kernel panic (x)\n");
    let harmless: Vec<u8> = "all is well\n".encode_utf16().flat_map(u16::to_be_bytes).collect();
    let clean = check(&env, &["--json"], &harmless).expect(0);
    assert_eq!(objects(&clean)[0]["type"], "examined");
    assert_eq!(objects(&clean)[0]["encoding"], "UTF-16BE");
    // What was not looked at is never clean.
    let cut = std::fs::read(env.home().join("log.gzip")).unwrap_or_default();
    let cases: &[(&[u8], &str)] = &[
        (b"", "empty"),
        (b" \r\n", "empty"),
        (&[0x80; 4000], "binary"),
        (&cut[..cut.len().min(40)], if cut.is_empty() { "empty" } else { "damaged" }),
    ];
    for (bytes, reason) in cases {
        let said = check(&env, &[], bytes).expect(1);
        assert!(said.stderr.contains("stdin was not checked: "), "{}", said.stderr);
        let told = check(&env, &["--json"], bytes).expect(1);
        let last = objects(&told).pop().unwrap();
        assert_eq!((last["type"].as_str(), last["reason"].as_str()), (Some("unread"), Some(*reason)));
    }
}

#[test]
fn findings_are_told_to_programs_with_their_place() {
    let env = Env::new();
    let log = "one\ntwo\n\x1b[0mavc:  denied  { read } for x\r\nfour\nfive\nsix\n";
    let warned = check(&env, &[], log).expect(0);
    assert_eq!(warned.stdout, "stdin: warning: SELinux denial ({ read } for x)\n");
    let told = check(&env, &["--json"], log).expect(0);
    let object = &objects(&told)[0];
    assert_eq!(
        object,
        &serde_json::json!({
            "type": "finding", "file": "stdin", "line": 3, "check": "SELinux denial", "severity": "warn",
            "capture": "{ read } for x", "text": "avc:  denied  { read } for x",
            "before": ["one", "two"], "after": ["four", "five"],
        })
    );
}

#[test]
fn the_checks_are_listed() {
    let env = Env::new();
    let table = env.mantle(&["kola", "check-console", "--list"]).expect(0).stdout;
    let rows: Value =
        serde_json::from_str(&env.mantle(&["kola", "check-console", "--list", "--json"]).expect(0).stdout)
            .unwrap();
    let rows = rows.as_array().unwrap();
    assert_eq!(table.lines().count(), rows.len() + 2);
    for row in rows {
        let label = row["check"].as_str().unwrap();
        assert!(table.lines().any(|l| l.starts_with(label)), "{label}");
        for pattern in row["patterns"].as_array().unwrap() {
            regex::Regex::new(pattern.as_str().unwrap()).unwrap();
        }
    }
    env.mantle(&["kola", "check-console", "--list", "file"]).expect(2);
}
