//! Who on a LAN has an IPv6 address: asked as machines ask before they take one (RFC 4862, section 5.4).
//!
//! The answer goes to all nodes of the link, since nobody in particular has asked. An interface listens for those while
//! IPv6 is on for it; one that filters them hears no answer, which is taken for none.

use std::io;
use std::net::Ipv6Addr;

use decnet_wire::ids::MacAddress;

use super::frames;

/// `ETH_P_IPV6` (IEEE 802 numbers).
const IPV6: u16 = 0x86dd;
/// ICMPv6, of the protocol numbers of IANA.
const ICMP: u8 = 58;
/// RFC 4861, sections 4.3 and 4.4.
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// RFC 4861, section 7.1: whatever has another one came through a router.
const HOP_LIMIT: u8 = 255;
/// Ethernet header, IPv6 header, and either message without options.
const LENGTH: usize = 14 + 40 + 24;

/// Asks on an interface whether somebody has `address`; gives the MAC address that answers for it.
///
/// Takes a third of a second when nobody does.
pub(crate) fn probe(interface: &str, address: Ipv6Addr) -> io::Result<Option<MacAddress>> {
    frames::ask(
        interface,
        IPV6,
        |own| solicitation(own, address),
        |frame, own| answer(frame, own, address),
    )
}

/// From the unspecified address to the solicited-node multicast address (RFC 4291, section 2.7.1; on Ethernet,
/// RFC 2464, section 7), without options.
fn solicitation(own: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = address.octets();
    let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(address.octets());
    let to = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let sum = checksum(Ipv6Addr::UNSPECIFIED, to, &message).to_be_bytes();
    message.splice(2..4, sum);

    let mut frame = vec![0x33, 0x33, 0xff, a, b, c];
    frame.extend(own);
    frame.extend(IPV6.to_be_bytes());
    // Version 6, and 24 bytes that follow the header.
    frame.extend([0x60, 0, 0, 0, 0, 24, ICMP, HOP_LIMIT]);
    frame.extend(Ipv6Addr::UNSPECIFIED.octets());
    frame.extend(to.octets());
    frame.extend(message);
    frame
}

/// RFC 8200, section 8.1: over a header of addresses, length and protocol, and the message.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        let word = |pair: &[u8]| match pair {
            [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
            [high] => u32::from(*high) << 8,
            _ => 0,
        };
        bytes.chunks(2).map(word).sum()
    };
    let length = u32::try_from(message.len()).unwrap_or_default();
    let mut sum = words(&from.octets()) + words(&to.octets()) + length + u32::from(ICMP) + words(message);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// The MAC address of somebody else who has `address`, or is about to take it: an advertisement of it, or a
/// solicitation for it from the unspecified address (RFC 4862, section 5.4.3). Whose it is, the frame tells.
fn answer(frame: &[u8], own: [u8; 6], address: Ipv6Addr) -> Option<MacAddress> {
    let mac: [u8; 6] = frame.get(6..12)?.try_into().ok()?;
    let target = frame.get(62..LENGTH)? == address.octets();
    let is_ours = mac == own || frame.get(12..14)? != IPV6.to_be_bytes();
    let is_discovery = *frame.get(20)? == ICMP && *frame.get(21)? == HOP_LIMIT;
    if is_ours || !is_discovery || !target {
        return None;
    }
    let from_nobody = frame.get(22..38)? == Ipv6Addr::UNSPECIFIED.octets();
    match *frame.get(54)? {
        ADVERTISEMENT => Some(MacAddress::unicast(mac)),
        SOLICITATION if from_nobody => Some(MacAddress::unicast(mac)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn address() -> Ipv6Addr {
        "2001:db8::1:2345".parse().unwrap()
    }

    #[test]
    fn a_probe_is_as_rfc_4862_has_it() {
        let frame = solicitation(OWN, address());
        assert_eq!(frame.len(), LENGTH);
        assert_eq!(
            frame[..14],
            [0x33, 0x33, 0xff, 1, 0x23, 0x45, 2, 0, 0, 0, 0, 1, 0x86, 0xdd]
        );
        assert_eq!(frame[22..38], [0; 16]);
        assert_eq!(
            frame[38..54],
            "ff02::1:ff01:2345".parse::<Ipv6Addr>().unwrap().octets()
        );
        assert_eq!(frame[62..], address().octets());
        // A message with its own checksum in it sums up to nothing.
        let to = "ff02::1:ff01:2345".parse().unwrap();
        assert_eq!(checksum(Ipv6Addr::UNSPECIFIED, to, &frame[54..]), 0);
    }

    #[test]
    fn only_others_who_have_or_want_the_address_count() {
        let says = |frame: &[u8]| answer(frame, OWN, address()).map(|mac| mac.bytes());
        // They want it.
        let mut frame = solicitation(OTHER, address());
        assert_eq!(says(&frame), Some(OTHER));
        // They look for who has it.
        frame[37] = 9;
        assert_eq!(says(&frame), None);
        // They have it.
        frame[54] = ADVERTISEMENT;
        assert_eq!(says(&frame), Some(OTHER));
        // From behind a router.
        frame[21] = 64;
        assert_eq!(says(&frame), None);
        // Our own probe, as the socket sees it leave; somebody else's address; too short.
        assert_eq!(says(&solicitation(OWN, address())), None);
        assert_eq!(says(&solicitation(OTHER, "2001:db8::9".parse().unwrap())), None);
        assert_eq!(says(&frame[..LENGTH - 1]), None);
    }
}
