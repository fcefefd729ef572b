//! A DNS server (RFC 1035) that knows the machines of one network and nothing else.
//!
//! Machines answer to `<name>.br0.local` for the name we gave them or they told DHCP, and always to their
//! address with dashes (`10-0-0-2.br0.local`). Bare names work too, as with dnsmasq.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::hosts::{self, Hosts, PREFIX_V4, PREFIX_V6};
use super::serve;
use crate::{debug, trace, warning};

const LOG: &str = "network/dns";
/// The port servers listen on.
pub(super) const PORT: u16 = 53;
/// The domain of all machines.
pub(super) const DOMAIN: &str = "br0.local";
/// Seconds an answer may be remembered: not at all, names and addresses move from machine to machine.
const TTL: u32 = 0;
/// Largest UDP message we take, a size that is never fragmented.
const PAYLOAD: u16 = 1232;
/// How long a TCP connection may be idle (RFC 7766, 6.2).
const IDLE: Duration = Duration::from_secs(10);

static ZONE: LazyLock<Name> =
    LazyLock::new(|| Name::from_ascii(format!("{DOMAIN}.")).expect("the constant is a domain name"));

/// What a name stands for.
#[derive(Debug, PartialEq)]
enum Meaning {
    /// The name of this machine.
    Host(u16),
    /// The reverse name of this machine.
    Reverse(u16),
    /// A name of ours without records of its own.
    Empty,
    /// A name of ours that does not exist.
    Missing,
    /// Not ours.
    Elsewhere,
}

fn meaning(hosts: &Hosts, name: &Name) -> Meaning {
    let name = name.to_lowercase();
    // Labels that are not ASCII are names nobody has.
    let first = name.iter().next().and_then(|label| std::str::from_utf8(label).ok()).unwrap_or_default();
    if ZONE.zone_of(&name) {
        return match name.num_labels() - ZONE.num_labels() {
            0 => Meaning::Empty,
            1 => hosts.by_name(first).map_or(Meaning::Missing, Meaning::Host),
            _ => Meaning::Missing,
        };
    }
    if name.num_labels() == 1 {
        return hosts.by_name(first).map_or(Meaning::Elsewhere, Meaning::Host);
    }
    match name.parse_arpa_name() {
        Ok(net) => reverse(hosts, net.addr(), net.prefix_len()),
        Err(_) => Meaning::Elsewhere,
    }
}

fn reverse(hosts: &Hosts, address: IpAddr, prefix: u8) -> Meaning {
    let (index, all_bits, zone) = match address {
        IpAddr::V4(v4) => (u16::from_be_bytes([v4.octets()[2], v4.octets()[3]]), 32, PREFIX_V4),
        IpAddr::V6(v6) => (v6.segments()[7], 128, PREFIX_V6),
    };
    let of_index: IpAddr =
        if address.is_ipv4() { hosts::ipv4(index).into() } else { hosts::ipv6(index).into() };
    let ours = match (address, hosts::ipv4(0), hosts::ipv6(0)) {
        (IpAddr::V4(v4), net, _) => v4.octets()[..2] == net.octets()[..2],
        (IpAddr::V6(v6), _, net) => v6.segments()[..4] == net.segments()[..4],
    };
    match hosts.get(index) {
        _ if !ours || prefix < zone => Meaning::Elsewhere,
        _ if prefix < all_bits => Meaning::Empty,
        Some(host) if address == of_index && (address.is_ipv4() || host.has_ipv6) => Meaning::Reverse(index),
        _ => Meaning::Missing,
    }
}

fn answers(hosts: &Hosts, query: &Query, meaning: &Meaning) -> Vec<Record> {
    let wants = |kind| query.query_type() == kind || query.query_type() == RecordType::ANY;
    let mut data = Vec::new();
    match *meaning {
        Meaning::Host(index) => {
            if wants(RecordType::A) {
                data.push(RData::A(A(hosts::ipv4(index))));
            }
            if wants(RecordType::AAAA) && hosts.get(index).is_some_and(|host| host.has_ipv6) {
                data.push(RData::AAAA(AAAA(hosts::ipv6(index))));
            }
        }
        Meaning::Reverse(index) if wants(RecordType::PTR) => {
            let name = hosts.name_of(index).and_then(|name| ZONE.prepend_label(name).ok());
            data.extend(name.map(|name| RData::PTR(PTR(name))));
        }
        _ => {}
    }
    data.into_iter().map(|data| Record::from_rdata(query.name().clone(), TTL, data)).collect()
}

/// The answer to one message, if it deserves one.
pub(super) fn reply(hosts: &Hosts, packet: &[u8]) -> Option<Vec<u8>> {
    let request = match Message::from_vec(packet) {
        Ok(request) => request,
        Err(e) => {
            debug!(LOG, "{} bytes are no query: {e}", packet.len());
            // The first 12 bytes are the header; bit 15 of the third is set in answers, which get none.
            return match packet {
                &[high, low, flags, _, _, _, _, _, _, _, _, _, ..] if flags & 0x80 == 0 => {
                    let id = u16::from_be_bytes([high, low]);
                    Message::error_msg(id, OpCode::Query, ResponseCode::FormErr).to_vec().ok()
                }
                _ => None,
            };
        }
    };
    if request.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata = Metadata::response_from_request(&request.metadata);
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        response.set_edns(edns);
    }
    response.add_queries(request.queries.iter().cloned());
    response.metadata.response_code = match &request.queries[..] {
        _ if request.metadata.op_code != OpCode::Query => ResponseCode::NotImp,
        [query] => {
            let found = match query.query_class() {
                DNSClass::IN | DNSClass::ANY => meaning(hosts, query.name()),
                _ => Meaning::Elsewhere,
            };
            trace!(LOG, "{} {}: {found:?}", query.name(), query.query_type());
            response.metadata.authoritative = found != Meaning::Elsewhere;
            response.add_answers(answers(hosts, query, &found));
            match found {
                Meaning::Missing => ResponseCode::NXDomain,
                Meaning::Elsewhere => ResponseCode::Refused,
                _ => ResponseCode::NoError,
            }
        }
        _ => ResponseCode::FormErr,
    };
    response.to_vec().inspect_err(|e| warning!(LOG, "cannot encode an answer: {e}")).ok()
}

/// Serves TCP connections (RFC 7766) until aborted.
pub(super) async fn serve_tcp(listener: TcpListener, hosts: Arc<Hosts>) {
    serve::connections(listener, LOG, |stream| converse(stream, hosts.clone())).await;
}

async fn converse(mut stream: TcpStream, hosts: Arc<Hosts>) {
    let turn = async |stream: &mut TcpStream| -> std::io::Result<bool> {
        let mut packet = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut packet).await?;
        let Some(answer) = reply(&hosts, &packet) else { return Ok(false) };
        let Ok(length) = u16::try_from(answer.len()) else { return Ok(false) };
        stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).await?;
        Ok(true)
    };
    while let Ok(Ok(true)) = tokio::time::timeout(IDLE, turn(&mut stream)).await {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(hosts: &Hosts, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let mut query = Message::new(0x1234, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        query.set_edns(Edns::new());
        let answer = Message::from_vec(&reply(hosts, &query.to_vec().unwrap()).unwrap()).unwrap();
        assert_eq!((answer.metadata.id, answer.metadata.message_type), (0x1234, MessageType::Response));
        assert_eq!((answer.queries.len(), answer.edns.is_some()), (1, true));
        let local = answer.metadata.response_code != ResponseCode::Refused;
        assert_eq!(answer.metadata.authoritative, local);
        (answer.metadata.response_code, answer.answers.iter().map(|r| r.data.to_string()).collect())
    }

    #[test]
    fn names_and_addresses_of_machines() {
        let hosts = Hosts::new();
        let (a, b) = (hosts.allocate().unwrap(), hosts.allocate().unwrap());
        a.set_host_name("web").unwrap();
        b.has_ipv6();
        let ok = |answers: &[&str]| {
            (ResponseCode::NoError, answers.iter().map(|&a| a.into()).collect::<Vec<String>>())
        };
        use RecordType::{A, AAAA, ANY, PTR, TXT};
        for (name, kind, expected) in [
            ("web.br0.local.", A, &["10.0.0.2"][..]),
            ("WEB.Br0.Local.", A, &["10.0.0.2"]),
            ("web.", A, &["10.0.0.2"]),
            ("10-0-0-2.br0.local.", A, &["10.0.0.2"]),
            ("10-0-0-1.br0.local.", AAAA, &["fd00::1"]),
            ("web.br0.local.", AAAA, &[]),
            ("web.br0.local.", TXT, &[]),
            ("10-0-0-3.br0.local.", AAAA, &["fd00::3"]),
            ("10-0-0-3.br0.local.", ANY, &["10.0.0.3", "fd00::3"]),
            ("br0.local.", A, &[]),
            ("2.0.0.10.in-addr.arpa.", PTR, &["web.br0.local."]),
            ("1.0.0.10.in-addr.arpa.", PTR, &["10-0-0-1.br0.local."]),
            ("2.0.0.10.in-addr.arpa.", A, &[]),
            ("0.0.10.in-addr.arpa.", PTR, &[]),
            (
                "3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.",
                PTR,
                &["10-0-0-3.br0.local."],
            ),
        ] {
            assert_eq!(ask(&hosts, name, kind), ok(expected), "{name} {kind}");
        }
    }

    #[test]
    fn other_names() {
        let hosts = Hosts::new();
        let _lease = hosts.allocate().unwrap();
        use RecordType::{A, PTR};
        for (name, kind, code) in [
            ("nobody.br0.local.", A, ResponseCode::NXDomain),
            ("a.10-0-0-2.br0.local.", A, ResponseCode::NXDomain),
            ("10-0-0-9.br0.local.", A, ResponseCode::NXDomain),
            ("9.0.0.10.in-addr.arpa.", PTR, ResponseCode::NXDomain),
            (
                "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.",
                PTR,
                ResponseCode::NXDomain,
            ),
            (
                "1.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.",
                PTR,
                ResponseCode::NXDomain,
            ),
            ("example.com.", A, ResponseCode::Refused),
            ("xbr0.local.", A, ResponseCode::Refused),
            ("nobody.", A, ResponseCode::Refused),
            (".", A, ResponseCode::Refused),
            ("1.1.0.10.in-addr.arpa.", PTR, ResponseCode::NXDomain),
            ("1.0.1.10.in-addr.arpa.", PTR, ResponseCode::Refused),
            ("10.in-addr.arpa.", PTR, ResponseCode::Refused),
            ("in-addr.arpa.", PTR, ResponseCode::Refused),
            ("1.0.0.127.in-addr.arpa.", PTR, ResponseCode::Refused),
        ] {
            assert_eq!(ask(&hosts, name, kind), (code, vec![]), "{name}");
        }
    }

    #[test]
    fn odd_messages() {
        let hosts = Hosts::new();
        assert_eq!(reply(&hosts, b"short"), None);
        let header = |flags: u8, questions: u8| [0x12, 0x34, flags, 0, 0, questions, 0, 0, 0, 0, 0, 0];
        let code = |packet: &[u8]| {
            reply(&hosts, packet).map(|bytes| {
                assert_eq!(bytes[..2], [0x12, 0x34]);
                assert_eq!(bytes[2] & 0x80, 0x80);
                bytes[3] & 0x0f
            })
        };
        assert_eq!(code(&header(0, 1)), Some(1), "a question is missing");
        assert_eq!(code(&header(0, 0)), Some(1), "no question at all");
        assert_eq!(code(&header(0x80, 0)), None, "an answer");
        assert_eq!(code(&header(0x80, 1)), None, "a broken answer");
        assert_eq!(code(&header(0x10, 0)), Some(4), "a status request");

        let mut query = Message::new(1, MessageType::Query, OpCode::Query);
        query.add_query(Query::query(Name::from_ascii("10-0-0-1.br0.local.").unwrap(), RecordType::A));
        let bytes = query.to_vec().unwrap();
        for at in 0..bytes.len() {
            let _ = reply(&hosts, &bytes[..at]);
            for value in [0, 1, 0x3f, 0xc0, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                let _ = reply(&hosts, &damaged);
            }
        }
    }
}
