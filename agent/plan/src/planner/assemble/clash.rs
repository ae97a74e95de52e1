//! What cannot run beside each other.

use decnet_wire::ids::StackName;
use decnet_wire::observed::ObservedContainer;

use crate::desired::DesiredService;
use crate::step::{ContainerSpec, Port};

/// Whether two ports of the host cannot both be had.
fn same_port(a: &Port, b: &Port) -> bool {
    let any = |port: &Port| {
        let ip = port.host_ip.as_deref();
        ip.is_none_or(|ip| matches!(ip, "0.0.0.0" | "::"))
    };
    a.published.is_some()
        && a.published == b.published
        && a.protocol == b.protocol
        && (a.host_ip == b.host_ip || any(a) || any(b))
}

/// The ports of the host that a container of a project holds, as far as it tells.
fn published(container: &ObservedContainer) -> Vec<Port> {
    let spec = container.spec.as_deref();
    let spec = spec.and_then(|spec| serde_json::from_str::<ContainerSpec>(spec).ok());
    spec.map(|spec| spec.ports).unwrap_or_default()
}

/// Whether a service cannot run beside a container: they would share a port (within a stack, where services share a
/// namespace), an address or a MAC.
pub(super) fn clashes(stack: &StackName, service: &DesiredService, container: &ObservedContainer) -> bool {
    fn same<T: PartialEq + Copy>(a: Option<T>, b: Option<T>) -> bool {
        a.is_some() && a == b
    }
    // Containers of a project have a namespace each, unless they share one.
    let ports = container.stack == *stack
        && (service.joins.is_some() || container.spec.is_none())
        && service
            .spec
            .expose
            .iter()
            .any(|port| container.expose.contains(port));
    let on_the_host = !service.spec.ports.is_empty()
        && published(container)
            .iter()
            .any(|held| service.spec.ports.iter().any(|port| same_port(held, port)));
    ports
        || on_the_host
        || service.spec.endpoints().iter().any(|endpoint| {
            container.attachments.iter().any(|attachment| {
                attachment.network == endpoint.network
                    && (same(attachment.address, endpoint.address) || same(attachment.mac, endpoint.mac))
            })
        })
}
