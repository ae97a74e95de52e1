//! A copy of the store, taken while the master runs.

use std::io::Write;

use decnet_wire::ids::Timestamp;
use serde_json::json;

use super::{Control, ControlError};
use crate::audit::{Action, Actor, Audited, Change};
use crate::backup::{BackupError, write_store};
use crate::records::DeckyRecord;
use crate::store::Reader;

impl Control {
    /// Notes in the audit log that somebody takes a copy.
    ///
    /// # Errors
    /// The store's.
    pub fn note_backup(&self, by: &Actor) -> Result<Timestamp, ControlError> {
        let now = self.now();
        self.db.change(by, now, |w| {
            let deckies = w.reader().count::<DeckyRecord>()?;
            let change = Change::new(Action::FleetBackup, "fleet").after(json!({ "deckies": deckies }));
            Ok::<_, ControlError>(Audited::Changed(now, change))
        })
    }

    /// Writes everything that the store holds at this moment. Nobody waits for it.
    ///
    /// # Errors
    /// The store's, or it cannot be written.
    pub fn backup(&self, taken_at: Timestamp, out: impl Write) -> Result<(), BackupError> {
        self.db.snapshot(|view| {
            let head = super::audit::head_of(&Reader::of(view))?;
            write_store(view, self.fleet, taken_at, head, out)
        })
    }
}
