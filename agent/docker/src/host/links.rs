//! The links of the namespace that the calling thread stands in.

use decnet_plan::step::HostLink;
use decnet_wire::bundle::{NetworkDriver, NetworkMode};
use decnet_wire::ids::{InterfaceName, MacAddress};
use netlink_packet_core::{Emitable, Parseable as _};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoIpVlan, InfoKind, InfoMacVlan, InfoVeth, InfoVlan, IpVlanMode, LinkAttribute, LinkFlags,
    LinkHeader, LinkInfo, LinkMessage, MacVlanMode,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::netlink::{ACK, CREATE, DUMP, EXCLUSIVE, HEADER, Netlink, REQUEST};

/// `RTM_NEWLINK`, `RTM_DELLINK`, `RTM_GETLINK` (linux/rtnetlink.h).
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
/// `RTM_NEWADDR`, `RTM_NEWROUTE`.
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;

/// A link as the kernel tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: InterfaceName,
    pub(crate) up: bool,
    /// The kernel's word, such as `macvlan`; none for a plain one.
    pub(crate) kind: Option<String>,
    /// The index of the link of this namespace that it sits on.
    pub(crate) below: Option<u32>,
    pub(crate) mac: Option<MacAddress>,
    pub(crate) alias: Option<String>,
}

/// Every link.
pub(crate) fn list() -> Result<Vec<Link>, Errno> {
    let answers = ask(GET_LINK, REQUEST | DUMP, &LinkMessage::default())?;
    Ok(answers.iter().filter_map(|body| to_link(body)).collect())
}

/// Makes a link of a kind on another one.
pub(crate) fn create_on(name: &str, kind: InfoKind, below: u32) -> Result<(), Errno> {
    create(name, kind, None, &[LinkAttribute::Link(below)])
}

/// Makes VLAN `id` (IEEE 802.1Q) on a link.
pub(crate) fn create_vlan(name: &str, id: u16, below: u32) -> Result<(), Errno> {
    let data = InfoData::Vlan(vec![InfoVlan::Id(id)]);
    create(name, InfoKind::Vlan, Some(data), &[LinkAttribute::Link(below)])
}

/// Makes two links that are each other's other end.
pub(crate) fn create_pair(name: &str, peer: &str) -> Result<(), Errno> {
    let mut other = LinkMessage::default();
    other.attributes.push(LinkAttribute::IfName(peer.to_owned()));
    let data = InfoData::Veth(InfoVeth::Peer(other));
    create(name, InfoKind::Veth, Some(data), &[])
}

fn create(name: &str, kind: InfoKind, data: Option<InfoData>, more: &[LinkAttribute]) -> Result<(), Errno> {
    let mut info = vec![LinkInfo::Kind(kind)];
    info.extend(data.map(LinkInfo::Data));
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message.attributes.extend(more.iter().cloned());
    message.attributes.push(LinkAttribute::LinkInfo(info));
    ask(NEW_LINK, REQUEST | ACK | CREATE | EXCLUSIVE, &message).map(drop)
}

/// Makes, in place of one of its name, the link by which the host itself reaches its deckies.
pub(crate) fn create_host_link(link: &HostLink) -> Result<(), Errno> {
    let below = index(link.parent.as_str())?;
    let (kind, data) = match link.driver {
        NetworkDriver::Macvlan => {
            let mode = match link.mode {
                Some(NetworkMode::Vepa) => MacVlanMode::Vepa,
                _ => MacVlanMode::Bridge,
            };
            (
                InfoKind::MacVlan,
                InfoData::MacVlan(vec![InfoMacVlan::Mode(mode)]),
            )
        }
        // The mode is the parent's: another one here would change that of the containers.
        NetworkDriver::Ipvlan => {
            let mode = match link.mode {
                Some(NetworkMode::L3) => IpVlanMode::L3,
                Some(NetworkMode::L3s) => IpVlanMode::L3S,
                _ => IpVlanMode::L2,
            };
            (InfoKind::IpVlan, InfoData::IpVlan(vec![InfoIpVlan::Mode(mode)]))
        }
        NetworkDriver::Bridge => return Err(Errno::EINVAL),
    };
    if let Ok(index) = index(link.name.as_str()) {
        remove(index)?;
    }
    let mut more = vec![LinkAttribute::Link(below)];
    more.extend(link.mac.map(|mac| LinkAttribute::Address(mac.bytes().to_vec())));
    create(link.name.as_str(), kind, Some(data), &more)?;
    let index = index(link.name.as_str())?;
    let finished = finish(index, link);
    if finished.is_err() {
        // Half a link is worse than none: the next look would find it and its name.
        remove(index)?;
    }
    finished
}

fn finish(index: u32, link: &HostLink) -> Result<(), Errno> {
    let mut address = AddressMessage::default();
    address.header.family = AddressFamily::Inet;
    address.header.prefix_len = 32;
    address.header.index = index;
    address
        .attributes
        .push(AddressAttribute::Local(link.address.into()));
    ask(NEW_ADDRESS, REQUEST | ACK | CREATE | EXCLUSIVE, &address)?;

    set_up(index)?;
    for decky in &link.routes {
        let mut route = RouteMessage::default();
        route.header = RouteHeader {
            address_family: AddressFamily::Inet,
            destination_prefix_length: 32,
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            scope: RouteScope::Link,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        route.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet(*decky)),
            RouteAttribute::PrefSource(RouteAddress::Inet(link.address)),
            RouteAttribute::Oif(index),
        ];
        ask(NEW_ROUTE, REQUEST | ACK | CREATE | EXCLUSIVE, &route)?;
    }
    // Last: a link that bears it is complete.
    let mut alias = LinkMessage::default();
    alias.header.index = index;
    alias.attributes.push(LinkAttribute::IfAlias(link.alias.clone()));
    ask(NEW_LINK, REQUEST | ACK, &alias).map(drop)
}

pub(crate) fn set_up(index: u32) -> Result<(), Errno> {
    let mut up = LinkMessage::default();
    up.header.index = index;
    up.header.flags = LinkFlags::Up;
    up.header.change_mask = LinkFlags::Up;
    ask(NEW_LINK, REQUEST | ACK, &up).map(drop)
}

/// Removes a link if this is written on it.
pub(crate) fn remove_marked(name: &InterfaceName, alias: &str) -> Result<(), Errno> {
    let found = list()?.into_iter().find(|link| link.name == *name);
    match found {
        Some(link) if link.alias.as_deref() == Some(alias) => remove(link.index),
        _ => Ok(()),
    }
}

/// Removes a link, and its other end.
pub(crate) fn remove(index: u32) -> Result<(), Errno> {
    let mut message = LinkMessage::default();
    message.header = LinkHeader {
        index,
        ..LinkHeader::default()
    };
    ask(DELETE_LINK, REQUEST | ACK, &message).map(drop)
}

/// The index of a link.
pub(crate) fn index(name: &str) -> Result<u32, Errno> {
    nix::net::if_::if_nametoindex(name)
}

fn ask(kind: u16, flags: u16, message: &impl Emitable) -> Result<Vec<Vec<u8>>, Errno> {
    const SEQUENCE: u32 = 1;
    let length = HEADER + message.buffer_len();
    let mut request = Vec::with_capacity(length);
    request.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend(SEQUENCE.to_ne_bytes());
    request.extend([0; 4]);
    request.resize(length, 0);
    if let Some(body) = request.get_mut(HEADER..) {
        message.emit(body);
    }
    let answers = Netlink::open(SockProtocol::NetlinkRoute)?.exchange(&request, SEQUENCE)?;
    Ok(answers
        .into_iter()
        .filter(|answer| answer.kind == NEW_LINK)
        .map(|answer| answer.body)
        .collect())
}

/// None for a message that is not understood: newer kernels may say more.
fn to_link(body: &[u8]) -> Option<Link> {
    let message = LinkMessage::parse(body).ok()?;
    let mut name = None;
    let (mut kind, mut below, mut mac, mut alias, mut elsewhere) = (None, None, None, None, false);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = text.parse().ok(),
            LinkAttribute::IfAlias(text) => alias = Some(text),
            LinkAttribute::Link(index) => below = Some(index).filter(|index| *index != 0),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::Address(bytes) => {
                mac = <[u8; 6]>::try_from(bytes.as_slice())
                    .ok()
                    .map(MacAddress::unicast);
            }
            LinkAttribute::LinkInfo(infos) => {
                kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    // Of a pair, this is the other end and not something that it sits on.
    let sits = kind.as_deref().is_some_and(|kind| kind != "veth") && !elsewhere;
    Some(Link {
        index: message.header.index,
        name: name?,
        up: message.header.flags.contains(LinkFlags::Up),
        kind,
        below: below.filter(|_| sits),
        mac,
        alias,
    })
}
