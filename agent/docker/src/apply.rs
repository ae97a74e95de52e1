//! One step.

use std::future::Future;
use std::io;
use std::time::Duration;

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{RemoveContainerOptions, RenameContainerOptions, StopContainerOptions};
use decnet_plan::labels;
use decnet_plan::planner::describe;
use decnet_plan::step::Step;
use decnet_wire::ids::Digest;
use decnet_wire::observed::ContainerState;
use tokio::fs::File;

use crate::engine::{CHANGE, TRANSFER};
use crate::error::{is_absent, status};
use crate::host::leftovers;
use crate::observe::{label, name_of, to_state};
use crate::{Engine, EngineError};

mod build;
mod container;
mod files;
mod image;
mod lan;
mod network;
mod settle;
mod volume;
mod wait;

pub use build::Builder;
use lan::{create_host_link, probe_address, remove_host_link};

/// Where image archives come from.
pub trait BlobSource: Send + Sync {
    /// Opens a blob at its start. Its bytes have been verified against the digest.
    fn open(&self, digest: &Digest) -> impl Future<Output = io::Result<File>> + Send;
}

/// How often a removal that somebody else has begun is looked at.
const REMOVAL_POLL: Duration = Duration::from_millis(200);

/// For a step that changes an object: it makes a handful of calls, and waits its turn among those of other steps.
const A_FEW_CALLS: Duration = Duration::from_secs(10 * CHANGE.as_secs());

/// The longest that a step can be under way while it tells nothing of itself; none where it ends only with what it
/// waits for. After that, something hangs that has a limit of its own.
#[must_use]
pub fn longest_silence(step: &Step) -> Option<Duration> {
    let more = match step {
        Step::LoadImage { .. } | Step::PullImage { .. } | Step::BuildImage { .. } => TRANSFER,
        Step::WaitHealthy { timeout_s, .. } | Step::WaitCompleted { timeout_s, .. } => {
            Duration::from_secs((*timeout_s)?.into())
        }
        Step::StopContainer { timeout_s, .. } => Duration::from_secs((*timeout_s).into()),
        Step::StartContainer { settle_ms, .. } => Duration::from_millis(*settle_ms),
        _ => Duration::ZERO,
    };
    Some(A_FEW_CALLS + more)
}

impl Engine {
    /// Applies one step. Repeating a step that was applied, wholly or in part, is fine.
    ///
    /// # Errors
    /// What failed, on what, in the engine's words.
    pub async fn apply(&self, step: &Step, blobs: &impl BlobSource) -> Result<(), EngineError> {
        self.apply_in_turn(step, blobs, ()).await
    }

    /// Applies one step, and drops `turn` as soon as the engine has nothing more to do for it: what is left is waiting
    /// for a container or for machines on the LAN, and need not hold back other steps.
    ///
    /// # Errors
    /// Those of [`Self::apply`].
    pub async fn apply_in_turn(
        &self,
        step: &Step,
        blobs: &impl BlobSource,
        turn: impl Send,
    ) -> Result<(), EngineError> {
        match step {
            Step::LoadImage {
                blob,
                reference,
                image_ids,
                ..
            } => self.load_image(blob, reference, image_ids, blobs).await,
            Step::PullImage {
                reference,
                platform,
                always,
                optional,
            } => {
                let pulled = self.pull_image(reference, platform.as_deref(), *always).await;
                if *optional { forgive(step, pulled) } else { pulled }
            }
            Step::BuildImage { build } => self.build_image(build, blobs).await,
            Step::RemoveImage { id, names } => self.remove_image(id, names).await,
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
            } => {
                drop(turn);
                probe_address(name, parent, *address).await
            }
            Step::CreateHostLink { link } => create_host_link(link).await,
            Step::RemoveHostLink { name, alias } => remove_host_link(name, alias).await,
            Step::LockNamespace { name, egress, rules } => self.lock_namespace(name, egress, rules).await,
            Step::CreateVolume { volume } => self.create_volume(volume).await,
            Step::RemoveVolume { name } => self.remove_volume(name).await,
            Step::CreateContainer {
                container,
                staged,
                inherit,
            } => {
                self.create_container(container, staged.as_deref(), inherit.as_deref())
                    .await
            }
            Step::StartContainer {
                name,
                settle_ms,
                fallback,
            } => {
                let settle = Duration::from_millis(*settle_ms);
                match self.start_container(name, settle, turn).await {
                    Err(error) if !fallback.is_empty() && !error.retryable() => {
                        self.fall_back(name, fallback).await;
                        Err(error)
                    }
                    other => other,
                }
            }
            Step::WaitHealthy {
                name,
                timeout_s,
                optional,
            } => {
                drop(turn);
                let ended = self.wait_healthy(name, *timeout_s).await;
                if *optional { forgive(step, ended) } else { ended }
            }
            Step::WaitCompleted {
                name,
                timeout_s,
                optional,
            } => {
                drop(turn);
                let ended = self.wait_completed(name, *timeout_s).await;
                if *optional { forgive(step, ended) } else { ended }
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
                absent_is_fine(self.stop_container(step, id, *timeout_s).await)
            }
            Step::RemoveContainer { name, id } => {
                // As a stop stands before, it does not run.
                self.remove_container(|| describe(step), id, true).await?;
                self.end_leftovers(name, id).await?;
                if self.known.container(name).is_some_and(|known| known.id == *id) {
                    self.known.no_container(name);
                }
                Ok(())
            }
            Step::RenameContainer { from, id, to } => {
                self.rename_container(step, from, id.as_deref(), to).await
            }
        }
    }

    async fn stop_container(&self, step: &Step, container: &str, timeout_s: u32) -> Result<(), EngineError> {
        let options = StopContainerOptions {
            t: Some(i32::try_from(timeout_s).unwrap_or(i32::MAX)),
            signal: None,
        };
        let limit = CHANGE + Duration::from_secs(u64::from(timeout_s));
        let call = self.docker.stop_container(container, Some(options));
        self.call(limit, || describe(step), call).await
    }

    async fn rename_container(
        &self,
        step: &Step,
        from: &str,
        id: Option<&str>,
        to: &str,
    ) -> Result<(), EngineError> {
        let options = RenameContainerOptions { name: to.to_owned() };
        let call = self.docker.rename_container(id.unwrap_or(from), options);
        if let Err(error) = self.call(CHANGE, || describe(step), call).await {
            // An earlier attempt has done it, if the container has that name: the one of that id, or, where no id
            // is known, one that nothing of the old name is left beside.
            let done = match id {
                Some(id) => self.inspect(id).await.is_ok_and(|found| name_of(&found) == to),
                None => is_absent(&error) && self.inspect(to).await.is_ok_and(|found| name_of(&found) == to),
            };
            if !done {
                return Err(error);
            }
        }
        self.known.renamed(from, to);
        Ok(())
    }

    /// Kills what still runs of a container that the engine says does not run or is not there.
    async fn end_leftovers(&self, name: &str, id: &str) -> Result<bool, EngineError> {
        let killed = leftovers::end(id).await;
        self.tell_of_leftovers(name, id, killed)
    }

    /// Kills what looked after the processes of a container that the engine says does not run.
    async fn end_shims(&self, name: &str, id: &str) -> Result<bool, EngineError> {
        let killed = leftovers::end_shims(id).await;
        self.tell_of_leftovers(name, id, killed)
    }

    fn tell_of_leftovers(
        &self,
        name: &str,
        id: &str,
        killed: io::Result<usize>,
    ) -> Result<bool, EngineError> {
        let killed = killed.map_err(|source| EngineError::Host {
            what: format!("end what is left of container {name}"),
            source,
        })?;
        if killed > 0 {
            tracing::warn!(
                container = name,
                id,
                killed,
                "the engine had forgotten that it runs"
            );
        }
        Ok(killed > 0)
    }

    /// Removes a container that does not run, and its anonymous volumes if that is said; one that runs stays.
    async fn remove_container(
        &self,
        what: impl Fn() -> String,
        id: &str,
        volumes: bool,
    ) -> Result<(), EngineError> {
        let options = RemoveContainerOptions {
            v: volumes,
            force: false,
            link: false,
        };
        let call = self.docker.remove_container(id, Some(options));
        let result = self.call(CHANGE, &what, call).await;
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
            what: what(),
            seconds: CHANGE.as_secs(),
        };
        tokio::time::timeout(CHANGE, gone).await.map_err(late)?
    }
}

/// For a step that does not have to succeed. An engine that is away is told all the same: the next step needs it too.
fn forgive(step: &Step, result: Result<(), EngineError>) -> Result<(), EngineError> {
    match result {
        Err(error @ EngineError::Connect { .. }) => Err(error),
        Err(error) => {
            let step = describe(step);
            tracing::warn!(step, %error, "goes on without it");
            Ok(())
        }
        Ok(()) => Ok(()),
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
