//! What any bundle may ask of a host, whoever signed it.
//!
//! The document model is closed, so some things cannot be asked for at all, whatever the policy: privileged
//! containers, the host's namespaces, bind mounts and volumes, devices. The policy decides about the rest.

use std::collections::BTreeSet;
use std::fmt;

use decnet_wire::bundle::NetworkDriver;
use decnet_wire::ids::StackName;
use serde::{Deserialize, Serialize};

use crate::desired::Desired;
use crate::step::{ContainerSpec, NetworkSpec};

/// The bounds of a bundle. Everything that is not named is forbidden.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    pub network_drivers: BTreeSet<NetworkDriver>,
    /// Capabilities that may be added, without their `CAP_` prefix.
    pub cap_add: BTreeSet<String>,
    /// Every container drops all capabilities.
    pub require_cap_drop_all: bool,
    /// Every container has `no-new-privileges`.
    pub require_no_new_privileges: bool,
    /// What sysctls may start with.
    pub sysctl_prefixes: BTreeSet<String>,
    /// Log drivers that keep their lines on the host.
    pub log_drivers: BTreeSet<String>,
}

const NO_NEW_PRIVILEGES: &str = "no-new-privileges:true";

impl Policy {
    /// The policy of a host whose operator has signed none.
    #[must_use]
    pub fn built_in() -> Self {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Self {
            network_drivers: BTreeSet::from([
                NetworkDriver::Macvlan,
                NetworkDriver::Ipvlan,
                NetworkDriver::Bridge,
            ]),
            cap_add: BTreeSet::new(),
            require_cap_drop_all: true,
            require_no_new_privileges: true,
            sysctl_prefixes: texts(&["net.ipv4.", "net.ipv6."]),
            log_drivers: texts(&["json-file", "local", "none"]),
        }
    }
}

/// One thing that a bundle asks for and the policy forbids.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub struct Violation {
    /// None when it concerns a network of the bundle.
    pub stack: Option<StackName>,
    /// The service, or the network.
    pub service: String,
    pub attribute: &'static str,
    /// What the policy says, and what was asked for.
    pub rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.stack {
            Some(stack) => write!(
                f,
                "stack {stack}: services.{}.{}: {}",
                self.service, self.attribute, self.rule
            ),
            None => write!(f, "networks.{}.{}: {}", self.service, self.attribute, self.rule),
        }
    }
}

/// Everything that the policy forbids, networks first, then in order of stacks and services.
#[must_use]
pub fn check(desired: &Desired, policy: &Policy) -> Vec<Violation> {
    let networks = desired
        .networks()
        .values()
        .filter_map(|network| policy.network(network));
    let services = desired.containers().flat_map(|(stack, service, spec)| {
        policy
            .container(spec)
            .into_iter()
            .map(move |(attribute, rule)| Violation {
                stack: Some(stack.clone()),
                service: service.to_owned(),
                attribute,
                rule,
            })
    });
    networks.chain(services).collect()
}

impl Policy {
    fn network(&self, network: &NetworkSpec) -> Option<Violation> {
        let known = self
            .network_drivers
            .iter()
            .any(|driver| driver.as_str() == network.driver);
        (!known).then(|| Violation {
            stack: None,
            service: network.name.clone(),
            attribute: "driver",
            rule: format!("the policy does not allow {}", network.driver),
        })
    }

    fn container(&self, spec: &ContainerSpec) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        for name in spec.cap_add.iter().filter(|name| !self.cap_add.contains(*name)) {
            found.push(("cap_add", format!("the policy does not allow {name}")));
        }
        if self.require_cap_drop_all && !spec.cap_drop.iter().any(|name| name == "ALL") {
            found.push(("cap_drop", "the policy requires ALL".to_owned()));
        }
        for option in spec
            .security_opt
            .iter()
            .filter(|option| *option != NO_NEW_PRIVILEGES)
        {
            found.push(("security_opt", format!("the policy does not allow {option}")));
        }
        if self.require_no_new_privileges
            && !spec.security_opt.iter().any(|option| option == NO_NEW_PRIVILEGES)
        {
            found.push(("security_opt", format!("the policy requires {NO_NEW_PRIVILEGES}")));
        }
        let allowed = |name: &str| {
            self.sysctl_prefixes
                .iter()
                .any(|prefix| name.starts_with(prefix.as_str()))
        };
        for name in spec.sysctls.keys().filter(|name| !allowed(name)) {
            found.push(("sysctls", format!("the policy does not allow {name}")));
        }
        if let Some(driver) = spec
            .log_driver
            .as_ref()
            .filter(|driver| !self.log_drivers.contains(*driver))
        {
            found.push((
                "logging",
                format!("the policy does not allow the driver {driver}"),
            ));
        }
        found
    }
}
