//! What an agent tells the master: events in sequence until acknowledged, the observed state as latest-wins, and
//! a heartbeat with every batch.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::bundle::OperationKind;
use crate::ids::{DeckyName, Digest, OperationId, StackName, Timestamp};
use crate::observed::Observed;
use crate::release::Progress;

/// The version of these documents.
pub const SCHEMA: u32 = 1;

/// Body of `POST /agent/v1/report`. The host is the one that the client certificate names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    pub schema: u32,
    pub heartbeat: Heartbeat,
    /// Present when it changed since the last acknowledged report, or when the master asked for a resync. Always
    /// seen after the heartbeat's generation was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<Arc<Observed>>,
    /// In ascending sequence, each resent until acknowledged.
    pub events: Vec<Event>,
}

/// The agent's condition at the moment of sending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    pub agent_version: String,
    /// The agent's clock.
    pub sent_at: Timestamp,
    /// The generation accepted last, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Accepted>,
    /// True once nothing is left to do for the accepted generation. Quarantined stacks are nothing to do.
    pub converged: bool,
    /// Why not, when it is not: one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The engine's version, or none while it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// The stacks that are not as the accepted generation asks, the quarantined ones first; at most
    /// [`crate::limits::PENDING`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<PendingStack>,
    /// What became of the newest release that this host was told of. Only hosts that were told of one send it: masters of
    /// the first versions know no such field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<Progress>,
}

/// A stack that is not as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PendingStack {
    pub stack: StackName,
    pub decky: DeckyName,
    /// One line: what is wrong, or what the last try failed with.
    pub reason: String,
    /// Tries that failed.
    pub tries: u32,
    /// When it is tried again; none when that is now, or not before something else is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try_at: Option<Timestamp>,
    /// It was given up: it is tried again when something else is asked of it, or when somebody says so on the host.
    pub quarantined: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    pub epoch: u64,
    pub generation: u64,
    /// SHA-256 of the bundle's payload.
    pub digest: Digest,
}

/// One thing that happened, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Strictly increasing for this agent; never reused, not even after a restart.
    pub seq: u64,
    pub at: Timestamp,
    pub body: EventBody,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum EventBody {
    /// An operation's transition.
    Operation {
        id: OperationId,
        decky: DeckyName,
        kind: OperationKind,
        outcome: Outcome,
    },
    /// A bundle that was not accepted. The state accepted before it keeps running.
    Refused {
        /// A stable code, such as `expired` or `policy`.
        code: String,
        /// One line: what, why.
        detail: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        generation: Option<u64>,
    },
    /// A decky left or regained the state that is desired, without an operation.
    Drift { decky: DeckyName, detail: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase", deny_unknown_fields)]
pub enum Outcome {
    Running,
    Succeeded,
    Failed {
        /// What failed, on what, why. At most 2,000 characters.
        error: String,
    },
}

/// Answer to a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportAnswer {
    pub schema: u32,
    /// Every event up to and including this sequence is stored. The agent deletes only those.
    pub acked: u64,
    /// The master's clock.
    pub time: Timestamp,
    /// How long the next long poll may wait, in seconds.
    pub poll_wait_s: u32,
    /// How long until the next heartbeat, in seconds.
    pub heartbeat_s: u32,
    /// The master lacks the observed state: send it whole with the next report.
    pub resync: bool,
    /// Within how many seconds a host that does not have a certificate of the newest CA fetches one, at a moment that it
    /// draws: the more hosts, the longer. Absent: within five minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_within_s: Option<u32>,
}
