//! Doubles of the clouds' services, on this machine: as much of each as a release asks.
//!
//! A double keeps records in memory and answers one request at a time; it knows no network. [`Server`] puts it on a port
//! of loopback, counts what it is asked and lets some of it go wrong. `plume rehearse` and the tests use the same ones.
//!
//! | file | service |
//! |---|---|
//! | `aws` | EC2's images and snapshots in all regions, S3 as images are imported through it, who calls |
//! | `blobs` | page blobs of Azure's storage |
//! | `classic` | images of Azure's classic API |
//! | `gce` | images of Compute Engine, and the operations that make them |
//! | `gcs` | Google Storage: generations, preconditions, uploads in pieces, rewrites, pages |
//! | `kept` | their state as files, to be looked at |
//! | `sample` | a small signed build to be released there |
//! | `world` | all of them at once, and somebody who may use them |
//!
//! None of them checks signatures or rights: whoever reaches one is let in.

pub mod aws;
pub mod blobs;
pub mod classic;
pub mod gce;
pub mod gcs;
pub mod kept;
pub mod sample;
pub mod world;

use std::fs::File;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use hyper::{Method, Request as HttpRequest, Response as HttpResponse, StatusCode};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::network::serve::{self, FileBody};

/// Who speaks in the log.
const COMPONENT: &str = "double";

/// No request is longer, in bytes: parts of uploads are the longest.
const MAX_REQUEST: usize = 256 << 20;

/// One request as it came.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `GET` and the like.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// In the order they came, names as they came.
    pub headers: Vec<(String, String)>,
    /// All of the body.
    pub body: Vec<u8>,
}

impl Request {
    /// Without headers and body.
    pub fn new(method: &str, target: &str) -> Self {
        Self { method: method.into(), target: target.into(), ..Self::default() }
    }

    /// With this body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// With one more header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The target without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The parameters of the query.
    pub fn query(&self) -> Vec<(String, String)> {
        let query = self.target.split_once('?').map_or("", |(_, q)| q);
        form_urlencoded::parse(query.as_bytes()).into_owned().collect()
    }

    /// The fields of a form in the body.
    pub fn form(&self) -> Vec<(String, String)> {
        form_urlencoded::parse(&self.body).into_owned().collect()
    }

    /// A field of a form in the body.
    pub fn field(&self, name: &str) -> Option<String> {
        self.form().into_iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One answer.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its headers, without those about the length of the body; of an answer to HEAD, with the length.
    pub headers: Vec<(String, String)>,
    /// Its body, unless that is a file.
    pub body: Vec<u8>,
    /// The file that is its body.
    pub file: Option<Arc<File>>,
}

impl Response {
    /// With a body of this media type.
    pub fn new(status: u16, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("Content-Type".into(), kind.into())];
        Self { status, headers, body: body.into(), file: None }
    }

    /// Without body.
    pub fn empty(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// With one more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
}

/// A double: it answers one request after another.
pub trait Double: Send + Sync + 'static {
    /// Does what is asked. May block.
    fn answer(&self, request: &Request) -> Response;

    /// Says, as its service does, that it is overloaded.
    fn busy(&self) -> Response;
}

/// Which requests go wrong: a share of all, the same ones for the same seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// How many of a million.
    pub share: u64,
    /// With another one, others do.
    pub seed: u64,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Fine,
    /// It is refused for now: 503.
    Busy,
    /// The connection ends before it is done.
    Unheard,
    /// It is done, and the connection ends in place of the answer.
    Lost,
}

impl Faults {
    fn of(self, service: u64, number: u64) -> Fate {
        // Steele, Lea, Flood: "Fast splittable pseudorandom number generators" (SplitMix64).
        let mut bits = self.seed ^ service.rotate_left(48) ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        if bits % 1_000_000 >= self.share {
            return Fate::Fine;
        }
        match (bits >> 40) % 4 {
            0 | 1 => Fate::Busy,
            2 => Fate::Unheard,
            _ => Fate::Lost,
        }
    }
}

/// A double on a port of loopback; it ends when this is dropped.
pub struct Server {
    /// Where it is.
    pub address: SocketAddr,
    counts: Arc<Counts>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    faults: AtomicU64,
}

impl Server {
    /// Serves a double. `number`: which one of several it is, so that not the same requests go wrong at all.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start(double: Arc<dyn Double>, number: u64, faults: Faults) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts::default());
        let own = counts.clone();
        let answer = move |request: HttpRequest<Bytes>| {
            let (double, counts) = (double.clone(), own.clone());
            async move {
                let fate = faults.of(number, counts.requests.fetch_add(1, Ordering::Relaxed));
                if fate != Fate::Fine {
                    counts.faults.fetch_add(1, Ordering::Relaxed);
                }
                let is_head = request.method() == Method::HEAD;
                let answered = tokio::task::spawn_blocking(move || match fate {
                    Fate::Unheard => None,
                    Fate::Busy => Some(double.busy()),
                    Fate::Fine => Some(double.answer(&received(request))),
                    Fate::Lost => {
                        double.answer(&received(request));
                        None
                    }
                });
                answered.await.ok().flatten().and_then(|response| sent(response, is_head))
            }
        };
        let serving = serve::http_or_end(listener, COMPONENT, MAX_REQUEST, answer);
        let task = AbortOnDropHandle::new(tokio::spawn(serving));
        Ok(Self { address, counts, _task: task })
    }

    /// Its address as clients take it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How often it was asked, and how often that went wrong.
    pub fn counts(&self) -> (u64, u64) {
        (self.counts.requests.load(Ordering::Relaxed), self.counts.faults.load(Ordering::Relaxed))
    }
}

fn received(request: HttpRequest<Bytes>) -> Request {
    let (head, body) = request.into_parts();
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = head.headers.iter().map(|(n, v)| (n.as_str().to_owned(), text(v))).collect();
    Request { method: head.method.to_string(), target: head.uri.to_string(), headers, body: body.to_vec() }
}

/// The answer as it is sent; `None`: it is none.
fn sent(response: Response, is_head: bool) -> Option<HttpResponse<FileBody>> {
    let Response { status, headers, body, file } = response;
    let length = match &file {
        Some(file) => file.metadata().ok()?.len(),
        None => body.len() as u64,
    };
    let body = match file {
        Some(file) if !is_head => serve::file_body(file, 0, length),
        _ => Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync(),
    };
    let mut answer = HttpResponse::new(body);
    *answer.status_mut() = StatusCode::from_u16(status).ok()?;
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        answer.headers_mut().append(name, HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    if !answer.headers().contains_key(CONTENT_LENGTH) && status != 204 {
        answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Some(answer)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one call that cannot leave half of it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_all_goes_wrong_and_the_same_again() {
        let wrong = |seed: u64| -> Vec<u64> {
            let faults = Faults { share: 50_000, seed };
            (0..10_000).filter(|n| faults.of(1, *n) != Fate::Fine).collect()
        };
        assert!((350..650).contains(&wrong(1).len()), "{}", wrong(1).len());
        assert_eq!(wrong(1), wrong(1));
        assert_ne!(wrong(1), wrong(2));
        assert!((0..1000).all(|n| Faults::default().of(2, n) == Fate::Fine));
        let all = Faults { share: 1_000_000, seed: 0 };
        for fate in [Fate::Busy, Fate::Unheard, Fate::Lost] {
            assert!((0..100).any(|n| all.of(1, n) == fate), "{fate:?}");
        }
    }
}
