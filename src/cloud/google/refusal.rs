//! What Google's JSON APIs say when they refuse.

use serde_json::Value;

use crate::http::{Class, Refusal, Refused, clean};

/// Reads a refusal: `{"error": {"message": …, "errors": [{"reason": …}], "status": …}}`, or a short text.
pub fn read(refused: &Refused<'_>) -> Refusal {
    let json: Value = serde_json::from_slice(refused.body).unwrap_or_default();
    let error = &json["error"];
    if !error.is_object() {
        return classed(crate::http::read_plain(refused));
    }
    let code = error["errors"][0]["reason"].as_str().or(error["status"].as_str());
    let (code, message) = (code.and_then(clean), error["message"].as_str().and_then(clean));
    classed(Refusal { code, message, ..refused.plain() })
}

/// Quotas are refused with the status of permission errors; operations that fail have codes of their own.
pub(super) fn classed(mut refusal: Refusal) -> Refusal {
    let says = |words: &[&str]| {
        let texts = [&refusal.code, &refusal.message];
        let texts = texts.into_iter().flatten().map(|t| t.to_ascii_lowercase());
        texts.into_iter().any(|t| words.iter().any(|w| t.contains(w)))
    };
    if refusal.status == 403 && says(&["ratelimitexceeded"]) {
        refusal.class = Class::Throttled;
    } else if refusal.class != Class::Throttled && says(&["quotaexceeded", "quota_exceeded"]) {
        refusal.class = Class::Quota;
    } else if says(&["zone_resource_pool_exhausted"]) {
        refusal.class = Class::Capacity;
    } else if refusal.code.as_deref() == Some("RESOURCE_ALREADY_EXISTS") {
        refusal.class = Class::Conflict;
    } else if refusal.code.as_deref() == Some("RESOURCE_NOT_FOUND") {
        refusal.class = Class::NotFound;
    }
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, body: &str) -> Refusal {
        read(&Refused { status, headers: &Default::default(), body: body.as_bytes() })
    }

    #[test]
    fn refusals_say_what_the_server_said() {
        let one = |reason: &str| {
            format!(r#"{{"error":{{"code":403,"message":"No","errors":[{{"reason":"{reason}"}}]}}}}"#)
        };
        let denied = of(403, &one("forbidden"));
        assert_eq!((denied.to_string().as_str(), denied.class), ("forbidden: No (HTTP 403)", Class::Denied));
        for reason in ["rateLimitExceeded", "userRateLimitExceeded"] {
            assert_eq!(of(403, &one(reason)).class, Class::Throttled, "{reason}");
        }
        assert_eq!(of(403, &one("quotaExceeded")).class, Class::Quota);
        assert_eq!(of(401, &one("authError")).class, Class::Expired);
        let newer = of(429, r#"{"error":{"status":"RESOURCE_EXHAUSTED","message":"slow"}}"#);
        assert_eq!((newer.code.as_deref(), newer.class), (Some("RESOURCE_EXHAUSTED"), Class::Throttled));
        assert_eq!(of(503, "quota\x1b[31m").message.as_deref(), Some("quota [31m"));
        for silent in ["", "<html>long page", "{}", r#"{"error":{}}"#] {
            assert_eq!(of(404, silent).to_string(), "refused (HTTP 404)", "{silent}");
        }
    }
}
