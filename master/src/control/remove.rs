//! Removing one decky. Its record, address and name go when its host reports that nothing of it is left.

use decnet_wire::bundle::OperationKind;
use decnet_wire::ids::{DeckyName, OperationId};

use super::{Control, ControlError, decky, rows, settings, touch};

impl Control {
    /// Begins to remove a decky. Asking again while it goes gives out the same operation.
    ///
    /// # Errors
    /// No such decky (404).
    pub fn remove(&self, name: &DeckyName) -> Result<OperationId, ControlError> {
        let now = self.now();
        let (id, changed) = self.db.update(|w| {
            let mut record = decky(&w.reader(), name)?;
            if let (true, Some(operation)) = (record.removing, record.operation)
                && let Some(row) = w.get::<crate::records::Row>(&operation.id)?
                && !row.status.is_terminal()
            {
                return Ok((operation.id, Vec::new()));
            }
            record.removing = true;
            record.previous = None;
            let changed = rows::begin(w, &mut record, OperationKind::Teardown, now)?;
            touch(w, record.decky.host)?;
            let mut settings = settings(&w.reader())?;
            settings.revision += 1;
            w.put(&(), &settings)?;
            let id = record
                .operation
                .map(|operation| operation.id)
                .unwrap_or_else(super::new_operation);
            w.put(name, &record)?;
            Ok::<_, ControlError>((id, changed))
        })?;
        self.publish.notify_one();
        self.events.announce(&changed);
        Ok(id)
    }
}
