//! Networks.

use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use decnet_plan::step::NetworkSpec;
use ipnet::IpNet;
use serde_json::json;

use super::why_not_ours;
use crate::engine::{CHANGE, LOOK};
use crate::error::{is_absent, status};
use crate::{Engine, EngineError};

impl Engine {
    pub(super) async fn create_network(&self, spec: &NetworkSpec) -> Result<(), EngineError> {
        // Engines before API 1.44 let two networks have one name, so it is looked up first.
        if self.network_is_there(spec).await? {
            return Ok(());
        }
        let what = || format!("create network {}", spec.name);
        if spec.enable_ipv4 == Some(false) {
            let why = "only Docker 28.0 and newer make a network without IPv4";
            self.needs_api((1, 48), what, why)?;
        }
        let docker = if self.api_at_least(1, 44) {
            self.docker.clone()
        } else {
            self.with_fields(to_request(spec), &[("CheckDuplicate", json!(true))])?
        };
        match self
            .call(CHANGE, what, docker.create_network(to_request(spec)))
            .await
        {
            Err(error) if status(&error) == Some(409) && self.network_is_there(spec).await? => Ok(()),
            // The engine says that something overlaps, and not what.
            Err(error) if status(&error).is_some() && !error.retryable() => {
                Err(self.in_the_way(spec).await?.unwrap_or(error))
            }
            other => other.map(drop),
        }
    }

    /// The network that has the parent interface or a part of the subnet, as an error.
    async fn in_the_way(&self, spec: &NetworkSpec) -> Result<Option<EngineError>, EngineError> {
        let all = self
            .call(
                LOOK,
                || "list networks".to_owned(),
                self.docker.list_networks(None),
            )
            .await?;
        Ok(all.into_iter().find_map(|other| {
            let holds = clash(spec, &other)?;
            Some(EngineError::Taken {
                what: format!("create network {}", spec.name),
                other: other.name.unwrap_or_default(),
                id: other.id.unwrap_or_default(),
                holds,
            })
        }))
    }

    /// Whether exactly this network is there; a network of that name that is another one is an error.
    async fn network_is_there(&self, spec: &NetworkSpec) -> Result<bool, EngineError> {
        let name = spec.name.as_str();
        let what = || format!("inspect network {name}");
        let network = match self
            .call(LOOK, what, self.docker.inspect_network(name, None))
            .await
        {
            Ok(network) => network,
            Err(error) if is_absent(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        // The engine looks for ids that start with the name as well.
        if network.name.as_deref() != Some(name) {
            return Ok(false);
        }
        let found = network.labels.unwrap_or_default();
        match why_not_ours(&spec.labels, |label| found.get(label).map(String::as_str)) {
            None => Ok(true),
            Some(why) => Err(EngineError::Foreign {
                what: format!("create network {name}"),
                object: format!("network {name}"),
                id: network.id.unwrap_or_default(),
                why,
            }),
        }
    }
}

/// What another network has of that which this one is to have.
fn clash(spec: &NetworkSpec, other: &bollard::models::Network) -> Option<String> {
    let parent = other.options.as_ref().and_then(|options| options.get("parent"));
    if let (Some(wanted), Some(parent)) = (spec.parent(), parent)
        && parent == wanted
    {
        return Some(format!("the interface {parent}"));
    }
    let pools = other.ipam.as_ref()?.config.as_ref()?;
    pools.iter().find_map(|pool| {
        let subnet: IpNet = pool.subnet.as_deref()?.parse().ok()?;
        let overlaps = spec
            .subnets()
            .any(|wanted| subnet.contains(&wanted) || wanted.contains(&subnet));
        overlaps.then(|| subnet.to_string())
    })
}

fn to_request(spec: &NetworkSpec) -> NetworkCreateRequest {
    let pools = spec.ipam.pools.iter().map(|pool| IpamConfig {
        subnet: pool.subnet.map(|subnet| subnet.to_string()),
        ip_range: pool.ip_range.map(|range| range.to_string()),
        gateway: pool.gateway.map(|gateway| gateway.to_string()),
        auxiliary_addresses: (!pool.aux_addresses.is_empty()).then(|| {
            let named = pool.aux_addresses.iter();
            named
                .map(|(name, address)| (name.clone(), address.to_string()))
                .collect()
        }),
    });
    let ipam = Ipam {
        driver: spec.ipam.driver.clone(),
        config: (!spec.ipam.pools.is_empty()).then(|| pools.collect()),
        options: (!spec.ipam.options.is_empty()).then(|| spec.ipam.options.clone().into_iter().collect()),
    };
    NetworkCreateRequest {
        name: spec.name.clone(),
        // The engine takes a bridge for none.
        driver: (!spec.driver.is_empty()).then(|| spec.driver.clone()),
        ipam: (spec.ipam != decnet_plan::step::Ipam::default()).then_some(ipam),
        internal: Some(spec.internal),
        attachable: Some(spec.attachable),
        enable_ipv4: spec.enable_ipv4,
        enable_ipv6: Some(spec.enable_ipv6),
        options: Some(spec.driver_opts.clone().into_iter().collect()),
        labels: Some(spec.labels.clone().into_iter().collect()),
        ..NetworkCreateRequest::default()
    }
}
