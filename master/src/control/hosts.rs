//! Hosts as operators see them. Liveness is derived from heartbeats when it is asked for, never stored.

use std::collections::BTreeMap;

use decnet_wire::ids::{HostId, HostName, ServiceSlug, Timestamp};
use decnet_wire::observed::{ContainerState, Observed, ObservedContainer};
use decnet_wire::report::PendingStack;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::deploy::Mode;
use super::{Control, ControlError, settings, targets};
use crate::audit::{Action, Actor, Audited, Change};
use crate::fleet::compile::stack_name;
use crate::fleet::model::DeploymentLimit;
use crate::records::{DeckyRecord, Host, HostStatus, ObservedRecord, Row, RowStatus, Settings};

/// After so long without a heartbeat a host counts as unreachable: three of them.
const SILENCE: time::Duration = time::Duration::seconds(90);

/// A host's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
}

impl HostState {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invited => "invited",
            Self::Waiting => "waiting",
            Self::Enrolled => "enrolled",
            Self::Active => "active",
            Self::Unreachable => "unreachable",
            Self::Revoked => "revoked",
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
        HostView {
            state: self.host_condition(&host, &status),
            host,
            status,
            deckies,
        }
    }

    /// A host's state at this moment.
    pub(super) fn condition(&self, host: &Host) -> HostState {
        self.view_of(host.clone(), 0).state
    }

    fn host_condition(&self, host: &Host, status: &HostStatus) -> HostState {
        if host.revoked {
            return HostState::Revoked;
        }
        if host.key.is_none() {
            return match host.awaiting {
                Some(_) => HostState::Waiting,
                None => HostState::Invited,
            };
        }
        let Some(heard) = status.last_heartbeat else {
            return HostState::Enrolled;
        };
        // While the master itself was away it heard nobody: the silence counts from its start at the earliest.
        let since = heard.get().max(self.started_at.get());
        if self.now().get() - since <= SILENCE {
            HostState::Active
        } else {
            HostState::Unreachable
        }
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
            let observed: BTreeMap<HostId, ObservedRecord> = r
                .all::<ObservedRecord>()?
                .into_iter()
                .map(|seen| (seen.host, seen))
                .collect();
            let mut views = Vec::new();
            for record in r.all::<DeckyRecord>()? {
                let row = match record.operation {
                    Some(operation) => r.get::<Row>(&operation.id)?,
                    None => None,
                };
                let seen = observed.get(&record.decky.host);
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
    let stack = stack_name(&record.decky.name);
    let containers: Vec<&ObservedContainer> = observed
        .map(|observed| {
            observed
                .containers
                .iter()
                .filter(|container| container.stack == stack)
                .collect()
        })
        .unwrap_or_default();
    let runs = |service: &str| {
        containers.iter().any(|container| {
            container.service == service && matches!(container.state, ContainerState::Running)
        })
    };
    let wanted = std::iter::once("base").chain(record.decky.services.iter().map(ServiceSlug::as_str));
    let (all, running) = wanted.fold((0, 0), |(all, running), service| {
        (all + 1, running + usize::from(runs(service)))
    });
    match running {
        0 if failed => DeckyState::Failed,
        0 if containers.is_empty() => DeckyState::Pending,
        _ if running == all => DeckyState::Running,
        _ => DeckyState::Degraded,
    }
}
