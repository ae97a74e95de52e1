//! The tables, and typed access to them inside one transaction.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

use redb::{Database, Durability, WriteTransaction};
use redb::{Key, ReadTransaction, ReadableTable, ReadableTableMetadata as _, TableDefinition, TableError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::LedgerError;
use super::records::{
    AcceptedRecord, Incident, JournalEntry, LastGood, Merged, OperationRecord, OrderRecord, OutboxState,
    PolicyRecord, RefusalRecord, Trouble,
};
use decnet_plan::desired::Leases;
use decnet_plan::unused::Fetched;
use decnet_wire::report::Event;

/// A value as it lies in a table. The version is the record's own; an older one is read as long as it parses.
pub(super) trait Record: Serialize + DeserializeOwned {
    const VERSION: u32 = 1;
}

impl Record for AcceptedRecord {}
impl Record for Vec<RefusalRecord> {}
impl Record for OutboxState {}
impl Record for OperationRecord {}
impl Record for LastGood {}
impl Record for Incident {}
impl Record for Leases {}
impl Record for JournalEntry {}
impl Record for Event {}
impl Record for Merged {}
impl Record for Fetched {}
impl Record for Trouble {}
impl Record for PolicyRecord {}
impl Record for OrderRecord {}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    v: u32,
    record: T,
}

/// A table of one kind of record.
pub(super) struct Table<K: Key + 'static, T> {
    name: &'static str,
    pub(super) definition: TableDefinition<'static, K, &'static [u8]>,
    record: PhantomData<fn() -> T>,
}

impl<K: Key + 'static, T> Table<K, T> {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            definition: TableDefinition::new(name),
            record: PhantomData,
        }
    }
}

/// The only key of a table that holds one record.
pub(super) const ONLY: &str = "";

pub(super) const ACCEPTED: Table<&str, AcceptedRecord> = Table::new("accepted");
pub(super) const REFUSALS: Table<&str, Vec<RefusalRecord>> = Table::new("refusals");
pub(super) const OUTBOX_STATE: Table<&str, OutboxState> = Table::new("outbox-state");
pub(super) const OUTBOX: Table<u64, Event> = Table::new("outbox");
pub(super) const OPERATIONS: Table<&str, OperationRecord> = Table::new("operations");
pub(super) const LAST_GOOD: Table<&str, LastGood> = Table::new("last-good");
pub(super) const INCIDENTS: Table<&str, Incident> = Table::new("incidents");
pub(super) const JOURNAL: Table<u64, JournalEntry> = Table::new("journal");
pub(super) const LEASES: Table<&str, Leases> = Table::new("leases");
/// By the name under which we have fetched or built an image.
pub(super) const FETCHED: Table<&str, Fetched> = Table::new("fetched-images");
/// By what the notes are about: `drift <decky>`, `refused <code>`.
pub(super) const MERGED: Table<&str, Merged> = Table::new("outbox-merged");
/// By stack.
pub(super) const TROUBLES: Table<&str, Trouble> = Table::new("troubles");
/// [`HELD`] and [`OF_BUNDLE`].
pub(super) const POLICIES: Table<&str, PolicyRecord> = Table::new("policies");
/// The newest policy that was believed.
pub(super) const HELD: &str = "held";
/// The one that the accepted bundle was held to.
pub(super) const OF_BUNDLE: &str = "of-bundle";
/// The order to leave the fleet, once there is one.
pub(super) const ORDERS: Table<&str, OrderRecord> = Table::new("orders");
/// The accepted envelope's bytes, as they came.
const ENVELOPE: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("envelope");

impl<K: Key + 'static, T: Record> Table<K, T> {
    fn decode(&self, bytes: &[u8]) -> Result<T, LedgerError> {
        // The version is read by itself: a newer record need not parse as one of ours.
        #[derive(Deserialize)]
        struct Head {
            v: u32,
        }
        let decode = |source| LedgerError::Decode {
            table: self.name,
            source: Arc::new(source),
        };
        let head: Head = serde_json::from_slice(bytes).map_err(decode)?;
        if head.v > T::VERSION {
            return Err(LedgerError::Version {
                table: self.name,
                found: head.v,
                known: T::VERSION,
            });
        }
        serde_json::from_slice::<Versioned<T>>(bytes)
            .map(|versioned| versioned.record)
            .map_err(decode)
    }

    fn encode(&self, record: &T) -> Result<Vec<u8>, LedgerError> {
        serde_json::to_vec(&Versioned {
            v: T::VERSION,
            record,
        })
        .map_err(|source| LedgerError::Decode {
            table: self.name,
            source: Arc::new(source),
        })
    }
}

fn storage(doing: &'static str) -> impl Fn(redb::Error) -> LedgerError {
    move |source| LedgerError::Storage {
        doing,
        source: Arc::new(source),
    }
}

fn collect<K, T, Q>(
    table: &Table<K, T>,
    open: &impl ReadableTable<K, &'static [u8]>,
    key: impl Fn(K::SelfType<'_>) -> Q,
) -> Result<Vec<(Q, T)>, LedgerError>
where
    K: Key + 'static,
    T: Record,
{
    let mut all = Vec::new();
    for row in open.iter()? {
        let (found, value) = row?;
        all.push((key(found.value()), table.decode(value.value())?));
    }
    Ok(all)
}

/// What one read transaction sees.
pub(super) struct Snapshot {
    transaction: ReadTransaction,
}

impl Snapshot {
    pub(super) fn new(transaction: ReadTransaction) -> Self {
        Self { transaction }
    }

    fn open<K: Key + 'static, T>(
        &self,
        table: &Table<K, T>,
    ) -> Result<redb::ReadOnlyTable<K, &'static [u8]>, LedgerError> {
        self.transaction
            .open_table(table.definition)
            .map_err(|error| storage("read")(error.into()))
    }

    pub(super) fn only<T: Record>(&self, table: &Table<&'static str, T>) -> Result<Option<T>, LedgerError> {
        self.keyed(table, ONLY)
    }

    pub(super) fn keyed<T: Record>(
        &self,
        table: &Table<&'static str, T>,
        key: &str,
    ) -> Result<Option<T>, LedgerError> {
        match self.open(table)?.get(key)? {
            Some(value) => table.decode(value.value()).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn named<T: Record>(
        &self,
        table: &Table<&'static str, T>,
    ) -> Result<Vec<(String, T)>, LedgerError> {
        collect(table, &self.open(table)?, str::to_owned)
    }

    /// Ascending records until `take` says no, from the first.
    pub(super) fn ascending<T: Record>(
        &self,
        table: &Table<u64, T>,
        mut take: impl FnMut(&T, usize) -> bool,
    ) -> Result<Vec<T>, LedgerError> {
        let open = self.open(table)?;
        let mut all = Vec::new();
        for row in open.iter()? {
            let (_, value) = row?;
            let record = table.decode(value.value())?;
            if !take(&record, value.value().len()) {
                break;
            }
            all.push(record);
        }
        Ok(all)
    }

    /// The newest `limit` records, newest first.
    pub(super) fn newest<T: Record>(
        &self,
        table: &Table<u64, T>,
        limit: usize,
    ) -> Result<Vec<T>, LedgerError> {
        let open = self.open(table)?;
        let mut all = Vec::new();
        for row in open.iter()?.rev().take(limit) {
            let (_, value) = row?;
            all.push(table.decode(value.value())?);
        }
        Ok(all)
    }

    pub(super) fn count<T>(&self, table: &Table<u64, T>) -> Result<u64, LedgerError> {
        Ok(self.open(table)?.len()?)
    }

    pub(super) fn envelope(&self) -> Result<Option<Vec<u8>>, LedgerError> {
        let open = self
            .transaction
            .open_table(ENVELOPE)
            .map_err(|error| storage("read")(error.into()))?;
        Ok(open.get(ONLY)?.map(|value| value.value().to_vec()))
    }

    /// Reads every record that decisions rest on.
    pub(super) fn check(&self) -> Result<(), LedgerError> {
        self.accepted()?;
        self.envelope()?;
        self.refusals()?;
        self.operations()?;
        self.last_good()?;
        self.incidents()?;
        self.troubles()?;
        self.leases()?;
        self.named(&POLICIES)?;
        self.order()?;
        self.named(&MERGED)?;
        self.outbox(usize::MAX, usize::MAX)?;
        self.newest(&JOURNAL, 1)?;
        Ok(())
    }
}

/// One write transaction. Nothing of it counts before the commit.
pub(crate) struct Tx {
    transaction: WriteTransaction,
    pushed: Cell<bool>,
}

impl std::fmt::Debug for Tx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tx").finish_non_exhaustive()
    }
}

impl Tx {
    /// Begins one whose commit is on the disk when it returns, whatever order the disk writes in: redb syncs the new
    /// pages and their root before it syncs the bit that makes that root the current one. With one sync, its default,
    /// a root that got there before its pages would be told by nothing but a checksum that is not a cryptographic one.
    pub(super) fn start(db: &Database) -> Result<Self, LedgerError> {
        let begun = db.begin_write();
        let mut transaction = begun.map_err(|error| storage("write to")(error.into()))?;
        let durable = transaction.set_durability(Durability::Immediate);
        durable.map_err(|error| storage("write to")(error.into()))?;
        transaction.set_two_phase_commit(true);
        Ok(Self {
            transaction,
            pushed: Cell::new(false),
        })
    }

    /// Commits; true when an event was pushed.
    pub(super) fn commit(self) -> Result<bool, LedgerError> {
        let pushed = self.pushed.get();
        self.transaction
            .commit()
            .map_err(|error| storage("commit to")(error.into()))?;
        Ok(pushed)
    }

    pub(super) fn note_pushed_event(&self) {
        self.pushed.set(true);
    }

    fn open<K: Key + 'static, T>(
        &self,
        table: &Table<K, T>,
    ) -> Result<redb::Table<'_, K, &'static [u8]>, LedgerError> {
        self.open_definition(table.definition)
    }

    fn open_definition<K: Key + 'static>(
        &self,
        definition: TableDefinition<'static, K, &'static [u8]>,
    ) -> Result<redb::Table<'_, K, &'static [u8]>, LedgerError> {
        self.transaction
            .open_table(definition)
            .map_err(|error: TableError| storage("write to")(error.into()))
    }

    /// Makes every table, so that reads never meet a missing one.
    pub(super) fn make_tables(&self) -> Result<(), LedgerError> {
        self.open(&ACCEPTED)?;
        self.open(&REFUSALS)?;
        self.open(&OUTBOX_STATE)?;
        self.open(&OUTBOX)?;
        self.open(&MERGED)?;
        self.open(&OPERATIONS)?;
        self.open(&LAST_GOOD)?;
        self.open(&INCIDENTS)?;
        self.open(&LEASES)?;
        self.open(&JOURNAL)?;
        self.open(&FETCHED)?;
        self.open(&TROUBLES)?;
        self.open(&POLICIES)?;
        self.open(&ORDERS)?;
        self.open_definition(ENVELOPE)?;
        Ok(())
    }

    pub(super) fn get<T: Record>(
        &self,
        table: &Table<&'static str, T>,
        key: &str,
    ) -> Result<Option<T>, LedgerError> {
        match self.open(table)?.get(key)? {
            Some(value) => table.decode(value.value()).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn put<T: Record>(
        &self,
        table: &Table<&'static str, T>,
        key: &str,
        record: &T,
    ) -> Result<(), LedgerError> {
        self.open(table)?.insert(key, table.encode(record)?.as_slice())?;
        Ok(())
    }

    pub(super) fn remove<T>(&self, table: &Table<&'static str, T>, key: &str) -> Result<(), LedgerError> {
        self.open(table)?.remove(key)?;
        Ok(())
    }

    pub(super) fn named<T: Record>(
        &self,
        table: &Table<&'static str, T>,
    ) -> Result<Vec<(String, T)>, LedgerError> {
        collect(table, &self.open(table)?, str::to_owned)
    }

    pub(super) fn numbered<T: Record>(&self, table: &Table<u64, T>) -> Result<Vec<T>, LedgerError> {
        let all = collect(table, &self.open(table)?, |key| key)?;
        Ok(all.into_iter().map(|(_, record)| record).collect())
    }

    pub(super) fn get_numbered<T: Record>(
        &self,
        table: &Table<u64, T>,
        key: u64,
    ) -> Result<Option<T>, LedgerError> {
        match self.open(table)?.get(key)? {
            Some(value) => table.decode(value.value()).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn put_numbered<T: Record>(
        &self,
        table: &Table<u64, T>,
        key: u64,
        record: &T,
    ) -> Result<(), LedgerError> {
        self.open(table)?.insert(key, table.encode(record)?.as_slice())?;
        Ok(())
    }

    pub(super) fn remove_numbered<T>(&self, table: &Table<u64, T>, key: u64) -> Result<(), LedgerError> {
        self.open(table)?.remove(key)?;
        Ok(())
    }

    pub(super) fn count<T>(&self, table: &Table<u64, T>) -> Result<u64, LedgerError> {
        Ok(self.open(table)?.len()?)
    }

    /// The highest key, if there is any record.
    pub(super) fn last_key<T>(&self, table: &Table<u64, T>) -> Result<Option<u64>, LedgerError> {
        Ok(self.open(table)?.last()?.map(|(key, _)| key.value()))
    }

    pub(super) fn remove_up_to<T>(&self, table: &Table<u64, T>, key: u64) -> Result<(), LedgerError> {
        self.open(table)?.retain_in(..=key, |_, _| false)?;
        Ok(())
    }

    /// Removes the oldest records beyond the newest `most`.
    pub(super) fn keep_newest<T>(&self, table: &Table<u64, T>, most: u64) -> Result<(), LedgerError> {
        let mut open = self.open(table)?;
        while open.len()? > most {
            open.pop_first()?;
        }
        Ok(())
    }

    pub(super) fn put_envelope(&self, envelope: &[u8]) -> Result<(), LedgerError> {
        self.open_definition(ENVELOPE)?.insert(ONLY, envelope)?;
        Ok(())
    }
}
