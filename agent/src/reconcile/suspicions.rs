//! What is suspicious about containers although they run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use decnet_docker::Engine;
use decnet_wire::observed::Observed;
use tokio::sync::Semaphore;

/// What was found about the way of containers to their LAN.
#[derive(Debug, Clone)]
pub(super) struct Suspicions {
    facts: Arc<Mutex<Facts>>,
    turns: Arc<Semaphore>,
}

/// Containers that are looked at at once; each takes a thread for up to a second.
const AT_ONCE: usize = 8;

#[derive(Debug, Default)]
struct Facts {
    /// By the container's id; None while it is being found out. Each is looked at once.
    found: BTreeMap<String, Option<Vec<String>>>,
    /// What was observed last, and the same as it was told. None when something was found since.
    told: Option<(Arc<Observed>, Arc<Observed>)>,
}

impl Default for Suspicions {
    fn default() -> Self {
        Self {
            facts: Arc::default(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

impl Suspicions {
    /// Adds what is known, and begins to look at containers that are new. The same value as before while nothing has
    /// changed.
    pub(super) fn add_to(&self, engine: &Engine, observed: Arc<Observed>) -> Arc<Observed> {
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((before, told)) = &facts.told
            && Arc::ptr_eq(before, &observed)
        {
            return Arc::clone(told);
        }
        let ids: BTreeSet<&str> = observed
            .containers
            .iter()
            .map(|container| container.id.as_str())
            .collect();
        facts.found.retain(|id, _| ids.contains(id.as_str()));
        let mut told = Arc::clone(&observed);
        for (index, container) in observed.containers.iter().enumerate() {
            // A container without a namespace of its own has nothing closed.
            if !container.state.is_running() || container.lock.is_none() {
                continue;
            }
            match facts.found.get(&container.id) {
                Some(Some(warnings)) if !warnings.is_empty() => {
                    Arc::make_mut(&mut told).containers[index]
                        .warnings
                        .clone_from(warnings);
                }
                Some(_) => {}
                None => {
                    facts.found.insert(container.id.clone(), None);
                    let (engine, all) = (engine.clone(), self.clone());
                    let (id, name) = (container.id.clone(), container.name.clone());
                    tokio::spawn(async move { all.look_at(&engine, id, &name).await });
                }
            }
        }
        facts.told = Some((observed, Arc::clone(&told)));
        told
    }

    async fn look_at(&self, engine: &Engine, id: String, name: &str) {
        // The semaphore is never closed.
        let _turn = self.turns.acquire().await;
        let warnings = engine.check_reach(&id).await.unwrap_or_default();
        for warning in &warnings {
            tracing::warn!(container = name, warning, "suspicious");
        }
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        if !warnings.is_empty() {
            facts.told = None;
        }
        facts.found.insert(id, Some(warnings));
    }
}
