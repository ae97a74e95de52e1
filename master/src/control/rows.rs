//! Lifecycle rows: `pending → running → succeeded | failed | superseded`. The last three never change.

use decnet_wire::bundle::{Operation, OperationKind};
use decnet_wire::ids::{HostId, OperationId, Timestamp};
use decnet_wire::report::Outcome;

use super::{Control, ControlError};
use crate::records::{DeckyRecord, Row, RowStatus};
use crate::store::{StoreError, Writer};
use crate::text::from_host;

/// Begins an operation on a decky: ends the open one as superseded, writes the new row and notes the operation
/// in the record, which the caller stores. Gives out the rows that changed.
pub(super) fn begin(
    w: &mut Writer<'_>,
    record: &mut DeckyRecord,
    kind: OperationKind,
    now: Timestamp,
) -> Result<Vec<Row>, StoreError> {
    let mut changed = Vec::new();
    if let Some(open) = record.operation
        && let Some(mut row) = w.get::<Row>(&open.id)?
        && !row.status.is_terminal()
    {
        finish(
            &mut row,
            RowStatus::Superseded,
            Some(format!("a newer {} was asked for", kind.as_str())),
            now,
        );
        w.put(&row.id, &row)?;
        changed.push(row);
    }
    let operation = Operation {
        id: super::new_operation(),
        kind,
    };
    record.operation = Some(operation);
    let row = Row {
        id: operation.id,
        decky: record.decky.name.clone(),
        host: Some(record.decky.host),
        operation: kind,
        status: RowStatus::Pending,
        error: None,
        started_at: now,
        updated_at: now,
        completed_at: None,
        late: None,
    };
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
pub(super) fn apply(row: &mut Row, outcome: &Outcome, now: Timestamp) -> Applied {
    let said = match outcome {
        Outcome::Failed { error } => Outcome::Failed {
            error: from_host(error),
        },
        other => other.clone(),
    };
    if row.status.is_terminal() {
        let same = matches!(
            (row.status, outcome),
            (RowStatus::Succeeded, Outcome::Succeeded) | (RowStatus::Failed, Outcome::Failed { .. })
        );
        if same || matches!(outcome, Outcome::Running) || row.late.as_ref() == Some(&said) {
            return Applied::Unchanged;
        }
        row.late = Some(said);
        return Applied::Late;
    }
    match said {
        Outcome::Running if row.status == RowStatus::Running => return Applied::Unchanged,
        Outcome::Running => {
            row.status = RowStatus::Running;
            row.updated_at = now;
        }
        Outcome::Succeeded => finish(row, RowStatus::Succeeded, None, now),
        Outcome::Failed { error } => finish(row, RowStatus::Failed, Some(error), now),
    }
    Applied::Moved
}

/// Ends a row that is open.
pub(super) fn finish(row: &mut Row, status: RowStatus, error: Option<String>, now: Timestamp) {
    row.status = status;
    row.error = error.map(|text| from_host(&text));
    row.updated_at = now;
    row.completed_at = Some(now);
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
mod tests {
    use super::*;
    use decnet_wire::ids::OperationId;
    use time::macros::datetime;
    use uuid::Uuid;

    fn row(status: RowStatus) -> Row {
        let now = Timestamp::new(datetime!(2026-01-01 00:00 UTC));
        Row {
            id: OperationId::new(Uuid::nil()),
            decky: "web".parse().unwrap(),
            host: None,
            operation: OperationKind::Deploy,
            status,
            error: None,
            started_at: now,
            updated_at: now,
            completed_at: None,
            late: None,
        }
    }

    #[test]
    fn a_terminal_row_never_changes() {
        let later = Timestamp::new(datetime!(2026-01-02 00:00 UTC));
        for status in [RowStatus::Succeeded, RowStatus::Failed, RowStatus::Superseded] {
            for outcome in [
                Outcome::Running,
                Outcome::Succeeded,
                Outcome::Failed {
                    error: "late".to_owned(),
                },
            ] {
                let before = row(status);
                let mut after = before.clone();
                apply(&mut after, &outcome, later);
                after.late = None;
                assert_eq!(after, before);
            }
        }
    }

    #[test]
    fn a_late_outcome_is_kept_beside_the_row() {
        let mut ended = row(RowStatus::Failed);
        let now = ended.started_at;
        assert_eq!(apply(&mut ended, &Outcome::Succeeded, now), Applied::Late);
        assert_eq!(ended.late, Some(Outcome::Succeeded));
        assert_eq!(apply(&mut ended, &Outcome::Succeeded, now), Applied::Unchanged);
    }

    #[test]
    fn an_outcome_that_comes_twice_moves_the_row_once() {
        let mut open = row(RowStatus::Pending);
        let now = open.started_at;
        assert_eq!(apply(&mut open, &Outcome::Running, now), Applied::Moved);
        assert_eq!(apply(&mut open, &Outcome::Running, now), Applied::Unchanged);
        assert_eq!(apply(&mut open, &Outcome::Succeeded, now), Applied::Moved);
        assert_eq!(apply(&mut open, &Outcome::Succeeded, now), Applied::Unchanged);
    }
}
