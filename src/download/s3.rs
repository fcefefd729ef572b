//! Objects of Amazon S3, read without credentials, as public ones can be.

use std::fmt;

use reqwest::Url;

use super::Error;
use super::source::SourceError;
use crate::text::percent::encode;

/// Servers that speak as S3 does, in place of Amazon's; the first that is set counts
/// (<https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html>).
const ENDPOINTS: [&str; 2] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];

/// An object: `s3://bucket/key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Object {
    /// Where it is.
    pub bucket: String,
    /// Its name there.
    pub key: String,
}

impl fmt::Display for S3Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

impl S3Object {
    pub(super) fn parse(text: &str) -> Result<Self, SourceError> {
        let incomplete = |what| SourceError::Incomplete { what, url: text.to_owned() };
        let (bucket, key) = text.get(5..).unwrap_or_default().split_once('/').unwrap_or((&text[5..], ""));
        // Letters, digits, dots and hyphens; those of the first years have underscores, too.
        let is_name = |c: u8| c.is_ascii_alphanumeric() || b".-_".contains(&c);
        match (bucket, key) {
            ("", _) => Err(incomplete("URL missing bucket name")),
            (name, _) if !name.bytes().all(is_name) || name.contains("..") => {
                Err(incomplete("URL with a malformed bucket name"))
            }
            (_, "") => Err(incomplete("URL missing file path")),
            (_, key) if key.ends_with('/') => Err(incomplete("URL must not be a directory path")),
            _ => Ok(Self { bucket: bucket.to_owned(), key: key.to_owned() }),
        }
    }

    /// Where it is, at Amazon or where the environment says.
    pub(super) fn url_of_environment(&self) -> Result<Url, Error> {
        let set = |name| std::env::var(name).ok().filter(|v: &String| !v.is_empty()).map(|v| (name, v));
        let Some((name, value)) = ENDPOINTS.into_iter().find_map(set) else {
            return self.url(None).ok_or_else(|| self.malformed());
        };
        let endpoint: Option<Url> =
            value.parse().ok().filter(|u: &Url| matches!(u.scheme(), "http" | "https") && u.has_host());
        let endpoint = endpoint.ok_or(Error::Endpoint { name, value })?;
        self.url(Some(&endpoint)).ok_or_else(|| self.malformed())
    }

    fn malformed(&self) -> Error {
        Error::Protocol { what: self.to_string(), reason: "no URL can be made of it".into() }
    }

    /// The bucket is part of the host's name, or of the path: with a dot in it no certificate fits the host, and
    /// other servers know only the latter.
    fn url(&self, endpoint: Option<&Url>) -> Option<Url> {
        let Self { bucket, key } = self;
        let key = key.split('/').map(encode).collect::<Vec<_>>().join("/");
        match endpoint {
            None if bucket.contains(['.', '_']) => {
                format!("https://s3.amazonaws.com/{bucket}/{key}").parse().ok()
            }
            None => format!("https://{bucket}.s3.amazonaws.com/{key}").parse().ok(),
            Some(endpoint) => {
                let mut url = endpoint.clone();
                url.set_path(&format!("{}/{bucket}/{key}", endpoint.path().trim_end_matches('/')));
                Some(url)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_hosts_or_in_the_path() {
        let url = |text: &str, endpoint: Option<&str>| {
            let endpoint = endpoint.map(|e| e.parse().unwrap());
            S3Object::parse(text).unwrap().url(endpoint.as_ref()).unwrap().to_string()
        };
        assert_eq!(url("s3://pub/a/ü +.bin", None), "https://pub.s3.amazonaws.com/a/%C3%BC%20%2B.bin");
        assert_eq!(url("s3://pub.example/a?b#c", None), "https://s3.amazonaws.com/pub.example/a%3Fb%23c");
        assert_eq!(url("s3://pub/a", Some("http://127.0.0.1:9000")), "http://127.0.0.1:9000/pub/a");
        assert_eq!(url("s3://pub/a", Some("http://h/s3/")), "http://h/s3/pub/a");
    }
}
