//! HTTP as all of mantle's clients speak it: one builder, a limit on every wait, one layer of retries.
//!
//! URLs in messages are [`shown`] without user names, passwords, queries and fragments: those hold secrets.

mod call;
mod calls;
#[cfg(test)]
pub(crate) mod fake;
mod identity;
pub mod mask;
mod pinned;
pub mod proxy;
mod renewing;
pub(crate) mod retry;
mod service;
#[cfg(test)]
mod tests;
mod trust;
mod upload;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Method, Request, RequestBuilder, Response, StatusCode, Url};

pub use call::{CallError, Cause, Class, Reader, Refusal, Refused};
pub use calls::{Access, Calls, How, Lane, Open, PATIENT, Repeat};
#[cfg(test)]
pub(crate) use identity::tests::certificate as identity_for_tests;
pub use identity::{Identity, Unfit};
pub use pinned::{Pinned, Unpinned};
pub use proxy::{ENVIRONMENT, Proxies};
pub use renewing::{Expires, Renewing};
pub use retry::{Budget, Retry, Transient};
pub use service::{Authorize, Call, Service, bearer};
pub use trust::Unusable;
pub use upload::{Pieces, Upload};

use crate::secret::Secret;

/// How long the client waits for what.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For the headers of an answer, and for each [`TRICKLE`] bytes of its body.
    pub idle: Duration,
}

impl Limits {
    /// The default, multiplied by the environment's `MANTLE_POLL_SCALE`; for tests.
    pub fn from_environment() -> Self {
        let Self { connect, idle } = Self::default();
        Self { connect: connect.mul_f64(retry::scale()), idle: idle.mul_f64(retry::scale()) }
    }

    /// The default, multiplied, but not below what a whole service needs to answer: tests that shorten waits do not
    /// make it faster.
    pub fn of_service(scale: f64) -> Self {
        let Self { connect, idle } = Self::default();
        Self {
            connect: connect.mul_f64(scale).max(Duration::from_secs(3)),
            idle: idle.mul_f64(scale).max(Duration::from_secs(5)),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { connect: Duration::from_secs(20), idle: Duration::from_secs(40) }
    }
}

/// Fewer bytes than this within the idle limit are as good as none.
pub const TRICKLE: u64 = 1 << 10;

/// An upload slower than this, in bytes per second, is as good as none.
const SLOWEST_UPLOAD: f64 = 32.0 * 1024.0;

/// Answers to API calls are not longer than this; a page of 1000 object descriptions is about 1 MiB.
const MAX_ANSWER: u64 = 16 << 20;

/// No more than this is read of a refusal, in bytes.
const MAX_REFUSAL: usize = 1 << 20;

/// What can go wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client could not be set up.
    #[error("cannot set up the HTTP client")]
    Setup(#[source] reqwest::Error),
    /// The server could not be reached, or the connection broke.
    #[error("no answer from {url}")]
    Transport {
        /// Where to, as shown.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// A variable names no proxy.
    #[error(transparent)]
    Proxy(#[from] proxy::Malformed),
    /// A variable names certificates that cannot be used.
    #[error(transparent)]
    Roots(#[from] trust::Unusable),
    /// The server, or the proxy on the way to it, could not be reached.
    #[error("no answer from {url} through {proxy}")]
    Proxied {
        /// Where to, as shown.
        url: String,
        /// Through which proxy, and the variable that names it.
        proxy: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The proxy wants a user and a password, or others.
    #[error("{proxy} refuses to ask {url}: it wants a name and a password, or other ones (status 407)")]
    ProxyLogin {
        /// Where to, as shown.
        url: String,
        /// Which proxy, and the variable that names it.
        proxy: String,
    },
    /// The server's certificate is by nobody who is trusted, or not for it.
    #[error("the certificate of {url} is not trusted: {reason}")]
    Untrusted {
        /// Where to, as shown.
        url: String,
        /// What OpenSSL says, in words, and whose certificates are trusted; the proxy, if through one.
        reason: String,
    },
    /// The server was silent for too long.
    #[error("{url} sent nothing for {} s", .limit.as_secs_f32())]
    Stalled {
        /// Where to, as shown.
        url: String,
        /// The time allowed.
        limit: Duration,
    },
    /// The server refused.
    #[error("{url}: {status}{}", .reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default())]
    Status {
        /// Where to, as shown.
        url: String,
        /// The status of the answer.
        status: StatusCode,
        /// What the server said, if it was short text.
        reason: Option<String>,
        /// How long the server asked to wait.
        retry_after: Option<Duration>,
    },
    /// The answer is longer than any sensible one.
    #[error("the answer of {url} is longer than {limit} bytes")]
    TooLong {
        /// Where to, as shown.
        url: String,
        /// The limit, in bytes.
        limit: u64,
    },
}

impl Error {
    /// The status, if the server answered with a failure.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}

impl Transient for Error {
    fn is_transient(&self) -> bool {
        match self {
            Self::Transport { source, .. } | Self::Proxied { source, .. } => !is_permanent(source),
            Self::Stalled { .. } => true,
            Self::Status { status, .. } => {
                matches!(Class::of_status(status.as_u16()), Class::Throttled | Class::Trouble)
            }
            Self::Setup(_)
            | Self::Proxy(_)
            | Self::Roots(_)
            | Self::ProxyLogin { .. }
            | Self::Untrusted { .. }
            | Self::TooLong { .. } => false,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Whether trying again would fail the same way: a refused certificate, a name that does not exist, nonsense
/// in place of HTTP, too many redirects.
fn is_permanent(error: &reqwest::Error) -> bool {
    if error.is_builder() || error.is_redirect() {
        return true;
    }
    let mut cause = std::error::Error::source(error);
    while let Some(e) = cause {
        if e.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            return true;
        }
        // Neither has a type of its own: the first is OpenSSL's, the second the standard library's text.
        let text = e.to_string();
        if text.contains("certificate verify failed")
            || text.contains("failed to lookup address") && !text.contains("Temporary failure")
        {
            return true;
        }
        cause = e.source();
    }
    false
}

/// What a client may do besides what all do.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Never use a proxy.
    pub direct: bool,
    /// Follow redirects. Clients that sign their requests must not: the signature covers the host.
    pub redirects: bool,
    /// Certificates in PEM that replace the system's trust roots.
    pub roots: Option<Vec<u8>>,
    /// Who the client is, for servers that ask for a certificate.
    pub identity: Option<Identity>,
    /// Take any certificate. Whoever sets this tells people.
    pub insecure: bool,
    /// A socket behind which the server is, whatever URLs say, see [`Pinned`].
    pub through: Option<PathBuf>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { direct: false, redirects: true, roots: None, identity: None, insecure: false, through: None }
    }
}

/// An HTTP client. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    inner: reqwest::Client,
    limits: Limits,
    retry: Retry,
    proxies: Arc<Proxies>,
    /// Whose certificates are trusted, for messages.
    trusted: Arc<str>,
}

/// A complete answer of moderate length.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status; a success unless the caller accepted others.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Vec<u8>,
}

impl Client {
    /// A client that heeds the proxy variables of the environment.
    ///
    /// # Errors
    /// When the TLS library cannot be set up.
    pub fn new(limits: Limits, retry: Retry) -> Result<Self, Error> {
        Self::build(limits, retry, &Setup::default())
    }

    /// A client with settings of its own.
    ///
    /// # Errors
    /// As [`Client::new`]; also when the trust roots are no certificates.
    pub fn with(limits: Limits, retry: Retry, setup: &Setup) -> Result<Self, Error> {
        Self::build(limits, retry, setup)
    }

    /// A client for servers on this machine or link, never behind a proxy.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn direct(limits: Limits, retry: Retry) -> Result<Self, Error> {
        Self::build(limits, retry, &Setup { direct: true, ..Setup::default() })
    }

    fn build(limits: Limits, retry: Retry, setup: &Setup) -> Result<Self, Error> {
        let redirects = reqwest::redirect::Policy::custom(|attempt| {
            let was_safe = attempt.previous().last().is_some_and(|u| u.scheme() == "https");
            if was_safe && attempt.url().scheme() != "https" {
                attempt.error("redirect from https to plain http refused")
            } else if attempt.previous().len() > 10 {
                attempt.error("more than 10 redirects")
            } else {
                attempt.follow()
            }
        });
        let builder = reqwest::Client::builder()
            .user_agent(concat!("mantle/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(limits.connect)
            .redirect(redirects)
            .referer(false);
        let direct = setup.direct || setup.through.is_some();
        let proxies = Arc::new(if direct { Proxies::default() } else { Proxies::from_environment()? });
        let chosen = proxies.clone();
        let builder = builder
            .no_proxy() // none but ours
            .proxy(reqwest::Proxy::custom(move |url| chosen.of(url).map(|proxy| proxy.url.clone())));
        let trusted = if setup.roots.is_some() { "those that are given".into() } else { trust::roots()? };
        let builder = match setup.redirects {
            true => builder,
            false => builder.redirect(reqwest::redirect::Policy::none()),
        };
        let builder = match &setup.roots {
            None => builder,
            Some(pem) => {
                builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem).map_err(Error::Setup)?)
            }
        };
        let builder = match &setup.identity {
            None => builder,
            Some(Identity(identity)) => builder.identity(identity.clone()),
        };
        let builder = if setup.insecure { builder.tls_danger_accept_invalid_certs(true) } else { builder };
        let builder = match &setup.through {
            None => builder,
            Some(socket) => builder.unix_socket(socket.clone()),
        };
        let inner = builder.build().map_err(Error::Setup)?;
        Ok(Self { inner, limits, retry, proxies, trusted: trusted.into() })
    }

    /// The retries this client makes.
    pub fn retry(&self) -> &Retry {
        &self.retry
    }

    /// Starts a request.
    pub fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.inner.request(method, url)
    }

    /// Sends a request once and waits for the headers of the answer, whatever its status.
    ///
    /// # Errors
    /// [`Error::Transport`], [`Error::Stalled`].
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        self.execute(request.build().map_err(Error::Setup)?, Duration::ZERO).await
    }

    /// `waits` is how much longer than usual the server may be silent before it answers.
    async fn execute(&self, request: Request, waits: Duration) -> Result<Response, Error> {
        let url = shown(request.url());
        let proxy = self.proxies.of(request.url()).map(ToString::to_string);
        let limit = self.limits.connect + self.limits.idle + self.upload_time(&request) + waits;
        let confided = Confided::of(&request);
        match tokio::time::timeout(limit, self.inner.execute(request)).await {
            Ok(Ok(answer))
                if answer.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED && proxy.is_some() =>
            {
                Err(Error::ProxyLogin { url, proxy: proxy.unwrap_or_default() })
            }
            Ok(Ok(mut answer)) => {
                answer.extensions_mut().insert(confided);
                Ok(answer)
            }
            Ok(Err(e)) => Err(self.unreachable(url, proxy, e.without_url())),
            Err(_) => Err(Error::Stalled { url, limit }),
        }
    }

    /// The error for a request that got no answer.
    fn unreachable(&self, url: String, proxy: Option<String>, source: reqwest::Error) -> Error {
        if let Some(reason) = trust::refusal(&source) {
            let via = proxy.map(|proxy| format!(", through {proxy}")).unwrap_or_default();
            let reason = format!("{reason} (trusted: {}{via})", self.trusted);
            return Error::Untrusted { url, reason };
        }
        match proxy {
            Some(proxy) if crate::text::chain(&source).contains("proxy authorization required") => {
                Error::ProxyLogin { url, proxy }
            }
            Some(proxy) => Error::Proxied { url, proxy, source },
            None => Error::Transport { url, source },
        }
    }

    /// What a request's body may take on the way, at [`SLOWEST_UPLOAD`].
    fn upload_time(&self, request: &reqwest::Request) -> Duration {
        let size = request.body().and_then(|b| b.as_bytes()).map_or(0, <[u8]>::len);
        Duration::from_secs_f64(size as f64 / SLOWEST_UPLOAD)
    }

    /// The error for an answer that is no success, with what its body says.
    pub async fn refusal(&self, answer: Response) -> Error {
        let (url, status) = (shown(answer.url()), answer.status());
        let retry_after = retry_after(answer.headers());
        let confided = answer.extensions().get::<Confided>().cloned().unwrap_or_default();
        let mut text = Vec::new();
        // What has come will do.
        let _ = self.beginning(answer, &mut text).await;
        // Before it is shortened, and again after it is decoded.
        let text = confided.mask(String::from_utf8_lossy(&text).into_owned());
        let reason = match said(text.as_bytes()) {
            (Some(code), Some(message)) => Some(format!("{message} ({code})")),
            (one, other) => one.or(other),
        };
        Error::Status { url, status, reason: reason.map(|reason| confided.mask(reason)), retry_after }
    }

    /// Reads the first [`MAX_REFUSAL`] bytes of a body, or a little more.
    async fn beginning(&self, answer: Response, text: &mut Vec<u8>) -> Result<(), Error> {
        let mut body = self.body(answer);
        while text.len() < MAX_REFUSAL
            && let Some(piece) = body.next().await?
        {
            text.extend_from_slice(&piece);
        }
        Ok(())
    }

    /// One try of an API call. The body of the answer is yet to come; that of a refusal has been read.
    ///
    /// # Errors
    /// [`CallError::Transport`], [`CallError::Refused`].
    pub async fn open(&self, request: Request, exchange: Exchange<'_>) -> Result<Response, CallError> {
        let failed = |source| CallError::Transport { call: exchange.call.clone(), source };
        let answer = self.execute(request, exchange.waits).await.map_err(failed)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        if status.is_success() || exchange.accepted.contains(&status) {
            return Ok(answer);
        }
        let confided = answer.extensions().get::<Confided>().cloned().unwrap_or_default();
        let mut body = Vec::new();
        self.beginning(answer, &mut body).await.map_err(failed)?;
        Err(exchange.refusal(status.as_u16(), &headers, &body, confided))
    }

    /// One try of an API call, and its whole answer.
    ///
    /// # Errors
    /// As [`Client::open`].
    pub async fn exchange(&self, request: Request, exchange: Exchange<'_>) -> Result<Answer, CallError> {
        let answer = self.open(request, exchange).await?;
        let whole = self.whole(answer, exchange.limit).await;
        whole.map_err(|source| CallError::Transport { call: exchange.call.clone(), source })
    }

    async fn whole(&self, answer: Response, limit: u64) -> Result<Answer, Error> {
        let (status, headers, url) = (answer.status(), answer.headers().clone(), shown(answer.url()));
        let mut pieces = self.body(answer);
        let mut body = Vec::new();
        while let Some(piece) = pieces.next().await? {
            if (body.len() + piece.len()) as u64 > limit {
                return Err(Error::TooLong { url, limit });
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answer { status, headers, body })
    }

    /// The body of an answer, piece by piece, under this client's limit for silence.
    pub fn body(&self, answer: Response) -> Body {
        Body { url: shown(answer.url()), limit: self.limits.idle, left: self.limits.idle, seen: 0, answer }
    }

    /// One API call: `request` is made anew for each try; the whole answer is read.
    ///
    /// Statuses other than success and those in `accepted` are errors; transient errors are retried.
    ///
    /// # Errors
    /// The last error, when it is not transient or the tries are spent.
    pub async fn call(
        &self,
        component: &str,
        accepted: &[StatusCode],
        mut request: impl FnMut(&Self) -> RequestBuilder,
    ) -> Result<Answer, Error> {
        let mut budget = self.retry.budget();
        loop {
            match self.once(request(self), accepted, MAX_ANSWER).await {
                Ok(answer) => return Ok(answer),
                Err(e) => budget.again(component, e).await?,
            }
        }
    }

    /// One try of [`Client::call`], for callers that count tries themselves.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn once(
        &self,
        request: RequestBuilder,
        accepted: &[StatusCode],
        limit: u64,
    ) -> Result<Answer, Error> {
        let answer = self.send(request).await?;
        let status = answer.status();
        if !status.is_success() && !accepted.contains(&status) {
            return Err(self.refusal(answer).await);
        }
        self.whole(answer, limit).await
    }
}

/// What one try of an API call is about.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// The call, for errors.
    pub call: &'a Cow<'static, str>,
    /// Statuses besides success that are answers.
    pub accepted: &'a [StatusCode],
    /// The longest sensible answer, in bytes.
    pub limit: u64,
    /// How long the server may wait for something before it answers, beyond the client's limit.
    pub waits: Duration,
    /// Reads what a refusal says.
    pub read: Reader,
    /// Secrets that no message may hold, besides those in the request's own sensitive headers and forms.
    pub confided: &'a [Secret],
}

impl Exchange<'_> {
    /// The error for an answer that turns out to be a refusal although its status does not say so.
    pub fn late_refusal(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> CallError {
        self.refusal(status.as_u16(), headers, body, Confided::default())
    }

    fn refusal(&self, status: u16, headers: &HeaderMap, body: &[u8], mut confided: Confided) -> CallError {
        confided.0.extend(self.confided.iter().map(|s| s.expose().to_owned()).filter(|s| !s.is_empty()));
        // Before it is read, and again after it is decoded.
        let body = confided.mask(String::from_utf8_lossy(&body[..body.len().min(MAX_REFUSAL)]).into_owned());
        let mut refusal = (self.read)(&Refused { status, headers, body: body.as_bytes() });
        refusal.code = refusal.code.map(|code| confided.mask(code));
        refusal.message = refusal.message.map(|message| confided.mask(message));
        CallError::Refused { call: self.call.clone(), refusal: Box::new(refusal) }
    }
}

/// The body of an answer.
#[derive(Debug)]
pub struct Body {
    answer: Response,
    url: String,
    limit: Duration,
    left: Duration,
    seen: u64,
}

impl Body {
    /// The next piece; `None` at the end.
    ///
    /// Time that the caller spends between calls does not count.
    ///
    /// # Errors
    /// [`Error::Stalled`] after too few bytes in too long a time; [`Error::Transport`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let started = tokio::time::Instant::now();
        let piece = tokio::time::timeout(self.left, self.answer.chunk())
            .await
            .map_err(|_| Error::Stalled { url: self.url.clone(), limit: self.limit })?
            .map_err(|e| Error::Transport { url: self.url.clone(), source: e.without_url() })?;
        self.left = self.left.saturating_sub(started.elapsed());
        self.seen += piece.as_ref().map_or(0, |p| p.len() as u64);
        if self.seen >= TRICKLE {
            (self.seen, self.left) = (0, self.limit);
        }
        Ok(piece)
    }
}

/// The secrets that a request carried: a server may repeat them in its refusal.
#[derive(Clone, Default)]
struct Confided(Vec<String>);

impl Confided {
    /// Values of headers that are marked as sensitive, and of fields of forms that hold secrets.
    fn of(request: &reqwest::Request) -> Self {
        let headers = request.headers();
        let sensitive = headers.values().filter(|v| v.is_sensitive()).filter_map(|v| v.to_str().ok());
        // `Bearer SECRET`
        let mut secrets: Vec<String> =
            sensitive.filter_map(|v| v.rsplit(' ').next()).map(String::from).collect();
        let is_form =
            headers.get(CONTENT_TYPE).is_some_and(|t| t.as_bytes() == b"application/x-www-form-urlencoded");
        if let Some(body) = request.body().and_then(|b| b.as_bytes()).filter(|_| is_form) {
            let names =
                ["assertion", "client_assertion", "client_secret", "code", "code_verifier", "refresh_token"];
            let fields = form_urlencoded::parse(body).filter(|(name, _)| names.contains(&&**name));
            secrets.extend(fields.map(|(_, value)| value.into_owned()));
        }
        let query = request.url().query_pairs().filter(|(name, _)| mask::is_secret_parameter(name));
        // A short one would mask half of what is said.
        secrets.extend(query.map(|(_, value)| value.into_owned()).filter(|value| value.len() >= 6));
        secrets.extend(headers.values().filter(|v| v.is_sensitive()).filter_map(mask::basic_password));
        secrets.retain(|s| !s.is_empty());
        Self(secrets)
    }

    fn mask(&self, text: String) -> String {
        self.0.iter().fold(text, |text, secret| mask::secret(text, secret))
    }
}

/// The URL for messages: without user, password, query and fragment.
pub fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // These fail for URLs that cannot have them.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

/// Seconds or a date; RFC 9110, 10.2.3.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    Some((date.to_utc() - chrono::Utc::now()).to_std().unwrap_or_default())
}

/// What a server says of its refusal, code and message: an OAuth error (RFC 6749, 5.2), JSON with a code or a message
/// at its top, or a short text.
fn said(body: &[u8]) -> (Option<String>, Option<String>) {
    if let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) {
        let text = |names: [&str; 2]| names.iter().find_map(|name| json[*name].as_str()).and_then(clean);
        return (text(["error", "code"]), text(["error_description", "message"]));
    }
    let text = std::str::from_utf8(body).ok().filter(|t| !t.trim_start().starts_with('<'));
    (None, text.and_then(clean))
}

/// What a server said, in one short line.
pub fn clean(text: &str) -> Option<String> {
    let text: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    Some(text).filter(|t| !t.is_empty())
}

/// Reads refusals of servers with no format of their own.
pub fn read_plain(refused: &Refused<'_>) -> Refusal {
    let (code, message) = said(refused.body);
    Refusal { code, message, ..refused.plain() }
}
