//! What the Resource Manager and what is behind it say when they refuse.

use serde_json::Value;

use crate::http::{Class, Refusal, Refused, clean};

/// Reads a refusal: `{"error": {"code": …, "message": …, "details": […]}}`, the same without `error`, or a short text.
pub fn read(refused: &Refused<'_>) -> Refusal {
    let json: Value = serde_json::from_slice(refused.body).unwrap_or_default();
    let error = if json["error"].is_object() { &json["error"] } else { &json };
    let plain = Refusal { request: refused.header("x-ms-request-id"), ..refused.plain() };
    if error["code"].as_str().is_none() {
        let Refusal { code, message, .. } = crate::http::read_plain(refused);
        return Refusal { code, message, ..plain };
    }
    of(error, plain)
}

/// A refusal as an error describes it: of a request, or of what came of one.
pub fn of(error: &Value, plain: Refusal) -> Refusal {
    let text = |error: &Value, name: &str| error[name].as_str().and_then(clean);
    // What is meant stands inside, where the outer one only says that something did not work.
    let inner = error["details"].as_array().into_iter().flatten().find(|d| d["code"].is_string());
    let outer = text(error, "code");
    let vague = matches!(
        outer.as_deref(),
        None | Some("DeploymentFailed" | "ResourceDeploymentFailure" | "BadRequest" | "Conflict")
    );
    let error = inner.filter(|_| vague).unwrap_or(error);
    classed(Refusal { code: text(error, "code"), message: text(error, "message"), ..plain })
}

/// Says by its code what a refusal means: statuses are those of the service at hand, codes are Azure's.
fn classed(mut refusal: Refusal) -> Refusal {
    let code = refusal.code.as_deref().unwrap_or_default();
    let message = refusal.message.as_deref().unwrap_or_default().to_ascii_lowercase();
    let class = match code {
        "ExpiredAuthenticationToken" | "InvalidAuthenticationToken" | "AuthenticationFailed" => {
            Class::Expired
        }
        "AuthorizationFailed"
        | "LinkedAuthorizationFailed"
        | "RequestDisallowedByPolicy"
        | "ReadOnlyDisabledSubscription" => Class::Denied,
        "TooManyRequests"
        | "SubscriptionRequestsThrottled"
        | "AnotherOperationInProgress"
        | "RetryableError"
        | "ServerBusy" => Class::Throttled,
        "SkuNotAvailable"
        | "AllocationFailed"
        | "ZonalAllocationFailed"
        | "OverconstrainedAllocationRequest"
        | "OverconstrainedZonalAllocationRequest" => Class::Capacity,
        // Both have other reasons, too.
        "OperationNotAllowed" | "ResourceNotPermitted" if message.contains("quota") => Class::Quota,
        code if code.contains("QuotaExceeded") || code.ends_with("LimitReached") => Class::Quota,
        "ResourceNotFound" | "ResourceGroupNotFound" | "NotFound" | "BlobNotFound" => Class::NotFound,
        _ => return refusal,
    };
    refusal.class = class;
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, body: &str) -> Refusal {
        read(&Refused { status, headers: &Default::default(), body: body.as_bytes() })
    }

    #[test]
    fn refusals_say_what_the_service_said() {
        let said = |status, code: &str, message: &str| {
            of(status, &format!(r#"{{"error":{{"code":"{code}","message":"{message}"}}}}"#))
        };
        let denied = said(403, "AuthorizationFailed", "No");
        assert_eq!(
            (denied.to_string().as_str(), denied.class),
            ("AuthorizationFailed: No (HTTP 403)", Class::Denied)
        );
        for (status, code, message, class) in [
            (401, "ExpiredAuthenticationToken", "", Class::Expired),
            (429, "OperationNotAllowed", "slow", Class::Throttled),
            (409, "OperationNotAllowed", "exceeding approved Total Regional Cores Quota", Class::Quota),
            (409, "OperationNotAllowed", "disk is attached", Class::Conflict),
            (400, "PublicIPCountLimitReached", "", Class::Quota),
            (400, "ResourceQuotaExceeded", "", Class::Quota),
            (409, "SkuNotAvailable", "", Class::Capacity),
            (409, "ZonalAllocationFailed", "", Class::Capacity),
            (409, "AnotherOperationInProgress", "", Class::Throttled),
            (409, "StorageAccountAlreadyTaken", "", Class::Conflict),
            (404, "ResourceGroupNotFound", "", Class::NotFound),
            (503, "ServerBusy", "", Class::Throttled),
            (500, "InternalServerError", "", Class::Trouble),
        ] {
            assert_eq!(said(status, code, message).class, class, "{code}: {message}");
        }
        let inner = r#"{"error":{"code":"DeploymentFailed","message":"x","details":[{"code":"QuotaExceeded","message":"m"}]}}"#;
        assert_eq!(
            (of(409, inner).to_string().as_str(), of(409, inner).class),
            ("QuotaExceeded: m (HTTP 409)", Class::Quota)
        );
        assert_eq!(of(400, r#"{"code":"Bad","message":"m\u001b[31m"}"#).message.as_deref(), Some("m [31m"));
        for silent in ["", "<html>long page", "{}", r#"{"error":{}}"#] {
            assert_eq!(of(404, silent).to_string(), "refused (HTTP 404)", "{silent}");
        }
    }
}
