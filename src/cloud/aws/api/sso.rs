//! Single sign-on: its portal, which gives keys for roles, and the renewal of the tokens that are shown to it.

use std::borrow::Cow;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request, Url};
use serde_json::{Value, json};

use super::super::credentials::Keys;
use super::super::endpoints::{Partition, Service};
use super::{Connection, Error, How, Open, Repeat, Result, bad_endpoint, partition, refusal, required};
use crate::http::Exchange;
use crate::secret::Secret;

/// Answers of these services are short.
const MAX_ANSWER: u64 = 1 << 20;

/// A token for the portal, made from an older one.
pub(in super::super) struct Renewed {
    /// The token.
    pub access: Secret,
    /// How long it is good, in seconds.
    pub lifetime: i64,
    /// What the next one is made from, if that can be.
    pub refresh: Option<Secret>,
}

/// `GetRoleCredentials`: the keys of a role for the bearer of a token.
///
/// # Errors
/// Any [`Error`].
pub(in super::super) async fn role_keys(
    connection: &Connection,
    region: &str,
    account: &str,
    role: &str,
    token: &Secret,
) -> Result<Keys> {
    let call = "GetRoleCredentials";
    let mut url = url(connection, Service::Sso, region, "/federation/credentials")?;
    url.query_pairs_mut().append_pair("role_name", role).append_pair("account_id", account);
    let mut header = HeaderValue::from_str(token.expose())
        .map_err(|_| Error::setup("the token of single sign-on is not one line of text"))?;
    header.set_sensitive(true);
    let request = || {
        let mut request = Request::new(Method::GET, url.clone());
        request.headers_mut().insert("x-amz-sso_bearer_token", header.clone());
        request
    };
    let answer = json_of(connection, call, &[], request).await?;
    let keys = &answer["roleCredentials"];
    let text = |name: &'static str| {
        let value = keys[name].as_str().filter(|v| !v.is_empty()).map(str::to_owned);
        required(call, name, value)
    };
    let expires = keys["expiration"].as_i64().and_then(DateTime::<Utc>::from_timestamp_millis);
    Ok(Keys {
        id: text("accessKeyId")?,
        secret: text("secretAccessKey")?.into(),
        token: Some(text("sessionToken")?.into()),
        expires: Some(required(call, "valid expiration", expires)?),
    })
}

/// `CreateToken`: a new token for the portal, for what came with the last one.
///
/// # Errors
/// Any [`Error`].
pub(in super::super) async fn renew_sso_token(
    connection: &Connection,
    region: &str,
    client: &str,
    client_secret: &Secret,
    refresh: &Secret,
) -> Result<Renewed> {
    let call = "CreateToken";
    let url = url(connection, Service::SsoOidc, region, "/token")?;
    let order = json!({
        "grantType": "refresh_token",
        "clientId": client,
        "clientSecret": client_secret.expose(),
        "refreshToken": refresh.expose(),
    });
    let request = || {
        let mut request = Request::new(Method::POST, url.clone());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(order.to_string().into());
        request
    };
    let confided = [client_secret.clone(), refresh.clone()];
    let answer = json_of(connection, call, &confided, request).await?;
    let text = |name: &str| answer[name].as_str().filter(|v| !v.is_empty()).map(|v| v.to_owned().into());
    let lifetime = answer["expiresIn"].as_i64().filter(|seconds| (1..=i64::from(i32::MAX)).contains(seconds));
    Ok(Renewed {
        access: required(call, "accessToken", text("accessToken"))?,
        lifetime: required(call, "valid expiresIn", lifetime)?,
        refresh: text("refreshToken"),
    })
}

fn url(connection: &Connection, service: Service, region: &str, path: &str) -> Result<Url> {
    let partition: &Partition = partition(region)?;
    let endpoint = connection.endpoints.of(service, region, partition).url;
    format!("{endpoint}{path}").parse().map_err(|_| bad_endpoint(&endpoint))
}

/// Makes a call that is not signed, and reads its answer. It is repeated freely: what it gives is good for a while
/// only. No message holds what is `confided`, nor what is in the answer.
async fn json_of(
    connection: &Connection,
    call: &'static str,
    confided: &[Secret],
    request: impl Fn() -> Request,
) -> Result<Value> {
    let name = Cow::Borrowed(call);
    let exchange = Exchange {
        call: &name,
        accepted: &[],
        limit: MAX_ANSWER,
        waits: Duration::ZERO,
        read: refusal::read,
        confided,
    };
    let once = |(): &()| connection.http.exchange(request(), exchange);
    let answer = connection.calls.run(&Open, How::new(Repeat::Freely), once).await?;
    serde_json::from_slice(&answer.body).map_err(|_| Error::answer(call, "it is not JSON"))
}
