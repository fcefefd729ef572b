//! Google: who we are (credentials) and what is stored there (Cloud Storage).

pub mod boto;
pub mod credentials;
mod jwt;
mod login;
pub mod sources;
pub mod storage;

use std::path::PathBuf;
use std::time::Duration;

use crate::http;

/// Full control of Cloud Storage.
pub const SCOPE_STORAGE: &str = "https://www.googleapis.com/auth/devstorage.full_control";
/// Reading Cloud Storage.
pub const SCOPE_STORAGE_READ: &str = "https://www.googleapis.com/auth/devstorage.read_only";
/// Compute Engine.
pub const SCOPE_COMPUTE: &str = "https://www.googleapis.com/auth/compute";

/// Where tokens come from, unless a key file says otherwise.
pub const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
/// Where people allow access in their browser.
pub const AUTH_URI: &str = "https://accounts.google.com/o/oauth2/v2/auth";

/// What can go wrong with credentials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of credentials cannot be read.
    #[error("cannot read credentials {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of credentials cannot be written.
    #[error("cannot write credentials {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of credentials is not what it should be. The reason never quotes the file: it holds secrets.
    #[error("parsing {}: {reason}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A variable of the environment is not what it should be.
    #[error("cannot use ${name}: {reason}")]
    Variable {
        /// The variable.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The private key could not sign.
    #[error("cannot sign with the private key of {account}")]
    Sign {
        /// The account's address.
        account: String,
        /// Why.
        #[source]
        source: openssl::error::ErrorStack,
    },
    /// The token server gave no token.
    #[error("cannot get a token with {origin}")]
    Token {
        /// Which credentials.
        origin: String,
        /// Why.
        #[source]
        source: http::Error,
    },
    /// The token server's answer is no token.
    #[error("cannot get a token with {origin}: {reason}")]
    Answer {
        /// Which credentials.
        origin: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The token has expired and these credentials cannot get another.
    #[error("the token of {origin} has expired and cannot be renewed without a client id and secret")]
    Expired {
        /// Which credentials.
        origin: String,
    },
    /// The metadata server was asked for, but this is no Compute Engine machine.
    #[error("no metadata server: this machine is not on Google Compute Engine")]
    NotOnGce,
    /// The person at the browser refused, or the browser was sent by somebody else.
    #[error("the login failed: {0}")]
    Refused(String),
    /// Nobody answered in the browser.
    #[error("nobody allowed access in the browser within {} s", .0.as_secs())]
    NoAnswer(Duration),
    /// The local server for the login failed.
    #[error("cannot wait for the browser on 127.0.0.1")]
    Listen(#[source] std::io::Error),
    /// The HTTP client could not be set up.
    #[error(transparent)]
    Http(http::Error),
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Undoes percent-encoding; `None` for a `%` without two hexadecimal digits and for what is not UTF-8 then.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            out.push(*first);
            continue;
        }
        let digits = tail.get(..2).filter(|d| d.iter().all(u8::is_ascii_hexdigit))?;
        out.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = &tail[2..];
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_goes_both_ways() {
        for (plain, coded) in [("a b/ü+c.vmdk", "a%20b%2F%C3%BC%2Bc.vmdk"), ("", ""), ("-._~", "-._~")] {
            assert_eq!(encode(plain), coded);
            assert_eq!(decode(coded).as_deref(), Some(plain));
        }
        for bad in ["%", "%2", "%zz", "%+1", "%ff"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
