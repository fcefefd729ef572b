//! Loops of servers: datagrams, connections, HTTP. Each runs until its task is aborted, and ends what it started.

use std::fs::File;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, LengthLimitError, Limited, StreamBody};
use hyper::body::{Body, Bytes, Frame, Incoming};
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
    let answer = move |request| {
        let answer = answer(request);
        async move { Some(answer.await) }
    };
    http_or_end(listener, log, limit, answer).await;
}

/// The end of a connection in place of an answer.
#[derive(Debug, thiserror::Error)]
#[error("there is no answer")]
struct Unanswered;

/// As [`http`]; `None` ends the connection.
pub(crate) async fn http_or_end<F, B>(
    listener: TcpListener,
    log: &'static str,
    limit: usize,
    answer: impl Fn(Request<Bytes>) -> F + Clone + Send + 'static,
) where
    F: Future<Output = Option<Response<B>>> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Default + Send + 'static,
{
    let converse = |stream| {
        let answer = answer.clone();
        let service = service_fn(move |request| {
            let whole = receive(request, limit);
            let answer = answer.clone();
            async move {
                match whole.await {
                    Ok(request) => answer(request).await.ok_or(Unanswered),
                    Err(status) => {
                        let mut refusal = Response::default();
                        *refusal.status_mut() = status;
                        Ok(refusal)
                    }
                }
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

/// A body that is read while it is sent.
pub(crate) type FileBody = UnsyncBoxBody<Bytes, io::Error>;

/// Pieces in which files are read.
const PIECE: usize = 256 << 10;

/// The bytes `from` up to `to` of a file, which lie in it.
pub(crate) fn file_body(file: Arc<File>, from: u64, to: u64) -> FileBody {
    let pieces = stream::try_unfold(from, move |at| {
        let file = file.clone();
        async move {
            if at >= to {
                return Ok(None);
            }
            let length = usize::try_from(to - at).unwrap_or(PIECE).min(PIECE);
            let read = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; length];
                file.read_exact_at(&mut piece, at).map(|()| piece)
            });
            let piece = read.await.map_err(io::Error::other)??;
            let next = at + piece.len() as u64;
            Ok(Some((Frame::data(Bytes::from(piece)), next)))
        }
    });
    StreamBody::new(pieces).boxed_unsync()
}

async fn receive(request: Request<Incoming>, limit: usize) -> Result<Request<Bytes>, StatusCode> {
    let (head, body) = request.into_parts();
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(Request::from_parts(head, body.to_bytes())),
        Err(e) if e.is::<LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => Err(StatusCode::BAD_REQUEST),
    }
}
