//! XML as Azure's older services speak it: refusals, answers.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::http::{CallError, Class, Refusal, Refused, clean};

/// The header with the name of a request, for the provider's support and for what goes on after its answer.
pub const REQUEST_ID: &str = "x-ms-request-id";

/// Codes by which a service asks to come again. The call was not executed.
const BUSY: [&str; 4] = ["ServerBusy", "AccountBeingCreated", "ContainerBeingDeleted", "TooManyRequests"];

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Error {
    code: Option<String>,
    message: Option<String>,
}

/// Reads a refusal: `<Error><Code/><Message/></Error>`, or the header that stands for it where there is no body.
pub fn refusal(refused: &Refused<'_>) -> Refusal {
    let body: Option<Error> = parse(refused.body).ok();
    let Error { code, message } = body.unwrap_or_default();
    let code = code.or_else(|| refused.header("x-ms-error-code")).and_then(|c| clean(&c));
    // Lines with the request and the time follow, which are told elsewhere.
    let message = message.and_then(|m| clean(m.trim().lines().next().unwrap_or_default()));
    let plain = refused.plain();
    let class = match code.as_deref() {
        Some(code) if BUSY.contains(&code) => Class::Throttled,
        Some("OperationTimedOut" | "InternalError") => Class::Trouble,
        Some("ResourceNotFound") => Class::NotFound,
        _ => plain.class,
    };
    Refusal { code, message, request: refused.header(REQUEST_ID), class, ..plain }
}

/// Reads an answer.
///
/// # Errors
/// [`CallError::Answer`].
pub fn answer<T: DeserializeOwned>(call: &'static str, body: &[u8]) -> Result<T, CallError> {
    parse(body).map_err(|reason| CallError::answer(call, reason))
}

/// What is wrong is told without what was found: that may be a key.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, &'static str> {
    let text = std::str::from_utf8(body).map_err(|_| "it is not UTF-8")?;
    // Many of them begin with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    quick_xml::de::from_str(text).map_err(|_| "it is not the XML that was expected")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, code: Option<&'static str>, body: &str) -> Refusal {
        let mut headers = reqwest::header::HeaderMap::new();
        headers.insert(REQUEST_ID, "r-1".parse().unwrap());
        if let Some(code) = code {
            headers.insert("x-ms-error-code", code.parse().unwrap());
        }
        refusal(&Refused { status, headers: &headers, body: body.as_bytes() })
    }

    #[test]
    fn refusals_say_what_the_server_said() {
        let body = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><Error>\
            <Code>AuthenticationFailed</Code><Message>No.\nRequestId:1\nTime:2</Message><More>x</More></Error>";
        let denied = of(403, None, body);
        assert_eq!(denied.to_string(), "AuthenticationFailed: No. (HTTP 403, request r-1)");
        assert_eq!(denied.class, Class::Denied);
        let spaced = "<Error xmlns=\"http://schemas.microsoft.com/windowsazure\">\
            <Code>ResourceNotFound</Code><Message>gone</Message></Error>";
        assert_eq!(of(404, None, spaced).class, Class::NotFound);
        assert_eq!(of(404, Some("BlobNotFound"), "").code.as_deref(), Some("BlobNotFound"));
        for (status, code, class) in [
            (503, "ServerBusy", Class::Throttled),
            (409, "ContainerBeingDeleted", Class::Throttled),
            (409, "BlobAlreadyExists", Class::Conflict),
            (500, "OperationTimedOut", Class::Trouble),
            (401, "InvalidAuthenticationInfo", Class::Expired),
        ] {
            assert_eq!(of(status, Some(code), "").class, class, "{code}");
        }
        for odd in ["", "<html>", "<Error/>", "<Error><Code/></Error>", "\u{0}"] {
            assert_eq!(of(500, None, odd).to_string(), "refused (HTTP 500, request r-1)", "{odd}");
        }
    }
}
