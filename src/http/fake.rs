//! A server on loopback whose answers a test writes, with a journal of what it was asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio_util::task::AbortOnDropHandle;

/// A request.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    /// The fields of a form, the texts at the top of JSON, and the parameters of the URL.
    pub form: BTreeMap<String, String>,
}

impl Asked {
    /// The operation of a query protocol, else method and path.
    pub fn action(&self) -> String {
        self.form.get("Action").cloned().unwrap_or_else(|| format!("{} {}", self.method, self.path))
    }

    pub fn get(&self, name: &str) -> &str {
        self.form.get(name).map_or("", String::as_str)
    }
}

/// An answer: status and body. Status 0: the connection is closed without one; 1: there is none, ever.
pub type Said = (u16, String);

/// An answer with headers.
pub type SaidMore = (u16, Vec<(&'static str, &'static str)>, String);

type Handler = Box<dyn FnMut(&Asked) -> SaidMore + Send>;

pub struct Fake {
    pub url: String,
    journal: Arc<Mutex<Vec<Asked>>>,
    _server: AbortOnDropHandle<()>,
}

impl Fake {
    pub async fn start(mut handler: impl FnMut(&Asked) -> Said + Send + 'static) -> Self {
        let handler = move |asked: &Asked| {
            let (status, body) = handler(asked);
            (status, Vec::new(), body)
        };
        Self::with_headers(handler).await
    }

    pub async fn with_headers(handler: impl FnMut(&Asked) -> SaidMore + Send + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let journal: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let handler: Arc<Mutex<Handler>> = Arc::new(Mutex::new(Box::new(handler)));
        let kept = journal.clone();
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (journal, handler) = (kept.clone(), handler.clone());
                let service = service_fn(move |request| answer(request, journal.clone(), handler.clone()));
                let http = hyper::server::conn::http1::Builder::new();
                connections.spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { url, journal, _server: AbortOnDropHandle::new(server) }
    }

    pub fn journal(&self) -> Vec<Asked> {
        self.journal.lock().unwrap().clone()
    }

    /// The operations in order.
    pub fn actions(&self) -> Vec<String> {
        self.journal().iter().map(Asked::action).collect()
    }
}

async fn answer(
    request: hyper::Request<Incoming>,
    journal: Arc<Mutex<Vec<Asked>>>,
    handler: Arc<Mutex<Handler>>,
) -> Result<hyper::Response<Full<Bytes>>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes().to_vec();
    let text = |v: &hyper::header::HeaderValue| v.to_str().unwrap_or_default().to_owned();
    let headers: BTreeMap<String, String> =
        head.headers.iter().map(|(n, v)| (n.to_string(), text(v))).collect();
    let kind = |what: &str| headers.get("content-type").is_some_and(|t| t.contains(what));
    let mut form = BTreeMap::new();
    if kind("urlencoded") {
        form.extend(form_urlencoded::parse(&body).into_owned());
    } else if kind("json")
        && let Ok(serde_json::Value::Object(json)) = serde_json::from_slice(&body)
    {
        form.extend(json.into_iter().filter_map(|(name, value)| Some((name, value.as_str()?.to_owned()))));
    }
    form.extend(form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned());
    let asked = Asked { method: head.method.to_string(), path: head.uri.path().to_owned(), form, headers };
    let (status, headers, body) = (handler.lock().unwrap())(&asked);
    journal.lock().unwrap().push(asked);
    if status == 1 {
        return std::future::pending().await;
    }
    if status == 0 {
        return Err(std::io::Error::other("lost"));
    }
    let answer = headers
        .into_iter()
        .fold(hyper::Response::builder().status(status), |answer, (name, value)| answer.header(name, value));
    Ok(answer.body(Full::new(Bytes::from(body))).unwrap())
}
