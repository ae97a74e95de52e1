//! What a round found, for whoever asks why something is not as it was asked for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use decnet_plan::step::Plan;
use decnet_wire::ids::{DeckyName, Digest, StackName, Timestamp};
use decnet_wire::observed::Observed;
use decnet_wire::report::PendingStack;
use tokio::time::Instant;

use super::pace::Pace;
use super::{Look, Machine, Reconciler};
use crate::admit::AdmittedBundle;
use crate::error::one_line;

/// What the last round found. The report and the status are made of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Condition {
    /// The bundle that this is about.
    pub(crate) digest: Option<Digest>,
    /// Nothing is left to do for it.
    pub(crate) converged: bool,
    /// Why not.
    pub(crate) reason: Option<String>,
    /// The engine's version while it answers.
    pub(crate) engine: Option<String>,
    pub(crate) observed: Option<Arc<Observed>>,
    /// The bundle that was accepted before that was observed.
    pub(crate) observed_under: Option<Digest>,
    /// Stacks that are not as they were asked for.
    pub(crate) pending: BTreeMap<StackName, Pending>,
}

/// Why a stack is not as it was asked for, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) decky: DeckyName,
    pub(crate) reason: String,
    /// Tries that failed.
    pub(crate) tries: u32,
    /// None: it is its turn, or it is quarantined.
    pub(crate) next_try: Option<Instant>,
    pub(crate) quarantined: bool,
}

impl Condition {
    /// Every stack that is not as it was asked for, the quarantined ones first.
    pub(crate) fn pending_stacks(&self, now: Timestamp) -> Vec<PendingStack> {
        let mut stacks: Vec<PendingStack> = self
            .pending
            .iter()
            .map(|(stack, pending)| PendingStack {
                stack: stack.clone(),
                decky: pending.decky.clone(),
                reason: pending.reason.clone(),
                tries: pending.tries,
                next_try_at: pending.next_try.and_then(|at| at_time(at, now)),
                quarantined: pending.quarantined,
            })
            .collect();
        stacks.sort_by_key(|stack| !stack.quarantined);
        stacks
    }

    /// In a few words, for whoever looks at the service.
    pub(crate) fn in_a_line(&self) -> String {
        match (&self.digest, &self.engine, &self.reason) {
            (None, _, None) => "started".to_owned(),
            (None, _, Some(reason)) => reason.clone(),
            (Some(_), None, reason) => {
                let reason = reason.as_deref().unwrap_or("it does not answer");
                format!("waiting for the Docker Engine: {reason}")
            }
            (Some(_), Some(_), Some(reason)) if self.converged => format!("converged, but {reason}"),
            (Some(_), Some(_), Some(reason)) => format!("working: {reason}"),
            (Some(_), Some(_), None) => match &self.observed {
                Some(observed) => format!("converged; {} containers", observed.containers.len()),
                None => "converged".to_owned(),
            },
        }
    }

    /// Whether somebody who was told `told` would be told something else by now, but for how often was tried.
    pub(crate) fn differs(&self, told: &Self) -> bool {
        let states = |condition: &Self| -> Vec<(StackName, bool)> {
            let pending = condition.pending.iter();
            pending
                .map(|(stack, pending)| (stack.clone(), pending.quarantined))
                .collect()
        };
        self.reason != told.reason || states(self) != states(told)
    }

    /// What was seen since a bundle was accepted. What was seen before says nothing about it: a decky that this host
    /// is told to let go of, and has not begun to make, is not gone yet.
    pub(crate) fn observed_under(&self, accepted: Option<&Digest>) -> Option<&Arc<Observed>> {
        self.observed
            .as_ref()
            .filter(|_| self.observed_under.as_ref() == accepted)
    }
}

impl<M: Machine> Reconciler<M> {
    /// Makes known what a round found.
    pub(super) fn publish(
        &self,
        pace: &Pace,
        bundle: &AdmittedBundle,
        look: &Look<'_>,
        observed: Arc<Observed>,
        version: String,
    ) {
        let converged = look.plan.is_settled() && look.pending.is_empty();
        let digest = bundle.digest().clone();
        let pending = pending(pace, look);
        let reason = (!converged || !pending.is_empty()).then(|| reason(pace, look.plan, &pending));
        self.say(|condition| {
            let observed = match &condition.observed {
                Some(known) if *known == observed => Arc::clone(known),
                _ => observed,
            };
            *condition = Condition {
                digest: Some(digest.clone()),
                observed_under: Some(digest),
                converged,
                reason,
                engine: Some(version),
                observed: Some(observed),
                pending,
            };
        });
    }

    /// Changes the condition; whoever watches wakes only when it is really another one.
    pub(super) fn say(&self, change: impl FnOnce(&mut Condition)) {
        self.condition.send_if_modified(|condition| {
            let before = condition.clone();
            change(condition);
            *condition != before
        });
    }
}

/// Everything that is not as it was asked for. A quarantined stack is that also while what ran before runs.
fn pending(pace: &Pace, look: &Look<'_>) -> BTreeMap<StackName, Pending> {
    let mut all = BTreeMap::new();
    for (stack, aim) in &look.effective.aims {
        let lacks = look.pending.get(stack);
        let trouble = look.troubles.get(stack);
        let given_up = trouble.filter(|trouble| trouble.quarantined);
        let part = Some(stack.clone());
        // What a stack lacks says less than why the last try to give it that did not work.
        let lately = lacks.map(|lacks| pace.error(&part).unwrap_or(lacks));
        let reason = match (given_up, lately) {
            (Some(trouble), Some(lately)) => {
                format!("{}; going back to what ran before: {lately}", trouble.reason)
            }
            (Some(trouble), None) => trouble.reason.clone(),
            (None, Some(lately)) => lately.to_owned(),
            (None, None) => continue,
        };
        let tries = trouble.map_or(0, |trouble| trouble.tries);
        let pending = Pending {
            decky: aim.decky.clone(),
            reason: one_line(&reason),
            tries: tries.max(pace.tries(&part)),
            next_try: pace.turn(&part).filter(|_| lacks.is_some()),
            quarantined: given_up.is_some(),
        };
        all.insert(stack.clone(), pending);
    }
    all
}

/// Why the bundle is not reached: one line. What is still worked on comes first.
fn reason(pace: &Pace, plan: &Plan, pending: &BTreeMap<StackName, Pending>) -> String {
    let blocked = plan.blocked.iter().find(|blocked| blocked.stack.is_none());
    let shared = blocked
        .map(|blocked| blocked.reason.as_str())
        .or(pace.error(&None));
    let first = pending.iter().min_by_key(|(_, pending)| pending.quarantined);
    let text = match (shared, first) {
        (Some(reason), _) => reason.to_owned(),
        (None, Some((stack, first))) => {
            let state = if first.quarantined { "quarantined: " } else { "" };
            match pending.len() - 1 {
                0 => format!("{stack}: {state}{}", first.reason),
                more => format!("{stack}: {state}{} (and {more} more)", first.reason),
            }
        }
        (None, None) => format!("{} steps are left", plan.steps.len()),
    };
    one_line(&text)
}

/// The moment of the clock at which that is, in whole seconds; none when it has come.
fn at_time(at: Instant, now: Timestamp) -> Option<Timestamp> {
    let wait = at.checked_duration_since(Instant::now())?;
    let wait = Duration::from_secs(wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
    let at = now.get().checked_add(wait.try_into().ok()?)?;
    Some(Timestamp::new(at.replace_nanosecond(0).unwrap_or(at)))
}
