//! Lifecycle rows: `pending → running → succeeded | failed | superseded`. The last three never change.

use decnet_trace::Tracer;
use decnet_wire::bundle::{Operation, OperationKind};
use decnet_wire::ids::{HostId, OperationId, Timestamp};
use decnet_wire::report::Outcome;

use super::traces::place;
use super::{Control, ControlError};
use crate::audit::{Actor, Who};
use crate::records::{Cause, DeckyRecord, End, Host, Row, RowStatus};
use crate::store::{StoreError, Writer};
use crate::text::from_host;

/// Begins an operation on a decky: ends the open one as superseded, writes the new row and notes the operation
/// in the record, which the caller stores. Gives out the rows that changed.
///
/// To be called before the host's generation is raised for it.
pub(super) fn begin(
    w: &mut Writer<'_>,
    record: &mut DeckyRecord,
    kind: OperationKind,
    by: &Actor,
    now: Timestamp,
    tracer: &Tracer,
) -> Result<Vec<Row>, StoreError> {
    let trace = place(tracer, by);
    let by = by.who();
    let operation = Operation {
        id: super::new_operation(),
        kind,
        traceparent: trace.map(|trace| trace.traceparent),
    };
    let mut changed = Vec::new();
    if let Some(open) = record.operation
        && let Some(mut row) = w.get::<Row>(&open.id)?
        && row.end(End::Superseded(operation.id, kind), by, now)
    {
        w.put(&row.id, &row)?;
        changed.push(row);
    }
    record.operation = Some(operation);
    record.newest = Some(operation.id);
    let host = record.decky.host;
    let mut row = Row::begin(operation.id, kind, record.decky.name.clone(), host, by, now);
    row.trace = trace;
    row.generation = w.get::<Host>(&host)?.map(|host| host.generation + 1);
    w.put(&row.id, &row)?;
    changed.push(row);
    Ok(changed)
}

/// What a reported outcome did to its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Applied {
    /// The row moved on.
    Moved,
    /// The row had ended; the outcome was kept beside it.
    Late,
    /// The row was there already.
    Unchanged,
}

/// Applies what a host says of an operation.
pub(super) fn apply(row: &mut Row, outcome: &Outcome, by: &Who, now: Timestamp) -> Applied {
    let said = match outcome {
        Outcome::Failed { error } => Outcome::Failed {
            error: from_host(error),
        },
        other => other.clone(),
    };
    if row.status.is_terminal() {
        let same = match (row.status, outcome) {
            (RowStatus::Succeeded, Outcome::Succeeded) => true,
            // What the master gave up, and the host says it failed: that is why.
            (RowStatus::Failed, Outcome::Failed { error }) => {
                row.cause.is_none_or(|cause| cause == Cause::ReportedByHost)
                    || row.error.as_ref() == Some(error)
            }
            _ => false,
        };
        if same || matches!(outcome, Outcome::Running) || row.late.as_ref() == Some(&said) {
            return Applied::Unchanged;
        }
        row.late = Some(said);
        row.late_at = Some(now);
        return Applied::Late;
    }
    let moved = match said {
        Outcome::Running => row.run(by, now),
        Outcome::Succeeded => row.end(End::Succeeded, by, now),
        Outcome::Failed { error } => row.end(End::Failed(Cause::ReportedByHost, error), by, now),
    };
    if moved { Applied::Moved } else { Applied::Unchanged }
}

/// Which rows to list.
#[derive(Debug, Clone, Copy, Default)]
pub struct RowFilter {
    /// Only those that have not ended.
    pub open: bool,
    pub host: Option<HostId>,
    /// At most so many, the newest first.
    pub limit: usize,
}

impl Control {
    /// The rows of these ids, in the order they were started. Unknown ids are absent.
    ///
    /// # Errors
    /// The store's.
    pub fn rows(&self, ids: &[OperationId]) -> Result<Vec<Row>, ControlError> {
        self.db.read(|r| {
            let mut rows = Vec::with_capacity(ids.len());
            for id in ids {
                rows.extend(r.get::<Row>(id)?);
            }
            rows.sort_by_key(|row| (row.started_at, row.id));
            rows.dedup_by_key(|row| row.id);
            Ok(rows)
        })
    }

    /// The newest rows, the newest first.
    ///
    /// # Errors
    /// The store's.
    pub fn list_rows(&self, filter: RowFilter) -> Result<Vec<Row>, ControlError> {
        self.db.read(|r| {
            let wanted = |row: &Row| {
                (!filter.open || !row.status.is_terminal())
                    && filter.host.is_none_or(|host| row.host == Some(host))
            };
            let mut rows = Vec::new();
            if filter.open {
                // An open row is its decky's newest operation, so the history need not be read.
                for record in r.all::<DeckyRecord>()? {
                    if let Some(operation) = record.operation {
                        rows.extend(r.get::<Row>(&operation.id)?.filter(wanted));
                    }
                }
                rows.sort_by_key(|row| std::cmp::Reverse(row.id));
                rows.truncate(filter.limit);
                return Ok(rows);
            }
            r.newest::<Row>(|row| {
                if rows.len() < filter.limit && wanted(&row) {
                    rows.push(row);
                }
                rows.len() < filter.limit
            })?;
            Ok(rows)
        })
    }
}

#[cfg(test)]
mod tests;
