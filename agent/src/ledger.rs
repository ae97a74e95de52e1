//! The agent's memory: one redb file in the state folder.
//!
//! Flow: reads see the last commit. Writes go to one thread, which puts whatever is waiting into one
//! transaction and answers everybody after the commit.
//!
//! Guarantees: what belongs together is one commit (an operation's transition and its event; a bundle and
//! the operations that it names). An event's sequence number is given out once, also across a ledger that
//! had to be set aside. One process holds the file at a time.

mod images;
mod journal;
mod operations;
mod outbox;
mod place;
mod records;
mod tables;
mod troubles;
mod writer;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use decnet_plan::desired::Leases;
use decnet_plan::unused::Fetched;
use decnet_wire::ids::{OperationId, StackName, Timestamp};
use decnet_wire::report::{Event, EventBody};
use redb::{Database, DatabaseError, ReadableDatabase as _, StorageError};
use tokio::sync::Notify;

use crate::error::error_chain;
pub(crate) use operations::{Settled, digest_of};
pub(crate) use outbox::Batch;
use place::OnDisk;
pub(crate) use place::Place;
pub(crate) use records::{Acceptance, FailedTry, RefusalRecord};
pub use records::{
    AcceptedRecord, Incident, IncidentCause, JournalEntry, LastGood, OperationRecord, OperationState,
    OrderRecord, PolicyRecord, StepOutcome, Trouble,
};
use tables::{Snapshot, Tx};
use writer::Writer;

/// The ledger, open. Dropping it waits for the writes under way and closes the file.
#[derive(Debug)]
pub struct Ledger {
    db: Arc<Database>,
    // Joins its thread when dropped.
    writer: Writer,
    outbox_grew: Arc<Notify>,
    first_number: u64,
    commits: Arc<AtomicU64>,
}

/// Bytes of the file that are kept in memory. Records are read a few at a time.
const CACHE: usize = 512 * 1024;

/// What opening a ledger gave.
#[derive(Debug)]
pub struct Opened {
    pub ledger: Ledger,
    /// Where the ledger that could not be used was put, when there was one.
    pub set_aside: Option<PathBuf>,
}

/// The ledger cannot be opened, read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    #[error("another agent holds the ledger {path}")]
    Held { path: PathBuf },
    #[error("cannot open the ledger {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: Arc<redb::Error>,
    },
    #[error("cannot set the damaged ledger {path} aside")]
    SetAside {
        path: PathBuf,
        #[source]
        source: Arc<std::io::Error>,
    },
    #[error("cannot {doing} the ledger")]
    Storage {
        doing: &'static str,
        #[source]
        source: Arc<redb::Error>,
    },
    #[error("a record of the ledger's table {table} is not readable")]
    Decode {
        table: &'static str,
        #[source]
        source: Arc<serde_json::Error>,
    },
    #[error("a record of the ledger's table {table} is of version {found}, newer than this agent's {known}")]
    Version {
        table: &'static str,
        found: u32,
        known: u32,
    },
    #[error("the ledger is closed")]
    Closed,
}

impl LedgerError {
    /// Whether the disk is at fault, and not what lies on it.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Open { source, .. } | Self::Storage { source, .. } => {
                matches!(&**source, redb::Error::Io(_) | redb::Error::PreviousIo) && !is_damage(self)
            }
            _ => false,
        }
    }

    fn storage(doing: &'static str) -> impl FnOnce(redb::Error) -> Self {
        move |source| Self::Storage {
            doing,
            source: Arc::new(source),
        }
    }
}

impl Ledger {
    /// Opens the ledger, or begins one. A file that is there but is no usable ledger is set aside under its
    /// name with the date, and the fresh ledger carries an event that says so.
    ///
    /// # Errors
    /// [`LedgerError::Held`] when another process, or another agent of this one, holds it; otherwise when the
    /// file system refuses.
    pub fn open(path: &Path, now: Timestamp) -> Result<Opened, LedgerError> {
        Self::open_at(&OnDisk(path), now)
    }

    pub(crate) fn open_at(place: &impl Place, now: Timestamp) -> Result<Opened, LedgerError> {
        if !place.is_there().map_err(cannot_open(place))? {
            Self::begin(place, now, None)?;
            place.put_in_place().map_err(cannot_open(place))?;
        }
        match Self::open_caught(place, now) {
            Ok(ledger) => Ok(Opened {
                ledger,
                set_aside: None,
            }),
            Err(error) if is_damage(&error) => {
                let aside = aside(place.path(), now);
                let detail = format!(
                    "{}: it is kept as {}; a fresh one was begun",
                    error_chain(&error),
                    aside.display()
                );
                let note = EventBody::Refused {
                    code: "ledger-damaged".to_owned(),
                    detail,
                    generation: None,
                };
                Self::begin(place, now, Some(note))?;
                place.replace(&aside).map_err(|source| LedgerError::SetAside {
                    path: place.path().to_owned(),
                    source: Arc::new(source),
                })?;
                Ok(Opened {
                    ledger: Self::open_sound(place, now)?,
                    set_aside: Some(aside),
                })
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a fresh ledger beside its place.
    fn begin(place: &impl Place, now: Timestamp, note: Option<EventBody>) -> Result<(), LedgerError> {
        let db = database(place, place.begin().map_err(cannot_open(place))?)?;
        let tx = Tx::start(&db)?;
        tx.initialise(now)?;
        if let Some(note) = note {
            tx.push_event(now, note)?;
        }
        tx.commit().map(drop)
    }

    /// redb checks what it reads, and yet panics over some files whose bytes were changed: that is damage as well.
    fn open_caught(place: &impl Place, now: Timestamp) -> Result<Self, LedgerError> {
        // Nothing outlives the panic but the file, which is set aside.
        let opened = std::panic::catch_unwind(AssertUnwindSafe(|| Self::open_sound(place, now)));
        opened.unwrap_or_else(|_| {
            Err(LedgerError::Open {
                path: place.path().to_owned(),
                source: Arc::new(redb::Error::Corrupted(
                    "its pages contradict each other".to_owned(),
                )),
            })
        })
    }

    fn open_sound(place: &impl Place, now: Timestamp) -> Result<Self, LedgerError> {
        let mut db = database(place, place.backend().map_err(cannot_open(place))?)?;
        db.check_integrity()
            .map_err(|error| cannot_open_for(place)(error.into()))?;
        let tx = Tx::start(&db)?;
        tx.initialise(now)?;
        let first_number = tx.next_number()?;
        tx.commit()?;
        let db = Arc::new(db);
        let outbox_grew = Arc::new(Notify::new());
        let commits = Arc::new(AtomicU64::new(0));
        let writer = Writer::start(Arc::clone(&db), Arc::clone(&outbox_grew), Arc::clone(&commits));
        let ledger = Self {
            db,
            writer,
            outbox_grew,
            first_number,
            commits,
        };
        // Damage shows now, where it can still be set aside, and not in the middle of a night.
        ledger.read(Snapshot::check)?;
        Ok(ledger)
    }

    /// The number of the first event since the ledger was opened.
    pub(crate) const fn first_number(&self) -> u64 {
        self.first_number
    }

    /// Woken once for every commit that put an event into the outbox.
    pub(crate) fn outbox_grew(&self) -> &Notify {
        &self.outbox_grew
    }

    /// The bundle accepted last.
    pub fn accepted(&self) -> Result<Option<AcceptedRecord>, LedgerError> {
        self.read(Snapshot::accepted)
    }

    /// The envelope of the bundle accepted last.
    pub(crate) fn envelope(&self) -> Result<Option<Vec<u8>>, LedgerError> {
        self.read(Snapshot::envelope)
    }

    /// The newest policy that was believed; none while the built-in one holds.
    pub fn policy(&self) -> Result<Option<PolicyRecord>, LedgerError> {
        self.read(Snapshot::policy)
    }

    /// The policy that the accepted bundle was held to.
    pub fn bundle_policy(&self) -> Result<Option<PolicyRecord>, LedgerError> {
        self.read(Snapshot::bundle_policy)
    }

    /// The order to leave the fleet, once there is one.
    pub fn order(&self) -> Result<Option<OrderRecord>, LedgerError> {
        self.read(Snapshot::order)
    }

    pub(crate) fn refusals(&self) -> Result<Vec<RefusalRecord>, LedgerError> {
        self.read(Snapshot::refusals)
    }

    /// Every operation that the ledger still knows.
    pub fn operations(&self) -> Result<BTreeMap<OperationId, OperationRecord>, LedgerError> {
        self.read(Snapshot::operations)
    }

    /// The last document of each stack that was seen to run.
    pub fn last_good(&self) -> Result<BTreeMap<StackName, LastGood>, LedgerError> {
        self.read(Snapshot::last_good)
    }

    /// The stacks that are not as they should be without anybody having asked for it.
    pub fn incidents(&self) -> Result<BTreeMap<StackName, Incident>, LedgerError> {
        self.read(Snapshot::incidents)
    }

    /// What keeps going wrong, by stack.
    pub fn troubles(&self) -> Result<BTreeMap<StackName, Trouble>, LedgerError> {
        self.read(Snapshot::troubles)
    }

    /// The addresses that containers have had and keep.
    pub fn leases(&self) -> Result<Leases, LedgerError> {
        self.read(Snapshot::leases)
    }

    /// The images that we have fetched or built, by name.
    pub fn fetched(&self) -> Result<BTreeMap<String, Fetched>, LedgerError> {
        self.read(Snapshot::fetched)
    }

    /// How many commits there were since it was opened: what was read after this was asked is still so while it is
    /// the same.
    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Acquire)
    }

    /// The newest steps, newest first.
    pub fn journal(&self, limit: usize) -> Result<Vec<JournalEntry>, LedgerError> {
        self.read(|snapshot| snapshot.journal(limit))
    }

    /// The events that the master has not acknowledged, oldest first, and how far it has.
    pub(crate) fn outbox(&self, most: usize, most_bytes: usize) -> Result<Batch, LedgerError> {
        self.read(|snapshot| snapshot.outbox(most, most_bytes))
    }

    /// Every event that still waits: for people who look.
    pub fn waiting_events(&self) -> Result<Vec<Event>, LedgerError> {
        self.read(|snapshot| snapshot.outbox(usize::MAX, usize::MAX).map(|batch| batch.events))
    }

    /// One commit of whatever `change` does. `change` may run more than once and must not keep count.
    pub(crate) async fn write<T, F>(&self, change: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnMut(&Tx) -> Result<T, LedgerError> + Send + 'static,
    {
        self.writer.write(change).await
    }

    fn read<T>(&self, look: impl FnOnce(&Snapshot) -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        let transaction = self
            .db
            .begin_read()
            .map_err(|error| LedgerError::storage("read")(error.into()))?;
        look(&Snapshot::new(transaction))
    }
}

/// Whether the file itself is at fault. A full disk or a missing permission is not a reason to forget.
fn is_damage(error: &LedgerError) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    match error {
        LedgerError::Open { source, .. } | LedgerError::Storage { source, .. } => match &**source {
            redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_) | redb::Error::RepairAborted => true,
            redb::Error::TableTypeMismatch { .. } | redb::Error::TypeDefinitionChanged { .. } => true,
            redb::Error::Io(error) => matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof),
            _ => false,
        },
        LedgerError::Decode { .. } => true,
        LedgerError::Held { .. } | LedgerError::SetAside { .. } => false,
        // A newer agent's ledger is sound: going back to it must stay possible.
        LedgerError::Version { .. } | LedgerError::Closed => false,
    }
}

fn database(place: &impl Place, backend: impl redb::StorageBackend) -> Result<Database, LedgerError> {
    let opened = Database::builder()
        .set_cache_size(CACHE)
        .create_with_backend(backend);
    opened.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => LedgerError::Held {
            path: place.path().to_owned(),
        },
        other => cannot_open_for(place)(other.into()),
    })
}

fn cannot_open_for(place: &impl Place) -> impl Fn(redb::Error) -> LedgerError {
    |source| LedgerError::Open {
        path: place.path().to_owned(),
        source: Arc::new(source),
    }
}

fn cannot_open(place: &impl Place) -> impl Fn(std::io::Error) -> LedgerError {
    |source| cannot_open_for(place)(redb::Error::Io(source))
}

/// Under its name with the date.
fn aside(path: &Path, now: Timestamp) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".damaged-{}", now.to_string().replace(':', "")));
    name.into()
}

// redb reports what it finds as `StorageError` inside its own enums; one name is enough here.
impl From<StorageError> for LedgerError {
    fn from(error: StorageError) -> Self {
        Self::storage("use")(error.into())
    }
}

#[cfg(test)]
mod tests;
