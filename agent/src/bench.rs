//! What `examples/ledger_bench.rs` measures: the ledger as the agent writes it. In no program.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use decnet_wire::bundle::{Operation, OperationKind, Stack};
use decnet_wire::ids::{Digest, OperationId, Timestamp};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::ledger::{Acceptance, AcceptedRecord, JournalEntry, Ledger, LedgerError, Settled};

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// Changes that were answered.
    pub operations: u64,
    /// Commits that they took.
    pub commits: u64,
    pub elapsed: Duration,
}

fn now() -> Timestamp {
    Timestamp::new(OffsetDateTime::now_utc())
}

/// Takes `operations` operations from open to succeeded, `at_once` of them at any time, each with a journaled step:
/// four changes an operation, each answered after its commit is on the disk.
///
/// # Errors
/// The ledger cannot be made, or written.
pub async fn operations(path: &Path, operations: u128, at_once: usize) -> Result<Figures, LedgerError> {
    let ledger = Arc::new(Ledger::open(path, now())?.ledger);
    let operation = |number| Operation {
        id: OperationId::new(Uuid::from_u128(number)),
        kind: OperationKind::Deploy,
        traceparent: None,
    };
    let stacks: Vec<Stack> = (0..operations)
        .filter_map(|number| {
            Some(Stack {
                name: format!("s{number}").parse().ok()?,
                decky: format!("s{number}").parse().ok()?,
                compose: serde_json::json!({"services": {}}).into(),
                operation: Some(operation(number)),
            })
        })
        .collect();
    let acceptance = Acceptance {
        envelope: Vec::new(),
        record: AcceptedRecord {
            epoch: 1,
            generation: 1,
            digest: Digest::from_sha256([1; 32]),
            signed_at: now(),
            expires_at: now(),
            accepted_at: now(),
        },
        stacks: stacks.clone(),
        policy: None,
        wishes: std::collections::BTreeMap::new(),
    };
    ledger.write(move |tx| tx.accept(&acceptance)).await?;

    let before = ledger.commits();
    let begun = Instant::now();
    let turns = Arc::new(tokio::sync::Semaphore::new(at_once));
    let mut tasks = tokio::task::JoinSet::new();
    for (stack, number) in stacks.into_iter().zip(0..) {
        let (ledger, turns) = (Arc::clone(&ledger), Arc::clone(&turns));
        let id = operation(number).id;
        tasks.spawn(async move {
            let Ok(_turn) = turns.acquire().await else {
                return Err(LedgerError::Closed);
            };
            ledger.write(move |tx| tx.begin(now(), &[id])).await?;
            let entry = JournalEntry {
                number: 0,
                round: 1,
                index: 0,
                stack: Some(stack.name.clone()),
                text: format!("start container {}", stack.name),
                step: serde_json::json!({"start": stack.name}),
                begun_at: now(),
                outcome: None,
            };
            let step = ledger.write(move |tx| tx.journal_intent(&entry)).await?;
            ledger
                .write(move |tx| tx.journal_outcome(step, now(), None))
                .await?;
            let settled = Settled {
                stack: stack.name,
                operation: Some(id),
                good: None,
                close_incident: false,
                close_trouble: false,
            };
            ledger
                .write(move |tx| tx.settle(now(), std::slice::from_ref(&settled)))
                .await
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(|_| LedgerError::Closed)??;
    }
    Ok(Figures {
        operations: u64::try_from(operations * 4).unwrap_or(u64::MAX),
        commits: ledger.commits() - before,
        elapsed: begun.elapsed(),
    })
}
