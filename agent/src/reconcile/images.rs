//! Images: what was fetched is remembered, and what nothing needs any more goes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use decnet_plan::step::{Plan, PlannedStep};
use decnet_plan::unused::{Fetched, collect, fetches};
use decnet_wire::bundle::BlobKind;
use decnet_wire::observed::Observed;
use tokio::time::Instant;

use super::execute::Outcome;
use super::pulse::LOOKING;
use super::{Effective, Machine, Memory, Reconciler};
use crate::ledger::{LastGood, LedgerError};
use decnet_wire::ids::StackName;

/// How often images are looked at that nothing needs.
pub(super) const EVERY: Duration = Duration::from_secs(60 * 60);
/// A moment that is so little older, in seconds, is not written anew.
const FRESH_S: i64 = 12 * 60 * 60;

impl<M: Machine> Reconciler<M> {
    /// Remembers the images that steps have fetched. What was there before is not ours to remove.
    pub(super) async fn remember_fetched(
        &self,
        plan: &Plan,
        outcomes: &[Outcome],
    ) -> Result<(), LedgerError> {
        let done = plan.steps.iter().zip(outcomes);
        let done = done.filter(|(_, outcome)| **outcome == Outcome::Done);
        let names: Vec<String> = done
            .filter_map(|(planned, _)| fetches(&planned.step).map(str::to_owned))
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        let needed_at = self.clock.now().get().unix_timestamp();
        self.ledger
            .write(move |tx| {
                let fetched = Fetched { needed_at };
                names.iter().try_for_each(|name| tx.fetched(name, fetched))
            })
            .await
    }

    /// Removes images that nothing has needed for long. Only called when nothing else is to be done, so that nothing
    /// is about to need one.
    pub(super) async fn tidy(
        &self,
        memory: &mut Memory,
        effective: &Effective,
        last_good: &BTreeMap<StackName, LastGood>,
        observed: &Observed,
    ) -> Result<(), LedgerError> {
        let begun = Instant::now();
        if memory.tidy_at.is_some_and(|at| begun < at) {
            return Ok(());
        }
        memory.tidy_at = Some(begun + EVERY);
        let fetched = self.ledger.fetched()?;
        if fetched.is_empty() {
            return Ok(());
        }
        let needed = needed(effective, last_good);
        let now = self.clock.now().get().unix_timestamp();
        let stale: Vec<String> = fetched
            .iter()
            .filter(|(name, known)| needed.contains(*name) && now.saturating_sub(known.needed_at) > FRESH_S)
            .map(|(name, _)| name.clone())
            .collect();
        let there: BTreeSet<&String> = observed
            .images
            .iter()
            .flat_map(|image| &image.references)
            .collect();
        let gone: Vec<String> = fetched
            .keys()
            .filter(|name| !there.contains(name))
            .cloned()
            .collect();
        if !stale.is_empty() || !gone.is_empty() {
            self.ledger
                .write(move |tx| {
                    let needed = Fetched { needed_at: now };
                    stale.iter().try_for_each(|name| tx.fetched(name, needed))?;
                    gone.iter().try_for_each(|name| tx.forget_fetched(name))
                })
                .await?;
        }
        let disk = self.pulse.during(LOOKING, self.machine.disk()).await;
        let steps = collect(&self.ledger.fetched()?, &needed, observed, disk, now);
        if steps.is_empty() {
            return Ok(());
        }
        tracing::info!(
            images = steps.len(),
            "removing images that nothing needs any more"
        );
        let planned = steps.into_iter().map(PlannedStep::alone);
        let plan = Plan {
            steps: planned.collect(),
            ..Plan::default()
        };
        // What fails is in the journal and the log, and is tried again in an hour.
        let all = vec![true; plan.steps.len()];
        // They serve no operation, and so belong to no trace.
        self.execute(memory, &plan, &[], &all).await.map(drop)
    }
}

/// The names, ids and references, of all images that are desired or may be gone back to.
fn needed(effective: &Effective, last_good: &BTreeMap<StackName, LastGood>) -> BTreeSet<String> {
    let desired = effective.desired.containers();
    let mut needed: BTreeSet<String> = desired
        .flat_map(|(_, _, spec)| spec.image.iter().cloned())
        .collect();
    for blob in last_good.values().flat_map(|good| &good.blobs) {
        // What was built is named by what is desired: nothing is removed while anything else is to be done.
        if let BlobKind::ImageArchive { reference, image_ids } = &blob.kind {
            needed.insert(reference.clone());
            needed.extend(image_ids.iter().map(ToString::to_string));
        }
    }
    needed
}
