//! Orders that must not be carried out twice, at services that have no tokens for them: what an order that was not
//! answered has made is looked for before it is made again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::http::CallError;
use crate::poll::{self, Answer, Poll};
use crate::text::chain;

/// How something is ordered once.
#[derive(Clone, Copy, Debug)]
pub struct Once<'a> {
    /// Who says so in messages.
    pub component: &'static str,
    /// How long the service may not show what it has made; [`SHOWN_AT_ONCE`] where it shows it at once.
    pub shown: Poll,
    /// Ends the pause between two tries; an order that was sent is never given up.
    pub cancel: &'a CancellationToken,
    /// Set when it is ordered again although a try before may have made one, which nothing shows yet.
    pub doubt: &'a AtomicBool,
}

/// For services that show at once what they have made: one look is enough.
pub const SHOWN_AT_ONCE: Poll = Poll::seconds(1, 0);

impl Once<'_> {
    /// Makes something by `order`. Where it is not known whether that was carried out, `find` looks for what it made.
    /// Only if there is nothing, it is ordered again, as often as `again` says: that gets the error and how many tries
    /// there were, and returns the pause before the next.
    ///
    /// # Errors
    /// The last one of the order, also when cancelled before the next try; those of the look-up.
    pub async fn make<T, M, F>(
        self,
        order: impl Fn() -> M + Send + Sync,
        find: impl Fn() -> F + Send + Sync,
        again: impl Fn(&CallError, u32) -> Option<Duration> + Send + Sync,
    ) -> Result<T, CallError>
    where
        T: Send,
        M: Future<Output = Result<T, CallError>> + Send,
        F: Future<Output = Result<Option<T>, CallError>> + Send,
    {
        let mut tries = 0;
        loop {
            let error = match order().await {
                Ok(made) => return Ok(made),
                Err(e) => e,
            };
            tries += 1;
            let doubtful = error.is_doubtful();
            if doubtful {
                crate::warning!(self.component, "{}; looking whether it was done", chain(&error));
                if let Some(there) = self.look(&find).await? {
                    return Ok(there);
                }
            }
            let Some(pause) = again(&error, tries) else { return Err(error) };
            let pause = pause.mul_f64(poll::scale());
            let then = tries + 1;
            let seconds = pause.as_secs_f32();
            crate::warning!(self.component, "{}; trying again in {seconds:.1} s (try {then})", chain(&error));
            if self.cancel.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return Err(error);
            }
            self.doubt.fetch_or(doubtful, Ordering::Relaxed);
        }
    }

    /// What may have been made, asked for until the service would show it.
    async fn look<T, F>(&self, find: &(impl Fn() -> F + Send + Sync)) -> Result<Option<T>, CallError>
    where
        F: Future<Output = Result<Option<T>, CallError>> + Send,
    {
        let ask = || async { Ok(find().await?.map_or_else(|| Answer::NotYet("none".into()), Answer::Ready)) };
        // It must be known whether it is there: the run's end does not end this.
        match self.shown.until("what was ordered", &CancellationToken::new(), ask).await {
            Ok(there) => Ok(Some(there)),
            Err(poll::Error::Failed(e)) => Err(e),
            Err(poll::Error::TimedOut { .. } | poll::Error::Cancelled) => Ok(None),
        }
    }
}

/// For [`Once::make`]: again after each doubtful error, with this pause, until so many tries are spent.
pub fn in_doubt(pause: Duration, tries: u32) -> impl Fn(&CallError, u32) -> Option<Duration> {
    move |error, spent| (error.is_doubtful() && spent < tries).then_some(pause)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::http::{Class, Refusal};

    fn refused(status: u16) -> CallError {
        let refusal = Refusal { status, class: Class::of_status(status), ..Refusal::default() };
        CallError::Refused { call: "make".into(), refusal: Box::new(refusal) }
    }

    /// Orders that are answered so, in turn, where the look of this number finds one; result, orders, looks, doubt.
    async fn orders(answers: &[Option<u16>], found: u32, cancelled: bool) -> (Option<u32>, u32, u32, bool) {
        let (ordered, looks, doubt) = (AtomicU32::new(0), AtomicU32::new(0), AtomicBool::new(false));
        let cancel = CancellationToken::new();
        if cancelled {
            cancel.cancel();
        }
        let order = || async {
            let n = ordered.fetch_add(1, Ordering::Relaxed);
            match answers[n as usize] {
                None => Ok(n),
                Some(status) => Err(refused(status)),
            }
        };
        let find = || async { Ok((looks.fetch_add(1, Ordering::Relaxed) + 1 == found).then_some(99)) };
        let once = Once { component: "toy", shown: Poll::seconds(1, 2), cancel: &cancel, doubt: &doubt };
        let made = once.make(order, find, in_doubt(Duration::from_secs(1), 3)).await.ok();
        let count = |n: AtomicU32| n.load(Ordering::Relaxed);
        (made, count(ordered), count(looks), doubt.load(Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_be_there_is_looked_for_before_it_is_ordered_again() {
        assert_eq!(orders(&[None], 0, false).await, (Some(0), 1, 0, false));
        assert_eq!(orders(&[Some(403)], 0, false).await, (None, 1, 0, false));
        assert_eq!(orders(&[Some(500)], 2, false).await, (Some(99), 1, 2, false));
        let (made, ordered, looks, doubt) = orders(&[Some(500), None], 0, false).await;
        assert_eq!((made, ordered, doubt), (Some(1), 2, true));
        assert!(looks >= 2, "asked until it would be shown: {looks}");
        let (made, ordered, _, doubt) = orders(&[Some(500), Some(403)], 0, false).await;
        assert_eq!((made, ordered, doubt), (None, 2, true));
        assert_eq!(orders(&[Some(500); 3], 0, false).await.1, 3);
        let (made, ordered, looks, _) = orders(&[Some(500)], 0, true).await;
        assert!(made.is_none() && ordered == 1 && looks >= 2, "{ordered} {looks}");
    }
}
