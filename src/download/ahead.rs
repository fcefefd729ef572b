//! Several ranges at a time, where one connection is slow: many servers limit each for itself.
//!
//! The order is kept, and only so much is fetched ahead as a few buffers hold. Whatever is not as expected ends it;
//! the engine then goes on with a single stream, which also finds out what is wrong.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use reqwest::header::{ACCEPT_ENCODING, IF_RANGE, RANGE};
use reqwest::{Method, StatusCode, Url};
use tokio_util::task::AbortOnDropHandle;

use super::Error;
use super::source::{Head, Validator, exact_range, http_validator};
use crate::http::{self, Client};

/// When ranges are fetched ahead, and how.
#[derive(Clone, Copy, Debug)]
pub struct Ranges {
    /// Only if at least so many bytes are to come.
    pub least: u64,
    /// Only if the network brings fewer bytes in a second, after the first [`Ranges::trial`].
    pub slow: u64,
    /// Bytes after which the rate is looked at.
    pub trial: u64,
    /// Bytes of each range.
    pub length: u64,
    /// Ranges at a time.
    pub connections: usize,
}

impl Default for Ranges {
    fn default() -> Self {
        Self { least: 64 << 20, slow: 32 << 20, trial: 4 << 20, length: 1 << 20, connections: 4 }
    }
}

/// How fast a stream is, without the time that was spent on its bytes.
#[derive(Default)]
pub struct Rate {
    bytes: u64,
    waited: Duration,
}

impl Rate {
    pub fn add(&mut self, bytes: u64, asked: Instant) {
        self.bytes += bytes;
        self.waited += asked.elapsed();
    }

    /// Whether the rest, so many bytes, is worth more connections.
    pub fn is_worth(&self, ranges: &Ranges, rest: u64) -> bool {
        let wanted = u128::from(ranges.slow) * self.waited.as_micros();
        rest >= ranges.least && self.bytes >= ranges.trial && u128::from(self.bytes) * 1_000_000 < wanted
    }
}

/// The rest of a body, in ranges.
pub struct Ahead {
    http: Client,
    url: Url,
    validator: Validator,
    total: u64,
    ranges: Ranges,
    /// The first byte nobody was asked for yet.
    at: u64,
    tasks: VecDeque<AbortOnDropHandle<Result<Vec<Bytes>, Error>>>,
    ready: VecDeque<Bytes>,
}

impl Ahead {
    /// From a byte on; `None` if ranges of this content cannot be joined.
    pub fn new(http: &Client, url: Url, head: &Head, at: u64, ranges: Ranges) -> Option<Self> {
        let validator = head.validator.clone()?;
        if !matches!(validator, Validator::Etag(_) | Validator::LastModified(_)) {
            return None;
        }
        let (tasks, ready) = (VecDeque::new(), VecDeque::new());
        Some(Self { http: http.clone(), url, validator, total: head.total?, ranges, at, tasks, ready })
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(Some(piece));
            }
            while self.tasks.len() < self.ranges.connections && self.at < self.total {
                let last = self.total.min(self.at + self.ranges.length) - 1;
                let (http, url, validator) = (self.http.clone(), self.url.clone(), self.validator.clone());
                let task = fetch(http, url, validator, self.at, last, self.total);
                self.tasks.push_back(AbortOnDropHandle::new(tokio::spawn(task)));
                self.at = last + 1;
            }
            let Some(task) = self.tasks.front_mut() else { return Ok(None) };
            let pieces = task.await;
            self.tasks.pop_front();
            self.ready = pieces.map_err(Error::thread)??.into();
        }
    }
}

/// One range, which must be exactly as asked for.
async fn fetch(
    http: Client,
    url: Url,
    validator: Validator,
    first: u64,
    last: u64,
    total: u64,
) -> Result<Vec<Bytes>, Error> {
    let (Validator::Etag(version) | Validator::LastModified(version)) = &validator else {
        return Err(Error::thread("no validator"));
    };
    let request = http
        .request(Method::GET, url.clone())
        .header(ACCEPT_ENCODING, "identity")
        .header(RANGE, format!("bytes={first}-{last}"))
        .header(IF_RANGE, version);
    let answer = http.send(request).await?;
    let surprise =
        |reason: &str| Error::Protocol { what: http::shown(&url), reason: format!("ranges: {reason}") };
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        return Err(surprise("another answer than a part"));
    }
    let (headers, expected) = (answer.headers(), (first, last, Some(total)));
    if exact_range(headers) != Some(expected) {
        return Err(surprise("another part than asked for"));
    }
    let is_same = match (http_validator(headers), &validator) {
        (Some(Validator::Etag(new)), Validator::Etag(old)) => new == *old,
        _ => true,
    };
    if !is_same {
        return Err(surprise("of another version"));
    }
    let (mut body, mut pieces, mut left) = (http.body(answer), Vec::new(), last - first + 1);
    while let Some(piece) = body.next().await? {
        left = left.checked_sub(piece.len() as u64).ok_or_else(|| surprise("too long"))?;
        pieces.push(piece);
    }
    if left > 0 {
        return Err(surprise("too short"));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_slow_and_long_streams_are_worth_it() {
        let ranges = Ranges::default();
        let rate = |bytes, millis| Rate { bytes, waited: Duration::from_millis(millis) };
        assert!(rate(4 << 20, 1000).is_worth(&ranges, 1 << 30));
        assert!(!rate(4 << 20, 1000).is_worth(&ranges, 1 << 20), "too little is left");
        assert!(!rate(1 << 20, 1000).is_worth(&ranges, 1 << 30), "too early");
        assert!(!rate(4 << 20, 10).is_worth(&ranges, 1 << 30), "fast enough");
    }
}
