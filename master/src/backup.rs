//! Backups: a consistent copy of the store in one file, and the way back.
//!
//! ```text
//!  DECNET BACKUP 1\n
//!  header as JSON, one line
//!  records of all tables      ─┐ each section ends with SHA-256 over
//!  [files of the keys folder] ─┘ everything before it
//! ```
//!
//! Guarantees: a file that was cut off or changed anywhere is told as such before anything is touched. Numbers are
//! big-endian. A new table's records are refused by an older master; a new form of the file raises its number.

mod restore;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use decnet_wire::ids::{FleetId, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::keys::KeysError;
use crate::store::{Order, StoreError, Table, View};

pub use restore::{Restored, restore};

/// How a backup begins. The number is that of the form.
const MAGIC: &[u8] = b"DECNET BACKUP 1\n";
/// The longest header, in bytes.
const HEADER: usize = 64 * 1024;
/// The longest key of a record, and the longest name of a table or file, in bytes.
const NAME: usize = 4096;
/// The longest value of a record, in bytes: a bundle's envelope is the longest there is.
const VALUE: usize = 256 * 1024 * 1024;
/// The most that a file of the keys folder may hold, in bytes.
const KEY_FILE: usize = 64 * 1024;

const END: u8 = 0;
const RECORD: u8 = 1;
const FILE: u8 = 2;

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("cannot {action} {path}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not write the backup")]
    Write(#[source] io::Error),
    #[error("the backup does not read")]
    Read(#[source] io::Error),
    #[error("the backup is not whole: {0}")]
    Damaged(String),
    #[error("this is no backup of a version that this master knows")]
    Foreign,
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the keys do not load")]
    Keys(#[from] KeysError),
    #[error(
        "the backup is of the fleet {backup}, the keys in {folder} are of the fleet {keys}: nothing was changed"
    )]
    OtherFleet {
        backup: FleetId,
        keys: FleetId,
        folder: PathBuf,
    },
    #[error(
        "there are no keys in {0}, and none in the backup: put the fleet's keys there, nothing else can take their place"
    )]
    NoKeys(PathBuf),
    #[error(
        "{path} belongs to the user {uid}: run this as that user, as in `sudo -u '#{uid}' decnet restore …`"
    )]
    Owner { path: PathBuf, uid: u32 },
    #[error("a master runs on {0}: stop it first")]
    Held(PathBuf),
}

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub fleet: FleetId,
    pub taken_at: Timestamp,
    /// The version of the master that took it.
    pub version: String,
    /// How many records each table has.
    pub tables: BTreeMap<String, u64>,
    /// The newest entry of the audit log: its number and its digest.
    pub audit: Option<(u64, String)>,
}

/// A writer that hashes what goes through it.
pub struct Sealing<W> {
    out: W,
    hash: Sha256,
}

impl<W> std::fmt::Debug for Sealing<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealing")
    }
}

impl<W: Write> Sealing<W> {
    /// Everything goes to `out`.
    pub fn new(out: W) -> Self {
        Self {
            out,
            hash: Sha256::new(),
        }
    }

    /// Goes on after a section that `out` has already, read from `before`.
    ///
    /// # Errors
    /// It does not read.
    pub fn resume(out: W, mut before: impl Read) -> io::Result<Self> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match before.read(&mut buffer)? {
                0 => break,
                length => hash.update(&buffer[..length]),
            }
        }
        Ok(Self { out, hash })
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.out.write_all(bytes)
    }

    fn sized(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.put(&length.to_be_bytes())?;
        self.put(bytes)
    }

    /// Ends a section.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn seal(&mut self) -> io::Result<()> {
        self.put(&[END])?;
        let sum: [u8; 32] = self.hash.clone().finalize().into();
        self.put(&sum)?;
        self.out.flush()
    }

    /// Adds the files of a folder, and ends the section.
    ///
    /// # Errors
    /// One does not read, or cannot be written.
    pub fn add_files(&mut self, folder: &Path) -> Result<usize, BackupError> {
        let mut files = Vec::new();
        collect(folder, folder, &mut files)?;
        files.sort();
        for name in &files {
            let path = folder.join(name);
            let bytes =
                decnet_pki::files::read_private(&path, KEY_FILE).map_err(|error| BackupError::File {
                    action: "read",
                    path,
                    source: io::Error::other(error),
                })?;
            self.put(&[FILE])
                .and_then(|()| self.sized(name.as_bytes()))
                .and_then(|()| self.sized(&bytes))
                .map_err(BackupError::Write)?;
        }
        self.seal().map_err(BackupError::Write)?;
        Ok(files.len())
    }
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<String>) -> Result<(), BackupError> {
    let failed = |source| BackupError::File {
        action: "read",
        path: folder.to_owned(),
        source,
    };
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            collect(root, &entry.path(), files)?;
        } else if kind.is_file()
            && let Ok(name) = entry.path().strip_prefix(root)
            && let Some(name) = name.to_str()
        {
            files.push(name.to_owned());
        }
    }
    Ok(())
}

/// Writes the store's section: everything that a snapshot holds.
///
/// # Errors
/// The store's, or it cannot be written.
pub(crate) fn write_store(
    view: &dyn View,
    fleet: FleetId,
    taken_at: Timestamp,
    audit: Option<(u64, String)>,
    out: impl Write,
) -> Result<(), BackupError> {
    let mut tables = BTreeMap::new();
    for table in Table::ALL {
        tables.insert(table.name().to_owned(), view.count(table)?);
    }
    let header = Header {
        fleet,
        taken_at,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        tables,
        audit,
    };
    let mut out = Sealing::new(out);
    let mut line = serde_json::to_vec(&header).map_err(|error| BackupError::Write(error.into()))?;
    line.push(b'\n');
    out.put(MAGIC)
        .and_then(|()| out.put(&line))
        .map_err(BackupError::Write)?;
    for table in Table::ALL {
        let mut failed = None;
        view.scan(table, Order::Ascending, &mut |key, value| {
            let written = out
                .put(&[RECORD])
                .and_then(|()| out.sized(table.name().as_bytes()))
                .and_then(|()| out.sized(key))
                .and_then(|()| out.sized(value));
            failed = written.err();
            failed.is_none()
        })?;
        if let Some(error) = failed {
            return Err(BackupError::Write(error));
        }
    }
    out.seal().map_err(BackupError::Write)
}

/// One part of a backup.
#[derive(Debug)]
pub(crate) enum Part {
    Record {
        table: Table,
        key: Vec<u8>,
        value: Vec<u8>,
    },
    File {
        name: String,
        bytes: Vec<u8>,
    },
}

/// A backup that is read, part by part.
pub struct Backup<R> {
    input: R,
    hash: Sha256,
    header: Header,
    counts: BTreeMap<String, u64>,
    /// The store's section was whole.
    store: bool,
}

impl<R> std::fmt::Debug for Backup<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backup")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

impl<R: Read> Backup<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// It is none, or of another form.
    pub fn open(mut input: R) -> Result<Self, BackupError> {
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic).map_err(|_| BackupError::Foreign)?;
        if magic != MAGIC {
            return Err(BackupError::Foreign);
        }
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            input.read_exact(&mut byte).map_err(cut_off)?;
            line.extend(byte);
            if byte == *b"\n" {
                break;
            }
            if line.len() > HEADER {
                return Err(BackupError::Damaged("its header does not end".to_owned()));
            }
        }
        let header: Header = serde_json::from_slice(&line)
            .map_err(|error| BackupError::Damaged(format!("its header does not read: {error}")))?;
        let mut hash = Sha256::new();
        hash.update(magic);
        hash.update(&line);
        Ok(Self {
            input,
            hash,
            header,
            counts: BTreeMap::new(),
            store: false,
        })
    }

    /// What it says of itself.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Reads it to its end, and says whether it has the keys.
    ///
    /// # Errors
    /// It is not whole.
    pub fn check(mut self) -> Result<(Header, bool), BackupError> {
        let mut keys = false;
        while let Some(part) = self.next_part()? {
            keys |= matches!(part, Part::File { .. });
        }
        Ok((self.header, keys))
    }

    /// The next part; none at the end.
    pub(crate) fn next_part(&mut self) -> Result<Option<Part>, BackupError> {
        loop {
            let mut kind = [0];
            if self.input.read(&mut kind).map_err(BackupError::Read)? == 0 {
                // Only between sections.
                return if self.store {
                    Ok(None)
                } else {
                    Err(cut_off(io::ErrorKind::UnexpectedEof.into()))
                };
            }
            self.hash.update(kind);
            match kind[0] {
                END => self.end_section()?,
                RECORD if !self.store => {
                    let name = self.text()?;
                    let table = Table::ALL.into_iter().find(|table| table.name() == name);
                    let table = table.ok_or_else(|| {
                        BackupError::Damaged(format!(
                            "it has the table {name:?}, which this master does not know: use the version {} of it",
                            self.header.version
                        ))
                    })?;
                    *self.counts.entry(name).or_default() += 1;
                    let (key, value) = (self.sized(NAME)?, self.sized(VALUE)?);
                    return Ok(Some(Part::Record { table, key, value }));
                }
                FILE if self.store => {
                    let name = self.text()?;
                    let bytes = self.sized(KEY_FILE)?;
                    return Ok(Some(Part::File { name, bytes }));
                }
                _ => {
                    return Err(BackupError::Damaged(
                        "it has a part of an unknown kind".to_owned(),
                    ));
                }
            }
        }
    }

    fn end_section(&mut self) -> Result<(), BackupError> {
        let expected: [u8; 32] = self.hash.clone().finalize().into();
        let mut sum = [0; 32];
        self.input.read_exact(&mut sum).map_err(cut_off)?;
        self.hash.update(sum);
        if sum != expected {
            return Err(BackupError::Damaged("its checksum is another one".to_owned()));
        }
        if !self.store {
            self.counts.retain(|_, count| *count > 0);
            let mut said = self.header.tables.clone();
            said.retain(|_, count| *count > 0);
            if said != self.counts {
                return Err(BackupError::Damaged(
                    "it has not as many records as it says".to_owned(),
                ));
            }
        }
        self.store = true;
        Ok(())
    }

    fn text(&mut self) -> Result<String, BackupError> {
        String::from_utf8(self.sized(NAME)?)
            .map_err(|_| BackupError::Damaged("a name in it is no text".to_owned()))
    }

    fn sized(&mut self, most: usize) -> Result<Vec<u8>, BackupError> {
        let mut length = [0; 4];
        self.input.read_exact(&mut length).map_err(cut_off)?;
        self.hash.update(length);
        let length = u32::from_be_bytes(length);
        if length as usize > most {
            return Err(BackupError::Damaged(format!("a part of it has {length} bytes")));
        }
        let mut bytes = Vec::new();
        let read = (&mut self.input)
            .take(length.into())
            .read_to_end(&mut bytes)
            .map_err(BackupError::Read)?;
        if read < length as usize {
            return Err(cut_off(io::ErrorKind::UnexpectedEof.into()));
        }
        self.hash.update(&bytes);
        Ok(bytes)
    }
}

fn cut_off(error: io::Error) -> BackupError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        BackupError::Damaged("its end is missing".to_owned())
    } else {
        BackupError::Read(error)
    }
}
