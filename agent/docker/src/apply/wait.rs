//! Waits that gate what depends on a container, and the way back when a replacement does not come up.

use std::time::Duration;

use bollard::models::HealthStatusEnum;
use bollard::query_parameters::StopContainerOptions;
use decnet_plan::planner::STOP_TIMEOUT_S;
use decnet_wire::observed::ContainerState;
use tokio::time::Instant;

use super::settle::{ended, health};
use crate::engine::CHANGE;
use crate::observe::to_state;
use crate::{Engine, EngineError};

/// How often a container is looked at while it is waited for: often at first, as most checks are quick.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LATER_LOOK: Duration = Duration::from_millis(500);

impl Engine {
    pub(super) async fn wait_healthy(&self, name: &str, timeout_s: Option<u32>) -> Result<(), EngineError> {
        let unhealthy = |how: String| EngineError::Unhealthy {
            name: name.to_owned(),
            how,
        };
        let mut pause = Pause::new(timeout_s);
        loop {
            let container = self.inspect(name).await?;
            match (to_state(&container), health(&container)) {
                // The engine starts it again, and then checks it again.
                (ContainerState::Restarting { .. }, _) => {}
                (ContainerState::Running | ContainerState::Paused, health) => match health {
                    Some(HealthStatusEnum::HEALTHY) => return Ok(()),
                    Some(HealthStatusEnum::UNHEALTHY) => {
                        return Err(unhealthy("its health check fails".to_owned()));
                    }
                    Some(_) => {}
                    None => return Err(unhealthy("it has no health check".to_owned())),
                },
                _ => return Err(unhealthy(ended(&container, false).unwrap_or_default())),
            }
            if !pause.next().await {
                let seconds = pause.limit.unwrap_or_default().as_secs();
                return Err(unhealthy(format!(
                    "its health check says nothing for {seconds} s"
                )));
            }
        }
    }

    pub(super) async fn wait_completed(&self, name: &str, timeout_s: Option<u32>) -> Result<(), EngineError> {
        let mut pause = Pause::new(timeout_s);
        loop {
            let container = self.inspect(name).await?;
            match to_state(&container) {
                ContainerState::Exited { code: 0 } => return Ok(()),
                ContainerState::Exited { .. } | ContainerState::Dead | ContainerState::Removing => {
                    let how = ended(&container, false).unwrap_or_default();
                    let logs = self.last_lines(name).await;
                    let name = name.to_owned();
                    return Err(EngineError::Incomplete { name, how, logs });
                }
                ContainerState::Created
                | ContainerState::Running
                | ContainerState::Paused
                | ContainerState::Restarting { .. } => {}
            }
            if !pause.next().await {
                let seconds = pause.limit.unwrap_or_default().as_secs();
                return Err(EngineError::Incomplete {
                    name: name.to_owned(),
                    how: format!("it still runs after {seconds} s"),
                    logs: String::new(),
                });
            }
        }
    }

    /// Stops what did not come up and starts what ran before, in that order. What fails of it is only logged: the
    /// step has failed already, and the next round looks at what there is.
    pub(super) async fn fall_back(&self, failed: &str, before: &[String]) {
        let options = StopContainerOptions {
            t: i32::try_from(STOP_TIMEOUT_S).ok(),
            signal: None,
        };
        let limit = CHANGE + Duration::from_secs(STOP_TIMEOUT_S.into());
        let stop = self.docker.stop_container(failed, Some(options));
        if let Err(error) = self
            .call(limit, || format!("stop container {failed}"), stop)
            .await
        {
            tracing::warn!(%error, "cannot stop what did not come up");
        }
        for id in before {
            let start = self.docker.start_container(id, None);
            match self
                .call(CHANGE, || format!("start container {id} again"), start)
                .await
            {
                Ok(()) => tracing::info!(id, "started again, because its replacement did not come up"),
                Err(error) => tracing::warn!(%error, "cannot go back to what ran before"),
            }
        }
    }
}

/// The pauses between looks.
struct Pause {
    begun: Instant,
    limit: Option<Duration>,
    next: Duration,
}

impl Pause {
    fn new(timeout_s: Option<u32>) -> Self {
        Self {
            begun: Instant::now(),
            limit: timeout_s.map(|seconds| Duration::from_secs(seconds.into())),
            next: FIRST_LOOK,
        }
    }

    /// False, at once, when the time is over.
    async fn next(&mut self) -> bool {
        let left = self.limit.map(|limit| limit.saturating_sub(self.begun.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            return false;
        }
        tokio::time::sleep(self.next.min(left.unwrap_or(Duration::MAX))).await;
        self.next = (self.next * 3 / 2).min(LATER_LOOK);
        true
    }
}
