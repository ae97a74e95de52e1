//! The store in one redb file.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::{Decision, Order, Store, StoreError, Table, Transaction, View};

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// How many hundredths of a second others have to let go of a database that failed. Transactions are short.
const LETTING_GO: u32 = 100;

const fn definition(table: Table) -> Definition {
    TableDefinition::new(table.name())
}

/// One redb file, opened by one process.
///
/// After a write that the disk refused redb takes no more: the file is then opened anew, as after a crash.
pub struct RedbStore {
    path: PathBuf,
    /// None between a failure and the next use.
    database: Mutex<Option<Arc<Database>>>,
}

impl std::fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RedbStore")
    }
}

impl RedbStore {
    /// Makes the file, readable by its owner alone.
    ///
    /// # Errors
    /// There is one already, or it cannot be written.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| failed(path, redb::Error::Io(error)))?;
        Self::with_tables(path, Database::create(path))
    }

    /// Opens a file that [`RedbStore::create`] made, and reads all of it: damage shows now, and not in the middle of
    /// a night.
    ///
    /// # Errors
    /// The file is missing, held by another process, damaged, or cannot be written.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let opened = std::panic::catch_unwind(|| {
            let mut database = Database::open(path).map_err(|error| failed(path, error.into()))?;
            let sound = database
                .check_integrity()
                .map_err(|error| failed(path, error.into()))?;
            if !sound {
                tracing::warn!(path = %path.display(), "the store was not as it was left; what was committed is whole");
            }
            Self::with_tables(path, Ok(database))
        });
        // redb checks what it reads, and yet panics over some files whose bytes were changed. Nothing of it is left.
        opened.unwrap_or_else(|_| {
            Err(failed(
                path,
                redb::Error::Corrupted("its pages contradict each other".to_owned()),
            ))
        })
    }

    /// A store of a newer version may have tables more: those of an older one are added.
    fn with_tables(path: &Path, database: Result<Database, redb::DatabaseError>) -> Result<Self, StoreError> {
        let database = database.map_err(|error| failed(path, error.into()))?;
        let begin = database
            .begin_write()
            .map_err(|error| failed(path, error.into()))?;
        for table in Table::ALL {
            begin
                .open_table(definition(table))
                .map_err(|error| failed(path, error.into()))?;
        }
        begin.commit().map_err(|error| failed(path, error.into()))?;
        Ok(Self {
            path: path.to_owned(),
            database: Mutex::new(Some(Arc::new(database))),
        })
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Database>>> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn database(&self) -> Result<Arc<Database>, StoreError> {
        let mut slot = self.slot();
        if let Some(database) = &*slot {
            return Ok(Arc::clone(database));
        }
        let database = Database::open(&self.path).map_err(|error| failed(&self.path, error.into()))?;
        tracing::warn!(path = %self.path.display(), "the store was opened anew after a failed write");
        Ok(Arc::clone(slot.insert(Arc::new(database))))
    }

    /// Closes the database that failed, unless somebody has done so already. False while somebody uses it: who does
    /// meets the same failure and lets go.
    fn close(&self, failed: &Weak<Database>) -> bool {
        let mut slot = self.slot();
        match slot.take() {
            Some(database) if Weak::ptr_eq(&Arc::downgrade(&database), failed) => {
                *slot = Arc::try_unwrap(database).err();
                slot.is_none()
            }
            other => {
                *slot = other;
                true
            }
        }
    }

    /// Begins a transaction; once more on the file opened anew where an earlier failure stands in the way.
    fn begin<T>(
        &self,
        action: &'static str,
        begin: impl Fn(&Database) -> Result<T, redb::Error>,
    ) -> Result<(T, Arc<Database>), StoreError> {
        let database = self.database()?;
        match begin(&database) {
            Err(redb::Error::PreviousIo) => {}
            begun => return Ok((begun.map_err(access(action))?, database)),
        }
        self.give_up(database);
        let database = self.database()?;
        let begun = begin(&database).map_err(access(action))?;
        Ok((begun, database))
    }

    /// Closes a database that takes no more; the next use opens the file anew.
    fn give_up(&self, database: Arc<Database>) {
        let failed = Arc::downgrade(&database);
        drop(database);
        for _ in 0..LETTING_GO {
            if self.close(&failed) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn failed(path: &Path, source: redb::Error) -> StoreError {
    use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    let path = path.display().to_string();
    match source {
        redb::Error::DatabaseAlreadyOpen => StoreError::Held { path },
        redb::Error::Corrupted(_) | redb::Error::RepairAborted => StoreError::Damaged { path, source },
        redb::Error::Io(ref error) if matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof) => {
            StoreError::Damaged { path, source }
        }
        source => StoreError::Open { path, source },
    }
}

fn access<E: Into<redb::Error>>(action: &'static str) -> impl Fn(E) -> StoreError {
    move |error| StoreError::Access {
        action,
        source: error.into(),
    }
}

impl Store for RedbStore {
    fn view(&self) -> Result<Box<dyn View + '_>, StoreError> {
        let (transaction, database) = self.begin("read", |database| Ok(database.begin_read()?))?;
        Ok(Box::new(Snapshot(transaction, database)))
    }

    fn transact(&self, work: &mut dyn FnMut(&mut dyn Transaction) -> Decision) -> Result<(), StoreError> {
        let (transaction, database) =
            self.begin("begin a write to", |database| Ok(database.begin_write()?))?;
        let mut writing = Writing {
            transaction,
            failed: false,
        };
        let decision = work(&mut writing);
        let Writing { transaction, failed } = writing;
        let outcome = match decision {
            Decision::Commit => transaction.commit().map_err(access("commit to")),
            Decision::Abort => transaction.abort().map_err(access("abort a write to")),
        };
        if failed || outcome.is_err() {
            // Also reads fail on it from now on.
            self.give_up(database);
        }
        outcome
    }
}

/// The database is in use as long as this is.
struct Snapshot(ReadTransaction, #[expect(dead_code)] Arc<Database>);

impl View for Snapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        get(
            &self.0.open_table(definition(table)).map_err(access("read"))?,
            key,
        )
    }

    fn scan(
        &self,
        table: Table,
        order: Order<'_>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        scan(
            &self.0.open_table(definition(table)).map_err(access("read"))?,
            order,
            visit,
        )
    }
}

struct Writing {
    transaction: WriteTransaction,
    /// The disk did not take something.
    failed: bool,
}

impl Writing {
    fn noting<T>(
        &mut self,
        write: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let written = write(&self.transaction);
        self.failed |= written.is_err();
        written.map_err(access("write to"))
    }
}

impl View for Writing {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        get(
            &self
                .transaction
                .open_table(definition(table))
                .map_err(access("read"))?,
            key,
        )
    }

    fn scan(
        &self,
        table: Table,
        order: Order<'_>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        scan(
            &self
                .transaction
                .open_table(definition(table))
                .map_err(access("read"))?,
            order,
            visit,
        )
    }
}

impl Transaction for Writing {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.noting(|transaction| {
            transaction.open_table(definition(table))?.insert(key, value)?;
            Ok(())
        })
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        self.noting(|transaction| {
            transaction.open_table(definition(table))?.remove(key)?;
            Ok(())
        })
    }
}

fn get(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &[u8],
) -> Result<Option<Vec<u8>>, StoreError> {
    let value = table.get(key).map_err(access("read"))?;
    Ok(value.map(|value| value.value().to_vec()))
}

fn scan(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    order: Order<'_>,
    visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<(), StoreError> {
    let mut entries = match order {
        Order::From(first) => table.range::<&[u8]>(first..),
        Order::Ascending | Order::Descending => table.iter(),
    }
    .map_err(access("read"))?;
    loop {
        let entry = match order {
            Order::Ascending | Order::From(_) => entries.next(),
            Order::Descending => entries.next_back(),
        };
        let Some(entry) = entry else { break };
        let (key, value) = entry.map_err(access("read"))?;
        if !visit(key.value(), value.value()) {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{HostStatus, Role};
    use crate::store::{Db, Reader, Record, Writer};
    use decnet_wire::ids::HostId;
    use rand::rngs::SmallRng;
    use rand::{RngExt as _, SeedableRng as _};
    use uuid::Uuid;

    fn host(n: u128) -> HostId {
        HostId::new(Uuid::from_u128(n))
    }

    fn put(w: &mut Writer<'_>, n: u128) -> Result<(), StoreError> {
        w.put(&host(n), &HostStatus::unheard(host(n)))
    }

    fn all(db: &Db) -> Vec<HostStatus> {
        let read = |r: &Reader<'_>| r.all();
        db.read(read).unwrap()
    }

    #[test]
    fn a_failed_transaction_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::new(RedbStore::create(&folder.path().join("store.redb")).unwrap());
        let failed = db.bookkeep(|w| {
            put(w, 1)?;
            assert!(w.get::<HostStatus>(&host(1))?.is_some(), "a write sees itself");
            w.reader()
                .get::<crate::records::Settings>(&())?
                .ok_or(StoreError::Version {
                    table: "settings",
                    key: String::new(),
                    found: 0,
                    known: 0,
                })
        });
        assert!(failed.is_err());
        assert!(all(&db).is_empty());
    }

    #[test]
    fn what_was_committed_is_there_after_reopening_in_the_order_of_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        {
            let db = Db::new(RedbStore::create(&path).unwrap());
            db.bookkeep(|w| [3, 1, 2].into_iter().try_for_each(|n| put(w, n)))
                .unwrap();
        }
        let db = Db::new(RedbStore::open(&path).unwrap());
        let hosts: Vec<HostId> = all(&db).into_iter().map(|status| status.host).collect();
        assert_eq!(hosts, [host(1), host(2), host(3)]);
    }

    #[test]
    fn a_second_process_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let _held = RedbStore::create(&path).unwrap();
        assert!(matches!(RedbStore::open(&path), Err(StoreError::Held { .. })));
        assert!(matches!(RedbStore::create(&path), Err(StoreError::Open { .. })));
    }

    #[test]
    fn a_store_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        RedbStore::create(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    /// An empty file became an empty store, bytes that were changed made redb panic, or served a store with holes.
    #[test]
    fn a_damaged_store_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let db = Db::new(RedbStore::create(&path).unwrap());
        db.bookkeep(|w| (1..200).try_for_each(|n| put(w, n))).unwrap();
        let stored = all(&db);
        drop(db);
        let sound = std::fs::read(&path).unwrap();
        let half = sound[..sound.len() / 2].to_vec();
        let refused = [Vec::new(), vec![0; sound.len()], b"no store".to_vec(), half];
        for (number, bytes) in refused.iter().enumerate() {
            std::fs::write(&path, bytes).unwrap();
            let opened = RedbStore::open(&path);
            assert!(
                matches!(opened, Err(StoreError::Damaged { .. })),
                "{number}: {opened:?}"
            );
            assert_eq!(std::fs::read(&path).unwrap(), *bytes, "{number}");
        }
        for seed in 0..40 {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut bytes = sound.clone();
            for _ in 0..400 {
                let at = random.random_range(0..bytes.len());
                bytes[at] ^= random.random_range(1..=u8::MAX);
            }
            std::fs::write(&path, &bytes).unwrap();
            match RedbStore::open(&path) {
                Ok(store) => assert_eq!(all(&Db::new(store)), stored, "seed {seed}"),
                Err(error) => assert!(
                    matches!(error, StoreError::Damaged { .. }),
                    "seed {seed}: {error:?}"
                ),
            }
        }
    }

    #[test]
    fn a_record_of_a_newer_master_is_not_read_as_an_older_one() {
        #[derive(Debug, serde::Serialize, serde::Deserialize)]
        struct Newer {
            role: Role,
        }
        impl Record for Newer {
            type Key = HostId;
            const TABLE: Table = Table::HostStatus;
            const VERSION: u8 = HostStatus::VERSION + 1;
            fn key_bytes(key: &HostId) -> Vec<u8> {
                HostStatus::key_bytes(key)
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let db = Db::new(RedbStore::create(&folder.path().join("store.redb")).unwrap());
        db.bookkeep(|w| w.put(&host(1), &Newer { role: Role::Admin }))
            .unwrap();
        let read = db.read(|r| r.get::<HostStatus>(&host(1)));
        assert!(matches!(read, Err(StoreError::Version { .. })), "{read:?}");
    }
}
