//! A disk in memory, under redb: what was not synced is lost when the power goes, and it fails when it is told to.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use redb::StorageBackend;

use crate::ledger::Place;

/// What disks write whole or not at all, in bytes.
const SECTOR: usize = 512;

/// What may be there after the power went.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    synced: Arc<Vec<u8>>,
    /// Since the last sync, in order.
    pending: Arc<Vec<Change>>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
}

impl Image {
    /// What was synced, and nothing else.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.synced.to_vec()
    }

    /// What was synced and, of the rest, whatever the disk had got to: any of it in any order, the last one torn.
    pub(super) fn torn(&self, seed: u64) -> Vec<u8> {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut bytes = self.synced.to_vec();
        for change in &*self.pending {
            match change {
                Change::Length(length) if random.random::<bool>() => bytes.resize(*length, 0),
                Change::Write { at, bytes: new } if random.random::<bool>() => {
                    let sectors = new.len().div_ceil(SECTOR);
                    let whole = random.random_range(0..=sectors) * SECTOR;
                    put(&mut bytes, *at, &new[..whole.min(new.len())]);
                }
                _ => {}
            }
        }
        bytes
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.synced, &other.synced)
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, new: &[u8]) {
    if bytes.len() < at + new.len() {
        bytes.resize(at + new.len(), 0);
    }
    bytes[at..at + new.len()].copy_from_slice(new);
}

/// How a disk fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing is written.
    Error,
    /// Half of it is written.
    Short,
    /// Nothing is written, nothing fits any more until the disk is opened again.
    Full,
    /// Nothing is read.
    Read,
    /// Nothing that was written since the last sync is there any more, and the sync says so once (as Linux does).
    Sync,
}

/// What redb asks of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Call {
    Read,
    Write,
    Sync,
}

impl Failure {
    /// What it is a failure of.
    pub(super) const fn call(self) -> Call {
        match self {
            Self::Read => Call::Read,
            Self::Sync => Call::Sync,
            Self::Error | Self::Short | Self::Full => Call::Write,
        }
    }
}

type OnSync = Box<dyn Fn(&'static str, Image) + Send>;

/// A file, as its reader sees it and as it is when the power goes.
#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    image: Image,
}

#[derive(Default)]
struct State {
    ledger: Option<Content>,
    /// Beside it.
    begun: Content,
    aside: Vec<Vec<u8>>,
    /// Calls so far.
    calls: BTreeMap<Call, u64>,
    /// The call that fails.
    fails_at: Option<(u64, Failure)>,
    failed: bool,
    full: bool,
    on_sync: Option<OnSync>,
}

/// A disk with one file on it.
#[derive(Clone, Default)]
pub(super) struct Disk(Arc<Mutex<State>>);

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").finish_non_exhaustive()
    }
}

impl Disk {
    /// One on which this was found after the power came back; nothing, where it is empty.
    pub(super) fn with(bytes: Vec<u8>) -> Self {
        let disk = Self::default();
        {
            let mut state = disk.0.lock().unwrap();
            let image = Image {
                synced: Arc::new(bytes.clone()),
                pending: Arc::default(),
            };
            state.ledger = (!bytes.is_empty()).then_some(Content { bytes, image });
        }
        disk
    }

    /// Calls it before and after every sync.
    pub(super) fn on_sync(&self, call: impl Fn(&'static str, Image) + Send + 'static) {
        self.0.lock().unwrap().on_sync = Some(Box::new(call));
    }

    /// Lets the `number`th call of the failure's kind from now on fail, counted from 0.
    pub(super) fn fail_at(&self, number: u64, failure: Failure) {
        let mut state = self.0.lock().unwrap();
        let so_far = state.calls.get(&failure.call()).copied().unwrap_or_default();
        state.fails_at = Some((so_far + number, failure));
        state.failed = false;
    }

    /// Whether that has happened.
    pub(super) fn has_failed(&self) -> bool {
        self.0.lock().unwrap().failed
    }

    /// Makes room again.
    pub(super) fn make_room(&self) {
        self.0.lock().unwrap().full = false;
    }

    pub(super) fn calls(&self, call: Call) -> u64 {
        let state = self.0.lock().unwrap();
        state.calls.get(&call).copied().unwrap_or_default()
    }

    pub(super) fn image(&self) -> Image {
        self.0.lock().unwrap().image()
    }

    pub(super) fn length(&self) -> usize {
        let state = self.0.lock().unwrap();
        state.ledger.as_ref().map_or(0, |ledger| ledger.bytes.len())
    }

    /// How many files were set aside.
    pub(super) fn aside(&self) -> usize {
        self.0.lock().unwrap().aside.len()
    }
}

impl State {
    /// Of the ledger.
    fn image(&self) -> Image {
        self.ledger
            .as_ref()
            .map(|ledger| ledger.image.clone())
            .unwrap_or_default()
    }

    fn tell(&self, when: &'static str) {
        if let Some(call) = &self.on_sync {
            call(when, self.image());
        }
    }

    /// Whether this call fails, and how.
    fn failure(&mut self, call: Call) -> Option<Failure> {
        let number = self.calls.entry(call).or_default();
        let passed = *number;
        *number += 1;
        if self.full && call == Call::Write {
            return Some(Failure::Full);
        }
        let (at, failure) = self.fails_at?;
        if passed != at || self.failed || call != failure.call() {
            return None;
        }
        self.failed = true;
        self.full = failure == Failure::Full;
        Some(failure)
    }
}

fn error(failure: Failure) -> io::Error {
    match failure {
        Failure::Full => io::Error::from(ErrorKind::StorageFull),
        // EIO has no kind of its own.
        _ => io::Error::from_raw_os_error(5),
    }
}

/// A file that redb has open.
#[derive(Debug)]
struct Open {
    disk: Disk,
    begun: bool,
}

impl Open {
    fn with<T>(&self, call: impl FnOnce(&mut State, bool) -> io::Result<T>) -> io::Result<T> {
        call(&mut self.disk.0.lock().unwrap(), self.begun)
    }
}

impl State {
    fn content(&mut self, begun: bool) -> &mut Content {
        if begun {
            &mut self.begun
        } else {
            self.ledger.get_or_insert_default()
        }
    }
}

impl StorageBackend for Open {
    fn len(&self) -> io::Result<u64> {
        self.with(|state, begun| Ok(state.content(begun).bytes.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        self.with(|state, begun| {
            if let Some(failure) = state.failure(Call::Read) {
                return Err(error(failure));
            }
            let bytes = &state.content(begun).bytes;
            let end = at.checked_add(out.len()).filter(|end| *end <= bytes.len());
            let end = end.ok_or_else(|| io::Error::from(ErrorKind::UnexpectedEof))?;
            out.copy_from_slice(&bytes[at..end]);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let length = usize::try_from(len).map_err(io::Error::other)?;
        self.with(|state, begun| {
            if let Some(failure) = state.failure(Call::Write) {
                return Err(error(failure));
            }
            let content = state.content(begun);
            content.bytes.resize(length, 0);
            Arc::make_mut(&mut content.image.pending).push(Change::Length(length));
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state, begun| {
            if let Some(failure) = state.failure(Call::Sync) {
                let content = state.content(begun);
                content.bytes = content.image.bytes();
                content.image.pending = Arc::default();
                return Err(error(failure));
            }
            state.tell("before a sync");
            let content = state.content(begun);
            if content.image.has_pending() {
                content.image = Image {
                    synced: Arc::new(content.bytes.clone()),
                    pending: Arc::default(),
                };
            }
            state.tell("after a sync");
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        self.with(|state, begun| {
            let failure = state.failure(Call::Write);
            let written = match failure {
                None => data,
                Some(Failure::Short) => &data[..data.len() / 2],
                Some(failure) => return Err(error(failure)),
            };
            let content = state.content(begun);
            put(&mut content.bytes, at, written);
            let bytes = written.to_vec();
            Arc::make_mut(&mut content.image.pending).push(Change::Write { at, bytes });
            failure.map_or(Ok(()), |failure| Err(error(failure)))
        })
    }
}

impl Place for Disk {
    fn path(&self) -> &Path {
        Path::new("/simulated/ledger.redb")
    }

    fn is_there(&self) -> io::Result<bool> {
        Ok(self.0.lock().unwrap().ledger.is_some())
    }

    fn backend(&self) -> io::Result<impl StorageBackend> {
        Ok(Open {
            disk: self.clone(),
            begun: false,
        })
    }

    fn begin(&self) -> io::Result<impl StorageBackend> {
        let mut state = self.0.lock().unwrap();
        if let Some(failure) = state.failure(Call::Write) {
            return Err(error(failure));
        }
        state.begun = Content::default();
        Ok(Open {
            disk: self.clone(),
            begun: true,
        })
    }

    fn put_in_place(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if let Some(failure) = state.failure(Call::Write) {
            return Err(error(failure));
        }
        state.tell("before the ledger is there");
        state.ledger = Some(std::mem::take(&mut state.begun));
        state.tell("after the ledger is there");
        Ok(())
    }

    fn replace(&self, _: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if let Some(failure) = state.failure(Call::Write) {
            return Err(error(failure));
        }
        state.tell("before the ledger is replaced");
        let begun = std::mem::take(&mut state.begun);
        if let Some(damaged) = state.ledger.replace(begun) {
            state.aside.push(damaged.bytes);
        }
        state.tell("after the ledger is replaced");
        Ok(())
    }
}
