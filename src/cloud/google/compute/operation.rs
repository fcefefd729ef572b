//! What the service does after it has answered.

use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::super::refusal::classed;
use super::{Compute, Result};
use crate::http::{CallError, Class, Refusal, Repeat, clean};
use crate::poll::{self, Answer, Poll};

/// How long the service itself waits, before it says how far it is.
const SERVICE_WAITS: Duration = Duration::from_secs(120);

/// How long an operation may take. Each question waits for its end itself.
const DONE: Poll = Poll::seconds(120, 600);

/// Something that the service does.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    name: String,
    #[serde(default)]
    status: String,
    /// The address of the zone, where it is of one.
    zone: Option<String>,
    error: Option<Errors>,
    http_error_status_code: Option<u16>,
    http_error_message: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<Fault>,
}

#[derive(Clone, Debug, Deserialize)]
struct Fault {
    code: Option<String>,
    message: Option<String>,
}

/// Why an operation was not waited for to its end, or has not done its work.
pub type Unfinished = poll::Error<CallError>;

impl Operation {
    /// What went wrong; `None` if nothing did, as far as it has come.
    fn failure(&self) -> Option<Refusal> {
        let errors = self.error.as_ref().map(|e| &e.errors[..]);
        if errors.is_none() && self.http_error_status_code.is_none() {
            return None;
        }
        let errors = errors.unwrap_or_default();
        let code = errors.first().and_then(|e| e.code.as_deref()).and_then(clean);
        let messages: Vec<String> =
            errors.iter().filter_map(|e| e.message.as_deref().and_then(clean)).collect();
        let message = match messages.is_empty() {
            true => self.http_error_message.as_deref().and_then(clean),
            false => Some(messages.join("; ")),
        };
        // It was executed and has ended: whatever it says, this is not a passing trouble of the service.
        let status = self.http_error_status_code.filter(|s| (400..500).contains(s)).unwrap_or(400);
        let class = Class::of_status(status);
        Some(classed(Refusal { status, code, message, class, ..Refusal::default() }))
    }
}

impl Compute {
    /// Waits until an operation is done; `what` names it for people.
    ///
    /// # Errors
    /// When it fails, takes too long, or is not waited for any more.
    pub async fn done(
        &self,
        operation: Operation,
        what: &str,
        cancel: &CancellationToken,
    ) -> Result<(), Unfinished> {
        let call = format!("{what}: operation {:?}", operation.name);
        let url = self.wait_url(&operation);
        let mut latest = Some(operation);
        let ask = || {
            let known = latest.take();
            let (call, url) = (call.clone(), url.clone());
            async move {
                let operation = match known {
                    Some(operation) => operation,
                    None => {
                        let asked = self.0.service.post(call.clone(), url).repeat(Repeat::Freely);
                        asked.waits(SERVICE_WAITS).read::<Operation>().await?
                    }
                };
                if operation.status != "DONE" {
                    return Ok(Answer::NotYet(operation.status));
                }
                match operation.failure() {
                    None => Ok(Answer::Ready(())),
                    Some(refusal) => {
                        let refusal = Box::new(refusal);
                        Err(CallError::Refused { call: format!("{call} failed").into(), refusal })
                    }
                }
            }
        };
        DONE.until(&call, cancel, ask).await
    }

    /// Where its end is waited for: in the zone that it is of, or in the project.
    fn wait_url(&self, operation: &Operation) -> Url {
        let name = operation.name.as_str();
        match operation.zone.as_deref().and_then(|z| z.rsplit('/').next()) {
            Some(zone) => self.url(&["zones", zone, "operations", name, "wait"]),
            None => self.url(&["global", "operations", name, "wait"]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(text: &str) -> Option<Refusal> {
        serde_json::from_str::<Operation>(text).unwrap().failure()
    }

    #[test]
    fn operations_say_what_went_wrong() {
        assert!(failure(r#"{"name":"o","status":"DONE"}"#).is_none());
        for (code, class) in [
            ("QUOTA_EXCEEDED", Class::Quota),
            ("ZONE_RESOURCE_POOL_EXHAUSTED", Class::Capacity),
            ("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", Class::Capacity),
            ("RESOURCE_ALREADY_EXISTS", Class::Conflict),
            ("RESOURCE_NOT_FOUND", Class::NotFound),
            ("INVALID_FIELD", Class::Invalid),
        ] {
            let text = format!(
                r#"{{"name":"o","status":"DONE","error":{{"errors":[{{"code":"{code}","message":"Quota 'CPUS'"}}]}}}}"#
            );
            let refusal = failure(&text).unwrap();
            assert_eq!(refusal.class, class, "{code}");
            assert_eq!(refusal.to_string(), format!("{code}: Quota 'CPUS' (HTTP 400)"));
            let error = CallError::Refused { call: "x".into(), refusal: Box::new(refusal) };
            assert!(error.is_certain(), "{code}");
        }
        let bare = failure(r#"{"name":"o","httpErrorStatusCode":503,"httpErrorMessage":"BAD"}"#).unwrap();
        assert_eq!(bare.to_string(), "BAD (HTTP 400)");
    }
}
