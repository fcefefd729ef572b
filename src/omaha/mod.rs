//! Omaha, the protocol by which Container Linux asks for updates (version 3.0), and a server that speaks it.
//!
//! update_engine posts a [`Request`] that names its applications; each may ping, ask for an update and tell of events.
//! The [`Response`] has the same applications, with where to fetch a new version. [`Server`] offers the files it was
//! given to everybody who asks, and remembers what it was asked and told.

mod files;
mod protocol;
mod server;
mod xml;

use std::io;
use std::path::PathBuf;

pub use files::describe;
pub use protocol::{
    Action, Actions, AppStatus, DayStart, Event, Manifest, Os, Package, Packages, Ping, Request, RequestApp,
    Response, ResponseApp, ResponseUpdateCheck, Status, Update, UpdateCheck, UpdateStatus, Url, Urls,
    event_result, event_type,
};
pub use server::{Running, Seen, Server, Verdict};

/// Longest document that is read, in bytes: upstream's limit for requests.
pub const MAX_DOCUMENT: usize = 1 << 20;

/// What can go wrong with documents and packages.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The document is not what it should be.
    #[error("not an Omaha {wanted}: {why}")]
    Malformed {
        /// The root element that was expected.
        wanted: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A document that cannot be written: a text in it has no place in XML.
    #[error("cannot write XML: {0}")]
    Write(#[from] quick_xml::SeError),
    /// A name that could not be part of a URL, or that would lead elsewhere.
    #[error("invalid package name {0:?}")]
    Name(String),
    /// A file that cannot be offered.
    #[error("cannot read package {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
