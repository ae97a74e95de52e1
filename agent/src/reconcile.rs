//! The reconcile loop: observe → plan → apply what is possible now → observe again, until nothing is left.
//!
//! Flow: signals (a new bundle, an engine event, a timer, a pause that ended) only wake it; everything it
//! decides comes from the accepted bundle, the ledger and what the engine has.
//!
//! Guarantees: an operation's transition is committed together with its report, after what it says is true.
//! An error that is not the operation's own, such as an engine that is away, fails nothing. A stack that is
//! quarantined goes back to what last ran, and the others go on. After a crash anywhere, the loop continues from the
//! ledger.

mod condition;
mod consequence;
mod effective;
mod execute;
mod images;
mod machine;
mod pace;
mod pulse;
mod suspicions;
mod tries;

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use decnet_plan::desired::Leases;
use decnet_plan::planner::{StackState, plan, stack_states};
use decnet_plan::step::Plan;
use decnet_trace::Tracer;
use decnet_wire::ids::{Digest, HostId, OperationId, StackName};
use decnet_wire::observed::Observed;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::admit::AdmittedBundle;
use crate::backoff::Backoff;
use crate::clock::SharedClock;
use crate::error::{error_chain, one_line};
use crate::ledger::{
    Incident, IncidentCause, LastGood, Ledger, LedgerError, OperationRecord, OperationState, Settled, Trouble,
};
use crate::traces::UnderWay;
pub(crate) use condition::Condition;
pub(crate) use effective::{Effective, Source, effective};
use execute::Journal;
pub(crate) use execute::{Blobless, Execution, Outcome, Record};
pub(crate) use machine::{DockerMachine, Machine};
use pace::Pace;
pub(crate) use pace::Part;
use pulse::Progress;
pub(crate) use pulse::Pulse;
use tries::add_blocked;
pub(crate) use tries::{Retries, quarantined};

/// A round at least this often.
const TIMER: Duration = Duration::from_secs(60);

/// How often free memory goes back to the system while there is nothing to do.
const TIDY: Duration = Duration::from_secs(30);

/// An operation that ran when the agent was last killed succeeds only after its containers were seen to stay
/// up for this long: whoever waited for them to settle is gone.
const PROOF: Duration = Duration::from_secs(2);

/// Between two looks while steps are under way: enough to notice within a second, and no burden on what they do.
const GLANCES: Duration = Duration::from_millis(300);

pub(crate) struct Reconciler<M> {
    pub(crate) host: HostId,
    pub(crate) machine: Arc<M>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) clock: SharedClock,
    pub(crate) bundles: watch::Receiver<Option<Arc<AdmittedBundle>>>,
    pub(crate) wake: Arc<Notify>,
    pub(crate) condition: watch::Sender<Condition>,
    pub(crate) engine_backoff: Backoff,
    pub(crate) retries: Arc<Retries>,
    /// Microseconds that the newest round took that found nothing to do; 0 before the first.
    pub(crate) idle_round: Arc<AtomicU64>,
    /// A look at the engine at least this often, whatever the signals say.
    pub(crate) relist: Duration,
    pub(crate) tracer: Tracer,
    pub(crate) pulse: Pulse,
}

/// When the next round is due.
enum Next {
    Now,
    After(Duration),
}

/// What rounds remember of each other. All of it can be lost.
#[derive(Default)]
struct Memory {
    pace: Pace,
    round: u64,
    expected: Option<Digest>,
    aimed: Option<Aimed>,
    /// Operations of an earlier life: since when they look done, and the restarts that were counted then.
    unproven: BTreeMap<OperationId, Option<(Instant, u32)>>,
    /// As the ledger has them.
    leases: Leases,
    /// When images that nothing needs are looked for; at once when it is not known.
    tidy_at: Option<Instant>,
    rest: Option<Rest>,
    traced: UnderWay,
}

/// A round that found nothing to do. As long as all of this is the same, the next one finds nothing either.
struct Rest {
    bundle: Digest,
    observed: Arc<Observed>,
    /// Commits of the ledger until then.
    commits: u64,
}

/// What was worked out last, and from what.
struct Aimed {
    digest: Digest,
    quarantined: BTreeSet<StackName>,
    effective: Arc<Effective>,
    fingerprints: BTreeMap<Part, u64>,
}

/// One round's view.
struct Look<'a> {
    bundle: &'a Digest,
    effective: &'a Effective,
    plan: &'a Plan,
    /// Not there yet, with the reason.
    pending: BTreeMap<StackName, String>,
    operations: &'a BTreeMap<OperationId, OperationRecord>,
    last_good: &'a BTreeMap<StackName, LastGood>,
    incidents: &'a BTreeMap<StackName, Incident>,
    troubles: &'a BTreeMap<StackName, Trouble>,
}

impl Look<'_> {
    /// The stack's operation, while it is being worked on: also one that has failed and is tried all the same.
    fn open(&self, stack: &StackName) -> Option<OperationId> {
        let aim = self.effective.aims.get(stack)?;
        let operation = aim.operation?;
        let open = match self.operations.get(&operation.id)?.state {
            OperationState::Open | OperationState::Running => true,
            OperationState::Failed => aim.source == Source::Bundle,
            OperationState::Succeeded | OperationState::Superseded => false,
        };
        open.then_some(operation.id)
    }

    /// Whether it was seen to run here as it is aimed at.
    fn ran_before(&self, stack: &StackName) -> bool {
        let known = self.last_good.get(stack);
        known.is_some() && known == self.effective.good(stack).as_ref()
    }
}

impl<M: Machine> Reconciler<M> {
    /// Runs for ever; ends only when the ledger fails.
    pub(crate) async fn run(mut self) -> Result<(), LedgerError> {
        let last_round = self.ledger.journal(1)?.first().map_or(0, |entry| entry.round);
        let running = |record: &OperationRecord| record.state == OperationState::Running;
        let operations = self.ledger.operations()?;
        let mut memory = Memory {
            round: last_round,
            unproven: operations
                .iter()
                .filter(|(_, record)| running(record))
                .map(|(id, _)| (*id, None))
                .collect(),
            leases: self.ledger.leases()?,
            ..Memory::default()
        };
        let mut tidied = None;
        loop {
            self.pulse.beat();
            let rested = memory.rest.is_some();
            let next = self.round(&mut memory).await?;
            if !memory.traced.is_empty() {
                memory.traced.end(&self.ledger.operations()?, &self.tracer);
            }
            let Next::After(pause) = next else {
                continue;
            };
            // Where nothing happened, little was freed.
            let idle = rested && memory.rest.is_some();
            if !idle || tidied.is_none_or(|at: Instant| at.elapsed() >= TIDY) {
                decnet_heap::give_back();
                if memory.rest.is_some() {
                    decnet_heap::unmap_code();
                }
                tidied = Some(Instant::now());
            }
            let pause = pause.min(self.relist);
            let (bundles, wake) = (&mut self.bundles, &self.wake);
            let waiting = async {
                tokio::select! {
                    changed = bundles.changed() => changed.is_ok(),
                    () = wake.notified() => true,
                    () = tokio::time::sleep(pause) => true,
                }
            };
            if !self.pulse.during(pause, waiting).await {
                // Nobody is left to publish: the agent is shutting down.
                return Ok(());
            }
        }
    }

    async fn round(&mut self, memory: &mut Memory) -> Result<Next, LedgerError> {
        let begun = Instant::now();
        let Some(bundle) = self.bundles.borrow_and_update().clone() else {
            self.say(|condition| condition.reason = Some("no bundle was accepted yet".to_owned()));
            return Ok(Next::After(TIMER));
        };
        let seen = self.pulse.during(pulse::LOOKING, self.machine.observe()).await;
        if let Some(rest) = memory.rest.take()
            && rest.bundle == *bundle.digest()
            && rest.commits == self.ledger.commits()
            && memory.tidy_at.is_some_and(|at| begun < at)
            && let Ok((observed, _)) = &seen
            && Arc::ptr_eq(observed, &rest.observed)
        {
            memory.rest = Some(rest);
            self.note_idle(begun);
            return Ok(Next::After(TIMER));
        }
        for stack in self.retries.take() {
            memory.pace.forget(&Some(stack));
        }
        let commits = self.ledger.commits();
        let operations = self.begin(&bundle).await?;
        memory
            .traced
            .take_up(self.host, bundle.bundle(), &operations, &self.tracer);
        let (last_good, troubles) = (self.ledger.last_good()?, self.ledger.troubles()?);
        let effective = match self.aim(memory, &bundle, &troubles, &last_good) {
            Ok(effective) => effective,
            Err(reason) => {
                tracing::error!("the accepted bundle cannot be aimed at: {reason}");
                self.say(|condition| (condition.converged, condition.reason) = (false, Some(reason)));
                return Ok(Next::After(TIMER));
            }
        };
        if memory.expected.as_ref() != Some(bundle.digest()) {
            let mut blobs = bundle.bundle().blobs.clone();
            blobs.extend(last_good.values().flat_map(|good| good.blobs.iter().cloned()));
            self.machine.expect(blobs).await;
            memory.expected = Some(bundle.digest().clone());
        }

        let (observed, version) = match seen {
            Ok(seen) => seen,
            Err(error) => {
                return self
                    .cannot_observe(&bundle, &effective, &operations, &error)
                    .await;
            }
        };
        if self.renew_leases(memory, &effective, &observed).await? {
            return Ok(Next::Now);
        }
        let plan = plan(&effective.desired, &observed, bundle.policy());
        let mut pending = BTreeMap::new();
        for (name, state) in stack_states(&effective.desired, &observed) {
            if let StackState::Pending { reason } = state {
                pending.insert(name, reason);
            }
        }
        for blocked in &plan.blocked {
            if let Some(stack) = &blocked.stack {
                pending.insert(stack.clone(), blocked.reason.clone());
            }
        }
        let proving = prove(&mut memory.unproven, &effective, &observed, &mut pending);
        let incidents = self.ledger.incidents()?;
        let look = Look {
            bundle: bundle.digest(),
            effective: &effective,
            plan: &plan,
            pending,
            operations: &operations,
            last_good: &last_good,
            incidents: &incidents,
            troubles: &troubles,
        };
        self.settle(&mut memory.pace, &look).await?;
        self.note_drift(&look, &look.pending).await?;
        self.publish(&memory.pace, &bundle, &look, Arc::clone(&observed), version);
        if plan.is_settled() && look.pending.is_empty() {
            self.engine_backoff.reset();
            self.note_idle(begun);
            self.tidy(memory, &effective, &last_good, &observed).await?;
            let quarantined = |trouble: &Trouble| trouble.quarantined;
            if incidents.is_empty() && memory.unproven.is_empty() && troubles.values().all(quarantined) {
                if self.ledger.commits() != commits {
                    // A rest is from what the ledger holds now.
                    return Ok(Next::Now);
                }
                memory.rest = Some(Rest {
                    bundle: bundle.digest().clone(),
                    observed,
                    commits,
                });
                // It is the larger part of what the agent holds, and may not be needed for days.
                memory.aimed = None;
            }
            // Back in time to see that it stayed so.
            return Ok(Next::After(if incidents.is_empty() {
                TIMER
            } else {
                pace::STEADY
            }));
        }
        Ok(match self.work(memory, &bundle, &look).await? {
            Next::After(pause) if proving => Next::After(pause.min(PROOF)),
            next => next,
        })
    }

    fn note_idle(&self, begun: Instant) {
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.idle_round.store(micros.max(1), Ordering::Relaxed);
    }

    /// `open → running` for what this bundle asks; gives all operations as they are then.
    async fn begin(
        &self,
        bundle: &AdmittedBundle,
    ) -> Result<BTreeMap<OperationId, OperationRecord>, LedgerError> {
        let operations = self.ledger.operations()?;
        let open: Vec<OperationId> = bundle
            .bundle()
            .stacks
            .iter()
            .filter_map(|stack| stack.operation)
            .map(|operation| operation.id)
            .filter(|id| {
                operations
                    .get(id)
                    .is_some_and(|known| known.state == OperationState::Open)
            })
            .collect();
        if open.is_empty() {
            return Ok(operations);
        }
        let now = self.clock.now();
        self.ledger.write(move |tx| tx.begin(now, &open)).await?;
        self.ledger.operations()
    }

    /// What is aimed at; worked out again only when the bundle or what is quarantined changed.
    fn aim(
        &self,
        memory: &mut Memory,
        bundle: &AdmittedBundle,
        troubles: &BTreeMap<StackName, Trouble>,
        last_good: &BTreeMap<StackName, LastGood>,
    ) -> Result<Arc<Effective>, String> {
        let quarantined = quarantined(troubles);
        if let Some(aimed) = &memory.aimed
            && aimed.digest == *bundle.digest()
            && aimed.quarantined == quarantined
        {
            memory.pace.aim_at(&aimed.fingerprints);
            return Ok(Arc::clone(&aimed.effective));
        }
        let mut effective =
            effective(self.host, bundle.bundle(), &quarantined, last_good).map_err(|errors| {
                errors
                    .first()
                    .map_or_else(String::new, |error| one_line(&error.to_string()))
            })?;
        effective.desired = effective.desired.with_leases(&memory.leases);
        let effective = Arc::new(effective);
        let mut fingerprints: BTreeMap<Part, u64> = effective
            .aims
            .iter()
            .map(|(name, aim)| (Some(name.clone()), fingerprint(aim)))
            .collect();
        fingerprints.insert(None, 0);
        memory.pace.aim_at(&fingerprints);
        memory.aimed = Some(Aimed {
            digest: bundle.digest().clone(),
            quarantined,
            effective: Arc::clone(&effective),
            fingerprints,
        });
        Ok(effective)
    }

    /// Remembers which addresses containers have. True when what is aimed at asks for one of them from now on.
    async fn renew_leases(
        &self,
        memory: &mut Memory,
        effective: &Effective,
        observed: &Observed,
    ) -> Result<bool, LedgerError> {
        let leases = effective.desired.leases(observed, &memory.leases);
        if leases == memory.leases {
            return Ok(false);
        }
        let known = leases.clone();
        self.ledger.write(move |tx| tx.lease(&known)).await?;
        memory.leases = leases;
        let same = effective.desired.clone().with_leases(&memory.leases) == effective.desired;
        if !same {
            memory.aimed = None;
        }
        Ok(!same)
    }

    /// Without a look at the engine nothing can be decided. An object that cannot be read stands in the way
    /// of every operation, through no fault of what they ask for; an engine that is away of none.
    async fn cannot_observe(
        &mut self,
        bundle: &AdmittedBundle,
        effective: &Effective,
        operations: &BTreeMap<OperationId, OperationRecord>,
        error: &decnet_docker::EngineError,
    ) -> Result<Next, LedgerError> {
        let text = one_line(&error_chain(error));
        tracing::warn!(error = text, "cannot look at the Docker Engine");
        let retryable = error.retryable();
        let digest = bundle.digest().clone();
        self.say(|condition| {
            if condition.digest.as_ref() != Some(&digest) {
                // What was said of them was said of what was asked before.
                condition.pending.clear();
            }
            condition.digest = Some(digest);
            condition.converged = false;
            condition.reason = Some(text.clone());
            if retryable {
                condition.engine = None;
            }
        });
        if !retryable {
            self.count_for_all(bundle, effective, operations, &text).await?;
        }
        Ok(Next::After(self.engine_backoff.next()))
    }

    /// Writes down what is done: operations, documents to go back to, incidents that are over.
    async fn settle(&self, pace: &mut Pace, look: &Look<'_>) -> Result<(), LedgerError> {
        let now = Instant::now();
        let mut settled = Vec::new();
        for (name, aim) in &look.effective.aims {
            let part = Some(name.clone());
            if look.pending.contains_key(name) {
                pace.unsettled(&part, now);
                continue;
            }
            let steady = pace.settled(&part, now);
            let operation = look.open(name);
            // What a failed operation fell back to is what it was before; there is nothing to learn from it.
            let good = if aim.source == Source::Bundle {
                look.effective.good(name)
            } else {
                look.last_good.get(name).cloned()
            };
            let incident = look.incidents.get(name);
            let close_incident = incident.is_some_and(|incident| {
                steady || operation.is_some() || incident.cause == IncidentCause::Fallback
            });
            let close_trouble = look
                .troubles
                .get(name)
                .is_some_and(|trouble| !trouble.quarantined && (steady || operation.is_some()));
            let changed = operation.is_some() || good.as_ref() != look.last_good.get(name);
            if changed || close_incident || close_trouble {
                settled.push(Settled {
                    stack: name.clone(),
                    operation,
                    good,
                    close_incident,
                    close_trouble,
                });
            }
        }
        if settled.is_empty() {
            return Ok(());
        }
        for Settled { stack, operation, .. } in &settled {
            if let Some(operation) = operation
                && let Some(aim) = look.effective.aims.get(stack)
            {
                tracing::info!(%stack, decky = %aim.decky, %operation, "operation succeeded");
            }
        }
        let (now, bundle) = (self.clock.now(), look.bundle.clone());
        self.ledger
            .write(move |tx| {
                if tx.is_newest(&bundle)? {
                    tx.settle(now, &settled)?;
                }
                Ok(())
            })
            .await
    }

    /// A stack that ran as it should, and does not now, without an operation: that is an incident.
    async fn note_drift(
        &self,
        look: &Look<'_>,
        pending: &BTreeMap<StackName, String>,
    ) -> Result<(), LedgerError> {
        let mut drifted = Vec::new();
        for (name, reason) in pending {
            let Some(aim) = look.effective.aims.get(name) else {
                continue;
            };
            if look.ran_before(name) && look.open(name).is_none() && !look.incidents.contains_key(name) {
                tracing::warn!(stack = %name, decky = %aim.decky, reason, "left the desired state");
                drifted.push((name.clone(), aim.decky.clone(), one_line(reason)));
            }
        }
        if drifted.is_empty() {
            return Ok(());
        }
        let (now, bundle) = (self.clock.now(), look.bundle.clone());
        self.ledger
            .write(move |tx| {
                if !tx.is_newest(&bundle)? {
                    return Ok(());
                }
                drifted
                    .iter()
                    .try_for_each(|(stack, decky, detail)| tx.drift(now, stack, decky, detail))
            })
            .await
    }

    /// Runs what may run, and draws the consequences.
    async fn work(
        &mut self,
        memory: &mut Memory,
        bundle: &AdmittedBundle,
        look: &Look<'_>,
    ) -> Result<Next, LedgerError> {
        let begun = Instant::now();
        let served = consequence::served(look.plan);
        let chosen = consequence::choose(&served, |part| memory.pace.may(part, begun));
        let mut meaning = BTreeMap::new();
        let (mut worked, mut engine_away, mut news) = (false, false, false);
        if chosen.contains(&true) {
            let busy = consequence::stacks(&served, &chosen);
            let heard = AtomicBool::new(false);
            let outcomes = tokio::select! {
                outcomes = self.execute(memory, look.plan, &served, &chosen) => outcomes?,
                failed = self.watch(look, &busy, &heard) => return Err(failed),
            };
            if heard.into_inner() {
                // Those wakes were meant for the next round.
                self.wake.notify_one();
            }
            self.remember_fetched(look.plan, &outcomes).await?;
            worked = outcomes.contains(&Outcome::Done);
            engine_away = outcomes
                .iter()
                .any(|outcome| matches!(outcome, Outcome::Away { engine: true, .. }));
            news = self.is_outdated();
            meaning = consequence::consequences(&served, &outcomes);
        }
        add_blocked(&mut meaning, look.plan, |part| memory.pace.may(part, begun));
        self.draw(&mut memory.pace, bundle, look, meaning).await?;

        if news {
            return Ok(Next::Now);
        }
        if engine_away {
            return Ok(Next::After(self.engine_backoff.next()));
        }
        if worked {
            return Ok(Next::Now);
        }
        let now = Instant::now();
        let next = memory.pace.next(now).map_or(TIMER, |at| at.duration_since(now));
        Ok(Next::After(next))
    }

    /// While steps are under way: a stack that they are not for, and that leaves its desired state, is an incident at
    /// once. Its repair waits for the next round. Ends only when the ledger fails.
    async fn watch(&self, look: &Look<'_>, busy: &BTreeSet<&StackName>, heard: &AtomicBool) -> LedgerError {
        let mut noted = BTreeSet::new();
        loop {
            let others = |stack: &StackName| !busy.contains(stack);
            tokio::select! {
                () = self.wake.notified() => {
                    heard.store(true, Ordering::Relaxed);
                    if !self.machine.suspects(others).await {
                        continue;
                    }
                }
                // For what no event has told.
                () = tokio::time::sleep(self.relist) => {}
            }
            // Whoever cannot look now is told so by the next round.
            if let Ok((observed, _)) = self.machine.observe().await
                && !self.is_outdated()
            {
                let mut pending = BTreeMap::new();
                for (name, state) in stack_states(&look.effective.desired, &observed) {
                    if let StackState::Pending { reason } = state
                        && others(&name)
                        && !look.pending.contains_key(&name)
                        && noted.insert(name.clone())
                    {
                        pending.insert(name, reason);
                    }
                }
                if let Err(error) = self.note_drift(look, &pending).await {
                    return error;
                }
            }
            tokio::time::sleep(GLANCES).await;
        }
    }

    /// Runs the chosen steps, each in the ledger's journal, until there is a newer bundle.
    async fn execute(
        &self,
        memory: &mut Memory,
        plan: &Plan,
        served: &[BTreeSet<Part>],
        chosen: &[bool],
    ) -> Result<Vec<Outcome>, LedgerError> {
        memory.round += 1;
        let progress = Progress::new();
        let journal = Journal {
            ledger: &self.ledger,
            clock: &self.clock,
            round: memory.round,
            served,
            under_way: &memory.traced,
            tracer: &self.tracer,
            progress: &progress,
        };
        let execution = Execution {
            machine: &*self.machine,
            record: &journal,
        };
        let running = execution.run(plan, chosen, || self.is_outdated());
        let told = || self.machine.told();
        self.pulse.during_steps(&progress, told, running).await
    }

    /// Whether the round is about a bundle that is not the newest any more, or the agent is shutting down.
    fn is_outdated(&self) -> bool {
        self.bundles.has_changed().unwrap_or(true)
    }
}

/// Holds back operations of an earlier life until their containers have stayed up for [`PROOF`]. True while it
/// holds any back.
fn prove(
    unproven: &mut BTreeMap<OperationId, Option<(Instant, u32)>>,
    effective: &Effective,
    observed: &Observed,
    pending: &mut BTreeMap<StackName, String>,
) -> bool {
    let now = Instant::now();
    let mut proving = false;
    for (name, aim) in &effective.aims {
        let Some(id) = aim.operation.map(|operation| operation.id) else {
            continue;
        };
        let Some(since) = unproven.get_mut(&id) else {
            continue;
        };
        if pending.contains_key(name) {
            *since = None;
            continue;
        }
        let containers = || {
            observed
                .containers
                .iter()
                .filter(|container| container.stack == *name)
        };
        let restarts = containers().map(|container| container.restarts).sum();
        let known = since.filter(|(_, before)| *before == restarts);
        let (start, _) = *since.insert(known.unwrap_or((now, restarts)));
        if containers().next().is_none() || now.duration_since(start) >= PROOF {
            unproven.remove(&id);
        } else {
            proving = true;
            pending.insert(
                name.clone(),
                "it runs; whether it stays up is seen in a moment".to_owned(),
            );
        }
    }
    proving
}

/// Two aims with the same fingerprint are worked on at the same pace.
fn fingerprint(aim: &effective::Aim) -> u64 {
    let mut hash = DefaultHasher::new();
    aim.compose.as_str().hash(&mut hash);
    aim.operation.map(|operation| operation.id).hash(&mut hash);
    (aim.source as u8).hash(&mut hash);
    hash.finish()
}

#[cfg(test)]
mod tests;
