//! Where a ledger lies.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use redb::StorageBackend;
use redb::backends::FileBackend;

/// A disk with a ledger on it. Tests have disks that fail.
///
/// A fresh ledger is made beside its place and put there when it is whole: a power cut or a full disk in the middle of
/// that is nothing that could be taken for damage, and no damage goes untold.
pub(crate) trait Place {
    /// The ledger's name, for people.
    fn path(&self) -> &Path;

    /// Whether there is one.
    fn is_there(&self) -> io::Result<bool>;

    /// The ledger that is there.
    fn backend(&self) -> io::Result<impl StorageBackend>;

    /// An empty file beside it.
    fn begin(&self) -> io::Result<impl StorageBackend>;

    /// Makes the file that was begun the ledger, unless somebody else was first.
    fn put_in_place(&self) -> io::Result<()>;

    /// Makes the file that was begun the ledger; the one before has this name from then on.
    fn replace(&self, aside: &Path) -> io::Result<()>;
}

/// A file.
pub(super) struct OnDisk<'a>(pub(super) &'a Path);

impl OnDisk<'_> {
    /// Of this process: two that begin at once are not in each other's way.
    fn begun(&self) -> PathBuf {
        let mut name = self.0.as_os_str().to_owned();
        name.push(format!(".new-{}", std::process::id()));
        name.into()
    }
}

impl Place for OnDisk<'_> {
    fn path(&self) -> &Path {
        self.0
    }

    fn is_there(&self) -> io::Result<bool> {
        self.0.try_exists()
    }

    fn backend(&self) -> io::Result<impl StorageBackend> {
        file(OpenOptions::new().read(true).write(true).open(self.0)?)
    }

    fn begin(&self) -> io::Result<impl StorageBackend> {
        remove(&self.begun())?;
        // Private from its first moment.
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        file(options.open(self.begun())?)
    }

    fn put_in_place(&self) -> io::Result<()> {
        // Unlike a rename, a link never takes the place of what is there (link(2)). Not every file system has links.
        match std::fs::hard_link(self.begun(), self.0) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => std::fs::rename(self.begun(), self.0)?,
            _ => remove(&self.begun())?,
        }
        sync_folder(self.0)
    }

    fn replace(&self, aside: &Path) -> io::Result<()> {
        remove(aside)?;
        // With a link, there is a ledger at every moment: the damaged one, or the one that says so.
        if std::fs::hard_link(self.0, aside).is_err() {
            std::fs::rename(self.0, aside)?;
        }
        std::fs::rename(self.begun(), self.0)?;
        sync_folder(self.0)
    }
}

fn file(file: File) -> io::Result<FileBackend> {
    FileBackend::new(file).map_err(|error| match error {
        redb::DatabaseError::Storage(redb::StorageError::Io(error)) => error,
        other => io::Error::other(other),
    })
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A file whose name is not on the disk yet is gone after a power cut, whatever was synced into it (fsync(2)).
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}
