//! What DigitalOcean's API says when it refuses: `{"id": "not_found", "message": "…", "request_id": "…"}`.

use std::time::Duration;

use serde_json::Value;

use crate::http::{Class, Refusal, Refused, clean, read_plain};

/// Reads a refusal.
pub fn read(refused: &Refused<'_>) -> Refusal {
    let json: Value = serde_json::from_slice(refused.body).unwrap_or_default();
    let text = |name: &str| json[name].as_str().and_then(clean);
    let mut refusal = match text("id") {
        Some(id) => Refusal { code: Some(id), message: text("message"), ..refused.plain() },
        None => read_plain(refused),
    };
    refusal.request = text("request_id").or_else(|| refused.header("x-request-id"));
    let says = |words: &[&str]| {
        let message = refusal.message.as_deref().unwrap_or_default().to_ascii_lowercase();
        words.iter().any(|w| message.contains(w))
    };
    refusal.class = match refusal.status {
        // Tokens are not renewed: this one is wrong.
        401 => Class::Denied,
        403 | 422 if says(&["limit"]) => Class::Quota,
        422 if says(&["already in use", "pending event"]) => Class::Conflict,
        _ => refusal.class,
    };
    if refusal.class == Class::Throttled && refusal.retry_after.is_none() {
        refusal.retry_after = refused.header("ratelimit-reset").and_then(|at| until(&at));
    }
    refusal
}

/// How long it is until a time in seconds since 1970.
fn until(at: &str) -> Option<Duration> {
    let at = chrono::DateTime::from_timestamp(at.trim().parse().ok()?, 0)?;
    Some((at - chrono::Utc::now()).to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderMap, HeaderValue};

    use super::*;

    fn of(status: u16, body: &str) -> Refusal {
        read(&Refused { status, headers: &HeaderMap::new(), body: body.as_bytes() })
    }

    #[test]
    fn refusals_have_classes() {
        for (status, id, message, class) in [
            (401, "unauthorized", "Unable to authenticate you", Class::Denied),
            (403, "forbidden", "You are not authorized to perform this operation", Class::Denied),
            (404, "not_found", "The resource you requested could not be found.", Class::NotFound),
            (
                422,
                "unprocessable_entity",
                "creating this/these droplet(s) will exceed your droplet limit",
                Class::Quota,
            ),
            (422, "unprocessable_entity", "SSH Key is already in use on your account", Class::Conflict),
            (422, "unprocessable_entity", "Droplet already has a pending event.", Class::Conflict),
            (422, "unprocessable_entity", "You specified an invalid size.", Class::Invalid),
            (429, "too_many_requests", "API Rate limit exceeded.", Class::Throttled),
            (500, "server_error", "Unexpected server-side error", Class::Trouble),
            (503, "service_unavailable", "", Class::Trouble),
        ] {
            let body = format!(r#"{{"id":"{id}","message":"{message}","request_id":"r-1"}}"#);
            let refusal = of(status, &body);
            assert_eq!((refusal.class, refusal.code.as_deref()), (class, Some(id)), "{message}");
            assert!(refusal.to_string().contains("request r-1"), "{refusal}");
        }
        assert_eq!(of(404, "<html>").to_string(), "refused (HTTP 404)");
        assert_eq!(of(502, "bad\x1b[31m gateway").message.as_deref(), Some("bad [31m gateway"));
        assert_eq!(of(422, "[]").class, Class::Invalid);
    }

    #[test]
    fn the_end_of_a_rate_limit_is_waited_for() {
        let after = |headers: &[(&'static str, String)]| {
            let pairs = headers.iter().map(|(n, v)| (n.parse().unwrap(), HeaderValue::from_str(v).unwrap()));
            let headers: HeaderMap = pairs.collect();
            read(&Refused { status: 429, headers: &headers, body: b"{}" }).retry_after
        };
        let soon = (chrono::Utc::now().timestamp() + 100).to_string();
        let wait = after(&[("ratelimit-reset", soon.clone())]).unwrap().as_secs();
        assert!((90..=100).contains(&wait), "{wait}");
        let both = after(&[("ratelimit-reset", soon), ("retry-after", "7".into())]);
        assert_eq!(both, Some(Duration::from_secs(7)));
        assert_eq!(after(&[("ratelimit-reset", "1".into())]), Some(Duration::ZERO));
        for odd in ["soon", "-", "99999999999999999999", "9223372036854775807"] {
            assert_eq!(after(&[("ratelimit-reset", odd.into())]), None, "{odd}");
        }
    }
}
