//! Reports: events are applied once each, by `(host, seq)`; the observed state is latest-wins; the heartbeat goes
//! to memory and reaches the store with the next flush.

use std::collections::BTreeSet;
use std::time::Instant;

use decnet_wire::bundle::OperationKind;
use decnet_wire::ids::{DeckyName, HostId, Timestamp};
use decnet_wire::limits;
use decnet_wire::observed::Observed;
use decnet_wire::release::Progress;
use decnet_wire::report::{self, Event, EventBody, Outcome, PendingStack, Report, ReportAnswer};

use super::announce::Look;
use super::enrol::named;
use super::rows::{self, Applied};
use super::{Alarm, Control, ControlError, settings, touch};
use crate::audit::{Action, Actor, Who};
use crate::fleet::compile::stack_name;
use crate::fleet::model::Decky;
use crate::metrics::Rejected;
use crate::records::{DeckyRecord, Host, HostStatus, Leaving, ObservedRecord, Row};
use crate::store::{StoreError, Writer};
use crate::text::from_host;

/// How long an agent's poll may wait, in seconds.
const POLL_WAIT_S: u32 = 50;
/// How often an agent reports even when nothing happened, in seconds.
pub const HEARTBEAT_S: u32 = 30;

/// How far a number may be ahead of the master's clock in milliseconds, by which agents begin to number: 70 years.
/// Beyond it one event could use up all numbers, and nothing that the host says later would be heard.
const NUMBERS_AHEAD: u64 = 1 << 41;

impl Control {
    /// Takes in a report of an authenticated host.
    ///
    /// # Errors
    /// It is about what is not this host's (403), or numbers its events so that none could follow (422): nothing of it
    /// was applied, and there is an alarm. The store's: nothing was applied, and the agent sends it again.
    pub fn ingest(&self, host: HostId, report: &Report) -> Result<ReportAnswer, ControlError> {
        let begun = Instant::now();
        let answer = self.take_in(host, report);
        self.metrics.report_took(begun.elapsed());
        if let Err(error) = &answer {
            self.metrics.report_rejected(match error.status() {
                403 => Rejected::Foreign,
                422 => Rejected::Numbers,
                _ => Rejected::Failed,
            });
        }
        answer
    }

    fn take_in(&self, host: HostId, report: &Report) -> Result<ReportAnswer, ControlError> {
        let now = self.now();
        let foreign = self.judge(host, report, now)?;
        if self.is_awaited(host) {
            self.learn(host, report.heartbeat.accepted.as_ref())?;
        }
        let (mut status, news) = self.heartbeat(host, report, &foreign, now);
        self.note_heartbeat(host);
        let known = report.events.iter().filter(|event| event.seq <= status.acked);
        let known = known.count();
        let fresh = known < report.events.len();
        if fresh || report.observed.is_some() || (news && self.is_left(host)?) {
            let (changed, touched, written, seen) = self
                .db
                .bookkeep(|w| self.apply(w, status, report, &foreign, now))?;
            status = written;
            let mut kept = self.status();
            if let Some(kept) = kept.get_mut(&host) {
                kept.acked = kept.acked.max(status.acked);
                kept.refusal.clone_from(&status.refusal);
                kept.refused = status.refused;
                kept.drifts = kept.drifts.max(status.drifts);
                kept.last_drift.clone_from(&status.last_drift);
            }
            drop(kept);
            self.announce(&changed);
            if let Some(seen) = seen {
                self.note_deckies(host, seen, now);
            }
            if touched {
                self.publish.notify_one();
            }
        }
        self.metrics.report(report.events.len(), known);
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
            renew_within_s: Some(self.renew_within_s()),
        })
    }

    /// Refuses a report that no agent of ours sends. Gives out the deckies in it that are other hosts': what is said of
    /// them is not heard.
    fn judge(
        &self,
        host: HostId,
        report: &Report,
        now: Timestamp,
    ) -> Result<BTreeSet<DeckyName>, ControlError> {
        if report.events.is_empty() && report.heartbeat.pending.is_empty() {
            return Ok(BTreeSet::new());
        }
        let milliseconds = now.get().unix_timestamp_nanos() / 1_000_000;
        let most = u64::try_from(milliseconds)
            .unwrap_or(0)
            .saturating_add(NUMBERS_AHEAD);
        if let Some(event) = report.events.iter().find(|event| event.seq > most) {
            let text = format!("its event has the number {}: no event could follow it", event.seq);
            self.alarm_of(host, Action::AlarmEventNumber, &text)?;
            return Err(ControlError::Invalid(format!(
                "the event number {} is beyond {most}: is the host's clock right?",
                event.seq
            )));
        }
        let (refused, foreign) = self.db.read(|r| {
            let mut foreign = BTreeSet::new();
            let drifted = report.events.iter().filter_map(|event| match &event.body {
                EventBody::Drift { decky, .. } => Some(decky),
                _ => None,
            });
            let pending = report.heartbeat.pending.iter().take(limits::PENDING);
            for decky in drifted.chain(pending.map(|pending| &pending.decky)) {
                if r.get::<DeckyRecord>(decky)?
                    .is_some_and(|record| !concerns(&record, host))
                {
                    foreign.insert(decky.clone());
                }
            }
            for event in &report.events {
                let EventBody::Operation { id, decky, kind, .. } = &event.body else {
                    continue;
                };
                let other =
                    |row: &Row| row.host != Some(host) || row.decky != *decky || row.operation != *kind;
                if r.get::<Row>(id)?.is_some_and(|row| other(&row)) {
                    return Ok::<_, ControlError>((Some((*id, decky)), foreign));
                }
            }
            Ok((None, foreign))
        })?;
        if let Some((id, decky)) = refused {
            let text = format!("it reported the operation {id} of {decky}, which is not its own");
            self.alarm_of(host, Action::AlarmForeignReport, &text)?;
            return Err(ControlError::Forbidden(
                "the report is about operations that are not this host's: nothing of it is taken".to_owned(),
            ));
        }
        if let Some(decky) = foreign.first() {
            let text = format!("it reported about {decky}, which is another host's");
            self.alarm_of(host, Action::AlarmForeignReport, &text)?;
        }
        Ok(foreign)
    }

    fn alarm_of(&self, host: HostId, action: Action, text: &str) -> Result<(), ControlError> {
        let found = self.db.read(|r| Ok::<_, ControlError>(r.get::<Host>(&host)?))?;
        let Some(found) = found else { return Ok(()) };
        let from = self.status().get(&host).and_then(|status| status.address);
        let by = Actor::host(host, found.name.clone(), from);
        self.alarm(&Alarm::new(action, &by, named(&found), text));
        Ok(())
    }

    /// Whether a decky waits for this host to let go of it.
    fn is_left(&self, host: HostId) -> Result<bool, StoreError> {
        let left = |record: &DeckyRecord| record.leaving.as_ref().is_some_and(|it| it.host == host);
        self.db.read(|r| Ok(r.all::<DeckyRecord>()?.iter().any(left)))
    }

    /// Takes the heartbeat to memory. True when the host has looked at its engine under another bundle than it last
    /// said.
    fn heartbeat(
        &self,
        host: HostId,
        report: &Report,
        foreign: &BTreeSet<DeckyName>,
        now: Timestamp,
    ) -> (HostStatus, bool) {
        let heartbeat = &report.heartbeat;
        self.hear(host);
        let mut status = self.status();
        let status = status.entry(host).or_insert_with(|| HostStatus::unheard(host));
        let other = status.accepted != heartbeat.accepted;
        let had_looked = status.has_looked();
        if other {
            // It took a newer bundle than the one that it refused.
            status.refusal = None;
            status.refused = None;
        }
        status.last_heartbeat = Some(now);
        status.agent_version = Some(from_host(&heartbeat.agent_version));
        status.engine = heartbeat.engine.as_deref().map(from_host);
        status.accepted.clone_from(&heartbeat.accepted);
        status.converged = heartbeat.converged;
        status.reason = heartbeat.reason.as_deref().map(from_host);
        // An agent that has nothing to say of a release has forgotten none.
        if let Some(update) = &heartbeat.update {
            status.update = Some(Progress {
                detail: update.detail.as_deref().map(from_host),
                ..update.clone()
            });
        }
        let pending = heartbeat.pending.iter().take(limits::PENDING);
        status.pending = pending
            .filter(|pending| !foreign.contains(&pending.decky))
            .map(|pending| PendingStack {
                reason: from_host(&pending.reason),
                ..pending.clone()
            })
            .collect();
        if !other && had_looked && !status.has_looked() && status.engine.is_none() {
            status.began_anew = Some(now);
        }
        let news = status.has_looked() && (other || !had_looked);
        (status.clone(), news)
    }

    /// Counts a host's events from the beginning again.
    pub(super) fn forget_events(&self, w: &mut Writer<'_>, host: HostId) -> Result<(), StoreError> {
        if let Some(mut status) = w.get::<HostStatus>(&host)? {
            status.acked = 0;
            w.put(&host, &status)?;
        }
        if let Some(status) = self.status().get_mut(&host) {
            status.acked = 0;
        }
        Ok(())
    }

    fn apply(
        &self,
        w: &mut Writer<'_>,
        mut status: HostStatus,
        report: &Report,
        foreign: &BTreeSet<DeckyName>,
        now: Timestamp,
    ) -> Result<(Vec<Row>, bool, HostStatus, Option<Look>), ControlError> {
        let host = status.host;
        // The store decides what was applied; memory may be older after a failed commit.
        let stored = w.get::<HostStatus>(&host)?;
        status.acked = stored.as_ref().map_or(0, |stored| stored.acked);
        status.drifts = stored.as_ref().map_or(0, |stored| stored.drifts);
        let mut changed = Vec::new();
        let mut touched = false;
        let mut seen = None;
        let by = match w.get::<Host>(&host)? {
            Some(found) => Actor::host(host, found.name, status.address),
            None => Actor::stranger(status.address),
        };
        for event in &report.events {
            if event.seq <= status.acked {
                continue;
            }
            if !matches!(&event.body, EventBody::Drift { decky, .. } if foreign.contains(decky)) {
                touched |= self.apply_event(w, &mut status, event, by.who(), now, &mut changed)?;
            }
            status.acked = event.seq;
        }
        if let Some(observed) = &report.observed {
            let accepted = status.accepted.clone();
            let record = ObservedRecord {
                host,
                received_at: now,
                accepted,
                observed: Observed::clone(observed),
            };
            w.put(&host, &record)?;
            let records = w.all::<DeckyRecord>()?;
            seen = Some(self.said.look(&records, host, &record.observed));
            touched |= release(w, &status, &record.observed, records)?;
        } else if status.has_looked()
            && let Some(record) = w.get::<ObservedRecord>(&host)?
        {
            // It has looked and sees what it saw before: what it had let go of may be gone by now.
            let records = w.all::<DeckyRecord>()?;
            touched |= release(w, &status, &record.observed, records)?;
        }
        w.put(&host, &status)?;
        Ok((changed, touched, status, seen))
    }

    fn apply_event(
        &self,
        w: &mut Writer<'_>,
        status: &mut HostStatus,
        event: &Event,
        by: &Who,
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
                // Such a report was refused as a whole; this holds whatever becomes of that.
                if row.host != Some(host) || row.decky != *decky || row.operation != *kind {
                    return Ok(false);
                }
                let applied = rows::apply(&mut row, outcome, by, now);
                if applied != Applied::Unchanged {
                    w.put(&row.id, &row)?;
                }
                // Also when the row had ended by its deadline: the decky is then what its host says.
                let touched = self.conclude(w, &row, outcome)?;
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
                status.refusal = Some(from_host(&format!("{code}: {detail}")));
                status.refused = *generation;
                Ok(false)
            }
            EventBody::Drift { decky, detail } => {
                tracing::info!(%host, %decky, detail, "drift");
                status.drifts = status.drifts.saturating_add(1);
                status.last_drift = Some((now, from_host(&format!("{decky}: {detail}"))));
                Ok(false)
            }
        }
    }

    /// What the end of an operation means for its decky, when it is still the decky's newest one. True when a host
    /// needs a new bundle. Saying it twice changes nothing.
    pub(super) fn conclude(
        &self,
        w: &mut Writer<'_>,
        row: &Row,
        outcome: &Outcome,
    ) -> Result<bool, ControlError> {
        if *outcome == Outcome::Running {
            return Ok(false);
        }
        let Some(mut record) = w.get::<DeckyRecord>(&row.decky)? else {
            return Ok(false);
        };
        if record.operation.is_none_or(|operation| operation.id != row.id) {
            return Ok(false);
        }
        if row.operation == OperationKind::Teardown {
            if *outcome == Outcome::Succeeded {
                w.remove::<DeckyRecord>(&row.decky)?;
                touch(w, record.decky.host)?;
                return Ok(true);
            }
            return Ok(false);
        }
        let Some(previous) = record.previous.take() else {
            return Ok(false);
        };
        // What ran before runs again on the host; the fleet says so too.
        let back = *outcome != Outcome::Succeeded && self.can_return(w, &previous, &record.decky)?;
        if back {
            // The next change by itself is due an interval after this attempt, not at once.
            let attempted = record.decky.last_mutated.max(previous.last_mutated);
            record.decky = *previous;
            record.decky.last_mutated = attempted;
            record.operation = None;
            touch(w, record.decky.host)?;
        }
        w.put(&row.decky, &record)?;
        Ok(back)
    }

    /// Whether the fleet still has room for a decky as it was. Its host has let go of it when it moved; its
    /// address may be another's by now, its network or its services may be gone with the description that named them.
    fn can_return(&self, w: &Writer<'_>, previous: &Decky, now: &Decky) -> Result<bool, ControlError> {
        if previous.host != now.host {
            return Ok(false);
        }
        let settings = settings(&w.reader())?;
        let runs = |slug| self.catalogue.is_deployable(slug) || settings.custom_services.contains_key(slug);
        if !previous.services.iter().all(runs) {
            return Ok(false);
        }
        if previous.address == now.address && previous.mac == now.mac {
            return Ok(true);
        }
        let host = w.get::<Host>(&previous.host)?;
        let lan = host.and_then(|host| host.lan).or(settings.lan);
        let others = w.all::<DeckyRecord>()?;
        let taken = others.iter().map(|other| &other.decky).any(|other| {
            other.name != previous.name && (other.address == previous.address || other.mac == previous.mac)
        });
        Ok(!taken && lan.is_some_and(|lan| lan.subnet.contains(&previous.address)))
    }
}

/// Whether a host has something to say of a decky: it has it, or had it and has not let go of it.
fn concerns(record: &DeckyRecord, host: HostId) -> bool {
    record.decky.host == host
        || record
            .leaving
            .as_ref()
            .is_some_and(|leaving| leaving.host == host)
}

/// Deckies that were leaving this host and are gone from it now belong to their new host alone.
fn release(
    w: &mut Writer<'_>,
    status: &HostStatus,
    observed: &Observed,
    records: Vec<DeckyRecord>,
) -> Result<bool, StoreError> {
    let Some(accepted) = &status.accepted else {
        return Ok(false);
    };
    let gone = |leaving: &Leaving| leaving.host == status.host && leaving.generation <= accepted.generation;
    let there: BTreeSet<_> = observed
        .containers
        .iter()
        .map(|container| &container.stack)
        .collect();
    let mut touched = false;
    for mut record in records {
        if !record.leaving.as_ref().is_some_and(gone) || there.contains(&stack_name(&record.decky.name)) {
            continue;
        }
        record.leaving = None;
        touch(w, record.decky.host)?;
        w.put(&record.decky.name.clone(), &record)?;
        touched = true;
    }
    Ok(touched)
}
