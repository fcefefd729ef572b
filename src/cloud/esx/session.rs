//! Who calls: a session at the server, begun when the first call needs it, begun anew when the server has forgotten it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, COOKIE, HeaderName, HeaderValue, SET_COOKIE};
use reqwest::{Method, Url};
use tokio::sync::OnceCell;

use super::soap;
use super::sources::Source;
use super::xml::{Element, Ref};
use crate::http::{
    Access, Answer, Authorize, CallError, Calls, Class, Client, Exchange, Expires, How, Open, Renewing,
    Repeat, Retry,
};
use crate::secret::Secret;

/// No answer about the server itself is longer, in bytes.
const LIMIT: u64 = 1 << 20;

/// The header that says which version of the interface is spoken; every server in use understands it.
pub const ACTION: (HeaderName, &str) = (HeaderName::from_static("soapaction"), "urn:vim25/6.5");

/// What kind of XML is sent.
pub const KIND: &str = "text/xml; charset=utf-8";

/// The cookie of a session.
#[derive(Clone, PartialEq)]
pub struct Cookie(Secret);

/// The server ends sessions that are not used, and does not say when.
impl Expires for Cookie {
    fn is_valid_for(&self, _: Duration) -> bool {
        true
    }
}

/// What the server has, by its own names.
#[derive(Clone, Debug)]
pub struct Content(Element);

impl Content {
    /// One of the server's managers.
    ///
    /// # Errors
    /// [`CallError::Answer`] if it has none.
    pub fn manager(&self, name: &str) -> Result<Ref, CallError> {
        let lacking = || CallError::answer(RETRIEVE, format!("the server has no {name}"));
        self.0.target_at(name).ok_or_else(lacking)
    }

    /// What the server is, for people.
    pub fn name(&self) -> &str {
        self.0.said("about/fullName").unwrap_or("a server without name")
    }
}

const RETRIEVE: &str = "RetrieveServiceContent";

/// Somebody's session; clones share it. [`fmt::Debug`] shows no secret.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    source: Source,
    http: Client,
    calls: Calls,
    cookie: Renewing<Cookie>,
    content: OnceCell<Content>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({})", self.0.source.origin)
    }
}

impl Session {
    /// With these credentials. No request is sent.
    pub fn new(source: Source, http: Client, retry: Retry) -> Self {
        let calls = Calls::new("esx", retry, 4, 1);
        let cookie = Renewing::new(Duration::ZERO, Duration::ZERO);
        Self(Arc::new(Inner { source, http, calls, cookie, content: OnceCell::new() }))
    }

    /// The credentials.
    pub fn source(&self) -> &Source {
        &self.0.source
    }

    /// What the server has.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn content(&self) -> Result<&Content, CallError> {
        let ask = || async {
            let request = soap::request(RETRIEVE, &Ref::new("ServiceInstance", "ServiceInstance"));
            let answer = self.exchange(RETRIEVE, request, &[]).await?;
            let answer = soap::answer(RETRIEVE, &answer.body)?;
            let content = answer.at("returnval").cloned();
            content.map(Content).ok_or_else(|| CallError::answer(RETRIEVE, "there is nothing in it"))
        };
        self.0.content.get_or_try_init(ask).await
    }

    async fn login(&self) -> Result<Cookie, CallError> {
        const CALL: &str = "Login";
        let Source { user, password, .. } = &self.0.source;
        let manager = self.content().await?.manager("sessionManager")?;
        let request = soap::request(CALL, &manager).with_all([
            Element::text("userName", user),
            Element::text("password", password.expose()),
            Element::text("locale", "en_US"),
        ]);
        let secrets = [password.clone(), quick_xml::escape::escape(password.expose()).into_owned().into()];
        let answer = self.exchange(CALL, request, &secrets).await?;
        soap::answer(CALL, &answer.body)?;
        let cookies = answer.headers.get_all(SET_COOKIE).iter().filter_map(|v| v.to_str().ok());
        let mut own =
            cookies.filter_map(|c| c.split(';').next()).filter(|c| c.starts_with("vmware_soap_session="));
        let cookie = own.next().ok_or_else(|| CallError::answer(CALL, "there is no cookie of a session"))?;
        Ok(Cookie(cookie.to_owned().into()))
    }

    /// A call without a session; the second does no harm.
    async fn exchange(
        &self,
        name: &'static str,
        request: Element,
        secrets: &[Secret],
    ) -> Result<Answer, CallError> {
        let call = Cow::Borrowed(name);
        let body = request.envelope();
        let once = |()| async {
            let mut request = reqwest::Request::new(Method::POST, self.0.source.sdk.clone());
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(KIND));
            request.headers_mut().insert(ACTION.0, HeaderValue::from_static(ACTION.1));
            *request.body_mut() = Some(body.clone().into());
            let (limit, waits, read) = (LIMIT, Duration::ZERO, soap::refusal);
            self.0
                .http
                .exchange(
                    request,
                    Exchange { call: &call, accepted: &[], limit, waits, read, confided: secrets },
                )
                .await
        };
        self.0.calls.run(&Open, How::new(Repeat::Freely), |()| once(())).await
    }

    /// The same address with another path and no query.
    pub fn beside(&self, path: &str) -> Url {
        let mut url = self.0.source.sdk.clone();
        url.set_path(path);
        url
    }
}

impl Access for Session {
    type Proof = Cookie;

    async fn proof(&self) -> Result<Cookie, CallError> {
        self.0.cookie.get("esx", || self.login()).await
    }

    async fn refused(&self, proof: &Cookie, error: &CallError) -> Result<bool, CallError> {
        if error.class() != Some(Class::Expired) {
            return Ok(false);
        }
        self.0.cookie.refused(proof).await;
        Ok(true)
    }
}

impl Authorize for Session {
    fn sign(&self, proof: &Cookie, request: &mut reqwest::Request) -> Result<(), CallError> {
        let value = HeaderValue::from_str(proof.0.expose());
        let mut value = value.map_err(|_| CallError::answer("Login", "the cookie has odd characters"))?;
        value.set_sensitive(true);
        request.headers_mut().insert(COOKIE, value);
        Ok(())
    }
}
