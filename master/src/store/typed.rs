//! Types over the store: a record knows its table, its key and its version.

use std::sync::Arc;

use decnet_wire::ids::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::measured::Measured;
use super::{Decision, Order, Store, StoreError, Table, Transaction, View};
use crate::audit::{Actor, Audited, Change, Entry, StoredEntry, digest_of};
use crate::metrics::Commits;

/// A record of one table. On disk: one byte of version, then JSON.
pub trait Record: Serialize + DeserializeOwned {
    /// What the table is ordered by.
    type Key;
    const TABLE: Table;
    /// Raised when the form changes; [`Record::migrate`] then reads the older ones.
    const VERSION: u8 = 1;
    /// Whether [`Record::refuses`] is asked before anything takes its place.
    const GUARDED: bool = false;

    fn key_bytes(key: &Self::Key) -> Vec<u8>;

    /// Why nothing like `next` may take the place of this record, where that is so. None for `next`: it is removed.
    fn refuses(&self, _next: Option<&Self>) -> Option<&'static str> {
        None
    }

    /// Reads a record of an older version.
    ///
    /// # Errors
    /// There is no older version, or this one does not read as it.
    fn migrate(_version: u8, json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

/// A handle on the store. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Db(Arc<dyn Store>);

impl Db {
    /// Wraps a store.
    #[must_use]
    pub fn new(store: impl Store) -> Self {
        Self(Arc::new(store))
    }

    /// The same store, whose commits are timed.
    pub(crate) fn measured(self, commits: Arc<Commits>) -> Self {
        Self::new(Measured::new(self.0, commits))
    }

    /// Reads from one snapshot.
    ///
    /// # Errors
    /// The store's, or those of `work`.
    pub fn read<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&Reader<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let view = self.0.view()?;
        work(&Reader(view.as_ref()))
    }

    /// Changes something at somebody's wish: the change and its entry in the audit log are kept together, or, after an
    /// error, neither.
    ///
    /// # Errors
    /// The store's, those of `work`, or [`StoreError::Unaudited`] when it wrote and says that nothing changed.
    pub fn change<T, E: From<StoreError>>(
        &self,
        by: &Actor,
        at: Timestamp,
        work: impl FnOnce(&mut Writer<'_>) -> Result<Audited<T>, E>,
    ) -> Result<T, E> {
        let (outcome, entry) = self.transact(Purpose::Change, |w| -> Result<_, E> {
            match work(w)? {
                Audited::Changed(outcome, change) => {
                    let entry = w.append(by, at, change)?;
                    Ok((outcome, Some(entry)))
                }
                Audited::Unchanged(_) if w.wrote => Err(StoreError::Unaudited { table: "audit" }.into()),
                Audited::Unchanged(outcome) => Ok((outcome, None)),
            }
        })?;
        if let Some(Entry {
            seq,
            digest,
            actor,
            action,
            subject,
            ..
        }) = entry
        {
            // The journal is kept elsewhere: the head that it has shows when the log was cut off.
            tracing::info!(seq, %digest, %actor, action, subject, "audit");
        }
        Ok(outcome)
    }

    /// Reads and writes what follows from decisions that were made before, and what hosts say of themselves: all of it
    /// is kept, or, after an error, none. What only somebody's wish changes cannot be written here.
    ///
    /// # Errors
    /// The store's, or those of `work`.
    pub fn bookkeep<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&mut Writer<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.transact(Purpose::Bookkeeping, work)
    }

    /// All tables as they are now, bytes for bytes.
    ///
    /// # Errors
    /// The store's, or those of `work`.
    pub(crate) fn snapshot<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&dyn View) -> Result<T, E>,
    ) -> Result<T, E> {
        let view = self.0.view()?;
        work(view.as_ref())
    }

    fn transact<T, E: From<StoreError>>(
        &self,
        purpose: Purpose,
        work: impl FnOnce(&mut Writer<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut work = Some(work);
        let mut outcome = None;
        self.0.transact(&mut |transaction| {
            // `transact` calls its work once; a store that called it again would get no second answer.
            let Some(work) = work.take() else {
                return Decision::Abort;
            };
            let mut writer = Writer {
                transaction,
                purpose,
                wrote: false,
            };
            let result = work(&mut writer);
            // A commit waits for the disk, also when there is nothing to write.
            let decision = if result.is_ok() && writer.wrote {
                Decision::Commit
            } else {
                Decision::Abort
            };
            outcome = Some(result);
            decision
        })?;
        match outcome {
            Some(result) => result,
            None => Err(StoreError::Access {
                action: "run a transaction of",
                source: redb::Error::Corrupted("the transaction's work was not run".to_owned()),
            }
            .into()),
        }
    }
}

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Change,
    Bookkeeping,
}

impl Purpose {
    /// The audit log grows by its own way alone. Settings and enrolment tokens change by somebody's wish alone.
    fn allow(self, table: Table) -> Result<(), StoreError> {
        match table {
            Table::Audit => {}
            Table::Settings | Table::EnrolTokens if self == Self::Bookkeeping => {}
            _ => return Ok(()),
        }
        Err(StoreError::Unaudited { table: table.name() })
    }
}

/// Typed reads from one snapshot.
pub struct Reader<'a>(&'a dyn View);

impl<'a> Reader<'a> {
    /// Typed reads of a view.
    pub(crate) fn of(view: &'a dyn View) -> Self {
        Self(view)
    }
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl Reader<'_> {
    /// The record under a key.
    ///
    /// # Errors
    /// The store's, or a damaged record.
    pub fn get<R: Record>(&self, key: &R::Key) -> Result<Option<R>, StoreError> {
        get(self.0, key)
    }

    /// Whether there is a record under a key, without reading it.
    ///
    /// # Errors
    /// The store's.
    pub fn has<R: Record>(&self, key: &R::Key) -> Result<bool, StoreError> {
        Ok(self.0.get(R::TABLE, &R::key_bytes(key))?.is_some())
    }

    /// Every record of a table, in the order of its keys.
    ///
    /// # Errors
    /// The store's, or a damaged record.
    pub fn all<R: Record>(&self) -> Result<Vec<R>, StoreError> {
        all(self.0)
    }

    /// Records of a table from a key on, with their keys' bytes, until `visit` returns `false`.
    ///
    /// # Errors
    /// The store's, or a damaged record.
    pub fn from<R: Record>(
        &self,
        first: &R::Key,
        visit: impl FnMut(&[u8], R) -> bool,
    ) -> Result<(), StoreError> {
        scan(self.0, Order::From(&R::key_bytes(first)), visit)
    }

    /// The last key of a table, if it has any, without reading what stands there.
    ///
    /// # Errors
    /// The store's.
    pub(crate) fn newest_key(&self, table: Table, mut visit: impl FnMut(&[u8])) -> Result<(), StoreError> {
        self.0.scan(table, Order::Descending, &mut |key, _| {
            visit(key);
            false
        })
    }

    /// How many records a table has.
    ///
    /// # Errors
    /// The store's.
    pub fn count<R: Record>(&self) -> Result<u64, StoreError> {
        self.0.count(R::TABLE)
    }

    /// Records of a table from the first key up, until `visit` returns `false`.
    ///
    /// # Errors
    /// The store's, or a damaged record.
    pub fn oldest<R: Record>(&self, mut visit: impl FnMut(R) -> bool) -> Result<(), StoreError> {
        scan(self.0, Order::Ascending, |_, record| visit(record))
    }

    /// Records of a table from the last key down, until `visit` returns `false`.
    ///
    /// # Errors
    /// The store's, or a damaged record.
    pub fn newest<R: Record>(&self, mut visit: impl FnMut(R) -> bool) -> Result<(), StoreError> {
        scan(self.0, Order::Descending, |_, record| visit(record))
    }
}

/// Typed reads and writes in one transaction.
pub struct Writer<'a> {
    transaction: &'a mut dyn Transaction,
    purpose: Purpose,
    wrote: bool,
}

impl std::fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

impl Writer<'_> {
    /// The same transaction for code that only reads.
    #[must_use]
    pub fn reader(&self) -> Reader<'_> {
        Reader(&*self.transaction)
    }

    /// The record under a key.
    ///
    /// # Errors
    /// The store's, or a damaged record.
    pub fn get<R: Record>(&self, key: &R::Key) -> Result<Option<R>, StoreError> {
        self.reader().get(key)
    }

    /// Every record of a table, in the order of its keys.
    ///
    /// # Errors
    /// The store's, or a damaged record.
    pub fn all<R: Record>(&self) -> Result<Vec<R>, StoreError> {
        self.reader().all()
    }

    /// Writes the record under a key.
    ///
    /// # Errors
    /// The store's, [`StoreError::Unaudited`], or [`StoreError::Immutable`].
    pub fn put<R: Record>(&mut self, key: &R::Key, record: &R) -> Result<(), StoreError> {
        self.purpose.allow(R::TABLE)?;
        self.guard(key, Some(record))?;
        self.write(key, record)
    }

    /// Removes the record under a key, if there is one.
    ///
    /// # Errors
    /// The store's, [`StoreError::Unaudited`], or [`StoreError::Immutable`].
    pub fn remove<R: Record>(&mut self, key: &R::Key) -> Result<(), StoreError> {
        self.purpose.allow(R::TABLE)?;
        self.guard::<R>(key, None)?;
        self.wrote = true;
        self.transaction.remove(R::TABLE, &R::key_bytes(key))
    }

    fn guard<R: Record>(&self, key: &R::Key, next: Option<&R>) -> Result<(), StoreError> {
        if !R::GUARDED {
            return Ok(());
        }
        let why = self.get::<R>(key)?.and_then(|stored| stored.refuses(next));
        why.map_or(Ok(()), |why| {
            Err(StoreError::Immutable {
                table: R::TABLE.name(),
                key: key_text(&R::key_bytes(key)),
                why,
            })
        })
    }

    fn write<R: Record>(&mut self, key: &R::Key, record: &R) -> Result<(), StoreError> {
        let mut value = vec![R::VERSION];
        serde_json::to_writer(&mut value, record).map_err(encoding::<R>)?;
        self.wrote = true;
        self.transaction.put(R::TABLE, &R::key_bytes(key), &value)
    }

    /// Adds the entry that follows the last one.
    fn append(&mut self, by: &Actor, at: Timestamp, change: Change) -> Result<Entry, StoreError> {
        let mut last = None;
        // By its key, and whatever somebody made of it: a damaged log is for people to see, and stops nobody.
        self.transaction
            .scan(Table::Audit, Order::Descending, &mut |key, value| {
                let entry: Value =
                    serde_json::from_slice(value.get(1..).unwrap_or_default()).unwrap_or_default();
                let said = entry["digest"].as_str().and_then(|digest| digest.parse().ok());
                let seq = <[u8; 8]>::try_from(key).map_or(u64::MAX, u64::from_be_bytes);
                last = Some((seq, said.unwrap_or_else(|| digest_of(&entry))));
                false
            })?;
        if last.as_ref().is_some_and(|(seq, _)| *seq == u64::MAX) {
            return Err(StoreError::Chain);
        }
        let entry = Entry::following(last, at, by, change).map_err(encoding::<StoredEntry>)?;
        let value = serde_json::to_value(&entry).map_err(encoding::<StoredEntry>)?;
        self.write(&entry.seq, &StoredEntry(value))?;
        Ok(entry)
    }
}

fn encoding<R: Record>(source: serde_json::Error) -> StoreError {
    StoreError::Encode {
        table: R::TABLE.name(),
        source,
    }
}

fn get<R: Record>(view: &dyn View, key: &R::Key) -> Result<Option<R>, StoreError> {
    let key = R::key_bytes(key);
    view.get(R::TABLE, &key)?
        .map(|value| decode(&key, &value))
        .transpose()
}

fn all<R: Record>(view: &dyn View) -> Result<Vec<R>, StoreError> {
    let mut records = Vec::new();
    scan(view, Order::Ascending, |_, record| {
        records.push(record);
        true
    })?;
    Ok(records)
}

fn scan<R: Record>(
    view: &dyn View,
    order: Order<'_>,
    mut visit: impl FnMut(&[u8], R) -> bool,
) -> Result<(), StoreError> {
    let mut failed = None;
    view.scan(R::TABLE, order, &mut |key, value| match decode(key, value) {
        Ok(record) => visit(key, record),
        Err(error) => {
            failed = Some(error);
            false
        }
    })?;
    failed.map_or(Ok(()), Err)
}

fn decode<R: Record>(key: &[u8], value: &[u8]) -> Result<R, StoreError> {
    let table = R::TABLE.name();
    let name = || key_text(key);
    let (version, json) = value.split_first().unwrap_or((&0, &[]));
    let record = match *version {
        found if found > R::VERSION => {
            return Err(StoreError::Version {
                table,
                key: name(),
                found,
                known: R::VERSION,
            });
        }
        found if found < R::VERSION => R::migrate(found, json),
        _ => serde_json::from_slice(json),
    };
    record.map_err(|source| StoreError::Decode {
        table,
        key: name(),
        source,
    })
}

fn key_text(key: &[u8]) -> String {
    if let Ok(bytes) = <[u8; 16]>::try_from(key) {
        return uuid::Uuid::from_bytes(bytes).to_string();
    }
    match <[u8; 8]>::try_from(key) {
        // A number, or a name of eight letters.
        Ok(bytes @ [0, ..]) => u64::from_be_bytes(bytes).to_string(),
        _ => String::from_utf8_lossy(key).into_owned(),
    }
}
