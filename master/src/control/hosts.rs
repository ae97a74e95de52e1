//! Hosts as operators see them. Their state is derived from heartbeats when it is asked for, never stored.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use decnet_wire::ids::{HostId, HostName, ServiceSlug, Timestamp};
use decnet_wire::observed::{ContainerState, Observed, ObservedContainer};
use decnet_wire::report::PendingStack;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::deploy::Mode;
use super::liveness::Liveness;
use super::{Control, ControlError, settings, targets};
use crate::audit::{Action, Actor, Audited, Change};
use crate::fleet::compile::stack_name;
use crate::fleet::model::{Decky, DeploymentLimit};
use crate::metrics::Tally;
use crate::records::{DeckyRecord, Host, HostStatus, ObservedRecord, Row, RowStatus, Settings};
use crate::store::Table;

/// A host's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostState {
    /// A token was made; nobody has used it yet.
    Invited,
    /// Somebody uses its token, and an operator has to approve of his key.
    Waiting,
    /// It has a certificate and has not been heard of since.
    Enrolled,
    /// Its heartbeats come.
    Active,
    /// Its heartbeats stopped.
    Unreachable,
    /// Its key is not accepted any more.
    Revoked,
    /// It is being wiped.
    Decommissioning,
    /// It said that it is wiped.
    Decommissioned,
}

impl HostState {
    pub(crate) const ALL: [Self; 8] = [
        Self::Invited,
        Self::Waiting,
        Self::Enrolled,
        Self::Active,
        Self::Unreachable,
        Self::Revoked,
        Self::Decommissioning,
        Self::Decommissioned,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invited => "invited",
            Self::Waiting => "waiting",
            Self::Enrolled => "enrolled",
            Self::Active => "active",
            Self::Unreachable => "unreachable",
            Self::Revoked => "revoked",
            Self::Decommissioning => "decommissioning",
            Self::Decommissioned => "decommissioned",
        }
    }

    /// The state of a host, after the master has listened for so long. The only place where it is decided.
    pub(super) fn of(host: &Host, status: &HostStatus, liveness: Liveness, listened: Duration) -> Self {
        if host.revoked {
            return Self::Revoked;
        }
        if host.leaving {
            return Self::Decommissioning;
        }
        if host.key.is_none() {
            return match host.awaiting {
                Some(_) => Self::Waiting,
                None => Self::Invited,
            };
        }
        match status.last_heartbeat {
            None => Self::Enrolled,
            Some(_) if liveness.is_heard(listened) => Self::Active,
            Some(_) => Self::Unreachable,
        }
    }
}

/// A host and what it last said.
#[derive(Debug, Clone)]
pub struct HostView {
    pub host: Host,
    pub status: HostStatus,
    pub state: HostState,
    /// Deckies assigned to it.
    pub deckies: usize,
}

/// A decky's state on its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeckyState {
    /// Its host has not brought it up yet.
    Pending,
    /// Every container runs.
    Running,
    /// Some containers run.
    Degraded,
    /// Its newest operation failed, or its host has quarantined it, and nothing of it runs.
    Failed,
    /// It is being removed.
    TearingDown,
}

impl DeckyState {
    pub(crate) const ALL: [Self; 5] = [
        Self::Pending,
        Self::Running,
        Self::Degraded,
        Self::Failed,
        Self::TearingDown,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
            Self::TearingDown => "tearing_down",
        }
    }
}

/// What a host sees of a decky, apart from what is wanted of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObservedState {
    /// Every container runs.
    Running,
    /// Some containers run.
    Degraded,
    /// No container runs.
    Failed,
    /// There is no container.
    TornDown,
}

impl ObservedState {
    /// What `observed` says of a decky.
    pub(super) fn of(decky: &Decky, observed: &Observed) -> Self {
        let stack = stack_name(&decky.name);
        let containers: Vec<&ObservedContainer> = observed
            .containers
            .iter()
            .filter(|container| container.stack == stack)
            .collect();
        let runs = |service: &str| {
            containers.iter().any(|container| {
                container.service == service && matches!(container.state, ContainerState::Running)
            })
        };
        let wanted = std::iter::once("base").chain(decky.services.iter().map(ServiceSlug::as_str));
        let (all, running) = wanted.fold((0, 0), |(all, running), service| {
            (all + 1, running + usize::from(runs(service)))
        });
        match running {
            0 if containers.is_empty() => Self::TornDown,
            0 => Self::Failed,
            _ if running == all => Self::Running,
            _ => Self::Degraded,
        }
    }
}

/// A decky and what its host last saw of it.
#[derive(Debug, Clone)]
pub struct DeckyView {
    pub record: DeckyRecord,
    pub host: Option<HostName>,
    pub state: DeckyState,
    /// The row of its newest operation.
    pub row: Option<Row>,
    /// When its host last reported what it sees.
    pub seen_at: Option<Timestamp>,
    /// What its host says, when it is not as it was asked for.
    pub pending: Option<PendingStack>,
}

impl Control {
    /// Every host, by name.
    ///
    /// # Errors
    /// The store's.
    pub fn hosts(&self) -> Result<Vec<HostView>, ControlError> {
        let (hosts, deckies) = self
            .db
            .read(|r| Ok::<_, ControlError>((Self::read_hosts(r)?, r.all::<DeckyRecord>()?)))?;
        let mut counts: BTreeMap<HostId, usize> = BTreeMap::new();
        for record in &deckies {
            *counts.entry(record.decky.host).or_default() += 1;
        }
        let mut views: Vec<HostView> = hosts
            .into_iter()
            .map(|host| {
                let deckies = counts.get(&host.id).copied().unwrap_or(0);
                self.view_of(host, deckies)
            })
            .collect();
        views.sort_by(|a, b| a.host.name.cmp(&b.host.name));
        Ok(views)
    }

    /// One host, by id.
    ///
    /// # Errors
    /// No such host (404).
    pub fn host(&self, id: HostId) -> Result<HostView, ControlError> {
        let (host, deckies) = self
            .db
            .read(|r| Ok::<_, ControlError>((r.get::<Host>(&id)?, r.all::<DeckyRecord>()?)))?;
        let host = host.ok_or_else(|| ControlError::NotFound {
            what: "host",
            name: id.to_string(),
        })?;
        let count = deckies.iter().filter(|record| record.decky.host == id).count();
        Ok(self.view_of(host, count))
    }

    fn view_of(&self, host: Host, deckies: usize) -> HostView {
        let heard = self.status().get(&host.id).cloned();
        let status = heard.unwrap_or_else(|| HostStatus::unheard(host.id));
        let (liveness, listened) = self.heard(host.id);
        HostView {
            state: HostState::of(&host, &status, liveness, listened),
            host,
            status,
            deckies,
        }
    }

    /// A host's state at this moment.
    pub(super) fn condition(&self, host: &Host) -> HostState {
        self.view_of(host.clone(), 0).state
    }

    /// Whether deckies run on enrolled hosts, and on how many.
    ///
    /// # Errors
    /// The store's.
    pub fn mode(&self) -> Result<(Mode, usize), ControlError> {
        let hosts = self.db.read(Self::read_hosts)?;
        let enrolled = targets(&hosts).into_iter().filter(|host| !host.embedded).count();
        Ok((if enrolled > 0 { Mode::Swarm } else { Mode::Unihost }, enrolled))
    }

    /// Every decky, by name.
    ///
    /// # Errors
    /// The store's.
    pub fn deckies(&self) -> Result<Vec<DeckyView>, ControlError> {
        let statuses = self.status().clone();
        self.db.read(|r| {
            let hosts: BTreeMap<HostId, HostName> = Self::read_hosts(r)?
                .into_iter()
                .map(|host| (host.id, host.name))
                .collect();
            // What is seen on a host without deckies need not be read.
            let mut observed: BTreeMap<HostId, Option<ObservedRecord>> = BTreeMap::new();
            let mut views = Vec::new();
            for record in r.all::<DeckyRecord>()? {
                if let Entry::Vacant(unread) = observed.entry(record.decky.host) {
                    unread.insert(r.get::<ObservedRecord>(&record.decky.host)?);
                }
                let row = match record.operation {
                    Some(operation) => r.get::<Row>(&operation.id)?,
                    None => None,
                };
                let seen = observed.get(&record.decky.host).and_then(Option::as_ref);
                let status = statuses.get(&record.decky.host);
                let pending = status.and_then(|status| status.pending(&record.decky.name));
                let given_up = pending.is_some_and(|pending| pending.quarantined);
                let failed = given_up || row.as_ref().is_some_and(|row| row.status == RowStatus::Failed);
                let state = decky_state(&record, failed, seen.map(|seen| &seen.observed));
                views.push(DeckyView {
                    pending: pending.cloned(),
                    host: hosts.get(&record.decky.host).cloned(),
                    state,
                    row,
                    seen_at: seen.map(|seen| seen.received_at),
                    record,
                });
            }
            Ok(views)
        })
    }

    /// Hosts, deckies and open rows in numbers.
    ///
    /// # Errors
    /// The store's.
    pub fn tally(&self) -> Result<Tally, ControlError> {
        let (hosts, audit) = self.db.read(|r| {
            let mut newest = 0;
            // A damaged log is for the audit to tell of.
            r.newest_key(Table::Audit, |key| {
                newest = <[u8; 8]>::try_from(key).map_or(0, u64::from_be_bytes);
            })?;
            Ok::<_, ControlError>((Self::read_hosts(r)?, newest))
        })?;
        let deckies = self.deckies()?;
        let rows = deckies.iter().filter_map(|view| view.row.as_ref());
        Ok(Tally {
            hosts: hosts.iter().map(|host| self.condition(host)).collect(),
            deckies: deckies.iter().map(|view| view.state).collect(),
            open: rows
                .map(|row| row.status)
                .filter(|status| !status.is_terminal())
                .collect(),
            audit,
        })
    }

    /// The fleet's settings.
    ///
    /// # Errors
    /// The store's.
    pub fn settings(&self) -> Result<Settings, ControlError> {
        self.db.read(settings)
    }

    /// Sets how many deckies the fleet may have.
    ///
    /// # Errors
    /// Not within 1 to 500 (422).
    pub fn set_deployment_limit(&self, by: &Actor, limit: u16) -> Result<(), ControlError> {
        let limit = DeploymentLimit::try_from(limit)
            .map_err(|error| ControlError::Invalid(format!("the deployment limit is refused: {error}")))?;
        self.db.change(by, self.now(), |w| {
            let mut settings = settings(&w.reader())?;
            let before = std::mem::replace(&mut settings.deployment_limit, limit);
            if before == limit {
                return Ok(Audited::Unchanged(()));
            }
            w.put(&(), &settings)?;
            Ok(Change::new(Action::FleetLimit, "fleet")
                .before(json!({ "deployment_limit": before }))
                .after(json!({ "deployment_limit": limit }))
                .done(()))
        })
    }
}

fn decky_state(record: &DeckyRecord, failed: bool, observed: Option<&Observed>) -> DeckyState {
    if record.removing {
        return DeckyState::TearingDown;
    }
    match observed.map(|observed| ObservedState::of(&record.decky, observed)) {
        Some(ObservedState::Running) => DeckyState::Running,
        Some(ObservedState::Degraded) => DeckyState::Degraded,
        _ if failed => DeckyState::Failed,
        Some(ObservedState::Failed) => DeckyState::Degraded,
        Some(ObservedState::TornDown) | None => DeckyState::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::liveness::SILENCE;
    use time::macros::datetime;

    /// A key, whether it waits, whether it is revoked, its last word on record.
    fn host(key: bool, awaiting: bool, revoked: bool, heard: bool) -> (Host, HostStatus) {
        let now = Timestamp::new(datetime!(2026-01-01 00:00 UTC));
        let id = HostId::new(uuid::Uuid::nil());
        let digest = decnet_wire::ids::Digest::from_sha256([1; 32]);
        let host = Host {
            id,
            name: "edge-01".parse().unwrap(),
            embedded: false,
            key: key.then(|| digest.clone()),
            certificate: None,
            certificate_ends_at: None,
            awaiting: awaiting.then_some(digest),
            next_key: None,
            leaving: false,
            created_at: now,
            enrolled_at: None,
            revoked,
            ipvlan: false,
            mode: None,
            interface: None,
            lan: None,
            generation: 0,
            notes: None,
        };
        let mut status = HostStatus::unheard(id);
        status.last_heartbeat = heard.then_some(now);
        (host, status)
    }

    #[test]
    fn a_state_follows_from_the_record_and_from_heartbeats() {
        let mut spoke = Liveness::default();
        spoke.hear(Duration::from_secs(1000));
        let quiet = Liveness::default();
        let (soon, late) = (
            Duration::from_secs(1000) + SILENCE,
            Duration::from_secs(1001) + SILENCE,
        );
        use HostState::{Active, Enrolled, Invited, Revoked, Unreachable, Waiting};
        for ((key, awaiting, revoked, heard), liveness, listened, expected) in [
            ((false, false, false, false), quiet, soon, Invited),
            ((false, true, false, false), quiet, soon, Waiting),
            ((true, false, false, false), quiet, late, Enrolled),
            ((true, false, false, true), spoke, soon, Active),
            ((true, false, false, true), spoke, late, Unreachable),
            // Heard by the master before this one, which has not listened for long enough.
            ((true, false, false, true), quiet, SILENCE, Active),
            ((true, false, false, true), quiet, soon, Unreachable),
            // Nothing that it says makes it believed.
            ((true, false, true, true), spoke, soon, Revoked),
            ((true, true, true, true), spoke, late, Revoked),
        ] {
            let (host, status) = host(key, awaiting, revoked, heard);
            let state = HostState::of(&host, &status, liveness, listened);
            assert_eq!(state, expected, "{host:?}");
        }
    }
}
