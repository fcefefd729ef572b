//! What is particular to Google in requests, faults and their judge.

pub mod double;
mod identity;
mod kola;
mod ore;

use serde_json::json;

use crate::support::emulators;
use crate::support::http::{Request, Response};
use crate::support::proxy::Entry;

/// The operation, such as `instances.insert`; anything that is none: method and path.
pub fn action(request: &Request) -> String {
    let path: Vec<&str> = request.path().trim_matches('/').split('/').collect();
    let below = match path.as_slice() {
        ["token"] => return "token".into(),
        ["compute", "v1", "projects", _, "zones" | "regions", _, below @ ..] => below,
        ["compute", "v1", "projects", _, "aggregated", collection] => {
            return format!("{collection}.aggregatedList");
        }
        ["compute", "v1", "projects", _, "global", below @ ..] => below,
        _ => return format!("{} {}", request.method, request.path()),
    };
    match (request.method.as_str(), below) {
        ("GET", ["instances", _, "serialPort"]) => "instances.getSerialPortOutput".into(),
        ("GET", ["images", "family", _]) => "images.getFromFamily".into(),
        (_, [collection, _, verb]) => format!("{collection}.{verb}"),
        ("GET", [collection]) => format!("{collection}.list"),
        ("POST", [collection]) => format!("{collection}.insert"),
        ("GET", [collection, _]) => format!("{collection}.get"),
        ("DELETE", [collection, _]) => format!("{collection}.delete"),
        ("PATCH", [collection, _]) => format!("{collection}.patch"),
        _ => format!("{} {}", request.method, request.path()),
    }
}

/// An error as the services say it.
pub fn error(status: u16, reason: &str, message: &str) -> Response {
    let body = json!({"error": {
        "code": status, "message": message, "errors": [{"reason": reason, "message": message, "domain": "global"}],
    }});
    Response::new(status, "application/json", body.to_string())
}

/// Fails if Google's own description of the interface has anything against these requests; without that
/// description, says so.
#[track_caller]
pub fn judged(journal: &[Entry]) {
    let asked = journal.iter().filter(|e| e.request.path().starts_with("/compute/"));
    let line = |Entry { request, .. }: &Entry| json!({"method": request.method, "target": request.target, "body": request.text()});
    emulators::judged("judge_google.py", &[], asked.map(line));
}
