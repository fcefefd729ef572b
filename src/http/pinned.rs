//! A server that is known by its own certificate only, whoever signed that, and whatever name is in it.
//!
//! The TLS library under the HTTP client looks at whole chains only. So the client speaks in the clear to a socket in a
//! folder that nobody else can enter; behind it each connection is made with TLS, and nothing is sent before the
//! server has shown the certificate.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use openssl::hash::{MessageDigest, hash};
use reqwest::Url;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, UnixListener};
use tokio::task::{JoinHandle, JoinSet};
use tokio_native_tls::{TlsConnector, TlsStream, native_tls};

use super::{Limits, retry};
use crate::text::{chain, hex};

const COMPONENT: &str = "http";

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Unpinned {
    /// The server could not be reached, or the socket cannot be made.
    #[error("no connection to {to}")]
    Connection {
        /// Where to.
        to: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No TLS is spoken there.
    #[error("no TLS with {to}")]
    Tls {
        /// Where to.
        to: String,
        /// Why.
        #[source]
        source: native_tls::Error,
    },
    /// It is somebody else.
    #[error("the certificate of {to} is not trusted: its thumbprint is {is}")]
    Other {
        /// Where to.
        to: String,
        /// The thumbprint of its certificate.
        is: String,
    },
}

/// The way to such a server; closed when dropped.
#[derive(Debug)]
pub struct Pinned {
    socket: PathBuf,
    _folder: tempfile::TempDir,
    task: JoinHandle<()>,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Far {
    host: String,
    port: u16,
    print: Vec<u8>,
    limit: Duration,
}

impl Pinned {
    /// To the server of a URL, whose certificate has this SHA-1 or SHA-256. It is asked for at once.
    ///
    /// # Errors
    /// When it cannot be reached, or has another certificate.
    pub async fn start(url: &Url, print: Vec<u8>) -> Result<Self, Unpinned> {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or(443);
        let far = Far { host, port, print, limit: Limits::of_service(retry::scale()).connect };
        drop(far.connect().await?);
        let failed = |source| Unpinned::Connection { to: far.name(), source };
        let folder = tempfile::Builder::new().prefix("mantle-pinned-").tempdir().map_err(failed)?;
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).map_err(failed)?;
        let task = tokio::spawn(serve(listener, far));
        Ok(Self { socket, _folder: folder, task })
    }

    /// The socket behind which the server is.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

async fn serve(listener: UnixListener, far: Far) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            near = listener.accept() => match near {
                Ok((mut near, _)) => {
                    let far = far.clone();
                    connections.spawn(async move {
                        match far.connect().await {
                            // Either may leave as it likes.
                            Ok(mut far) => drop(copy_bidirectional(&mut near, &mut far).await),
                            Err(e) => crate::warning!(COMPONENT, "{}", chain(&e)),
                        }
                    });
                }
                Err(e) => crate::warning!(COMPONENT, "{e}"),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

impl Far {
    fn name(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// A connection on which the server has shown its certificate.
    async fn connect(&self) -> Result<TlsStream<TcpStream>, Unpinned> {
        let failed = |source| Unpinned::Connection { to: self.name(), source };
        let odd = |source| Unpinned::Tls { to: self.name(), source };
        let mut builder = native_tls::TlsConnector::builder();
        // It is looked at below.
        let builder = builder.danger_accept_invalid_certs(true).danger_accept_invalid_hostnames(true);
        let connector = TlsConnector::from(builder.build().map_err(odd)?);
        let connected = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(failed)?;
            connector.connect(&self.host, stream).await.map_err(odd)
        };
        let late = |_| failed(io::ErrorKind::TimedOut.into());
        let stream = tokio::time::timeout(self.limit, connected).await.map_err(late)??;
        let certificate = stream.get_ref().peer_certificate().map_err(odd)?;
        let der = certificate.map(|c| c.to_der()).transpose().map_err(odd)?.unwrap_or_default();
        let digest = if self.print.len() == 20 { MessageDigest::sha1() } else { MessageDigest::sha256() };
        let is = hash(digest, &der).map_err(|e| failed(io::Error::other(e)))?;
        match *is == *self.print {
            true => Ok(stream),
            false => Err(Unpinned::Other { to: self.name(), is: hex(&is) }),
        }
    }
}
