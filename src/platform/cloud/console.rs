//! A machine's serial console, put together from what its provider shows of it: the last part only, now and then.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Console, Provider};
use crate::http::CallError;
use crate::poll::{self, Answer, scale};
use crate::text::chain;

/// Whoever wants to see the console more often sees what was there.
const FRESH: Duration = Duration::from_secs(10);
/// That much of a new log is looked for in the old one.
const OVERLAP: usize = 100;
/// Between two logs that do not overlap.
const CUT: &[u8] = b"\n\n8<------------------------\n\n";

/// The console of one machine as it grows.
pub(super) struct Recorder {
    machine: String,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    text: Vec<u8>,
    at: Option<Instant>,
    over: bool,
}

impl Recorder {
    pub(super) fn new(machine: String) -> Self {
        Self { machine, seen: Mutex::default() }
    }

    /// All that was said so far, asked for anew if the last answer is some seconds old.
    pub(super) async fn text<P: Provider>(&self, provider: &P) -> Option<Vec<u8>> {
        self.asked(provider, FRESH.mul_f64(scale())).await
    }

    /// The same, asked for anew.
    pub(super) async fn text_now<P: Provider>(&self, provider: &P) -> Option<Vec<u8>> {
        self.asked(provider, Duration::ZERO).await
    }

    async fn asked<P: Provider>(&self, provider: &P, fresh: Duration) -> Option<Vec<u8>> {
        if matches!(P::TRAITS.console, Console::None) {
            return None;
        }
        let mut seen = self.seen.lock().await;
        if !seen.over && seen.at.is_none_or(|at| at.elapsed() >= fresh) {
            if let Err(e) = self.refresh(provider, &mut seen).await {
                let text = format!("cannot get the console of {}: {}", self.machine, chain(&e));
                match fresh.is_zero() {
                    true => crate::warning!(P::TRAITS.platform, "{text}"),
                    false => crate::debug!(P::TRAITS.platform, "{text}"),
                }
            }
            seen.at = Some(Instant::now());
        }
        Some(seen.text.clone())
    }

    /// After the end: waits a while for the last words where the provider has them, and returns everything.
    pub(super) async fn last_words<P: Provider>(&self, provider: &P) -> Option<Vec<u8>> {
        let mut seen = self.seen.lock().await;
        seen.over = true;
        let wait = match P::TRAITS.console {
            Console::None => return None,
            Console::WhileRunning => return Some(seen.text.clone()),
            Console::AfterEnd(wait) => wait,
        };
        let before = seen.text.clone();
        let shared = Mutex::new(&mut *seen);
        let ask = || async {
            let mut seen = shared.lock().await;
            self.refresh(provider, &mut seen).await?;
            // What was asked for a moment ago cannot grow any more.
            let done = seen.text != before || (provider.console_is_live() && !before.is_empty());
            Ok::<_, CallError>(if done { Answer::Ready(()) } else { Answer::NotYet("unchanged".into()) })
        };
        // The run may be interrupted: that is no reason to lose the evidence.
        match wait.until("new console output", &CancellationToken::new(), ask).await {
            Ok(()) => {}
            Err(poll::Error::TimedOut { .. }) if !before.is_empty() => {
                crate::debug!(
                    P::TRAITS.platform,
                    "the console of {} did not change at its end",
                    self.machine
                );
            }
            Err(poll::Error::Failed(e)) if e.is_not_found() => {}
            Err(e) => {
                crate::error!(P::TRAITS.platform, "no console output of {}: {}", self.machine, chain(&e));
            }
        }
        let text = shared.into_inner().text.clone();
        Some(text)
    }

    async fn refresh<P: Provider>(&self, provider: &P, seen: &mut Seen) -> Result<(), CallError> {
        if let Some(new) = provider.console(&self.machine).await? {
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
