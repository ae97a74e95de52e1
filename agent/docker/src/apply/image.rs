//! Images: loaded from an archive or pulled, looked at afterwards, and removed when nothing needs them.

use bollard::models::{CreateImageInfo, ImageInspect};
use bollard::query_parameters::{CreateImageOptions, ImportImageOptions, RemoveImageOptions};
use decnet_wire::ids::Digest;
use futures_util::TryStreamExt;
use tokio_util::io::ReaderStream;

use super::BlobSource;
use crate::engine::{CHANGE, LOOK, TRANSFER};
use crate::error::{is_absent, status};
use crate::progress::Progress;
use crate::{Engine, EngineError};

/// Bytes that are read from an archive at once.
const CHUNK: usize = 256 * 1024;

impl Engine {
    pub(super) async fn load_image(
        &self,
        blob: &Digest,
        reference: &str,
        image_ids: &[Digest],
        blobs: &impl BlobSource,
    ) -> Result<(), EngineError> {
        if self.has_any(image_ids).await? {
            return Ok(());
        }
        let unread = |source| EngineError::ReadBlob {
            blob: blob.to_string(),
            source,
        };
        let file = blobs.open(blob).await.map_err(unread)?;
        let options = ImportImageOptions {
            quiet: true,
            ..ImportImageOptions::default()
        };
        let bytes = ReaderStream::with_capacity(file, CHUNK);
        let progress = self.docker.import_image_stream(options, bytes, None);
        let done = progress.try_for_each(|_| std::future::ready(Ok(())));
        self.call(TRANSFER, || format!("load image {reference}"), done)
            .await?;
        if self.has_any(image_ids).await? {
            self.known.image(reference);
            Ok(())
        } else {
            Err(EngineError::WrongImage {
                reference: reference.to_owned(),
                what: "loading it",
            })
        }
    }

    /// Pulls, layer by layer, unless the engine has an image of that name and platform already.
    pub(super) async fn pull_image(
        &self,
        reference: &str,
        platform: Option<&str>,
        always: bool,
    ) -> Result<(), EngineError> {
        if !always && self.has_image_for(reference, platform).await? {
            return Ok(());
        }
        let (repository, version) = split(reference);
        let options = CreateImageOptions {
            from_image: Some(repository.to_owned()),
            tag: Some(version.to_owned()),
            platform: platform.unwrap_or_default().to_owned(),
            ..CreateImageOptions::default()
        };
        let progress = self.docker.create_image(Some(options), None, None);
        let done = progress.try_for_each(|news| {
            self.progress.tell(to_progress(reference, news));
            std::future::ready(Ok(()))
        });
        self.call(TRANSFER, || format!("pull image {reference}"), done)
            .await?;
        // The engine checks every layer and the manifest against their digests; a reference by digest names the
        // manifest, so its presence is the proof.
        if self.has_image(reference).await? {
            Ok(())
        } else {
            Err(EngineError::WrongImage {
                reference: reference.to_owned(),
                what: "pulling it",
            })
        }
    }

    /// Takes its names away, and with the last of them the image. What a container has is left.
    pub(super) async fn remove_image(&self, id: &str, names: &[String]) -> Result<(), EngineError> {
        let own = std::slice::from_ref(&id);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for name in if names.is_empty() { own } else { &names } {
            let call = self.docker.remove_image(name, None::<RemoveImageOptions>, None);
            match self.call(CHANGE, || format!("remove image {name}"), call).await {
                Ok(_) => {}
                Err(error) if is_absent(&error) => {}
                // A container has it.
                Err(error) if status(&error) == Some(409) => {
                    tracing::debug!(image = name, %error, "the image stays");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            self.known.no_image(name);
        }
        self.known.no_image(id);
        Ok(())
    }

    async fn has_any(&self, image_ids: &[Digest]) -> Result<bool, EngineError> {
        for id in image_ids {
            if self.has_image(id.as_str()).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) async fn has_image(&self, name: &str) -> Result<bool, EngineError> {
        self.has_image_for(name, None).await
    }

    /// Whether the engine has it, for that platform where one is named.
    async fn has_image_for(&self, name: &str, platform: Option<&str>) -> Result<bool, EngineError> {
        let what = || format!("inspect image {name}");
        match self.call(LOOK, what, self.docker.inspect_image(name)).await {
            Ok(image) => {
                self.known.image(name);
                Ok(platform.is_none_or(|platform| is_for(&image, platform)))
            }
            Err(error) if is_absent(&error) => {
                self.known.no_image(name);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// `repository` and the digest or tag. The digest wins; without either it is `latest`, as for every Docker client.
fn split(reference: &str) -> (&str, &str) {
    let (name, digest) = match reference.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (reference, None),
    };
    // A colon before the last slash is a registry's port.
    let tag = name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
    match (digest, tag) {
        (Some(digest), Some((repository, _))) => (repository, digest),
        (Some(digest), None) => (name, digest),
        (None, Some((repository, tag))) => (repository, tag),
        (None, None) => (name, "latest"),
    }
}

/// `os/architecture[/variant]`; a variant that is not named is any.
fn is_for(image: &ImageInspect, platform: &str) -> bool {
    let mut parts = platform.splitn(3, '/');
    let fits = |wanted: Option<&str>, has: &Option<String>| {
        wanted.is_none_or(|wanted| has.as_deref().unwrap_or_default() == wanted)
    };
    fits(parts.next(), &image.os)
        && fits(parts.next(), &image.architecture)
        && fits(parts.next(), &image.variant)
}

fn to_progress(image: &str, news: CreateImageInfo) -> Progress {
    let bytes = |count: Option<i64>| count.and_then(|count| u64::try_from(count).ok());
    let detail = news.progress_detail.unwrap_or_default();
    Progress::Layer {
        image: image.to_owned(),
        layer: news.id,
        state: news.status.unwrap_or_default(),
        done: bytes(detail.current),
        total: bytes(detail.total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_split_where_its_registrys_port_is_not() {
        for (reference, parts) in [
            ("alpine", ("alpine", "latest")),
            ("alpine:3", ("alpine", "3")),
            ("127.0.0.1:5000/a/b", ("127.0.0.1:5000/a/b", "latest")),
            ("127.0.0.1:5000/a/b:1", ("127.0.0.1:5000/a/b", "1")),
            ("r:5000/a@sha256:00", ("r:5000/a", "sha256:00")),
            ("r:5000/a:1@sha256:00", ("r:5000/a", "sha256:00")),
        ] {
            assert_eq!(split(reference), parts, "{reference}");
        }
    }

    #[test]
    fn an_image_of_another_architecture_is_not_the_one_that_is_wanted() {
        let image = ImageInspect {
            os: Some("linux".to_owned()),
            architecture: Some("arm".to_owned()),
            variant: Some("v7".to_owned()),
            ..ImageInspect::default()
        };
        assert!(is_for(&image, "linux/arm"));
        assert!(is_for(&image, "linux/arm/v7"));
        assert!(!is_for(&image, "linux/arm/v6"));
        assert!(!is_for(&image, "linux/amd64"));
    }
}
