//! A store that tells how long its commits take.

use std::sync::Arc;
use std::time::Instant;

use super::{Decision, Store, StoreError, Transaction, View};
use crate::metrics::Commits;

/// The store behind it, with a watch in hand.
#[derive(Debug)]
pub(super) struct Measured {
    store: Arc<dyn Store>,
    commits: Arc<Commits>,
}

impl Measured {
    pub(super) fn new(store: Arc<dyn Store>, commits: Arc<Commits>) -> Self {
        Self { store, commits }
    }
}

impl Store for Measured {
    fn view(&self) -> Result<Box<dyn View + '_>, StoreError> {
        self.store.view()
    }

    fn transact(&self, work: &mut dyn FnMut(&mut dyn Transaction) -> Decision) -> Result<(), StoreError> {
        let begun = Instant::now();
        let mut decided = None;
        let outcome = self.store.transact(&mut |transaction| {
            let decision = work(transaction);
            decided = Some(decision);
            decision
        });
        // What was given up was not to be kept, and one that did not begin was to be for all that is known.
        if decided != Some(Decision::Abort) || outcome.is_err() {
            self.commits.ended(begun.elapsed(), outcome.is_ok());
        }
        outcome
    }
}
