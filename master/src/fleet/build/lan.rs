//! Which LAN the fleet is on.

use super::{BuildError, Deploy};
use crate::fleet::ini::{At, Faults, IniClass, is_host};
use crate::fleet::model::{Fleet, HostSlot, Lan};

/// The fleet's LAN after the deploy: the text's, else the fleet's, else the detected one. None when every target has
/// a LAN of its own and the text names none.
pub(super) fn resolve(
    request: &Deploy<'_>,
    before: &Fleet,
    targets: &[HostSlot],
    detected: Option<&Lan>,
    faults: &mut Faults,
) -> Option<Lan> {
    let lan = match &before.lan {
        Some(lan) if !before.deckies.is_empty() && !request.replace => {
            keeps(request, lan, faults);
            Some(lan.clone())
        }
        _ => compose(request, before, targets, detected, faults),
    };
    if faults.is_empty() {
        interfaces(request, lan.as_ref(), targets, faults);
    }
    lan
}

/// Refuses a text that would move the LAN under deckies that run on it.
fn keeps(request: &Deploy<'_>, lan: &Lan, faults: &mut Faults) {
    let general = &request.ini.general;
    let mut check = |said: Option<(String, BuildError)>, is: Option<String>| {
        if let Some((said, error)) = said.filter(|(said, _)| Some(said) != is.as_ref()) {
            let is = is.unwrap_or_else(|| "none".to_owned());
            let message = format!(
                "the running fleet has {is} and the text says {said}; remove the line, or replace the fleet"
            );
            faults.push(BuildError { message, ..error });
        }
    };
    check(said(general.net.as_ref()), Some(lan.subnet.to_string()));
    check(
        said(general.gw.as_ref()),
        lan.gateway.map(|gateway| gateway.to_string()),
    );
    check(
        said(general.interface.as_ref()),
        lan.interface.as_ref().map(ToString::to_string),
    );
}

fn said<T: ToString>(at: Option<&At<T>>) -> Option<(String, BuildError)> {
    at.map(|at| {
        (
            at.value.to_string(),
            BuildError::new(IniClass::Network, "").at(at),
        )
    })
}

fn compose(
    request: &Deploy<'_>,
    before: &Fleet,
    targets: &[HostSlot],
    detected: Option<&Lan>,
    faults: &mut Faults,
) -> Option<Lan> {
    let general = &request.ini.general;
    let needed = targets.iter().any(|host| host.lan.is_none());
    let detected = detected.filter(|_| needed);
    let sources = || before.lan.as_ref().into_iter().chain(detected);
    let subnet = general
        .net
        .as_ref()
        .map(|at| at.value)
        .or_else(|| sources().map(|lan| lan.subnet.trunc()).next());
    let Some(subnet) = subnet else {
        if needed {
            let message = format!(
                "the subnet is not known and could not be detected; {}",
                remedy(request, "add `net`, `gw` and `interface` to [general]")
            );
            faults.push(
                BuildError::new(IniClass::Network, message)
                    .section("general")
                    .key("net"),
            );
        } else if let Some(gw) = &general.gw {
            faults.push(BuildError::new(IniClass::Network, "is of no use without net; add net").at(gw));
        }
        return None;
    };
    if let Some(gw) = general.gw.as_ref().filter(|gw| !is_host(&subnet, gw.value)) {
        let message = format!(
            "{} is not a host address of {subnet}; correct gw, or add net",
            gw.value
        );
        faults.push(BuildError::new(IniClass::Address, message).at(gw));
        return None;
    }
    let known = || {
        sources()
            .filter_map(|lan| lan.gateway)
            .find(|gateway| is_host(&subnet, *gateway))
    };
    let gateway = general.gw.as_ref().map(|at| at.value).or_else(known);
    if gateway.is_none() && needed {
        let message = format!(
            "the gateway of {subnet} is not known and could not be detected; {}",
            remedy(request, "add `gw` to [general]")
        );
        faults.push(
            BuildError::new(IniClass::Network, message)
                .section("general")
                .key("gw"),
        );
    }
    let interface = general.interface.as_ref().map(|at| at.value.clone());
    let interface = interface.or_else(|| sources().find_map(|lan| lan.interface.clone()));
    Some(Lan {
        subnet,
        gateway,
        interface,
    })
}

/// What to do, for a text and for a request without one.
fn remedy<'a>(request: &Deploy<'_>, text: &'a str) -> &'a str {
    match request.ini.generated {
        None => text,
        Some(_) => "describe the fleet in an INI whose [general] has net, gw and interface",
    }
}

/// Every target needs an interface for its deckies.
fn interfaces(request: &Deploy<'_>, lan: Option<&Lan>, targets: &[HostSlot], faults: &mut Faults) {
    let fleet = lan.and_then(|lan| lan.interface.as_ref());
    for host in targets {
        let own = host
            .interface
            .as_ref()
            .or_else(|| host.lan.as_ref().and_then(|lan| lan.interface.as_ref()));
        if own.or(fleet).is_none() {
            let message = format!(
                "the interface of host {} is not known and could not be detected; {}",
                host.name,
                remedy(request, "add `interface` to [general], or set the host's")
            );
            faults.push(
                BuildError::new(IniClass::Network, message)
                    .section("general")
                    .key("interface"),
            );
        }
    }
}
