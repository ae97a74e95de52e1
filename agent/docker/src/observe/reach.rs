//! Whether a decky reaches the LAN that its host reaches.
//!
//! Clouds and hypervisors let a port send from the addresses that they have given it only. A container with a MAC
//! address of its own then starts, looks well, and is heard by nobody. It is told by a question that both can ask:
//! who has the gateway's address.

use std::net::Ipv4Addr;

use bollard::models::ContainerInspectResponse;
use decnet_wire::bundle::NetworkDriver;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrIn;

use super::{sandbox, to_foreign};
use crate::engine::LOOK;
use crate::host::arp::{self, Asker};
use crate::host::namespace::Namespace;
use crate::{Engine, EngineError};

/// One of a container's ways to a LAN.
struct Way {
    driver: NetworkDriver,
    parent: String,
    address: Ipv4Addr,
    gateway: Ipv4Addr,
}

impl Engine {
    /// What is suspicious about a running container's way to its gateways: one line each. Nothing when all of them
    /// answer, or answer the host neither. Takes about a second when one does not answer.
    ///
    /// # Errors
    /// The engine does not answer, or the container is gone.
    pub async fn check_reach(&self, container: &str) -> Result<Vec<String>, EngineError> {
        let container = self.inspect(container).await?;
        let ways = self.ways(&container).await?;
        let (Some(path), false) = (sandbox(&container), ways.is_empty()) else {
            return Ok(Vec::new());
        };
        let check = move || {
            let Ok(namespace) = Namespace::open(&path) else {
                return Vec::new();
            };
            ways.iter().filter_map(|way| way.check(&namespace)).collect()
        };
        Ok(tokio::task::spawn_blocking(check).await.unwrap_or_default())
    }

    async fn ways(&self, container: &ContainerInspectResponse) -> Result<Vec<Way>, EngineError> {
        let settings = container.network_settings.as_ref();
        let endpoints = settings.and_then(|settings| settings.networks.as_ref());
        let mut ways = Vec::new();
        for endpoint in endpoints.into_iter().flat_map(|endpoints| endpoints.values()) {
            let address = |text: &Option<String>| text.as_ref()?.parse::<Ipv4Addr>().ok();
            let (Some(own), Some(gateway)) = (address(&endpoint.ip_address), address(&endpoint.gateway))
            else {
                continue;
            };
            let Some(id) = endpoint.network_id.as_deref() else {
                continue;
            };
            let what = || format!("inspect network {id}");
            let network = self
                .call(LOOK, what, self.docker.inspect_network(id, None))
                .await?;
            // The engine's answer about one network has the same fields as its list has.
            let network = bollard::models::Network {
                name: network.name,
                driver: network.driver,
                options: network.options,
                ..bollard::models::Network::default()
            };
            // In these modes nobody asks for anybody (ipvlan links without ARP).
            let options = network.options.as_ref();
            let routed = options.and_then(|options| options.get("ipvlan_mode"));
            if routed.is_some_and(|mode| mode.starts_with("l3")) {
                continue;
            }
            if let Some(seat) = to_foreign(&network) {
                ways.push(Way {
                    driver: seat.driver,
                    parent: seat.parent.as_str().to_owned(),
                    address: own,
                    gateway,
                });
            }
        }
        Ok(ways)
    }
}

impl Way {
    /// What is suspicious. Whatever cannot be asked is not.
    fn check(&self, namespace: &Namespace) -> Option<String> {
        let Self {
            driver,
            parent,
            address,
            gateway,
        } = self;
        let inside = namespace
            .run(|| arp::ask(&interface_of(*address)?, Asker::Host(*address), *gateway))
            .ok()?
            .ok()?;
        if inside.is_some() {
            return None;
        }
        let outside = arp::ask(parent, Asker::Nobody, *gateway).ok()??;
        let advice = match driver {
            NetworkDriver::Macvlan => {
                "the port of this host seems to let its own MAC address pass only: allow promiscuous mode and forged \
                 transmits at the hypervisor, or give this host ipvlan"
            }
            NetworkDriver::Ipvlan | NetworkDriver::Bridge => {
                "the port of this host seems to let its own addresses pass only: allow the deckies' addresses at the \
                 cloud or hypervisor"
            }
        };
        Some(format!(
            "the gateway {gateway} ({outside}) answers {parent} and not {address}: {advice}"
        ))
    }
}

/// The interface of the calling thread's namespace that has the address.
fn interface_of(address: Ipv4Addr) -> std::io::Result<String> {
    getifaddrs()?
        .find(|entry| {
            let found = entry
                .address
                .as_ref()
                .and_then(|found| found.as_sockaddr_in().map(SockaddrIn::ip));
            found == Some(address)
        })
        .map(|entry| entry.interface_name)
        .ok_or_else(|| std::io::Error::other(format!("no interface has {address}")))
}
