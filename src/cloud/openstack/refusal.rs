//! What the services of OpenStack say when they refuse; each has a form of its own.

use serde_json::Value;

use crate::http::{Class, Refusal, Refused, clean};

/// Reads a refusal: `{"badRequest": {"code": …, "message": …}}` of Nova, `{"NeutronError": {"type": …, "message": …}}`,
/// `{"error": {"title": …, "message": …}}` of Keystone, a page of Glance's, or a short text.
pub fn read(refused: &Refused<'_>) -> Refusal {
    let plain = refused.plain();
    let json: Value = serde_json::from_slice(refused.body).unwrap_or_default();
    let told = json.as_object().and_then(|o| o.iter().find(|(_, v)| v.get("message").is_some()));
    let (code, message) = match told {
        Some((key, said)) => {
            let own = said["type"].as_str().or(said["title"].as_str()).unwrap_or(key);
            (clean(own), said["message"].as_str().and_then(clean))
        }
        // What Glance says has the marks of a page even in JSON.
        None if json["message"].is_string() => {
            (None, json["message"].as_str().map(|m| m.replace("<br />", " ")).as_deref().and_then(clean))
        }
        // `{"NeutronError": "text"}` and `{"message": …}`, of older versions.
        None => match json.as_object().and_then(|o| o.iter().find_map(|(k, v)| Some((k, v.as_str()?)))) {
            Some((key, text)) => (clean(key), clean(text)),
            None => (None, page(refused.body)),
        },
    };
    let request = refused.header("x-openstack-request-id").as_deref().and_then(clean);
    classed(Refusal { code, message, request, ..plain })
}

/// The text of a page: Glance answers so.
fn page(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    if !text.trim_start().starts_with('<') {
        return clean(text);
    }
    let body = text.split("</h1>").nth(1)?;
    let body = body.split("<br").next().unwrap_or_default();
    let plain: String = body.split('<').map(|piece| piece.rsplit('>').next().unwrap_or_default()).collect();
    clean(&plain.replace("&#x27;", "'").replace("&quot;", "\"").replace("&amp;", "&"))
}

/// Quotas and full subnets come with statuses that mean something else.
fn classed(mut refusal: Refusal) -> Refusal {
    let code = refusal.code.clone().unwrap_or_default();
    let message = refusal.message.clone().unwrap_or_default();
    let limited = refusal.retry_after.is_some();
    refusal.class = match refusal.status {
        413 if limited => Class::Throttled,
        403 | 413 if message.contains("uota exceeded") || message.contains("exceed quota") => Class::Quota,
        413 => Class::Quota,
        _ if code == "OverQuota" => Class::Quota,
        _ if ["IpAddressGenerationFailure", "ExternalIpAddressExhausted", "NoMoreIps"].contains(&&*code) => {
            Class::Capacity
        }
        _ if message.contains("No valid host was found") => Class::Capacity,
        _ => refusal.class,
    };
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, body: &str) -> Refusal {
        read(&Refused { status, headers: &Default::default(), body: body.as_bytes() })
    }

    #[test]
    fn each_service_is_understood() {
        for (status, body, said, class) in [
            (
                400,
                r#"{"badRequest":{"code":400,"message":"Invalid imageRef"}}"#,
                "badRequest: Invalid imageRef (HTTP 400)",
                Class::Invalid,
            ),
            (
                403,
                r#"{"forbidden":{"message":"Quota exceeded for cores: Requested 1, but already used 8 of 8 cores"}}"#,
                "forbidden: Quota exceeded for cores: Requested 1, but already used 8 of 8 cores (HTTP 403)",
                Class::Quota,
            ),
            (
                409,
                r#"{"NeutronError":{"type":"OverQuota","message":"Quota exceeded for resources: ['port'].","detail":""}}"#,
                "OverQuota: Quota exceeded for resources: ['port']. (HTTP 409)",
                Class::Quota,
            ),
            (
                409,
                r#"{"NeutronError":{"type":"SecurityGroupRuleExists","message":"exists","detail":""}}"#,
                "SecurityGroupRuleExists: exists (HTTP 409)",
                Class::Conflict,
            ),
            (
                401,
                r#"{"error":{"code":401,"message":"The request you have made requires authentication.","title":"Unauthorized"}}"#,
                "Unauthorized: The request you have made requires authentication. (HTTP 401)",
                Class::Expired,
            ),
            (
                403,
                "<html>\n <head>\n  <title>403 Forbidden</title>\n </head>\n <body>\n  <h1>403 Forbidden</h1>\n  \
                 Image a is protected and can&#x27;t be deleted.<br /><br />\n </body>\n</html>",
                "Image a is protected and can't be deleted. (HTTP 403)",
                Class::Denied,
            ),
            (
                413,
                r#"{"overLimit":{"code":413,"message":"slow down"}}"#,
                "overLimit: slow down (HTTP 413)",
                Class::Quota,
            ),
            (503, "", "refused (HTTP 503)", Class::Trouble),
            (404, "<html><body>x", "refused (HTTP 404)", Class::NotFound),
            (
                404,
                r#"{"message": "No image found<br /><br />\n\n\n", "code": "404 Not Found", "title": "Not Found"}"#,
                "No image found (HTTP 404)",
                Class::NotFound,
            ),
            (404, r#"{"message": "no\u001b[1m"}"#, "no [1m (HTTP 404)", Class::NotFound),
            (500, r#"[1,{"a":null}]"#, "[1,{\"a\":null}] (HTTP 500)", Class::Trouble),
        ] {
            let refusal = of(status, body);
            assert_eq!((refusal.to_string().as_str(), refusal.class), (said, class), "{body}");
        }
        let mut headers = reqwest::header::HeaderMap::new();
        headers.insert("retry-after", HeaderValue::from_static("3"));
        let slow = read(&Refused { status: 413, headers: &headers, body: b"{}" });
        assert_eq!(slow.class, Class::Throttled);
    }

    use reqwest::header::HeaderValue;
}
