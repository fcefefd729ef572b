//! Where downloads come from, and what a server promises about a body it sends.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hyper::body::Bytes;
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderName,
    IF_RANGE, LAST_MODIFIED, RANGE,
};
use reqwest::{Method, StatusCode, Url};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::ahead::Ahead;
use super::{Engine, Error, s3};
use crate::cloud::address::{self, Address, Amazon};
use crate::cloud::google::storage::{Location, Object};
use crate::compress::Compression;
use crate::http::{self, mask};

/// What can be downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `http://`, `https://`
    Http(Url),
    /// `gs://`: an object of Google Storage.
    Storage(Location),
    /// `s3://`: a public object of Amazon S3, or of a server that speaks as it does.
    S3(Address<Amazon>),
    /// `file://`: a file of this machine.
    File(PathBuf),
}

/// Why a text names nothing that can be downloaded.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Not a URL.
    #[error("{text:?} is no URL: {reason}")]
    Malformed {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A scheme for which there is no client.
    #[error("not a URL that begins with {}: {text}", schemes())]
    Scheme {
        /// The text, without secrets.
        text: String,
    },
    /// No host, bucket or file, or a folder.
    #[error("{what} {url}")]
    Incomplete {
        /// What is missing.
        what: &'static str,
        /// The URL.
        url: String,
    },
    /// Not the URL of an object.
    #[error(transparent)]
    Address(#[from] address::Error),
}

/// What a URL of a [`Source`] begins with.
pub const SCHEMES: [&str; 5] = ["gs://", "s3://", "https://", "http://", "file://"];

/// The schemes, for people.
fn schemes() -> String {
    let [first @ .., last] = SCHEMES;
    format!("{} or {last}", first.join(", "))
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        if Location::fits(text) {
            return Ok(Self::Storage(Location::object(text)?));
        }
        if Address::<Amazon>::fits(text) {
            return Ok(Self::S3(Address::object(text)?));
        }
        let url: Url = match text.parse() {
            Ok(url) => url,
            Err(_) if !text.contains("://") => return Err(SourceError::Scheme { text: mask::urls(text) }),
            Err(e) => {
                let reason = format!("{e}");
                return Err(SourceError::Malformed { text: mask::urls(text), reason });
            }
        };
        let incomplete = |what| SourceError::Incomplete { what, url: http::shown(&url) };
        let source = match url.scheme() {
            "http" | "https" => Self::Http(url.clone()),
            // Only web servers are asked queries: a name cut there would be another file's.
            "file" if url.query().is_some() || url.fragment().is_some() => {
                let what = "URL of a file with a bare ? or #, which are written %3F and %23:";
                return Err(SourceError::Incomplete { what, url: text.into() });
            }
            "file" => {
                Self::File(url.to_file_path().map_err(|()| incomplete("URL of another machine's file"))?)
            }
            _ => return Err(SourceError::Scheme { text: mask::urls(text) }),
        };
        match url.path() {
            "" | "/" => Err(incomplete("URL missing file path")),
            path if path.ends_with('/') => Err(incomplete("URL must not be a directory path")),
            _ => Ok(source),
        }
    }
}

/// For messages: without user, password, query and fragment.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => f.write_str(&http::shown(url)),
            Self::Storage(at) => write!(f, "{at}"),
            Self::S3(at) => write!(f, "{at}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Source {
    /// The last component of the name, if it can name a file.
    pub fn base_name(&self) -> Option<String> {
        let path = match self {
            Self::Http(url) => crate::text::percent::decode(url.path())?,
            Self::Storage(at) => at.name.clone(),
            Self::S3(at) => at.name.clone(),
            Self::File(path) => path.to_str()?.to_owned(),
        };
        let name = path.rsplit('/').next()?;
        (!matches!(name, "" | "." | "..") && !name.contains('\0')).then(|| name.to_owned())
    }

    /// The same place with `suffix` added to the name, as in `image.bin.sig`. A query stays.
    pub fn with_suffix(&self, suffix: &str) -> Self {
        match self {
            Self::Http(url) => {
                let mut longer = url.clone();
                longer.set_path(&format!("{}{suffix}", url.path()));
                Self::Http(longer)
            }
            Self::Storage(at) => Self::Storage(at.at(format!("{}{suffix}", at.name))),
            Self::S3(at) => Self::S3(at.at(format!("{}{suffix}", at.name))),
            Self::File(path) => {
                let mut path = path.clone().into_os_string();
                path.push(suffix);
                Self::File(path.into())
            }
        }
    }

    /// A fingerprint of the exact source, queries included, which shows no secret of it.
    pub(super) fn fingerprint(&self) -> String {
        let exact = match self {
            Self::Http(url) => url.as_str().to_owned(),
            other => format!("{other:?}"),
        };
        openssl::sha::sha256(exact.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// Names one version of the content, so that two requests can be told to be about the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Validator {
    /// A strong entity tag (RFC 9110, 8.8.3).
    Etag(String),
    /// A date of last change that is strong enough (RFC 9110, 8.8.2.2).
    LastModified(String),
    /// A generation of a stored object.
    Generation(u64),
    /// A local file's inode, size, and time of last change in nanoseconds.
    File(u64, u64, i128),
}

/// What is known of the content before its first byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Length of what is sent, in bytes.
    pub total: Option<u64>,
    /// Which version it is; without one it cannot be resumed.
    pub validator: Option<Validator>,
    /// Checksum of what is sent.
    pub crc32c: Option<u32>,
    /// Whether it is sent gzipped although the content itself is not.
    pub gzipped: bool,
    /// What the answer says of its encoding, if it says so.
    pub coding: Option<String>,
}

impl Head {
    /// What must be undone of what is sent. An empty body is empty, not gzipped.
    pub(super) fn coding(&self) -> Option<Compression> {
        (self.gzipped && self.total != Some(0)).then_some(Compression::Gzip)
    }
}

/// An answer: the bytes from `offset` to `end`, or to the end of the content.
pub struct Opened {
    pub head: Head,
    pub offset: u64,
    /// One after the last byte of this answer, of a part.
    pub end: Option<u64>,
    pub body: Body,
}

/// The bytes of an answer.
pub enum Body {
    Http(http::Body),
    Ahead(Box<Ahead>),
    File(tokio::fs::File, PathBuf),
}

/// Pieces of local files.
const PIECE: usize = 256 << 10;

impl Body {
    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match self {
            Self::Http(body) => Ok(body.next().await?),
            Self::Ahead(ahead) => ahead.next().await,
            Self::File(file, path) => {
                let mut piece = vec![0; PIECE];
                let n = file.read(&mut piece).await.map_err(|e| Error::read(path, e))?;
                piece.truncate(n);
                Ok(Some(Bytes::from(piece)).filter(|p| !p.is_empty()))
            }
        }
    }
}

/// What is there already of one version: where to go on.
#[derive(Clone, Debug)]
pub struct Resume {
    pub offset: u64,
    pub head: Head,
    pub validator: Validator,
}

impl Engine {
    /// Asks for the content: all of it, or the rest of the version that is there in part; one try of each request.
    ///
    /// The answer begins at 0 if the rest cannot be had, because the content has changed or the server cannot.
    pub(super) async fn open(&self, source: &Source, resume: Option<&Resume>) -> Result<Opened, Error> {
        match source {
            Source::Http(url) => self.open_http(url, resume).await,
            Source::Storage(at) => self.open_stored(at, resume).await,
            Source::S3(at) => self.open_http(&s3::url_of_environment(at)?, resume).await,
            Source::File(path) => open_file(path, resume).await,
        }
    }

    /// The rest of a body in several ranges at a time; `None` for sources of which they cannot be had.
    pub(super) fn ahead(&self, source: &Source, head: &Head, at: u64) -> Option<Body> {
        let url = match source {
            Source::Http(url) => url.clone(),
            Source::S3(object) => s3::url_of_environment(object).ok()?,
            Source::Storage(_) | Source::File(_) => return None,
        };
        Ahead::new(&self.http, url, head, at, self.ranges).map(|a| Body::Ahead(Box::new(a)))
    }

    async fn open_http(&self, url: &Url, resume: Option<&Resume>) -> Result<Opened, Error> {
        // Identity, because length, ranges and signature are about the file itself.
        let request = self.http.request(Method::GET, url.clone()).header(ACCEPT_ENCODING, "identity");
        let request = match resume {
            Some(Resume { offset, validator: Validator::Etag(v) | Validator::LastModified(v), .. }) => {
                request.header(RANGE, format!("bytes={offset}-")).header(IF_RANGE, v)
            }
            _ => request,
        };
        let answer = self.http.send(request).await?;
        let (status, headers) = (answer.status(), answer.headers());
        let validator = http_validator(headers);
        let total = length(headers);
        match (status, resume) {
            (StatusCode::OK, _) => {
                let coding = coding(headers);
                let head = Head { total, validator, crc32c: None, gzipped: false, coding };
                Ok(Opened { head, offset: 0, end: None, body: Body::Http(self.http.body(answer)) })
            }
            (StatusCode::PARTIAL_CONTENT, Some(resume)) => {
                let (end, told) = check_range(headers, resume, || http::shown(url))?;
                if let (Some(Validator::Etag(new)), Validator::Etag(old)) = (&validator, &resume.validator)
                    && new != old
                {
                    return Err(Error::Changed { what: http::shown(url) });
                }
                let total = resume.head.total.or(told);
                let head = Head { total, coding: coding(headers), ..resume.head.clone() };
                let body = Body::Http(self.http.body(answer));
                Ok(Opened { head, offset: resume.offset, end: Some(end), body })
            }
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(_)) => Err(Error::Changed { what: http::shown(url) }),
            (status, _) if status.is_success() => {
                Err(Error::Protocol { what: http::shown(url), reason: format!("unexpected status {status}") })
            }
            _ => Err(self.http.refusal(answer).await.into()),
        }
    }

    async fn open_stored(&self, at: &Location, resume: Option<&Resume>) -> Result<Opened, Error> {
        let storage = self.storage()?;
        let object = storage.get(at).await?;
        let validator = Validator::Generation(object.generation);
        let same = resume.filter(|r| r.validator == validator);
        let offset = same.map_or(0, |r| r.offset);
        let answer = match storage.media(at, &object, offset).await {
            Ok(answer) => answer,
            // replaced since we asked which it is
            Err(e)
                if matches!(e.status(), Some(StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE)) =>
            {
                return Err(Error::Changed { what: at.to_string() });
            }
            Err(e) => return Err(e.into()),
        };
        let headers = answer.headers();
        let generation = HeaderName::from_static("x-goog-generation");
        if text(headers, &generation).is_some_and(|g| g.parse() != Ok(object.generation)) {
            return Err(Error::Changed { what: at.to_string() });
        }
        let partial = answer.status() == StatusCode::PARTIAL_CONTENT;
        let end = match (partial, same) {
            (true, Some(resume)) => Some(check_range(headers, resume, || at.to_string())?.0),
            (true, None) => {
                return Err(Error::Protocol { what: at.to_string(), reason: "a part came, unasked".into() });
            }
            (false, _) => None,
        };
        let head = stored_head(&object, headers, validator);
        let offset = if partial { offset } else { 0 };
        Ok(Opened { head, offset, end, body: Body::Http(storage.http().body(answer)) })
    }
}

/// What to expect of an object's content, as this answer sends it.
fn stored_head(object: &Object, headers: &HeaderMap, validator: Validator) -> Head {
    let stored_gzipped = object.content_encoding.as_deref() == Some("gzip");
    let sent_gzipped = text(headers, &CONTENT_ENCODING).is_some_and(|e| e.eq_ignore_ascii_case("gzip"));
    if stored_gzipped && !sent_gzipped {
        // Decoded on the way against our wish: neither length, checksum nor ranges are those of the object.
        let coding = object.content_encoding.clone();
        return Head { total: length(headers), validator: None, crc32c: None, gzipped: false, coding };
    }
    Head {
        total: Some(object.size),
        validator: Some(validator),
        crc32c: object.crc32c,
        gzipped: stored_gzipped,
        coding: coding(headers),
    }
}

pub(super) async fn open_file(path: &Path, resume: Option<&Resume>) -> Result<Opened, Error> {
    let fail = |e| Error::read(path, e);
    let mut file = tokio::fs::File::from_std(crate::input::open(path).map_err(fail)?);
    let meta = file.metadata().await.map_err(fail)?;
    let changed = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    let validator = Validator::File(meta.ino(), meta.len(), changed);
    let offset = resume.filter(|r| r.validator == validator).map_or(0, |r| r.offset);
    file.seek(std::io::SeekFrom::Start(offset)).await.map_err(fail)?;
    let (total, validator) = (Some(meta.len()), Some(validator));
    let head = Head { total, validator, crc32c: None, gzipped: false, coding: None };
    Ok(Opened { head, offset, end: None, body: Body::File(file, path.to_owned()) })
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// How the body is encoded, if it says so.
fn coding(headers: &HeaderMap) -> Option<String> {
    text(headers, &CONTENT_ENCODING).filter(|c| !c.eq_ignore_ascii_case("identity")).map(String::from)
}

fn length(headers: &HeaderMap) -> Option<u64> {
    text(headers, &CONTENT_LENGTH)?.parse().ok()
}

/// A validator with which ranges of different answers may be joined: it must be a strong one.
pub(super) fn http_validator(headers: &HeaderMap) -> Option<Validator> {
    if let Some(tag) = text(headers, &ETAG)
        && tag.len() >= 2
        && tag.starts_with('"')
        && tag.ends_with('"')
    {
        return Some(Validator::Etag(tag.to_owned()));
    }
    let date = |name| chrono::DateTime::parse_from_rfc2822(text(headers, &name)?).ok();
    // A second change within the resolution of the clock would go unseen.
    let strong = date(DATE)? - date(LAST_MODIFIED)? >= chrono::TimeDelta::seconds(60);
    strong.then(|| text(headers, &LAST_MODIFIED).map(|v| Validator::LastModified(v.to_owned()))).flatten()
}

/// Checks that a part begins where it was asked to. One after its last byte, which may be earlier than asked for
/// (RFC 9110, 15.3.7), and the length of the whole, if it is known.
fn check_range(
    headers: &HeaderMap,
    resume: &Resume,
    what: impl Fn() -> String,
) -> Result<(u64, Option<u64>), Error> {
    let bad = |reason| Error::Range { what: what(), reason };
    let (first, last, total) =
        exact_range(headers).ok_or_else(|| bad("a part came that does not say which"))?;
    if first != resume.offset {
        return Err(bad("another part than asked for came"));
    }
    if total.is_some() && resume.head.total.is_some() && total != resume.head.total {
        return Err(Error::Changed { what: what() });
    }
    if resume.head.total.is_some_and(|t| last >= t) {
        return Err(bad("a part came that ends behind the content"));
    }
    Ok((last + 1, total))
}

/// The part that an answer says it is.
pub(super) fn exact_range(headers: &HeaderMap) -> Option<(u64, u64, Option<u64>)> {
    text(headers, &CONTENT_RANGE).and_then(parse_range)
}

/// First byte, last byte and total of `bytes 5-9/10`; the total may be unknown.
fn parse_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    (first <= last && total.is_none_or(|t| last < t)).then_some((first, last, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_and_shown() {
        for (text, name) in [
            ("gs://b/p/o.bz2", "o.bz2"),
            ("https://u:p@h/x/%C3%BC.bin?sig=secret", "ü.bin"),
            ("file:///tmp/x", "x"),
            ("s3://b.example/p/ü +.bin", "ü +.bin"),
        ] {
            let source: Source = text.parse().unwrap();
            assert_eq!(source.base_name().as_deref(), Some(name));
            let signed = source.with_suffix(".sig");
            assert_eq!(signed.base_name(), Some(format!("{name}.sig")));
            assert!(!source.to_string().contains("secret") && !source.to_string().contains("u:p"));
            assert_ne!(source.fingerprint(), signed.fingerprint());
        }
        let hidden = |text: &str| text.parse::<Source>().unwrap().base_name();
        assert_eq!(hidden("http://h/a%2Fb"), Some("b".into()));
        assert_eq!(hidden("http://h/a%2F.."), None);
        assert_eq!(hidden("http://h/a%00"), None);
        for (text, complaint) in [
            ("x/y", "not a URL that begins with gs://, s3://, https://, http:// or file://: x/y"),
            ("ftp://h/x", "not a URL that begins with gs://, s3://, https://, http:// or file://: ftp://h/x"),
            (
                "ftp://bob:PW@h/x",
                "not a URL that begins with gs://, s3://, https://, http:// or file://: ftp://***@h/x",
            ),
            ("http://bob:PW@[bad/x", "\"http://***@[bad/x\" is no URL: invalid IPv6 address"),
            ("http://h/", "URL missing file path http://h/"),
            ("http://h", "URL missing file path http://h/"),
            ("https://h/d/", "URL must not be a directory path https://h/d/"),
            ("gs://b", "URL missing file path gs://b"),
            ("s3://", "URL missing bucket name s3://"),
            ("s3://bucket/", "URL missing file path s3://bucket/"),
            ("s3://bucket/d/", "URL must not be a directory path s3://bucket/d/"),
            ("s3://a@b/x", "URL with a malformed bucket name s3://a@b/x"),
            ("http://[", "\"http://[\" is no URL: invalid IPv6 address"),
        ] {
            assert_eq!(text.parse::<Source>().unwrap_err().to_string(), complaint);
        }
    }

    #[test]
    fn only_strong_validators_join_parts() {
        let headers = |pairs: &[(HeaderName, &str)]| {
            pairs.iter().map(|(n, v)| (n.clone(), v.parse().unwrap())).collect::<HeaderMap>()
        };
        let (old, new, now) = (
            "Tue, 01 Jan 2019 00:00:00 GMT",
            "Wed, 02 Jan 2019 00:00:00 GMT",
            "Wed, 02 Jan 2019 00:00:30 GMT",
        );
        let validator = |pairs: &[(HeaderName, &str)]| http_validator(&headers(pairs));
        assert_eq!(validator(&[(ETAG, "\"a\"")]), Some(Validator::Etag("\"a\"".into())));
        assert_eq!(validator(&[(ETAG, "W/\"a\"")]), None);
        assert_eq!(validator(&[(ETAG, "\"")]), None);
        assert_eq!(validator(&[(LAST_MODIFIED, old)]), None);
        assert_eq!(validator(&[(LAST_MODIFIED, new), (DATE, now)]), None);
        assert_eq!(
            validator(&[(ETAG, "W/\"a\""), (LAST_MODIFIED, old), (DATE, now)]),
            Some(Validator::LastModified(old.into()))
        );
    }

    #[test]
    fn ranges_are_read_strictly() {
        assert_eq!(parse_range("bytes 5-9/10"), Some((5, 9, Some(10))));
        assert_eq!(parse_range("bytes 5-9/*"), Some((5, 9, None)));
        for bad in
            ["", "bytes */10", "bytes 9-5/10", "bytes 5-10/10", "lines 5-9/10", "bytes 5-9", "bytes -5-9/10"]
        {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }
}
