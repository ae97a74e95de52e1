//! Deckies without an INI: so many, with such services, from such an address on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use decnet_wire::ids::{DeckyName, ServiceSlug};
use rand::Rng;
use rand::seq::IndexedRandom as _;

use super::catalogue::Catalogue;
use super::ini::{At, DeckySpec, Document, Faults, General, Generated, IniClass, IniError, Known};
use super::model::{ArchetypeSlug, CustomService, DeckyCount, DistroSlug, Minutes};
use super::mutate;

/// Draws after the first one, to find a combination of services that no other decky of the request has.
const EXTRA_DRAWS: usize = 20;

/// What an operator asks for. Names of the catalogue are as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generate {
    pub deckies: DeckyCount,
    /// Those of every decky; none: the archetype's, else a draw for each.
    pub services: Vec<String>,
    /// Goes with services as well: distros, OS family and MAC addresses are then the archetype's all the same.
    pub archetype: Option<String>,
    pub randomize_services: bool,
    /// Where the addresses begin; none: at the lowest free one.
    pub ip_start: Option<Ipv4Addr>,
    /// Taken in turns; none: drawn or the usual turns.
    pub distros: Vec<String>,
    pub randomize_distros: bool,
    pub mutate_interval: Minutes,
}

/// Makes the document that [`super::build::build`] takes: deckies `decky-01`, `decky-02` and so on. Addresses are
/// found there, where the LAN is known.
///
/// # Errors
///
/// Every fault found, each with the field that it is in.
pub fn generate(
    wanted: &Generate,
    catalogue: &Catalogue,
    custom: &BTreeMap<ServiceSlug, CustomService>,
    rng: &mut impl Rng,
) -> Result<Document, Vec<IniError>> {
    let known = Known {
        catalogue,
        custom: custom.clone(),
    };
    let mut faults = Faults::default();
    let choice = Choice::of(wanted, &known, &mut faults);
    if !faults.is_empty() {
        return Err(faults.into_errors());
    }
    let mut drawn = BTreeSet::new();
    let mut deckies = Vec::new();
    for index in 0..usize::from(wanted.deckies.get()) {
        let Ok(name) = format!("decky-{:02}", index + 1).parse::<DeckyName>() else {
            continue;
        };
        let services = match &choice.services {
            Services::Fixed(list) => Some(list.clone()),
            Services::Archetype => None,
            Services::Draw => Some(draw(&mut drawn, catalogue, rng)),
        };
        let distro = match &choice.distros {
            Distros::Turns(list) => list.get(index % list.len().max(1)).cloned(),
            Distros::Draw => catalogue.distros().choose(rng).map(|distro| distro.slug.clone()),
            Distros::Usual => None,
        };
        deckies.push(DeckySpec {
            section: name.to_string(),
            name,
            line: 0,
            ip: None,
            services: services.map(|services| at("services", services)),
            archetype: choice
                .archetype
                .clone()
                .map(|archetype| at("archetype", archetype)),
            os_family: None,
            interval: Some(wanted.mutate_interval),
            egress: BTreeSet::new(),
            distro,
            personas: BTreeMap::new(),
        });
    }
    Ok(Document {
        general: General::default(),
        deckies,
        custom_services: BTreeMap::new(),
        warnings: Vec::new(),
        generated: Some(Generated {
            ip_start: wanted.ip_start,
            mutate_interval: wanted.mutate_interval,
        }),
    })
}

enum Services {
    Fixed(Vec<ServiceSlug>),
    Archetype,
    Draw,
}

enum Distros {
    Turns(Vec<DistroSlug>),
    Draw,
    /// The archetype's in turns, or all.
    Usual,
}

struct Choice {
    services: Services,
    archetype: Option<ArchetypeSlug>,
    distros: Distros,
}

impl Choice {
    /// What the fields mean together: the first one that is given decides.
    fn of(wanted: &Generate, known: &Known<'_>, faults: &mut Faults) -> Self {
        let archetype = wanted.archetype.as_ref().and_then(|text| {
            let slug = known.archetype(text);
            slug.map_err(|message| faults.push(fault("archetype", IniClass::Archetype, message)))
                .ok()
        });
        let services = if !wanted.services.is_empty() {
            match known.services(wanted.services.iter().map(String::as_str)) {
                Ok(list) => Services::Fixed(list),
                Err(messages) => {
                    for message in messages {
                        faults.push(fault("services", IniClass::Service, message));
                    }
                    Services::Draw
                }
            }
        } else if wanted.archetype.is_some() {
            for message in archetype.iter().flat_map(|slug| known.lacking(slug)) {
                faults.push(fault("archetype", IniClass::Service, message));
            }
            Services::Archetype
        } else {
            if !wanted.randomize_services {
                let message = "say what the deckies run: services, archetype or randomize_services";
                faults.push(IniError::new(IniClass::Structural, message));
            }
            Services::Draw
        };
        let distros = if !wanted.distros.is_empty() {
            let mut list = Vec::new();
            for text in &wanted.distros {
                match known.distro(text.trim()) {
                    Ok(slug) => list.push(slug),
                    Err(message) => faults.push(fault("distros", IniClass::Distro, message)),
                }
            }
            Distros::Turns(list)
        } else if wanted.randomize_distros {
            Distros::Draw
        } else {
            Distros::Usual
        };
        Self {
            services,
            archetype,
            distros,
        }
    }
}

/// Services that no decky before was given, unless that takes too many draws.
fn draw(
    drawn: &mut BTreeSet<Vec<ServiceSlug>>,
    catalogue: &Catalogue,
    rng: &mut impl Rng,
) -> Vec<ServiceSlug> {
    let pool: Vec<ServiceSlug> = catalogue
        .deployable()
        .map(|service| service.slug.clone())
        .collect();
    // A draw is in the pool's order, so that equal combinations are equal lists.
    let mut services = mutate::draw(&pool, catalogue, rng);
    for _ in 0..EXTRA_DRAWS {
        if !drawn.contains(&services) {
            break;
        }
        services = mutate::draw(&pool, catalogue, rng);
    }
    drawn.insert(services.clone());
    services
}

fn at<T>(key: &str, value: T) -> At<T> {
    At {
        value,
        line: 0,
        section: "generate".to_owned(),
        key: key.to_owned(),
    }
}

fn fault(key: &str, class: IniClass, message: String) -> IniError {
    IniError::new(class, message).at(&at(key, ()))
}

#[cfg(test)]
mod tests;
