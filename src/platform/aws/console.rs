//! The serial console of an instance, put together from what GetConsoleOutput shows of it.
//!
//! AWS keeps the last 64 KiB, and older instance types are only asked at the start and at the end of their life.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cloud::aws::api::{self, Api};
use crate::http::retry::scale;
use crate::poll::{self, Answer, Poll};
use crate::text::chain;

/// Whoever wants to see the console more often sees what was there.
const FRESH: Duration = Duration::from_secs(10);
/// How long the last words may take after the end of the instance.
const LAST_WORDS: Poll = Poll::seconds(5, 30);
/// That much of a new log is looked for in the old one.
const OVERLAP: usize = 100;
/// Between two logs that do not overlap.
const CUT: &[u8] = b"\n\n8<------------------------\n\n";

/// A console as it grows.
pub(super) struct Console {
    api: Api,
    instance: String,
    /// What is there now can be asked for; false once a type of instance refused that.
    latest: Arc<AtomicBool>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    text: Vec<u8>,
    at: Option<Instant>,
    over: bool,
}

impl Console {
    pub(super) fn new(api: Api, instance: String, latest: Arc<AtomicBool>) -> Self {
        Self { api, instance, latest, seen: Mutex::default() }
    }

    /// All that was said so far, asked for anew if the last answer is some seconds old.
    pub(super) async fn text(&self) -> Vec<u8> {
        let mut seen = self.seen.lock().await;
        if !seen.over && seen.at.is_none_or(|at| at.elapsed() >= FRESH.mul_f64(scale())) {
            if let Err(e) = self.refresh(&mut seen).await {
                crate::debug!("platform/aws", "no console of {}: {}", self.instance, chain(&e));
            }
            seen.at = Some(Instant::now());
        }
        seen.text.clone()
    }

    /// Before the end: what is there. A failure is only a warning.
    pub(super) async fn before_end(&self) {
        let mut seen = self.seen.lock().await;
        if let Err(e) = self.refresh(&mut seen).await {
            crate::warning!("platform/aws", "cannot get the console of {}: {}", self.instance, chain(&e));
        }
        seen.at = Some(Instant::now());
    }

    /// After the end: waits a while for the last words, and returns everything.
    pub(super) async fn after_end(&self) -> Vec<u8> {
        let mut seen = self.seen.lock().await;
        seen.over = true;
        let before = seen.text.clone();
        let seen = Mutex::new(&mut *seen);
        let ask = || async {
            let mut seen = seen.lock().await;
            self.refresh(&mut seen).await?;
            // What was asked for a moment ago cannot grow any more.
            let done = seen.text != before || (self.latest.load(Ordering::SeqCst) && !before.is_empty());
            Ok::<_, api::Error>(if done { Answer::Ready(()) } else { Answer::NotYet("unchanged".into()) })
        };
        // The run may be interrupted: that is no reason to lose the evidence.
        let waited = LAST_WORDS.until("new console output", &CancellationToken::new(), ask).await;
        match waited {
            Ok(()) => {}
            Err(poll::Error::TimedOut { .. }) if !before.is_empty() => {
                crate::debug!("platform/aws", "the console of {} did not change at its end", self.instance);
            }
            Err(poll::Error::Failed(e)) if e.is_not_found() => {}
            Err(e) => {
                crate::error!("platform/aws", "no console output of {}: {}", self.instance, chain(&e));
            }
        }
        let seen = seen.into_inner();
        seen.text.clone()
    }

    async fn refresh(&self, seen: &mut Seen) -> api::Result<()> {
        let mut latest = self.latest.load(Ordering::SeqCst);
        let mut answer = self.api.console_output(&self.instance, latest).await;
        // Types of the older generation have no such thing.
        if latest
            && answer.as_ref().is_err_and(|e| e.is(&["UnsupportedOperation", "InvalidParameterCombination"]))
        {
            latest = false;
            self.latest.store(latest, Ordering::SeqCst);
            answer = self.api.console_output(&self.instance, latest).await;
        }
        if let Some(new) = answer? {
            seen.text = merge(&seen.text, new);
        }
        Ok(())
    }
}

/// The old log, continued by a new one that may begin later.
fn merge(old: &[u8], new: Vec<u8>) -> Vec<u8> {
    if old.is_empty() || new.is_empty() {
        return if new.is_empty() { old.to_vec() } else { new };
    }
    if new.starts_with(old) {
        return new;
    }
    let head = &new[..new.len().min(OVERLAP)];
    // Backwards: a log may repeat itself.
    match (0..old.len()).rev().find(|&at| old[at..].starts_with(head)) {
        // An answer from before the last one.
        Some(at) if old[at..].starts_with(&new) => old.to_vec(),
        Some(at) => [&old[..at], &new].concat(),
        None => [old, CUT, &new].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_joined_where_they_overlap() {
        let line = |n: u32| format!("line {n:03} of the console\n");
        let log = |from, to| (from..to).map(line).collect::<String>().into_bytes();
        let cut = |a: Vec<u8>, b: Vec<u8>| [a, CUT.to_vec(), b].concat();
        for (old, new, both) in [
            (log(0, 0), log(0, 9), log(0, 9)),
            (log(0, 9), log(0, 0), log(0, 9)),
            (log(0, 9), log(0, 9), log(0, 9)),
            (log(0, 9), log(0, 20), log(0, 20)),
            (log(0, 20), log(15, 40), log(0, 40)),
            (log(0, 20), log(0, 9), log(0, 20)),
            (log(0, 20), log(30, 40), cut(log(0, 20), log(30, 40))),
            (log(0, 20), log(19, 20), log(0, 20)),
        ] {
            assert_eq!(String::from_utf8(merge(&old, new)).unwrap(), String::from_utf8(both).unwrap());
        }
        assert_eq!(merge(b"short", b"short but longer".to_vec()), b"short but longer");
        // The last place where it fits.
        let twice = [log(0, 9), log(0, 9)].concat();
        assert_eq!(merge(&twice, log(0, 12)), [log(0, 9), log(0, 12)].concat());
        assert_eq!(merge(b"ab", b"b!".to_vec()), [b"ab", CUT, b"b!"].concat());
    }
}
