//! The step journal: what was about to be done, and what came of it. For people; no decision rests on it.

use decnet_wire::ids::Timestamp;

use super::LedgerError;
use super::records::{JournalEntry, StepOutcome};
use super::tables::{JOURNAL, Snapshot, Tx};

/// Steps that are kept.
const KEPT: u64 = 10_000;

impl Snapshot {
    pub(super) fn journal(&self, limit: usize) -> Result<Vec<JournalEntry>, LedgerError> {
        self.newest(&JOURNAL, limit)
    }
}

impl Tx {
    /// Writes down what is about to be done and gives its number. The number in `entry` does not count.
    pub(crate) fn journal_intent(&self, entry: &JournalEntry) -> Result<u64, LedgerError> {
        let number = self.last_key(&JOURNAL)?.map_or(1, |last| last + 1);
        self.put_numbered(
            &JOURNAL,
            number,
            &JournalEntry {
                number,
                ..entry.clone()
            },
        )?;
        self.keep_newest(&JOURNAL, KEPT)?;
        Ok(number)
    }

    /// Writes down what came of it.
    pub(crate) fn journal_outcome(
        &self,
        number: u64,
        at: Timestamp,
        error: Option<String>,
    ) -> Result<(), LedgerError> {
        // Gone when more steps than are kept were begun meanwhile.
        if let Some(mut entry) = self.get_numbered(&JOURNAL, number)? {
            entry.outcome = Some(StepOutcome { at, error });
            self.put_numbered(&JOURNAL, number, &entry)?;
        }
        Ok(())
    }
}
