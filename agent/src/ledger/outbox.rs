//! Events on their way to the master: numbered once, kept until acknowledged.

mod compaction;

use std::collections::BTreeMap;

#[cfg(test)]
pub(super) use compaction::{DROPPED, NOTE_BYTES, NOTES, SLACK};
use decnet_wire::ids::Timestamp;
use decnet_wire::report::{Event, EventBody};

use super::LedgerError;
use super::records::OutboxState;
use super::tables::{ONLY, OUTBOX, OUTBOX_STATE, Snapshot, Tx};

/// What one report carries of the outbox.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Batch {
    /// Ascending.
    pub(crate) events: Vec<Event>,
    /// Every event up to here is the master's already.
    pub(crate) acked: u64,
    /// How many events wait altogether, those in the batch included.
    pub(crate) waiting: u64,
}

impl Snapshot {
    pub(super) fn outbox(&self, most: usize, most_bytes: usize) -> Result<Batch, LedgerError> {
        let state = self.only(&OUTBOX_STATE)?;
        let (mut count, mut bytes) = (0, 0_usize);
        let events = self.ascending(&OUTBOX, |_, length| {
            count += 1;
            bytes = bytes.saturating_add(length);
            // At least one, or a single large event would stand in the way for ever.
            count == 1 || (count <= most && bytes <= most_bytes)
        })?;
        Ok(Batch {
            events,
            acked: state.map_or(0, |state: OutboxState| state.acked),
            waiting: self.count(&OUTBOX)?,
        })
    }
}

impl Tx {
    /// Makes a new ledger's counters. A ledger that lost its predecessor must not give out a number again,
    /// so the first one is the clock's milliseconds: no agent makes a thousand events a second for long.
    pub(super) fn initialise(&self, now: Timestamp) -> Result<(), LedgerError> {
        self.make_tables()?;
        if self.get(&OUTBOX_STATE, ONLY)?.is_none() {
            let milliseconds = now.get().unix_timestamp_nanos() / 1_000_000;
            let next = u64::try_from(milliseconds).unwrap_or(0).max(1);
            self.put(
                &OUTBOX_STATE,
                ONLY,
                &OutboxState {
                    next,
                    acked: next - 1,
                    compact_above: 0,
                },
            )?;
        }
        Ok(())
    }

    /// Queues an event under the next number.
    pub(crate) fn push_event(&self, at: Timestamp, body: EventBody) -> Result<(), LedgerError> {
        let mut state = self.get(&OUTBOX_STATE, ONLY)?.unwrap_or(OutboxState {
            next: 1,
            acked: 0,
            compact_above: 0,
        });
        let event = Event {
            seq: state.next,
            at,
            body,
        };
        self.put_numbered(&OUTBOX, event.seq, &event)?;
        state.next += 1;
        self.compact(at, &mut state)?;
        self.put(&OUTBOX_STATE, ONLY, &state)?;
        self.note_pushed_event();
        Ok(())
    }

    /// Forgets what the master has stored. An acknowledgement of what was never sent says nothing about it.
    pub(crate) fn acknowledge(&self, acked: u64, sent: u64) -> Result<(), LedgerError> {
        let Some(mut state) = self.get(&OUTBOX_STATE, ONLY)? else {
            return Ok(());
        };
        let acked = acked.min(sent);
        if acked <= state.acked {
            return Ok(());
        }
        self.remove_up_to(&OUTBOX, acked)?;
        self.forget_merged(acked)?;
        state.acked = acked;
        state.compact_above = 0;
        self.put(&OUTBOX_STATE, ONLY, &state)
    }

    /// Gives everything that waits a number of its own again, where the master has events beyond those that
    /// this ledger had given out when it was opened at `first`: it is an older copy, and the master would take
    /// its next events for those that it has. True when it was so.
    pub(crate) fn number_after(&self, acked: u64, first: u64) -> Result<bool, LedgerError> {
        let Some(mut state) = self.get(&OUTBOX_STATE, ONLY)? else {
            return Ok(false);
        };
        // No agent has come so far; what a master says must not use up the numbers.
        if acked < first || acked > u64::MAX / 2 {
            return Ok(false);
        }
        let waiting = self.numbered(&OUTBOX)?;
        self.remove_up_to(&OUTBOX, u64::MAX)?;
        state.next = acked + 1;
        state.acked = acked;
        let mut numbers = BTreeMap::new();
        for mut event in waiting {
            numbers.insert(event.seq, state.next);
            event.seq = state.next;
            self.put_numbered(&OUTBOX, event.seq, &event)?;
            state.next += 1;
        }
        self.renumber_merged(&numbers)?;
        self.put(&OUTBOX_STATE, ONLY, &state)?;
        Ok(true)
    }

    /// The number that the next event gets.
    pub(super) fn next_number(&self) -> Result<u64, LedgerError> {
        Ok(self.get(&OUTBOX_STATE, ONLY)?.map_or(1, |state| state.next))
    }
}
