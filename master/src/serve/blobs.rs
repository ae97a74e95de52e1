//! Blobs on the master's disk: `<folder>/<hex of their SHA-256>`. They are put there verified and never change.

use std::io::{Read as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use decnet_wire::ids::Digest;
use futures_util::TryStreamExt as _;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use super::message::Body;

/// How much is read from the disk at once, in bytes.
const CHUNK: usize = 64 * 1024;

/// A blob, or its end from some byte on.
#[derive(Debug)]
pub struct Part {
    pub body: Body,
    pub start: u64,
    pub length: u64,
    pub size: u64,
}

impl Part {
    /// The `Content-Range` of this part (RFC 9110 §14.4).
    #[must_use]
    pub fn content_range(&self) -> String {
        format!(
            "bytes {}-{}/{}",
            self.start,
            self.size.saturating_sub(1),
            self.size
        )
    }
}

/// Why a blob was not sent.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the blob has {size} bytes")]
    Range { size: u64 },
    #[error("could not read the blob")]
    Read(#[from] std::io::Error),
}

/// Opens a blob from the byte that `range` (`bytes=<start>-`) names. Any other form of range gives the whole.
///
/// # Errors
/// The start is beyond the end, or the file does not read.
pub async fn open(folder: &Path, digest: &Digest, range: Option<&str>) -> Result<Part, OpenError> {
    let mut file = tokio::fs::File::open(folder.join(digest.hex())).await?;
    let size = file.metadata().await?.len();
    let start = range.and_then(|range| {
        range
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse::<u64>()
            .ok()
    });
    let start = start.unwrap_or(0);
    if start > 0 && start >= size {
        return Err(OpenError::Range { size });
    }
    file.seek(SeekFrom::Start(start)).await?;
    let length = size - start;
    Ok(Part {
        body: stream(file.take(length)),
        start,
        length,
        size,
    })
}

/// What is read, as a body.
pub(super) fn stream(file: impl AsyncRead + Send + Sync + 'static) -> Body {
    let stream = ReaderStream::with_capacity(file, CHUNK);
    BodyExt::boxed(StreamBody::new(stream.map_ok(Frame::<Bytes>::data)))
}

/// The digest of a file, and its size in bytes.
///
/// # Errors
/// It does not read.
pub(super) fn measure(file: &Path) -> std::io::Result<(Digest, u64)> {
    Ok((sha256(file)?, std::fs::metadata(file)?.len()))
}

/// Puts a file into the folder under its digest, once its bytes were seen to have it.
///
/// # Errors
/// The file does not read, has another digest, or cannot be written.
pub fn put(folder: &Path, file: &Path, digest: &Digest) -> Result<PathBuf, PutError> {
    let failed = |source| PutError::Copy {
        file: file.to_owned(),
        source,
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed)?;
    let kept = folder.join(digest.hex());
    if kept.exists() && sha256(&kept).map_err(failed)? == *digest {
        return Ok(kept);
    }
    let partial = folder.join(format!("{}.partial", digest.hex()));
    let copied = copy(file, &partial).and_then(|()| sha256(&partial));
    let found = copied.map_err(|source| {
        // On a full disk the half of it would take the room that the next try needs.
        let _ = std::fs::remove_file(&partial);
        failed(source)
    })?;
    if found != *digest {
        std::fs::remove_file(&partial).map_err(failed)?;
        return Err(PutError::Digest {
            file: file.to_owned(),
            found,
            expected: digest.clone(),
        });
    }
    std::fs::rename(&partial, &kept).map_err(failed)?;
    Ok(kept)
}

/// Puts a file into the folder under the digest that it has; gives it and the size in bytes.
///
/// # Errors
/// The file does not read, changes meanwhile, or cannot be written.
pub fn take(folder: &Path, file: &Path) -> Result<(Digest, u64), PutError> {
    let failed = |source| PutError::Copy {
        file: file.to_owned(),
        source,
    };
    let digest = sha256(file).map_err(failed)?;
    let kept = put(folder, file, &digest)?;
    let size = std::fs::metadata(kept).map_err(failed)?.len();
    Ok((digest, size))
}

/// Why a blob was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    #[error("could not take {file} as a blob")]
    Copy {
        file: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{file} has the digest {found}, not {expected}: build it again")]
    Digest {
        file: PathBuf,
        found: Digest,
        expected: Digest,
    },
}

/// Copies the content alone: a blob is for its owner, whatever the rights of the file that it comes from.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut to = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    std::io::copy(&mut std::fs::File::open(from)?, &mut to).map(drop)
}

fn sha256(path: &Path) -> std::io::Result<Digest> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            return Ok(Digest::from_sha256(hash.finalize().into()));
        }
        hash.update(&chunk[..read]);
    }
}
