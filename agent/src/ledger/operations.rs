//! Operations and what they leave behind. Each transition and its event are one commit.

use std::collections::{BTreeMap, BTreeSet};

use decnet_plan::desired::Leases;
use decnet_wire::ids::{DeckyName, Digest, OperationId, StackName, Timestamp};
use decnet_wire::report::{EventBody, Outcome};

use super::LedgerError;
use super::records::{
    Acceptance, AcceptedRecord, Incident, IncidentCause, LastGood, OperationRecord, OperationState,
    OrderRecord, PolicyRecord, RefusalRecord, Trouble, operation_key,
};
use super::tables::{
    ACCEPTED, HELD, INCIDENTS, LAST_GOOD, LEASES, OF_BUNDLE, ONLY, OPERATIONS, ORDERS, POLICIES, REFUSALS,
    Snapshot, TROUBLES, Tx,
};

/// Refusals that are remembered.
const REFUSALS_KEPT: usize = 256;

/// A stack with nothing left to do.
#[derive(Debug, Clone)]
pub(crate) struct Settled {
    pub(crate) stack: StackName,
    /// The operation that this completes, if one is open.
    pub(crate) operation: Option<OperationId>,
    /// The document that runs now; none for a stack that was taken away.
    pub(crate) good: Option<LastGood>,
    /// Whether what brought the stack back is over.
    pub(crate) close_incident: bool,
    /// Whether what kept going wrong is over.
    pub(crate) close_trouble: bool,
}

impl Snapshot {
    pub(super) fn accepted(&self) -> Result<Option<AcceptedRecord>, LedgerError> {
        self.only(&ACCEPTED)
    }

    pub(super) fn policy(&self) -> Result<Option<PolicyRecord>, LedgerError> {
        self.keyed(&POLICIES, HELD)
    }

    pub(super) fn bundle_policy(&self) -> Result<Option<PolicyRecord>, LedgerError> {
        self.keyed(&POLICIES, OF_BUNDLE)
    }

    pub(super) fn order(&self) -> Result<Option<OrderRecord>, LedgerError> {
        self.only(&ORDERS)
    }

    pub(super) fn refusals(&self) -> Result<Vec<RefusalRecord>, LedgerError> {
        Ok(self.only(&REFUSALS)?.unwrap_or_default())
    }

    pub(super) fn operations(&self) -> Result<BTreeMap<OperationId, OperationRecord>, LedgerError> {
        Ok(by_parsed_key(self.named(&OPERATIONS)?))
    }

    pub(super) fn last_good(&self) -> Result<BTreeMap<StackName, LastGood>, LedgerError> {
        Ok(by_parsed_key(self.named(&LAST_GOOD)?))
    }

    pub(super) fn leases(&self) -> Result<Leases, LedgerError> {
        Ok(self.only(&LEASES)?.unwrap_or_default())
    }

    pub(super) fn troubles(&self) -> Result<BTreeMap<StackName, Trouble>, LedgerError> {
        Ok(by_parsed_key(self.named(&TROUBLES)?))
    }

    pub(super) fn incidents(&self) -> Result<BTreeMap<StackName, Incident>, LedgerError> {
        Ok(by_parsed_key(self.named(&INCIDENTS)?))
    }
}

fn by_parsed_key<K: std::str::FromStr + Ord, T>(rows: Vec<(String, T)>) -> BTreeMap<K, T> {
    // Keys are written from the same type: one that does not parse was never one of ours.
    rows.into_iter()
        .filter_map(|(key, record)| Some((key.parse().ok()?, record)))
        .collect()
}

impl Tx {
    /// Takes over an admitted bundle: its envelope, its numbers and the operations that it names.
    pub(crate) fn accept(&self, acceptance: &Acceptance) -> Result<(), LedgerError> {
        let record = &acceptance.record;
        let at = record.accepted_at;
        self.put_envelope(&acceptance.envelope)?;
        self.put(&ACCEPTED, ONLY, record)?;
        match &acceptance.policy {
            Some(policy) => self.put(&POLICIES, OF_BUNDLE, policy)?,
            None => self.remove(&POLICIES, OF_BUNDLE)?,
        }

        let named: BTreeSet<OperationId> = acceptance
            .stacks
            .iter()
            .filter_map(|stack| stack.operation.map(|operation| operation.id))
            .collect();
        for (key, mut known) in self.named(&OPERATIONS)? {
            if key.parse().is_ok_and(|id| named.contains(&id)) {
                continue;
            }
            if known.state.is_terminal() {
                self.remove(&OPERATIONS, &key)?;
            } else {
                known.state = OperationState::Superseded;
                known.changed_at = at;
                self.put(&OPERATIONS, &key, &known)?;
            }
        }
        for stack in &acceptance.stacks {
            let Some(operation) = stack.operation else {
                continue;
            };
            let key = operation_key(operation.id);
            if self.get(&OPERATIONS, &key)?.is_none() {
                let record = OperationRecord {
                    stack: stack.name.clone(),
                    decky: stack.decky.clone(),
                    kind: operation.kind,
                    state: OperationState::Open,
                    attempts: 0,
                    error: None,
                    opened_at: at,
                    changed_at: at,
                };
                self.put(&OPERATIONS, &key, &record)?;
            }
        }

        let stacks: BTreeSet<&str> = acceptance
            .stacks
            .iter()
            .map(|stack| stack.name.as_str())
            .collect();
        for (key, _) in self.named(&LAST_GOOD)? {
            if !stacks.contains(key.as_str()) {
                self.remove(&LAST_GOOD, &key)?;
            }
        }
        for (key, _) in self.named(&INCIDENTS)? {
            if !stacks.contains(key.as_str()) {
                self.remove(&INCIDENTS, &key)?;
            }
        }
        self.keep_troubles_of(&acceptance.wishes)
    }

    /// Holds new bundles to this policy from now on.
    pub(crate) fn hold(&self, policy: &PolicyRecord) -> Result<(), LedgerError> {
        self.put(&POLICIES, HELD, policy)
    }

    /// Nothing is done from now on but to leave.
    pub(crate) fn obey(&self, order: &OrderRecord) -> Result<(), LedgerError> {
        self.put(&ORDERS, ONLY, order)
    }

    /// Remembers which addresses containers have.
    pub(crate) fn lease(&self, leases: &Leases) -> Result<(), LedgerError> {
        self.put(&LEASES, ONLY, leases)
    }

    /// Remembers a refusal; reports it unless the same bundle was refused for the same reason before.
    pub(crate) fn refuse(
        &self,
        at: Timestamp,
        refusal: &RefusalRecord,
        detail: &str,
        generation: Option<u64>,
    ) -> Result<(), LedgerError> {
        let mut known = self.get(&REFUSALS, ONLY)?.unwrap_or_default();
        let same = |other: &RefusalRecord| other.digest == refusal.digest && other.code == refusal.code;
        if known
            .iter()
            .any(|other| same(other) && other.stands >= refusal.stands)
        {
            return Ok(());
        }
        let reported = known.iter().any(same);
        known.retain(|other| !same(other));
        known.push(refusal.clone());
        let surplus = known.len().saturating_sub(REFUSALS_KEPT);
        known.drain(..surplus);
        self.put(&REFUSALS, ONLY, &known)?;
        if !reported {
            let body = EventBody::Refused {
                code: refusal.code.clone(),
                detail: detail.to_owned(),
                generation,
            };
            self.push_event(at, body)?;
        }
        Ok(())
    }

    /// `open → running`, for those that are open.
    pub(crate) fn begin(&self, at: Timestamp, ids: &[OperationId]) -> Result<(), LedgerError> {
        for id in ids {
            self.transition(*id, at, |record| {
                (record.state == OperationState::Open).then_some((OperationState::Running, Outcome::Running))
            })?;
        }
        Ok(())
    }

    /// Nothing is left to do for these stacks: their documents are good, their operations succeeded.
    pub(crate) fn settle(&self, at: Timestamp, settled: &[Settled]) -> Result<(), LedgerError> {
        for Settled {
            stack,
            operation,
            good,
            close_incident,
            close_trouble,
        } in settled
        {
            if let Some(id) = operation {
                self.transition(*id, at, |record| {
                    let to = (OperationState::Succeeded, Outcome::Succeeded);
                    // What failed and was tried again has worked in the end.
                    let may = !record.state.is_terminal() || record.state == OperationState::Failed;
                    may.then_some(to)
                })?;
            }
            match good {
                Some(good) => self.put(&LAST_GOOD, stack.as_str(), good)?,
                None => self.remove(&LAST_GOOD, stack.as_str())?,
            }
            if *close_incident {
                self.remove(&INCIDENTS, stack.as_str())?;
            }
            if *close_trouble {
                self.remove(&TROUBLES, stack.as_str())?;
            }
        }
        Ok(())
    }

    /// Whether this bundle is still the one accepted last. What was seen by the light of an earlier one says nothing
    /// about what is asked now.
    pub(crate) fn is_newest(&self, bundle: &Digest) -> Result<bool, LedgerError> {
        let accepted = self.get(&ACCEPTED, ONLY)?;
        Ok(accepted.is_some_and(|accepted| accepted.digest == *bundle))
    }

    /// A stack left the desired state by itself: reported once, until the incident is closed.
    pub(crate) fn drift(
        &self,
        at: Timestamp,
        stack: &StackName,
        decky: &DeckyName,
        detail: &str,
    ) -> Result<(), LedgerError> {
        if self.get(&INCIDENTS, stack.as_str())?.is_some() {
            return Ok(());
        }
        self.put(
            &INCIDENTS,
            stack.as_str(),
            &Incident {
                since: at,
                cause: IncidentCause::Drift,
            },
        )?;
        self.push_event(
            at,
            EventBody::Drift {
                decky: decky.clone(),
                detail: detail.to_owned(),
            },
        )
    }

    /// Changes an operation's state and queues the event that says so, or does neither.
    pub(super) fn transition(
        &self,
        id: OperationId,
        at: Timestamp,
        decide: impl FnOnce(&OperationRecord) -> Option<(OperationState, Outcome)>,
    ) -> Result<(), LedgerError> {
        let key = operation_key(id);
        let Some(mut record) = self.get(&OPERATIONS, &key)? else {
            return Ok(());
        };
        let Some((state, outcome)) = decide(&record) else {
            return Ok(());
        };
        record.state = state;
        record.changed_at = at;
        self.put(&OPERATIONS, &key, &record)?;
        self.push_event(
            at,
            EventBody::Operation {
                id,
                decky: record.decky.clone(),
                kind: record.kind,
                outcome,
            },
        )
    }
}

/// The digest of a refused body that has no payload to speak of.
pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_sha256(*decnet_pki::digest::Sha256Digest::of(bytes).as_bytes())
}
