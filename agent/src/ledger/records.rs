//! What the ledger remembers. Every record lies in its table under a version number.

use std::collections::BTreeMap;

use decnet_docker::Fault;
use decnet_wire::bundle::{Blob, ComposeDocument, Network, OperationKind, Stack};
use decnet_wire::ids::{DeckyName, Digest, OperationId, StackName, Timestamp};
use serde::{Deserialize, Serialize};

/// The bundle accepted last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedRecord {
    pub epoch: u64,
    pub generation: u64,
    /// SHA-256 of the bundle's payload.
    pub digest: Digest,
    /// The latest signed time seen in any accepted bundle: the clock never counts as earlier than this.
    pub signed_at: Timestamp,
    pub expires_at: Timestamp,
    pub accepted_at: Timestamp,
}

/// Everything that one accepted bundle changes, for one commit.
#[derive(Debug, Clone)]
pub(crate) struct Acceptance {
    pub(crate) envelope: Vec<u8>,
    pub(crate) record: AcceptedRecord,
    /// The stacks that the bundle names, with their newest operation.
    pub(crate) stacks: Vec<Stack>,
    /// The policy that it was held to; none for the built-in one.
    pub(crate) policy: Option<PolicyRecord>,
    /// What is asked of each of them, as [`Trouble::wish`] has it.
    pub(crate) wishes: BTreeMap<StackName, Digest>,
}

/// A policy that was believed, as it came. It is not checked again: its operators may have been replaced since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRecord {
    /// A DSSE envelope.
    pub envelope: String,
    pub accepted_at: Timestamp,
}

/// An order to leave the fleet, as it came. Nothing takes it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRecord {
    /// A DSSE envelope.
    pub envelope: String,
    pub accepted_at: Timestamp,
}

/// A bundle that was refused, so that it is reported once and stays refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefusalRecord {
    pub(crate) digest: Digest,
    pub(crate) code: String,
    /// Whether the same bytes stay refused whatever the clock and the generations say later.
    pub(crate) stands: bool,
}

/// One thing that the operator asked of one decky.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRecord {
    pub stack: StackName,
    pub decky: DeckyName,
    pub kind: OperationKind,
    pub state: OperationState,
    /// Rounds that ended in an error that is the operation's own.
    pub attempts: u32,
    /// The error of the last attempt that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub opened_at: Timestamp,
    pub changed_at: Timestamp,
}

/// `open → running → succeeded | failed | superseded`; the last three are terminal, but that what failed and was
/// tried again after all has succeeded in the end: the master keeps that beside its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OperationState {
    Open,
    Running,
    Succeeded,
    Failed,
    /// A newer operation took its place. The master said so itself and is not told.
    Superseded,
}

impl OperationState {
    /// Whether it can never change any more.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Superseded)
    }

    /// The name that people read.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Superseded => "superseded",
        }
    }
}

/// A stack's document that was seen to run, with what it needs besides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastGood {
    pub decky: DeckyName,
    pub compose: ComposeDocument,
    pub networks: Vec<Network>,
    pub blobs: Vec<Blob>,
}

/// A stack that is being brought back without an operation. Recorded so that it is reported once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    pub since: Timestamp,
    pub cause: IncidentCause,
}

/// What keeps going wrong with a stack. It ends when the stack has been as it should be for a while, when something
/// else is asked of it, or when somebody on the host says that it is to be tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    pub decky: DeckyName,
    /// SHA-256 of what was asked: the document, its operation, and what it may name. A bundle that asks the same
    /// once more is no new wish.
    pub wish: Digest,
    /// The generation in which it began.
    pub generation: u64,
    /// Tries that failed.
    pub tries: u32,
    /// Those among them that failed through what was asked.
    pub counted: u32,
    /// What the last one failed with.
    pub reason: String,
    pub since: Timestamp,
    pub last_try_at: Timestamp,
    /// No more tries are made.
    pub quarantined: bool,
}

/// A try that failed.
#[derive(Debug, Clone)]
pub(crate) struct FailedTry {
    pub(crate) stack: StackName,
    pub(crate) decky: DeckyName,
    pub(crate) wish: Digest,
    pub(crate) generation: u64,
    /// The operation that it was for, while that is not done.
    pub(crate) operation: Option<OperationId>,
    pub(crate) error: String,
    pub(crate) fault: Fault,
    /// Whether it may be given up: it is new here, and not on its way out.
    pub(crate) may_quarantine: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IncidentCause {
    /// It left the desired state by itself.
    Drift,
    /// Its operation failed and its last good document is being restored.
    Fallback,
}

/// One step: what was meant, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// Ascending; the order in which steps were begun.
    pub number: u64,
    /// Steps of one look at the engine share a round.
    pub round: u64,
    /// Index in that round's plan.
    pub index: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<StackName>,
    /// The step for people.
    pub text: String,
    /// The step itself.
    pub step: serde_json::Value,
    pub begun_at: Timestamp,
    /// None while it runs, and for good when the agent died meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<StepOutcome>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepOutcome {
    pub at: Timestamp,
    /// None when it worked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The outbox's counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OutboxState {
    /// The sequence number that the next event gets.
    pub(super) next: u64,
    /// Every event up to here is the master's.
    pub(super) acked: u64,
    /// So many events may wait before they are looked through again.
    #[serde(default)]
    pub(super) compact_above: u64,
}

/// What the newest note about something stands for, itself included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Merged {
    /// That note's number.
    pub(super) seq: u64,
    pub(super) count: u64,
    /// When the first of them was.
    pub(super) since: Timestamp,
}

/// The key of an operation's record.
pub(super) fn operation_key(id: OperationId) -> String {
    id.to_string()
}
