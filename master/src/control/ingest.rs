//! Reports: events are applied once each, by `(host, seq)`; the observed state is latest-wins; the heartbeat goes
//! to memory and reaches the store with the next flush.

use std::collections::BTreeSet;

use decnet_wire::bundle::OperationKind;
use decnet_wire::ids::{HostId, Timestamp};
use decnet_wire::report::{self, Event, EventBody, Outcome, Report, ReportAnswer};

use super::rows::{self, Applied};
use super::{Control, ControlError, touch};
use crate::fleet::compile::stack_name;
use crate::records::{DeckyRecord, HostStatus, Leaving, ObservedRecord, Row};
use crate::store::Writer;

/// How long an agent's poll may wait, in seconds.
const POLL_WAIT_S: u32 = 50;
/// How often an agent reports even when nothing happened, in seconds.
pub const HEARTBEAT_S: u32 = 30;

impl Control {
    /// Takes in a report of an authenticated host.
    ///
    /// # Errors
    /// The store's: nothing of the report was applied, and the agent sends it again.
    pub fn ingest(&self, host: HostId, report: &Report) -> Result<ReportAnswer, ControlError> {
        let now = self.now();
        let mut status = self.heartbeat(host, report, now);
        let fresh = report.events.iter().any(|event| event.seq > status.acked);
        if fresh || report.observed.is_some() {
            let (changed, touched, written) = self.db.update(|w| self.apply(w, status, report, now))?;
            status = written;
            let mut kept = self.status();
            if let Some(kept) = kept.get_mut(&host) {
                kept.acked = kept.acked.max(status.acked);
                kept.refusal.clone_from(&status.refusal);
            }
            drop(kept);
            self.events.announce(&changed);
            if touched {
                self.publish.notify_one();
            }
        }
        let known = self
            .db
            .read(|r| Ok::<_, ControlError>(r.has::<ObservedRecord>(&host)?))?;
        Ok(ReportAnswer {
            schema: report::SCHEMA,
            acked: status.acked,
            time: now,
            poll_wait_s: POLL_WAIT_S,
            heartbeat_s: HEARTBEAT_S,
            resync: !known,
        })
    }

    fn heartbeat(&self, host: HostId, report: &Report, now: Timestamp) -> HostStatus {
        let heartbeat = &report.heartbeat;
        let mut status = self.status();
        let status = status.entry(host).or_insert_with(|| HostStatus::unheard(host));
        status.last_heartbeat = Some(now);
        status.agent_version = Some(heartbeat.agent_version.clone());
        status.engine.clone_from(&heartbeat.engine);
        status.accepted.clone_from(&heartbeat.accepted);
        status.converged = heartbeat.converged;
        status.reason.clone_from(&heartbeat.reason);
        status.clone()
    }

    fn apply(
        &self,
        w: &mut Writer<'_>,
        mut status: HostStatus,
        report: &Report,
        now: Timestamp,
    ) -> Result<(Vec<Row>, bool, HostStatus), ControlError> {
        let host = status.host;
        // The store decides what was applied; memory may be older after a failed commit.
        status.acked = w.get::<HostStatus>(&host)?.map_or(0, |stored| stored.acked);
        let mut changed = Vec::new();
        let mut touched = false;
        for event in &report.events {
            if event.seq <= status.acked {
                continue;
            }
            touched |= self.apply_event(w, &mut status, event, now, &mut changed)?;
            status.acked = event.seq;
        }
        if let Some(observed) = &report.observed {
            let accepted = status.accepted.clone();
            let record = ObservedRecord {
                host,
                received_at: now,
                accepted,
                observed: observed.clone(),
            };
            w.put(&host, &record)?;
            touched |= release(w, &record)?;
        }
        w.put(&host, &status)?;
        Ok((changed, touched, status))
    }

    fn apply_event(
        &self,
        w: &mut Writer<'_>,
        status: &mut HostStatus,
        event: &Event,
        now: Timestamp,
        changed: &mut Vec<Row>,
    ) -> Result<bool, ControlError> {
        let host = status.host;
        match &event.body {
            EventBody::Operation {
                id,
                decky,
                kind,
                outcome,
            } => {
                let Some(mut row) = w.get::<Row>(id)? else {
                    tracing::warn!(%host, operation = %id, "a host reports an operation that is not known");
                    return Ok(false);
                };
                if row.host != Some(host) || row.decky != *decky || row.operation != *kind {
                    tracing::warn!(%host, operation = %id, %decky, "a host reports an operation that is not its own");
                    return Ok(false);
                }
                let applied = rows::apply(&mut row, outcome, now);
                if applied == Applied::Unchanged {
                    return Ok(false);
                }
                w.put(&row.id, &row)?;
                let touched = conclude(w, &row, outcome)?;
                if applied == Applied::Moved {
                    changed.push(row);
                }
                Ok(touched)
            }
            EventBody::Refused {
                code,
                detail,
                generation,
            } => {
                tracing::warn!(%host, code, detail, generation, "a host refused its bundle");
                status.refusal = Some(format!("{code}: {detail}"));
                Ok(false)
            }
            EventBody::Drift { decky, detail } => {
                tracing::info!(%host, %decky, detail, "drift");
                Ok(false)
            }
        }
    }
}

/// What the end of an operation means for its decky, when it is still the decky's newest one. True when a host
/// needs a new bundle.
fn conclude(w: &mut Writer<'_>, row: &Row, outcome: &Outcome) -> Result<bool, ControlError> {
    let Some(mut record) = w.get::<DeckyRecord>(&row.decky)? else {
        return Ok(false);
    };
    if record.operation.is_none_or(|operation| operation.id != row.id) {
        return Ok(false);
    }
    match (row.operation, outcome) {
        (_, Outcome::Running) => Ok(false),
        (OperationKind::Teardown, Outcome::Succeeded) => {
            w.remove::<DeckyRecord>(&row.decky)?;
            touch(w, record.decky.host)?;
            Ok(true)
        }
        (_, Outcome::Succeeded) => {
            record.previous = None;
            w.put(&row.decky, &record)?;
            Ok(false)
        }
        (_, Outcome::Failed { .. }) => {
            // What ran before runs again on the host; the fleet says so too.
            let Some(previous) = record.previous.take() else {
                return Ok(false);
            };
            if previous.host != record.decky.host {
                // It was on its way to another host, and the old one has let go: it stays assigned to the new one.
                w.put(&row.decky, &record)?;
                return Ok(false);
            }
            record.decky = *previous;
            record.operation = None;
            w.put(&row.decky, &record)?;
            touch(w, record.decky.host)?;
            Ok(true)
        }
    }
}

/// Deckies that were leaving this host and are gone from it now belong to their new host alone.
fn release(w: &mut Writer<'_>, seen: &ObservedRecord) -> Result<bool, ControlError> {
    let Some(accepted) = &seen.accepted else {
        return Ok(false);
    };
    let gone = |leaving: &Leaving| leaving.host == seen.host && leaving.generation <= accepted.generation;
    let there: BTreeSet<_> = seen
        .observed
        .containers
        .iter()
        .map(|container| &container.stack)
        .collect();
    let leaving: Vec<DeckyRecord> = w
        .all::<DeckyRecord>()?
        .into_iter()
        .filter(|record| record.leaving.as_ref().is_some_and(gone))
        .collect();
    let mut touched = false;
    for mut record in leaving {
        if there.contains(&stack_name(&record.decky.name)) {
            continue;
        }
        record.leaving = None;
        touch(w, record.decky.host)?;
        w.put(&record.decky.name.clone(), &record)?;
        touched = true;
    }
    Ok(touched)
}
