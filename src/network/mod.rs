//! A private network for the machines of one flight: a namespace of its own, a bridge, and the few services
//! guests need there (DHCPv4, DNS, IPv6 router advertisements, NTP, etcd discovery), all in this process.
//!
//! Nothing here has a name on the host: the namespace lives by its descriptor and its thread, so even after
//! `kill -9` nothing stays behind, and two flights never meet.

mod dhcp;
pub mod discovery;
mod dns;
mod hosts;
mod links;
mod local;
mod namespace;
pub mod ntp;
mod ra;
pub(crate) mod serve;

#[cfg(test)]
mod tests;

use std::io;

pub use hosts::Lease;
pub use local::LocalNet;
pub use namespace::{Dialer, Namespace};

/// What can go wrong with a private network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process may not make network namespaces.
    #[error("a private network needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN)")]
    NotPermitted(#[source] io::Error),
    /// The work handed to the thread of the namespace panicked, or the thread is gone.
    #[error("the thread of the network namespace did not answer")]
    Lost,
    /// The kernel refused to make or change an interface.
    #[error("cannot {action}")]
    Netlink {
        /// What was tried.
        action: String,
        /// The kernel's answer.
        #[source]
        source: rtnetlink::Error,
    },
    /// A system call on a socket or device failed.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// All addresses are in use.
    #[error("all {0} addresses of the private network are taken")]
    Exhausted(usize),
    /// A host name that cannot be a label of a domain name.
    #[error("{0:?} is not a host name")]
    HostName(String),
    /// The discovery service of the Internet did not answer.
    #[error("cannot get a cluster's URL from {url}")]
    Discovery {
        /// What was asked for.
        url: String,
        /// Why.
        #[source]
        source: Box<crate::http::Error>,
    },
    /// Something that should be a URL is none.
    #[error("{0} is no URL")]
    NoUrl(String),
    /// The key store for etcd discovery has reached its bound.
    #[error("the etcd discovery service has no room for another cluster")]
    StoreFull,
}

impl Error {
    fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}
