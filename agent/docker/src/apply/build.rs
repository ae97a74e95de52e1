//! Images that are built from a folder, from an archive, or from what the builder fetches.
//!
//! The engine's classic builder does it, in one call with the context as its body; `docs-dev/classic-builder.md` says
//! why.

use std::collections::HashMap;
use std::io;

use bollard::query_parameters::BuildImageOptions;
use bytes::Bytes;
use decnet_plan::step::{BuildContext, BuildSpec, Dockerfile};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::BlobSource;
use crate::engine::TRANSFER;
use crate::progress::Progress;
use crate::{Engine, EngineError};

mod context;
mod ignore;

/// The Dockerfile's name in the archive where the specification has its text, or has it outside the context.
const BROUGHT: &str = ".decnet.Dockerfile";
/// Bytes that are read from an archive at once.
const CHUNK: usize = 256 * 1024;
/// How archives begin that are compressed: gzip, bzip2, xz, Zstandard.
const COMPRESSED: [&[u8]; 4] = [
    &[0x1f, 0x8b],
    b"BZh",
    &[0xfd, b'7', b'z', b'X', b'Z'],
    &[0x28, 0xb5, 0x2f, 0xfd],
];

type Body = stream::BoxStream<'static, Result<Bytes, io::Error>>;

impl Engine {
    pub(super) async fn build_image(
        &self,
        spec: &BuildSpec,
        blobs: &impl BlobSource,
    ) -> Result<(), EngineError> {
        let image = spec.tags.first().map_or("without a name", String::as_str);
        let what = || format!("build image {image}");
        let unsupported = |why| EngineError::Unsupported { what: what(), why };
        if !spec.additional_contexts.is_empty() {
            return Err(unsupported("additional_contexts need BuildKit"));
        }
        if !spec.cache_to.is_empty() {
            return Err(unsupported("cache_to needs BuildKit"));
        }
        let (body, dockerfile) = match &spec.context {
            BuildContext::Folder { path } => context::of_folder(image, path, &spec.dockerfile).await?,
            BuildContext::Blob { digest, .. } => {
                let unread = |source| EngineError::ReadBlob {
                    blob: digest.to_string(),
                    source,
                };
                let file = blobs.open(digest).await.map_err(unread)?;
                match &spec.dockerfile {
                    Dockerfile::Path { path } => (chunks(file), path.clone()),
                    Dockerfile::Inline { text } => {
                        let begun = begin(file).await.map_err(unread)?;
                        let Some(archive) = begun else {
                            return Err(unsupported(
                                "an inline Dockerfile cannot be put into a compressed context archive",
                            ));
                        };
                        // An archive is a row of entries, so one more may stand before them.
                        let first = context::one_file(BROUGHT, text).map_err(unread)?;
                        let first = stream::once(std::future::ready(Ok(Bytes::from(first))));
                        (first.chain(archive).boxed(), BROUGHT.to_owned())
                    }
                }
            }
            BuildContext::Remote { .. } => match &spec.dockerfile {
                Dockerfile::Path { path } => (stream::empty().boxed(), path.clone()),
                Dockerfile::Inline { .. } => {
                    return Err(unsupported(
                        "an inline Dockerfile cannot be put into a context that the engine fetches",
                    ));
                }
            },
        };
        let docker = self.with_query(&more_query(spec));
        let progress = docker.build_image(
            to_options(spec, dockerfile),
            None,
            Some(bollard::body_try_stream(body)),
        );
        let done = progress.try_for_each(|news| {
            for line in news.stream.as_deref().unwrap_or_default().lines() {
                if !line.trim().is_empty() {
                    let (image, line) = (image.to_owned(), line.to_owned());
                    self.progress.tell(Progress::Build { image, line });
                }
            }
            std::future::ready(Ok(()))
        });
        self.call(TRANSFER, what, done).await?;
        for tag in &spec.tags {
            if !self.has_image(tag).await? {
                return Err(EngineError::WrongImage {
                    reference: tag.clone(),
                    what: "building it",
                });
            }
        }
        Ok(())
    }
}

fn to_options(spec: &BuildSpec, dockerfile: String) -> BuildImageOptions {
    let remote = match &spec.context {
        BuildContext::Remote { url } => Some(url.clone()),
        BuildContext::Blob { .. } | BuildContext::Folder { .. } => None,
    };
    // Without a value it would be taken from the builder's environment, and there is none.
    let args = spec.args.iter();
    let args: HashMap<_, _> = args
        .filter_map(|(name, value)| Some((name.clone(), value.clone()?)))
        .collect();
    BuildImageOptions {
        dockerfile,
        remote,
        nocache: spec.no_cache,
        pull: spec.pull.then(|| "1".to_owned()),
        cachefrom: (!spec.cache_from.is_empty()).then(|| spec.cache_from.clone()),
        rm: true,
        forcerm: true,
        buildargs: (!args.is_empty()).then_some(args),
        labels: (!spec.labels.is_empty()).then(|| spec.labels.clone().into_iter().collect()),
        networkmode: spec.network.clone(),
        platform: spec.platform.clone().unwrap_or_default(),
        target: spec.target.clone().unwrap_or_default(),
        ..BuildImageOptions::default()
    }
}

/// What bollard's options have no place for, or a place for one only.
fn more_query(spec: &BuildSpec) -> Vec<(&'static str, String)> {
    let tags = spec.tags.iter().map(|tag| ("t", tag.clone()));
    let hosts = spec.extra_hosts.iter().map(|host| ("extrahosts", host.clone()));
    let memory = spec.shm_size.map(|bytes| ("shmsize", bytes.to_string()));
    let limits: Vec<_> = spec
        .ulimits
        .iter()
        .map(|(name, limit)| json!({"Name": name, "Soft": limit.soft, "Hard": limit.hard}))
        .collect();
    let limits = (!limits.is_empty()).then(|| ("ulimits", json!(limits).to_string()));
    tags.chain(hosts).chain(memory).chain(limits).collect()
}

fn chunks(file: tokio::fs::File) -> Body {
    ReaderStream::with_capacity(file, CHUNK).boxed()
}

/// The whole archive, or None when it is compressed.
async fn begin(
    mut file: tokio::fs::File,
) -> io::Result<Option<impl Stream<Item = io::Result<Bytes>> + Send + use<>>> {
    let mut head = [0; 5];
    let mut read = 0;
    while read < head.len() {
        match file.read(&mut head[read..]).await? {
            0 => break,
            more => read += more,
        }
    }
    let head = Bytes::copy_from_slice(&head[..read]);
    if COMPRESSED.iter().any(|magic| head.starts_with(magic)) {
        return Ok(None);
    }
    let head = stream::once(std::future::ready(Ok(head)));
    Ok(Some(head.chain(chunks(file))))
}
