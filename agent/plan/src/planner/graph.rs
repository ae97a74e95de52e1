//! Steps, the order between them, and one deterministic list that keeps it.

use std::collections::{BTreeMap, BTreeSet};

use decnet_wire::ids::StackName;

use super::describe;
use crate::step::{PlannedStep, Step, Why};

/// A step's index while the graph grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Node(usize);

#[derive(Debug, Default)]
pub(super) struct Graph {
    drafts: Vec<Draft>,
}

#[derive(Debug)]
struct Draft {
    step: Step,
    stack: Option<StackName>,
    after: BTreeSet<usize>,
    why: Option<Why>,
}

impl Graph {
    pub(super) fn add(&mut self, stack: Option<&StackName>, step: Step) -> Node {
        self.drafts.push(Draft {
            step,
            stack: stack.cloned(),
            after: BTreeSet::new(),
            why: None,
        });
        Node(self.drafts.len() - 1)
    }

    pub(super) fn step_mut(&mut self, node: Node) -> &mut Step {
        &mut self.drafts[node.0].step
    }

    /// Tells why a step is there.
    pub(super) fn explain(&mut self, node: Node, why: Why) {
        self.drafts[node.0].why = Some(why);
    }

    /// `node` waits for each of `others`.
    pub(super) fn after(&mut self, node: Node, others: impl IntoIterator<Item = Node>) {
        self.drafts[node.0]
            .after
            .extend(others.into_iter().map(|other| other.0));
    }

    /// A topological order; among the steps that could come next, the one with the smallest key does (images, then
    /// shared objects, then stack by stack). The keys are unique, so the order does not depend on how the graph grew.
    ///
    /// # Errors
    /// A line that names steps which wait for each other. The planner's rules make that impossible.
    pub(super) fn into_steps(self) -> Result<Vec<PlannedStep>, String> {
        let mut waiting: Vec<usize> = self.drafts.iter().map(|draft| draft.after.len()).collect();
        let mut followers: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, draft) in self.drafts.iter().enumerate() {
            for other in &draft.after {
                followers.entry(*other).or_default().push(index);
            }
        }
        let mut ready: BTreeSet<(Key<'_>, usize)> = BTreeSet::new();
        for (index, draft) in self
            .drafts
            .iter()
            .enumerate()
            .filter(|(index, _)| waiting[*index] == 0)
        {
            ready.insert((key(draft), index));
        }
        let mut order = Vec::with_capacity(self.drafts.len());
        while let Some((_, index)) = ready.pop_first() {
            order.push(index);
            for follower in followers.get(&index).into_iter().flatten() {
                waiting[*follower] -= 1;
                if waiting[*follower] == 0 {
                    ready.insert((key(&self.drafts[*follower]), *follower));
                }
            }
        }
        if let Some(stuck) = waiting.iter().position(|count| *count > 0) {
            let step = describe(&self.drafts[stuck].step);
            return Err(format!(
                "no order of steps exists: {step} waits for itself; please report this"
            ));
        }
        Ok(self.renumbered(&order))
    }

    fn renumbered(self, order: &[usize]) -> Vec<PlannedStep> {
        let place: BTreeMap<usize, usize> = order.iter().enumerate().map(|(new, old)| (*old, new)).collect();
        let mut steps: Vec<(usize, PlannedStep)> = Vec::with_capacity(order.len());
        for (old, draft) in self.drafts.into_iter().enumerate() {
            let mut after: Vec<usize> = draft
                .after
                .iter()
                .filter_map(|index| place.get(index).copied())
                .collect();
            after.sort_unstable();
            let step = PlannedStep {
                step: draft.step,
                stack: draft.stack,
                after,
                why: draft.why,
            };
            steps.push((place.get(&old).copied().unwrap_or(old), step));
        }
        steps.sort_by_key(|(index, _)| *index);
        steps.into_iter().map(|(_, step)| step).collect()
    }
}

type Key<'a> = (u8, Option<&'a StackName>, u8, &'a str, &'a str);

fn key(draft: &Draft) -> Key<'_> {
    let (rank, name, id) = match &draft.step {
        Step::LoadImage { reference, blob, .. } => (0, reference.as_str(), blob.as_str()),
        Step::PullImage { reference, .. } => (1, reference.as_str(), ""),
        Step::BuildImage { build } => (2, build.tags.first().map_or("", String::as_str), ""),
        Step::RemoveNetwork { name, id } => (3, name.as_str(), id.as_str()),
        Step::CreateNetwork { network } => (4, network.name.as_str(), ""),
        Step::CreateVolume { volume } => (5, volume.name.as_str(), ""),
        Step::StopContainer { name, id, .. } => (6, name.as_str(), id.as_str()),
        Step::RemoveContainer { name, id } => (7, name.as_str(), id.as_str()),
        Step::RenameContainer { from, to, .. } => (8, from.as_str(), to.as_str()),
        Step::CreateContainer { container, .. } => (9, container.name.as_str(), ""),
        Step::UnpauseContainer { name, id } => (10, name.as_str(), id.as_str()),
        Step::StartContainer { name, .. } => (11, name.as_str(), ""),
        Step::WaitHealthy { name, optional, .. } => (13, name.as_str(), maybe(*optional)),
        Step::WaitCompleted { name, optional, .. } => (14, name.as_str(), maybe(*optional)),
        Step::RemoveVolume { name } => (15, name.as_str(), ""),
        Step::RemoveImage { id, .. } => (16, id.as_str(), ""),
        Step::ProbeAddress { name, network, .. } => (6, name.as_str(), network.as_str()),
        Step::LockNamespace { name, .. } => (12, name.as_str(), ""),
        Step::RemoveHostLink { name, .. } => (3, name.as_str(), ""),
        Step::CreateHostLink { link } => (6, link.name.as_str(), ""),
    };
    (u8::from(rank > 2), draft.stack.as_ref(), rank, name, id)
}

fn maybe(optional: bool) -> &'static str {
    if optional { "optional" } else { "" }
}
