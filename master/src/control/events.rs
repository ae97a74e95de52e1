//! The in-process bus: what happened, announced after it was stored.
//!
//! ```text
//!  control ──▶ Event ──▶ one frame of bytes ──▶ ring ──▶ readers, each with its place in the ring
//! ```
//!
//! Guarantees: an event is written as JSON once, outside of every lock, and all readers share its bytes. The ring is
//! bounded in number and in bytes; a reader holds a place in it and at most a batch of events, so that a
//! slow one costs nobody anything: it falls out of the ring and is told how much it missed. Events are a hint, what is
//! stored is the truth.

mod bus;
pub mod topic;

use std::sync::Arc;

use decnet_wire::bundle::OperationKind;
use decnet_wire::ids::{DeckyName, HostId, HostName, OperationId, ServiceSlug, Timestamp};
use serde::Serialize;

use super::hosts::{HostState, ObservedState};
use crate::audit::Actor;
use crate::metrics::Metrics;
use crate::records::{Row, RowStatus};

use bus::Bus;
pub use bus::{Announced, Gap, GapReason, Heard, Reader};
use topic::{Filter, Kind, Topic};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Event {
    Lifecycle(LifecycleEvent),
    DeckyState(DeckyStateEvent),
    Mutation(MutationEvent),
    HostState(HostStateEvent),
}

impl Event {
    /// A decky is to have other services, the second ones in place of the first.
    pub(super) fn mutation(
        decky: &DeckyName,
        (old_services, new_services): (Vec<ServiceSlug>, Vec<ServiceSlug>),
        trigger: Trigger,
        by: Option<&Actor>,
        ts: Timestamp,
    ) -> Self {
        Self::Mutation(MutationEvent {
            decky_name: decky.clone(),
            old_services,
            new_services,
            trigger,
            actor: by.map(|by| by.who().name().to_owned()),
            ts,
        })
    }

    /// What it is about.
    #[must_use]
    pub fn topic(&self) -> Topic {
        match self {
            Self::Lifecycle(event) => Topic::decky(&event.decky_name, Kind::Lifecycle),
            Self::DeckyState(event) => Topic::decky(&event.decky_name, Kind::State),
            Self::Mutation(event) => Topic::decky(&event.decky_name, Kind::Mutation),
            Self::HostState(event) => Topic::host(&event.host_name),
        }
    }
}

/// A row's transition, on the topic `decky.<name>.lifecycle`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LifecycleEvent {
    pub lifecycle_id: OperationId,
    pub decky_name: DeckyName,
    pub host_uuid: Option<HostId>,
    pub operation: OperationKind,
    pub status: RowStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub ts: Timestamp,
}

impl From<&Row> for LifecycleEvent {
    fn from(row: &Row) -> Self {
        Self {
            lifecycle_id: row.id,
            decky_name: row.decky.clone(),
            host_uuid: row.host,
            operation: row.operation,
            status: row.status,
            error: row.error.clone(),
            ts: row.updated_at,
        }
    }
}

/// A decky's containers are in another state than its host last said, on the topic `decky.<name>.state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeckyStateEvent {
    pub decky_name: DeckyName,
    pub host_uuid: HostId,
    pub from: ObservedState,
    pub to: ObservedState,
    pub ts: Timestamp,
}

/// A decky is to have other services, on the topic `decky.<name>.mutation`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MutationEvent {
    pub decky_name: DeckyName,
    pub old_services: Vec<ServiceSlug>,
    pub new_services: Vec<ServiceSlug>,
    pub trigger: Trigger,
    /// Who asked for it; absent for the timer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    pub ts: Timestamp,
}

/// Why a decky gets other services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// It is new.
    Creation,
    /// It is removed.
    Retirement,
    /// Its interval was over.
    Scheduled,
    /// Somebody asked for it.
    Operator,
}

/// A host's state changed, on the topic `host.<name>.state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostStateEvent {
    pub host_name: HostName,
    pub host_uuid: HostId,
    /// None: the host is new.
    pub from: Option<HostState>,
    pub to: HostState,
    pub reason: String,
    pub ts: Timestamp,
}

/// Announces events to everybody who reads. Nobody listening is no error.
#[derive(Debug)]
pub struct Events {
    bus: Bus,
    metrics: Arc<Metrics>,
}

impl Events {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        let bus = Bus::new(rand::random(), Arc::clone(&metrics));
        Self { bus, metrics }
    }

    /// One that keeps so many events, and bytes of them.
    #[cfg(test)]
    pub(crate) fn bounded(events: usize, bytes: usize) -> Self {
        let metrics = Metrics::new();
        let bus = Bus::bounded(rand::random(), events, bytes, Arc::clone(&metrics));
        Self { bus, metrics }
    }

    /// Announces rows that were just committed.
    pub(crate) fn announce<'a>(&self, rows: impl IntoIterator<Item = &'a Row>) {
        let events = rows.into_iter().map(|row| {
            self.metrics.transition(row);
            Event::Lifecycle(LifecycleEvent::from(row))
        });
        self.publish(events);
    }

    /// Announces what was just committed, in this order.
    pub(crate) fn publish(&self, events: impl IntoIterator<Item = Event>) {
        self.bus.publish(events);
    }

    /// Everything announced from now on that passes the filter.
    #[must_use]
    pub fn subscribe(&self, filter: Filter) -> Reader {
        self.bus.subscribe(filter)
    }

    /// The same from after the event of this id on; what of it cannot be told is a [`Gap`].
    #[must_use]
    pub fn resume(&self, filter: Filter, last: &str) -> Reader {
        self.bus.resume(filter, last)
    }
}
