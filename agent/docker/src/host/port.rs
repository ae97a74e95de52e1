//! Whether the LAN takes frames from this host that bear another MAC address than its own.
//!
//! Access points, hypervisors and clouds often do not. Deckies on macvlan then start, look well, and are heard by nobody. It
//! is found out by doing what they do: a macvlan link with an address of its own asks for the gateway.

use std::io;
use std::net::Ipv4Addr;

use decnet_wire::ids::InterfaceName;
use netlink_packet_route::link::InfoKind;
use nix::errno::Errno;

use super::{arp, links};

/// The link that asks. It has no address, and lives as long as the question.
const LINK: &str = "decnet-try";

/// What a LAN does with this host's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// Whoever asks is answered.
    Open,
    /// The host is answered, another MAC address behind the same interface is not.
    OwnMacOnly,
    /// Nobody has the address that was asked for, so that nothing is known.
    Silent,
}

/// Asks the LAN of an interface who has `gateway`, as the host and as a machine behind it. Needs the right to make links;
/// takes a second when nobody answers.
///
/// # Errors
/// There is no such interface, or nothing can be put on it.
pub fn try_port(interface: &InterfaceName, gateway: Ipv4Addr) -> io::Result<Port> {
    if arp::probe(interface.as_str(), gateway)?.is_none() {
        return Ok(Port::Silent);
    }
    // One that was killed while it asked has left it behind.
    if let Ok(left) = links::index(LINK) {
        links::remove(left)?;
    }
    let below = links::index(interface.as_str())?;
    links::create_on(LINK, InfoKind::MacVlan, below)?;
    let index = links::index(LINK)?;
    let heard = ask(index, gateway);
    match links::remove(index) {
        // It went with the interface that it was on.
        Ok(()) | Err(Errno::ENODEV) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(if heard? { Port::Open } else { Port::OwnMacOnly })
}

fn ask(index: u32, gateway: Ipv4Addr) -> io::Result<bool> {
    links::set_up(index)?;
    Ok(arp::probe(LINK, gateway)?.is_some())
}
