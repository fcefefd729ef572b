//! What is particular to Azure in requests, faults and their judge. Blobs are judged by Azurite and Microsoft's own
//! client; the classic API is a double of our own (`asm`), the Resource Manager another (`double`).

pub mod asm;
mod blobs;
mod classic;
pub mod double;
mod identity;
mod kola;
mod ore;

use serde_json::json;

use crate::support::emulators;
use crate::support::http::{Request, Response};
use crate::support::proxy::Entry;

/// The last type in an ID or in the path of a request: `virtualMachines`, `versions`.
pub fn id_type(id: &str) -> &str {
    let parts: Vec<&str> = id.trim_matches('/').split('/').collect();
    let providers = parts.iter().position(|p| p.eq_ignore_ascii_case("providers"));
    match providers {
        // Name and types behind it: every second one.
        Some(at) => {
            let below = &parts[at + 2..];
            let last =
                if below.len().is_multiple_of(2) { below.len().saturating_sub(2) } else { below.len() - 1 };
            below.get(last).copied().unwrap_or_default()
        }
        None => "resourceGroups",
    }
}

/// The operation, such as `virtualMachines.put`; anything that is none: method and path.
pub fn action(request: &Request) -> String {
    let path = request.path().trim_matches('/');
    if path.ends_with("/token") {
        return "token".into();
    }
    let method = request.method.to_ascii_lowercase();
    if !path.starts_with("subscriptions/") {
        return format!("blob.{method}");
    }
    if path.contains("/operations/") || path.contains("/operationresults/") {
        return "operation".into();
    }
    if path.contains("/vmimage/") {
        let verb = if path.ends_with("/versions") { "list" } else { "get" };
        return format!("marketVersions.{verb}");
    }
    let parts: Vec<&str> = path.split('/').collect();
    let below = match parts.iter().position(|p| *p == "providers") {
        Some(at) => parts.len() - at - 2,
        None => parts.len() - 2,
    };
    match (method.as_str(), below % 2) {
        ("post", 1) => {
            // Paths are the same in small and large letters; Microsoft's clients are not of one mind.
            let verb = match parts[parts.len() - 1] {
                "listServiceSas" => "ListServiceSas",
                verb => verb,
            };
            format!("{}.{verb}", parts[parts.len() - 3])
        }
        ("get", 1) => format!("{}.list", id_type(path)),
        _ => format!("{}.{method}", id_type(path)),
    }
}

/// An error as the service says it.
pub fn error(status: u16, code: &str, message: &str) -> Response {
    let body = json!({"error": {"code": code, "message": message}});
    Response::new(status, "application/json; charset=utf-8", body.to_string())
}

/// Fails if Microsoft's own models and clients have anything against these requests; without those, says so.
#[track_caller]
pub fn judged(journal: &[Entry]) {
    let line = |Entry { request, .. }: &Entry| json!({"method": request.method, "target": request.target, "body": request.text()});
    emulators::judged("judge_azure.py", &[], journal.iter().map(line));
}
