//! Tries that failed, and what is given up because of them.
//!
//! A stack is quarantined when what is asked of it has failed too often by itself: no more tries are made for it, and
//! what ran before runs again. What passes, or lies with the host, is never given up: it is tried ever more rarely.
//! Either way its operation fails in time, so that whoever waits for it learns why.

use std::collections::BTreeMap;

use decnet_docker::Fault;
use decnet_wire::bundle::OperationKind;
use decnet_wire::ids::{Digest, StackName, Timestamp};
use decnet_wire::report::Outcome;

use super::LedgerError;
use super::records::{
    FailedTry, Incident, IncidentCause, OperationRecord, OperationState, Trouble, operation_key,
};
use super::tables::{INCIDENTS, OPERATIONS, TROUBLES, Tx};
use crate::error::one_line;

/// Tries that may fail through what was asked before it is given up, and its operation with it.
pub(crate) const TRIES: u32 = 3;
/// Tries that may fail for a cause that passes before the operation fails: with waits of 1, 2, 4, 8 and 16 seconds
/// between them a registry has half a minute to come back.
pub(crate) const PASSING_TRIES: u32 = 6;

impl Tx {
    /// Counts a try, and draws the consequences for its stack and its operation. True when it was given up.
    pub(crate) fn try_failed(&self, at: Timestamp, failed: &FailedTry) -> Result<bool, LedgerError> {
        let key = failed.stack.as_str();
        let known = self.get(&TROUBLES, key)?;
        let known = known.filter(|known| known.wish == failed.wish);
        let mut trouble = known.unwrap_or_else(|| Trouble {
            decky: failed.decky.clone(),
            wish: failed.wish.clone(),
            generation: failed.generation,
            tries: 0,
            counted: 0,
            reason: String::new(),
            since: at,
            last_try_at: at,
            quarantined: false,
        });
        let own = matches!(failed.fault, Fault::Wish | Fault::Ended);
        trouble.tries = trouble.tries.saturating_add(1);
        trouble.counted = trouble.counted.saturating_add(u32::from(own));
        trouble.reason.clone_from(&failed.error);
        trouble.last_try_at = at;

        let key_of_operation = failed.operation.map(operation_key);
        let operation = match &key_of_operation {
            Some(key) => self.get(&OPERATIONS, key)?,
            None => None,
        };
        // Somebody waits for an operation: what ended by itself once is not tried twice.
        let ended = failed.fault == Fault::Ended && operation.is_some();
        trouble.quarantined = failed.may_quarantine && own && (trouble.counted >= TRIES || ended);
        self.put(&TROUBLES, key, &trouble)?;
        if let Some(record) = operation {
            let last = match failed.fault {
                Fault::Passing => trouble.tries >= PASSING_TRIES,
                Fault::Host => trouble.tries >= TRIES,
                Fault::Wish | Fault::Ended => ended || trouble.counted >= TRIES,
            };
            self.count_attempt(at, failed, record, &trouble, last)?;
        }
        if trouble.quarantined {
            // What is done to go back is no drift.
            let incident = Incident {
                since: at,
                cause: IncidentCause::Fallback,
            };
            self.put(&INCIDENTS, key, &incident)?;
        }
        Ok(trouble.quarantined)
    }

    fn count_attempt(
        &self,
        at: Timestamp,
        failed: &FailedTry,
        mut record: OperationRecord,
        trouble: &Trouble,
        last: bool,
    ) -> Result<(), LedgerError> {
        let Some(id) = failed.operation else { return Ok(()) };
        if matches!(
            record.state,
            OperationState::Succeeded | OperationState::Superseded
        ) {
            return Ok(());
        }
        record.attempts = record.attempts.saturating_add(1);
        record.error = Some(failed.error.clone());
        self.put(&OPERATIONS, &operation_key(id), &record)?;
        if record.state.is_terminal() || !last {
            return Ok(());
        }
        let tries = match trouble.tries {
            1 => "1 try".to_owned(),
            tries => format!("{tries} tries"),
        };
        let outlook = if trouble.quarantined {
            format!("quarantined after {tries}")
        } else if record.kind == OperationKind::Teardown {
            format!("{tries} so far; the host goes on removing it")
        } else {
            format!("{tries} so far; the host goes on trying")
        };
        let error = one_line(&format!("{} ({outlook})", failed.error));
        self.transition(id, at, |_| {
            Some((OperationState::Failed, Outcome::Failed { error: error.clone() }))
        })
    }

    /// Forgets what kept going wrong with these stacks: they are tried again as if for the first time.
    pub(crate) fn forget_troubles(&self, stacks: &[StackName]) -> Result<(), LedgerError> {
        stacks
            .iter()
            .try_for_each(|stack| self.remove(&TROUBLES, stack.as_str()))
    }

    /// Forgets it where something else is asked by now.
    pub(super) fn keep_troubles_of(&self, wishes: &BTreeMap<StackName, Digest>) -> Result<(), LedgerError> {
        for (key, known) in self.named(&TROUBLES)? {
            let wish = key.parse().ok().and_then(|stack: StackName| wishes.get(&stack));
            if wish != Some(&known.wish) {
                self.remove(&TROUBLES, &key)?;
            }
        }
        Ok(())
    }
}
