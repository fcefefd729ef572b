//! IPv6 router advertisements (RFC 4861, 4.2 and 6.2): they let guests make themselves an address in fd00::/64.
//!
//! The router lifetime is 0, because there is nothing to route to: guests get addresses and no default route.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::MissedTickBehavior;

use super::hosts::{self, BRIDGE, PREFIX_V6};
use crate::{debug, trace, warning};

const LOG: &str = "network/ra";
/// The bridge's link-local address, made from its MAC address (RFC 4291, appendix A).
pub(super) const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// The default of MaxRtrAdvInterval (6.2.1).
const INTERVAL: Duration = Duration::from_secs(600);
/// The defaults of AdvValidLifetime and AdvPreferredLifetime (6.2.1), in seconds.
const VALID: u32 = 30 * 24 * 3600;
const PREFERRED: u32 = 7 * 24 * 3600;

/// The socket for [`serve`]; to be opened inside the namespace. It is a raw one in the clothes of a UDP socket,
/// of which only sendto(2) and recvfrom(2) are used: they work alike on both.
pub(super) fn socket(bridge: &str, index: u32) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW.nonblocking(), Some(Protocol::ICMPV6))?;
    socket.bind_device(Some(bridge.as_bytes()))?;
    // Receivers drop anything with fewer hops left, because it may come from afar.
    socket.set_multicast_hops_v6(255)?;
    socket.set_multicast_if_v6(index)?;
    socket.set_multicast_loop_v6(false)?;
    socket.join_multicast_v6(&ALL_ROUTERS, index)?;
    Ok(socket.into())
}

/// The message; the kernel fills in the checksum.
fn advertisement() -> Vec<u8> {
    // Type, code, checksum; hop limit 64, no flags, router lifetime 0; reachable time and retransmission timer
    // unspecified.
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // Source link-layer address (option 1, in units of 8 bytes).
    message.extend([1, 1]);
    message.extend(hosts::mac(BRIDGE));
    // Prefix information (option 3) with the flags on-link and autonomous.
    message.extend([3, 4, PREFIX_V6, 0xc0]);
    message.extend(VALID.to_be_bytes());
    message.extend(PREFERRED.to_be_bytes());
    message.extend([0; 4]);
    message.extend(hosts::ipv6(0).octets());
    message
}

/// Advertises now, from time to time, and whenever a guest asks, until aborted.
pub(super) async fn serve(socket: UdpSocket, index: u32) {
    let message = advertisement();
    // Always to all: whoever asks may do so without an address yet.
    let to = SocketAddrV6::new(ALL_NODES, 0, 0, index);
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut buffer = [0; 2048];
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            got = socket.recv_from(&mut buffer) => match got {
                // All ICMPv6 messages arrive here, from the type on.
                Ok((length, from)) if length >= 8 && buffer[0] == SOLICITATION => trace!(LOG, "{from} asks"),
                Ok(_) => continue,
                Err(e) => {
                    warning!(LOG, "cannot receive: {e}");
                    continue;
                }
            },
        }
        if let Err(e) = socket.send_to(&message, to).await {
            debug!(LOG, "cannot advertise: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_laid_out_as_rfc_4861_says() {
        let message = advertisement();
        assert_eq!(message.len(), 16 + 8 + 32);
        assert_eq!(message[16..24], [1, 1, 2, 0, 0, 0, 0, 1]);
        assert_eq!(message[24..28], [3, 4, 64, 0xc0]);
        assert_eq!(message[28..36], [0x00, 0x27, 0x8d, 0x00, 0x00, 0x09, 0x3a, 0x80]);
        assert_eq!(message[40..], [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
