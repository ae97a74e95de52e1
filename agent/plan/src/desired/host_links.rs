//! The links by which the host itself reaches its deckies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use decnet_wire::bundle::{Network, NetworkDriver, NetworkMode};
use decnet_wire::ids::{HostId, InterfaceName, MacAddress};
use sha2::{Digest as _, Sha256};

use super::{Desired, DocumentError, hash};
use crate::step::HostLink;

/// What their names start with.
pub const HOST_LINK: &str = "decnet-h-";
/// What is written on all of them, before the host's id.
const MARK: &str = "decnet ";

/// Whether what is written on a link says that it is this host's.
pub(crate) fn is_ours(alias: &str, host: HostId) -> bool {
    alias
        .strip_prefix(MARK)
        .and_then(|rest| rest.split(' ').next())
        .is_some_and(|id| id == host.to_string())
}

/// Reads what a bundle's networks say about the host itself.
pub(super) fn addresses(networks: &[Network], errors: &mut Vec<DocumentError>) -> BTreeMap<String, Ipv4Addr> {
    let mut addresses = BTreeMap::new();
    for network in networks {
        let Some(address) = network.host_address else {
            continue;
        };
        let mut fail = |problem: &str| {
            let path = format!("networks.{}.host_address", network.name);
            errors.push(DocumentError::new(None, path, problem));
        };
        let reserved = [network.subnet.network(), network.subnet.broadcast()];
        if network.driver == NetworkDriver::Bridge {
            fail("the host is on a bridge anyway: only macvlan and ipvlan networks need one");
        } else if matches!(network.mode, Some(NetworkMode::Private | NetworkMode::Passthru)) {
            fail("in this mode nothing on the host reaches a decky, whatever its address");
        } else if !network.subnet.contains(&address) {
            fail("is outside the subnet");
        } else if Some(address) == network.gateway || reserved.contains(&address) {
            fail("is reserved in the network");
        }
        addresses.insert(network.name.as_str().to_owned(), address);
    }
    addresses
}

impl Desired {
    /// The links for the host itself, by their name.
    #[must_use]
    pub fn host_links(&self) -> BTreeMap<InterfaceName, HostLink> {
        let link = |(network, address): (&String, &Ipv4Addr)| {
            let spec = self.networks.get(network)?;
            let parent: InterfaceName = spec.parent()?.parse().ok()?;
            let driver = spec.known_driver()?;
            let routes: BTreeSet<Ipv4Addr> = self
                .containers()
                .flat_map(|(_, _, container)| container.endpoints())
                .filter(|endpoint| endpoint.network == *network)
                .filter_map(|endpoint| endpoint.address)
                .collect();
            let digest = Sha256::digest(format!("{} {network}", self.host));
            let name: InterfaceName = format!("{HOST_LINK}{}", hex::encode(digest.get(..3)?))
                .parse()
                .ok()?;
            let mut mac: [u8; 6] = digest.get(3..9)?.try_into().ok()?;
            // Locally administered (IEEE 802, U/L).
            mac[0] |= 0x02;
            let mut link = HostLink {
                name: name.clone(),
                network: network.clone(),
                driver,
                mode: spec.link_mode(),
                parent,
                mac: (driver == NetworkDriver::Macvlan).then(|| MacAddress::unicast(mac)),
                address: *address,
                routes,
                alias: String::new(),
            };
            let mut state = hash::of(&link);
            state.truncate(16);
            link.alias = format!("{MARK}{} {network} {state}", self.host);
            Some((name, link))
        };
        self.host_addresses.iter().filter_map(link).collect()
    }
}
