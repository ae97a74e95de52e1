//! What the agent says about itself to people on the host: status and plan, as data and as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use decnet_docker::host::EgressCounters;
use decnet_docker::{Engine, EngineError};
use decnet_plan::planner::{StackState, describe, plan, stack_states};
use decnet_plan::step::Plan;
use decnet_wire::ids::{Digest, FleetId, HostId, HostName, OperationId, StackName, Timestamp};
use decnet_wire::release::Progress;
use decnet_wire::report::PendingStack;
use serde::{Deserialize, Serialize};

use crate::admit;
use crate::identity::Identity;
use crate::ledger::{
    AcceptedRecord, Incident, IncidentCause, JournalEntry, Ledger, LedgerError, OperationRecord, Trouble,
};
pub use crate::policy::PolicyStatus;
use crate::policy::of_bundle;
use crate::reconcile::{Condition, effective, quarantined};
pub use crate::transfers::{Fetching, Part};
use crate::update::files::progress_text;
pub use crate::update::health::Poll;

/// What `decnet-agent status` shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub schema: u32,
    pub agent_version: String,
    pub fleet: FleetId,
    pub host: HostId,
    pub name: HostName,
    /// Where the agent pulls from.
    pub master: String,
    pub certificate_ends_at: Timestamp,
    /// SHA-256 of the host key's SubjectPublicKeyInfo.
    pub host_key: Digest,
    /// Of the trust root that this host believes.
    pub trust_root_version: u64,
    /// None while the built-in policy holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyStatus>,
    pub accepted: Option<AcceptedRecord>,
    pub operations: BTreeMap<OperationId, OperationRecord>,
    /// Stacks that left what was desired by themselves, or go back to what ran before: since when.
    #[serde(default)]
    pub incidents: BTreeMap<StackName, Incident>,
    /// What keeps going wrong, as the ledger has it.
    #[serde(default)]
    pub troubles: BTreeMap<StackName, Trouble>,
    /// Events that the master has not acknowledged.
    pub waiting_events: u64,
    /// None when no agent runs and the ledger was read directly.
    pub running: Option<Running>,
}

/// What only a running agent knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// Everything is as it was asked for.
    pub converged: bool,
    /// Why not.
    pub reason: Option<String>,
    /// The engine's version while it answers.
    pub engine: Option<String>,
    /// Every stack that is not as it was asked for: why, how often it was tried, when it is tried next, and whether
    /// it is quarantined.
    pub pending: Vec<PendingStack>,
    /// Images and blobs that are on their way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fetching: Vec<Fetching>,
    /// What is suspicious about containers that run, by their name.
    #[serde(default)]
    pub warnings: BTreeMap<String, Vec<String>>,
    /// What the closed network namespaces have counted, by the name of the container that owns one.
    #[serde(default)]
    pub egress: BTreeMap<String, EgressCounters>,
    pub contact: Contact,
    /// What became of the newest release that this host was told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<Progress>,
    /// How long the newest look at the engine took that found nothing to do, planning included, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_round_us: Option<u64>,
}

impl Running {
    pub(crate) fn new(condition: Condition, contact: Contact, idle_round_us: u64, now: Timestamp) -> Self {
        Self {
            converged: condition.converged && condition.pending.is_empty(),
            pending: condition.pending_stacks(now),
            fetching: Vec::new(),
            reason: condition.reason,
            engine: condition.engine,
            warnings: condition
                .observed
                .iter()
                .flat_map(|observed| &observed.containers)
                .filter(|container| !container.warnings.is_empty())
                .map(|container| (container.name.clone(), container.warnings.clone()))
                .collect(),
            egress: BTreeMap::new(),
            contact,
            update: None,
            idle_round_us: (idle_round_us > 0).then_some(idle_round_us),
        }
    }
}

/// How it goes with the master.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// When the master last answered a poll or a report.
    pub last: Option<Timestamp>,
    /// Why the newest poll failed, if it did.
    pub error: Option<String>,
    /// How that poll went.
    #[serde(default)]
    pub poll: Poll,
    /// How far this host's clock is ahead of the master's, in seconds, as of the last report.
    pub clock_ahead_s: Option<i64>,
}

impl Status {
    pub(crate) fn read(
        identity: &Identity,
        master: String,
        ledger: &Ledger,
        running: Option<Running>,
    ) -> Result<Self, LedgerError> {
        Ok(Self {
            schema: 1,
            agent_version: crate::VERSION.to_owned(),
            fleet: identity.fleet,
            host: identity.host,
            name: identity.name.clone(),
            master,
            certificate_ends_at: Timestamp::new(identity.leaf.not_after()),
            host_key: identity.host_key(),
            trust_root_version: identity.root.version(),
            policy: PolicyStatus::read(ledger, identity.fleet, identity.host)?,
            accepted: ledger.accepted()?,
            operations: ledger.operations()?,
            incidents: ledger.incidents()?,
            troubles: ledger.troubles()?,
            waiting_events: ledger.outbox(1, 1)?.waiting,
            running,
        })
    }

    /// With what closed namespaces have counted, when an agent runs.
    #[must_use]
    pub(crate) fn with_egress(mut self, egress: BTreeMap<String, EgressCounters>) -> Self {
        if let Some(running) = &mut self.running {
            running.egress = egress;
        }
        self
    }

    /// The status for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{name:<12} {value}");
        };
        line("host", format!("{} ({})", self.name, self.host));
        line("fleet", self.fleet.to_string());
        line("certificate", format!("until {}", self.certificate_ends_at));
        line("key", self.host_key.to_string());
        if let Some(policy) = &self.policy {
            line("policy", policy.to_text());
        }
        match &self.accepted {
            Some(accepted) => line(
                "accepted",
                format!("generation {} at {}", accepted.generation, accepted.accepted_at),
            ),
            None => line("accepted", "nothing yet".to_owned()),
        }
        match &self.running {
            None => {
                line("agent", "not running".to_owned());
                line("master", self.master.clone());
                for (stack, trouble) in &self.troubles {
                    let state = if trouble.quarantined {
                        quarantine_text(stack)
                    } else {
                        "tried again once the agent runs".to_owned()
                    };
                    line(
                        "not done",
                        pending_text(stack, &trouble.reason, trouble.tries, &state),
                    );
                }
            }
            Some(running) => {
                line("agent", format!("running, version {}", self.agent_version));
                let contact = match (&running.contact.error, &running.contact.last) {
                    (Some(error), _) => format!("not reached: {error}"),
                    (None, Some(last)) => format!("answered at {last}"),
                    (None, None) => "not asked yet".to_owned(),
                };
                line("master", format!("{} ({contact})", self.master));
                line(
                    "engine",
                    running
                        .engine
                        .clone()
                        .unwrap_or_else(|| "does not answer".to_owned()),
                );
                let converged = match (&running.converged, &running.reason) {
                    (true, _) => "yes".to_owned(),
                    (false, Some(reason)) => format!("no: {reason}"),
                    (false, None) => "no".to_owned(),
                };
                line("converged", converged);
                if let Some(progress) = &running.update {
                    line("update", progress_text(progress));
                }
                for pending in &running.pending {
                    let state = match (pending.quarantined, pending.next_try_at) {
                        (true, _) => quarantine_text(&pending.stack),
                        (false, Some(at)) => format!("the next try at {at}"),
                        (false, None) => "at work".to_owned(),
                    };
                    line(
                        "not done",
                        pending_text(&pending.stack, &pending.reason, pending.tries, &state),
                    );
                }
                for fetching in &running.fetching {
                    line("fetching", fetching.to_text());
                }
                let total = |of: fn(&EgressCounters) -> u64| running.egress.values().map(of).sum::<u64>();
                if !running.egress.is_empty() {
                    let (dropped, allowed) =
                        (total(EgressCounters::dropped), total(|counters| counters.allowed));
                    line(
                        "egress",
                        format!(
                            "{} namespaces closed, {dropped} packets dropped, {allowed} allowed",
                            running.egress.len()
                        ),
                    );
                }
                for (container, counters) in &running.egress {
                    if counters.dropped() > 0 {
                        line("dropped", format!("{container}: {}", dropped_text(counters)));
                    }
                }
                for (container, warnings) in &running.warnings {
                    for warning in warnings {
                        line("warning", format!("{container}: {warning}"));
                    }
                }
            }
        }
        for (stack, incident) in &self.incidents {
            if incident.cause == IncidentCause::Drift {
                line("drift", format!("{stack}: since {}", incident.since));
            }
        }
        line("unreported", format!("{} events", self.waiting_events));
        for record in self.operations.values() {
            let mut value = format!(
                "{} {}: {}",
                record.kind.as_str(),
                record.decky,
                record.state.as_str()
            );
            if let Some(error) = &record.error {
                let _ = write!(value, " ({error})");
            }
            line("operation", value);
        }
        text
    }
}

fn pending_text(stack: &StackName, reason: &str, tries: u32, state: &str) -> String {
    let tries = match tries {
        0 => String::new(),
        1 => "1 try failed, ".to_owned(),
        tries => format!("{tries} tries failed, "),
    };
    format!("{stack}: {reason} ({tries}{state})")
}

fn quarantine_text(stack: &StackName) -> String {
    format!("quarantined until something else is asked of it, or `decnet-agent retry {stack}`")
}

/// What `decnet-agent retry` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {
    pub schema: u32,
    /// The stacks that are tried again.
    pub stacks: Vec<StackName>,
}

impl Retried {
    pub(crate) fn new(stacks: impl IntoIterator<Item = StackName>) -> Self {
        Self {
            schema: 1,
            stacks: stacks.into_iter().collect(),
        }
    }

    /// For people.
    #[must_use]
    pub fn to_text(&self) -> String {
        if self.stacks.is_empty() {
            return "everything is as it was asked for\n".to_owned();
        }
        self.stacks
            .iter()
            .map(|stack| format!("{stack}: tried again\n"))
            .collect()
    }
}

fn dropped_text(counters: &EgressCounters) -> String {
    [
        ("TCP", counters.dropped_tcp),
        ("UDP", counters.dropped_udp),
        ("ICMP", counters.dropped_icmp),
        ("DNS", counters.dropped_dns),
        ("other", counters.dropped_other),
    ]
    .iter()
    .filter(|(_, count)| *count > 0)
    .map(|(name, count)| format!("{count} {name}"))
    .collect::<Vec<_>>()
    .join(", ")
}

/// What `decnet-agent plan` shows: what the agent would do now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preview {
    pub schema: u32,
    /// The generation that it is for; none when no bundle was accepted yet.
    pub generation: Option<u64>,
    pub plan: Plan,
    /// The steps for people, in the plan's order.
    pub steps: Vec<String>,
    /// Stacks that are not there yet, with the reason.
    pub pending: BTreeMap<StackName, String>,
}

/// A preview that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    #[error("the ledger cannot be read")]
    Ledger(#[source] LedgerError),
    #[error("the Docker Engine cannot be looked at")]
    Observe(#[source] EngineError),
    #[error("the accepted bundle cannot be used: {0}")]
    Bundle(String),
}

impl Preview {
    /// Looks at the ledger and the engine, and changes neither.
    pub(crate) async fn make(host: HostId, ledger: &Ledger, socket: &Path) -> Result<Self, PreviewError> {
        let stored = ledger
            .accepted()
            .and_then(|accepted| Ok((accepted, ledger.envelope()?)));
        let (Some(accepted), Some(envelope)) = stored.map_err(PreviewError::Ledger)? else {
            return Ok(Self {
                schema: 1,
                generation: None,
                plan: Plan::default(),
                steps: Vec::new(),
                pending: BTreeMap::new(),
            });
        };
        let rules = of_bundle(ledger).map_err(PreviewError::Ledger)?;
        let admitted = admit::restore(host, &accepted.digest, &envelope, rules)
            .map_err(|refusal| PreviewError::Bundle(refusal.detail))?;
        let quarantined = quarantined(&ledger.troubles().map_err(PreviewError::Ledger)?);
        let last_good = ledger.last_good().map_err(PreviewError::Ledger)?;
        let mut effective =
            effective(host, admitted.bundle(), &quarantined, &last_good).map_err(|errors| {
                PreviewError::Bundle(errors.first().map(ToString::to_string).unwrap_or_default())
            })?;
        let leases = ledger.leases().map_err(PreviewError::Ledger)?;
        effective.desired = effective.desired.with_leases(&leases);
        let engine = Engine::connect(socket).await.map_err(PreviewError::Observe)?;
        let observed = engine.observe(host).await.map_err(PreviewError::Observe)?;
        let plan = plan(&effective.desired, &observed, admitted.policy());
        let pending = stack_states(&effective.desired, &observed)
            .into_iter()
            .filter_map(|(name, state)| match state {
                StackState::Settled => None,
                StackState::Pending { reason } => Some((name, reason)),
            })
            .collect();
        Ok(Self {
            schema: 1,
            generation: Some(accepted.generation),
            steps: plan.steps.iter().map(|planned| describe(&planned.step)).collect(),
            plan,
            pending,
        })
    }

    /// The preview for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Some(generation) = self.generation else {
            return "no bundle was accepted yet\n".to_owned();
        };
        let mut text = String::new();
        if self.plan.is_settled() {
            let _ = writeln!(text, "generation {generation}: nothing to do");
        } else {
            let _ = writeln!(text, "generation {generation}: {} steps", self.steps.len());
        }
        for (number, step) in self.steps.iter().enumerate() {
            let _ = writeln!(text, "{:>4}  {step}", number + 1);
        }
        for blocked in &self.plan.blocked {
            match &blocked.stack {
                Some(stack) => {
                    let _ = writeln!(text, "blocked: {stack}: {}", blocked.reason);
                }
                None => {
                    let _ = writeln!(text, "blocked: {}", blocked.reason);
                }
            }
        }
        text
    }
}

/// The journal for people, oldest first.
#[must_use]
pub fn journal_text(entries: &[JournalEntry]) -> String {
    let mut text = String::new();
    for entry in entries.iter().rev() {
        let outcome = match &entry.outcome {
            None => "unfinished".to_owned(),
            Some(outcome) => match &outcome.error {
                None => "ok".to_owned(),
                Some(error) => format!("FAILED: {error}"),
            },
        };
        let _ = writeln!(
            text,
            "{}  round {:<5} {}  {outcome}",
            entry.begun_at, entry.round, entry.text
        );
    }
    text
}
