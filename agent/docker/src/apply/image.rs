//! Images: loaded from an archive or pulled by digest, and looked at afterwards.

use bollard::query_parameters::{CreateImageOptions, ImportImageOptions};
use decnet_wire::ids::Digest;
use futures_util::TryStreamExt;
use tokio_util::io::ReaderStream;

use super::BlobSource;
use crate::engine::{LOOK, TRANSFER};
use crate::error::is_absent;
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
            Ok(())
        } else {
            Err(EngineError::WrongImage {
                reference: reference.to_owned(),
                what: "loading it",
            })
        }
    }

    pub(super) async fn pull_image(&self, reference: &str) -> Result<(), EngineError> {
        if self.has_image(reference).await? {
            return Ok(());
        }
        let (repository, digest) = reference.split_once('@').unwrap_or((reference, ""));
        let options = CreateImageOptions {
            from_image: Some(repository.to_owned()),
            tag: Some(digest.to_owned()),
            ..CreateImageOptions::default()
        };
        let progress = self.docker.create_image(Some(options), None, None);
        let done = progress.try_for_each(|_| std::future::ready(Ok(())));
        self.call(TRANSFER, || format!("pull image {reference}"), done)
            .await?;
        if self.has_image(reference).await? {
            Ok(())
        } else {
            Err(EngineError::WrongImage {
                reference: reference.to_owned(),
                what: "pulling it",
            })
        }
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
        let what = || format!("inspect image {name}");
        match self.call(LOOK, what, self.docker.inspect_image(name)).await {
            Ok(_) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
