//! Removes everything of this host from its engine: containers, networks, links, volumes, and the images that we have
//! fetched or built and that nobody else has given a name. By label, so that nothing needs to be remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use decnet_docker::{Engine, EngineError};
use decnet_plan::desired::Desired;
use decnet_plan::planner::{plan, remove_volumes};
use decnet_plan::policy::Policy;
use decnet_plan::step::{Plan, PlannedStep, Step};
use decnet_plan::unused::{Fetched, collect};
use decnet_wire::ids::HostId;

use crate::reconcile::{Blobless, Execution, Outcome, Record};

/// Rounds of looking and removing before the caller is told what stands in the way. The engine may still be at work on
/// what was asked of it before.
const ROUNDS: usize = 5;
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(500);

/// Why something is left.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClearanceError {
    #[error("cannot look at the Docker Engine")]
    Engine(#[from] EngineError),
    #[error("the engine still has what is to be removed: {0}")]
    Left(String),
}

/// Removes everything, and gives what was removed, as `kind name`.
///
/// # Errors
/// The engine is away, or something cannot be removed. What was removed so far is gone all the same.
pub(crate) async fn clear(
    socket: &Path,
    host: HostId,
    images: &BTreeSet<String>,
    removed: &Removed,
) -> Result<(), ClearanceError> {
    let engine = Engine::connect(socket).await?;
    let nothing = Desired::nothing(host);
    let fetched: BTreeMap<String, Fetched> = images
        .iter()
        .map(|name| (name.clone(), Fetched { needed_at: 0 }))
        .collect();
    let mut troubles = Vec::new();
    for round in 0..ROUNDS {
        if round > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let observed = engine.glance(host).await?;
        let mut next = plan(&nothing, &observed, &Policy::built_in());
        if next.steps.is_empty() {
            next = remove_volumes(&observed);
        }
        if next.steps.is_empty() {
            let steps = collect(&fetched, &BTreeSet::new(), &observed, None, i64::MAX);
            next.steps = steps.into_iter().map(PlannedStep::alone).collect();
        }
        if next.steps.is_empty() {
            let blocked = next.blocked.into_iter().map(|blocked| blocked.reason);
            troubles = blocked.collect();
            if troubles.is_empty() {
                return Ok(());
            }
            continue;
        }
        troubles = apply(&engine, &next, removed).await;
    }
    Err(ClearanceError::Left(if troubles.is_empty() {
        "it does not come to an end".to_owned()
    } else {
        troubles.join("; ")
    }))
}

async fn apply(engine: &Engine, plan: &Plan, removed: &Removed) -> Vec<String> {
    let chosen = vec![true; plan.steps.len()];
    let execution = Execution {
        machine: &Blobless(engine),
        record: removed,
    };
    let Ok(outcomes) = execution.run(plan, &chosen, || false).await;
    outcomes
        .iter()
        .filter_map(|outcome| outcome.error().map(str::to_owned))
        .collect()
}

/// What was removed, once each.
#[derive(Debug, Default)]
pub(crate) struct Removed(Mutex<BTreeSet<String>>);

impl Removed {
    pub(crate) fn so_far(&self) -> BTreeSet<String> {
        self.names().clone()
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // Names are only ever added.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record for Removed {
    type Error = Infallible;
    type Begun = Option<String>;

    async fn begin(&self, _: usize, planned: &PlannedStep, _: &str) -> Result<Option<String>, Infallible> {
        Ok(what(&planned.step))
    }

    async fn end(&self, what: Option<String>, text: &str, outcome: &Outcome) -> Result<(), Infallible> {
        match outcome.error() {
            None => {
                tracing::info!(step = text, "done");
                self.names().extend(what);
            }
            Some(error) => tracing::warn!(step = text, "not done: {error}"),
        }
        Ok(())
    }
}

/// What a step takes away; none for one that only leads there.
fn what(step: &Step) -> Option<String> {
    Some(match step {
        Step::RemoveContainer { name, .. } => format!("container {name}"),
        Step::RemoveNetwork { name, .. } => format!("network {name}"),
        Step::RemoveVolume { name } => format!("volume {name}"),
        Step::RemoveHostLink { name, .. } => format!("link {name}"),
        Step::RemoveImage { id, names } => {
            format!("image {}", names.first().unwrap_or(id))
        }
        _ => return None,
    })
}
