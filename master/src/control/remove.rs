//! Removing one decky. Its record, address and name go when its host reports that nothing of it is left,
//! or at once when its host is not enrolled any more.

use decnet_wire::bundle::OperationKind;
use decnet_wire::ids::{DeckyName, OperationId};
use serde_json::json;

use super::events::{Event, Trigger};
use super::{Control, ControlError, decky, rows, settings, touch};
use crate::audit::{Action, Actor, Audited, Change, Who};
use crate::records::{Cause, DeckyRecord, End, Host, Row};

impl Control {
    /// Begins to remove a decky. Asking again while it goes gives out the same operation.
    ///
    /// # Errors
    /// No such decky (404).
    pub fn remove(&self, by: &Actor, name: &DeckyName) -> Result<OperationId, ControlError> {
        let now = self.now();
        let (id, changed, event) = self.db.change(by, now, |w| {
            let mut record = decky(&w.reader(), name)?;
            if let (true, Some(operation)) = (record.removing, record.operation)
                && let Some(row) = w.get::<Row>(&operation.id)?
                && !row.status.is_terminal()
            {
                return Ok(Audited::Unchanged((operation.id, Vec::new(), None)));
            }
            let before = json!({
                "host": record.decky.host,
                "address": record.decky.address,
                "services": record.decky.services,
            });
            // Asked for again after a failure, it was retired already.
            let services = (record.decky.services.clone(), Vec::new());
            let retired = || Event::mutation(name, services, Trigger::Retirement, Some(by), now);
            let event = (!record.removing).then(retired);
            record.removing = true;
            record.previous = None;
            let mut changed = rows::begin(w, &mut record, OperationKind::Teardown, by, now, &self.tracer)?;
            let host = w.get::<Host>(&record.decky.host)?;
            let gone = host.is_none_or(|host| !host.lives());
            if gone && let Some(row) = changed.last_mut() {
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
            let id = record
                .operation
                .map(|operation| operation.id)
                .unwrap_or_else(super::new_operation);
            if gone {
                w.remove::<DeckyRecord>(name)?;
            } else {
                w.put(name, &record)?;
            }
            let change = Change::new(Action::DeckyRemove, format!("decky/{name}"))
                .before(before)
                .after(json!({ "operation": id, "host_gone": gone }));
            Ok::<_, ControlError>(change.done((id, changed, event)))
        })?;
        self.publish.notify_one();
        self.events.publish(event);
        self.announce(&changed);
        Ok(id)
    }
}
