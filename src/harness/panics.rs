//! Panics of tests become errors that tell message and place, and do not appear on stderr.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::future::Future;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::{Arc, Mutex, Once, PoisonError};

use color_eyre::eyre;
use futures_util::FutureExt;
use tokio::task::{JoinError, JoinHandle};

use super::outcome::Panicked;

/// Takes what the panic hook of the process learns about a panic.
type Place = Arc<Mutex<Option<String>>>;

tokio::task_local! {
    static CURRENT: Place;
}

/// Puts our hook before the present one, once. Panics outside of watched code go to the present one as before.
fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if CURRENT.try_with(|place| note(place, info)).is_err() {
                before(info);
            }
        }));
    });
}

fn note(place: &Place, info: &PanicHookInfo<'_>) {
    let at = info.location().map(|l| format!(" at {l}")).unwrap_or_default();
    let mut text = format!("panicked{at}: {}", message(info.payload()));
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        text = format!("{text}\n{trace}");
    }
    // Of several (a destructor panics too) the first is the cause.
    place.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(a value that is no text)")
}

fn error(place: &Place, payload: &(dyn Any + Send)) -> Panicked {
    let noted = place.lock().unwrap_or_else(PoisonError::into_inner).take();
    // Nothing is noted if someone replaced the hook.
    Panicked(noted.unwrap_or_else(|| format!("panicked: {}", message(payload))))
}

/// Runs the future; a panic in it is an error.
pub async fn watched<F>(future: F) -> eyre::Result<()>
where
    F: Future<Output = eyre::Result<()>>,
{
    install();
    let place = Place::default();
    let ended = CURRENT.scope(Arc::clone(&place), AssertUnwindSafe(future).catch_unwind()).await;
    ended.unwrap_or_else(|payload| Err(error(&place, &*payload).into()))
}

/// Calls the function; a panic in it is an error.
pub fn watched_call<R>(f: impl FnOnce() -> R) -> Result<R, Panicked> {
    install();
    let place = Place::default();
    let ended = CURRENT.sync_scope(Arc::clone(&place), || panic::catch_unwind(AssertUnwindSafe(f)));
    ended.map_err(|payload| error(&place, &*payload))
}

/// A task that runs [`watched`] code and ends with this value.
pub struct Owned(JoinHandle<eyre::Result<()>>);

impl Owned {
    pub fn spawn<F>(future: F) -> Self
    where
        F: Future<Output = eyre::Result<()>> + Send + 'static,
    {
        Self(tokio::spawn(future))
    }

    /// Asks the task to end at its next await point.
    pub fn abort(&self) {
        self.0.abort();
    }

    /// Waits for the end; not to be called again after that.
    pub async fn ended(&mut self) -> eyre::Result<()> {
        match (&mut self.0).await.map_err(JoinError::try_into_panic) {
            Ok(result) => result,
            // Only a destructor can still panic.
            Err(Ok(payload)) => Err(Panicked(format!("panicked: {}", message(&*payload))).into()),
            Err(Err(aborted)) => Err(eyre::Report::new(aborted)),
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}
