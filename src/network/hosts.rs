//! The address records of a network: who has which, under which names.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Error;

/// The record of the bridge itself.
pub(super) const BRIDGE: u16 = 1;
/// Records for machines.
const FIRST: u16 = 2;
const LAST: u16 = 501;
/// Prefix lengths of the two address families.
pub(super) const PREFIX_V4: u8 = 16;
pub(super) const PREFIX_V6: u8 = 64;

/// MAC address of record `index`.
pub(super) fn mac(index: u16) -> [u8; 6] {
    let [high, low] = index.to_be_bytes();
    [0x02, 0, 0, 0, high, low]
}

/// IPv4 address of record `index`.
pub(super) fn ipv4(index: u16) -> Ipv4Addr {
    let [high, low] = index.to_be_bytes();
    Ipv4Addr::new(10, 0, high, low)
}

/// IPv6 address of record `index`, which is its last group: record 16 has `fd00::10`.
pub(super) fn ipv6(index: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, index)
}

/// What is known of a record in use.
#[derive(Clone, Debug, Default)]
pub(super) struct Host {
    /// Given by us; DHCP tells it to the machine.
    pub given_name: Option<String>,
    /// Told by the machine to DHCP.
    pub own_name: Option<String>,
    /// Whether the machine surely has its IPv6 address (DHCP does not hand it out).
    pub has_ipv6: bool,
}

#[derive(Debug)]
struct State {
    taken: BTreeMap<u16, Host>,
    next: u16,
}

/// All records of one network; shared by its leases and its services.
#[derive(Debug)]
pub(super) struct Hosts(Mutex<State>);

impl Hosts {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { taken: BTreeMap::new(), next: FIRST })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is a single insert, remove or assignment, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next free record. In turn, so that a machine that is slow to die keeps its address to itself
    /// for as long as possible.
    pub fn allocate(self: &Arc<Self>) -> Result<Lease, Error> {
        let mut state = self.lock();
        let next = state.next;
        let index = (next..=LAST)
            .chain(FIRST..next)
            .find(|index| !state.taken.contains_key(index))
            .ok_or(Error::Exhausted(usize::from(LAST - FIRST) + 1))?;
        state.taken.insert(index, Host::default());
        state.next = if index == LAST { FIRST } else { index + 1 };
        drop(state);
        Ok(Lease { index, mac: mac(index), ipv4: ipv4(index), ipv6: ipv6(index), hosts: self.clone() })
    }

    /// The record in use with this MAC address.
    pub fn by_mac(&self, address: &[u8]) -> Option<(u16, Host)> {
        let &[.., high, low] = address else { return None };
        let index = u16::from_be_bytes([high, low]);
        (address == mac(index)).then(|| self.get(index)).flatten().map(|host| (index, host))
    }

    /// The record in use with this number.
    pub fn get(&self, index: u16) -> Option<Host> {
        match index {
            BRIDGE => Some(Host { has_ipv6: true, ..Host::default() }),
            _ => self.lock().taken.get(&index).cloned(),
        }
    }

    /// The record in use with this name (without domain, in lower case).
    pub fn by_name(&self, name: &str) -> Option<u16> {
        if let Ok(address) = name.replace('-', ".").parse::<Ipv4Addr>() {
            let [_, _, high, low] = address.octets();
            let index = u16::from_be_bytes([high, low]);
            return (address == ipv4(index)).then(|| self.get(index)).flatten().map(|_| index);
        }
        let named = |of: fn(&Host) -> &Option<String>| {
            self.lock()
                .taken
                .iter()
                .find(|(_, host)| of(host).as_deref() == Some(name))
                .map(|(&index, _)| index)
        };
        // What a machine claims must not take away a name we gave.
        named(|host| &host.given_name).or_else(|| named(|host| &host.own_name))
    }

    /// The name of a record, without domain: the given one, its own, or its address with dashes.
    pub fn name_of(&self, index: u16) -> Option<String> {
        let host = self.get(index)?;
        Some(host.given_name.or(host.own_name).unwrap_or_else(|| ipv4(index).to_string().replace('.', "-")))
    }

    pub fn change(&self, index: u16, change: impl FnOnce(&mut Host)) {
        if let Some(host) = self.lock().taken.get_mut(&index) {
            change(host);
        }
    }
}

/// The first label of a host name in lower case, if it is a valid one (RFC 1123, 2.1) and no address.
pub(super) fn host_label(name: &str) -> Option<String> {
    let label = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let fits = (1..=63).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.replace('-', ".").parse::<Ipv4Addr>().is_err();
    fits.then_some(label)
}

/// The addresses of one machine; DHCP and DNS know them until this is dropped.
#[derive(Debug)]
pub struct Lease {
    /// Number of the record, 2 to 501.
    pub index: u16,
    /// Hardware address the machine's interface must have.
    pub mac: [u8; 6],
    /// IPv4 address, in 10.0.0.0/16.
    pub ipv4: Ipv4Addr,
    /// IPv6 address, in fd00::/64. DHCP does not hand it out; [`super::LocalNet::veth`] sets it.
    pub ipv6: Ipv6Addr,
    hosts: Arc<Hosts>,
}

impl Lease {
    /// The hardware address as programs write it, `02:00:00:00:00:02`.
    pub fn mac_text(&self) -> String {
        self.mac.map(|byte| format!("{byte:02x}")).join(":")
    }

    /// Gives the machine a host name: DHCP tells it, DNS answers for it under `br0.local`.
    ///
    /// # Errors
    /// [`Error::HostName`] unless it is one label of letters, digits and dashes.
    pub fn set_host_name(&self, name: &str) -> Result<(), Error> {
        let label = host_label(name)
            .filter(|label| label.len() == name.len())
            .ok_or_else(|| Error::HostName(name.to_owned()))?;
        self.hosts.change(self.index, |host| host.given_name = Some(label));
        Ok(())
    }

    pub(super) fn has_ipv6(&self) {
        self.hosts.change(self.index, |host| host.has_ipv6 = true);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.hosts.lock().taken.remove(&self.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_the_documented_addresses() {
        let hosts = Hosts::new();
        let first = hosts.allocate().unwrap();
        assert_eq!((first.index, first.mac_text().as_str()), (2, "02:00:00:00:00:02"));
        assert_eq!((first.ipv4.to_string(), first.ipv6.to_string()), ("10.0.0.2".into(), "fd00::2".into()));
        assert_eq!((mac(0x1f5), ipv4(0x1f5)), ([2, 0, 0, 0, 1, 0xf5], Ipv4Addr::new(10, 0, 1, 245)));
        assert_eq!(ipv6(0x1f5).to_string(), "fd00::1f5");
    }

    #[test]
    fn five_hundred_records_are_reused_in_turn() {
        let hosts = Hosts::new();
        let mut leases: Vec<_> = (0..500).map(|_| hosts.allocate().unwrap()).collect();
        assert_eq!(leases.last().unwrap().index, 501);
        let full = hosts.allocate().unwrap_err();
        assert_eq!(full.to_string(), "all 500 addresses of the private network are taken");
        drop(leases.remove(7));
        assert_eq!(hosts.allocate().unwrap().index, 9);
        drop(leases);
        assert_eq!(hosts.allocate().unwrap().index, 10);
    }

    #[test]
    fn only_leases_are_known() {
        let hosts = Hosts::new();
        assert!(hosts.by_mac(&mac(2)).is_none());
        let lease = hosts.allocate().unwrap();
        assert_eq!(hosts.by_mac(&lease.mac).unwrap().0, 2);
        for stranger in [&[2, 0, 0, 1, 0, 2][..], &[2, 0, 0, 0, 0, 3], &[0, 2], &[2], &[]] {
            assert!(hosts.by_mac(stranger).is_none(), "{stranger:?}");
        }
        drop(lease);
        assert!(hosts.by_mac(&mac(2)).is_none());
    }

    #[test]
    fn names() {
        let hosts = Hosts::new();
        let (a, b) = (hosts.allocate().unwrap(), hosts.allocate().unwrap());
        assert_eq!(hosts.by_name("10-0-0-2"), Some(2));
        assert_eq!(hosts.by_name("10-0-0-1"), Some(1));
        for unknown in ["10-0-0-4", "10-1-0-2", "a", ""] {
            assert_eq!(hosts.by_name(unknown), None, "{unknown}");
        }
        hosts.change(2, |host| host.own_name = Some("a".into()));
        b.set_host_name("A").unwrap();
        assert_eq!(
            (hosts.by_name("a"), hosts.name_of(2).unwrap(), hosts.name_of(1).unwrap()),
            (Some(3), "a".into(), "10-0-0-1".into())
        );
        for bad in ["", "a.b", "-a", "a-", "a b", "10-0-0-9", &"x".repeat(64)] {
            assert!(a.set_host_name(bad).is_err(), "{bad}");
        }
        assert_eq!(host_label("Web-1.example.net"), Some("web-1".into()));
    }
}
