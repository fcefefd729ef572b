//! Trying again: how often, how long apart, and for which errors.

use std::time::Duration;

use crate::text::chain;

/// Errors that tell whether they may pass by themselves.
pub trait Transient: std::error::Error {
    /// Whether the same request may succeed in a moment.
    fn is_transient(&self) -> bool;

    /// How long the other side asked to wait.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
}

/// How often and how long apart to try.
#[derive(Clone, Debug)]
pub struct Retry {
    /// Tries in all.
    pub tries: u32,
    /// The mean wait after the first failure; doubled after each further one.
    pub first: Duration,
    /// No wait is longer, whatever the server asks for.
    pub longest: Duration,
}

/// Multiplies all waits; for tests.
const SCALE: &str = "MANTLE_POLL_SCALE";

/// What the environment multiplies waits with.
pub fn scale() -> f64 {
    scale_of(std::env::var(SCALE).ok().as_deref())
}

/// What a value of `MANTLE_POLL_SCALE` multiplies waits with.
pub fn scale_of(text: Option<&str>) -> f64 {
    let scale = text.and_then(|s| s.parse::<f64>().ok());
    scale.filter(|s| (0.0..=1000.0).contains(s)).unwrap_or(1.0)
}

impl Default for Retry {
    fn default() -> Self {
        Self { tries: 5, first: Duration::from_millis(500), longest: Duration::from_secs(60) }
    }
}

impl Retry {
    /// The default, its waits multiplied by the environment's `MANTLE_POLL_SCALE`.
    pub fn from_environment() -> Self {
        Self::scaled(scale())
    }

    /// The default, its waits multiplied.
    pub fn scaled(scale: f64) -> Self {
        let Self { tries, first, longest } = Self::default();
        Self { tries, first: first.mul_f64(scale), longest: longest.mul_f64(scale) }
    }

    /// Tries to be spent.
    pub fn budget(&self) -> Budget<'_> {
        Budget { policy: self, failures: 0 }
    }
}

/// What is left of a [`Retry`].
#[derive(Debug)]
pub struct Budget<'a> {
    policy: &'a Retry,
    failures: u32,
}

impl Budget<'_> {
    /// Logs the error and waits before the next try.
    ///
    /// # Errors
    /// The error itself, when trying again is no use or the tries are spent.
    pub async fn again<E: Transient>(&mut self, component: &str, error: E) -> Result<(), E> {
        self.failures += 1;
        if !error.is_transient() || self.failures >= self.policy.tries {
            return Err(error);
        }
        let wait = self.wait(error.retry_after());
        crate::warning!(
            component,
            "{}; trying again in {:.1} s (try {} of {})",
            chain(&error),
            wait.as_secs_f32(),
            self.failures + 1,
            self.policy.tries
        );
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Forgets earlier failures, because there was progress.
    pub fn refill(&mut self) {
        self.failures = 0;
    }

    /// Half to one and a half of the mean, so that many clients do not come back at once.
    fn wait(&self, asked: Option<Duration>) -> Duration {
        let mean = self.policy.first.saturating_mul(1 << (self.failures - 1).min(16));
        let mut random = [0];
        // Without random numbers the wait is merely less random.
        let _ = openssl::rand::rand_bytes(&mut random);
        let jittered = mean.mul_f64(0.5 + f64::from(random[0]) / 255.0);
        jittered.max(asked.unwrap_or_default()).min(self.policy.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("trouble")]
    struct Trouble(bool, Option<Duration>);

    impl Transient for Trouble {
        fn is_transient(&self) -> bool {
            self.0
        }
        fn retry_after(&self) -> Option<Duration> {
            self.1
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_is_spent_and_refilled() {
        let retry = Retry { tries: 3, ..Retry::default() };
        let mut budget = retry.budget();
        assert!(budget.again("test", Trouble(false, None)).await.is_err());
        let mut budget = retry.budget();
        for _ in 0..2 {
            budget.again("test", Trouble(true, None)).await.unwrap();
            budget.again("test", Trouble(true, None)).await.unwrap();
            budget.refill();
        }
        budget.again("test", Trouble(true, None)).await.unwrap();
        budget.again("test", Trouble(true, None)).await.unwrap();
        assert!(budget.again("test", Trouble(true, None)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn waits_grow_heed_the_server_and_have_a_limit() {
        let retry = Retry::default();
        let mut budget = retry.budget();
        let mut last = Duration::ZERO;
        for asked in [None, None, Some(Duration::from_secs(30)), Some(Duration::from_secs(3600))] {
            let before = tokio::time::Instant::now();
            budget.again("test", Trouble(true, asked)).await.unwrap();
            let waited = before.elapsed();
            assert!(waited >= last.mul_f64(0.6), "{waited:?} after {last:?}");
            assert!(waited >= asked.unwrap_or_default().min(retry.longest));
            assert!(waited <= retry.longest + Duration::from_millis(2));
            last = waited;
        }
    }
}
