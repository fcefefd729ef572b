//! What goes wrong with a call to a service's API: one error for the services of all providers.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use reqwest::header::HeaderMap;

use super::{Error, Transient, retry_after};

/// An error of whatever made the credentials or the set-up.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nothing to sign requests with.
    #[error("cannot get {of} credentials")]
    Credentials {
        /// The provider, as people call it.
        of: &'static str,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The call cannot be made as things are set up. Nothing was sent.
    #[error("{what}")]
    Setup {
        /// What is wrong.
        what: String,
        /// Why.
        #[source]
        source: Option<Cause>,
    },
    /// No answer, or none that arrived whole.
    #[error("{call} failed")]
    Transport {
        /// The API call.
        call: Cow<'static, str>,
        /// Why.
        #[source]
        source: Error,
    },
    /// The service refused.
    #[error("{call}: {refusal}")]
    Refused {
        /// The API call.
        call: Cow<'static, str>,
        /// What the service said.
        refusal: Box<Refusal>,
    },
    /// The answer is not what the API promises.
    #[error("the answer to {call} cannot be understood: {reason}")]
    Answer {
        /// The API call.
        call: Cow<'static, str>,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a refusal means, whatever the provider calls it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// The object does not exist, any more or yet.
    NotFound,
    /// It exists already, or is not in the state that the call asks for.
    Conflict,
    /// Too many requests: not executed, and welcome again in a moment.
    Throttled,
    /// The caller may not do this.
    Denied,
    /// The credentials ran out; others may do.
    Expired,
    /// The provider has no room; another place or time may do.
    Capacity,
    /// The account may have no more of these.
    Quota,
    /// A passing trouble of the service itself: whether the call was executed is not known.
    Trouble,
    /// Anything else: the same request would be refused again.
    #[default]
    Invalid,
}

impl Class {
    /// What HTTP (RFC 9110) says of a status, for services that say no more.
    pub fn of_status(status: u16) -> Self {
        match status {
            401 => Self::Expired,
            403 => Self::Denied,
            404 | 410 => Self::NotFound,
            409 | 412 => Self::Conflict,
            429 => Self::Throttled,
            408 | 500 | 502..=504 => Self::Trouble,
            _ => Self::Invalid,
        }
    }
}

/// What a service says when it refuses.
#[derive(Clone, Debug, Default)]
pub struct Refusal {
    /// HTTP status; 0 where it says nothing, as with faults of SOAP and failed tasks.
    pub status: u16,
    /// The service's code, such as `InvalidSnapshot.NotFound`; absent on answers without body.
    pub code: Option<String>,
    /// Its message for people.
    pub message: Option<String>,
    /// Names the request to the provider's support.
    pub request: Option<String>,
    /// How long it asks to wait.
    pub retry_after: Option<Duration>,
    /// What it means.
    pub class: Class,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.code, &self.message) {
            (Some(code), Some(message)) => write!(f, "{code}: {message}")?,
            (Some(one), None) | (None, Some(one)) => f.write_str(one)?,
            (None, None) => f.write_str("refused")?,
        }
        match (self.status, &self.request) {
            (0, None) => Ok(()),
            (0, Some(id)) => write!(f, " (request {id})"),
            (status, None) => write!(f, " (HTTP {status})"),
            (status, Some(id)) => write!(f, " (HTTP {status}, request {id})"),
        }
    }
}

/// An answer that is a refusal, before a provider's [`Reader`] has read it.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: &'a HeaderMap,
    /// The first mebibyte of the body.
    pub body: &'a [u8],
}

/// Reads what one provider's refusals say.
pub type Reader = fn(&Refused<'_>) -> Refusal;

impl Refused<'_> {
    /// A refusal of which only status and headers are read; providers' readers begin with it.
    pub fn plain(&self) -> Refusal {
        Refusal {
            status: self.status,
            retry_after: retry_after(self.headers),
            class: Class::of_status(self.status),
            ..Refusal::default()
        }
    }

    /// The text of a header.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned)
    }
}

impl CallError {
    /// The refusal, if it is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }

    /// The call that failed; `None` when none was made.
    pub fn call(&self) -> Option<&str> {
        match self {
            Self::Transport { call, .. } | Self::Refused { call, .. } | Self::Answer { call, .. } => {
                Some(call)
            }
            Self::Credentials { .. } | Self::Setup { .. } => None,
        }
    }

    /// What the refusal means; `None` when the service did not refuse.
    pub fn class(&self) -> Option<Class> {
        self.refusal().map(|r| r.class)
    }

    /// The service's code, such as `InvalidSnapshot.NotFound`.
    pub fn code(&self) -> Option<&str> {
        self.refusal()?.code.as_deref()
    }

    /// The service's message.
    pub fn message(&self) -> Option<&str> {
        self.refusal()?.message.as_deref()
    }

    /// HTTP status of the refusal.
    pub fn status(&self) -> Option<u16> {
        self.refusal().map(|r| r.status)
    }

    /// Whether this is one of these codes.
    pub fn is(&self, codes: &[&str]) -> bool {
        self.code().is_some_and(|c| codes.contains(&c))
    }

    /// Whether the object does not exist (any more).
    pub fn is_not_found(&self) -> bool {
        self.class() == Some(Class::NotFound)
    }

    /// Whether the call was not executed for sure: refused for a reason, or never sent.
    pub fn is_certain(&self) -> bool {
        match self {
            Self::Credentials { .. } | Self::Setup { .. } => true,
            Self::Transport {
                source: Error::Transport { source, .. } | Error::Proxied { source, .. },
                ..
            } => source.is_connect(),
            Self::Transport { source: Error::Setup(_), .. } => true,
            Self::Transport { .. } | Self::Answer { .. } => false,
            Self::Refused { refusal, .. } => {
                refusal.status < 500 || !matches!(refusal.class, Class::Trouble | Class::Invalid)
            }
        }
    }

    /// Whether the call may have done its work all the same.
    pub fn is_doubtful(&self) -> bool {
        !self.is_certain() || self.class() == Some(Class::Trouble)
    }

    /// An answer that is not what the API promises.
    pub fn answer(call: impl Into<Cow<'static, str>>, reason: impl Into<String>) -> Self {
        Self::Answer { call: call.into(), reason: reason.into() }
    }

    /// A mistake in what was set up.
    pub fn setup(what: impl Into<String>) -> Self {
        Self::Setup { what: what.into(), source: None }
    }
}

impl Transient for CallError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Transport { source, .. } => source.is_transient(),
            Self::Refused { refusal, .. } => matches!(refusal.class, Class::Throttled | Class::Trouble),
            _ => false,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { refusal, .. } => refusal.retry_after,
            Self::Transport { source, .. } => source.retry_after(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, class: Class) -> CallError {
        let refusal = Box::new(Refusal { status, class, ..Refusal::default() });
        CallError::Refused { call: "Call".into(), refusal }
    }

    #[test]
    fn statuses_have_classes() {
        for (status, class) in [
            (400, Class::Invalid),
            (401, Class::Expired),
            (403, Class::Denied),
            (404, Class::NotFound),
            (408, Class::Trouble),
            (409, Class::Conflict),
            (412, Class::Conflict),
            (429, Class::Throttled),
            (500, Class::Trouble),
            (501, Class::Invalid),
            (503, Class::Trouble),
        ] {
            assert_eq!(Class::of_status(status), class, "{status}");
        }
    }

    #[test]
    fn what_is_certain_and_what_may_pass() {
        for (status, class, certain, transient) in [
            (503, Class::Throttled, true, true),
            (429, Class::Throttled, true, true),
            (500, Class::Trouble, false, true),
            (408, Class::Trouble, true, true),
            (500, Class::Capacity, true, false),
            (400, Class::Quota, true, false),
            (501, Class::Invalid, false, false),
            (400, Class::Invalid, true, false),
            (404, Class::NotFound, true, false),
        ] {
            let e = refused(status, class);
            assert_eq!((e.is_certain(), e.is_transient()), (certain, transient), "{status} {class:?}");
        }
        let e = CallError::answer("Call", "not JSON");
        assert!(!e.is_certain() && !e.is_transient() && e.class().is_none());
        let e = CallError::setup("no such region");
        assert!(e.is_certain() && !e.is_transient());
        assert_eq!(e.to_string(), "no such region");
    }
}
