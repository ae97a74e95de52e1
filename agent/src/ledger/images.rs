//! The images that we have fetched or built, and when they were last needed.

use std::collections::BTreeMap;

use decnet_plan::unused::Fetched;

use super::LedgerError;
use super::tables::{FETCHED, Snapshot, Tx};

impl Snapshot {
    pub(super) fn fetched(&self) -> Result<BTreeMap<String, Fetched>, LedgerError> {
        Ok(self.named(&FETCHED)?.into_iter().collect())
    }
}

impl Tx {
    pub(crate) fn fetched(&self, name: &str, fetched: Fetched) -> Result<(), LedgerError> {
        self.put(&FETCHED, name, &fetched)
    }

    pub(crate) fn forget_fetched(&self, name: &str) -> Result<(), LedgerError> {
        self.remove(&FETCHED, name)
    }
}
