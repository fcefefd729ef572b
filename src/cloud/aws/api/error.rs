//! What goes wrong with calls, and what each service's answer says about it.

use std::time::Duration;

use super::super::credentials;
use crate::http::{self, Transient};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing to sign requests with.
    #[error("cannot get AWS credentials")]
    Credentials(#[source] credentials::Error),
    /// A region that belongs to no known partition.
    #[error("could not find partition for {region:?}: no AWS region has such a name")]
    Partition {
        /// The region as given.
        region: String,
    },
    /// An endpoint that is no URL.
    #[error("the endpoint {url:?} is not a URL that begins with http:// or https://")]
    Endpoint {
        /// As given.
        url: String,
    },
    /// The file with trust roots cannot be used.
    #[error("cannot read the certificates in {path}")]
    Certificates {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No answer, or none that can be read.
    #[error("{call} failed")]
    Http {
        /// The API call.
        call: &'static str,
        /// Why.
        #[source]
        source: http::Error,
    },
    /// The service refused.
    #[error("{call}: {}", .refusal)]
    Refused {
        /// The API call.
        call: &'static str,
        /// What the service said.
        refusal: Box<Refusal>,
    },
    /// The answer is not what the API promises.
    #[error("the answer to {call} cannot be understood: {reason}")]
    Answer {
        /// The API call.
        call: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a service says when it refuses.
#[derive(Clone, Debug, Default)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// The service's code, such as `InvalidSnapshot.NotFound`; absent on answers without body.
    pub code: Option<String>,
    /// Its message for people.
    pub message: Option<String>,
    /// Names the request to AWS support.
    pub request: Option<String>,
    /// How long it asks to wait.
    pub retry_after: Option<Duration>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.code, &self.message) {
            (Some(code), Some(message)) => write!(f, "{code}: {message}")?,
            (Some(one), None) | (None, Some(one)) => f.write_str(one)?,
            (None, None) => f.write_str("refused")?,
        }
        write!(f, " (HTTP {}", self.status)?;
        match &self.request {
            Some(id) => write!(f, ", request {id})"),
            None => f.write_str(")"),
        }
    }
}

/// Result of calls.
pub type Result<T> = std::result::Result<T, Error>;

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

impl Error {
    /// The service's code, such as `InvalidSnapshot.NotFound`.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { refusal, .. } => refusal.code.as_deref(),
            _ => None,
        }
    }

    /// The service's message.
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Refused { refusal, .. } => refusal.message.as_deref(),
            _ => None,
        }
    }

    /// HTTP status of the refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal.status),
            _ => None,
        }
    }

    /// Whether this is one of these codes.
    pub fn is(&self, codes: &[&str]) -> bool {
        self.code().is_some_and(|c| codes.contains(&c))
    }

    /// Whether the object does not exist (any more): EC2's `Invalid….NotFound`, IAM's `NoSuchEntity`, S3's 404.
    pub fn is_not_found(&self) -> bool {
        self.code().map_or(self.status() == Some(404), |c| {
            c.ends_with(".NotFound")
                || c.starts_with("NoSuch")
                || c == "NotFound"
                || c == "404"
                || c == "ResourceNotFoundException"
        })
    }

    /// Whether the call was not executed for sure: refused for a reason, or never sent.
    pub fn is_certain(&self) -> bool {
        match self {
            Self::Credentials(_)
            | Self::Partition { .. }
            | Self::Endpoint { .. }
            | Self::Certificates { .. } => true,
            Self::Http { source: http::Error::Transport { source, .. }, .. } => source.is_connect(),
            Self::Http { .. } | Self::Answer { .. } => false,
            Self::Refused { refusal, .. } => {
                refusal.status < 500 || self.is_throttled() || self.is_insufficient()
            }
        }
    }

    /// Whether there were too many requests.
    pub fn is_throttled(&self) -> bool {
        self.is(THROTTLED) || self.status() == Some(429)
    }

    /// Whether the credentials have run out.
    pub(super) fn is_expired(&self) -> bool {
        self.is(EXPIRED)
    }

    /// No capacity: sent with a status of 500, but it does not pass in a moment.
    fn is_insufficient(&self) -> bool {
        self.code().is_some_and(|c| c.starts_with("Insufficient"))
    }
}

impl Transient for Error {
    fn is_transient(&self) -> bool {
        match self {
            Self::Http { source, .. } => source.is_transient(),
            Self::Refused { refusal, .. } => {
                self.is_throttled()
                    || self.is(TROUBLE)
                    || (matches!(refusal.status, 408 | 500 | 502 | 503 | 504) && !self.is_insufficient())
            }
            _ => false,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { refusal, .. } => refusal.retry_after,
            Self::Http { source, .. } => source.retry_after(),
            _ => None,
        }
    }
}

/// What a refusal's body says: EC2's `<Response><Errors><Error>`, the `<ErrorResponse><Error>` of IAM and STS, S3's
/// `<Error>`, and the JSON of the EBS direct APIs.
pub(super) fn parse(status: u16, error_type: Option<&str>, body: &[u8]) -> Refusal {
    let body = String::from_utf8_lossy(&body[..body.len().min(1 << 20)]);
    let mut refusal = Refusal { status, ..Refusal::default() };
    if body.trim_start().starts_with('{') {
        let json: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        let text = |names: &[&str]| names.iter().find_map(|n| json[*n].as_str()).map(str::to_owned);
        // `ValidationException:http://…` and `com.amazon.coral#ValidationException`
        refusal.code = error_type.map(str::to_owned).or_else(|| text(&["__type", "code", "Code"])).map(|c| {
            c.split(':').next().unwrap_or_default().rsplit('#').next().unwrap_or_default().to_owned()
        });
        refusal.message = text(&["message", "Message"]);
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
fn element(xml: &str, name: &str) -> Option<String> {
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

    fn refused(status: u16, body: &str) -> Error {
        Error::Refused { call: "Call", refusal: Box::new(parse(status, None, body.as_bytes())) }
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
            parse(400, Some("ValidationException:http://x"), br#"{"Message":"bad","Reason":"INVALID_TAG"}"#);
        assert_eq!(json.to_string(), "ValidationException: bad (INVALID_TAG) (HTTP 400)");
        let json = parse(400, None, br##"{"__type":"com.amazon#ResourceNotFoundException"}"##);
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
        for (status, code) in
            [(503, "RequestLimitExceeded"), (400, "Throttling"), (503, "SlowDown"), (429, "Whatever")]
        {
            let e = ec2(status, code);
            assert!(e.is_transient() && e.is_throttled() && e.is_certain(), "{code}");
        }
        for (status, code) in
            [(500, "InternalError"), (503, "Unavailable"), (400, "RequestTimeout"), (502, "")]
        {
            let e = ec2(status, code);
            assert!(e.is_transient() && !e.is_throttled(), "{code}");
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
        assert!(ec2(400, "ExpiredToken").is_expired());
    }
}
