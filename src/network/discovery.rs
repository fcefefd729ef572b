//! What etcd members need to find each other: a small key store with the v2 API of etcd, of which it knows GET,
//! also as a long poll, and PUT.
//!
//! A cluster of size n agrees on a URL. Each member looks up `_config/size` under it, puts itself there as
//! `<id>` = `<name>=<peer URL>`, and waits until n are there.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{Error, serve};
use crate::debug;
use crate::http::{Client, Limits, Retry, shown};

const LOG: &str = "network/discovery";
const PREFIX: &str = "/v2/keys";
/// Changes remembered for those who come late; etcd's number.
const HISTORY: usize = 1000;
/// Limits that no cluster comes near, to bound memory.
const BODY: usize = 8 << 10;
const NODES: usize = 4096;

/// An answer of the store that is an error, with etcd's code and status.
struct Refusal {
    status: StatusCode,
    code: u16,
    message: &'static str,
    cause: String,
}

fn refuse(status: StatusCode, code: u16, message: &'static str, cause: &str) -> Refusal {
    Refusal { status, code, message, cause: cause.to_owned() }
}

fn missing(key: &str) -> Refusal {
    refuse(StatusCode::NOT_FOUND, 100, "Key not found", key)
}

#[derive(Clone)]
struct Node {
    /// None for a folder.
    value: Option<String>,
    created: u64,
    modified: u64,
}

impl Node {
    fn json(&self, key: &str) -> Value {
        let mut node = json!({ "key": key });
        match &self.value {
            Some(value) => node["value"] = json!(value),
            None => node["dir"] = json!(true),
        }
        node["modifiedIndex"] = json!(self.modified);
        node["createdIndex"] = json!(self.created);
        node
    }
}

struct Event {
    index: u64,
    key: String,
    answer: Value,
}

/// All keys, as absolute paths; the root has none.
#[derive(Default)]
struct Store {
    index: u64,
    nodes: BTreeMap<String, Node>,
    events: VecDeque<Event>,
}

/// Whether a part of `key` below `folder` is hidden from listings and watchers.
fn hidden(folder: &str, key: &str) -> bool {
    key.strip_prefix(folder).is_some_and(|rest| rest.contains("/_"))
}

fn below(folder: &str, key: &str) -> bool {
    key.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

impl Store {
    fn get(&self, key: &str) -> Result<Value, Refusal> {
        let root = Node { value: None, created: 0, modified: 0 };
        let found = if key.is_empty() { Some(&root) } else { self.nodes.get(key) };
        let node = found.ok_or_else(|| missing(key))?;
        let mut answer = node.json(key);
        let mut inside: Vec<_> = self
            .nodes
            .iter()
            .filter(|(name, _)| {
                below(key, name) && !name[key.len() + 1..].contains('/') && !hidden(key, name)
            })
            .collect();
        if !inside.is_empty() {
            inside.sort_by_key(|(_, node)| node.created);
            answer["nodes"] = inside.into_iter().map(|(name, node)| node.json(name)).collect();
        }
        Ok(json!({ "action": "get", "node": answer }))
    }

    /// Sets a value. `exists` is what the client expects of the key.
    fn put(
        &mut self,
        key: &str,
        value: String,
        exists: Option<bool>,
    ) -> Result<(StatusCode, Value), Refusal> {
        let old = self.nodes.get(key).cloned();
        match (&old, exists) {
            (Some(_), Some(false)) => {
                return Err(refuse(StatusCode::PRECONDITION_FAILED, 105, "Key already exists", key));
            }
            (None, Some(true)) => return Err(missing(key)),
            (Some(Node { value: None, .. }), _) => {
                return Err(refuse(StatusCode::FORBIDDEN, 102, "Not a file", key));
            }
            _ => {}
        }
        if key.is_empty() {
            return Err(refuse(StatusCode::FORBIDDEN, 107, "Root is read only", "/"));
        }
        let folders: Vec<&str> =
            key.match_indices('/').map(|(at, _)| &key[..at]).filter(|folder| !folder.is_empty()).collect();
        for &folder in &folders {
            if self.nodes.get(folder).is_some_and(|node| node.value.is_some()) {
                return Err(refuse(StatusCode::BAD_REQUEST, 104, "Not a directory", folder));
            }
        }
        if self.nodes.len() + folders.len() >= NODES {
            return Err(refuse(StatusCode::INSUFFICIENT_STORAGE, 300, "Too many keys", key));
        }
        self.index += 1;
        let index = self.index;
        for folder in folders {
            let made = Node { value: None, created: index, modified: index };
            self.nodes.entry(folder.to_owned()).or_insert(made);
        }
        let node = Node { value: Some(value), created: index, modified: index };
        let action = match exists {
            Some(false) => "create",
            Some(true) => "update",
            None => "set",
        };
        let mut answer = json!({ "action": action, "node": node.json(key) });
        if let Some(old) = &old {
            answer["prevNode"] = old.json(key);
        }
        self.nodes.insert(key.to_owned(), node);
        self.events.push_back(Event { index, key: key.to_owned(), answer: answer.clone() });
        if self.events.len() > HISTORY {
            self.events.pop_front();
        }
        Ok((if old.is_some() { StatusCode::OK } else { StatusCode::CREATED }, answer))
    }

    /// The first change of `key`, or also below it, that has this index or a later one.
    fn event(&self, key: &str, since: u64, recursive: bool) -> Result<Option<Value>, Refusal> {
        if self.events.front().is_some_and(|oldest| since < oldest.index && oldest.index > 1) {
            let message = "The event in requested index is outdated and cleared";
            return Err(refuse(StatusCode::BAD_REQUEST, 401, message, key));
        }
        let concerns = |name: &str| name == key || recursive && below(key, name) && !hidden(key, name);
        let found = self.events.iter().find(|event| event.index >= since && concerns(&event.key));
        Ok(found.map(|event| event.answer.clone()))
    }
}

/// The discovery service that etcd's makers keep for everybody.
const PUBLIC: &str = "https://discovery.etcd.io";
/// Variable with another one.
pub const VARIABLE: &str = "MANTLE_DISCOVERY_URL";

/// A URL at which a cluster of `size` etcd members can find each other, from the service that `$MANTLE_DISCOVERY_URL`
/// names, else from etcd's own on the Internet: for machines that do not reach a [`Server`] of this process.
///
/// # Errors
/// When it cannot be reached, refuses, or answers with something else.
pub async fn public_url(size: usize) -> Result<String, Error> {
    let named = std::env::var(VARIABLE).ok().filter(|v| !v.is_empty());
    url_from(named.as_deref().unwrap_or(PUBLIC), size, Retry::from_environment()).await
}

async fn url_from(service: &str, size: usize, retry: Retry) -> Result<String, Error> {
    let text = format!("{}/new?size={size}", service.trim_end_matches('/'));
    let url: reqwest::Url = text.parse().map_err(|_| Error::NoUrl(format!("${VARIABLE}")))?;
    let failed = |source| Error::Discovery { url: shown(&url), source: Box::new(source) };
    let client = Client::new(Limits::from_environment(), retry).map_err(failed)?;
    let ask = |client: &Client| client.request(Method::GET, url.clone());
    let answer = client.call(LOG, &[], ask).await.map_err(failed)?;
    let body = String::from_utf8_lossy(&answer.body).trim().to_owned();
    match body.parse::<reqwest::Url>() {
        Ok(cluster) if matches!(cluster.scheme(), "http" | "https") => Ok(body),
        _ => Err(Error::NoUrl(format!("the answer of {}", shown(&url)))),
    }
}

/// A discovery service; its URLs are good for as long as [`Server::serve`] runs.
pub struct Server {
    base: String,
    store: Mutex<Store>,
    /// The index of the newest change.
    changed: watch::Sender<u64>,
}

impl Server {
    /// An empty service that clients reach at this address.
    pub fn new(address: SocketAddr) -> Self {
        let base = format!("http://{address}{PREFIX}");
        Self { base, store: Mutex::default(), changed: watch::Sender::new(0) }
    }

    /// Opens the discovery of a cluster of `size` members and returns its URL, which nobody can guess.
    ///
    /// # Errors
    /// [`Error::StoreFull`] after thousands of keys.
    pub fn new_url(&self, size: usize) -> Result<String, Error> {
        let (_, id) = uuid::Uuid::new_v4().as_u64_pair();
        let key = format!("/discovery/{id}");
        self.put(&format!("{key}/_config/size"), size.to_string(), None).map_err(|_| Error::StoreFull)?;
        Ok(format!("{}{key}", self.base))
    }

    /// Serves clients until the task is aborted.
    pub async fn serve(self: std::sync::Arc<Self>, listener: TcpListener) {
        let answer = move |request| {
            let server = self.clone();
            async move { server.answer(request).await }
        };
        serve::http(listener, LOG, BODY, answer).await;
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        // A change is checked in full before it is made, and making it cannot panic.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, key: &str, value: String, exists: Option<bool>) -> Result<(StatusCode, Value), Refusal> {
        let mut store = self.store();
        let done = store.put(key, value, exists);
        self.changed.send_replace(store.index);
        done
    }

    async fn answer(&self, request: Request<Bytes>) -> Response<Full<Bytes>> {
        let index = self.store().index;
        let path = request.uri().path();
        debug!(LOG, "{} {}", request.method(), request.uri());
        let key = path.strip_prefix(PREFIX).filter(|key| key.is_empty() || key.starts_with('/'));
        let Some(key) = key.map(|key| key.trim_end_matches('/')) else {
            return respond(StatusCode::NOT_FOUND, index, &json!({ "message": "Not Found" }));
        };
        let query: BTreeMap<_, _> =
            form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).collect();
        let flag = |name: &str| query.get(name).is_some_and(|value| value == "true");

        let done = match *request.method() {
            Method::GET if flag("wait") => {
                let since = match query.get("waitIndex").map(|text| text.parse::<u64>()) {
                    None | Some(Ok(0)) => Ok(index + 1),
                    Some(Ok(since)) => Ok(since),
                    Some(Err(_)) => Err(refuse(
                        StatusCode::BAD_REQUEST,
                        203,
                        "The given index in POST form is not a number",
                        "waitIndex",
                    )),
                };
                match since {
                    Ok(since) => self.wait(key, since, flag("recursive")).await,
                    Err(e) => Err(e),
                }
                .map(|answer| (StatusCode::OK, answer))
            }
            Method::GET => self.store().get(key).map(|answer| (StatusCode::OK, answer)),
            Method::PUT => {
                let form: BTreeMap<_, _> = form_urlencoded::parse(request.body()).collect();
                let field =
                    |name: &str| form.get(name).or_else(|| query.get(name)).map(|value| value.as_ref());
                let exists = field("prevExist").map(|value| value == "true");
                self.put(key, field("value").unwrap_or_default().to_owned(), exists)
            }
            _ => {
                let mut answer = respond(
                    StatusCode::METHOD_NOT_ALLOWED,
                    index,
                    &json!({ "message": "Method Not Allowed" }),
                );
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, PUT"));
                return answer;
            }
        };
        match done {
            Ok((status, answer)) => respond(status, index, &answer),
            Err(e) => {
                let body =
                    json!({ "errorCode": e.code, "message": e.message, "cause": e.cause, "index": index });
                respond(e.status, index, &body)
            }
        }
    }

    async fn wait(&self, key: &str, since: u64, recursive: bool) -> Result<Value, Refusal> {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(event) = self.store().event(key, since, recursive)? {
                return Ok(event);
            }
            // The sender is in `self`, so this cannot fail.
            let _ = changed.changed().await;
        }
    }
}

fn respond(status: StatusCode, index: u64, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{body}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("X-Etcd-Index", HeaderValue::from(index));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    #[tokio::test]
    async fn the_services_of_others_are_asked_again_and_not_believed_everything() {
        use crate::http::fake::Fake;
        let retry = || Retry { first: Duration::ZERO, ..Retry::default() };
        let ask = async |says: &'static [(u16, &'static str)]| {
            let mut says = says.iter();
            let fake = Fake::start(move |_| says.next().map(|(s, b)| (*s, (*b).into())).unwrap()).await;
            let got = url_from(&fake.url, 3, retry()).await;
            (got.map_err(|e| e.to_string()), fake)
        };
        let (got, fake) = ask(&[(503, ""), (200, "https://discovery.example/abc\n")]).await;
        assert_eq!(got.unwrap(), "https://discovery.example/abc");
        assert!(
            fake.journal().iter().all(|a| a.path == "/new" && a.get("size") == "3"),
            "{:?}",
            fake.journal()
        );
        let (got, _fake) = ask(&[(200, "no $(url)")]).await;
        let said = got.unwrap_err();
        assert!(
            said.starts_with("the answer of http://127.0.0.1:") && said.ends_with(" is no URL"),
            "{said}"
        );
        let (got, _fake) = ask(&[(404, "")]).await;
        assert!(got.unwrap_err().starts_with("cannot get a cluster's URL from http://127.0.0.1:"));
    }

    fn server() -> (Arc<Server>, String) {
        let server = Arc::new(Server::new(([10, 0, 0, 1], 4001).into()));
        let url = server.new_url(2).unwrap();
        let path = url.strip_prefix("http://10.0.0.1:4001").unwrap().to_owned();
        assert!(path.strip_prefix("/v2/keys/discovery/").unwrap().parse::<u64>().is_ok(), "{path}");
        (server, path)
    }

    async fn ask(server: &Server, method: Method, path: &str, body: &str) -> (u16, u64, Value) {
        let request = Request::builder().method(method).uri(path).body(Bytes::from(body.to_owned())).unwrap();
        let response = server.answer(request).await;
        let (status, index) =
            (response.status(), response.headers()["X-Etcd-Index"].to_str().unwrap().parse());
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        (status.as_u16(), index.unwrap(), serde_json::from_slice(&body).unwrap())
    }

    async fn get(server: &Server, path: &str) -> (u16, u64, Value) {
        ask(server, Method::GET, path, "").await
    }

    async fn register(server: &Server, url: &str, id: &str, value: &str) -> (u16, u64, Value) {
        ask(server, Method::PUT, &format!("{url}/{id}?prevExist=false"), &format!("value={value}")).await
    }

    #[tokio::test]
    async fn two_members_find_each_other() {
        let (server, url) = server();
        let key = url.strip_prefix(PREFIX).unwrap();
        let flags = "quorum=false&recursive=false&sorted=false";
        let (status, index, size) = get(&server, &format!("{url}/_config/size?{flags}")).await;
        assert_eq!((status, index), (200, 1));
        let node = json!({ "key": format!("{key}/_config/size"), "value": "2", "modifiedIndex": 1, "createdIndex": 1 });
        assert_eq!(size, json!({ "action": "get", "node": node }));

        let (status, _, folder) = get(&server, &format!("{url}?{flags}")).await;
        assert_eq!((status, &folder["node"]["dir"], folder["node"].get("nodes")), (200, &json!(true), None));

        let (status, index, made) = register(&server, &url, "b2", "one%3Dhttp%3A%2F%2F10.0.0.2%3A2380").await;
        assert_eq!((status, index, &made["action"]), (201, 1, &json!("create")));
        assert_eq!(made["node"]["value"], "one=http://10.0.0.2:2380");
        let (status, _, taken) = register(&server, &url, "b2", "two").await;
        assert_eq!((status, &taken["errorCode"]), (412, &json!(105)));

        // Past events are kept; future ones are waited for.
        let (status, _, event) = get(&server, &format!("{url}/b2?wait=true&waitIndex=2")).await;
        assert_eq!((status, event), (200, made));
        let waiting = {
            let (server, url) = (server.clone(), url.clone());
            tokio::spawn(
                async move { get(&server, &format!("{url}?recursive=true&wait=true&waitIndex=3")).await },
            )
        };
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        // Hidden and foreign keys do not wake it.
        ask(&server, Method::PUT, &format!("{url}/_config/x"), "value=1").await;
        ask(&server, Method::PUT, "/v2/keys/discovery/other", "value=1").await;
        let (_, _, second) = register(&server, &url, "a1", "two%3Dhttp").await;
        let (status, index, event) =
            tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap().unwrap();
        assert_eq!((status, index, event), (200, 2, second));

        let (_, _, folder) = get(&server, &url).await;
        let names: Vec<_> = folder["node"]["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n["value"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["one=http://10.0.0.2:2380", "two=http"], "in the order they came");
    }

    #[tokio::test]
    async fn refusals() {
        let (server, url) = server();
        for (method, path, status, code) in [
            (Method::GET, format!("{url}/nobody"), 404, json!(100)),
            (Method::GET, format!("{url}?wait=true&waitIndex=x"), 400, json!(203)),
            (Method::PUT, format!("{url}/nobody?prevExist=true"), 404, json!(100)),
            (Method::PUT, url.clone(), 403, json!(102)),
            (Method::PUT, format!("{url}/_config/size/x"), 400, json!(104)),
            (Method::PUT, "/v2/keys/".into(), 403, json!(107)),
            (Method::DELETE, url.clone(), 405, json!(null)),
            (Method::GET, "/v2/keysx".into(), 404, json!(null)),
            (Method::GET, "/version".into(), 404, json!(null)),
        ] {
            let (got, _, body) = ask(&server, method.clone(), &path, "value=1").await;
            assert_eq!((got, &body["errorCode"]), (status, &code), "{method} {path}: {body}");
        }
        assert_eq!(get(&server, "/v2/keys").await.0, 200);
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let (server, url) = server();
        let mut last = 0;
        for n in 0..NODES {
            last = register(&server, &url, &format!("m{n}"), "x").await.0;
        }
        assert_eq!(last, 507);
        assert!(matches!(server.new_url(2), Err(Error::StoreFull)));
        let (status, _, late) = get(&server, &format!("{url}?recursive=true&wait=true&waitIndex=5")).await;
        assert_eq!((status, &late["errorCode"]), (400, &json!(401)));
    }
}
