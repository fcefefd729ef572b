//! Connections through a SOCKS5 proxy (RFC 1928).

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use hyper::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::SocksV5;
use tower_service::Service as _;

use super::{Dial, keep_alive, with_port};

/// Connects through a SOCKS5 proxy, which resolves the names.
#[derive(Clone, Debug)]
pub struct Socks {
    proxy: Uri,
    runtime: tokio::runtime::Handle,
}

impl Socks {
    /// Through the proxy at `HOST:PORT`. To be called inside a runtime, which must outlive the connecting.
    ///
    /// # Errors
    /// When that is no address with a port.
    pub fn new(proxy: &str) -> io::Result<Self> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidInput, format!("{proxy:?} is no HOST:PORT"));
        let uri: Uri = format!("http://{proxy}").parse().map_err(|_| wrong())?;
        if uri.port().is_none() || uri.path() != "/" || proxy.contains('@') {
            return Err(wrong());
        }
        let runtime = tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
        Ok(Self { proxy: uri, runtime })
    }
}

impl Dial for Socks {
    fn dial(&self, address: &str, timeout: Duration) -> io::Result<TcpStream> {
        let to: Uri = format!("http://{}", with_port(address)).parse().map_err(io::Error::other)?;
        let connect = async {
            let connecting = SocksV5::new(self.proxy.clone(), HttpConnector::new()).call(to);
            tokio::time::timeout(timeout, connecting).await
        };
        // On a session's own thread, where blocking is allowed.
        let stream = self.runtime.block_on(connect).map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
        let stream = stream.map_err(|e| {
            io::Error::other(format!("through the SOCKS5 proxy {}: {}", self.proxy, crate::text::chain(&e)))
        })?;
        let stream = stream.into_inner().into_std()?;
        stream.set_nonblocking(false)?;
        keep_alive(&stream)?;
        Ok(stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn proxies_have_a_host_and_a_port() {
        assert!(Socks::new("127.0.0.1:1080").is_ok() && Socks::new("[::1]:1080").is_ok());
        for wrong in ["", "host", "http://host:1", "user:pass@host:1", "host:1/path", "host:port"] {
            assert!(Socks::new(wrong).is_err(), "{wrong}");
        }
    }
}
