//! What each service's answer says about a refusal.

use crate::http::{Class, Refusal, Refused};

/// The request was not executed; it may be sent again at leisure.
const THROTTLED: &[&str] = &[
    "BandwidthLimitExceeded",
    "EC2ThrottledException",
    "PriorRequestNotComplete",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
];

/// Passing troubles of the service itself.
const TROUBLE: &[&str] = &[
    "IDPCommunicationError",
    "InternalError",
    "InternalFailure",
    "InternalServerException",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "Unavailable",
];

/// The credentials ran out while the request was under way.
const EXPIRED: &[&str] = &["ExpiredToken", "ExpiredTokenException", "RequestExpired"];

/// What a code means; without one, the status.
fn class(status: u16, code: Option<&str>) -> Class {
    let by_status = match Class::of_status(status) {
        // Bad keys; those that ran out have a code.
        Class::Expired => Class::Denied,
        class => class,
    };
    let Some(code) = code else { return by_status };
    let one_of = |codes: &[&str]| codes.contains(&code);
    match code {
        _ if one_of(THROTTLED) || status == 429 => Class::Throttled,
        _ if one_of(EXPIRED) => Class::Expired,
        // EC2's `Invalid….NotFound`, IAM's `NoSuchEntity`, what S3 says of a HEAD
        _ if code.ends_with(".NotFound") || code.starts_with("NoSuch") => Class::NotFound,
        "NotFound" | "404" | "ResourceNotFoundException" => Class::NotFound,
        // Sent with a status of 500, but it does not pass in a moment.
        _ if code.starts_with("Insufficient") => Class::Capacity,
        _ if one_of(TROUBLE) => Class::Trouble,
        _ if code.ends_with("LimitExceeded") || code == "TooManyBuckets" => Class::Quota,
        _ if one_of(DENIED) => Class::Denied,
        _ if one_of(CONFLICT) || code.ends_with(".Duplicate") || code.ends_with(".InUse") => Class::Conflict,
        // A code that is not known says more than the status, unless that is a trouble of the service.
        _ => match by_status {
            Class::NotFound => Class::Invalid,
            class => class,
        },
    }
}

/// The caller may not, or is not who it says.
const DENIED: &[&str] = &[
    "AccessDenied",
    "AccessDeniedException",
    "AuthFailure",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "SignatureDoesNotMatch",
    "UnauthorizedOperation",
];

/// It is there already, or in use.
const CONFLICT: &[&str] = &[
    "BucketAlreadyExists",
    "BucketAlreadyOwnedByYou",
    "DependencyViolation",
    "EntityAlreadyExists",
    "IncorrectInstanceState",
    "IncorrectState",
    "OperationAborted",
    "PreconditionFailed",
];

/// Reads a refusal of any of the services.
pub(super) fn read(refused: &Refused<'_>) -> Refusal {
    let said = parse(refused.header("x-amzn-errortype").as_deref(), refused.body);
    let request = said.request.or_else(|| refused.header("x-amzn-requestid"));
    Refusal {
        class: class(refused.status, said.code.as_deref()),
        code: said.code,
        message: said.message,
        request: request.or_else(|| refused.header("x-amz-request-id")),
        ..refused.plain()
    }
}

/// What a refusal's body says: EC2's `<Response><Errors><Error>`, the `<ErrorResponse><Error>` of IAM and STS, S3's
/// `<Error>`, and the JSON of the EBS direct APIs and of single sign-on.
fn parse(error_type: Option<&str>, body: &[u8]) -> Refusal {
    let body = String::from_utf8_lossy(&body[..body.len().min(1 << 20)]);
    let mut refusal = Refusal::default();
    if body.trim_start().starts_with('{') {
        let json: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        let text = |names: &[&str]| names.iter().find_map(|n| json[*n].as_str()).map(str::to_owned);
        // `ValidationException:http://…` and `com.amazon.coral#ValidationException`
        refusal.code =
            error_type.map(str::to_owned).or_else(|| text(&["__type", "code", "Code", "error"])).map(|c| {
                c.split(':').next().unwrap_or_default().rsplit('#').next().unwrap_or_default().to_owned()
            });
        refusal.message = text(&["message", "Message", "error_description"]);
        if let Some(reason) = text(&["Reason", "reason"]) {
            refusal.message = Some(match refusal.message.take() {
                Some(message) => format!("{message} ({reason})"),
                None => reason,
            });
        }
    } else {
        // Fields of the error itself come first; of the outer element only the request's id matters.
        let error = body.find("<Error>").map_or(&body[..], |at| &body[at..]);
        refusal.code = element(error, "Code");
        refusal.message = element(error, "Message");
        refusal.request = element(&body, "RequestID").or_else(|| element(&body, "RequestId"));
    }
    refusal.code = refusal.code.filter(|c| !c.is_empty());
    // These quote the signed request, with its security token.
    let quotes_request = refusal.code.as_deref() == Some("SignatureDoesNotMatch");
    refusal.message = refusal.message.map(|m| {
        let m = if quotes_request { m.lines().next().unwrap_or_default() } else { &m };
        m.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(2000).collect::<String>()
    });
    refusal.message = refusal.message.filter(|m| !m.is_empty());
    refusal
}

/// The text of the first element of this name.
pub(super) fn element(xml: &str, name: &str) -> Option<String> {
    let start = xml.find(&format!("<{name}>"))? + name.len() + 2;
    let length = xml[start..].find(&format!("</{name}>"))?;
    let mut text = String::new();
    let mut rest = &xml[start..start + length];
    while let Some(at) = rest.find('&') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let entity = rest.find(';').map_or("", |end| &rest[1..end]);
        let plain = match entity {
            "lt" => Some('<'),
            "gt" => Some('>'),
            "amp" => Some('&'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            number => number
                .strip_prefix('#')
                .and_then(|n| match n.strip_prefix('x') {
                    Some(hex) => u32::from_str_radix(hex, 16).ok(),
                    None => n.parse().ok(),
                })
                .and_then(char::from_u32),
        };
        match plain {
            Some(c) => {
                text.push(c);
                rest = &rest[entity.len() + 2..];
            }
            None => {
                text.push('&');
                rest = &rest[1..];
            }
        }
    }
    text.push_str(rest);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{CallError as Error, Transient as _};

    fn of(status: u16, error_type: Option<&str>, body: &str) -> Refusal {
        let headers = error_type.map(|t| ("x-amzn-errortype".parse().unwrap(), t.parse().unwrap()));
        let headers = headers.into_iter().collect();
        read(&Refused { status, headers: &headers, body: body.as_bytes() })
    }

    fn refused(status: u16, body: &str) -> Error {
        Error::Refused { call: "Call".into(), refusal: Box::new(of(status, None, body)) }
    }

    fn ec2(status: u16, code: &str) -> Error {
        refused(status, &format!("<Response><Errors><Error><Code>{code}</Code></Error></Errors></Response>"))
    }

    #[test]
    fn codes_come_from_the_bodies_of_all_services() {
        let e = refused(
            400,
            "<?xml version=\"1.0\"?>\n<Response><Errors><Error><Code>InvalidAMIID.NotFound</Code><Message>The image \
             id &apos;[ami-1]&apos; does not exist &#38; &lt;never&gt; did</Message></Error></Errors><RequestID>r-1</RequestID></Response>",
        );
        assert_eq!(
            e.to_string(),
            "Call: InvalidAMIID.NotFound: The image id '[ami-1]' does not exist & <never> did (HTTP 400, request r-1)"
        );
        assert!(e.is_not_found() && e.is_certain() && !e.is_transient());
        let e = refused(
            404,
            "<ErrorResponse><Error><Type>Sender</Type><Code>NoSuchEntity</Code><Message>no role</Message></Error>\
             <RequestId>r-2</RequestId></ErrorResponse>",
        );
        assert_eq!((e.code(), e.message(), e.status()), (Some("NoSuchEntity"), Some("no role"), Some(404)));
        assert!(e.is_not_found());
        let e = refused(409, "<Error><Code>BucketAlreadyOwnedByYou</Code><BucketName>b</BucketName></Error>");
        assert!(e.is(&["BucketAlreadyOwnedByYou"]));
        assert!(refused(404, "").is_not_found());
        let json =
            of(400, Some("ValidationException:http://x"), r#"{"Message":"bad","Reason":"INVALID_TAG"}"#);
        assert_eq!(json.to_string(), "ValidationException: bad (INVALID_TAG) (HTTP 400)");
        let json = of(400, None, r##"{"__type":"com.amazon#ResourceNotFoundException"}"##);
        assert_eq!(json.code.as_deref(), Some("ResourceNotFoundException"));
    }

    #[test]
    fn broken_bodies_are_no_trouble() {
        for body in ["<Error><Code>", "{", "<Code>&#xffffffff;&;&amp</Code>", "\u{0}", "<html>502</html>"] {
            assert!(!refused(502, body).to_string().is_empty());
        }
    }

    #[test]
    fn signatures_that_do_not_match_tell_no_secret() {
        let e = refused(
            403,
            "<ErrorResponse><Error><Code>SignatureDoesNotMatch</Code><Message>it does not match.\n\nThe Canonical \
             String was\nx-amz-security-token:SECRET</Message></Error></ErrorResponse>",
        );
        assert!(!e.to_string().contains("SECRET") && e.to_string().contains("it does not match."));
    }

    #[test]
    fn classes_of_errors() {
        let throttled = |e: &Error| e.class() == Some(Class::Throttled);
        for (status, code) in
            [(503, "RequestLimitExceeded"), (400, "Throttling"), (503, "SlowDown"), (429, "Whatever")]
        {
            let e = ec2(status, code);
            assert!(e.is_transient() && throttled(&e) && e.is_certain(), "{code}");
        }
        for (status, code) in
            [(500, "InternalError"), (503, "Unavailable"), (400, "RequestTimeout"), (502, "")]
        {
            let e = ec2(status, code);
            assert!(e.is_transient() && !throttled(&e), "{code}");
        }
        assert!(!ec2(500, "InternalError").is_certain());
        for (status, code) in [
            (500, "InsufficientInstanceCapacity"),
            (400, "InvalidParameterValue"),
            (403, "UnauthorizedOperation"),
            (401, "AuthFailure"),
            (400, "VcpuLimitExceeded"),
            (501, "NotImplemented"),
        ] {
            assert!(!ec2(status, code).is_transient(), "{code}");
        }
        assert!(ec2(500, "InsufficientInstanceCapacity").is_certain());
        for (status, code, class) in [
            (400, "VcpuLimitExceeded", Class::Quota),
            (409, "EntityAlreadyExists", Class::Conflict),
            (400, "InvalidKeyPair.Duplicate", Class::Conflict),
            (401, "AuthFailure", Class::Denied),
            (401, "", Class::Denied),
            (404, "InvalidAction", Class::Invalid),
            (500, "NoSuchUpload", Class::NotFound),
        ] {
            assert_eq!(ec2(status, code).class(), Some(class), "{status} {code}");
        }
        assert!(ec2(400, "ExpiredToken").class() == Some(Class::Expired));
    }
}
