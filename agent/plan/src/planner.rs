//! From what is observed to what is desired.

use decnet_wire::ids::StackName;
use decnet_wire::observed::Observed;

use crate::desired::Desired;
use crate::policy::Policy;
use crate::step::{Plan, Step};

/// stub
#[must_use]
pub fn plan(_desired: &Desired, _observed: &Observed, _policy: &Policy) -> Plan {
    Plan::default()
}

/// How far a stack is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StackState {
    Settled,
    Pending { reason: String },
}

/// stub
#[must_use]
pub fn stack_state(_desired: &Desired, _observed: &Observed, _stack: &StackName) -> StackState {
    StackState::Settled
}

/// stub
#[must_use]
pub fn describe(_step: &Step) -> String {
    String::new()
}
