//! From what is observed to what is desired: the whole way, up front, as a graph of steps.
//!
//! Guarantees, when no step fails and nobody else changes the engine:
//! - a plan's steps lead to a state for which the next plan is empty;
//! - an image is there before anything of a stack that needs it is stopped;
//! - a container that is as desired and runs gets no step, unless it asks to be restarted with another one;
//! - nothing of a stack is stopped to be replaced before all of the stack's creations have worked;
//! - no volume is ever removed;
//! - what a stack no longer has goes only after what it has got runs, except where the two cannot live side by
//!   side (a port, an address, a MAC, a network that is made anew);
//! - objects that are not observed, because they lack this host's label, are in no step.
//!
//! | module | what it does |
//! | --- | --- |
//! | `survey` | compares: what is to become of every network and container, and which stacks are blocked |
//! | `preflight` | what keeps a network from working on this host |
//! | `assemble` | turns that into steps and the order between them |
//! | `graph` | a deterministic order for the steps |
//! | `state` | the same comparison, told to people |
//! | `describe` | one line for a step |

mod assemble;
mod describe;
mod graph;
mod preflight;
mod state;
mod survey;
pub(crate) mod tuning;

pub use describe::describe;
pub(crate) use survey::STAGED;

pub use state::{StackState, stack_state, stack_states};

use decnet_wire::observed::Observed;

use crate::desired::Desired;
use crate::labels;
use crate::policy::Policy;
use crate::step::{Blocked, Plan, PlannedStep, Step};
use survey::Survey;

/// How long a container has to run before its start counts, in milliseconds. One whose network namespace others join is
/// not waited for: they cannot start when it has ended, and say so.
pub const SETTLE_MS: u64 = 1_000;
/// Seconds between the stop signal and SIGKILL where nothing else is said (Compose Specification,
/// "stop_grace_period").
pub const STOP_TIMEOUT_S: u32 = 10;

/// Everything that leads from what is observed to what is desired. The policy is for bundles: a project that stands
/// alone is that of a person who may use the engine anyway.
#[must_use]
pub fn plan(desired: &Desired, observed: &Observed, policy: &Policy) -> Plan {
    let policy = (!desired.is_project()).then_some(policy);
    let survey = Survey::new(desired, observed, policy);
    let mut blocked: Vec<Blocked> = survey
        .blocked_networks
        .values()
        .filter(|block| !block.told)
        .map(|block| Blocked {
            stack: None,
            reason: block.reason.clone(),
        })
        .collect();
    blocked.extend(survey.blocked_stacks.iter().map(|(stack, reason)| Blocked {
        stack: Some((*stack).clone()),
        reason: reason.clone(),
    }));
    match assemble::steps(&survey).into_steps() {
        Ok(steps) => Plan { steps, blocked },
        Err(reason) => {
            blocked.push(Blocked { stack: None, reason });
            Plan {
                steps: Vec::new(),
                blocked,
            }
        }
    }
}

/// What is asked for beyond what a document's pull policies say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refresh {
    /// Build every image that can be built.
    pub build: bool,
    /// Ask the registry for every image that is not built.
    pub pull: bool,
}

/// The builds and pulls that a person asks for, or a document's `pull_policy` does, although the engine has images of
/// those names. [`plan`] has none of them, or it would never be empty: apply these first, and then plan.
#[must_use]
pub fn refresh(desired: &Desired, options: Refresh) -> Plan {
    let steps = assemble::refresh(desired, options).into_steps();
    Plan {
        steps: steps.unwrap_or_default(),
        ..Plan::default()
    }
}

/// Removes every volume of ours that the engine has. [`plan`] never removes one: what is in it is not ours.
#[must_use]
pub fn remove_volumes(observed: &Observed) -> Plan {
    let ours = observed.volumes.iter().filter(|volume| volume.hash.is_some());
    let step = |name: &String| PlannedStep::alone(Step::RemoveVolume { name: name.clone() });
    Plan {
        steps: ours.map(|volume| step(&volume.name)).collect(),
        ..Plan::default()
    }
}

/// One line for each volume of ours that was made from another specification than the document has now. It stays as
/// it is, for what is in it would go with it.
#[must_use]
pub fn outdated_volumes(desired: &Desired, observed: &Observed) -> Vec<String> {
    let outdated = |name: &String| {
        let wanted = desired.volumes().get(name)?.labels.get(labels::HASH)?;
        let found = observed.volumes.iter().find(|volume| volume.name == *name)?;
        let hash = found.hash.as_ref()?;
        (hash != wanted).then(|| {
            format!(
                "volume {name} was made with other options and stays as it is: remove it to have the new ones"
            )
        })
    };
    desired.volumes().keys().filter_map(outdated).collect()
}
