//! One step.

use std::future::Future;
use std::io;

use decnet_plan::step::Step;
use decnet_wire::ids::Digest;
use tokio::fs::File;

use crate::{Engine, EngineError};

/// Where image archives come from.
pub trait BlobSource: Send + Sync {
    /// Opens a blob at its start. Its bytes have been verified against the digest.
    fn open(&self, digest: &Digest) -> impl Future<Output = io::Result<File>> + Send;
}

impl Engine {
    /// Applies one step. Repeating a step that was applied, wholly or in part, is fine.
    ///
    /// # Errors
    /// What failed, on what, in the engine's words.
    pub async fn apply(&self, _step: &Step, _blobs: &impl BlobSource) -> Result<(), EngineError> {
        Ok(())
    }
}
