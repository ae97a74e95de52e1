//! The LAN of this machine's default route.

use decnet_docker::host;

use crate::fleet::model::Lan;

/// The interface, subnet and gateway of the default route, if there is one.
#[must_use]
pub fn detect() -> Option<Lan> {
    let route = host::default_routes().ok()?.into_iter().next()?;
    let interfaces = host::interfaces().ok()?;
    let interface = interfaces
        .into_iter()
        .find(|found| found.name == route.interface)?;
    // With several, the one that the gateway is in.
    let holds = interface
        .addresses
        .iter()
        .find(|net| net.contains(&route.gateway));
    let subnet = holds.or(interface.addresses.first())?.trunc();
    Some(Lan {
        subnet,
        gateway: Some(route.gateway),
        interface: Some(route.interface),
    })
}
