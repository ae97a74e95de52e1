//! Images that are built from a folder, from an archive, or from what the builder fetches.
//!
//! BuildKit does it where the engine has it and the build asks for nothing that only the classic builder can do, which
//! takes its place otherwise; see `docs-dev/builders.md`.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use decnet_plan::step::{BuildContext, BuildSpec, Dockerfile};
use form_urlencoded::Serializer;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use tokio_util::io::ReaderStream;

use super::BlobSource;
use crate::engine::TRANSFER;
use crate::progress::Progress;
use crate::{Engine, EngineError};
use call::Outcome;

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
const COMPRESSED: [&[u8]; 4] = [&[0x1f, 0x8b], b"BZh", &[0xfd, b'7', b'z', b'X', b'Z'], ZSTANDARD];
const ZSTANDARD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// A header of a tar archive, and where in it an entry's kind stands.
const HEAD: usize = 512;
const TYPE_FLAG: usize = 156;

/// How often a build is begun anew that was disturbed.
const DISTURBED: usize = 3;

type Body = stream::BoxStream<'static, Result<Bytes, io::Error>>;

impl Engine {
    /// Docker's own engine has had BuildKit since 18.09, on Linux; what else speaks its API may not.
    async fn builder_of(&self, spec: &BuildSpec, head: &[u8]) -> Result<Builder, EngineError> {
        if is_classic(spec) || is_no_archive_to_buildkit(head) {
            return Ok(Builder::Classic);
        }
        if let Some(builder) = self.builder {
            return Ok(builder);
        }
        let version = self.about().await?;
        let parts = version.components.unwrap_or_default();
        let has = version.os.as_deref() == Some("linux") && parts.iter().any(|part| part.name == "Engine");
        Ok(if has { Builder::BuildKit } else { Builder::Classic })
    }

    /// Builds anew where an image that went meanwhile has disturbed the builder.
    pub(super) async fn build_image(
        &self,
        spec: &BuildSpec,
        blobs: &impl BlobSource,
    ) -> Result<(), EngineError> {
        for _ in 0..DISTURBED {
            match self.build_once(spec, blobs).await {
                Err(error) if is_disturbed(&error) => tracing::debug!(%error, "builds anew"),
                outcome => return outcome,
            }
        }
        self.build_once(spec, blobs).await
    }

    async fn build_once(&self, spec: &BuildSpec, blobs: &impl BlobSource) -> Result<(), EngineError> {
        let image = spec.tags.first().map_or("without a name", String::as_str);
        let what = || format!("build image {image}");
        let unsupported = |why| EngineError::Unsupported { what: what(), why };
        if !spec.additional_contexts.is_empty() {
            return Err(unsupported(
                "additional_contexts need a BuildKit session, which is not opened",
            ));
        }
        if !spec.cache_to.is_empty() {
            return Err(unsupported(
                "cache_to needs a BuildKit session, which is not opened",
            ));
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
                        let (head, archive) = peek(chunks(file)).await.map_err(unread)?;
                        if is_compressed(&head) {
                            return Err(unsupported(
                                "an inline Dockerfile cannot be put into a compressed context archive",
                            ));
                        }
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
        let unreadable = |source| match &spec.context {
            BuildContext::Blob { digest, .. } => EngineError::ReadBlob {
                blob: digest.to_string(),
                source,
            },
            BuildContext::Folder { path } | BuildContext::Remote { url: path } => EngineError::ReadContext {
                image: image.to_owned(),
                path: path.clone(),
                source,
            },
        };
        let (head, body) = peek(body).await.map_err(unreadable)?;
        let builder = self.builder_of(spec, &head).await?;
        let broken = Broken::default();
        let body = broken.kept_of(body);
        let target = self.path(&format!("/build?{}", query(spec, &dockerfile, builder)));
        let told = |line: &str| {
            let (image, line) = (image.to_owned(), line.to_owned());
            self.progress.tell(Progress::Build { image, line });
        };
        let outcome = self
            .call(TRANSFER, what, call::post(self.socket(), &target, body, told))
            .await;
        // A context that breaks off looks like a lost connection.
        if let (Err(_), Some(source)) = (&outcome, broken.take()) {
            return Err(unreadable(source));
        }
        if let Outcome::Failed { why, last } = outcome? {
            let last = match last.is_empty() {
                true => String::new(),
                false => format!("; the build's last lines: {}", last.join(" | ")),
            };
            let image = image.to_owned();
            return Err(EngineError::Build { image, why, last });
        }
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

/// To find what it has built before, the classic builder reads all images that have the same parent, and gives up when one
/// of them is removed meanwhile, whatever image that is.
fn is_disturbed(error: &EngineError) -> bool {
    matches!(error, EngineError::Build { why, .. } if why.starts_with("unable to find image \"sha256:"))
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

/// Whether BuildKit would take the archive for a Dockerfile: it knows gzip, bzip2 and xz, and of a plain one it looks at the
/// first 1024 bytes, which hold no whole first entry where that has a header before its own (PAX, or a long name).
fn is_no_archive_to_buildkit(head: &[u8]) -> bool {
    head.starts_with(ZSTANDARD)
        || (!is_compressed(head) && matches!(head.get(TYPE_FLAG), Some(b'x' | b'g' | b'L' | b'K')))
}

fn is_compressed(head: &[u8]) -> bool {
    COMPRESSED.iter().any(|magic| head.starts_with(magic))
}

/// How an archive begins, as far as its first header, and the whole of it.
async fn peek(mut archive: Body) -> io::Result<(Bytes, Body)> {
    let mut head = BytesMut::new();
    while head.len() < HEAD {
        match archive.next().await {
            Some(chunk) => head.extend_from_slice(&chunk?),
            None => break,
        }
    }
    let head = head.freeze();
    let first = (!head.is_empty()).then(|| Ok(head.clone()));
    Ok((head, stream::iter(first).chain(archive).boxed()))
}

/// Why a context that is being sent could not be read to its end.
#[derive(Debug, Clone, Default)]
struct Broken(Arc<Mutex<Option<io::Error>>>);

impl Broken {
    /// The same context. What is the matter with it is kept.
    fn kept_of(&self, body: Body) -> Body {
        let kept = self.clone();
        let keep = move |error: io::Error| {
            let kind = error.kind();
            *kept.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            io::Error::from(kind)
        };
        body.map_err(keep).boxed()
    }

    fn take(&self) -> Option<io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn chunks(file: tokio::fs::File) -> Body {
    ReaderStream::with_capacity(file, CHUNK).boxed()
}

#[cfg(test)]
mod tests {
    use decnet_plan::step::Ulimit;

    use super::*;

    fn spec() -> BuildSpec {
        BuildSpec {
            tags: vec!["a:1".to_owned(), "a:2".to_owned()],
            context: BuildContext::Remote {
                url: "https://h.example/c.tar?x=1&y".to_owned(),
            },
            dockerfile: Dockerfile::Path { path: "D".to_owned() },
            args: BTreeMap::from([("A".to_owned(), Some("1".to_owned())), ("B".to_owned(), None)]),
            target: Some("t".to_owned()),
            labels: BTreeMap::new(),
            cache_from: vec!["c".to_owned()],
            cache_to: Vec::new(),
            platform: None,
            network: Some("none".to_owned()),
            extra_hosts: vec!["h:1.2.3.4".to_owned()],
            shm_size: None,
            ulimits: BTreeMap::new(),
            no_cache: true,
            pull: false,
            additional_contexts: BTreeMap::new(),
        }
    }

    #[test]
    fn the_parameters_are_those_of_the_engines_api() {
        let pairs = |builder| -> Vec<(String, String)> {
            form_urlencoded::parse(query(&spec(), "D", builder).as_bytes())
                .into_owned()
                .collect()
        };
        let wanted = [
            ("dockerfile", "D"),
            ("remote", "https://h.example/c.tar?x=1&y"),
            ("t", "a:1"),
            ("t", "a:2"),
            ("buildargs", r#"{"A":"1"}"#),
            ("cachefrom", r#"["c"]"#),
            ("extrahosts", "h:1.2.3.4"),
            ("networkmode", "none"),
            ("target", "t"),
            ("nocache", "1"),
            ("rm", "1"),
            ("forcerm", "1"),
        ];
        let wanted = wanted.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(pairs(Builder::Classic), wanted);
        let buildkit = pairs(Builder::BuildKit);
        assert_eq!(buildkit[0], ("version".to_owned(), "2".to_owned()));
        assert_eq!(buildkit[1..], wanted);
    }

    #[test]
    fn what_buildkit_cannot_do_is_the_classic_builders() {
        assert!(!is_classic(&spec()));
        for network in ["default", "host"] {
            let network = Some(network.to_owned());
            assert!(!is_classic(&BuildSpec { network, ..spec() }));
        }
        let network = Some("front".to_owned());
        assert!(is_classic(&BuildSpec { network, ..spec() }));
        let shm_size = Some(1);
        assert!(is_classic(&BuildSpec { shm_size, ..spec() }));
        let ulimits = BTreeMap::from([("core".to_owned(), Ulimit { soft: 0, hard: 0 })]);
        assert!(is_classic(&BuildSpec { ulimits, ..spec() }));
    }

    #[test]
    fn an_archive_that_buildkit_would_take_for_a_dockerfile_is_told_by_its_first_header() {
        let entry = |kind: u8| {
            let mut header = [0; HEAD];
            header[TYPE_FLAG] = kind;
            is_no_archive_to_buildkit(&header)
        };
        assert!(entry(b'x') && entry(b'g') && entry(b'L'));
        assert!(!entry(b'0') && !entry(b'5') && !entry(0));
        assert!(is_no_archive_to_buildkit(ZSTANDARD));
        let mut gzip = [b'x'; HEAD];
        gzip[..2].copy_from_slice(COMPRESSED[0]);
        assert!(!is_no_archive_to_buildkit(&gzip));
        assert!(!is_no_archive_to_buildkit(b""));
    }
}
