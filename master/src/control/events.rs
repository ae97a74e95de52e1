//! The in-process bus: transitions of operations, announced after they are stored.

use decnet_wire::bundle::OperationKind;
use decnet_wire::ids::{DeckyName, HostId, OperationId, Timestamp};
use serde::Serialize;
use tokio::sync::broadcast;

use crate::records::{Row, RowStatus};

/// Transitions that a slow reader may lag behind before it misses some.
const BACKLOG: usize = 4096;

/// One transition, on the topic `decky.<name>.lifecycle`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LifecycleEvent {
    pub topic: String,
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
            topic: format!("decky.{}.lifecycle", row.decky),
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

/// Sends every event to every reader. Nobody listening is no error.
#[derive(Debug)]
pub struct Events(broadcast::Sender<LifecycleEvent>);

impl Events {
    pub(crate) fn new() -> Self {
        Self(broadcast::channel(BACKLOG).0)
    }

    /// Announces rows that were just committed.
    pub(crate) fn announce<'a>(&self, rows: impl IntoIterator<Item = &'a Row>) {
        for row in rows {
            // An error means that nobody listens.
            let _ = self.0.send(LifecycleEvent::from(row));
        }
    }

    /// Everything announced from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<LifecycleEvent> {
        self.0.subscribe()
    }
}
