//! What is particular to Packet in requests, faults and their judge.

mod double;
mod kola;
mod ore;
mod sos;

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::emulators::environment;
use crate::support::http::{Request, Response};
use crate::support::repository;

/// The operation, such as `devices.create`; `objects.put` and `objects.delete` for what devices boot.
pub fn action(request: &Request) -> String {
    let path: Vec<&str> = request.path().trim_matches('/').split('/').collect();
    match (request.method.as_str(), path.as_slice()) {
        (method, ["storage", ..]) => format!("objects.{}", method.to_ascii_lowercase()),
        ("GET", ["projects", _]) => "projects.get".into(),
        ("POST", ["projects", _, "devices"]) => "devices.create".into(),
        ("GET", ["projects", _, "devices"]) => "devices.list".into(),
        ("POST", ["ssh-keys"]) => "ssh-keys.create".into(),
        ("GET", ["ssh-keys"]) => "ssh-keys.list".into(),
        (method, [kind, _]) => format!("{kind}.{}", method.to_ascii_lowercase()),
        _ => format!("{} {}", request.method, request.path()),
    }
}

/// An error as the service says it.
pub fn error(status: u16, message: &str) -> Response {
    Response::new(status, "application/json", json!({"errors": [message]}).to_string())
}

/// Fails if the models of the vendor's own client have anything against these requests, or against the double's answers.
#[track_caller]
pub fn judged(exchanges: &[(Request, Response)]) {
    let mut input = String::new();
    for (request, answer) in exchanges {
        let line = json!({
            "action": action(request), "body": request.text(), "status": answer.status, "answer": answer.text(),
        });
        input += &format!("{line}\n");
    }
    assert!(!input.is_empty(), "nothing to judge");
    judge(&[], &input);
}

/// Runs the judge; without the client, says so.
#[track_caller]
pub fn judge(words: &[&str], input: &str) {
    let Some(folder) = environment("python") else { return };
    let mut judge = Command::new(folder.join("bin/python"))
        .arg(repository().join("tests/support/judge_packet.py"))
        .args(words)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = judge.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let out = judge.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success() && text.is_empty(), "complaints:\n{text}");
}
