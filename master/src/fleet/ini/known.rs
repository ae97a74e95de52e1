//! What a description may name: services, archetypes, distros and OS families.

use std::collections::BTreeMap;

use decnet_wire::ids::ServiceSlug;

use super::error::shown;
use crate::fleet::catalogue::Catalogue;
use crate::fleet::model::{ArchetypeSlug, CustomService, DistroSlug, OsFamilySlug, Port};

/// The catalogue, and the fleet's own services. What is refused is refused with a message that lists what there is.
pub(in crate::fleet) struct Known<'a> {
    pub(in crate::fleet) catalogue: &'a Catalogue,
    /// The fleet's, and over them the text's own.
    pub(in crate::fleet) custom: BTreeMap<ServiceSlug, CustomService>,
}

impl Known<'_> {
    /// Whether a section name that ends in `.text` is a service sub-section.
    pub(super) fn is_service(&self, text: &str) -> bool {
        let slug: Result<ServiceSlug, _> = text.parse();
        slug.is_ok_and(|slug| self.catalogue.service(&slug).is_some() || self.custom.contains_key(&slug))
    }

    /// A list of services for one decky: each can be deployed, none is there twice, no two listen on one port.
    ///
    /// # Errors
    ///
    /// What is wrong with each item that is wrong.
    pub(in crate::fleet) fn services<'t>(
        &self,
        items: impl IntoIterator<Item = &'t str>,
    ) -> Result<Vec<ServiceSlug>, Vec<String>> {
        let mut list: Vec<ServiceSlug> = Vec::new();
        let mut faults = Vec::new();
        for item in items {
            match self.service(item.trim(), &list) {
                Ok(slug) => list.push(slug),
                Err(message) => faults.push(message),
            }
        }
        if faults.is_empty() { Ok(list) } else { Err(faults) }
    }

    fn service(&self, item: &str, before: &[ServiceSlug]) -> Result<ServiceSlug, String> {
        if item.is_empty() {
            return Err("the list has an empty item; remove the extra comma".to_owned());
        }
        let unknown = || {
            let item = shown(item);
            format!(
                "`{item}` is not a service (names are in lower case); available: {}",
                self.available()
            )
        };
        let slug: ServiceSlug = item.parse().map_err(|_| unknown())?;
        match self.catalogue.service(&slug) {
            None if self.custom.contains_key(&slug) => {}
            None => return Err(unknown()),
            Some(service) if service.singleton => {
                return Err(format!(
                    "`{slug}` runs once for the fleet and never on a decky; remove it"
                ));
            }
            Some(service) if !service.is_deployable() => {
                return Err(format!(
                    "service `{slug}` has no decoy yet; available: {}",
                    self.available()
                ));
            }
            Some(_) => {}
        }
        if before.contains(&slug) {
            return Err(format!("`{slug}` is listed twice; remove one"));
        }
        let ports = self.ports(&slug);
        for other in before {
            if let Some(port) = self.ports(other).iter().find(|port| ports.contains(port)) {
                return Err(format!(
                    "`{other}` and `{slug}` both listen on {port}; put them on two deckies"
                ));
            }
        }
        Ok(slug)
    }

    /// What keeps an archetype's own services from running, one message a service.
    pub(in crate::fleet) fn lacking(&self, archetype: &ArchetypeSlug) -> Vec<String> {
        let Some(known) = self.catalogue.archetype(archetype) else {
            return Vec::new();
        };
        let lacking = known
            .services
            .iter()
            .filter(|slug| !self.catalogue.is_deployable(slug));
        lacking
            .map(|slug| {
                format!(
                    "service `{slug}` of archetype {archetype} has no decoy yet; set services yourself, available: {}",
                    self.available()
                )
            })
            .collect()
    }

    pub(in crate::fleet) fn archetype(&self, text: &str) -> Result<ArchetypeSlug, String> {
        let slug = text.parse().ok();
        slug.filter(|slug| self.catalogue.archetype(slug).is_some())
            .ok_or_else(|| {
                let known = self.catalogue.archetypes().map(|known| known.slug.as_str());
                unknown(text, "an archetype", known)
            })
    }

    pub(in crate::fleet) fn distro(&self, text: &str) -> Result<DistroSlug, String> {
        let slug = text.parse().ok();
        slug.filter(|slug| self.catalogue.distro(slug).is_some())
            .ok_or_else(|| {
                let known = self.catalogue.distros().iter().map(|known| known.slug.as_str());
                unknown(text, "a distro", known)
            })
    }

    pub(super) fn os_family(&self, text: &str) -> Result<OsFamilySlug, String> {
        let slug = text.parse().ok();
        slug.filter(|slug| self.catalogue.os_family(slug).is_some())
            .ok_or_else(|| {
                let known = self.catalogue.os_families().map(|known| known.slug.as_str());
                unknown(text, "an OS family", known)
            })
    }

    fn ports(&self, slug: &ServiceSlug) -> &[Port] {
        let custom = || self.custom.get(slug).map(|custom| custom.ports.as_slice());
        self.catalogue
            .service(slug)
            .map(|service| service.ports.as_slice())
            .or_else(custom)
            .unwrap_or_default()
    }

    /// For messages, so bounded whatever a text defines.
    fn available(&self) -> String {
        let known = self.catalogue.deployable().map(|service| service.slug.as_str());
        known
            .chain(self.custom.keys().map(ServiceSlug::as_str))
            .take(40)
            .collect::<Vec<_>>()
            .join(", ")
    }
}

fn unknown<'k>(text: &str, what: &str, known: impl Iterator<Item = &'k str>) -> String {
    let known: Vec<&str> = known.collect();
    format!(
        "`{}` is not {what}; use one of: {}",
        shown(text),
        known.join(", ")
    )
}
