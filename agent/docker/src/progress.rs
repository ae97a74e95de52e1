//! What a long step tells while it is under way.

use std::sync::Arc;

/// Something that happened in a pull, a build or a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// One layer of an image that is being pulled, or the whole of it.
    Layer {
        /// The image, as the step names it.
        image: String,
        /// The layer's short id; none for what concerns the whole image.
        layer: Option<String>,
        /// The engine's word: `Downloading`, `Extracting`, `Pull complete`, …
        state: String,
        /// Bytes, where the engine counts them.
        done: Option<u64>,
        total: Option<u64>,
    },
    /// One line of a build.
    Build { image: String, line: String },
}

/// Where progress goes. It is called from within the transfer, so it must not wait.
pub trait ProgressSink: Send + Sync {
    fn tell(&self, progress: Progress);
}

impl<F: Fn(Progress) + Send + Sync> ProgressSink for F {
    fn tell(&self, progress: Progress) {
        self(progress);
    }
}

/// Tells the log: what a build says, and whatever of a pull is no mere count of bytes.
pub(crate) struct ToLog;

impl ProgressSink for ToLog {
    fn tell(&self, progress: Progress) {
        match progress {
            Progress::Layer { done: Some(_), .. } => {}
            Progress::Layer {
                image, layer, state, ..
            } => {
                let layer = layer.unwrap_or_default();
                tracing::debug!(image, layer, state, "pull");
            }
            Progress::Build { image, line } => tracing::debug!(image, line, "build"),
        }
    }
}

pub(crate) type Sink = Arc<dyn ProgressSink>;
