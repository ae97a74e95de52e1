//! Networks: what the kernel has for them, the interface that deckies are put on, what its LAN lets pass.

use decnet_docker::host::{self, DefaultRoute, Port};
use decnet_wire::ids::InterfaceName;
use decnet_wire::observed::{Feature, Interface};

use super::Finding;
use crate::error::error_chain;
use crate::identity::Identity;

pub(super) async fn examine(identity: Option<&Identity>, ipvlan: bool) -> Vec<Finding> {
    let mut findings = kernel(ipvlan).await;
    let routes = host::default_routes().unwrap_or_default();
    let (found, usable) = interface(identity, &routes, ipvlan);
    findings.push(found);
    if let Some(name) = usable.filter(|_| !ipvlan) {
        let route = routes.into_iter().find(|route| route.interface == name);
        findings.push(port(&name, route).await);
    }
    findings
}

/// What the kernel has of what networks need, found out by trying.
async fn kernel(ipvlan: bool) -> Vec<Finding> {
    let lacks = tokio::task::spawn_blocking(host::lacks).await.unwrap_or_default();
    let release = nix::sys::utsname::uname().ok();
    let release = release.map(|name| name.release().to_string_lossy().into_owned());
    let check = |feature: Feature, needed: bool, advice: &str| {
        let name = feature.as_str();
        match (lacks.contains(&feature), needed) {
            (false, _) => Finding::ok(name, "the kernel has it"),
            (true, true) => Finding::fail(name, "does not exist in this host's kernel", advice),
            (true, false) => Finding::ok(
                name,
                "does not exist in this host's kernel; this host does not need it",
            ),
        }
    };
    vec![
        Finding::ok(
            "kernel",
            format!("Linux {}", release.as_deref().unwrap_or("of an unknown release")),
        ),
        check(
            Feature::Macvlan,
            !ipvlan,
            "load it with `modprobe macvlan`, or enrol this host with --ipvlan",
        ),
        check(
            Feature::Ipvlan,
            ipvlan,
            "load it with `modprobe ipvlan`, or enrol this host without --ipvlan",
        ),
        egress(&lacks).await,
    ]
}

/// Whether deckies can be kept from calling out, and by what.
async fn egress(lacks: &[Feature]) -> Finding {
    const CHECK: &str = "egress";
    let closes = tokio::task::spawn_blocking(host::closes).await;
    match closes.ok().flatten() {
        Some(way) => Finding::ok(CHECK, format!("{way} keeps deckies from calling out")),
        None if lacks.contains(&Feature::Nftables) => Finding::fail(
            CHECK,
            "the kernel has neither nftables with connection tracking nor x_tables for IPv4 and IPv6",
            "load what keeps deckies from calling out: `modprobe -a nf_tables nft_ct`, or `modprobe -a ip_tables \
             ip6_tables iptable_filter ip6table_filter xt_conntrack`",
        ),
        None => Finding::ok(CHECK, "not tried: that needs root"),
    }
}

/// The interface that deckies are put on, if it can be: the one that enrolment fixed for this host, or else the default
/// route's. Whether it fits the networks of a bundle is told with the bundle.
fn interface(
    identity: Option<&Identity>,
    routes: &[DefaultRoute],
    ipvlan: bool,
) -> (Finding, Option<InterfaceName>) {
    const CHECK: &str = "interface";
    let fixed = identity.and_then(|identity| identity.network.interface.clone());
    let (name, why) = match (fixed, routes.first()) {
        (Some(fixed), _) => (fixed, "which enrolment fixed for this host"),
        (None, Some(route)) => (route.interface.clone(), "which has the default route"),
        (None, None) => {
            let says = "as the fleet has it: no default route tells which one";
            return (Finding::ok(CHECK, says), None);
        }
    };
    let found = match host::interfaces() {
        Ok(all) => all.into_iter().find(|interface| interface.name == name),
        Err(error) => {
            return (
                Finding::warn(CHECK, error_chain(&error), "look with `ip link`"),
                None,
            );
        }
    };
    let (finding, usable) = suits(&name, why, found.as_ref(), ipvlan);
    (finding, usable.then_some(name))
}

fn suits(name: &InterfaceName, why: &str, found: Option<&Interface>, ipvlan: bool) -> (Finding, bool) {
    const CHECK: &str = "interface";
    let finding = match found {
        None => Finding::fail(
            CHECK,
            format!("{name}, {why}, does not exist"),
            "create it, or enrol again with the interface that the host has",
        ),
        Some(interface) if !interface.up => Finding::fail(
            CHECK,
            format!("{name}, {why}, is down"),
            format!("set it up: `ip link set {name} up`"),
        ),
        Some(interface) if interface.wireless && !ipvlan => Finding::fail(
            CHECK,
            format!(
                "{name}, {why}, is wireless: an access point takes frames of one MAC address from it only"
            ),
            "enrol with --ipvlan, or with a wired interface",
        ),
        Some(interface) => {
            let addresses: Vec<String> = interface.addresses.iter().map(ToString::to_string).collect();
            let addresses = if addresses.is_empty() {
                "no address".to_owned()
            } else {
                addresses.join(" and ")
            };
            let says = format!("{name}, {why}, is up, with {addresses}");
            return (Finding::ok(CHECK, says), true);
        }
    };
    (finding, false)
}

/// Whether the LAN hears deckies with MAC addresses of their own. Found out by trying, which takes a gateway that answers.
async fn port(interface: &InterfaceName, route: Option<DefaultRoute>) -> Finding {
    const CHECK: &str = "promiscuity";
    let Some(route) = route else {
        return Finding::ok(
            CHECK,
            format!("not tried: there is no gateway on {interface} to ask for"),
        );
    };
    let gateway = route.gateway;
    let asked = tokio::task::spawn_blocking(move || host::try_port(&route.interface, gateway)).await;
    match asked {
        Ok(Ok(Port::Open)) => Finding::ok(
            CHECK,
            format!("the LAN of {interface} answers other MAC addresses than the host's"),
        ),
        Ok(Ok(Port::OwnMacOnly)) => Finding::fail(
            CHECK,
            format!(
                "{gateway} answers {interface}, and no other MAC address behind it: deckies would not be heard"
            ),
            "allow promiscuous mode, MAC address changes and forged transmits at the hypervisor or switch, or enrol with \
             --ipvlan",
        ),
        Ok(Ok(Port::Silent)) => Finding::ok(
            CHECK,
            format!("not known: the gateway {gateway} does not answer on {interface}"),
        ),
        Ok(Err(error)) => Finding::ok(CHECK, format!("not tried on {interface}: {error}")),
        Err(error) => Finding::ok(CHECK, format!("not tried on {interface}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn found(up: bool, wireless: bool) -> Interface {
        Interface {
            up,
            wireless,
            addresses: vec!["10.0.0.5/24".parse().unwrap()],
            ..Interface::new("wlan0".parse().unwrap())
        }
    }

    #[test]
    fn an_interface_that_deckies_cannot_be_put_on_is_named_with_the_cure() {
        let name: InterfaceName = "wlan0".parse().unwrap();
        let of = |found: Option<Interface>, ipvlan| {
            suits(&name, "which has the default route", found.as_ref(), ipvlan)
        };
        let (finding, usable) = of(Some(found(true, false)), false);
        assert_eq!((finding.level, usable), (Level::Ok, true));
        assert!(finding.says.contains("10.0.0.5/24"), "{finding:?}");
        for (interface, ipvlan, advice) in [
            (None, false, "create it"),
            (Some(found(false, false)), true, "ip link set wlan0 up"),
            (Some(found(true, true)), false, "--ipvlan"),
        ] {
            let (finding, usable) = of(interface, ipvlan);
            assert_eq!((finding.level, usable), (Level::Fail, false));
            assert!(finding.advice.as_ref().unwrap().contains(advice), "{finding:?}");
        }
        let (wireless, usable) = of(Some(found(true, true)), true);
        assert_eq!(
            (wireless.level, usable),
            (Level::Ok, true),
            "ipvlan has the host's own MAC"
        );
    }
}
