//! Bodies that are sent as they are made, of any length: content that is read, or unpacked, while it is sent.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use hyper::body::Bytes;
use tokio::sync::mpsc;

use super::SLOWEST_UPLOAD;

/// Pieces that wait to be sent.
const WAITING: usize = 4;

type Make = dyn Fn(Pieces) + Send + Sync;

/// A body that is made anew for each try.
#[derive(Clone)]
pub struct Upload {
    make: Arc<Make>,
    length: Option<u64>,
    at_most: u64,
    state: Arc<State>,
}

/// How far the current try has come.
#[derive(Default)]
struct State {
    sent: AtomicU64,
    ended: AtomicBool,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upload({:?} bytes)", self.length)
    }
}

impl Upload {
    /// A body of this length in bytes, if it is known, and no longer than `at_most` as far as times go. `make` is
    /// called for each try: on a thread of its own that may block, it hands over the pieces one after the other.
    pub fn new(length: Option<u64>, at_most: u64, make: impl Fn(Pieces) + Send + Sync + 'static) -> Self {
        Self { make: Arc::new(make), length, at_most, state: Arc::default() }
    }

    /// Its length, if that is known.
    pub(super) fn length(&self) -> Option<u64> {
        self.length
    }

    /// How long it may take on the way.
    pub(super) fn time(&self) -> Duration {
        let bytes = self.length.unwrap_or(self.at_most);
        #[expect(clippy::cast_precision_loss, reason = "a limit of time")]
        Duration::from_secs_f64(bytes as f64 / SLOWEST_UPLOAD)
    }

    /// Returns when nothing was sent for so long although there is more.
    pub(super) async fn stalled(&self, limit: Duration) {
        let mut last = u64::MAX;
        loop {
            let now = self.state.sent.load(Ordering::Relaxed);
            if now == last && !self.state.ended.load(Ordering::Relaxed) {
                return;
            }
            last = now;
            tokio::time::sleep(limit).await;
        }
    }

    /// The body for a try.
    pub(super) fn body(&self) -> reqwest::Body {
        let (sender, receiver) = mpsc::channel(WAITING);
        let make = self.make.clone();
        self.state.ended.store(false, Ordering::Relaxed);
        tokio::task::spawn_blocking(move || make(Pieces(sender)));
        reqwest::Body::wrap_stream(Receiver(receiver, self.state.clone()))
    }
}

/// Where the pieces of a body go. Dropped, the body has ended.
#[derive(Debug)]
pub struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Pieces {
    /// Hands a piece over; waits while many others wait to be sent.
    ///
    /// # Errors
    /// When nobody wants any more.
    pub fn send(&self, piece: impl Into<Bytes>) -> io::Result<()> {
        self.0.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Ends the body before its end: the request fails.
    pub fn fail(self) {
        let broken = io::Error::other("the content of the upload cannot be read");
        // Nobody to be told is fine.
        let _ = self.0.blocking_send(Err(broken));
    }
}

struct Receiver(mpsc::Receiver<io::Result<Bytes>>, Arc<State>);

impl Stream for Receiver {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let piece = self.0.poll_recv(context);
        match &piece {
            Poll::Ready(Some(Ok(piece))) => {
                self.1.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
            Poll::Ready(None) => self.1.ended.store(true, Ordering::Relaxed),
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        piece
    }
}
