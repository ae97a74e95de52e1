//! From what is observed to what is desired: the whole way, up front, as a graph of steps.
//!
//! Guarantees, when no step fails and nobody else changes the engine:
//! - a plan's steps lead to a state for which the next plan is empty;
//! - an image is there before anything of a stack that needs it is stopped;
//! - a container that is as desired and runs gets no step;
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

pub use describe::describe;
pub use preflight::HOST_LINK;
pub use state::{StackState, stack_state, stack_states};

use decnet_wire::observed::Observed;

use crate::desired::Desired;
use crate::policy::Policy;
use crate::step::{Blocked, Plan};
use survey::Survey;

/// How long a container has to run before its start counts, in milliseconds.
pub const SETTLE_MS: u64 = 1_000;
/// The same for a container whose network namespace others join: they are its proof.
pub const OWNER_SETTLE_MS: u64 = 200;
/// Seconds between the stop signal and SIGKILL where nothing else is said (Compose Specification,
/// "stop_grace_period").
pub const STOP_TIMEOUT_S: u32 = 10;

/// Everything that leads from what is observed to what is desired.
#[must_use]
pub fn plan(desired: &Desired, observed: &Observed, policy: &Policy) -> Plan {
    let survey = Survey::new(desired, observed, Some(policy));
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
