//! Tries that failed: what they mean is decided in the ledger, with what it remembers of the tries before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use decnet_docker::Fault;
use decnet_plan::step::Plan;
use decnet_wire::ids::{OperationId, StackName};
use tokio::time::Instant;

use super::consequence::Consequence;
use super::effective::{Effective, Source};
use super::pace::{Pace, Part};
use super::{Look, Machine, Reconciler};
use crate::admit::{AdmittedBundle, wishes};
use crate::error::one_line;
use crate::ledger::{FailedTry, LedgerError, OperationRecord, Trouble};

/// Stacks that somebody on the host wants to be tried again without a wait. A hint: their quarantine ends in the
/// ledger, and what is lost here only waits longer.
#[derive(Debug, Default)]
pub(crate) struct Retries(Mutex<BTreeSet<StackName>>);

impl Retries {
    pub(crate) fn add(&self, stacks: impl IntoIterator<Item = StackName>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(stacks);
    }

    pub(super) fn take(&self) -> BTreeSet<StackName> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The stacks that are given up.
pub(crate) fn quarantined(troubles: &BTreeMap<StackName, Trouble>) -> BTreeSet<StackName> {
    let given_up = troubles.iter().filter(|(_, trouble)| trouble.quarantined);
    given_up.map(|(stack, _)| stack.clone()).collect()
}

impl<M: Machine> Reconciler<M> {
    /// Counts tries, gives up what has had its last one, and slows down what does not work.
    pub(super) async fn draw(
        &self,
        pace: &mut Pace,
        bundle: &AdmittedBundle,
        look: &Look<'_>,
        meaning: BTreeMap<Part, Consequence>,
    ) -> Result<(), LedgerError> {
        let now = Instant::now();
        let mut failed = Vec::new();
        for (part, consequence) in meaning {
            match consequence {
                Consequence::Worked => {
                    if pace.worked(&part, now)
                        && let Some(stack) = part
                    {
                        let reason = look.pending.get(&stack).map_or("steps are left", String::as_str);
                        let error = one_line(&format!("does not come to rest: {reason}"));
                        failed.push((stack, error, Fault::Ended));
                    }
                }
                Consequence::Failed { error, fault } => {
                    pace.failed(&part, now, &error);
                    failed.extend(part.map(|stack| (stack, error, fault)));
                }
                Consequence::Away { error } => pace.failed(&part, now, &error),
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        let wishes = wishes(bundle.bundle());
        let failed = failed.into_iter().filter_map(|(stack, error, fault)| {
            let aim = look.effective.aims.get(&stack)?;
            if aim.source != Source::Bundle {
                // It is given up already; what it goes back to is only slowed down.
                return None;
            }
            let services = look.effective.desired.stack(&stack)?.containers().count();
            Some(FailedTry {
                decky: aim.decky.clone(),
                wish: wishes.get(&stack)?.clone(),
                generation: bundle.bundle().generation,
                operation: look.open(&stack),
                error,
                fault,
                may_quarantine: services > 0 && !look.ran_before(&stack),
                stack,
            })
        });
        self.count(failed.collect()).await
    }

    async fn count(&self, failed: Vec<FailedTry>) -> Result<(), LedgerError> {
        if failed.is_empty() {
            return Ok(());
        }
        for FailedTry {
            stack,
            decky,
            operation,
            error,
            ..
        } in &failed
        {
            let operation = operation.map(tracing::field::display);
            tracing::warn!(%stack, %decky, operation, error, "a try failed");
        }
        let now = self.clock.now();
        let given_up = self
            .ledger
            .write(move |tx| {
                let mut given_up = Vec::new();
                for failed in &failed {
                    if tx.try_failed(now, failed)? {
                        given_up.push((failed.stack.clone(), failed.decky.clone()));
                    }
                }
                Ok(given_up)
            })
            .await?;
        for (stack, decky) in given_up {
            tracing::error!(%stack, %decky, "quarantined: it is tried again when something else is asked of it, or by `decnet-agent retry`");
        }
        Ok(())
    }

    /// Counts a failure that stands in the way of every operation, through no fault of what they ask for.
    pub(super) async fn count_for_all(
        &self,
        bundle: &AdmittedBundle,
        effective: &Effective,
        operations: &BTreeMap<OperationId, OperationRecord>,
        error: &str,
    ) -> Result<(), LedgerError> {
        let open = |id: &OperationId| operations.get(id).is_some_and(|known| !known.state.is_terminal());
        let wishes = wishes(bundle.bundle());
        let aims = effective.aims.iter().filter_map(|(stack, aim)| {
            let open = aim.operation.map(|operation| operation.id).filter(open);
            let operation = open.filter(|_| aim.source == Source::Bundle);
            Some((stack, aim, operation?, wishes.get(stack)?.clone()))
        });
        let failed = aims.map(|(stack, aim, operation, wish)| FailedTry {
            stack: stack.clone(),
            decky: aim.decky.clone(),
            wish,
            generation: bundle.bundle().generation,
            operation: Some(operation),
            error: error.to_owned(),
            fault: Fault::Host,
            may_quarantine: false,
        });
        self.count(failed.collect()).await
    }
}

/// What is blocked had its turn as well, though no step was possible.
pub(super) fn add_blocked(
    meaning: &mut BTreeMap<Part, Consequence>,
    plan: &Plan,
    may: impl Fn(&Part) -> bool,
) {
    for blocked in &plan.blocked {
        if may(&blocked.stack) {
            let error = one_line(&blocked.reason);
            meaning.insert(
                blocked.stack.clone(),
                Consequence::Failed {
                    error,
                    fault: Fault::Host,
                },
            );
        }
    }
}
