//! The files of a project, from the disk and from standard input.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use decnet_plan::compose::load::{Files, MAX_FILE, ReadError};

/// This machine's files.
#[derive(Debug, Clone, Copy)]
pub(super) struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> Result<String, ReadError> {
        if path.as_os_str() == "-" {
            return text(std::io::stdin());
        }
        let file = File::open(path).map_err(|error| failure(&error))?;
        let kind = file.metadata().map_err(|error| failure(&error))?;
        if kind.is_dir() {
            return Err(ReadError::IsDirectory);
        }
        text(file)
    }
}

fn text(source: impl Read) -> Result<String, ReadError> {
    let mut bytes = Vec::new();
    source
        .take(MAX_FILE as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failure(&error))?;
    if bytes.len() > MAX_FILE {
        return Err(ReadError::TooLarge(MAX_FILE));
    }
    String::from_utf8(bytes).map_err(|_| ReadError::NotText)
}

fn failure(error: &std::io::Error) -> ReadError {
    match error.kind() {
        // A file where a folder should be, on the way.
        ErrorKind::NotFound | ErrorKind::NotADirectory => ReadError::NotFound,
        ErrorKind::IsADirectory => ReadError::IsDirectory,
        _ => ReadError::Other(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("good"), "text").unwrap();
        std::fs::write(path("binary"), [0xff]).unwrap();
        std::fs::write(path("large"), vec![b' '; MAX_FILE + 1]).unwrap();
        assert_eq!(Disk.read(&path("good")).as_deref(), Ok("text"));
        assert_eq!(Disk.read(&path("binary")), Err(ReadError::NotText));
        assert_eq!(Disk.read(&path("large")), Err(ReadError::TooLarge(MAX_FILE)));
        assert_eq!(Disk.read(folder.path()), Err(ReadError::IsDirectory));
        assert_eq!(Disk.read(&path("missing")), Err(ReadError::NotFound));
        assert_eq!(Disk.read(&path("good/below")), Err(ReadError::NotFound));
    }
}
