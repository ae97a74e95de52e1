//! What an image reference of a document stands for.

use std::borrow::Cow;
use std::collections::BTreeMap;

use decnet_wire::bundle::{Blob, BlobKind, CONTEXT_PREFIX};
use decnet_wire::ids::{Digest, StackName};
use decnet_wire::observed::ObservedImage;

use super::{DocumentError, hash};
use crate::compose::{Build, PullPolicy, Service, is_remote};
use crate::step::{BuildContext, BuildSpec};

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Image {
    /// An archive of the bundle.
    Archive(Archive),
    /// `repository@sha256:…`, pulled by the engine.
    Pinned(String),
    /// By a tag, which may mean another image tomorrow; of projects alone, but for what a bundle builds.
    Named(Box<Named>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// As the document says it.
    pub(crate) reference: String,
    pub(crate) platform: Option<String>,
    pub(crate) policy: PullPolicy,
    pub(crate) build: Option<BuildSpec>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Archive {
    pub(crate) blob: Digest,
    /// Bytes.
    pub(crate) size: u64,
    pub(crate) reference: String,
    /// Sorted, at least one.
    pub(crate) image_ids: Vec<Digest>,
}

/// What a bundle brings that images come from.
#[derive(Debug, Default)]
pub(super) struct Blobs {
    /// By the reference under which documents name them.
    archives: BTreeMap<String, Archive>,
    /// Build contexts, with their size in bytes.
    contexts: BTreeMap<Digest, u64>,
}

pub(super) fn blobs(blobs: &[Blob], errors: &mut Vec<DocumentError>) -> Blobs {
    let mut archives: BTreeMap<String, Archive> = BTreeMap::new();
    let mut contexts = BTreeMap::new();
    for blob in blobs {
        let (reference, image_ids) = match &blob.kind {
            BlobKind::ImageArchive { reference, image_ids } => (reference, image_ids),
            BlobKind::BuildContext {} => {
                contexts.insert(blob.digest.clone(), blob.size);
                continue;
            }
        };
        let mut image_ids = image_ids.clone();
        image_ids.sort();
        image_ids.dedup();
        let path = format!("blobs.{}", blob.digest);
        if image_ids.is_empty() {
            errors.push(DocumentError::new(
                None,
                path,
                "an image archive needs at least one image id",
            ));
            continue;
        }
        let archive = Archive {
            blob: blob.digest.clone(),
            size: blob.size,
            reference: reference.clone(),
            image_ids,
        };
        match archives.get(reference) {
            Some(other) if *other != archive => errors.push(DocumentError::new(
                None,
                path,
                format_args!("another blob is named {reference} as well"),
            )),
            _ => {
                archives.insert(reference.clone(), archive);
            }
        }
    }
    Blobs { archives, contexts }
}

/// Resolves a document's reference; None when it is neither an archive's nor pinned.
pub(super) fn resolve(reference: &str, blobs: &Blobs) -> Option<Image> {
    if let Some(archive) = blobs.archives.get(reference) {
        return Some(Image::Archive(archive.clone()));
    }
    let (repository, digest) = reference.split_once('@')?;
    digest.parse::<Digest>().ok()?;
    let plain = !repository.is_empty()
        && repository.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-' | b'/' | b':')
        });
    plain.then(|| Image::Pinned(format!("{}@{digest}", without_tag(repository))))
}

/// The image that a bundle's service builds. It is named after what it is built from, so that one name never means two
/// images and no name of anybody else is taken.
pub(super) fn built(
    service: &Service,
    build: &Build,
    blobs: &Blobs,
) -> Result<Image, (&'static str, String)> {
    if service.image.is_some() {
        let problem = "an image that a bundle builds has no name of its own: remove it";
        return Err(("image", problem.to_owned()));
    }
    let digest = build.context.strip_prefix(CONTEXT_PREFIX);
    let context = digest
        .and_then(|digest| digest.parse::<Digest>().ok())
        .and_then(|digest| {
            let size = *blobs.contexts.get(&digest)?;
            Some(BuildContext::Blob { digest, size })
        });
    let context = context.ok_or_else(|| {
        let problem = format!("{} is no build context of this bundle", build.context);
        ("build.context", problem)
    })?;
    for (attribute, used) in [
        ("build.tags", !build.tags.is_empty()),
        ("build.cache_from", !build.cache_from.is_empty()),
    ] {
        if used {
            let problem = "not in a bundle: what it builds depends on its context alone";
            return Err((attribute, problem.to_owned()));
        }
    }
    let mut spec = to_build(context, Vec::new(), build, service.platform.as_ref());
    // What a build fetches is another thing tomorrow, and a decky's host does not call out.
    spec.network.get_or_insert_with(|| "none".to_owned());
    let reference = format!("decnet-build:{}", &hash::of(&spec)[..32]);
    spec.tags = vec![reference.clone()];
    Ok(Image::Named(Box::new(Named {
        reference,
        platform: service.platform.clone(),
        policy: service.pull_policy,
        build: Some(spec),
    })))
}

/// The image of a project's service. One that is only built is named after the service, as Compose does it.
pub(super) fn named(stack: &StackName, name: &str, service: &Service) -> Image {
    let reference = match service.image.as_deref() {
        Some(image) if !image.is_empty() => image.to_owned(),
        _ => format!("{stack}-{name}"),
    };
    let build = service.build.as_ref().map(|build| {
        let mut tags = vec![reference.clone()];
        tags.extend(build.tags.iter().filter(|tag| **tag != reference).cloned());
        let context = if is_remote(&build.context) {
            BuildContext::Remote {
                url: build.context.clone(),
            }
        } else {
            BuildContext::Folder {
                path: build.context.clone(),
            }
        };
        to_build(context, tags, build, service.platform.as_ref())
    });
    Image::Named(Box::new(Named {
        reference,
        platform: service.platform.clone(),
        policy: service.pull_policy,
        build,
    }))
}

fn to_build(context: BuildContext, tags: Vec<String>, build: &Build, platform: Option<&String>) -> BuildSpec {
    BuildSpec {
        tags,
        context,
        dockerfile: build.dockerfile.clone(),
        args: build.args.clone(),
        target: build.target.clone(),
        labels: build.labels.clone(),
        cache_from: build.cache_from.clone(),
        cache_to: build.cache_to.clone(),
        platform: platform.cloned(),
        network: build.network.clone(),
        extra_hosts: build.extra_hosts.clone(),
        shm_size: build.shm_size,
        ulimits: build.ulimits.clone(),
        no_cache: build.no_cache,
        pull: build.pull,
        additional_contexts: build.additional_contexts.clone(),
    }
}

impl Image {
    /// What [`crate::step::ContainerSpec::image`] holds.
    pub(crate) fn names(&self) -> Vec<String> {
        match self {
            Self::Archive(archive) => archive
                .image_ids
                .iter()
                .map(|id| id.as_str().to_owned())
                .collect(),
            Self::Pinned(reference) => vec![reference.clone()],
            Self::Named(named) => vec![named.reference.clone()],
        }
    }

    /// The blob that it comes from.
    pub(crate) fn blob(&self) -> Option<&Digest> {
        match self {
            Self::Archive(archive) => Some(&archive.blob),
            Self::Pinned(_) => None,
            Self::Named(named) => match &named.build.as_ref()?.context {
                BuildContext::Blob { digest, .. } => Some(digest),
                BuildContext::Folder { .. } | BuildContext::Remote { .. } => None,
            },
        }
    }

    /// How it is built, if it is.
    pub(crate) fn build(&self) -> Option<&BuildSpec> {
        match self {
            Self::Named(named) => named.build.as_ref(),
            Self::Archive(_) | Self::Pinned(_) => None,
        }
    }

    /// What the engine has under its name.
    pub(crate) fn find<'a>(&self, images: &'a [ObservedImage]) -> Option<&'a ObservedImage> {
        let names = self.names();
        images
            .iter()
            .find(|image| names.iter().any(|name| names_image(name, image)))
    }

    /// Whether the engine has it.
    pub(crate) fn is_among(&self, images: &[ObservedImage]) -> bool {
        self.find(images).is_some()
    }
}

/// Whether a name of [`crate::step::ContainerSpec::image`] means this image.
fn names_image(name: &str, image: &ObservedImage) -> bool {
    let wanted = tagged(familiar(name));
    image.id == name
        || image
            .references
            .iter()
            .any(|reference| familiar(reference) == wanted)
}

/// A name without tag and digest means the tag `latest`.
fn tagged(reference: &str) -> Cow<'_, str> {
    if reference.contains('@') || without_tag(reference) != reference {
        Cow::Borrowed(reference)
    } else {
        Cow::Owned(format!("{reference}:latest"))
    }
}

/// The engine leaves the default registry and its default folder out of the references that it lists.
fn familiar(reference: &str) -> &str {
    let reference = reference
        .strip_prefix("docker.io/")
        .or_else(|| reference.strip_prefix("index.docker.io/"))
        .unwrap_or(reference);
    reference.strip_prefix("library/").unwrap_or(reference)
}

/// A digest decides alone: the tag beside it is not part of what the engine lists. A colon before the last slash
/// belongs to the registry's port.
fn without_tag(repository: &str) -> &str {
    let name = repository.rfind('/').map_or(0, |slash| slash + 1);
    match repository[name..].find(':') {
        Some(colon) => &repository[..name + colon],
        None => repository,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_digest_or_a_blob_of_the_bundle_names_an_image() {
        let digest = Digest::from_sha256([7; 32]);
        let none = Blobs::default();
        for bad in [
            "nginx",
            "nginx:1",
            "nginx@sha256:abc",
            "@sha256:00",
            &format!("UP@{digest}"),
            "",
        ] {
            assert_eq!(resolve(bad, &none), None, "{bad}");
        }
        let pinned = resolve(&format!("r.example:5000/a/b:1@{digest}"), &none).unwrap();
        assert_eq!(pinned, Image::Pinned(format!("r.example:5000/a/b@{digest}")));
    }

    #[test]
    fn a_name_without_a_tag_means_the_latest() {
        let image = |reference: &str| ObservedImage {
            id: "sha256:1".to_owned(),
            references: vec![reference.to_owned()],
        };
        for (name, reference, same) in [
            ("nginx", "nginx:latest", true),
            ("docker.io/library/nginx", "nginx:latest", true),
            ("nginx", "nginx:1", false),
            ("r.example:5000/a", "r.example:5000/a:latest", true),
            ("sha256:1", "nginx:1", true),
        ] {
            assert_eq!(names_image(name, &image(reference)), same, "{name} {reference}");
        }
    }

    #[test]
    fn the_default_registry_is_the_same_image_with_and_without_its_name() {
        let digest = Digest::from_sha256([7; 32]);
        let image = ObservedImage {
            id: "sha256:1".to_owned(),
            references: vec![format!("nginx@{digest}")],
        };
        let pinned = resolve(&format!("docker.io/library/nginx:1@{digest}"), &Blobs::default()).unwrap();
        assert!(pinned.is_among(&[image]));
    }
}
