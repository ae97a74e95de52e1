//! From a plan and what became of its steps to what that means for each stack. Pure.

use std::collections::{BTreeMap, BTreeSet};

use decnet_docker::Fault;
use decnet_plan::step::Plan;
use decnet_wire::ids::StackName;

use super::execute::Outcome;
use super::pace::Part;

/// What a round meant for one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Consequence {
    /// At least one of its steps worked and none failed.
    Worked,
    Failed {
        error: String,
        fault: Fault,
    },
    /// What it needs is away.
    Away {
        error: String,
    },
}

/// Which stacks a step serves: its own, or for a shared step those that have a step waiting for it,
/// directly or not. A shared step that nobody waits for stands for itself.
pub(crate) fn served(plan: &Plan) -> Vec<BTreeSet<Part>> {
    let mut served: Vec<BTreeSet<Part>> = vec![BTreeSet::new(); plan.steps.len()];
    // Steps come after all that they wait for, so going backwards meets every waiting step first.
    for (index, planned) in plan.steps.iter().enumerate().rev() {
        match &planned.stack {
            Some(stack) => {
                // What waits for another stack's step is that stack's own affair.
                served[index] = BTreeSet::from([Some(stack.clone())]);
            }
            None if served[index].is_empty() => {
                served[index].insert(None);
            }
            None => {}
        }
        let waiting = served[index].clone();
        for before in &planned.after {
            if plan.steps.get(*before).is_some_and(|step| step.stack.is_none()) {
                served[*before].extend(waiting.iter().filter(|part| part.is_some()).cloned());
            }
        }
    }
    served
}

/// The steps whose turn it is: those that serve a part that may be worked on.
pub(crate) fn choose(served: &[BTreeSet<Part>], may: impl Fn(&Part) -> bool) -> Vec<bool> {
    served.iter().map(|parts| parts.iter().any(&may)).collect()
}

/// The stacks that the chosen steps serve.
pub(crate) fn stacks<'a>(served: &'a [BTreeSet<Part>], chosen: &[bool]) -> BTreeSet<&'a StackName> {
    let chosen = served.iter().zip(chosen).filter(|(_, chosen)| **chosen);
    chosen.flat_map(|(parts, _)| parts.iter().flatten()).collect()
}

/// What the round meant for each part that a step was begun for.
pub(crate) fn consequences(served: &[BTreeSet<Part>], outcomes: &[Outcome]) -> BTreeMap<Part, Consequence> {
    let mut meaning: BTreeMap<Part, Consequence> = BTreeMap::new();
    for (parts, outcome) in served.iter().zip(outcomes) {
        let new = match outcome {
            Outcome::Done => Consequence::Worked,
            Outcome::Failed { error, fault } => Consequence::Failed {
                error: error.clone(),
                fault: *fault,
            },
            Outcome::Away { error, .. } => Consequence::Away { error: error.clone() },
            Outcome::Skipped => continue,
        };
        for part in parts {
            let known = meaning.get(part);
            if known.is_none_or(|known| weight(&new) > weight(known)) {
                meaning.insert(part.clone(), new.clone());
            }
        }
    }
    meaning
}

/// An error says more than a success, and a final one more than one that passes; the first of a kind counts.
fn weight(consequence: &Consequence) -> (u8, Option<Fault>) {
    match consequence {
        Consequence::Worked => (0, None),
        Consequence::Away { .. } => (1, None),
        Consequence::Failed { fault, .. } => (2, Some(*fault)),
    }
}

#[cfg(test)]
mod tests {
    use decnet_plan::step::{PlannedStep, Step};

    use super::*;

    fn step(stack: Option<&str>, after: &[usize]) -> PlannedStep {
        PlannedStep {
            step: Step::PullImage {
                reference: "r@sha256:0".to_owned(),
                platform: None,
                always: false,
                optional: false,
            },
            stack: stack.map(|name| name.parse().unwrap()),
            after: after.to_vec(),
            why: None,
        }
    }

    fn part(name: &str) -> Part {
        Some(name.parse().unwrap())
    }

    fn failed(error: &str, fault: Fault) -> Outcome {
        Outcome::Failed {
            error: error.to_owned(),
            fault,
        }
    }

    #[test]
    fn a_shared_step_that_fails_is_the_failure_of_every_stack_that_waits_for_it() {
        let plan = Plan {
            steps: vec![
                step(None, &[]),
                step(None, &[0]),
                step(Some("a"), &[1]),
                step(Some("b"), &[]),
                step(Some("c"), &[0]),
            ],
            blocked: vec![],
        };
        let served = served(&plan);
        assert_eq!(served[0], BTreeSet::from([part("a"), part("c")]));
        assert_eq!(served[1], BTreeSet::from([part("a")]));
        let outcomes = [
            failed("no image", Fault::Wish),
            Outcome::Skipped,
            Outcome::Skipped,
            Outcome::Done,
            Outcome::Skipped,
        ];
        let meaning = consequences(&served, &outcomes);
        let failure = Consequence::Failed {
            error: "no image".to_owned(),
            fault: Fault::Wish,
        };
        assert_eq!(meaning[&part("a")], failure);
        assert_eq!(meaning[&part("c")], failure);
        assert_eq!(meaning[&part("b")], Consequence::Worked);
    }

    #[test]
    fn a_shared_step_that_nobody_waits_for_stands_for_itself() {
        let plan = Plan {
            steps: vec![step(Some("a"), &[]), step(None, &[0])],
            blocked: vec![],
        };
        let served = served(&plan);
        assert_eq!(served[1], BTreeSet::from([None]));
        assert_eq!(choose(&served, Option::is_some), vec![true, false]);
    }

    #[test]
    fn a_shared_step_runs_when_any_stack_that_waits_for_it_has_its_turn() {
        let plan = Plan {
            steps: vec![step(None, &[]), step(Some("a"), &[0]), step(Some("b"), &[0])],
            blocked: vec![],
        };
        let chosen = choose(&served(&plan), |at| *at == part("b"));
        assert_eq!(chosen, vec![true, false, true]);
    }

    #[test]
    fn the_gravest_outcome_is_a_stacks_outcome() {
        let served = vec![BTreeSet::from([part("a")]); 4];
        let outcomes = [
            Outcome::Done,
            failed("refused", Fault::Wish),
            failed("exited with code 3", Fault::Ended),
            failed("the disk is full", Fault::Passing),
        ];
        let expected = Consequence::Failed {
            error: "exited with code 3".to_owned(),
            fault: Fault::Ended,
        };
        assert_eq!(consequences(&served, &outcomes)[&part("a")], expected);
    }
}
