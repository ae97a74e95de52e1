//! Starts, and what each waits for.

use std::collections::{BTreeMap, BTreeSet};

use decnet_wire::observed::ContainerState;

use super::{Assembly, Place};
use crate::compose::Condition;
use crate::planner::SETTLE_MS;
use crate::planner::graph::Node;
use crate::planner::survey::{Fate, is_active};
use crate::step::Step;

impl<'a> Assembly<'_, 'a> {
    pub(super) fn starts(&mut self) {
        let owners: BTreeSet<Place<'_>> = self
            .services()
            .filter_map(|((stack, _), service, _)| Some((stack, service.joins.as_deref()?)))
            .collect();
        for (place, service, fate) in self.services() {
            let settle_ms = if self.survey.desired.is_project() || self.is_awaited(place) {
                0
            } else {
                SETTLE_MS
            };
            let fallback = self.fallback(place, fate);
            let name = service.spec.name.clone();
            let step = match fate {
                Fate::Unpause(container) => Step::UnpauseContainer {
                    name,
                    id: container.id.clone(),
                },
                Fate::Rename(container) if container.state == ContainerState::Paused => {
                    Step::UnpauseContainer {
                        name,
                        id: container.id.clone(),
                    }
                }
                Fate::Rename(container) if container.state == ContainerState::Running => continue,
                Fate::Start(_) | Fate::Create | Fate::Replace(..) | Fate::Restart(_) | Fate::Rename(_) => {
                    Step::StartContainer {
                        name: self.name(place.0, place.1).unwrap_or(name),
                        settle_ms: if owners.contains(&place) { 0 } else { settle_ms },
                        fallback,
                    }
                }
                // While something waits to go, one that has been restarted has to prove that it stays up.
                Fate::Keep(container)
                    if container.restarts > 0 && self.survey.orphans.contains_key(place.0) =>
                {
                    Step::StartContainer {
                        name,
                        settle_ms,
                        fallback: Vec::new(),
                    }
                }
                Fate::Keep(_) => continue,
            };
            let node = self.graph.add(Some(place.0), step);
            self.graph.after(node, self.creations.get(&place).copied());
            self.graph.after(node, self.renames.get(&place).copied());
            if let Fate::Replace(container, _) | Fate::Restart(container) = fate {
                self.graph
                    .after(node, self.stops.get(container.id.as_str()).copied());
            }
            self.graph
                .after(node, self.probes.get(&place).into_iter().flatten().copied());
            self.starts.insert(place, node);
        }
        let locks = self.locks();
        for ((stack, name), service, _) in self.services() {
            let Some(node) = self.starts.get(&(stack, name)).copied() else {
                continue;
            };
            if let Some(owner) = service.joins.as_deref() {
                self.graph.after(node, locks.get(&(stack, owner)).copied());
            }
            let stops = self.in_the_way(stack, service);
            self.graph.after(node, stops);
        }
    }

    /// Closes the namespaces that are new or open. Whoever is about to join one waits for that; who is in an earlier
    /// one of the same container, and would be put into the new one by its restart policy, is stopped first.
    fn locks(&mut self) -> BTreeMap<Place<'a>, Node> {
        let mut locks = BTreeMap::new();
        for (place, service, fate) in self.services() {
            let Some(egress) = self.survey.to_close(service, fate) else {
                continue;
            };
            let step = Step::LockNamespace {
                name: self
                    .name(place.0, place.1)
                    .unwrap_or_else(|| service.spec.name.clone()),
                egress: egress.clone(),
                rules: egress.rules(),
            };
            let node = self.graph.add(Some(place.0), step);
            self.graph.after(node, self.starts.get(&place).copied());
            self.graph.after(node, self.renames.get(&place).copied());
            self.before_renames.entry(place).or_default().push(node);
            locks.insert(place, node);
        }
        for ((stack, _), service, fate) in self.services() {
            let (Some(owner), Fate::Replace(container, _)) = (service.joins.as_deref(), fate) else {
                continue;
            };
            if let (Some(start), Some(stop)) = (
                self.starts.get(&(stack, owner)),
                self.stops.get(container.id.as_str()),
            ) {
                self.graph.after(*start, [*stop]);
            }
        }
        locks
    }

    /// Whether somebody waits until it has ended by itself.
    fn is_awaited(&self, place: Place<'_>) -> bool {
        let stack = self.survey.desired.stack(place.0);
        let mut services = stack.into_iter().flat_map(|stack| stack.services.values());
        services.any(|service| {
            service
                .waits
                .get(place.1)
                .is_some_and(|dependency| dependency.condition == Condition::Completed)
        })
    }

    /// What ran before a replacement, and can run again: not without its network or its owner's namespace. Deckies
    /// have none, for their namespaces would be open; what they go back to is planned like everything else.
    fn fallback(&self, place: Place<'a>, fate: Fate<'a>) -> Vec<String> {
        let Fate::Replace(old, _) = fate else {
            return Vec::new();
        };
        let fates = &self.survey.fates;
        let service = self
            .survey
            .desired
            .stack(place.0)
            .and_then(|stack| stack.services.get(place.1));
        let orphaned = service.is_some_and(|service| {
            let mut owners = service.owners();
            owners.any(|owner| fates.get(&(place.0, owner)).is_some_and(Fate::creates))
        });
        if !self.survey.desired.is_project()
            || orphaned
            || self.survey.is_cut_off(old)
            || !is_active(&old.state)
        {
            return Vec::new();
        }
        let mut ids = vec![old.id.clone()];
        for ((stack, _), service, fate) in self.services() {
            if let Fate::Replace(child, _) = fate
                && stack == place.0
                && is_active(&child.state)
                && service.owners().any(|owner| owner == place.1)
            {
                ids.push(child.id.clone());
            }
        }
        ids
    }

    /// What each start waits for, as `depends_on` and what is shared say it.
    pub(super) fn waits(&mut self) {
        let mut waits: BTreeMap<(Place<'a>, Condition, bool), Node> = BTreeMap::new();
        for ((stack, key), service, _) in self.services() {
            let Some(start) = self.starts.get(&(stack, key)).copied() else {
                continue;
            };
            for (other, dependency) in &service.waits {
                let place = (stack, other.as_str());
                let Some(fate) = self.survey.fates.get(&place).copied() else {
                    continue;
                };
                let optional = !dependency.required;
                // The failure of something that is not required holds nobody up.
                let begun = if optional { &self.creations } else { &self.starts };
                let begun = begun.get(&place).copied();
                let over = matches!(fate, Fate::Keep(container) if !is_active(&container.state));
                if dependency.condition == Condition::Started || over {
                    self.graph.after(start, begun);
                    continue;
                }
                let Some(name) = self.name(stack, other) else {
                    continue;
                };
                let graph = &mut self.graph;
                let wait = *waits
                    .entry((place, dependency.condition, optional))
                    .or_insert_with(|| {
                        let step = if dependency.condition == Condition::Healthy {
                            Step::WaitHealthy {
                                name,
                                timeout_s: None,
                                optional,
                            }
                        } else {
                            Step::WaitCompleted {
                                name,
                                timeout_s: None,
                                optional,
                            }
                        };
                        graph.add(Some(stack), step)
                    });
                self.graph.after(wait, begun);
                self.graph.after(wait, self.renames.get(&place).copied());
                self.graph.after(start, [wait]);
                self.before_renames.entry(place).or_default().push(wait);
            }
        }
    }
}
