//! Mutations: a decky changes its services and keeps its address, MAC and base container. On demand, or when its
//! interval is over.

use std::collections::BTreeMap;

use decnet_wire::bundle::OperationKind;
use decnet_wire::ids::{DeckyName, HostId, OperationId, Timestamp};

use super::hosts::HostState;
use super::{Control, ControlError, decky, rows, settings, touch};
use crate::fleet::model::Interval;
use crate::fleet::mutate::{choose_services, due};
use crate::records::{DeckyRecord, Host, Row};
use crate::store::Writer;

impl Control {
    /// Draws other services for a decky.
    ///
    /// # Errors
    /// No such decky (404); no other services can be drawn for it, or it is being removed (409).
    pub fn mutate(&self, name: &DeckyName) -> Result<OperationId, ControlError> {
        let now = self.now();
        let (id, changed) = self.db.update(|w| {
            let record = decky(&w.reader(), name)?;
            if record.removing {
                return Err(ControlError::Conflict(format!("{name} is being removed")));
            }
            self.draw(w, record, now)?.ok_or_else(|| {
                ControlError::Conflict(format!(
                    "there is nothing to change: {name} has the only services it can have"
                ))
            })
        })?;
        self.publish.notify_one();
        self.events.announce(&changed);
        Ok(id)
    }

    /// Mutates every decky whose interval is over, where its host is there to do it and has done what it was asked
    /// before. Gives out how many.
    ///
    /// # Errors
    /// The store's.
    pub fn mutate_due(&self) -> Result<usize, ControlError> {
        let now = self.now();
        let changed = self.db.update(|w| {
            let settings = settings(&w.reader())?;
            let records = w.all::<DeckyRecord>()?;
            let fleet = super::assemble(&settings, &[]);
            let mut changed = Vec::new();
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
                match self.draw(w, record, now) {
                    Ok(Some((_, rows))) => changed.extend(rows),
                    Ok(None) => {}
                    Err(error @ (ControlError::Invalid(_) | ControlError::Conflict(_))) => {
                        tracing::warn!(decky = %name, "not mutated: {}", crate::text::chain(&error));
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok::<_, ControlError>(changed)
        })?;
        if !changed.is_empty() {
            self.publish.notify_one();
            self.events.announce(&changed);
        }
        Ok(changed.len())
    }

    /// Sets how often a decky mutates by itself.
    ///
    /// # Errors
    /// No such decky (404).
    pub fn set_interval(&self, name: &DeckyName, interval: Interval) -> Result<(), ControlError> {
        self.db.update(|w| {
            let mut record = decky(&w.reader(), name)?;
            record.decky.interval = interval;
            if let Some(previous) = &mut record.previous {
                previous.interval = interval;
            }
            w.put(name, &record)?;
            Ok(())
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
        now: Timestamp,
    ) -> Result<Option<(OperationId, Vec<Row>)>, ControlError> {
        let Some(services) = choose_services(&record.decky, &self.catalogue, &mut rand::rng()) else {
            return Ok(None);
        };
        // After a mutation that is still open, the state to come back to is the one before it.
        if record.previous.is_none() {
            record.previous = Some(Box::new(record.decky.clone()));
        }
        record.decky.services = services;
        record.decky.last_mutated = now;
        self.check_drawn(w, &record)?;
        let changed = rows::begin(w, &mut record, OperationKind::Mutate, now)?;
        touch(w, record.decky.host)?;
        let Some(operation) = record.operation else {
            return Ok(None);
        };
        w.put(&record.decky.name.clone(), &record)?;
        Ok(Some((operation.id, changed)))
    }
}
