//! The documents of the operator API. The server writes them, the CLI reads them; unknown fields are ignored, so
//! that a CLI of yesterday reads the answers of a master of today.

mod audit;
mod departures;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use decnet_plan::policy::Rule;
use decnet_plan::step::{Blocked, Step};
use decnet_wire::bundle::{NetworkMode, OperationKind};
use decnet_wire::ids::{
    DeckyName, Digest, FleetId, HostId, HostName, InterfaceName, MacAddress, OperationId, StackName,
    Timestamp,
};
use decnet_wire::policy::Rules;
use decnet_wire::release::{Package, Progress, ProgressState, Version};
use decnet_wire::report::{Outcome, PendingStack};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use audit::{AuditEntryView, AuditHeadView, AuditView};
pub use departures::{DecommissionBody, DecommissionView, DepartureView, TeardownBody, TeardownView};

use crate::control::hosts::{DeckyState, DeckyView as Decky, HostState, HostView as Host};
use crate::fleet::catalogue::Catalogue;
use crate::fleet::model::Interval;
use crate::fleet::view::redacted;
use crate::records::{Cause, Role, RolloutState, Row, RowStatus};
use crate::serve::packages::Package as ServedPackage;

/// Body of a deploy and of a plan.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DeployBody {
    /// The fleet description, at most 524,288 characters.
    #[schema(
        example = "[general]\nnet = 192.168.1.0/24\ngw = 192.168.1.1\n\n[web]\narchetype = web-server\namount = 3\n"
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ini_content: Option<String>,
    /// In the place of `ini_content`: so many deckies, with such services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generate: Option<GenerateBody>,
    /// The description is the whole fleet; otherwise it is added to what is there.
    #[serde(default)]
    #[schema(default = false)]
    pub replace_fleet: bool,
}

/// Deckies `decky-01`, `decky-02` and so on. One of `services`, `archetype` and `randomize_services` must be there;
/// the first that is decides the services.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct GenerateBody {
    /// How many, 1 to 500.
    #[schema(minimum = 1, maximum = 500)]
    pub deckies: u16,
    /// The services of every decky.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
    /// The kind of machine of every decky.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archetype: Option<String>,
    /// One to three services at random for each decky.
    #[serde(default)]
    pub randomize_services: bool,
    /// They get the free addresses from here on; without it, the lowest free ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "ipv4")]
    pub ip_start: Option<Ipv4Addr>,
    /// Taken in turns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub distros: Vec<String>,
    /// A distro at random for each decky, where `distros` names none.
    #[serde(default)]
    pub randomize_distros: bool,
    /// Minutes between changes of services, 30 where left out. Also the fleet's when these deckies are all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 5_256_000)]
    pub mutate_interval: Option<u32>,
}

/// An accepted deploy. The work follows; the rows tell how it goes.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DeployedView {
    pub message: String,
    /// `unihost` or `swarm`.
    pub mode: String,
    /// One row for each operation.
    #[schema(value_type = Vec<String>)]
    pub lifecycle_ids: Vec<OperationId>,
    pub warnings: Vec<String>,
}

/// What a deploy would do.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PlanView {
    /// `unihost` or `swarm`.
    pub mode: String,
    /// The hosts that would change.
    pub hosts: Vec<HostPlanView>,
    pub warnings: Vec<String>,
}

/// What one host would do.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HostPlanView {
    #[schema(value_type = String, format = "uuid")]
    pub host_uuid: HostId,
    #[schema(value_type = String)]
    pub host_name: HostName,
    /// False when the host has not yet said what it runs: the plan then assumes that it runs nothing.
    pub observed: bool,
    pub steps: Vec<StepView>,
    pub blocked: Vec<BlockedView>,
}

/// One call to a host's engine.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct StepView {
    /// In words.
    pub describe: String,
    /// The stack that it is for; null for images and networks, which stacks share.
    #[schema(value_type = Option<String>)]
    pub stack: Option<StackName>,
    /// The step whole, as the host's agent would take it.
    #[schema(value_type = Object)]
    pub step: Step,
}

/// What a host cannot do now.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct BlockedView {
    /// Null when it concerns something that stacks share.
    #[schema(value_type = Option<String>)]
    pub stack: Option<StackName>,
    pub reason: String,
}

impl From<Blocked> for BlockedView {
    fn from(blocked: Blocked) -> Self {
        Self {
            stack: blocked.stack,
            reason: blocked.reason,
        }
    }
}

/// A decky as the operator wants it, and what its host last saw of it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DeckyView {
    #[schema(value_type = String)]
    pub name: DeckyName,
    /// `pending`, `running`, `degraded`, `failed` or `tearing_down`.
    #[schema(value_type = String)]
    pub state: DeckyState,
    #[schema(value_type = String, format = "ipv4")]
    pub ip: Ipv4Addr,
    #[schema(value_type = String)]
    pub mac: MacAddress,
    #[schema(value_type = String, format = "uuid")]
    pub host_uuid: HostId,
    #[schema(value_type = Option<String>)]
    pub host_name: Option<HostName>,
    pub hostname: String,
    pub distro: String,
    pub archetype: Option<String>,
    pub os_family: String,
    pub services: Vec<String>,
    /// What the operator set, by service. Secret values are masked for everybody.
    #[schema(value_type = Object)]
    pub service_config: BTreeMap<String, serde_json::Value>,
    /// What it may call, as in `tcp/192.0.2.1:80`; it may always answer.
    pub egress: Vec<String>,
    /// `inherit` (as the fleet), `disabled`, or minutes as in `30m`.
    #[schema(example = "inherit")]
    pub mutate_interval: String,
    #[schema(value_type = String, format = "date-time")]
    pub last_mutated: Timestamp,
    /// When its host last reported what it sees.
    #[schema(value_type = Option<String>, format = "date-time")]
    pub seen_at: Option<Timestamp>,
    /// The row of its newest operation.
    pub lifecycle: Option<RowView>,
    /// Why its host has not brought it to what was asked; null when it has, or has not said.
    #[serde(default)]
    pub pending: Option<PendingView>,
}

/// Why a decky is not as it was asked for, in the words of its host.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PendingView {
    #[schema(value_type = String)]
    pub decky_name: DeckyName,
    /// What is wrong, or what the last try failed with: one line.
    pub reason: String,
    /// Tries that failed.
    pub tries: u32,
    /// When it is tried again; null when that is now, or not by itself.
    #[schema(value_type = Option<String>, format = "date-time")]
    pub next_try_at: Option<Timestamp>,
    /// It was given up, and what ran before runs again: it is tried again when something else is asked of it, or by
    /// `decnet-agent retry` on its host.
    pub quarantined: bool,
}

impl From<PendingStack> for PendingView {
    fn from(pending: PendingStack) -> Self {
        Self {
            decky_name: pending.decky,
            reason: pending.reason,
            tries: pending.tries,
            next_try_at: pending.next_try_at,
            quarantined: pending.quarantined,
        }
    }
}

impl PendingView {
    /// One line for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let tries = match self.tries {
            0 => String::new(),
            1 => "1 try failed, ".to_owned(),
            tries => format!("{tries} tries failed, "),
        };
        let state = match (self.quarantined, self.next_try_at) {
            (true, _) => "quarantined".to_owned(),
            (false, Some(at)) => format!("the next one at {at}"),
            (false, None) => "at work".to_owned(),
        };
        format!("{} ({tries}{state})", self.reason)
    }
}

impl DeckyView {
    /// The decky without the values of settings that the catalogue calls secret.
    pub(super) fn new(view: Decky, catalogue: &Catalogue) -> Self {
        let Decky {
            record,
            host,
            state,
            row,
            seen_at,
            pending,
        } = view;
        let decky = record.decky;
        let config = decky.service_config.iter().map(|(service, persona)| {
            let shown = redacted(service, persona, catalogue).into_iter().collect();
            (service.to_string(), serde_json::Value::Object(shown))
        });
        Self {
            state,
            ip: decky.address,
            mac: decky.mac,
            host_uuid: decky.host,
            host_name: host,
            hostname: decky.hostname.to_string(),
            distro: decky.distro.to_string(),
            archetype: decky.archetype.map(|slug| slug.to_string()),
            os_family: decky.os_family.to_string(),
            services: decky.services.iter().map(ToString::to_string).collect(),
            service_config: config.collect(),
            egress: decky.egress.iter().map(ToString::to_string).collect(),
            mutate_interval: interval_text(decky.interval),
            last_mutated: decky.last_mutated,
            seen_at,
            lifecycle: row.map(RowView::from),
            pending: pending.map(PendingView::from),
            name: decky.name,
        }
    }
}

/// How an interval is written: `inherit`, `disabled`, or minutes as in `30m`.
pub(super) fn interval_text(interval: Interval) -> String {
    match interval {
        Interval::Inherit => "inherit".to_owned(),
        Interval::Disabled => "disabled".to_owned(),
        Interval::Minutes(minutes) => format!("{}m", minutes.get()),
    }
}

/// One operation's life: `pending → running → succeeded | failed | superseded`. The last three never change.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RowView {
    #[schema(value_type = String, format = "uuid")]
    pub id: OperationId,
    #[schema(value_type = String)]
    pub decky_name: DeckyName,
    #[schema(value_type = Option<String>, format = "uuid")]
    pub host_uuid: Option<HostId>,
    /// `deploy`, `mutate` or `teardown`.
    #[schema(value_type = String)]
    pub operation: OperationKind,
    /// `pending`, `running`, `succeeded`, `failed` or `superseded`.
    #[schema(value_type = String)]
    pub status: RowStatus,
    /// Why it failed, or by what it was superseded: one line.
    pub error: Option<String>,
    #[schema(value_type = String, format = "date-time")]
    pub started_at: Timestamp,
    #[schema(value_type = String, format = "date-time")]
    pub updated_at: Timestamp,
    #[schema(value_type = Option<String>, format = "date-time")]
    pub completed_at: Option<Timestamp>,
    /// Of what kind the failure was: `reported-by-host`, `host-unreachable`, `host-gone`, `agent-restarted`,
    /// `refused-by-policy`, `refused`, `engine-down`, `quarantined`, `waiting-for-other-host` or `deadline`.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    pub cause: Option<Cause>,
    /// How it came so far, the first transition first. Rows of an older master have none.
    #[serde(default)]
    pub transitions: Vec<TransitionView>,
    /// What the host said after the row had ended otherwise, as in `succeeded` once the cause of a failure had passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<String>,
    #[schema(value_type = Option<String>, format = "date-time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_at: Option<Timestamp>,
}

/// One transition of an operation.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TransitionView {
    #[schema(value_type = String)]
    pub status: RowStatus,
    /// By the master's clock.
    #[schema(value_type = String, format = "date-time")]
    pub at: Timestamp,
    /// Who asked for it or said it: an operator's token, a user of the master's machine, `host NAME`, or `master` for
    /// what the master found itself.
    pub by: String,
    /// Why, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The newer operation that superseded it.
    #[schema(value_type = Option<String>, format = "uuid")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<OperationId>,
}

impl From<Row> for RowView {
    fn from(row: Row) -> Self {
        let late = row.late.map(|late| match late {
            Outcome::Running => "running".to_owned(),
            Outcome::Succeeded => "succeeded".to_owned(),
            Outcome::Failed { error } => format!("failed: {error}"),
        });
        let error = row.error.clone();
        let transitions = row.transitions.into_iter().map(|transition| TransitionView {
            reason: error.clone().filter(|_| transition.status.is_terminal()),
            status: transition.status,
            at: transition.at,
            by: transition.by.to_string(),
            superseded_by: transition.superseded_by,
        });
        Self {
            late,
            late_at: row.late_at,
            cause: row.cause,
            transitions: transitions.collect(),
            id: row.id,
            decky_name: row.decky,
            host_uuid: row.host,
            operation: row.operation,
            status: row.status,
            error: row.error,
            started_at: row.started_at,
            updated_at: row.updated_at,
            completed_at: row.completed_at,
        }
    }
}

/// Rows, in the order in which they were started.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RowsView {
    pub rows: Vec<RowView>,
}

/// Body of a purge.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PurgeBody {
    /// Those that ended longer ago, in days: 0 to 36,500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_than_days: Option<u64>,
    /// Those beyond so many, the oldest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<u64>,
    /// Only say what would be removed.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a purge removed, or would remove.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PurgedView {
    pub rows: u64,
    /// How many of each status.
    pub by_status: BTreeMap<String, u64>,
    /// When the oldest of them was started.
    #[schema(value_type = Option<String>, format = "date-time")]
    pub oldest: Option<Timestamp>,
    /// When the newest of them was started.
    #[schema(value_type = Option<String>, format = "date-time")]
    pub newest: Option<Timestamp>,
    /// How many rows are left, or would be.
    pub left: u64,
    pub dry_run: bool,
}

/// Operations that were begun.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct BegunView {
    #[schema(value_type = Vec<String>)]
    pub lifecycle_ids: Vec<OperationId>,
}

/// Body of a change of a decky's interval.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct IntervalBody {
    /// A number and a unit (`m` minutes, `d` days, `M` months of 30 days, `y` years of 365 days); `disabled` or
    /// null: never; `inherit`: as the fleet.
    #[schema(
        required,
        example = "12d",
        pattern = "^([1-9][0-9]*[mdMyY]|disabled|inherit)$"
    )]
    pub mutate_interval: Option<String>,
}

/// What was done, in words.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct MessageView {
    pub message: String,
}

/// An enrolled or invited worker.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HostView {
    #[schema(value_type = String, format = "uuid")]
    pub uuid: HostId,
    #[schema(value_type = String)]
    pub name: HostName,
    /// `invited`, `waiting` (for approval), `enrolled`, `active`, `unreachable`, `revoked` or
    /// `decommissioning`.
    #[schema(value_type = String)]
    pub status: HostState,
    /// The worker inside the master's own process.
    pub embedded: bool,
    /// From where it was last heard.
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    #[schema(value_type = Option<String>, format = "date-time")]
    pub last_heartbeat: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = "date-time")]
    pub enrolled_at: Option<Timestamp>,
    pub agent_version: Option<String>,
    /// The version of its Docker Engine; null while that does not answer.
    pub engine: Option<String>,
    /// The newest generation that was decided for it.
    pub generation: u64,
    /// The generation that its agent accepted last.
    pub accepted_generation: Option<u64>,
    /// Everything is as the accepted generation asks.
    pub converged: bool,
    /// Why it is not done, or why it refused its bundle.
    pub reason: Option<String>,
    /// The deckies that are not as they were asked for, the quarantined ones first.
    #[serde(default)]
    pub pending: Vec<PendingView>,
    /// How often one of its deckies left what was asked by itself and was brought back.
    #[serde(default)]
    pub drifts: u64,
    /// The newest of those: which decky, and what was seen.
    #[serde(default)]
    pub last_drift: Option<String>,
    /// SHA-256 of its certificate, as `sha256:…`.
    pub client_cert_fingerprint: Option<String>,
    /// When its certificate ends. It is renewed long before.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = "date-time")]
    pub certificate_ends_at: Option<Timestamp>,
    /// The fingerprint of the key that waits for approval: SHA-256 of its SubjectPublicKeyInfo.
    #[serde(default)]
    pub waiting_key: Option<String>,
    pub use_ipvlan: bool,
    /// The driver's mode; null is its usual one, `bridge` of macvlan and `l2` of ipvlan.
    #[schema(value_type = Option<String>)]
    pub mode: Option<NetworkMode>,
    #[schema(value_type = Option<String>)]
    pub interface: Option<InterfaceName>,
    /// Its own LAN, where it differs from the fleet's.
    #[schema(value_type = Option<String>)]
    pub subnet: Option<Ipv4Net>,
    #[schema(value_type = Option<String>, format = "ipv4")]
    pub gateway: Option<Ipv4Addr>,
    /// How many deckies are assigned to it.
    pub deckies: usize,
    pub notes: Option<String>,
    /// What became of the newest release of the agent that it was told of.
    #[serde(default)]
    pub update: Option<UpdateView>,
}

impl From<Host> for HostView {
    fn from(view: Host) -> Self {
        let Host {
            host,
            status,
            state,
            deckies,
        } = view;
        Self {
            uuid: host.id,
            name: host.name,
            status: state,
            embedded: host.embedded,
            address: status.address,
            last_heartbeat: status.last_heartbeat,
            enrolled_at: host.enrolled_at,
            agent_version: status.agent_version,
            engine: status.engine,
            generation: host.generation,
            accepted_generation: status.accepted.map(|accepted| accepted.generation),
            converged: status.converged && status.pending.is_empty(),
            pending: status.pending.into_iter().map(PendingView::from).collect(),
            reason: status.reason.or(status.refusal),
            drifts: status.drifts,
            last_drift: status.last_drift.map(|(at, what)| format!("{at} {what}")),
            client_cert_fingerprint: host.certificate.map(|digest| digest.to_string()),
            certificate_ends_at: host.certificate_ends_at,
            waiting_key: host.awaiting.map(|digest| digest.to_string()),
            use_ipvlan: host.ipvlan,
            mode: host.mode,
            interface: host.interface,
            subnet: host.lan.as_ref().map(|lan| lan.subnet),
            gateway: host.lan.as_ref().and_then(|lan| lan.gateway),
            deckies,
            notes: host.notes,
            update: status.update.map(UpdateView::from),
        }
    }
}

/// Body of an enrolment.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct EnrollBody {
    #[schema(example = "edge-01")]
    pub name: String,
    /// ipvlan in place of macvlan, for NICs and switches that take one MAC only.
    #[serde(default)]
    #[schema(default = false)]
    pub ipvlan: bool,
    /// `bridge`, `private`, `vepa` or `passthru` of macvlan, `l2`, `l3` or `l3s` of ipvlan; the first where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// The interface for deckies, where it differs from the fleet's. `eth1.30` is VLAN 30 of `eth1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "eth1")]
    pub interface: Option<String>,
    /// The host's own LAN, with `gateway`, where it differs from the fleet's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "10.20.0.0/24")]
    pub subnet: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "10.20.0.1")]
    pub gateway: Option<String>,
    /// How long the token lives, in seconds, 1 to 3600; with `carried` 1 to 604800, and 86400 where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(default = 300, minimum = 1, maximum = 604_800)]
    pub ttl_seconds: Option<u64>,
    /// The token is carried to a host that does not reach the master yet: the answer has `file` in place of `line`.
    #[serde(default)]
    #[schema(default = false)]
    pub carried: bool,
    /// What `line` and `file` set: the host installs releases of the agent by itself.
    #[serde(default)]
    #[schema(default = false)]
    pub updater: bool,
    /// The host gets its certificate once an operator has compared its fingerprint.
    #[serde(default)]
    #[schema(default = false)]
    pub approve: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
}

/// The fingerprint that an operator has read on the host.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ApproveBody {
    #[schema(example = "sha256:0f3c…")]
    pub fingerprint: String,
}

/// How a host's deckies are attached to its LAN, whole: what is left out is as if it had never been set.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct NetworkBody {
    /// ipvlan in place of macvlan, for NICs and switches that take one MAC only.
    #[serde(default)]
    #[schema(default = false)]
    pub ipvlan: bool,
    /// `bridge`, `private`, `vepa` or `passthru` of macvlan, `l2`, `l3` or `l3s` of ipvlan; the first where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// The interface for deckies, where it differs from the fleet's. `eth1.30` is VLAN 30 of `eth1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "eth1.30")]
    pub interface: Option<String>,
}

/// The token for a host. It is shown once.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct EnrollView {
    #[schema(value_type = String, format = "uuid")]
    pub host_uuid: HostId,
    pub token: String,
    /// What to run on a host that has the package, in one line.
    pub command: String,
    /// What to run on a host that has not: it installs the package from this master, and enrols. Absent where the master has
    /// no packages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
    /// What the file to be carried is made of. Absent where the master has no packages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileView>,
    #[schema(value_type = String, format = "date-time")]
    pub expires_at: Timestamp,
}

/// A file that installs the agent on a host and enrols it: the script, then the bytes of the packages in this order.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct FileView {
    /// It holds the token.
    pub script: String,
    pub packages: Vec<PackageView>,
}

// Not the token.
impl fmt::Debug for FileView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileView")
            .field("packages", &self.packages)
            .finish_non_exhaustive()
    }
}

/// A package of the agent.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PackageView {
    /// As `/swarm/packages/{digest}` wants it.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

impl From<&ServedPackage> for PackageView {
    fn from(package: &ServedPackage) -> Self {
        Self {
            digest: package.digest.clone(),
            size: package.size,
        }
    }
}

// Not the token: what is written to a log stays there.
impl fmt::Debug for EnrollView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrollView")
            .field("host_uuid", &self.host_uuid)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// A service that deckies can show.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ServiceView {
    /// As it is written in `services = `.
    pub name: String,
    pub title: String,
    pub description: String,
    /// What it listens on, as `22/tcp`.
    pub ports: Vec<String>,
    /// What `[decky.service]` sections may set.
    pub settings: Vec<SettingView>,
}

/// One setting of a service.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SettingView {
    pub key: String,
    pub label: String,
    /// `string`, `password`, `int`, `bool`, `enum`, `multi_enum` or `textarea`.
    pub kind: String,
    /// What the service shows where nobody sets it; null: made for each decky.
    pub default: Option<serde_json::Value>,
    /// The values of an `enum` or `multi_enum`.
    pub allowed: Vec<String>,
    /// Its value is masked wherever it would be shown.
    pub secret: bool,
    pub help: String,
}

/// A named kind of machine.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ArchetypeView {
    /// As it is written in `archetype = `.
    pub name: String,
    pub title: String,
    pub description: String,
    pub services: Vec<String>,
    pub distros: Vec<String>,
    pub os_family: String,
}

/// A distribution that a decky can claim to run.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DistroView {
    pub name: String,
    pub title: String,
    /// The built-in distribution that its decoys dress as.
    pub like: String,
}

/// The services of the catalogue.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ServicesView {
    pub services: Vec<ServiceView>,
}

/// The archetypes of the catalogue.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ArchetypesView {
    pub archetypes: Vec<ArchetypeView>,
}

/// The distributions of the catalogue.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DistrosView {
    pub distros: Vec<DistroView>,
}

/// Where deckies run.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ModeView {
    /// `unihost` or `swarm`.
    pub mode: String,
    /// Always `master`.
    pub role: String,
    /// Enrolled hosts, without the worker inside the master.
    pub swarm_host_count: usize,
}

/// The fleet's settings.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ConfigView {
    /// The caller's role.
    #[schema(value_type = String)]
    pub role: Role,
    pub deployment_limit: usize,
    #[schema(example = "30m")]
    pub global_mutation_interval: String,
}

/// Body of a change of the deployment limit.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct LimitBody {
    #[schema(minimum = 1, maximum = 500)]
    pub deployment_limit: u64,
}

/// The master's health.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HealthView {
    /// `healthy`; `degraded`: it works, something needs a look; `unhealthy`: deploys will not work.
    pub status: String,
    pub components: BTreeMap<String, ComponentView>,
}

/// The health of one part.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ComponentView {
    /// `ok`, `degraded` or `failed`.
    pub status: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Body of a new operator token.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenBody {
    /// For whom or what it is: 1 to 64 characters.
    pub name: String,
    /// `viewer` or `admin`.
    pub role: String,
    /// How long it lives, in seconds; until it is revoked where this is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
}

/// The operators' tokens.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TokensView {
    pub tokens: Vec<TokenInfo>,
}

/// What is known of a token; the token itself is not.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenInfo {
    pub name: String,
    #[schema(value_type = String)]
    pub role: Role,
    /// RFC 3339, as all of these.
    pub created_at: String,
    pub expires_at: Option<String>,
    /// To the minute; null before it was ever used.
    pub last_used: Option<String>,
}

/// A name.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct NameBody {
    pub name: String,
}

/// A new operator token. It is shown once.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    pub name: String,
    #[schema(value_type = String)]
    pub role: Role,
    pub token: String,
}

// Not the token: what is written to a log stays there.
impl fmt::Debug for TokenView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenView")
            .field("name", &self.name)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// The trust root that counts.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TrustView {
    /// Strictly increasing.
    pub version: u64,
    /// Bundles of another epoch are refused.
    pub epoch: u64,
    /// The least version of the policy that a host must hold to take any bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<u64>,
    /// How many of the operators must sign the next one.
    pub threshold: u32,
    /// The operators' Ed25519 keys, in hex.
    pub operator_keys: Vec<String>,
    /// Whether an operator's private key lies beside the master's own.
    pub operator_key_here: bool,
    /// The master's Ed25519 key, in hex: it signs bundles.
    pub online_key: String,
    /// When its signatures stop to count (RFC 3339).
    pub online_key_expires_at: String,
    pub authorities: Vec<AuthorityView>,
}

/// A CA certificate that may stand behind the master's listeners.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AuthorityView {
    /// SHA-256 of the certificate (DER).
    pub pin: String,
    /// RFC 3339.
    pub expires_at: String,
    /// How many hosts have their newest certificate of it.
    pub hosts: usize,
}

/// What is to be different in the next trust root.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DraftBody {
    /// A new online key.
    #[serde(default)]
    pub online: bool,
    /// A new CA, which issues hosts' certificates; those of before are still believed.
    #[serde(default)]
    pub authority: bool,
    /// No CA but the newest is believed any more.
    #[serde(default)]
    pub retire: bool,
    /// Hosts take no bundle before they hold the newest policy that names every host.
    #[serde(default)]
    pub policy: bool,
    /// A new epoch: every bundle of before is refused.
    #[serde(default)]
    pub epoch: bool,
    /// All operators' Ed25519 keys in hex, with commas between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_keys: Option<String>,
    /// How many of them must sign; 1 where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<u32>,
}

/// What went wrong.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ErrorView {
    /// One line: what, on what, why, what to do.
    pub detail: String,
    /// Every reason why a fleet description is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FleetErrorView>,
    /// Stands in the master's log as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_id: Option<String>,
}

/// One reason why a fleet description is refused.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct FleetErrorView {
    /// Its class, such as `address` or `limit`.
    pub class: String,
    pub message: String,
}

/// The policies that the operators have signed.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PoliciesView {
    #[schema(value_type = String)]
    pub fleet: FleetId,
    /// The version of the newest; 0 while there is none, and the built-in policy holds.
    pub newest: u64,
    /// The least version that the trust root asks every host to hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<u64>,
    /// Those that count for a host, or for hosts to come, newest first.
    pub policies: Vec<PolicyView>,
    /// Hosts for which the built-in policy holds.
    #[schema(value_type = Vec<String>)]
    pub built_in: Vec<HostName>,
}

/// One of them.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PolicyView {
    pub version: u64,
    #[schema(value_type = String)]
    pub issued_at: Timestamp,
    #[schema(value_type = String)]
    pub expires_at: Timestamp,
    /// No host takes a new bundle under it any more.
    pub expired: bool,
    /// Whether it names every host.
    pub every_host: bool,
    /// The hosts that it is the newest one of.
    #[schema(value_type = Vec<String>)]
    pub hosts: Vec<HostName>,
    /// The operators of the present trust root signed it: hosts that do not hold it yet take it.
    pub present_operators: bool,
    /// As they are signed.
    #[schema(value_type = Object)]
    pub rules: Rules,
}

/// What a policy makes of the present fleet.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PolicyCheckView {
    /// The hosts that it is for.
    pub hosts: usize,
    /// Their deckies.
    pub deckies: usize,
    pub forbidden: Vec<ForbiddenView>,
}

/// One thing that the present fleet asks for and a policy forbids.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ForbiddenView {
    #[schema(value_type = String)]
    pub host: HostName,
    /// Left out when it is about a network, or the host as a whole.
    #[schema(value_type = String)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decky: Option<DeckyName>,
    /// The service, or the network; empty for the host as a whole.
    pub service: String,
    pub attribute: String,
    /// What the policy says, and what was asked for.
    pub reason: String,
    /// The path of the key that forbids it; `always` and `built-in` are none.
    #[schema(value_type = String)]
    pub rule: Rule,
}

/// A release on a host.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UpdateView {
    pub sequence: u64,
    #[schema(value_type = String)]
    pub version: Version,
    /// `off`, `waiting`, `fetching`, `installing`, `kept`, `restored` or `refused`.
    #[schema(value_type = String)]
    pub state: ProgressState,
    /// Why.
    pub detail: Option<String>,
}

impl From<Progress> for UpdateView {
    fn from(progress: Progress) -> Self {
        Self {
            sequence: progress.sequence,
            version: progress.version,
            state: progress.state,
            detail: progress.detail,
        }
    }
}

/// The releases, the newest first, and the newest rollout.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ReleasesView {
    #[schema(value_type = String, format = "uuid")]
    pub fleet: FleetId,
    /// The highest sequence; 0 before the first. The next release has a higher one.
    pub newest: u64,
    pub releases: Vec<ReleaseView>,
    pub rollout: Option<RolloutView>,
}

/// A signed release.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ReleaseView {
    pub sequence: u64,
    #[schema(value_type = String)]
    pub version: Version,
    /// It is lower than one before it, and that is meant.
    pub downgrade: bool,
    #[schema(value_type = String, format = "date-time")]
    pub issued_at: Timestamp,
    #[schema(value_type = String, format = "date-time")]
    pub taken_at: Timestamp,
    /// A host has installed it and found it good.
    pub proven: bool,
    /// Each with `format`, `architecture`, `digest` and `size`.
    #[schema(value_type = Vec<Object>)]
    pub packages: Vec<Package>,
}

/// How far a release is rolled out.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RolloutView {
    pub sequence: u64,
    #[schema(value_type = String)]
    pub version: Version,
    /// Hosts whose position is below it begin; 1000 is every host.
    pub per_mille: u16,
    /// `running`, `paused`, `aborted` or `done`.
    #[schema(value_type = String)]
    pub state: RolloutState,
    /// Why the master paused it by itself.
    pub reason: Option<String>,
    pub every_host: bool,
    #[schema(value_type = String, format = "date-time")]
    pub begun_at: Timestamp,
    /// How many hosts say that the release is no good.
    pub failures: usize,
    /// Those that are meant.
    pub hosts: Vec<RolloutHostView>,
}

/// A host of a rollout.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RolloutHostView {
    #[schema(value_type = String)]
    pub name: HostName,
    /// As in a host's `update`; null before it said anything.
    #[schema(value_type = Option<String>)]
    pub state: Option<ProgressState>,
    pub detail: Option<String>,
}

/// Body of a change of the rollout.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "action", rename_all = "lowercase", deny_unknown_fields)]
pub enum RolloutBody {
    /// Begin it, or take it further.
    Advance {
        sequence: u64,
        /// 0 to 1000.
        per_mille: u16,
        /// Without it every host.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<Vec<String>>)]
        hosts: Option<Vec<HostId>>,
    },
    /// No host begins any more, for now.
    Pause {},
    /// It goes on.
    Resume {},
    /// No host begins any more.
    Abort {},
}
