//! What is particular to OpenStack in requests, faults and their judges.

mod clouds;
mod double;
mod kola;
mod ore;
mod real;

use serde_json::json;

use crate::support::Outcome;
use crate::support::emulators;
use crate::support::http::{Request, Response};
use crate::support::proxy::Entry;

/// The operation, such as `servers.create`; anything that is none: method and path.
pub fn action(request: &Request) -> String {
    let path: Vec<&str> = request.path().trim_matches('/').split('/').collect();
    let unknown = || format!("{} {}", request.method, request.path());
    let path = match path.as_slice() {
        [service @ ("network" | "image")] => return format!("{service}.versions"),
        ["identity"] => return "identity.versions".into(),
        ["identity", "v3", "auth", "tokens"] | ["v3", "auth", "tokens"] | ["identity", "v2.0", "tokens"] => {
            return "tokens.create".into();
        }
        ["compute", "v2.1"] => return "compute.versions".into(),
        ["compute", "v2.1", below @ ..] | ["network", "v2.0", below @ ..] | ["image", "v2", below @ ..] => {
            below
        }
        _ => return unknown(),
    };
    match (request.method.as_str(), path) {
        ("POST", ["servers", _, "action"]) => "servers.console".into(),
        ("PUT", ["images", _, "file"]) => "images.upload".into(),
        ("GET", ["images", _, "file"]) => "images.download".into(),
        ("GET", [collection] | [collection, "detail"]) => format!("{collection}.list"),
        ("POST", [collection]) => format!("{collection}.create"),
        ("GET", [collection, _]) => format!("{collection}.show"),
        ("DELETE", [collection, _]) => format!("{collection}.delete"),
        ("PUT" | "PATCH", [collection, _]) => format!("{collection}.update"),
        _ => unknown(),
    }
}

/// An error as the service says it that a request is for.
pub fn error(request: &Request, status: u16, code: &str, message: &str) -> Response {
    let body = match request.path().split('/').nth(1) {
        Some("identity") => json!({"error": {"code": status, "title": code, "message": message}}).to_string(),
        Some("network") => {
            json!({"NeutronError": {"type": code, "message": message, "detail": ""}}).to_string()
        }
        Some("image") => {
            let title = format!("{status} {code}");
            let body = format!(
                "<html>\n <head>\n  <title>{title}</title>\n </head>\n <body>\n  <h1>{title}</h1>\n  \
                 {message}<br /><br />\n\n\n </body>\n</html>"
            );
            return Response::new(status, "text/html; charset=UTF-8", body);
        }
        _ => json!({code: {"code": status, "message": message}}).to_string(),
    };
    Response::new(status, "application/json", body)
}

/// What a program said to people, however it broke the lines.
pub fn told(outcome: &Outcome) -> String {
    outcome.stderr.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Fails if the models of openstacksdk have anything against these requests; without that, says so.
#[track_caller]
pub fn judged(journal: &[Entry]) {
    let asked = journal.iter().filter(|e| action(&e.request) != "images.upload");
    let line = |Entry { request, .. }: &Entry| json!({"method": request.method, "target": request.target, "body": request.text()});
    emulators::judged("judge_openstack.py", &[], asked.map(line));
}
