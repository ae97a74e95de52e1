//! One step.

use std::future::Future;
use std::io;
use std::time::Duration;

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{RemoveContainerOptions, StopContainerOptions};
use decnet_plan::labels;
use decnet_plan::planner::describe;
use decnet_plan::step::Step;
use decnet_wire::ids::Digest;
use decnet_wire::observed::ContainerState;
use tokio::fs::File;

use crate::engine::CHANGE;
use crate::error::{is_absent, status};
use crate::observe::{label, to_state};
use crate::{Engine, EngineError};

mod container;
mod image;
mod lan;
mod network;
mod settle;

use lan::probe_address;

/// Where image archives come from.
pub trait BlobSource: Send + Sync {
    /// Opens a blob at its start. Its bytes have been verified against the digest.
    fn open(&self, digest: &Digest) -> impl Future<Output = io::Result<File>> + Send;
}

/// How often a removal that somebody else has begun is looked at.
const REMOVAL_POLL: Duration = Duration::from_millis(200);

impl Engine {
    /// Applies one step. Repeating a step that was applied, wholly or in part, is fine.
    ///
    /// # Errors
    /// What failed, on what, in the engine's words.
    pub async fn apply(&self, step: &Step, blobs: &impl BlobSource) -> Result<(), EngineError> {
        match step {
            Step::LoadImage {
                blob,
                reference,
                image_ids,
                ..
            } => self.load_image(blob, reference, image_ids, blobs).await,
            Step::PullImage { reference, .. } => self.pull_image(reference).await,
            Step::CreateNetwork { network } => self.create_network(network).await,
            Step::RemoveNetwork { id, .. } => absent_is_fine(
                self.call(CHANGE, || describe(step), self.docker.remove_network(id))
                    .await,
            ),
            Step::ProbeAddress {
                parent,
                address,
                name,
                ..
            } => probe_address(name, parent, *address).await,
            Step::LockNamespace { name, egress, rules } => self.lock_namespace(name, egress, rules).await,
            Step::CreateContainer { container, .. } => self.create_container(container).await,
            Step::StartContainer { name, settle_ms, .. } => {
                self.start_container(name, Duration::from_millis(*settle_ms))
                    .await
            }
            Step::UnpauseContainer { id, .. } => {
                let result = self
                    .call(CHANGE, || describe(step), self.docker.unpause_container(id))
                    .await;
                match result {
                    // Whoever is not paused any more needs nothing.
                    Err(error) if to_state(&self.inspect(id).await?) == ContainerState::Paused => Err(error),
                    _ => Ok(()),
                }
            }
            Step::StopContainer { id, timeout_s, .. } => {
                let seconds = i32::try_from(*timeout_s).unwrap_or(i32::MAX);
                let options = StopContainerOptions {
                    t: Some(seconds),
                    signal: None,
                };
                let limit = CHANGE + Duration::from_secs(u64::from(*timeout_s));
                let call = self.docker.stop_container(id, Some(options));
                absent_is_fine(self.call(limit, || describe(step), call).await)
            }
            Step::RemoveContainer { id, .. } => self.remove_container(step, id).await,
            Step::BuildImage { .. }
            | Step::CreateVolume { .. }
            | Step::RemoveVolume { .. }
            | Step::WaitHealthy { .. }
            | Step::WaitCompleted { .. }
            | Step::RenameContainer { .. } => Err(EngineError::Unsupported {
                what: describe(step),
                why: "this version plans no such step",
            }),
        }
    }

    async fn remove_container(&self, step: &Step, id: &str) -> Result<(), EngineError> {
        // The anonymous volumes go with it; a container that runs does not, as a stop stands before.
        let options = RemoveContainerOptions {
            v: true,
            force: false,
            link: false,
        };
        let call = self.docker.remove_container(id, Some(options));
        let result = self.call(CHANGE, || describe(step), call).await;
        let Err(error) = result else { return Ok(()) };
        if status(&error) != Some(409) {
            return absent_is_fine(Err(error));
        }
        // A conflict: it runs, or the engine is at removing it already.
        let gone = async {
            loop {
                match self.inspect(id).await {
                    Err(absent) if is_absent(&absent) => return Ok(()),
                    Ok(container) if to_state(&container) != ContainerState::Removing => return Err(error),
                    Ok(_) => tokio::time::sleep(REMOVAL_POLL).await,
                    Err(other) => return Err(other),
                }
            }
        };
        let late = |_| EngineError::Timeout {
            what: describe(step),
            seconds: CHANGE.as_secs(),
        };
        tokio::time::timeout(CHANGE, gone).await.map_err(late)?
    }
}

fn absent_is_fine(result: Result<(), EngineError>) -> Result<(), EngineError> {
    match result {
        Err(error) if is_absent(&error) => Ok(()),
        other => other,
    }
}

/// Why an object that bears our name is not the one that a step is about, judged by its labels; None when it is.
fn why_not_ours<'a>(
    wanted: &std::collections::BTreeMap<String, String>,
    label: impl Fn(&str) -> Option<&'a str>,
) -> Option<&'static str> {
    let same = |name: &str| label(name) == wanted.get(name).map(String::as_str);
    if !same(labels::HOST) {
        Some("is not this host's")
    } else if !same(labels::HASH) {
        Some("is of another version")
    } else {
        None
    }
}

fn why_container_not_ours(
    wanted: &std::collections::BTreeMap<String, String>,
    container: &ContainerInspectResponse,
) -> Option<&'static str> {
    why_not_ours(wanted, |name| label(container, name))
}
