//! Loops of servers: datagrams, connections, HTTP. Each runs until its task is aborted, and ends what it started.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use crate::{debug, warning};

/// Longest datagram read: more than any Ethernet frame of the bridge carries.
const DATAGRAM: usize = 2048;
/// Connections served at a time; more wait to be accepted.
const CONNECTIONS: usize = 256;
/// How long a client may take to send the header of a request.
const HEADER: Duration = Duration::from_secs(30);

/// Answers datagrams.
pub(super) async fn datagrams(
    socket: UdpSocket,
    log: &'static str,
    reply: impl Fn(&[u8], SocketAddr) -> Option<(Vec<u8>, SocketAddr)>,
) {
    let mut buffer = [0; DATAGRAM];
    loop {
        // An error of the socket is reported once and then cleared, so this cannot spin.
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                if let Some((bytes, to)) = reply(&buffer[..length], from)
                    && let Err(e) = socket.send_to(&bytes, to).await
                {
                    debug!(log, "cannot answer {to}: {e}");
                }
            }
            Err(e) => warning!(log, "cannot receive: {e}"),
        }
    }
}

/// Talks to everybody who connects.
pub(super) async fn connections<F>(
    listener: TcpListener,
    log: &'static str,
    converse: impl Fn(TcpStream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if running.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => drop(running.spawn(converse(stream))),
                Err(e) => {
                    warning!(log, "cannot accept a connection: {e}");
                    // Out of descriptors, most likely: give others time to close some.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = running.join_next() => {}
        }
    }
}

/// Answers HTTP/1.1 requests; a body longer than `limit` bytes is refused with status 413.
pub(crate) async fn http<F, B>(
    listener: TcpListener,
    log: &'static str,
    limit: usize,
    answer: impl Fn(Request<Bytes>) -> F + Clone + Send + 'static,
) where
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Default + Send + 'static,
{
    let converse = |stream| {
        let answer = answer.clone();
        let service = service_fn(move |request| {
            let whole = receive(request, limit);
            let answer = answer.clone();
            async move {
                Ok::<_, Infallible>(match whole.await {
                    Ok(request) => answer(request).await,
                    Err(status) => {
                        let mut refusal = Response::default();
                        *refusal.status_mut() = status;
                        refusal
                    }
                })
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER)
            .serve_connection(TokioIo::new(stream), service);
        async move {
            if let Err(e) = connection.await {
                debug!(log, "a connection ended: {e}");
            }
        }
    };
    connections(listener, log, converse).await;
}

async fn receive(request: Request<Incoming>, limit: usize) -> Result<Request<Bytes>, StatusCode> {
    let (head, body) = request.into_parts();
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(Request::from_parts(head, body.to_bytes())),
        Err(e) if e.is::<LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => Err(StatusCode::BAD_REQUEST),
    }
}
