//! The store in one redb file.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata as _, TableDefinition,
    WriteTransaction,
};

use super::{Decision, Order, Store, StoreError, Table, Transaction, View};

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// How many hundredths of a second others have to let go of a database that failed. Transactions are short.
const LETTING_GO: u32 = 100;

/// How long who commits waits for those that are on their way: less than a disk takes.
const GATHERING: Duration = Duration::from_millis(5);

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
    /// The group that takes members now.
    gathering: Mutex<Option<Group>>,
    /// How many are on their way into a group.
    coming: AtomicUsize,
    /// Nobody is, by now.
    gathered: Condvar,
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
            gathering: Mutex::new(None),
            coming: AtomicUsize::new(0),
            gathered: Condvar::new(),
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
        let end = self.join(work)?;
        self.wait_for(&end)
    }
}

impl RedbStore {
    /// Does the work in the group that gathers now; how that ends is decided by [`RedbStore::wait_for`].
    fn join(&self, work: &mut dyn FnMut(&mut dyn Transaction) -> Decision) -> Result<End, StoreError> {
        self.coming.fetch_add(1, Ordering::SeqCst);
        let mut gathering = lock(&self.gathering);
        self.coming.fetch_sub(1, Ordering::SeqCst);
        let group = match &mut *gathering {
            Some(group) => group,
            none => {
                // Waits for the group before to be committed. Who comes meanwhile joins this one.
                let (transaction, database) =
                    self.begin("begin a write to", |database| Ok(database.begin_write()?))?;
                none.insert(Group {
                    transaction,
                    database,
                    wrote: false,
                    fault: None,
                    end: End::default(),
                })
            }
        };
        let end = End::clone(&group.end);
        let mut writing = Writing {
            group,
            undo: Vec::new(),
        };
        if work(&mut writing) == Decision::Commit {
            writing.keep();
        }
        if self.coming.load(Ordering::SeqCst) == 0 {
            self.gathered.notify_one();
        }
        Ok(end)
    }

    /// Until the group of this end is on the disk. Whoever comes first commits it for all.
    fn wait_for(&self, end: &End) -> Result<(), StoreError> {
        let outcome = match end.lead() {
            Some(leading) => leading.ended(self.commit()),
            None => end.wait(),
        };
        outcome.map_err(Fault::into_error)
    }

    /// Commits the group that gathers. Called once for each.
    fn commit(&self) -> Result<(), Fault> {
        let last = Instant::now() + GATHERING;
        let mut gathering = lock(&self.gathering);
        while self.coming.load(Ordering::SeqCst) > 0 {
            let left = last.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.gathered.wait_timeout(gathering, left);
            gathering = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        // It is there: nobody else takes it, and the next one begins after its end.
        let Some(group) = gathering.take() else {
            return Err(Fault::of(&redb::Error::PreviousIo));
        };
        drop(gathering);
        let Group {
            transaction,
            database,
            wrote,
            fault,
            end: _,
        } = group;
        let outcome = match fault {
            None if wrote => transaction.commit().map_err(|error| Fault::of(&error.into())),
            // Nothing is to be written.
            None => transaction.abort().map_err(|error| Fault::of(&error.into())),
            Some(fault) => {
                drop(transaction);
                Err(fault)
            }
        };
        if outcome.is_err() {
            // Also reads fail on it from now on.
            self.give_up(database);
        }
        outcome
    }
}

/// How a group ended, once it has. Its members wait here, and for no other group.
#[derive(Debug, Clone, Default)]
struct End(Arc<Ending>);

#[derive(Debug, Default)]
struct Ending {
    /// Somebody commits it.
    led: AtomicBool,
    outcome: Mutex<Option<Result<(), Fault>>>,
    told: Condvar,
}

impl End {
    /// The one who is to commit.
    fn lead(&self) -> Option<Leading<'_>> {
        (!self.0.led.swap(true, Ordering::SeqCst)).then(|| Leading(&self.0))
    }

    fn wait(&self) -> Result<(), Fault> {
        let mut outcome = lock(&self.0.outcome);
        loop {
            if let Some(outcome) = &*outcome {
                return outcome.clone();
            }
            outcome = self.0.told.wait(outcome).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Who commits for a group. Tells the others also when it panics.
struct Leading<'a>(&'a Ending);

impl Leading<'_> {
    fn ended(self, outcome: Result<(), Fault>) -> Result<(), Fault> {
        *lock(&self.0.outcome) = Some(outcome.clone());
        outcome
    }
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        let unknown = || Err(Fault::of(&redb::Error::PreviousIo));
        lock(&self.0.outcome).get_or_insert_with(unknown);
        self.0.told.notify_all();
    }
}

/// Writes that are committed together: what waits for the disk waits once for all.
///
/// Guarantees: each member's writes are kept whole or not at all, whatever the others do; a member sees the writes of those
/// before it, and is told of its end only when theirs are on the disk as well.
struct Group {
    transaction: WriteTransaction,
    database: Arc<Database>,
    /// Somebody's writes are to be kept.
    wrote: bool,
    /// The disk did not take something: nothing of this group is kept.
    fault: Option<Fault>,
    end: End,
}

/// What went wrong, for each member of a group.
#[derive(Debug, Clone)]
struct Fault {
    kind: std::io::ErrorKind,
    text: String,
}

impl Fault {
    fn of(error: &redb::Error) -> Self {
        let kind = match error {
            redb::Error::Io(error) => error.kind(),
            _ => std::io::ErrorKind::Other,
        };
        let text = error.to_string();
        Self { kind, text }
    }

    fn into_error(self) -> StoreError {
        StoreError::Access {
            action: "commit to",
            source: redb::Error::Io(std::io::Error::new(self.kind, self.text)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A member that panicked has undone its writes; what is in there is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn count(&self, table: Table) -> Result<u64, StoreError> {
        let table = self.0.open_table(definition(table)).map_err(access("read"))?;
        table.len().map_err(access("read"))
    }
}

/// One member's writes. What is not kept is undone when this is dropped, also after a panic.
struct Writing<'a> {
    group: &'a mut Group,
    /// What was there before each write, the first one first.
    undo: Vec<(Table, Vec<u8>, Option<Vec<u8>>)>,
}

impl Writing<'_> {
    fn keep(mut self) {
        self.group.wrote |= !self.undo.is_empty();
        self.undo.clear();
    }

    /// Writes, or removes, and gives out what was there.
    fn set(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) -> Result<Option<Vec<u8>>, StoreError> {
        let write = || -> Result<_, redb::Error> {
            let mut table = self.group.transaction.open_table(definition(table))?;
            let before = match value {
                Some(value) => table.insert(key, value)?,
                None => table.remove(key)?,
            };
            Ok(before.map(|before| before.value().to_vec()))
        };
        write().map_err(|error| {
            self.group.fault.get_or_insert_with(|| Fault::of(&error));
            access("write to")(error)
        })
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        while let Some((table, key, before)) = self.undo.pop() {
            // A failure is noted: the whole group is given up then.
            let _ = self.set(table, &key, before.as_deref());
        }
    }
}

impl View for Writing<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        get(
            &self
                .group
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
                .group
                .transaction
                .open_table(definition(table))
                .map_err(access("read"))?,
            order,
            visit,
        )
    }

    fn count(&self, table: Table) -> Result<u64, StoreError> {
        let table = self
            .group
            .transaction
            .open_table(definition(table))
            .map_err(access("read"))?;
        table.len().map_err(access("read"))
    }
}

impl Transaction for Writing<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let before = self.set(table, key, Some(value))?;
        self.undo.push((table, key.to_vec(), before));
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        let before = self.set(table, key, None)?;
        self.undo.push((table, key.to_vec(), before));
        Ok(())
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

    /// In a group that another member's writes keep, what is undone goes back to what was there before the first of its writes.
    #[test]
    fn what_is_written_twice_and_not_kept_is_as_it_was_before_both() {
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::create(&folder.path().join("store.redb")).unwrap();
        let (old, new) = (b"old".as_slice(), b"new".as_slice());
        let end = store
            .join(&mut |t| {
                t.put(Table::Hosts, old, b"0").unwrap();
                Decision::Commit
            })
            .unwrap();
        let undone = store.join(&mut |t| {
            for value in [b"1", b"2"] {
                t.put(Table::Hosts, old, value).unwrap();
                t.put(Table::Hosts, new, value).unwrap();
            }
            t.remove(Table::Hosts, old).unwrap();
            Decision::Abort
        });
        assert!(Arc::ptr_eq(&undone.unwrap().0, &end.0), "they share a commit");
        store.wait_for(&end).unwrap();
        let view = store.view().unwrap();
        assert_eq!(
            view.get(Table::Hosts, old).unwrap().as_deref(),
            Some(b"0".as_slice())
        );
        assert_eq!(view.get(Table::Hosts, new).unwrap(), None);
    }

    /// Members of one group that fail, write nothing or panic leave the others' writes alone, and leave none of theirs.
    #[test]
    fn whoever_shares_a_commit_keeps_its_writes_whole_or_loses_them_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let db = Db::new(RedbStore::create(&path).unwrap());
        let each = 40_u128;
        std::thread::scope(|scope| {
            for thread in 0..8_u128 {
                let db = db.clone();
                scope.spawn(move || {
                    for round in 0..each {
                        let n = 10 * (thread * each + round);
                        let write = |w: &mut Writer<'_>| {
                            put(w, n)?;
                            // Also over what another one has written, and away.
                            put(w, 1_000_000)?;
                            w.remove::<HostStatus>(&host(1_000_000 + round % 3))?;
                            put(w, n + 1)
                        };
                        match round % 4 {
                            0 | 1 => db.bookkeep(write).unwrap(),
                            2 => {
                                let failed = db.bookkeep(|w| {
                                    write(w)?;
                                    Err::<(), _>(StoreError::Chain)
                                });
                                assert!(matches!(failed, Err(StoreError::Chain)), "{failed:?}");
                            }
                            _ => {
                                let work = || {
                                    db.bookkeep(|w| -> Result<(), StoreError> {
                                        write(w)?;
                                        panic!("in the middle of a write")
                                    })
                                };
                                let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                                assert!(panicked.is_err());
                            }
                        }
                    }
                });
            }
        });
        drop(db);
        let db = Db::new(RedbStore::open(&path).unwrap());
        let known: std::collections::BTreeSet<HostId> = all(&db).into_iter().map(|one| one.host).collect();
        for thread in 0..8 {
            for round in 0..each {
                let n = 10 * (thread * each + round);
                let there = [known.contains(&host(n)), known.contains(&host(n + 1))];
                assert_eq!(there, [round % 4 < 2; 2], "{thread} {round}");
            }
        }
    }

    #[test]
    fn those_that_wait_for_the_disk_wait_together() {
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::create(&folder.path().join("store.redb")).unwrap();
        let joined = std::sync::Barrier::new(16);
        let ends: Vec<End> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16_u8)
                .map(|n| {
                    let (store, joined) = (&store, &joined);
                    scope.spawn(move || {
                        let end = store
                            .join(&mut |transaction| {
                                transaction.put(Table::Rows, &[n], b"x").unwrap();
                                Decision::Commit
                            })
                            .unwrap();
                        joined.wait();
                        store.wait_for(&end).unwrap();
                        end
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(
            ends.iter().all(|end| Arc::ptr_eq(&end.0, &ends[0].0)),
            "one commit"
        );
        assert_eq!(store.view().unwrap().count(Table::Rows).unwrap(), 16);
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

    /// An answer that came before the disk had what it says would be wrong after a power cut.
    #[test]
    fn what_was_answered_is_in_the_file_while_the_store_is_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let db = Db::new(RedbStore::create(&path).unwrap());
        for n in 1..=5 {
            db.bookkeep(|w| put(w, n)).unwrap();
            let copy = folder.path().join(format!("copy-{n}.redb"));
            std::fs::copy(&path, &copy).unwrap();
            let copied = all(&Db::new(RedbStore::open(&copy).unwrap()));
            assert_eq!(copied, all(&db), "{n}");
        }
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
