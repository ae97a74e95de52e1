//! From the fleet to the networks and Compose documents of one host.
//!
//! A document depends on its decky, the host and the catalogue alone, so that a change of one decky touches no
//! other. The same input gives the same bytes.

use std::fmt;

use decnet_wire::bundle::{CONTEXT_PREFIX, Network, NetworkDriver, NetworkMode};
use decnet_wire::ids::{DeckyName, HostName, NetworkName, ServiceSlug, StackName};
use serde_json::{Map, Value, json};

use super::catalogue::{Catalogue, Runs};
use super::model::{BASE, Decky, DistroSlug, Fleet, HostSlot, OsFamilySlug};

/// The key of the LAN in every document.
const LAN: &str = "lan";
/// `nobody` and `nogroup` by their numbers, which need no file in the image.
const NOBODY: &str = "65534:65534";

/// What one host is to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Compiled {
    /// None when the host has no deckies.
    pub networks: Vec<Network>,
    /// In decky name order.
    pub stacks: Vec<CompiledStack>,
}

/// One decky's Compose document. `Debug` leaves the document out: it holds the decky's seed and settings.
#[derive(Clone, PartialEq)]
pub struct CompiledStack {
    pub name: StackName,
    pub decky: DeckyName,
    pub document: Value,
}

impl fmt::Debug for CompiledStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompiledStack")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A fleet that cannot be compiled for a host. A fleet that [`super::build::build`] made cannot run into these
/// unless the hosts or the catalogue were changed since.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    #[error(
        "host {host} has deckies but no LAN: set the host's LAN, or replace the fleet with `net` in [general]"
    )]
    NoLan { host: HostName },
    #[error("host {host} has deckies but no interface for them: set the host's interface")]
    NoInterface { host: HostName },
    #[error(
        "service {service} of decky {decky} cannot be run: put it back into the catalogue, or remove the decky"
    )]
    Service { decky: DeckyName, service: ServiceSlug },
    #[error("OS family {family} of decky {decky} is not in the catalogue: put it back, or remove the decky")]
    OsFamily { decky: DeckyName, family: OsFamilySlug },
    #[error("distro {distro} of decky {decky} is not in the catalogue: put it back, or remove the decky")]
    Distro { decky: DeckyName, distro: DistroSlug },
}

/// The name of a decky's stack.
#[must_use]
pub fn stack_name(decky: &DeckyName) -> StackName {
    // A decky's name has at most 63 of a stack name's 80 characters, from the same alphabet.
    #[allow(clippy::expect_used)]
    format!("decnet-{decky}")
        .parse()
        .expect("a decky's name fits into a stack name")
}

/// The name on the engine of a host's LAN.
#[must_use]
pub fn network_name(host: &HostSlot) -> NetworkName {
    // Nineteen characters of a network name's alphabet.
    #[allow(clippy::expect_used)]
    format!("decnet-{}-lan", host.id.short())
        .parse()
        .expect("a host's short id fits into a network name")
}

/// Everything that `host` is to run. `image` is how documents name the decoy image.
///
/// # Errors
///
/// The first thing that the host or the catalogue lacks.
pub fn compile(
    fleet: &Fleet,
    host: &HostSlot,
    catalogue: &Catalogue,
    image: &str,
) -> Result<Compiled, CompileError> {
    let mut deckies = fleet.deckies_on(host.id).peekable();
    if deckies.peek().is_none() {
        return Ok(Compiled {
            networks: Vec::new(),
            stacks: Vec::new(),
        });
    }
    let network = network(fleet, host)?;
    let stacks = deckies
        .map(|decky| {
            let document = document(fleet, decky, &network, catalogue, image)?;
            Ok(CompiledStack {
                name: stack_name(&decky.name),
                decky: decky.name.clone(),
                document,
            })
        })
        .collect::<Result<_, CompileError>>()?;
    Ok(Compiled {
        networks: vec![network],
        stacks,
    })
}

fn network(fleet: &Fleet, host: &HostSlot) -> Result<Network, CompileError> {
    let lan = host.lan.as_ref().or(fleet.lan.as_ref());
    let lan = lan.ok_or_else(|| CompileError::NoLan {
        host: host.name.clone(),
    })?;
    let fleet_interface = || fleet.lan.as_ref().and_then(|lan| lan.interface.clone());
    let parent = host
        .interface
        .clone()
        .or_else(|| lan.interface.clone())
        .or_else(fleet_interface);
    let driver = if host.ipvlan {
        NetworkDriver::Ipvlan
    } else {
        NetworkDriver::Macvlan
    };
    Ok(Network {
        name: network_name(host),
        driver,
        parent: Some(parent.ok_or_else(|| CompileError::NoInterface {
            host: host.name.clone(),
        })?),
        subnet: lan.subnet,
        gateway: lan.gateway,
        subnet6: None,
        gateway6: None,
        host_address: None,
        // The usual one is left out: agents that know no modes have it as well.
        mode: host
            .mode
            .filter(|mode| mode.driver() == driver && NetworkMode::usual(driver) != Some(*mode)),
    })
}

fn document(
    fleet: &Fleet,
    decky: &Decky,
    network: &Network,
    catalogue: &Catalogue,
    image: &str,
) -> Result<Value, CompileError> {
    let mut services = Map::new();
    services.insert(BASE.to_owned(), base(decky, network, catalogue, image)?);
    for slug in &decky.services {
        services.insert(
            slug.as_str().to_owned(),
            service(fleet, decky, slug, catalogue, image)?,
        );
    }
    Ok(json!({
        "networks": { LAN: { "external": true, "name": network.name } },
        "services": services,
    }))
}

fn base(decky: &Decky, network: &Network, catalogue: &Catalogue, image: &str) -> Result<Value, CompileError> {
    let family = catalogue
        .os_family(&decky.os_family)
        .ok_or_else(|| CompileError::OsFamily {
            decky: decky.name.clone(),
            family: decky.os_family.clone(),
        })?;
    let mut sysctls: Map<String, Value> = family
        .sysctls
        .iter()
        .map(|(key, value)| (key.clone(), literal(value)))
        .collect();
    // Services bind ports below 1024 without any capability.
    sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), Value::from("0"));
    let mut attachment = Map::from_iter([("ipv4_address".to_owned(), json!(decky.address))]);
    // ipvlan gives every decky the parent's MAC, so one of its own is an error there.
    if network.driver == NetworkDriver::Macvlan {
        attachment.insert("mac_address".to_owned(), json!(decky.mac));
    }
    let mut base = hardened("16m", 16);
    base.extend([
        ("image".to_owned(), literal(image)),
        ("command".to_owned(), json!(["pause"])),
        ("hostname".to_owned(), json!(decky.hostname)),
        ("networks".to_owned(), json!({ LAN: attachment })),
        ("sysctls".to_owned(), Value::Object(sysctls)),
    ]);
    if !decky.egress.is_empty() {
        base.insert("x-decnet".to_owned(), json!({ "egress": decky.egress }));
    }
    Ok(Value::Object(base))
}

fn service(
    fleet: &Fleet,
    decky: &Decky,
    slug: &ServiceSlug,
    catalogue: &Catalogue,
    image: &str,
) -> Result<Value, CompileError> {
    let unknown = || CompileError::Service {
        decky: decky.name.clone(),
        service: slug.clone(),
    };
    let distro = catalogue
        .distro(&decky.distro)
        .ok_or_else(|| CompileError::Distro {
            decky: decky.name.clone(),
            distro: decky.distro.clone(),
        })?;
    let family = catalogue
        .os_family(&decky.os_family)
        .ok_or_else(|| CompileError::OsFamily {
            decky: decky.name.clone(),
            family: decky.os_family.clone(),
        })?;
    let mut environment = Map::from_iter([
        ("DECNET_NODE".to_owned(), json!(decky.name)),
        ("HOSTNAME".to_owned(), json!(decky.hostname)),
        ("DECNET_OS_FAMILY".to_owned(), json!(family.like)),
        ("DECNET_DISTRO".to_owned(), json!(distro.like)),
    ]);
    let persona = decky
        .service_config
        .get(slug)
        .filter(|persona| !persona.0.is_empty());
    if let Some(persona) = persona {
        // A map of texts to JSON values is always JSON.
        let json = serde_json::to_string(persona).unwrap_or_default();
        environment.insert("DECNET_PERSONA".to_owned(), literal(&json));
    }
    let mut built = None;
    let (image, command, ports) = match catalogue.service(slug) {
        Some(known) => match &known.runs {
            Runs::Decoy => {
                environment.insert("DECNET_SEED".to_owned(), Value::from(decky.seed.hex()));
                (image, vec![slug.as_str().to_owned()], &known.ports)
            }
            // Images of others never see the seed: it gives away all that the decoys make of it.
            Runs::Image { image, command } => (image.as_str(), command.clone(), &known.ports),
            Runs::Build { context, command, .. } => {
                let context = context.as_ref().ok_or_else(unknown)?;
                built = Some(json!({ "context": format!("{CONTEXT_PREFIX}{}", context.digest) }));
                ("", command.clone(), &known.ports)
            }
            Runs::Nothing => return Err(unknown()),
        },
        None => {
            let custom = fleet.custom_services.get(slug).ok_or_else(unknown)?;
            (custom.image.as_str(), custom.command.clone(), &custom.ports)
        }
    };
    let mut service = hardened("64m", 64);
    service.extend([
        match built {
            Some(build) => ("build".to_owned(), build),
            None => ("image".to_owned(), literal(image)),
        },
        ("network_mode".to_owned(), json!(format!("service:{BASE}"))),
        ("depends_on".to_owned(), json!([BASE])),
        ("environment".to_owned(), Value::Object(environment)),
    ]);
    if !command.is_empty() {
        service.insert(
            "command".to_owned(),
            command.iter().map(|word| literal(word)).collect(),
        );
    }
    if !ports.is_empty() {
        service.insert("expose".to_owned(), json!(ports));
    }
    Ok(Value::Object(service))
}

/// What every container of a decky has in common.
fn hardened(memory: &str, processes: u32) -> Map<String, Value> {
    Map::from_iter([
        ("restart".to_owned(), json!("unless-stopped")),
        ("user".to_owned(), json!(NOBODY)),
        ("read_only".to_owned(), json!(true)),
        ("cap_drop".to_owned(), json!(["ALL"])),
        ("security_opt".to_owned(), json!(["no-new-privileges:true"])),
        ("mem_limit".to_owned(), json!(memory)),
        ("pids_limit".to_owned(), json!(processes)),
        ("stop_grace_period".to_owned(), json!("2s")),
        (
            "logging".to_owned(),
            json!({ "driver": "json-file", "options": { "max-size": "10m", "max-file": "5" } }),
        ),
    ])
}

/// A text that Compose is to take as it is (Compose Specification, "Interpolation": `$$` is one dollar sign).
fn literal(text: &str) -> Value {
    Value::String(text.replace('$', "$$"))
}

#[cfg(test)]
mod tests;
