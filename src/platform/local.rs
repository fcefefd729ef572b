//! The private network of a local flight, as the platforms `qemu` and `nspawn` share it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use super::{Result, ResultExt};
use crate::network::{Dialer, LocalNet, ntp};
use crate::{omaha, ssh};

/// The port of the first Omaha server of a flight; the next ones count up.
const OMAHA_PORT: u16 = 30001;

/// A private network with its services.
pub struct Local {
    net: LocalNet,
    next_omaha: AtomicU16,
}

impl Local {
    /// Makes the network: namespace, bridge, DHCP, DNS, NTP. Needs root.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn new() -> Result<Arc<Self>> {
        let net = LocalNet::new().await.during(|| "cannot make the private network")?;
        Ok(Arc::new(Self { net, next_omaha: AtomicU16::new(OMAHA_PORT) }))
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

/// What kola offers to machines of the network, and to tests about it.
impl Local {
    /// The address of this host in the network.
    pub fn host_ip(&self) -> Ipv4Addr {
        self.net.host_ip()
    }

    /// The NTP server that guests learn of by DHCP.
    pub fn ntp(&self) -> Arc<ntp::Server> {
        self.net.ntp()
    }

    /// A fresh etcd discovery URL for a cluster of `size` members.
    ///
    /// # Errors
    /// When the service cannot be started.
    pub async fn discovery_url(&self, size: usize) -> Result<String> {
        self.net.discovery_url(size).await.during(|| "cannot start the discovery service")
    }

    /// A TCP listener on the network.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn listen(&self, port: u16) -> Result<tokio::net::TcpListener> {
        self.net.listen(port).await.during(|| format!("cannot listen on port {port} of the private network"))
    }

    /// An Omaha server of its own for a cluster, until the value is dropped.
    ///
    /// # Errors
    /// When its port is taken.
    pub async fn omaha(&self) -> Result<omaha::Running> {
        let port = self.next_omaha.fetch_add(1, Ordering::Relaxed);
        omaha::Running::start(self.listen(port).await?).during(|| "cannot start the Omaha server")
    }
}
