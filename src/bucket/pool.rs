//! Many operations at once.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::Error;
use crate::cloud::google::storage;

/// Requests in flight.
pub const AT_ONCE: usize = 64;

/// After a first failure, how long what has begun may go on: long enough for answers, not for all retries.
const GRACE: Duration = Duration::from_secs(3);

/// Makes and runs futures, [`AT_ONCE`] at a time, and hands over what they return.
///
/// After an error nothing more is begun; all errors are collected.
///
/// # Errors
/// [`Error::Failed`].
pub async fn run<T, F: Future<Output = Result<T, storage::Error>>>(
    work: impl IntoIterator<Item = F>,
    mut done: impl FnMut(T),
) -> Result<(), Error> {
    let mut work = work.into_iter();
    let mut running = FuturesUnordered::new();
    let mut errors = Vec::new();
    let mut deadline = None::<Instant>;
    loop {
        while errors.is_empty()
            && running.len() < AT_ONCE
            && let Some(future) = work.next()
        {
            running.push(future);
        }
        let next = match deadline {
            None => running.next().await,
            Some(deadline) => tokio::time::timeout_at(deadline, running.next()).await.unwrap_or_default(),
        };
        match next {
            Some(Ok(value)) => done(value),
            Some(Err(e)) => {
                errors.push(e);
                deadline.get_or_insert_with(|| Instant::now() + GRACE);
            }
            None if errors.is_empty() => return Ok(()),
            None => return Err(Error::Failed(errors)),
        }
    }
}
