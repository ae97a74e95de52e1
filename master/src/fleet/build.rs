//! From a document and the fleet before to the fleet after. Nothing is changed unless everything fits.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use decnet_wire::ids::{DeckyName, HostId, ServiceSlug, Timestamp};
use rand::Rng;

use self::draft::{Draft, Maker, Taken};
use self::places::Places;
use super::catalogue::{Catalogue, is_pinned};
use super::ini::{DeckySpec, Document, Faults, IniClass, IniError, Warning, shown};
use super::model::{CustomService, Decky, Fleet, HostSlot, Lan};

mod draft;
mod lan;
mod places;

/// A fault of a deploy: the same shape and classes as a fault of the text.
pub type BuildError = IniError;

/// What the operator asks for.
#[derive(Debug, Clone, Copy)]
pub struct Deploy<'a> {
    pub ini: &'a Document,
    /// True: the document is the whole fleet. False: it is added to the fleet.
    pub replace: bool,
}

/// Where deckies can be, and where they may stay.
#[derive(Debug, Clone, Copy)]
pub struct Hosts<'a> {
    /// New deckies go to these: the enrolled hosts, or the embedded local worker alone when there is none.
    pub targets: &'a [HostSlot],
    /// Every host that still exists, such as the local worker or one that is out of reach: what runs there stays
    /// there when deckies are added. Targets count as known in any case.
    pub known: &'a BTreeSet<HostId>,
}

/// The fleet after, and what it takes to get there.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    pub fleet: Fleet,
    /// One for each operation that was asked for, in name order: when adding, the new and the moved deckies; when
    /// replacing, every decky of the new set and every one that goes.
    pub changes: Vec<Change>,
    pub warnings: Vec<Warning>,
    /// Deckies whose host is gone, and those that a replacement moves; by name.
    pub moved: Vec<Moved>,
}

/// What becomes of one decky.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub decky: DeckyName,
    pub kind: ChangeKind,
    /// Where the operation runs: the host after, or before for a teardown.
    pub host: HostId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    Deploy,
    Teardown,
    /// Asked for, and exactly as it was before: its operation has nothing to do.
    Unchanged,
}

/// A decky that is on another host than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    pub decky: DeckyName,
    pub from: HostId,
    pub to: HostId,
    /// The address before, when it had to change too.
    pub readdressed: Option<Ipv4Addr>,
}

/// Builds the fleet after a deploy. `detected` is the LAN of the machine's default route, used where neither the
/// document nor the fleet says one.
///
/// Adding never changes a decky that is there, but for one whose host is gone: that one gets another host.
/// Replacing keeps address, MAC, host name, seed and host of every decky whose name stays, where they still fit.
///
/// # Errors
///
/// Every fault found; [`super::ini::status`] gives the HTTP status.
pub fn build(
    request: &Deploy<'_>,
    before: &Fleet,
    catalogue: &Catalogue,
    hosts: &Hosts<'_>,
    detected: Option<&Lan>,
    now: Timestamp,
    rng: &mut impl Rng,
) -> Result<Built, Vec<BuildError>> {
    let mut faults = Faults::default();
    admit(request, before, hosts, &mut faults);
    if !faults.is_empty() {
        return Err(faults.into_errors());
    }
    let custom_services = custom_services(request, before, catalogue, &mut faults);
    let lan = lan::resolve(request, before, hosts.targets, detected, &mut faults);
    if !faults.is_empty() {
        return Err(faults.into_errors());
    }
    let mut fleet = Fleet {
        lan,
        custom_services,
        ..before.clone()
    };
    let mut places = Places::new(hosts.targets, fleet.lan.as_ref());
    if request.replace {
        fleet.deckies.clear();
    }
    places.explicit(request.ini, &fleet, &mut faults);
    if !faults.is_empty() {
        return Err(faults.into_errors());
    }
    for decky in fleet.deckies.values() {
        places.occupy(decky.address);
        places.load(decky.host);
    }
    let mut moved = move_stranded(&mut fleet, hosts, &mut places, &mut faults);
    if let Some(generated) = request.ini.generated {
        if let Some(start) = generated.ip_start {
            places.start_at(start, &mut faults);
        }
        if request.replace || before.deckies.is_empty() {
            fleet.mutate_interval = generated.mutate_interval;
        }
    }
    if !faults.is_empty() {
        return Err(faults.into_errors());
    }
    let drafts = draft(request, before, &mut places, &mut faults);
    if !faults.is_empty() {
        return Err(faults.into_errors());
    }
    let staying = fleet
        .deckies
        .values()
        .chain(drafts.iter().filter_map(|draft| draft.kept));
    let taken = Taken::new(staying);
    let mut maker = Maker {
        catalogue,
        taken,
        now,
        rng,
        warnings: request.ini.warnings.clone(),
    };
    for (index, draft) in drafts.iter().enumerate() {
        // Every draft has a place, or there would have been a fault.
        let Some((host, address)) = draft.place else {
            continue;
        };
        let decky = maker.decky(index, draft, host, address);
        if let Some(old) = draft.kept.filter(|old| old.host != host) {
            moved.push(Moved::new(old, &decky));
        }
        fleet.deckies.insert(decky.name.clone(), decky);
    }
    moved.sort_by(|a, b| a.decky.cmp(&b.decky));
    let warnings = maker.warnings;
    let changes = changes(request, before, &fleet, &moved);
    Ok(Built {
        fleet,
        changes,
        warnings,
        moved,
    })
}

/// The checks that need neither a LAN nor a host's addresses.
fn admit(request: &Deploy<'_>, before: &Fleet, hosts: &Hosts<'_>, faults: &mut Faults) {
    let specs = &request.ini.deckies;
    if specs.is_empty() {
        let (class, message) = if before.deckies.is_empty() {
            (
                IniClass::EmptyFleet,
                "the text describes no decky; add a section for at least one, such as [web]",
            )
        } else {
            (
                IniClass::NothingToDeploy,
                "the text describes no decky; add a section, or tear deckies down one by one",
            )
        };
        faults.push(BuildError::new(class, message));
        return;
    }
    if hosts.targets.is_empty() {
        let message =
            "no host can take a decky; enrol one, or run the master as root beside the Docker Engine";
        faults.push(BuildError::new(IniClass::Host, message));
    }
    let kept = if request.replace { 0 } else { before.deckies.len() };
    let (total, limit) = (kept + specs.len(), before.deployment_limit.get());
    if total > limit {
        let message = format!(
            "the fleet would have {total} deckies and its limit is {limit}; deploy fewer, or raise the limit"
        );
        faults.push(BuildError::new(IniClass::Limit, message));
    }
    if !request.replace {
        let mut taken = specs
            .iter()
            .filter(|spec| before.deckies.contains_key(&spec.name));
        if request.ini.generated.is_some() {
            // One fault: every further one would say the same.
            if let Some(first) = taken.next() {
                let message = format!(
                    "decky {} is already deployed, and the names of generated deckies always begin with decky-01; \
                     replace the fleet, or describe the further deckies in an INI",
                    first.name
                );
                faults.push(BuildError::new(IniClass::Collision, message));
            }
            return;
        }
        for spec in taken {
            let message = format!(
                "decky {} is already deployed; rename the section, or replace the fleet",
                spec.name
            );
            faults.push(at_section(spec, IniClass::Collision, message));
        }
    }
}

fn at_section(spec: &DeckySpec, class: IniClass, message: impl Into<String>) -> BuildError {
    BuildError::new(class, message)
        .line(spec.line)
        .section(&spec.section)
}

/// The custom services after: the text's alone when it is the whole fleet, else added to the fleet's.
fn custom_services(
    request: &Deploy<'_>,
    before: &Fleet,
    catalogue: &Catalogue,
    faults: &mut Faults,
) -> BTreeMap<ServiceSlug, CustomService> {
    let mut after = if request.replace {
        BTreeMap::new()
    } else {
        before.custom_services.clone()
    };
    for (slug, at) in &request.ini.custom_services {
        let changed = after.get(slug).is_some_and(|old| *old != at.value);
        if changed
            && let Some(user) = before
                .deckies
                .values()
                .find(|decky| decky.services.contains(slug))
        {
            let message = format!(
                "decky {} runs another `{slug}`; give this one another name, or replace the fleet",
                user.name
            );
            faults.push(
                BuildError::new(IniClass::Collision, message)
                    .line(at.line)
                    .section(&at.section),
            );
        }
        after.insert(slug.clone(), at.value.clone());
    }
    for list in request
        .ini
        .deckies
        .iter()
        .filter_map(|spec| spec.services.as_ref())
    {
        for slug in list
            .value
            .iter()
            .filter(|slug| catalogue.service(slug).is_none() && !after.contains_key(*slug))
        {
            let message =
                format!("`{slug}` is not a service; define it in a section [custom-{slug}] of this text");
            faults.push(BuildError::new(IniClass::Service, message).at(list));
        }
    }
    after
}

/// Gives the deckies whose host is gone another one; none are left there when the fleet is replaced.
fn move_stranded(
    fleet: &mut Fleet,
    hosts: &Hosts<'_>,
    places: &mut Places<'_>,
    faults: &mut Faults,
) -> Vec<Moved> {
    let exists = |id: HostId| hosts.known.contains(&id) || hosts.targets.iter().any(|host| host.id == id);
    let mut moved = Vec::new();
    for decky in fleet.deckies.values_mut().filter(|decky| !exists(decky.host)) {
        let old = decky.clone();
        match places
            .host_for(decky.address)
            .map(|host| (host, decky.address))
            .or_else(|| places.allocate())
        {
            Some((host, address)) => {
                decky.host = host;
                decky.address = address;
                places.load(host);
                moved.push(Moved::new(&old, decky));
            }
            None => {
                let message = format!(
                    "decky {} must leave a host that is gone, and {}",
                    decky.name,
                    places.exhausted()
                );
                faults.push(BuildError::new(IniClass::Exhausted, message));
            }
        }
    }
    moved
}

/// Finds a host and an address for every spec. Kept deckies first: what stays must not be handed to another.
fn draft<'a>(
    request: &Deploy<'a>,
    before: &'a Fleet,
    places: &mut Places<'_>,
    faults: &mut Faults,
) -> Vec<Draft<'a>> {
    let mut drafts: Vec<Draft<'a>> = Vec::new();
    let starts = request
        .ini
        .generated
        .is_some_and(|generated| generated.ip_start.is_some());
    for spec in &request.ini.deckies {
        let kept = before.deckies.get(&spec.name).filter(|_| request.replace);
        let own = kept
            .map(|old| old.address)
            .filter(|address| places.is_free(*address));
        let address = if starts {
            let Some(address) = places.following() else {
                faults.push(at_section(spec, IniClass::Exhausted, places.exhausted()));
                break;
            };
            Some(address)
        } else {
            spec.ip.as_ref().map(|ip| ip.value).or(own)
        };
        if let Some(address) = address {
            places.occupy(address);
        }
        let host = kept
            .map(|old| old.host)
            .filter(|host| address.is_some_and(|it| places.fits(*host, it)));
        if let Some(host) = host {
            places.load(host);
        }
        drafts.push(Draft {
            spec,
            kept,
            place: host.zip(address),
            address,
        });
    }
    for draft in drafts.iter_mut().filter(|draft| draft.place.is_none()) {
        let fixed = draft
            .address
            .and_then(|address| Some((places.host_for(address)?, address)));
        match fixed.or_else(|| places.allocate()) {
            Some((host, address)) => {
                places.load(host);
                draft.place = Some((host, address));
            }
            None => {
                let message = places.exhausted();
                faults.push(at_section(draft.spec, IniClass::Exhausted, message));
                // Every further decky would say the same.
                break;
            }
        }
    }
    drafts
}

fn changes(request: &Deploy<'_>, before: &Fleet, after: &Fleet, moved: &[Moved]) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    for decky in after.deckies.values() {
        let old = before.deckies.get(&decky.name);
        let asked = request.replace || old.is_none() || moved.iter().any(|moved| moved.decky == decky.name);
        let custom =
            |slug: &&ServiceSlug| before.custom_services.get(*slug) != after.custom_services.get(*slug);
        let same =
            old == Some(decky) && before.lan == after.lan && !decky.services.iter().any(|slug| custom(&slug));
        if asked {
            let kind = if same {
                ChangeKind::Unchanged
            } else {
                ChangeKind::Deploy
            };
            changes.push(Change {
                decky: decky.name.clone(),
                kind,
                host: decky.host,
            });
        }
    }
    for old in before
        .deckies
        .values()
        .filter(|old| !after.deckies.contains_key(&old.name))
    {
        changes.push(Change {
            decky: old.name.clone(),
            kind: ChangeKind::Teardown,
            host: old.host,
        });
    }
    changes.sort_by(|a, b| a.decky.cmp(&b.decky));
    changes
}

impl Moved {
    fn new(old: &Decky, new: &Decky) -> Self {
        let readdressed = (old.address != new.address).then_some(old.address);
        Self {
            decky: new.name.clone(),
            from: old.host,
            to: new.host,
            readdressed,
        }
    }
}

/// The custom services in use whose image can change under its name. A deploy refuses them; building does not.
#[must_use]
pub fn unpinned_images(fleet: &Fleet) -> Vec<BuildError> {
    let used = |slug: &ServiceSlug| fleet.deckies.values().find(|decky| decky.services.contains(slug));
    let mut errors = Vec::new();
    for (slug, service) in &fleet.custom_services {
        if let Some(decky) = used(slug).filter(|_| !is_pinned(&service.image)) {
            let message = format!(
                "decky {} would run `{}`, which can change under its name; pin the image as repository@sha256:<64 hexadecimal digits>",
                decky.name,
                shown(&service.image)
            );
            let section = format!("custom-{slug}");
            errors.push(
                BuildError::new(IniClass::Service, message)
                    .section(&section)
                    .key("binary"),
            );
        }
    }
    errors
}

#[cfg(test)]
mod tests;
