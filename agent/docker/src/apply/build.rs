//! Images that are built from a folder, from an archive, or from what the builder fetches.
//!
//! BuildKit does it where the engine has it and the build asks for nothing that only the classic builder can do, which
//! takes its place otherwise; see `docs-dev/builders.md`.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use decnet_plan::step::{BuildContext, BuildSpec, Dockerfile};
use form_urlencoded::Serializer;
use futures_util::{Stream, StreamExt, stream};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::BlobSource;
use crate::engine::{LOOK, TRANSFER};
use crate::progress::Progress;
use crate::{Engine, EngineError};

mod call;
mod context;
mod ignore;
mod trace;

/// What makes an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builder {
    BuildKit,
    Classic,
}

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
    /// Docker's own engine has had BuildKit since 18.09, on Linux; what else speaks its API may not.
    async fn builder_of(&self, spec: &BuildSpec) -> Result<Builder, EngineError> {
        if is_classic(spec) {
            return Ok(Builder::Classic);
        }
        if let Some(builder) = self.builder {
            return Ok(builder);
        }
        let what = || "read the engine's version".to_owned();
        let version = self.call(LOOK, what, self.docker.version()).await?;
        let parts = version.components.unwrap_or_default();
        let has = version.os.as_deref() == Some("linux") && parts.iter().any(|part| part.name == "Engine");
        Ok(if has { Builder::BuildKit } else { Builder::Classic })
    }

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
        let builder = self.builder_of(spec).await?;
        let target = self.path(&format!("/build?{}", query(spec, &dockerfile, builder)));
        let told = |line: &str| {
            let (image, line) = (image.to_owned(), line.to_owned());
            self.progress.tell(Progress::Build { image, line });
        };
        self.call(TRANSFER, what, call::post(self.socket(), &target, body, told))
            .await?;
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

/// The call's parameters: `ImageBuild` of the Engine API.
fn query(spec: &BuildSpec, dockerfile: &str, builder: Builder) -> String {
    let mut query = Serializer::new(String::new());
    let mut flag = |name: &str, value: &str| {
        query.append_pair(name, value);
    };
    if builder == Builder::BuildKit {
        flag("version", "2");
    }
    flag("dockerfile", dockerfile);
    if let BuildContext::Remote { url } = &spec.context {
        flag("remote", url);
    }
    for tag in &spec.tags {
        flag("t", tag);
    }
    // Without a value it would be taken from the builder's environment, and there is none.
    let args = spec.args.iter();
    let args: BTreeMap<_, _> = args
        .filter_map(|(name, value)| Some((name, value.as_ref()?)))
        .collect();
    if !args.is_empty() {
        flag("buildargs", &json!(args).to_string());
    }
    if !spec.labels.is_empty() {
        flag("labels", &json!(spec.labels).to_string());
    }
    if !spec.cache_from.is_empty() {
        flag("cachefrom", &json!(spec.cache_from).to_string());
    }
    for host in &spec.extra_hosts {
        flag("extrahosts", host);
    }
    if let Some(bytes) = spec.shm_size {
        flag("shmsize", &bytes.to_string());
    }
    let limits: Vec<_> = spec
        .ulimits
        .iter()
        .map(|(name, limit)| json!({"Name": name, "Soft": limit.soft, "Hard": limit.hard}))
        .collect();
    if !limits.is_empty() {
        flag("ulimits", &json!(limits).to_string());
    }
    for (name, value) in [
        ("networkmode", &spec.network),
        ("platform", &spec.platform),
        ("target", &spec.target),
    ] {
        if let Some(value) = value {
            flag(name, value);
        }
    }
    for (name, set) in [
        ("nocache", spec.no_cache),
        ("pull", spec.pull),
        // What the classic builder leaves behind otherwise.
        ("rm", true),
        ("forcerm", true),
    ] {
        if set {
            flag(name, "1");
        }
    }
    query.finish()
}

/// Whether a build asks for what BuildKit does not do, or not on every engine: it knows no network but these, and limits
/// only since 23.0.
fn is_classic(spec: &BuildSpec) -> bool {
    let apart = |network: &String| !matches!(network.as_str(), "default" | "none" | "host");
    spec.network.as_ref().is_some_and(apart) || spec.shm_size.is_some() || !spec.ulimits.is_empty()
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
