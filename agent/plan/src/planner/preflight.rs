//! What keeps a network from working on this host, found out before anything is touched.
//!
//! A network that is there as it should be is not put in question by what could also be otherwise: an address that
//! somebody gives to its parent, or a network that somebody else defines, is no reason to stop repairing it.

use decnet_wire::bundle::{NetworkDriver, NetworkMode};
use decnet_wire::ids::InterfaceName;
use decnet_wire::observed::{Feature, Interface, Observed};
use ipnet::IpNet;

use crate::desired::{Desired, HOST_LINK};
use crate::labels;
use crate::step::NetworkSpec;

/// Why no decky can be had at all.
pub(super) const UNCLOSABLE: &str = "nothing in this host's kernel can keep a decky from calling out: load the modules \
     nf_tables and nft_ct (nftables), or ip_tables, ip6_tables, iptable_filter, ip6table_filter and xt_conntrack \
     (x_tables), or use a kernel that has the ones or the others";

/// Why the network cannot be had: one line, or None when nothing speaks against it.
pub(super) fn obstacle(
    name: &str,
    network: &NetworkSpec,
    desired: &Desired,
    observed: &Observed,
) -> Option<String> {
    let lan = Lan {
        driver: network.known_driver()?,
        parent: network.parent()?.parse().ok()?,
        subnets: network.subnets().collect(),
    };
    let is_there = observed.networks.iter().any(|other| {
        other.name == name
            && network
                .labels
                .get(labels::HASH)
                .is_some_and(|hash| *hash == other.hash)
    });
    let always = || {
        let parent = lan.parent(observed).err();
        let kernel = parent.or_else(|| lan.kernel(observed));
        kernel.or_else(|| lan.wireless(observed))
    };
    let before_it_is_made = || {
        let shared = lan.shared(name, desired, observed);
        let subnet = || (!network.is_routed()).then(|| lan.subnet(observed)).flatten();
        let mode = || too_new_a_mode(network, observed);
        shared
            .or_else(|| lan.vlan(observed))
            .or_else(mode)
            .or_else(subnet)
    };
    let problem = always()
        .or_else(|| crowded(name, network, desired))
        .or_else(|| if is_there { None } else { before_it_is_made() })?;
    Some(format!("network {name}: {problem}"))
}

fn too_new_a_mode(network: &NetworkSpec, observed: &Observed) -> Option<String> {
    let l3s = network.link_mode() == Some(NetworkMode::L3s);
    (l3s && observed.lacks.contains(&Feature::IpvlanL3s))
        .then(|| "ipvlan's mode l3s needs Docker 23.0 or newer: update the engine, or choose l3".to_owned())
}

/// Why a decky cannot have this address on this network.
pub(super) fn address_obstacle(
    address: std::net::IpAddr,
    network: &NetworkSpec,
    observed: &Observed,
) -> Option<String> {
    let parent = network.parent()?;
    let interface = observed
        .interfaces
        .iter()
        .find(|interface| interface.has(address) && !is_host_link(&interface.name))?;
    Some(format!(
        "{address} on network {}: it is the address of this host's own interface {}, {}",
        network.name,
        interface.name,
        if interface.name.as_str() == parent {
            "the network's parent"
        } else {
            "of the same machine"
        },
    ))
}

/// What matters of a network that sits on an interface.
struct Lan {
    driver: NetworkDriver,
    parent: InterfaceName,
    /// Of both families; none where the engine chooses.
    subnets: Vec<IpNet>,
}

impl Lan {
    /// The interface that frames leave by: the parent, or what a VLAN that the engine is to make will sit on.
    fn parent<'o>(&self, observed: &'o Observed) -> Result<&'o Interface, String> {
        let find = |name: &str| {
            observed
                .interfaces
                .iter()
                .find(|interface| interface.name.as_str() == name)
        };
        let parent = &self.parent;
        let found = match (find(parent.as_str()), vlan(parent)) {
            (Some(interface), _) => interface,
            (None, Some((trunk, id))) => {
                let Some(trunk) = find(trunk) else {
                    return Err(format!(
                        "this host has no interface {parent}, its parent, and no {trunk} to make VLAN {id} on"
                    ));
                };
                trunk
            }
            (None, None) => return Err(format!("this host has no interface {parent}, its parent")),
        };
        if found.up {
            return Ok(found);
        }
        Err(if found.name == *parent {
            format!("its parent interface {parent} is down")
        } else {
            format!(
                "{}, which its parent interface {parent} sits on, is down",
                found.name
            )
        })
    }

    fn kernel(&self, observed: &Observed) -> Option<String> {
        let (feature, other) = match self.driver {
            NetworkDriver::Macvlan => (Feature::Macvlan, Feature::Ipvlan),
            NetworkDriver::Ipvlan => (Feature::Ipvlan, Feature::Macvlan),
            NetworkDriver::Bridge => return None,
        };
        if !observed.lacks.contains(&feature) {
            return None;
        }
        let feature = feature.as_str();
        let advice = if observed.lacks.contains(&other) {
            format!("load the module {feature}, or use a kernel that has it")
        } else {
            format!(
                "load the module {feature}, use a kernel that has it, or give this host {}",
                other.as_str()
            )
        };
        Some(format!(
            "{feature} does not exist in this host's kernel: {advice}"
        ))
    }

    /// The engine makes the VLAN of a parent that is not there when it makes the network.
    fn vlan(&self, observed: &Observed) -> Option<String> {
        let is_there = |interface: &Interface| interface.name == self.parent;
        let (trunk, id) = vlan(&self.parent)?;
        let to_be_made = !observed.interfaces.iter().any(is_there);
        (to_be_made && observed.lacks.contains(&Feature::Vlan)).then(|| {
            format!(
                "its parent {} is VLAN {id} of {trunk}, and VLANs do not exist in this host's kernel: load the module \
                 8021q, or use a kernel that has it",
                self.parent
            )
        })
    }

    fn wireless(&self, observed: &Observed) -> Option<String> {
        let interface = self.parent(observed).ok()?;
        (self.driver == NetworkDriver::Macvlan && interface.wireless).then(|| {
            format!(
                "{} is wireless, and an access point takes frames of one MAC address from it only, so macvlan does \
                 not work: give this host ipvlan",
                interface.name
            )
        })
    }

    /// A parent carries macvlan or ipvlan, never both: the kernel refuses the second with EBUSY when a container
    /// starts.
    fn shared(&self, name: &str, desired: &Desired, observed: &Observed) -> Option<String> {
        let parent = &self.parent;
        let rival = |driver: NetworkDriver| driver != self.driver;
        let foreign = observed
            .foreign_networks
            .iter()
            .find(|other| other.parent == *parent && rival(other.driver));
        if let Some(other) = foreign {
            return Some(format!(
                "its parent interface {parent} carries the {} network {} already, and cannot carry {} beside it: \
                 remove that network, or use another interface",
                other.driver.as_str(),
                other.name,
                self.driver.as_str()
            ));
        }
        let link = observed.interfaces.iter().find(|link| {
            let kind = match link.kind.as_deref() {
                Some("macvlan" | "macvtap") => NetworkDriver::Macvlan,
                Some("ipvlan" | "ipvtap") => NetworkDriver::Ipvlan,
                _ => return false,
            };
            link.parent.as_ref() == Some(parent) && rival(kind) && !is_host_link(&link.name)
        });
        if let Some(link) = link {
            return Some(format!(
                "its parent interface {parent} carries {}, a link of kind {}, and cannot carry {} beside it: remove \
                 that link, or use another interface",
                link.name,
                link.kind.as_deref().unwrap_or_default(),
                self.driver.as_str()
            ));
        }
        let own = desired.networks().iter().find(|(other, network)| {
            other.as_str() != name
                && network.parent() == Some(parent.as_str())
                && network.known_driver().is_some_and(rival)
        });
        own.map(|(other, network)| {
            format!(
                "its parent interface {parent} is to carry the {} network {other} too, and one interface cannot carry \
                 both {} and {}",
                network.driver,
                network.driver,
                self.driver.as_str()
            )
        })
    }

    /// An interface without an address of the family says nothing about what is on its wire; nor does one with
    /// link-local addresses only (RFC 3927).
    fn subnet(&self, observed: &Observed) -> Option<String> {
        let parent = self
            .parent(observed)
            .ok()
            .filter(|found| found.name == self.parent)?;
        let four = parent.addresses.iter().filter(|net| !net.addr().is_link_local());
        let six = parent.addresses6.iter();
        let addresses: Vec<IpNet> = four
            .map(|net| IpNet::V4(*net))
            .chain(six.map(|net| IpNet::V6(*net)))
            .collect();
        self.subnets.iter().find_map(|subnet| {
            let mut family = addresses
                .iter()
                .filter(|net| net.addr().is_ipv4() == subnet.addr().is_ipv4())
                .peekable();
            family.peek()?;
            if family.clone().any(|net| subnet.contains(&net.addr())) {
                return None;
            }
            let addresses: Vec<String> = family.map(ToString::to_string).collect();
            Some(format!(
                "its subnet {subnet} is not that of its parent interface {}, which has {}: nobody on that LAN would \
                 reach its deckies",
                parent.name,
                addresses.join(" and ")
            ))
        })
    }
}

/// In this mode the interface is one container's: the kernel gives the next one EINVAL when it starts.
fn crowded(name: &str, network: &NetworkSpec, desired: &Desired) -> Option<String> {
    if network.link_mode() != Some(NetworkMode::Passthru) {
        return None;
    }
    let containers: Vec<&str> = desired
        .containers()
        .filter(|(_, _, spec)| spec.endpoints().iter().any(|endpoint| endpoint.network == name))
        .map(|(_, _, spec)| spec.name.as_str())
        .collect();
    (containers.len() > 1).then(|| {
        format!(
            "in the mode passthru its parent interface is one container's, and {} are to have it: use another mode, or \
             an interface for each",
            containers.join(", ")
        )
    })
}

fn is_host_link(name: &InterfaceName) -> bool {
    name.as_str().starts_with(HOST_LINK)
}

/// The engine makes `eth0.30` by itself: VLAN 30 on `eth0` (IEEE 802.1Q: identifiers 1 to 4094).
pub(super) fn vlan(parent: &InterfaceName) -> Option<(&str, u16)> {
    let (trunk, id) = parent.as_str().rsplit_once('.')?;
    let id: u16 = id.parse().ok()?;
    (!trunk.is_empty() && (1..=4094).contains(&id)).then_some((trunk, id))
}
