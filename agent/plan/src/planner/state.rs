//! How far a stack is, told to people. It is settled exactly when a plan without a policy has no step for it and
//! nothing blocks it.

use std::collections::BTreeMap;

use decnet_wire::ids::StackName;
use decnet_wire::observed::{ContainerState, Observed, ObservedContainer};

use super::survey::{Cause, Fate, Survey};
use crate::desired::Desired;

/// How far a stack is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StackState {
    /// Everything is as desired and runs; of a stack without services, nothing is left.
    Settled,
    /// Something is missing, of another version, not running, or still to go.
    Pending {
        /// One line; what does not stay up comes first, with its exit code.
        reason: String,
    },
}

/// How far one stack is. A stack that is not desired is settled once nothing of it is left.
#[must_use]
pub fn stack_state(desired: &Desired, observed: &Observed, stack: &StackName) -> StackState {
    state(&Survey::new(desired, observed, None), stack)
}

/// How far every desired stack is; cheaper than one at a time.
#[must_use]
pub fn stack_states(desired: &Desired, observed: &Observed) -> BTreeMap<StackName, StackState> {
    let survey = Survey::new(desired, observed, None);
    desired
        .stacks()
        .map(|(name, _)| (name.clone(), state(&survey, name)))
        .collect()
}

/// Most reasons that one line gives.
const REASONS: usize = 3;

fn state(survey: &Survey<'_>, stack: &StackName) -> StackState {
    if let Some(reason) = survey.blocked_stacks.get(stack) {
        return StackState::Pending {
            reason: reason.clone(),
        };
    }
    let mut reasons = Vec::new();
    let services = survey.desired.stack(stack).map(|stack| &stack.services);
    for (key, service) in services.into_iter().flatten() {
        let name = &service.spec.name;
        if let Some(fate) = survey.fates.get(&(stack, key.as_str())) {
            reasons.extend(reason(name, *fate));
            reasons.extend(survey.staged(name, *fate).and_then(failing));
            if let Fate::Keep(_) = fate
                && survey.to_close(service, *fate).is_some()
            {
                let line = format!("the network namespace of container {name} is open");
                reasons.push((Weight::Missing, line));
            }
        }
    }
    for orphan in survey.orphans.get(stack).into_iter().flatten() {
        reasons.push((
            Weight::Leftover,
            format!("container {} is still to be removed", orphan.name),
        ));
    }
    if reasons.is_empty() {
        return StackState::Settled;
    }
    reasons.sort();
    let more = reasons.len().saturating_sub(REASONS);
    let mut lines: Vec<String> = reasons.into_iter().take(REASONS).map(|(_, line)| line).collect();
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    StackState::Pending {
        reason: lines.join("; "),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    Failing,
    Missing,
    Outdated,
    Leftover,
}

fn reason(name: &str, fate: Fate<'_>) -> Option<(Weight, String)> {
    let found = match fate {
        // What it follows tells the reason.
        Fate::Keep(_) | Fate::Restart(_) => return None,
        Fate::Rename(container) => (
            Weight::Outdated,
            format!("container {name} is called {}", container.name),
        ),
        Fate::Create => (Weight::Missing, format!("container {name} does not exist")),
        Fate::Unpause(_) => (Weight::Missing, format!("container {name} is paused")),
        Fate::Start(container) => not_running(container),
        Fate::Replace(_, Cause::Outdated) => (
            Weight::Outdated,
            format!("container {name} is of an earlier version"),
        ),
        Fate::Replace(_, Cause::Image) => (
            Weight::Outdated,
            format!("container {name} runs an earlier image"),
        ),
        Fate::Replace(_, Cause::Updated) => (
            Weight::Outdated,
            format!("somebody has changed the limits or the restart policy of container {name}"),
        ),
        Fate::Replace(_, Cause::Broken) => (Weight::Outdated, format!("container {name} is half removed")),
        Fate::Replace(_, Cause::Network) => (
            Weight::Outdated,
            format!("container {name} is not on its network as it should be"),
        ),
        Fate::Replace(_, Cause::Namespace) => (
            Weight::Outdated,
            format!("container {name} shares an outdated network namespace"),
        ),
    };
    Some(found)
}

/// A replacement that has been tried and did not stay up.
fn failing(staged: &ObservedContainer) -> Option<(Weight, String)> {
    Some(not_running(staged)).filter(|(weight, _)| *weight == Weight::Failing)
}

fn not_running(container: &ObservedContainer) -> (Weight, String) {
    let name = &container.name;
    let restarts = match container.restarts {
        0 => String::new(),
        1 => " after 1 restart".to_owned(),
        many => format!(" after {many} restarts"),
    };
    match container.state {
        ContainerState::Restarting { code } => (
            Weight::Failing,
            format!("container {name} does not stay up: exit code {code}{restarts}"),
        ),
        ContainerState::Exited { code } => (
            Weight::Failing,
            format!("container {name} has ended: exit code {code}{restarts}"),
        ),
        _ => (
            Weight::Missing,
            format!("container {name} is not started{restarts}"),
        ),
    }
}
