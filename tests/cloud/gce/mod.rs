//! What is particular to Google in requests, faults and their judge.

pub mod double;
mod identity;
mod kola;
mod ore;

pub use mantle::doubles::gce::{action, error};
use serde_json::json;

use crate::support::emulators;
use crate::support::proxy::Entry;

/// Fails if Google's own description of the interface has anything against these requests; without that
/// description, says so.
#[track_caller]
pub fn judged(journal: &[Entry]) {
    let asked = journal.iter().filter(|e| e.request.path().starts_with("/compute/"));
    let line = |Entry { request, .. }: &Entry| json!({"method": request.method, "target": request.target, "body": request.text()});
    emulators::judged("judge_google.py", &[], asked.map(line));
}
