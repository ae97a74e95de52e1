//! Blobs: content by digest, fetched from the master, resumed where it broke off, verified while it streams.
//!
//! Guarantees: a file under its final name holds exactly the bytes of its digest. What is under way lies in
//! `<hex>.part` and is never given out. No more bytes are written than the bundle says the blob has.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use decnet_docker::BlobSource;
use decnet_pki::digest::Sha256Digest;
use decnet_wire::bundle::Blob;
use decnet_wire::ids::Digest;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use sha2::{Digest as _, Sha256};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::link::{Link, LinkError};
use crate::trust::wire_digest;

/// How long the master may take for the head of an answer, and for each next piece of a body.
const PIECE: Duration = Duration::from_secs(30);
/// Fresh tries for one request of the engine's; the reconcile loop comes back with more.
const TRIES: u32 = 3;

/// The blob cache.
#[derive(Debug)]
pub(crate) struct Blobs {
    dir: PathBuf,
    // One transfer at a time: they share one line anyway.
    link: Mutex<Link>,
    sizes: StdMutex<BTreeMap<Digest, u64>>,
}

/// A blob that could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlobError {
    #[error("blob {0} is not part of the accepted bundle")]
    Unknown(Digest),
    #[error("cannot fetch blob {digest}")]
    Fetch {
        digest: Digest,
        #[source]
        source: LinkError,
    },
    #[error("blob {digest} is longer than the {size} bytes that the bundle says")]
    TooLong { digest: Digest, size: u64 },
    #[error("blob {digest} broke off after {at} of {size} bytes")]
    Short { digest: Digest, at: u64, size: u64 },
    #[error("what the master sent for blob {0} has another digest")]
    Content(Digest),
    #[error("cannot {doing} {path}")]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Blobs {
    pub(crate) fn new(dir: PathBuf, link: Link) -> Self {
        Self {
            dir,
            link: Mutex::new(link),
            sizes: StdMutex::new(BTreeMap::new()),
        }
    }

    /// From now on these blobs may be asked for. Files of others are removed; so are pieces of them.
    pub(crate) async fn expect(&self, blobs: impl Iterator<Item = Blob>) {
        let sizes: BTreeMap<Digest, u64> = blobs.map(|blob| (blob.digest, blob.size)).collect();
        let wanted = |name: &str| {
            let hex = name.strip_suffix(".part").unwrap_or(name);
            sizes.keys().any(|digest| digest.hex() == hex)
        };
        if let Ok(mut entries) = tokio::fs::read_dir(&self.dir).await {
            while let Ok(Some(entry)) = entries.next_entry().await {
                if !entry.file_name().to_str().is_some_and(wanted) {
                    // What stays behind only takes room, and the next bundle tries again.
                    let _ = tokio::fs::remove_file(entry.path()).await;
                }
            }
        }
        *self.sizes.lock().unwrap_or_else(PoisonError::into_inner) = sizes;
    }

    async fn have(&self, digest: &Digest) -> Result<File, BlobError> {
        let size = self
            .sizes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(digest)
            .copied();
        let size = size.ok_or_else(|| BlobError::Unknown(digest.clone()))?;
        let path = self.dir.join(digest.hex());
        if let Some(file) = open_complete(&path, size).await {
            return Ok(file);
        }
        let mut link = self.link.lock().await;
        // Somebody else may have fetched it meanwhile.
        if let Some(file) = open_complete(&path, size).await {
            return Ok(file);
        }
        let mut tries = 1;
        loop {
            match fetch(&mut link, &self.dir, digest, size).await {
                Ok(()) => break,
                // What broke off is resumed; what has wrong content was thrown away and is begun again.
                Err(BlobError::Short { .. } | BlobError::Content(_)) if tries < TRIES => tries += 1,
                Err(error) => {
                    link.close();
                    return Err(error);
                }
            }
        }
        File::open(&path).await.map_err(|source| BlobError::File {
            doing: "open",
            path,
            source,
        })
    }
}

impl BlobSource for Blobs {
    async fn open(&self, digest: &Digest) -> io::Result<File> {
        self.have(digest).await.map_err(|error| {
            // What the kinds mean to whoever asked stands at `EngineError::ReadBlob`.
            let kind = match &error {
                BlobError::Unknown(_) => io::ErrorKind::NotFound,
                BlobError::TooLong { .. } | BlobError::Content(_) => io::ErrorKind::InvalidData,
                // A master that has lost it may find it again.
                BlobError::Fetch {
                    source: LinkError::Status { status, .. },
                    ..
                } if *status == StatusCode::NOT_FOUND => io::ErrorKind::InvalidData,
                BlobError::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                    io::ErrorKind::StorageFull
                }
                _ => io::ErrorKind::Other,
            };
            io::Error::new(kind, error)
        })
    }
}

/// A file under its final name was verified when it got that name; one of another size was tampered with.
async fn open_complete(path: &Path, size: u64) -> Option<File> {
    let file = File::open(path).await.ok()?;
    (file.metadata().await.ok()?.len() == size).then_some(file)
}

async fn fetch(link: &mut Link, dir: &Path, digest: &Digest, size: u64) -> Result<(), BlobError> {
    let part = dir.join(format!("{}.part", digest.hex()));
    let failed = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| BlobError::File { doing, path, source }
    };
    let make = dir.to_owned();
    tokio::task::spawn_blocking(move || decnet_pki::files::create_private_dir(&make))
        .await
        .map_err(io::Error::other)
        .and_then(|made| made.map_err(io::Error::other))
        .map_err(failed("make", dir))?;
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&part)
        .await
        .map_err(failed("open", &part))?;

    let (mut hash, mut at) = hash_so_far(&mut file, size)
        .await
        .map_err(failed("read", &part))?;
    if at > size {
        file.set_len(0).await.map_err(failed("shorten", &part))?;
        (hash, at) = (Sha256::new(), 0);
    }
    if at < size {
        let outcome = stream(link, &mut file, digest, size, &mut hash, &mut at, &part).await;
        // Whatever arrived is kept for the next try.
        file.flush().await.map_err(failed("write", &part))?;
        outcome?;
    }
    if wire_digest(&Sha256Digest::from_bytes(hash.finalize().into())) != *digest {
        let _ = tokio::fs::remove_file(&part).await;
        return Err(BlobError::Content(digest.clone()));
    }
    file.sync_all().await.map_err(failed("write", &part))?;
    let path = dir.join(digest.hex());
    tokio::fs::rename(&part, &path)
        .await
        .map_err(failed("rename", &part))
}

/// Hashes what an earlier try left, and stands at its end.
async fn hash_so_far(file: &mut File, size: u64) -> io::Result<(Sha256, u64)> {
    let mut hash = Sha256::new();
    let mut at = 0;
    let mut piece = vec![0; 256 * 1024];
    while at <= size {
        let read = file.read(&mut piece).await?;
        if read == 0 {
            break;
        }
        hash.update(&piece[..read]);
        at += read as u64;
    }
    Ok((hash, at))
}

async fn stream(
    link: &mut Link,
    file: &mut File,
    digest: &Digest,
    size: u64,
    hash: &mut Sha256,
    at: &mut u64,
    part: &Path,
) -> Result<(), BlobError> {
    let fetch = |source| BlobError::Fetch {
        digest: digest.clone(),
        source,
    };
    let mut request = Request::builder().uri(format!("/agent/v1/blobs/sha256/{}", digest.hex()));
    if *at > 0 {
        // RFC 9110 section 13.1.5: the rest if it is still of the same blob, and all of it otherwise.
        request = request
            .header(header::RANGE, format!("bytes={at}-"))
            .header(header::IF_RANGE, format!("\"{digest}\""));
    }
    let request = request
        .body(Bytes::new())
        .map_err(|error| fetch(LinkError::Request(error)))?;
    let answer = link.send(&request, PIECE).await.map_err(fetch)?;
    let failed = |doing, source| BlobError::File {
        doing,
        path: part.to_owned(),
        source,
    };
    match answer.status() {
        StatusCode::PARTIAL_CONTENT if starts_at(&answer, *at, size) => {}
        // RFC 9110 section 14.2: a server may ignore the range and send everything.
        StatusCode::OK => {
            file.set_len(0)
                .await
                .map_err(|source| failed("shorten", source))?;
            tokio::io::AsyncSeekExt::rewind(file)
                .await
                .map_err(|source| failed("rewind", source))?;
            (*hash, *at) = (Sha256::new(), 0);
        }
        // What was kept is no part of what the master has: one of the two is not the blob.
        StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT => {
            link.close();
            file.set_len(0)
                .await
                .map_err(|source| failed("shorten", source))?;
            return Err(BlobError::Content(digest.clone()));
        }
        _ => return Err(fetch(link.unexpected(answer).await)),
    }
    let mut body = answer.into_body();
    loop {
        let frame = match timeout(PIECE, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => break,
            // Resumed by the next try.
            Ok(Some(Err(_))) | Err(_) => {
                link.close();
                return Err(BlobError::Short {
                    digest: digest.clone(),
                    at: *at,
                    size,
                });
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        if *at + data.len() as u64 > size {
            link.close();
            return Err(BlobError::TooLong {
                digest: digest.clone(),
                size,
            });
        }
        file.write_all(&data)
            .await
            .map_err(|source| failed("write", source))?;
        hash.update(&data);
        *at += data.len() as u64;
    }
    if *at < size {
        return Err(BlobError::Short {
            digest: digest.clone(),
            at: *at,
            size,
        });
    }
    Ok(())
}

/// Whether a partial answer begins where it was asked to, and is of a whole of that size (RFC 9110 section 14.4).
fn starts_at<B>(answer: &http::Response<B>, at: u64, size: u64) -> bool {
    let range = answer.headers().get(header::CONTENT_RANGE);
    let range = range.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let whole = range.rsplit_once('/').map(|(_, whole)| whole);
    range.starts_with(&format!("bytes {at}-"))
        && whole.is_some_and(|whole| whole == "*" || whole == size.to_string())
}

/// A cache that tasks share.
pub(crate) type SharedBlobs = Arc<Blobs>;
