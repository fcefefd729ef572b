//! The network of one flight.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use socket2::{Domain, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use super::hosts::{self, BRIDGE, Hosts, PREFIX_V4, PREFIX_V6};
use super::links::Netlink;
use super::{Dialer, Error, Lease, Namespace, dhcp, discovery, dns, ntp, ra, serve};
use crate::{notice, warning};

const LOG: &str = "network";
/// The bridge's name inside the namespace; also in the domain of the machines, `br0.local`.
const BRIDGE_NAME: &str = "br0";

/// A flight's private network: a namespace with the bridge `br0` (10.0.0.1/16, fd00::1/64) and, on it, DHCPv4,
/// DNS, IPv6 router advertisements and NTP. There is no way out of it.
///
/// Machines get an address record by [`LocalNet::allocate`] and an interface by [`LocalNet::tap`] or
/// [`LocalNet::veth`]. Services answer as soon as [`LocalNet::new`] returns. Dropping it ends them.
pub struct LocalNet {
    // Dropped in this order: the services first, the namespace last.
    tasks: Mutex<JoinSet<()>>,
    netlink: Netlink,
    bridge: u32,
    ipv6: bool,
    hosts: Arc<Hosts>,
    ntp: Arc<ntp::Server>,
    discovery: OnceCell<Arc<discovery::Server>>,
    namespace: Namespace,
}

impl LocalNet {
    /// Makes the namespace and the bridge and starts the services.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] without root; otherwise what the kernel refused (a missing bridge module, say).
    pub async fn new() -> Result<Self, Error> {
        Self::inside(Namespace::new()?).await
    }

    pub(super) async fn inside(namespace: Namespace) -> Result<Self, Error> {
        let netlink = Netlink::open(&namespace).await?;
        netlink.up("lo").await?;
        let bridge = netlink.add_bridge(BRIDGE_NAME, hosts::mac(BRIDGE)).await?;
        netlink.add_address(bridge, hosts::ipv4(BRIDGE).into(), PREFIX_V4).await?;
        // The link-local address is the one the kernel would make, but usable before the first guest appears.
        let ipv6 = async {
            netlink.add_address(bridge, ra::LINK_LOCAL.into(), PREFIX_V6).await?;
            netlink.add_address(bridge, hosts::ipv6(BRIDGE).into(), PREFIX_V6).await
        };
        let ipv6 = match ipv6.await {
            Ok(()) => true,
            Err(e) => {
                let why = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
                notice!(LOG, "no IPv6 for local machines: {e}{why}");
                false
            }
        };
        netlink.up(BRIDGE_NAME).await?;

        let net = Self {
            tasks: Mutex::new(JoinSet::new()),
            netlink,
            bridge,
            ipv6,
            hosts: Hosts::new(),
            ntp: Arc::new(ntp::Server::new()),
            discovery: OnceCell::new(),
            namespace,
        };
        net.start().await?;
        Ok(net)
    }

    async fn start(&self) -> Result<(), Error> {
        let dhcp_socket = self.bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, dhcp::PORT)).await?;
        let hosts = self.hosts.clone();
        self.spawn(serve::datagrams(dhcp_socket, "network/dhcp", move |packet, _| {
            dhcp::reply(&hosts, packet).map(|(bytes, to)| (bytes, to.into()))
        }));

        let dns_socket = self.udp(dns::PORT).await?;
        let hosts = self.hosts.clone();
        self.spawn(serve::datagrams(dns_socket, "network/dns", move |packet, from| {
            dns::reply(&hosts, packet).map(|bytes| (bytes, from))
        }));
        let listener = self.listen(dns::PORT).await?;
        self.spawn(dns::serve_tcp(listener, self.hosts.clone()));

        let (server, socket) = (self.ntp.clone(), self.udp(ntp::PORT).await?);
        self.spawn(async move { server.serve(&socket).await });

        if self.ipv6 {
            let bridge = self.bridge;
            let opened = self.namespace.run(move || ra::socket(BRIDGE_NAME, bridge)).await?;
            let socket = opened.and_then(UdpSocket::from_std);
            let socket = socket.map_err(Error::io("open a socket for router advertisements"))?;
            self.spawn(ra::serve(socket, bridge));
        }
        Ok(())
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        // The set is whole after any panic: its methods do not call foreign code.
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }

    /// The namespace, to start programs in it.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Takes the next free record; it is free again when the lease is dropped.
    ///
    /// # Errors
    /// [`Error::Exhausted`] when 500 are in use.
    pub fn allocate(&self) -> Result<Lease, Error> {
        self.hosts.allocate()
    }

    /// Makes a tap on the bridge for a virtual machine (`-netdev tap,fd=`). Its frames carry neither protocol
    /// information nor virtio headers. It goes away with the last copy of the descriptor.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Netlink`] as the kernel refuses.
    pub async fn tap(&self) -> Result<OwnedFd, Error> {
        self.netlink.add_tap(self.bridge).await
    }

    /// Gives namespace `other` an interface `name` on the bridge, up, with the MAC address of the lease and no
    /// IP address: for a machine that uses DHCP. It goes away with either namespace.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Netlink`] as the kernel refuses, for instance because the name is taken.
    pub async fn veth_bare(&self, lease: &Lease, other: &Namespace, name: &str) -> Result<(), Error> {
        self.connect(lease, other, name, false).await
    }

    /// As [`LocalNet::veth_bare`], with the IPv4 (/16) and IPv6 (/64) addresses of the lease already set.
    ///
    /// # Errors
    /// As [`LocalNet::veth_bare`].
    pub async fn veth(&self, lease: &Lease, other: &Namespace, name: &str) -> Result<(), Error> {
        self.connect(lease, other, name, true).await
    }

    /// Makes the interface; after an error nothing of it is left.
    async fn connect(
        &self,
        lease: &Lease,
        other: &Namespace,
        name: &str,
        addresses: bool,
    ) -> Result<(), Error> {
        let there = Netlink::open(other).await?;
        self.netlink.add_veth(self.bridge, other, name, lease.mac).await?;
        let index = there.index(name).await?;
        let finish = async {
            if addresses {
                there.add_address(index, lease.ipv4.into(), PREFIX_V4).await?;
            }
            if addresses && self.ipv6 {
                there.add_address(index, lease.ipv6.into(), PREFIX_V6).await?;
                lease.has_ipv6();
            }
            // Programs that join a namespace expect its loopback to work.
            there.up("lo").await?;
            there.up(name).await
        };
        let finished = finish.await;
        if finished.is_err()
            && let Err(e) = there.delete(index).await
        {
            warning!(LOG, "{e}");
        }
        finished
    }

    /// Connects to machines from outside the namespace.
    pub fn dialer(&self) -> Arc<Dialer> {
        Arc::new(Dialer::new(&self.namespace))
    }

    /// Listens on 10.0.0.1; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// [`Error::Io`], for instance because the port is taken.
    pub async fn listen(&self, port: u16) -> Result<tokio::net::TcpListener, Error> {
        let address = SocketAddrV4::new(self.host_ip(), port);
        let open = move || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let opened = self.namespace.run(open).await?.and_then(tokio::net::TcpListener::from_std);
        opened.map_err(Error::io(format!("listen on tcp {address} in the private network")))
    }

    /// A UDP socket on 10.0.0.1; port 0 lets the kernel choose. It does not receive broadcasts.
    ///
    /// # Errors
    /// [`Error::Io`], for instance because the port is taken.
    pub async fn udp(&self, port: u16) -> Result<UdpSocket, Error> {
        self.bind(SocketAddrV4::new(self.host_ip(), port)).await
    }

    async fn bind(&self, address: SocketAddrV4) -> Result<UdpSocket, Error> {
        let open = move || -> io::Result<std::net::UdpSocket> {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), None)?;
            socket.bind(&address.into())?;
            if address.ip().is_unspecified() {
                socket.bind_device(Some(BRIDGE_NAME.as_bytes()))?;
                socket.set_broadcast(true)?;
            }
            Ok(socket.into())
        };
        let opened = self.namespace.run(open).await?.and_then(UdpSocket::from_std);
        opened.map_err(Error::io(format!("listen on udp {address} in the private network")))
    }

    /// The address under which guests reach this process, 10.0.0.1.
    pub fn host_ip(&self) -> Ipv4Addr {
        hosts::ipv4(BRIDGE)
    }

    /// The flight's NTP server, to change its time.
    pub fn ntp(&self) -> Arc<ntp::Server> {
        self.ntp.clone()
    }

    /// A URL at which a cluster of `size` etcd members can find each other (`$discovery` in userdata). The
    /// service starts with the first call.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot listen, [`Error::StoreFull`] after thousands of keys.
    pub async fn discovery_url(&self, size: usize) -> Result<String, Error> {
        let start = async || {
            let listener = self.listen(0).await?;
            let address = listener.local_addr().map_err(Error::io("read the address of a socket"))?;
            let server = Arc::new(discovery::Server::new(address));
            self.spawn(server.clone().serve(listener));
            Ok(server)
        };
        self.discovery.get_or_try_init(start).await?.new_url(size)
    }

    /// Ends the services and waits for that. Interfaces and connections stay until the namespace goes, which is
    /// when this value, its dialers and all programs and sockets in it are gone.
    pub async fn destroy(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }
}
