//! What is particular to Packet in requests, faults and their judge.

mod double;
mod kola;
mod ore;
mod sos;

use serde_json::json;

use crate::support::emulators;
use crate::support::http::{Request, Response};

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
    let line = |(request, answer): &(Request, Response)| {
        json!({
            "action": action(request), "body": request.text(), "status": answer.status, "answer": answer.text(),
        })
    };
    emulators::judged("judge_packet.py", &[], exchanges.iter().map(line));
}
