//! Who on a LAN has an address: asked as RFC 5227 asks, and as every machine asks for its neighbours (RFC 826).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use decnet_wire::ids::MacAddress;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{LinkAddr, MsgFlags, bind, recv, send};
use socket2::{Domain, Protocol, Socket, Type};

/// Times at which a probe is sent. RFC 5227 spreads three probes over some seconds, for machines that all start at
/// the same moment; here nobody but this host has just started, and a machine on a LAN answers within milliseconds.
const PROBES: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(200),
];
/// When an answer to the last one is not waited for any more.
const END: Duration = Duration::from_millis(350);

/// `ETH_P_ARP` (IEEE 802 numbers).
const ARP: u16 = 0x0806;
/// Ethernet header and ARP packet; frames are filled up to [`SHORTEST`].
const LENGTH: usize = 14 + 28;
/// The least that a frame has, without its checksum (IEEE 802.3).
const SHORTEST: usize = 60;
const LONGEST: usize = 1_600;

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
    let link = link(interface)?;
    let own = link
        .addr()
        .ok_or_else(|| io::Error::other(format!("{interface} has no MAC address")))?;
    let socket = Socket::new(
        Domain::PACKET,
        Type::RAW,
        Some(Protocol::from(i32::from(ARP.to_be()))),
    )?;
    bind(socket.as_raw_fd(), &link)?;
    // What came from other interfaces before the socket was bound to this one.
    let mut buffer = [0; LONGEST];
    while recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).is_ok() {}
    let request = request(own, asker, address);
    let begun = Instant::now();
    for (number, at) in PROBES.into_iter().enumerate() {
        while let Some(frame) = next(&socket, &mut buffer, begun + at)? {
            if let Some(mac) = answer(frame, own, asker, address) {
                return Ok(Some(mac));
            }
        }
        send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
        tracing::trace!(interface, %address, number, "asked");
    }
    while let Some(frame) = next(&socket, &mut buffer, begun + END)? {
        if let Some(mac) = answer(frame, own, asker, address) {
            return Ok(Some(mac));
        }
    }
    Ok(None)
}

/// The interface as packet(7) addresses it.
fn link(interface: &str) -> io::Result<LinkAddr> {
    getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("there is no interface {interface}"),
            )
        })
}

/// The next frame, or None once `deadline` has come.
fn next<'b>(socket: &Socket, buffer: &'b mut [u8], deadline: Instant) -> io::Result<Option<&'b [u8]>> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        // Rounded up, or the last fraction of a millisecond would be spun away.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => match recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(size) => return Ok(Some(buffer.get(..size).unwrap_or_default())),
                Err(Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            },
            Err(error) => return Err(error.into()),
        }
    }
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
