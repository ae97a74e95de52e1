//! Looks, plans, applies, until there is nothing to do.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use decnet_docker::{Builder, Engine};
use decnet_plan::desired::Desired;
use decnet_plan::planner::plan;
use decnet_plan::policy::Policy;
use decnet_plan::step::{Plan, PlannedStep, Step};
use decnet_wire::ids::HostId;
use decnet_wire::observed::Observed;
use tokio_util::sync::CancellationToken;

use super::terminal::Terminal;
use super::{ComposeError, Problems};
use crate::reconcile::{Blobless, Execution, Outcome, Record};

/// Rounds of planning and applying. One is enough unless the engine was away, or somebody else changed something.
const ROUNDS: usize = 4;
/// Between two rounds when the first did not work.
const PAUSE: Duration = Duration::from_millis(500);

/// The engine, as one project sees it.
#[derive(Debug)]
pub(super) struct Runner {
    engine: Engine,
    host: HostId,
    terminal: Arc<Terminal>,
    interrupted: CancellationToken,
}

/// How what is planned is changed by the command line.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Manner {
    /// Containers are created and left so.
    pub(super) no_start: bool,
    /// Every container is made anew, once.
    pub(super) force_recreate: bool,
    /// Instead of each container's own, in seconds.
    pub(super) stop_timeout: Option<u32>,
}

/// Whether it matters what the kernel lacks, which takes longer to find out than all the rest: for a network or a lock that
/// is to be made. A network that is there was made by this kernel, unless nothing has run since a restart.
fn asks_the_kernel(plan: &Plan, observed: &Observed) -> bool {
    let makes = |step: &Step| matches!(step, Step::CreateNetwork { .. } | Step::LockNamespace { .. });
    let runs = observed
        .containers
        .iter()
        .any(|container| container.state.is_running());
    !plan.is_settled() && (!runs || plan.steps.iter().any(|planned| makes(&planned.step)))
}

/// Objects that the command does not concern.
#[derive(Debug, Clone, Default)]
pub(super) struct Hidden {
    /// Containers of these services only; none of a service that is not among them. None concerns all.
    pub(super) only: Option<BTreeSet<String>>,
}

impl Runner {
    pub(super) async fn connect(socket: &Path, host: HostId) -> Result<Self, ComposeError> {
        let terminal = Arc::new(Terminal::new());
        let mut engine = Engine::connect(socket).await?.with_progress(terminal.clone());
        // Docker's own switch.
        if matches!(std::env::var("DOCKER_BUILDKIT").as_deref(), Ok("0" | "false")) {
            engine = engine.building_with(Builder::Classic);
        }
        Ok(Self {
            engine,
            host,
            terminal,
            interrupted: CancellationToken::new(),
        })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn terminal(&self) -> &Terminal {
        &self.terminal
    }

    /// From now on, an interrupt ends the run after the steps that are under way.
    pub(super) fn stop_on_interrupt(&self) {
        let interrupted = self.interrupted.clone();
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                interrupted.cancel();
            }
        });
    }

    pub(super) async fn observe(&self) -> Result<Observed, ComposeError> {
        Ok(self.engine.glance(self.host).await?)
    }

    /// What there is to do, were it done now.
    pub(super) async fn plan(
        &self,
        desired: &Desired,
        observed: &Observed,
        hidden: &Hidden,
        manner: Manner,
    ) -> Plan {
        let mut seen = hidden.from(desired, observed, manner);
        let policy = Policy::built_in();
        let mut planned = plan(desired, &seen, &policy);
        if asks_the_kernel(&planned, &seen) {
            let lacks = self.engine.lacks().await;
            if lacks != seen.lacks {
                seen.lacks = lacks;
                planned = plan(desired, &seen, &policy);
            }
        }
        manner.change(&mut planned);
        planned
    }

    /// Leads from what was observed to what is desired; gives the number of steps that it took.
    ///
    /// # Errors
    /// What kept it from getting there, after the last round.
    pub(super) async fn settle(
        &self,
        desired: &Desired,
        hidden: &Hidden,
        mut manner: Manner,
        mut observed: Observed,
    ) -> Result<usize, ComposeError> {
        let mut steps = 0;
        for round in 1.. {
            let plan = self.plan(desired, &observed, hidden, manner).await;
            if !plan.blocked.is_empty() {
                let reasons = plan.blocked.iter().map(|blocked| blocked.reason.clone());
                return Err(ComposeError::Blocked(Problems(reasons.collect())));
            }
            if plan.steps.is_empty() {
                break;
            }
            steps += plan.steps.len();
            let failures = self.apply(&plan).await?;
            if failures.errors.is_empty() {
                break;
            }
            if !failures.worth_another_round || round == ROUNDS {
                return Err(ComposeError::Steps(Problems(failures.errors)));
            }
            manner.force_recreate = false;
            tokio::time::sleep(PAUSE).await;
            observed = self.observe().await?;
        }
        Ok(steps)
    }

    /// Applies a plan.
    ///
    /// # Errors
    /// An interrupt.
    pub(super) async fn apply(&self, plan: &Plan) -> Result<Failures, ComposeError> {
        let chosen = vec![true; plan.steps.len()];
        let execution = Execution {
            machine: &Blobless(&self.engine),
            record: &*self.terminal,
        };
        let Ok(outcomes) = execution
            .run(plan, &chosen, || self.interrupted.is_cancelled())
            .await;
        self.terminal.finish();
        if self.interrupted.is_cancelled() {
            return Err(ComposeError::Interrupted);
        }
        let mut failures = Failures {
            worth_another_round: true,
            ..Failures::default()
        };
        for outcome in outcomes {
            match outcome {
                Outcome::Done | Outcome::Skipped => {}
                Outcome::Failed { error, .. } => {
                    failures.worth_another_round = false;
                    failures.errors.push(error);
                }
                Outcome::Away { error, .. } => failures.errors.push(error),
            }
        }
        Ok(failures)
    }

    /// Applies a plan of which every step has to succeed.
    pub(super) async fn apply_all(&self, plan: &Plan) -> Result<(), ComposeError> {
        let failures = self.apply(plan).await?;
        match failures.errors.is_empty() {
            true => Ok(()),
            false => Err(ComposeError::Steps(Problems(failures.errors))),
        }
    }

    /// Waits until every container that is desired runs, and is healthy where it has a health check.
    pub(super) async fn wait(&self, desired: &Desired, timeout_s: Option<u32>) -> Result<(), ComposeError> {
        let checked = desired.containers().filter(|(_, _, spec)| {
            let test = spec.healthcheck.as_ref().and_then(|check| check.test.as_ref());
            test.is_some_and(|test| test.first().is_some_and(|word| word != "NONE"))
        });
        let steps = checked.map(|(_, _, spec)| {
            PlannedStep::alone(Step::WaitHealthy {
                name: spec.name.clone(),
                timeout_s,
                optional: false,
            })
        });
        let plan = Plan {
            steps: steps.collect(),
            ..Plan::default()
        };
        self.apply_all(&plan).await?;
        let observed = self.observe().await?;
        let down: Vec<String> = desired
            .containers()
            .filter(|(_, _, spec)| {
                let runs =
                    |container: &&decnet_wire::observed::ObservedContainer| container.state.is_running();
                let mut all = observed.containers.iter();
                all.find(|container| container.name == spec.name)
                    .filter(runs)
                    .is_none()
            })
            .map(|(_, _, spec)| format!("container {} does not run", spec.name))
            .collect();
        match down.is_empty() {
            true => Ok(()),
            false => Err(ComposeError::Steps(Problems(down))),
        }
    }
}

/// What did not work in a round.
#[derive(Debug, Default)]
pub(super) struct Failures {
    pub(super) errors: Vec<String>,
    /// Only things failed that may work at once when tried again.
    worth_another_round: bool,
}

impl Hidden {
    /// What the planner is to see.
    fn from(&self, desired: &Desired, observed: &Observed, manner: Manner) -> Observed {
        let mut seen = observed.clone();
        if let Some(only) = &self.only {
            seen.containers
                .retain(|container| only.contains(&container.service));
            // Others may be on it.
            let wanted = desired.networks();
            let hides = seen.containers.len() < observed.containers.len();
            seen.networks
                .retain(|network| !hides || wanted.contains_key(&network.name));
        }
        if manner.force_recreate {
            for container in &mut seen.containers {
                container.hash.clear();
            }
        }
        seen
    }
}

impl Manner {
    fn change(self, plan: &mut Plan) {
        if let Some(seconds) = self.stop_timeout {
            for planned in &mut plan.steps {
                if let Step::StopContainer { timeout_s, .. } = &mut planned.step {
                    *timeout_s = seconds;
                }
            }
        }
        if self.no_start {
            without_starts(plan);
        }
    }
}

/// Takes the starts out; what waits for one waits for what that waited for.
fn without_starts(plan: &mut Plan) {
    let mut kept = Vec::new();
    // For each old step: the new steps that stand for it.
    let mut stands: Vec<Vec<usize>> = Vec::new();
    for mut planned in std::mem::take(&mut plan.steps) {
        let mut after: Vec<usize> = planned
            .after
            .iter()
            .flat_map(|index| stands.get(*index).cloned().unwrap_or_default())
            .collect();
        after.sort_unstable();
        after.dedup();
        let starts = matches!(
            planned.step,
            Step::StartContainer { .. }
                | Step::UnpauseContainer { .. }
                | Step::WaitHealthy { .. }
                | Step::WaitCompleted { .. }
        );
        if starts {
            stands.push(after);
        } else {
            planned.after = after;
            stands.push(vec![kept.len()]);
            kept.push(planned);
        }
    }
    plan.steps = kept;
}

impl Record for Terminal {
    type Error = Infallible;
    type Begun = ();

    async fn begin(&self, _: usize, planned: &PlannedStep, text: &str) -> Result<(), Infallible> {
        if is_long(&planned.step) {
            self.line(text);
        }
        Ok(())
    }

    async fn end(&self, (): (), text: &str, outcome: &Outcome) -> Result<(), Infallible> {
        match outcome.error() {
            None => self.line(&format!("done: {text}")),
            // It is told in full when all is over.
            Some(_) => self.line(&format!("failed: {text}")),
        }
        Ok(())
    }
}

fn is_long(step: &Step) -> bool {
    matches!(
        step,
        Step::PullImage { .. }
            | Step::BuildImage { .. }
            | Step::WaitHealthy { .. }
            | Step::WaitCompleted { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_a_start_that_is_left_out_waits_for_what_that_waited_for() {
        let step = |step: Step, after: &[usize]| PlannedStep {
            step,
            stack: None,
            after: after.to_vec(),
            why: None,
        };
        let volume = |name: &str| Step::RemoveVolume {
            name: name.to_owned(),
        };
        let start = Step::StartContainer {
            name: "a".to_owned(),
            settle_ms: 0,
            fallback: Vec::new(),
        };
        let mut plan = Plan {
            steps: vec![
                step(volume("a"), &[]),
                step(start, &[0]),
                step(volume("b"), &[0, 1]),
            ],
            ..Plan::default()
        };
        without_starts(&mut plan);
        assert_eq!(plan.steps, [step(volume("a"), &[]), step(volume("b"), &[0])]);
    }
}
