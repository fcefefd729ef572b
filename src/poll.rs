//! Asking a cloud again and again until something is as it should be: one helper for all such waits.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::http::retry;

/// How often, and for how long. `MANTLE_POLL_SCALE` multiplies both, for tests.
#[derive(Clone, Copy, Debug)]
pub struct Poll {
    /// Time between two questions, in the long run; the first ones come sooner.
    pub interval: Duration,
    /// Time allowed.
    pub limit: Duration,
}

/// What an answer means.
#[derive(Debug)]
pub enum Answer<T> {
    /// It is as it should be.
    Ready(T),
    /// Not yet: what it is instead.
    NotYet(String),
    /// Not yet, and whoever is asked wants to be left alone for so long.
    Later(String, Duration),
}

/// Why the wait ended without result.
#[derive(Debug, thiserror::Error)]
pub enum Error<E> {
    /// The time is over.
    #[error("time limit exceeded: {what} not within {} s; it was last seen as: {last}", .limit.as_secs())]
    TimedOut {
        /// What was waited for.
        what: String,
        /// The time allowed, before scaling.
        limit: Duration,
        /// The last answer.
        last: String,
    },
    /// The run was interrupted.
    #[error("interrupted")]
    Cancelled,
    /// The question failed, or the answer says that it will never be.
    #[error(transparent)]
    Failed(E),
}

/// What limits of waits for others are multiplied with: `MANTLE_POLL_SCALE`.
pub fn scale() -> f64 {
    // Unit tests have no environment of their own.
    if cfg!(test) { 0.01 } else { retry::scale() }
}

impl Poll {
    /// Every so many seconds, for so many seconds.
    pub const fn seconds(interval: u64, limit: u64) -> Self {
        Self { interval: Duration::from_secs(interval), limit: Duration::from_secs(limit) }
    }

    /// Asks until the answer is [`Answer::Ready`]. At the end of the time as many questions were asked as fit into
    /// it, however slow this machine is.
    ///
    /// # Errors
    /// Those of `ask`, at once; [`Error::TimedOut`]; [`Error::Cancelled`].
    pub async fn until<T, E, F>(
        &self,
        what: impl fmt::Display,
        cancel: &CancellationToken,
        mut ask: impl FnMut() -> F,
    ) -> Result<T, Error<E>>
    where
        F: Future<Output = Result<Answer<T>, E>>,
    {
        let scale = scale();
        let interval = self.interval.mul_f64(scale);
        let mut pause = interval.min(Duration::from_secs(1).mul_f64(scale));
        let deadline = Instant::now() + self.limit.mul_f64(scale);
        let enough = (self.limit.as_millis() / self.interval.as_millis().max(1)).max(1);
        let mut asked = 0;
        loop {
            let (last, pause_asked) = tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(Error::Cancelled),
                answer = ask() => match answer.map_err(Error::Failed)? {
                    Answer::Ready(value) => return Ok(value),
                    Answer::NotYet(status) => (status, None),
                    Answer::Later(status, pause) => (status, Some(pause.mul_f64(scale))),
                },
            };
            asked += 1;
            if asked >= enough && Instant::now() >= deadline {
                return Err(Error::TimedOut { what: what.to_string(), limit: self.limit, last });
            }
            crate::debug!("platform", "{what}: {last}");
            tokio::select! {
                () = cancel.cancelled() => return Err(Error::Cancelled),
                () = tokio::time::sleep(pause_asked.unwrap_or(pause)) => {}
            }
            pause = (pause * 2).min(interval);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_end_with_the_answer_the_time_or_the_run() {
        let poll = Poll::seconds(10, 60);
        let cancel = CancellationToken::new();
        let asked = Cell::new(0);
        let ask = |ready_at: u32| {
            asked.set(asked.get() + 1);
            let now = asked.get();
            async move {
                match now {
                    n if n == ready_at => Ok::<_, &str>(Answer::Ready(n)),
                    13 => Err("gone"),
                    n => Ok(Answer::NotYet(format!("step {n}"))),
                }
            }
        };
        assert_eq!(poll.until("x", &cancel, || ask(4)).await.unwrap(), 4);
        asked.set(0);
        let e = poll.until("the thing ready", &cancel, || ask(99)).await.unwrap_err().to_string();
        assert!(
            e.starts_with("time limit exceeded: the thing ready not within 60 s; it was last seen as: step"),
            "{e}"
        );
        asked.set(12);
        assert!(matches!(poll.until("x", &cancel, || ask(99)).await, Err(Error::Failed("gone"))));
        cancel.cancel();
        assert!(matches!(poll.until("x", &cancel, || ask(0)).await, Err(Error::Cancelled)));
    }
}
