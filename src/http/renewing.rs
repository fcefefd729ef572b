//! What is good for a while only: tokens and temporary keys.

use std::fmt;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::text::chain;

/// Something with an end.
pub trait Expires {
    /// Whether it is good for this long yet.
    fn is_valid_for(&self, time: Duration) -> bool;
}

/// The current one of many. It is replaced before its end, by one task while the others wait.
pub struct Renewing<T> {
    current: Mutex<Option<T>>,
    early: Duration,
    last: Duration,
}

/// Shows nothing: it is a secret.
impl<T> fmt::Debug for Renewing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Renewing(***)")
    }
}

impl<T: Expires + Clone + PartialEq> Renewing<T> {
    /// None yet. It will be replaced `early` before its end; should that fail, it is used until `last` before it.
    pub fn new(early: Duration, last: Duration) -> Self {
        Self { current: Mutex::new(None), early, last }
    }

    /// The current one, else what `fetch` gives.
    ///
    /// # Errors
    /// Those of `fetch`, when the current one is as good as over.
    pub async fn get<E, F>(&self, component: &str, fetch: impl FnOnce() -> F) -> Result<T, E>
    where
        E: std::error::Error,
        F: Future<Output = Result<T, E>>,
    {
        // Held while fetching: the others wait for this one's.
        let mut current = self.current.lock().await;
        if let Some(value) = current.as_ref().filter(|v| v.is_valid_for(self.early)) {
            return Ok(value.clone());
        }
        match fetch().await {
            Ok(value) => Ok(current.insert(value).clone()),
            Err(e) => match current.as_ref().filter(|v| v.is_valid_for(self.last)) {
                Some(value) => {
                    crate::warning!(component, "cannot renew credentials yet: {}", chain(&e));
                    Ok(value.clone())
                }
                None => Err(e),
            },
        }
    }

    /// Sets the current one.
    pub async fn set(&self, value: T) {
        *self.current.lock().await = Some(value);
    }

    /// Forgets one that a server refused. Another task may have replaced it already: then the new one stays.
    pub async fn refused(&self, value: &T) {
        let mut current = self.current.lock().await;
        if current.as_ref() == Some(value) {
            *current = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::time::Instant;

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Token(u32, Instant);

    impl Expires for Token {
        fn is_valid_for(&self, time: Duration) -> bool {
            self.1.saturating_duration_since(Instant::now()) > time
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("no token")]
    struct Failed;

    const HOUR: Duration = Duration::from_secs(3600);

    struct Desk(Renewing<Token>, AtomicU32);

    impl Desk {
        fn new() -> Self {
            Self(Renewing::new(Duration::from_secs(120), Duration::from_secs(10)), AtomicU32::new(0))
        }

        async fn get(&self, works: bool) -> Result<u32, Failed> {
            let fetch = || async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let n = self.1.fetch_add(1, Ordering::Relaxed) + 1;
                works.then(|| Token(n, Instant::now() + HOUR)).ok_or(Failed)
            };
            self.0.get("test", fetch).await.map(|t| t.0)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_task_renews_for_all_and_in_time() {
        let desk = Desk::new();
        let all = futures_util::future::join_all((0..20).map(|_| desk.get(true))).await;
        assert!(all.into_iter().all(|t| t.unwrap() == 1));
        tokio::time::advance(HOUR - Duration::from_secs(125)).await;
        assert_eq!(desk.get(true).await.unwrap(), 1);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(desk.get(true).await.unwrap(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_renewal_matters_at_the_end() {
        let desk = Desk::new();
        desk.get(true).await.unwrap();
        tokio::time::advance(HOUR - Duration::from_secs(60)).await;
        assert_eq!(desk.get(false).await.unwrap(), 1);
        tokio::time::advance(Duration::from_secs(51)).await;
        assert!(desk.get(false).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn one_refused_is_forgotten_once() {
        let desk = Desk::new();
        let old = Token(9, Instant::now() + HOUR);
        desk.0.set(old.clone()).await;
        assert_eq!(desk.get(true).await.unwrap(), 9);
        for _ in 0..3 {
            // The second and third of these tasks used the old one, too.
            desk.0.refused(&old).await;
            assert_eq!(desk.get(true).await.unwrap(), 1);
        }
    }
}
