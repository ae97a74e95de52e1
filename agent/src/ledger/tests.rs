use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use decnet_docker::Fault;
use decnet_wire::bundle::{OperationKind, Stack};
use decnet_wire::ids::Digest;
use decnet_wire::report::Outcome;

use super::*;
use crate::testing::{Signer, document, hours, now, operation, stack};

mod outbox;
mod releases;

fn record(generation: u64) -> AcceptedRecord {
    AcceptedRecord {
        epoch: 1,
        generation,
        digest: Digest::from_sha256([u8::try_from(generation).unwrap(); 32]),
        signed_at: now(),
        expires_at: hours(now(), 24),
        accepted_at: now(),
    }
}

fn acceptance(generation: u64, stacks: Vec<Stack>) -> Acceptance {
    Acceptance {
        envelope: vec![1, 2, 3],
        record: record(generation),
        policy: None,
        wishes: crate::admit::wishes(&Signer::new().bundle(generation, stacks.clone())),
        stacks,
    }
}

async fn accept(ledger: &Ledger, generation: u64, stacks: Vec<Stack>) {
    let acceptance = acceptance(generation, stacks);
    ledger.write(move |tx| tx.accept(&acceptance)).await.unwrap();
}

struct File(tempfile::TempDir);

impl File {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("ledger.redb")
    }

    fn open(&self) -> Ledger {
        let opened = Ledger::open(&self.path(), now()).unwrap();
        assert_eq!(opened.set_aside, None);
        opened.ledger
    }
}

fn outcomes(ledger: &Ledger) -> Vec<String> {
    ledger
        .waiting_events()
        .unwrap()
        .into_iter()
        .map(|event| match event.body {
            EventBody::Operation {
                outcome: Outcome::Running,
                ..
            } => "running".to_owned(),
            EventBody::Operation {
                outcome: Outcome::Succeeded,
                ..
            } => "succeeded".to_owned(),
            EventBody::Operation {
                outcome: Outcome::Failed { error },
                ..
            } => format!("failed: {error}"),
            EventBody::Drift { decky, .. } => format!("drift {decky}"),
            EventBody::Refused { code, .. } => format!("refused {code}"),
        })
        .collect()
}

#[tokio::test]
async fn an_operation_runs_through_its_states_across_a_restart_after_every_commit() {
    let file = File::new();
    let deploy = operation(1, OperationKind::Deploy);
    let web = stack("web", document(5, &["ssh"]), Some(deploy));
    let state = |ledger: &Ledger| ledger.operations().unwrap()[&deploy.id].state;

    accept(&file.open(), 1, vec![web.clone()]).await;
    assert_eq!(state(&file.open()), OperationState::Open);
    file.open()
        .write(move |tx| tx.begin(now(), &[deploy.id]))
        .await
        .unwrap();
    // The same again, as after a kill in between: nothing is told twice.
    file.open()
        .write(move |tx| tx.begin(now(), &[deploy.id]))
        .await
        .unwrap();
    assert_eq!(state(&file.open()), OperationState::Running);
    assert_eq!(outcomes(&file.open()), ["running"]);

    for attempt in 1..=troubles::TRIES {
        let given_up = fail(&file.open(), &failed(deploy.id, "no image", Fault::Wish)).await;
        assert_eq!(given_up, attempt == troubles::TRIES);
    }
    let ledger = file.open();
    assert_eq!(state(&ledger), OperationState::Failed);
    let told = ["running", "failed: no image (quarantined after 3 tries)"];
    assert_eq!(outcomes(&ledger), told);
    // One more failure, as after a kill in between: nothing is told twice.
    assert!(fail(&ledger, &failed(deploy.id, "again", Fault::Ended)).await);
    assert_eq!(outcomes(&ledger), told);
    assert_eq!(state(&ledger), OperationState::Failed);
}

/// A try for `web`, which nothing ran of before.
fn failed(operation: OperationId, error: &str, fault: Fault) -> FailedTry {
    FailedTry {
        stack: "web".parse().unwrap(),
        decky: "web".parse().unwrap(),
        wish: Digest::from_sha256([1; 32]),
        generation: 1,
        operation: Some(operation),
        error: error.to_owned(),
        fault,
        may_quarantine: true,
    }
}

async fn fail(ledger: &Ledger, failed: &FailedTry) -> bool {
    let failed = failed.clone();
    ledger
        .write(move |tx| tx.try_failed(now(), &failed))
        .await
        .unwrap()
}

/// Tries `web` until its operation has failed, and says how often that was.
async fn tries_until_failed(fault: Fault, may_quarantine: bool) -> (u32, bool) {
    let file = File::new();
    let ledger = file.open();
    let deploy = operation(1, OperationKind::Deploy);
    accept(
        &ledger,
        1,
        vec![stack("web", document(5, &["ssh"]), Some(deploy))],
    )
    .await;
    let failed = FailedTry {
        may_quarantine,
        ..failed(deploy.id, "it broke", fault)
    };
    for tries in 1..100 {
        let given_up = fail(&ledger, &failed).await;
        if ledger.operations().unwrap()[&deploy.id].state == OperationState::Failed {
            for _ in 0..20 {
                fail(&ledger, &failed).await;
            }
            let trouble = &ledger.troubles().unwrap()[&failed.stack];
            assert_eq!(trouble.tries, tries + 20);
            assert_eq!(trouble.quarantined, given_up);
            assert_eq!(outcomes(&ledger).len(), 1, "told once");
            return (tries, given_up);
        }
    }
    panic!("it never failed");
}

#[tokio::test]
async fn only_what_fails_through_what_was_asked_is_given_up() {
    assert_eq!(tries_until_failed(Fault::Wish, true).await, (3, true));
    assert_eq!(tries_until_failed(Fault::Ended, true).await, (1, true));
    // Somebody who waits learns why; the tries go on.
    assert_eq!(tries_until_failed(Fault::Host, true).await, (3, false));
    assert_eq!(tries_until_failed(Fault::Passing, true).await, (6, false));
    // What ran before, and what is on its way out.
    assert_eq!(tries_until_failed(Fault::Wish, false).await, (3, false));
    assert_eq!(tries_until_failed(Fault::Ended, false).await, (1, false));
}

#[tokio::test]
async fn what_ends_by_itself_and_nobody_waits_for_has_its_tries_as_well() {
    let file = File::new();
    let quiet = FailedTry {
        operation: None,
        ..failed(operation(1, OperationKind::Deploy).id, "exited", Fault::Ended)
    };
    for tries in 1..=troubles::TRIES {
        // As often as the agent is restarted.
        assert_eq!(fail(&file.open(), &quiet).await, tries == troubles::TRIES);
    }
    let host = FailedTry {
        fault: Fault::Passing,
        stack: "mail".parse().unwrap(),
        ..quiet
    };
    for _ in 0..100 {
        assert!(!fail(&file.open(), &host).await);
    }
}

#[tokio::test]
async fn what_is_given_up_stays_so_until_something_else_is_asked_or_somebody_says_so() {
    let file = File::new();
    let ledger = file.open();
    let (first, second) = (
        operation(1, OperationKind::Deploy),
        operation(2, OperationKind::Deploy),
    );
    let web = |operation| stack("web", document(5, &["ssh"]), Some(operation));
    let wish = |ledger: &Ledger| {
        let troubles = ledger.troubles().unwrap();
        troubles.values().next().map(|trouble| trouble.wish.clone())
    };
    let give_up = async |operation: decnet_wire::bundle::Operation, stack| {
        let wishes = acceptance(0, vec![stack]).wishes;
        let failed = FailedTry {
            wish: wishes[&"web".parse().unwrap()].clone(),
            ..failed(operation.id, "exited", Fault::Ended)
        };
        assert!(fail(&ledger, &failed).await);
    };
    accept(&ledger, 1, vec![web(first)]).await;
    give_up(first, web(first)).await;
    // A renewal, and a neighbour.
    accept(&ledger, 2, vec![web(first)]).await;
    accept(
        &ledger,
        3,
        vec![web(first), stack("mail", document(6, &[]), None)],
    )
    .await;
    assert!(wish(&ledger).is_some());
    // Asked once more.
    accept(&ledger, 4, vec![web(second)]).await;
    assert_eq!(wish(&ledger), None);
    give_up(second, web(second)).await;
    let stacks = ["web".parse().unwrap()];
    ledger.write(move |tx| tx.forget_troubles(&stacks)).await.unwrap();
    assert_eq!(wish(&ledger), None);
    // It works in the end: that is told beside what was told before.
    let settled = Settled {
        stack: "web".parse().unwrap(),
        operation: Some(second.id),
        good: None,
        close_incident: false,
        close_trouble: true,
    };
    ledger
        .write(move |tx| tx.settle(now(), std::slice::from_ref(&settled)))
        .await
        .unwrap();
    assert_eq!(outcomes(&ledger).last().unwrap(), "succeeded");
}

#[tokio::test]
async fn an_operation_that_is_replaced_ends_without_an_event() {
    let file = File::new();
    let ledger = file.open();
    let (first, second) = (
        operation(1, OperationKind::Deploy),
        operation(2, OperationKind::Mutate),
    );
    accept(&ledger, 1, vec![stack("web", document(5, &[]), Some(first))]).await;
    ledger
        .write(move |tx| tx.begin(now(), &[first.id]))
        .await
        .unwrap();
    accept(
        &ledger,
        2,
        vec![stack("web", document(5, &["ssh"]), Some(second))],
    )
    .await;
    let operations = ledger.operations().unwrap();
    assert_eq!(operations[&first.id].state, OperationState::Superseded);
    assert_eq!(operations[&second.id].state, OperationState::Open);
    assert_eq!(outcomes(&ledger), ["running"]);
    // Forgotten once it is terminal and no bundle names it any more.
    accept(
        &ledger,
        3,
        vec![stack("web", document(5, &["ssh"]), Some(second))],
    )
    .await;
    assert!(!ledger.operations().unwrap().contains_key(&first.id));
}

#[tokio::test]
async fn a_sequence_number_is_given_out_once_whatever_was_acknowledged() {
    let file = File::new();
    let drift = |ledger: Ledger, number: usize| async move {
        let name = format!("d{number}");
        ledger
            .write(move |tx| tx.drift(now(), &name.parse().unwrap(), &name.parse().unwrap(), "gone"))
            .await
            .unwrap();
        let batch = ledger.outbox(10, usize::MAX).unwrap();
        (ledger, batch)
    };
    let (ledger, batch) = drift(file.open(), 1).await;
    let first = batch.events[0].seq;
    ledger
        .write(move |tx| tx.acknowledge(first, first))
        .await
        .unwrap();
    assert_eq!(ledger.outbox(10, usize::MAX).unwrap().waiting, 0);
    drop(ledger);
    let (ledger, batch) = drift(file.open(), 2).await;
    assert_eq!(batch.events.len(), 1);
    assert_eq!(batch.events[0].seq, first + 1);
    assert_eq!(batch.acked, first);
    // An acknowledgement of what was never sent forgets nothing; one of the past brings nothing back.
    ledger
        .write(move |tx| tx.acknowledge(u64::MAX, first))
        .await
        .unwrap();
    ledger
        .write(move |tx| tx.acknowledge(0, first + 1))
        .await
        .unwrap();
    assert_eq!(ledger.outbox(10, usize::MAX).unwrap().waiting, 1);
}

#[tokio::test]
async fn a_batch_holds_at_least_one_event_and_otherwise_keeps_its_bounds() {
    let file = File::new();
    let ledger = file.open();
    ledger
        .write(|tx| {
            (0..5).try_for_each(|_| {
                let detail = "x".repeat(1000);
                let body = EventBody::Drift {
                    decky: "web".parse().unwrap(),
                    detail,
                };
                tx.push_event(now(), body)
            })
        })
        .await
        .unwrap();
    assert_eq!(ledger.outbox(100, 1).unwrap().events.len(), 1);
    assert_eq!(ledger.outbox(2, usize::MAX).unwrap().events.len(), 2);
    let batch = ledger.outbox(100, 3500).unwrap();
    assert_eq!((batch.events.len(), batch.waiting), (3, 5));
}

#[tokio::test]
async fn drift_is_told_once_an_incident() {
    let file = File::new();
    let ledger = file.open();
    let name: StackName = "web".parse().unwrap();
    let again = |name: StackName| {
        ledger.write(move |tx| tx.drift(now(), &name, &"web".parse().unwrap(), "a container is gone"))
    };
    again(name.clone()).await.unwrap();
    again(name.clone()).await.unwrap();
    assert_eq!(outcomes(&ledger), ["drift web"]);
    let over = Settled {
        stack: name.clone(),
        operation: None,
        good: None,
        close_incident: true,
        close_trouble: false,
    };
    ledger
        .write(move |tx| tx.settle(now(), std::slice::from_ref(&over)))
        .await
        .unwrap();
    again(name).await.unwrap();
    assert_eq!(outcomes(&ledger), ["drift web", "drift web"]);
}

#[tokio::test]
async fn only_the_bundle_accepted_last_is_the_newest() {
    let file = File::new();
    let ledger = file.open();
    accept(&ledger, 1, Vec::new()).await;
    accept(&ledger, 2, Vec::new()).await;
    for (generation, newest) in [(1, false), (2, true)] {
        let digest = record(generation).digest;
        ledger
            .write(move |tx| {
                assert_eq!(tx.is_newest(&digest)?, newest);
                Ok(())
            })
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn the_journal_keeps_an_unfinished_step_and_only_the_newest() {
    let file = File::new();
    let entry = |index: usize| JournalEntry {
        number: 0,
        round: 1,
        index,
        stack: None,
        text: format!("step {index}"),
        step: serde_json::Value::Null,
        begun_at: now(),
        outcome: None,
    };
    let ledger = file.open();
    let first = ledger
        .write(move |tx| tx.journal_intent(&entry(0)))
        .await
        .unwrap();
    let second = ledger
        .write(move |tx| tx.journal_intent(&entry(1)))
        .await
        .unwrap();
    ledger
        .write(move |tx| tx.journal_outcome(second, now(), Some("refused".to_owned())))
        .await
        .unwrap();
    drop(ledger);
    let ledger = file.open();
    let newest = ledger.journal(10).unwrap();
    assert_eq!(
        newest.iter().map(|entry| entry.number).collect::<Vec<_>>(),
        [second, first]
    );
    assert_eq!(
        newest[0].outcome.as_ref().unwrap().error.as_deref(),
        Some("refused")
    );
    assert_eq!(newest[1].outcome, None);

    ledger
        .write(move |tx| (0..10_050).try_for_each(|index| tx.journal_intent(&entry(index)).map(drop)))
        .await
        .unwrap();
    let all = ledger.journal(usize::MAX).unwrap();
    assert_eq!((all.len(), all[0].index), (10_000, 10_049));
}

#[tokio::test]
async fn a_second_agent_does_not_get_the_ledger() {
    let file = File::new();
    let held = file.open();
    assert!(matches!(
        Ledger::open(&file.path(), now()),
        Err(LedgerError::Held { .. })
    ));
    drop(held);
    file.open();
}

// The master took the next events of a restored ledger for those that it had, and rows stayed open for ever.
#[tokio::test]
async fn an_older_copy_of_a_ledger_goes_on_after_what_the_master_has() {
    let file = File::new();
    let drift = async |ledger: &Ledger, name: &'static str| {
        ledger
            .write(move |tx| tx.drift(now(), &name.parse().unwrap(), &name.parse().unwrap(), "x"))
            .await
            .unwrap();
    };
    let numbers = |ledger: &Ledger| -> Vec<u64> {
        let events = ledger.waiting_events().unwrap();
        events.iter().map(|event| event.seq).collect()
    };
    drop(file.open());
    let copy = std::fs::read(file.path()).unwrap();
    let ledger = file.open();
    for name in ["a", "b", "c"] {
        drift(&ledger, name).await;
    }
    let known = numbers(&ledger);
    drop(ledger);

    // Nothing is forgotten: the master may have any part of what was given out before.
    let ledger = file.open();
    for acked in known.iter().copied() {
        let first = ledger.first_number();
        let changed = ledger.write(move |tx| tx.number_after(acked, first)).await;
        assert!(!changed.unwrap());
    }
    assert_eq!(numbers(&ledger), known);
    drop(ledger);

    std::fs::write(file.path(), copy).unwrap();
    let ledger = file.open();
    let first = ledger.first_number();
    for name in ["d", "e"] {
        drift(&ledger, name).await;
    }
    let acked = known[0];
    assert!(numbers(&ledger).contains(&acked), "a number is given out twice");
    assert!(
        ledger
            .write(move |tx| tx.number_after(acked, first))
            .await
            .unwrap()
    );
    assert_eq!(numbers(&ledger), [acked + 1, acked + 2]);
    assert_eq!(outcomes(&ledger), ["drift d", "drift e"]);
    drift(&ledger, "f").await;
    assert_eq!(numbers(&ledger).last(), Some(&(acked + 3)));
}

// redb panics over some damaged files; the agent ended, and ended again at every start.
#[tokio::test]
async fn a_ledger_with_changed_bytes_is_opened_or_set_aside_and_never_ends_the_agent() {
    let sound = File::new();
    accept(&sound.open(), 1, vec![stack("web", document(5, &["ssh"]), None)]).await;
    let bytes = std::fs::read(sound.path()).unwrap();
    for seed in 0..40 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut damaged = bytes.clone();
        for _ in 0..400 {
            let at = random.random_range(0..damaged.len());
            damaged[at] ^= random.random_range(1..=u8::MAX);
        }
        let file = File::new();
        std::fs::write(file.path(), &damaged).unwrap();
        let opened = Ledger::open(&file.path(), now()).unwrap();
        if let Some(aside) = opened.set_aside {
            assert!(aside.exists(), "seed {seed}");
            assert_eq!(
                outcomes(&opened.ledger),
                ["refused ledger-damaged"],
                "seed {seed}"
            );
        }
    }
}

#[tokio::test]
async fn a_damaged_ledger_is_set_aside_and_its_sequence_numbers_are_not_reused() {
    let file = File::new();
    let ledger = file.open();
    ledger
        .write(|tx| tx.drift(now(), &"a".parse().unwrap(), &"a".parse().unwrap(), "x"))
        .await
        .unwrap();
    let last = ledger.waiting_events().unwrap()[0].seq;
    drop(ledger);
    std::fs::write(file.path(), b"this was a ledger before the disk had its say").unwrap();
    let later = hours(now(), 1);
    let opened = Ledger::open(&file.path(), later).unwrap();
    let aside = opened.set_aside.expect("the damaged file is kept");
    assert!(aside.exists() && aside != file.path());
    let events = opened.ledger.waiting_events().unwrap();
    assert_eq!(outcomes(&opened.ledger), ["refused ledger-damaged"]);
    assert!(events[0].seq > last, "{} was given out before", events[0].seq);
}

#[tokio::test]
async fn a_bad_write_does_not_take_its_neighbours_with_it() {
    let file = File::new();
    let ledger = file.open();
    let good = ledger.write(|tx| tx.drift(now(), &"a".parse().unwrap(), &"a".parse().unwrap(), "x"));
    let bad = ledger.write(|_| Err::<(), _>(LedgerError::Closed));
    let also_good = ledger.write(|tx| tx.drift(now(), &"b".parse().unwrap(), &"b".parse().unwrap(), "x"));
    let (good, bad, also_good) = tokio::join!(good, bad, also_good);
    assert!(good.is_ok() && bad.is_err() && also_good.is_ok());
    assert_eq!(outcomes(&ledger), ["drift a", "drift b"]);
}
