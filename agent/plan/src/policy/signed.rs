//! The rules that operators sign, beyond those that only widen the built-in policy's own.

use std::net::{IpAddr, Ipv4Addr};

use decnet_wire::policy::{Images, Networks, Resources, Rules};
use ipnet::IpNet;

use super::{Check, Rule};
use crate::desired::{Desired, DesiredService, Image};
use crate::step::{ContainerSpec, Device, Endpoint, Mount, NetworkSpec};

/// What a period of the scheduler lasts where nothing is said, in microseconds (Linux, sched-bwc).
const CPU_PERIOD: i64 = 100_000;
const BILLION: i128 = 1_000_000_000;

/// Built images have no digest that could be known before: who has listed some did not mean any.
pub(super) fn allows_builds(images: &Images) -> bool {
    images.builds.unwrap_or(!is_listed(images))
}

pub(super) fn allows_option(rules: Option<&Rules>, option: &str) -> bool {
    rules.is_some_and(|rules| {
        rules
            .security_options
            .iter()
            .any(|known| known.as_str() == option)
    })
}

pub(super) fn allows_device(rules: Option<&Rules>, device: &Device) -> bool {
    rules.is_some_and(|rules| {
        rules.devices.iter().any(|known| {
            known.path.as_str() == device.source
                && device
                    .permissions
                    .chars()
                    .all(|c| known.permissions.as_str().contains(c))
        })
    })
}

/// Exactly the path that is listed: below one that a container writes to it could have put a link to anywhere.
pub(super) fn allows_mount(rules: Option<&Rules>, source: &str, read_only: bool) -> bool {
    rules.is_some_and(|rules| {
        let mut mounts = rules.mounts.iter();
        mounts.any(|known| known.path.as_str() == source && (known.write || read_only))
    })
}

pub(super) fn mount_text(mount: &Mount, source: &str) -> String {
    if mount.read_only {
        format!("{source}, or not in this way")
    } else {
        format!("{source} for writing")
    }
}

/// What is counted over the whole host.
pub(super) fn host(rules: &Rules, desired: &Desired, check: &mut Check<'_>) {
    let Resources {
        memory: _,
        nano_cpus: _,
        pids: _,
        containers,
        deckies,
    } = rules.resources;
    let running = desired
        .stacks()
        .filter(|(_, stack)| stack.services().next().is_some());
    let asked_deckies = running.count() as u64;
    let asked_containers = desired.containers().count() as u64;
    if let Some(most) = containers.filter(|most| asked_containers > *most) {
        check.fail(
            "containers",
            Rule::Containers,
            format!("the policy allows {most}, not {asked_containers}"),
        );
    }
    if let Some(most) = deckies.filter(|most| asked_deckies > *most) {
        check.fail(
            "deckies",
            Rule::Deckies,
            format!("the policy allows {most}, not {asked_deckies}"),
        );
    }
}

pub(super) fn network(
    rules: &Rules,
    network: &NetworkSpec,
    host_address: Option<Ipv4Addr>,
    check: &mut Check<'_>,
) {
    let Networks {
        drivers: _,
        parents,
        ranges,
    } = &rules.networks;
    let is_bridge = network.driver == "bridge";
    if let Some(parents) = parents.as_ref().filter(|_| !is_bridge) {
        let parent = network.parent();
        if !parents.iter().any(|known| Some(known.as_str()) == parent) {
            let parent = parent.unwrap_or("an interface of the engine's own making");
            check.fail(
                "parent",
                Rule::NetworkParents,
                format!("the policy does not allow {parent}"),
            );
        }
    }
    let Some(ranges) = ranges else { return };
    // The host has an address on a bridge, and a route to all of it.
    for subnet in network.subnets().filter(|_| is_bridge) {
        if !within(ranges, subnet) {
            check.fail(
                "subnet",
                Rule::NetworkRanges,
                format!("the policy does not allow {subnet}"),
            );
        }
    }
    if let Some(address) = host_address.filter(|address| !within(ranges, IpNet::from(IpAddr::V4(*address)))) {
        check.fail(
            "host_address",
            Rule::NetworkRanges,
            format!("the policy does not allow {address}"),
        );
    }
}

pub(super) fn service(rules: &Rules, service: &DesiredService, desired: &Desired, check: &mut Check<'_>) {
    image(&rules.images, &service.image, check);
    limits(&rules.resources, &service.spec, check);
    if let Some(ranges) = &rules.networks.ranges {
        for endpoint in service.spec.endpoints() {
            addresses(ranges, endpoint, desired, check);
        }
    }
    for destination in service.egress.iter().flat_map(|egress| &egress.allow) {
        if !rules.egress.iter().any(|known| known.contains(destination)) {
            check.fail(
                "x-decnet.egress",
                Rule::Egress,
                format!("the policy does not allow {destination}"),
            );
        }
    }
}

fn is_listed(images: &Images) -> bool {
    images.digests.is_some() || images.repositories.is_some()
}

fn image(images: &Images, image: &Image, check: &mut Check<'_>) {
    let listed = |digest: &str| {
        let mut known = images.digests.iter().flatten();
        known.any(|known| known.as_str() == digest)
    };
    // The list that would have to have it.
    let list = if images.digests.is_some() {
        Rule::ImageDigests
    } else {
        Rule::ImageRepositories
    };
    match image {
        Image::Archive(archive) => {
            let name = &archive.reference;
            if images.archives == Some(false) {
                check.fail(
                    "image",
                    Rule::ImageArchives,
                    format!("the policy allows no archives, {name} is one"),
                );
            }
            // The engine has it under one of its ids, whichever: each must be allowed.
            for id in &archive.image_ids {
                if is_listed(images) && !listed(id.as_str()) {
                    check.fail("image", list, format!("the policy does not allow {name}, {id}"));
                }
            }
        }
        Image::Pinned(reference) => {
            let (repository, digest) = reference.split_once('@').unwrap_or((reference, ""));
            let mut known = images.repositories.iter().flatten();
            let allowed = !is_listed(images)
                || listed(digest)
                || known.any(|known| canonical(known.as_str()) == canonical(repository));
            if !allowed {
                check.fail("image", list, format!("the policy does not allow {reference}"));
            }
        }
        // Whether it may be built is told with the build.
        Image::Named(named) if named.build.is_some() => {}
        Image::Named(named) => {
            if is_listed(images) {
                let reference = &named.reference;
                check.fail("image", list, format!("the policy does not allow {reference}"));
            }
        }
    }
}

/// `nginx` and `docker.io/library/nginx` are one repository (the distribution project's "familiar names").
fn canonical(repository: &str) -> String {
    let (first, rest) = repository.split_once('/').unwrap_or(("", repository));
    let is_registry = first.contains(['.', ':']) || first == "localhost";
    match (is_registry, first) {
        (true, "docker.io" | "index.docker.io") if !rest.contains('/') => format!("docker.io/library/{rest}"),
        (true, "index.docker.io") => format!("docker.io/{rest}"),
        (true, _) => repository.to_owned(),
        (false, "") => format!("docker.io/library/{repository}"),
        (false, _) => format!("docker.io/{repository}"),
    }
}

/// Where nothing is asked for, the engine sets no limit; so it does for zero and below.
fn limits(resources: &Resources, spec: &ContainerSpec, check: &mut Check<'_>) {
    let Resources {
        memory,
        nano_cpus,
        pids,
        containers: _,
        deckies: _,
    } = *resources;
    if let Some(most) = memory {
        ceiling(
            "mem_limit",
            Rule::Memory,
            spec.memory.map(i128::from),
            most,
            ToString::to_string,
            check,
        );
        let swap = spec.limits.memory_swap.map(i128::from);
        let most = most.saturating_mul(2);
        if swap.is_some_and(|asked| asked > i128::from(most)) {
            ceiling(
                "memswap_limit",
                Rule::Memory,
                swap,
                most,
                ToString::to_string,
                check,
            );
        }
    }
    if let Some(most) = nano_cpus {
        ceiling("cpus", Rule::Cpus, cores(spec), most, decimal, check);
    }
    if let Some(most) = pids {
        ceiling(
            "pids_limit",
            Rule::Pids,
            spec.pids.map(i128::from),
            most,
            ToString::to_string,
            check,
        );
    }
}

fn ceiling(
    attribute: &str,
    rule: Rule,
    asked: Option<i128>,
    most: u64,
    text: fn(&i128) -> String,
    check: &mut Check<'_>,
) {
    let most = i128::from(most);
    match asked.filter(|asked| *asked > 0) {
        None => check.fail(
            attribute,
            rule,
            format!("the policy asks for a limit, of {} at most", text(&most)),
        ),
        Some(asked) if asked > most => {
            check.fail(
                attribute,
                rule,
                format!("the policy allows {}, not {}", text(&most), text(&asked)),
            );
        }
        Some(_) => {}
    }
}

/// Billionths of a core.
fn cores(spec: &ContainerSpec) -> Option<i128> {
    if let Some(asked) = spec.nano_cpus.filter(|asked| *asked > 0) {
        return Some(asked.into());
    }
    let quota = spec.limits.cpu_quota.filter(|quota| *quota > 0)?;
    let period = spec
        .limits
        .cpu_period
        .filter(|period| *period > 0)
        .unwrap_or(CPU_PERIOD);
    Some(i128::from(quota) * BILLION / i128::from(period))
}

fn decimal(nano: &i128) -> String {
    let text = format!("{}.{:09}", nano / BILLION, nano % BILLION);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn addresses(ranges: &[IpNet], endpoint: &Endpoint, desired: &Desired, check: &mut Check<'_>) {
    for address in endpoint.addresses().chain(endpoint.link_local.iter().copied()) {
        if !within(ranges, IpNet::from(address)) {
            check.fail(
                "networks",
                Rule::NetworkRanges,
                format!("the policy does not allow {address}"),
            );
        }
    }
    // Whatever address it does not name, the engine chooses out of the pool.
    let pools = desired
        .networks()
        .get(&endpoint.network)
        .map(|network| &network.ipam.pools);
    for pool in pools.into_iter().flatten() {
        let Some(net) = pool.ip_range.or(pool.subnet) else {
            continue;
        };
        let named = match net {
            IpNet::V4(_) => endpoint.address.is_some(),
            IpNet::V6(_) => endpoint.address6.is_some(),
        };
        if !named && !within(ranges, net) {
            check.fail(
                "networks",
                Rule::NetworkRanges,
                format!("the policy does not allow any address of {net}"),
            );
        }
    }
}

fn within(ranges: &[IpNet], net: IpNet) -> bool {
    ranges.iter().any(|range| range.contains(&net))
}
