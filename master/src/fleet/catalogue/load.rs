//! Reading catalogue files: the built-in ones first, then the user's, each able to add entries or, with
//! `replace = true`, to put its own in the place of an earlier one.

use std::collections::{BTreeMap, BTreeSet};

use decnet_wire::ids::ServiceSlug;

use super::entry::{CatalogueFile, DistroEntry, OsFamilyEntry, ServiceEntry, VendorEntry};
use super::persona::{Field, FieldType};
use super::{Archetype, Catalogue, Distro, OsFamily, Runs, Service, Vendor};
use crate::fleet::model::{ArchetypeSlug, BASE, DistroSlug, OsFamilySlug};

/// Most bytes of one catalogue file.
const MAX_FILE: usize = 1024 * 1024;

/// The built-in files, in the order in which they are read.
const BUILT_IN: [(&str, &str); 6] = [
    ("services.toml", include_str!("../../../catalogue/services.toml")),
    (
        "archetypes.toml",
        include_str!("../../../catalogue/archetypes.toml"),
    ),
    ("distros.toml", include_str!("../../../catalogue/distros.toml")),
    (
        "os_families.toml",
        include_str!("../../../catalogue/os_families.toml"),
    ),
    ("vendors.toml", include_str!("../../../catalogue/vendors.toml")),
    (
        "hostnames.toml",
        include_str!("../../../catalogue/hostnames.toml"),
    ),
];

/// One fault of a catalogue file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {entry}: {message}")]
pub struct CatalogueError {
    pub file: String,
    /// Such as `service ssh`; `file` for a fault of the whole file.
    pub entry: String,
    pub message: String,
}

pub(super) fn load(extra: &[(String, String)]) -> Result<Catalogue, Vec<CatalogueError>> {
    let mut loader = Loader::default();
    for (file, text) in BUILT_IN {
        loader.read(file, text, true);
    }
    for (file, text) in extra {
        loader.read(file, text, false);
    }
    loader.finish()
}

/// The catalogue in the making, and the file that each entry came from.
#[derive(Default)]
struct Loader {
    services: BTreeMap<ServiceSlug, Service>,
    archetypes: BTreeMap<ArchetypeSlug, Archetype>,
    distros: Vec<Distro>,
    os_families: BTreeMap<OsFamilySlug, OsFamily>,
    vendors: BTreeMap<String, Vendor>,
    words: Vec<String>,
    /// Entry, such as `service ssh`, to file.
    origins: BTreeMap<String, String>,
    built_in_decoys: BTreeSet<ServiceSlug>,
    built_in_distros: BTreeSet<DistroSlug>,
    built_in_families: BTreeSet<OsFamilySlug>,
    errors: Vec<CatalogueError>,
}

impl Loader {
    fn fault(&mut self, file: &str, entry: &str, message: impl Into<String>) {
        self.errors.push(CatalogueError {
            file: file.to_owned(),
            entry: entry.to_owned(),
            message: message.into(),
        });
    }

    fn read(&mut self, file: &str, text: &str, built_in: bool) {
        if text.len() > MAX_FILE {
            self.fault(
                file,
                "file",
                format!("has {} bytes; at most {MAX_FILE} are read", text.len()),
            );
            return;
        }
        let parsed: CatalogueFile = match toml::from_str(text) {
            Ok(parsed) => parsed,
            Err(error) => {
                let line = error
                    .span()
                    .map_or(1, |span| 1 + text[..span.start].matches('\n').count());
                let message = error.message().lines().next().unwrap_or("is not TOML").to_owned();
                self.fault(file, &format!("line {line}"), message);
                return;
            }
        };
        for entry in parsed.service {
            self.service(file, entry, built_in);
        }
        for entry in parsed.distro {
            self.distro(file, entry, built_in);
        }
        for entry in parsed.os_family {
            self.os_family(file, entry, built_in);
        }
        for entry in parsed.vendor {
            self.vendor(file, entry);
        }
        for entry in parsed.archetype {
            let name = format!("archetype {}", entry.slug);
            if self.admit(file, &name, entry.replace) {
                self.archetypes.insert(entry.slug.clone(), entry.into_archetype());
            }
        }
        for word in parsed.words {
            if !(2..=16).contains(&word.len()) || !word.bytes().all(|b| b.is_ascii_lowercase()) {
                self.fault(file, "words", format!("{word:?} must be 2 to 16 of a-z"));
            } else if !self.words.contains(&word) {
                self.words.push(word);
            }
        }
    }

    /// Whether an entry may go in: it is new, or says that it replaces the earlier one.
    fn admit(&mut self, file: &str, name: &str, replace: bool) -> bool {
        match self.origins.get(name) {
            Some(origin) if !replace => {
                let message =
                    format!("is already in {origin}; add `replace = true` to put this one in its place");
                self.fault(file, name, message);
                false
            }
            None if replace => {
                self.fault(
                    file,
                    name,
                    "replaces nothing: no earlier entry has this slug; remove `replace`",
                );
                false
            }
            _ => {
                self.origins.insert(name.to_owned(), file.to_owned());
                true
            }
        }
    }

    fn service(&mut self, file: &str, entry: ServiceEntry, built_in: bool) {
        let name = format!("service {}", entry.slug);
        if built_in && entry.decoy {
            self.built_in_decoys.insert(entry.slug.clone());
        }
        let faults = self.errors.len();
        if entry.decoy && !self.built_in_decoys.contains(&entry.slug) {
            let message = "the decoy program has no such service; remove `decoy`, or give an `image`";
            self.fault(file, &name, message);
        }
        if entry.slug.as_str() == BASE {
            self.fault(
                file,
                &name,
                "is the name of every decky's base container; choose another slug",
            );
        }
        let sources = [entry.decoy, entry.image.is_some(), entry.build.is_some()];
        if sources.iter().filter(|there| **there).count() > 1 {
            self.fault(
                file,
                &name,
                "has more than one of `decoy`, `image` and `build`; keep one",
            );
        }
        let plain =
            |archive: &str| !archive.is_empty() && !archive.starts_with('.') && !archive.contains('/');
        if entry.build.as_deref().is_some_and(|archive| !plain(archive)) {
            self.fault(
                file,
                &name,
                "`build` names a tar archive that lies beside the catalogue's files",
            );
        }
        if entry
            .image
            .as_deref()
            .is_some_and(|image| !super::is_pinned(image))
        {
            self.fault(
                file,
                &name,
                "`image` must be pinned as repository@sha256:<64 hexadecimal digits>",
            );
        }
        let mut keys = BTreeSet::new();
        for field in &entry.field {
            if !keys.insert(&field.key) {
                self.fault(file, &name, format!("field {} is there twice", field.key));
            }
            if let Some(message) = fault_of(field) {
                self.fault(file, &name, format!("field {}: {message}", field.key));
            }
        }
        if self.errors.len() == faults && self.admit(file, &name, entry.replace) {
            self.services.insert(entry.slug.clone(), entry.into_service());
        }
    }

    fn distro(&mut self, file: &str, entry: DistroEntry, built_in: bool) {
        let name = format!("distro {}", entry.slug);
        if built_in {
            self.built_in_distros.insert(entry.slug.clone());
        }
        let like = entry.like.clone().unwrap_or_else(|| entry.slug.clone());
        if !self.built_in_distros.contains(&like) {
            let message = "`like` must name the built-in distro that the decoys dress as, such as `debian`";
            self.fault(file, &name, message);
        } else if self.admit(file, &name, entry.replace) {
            let distro = Distro {
                slug: entry.slug,
                name: entry.name,
                like,
                hostname_style: entry.hostname_style,
            };
            match self.distros.iter_mut().find(|old| old.slug == distro.slug) {
                Some(old) => *old = distro,
                None => self.distros.push(distro),
            }
        }
    }

    fn os_family(&mut self, file: &str, entry: OsFamilyEntry, built_in: bool) {
        let name = format!("os_family {}", entry.slug);
        if built_in {
            self.built_in_families.insert(entry.slug.clone());
        }
        let like = entry.like.clone().unwrap_or_else(|| entry.slug.clone());
        let foreign: Vec<&String> = entry
            .sysctls
            .keys()
            .filter(|key| !key.starts_with("net."))
            .collect();
        if !self.built_in_families.contains(&like) {
            let message = "`like` must name the built-in family that the decoys answer as, such as `linux`";
            self.fault(file, &name, message);
        } else if let Some(key) = foreign.first() {
            let message = format!("{key} is not a setting of a network namespace; those start with net.");
            self.fault(file, &name, message);
        } else if self.admit(file, &name, entry.replace) {
            let family = OsFamily {
                slug: entry.slug,
                name: entry.name,
                like,
                sysctls: entry.sysctls,
                vendors: entry.vendors,
            };
            self.os_families.insert(family.slug.clone(), family);
        }
    }

    fn vendor(&mut self, file: &str, entry: VendorEntry) {
        let name = format!("vendor {}", entry.slug);
        let ouis: Option<Vec<[u8; 3]>> = entry.ouis.iter().map(|text| oui(text)).collect();
        match ouis.filter(|ouis| !ouis.is_empty()) {
            None => {
                let message = "`ouis` must list the first three bytes of its addresses, unicast and globally administered, as in \"00:14:22\"";
                self.fault(file, &name, message);
            }
            Some(ouis) => {
                if self.admit(file, &name, entry.replace) {
                    self.vendors.insert(
                        entry.slug.clone(),
                        Vendor {
                            slug: entry.slug,
                            name: entry.name,
                            ouis,
                        },
                    );
                }
            }
        }
    }

    /// Checks what entries say about each other, then gives out the catalogue.
    fn finish(mut self) -> Result<Catalogue, Vec<CatalogueError>> {
        let catalogue = Catalogue {
            services: std::mem::take(&mut self.services),
            archetypes: std::mem::take(&mut self.archetypes),
            distros: std::mem::take(&mut self.distros),
            os_families: std::mem::take(&mut self.os_families),
            vendors: std::mem::take(&mut self.vendors),
            words: std::mem::take(&mut self.words),
        };
        let mut faults = Vec::new();
        for archetype in catalogue.archetypes.values() {
            let name = format!("archetype {}", archetype.slug);
            faults.extend(
                catalogue
                    .faults_of(archetype)
                    .into_iter()
                    .map(|message| (name.clone(), message)),
            );
        }
        for family in catalogue.os_families.values() {
            let name = format!("os_family {}", family.slug);
            if family.vendors.is_empty() {
                faults.push((name.clone(), "needs at least one vendor".to_owned()));
            }
            for vendor in family
                .vendors
                .iter()
                .filter(|slug| catalogue.vendor(slug).is_none())
            {
                faults.push((name.clone(), format!("no vendor is called {vendor:?}")));
            }
        }
        for (entry, message) in faults {
            let file = self.origins.get(&entry).cloned().unwrap_or_default();
            self.errors.push(CatalogueError { file, entry, message });
        }
        if self.errors.is_empty() {
            Ok(catalogue)
        } else {
            Err(self.errors)
        }
    }
}

impl Catalogue {
    fn faults_of(&self, archetype: &Archetype) -> Vec<String> {
        let mut faults = Vec::new();
        if archetype.services.is_empty() || archetype.distros.is_empty() {
            faults.push("needs at least one service and one distro".to_owned());
        }
        for (index, slug) in archetype.services.iter().enumerate() {
            match self.service(slug) {
                None => faults.push(format!("no service is called {slug:?}")),
                Some(service) if service.singleton => {
                    faults.push(format!("{slug} runs once in the fleet, never on a decky"));
                }
                Some(_) => {}
            }
            for other in &archetype.services[..index] {
                if slug == other {
                    faults.push(format!("lists {slug} twice"));
                } else if let Some(port) = self.clash(slug, other) {
                    faults.push(format!("{other} and {slug} both listen on {port}; keep one"));
                }
            }
        }
        let distros = archetype
            .distros
            .iter()
            .filter(|slug| self.distro(slug).is_none());
        faults.extend(distros.map(|slug| format!("no distro is called {slug:?}")));
        if self.os_family(&archetype.os_family).is_none() {
            faults.push(format!("no OS family is called {:?}", archetype.os_family));
        }
        let vendors = archetype
            .vendors
            .iter()
            .filter(|slug| self.vendor(slug).is_none());
        faults.extend(vendors.map(|slug| format!("no vendor is called {slug:?}")));
        faults
    }
}

impl ServiceEntry {
    fn into_service(self) -> Service {
        let runs = match (self.image, self.build) {
            (Some(image), _) => Runs::Image {
                image,
                command: self.command,
            },
            (None, Some(archive)) => Runs::Build {
                archive,
                context: None,
                command: self.command,
            },
            (None, None) if self.decoy => Runs::Decoy,
            (None, None) => Runs::Nothing,
        };
        Service {
            slug: self.slug,
            name: self.name,
            description: self.description,
            ports: self.ports,
            runs,
            singleton: self.singleton,
            fields: self.field,
        }
    }
}

fn fault_of(field: &Field) -> Option<String> {
    // The INI folds keys to lower case, so a key in upper case could never be set there.
    let key = &field.key;
    if key.is_empty() || !key.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_')) {
        return Some("a key is made of a-z, 0-9 and '_'".to_owned());
    }
    let choice = matches!(field.kind, FieldType::Enum | FieldType::MultiEnum);
    if choice == field.allowed.is_empty() {
        return Some("`allowed` goes with enum and multi_enum, and with nothing else".to_owned());
    }
    let default = field.default.as_ref()?;
    field
        .coerce(default)
        .err()
        .map(|error| format!("its default {error}"))
}

/// The first three bytes of a MAC address that a maker was assigned: unicast and globally administered, so that the
/// two lowest bits of the first byte are 0 (IEEE Std 802-2014, 8.2.2).
fn oui(text: &str) -> Option<[u8; 3]> {
    let mut bytes = [0; 3];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2)?;
        hex::decode_to_slice(part, std::slice::from_mut(byte)).ok()?;
    }
    (parts.next().is_none() && bytes[0] & 0b11 == 0).then_some(bytes)
}
