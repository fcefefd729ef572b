//! The server: everybody who asks for an update gets the files it was given.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HOST, HeaderValue, IF_RANGE, RANGE,
};
use hyper::{Method, Request as HttpRequest, Response as HttpResponse, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::files::{self, Body, Served};
use super::protocol::PROTOCOL;
use super::{
    Action, Actions, AppStatus, DayStart, Error, Event, MAX_DOCUMENT, Manifest, Packages, Ping, Request,
    RequestApp, Response, ResponseApp, ResponseUpdateCheck, Status, UpdateStatus, Url, Urls,
};
use crate::network::serve;
use crate::{debug, info};

const LOG: &str = "omaha";
const UPDATE: &str = "/v1/update";
const PACKAGES: &str = "/packages/";
/// The name that upstream's server gave itself; clients may look at it.
const NAME: &str = "go-omaha";
/// What is remembered of clients, at most: a guest that asks without end must not fill the memory.
const REMEMBERED: usize = 10_000;

/// What a client asked or told, in the order of arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A sign of life.
    Ping {
        /// The application.
        app: String,
        /// The version that is installed.
        version: String,
        /// What it said.
        ping: Ping,
    },
    /// The question for an update.
    UpdateCheck {
        /// The application.
        app: String,
        /// The version that is installed.
        version: String,
        /// The answer.
        answer: UpdateStatus,
    },
    /// Something has happened.
    Event {
        /// The application.
        app: String,
        /// The version that is installed.
        version: String,
        /// What it said.
        event: Event,
    },
    /// A file was asked for.
    Download {
        /// Its name.
        package: String,
    },
}

/// What is said to an application of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The update, if there are packages.
    Offer,
    /// No update, with the reason.
    Withhold(UpdateStatus),
    /// Nothing about it.
    Refuse(AppStatus),
}

type Policy = Box<dyn Fn(&RequestApp) -> Verdict + Send + Sync>;

/// An Omaha server. It knows no versions: whatever was added last is the update for every application and board.
pub struct Server {
    packages: Mutex<Vec<Served>>,
    policy: Mutex<Policy>,
    /// What was remembered, and how much was forgotten before it.
    seen: Mutex<(usize, VecDeque<Seen>)>,
    /// How much was ever seen.
    count: watch::Sender<usize>,
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one call that cannot leave half of it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// A server that has no update.
    pub fn new() -> Self {
        Self {
            packages: Mutex::default(),
            policy: Mutex::new(Box::new(|_| Verdict::Offer)),
            seen: Mutex::default(),
            count: watch::Sender::new(0),
        }
    }

    /// Offers a file under a name; the first one is the payload of the update. Takes the place of one of that name.
    ///
    /// # Errors
    /// [`Error::Name`] and [`Error::File`].
    pub async fn add_package(&self, file: &Path, name: &str) -> Result<(), Error> {
        let (path, owned) = (file.to_owned(), name.to_owned());
        let opened = tokio::task::spawn_blocking(move || Served::open(&path, &owned)).await;
        let failed = |e| Error::File { path: file.to_owned(), source: std::io::Error::other(e) };
        let served = opened.map_err(failed)??;
        let mut packages = lock(&self.packages);
        match packages.iter_mut().find(|p| p.package.name == name) {
            Some(there) => *there = served,
            None => packages.push(served),
        }
        Ok(())
    }

    /// Decides from now on what each application of a request is told; without it everybody is offered the update.
    pub fn set_policy(&self, policy: impl Fn(&RequestApp) -> Verdict + Send + Sync + 'static) {
        *lock(&self.policy) = Box::new(policy);
    }

    /// What clients asked and told so far; of very much, the latest.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).1.iter().cloned().collect()
    }

    /// The first thing that clients asked or told that is as wished, waiting for it. To be dropped when it takes too
    /// long.
    pub async fn wait_for(&self, wanted: impl Fn(&Seen) -> bool) -> Seen {
        let mut count = self.count.subscribe();
        let mut looked_at = 0;
        loop {
            {
                let seen = lock(&self.seen);
                let (forgotten, kept) = &*seen;
                if let Some(found) =
                    kept.iter().skip(looked_at - forgotten.min(&looked_at)).find(|s| wanted(s))
                {
                    return found.clone();
                }
                looked_at = forgotten + kept.len();
            }
            // The sender is in `self`, so this cannot fail.
            let _ = count.changed().await;
        }
    }

    fn remember(&self, what: Seen) {
        info!(LOG, "{what:?}");
        let mut seen = lock(&self.seen);
        seen.1.push_back(what);
        if seen.1.len() > REMEMBERED {
            seen.1.pop_front();
            seen.0 += 1;
        }
        let count = seen.0 + seen.1.len();
        drop(seen);
        self.count.send_replace(count);
    }

    /// Serves clients until the task is aborted.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let own = listener.local_addr().ok();
        let answer = move |request| {
            let server = self.clone();
            async move { server.answer(&request, own) }
        };
        serve::http(listener, LOG, MAX_DOCUMENT, answer).await;
    }

    fn answer(&self, request: &HttpRequest<Bytes>, own: Option<SocketAddr>) -> HttpResponse<Body> {
        debug!(LOG, "{} {}", request.method(), request.uri());
        let path = request.uri().path();
        if path.strip_prefix(UPDATE).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            return self.update(request, own);
        }
        match path.strip_prefix(PACKAGES) {
            Some(name) => self.package(request, name),
            None => text(StatusCode::NOT_FOUND, "Not Found"),
        }
    }

    /// One request of the protocol.
    fn update(&self, request: &HttpRequest<Bytes>, own: Option<SocketAddr>) -> HttpResponse<Body> {
        if request.method() != Method::POST {
            return text(StatusCode::BAD_REQUEST, "Expected a POST");
        }
        let asked = match Request::parse(request.body()) {
            Ok(asked) if is_xml(request.headers().get(CONTENT_TYPE)) => asked,
            Ok(_) => return text(StatusCode::BAD_REQUEST, "Bad Omaha Request"),
            Err(e) => {
                info!(LOG, "a bad request: {e}");
                return text(StatusCode::BAD_REQUEST, "Bad Omaha Request");
            }
        };
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
        let host = host.or_else(|| own.map(|address| address.to_string())).unwrap_or_default();
        let apps: Vec<ResponseApp> = asked.apps.iter().map(|app| self.app(app, &host)).collect();
        let all = |status| apps.iter().any(|app| app.status == status);
        let status = match () {
            () if all(AppStatus::Ok) => StatusCode::OK,
            () if all(AppStatus::Internal) => StatusCode::INTERNAL_SERVER_ERROR,
            () => StatusCode::BAD_REQUEST,
        };
        let response =
            Response { protocol: PROTOCOL.into(), server: NAME.into(), day_start: DayStart::default(), apps };
        match response.to_xml() {
            Ok(document) => respond(status, "text/xml; charset=utf-8", document),
            Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
        }
    }

    fn app(&self, asked: &RequestApp, host: &str) -> ResponseApp {
        let mut answer = ResponseApp { id: asked.id.clone(), ..ResponseApp::default() };
        let verdict = lock(&self.policy)(asked);
        if let Verdict::Refuse(status) = verdict {
            answer.status = status;
            return answer;
        }
        let (app, version) = (&asked.id, &asked.version);
        if let Some(ping) = &asked.ping {
            answer.ping = Some(Status::ok());
            self.remember(Seen::Ping { app: app.clone(), version: version.clone(), ping: ping.clone() });
        }
        if asked.update_check.is_some() {
            let check = match verdict {
                Verdict::Withhold(status) => ResponseUpdateCheck { status, ..Default::default() },
                _ => self.offer(host),
            };
            let answer_status = check.status;
            answer.update_check = Some(check);
            self.remember(Seen::UpdateCheck {
                app: app.clone(),
                version: version.clone(),
                answer: answer_status,
            });
        }
        for event in &asked.events {
            answer.events.push(Status::ok());
            self.remember(Seen::Event { app: app.clone(), version: version.clone(), event: event.clone() });
        }
        answer
    }

    fn offer(&self, host: &str) -> ResponseUpdateCheck {
        let packages: Vec<_> = lock(&self.packages).iter().map(|p| p.package.clone()).collect();
        let Some(payload) = packages.first() else { return ResponseUpdateCheck::default() };
        let action = Action {
            event: "postinstall".into(),
            sha256: payload.sha256.clone().unwrap_or_default(),
            disable_backoff: true,
            ..Action::default()
        };
        let place = Url { code_base: format!("http://{host}{PACKAGES}") };
        ResponseUpdateCheck {
            status: UpdateStatus::Ok,
            urls: Some(Urls { urls: vec![place] }),
            manifest: Some(Manifest {
                version: String::new(),
                packages: Packages { packages },
                actions: Actions { actions: vec![action] },
            }),
        }
    }

    /// A file or a part of it.
    fn package(&self, request: &HttpRequest<Bytes>, name: &str) -> HttpResponse<Body> {
        let found = lock(&self.packages).iter().find(|p| p.package.name == name).cloned();
        let Some(served) = found else { return text(StatusCode::NOT_FOUND, "Not Found") };
        let head = request.method() == Method::HEAD;
        if !head && request.method() != Method::GET {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let size = served.package.size;
        // Nothing here says which version of a file a client has a part of.
        let wished = request.headers().get(RANGE).filter(|_| !request.headers().contains_key(IF_RANGE));
        let part = files::range(wished.and_then(|r| r.to_str().ok()).unwrap_or_default(), size);
        let Ok(part) = part else {
            let mut answer = text(StatusCode::RANGE_NOT_SATISFIABLE, "no such part");
            set(&mut answer, CONTENT_RANGE, &format!("bytes */{size}"));
            return answer;
        };
        if !head {
            self.remember(Seen::Download { package: name.to_owned() });
        }
        let (from, to) = part.unwrap_or((0, size));
        let body = if head { served.body(0, 0) } else { served.body(from, to) };
        let mut answer = HttpResponse::new(body);
        if part.is_some() {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            set(&mut answer, CONTENT_RANGE, &format!("bytes {from}-{}/{size}", to - 1));
        }
        set(&mut answer, CONTENT_TYPE, "application/octet-stream");
        set(&mut answer, ACCEPT_RANGES, "bytes");
        set(&mut answer, CONTENT_LENGTH, &(to - from).to_string());
        answer
    }
}

fn set(answer: &mut HttpResponse<Body>, name: hyper::header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

fn respond(status: StatusCode, kind: &str, body: impl Into<Bytes>) -> HttpResponse<Body> {
    let whole = Full::new(body.into()).map_err(|never| match never {});
    let mut answer = HttpResponse::new(whole.boxed_unsync());
    *answer.status_mut() = status;
    set(&mut answer, CONTENT_TYPE, kind);
    answer
}

fn text(status: StatusCode, words: impl std::fmt::Display) -> HttpResponse<Body> {
    respond(status, "text/plain; charset=utf-8", format!("{words}\n"))
}

/// Whether the body is said to be XML in UTF-8, or not said to be anything.
fn is_xml(content_type: Option<&HeaderValue>) -> bool {
    let Some(value) = content_type else { return true };
    let mut parts = value.to_str().unwrap_or("?").split(';').map(|part| part.trim().to_ascii_lowercase());
    let kind = parts.next().unwrap_or_default();
    let charset = parts.find_map(|p| p.strip_prefix("charset=").map(|c| c.trim_matches('"').to_owned()));
    let xml = matches!(kind.as_str(), "" | "text/xml" | "application/xml");
    xml && charset.is_none_or(|charset| matches!(charset.as_str(), "" | "utf-8"))
}

/// A server that runs: it ends with this value.
pub struct Running {
    /// The server, to add packages and ask what it saw.
    pub server: Arc<Server>,
    /// Where clients reach it.
    pub address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Running {
    /// Starts a server on a socket that listens.
    ///
    /// # Errors
    /// When the socket has no address.
    pub fn start(listener: TcpListener) -> std::io::Result<Self> {
        let (server, address) = (Arc::new(Server::new()), listener.local_addr()?);
        let task = AbortOnDropHandle::new(tokio::spawn(server.clone().serve(listener)));
        Ok(Self { server, address, _task: task })
    }

    /// The URL for `SERVER=` in a client's `update.conf`.
    pub fn url(&self) -> String {
        format!("http://{}{UPDATE}/", self.address)
    }
}

#[cfg(test)]
mod tests;
