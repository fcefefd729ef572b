//! The discipline of calls to a service, whoever makes the requests: places in flight, credentials renewed once,
//! patience with what is not visible yet, and tries that never do the work twice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::{CallError, Class, Retry};

/// What requests are signed with, and how to get it anew.
pub trait Access: Send + Sync {
    /// A token, a pair of keys, or nothing.
    type Proof: Send + Sync;

    /// What the next request is signed with.
    ///
    /// # Errors
    /// [`CallError::Credentials`] when there is nothing.
    fn proof(&self) -> impl Future<Output = Result<Self::Proof, CallError>> + Send;

    /// Told that a service refused what was signed so, as [`Class::Expired`] or [`Class::Denied`]; whether another
    /// try may fare better.
    ///
    /// # Errors
    /// When another proof was asked for and could not be had; the call then fails so.
    fn refused(
        &self,
        proof: &Self::Proof,
        error: &CallError,
    ) -> impl Future<Output = Result<bool, CallError>> + Send;
}

/// For services that ask nobody who they are.
#[derive(Clone, Copy, Debug)]
pub struct Open;

impl Access for Open {
    type Proof = ();

    async fn proof(&self) -> Result<(), CallError> {
        Ok(())
    }

    async fn refused(&self, (): &(), _: &CallError) -> Result<bool, CallError> {
        Ok(false)
    }
}

/// Whether a call may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// The second does no harm.
    Freely,
    /// It would do its work twice: again only when the first was certainly not executed.
    IfNotExecuted,
    /// The caller counts tries itself.
    Never,
}

/// Which places a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Short questions and orders.
    Control,
    /// Transfers.
    Data,
}

/// How one call is to be made.
#[derive(Clone, Copy, Debug)]
pub struct How<'a> {
    /// Whether it may be sent again.
    pub repeat: Repeat,
    /// Which places it takes.
    pub lane: Lane,
    /// How often in a row something may not be found that must be there; 0 for ordinary calls.
    pub patience: u32,
    /// Set when a try before the last one may have done its work: then a refusal because of what is there already may
    /// be of the call's own doing.
    pub doubt: Option<&'a AtomicBool>,
}

impl How<'_> {
    /// An ordinary control call.
    pub const fn new(repeat: Repeat) -> Self {
        Self { repeat, lane: Lane::Control, patience: 0, doubt: None }
    }
}

/// Enough patience for what a provider makes known to itself with a delay: 30 s in all.
pub const PATIENT: u32 = 8;

/// The calls to one service, all together.
#[derive(Debug)]
pub struct Calls {
    component: &'static str,
    retry: Retry,
    control: Semaphore,
    data: Semaphore,
}

impl Calls {
    /// Calls of a component, of which so many may be under way at once.
    pub fn new(component: &'static str, retry: Retry, control: usize, data: usize) -> Self {
        Self { component, retry, control: Semaphore::new(control), data: Semaphore::new(data) }
    }

    /// The retries that calls make.
    pub fn retry(&self) -> &Retry {
        &self.retry
    }

    /// Makes a call. `once` is one try; its future may be dropped.
    ///
    /// Places are held during tries, not between them. Credentials that have run out are renewed once per call, which
    /// is no failure; every other refusal or lost answer spends a try.
    ///
    /// # Errors
    /// Those of the credentials; the last error, when it does not pass, when the tries are spent, or when another
    /// try might do the work twice.
    pub async fn run<A: Access, T, F>(
        &self,
        access: &A,
        how: How<'_>,
        once: impl Fn(&A::Proof) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        let mut budget = self.retry.budget();
        let (mut renewed, mut missed) = (false, 0);
        loop {
            let places = match how.lane {
                Lane::Control => &self.control,
                Lane::Data => &self.data,
            };
            let place = places.acquire().await.expect("the semaphore is never closed");
            let proof = access.proof().await?;
            let outcome = once(&proof).await;
            drop(place);
            let error = match outcome {
                Ok(answer) => return Ok(answer),
                Err(e) => e,
            };
            let unwelcome = matches!(error.class(), Some(Class::Expired | Class::Denied));
            if unwelcome && !renewed && access.refused(&proof, &error).await? {
                renewed = true;
                continue;
            }
            if error.is_not_found() && missed < how.patience {
                let pause = Duration::from_millis(500 << missed.min(4)).min(Duration::from_secs(5));
                crate::debug!(self.component, "{error}; asking again");
                tokio::time::sleep(pause.min(self.retry.longest)).await;
                missed += 1;
                continue;
            }
            match how.repeat {
                Repeat::Freely => {}
                Repeat::IfNotExecuted if error.is_certain() => {}
                Repeat::IfNotExecuted | Repeat::Never => return Err(error),
            }
            let doubtful = error.is_doubtful();
            budget.again(self.component, error).await?;
            if let Some(doubt) = how.doubt.filter(|_| doubtful) {
                doubt.store(true, Ordering::Relaxed);
            }
        }
    }
}
