//! What deckies can be: services, archetypes, distros, OS families, host name words and MAC vendors.
//!
//! The built-in entries are the TOML files under `master/catalogue/`; a user's files extend them.

use std::collections::BTreeMap;

use decnet_wire::bundle::Blob;
use decnet_wire::ids::{Digest, ServiceSlug};
use serde::Deserialize;

pub use self::load::CatalogueError;
pub use self::persona::{Field, FieldType, MAX_PERSONA, PersonaError};
use super::model::{ArchetypeSlug, DistroSlug, OsFamilySlug, Port};

mod entry;
mod load;
mod persona;

/// The whole catalogue, checked: every name that an entry uses exists.
#[derive(Debug, Clone)]
pub struct Catalogue {
    services: BTreeMap<ServiceSlug, Service>,
    archetypes: BTreeMap<ArchetypeSlug, Archetype>,
    /// In rotation order.
    distros: Vec<Distro>,
    os_families: BTreeMap<OsFamilySlug, OsFamily>,
    vendors: BTreeMap<String, Vendor>,
    words: Vec<String>,
}

/// One emulated protocol.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    pub slug: ServiceSlug,
    pub name: String,
    pub description: String,
    /// What really listens; nothing else is advertised or exposed.
    pub ports: Vec<Port>,
    pub runs: Runs,
    /// Runs once in the whole fleet, never on a decky.
    pub singleton: bool,
    /// The persona's schema; a key that is not here is refused.
    pub fields: Vec<Field>,
}

/// What a service's container runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runs {
    /// The decoy image, with the slug as its command.
    Decoy,
    /// An image of the user's own, pinned as `repository@sha256:…`.
    Image {
        image: String,
        /// Empty: the image's own.
        command: Vec<String>,
    },
    /// An image that hosts build from an archive of the user's own.
    Build {
        /// The file beside the catalogue's: a tar archive with a Dockerfile in it.
        archive: String,
        /// The archive as a blob; none before [`Catalogue::with_contexts`].
        context: Option<Box<Blob>>,
        /// Empty: the image's own.
        command: Vec<String>,
    },
    /// Nothing yet: the service is known, but cannot be deployed.
    Nothing,
}

impl Service {
    /// The blob that it is built from.
    #[must_use]
    pub fn context(&self) -> Option<&Blob> {
        match &self.runs {
            Runs::Build { context, .. } => context.as_deref(),
            Runs::Decoy | Runs::Image { .. } | Runs::Nothing => None,
        }
    }

    /// Whether a decky can run it: there is something to run, and it is not a singleton.
    #[must_use]
    pub fn is_deployable(&self) -> bool {
        self.runs != Runs::Nothing && !self.singleton
    }
}

/// A kind of machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archetype {
    pub slug: ArchetypeSlug,
    pub name: String,
    pub description: String,
    /// In order; no two share a port.
    pub services: Vec<ServiceSlug>,
    /// In rotation order.
    pub distros: Vec<DistroSlug>,
    pub os_family: OsFamilySlug,
    /// Whose MAC addresses it has; empty: the OS family's.
    pub vendors: Vec<String>,
}

/// A distribution that deckies claim to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distro {
    pub slug: DistroSlug,
    pub name: String,
    /// The built-in distro that the decoys dress as; itself for a built-in one.
    pub like: DistroSlug,
    pub hostname_style: HostnameStyle,
}

/// The shape of a distro's host names; `w` is a word, `NN` is 10 to 99.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostnameStyle {
    /// `SRV-W-NN`, the word in upper case.
    Generic,
    /// `wNN.localdomain`.
    Rhel,
    /// `w-NN`.
    Minimal,
    /// `w-w`.
    Rolling,
}

/// How a machine's network stack looks from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OsFamily {
    pub slug: OsFamilySlug,
    pub name: String,
    /// The built-in family that the decoys answer as; itself for a built-in one.
    pub like: OsFamilySlug,
    /// Kernel settings of the decky's network namespace, by full name.
    pub sysctls: BTreeMap<String, String>,
    pub vendors: Vec<String>,
}

/// A maker of network cards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vendor {
    pub slug: String,
    pub name: String,
    /// First three bytes of its MAC addresses, as registered with the IEEE.
    pub ouis: Vec<[u8; 3]>,
}

impl Catalogue {
    /// The built-in catalogue, extended by `extra` (file name and text) in the order given.
    ///
    /// # Errors
    ///
    /// Every fault of every file, each with its file and entry.
    pub fn load(extra: &[(String, String)]) -> Result<Self, Vec<CatalogueError>> {
        load::load(extra)
    }

    /// Takes the archives that services are built from as blobs; `take` gets their names.
    ///
    /// # Errors
    /// What `take` says, of the first one that it does not give.
    pub fn with_contexts<E>(mut self, mut take: impl FnMut(&str) -> Result<Blob, E>) -> Result<Self, E> {
        for service in self.services.values_mut() {
            if let Runs::Build { archive, context, .. } = &mut service.runs {
                *context = Some(Box::new(take(archive)?));
            }
        }
        Ok(self)
    }

    /// Every blob that a service is built from.
    pub fn contexts(&self) -> impl Iterator<Item = &Blob> {
        self.services.values().filter_map(Service::context)
    }

    /// A service, deployable or not.
    #[must_use]
    pub fn service(&self, slug: &ServiceSlug) -> Option<&Service> {
        self.services.get(slug)
    }

    /// An archetype.
    #[must_use]
    pub fn archetype(&self, slug: &ArchetypeSlug) -> Option<&Archetype> {
        self.archetypes.get(slug)
    }

    /// A distro.
    #[must_use]
    pub fn distro(&self, slug: &DistroSlug) -> Option<&Distro> {
        self.distros.iter().find(|distro| distro.slug == *slug)
    }

    /// An OS family.
    #[must_use]
    pub fn os_family(&self, slug: &OsFamilySlug) -> Option<&OsFamily> {
        self.os_families.get(slug)
    }

    /// A maker of network cards.
    #[must_use]
    pub fn vendor(&self, slug: &str) -> Option<&Vendor> {
        self.vendors.get(slug)
    }

    /// Every service, by slug.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// The services that a decky can run, by slug.
    pub fn deployable(&self) -> impl Iterator<Item = &Service> {
        self.services.values().filter(|service| service.is_deployable())
    }

    /// Whether a decky can run the service.
    #[must_use]
    pub fn is_deployable(&self, slug: &ServiceSlug) -> bool {
        self.service(slug).is_some_and(Service::is_deployable)
    }

    /// Every archetype, by slug.
    pub fn archetypes(&self) -> impl Iterator<Item = &Archetype> {
        self.archetypes.values()
    }

    /// Every distro, in rotation order.
    #[must_use]
    pub fn distros(&self) -> &[Distro] {
        &self.distros
    }

    /// Every OS family, by slug.
    pub fn os_families(&self) -> impl Iterator<Item = &OsFamily> {
        self.os_families.values()
    }

    /// Every maker of network cards, by slug.
    pub fn vendors(&self) -> impl Iterator<Item = &Vendor> {
        self.vendors.values()
    }

    /// The words that host names are made of.
    #[must_use]
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The first port that both services listen on, if any: two such services cannot share a decky.
    #[must_use]
    pub fn clash(&self, one: &ServiceSlug, other: &ServiceSlug) -> Option<Port> {
        let (one, other) = (self.service(one)?, self.service(other)?);
        one.ports.iter().find(|port| other.ports.contains(port)).copied()
    }
}

/// Whether an image reference names one image for ever: `repository@sha256:…`.
#[must_use]
pub fn is_pinned(image: &str) -> bool {
    image.split_once('@').is_some_and(|(repository, digest)| {
        let part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b':');
        !repository.is_empty() && repository.bytes().all(part) && digest.parse::<Digest>().is_ok()
    })
}

#[cfg(test)]
mod documentation;
#[cfg(test)]
mod tests;
