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
use decnet_wire::ids::Digest;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use sha2::{Digest as _, Sha256};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::link::{Link, LinkError};
use crate::transfers::Transfers;
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
    transfers: Arc<Transfers>,
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
    pub(crate) fn new(dir: PathBuf, link: Link, transfers: Arc<Transfers>) -> Self {
        Self {
            dir,
            link: Mutex::new(link),
            transfers,
            sizes: StdMutex::new(BTreeMap::new()),
        }
    }

    /// From now on these blobs, of these sizes, may be asked for. Files of others are removed; so are pieces of them.
    pub(crate) async fn expect(&self, blobs: impl Iterator<Item = (Digest, u64)>) {
        let sizes: BTreeMap<Digest, u64> = blobs.collect();
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

    /// Fetches it where it is not there; the file has the blob's digest as its name.
    pub(crate) async fn have(&self, digest: &Digest) -> Result<File, BlobError> {
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
            let tell = |at| self.transfers.tell_blob(digest, at, size);
            let fetched = fetch(&mut link, &self.dir, digest, size, &tell).await;
            self.transfers.end_blob(digest);
            match fetched {
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

/// `tell` is told how many bytes are there.
async fn fetch(
    link: &mut Link,
    dir: &Path,
    digest: &Digest,
    size: u64,
    tell: &(impl Fn(u64) + Sync),
) -> Result<(), BlobError> {
    let make = dir.to_owned();
    tokio::task::spawn_blocking(move || decnet_pki::files::create_private_dir(&make))
        .await
        .map_err(io::Error::other)
        .and_then(|made| made.map_err(io::Error::other))
        .map_err(|source| BlobError::File {
            doing: "make",
            path: dir.to_owned(),
            source,
        })?;
    let mut partial = Partial::open(dir, digest, size).await?;
    if partial.at < size {
        let outcome = partial.stream(link, tell).await;
        // Whatever arrived is kept for the next try.
        let flushed = partial.file.flush().await;
        flushed.map_err(|source| partial.failed("write", source))?;
        outcome?;
    }
    partial.finish(&dir.join(digest.hex())).await
}

/// A blob on its way: what there is of it, and the hash of that.
struct Partial<'a> {
    file: File,
    path: PathBuf,
    digest: &'a Digest,
    size: u64,
    hash: Sha256,
    /// Bytes that are there; never more than `size`.
    at: u64,
}

impl<'a> Partial<'a> {
    /// Takes up what an earlier try left.
    async fn open(dir: &Path, digest: &'a Digest, size: u64) -> Result<Self, BlobError> {
        let path = dir.join(format!("{}.part", digest.hex()));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .await;
        let file = file.map_err(|source| BlobError::File {
            doing: "open",
            path: path.clone(),
            source,
        })?;
        let mut partial = Self {
            file,
            path,
            digest,
            size,
            hash: Sha256::new(),
            at: 0,
        };
        let read = partial.hash_what_is_there().await;
        read.map_err(|source| partial.failed("read", source))?;
        if partial.at > size {
            partial.clear().await?;
        }
        Ok(partial)
    }

    async fn hash_what_is_there(&mut self) -> io::Result<()> {
        let mut piece = vec![0; 256 * 1024];
        while self.at <= self.size {
            let read = self.file.read(&mut piece).await?;
            if read == 0 {
                break;
            }
            self.hash.update(&piece[..read]);
            self.at += read as u64;
        }
        Ok(())
    }

    async fn stream(&mut self, link: &mut Link, tell: &(impl Fn(u64) + Sync)) -> Result<(), BlobError> {
        let digest = self.digest;
        let fetch = |source| BlobError::Fetch {
            digest: digest.clone(),
            source,
        };
        let mut request = Request::builder().uri(format!("/agent/v1/blobs/sha256/{}", digest.hex()));
        if self.at > 0 {
            // RFC 9110 section 13.1.5: the rest if it is still of the same blob, and all of it otherwise.
            request = request
                .header(header::RANGE, format!("bytes={}-", self.at))
                .header(header::IF_RANGE, format!("\"{digest}\""));
        }
        let request = request
            .body(Bytes::new())
            .map_err(|error| fetch(LinkError::Request(error)))?;
        let answer = link.send(&request, PIECE).await.map_err(fetch)?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT if starts_at(&answer, self.at, self.size) => {}
            // RFC 9110 section 14.2: a server may ignore the range and send everything.
            StatusCode::OK => self.clear().await?,
            // What was kept is no part of what the master has: one of the two is not the blob.
            StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT => {
                link.close();
                self.clear().await?;
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
                    return Err(self.short());
                }
            };
            let Ok(data) = frame.into_data() else { continue };
            if self.at + data.len() as u64 > self.size {
                link.close();
                return Err(BlobError::TooLong {
                    digest: digest.clone(),
                    size: self.size,
                });
            }
            let written = self.file.write_all(&data).await;
            written.map_err(|source| self.failed("write", source))?;
            self.hash.update(&data);
            self.at += data.len() as u64;
            tell(self.at);
        }
        if self.at < self.size {
            return Err(self.short());
        }
        Ok(())
    }

    /// Gives it its final name, if it is the blob; throws it away otherwise.
    async fn finish(self, to: &Path) -> Result<(), BlobError> {
        let found = Sha256Digest::from_bytes(self.hash.clone().finalize().into());
        if wire_digest(&found) != *self.digest {
            let _ = tokio::fs::remove_file(&self.path).await;
            return Err(BlobError::Content(self.digest.clone()));
        }
        let synced = self.file.sync_all().await;
        synced.map_err(|source| self.failed("write", source))?;
        let renamed = tokio::fs::rename(&self.path, to).await;
        renamed.map_err(|source| self.failed("rename", source))
    }

    async fn clear(&mut self) -> Result<(), BlobError> {
        let shortened = self.file.set_len(0).await;
        shortened.map_err(|source| self.failed("shorten", source))?;
        let rewound = self.file.rewind().await;
        rewound.map_err(|source| self.failed("rewind", source))?;
        (self.hash, self.at) = (Sha256::new(), 0);
        Ok(())
    }

    fn short(&self) -> BlobError {
        BlobError::Short {
            digest: self.digest.clone(),
            at: self.at,
            size: self.size,
        }
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> BlobError {
        BlobError::File {
            doing,
            path: self.path.clone(),
            source,
        }
    }
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
