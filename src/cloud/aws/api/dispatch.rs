//! Sends rusoto's requests through the program's own HTTP client: one TLS library, its proxies, limits and trust
//! roots.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use hyper::body::Bytes;
use reqwest::{Method, StatusCode, Url};
use rusoto_core::credential::AwsCredentials;
use rusoto_core::request::{DispatchSignedRequest, DispatchSignedRequestFuture, HttpResponse};
use rusoto_core::{ByteStream, HttpDispatchError};
use rusoto_signature::signature::encode_uri_path;
use rusoto_signature::{SignedRequest, SignedRequestPayload};

use super::super::credentials::Keys;
use super::{Error, bad_endpoint, refusal};
use crate::http::{Answer, Client, Exchange};
use crate::secret::Secret;
use crate::text::percent;

/// Answers are not longer than this; a page of 1000 instances is about 10 MiB.
const MAX_ANSWER: u64 = 64 << 20;

/// Larger bodies are hashed outside of the event loop.
const HASH_HERE: usize = 64 << 10;

/// Sends one call; the failure, if there is one, is kept whole beside what rusoto makes of it.
pub(super) struct Dispatcher(Arc<Inner>);

struct Inner {
    http: Client,
    keys: Option<Keys>,
    /// What no message may hold: the keys, and more.
    confided: Vec<Secret>,
    call: &'static str,
    failure: Arc<Mutex<Option<Error>>>,
}

impl Dispatcher {
    /// For one try of one call; without keys it is not signed. No message holds the keys or what is `confided`.
    pub(super) fn new(
        http: Client,
        keys: Option<Keys>,
        mut confided: Vec<Secret>,
        call: &'static str,
    ) -> Self {
        if let Some(keys) = &keys {
            confided.push(keys.secret.clone());
            confided.extend(keys.token.clone());
        }
        Self(Arc::new(Inner { http, keys, confided, call, failure: Arc::default() }))
    }

    /// Where the failure will be.
    pub(super) fn failure(&self) -> Arc<Mutex<Option<Error>>> {
        self.0.failure.clone()
    }
}

impl DispatchSignedRequest for Dispatcher {
    fn dispatch(&self, request: SignedRequest, _timeout: Option<Duration>) -> DispatchSignedRequestFuture {
        let inner = self.0.clone();
        Box::pin(async move {
            inner.exchange(request).await.map_err(|error| {
                *inner.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
                HttpDispatchError::new("failed".into())
            })
        })
    }
}

impl Inner {
    async fn exchange(&self, mut request: SignedRequest) -> Result<HttpResponse, Error> {
        let call = self.call;
        let bad = |reason: String| Error::answer(call, reason);
        let body = body(request.payload.take()).await.map_err(|e| bad(e.to_string()))?;
        request.payload = Some(SignedRequestPayload::Buffer(body.clone()));
        if request.service == "ebs" {
            // rusoto takes the JSON of RPC services for that of REST ones; Amazon's own clients say these.
            let kind =
                if request.method() == "PUT" { "application/octet-stream" } else { "application/json" };
            request.set_content_type(kind.to_owned());
        }
        let keys = self.keys.clone();
        let request = match body.len() > HASH_HERE {
            true => {
                let signing = tokio::task::spawn_blocking(move || sign(request, keys.as_ref()));
                signing.await.map_err(|e| bad(e.to_string()))?
            }
            false => sign(request, keys.as_ref()),
        };
        let path = match request.service.as_str() {
            "s3" => object_path(&request.canonical_path(), request.path()),
            _ => Some(request.canonical_path().to_owned()),
        };
        let path = path.ok_or_else(|| bad("no URL leads to an object whose key is dots alone".into()))?;
        let mut url = format!("{}://{}{path}", request.scheme(), request.hostname());
        if !request.canonical_query_string().is_empty() {
            url.push('?');
            url.push_str(request.canonical_query_string());
        }
        let url: Url = url.parse().map_err(|_| bad_endpoint(&request.hostname()))?;
        let method = Method::from_bytes(request.method().as_bytes()).map_err(|e| bad(e.to_string()))?;
        let mut sent = self.http.request(method, url);
        for (name, values) in request.headers() {
            // The client sets these itself, as the URL and the body say.
            if !matches!(name.as_str(), "host" | "content-length") {
                for value in values {
                    sent = sent.header(name.as_str(), value.as_slice());
                }
            }
        }
        let sent = sent.body(body).build().map_err(|e| bad(e.without_url().to_string()))?;
        let name = Cow::Borrowed(call);
        let exchange = Exchange {
            call: &name,
            accepted: &[],
            limit: MAX_ANSWER,
            waits: Duration::ZERO,
            read: refusal::read,
            confided: &self.confided,
        };
        let Answer { status, headers, body } = self.http.exchange(sent, exchange).await?;
        // CompleteMultipartUpload begins its answer before it knows how it will end.
        if call == "CompleteMultipartUpload" && is_error(&body) {
            return Err(exchange.late_refusal(StatusCode::INTERNAL_SERVER_ERROR, &headers, &body));
        }
        let headers = headers
            .iter()
            .filter_map(|(name, value)| Some((name.as_str().parse().ok()?, value.to_str().ok()?.to_owned())));
        let headers = headers.collect();
        let status = status.as_u16().try_into().map_err(|_| bad(format!("status {status}")))?;
        Ok(HttpResponse { status, body: ByteStream::from(body), headers })
    }
}

/// The path to a bucket or an object as it is sent, from the one that was signed and the `/bucket/key` in it.
///
/// URLs lose components that are dots, so that another object would be meant: the slashes of such a key are encoded.
/// The signature stays right, servers compute it from the key that they decoded. `None` for keys of dots alone.
fn object_path(signed: &str, path: &str) -> Option<String> {
    let key = path.strip_prefix('/').and_then(|rest| rest.split_once('/')).map_or("", |(_, key)| key);
    let is_dots = |part: &str| matches!(part, "." | "..");
    if !key.split('/').any(is_dots) {
        return Some(signed.to_owned());
    }
    let before = signed.strip_suffix(&*encode_uri_path(key)).filter(|_| !is_dots(key))?;
    Some(format!("{before}{}", percent::encode(key)))
}

/// Whether the answer's root element says that it is an error.
fn is_error(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(&body[..body.len().min(1024)]);
    let text = text.trim_start();
    let text = match text.strip_prefix("<?xml") {
        Some(rest) => rest.split_once("?>").map_or("", |(_, rest)| rest).trim_start(),
        None => text,
    };
    text.starts_with("<Error>") || text.starts_with("<Error ")
}

/// The payload in one piece.
async fn body(payload: Option<SignedRequestPayload>) -> std::io::Result<Bytes> {
    match payload {
        None => Ok(Bytes::new()),
        Some(SignedRequestPayload::Buffer(bytes)) => Ok(bytes),
        Some(SignedRequestPayload::Stream(mut stream)) => {
            let first = stream.next().await.transpose()?.unwrap_or_default();
            let mut whole = Vec::new();
            while let Some(piece) = stream.next().await.transpose()? {
                if whole.is_empty() {
                    whole.extend_from_slice(&first);
                }
                whole.extend_from_slice(&piece);
            }
            Ok(if whole.is_empty() { first } else { whole.into() })
        }
    }
}

/// Signature version 4, over the whole body.
fn sign(mut request: SignedRequest, keys: Option<&Keys>) -> SignedRequest {
    match keys {
        Some(keys) => {
            let token = keys.token.as_ref().map(|t| t.expose().to_owned());
            request.sign(&AwsCredentials::new(keys.id.as_str(), keys.secret.expose(), token, None));
        }
        None => request.complement(),
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_errors_are_recognised() {
        assert!(is_error(b"<?xml version=\"1.0\"?>\n\n<Error><Code>InternalError</Code></Error>"));
        assert!(is_error(b"  <Error>"));
        assert!(!is_error(b"<?xml version=\"1.0\"?><CompleteMultipartUploadResult><Error>"));
        assert!(!is_error(b"<?xml <Error>"));
    }

    #[test]
    fn dots_in_keys_survive_the_url() {
        for (path, sent) in [
            ("/b", Some("/p/b")),
            ("/b/a//b#?%", Some("/p/b/a//b%23%3F%25")),
            ("/b//a", Some("/p/b//a")),
            ("/b/./a/../b", Some("/p/b/.%2Fa%2F..%2Fb")),
            ("/b/a/..", Some("/p/b/a%2F..")),
            ("/b/...", Some("/p/b/...")),
            ("/b/..", None),
            ("/b/.", None),
        ] {
            let url = object_path(&encode_uri_path(&format!("/p{path}")), path);
            assert_eq!(url.as_deref(), sent, "{path}");
            if let Some(sent) = sent {
                assert_eq!(Url::parse(&format!("http://h{sent}")).unwrap().path(), sent);
            }
        }
    }

    /// Written against the algorithm's description (docs.aws.amazon.com, "Create a signed AWS API request"), by hand
    /// with OpenSSL: rusoto's signer, which has no clock to set, must agree with it.
    #[test]
    fn signatures_agree_with_the_algorithm() {
        use openssl::hash::MessageDigest;
        use openssl::pkey::PKey;
        use openssl::sign::Signer;
        let hmac = |key: &[u8], data: &str| {
            let key = PKey::hmac(key).unwrap();
            let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
            signer.sign_oneshot_to_vec(data.as_bytes()).unwrap()
        };
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let hash = |data: &[u8]| hex(&openssl::sha::sha256(data));
        // The documentation's own vector for the signing key.
        let derive = |secret: &str, date: &str, region: &str, service: &str| {
            let mut key = format!("AWS4{secret}").into_bytes();
            for part in [date, region, service, "aws4_request"] {
                key = hmac(&key, part);
            }
            key
        };
        let vector = derive("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "20150830", "us-east-1", "iam");
        assert_eq!(hex(&vector), "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9");

        let region = rusoto_core::Region::Custom {
            name: "us-west-2".into(),
            endpoint: "http://127.0.0.1:5555/prefix".into(),
        };
        let mut request = SignedRequest::new("PUT", "s3", &region, "/bucket/a b/ü+c");
        request.add_param("partNumber", "1");
        request.add_param("uploadId", "x/y=");
        request.payload = Some(SignedRequestPayload::Buffer(Bytes::from_static(b"hello")));
        let keys = Keys {
            id: "AKID".into(),
            secret: "very/secret".to_owned().into(),
            token: Some("session+token".to_owned().into()),
            expires: None,
        };
        let signed = sign(request, Some(&keys));
        let header = |name: &str| {
            String::from_utf8(signed.headers().get(name).map(|v| v.concat()).unwrap_or_default()).unwrap()
        };
        assert_eq!(header("host"), "127.0.0.1:5555");
        assert_eq!(header("x-amz-content-sha256"), hash(b"hello"));
        assert_eq!(signed.canonical_path(), "/prefix/bucket/a%20b/%C3%BC%2Bc");
        let authorization = header("authorization");
        let (names, signature) = authorization
            .split_once("SignedHeaders=")
            .and_then(|(_, rest)| rest.split_once(", Signature="))
            .unwrap();
        assert!(names.contains("x-amz-security-token") && names.contains("host"), "{names}");
        let canonical: String = names.split(';').map(|n| format!("{n}:{}\n", header(n))).collect();
        let canonical = format!(
            "PUT\n/prefix/bucket/a%20b/%C3%BC%2Bc\npartNumber=1&uploadId=x%2Fy%3D\n{canonical}\n{names}\n{}",
            hash(b"hello")
        );
        let time = header("x-amz-date");
        let date = &time[..8];
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{time}\n{date}/us-west-2/s3/aws4_request\n{}",
            hash(canonical.as_bytes())
        );
        let expected = hmac(&derive("very/secret", date, "us-west-2", "s3"), &to_sign);
        assert_eq!(signature, hex(&expected));
        assert!(
            authorization
                .starts_with(&format!("AWS4-HMAC-SHA256 Credential=AKID/{date}/us-west-2/s3/aws4_request"))
        );
    }
}
