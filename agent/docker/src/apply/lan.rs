//! Steps that are done by the kernel and not by the engine.

use std::io;
use std::net::IpAddr;

use decnet_plan::compose::Egress;
use decnet_plan::step::HostLink;
use decnet_wire::ids::InterfaceName;

use super::settle::ended;
use crate::host::namespace::Namespace;
use crate::host::{arp, closes, interfaces, links, lock, nd};
use crate::observe::sandbox;
use crate::{Engine, EngineError};

/// Fails when somebody on the LAN answers for the address.
pub(super) async fn probe_address(
    container: &str,
    parent: &InterfaceName,
    address: IpAddr,
) -> Result<(), EngineError> {
    let interface = parent.clone();
    let asked = blocking(move || match address {
        IpAddr::V4(address) => arp::probe(interface.as_str(), address),
        IpAddr::V6(address) => nd::probe(interface.as_str(), address),
    })
    .await;
    match asked {
        Ok(None) => Ok(()),
        Ok(Some(mac)) => Err(EngineError::AddressTaken {
            container: container.to_owned(),
            address,
            parent: parent.clone(),
            mac,
        }),
        Err(source) => Err(EngineError::Host {
            what: format!("ask on {parent} for {address}"),
            source,
        }),
    }
}

/// Asks for the address first, unless the host has it already.
pub(super) async fn create_host_link(link: &HostLink) -> Result<(), EngineError> {
    let held = interfaces()?
        .iter()
        .any(|interface| interface.has(link.address.into()));
    if !held {
        probe_address(link.name.as_str(), &link.parent, link.address.into()).await?;
    }
    let wanted = link.clone();
    blocking(move || Ok(links::create_host_link(&wanted)?))
        .await
        .map_err(|source| EngineError::Host {
            what: format!("create link {} on {}", link.name, link.parent),
            source,
        })
}

pub(super) async fn remove_host_link(name: &InterfaceName, alias: &str) -> Result<(), EngineError> {
    let (wanted, alias) = (name.clone(), alias.to_owned());
    blocking(move || Ok(links::remove_marked(&wanted, &alias)?))
        .await
        .map_err(|source| EngineError::Host {
            what: format!("remove link {name}"),
            source,
        })
}

impl Engine {
    pub(super) async fn lock_namespace(
        &self,
        name: &str,
        egress: &Egress,
        rules: &str,
    ) -> Result<(), EngineError> {
        let failed = |source: io::Error| EngineError::Host {
            what: format!("close the network namespace of container {name}"),
            source,
        };
        let before = self.inspect(name).await?;
        let Some(path) = sandbox(&before) else {
            if let Some(how) = ended(&before, false) {
                return Err(self.unsettled(name, how).await);
            }
            let why = "it does not run, or shares another's network, so that it has no network namespace";
            return Err(failed(io::Error::other(why)));
        };
        let namespace = Namespace::open(&path).map_err(failed)?;
        if namespace.is_own().map_err(failed)? {
            let why = "it shares the network of the host itself";
            return Err(failed(io::Error::other(why)));
        }
        let (egress, rules, closing) = (egress.clone(), rules.to_owned(), self.closing);
        blocking(move || {
            // Where the kernel has no way, nftables tells why.
            let way = closing.or_else(closes).unwrap_or(lock::Way::Nftables);
            namespace
                .run(|| lock::close(way, &egress, &rules))?
                .map_err(io::Error::from)
        })
        .await
        .map_err(failed)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}
