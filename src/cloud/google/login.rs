//! Login in the browser: OAuth 2.0 for installed programs (RFC 8252) with a loopback redirect and PKCE (RFC 7636).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use openssl::sha::sha256;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Error;
use super::credentials::{Answer, ClientId, exchange};
use crate::cloud::jwt::base64url;
use crate::http::Client;

/// Connections that may be open at a time; a browser needs one or two.
const CONNECTIONS: usize = 8;

/// Prints the address to open, waits for the browser to come back, and exchanges its code for tokens.
pub async fn login(
    client: &ClientId,
    scopes: &[&str],
    http: &Client,
    limit: Duration,
) -> Result<Answer, Error> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(Error::Listen)?;
    let port = listener.local_addr().map_err(Error::Listen)?.port();
    let redirect = format!("http://127.0.0.1:{port}");
    let (state, verifier) = (random()?, random()?);
    let challenge = base64url(&sha256(verifier.as_bytes()));
    let mut url = client.auth_uri.clone();
    url.query_pairs_mut()
        .append_pair("response_type", "code")
        .append_pair("client_id", &client.id)
        .append_pair("redirect_uri", &redirect)
        .append_pair("scope", &scopes.join(" "))
        .append_pair("state", &state)
        .append_pair("access_type", "offline")
        .append_pair("prompt", "consent") // else a second login gives no refresh token
        .append_pair("code_challenge", &challenge)
        .append_pair("code_challenge_method", "S256");
    crate::notice!("google", "to allow access, open this address in a browser on this machine: {url}");
    let code = tokio::time::timeout(limit, wait_for_code(listener, state))
        .await
        .map_err(|_| Error::NoAnswer(limit))??;
    let form = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", &redirect),
        ("client_id", &client.id),
        ("client_secret", client.secret.expose()),
        ("code_verifier", &verifier),
    ];
    exchange(http, "the login in the browser", &client.token_uri, &form).await
}

/// 256 random bits in characters that need no encoding.
fn random() -> Result<String, Error> {
    let mut bytes = [0; 32];
    openssl::rand::rand_bytes(&mut bytes)
        .map_err(|source| Error::Sign { account: "the login".into(), source })?;
    Ok(base64url(&bytes))
}

/// Serves until a request brings the right state; all connections end with this future.
async fn wait_for_code(listener: TcpListener, state: String) -> Result<String, Error> {
    let state = Arc::new(state);
    let (found, mut result) = mpsc::channel(1);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            outcome = result.recv() => {
                // Lets the page of the answer reach the browser.
                let farewell = async { while connections.join_next().await.is_some() {} };
                let _ = tokio::time::timeout(Duration::from_millis(500), farewell).await;
                return outcome.unwrap_or_else(|| Err(Error::Refused("the local server ended".into())));
            }
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => {
                let (stream, _) = accepted.map_err(Error::Listen)?;
                let (state, found) = (state.clone(), found.clone());
                connections.spawn(async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (state, found) = (state.clone(), found.clone());
                        async move { Ok::<_, Infallible>(answer(&request, &state, &found)) }
                    });
                    let http = hyper::server::conn::http1::Builder::new()
                        .keep_alive(false)
                        .serve_connection(TokioIo::new(stream), service);
                    // A browser that hangs up is no trouble of ours.
                    let _ = tokio::time::timeout(Duration::from_secs(10), http).await;
                });
            }
        }
    }
}

fn answer(
    request: &Request<Incoming>,
    state: &str,
    found: &mpsc::Sender<Result<String, Error>>,
) -> Response<Full<Bytes>> {
    let (status, text) = match outcome(request.uri().path(), request.uri().query().unwrap_or_default(), state)
    {
        None => (StatusCode::NOT_FOUND, "This is not the page that the login leads to."),
        Some(outcome) => {
            let text = match outcome {
                Ok(_) => "Access allowed. You can close this page.",
                Err(_) => "Access was not allowed. You can close this page.",
            };
            let _ = found.try_send(outcome); // the second answer of a browser changes nothing
            (StatusCode::OK, text)
        }
    };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

/// What a request to the loopback address means; `None`: nothing, such as one for an icon, or a forged one.
fn outcome(path: &str, query: &str, state: &str) -> Option<Result<String, Error>> {
    let field =
        |name| form_urlencoded::parse(query.as_bytes()).find(|(k, _)| k == name).map(|(_, v)| v.into_owned());
    let given = field("state")?;
    // Compared in constant time; nothing else tells our browser from any other page or program.
    if path != "/" || given.len() != state.len() || !openssl::memcmp::eq(given.as_bytes(), state.as_bytes()) {
        return None;
    }
    match (field("error"), field("code")) {
        (Some(error), _) => {
            Some(Err(Error::Refused(error.chars().filter(|c| !c.is_control()).take(100).collect())))
        }
        (None, Some(code)) => Some(Ok(code)),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_state_counts() {
        let code = |path, query| outcome(path, query, "s3cret").and_then(Result::ok);
        assert_eq!(code("/", "code=4%2Fabc&state=s3cret&scope=x").as_deref(), Some("4/abc"));
        for (path, query) in [
            ("/", ""),
            ("/", "code=x"),
            ("/", "code=x&state=s3creT"),
            ("/", "state=s3cret"),
            ("/f", "code=x&state=s3cret"),
        ] {
            assert!(outcome(path, query, "s3cret").is_none(), "{path} {query}");
        }
        assert!(matches!(
            outcome("/", "error=access_denied&state=s3cret", "s3cret"),
            Some(Err(Error::Refused(_)))
        ));
    }
}
