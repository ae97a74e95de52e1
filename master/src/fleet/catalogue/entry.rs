//! A catalogue file as TOML has it. Any file may hold any kind of entry.

use std::collections::BTreeMap;

use decnet_wire::ids::ServiceSlug;
use serde::Deserialize;

use super::persona::Field;
use super::{Archetype, HostnameStyle};
use crate::fleet::model::{ArchetypeSlug, DistroSlug, OsFamilySlug, Port};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
pub(super) struct CatalogueFile {
    pub(super) service: Vec<ServiceEntry>,
    pub(super) archetype: Vec<ArchetypeEntry>,
    pub(super) distro: Vec<DistroEntry>,
    pub(super) os_family: Vec<OsFamilyEntry>,
    pub(super) vendor: Vec<VendorEntry>,
    pub(super) words: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceEntry {
    pub(super) slug: ServiceSlug,
    pub(super) name: String,
    #[serde(default)]
    pub(super) description: String,
    #[serde(default)]
    pub(super) ports: Vec<Port>,
    #[serde(default)]
    pub(super) decoy: bool,
    #[serde(default)]
    pub(super) image: Option<String>,
    #[serde(default)]
    pub(super) build: Option<String>,
    #[serde(default)]
    pub(super) command: Vec<String>,
    #[serde(default)]
    pub(super) singleton: bool,
    #[serde(default)]
    pub(super) field: Vec<Field>,
    #[serde(default)]
    pub(super) replace: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ArchetypeEntry {
    pub(super) slug: ArchetypeSlug,
    name: String,
    #[serde(default)]
    description: String,
    services: Vec<ServiceSlug>,
    distros: Vec<DistroSlug>,
    os_family: OsFamilySlug,
    #[serde(default)]
    vendors: Vec<String>,
    #[serde(default)]
    pub(super) replace: bool,
}

impl ArchetypeEntry {
    pub(super) fn into_archetype(self) -> Archetype {
        Archetype {
            slug: self.slug,
            name: self.name,
            description: self.description,
            services: self.services,
            distros: self.distros,
            os_family: self.os_family,
            vendors: self.vendors,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DistroEntry {
    pub(super) slug: DistroSlug,
    pub(super) name: String,
    #[serde(default)]
    pub(super) like: Option<DistroSlug>,
    pub(super) hostname_style: HostnameStyle,
    #[serde(default)]
    pub(super) replace: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OsFamilyEntry {
    pub(super) slug: OsFamilySlug,
    pub(super) name: String,
    #[serde(default)]
    pub(super) like: Option<OsFamilySlug>,
    pub(super) sysctls: BTreeMap<String, String>,
    pub(super) vendors: Vec<String>,
    #[serde(default)]
    pub(super) replace: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VendorEntry {
    pub(super) slug: String,
    pub(super) name: String,
    pub(super) ouis: Vec<String>,
    #[serde(default)]
    pub(super) replace: bool,
}
