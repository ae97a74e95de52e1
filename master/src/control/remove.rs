//! Removing one decky. Its record, address and name go when its host reports that nothing of it is left,
//! or at once when its host is not enrolled any more.

use decnet_wire::bundle::OperationKind;
use decnet_wire::ids::{DeckyName, OperationId, Timestamp};
use serde_json::json;

use super::events::{Event, Trigger};
use super::{Control, ControlError, decky, rows, settings, touch};
use crate::audit::{Action, Actor, Audited, Change, Who};
use crate::records::{Cause, DeckyRecord, End, Host, Row};
use crate::store::Writer;

/// The beginning of a decky's end.
pub(super) struct Removal {
    pub(super) operation: OperationId,
    /// The rows that changed; none where it goes already.
    pub(super) rows: Vec<Row>,
    /// Its retirement, which is announced once.
    pub(super) retired: Option<Event>,
}

impl Control {
    /// Begins to remove a decky. Asking again while it goes gives out the same operation.
    ///
    /// # Errors
    /// No such decky (404).
    pub fn remove(&self, by: &Actor, name: &DeckyName) -> Result<OperationId, ControlError> {
        let now = self.now();
        let begun = self.db.change(by, now, |w| {
            let mut record = decky(&w.reader(), name)?;
            let before = json!({
                "host": record.decky.host,
                "address": record.decky.address,
                "services": record.decky.services,
            });
            let mut begun = self.begin_removal(w, &mut record, by, now)?;
            if begun.rows.is_empty() {
                return Ok(Audited::Unchanged(begun));
            }
            let host = w.get::<Host>(&record.decky.host)?;
            let gone = host.is_none_or(|host| !host.lives());
            if gone && let Some(row) = begun.rows.last_mut() {
                // Nobody will ever say that it is done. Its name and address are free again.
                let reason = "its host is not enrolled any more: it is out of the fleet, and what of it still runs there is not known";
                let end = End::Failed(Cause::HostGone, reason.to_owned());
                row.end(end, &Who::Master {}, now);
                w.put(&row.id, row)?;
            }
            touch(w, record.decky.host)?;
            let mut settings = settings(&w.reader())?;
            settings.revision += 1;
            w.put(&(), &settings)?;
            if gone {
                w.remove::<DeckyRecord>(name)?;
            } else {
                w.put(name, &record)?;
            }
            let change = Change::new(Action::DeckyRemove, format!("decky/{name}"))
                .before(before)
                .after(json!({ "operation": begun.operation, "host_gone": gone }));
            Ok::<_, ControlError>(change.done(begun))
        })?;
        self.publish.notify_one();
        self.events.publish(begun.retired);
        self.announce(&begun.rows);
        Ok(begun.operation)
    }

    /// Has a decky removed by its host, unless that goes on already. The record is the caller's to store.
    pub(super) fn begin_removal(
        &self,
        w: &mut Writer<'_>,
        record: &mut DeckyRecord,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Removal, ControlError> {
        if let (true, Some(operation)) = (record.removing, record.operation)
            && let Some(row) = w.get::<Row>(&operation.id)?
            && !row.status.is_terminal()
        {
            return Ok(Removal {
                operation: operation.id,
                rows: Vec::new(),
                retired: None,
            });
        }
        // Asked for again after a failure, it was retired already.
        let retired = (!record.removing).then(|| {
            let services = (record.decky.services.clone(), Vec::new());
            Event::mutation(&record.decky.name, services, Trigger::Retirement, Some(by), now)
        });
        record.removing = true;
        record.previous = None;
        let rows = rows::begin(w, record, OperationKind::Teardown, by, now, &self.tracer)?;
        Ok(Removal {
            operation: record
                .operation
                .map_or_else(super::new_operation, |operation| operation.id),
            rows,
            retired,
        })
    }
}
