//! Mutations: a decky changes its services and keeps its address, MAC and base container. On demand, or when its
//! interval is over.

use std::collections::BTreeMap;

use decnet_wire::bundle::OperationKind;
use decnet_wire::ids::{DeckyName, HostId, OperationId, ServiceSlug, Timestamp};
use serde_json::{Value, json};

use super::events::{Event, Trigger};
use super::hosts::HostState;
use super::{Control, ControlError, decky, rows, settings, touch};
use crate::audit::{Action, Actor, Audited, Change};
use crate::fleet::model::{Decky, Interval};
use crate::fleet::mutate::{choose_services, due};
use crate::records::{DeckyRecord, Host, Row};
use crate::store::Writer;

/// Deckies of one pass of the timer whose services are named in the audit log.
const LISTED: usize = 60;

impl Control {
    /// Draws other services for a decky.
    ///
    /// # Errors
    /// No such decky (404); no other services can be drawn for it, or it is being removed (409).
    pub fn mutate(&self, by: &Actor, name: &DeckyName) -> Result<OperationId, ControlError> {
        let now = self.now();
        let (id, changed, event) = self.db.change(by, now, |w| {
            let record = decky(&w.reader(), name)?;
            if record.removing {
                return Err(ControlError::Conflict(format!("{name} is being removed")));
            }
            let drawn = self.draw(w, record, by, now)?.ok_or_else(|| {
                ControlError::Conflict(format!(
                    "there is nothing to change: {name} has the only services it can have"
                ))
            })?;
            let change = mutations(std::slice::from_ref(&drawn));
            let event = drawn.event(Trigger::Operator, Some(by), now);
            Ok(change.done((drawn.operation, drawn.rows, event)))
        })?;
        self.publish.notify_one();
        self.events.publish([event]);
        self.announce(&changed);
        Ok(id)
    }

    /// Mutates every decky whose interval is over, where its host is there to do it and has done what it was asked
    /// before. Gives out how many.
    ///
    /// # Errors
    /// The store's.
    pub fn mutate_due(&self) -> Result<usize, ControlError> {
        let now = self.now();
        let by = Actor::master();
        let (changed, events) = self.db.change(&by, now, |w| {
            let settings = settings(&w.reader())?;
            let records = w.all::<DeckyRecord>()?;
            let fleet = super::assemble(&settings, &[]);
            let mut drawn = Vec::new();
            let mut active: BTreeMap<HostId, bool> = BTreeMap::new();
            for record in records {
                let busy = match record.operation {
                    Some(operation) => w
                        .get::<Row>(&operation.id)?
                        .is_some_and(|row| !row.status.is_terminal()),
                    None => false,
                };
                if record.removing || busy || record.previous.is_some() || !due(&fleet, &record.decky, now) {
                    continue;
                }
                let host = record.decky.host;
                let there = match active.get(&host) {
                    Some(there) => *there,
                    None => w
                        .get::<Host>(&host)?
                        .is_some_and(|host| self.condition(&host) == HostState::Active),
                };
                active.insert(host, there);
                if !there {
                    continue;
                }
                let name = record.decky.name.clone();
                match self.draw(w, record, &by, now) {
                    Ok(done) => drawn.extend(done),
                    Err(error @ (ControlError::Invalid(_) | ControlError::Conflict(_))) => {
                        tracing::warn!(decky = %name, "not mutated: {}", crate::text::chain(&error));
                    }
                    Err(error) => return Err(error),
                }
            }
            if drawn.is_empty() {
                return Ok(Audited::Unchanged((Vec::new(), Vec::new())));
            }
            let change = mutations(&drawn);
            let event = |drawn: &Drawn| drawn.event(Trigger::Scheduled, None, now);
            let events: Vec<Event> = drawn.iter().map(event).collect();
            let changed: Vec<Row> = drawn.into_iter().flat_map(|drawn| drawn.rows).collect();
            Ok::<_, ControlError>(change.done((changed, events)))
        })?;
        if !changed.is_empty() {
            self.publish.notify_one();
            self.events.publish(events);
            self.announce(&changed);
        }
        Ok(changed.len())
    }

    /// Sets how often a decky mutates by itself.
    ///
    /// # Errors
    /// No such decky (404).
    pub fn set_interval(&self, by: &Actor, name: &DeckyName, interval: Interval) -> Result<(), ControlError> {
        self.db.change(by, self.now(), |w| {
            let mut record = decky(&w.reader(), name)?;
            let before = std::mem::replace(&mut record.decky.interval, interval);
            let kept = |previous: &Decky| previous.interval == interval;
            if before == interval && record.previous.as_deref().is_none_or(kept) {
                return Ok(Audited::Unchanged(()));
            }
            if let Some(previous) = &mut record.previous {
                previous.interval = interval;
            }
            w.put(name, &record)?;
            Ok(Change::new(Action::DeckyInterval, format!("decky/{name}"))
                .before(json!({ "mutate_interval": before }))
                .after(json!({ "mutate_interval": interval }))
                .done(()))
        })
    }

    /// A drawn service may ask for what the host's policy forbids: nothing is written then.
    fn check_drawn(&self, w: &Writer<'_>, drawn: &DeckyRecord) -> Result<(), ControlError> {
        let id = drawn.decky.host;
        let Some(host) = w.get::<Host>(&id)?.filter(|_| self.policy_for(id).is_some()) else {
            return Ok(());
        };
        let mut records = w.all::<DeckyRecord>()?;
        for record in &mut records {
            if record.decky.name == drawn.decky.name {
                record.clone_from(drawn);
            }
        }
        self.acceptable(&settings(&w.reader())?, &host, &records)?;
        Ok(())
    }

    fn draw(
        &self,
        w: &mut Writer<'_>,
        mut record: DeckyRecord,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Drawn>, ControlError> {
        let Some(services) = choose_services(&record.decky, &self.catalogue, &mut rand::rng()) else {
            return Ok(None);
        };
        // After a mutation that is still open, the state to come back to is the one before it.
        if record.previous.is_none() {
            record.previous = Some(Box::new(record.decky.clone()));
        }
        let before = std::mem::replace(&mut record.decky.services, services);
        record.decky.last_mutated = now;
        self.check_drawn(w, &record)?;
        let changed = rows::begin(w, &mut record, OperationKind::Mutate, by, now, &self.tracer)?;
        touch(w, record.decky.host)?;
        let Some(operation) = record.operation else {
            return Ok(None);
        };
        w.put(&record.decky.name.clone(), &record)?;
        Ok(Some(Drawn {
            operation: operation.id,
            before,
            decky: record.decky,
            rows: changed,
        }))
    }
}

/// A decky with other services.
struct Drawn {
    operation: OperationId,
    before: Vec<ServiceSlug>,
    decky: Decky,
    rows: Vec<Row>,
}

impl Drawn {
    fn event(&self, trigger: Trigger, by: Option<&Actor>, at: Timestamp) -> Event {
        let services = (self.before.clone(), self.decky.services.clone());
        Event::mutation(&self.decky.name, services, trigger, by, at)
    }
}

/// The change of one decky, or of as many as the timer found due.
fn mutations(drawn: &[Drawn]) -> Change {
    let subject = match drawn {
        [one] => format!("decky/{}", one.decky.name),
        _ => "fleet".to_owned(),
    };
    let listed = || drawn.iter().take(LISTED);
    let services = |side: &dyn Fn(&Drawn) -> Value| -> serde_json::Map<String, Value> {
        listed()
            .map(|one| (one.decky.name.to_string(), side(one)))
            .collect()
    };
    Change::new(Action::DeckyMutate, subject)
        .before(json!({ "services": services(&|one| json!(one.before)) }))
        .after(json!({ "deckies": drawn.len(), "services": services(&|one| json!(one.decky.services)) }))
}
