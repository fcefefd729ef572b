//! What is particular to DigitalOcean in requests, faults and their judge.

mod double;
mod identity;
mod install;
mod kola;
mod ore;

use serde_json::json;

use crate::support::emulators;
use crate::support::http::{Request, Response};

/// The operation, such as `droplets.create`; anything that is none: method and path.
pub fn action(request: &Request) -> String {
    let path: Vec<&str> = request.path().trim_matches('/').split('/').collect();
    let path = path.strip_prefix(&["v2"]).unwrap_or_default();
    let verb = match (request.method.as_str(), path) {
        ("GET", ["account"]) => return "account.get".into(),
        ("GET", ["actions", _]) => return "actions.get".into(),
        ("POST", ["droplets", _, "actions"]) => return "droplets.snapshot".into(),
        ("GET", ["droplets", _, "actions"]) => return "droplets.actions".into(),
        ("GET", ["droplets", _, "snapshots"]) => return "droplets.snapshots".into(),
        ("GET", ["account", "keys"] | ["droplets" | "images"]) => "list",
        ("POST", ["account", "keys"] | ["droplets" | "images"]) => "create",
        ("GET", ["account", "keys", _] | ["droplets" | "images", _]) => "get",
        ("DELETE", ["account", "keys", _] | ["droplets" | "images", _]) => "delete",
        _ => return format!("{} {}", request.method, request.path()),
    };
    let kind = if path[0] == "account" { "keys" } else { path[0] };
    format!("{kind}.{verb}")
}

/// A refusal as the service says it.
pub fn error(status: u16, id: &str, message: &str) -> Response {
    let body = json!({"id": id, "message": message, "request_id": "4d9d8375-3c56-4925-a3e7-eb137fed17e9"});
    Response::new(status, "application/json", body.to_string())
}

/// Too many requests, until then: seconds since 1970.
pub fn throttled(until: i64) -> Response {
    let mut answer = error(429, "too_many_requests", "API Rate limit exceeded.");
    for (name, value) in [("RateLimit-Limit", 5000), ("RateLimit-Remaining", 0), ("RateLimit-Reset", until)] {
        answer.headers.push((name.into(), value.to_string()));
    }
    answer
}

/// What the vendor's own description of the interface has against these requests and the answers to them, a line each;
/// nothing, and a word on stdout, where there is nobody to judge.
pub fn complaints(exchanges: &[(Request, Option<Response>)]) -> String {
    let mut input = String::new();
    for (request, answer) in exchanges {
        let mut line = json!({"method": request.method, "target": request.target, "body": request.text()});
        if let Some(answer) = answer {
            line["status"] = answer.status.into();
            line["answer"] = answer.text().into();
        }
        input += &format!("{line}\n");
    }
    let Some((content, text)) = emulators::python("judge_digitalocean.py", &[], &input) else {
        return String::new();
    };
    assert_eq!(content, text.is_empty(), "the judge failed: {text}");
    text
}
