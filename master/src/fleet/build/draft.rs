//! Who a decky is: distro, host name, MAC, seed and services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use decnet_wire::ids::{HostId, MacAddress, ServiceSlug, Timestamp};
use rand::seq::IndexedRandom as _;
use rand::{Rng, RngExt as _};

use crate::fleet::catalogue::{Archetype, Catalogue, Distro, HostnameStyle};
use crate::fleet::ini::{DeckySpec, Warning, shown};
use crate::fleet::model::{Decky, Hostname, Interval, OsFamilySlug, Persona, Seed};
use crate::fleet::mutate;

/// A decky that has its place, or is about to get one.
pub(super) struct Draft<'a> {
    pub(super) spec: &'a DeckySpec,
    /// The decky of this name before, when the fleet is replaced.
    pub(super) kept: Option<&'a Decky>,
    pub(super) place: Option<(HostId, Ipv4Addr)>,
    /// An address that is already decided: the text's, or the one before.
    pub(super) address: Option<Ipv4Addr>,
}

/// Names and MACs that no new decky may have.
pub(super) struct Taken {
    /// In lower case, as DNS compares them.
    hostnames: BTreeSet<String>,
    macs: BTreeSet<MacAddress>,
}

impl Taken {
    pub(super) fn new<'a>(deckies: impl Iterator<Item = &'a Decky>) -> Self {
        let mut taken = Self {
            hostnames: BTreeSet::new(),
            macs: BTreeSet::new(),
        };
        for decky in deckies {
            taken
                .hostnames
                .insert(decky.hostname.as_str().to_ascii_lowercase());
            taken.macs.insert(decky.mac);
        }
        taken
    }
}

/// Makes deckies of drafts, one after another.
pub(super) struct Maker<'a, R> {
    pub(super) catalogue: &'a Catalogue,
    pub(super) taken: Taken,
    pub(super) now: Timestamp,
    pub(super) rng: &'a mut R,
    pub(super) warnings: Vec<Warning>,
}

impl<R: Rng> Maker<'_, R> {
    /// The decky of the request's `index`th draft.
    pub(super) fn decky(
        &mut self,
        index: usize,
        draft: &Draft<'_>,
        host: HostId,
        address: Ipv4Addr,
    ) -> Decky {
        let (spec, kept, catalogue) = (draft.spec, draft.kept, self.catalogue);
        let archetype = spec
            .archetype
            .as_ref()
            .and_then(|at| catalogue.archetype(&at.value));
        let distro = draft.distro(index, archetype, catalogue);
        let family = spec
            .os_family
            .clone()
            .or_else(|| archetype.map(|archetype| archetype.os_family.clone()));
        let os_family = family.unwrap_or_else(OsFamilySlug::linux);
        let services = draft.services(archetype, catalogue, self.rng);
        let last_mutated = kept
            .filter(|old| old.services == services)
            .map_or(self.now, |old| old.last_mutated);
        Decky {
            name: spec.name.clone(),
            address,
            mac: match kept {
                Some(old) => old.mac,
                None => draw_mac(archetype, &os_family, catalogue, &mut self.taken, self.rng),
            },
            hostname: match kept {
                Some(old) => old.hostname.clone(),
                None => draw_hostname(distro, catalogue, &mut self.taken, self.rng),
            },
            distro: distro.slug.clone(),
            archetype: archetype.map(|archetype| archetype.slug.clone()),
            os_family,
            service_config: draft.service_config(&services, &mut self.warnings),
            services,
            egress: spec.egress.clone(),
            interval: spec.interval.map_or(Interval::Inherit, Interval::Minutes),
            last_mutated,
            seed: kept.map_or_else(|| Seed::new(self.rng.random()), |old| old.seed.clone()),
            host,
        }
    }
}

impl Draft<'_> {
    /// The request's, else the distros take turns by position in the request. A kept decky keeps its own while its archetype stays, so
    /// that a section put before it does not change it.
    fn distro<'c>(
        &self,
        index: usize,
        archetype: Option<&Archetype>,
        catalogue: &'c Catalogue,
    ) -> &'c Distro {
        let said = self.spec.distro.as_ref();
        if let Some(distro) = said.and_then(|slug| catalogue.distro(slug)) {
            return distro;
        }
        let kept = self
            .kept
            .filter(|old| old.archetype.as_ref() == archetype.map(|archetype| &archetype.slug));
        if let Some(distro) = kept.and_then(|old| catalogue.distro(&old.distro)) {
            return distro;
        }
        let all = catalogue.distros();
        let turn = archetype.and_then(|archetype| {
            let slug = archetype.distros.get(index % archetype.distros.len().max(1))?;
            catalogue.distro(slug)
        });
        turn.unwrap_or(&all[index % all.len()])
    }

    /// The text's services, else the archetype's, else the ones before, else a draw.
    fn services(
        &self,
        archetype: Option<&Archetype>,
        catalogue: &Catalogue,
        rng: &mut impl Rng,
    ) -> Vec<ServiceSlug> {
        if let Some(list) = &self.spec.services {
            return list.value.clone();
        }
        if let Some(archetype) = archetype {
            return archetype.services.clone();
        }
        // Any draw fits a section that leaves the choice open, so also the one that is there.
        let before = self
            .kept
            .filter(|old| old.archetype.is_none())
            .map(|old| &old.services);
        if let Some(before) =
            before.filter(|list| !list.is_empty() && list.iter().all(|slug| catalogue.is_deployable(slug)))
        {
            return before.clone();
        }
        let pool: Vec<ServiceSlug> = catalogue
            .deployable()
            .map(|service| service.slug.clone())
            .collect();
        mutate::draw(&pool, catalogue, rng)
    }

    fn service_config(
        &self,
        services: &[ServiceSlug],
        warnings: &mut Vec<Warning>,
    ) -> BTreeMap<ServiceSlug, Persona> {
        let mut config = BTreeMap::new();
        for (slug, at) in &self.spec.personas {
            if services.contains(slug) {
                config.insert(slug.clone(), at.value.clone());
            } else {
                let message = format!("left out: decky {} does not run {slug}", self.spec.name);
                warnings.push(Warning {
                    line: at.line,
                    section: shown(&at.section),
                    message,
                });
            }
        }
        config
    }
}

fn draw_mac(
    archetype: Option<&Archetype>,
    family: &OsFamilySlug,
    catalogue: &Catalogue,
    taken: &mut Taken,
    rng: &mut impl Rng,
) -> MacAddress {
    let own = archetype
        .map(|archetype| archetype.vendors.as_slice())
        .filter(|vendors| !vendors.is_empty());
    let family = || {
        catalogue
            .os_family(family)
            .map(|family| family.vendors.as_slice())
    };
    let vendors = own.or_else(family).unwrap_or_default();
    loop {
        let vendor = vendors.choose(rng).and_then(|slug| catalogue.vendor(slug));
        // Locally administered, where the catalogue has no vendor at all.
        let [a, b, c] = vendor
            .and_then(|vendor| vendor.ouis.choose(rng))
            .copied()
            .unwrap_or([0x02, 0x42, 0xac]);
        let [d, e, f]: [u8; 3] = rng.random();
        let mac = MacAddress::unicast([a, b, c, d, e, f]);
        if taken.macs.insert(mac) {
            return mac;
        }
    }
}

fn draw_hostname(distro: &Distro, catalogue: &Catalogue, taken: &mut Taken, rng: &mut impl Rng) -> Hostname {
    let words = catalogue.words();
    let pick = |rng: &mut _| words.choose(rng).map_or("host", String::as_str);
    let mut draws = 0u32;
    loop {
        draws += 1;
        let word = pick(rng);
        // When chance keeps hitting names that are taken, longer numbers are free for certain: a fleet is finite.
        let beyond = draws > 100;
        let number = if beyond { draws } else { rng.random_range(10..=99) };
        let tail = if beyond {
            format!("-{draws}")
        } else {
            String::new()
        };
        let text = match distro.hostname_style {
            HostnameStyle::Generic => format!("SRV-{}-{number}", word.to_ascii_uppercase()),
            HostnameStyle::Rhel => format!("{word}{number}.localdomain"),
            HostnameStyle::Minimal => format!("{word}-{number}"),
            HostnameStyle::Rolling => format!("{word}-{}{tail}", pick(rng)),
        };
        if let Ok(hostname) = text.parse::<Hostname>()
            && taken.hostnames.insert(text.to_ascii_lowercase())
        {
            return hostname;
        }
    }
}
