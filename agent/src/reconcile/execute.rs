//! Runs a plan's steps, independent ones at once, each recorded before and after.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use decnet_docker::{EngineError, Fault};
use decnet_plan::planner::describe;
use decnet_plan::step::{Plan, PlannedStep, Step};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::Machine;
use crate::clock::SharedClock;
use crate::error::error_chain;
use crate::ledger::{JournalEntry, Ledger, LedgerError};

/// Steps under way at once. The engine's own bound is eight calls (`decnet_docker::Engine`); a start that
/// waits for its container to settle takes none of them, so there are more steps than calls.
const AT_ONCE: usize = 64;

/// What became of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Failed {
        error: String,
        fault: Fault,
    },
    /// Nothing is wrong with the step: what it needs is away for now.
    Away {
        error: String,
        engine: bool,
    },
    /// Not begun: something before it did not work, it was not its turn, or there was news.
    Skipped,
}

/// Who is told of every step.
pub(crate) trait Record: Sync {
    type Error: Send;
    /// What connects the two ends.
    type Begun: Send;

    /// Before a step; an error keeps it from being begun.
    fn begin(
        &self,
        index: usize,
        planned: &PlannedStep,
        text: &str,
    ) -> impl Future<Output = Result<Self::Begun, Self::Error>> + Send;

    /// After it.
    fn end(
        &self,
        begun: Self::Begun,
        text: &str,
        error: Option<&str>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// One round in the ledger's journal.
pub(crate) struct Journal<'a> {
    pub(crate) ledger: &'a Arc<Ledger>,
    pub(crate) clock: &'a SharedClock,
    pub(crate) round: u64,
}

impl Record for Journal<'_> {
    type Error = LedgerError;
    /// The entry's number.
    type Begun = u64;

    async fn begin(&self, index: usize, planned: &PlannedStep, text: &str) -> Result<u64, LedgerError> {
        let entry = JournalEntry {
            number: 0,
            round: self.round,
            index,
            stack: planned.stack.clone(),
            text: text.to_owned(),
            // A step is plain data: it can always be written as JSON.
            step: serde_json::to_value(&planned.step).unwrap_or_default(),
            begun_at: self.clock.now(),
            outcome: None,
        };
        let number = self.ledger.write(move |tx| tx.journal_intent(&entry)).await?;
        tracing::debug!(step = text, "step begun");
        Ok(number)
    }

    async fn end(&self, number: u64, text: &str, error: Option<&str>) -> Result<(), LedgerError> {
        if let Some(error) = error {
            tracing::warn!(step = text, error, "step failed");
        }
        let (at, error) = (self.clock.now(), error.map(str::to_owned));
        self.ledger
            .write(move |tx| tx.journal_outcome(number, at, error.clone()))
            .await
    }
}

/// What can do a step.
pub(crate) trait Apply {
    fn apply(&self, step: &Step) -> impl Future<Output = Result<(), EngineError>> + Send;
}

impl<M: Machine> Apply for M {
    fn apply(&self, step: &Step) -> impl Future<Output = Result<(), EngineError>> + Send {
        Machine::apply(self, step)
    }
}

pub(crate) struct Execution<'a, A, R> {
    pub(crate) machine: &'a A,
    pub(crate) record: &'a R,
}

impl<A: Apply, R: Record> Execution<'_, A, R> {
    /// Runs the steps that `chosen` allows, in the plan's order where it matters. `stop` is asked before
    /// each step is begun; steps under way are finished.
    pub(crate) async fn run(
        &self,
        plan: &Plan,
        chosen: &[bool],
        stop: impl Fn() -> bool,
    ) -> Result<Vec<Outcome>, R::Error> {
        let mut outcomes = vec![Outcome::Skipped; plan.steps.len()];
        let mut finished = BTreeSet::new();
        let mut begun = BTreeSet::new();
        let mut under_way = FuturesUnordered::new();
        let mut engine_away = false;
        loop {
            if !engine_away && !stop() {
                for (index, planned) in plan.steps.iter().enumerate() {
                    if under_way.len() >= AT_ONCE {
                        break;
                    }
                    let ready = chosen.get(index).copied().unwrap_or(false)
                        && planned.after.iter().all(|before| finished.contains(before));
                    if ready && begun.insert(index) {
                        under_way.push(self.step(index, planned));
                    }
                }
            }
            let Some((index, outcome)) = under_way.next().await else {
                break;
            };
            let outcome = outcome?;
            match outcome {
                Outcome::Done => {
                    finished.insert(index);
                }
                Outcome::Away { engine: true, .. } => engine_away = true,
                _ => {}
            }
            outcomes[index] = outcome;
        }
        Ok(outcomes)
    }

    async fn step(&self, index: usize, planned: &PlannedStep) -> (usize, Result<Outcome, R::Error>) {
        (index, self.recorded(index, planned).await)
    }

    async fn recorded(&self, index: usize, planned: &PlannedStep) -> Result<Outcome, R::Error> {
        let text = describe(&planned.step);
        let begun = self.record.begin(index, planned, &text).await?;
        let outcome = match self.machine.apply(&planned.step).await {
            Ok(()) => Outcome::Done,
            Err(error) => judge(&text, &error),
        };
        let error = match &outcome {
            Outcome::Done | Outcome::Skipped => None,
            Outcome::Failed { error, .. } | Outcome::Away { error, .. } => Some(error.as_str()),
        };
        self.record.end(begun, &text, error).await?;
        Ok(outcome)
    }
}

fn judge(step: &str, error: &EngineError) -> Outcome {
    let text = crate::error::one_line(&format!("{step}: {}", error_chain(error)));
    if !error.retryable() {
        return Outcome::Failed {
            error: text,
            fault: error.fault(),
        };
    }
    // A blob that cannot be fetched, or one call that hangs, says nothing about the rest of the plan.
    let engine = !matches!(error, EngineError::ReadBlob { .. } | EngineError::Timeout { .. });
    Outcome::Away { error: text, engine }
}
