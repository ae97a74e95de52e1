//! A start, and the proof that the container stays up.

use std::time::Duration;

use bollard::models::{ContainerInspectResponse, HealthStatusEnum};
use bollard::query_parameters::LogsOptions;
use decnet_wire::observed::ContainerState;
use futures_util::StreamExt;
use tokio::time::Instant;

use crate::engine::{CHANGE, LOOK};
use crate::error::status;
use crate::observe::{restarts, to_state};
use crate::{Engine, EngineError};

/// How often a container is looked at while it settles. An end is seen at the next look in any case, so a longer
/// interval costs no failure, only the time until it is told. A look costs a busy engine what it needs for starts.
const POLL: Duration = Duration::from_secs(1);
/// Log lines and characters that an error carries.
const LOG_LINES: usize = 5;
const LOG_CHARACTERS: usize = 800;

impl Engine {
    pub(super) async fn start_container(
        &self,
        name: &str,
        settle: Duration,
        turn: impl Send,
    ) -> Result<(), EngineError> {
        // A start sets the count of restarts to zero, but not that of a container that runs already.
        let before = if settle.is_zero() || self.known.takes_its_first_start(name) {
            0
        } else {
            let before = self.inspect(name).await?;
            if is_up(&before) { restarts(&before) } else { 0 }
        };
        let what = || format!("start container {name}");
        let start = || self.call(CHANGE, what, self.docker.start_container(name, None));
        let mut result = start().await;
        let refused = |error| status(error) == Some(500);
        if result.as_ref().is_err_and(refused) && self.end_forgotten(name).await? {
            result = start().await;
        }
        if let Err(error) = result {
            if let Some(spoilt) = self.remove_spoilt(name, &error).await? {
                return Err(spoilt);
            }
            return Err(self.owner_ended(name).await.unwrap_or(error));
        }
        drop(turn);
        let started = Instant::now();
        while started.elapsed() < settle {
            tokio::time::sleep(settle.saturating_sub(started.elapsed()).min(POLL)).await;
            let container = self.inspect(name).await?;
            if let Some(how) = ended(&container, restarts(&container) > before) {
                return Err(self.unsettled(name, how).await);
            }
        }
        Ok(())
    }

    /// Kills what runs of a container that the engine takes for one that does not run, and what looked after it.
    async fn end_forgotten(&self, name: &str) -> Result<bool, EngineError> {
        let container = self.inspect(name).await?;
        match container.id {
            Some(id) if !is_up(&container) => {
                let ran = self.end_leftovers(name, &id).await?;
                Ok(self.end_shims(name, &id).await? || ran)
            }
            _ => Ok(false),
        }
    }

    /// Removes a container that the engine refuses to start for what it has kept of it: another one has nothing of that. Its
    /// anonymous volumes stay.
    async fn remove_spoilt(
        &self,
        name: &str,
        refusal: &EngineError,
    ) -> Result<Option<EngineError>, EngineError> {
        if status(refusal) != Some(500) || !says_that_something_is_there(refusal.said()) {
            return Ok(None);
        }
        let container = self.inspect(name).await?;
        let id = match &container.id {
            Some(id) if !id.is_empty() && !is_up(&container) && refusal.said().contains(id) => id,
            _ => return Ok(None),
        };
        self.remove_container(|| format!("remove container {name}"), id, false)
            .await?;
        self.known.no_container(name);
        let spoilt = EngineError::Spoilt {
            name: name.to_owned(),
            why: refusal.to_string(),
        };
        tracing::warn!(container = name, id, %spoilt, "removed");
        Ok(Some(spoilt))
    }

    /// What has become of the container whose network namespace this one cannot join, if that is why it cannot start.
    async fn owner_ended(&self, name: &str) -> Option<EngineError> {
        let container = self.inspect(name).await.ok()?;
        let mode = container.host_config?.network_mode?;
        let owner = self.inspect(mode.strip_prefix("container:")?).await.ok()?;
        let how = ended(&owner, false)?;
        let name = owner.name.as_deref().unwrap_or(name).trim_start_matches('/');
        Some(self.unsettled(name, how).await)
    }

    /// The error for a container that has ended, with its last words.
    pub(super) async fn unsettled(&self, name: &str, how: String) -> EngineError {
        EngineError::Unsettled {
            name: name.to_owned(),
            how,
            logs: self.last_lines(name).await,
        }
    }

    /// The last lines of the log on one line, for an error; nothing when there are none or they cannot be read.
    pub(super) async fn last_lines(&self, name: &str) -> String {
        let options = LogsOptions {
            stdout: true,
            stderr: true,
            tail: LOG_LINES.to_string(),
            ..LogsOptions::default()
        };
        // Lines can be long, and a log never ends on its own where a driver misbehaves.
        let lines = self.docker.logs(name, Some(options)).take(LOG_LINES * 4);
        let read = async {
            Ok(lines
                .filter_map(|line| async { line.ok() })
                .collect::<Vec<_>>()
                .await)
        };
        let lines = self
            .call(LOOK, || format!("read the log of {name}"), read)
            .await
            .unwrap_or_default();
        let text: Vec<_> = lines.iter().map(ToString::to_string).collect();
        let text = text
            .concat()
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join(" | ");
        let skip = text.chars().count().saturating_sub(LOG_CHARACTERS);
        let text: String = text.chars().skip(skip).collect();
        if text.is_empty() {
            text
        } else {
            format!("; it wrote: {text}")
        }
    }
}

/// A start that is refused with these words and the container's own id is so because something of that id is there: a task
/// of containerd's, or its folder.
fn says_that_something_is_there(said: &str) -> bool {
    ["already exists", "file exists", "already in use"]
        .iter()
        .any(|words| said.contains(words))
}

/// Whether a start leaves the container as it is.
fn is_up(container: &ContainerInspectResponse) -> bool {
    matches!(
        to_state(container),
        ContainerState::Running | ContainerState::Paused | ContainerState::Restarting { .. }
    )
}

/// How the container has ended, or None while it is up.
pub(super) fn ended(container: &ContainerInspectResponse, restarted: bool) -> Option<String> {
    let state = container.state.as_ref();
    let code = state.and_then(|state| state.exit_code).unwrap_or_default();
    let how = match to_state(container) {
        ContainerState::Running | ContainerState::Paused if !restarted => return None,
        ContainerState::Running | ContainerState::Paused => {
            format!("it has been restarted {} times", restarts(container))
        }
        ContainerState::Restarting { .. } => format!("it keeps ending, last with exit code {code}"),
        _ if state.and_then(|state| state.oom_killed) == Some(true) => {
            format!("it was killed for using too much memory (exit code {code})")
        }
        _ => format!("it ended with exit code {code}"),
    };
    let error = state
        .and_then(|state| state.error.as_deref())
        .filter(|error| !error.is_empty());
    Some(match error {
        Some(error) => format!("{how} ({error})"),
        None => how,
    })
}

pub(super) fn health(container: &ContainerInspectResponse) -> Option<HealthStatusEnum> {
    let status = container.state.as_ref()?.health.as_ref()?.status?;
    (!matches!(status, HealthStatusEnum::NONE | HealthStatusEnum::EMPTY)).then_some(status)
}
