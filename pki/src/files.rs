//! Private files, written so that a crash leaves either the old content or the new, and capped reads.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

/// Writes `bytes` to `path` with mode 0600. Whoever reads `path` during a crash finds either what was there
/// before or all of `bytes`.
///
/// # Errors
/// [`FileError::Write`]; the file is then as it was.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let error = |source| FileError::Write {
        path: path.to_owned(),
        source,
    };
    let folder = folder_of(path);
    let name = path.file_name().ok_or_else(|| {
        error(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path names no file",
        ))
    })?;
    let temporary = folder.join(temporary_name(name).map_err(error)?);
    let written = write_new(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, path));
    if let Err(source) = written {
        // The first failure is the one to tell; the leftover is private and unused.
        let _ = std::fs::remove_file(&temporary);
        return Err(error(source));
    }
    sync_folder(folder).map_err(error)
}

/// Makes `path` a folder with mode 0700. Missing parents are created with the usual mode; a folder that is
/// there already is tightened.
///
/// # Errors
/// [`FileError::CreateFolder`], also when `path` is something else than a folder, such as a link to one, or
/// belongs to somebody else.
pub fn create_private_dir(path: &Path) -> Result<(), FileError> {
    let error = |source| FileError::CreateFolder {
        path: path.to_owned(),
        source,
    };
    let parent = folder_of(path);
    std::fs::create_dir_all(parent).map_err(error)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => sync_folder(parent).map_err(error),
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => tighten_folder(path).map_err(error),
        Err(source) => Err(error(source)),
    }
}

/// Reads a file of at most `max` bytes.
///
/// # Errors
/// [`FileError::TooLarge`] when it is longer, [`FileError::Read`] when it cannot be read.
pub fn read_capped(path: &Path, max: usize) -> Result<Vec<u8>, FileError> {
    let mut file = File::open(path).map_err(|source| FileError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(std::mem::take(&mut *read_to_cap(path, &mut file, max)?))
}

/// Reads a private file of at most `max` bytes; the bytes are wiped when dropped.
///
/// # Errors
/// [`FileError::NotPrivate`] when group or others may touch the file, [`FileError::Owner`] when it belongs to
/// neither root nor this process's user: in both cases its content may be somebody else's choice.
/// [`FileError::TooLarge`] and [`FileError::Read`] as for [`read_capped`].
pub fn read_private(path: &Path, max: usize) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let error = |source| FileError::Read {
        path: path.to_owned(),
        source,
    };
    // Without O_NONBLOCK, opening a FIFO that lies in the file's place would wait for a writer for ever.
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).bits())
        .open(path)
        .map_err(error)?;
    // The opened file is checked, not the path: the two may differ by now.
    let metadata = file.metadata().map_err(error)?;
    if !metadata.is_file() {
        return Err(error(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        )));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::NotPrivate {
            path: path.to_owned(),
            mode,
        });
    }
    let owner = metadata.uid();
    if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
        return Err(FileError::Owner {
            path: path.to_owned(),
            owner,
        });
    }
    read_to_cap(path, &mut file, max)
}

/// A file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Writing failed; the old content stands.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Reading failed.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A folder could not be made private.
    #[error("cannot make {} a private folder", path.display())]
    CreateFolder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is longer than its reader takes.
    #[error("{} is longer than the {max} bytes allowed", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes allowed.
        max: usize,
    },
    /// Others than the owner may touch a private file.
    #[error("{} has mode {mode:04o}: others may touch a private file; run `chmod 600` on it", path.display())]
    NotPrivate {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A private file belongs to somebody else.
    #[error("{} belongs to user {owner}, not to root or the user reading it", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// The owner's user id.
        owner: u32,
    },
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A name that nobody else uses, hidden, beside the file: a rename works within one file system only.
fn temporary_name(name: &std::ffi::OsStr) -> io::Result<std::ffi::OsString> {
    let mut random = [0_u8; 8];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| io::Error::other("the system's random source failed"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", hex::encode(random)));
    Ok(temporary)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // `create_new` follows no link and takes over no file that somebody put there.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    // The umask may have taken even the owner's bits away.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Without this, a power cut may undo a rename that was already reported as done.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn tighten_folder(path: &Path) -> io::Result<()> {
    let folder = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits())
        .open(path)?;
    let metadata = folder.metadata()?;
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("it belongs to user {}", metadata.uid()),
        ));
    }
    if metadata.mode() & 0o7777 == 0o700 {
        return Ok(());
    }
    folder.set_permissions(Permissions::from_mode(0o700))
}

fn read_to_cap(path: &Path, file: &mut File, max: usize) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let error = |source| FileError::Read {
        path: path.to_owned(),
        source,
    };
    let announced = usize::try_from(file.metadata().map_err(error)?.len()).unwrap_or(usize::MAX);
    // Room for the whole file at once: a growing buffer would leave copies of a key behind. One byte more
    // than allowed tells a full file from one that is too long.
    let mut bytes = Zeroizing::new(Vec::with_capacity(announced.min(max).saturating_add(1)));
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(error)?;
    if bytes.len() > max {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
            max,
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_private_file_replaces_a_public_one_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        write_private(&path, b"new").unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(*read_private(&path, 3).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn writing_over_a_link_replaces_the_link_and_spares_its_target() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        std::fs::write(&target, "spared").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write_private(&link, b"key").unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_file());
        assert_eq!(std::fs::read(&target).unwrap(), b"spared");
    }

    #[test]
    fn a_failed_write_leaves_the_old_content_and_no_leftover() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        // A folder in the file's place makes the rename fail after the content was written.
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("inside"), "old").unwrap();
        let error = write_private(&path, b"new").unwrap_err();
        assert!(matches!(error, FileError::Write { .. }), "{error}");
        assert_eq!(std::fs::read(path.join("inside")).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_file_that_others_may_touch_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        write_private(&path, b"key").unwrap();
        for bits in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601] {
            std::fs::set_permissions(&path, Permissions::from_mode(bits)).unwrap();
            let error = read_private(&path, 100).unwrap_err();
            assert!(
                matches!(error, FileError::NotPrivate { mode, .. } if mode == bits),
                "{bits:o}: {error}"
            );
        }
        let text = read_private(&path, 100).unwrap_err().to_string();
        assert!(
            text.contains("key.pem has mode 0601") && text.contains("chmod 600"),
            "{text}"
        );
        std::fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        read_private(&path, 100).unwrap();
    }

    #[test]
    fn a_fifo_in_a_key_files_place_is_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert!(matches!(read_private(&path, 100), Err(FileError::Read { .. })));
    }

    #[test]
    fn a_file_longer_than_the_cap_is_refused_and_one_that_fits_exactly_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, [7; 100]).unwrap();
        assert_eq!(read_capped(&path, 100).unwrap(), [7; 100]);
        assert!(matches!(
            read_capped(&path, 99),
            Err(FileError::TooLarge { max: 99, .. })
        ));
        // A file that announces no length is capped all the same.
        assert!(matches!(
            read_capped(Path::new("/dev/zero"), 10),
            Err(FileError::TooLarge { .. })
        ));
    }

    #[test]
    fn a_private_folder_is_closed_to_others_and_tightened_when_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        create_private_dir(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        create_private_dir(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn a_link_in_a_private_folders_place_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        std::fs::create_dir(&target).unwrap();
        std::fs::set_permissions(&target, Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(create_private_dir(&link).is_err());
        assert_eq!(mode(&target), 0o755);
    }
}
