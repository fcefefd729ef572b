//! Waiting for what AWS does in its own time.

use std::fmt;

use tokio_util::sync::CancellationToken;

use super::api;
use super::failure::{Error, Result};
use crate::poll::{self, Answer, Poll};

/// How often objects that were just made are asked for again, and how long: AWS may not know them everywhere.
const SETTLING: Poll = Poll::seconds(5, 30);

/// Asks until something is as it should be.
///
/// # Errors
/// What `ask` says; that the time is over; [`Error::Interrupted`].
pub async fn until<T, F>(
    poll: Poll,
    what: impl fmt::Display,
    cancel: &CancellationToken,
    ask: impl FnMut() -> F,
) -> Result<T>
where
    F: Future<Output = Result<Answer<T>>>,
{
    poll.until(what, cancel, ask).await.map_err(|e| match e {
        poll::Error::Failed(e) => e,
        poll::Error::Cancelled => Error::Interrupted,
        late @ poll::Error::TimedOut { .. } => Error::Invalid(late.to_string()),
    })
}

/// Makes a call about something that was just made, again while AWS says that there is no such thing.
///
/// # Errors
/// What the call says in the end; [`Error::Interrupted`].
pub async fn settled<T, F>(cancel: &CancellationToken, mut call: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = api::Result<T>>,
{
    let tried = until(SETTLING, "what was just made", cancel, || {
        let call = call();
        async {
            match call.await {
                Err(e) if e.is_not_found() => Ok(Answer::NotYet(e.to_string())),
                other => Ok(Answer::Ready(other?)),
            }
        }
    });
    tried.await
}
