//! A DHCPv4 server with fixed leases (RFC 2131, options of RFC 2132): machines get the addresses of their
//! record, everybody else gets silence.

use std::net::{Ipv4Addr, SocketAddrV4};

use dhcproto::Encodable;
use dhcproto::v4::borrowed::Message as Request;
use dhcproto::v4::{DhcpOption, HType, Message, MessageType, Opcode, OptionCode};

use super::dns;
use super::hosts::{self, BRIDGE, Hosts, PREFIX_V4};
use crate::{debug, info, warning};

const LOG: &str = "network/dhcp";
/// The port servers listen on.
pub(super) const PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// How long an address may be used, in seconds: longer than any test runs.
const LEASE_TIME: u32 = 7 * 24 * 3600;
/// Some clients ignore messages shorter than a BOOTP message (RFC 1542, 2.1).
const MIN_LENGTH: usize = 300;

/// The value of an option of a request. Taken raw: decoding it would trust its length.
fn option(request: &Request, wanted: OptionCode) -> Option<Vec<u8>> {
    request.opts().find(|option| option.code() == wanted).map(|option| option.data().to_vec())
}

fn address_option(request: &Request, wanted: OptionCode) -> Option<Ipv4Addr> {
    option(request, wanted).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(Ipv4Addr::from)
}

/// The answer to one datagram and where it goes, if it deserves one.
pub(super) fn reply(hosts: &Hosts, packet: &[u8]) -> Option<(Vec<u8>, SocketAddrV4)> {
    let request = Request::new(packet).ok()?;
    // The length must be checked before `chaddr`, which trusts it. Relays do not exist here.
    let served = request.opcode() == Opcode::BootRequest
        && request.htype() == HType::Eth
        && request.hlen() == 6
        && request.giaddr().is_unspecified();
    let kind = match option(&request, OptionCode::MessageType)?[..] {
        [kind] if served => MessageType::from(kind),
        _ => return None,
    };
    let Some((index, host)) = hosts.by_mac(request.chaddr()) else {
        debug!(LOG, "ignored {kind:?} of unknown {:02x?}", request.chaddr());
        return None;
    };
    let address = hosts::ipv4(index);
    let server = hosts::ipv4(BRIDGE);

    let answer = match kind {
        MessageType::Discover => MessageType::Offer,
        MessageType::Request => {
            // Asked for by option when selecting or rebooting, in use when renewing or rebinding (4.3.2).
            let wanted = address_option(&request, OptionCode::RequestedIpAddress).unwrap_or(request.ciaddr());
            if address_option(&request, OptionCode::ServerIdentifier).is_some_and(|chosen| chosen != server) {
                return None;
            }
            if wanted == address { MessageType::Ack } else { MessageType::Nak }
        }
        MessageType::Inform => MessageType::Ack,
        MessageType::Decline => {
            warning!(LOG, "{address} was declined: somebody else uses it");
            return None;
        }
        _ => return None,
    };
    if answer == MessageType::Ack
        && let Some(name) = option(&request, OptionCode::Hostname)
    {
        let label = hosts::host_label(&String::from_utf8_lossy(&name)).filter(|label| label != "localhost");
        hosts.change(index, |host| host.own_name = label);
    }
    info!(LOG, "{kind:?} of {address}: {answer:?}");

    let mut message = Message::new_with_id(
        request.xid(),
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        request.chaddr(),
    );
    message.set_opcode(Opcode::BootReply).set_flags(request.flags());
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(answer));
    options.insert(DhcpOption::ServerIdentifier(server));
    // RFC 6842: whoever sends one wants it back.
    if let Some(id) = option(&request, OptionCode::ClientIdentifier) {
        options.insert(DhcpOption::ClientIdentifier(id));
    }
    if answer != MessageType::Nak {
        let mask = Ipv4Addr::from_bits(u32::MAX << (32 - PREFIX_V4));
        options.insert(DhcpOption::SubnetMask(mask));
        options.insert(DhcpOption::BroadcastAddr(address | !mask));
        options.insert(DhcpOption::Router(vec![server]));
        options.insert(DhcpOption::DomainNameServer(vec![server]));
        options.insert(DhcpOption::DomainName(dns::DOMAIN.into()));
        options.insert(DhcpOption::NtpServers(vec![server]));
        if let Some(name) = host.given_name {
            options.insert(DhcpOption::Hostname(name));
        }
        if kind == MessageType::Inform {
            message.set_ciaddr(request.ciaddr());
        } else {
            options.insert(DhcpOption::AddressLeaseTime(LEASE_TIME));
            message.set_yiaddr(address).set_ciaddr(request.ciaddr());
        }
    }
    let mut bytes = match message.to_vec() {
        Ok(bytes) => bytes,
        Err(e) => {
            warning!(LOG, "cannot encode a message for {address}: {e}");
            return None;
        }
    };
    bytes.resize(bytes.len().max(MIN_LENGTH), 0);
    // 4.1: unicast to a client that uses its address. Others are reached by broadcast, even if they did not ask
    // for it: a unicast would need an entry in the ARP table for an address nobody has yet.
    let to = match request.ciaddr() {
        used if used == address && answer == MessageType::Ack => used,
        _ => Ipv4Addr::BROADCAST,
    };
    Some((bytes, SocketAddrV4::new(to, CLIENT_PORT)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dhcproto::{Decodable, Decoder};

    use super::*;
    use crate::network::Lease;

    fn one_lease() -> (Arc<Hosts>, Lease) {
        let hosts = Hosts::new();
        let lease = hosts.allocate().unwrap();
        (hosts, lease)
    }

    fn request(lease: &Lease, options: &[DhcpOption]) -> Message {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut message = Message::new_with_id(7, none, none, none, none, &lease.mac);
        for option in options {
            message.opts_mut().insert(option.clone());
        }
        message
    }

    fn exchange(hosts: &Hosts, request: &Message) -> Option<(Message, SocketAddrV4)> {
        let (bytes, to) = reply(hosts, &request.to_vec().unwrap())?;
        assert!(bytes.len() >= MIN_LENGTH);
        let message = Message::decode(&mut Decoder::new(&bytes)).unwrap();
        assert_eq!((message.xid(), message.opcode()), (request.xid(), Opcode::BootReply));
        Some((message, to))
    }

    fn kind(message: &Message) -> MessageType {
        message.opts().msg_type().unwrap()
    }

    const BROADCAST: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    #[test]
    fn offers_carry_all_options() {
        let (hosts, lease) = one_lease();
        lease.set_host_name("web").unwrap();
        let id = DhcpOption::ClientIdentifier(vec![255, 1, 2, 3]);
        let discover = request(&lease, &[DhcpOption::MessageType(MessageType::Discover), id.clone()]);
        let (offer, to) = exchange(&hosts, &discover).unwrap();
        assert_eq!((kind(&offer), offer.yiaddr(), to), (MessageType::Offer, lease.ipv4, BROADCAST));
        for expected in [
            DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 0, 0)),
            DhcpOption::BroadcastAddr(Ipv4Addr::new(10, 0, 255, 255)),
            DhcpOption::Router(vec![SERVER]),
            DhcpOption::DomainNameServer(vec![SERVER]),
            DhcpOption::NtpServers(vec![SERVER]),
            DhcpOption::ServerIdentifier(SERVER),
            DhcpOption::DomainName("br0.local".into()),
            DhcpOption::Hostname("web".into()),
            DhcpOption::AddressLeaseTime(604_800),
            id,
        ] {
            assert!(offer.opts().iter().any(|(_, o)| *o == expected), "{expected:?} missing in {offer}");
        }
    }

    #[test]
    fn requests_are_judged_by_the_record() {
        let (hosts, lease) = one_lease();
        let ours = DhcpOption::ServerIdentifier(SERVER);
        let ask = |ip| DhcpOption::RequestedIpAddress(ip);
        let kind_of = DhcpOption::MessageType(MessageType::Request);
        let wrong = Ipv4Addr::new(10, 0, 0, 9);

        let (ack, to) =
            exchange(&hosts, &request(&lease, &[kind_of.clone(), ours.clone(), ask(lease.ipv4)])).unwrap();
        assert_eq!((kind(&ack), ack.yiaddr(), to), (MessageType::Ack, lease.ipv4, BROADCAST));

        let (nak, to) = exchange(&hosts, &request(&lease, &[kind_of.clone(), ask(wrong)])).unwrap();
        assert_eq!((kind(&nak), nak.yiaddr(), to), (MessageType::Nak, Ipv4Addr::UNSPECIFIED, BROADCAST));
        assert!(nak.opts().get(OptionCode::AddressLeaseTime).is_none());

        let other = DhcpOption::ServerIdentifier(wrong);
        assert!(exchange(&hosts, &request(&lease, &[kind_of.clone(), other, ask(lease.ipv4)])).is_none());

        let mut renewal = request(&lease, std::slice::from_ref(&kind_of));
        renewal.set_ciaddr(lease.ipv4);
        let (ack, to) = exchange(&hosts, &renewal).unwrap();
        assert_eq!((kind(&ack), *to.ip()), (MessageType::Ack, lease.ipv4));
        renewal.set_ciaddr(wrong);
        let (nak, to) = exchange(&hosts, &renewal).unwrap();
        assert_eq!((kind(&nak), to), (MessageType::Nak, BROADCAST));
    }

    #[test]
    fn inform_gets_options_without_an_address() {
        let (hosts, lease) = one_lease();
        let mut inform = request(&lease, &[DhcpOption::MessageType(MessageType::Inform)]);
        inform.set_ciaddr(lease.ipv4);
        let (ack, to) = exchange(&hosts, &inform).unwrap();
        assert_eq!(
            (kind(&ack), ack.yiaddr(), *to.ip()),
            (MessageType::Ack, Ipv4Addr::UNSPECIFIED, lease.ipv4)
        );
        assert!(ack.opts().get(OptionCode::AddressLeaseTime).is_none());
        assert!(ack.opts().get(OptionCode::NtpServers).is_some());
    }

    #[test]
    fn the_name_a_machine_tells_is_known() {
        let (hosts, lease) = one_lease();
        let mut ask = request(
            &lease,
            &[DhcpOption::MessageType(MessageType::Request), DhcpOption::Hostname("Node-1".into())],
        );
        ask.set_ciaddr(lease.ipv4);
        exchange(&hosts, &ask).unwrap();
        assert_eq!(hosts.by_name("node-1"), Some(lease.index));
    }

    #[test]
    fn strangers_relays_and_garbage_get_silence() {
        let (hosts, lease) = one_lease();
        let good = request(&lease, &[DhcpOption::MessageType(MessageType::Discover)]);
        let mut stranger = good.clone();
        stranger.set_chaddr(&[2, 0, 0, 0, 0, 77]);
        let mut relayed = good.clone();
        relayed.set_giaddr(Ipv4Addr::new(10, 0, 0, 3));
        let mut answer = good.clone();
        answer.set_opcode(Opcode::BootReply);
        let bootp = request(&lease, &[]);
        for message in [stranger, relayed, answer, bootp] {
            assert!(reply(&hosts, &message.to_vec().unwrap()).is_none(), "{message}");
        }
        // Every truncation and every single damaged byte: never a panic.
        let bytes = good.to_vec().unwrap();
        for end in 0..bytes.len() {
            let _ = reply(&hosts, &bytes[..end]);
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = bytes.clone();
                damaged[end] = value;
                let _ = reply(&hosts, &damaged);
            }
        }
        // Every option with too short a value.
        for code in 1..=254u8 {
            for length in 0..4u8 {
                let mut odd = bytes[..240].to_vec();
                odd.extend([code, length]);
                odd.extend(std::iter::repeat_n(0xee, usize::from(length)));
                odd.extend([53, 1, 1, 255]);
                let _ = reply(&hosts, &odd);
            }
        }
    }
}
