//! Page blobs of Azure's storage, for any account, below `/ACCOUNT/CONTAINER/BLOB`.
//!
//! Answers: <https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api>.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use openssl::hash::{MessageDigest, hash};
use quick_xml::escape::escape;
use serde::Serialize;

use super::{Double, Request, Response, lock};
use crate::text::percent;

/// The most that one call can write, in bytes.
const MAX_PAGES: u64 = 4 << 20;
/// Pages have so many bytes.
const PAGE: u64 = 512;

/// The double.
pub struct Blobs {
    /// Where contents are.
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `ACCOUNT/CONTAINER`
    containers: Vec<String>,
    /// By `ACCOUNT/CONTAINER/BLOB`.
    blobs: BTreeMap<String, Blob>,
}

/// A blob.
#[derive(Clone, Debug, Serialize)]
pub struct Blob {
    /// Its length in bytes.
    pub size: u64,
    /// MD5 of its content in base64, if it was set: such a blob is finished.
    pub md5: Option<String>,
    /// What was written of it, in bytes.
    pub written: u64,
    #[serde(skip)]
    sequence: String,
    #[serde(skip)]
    metadata: Vec<(String, String)>,
    #[serde(skip)]
    ranges: Vec<Range<u64>>,
    #[serde(skip)]
    content: Arc<File>,
}

impl Blob {
    /// Its content.
    pub fn content(&self) -> &Arc<File> {
        &self.content
    }

    fn write(&mut self, range: &Range<u64>, bytes: Option<&[u8]>) -> io::Result<()> {
        let mut ranges = Vec::new();
        for there in self.ranges.drain(..) {
            let (before, after) =
                (there.start..there.end.min(range.start), there.start.max(range.end)..there.end);
            ranges.extend([before, after].into_iter().filter(|r| r.start < r.end));
        }
        match bytes {
            Some(bytes) => {
                self.content.write_all_at(bytes, range.start)?;
                ranges.push(range.clone());
            }
            None => {
                let zeros = vec![0; usize::try_from(PAGE).unwrap_or_default()];
                for at in (range.start..range.end).step_by(zeros.len()) {
                    self.content.write_all_at(&zeros, at)?;
                }
            }
        }
        ranges.sort_by_key(|r| r.start);
        for range in ranges {
            match self.ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => self.ranges.push(range),
            }
        }
        self.written = self.ranges.iter().map(|r| r.end - r.start).sum();
        Ok(())
    }
}

impl Blobs {
    /// Contents are files without names in this folder.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, state: Mutex::default() }
    }

    /// All blobs, by `ACCOUNT/CONTAINER/BLOB`.
    pub fn blobs(&self) -> BTreeMap<String, Blob> {
        lock(&self.state).blobs.clone()
    }
}

fn refused(status: u16, code: &str, message: &str) -> Response {
    let (code_text, message) = (escape(code), escape(message));
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code_text}</Code><Message>{message}</Message></Error>"
    );
    Response::new(status, "application/xml", body).with("x-ms-error-code", code)
}

impl Double for Blobs {
    fn answer(&self, request: &Request) -> Response {
        let path = request.path().trim_matches('/');
        let Some(path) = percent::decode(path) else {
            return refused(
                400,
                "InvalidUri",
                "The requested URI does not represent any resource on the server.",
            );
        };
        let mut parts = path.splitn(3, '/');
        let (Some(account), Some(container)) = (parts.next(), parts.next()) else {
            return refused(
                400,
                "InvalidUri",
                "The requested URI does not represent any resource on the server.",
            );
        };
        let signed = request.header("authorization").unwrap_or_default();
        if !signed.starts_with(&format!("SharedKey {account}:")) {
            return refused(403, "AuthenticationFailed", "Server failed to authenticate the request.");
        }
        let query: BTreeMap<String, String> = request.query().into_iter().collect();
        let mut state = lock(&self.state);
        let container = format!("{account}/{container}");
        let is_there = state.containers.contains(&container);
        let Some(name) = parts.next() else {
            return match (request.method.as_str(), query.get("restype").map(String::as_str)) {
                ("PUT", Some("container")) if is_there => {
                    refused(409, "ContainerAlreadyExists", "The specified container already exists.")
                }
                ("PUT", Some("container")) => {
                    state.containers.push(container);
                    Response::empty(201)
                }
                _ => refused(400, "UnsupportedQueryParameter", "no such request of a container"),
            };
        };
        if !is_there {
            return refused(404, "ContainerNotFound", "The specified container does not exist.");
        }
        let key = format!("{container}/{name}");
        let what = (request.method.as_str(), query.get("comp").map(String::as_str));
        if what == ("PUT", None) {
            return self.make(&mut state, key, request);
        }
        if what == ("DELETE", None) && state.blobs.remove(&key).is_some() {
            return Response::empty(202);
        }
        match state.blobs.get_mut(&key) {
            Some(blob) => blob.answer(what, request),
            None => refused(404, "BlobNotFound", "The specified blob does not exist."),
        }
    }

    fn busy(&self) -> Response {
        refused(503, "ServerBusy", "The server is busy.")
    }
}

impl Blobs {
    fn make(&self, state: &mut State, key: String, request: &Request) -> Response {
        let size = request.header("x-ms-blob-content-length").and_then(|s| s.parse::<u64>().ok());
        let Some(size) = size.filter(|size| size.is_multiple_of(PAGE)) else {
            return refused(400, "InvalidHeaderValue", "x-ms-blob-content-length");
        };
        if request.header("x-ms-blob-type") != Some("PageBlob") {
            return refused(400, "InvalidHeaderValue", "x-ms-blob-type: only page blobs are here");
        }
        if request.header("if-none-match") == Some("*") && state.blobs.contains_key(&key) {
            return refused(409, "BlobAlreadyExists", "The specified blob already exists.");
        }
        let content = tempfile::tempfile_in(&self.folder).and_then(|file| file.set_len(size).map(|()| file));
        let content = match content {
            Ok(content) => Arc::new(content),
            Err(e) => return refused(500, "InternalError", &e.to_string()),
        };
        let metadata =
            request.headers.iter().filter(|(n, _)| n.to_ascii_lowercase().starts_with("x-ms-meta-"));
        let metadata = metadata.cloned().collect();
        let sequence = request.header("x-ms-blob-sequence-number").unwrap_or("0").to_owned();
        let blob = Blob { size, md5: None, written: 0, sequence, metadata, ranges: Vec::new(), content };
        state.blobs.insert(key, blob);
        Response::empty(201)
    }
}

impl Blob {
    fn answer(&mut self, what: (&str, Option<&str>), request: &Request) -> Response {
        match what {
            ("HEAD", None) => {
                let mut answer = Response::empty(200)
                    .with("Content-Length", self.size.to_string())
                    .with("x-ms-blob-type", "PageBlob")
                    .with("x-ms-blob-sequence-number", self.sequence.clone());
                answer.headers.extend(self.metadata.iter().cloned());
                match &self.md5 {
                    Some(md5) => answer.with("Content-MD5", md5.clone()),
                    None => answer,
                }
            }
            ("GET", None) => {
                let file = Some(self.content.clone());
                Response { file, ..Response::new(200, "application/octet-stream", "") }
            }
            ("GET", Some("pagelist")) => {
                let range = |r: &Range<u64>| {
                    format!("<PageRange><Start>{}</Start><End>{}</End></PageRange>", r.start, r.end - 1)
                };
                let ranges: String = self.ranges.iter().map(range).collect();
                let body = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><PageList>{ranges}</PageList>");
                Response::new(200, "application/xml", body)
            }
            ("PUT", Some("properties")) => {
                self.md5 = request.header("x-ms-blob-content-md5").map(str::to_owned);
                Response::empty(200)
            }
            ("PUT", Some("page")) => self.page(request),
            _ => refused(400, "UnsupportedQueryParameter", "no such request of a blob"),
        }
    }

    fn page(&mut self, request: &Request) -> Response {
        let range = request.header("x-ms-range").and_then(|r| r.strip_prefix("bytes="));
        let range = range.and_then(|r| {
            let (first, last) = r.split_once('-')?;
            Some(first.parse::<u64>().ok()?..last.parse::<u64>().ok()?.checked_add(1)?)
        });
        let fits = |r: &Range<u64>| {
            r.start < r.end
                && r.end <= self.size
                && r.start.is_multiple_of(PAGE)
                && r.end.is_multiple_of(PAGE)
        };
        let Some(range) = range.filter(fits) else {
            return refused(416, "InvalidPageRange", "The page range specified is invalid.");
        };
        if request.header("x-ms-if-sequence-number-eq").is_some_and(|number| number != self.sequence) {
            return refused(
                412,
                "SequenceNumberConditionNotMet",
                "The sequence number condition is not met.",
            );
        }
        let length = range.end - range.start;
        let bytes = match request.header("x-ms-page-write") {
            Some("clear") => None,
            _ if length > MAX_PAGES || length != request.body.len() as u64 => {
                return refused(
                    413,
                    "RequestBodyTooLarge",
                    "The request body is too large, or has another length.",
                );
            }
            _ => Some(request.body.as_slice()),
        };
        let mut answer = Response::empty(201);
        if let Some(bytes) = bytes {
            let sum = hash(MessageDigest::md5(), bytes).map(|sum| openssl::base64::encode_block(&sum));
            let sum = sum.unwrap_or_default();
            if request.header("content-md5").is_some_and(|sent| sent != sum) {
                return refused(400, "Md5Mismatch", "The MD5 value specified in the request did not match.");
            }
            answer = answer.with("Content-MD5", sum);
        }
        match self.write(&range, bytes) {
            Ok(()) => answer,
            Err(e) => refused(500, "InternalError", &e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_written_cleared_and_listed() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(folder.path().into());
        let ask = |method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]| {
            let request = Request::new(method, target).with_header("Authorization", "SharedKey acc:x");
            let request = headers.iter().fold(request, |r, (n, v)| r.with_header(n, v));
            blobs.answer(&request.with_body(body))
        };
        assert_eq!(ask("HEAD", "/acc/con/b", &[], b"").status, 404);
        assert_eq!(ask("PUT", "/acc/con?restype=container", &[], b"").status, 201);
        assert_eq!(ask("PUT", "/acc/con?restype=container", &[], b"").status, 409);
        assert_eq!(ask("PUT", "/other/con?restype=container", &[], b"").status, 403);
        let make = [
            ("x-ms-blob-type", "PageBlob"),
            ("x-ms-blob-content-length", "4096"),
            ("x-ms-blob-sequence-number", "7"),
            ("If-None-Match", "*"),
        ];
        assert_eq!(ask("PUT", "/acc/con/a%20b", &make, b"").status, 201);
        assert_eq!(ask("PUT", "/acc/con/a%20b", &make, b"").status, 409);
        let put = |range: &str, how: &str, number: &str, body: &[u8]| {
            let headers =
                [("x-ms-range", range), ("x-ms-page-write", how), ("x-ms-if-sequence-number-eq", number)];
            ask("PUT", "/acc/con/a%20b?comp=page", &headers, body).status
        };
        assert_eq!(put("bytes=0-1023", "update", "7", &[1; 1024]), 201);
        assert_eq!(put("bytes=1024-2047", "update", "7", &[2; 1024]), 201);
        assert_eq!(put("bytes=512-1023", "clear", "7", b""), 201);
        assert_eq!(put("bytes=0-1023", "update", "8", &[1; 1024]), 412);
        assert_eq!(put("bytes=0-1000", "update", "7", &[1; 1001]), 416);
        assert_eq!(put("bytes=0-1023", "update", "7", &[1; 512]), 413);
        let list = ask("GET", "/acc/con/a%20b?comp=pagelist", &[], b"").text();
        let expected = "<PageRange><Start>0</Start><End>511</End></PageRange><PageRange><Start>1024</Start><End>2047</End>";
        assert!(list.contains(expected), "{list}");
        let mut content = [9; 4096];
        let blob = &blobs.blobs()["acc/con/a b"];
        blob.content().read_exact_at(&mut content, 0).unwrap();
        assert_eq!(
            (blob.written, content[511], content[512], content[1024], content[4095]),
            (1536, 1, 0, 2, 0)
        );
        let md5 = [("x-ms-blob-content-md5", "abc==")];
        assert_eq!(ask("PUT", "/acc/con/a%20b?comp=properties", &md5, b"").status, 200);
        assert_eq!(ask("HEAD", "/acc/con/a%20b", &[], b"").header("content-md5"), Some("abc=="));
        assert_eq!(ask("DELETE", "/acc/con/a%20b", &[], b"").status, 202);
    }
}
