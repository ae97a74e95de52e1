//! One operation's life, and the rule that what has ended does not change.

use decnet_wire::bundle::OperationKind;
use decnet_wire::ids::{DeckyName, HostId, OperationId, Timestamp};
use decnet_wire::report::Outcome;
use decnet_wire::trace::{SpanId, Traceparent};
use serde::{Deserialize, Serialize};

use crate::audit::Who;
use crate::store::{Record, Table};
use crate::text::from_host;

/// One operation's life: `pending → running → succeeded | failed | superseded`.
///
/// Guarantees: the store takes no row in the place of one that has ended, but for what its host said later; none that
/// belongs to something else, goes back, or forgets a transition; and removes none that is open
/// ([`Record::refuses`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub id: OperationId,
    pub decky: DeckyName,
    pub host: Option<HostId>,
    pub operation: OperationKind,
    pub status: RowStatus,
    /// Why it failed, or by what it was superseded: one line.
    pub error: Option<String>,
    /// Of what kind the failure was.
    #[serde(default)]
    pub cause: Option<Cause>,
    /// The first of its host's generations that can carry it. None: an older master began it.
    #[serde(default)]
    pub generation: Option<u64>,
    pub started_at: Timestamp,
    pub updated_at: Timestamp,
    pub completed_at: Option<Timestamp>,
    /// Every transition, the first one first: at most one of each of pending, running and the end.
    #[serde(default)]
    pub transitions: Vec<Transition>,
    /// What the host said after the row had ended otherwise. The row itself does not change any more.
    pub late: Option<Outcome>,
    #[serde(default)]
    pub late_at: Option<Timestamp>,
    /// Its place in a trace, when it was asked for while operations were traced. Written only then: older masters know
    /// no such field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
}

/// Where an operation stands in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    /// The operation's own span: what comes of it is below that.
    pub traceparent: Traceparent,
    /// The span of the request; none when the master itself began it.
    pub parent: Option<SpanId>,
}

/// One transition of a row. Why it ended stands in [`Row::error`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transition {
    pub status: RowStatus,
    /// By the master's clock.
    pub at: Timestamp,
    /// Who asked for it or said it; the master itself by its sweep.
    pub by: Who,
    /// The newer operation that superseded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<OperationId>,
}

/// A lifecycle row's status. The last three are terminal and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowStatus {
    Pending,
    Running,
    Succeeded,
    Failed,
    Superseded,
}

impl RowStatus {
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Superseded)
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Superseded => "superseded",
        }
    }
}

/// Of what kind a failure was. The names never change; new ones may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The host did it, and it failed there.
    ReportedByHost,
    /// The host was not heard of.
    HostUnreachable,
    /// The host is not believed any more, or not known any more.
    HostGone,
    /// The host's agent, or its engine, began anew after it had begun, and did not end it.
    AgentRestarted,
    /// The host refused the bundle: its policy forbids it.
    RefusedByPolicy,
    /// The host refused the bundle for another reason.
    Refused,
    /// The host's engine does not answer.
    EngineDown,
    /// The host gave the decky up.
    Quarantined,
    /// The host that has the decky did not say that it let go of it.
    WaitingForOtherHost,
    /// It took too long, for a reason that is not one of the others.
    Deadline,
}

impl Cause {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReportedByHost => "reported-by-host",
            Self::HostUnreachable => "host-unreachable",
            Self::HostGone => "host-gone",
            Self::AgentRestarted => "agent-restarted",
            Self::RefusedByPolicy => "refused-by-policy",
            Self::Refused => "refused",
            Self::EngineDown => "engine-down",
            Self::Quarantined => "quarantined",
            Self::WaitingForOtherHost => "waiting-for-other-host",
            Self::Deadline => "deadline",
        }
    }
}

/// How a row ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Succeeded,
    Failed(Cause, String),
    /// By this operation of this kind.
    Superseded(OperationId, OperationKind),
}

impl Row {
    /// A row that begins: somebody asked for it.
    #[must_use]
    pub fn begin(
        id: OperationId,
        operation: OperationKind,
        decky: DeckyName,
        host: HostId,
        by: &Who,
        at: Timestamp,
    ) -> Self {
        let mut row = Self {
            id,
            decky,
            host: Some(host),
            operation,
            status: RowStatus::Pending,
            error: None,
            cause: None,
            generation: None,
            started_at: at,
            updated_at: at,
            completed_at: None,
            transitions: Vec::with_capacity(1),
            late: None,
            late_at: None,
            trace: None,
        };
        row.note(RowStatus::Pending, by, at, None);
        row
    }

    /// Its host has begun. False when that is known, or of no interest any more.
    pub fn run(&mut self, by: &Who, at: Timestamp) -> bool {
        let begins = self.status == RowStatus::Pending;
        if begins {
            self.note(RowStatus::Running, by, at, None);
        }
        begins
    }

    /// Ends it. False when it has ended: nothing is changed then.
    pub fn end(&mut self, end: End, by: &Who, at: Timestamp) -> bool {
        if self.status.is_terminal() {
            return false;
        }
        let (status, error, cause, superseded_by) = match end {
            End::Succeeded => (RowStatus::Succeeded, None, None, None),
            End::Failed(cause, why) => (RowStatus::Failed, Some(why), Some(cause), None),
            End::Superseded(by, kind) => {
                let why = format!("a newer {} was asked for: {by}", kind.as_str());
                (RowStatus::Superseded, Some(why), None, Some(by))
            }
        };
        self.error = error.map(|text| from_host(&text));
        self.cause = cause;
        self.completed_at = Some(at);
        self.note(status, by, at, superseded_by);
        true
    }

    fn note(&mut self, status: RowStatus, by: &Who, at: Timestamp, superseded_by: Option<OperationId>) {
        self.status = status;
        self.updated_at = at;
        self.transitions.push(Transition {
            status,
            at,
            by: by.clone(),
            superseded_by,
        });
    }

    /// Everything of it but what may come after its end.
    fn without_late(&self) -> Self {
        Self {
            late: None,
            late_at: None,
            ..self.clone()
        }
    }
}

impl Record for Row {
    type Key = OperationId;
    const TABLE: Table = Table::Rows;
    /// 2: with transitions, cause and generation, which rows of version 1 lack.
    const VERSION: u8 = 2;
    const GUARDED: bool = true;

    fn key_bytes(key: &OperationId) -> Vec<u8> {
        key.uuid().as_bytes().to_vec()
    }

    fn refuses(&self, next: Option<&Self>) -> Option<&'static str> {
        let Some(next) = next else {
            return (!self.status.is_terminal()).then_some("it is open, and would be gone");
        };
        let same = self.id == next.id
            && self.decky == next.decky
            && self.host == next.host
            && self.operation == next.operation
            && self.generation == next.generation
            && self.started_at == next.started_at
            && self.trace == next.trace;
        if !same {
            Some("it would be another operation's")
        } else if self.status.is_terminal() {
            (self.without_late() != next.without_late()).then_some("it has ended, and would change")
        } else if next.status < self.status {
            Some("it would go back")
        } else if next.status == self.status && next.transitions.len() != self.transitions.len()
            || !next.transitions.starts_with(&self.transitions)
        {
            Some("it would not say how it came so far")
        } else {
            None
        }
    }
}
