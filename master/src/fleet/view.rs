//! A decky as the API shows it. Secrets go in and never come out again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use decnet_plan::compose::Destination;
use decnet_wire::ids::{DeckyName, HostId, MacAddress, ServiceSlug, Timestamp};
use serde::Serialize;
use serde_json::Value;

use super::catalogue::Catalogue;
use super::model::{ArchetypeSlug, Decky, DistroSlug, Hostname, Interval, OsFamilySlug, Persona};

/// What stands in the place of a secret that is set.
pub const REDACTED: &str = "(set)";

/// A decky without its seed and without the secrets of its services.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeckyView {
    pub name: DeckyName,
    pub address: Ipv4Addr,
    pub mac: MacAddress,
    pub hostname: Hostname,
    pub distro: DistroSlug,
    pub archetype: Option<ArchetypeSlug>,
    pub os_family: OsFamilySlug,
    pub services: Vec<ServiceSlug>,
    pub service_config: BTreeMap<ServiceSlug, BTreeMap<String, Value>>,
    pub egress: BTreeSet<Destination>,
    pub interval: Interval,
    pub last_mutated: Timestamp,
    pub host: HostId,
}

impl DeckyView {
    /// What anyone may see of `decky`.
    #[must_use]
    pub fn new(decky: &Decky, catalogue: &Catalogue) -> Self {
        let redact =
            |(slug, persona): (&ServiceSlug, &Persona)| (slug.clone(), redacted(slug, persona, catalogue));
        Self {
            name: decky.name.clone(),
            address: decky.address,
            mac: decky.mac,
            hostname: decky.hostname.clone(),
            distro: decky.distro.clone(),
            archetype: decky.archetype.clone(),
            os_family: decky.os_family.clone(),
            services: decky.services.clone(),
            service_config: decky.service_config.iter().map(redact).collect(),
            egress: decky.egress.clone(),
            interval: decky.interval,
            last_mutated: decky.last_mutated,
            host: decky.host,
        }
    }
}

/// A service's settings with every secret replaced by [`REDACTED`]. A key that the catalogue does not know (any
/// more) counts as secret.
#[must_use]
pub fn redacted(slug: &ServiceSlug, persona: &Persona, catalogue: &Catalogue) -> BTreeMap<String, Value> {
    let service = catalogue.service(slug);
    let open = |key: &str| {
        service
            .and_then(|service| service.field(key))
            .is_some_and(|field| !field.secret)
    };
    let show = |(key, value): (&String, &Value)| {
        let value = if open(key) {
            value.clone()
        } else {
            Value::from(REDACTED)
        };
        (key.clone(), value)
    };
    persona.0.iter().map(show).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::fixture::{CATALOGUE, master};

    /// Viewers read passwords and TLS keys: the list of deckies returned every setting.
    #[test]
    fn a_view_says_that_a_secret_is_set_and_not_what_it_is() {
        let mut master = master();
        master.add("[a]\nservices=ssh,https\n[a.ssh]\npassword=hunter2\nuser=op\n[a.https]\ntls_key=hunter2\ntls_cn=x");
        let mut decky = master.decky("a").clone();
        let view = serde_json::to_value(DeckyView::new(&decky, &CATALOGUE)).unwrap();
        assert_eq!(
            view["service_config"]["ssh"],
            serde_json::json!({ "password": REDACTED, "user": "op" })
        );
        assert_eq!(
            view["service_config"]["https"],
            serde_json::json!({ "tls_key": REDACTED, "tls_cn": "x" })
        );
        assert!(view.get("seed").is_none() && !view.to_string().contains("hunter2"));
        // What the catalogue does not know any more may have been a secret.
        let persona = decky.service_config.remove(&"ssh".parse().unwrap()).unwrap();
        assert!(
            redacted(&"gone".parse().unwrap(), &persona, &CATALOGUE)
                .values()
                .all(|value| value == REDACTED)
        );
    }
}
