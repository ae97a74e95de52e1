//! Who on a LAN has an address: asked as RFC 5227 asks, and as every machine asks for its neighbours (RFC 826).

use std::io;
use std::net::Ipv4Addr;

use decnet_wire::ids::MacAddress;

use super::frames::{self, SHORTEST};

/// `ETH_P_ARP` (IEEE 802 numbers).
const ARP: u16 = 0x0806;
/// Ethernet header and ARP packet.
const LENGTH: usize = 14 + 28;

/// Asks on an interface whether somebody has `address`; gives the MAC address that answers for it.
///
/// Takes a third of a second when nobody does.
pub(crate) fn probe(interface: &str, address: Ipv4Addr) -> io::Result<Option<MacAddress>> {
    ask(interface, Asker::Nobody, address)
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asker {
    /// One who has no address and whom nobody is to remember (RFC 5227, section 2.1.1).
    Nobody,
    /// One who has this address.
    Host(Ipv4Addr),
}

/// Asks on an interface of the namespace that the calling thread stands in.
pub(crate) fn ask(interface: &str, asker: Asker, address: Ipv4Addr) -> io::Result<Option<MacAddress>> {
    frames::ask(
        interface,
        ARP,
        |own| request(own, asker, address),
        |frame, own| answer(frame, own, asker, address),
    )
}

/// An ARP request in an Ethernet frame to everybody (RFC 826).
fn request(own: [u8; 6], asker: Asker, address: Ipv4Addr) -> Vec<u8> {
    let sender = match asker {
        Asker::Nobody => Ipv4Addr::UNSPECIFIED,
        Asker::Host(address) => address,
    };
    let mut frame = Vec::with_capacity(SHORTEST);
    frame.extend([0xff; 6]);
    frame.extend(own);
    frame.extend(ARP.to_be_bytes());
    // Ethernet, IPv4, their lengths, request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(own);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame.resize(SHORTEST, 0);
    frame
}

/// The MAC address of somebody else who has `address`, or is about to take it: any ARP packet with that sender, and
/// for one who wants it a probe of another one (RFC 5227, section 2.1.1).
fn answer(frame: &[u8], own: [u8; 6], asker: Asker, address: Ipv4Addr) -> Option<MacAddress> {
    let arp = frame.get(14..LENGTH)?;
    let is_arp = frame.get(12..14)? == ARP.to_be_bytes() && arp.get(..6)? == [0, 1, 8, 0, 6, 4];
    let mac: [u8; 6] = arp.get(8..14)?.try_into().ok()?;
    if !is_arp || mac == own {
        return None;
    }
    let is = |range: std::ops::Range<usize>, wanted: Ipv4Addr| arp.get(range) == Some(&wanted.octets()[..]);
    let is_request = arp.get(6..8)? == [0, 1];
    let has = is(14..18, address);
    let wants = matches!(asker, Asker::Nobody)
        && is_request
        && is(14..18, Ipv4Addr::UNSPECIFIED)
        && is(24..28, address);
    (has || wants).then(|| MacAddress::unicast(mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn address() -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, 5)
    }

    #[test]
    fn a_probe_is_as_rfc_5227_has_it() {
        let frame = request(OWN, Asker::Nobody, address());
        assert_eq!(frame.len(), SHORTEST);
        assert_eq!(
            frame[..14],
            [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6]
        );
        assert_eq!(frame[14..22], [0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(frame[22..32], [2, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(frame[32..42], [0, 0, 0, 0, 0, 0, 192, 0, 2, 5]);
    }

    #[test]
    fn only_others_who_have_or_want_the_address_count() {
        let says = |frame: &[u8]| answer(frame, OWN, Asker::Nobody, address()).map(|mac| mac.bytes());
        // They have it: a reply, an announcement, or a question of theirs.
        assert_eq!(
            says(&request(
                OTHER,
                Asker::Host(address()),
                Ipv4Addr::new(192, 0, 2, 1)
            )),
            Some(OTHER)
        );
        // They want it.
        assert_eq!(says(&request(OTHER, Asker::Nobody, address())), Some(OTHER));
        // Our own probe, as the socket sees it leave.
        assert_eq!(says(&request(OWN, Asker::Nobody, address())), None);
        // Somebody else looks for who has it.
        assert_eq!(
            says(&request(
                OTHER,
                Asker::Host(Ipv4Addr::new(192, 0, 2, 9)),
                address()
            )),
            None
        );
        assert_eq!(says(&[0; 10]), None);
        let mut other = request(OTHER, Asker::Host(address()), address());
        other[12] = 0x86;
        assert_eq!(says(&other), None);
    }
}
