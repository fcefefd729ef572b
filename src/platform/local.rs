//! The private network of a local flight, as the platforms `qemu` and `nspawn` share it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{LocalServices, Result, ResultExt};
use crate::network::{Dialer, LocalNet, ntp};
use crate::ssh;

/// A private network with its services.
pub struct Local {
    net: LocalNet,
}

impl Local {
    /// Makes the network: namespace, bridge, DHCP, DNS, NTP. Needs root.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn new() -> Result<Arc<Self>> {
        let net = LocalNet::new().await.during(|| "cannot make the private network")?;
        Ok(Arc::new(Self { net }))
    }

    /// The network.
    pub fn net(&self) -> &LocalNet {
        &self.net
    }

    /// Opens connections to its machines.
    pub fn dialer(&self) -> Arc<dyn ssh::Dial> {
        Arc::new(Inside(self.net.dialer()))
    }

    /// Takes it down.
    pub async fn destroy(&self) {
        self.net.destroy().await;
    }
}

struct Inside(Arc<Dialer>);

impl ssh::Dial for Inside {
    fn dial(&self, address: &str, timeout: Duration) -> std::io::Result<std::net::TcpStream> {
        self.0.dial(address, timeout)
    }
}

#[async_trait]
impl LocalServices for Local {
    fn host_ip(&self) -> Ipv4Addr {
        self.net.host_ip()
    }

    fn ntp(&self) -> Arc<ntp::Server> {
        self.net.ntp()
    }

    async fn discovery_url(&self, size: usize) -> Result<String> {
        self.net.discovery_url(size).await.during(|| "cannot start the discovery service")
    }

    async fn listen(&self, port: u16) -> Result<tokio::net::TcpListener> {
        self.net.listen(port).await.during(|| format!("cannot listen on port {port} of the private network"))
    }
}
