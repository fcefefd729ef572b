//! Objects of Amazon S3, read without credentials, as public ones can be.

use reqwest::Url;

use super::Error;
use crate::cloud::address::{Address, Amazon};
use crate::text::percent::encode;

/// Servers that speak as S3 does, in place of Amazon's; the first that is set counts
/// (<https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html>).
const ENDPOINTS: [&str; 2] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];

/// Where an object is, at Amazon or where the environment says.
pub(super) fn url_of_environment(object: &Address<Amazon>) -> Result<Url, Error> {
    let set = |name| std::env::var(name).ok().filter(|v: &String| !v.is_empty()).map(|v| (name, v));
    let malformed =
        || Error::Protocol { what: object.to_string(), reason: "no URL can be made of it".into() };
    let Some((name, value)) = ENDPOINTS.into_iter().find_map(set) else {
        return url(object, None).ok_or_else(malformed);
    };
    let endpoint: Option<Url> =
        value.parse().ok().filter(|u: &Url| matches!(u.scheme(), "http" | "https") && u.has_host());
    let endpoint = endpoint.ok_or(Error::Endpoint { name, value })?;
    url(object, Some(&endpoint)).ok_or_else(malformed)
}

/// The bucket is part of the host's name, or of the path: with a dot in it no certificate fits the host, with a
/// capital no host does, and other servers know only the latter.
fn url(object: &Address<Amazon>, endpoint: Option<&Url>) -> Option<Url> {
    let Address { bucket, name, .. } = object;
    let key = key(name)?;
    let in_path = bucket.contains(|c: char| matches!(c, '.' | '_') || c.is_ascii_uppercase());
    match endpoint {
        None if in_path => format!("https://s3.amazonaws.com/{bucket}/{key}").parse().ok(),
        None => format!("https://{bucket}.s3.amazonaws.com/{key}").parse().ok(),
        Some(endpoint) => {
            let mut url = endpoint.clone();
            url.set_path(&format!("{}/{bucket}/{key}", endpoint.path().trim_end_matches('/')));
            Some(url)
        }
    }
}

/// A name as a path that leads to it. URLs lose components that are dots, so with one the slashes are encoded too;
/// to names that are dots alone no URL leads.
fn key(name: &str) -> Option<String> {
    let is_dots = |part: &str| matches!(part, "." | "..");
    match name.split('/').any(is_dots) {
        true if is_dots(name) => None,
        true => Some(encode(name)),
        false => Some(name.split('/').map(encode).collect::<Vec<_>>().join("/")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_hosts_or_in_the_path() {
        let at = |text: &str, endpoint: Option<&str>| {
            let endpoint = endpoint.map(|e| e.parse().unwrap());
            url(&Address::object(text).unwrap(), endpoint.as_ref()).map(|u| u.to_string())
        };
        assert_eq!(
            at("s3://pub/a/ü +.bin", None).as_deref(),
            Some("https://pub.s3.amazonaws.com/a/%C3%BC%20%2B.bin")
        );
        assert_eq!(
            at("s3://pub.example/a?b#c", None).as_deref(),
            Some("https://s3.amazonaws.com/pub.example/a%3Fb%23c")
        );
        assert_eq!(
            at("s3://pub/a", Some("http://127.0.0.1:9000")).as_deref(),
            Some("http://127.0.0.1:9000/pub/a")
        );
        assert_eq!(at("s3://pub/a", Some("http://h/s3/")).as_deref(), Some("http://h/s3/pub/a"));
        assert_eq!(
            at("s3://pub/./a/../b", None).as_deref(),
            Some("https://pub.s3.amazonaws.com/.%2Fa%2F..%2Fb")
        );
        assert_eq!(at("s3://pub//a//b", None).as_deref(), Some("https://pub.s3.amazonaws.com//a//b"));
        assert_eq!(at("s3://Pub/a", None).as_deref(), Some("https://s3.amazonaws.com/Pub/a"));
        assert_eq!(at("s3://pub/..", None), None);
    }
}
