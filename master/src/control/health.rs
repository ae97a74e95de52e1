//! What an operator's health check asks.

use super::{Control, ControlError};
use crate::records::{BundleRecord, Host};

impl Control {
    /// The names of enrolled hosts whose newest generation has no bundle yet.
    ///
    /// # Errors
    /// The store's.
    pub fn unpublished(&self) -> Result<Vec<String>, ControlError> {
        self.db.read(|r| {
            let mut behind = Vec::new();
            for host in r.all::<Host>()? {
                if host.key.is_none() || host.revoked || host.generation == 0 {
                    continue;
                }
                let bundle = r.get::<BundleRecord>(&host.id)?;
                if bundle.is_none_or(|bundle| bundle.generation < host.generation) {
                    behind.push(host.name.to_string());
                }
            }
            Ok(behind)
        })
    }
}
