//! Deploying a fleet description: parse, build, and commit the new fleet, one row per operation and the next
//! generation of each touched host in one transaction. `plan` does the same and throws it away.

use std::collections::{BTreeMap, BTreeSet};

use decnet_plan::desired::Desired;
use decnet_plan::planner::plan;
use decnet_plan::policy;
use decnet_plan::step::Plan;
use decnet_wire::bundle::OperationKind;
use decnet_wire::ids::{DeckyName, HostId, HostName, OperationId, ServiceSlug, Timestamp};
use decnet_wire::observed::Observed;
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::error::FleetProblem;
use super::events::{Event, Trigger};
use super::{Control, ControlError, rows, settings, slot, targets, touch};
use crate::audit::{Action, Actor, Change, names};
use crate::fleet::build::{Built, ChangeKind, Deploy, Hosts, build, unpinned_images};
use crate::fleet::generate::generate;
use crate::fleet::ini;
use crate::fleet::model::{CustomService, Decky, HostSlot};
use crate::records::{DeckyRecord, Host, Leaving, ObservedRecord, Row, Settings};
use crate::store::{Reader, Writer};

pub use crate::fleet::request::{DeployRequest, Description};

/// What was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployed {
    pub mode: Mode,
    pub lifecycle_ids: Vec<OperationId>,
    pub warnings: Vec<String>,
}

/// Where deckies run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// On the master's embedded worker.
    Unihost,
    /// On enrolled hosts.
    Swarm,
}

impl Mode {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unihost => "unihost",
            Self::Swarm => "swarm",
        }
    }
}

/// What one host would do.
#[derive(Debug, Clone)]
pub struct HostPlan {
    pub host: HostId,
    pub name: HostName,
    /// False when the host has not yet said what it runs: the plan then assumes nothing.
    pub observed: bool,
    pub plan: Plan,
}

/// What a deploy would do.
#[derive(Debug, Clone)]
pub struct Preview {
    pub mode: Mode,
    pub hosts: Vec<HostPlan>,
    pub warnings: Vec<String>,
}

/// The fleet as it is and as it would be.
struct Draft {
    /// As they would be.
    settings: Settings,
    hosts: Vec<Host>,
    before: BTreeMap<DeckyName, DeckyRecord>,
    next: Vec<Next>,
    /// The hosts that get a new bundle.
    touched: BTreeSet<HostId>,
    warnings: Vec<String>,
    mode: Mode,
}

impl Draft {
    /// The records as they would be, by host.
    fn after(&self) -> BTreeMap<HostId, Vec<&DeckyRecord>> {
        let next = self.next.iter().map(|next| &next.record);
        let replaced: BTreeSet<&DeckyName> = next.clone().map(|record| &record.decky.name).collect();
        let stay = self
            .before
            .values()
            .filter(|record| !replaced.contains(&record.decky.name));
        let mut after: BTreeMap<HostId, Vec<&DeckyRecord>> = BTreeMap::new();
        for record in stay.chain(next) {
            after.entry(record.decky.host).or_default().push(record);
        }
        after
    }

    /// The hosts that get a new bundle and can be sent one.
    fn sent_to(&self) -> impl Iterator<Item = &Host> {
        let lives = |host: &&Host| host.lives();
        let touched = |host: &&Host| self.touched.contains(&host.id);
        self.hosts.iter().filter(lives).filter(touched)
    }
}

/// A draft that every host would take.
struct Accepted {
    draft: Draft,
    /// The version of the policy that each host held when it was asked.
    policies: BTreeMap<HostId, Option<u64>>,
}

impl Control {
    /// Commits a fleet description. The work on the hosts follows; the rows tell how it goes.
    ///
    /// # Errors
    /// [`ControlError::Fleet`] with every reason why the text is refused; nothing is changed then.
    pub fn deploy(&self, by: &Actor, request: &DeployRequest) -> Result<Deployed, ControlError> {
        let now = self.now();
        // Compiling for every host takes longer than everybody else should wait. What is found here is asked again
        // in the transaction only where what it was found for has changed meanwhile.
        let accepted = self.accept(self.db.read(|r| self.draft(r, request, now))?)?;
        let (deployed, changed, events) = self.db.change(by, now, |w| {
            let draft = self.draft(&w.reader(), request, now)?;
            self.accept_again(&draft, &accepted)?;
            let change = deployment(&draft, request);
            let events = mutations(&draft, by, now);
            let (deployed, changed) = self.commit(w, draft, by, now)?;
            Ok::<_, ControlError>(change.done((deployed, changed, events)))
        })?;
        self.publish.notify_one();
        self.events.publish(events);
        self.announce(&changed);
        Ok(deployed)
    }

    /// What [`Control::deploy`] would make each host do. Changes nothing.
    ///
    /// # Errors
    /// As [`Control::deploy`].
    pub fn plan(&self, request: &DeployRequest) -> Result<Preview, ControlError> {
        let now = self.now();
        self.db.read(|r| {
            let draft = self.draft(r, request, now)?;
            self.preview(r, &draft)
        })
    }

    fn draft(&self, r: &Reader<'_>, request: &DeployRequest, now: Timestamp) -> Result<Draft, ControlError> {
        let mut settings = settings(r)?;
        let mut draws = draws(&settings, request);
        let (catalogue, custom) = (&self.catalogue, &settings.custom_services);
        let document = match &request.description {
            Description::Ini(text) => ini::parse_with(text, catalogue, custom),
            Description::Generate(wanted) => generate(wanted, catalogue, custom, &mut draws),
        }
        .map_err(refused)?;
        let hosts = Self::read_hosts(r)?;
        let records = r.all::<DeckyRecord>()?;
        let targets = targets(&hosts);
        if targets.is_empty() {
            return Err(ControlError::Conflict(
                "no host can take deckies: enrol one with `decnet host enroll NAME`, or run `decnet serve` as root \
                 on a machine with Docker"
                    .to_owned(),
            ));
        }
        let mode = if targets.iter().any(|host| !host.embedded) {
            Mode::Swarm
        } else {
            Mode::Unihost
        };
        let mut slots = Vec::with_capacity(targets.len());
        for host in targets {
            slots.push(slot(host, r.get::<ObservedRecord>(&host.id)?.as_ref()));
        }
        let known: BTreeSet<HostId> = hosts
            .iter()
            .filter(|host| host.takes_deckies())
            .filter(|host| !(request.replace && mode == Mode::Swarm && host.embedded))
            .map(|host| host.id)
            .collect();
        let fleet = super::assemble(&settings, &records);
        let deploy = Deploy {
            ini: &document,
            replace: request.replace,
        };
        let places = Hosts {
            targets: &slots,
            known: &known,
        };
        let detected = (self.detect)();
        let built = build(
            &deploy,
            &fleet,
            &self.catalogue,
            &places,
            detected.as_ref(),
            now,
            &mut draws,
        )
        .map_err(refused)?;
        let unpinned = unpinned_images(&built.fleet);
        if !unpinned.is_empty() {
            return Err(refused(unpinned));
        }
        let before: BTreeMap<DeckyName, DeckyRecord> = records
            .into_iter()
            .map(|record| (record.decky.name.clone(), record))
            .collect();
        let next = next_records(&before, &built, &next_generations(&hosts));
        let touched = touched_hosts(&before, &built);
        let old_services = std::mem::replace(&mut settings.custom_services, built.fleet.custom_services);
        keep_services(&mut settings, old_services, &before, &next);
        settings.lan = built.fleet.lan;
        settings.mutate_interval = built.fleet.mutate_interval;
        Ok(Draft {
            settings,
            hosts,
            before,
            next,
            touched,
            warnings: built.warnings.iter().map(ToString::to_string).collect(),
            mode,
        })
    }

    fn commit(
        &self,
        w: &mut Writer<'_>,
        draft: Draft,
        by: &Actor,
        now: Timestamp,
    ) -> Result<(Deployed, Vec<Row>), ControlError> {
        let Draft {
            mut settings,
            next,
            touched,
            warnings,
            mode,
            ..
        } = draft;
        let mut ids = Vec::new();
        let mut changed = Vec::new();
        for Next { mut record, kind } in next {
            changed.extend(rows::begin(w, &mut record, kind, by, now, &self.tracer)?);
            ids.extend(record.operation.map(|operation| operation.id));
            w.put(&record.decky.name.clone(), &record)?;
        }
        for host in touched {
            touch(w, host)?;
        }
        settings.revision += 1;
        w.put(&(), &settings)?;
        Ok((
            Deployed {
                mode,
                lifecycle_ids: ids,
                warnings,
            },
            changed,
        ))
    }

    /// What each touched host would be sent, as its agent will read it. A host that would refuse it, or a master
    /// that could not compile it, refuses the description instead.
    fn desired<'a>(&self, draft: &'a Draft) -> Result<Vec<(&'a Host, Desired)>, ControlError> {
        let records = draft.after();
        let mut all = Vec::new();
        for host in draft.sent_to() {
            let mine = records.get(&host.id).map(Vec::as_slice).unwrap_or_default();
            all.push((
                host,
                self.acceptable(&draft.settings, host, mine.iter().copied())?,
            ));
        }
        Ok(all)
    }

    /// Asks every host for which the draft holds something new.
    ///
    /// # Errors
    /// As [`Control::desired`].
    fn accept(&self, draft: Draft) -> Result<Accepted, ControlError> {
        // Read before the hosts are asked: a policy that comes meanwhile has them asked again.
        let policies = draft.sent_to().map(|host| (host.id, self.policy_version(host)));
        let policies = policies.collect();
        self.desired(&draft)?;
        Ok(Accepted { draft, policies })
    }

    /// Asks the hosts that would be sent something else than what they accepted; operations alone are nothing else.
    ///
    /// # Errors
    /// As [`Control::desired`].
    fn accept_again(&self, draft: &Draft, accepted: &Accepted) -> Result<(), ControlError> {
        let fleet = |draft: &Draft| super::assemble(&draft.settings, &[]);
        let same_fleet = fleet(draft) == fleet(&accepted.draft);
        let slots: BTreeMap<HostId, HostSlot> = accepted
            .draft
            .sent_to()
            .map(|host| (host.id, slot(host, None)))
            .collect();
        let (before, after) = (accepted.draft.after(), draft.after());
        for host in draft.sent_to() {
            let records = after.get(&host.id).map(Vec::as_slice).unwrap_or_default();
            let known = before.get(&host.id).map(Vec::as_slice).unwrap_or_default();
            let same = same_fleet
                && slots.get(&host.id) == Some(&slot(host, None))
                && accepted.policies.get(&host.id) == Some(&self.policy_version(host))
                && known
                    .iter()
                    .map(|it| sent(it))
                    .eq(records.iter().map(|it| sent(it)));
            if same {
                // A policy also ends by itself.
                self.bundle_policy(host)?;
            } else {
                self.acceptable(&draft.settings, host, records.iter().copied())?;
            }
        }
        Ok(())
    }

    fn policy_version(&self, host: &Host) -> Option<u64> {
        self.policy_for(host.id).map(|policy| policy.version())
    }

    /// What one host would be sent, as its agent will read it.
    ///
    /// # Errors
    /// It cannot be compiled, or the agent would refuse it.
    pub(super) fn acceptable<'a>(
        &self,
        settings: &Settings,
        host: &Host,
        records: impl IntoIterator<Item = &'a DeckyRecord>,
    ) -> Result<Desired, ControlError> {
        let state = self.host_state(settings, host, records)?;
        let stacks = state.stacks.iter().map(|stack| (&stack.name, &stack.compose));
        let desired = Desired::new(host.id, &state.networks, &state.blobs, stacks)
            .map_err(|errors| unacceptable(host, &errors))?;
        let violations = policy::check(&desired, &self.bundle_policy(host)?);
        if violations.is_empty() {
            Ok(desired)
        } else {
            Err(unacceptable(host, &violations))
        }
    }

    fn preview(&self, r: &Reader<'_>, draft: &Draft) -> Result<Preview, ControlError> {
        let mut plans = Vec::new();
        for (host, desired) in self.desired(draft)? {
            let observed = r.get::<ObservedRecord>(&host.id)?.map(|record| record.observed);
            let known = observed.is_some();
            let plan = plan(
                &desired,
                &observed.unwrap_or_else(Observed::default),
                &self.bundle_policy(host)?,
            );
            plans.push(HostPlan {
                host: host.id,
                name: host.name.clone(),
                observed: known,
                plan,
            });
        }
        Ok(Preview {
            mode: draft.mode,
            hosts: plans,
            warnings: draft.warnings.clone(),
        })
    }
}

/// What of a record makes its host's bundle, but for the operation.
fn sent(record: &DeckyRecord) -> (&Decky, bool, bool) {
    (&record.decky, record.removing, record.leaving.is_some())
}

/// What a deploy changes, for the audit log.
fn deployment(draft: &Draft, request: &DeployRequest) -> Change {
    let mut added = Vec::new();
    let mut changed = Vec::new();
    let mut removed = Vec::new();
    for Next { record, kind } in &draft.next {
        let name = &record.decky.name;
        match kind {
            OperationKind::Teardown => removed.push(name),
            _ if draft.before.contains_key(name) => changed.push(name),
            _ => added.push(name),
        }
    }
    let touched = |host: &&Host| draft.touched.contains(&host.id);
    let hosts = draft.hosts.iter().filter(touched).map(|host| &host.name);
    let revision = draft.settings.revision;
    Change::new(Action::DeckyDeploy, "fleet")
        .before(json!({ "revision": revision, "deckies": draft.before.len() }))
        .after(json!({
            "revision": revision + 1,
            "replace": request.replace,
            "mode": draft.mode.as_str(),
            "added": names(added),
            "changed": names(changed),
            "removed": names(removed),
            "hosts": names(hosts),
        }))
}

/// The deckies whose services a deploy changes.
fn mutations(draft: &Draft, by: &Actor, now: Timestamp) -> Vec<Event> {
    let mut events = Vec::new();
    for Next { record, kind } in &draft.next {
        let name = &record.decky.name;
        let before = draft.before.get(name).filter(|before| !before.removing);
        let old = before
            .map(|before| before.decky.services.clone())
            .unwrap_or_default();
        let (new, trigger) = match (kind, before) {
            (OperationKind::Teardown, _) => (Vec::new(), Trigger::Retirement),
            (_, None) => (record.decky.services.clone(), Trigger::Creation),
            (_, Some(_)) => (record.decky.services.clone(), Trigger::Operator),
        };
        if old != new {
            events.push(Event::mutation(name, (old, new), trigger, Some(by), now));
        }
    }
    events
}

pub(super) fn unacceptable<T: std::fmt::Display>(host: &Host, problems: &[T]) -> ControlError {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    ControlError::Invalid(format!(
        "the host {} would not take this: {}",
        host.name,
        lines.join("; ")
    ))
}

/// A decky whose operation fails goes back to what it ran, so the services that it ran stay known until then.
fn keep_services(
    settings: &mut Settings,
    old: BTreeMap<ServiceSlug, CustomService>,
    before: &BTreeMap<DeckyName, DeckyRecord>,
    next: &[Next],
) {
    let replaced: BTreeSet<&DeckyName> = next.iter().map(|next| &next.record.decky.name).collect();
    let untouched = before
        .values()
        .filter(|record| !replaced.contains(&record.decky.name));
    let ran: BTreeSet<&ServiceSlug> = next
        .iter()
        .map(|next| &next.record)
        .chain(untouched)
        .filter_map(|record| record.previous.as_ref())
        .flat_map(|previous| &previous.services)
        .collect();
    for (slug, service) in old {
        if ran.contains(&slug) {
            settings.custom_services.entry(slug).or_insert(service);
        }
    }
}

/// The refusal of a description, or of the request that carries it.
pub(crate) fn refused(errors: Vec<ini::IniError>) -> ControlError {
    let problem = |error: ini::IniError| FleetProblem {
        status: error.class.status(),
        class: error.class.to_string(),
        message: error.to_string(),
    };
    ControlError::Fleet(errors.into_iter().map(problem).collect())
}

/// What is drawn at random follows from the fleet's revision and the request alone: a plan and the deploy after it
/// draw the same, and the next deploy draws anew.
fn draws(settings: &Settings, request: &DeployRequest) -> ChaCha20Rng {
    let mut hash = Sha256::new();
    hash.update(settings.draw_seed.as_bytes());
    hash.update(settings.revision.to_be_bytes());
    hash.update([u8::from(request.replace)]);
    match &request.description {
        Description::Ini(text) => hash.update(text.as_bytes()),
        Description::Generate(wanted) => hash.update(format!("{wanted:?}").as_bytes()),
    }
    ChaCha20Rng::from_seed(hash.finalize().into())
}

/// The next generation of every host that can still let go of a decky. A revoked one is not waited for.
fn next_generations(hosts: &[Host]) -> BTreeMap<HostId, u64> {
    let lives = |host: &&Host| host.lives();
    hosts
        .iter()
        .filter(lives)
        .map(|host| (host.id, host.generation + 1))
        .collect()
}

/// A record as it is to be, and the operation that makes it so.
struct Next {
    record: DeckyRecord,
    kind: OperationKind,
}

fn next_records(
    before: &BTreeMap<DeckyName, DeckyRecord>,
    built: &Built,
    generations: &BTreeMap<HostId, u64>,
) -> Vec<Next> {
    let mut next = Vec::new();
    for change in &built.changes {
        let old = before.get(&change.decky);
        match (change.kind, built.fleet.deckies.get(&change.decky), old) {
            (ChangeKind::Teardown, _, Some(old)) => {
                let record = DeckyRecord {
                    removing: true,
                    previous: None,
                    ..old.clone()
                };
                next.push(Next {
                    record,
                    kind: OperationKind::Teardown,
                });
            }
            (ChangeKind::Deploy | ChangeKind::Unchanged, Some(decky), old) => {
                // What last ran: of an operation that its host has not ended, the state before it.
                let ran = |old: &DeckyRecord| {
                    old.previous
                        .clone()
                        .unwrap_or_else(|| Box::new(old.decky.clone()))
                };
                let previous = old.filter(|old| !old.removing).map(ran);
                let leaving = old.and_then(|old| leaving(old, decky.host, generations));
                let record = DeckyRecord {
                    decky: decky.clone(),
                    removing: false,
                    operation: old.and_then(|old| old.operation),
                    newest: old.and_then(|old| old.newest),
                    previous: previous.filter(|previous| **previous != *decky),
                    leaving,
                };
                next.push(Next {
                    record,
                    kind: OperationKind::Deploy,
                });
            }
            (ChangeKind::Teardown, _, None) | (_, None, _) => {}
        }
    }
    next
}

/// Who must let go of a decky before `host` gets it. While one host is waited for, no other was given the decky.
fn leaving(old: &DeckyRecord, host: HostId, generations: &BTreeMap<HostId, u64>) -> Option<Leaving> {
    let from = old.decky.host;
    let holder = old.leaving.clone().or_else(|| {
        let generation = generations.get(&from).copied()?;
        Some(Leaving {
            host: from,
            generation,
        })
    });
    holder.filter(|holder| holder.host != host && generations.contains_key(&holder.host))
}

/// The hosts whose state differs, or whose deckies get a new operation: where they are and where they were.
fn touched_hosts(before: &BTreeMap<DeckyName, DeckyRecord>, built: &Built) -> BTreeSet<HostId> {
    let changed = built.changes.iter().map(|change| &change.decky);
    changed
        .flat_map(|name| {
            let now = built.fleet.deckies.get(name).map(|decky| decky.host);
            let was = before.get(name).map(|record| record.decky.host);
            now.into_iter().chain(was)
        })
        .collect()
}
