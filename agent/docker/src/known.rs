//! What a connection has learnt about the engine and need not ask again for every container.
//!
//! None of it is trusted to be so still: the engine answers 404 to an id that has gone, and is then asked. An id, unlike a
//! name, never comes to mean another object.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use decnet_plan::labels;
use decnet_wire::observed::ObservedImage;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default)]
pub(crate) struct Known(Arc<Mutex<Facts>>);

#[derive(Debug, Default)]
struct Facts {
    /// Ids and references that the engine has.
    images: HashSet<String>,
    /// By name. Only containers that carry a host's label.
    containers: HashMap<String, KnownContainer>,
    /// Changes so far, and the last of each name: a list that was begun before it does not know of it.
    changes: u64,
    changed: HashMap<String, u64>,
}

/// So many changes ago, every list that is still being read was not begun.
const LONG_AGO: u64 = 4096;

impl Facts {
    fn note(&mut self, name: &str) {
        self.changes += 1;
        self.changed.insert(name.to_owned(), self.changes);
        let changes = self.changes;
        if self.changed.len() as u64 > 2 * LONG_AGO {
            self.changed.retain(|_, at| *at + LONG_AGO > changes);
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownContainer {
    pub(crate) id: String,
    /// The host's label.
    pub(crate) host: String,
    /// It was made through this connection and nobody is known to have started it.
    pub(crate) fresh: bool,
}

impl Known {
    fn with<T>(&self, look: impl FnOnce(&mut Facts) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces what was known of images by a whole list of them.
    pub(crate) fn images_are(&self, images: &[ObservedImage]) {
        let names = images
            .iter()
            .flat_map(|image| std::iter::once(&image.id).chain(&image.references));
        let names = names.cloned().collect();
        self.with(|facts| facts.images = names);
    }

    pub(crate) fn image(&self, name: &str) {
        self.with(|facts| facts.images.insert(name.to_owned()));
    }

    pub(crate) fn no_image(&self, name: &str) {
        self.with(|facts| facts.images.remove(name));
    }

    pub(crate) fn has_image(&self, name: &str) -> bool {
        self.with(|facts| facts.images.contains(name))
    }

    /// To be asked before a list is.
    pub(crate) fn moment(&self) -> u64 {
        self.with(|facts| facts.changes)
    }

    /// Replaces what was known of one host's containers, but for those that changed since the list was asked for.
    pub(crate) fn containers_are<'a>(
        &self,
        host: &str,
        since: u64,
        containers: impl Iterator<Item = (&'a str, &'a str)>,
    ) {
        self.with(|facts| {
            let changed = &facts.changed;
            let newer = |name: &str| changed.get(name).is_some_and(|at| *at > since);
            facts
                .containers
                .retain(|name, known| known.host != host || newer(name));
            for (name, id) in containers.filter(|(name, _)| !newer(name)) {
                let known = KnownContainer {
                    id: id.to_owned(),
                    host: host.to_owned(),
                    fresh: false,
                };
                facts.containers.insert(name.to_owned(), known);
            }
        });
    }

    pub(crate) fn created(&self, name: &str, id: &str, labels: &BTreeMap<String, String>) {
        let Some(host) = labels.get(labels::HOST) else {
            return;
        };
        let known = KnownContainer {
            id: id.to_owned(),
            host: host.clone(),
            fresh: true,
        };
        self.with(|facts| {
            facts.note(name);
            facts.containers.insert(name.to_owned(), known)
        });
    }

    /// Whether it is new; it is not from now on.
    pub(crate) fn takes_its_first_start(&self, name: &str) -> bool {
        self.with(|facts| {
            facts.note(name);
            let known = facts.containers.get_mut(name);
            known.is_some_and(|known| std::mem::take(&mut known.fresh))
        })
    }

    pub(crate) fn renamed(&self, from: &str, to: &str) {
        self.with(|facts| {
            facts.note(from);
            facts.note(to);
            if let Some(known) = facts.containers.remove(from) {
                facts.containers.insert(to.to_owned(), known);
            }
        });
    }

    pub(crate) fn container(&self, name: &str) -> Option<KnownContainer> {
        self.with(|facts| facts.containers.get(name).cloned())
    }

    pub(crate) fn no_container(&self, name: &str) {
        self.with(|facts| {
            facts.note(name);
            facts.containers.remove(name)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_takes_one_first_start_under_whatever_name_it_has_then() {
        let known = Known::default();
        let ours = BTreeMap::from([(labels::HOST.to_owned(), "h".to_owned())]);
        known.created("a-next", "1", &ours);
        known.renamed("a-next", "a");
        assert!(known.container("a-next").is_none());
        assert!(known.takes_its_first_start("a"));
        assert!(!known.takes_its_first_start("a"));
        assert_eq!(known.container("a").unwrap().id, "1");
    }

    #[test]
    fn a_list_replaces_one_hosts_containers_and_no_others() {
        let known = Known::default();
        known.containers_are("h", 0, [("a", "1"), ("b", "2")].into_iter());
        known.containers_are("other", 0, [("c", "3")].into_iter());
        known.containers_are("h", 0, [("b", "4")].into_iter());
        assert!(known.container("a").is_none());
        assert_eq!(known.container("b").unwrap().id, "4");
        assert_eq!(known.container("c").unwrap().host, "other");
    }

    #[test]
    fn a_list_that_was_asked_for_before_a_change_does_not_undo_it() {
        let known = Known::default();
        let ours = BTreeMap::from([(labels::HOST.to_owned(), "h".to_owned())]);
        known.containers_are("h", 0, [("a", "1"), ("b", "2"), ("c", "3")].into_iter());
        let since = known.moment();
        known.no_container("a");
        known.created("a", "4", &ours);
        known.no_container("b");
        let list = || [("a", "1"), ("b", "2"), ("c", "3")].into_iter();
        known.containers_are("h", since, list());
        assert_eq!(known.container("a").unwrap().id, "4");
        assert!(known.container("b").is_none());
        assert_eq!(known.container("c").unwrap().id, "3");
        known.containers_are("h", known.moment(), list());
        assert_eq!(known.container("a").unwrap().id, "1", "a list that is newer");
    }

    /// A container without a host's label is nobody's: it is never joined as one of ours.
    #[test]
    fn what_carries_no_hosts_label_is_not_remembered() {
        let known = Known::default();
        known.created("a", "1", &BTreeMap::new());
        assert!(known.container("a").is_none());
    }
}
