//! Files that the master starts with: the decoy image and what adds to the catalogue.

use std::path::{Path, PathBuf};

use decnet_pki::files::{self, FileError};
use decnet_wire::bundle::{Blob, BlobKind};
use decnet_wire::ids::Digest;
use serde::Deserialize;

use super::blobs::{self, PutError};
use crate::control::DecoyImage;

/// The most that a description or a catalogue file may hold, in bytes.
const TEXT_CAP: usize = 1024 * 1024;

/// The description that is built beside the archive.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    reference: String,
    digest: Digest,
    size: u64,
    image_ids: Vec<Digest>,
}

/// Why a file that the master starts with is refused.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Read(#[from] FileError),
    #[error("the description {path} is damaged: build the image again")]
    Describe {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the archive was not taken")]
    Archive(#[from] PutError),
    #[error("{0} has another size than its description says: build the image again")]
    Size(PathBuf),
    #[error("{0} is empty: it is to be a tar archive with a Dockerfile in it")]
    Empty(PathBuf),
    #[error("{0} is not UTF-8 text")]
    Text(PathBuf),
    #[error("could not list {path}")]
    List {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// Takes the archive as a blob. No archive at all is no error: the master then runs no deckies, and says so when
/// one is deployed.
///
/// # Errors
/// There is one, and it is damaged.
pub fn load(archive: &Path, blobs: &Path) -> Result<Option<DecoyImage>, ImageError> {
    if !archive.exists() {
        tracing::warn!(path = %archive.display(), "there is no decoy image: deploys will be refused");
        return Ok(None);
    }
    let path = archive.with_extension("json");
    let description: Description = serde_json::from_slice(&files::read_capped(&path, TEXT_CAP)?)
        .map_err(|source| ImageError::Describe { path, source })?;
    let kept = blobs::put(blobs, archive, &description.digest)?;
    let size = std::fs::metadata(&kept).map(|file| file.len());
    if size.is_ok_and(|size| size != description.size) {
        return Err(ImageError::Size(archive.to_owned()));
    }
    let kind = BlobKind::ImageArchive {
        reference: description.reference.clone(),
        image_ids: description.image_ids,
    };
    let blob = Blob {
        digest: description.digest,
        size: description.size,
        kind,
    };
    Ok(Some(DecoyImage {
        reference: description.reference,
        blob,
    }))
}

/// Takes an archive that hosts build an image from.
///
/// # Errors
/// It does not read, is empty, or cannot be written.
pub fn context(archive: &Path, blobs: &Path) -> Result<Blob, ImageError> {
    let (digest, size) = blobs::take(blobs, archive)?;
    if size == 0 {
        return Err(ImageError::Empty(archive.to_owned()));
    }
    Ok(Blob {
        digest,
        size,
        kind: BlobKind::BuildContext {},
    })
}

/// The TOML files of a folder, by name. No folder is no error.
///
/// # Errors
/// A file does not read.
pub fn catalogue_files(folder: &Path) -> Result<Vec<(String, String)>, ImageError> {
    let list = |source| ImageError::List {
        path: folder.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(list(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(list)?.path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = String::from_utf8(files::read_capped(&path, TEXT_CAP)?)
            .map_err(|_| ImageError::Text(path.clone()))?;
        found.push((path.display().to_string(), text));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_taken_as_it_is_and_an_empty_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (archive, blobs) = (folder.path().join("nfs.tar"), folder.path().join("blobs"));
        let missing = context(&archive, &blobs).unwrap_err();
        assert!(crate::text::chain(&missing).contains("nfs.tar"), "{missing}");
        std::fs::write(&archive, b"").unwrap();
        assert!(matches!(context(&archive, &blobs), Err(ImageError::Empty(_))));
        std::fs::write(&archive, b"an archive").unwrap();
        let blob = context(&archive, &blobs).unwrap();
        assert_eq!(blob.size, 10);
        let kept = std::fs::read(blobs.join(blob.digest.hex())).unwrap();
        assert_eq!(kept, b"an archive");
    }
}
