//! What an operator's health check asks.

use super::{Control, ControlError};

impl Control {
    /// The names of enrolled hosts whose newest generation has no bundle yet.
    ///
    /// # Errors
    /// The store's.
    pub fn unpublished(&self) -> Result<Vec<String>, ControlError> {
        let due = self.db.read(Self::due)?;
        Ok(due.into_iter().map(|due| due.host.name.to_string()).collect())
    }
}
