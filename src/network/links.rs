//! Interfaces: what `ip link` and `ip addr` would do, by rtnetlink, and taps.

use std::fs::OpenOptions;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};
use tokio_util::task::AbortOnDropHandle;

use super::{Error, Namespace};

/// A netlink socket inside a namespace.
pub(super) struct Netlink {
    handle: Handle,
    namespace: Namespace,
    _pump: AbortOnDropHandle<()>,
}

fn netlink(action: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
    let action = action.into();
    move |source| match source {
        // The numbers alone say little; std words them.
        rtnetlink::Error::NetlinkError(message) => Error::Io { action, source: message.to_io() },
        source => Error::Netlink { action, source },
    }
}

impl Netlink {
    pub async fn open(namespace: &Namespace) -> Result<Self, Error> {
        let runtime = tokio::runtime::Handle::current();
        let opened = namespace.run(move || {
            let _inside = runtime.enter();
            rtnetlink::new_connection()
        });
        let (connection, handle, _) = opened.await?.map_err(Error::io("open a netlink socket"))?;
        let pump = AbortOnDropHandle::new(tokio::spawn(connection));
        Ok(Self { handle, namespace: namespace.clone(), _pump: pump })
    }

    /// The kernel's number of the interface.
    pub async fn index(&self, name: &str) -> Result<u32, Error> {
        let wanted = name.to_owned();
        let found = self.namespace.run(move || nix::net::if_::if_nametoindex(wanted.as_str())).await?;
        found.map_err(|e| Error::io(format!("find interface {name}"))(e.into()))
    }

    pub async fn up(&self, name: &str) -> Result<(), Error> {
        let link = LinkUnspec::new_with_name(name).up().build();
        self.handle.link().set(link).execute().await.map_err(netlink(format!("bring up interface {name}")))
    }

    /// Makes a bridge, still down. It floods multicast, because no router is there to say who wants it.
    pub async fn add_bridge(&self, name: &str, mac: [u8; 6]) -> Result<u32, Error> {
        let link = LinkBridge::new(name).mcast_snooping(false).address(mac.to_vec()).build();
        self.handle.link().add(link).execute().await.map_err(netlink(format!("make bridge {name}")))?;
        self.index(name).await
    }

    /// Adds an address, at once usable: nobody else can have it, so there is nothing to detect.
    pub async fn add_address(&self, index: u32, address: IpAddr, prefix: u8) -> Result<(), Error> {
        let mut request = self.handle.address().add(index, address, prefix);
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request.execute().await.map_err(netlink(format!("set address {address}/{prefix}")))
    }

    /// Makes a pair of interfaces: one here, up, on `bridge` with a name the kernel picks, the other in namespace
    /// `other`, still down, as `name` with this MAC address.
    pub async fn add_veth(
        &self,
        bridge: u32,
        other: &Namespace,
        name: &str,
        mac: [u8; 6],
    ) -> Result<(), Error> {
        let there: Arc<OwnedFd> = other.fd();
        let peer = LinkUnspec::new_with_name(name).address(mac.to_vec()).setns_by_fd(there.as_raw_fd());
        let link = LinkMessageBuilder::<LinkVeth>::new("veth%d", name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())))
            .controller(bridge)
            .up()
            .build();
        let action = format!("make interface {name} in the machine's network namespace");
        self.handle.link().add(link).execute().await.map_err(netlink(action))
    }

    pub async fn delete(&self, index: u32) -> Result<(), Error> {
        self.handle.link().del(index).execute().await.map_err(netlink("delete an interface"))
    }

    /// Makes a tap on `bridge`, up, with a name the kernel picks. It goes with the last copy of its descriptor.
    pub async fn add_tap(&self, bridge: u32) -> Result<OwnedFd, Error> {
        let made = self.namespace.run(open_tap).await?;
        let (tap, name) = made.map_err(Error::io("make a tap device with /dev/net/tun"))?;
        let link = LinkUnspec::new_with_name(&name).controller(bridge).up().build();
        let set = self.handle.link().set(link).execute().await;
        set.map_err(netlink(format!("attach {name} to the bridge")))?;
        Ok(tap)
    }
}

#[expect(unsafe_code, reason = "TUNSETIFF has no safe wrapper")]
fn open_tap() -> io::Result<(OwnedFd, String)> {
    use nix::libc::{IFF_NO_PI, IFF_TAP, TUNSETIFF, c_short, ifreq, ioctl};

    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: ifreq is plain data; all zeros is an empty name and no flags.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_flags = c_short::try_from(IFF_TAP | IFF_NO_PI).map_err(io::Error::other)?;
    // SAFETY: TUNSETIFF reads and writes exactly one ifreq (linux/if_tun.h), which outlives the call.
    if unsafe { ioctl(tun.as_raw_fd(), TUNSETIFF as _, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let name = request.ifr_name.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
    Ok((tun.into(), String::from_utf8(name).map_err(io::Error::other)?))
}
