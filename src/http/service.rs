//! A service with a REST API: requests are built here, signed by the provider's [`Authorize`], and sent under the
//! discipline of [`Calls`].

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hyper::body::Bytes;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::calls::{Access, Calls, How, Lane, Open, PATIENT, Repeat};
use super::{Answer, CallError, Client, Error, Exchange, MAX_ANSWER, Reader, Upload, shown};
use crate::text::json_mistake;

/// Signs requests.
pub trait Authorize: Access {
    /// Puts the proof into a request. Headers with secrets are marked as sensitive.
    ///
    /// # Errors
    /// [`CallError::Credentials`] when the proof cannot be put there.
    fn sign(&self, proof: &Self::Proof, request: &mut reqwest::Request) -> Result<(), CallError>;
}

impl Authorize for Open {
    fn sign(&self, (): &(), _: &mut reqwest::Request) -> Result<(), CallError> {
        Ok(())
    }
}

/// The header `Authorization: Bearer TOKEN`, marked as sensitive; `None` for tokens with odd characters.
pub fn bearer(token: &crate::secret::Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// One service, as one caller sees it. Clones share connections, credentials and places.
#[derive(Debug)]
pub struct Service<A>(Arc<Inner<A>>);

#[derive(Debug)]
struct Inner<A> {
    http: Client,
    calls: Calls,
    access: A,
    read: Reader,
}

impl<A> Clone for Service<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A: Authorize> Service<A> {
    /// A service behind a client; `read` reads what its refusals say.
    pub fn new(http: Client, calls: Calls, access: A, read: Reader) -> Self {
        Self(Arc::new(Inner { http, calls, access, read }))
    }

    /// The client that calls go through.
    pub fn http(&self) -> &Client {
        &self.0.http
    }

    /// Who calls.
    pub fn access(&self) -> &A {
        &self.0.access
    }

    /// A call. `name` is the API's own, with what it is about where that helps; for errors. Calls that only read or
    /// that HTTP calls idempotent are repeated freely, others if they were not executed.
    pub fn call(&self, name: impl Into<Cow<'static, str>>, method: Method, url: Url) -> Call<'_, A> {
        let repeat = if method.is_idempotent() { Repeat::Freely } else { Repeat::IfNotExecuted };
        Call {
            service: self,
            name: name.into(),
            method,
            url,
            headers: HeaderMap::new(),
            body: Ok(Bytes::new()),
            upload: None,
            accepted: Vec::new(),
            limit: MAX_ANSWER,
            waits: Duration::ZERO,
            how: How::new(repeat),
            signed: true,
        }
    }

    /// Asks for a resource.
    pub fn get(&self, name: impl Into<Cow<'static, str>>, url: Url) -> Call<'_, A> {
        self.call(name, Method::GET, url)
    }

    /// Orders something.
    pub fn post(&self, name: impl Into<Cow<'static, str>>, url: Url) -> Call<'_, A> {
        self.call(name, Method::POST, url)
    }

    /// Makes or replaces a resource.
    pub fn put(&self, name: impl Into<Cow<'static, str>>, url: Url) -> Call<'_, A> {
        self.call(name, Method::PUT, url)
    }

    /// Removes a resource.
    pub fn delete(&self, name: impl Into<Cow<'static, str>>, url: Url) -> Call<'_, A> {
        self.call(name, Method::DELETE, url)
    }

    /// Reads all pages of a listing; `next` says where the page after one is, given that page and its own URL.
    ///
    /// # Errors
    /// Those of a call; [`CallError::Answer`] when pages lead back to earlier ones, or to another server, which must
    /// not get the credentials.
    pub async fn pages<T: DeserializeOwned>(
        &self,
        name: impl Into<Cow<'static, str>>,
        first: Url,
        next: impl Fn(&T, &Url) -> Option<Url>,
    ) -> Result<Vec<T>, CallError> {
        let (name, origin) = (name.into(), first.origin());
        let (mut pages, mut seen, mut url) = (Vec::new(), HashSet::new(), Some(first));
        while let Some(at) = url {
            if at.origin() != origin {
                let reason = format!("its next page is on another server: {}", shown(&at));
                return Err(CallError::Answer { call: name, reason });
            }
            if !seen.insert(at.clone()) {
                return Err(CallError::Answer { call: name, reason: "the same page again".into() });
            }
            let page: T = self.get(name.clone(), at.clone()).read().await?;
            url = next(&page, &at);
            pages.push(page);
        }
        Ok(pages)
    }
}

/// A call that is being put together.
#[must_use = "a call is made by `send`, `read` or `open`"]
pub struct Call<'a, A> {
    service: &'a Service<A>,
    name: Cow<'static, str>,
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Result<Bytes, String>,
    upload: Option<Upload>,
    accepted: Vec<StatusCode>,
    limit: u64,
    waits: Duration,
    how: How<'a>,
    signed: bool,
}

impl<'a, A: Authorize> Call<'a, A> {
    /// Adds a header.
    pub fn header(mut self, name: HeaderName, value: impl TryInto<HeaderValue>) -> Self {
        match value.try_into() {
            Ok(value) => drop(self.headers.insert(name, value)),
            Err(_) => self.body = Err(format!("no value for the header {name}")),
        }
        self
    }

    /// Sends these bytes.
    pub fn body(self, kind: &str, body: impl Into<Bytes>) -> Self {
        self.bytes(body).header(CONTENT_TYPE, kind)
    }

    /// Sends these bytes, without saying what they are.
    pub fn bytes(mut self, body: impl Into<Bytes>) -> Self {
        self.body = self.body.map(|_| body.into());
        self
    }

    /// Sends a value as JSON.
    pub fn json(self, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(json) => self.body("application/json", json),
            Err(e) => Self { body: Err(e.to_string()), ..self },
        }
    }

    /// Sends a content while it is made. The time that it may take is its own, see [`Upload`].
    pub fn upload(mut self, content: Upload) -> Self {
        self.waits = content.time();
        self.upload = Some(content);
        self.header(CONTENT_TYPE, "application/octet-stream")
    }

    /// Whether it may be sent again, other than by its method.
    pub fn repeat(mut self, repeat: Repeat) -> Self {
        self.how.repeat = repeat;
        self
    }

    /// It is about something that was made a moment ago: should the service say that there is no such thing, it is
    /// asked again for half a minute.
    pub fn patient(mut self) -> Self {
        self.how.patience = PATIENT;
        self
    }

    /// It carries data: it takes a place of its own kind.
    pub fn data(mut self) -> Self {
        self.how.lane = Lane::Data;
        self
    }

    /// This status is an answer, too.
    pub fn accept(mut self, status: StatusCode) -> Self {
        self.accepted.push(status);
        self
    }

    /// The longest sensible answer, in bytes.
    pub fn limit(mut self, bytes: u64) -> Self {
        self.limit = bytes;
        self
    }

    /// The service itself waits for something before it answers, so long at most.
    pub fn waits(mut self, time: Duration) -> Self {
        self.waits = time;
        self
    }

    /// Tells whether a try before the last one may have done its work, see [`How::doubt`].
    pub fn doubt(mut self, doubt: &'a AtomicBool) -> Self {
        self.how.doubt = Some(doubt);
        self
    }

    /// Not signed: the URL itself is the permission.
    pub fn unsigned(mut self) -> Self {
        self.signed = false;
        self
    }

    /// Makes the call and returns the whole answer.
    ///
    /// # Errors
    /// Any [`CallError`], after the retries.
    pub async fn send(self) -> Result<Answer, CallError> {
        let http = &self.service.0.http;
        self.run(|request| http.exchange(request, self.exchange())).await
    }

    /// Makes the call and returns the answer with its body yet to come, see [`Client::body`].
    ///
    /// # Errors
    /// As [`Call::send`].
    pub async fn open(self) -> Result<Response, CallError> {
        let http = &self.service.0.http;
        self.run(|request| http.open(request, self.exchange())).await
    }

    /// Makes the call and reads the answer as JSON.
    ///
    /// # Errors
    /// As [`Call::send`]; [`CallError::Answer`].
    pub async fn read<T: DeserializeOwned>(mut self) -> Result<T, CallError> {
        if !self.headers.contains_key(ACCEPT) {
            self.headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        }
        let name = self.name.clone();
        let answer = self.send().await?;
        serde_json::from_slice(&answer.body)
            .map_err(|e| CallError::Answer { call: name, reason: json_mistake(&e) })
    }

    fn exchange(&self) -> Exchange<'_> {
        let read = self.service.0.read;
        let Self { name, accepted, limit, waits, .. } = self;
        Exchange { call: name, accepted, limit: *limit, waits: *waits, read, confided: &[] }
    }

    fn request(&self) -> Result<reqwest::Request, CallError> {
        let wrong = |reason: &String| CallError::setup(format!("{} cannot be sent: {reason}", self.name));
        let mut request = reqwest::Request::new(self.method.clone(), self.url.clone());
        *request.headers_mut() = self.headers.clone();
        let body = self.body.as_ref().map_err(wrong)?;
        if let Some(content) = &self.upload {
            if let Some(length) = content.length() {
                request.headers_mut().insert(CONTENT_LENGTH, length.into());
            }
            *request.body_mut() = Some(content.body());
            return Ok(request);
        }
        if !body.is_empty() {
            *request.body_mut() = Some(body.clone().into());
        } else if matches!(self.method, Method::POST | Method::PUT | Method::PATCH) {
            // Servers want the length of what may have a body, even if that is 0; the client would leave it out.
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        Ok(request)
    }

    async fn run<T, F>(&self, once: impl Fn(reqwest::Request) -> F) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        let Inner { calls, access, http, .. } = &*self.service.0;
        let once = |request: Result<reqwest::Request, CallError>| {
            let sent = request.map(&once);
            async move {
                let Some(content) = &self.upload else { return sent?.await };
                let limit = http.limits.idle;
                tokio::select! {
                    done = sent? => done,
                    () = content.stalled(limit) => {
                        let source = Error::Stalled { url: shown(&self.url), limit };
                        Err(CallError::Transport { call: self.name.clone(), source })
                    }
                }
            }
        };
        let signed = |proof: &A::Proof| {
            let mut request = self.request()?;
            access.sign(proof, &mut request)?;
            Ok(request)
        };
        match self.signed {
            true => calls.run(access, self.how, |proof| once(signed(proof))).await,
            false => calls.run(&Open, self.how, |()| once(self.request())).await,
        }
    }
}
