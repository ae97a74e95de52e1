//! Runs a plan's steps, independent ones at once, each recorded before and after.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::sync::Arc;

use decnet_docker::{BlobSource, Engine, EngineError, Fault};
use decnet_plan::planner::describe;
use decnet_plan::step::{Plan, PlannedStep, Step};
use decnet_trace::Tracer;
use decnet_wire::ids::{Digest, Timestamp};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;

use super::Machine;
use super::pace::Part;
use super::pulse::Progress;
use crate::clock::SharedClock;
use crate::error::error_chain;
use crate::ledger::{JournalEntry, Ledger, LedgerError};
use crate::traces::{Traced, UnderWay};

/// Steps at once that the engine works for; those that only wait are not counted. It is given a little more than the
/// eight calls that `decnet_docker::Engine` makes at once, so that none waits for the journal. And no more than that:
/// the first stack is to be complete soon, not all of them half.
const AT_ONCE: usize = 12;

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

impl Outcome {
    /// What went wrong.
    pub(crate) fn error(&self) -> Option<&str> {
        match self {
            Self::Done | Self::Skipped => None,
            Self::Failed { error, .. } | Self::Away { error, .. } => Some(error),
        }
    }

    /// What kind of thing went wrong, in a word that never changes.
    pub(crate) const fn code(&self) -> Option<&'static str> {
        match self {
            Self::Done | Self::Skipped => None,
            Self::Failed { fault, .. } => Some(match fault {
                Fault::Passing => "passing",
                Fault::Host => "host",
                Fault::Wish => "wish",
                Fault::Ended => "ended",
            }),
            Self::Away { engine: true, .. } => Some("engine-away"),
            Self::Away { engine: false, .. } => Some("away"),
        }
    }
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
        outcome: &Outcome,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// One round in the ledger's journal.
pub(crate) struct Journal<'a> {
    pub(crate) ledger: &'a Arc<Ledger>,
    pub(crate) clock: &'a SharedClock,
    pub(crate) round: u64,
    /// Which parts each step of the plan serves.
    pub(crate) served: &'a [BTreeSet<Part>],
    pub(crate) under_way: &'a UnderWay,
    pub(crate) tracer: &'a Tracer,
    pub(super) progress: &'a Progress,
}

/// A step that is in the journal and has not ended.
pub(crate) struct Entry<'a> {
    number: u64,
    index: usize,
    traced: Option<(&'a Traced, String, Timestamp)>,
}

impl<'a> Record for Journal<'a> {
    type Error = LedgerError;
    type Begun = Entry<'a>;

    async fn begin(&self, index: usize, planned: &PlannedStep, text: &str) -> Result<Entry<'a>, LedgerError> {
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
        let traced = self
            .served
            .get(index)
            .and_then(|served| self.under_way.of_step(served));
        let traced = traced.map(|traced| {
            let kind = entry.step["do"].as_str().unwrap_or_default();
            (traced, kind.to_owned(), entry.begun_at)
        });
        let number = self.ledger.write(move |tx| tx.journal_intent(&entry)).await?;
        tracing::debug!(step = text, "step begun");
        self.progress.begun(index, &planned.step);
        Ok(Entry {
            number,
            index,
            traced,
        })
    }

    async fn end(&self, entry: Entry<'a>, text: &str, outcome: &Outcome) -> Result<(), LedgerError> {
        let Entry {
            number,
            index,
            traced,
        } = entry;
        self.progress.ended(index);
        if let Some(error) = outcome.error() {
            tracing::warn!(step = text, error, "step failed");
        }
        let (at, error) = (self.clock.now(), outcome.error().map(str::to_owned));
        self.ledger
            .write(move |tx| tx.journal_outcome(number, at, error.clone()))
            .await?;
        if let Some((traced, kind, begun)) = traced {
            self.tracer.record(traced.step(&kind, begun, at, outcome));
        }
        Ok(())
    }
}

/// What can do a step.
pub(crate) trait Apply {
    /// `turn` is dropped once it only waits.
    fn apply(&self, step: &Step, turn: impl Send) -> impl Future<Output = Result<(), EngineError>> + Send;
}

impl<M: Machine> Apply for M {
    fn apply(&self, step: &Step, turn: impl Send) -> impl Future<Output = Result<(), EngineError>> + Send {
        Machine::apply(self, step, turn)
    }
}

/// An engine without blobs: what it is asked for names folders and references, or removes something.
pub(crate) struct Blobless<'a>(pub(crate) &'a Engine);

struct NoBlobs;

impl BlobSource for NoBlobs {
    async fn open(&self, digest: &Digest) -> io::Result<tokio::fs::File> {
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("a project that stands alone has no blob {digest}"),
        ))
    }
}

impl Apply for Blobless<'_> {
    async fn apply(&self, step: &Step, turn: impl Send) -> Result<(), EngineError> {
        self.0.apply_in_turn(step, &NoBlobs, turn).await
    }
}

pub(crate) struct Execution<'a, A, R> {
    pub(crate) machine: &'a A,
    pub(crate) record: &'a R,
}

impl<A: Apply, R: Record> Execution<'_, A, R> {
    /// Runs the steps that `chosen` allows; of those that can be begun, the first of the plan. `stop` is asked before
    /// each step is begun; steps under way are finished.
    pub(crate) async fn run(
        &self,
        plan: &Plan,
        chosen: &[bool],
        stop: impl Fn() -> bool,
    ) -> Result<Vec<Outcome>, R::Error> {
        let mut outcomes = vec![Outcome::Skipped; plan.steps.len()];
        let turns = Semaphore::new(AT_ONCE);
        let mut order = Order::new(plan, chosen);
        let mut under_way = FuturesUnordered::new();
        let mut engine_away = false;
        loop {
            let next = order.next().filter(|_| !engine_away && !stop());
            tokio::select! {
                biased;
                Some((index, outcome)) = under_way.next() => {
                    let outcome = outcome?;
                    match outcome {
                        Outcome::Done => order.finished(index),
                        Outcome::Away { engine: true, .. } => engine_away = true,
                        _ => {}
                    }
                    outcomes[index] = outcome;
                }
                // The semaphore is never closed.
                Ok(turn) = turns.acquire(), if next.is_some() => {
                    let Some(index) = next else { continue };
                    order.begun(index);
                    let step = self.recorded(index, &plan.steps[index], turn);
                    under_way.push(async move { (index, step.await) });
                }
                else => break,
            }
        }
        Ok(outcomes)
    }

    async fn recorded(
        &self,
        index: usize,
        planned: &PlannedStep,
        turn: impl Send,
    ) -> Result<Outcome, R::Error> {
        let text = describe(&planned.step);
        let begun = self.record.begin(index, planned, &text).await?;
        let outcome = match self.machine.apply(&planned.step, turn).await {
            Ok(()) => Outcome::Done,
            Err(error) => judge(&text, &error),
        };
        self.record.end(begun, &text, &outcome).await?;
        Ok(outcome)
    }
}

/// Which steps can be begun.
struct Order {
    ready: BTreeSet<usize>,
    /// How many steps that have not finished stand before each.
    waits_for: Vec<usize>,
    /// The steps that each stands before.
    before: Vec<Vec<usize>>,
}

impl Order {
    /// Of the steps that are chosen. One that waits for a step which is not chosen is never ready.
    fn new(plan: &Plan, chosen: &[bool]) -> Self {
        let mut before = vec![Vec::new(); plan.steps.len()];
        for (index, planned) in plan.steps.iter().enumerate() {
            for earlier in &planned.after {
                before[*earlier].push(index);
            }
        }
        let is_chosen = |index: usize| chosen.get(index).copied().unwrap_or(false);
        // What is not chosen waits for itself.
        let waits_for: Vec<usize> = (plan.steps.iter().enumerate())
            .map(|(index, planned)| planned.after.len() + usize::from(!is_chosen(index)))
            .collect();
        let ready = (waits_for.iter().enumerate())
            .filter(|(_, count)| **count == 0)
            .map(|(index, _)| index)
            .collect();
        Self {
            ready,
            waits_for,
            before,
        }
    }

    fn next(&self) -> Option<usize> {
        self.ready.first().copied()
    }

    fn begun(&mut self, index: usize) {
        self.ready.remove(&index);
    }

    fn finished(&mut self, index: usize) {
        for later in &self.before[index] {
            self.waits_for[*later] -= 1;
            if self.waits_for[*later] == 0 {
                self.ready.insert(*later);
            }
        }
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
